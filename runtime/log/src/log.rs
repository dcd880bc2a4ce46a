//! One log: append, sync, read, cursors, reclaim.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::Budget;
use crate::error::{AppendError, ReadError, StoreError};

#[derive(Clone)]
pub struct LogOptions {
    /// A segment is sealed when it has grown to this; default 16 MiB, at most a sixteenth of the budget.
    pub segment_bytes: u64,
    /// How long an appended batch waits for its fdatasync when nobody asks for it; default 200 ms.
    pub sync: Duration,
    /// First offset of a log that is new; default 0.
    pub start: u64,
    pub budget: Option<Arc<Budget>>,
    /// Within a budget, the log with the lowest priority is the first to lose segments.
    pub priority: u8,
    /// Largest batch; default 64 MiB.
    pub max_batch: u32,
    /// Bytes held in memory until synced; beyond it appends are refused. Default 16 MiB.
    pub unsynced: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            sync: Duration::from_millis(200),
            start: 0,
            budget: None,
            priority: 0,
            max_batch: 64 << 20,
            unsynced: 16 << 20,
        }
    }
}

/// What opening a log found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// The directory held no log yet.
    pub created: bool,
    /// Bytes of a torn tail that were cut off; nothing of it was synced.
    pub truncated_bytes: u64,
    pub quarantined: Vec<Quarantined>,
    /// Records of the quarantined places; `None`: unknown.
    pub records_lost: Option<u64>,
    /// Bytes read to recover.
    pub scanned_bytes: u64,
}

/// A segment file set aside because a part of it is corrupt.
#[derive(Clone, Debug)]
pub struct Quarantined {
    pub path: PathBuf,
    pub reason: String,
    /// Bytes that could not be used.
    pub bytes: u64,
    /// Records in them; `None`: unknown.
    pub records: Option<u64>,
}

/// Where a batch went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    pub first: u64,
    /// The log's new end.
    pub next: u64,
    /// Bytes on disk with the batch's header.
    pub bytes: u64,
}

/// A batch as it was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch<'a> {
    pub first: u64,
    pub next: u64,
    pub records: u32,
    /// Microseconds since 1970.
    pub appended: i64,
    pub payload: &'a [u8],
}

/// A batch with memory of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedBatch {
    pub first: u64,
    pub next: u64,
    pub records: u32,
    /// Microseconds since 1970.
    pub appended: i64,
    pub payload: Vec<u8>,
}

/// Memory for reads, and the place where the last one ended. Keep one for each reader.
#[derive(Default)]
pub struct ReadBuf {}

impl ReadBuf {
    pub fn new() -> Self {
        Self::default()
    }

    /// Batches of the last read, in order of their offsets.
    pub fn batches(&self) -> impl ExactSizeIterator<Item = Batch<'_>> {
        std::iter::empty()
    }

    pub fn len(&self) -> usize {
        self.batches().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A segment as retention sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentInfo {
    pub base: u64,
    pub next: u64,
    pub bytes: u64,
    pub records: u64,
    /// Microseconds since 1970 of the first batch; 0 in an empty segment.
    pub first_append: i64,
    pub last_append: i64,
    pub sealed: bool,
}

/// What went wrong with a log's disk since it was opened.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub failed_writes: u64,
    pub failed_syncs: u64,
    /// The last failure, while it lasts.
    pub now: Option<String>,
    pub quarantined: Vec<Quarantined>,
    /// Records in quarantined places found since the log was opened.
    pub records_lost: u64,
}

/// An append-only log of opaque batches. Clones share it; every method takes `&self` and may be called from any thread.
#[derive(Clone)]
pub struct Log {}

impl Log {
    pub fn name(&self) -> &str {
        todo!()
    }

    /// Appends one batch that covers the offsets `first..next`, `first >= end()`; it is written to the file when this returns.
    pub fn append(&self, _first: u64, _next: u64, _records: u32, _parts: &[&[u8]]) -> Result<Appended, AppendError> {
        todo!()
    }

    /// Offset after the newest batch.
    pub fn end(&self) -> u64 {
        todo!()
    }

    /// First offset still in the log.
    pub fn start(&self) -> u64 {
        todo!()
    }

    /// Everything below this offset is on the disk.
    pub fn synced(&self) -> u64 {
        todo!()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        todo!()
    }

    /// Records appended since the log was created.
    pub fn records(&self) -> u64 {
        todo!()
    }

    /// Someone waits for what is appended by now: the next fdatasync starts when the last one has ended, but not within 5 ms of it.
    pub fn want_sync(&self) {
        todo!()
    }

    /// Syncs what is appended by now, on this thread.
    pub fn sync(&self) -> Result<u64, StoreError> {
        todo!()
    }

    /// Calls `observer` with the new `synced()` after each sync.
    pub fn on_sync(&self, _observer: impl Fn(u64) + Send + Sync + 'static) {
        todo!()
    }

    /// Calls `observer` with the new `end()` after each append.
    pub fn on_append(&self, _observer: impl Fn(u64) + Send + Sync + 'static) {
        todo!()
    }

    /// Calls `observer` when an append that was refused (`Full`, `NoSpace`) is worth another try.
    pub fn on_room(&self, _observer: impl Fn() + Send + Sync + 'static) {
        todo!()
    }

    pub fn faults(&self) -> Faults {
        todo!()
    }

    /// Reads whole batches from the one that holds offset `from`, or the first after it: at least one if there is one, then up to
    /// `max_bytes`. Returns how many.
    pub fn read(&self, _from: u64, _max_bytes: usize, _buf: &mut ReadBuf) -> Result<usize, ReadError> {
        todo!()
    }

    /// The last batch.
    pub fn newest(&self) -> Result<Option<OwnedBatch>, ReadError> {
        todo!()
    }

    /// Moves a cursor in memory; [`Log::save_cursors`] makes it durable. `note` is the caller's and is kept with it.
    pub fn set_cursor(&self, _name: &str, _offset: u64, _note: &[u8]) {
        todo!()
    }

    pub fn cursor(&self, _name: &str) -> Option<(u64, Vec<u8>)> {
        todo!()
    }

    pub fn cursors(&self) -> Vec<(String, u64, Vec<u8>)> {
        todo!()
    }

    /// Forgets a cursor, so that it holds nothing back any more.
    pub fn remove_cursor(&self, _name: &str) {
        todo!()
    }

    /// Makes the cursors, their notes and [`Log::dropped`] durable.
    pub fn save_cursors(&self) -> Result<(), StoreError> {
        todo!()
    }

    /// Records that `DropOldest` removed though a cursor still needed them; survives restarts.
    pub fn dropped(&self) -> u64 {
        todo!()
    }

    /// Bytes that [`Log::reclaim`] would free.
    pub fn reclaimable(&self) -> u64 {
        todo!()
    }

    /// Saves the cursors, then deletes the segments wholly behind the slowest one; returns the bytes freed.
    /// The segment of the newest batch stays. Without any cursor nothing goes.
    pub fn reclaim(&self) -> Result<u64, StoreError> {
        todo!()
    }

    /// Deletes the segments wholly below `offset`, whatever the cursors say; returns the bytes freed.
    pub fn delete_below(&self, _offset: u64) -> Result<u64, StoreError> {
        todo!()
    }

    pub fn segments(&self) -> Vec<SegmentInfo> {
        todo!()
    }
}
