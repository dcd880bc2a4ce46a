//! Reads a batch, whatever its bytes are.

use crate::frame::flag;
use crate::frame::{BODY_MAX, LZ4, Lane, RESERVED, VERSION};
use FrameError::Damaged;
use lz4_flex::block;
use millrace_schemas::{Micros, varint};

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

impl<'a> Frame<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let (&[version, flags, a, b, c, d], rest) = bytes.split_first_chunk::<6>().ok_or(Damaged("shorter than its header"))?;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let (head, body) = rest.split_at_checked(len).ok_or(Damaged("header is longer than the batch"))?;
        let mut at = Reader(head);
        let read_time = Micros(varint::unzigzag(at.varint()?));
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
    let timestamp_delta_ms = varint::unzigzag(at.varint()?);
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
        let (value, len) = varint::read(self.0).map_err(|_| Damaged("number does not end"))?;
        self.0 = &self.0[len..];
        Ok(value)
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
