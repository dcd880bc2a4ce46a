//! SCRAM's client side: messages in, messages out; no sockets. Source: RFC 5802, sections 3 and 5; RFC 7677.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SecureRandom;
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;

/// More would keep this machine busy, not the one who guesses; a broker that asks for it is not believed.
const MOST_ITERATIONS: u32 = 1_000_000;

/// Which of the two mechanisms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    pub const fn mechanism(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        }
    }

    fn algorithms(self) -> (hmac::Algorithm, &'static digest::Algorithm, pbkdf2::Algorithm) {
        match self {
            Self::Sha256 => (hmac::HMAC_SHA256, &digest::SHA256, pbkdf2::PBKDF2_HMAC_SHA256),
            Self::Sha512 => (hmac::HMAC_SHA512, &digest::SHA512, pbkdf2::PBKDF2_HMAC_SHA512),
        }
    }
}

/// A login, between its messages.
pub struct Login<'a> {
    hash: Hash,
    password: &'a str,
    bare: String,
    /// What the broker must show at the end, to be the one that knows the password.
    expected: Option<String>,
}

impl<'a> Login<'a> {
    /// A login, and its first message; `None`: there are no random numbers.
    pub fn begin(hash: Hash, user: &str, password: &'a str) -> Option<(Self, String)> {
        let mut random = [0; 18];
        ring::rand::SystemRandom::new().fill(&mut random).ok()?;
        Some(Self::with_nonce(hash, user, password, &BASE64.encode(random)))
    }

    fn with_nonce(hash: Hash, user: &str, password: &'a str, nonce: &str) -> (Self, String) {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let bare = format!("n={user},r={nonce}");
        let first = format!("n,,{bare}");
        (Self { hash, password, bare, expected: None }, first)
    }

    /// Answers the broker's first message; `None`: it is none.
    pub fn answer(&mut self, server_first: &[u8]) -> Option<String> {
        let server_first = std::str::from_utf8(server_first).ok()?;
        let part = |name: &str| server_first.split(',').find_map(|part| part.strip_prefix(name));
        let own = self.bare.rsplit_once("r=")?.1;
        let nonce = part("r=").filter(|nonce| nonce.len() > own.len() && nonce.starts_with(own))?;
        let salt = BASE64.decode(part("s=")?).ok()?;
        let iterations = part("i=")?.parse::<u32>().ok().filter(|count| *count <= MOST_ITERATIONS).and_then(NonZeroU32::new)?;
        let (hmac, digest, pbkdf2) = self.hash.algorithms();
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac, key), text);
        let mut salted = vec![0; digest.output_len()];
        pbkdf2::derive(pbkdf2, iterations, &salt, self.password.as_bytes(), &mut salted);
        let client = sign(&salted, b"Client Key");
        let stored = digest::digest(digest, client.as_ref());
        let without_proof = format!("c=biws,r={nonce}");
        let all = format!("{},{server_first},{without_proof}", self.bare);
        let signature = sign(stored.as_ref(), all.as_bytes());
        let proof: Vec<u8> = client.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server = sign(&salted, b"Server Key");
        self.expected = Some(format!("v={}", BASE64.encode(sign(server.as_ref(), all.as_bytes()))));
        Some(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    /// Whether the broker's last message shows that it knows the password, too.
    pub fn is_theirs(&self, last: &[u8]) -> bool {
        self.expected.as_ref().is_some_and(|expected| last.split(|byte| *byte == b',').next() == Some(expected.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3.
    #[test]
    fn the_conversation_of_the_rfc_comes_out_as_written() {
        let (mut login, first) = Login::with_nonce(Hash::Sha256, "user", "pencil", "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(first, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server_first = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(login.answer(server_first).unwrap(), last);
        assert!(login.is_theirs(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!login.is_theirs(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="));
    }

    #[test]
    fn a_broker_that_asks_for_too_much_or_answers_another_is_not_believed() {
        for wrong in ["r=other,s=AAAA,i=4096", "r=me,s=AAAA,i=4096", "r=mex,s=AAAA,i=0", "r=mex,s=AAAA,i=4000000000", "r=mex,s=!,i=1", ""] {
            let (mut login, _) = Login::with_nonce(Hash::Sha512, "u", "p", "me");
            assert_eq!(login.answer(wrong.as_bytes()), None, "{wrong}");
            assert!(!login.is_theirs(b"v="));
        }
    }
}
