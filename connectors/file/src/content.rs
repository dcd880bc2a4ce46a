//! A record of a file into a batch: a document, samples, or what a file sink wrote.

use crate::csv::Fields;
use crate::envelope;
use millrace_kit::Template;
use millrace_schemas::{Batch, Doc, Micros, RouteId, Span};
use serde::de::IgnoredAny;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::path::Path;

/// Which characters the bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// UTF-8; other bytes make a dead letter of the record.
    #[default]
    Utf8,
    /// What Windows writes in western Europe; ISO 8859-1 is a part of it. Any byte is a character.
    #[serde(rename = "windows-1252")]
    Windows1252,
}

/// The characters 0x80 to 0x9F of Windows-1252, in which it differs from ISO 8859-1; five are not assigned and stay control characters.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8D}', 'Ž', '\u{8F}', '\u{90}', '‘', '’', '“', '”', '•', '–',
    '—', '˜', '™', 'š', '›', 'œ', '\u{9D}', 'ž', 'Ÿ',
];

impl Encoding {
    pub fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>, String> {
        match self {
            Self::Utf8 => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|error| {
                let at = error.valid_up_to();
                format!("byte 0x{:02X} at {at} is no UTF-8; set `encoding: windows-1252` if a western Windows wrote it", bytes[at])
            }),
            Self::Windows1252 if bytes.is_ascii() => Self::Utf8.decode(bytes),
            Self::Windows1252 => {
                let character = |byte: &u8| match byte {
                    0x80..=0x9F => WINDOWS_1252[usize::from(byte - 0x80)],
                    byte => char::from(*byte),
                };
                Ok(Cow::Owned(bytes.iter().map(character).collect()))
            }
        }
    }
}

/// What the fields of a CSV become.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FieldTypes {
    /// Numbers, booleans and empty fields become JSON's own; otherwise every field is a text.
    pub infer: bool,
    /// The decimal comma, where numbers are written with one.
    pub decimal: u8,
}

/// Appends a CSV record as a JSON object.
///
/// Errors: too few or too many fields, bytes that are not in the encoding.
pub fn write_object(columns: &[String], fields: &Fields, encoding: Encoding, types: FieldTypes, out: &mut Vec<u8>) -> Result<(), String> {
    check_width(columns, fields)?;
    for (index, column) in columns.iter().enumerate() {
        out.push(if index == 0 { b'{' } else { b',' });
        envelope::write_string(column, out);
        out.push(b':');
        let field = fields.get(index).unwrap_or_default();
        let text = encoding.decode(field).map_err(|error| format!("column `{column}`: {error}"))?;
        if types.infer {
            write_inferred(&text, types.decimal, out);
        } else {
            envelope::write_string(&text, out);
        }
    }
    if columns.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(())
}

/// Whether a record has the header's fields; empty ones beyond are forgiven.
pub fn check_width(columns: &[String], fields: &Fields) -> Result<(), String> {
    let surplus_is_empty = (columns.len()..fields.len()).all(|i| fields.get(i).is_some_and(<[u8]>::is_empty));
    if fields.len() < columns.len() || !surplus_is_empty {
        return Err(format!("{} fields, but the header has {}", fields.len(), columns.len()));
    }
    Ok(())
}

/// The fields of a record as UTF-8, decimal commas as points.
pub fn readable(fields: &Fields, encoding: Encoding, decimal: u8, into: &mut Fields) -> Result<(), String> {
    fields.rewritten(into, |field, out| {
        let text = encoding.decode(field)?;
        let start = out.len();
        out.extend_from_slice(text.as_bytes());
        let is_number =
            text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_whitespace() || matches!(b, b'-' | b'+' | b'e' | b'E') || b == decimal);
        if decimal != b'.' && is_number {
            out[start..].iter_mut().filter(|b| **b == decimal).for_each(|b| *b = b'.');
        }
        Ok(())
    })
}

/// A number only where nothing is lost: `007` and `+1` are texts.
fn write_inferred(text: &str, decimal: u8, out: &mut Vec<u8>) {
    let trimmed = text.trim();
    match trimmed {
        "" => out.extend_from_slice(b"null"),
        "true" | "TRUE" | "True" => out.extend_from_slice(b"true"),
        "false" | "FALSE" | "False" => out.extend_from_slice(b"false"),
        _ => {
            let may_be_number = trimmed.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'e' | b'E') || b == decimal);
            let start = out.len();
            out.extend(trimmed.bytes().map(|b| if b == decimal { b'.' } else { b }));
            let is_number = may_be_number && serde_json::from_slice::<serde_json::Number>(&out[start..]).is_ok();
            if !is_number {
                out.truncate(start);
                envelope::write_string(text, out);
            }
        }
    }
}

/// Where a record came from, for keys.
pub struct Origin<'a> {
    pub path: &'a Path,
}

/// The names a key template may have: `{file}`, `{column}`, `{/json/pointer}`.
pub fn is_known_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("empty; write a column, a JSON pointer such as `{/id}`, or `{file}`".into());
    }
    Ok(())
}

/// Appends the key of a document.
pub fn write_key(template: &Template, json: &[u8], origin: &Origin<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let needs_json = template.names().any(|name| name != "file");
    let value = if needs_json { serde_json::from_slice(json).map_err(|e| format!("not JSON: {e}"))? } else { Json::Null };
    template.render(out, |name, out| {
        if name == "file" {
            let file = origin.path.file_name().unwrap_or_default().to_string_lossy();
            let stem = file.split('.').next().unwrap_or_default();
            out.extend_from_slice(stem.as_bytes());
            return Ok(());
        }
        let found = if name.starts_with('/') { value.pointer(name) } else { value.get(name) };
        match found {
            Some(Json::String(text)) => out.extend_from_slice(text.as_bytes()),
            Some(scalar @ (Json::Number(_) | Json::Bool(_))) => out.extend_from_slice(scalar.to_string().as_bytes()),
            Some(Json::Null) => return Err(format!("the key's `{{{name}}}` is null")),
            Some(_) => return Err(format!("the key's `{{{name}}}` is no single value")),
            None => return Err(format!("the key's `{{{name}}}` is not there")),
        }
        Ok(())
    })
}

/// Whether a line is JSON. Errors: what is wrong, and where.
pub fn check_json(text: &str) -> Result<(), String> {
    serde_json::from_str::<IgnoredAny>(text).map(|_| ()).map_err(|error| format!("not JSON: {error}"))
}

/// Appends the record of an envelope as it was in Kafka. `topic_of` says whether the envelope's topic is used.
pub fn push_envelope(line: &[u8], with_topic: bool, batch: &mut Batch) -> Result<(), String> {
    let envelope = envelope::read(line)?;
    let key = batch.push_bytes(envelope.key.as_deref().unwrap_or_default());
    let headers = batch.push_headers(envelope.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())));
    let payload = envelope.value.map(|value| batch.push_bytes(&value));
    let topic = if with_topic { batch.push_bytes(envelope.topic.as_bytes()) } else { Span::EMPTY };
    let time = Micros(envelope.timestamp_ms.saturating_mul(1000));
    batch.docs.push(Doc { route: RouteId(0), time, key, headers, payload, topic });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csv::Dialect;
    use millrace_config::{Place, Problems};

    fn object(columns: &[&str], record: &str, encoding: Encoding, infer: bool) -> Result<String, String> {
        let mut fields = Fields::default();
        Dialect { delimiter: b';', quote: b'"' }.split(record.as_bytes(), true, &mut fields);
        let columns: Vec<_> = columns.iter().map(ToString::to_string).collect();
        let mut out = Vec::new();
        write_object(&columns, &fields, encoding, FieldTypes { infer, decimal: b',' }, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_csv_record_becomes_an_object() {
        let text = object(&["serial", "torque", "note"], "007;12,5;say \"hi\"", Encoding::Utf8, false).unwrap();
        assert_eq!(text, r#"{"serial":"007","torque":"12,5","note":"say \"hi\""}"#);
        let typed = object(&["serial", "torque", "ok", "n", "gap", "t"], "007;12,5;TRUE;-3;;1e5x", Encoding::Utf8, true).unwrap();
        assert_eq!(typed, r#"{"serial":"007","torque":12.5,"ok":true,"n":-3,"gap":null,"t":"1e5x"}"#);
    }

    #[test]
    fn a_record_that_does_not_fit_its_header_is_an_error() {
        assert_eq!(object(&["a", "b"], "1", Encoding::Utf8, false).unwrap_err(), "1 fields, but the header has 2");
        assert_eq!(object(&["a"], "1;2", Encoding::Utf8, false).unwrap_err(), "2 fields, but the header has 1");
        assert_eq!(object(&["a"], "1;;", Encoding::Utf8, false).unwrap(), r#"{"a":"1"}"#);
    }

    #[test]
    fn bytes_are_read_in_their_encoding() {
        assert_eq!(Encoding::Windows1252.decode(b"80 \x80 \xE4").unwrap(), "80 € ä");
        assert!(Encoding::Utf8.decode(b"a\xE4").unwrap_err().starts_with("byte 0xE4 at 1 is no UTF-8"));
    }

    #[test]
    fn keys_come_from_columns_pointers_and_the_file() {
        let key = |text: &str| {
            let template = Template::parse(text, Place::default(), &mut Problems::new(), is_known_name).unwrap();
            let mut out = Vec::new();
            let origin = Origin { path: Path::new("/in/stand-1.csv.gz") };
            write_key(&template, br#"{"id":"a","n":{"x":7},"gap":null}"#, &origin, &mut out)?;
            Ok::<_, String>(String::from_utf8(out).unwrap())
        };
        assert_eq!(key("{file}/{id}-{/n/x}").unwrap(), "stand-1/a-7");
        assert_eq!(key("{gap}").unwrap_err(), "the key's `{gap}` is null");
        assert_eq!(key("{n}").unwrap_err(), "the key's `{n}` is no single value");
        assert_eq!(key("{serial}").unwrap_err(), "the key's `{serial}` is not there");
    }
}
