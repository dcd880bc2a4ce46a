//! Values in URLs: keys and comparisons, as each version writes them.

use crate::metadata::Version;
use crate::shape::{Record, Shape};
use serde_json::Value;
use std::fmt::Write;

/// A value of a document as a literal of a URL, not yet percent-encoded; `None`: it is no value of that type.
///
/// | | V4 | V2 |
/// |---|---|---|
/// | text | `'it''s'` | `'it''s'` |
/// | guid | `0191..` | `guid'0191..'` |
/// | Int64, Decimal | `5`, `12.5` | `5L`, `12.5M` |
/// | date, moment | `2026-07-01`, `2026-07-01T08:00:00Z` | `datetime'..'`, `datetimeoffset'..'` |
pub fn of(value: &Value, shape: &Shape, version: Version) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        _ => return None,
    };
    let v2 = version == Version::V2;
    Some(match shape {
        Shape::Text | Shape::Json => format!("'{}'", text.replace('\'', "''")),
        Shape::Guid if v2 => format!("guid'{text}'"),
        Shape::Long if v2 => format!("{text}L"),
        Shape::Decimal(_) if v2 => format!("{text}M"),
        Shape::Date | Shape::DateOfMoment if v2 => format!("datetime'{text}T00:00:00'"),
        Shape::LocalTime if v2 => format!("datetime'{text}'"),
        Shape::Moment(_) if v2 => format!("datetimeoffset'{text}'"),
        Shape::Binary | Shape::Record(_) | Shape::List(_) => return None,
        _ => text,
    })
}

/// The key in parentheses: `(5)`, `(Plant='1010',Material='..')`. `None`: a part is missing.
pub fn key(document: &Value, record: &Record, version: Version) -> Option<String> {
    let mut parts = String::new();
    for (n, index) in record.keys.iter().enumerate() {
        let field = &record.fields[*index];
        let value = of(document.get(&field.name)?, &field.shape, version)?;
        // A slash or a question mark would end the path.
        let value = crate::service::escape(&value).replace('/', "%2F");
        let comma = if n > 0 { "," } else { "" };
        let _ = match record.keys.len() {
            1 => write!(parts, "{value}"),
            _ => write!(parts, "{comma}{}={value}", field.name),
        };
    }
    (!record.keys.is_empty()).then(|| format!("({parts})"))
}

/// The key's values out of an entity's id: `https://host/Orders(ID=5,Plant='a''b')`. `None`: it is none.
pub fn key_of_id(id: &str, record: &Record) -> Option<Value> {
    let inner = id.trim_end_matches('/').strip_suffix(')')?;
    let inner = &inner[inner.rfind('/').map_or(0, |at| if inner[at..].contains('(') { at } else { 0 })..];
    let inner = percent_decoded(&inner[inner.find('(')? + 1..])?;
    let mut values = serde_json::Map::new();
    let mut parts = Vec::new();
    let (mut start, mut in_text) = (0, false);
    for (at, c) in inner.char_indices() {
        match c {
            '\'' => in_text = !in_text,
            ',' if !in_text => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    for (n, part) in parts.iter().enumerate() {
        let name = record.keys.get(n).map(|index| record.fields[*index].name.as_str())?;
        let (name, literal) = match part.split_once('=') {
            Some((name, literal)) if !name.contains('\'') => (name.trim(), literal),
            _ => (name, *part),
        };
        let field = &record.fields[record.index(name)?];
        let text = match literal.find('\'') {
            Some(at) => literal[at + 1..].strip_suffix('\'')?.replace("''", "'"),
            None => literal.to_owned(),
        };
        let value = match field.shape {
            Shape::Int | Shape::Long | Shape::Decimal(Some(_)) => serde_json::from_str(text.trim_end_matches(['L', 'l', 'M', 'm'])).ok()?,
            Shape::Bool => Value::Bool(text == "true"),
            _ => Value::String(text),
        };
        values.insert(name.to_owned(), value);
    }
    (values.len() == record.keys.len()).then_some(Value::Object(values))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let hex = [bytes.next()?, bytes.next()?];
                out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}
