//! PLCs that speak classic S7 communication, read cyclically and by triggers: a client of our own over TPKT, COTP and S7comm.
//!
//! - [`address`]: where a value lies, as people write it; [`datatype`]: the CPU's types; [`codec`], [`moment`]: their bytes as values, and back.
//! - [`frame`]: the bytes on the wire; [`batching`]: reads fitted into the negotiated PDU; [`connection`]: one connection with jobs in flight.
//! - [`cpu`]: what a CPU says of itself; [`reading`]: groups read, what is refused isolated; [`commands`]: the only writes there are.
//! - [`config`], [`tag`], [`compiled`]: the YAML; [`source`]: the plugin and its session; [`inspect`]: `probe` and `browse`.
//!
//! Invariants: nothing is written while writes are forbidden; one connection, one owner of the socket; decoding allocates nothing per value.
//!
//! What it does not do: S7CommPlus, so no optimised blocks and no symbols (S7-1200/1500 have OPC UA for that), and no programming of PLCs.
//! No crate served: those there are ignore PDU references, underflow on short frames, or have licences we can't take.

pub mod address;
pub mod batching;
pub mod codec;
pub mod commands;
pub mod compiled;
pub mod config;
pub mod connection;
pub mod cpu;
pub mod datatype;
pub mod frame;
pub mod inspect;
pub mod moment;
pub mod reading;
pub mod source;
pub mod tag;

pub use source::S7SourcePlugin;
