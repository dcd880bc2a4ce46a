//! The embedded Kafka-protocol broker: one node, durable, on the log that the connectors use; knows no connectors and no records.
//!
//! ```text
//! server       listens, accepts; connection: frames in, answers out in order; sasl: who it is; shape: is a frame what it says it is
//!   api        one table: key, versions, handler; ApiVersions' answer is made of it, so nothing is advertised that is not answered
//!     produce, fetch, list_offsets, metadata, topics_api, ..   one module per family of requests: a handler and what only it needs
//!     group*, admin*                                           consumer groups; what tools and user interfaces ask for
//! broker       what handlers share: topics, groups, transactions, journals
//!   topics     names, ids, configurations, durable in a journal ─> partition: one log of record batches as they came
//!   journal    a durable map on a log: topics, producer ids, transactions, committed offsets
//! millrace-log segments, fdatasync, recovery
//! ```
//!
//! - A record batch is stored as it came; only its base offset and leader epoch are written over. Its checksum is checked before.
//! - Acknowledged (`acks=all`) with `sync: 0` means synced; otherwise a power cut may take the last `sync`. kill -9 takes nothing.
//! - Memory is bounded, all connections together: large requests by [`connection::REQUESTS`], fetched records by [`fetch::ANSWERS`], what is not
//!   synced by the log.
//! - It is one node: replication factor 1, no ACLs, no quotas. Off loopback it wants TLS and logins.
//!
//! A handler is an `async fn(&Call, XRequest) -> XResponse`, a line in [`api`]'s table, and a shape in [`shape`]. What it does before its first
//! `await` is done in the order of the connection's requests; the answers keep that order, too.

mod admin;
mod admin_configs;
mod api;
mod batch;
mod broker;
mod compaction;
mod connection;
mod coordinator;
mod fetch;
#[doc(hidden)]
pub mod fuzz;
mod group;
mod group_api;
mod group_offsets;
mod group_stored;
mod groups;
mod journal;
mod list_offsets;
mod metadata;
mod partition;
mod produce;
mod producers;
mod records;
mod room;
mod sasl;
mod scram;
mod security;
mod server;
mod shape;
mod synced;
mod tend;
mod topic_config;
mod topics;
mod topics_api;
mod transactions;
mod transactions_api;
mod wire;

pub use broker::{Broker, Options, StartError};
pub use connection::MAX_FRAME;
pub use security::{Security, SecurityError};
