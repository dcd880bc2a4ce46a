//! What every plugin reads becomes one of two things, a sample or a document, and keeps its shape to the end.
//!
//! - [`record`]: the batch in memory: rows plus one heap, no allocation per value.
//! - [`status`]: the OPC UA status code that travels with each value, and the quality it implies.
//!
//! Invariants: no I/O, no clock, no other crate of ours. A value never changes its type on its way.

pub mod record;
pub mod status;

pub use record::*;
pub use status::{Quality, StatusCode};
