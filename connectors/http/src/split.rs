//! The records in a body: one JSON value, a list of them, lines, or CloudEvents in each of their modes.
//!
//! ```text
//! application/json                       a value; a list where the route takes its items one by one
//! application/x-ndjson, jsonl            a value on each line
//! application/json with ce-id: ..        a CloudEvent in binary mode: attributes in headers, data is the body
//! application/cloudevents+json           structured mode: attributes beside `data`
//! application/cloudevents-batch+json     a list of those
//! ```
//!
//! A CloudEvent becomes the record of Kafka's binary binding, however it came: `data` as it stands, attributes as headers `ce_*`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::CONTENT_TYPE;
use millrace_config::Reason;
use millrace_schemas::scan::{Next, Scanner};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::ops::Range;

/// How the records of a route are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// As the `Content-Type` says.
    #[default]
    Auto,
    /// JSON, whatever the `Content-Type` says.
    Json,
    /// A JSON value on each line, whatever the `Content-Type` says.
    Ndjson,
}

/// One record of a post.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Record {
    /// Where it stands in the body.
    pub at: Range<usize>,
    /// Its line, or its place in the list, from 1.
    pub number: u32,
    pub event: Option<Box<Event>>,
}

/// What a CloudEvent has beside its data.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Event {
    /// `ce_id`, `ce_source`, ..: the names of Kafka's binding.
    pub attributes: Vec<(String, String)>,
    /// Its data, where it stood as base64.
    pub data: Option<Vec<u8>>,
    /// `source` and `id`: the same event again is the same.
    pub identity: String,
    pub partition_key: Option<String>,
}

/// Why a body holds no records: a status and a reason for the sender.
pub type Unfit = (u16, String);

/// Finds the records of a body. `takes_lists`: a list is one record, not many.
pub fn split(format: Format, takes_lists: bool, headers: &HeaderMap, body: &[u8]) -> Result<Vec<Record>, Unfit> {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let whole = || Record { at: 0..body.len(), number: 1, event: None };
    let is_json = kind == "application/json" || kind.ends_with("+json") || kind == "text/json";
    match (format, kind.as_str()) {
        (Format::Ndjson, _) => Ok(lines(body)),
        (_, "application/cloudevents+json") => event(body, 0..body.len(), 1).map(|record| vec![record]).map_err(|why| (400, why.into())),
        (_, "application/cloudevents-batch+json") => {
            let mut records = items(body)?;
            for record in &mut records {
                let number = record.number;
                *record = event(body, record.at.clone(), number).map_err(|why| (400, format!("event {number}: {why}")))?;
            }
            Ok(records)
        }
        (_, _) if headers.contains_key("ce-specversion") => {
            if !is_json && format == Format::Auto {
                return Err((415, format!("the event's data is `{kind}`; only JSON is taken")));
            }
            let event = in_headers(headers).map_err(|why| (400, why.into()))?;
            Ok(vec![Record { event: Some(Box::new(event)), ..whole() }])
        }
        (Format::Auto, "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines") => Ok(lines(body)),
        (Format::Json, _) | (Format::Auto, _) if is_json || format == Format::Json => {
            if takes_lists || body.trim_ascii_start().first() != Some(&b'[') {
                return Ok(vec![whole()]);
            }
            items(body)
        }
        _ => Err((
            415,
            format!("the content type `{kind}` is not taken; send application/json or application/x-ndjson, or set the route's `format`"),
        )),
    }
}

fn lines(body: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut start = 0;
    for (number, line) in body.split(|byte| *byte == b'\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            records.push(Record { at: start..start + line.len(), number: number as u32 + 1, event: None });
        }
        start += line.len() + 1;
    }
    records
}

fn items(body: &[u8]) -> Result<Vec<Record>, Unfit> {
    let mut records = Vec::new();
    let mut read = || {
        let mut scanner = Scanner::new(body)?;
        if scanner.peek()? != Next::Array {
            return Err(scanner.error("expected a list"));
        }
        scanner.open()?;
        while scanner.next_item(records.is_empty())? {
            let item = scanner.skip()?;
            records.push(Record { at: within(body, item), number: records.len() as u32 + 1, event: None });
        }
        scanner.end()
    };
    read().map_err(|error| (400, format!("the body cannot be read as JSON: {error}")))?;
    Ok(records)
}

/// Where a piece of the body stands in it.
fn within(body: &[u8], piece: &str) -> Range<usize> {
    let start = piece.as_ptr() as usize - body.as_ptr() as usize;
    start..start + piece.len()
}

/// A CloudEvent in structured mode.
fn event(body: &[u8], at: Range<usize>, number: u32) -> Result<Record, Reason> {
    let fields: BTreeMap<String, &RawValue> =
        serde_json::from_slice(&body[at]).map_err(|error| format!("the event cannot be read as a JSON object: {error}"))?;
    let mut event = Event::default();
    let mut data = 0..0;
    for (name, value) in &fields {
        match name.as_str() {
            "data" => data = within(body, value.get()),
            "data_base64" => {
                let text: String = serde_json::from_str(value.get()).map_err(|_| "`data_base64` is not a text".to_owned())?;
                event.data = Some(STANDARD.decode(text).map_err(|error| format!("`data_base64` is not base64: {error}"))?);
            }
            name => {
                let text = match serde_json::from_str(value.get()) {
                    Ok(serde_json::Value::String(text)) => text,
                    Ok(serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => value.get().to_owned(),
                    Ok(serde_json::Value::Null) => continue,
                    _ => return Err(format!("the attribute `{name}` is a list or an object").into()),
                };
                event.set(name, text)?;
            }
        }
    }
    event.finish()?;
    Ok(Record { at: data, number, event: Some(Box::new(event)) })
}

/// A CloudEvent in binary mode.
fn in_headers(headers: &HeaderMap) -> Result<Event, Reason> {
    let mut event = Event::default();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("ce-") else { continue };
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| format!("the header `ce-{name}` is not UTF-8"))?;
        let text = if text.contains('%') { crate::path::decode(text)? } else { text.to_owned() };
        event.set(name, text)?;
    }
    event.finish()?;
    Ok(event)
}

impl Event {
    fn set(&mut self, name: &str, text: String) -> Result<(), Reason> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
            return Err(format!("`{}` is no name of an attribute", name.escape_debug()).into());
        }
        if name == "partitionkey" {
            self.partition_key = Some(text.clone());
        }
        let name = if name == "datacontenttype" { "content-type".to_owned() } else { format!("ce_{name}") };
        self.attributes.push((name, text));
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Reason> {
        let of = |name: &str| {
            self.attributes.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str()).filter(|text| !text.is_empty())
        };
        for name in ["ce_specversion", "ce_id", "ce_source", "ce_type"] {
            if of(name).is_none() {
                return Err(format!("the event has no `{}`", &name[3..]).into());
            }
        }
        self.identity = format!("{}\0{}", of("ce_source").unwrap_or_default(), of("ce_id").unwrap_or_default());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderName;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn found(kind: &str, body: &str) -> Result<Vec<String>, Unfit> {
        let records = split(Format::Auto, false, &headers(&[("content-type", kind)]), body.as_bytes())?;
        Ok(records.into_iter().map(|record| format!("{} {}", record.number, &body[record.at])).collect())
    }

    #[test]
    fn values_lists_and_lines_are_told_apart_by_the_content_type() {
        assert_eq!(found("application/json", " {\"a\":[1]} ").unwrap(), ["1  {\"a\":[1]} "]);
        assert_eq!(found("application/json; charset=utf-8", "[{\"a\":1}, 2]").unwrap(), ["1 {\"a\":1}", "2 2"]);
        assert_eq!(found("application/x-ndjson", "{}\r\n\n{\"a\":\"\\n\"}\n{").unwrap(), ["1 {}\r", "3 {\"a\":\"\\n\"}", "4 {"]);
        assert_eq!(found("application/json", "[1,").unwrap_err().0, 400);
        assert_eq!(found("application/x-www-form-urlencoded", "{}").unwrap_err().0, 415);
        let whole = split(Format::Json, true, &HeaderMap::new(), b"[1,2]").unwrap();
        assert_eq!(whole[0].at, 0..5);
    }

    #[test]
    fn an_event_is_the_same_in_each_mode() {
        // The example of the CloudEvents specification 1.0.2, JSON format, section 3.
        let body = r#"{"specversion":"1.0","type":"com.example.someevent","source":"/mycontext","id":"A234-1234-1234","time":"2018-04-05T17:31:00Z","comexampleextension1":"value","comexampleothervalue":5,"partitionkey":"k","datacontenttype":"application/json","data":{"appinfoA":"abc"}}"#;
        let structured =
            split(Format::Auto, false, &headers(&[("content-type", "application/cloudevents+json")]), body.as_bytes()).unwrap();
        assert_eq!(&body[structured[0].at.clone()], "{\"appinfoA\":\"abc\"}");
        let event = structured[0].event.as_ref().unwrap();
        assert_eq!((event.identity.as_str(), event.partition_key.as_deref()), ("/mycontext\0A234-1234-1234", Some("k")));
        assert!(event.attributes.contains(&("ce_comexampleothervalue".into(), "5".into())));
        let binary = headers(&[
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-type", "com.example.someevent"),
            ("ce-source", "/mycontext"),
            ("ce-id", "A234-1234-1234"),
        ]);
        let binary = split(Format::Auto, false, &binary, b"{}").unwrap();
        assert_eq!(binary[0].event.as_ref().unwrap().identity, event.identity);
        let batch = format!("[{body}, {body}]");
        let batch =
            split(Format::Auto, false, &headers(&[("content-type", "application/cloudevents-batch+json")]), batch.as_bytes()).unwrap();
        assert_eq!(batch.len(), 2);
        let encoded = br#"{"specversion":"1.0","type":"t","source":"s","id":"1","data_base64":"e30="}"#;
        let encoded = split(Format::Auto, false, &headers(&[("content-type", "application/cloudevents+json")]), encoded).unwrap();
        assert_eq!(encoded[0].event.as_ref().unwrap().data.as_deref(), Some(&b"{}"[..]));
    }

    #[test]
    fn an_event_without_what_it_needs_says_what() {
        let lacking = headers(&[("content-type", "application/json"), ("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-type", "t")]);
        assert_eq!(split(Format::Auto, false, &lacking, b"{}").unwrap_err(), (400, "the event has no `source`".into()));
        let kind = headers(&[("content-type", "application/cloudevents+json")]);
        for wrong in ["[]", "{\"id\":[]}", "{\"data_base64\":1}", "{\"a-b\":\"\"}", ""] {
            assert_eq!(split(Format::Auto, false, &kind, wrong.as_bytes()).unwrap_err().0, 400, "{wrong}");
        }
    }
}
