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

use super::client::Client;
use super::pump::Source;
use super::{DrainOptions, Hindrance};
use crate::dead;
use crate::frame::{self, Frame, Lane as LaneName, flag};
use crate::intake::dead_letter_headers;
use crate::outlet::{CURSOR, Note};
use crate::topics::SCHEMA_HEADER;
use millrace_kafka::{Class, KafkaError, Outgoing, RecordFault, SendError};
use millrace_log::{Batch, Log, ReadBuf};
use millrace_schemas::{Micros, headers, push_header};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a blocked lane waits before it tries again.
const BLOCKED_FOR: Duration = Duration::from_secs(30);
/// How long a lane waits after a failure that is nobody's fault.
const PAUSE: Duration = Duration::from_millis(50);
/// A dead letter's payload is cut to this when the whole was refused too.
const STRIPPED: usize = 4096;

/// Records of one batch that went out together.
pub(super) struct Unit {
    serial: u32,
    /// The offset behind it.
    pub next: u64,
    pub records: u32,
    reported: u32,
    /// Whose fault it was, if it failed.
    error: Option<Box<KafkaError>>,
    /// The lane's counts behind it.
    pub note: Note,
    /// Positions that moved with the batch it ends, and the offset behind which they count.
    pub moved: Option<Moved>,
}

pub(super) struct Moved {
    /// Every lane of the source must have delivered what lies below.
    pub behind: u64,
    pub keys: Vec<(String, Vec<u8>)>,
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
        fault: String,
        /// The payload was too much for the dead letters, too.
        is_stripped: bool,
    },
}

pub(super) struct Lane {
    pub id: u32,
    pub name: LaneName,
    pub log: Log,
    pub source: usize,
    pub window: VecDeque<Unit>,
    /// The next offset to send.
    pub next: u64,
    /// Below it everything is delivered.
    pub cursor: u64,
    /// Counts at the cursor.
    pub note: Note,
    /// Counts at `next`.
    head: Note,
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
}

/// What a turn of a lane did.
#[derive(Default, Clone, Copy)]
pub(super) struct Sent {
    pub records: u32,
    pub bytes: usize,
    /// Nothing more goes out for now: the client's queue is full, or the client is spent.
    pub is_stuck: bool,
    pub is_spent: bool,
}

/// How many records may still go, in the unit at hand and in all.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub records: usize,
    pub bytes: usize,
}

impl Lane {
    pub fn new(id: u32, name: LaneName, log: Log, source: usize) -> Self {
        let kept = log.cursor(CURSOR);
        let is_new = kept.is_none();
        let (cursor, note) = kept.map_or_else(|| (log.start(), Note::default()), |(at, note)| (at, Note::decode(&note)));
        // From now on nothing is reclaimed that was not sent.
        log.set_cursor(CURSOR, cursor, &note.encode());
        Self {
            id,
            name,
            log,
            source,
            window: VecDeque::new(),
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
        }
    }

    /// Takes over what Kafka knows of this log.
    ///
    /// A log that was here before believes whichever is further: what Kafka has need not be sent again, even if a power cut took it
    /// from the disk. A log that is new begins at its start: it is a new incarnation, above all that Kafka knows.
    pub fn adopt(&mut self, known: Option<(u64, Note)>) {
        let had_cursor = !std::mem::take(&mut self.is_new);
        if let Some((offset, note)) = known {
            let is_within = had_cursor || (offset >= self.log.start() && offset <= self.log.end());
            if offset > self.cursor && is_within {
                (self.cursor, self.note) = (offset, note);
                self.is_unsaved = true;
            } else if offset > self.log.end() && !had_cursor {
                tracing::warn!(
                    log = self.log.name(),
                    offset,
                    "Kafka knows a later offset than this new log has; everything in the log is sent"
                );
            }
        }
        self.log.set_cursor(CURSOR, self.cursor, &self.note.encode());
        self.back_to_cursor();
    }

    /// Forgets what is in flight and begins again behind what is delivered.
    pub fn back_to_cursor(&mut self) {
        self.window.clear();
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

    pub fn is_careful(&self) -> bool {
        self.careful.is_some()
    }

    /// Whether everything below `offset` is delivered.
    pub fn has_delivered(&self, offset: u64) -> bool {
        self.cursor >= offset || self.cursor >= self.log.end()
    }

    /// When it should be looked at again, if it waits.
    pub fn wakes(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until, .. } if self.has_more() => Some(until),
            _ => None,
        }
    }

    // ---- sending --------------------------------------------------------------------------------------------------------------

    /// Sends some batches. A careful lane sends one small unit.
    pub fn send(&mut self, client: &mut Client, options: &DrainOptions, source: &Source, room: Room) -> Sent {
        let mut sent = Sent::default();
        let (mut buffer, mut body) = (std::mem::take(&mut self.buffer), std::mem::take(&mut self.body));
        match self.log.read(self.next, room.bytes.max(1), &mut buffer) {
            Ok(0) if self.next < self.log.end() => self.pass_what_is_gone(),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(log = self.log.name(), "the log can't be read, and will be tried again: {error}");
                self.wait(PAUSE);
            }
        }
        for batch in buffer.batches() {
            let next = batch.next;
            if next <= self.next {
                continue;
            }
            let left = room.records.saturating_sub(sent.records as usize);
            let outcome = self.send_batch(client, options, source, &batch, &mut body, left);
            sent.records += outcome.records;
            sent.bytes += outcome.bytes;
            sent.is_stuck |= outcome.is_stuck;
            sent.is_spent |= outcome.is_spent;
            // A lane that left its course, or a batch that did not go whole, ends the turn.
            if sent.is_stuck || self.next < next || self.state != State::Flowing || self.is_careful() || sent.bytes >= room.bytes {
                break;
            }
        }
        (self.buffer, self.body) = (buffer, body);
        sent
    }

    /// Sends the records of one batch from `next` on, unpacked into `body`.
    fn send_batch(
        &mut self,
        client: &mut Client,
        options: &DrainOptions,
        source: &Source,
        batch: &Batch<'_>,
        body: &mut Vec<u8>,
        room: usize,
    ) -> Sent {
        let Batch { first, next: batch_next, records: batch_records, payload, .. } = *batch;
        let mut sent = Sent::default();
        if let State::Waiting { .. } = self.state {
            self.state = State::Flowing;
        }
        let frame = match Frame::read(payload).and_then(|frame| frame.unpack(body).map(|()| frame)) {
            Ok(frame) => frame,
            Err(frame::FrameError::Version(_)) => {
                self.block(source, format!("log {}: batch at {first} was written by a newer release; use that release", self.log.name()));
                return sent;
            }
            Err(error) => {
                tracing::error!(log = self.log.name(), offset = first, records = batch_records, "a batch is lost: {error}");
                self.head.dropped += u64::from(batch_records);
                self.head.lane_total += u64::from(batch_records);
                self.finish_unit(batch_next, 0, None);
                return sent;
            }
        };
        let is_start = self.next <= first;
        if is_start {
            self.account_gap(frame.lane_total);
        }
        // Every topic of the batch is made ready before its first record goes.
        let mut gates = Vec::with_capacity(frame.topics.len());
        for (topic, _) in &frame.topics {
            match client.gate(topic) {
                Ok(gate) => gates.push(gate),
                Err(error) => {
                    self.refused_topic(source, topic, &error);
                    return sent;
                }
            }
        }
        // So is every schema: what was written with one goes out with its id in front.
        let mut ways = Vec::with_capacity(frame.topics.len());
        let mut prefixes = Vec::with_capacity(frame.topics.len());
        for (topic, schema) in &frame.topics {
            let way = match options.way_of(topic, *schema) {
                Ok(way) => way,
                Err(Hindrance::Wait) => {
                    self.wait(PAUSE);
                    return sent;
                }
                Err(Hindrance::Refused(reason)) => {
                    self.block(source, reason);
                    return sent;
                }
            };
            prefixes.push(way.prefix);
            ways.push(way);
        }
        if prefixes.iter().any(Option::is_some) {
            frame::stamp(body, &frame.topics, &prefixes);
        }
        let limit = self.careful.map_or(usize::MAX, |careful| careful.size as usize);
        let opaque = u64::from(self.id) << 32 | u64::from(self.serial);
        let read_time_ms = frame.read_time.as_millis();
        let now = Micros::now();
        let mut note = self.head;
        let mut next = batch_next;
        let (mut records, mut bytes) = (0u32, 0usize);
        for record in frame::records(body, &frame.topics) {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    tracing::error!(log = self.log.name(), offset = first, "records of a batch are lost: {error}");
                    let rest = (frame.lane_total + frame.data_records).saturating_sub(note.lane_total);
                    note.dropped += rest;
                    note.lane_total += rest;
                    break;
                }
            };
            let offset = first + record.delta;
            if offset < self.next {
                continue;
            }
            if records as usize >= limit || (records > 0 && records as usize >= room) {
                next = offset;
                break;
            }
            let gate = &gates[record.topic];
            let (topic, schema) = frame.topics[record.topic];
            let is_data = record.flags & flag::AUX == 0;
            let mut timestamp_ms = read_time_ms.saturating_add(record.timestamp_delta_ms);
            let fix = self.fix.as_ref().filter(|(at, _)| *at == offset).map(|(_, fix)| fix);
            let is_replaced = timestamp_ms != read_time_ms && (fix == Some(&Fix::ReadTime) || !gate.takes(timestamp_ms, now));
            if is_replaced {
                timestamp_ms = read_time_ms;
            }
            let key = record.key.clone().map(|r| &body[r]);
            let way = &ways[record.topic];
            let value = record.value.clone().map(|r| &body[way.of_value(r, record.reserved)]);
            let message = Outgoing { partition: None, key, value, timestamp_ms, opaque };
            let outcome = if let Some(Fix::Dead { fault, is_stripped }) = fix {
                let letter = options.topics.get(topic).dead_letter.clone();
                match client.gate(&letter) {
                    Ok(gate) => {
                        self.headers.clear();
                        for (name, value) in headers(&body[record.headers.clone()]) {
                            if !matches!(name, "millrace.source" | "millrace.seq") {
                                push_header(&mut self.headers, name, value);
                            }
                        }
                        dead_letter_headers(&mut self.headers, topic, "", &source.outlet.source, offset, fault);
                        push_header(&mut self.headers, dead::ENCODED, Some(b"true"));
                        if way.names_schema {
                            push_header(&mut self.headers, SCHEMA_HEADER, Some(&hex(schema)));
                        }
                        if *is_stripped {
                            push_header(&mut self.headers, dead::CUT, Some(b"true"));
                        }
                        let value = value.map(|v| if *is_stripped { &v[..v.len().min(STRIPPED)] } else { v });
                        let message = Outgoing { value, timestamp_ms: read_time_ms, ..message };
                        client.producer.send(&gate.topic, &message, headers(&self.headers))
                    }
                    Err(error) => {
                        self.refused_topic(source, &letter, &error);
                        return sent;
                    }
                }
            } else if way.names_schema {
                let schema = hex(schema);
                let own = headers(&body[record.headers.clone()]);
                client.producer.send(&gate.topic, &message, own.chain([(SCHEMA_HEADER, Some(&schema[..]))]))
            } else {
                client.producer.send(&gate.topic, &message, headers(&body[record.headers.clone()]))
            };
            match outcome {
                Ok(()) => {}
                Err(SendError::QueueFull) => {
                    sent.is_stuck = true;
                    next = offset;
                    break;
                }
                Err(SendError::Refused(error)) => {
                    // What went before it in this batch is in flight already and is its own unit.
                    let until = offset + 1;
                    if records > 0 {
                        self.head = note;
                        self.finish_unit(offset, records, None);
                        sent.records = records;
                        sent.bytes = bytes;
                    }
                    match error.class {
                        Class::Fatal | Class::Fenced | Class::Denied => {
                            sent.is_stuck = true;
                            sent.is_spent = true;
                        }
                        _ => self.refused_at_once(source, topic, offset, until, &error),
                    }
                    return sent;
                }
            }
            records += 1;
            bytes += record.value.map_or(0, |r| r.len()) + 64;
            if is_data {
                note.lane_total += 1;
                if matches!(fix, Some(Fix::Dead { .. })) {
                    note.dead += 1;
                } else {
                    note.produced += 1;
                }
            }
            note.timestamp_replaced += u64::from(is_replaced);
        }
        let is_whole = next == batch_next;
        if is_whole && note.lane_total < frame.lane_total + frame.data_records {
            note.lane_total = frame.lane_total + frame.data_records;
        }
        let moved = (is_whole && !frame.moved.is_empty())
            .then(|| Moved { behind: batch_next, keys: frame.moved.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect() });
        if next > self.next && (records > 0 || is_whole) {
            self.head = note;
            self.finish_unit(next, records, moved);
            sent.records = records;
            sent.bytes = bytes;
        }
        sent
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
        self.finish_unit(end, 0, None);
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

    fn finish_unit(&mut self, next: u64, records: u32, moved: Option<Moved>) {
        self.window.push_back(Unit { serial: self.serial, next, records, reported: 0, error: None, note: self.head, moved });
        self.serial = self.serial.wrapping_add(1);
        self.next = next;
    }

    // ---- reports --------------------------------------------------------------------------------------------------------------

    /// Takes reports in: those of units that are forgotten count for nothing.
    pub fn report(&mut self, serial: u32, count: u32, error: Option<Box<KafkaError>>) {
        let Some(front) = self.window.front() else { return };
        let index = serial.wrapping_sub(front.serial) as usize;
        let Some(unit) = self.window.get_mut(index) else { return };
        unit.reported += count;
        if let Some(error) = error {
            // The error that names a culprit counts; its neighbours were only in the same boat.
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
        self.moved_to(&unit);
        Some(unit)
    }

    /// Everything in the window was committed.
    pub fn committed(&mut self) -> impl Iterator<Item = Unit> + use<> {
        let units = std::mem::take(&mut self.window);
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

    /// Goes back to the cursor after a failure, and decides how to go on.
    pub fn recover(&mut self, source: &Source, client: &mut Client) {
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
        let Some((until, records, is_first, error)) = failed else { return };
        match error.class {
            Class::Record(fault) => {
                if records > 1 || !is_first {
                    self.careful = Some(Careful { until, size: (records / 2).max(1) });
                } else {
                    let offset = self.first_at(cursor);
                    self.refuse(source, offset, until, fault, &error);
                }
            }
            Class::Topic => {
                for unit_topic in self.topics_at(cursor) {
                    client.forget(&unit_topic);
                }
                self.block(source, error.to_string());
            }
            // The client is made anew by its owner.
            Class::Fatal | Class::Fenced | Class::Denied => {}
            Class::Retry => self.wait(PAUSE),
        }
    }

    /// The one record at `offset` was refused: it goes with read_time, then as a dead letter, then as a dead letter with a part of its payload.
    fn refuse(&mut self, source: &Source, offset: u64, until: u64, fault: RecordFault, error: &KafkaError) {
        let fix = match self.fix.take().filter(|(at, _)| *at == offset) {
            None if fault == RecordFault::Timestamp => Fix::ReadTime,
            None | Some((_, Fix::ReadTime)) => {
                tracing::warn!(log = self.log.name(), offset, "Kafka refused a record for good, it becomes a dead letter: {error}");
                Fix::Dead { fault: format!("refused by Kafka: {error}"), is_stripped: false }
            }
            Some((_, Fix::Dead { fault, is_stripped: false })) => Fix::Dead { fault, is_stripped: true },
            Some((_, Fix::Dead { .. })) => {
                return self.block(source, format!("record {offset} is refused by Kafka, and so is its dead letter: {error}"));
            }
        };
        self.fix = Some((offset, fix));
        self.careful = Some(Careful { until, size: 1 });
    }

    /// The client refused a record before it was sent: too large for any topic.
    fn refused_at_once(&mut self, source: &Source, topic: &str, offset: u64, until: u64, error: &KafkaError) {
        match error.class {
            // What is in flight before it must not be sent again: the state changes only, the window stays.
            Class::Record(fault) => self.refuse(source, offset, until, fault, error),
            Class::Topic => self.refused_topic(source, topic, error),
            _ => self.wait(PAUSE),
        }
    }

    fn refused_topic(&mut self, source: &Source, topic: &str, error: &KafkaError) {
        match error.class {
            Class::Retry => self.wait(PAUSE),
            _ => self.block(source, format!("Kafka refuses topic {topic}: {error}")),
        }
    }

    fn block(&mut self, source: &Source, reason: String) {
        let mut blocked = source.outlet.blocked.lock();
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

/// Sixteen hexadecimal digits.
fn hex(fingerprint: u64) -> [u8; 16] {
    std::array::from_fn(|i| b"0123456789abcdef"[(fingerprint >> (60 - 4 * i) & 15) as usize])
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_fingerprint_is_written_as_sixteen_digits() {
        for fingerprint in [0, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(super::hex(fingerprint), *format!("{fingerprint:016x}").as_bytes());
        }
    }
}
