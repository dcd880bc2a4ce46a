//! What every plugin reads becomes one of two things, a sample or a document, and keeps its shape to the end.
//!
//! - [`record`]: the batch in memory: rows plus one heap, no allocation per value.
//! - [`status`]: the OPC UA status code that travels with each value, and the quality it implies.
//! - [`sample`]: what a sample in Kafka says beyond its row; [`avro`], [`json`] and [`protobuf`] write and read it.
//! - [`contract`]: what the documents of a topic must be: checked against a schema, and written in the topic's format.
//! - [`avsc`]: Avro schemas, parsed and written back.
//! - [`wide`]: one record for many tags.
//! - [`scan`]: JSON text read piece by piece, without a tree.
//! - [`mod@varint`]: integers of one to ten bytes.
//!
//! Invariants: no I/O, no clock, no other crate of ours. A value never changes its type on its way.

pub mod avro;
pub mod avsc;
pub mod contract;
pub mod json;
pub mod protobuf;
pub mod record;
pub mod sample;
pub mod scan;
mod schema_error;
pub mod status;
pub mod varint;
pub mod wide;

pub use avro::TELEMETRY_SCHEMA;
pub use record::*;
pub use sample::{DecodeError, SampleMeta};
pub use status::{Quality, StatusCode};
