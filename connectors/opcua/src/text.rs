//! Values on the wire as texts: their standard form, and JSON.

use crate::values::MOST_DIMS;
use crate::wire::{Object, Read, Reader, Undecodable, builtin, least, micros};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use millrace_schemas::json;
use std::io::Write as _;

impl Reader<'_> {
    /// Text as it came; what is no UTF-8 in it becomes U+FFFD.
    pub(crate) fn push_text(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for chunk in bytes.utf8_chunks() {
            out.extend_from_slice(chunk.valid().as_bytes());
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{FFFD}".as_bytes());
                self.replaced();
            }
        }
    }

    /// Appends the standard text of a built-in value that has one; `false`: it is null.
    pub fn text(&mut self, id: u8, out: &mut Vec<u8>) -> Read<bool> {
        use builtin::*;
        match id {
            STRING | XML_ELEMENT => match self.bytes()? {
                None => return Ok(false),
                Some(bytes) => self.push_text(bytes, out),
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
                self.push_text(name, out);
            }
            LOCALIZED_TEXT => {
                let form = self.u8()?;
                if form & 1 != 0 {
                    self.bytes()?;
                }
                match if form & 2 != 0 { self.bytes()? } else { None } {
                    None => return Ok(false),
                    Some(text) => self.push_text(text, out),
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
                {
                    let bytes = self.bytes()?.unwrap_or_default();
                    self.push_text(bytes, out);
                }
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
                self.push_text(uri, out);
                out.push(b';');
                // The URI stands for the index.
                id.strip_prefix(b"ns=").and_then(|id| id.splitn(2, |b| *b == b';').nth(1)).unwrap_or(&id)
            }
        };
        out.extend_from_slice(id);
        Ok(())
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
