//! One open log, as its users have it. What it does is done to [`Inner`], in the files that say so: `append.rs`, `sync.rs`, `read.rs`, `reclaim.rs`,
//! `rewrite.rs`, `lifetime.rs`.

use crate::error::{AppendError, ReadError, StoreError};
use crate::read::{Batch, OwnedBatch, ReadBuf};
use crate::report::{Appended, Faults, SegmentInfo};
use crate::rewrite::Rewrite;
use crate::segment::Segment;
use crate::state::Inner;
use crate::sync::APART;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// An append-only log of opaque batches. Clones share it; every method takes `&self` and may be called from any thread.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

impl Log {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Appends one batch that covers the offsets `first..next`, `first >= end()`; it is written to the file when this returns.
    ///
    /// Shape: `parts` one behind the other are the payload; `records` is counted, not interpreted.
    /// Errors: nothing of the batch is in the log; see [`AppendError`].
    pub fn append(&self, first: u64, next: u64, records: u32, parts: &[&[u8]]) -> Result<Appended, AppendError> {
        self.inner.append(first, next, records, parts, self.inner.options.uses_kept_free)
    }

    /// As [`Log::append`], for what ends something that was begun: it may use what is kept free on the disk. So much of it there can only be as was begun
    /// before.
    pub fn append_end(&self, first: u64, next: u64, records: u32, parts: &[&[u8]]) -> Result<Appended, AppendError> {
        self.inner.append(first, next, records, parts, true)
    }

    /// Offset after the newest batch.
    pub fn end(&self) -> u64 {
        self.inner.end.load(Relaxed)
    }

    /// First offset still in the log; `end()` if there is none.
    pub fn start(&self) -> u64 {
        let state = self.inner.state.lock();
        state.segments.iter().find(|segment| segment.batches > 0).map_or(state.end, |segment| segment.header.base)
    }

    /// Everything below this offset is on the disk.
    pub fn synced(&self) -> u64 {
        self.inner.synced.load(Relaxed)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.inner.bytes.load(Relaxed)
    }

    /// Records appended since the log was created.
    pub fn records(&self) -> u64 {
        self.inner.state.lock().total
    }

    /// The end, and the records appended up to there since the log was created, as of one moment.
    pub fn head(&self) -> (u64, u64) {
        let state = self.inner.state.lock();
        (state.end, state.total)
    }

    /// Someone waits for what is appended by now: the next fdatasync starts when the last one has ended, but not within 5 ms of it.
    pub fn want_sync(&self) {
        self.inner.want_sync(APART);
    }

    /// As [`Log::want_sync`], at once when the last one has ended: for steps that wait for each other, where the rests between would add up.
    pub fn want_sync_at_once(&self) {
        self.inner.want_sync(Duration::ZERO);
    }

    /// As [`Log::want_sync`], with another least time between two syncs.
    pub fn want_sync_within(&self, apart: Duration) {
        self.inner.want_sync(apart);
    }

    /// Syncs what is appended by now, on this thread.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }

    /// Calls `observer` with the new `synced()` after each sync.
    pub fn on_sync(&self, observer: impl Fn(u64) + Send + Sync + 'static) {
        self.inner.on_sync.add(Arc::new(observer));
    }

    /// Calls `observer` with the new `end()` after each append.
    pub fn on_append(&self, observer: impl Fn(u64) + Send + Sync + 'static) {
        self.inner.on_append.add(Arc::new(observer));
    }

    /// Calls `observer` when an append that was refused (`Full`, `NoSpace`) is worth another try.
    pub fn on_room(&self, observer: impl Fn() + Send + Sync + 'static) {
        self.inner.on_room.add(Arc::new(observer));
    }

    pub fn faults(&self) -> Faults {
        self.inner.state.lock().faults.clone()
    }

    /// Reads whole batches from the one that holds offset `from`, or the first after it: at least one if there is one, then up to
    /// `max_bytes`. Returns how many; 0 at the end.
    pub fn read(&self, from: u64, max_bytes: usize, buf: &mut ReadBuf) -> Result<usize, ReadError> {
        self.inner.read(from, max_bytes, buf)
    }

    /// The last batch.
    pub fn newest(&self) -> Result<Option<OwnedBatch>, ReadError> {
        self.inner.newest()
    }

    /// Moves a cursor in memory; [`Log::save_cursors`] makes it durable. `note` is the caller's and is kept with it.
    pub fn set_cursor(&self, name: &str, offset: u64, note: &[u8]) {
        self.inner.set_cursor(name, offset, note);
    }

    pub fn cursor(&self, name: &str) -> Option<(u64, Vec<u8>)> {
        self.inner.state.lock().cursors.by_name.get(name).map(|cursor| (cursor.offset, cursor.note.clone()))
    }

    pub fn cursors(&self) -> Vec<(String, u64, Vec<u8>)> {
        let state = self.inner.state.lock();
        state.cursors.by_name.iter().map(|(name, cursor)| (name.clone(), cursor.offset, cursor.note.clone())).collect()
    }

    /// Forgets a cursor, so that it holds nothing back any more.
    pub fn remove_cursor(&self, name: &str) {
        self.inner.state.lock().cursors.by_name.remove(name);
    }

    /// Makes the cursors, their notes and [`Log::dropped`] durable.
    pub fn save_cursors(&self) -> Result<(), StoreError> {
        self.inner.save_cursors()
    }

    /// Records that `DropOldest` removed though a cursor still needed them; survives restarts.
    pub fn dropped(&self) -> u64 {
        self.inner.state.lock().cursors.dropped
    }

    /// Bytes that [`Log::reclaim`] would free.
    pub fn reclaimable(&self) -> u64 {
        self.inner.reclaimable()
    }

    /// Saves the cursors, then deletes the segments wholly behind the slowest one; returns the bytes freed.
    /// The segment of the newest batch stays. Without any cursor nothing goes.
    pub fn reclaim(&self) -> Result<u64, StoreError> {
        self.inner.reclaim()
    }

    /// Deletes the segments wholly below `offset`, whatever the cursors say; returns the bytes freed.
    pub fn delete_below(&self, offset: u64) -> Result<u64, StoreError> {
        self.inner.delete_below(offset)
    }

    /// Ends the last segment, so that the next batch begins another. False: it was ended before, or is empty.
    pub fn seal(&self) -> bool {
        self.inner.seal()
    }

    /// Writes the sealed segment that begins at `base` anew, each batch as `decide` says; returns the bytes freed. Nothing is done to a
    /// segment that is not sealed and synced, or that holds the newest batch.
    pub fn rewrite(&self, base: u64, decide: &mut dyn FnMut(Batch<'_>) -> Rewrite) -> Result<u64, StoreError> {
        self.inner.rewrite(base, decide)
    }

    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.inner.state.lock().segments.iter().map(Segment::info).collect()
    }
}
