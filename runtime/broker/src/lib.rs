//! The embedded Kafka-protocol broker: one node, durable, on the log that the connectors use; knows no connectors and no records.
//!
//! ```text
//! start        opens the data directory, listens; broker: what handlers share; maintenance: what the clock does
//! net/         server: accepts; connection: frames in, answers out in order; request_bounds: is a frame what it says it is; sasl: who it is
//!   api        one table: key, versions, handler; ApiVersions' answer is made of it, so nothing is advertised that is not answered
//!     api/     one module per family of requests: a handler and what only it needs; call: what each is given
//! group/       consumer groups       transaction/   who writes under a transactional id, how a transaction ends
//! storage/     topics: names, ids, configurations, durable in a journal ─> partition: one log of record batches as they came
//!              journal: a durable map on a log: topics, producer ids, transactions, committed offsets
//! millrace-log segments, fdatasync, recovery
//! ```
//!
//! - A record batch is stored as it came; only its base offset and leader epoch are written over. Its checksum is checked before.
//! - Acknowledged (`acks=all`) with `sync: 0` means synced; otherwise a power cut may take the last `sync`. kill -9 takes nothing.
//! - Memory is bounded, all connections together: [`limits`].
//! - What cannot be read is set aside and counted ([`Broker::damage`]), and the rest is served. Nothing is deleted because something cannot be read.
//! - It is one node: replication factor 1, no ACLs, no quotas. Off loopback it wants TLS and logins.
//!
//! A handler is an `async fn(&Call, XRequest) -> XResponse`, a line in [`api`]'s table, and a shape in [`net::request_bounds`]. What it does before its first
//! `await` is done in the order of the connection's requests; the answers keep that order, too.

mod api;
mod broker;
mod call;
mod clock;
#[doc(hidden)]
pub mod fuzz;
mod group;
mod limits;
mod maintenance;
mod net;
mod random;
mod start;
mod storage;
mod transaction;

pub use broker::Broker;
pub use net::connection::MAX_FRAME;
pub use net::security::{Security, SecurityError};
pub use start::{Options, StartError};
pub use storage::damage::Damage;
