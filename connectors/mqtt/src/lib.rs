//! MQTT: a source that acknowledges only what the log has synced, a sink that commits only what the broker acknowledged, and Sparkplug B as a host.
//!
//! - [`packet`]: MQTT 3.1.1 and 5 on the wire, both directions; pure.
//! - [`topic`]: filters, what their wildcards matched, and templates made of that.
//! - [`transport`]: from an endpoint to a stream of bytes: TCP, TLS, WebSocket.
//! - [`session`]: one connection: CONNECT, keep-alive, a buffer each way.
//! - [`payload`]: what a subscription makes of a payload.
//! - [`routes`]: from a message to rows, documents and rejects.
//! - [`kept`]: what of a session is part of the source's position.
//! - [`source`]: connections, batches, and acknowledgements in order of receipt once they are durable.
//! - [`sink`]: records of Kafka as publishes, within the broker's window.
//! - [`mod@browse`]: what a broker says, as YAML to paste.
//! - [`sparkplug`]: births, aliases, sequence numbers, rebirths.
//! - [`config`]: the keys of the YAML, and what they compile to.
//!
//! Invariants: no packet is acknowledged on another connection than the one it came on; no length on the wire is believed before it is checked;
//! nothing is published by the source but Sparkplug's rebirth requests and STATE, and those not with `host: {passive: true}`.

pub mod browse;
pub mod config;
pub mod kept;
pub mod packet;
pub mod payload;
pub mod routes;
pub mod session;
pub mod sink;
pub mod source;
pub mod sparkplug;
pub mod topic;
pub mod transport;

#[doc(hidden)]
pub use packet::fuzz_mqtt_packet;
pub use sink::MqttSink;
pub use source::MqttSource;
