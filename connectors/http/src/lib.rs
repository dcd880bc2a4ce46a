//! HTTP as a source: machines, apps and other systems post what they have to say; [`poll`], which asks a REST endpoint; and
//! [`stream`], which listens to one.
//!
//! ```text
//! connection ─▶ server: who? what size? ─▶ body ─▶ split: which records? ─▶ intake: one task, a batch of what came meanwhile ─▶ log
//!                                                                             └──◀── answers, once the batch is synced ◀──┘
//! ```
//!
//! - [`config`]: the keys of the YAML; [`path`]: the paths of routes. [`access`]: who may post; [`signature`]: HMAC over the body.
//! - [`server`]: requests, [`answer`]: what they are told; [`body`]: a body within its bounds; [`split`]: records in it, and CloudEvents.
//! - [`rest_proxy`]: Confluent's produce interface. [`intake`]: batches, repeats, answers. [`source`]: the session.
//!
//! Invariants: 2xx only for what the log has synced; bodies in memory are bounded by `max_waiting`; nothing of a request is believed before its login.

pub mod access;
pub mod answer;
pub mod body;
pub mod config;
pub mod fuzz;
pub mod intake;
pub mod path;
pub mod poll;
pub mod rest_proxy;
pub mod server;
pub mod signature;
pub mod source;
pub mod split;
pub mod stream;

pub use poll::PollSource;
pub use source::HttpSource;
pub use stream::{SseSource, WebSocketSource};
