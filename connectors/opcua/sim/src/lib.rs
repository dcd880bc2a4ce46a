//! A press shop that speaks OPC UA: for the demo, for tests, and for users who try their YAML.
//!
//! ```text
//! Objects
//!   Press1 .. PressN       Temp, Force, State, Word, Running, Strokes, Scrap, Setpoint (writable), Order, Curve, LastPart (a structure),
//!                          LastStroke; PartDone, PartAck (writable), Serial, Peak: for a trigger; Motor1, Motor2: Speed, Current
//!   Load                   on request: as many doubles as wanted, all of which change at one rate
//! ```
//!
//! - [`shop`]: the server: starts, stops, restarts, freezes. [`floor`]: its node manager: values, history, writes, alarms.
//! - [`press`]: what a press does, without OPC UA. [`space`]: the nodes. [`part`]: the structure and the enumeration, as OPC UA describes them.
//! - [`alarm`]: the event a breakdown raises.
//!
//! Invariants: the same seed gives the same shapes, on the real clock; a shop that is dropped is gone, with its thread and its sockets.
//!
//! ```no_run
//! use millrace_opcua_sim::{Options, Shop};
//! let shop = Shop::start(Options::default())?;
//! println!("browse {}", shop.endpoint());
//! shop.breakdown(1)?;
//! # Ok::<(), millrace_opcua_sim::Error>(())
//! ```
//!
//! It has no methods, no ConditionRefresh and no history of events.

mod alarm;
mod floor;
mod part;
mod press;
mod shop;
mod space;

pub use part::NAMESPACE;
pub use press::State;
pub use shop::{Error, Options, Shop};

/// What [`Shop::fail`] gives a node whose sensor is broken.
pub const BAD_DEVICE_FAILURE: opcua::types::StatusCode = opcua::types::StatusCode::BadDeviceFailure;
