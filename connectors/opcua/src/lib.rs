//! OPC UA: a source that reads by subscriptions, polls and triggers, and never goes quiet.
//!
//! - [`address`]: how a node is named in the YAML.
//! - [`config`]: the keys of the YAML; [`job`]: what they compile to.
//! - [`connect`]: from an endpoint to an activated session, secured as asked; [`pki`]: the certificates.
//! - [`session`]: what is asked of a server, in pieces that it takes; [`resolve`]: addresses to its node ids; [`discover`]: tags found by browsing.
//! - [`shard`]: one session and everything on it; [`subscribe`]: a subscription; [`publish`]: messages in order, acknowledged when durable.
//! - [`poll`], [`trigger`], [`events`], [`history`], [`commands`]: the other ways to read, and the one to write; [`filter`]: which events are wanted.
//! - [`wire`]: bytes to values; [`types`]: enumerations and structures, [`dictionary`]: those of older servers; [`readings`]: values to rows.
//! - [`source`]: the plugin.
//! - [`browse`], [`probe`]: what the commands of these names do, over [`inspect`].
//!
//! Invariants: nothing is secured less than asked for; nothing is written to a server without `floor: {writes: allowed}`; no length that a server
//! sends is believed before it is checked; a message is acknowledged after the log has it.

pub mod address;
pub mod browse;
pub mod commands;
pub mod config;
pub mod connect;
pub mod dictionary;
pub mod discover;
pub mod events;
pub mod filter;
pub mod history;
pub mod inspect;
pub mod job;
pub mod pki;
pub mod poll;
pub mod probe;
pub mod publish;
pub mod readings;
pub mod resolve;
pub mod session;
pub mod shard;
pub mod source;
pub mod subscribe;
pub mod trigger;
pub mod types;
pub mod watermarks;
pub mod wire;

pub use source::OpcUaSource;
