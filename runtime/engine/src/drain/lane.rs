//! One log on its way into Kafka: what is sent, what is delivered, and what happens where a record is in the way.
//!
//! ```text
//!   delivered        in flight: the window          not sent
//! ────────────┬─────────────┬───────────┬─────────┬──────────────── log
//!           cursor        unit        unit       next
//! ```
//!
//! A unit is a run of records of one batch of the log. Units are completed by reports (or by a commit) and leave the window from the front
//! only, so the cursor never passes what is not delivered. After a failure the lane goes back to its cursor:
//!
//! ```text
//! Flowing ── a record was refused ──> Careful: small units, one at a time, halved until the one record is found;
//!    ^                                         it gets read_time as its timestamp, or becomes a dead letter
//!    └─────────── past the trouble ────────────┘
//! Flowing ── the topic was refused ──> Blocked: shown with the reason, tried again slowly; the other lanes go on
//! ```

mod send;
pub(super) use send::Room;

use crate::drain::source::{Moved, Source};
use crate::frame::{self, Frame, Lane as LaneName};
use crate::source_logs::{CURSOR, CursorMetadata};
use millrace_kafka::{Class, KafkaError, RecordFault};
use millrace_log::{Log, ReadBuf};
use millrace_schemas::Micros;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a blocked lane waits before it tries again.
const BLOCKED_FOR: Duration = Duration::from_secs(30);

/// How long a lane waits after a failure that is nobody's fault.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a lane waits before a topic that is gone is made again.
const GONE: Duration = Duration::from_secs(1);

/// Records of one batch that went out together.
pub(super) struct Unit {
    serial: u32,
    /// The offset behind it.
    pub next: u64,
    pub records: u32,
    /// What they hold of the producer's memory, about.
    bytes: usize,
    /// When they were read.
    pub read_time: Micros,
    reported: u32,
    /// Whose fault it was, if it failed.
    error: Option<Box<KafkaError>>,
    /// The lane's counts behind it.
    pub note: CursorMetadata,
    /// Positions that moved with the batch it ends, and the offset behind which they count.
    pub moved: Option<Moved>,
}

#[derive(Debug, PartialEq)]
pub(super) enum State {
    Flowing,
    /// A failure was reported; what is still in flight is waited for.
    Failing,
    /// Nothing is sent until then.
    Waiting {
        until: Instant,
        is_blocked: bool,
    },
}

/// Records up to `until` go in small units, one at a time; `size` is how many records are in one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Careful {
    until: u64,
    size: u32,
}

/// How one record must go out, after it was refused as it is.
#[derive(Debug, PartialEq)]
enum Fix {
    ReadTime,
    Dead {
        error: KafkaError,
        /// Too much for the dead letters, too: it is kept in a file, and the letter says where.
        is_kept: bool,
    },
}

pub(super) struct Lane {
    pub id: u32,
    pub name: LaneName,
    pub log: Log,
    pub source: usize,
    pub window: VecDeque<Unit>,
    /// Of the units in the window.
    bytes_in_flight: usize,
    /// The next offset to send.
    pub next: u64,
    /// Below it everything is delivered.
    pub cursor: u64,
    /// Counts at the cursor.
    pub note: CursorMetadata,
    /// Counts at `next`.
    head: CursorMetadata,
    pub state: State,
    careful: Option<Careful>,
    fix: Option<(u64, Fix)>,
    serial: u32,
    buffer: ReadBuf,
    body: Vec<u8>,
    headers: Vec<u8>,
    /// The cursor has moved since it was last written to Kafka.
    pub is_unwritten: bool,
    /// The cursor has moved since it was last saved on the disk.
    pub is_unsaved: bool,
    /// The log had no cursor when it was taken on: a new incarnation.
    is_new: bool,
    /// The log's end when it was taken on, until Kafka was asked.
    opened_at: u64,
    /// When the first record at this cursor was read.
    oldest: Option<(u64, Micros)>,
}

impl Lane {
    pub fn new(id: u32, name: LaneName, log: Log, source: usize) -> Self {
        let kept = log.cursor(CURSOR);
        let is_new = kept.is_none();
        let (cursor, note) =
            kept.map_or_else(|| (log.start(), CursorMetadata::default()), |(at, note)| (at, CursorMetadata::decode(&note)));
        let opened_at = log.end();
        // From now on nothing is reclaimed that was not sent.
        log.set_cursor(CURSOR, cursor, &note.encode());
        Self {
            id,
            name,
            log,
            source,
            window: VecDeque::new(),
            bytes_in_flight: 0,
            next: cursor,
            cursor,
            note,
            head: note,
            state: State::Flowing,
            careful: None,
            fix: None,
            serial: 0,
            buffer: ReadBuf::new(),
            body: Vec::new(),
            headers: Vec::new(),
            is_unwritten: false,
            is_unsaved: false,
            is_new,
            opened_at,
            oldest: None,
        }
    }

    /// Takes over what Kafka knows of this log.
    ///
    /// A log that was here before believes whichever is further: what Kafka has need not be sent again, even if a power cut took it
    /// from the disk. A log that is new begins at its start: it is a new incarnation. What was appended since it was opened was never sent,
    /// whatever its number.
    pub fn adopt(&mut self, known: Option<(u64, CursorMetadata)>) {
        let had_cursor = !std::mem::take(&mut self.is_new);
        if let Some((offset, note)) = known {
            let is_within = had_cursor || (offset >= self.log.start() && offset <= self.log.end());
            if offset > self.cursor && is_within {
                (self.cursor, self.note) = (offset.min(self.opened_at.max(self.cursor)), note);
                self.is_unsaved = true;
            } else if offset > self.log.end() && !had_cursor {
                tracing::warn!(
                    log = self.log.name(),
                    offset,
                    "Kafka knows a later offset than this new log has: everything in the log is sent, and numbered above it from now on"
                );
            }
        }
        // What this run has appended may be in Kafka from now on, too.
        self.opened_at = u64::MAX;
        self.log.set_cursor(CURSOR, self.cursor, &self.note.encode());
        self.back_to_cursor();
    }

    /// Forgets what is in flight and begins again behind what is delivered.
    pub fn back_to_cursor(&mut self) {
        self.window.clear();
        self.bytes_in_flight = 0;
        self.next = self.cursor;
        self.head = self.note;
        if self.state == State::Failing {
            self.state = State::Flowing;
        }
    }

    pub fn has_more(&self) -> bool {
        self.next < self.log.end()
    }

    /// Whether a turn would send something now.
    pub fn is_ready(&self, now: Instant) -> bool {
        let may = match self.state {
            State::Flowing => true,
            State::Failing => false,
            State::Waiting { until, .. } => now >= until,
        };
        may && (self.careful.is_none() || self.window.is_empty()) && self.has_more()
    }

    /// Whether it waits for a human.
    pub fn is_blocked(&self) -> bool {
        matches!(self.state, State::Waiting { is_blocked: true, .. })
    }

    /// What is in flight holds of the producer's memory, about.
    pub fn bytes_in_flight(&self) -> usize {
        self.bytes_in_flight
    }

    /// The cursor is written to Kafka again, though it has not moved.
    pub fn rewrite(&mut self) {
        self.is_unwritten = true;
    }

    pub fn is_careful(&self) -> bool {
        self.careful.is_some()
    }

    /// Whether everything below `offset` is delivered.
    pub fn has_delivered(&self, offset: u64) -> bool {
        self.cursor >= offset || self.cursor >= self.log.end()
    }

    /// When the oldest record was read that Kafka does not have; zero: it has all. Reads the log, once per cursor.
    pub fn waiting_since(&mut self) -> Micros {
        if self.cursor >= self.log.end() {
            return Micros(0);
        }
        if let Some(unit) = self.window.iter().find(|unit| unit.records > 0) {
            return unit.read_time;
        }
        let cursor = self.cursor;
        if self.oldest.is_none_or(|(at, _)| at != cursor) {
            self.oldest = Some((cursor, self.look_at(cursor, |_, frame, _| Some(frame.read_time)).unwrap_or(Micros(0))));
        }
        self.oldest.map_or(Micros(0), |(_, read_time)| read_time)
    }

    /// When it should be looked at again, if it waits.
    pub fn wakes(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until, .. } if self.has_more() => Some(until),
            _ => None,
        }
    }

    /// Nothing can be read between here and the log's end: all of it was set aside as corrupt, and is counted.
    fn pass_what_is_gone(&mut self) {
        // The end with its count first, then another look: what was appended meanwhile is not gone.
        let (end, total) = self.log.head();
        if !matches!(self.log.read(self.next, 1, &mut self.buffer), Ok(0)) || end <= self.next {
            return self.wait(PAUSE);
        }
        // An end that only jumped, for a new incarnation, loses nothing.
        let records = total.saturating_sub(self.head.lane_total);
        if records > 0 {
            let (log, from) = (self.log.name(), self.next);
            tracing::error!(log, from, to = end, records, "nothing of this can be read: it is counted as corrupt");
        }
        self.account_gap(total);
        self.finish_unit(end, 0, 0, Micros::NONE, None);
    }

    /// What lies between two batches was dropped from the log, and is counted. A total that goes back: a power cut took from the log what was sent;
    /// it was never appended, so it was never sent.
    fn account_gap(&mut self, lane_total: u64) {
        let head = &mut self.head;
        head.dropped += lane_total.saturating_sub(head.lane_total);
        let mut back = head.lane_total.saturating_sub(lane_total);
        for count in [&mut head.produced, &mut head.dead, &mut head.dropped] {
            let less = back.min(*count);
            (*count, back) = (*count - less, back - less);
        }
        head.lane_total = lane_total;
    }

    /// What is not sent never will be: another runtime has read it again. Returns how many records that is.
    pub fn supersede(&mut self) -> u64 {
        self.back_to_cursor();
        let (end, total) = self.log.head();
        if end <= self.next {
            return 0;
        }
        let before = self.head.dropped;
        self.account_gap(total);
        let records = self.head.dropped - before;
        self.head.superseded += records;
        self.finish_unit(end, 0, 0, Micros::NONE, None);
        // The cursor goes to Kafka with the next ones.
        if let Some(unit) = self.window.pop_back() {
            self.moved_to(&unit);
        }
        records
    }

    fn finish_unit(&mut self, next: u64, records: u32, bytes: usize, read_time: Micros, moved: Option<Moved>) {
        let (serial, note) = (self.serial, self.head);
        self.window.push_back(Unit { serial, next, records, bytes, read_time, reported: 0, error: None, note, moved });
        self.bytes_in_flight += bytes;
        self.serial = self.serial.wrapping_add(1);
        self.next = next;
    }

    /// Takes reports in: those of units that are forgotten count for nothing.
    pub fn report(&mut self, serial: u32, count: u32, error: Option<Box<KafkaError>>) {
        let Some(front) = self.window.front() else { return };
        let index = serial.wrapping_sub(front.serial) as usize;
        let Some(unit) = self.window.get_mut(index) else { return };
        unit.reported += count;
        if let Some(error) = error {
            // The error that names a culprit counts; other records failed only because they were sent with it.
            let is_worse = unit.error.as_ref().is_none_or(|old| old.class == Class::Retry && error.class != Class::Retry);
            if is_worse {
                unit.error = Some(error);
            }
            self.state = State::Failing;
        }
    }

    /// The next unit at the front that is delivered, taken out of the window; the cursor follows it.
    pub fn advance(&mut self) -> Option<Unit> {
        let front = self.window.front()?;
        if front.reported < front.records || front.error.is_some() {
            return None;
        }
        let unit = self.window.pop_front()?;
        self.bytes_in_flight -= unit.bytes;
        self.moved_to(&unit);
        Some(unit)
    }

    /// Everything in the window was committed.
    pub fn committed(&mut self) -> impl Iterator<Item = Unit> + use<> {
        let units = std::mem::take(&mut self.window);
        self.bytes_in_flight = 0;
        if let Some(last) = units.back() {
            self.moved_to(last);
        }
        units.into_iter()
    }

    fn moved_to(&mut self, unit: &Unit) {
        self.cursor = unit.next;
        self.note = unit.note;
        self.log.set_cursor(CURSOR, self.cursor, &self.note.encode());
        self.is_unwritten = true;
        self.is_unsaved = true;
        if self.fix.as_ref().is_some_and(|(at, _)| *at < self.cursor) {
            self.fix = None;
        }
        self.careful = self.careful.filter(|c| self.cursor < c.until).map(|c| Careful { size: c.size.saturating_mul(2), ..c });
    }

    /// Whether a failure was reported and everything in flight has come back.
    pub fn has_failed(&self) -> bool {
        self.state == State::Failing && self.window.iter().all(|u| u.reported >= u.records)
    }

    /// Goes back to the cursor after a failure, and decides how to go on. Returns topics of which it must be asked again what they accept.
    pub fn recover(&mut self, source: &Source) -> Vec<String> {
        let mut failed = None;
        for (index, unit) in self.window.iter_mut().enumerate() {
            let Some(error) = unit.error.take() else { continue };
            let names_culprit = error.class != Class::Retry;
            if failed.is_none() || names_culprit {
                failed = Some((unit.next, unit.records, index == 0, error));
            }
            if names_culprit {
                break;
            }
        }
        let cursor = self.cursor;
        self.back_to_cursor();
        let Some((until, records, is_first, error)) = failed else { return Vec::new() };
        match error.class {
            Class::Record(fault) => {
                if records > 1 || !is_first {
                    self.careful = Some(Careful { until, size: (records / 2).max(1) });
                } else {
                    let offset = self.first_at(cursor);
                    self.refuse(source, offset, until, fault, &error);
                }
            }
            // It was there, so it is gone: made again before the next record.
            Class::Topic if error.is_unknown_topic() => {
                self.wait(GONE);
                return self.topics_at(cursor);
            }
            Class::Topic => {
                let topics = self.topics_at(cursor);
                self.block(source, format!("Kafka refuses a record for {}: {error}", topics.join(", ")));
                return topics;
            }
            // The client is made anew by its owner.
            Class::Fatal | Class::Fenced | Class::Denied => {}
            Class::Retry => self.wait(PAUSE),
        }
        Vec::new()
    }

    /// The one record at `offset` was refused: it goes with read_time, then as a dead letter, then as a small one that names the file it is kept in.
    fn refuse(&mut self, source: &Source, offset: u64, until: u64, fault: RecordFault, error: &KafkaError) {
        let fix = match self.fix.take().filter(|(at, _)| *at == offset) {
            None if fault == RecordFault::Timestamp => Fix::ReadTime,
            None | Some((_, Fix::ReadTime)) => {
                tracing::warn!(log = self.log.name(), offset, "Kafka refused a record for good, it becomes a dead letter: {error}");
                Fix::Dead { error: error.clone(), is_kept: false }
            }
            Some((_, Fix::Dead { error, is_kept: false })) => Fix::Dead { error, is_kept: true },
            Some((_, Fix::Dead { .. })) => {
                return self.block(source, format!("record {offset} is refused by Kafka, and so is its dead letter: {error}"));
            }
        };
        self.fix = Some((offset, fix));
        self.careful = Some(Careful { until, size: 1 });
    }

    fn refused_topic(&mut self, source: &Source, topic: &str, error: &KafkaError) {
        match error.class {
            Class::Retry => self.wait(PAUSE),
            _ => self.block(source, format!("Kafka refuses topic {topic}: {error}")),
        }
    }

    fn block(&mut self, source: &Source, reason: String) {
        let mut blocked = source.source_logs.blocked.lock();
        if blocked.as_deref() != Some(reason.as_str()) {
            tracing::error!(log = self.log.name(), "the way to Kafka is blocked until somebody acts: {reason}");
        }
        *blocked = Some(reason);
        self.state = State::Waiting { until: Instant::now() + BLOCKED_FOR, is_blocked: true };
    }

    fn wait(&mut self, time: Duration) {
        self.state = State::Waiting { until: Instant::now() + time, is_blocked: false };
    }

    /// The offset of the first record at or behind `offset`.
    fn first_at(&mut self, offset: u64) -> u64 {
        self.look_at(offset, |first, frame, body| {
            frame::records(body, &frame.topics).flatten().map(|r| first + r.delta).find(|at| *at >= offset)
        })
        .unwrap_or(offset)
    }

    /// The topics of the batch at `offset`.
    fn topics_at(&mut self, offset: u64) -> Vec<String> {
        self.look_at(offset, |_, frame, _| Some(frame.topics.iter().map(|(name, _)| (*name).to_owned()).collect())).unwrap_or_default()
    }

    fn look_at<T>(&mut self, offset: u64, look: impl FnOnce(u64, &Frame<'_>, &[u8]) -> Option<T>) -> Option<T> {
        self.log.read(offset, 1, &mut self.buffer).ok()?;
        let batch = self.buffer.batches().find(|b| b.next > offset)?;
        let frame = Frame::read(batch.payload).ok()?;
        frame.unpack(&mut self.body).ok()?;
        look(batch.first, &frame, &self.body)
    }
}
