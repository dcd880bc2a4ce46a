//! The JSON form of a sample: one flat object, on one line.
//!
//! ```text
//! {"tag":"acme/detroit/body/press-1/force","def":1,"value":212.5,"time":1763726880000000,"time_source":"device","read_time":1763726880000412,
//!  "status":0,"quality":"good","origin":"change","source":"acme/detroit/press-1","seq":1849123840000123}
//! ```
//!
//! The fields of `telemetry.avsc`, in its order; times are microseconds since 1970; `server_time` and `device_time` are left out where there is none.
//! The value tells its type, so that it comes back as it was:
//!
//! | in memory | in JSON |
//! |---|---|
//! | `Null`, `Bool` | `null`, `true` |
//! | `Int`, `UInt` | `42`: a number without fraction and exponent; above 2^63 - 1 it comes back as `UInt`, else as `Int` |
//! | `Double` | `42.0`, `1e-7`: always with a fraction or an exponent; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | `Text` | `"text"`; the three texts that would be doubles: `{"text":"NaN"}` |
//! | `Bytes` | `{"bytes":"base64"}` |
//! | `Struct` | `{"json":..}`: the structure itself; white space between its tokens becomes blanks |
//! | `Array` | `[1,2]`, `[1.0,"NaN"]`, `[true]`, `["a"]` |
//! | ... of which the items alone don't say the type (none, only non-finite doubles, bytes) | `{"of":"double","items":["NaN"]}`; `of` is `boolean`, `long`, `double`, `string` or `bytes` |
//! | ... a matrix | `{"items":[1,2,3,4],"dims":[2,2]}`, row-major, with `of` where the items don't say the type |
//! | a span outside the heap, a text that is not UTF-8, a structure that is not JSON | `null`, status BadDecodingError |
//!
//! Encoding cannot fail and allocates nothing but what `out` lacks. Decoding takes the fields in any order and with any white space, fills in the
//! defaults of `telemetry.avsc`, reads over fields it does not know, and allocates at most nine bytes of heap for each byte of input.

use crate::record::{Array, Batch, Flags, Kind, Micros, Origin, Row, Span, TagId, TimeSource, Value};
use crate::sample::{DecodeError, Decoded, SampleMeta, fuzz_sample};
use crate::scan::{Next, ScanError, Scanner, Text, plain};
use crate::status::{Quality, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::ops::Range;

/// The JSON Schema of a sample, as it is registered.
pub const TELEMETRY_JSON_SCHEMA: &str = include_str!("../telemetry.schema.json");

/// Appends a value as it stands in a sample; `None`, and nothing written, where the heap does not hold it.
pub fn encode_value(of: Value, heap: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let written = value(of, heap, out);
    if written.is_none() {
        out.truncate(start);
    }
    written
}

/// Appends a text as a JSON string, with its quotes.
pub fn encode_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape(text, out);
    out.push(b'"');
}

const NAN: &str = "NaN";
const INFINITY: &str = "Infinity";
const NEG_INFINITY: &str = "-Infinity";

/// Appends one sample to `out`. Returns where in `out` the tag's path lies as it is, for the record's key; `None` where it had to be escaped.
pub fn encode(meta: &SampleMeta<'_>, row: &Row, heap: &[u8], out: &mut Vec<u8>) -> Option<Range<usize>> {
    out.reserve(meta.tag.len() + meta.source.len() + 320); // names, brackets and the longest numbers come to 309
    out.extend_from_slice(b"{\"tag\":\"");
    let start = out.len();
    escape(meta.tag, out);
    let tag = start..out.len();
    out.extend_from_slice(b"\",\"def\":");
    integer(meta.def, out);
    out.extend_from_slice(b",\"value\":");
    let before = out.len();
    let status = match value(row.value, heap, out) {
        Some(()) => row.status,
        None => {
            out.truncate(before);
            out.extend_from_slice(b"null");
            StatusCode::BAD_DECODING_ERROR
        }
    };
    out.extend_from_slice(b",\"time\":");
    integer(row.time.0, out);
    out.extend_from_slice(match row.flags.time_source {
        TimeSource::Gateway => b",\"time_source\":\"gateway\",\"read_time\":",
        TimeSource::Server => b",\"time_source\":\"server\",\"read_time\":",
        TimeSource::Device => b",\"time_source\":\"device\",\"read_time\":",
    });
    integer(meta.read_time.0, out);
    if !row.server_time.is_none() {
        out.extend_from_slice(b",\"server_time\":");
        integer(row.server_time.0, out);
    }
    if let Some(time) = meta.device_time.filter(|time| !time.is_none()) {
        out.extend_from_slice(b",\"device_time\":");
        integer(time.0, out);
    }
    out.extend_from_slice(b",\"status\":");
    integer(status.0, out);
    out.extend_from_slice(match status.quality() {
        Quality::Good => b",\"quality\":\"good\",\"origin\":\"",
        Quality::Uncertain => b",\"quality\":\"uncertain\",\"origin\":\"",
        Quality::Bad => b",\"quality\":\"bad\",\"origin\":\"",
    });
    out.extend_from_slice(row.flags.origin.as_str().as_bytes());
    out.extend_from_slice(b"\",\"source\":\"");
    escape(meta.source, out);
    out.extend_from_slice(b"\",\"seq\":");
    integer(meta.seq, out);
    out.push(b'}');
    (tag.len() == meta.tag.len()).then_some(tag)
}

/// `None` where the heap does not hold the value; what was written of it is the caller's to remove.
#[inline]
fn value(value: Value, heap: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => boolean(value, out),
        Value::Int(value) => integer(value, out),
        Value::UInt(value) => integer(value, out),
        Value::Double(value) => double(value, out),
        Value::Text(span) => {
            let text = std::str::from_utf8(span.get(heap)?).ok()?;
            if non_finite(text).is_some() {
                out.extend_from_slice(b"{\"text\":");
                quoted(text, out);
                out.push(b'}');
            } else {
                quoted(text, out);
            }
        }
        Value::Bytes(span) => {
            out.extend_from_slice(b"{\"bytes\":");
            base64(span.get(heap)?, out);
            out.push(b'}');
        }
        Value::Struct(span) => {
            let bytes = span.get(heap)?;
            let mut scanner = Scanner::new(bytes).ok()?;
            let json = scanner.skip().ok()?;
            scanner.end().ok()?;
            out.extend_from_slice(b"{\"json\":");
            out.extend(json.bytes().map(|b| b.max(b' '))); // a control character in valid JSON is white space
            out.push(b'}');
        }
        Value::Array(kind, span) => array(Array::read(kind, span, heap)?, out)?,
    }
    Some(())
}

fn array(array: Array<'_>, out: &mut Vec<u8>) -> Option<()> {
    let of = match array.kind {
        Kind::Bytes => Some("bytes"),
        Kind::Double if !array.words().any(|word| f64::from_le_bytes(word).is_finite()) => Some("double"),
        Kind::Bool if array.is_empty() => Some("boolean"),
        Kind::Int | Kind::UInt if array.is_empty() => Some("long"),
        Kind::Text if array.is_empty() => Some("string"),
        _ => None,
    };
    let dims = array.dims();
    let wrapped = of.is_some() || dims.len() > 0;
    if let Some(of) = of {
        out.extend_from_slice(b"{\"of\":\"");
        out.extend_from_slice(of.as_bytes());
        out.extend_from_slice(b"\",\"items\":");
    } else if wrapped {
        out.extend_from_slice(b"{\"items\":");
    }
    match array.kind {
        Kind::Bool => list(array.bools(), out, boolean),
        Kind::Int => list(array.words(), out, |word, out| integer(i64::from_le_bytes(word), out)),
        Kind::UInt => list(array.words(), out, |word, out| integer(u64::from_le_bytes(word), out)),
        Kind::Double => list(array.words(), out, |word, out| double(f64::from_le_bytes(word), out)),
        Kind::Bytes => list(array.blobs(), out, base64),
        Kind::Text => {
            let mut readable = true;
            list(array.blobs(), out, |item, out| match std::str::from_utf8(item) {
                Ok(text) => quoted(text, out),
                Err(_) => readable = false,
            });
            readable.then_some(())?;
        }
    }
    if dims.len() > 0 {
        out.extend_from_slice(b",\"dims\":");
        list(dims, out, integer);
    }
    if wrapped {
        out.push(b'}');
    }
    Some(())
}

fn list<T>(items: impl Iterator<Item = T>, out: &mut Vec<u8>, mut write: impl FnMut(T, &mut Vec<u8>)) {
    out.push(b'[');
    for (n, item) in items.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

fn boolean(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

#[inline]
/// Appends a whole number.
pub fn integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends a number; what JSON has no number for, as its name.
pub fn double(value: f64, out: &mut Vec<u8>) {
    if value.is_finite() {
        return out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    }
    let name = match value {
        f64::INFINITY => INFINITY,
        f64::NEG_INFINITY => NEG_INFINITY,
        _ => NAN,
    };
    quoted(name, out);
}

/// The double that a text stands for.
fn non_finite(text: &str) -> Option<f64> {
    match text {
        NAN => Some(f64::NAN),
        INFINITY => Some(f64::INFINITY),
        NEG_INFINITY => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// Appends bytes as a JSON string, in base64.
pub fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
    out.push(b'"');
}

/// Appends a text as a JSON string.
pub fn quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape(text, out);
    out.push(b'"');
}

/// Appends the inside of a JSON string.
pub fn escape(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    loop {
        let (clean, tail) = rest.split_at(plain(rest));
        out.extend_from_slice(clean);
        let Some((byte, tail)) = tail.split_first() else { return };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                let digit = |n: u8| b"0123456789abcdef"[usize::from(n & 15)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(control >> 4), digit(*control)]);
            }
        }
        rest = tail;
    }
}

/// Reads one sample into a row of `batch`, with its `decoded` columns. After an error the batch is as before.
///
/// Errors: the field, the byte, and what is wrong there; a field missing or twice; text behind the sample.
pub fn decode(bytes: &[u8], batch: &mut Batch) -> Result<(), DecodeError> {
    Decoded::push(batch, |batch| sample(bytes, batch))
}

/// Entry point of the fuzzer: bytes are refused, or read to a sample that comes back from its own encoding.
#[doc(hidden)]
pub fn fuzz_json_sample(bytes: &[u8]) {
    fuzz_sample(bytes, encode, decode);
}

const FIELDS: [&str; 12] =
    ["tag", "def", "value", "time", "time_source", "read_time", "server_time", "device_time", "status", "origin", "source", "seq"];

fn sample(bytes: &[u8], batch: &mut Batch) -> Result<Decoded, DecodeError> {
    Decoded::check_room(bytes, batch)?;
    let whole = |error: ScanError| DecodeError { field: "{}", at: error.at, what: error.what };
    let mut scanner = Scanner::wrapped(bytes, 2).map_err(whole)?;
    let mut decoded = Decoded {
        row: Row {
            time: Micros::NONE,
            server_time: Micros::NONE,
            value: Value::Null,
            tag: TagId::NONE,
            status: StatusCode::GOOD,
            flags: Flags::default(),
        },
        tag: Span::EMPTY,
        def: 0,
        read_time: Micros::NONE,
        device_time: Micros::NONE,
        source: Span::EMPTY,
        seq: 0,
    };
    if scanner.peek().map_err(whole)? != Next::Object {
        return Err(whole(scanner.error("a sample is an object")));
    }
    scanner.open().map_err(whole)?;
    let mut seen = [false; FIELDS.len()];
    let mut expected = 0; // fields mostly come in the order in which we write them
    let mut first = true;
    while let Some(key) = scanner.next_key(first).map_err(whole)? {
        first = false;
        let found = (0..FIELDS.len()).map(|n| (expected + n) % FIELDS.len()).find(|n| key.is(FIELDS[*n]));
        let Some(found) = found else {
            scanner.skip().map_err(whole)?;
            continue;
        };
        let field = FIELDS[found];
        let at = scanner.at();
        if seen[found] {
            return Err(DecodeError { field, at, what: "the field stands here twice".into() });
        }
        seen[found] = true;
        expected = (found + 1) % FIELDS.len();
        read_field(field, &mut scanner, &mut decoded, batch).map_err(|error| DecodeError { field, at: error.at, what: error.what })?;
    }
    scanner.end().map_err(whole)?;
    for required in ["tag", "time", "read_time", "source", "seq"] {
        if !FIELDS.iter().zip(seen).any(|(field, seen)| seen && *field == required) {
            return Err(DecodeError { field: required, at: scanner.at(), what: "the field is missing".into() });
        }
    }
    Ok(decoded)
}

fn read_field(field: &str, scanner: &mut Scanner<'_>, decoded: &mut Decoded, batch: &mut Batch) -> Result<(), ScanError> {
    match field {
        "tag" => decoded.tag = text(scanner, batch)?,
        "def" => decoded.def = whole_number(scanner)?,
        "value" => decoded.row.value = read_value(scanner, batch)?,
        "time" => decoded.row.time = Micros(whole_number(scanner)?),
        "time_source" => decoded.row.flags.time_source = symbol(scanner, &TimeSource::ALL, TimeSource::as_str)?,
        "read_time" => decoded.read_time = Micros(whole_number(scanner)?),
        "server_time" => decoded.row.server_time = optional_time(scanner)?,
        "device_time" => decoded.device_time = optional_time(scanner)?,
        "status" => decoded.row.status = StatusCode(whole_number(scanner)?),
        "origin" => decoded.row.flags.origin = symbol(scanner, &Origin::ALL, Origin::as_str)?,
        "source" => decoded.source = text(scanner, batch)?,
        _ => decoded.seq = whole_number(scanner)?,
    }
    Ok(())
}

fn text(scanner: &mut Scanner<'_>, batch: &mut Batch) -> Result<Span, ScanError> {
    let start = batch.heap.len();
    scanner.text()?.push_to(&mut batch.heap);
    Ok(batch.span_from(start))
}

fn whole_number<T: std::str::FromStr>(scanner: &mut Scanner<'_>) -> Result<T, ScanError> {
    scanner.peek()?;
    let start = *scanner;
    let number = scanner.number()?;
    number.text.parse().map_err(|_| start.error(format!("`{}` is not a whole number of {} bits", cut(number.text), size_of::<T>() * 8)))
}

fn optional_time(scanner: &mut Scanner<'_>) -> Result<Micros, ScanError> {
    if scanner.peek()? == Next::Null {
        scanner.null()?;
        return Ok(Micros::NONE);
    }
    whole_number(scanner).map(Micros)
}

fn symbol<T: Copy>(scanner: &mut Scanner<'_>, symbols: &[T], name: fn(T) -> &'static str) -> Result<T, ScanError> {
    scanner.peek()?;
    let start = *scanner;
    let text = scanner.text()?;
    symbols.iter().copied().find(|symbol| text.is(name(*symbol))).ok_or_else(|| {
        let names: Vec<_> = symbols.iter().map(|symbol| name(*symbol)).collect();
        start.error(format!("`{}`, expected one of {}", cut(&text.cow()), names.join(", ")))
    })
}

fn read_value(scanner: &mut Scanner<'_>, batch: &mut Batch) -> Result<Value, ScanError> {
    match scanner.peek()? {
        Next::Null => scanner.null().map(|()| Value::Null),
        Next::Bool => scanner.bool().map(Value::Bool),
        Next::Number => {
            let start = *scanner;
            let number = scanner.number()?;
            number.value().ok_or_else(|| start.error(format!("`{}` fits neither 64 bits nor a double", cut(number.text))))
        }
        Next::Text => {
            let text = scanner.text()?;
            Ok(match double_name(text) {
                Some(double) => Value::Double(double),
                None => {
                    let start = batch.heap.len();
                    text.push_to(&mut batch.heap);
                    Value::Text(batch.span_from(start))
                }
            })
        }
        Next::Array => {
            let items = *scanner;
            scanner.skip()?;
            read_array(items, None, &[], batch)
        }
        Next::Object => read_object(scanner, batch),
    }
}

/// A value that says its type: `text`, `bytes`, `json`, or an array of `items` with `of` and `dims`.
fn read_object<'a>(scanner: &mut Scanner<'a>, batch: &mut Batch) -> Result<Value, ScanError> {
    let start = *scanner;
    let (mut value, mut items, mut of, mut dims) = (None, None, None, Vec::new());
    scanner.open()?;
    let mut first = true;
    while let Some(key) = scanner.next_key(first)? {
        first = false;
        scanner.peek()?;
        let at = *scanner;
        let double = match key.plain() {
            Some("text") => value.replace(Value::Text(text(scanner, batch)?)).is_some(),
            Some("json") => value.replace(Value::Struct(batch.push_bytes(scanner.skip()?.as_bytes()))).is_some(),
            Some("bytes") => {
                let start = batch.heap.len();
                read_base64(scanner, &mut batch.heap)?;
                value.replace(Value::Bytes(batch.span_from(start))).is_some()
            }
            Some("of") => of.replace((at, scanner.text()?)).is_some(),
            Some("items") => {
                scanner.skip()?;
                items.replace(at).is_some()
            }
            Some("dims") => {
                let twice = !dims.is_empty();
                each(scanner, |scanner| {
                    dims.push(whole_number(scanner)?);
                    Ok(())
                })?;
                twice
            }
            _ => return Err(at.error(format!("unknown key `{}`", cut(&key.cow())))),
        };
        if double {
            return Err(at.error(format!("`{}` stands here twice", cut(&key.cow()))));
        }
    }
    match (value, items) {
        (Some(value), None) if of.is_none() && dims.is_empty() => Ok(value),
        (None, Some(items)) => read_array(items, of, &dims, batch),
        _ => Err(start.error("an object as value has one of `text`, `bytes`, `json`, or `items` with `of` and `dims`")),
    }
}

/// Reads an array whose brackets are known to match. Without `of` its items say its type.
fn read_array<'a>(items: Scanner<'a>, of: Option<(Scanner<'a>, Text<'a>)>, dims: &[i32], batch: &mut Batch) -> Result<Value, ScanError> {
    let kind = match of {
        None => kind_of(items)?,
        Some((_, of)) if of.is("boolean") => Kind::Bool,
        Some((_, of)) if of.is("long") => match kind_of(items)? {
            Kind::UInt => Kind::UInt,
            _ => Kind::Int,
        },
        Some((_, of)) if of.is("double") => Kind::Double,
        Some((_, of)) if of.is("string") => Kind::Text,
        Some((_, of)) if of.is("bytes") => Kind::Bytes,
        Some((at, of)) => return Err(at.error(format!("`{}`, expected boolean, long, double, string or bytes", cut(&of.cow())))),
    };
    read_items(items, kind, dims, batch)
}

/// Reads an array of items of one type into the heap. A double may stand as `"NaN"`, `"Infinity"` or `"-Infinity"`.
///
/// Errors: an item is not of the type.
pub fn read_items(items: Scanner<'_>, kind: Kind, dims: &[i32], batch: &mut Batch) -> Result<Value, ScanError> {
    let start = batch.begin_array(&[]);
    let heap = &mut batch.heap;
    let mut scanner = items;
    each(&mut scanner, |scanner| {
        match kind {
            Kind::Bool => heap.push(scanner.bool()?.into()),
            Kind::Int => heap.extend_from_slice(&whole_number::<i64>(scanner)?.to_le_bytes()),
            Kind::UInt => heap.extend_from_slice(&whole_number::<u64>(scanner)?.to_le_bytes()),
            Kind::Double => heap.extend_from_slice(&read_double(scanner)?.to_le_bytes()),
            Kind::Text | Kind::Bytes => {
                let len = heap.len();
                heap.extend_from_slice(&[0; 4]);
                if kind == Kind::Text {
                    scanner.text()?.push_to(heap)
                } else {
                    read_base64(scanner, heap)?
                }
                let item = (heap.len() - len - 4) as u32;
                heap[len..len + 4].copy_from_slice(&item.to_le_bytes());
            }
        }
        Ok(())
    })?;
    if !dims.is_empty() {
        batch.set_dims(start, dims);
    }
    Ok(Value::Array(kind, batch.span_from(start)))
}

/// The type that the items of an array say. Numbers of which one has a fraction, or which stand beside `"NaN"`, are doubles; an empty array is one
/// of longs.
fn kind_of(mut scanner: Scanner<'_>) -> Result<Kind, ScanError> {
    let start = scanner;
    let (mut bools, mut longs, mut unsigned, mut fractions, mut names, mut texts) = (false, false, false, false, false, false);
    each(&mut scanner, |scanner| {
        match scanner.peek()? {
            Next::Bool => {
                scanner.bool()?;
                bools = true;
            }
            Next::Number => {
                let number = scanner.number()?;
                longs |= number.integer;
                unsigned |= number.integer && matches!(number.value(), Some(Value::UInt(_)));
                fractions |= !number.integer;
            }
            Next::Text => match double_name(scanner.text()?) {
                Some(_) => names = true,
                None => texts = true,
            },
            _ => return Err(scanner.error("null, an array or an object in an array; as a structure it would be `{\"json\":[..]}`")),
        }
        Ok(())
    })?;
    match (bools, longs || fractions, texts) {
        (true, false, false) if !names => Ok(Kind::Bool),
        (false, true, false) if fractions || names => Ok(Kind::Double),
        (false, true, false) if unsigned => Ok(Kind::UInt),
        (false, true, false) => Ok(Kind::Int),
        (false, false, _) if texts || names => Ok(Kind::Text),
        (false, false, false) => Ok(Kind::Int),
        _ => Err(start.error("an array of mixed types; as a structure it would be `{\"json\":[..]}`")),
    }
}

fn each<'a>(scanner: &mut Scanner<'a>, mut item: impl FnMut(&mut Scanner<'a>) -> Result<(), ScanError>) -> Result<(), ScanError> {
    if scanner.peek()? != Next::Array {
        return Err(scanner.error("expected an array"));
    }
    scanner.open()?;
    let mut first = true;
    while scanner.next_item(first)? {
        first = false;
        item(scanner)?;
    }
    Ok(())
}

fn double_name(text: Text<'_>) -> Option<f64> {
    [NAN, INFINITY, NEG_INFINITY].into_iter().find(|name| text.is(name)).and_then(non_finite)
}

fn read_double(scanner: &mut Scanner<'_>) -> Result<f64, ScanError> {
    let next = scanner.peek()?;
    let start = *scanner;
    if next == Next::Text {
        let text = scanner.text()?;
        return double_name(text).ok_or_else(|| start.error(format!("`{}` among doubles", cut(&text.cow()))));
    }
    let number = scanner.number()?;
    let exact = |double: &f64| !number.integer || double.abs() <= (1_u64 << f64::MANTISSA_DIGITS) as f64;
    number.double().filter(exact).ok_or_else(|| start.error(format!("`{}` does not fit a double", cut(number.text))))
}

fn read_base64(scanner: &mut Scanner<'_>, heap: &mut Vec<u8>) -> Result<(), ScanError> {
    scanner.peek()?;
    let start = *scanner;
    let text = scanner.text()?.cow();
    let from = heap.len();
    heap.resize(from + base64::decoded_len_estimate(text.len()), 0);
    let len = STANDARD.decode_slice(text.as_bytes(), &mut heap[from..]).map_err(|error| start.error(format!("no base64: {error}")))?;
    heap.truncate(from + len);
    Ok(())
}

/// At most 64 characters of a foreign text, for an error.
fn cut(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(end, _)| &text[..end])
}
