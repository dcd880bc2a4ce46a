//! The embedded Kafka-protocol broker: one node, durable, on the log that the connectors use; knows no connectors and no records.
