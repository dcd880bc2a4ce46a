//! Values on the wire, into a batch: scalars, arrays, variants, data values.
//!
//! Texts, bytes and arrays are copied once, into the batch's heap. A value that can't be read but whose end is known is a value with status
//! BadDecodingError; the others go on. A text in which something was replaced is uncertain. Source: OPC 10000-6, 5.2.2.

use crate::wire::{Read, Reader, Stamped, Structure, builtin, least, micros, stamp};
use millrace_schemas::{Batch, Kind, Micros, StatusCode, Value};

impl<'a> Reader<'a> {
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
                        self.push_text(xml, &mut batch.heap);
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
    pub(crate) fn dims(&mut self, dims: &mut [i32; MOST_DIMS]) -> Read<usize> {
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
        self.take_replaced();
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
        let status = if self.take_replaced() && status.is_good() { StatusCode::UNCERTAIN } else { status };
        Ok(Stamped { value, status, source, server, structure })
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

#[cfg(test)]
mod tests;
