//! MQTT into Kafka: payloads, versions, logins, sessions.
