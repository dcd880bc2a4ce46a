//! A simulated oven with an S7 CPU, for the demo, for tests and for people who try their own YAML.
//!
//! - [`memory`]: the CPU's areas, as bytes. - [`server`]: what it answers, over TPKT, COTP and S7comm.
//! - [`oven`]: the program: it heats, makes parts, and waits for each part's acknowledgement. - [`fault`]: what goes wrong on purpose.
//!
//! Invariants: written apart from the client of `connectors/s7`, so that one's mistakes are not the other's; every length a client sends is
//! checked; connections are bounded.

pub mod fault;
pub mod memory;
pub mod oven;
pub mod server;

pub use fault::Kind;
pub use memory::Memory;
pub use oven::{Options, Oven};
pub use server::Server;
