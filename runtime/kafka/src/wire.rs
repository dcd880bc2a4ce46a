//! A thin client of our own, for what librdkafka does not have: record batches that go from one cluster into another as they are, still compressed.
//!
//! ```text
//! Access (settings, checked) ──> Cluster ──> Connection, one per broker: TCP or TLS, login, requests out, answers in, in their order
//!                                   ├──> Fetcher   batches of partitions, from an offset on: committed ones, nothing else
//!                                   └──> Sender    batches into partitions, each once; in a transaction, if wanted
//! ```
//!
//! - `access`: what of librdkafka's properties this client understands; with any other that concerns a connection, it does not begin.
//! - `fields`, `messages`: requests and answers, byte by byte, each in one version that every Kafka since 2.3 speaks.
//! - `connection`, `scram`, `cluster`: one broker, its login, and who leads what.
//! - `fetch`, `send`, `transaction`: the two ends of forwarding.
//!
//! The messages are written here rather than taken from `kafka-protocol`, whose decoder reserves memory for as many elements as a list claims to have.
//! They are held against its encoder and decoder in tests.
//!
//! Invariants: no frame is longer than a bound, and nothing is allocated on the word of a length in it; every wait ends; everything blocks, and no thread
//! is started; what is answered is told with the broker, the request and the partition it is of.

mod access;
mod cluster;
mod connection;
mod fault;
mod fetch;
mod fields;
pub mod fuzz;
mod messages;
mod scram;
mod send;
mod transaction;

pub use access::{Access, understands};
pub use fetch::{Fetched, Fetcher, Reading};
pub use millrace_batches as batches;
pub use send::{Delivered, Sender};
