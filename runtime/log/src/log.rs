//! One open log: its state, and how a batch gets into it.
//!
//! A batch is encoded once, into the memory where it is held until an fdatasync has covered it, and written from there with one `pwrite` before
//! `append` returns. What is not synced is read from that memory and never from the file: after a failed fdatasync the page cache
//! may hold anything. `sync.rs`, `read.rs` and `reclaim.rs` say what happens to it then.
//!
//! One mutex guards the state; nothing but a write to the file happens under it. Observers are called without it.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};

use crate::budget::Budget;
use crate::cursors::{CursorFiles, Cursors};
use crate::error::{AppendError, Bound, ReadError, StoreError};
use crate::format::{BATCH_HEADER, BatchHeader, FOOTER, SEGMENT_HEADER, SegmentHeader};
use crate::fs::Mode;
use crate::read::{Batch, OwnedBatch, ReadBuf};
use crate::recover::{Newest, recover, salt};
use crate::rewrite::Rewrite;
use crate::segment::{Open, Segment};
use crate::store::Shared;
use crate::sync::APART;

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
    /// Appends may use what is to be kept free on the disk: for a small log that tells what may go. Default: no.
    pub uses_kept_free: bool,
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
            uses_kept_free: false,
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

/// Batches held in memory until they are synced; they stand one behind the other in one segment.
pub(crate) struct Held {
    pub seq: u64,
    /// Position of the first one.
    pub pos: u64,
    pub first: u64,
    pub next: u64,
    pub bytes: Vec<u8>,
    /// A sync has begun that covers it: nothing is added.
    pub closed: bool,
}

/// Larger pieces of held memory are not begun, so that little is copied while one grows.
const HELD_PIECE: usize = 512 << 10;

pub(crate) struct State {
    /// In order; the last one is appended to unless it is sealed.
    pub segments: VecDeque<Segment>,
    pub next_seq: u64,
    pub end: u64,
    pub synced: u64,
    /// Records appended since the log was created.
    pub total: u64,
    pub newest: Option<Newest>,
    pub held: VecDeque<Held>,
    pub held_bytes: u64,
    /// The last segment takes no more batches: its file is in an unknown state.
    pub roll: bool,
    /// A name may have been created or removed since the directory was synced.
    pub dir_unsynced: bool,
    pub syncing: bool,
    /// Someone waits for a sync, which may start so long after the last one.
    pub wanted: Option<Duration>,
    pub scheduled: Option<Instant>,
    pub last_sync: Option<Instant>,
    pub trouble: Option<Trouble>,
    pub faults: Faults,
    pub cursors: Cursors,
    pub closed: bool,
}

impl State {
    /// Records appended below `synced`.
    pub fn synced_total(&self) -> u64 {
        let unsynced = self.held.front().and_then(|held| held.bytes.first_chunk::<BATCH_HEADER>());
        unsynced.map_or(self.total, |header| BatchHeader::decode(header).total)
    }
}

/// A disk that does not sync.
pub(crate) struct Trouble {
    pub attempts: u32,
    pub retry_at: Instant,
}

type Observed<T> = Arc<Vec<Arc<T>>>;

pub(crate) struct Observers<T: ?Sized>(RwLock<Observed<T>>);

impl<T: ?Sized> Observers<T> {
    fn none() -> Self {
        Self(RwLock::new(Arc::new(Vec::new())))
    }

    fn add(&self, observer: Arc<T>) {
        let mut list = self.0.write();
        let mut more = Vec::clone(&list);
        more.push(observer);
        *list = Arc::new(more);
    }

    pub fn each(&self, call: impl Fn(&T)) {
        let list = self.0.read().clone();
        list.iter().for_each(|observer| call(observer));
    }
}

type OnOffset = dyn Fn(u64) + Send + Sync;
type OnRoom = dyn Fn() + Send + Sync;

pub(crate) struct Inner {
    pub id: u64,
    pub name: String,
    pub dir: PathBuf,
    pub options: LogOptions,
    pub segment_bytes: u64,
    pub shared: Arc<Shared>,
    pub this: Weak<Self>,
    pub state: Mutex<State>,
    pub sync_lock: Mutex<()>,
    pub drop_lock: Mutex<()>,
    pub cursor_files: Mutex<CursorFiles>,
    pub end: AtomicU64,
    pub synced: AtomicU64,
    pub bytes: AtomicU64,
    /// As in the state, for those who must not lock it.
    closed: AtomicBool,
    /// The log's own directory may be new and its name not durable yet.
    name_unsynced: AtomicBool,
    /// An append was refused for want of room since the observers were told last.
    pub refused: AtomicBool,
    pub on_append: Observers<OnOffset>,
    pub on_sync: Observers<OnOffset>,
    on_room: Observers<OnRoom>,
}

/// Bytes of the budget, given back unless the batch is written.
struct Reserved<'a> {
    budget: Option<&'a Budget>,
    bytes: u64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(budget) = self.budget {
            budget.release(self.bytes);
        }
    }
}

impl Inner {
    pub fn open(id: u64, name: &str, dir: PathBuf, options: LogOptions, shared: Arc<Shared>) -> Result<(Arc<Self>, Recovery), StoreError> {
        let found = recover(&*shared.fs, &dir, options.start)?;
        let bytes: u64 = found.segments.iter().map(Segment::bytes).sum();
        let state = State {
            next_seq: found.next_seq,
            end: found.end,
            synced: found.end,
            total: found.total,
            newest: found.newest,
            held: VecDeque::new(),
            held_bytes: 0,
            roll: false,
            // A name may have been created just before a crash and its segment be in use again now.
            dir_unsynced: true,
            syncing: false,
            wanted: None,
            scheduled: None,
            last_sync: None,
            trouble: None,
            faults: Faults::default(),
            cursors: found.cursors,
            closed: false,
            segments: found.segments,
        };
        let budget = options.budget.clone();
        let inner = Arc::new_cyclic(|this| Self {
            id,
            name: name.to_owned(),
            dir,
            segment_bytes: budget.as_ref().map_or(options.segment_bytes, |budget| budget.segment_bytes(options.segment_bytes)),
            options,
            shared,
            this: this.clone(),
            end: AtomicU64::new(state.end),
            synced: AtomicU64::new(state.synced),
            bytes: AtomicU64::new(bytes),
            closed: AtomicBool::new(false),
            name_unsynced: AtomicBool::new(true),
            refused: AtomicBool::new(false),
            state: Mutex::new(state),
            sync_lock: Mutex::new(()),
            drop_lock: Mutex::new(()),
            cursor_files: Mutex::new(found.cursor_files),
            on_append: Observers::none(),
            on_sync: Observers::none(),
            on_room: Observers::none(),
        });
        if let Some(budget) = budget {
            budget.charge(bytes);
            budget.join(&inner);
        }
        Ok((inner, found.report))
    }

    fn append(&self, first: u64, next: u64, records: u32, parts: &[&[u8]]) -> Result<Appended, AppendError> {
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
        if !self.options.uses_kept_free {
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
    fn until_room<E>(&self, ask: impl Fn() -> Result<(), E>) -> Result<(), E> {
        ask().or_else(|_| {
            self.refused.store(true, Relaxed);
            ask()
        })
    }

    /// Encodes a batch into held memory and writes it from there to the last segment.
    fn write_batch(&self, state: &mut State, header: &BatchHeader, parts: &[&[u8]]) -> Result<(), AppendError> {
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
    fn roll(&self, state: &mut State, first: u64) -> Result<(), AppendError> {
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

    /// Opens a segment's file and keeps it open.
    pub fn open_segment(&self, segment: &mut Segment) -> io::Result<Arc<Open>> {
        self.shared.make_room_for_open();
        let open = Open::new(self.shared.fs.open(&segment.path(&self.dir), Mode::Write)?, self.shared.tick());
        self.shared.open.fetch_add(1, Relaxed);
        segment.open = Some(open.clone());
        Ok(open)
    }

    pub fn close_segment(&self, segment: &mut Segment) {
        if segment.open.take().is_some() {
            self.shared.open.fetch_sub(1, Relaxed);
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

    /// Makes the name of the log's directory durable, once.
    pub fn sync_name(&self) -> io::Result<()> {
        if self.name_unsynced.load(Relaxed) {
            self.shared.fs.sync_dir(self.dir.parent().unwrap_or(Path::new(".")))?;
            self.name_unsynced.store(false, Relaxed);
        }
        Ok(())
    }

    /// Tells those who were refused that it is worth another try.
    pub fn tell_room(&self) {
        if self.refused.swap(false, Relaxed) {
            self.on_room.each(|observer| observer());
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Closes what is synced when more files are open than should be.
    pub fn close_if_crowded(&self, state: &mut State) {
        if self.shared.is_crowded() {
            for i in closable(state) {
                self.close_segment(&mut state.segments[i]);
            }
        }
    }

    /// When each open segment that could be closed was used last.
    pub fn ages(&self, ages: &mut Vec<u64>) {
        let Some(state) = self.state.try_lock() else { return };
        ages.extend(closable(&state).filter_map(|i| state.segments[i].open.as_ref()).map(|open| open.used.load(Relaxed)));
    }

    /// Closes synced segments that were not used since a tick. A log that is busy is not idle.
    pub fn close_idle(&self, not_since: u64) {
        let Some(mut state) = self.state.try_lock() else { return };
        for i in closable(&state) {
            if state.segments[i].open.as_ref().is_some_and(|open| open.used.load(Relaxed) <= not_since) {
                self.close_segment(&mut state.segments[i]);
            }
        }
    }

    /// Syncs, saves the cursors, takes no more batches.
    pub fn close(&self) -> Result<(), StoreError> {
        let synced = self.sync();
        let saved = self.save_cursors();
        self.close_and_forget();
        synced.and(saved)
    }

    /// Takes no more batches, and lets go of the files.
    pub fn close_and_forget(&self) {
        let mut state = self.state.lock();
        self.closed.store(true, Relaxed);
        if !std::mem::replace(&mut state.closed, true) {
            for segment in &mut state.segments {
                self.close_segment(segment);
            }
            if let Some(budget) = &self.options.budget {
                budget.release(self.bytes.load(Relaxed));
            }
        }
        drop(state);
        if let Some(budget) = &self.options.budget {
            budget.tell();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let open = state.segments.iter().filter(|segment| segment.open.is_some()).count();
        self.shared.open.fetch_sub(open, Relaxed);
        self.shared.held.fetch_sub(state.held_bytes, Relaxed);
        if !state.closed && !state.held.is_empty() {
            self.shared.left_unsynced();
        }
        if let Some(budget) = self.options.budget.as_ref().filter(|_| !state.closed) {
            budget.release(self.bytes.load(Relaxed));
        }
    }
}

/// Segments whose file nobody needs open: those before the first one that holds something unsynced.
fn closable(state: &State) -> std::ops::Range<usize> {
    let busy = state.held.front().map_or(u64::MAX, |held| held.seq);
    0..state.segments.partition_point(|segment| segment.header.seq < busy)
}

pub(crate) fn now_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

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
        self.inner.append(first, next, records, parts)
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
