//! Sinks by consumer groups: offsets behind flushes, rebalances, refused records.
