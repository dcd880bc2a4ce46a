//! The contract between connectors and the engine: what a source and a sink are, and what each may count on.
//!
//! - [`source`]: a source is one session after another; the engine opens it, backs off and calls again.
//! - [`sink`]: a sink writes what a consumer group reads, and says below which offsets it is durable.
//! - [`plugin`]: how a type of connector compiles its YAML, without I/O, into a model.
//! - [`tag`]: what a tag is, and the options every tag has.
//! - [`failure`]: what the engine does next when something fails.
//!
//! Invariants: a connector never sees Kafka, the log, formats or other connectors; nothing here does I/O.

pub mod failure;
pub mod plugin;
pub mod sink;
pub mod source;
pub mod tag;

pub use failure::{Failure, Loss, Status};
pub use plugin::{Browse, Compiled, Context, Entry, Guarantee, Model, Plan, Plugin, Role, Route};
pub use sink::{Flush, Flushed, Input, Offset, Partition, Record, Records, Refused, Sink};
pub use source::{AckId, Answer, Clash, Command, CommandValue, Outcome, Source, SourceHost, SourceIo};
pub use tag::{OutOfRange, Report, Structure, TagDef, TagOptions, Tagged};
