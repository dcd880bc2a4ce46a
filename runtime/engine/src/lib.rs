//! The engine: supervises sources and sinks, validates, encodes, logs, drains, and keeps the ledger.
//!
//! - [`engine`]: all of it, started and stopped in order; [`alarm`] warns before a log is full.
//! - [`intake`]: what a source sends is judged, encoded and appended; [`tags`] judges, [`topics`] says where it goes, [`catalog`] what a tag is.
//! - [`source`]: session after session, supervised. [`paths`]: which source has which tag path.
//! - [`wide`]: many tags in one record.
//! - [`frame`]: what lies inside one opaque batch of the log. [`positions`]: where each source left off.
//! - [`compile`]: from the YAML to what runs. [`commands`]: from Kafka to a device, at most once.
//! - [`book`]: the schemas that records in the logs were written with. [`registrar`]: their ids in a registry.
//! - [`drain`]: from the logs to Kafka. [`sinks`]: from Kafka to sinks, by consumer groups.
//! - [`outlet`]: what intake and drain share of one source.
//! - [`ledger`]: what came in and what became of it. [`status`]: the words for it. [`taps`]: live records for a person.

pub mod alarm;
pub mod book;
pub mod catalog;
pub mod commands;
pub mod compile;
pub mod cursors;
pub mod dead;
pub mod drain;
pub mod engine;
pub mod frame;
pub mod intake;
pub mod ledger;
pub mod outlet;
pub mod paths;
pub mod positions;
pub mod registrar;
pub mod repeats;
pub mod sinks;
pub mod source;
pub mod status;
pub mod tags;
pub mod taps;
pub mod topics;
pub mod wide;
pub mod writers;

pub use engine::{Engine, EngineOptions, EngineReport};
