//! A sample as plain owned data: what proptest makes, what a batch is filled with, what is read back.

use millrace_schemas::{Array, Batch, Flags, Kind, Micros, Origin, Row, SampleMeta, Span, StatusCode, TagId, TimeSource, Value};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
pub enum Plain {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Struct(String),
    Bools(Vec<bool>, Vec<i32>),
    Ints(Vec<i64>, Vec<i32>),
    UInts(Vec<u64>, Vec<i32>),
    Doubles(Vec<f64>, Vec<i32>),
    Texts(Vec<String>, Vec<i32>),
    Blobs(Vec<Vec<u8>>, Vec<i32>),
}

impl Plain {
    pub fn put(&self, batch: &mut Batch) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(v) => Value::Bool(*v),
            Self::Int(v) => Value::Int(*v),
            Self::UInt(v) => Value::UInt(*v),
            Self::Double(v) => Value::Double(*v),
            Self::Text(v) => batch.text(v),
            Self::Bytes(v) => Value::Bytes(batch.push_bytes(v)),
            Self::Struct(v) => Value::Struct(batch.push_bytes(v.as_bytes())),
            Self::Bools(v, dims) => batch.bools(v.iter().copied(), dims),
            Self::Ints(v, dims) => batch.longs(v.iter().copied(), dims),
            Self::UInts(v, dims) => batch.uints(v.iter().copied(), dims),
            Self::Doubles(v, dims) => batch.doubles(v.iter().copied(), dims),
            Self::Texts(v, dims) => batch.texts(v.iter().map(String::as_str), dims),
            Self::Blobs(v, dims) => batch.blobs(v.iter().map(Vec::as_slice), dims),
        }
    }

    pub fn take(value: Value, heap: &[u8]) -> Self {
        let text = |span: Span| String::from_utf8(span.of(heap).to_vec()).unwrap();
        match value {
            Value::Null => Self::Null,
            Value::Bool(v) => Self::Bool(v),
            Value::Int(v) => Self::Int(v),
            Value::UInt(v) => Self::UInt(v),
            Value::Double(v) => Self::Double(v),
            Value::Text(span) => Self::Text(text(span)),
            Value::Bytes(span) => Self::Bytes(span.of(heap).to_vec()),
            Value::Struct(span) => Self::Struct(text(span)),
            Value::Array(kind, span) => {
                let array = Array::read(kind, span, heap).unwrap();
                let dims = array.dims().collect();
                match kind {
                    Kind::Bool => Self::Bools(array.bools().collect(), dims),
                    Kind::Int => Self::Ints(array.words().map(i64::from_le_bytes).collect(), dims),
                    Kind::UInt => Self::UInts(array.words().map(u64::from_le_bytes).collect(), dims),
                    Kind::Double => Self::Doubles(array.words().map(f64::from_le_bytes).collect(), dims),
                    Kind::Text => Self::Texts(array.blobs().map(|b| String::from_utf8(b.to_vec()).unwrap()).collect(), dims),
                    Kind::Bytes => Self::Blobs(array.blobs().map(<[u8]>::to_vec).collect(), dims),
                }
            }
        }
    }

    /// What is written for it: an unsigned value is a long where it fits.
    pub fn written(self) -> Self {
        match self {
            Self::UInt(v) => i64::try_from(v).map_or(Self::UInt(v), Self::Int),
            Self::UInts(v, dims) => match v.iter().map(|v| i64::try_from(*v)).collect() {
                Ok(longs) => Self::Ints(longs, dims),
                Err(_) => Self::UInts(v, dims),
            },
            other => other,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Sample {
    pub tag: String,
    pub def: i32,
    pub value: Plain,
    pub time: i64,
    pub read_time: i64,
    pub server_time: i64,
    pub device_time: i64,
    pub status: u32,
    pub flags: Flags,
    pub source: String,
    pub seq: i64,
}

impl Sample {
    pub fn row(&self, batch: &mut Batch) -> Row {
        Row {
            time: Micros(self.time),
            server_time: Micros(self.server_time),
            value: self.value.put(batch),
            tag: TagId(0),
            status: StatusCode(self.status),
            flags: self.flags,
        }
    }

    pub fn meta(&self) -> SampleMeta<'_> {
        SampleMeta {
            tag: &self.tag,
            def: self.def,
            read_time: Micros(self.read_time),
            device_time: (self.device_time != 0).then_some(Micros(self.device_time)),
            source: &self.source,
            seq: self.seq,
        }
    }

    pub fn written(mut self) -> Self {
        self.value = self.value.written();
        self
    }

    /// The last row of a batch that was decoded.
    pub fn take(batch: &Batch) -> Self {
        let (row, columns) = (batch.rows.last().unwrap(), batch.decoded.as_ref().unwrap());
        let n = batch.rows.len() - 1;
        Self {
            tag: batch.text_of(columns.tag_path[n]).into(),
            def: columns.def[n],
            value: Plain::take(row.value, &batch.heap),
            time: row.time.0,
            read_time: columns.read_time[n].0,
            server_time: row.server_time.0,
            device_time: columns.device_time[n].0,
            status: row.status.0,
            flags: row.flags,
            source: batch.text_of(columns.source[n]).into(),
            seq: columns.seq[n],
        }
    }
}

fn double() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(-0.0),
        Just(1.0),
        Just(1e16),
        Just(5e-324),
        any::<f32>().prop_map(f64::from),
        any::<i32>().prop_map(f64::from)
    ]
}

fn long() -> impl Strategy<Value = i64> {
    prop_oneof![any::<i64>(), -100..100_i64, Just(i64::MIN), Just(i64::MAX)]
}

fn unsigned() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..200_u64, Just(i64::MAX as u64), Just(i64::MAX as u64 + 1), Just(u64::MAX)]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-z\"\\\\\n]{0,12}", Just("NaN".to_owned()), Just("-Infinity".to_owned()), Just(String::new())]
}

fn structure() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("1.50".to_owned()),
        Just("-7e3".to_owned()),
        text().prop_map(|t| serde_json::to_string(&t).unwrap())
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            vec((text(), inner), 0..4).prop_map(|fields| {
                let fields: Vec<_> = fields.iter().map(|(k, v)| format!("{}: {v}", serde_json::to_string(k).unwrap())).collect();
                format!("{{{}}}", fields.join(","))
            })
        ]
    })
}

fn dims() -> impl Strategy<Value = Vec<i32>> {
    prop_oneof![3 => Just(vec![]), 1 => vec(any::<i32>(), 1..4)]
}

pub fn value() -> impl Strategy<Value = Plain> {
    prop_oneof![
        Just(Plain::Null),
        any::<bool>().prop_map(Plain::Bool),
        long().prop_map(Plain::Int),
        unsigned().prop_map(Plain::UInt),
        double().prop_map(Plain::Double),
        text().prop_map(Plain::Text),
        vec(any::<u8>(), 0..40).prop_map(Plain::Bytes),
        structure().prop_map(Plain::Struct),
        (vec(any::<bool>(), 0..20), dims()).prop_map(|(v, d)| Plain::Bools(v, d)),
        (vec(long(), 0..20), dims()).prop_map(|(v, d)| Plain::Ints(v, d)),
        (vec(unsigned(), 0..20), dims()).prop_map(|(v, d)| Plain::UInts(v, d)),
        (vec(double(), 0..6), dims()).prop_map(|(v, d)| Plain::Doubles(v, d)),
        (vec(text(), 0..6), dims()).prop_map(|(v, d)| Plain::Texts(v, d)),
        (vec(vec(any::<u8>(), 0..9), 0..6), dims()).prop_map(|(v, d)| Plain::Blobs(v, d)),
    ]
}

pub fn sample() -> impl Strategy<Value = Sample> {
    let flags = (0..Origin::ALL.len(), 0..TimeSource::ALL.len()).prop_map(|(o, t)| Flags::new(Origin::ALL[o], TimeSource::ALL[t]));
    let optional = || prop_oneof![Just(0_i64), any::<i64>()];
    (
        (prop_oneof!["[a-z/0-9%-]{0,60}", text()], any::<i32>(), value(), any::<i64>(), any::<i64>(), optional()),
        (optional(), any::<u32>(), flags, text(), any::<i64>()),
    )
        .prop_map(|((tag, def, value, time, read_time, server_time), (device_time, status, flags, source, seq))| Sample {
            tag,
            def,
            value,
            time,
            read_time,
            server_time,
            device_time,
            status,
            flags,
            source,
            seq,
        })
}
