//! Replication: topics of the factory's cluster into another Kafka cluster, in whole batches or record by record.
//!
//! ```text
//! records of the factory's Kafka -> names (rename, what stays at home) -> throttle -> producer of the target
//!                                                                           flush: positions at the target, with the data
//! ```
//!
//! - [`config`]: the keys of the YAML, checked without I/O.
//! - [`names`]: what a topic is called at the target, what is never copied, and how a loop is noticed.
//! - [`fields`]: what of a record may leave; `leaving`: a record as it is at the target, under them and with the ids of the target's registry.
//! - `groups`: consumer groups' offsets, translated by `pairs` of offsets.
//! - [`target`]: topics of the target, made like their origin.
//! - [`positions`]: how far each partition was copied, kept at the target.
//! - `claims`: which runtime copies what, so that one that only seemed dead is fenced.
//! - [`deliveries`]: what became of the records that the producer took.
//! - [`throttle`]: bytes per second, and what goes first.
//! - [`windows`]: samples of each tag in windows of time, instead of all.
//! - `forwarding`: batches that leave as they are, where nothing in their records has to change; `whole`: the two clients for it.
//! - `sink`: the session; `committing`: the end of a flush. [`compare`]: the copy looked at from outside.
//!
//! Invariants: key, value (null and empty differ), headers, timestamp and partition of a record arrive as they are, but for what `fields` and the
//! ids of schemas change; a position at the target never
//! passes a record that is neither there nor refused; what can't be carried is refused with its reason, never changed.

mod claims;
mod committing;
pub mod compare;
pub mod config;
mod deliveries;
pub mod fields;
mod forwarding;
mod groups;
mod leaving;
pub mod names;
mod pairs;
mod positions;
mod sink;
mod target;
mod throttle;
mod whole;
pub mod windows;

pub use config::{KafkaSink, KafkaSinkConfig, Replicator};
