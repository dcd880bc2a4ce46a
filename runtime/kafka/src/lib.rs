//! Kafka, for the rest of the house: the only user of rdkafka.
//!
//! ```text
//! Settings ──> Producer   one per runtime: cached topic handles, delivery reports in groups, transactions
//!         ├──> Consumer   groups (a rebalance waits until the caller has flushed) and readers (fixed partitions to their end)
//!         └──> Admin      topics created as declared, contradictions reported, limits of a topic read
//! ```
//!
//! - [`properties`]: librdkafka's properties: our defaults, and which of the user's would break a promise.
//! - [`error`]: what every error of Kafka means for the one who sent: retry, this record, this topic, or start over.
//! - [`producer`], [`consumer`], [`admin`]: the three clients.
//! - [`rights`]: what this user may do, asked of the cluster.
//! - [`oauth`]: tokens for SASL OAUTHBEARER.
//! - [`wire`]: a client of our own, for batches that are forwarded whole.
//! - `logging`: librdkafka's own log lines, into tracing, repeats summarised.
//! - `raw`: owned handles of librdkafka and nothing else; `codes`: its table of error codes. Every unsafe line of this crate is in these two.
//!
//! Invariants: no crate of ours is known here that knows what a record means; nothing here retries for ever without the caller, or drops a message without
//! a report; no memory of ours is allocated per message sent. Everything blocks: callers bring their own threads.

pub mod admin;
mod codes;
pub mod consumer;
pub mod error;
mod events;
mod logging;
pub mod oauth;
mod partition;
pub mod producer;
pub mod properties;
mod raw;
pub mod rights;
pub mod wire;

pub use admin::{Admin, Contradiction, Limits, TopicOutcome, TopicSpec};
pub use consumer::{Consumer, Message, Polled, Start, read_topic, read_topic_now};
pub use error::{Class, Connection, KafkaError, RecordFault};
pub use oauth::{Token, TokenError, TokenSource};
pub use partition::{GroupMetadata, TopicPartition};
pub use producer::{Deliveries, Outgoing, Producer, Report, SendError, Topic, TransactionError, fence_out};
pub use properties::{PropertyProblem, Settings, check_properties};
pub use raw::Pin;
pub use rights::{Allowed, Operation};
