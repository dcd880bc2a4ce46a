//! Where a tag's value is and how it is read: its keys, checked.

use crate::address::{Address, Table, WrongAddress};
use crate::device::{BitWrite, DeviceKeys, NullValue, TagConfig, WriteWith};
use crate::planner::Piece;
use millrace_config::{Problems, Spanned};
use millrace_kit::groups::NoKeys;
use millrace_kit::polled::{Addressed, PolledOf, Protocol, TagAt};
use millrace_kit::registers::{Bits, Encoding, Order, WordType};
use millrace_kit::shape::Shape;

/// Where a tag's value is, and how it is read.
#[derive(Clone, PartialEq, Debug)]
pub struct Point {
    pub table: Table,
    pub start: u16,
    /// Registers or coils.
    pub count: u16,
    pub word: WordType,
    pub order: Order,
    pub encoding: Encoding,
    pub bits: Option<Bits>,
    /// Registers, as they come, that say "not available".
    pub nulls: Box<[u64]>,
    pub counter: Option<Counter>,
    pub read_back: bool,
}

impl Point {
    /// What its value is in a document, unscaled.
    fn shape(&self) -> Shape {
        match (self.table.is_bits(), self.bits, self.word) {
            (true, ..) => Shape::Bool,
            (_, Some(bits), _) if bits.low == bits.high => Shape::Bool,
            (_, Some(_), _) => Shape::Long,
            (_, _, WordType::Text(_)) => Shape::Text,
            (_, _, WordType::F32 | WordType::F64) => Shape::Double,
            (_, _, WordType::U64) => Shape::UNSIGNED,
            _ => Shape::Long,
        }
    }
}

/// A value that only grows, until it rolls over or is reset.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Counter {
    /// Where it rolls over, in the device's own number; `None`: not known, every step back is a reset.
    pub max: Option<f64>,
}

/// The protocol, for the kit.
pub struct Modbus {
    /// What the source says of all its devices.
    pub shared: DeviceKeys,
}

impl Protocol for Modbus {
    type Tag = TagConfig;
    type Group = NoKeys;
    type Device = DeviceKeys;
    type Address = Point;

    const EXAMPLE: &'static str = "speed: \"holding:100\"";

    fn address(&self, at: &TagAt<'_, Self>, problems: &mut Problems) -> Option<Addressed<Point>> {
        let config = &at.tag.own;
        let device = at.device.map_or(&self.shared, |device| &device.own.own);
        let address: Address = match config.address.parse() {
            Ok(address) => address,
            Err(wrong) => {
                problems.refused(config.address.place, &WrongAddress::to_string(&wrong));
                return None;
            }
        };
        let mark = problems.mark();
        let order = config.order.as_ref().or(device.order.as_ref()).or(self.shared.order.as_ref());
        let register_bits =
            u16::from(*device.register_bits.as_ref().or(self.shared.register_bits.as_ref()).map_or(&16, |bits| &bits.value));
        let point = self.point(config, address, order, register_bits, at, problems);
        if point.table.is_bits() && (config.word.is_some() || config.order.is_some()) {
            let place = config.word.as_ref().map(|word| word.place).or(config.order.as_ref().map(|order| order.place));
            problems
                .error(
                    place.unwrap_or(config.address.place),
                    format!("a {} is a single bit: `as` and `order` have no use", point.table.as_str()),
                )
                .help("leave them out, or name a register");
        }
        if at.options.writable == Some(true) {
            self.check_write(&point, device, config, problems);
        }
        let kind = if point.table.is_bits() || point.bits.is_some_and(|bits| bits.low == bits.high) {
            "bool".into()
        } else {
            point.word.to_string()
        };
        let shape = Some(point.shape());
        (!problems.has_errors_since(mark)).then(|| Addressed { address: point, written: address.to_string(), kind: Some(kind), shape })
    }
}

impl Modbus {
    fn point(
        &self,
        config: &TagConfig,
        address: Address,
        order: Option<&Spanned<Order>>,
        register_bits: u16,
        at: &TagAt<'_, Self>,
        problems: &mut Problems,
    ) -> Point {
        let place = config.address.place;
        let default = if register_bits == 32 { WordType::U32 } else { WordType::U16 };
        let word = config.word.as_ref().map_or(default, |word| word.value);
        let order = order.map_or((Order::default(), place), |order| (order.value, order.place));
        if !address.table.is_bits() && config.order.is_some() && !word.takes(order.0) {
            problems.error(order.1, format!("the order {} has no meaning for `{word}`", order.0.as_str())).help(match word {
                WordType::Text(_) => "a text is `ABCD`, or `BADC` with the bytes of each register swapped",
                _ => "`CDABGHEF` is for 64-bit values",
            });
        }
        // A device's order that means nothing for this type was meant for its others.
        let order = if word.takes(order.0) { order.0 } else { Order::Abcd };
        if let Some(bits) = address.bits {
            let size = word.registers() * 16;
            if !word.has_bits() || u16::from(bits.high) >= size {
                problems
                    .error(place, format!("`{}`: a `{word}` has no bit {}", config.address.value, bits.high))
                    .help("bits count from 0, the least significant; for more than 16 write `as: u32`");
            }
        }
        let count = if address.table.is_bits() { 1 } else { (word.registers() * 16).div_ceil(register_bits) };
        if register_bits == 32 && !word.registers().is_multiple_of(2) && !address.table.is_bits() {
            problems
                .error(place, format!("a `{word}` doesn't fill a register of 32 bits"))
                .help("write `as: i32`, `u32`, `f32`, or a wider type");
        }
        if u32::from(address.start) + u32::from(count) > 0x1_0000 {
            problems
                .error(place, format!("`{}` with {count} registers ends beyond 65535, the last address of a device", config.address.value));
        }
        let width = u32::from(word.registers()) * 16;
        let nulls = config.null_values.iter().filter_map(|null| null_bits(null, word, width, problems)).collect();
        let counter = (at.options.kind.as_deref() == Some("counter")).then(|| {
            let (factor, offset) = at.options.scaling().unwrap_or((1.0, 0.0));
            Counter { max: at.options.max.map(|max| (max - offset) / factor) }
        });
        let encoding = config.encoding.unwrap_or_default();
        Point {
            table: address.table,
            start: address.start,
            count,
            word,
            order,
            encoding,
            bits: address.bits,
            nulls,
            counter,
            read_back: config.read_back,
        }
    }

    fn check_write(&self, point: &Point, device: &DeviceKeys, config: &TagConfig, problems: &mut Problems) {
        let place = config.address.place;
        if !point.table.is_writable() {
            problems
                .error(place, format!("a tag in the table `{}` can't be written", point.table.as_str()))
                .help("only `coil` and `holding` can; leave out `writable`");
        }
        let bit_write = device.bit_write.or(self.shared.bit_write).unwrap_or_default();
        if point.bits.is_some() && bit_write == BitWrite::Refuse {
            problems
                .error(place, "a bit of a register can't be written without `bit_write`")
                .help("write `bit_write: mask` if the device knows function code 22, else `bit_write: read_modify_write`, which may undo what the device changes meanwhile");
        }
        if point.bits.is_some() && point.word.registers() > 1 {
            problems.error(place, "a bit of a value of several registers can't be written").help("name the register that holds the bit");
        }
        if device.write_with.or(self.shared.write_with) == Some(WriteWith::Single) && point.count > 1 {
            problems
                .error(
                    place,
                    format!("a `{}` has {} registers, and `write_with: single` writes one: it would be torn", point.word, point.count),
                )
                .help("leave out `write_with`, or `writable`");
        }
    }
}

fn null_bits(null: &Spanned<NullValue>, word: WordType, width: u32, problems: &mut Problems) -> Option<u64> {
    if matches!(word, WordType::Text(_)) {
        problems.error(null.place, "a text has no `null_values`");
        return None;
    }
    let (low, high) = (-(1i128 << (width - 1)), (1i128 << width) - 1);
    if !(low..=high).contains(&null.value.0) {
        problems.error(null.place, format!("{} doesn't fit into the {width} bits of a `{word}`", null.value.0));
        return None;
    }
    // A negative number stands for its bits.
    Some(null.value.0 as u64 & (u64::MAX >> (64 - width)))
}

/// A tag's place, for the planner.
pub fn piece(polled: &PolledOf<Modbus>, tag: usize) -> Piece {
    let point = &polled.tags[tag].address;
    Piece { table: point.table, start: point.start, count: point.count, tag: tag as u32 }
}
