//! SCRAM's server side, and the comparing of passwords for PLAIN. Messages in, messages out; no sockets.
//!
//! Source: RFC 5802, section 3 and 5; RFC 7677 for SHA-256. Kafka adds SHA-512 in the same manner.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SecureRandom;
use ring::{digest, hmac, pbkdf2};

/// As Kafka's own default.
const ITERATIONS: u32 = 4_096;
const SALT: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn sign(self, key: &[u8], message: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(self.hmac(), key), message)
    }
}

/// What a server keeps of a password for one hash.
struct Keys {
    salt: [u8; SALT],
    stored: Vec<u8>,
    server: Vec<u8>,
}

impl Keys {
    fn new(hash: Hash, password: &str, salt: [u8; SALT]) -> Self {
        let algorithm = match hash {
            Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Hash::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        };
        let mut salted = vec![0; hash.digest().output_len()];
        let iterations = std::num::NonZeroU32::new(ITERATIONS).expect("a positive constant");
        pbkdf2::derive(algorithm, iterations, &salt, password.as_bytes(), &mut salted);
        let client = hash.sign(&salted, b"Client Key");
        let stored = digest::digest(hash.digest(), client.as_ref()).as_ref().to_vec();
        Self { salt, stored, server: hash.sign(&salted, b"Server Key").as_ref().to_vec() }
    }
}

/// What a server keeps of a user's password.
pub struct Credentials {
    sha256: Keys,
    sha512: Keys,
}

impl Credentials {
    pub fn new(password: &str) -> Self {
        Self { sha256: Keys::new(Hash::Sha256, password, random()), sha512: Keys::new(Hash::Sha512, password, random()) }
    }

    /// Whether a password that was sent in the clear is the right one.
    pub fn is(&self, password: &str) -> bool {
        let keys = &self.sha256;
        let given = Keys::new(Hash::Sha256, password, keys.salt);
        // Signed with a key of the moment, so that how long it takes says nothing about how much fits.
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>());
        hmac::verify(&key, &given.stored, hmac::sign(&key, &keys.stored).as_ref()).is_ok()
    }

    fn keys(&self, hash: Hash) -> &Keys {
        match hash {
            Hash::Sha256 => &self.sha256,
            Hash::Sha512 => &self.sha512,
        }
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new().fill(&mut bytes).expect("the operating system has random numbers");
    bytes
}

/// What a client's first message says.
pub struct First {
    pub user: String,
    bare: String,
    nonce: String,
    header: String,
}

impl First {
    /// Reads `n,,n=user,r=nonce`; channel binding is not offered.
    pub fn read(message: &[u8]) -> Option<Self> {
        let message = std::str::from_utf8(message).ok()?;
        let bare = message.strip_prefix("n,").or_else(|| message.strip_prefix("y,"))?;
        let (authzid, bare) = bare.split_once(',')?;
        let user = bare.strip_prefix("n=")?.split(',').next()?;
        let nonce = bare.split(',').find_map(|part| part.strip_prefix("r="))?;
        let header = format!("{},{authzid},", &message[..1]);
        let user = user.replace("=2C", ",").replace("=3D", "=");
        (!nonce.is_empty()).then(|| Self { user, bare: bare.to_owned(), nonce: nonce.to_owned(), header })
    }
}

/// A login between its two messages.
pub struct Challenge {
    hash: Hash,
    first: First,
    /// The server's part of the nonce.
    own: String,
    server_first: String,
}

impl Challenge {
    /// What the server answers a first message.
    pub fn new(hash: Hash, first: First, credentials: &Credentials) -> Self {
        Self::with_nonce(hash, first, credentials, &BASE64.encode(random::<18>()))
    }

    fn with_nonce(hash: Hash, first: First, credentials: &Credentials, own: &str) -> Self {
        let salt = BASE64.encode(credentials.keys(hash).salt);
        let server_first = format!("r={}{own},s={salt},i={ITERATIONS}", first.nonce);
        Self { hash, first, own: own.to_owned(), server_first }
    }

    pub fn message(&self) -> &str {
        &self.server_first
    }

    /// The server's last message if the client has proved that it knows the password.
    pub fn verify(&self, last: &[u8], credentials: &Credentials) -> Option<String> {
        let last = std::str::from_utf8(last).ok()?;
        let (without_proof, proof) = last.rsplit_once(",p=")?;
        let part = |name: &str| without_proof.split(',').find_map(|part| part.strip_prefix(name));
        // As Kafka: librdkafka before 2.6.1 writes its own part twice. The proof covers all of it.
        if !part("r=")?.ends_with(&self.own) || BASE64.decode(part("c=")?).ok()? != self.first.header.as_bytes() {
            return None;
        }
        let keys = credentials.keys(self.hash);
        let message = format!("{},{},{without_proof}", self.first.bare, self.server_first);
        let signature = self.hash.sign(&keys.stored, message.as_bytes());
        let proof = BASE64.decode(proof).ok().filter(|proof| proof.len() == signature.as_ref().len())?;
        let client: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        if digest::digest(self.hash.digest(), &client).as_ref() != keys.stored {
            return None;
        }
        Some(format!("v={}", BASE64.encode(self.hash.sign(&keys.server, message.as_bytes()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3.
    #[test]
    fn the_conversation_of_the_rfc_comes_out_as_written() {
        let salt: [u8; SALT] = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
        let keys = |hash| Keys::new(hash, "pencil", salt);
        let credentials = Credentials { sha256: keys(Hash::Sha256), sha512: keys(Hash::Sha512) };
        let first = First::read(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!(first.user, "user");
        let challenge = Challenge::with_nonce(Hash::Sha256, first, &credentials, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
        assert_eq!(challenge.message(), "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(challenge.verify(last.as_bytes(), &credentials).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        // Any other proof, nonce or header is refused.
        for (from, to) in [("p=dHz", "p=dHa"), ("r=rOp", "r=rOq"), ("c=biws", "c=eSws")] {
            assert_eq!(challenge.verify(last.replace(from, to).as_bytes(), &credentials), None, "{to}");
        }
        assert!(credentials.is("pencil") && !credentials.is("Pencil"));
    }

    #[test]
    fn what_is_no_first_message_is_refused() {
        for message in ["", "n", "n,,", "n,,n=user", "n,,n=user,r=", "p=tls,,n=user,r=x", "n,,r=x,n=user"] {
            assert!(First::read(message.as_bytes()).is_none(), "{message}");
        }
    }
}
