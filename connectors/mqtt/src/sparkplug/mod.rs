//! Sparkplug B as a host application: a state machine between MQTT messages and batches, without sockets or tasks.
//!
//! ```text
//! will()               the STATE will for CONNECT                        filters()      what to subscribe to beside the routes' filters
//! on_connect(..)       births resumed, STATE birth, rebirths planned     on_disconnect  nothing is vouched for any more
//! ends_batch(topic)    send the batch filled so far before this message: a death must not overtake values
//! on_message(..)       rows and rejects into the batch; returns what to publish
//! tick(..)             once a second: vouches for live nodes, rebirth requests that are due, gaps that did not heal
//! take_moved()         positions that go with the batch: births, so that aliases are known after a restart
//! farewell()           STATE offline, to publish before a clean DISCONNECT
//! ```
//!
//! ```text
//! address    topics, and the paths of tags           sequence   what is missing
//! wire       protobuf, read in place                 births     names, aliases and types to tags; values to rows
//! datatype   what a value means                      rebirth    when to ask which node
//! command    a value as NCMD or DCMD
//! json       data sets and whole templates           positions  births over a restart
//! properties quality, unit, range, labels            state      what a primary host says of itself
//! route      what is read, what comes in, what goes out     config     the keys of the YAML
//! host       the conversation
//! ```
//!
//! ```text
//! Int8..Int64, UInt8..UInt32   a long           DateTime         a long, microseconds
//! UInt64                       an exact UInt64  DataSet          a structure, as JSON
//! Float, Double                a double         Template         a tag per leaf, or JSON with `structure: json`
//! String, Text, UUID           a text           ..Array          an array of the same
//! Bytes, File                  bytes            null             BadNoData, or the bad status its Quality gives
//! is_historical                origin backfill  retained         origin initial, as is the first birth after a start
//! no such alias                a dead letter with the payload, beside the rows that are known; the node is asked for its birth
//! no protobuf, a wrong type    a dead letter with the payload; the wrong type's row is bad
//! NDEATH, DDEATH               every tag of the node with its devices, or of the device: BadNoCommunication, at once
//! bdSeq, Node Control/Rebirth  no tags: they are the conversation
//! ```
//!
//! All messages of an edge node must come to one `Host`, in the order of their connection: not over shared subscriptions.
//! `TagId`s are kept while the `Host` lives. Timers run on the `Instant`s handed in; the clock is read only to stamp its own messages.
//!
//! Source: Eclipse Sparkplug Specification 3.0.0; the payload's protobuf from Eclipse Tahu.

mod address;
mod births;
mod command;
mod config;
mod datatype;
mod fuzz;
mod host;
mod json;
mod positions;
mod properties;
mod rebirth;
mod route;
mod sequence;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod wire;

pub use address::NAMESPACE;
pub use config::{HostConfig, StateStyle};
#[doc(hidden)]
pub use fuzz::fuzz_sparkplug;
pub use host::Host;
pub use route::{Message, Outgoing, Route, Variable};
#[doc(hidden)]
pub use wire::Payload as WirePayload;
pub use wire::write;
