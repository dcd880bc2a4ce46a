//! An entity as the service writes it becomes a document: control information away, each value in the form that [`crate::shape`] says, exact.
//!
//! Nothing goes through a float: numbers stay the texts they are, leading zeros of texts stay. What is not what `$metadata` says is a
//! [`Wrong`]: a dead letter with the entity as it came. A property that `$metadata` does not know is passed on as it is.

use crate::metadata::Version;
use crate::moment;
use crate::shape::{Record, Shape};
use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use millrace_schemas::json::encode_text;
use millrace_schemas::scan::{Next, ScanError, Scanner};
use std::borrow::Cow;
use std::ops::Range;

/// Why an entity cannot be a document: where, and what.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {what}")]
pub struct Wrong {
    pub path: String,
    pub what: String,
}

impl Wrong {
    fn new(what: impl Into<String>) -> Self {
        Self { path: String::new(), what: what.into() }
    }

    fn within(mut self, name: &str) -> Self {
        self.path = if self.path.is_empty() { name.to_owned() } else { format!("{name}/{}", self.path) };
        self
    }
}

impl From<ScanError> for Wrong {
    fn from(error: ScanError) -> Self {
        Self::new(format!("is not JSON: {error}"))
    }
}

/// Why an entity is in a delta though it is not there any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removed {
    Deleted,
    /// It left the filter; it may still be there.
    LeftFilter,
}

/// So many places lie in the entity itself: a key, a watermark and SAP's change mode.
const FEW: usize = 5;

/// Places in the output. Of a few nothing is allocated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Places {
    few: [Range<usize>; FEW],
    many: Vec<Range<usize>>,
    len: usize,
}

impl Places {
    fn new(len: usize) -> Self {
        Self { many: if len > FEW { vec![0..0; len] } else { Vec::new() }, len, ..Self::default() }
    }
}

impl std::ops::Deref for Places {
    type Target = [Range<usize>];

    fn deref(&self) -> &[Range<usize>] {
        self.few.get(..self.len).unwrap_or(&self.many)
    }
}

impl std::ops::DerefMut for Places {
    fn deref_mut(&mut self) -> &mut [Range<usize>] {
        self.few.get_mut(..self.len).unwrap_or(&mut self.many)
    }
}

/// What an entity says of itself beside its properties.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entity<'a> {
    /// Where in the output the wanted fields lie; empty: absent.
    pub wanted: Places,
    /// JSON, as it came; empty: absent.
    etag: &'a str,
    id: &'a str,
    pub removed: Option<Removed>,
}

impl<'a> Entity<'a> {
    pub fn etag(&self) -> Cow<'a, str> {
        text_of(self.etag)
    }

    pub fn id(&self) -> Cow<'a, str> {
        text_of(self.id)
    }
}

/// The text that JSON is; empty: it is none.
fn text_of(json: &str) -> Cow<'_, str> {
    Scanner::of(json).text().map(|text| text.cow()).unwrap_or_default()
}

/// Writes an entity as a document to `out`. `wanted`: fields whose places are to be remembered, by their index.
pub fn entity<'a>(text: &'a str, record: &Record, version: Version, wanted: &[usize], out: &mut Vec<u8>) -> Result<Entity<'a>, Wrong> {
    let mut scanner = Scanner::of(text);
    let mut found = Entity { wanted: Places::new(wanted.len()), ..Entity::default() };
    members(&mut scanner, record, version, out, Some((wanted, &mut found)))?;
    scanner.end()?;
    Ok(found)
}

type Outer<'o, 'a> = Option<(&'o [usize], &'o mut Entity<'a>)>;

fn members<'a>(s: &mut Scanner<'a>, record: &Record, version: Version, out: &mut Vec<u8>, mut outer: Outer<'_, 'a>) -> Result<(), Wrong> {
    if s.peek()? != Next::Object {
        return Err(Wrong::new(format!("expected an entity, found {}", beginning(s.skip()?))));
    }
    s.open()?;
    out.push(b'{');
    let (mut first, mut is_empty) = (true, true);
    // Most services write the properties in the order of `$metadata`.
    let mut expected = 0;
    while let Some(text) = s.next_key(first)? {
        first = false;
        let is_expected = record.fields.get(expected).is_some_and(|field| text.plain() == Some(&*field.name));
        let mut at = Some(expected);
        if !is_expected {
            let key = text.cow();
            if let Some(name) = control(&key, version) {
                let text = s.skip()?;
                if name == "nextLink" || name == "odata.nextLink" {
                    return Err(paged().within(key.split('@').next().unwrap_or_default()));
                }
                if let Some((_, entity)) = &mut outer {
                    remember(entity, name, text)?;
                }
                continue;
            }
            at = record.index(&key);
            if at.is_none() && version == Version::V2 && s.peek()? == Next::Object && is_deferred(s)? {
                s.skip()?;
                continue;
            }
        }
        expected = at.map_or(expected, |at| at + 1);
        let shape = at.map(|at| &record.fields[at].shape);
        if !std::mem::take(&mut is_empty) {
            out.push(b',');
        }
        match text.plain() {
            Some(plain) => push_quoted(plain, out),
            None => encode_text(&text.cow(), out),
        }
        out.push(b':');
        let start = out.len();
        match shape {
            Some(shape) => value(s, shape, version, out).map_err(|wrong| wrong.within(&text.cow()))?,
            None => out.extend_from_slice(s.skip()?.as_bytes()),
        }
        if let (Some(at), Some((wanted, entity))) = (at, &mut outer) {
            for (slot, _) in wanted.iter().enumerate().filter(|(_, field)| **field == at) {
                entity.wanted[slot] = start..out.len();
            }
        }
    }
    out.push(b'}');
    Ok(())
}

/// A text that stood in JSON like this.
fn push_quoted(raw: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(raw.as_bytes());
    out.push(b'"');
}

/// The name of control information; `None`: a property.
fn control(key: &str, version: Version) -> Option<&str> {
    match version {
        Version::V2 => (key == "__metadata").then_some(key),
        Version::V4 => match key.split_once('@') {
            Some((_, name)) => Some(name),
            // Actions that may be called on the entity.
            None => key.starts_with('#').then_some(""),
        },
    }
}

fn remember<'a>(entity: &mut Entity<'a>, name: &str, text: &'a str) -> Result<(), Wrong> {
    match name.strip_prefix("odata.").unwrap_or(name) {
        "etag" => entity.etag = text,
        "id" => entity.id = text,
        "removed" => {
            let left = text.contains("\"changed\"");
            entity.removed = Some(if left { Removed::LeftFilter } else { Removed::Deleted });
        }
        "__metadata" => {
            let mut s = Scanner::of(text);
            let mut first = true;
            s.open()?;
            while let Some(key) = s.next_key(std::mem::take(&mut first))? {
                let text = s.skip()?;
                match &*key.cow() {
                    "etag" => entity.etag = text,
                    "uri" | "id" => entity.id = text,
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn paged() -> Wrong {
    Wrong::new("the service gives only a part of the expanded list; read its entity set by itself, or raise the service's page size")
}

/// Whether an object is V2's placeholder of what was not expanded.
fn is_deferred(s: &Scanner<'_>) -> Result<bool, Wrong> {
    let mut probe = *s;
    probe.open()?;
    Ok(probe.next_key(true)?.is_some_and(|key| key.is("__deferred")))
}

fn beginning(text: &str) -> String {
    let end = text.char_indices().nth(60).map_or(text.len(), |(at, _)| at);
    format!("`{}`", &text[..end])
}

fn value(s: &mut Scanner<'_>, shape: &Shape, version: Version, out: &mut Vec<u8>) -> Result<(), Wrong> {
    let next = s.peek()?;
    if next == Next::Null {
        s.null()?;
        out.extend_from_slice(b"null");
        return Ok(());
    }
    let not = |wanted: &str, text: &str| Wrong::new(format!("{} is not {wanted}", beginning(text)));
    match shape {
        Shape::Text | Shape::Guid => match next {
            Next::Text => push_quoted(s.text()?.raw(), out),
            Next::Number | Next::Bool => encode_text(s.skip()?, out),
            _ => return Err(not("a text", s.skip()?)),
        },
        Shape::Bool => match s.skip()? {
            text @ ("true" | "false") => out.extend_from_slice(text.as_bytes()),
            text => return Err(not("true or false", text)),
        },
        Shape::Decimal(Some(_)) | Shape::Double if next == Next::Number => out.extend_from_slice(s.number()?.text.as_bytes()),
        Shape::Int | Shape::Long | Shape::Decimal(Some(_)) => {
            let text = s.skip()?;
            let number = number(text).ok_or_else(|| not("a number", text))?;
            let is_whole = !number.contains(['.', 'e', 'E']);
            if !matches!(shape, Shape::Decimal(_)) && !is_whole {
                return Err(not("a whole number", text));
            }
            out.extend_from_slice(number.as_bytes());
        }
        Shape::Decimal(None) => {
            let text = s.skip()?;
            let number = number(text).ok_or_else(|| not("a number", text))?;
            encode_text(&number, out);
        }
        Shape::Double => {
            let text = s.skip()?;
            match text.trim_matches('"') {
                "NaN" => out.extend_from_slice(b"\"NaN\""),
                "INF" | "Infinity" => out.extend_from_slice(b"\"Infinity\""),
                "-INF" | "-Infinity" => out.extend_from_slice(b"\"-Infinity\""),
                _ => out.extend_from_slice(number(text).ok_or_else(|| not("a number", text))?.as_bytes()),
            }
        }
        Shape::Date | Shape::DateOfMoment | Shape::LocalTime | Shape::Moment(_) | Shape::TimeOfDay | Shape::Time => {
            if next != Next::Text {
                return Err(not("a date or a time", s.skip()?));
            }
            let text = s.text()?;
            // SAP escapes the slashes of each date of V2.
            let text = if text.raw().starts_with(moment::ESCAPED) { Cow::Borrowed(text.raw()) } else { text.cow() };
            moment::write(&text, shape, out).ok_or_else(|| not("a date or a time that exists", &text))?;
        }
        Shape::Binary => {
            if next != Next::Text {
                return Err(not("base64", s.skip()?));
            }
            let text = s.text()?.cow();
            let plain = text.replace('-', "+").replace('_', "/");
            let bytes = LENIENT.decode(plain.as_bytes()).map_err(|_| not("base64", &text))?;
            encode_text(&STANDARD.encode(bytes), out);
        }
        Shape::Json | Shape::Any | Shape::Number => {
            let text = s.skip()?;
            encode_text(text, out);
        }
        Shape::Record(_) if version == Version::V2 && next == Next::Object && is_deferred(s)? => {
            s.skip()?;
            out.extend_from_slice(b"null");
        }
        Shape::Record(record) => members(s, record, version, out, None)?,
        Shape::List(item) => list(s, item, version, next, out)?,
    }
    Ok(())
}

const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

fn list(s: &mut Scanner<'_>, item: &Shape, version: Version, next: Next, out: &mut Vec<u8>) -> Result<(), Wrong> {
    match next {
        Next::Array => {
            s.open()?;
            out.push(b'[');
            let mut first = true;
            while s.next_item(first)? {
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                value(s, item, version, out)?;
            }
            out.push(b']');
            Ok(())
        }
        Next::Object if version == Version::V2 => {
            if is_deferred(s)? {
                s.skip()?;
                out.extend_from_slice(b"null");
                return Ok(());
            }
            s.open()?;
            let mut is_first = true;
            let start = out.len();
            while let Some(key) = s.next_key(std::mem::take(&mut is_first))? {
                let key = key.cow();
                match &*key {
                    "results" if s.peek()? == Next::Array => list(s, item, version, Next::Array, out)?,
                    "__next" => return Err(paged()),
                    _ => _ = s.skip()?,
                }
            }
            if out.len() == start {
                out.extend_from_slice(b"null");
            }
            Ok(())
        }
        _ => Err(Wrong::new(format!("{} is not a list", beginning(s.skip()?)))),
    }
}

/// A number's text, be it a JSON number or a text; `None`: it is none. Leading zeros and a plus go: JSON has none.
pub fn number(text: &str) -> Option<Cow<'_, str>> {
    let bare = text.strip_prefix('"').map_or(Some(text), |rest| rest.strip_suffix('"'))?.trim();
    let (sign, rest) = bare.strip_prefix('-').map_or(("", bare.strip_prefix('+').unwrap_or(bare)), |rest| ("-", rest));
    let (mantissa, exponent) = rest.split_once(['e', 'E']).map_or((rest, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_good = are_digits(whole)
        && fraction.is_none_or(are_digits)
        && exponent.is_none_or(|exponent| are_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)));
    if !is_good {
        return None;
    }
    let zeros = whole.len() - whole.trim_start_matches('0').len();
    let zeros = zeros.min(whole.len() - 1);
    if zeros == 0 && bare.starts_with(sign) && !bare.starts_with('+') {
        return Some(Cow::Borrowed(bare));
    }
    Some(Cow::Owned(format!("{sign}{}", &rest[zeros..])))
}
