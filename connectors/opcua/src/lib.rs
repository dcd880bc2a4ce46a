//! OPC UA: a source that reads by subscriptions, polls and triggers, and never goes quiet.
//!
//! - [`address`]: how a node is named in the YAML.
//! - [`config`]: the keys of the YAML; [`job`]: what they compile to.
//! - [`connect`]: from an endpoint to an activated session, secured as asked; [`pki`]: the certificates.
//! - [`session`]: what is asked of a server, in pieces that it takes.
//! - [`filter`]: which events are wanted.
//! - [`source`]: the sessions of a source.
//! - [`browse`], [`probe`]: what the commands of these names do, over [`inspect`].
//!
//! Invariants: nothing is secured less than asked for; nothing is written to a server without `floor: {writes: allowed}`; no length that a server
//! sends is believed before it is checked; a message is acknowledged after the log has it.

pub mod address;
pub mod browse;
pub mod config;
pub mod connect;
pub mod filter;
pub mod inspect;
pub mod job;
pub mod pki;
pub mod probe;
pub mod session;
pub mod source;
pub mod wire;

pub use source::OpcUaSource;
