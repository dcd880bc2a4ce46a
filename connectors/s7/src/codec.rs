//! Values as they lie in a CPU's memory: decoded into a batch, and encoded for a command.
//!
//! ```text
//! INT 2, DINT 4, LINT 8, REAL 4, LREAL 8   big-endian
//! S5TIME    ..BB hhhh tttt oooo             BB base: 10 ms, 100 ms, 1 s, 10 s; three BCD digits           -> milliseconds
//! TIME 4    i32 ms       LTIME 8  i64 ns    TOD 4  u32 ms since midnight    LTOD 8  u64 ns since midnight -> as they are
//! DATE 2    days since 1990-01-01                                                                         -> text, 2026-11-28
//! DT 8      yy mm dd hh mi ss ms ms|weekday BCD; yy from 90 on is 19yy; three digits of ms                -> microseconds since 1970
//! DTL 12    u16 year, month, day, weekday, hour, minute, second, u32 ns                                   -> microseconds since 1970
//! LDT 8     ns since 1970                                                                                 -> microseconds since 1970
//! STRING    max, length, bytes (a code page of the plant)        WSTRING  u16 max, u16 length, UTF-16BE   -> text
//! COUNTER   three BCD digits
//! ```
//!
//! Dates and times carry no zone: `timezone` says which. In the hour that a change of the clocks repeats they are the first of the two and
//! uncertain; in the hour that is left out they are shifted by the change, and uncertain. An all-zero DT, DTL or LDT was never set: null, BadNoData.
//! The weekday is ignored: it is often wrong. What lies behind the length of a text is old rubbish and is not read.
//!
//! Invariants: no byte sequence panics; decoding allocates nothing but what the batch's heap grows by; what encode writes, decode reads as it was.

use crate::address::Address;
use crate::datatype::DataType;
use crate::moment::{bcd3, bcd3_of, date_and_time, dtl, moment_of, s5time, s5time_of};
use encoding_rs::Encoding;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime, date};
use jiff::tz::{AmbiguousOffset, TimeZone};
use millrace_contract::{CommandValue, TagOptions};
use millrace_kit::fit::{Fitted, Machine, Unfit, fit};
use millrace_schemas::{Batch, Kind, StatusCode, Value};
use std::io::Write;
use thiserror::Error;

/// How texts and times of one CPU are read.
#[derive(Clone, Debug)]
pub struct Codec {
    pub zone: TimeZone,
    pub encoding: &'static Encoding,
}

impl Default for Codec {
    fn default() -> Self {
        Self { zone: TimeZone::UTC, encoding: encoding_rs::WINDOWS_1252 }
    }
}

/// Why a value does not fit into its type.
#[derive(Clone, PartialEq, Debug, Error)]
pub enum EncodeError {
    #[error(transparent)]
    Number(#[from] Unfit),
    #[error("{kind} can't hold {value}")]
    NoFit { kind: DataType, value: String },
    #[error("{kind} is written as a text")]
    NoText { kind: DataType },
    #[error("the text has {length} characters and {kind} holds {max}")]
    TooLong { kind: DataType, length: usize, max: usize },
    #[error("the text has characters that the encoding {0} lacks")]
    Unencodable(&'static str),
    #[error("an array is not written as a whole")]
    Array,
}

/// Bytes to write, so far behind the beginning of the address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encoded {
    pub offset: usize,
    pub bytes: Vec<u8>,
}

const BAD: StatusCode = StatusCode::BAD_DECODING_ERROR;
const NEVER_SET: StatusCode = StatusCode::BAD_NO_DATA;

/// One value that fits into eight bytes, or the status for which there is none.
type Scalar = Result<(Number, StatusCode), StatusCode>;

#[derive(Clone, Copy)]
enum Number {
    Int(i64),
    UInt(u64),
    Double(f64),
}

impl Codec {
    /// Decodes one tag from exactly its bytes.
    ///
    /// Shape: a single value, or an array of `count`; CHAR and WCHAR arrays are one text, without NULs at its end.
    pub fn decode(&self, address: &Address, bytes: &[u8], batch: &mut Batch) -> (Value, StatusCode) {
        if bytes.len() < address.size() {
            return (Value::Null, BAD);
        }
        let heap = batch.heap.len();
        let (value, status) = match address.count {
            None => self.one(address, bytes, batch),
            Some(count) => self.many(address, usize::from(count), bytes, batch),
        };
        match value {
            Some(value) => (value, status),
            None => {
                batch.heap.truncate(heap);
                (Value::Null, status)
            }
        }
    }

    fn one(&self, address: &Address, bytes: &[u8], batch: &mut Batch) -> (Option<Value>, StatusCode) {
        let start = batch.heap.len();
        match address.kind {
            DataType::Bool => (Some(Value::Bool(bytes[0] >> address.bit & 1 == 1)), StatusCode::GOOD),
            kind if is_text(kind) => match self.text(kind, bytes, &mut batch.heap) {
                Ok(()) => (Some(Value::Text(batch.span_from(start))), StatusCode::GOOD),
                Err(status) => (None, status),
            },
            kind => match self.scalar(kind, bytes) {
                Ok((Number::Int(n), status)) => (Some(Value::Int(n)), status),
                Ok((Number::UInt(n), status)) => (Some(Value::UInt(n)), status),
                Ok((Number::Double(x), status)) => (Some(Value::Double(x)), status),
                Err(status) => (None, status),
            },
        }
    }

    fn many(&self, address: &Address, count: usize, bytes: &[u8], batch: &mut Batch) -> (Option<Value>, StatusCode) {
        let start = batch.heap.len();
        let kind = address.kind;
        match kind {
            DataType::Bool => {
                let bit = usize::from(address.bit);
                let items = (bit..bit + count).map(|n| bytes[n / 8] >> (n % 8) & 1 == 1);
                return (Some(batch.bools(items, &[])), StatusCode::GOOD);
            }
            DataType::Char => {
                self.chars(trimmed(&bytes[..count], 1), &mut batch.heap);
                return (Some(Value::Text(batch.span_from(start))), StatusCode::GOOD);
            }
            DataType::WChar => {
                return match utf16(trimmed(&bytes[..2 * count], 2), &mut batch.heap) {
                    Ok(()) => (Some(Value::Text(batch.span_from(start))), StatusCode::GOOD),
                    Err(status) => (None, status),
                };
            }
            _ => {}
        }
        let stride = address.size() / count;
        let items = bytes.chunks_exact(stride).take(count);
        batch.begin_array(&[]);
        let mut worst = StatusCode::GOOD;
        if is_text(kind) {
            for item in items {
                let length = batch.heap.len();
                batch.heap.extend_from_slice(&[0; 4]);
                if let Err(status) = self.text(kind, item, &mut batch.heap) {
                    return (None, status);
                }
                let written = (batch.heap.len() - length - 4) as u32;
                batch.heap[length..length + 4].copy_from_slice(&written.to_le_bytes());
            }
            return (Some(Value::Array(Kind::Text, batch.span_from(start))), worst);
        }
        let mut array = Kind::Int;
        for item in items {
            let (number, status) = match self.scalar(kind, item) {
                Ok(read) => read,
                Err(status) => return (None, status),
            };
            if status != StatusCode::GOOD {
                worst = status;
            }
            let word = match number {
                Number::Int(n) => n.to_le_bytes(),
                Number::UInt(n) => {
                    array = Kind::UInt;
                    n.to_le_bytes()
                }
                Number::Double(x) => {
                    array = Kind::Double;
                    x.to_le_bytes()
                }
            };
            batch.heap.extend_from_slice(&word);
        }
        (Some(Value::Array(array, batch.span_from(start))), worst)
    }

    fn scalar(&self, kind: DataType, bytes: &[u8]) -> Scalar {
        let int = |n: i64| Ok((Number::Int(n), StatusCode::GOOD));
        let uint = |n: u64| Ok((Number::UInt(n), StatusCode::GOOD));
        let two = || take::<2>(bytes);
        let four = || take::<4>(bytes);
        let eight = || take::<8>(bytes);
        match kind {
            DataType::Byte | DataType::USInt => uint(bytes[0].into()),
            DataType::SInt => int((bytes[0] as i8).into()),
            DataType::Word | DataType::UInt => uint(u16::from_be_bytes(two()).into()),
            DataType::Int => int(i16::from_be_bytes(two()).into()),
            DataType::DWord | DataType::UDInt => uint(u32::from_be_bytes(four()).into()),
            DataType::DInt | DataType::Time => int(i32::from_be_bytes(four()).into()),
            DataType::LWord | DataType::ULInt => uint(u64::from_be_bytes(eight())),
            DataType::LInt | DataType::LTime => int(i64::from_be_bytes(eight())),
            DataType::Real => Ok((Number::Double(f32::from_be_bytes(four()).into()), StatusCode::GOOD)),
            DataType::LReal => Ok((Number::Double(f64::from_be_bytes(eight())), StatusCode::GOOD)),
            DataType::S5Time => s5time(u16::from_be_bytes(two())).map_or(Err(BAD), int),
            DataType::Counter => bcd3(u16::from_be_bytes(two()) & 0x0FFF).map_or(Err(BAD), int),
            DataType::TimeOfDay => match u32::from_be_bytes(four()) {
                ms if ms < 86_400_000 => int(ms.into()),
                _ => Err(BAD),
            },
            DataType::LTimeOfDay => match u64::from_be_bytes(eight()) {
                ns if ns < 86_400_000_000_000 => int(ns as i64),
                _ => Err(BAD),
            },
            DataType::DateTime | DataType::Dtl | DataType::LDateTime => {
                if bytes[..kind.size()].iter().all(|byte| *byte == 0) {
                    return Err(NEVER_SET);
                }
                let civil = match kind {
                    DataType::DateTime => date_and_time(&eight()),
                    DataType::Dtl => dtl(&take(bytes)),
                    _ => i64::try_from(u64::from_be_bytes(eight()))
                        .ok()
                        .and_then(|ns| Timestamp::from_nanosecond(ns.into()).ok())
                        .map(|stamp| TimeZone::UTC.to_datetime(stamp)),
                };
                self.moment(civil.ok_or(BAD)?)
            }
            DataType::Bool | DataType::Char | DataType::WChar | DataType::String(_) | DataType::WString(_) | DataType::Date => Err(BAD),
        }
    }

    /// The moment of a date and time of the CPU's clock, in microseconds since 1970.
    fn moment(&self, civil: DateTime) -> Scalar {
        let (offset, status) = match self.zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => (offset, StatusCode::GOOD),
            AmbiguousOffset::Fold { before, .. } | AmbiguousOffset::Gap { before, .. } => (before, StatusCode::UNCERTAIN),
        };
        let stamp = offset.to_timestamp(civil).map_err(|_| BAD)?;
        Ok((Number::Int(stamp.as_microsecond()), status))
    }

    fn text(&self, kind: DataType, bytes: &[u8], heap: &mut Vec<u8>) -> Result<(), StatusCode> {
        match kind {
            DataType::Char => self.chars(&bytes[..1], heap),
            DataType::WChar => utf16(&bytes[..2], heap)?,
            DataType::String(declared) => {
                let (max, length) = (bytes[0], bytes[1]);
                if length > max || length > declared {
                    return Err(BAD);
                }
                self.chars(&bytes[2..2 + usize::from(length)], heap);
            }
            DataType::WString(declared) => {
                let (max, length) = (u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]]));
                if length > max || length > declared {
                    return Err(BAD);
                }
                utf16(&bytes[4..4 + 2 * usize::from(length)], heap)?;
            }
            _ => {
                let days = i64::from(u16::from_be_bytes(take(bytes)));
                let day = EPOCH.checked_add(jiff::Span::new().days(days)).map_err(|_| BAD)?;
                let _ = write!(heap, "{day}");
            }
        }
        Ok(())
    }

    fn chars(&self, bytes: &[u8], heap: &mut Vec<u8>) {
        if bytes.is_ascii() {
            heap.extend_from_slice(bytes);
            return;
        }
        let mut decoder = self.encoding.new_decoder_without_bom_handling();
        let start = heap.len();
        heap.resize(start + decoder.max_utf8_buffer_length(bytes.len()).unwrap_or(3 * bytes.len() + 3), 0);
        let (_, _, written, _) = decoder.decode_to_utf8(bytes, &mut heap[start..], true);
        heap.truncate(start + written);
    }

    /// Encodes a command's value, exactly or not at all; a REAL is rounded to the nearest one there is. `scale` is counted back.
    ///
    /// Of a text only its length and its characters are written: what the block declares as greatest length stays.
    pub fn encode(&self, address: &Address, value: &CommandValue, options: &TagOptions) -> Result<Encoded, EncodeError> {
        if address.count.is_some() {
            return Err(EncodeError::Array);
        }
        let kind = address.kind;
        let no_fit = || EncodeError::NoFit { kind, value: value.to_string() };
        let no_text = || EncodeError::NoText { kind };
        let fixed = |bytes: &[u8]| Ok(Encoded { offset: 0, bytes: bytes.to_vec() });
        let whole = |machine| match fit(value, machine, options) {
            Ok(Fitted::Whole(number)) => Ok(number),
            Ok(_) => Err(no_fit()),
            Err(unfit) => Err(EncodeError::Number(unfit)),
        };
        macro_rules! integer {
            ($type:ty, $machine:ident) => {
                fixed(&<$type>::try_from(whole(Machine::$machine)?).map_err(|_| no_fit())?.to_be_bytes())
            };
        }
        match kind {
            DataType::Bool => match fit(value, Machine::Bool, options)? {
                Fitted::Bool(on) => fixed(&[u8::from(on)]),
                _ => Err(no_fit()),
            },
            DataType::Byte | DataType::USInt => integer!(u8, U8),
            DataType::SInt => integer!(i8, I8),
            DataType::Word | DataType::UInt => integer!(u16, U16),
            DataType::Int => integer!(i16, I16),
            DataType::DWord | DataType::UDInt => integer!(u32, U32),
            DataType::DInt | DataType::Time => integer!(i32, I32),
            DataType::LWord | DataType::ULInt => integer!(u64, U64),
            DataType::LInt | DataType::LTime => integer!(i64, I64),
            DataType::Real => match fit(value, Machine::F32, options)? {
                Fitted::F32(real) => fixed(&real.to_be_bytes()),
                _ => Err(no_fit()),
            },
            DataType::LReal => match fit(value, Machine::F64, options)? {
                Fitted::F64(real) => fixed(&real.to_be_bytes()),
                _ => Err(no_fit()),
            },
            DataType::S5Time => fixed(&s5time_of(whole(Machine::I64)?).ok_or_else(no_fit)?.to_be_bytes()),
            DataType::Counter => fixed(&bcd3_of(whole(Machine::I64)?).ok_or_else(no_fit)?.to_be_bytes()),
            DataType::TimeOfDay => match whole(Machine::U32)? {
                ms @ 0..86_400_000 => fixed(&(ms as u32).to_be_bytes()),
                _ => Err(no_fit()),
            },
            DataType::LTimeOfDay => match whole(Machine::U64)? {
                ns @ 0..86_400_000_000_000 => fixed(&(ns as u64).to_be_bytes()),
                _ => Err(no_fit()),
            },
            DataType::Date => {
                let CommandValue::Text(text) = value else { return Err(no_text()) };
                let day: Date = text.parse().map_err(|_| no_fit())?;
                let days = EPOCH.until(day).map_err(|_| no_fit())?.get_days();
                fixed(&u16::try_from(days).map_err(|_| no_fit())?.to_be_bytes())
            }
            DataType::DateTime | DataType::Dtl | DataType::LDateTime => {
                let micros = i64::try_from(whole(Machine::I64)?).map_err(|_| no_fit())?;
                let stamp = Timestamp::from_microsecond(micros).map_err(|_| no_fit())?;
                let bytes = moment_of(kind, self.zone.to_datetime(stamp)).ok_or_else(no_fit)?;
                Ok(Encoded { offset: 0, bytes })
            }
            DataType::Char | DataType::String(_) => {
                let CommandValue::Text(text) = value else { return Err(no_text()) };
                let (bytes, _, failed) = self.encoding.encode(text);
                if failed {
                    return Err(EncodeError::Unencodable(self.encoding.name()));
                }
                let max = if let DataType::String(max) = kind { usize::from(max) } else { 1 };
                if bytes.len() > max || (kind == DataType::Char && bytes.len() != 1) {
                    return Err(EncodeError::TooLong { kind, length: bytes.len(), max });
                }
                if kind == DataType::Char {
                    return fixed(&bytes);
                }
                let mut out = vec![bytes.len() as u8];
                out.extend_from_slice(&bytes);
                Ok(Encoded { offset: 1, bytes: out })
            }
            DataType::WChar | DataType::WString(_) => {
                let CommandValue::Text(text) = value else { return Err(no_text()) };
                let units: Vec<u16> = text.encode_utf16().collect();
                let max = if let DataType::WString(max) = kind { usize::from(max) } else { 1 };
                if units.len() > max || (kind == DataType::WChar && units.len() != 1) {
                    return Err(EncodeError::TooLong { kind, length: units.len(), max });
                }
                let characters = units.iter().flat_map(|unit| unit.to_be_bytes());
                if kind == DataType::WChar {
                    return Ok(Encoded { offset: 0, bytes: characters.collect() });
                }
                Ok(Encoded { offset: 2, bytes: (units.len() as u16).to_be_bytes().into_iter().chain(characters).collect() })
            }
        }
    }
}

const EPOCH: Date = date(1990, 1, 1);

const fn is_text(kind: DataType) -> bool {
    matches!(kind, DataType::Char | DataType::WChar | DataType::String(_) | DataType::WString(_) | DataType::Date)
}

/// The first N bytes; there are as many, the size of the type was checked.
fn take<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

/// Without the NULs at its end.
fn trimmed(bytes: &[u8], unit: usize) -> &[u8] {
    let last = bytes.chunks(unit).rposition(|unit| unit.iter().any(|byte| *byte != 0));
    &bytes[..last.map_or(0, |last| (last + 1) * unit)]
}

fn utf16(bytes: &[u8], heap: &mut Vec<u8>) -> Result<(), StatusCode> {
    let units = bytes.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
    for character in char::decode_utf16(units) {
        let mut utf8 = [0; 4];
        heap.extend_from_slice(character.map_err(|_| BAD)?.encode_utf8(&mut utf8).as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_testkit::Owned;
    use proptest::prelude::*;

    fn codec(zone: &str) -> Codec {
        Codec { zone: TimeZone::get(zone).unwrap(), ..Codec::default() }
    }

    fn decoded(codec: &Codec, address: &str, bytes: &[u8]) -> (Owned, StatusCode) {
        let mut batch = Batch::new();
        let address = Address::parse(address, None).unwrap();
        let (value, status) = codec.decode(&address, bytes, &mut batch);
        (Owned::of(value, &batch.heap), status)
    }

    fn good(address: &str, bytes: &[u8]) -> Owned {
        let (value, status) = decoded(&Codec::default(), address, bytes);
        assert!(status.is_good(), "{address} {bytes:02x?}: {status:?}");
        value
    }

    #[test]
    fn numbers_are_big_endian_and_keep_their_signs() {
        assert_eq!(good("DB1.DBX0.3", &[0b1000]), Owned::Bool(true));
        assert_eq!(good("DB1.DBX0.2", &[0b1000]), Owned::Bool(false));
        assert_eq!(good("DB1.DBB0", &[200]), Owned::UInt(200));
        assert_eq!(good("DB1.DBB0:SINT", &[200]), Owned::Int(-56));
        assert_eq!(good("DB1.DBW0:INT", &[0xFF, 0xFE]), Owned::Int(-2));
        assert_eq!(good("DB1.DBW0", &[0xFF, 0xFE]), Owned::UInt(65534));
        assert_eq!(good("DB1.DBD0:DINT", &[0x80, 0, 0, 0]), Owned::Int(i32::MIN.into()));
        assert_eq!(good("DB1.DBB0:ULINT", &[0xFF; 8]), Owned::UInt(u64::MAX));
        assert_eq!(good("DB1.DBB0:LINT", &[0xFF; 8]), Owned::Int(-1));
        assert_eq!(good("DB1.DBD0:REAL", &[0x42, 0xF6, 0xE9, 0x79]), Owned::Double(f64::from(123.456_f32)));
        assert_eq!(good("DB1.DBB0:LREAL", &1.5_f64.to_be_bytes()), Owned::Double(1.5));
        assert_eq!(good("C3", &[0x01, 0x27]), Owned::Int(127));
    }

    // The times of the manuals "Programming with STEP 7" and "S7-1500 communication": S5TIME#.., DT#..
    #[test]
    fn times_are_numbers_of_their_unit() {
        assert_eq!(good("DB1.DBW0:S5TIME", &[0x21, 0x27]), Owned::Int(127_000));
        assert_eq!(good("T5", &[0x00, 0x99]), Owned::Int(990));
        assert_eq!(good("DB1.DBW0:S5TIME", &[0x39, 0x99]), Owned::Int(9_990_000));
        assert_eq!(good("DB1.DBD0:TIME", &(-1500_i32).to_be_bytes()), Owned::Int(-1500));
        assert_eq!(good("DB1.DBB0:LTIME", &(-1500_i64).to_be_bytes()), Owned::Int(-1500));
        assert_eq!(good("DB1.DBD0:TOD", &86_399_999_u32.to_be_bytes()), Owned::Int(86_399_999));
        assert_eq!(good("DB1.DBW0:DATE", &[0, 0]), Owned::Text("1990-01-01".into()));
        assert_eq!(good("DB1.DBW0:DATE", &[0xFF, 0xFF]), Owned::Text("2169-06-06".into()));
        let at = Owned::Int(1_763_726_880_123_000); // 2025-11-21T12:08:00.123Z
        assert_eq!(good("DB1.DBB0:DT", &[0x25, 0x11, 0x21, 0x12, 0x08, 0x00, 0x12, 0x36]), at);
        assert_eq!(good("DB1.DBB0:DTL", &[0x07, 0xE9, 11, 21, 6, 12, 8, 0, 0x07, 0x54, 0xD4, 0xC0]), at);
        assert_eq!(good("DB1.DBB0:LDT", &1_763_726_880_123_000_000_u64.to_be_bytes()), at);
        // 1998: years from 90 on are of the last century. The weekday is wrong, and nobody minds.
        assert_eq!(good("DB1.DBB0:DT", &[0x98, 0x01, 0x01, 0, 0, 0, 0, 0x0F]), Owned::Int(883_612_800_000_000));
    }

    #[test]
    fn what_was_never_set_is_null_and_what_is_no_time_is_bad() {
        let codec = Codec::default();
        for address in ["DB1.DBB0:DT", "DB1.DBB0:DTL", "DB1.DBB0:LDT"] {
            assert_eq!(decoded(&codec, address, &[0; 12]), (Owned::Null, StatusCode::BAD_NO_DATA), "{address}");
        }
        for (address, bytes) in [
            ("DB1.DBB0:DT", &[0x25, 0x11, 0x2A, 0x12, 0x08, 0, 0, 0][..]),
            ("DB1.DBB0:DT", &[0x25, 0x13, 0x21, 0x12, 0x08, 0, 0, 0]),
            ("DB1.DBB0:DTL", &[0x07, 0xE9, 2, 30, 6, 12, 8, 0, 0, 0, 0, 0]),
            ("DB1.DBW0:S5TIME", &[0x0A, 0x00]),
            ("C3", &[0x01, 0x2F]),
            ("DB1.DBD0:TOD", &86_400_000_u32.to_be_bytes()),
            ("DB1.DBB0:LDT", &[0xFF; 8]),
            ("DB1.DBB0:STRING[4]", &[4, 5, b'a', b'b', b'c', b'd']),
            ("DB1.DBB0:STRING[4]", &[254, 5, b'a', b'b', b'c', b'd']),
            ("DB1.DBB0:WSTRING[1]", &[0, 1, 0, 1, 0xD8, 0]),
        ] {
            assert_eq!(decoded(&codec, address, bytes), (Owned::Null, StatusCode::BAD_DECODING_ERROR), "{address}");
        }
        assert_eq!(decoded(&codec, "DB1.DBD0:REAL", &[0; 3]).1, StatusCode::BAD_DECODING_ERROR);
    }

    #[test]
    fn the_doubled_hour_is_uncertain_and_the_skipped_hour_is_shifted() {
        let berlin = codec("Europe/Berlin");
        let dt = |text: &[u8]| decoded(&berlin, "DB1.DBB0:DT", text);
        assert_eq!(dt(&[0x25, 0x11, 0x21, 0x13, 0x08, 0, 0, 0]), (Owned::Int(1_763_726_880_000_000), StatusCode::GOOD));
        assert_eq!(dt(&[0x25, 0x10, 0x26, 0x02, 0x30, 0, 0, 0]), (Owned::Int(1_761_438_600_000_000), StatusCode::UNCERTAIN));
        // 02:30 did not exist on 2025-03-30: it is 03:30 of the new time.
        assert_eq!(dt(&[0x25, 0x03, 0x30, 0x02, 0x30, 0, 0, 0]), (Owned::Int(1_743_298_200_000_000), StatusCode::UNCERTAIN));
    }

    #[test]
    fn texts_end_at_their_length_and_are_of_the_plants_code_page() {
        assert_eq!(good("DB1.DBB0:STRING[6]", b"\x06\x03abcold"), Owned::Text("abc".into()));
        assert_eq!(good("DB1.DBB0:STRING[6]", b"\x06\x03\xE4\xF6\xFC\0\0\0"), Owned::Text("äöü".into()));
        assert_eq!(good("DB1.DBB0:STRING[6]", b"\x06\0oldold"), Owned::Text(String::new()));
        assert_eq!(good("DB1.DBB0:WSTRING[3]", &[0, 3, 0, 2, 0x04, 0x1F, 0x00, 0x41, 0, 0]), Owned::Text("ПA".into()));
        assert_eq!(good("DB1.DBB0:CHAR", b"x"), Owned::Text("x".into()));
        assert_eq!(good("DB1.DBB0:CHAR[6]", b"ab c\0\0"), Owned::Text("ab c".into()));
        let polish = Codec { encoding: encoding_rs::WINDOWS_1250, ..Codec::default() };
        assert_eq!(decoded(&polish, "DB1.DBB0:STRING[2]", b"\x02\x02\xB3\xF3").0, Owned::Text("łó".into()));
    }

    #[test]
    fn arrays_keep_their_order_and_texts_in_them_begin_at_even_bytes() {
        let texts = |items: &[&str]| Owned::Array(items.iter().map(|text| Owned::Text((*text).into())).collect(), vec![]);
        assert_eq!(good("DB1.DBB0:INT[2]", &[0, 1, 0xFF, 0xFF]), Owned::Array(vec![Owned::Int(1), Owned::Int(-1)], vec![]));
        assert_eq!(good("DB1.DBB0:REAL[1]", &1.5_f32.to_be_bytes()), Owned::Array(vec![Owned::Double(1.5)], vec![]));
        assert_eq!(
            good("DB1.DBX0.7:BOOL[3]", &[0x80, 0x02]),
            Owned::Array(vec![Owned::Bool(true), Owned::Bool(false), Owned::Bool(true)], vec![])
        );
        assert_eq!(good("DB1.DBB0:STRING[3][2]", b"\x03\x01axx_\x03\x02bcx_"), texts(&["a", "bc"]));
        assert_eq!(good("DB1.DBB0:DATE[1]", &[0, 1]), texts(&["1990-01-02"]));
    }

    #[test]
    fn a_command_fits_exactly_or_not_at_all() {
        let codec = codec("Europe/Berlin");
        let encode =
            |address: &str, value: CommandValue| codec.encode(&Address::parse(address, None).unwrap(), &value, &TagOptions::default());
        let bytes = |address: &str, value| encode(address, value).unwrap().bytes;
        assert_eq!(bytes("DB1.DBW0:INT", CommandValue::Int(-2)), [0xFF, 0xFE]);
        assert_eq!(bytes("DB1.DBW0:INT", CommandValue::Double(3.0)), [0, 3]);
        assert_eq!(bytes("DB1.DBX0.3", CommandValue::Bool(true)), [1]);
        assert_eq!(bytes("DB1.DBW0:S5TIME", CommandValue::Int(127_000)), [0x21, 0x27]);
        assert_eq!(encode("DB1.DBB0:STRING[6]", CommandValue::Text("äb".into())), Ok(Encoded { offset: 1, bytes: b"\x02\xE4b".to_vec() }));
        for (address, value) in [
            ("DB1.DBW0:INT", CommandValue::Int(32768)),
            ("DB1.DBW0:INT", CommandValue::Double(1.5)),
            ("DB1.DBB0:USINT", CommandValue::Int(-1)),
            ("DB1.DBX0.0", CommandValue::Int(2)),
            ("DB1.DBD0:REAL", CommandValue::Double(f64::NAN)),
            ("DB1.DBD0:REAL", CommandValue::Double(1e39)),
            ("DB1.DBW0:S5TIME", CommandValue::Int(10_001)),
            ("DB1.DBB0:STRING[3]", CommandValue::Text("long".into())),
            ("DB1.DBB0:STRING[3]", CommandValue::Text("Ж".into())),
            ("DB1.DBB0:INT[3]", CommandValue::Int(1)),
            ("DB1.DBD0:DINT", CommandValue::Text("1".into())),
            ("DB1.DBW0:DATE", CommandValue::Text("1989-12-31".into())),
            ("DB1.DBB0:DT", CommandValue::Int(-1)),
        ] {
            assert!(encode(address, value.clone()).is_err(), "{address} {value:?}");
        }
    }

    fn types() -> impl Strategy<Value = DataType> {
        proptest::sample::select(vec![
            DataType::Byte,
            DataType::SInt,
            DataType::Int,
            DataType::Word,
            DataType::DInt,
            DataType::ULInt,
            DataType::LInt,
            DataType::S5Time,
            DataType::Time,
            DataType::TimeOfDay,
            DataType::LTimeOfDay,
            DataType::Counter,
            DataType::DateTime,
            DataType::Dtl,
            DataType::LDateTime,
        ])
    }

    fn address(kind: DataType, count: Option<u16>) -> Address {
        Address { area: crate::address::Area::DataBlock, db: 1, byte: 0, bit: 0, kind, count }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(kind in types(), number in prop_oneof![-400_i64..400, any::<i64>(), 0..4_000_000_000_000_i64]) {
            let codec = Codec::default();
            if let Ok(encoded) = codec.encode(&address(kind, None), &CommandValue::Int(number), &TagOptions::default()) {
                let mut batch = Batch::new();
                let (value, status) = codec.decode(&address(kind, None), &encoded.bytes, &mut batch);
                // Zero is what was never set.
                prop_assert!(status.is_good() || encoded.bytes.iter().all(|byte| *byte == 0), "{status:?}");
                if status.is_good() {
                    prop_assert_eq!(Owned::of(value, &batch.heap).number().map(|n| n as i64).or(match value { Value::Int(n) => Some(n), _ => None }), Some(number));
                }
            }
        }

        #[test]
        fn no_bytes_panic(kind in prop_oneof![types(), Just(DataType::String(5)), Just(DataType::WString(3)), Just(DataType::Date), Just(DataType::Bool), Just(DataType::Char), Just(DataType::WChar)],
                          count in proptest::option::of(1_u16..4), bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut batch = Batch::new();
            let (value, _) = codec("Europe/Berlin").decode(&address(kind, count), &bytes, &mut batch);
            let _ = Owned::of(value, &batch.heap);
        }
    }
}
