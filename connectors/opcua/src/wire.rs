//! The built-in types on the wire: what is how long. To values of a batch they come in `values.rs`, to texts in `text.rs`, without anything in between.
//!
//! ```text
//! DataValue  mask, [Variant], [status], [source time], [source ps], [server time], [server ps]
//! Variant    type | 0x40 dimensions | 0x80 array, [length], items, [dimensions]
//! ```
//!
//! Source: OPC 10000-6, 5.2.2.
//!
//! Invariants: no length is believed beyond the bytes that are there; nesting ends at [`DEEPEST`]; nothing is allocated per value.

use millrace_schemas::{Micros, StatusCode, Value};

/// Variants in variants, structures in structures: deeper is refused.
pub const DEEPEST: u32 = 64;

/// Microseconds from 1601-01-01, where OPC UA counts from, to 1970-01-01.
pub const EPOCH_MICROS: i64 = 11_644_473_600_000_000;

/// Bytes that are no message of OPC UA.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Undecodable(pub &'static str);

pub(crate) type Read<T> = Result<T, Undecodable>;

const SHORT: Undecodable = Undecodable("the message ends within a value");
const DEEP: Undecodable = Undecodable("the value is nested too deeply");

/// The built-in types, by their numbers.
pub mod builtin {
    pub const BOOLEAN: u8 = 1;
    pub const SBYTE: u8 = 2;
    pub const BYTE: u8 = 3;
    pub const INT16: u8 = 4;
    pub const UINT16: u8 = 5;
    pub const INT32: u8 = 6;
    pub const UINT32: u8 = 7;
    pub const INT64: u8 = 8;
    pub const UINT64: u8 = 9;
    pub const FLOAT: u8 = 10;
    pub const DOUBLE: u8 = 11;
    pub const STRING: u8 = 12;
    pub const DATE_TIME: u8 = 13;
    pub const GUID: u8 = 14;
    pub const BYTE_STRING: u8 = 15;
    pub const XML_ELEMENT: u8 = 16;
    pub const NODE_ID: u8 = 17;
    pub const EXPANDED_NODE_ID: u8 = 18;
    pub const STATUS_CODE: u8 = 19;
    pub const QUALIFIED_NAME: u8 = 20;
    pub const LOCALIZED_TEXT: u8 = 21;
    pub const EXTENSION_OBJECT: u8 = 22;
    pub const DATA_VALUE: u8 = 23;
    pub const VARIANT: u8 = 24;
    pub const DIAGNOSTIC_INFO: u8 = 25;

    /// The name of a built-in type in the standard.
    pub fn name(id: u8) -> &'static str {
        const NAMES: [&str; 26] = [
            "BaseDataType",
            "Boolean",
            "SByte",
            "Byte",
            "Int16",
            "UInt16",
            "Int32",
            "UInt32",
            "Int64",
            "UInt64",
            "Float",
            "Double",
            "String",
            "DateTime",
            "Guid",
            "ByteString",
            "XmlElement",
            "NodeId",
            "ExpandedNodeId",
            "StatusCode",
            "QualifiedName",
            "LocalizedText",
            "Structure",
            "DataValue",
            "BaseDataType",
            "DiagnosticInfo",
        ];
        NAMES.get(id as usize).copied().unwrap_or("ByteString")
    }
}

/// Microseconds since 1970 of a time on the wire; the 100 ns below are cut.
pub fn micros(ticks: i64) -> i64 {
    ticks.div_euclid(10) - EPOCH_MICROS
}

/// A stamp on the wire: 0, and what the standard calls the end of time, are none.
pub fn stamp(ticks: i64) -> Micros {
    if ticks <= 0 || ticks == i64::MAX { Micros::NONE } else { Micros(micros(ticks)) }
}

/// Reads bytes from the front.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    depth: u32,
    has_replaced: bool,
}

macro_rules! numbers {
    ($($name:ident: $type:ty),* $(,)?) => {
        $(
            pub fn $name(&mut self) -> Read<$type> {
                let (bytes, rest) = self.rest.split_first_chunk().ok_or(SHORT)?;
                self.rest = rest;
                Ok(<$type>::from_le_bytes(*bytes))
            }
        )*
    };
}

/// The status and the times around a value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Stamped {
    pub value: Value,
    pub status: StatusCode,
    pub source: Micros,
    pub server: Micros,
    /// The value's structure, where it is one that stays to be read.
    pub structure: Option<Structure>,
}

/// A structure within a message: what its bytes are encoded as, and where both stand in the message.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Structure {
    pub id: (usize, usize),
    pub body: (usize, usize),
}

/// An extension object, its body unread.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// The encoding's node id, as it lies on the wire.
    pub id: &'a [u8],
    pub body: Option<&'a [u8]>,
    pub is_xml: bool,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, depth: 0, has_replaced: false }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Something of a text was no UTF-8 and was replaced, since this was asked last.
    pub fn take_replaced(&mut self) -> bool {
        std::mem::take(&mut self.has_replaced)
    }

    pub(crate) fn replaced(&mut self) {
        self.has_replaced = true;
    }

    numbers! {
        u8: u8, u16: u16, u32: u32, u64: u64, i8: i8, i16: i16, i32: i32, i64: i64, f32: f32, f64: f64,
    }

    pub fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A length in front of bytes; `None` where it is negative.
    pub fn bytes(&mut self) -> Read<Option<&'a [u8]>> {
        match self.i32()? {
            length if length < 0 => Ok(None),
            length => self.take(length as usize).map(Some),
        }
    }

    /// The length of an array whose items have at least `least` bytes; `None` where it is negative.
    pub fn length(&mut self, least: usize) -> Read<Option<usize>> {
        match self.i32()? {
            length if length < 0 => Ok(None),
            length if (length as usize).checked_mul(least).is_none_or(|bytes| bytes > self.rest.len()) => {
                Err(Undecodable("an array is longer than its message"))
            }
            length => Ok(Some(length as usize)),
        }
    }

    /// One level deeper.
    pub fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        if self.depth >= DEEPEST {
            return Err(DEEP);
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    fn skip_node_id(&mut self) -> Read<u8> {
        let form = self.u8()?;
        match form & 0x3F {
            0 => self.take(1).map(drop)?,
            1 => self.take(3).map(drop)?,
            2 => self.take(6).map(drop)?,
            3 | 5 => {
                self.take(2)?;
                self.bytes()?;
            }
            4 => self.take(18).map(drop)?,
            _ => return Err(Undecodable("a node id has an unknown form")),
        }
        Ok(form)
    }

    /// The bytes of a node id.
    pub fn node_id(&mut self) -> Read<&'a [u8]> {
        let before = self.rest;
        self.skip_node_id()?;
        Ok(&before[..before.len() - self.rest.len()])
    }

    pub fn object(&mut self) -> Read<Object<'a>> {
        let id = self.node_id()?;
        match self.u8()? {
            0 => Ok(Object { id, body: None, is_xml: false }),
            1 => Ok(Object { id, body: self.bytes()?, is_xml: false }),
            2 => Ok(Object { id, body: self.bytes()?, is_xml: true }),
            _ => Err(Undecodable("an extension object has an unknown encoding")),
        }
    }

    /// Passes over a built-in value.
    pub fn skip(&mut self, id: u8) -> Read<()> {
        use builtin::*;
        match id {
            BOOLEAN | SBYTE | BYTE => self.take(1).map(drop),
            INT16 | UINT16 => self.take(2).map(drop),
            INT32 | UINT32 | FLOAT | STATUS_CODE => self.take(4).map(drop),
            INT64 | UINT64 | DOUBLE | DATE_TIME => self.take(8).map(drop),
            GUID => self.take(16).map(drop),
            NODE_ID => self.node_id().map(drop),
            EXPANDED_NODE_ID => {
                let form = self.skip_node_id()?;
                if form & 0x80 != 0 {
                    self.bytes()?;
                }
                if form & 0x40 != 0 {
                    self.u32()?;
                }
                Ok(())
            }
            QUALIFIED_NAME => {
                self.u16()?;
                self.bytes().map(drop)
            }
            LOCALIZED_TEXT => {
                let form = self.u8()?;
                if form & 1 != 0 {
                    self.bytes()?;
                }
                if form & 2 != 0 {
                    self.bytes()?;
                }
                Ok(())
            }
            EXTENSION_OBJECT => self.object().map(drop),
            DATA_VALUE => self.nested(|reader| {
                let mask = reader.u8()?;
                if mask & 1 != 0 {
                    reader.skip(VARIANT)?;
                }
                let stamps = [(2, 4), (4, 8), (0x10, 2), (8, 8), (0x20, 2)];
                for (_, bytes) in stamps.into_iter().filter(|(bit, _)| mask & bit != 0) {
                    reader.take(bytes)?;
                }
                Ok(())
            }),
            VARIANT => self.nested(|reader| {
                let mask = reader.u8()?;
                let id = mask & 0x3F;
                if mask & 0x80 == 0 {
                    return if id == 0 { Ok(()) } else { reader.skip(id) };
                }
                for _ in 0..reader.length(least(id))?.unwrap_or(0) {
                    reader.skip(id)?;
                }
                if mask & 0x40 != 0 {
                    let dims = reader.length(4)?.unwrap_or(0);
                    reader.take(4 * dims)?;
                }
                Ok(())
            }),
            DIAGNOSTIC_INFO => self.nested(|reader| {
                let mask = reader.u8()?;
                for bit in [1, 2, 8, 4] {
                    if mask & bit != 0 {
                        reader.take(4)?;
                    }
                }
                if mask & 0x10 != 0 {
                    reader.bytes()?;
                }
                if mask & 0x20 != 0 {
                    reader.u32()?;
                }
                if mask & 0x40 != 0 {
                    reader.skip(DIAGNOSTIC_INFO)?;
                }
                Ok(())
            }),
            26..=31 | XML_ELEMENT | STRING | BYTE_STRING => self.bytes().map(drop),
            _ => Err(Undecodable("a value has an unknown type")),
        }
    }
}

/// The fewest bytes that a value of a built-in type has.
pub fn least(id: u8) -> usize {
    use builtin::*;
    match id {
        INT16 | UINT16 | NODE_ID | EXPANDED_NODE_ID => 2,
        INT32 | UINT32 | FLOAT | STATUS_CODE | STRING | BYTE_STRING | XML_ELEMENT | 26..=31 => 4,
        INT64 | UINT64 | DOUBLE | DATE_TIME => 8,
        GUID => 16,
        QUALIFIED_NAME => 6,
        EXTENSION_OBJECT => 3,
        _ => 1,
    }
}
