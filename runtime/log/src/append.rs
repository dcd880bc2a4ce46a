//! How a batch gets into a log.
//!
//! A batch is encoded once, into the memory where it is held until an fdatasync has covered it, and written from there with one `pwrite` before
//! `append` returns. What is not synced is read from that memory and never from the file: after a failed fdatasync the page cache
//! may hold anything. `sync.rs`, `read.rs` and `reclaim.rs` say what happens to it then.

use crate::budget::Budget;
use crate::error::{AppendError, Bound};
use crate::format::{BATCH_HEADER, BatchHeader, FOOTER, LAST_APPEND, SEGMENT_HEADER, SegmentHeader};
use crate::fs::Mode;
use crate::recover::{Newest, salt};
use crate::report::Appended;
use crate::segment::{Open, Segment};
use crate::state::{Held, Inner, State};
use crate::sync::APART;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Larger pieces of held memory are not begun, so that little is copied while one grows.
const HELD_PIECE: usize = 512 << 10;

/// Bytes of the budget, given back unless the batch is written.
struct Reserved<'a> {
    pub(crate) budget: Option<&'a Budget>,
    pub(crate) bytes: u64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(budget) = self.budget {
            budget.release(self.bytes);
        }
    }
}

impl Inner {
    pub(crate) fn append(
        &self,
        first: u64,
        next: u64,
        records: u32,
        parts: &[&[u8]],
        uses_kept_free: bool,
    ) -> Result<Appended, AppendError> {
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        if payload > self.options.max_batch as usize {
            return Err(AppendError::TooLarge { bytes: payload as u64, limit: self.options.max_batch.into() });
        }
        let Some(span) = next.checked_sub(first).and_then(|span| u32::try_from(span).ok()).filter(|span| *span > 0) else {
            return Err(AppendError::BadRange { first, next });
        };
        let bytes = (BATCH_HEADER + payload) as u64;
        // Bytes of another member may have to go: no log is locked while the budget decides.
        let mut reserved = Reserved { budget: None, bytes };
        if let Some(budget) = &self.options.budget {
            self.until_room(|| budget.reserve(bytes))?;
            reserved.budget = Some(budget);
        }
        if !uses_kept_free {
            self.until_room(|| self.shared.check_space(bytes)).map_err(|(free, keep)| AppendError::NoSpace { free, keep })?;
        }
        self.until_room(|| self.shared.check_held()).map_err(|(used, limit)| AppendError::Full { bound: Bound::Unsynced, used, limit })?;
        let mut state = self.state.lock();
        if state.closed || self.shared.is_closed() {
            return Err(AppendError::Closed);
        }
        if first < state.end {
            return Err(AppendError::OffsetBehind { first, end: state.end });
        }
        if state.held_bytes >= self.options.unsynced {
            self.refused.store(true, Relaxed);
            self.request_sync(&mut state, APART);
            return Err(AppendError::Full { bound: Bound::Unsynced, used: state.held_bytes, limit: self.options.unsynced });
        }
        // An empty segment may have been begun for a batch at a higher offset, which then failed.
        let full = |segment: &Segment| {
            segment.sealed || first < segment.header.base || segment.batches > 0 && segment.len + bytes > self.segment_bytes
        };
        if state.roll || state.segments.back().is_none_or(full) {
            self.roll(&mut state, first)?;
        }
        let header = BatchHeader {
            crc: 0,
            len: payload as u32,
            first,
            span,
            behind: BatchHeader::behind(first, state.synced),
            total: state.total,
            appended: now_micros(),
            records,
        };
        self.write_batch(&mut state, &header, parts)?;
        reserved.budget = None;
        drop(state);
        self.on_append.each(|observer| observer(next));
        Ok(Appended { first, next, bytes })
    }

    /// Asks for room, and once more after the refusal is known to those who tell about room: none that appears between is missed.
    pub(crate) fn until_room<E>(&self, ask: impl Fn() -> Result<(), E>) -> Result<(), E> {
        ask().or_else(|_| {
            self.refused.store(true, Relaxed);
            ask()
        })
    }

    /// Encodes a batch into held memory and writes it from there to the last segment.
    pub(crate) fn write_batch(&self, state: &mut State, header: &BatchHeader, parts: &[&[u8]]) -> Result<(), AppendError> {
        let segment = state.segments.back_mut().expect("roll made one");
        let open = match &segment.open {
            Some(open) => open.clone(),
            None => self.open_segment(segment).map_err(|source| AppendError::Io { path: segment.path(&self.dir), source })?,
        };
        let (seq, salt, pos) = (segment.header.seq, segment.header.salt, segment.len);
        let fits = |held: &Held| !held.closed && held.seq == seq && held.bytes.len() < HELD_PIECE;
        if !state.held.back().is_some_and(fits) {
            let bytes = self.shared.buffer();
            state.held.push_back(Held { seq, pos, first: header.first, next: header.first, bytes, closed: false });
        }
        let held = state.held.back_mut().expect("just pushed");
        let start = held.bytes.len();
        held.bytes.reserve(header.size());
        held.bytes.resize(start + BATCH_HEADER, 0);
        parts.iter().for_each(|part| held.bytes.extend_from_slice(part));
        header.seal(&mut held.bytes[start..], salt);
        if let Err(source) = open.file.write_all_at(pos, &held.bytes[start..]) {
            held.bytes.truncate(start);
            if held.bytes.is_empty() {
                state.held.pop_back();
            }
            state.faults.failed_writes += 1;
            // What was written of it must not stand where a later batch would hide behind it.
            if open.file.set_len(pos).is_err() {
                state.roll = true;
            }
            return Err(self.write_error(state.segments.back().expect("as above").path(&self.dir), source));
        }
        open.learn(header.first, pos);
        open.touch(self.shared.tick());
        held.next = header.next();
        let size = header.size() as u64;
        segment.len = pos + size;
        segment.next = header.next();
        segment.records += u64::from(header.records);
        segment.newest = pos;
        if segment.batches == 0 {
            segment.first_append = header.appended;
        }
        segment.last_append = header.appended;
        segment.batches += 1;
        state.newest = Some(Newest { seq, pos });
        state.held_bytes += size;
        let held_by_all = self.shared.held.fetch_add(size, Relaxed);
        state.end = header.next();
        state.total += u64::from(header.records);
        self.end.store(state.end, Relaxed);
        self.bytes.fetch_add(size, Relaxed);
        if state.held_bytes >= self.options.unsynced / 2 || self.shared.is_half_full(held_by_all) {
            self.request_sync(state, APART);
        } else {
            self.schedule(state, Instant::now() + self.options.sync);
        }
        Ok(())
    }

    pub fn write_error(&self, path: PathBuf, source: io::Error) -> AppendError {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            self.refused.store(true, Relaxed);
            let (free, keep) = self.shared.found_full();
            return AppendError::NoSpace { free, keep };
        }
        tracing::warn!(log = self.name, "cannot append to {}: {source}", path.display());
        AppendError::Io { path, source }
    }

    /// Seals the last segment and begins a new one for a batch at `first`.
    pub(crate) fn roll(&self, state: &mut State, first: u64) -> Result<(), AppendError> {
        let header = SegmentHeader {
            salt: salt(first, state.next_seq),
            seq: state.next_seq,
            base: first,
            follows: state.end,
            synced: state.synced,
            total: state.total,
        };
        let segment = self.begin_segment(state, header).map_err(|(path, source)| {
            state.faults.failed_writes += 1;
            self.write_error(path, source)
        })?;
        if state.segments.back().is_some_and(|last| last.batches == 0 && !last.sealed) {
            let mut empty = state.segments.pop_back().expect("just looked at");
            self.close_segment(&mut empty);
            self.discount(empty.bytes());
            let _ = self.shared.fs.remove(&empty.path(&self.dir));
        } else {
            self.seal_last(state);
        }
        state.segments.push_back(segment);
        state.roll = false;
        Ok(())
    }

    /// Creates a segment's file with its header; nothing of it stays if that fails.
    pub fn begin_segment(&self, state: &mut State, header: SegmentHeader) -> Result<Segment, (PathBuf, io::Error)> {
        let mut segment = Segment::empty(header);
        let path = segment.path(&self.dir);
        self.shared.make_room_for_open();
        let file = self.shared.fs.open(&path, Mode::New).map_err(|e| (path.clone(), e))?;
        state.next_seq += 1;
        state.dir_unsynced = true;
        if let Err(e) = file.write_all_at(0, &header.encode()) {
            let _ = self.shared.fs.remove(&path);
            return Err((path, e));
        }
        self.shared.open.fetch_add(1, Relaxed);
        segment.open = Some(Open::new(file, self.shared.tick()));
        self.account(SEGMENT_HEADER as u64);
        Ok(segment)
    }

    /// Writes the last segment's footer. It gets no fdatasync of its own: where it is lost the segment is read at the next start.
    pub fn seal_last(&self, state: &mut State) {
        let total = state.total;
        let torn = state.roll;
        let Some(segment) = state.segments.back_mut().filter(|segment| !segment.sealed) else { return };
        segment.sealed = true;
        let Ok(open) = segment.open.clone().map_or_else(|| self.open_segment(segment), Ok) else { return };
        if torn && open.file.set_len(segment.len).is_err() {
            return;
        }
        if open.file.write_all_at(segment.len, &segment.footer(total).encode(segment.header.salt)).is_ok() {
            segment.footer = true;
            self.account(FOOTER as u64);
        } else {
            let _ = open.file.set_len(segment.len);
        }
    }

    /// Bytes that came onto the disk without a reservation.
    pub fn account(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        if let Some(budget) = &self.options.budget {
            budget.charge(bytes);
        }
    }

    /// Bytes that went from the disk; the caller tells about the room when it holds no lock.
    pub fn discount(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
        if let Some(budget) = &self.options.budget {
            budget.release(bytes);
        }
    }
}

pub(crate) fn now_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros().min(LAST_APPEND as u128 - 1) as i64)
}
