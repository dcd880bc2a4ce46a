//! A login, step by step: mechanisms, and what a client has proved so far. Messages in, messages out.

use kafka_protocol::messages::ApiKey;

use crate::net::scram::{Challenge, First, Hash};
use crate::net::security::Guard;

pub const MECHANISMS: [(&str, Mechanism); 3] =
    [("PLAIN", Mechanism::Plain), ("SCRAM-SHA-256", Mechanism::Scram(Hash::Sha256)), ("SCRAM-SHA-512", Mechanism::Scram(Hash::Sha512))];

#[derive(Clone, Copy)]
pub enum Mechanism {
    Plain,
    Scram(Hash),
}

/// How far a client has come.
#[derive(Default)]
pub enum Login {
    #[default]
    Nobody,
    Begun(Begun),
    /// The user's name, with a challenge that waits for its proof.
    Challenged(String, Box<Challenge>),
    Known,
}

/// A mechanism that was agreed upon.
pub struct Begun(pub Mechanism);

impl Login {
    pub fn is_known(&self) -> bool {
        matches!(self, Self::Known)
    }

    /// Whether a request is answered at this point.
    pub fn allows(&self, key: ApiKey) -> bool {
        matches!(self, Self::Known) || matches!(key, ApiKey::ApiVersions | ApiKey::SaslHandshake | ApiKey::SaslAuthenticate)
    }
}

/// One message of a login and its answer; `None`: it failed, and begins anew.
pub fn step(guard: &Guard, login: &mut Login, message: &[u8]) -> Option<String> {
    let answer = match std::mem::take(login) {
        Login::Begun(Begun(Mechanism::Plain)) => {
            let right = plain(message).is_some_and(|(user, password)| guard.users.get(user).is_some_and(|known| known.is(password)));
            right.then(|| (Login::Known, String::new()))
        }
        Login::Begun(Begun(Mechanism::Scram(hash))) => First::read(message).and_then(|first| {
            let user = first.user.clone();
            let challenge = Challenge::new(hash, first, guard.users.get(&user)?);
            let text = challenge.message().to_owned();
            Some((Login::Challenged(user, Box::new(challenge)), text))
        }),
        Login::Challenged(user, challenge) => {
            guard.users.get(&user).and_then(|known| challenge.verify(message, known)).map(|text| (Login::Known, text))
        }
        Login::Nobody | Login::Known => None,
    };
    let (next, text) = answer?;
    *login = next;
    Some(text)
}

/// User and password of PLAIN: an identity to act as (not supported beside the user's own), the user, the password.
fn plain(message: &[u8]) -> Option<(&str, &str)> {
    let mut parts = std::str::from_utf8(message).ok()?.split('\0');
    let (acts_as, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    let own = acts_as.is_empty() || acts_as == user;
    (own && parts.next().is_none()).then_some((user, password))
}
