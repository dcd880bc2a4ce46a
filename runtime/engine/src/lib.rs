//! The engine: supervises sources and sinks, validates, encodes, logs, drains, and keeps the ledger.
//!
//! - [`intake`]: what a source sends is judged, encoded and appended; [`tags`] judges, [`topics`] says where it goes, [`catalog`] what a tag is.
//! - [`source`]: session after session, supervised.
//! - [`frame`]: what lies inside one opaque batch of the log. [`positions`]: where each source left off.
//! - [`outlet`]: what intake and drain share of one source.
//! - [`ledger`]: what came in and what became of it. [`status`]: the words for it. [`taps`]: live records for a person.

pub mod catalog;
pub mod frame;
pub mod intake;
pub mod ledger;
pub mod outlet;
pub mod positions;
pub mod repeats;
pub mod source;
pub mod status;
pub mod tags;
pub mod taps;
pub mod topics;
