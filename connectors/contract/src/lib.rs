//! The contract between connectors and the engine: what a source and a sink are, and what each may count on.
//!
//! - [`source`]: a source is one session after another; the engine opens it, backs off and calls again.
//! - [`sink`]: a sink writes what a consumer group reads, and says below which offsets it is durable.
//! - [`command`]: what is to be written to a device, on which conditions, and what became of it.
//! - [`plugin`]: how a type of connector compiles its YAML, without I/O, into a model.
//! - [`found`]: what browsing and probing found, as data.
//! - [`tag`]: what a tag is, and the options every tag has.
//! - [`failure`]: what the engine does next when something fails.
//!
//! Invariants: a connector never sees Kafka, the log, formats or other connectors; nothing here does I/O.

pub mod command;
pub mod failure;
pub mod found;
pub mod plugin;
pub mod sink;
pub mod source;
pub mod tag;

pub use command::{Answer, Command, CommandValue, Condition, Must, Outcome};
pub use failure::{Failure, Loss, Status};
pub use found::{Findings, FoundTag};
pub use plugin::{Browse, Carries, Cluster, Compiled, Context, Entry, Guarantee, Late, Model, Plan, Plugin, Registry, Role, Route};
pub use sink::{Flush, Flushed, Input, Offset, Partition, Record, Records, Refused, Reply, Sink, Taken, Upstream, is_meant};
pub use source::{AckId, Clash, LONGEST_NAMES, Source, SourceHost, SourceIo, name_weight};
pub use tag::{OutOfRange, Report, Structure, TagDef, TagOptions, Tagged};
