//! A record of a file into a batch: a document, samples, or what a file sink wrote.

use crate::csv::Fields;
use crate::envelope;
use millrace_config::Reason;
use millrace_kit::extract::{Notation, Pointer};
use millrace_kit::{AllowedTopics, Encoding, Template};
use millrace_schemas::{Batch, Doc, Micros, RouteId, Span};
use serde::de::IgnoredAny;
use serde_json::Value as Json;
use std::path::Path;

/// What the fields of a CSV become.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FieldTypes {
    /// Numbers, booleans and empty fields become JSON's own; otherwise every field is a text.
    pub infer: bool,
    /// How numbers are written.
    pub notation: Notation,
    /// A record that is shorter than the header makes a document without the fields it lacks; otherwise it is an error.
    pub may_be_short: bool,
}

/// Appends a CSV record as a JSON object.
///
/// Errors: too few or too many fields, bytes that are not in the encoding.
pub fn write_object(columns: &[String], fields: &Fields, encoding: Encoding, types: FieldTypes, out: &mut Vec<u8>) -> Result<(), Reason> {
    check_width(columns, fields, types.may_be_short)?;
    for (index, column) in columns.iter().enumerate().take(fields.len()) {
        out.push(if index == 0 { b'{' } else { b',' });
        envelope::write_string(column, out);
        out.push(b':');
        let field = fields.get(index).unwrap_or_default();
        let text = encoding.field(field).map_err(|error| format!("column `{column}`: {error}"))?;
        if types.infer {
            write_inferred(&text, types.notation, out);
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

/// Whether a record has the header's fields; empty ones beyond are forgiven, missing ones where `may_be_short`.
pub fn check_width(columns: &[String], fields: &Fields, may_be_short: bool) -> Result<(), Reason> {
    let surplus_is_empty = (columns.len()..fields.len()).all(|i| fields.get(i).is_some_and(<[u8]>::is_empty));
    if fields.len() < columns.len() && !may_be_short || !surplus_is_empty {
        return Err(format!("{} fields, but the header has {}", fields.len(), columns.len()).into());
    }
    Ok(())
}

/// The fields of a record as UTF-8.
pub fn readable(fields: &Fields, encoding: Encoding, into: &mut Fields) -> Result<(), Reason> {
    fields.rewritten(into, |field, out| {
        out.extend_from_slice(encoding.field(field)?.as_bytes());
        Ok(())
    })
}

/// A number only where nothing is lost: `007` and `+1` are texts.
fn write_inferred(text: &str, notation: Notation, out: &mut Vec<u8>) {
    let trimmed = text.trim();
    match trimmed {
        "" => out.extend_from_slice(b"null"),
        "true" | "TRUE" | "True" => out.extend_from_slice(b"true"),
        "false" | "FALSE" | "False" => out.extend_from_slice(b"false"),
        _ => match notation.plain(trimmed).filter(|plain| serde_json::from_str::<serde_json::Number>(plain).is_ok()) {
            Some(number) => out.extend_from_slice(number.as_bytes()),
            None => envelope::write_string(text, out),
        },
    }
}

/// Where a record came from, for keys.
pub struct Origin<'a> {
    pub path: &'a Path,
}

/// What stands in braces in the key of a document.
#[derive(Clone, PartialEq, Debug)]
pub enum KeyPart {
    /// `{file}`: the file's name up to its first dot.
    File,
    /// `{/id}`: what a JSON Pointer leads to.
    Pointer(Pointer),
    /// `{serial}`: a column, or a field of the document.
    Field(Box<str>),
}

impl KeyPart {
    /// Reads what stands in braces. Errors: one line for a person.
    pub fn parse(name: &str) -> Result<Self, Reason> {
        match name {
            "" => Err("empty; write a column, a JSON pointer such as `{/id}`, or `{file}`".into()),
            "file" => Ok(Self::File),
            name if name.starts_with('/') => Pointer::parse(name).map(Self::Pointer),
            name => Ok(Self::Field(name.into())),
        }
    }
}

/// The file's name up to its first dot.
pub fn stem(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().to_owned()
}

/// Appends the key of a document.
pub fn write_key(template: &Template<KeyPart>, json: &[u8], origin: &Origin<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let needs_json = template.variables().any(|part| *part != KeyPart::File);
    let value = if needs_json { serde_json::from_slice(json).map_err(|e| format!("not JSON: {e}"))? } else { Json::Null };
    template.fill(out, |part, out| {
        let (found, name) = match part {
            KeyPart::File => {
                out.extend_from_slice(stem(origin.path).as_bytes());
                return Ok(());
            }
            KeyPart::Pointer(pointer) => (value.pointer(pointer.as_str()), pointer.as_str()),
            KeyPart::Field(name) => (value.get(&**name), &**name),
        };
        match found {
            Some(Json::String(text)) => out.extend_from_slice(text.as_bytes()),
            Some(scalar @ (Json::Number(_) | Json::Bool(_))) => out.extend_from_slice(scalar.to_string().as_bytes()),
            Some(Json::Null) => return Err(format!("the key's `{{{name}}}` is null").into()),
            Some(_) => return Err(format!("the key's `{{{name}}}` is no single value").into()),
            None => return Err(format!("the key's `{{{name}}}` is not there").into()),
        }
        Ok(())
    })
}

/// Whether a line is JSON. Errors: what is wrong, and where.
pub fn check_json(text: &str) -> Result<(), Reason> {
    serde_json::from_str::<IgnoredAny>(text).map(|_| ()).map_err(|error| format!("not JSON: {error}").into())
}

/// Appends the record of an envelope as it was in Kafka; to the envelope's own topic where `allowed` is there and allows it.
pub fn push_envelope(line: &[u8], allowed: Option<&AllowedTopics>, batch: &mut Batch) -> Result<(), Reason> {
    let envelope = envelope::read(line)?;
    allowed.map_or(Ok(()), |allowed| allowed.check(&envelope.topic))?;
    let key = batch.push_bytes(envelope.key.as_deref().unwrap_or_default());
    let headers = batch.push_headers(envelope.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())));
    let payload = envelope.value.map(|value| batch.push_bytes(&value));
    let topic = if allowed.is_some() { batch.push_bytes(envelope.topic.as_bytes()) } else { Span::EMPTY };
    let time = Micros(envelope.timestamp_ms.saturating_mul(1000));
    batch.docs.push(Doc { route: RouteId(0), time, key, headers, payload, topic });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csv::Dialect;

    fn object(columns: &[&str], record: &str, encoding: Encoding, infer: bool) -> Result<String, Reason> {
        let mut fields = Fields::default();
        Dialect { delimiter: b';', ..Dialect::default() }.split(record.as_bytes(), true, &mut fields);
        let columns: Vec<_> = columns.iter().map(ToString::to_string).collect();
        let mut out = Vec::new();
        write_object(
            &columns,
            &fields,
            encoding,
            FieldTypes { infer, notation: Notation { decimal: ',', grouping: None }, may_be_short: false },
            &mut out,
        )?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_csv_record_becomes_an_object() {
        let text = object(&["serial", "torque", "note"], "007;12,5;say \"hi\"", Encoding::default(), false).unwrap();
        assert_eq!(text, r#"{"serial":"007","torque":"12,5","note":"say \"hi\""}"#);
        let typed = object(&["serial", "torque", "ok", "n", "gap", "t"], "007;12,5;TRUE;-3;;1e5x", Encoding::default(), true).unwrap();
        assert_eq!(typed, r#"{"serial":"007","torque":12.5,"ok":true,"n":-3,"gap":null,"t":"1e5x"}"#);
    }

    #[test]
    fn a_record_that_does_not_fit_its_header_is_an_error() {
        assert_eq!(object(&["a", "b"], "1", Encoding::default(), false).unwrap_err(), "1 fields, but the header has 2");
        assert_eq!(object(&["a"], "1;2", Encoding::default(), false).unwrap_err(), "2 fields, but the header has 1");
        assert_eq!(object(&["a"], "1;;", Encoding::default(), false).unwrap(), r#"{"a":"1"}"#);
    }

    #[test]
    fn keys_come_from_columns_pointers_and_the_file() {
        let key = |text: &str| {
            let template = Template::read(text, KeyPart::parse).unwrap();
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
