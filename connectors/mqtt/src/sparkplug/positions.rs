//! Births in the source's positions, so that aliases are known after a restart.
//!
//! ```text
//! sparkplug:GROUP/NODE              1 version   1 online   8 bdSeq, little-endian (absent: unknown)
//! sparkplug:GROUP/NODE[/DEVICE]#N   1 version   2 number of pieces   8 hash of the whole   a piece of the deflated birth
//! ```
//!
//! A birth is kept as the payload it was, without values and bookkeeping: what it declared comes back through the same code. Pieces of
//! 256 KiB fit into a record of Kafka; a birth that is not whole is not believed, and asked for again.

use super::births::is_bookkeeping;
use super::wire::write::{bytes, number};
use super::wire::{Malformed, Member, Metric, Template};
use flate2::Compression;
use flate2::bufread::{GzDecoder, ZlibDecoder};
use flate2::write::ZlibEncoder;
use millrace_config::Reason;
use std::io::{Read, Write};

pub const PREFIX: &str = "sparkplug:";
const VERSION: u8 = 1;
const PIECE: usize = 256 * 1024;
/// More than any birth or compressed payload may grow to.
pub const LARGEST: u64 = 32 << 20;

pub fn node_key(node: &str) -> String {
    format!("{PREFIX}{node}")
}

pub fn piece_key(part: &str, piece: usize) -> String {
    format!("{PREFIX}{part}#{piece}")
}

/// A node's own position.
pub fn node_value(online: bool, session: Option<u64>) -> Vec<u8> {
    let mut value = vec![VERSION, u8::from(online)];
    if let Some(session) = session {
        value.extend_from_slice(&session.to_le_bytes());
    }
    value
}

/// Whether the node was online, and its bdSeq.
pub fn read_node(value: &[u8]) -> Option<(bool, Option<u64>)> {
    match value {
        [VERSION, online] => Some((*online != 0, None)),
        [VERSION, online, session @ ..] => Some((*online != 0, Some(u64::from_le_bytes(session.try_into().ok()?)))),
        _ => None,
    }
}

/// The birth without its values, as a payload.
pub fn strip(metrics: &[Metric<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut one = Vec::new();
    for metric in metrics.iter().filter(|metric| !metric.name.is_some_and(is_bookkeeping)) {
        one.clear();
        strip_metric(metric, &mut one, 0);
        bytes(&mut out, 2, &one);
    }
    out
}

fn strip_metric(metric: &Metric<'_>, out: &mut Vec<u8>, depth: u32) {
    if let Some(name) = metric.name {
        bytes(out, 1, name.as_bytes());
    }
    if let Some(alias) = metric.alias {
        number(out, 2, alias);
    }
    number(out, 4, u64::from(metric.datatype));
    if !metric.properties.is_empty() {
        bytes(out, 9, metric.properties);
    }
    if let (false, Member::Template(template)) = (metric.null, metric.value)
        && let Ok(template) = strip_template(template, depth + 1)
    {
        bytes(out, 18, &template);
    }
}

fn strip_template(template: &[u8], depth: u32) -> Result<Vec<u8>, Malformed> {
    if depth > super::json::DEEPEST {
        return Err(Malformed::TooDeep);
    }
    let template = Template::read(template)?;
    let (mut out, mut one) = (Vec::new(), Vec::new());
    for metric in &template.metrics {
        one.clear();
        strip_metric(metric, &mut one, depth);
        bytes(&mut out, 2, &one);
    }
    for parameter in &template.parameters {
        one.clear();
        bytes(&mut one, 1, parameter.name.as_bytes());
        number(&mut one, 2, u64::from(parameter.datatype));
        bytes(&mut out, 3, &one);
    }
    number(&mut out, 5, u64::from(template.is_definition));
    Ok(out)
}

/// The pieces of a stripped birth.
pub fn pack(stripped: &[u8], hash: u64) -> Vec<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let deflated = encoder.write_all(stripped).and_then(|()| encoder.finish()).unwrap_or_default();
    let pieces = deflated.len().div_ceil(PIECE).max(1);
    let piece = |bytes: &[u8]| [&[VERSION][..], &(pieces as u16).to_le_bytes(), &hash.to_le_bytes(), bytes].concat();
    if deflated.is_empty() { vec![piece(&[])] } else { deflated.chunks(PIECE).map(piece).collect() }
}

/// The stripped birth and its hash, from its pieces in order; `None` if they are not all of one birth.
pub fn unpack(pieces: &[Vec<u8>]) -> Option<(Vec<u8>, u64)> {
    let (head, _) = pieces.first()?.split_first_chunk::<11>()?;
    let [VERSION, low, high, hash @ ..] = *head else { return None };
    if usize::from(u16::from_le_bytes([low, high])) != pieces.len() {
        return None;
    }
    let mut deflated = Vec::new();
    for piece in pieces {
        deflated.extend_from_slice(piece.strip_prefix(head)?);
    }
    Some((inflate(&deflated).ok()?, u64::from_le_bytes(hash)))
}

/// Inflates gzip or zlib, whichever it is. Errors: one line for a person.
pub fn inflate(deflated: &[u8]) -> Result<Vec<u8>, Reason> {
    let mut out = Vec::new();
    let result = match deflated {
        [0x1f, 0x8b, ..] => GzDecoder::new(deflated).take(LARGEST + 1).read_to_end(&mut out),
        _ => ZlibDecoder::new(deflated).take(LARGEST + 1).read_to_end(&mut out),
    };
    match result {
        Err(error) => Err(format!("the compressed body can't be inflated: {error}").into()),
        Ok(_) if out.len() as u64 > LARGEST => Err(format!("the compressed body inflates to more than {LARGEST} bytes").into()),
        Ok(_) => Ok(out),
    }
}
