//! What is on the disk: topics, their partitions, and journals.

pub mod cleaned;
pub mod compaction;
pub mod damage;
pub mod journal;
pub mod partition;
pub mod producers;
pub mod refused;
pub mod synced;
pub mod topic_config;
pub mod topic_copy;
pub mod topics;
pub mod whole;
pub mod wire;

pub use millrace_batches::{header as batch, records};
