//! What `millrace doctor` looks at beside the machine's own files: rights in Kafka, and clocks.

pub mod clocks;
pub mod finding;
pub mod rights;
