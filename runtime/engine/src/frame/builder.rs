//! Writes a batch, record by record.

use crate::frame::flag;
use crate::frame::{Key, LZ4, Lane, RESERVED, Record, VERSION};
use lz4_flex::block;
use millrace_schemas::{Micros, varint};

/// Below this, compression does not pay.
const LZ4_FROM: usize = 1024;
/// A builder that held a larger batch gives the memory back.
const KEPT_BYTES: usize = 4 << 20;

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
    /// The last record's value, with the reserved bytes in front where it has a schema.
    scratch: Vec<u8>,
    reserved: usize,
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
        self.body.shrink_to(KEPT_BYTES);
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

    pub fn read_time(&self) -> Micros {
        Micros(self.read_time)
    }

    pub fn data_records(&self) -> u32 {
        self.data
    }

    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// The value of the record that was pushed last.
    pub fn last_value(&self) -> &[u8] {
        self.scratch.get(self.reserved..).unwrap_or_default()
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
                self.reserved = if schema != 0 { RESERVED } else { 0 };
                self.scratch.resize(self.reserved, 0);
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
            Key::Bytes(bytes) => varint::len(bytes.len() as u64) + bytes.len(),
            Key::InValue { start, len } => varint::len(u64::from(start)) + varint::len(u64::from(len)),
        };
        let delta = varint::zigzag(timestamp_ms - self.read_time.div_euclid(1000));
        let len = varint::len(offset - self.first)
            + varint::len(index as u64)
            + varint::len(delta)
            + 1
            + key_len
            + varint::len(headers.len() as u64)
            + headers.len()
            + self.scratch.len();
        self.body.reserve(len + 5);
        varint::push(&mut self.body, len as u64);
        varint::push(&mut self.body, offset - self.first);
        varint::push(&mut self.body, index as u64);
        varint::push(&mut self.body, delta);
        self.body.push(flags);
        match key {
            Key::None => {}
            Key::Bytes(bytes) => {
                varint::push(&mut self.body, bytes.len() as u64);
                self.body.extend_from_slice(bytes);
            }
            Key::InValue { start, len } => {
                varint::push(&mut self.body, u64::from(start));
                varint::push(&mut self.body, u64::from(len));
            }
        }
        varint::push(&mut self.body, headers.len() as u64);
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
        varint::push(head, varint::zigzag(self.read_time));
        varint::push(head, extra.lane_total);
        varint::push(head, u64::from(self.data));
        varint::push(head, self.body.len() as u64);
        varint::push(head, extra.counts.len() as u64);
        for count in extra.counts {
            varint::push(head, *count);
        }
        varint::push(head, self.topics.len() as u64);
        for (name, schema) in &self.topics {
            varint::push(head, name.len() as u64);
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(&schema.to_le_bytes());
        }
        varint::push(head, extra.moved.len() as u64);
        for (key, value) in extra.moved {
            varint::push(head, key.len() as u64);
            head.extend_from_slice(key.as_bytes());
            if value.is_empty() {
                varint::push(head, 0);
            } else {
                varint::push(head, value.len() as u64 + 1);
                head.extend_from_slice(value);
            }
        }
        varint::push(head, extra.split.len() as u64);
        for (lane, offset) in extra.split {
            head.push(*lane as u8);
            varint::push(head, *offset);
        }
        let len = (head.len() - 6) as u32;
        head[2..6].copy_from_slice(&len.to_le_bytes());
        [&self.head, if flags & LZ4 != 0 { &self.packed } else { &self.body }]
    }
}
