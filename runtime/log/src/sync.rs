//! When a log is synced, and what happens when that fails.
//!
//! Group commit: while someone waits, the next fdatasync starts when the last one has ended, but not within 5 ms of it, unless one is in a
//! hurry; otherwise every `LogOptions::sync`. A log that is idle is not synced and not looked at.
//!
//! A failed fdatasync may have thrown the written pages away and reports it once; another one on the same file would succeed and mean nothing. So what is
//! not synced is written again, from memory, into a new segment, which voids it in the old one, and that is synced. While the disk goes
//! on failing, each further try is a new segment again, after 1 s, then 2 s, up to 30 s. Appends go on until the memory for
//! what is not synced is full.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::format::{BATCH_HEADER, BatchHeader, SegmentHeader};
use crate::recover::{Newest, salt};
use crate::segment::Open;
use crate::state::{Inner, State, Trouble};

/// Least time between the end of a sync and the start of the next, where nobody is in a hurry.
pub const APART: Duration = Duration::from_millis(5);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What one sync covers.
struct Covered {
    end: u64,
    files: Vec<(PathBuf, Arc<Open>)>,
    dir: bool,
}

impl Inner {
    /// Asks for a sync at a time, unless an earlier one is due.
    pub fn schedule(&self, state: &mut State, at: Instant) {
        if state.syncing || state.scheduled.is_some_and(|due| due <= at) {
            return;
        }
        state.scheduled = Some(at);
        self.shared.schedule(at, self.id, self.this.clone());
    }

    /// Asks for a sync as soon as the last one is so long ago.
    pub fn request_sync(&self, state: &mut State, apart: Duration) {
        if state.synced == state.end {
            return;
        }
        let apart = state.wanted.map_or(apart, |other| other.min(apart));
        state.wanted = Some(apart);
        let now = Instant::now();
        let at = state.last_sync.map_or(now, |last| now.max(last + apart));
        let at = state.trouble.as_ref().map_or(at, |trouble| at.max(trouble.retry_at));
        self.schedule(state, at);
    }

    pub fn want_sync(&self, apart: Duration) {
        self.request_sync(&mut self.state.lock(), apart);
    }

    /// A syncer's call; does nothing if the log was synced or scheduled anew since.
    pub fn sync_if_scheduled(&self, at: Instant) {
        let one = self.sync_lock.lock();
        if self.state.lock().scheduled != Some(at) {
            return;
        }
        let result = self.sync_once(false);
        drop(one);
        // A failure is in `faults()` and is tried again; there is nobody to tell here.
        if let Ok(Some(end)) = result {
            self.tell_synced(end);
        }
    }

    pub fn sync(&self) -> Result<(), StoreError> {
        let one = self.sync_lock.lock();
        let result = self.sync_once(true).or_else(|_| self.sync_once(true));
        drop(one);
        if let Some(end) = result.map_err(|(path, e)| StoreError::io("sync", &path)(e))? {
            self.tell_synced(end);
        }
        Ok(())
    }

    fn tell_synced(&self, end: u64) {
        self.on_sync.each(|observer| observer(end));
        self.tell_room();
        self.shared.tell_if_held_was_refused();
    }

    /// One sync; the caller holds `sync_lock`. Returns what it reached, `None` if there was nothing to do.
    /// In trouble it waits for its next try unless it is `urgent`.
    fn sync_once(&self, urgent: bool) -> Result<Option<u64>, (PathBuf, io::Error)> {
        let covered = {
            let mut state = self.state.lock();
            state.scheduled = None;
            if state.closed {
                return Ok(None);
            }
            if let Some(trouble) = &state.trouble {
                let retry_at = trouble.retry_at;
                if !urgent && Instant::now() < retry_at {
                    self.schedule(&mut state, retry_at);
                    return Ok(None);
                }
                if let Err(failure) = self.write_again(&mut state) {
                    self.in_trouble(&mut state, &failure);
                    return Err(failure);
                }
            }
            let Some(covered) = self.cover(&mut state) else { return Ok(None) };
            (state.syncing, state.wanted) = (true, None);
            covered
        };
        let result = self.sync_files(&covered);
        let mut state = self.state.lock();
        state.syncing = false;
        state.last_sync = Some(Instant::now());
        if let Err(failure) = result {
            state.faults.failed_syncs += 1;
            state.dir_unsynced |= covered.dir;
            let first = state.trouble.is_none();
            self.in_trouble(&mut state, &failure);
            if let Some(trouble) = state.trouble.as_mut().filter(|_| first) {
                // The new segment is tried at once; only when that fails too the disk gets time.
                trouble.retry_at = Instant::now();
                state.scheduled = None;
                self.schedule(&mut state, Instant::now());
            }
            return Err(failure);
        }
        self.covered(&mut state, covered.end);
        Ok(Some(covered.end))
    }

    /// What has to be synced now; `None`: nothing.
    fn cover(&self, state: &mut State) -> Option<Covered> {
        let mut files: Vec<(PathBuf, Arc<Open>)> = Vec::new();
        let from = state.held.front().map_or(u64::MAX, |held| held.seq);
        let begin = state.segments.partition_point(|segment| segment.header.seq < from);
        for segment in state.segments.range(begin..) {
            if state.held.iter().any(|held| held.seq == segment.header.seq) {
                let open = segment.open.clone().expect("a segment that holds something unsynced stays open");
                files.push((segment.path(&self.dir), open));
            }
        }
        if files.is_empty() && !state.dir_unsynced {
            return None;
        }
        state.held.iter_mut().for_each(|held| held.closed = true);
        Some(Covered { end: state.end, files, dir: std::mem::take(&mut state.dir_unsynced) })
    }

    fn sync_files(&self, covered: &Covered) -> Result<(), (PathBuf, io::Error)> {
        for (path, open) in &covered.files {
            open.file.sync_data().map_err(|e| (path.clone(), e))?;
        }
        if covered.dir {
            self.shared.fs.sync_dir(&self.dir).and_then(|()| self.sync_name()).map_err(|e| (self.dir.clone(), e))?;
        }
        Ok(())
    }

    /// Lets go of what is on the disk now.
    fn covered(&self, state: &mut State, end: u64) {
        while state.held.front().is_some_and(|held| held.next <= end) {
            let held = state.held.pop_front().expect("there is a first one");
            state.held_bytes -= held.bytes.len() as u64;
            self.shared.held.fetch_sub(held.bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
            self.shared.recycle(held.bytes);
        }
        state.synced = end;
        self.synced.store(end, std::sync::atomic::Ordering::Relaxed);
        self.close_if_crowded(state);
        if state.trouble.take().is_some() {
            state.faults.now = None;
            tracing::info!(log = self.name, "the disk syncs again");
        }
        if let Some(apart) = state.wanted.take() {
            self.request_sync(state, apart);
        } else if !state.held.is_empty() {
            self.schedule(state, Instant::now() + self.options.sync);
        }
    }

    fn in_trouble(&self, state: &mut State, (path, e): &(PathBuf, io::Error)) {
        let attempts = state.trouble.as_ref().map_or(0, |trouble| trouble.attempts);
        let wait = FIRST_RETRY.saturating_mul(1 << attempts.min(5)).min(LAST_RETRY);
        let retry_at = Instant::now() + wait;
        state.trouble = Some(Trouble { attempts: attempts + 1, retry_at });
        let text = format!("cannot sync {}: {e}", path.display());
        if attempts == 0 {
            tracing::warn!(log = self.name, "the disk fails: {text}; what is not synced is written again into a new segment");
        }
        state.faults.now = Some(text);
        self.schedule(state, retry_at);
    }

    /// Writes all that is held into a new segment; the old places of it are void from then on.
    fn write_again(&self, state: &mut State) -> Result<(), (PathBuf, io::Error)> {
        let Some(front) = state.held.front() else {
            return Ok(()); // the directory alone failed: nothing that was appended is at stake
        };
        let (bad_seq, bad_pos, first) = (front.seq, front.pos, front.first);
        let front_header = BatchHeader::decode(front.bytes.first_chunk::<BATCH_HEADER>().expect("a held batch has a header"));
        let header = SegmentHeader {
            salt: salt(first, state.next_seq),
            seq: state.next_seq,
            base: first,
            follows: state.synced,
            synced: state.synced,
            total: front_header.total,
        };
        let mut segment = self.begin_segment(state, header)?;
        let path = segment.path(&self.dir);
        let file = segment.open.as_ref().expect("just begun").file.clone();
        let mut written = Ok(());
        for held in &mut state.held {
            let (mut at, pos) = (0, segment.len);
            while let Some(chunk) = held.bytes[at..].first_chunk::<BATCH_HEADER>() {
                let batch = BatchHeader::decode(chunk);
                batch.seal(&mut held.bytes[at..at + batch.size()], header.salt);
                if segment.batches == 0 {
                    segment.first_append = batch.appended;
                }
                segment.last_append = batch.appended;
                segment.batches += 1;
                segment.records += u64::from(batch.records);
                segment.newest = pos + at as u64;
                segment.next = batch.next();
                at += batch.size();
            }
            written = written.and_then(|()| file.write_all_at(pos, &held.bytes));
            segment.len = pos + at as u64;
        }
        if let Err(e) = written {
            // Held memory has the new salt now, the old file the old one; only the new segment that succeeds will be read.
            self.close_segment(&mut segment);
            let _ = self.shared.fs.remove(&path);
            self.discount(crate::format::SEGMENT_HEADER as u64);
            return Err((path, e));
        }
        self.account(segment.len - crate::format::SEGMENT_HEADER as u64);
        self.void(state, bad_seq, bad_pos, header.total, front_header.appended);
        let mut pos = crate::format::SEGMENT_HEADER as u64;
        for held in &mut state.held {
            (held.seq, held.pos) = (header.seq, pos);
            pos += held.bytes.len() as u64;
        }
        state.newest = Some(Newest { seq: header.seq, pos: segment.newest });
        state.segments.push_back(segment);
        state.roll = false;
        Ok(())
    }

    /// Cuts off what was written again elsewhere: all behind a position of one segment, and the segments after it.
    fn void(&self, state: &mut State, seq: u64, pos: u64, total: u64, appended: i64) {
        while let Some(mut last) = state.segments.pop_back() {
            let bytes = last.bytes();
            let rest = last.header.seq == seq && pos > crate::format::SEGMENT_HEADER as u64;
            if !rest && last.header.seq >= seq {
                self.close_segment(&mut last);
                let _ = self.shared.fs.remove(&last.path(&self.dir));
                self.discount(bytes);
                continue;
            }
            if last.header.seq == seq {
                if let Some(open) = &last.open {
                    let _ = open.file.set_len(pos);
                }
                last.len = pos;
                last.next = state.synced;
                last.records = total - last.header.total;
                last.last_append = appended;
                last.footer = false;
                self.discount(bytes - last.bytes());
                // Where its newest batch stands is not known; the footer that would say so is written by the next start.
                last.newest = 0;
                last.epoch += 1;
                self.close_segment(&mut last);
            }
            last.sealed = true;
            state.segments.push_back(last);
            return;
        }
    }
}
