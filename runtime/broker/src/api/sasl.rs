//! SaslHandshake and SaslAuthenticate: who a client is. Until that is known no other request is answered.

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse};
use kafka_protocol::protocol::StrBytes;

use crate::call::{Call, Session};
use crate::net::sasl::{self, Begun, Login, MECHANISMS};
use crate::net::security::Guard;

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
    let answer = sasl::step(guard, &mut session.login.lock(), message);
    if answer.is_none() {
        tracing::warn!(peer = %session.peer, "a login failed");
    }
    answer
}
