//! People who log in: name and password for a session, which is a token in memory until it ends.
//!
//! Invariants: a password is never kept; of a session only its token's bytes are, in this process. Two passwords at most are hashed at a time, and one
//! that was wrong too often waits: guessing is slow, and costs the plant's data nothing.

use argon2::{Argon2, PasswordHash, PasswordVerifier};
use std::collections::HashMap;
use std::io::Read;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What somebody may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    Viewer,
    Operator,
    Admin,
}

impl Role {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// A person who may log in.
#[derive(Clone)]
pub struct User {
    pub name: String,
    /// `$argon2id$..`
    pub hash: String,
    pub role: Role,
}

/// A session ends after a shift, or when the runtime does.
const SESSION: Duration = Duration::from_secs(10 * 3600);
const SESSIONS_MAX: usize = 1000;
/// Wrong passwords from one address, before it has to wait for the next minute.
const WRONG_MAX: u32 = 5;
const WRONG_WITHIN: Duration = Duration::from_secs(60);
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 10_000;
/// Longer ones are not looked at.
const PASSWORD_MAX: usize = 1024;

/// Who is logged in, and who failed to.
pub struct Logins {
    sessions: Mutex<HashMap<String, Session>>,
    wrong: Mutex<HashMap<IpAddr, (u32, Instant)>>,
    hashing: Semaphore,
}

struct Session {
    name: String,
    role: Role,
    until: Instant,
}

/// Why a login failed.
#[derive(Debug, PartialEq, Eq)]
pub enum LoginError {
    /// Name or password.
    Wrong,
    /// Too many wrong ones from there.
    Wait,
}

impl Default for Logins {
    fn default() -> Self {
        Self { sessions: Mutex::default(), wrong: Mutex::default(), hashing: Semaphore::new(2) }
    }
}

impl Logins {
    /// Opens a session. Its token: 64 hexadecimal digits.
    pub async fn login(&self, users: &[User], from: IpAddr, name: &str, password: String) -> Result<(String, Role), LoginError> {
        if self.has_to_wait(from) {
            return Err(LoginError::Wait);
        }
        let user = users.iter().find(|user| user.name == name);
        // A name that is not known takes as long as one that is.
        let hash = user.or(users.first()).map(|user| user.hash.clone()).unwrap_or_default();
        let is_right = {
            let _permit = self.hashing.acquire().await;
            let check = move || {
                let parsed = PasswordHash::new(&hash).ok()?;
                let fits = password.len() <= PASSWORD_MAX && Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok();
                Some(fits)
            };
            tokio::task::spawn_blocking(check).await.ok().flatten().unwrap_or(false)
        };
        match user.filter(|_| is_right) {
            Some(user) => {
                self.wrong.lock().unwrap_or_else(PoisonError::into_inner).remove(&from);
                Ok((self.open(user), user.role))
            }
            None => {
                self.was_wrong(from);
                Err(LoginError::Wrong)
            }
        }
    }

    fn open(&self, user: &User) -> String {
        let bytes: [u8; 32] = chance();
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        sessions.retain(|_, session| session.until > now);
        if sessions.len() >= SESSIONS_MAX
            && let Some(oldest) = sessions.iter().min_by_key(|(_, session)| session.until).map(|(token, _)| token.clone())
        {
            sessions.remove(&oldest);
        }
        sessions.insert(token.clone(), Session { name: user.name.clone(), role: user.role, until: now + SESSION });
        token
    }

    /// Whose session a token is.
    pub fn who(&self, token: &str) -> Option<(String, Role)> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get(token).filter(|session| session.until > Instant::now())?;
        Some((session.name.clone(), session.role))
    }

    pub fn logout(&self, token: &str) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
    }

    fn has_to_wait(&self, from: IpAddr) -> bool {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.get(&from).is_some_and(|(count, since)| *count >= WRONG_MAX && since.elapsed() < WRONG_WITHIN)
    }

    fn was_wrong(&self, from: IpAddr) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() >= ADDRESSES_MAX {
            wrong.retain(|_, (_, since)| since.elapsed() < WRONG_WITHIN);
        }
        let entry = wrong.entry(from).or_insert((0, Instant::now()));
        if entry.1.elapsed() >= WRONG_WITHIN {
            *entry = (0, Instant::now());
        }
        entry.0 += 1;
    }
}

/// Bytes that nobody can guess.
pub fn chance<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    // A system without it can't keep a secret at all.
    read.expect("/dev/urandom can be read");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::{Params, PasswordHasher, password_hash::SaltString};

    fn users() -> Vec<User> {
        // As cheap as it gets: what a hash costs is said in the hash.
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        let salt = SaltString::from_b64("c2FsdHNhbHQ").unwrap();
        let hash = argon2.hash_password(b"s3cret", &salt).unwrap().to_string();
        vec![User { name: "anna".into(), hash, role: Role::Operator }]
    }

    #[tokio::test]
    async fn a_right_password_opens_a_session_and_wrong_ones_have_to_wait() {
        let (logins, users) = (Logins::default(), users());
        let [here, there]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let (token, role) = logins.login(&users, here, "anna", "s3cret".into()).await.unwrap();
        assert_eq!((token.len(), role), (64, Role::Operator));
        assert_eq!(logins.who(&token), Some(("anna".to_owned(), Role::Operator)));
        for (name, password) in [("anna", "wrong"), ("anna", ""), ("otto", "s3cret"), ("", "s3cret"), ("anna", "S3cret")] {
            assert_eq!(logins.login(&users, here, name, password.into()).await, Err(LoginError::Wrong));
        }
        assert_eq!(logins.login(&users, here, "anna", "s3cret".into()).await, Err(LoginError::Wait));
        assert!(logins.login(&users, there, "anna", "s3cret".into()).await.is_ok(), "others need not wait");
        logins.logout(&token);
        assert_eq!(logins.who(&token), None);
    }
}
