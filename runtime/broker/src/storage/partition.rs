//! One partition: a log of record batches, who produced them, which transactions are open, and who waits for more.
//!
//! Offsets are given out under one lock with the checks of sequence numbers, so that a batch is stored once and in order. What cannot be read from
//! the batches cheaply (producers, aborted transactions, times) is kept in memory and saved as the note of the log's cursor `state`: after a
//! restart only the batches behind that cursor are read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use kafka_protocol::ResponseError;
use millrace_log::{AppendError, Batch, LogOptions, ReadBuf, ReadError, Rewrite, SegmentInfo, Store, StoreError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::now;
use crate::storage::batch::{self, Header};
use crate::storage::cleaned::Cleaned;
use crate::storage::damage::Damage;
use crate::storage::producers::{Aborted, Producers, Seen, Verdict};
use crate::storage::records::{Records, unpack};
use crate::storage::synced::SyncedLog;
use crate::storage::topic_config::TopicConfig;
use crate::storage::wire::{Reader, Writer};

/// Every batch is stored with this leader epoch: there is one node, and it is never deposed.
pub const LEADER_EPOCH: i32 = 0;
/// Bytes of batches between two entries of the time index.
const TIME_STEP: u64 = 256 << 10;
/// Milliseconds after which a new entry is begun, so that what is old can be told from what is new.
const TIME_STEP_MS: i64 = 60_000;
/// As Kafka's `producer.id.expiration.ms`.
const PRODUCER_EXPIRES_MS: i64 = 86_400_000;
/// Bytes of batches after which the state is worth saving.
const SAVE_STEP: u64 = 8 << 20;
/// A segment is no larger, so that a restart after a crash reads little.
const SEGMENT: u64 = 16 << 20;
const STATE: &str = "state";
const STATE_VERSION: u8 = 1;

pub struct Partition {
    pub topic: Arc<str>,
    pub index: i32,
    log: SyncedLog,
    state: Mutex<State>,
    /// First offset that is read: DeleteRecords and retention move it.
    start: AtomicU64,
    waiting: Mutex<Vec<Weak<Notify>>>,
    found: Damage,
    /// What was met since, as far as it was said.
    said: Mutex<Damage>,
}

#[derive(Default)]
struct State {
    producers: Producers,
    /// In order of their markers.
    aborted: Vec<Aborted>,
    times: Vec<Times>,
    cleaned: Cleaned,
    /// Bytes appended since the last entry of `times` was begun.
    since_time: u64,
    /// Milliseconds since 1970 when the last entry of `times` was begun.
    time_begun: i64,
    /// Bytes appended since the state was saved.
    since_save: u64,
}

/// The newest time among the batches from `first` to the next entry.
#[derive(Clone, Copy)]
struct Times {
    first: u64,
    newest: i64,
}

/// Where a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub base: u64,
    /// Offset behind it; of a duplicate the end of the log.
    pub next: u64,
    /// Milliseconds since 1970 if the topic stamps its records, else -1.
    pub time: i64,
}

/// A place found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub offset: u64,
    pub time: i64,
}

/// Why a partition could not be read.
#[derive(Debug)]
pub enum Unreadable {
    OutOfRange,
    Disk(ReadError),
}

impl Partition {
    /// Opens or creates the partition's log and reads what the last checkpoint does not cover.
    pub fn open(store: &Store, topic: Arc<str>, index: i32, config: &TopicConfig, sync: std::time::Duration) -> Result<Self, StoreError> {
        let options = LogOptions { segment_bytes: config.segment_bytes.min(SEGMENT), sync, ..LogOptions::default() };
        let (log, recovery) = SyncedLog::open(store, &log_name(&topic, index), options)?;
        let found = Damage::found(&recovery);
        if found.is_any() {
            tracing::error!(
                topic = %topic,
                partition = index,
                records = found.records,
                bytes = found.bytes,
                "a corrupt part of the partition is set aside; what lies before and behind it is served"
            );
        }
        let saved = log.cursor(STATE).and_then(|(offset, note)| Some((offset, State::decode(&note)?)));
        let (mut from, (start, mut state)) = saved.unwrap_or_else(|| (log.start(), (log.start(), State::default())));
        let mut buf = ReadBuf::new();
        loop {
            let count = log.read(from, 256 << 10, &mut buf).map_err(of_read)?;
            if count == 0 {
                break;
            }
            for batch in buf.batches() {
                if let Some(header) = Header::read(batch.payload) {
                    state.learn(&header, batch.payload, batch.first, batch.appended / 1_000);
                }
                from = batch.next;
            }
        }
        let start = AtomicU64::new(start.max(log.start()));
        Ok(Self { topic, index, log, state: Mutex::new(state), start, waiting: Mutex::default(), found, said: Mutex::default() })
    }

    /// What of the partition could not be read, at the start and since.
    pub fn damage(&self) -> Damage {
        self.found + Damage::met(&self.log.faults())
    }

    /// Says what was met since the last time.
    pub fn tell_damage(&self) {
        let met = Damage::met(&self.log.faults());
        let mut said = self.said.lock();
        if *said != met {
            *said = met;
            tracing::error!(
                topic = %self.topic,
                partition = self.index,
                records = met.records,
                bytes = met.bytes,
                "a corrupt part of the partition was met and is set aside; readers go on behind it"
            );
        }
    }

    /// Offset of the first record.
    pub fn start(&self) -> u64 {
        self.start.load(Relaxed)
    }

    /// Offset behind the last record: the high watermark, there being one node.
    pub fn end(&self) -> u64 {
        self.log.end()
    }

    /// Offset behind the last record that no open transaction can take back.
    pub fn stable(&self) -> u64 {
        let state = self.state.lock();
        state.producers.first_open().unwrap_or_else(|| self.log.end())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Appends a checked batch of a client. `may_begin` is asked when the batch would be the first of a transaction here.
    pub fn append(
        &self,
        header: &Header,
        batch: &[u8],
        config: &TopicConfig,
        now: i64,
        may_begin: impl FnOnce() -> Result<(), ResponseError>,
    ) -> Result<Stored, ResponseError> {
        let stamped;
        let (mut header, mut batch) = (*header, batch);
        if config.log_append_time {
            stamped = batch::with_append_time(batch, now);
            batch = &stamped;
            header.newest_time = now;
        }
        let time = if config.log_append_time { now } else { -1 };
        let mut state = self.state.lock();
        if let Verdict::Duplicate { base, time: stored } = state.producers.check(&header)? {
            let time = if config.log_append_time { stored } else { -1 };
            return Ok(Stored { base, next: self.log.end(), time });
        }
        if header.is_transactional() != state.producers.is_open(header.producer_id) {
            if !header.is_transactional() {
                return Err(ResponseError::InvalidTxnState);
            }
            may_begin()?;
        }
        let (base, next) = self.write(&mut state, &header, batch, now, false)?;
        drop(state);
        self.wake();
        Ok(Stored { base, next, time })
    }

    /// Ends a producer's transaction here; returns the offset behind the marker. Where records have no room any more, a marker has: each ends what was
    /// begun before.
    pub fn mark(&self, producer_id: i64, epoch: i16, committed: bool, now: i64) -> Result<u64, ResponseError> {
        let marker = batch::marker(producer_id, epoch, committed, 0, now);
        let header = Header::read(&marker).expect("a marker has a header");
        let mut state = self.state.lock();
        let (_, next) = self.write(&mut state, &header, &marker, now, true)?;
        drop(state);
        self.wake();
        Ok(next)
    }

    fn write(&self, state: &mut State, header: &Header, batch: &[u8], now: i64, is_end: bool) -> Result<(u64, u64), ResponseError> {
        let base = self.log.end();
        let next = base + header.last_offset_delta as u64 + 1;
        let head = batch::placed(base, LEADER_EPOCH, batch);
        let parts = [&head[..], &batch[head.len()..]];
        let records = header.records as u32;
        let append =
            || if is_end { self.log.append_end(base, next, records, &parts) } else { self.log.append(base, next, records, &parts) };
        let mut written = append();
        if matches!(written, Err(AppendError::Full { .. })) {
            // What is not synced fills its bound: the producer waits for the disk here, as it would in the kernel.
            let _ = self.log.sync();
            written = append();
        }
        written.map_err(|e| self.refused(&e))?;
        state.learn(header, batch, base, now);
        Ok((base, next))
    }

    fn refused(&self, error: &AppendError) -> ResponseError {
        match error {
            AppendError::Closed => ResponseError::NotLeaderOrFollower,
            AppendError::TooLarge { .. } => ResponseError::MessageTooLarge,
            AppendError::Full { .. } | AppendError::NoSpace { .. } => ResponseError::KafkaStorageError,
            AppendError::OffsetBehind { .. } | AppendError::BadRange { .. } | AppendError::Io { .. } => {
                tracing::warn!(topic = %self.topic, partition = self.index, "cannot append to the partition: {error}");
                ResponseError::KafkaStorageError
            }
        }
    }

    /// Asks for an fdatasync of what is appended by now, as one of several steps that wait for each other.
    pub fn want_sync_at_once(&self) {
        self.log.want_sync_at_once();
    }

    /// Waits until everything below `offset` is on the disk. False: the partition is gone.
    pub async fn reach(&self, offset: u64) -> bool {
        self.log.reach(offset).await
    }

    /// Whether the producer's transaction has records here.
    pub fn is_open(&self, producer_id: i64) -> bool {
        self.state.lock().producers.is_open(producer_id)
    }

    pub fn producers(&self) -> Vec<Seen> {
        self.state.lock().producers.list()
    }

    /// Copies whole batches to `out` from the one that holds `from` on, up to `limit` and about `max_bytes`; at least one if `at_least_one`.
    /// Returns the offset behind the last one.
    pub fn read(
        &self,
        from: u64,
        limit: u64,
        max_bytes: usize,
        at_least_one: bool,
        buf: &mut ReadBuf,
        out: &mut Vec<u8>,
    ) -> Result<u64, Unreadable> {
        if from < self.start() || from > self.log.end() {
            return Err(Unreadable::OutOfRange);
        }
        let mut next = from;
        if from >= limit {
            return Ok(next);
        }
        self.log.read(from, max_bytes, buf).map_err(Unreadable::Disk)?;
        out.reserve(buf.batches().map(|batch| batch.payload.len()).sum());
        for batch in buf.batches() {
            let is_first = next == from;
            let fits = batch.payload.len() <= max_bytes || is_first && at_least_one;
            if batch.first >= limit || !fits {
                break;
            }
            out.extend_from_slice(batch.payload);
            next = batch.next;
        }
        Ok(next)
    }

    /// Aborted transactions with records from `from` to below `until`.
    pub fn aborted(&self, from: u64, until: u64) -> Vec<Aborted> {
        let state = self.state.lock();
        let begin = state.aborted.partition_point(|aborted| aborted.last < from);
        state.aborted[begin..].iter().filter(|aborted| aborted.first < until).copied().collect()
    }

    /// Tells `waiter` about the next batch or marker, once.
    pub fn wait(&self, waiter: &Arc<Notify>) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= 16 {
            waiting.retain(|waiter| waiter.strong_count() > 0);
        }
        waiting.push(Arc::downgrade(waiter));
    }

    fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.iter().filter_map(Weak::upgrade).for_each(|waiter| waiter.notify_one());
    }

    /// The first record, in order of offsets, that is not older than `time`.
    pub fn at_time(&self, time: i64) -> Result<Option<At>, ReadError> {
        let start = self.start();
        let mut from = {
            let state = self.state.lock();
            let Some(at) = state.times.iter().find(|times| times.newest >= time) else { return Ok(None) };
            at.first.max(start)
        };
        let mut buf = ReadBuf::new();
        while self.log.read(from, 256 << 10, &mut buf)? > 0 {
            for batch in buf.batches() {
                let header = Header::read(batch.payload).filter(|header| header.newest_time >= time && !header.is_control());
                let found = header.and_then(|header| first_at(&header, batch.payload, time, start));
                if found.is_some() {
                    return Ok(found);
                }
                from = batch.next;
            }
        }
        Ok(None)
    }

    /// The newest time of any record.
    pub fn newest_time(&self) -> Option<i64> {
        self.state.lock().times.iter().map(|times| times.newest).max()
    }

    /// The newest time among the batches from `base` to below `next`, and perhaps some beside them.
    pub fn newest_time_in(&self, base: u64, next: u64) -> Option<i64> {
        let state = self.state.lock();
        let begin = state.times.partition_point(|times| times.first <= base).saturating_sub(1);
        state.times[begin..].iter().take_while(|times| times.first < next).map(|times| times.newest).max()
    }

    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.log.segments()
    }

    /// Whether a producer's records at an offset belong to a transaction that was aborted.
    pub fn was_aborted(&self, producer_id: i64, offset: u64) -> bool {
        let covers = |aborted: &Aborted| aborted.producer_id == producer_id && (aborted.first..=aborted.last).contains(&offset);
        self.state.lock().aborted.iter().any(covers)
    }

    pub fn cleaned(&self) -> Cleaned {
        self.state.lock().cleaned.clone()
    }

    pub fn set_cleaned(&self, cleaned: Cleaned) {
        let mut state = self.state.lock();
        state.cleaned = cleaned;
        state.since_save = SAVE_STEP; // worth saving
    }

    /// Begins a new segment if the last one was begun longer ago than `age`.
    pub fn roll_if_old(&self, age: std::time::Duration, now: i64) {
        let old = |last: &SegmentInfo| !last.sealed && last.bytes > 0 && now - last.first_append / 1_000 > age.as_millis() as i64;
        if self.log.segments().last().is_some_and(old) {
            self.log.seal();
        }
    }

    #[cfg(test)]
    pub fn sync_for_tests(&self) {
        self.log.sync().expect("the disk of a test syncs");
    }

    /// Reads whole batches as the log has them.
    pub fn read_batches(&self, from: u64, max_bytes: usize, buf: &mut ReadBuf) -> Result<usize, StoreError> {
        self.log.read(from, max_bytes, buf).map_err(of_read)
    }

    /// Writes a segment anew, each batch as `decide` says; returns the bytes freed.
    pub fn rewrite(&self, base: u64, decide: &mut dyn FnMut(Batch<'_>) -> Rewrite) -> Result<u64, StoreError> {
        self.log.rewrite(base, decide)
    }

    /// Moves the first offset up; segments wholly below it go. Durable when this returns.
    pub fn delete_below(&self, offset: u64) -> Result<(), StoreError> {
        self.start.fetch_max(offset.min(self.log.end()), Relaxed);
        self.save()?;
        self.log.delete_below(self.start())?;
        Ok(())
    }

    /// Saves the state if enough has been appended since it was saved last.
    pub fn save_if_due(&self) -> Result<(), StoreError> {
        if self.state.lock().since_save < SAVE_STEP { Ok(()) } else { self.save() }
    }

    /// Saves the state, and syncs the log before: a checkpoint never covers what a power cut could take.
    pub fn save(&self) -> Result<(), StoreError> {
        let (end, note) = {
            let mut state = self.state.lock();
            let start = self.start();
            state.forget_below(start);
            state.producers.expire(now() - PRODUCER_EXPIRES_MS);
            state.since_save = 0;
            (self.log.end(), state.encode(start))
        };
        self.log.sync()?;
        self.log.set_cursor(STATE, end, &note);
        self.log.save_cursors()
    }
}

impl State {
    /// Takes a batch into account that stands at `base` now.
    fn learn(&mut self, header: &Header, batch: &[u8], base: u64, now: i64) {
        if header.is_control() {
            if let Some(committed) = batch::marker_commits(batch) {
                self.aborted.extend(self.producers.marked(header.producer_id, header.producer_epoch, committed, base, now));
            }
        } else {
            self.producers.appended(header, base, now);
        }
        let bytes = batch.len() as u64;
        let goes_on = self.since_time < TIME_STEP && now - self.time_begun < TIME_STEP_MS;
        match self.times.last_mut().filter(|_| goes_on) {
            Some(times) => times.newest = times.newest.max(header.newest_time),
            None => {
                self.times.push(Times { first: base, newest: header.newest_time });
                (self.since_time, self.time_begun) = (0, now);
            }
        }
        self.since_time += bytes;
        self.since_save += bytes;
    }

    /// Forgets what is known only about records that are gone.
    fn forget_below(&mut self, start: u64) {
        self.aborted.retain(|aborted| aborted.last >= start);
        let kept = self.times.partition_point(|times| times.first <= start).saturating_sub(1);
        self.times.drain(..kept);
    }

    fn encode(&self, start: u64) -> Vec<u8> {
        let mut out = Writer::default();
        out.u8(STATE_VERSION).u64(start);
        self.producers.write(&mut out);
        out.u32(self.aborted.len() as u32);
        for aborted in &self.aborted {
            out.i64(aborted.producer_id).u64(aborted.first).u64(aborted.last);
        }
        out.u32(self.times.len() as u32);
        for times in &self.times {
            out.u64(times.first).i64(times.newest);
        }
        self.cleaned.write(&mut out);
        out.0
    }

    fn decode(note: &[u8]) -> Option<(u64, Self)> {
        let mut from = Reader(note);
        if from.u8()? != STATE_VERSION {
            return None;
        }
        let start = from.u64()?;
        let producers = Producers::read(&mut from)?;
        let aborted = from.list(|from| Some(Aborted { producer_id: from.i64()?, first: from.u64()?, last: from.u64()? }))?;
        let times = from.list(|from| Some(Times { first: from.u64()?, newest: from.i64()? }))?;
        let cleaned = Cleaned::read(&mut from)?;
        // The next batch begins an entry of its own: how much the last one covers is not written down.
        Some((start, Self { producers, aborted, times, cleaned, since_time: TIME_STEP, time_begun: 0, since_save: 0 }))
    }
}

/// The first record of a batch that is not older than `time` and not below `start`: a batch that is deleted in part is still there as a whole.
fn first_at(header: &Header, batch: &[u8], time: i64, start: u64) -> Option<At> {
    let base = At { offset: header.base_offset as u64, time: header.first_time };
    if header.is_log_append_time() {
        return Some(At { time: header.newest_time, offset: base.offset.max(start) });
    }
    if header.first_time >= time && base.offset >= start {
        return Some(base);
    }
    let records = unpack(header, batch).unwrap_or_default();
    let found = Records(&records).map(|record| At {
        offset: base.offset + u64::try_from(record.offset_delta).unwrap_or(0),
        time: header.first_time.saturating_add(record.time_delta),
    });
    let found: Vec<At> = found.collect();
    if found.is_empty() {
        // Records that cannot be read are somewhere in it: its first is the safe answer.
        return Some(At { offset: base.offset.max(start), ..base });
    }
    found.into_iter().filter(|at| at.time >= time && at.offset >= start).min_by_key(|at| at.offset)
}

fn of_read(error: ReadError) -> StoreError {
    match error {
        ReadError::Io { path, source } => StoreError::Io { what: "read", path, source },
        ReadError::Closed => StoreError::Closed,
    }
}

/// Decodes a saved state; what is valid is the same when encoded again.
pub fn fuzz_state(note: &[u8]) {
    if let Some((start, state)) = State::decode(note) {
        assert!(State::decode(&state.encode(start)).is_some());
    }
}

/// The name of a partition's log: as Kafka names its directories.
pub fn log_name(topic: &str, index: i32) -> String {
    format!("{topic}-{index}")
}
