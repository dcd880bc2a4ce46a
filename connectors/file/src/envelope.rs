//! One record of Kafka as one line of JSON, for air gaps and data diodes: written by the sink, read back by the source.
//!
//! ```text
//! {"topic":"orders","partition":0,"offset":42,"timestamp":1750000000000,"key":"4711","headers":[["trace","a1"]],"value":{"id":4711}}
//!
//! key, value     JSON text as it is: `key`, where it is UTF-8, is a JSON string; `value`, where it is JSON, stands as it came
//! *_text         a value that is UTF-8 and not JSON (or JSON with blanks or newlines around or inside)
//! *_base64       bytes that are not UTF-8
//! neither        key: none; value: a tombstone
//! headers        [name, text], [name, null], or [name, {"base64": ".."}]; left out where there are none
//! timestamp      milliseconds since 1970, as Kafka has it
//! ```
//!
//! Key, value and headers come back byte for byte.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use millrace_config::Reason;
use millrace_contract::{Record, Records};
use millrace_schemas::record::headers;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io::Write;

/// Appends a record as a line, with its newline.
pub fn write(records: &Records, record: &Record, out: &mut Vec<u8>) {
    let part = records.partition(record);
    out.extend_from_slice(b"{\"topic\":");
    write_string(&part.topic, out);
    // Writing to memory can't fail.
    let _ = write!(out, ",\"partition\":{},\"offset\":{},\"timestamp\":{}", part.partition, record.offset, record.timestamp_ms);
    if let Some(key) = record.key {
        match std::str::from_utf8(records.of(key)) {
            Ok(text) => {
                out.extend_from_slice(b",\"key\":");
                write_string(text, out);
            }
            Err(_) => write_base64("key_base64", records.of(key), out),
        }
    }
    let mut separator: &[u8] = b",\"headers\":[";
    for (name, value) in headers(records.of(record.headers)) {
        out.extend_from_slice(separator);
        separator = b",";
        out.push(b'[');
        write_string(name, out);
        out.push(b',');
        match value.map(std::str::from_utf8) {
            None => out.extend_from_slice(b"null"),
            Some(Ok(text)) => write_string(text, out),
            Some(Err(_)) => {
                out.extend_from_slice(b"{\"base64\":\"");
                out.extend_from_slice(BASE64_STANDARD.encode(value.unwrap_or_default()).as_bytes());
                out.extend_from_slice(b"\"}");
            }
        }
        out.push(b']');
    }
    if separator == b"," {
        out.push(b']');
    }
    if let Some(value) = record.value {
        let bytes = records.of(value);
        match std::str::from_utf8(bytes) {
            Err(_) => write_base64("value_base64", bytes, out),
            Ok(text) if stands_as_it_is(text) => {
                out.extend_from_slice(b",\"value\":");
                out.extend_from_slice(bytes);
            }
            Ok(text) => {
                out.extend_from_slice(b",\"value_text\":");
                write_string(text, out);
            }
        }
    }
    out.extend_from_slice(b"}\n");
}

/// JSON that a line can hold and that comes back byte for byte.
fn stands_as_it_is(text: &str) -> bool {
    !text.contains(['\n', '\r']) && text.trim().len() == text.len() && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn write_base64(name: &str, bytes: &[u8], out: &mut Vec<u8>) {
    let _ = write!(out, ",\"{name}\":\"{}\"", BASE64_STANDARD.encode(bytes));
}

/// Appends a JSON string.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    // A string always serialises, and memory always takes it.
    let _ = serde_json::to_writer(out, text);
}

/// A line as it was written.
#[derive(Debug, PartialEq)]
pub struct Envelope {
    pub topic: String,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub value: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    topic: String,
    #[serde(rename = "partition")]
    _partition: i32,
    #[serde(rename = "offset")]
    _offset: i64,
    timestamp: i64,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    headers: Vec<(String, Option<HeaderValue>)>,
    #[serde(borrow, default)]
    value: Present<'a>,
    value_text: Option<String>,
    value_base64: Option<String>,
}

/// A value's own JSON, where the field is there at all: `null` is a value too.
#[derive(Default)]
struct Present<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Present<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Self(Some(Cow::Borrowed(raw.get()))))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Text(String),
    Bytes { base64: String },
}

/// Reads a line back. Errors: what is wrong with it.
pub fn read(line: &[u8]) -> Result<Envelope, Reason> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|e| format!("no record as the file sink writes it: {e}"))?;
    let bytes = |name: &str, text: String| BASE64_STANDARD.decode(text).map_err(|e| format!("`{name}` is no base64: {e}"));
    let mut headers = Vec::with_capacity(line.headers.len());
    for (name, value) in line.headers {
        let value = match value {
            None => None,
            Some(HeaderValue::Text(text)) => Some(text.into_bytes()),
            Some(HeaderValue::Bytes { base64 }) => Some(bytes("headers", base64)?),
        };
        headers.push((name, value));
    }
    let key = match (line.key, line.key_base64) {
        (Some(text), _) => Some(text.into_bytes()),
        (None, Some(text)) => Some(bytes("key_base64", text)?),
        (None, None) => None,
    };
    let value = match (line.value.0, line.value_text, line.value_base64) {
        (Some(json), _, _) => Some(json.into_owned().into_bytes()),
        (None, Some(text), _) => Some(text.into_bytes()),
        (None, None, Some(text)) => Some(bytes("value_base64", text)?),
        (None, None, None) => None,
    };
    Ok(Envelope { topic: line.topic, timestamp_ms: line.timestamp, key, headers, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_contract::Partition;
    use millrace_schemas::{Span, push_header};

    fn round_trip(key: Option<&[u8]>, value: Option<&[u8]>, with: &[(&str, Option<&[u8]>)]) -> (String, Envelope) {
        let mut records = Records { parts: vec![Partition { topic: "orders".into(), partition: 3 }], ..Records::default() };
        let mut push = |bytes: &[u8]| {
            let start = records.heap.len() as u32;
            records.heap.extend_from_slice(bytes);
            Span { start, len: bytes.len() as u32 }
        };
        let (key_span, value_span) = (key.map(&mut push), value.map(&mut push));
        let mut encoded = Vec::new();
        with.iter().for_each(|(name, value)| push_header(&mut encoded, name, *value));
        let headers = push(&encoded);
        let record = Record { part: 0, offset: 42, timestamp_ms: 1_750_000_000_123, key: key_span, value: value_span, headers, prefix: 0 };
        let mut line = Vec::new();
        write(&records, &record, &mut line);
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1, "one line");
        let envelope = read(&line).unwrap();
        assert_eq!((envelope.topic.as_str(), envelope.timestamp_ms), ("orders", 1_750_000_000_123));
        assert_eq!((envelope.key.as_deref(), envelope.value.as_deref()), (key, value));
        let expected: Vec<_> = with.iter().map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec))).collect();
        assert_eq!(envelope.headers, expected);
        (String::from_utf8(line).unwrap(), envelope)
    }

    #[test]
    fn a_json_value_stands_as_it_came() {
        let (line, _) = round_trip(Some(b"4711"), Some(br#"{"id":4711, "a":[1.10,null]}"#), &[("trace", Some(b"a1"))]);
        let expected = r#"{"topic":"orders","partition":3,"offset":42,"timestamp":1750000000123,"key":"4711","headers":[["trace","a1"]],"value":{"id":4711, "a":[1.10,null]}}"#;
        assert_eq!(line.trim_end(), expected);
    }

    #[test]
    fn every_kind_of_bytes_comes_back() {
        for value in
            [&b"null"[..], b"", b"plain text", b" 1 ", b"[1,\n2]", b"\"quoted\"", b"\xff\x00", "\u{2028}ä".as_bytes(), b"{\"a\":1}\r"]
        {
            round_trip(Some(value), Some(value), &[("h", Some(value)), ("h", None)]);
        }
    }

    #[test]
    fn a_tombstone_is_not_a_null() {
        assert_eq!(round_trip(Some(b"k"), None, &[]).1.value, None);
        assert_eq!(round_trip(None, Some(b"null"), &[]).1.value.as_deref(), Some(&b"null"[..]));
    }

    #[test]
    fn a_foreign_line_is_an_error() {
        assert!(read(b"{\"a\":1}").unwrap_err().contains("missing field"));
        assert!(read(b"hello").is_err());
        assert!(read(br#"{"topic":"t","partition":0,"offset":0,"timestamp":0,"value_base64":"?"}"#).unwrap_err().contains("no base64"));
    }
}
