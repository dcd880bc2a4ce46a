//! What a client is told when a topic is not made, changed or deleted.

use kafka_protocol::ResponseError;

/// Kafka's code, and a sentence for the client in Kafka's own words.
pub type Refused = (ResponseError, String);
