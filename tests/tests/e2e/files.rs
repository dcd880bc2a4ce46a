//! Files into Kafka and back.
