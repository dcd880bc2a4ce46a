//! The built-in types on the wire: bytes to values of a batch, without anything in between.
//!
//! ```text
//! DataValue  mask, [Variant], [status], [source time], [source ps], [server time], [server ps]
//! Variant    type | 0x40 dimensions | 0x80 array, [length], items, [dimensions]
//! ```
//!
//! Texts, bytes and arrays are copied once, into the batch's heap. A value that can't be read but whose end is known is a value with status
//! BadDecodingError; the others go on. Source: OPC 10000-6, 5.2.2.
//!
//! Invariants: no length is believed beyond the bytes that are there; nesting ends at [`DEEPEST`]; nothing is allocated per value.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use millrace_schemas::{Batch, Kind, Micros, StatusCode, Value, json};
use std::io::Write as _;

/// Variants in variants, structures in structures: deeper is refused.
pub const DEEPEST: u32 = 64;

/// Microseconds from 1601-01-01, where OPC UA counts from, to 1970-01-01.
pub const EPOCH_MICROS: i64 = 11_644_473_600_000_000;

/// Bytes that are no message of OPC UA.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Undecodable(pub &'static str);

type Read<T> = Result<T, Undecodable>;

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
        Self { rest: bytes, depth: 0 }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
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

    /// A built-in scalar that is no structure, into the batch.
    pub fn scalar(&mut self, id: u8, batch: &mut Batch) -> Read<Value> {
        use builtin::*;
        Ok(match id {
            BOOLEAN => Value::Bool(self.u8()? != 0),
            SBYTE => Value::Int(self.i8()?.into()),
            BYTE => Value::UInt(self.u8()?.into()),
            INT16 => Value::Int(self.i16()?.into()),
            UINT16 => Value::UInt(self.u16()?.into()),
            INT32 => Value::Int(self.i32()?.into()),
            UINT32 | STATUS_CODE => Value::UInt(self.u32()?.into()),
            INT64 => Value::Int(self.i64()?),
            UINT64 => Value::UInt(self.u64()?),
            FLOAT => Value::Double(self.f32()?.into()),
            DOUBLE => Value::Double(self.f64()?),
            DATE_TIME => Value::Int(micros(self.i64()?)),
            BYTE_STRING | 26..=31 => match self.bytes()? {
                None => Value::Null,
                Some(bytes) => Value::Bytes(batch.push_bytes(bytes)),
            },
            _ => {
                let start = batch.heap.len();
                match self.text(id, &mut batch.heap)? {
                    true => Value::Text(batch.span_from(start)),
                    false => Value::Null,
                }
            }
        })
    }

    /// Appends the standard text of a built-in value that has one; `false`: it is null.
    pub fn text(&mut self, id: u8, out: &mut Vec<u8>) -> Read<bool> {
        use builtin::*;
        match id {
            STRING | XML_ELEMENT => match self.bytes()? {
                None => return Ok(false),
                Some(bytes) => push_text(bytes, out),
            },
            GUID => guid(self.take(16)?, out),
            NODE_ID => {
                self.node_id_text(out)?;
            }
            EXPANDED_NODE_ID => self.expanded_text(out)?,
            QUALIFIED_NAME => {
                let namespace = self.u16()?;
                let Some(name) = self.bytes()? else { return Ok(false) };
                if namespace != 0 {
                    let _ = write!(out, "{namespace}:");
                }
                push_text(name, out);
            }
            LOCALIZED_TEXT => {
                let form = self.u8()?;
                if form & 1 != 0 {
                    self.bytes()?;
                }
                match if form & 2 != 0 { self.bytes()? } else { None } {
                    None => return Ok(false),
                    Some(text) => push_text(text, out),
                }
            }
            _ => return Err(Undecodable("a value has an unknown type")),
        }
        Ok(true)
    }

    /// Returns the form of the node id.
    fn node_id_text(&mut self, out: &mut Vec<u8>) -> Read<u8> {
        let form = self.u8()?;
        let namespaced = |namespace: u16, out: &mut Vec<u8>| {
            if namespace != 0 {
                let _ = write!(out, "ns={namespace};");
            }
        };
        match form & 0x3F {
            0 => {
                let _ = write!(out, "i={}", self.u8()?);
            }
            1 => {
                namespaced(self.u8()?.into(), out);
                let _ = write!(out, "i={}", self.u16()?);
            }
            2 => {
                namespaced(self.u16()?, out);
                let _ = write!(out, "i={}", self.u32()?);
            }
            3 => {
                namespaced(self.u16()?, out);
                out.extend_from_slice(b"s=");
                push_text(self.bytes()?.unwrap_or_default(), out);
            }
            4 => {
                namespaced(self.u16()?, out);
                out.extend_from_slice(b"g=");
                guid(self.take(16)?, out);
            }
            5 => {
                namespaced(self.u16()?, out);
                out.extend_from_slice(b"b=");
                let text = BASE64_STANDARD.encode(self.bytes()?.unwrap_or_default());
                out.extend_from_slice(text.as_bytes());
            }
            _ => return Err(Undecodable("a node id has an unknown form")),
        }
        Ok(form)
    }

    /// `svr=1;nsu=URI;i=5`.
    fn expanded_text(&mut self, out: &mut Vec<u8>) -> Read<()> {
        let start = out.len();
        let form = self.node_id_text(out)?;
        let uri = if form & 0x80 != 0 { self.bytes()? } else { None };
        let server = if form & 0x40 != 0 { self.u32()? } else { 0 };
        if uri.is_none() && server == 0 {
            return Ok(());
        }
        let id = out.split_off(start);
        if server != 0 {
            let _ = write!(out, "svr={server};");
        }
        let id = match uri {
            None => &id[..],
            Some(uri) => {
                out.extend_from_slice(b"nsu=");
                push_text(uri, out);
                out.push(b';');
                // The URI stands for the index.
                id.strip_prefix(b"ns=").and_then(|id| id.splitn(2, |b| *b == b';').nth(1)).unwrap_or(&id)
            }
        };
        out.extend_from_slice(id);
        Ok(())
    }

    /// A variant. A structure is passed over and returned, for whoever knows its type; `whole` is the message that this reader began with.
    pub fn variant(&mut self, batch: &mut Batch, whole: &[u8]) -> Read<(Value, Option<Structure>, StatusCode)> {
        let mask = self.u8()?;
        let id = mask & 0x3F;
        if mask & 0x80 != 0 {
            let (value, status) = self.array(id, mask & 0x40 != 0, batch)?;
            return Ok((value, None, status));
        }
        match id {
            0 => Ok((Value::Null, None, StatusCode::GOOD)),
            builtin::EXTENSION_OBJECT => {
                let object = self.object()?;
                let within = |part: &[u8]| {
                    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
                    (start, start + part.len())
                };
                match object.body {
                    Some(body) if !object.is_xml => {
                        Ok((Value::Null, Some(Structure { id: within(object.id), body: within(body) }), StatusCode::GOOD))
                    }
                    Some(xml) => {
                        let start = batch.heap.len();
                        push_text(xml, &mut batch.heap);
                        Ok((Value::Text(batch.span_from(start)), None, StatusCode::GOOD))
                    }
                    None => Ok((Value::Null, None, StatusCode::GOOD)),
                }
            }
            builtin::DATA_VALUE | builtin::VARIANT => {
                let start = batch.heap.len();
                self.json(id, &mut batch.heap)?;
                Ok((Value::Struct(batch.span_from(start)), None, StatusCode::GOOD))
            }
            builtin::DIAGNOSTIC_INFO => {
                self.skip(id)?;
                Ok((Value::Null, None, StatusCode::BAD_DECODING_ERROR))
            }
            _ => Ok((self.scalar(id, batch)?, None, StatusCode::GOOD)),
        }
    }

    /// The items of an array and its dimensions. With a null among texts or bytes, and of structures, it is JSON.
    pub fn array(&mut self, id: u8, has_dims: bool, batch: &mut Batch) -> Read<(Value, StatusCode)> {
        let Some(count) = self.length(least(id))? else {
            if has_dims {
                self.dims(&mut [0; MOST_DIMS])?;
            }
            return Ok((Value::Null, StatusCode::GOOD));
        };
        let before = *self;
        let heap = batch.heap.len();
        let value = match self.items(id, count, batch)? {
            Some(value) => value,
            None => {
                batch.heap.truncate(heap);
                *self = before;
                self.json_items(id, count, &mut batch.heap)?;
                Value::Struct(batch.span_from(heap))
            }
        };
        if !has_dims {
            return Ok((value, StatusCode::GOOD));
        }
        let mut dims = [0; MOST_DIMS];
        let n = self.dims(&mut dims)?;
        Ok((shape(value, &dims[..n.min(MOST_DIMS)], n, count, heap, batch), StatusCode::GOOD)).map(|(value, status): (Option<Value>, _)| {
            match value {
                Some(value) => (value, status),
                None => (Value::Null, StatusCode::BAD_DECODING_ERROR),
            }
        })
    }

    /// Returns how many there are; only as many as fit are kept.
    fn dims(&mut self, dims: &mut [i32; MOST_DIMS]) -> Read<usize> {
        let n = self.length(4)?.unwrap_or(0);
        for index in 0..n {
            let dim = self.i32()?;
            if let Some(kept) = dims.get_mut(index) {
                *kept = dim;
            }
        }
        Ok(n)
    }

    /// `None`: there is no kind for these items.
    pub fn items(&mut self, id: u8, count: usize, batch: &mut Batch) -> Read<Option<Value>> {
        use builtin::*;
        let start = batch.begin_array(&[]);
        macro_rules! copy {
            ($kind:ident, $size:literal, |$bytes:ident| $item:expr) => {{
                let items = self.take(count * $size)?;
                batch.heap.reserve(count * 8);
                for $bytes in items.as_chunks::<$size>().0 {
                    batch.heap.extend_from_slice(&$item.to_le_bytes());
                }
                Kind::$kind
            }};
        }
        let kind = match id {
            BOOLEAN => {
                let items = self.take(count)?;
                batch.heap.extend(items.iter().map(|byte| u8::from(*byte != 0)));
                Kind::Bool
            }
            SBYTE => copy!(Int, 1, |b| i64::from(i8::from_le_bytes(*b))),
            BYTE => copy!(UInt, 1, |b| u64::from(b[0])),
            INT16 => copy!(Int, 2, |b| i64::from(i16::from_le_bytes(*b))),
            UINT16 => copy!(UInt, 2, |b| u64::from(u16::from_le_bytes(*b))),
            INT32 => copy!(Int, 4, |b| i64::from(i32::from_le_bytes(*b))),
            UINT32 | STATUS_CODE => copy!(UInt, 4, |b| u64::from(u32::from_le_bytes(*b))),
            INT64 => copy!(Int, 8, |b| i64::from_le_bytes(*b)),
            UINT64 => copy!(UInt, 8, |b| u64::from_le_bytes(*b)),
            FLOAT => copy!(Double, 4, |b| f64::from(f32::from_le_bytes(*b))),
            DOUBLE => copy!(Double, 8, |b| f64::from_le_bytes(*b)),
            DATE_TIME => copy!(Int, 8, |b| micros(i64::from_le_bytes(*b))),
            BYTE_STRING | 26..=31 => {
                for _ in 0..count {
                    let Some(bytes) = self.bytes()? else { return Ok(None) };
                    batch.heap.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                    batch.heap.extend_from_slice(bytes);
                }
                Kind::Bytes
            }
            STRING | XML_ELEMENT | GUID | NODE_ID | EXPANDED_NODE_ID | QUALIFIED_NAME | LOCALIZED_TEXT => {
                for _ in 0..count {
                    let at = batch.heap.len();
                    batch.heap.extend_from_slice(&[0; 4]);
                    if !self.text(id, &mut batch.heap)? {
                        return Ok(None);
                    }
                    let length = (batch.heap.len() - at - 4) as u32;
                    batch.heap[at..at + 4].copy_from_slice(&length.to_le_bytes());
                }
                Kind::Text
            }
            _ => return Ok(None),
        };
        Ok(Some(Value::Array(kind, batch.span_from(start))))
    }

    /// A data value; its status has no overflow bit, which is counted by whoever asks for it.
    pub fn data_value(&mut self, batch: &mut Batch, whole: &[u8]) -> Read<Stamped> {
        let mask = self.u8()?;
        let (value, structure, decoded) = if mask & 1 != 0 { self.variant(batch, whole)? } else { (Value::Null, None, StatusCode::GOOD) };
        let status = if mask & 2 != 0 { StatusCode(self.u32()?) } else { StatusCode::GOOD };
        let source = if mask & 4 != 0 { stamp(self.i64()?) } else { Micros::NONE };
        if mask & 0x10 != 0 {
            self.u16()?;
        }
        let server = if mask & 8 != 0 { stamp(self.i64()?) } else { Micros::NONE };
        if mask & 0x20 != 0 {
            self.u16()?;
        }
        let status = if decoded.is_bad() && !status.is_bad() { decoded } else { status };
        Ok(Stamped { value, status, source, server, structure })
    }

    /// Appends a built-in value as JSON; a structure of unknown type as its bytes.
    pub fn json(&mut self, id: u8, out: &mut Vec<u8>) -> Read<()> {
        use builtin::*;
        match id {
            0 => out.extend_from_slice(b"null"),
            BOOLEAN => out.extend_from_slice(if self.u8()? != 0 { b"true" } else { b"false" }),
            SBYTE => drop(write!(out, "{}", self.i8()?)),
            BYTE => drop(write!(out, "{}", self.u8()?)),
            INT16 => drop(write!(out, "{}", self.i16()?)),
            UINT16 => drop(write!(out, "{}", self.u16()?)),
            INT32 => drop(write!(out, "{}", self.i32()?)),
            UINT32 | STATUS_CODE => drop(write!(out, "{}", self.u32()?)),
            INT64 => drop(write!(out, "{}", self.i64()?)),
            UINT64 => drop(write!(out, "{}", self.u64()?)),
            FLOAT => json::double(f64::from(self.f32()?), out),
            DOUBLE => json::double(self.f64()?, out),
            DATE_TIME => drop(write!(out, "{}", micros(self.i64()?))),
            BYTE_STRING | 26..=31 => match self.bytes()? {
                None => out.extend_from_slice(b"null"),
                Some(bytes) => json::base64(bytes, out),
            },
            EXTENSION_OBJECT => match self.object()? {
                Object { body: None, .. } => out.extend_from_slice(b"null"),
                Object { body: Some(body), .. } => json::base64(body, out),
            },
            VARIANT => self.nested(|reader| {
                let mask = reader.u8()?;
                if mask & 0x80 == 0 {
                    return reader.json(mask & 0x3F, out);
                }
                match reader.length(least(mask & 0x3F))? {
                    None => out.extend_from_slice(b"null"),
                    Some(count) => reader.json_items(mask & 0x3F, count, out)?,
                }
                if mask & 0x40 != 0 {
                    reader.dims(&mut [0; MOST_DIMS])?;
                }
                Ok(())
            })?,
            DATA_VALUE => self.nested(|reader| {
                let mask = reader.u8()?;
                out.extend_from_slice(b"{\"value\":");
                reader.json(if mask & 1 != 0 { VARIANT } else { 0 }, out)?;
                let _ = write!(out, ",\"status\":{}", if mask & 2 != 0 { reader.u32()? } else { 0 });
                for (bit, bytes) in [(4, 8), (0x10, 2), (8, 8), (0x20, 2)] {
                    if mask & bit != 0 {
                        reader.take(bytes)?;
                    }
                }
                out.push(b'}');
                Ok(())
            })?,
            DIAGNOSTIC_INFO => {
                self.skip(id)?;
                out.extend_from_slice(b"null");
            }
            _ => {
                let start = out.len();
                match self.text(id, out)? {
                    true => quote(start, out),
                    false => out.extend_from_slice(b"null"),
                }
            }
        }
        Ok(())
    }

    pub fn json_items(&mut self, id: u8, count: usize, out: &mut Vec<u8>) -> Read<()> {
        out.push(b'[');
        for index in 0..count {
            if index > 0 {
                out.push(b',');
            }
            self.json(id, out)?;
        }
        out.push(b']');
        Ok(())
    }
}

/// An array of more dimensions is no matrix that anybody can use.
pub const MOST_DIMS: usize = 16;

/// Puts dimensions on an array; `None` where they do not fit its items. One dimension is none.
pub fn shape(value: Value, dims: &[i32], n: usize, count: usize, start: usize, batch: &mut Batch) -> Option<Value> {
    let product = dims.iter().try_fold(1_usize, |product, dim| product.checked_mul(usize::try_from(*dim).ok()?));
    if n > MOST_DIMS || n > 0 && product != Some(count) {
        return None;
    }
    let Value::Array(kind, _) = value else { return Some(value) };
    if n > 1 {
        batch.set_dims(start, dims);
    }
    Some(Value::Array(kind, batch.span_from(start)))
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

/// Text as it came; what is no UTF-8 in it becomes U+FFFD.
fn push_text(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
}

fn guid(bytes: &[u8], out: &mut Vec<u8>) {
    let mut text = String::with_capacity(36);
    // The first three fields are little-endian on the wire.
    for (place, index) in [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].into_iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{:02X}", bytes.get(index).copied().unwrap_or(0)));
    }
    out.extend_from_slice(text.as_bytes());
}

/// Makes a JSON string of the text that stands from `start` on.
pub fn quote(start: usize, out: &mut Vec<u8>) {
    let text = out.split_off(start);
    let text = String::from_utf8(text).unwrap_or_default();
    json::quoted(&text, out);
}

/// Fuzz target: any bytes as data values, one after the other; reading and passing over agree on where each ends.
pub fn fuzz_opcua_value(bytes: &[u8]) {
    let mut batch = Batch::new();
    let mut reader = Reader::new(bytes);
    while !reader.rest().is_empty() {
        let mut skipped = reader;
        let mut written = reader;
        let read = reader.data_value(&mut batch, bytes);
        let passed = skipped.skip(builtin::DATA_VALUE);
        if read.is_err() || passed.is_err() {
            break;
        }
        assert_eq!(reader.rest().len(), skipped.rest().len());
        let mut text = Vec::new();
        if written.json(builtin::DATA_VALUE, &mut text).is_ok() {
            assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok(), "{}", String::from_utf8_lossy(&text));
        }
        batch.clear();
    }
    crate::types::fuzz_structure(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::Array;
    use opcua::types::{
        BinaryEncodable, ContextOwned, DataValue, DateTime, Guid, LocalizedText, NodeId, QualifiedName, StatusCode as UaStatus, UAString,
        Variant,
    };
    use std::str::FromStr;

    /// The library writes, we read.
    fn read(value: impl Into<Variant>) -> (Value, Batch) {
        let value = DataValue {
            value: Some(value.into()),
            status: Some(UaStatus::UncertainLastUsableValue),
            source_timestamp: Some(DateTime::from(132_000_000_000_000_010)),
            ..DataValue::null()
        };
        let context = ContextOwned::default();
        let bytes = value.encode_to_vec(&context.context());
        let mut batch = Batch::new();
        let mut reader = Reader::new(&bytes);
        let stamped = reader.data_value(&mut batch, &bytes).expect("is whole");
        assert!(reader.rest().is_empty());
        assert_eq!(stamped.status.0, 0x4090_0000);
        assert_eq!(stamped.source, Micros(132_000_000_000_000_010 / 10 - EPOCH_MICROS));
        fuzz_opcua_value(&bytes);
        (stamped.value, batch)
    }

    fn text(value: impl Into<Variant>) -> String {
        let (value, batch) = read(value);
        let Value::Text(span) = value else { panic!("{value:?} is no text") };
        batch.text_of(span).to_owned()
    }

    #[test]
    fn every_scalar_keeps_its_value() {
        assert_eq!(read(true).0, Value::Bool(true));
        assert_eq!(read(-5_i8).0, Value::Int(-5));
        assert_eq!(read(250_u8).0, Value::UInt(250));
        assert_eq!(read(i64::MIN).0, Value::Int(i64::MIN));
        assert_eq!(read(u64::MAX).0, Value::UInt(u64::MAX));
        assert_eq!(read(0.1_f32).0, Value::Double(f64::from(0.1_f32)));
        assert_eq!(read(DateTime::epoch()).0, Value::Int(-EPOCH_MICROS));
        assert_eq!(read(UaStatus::BadNodeIdUnknown).0, Value::UInt(0x8034_0000));
        assert_eq!(read(UAString::null()).0, Value::Null);
        assert_eq!(text("Grüße"), "Grüße");
        assert_eq!(text(LocalizedText::new("de", "Presse")), "Presse");
        assert_eq!(text(QualifiedName::new(2, "Temp")), "2:Temp");
        assert_eq!(text(NodeId::new(3, "a;b")), "ns=3;s=a;b");
        assert_eq!(text(NodeId::new(0, 2258_u32)), "i=2258");
        assert_eq!(text(Guid::from_str("72962b91-fa75-4ae6-8d28-b404dc7daf63").unwrap()), "72962B91-FA75-4AE6-8D28-B404DC7DAF63");
    }

    #[test]
    fn arrays_keep_their_items_and_one_with_a_null_is_json() {
        let (value, batch) = read(vec![1_i32, -2, 3]);
        let Value::Array(kind, span) = value else { panic!("{value:?}") };
        let array = Array::read(kind, span, &batch.heap).unwrap();
        assert_eq!(array.words().map(i64::from_le_bytes).collect::<Vec<_>>(), [1, -2, 3]);
        let (value, batch) = read(vec![UAString::from("a"), UAString::null()]);
        let Value::Struct(span) = value else { panic!("{value:?}") };
        assert_eq!(batch.text_of(span), "[\"a\",null]");
    }

    #[test]
    fn a_matrix_keeps_its_dimensions_and_a_wrong_one_is_bad_alone() {
        // Double[2][2], then its dimensions.
        let mut bytes = vec![1, builtin::DOUBLE | 0xC0];
        bytes.extend(4_i32.to_le_bytes());
        bytes.extend([1.0_f64, 2.0, 3.0, 4.0].iter().flat_map(|item| item.to_le_bytes()));
        bytes.extend(2_i32.to_le_bytes());
        let (mut good, mut bad) = (bytes.clone(), bytes);
        good.extend([2_i32, 2].iter().flat_map(|dim| dim.to_le_bytes()));
        bad.extend([2_i32, 3].iter().flat_map(|dim| dim.to_le_bytes()));
        let mut batch = Batch::new();
        let value = Reader::new(&good).data_value(&mut batch, &good).unwrap().value;
        let Value::Array(kind, span) = value else { panic!("{value:?}") };
        assert_eq!(Array::read(kind, span, &batch.heap).unwrap().dims().collect::<Vec<_>>(), [2, 2]);
        let stamped = Reader::new(&bad).data_value(&mut batch, &bad).unwrap();
        assert_eq!((stamped.value, stamped.status), (Value::Null, StatusCode::BAD_DECODING_ERROR));
    }

    #[test]
    fn a_time_before_all_times_is_kept_as_a_value_and_no_stamp() {
        assert_eq!((stamp(0), stamp(-1), stamp(i64::MAX)), (Micros::NONE, Micros::NONE, Micros::NONE));
        assert_eq!(stamp(10), Micros(1 - EPOCH_MICROS));
        let mut batch = Batch::new();
        assert_eq!(Reader::new(&0_i64.to_le_bytes()).scalar(builtin::DATE_TIME, &mut batch), Ok(Value::Int(-EPOCH_MICROS)));
        assert_eq!(
            Reader::new(&i64::MIN.to_le_bytes()).scalar(builtin::DATE_TIME, &mut batch),
            Ok(Value::Int(i64::MIN.div_euclid(10) - EPOCH_MICROS))
        );
    }

    #[test]
    fn hostile_lengths_and_depths_are_refused_before_anything_is_allocated() {
        let mut long = vec![1, builtin::INT64 | 0x80];
        long.extend(i32::MAX.to_le_bytes());
        let mut batch = Batch::new();
        assert!(Reader::new(&long).data_value(&mut batch, &long).is_err());
        // A variant in a variant, ten thousand times.
        let deep: Vec<u8> = std::iter::once(1).chain(std::iter::repeat_n(builtin::VARIANT, 10_000)).collect();
        assert!(Reader::new(&deep).data_value(&mut batch, &deep).is_err());
        fuzz_opcua_value(&deep);
        fuzz_opcua_value(&long);
    }
}
