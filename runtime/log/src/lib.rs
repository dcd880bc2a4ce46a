//! A segmented, checksummed, append-only log of opaque batches.
//!
//! The queue between a source and Kafka, and the partitions of the embedded broker: hundreds of logs in one process.
//!
//! ```text
//! Store   one directory, open in one process: lock, boot id, room on the disk, a few threads that sync
//!   Log   append ─> held in memory and written to the last segment ─> fdatasync ─> synced, let go of
//!         read   <─ memory while it is not synced, the segment's file when it is
//!         cursors, each with a note, durable before a segment behind the slowest one is deleted
//! Budget  the bytes of several logs together, and what happens at the bound
//! ```
//!
//! - What `append` has returned survives kill -9; what `synced()` covers survives a power cut. A failed write leaves nothing behind.
//! - A batch takes a range of offsets; offsets only grow, and may jump upward. A batch is read whole or not at all.
//! - Recovery reads the last segment, not the log. A torn tail is cut off, a corrupt place is set aside and counted, the rest goes on.
//! - Memory: what is not synced, at most `LogOptions::unsynced` and one batch for each log; no file is open and no thread waits for an idle log.
//! - It does not look into batches, compress, or know topics; it knows none of our crates and no async runtime.
//!
//! Observers ([`Log::on_sync`] and the like) are called on the thread that appended or synced, with no lock held; they should only wake somebody up.

mod append;
mod blocks;
mod budget;
mod crc;
mod cursors;
mod error;
pub mod faulty;
mod format;
pub mod fs;
#[doc(hidden)]
pub mod fuzz;
mod lifetime;
mod log;
mod names;
pub mod offline;
mod on_disk;
mod prefixes;
mod read;
mod reclaim;
mod recover;
mod report;
mod resync;
mod rewrite;
mod salvage;
mod scan;
mod segment;
mod shared;
mod state;
mod store;
mod sync;

pub use budget::{Budget, Full};
pub use error::{AppendError, Bound, ReadError, StoreError};
pub use log::Log;
pub use read::{Batch, OwnedBatch, ReadBuf};
pub use report::{Appended, Faults, Quarantined, Recovery, Salvaged, SegmentInfo};
pub use rewrite::Rewrite;
pub use shared::{KeepFree, StoreOptions};
pub use state::LogOptions;
pub use store::Store;
pub use sync::APART;
