//! Sparkplug B payloads, as an edge node writes them.
//!
//! Source: `sparkplug_b.proto` of Eclipse Tahu; Sparkplug 3.0.0, section 6.4.

use millrace_mqtt::sparkplug::write::{bytes, number, varint};

/// A metric's value with its datatype.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value<'a> {
    Int64(i64),
    UInt64(u64),
    Float(f32),
    Double(f64),
    Boolean(bool),
    Text(&'a str),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Metric<'a> {
    /// In births; later the alias alone.
    pub name: Option<&'a str>,
    pub alias: Option<u64>,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Was measured while nobody listened.
    pub historical: bool,
    pub value: Value<'a>,
}

/// A payload: its time, its metrics, and its sequence number where it has one.
pub fn payload(time_ms: u64, seq: Option<u8>, metrics: &[Metric<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + 32 * metrics.len());
    number(&mut out, 1, time_ms);
    let mut one = Vec::new();
    for metric in metrics {
        one.clear();
        metric.write(&mut one);
        bytes(&mut out, 2, &one);
    }
    if let Some(seq) = seq {
        number(&mut out, 3, seq.into());
    }
    out
}

impl Metric<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        if let Some(name) = self.name {
            bytes(out, 1, name.as_bytes());
        }
        if let Some(alias) = self.alias {
            number(out, 2, alias);
        }
        number(out, 3, self.time_ms);
        number(out, 4, self.value.datatype());
        if self.historical {
            number(out, 5, 1);
        }
        match self.value {
            Value::Int64(value) => number(out, 11, value as u64),
            Value::UInt64(value) => number(out, 11, value),
            Value::Float(value) => fixed(out, 12, 5, &value.to_le_bytes()),
            Value::Double(value) => fixed(out, 13, 1, &value.to_le_bytes()),
            Value::Boolean(value) => number(out, 14, value.into()),
            Value::Text(value) => bytes(out, 15, value.as_bytes()),
        }
    }
}

impl Value<'_> {
    /// Section 6.4.16.
    const fn datatype(self) -> u64 {
        match self {
            Self::Int64(_) => 4,
            Self::UInt64(_) => 8,
            Self::Float(_) => 9,
            Self::Double(_) => 10,
            Self::Boolean(_) => 11,
            Self::Text(_) => 12,
        }
    }
}

fn fixed(out: &mut Vec<u8>, field: u64, wire_type: u64, value: &[u8]) {
    varint(out, field << 3 | wire_type);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_lies_on_the_wire_as_tahu_lays_it() {
        let metric = Metric { name: Some("n"), alias: Some(1), time_ms: 2, historical: true, value: Value::Double(1.0) };
        let one = [0x0A, 1, b'n', 0x10, 1, 0x18, 2, 0x20, 10, 0x28, 1, 0x69, 0, 0, 0, 0, 0, 0, 0xF0, 0x3F];
        let whole = [&[0x08, 5, 0x12, one.len() as u8][..], &one, &[0x18, 7]].concat();
        assert_eq!(payload(5, Some(7), &[metric]), whole);
    }
}
