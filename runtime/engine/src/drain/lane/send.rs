//! What a lane sends: batches of its log, record by record, each to its topic or, once it was refused, to the dead letters.
//!
//! ```text
//! batch ─ unpack ─ topics and schemas ready? ─ ids stamped in ─ each record: where it goes, with which time ─ producer ─ a unit in the window
//! ```
//!
//! Invariant: what went before a record that could not go is a unit of its own, so that it is neither sent twice nor forgotten.

use super::{Fix, Lane, PAUSE, State};
use crate::dead;
use crate::drain::client::{Client, Gate};
use crate::drain::options::{DrainOptions, SendBlocked, WireEncoding};
use crate::drain::source::Moved;
use crate::drain::source::Source;
use crate::frame::{self, Frame, RecordView, flag};
use crate::intake::{dead_letter_headers, is_believed};
use crate::source_logs::CursorMetadata;
use crate::topics::SCHEMA_HEADER;
use millrace_kafka::{Class, KafkaError, Outgoing, RecordFault, SendError};
use millrace_log::Batch;
use millrace_schemas::{Micros, headers, push_header};

/// What a small dead letter holds of a payload or a key that is kept in a file.
const BEGINNING: usize = 4096;
const KEY_BEGINNING: usize = 256;
/// What librdkafka keeps for a message beside its bytes, about.
const OVERHEAD: usize = 256;

/// What a turn of a lane did.
#[derive(Default, Clone, Copy)]
pub(in crate::drain) struct Sent {
    pub records: u32,
    pub bytes: usize,
    /// Nothing more goes out for now: the client's queue is full, or the client is spent.
    pub is_stuck: bool,
    pub is_spent: bool,
    /// The transaction can only be aborted.
    pub is_doomed: bool,
}

/// How many records may still go, in the unit at hand and in all.
#[derive(Clone, Copy)]
pub(in crate::drain) struct Room {
    pub records: usize,
    pub bytes: usize,
}

/// A topic of the batch at hand, ready to be sent to.
struct Way {
    gate: Gate,
    wire: WireEncoding,
}

/// Records of one batch that go out together, on their way to become a unit.
struct Run {
    note: CursorMetadata,
    next: u64,
    records: u32,
    bytes: usize,
}

/// One record on its way.
struct Going<'a> {
    offset: u64,
    read_time_ms: i64,
    now: Micros,
    topic: &'a str,
    schema: u64,
    way: &'a Way,
    record: &'a RecordView,
    body: &'a [u8],
    opaque: u64,
}

/// What became of a record that went.
struct Went {
    is_dead: bool,
    is_time_replaced: bool,
}

/// Why a record did not go.
enum Stop {
    QueueFull,
    Doomed,
    /// Kafka, or the client, does not take this record.
    Record(KafkaError),
    /// A topic takes nothing.
    Topic(String, KafkaError),
    /// It can't be kept in a file.
    Kept(String),
}

impl Lane {
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
            sent.is_doomed |= outcome.is_doomed;
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
        if let State::Waiting { .. } = self.state {
            self.state = State::Flowing;
        }
        let Some(frame) = self.unpack(source, batch, body) else { return Sent::default() };
        if self.next <= batch.first {
            self.account_gap(frame.lane_total);
        }
        let Some(ways) = self.make_ready(client, options, source, &frame) else { return Sent::default() };
        let prefixes: Vec<_> = ways.iter().map(|way| way.wire.prefix).collect();
        if prefixes.iter().any(Option::is_some) {
            frame::stamp(body, &frame.topics, &prefixes);
        }
        let limit = self.careful.map_or(usize::MAX, |careful| careful.size as usize);
        let opaque = u64::from(self.id) << 32 | u64::from(self.serial);
        let (read_time_ms, now) = (frame.read_time.as_millis(), Micros::now());
        let mut run = Run { note: self.head, next: batch.next, records: 0, bytes: 0 };
        let mut stop = None;
        for record in frame::records(body, &frame.topics) {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    tracing::error!(log = self.log.name(), offset = batch.first, "records of a batch are lost: {error}");
                    let rest = (frame.lane_total + frame.data_records).saturating_sub(run.note.lane_total);
                    run.note.dropped += rest;
                    run.note.lane_total += rest;
                    break;
                }
            };
            let offset = batch.first + record.delta;
            if offset < self.next {
                continue;
            }
            if run.records as usize >= limit || (run.records > 0 && run.records as usize >= room) {
                run.next = offset;
                break;
            }
            let ((topic, schema), way) = (frame.topics[record.topic], &ways[record.topic]);
            let going = Going { offset, read_time_ms, now, topic, schema, way, record: &record, body, opaque };
            match self.send_record(client, options, source, &going) {
                Ok(went) => run.count(&record, &went),
                Err(why) => {
                    run.next = offset;
                    stop = Some((offset, topic, why));
                    break;
                }
            }
        }
        let mut sent = self.end_run(run, &frame, batch.next);
        if let Some((offset, topic, why)) = stop {
            self.stopped(source, offset, topic, why, &mut sent);
        }
        sent
    }

    /// Unpacks a batch. `None`: it can't be, which is counted, or needs a newer release.
    fn unpack<'b>(&mut self, source: &Source, batch: &Batch<'b>, body: &mut Vec<u8>) -> Option<Frame<'b>> {
        let Batch { first, next, records, payload, .. } = *batch;
        match Frame::read(payload).and_then(|frame| frame.unpack(body).map(|()| frame)) {
            Ok(frame) => Some(frame),
            Err(frame::FrameError::Version(_)) => {
                self.block(source, format!("log {}: batch at {first} was written by a newer release; use that release", self.log.name()));
                None
            }
            Err(error) => {
                tracing::error!(log = self.log.name(), offset = first, records, "a batch is lost: {error}");
                self.head.dropped += u64::from(records);
                self.head.lane_total += u64::from(records);
                self.finish_unit(next, 0, 0, Micros::NONE, None);
                None
            }
        }
    }

    /// Makes every topic of a batch ready before its first record goes, and every schema: what was written with one goes out with its id in front.
    fn make_ready(&mut self, client: &mut Client, options: &DrainOptions, source: &Source, frame: &Frame<'_>) -> Option<Vec<Way>> {
        client.make_new(&frame.topics);
        let mut ways = Vec::with_capacity(frame.topics.len());
        for (topic, schema) in &frame.topics {
            let gate = match client.gate(topic) {
                Ok(gate) => gate,
                Err(error) => {
                    self.refused_topic(source, topic, &error);
                    return None;
                }
            };
            match options.way_of(topic, *schema) {
                Ok(wire) => ways.push(Way { gate, wire }),
                Err(SendBlocked::Wait) => {
                    self.wait(PAUSE);
                    return None;
                }
                Err(SendBlocked::Refused(reason)) => {
                    self.block(source, reason);
                    return None;
                }
            }
        }
        Some(ways)
    }

    /// Hands one record to the producer, as it is or as it must go after it was refused.
    fn send_record(&mut self, client: &mut Client, options: &DrainOptions, source: &Source, going: &Going<'_>) -> Result<Went, Stop> {
        let Going { offset, read_time_ms, now, schema, way, record, body, opaque, .. } = *going;
        let fix = self.fix.as_ref().filter(|(at, _)| *at == offset).map(|(_, fix)| fix);
        if let Some(Fix::Dead { error, is_kept }) = fix {
            let (error, is_kept) = (error.clone(), *is_kept);
            return self.send_letter(client, options, source, going, &error, is_kept);
        }
        let mut timestamp_ms = read_time_ms.saturating_add(record.timestamp_delta_ms);
        let is_time_replaced = timestamp_ms != read_time_ms && (fix == Some(&Fix::ReadTime) || !way.gate.takes(timestamp_ms, now));
        if is_time_replaced {
            timestamp_ms = read_time_ms;
        }
        // Read before the clock was set: by such a timestamp Kafka would delete it soon.
        let is_unset = |ms: i64| !is_believed(Micros(ms.saturating_mul(1000)));
        let is_set_since = is_unset(read_time_ms) && is_unset(timestamp_ms) && is_believed(now);
        if is_set_since {
            timestamp_ms = now.as_millis();
        }
        let message = Outgoing { partition: None, key: going.key(), value: going.value(), timestamp_ms, opaque };
        let own = headers(&body[record.headers.clone()]);
        if way.wire.names_schema {
            let schema = hex(schema);
            client.producer.send(&way.gate.topic, &message, own.chain([(SCHEMA_HEADER, Some(&schema[..]))]))?;
        } else {
            client.producer.send(&way.gate.topic, &message, own)?;
        }
        Ok(Went { is_dead: false, is_time_replaced: is_time_replaced || is_set_since })
    }

    /// Sends a record that Kafka refused to the dead letters: whole, or kept in a file and named by a letter that is small whatever the record holds.
    fn send_letter(
        &mut self,
        client: &mut Client,
        options: &DrainOptions,
        source: &Source,
        going: &Going<'_>,
        error: &KafkaError,
        is_kept: bool,
    ) -> Result<Went, Stop> {
        let letter = options.topics.get(going.topic).dead_letter.clone();
        let gate = client.gate(&letter).map_err(|error| Stop::Topic(letter.to_string(), error))?;
        let (key, value) = (going.key(), going.value());
        let own = &going.body[going.record.headers.clone()];
        let out = &mut self.headers;
        out.clear();
        if !is_kept {
            for (name, value) in headers(own).filter(|(name, _)| !matches!(*name, "millrace.source" | "millrace.seq")) {
                push_header(out, name, value);
            }
        }
        let name = &source.source_logs.source;
        dead_letter_headers(out, going.topic, "", name, going.offset, &going.reason(error));
        push_header(out, dead::ENCODED, Some(b"true"));
        if going.way.wire.names_schema {
            push_header(out, SCHEMA_HEADER, Some(&hex(going.schema)));
        }
        if is_kept {
            let whole = dead::kept::Whole { key, headers: own, value };
            let file = options.kept.keep(name, going.offset, &whole).map_err(|why| Stop::Kept(why.into()))?;
            push_header(out, dead::CUT, Some(b"true"));
            push_header(out, dead::kept::FILE, Some(file.path.as_bytes()));
            push_header(out, dead::kept::DIGEST, Some(file.sha256.as_bytes()));
        }
        let cut = |bytes: &'_ [u8], to: usize| if is_kept { bytes.len().min(to) } else { bytes.len() };
        let message = Outgoing {
            partition: None,
            key: key.map(|k| &k[..cut(k, KEY_BEGINNING)]),
            value: value.map(|v| &v[..cut(v, BEGINNING)]),
            timestamp_ms: going.read_time_ms,
            opaque: going.opaque,
        };
        client.producer.send(&gate.topic, &message, headers(out))?;
        Ok(Went { is_dead: true, is_time_replaced: false })
    }

    /// What went becomes a unit of the window.
    fn end_run(&mut self, mut run: Run, frame: &Frame<'_>, batch_next: u64) -> Sent {
        let is_whole = run.next == batch_next;
        if is_whole && run.note.lane_total < frame.lane_total + frame.data_records {
            run.note.lane_total = frame.lane_total + frame.data_records;
        }
        let moved = (is_whole && !frame.moved.is_empty())
            .then(|| Moved { behind: batch_next, keys: frame.moved.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect() });
        if run.next > self.next && (run.records > 0 || is_whole) {
            self.head = run.note;
            self.finish_unit(run.next, run.records, run.bytes, frame.read_time, moved);
        }
        Sent { records: run.records, bytes: run.bytes, ..Sent::default() }
    }

    /// A record could not go. What is in flight before it must not be sent again: the state changes only, the window stays.
    fn stopped(&mut self, source: &Source, offset: u64, topic: &str, why: Stop, sent: &mut Sent) {
        match why {
            Stop::QueueFull => sent.is_stuck = true,
            Stop::Doomed => (sent.is_stuck, sent.is_doomed) = (true, true),
            Stop::Kept(reason) => self.block(source, reason),
            Stop::Topic(topic, error) => self.refused_topic(source, &topic, &error),
            Stop::Record(error) => match error.class {
                Class::Fatal | Class::Fenced | Class::Denied => (sent.is_stuck, sent.is_spent) = (true, true),
                Class::Record(fault) => self.refuse(source, offset, offset + 1, fault, &error),
                Class::Topic => self.refused_topic(source, topic, &error),
                Class::Retry => self.wait(PAUSE),
            },
        }
    }
}

impl Run {
    fn count(&mut self, record: &RecordView, went: &Went) {
        self.records += 1;
        let len = |range: &Option<std::ops::Range<usize>>| range.as_ref().map_or(0, |r| r.len());
        self.bytes += len(&record.value) + len(&record.key) + record.headers.len() + OVERHEAD;
        if record.flags & flag::AUX == 0 {
            self.note.lane_total += 1;
            if went.is_dead {
                self.note.dead += 1;
            } else {
                self.note.produced += 1;
            }
        }
        self.note.timestamp_replaced += u64::from(went.is_time_replaced);
    }
}

impl<'a> Going<'a> {
    fn key(&self) -> Option<&'a [u8]> {
        self.record.key.clone().map(|r| &self.body[r])
    }

    fn value(&self) -> Option<&'a [u8]> {
        self.record.value.clone().map(|r| &self.body[self.way.wire.of_value(r, self.record.reserved)])
    }

    /// Why it is a dead letter; of one that is too large, both sizes and the cure.
    fn reason(&self, error: &KafkaError) -> String {
        if error.class != Class::Record(RecordFault::TooLarge) {
            return format!("refused by Kafka: {error}");
        }
        let [key, value] = [self.key(), self.value()].map(|bytes| bytes.map_or(0, <[u8]>::len));
        let len = key + value + self.record.headers.len();
        let (topic, limit) = (self.topic, self.way.gate.max_message_bytes());
        format!(
            "refused by Kafka: {len} bytes, and topic {topic} takes {limit}: raise its max.message.bytes and replay this letter, or let the source send less"
        )
    }
}

impl From<SendError> for Stop {
    fn from(error: SendError) -> Self {
        match error {
            SendError::QueueFull => Self::QueueFull,
            SendError::Doomed(_) => Self::Doomed,
            SendError::Refused(error) => Self::Record(error),
        }
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
