//! What the engine keeps inside one opaque batch of the log: records ready for Kafka, and what must survive with them.
//!
//! ```text
//! batch   = u8 version | u8 flags (1: body is lz4) | header | body
//! header  = u32 its length, then varints:
//!           read_time (zigzag, µs) | first offset's lane total | data records | body length, unpacked
//!           | n counts, each u64                                  the ledger's intake counts after this batch, see `ledger`
//!           | n topics, each: length name, u64 schema fingerprint (0: none)
//!           | n moved positions, each: length key, length + 1 value (0: the key is removed)
//!           | n pieces of a split batch, each: u8 lane, offset below which that lane must be delivered before the positions count
//! body    = records, each:
//!           length | offset - first | topic index | timestamp - read_time in ms (zigzag) | u8 flags
//!           | key: in the value: start, length; else: length, bytes | length headers | value (with a schema: 5 reserved bytes in front)
//! ```
//!
//! Self-contained: a batch names its own topics and schemas, so a segment can go without any other.
//! A record that is not data (a dead letter, a catalog entry) is marked `AUX` and not counted as appended.
//! Lane total: how many data records the lane ever held before this batch; a gap between two batches is a counted loss.

use lz4_flex::block;
use millrace_schemas::Micros;

const VERSION: u8 = 1;
const LZ4: u8 = 1;
/// Below this, compression does not pay.
const LZ4_FROM: usize = 1024;
/// A body that claims more than this is not read.
const BODY_MAX: usize = 256 << 20;
/// Room for a registry's prefix: magic byte and schema id.
pub const RESERVED: usize = 5;

/// The lanes of a source, first to last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Lane {
    First = 0,
    #[default]
    Normal = 1,
    Bulk = 2,
}

impl Lane {
    pub const ALL: [Self; 3] = [Self::First, Self::Normal, Self::Bulk];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }
}

/// Flags of a record.
pub mod flag {
    /// The key is a piece of the value.
    pub const KEY_IN_VALUE: u8 = 1;
    /// The key is null.
    pub const NO_KEY: u8 = 2;
    /// The value is null.
    pub const TOMBSTONE: u8 = 4;
    /// Not data: a dead letter made at intake, a catalog entry.
    pub const AUX: u8 = 8;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key<'a> {
    None,
    Bytes(&'a [u8]),
    /// A piece of the value, counted from behind the reserved bytes.
    InValue {
        start: u32,
        len: u32,
    },
}

/// What a record is, beside its key and value.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub offset: u64,
    pub topic: &'a std::sync::Arc<str>,
    /// The fingerprint of its schema; 0: none.
    pub schema: u64,
    pub timestamp_ms: i64,
    /// [`flag::AUX`] or nothing; the other flags follow from key and value.
    pub flags: u8,
    /// In the layout of `millrace_schemas::headers`.
    pub headers: &'a [u8],
}

/// Builds the body of one batch, record by record. Reused: nothing is allocated once it is warm.
#[derive(Default)]
pub struct Builder {
    topics: Vec<(std::sync::Arc<str>, u64)>,
    body: Vec<u8>,
    packed: Vec<u8>,
    head: Vec<u8>,
    first: u64,
    next: u64,
    records: u32,
    data: u32,
    read_time: i64,
    scratch: Vec<u8>,
}

/// What goes into the header beside the records.
#[derive(Clone, Copy, Default)]
pub struct Extra<'a> {
    pub lane_total: u64,
    pub counts: &'a [u64],
    pub moved: &'a [(&'a str, &'a [u8])],
    pub split: &'a [(Lane, u64)],
}

impl Builder {
    /// Starts a batch; offsets begin at the first record's.
    pub fn begin(&mut self, read_time: Micros) {
        self.topics.clear();
        self.body.clear();
        self.records = 0;
        self.data = 0;
        self.first = 0;
        self.next = 0;
        self.read_time = read_time.0;
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn data_records(&self) -> u32 {
        self.data
    }

    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// Adds a record. `value` writes the value into the buffer it is given (`None`: a tombstone) and returns the key,
    /// which may be a piece of what it wrote.
    pub fn push<'k>(&mut self, record: &Record<'_>, value: Option<impl FnOnce(&mut Vec<u8>) -> Key<'k>>, key_if_tombstone: Key<'k>) {
        let Record { offset, topic, schema, timestamp_ms, flags, headers } = *record;
        if self.records == 0 {
            self.first = offset;
        }
        debug_assert!(offset >= self.next);
        self.next = offset + 1;
        self.records += 1;
        self.data += u32::from(flags & flag::AUX == 0);
        let index = match self.topics.iter().position(|(name, s)| *s == schema && (std::sync::Arc::ptr_eq(name, topic) || name == topic)) {
            Some(index) => index,
            None => {
                self.topics.push((topic.clone(), schema));
                self.topics.len() - 1
            }
        };
        let mut flags = flags & flag::AUX;
        self.scratch.clear();
        let key = match value {
            Some(write) => {
                if schema != 0 {
                    self.scratch.extend_from_slice(&[0; RESERVED]);
                }
                write(&mut self.scratch)
            }
            None => {
                flags |= flag::TOMBSTONE;
                key_if_tombstone
            }
        };
        flags |= match key {
            Key::None => flag::NO_KEY,
            Key::InValue { .. } => flag::KEY_IN_VALUE,
            Key::Bytes(_) => 0,
        };
        let key_len = match key {
            Key::None => 0,
            Key::Bytes(bytes) => varint_len(bytes.len() as u64) + bytes.len(),
            Key::InValue { start, len } => varint_len(u64::from(start)) + varint_len(u64::from(len)),
        };
        let delta = zigzag(timestamp_ms - self.read_time.div_euclid(1000));
        let len = varint_len(offset - self.first)
            + varint_len(index as u64)
            + varint_len(delta)
            + 1
            + key_len
            + varint_len(headers.len() as u64)
            + headers.len()
            + self.scratch.len();
        self.body.reserve(len + 5);
        put_varint(&mut self.body, len as u64);
        put_varint(&mut self.body, offset - self.first);
        put_varint(&mut self.body, index as u64);
        put_varint(&mut self.body, delta);
        self.body.push(flags);
        match key {
            Key::None => {}
            Key::Bytes(bytes) => {
                put_varint(&mut self.body, bytes.len() as u64);
                self.body.extend_from_slice(bytes);
            }
            Key::InValue { start, len } => {
                put_varint(&mut self.body, u64::from(start));
                put_varint(&mut self.body, u64::from(len));
            }
        }
        put_varint(&mut self.body, headers.len() as u64);
        self.body.extend_from_slice(headers);
        self.body.extend_from_slice(&self.scratch);
    }

    /// Ends a batch without records: it carries positions and counts only, and takes one offset.
    pub fn empty_at(&mut self, offset: u64) {
        debug_assert!(self.is_empty());
        self.first = offset;
        self.next = offset + 1;
    }

    /// The finished batch, in the two pieces to append: header and body.
    pub fn finish(&mut self, extra: Extra<'_>, compress: bool) -> [&[u8]; 2] {
        let mut flags = 0;
        if compress && self.body.len() >= LZ4_FROM {
            self.packed.resize(block::get_maximum_output_size(self.body.len()), 0);
            if let Ok(len) = block::compress_into(&self.body, &mut self.packed)
                && len < self.body.len() / 8 * 7
            {
                self.packed.truncate(len);
                flags |= LZ4;
            }
        }
        let head = &mut self.head;
        head.clear();
        head.extend_from_slice(&[VERSION, flags, 0, 0, 0, 0]);
        put_varint(head, zigzag(self.read_time));
        put_varint(head, extra.lane_total);
        put_varint(head, u64::from(self.data));
        put_varint(head, self.body.len() as u64);
        put_varint(head, extra.counts.len() as u64);
        for count in extra.counts {
            put_varint(head, *count);
        }
        put_varint(head, self.topics.len() as u64);
        for (name, schema) in &self.topics {
            put_varint(head, name.len() as u64);
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(&schema.to_le_bytes());
        }
        put_varint(head, extra.moved.len() as u64);
        for (key, value) in extra.moved {
            put_varint(head, key.len() as u64);
            head.extend_from_slice(key.as_bytes());
            if value.is_empty() {
                put_varint(head, 0);
            } else {
                put_varint(head, value.len() as u64 + 1);
                head.extend_from_slice(value);
            }
        }
        put_varint(head, extra.split.len() as u64);
        for (lane, offset) in extra.split {
            head.push(*lane as u8);
            put_varint(head, *offset);
        }
        let len = (head.len() - 6) as u32;
        head[2..6].copy_from_slice(&len.to_le_bytes());
        [&self.head, if flags & LZ4 != 0 { &self.packed } else { &self.body }]
    }
}

/// A batch read back: the header borrowed, the body unpacked into a buffer that is used again.
#[derive(Debug)]
pub struct Frame<'a> {
    pub read_time: Micros,
    pub lane_total: u64,
    pub data_records: u64,
    pub counts: Vec<u64>,
    pub topics: Vec<(&'a str, u64)>,
    pub moved: Vec<(&'a str, &'a [u8])>,
    pub split: Vec<(Lane, u64)>,
    packed: bool,
    unpacked_len: usize,
    body: &'a [u8],
}

/// A batch that is not one of ours: what was expected, at which byte.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    #[error("batch has format version {0}, this program reads up to {VERSION}: use a newer release")]
    Version(u8),
    #[error("batch is damaged: {0}")]
    Damaged(&'static str),
}

use FrameError::Damaged;

impl<'a> Frame<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let (&[version, flags, a, b, c, d], rest) = bytes.split_first_chunk::<6>().ok_or(Damaged("shorter than its header"))?;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let (head, body) = rest.split_at_checked(len).ok_or(Damaged("header is longer than the batch"))?;
        let mut at = Reader(head);
        let read_time = Micros(unzigzag(at.varint()?));
        let lane_total = at.varint()?;
        let data_records = at.varint()?;
        let unpacked_len = at.varint()? as usize;
        if unpacked_len > BODY_MAX {
            return Err(Damaged("body claims more than 256 MiB"));
        }
        let counts = at.list(|at| at.varint())?;
        let topics = at.list(|at| {
            let name = std::str::from_utf8(at.sized()?).map_err(|_| Damaged("topic name is not UTF-8"))?;
            Ok((name, u64::from_le_bytes(at.take(8)?.try_into().expect("eight bytes"))))
        })?;
        let moved = at.list(|at| {
            let key = std::str::from_utf8(at.sized()?).map_err(|_| Damaged("position key is not UTF-8"))?;
            let len = at.varint()?;
            Ok((key, if len == 0 { &[][..] } else { at.take(len as usize - 1)? }))
        })?;
        let split = at.list(|at| {
            let lane = *Lane::ALL.get(at.take(1)?[0] as usize).ok_or(Damaged("unknown lane"))?;
            Ok((lane, at.varint()?))
        })?;
        let packed = flags & LZ4 != 0;
        if !packed && body.len() != unpacked_len {
            return Err(Damaged("body has another length than its header says"));
        }
        Ok(Self { read_time, lane_total, data_records, counts, topics, moved, split, packed, unpacked_len, body })
    }

    /// Unpacks the body into `buffer`; walk it with [`records`].
    pub fn unpack(&self, buffer: &mut Vec<u8>) -> Result<(), FrameError> {
        buffer.clear();
        if self.packed {
            buffer.resize(self.unpacked_len, 0);
            let len = block::decompress_into(self.body, buffer).map_err(|_| Damaged("body cannot be unpacked"))?;
            if len != self.unpacked_len {
                return Err(Damaged("body unpacks to another length than its header says"));
            }
        } else {
            buffer.extend_from_slice(self.body);
        }
        Ok(())
    }

    /// Bytes of the body once unpacked.
    pub fn unpacked_len(&self) -> usize {
        self.unpacked_len
    }
}

/// One record of an unpacked body; ranges point into that body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordView {
    /// Offset minus the batch's first.
    pub delta: u64,
    pub topic: usize,
    /// Milliseconds, relative to read_time's.
    pub timestamp_delta_ms: i64,
    pub flags: u8,
    pub key: Option<std::ops::Range<usize>>,
    pub headers: std::ops::Range<usize>,
    /// The value behind the reserved bytes; `None`: a tombstone.
    pub value: Option<std::ops::Range<usize>>,
    /// Whether five reserved bytes lie in front of the value.
    pub reserved: bool,
}

/// Walks an unpacked body. `schemas[i]` says whether topic i of the frame has a schema.
pub fn records<'a>(body: &'a [u8], topics: &'a [(&str, u64)]) -> impl Iterator<Item = Result<RecordView, FrameError>> + 'a {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start >= body.len() {
            return None;
        }
        Some(record(body, &mut start, topics).inspect_err(|_| start = body.len()))
    })
    .fuse()
}

fn record(body: &[u8], start: &mut usize, topics: &[(&str, u64)]) -> Result<RecordView, FrameError> {
    let mut outer = Reader(&body[*start..]);
    let len = outer.varint()? as usize;
    let begin = body.len() - outer.0.len();
    let bytes = outer.take(len)?;
    let end = begin + len;
    *start = end;
    let mut at = Reader(bytes);
    let here = |at: &Reader<'_>| end - at.0.len();
    let delta = at.varint()?;
    let topic = at.varint()? as usize;
    let (_, schema) = *topics.get(topic).ok_or(Damaged("record names an unknown topic"))?;
    let timestamp_delta_ms = unzigzag(at.varint()?);
    let flags = at.take(1)?[0];
    let mut in_value = None;
    let mut key = None;
    if flags & flag::KEY_IN_VALUE != 0 {
        in_value = Some((at.varint()? as usize, at.varint()? as usize));
    } else if flags & flag::NO_KEY == 0 {
        let len = at.varint()? as usize;
        let from = here(&at);
        at.take(len)?;
        key = Some(from..from + len);
    }
    let len = at.varint()? as usize;
    let from = here(&at);
    at.take(len)?;
    let headers = from..from + len;
    let mut value = None;
    let reserved = schema != 0 && flags & flag::TOMBSTONE == 0;
    if flags & flag::TOMBSTONE == 0 {
        if reserved {
            at.take(RESERVED)?;
        }
        value = Some(here(&at)..end);
    }
    if let Some((start, len)) = in_value {
        let value = value.as_ref().ok_or(Damaged("key lies in a value that is not there"))?;
        let from = value.start.checked_add(start).ok_or(Damaged("key lies outside the value"))?;
        let to = from.checked_add(len).filter(|to| *to <= value.end).ok_or(Damaged("key lies outside the value"))?;
        key = Some(from..to);
    }
    Ok(RecordView { delta, topic, timestamp_delta_ms, flags, key, headers, value, reserved })
}

/// Writes a registry's prefix into the reserved bytes of every record whose topic has one; ends at a record that is damaged.
pub fn stamp(body: &mut [u8], topics: &[(&str, u64)], prefixes: &[Option<[u8; RESERVED]>]) {
    let mut start = 0;
    while start < body.len() {
        let Ok(view) = record(body, &mut start, topics) else { return };
        if let (true, Some(value), Some(prefix)) = (view.reserved, view.value, prefixes[view.topic]) {
            body[value.start - RESERVED..value.start].copy_from_slice(&prefix);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, FrameError> {
        let mut value = 0u64;
        for (i, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = &self.0[i + 1..];
                return Ok(value);
            }
        }
        Err(Damaged("number does not end"))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Damaged("field is longer than what holds it"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn sized(&mut self) -> Result<&'a [u8], FrameError> {
        let len = self.varint()? as usize;
        self.take(len)
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T, FrameError>) -> Result<Vec<T>, FrameError> {
        let len = self.varint()? as usize;
        // Every item takes at least one byte, so a hostile length can't make us allocate more than the batch's size.
        if len > self.0.len() {
            return Err(Damaged("list is longer than what holds it"));
        }
        (0..len).map(|_| item(self)).collect()
    }
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads any bytes as a batch and walks it; for the fuzzer.
#[doc(hidden)]
pub fn fuzz_frame(bytes: &[u8]) {
    if let Ok(frame) = Frame::read(bytes)
        && frame.unpacked_len() < 1 << 20
    {
        let mut body = Vec::new();
        if frame.unpack(&mut body).is_ok() {
            for record in records(&body, &frame.topics) {
                let Ok(record) = record else { break };
                let _ = (record.key.map(|r| &body[r]), record.value.map(|r| &body[r]), &body[record.headers]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn sample_batch(builder: &mut Builder, n: u64) -> Vec<u8> {
        let topic: Arc<str> = "telemetry".into();
        let docs: Arc<str> = "docs".into();
        builder.begin(Micros(1_700_000_000_123_456));
        for i in 0..n {
            let record = Record {
                offset: 100 + 2 * i,
                topic: &topic,
                schema: 7,
                timestamp_ms: 1_700_000_000_000 + i as i64,
                flags: 0,
                headers: b"",
            };
            builder.push(
                &record,
                Some(|out: &mut Vec<u8>| {
                    out.extend_from_slice(b"..plant/line/temperature..");
                    Key::InValue { start: 2, len: 22 }
                }),
                Key::None,
            );
        }
        let gone = Record { offset: 5000, topic: &docs, schema: 0, timestamp_ms: 0, flags: flag::AUX, headers: b"hh" };
        builder.push(&gone, None::<fn(&mut Vec<u8>) -> Key<'static>>, Key::Bytes(b"gone"));
        let extra = Extra { lane_total: 42, counts: &[1, 2, 3], moved: &[("a", b"1"), ("b", b"")], split: &[(Lane::First, 9)] };
        builder.finish(extra, true).concat()
    }

    #[test]
    fn a_batch_comes_back_as_built() {
        for n in [0, 1, 200] {
            let mut builder = Builder::default();
            let bytes = sample_batch(&mut builder, n);
            let frame = Frame::read(&bytes).unwrap();
            assert_eq!((frame.lane_total, frame.data_records), (42, n));
            assert_eq!(frame.counts, [1, 2, 3]);
            assert_eq!(frame.moved, [("a", &b"1"[..]), ("b", &b""[..])]);
            assert_eq!(frame.split, [(Lane::First, 9)]);
            let mut body = Vec::new();
            frame.unpack(&mut body).unwrap();
            let got: Vec<_> = records(&body, &frame.topics).map(Result::unwrap).collect();
            assert_eq!(got.len() as u64, n + 1);
            for (i, record) in got[..n as usize].iter().enumerate() {
                assert_eq!(record.delta, 2 * i as u64);
                assert_eq!(&body[record.key.clone().unwrap()], b"plant/line/temperature");
                assert_eq!(&body[record.value.clone().unwrap()], b"..plant/line/temperature..");
                assert!(record.reserved);
                assert_eq!(record.timestamp_delta_ms, i as i64 - 123);
            }
            let last = &got[n as usize];
            assert_eq!(last.value, None);
            assert_eq!(&body[last.key.clone().unwrap()], b"gone");
            assert_eq!(&body[last.headers.clone()], b"hh");
            assert_eq!(last.flags & flag::AUX, flag::AUX);
        }
    }

    #[test]
    fn an_unknown_version_is_named() {
        let mut bytes = sample_batch(&mut Builder::default(), 1);
        bytes[0] = 9;
        assert_eq!(Frame::read(&bytes).unwrap_err(), FrameError::Version(9));
    }

    #[test]
    fn a_prefix_stands_in_the_reserved_bytes_and_nothing_else_has_changed() {
        let bytes = sample_batch(&mut Builder::default(), 3);
        let frame = Frame::read(&bytes).unwrap();
        let mut body = Vec::new();
        frame.unpack(&mut body).unwrap();
        let before = body.clone();
        stamp(&mut body, &frame.topics, &[Some([0, 1, 2, 3, 4]), Some([9; 5])]);
        let views: Vec<_> = records(&before, &frame.topics).map(Result::unwrap).collect();
        for value in views.iter().filter_map(|v| v.value.clone()) {
            assert_eq!(&body[value.start - RESERVED..value.start], [0, 1, 2, 3, 4]);
        }
        let changed = before.iter().zip(&body).filter(|(a, b)| a != b).count();
        assert_eq!(changed, 3 * 4, "the magic byte is zero already");
        assert_eq!(records(&body, &frame.topics).map(Result::unwrap).collect::<Vec<_>>(), views);
    }

    proptest! {
        #[test]
        fn flipped_bytes_never_panic(at in 0usize..400, flip in 1u8..=255) {
            let mut bytes = sample_batch(&mut Builder::default(), 8);
            let at = at % bytes.len();
            bytes[at] ^= flip;
            fuzz_frame(&bytes);
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_frame(&bytes);
            let mut with_version = vec![1, 0];
            with_version.extend_from_slice(&bytes);
            fuzz_frame(&with_version);
        }
    }
}
