//! Kafka dies, freezes, loses its cable: nothing is lost, the ledger adds up.
