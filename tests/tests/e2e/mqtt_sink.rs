//! Topics of Kafka onto a real MQTT broker.
