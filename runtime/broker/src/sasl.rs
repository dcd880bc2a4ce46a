//! SaslHandshake and SaslAuthenticate: who a client is. Until that is known no other request is answered.

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{ApiKey, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse};
use kafka_protocol::protocol::StrBytes;

use crate::api::Call;
use crate::connection::Session;
use crate::scram::{Challenge, First, Hash};
use crate::security::Guard;
use std::sync::atomic::Ordering::Relaxed;

const MECHANISMS: [(&str, Mechanism); 3] =
    [("PLAIN", Mechanism::Plain), ("SCRAM-SHA-256", Mechanism::Scram(Hash::Sha256)), ("SCRAM-SHA-512", Mechanism::Scram(Hash::Sha512))];

#[derive(Clone, Copy)]
enum Mechanism {
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
pub struct Begun(Mechanism);

impl Login {
    /// Whether a request is answered at this point.
    pub fn allows(&self, key: ApiKey) -> bool {
        matches!(self, Self::Known) || matches!(key, ApiKey::ApiVersions | ApiKey::SaslHandshake | ApiKey::SaslAuthenticate)
    }
}

pub async fn handshake(call: &Call, request: SaslHandshakeRequest) -> SaslHandshakeResponse {
    let names = MECHANISMS.iter().map(|(name, _)| StrBytes::from_static_str(name)).collect();
    let response = SaslHandshakeResponse::default().with_mechanisms(names);
    let mut login = call.session.login.lock();
    if call.broker.guard.is_none() || matches!(*login, Login::Known) {
        return response.with_error_code(ResponseError::IllegalSaslState.code());
    }
    match MECHANISMS.iter().find(|(name, _)| *name == request.mechanism.as_str()) {
        Some((_, mechanism)) => {
            *login = Login::Begun(Begun(*mechanism));
            call.session.sends_bare_tokens.store(call.version == 0, Relaxed);
            response
        }
        None => response.with_error_code(ResponseError::UnsupportedSaslMechanism.code()),
    }
}

pub async fn authenticate(call: &Call, request: SaslAuthenticateRequest) -> SaslAuthenticateResponse {
    let failed = |error: ResponseError, why: &'static str| {
        SaslAuthenticateResponse::default().with_error_code(error.code()).with_error_message(Some(StrBytes::from_static_str(why)))
    };
    let Some(guard) = &call.broker.guard else {
        return failed(ResponseError::IllegalSaslState, "this listener asks for no login");
    };
    if matches!(*call.session.login.lock(), Login::Nobody | Login::Known) {
        return failed(ResponseError::IllegalSaslState, "a handshake comes before the login");
    }
    match step(guard, &call.session, &request.auth_bytes) {
        Some(answer) => SaslAuthenticateResponse::default().with_auth_bytes(Bytes::from(answer)),
        None => failed(ResponseError::SaslAuthenticationFailed, "Authentication failed: invalid credentials"),
    }
}

/// Takes a client's words as they stand in a frame without a header, as after a handshake of version 0; the answer is such a frame.
/// `None`: the login failed.
pub fn bare(guard: &Guard, session: &Session, message: &[u8]) -> Option<Bytes> {
    let answer = step(guard, session, message)?;
    if matches!(*session.login.lock(), Login::Known) {
        session.sends_bare_tokens.store(false, Relaxed);
    }
    Some([&(answer.len() as i32).to_be_bytes(), answer.as_bytes()].concat().into())
}

/// One message of a login and its answer; `None`: it failed, and begins anew.
fn step(guard: &Guard, session: &Session, message: &[u8]) -> Option<String> {
    let mut login = session.login.lock();
    let answer = match std::mem::take(&mut *login) {
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
    if answer.is_none() {
        tracing::warn!(peer = %session.peer, "a login failed");
    }
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
