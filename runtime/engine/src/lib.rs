//! The engine: supervises sources and sinks, validates, encodes, logs, drains, and keeps the ledger.
//!
//! - [`frame`]: what lies inside one opaque batch of the log.
//! - [`ledger`]: what came in and what became of it.
//! - [`outlet`]: what intake and drain share of one source.

pub mod frame;
pub mod ledger;
pub mod outlet;
