//! A record's JSON as the service wants it: each value in the form of its version, exact.
//!
//! | EDM | from | V4 | V2 |
//! |---|---|---|---|
//! | Int64, Decimal | number or text | number | text |
//! | DateTime, Date (V2) | `2026-07-01T08:00:00` | - | `/Date(ms)/` |
//! | DateTimeOffset | `2026-07-01T08:00:00Z` | the same | `/Date(ms+0000)/` |
//! | Time (V2) | `13:20:00` | - | `PT13H20M00S` |
//! | Binary | base64 | base64url | base64 |
//!
//! What `$metadata` does not know is passed on as it is: the service says what it thinks of it.

use crate::metadata::Version;
use crate::shape::{Record, Shape};
use crate::values::{Wrong, number};
use millrace_schemas::json::encode_text;
use millrace_schemas::scan::{Next, Scanner};

/// Writes a document for a request. `without`: properties that stand in the URL.
///
/// Errors: it is not a JSON object, or a value is not of its type; with its place.
pub fn body(text: &[u8], record: &Record, version: Version, without: &[&str]) -> Result<Vec<u8>, Wrong> {
    let mut scanner = Scanner::new(text)?;
    let mut out = Vec::with_capacity(text.len() + 16);
    object(&mut scanner, record, version, without, &mut out)?;
    scanner.end()?;
    Ok(out)
}

fn wrong(name: &str, what: impl Into<String>) -> Wrong {
    Wrong { path: name.to_owned(), what: what.into() }
}

fn object(s: &mut Scanner<'_>, record: &Record, version: Version, without: &[&str], out: &mut Vec<u8>) -> Result<(), Wrong> {
    if s.peek()? != Next::Object {
        return Err(wrong("", "the record is not a JSON object"));
    }
    s.open()?;
    out.push(b'{');
    let (mut first, mut is_empty) = (true, true);
    while let Some(key) = s.next_key(std::mem::take(&mut first))? {
        let key = key.cow();
        if without.contains(&&*key) {
            s.skip()?;
            continue;
        }
        if !std::mem::take(&mut is_empty) {
            out.push(b',');
        }
        encode_text(&key, out);
        out.push(b':');
        match record.index(&key) {
            Some(at) => value(s, &key, &record.fields[at].shape, version, out)?,
            None => out.extend_from_slice(s.skip()?.as_bytes()),
        }
    }
    out.push(b'}');
    Ok(())
}

fn value(s: &mut Scanner<'_>, name: &str, shape: &Shape, version: Version, out: &mut Vec<u8>) -> Result<(), Wrong> {
    let next = s.peek()?;
    let v2 = version == Version::V2;
    match (shape, next) {
        (_, Next::Null) => out.extend_from_slice(s.skip()?.as_bytes()),
        (Shape::Record(record), Next::Object) => {
            object(s, record, version, &[], out).map_err(|inner| wrong(&format!("{name}/{}", inner.path), inner.what))?;
        }
        (Shape::List(item), Next::Array) => {
            s.open()?;
            out.push(b'[');
            let mut first = true;
            loop {
                let is_first = std::mem::take(&mut first);
                if !s.next_item(is_first)? {
                    break;
                }
                if !is_first {
                    out.push(b',');
                }
                value(s, name, item, version, out)?;
            }
            out.push(b']');
        }
        (Shape::Int | Shape::Long | Shape::Decimal(_), Next::Number | Next::Text) => {
            let text = s.skip()?;
            let number = number(text).ok_or_else(|| wrong(name, format!("{text} is not a number")))?;
            match v2 && !matches!(shape, Shape::Int) {
                true => encode_text(&number, out),
                false => out.extend_from_slice(number.as_bytes()),
            }
        }
        (Shape::Double, Next::Number) if v2 => {
            let text = s.skip()?;
            encode_text(text, out);
        }
        (Shape::LocalTime | Shape::Date | Shape::DateOfMoment | Shape::Moment(_), Next::Text) if v2 => {
            let text = s.text()?.cow();
            let bad = || wrong(name, format!("`{text}` is not a date with time"));
            let ms = match shape {
                Shape::Moment(_) => text.parse::<jiff::Timestamp>().map_err(|_| bad())?.as_millisecond(),
                _ => {
                    // `2026-07-01`, with a time or without; an offset is none of it.
                    let civil = text.trim_end_matches('Z').parse::<jiff::civil::DateTime>().map_err(|_| bad())?;
                    civil.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| bad())?.timestamp().as_millisecond()
                }
            };
            let offset = if matches!(shape, Shape::Moment(_)) { "+0000" } else { "" };
            encode_text(&format!("/Date({ms}{offset})/"), out);
        }
        (Shape::Time, Next::Text) => {
            let text = s.text()?.cow();
            match text.parse::<jiff::civil::Time>() {
                Ok(time) => encode_text(&format!("PT{:02}H{:02}M{:02}S", time.hour(), time.minute(), time.second()), out),
                Err(_) if text.starts_with("PT") => encode_text(&text, out),
                Err(_) => return Err(wrong(name, format!("`{text}` is not a time of day"))),
            }
        }
        (Shape::Binary, Next::Text) if !v2 => {
            let text = s.text()?.cow();
            encode_text(&text.replace('+', "-").replace('/', "_"), out);
        }
        (Shape::Text | Shape::Guid, Next::Number) => encode_text(s.skip()?, out),
        _ => out.extend_from_slice(s.skip()?.as_bytes()),
    }
    Ok(())
}
