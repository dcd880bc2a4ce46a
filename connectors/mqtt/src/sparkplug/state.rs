//! STATE: what a primary host publishes of itself, so that edge nodes wait for it.
//!
//! A will sets it to offline when the connection dies; the birth of the next connection has the will's timestamp. The will of an earlier connection may
//! come after this one's birth: then STATE is published again.

use super::address::NAMESPACE;
use super::config::{HostConfig, StateStyle};
use super::route::{Message, Outgoing};
use millrace_schemas::Micros;
use std::time::{Duration, Instant};

/// How often a STATE that someone took back is published again.
const STATE_AGAIN: Duration = Duration::from_secs(5);

/// The STATE of this host.
pub struct HostState {
    /// `None`: this host publishes none.
    topic: Option<String>,
    style: StateStyle,
    /// Of the will, and so of the birth.
    timestamp: Micros,
    pub is_connected: bool,
    published: Option<Instant>,
    taken_back: bool,
}

impl HostState {
    pub fn new(config: &HostConfig) -> Self {
        let id = config.id.as_ref().filter(|_| config.primary && !config.passive);
        let topic = id.map(|id| match config.state {
            StateStyle::V3 => format!("{NAMESPACE}/STATE/{id}"),
            StateStyle::V2 => format!("STATE/{id}"),
        });
        let timestamp = Micros::default();
        Self { topic, style: config.state, timestamp, is_connected: false, published: None, taken_back: false }
    }

    /// Where it is published, if it is.
    pub fn topic(&self) -> Option<&str> {
        self.topic.as_deref()
    }

    /// The will of the connection about to be opened.
    pub fn will(&mut self) -> Option<Outgoing> {
        self.timestamp = Micros::now();
        self.message(false, self.timestamp)
    }

    /// The connection stands.
    pub fn birth(&mut self, now: Instant) -> Option<Outgoing> {
        self.is_connected = true;
        self.taken_back = false;
        self.published = Some(now);
        self.message(true, self.timestamp)
    }

    /// What may be published now, of a connected host.
    pub fn due(&mut self, now: Instant) -> Option<Outgoing> {
        if !self.taken_back || self.published.is_some_and(|at| now.saturating_duration_since(at) < STATE_AGAIN) {
            return None;
        }
        self.taken_back = false;
        self.published = Some(now);
        self.message(true, self.timestamp)
    }

    pub fn message(&self, online: bool, timestamp: Micros) -> Option<Outgoing> {
        let payload = match self.style {
            StateStyle::V3 => format!("{{\"online\":{online},\"timestamp\":{}}}", timestamp.as_millis()),
            StateStyle::V2 => if online { "ONLINE" } else { "OFFLINE" }.to_owned(),
        };
        Some(Outgoing { topic: self.topic.clone()?, payload: payload.into_bytes(), qos: 1, retain: true })
    }

    /// A message came on its topic.
    pub fn seen(&mut self, message: Message<'_>) {
        let is_offline = match self.style {
            StateStyle::V3 => serde_json::from_slice::<serde_json::Value>(message.payload).is_ok_and(|state| state["online"] == false),
            StateStyle::V2 => message.payload == b"OFFLINE",
        };
        if is_offline && !message.retain && self.is_connected {
            tracing::warn!(topic = message.topic, "this host's STATE was set to offline by another connection; publishing it again");
            self.taken_back = true;
        }
    }
}
