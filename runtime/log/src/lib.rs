//! A segmented, checksummed, append-only log of opaque batches.

mod budget;
mod error;
pub mod fs;
mod log;
mod store;

pub use budget::{Budget, Full};
pub use error::{AppendError, Bound, ReadError, StoreError};
pub use log::{Appended, Batch, Faults, Log, LogOptions, OwnedBatch, Quarantined, ReadBuf, Recovery, SegmentInfo};
pub use store::{KeepFree, Store, StoreOptions};
