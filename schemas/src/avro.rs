//! The Avro form of a sample: `telemetry.avsc`, written and read without a schema at run time.
//!
//! | in memory | in Avro |
//! |---|---|
//! | `Null`, `Bool`, `Int`, `Double`, `Text`, `Bytes` | null, boolean, long, double, string, bytes |
//! | `UInt` up to 2^63 - 1 | long |
//! | `UInt` above | UInt64: decimal bytes, big-endian two's complement, as few as possible |
//! | `Array` | Booleans, Longs, Doubles, Strings, Blobs; of `UInt`: Longs where every item fits, else UInt64s |
//! | `Struct` | Structure |
//! | a span outside the heap, a text that is not UTF-8 | null, status BadDecodingError |
//!
//! Encoding cannot fail and allocates nothing but what `out` lacks. Decoding checks every length before it believes it, and allocates at most nine
//! bytes of heap for each byte of input.

use crate::record::{Array, Batch, Flags, Kind, Micros, Origin, Row, TagId, TimeSource, Value};
use crate::sample::{DecodeError, Decoded, SampleMeta, fuzz_sample};
use crate::status::StatusCode;
use crate::varint::{self, NoVarint, unzigzag, zigzag};
use std::ops::Range;

/// The Avro schema of a sample, as it is registered.
pub const TELEMETRY_SCHEMA: &str = include_str!("../telemetry.avsc");

/// The CRC-64-AVRO fingerprint of the schema's canonical form.
pub const TELEMETRY_FINGERPRINT: u64 = 0x8976_691D_B529_6AE4;

/// Places in the union of `value`.
mod branch {
    pub const NULL: u8 = 0;
    pub const BOOLEAN: u8 = 1;
    pub const LONG: u8 = 2;
    pub const DOUBLE: u8 = 3;
    pub const STRING: u8 = 4;
    pub const BYTES: u8 = 5;
    pub const UINT64: u8 = 6;
    pub const BOOLEANS: u8 = 7;
    pub const LONGS: u8 = 8;
    pub const DOUBLES: u8 = 9;
    pub const STRINGS: u8 = 10;
    pub const UINT64S: u8 = 11;
    pub const BLOBS: u8 = 12;
    pub const STRUCTURE: u8 = 13;
}

/// Appends one sample to `out`. Returns where in `out` the tag's path lies, for the record's key.
pub fn encode(meta: &SampleMeta<'_>, row: &Row, heap: &[u8], out: &mut Vec<u8>) -> Option<Range<usize>> {
    out.reserve(meta.tag.len() + meta.source.len() + 112); // 10 + 5 + 10 in front, up to 77 behind
    let mut short = Short::new();
    short.long(meta.tag.len() as i64);
    short.flush(out);
    let tag = out.len()..out.len() + meta.tag.len();
    out.extend_from_slice(meta.tag.as_bytes());

    short.long(meta.def.into());
    let status = match value(row.value, heap, &mut short, out) {
        Some(()) => row.status,
        None => {
            short.branch(branch::NULL);
            StatusCode::BAD_DECODING_ERROR
        }
    };
    short.long(row.time.0);
    short.long(row.flags.time_source as i64);
    short.long(meta.read_time.0);
    short.optional(row.server_time);
    short.optional(meta.device_time.unwrap_or(Micros::NONE));
    short.long(status.0.into());
    short.long(status.quality() as i64);
    short.long(row.flags.origin as i64);
    short.long(meta.source.len() as i64);
    short.flush(out);
    out.extend_from_slice(meta.source.as_bytes());
    short.long(meta.seq);
    short.flush(out);
    Some(tag)
}

/// Appends a value as the branch of its own, and returns that branch's place in the union of `value`; `None`, and nothing written, where the heap
/// does not hold it.
pub fn encode_value(of: Value, heap: &[u8], out: &mut Vec<u8>) -> Option<u8> {
    let start = out.len();
    let mut short = Short::new();
    if value(of, heap, &mut short, out).is_none() {
        out.truncate(start);
        return None;
    }
    short.flush(out);
    Some(out.remove(start) >> 1)
}

/// Writes the value: what is short stays in `short`, the rest goes to `out`. `None`, and nothing written, where the heap does not hold it.
#[inline]
fn value(value: Value, heap: &[u8], short: &mut Short, out: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Null => short.branch(branch::NULL),
        Value::Bool(value) => {
            short.branch(branch::BOOLEAN);
            short.byte(value.into());
        }
        Value::Int(value) => {
            short.branch(branch::LONG);
            short.long(value);
        }
        Value::UInt(value) => match i64::try_from(value) {
            Ok(value) => {
                short.branch(branch::LONG);
                short.long(value);
            }
            Err(_) => {
                short.branch(branch::UINT64);
                short.decimal(value);
            }
        },
        Value::Double(value) => {
            short.branch(branch::DOUBLE);
            short.bytes(&value.to_le_bytes());
        }
        Value::Text(span) => blob(branch::STRING, utf8(span.get(heap)?)?, short, out),
        Value::Bytes(span) => blob(branch::BYTES, span.get(heap)?, short, out),
        Value::Struct(span) => blob(branch::STRUCTURE, utf8(span.get(heap)?)?, short, out),
        Value::Array(kind, span) => return array(Array::read(kind, span, heap)?, short, out),
    }
    Some(())
}

fn blob(branch: u8, bytes: &[u8], short: &mut Short, out: &mut Vec<u8>) {
    short.branch(branch);
    short.long(bytes.len() as i64);
    short.flush(out);
    out.extend_from_slice(bytes);
}

fn array(array: Array<'_>, short: &mut Short, out: &mut Vec<u8>) -> Option<()> {
    let branch = match array.kind {
        Kind::Bool => branch::BOOLEANS,
        Kind::Int => branch::LONGS,
        Kind::UInt if array.fits_longs() => branch::LONGS,
        Kind::UInt => branch::UINT64S,
        Kind::Double => branch::DOUBLES,
        Kind::Text => branch::STRINGS,
        Kind::Bytes => branch::BLOBS,
    };
    if array.kind == Kind::Text && !array.blobs().all(|item| utf8(item).is_some()) {
        return None;
    }
    short.branch(branch);
    if !array.is_empty() {
        short.long(array.len() as i64);
    }
    short.flush(out);
    match branch {
        branch::BOOLEANS => out.extend(array.bools().map(u8::from)),
        branch::DOUBLES => out.extend_from_slice(array.raw_items()),
        branch::LONGS => {
            for word in array.words() {
                short.long(i64::from_le_bytes(word));
                short.flush_if_long(out);
            }
        }
        branch::UINT64S => {
            for word in array.words() {
                short.decimal(u64::from_le_bytes(word));
                short.flush_if_long(out);
            }
        }
        _ => {
            for item in array.blobs() {
                short.long(item.len() as i64);
                short.flush(out);
                out.extend_from_slice(item);
            }
        }
    }
    short.byte(0); // no more blocks
    let dims = array.dims();
    if dims.len() > 0 {
        short.long(dims.len() as i64);
        for dim in dims {
            short.long(dim.into());
            short.flush_if_long(out);
        }
    }
    short.byte(0);
    short.flush_if_long(out);
    Some(())
}

fn utf8(bytes: &[u8]) -> Option<&[u8]> {
    std::str::from_utf8(bytes).ok().map(str::as_bytes)
}

/// Gathers short pieces so that the output grows in few steps.
struct Short {
    bytes: [u8; 128],
    len: usize,
}

impl Short {
    fn new() -> Self {
        Self { bytes: [0; 128], len: 0 }
    }

    #[inline]
    fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn branch(&mut self, branch: u8) {
        self.byte(branch << 1);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Zigzag, seven bits a byte, lowest first.
    #[inline]
    fn long(&mut self, value: i64) {
        let mut rest = zigzag(value);
        while rest >= 0x80 {
            self.byte(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8);
    }

    fn optional(&mut self, time: Micros) {
        if time.is_none() {
            self.branch(0);
        } else {
            self.branch(1);
            self.long(time.0);
        }
    }

    /// Two's complement, big-endian, as few bytes as possible.
    fn decimal(&mut self, value: u64) {
        let bytes = u128::from(value).to_be_bytes();
        let used = 1 + (128 - u128::from(value).leading_zeros() as usize) / 8; // one more bit, for the sign
        self.long(used as i64);
        self.bytes(&bytes[16 - used..]);
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes[..self.len]);
        self.len = 0;
    }

    /// In a loop: keeps room for what one turn or the rest of a sample writes.
    fn flush_if_long(&mut self, out: &mut Vec<u8>) {
        if self.len > 32 {
            self.flush(out);
        }
    }
}

/// Reads one sample into a row of `batch`, with its `decoded` columns. After an error the batch is as before.
///
/// Errors: the field, the byte, and what is wrong there; also where bytes are left behind the sample.
pub fn decode(bytes: &[u8], batch: &mut Batch) -> Result<(), DecodeError> {
    Decoded::push(batch, |batch| Reader { bytes, at: 0, field: "tag" }.sample(batch))
}

/// Entry point of the fuzzer: bytes are refused, or read to a sample that comes back from its own encoding.
#[doc(hidden)]
pub fn fuzz_avro_sample(bytes: &[u8]) {
    fuzz_sample(bytes, encode, decode);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    field: &'static str,
}

impl<'a> Reader<'a> {
    fn sample(mut self, batch: &mut Batch) -> Result<Decoded, DecodeError> {
        Decoded::check_room(self.bytes, batch)?;
        let tag = batch.push_bytes(self.string()?);
        self.field = "def";
        let def = self.int()?;
        self.field = "value";
        let value = self.value(batch)?;
        self.field = "time";
        let time = Micros(self.long()?);
        self.field = "time_source";
        let time_source = self.symbol(&TimeSource::ALL)?;
        self.field = "read_time";
        let read_time = Micros(self.long()?);
        self.field = "server_time";
        let server_time = self.optional()?;
        self.field = "device_time";
        let device_time = self.optional()?;
        self.field = "status";
        let at = self.at;
        let status = self.long()?;
        let status = StatusCode(u32::try_from(status).map_err(|_| self.error(at, format!("{status} is no 32-bit status code")))?);
        self.field = "quality";
        self.symbol(&[(); 3])?;
        self.field = "origin";
        let origin = self.symbol(&Origin::ALL)?;
        self.field = "source";
        let source = batch.push_bytes(self.string()?);
        self.field = "seq";
        let seq = self.long()?;
        if self.at < self.bytes.len() {
            return Err(self.error(self.at, format!("{} bytes are left behind the sample", self.bytes.len() - self.at)));
        }
        let row = Row { time, server_time, value, tag: TagId::NONE, status, flags: Flags::new(origin, time_source) };
        Ok(Decoded { row, tag, def, read_time, device_time, source, seq })
    }

    fn value(&mut self, batch: &mut Batch) -> Result<Value, DecodeError> {
        let at = self.at;
        let index = self.long()?;
        let branch = u8::try_from(index).ok().filter(|index| *index <= branch::STRUCTURE);
        Ok(match branch.ok_or_else(|| self.error(at, format!("union index {index}, expected 0 to {}", branch::STRUCTURE)))? {
            branch::NULL => Value::Null,
            branch::BOOLEAN => Value::Bool(self.boolean()?),
            branch::LONG => Value::Int(self.long()?),
            branch::DOUBLE => Value::Double(f64::from_le_bytes(self.double()?)),
            branch::STRING => Value::Text(batch.push_bytes(self.string()?)),
            branch::BYTES => Value::Bytes(batch.push_bytes(self.blob()?)),
            branch::UINT64 => Value::UInt(self.decimal()?),
            branch::STRUCTURE => Value::Struct(batch.push_bytes(self.string()?)),
            branch::BOOLEANS => self.array(Kind::Bool, batch, |reader, heap| {
                heap.push(reader.boolean()?.into());
                Ok(())
            })?,
            branch::LONGS => self.array(Kind::Int, batch, |reader, heap| {
                heap.extend_from_slice(&reader.long()?.to_le_bytes());
                Ok(())
            })?,
            branch::DOUBLES => self.array(Kind::Double, batch, |reader, heap| {
                heap.extend_from_slice(&reader.double()?);
                Ok(())
            })?,
            branch::UINT64S => self.array(Kind::UInt, batch, |reader, heap| {
                heap.extend_from_slice(&reader.decimal()?.to_le_bytes());
                Ok(())
            })?,
            branch::STRINGS => self.array(Kind::Text, batch, |reader, heap| {
                push_item(heap, reader.string()?);
                Ok(())
            })?,
            _ => self.array(Kind::Bytes, batch, |reader, heap| {
                push_item(heap, reader.blob()?);
                Ok(())
            })?,
        })
    }

    fn array(
        &mut self,
        kind: Kind,
        batch: &mut Batch,
        mut item: impl FnMut(&mut Self, &mut Vec<u8>) -> Result<(), DecodeError>,
    ) -> Result<Value, DecodeError> {
        let start = batch.begin_array(&[]);
        self.blocks(|reader| item(reader, &mut batch.heap))?;
        let mut dims = Vec::new();
        self.blocks(|reader| {
            dims.push(reader.int()?);
            Ok(())
        })?;
        if !dims.is_empty() {
            batch.set_dims(start, &dims);
        }
        Ok(Value::Array(kind, batch.span_from(start)))
    }

    /// The items of an array: blocks of a count and so many items; a negative count is followed by the block's size in bytes.
    fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
        loop {
            let at = self.at;
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                self.long()?;
            }
            let left = self.bytes.len() - self.at;
            if count.unsigned_abs() > left as u64 {
                return Err(self.error(at, format!("array of {} items, {left} bytes left", count.unsigned_abs())));
            }
            for _ in 0..count.unsigned_abs() {
                item(self)?;
            }
        }
    }

    fn optional(&mut self) -> Result<Micros, DecodeError> {
        let at = self.at;
        match self.long()? {
            0 => Ok(Micros::NONE),
            1 => Ok(Micros(self.long()?)),
            other => Err(self.error(at, format!("union index {other}, expected 0 or 1"))),
        }
    }

    fn symbol<T: Copy>(&mut self, symbols: &[T]) -> Result<T, DecodeError> {
        let at = self.at;
        let index = self.long()?;
        let symbol = usize::try_from(index).ok().and_then(|index| symbols.get(index).copied());
        symbol.ok_or_else(|| self.error(at, format!("symbol {index}, expected 0 to {}", symbols.len() - 1)))
    }

    fn boolean(&mut self) -> Result<bool, DecodeError> {
        let at = self.at;
        match self.take(1)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.error(at, format!("boolean 0x{other:02X}, expected 0 or 1"))),
        }
    }

    fn int(&mut self) -> Result<i32, DecodeError> {
        let at = self.at;
        let value = self.long()?;
        i32::try_from(value).map_err(|_| self.error(at, format!("{value} is no 32-bit integer")))
    }

    fn long(&mut self) -> Result<i64, DecodeError> {
        let what = match varint::read(&self.bytes[self.at..]) {
            Ok((value, len)) => {
                self.at += len;
                return Ok(unzigzag(value));
            }
            Err(NoVarint::Short) => "the bytes end in an integer",
            Err(NoVarint::Long) => "an integer of more than 64 bits",
        };
        Err(self.error(self.at, what.into()))
    }

    fn double(&mut self) -> Result<[u8; 8], DecodeError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(bytes)
    }

    fn decimal(&mut self) -> Result<u64, DecodeError> {
        let at = self.at;
        let bytes = self.blob()?;
        if bytes.first().is_some_and(|first| first & 0x80 != 0) {
            return Err(self.error(at, "a negative number, expected an unsigned one".into()));
        }
        let digits = &bytes[bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len())..];
        if digits.len() > 8 {
            return Err(self.error(at, "an unsigned number of more than 64 bits".into()));
        }
        Ok(digits.iter().fold(0, |sum, digit| sum << 8 | u64::from(*digit)))
    }

    fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        let at = self.at;
        let bytes = self.blob()?;
        utf8(bytes).ok_or_else(|| self.error(at, "a string that is not UTF-8".into()))
    }

    fn blob(&mut self) -> Result<&'a [u8], DecodeError> {
        let at = self.at;
        let len = self.long()?;
        match usize::try_from(len) {
            Ok(len) if len <= self.bytes.len() - self.at => self.take(len),
            _ => Err(self.error(at, format!("{len} bytes announced, {} left", self.bytes.len() - self.at))),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        match self.bytes[self.at..].get(..len) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => Err(self.error(self.at, format!("{len} bytes expected, {} left", self.bytes.len() - self.at))),
        }
    }

    fn error(&self, at: usize, what: String) -> DecodeError {
        DecodeError { field: self.field, at, what }
    }
}

fn push_item(heap: &mut Vec<u8>, item: &[u8]) {
    heap.extend_from_slice(&(item.len() as u32).to_le_bytes());
    heap.extend_from_slice(item);
}
