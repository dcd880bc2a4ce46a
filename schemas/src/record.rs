//! The batch: rows plus one heap.
//!
//! ```text
//! Batch  read_time   when this runtime received it
//!        rows    ──┐  one Row per value of a tag: 48 bytes, Copy
//!        docs    ──┤  one Doc per business record: its bytes are not rearranged
//!        rejects ──┤  what could not be decoded, with the bytes as they came
//!        heap    <─┘  texts, bytes, arrays, keys, headers, payloads; rows point into it with spans
//!
//! array in the heap     u32 number of dimensions, i32 each dimension, then the items, little-endian:
//!                       Bool 1 byte, Int / UInt / Double 8 bytes, Text / Bytes u32 length + bytes
//! headers in the heap   u16 length + key, u32 length + value (length u32::MAX: null), one after the other
//! ```
//!
//! A batch is filled by a source, taken apart by the engine and recycled: filling it again allocates nothing.

use crate::status::StatusCode;

/// Microseconds since 1970-01-01T00:00:00Z. Zero stands for "none" where a time is optional.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Micros(pub i64);

impl Micros {
    pub const NONE: Self = Self(0);

    /// The time of this machine's clock, now.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }

    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// A tag of one source, numbered by the engine from zero in order of declaration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TagId(pub u32);

impl TagId {
    /// Of a row that was decoded from Kafka: its tag is in [`Columns::tag_path`].
    pub const NONE: Self = Self(u32::MAX);
}

/// A route of one source: where its documents go. Numbered by the plugin's model.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RouteId(pub u32);

/// A piece of a batch's heap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    pub const EMPTY: Self = Self { start: 0, len: 0 };

    pub fn of(self, heap: &[u8]) -> &[u8] {
        &heap[self.start as usize..self.start as usize + self.len as usize]
    }

    /// As [`Span::of`]; `None` where it points outside the heap.
    pub fn get(self, heap: &[u8]) -> Option<&[u8]> {
        heap.get(self.start as usize..self.start as usize + self.len as usize)
    }
}

/// The type of an array's items.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    Bool,
    Int,
    UInt,
    Double,
    Text,
    Bytes,
}

/// One value; whatever does not fit into eight bytes lies in the heap.
///
/// `UInt` holds any unsigned value; the encoders write it as a long where it fits and as UInt64 above 2^63 - 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(Span),
    Bytes(Span),
    Array(Kind, Span),
    /// A structure kept whole, as JSON text.
    Struct(Span),
}

/// Why a sample exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Origin {
    #[default]
    Other = 0,
    Change = 1,
    Poll = 2,
    Initial = 3,
    Heartbeat = 4,
    Status = 5,
    Event = 6,
    Trigger = 7,
    Backfill = 8,
    Replay = 9,
}

/// Whose clock `time` is from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum TimeSource {
    #[default]
    Gateway = 0,
    Server = 1,
    Device = 2,
}

impl Origin {
    pub const ALL: [Self; 10] = [
        Self::Other,
        Self::Change,
        Self::Poll,
        Self::Initial,
        Self::Heartbeat,
        Self::Status,
        Self::Event,
        Self::Trigger,
        Self::Backfill,
        Self::Replay,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Change => "change",
            Self::Poll => "poll",
            Self::Initial => "initial",
            Self::Heartbeat => "heartbeat",
            Self::Status => "status",
            Self::Event => "event",
            Self::Trigger => "trigger",
            Self::Backfill => "backfill",
            Self::Replay => "replay",
        }
    }
}

impl TimeSource {
    pub const ALL: [Self; 3] = [Self::Gateway, Self::Server, Self::Device];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Server => "server",
            Self::Device => "device",
        }
    }
}

/// Origin and time source of a row, in one byte each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flags {
    pub origin: Origin,
    pub time_source: TimeSource,
}

impl Flags {
    pub const fn new(origin: Origin, time_source: TimeSource) -> Self {
        Self { origin, time_source }
    }
}

/// One value of one tag at one time. `time` is what the device or server claims; the engine decides whether to believe it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Row {
    pub time: Micros,
    /// When a server between device and runtime stamped it; `Micros::NONE` if none did.
    pub server_time: Micros,
    pub value: Value,
    pub tag: TagId,
    pub status: StatusCode,
    pub flags: Flags,
}

/// A business record or message whose bytes are not rearranged.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Doc {
    pub route: RouteId,
    /// The document's own time where its source knows one, else `read_time`.
    pub time: Micros,
    /// Empty: no key.
    pub key: Span,
    /// Encoded headers, see [`Batch::push_headers`].
    pub headers: Span,
    /// `None`: a tombstone.
    pub payload: Option<Span>,
    /// The Kafka topic in the heap where the route's topic is a template; `Span::EMPTY`: the route's own.
    pub topic: Span,
}

/// Bytes that break their contract: a dead letter with the payload as it came.
#[derive(Clone, PartialEq, Debug)]
pub struct Reject {
    pub route: RouteId,
    pub key: Span,
    pub headers: Span,
    pub payload: Span,
    /// What failed, on which thing, with which value, what to do: one line for a person.
    pub reason: String,
}

/// What only a decoded record of Kafka carries beyond its row; one entry per row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    pub tag_path: Vec<Span>,
    pub source: Vec<Span>,
    pub read_time: Vec<Micros>,
    pub device_time: Vec<Micros>,
    pub def: Vec<i32>,
    pub seq: Vec<i64>,
}

/// Rows, documents and rejects of one read, and the heap they point into.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub read_time: Micros,
    pub rows: Vec<Row>,
    pub docs: Vec<Doc>,
    pub rejects: Vec<Reject>,
    pub heap: Vec<u8>,
    pub decoded: Option<Columns>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.read_time = Micros::NONE;
        self.rows.clear();
        self.docs.clear();
        self.rejects.clear();
        self.heap.clear();
        self.decoded = None;
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.docs.is_empty() && self.rejects.is_empty()
    }

    /// Records in the batch: rows, documents and rejects.
    pub fn len(&self) -> usize {
        self.rows.len() + self.docs.len() + self.rejects.len()
    }

    /// Copies bytes into the heap.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> Span {
        let start = self.heap.len();
        self.heap.extend_from_slice(bytes);
        self.span_from(start)
    }

    /// Copies a text into the heap and returns it as a value.
    pub fn text(&mut self, text: &str) -> Value {
        Value::Text(self.push_bytes(text.as_bytes()))
    }

    /// The span from `start` to the heap's end; for writers that append to the heap themselves.
    pub fn span_from(&self, start: usize) -> Span {
        debug_assert!(self.heap.len() <= u32::MAX as usize);
        Span { start: start as u32, len: (self.heap.len() - start) as u32 }
    }

    pub fn bytes_of(&self, span: Span) -> &[u8] {
        span.of(&self.heap)
    }

    /// The text of a span that was pushed as text; a span of other bytes reads as empty.
    pub fn text_of(&self, span: Span) -> &str {
        std::str::from_utf8(span.of(&self.heap)).unwrap_or("")
    }

    /// Begins headers in the heap; add each with [`Batch::push_header`], end with [`Batch::span_from`].
    pub fn push_headers<'a>(&mut self, headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>) -> Span {
        let start = self.heap.len();
        for (key, value) in headers {
            self.push_header(key, value);
        }
        self.span_from(start)
    }

    /// Appends one header to the heap. Keys longer than 65,535 bytes are cut.
    pub fn push_header(&mut self, key: &str, value: Option<&[u8]>) {
        push_header(&mut self.heap, key, value);
    }

    /// Starts an array in the heap: its dimensions (empty for a plain array). Append the items, then take [`Batch::span_from`].
    pub fn begin_array(&mut self, dims: &[i32]) -> usize {
        let start = self.heap.len();
        self.heap.extend_from_slice(&(dims.len() as u32).to_le_bytes());
        for dim in dims {
            self.heap.extend_from_slice(&dim.to_le_bytes());
        }
        start
    }

    /// Copies a plain array of 64-bit items into the heap.
    pub fn longs(&mut self, items: impl IntoIterator<Item = i64>, dims: &[i32]) -> Value {
        let start = self.begin_array(dims);
        for item in items {
            self.heap.extend_from_slice(&item.to_le_bytes());
        }
        Value::Array(Kind::Int, self.span_from(start))
    }

    pub fn doubles(&mut self, items: impl IntoIterator<Item = f64>, dims: &[i32]) -> Value {
        let start = self.begin_array(dims);
        for item in items {
            self.heap.extend_from_slice(&item.to_le_bytes());
        }
        Value::Array(Kind::Double, self.span_from(start))
    }

    pub fn uints(&mut self, items: impl IntoIterator<Item = u64>, dims: &[i32]) -> Value {
        let start = self.begin_array(dims);
        for item in items {
            self.heap.extend_from_slice(&item.to_le_bytes());
        }
        Value::Array(Kind::UInt, self.span_from(start))
    }

    pub fn bools(&mut self, items: impl IntoIterator<Item = bool>, dims: &[i32]) -> Value {
        let start = self.begin_array(dims);
        self.heap.extend(items.into_iter().map(u8::from));
        Value::Array(Kind::Bool, self.span_from(start))
    }

    pub fn texts<'a>(&mut self, items: impl IntoIterator<Item = &'a str>, dims: &[i32]) -> Value {
        let start = self.begin_array(dims);
        for item in items {
            self.push_item(item.as_bytes());
        }
        Value::Array(Kind::Text, self.span_from(start))
    }

    pub fn blobs<'a>(&mut self, items: impl IntoIterator<Item = &'a [u8]>, dims: &[i32]) -> Value {
        let start = self.begin_array(dims);
        for item in items {
            self.push_item(item);
        }
        Value::Array(Kind::Bytes, self.span_from(start))
    }

    fn push_item(&mut self, item: &[u8]) {
        self.heap.extend_from_slice(&(item.len() as u32).to_le_bytes());
        self.heap.extend_from_slice(item);
    }

    /// Puts dimensions in front of a plain array that was begun at `start` and has all its items.
    pub fn set_dims(&mut self, start: usize, dims: &[i32]) {
        let items = start + 4;
        self.heap[start..items].copy_from_slice(&(dims.len() as u32).to_le_bytes());
        for dim in dims {
            self.heap.extend_from_slice(&dim.to_le_bytes());
        }
        self.heap[items..].rotate_right(4 * dims.len());
    }
}

/// Appends one header in the heap's layout to any buffer.
pub fn push_header(out: &mut Vec<u8>, key: &str, value: Option<&[u8]>) {
    let key = &key.as_bytes()[..key.len().min(u16::MAX as usize)];
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(key);
    match value {
        None => out.extend_from_slice(&u32::MAX.to_le_bytes()),
        Some(value) => {
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(value);
        }
    }
}

/// Reads headers in the heap's layout. Ends early on a malformed list.
pub fn headers(mut bytes: &[u8]) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
    std::iter::from_fn(move || {
        let (len, rest) = bytes.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(u16::from_le_bytes(*len) as usize)?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len);
        let (value, rest) = if len == u32::MAX {
            (None, rest)
        } else {
            let (value, rest) = rest.split_at_checked(len as usize)?;
            (Some(value), rest)
        };
        bytes = rest;
        Some((std::str::from_utf8(key).unwrap_or(""), value))
    })
}

/// An array as it lies in a heap.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a> {
    pub kind: Kind,
    dims: &'a [u8],
    items: &'a [u8],
}

impl<'a> Array<'a> {
    /// Reads the array at `span`; `None` if the bytes are not an array, or end within an item.
    pub fn read(kind: Kind, span: Span, heap: &'a [u8]) -> Option<Self> {
        let bytes = span.get(heap)?;
        let (n, rest) = bytes.split_first_chunk::<4>()?;
        let (dims, items) = rest.split_at_checked((u32::from_le_bytes(*n) as usize).checked_mul(4)?)?;
        let array = Self { kind, dims, items };
        let whole = match kind {
            Kind::Bool => true,
            Kind::Int | Kind::UInt | Kind::Double => items.len().is_multiple_of(8),
            Kind::Text | Kind::Bytes => array.blobs().map(|item| item.len() + 4).sum::<usize>() == items.len(),
        };
        whole.then_some(array)
    }

    /// Dimensions, row-major; empty for a plain array.
    pub fn dims(&self) -> impl ExactSizeIterator<Item = i32> + 'a {
        self.dims.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b))
    }

    pub fn len(&self) -> usize {
        match self.kind {
            Kind::Bool => self.items.len(),
            Kind::Int | Kind::UInt | Kind::Double => self.items.len() / 8,
            Kind::Text | Kind::Bytes => self.blobs().count(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// An unsigned array whose every item fits a long; it is written as one.
    pub(crate) fn fits_longs(&self) -> bool {
        self.words().all(|word| u64::from_le_bytes(word) <= i64::MAX as u64)
    }

    /// The items as they lie in the heap.
    pub(crate) fn raw_items(&self) -> &'a [u8] {
        self.items
    }

    pub fn bools(&self) -> impl ExactSizeIterator<Item = bool> + 'a {
        self.items.iter().map(|b| *b != 0)
    }

    /// The raw 64-bit items of an Int, UInt or Double array.
    pub fn words(&self) -> impl ExactSizeIterator<Item = [u8; 8]> + 'a {
        self.items.as_chunks::<8>().0.iter().copied()
    }

    /// The items of a Text or Bytes array.
    pub fn blobs(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.items;
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first_chunk::<4>()?;
            let (item, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            rest = tail;
            Some(item)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stays_small() {
        assert_eq!(size_of::<Value>(), 16);
        assert_eq!(size_of::<Row>(), 48);
    }

    #[test]
    fn headers_come_back_as_pushed() {
        let mut batch = Batch::new();
        let span = batch.push_headers([("a", Some(&b"1"[..])), ("b", None), ("", Some(&b""[..]))]);
        let got: Vec<_> = headers(batch.bytes_of(span)).collect();
        assert_eq!(got, [("a", Some(&b"1"[..])), ("b", None), ("", Some(&b""[..]))]);
    }
}
