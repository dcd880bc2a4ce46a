//! A press shop that speaks OPC UA: for the demo, for tests, and for users who try their YAML.
