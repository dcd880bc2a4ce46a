//! What becomes of what a batch holds: each reading, document and reject is one record in the builder of its lane, or is counted as none.
//!
//! ```text
//! reading ─ believe its time ─ scale, range ─ report filter ─┬─ sample (and the tag's latest one)
//!                                                            ├─ a cell of a wide record
//!                                                            └─ dead letter
//! document ─ its contract ─ record │ dead letter             reject ─ dead letter             catalog entry ─ record
//! ```

use crate::frame::{Key, Lane, Record};
use crate::intake::Intake;
use crate::intake::core::{Core, Def};
use crate::intake::options::ClockWindow;
use crate::intake::pipe::Watched;
use crate::intake::pipe::{LedgerDelta, Pipe, lane_of};
use crate::sample_key::{KeyChoice, Of, SampleKey};
use crate::tags::Verdict;
use crate::topics::{Format, Topic};
use crate::wide::CellRef;
use crate::{catalog, dead};
use millrace_contract::Route;
use millrace_schemas::{Batch, Doc, Flags, Micros, Origin, Reject, Row, SampleMeta, Span, TimeSource, Value, headers, push_header};
use std::time::Duration;

/// In front of a sample in Protobuf: it is the first message of its file.
const FIRST_MESSAGE: u8 = 0;

/// A reading that was judged.
struct Reading<'a> {
    row: Row,
    heap: &'a [u8],
    read_time: Micros,
    /// What the device claimed, where it is not believed.
    device_time: Option<Micros>,
}

/// What could not be delivered, beside its payload.
struct Letter<'a> {
    topic: &'a Topic,
    route: &'a str,
    reason: &'a str,
    read_time: Micros,
    /// Headers it came with.
    headers: &'a [u8],
}

impl Intake {
    /// One reading: the bits of a word become their own samples.
    pub(super) fn reading(&self, core: &mut Core, pipe: &mut Pipe, delta: &mut LedgerDelta, row: &Row, heap: &[u8], read_time: Micros) {
        if row.tag.0 as usize >= core.defs.len() {
            self.ledger.dropped("unknown_tag", 1);
            delta.dropped += 1;
            return;
        }
        if !core.tags.rules(row.tag).is_some_and(|r| r.bits) {
            return self.sample(core, pipe, delta, row, heap, read_time);
        }
        let word = match row.value {
            Value::Int(v) => Some(v as u64),
            Value::UInt(v) => Some(v),
            _ => None,
        };
        for (bit, tag) in core.bits.get(&row.tag).cloned().unwrap_or_default() {
            let value = word.map_or(Value::Null, |w| Value::Bool(w >> bit & 1 == 1));
            self.sample(core, pipe, delta, &Row { tag, value, ..*row }, heap, read_time);
        }
    }

    pub(super) fn sample(&self, core: &mut Core, pipe: &mut Pipe, delta: &mut LedgerDelta, row: &Row, heap: &[u8], read_time: Micros) {
        let mut row = *row;
        let device_time = believe(&mut row, read_time, &self.clock);
        delta.clock_refused += u64::from(device_time.is_some());
        let applied = core.tags.rules(row.tag).map_or(Ok(()), |rules| rules.apply(&mut row));
        let verdict = core.tags.judge(&row, heap, read_time);
        let mut reading = Reading { row, heap, read_time, device_time };
        if let (Some(cell), Ok(())) = (core.defs[row.tag.0 as usize].cell, &applied) {
            return self.fold(core, pipe, delta, cell, &reading, verdict);
        }
        let Verdict::Report { first } = verdict else {
            delta.filtered += 1;
            return;
        };
        if first && matches!(row.flags.origin, Origin::Change | Origin::Poll | Origin::Other) {
            reading.row.flags.origin = Origin::Initial;
        }
        let def = &core.defs[row.tag.0 as usize];
        match applied {
            Ok(()) => self.write_sample(pipe, delta, def, &reading),
            Err(reason) => self.bury_sample(pipe, delta, def, &reading, &reason),
        }
    }

    fn write_sample(&self, pipe: &mut Pipe, delta: &mut LedgerDelta, def: &Def, reading: &Reading<'_>) {
        let Reading { row, heap, read_time, .. } = reading;
        let (topic, is_past) = (&def.topic, row.flags.origin == Origin::Backfill);
        let seq = pipe.number();
        let meta = self.meta(def, reading, seq);
        let (timestamp, is_replaced) = topic.timestamp(row.time, *read_time);
        delta.timestamp_replaced += u64::from(is_replaced);
        let Pipe { lanes, key, value: copy, watched, .. } = pipe;
        let builder = &mut lane_of(lanes, if is_past { Lane::Bulk } else { topic.lane }).builder;
        let write_key = topic.key.choose(Of::Tag(&def.path), &self.source, key);
        builder.push(
            &Record::data(seq, &topic.name, topic.sample_mark(), timestamp),
            Some(|out: &mut Vec<u8>| {
                let start = out.len();
                let tag_at = encode(topic.format, &meta, row, heap, out);
                match (write_key, tag_at) {
                    (KeyChoice::Tag, Some(at)) => Key::InValue { start: (at.start - start) as u32, len: at.len() as u32 },
                    (KeyChoice::Tag, None) => Key::Bytes(def.path.as_bytes()),
                    (KeyChoice::None, _) => Key::None,
                    (KeyChoice::Bytes(bytes), _) => Key::Bytes(bytes),
                }
            }),
            Key::None,
        );
        if self.taps.is_watched() {
            match topic.format {
                Format::Json => self.taps.say(&self.source, &def.path, builder.last_value().to_vec()),
                _ => watched.push(Watched { path: def.path.clone(), def: def.def, seq, row: *row, device_time: reading.device_time }),
            }
        }
        if topic.latest && !is_past {
            let latest = &self.latest;
            let is_same = topic.format == latest.format;
            if is_same {
                copy.clear();
                copy.extend_from_slice(builder.last_value());
            }
            let copy = is_same.then_some(&**copy);
            let seq = pipe.next_seq;
            pipe.next_seq += 1;
            // In one lane whatever the topic's, so that a tombstone never overtakes a sample.
            lane_of(&mut pipe.lanes, Lane::Normal).builder.push(
                &Record { schema: latest.sample_mark(), ..Record::aux(seq, &latest.name, timestamp) },
                Some(|out: &mut Vec<u8>| {
                    match copy {
                        Some(bytes) => out.extend_from_slice(bytes),
                        None => _ = encode(latest.format, &meta, row, heap, out),
                    }
                    Key::Bytes(def.path.as_bytes())
                }),
                Key::None,
            );
        }
    }

    /// A sample that its limits refuse, as JSON.
    fn bury_sample(&self, pipe: &mut Pipe, delta: &mut LedgerDelta, def: &Def, reading: &Reading<'_>, reason: &str) {
        self.tell(&def.topic, "", &format!("tag {}: {reason}", def.path));
        let letter = Letter { topic: &def.topic, route: &def.path, reason, read_time: reading.read_time, headers: &[] };
        self.bury(pipe, delta, &letter, |out, seq| {
            millrace_schemas::json::encode(&self.meta(def, reading, seq), &reading.row, reading.heap, out);
            Key::Bytes(def.path.as_bytes())
        });
    }

    fn meta<'m>(&'m self, def: &'m Def, reading: &Reading<'_>, seq: u64) -> SampleMeta<'m> {
        let Reading { read_time, device_time, .. } = *reading;
        SampleMeta { tag: &def.path, def: def.def, read_time, device_time, source: &self.source, seq: seq as i64 }
    }

    /// Shows those who watch what is not JSON in its topic.
    pub(super) fn show_watchers(&self, pipe: &mut Pipe, heap: &[u8], read_time: Micros) {
        for Watched { path, def, seq, row, device_time } in pipe.watched.drain(..) {
            let meta = SampleMeta { tag: &path, def, read_time, device_time, source: &self.source, seq: seq as i64 };
            let mut line = Vec::new();
            millrace_schemas::json::encode(&meta, &row, heap, &mut line);
            self.taps.say(&self.source, &path, line);
        }
    }

    /// A sample that goes into a wide record: a change into its asset's, any reading into its scan's.
    fn fold(&self, core: &mut Core, pipe: &mut Pipe, delta: &mut LedgerDelta, cell: CellRef, reading: &Reading<'_>, verdict: Verdict) {
        let Reading { row, heap, read_time, device_time } = *reading;
        delta.filtered += 1;
        let is_scan = core.rows.is_scan(cell);
        let is_wanted = if is_scan { !matches!(row.flags.origin, Origin::Heartbeat | Origin::Status) } else { verdict != Verdict::Filter };
        if !is_wanted {
            return;
        }
        if core.rows.is_repeat(cell) {
            let closed = core.rows.close(cell);
            self.wide_record(core, pipe, delta, closed, read_time);
        }
        delta.held = delta.held.max(core.rows.fold(cell, &row, heap, read_time));
        if self.taps.is_watched() {
            let def = &core.defs[row.tag.0 as usize];
            pipe.watched.push(Watched { path: def.path.clone(), def: def.def, seq: pipe.next_seq, row, device_time });
        }
    }

    /// Writes the wide records whose window or scan is over. False: some have to wait.
    pub(super) fn wide_records(&self, pipe: &mut Pipe, delta: &mut LedgerDelta, read_time: Micros, until: Micros) -> bool {
        let mut core = self.core.lock();
        while let Some(row) = core.rows.next_due(until) {
            if !self.wide_record(&mut core, pipe, delta, row, read_time) {
                return false;
            }
        }
        true
    }

    /// Writes a wide record. False: its schema can't be kept on the disk; it waits.
    fn wide_record(&self, core: &mut Core, pipe: &mut Pipe, delta: &mut LedgerDelta, row: usize, read_time: Micros) -> bool {
        let seq = pipe.next_seq;
        let Pipe { lanes, value, key: key_buffer, .. } = pipe;
        let made = match core.rows.write(row, &self.source, seq, value) {
            Ok(made) => made,
            Err(error) => {
                let why = format!("the schema of a wide record can't be kept: {error}");
                if self.told.lock().say(&why).is_some() {
                    tracing::error!(source = %self.source, "the schema of a wide record can't be kept: {error}; its values wait in memory");
                }
                self.hold(Some(&why));
                return false;
            }
        };
        pipe.next_seq += 1;
        let (timestamp, is_replaced) = made.topic.timestamp(made.time, read_time);
        delta.timestamp_replaced += u64::from(is_replaced);
        let key = match made.topic.key.choose(Of::Asset(made.asset), &self.source, key_buffer) {
            KeyChoice::Bytes(bytes) if matches!(made.topic.key, SampleKey::Template(_)) => Key::Bytes(bytes),
            KeyChoice::None => Key::None,
            _ => Key::Bytes(made.asset.as_bytes()),
        };
        lane_of(lanes, made.topic.lane).builder.push(
            &Record::data(seq, &made.topic.name, made.mark, timestamp),
            Some(|out: &mut Vec<u8>| {
                out.extend_from_slice(value);
                key
            }),
            Key::None,
        );
        true
    }

    pub(super) fn document(&self, pipe: &mut Pipe, delta: &mut LedgerDelta, doc: &Doc, batch: &Batch) {
        let routes = self.routes.read().clone();
        let route = routes.get(doc.route.0 as usize);
        let topic = {
            let name = if doc.topic == Span::EMPTY { route.map_or("millrace.unrouted", |r| &r.topic) } else { batch.text_of(doc.topic) };
            self.core.lock().topic(name)
        };
        let key = if doc.key.len == 0 { Key::None } else { Key::Bytes(batch.bytes_of(doc.key)) };
        let payload = doc.payload.map(|span| batch.bytes_of(span));
        let carried = batch.bytes_of(doc.headers);
        let mut is_converted = false;
        if let (Some(contract), Some(bytes)) = (&topic.contract, payload) {
            pipe.value.clear();
            if let Err(misfit) = contract.fit(bytes, &mut pipe.value, &mut pipe.work) {
                let reason = format!("does not fit the schema of topic {}: {misfit}", topic.name);
                return self.bury_document(pipe, delta, &topic, route, &reason, key, bytes, carried, batch.read_time);
            }
            is_converted = true;
        }
        let time = if doc.time.is_none() { batch.read_time } else { doc.time };
        let (timestamp, is_replaced) = topic.timestamp(time, batch.read_time);
        delta.timestamp_replaced += u64::from(is_replaced);
        let seq = pipe.number();
        let Pipe { lanes, headers, value, .. } = pipe;
        headers.clear();
        carry(headers, carried);
        identity_headers(headers, &self.source, seq);
        let written: Option<&[u8]> = if is_converted { Some(value) } else { payload };
        lane_of(lanes, topic.lane).builder.push(
            &Record { headers, ..Record::data(seq, &topic.name, topic.mark, timestamp) },
            written.map(|bytes| {
                move |out: &mut Vec<u8>| {
                    out.extend_from_slice(bytes);
                    key
                }
            }),
            key,
        );
        if self.taps.is_watched()
            && let Some(bytes) = payload
        {
            self.taps.say(&self.source, &topic.name, bytes.to_vec());
        }
    }

    pub(super) fn reject(&self, pipe: &mut Pipe, delta: &mut LedgerDelta, reject: &Reject, batch: &Batch) {
        let routes = self.routes.read().clone();
        let route = routes.get(reject.route.0 as usize);
        let topic = self.core.lock().topic(route.map_or("millrace.unrouted", |r| &r.topic));
        let key = if reject.key.len == 0 { Key::None } else { Key::Bytes(batch.bytes_of(reject.key)) };
        let (payload, carried) = (batch.bytes_of(reject.payload), batch.bytes_of(reject.headers));
        self.bury_document(pipe, delta, &topic, route, &reject.reason, key, payload, carried, batch.read_time);
    }

    /// A dead letter with the payload as it came.
    #[allow(clippy::too_many_arguments, reason = "one document, with all that belongs to it")]
    fn bury_document(
        &self,
        pipe: &mut Pipe,
        delta: &mut LedgerDelta,
        topic: &Topic,
        route: Option<&Route>,
        reason: &str,
        key: Key<'_>,
        payload: &[u8],
        headers: &[u8],
        read_time: Micros,
    ) {
        let route = route.map_or("", |r| &*r.name);
        self.tell(topic, route, reason);
        self.bury(pipe, delta, &Letter { topic, route, reason, read_time, headers }, |out, _| {
            out.extend_from_slice(payload);
            key
        });
    }

    /// Adds a dead letter; `write` writes its payload, given the sequence number, and returns its key.
    fn bury<'k>(&self, pipe: &mut Pipe, delta: &mut LedgerDelta, letter: &Letter<'_>, write: impl FnOnce(&mut Vec<u8>, u64) -> Key<'k>) {
        let seq = pipe.number();
        let Pipe { lanes, headers, .. } = pipe;
        headers.clear();
        carry(headers, letter.headers);
        dead_letter_headers(headers, &letter.topic.name, letter.route, &self.source, seq, letter.reason);
        let record = Record { headers, ..Record::aux(seq, &letter.topic.dead_letter, letter.read_time.as_millis()) };
        lane_of(lanes, letter.topic.lane).builder.push(&record, Some(|out: &mut Vec<u8>| write(out, seq)), Key::None);
        delta.dead += 1;
    }

    /// Says in the messages that there is a dead letter: of each way in the first at once, a storm of them now and then.
    fn tell(&self, topic: &Topic, route: &str, reason: &str) {
        if let Some(times) = self.told.lock().say(&format!("{route} {}", topic.name)) {
            tracing::warn!(source = %self.source, route, topic = &*topic.dead_letter, repeated = times, "a dead letter: {reason}");
        }
    }

    /// One catalog entry: a tag's definition, or the news that it is retired.
    pub(super) fn entry(&self, pipe: &mut Pipe, entry: &catalog::Entry, read_time: Micros) {
        let record = Record::aux(pipe.number(), &entry.topic, read_time.as_millis());
        pipe.lane(Lane::Normal).builder.push(
            &record,
            entry.value.as_ref().map(|value| {
                |out: &mut Vec<u8>| {
                    out.extend_from_slice(value);
                    Key::Bytes(&entry.key)
                }
            }),
            Key::Bytes(&entry.key),
        );
    }
}

/// Decides whether the row's time is believed. Returns the device's claim where it is not.
pub(crate) fn believe(row: &mut Row, read_time: Micros, clock: &ClockWindow) -> Option<Micros> {
    if row.time.is_none() {
        row.time = read_time;
        row.flags.time_source = TimeSource::Gateway;
        return None;
    }
    if row.flags.time_source == TimeSource::Gateway || row.flags.origin == Origin::Heartbeat {
        return None;
    }
    let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    let is_not_behind = row.flags.origin == Origin::Backfill || row.time.0 >= read_time.0.saturating_sub(micros(clock.behind));
    if is_not_behind && row.time.0 <= read_time.0.saturating_add(micros(clock.ahead)) {
        return None;
    }
    let claim = row.time;
    row.time = read_time;
    row.flags = Flags::new(row.flags.origin, TimeSource::Gateway);
    Some(claim)
}

/// A sample in its topic's format. Returns where in `out` the tag's path lies, for the record's key.
pub(crate) fn encode(format: Format, meta: &SampleMeta<'_>, row: &Row, heap: &[u8], out: &mut Vec<u8>) -> Option<std::ops::Range<usize>> {
    match format {
        Format::Avro => millrace_schemas::avro::encode(meta, row, heap, out),
        Format::Json | Format::Raw => millrace_schemas::json::encode(meta, row, heap, out),
        Format::Protobuf => {
            out.push(FIRST_MESSAGE);
            millrace_schemas::protobuf::encode(meta, row, heap, out)
        }
    }
}

fn identity_headers(out: &mut Vec<u8>, source: &str, seq: u64) {
    use std::io::Write;
    push_header(out, "millrace.source", Some(source.as_bytes()));
    let mut digits = [0u8; 20];
    let mut rest = &mut digits[..];
    let _ = write!(rest, "{seq}");
    let len = 20 - rest.len();
    push_header(out, "millrace.seq", Some(&digits[..len]));
}

/// Takes over the headers that a document came with, but those that only the engine gives: a device must not say who it is or what was checked.
fn carry(out: &mut Vec<u8>, carried: &[u8]) {
    for (name, value) in headers(carried).filter(|(name, _)| !dead::is_reserved(name)) {
        push_header(out, name, value);
    }
}

/// The headers of a dead letter, named as Kafka Connect names them.
pub(crate) fn dead_letter_headers(out: &mut Vec<u8>, topic: &str, route: &str, source: &str, seq: u64, reason: &str) {
    push_header(out, "__connect.errors.topic", Some(topic.as_bytes()));
    push_header(out, "__connect.errors.connector.name", Some(source.as_bytes()));
    push_header(out, "__connect.errors.exception.message", Some(reason.as_bytes()));
    push_header(out, "millrace.route", Some(route.as_bytes()));
    identity_headers(out, source, seq);
}
