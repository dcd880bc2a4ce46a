//! An event's document: its fields as JSON, its key, and what tells it from the next one.

use crate::Template;
use millrace_contract::TagOptions;
use millrace_schemas::{Batch, Span, StatusCode, Value, json};
use std::io::Write as _;
use std::sync::Arc;

/// A document's identity is at most so long; a longer one is kept as its hash.
const IDENTITY_BYTES: usize = 200;

/// Appends a document of these tags (index and name) to the batch's heap. Returns where each value lies.
///
/// `field` appends the value of the tag of that index (nothing: null) and says its status; those that are not good are named in `_status`.
pub fn write<'n>(
    fields: impl ExactSizeIterator<Item = (&'n usize, &'n Arc<str>)>,
    is_torn: bool,
    batch: &mut Batch,
    field: &mut impl FnMut(usize, &mut Vec<u8>) -> StatusCode,
) -> Vec<Span> {
    let mut spans = Vec::with_capacity(fields.len());
    let mut bad = Vec::new();
    batch.heap.push(b'{');
    for (index, name) in fields {
        if !spans.is_empty() {
            batch.heap.push(b',');
        }
        json::quoted(name, &mut batch.heap);
        batch.heap.push(b':');
        let at = batch.heap.len();
        let status = field(*index, &mut batch.heap);
        if batch.heap.len() == at {
            batch.heap.extend_from_slice(b"null");
        }
        if !status.is_good() {
            bad.push((name, status));
        }
        spans.push(batch.span_from(at));
    }
    if is_torn {
        batch.heap.extend_from_slice(b",\"_torn\":true");
    }
    if !bad.is_empty() {
        batch.heap.extend_from_slice(b",\"_status\":{");
        for (index, (name, status)) in bad.iter().enumerate() {
            if index > 0 {
                batch.heap.push(b',');
            }
            json::quoted(name, &mut batch.heap);
            let _ = write!(batch.heap, ":{}", status.0);
        }
        batch.heap.push(b'}');
    }
    batch.heap.push(b'}');
    spans
}

/// Appends a value as a document has it: scaled where the options say so. Returns the status to be told for it.
pub fn write_value(value: Value, status: StatusCode, heap: &[u8], options: &TagOptions, out: &mut Vec<u8>) -> StatusCode {
    if status.is_bad() {
        return status;
    }
    let scaled = match (options.scaling(), value) {
        (Some((factor, offset)), Value::Int(number)) => Value::Double(number as f64 * factor + offset),
        (Some((factor, offset)), Value::UInt(number)) => Value::Double(number as f64 * factor + offset),
        (Some((factor, offset)), Value::Double(number)) => Value::Double(number * factor + offset),
        _ => value,
    };
    match json::encode_value(scaled, heap, out) {
        Some(()) => status,
        None => StatusCode::BAD_DECODING_ERROR,
    }
}

/// A document's key: its template filled with the JSON of its fields, texts without their quotes.
pub fn document_key(template: &Template, field: impl Fn(&str) -> Option<Span>, batch: &mut Batch) -> Span {
    let mut key = Vec::new();
    let filled = template.render(&mut key, |name, out| -> Result<(), std::convert::Infallible> {
        if let Some(span) = field(name) {
            let json = batch.bytes_of(span);
            match serde_json::from_slice::<String>(json) {
                Ok(text) => out.extend_from_slice(text.as_bytes()),
                Err(_) => out.extend_from_slice(json),
            }
        }
        Ok(())
    });
    match filled {
        Ok(()) => batch.push_bytes(&key),
        Err(never) => match never {},
    }
}

/// What tells one event from the next: the bytes themselves, or of longer ones their length and a 128-bit hash.
pub fn identity(bytes: &[u8]) -> Box<[u8]> {
    if bytes.len() <= IDENTITY_BYTES {
        return bytes.into();
    }
    let fnv = bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013B)
    });
    format!("{}:{fnv:032x}", bytes.len()).into_bytes().into()
}
