//! Modbus: a source over TCP, over a serial line, and over a serial server.
//!
//! Pure parts, each answering one question:
//! - [`address`]: where a value is; [`endpoint`]: how the line is reached.
//! - [`pdu`]: requests and answers; [`frame`]: what a line wraps around them.
//! - [`planner`]: which requests read a set of values; [`decode`]: answers to rows; [`write`]: a command's value to a request.
//! - [`config`], [`device`]: the keys of the YAML; [`point`], [`compiled`]: what they compile to; [`plan`]: what will go over the line, and whether it fits.
//!
//! A session:
//! - [`line`]: each answer to its request, or to none; [`unit`]: what a unit refuses and what was learnt of it.
//! - [`urgent`]: a command or acknowledgement and how far it is; [`events`]: events being read.
//! - [`bus`]: whose turn it is; on top of it [`answers`]: what an answer means; [`writing`]: what is urgent, before any read; [`triggered`]: triggered reads.
//! - [`source`]: the plugin; [`probe`]: what `millrace probe modbus` does; [`sunspec`]: the models of inverters and meters.
//!
//! Invariants: nothing is written without `floor: {writes: allowed}`; no length that a device sends is believed before it is checked; an answer is
//! taken for the request it belongs to or for none; a silent unit costs its own timeout and nobody else's.
//!
//! The line is our own and not tokio-modbus's, for the reasons in [`frame`]; that crate is the other side in the tests.

pub mod address;
pub mod answers;
pub mod bus;
pub mod compiled;
pub mod config;
pub mod decode;
pub mod device;
pub mod endpoint;
pub mod events;
pub mod frame;
#[doc(hidden)]
pub mod fuzz;
pub mod line;
pub mod pdu;
pub mod plan;
pub mod planner;
pub mod point;
pub mod probe;
pub mod source;
pub mod sunspec;
pub mod triggered;
pub mod unit;
pub mod urgent;
pub mod write;
pub mod writing;

pub use source::ModbusSource;
