//! OPC UA: a source that reads by subscriptions, polls and triggers, and never goes quiet.
//!
//! - [`address`]: how a node is named in the YAML.
//! - [`config`]: the keys of the YAML; [`compiled`]: what they compile to.
//! - [`transport`]: the connection under it all; [`answer`]: an answer's bytes to a message; [`channel`]: the secure channel on it.
//! - [`target`]: a server to be reached; [`connect`]: from there to an activated session, secured as asked ([`security`]); [`login`]: as whom;
//!   [`leftover`]: sessions that nobody goes on with.
//! - [`pki`]: the folder of certificates; [`certificate`]: one of them; [`trust`]: whether it is trusted; [`fault`]: what is wrong with it.
//! - [`session`]: what is asked of a server, in pieces that it takes; [`resolve`]: addresses to its node ids; [`discover`]: tags found by browsing.
//! - [`shard`]: one session and everything on it, [`aside`]: what goes on beside it; [`shared`]: what its tasks share; [`subscribe`]: a subscription,
//!   [`layout`]: what is on which; [`publish`]: messages in order, acknowledged when durable.
//! - [`poll`], [`trigger`], [`events`], [`history`], the other ways to read; [`commands`], [`arguments`]: the one to write; [`filter`]: which events are wanted.
//! - [`wire`], [`values`], [`text`]: bytes to values; [`types`]: enumerations and structures, [`dictionary`]: those of older servers; [`readings`]: values to rows.
//! - [`source`]: the plugin.
//! - [`browse`], [`probe`]: what the commands of these names do, over [`inspect`].
//!
//! Invariants: nothing is secured less than asked for; nothing is written to a server without `floor: {writes: allowed}`; no length that a server
//! sends is believed before it is checked; a message is acknowledged after the log has it.

pub mod address;
pub mod answer;
pub mod arguments;
pub mod aside;
pub mod browse;
pub mod certificate;
pub mod channel;
pub mod commands;
pub mod compiled;
pub mod config;
pub mod connect;
pub mod dictionary;
pub mod discover;
mod edge;
pub mod events;
pub mod fault;
pub mod filter;
pub mod fuzz;
pub mod hash;
pub mod history;
pub mod inspect;
pub mod layout;
pub mod leftover;
pub mod login;
pub mod pki;
pub mod poll;
pub mod probe;
pub mod publish;
pub mod readings;
pub mod resolve;
pub mod security;
pub mod session;
pub mod shard;
pub mod shared;
pub mod source;
pub mod subscribe;
pub mod target;
pub mod text;
pub mod transport;
pub mod trigger;
pub mod trust;
pub mod types;
pub mod values;
pub mod watermarks;
pub mod wire;

pub use source::OpcUaSource;
