//! Values kept whole, as JSON text: data sets, templates with `structure: json`.
//!
//! ```text
//! data set   {"columns":["a","b"],"types":["Int32","String"],"rows":[[1,"x"],[2,null]]}
//! template   {"parameter":1,"member":2.5,"inner":{"member":true}}     members and parameters by name, null where a value is not of its type
//! ```
//!
//! As everywhere: bytes are base64, NaN and infinities are texts, a DateTime is a long in microseconds.

use super::datatype::{self, DataType, Mismatch, Typed, typed};
use super::wire::{DataSet, Malformed, Template};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::Write;

/// How deep templates may be nested.
pub const DEEPEST: u32 = 8;

/// What a batch's heap may grow to while JSON is written: one bit of a boolean array becomes five bytes.
const LARGEST: usize = 256 << 20;

/// Appends a value as JSON.
pub fn push(value: Typed<'_>, out: &mut Vec<u8>, depth: u32) -> Result<(), Mismatch> {
    match value {
        Typed::Null => out.extend_from_slice(b"null"),
        Typed::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        Typed::Int(value) => drop(write!(out, "{value}")),
        Typed::UInt(value) => drop(write!(out, "{value}")),
        Typed::Double(value) => push_double(value, out),
        Typed::Text(text) => push_text(text, out),
        Typed::Bytes(bytes) => push_text(&STANDARD.encode(bytes), out),
        Typed::Array(kind, bytes) => push_array(kind, bytes, out, depth)?,
        Typed::DataSet(bytes) => push_data_set(&DataSet::read(bytes)?, out, depth)?,
        Typed::Template(bytes) => push_template(bytes, out, depth + 1)?,
    }
    Ok(())
}

fn push_double(value: f64, out: &mut Vec<u8>) {
    if value.is_finite() {
        let _ = serde_json::to_writer(out, &value);
    } else {
        let text = if value.is_nan() {
            "\"NaN\""
        } else if value > 0.0 {
            "\"Infinity\""
        } else {
            "\"-Infinity\""
        };
        out.extend_from_slice(text.as_bytes());
    }
}

/// Appends a text with its quotes and escapes.
pub fn push_text(text: &str, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, text);
}

/// Appends items between brackets, with commas.
fn push_list<T>(
    items: impl IntoIterator<Item = T>,
    out: &mut Vec<u8>,
    mut each: impl FnMut(T, &mut Vec<u8>) -> Result<(), Mismatch>,
) -> Result<(), Mismatch> {
    out.push(b'[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        if out.len() > LARGEST {
            return Err(Mismatch);
        }
        each(item, out)?;
    }
    out.push(b']');
    Ok(())
}

fn push_array(kind: DataType, bytes: &[u8], out: &mut Vec<u8>, depth: u32) -> Result<(), Mismatch> {
    match kind {
        DataType::BooleanArray => push_list(datatype::booleans(bytes)?, out, |item, out| push(Typed::Bool(item), out, depth)),
        DataType::StringArray => push_list(datatype::texts(bytes)?, out, |item, out| push(Typed::Text(item), out, depth)),
        _ => push_list(datatype::numbers(kind, bytes)?, out, |item, out| push(item, out, depth)),
    }
}

fn push_data_set(set: &DataSet<'_>, out: &mut Vec<u8>, depth: u32) -> Result<(), Mismatch> {
    out.extend_from_slice(b"{\"columns\":");
    push_list(&set.columns, out, |column, out| {
        push_text(column, out);
        Ok(())
    })?;
    out.extend_from_slice(b",\"types\":");
    push_list(&set.types, out, |number, out| {
        push_text(DataType::of(*number).as_str(), out);
        Ok(())
    })?;
    out.extend_from_slice(b",\"rows\":");
    push_list(set.rows(), out, |mut cells, out| {
        let mut column = 0;
        push_list(std::iter::from_fn(|| cells.next().transpose()), out, |cell, out| {
            let datatype = DataType::of(set.types.get(column).copied().unwrap_or(0));
            column += 1;
            push(typed(datatype, cell?)?, out, depth)
        })
    })?;
    out.push(b'}');
    Ok(())
}

fn push_template(bytes: &[u8], out: &mut Vec<u8>, depth: u32) -> Result<(), Mismatch> {
    if depth > DEEPEST {
        return Err(Malformed::TooDeep.into());
    }
    let template = Template::read(bytes)?;
    let members: std::collections::HashSet<&str> = template.metrics.iter().filter_map(|metric| metric.name).collect();
    let mut first = true;
    let mut field = |name: &str, value: Result<Typed<'_>, Mismatch>, out: &mut Vec<u8>| {
        out.push(if std::mem::take(&mut first) { b'{' } else { b',' });
        push_text(name, out);
        out.push(b':');
        let start = out.len();
        if value.and_then(|value| push(value, out, depth)).is_err() {
            out.truncate(start);
            out.extend_from_slice(b"null");
        }
    };
    for parameter in template.parameters.iter().filter(|parameter| !members.contains(parameter.name)) {
        field(parameter.name, typed(DataType::of(parameter.datatype), parameter.value), out);
    }
    for metric in &template.metrics {
        if let Some(name) = metric.name {
            let value = if metric.null { Ok(Typed::Null) } else { typed(DataType::of(metric.datatype), metric.value) };
            field(name, value, out);
        }
    }
    out.extend_from_slice(if first { b"{}" } else { b"}" });
    Ok(())
}
