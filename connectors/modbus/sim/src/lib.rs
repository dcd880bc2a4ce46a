//! Simulated Modbus devices: meters and a drive behind a gateway, with a dead unit and a slow one, for the demo, for `millrace simulate modbus` and
//! for tests.
//!
//! - [`memory`]: the tables of one unit, and how it answers a request.
//! - [`gateway`]: units behind one socket, TCP or RTU over TCP, with faults on purpose.
//! - [`plant`]: what the meters and the drive measure.
//!
//! Invariants: an address that no device has is refused as a real one does (exception 2); everything written is kept, so that a test can say that
//! nothing was.

pub mod gateway;
pub mod memory;
pub mod plant;

pub use gateway::{Faults, Gateway, Options};
pub use memory::{Memory, Written};
pub use plant::Plant;
