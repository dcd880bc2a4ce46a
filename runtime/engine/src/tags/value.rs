//! The last value of a tag, kept in 16 bytes, and whether another one differs.

use millrace_schemas::{Batch, Kind, Row, Span, StatusCode, TimeSource, Value};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// The last reported state of one tag.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// The last value's bits, or the hash of what lies in the heap.
    pub(super) bits: u64,
    /// The last value's own time and when a sample of it was last written.
    pub(super) time: i64,
    pub(super) sent: i64,
    /// When the tag itself was last vouched for.
    pub(super) alive: i64,
    /// Since when it can't be read; zero: it can.
    pub(super) bad_since: i64,
    pub(super) status: StatusCode,
    pub(super) rules: u32,
    pub(super) part: u32,
    pub(super) kind: u8,
    pub(super) time_source: TimeSource,
    /// Nothing was written yet: the first value is `initial`.
    pub(super) fresh: bool,
    pub(super) stale: bool,
    pub(super) retired: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kept {
    Text,
    Bytes,
    Array(Kind),
    Struct,
}

const NULL: u8 = 0;

const BOOL: u8 = 1;

const INT: u8 = 2;

const UINT: u8 = 3;

const DOUBLE: u8 = 4;

const HEAP: u8 = 5;

pub(super) fn fingerprint(value: Value, heap: &[u8], hasher: &RandomState) -> (u8, u64) {
    match value {
        Value::Null => (NULL, 0),
        Value::Bool(v) => (BOOL, u64::from(v)),
        Value::Int(v) => (INT, v as u64),
        Value::UInt(v) => (UINT, v),
        Value::Double(v) => (DOUBLE, v.to_bits()),
        Value::Text(span) | Value::Bytes(span) | Value::Array(_, span) | Value::Struct(span) => {
            (HEAP, hasher.hash_one((std::mem::discriminant(&value), span.of(heap))))
        }
    }
}

pub(super) fn changed(old_kind: u8, old_bits: u64, kind: u8, bits: u64, value: Value, deadband: f64) -> bool {
    if (old_kind, old_bits) == (kind, bits) {
        return false;
    }
    if deadband > 0.0 && old_kind == kind {
        let (old, new) = match value {
            Value::Int(v) => (old_bits as i64 as f64, v as f64),
            Value::UInt(v) => (old_bits as f64, v as f64),
            Value::Double(v) => (f64::from_bits(old_bits), v),
            _ => return true,
        };
        let distance = (new - old).abs();
        // A NaN on either side is a change.
        return distance.is_nan() || distance >= deadband;
    }
    true
}

pub(super) fn keep(kept: &mut HashMap<u32, (Kept, Box<[u8]>)>, row: &Row, heap: &[u8]) {
    let (kind, span) = match row.value {
        Value::Text(span) => (Kept::Text, span),
        Value::Bytes(span) => (Kept::Bytes, span),
        Value::Array(kind, span) => (Kept::Array(kind), span),
        Value::Struct(span) => (Kept::Struct, span),
        _ => {
            if !kept.is_empty() {
                kept.remove(&row.tag.0);
            }
            return;
        }
    };
    kept.insert(row.tag.0, (kind, span.of(heap).into()));
}

pub(super) fn last_value(state: &State, kept: Option<&(Kept, Box<[u8]>)>, batch: &mut Batch) -> Option<Value> {
    Some(match state.kind {
        NULL => Value::Null,
        BOOL => Value::Bool(state.bits != 0),
        INT => Value::Int(state.bits as i64),
        UINT => Value::UInt(state.bits),
        DOUBLE => Value::Double(f64::from_bits(state.bits)),
        _ => {
            let (kind, bytes) = kept?;
            let span: Span = batch.push_bytes(bytes);
            match kind {
                Kept::Text => Value::Text(span),
                Kept::Bytes => Value::Bytes(span),
                Kept::Array(kind) => Value::Array(*kind, span),
                Kept::Struct => Value::Struct(span),
            }
        }
    })
}
