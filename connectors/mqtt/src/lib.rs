//! MQTT: a source that acknowledges only what the log has synced, a sink that commits only what the broker acknowledged, and Sparkplug B as a host.
//!
//! - [`packet`]: MQTT 3.1.1 and 5 on the wire, both directions; pure.
//! - [`topic`]: filters, what their wildcards matched, and templates made of that.
//! - [`transport`]: from an endpoint to a stream of bytes: TCP, TLS, WebSocket.
//! - [`session`]: one connection: CONNECT, keep-alive, a buffer each way; [`inbox`]: packets out of the bytes that were read.
//! - [`payload`]: what a subscription makes of a payload; [`routes`]: of one message; [`intake`]: of all of them, into batches.
//! - [`kept`]: what of a session is part of the source's position; [`connection`]: what is kept in memory.
//! - [`source`]: what it promises, and its connections; [`live`]: one of them: batches, acknowledgements in order of receipt once they are durable.
//! - [`command`]: a value published to where its device listens.
//! - [`sink`]: records of Kafka as publishes, within the broker's window.
//! - [`mod@browse`]: what a broker says, as YAML to paste.
//! - [`sparkplug`]: births, aliases, sequence numbers, rebirths.
//! - [`config`]: the keys of the YAML; [`broker`], [`compile`]: what they compile to.
//!
//! Invariants: no packet is acknowledged on another connection than the one it came on; no length on the wire is believed before it is checked;
//! nothing is published by the source but Sparkplug's rebirth requests and STATE, and those not with `host: {passive: true}`; and commands, where the
//! file allows writing.

pub mod broker;
pub mod browse;
pub mod command;
pub mod compile;
pub mod config;
pub mod connection;
mod fuzz;
pub mod inbox;
pub mod intake;
pub mod kept;
pub mod live;
pub mod packet;
pub mod payload;
pub mod routes;
pub mod session;
pub mod sink;
pub mod source;
pub mod sparkplug;
mod subscription;
pub mod topic;
pub mod transport;

#[doc(hidden)]
pub use fuzz::fuzz_mqtt_packet;
pub use sink::MqttSink;
pub use source::MqttSource;
