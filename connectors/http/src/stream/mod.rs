//! Servers that are listened to: streams of server-sent events ([`sse`]) and WebSockets ([`websocket`]). Each stream has a connection of its own
//! (`listening`).
//!
//! ```text
//! GET /events, Last-Event-ID ─▶ pieces ─▶ event: complete events ─▶ kit::records ─▶ batch, with the id of its last event
//! GET /feed, Upgrade ─▶ messages ─────────────────────────────────▶ kit::records ─▶ batch
//! ```
//!
//! Invariants: the id moves with the records, in the log; while the log is full nothing is read, and the server has to wait.

pub mod config;
pub mod event;
mod listening;
pub mod sse;
pub mod websocket;

pub use sse::SseSource;
pub use websocket::WebSocketSource;
