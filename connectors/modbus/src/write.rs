//! A command's value as a request: exactly what was asked for, or the reason why not. The only place where writes are made.

use crate::compiled::Unit;
use crate::device::{BitWrite, WriteWith};
use crate::pdu::{self, Read, Write};
use crate::point::Point;
use millrace_contract::{CommandValue, TagOptions};
use millrace_kit::fit::{self, Fitted, Machine, fit};
use millrace_kit::registers::{Number, Unfit, WordType};

/// Proof that this file's factory may write to devices; none is made without `floor: {writes: allowed}`.
#[derive(Clone, Copy, Debug)]
pub struct Permission(());

impl Permission {
    pub fn of(writes_allowed: bool) -> Option<Self> {
        writes_allowed.then_some(Self(()))
    }
}

/// What is to be sent for a command.
#[derive(Clone, PartialEq, Debug)]
pub enum Order {
    /// One request.
    Write(Write),
    /// The register is read first; then [`changed`] makes the write.
    Change { read: Read, mask: u16, bits: u16 },
}

/// Why a command can't be carried out.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Refused {
    #[error("the table `{0}` can't be written")]
    ReadOnly(&'static str),
    #[error("a bit of a register can't be written without `bit_write`")]
    BitWrite,
    #[error("a value of several registers can't be written with `write_with: single`")]
    Torn,
    #[error("a text is asked for, not {0:?}")]
    NoText(CommandValue),
    #[error(transparent)]
    Value(#[from] fit::Unfit),
    #[error(transparent)]
    Registers(#[from] Unfit),
}

/// Makes the request for a command.
pub fn order(_: Permission, point: &Point, unit: &Unit, options: &TagOptions, value: &CommandValue) -> Result<Order, Refused> {
    if !point.table.is_writable() {
        return Err(Refused::ReadOnly(point.table.as_str()));
    }
    let start = point.start;
    if point.table.is_bits() {
        let on = fit(value, Machine::Bool, options)? == Fitted::Bool(true);
        return Ok(Order::Write(match unit.write_with {
            Some(WriteWith::Multiple) => Write::Coils { start, on: vec![on] },
            _ => Write::Coil { start, on },
        }));
    }
    if let Some(bits) = point.bits {
        let mask = (bits.mask() << bits.low) as u16;
        let number = if bits.low == bits.high {
            u64::from(fit(value, Machine::Bool, options)? == Fitted::Bool(true))
        } else {
            let number: u64 = fit(value, Machine::U64, options)?.whole().unwrap_or(u64::MAX);
            if number > bits.mask() {
                return Err(Unfit::Range(Number::Whole(number.into()), 0, bits.mask().into()).into());
            }
            number
        };
        // The order of a single register swaps its bytes: mask and value lie as the register does.
        let on_the_wire = |word: u16| {
            let mut bytes = word.to_be_bytes();
            point.order.arrange(&mut bytes);
            u16::from_be_bytes(bytes)
        };
        let (mask, bits) = (on_the_wire(mask), on_the_wire((number << bits.low) as u16));
        return match unit.bit_write {
            BitWrite::Refuse => Err(Refused::BitWrite),
            BitWrite::Mask => Ok(Order::Write(Write::Mask { start, and: !mask, or: bits })),
            BitWrite::ReadModifyWrite => {
                let read = Read { table: point.table, start, count: 1, register_bytes: unit.limits.register_bytes };
                Ok(Order::Change { read, mask, bits })
            }
        };
    }
    let bytes = match point.word {
        WordType::Text(_) => match value {
            CommandValue::Text(text) => point.word.write_text(point.order, point.encoding, text)?,
            other => return Err(Refused::NoText(other.clone())),
        },
        word => word.write_number(point.order, number(word, value, options)?)?,
    };
    registers(start, bytes, point.count, unit).map(Order::Write)
}

/// A register with some of its bits changed.
pub fn changed(_: Permission, read: &Read, mask: u16, bits: u16, data: &[u8], unit: &Unit) -> Result<Write, Refused> {
    let word = data.first_chunk().map_or(0, |word| u16::from_be_bytes(*word));
    registers(read.start, ((word & !mask) | bits).to_be_bytes().to_vec(), 1, unit)
}

fn registers(start: u16, bytes: Vec<u8>, count: u16, unit: &Unit) -> Result<Write, Refused> {
    match (<[u8; 2]>::try_from(bytes.as_slice()), unit.write_with) {
        (Ok(word), None | Some(WriteWith::Single)) => Ok(Write::Register { start, word }),
        (Err(_), Some(WriteWith::Single)) => Err(Refused::Torn),
        _ if usize::from(count) > pdu::MOST_WRITE_REGISTERS => Err(Refused::Torn),
        _ => Ok(Write::Registers { start, count, bytes }),
    }
}

fn number(word: WordType, value: &CommandValue, options: &TagOptions) -> Result<Number, Refused> {
    let machine = match word {
        WordType::I16 => Machine::I16,
        WordType::U16 => Machine::U16,
        WordType::I32 => Machine::I32,
        WordType::U32 => Machine::U32,
        WordType::U64 => Machine::U64,
        WordType::F32 => Machine::F32,
        WordType::F64 => Machine::F64,
        WordType::I64 | WordType::Bcd(_) | WordType::SignMagnitude(_) | WordType::Mod10k(_) | WordType::Text(_) => Machine::I64,
    };
    Ok(match fit(value, machine, options)? {
        Fitted::Bool(on) => Number::Whole(on.into()),
        Fitted::Whole(n) => Number::Whole(n),
        Fitted::F32(x) => Number::Float(x.into()),
        Fitted::F64(x) => Number::Float(x),
    })
}

/// The bytes that reading the point back is to give after a write; `None`: only some bits of them count.
pub fn written_bytes(write: &Write) -> Option<&[u8]> {
    match write {
        Write::Register { word, .. } => Some(word),
        Write::Registers { bytes, .. } => Some(bytes),
        Write::Coil { on, .. } => Some(if *on { &[1] } else { &[0] }),
        Write::Coils { on, .. } => Some(if on.first() == Some(&true) { &[1] } else { &[0] }),
        Write::Mask { .. } => None,
    }
}

/// Whether a register that was read back has the value that was written.
pub fn is_taken(write: &Write, data: &[u8]) -> bool {
    match (write, written_bytes(write)) {
        (Write::Mask { and, or, .. }, _) => data.first_chunk().is_some_and(|word| (u16::from_be_bytes(*word) ^ or) & !and == 0),
        (_, Some(bytes)) => data == bytes,
        (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Table;
    use crate::planner::Limits;
    use millrace_kit::registers::{self, Bits, Encoding};

    fn point(word: WordType) -> Point {
        Point {
            table: Table::Holding,
            start: 7,
            count: word.registers(),
            word,
            order: registers::Order::Abcd,
            encoding: Encoding::Utf8,
            bits: None,
            nulls: Box::default(),
            counter: None,
            read_back: false,
        }
    }

    fn unit() -> Unit {
        Unit {
            name: "m".into(),
            id: 1,
            is_named: true,
            limits: Limits { registers: 125, bits: 2000, max_gap: 0, register_bytes: 2 },
            any_unit: false,
            write_with: None,
            bit_write: BitWrite::Refuse,
            position: String::new(),
        }
    }

    fn made(point: &Point, unit: &Unit, value: CommandValue) -> Result<Order, String> {
        let permission = Permission::of(true).unwrap();
        order(permission, point, unit, &TagOptions::default(), &value).map_err(|refused| refused.to_string())
    }

    fn write(write: Write) -> Result<Order, String> {
        Ok(Order::Write(write))
    }

    #[test]
    fn a_value_goes_out_with_the_function_the_device_knows() {
        use CommandValue::{Bool, Int, Text};
        let (one, two) = (point(WordType::I16), point(WordType::I32));
        let multiple = Unit { write_with: Some(WriteWith::Multiple), ..unit() };
        let single = Unit { write_with: Some(WriteWith::Single), ..unit() };
        assert_eq!(made(&one, &unit(), Int(-1)), write(Write::Register { start: 7, word: [0xFF, 0xFF] }));
        assert_eq!(made(&one, &multiple, Int(-1)), write(Write::Registers { start: 7, count: 1, bytes: vec![0xFF, 0xFF] }));
        assert_eq!(made(&two, &unit(), Int(1)), write(Write::Registers { start: 7, count: 2, bytes: vec![0, 0, 0, 1] }));
        assert!(made(&two, &single, Int(1)).unwrap_err().contains("write_with: single"));
        let coil = Point { table: Table::Coil, count: 1, ..point(WordType::U16) };
        assert_eq!(made(&coil, &unit(), Bool(true)), write(Write::Coil { start: 7, on: true }));
        assert_eq!(made(&coil, &multiple, Int(1)), write(Write::Coils { start: 7, on: vec![true] }));
        assert!(made(&Point { table: Table::Input, ..one.clone() }, &unit(), Int(1)).unwrap_err().contains("`input` can't be written"));
        let text = point(WordType::Text(4));
        assert_eq!(made(&text, &unit(), Text("ab".into())), write(Write::Registers { start: 7, count: 2, bytes: b"ab\0\0".to_vec() }));
        assert!(made(&text, &unit(), Int(1)).is_err() && made(&one, &unit(), Text("x".into())).is_err());
        assert!(made(&one, &unit(), Int(40_000)).unwrap_err().contains("-32768 to 32767"));
        let swapped = Point { order: registers::Order::Cdab, ..two };
        assert_eq!(made(&swapped, &unit(), Int(1)), write(Write::Registers { start: 7, count: 2, bytes: vec![0, 1, 0, 0] }));
    }

    #[test]
    fn a_bit_is_written_as_the_file_says_and_the_others_stay() {
        let bit = Point { bits: Some(Bits { low: 3, high: 3 }), ..point(WordType::U16) };
        let range = Point { bits: Some(Bits { low: 4, high: 7 }), ..point(WordType::U16) };
        let mask = Unit { bit_write: BitWrite::Mask, ..unit() };
        let change = Unit { bit_write: BitWrite::ReadModifyWrite, ..unit() };
        assert!(made(&bit, &unit(), CommandValue::Bool(true)).unwrap_err().contains("bit_write"));
        assert_eq!(made(&bit, &mask, CommandValue::Bool(true)), write(Write::Mask { start: 7, and: !8, or: 8 }));
        assert_eq!(made(&range, &mask, CommandValue::Int(5)), write(Write::Mask { start: 7, and: !0xF0, or: 0x50 }));
        assert!(made(&range, &mask, CommandValue::Int(16)).unwrap_err().contains("outside 0..15"));
        let Ok(Order::Change { read, mask, bits }) = made(&bit, &change, CommandValue::Bool(false)) else { panic!("is read first") };
        let permission = Permission::of(true).unwrap();
        assert_eq!(changed(permission, &read, mask, bits, &[0xAB, 0xFF], &change), Ok(Write::Register { start: 7, word: [0xAB, 0xF7] }));
        let masked = Write::Mask { start: 7, and: !8, or: 8 };
        assert!(is_taken(&masked, &[0, 0x18]) && !is_taken(&masked, &[0, 0x10]));
    }

    #[test]
    fn there_is_no_permission_without_the_files_word() {
        assert!(Permission::of(false).is_none());
    }
}
