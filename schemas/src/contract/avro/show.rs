//! What does a record in Avro say? As JSON, for a person: times and dates as numbers, decimals with their point, bytes in base64.

use super::types::{Avro, Id, Type};
use crate::json::encode_text;
use crate::scan::DEPTH;
use std::io::Write;

impl Avro {
    /// Appends the value as JSON; `None` where the bytes are no record of this schema.
    pub(in crate::contract) fn show(&self, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let mut rest = bytes;
        self.shown(self.root, &mut rest, out, 0)?;
        rest.is_empty().then_some(())
    }

    pub(super) fn shown(&self, id: Id, rest: &mut &[u8], out: &mut Vec<u8>, depth: i16) -> Option<()> {
        if depth > DEPTH {
            return None;
        }
        match &self.types[id] {
            Type::Null => out.extend_from_slice(b"null"),
            Type::Boolean => out.extend_from_slice(if take(rest, 1)?[0] == 1 { b"true" } else { b"false" }),
            Type::Int | Type::Long | Type::Date | Type::Time(_) | Type::Timestamp { .. } => {
                let value = long(rest)?;
                write!(out, "{value}").ok()?;
            }
            Type::Float => number(f32::from_le_bytes(take(rest, 4)?.try_into().ok()?).into(), out)?,
            Type::Double => number(f64::from_le_bytes(take(rest, 8)?.try_into().ok()?), out)?,
            Type::Text | Type::Uuid { is_fixed: false } => encode_text(std::str::from_utf8(sized(rest)?).ok()?, out),
            Type::Bytes => base64(sized(rest)?, out),
            Type::Fixed { size, .. } => base64(take(rest, *size)?, out),
            Type::Uuid { is_fixed: true } => base64(take(rest, 16)?, out),
            Type::Decimal { scale, size, .. } => {
                let bytes = match size {
                    Some(size) => take(rest, *size)?,
                    None => sized(rest)?,
                };
                decimal(bytes, *scale as usize, out)?;
            }
            Type::Enum { symbols, .. } => {
                let index = long(rest)?;
                let (name, _) = symbols.iter().find(|(_, at)| **at == index)?;
                encode_text(name, out);
            }
            Type::Array(items) => {
                out.push(b'[');
                self.blocks(rest, out, |avro, rest, out| avro.shown(*items, rest, out, depth + 1))?;
                out.push(b']');
            }
            Type::Map(values) => {
                out.push(b'{');
                self.blocks(rest, out, |avro, rest, out| {
                    encode_text(std::str::from_utf8(sized(rest)?).ok()?, out);
                    out.push(b':');
                    avro.shown(*values, rest, out, depth + 1)
                })?;
                out.push(b'}');
            }
            Type::Union(branches) => {
                let branch = *branches.get(usize::try_from(long(rest)?).ok()?)?;
                self.shown(branch, rest, out, depth + 1)?;
            }
            Type::Record(record) => {
                out.push(b'{');
                for (n, field) in record.fields.iter().enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    encode_text(&field.name, out);
                    out.push(b':');
                    self.shown(field.id, rest, out, depth + 1)?;
                }
                out.push(b'}');
            }
        }
        Some(())
    }

    fn blocks(
        &self,
        rest: &mut &[u8],
        out: &mut Vec<u8>,
        mut item: impl FnMut(&Self, &mut &[u8], &mut Vec<u8>) -> Option<()>,
    ) -> Option<()> {
        let mut is_first = true;
        loop {
            let count = long(rest)?;
            if count == 0 {
                return Some(());
            }
            if count < 0 {
                long(rest)?;
            }
            for _ in 0..count.unsigned_abs() {
                if !std::mem::take(&mut is_first) {
                    out.push(b',');
                }
                let (before, written) = (rest.len(), out.len());
                item(self, rest, out)?;
                // Items of no bytes at all would let a short text announce endless ones.
                if rest.len() == before && out.len() - written <= 4 && count.unsigned_abs() > 1 << 20 {
                    return None;
                }
            }
        }
    }
}

pub(super) fn take<'b>(rest: &mut &'b [u8], len: usize) -> Option<&'b [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

pub(super) fn sized<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let len = usize::try_from(long(rest)?).ok()?;
    take(rest, len)
}

pub(super) fn long(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for n in 0..10 {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7F) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

fn number(value: f64, out: &mut Vec<u8>) -> Option<()> {
    if value.is_finite() {
        write!(out, "{value:?}").ok()
    } else {
        encode_text(
            if value.is_nan() {
                "NaN"
            } else if value > 0.0 {
                "Infinity"
            } else {
                "-Infinity"
            },
            out,
        );
        Some(())
    }
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    use ::base64::Engine;
    encode_text(&::base64::engine::general_purpose::STANDARD.encode(bytes), out);
}

/// Sixteen bytes hold 38 digits; what is longer is shown as its bytes.
fn decimal(bytes: &[u8], scale: usize, out: &mut Vec<u8>) -> Option<()> {
    if bytes.len() > 16 {
        base64(bytes, out);
        return Some(());
    }
    let fill = if bytes.first().is_some_and(|b| b & 0x80 != 0) { 0xFF } else { 0 };
    let mut wide = [fill; 16];
    wide[16 - bytes.len()..].copy_from_slice(bytes);
    let unscaled = i128::from_be_bytes(wide);
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    if scale == 0 { write!(out, "{sign}{whole}").ok() } else { write!(out, "{sign}{whole}.{fraction}").ok() }
}
