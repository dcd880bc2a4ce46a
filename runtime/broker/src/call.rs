//! One request on its way to a handler, and what comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::limits::Taken;
use crate::net::sasl::Login;

/// One request on its way: who asks whom, and in which version.
pub struct Call {
    pub broker: Arc<Broker>,
    pub session: Arc<Session>,
    pub key: ApiKey,
    pub version: i16,
    pub correlation: i32,
    pub client_id: Option<StrBytes>,
}

/// What a handler gives back.
pub enum Reply<T> {
    Answer(T),
    /// An answer, and the room that it has until it is sent.
    Held(T, Taken),
    None,
}

impl<T> From<T> for Reply<T> {
    fn from(answer: T) -> Self {
        Self::Answer(answer)
    }
}

/// Who is at the other end.
pub struct Session {
    pub peer: SocketAddr,
    /// The address the client reached: what it is told to connect to.
    pub local: SocketAddr,
    /// Who it has proved to be, where the listener asks.
    pub login: Mutex<Login>,
    /// What it sends now are words of a login, without a request around them.
    pub sends_bare_tokens: AtomicBool,
    /// Held by a produce request from its first batch to its last, so that the next one's come behind.
    pub produces: tokio::sync::Mutex<()>,
}
