//! What every connector must do, whatever its protocol. A connector gives a fixture: its device, and how to make it speak.
//!
//! A failing check names itself: `conformance: cut_cable: ...`.

pub mod sink;
pub mod source;

pub use sink::{SinkFixture, sink};
pub use source::{Device, SourceFixture, source};
