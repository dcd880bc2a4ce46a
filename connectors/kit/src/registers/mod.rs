//! Words and registers: how the 16-bit words of a device make up numbers and texts, and the way back.
//!
//! ```text
//! the 32-bit value AABBCCDD on the wire        the 64-bit value AABBCCDDEEFFGGHH
//! ABCD      AA BB CC DD   big-endian           AA BB CC DD EE FF GG HH
//! CDAB      CC DD AA BB   words reversed       GG HH EE FF CC DD AA BB
//! BADC      BB AA DD CC   bytes swapped        BB AA DD CC FF EE HH GG
//! DCBA      DD CC BB AA   all reversed         HH GG FF EE DD CC BB AA
//! CDABGHEF                                     CC DD AA BB GG HH EE FF   words swapped within each half
//! ```
//!
//! Invariants: pure; each order is its own inverse, so reading and writing are one function; a number is written exactly or not at all; nothing
//! is allocated per value, a text goes straight into the batch's heap.

mod encoding;
mod number;

pub use encoding::Encoding;
pub use number::{Number, Unfit};

use millrace_schemas::{Batch, StatusCode, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// The order of the bytes of a value in its registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Order {
    /// Big-endian: the order of the standard, and of most devices.
    #[default]
    Abcd,
    /// Words reversed, each big-endian.
    Cdab,
    /// Words in order, the bytes of each swapped.
    Badc,
    /// Little-endian: all reversed.
    Dcba,
    /// Words swapped within each 32-bit half of a 64-bit value.
    Cdabghef,
}

impl Order {
    pub const ALL: [Self; 5] = [Self::Abcd, Self::Cdab, Self::Badc, Self::Dcba, Self::Cdabghef];

    /// Its name in the YAML.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Abcd => "ABCD",
            Self::Cdab => "CDAB",
            Self::Badc => "BADC",
            Self::Dcba => "DCBA",
            Self::Cdabghef => "CDABGHEF",
        }
    }

    /// Turns the bytes of one value from the wire into big-endian, or back: each order is its own inverse.
    pub fn arrange(self, bytes: &mut [u8]) {
        match self {
            Self::Abcd => {}
            Self::Cdab => {
                bytes.reverse();
                bytes.chunks_exact_mut(2).for_each(|word| word.swap(0, 1));
            }
            Self::Badc => bytes.chunks_exact_mut(2).for_each(|word| word.swap(0, 1)),
            Self::Dcba => bytes.reverse(),
            Self::Cdabghef => bytes.chunks_exact_mut(4).for_each(|half| half.rotate_left(2)),
        }
    }
}

/// What registers hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum WordType {
    I16,
    #[default]
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
    /// Binary-coded decimal: four digits a register, so many registers (1, 2 or 4).
    Bcd(u8),
    /// The top bit is the sign, the others the magnitude: so many registers (1 or 2).
    SignMagnitude(u8),
    /// Each register holds 0 to 9999, the most significant first: so many registers (2 to 4).
    Mod10k(u8),
    /// A text of so many bytes; it ends at a zero byte, and trailing spaces are cut.
    Text(u16),
}

/// The names in the YAML; a text is `string[20]`.
const NAMES: [(&str, WordType); 16] = [
    ("i16", WordType::I16),
    ("u16", WordType::U16),
    ("i32", WordType::I32),
    ("u32", WordType::U32),
    ("i64", WordType::I64),
    ("u64", WordType::U64),
    ("f32", WordType::F32),
    ("f64", WordType::F64),
    ("bcd16", WordType::Bcd(1)),
    ("bcd32", WordType::Bcd(2)),
    ("bcd64", WordType::Bcd(4)),
    ("sm16", WordType::SignMagnitude(1)),
    ("sm32", WordType::SignMagnitude(2)),
    ("mod10k32", WordType::Mod10k(2)),
    ("mod10k48", WordType::Mod10k(3)),
    ("mod10k64", WordType::Mod10k(4)),
];

/// The longest text: the registers of one request.
const MOST_TEXT_BYTES: u16 = 250;

impl WordType {
    /// How many registers a value takes.
    pub const fn registers(self) -> u16 {
        match self {
            Self::I16 | Self::U16 => 1,
            Self::I32 | Self::U32 | Self::F32 => 2,
            Self::I64 | Self::U64 | Self::F64 => 4,
            Self::Bcd(n) | Self::SignMagnitude(n) | Self::Mod10k(n) => n as u16,
            Self::Text(bytes) => bytes.div_ceil(2),
        }
    }

    /// Whether its bits can be taken one by one.
    pub const fn has_bits(self) -> bool {
        matches!(self, Self::I16 | Self::U16 | Self::I32 | Self::U32 | Self::I64 | Self::U64)
    }

    /// Whether an order of bytes means something for it.
    pub fn takes(self, order: Order) -> bool {
        match (self, order) {
            (Self::Text(_), order) => matches!(order, Order::Abcd | Order::Badc),
            (_, Order::Cdabghef) => self.registers() == 4,
            _ => true,
        }
    }

    /// Parses its name in the YAML.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((_, found)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Some(*found);
        }
        let bytes = text.strip_prefix("string[")?.strip_suffix(']')?.parse().ok()?;
        (1..=MOST_TEXT_BYTES).contains(&bytes).then_some(Self::Text(bytes))
    }

    /// Reads one value off its bytes as they came.
    ///
    /// Shape: `2 * registers()` bytes -> the value; a text is appended to the batch's heap.
    /// Errors: the status of a value that can't be: digits that are no digits, a text that is no text, a float that is no number.
    pub fn read(self, order: Order, encoding: Encoding, wire: &[u8], batch: &mut Batch) -> Result<Value, StatusCode> {
        if let Self::Text(bytes) = self {
            return text(usize::from(bytes), order, encoding, wire, batch);
        }
        let size = usize::from(self.registers()) * 2;
        let mut room = [0; 8];
        let bytes = &mut room[8 - size..];
        bytes.copy_from_slice(wire.get(..size).ok_or(StatusCode::BAD_DECODING_ERROR)?);
        order.arrange(bytes);
        let raw = u64::from_be_bytes(room);
        Ok(match self {
            Self::U16 | Self::U32 => Value::Int(raw as i64),
            Self::U64 => Value::UInt(raw),
            Self::I16 => Value::Int(raw as u16 as i16 as i64),
            Self::I32 => Value::Int(raw as u32 as i32 as i64),
            Self::I64 => Value::Int(raw as i64),
            Self::F32 => return finite(f64::from(f32::from_bits(raw as u32))),
            Self::F64 => return finite(f64::from_bits(raw)),
            Self::Bcd(n) => Value::Int(digits(raw, u32::from(n) * 4).ok_or(StatusCode::BAD_DECODING_ERROR)?),
            Self::SignMagnitude(n) => {
                let sign = 1u64 << (u32::from(n) * 16 - 1);
                let magnitude = (raw & (sign - 1)) as i64;
                Value::Int(if raw & sign == 0 { magnitude } else { -magnitude })
            }
            Self::Mod10k(n) => {
                let words = (0..u32::from(n)).rev().map(|word| (raw >> (16 * word) & 0xFFFF) as i64);
                let mut sum = 0;
                for word in words {
                    if word > 9999 {
                        return Err(StatusCode::BAD_DECODING_ERROR);
                    }
                    sum = sum * 10_000 + word;
                }
                Value::Int(sum)
            }
            Self::Text(_) => unreachable!("a text was read above"),
        })
    }

    /// The registers as they came, before any order: what a device's marks for "not available" are compared with. `None` of a text.
    pub fn raw(self, wire: &[u8]) -> Option<u64> {
        if matches!(self, Self::Text(_)) {
            return None;
        }
        let size = usize::from(self.registers()) * 2;
        let mut room = [0; 8];
        room[8 - size..].copy_from_slice(wire.get(..size)?);
        Some(u64::from_be_bytes(room))
    }

    /// Writes a number as it goes over the wire. Errors: a number that doesn't fit exactly.
    pub fn write_number(self, order: Order, number: Number) -> Result<Vec<u8>, Unfit> {
        let size = usize::from(self.registers()) * 2;
        let whole = || number.whole().ok_or(Unfit::Fraction(number));
        let within = |low: i128, high: i128| {
            let n = whole()?;
            if (low..=high).contains(&n) { Ok(n) } else { Err(Unfit::Range(number, low, high)) }
        };
        let raw = match self {
            Self::I16 => within(i16::MIN.into(), i16::MAX.into())? as u64,
            Self::U16 => within(0, u16::MAX.into())? as u64,
            Self::I32 => within(i32::MIN.into(), i32::MAX.into())? as u64,
            Self::U32 => within(0, u32::MAX.into())? as u64,
            Self::I64 => within(i64::MIN.into(), i64::MAX.into())? as u64,
            Self::U64 => within(0, u64::MAX.into())? as u64,
            Self::F32 => {
                let single = number.float()? as f32;
                if single.is_infinite() {
                    return Err(Unfit::Float(number));
                }
                u64::from(single.to_bits())
            }
            Self::F64 => number.float()?.to_bits(),
            Self::Bcd(n) => to_digits(within(0, 10i128.pow(u32::from(n) * 4) - 1)?),
            Self::SignMagnitude(n) => {
                let sign = 1i128 << (u32::from(n) * 16 - 1);
                let number = within(1 - sign, sign - 1)?;
                (number.unsigned_abs() as u64) | if number < 0 { sign as u64 } else { 0 }
            }
            Self::Mod10k(n) => {
                let mut rest = within(0, 10_000i128.pow(n.into()) - 1)?;
                let mut raw = 0;
                for word in 0..u32::from(n) {
                    raw |= ((rest % 10_000) as u64) << (16 * word);
                    rest /= 10_000;
                }
                raw
            }
            Self::Text(_) => return Err(Unfit::NotAText(number)),
        };
        let mut bytes = raw.to_be_bytes()[8 - size..].to_vec();
        order.arrange(&mut bytes);
        Ok(bytes)
    }

    /// Writes a text as it goes over the wire, filled up with zero bytes. Errors: a text that is too long, or of another encoding.
    pub fn write_text(self, order: Order, encoding: Encoding, text: &str) -> Result<Vec<u8>, Unfit> {
        let Self::Text(most) = self else { return Err(Unfit::NotANumber(text.into())) };
        let mut bytes = encoding.encode(text)?;
        if bytes.len() > usize::from(most) {
            return Err(Unfit::Long(bytes.len(), most));
        }
        bytes.resize(usize::from(self.registers()) * 2, 0);
        order.arrange(&mut bytes);
        Ok(bytes)
    }
}

impl fmt::Display for WordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(bytes) => write!(f, "string[{bytes}]"),
            _ => f.write_str(NAMES.iter().find(|(_, word)| word == self).map_or("?", |(name, _)| name)),
        }
    }
}

impl<'de> Deserialize<'de> for WordType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| format!("`{name}`")).collect();
            D::Error::custom(format!("`{text}` is not one of {}, `string[1]` to `string[{MOST_TEXT_BYTES}]`", names.join(", ")))
        })
    }
}

impl JsonSchema for WordType {
    fn schema_name() -> Cow<'static, str> {
        "WordType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
        json_schema!({"anyOf": [{"enum": names}, {"type": "string", "pattern": r"^string\[\d+\]$"}]})
    }
}

/// A piece of a word: bit `low` to bit `high`, both included, 0 the least significant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bits {
    pub low: u8,
    pub high: u8,
}

impl Bits {
    /// The bits of a whole number: one bit is a boolean, several a number. `None` of what has no bits.
    pub fn of(self, word: Value) -> Option<Value> {
        let raw = match word {
            Value::Int(n) => n as u64,
            Value::UInt(n) => n,
            _ => return None,
        };
        let piece = raw >> self.low & self.mask();
        Some(if self.low == self.high { Value::Bool(piece == 1) } else { Value::Int(piece as i64) })
    }

    /// As many ones as it has bits, at the lower end.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (63 - (self.high - self.low))
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high { write!(f, "{}", self.low) } else { write!(f, "{}-{}", self.low, self.high) }
    }
}

fn text(size: usize, order: Order, encoding: Encoding, wire: &[u8], batch: &mut Batch) -> Result<Value, StatusCode> {
    let mut room = [0; MOST_TEXT_BYTES as usize + 1];
    let padded = size.div_ceil(2) * 2;
    let bytes = room.get_mut(..padded).ok_or(StatusCode::BAD_DECODING_ERROR)?;
    bytes.copy_from_slice(wire.get(..padded).ok_or(StatusCode::BAD_DECODING_ERROR)?);
    order.arrange(bytes);
    let bytes = &bytes[..size];
    let text = &bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(size)];
    let start = batch.heap.len();
    encoding.decode(text.trim_ascii_end(), &mut batch.heap)?;
    Ok(Value::Text(batch.span_from(start)))
}

/// A float that isn't a number says that there is none; an infinite one is none that a plant has.
fn finite(x: f64) -> Result<Value, StatusCode> {
    if x.is_finite() { Ok(Value::Double(x)) } else { Err(StatusCode::BAD_SENSOR_FAILURE) }
}

fn digits(raw: u64, count: u32) -> Option<i64> {
    let mut number = 0;
    for place in (0..count).rev() {
        let digit = raw >> (4 * place) & 0xF;
        if digit > 9 {
            return None;
        }
        number = number * 10 + digit as i64;
    }
    Some(number)
}

fn to_digits(mut number: i128) -> u64 {
    let mut raw = 0;
    let mut place = 0;
    while number > 0 {
        raw |= ((number % 10) as u64) << (4 * place);
        number /= 10;
        place += 1;
    }
    raw
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(word: WordType, order: Order, wire: &[u8]) -> Result<Value, StatusCode> {
        word.read(order, Encoding::Utf8, wire, &mut Batch::new())
    }

    fn read_text(word: WordType, order: Order, encoding: Encoding, wire: &[u8]) -> Result<String, StatusCode> {
        let mut batch = Batch::new();
        match word.read(order, encoding, wire, &mut batch)? {
            Value::Text(span) => Ok(batch.text_of(span).to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_orders_are_what_the_head_says() {
        for (order, four, eight) in [
            (Order::Abcd, [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]),
            (Order::Cdab, [3, 4, 1, 2], [7, 8, 5, 6, 3, 4, 1, 2]),
            (Order::Badc, [2, 1, 4, 3], [2, 1, 4, 3, 6, 5, 8, 7]),
            (Order::Dcba, [4, 3, 2, 1], [8, 7, 6, 5, 4, 3, 2, 1]),
            (Order::Cdabghef, [3, 4, 1, 2], [3, 4, 1, 2, 7, 8, 5, 6]),
        ] {
            let (mut a, mut b) = ([1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]);
            order.arrange(&mut a);
            order.arrange(&mut b);
            assert_eq!((a, b), (four, eight), "{order:?}");
        }
    }

    #[test]
    fn numbers_are_read_as_the_devices_mean_them() {
        let double = |x: f64| Ok(Value::Double(x));
        assert_eq!(read(WordType::F32, Order::Abcd, &[0x41, 0x45, 0x70, 0xA4]), double(f64::from(12.34_f32)));
        assert_eq!(read(WordType::F32, Order::Cdab, &[0x70, 0xA4, 0x41, 0x45]), double(f64::from(12.34_f32)));
        assert_eq!(read(WordType::I16, Order::Abcd, &[0xFF, 0xFE]), Ok(Value::Int(-2)));
        assert_eq!(read(WordType::I16, Order::Dcba, &[0xFE, 0xFF]), Ok(Value::Int(-2)));
        assert_eq!(read(WordType::I32, Order::Cdab, &[0xFF, 0xFE, 0xFF, 0xFF]), Ok(Value::Int(-2)));
        assert_eq!(read(WordType::U64, Order::Abcd, &[0xFF; 8]), Ok(Value::UInt(u64::MAX)));
        assert_eq!(read(WordType::Bcd(2), Order::Abcd, &[0x12, 0x34, 0x56, 0x78]), Ok(Value::Int(12_345_678)));
        assert_eq!(read(WordType::Bcd(1), Order::Abcd, &[0x1A, 0x34]), Err(StatusCode::BAD_DECODING_ERROR));
        assert_eq!(read(WordType::SignMagnitude(1), Order::Abcd, &[0x80, 0x05]), Ok(Value::Int(-5)));
        assert_eq!(read(WordType::Mod10k(2), Order::Abcd, &[0x00, 0x01, 0x27, 0x0F]), Ok(Value::Int(19_999)));
        assert_eq!(read(WordType::Mod10k(2), Order::Abcd, &[0x00, 0x01, 0x27, 0x10]), Err(StatusCode::BAD_DECODING_ERROR));
        assert_eq!(read(WordType::F32, Order::Abcd, &[0x7F, 0xC0, 0, 0]), Err(StatusCode::BAD_SENSOR_FAILURE));
        assert_eq!(read(WordType::F32, Order::Abcd, &[0x7F]), Err(StatusCode::BAD_DECODING_ERROR));
    }

    #[test]
    fn texts_end_at_a_zero_and_lose_their_trailing_spaces() {
        let text = |word, order, wire: &[u8]| read_text(word, order, Encoding::Utf8, wire);
        assert_eq!(text(WordType::Text(6), Order::Abcd, b"PM5  \0").as_deref(), Ok("PM5"));
        assert_eq!(text(WordType::Text(6), Order::Badc, b"MP\x005xy").as_deref(), Ok("PM5"));
        assert_eq!(text(WordType::Text(3), Order::Abcd, b"abcd").as_deref(), Ok("abc"));
        assert_eq!(text(WordType::Text(2), Order::Abcd, &[0xC3, 0x28]), Err(StatusCode::BAD_DECODING_ERROR));
        assert_eq!(read_text(WordType::Text(4), Order::Abcd, Encoding::Latin1, &[b'3', 0xB0, b'C', 0]).as_deref(), Ok("3°C"));
        assert_eq!(read_text(WordType::Text(2), Order::Abcd, Encoding::Cp1252, &[0x80, b' ']).as_deref(), Ok("€"));
    }

    #[test]
    fn types_have_names_and_texts_their_length() {
        for (name, word) in NAMES {
            assert_eq!((WordType::parse(name), word.to_string().as_str()), (Some(word), name));
        }
        assert_eq!(WordType::parse("string[20]"), Some(WordType::Text(20)));
        for wrong in ["string", "string[0]", "string[251]", "string[x]", "I16", "int16", ""] {
            assert_eq!(WordType::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_bit_is_a_boolean_and_several_are_a_number() {
        let word = Value::Int(0b1010_0110);
        assert_eq!(Bits { low: 1, high: 1 }.of(word), Some(Value::Bool(true)));
        assert_eq!(Bits { low: 0, high: 0 }.of(word), Some(Value::Bool(false)));
        assert_eq!(Bits { low: 4, high: 7 }.of(word), Some(Value::Int(0b1010)));
        assert_eq!(Bits { low: 0, high: 63 }.of(Value::UInt(u64::MAX)), Some(Value::Int(-1)));
        assert_eq!(Bits { low: 0, high: 0 }.of(Value::Double(1.0)), None);
    }

    #[test]
    fn a_number_is_written_exactly_or_not_at_all() {
        let write = |word: WordType, number| word.write_number(Order::Abcd, number);
        assert_eq!(write(WordType::I16, Number::Whole(-2)), Ok(vec![0xFF, 0xFE]));
        assert_eq!(write(WordType::I16, Number::Float(3.0)), Ok(vec![0, 3]));
        assert_eq!(write(WordType::Bcd(1), Number::Whole(1234)), Ok(vec![0x12, 0x34]));
        for (word, number, said) in [
            (WordType::I16, Number::Whole(40_000), "40000 is outside -32768..32767"),
            (WordType::U16, Number::Whole(-1), "-1 is outside 0..65535"),
            (WordType::U16, Number::Float(1.5), "1.5 is no whole number"),
            (WordType::U16, Number::Float(f64::NAN), "NaN is no whole number"),
            (WordType::F32, Number::Float(1e300), "1"),
            (WordType::Bcd(1), Number::Whole(10_000), "10000 is outside 0..9999"),
            (WordType::SignMagnitude(1), Number::Whole(-32_768), "-32768 is outside -32767..32767"),
            (WordType::Text(4), Number::Whole(1), "the number 1 is no text"),
        ] {
            assert!(write(word, number).unwrap_err().to_string().starts_with(said), "{word} {number}: {:?}", write(word, number));
        }
        let text = |text| WordType::Text(4).write_text(Order::Badc, Encoding::Latin1, text);
        assert_eq!(text("abc"), Ok(b"ba\0c".to_vec()));
        assert_eq!(text("abcde"), Err(Unfit::Long(5, 4)));
        assert_eq!(text("€"), Err(Unfit::Character('€')));
    }

    fn word_and_number() -> impl Strategy<Value = (WordType, i128)> {
        prop_oneof![
            (any::<i16>()).prop_map(|n| (WordType::I16, n.into())),
            (any::<u16>()).prop_map(|n| (WordType::U16, n.into())),
            (any::<i32>()).prop_map(|n| (WordType::I32, n.into())),
            (any::<u32>()).prop_map(|n| (WordType::U32, n.into())),
            (any::<i64>()).prop_map(|n| (WordType::I64, n.into())),
            (any::<u64>()).prop_map(|n| (WordType::U64, n.into())),
            (0..10_000i128).prop_map(|n| (WordType::Bcd(1), n)),
            (0..10_000_000_000_000_000i128).prop_map(|n| (WordType::Bcd(4), n)),
            (-32_767..=32_767i128).prop_map(|n| (WordType::SignMagnitude(1), n)),
            (0..1_000_000_000_000i128).prop_map(|n| (WordType::Mod10k(3), n)),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back_in_every_order((word, number) in word_and_number(), order in prop::sample::select(&Order::ALL)) {
            prop_assume!(word.takes(order));
            let wire = word.write_number(order, Number::Whole(number)).unwrap();
            let back = match read(word, order, &wire).unwrap() {
                Value::Int(n) => i128::from(n),
                Value::UInt(n) => i128::from(n),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(back, number);
        }

        #[test]
        fn floats_are_read_back_in_every_order(x in any::<f32>(), order in prop::sample::select(&Order::ALL)) {
            prop_assume!(x.is_finite() && WordType::F32.takes(order));
            let wire = WordType::F32.write_number(order, Number::Float(x.into())).unwrap();
            prop_assert_eq!(read(WordType::F32, order, &wire), Ok(Value::Double(x.into())));
        }

        #[test]
        fn no_bytes_make_a_reader_panic(wire in prop::collection::vec(any::<u8>(), 0..300), at in 0..NAMES.len(), text in 1..=MOST_TEXT_BYTES) {
            for order in Order::ALL {
                let _ = read(NAMES[at].1, order, &wire);
                let _ = WordType::Text(text).read(order, Encoding::Cp1252, &wire, &mut Batch::new());
                let _ = NAMES[at].1.raw(&wire);
            }
        }
    }
}
