//! The Protobuf form of a sample: `telemetry.proto`, written and read without a schema at run time.
//!
//! The values are those of [`crate::avro`], each in the member of the `oneof` that has its name. A span outside the heap, a text that is not UTF-8:
//! no value, status BadDecodingError. As everywhere in proto3, a zero is not written, but in the `oneof` and in optional times it is.
//!
//! Encoding cannot fail and allocates nothing but what `out` lacks. Decoding checks every length before it believes it, skips fields it does not
//! know, and allocates at most nine bytes of heap for each byte of input.

use crate::record::{Array, Batch, Flags, Kind, Micros, Origin, Row, TagId, TimeSource, Value};
use crate::sample::{DecodeError, Decoded, SampleMeta, fuzz_sample};
use crate::status::StatusCode;
use crate::varint::{self, NoVarint, unzigzag, zigzag};
use std::ops::Range;

/// The Protobuf schema of a sample, as it is registered.
pub const TELEMETRY_PROTO: &str = include_str!("../telemetry.proto");

/// Numbers of the fields.
mod field {
    pub const TAG: u32 = 1;
    pub const DEF: u32 = 2;
    pub const BOOLEAN: u32 = 3;
    pub const LONG: u32 = 4;
    pub const DOUBLE: u32 = 5;
    pub const STRING: u32 = 6;
    pub const BYTES: u32 = 7;
    pub const UINT64: u32 = 8;
    pub const BOOLEANS: u32 = 9;
    pub const LONGS: u32 = 10;
    pub const DOUBLES: u32 = 11;
    pub const STRINGS: u32 = 12;
    pub const UINT64S: u32 = 13;
    pub const BLOBS: u32 = 14;
    pub const STRUCTURE: u32 = 15;
    pub const TIME: u32 = 16;
    pub const TIME_SOURCE: u32 = 17;
    pub const READ_TIME: u32 = 18;
    pub const SERVER_TIME: u32 = 19;
    pub const DEVICE_TIME: u32 = 20;
    pub const STATUS: u32 = 21;
    pub const QUALITY: u32 = 22;
    pub const ORIGIN: u32 = 23;
    pub const SOURCE: u32 = 24;
    pub const SEQ: u32 = 25;
    /// Of the arrays' messages.
    pub const ITEMS: u32 = 1;
    pub const DIMS: u32 = 2;
}

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const DELIMITED: u32 = 2;
const FIXED32: u32 = 5;

// ---- writing ------------------------------------------------------------------------------------------------------------------

/// Appends one sample to `out`. Returns where in `out` the tag's path lies, for the record's key.
pub fn encode(meta: &SampleMeta<'_>, row: &Row, heap: &[u8], out: &mut Vec<u8>) -> Option<Range<usize>> {
    out.reserve(meta.tag.len() + meta.source.len() + 128);
    delimited(out, field::TAG, meta.tag.as_bytes());
    let tag = out.len() - meta.tag.len()..out.len();
    number(out, field::DEF, i64::from(meta.def) as u64);
    let status = match value(row.value, heap, out) {
        Some(()) => row.status,
        None => StatusCode::BAD_DECODING_ERROR,
    };
    number(out, field::TIME, row.time.0 as u64);
    number(out, field::TIME_SOURCE, row.flags.time_source as u64);
    number(out, field::READ_TIME, meta.read_time.0 as u64);
    number(out, field::SERVER_TIME, row.server_time.0 as u64);
    number(out, field::DEVICE_TIME, meta.device_time.unwrap_or(Micros::NONE).0 as u64);
    if status.0 != 0 {
        key(out, field::STATUS, FIXED32);
        out.extend_from_slice(&status.0.to_le_bytes());
    }
    number(out, field::QUALITY, status.quality() as u64);
    number(out, field::ORIGIN, row.flags.origin as u64);
    if !meta.source.is_empty() {
        delimited(out, field::SOURCE, meta.source.as_bytes());
    }
    number(out, field::SEQ, meta.seq as u64);
    Some(tag)
}

/// Writes the value's field. `None`, and nothing written, where the heap does not hold it.
fn value(value: Value, heap: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Null => {}
        Value::Bool(value) => {
            key(out, field::BOOLEAN, VARINT);
            out.push(value.into());
        }
        Value::Int(value) => long(out, value),
        Value::UInt(value) => match i64::try_from(value) {
            Ok(value) => long(out, value),
            Err(_) => {
                key(out, field::UINT64, VARINT);
                varint::push(out, value);
            }
        },
        Value::Double(value) => {
            key(out, field::DOUBLE, FIXED64);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Text(span) => delimited(out, field::STRING, utf8(span.get(heap)?)?),
        Value::Bytes(span) => delimited(out, field::BYTES, span.get(heap)?),
        Value::Struct(span) => delimited(out, field::STRUCTURE, utf8(span.get(heap)?)?),
        Value::Array(kind, span) => return array(Array::read(kind, span, heap)?, out),
    }
    Some(())
}

fn long(out: &mut Vec<u8>, value: i64) {
    key(out, field::LONG, VARINT);
    varint::push(out, zigzag(value));
}

fn array(array: Array<'_>, out: &mut Vec<u8>) -> Option<()> {
    let is_signed = array.kind == Kind::Int;
    let number_of = match array.kind {
        Kind::Bool => field::BOOLEANS,
        Kind::Int => field::LONGS,
        Kind::UInt if array.fits_longs() => field::LONGS,
        Kind::UInt => field::UINT64S,
        Kind::Double => field::DOUBLES,
        Kind::Text => field::STRINGS,
        Kind::Bytes => field::BLOBS,
    };
    if array.kind == Kind::Text && !array.blobs().all(|item| utf8(item).is_some()) {
        return None;
    }
    let word = |word: [u8; 8]| match number_of {
        field::LONGS if is_signed => zigzag(i64::from_le_bytes(word)),
        field::LONGS => zigzag(u64::from_le_bytes(word) as i64),
        _ => u64::from_le_bytes(word),
    };
    // Lengths come first: they are counted before anything is written.
    let items = match array.kind {
        Kind::Bool | Kind::Double => array.raw_items().len(),
        Kind::Int | Kind::UInt => array.words().map(|w| varint::len(word(w))).sum(),
        Kind::Text | Kind::Bytes => array.blobs().map(|item| 1 + varint::len(item.len() as u64) + item.len()).sum(),
    };
    let is_packed = !matches!(array.kind, Kind::Text | Kind::Bytes);
    let dims: usize = array.dims().map(|dim| varint::len(i64::from(dim) as u64)).sum();
    let framed = |len: usize| if len == 0 { 0 } else { 1 + varint::len(len as u64) + len };
    let whole = if is_packed { framed(items) } else { items } + framed(dims);
    key(out, number_of, DELIMITED);
    varint::push(out, whole as u64);
    if is_packed && items > 0 {
        key(out, field::ITEMS, DELIMITED);
        varint::push(out, items as u64);
    }
    match array.kind {
        Kind::Bool => out.extend(array.bools().map(u8::from)),
        Kind::Double => out.extend_from_slice(array.raw_items()),
        Kind::Int | Kind::UInt => array.words().for_each(|w| varint::push(out, word(w))),
        Kind::Text | Kind::Bytes => array.blobs().for_each(|item| delimited(out, field::ITEMS, item)),
    }
    if dims > 0 {
        key(out, field::DIMS, DELIMITED);
        varint::push(out, dims as u64);
        array.dims().for_each(|dim| varint::push(out, i64::from(dim) as u64));
    }
    Some(())
}

fn utf8(bytes: &[u8]) -> Option<&[u8]> {
    std::str::from_utf8(bytes).ok().map(str::as_bytes)
}

/// A field that is not written where it is zero.
fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        key(out, field, VARINT);
        varint::push(out, value);
    }
}

fn delimited(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    key(out, field, DELIMITED);
    varint::push(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn key(out: &mut Vec<u8>, field: u32, wire: u32) {
    varint::push(out, u64::from(field << 3 | wire));
}

// ---- reading ------------------------------------------------------------------------------------------------------------------

/// Reads one sample into a row of `batch`, with its `decoded` columns. After an error the batch is as before.
///
/// Errors: the field, the byte, and what is wrong there.
pub fn decode(bytes: &[u8], batch: &mut Batch) -> Result<(), DecodeError> {
    Decoded::push(batch, |batch| Reader { bytes, at: 0, end: bytes.len(), field: "tag" }.sample(batch))
}

/// Entry point of the fuzzer: bytes are refused, or read to a sample that comes back from its own encoding.
#[doc(hidden)]
pub fn fuzz_protobuf_sample(bytes: &[u8]) {
    fuzz_sample(bytes, encode, decode);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Of the message at hand.
    end: usize,
    field: &'static str,
}

impl<'a> Reader<'a> {
    fn sample(mut self, batch: &mut Batch) -> Result<Decoded, DecodeError> {
        Decoded::check_room(self.bytes, batch)?;
        let empty = batch.push_bytes(b"");
        let mut row = Row {
            time: Micros::NONE,
            server_time: Micros::NONE,
            value: Value::Null,
            tag: TagId::NONE,
            status: StatusCode::GOOD,
            flags: Flags::default(),
        };
        let (mut tag, mut source) = (empty, empty);
        let (mut def, mut seq, mut read_time, mut device_time) = (0, 0, Micros::NONE, Micros::NONE);
        while let Some((field, wire)) = self.next()? {
            match (field, wire) {
                (field::TAG, DELIMITED) => tag = batch.push_bytes(self.string("tag")?),
                (field::DEF, VARINT) => def = self.varint("def")? as i32,
                (field::BOOLEAN..=field::STRUCTURE, _) => {
                    self.field = "value";
                    if let Some(value) = self.value(field, wire, batch)? {
                        row.value = value;
                    }
                }
                (field::TIME, VARINT) => row.time = Micros(self.varint("time")? as i64),
                (field::TIME_SOURCE, VARINT) => row.flags.time_source = self.symbol("time_source", &TimeSource::ALL)?,
                (field::READ_TIME, VARINT) => read_time = Micros(self.varint("read_time")? as i64),
                (field::SERVER_TIME, VARINT) => row.server_time = Micros(self.varint("server_time")? as i64),
                (field::DEVICE_TIME, VARINT) => device_time = Micros(self.varint("device_time")? as i64),
                (field::STATUS, FIXED32) => row.status = StatusCode(u32::from_le_bytes(self.array("status")?)),
                (field::QUALITY, VARINT) => self.symbol("quality", &[(); 3])?,
                (field::ORIGIN, VARINT) => row.flags.origin = self.symbol("origin", &Origin::ALL)?,
                (field::SOURCE, DELIMITED) => source = batch.push_bytes(self.string("source")?),
                (field::SEQ, VARINT) => seq = self.varint("seq")? as i64,
                (_, wire) => self.skip(wire)?,
            }
        }
        Ok(Decoded { row, tag, def, read_time, device_time, source, seq })
    }

    fn value(&mut self, field: u32, wire: u32, batch: &mut Batch) -> Result<Option<Value>, DecodeError> {
        Ok(Some(match (field, wire) {
            (field::BOOLEAN, VARINT) => Value::Bool(self.varint("value")? != 0),
            (field::LONG, VARINT) => Value::Int(unzigzag(self.varint("value")?)),
            (field::DOUBLE, FIXED64) => Value::Double(f64::from_le_bytes(self.array("value")?)),
            (field::STRING, DELIMITED) => Value::Text(batch.push_bytes(self.string("value")?)),
            (field::BYTES, DELIMITED) => Value::Bytes(batch.push_bytes(self.blob("value")?)),
            (field::UINT64, VARINT) => Value::UInt(self.varint("value")?),
            (field::STRUCTURE, DELIMITED) => Value::Struct(batch.push_bytes(self.string("value")?)),
            (field::BOOLEANS..=field::BLOBS, DELIMITED) => self.items(field, batch)?,
            (_, wire) => {
                self.skip(wire)?;
                return Ok(None);
            }
        }))
    }

    fn items(&mut self, field: u32, batch: &mut Batch) -> Result<Value, DecodeError> {
        let len = self.len("value")?;
        let outer = std::mem::replace(&mut self.end, self.at + len);
        let start = batch.begin_array(&[]);
        let (kind, wire) = match field {
            field::BOOLEANS => (Kind::Bool, VARINT),
            field::LONGS => (Kind::Int, VARINT),
            field::DOUBLES => (Kind::Double, FIXED64),
            field::STRINGS => (Kind::Text, DELIMITED),
            field::UINT64S => (Kind::UInt, VARINT),
            _ => (Kind::Bytes, DELIMITED),
        };
        let mut dims = Vec::new();
        while let Some((inner, found)) = self.next()? {
            match inner {
                field::ITEMS if found == wire => self.item(kind, &mut batch.heap)?,
                field::ITEMS if found == DELIMITED => {
                    let len = self.len("value")?;
                    let message = std::mem::replace(&mut self.end, self.at + len);
                    while self.at < self.end {
                        self.item(kind, &mut batch.heap)?;
                    }
                    self.end = message;
                }
                field::DIMS if found == VARINT => dims.push(self.varint("value")? as i32),
                field::DIMS if found == DELIMITED => {
                    let len = self.len("value")?;
                    let message = std::mem::replace(&mut self.end, self.at + len);
                    while self.at < self.end {
                        dims.push(self.varint("value")? as i32);
                    }
                    self.end = message;
                }
                _ => self.skip(found)?,
            }
        }
        self.end = outer;
        if !dims.is_empty() {
            batch.set_dims(start, &dims);
        }
        Ok(Value::Array(kind, batch.span_from(start)))
    }

    fn item(&mut self, kind: Kind, heap: &mut Vec<u8>) -> Result<(), DecodeError> {
        match kind {
            Kind::Bool => heap.push((self.varint("value")? != 0).into()),
            Kind::Int => heap.extend_from_slice(&unzigzag(self.varint("value")?).to_le_bytes()),
            Kind::UInt => heap.extend_from_slice(&self.varint("value")?.to_le_bytes()),
            Kind::Double => heap.extend_from_slice(&self.array::<8>("value")?),
            Kind::Text | Kind::Bytes => {
                let item = if kind == Kind::Text { self.string("value")? } else { self.blob("value")? };
                heap.extend_from_slice(&(item.len() as u32).to_le_bytes());
                heap.extend_from_slice(item);
            }
        }
        Ok(())
    }

    /// The next field's number and wire type; `None` at the message's end.
    fn next(&mut self) -> Result<Option<(u32, u32)>, DecodeError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let at = self.at;
        let key = self.varint(self.field)?;
        match u32::try_from(key) {
            Ok(key) if key >> 3 != 0 => Ok(Some((key >> 3, key & 7))),
            _ => Err(self.error(at, format!("{key} is no field's key"))),
        }
    }

    fn skip(&mut self, wire: u32) -> Result<(), DecodeError> {
        match wire {
            VARINT => _ = self.varint(self.field)?,
            FIXED64 => _ = self.take(8)?,
            DELIMITED => _ = self.blob(self.field)?,
            FIXED32 => _ = self.take(4)?,
            other => return Err(self.error(self.at, format!("wire type {other}"))),
        }
        Ok(())
    }

    fn symbol<T: Copy>(&mut self, field: &'static str, symbols: &[T]) -> Result<T, DecodeError> {
        let at = self.at;
        let index = self.varint(field)?;
        let symbol = usize::try_from(index).ok().and_then(|index| symbols.get(index).copied());
        symbol.ok_or_else(|| self.error(at, format!("symbol {index}, expected 0 to {}", symbols.len() - 1)))
    }

    fn varint(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.field = field;
        let what = match varint::read(&self.bytes[self.at..self.end]) {
            Ok((value, len)) => {
                self.at += len;
                return Ok(value);
            }
            Err(NoVarint::Short) => "the bytes end in an integer",
            Err(NoVarint::Long) => "an integer of more than 64 bits",
        };
        Err(self.error(self.at, what.into()))
    }

    /// A length, believed only where so much is left.
    fn len(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let at = self.at;
        let len = self.varint(field)?;
        match usize::try_from(len) {
            Ok(len) if len <= self.end - self.at => Ok(len),
            _ => Err(self.error(at, format!("{len} bytes announced, {} left", self.end - self.at))),
        }
    }

    fn string(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let at = self.at;
        let bytes = self.blob(field)?;
        utf8(bytes).ok_or_else(|| self.error(at, "a string that is not UTF-8".into()))
    }

    fn blob(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.len(field)?;
        self.take(len)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        self.field = field;
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        match self.bytes[self.at..self.end].get(..len) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => Err(self.error(self.at, format!("{len} bytes expected, {} left", self.end - self.at))),
        }
    }

    fn error(&self, at: usize, what: String) -> DecodeError {
        DecodeError { field: self.field, at, what }
    }
}
