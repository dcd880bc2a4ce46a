//! Sparkplug B edge nodes of two ecosystems into Kafka.
