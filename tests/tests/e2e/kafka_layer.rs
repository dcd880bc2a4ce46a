//! The Kafka layer against a real broker: topics, errors and their outcomes, TLS, SASL.
