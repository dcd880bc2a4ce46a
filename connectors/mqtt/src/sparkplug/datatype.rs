//! What the members of the wire mean: Sparkplug's datatypes, each to the value it stands for and to nothing wider or narrower.
//!
//! Encoders differ, and all of these are taken: Int8, Int16 and Int32 as two's complement of their own width, of 32 or of 64 bits; UInt32 and
//! smaller in `int_value` or in `long_value`; Float and Double in either's member; Boolean as a number 0 or 1.
//!
//! Source: Sparkplug 3.0.0, section 6.4.16 (data types).

use super::wire::{Malformed, Member};

macro_rules! datatypes {
    ($($name:ident = $number:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[expect(clippy::upper_case_acronyms, reason = "the specification's names")]
        #[repr(u8)]
        pub enum DataType {
            #[default]
            Unknown = 0,
            $($name = $number),*
        }

        impl DataType {
            /// A number that is none of Sparkplug's is `Unknown`.
            pub const fn of(number: u32) -> Self {
                match number {
                    $($number => Self::$name,)*
                    _ => Self::Unknown,
                }
            }

            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::Unknown => "Unknown",
                    $(Self::$name => stringify!($name)),*
                }
            }
        }
    };
}

datatypes! {
    Int8 = 1, Int16 = 2, Int32 = 3, Int64 = 4, UInt8 = 5, UInt16 = 6, UInt32 = 7, UInt64 = 8, Float = 9, Double = 10, Boolean = 11, String = 12,
    DateTime = 13, Text = 14, UUID = 15, DataSet = 16, Bytes = 17, File = 18, Template = 19, PropertySet = 20, PropertySetList = 21,
    Int8Array = 22, Int16Array = 23, Int32Array = 24, Int64Array = 25, UInt8Array = 26, UInt16Array = 27, UInt32Array = 28, UInt64Array = 29,
    FloatArray = 30, DoubleArray = 31, BooleanArray = 32, StringArray = 33, DateTimeArray = 34,
}

/// A value with its meaning, still pointing into the payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Typed<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Packed little-endian items, as the array types lay them out.
    Array(DataType, &'a [u8]),
    DataSet(&'a [u8]),
    Template(&'a [u8]),
}

/// The value is not one of its datatype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch;

impl From<Malformed> for Mismatch {
    fn from(_: Malformed) -> Self {
        Self
    }
}

/// Gives a member of the wire its meaning. No member at all is null.
pub fn typed<'a>(datatype: DataType, member: Member<'a>) -> Result<Typed<'a>, Mismatch> {
    use DataType as T;
    Ok(match (datatype, member) {
        (_, Member::None) => Typed::Null,
        (T::Int8, member) => Typed::Int(signed(8, member)?),
        (T::Int16, member) => Typed::Int(signed(16, member)?),
        (T::Int32, member) => Typed::Int(signed(32, member)?),
        (T::Int64, member) => Typed::Int(signed(64, member)?),
        (T::UInt8, member) => Typed::Int(unsigned(8, member)? as i64),
        (T::UInt16, member) => Typed::Int(unsigned(16, member)? as i64),
        (T::UInt32, member) => Typed::Int(unsigned(32, member)? as i64),
        (T::UInt64, member) => Typed::UInt(unsigned(64, member)?),
        (T::Float | T::Double | T::Unknown, Member::Float(value)) => Typed::Double(f64::from(value)),
        (T::Float | T::Double | T::Unknown, Member::Double(value)) => Typed::Double(value),
        (T::Boolean | T::Unknown, Member::Bool(value)) => Typed::Bool(value),
        (T::Boolean, member) => Typed::Bool(unsigned(1, member)? != 0),
        (T::String | T::Text | T::UUID | T::Unknown, Member::Text(text)) => Typed::Text(std::str::from_utf8(text).map_err(|_| Mismatch)?),
        (T::DateTime, member) => Typed::Int(micros(unsigned(64, member)?)?),
        (T::Bytes | T::File | T::Unknown, Member::Bytes(bytes)) => Typed::Bytes(bytes),
        (T::DataSet | T::Unknown, Member::DataSet(set)) => Typed::DataSet(set),
        (T::Template | T::Unknown, Member::Template(template)) => Typed::Template(template),
        (T::Unknown, Member::Int(value)) => Typed::Int(i64::from(value)),
        (T::Unknown, Member::Long(value)) => Typed::UInt(value),
        (array, Member::Bytes(bytes)) if array as u8 >= T::Int8Array as u8 => Typed::Array(array, bytes),
        _ => return Err(Mismatch),
    })
}

/// Milliseconds since 1970 as microseconds, where they are a time at all (before the year 10000).
pub fn micros(millis: u64) -> Result<i64, Mismatch> {
    // Two's complement: a time before 1970.
    let millis = millis as i64;
    if (-62_135_596_800_000..253_402_300_800_000).contains(&millis) { Ok(millis * 1000) } else { Err(Mismatch) }
}

fn signed(bits: u32, member: Member<'_>) -> Result<i64, Mismatch> {
    let (narrow, wide) = match member {
        Member::Int(value) => (u64::from(value), i64::from(value as i32)),
        Member::Long(value) => (value, value as i64),
        _ => return Err(Mismatch),
    };
    if bits == 64 {
        return Ok(narrow as i64);
    }
    let fits = |value: i64| value >> (bits - 1) == 0 || value >> (bits - 1) == -1;
    if fits(wide) {
        Ok(wide)
    } else if narrow >> bits == 0 {
        Ok(((narrow << (64 - bits)) as i64) >> (64 - bits))
    } else if narrow >> 32 == 0 && fits(i64::from(narrow as i32)) {
        Ok(i64::from(narrow as i32))
    } else {
        Err(Mismatch)
    }
}

fn unsigned(bits: u32, member: Member<'_>) -> Result<u64, Mismatch> {
    let value = match member {
        Member::Int(value) => u64::from(value),
        Member::Long(value) => value,
        _ => return Err(Mismatch),
    };
    if bits == 64 || value >> bits == 0 { Ok(value) } else { Err(Mismatch) }
}

pub fn items<const N: usize>(bytes: &[u8]) -> Result<impl Iterator<Item = [u8; N]> + Clone + '_, Mismatch> {
    match bytes.as_chunks::<N>() {
        (items, []) => Ok(items.iter().copied()),
        _ => Err(Mismatch),
    }
}

/// The items of a packed array of numbers.
pub fn numbers(kind: DataType, bytes: &[u8]) -> Result<impl Iterator<Item = Typed<'static>> + '_, Mismatch> {
    use DataType as T;
    let width = match kind {
        T::Int8Array | T::UInt8Array => 1,
        T::Int16Array | T::UInt16Array => 2,
        T::Int32Array | T::UInt32Array | T::FloatArray => 4,
        T::Int64Array | T::UInt64Array | T::DoubleArray | T::DateTimeArray => 8,
        _ => return Err(Mismatch),
    };
    if !bytes.len().is_multiple_of(width) {
        return Err(Mismatch);
    }
    Ok(bytes.chunks_exact(width).map(move |item| {
        let mut word = [0u8; 8];
        word[..width].copy_from_slice(item);
        let word = u64::from_le_bytes(word);
        match kind {
            T::Int8Array => Typed::Int(i64::from(word as i8)),
            T::Int16Array => Typed::Int(i64::from(word as i16)),
            T::Int32Array => Typed::Int(i64::from(word as i32)),
            T::FloatArray => Typed::Double(f64::from(f32::from_bits(word as u32))),
            T::DoubleArray => Typed::Double(f64::from_bits(word)),
            T::UInt64Array => Typed::UInt(word),
            T::DateTimeArray => micros(word).map_or(Typed::Null, Typed::Int),
            _ => Typed::Int(word as i64),
        }
    }))
}

/// The items of a BooleanArray: their number in four bytes, then bits from the most significant down.
pub fn booleans(bytes: &[u8]) -> Result<impl Iterator<Item = bool> + '_, Mismatch> {
    let Some((count, bits)) = bytes.split_first_chunk::<4>() else {
        // An empty array may be no bytes at all.
        return if bytes.is_empty() { Ok((0..0).map(bit_of(&[]))) } else { Err(Mismatch) };
    };
    let count = u32::from_le_bytes(*count) as usize;
    if count.div_ceil(8) > bits.len() {
        return Err(Mismatch);
    }
    Ok((0..count).map(bit_of(bits)))
}

fn bit_of(bits: &[u8]) -> impl Fn(usize) -> bool + '_ {
    move |i| bits[i / 8] & (0x80 >> (i % 8)) != 0
}

/// The items of a StringArray: texts, each ended by a NUL (the last one's may be missing).
pub fn texts(bytes: &[u8]) -> Result<impl Iterator<Item = &str>, Mismatch> {
    let text = std::str::from_utf8(bytes).map_err(|_| Mismatch)?;
    let text = text.strip_suffix('\0').unwrap_or(text);
    Ok(text.split('\0').take(if bytes.is_empty() { 0 } else { usize::MAX }))
}
