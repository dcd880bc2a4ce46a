//! MQTT: a source that acknowledges only what the log has synced, a sink that commits only what the broker acknowledged, and Sparkplug B as a host.
//!
//! - [`packet`]: MQTT 3.1.1 and 5 on the wire, both directions; pure.
//! - [`topic`]: filters, what their wildcards matched, and templates made of that.
//! - [`session`]: one connection: transport, CONNECT, keep-alive, subscriptions, a read loop that never outgrows its buffer.
//! - [`payload`]: what a subscription makes of a message.
//! - [`source`]: connections, batches, and acknowledgements in order of receipt once they are durable.
//! - [`sink`]: records of Kafka as publishes, within the broker's window.
//! - [`browse`]: what a broker says, as YAML to paste.
//! - [`sparkplug`]: births, aliases, sequence numbers, rebirths.
//! - [`config`]: the keys of the YAML, and what they compile to.
//!
//! Invariants: no packet is acknowledged on another connection than the one it came on; no length on the wire is believed before it is checked;
//! nothing is published by the source but Sparkplug's rebirth requests and STATE, and those not with `host: {passive: true}`.

pub mod packet;
pub mod topic;
