//! The engine: supervises sources and sinks, validates, encodes, logs, drains, and keeps the ledger.
//!
//! - [`engine`]: all of it, started and stopped in order (`running`: one source; `reports`: what is seen of it); [`alarm`] warns before a log is full.
//! - [`error`]: why a part of it cannot run. [`change`]: a changed factory, taken while it runs. [`hold`]: what a person paused
//!   or stopped, which `told` tells the connectors; [`offsets`]: of sinks, to look at and to move.
//! - [`lease`]: which of several runtimes reads a source; `owning`: what that one does.
//! - [`intake`]: what a source sends is judged, encoded and appended; [`tags`] judges, [`topics`] says where it goes, [`catalog`] what a tag is.
//!   [`sample_key`]: the key of a record.
//! - [`source`]: session after session, supervised. [`paths`]: which source has which tag path.
//! - [`wide`]: many tags in one record, whose fields [`wide_layout`] keeps.
//! - [`frame`]: what lies inside one opaque batch of the log. [`positions`]: where each source left off.
//! - [`compile`]: from the YAML to what runs. [`commands`]: from Kafka to a device, at most once.
//! - [`schema_store`]: the schemas that records in the logs were written with. [`registrar`]: their ids in a registry.
//! - [`drain`]: from the logs to Kafka. [`sinks`]: from Kafka to sinks, by consumer groups; [`tail`]: what they have not committed yet.
//! - [`source_logs`]: what intake and drain share of one source.
//! - [`ledger`]: what came in and what became of it. [`status`]: the words for it. [`measures`]: how long it took. [`taps`]: live records for a person; [`reader`]: those of a topic; [`trace`]: those of one tag; [`survey`]: what topics there are.

pub mod alarm;
pub mod catalog;
pub mod change;
pub mod cluster;
pub mod commands;
pub mod compile;
mod compiled;
pub mod cursors;
pub mod dead;
pub mod drain;
pub mod engine;
pub mod error;
pub mod frame;
pub mod hold;
mod identity;
pub mod intake;
pub mod lease;
pub mod ledger;
pub mod measures;
pub mod offsets;
mod owning;
pub mod paths;
pub mod positions;
pub mod reader;
pub mod registrar;
pub mod repeats;
pub mod replay;
mod reports;
mod running;
pub mod sample_key;
pub mod schema_store;
pub mod sinks;
pub mod source;
pub mod source_logs;
pub mod status;
pub mod survey;
pub mod tags;
pub mod tail;
pub mod taps;
mod told;
pub mod topics;
pub mod trace;
pub mod wide;
pub mod wide_layout;
pub mod writer_schemas;

pub use engine::{Engine, EngineOptions, EngineReport};
pub use error::EngineError;
