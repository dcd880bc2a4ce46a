//! A simulated hall on MQTT: a small broker, assembly cells that speak JSON, packaging machines that speak Sparkplug B, and faults on demand.
//!
//! ```text
//! cells ────────(TCP)──┐
//!                      ├── broker ──(TCP)── Millrace, mosquitto_sub, whoever connects
//! edge node ────(TCP)──┘        └── break_cable: cut, or half open
//! ```
//!
//! - [`broker`], `connection`, `shared`, [`session`]: MQTT 3.1.1 and 5. [`wire`]: what a server reads and answers.
//! - `cell`, `edge`, `link`, [`sparkplug`]: the devices; every reading has a sequence number, so that a loss can't hide.
//! - [`hall`]: all of it, started and dropped as one. [`fault`]: what can go wrong.
//!
//! For the demo, for tests, and for people who try their own YAML: honest in its protocol, not a broker for a plant.

pub mod broker;
mod cell;
mod connection;
pub mod device;
mod edge;
pub mod fault;
pub mod hall;
mod link;
pub mod session;
mod shared;
pub mod sparkplug;
pub mod wire;

pub use broker::{Bounds, Break, Broker};
pub use device::Device;
pub use fault::Fault;
pub use hall::{Hall, Options};
