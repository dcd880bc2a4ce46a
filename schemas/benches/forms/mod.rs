//! One sample of a press line, and the same sample as serde sees it.

use millrace_schemas::avro::TELEMETRY_SCHEMA;
use millrace_schemas::{Batch, Flags, Micros, Origin, Row, SampleMeta, StatusCode, TagId, TimeSource, Value, avro, json};
use serde::{Deserialize, Serialize};
use serde_avro_fast::ser::SerializerConfig;
use std::hint::black_box;

const TAG: &str = "acme/detroit/body/press-1/hydraulics/main/pressure";
const SOURCE: &str = "acme/detroit/press-1";
const TIME: Micros = Micros(1_763_726_880_123_456);

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Double,
    Long,
    Text,
    Doubles,
}

#[derive(Serialize, Deserialize)]
struct Foreign {
    tag: String,
    def: i32,
    value: ForeignValue,
    time: i64,
    time_source: Clock,
    read_time: i64,
    server_time: Option<i64>,
    device_time: Option<i64>,
    status: i64,
    quality: Quality,
    origin: Why,
    source: String,
    seq: i64,
}

#[derive(Serialize, Deserialize)]
enum ForeignValue {
    Double(f64),
    Long(i64),
    String(String),
    #[serde(rename = "millrace.Doubles")]
    Doubles {
        items: Vec<f64>,
        dims: Vec<i32>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Clock {
    Device,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Quality {
    Good,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Why {
    Change,
}

/// As `Foreign`, in the form that JSON wants: values untagged, absent times left out.
#[derive(Serialize, Deserialize)]
struct ForeignJson {
    tag: String,
    def: i32,
    value: ForeignJsonValue,
    time: i64,
    time_source: Clock,
    read_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_time: Option<i64>,
    status: i64,
    quality: Quality,
    origin: Why,
    source: String,
    seq: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ForeignJsonValue {
    Long(i64),
    Double(f64),
    String(String),
    Doubles(Vec<f64>),
}

pub struct Forms {
    batch: Batch,
    row: Row,
    foreign: Foreign,
    foreign_json: ForeignJson,
    schema: &'static serde_avro_fast::Schema,
    config: SerializerConfig<'static>,
    avro: Vec<u8>,
    json: Vec<u8>,
    out: Vec<u8>,
    back: Batch,
}

type Run = fn(&mut Forms);

impl Forms {
    /// What is compared: ours, theirs.
    pub const PAIRS: [(&'static str, Run, Run); 4] = [
        ("avro encode", Self::avro_encode, Self::serde_avro_encode),
        ("json encode", Self::json_encode, Self::serde_json_encode),
        ("avro decode", Self::avro_decode, Self::serde_avro_decode),
        ("json decode", Self::json_decode, Self::serde_json_decode),
    ];

    pub fn new(kind: Kind) -> Self {
        let doubles = [21.5, 22.25, 1013.7, 0.003, 5.0, 6.125, 7.5, 8.75];
        let mut batch = Batch::new();
        let (value, foreign, foreign_json) = match kind {
            Kind::Double => (Value::Double(212.4375), ForeignValue::Double(212.4375), ForeignJsonValue::Double(212.4375)),
            Kind::Long => (Value::Int(40_321), ForeignValue::Long(40_321), ForeignJsonValue::Long(40_321)),
            Kind::Text => (batch.text("running"), ForeignValue::String("running".into()), ForeignJsonValue::String("running".into())),
            Kind::Doubles => (
                batch.doubles(doubles, &[]),
                ForeignValue::Doubles { items: doubles.to_vec(), dims: vec![] },
                ForeignJsonValue::Doubles(doubles.to_vec()),
            ),
        };
        let row = Row {
            time: TIME,
            server_time: Micros(TIME.0 + 1000),
            value,
            tag: TagId(0),
            status: StatusCode::GOOD,
            flags: Flags::new(Origin::Change, TimeSource::Device),
        };
        let (def, time, read_time, seq) = (1, TIME.0, TIME.0 + 2000, 1_849_123_840_000_123);
        let server_time = Some(row.server_time.0);
        let foreign = Foreign {
            tag: TAG.into(),
            def,
            value: foreign,
            time,
            time_source: Clock::Device,
            read_time,
            server_time,
            device_time: None,
            status: 0,
            quality: Quality::Good,
            origin: Why::Change,
            source: SOURCE.into(),
            seq,
        };
        let foreign_json = ForeignJson {
            tag: TAG.into(),
            def,
            value: foreign_json,
            time,
            time_source: Clock::Device,
            read_time,
            server_time,
            device_time: None,
            status: 0,
            quality: Quality::Good,
            origin: Why::Change,
            source: SOURCE.into(),
            seq,
        };
        let schema: &'static serde_avro_fast::Schema = Box::leak(Box::new(TELEMETRY_SCHEMA.parse().expect("our schema is valid")));
        let config = SerializerConfig::new(schema);
        let (avro, json, out, back) = (vec![], vec![], vec![], Batch::new());
        let mut forms = Self { batch, row, foreign, foreign_json, schema, config, avro, json, out, back };
        forms.avro_encode();
        forms.avro = forms.out.clone();
        forms.serde_avro_encode();
        assert_eq!(forms.avro, forms.out, "both write the same Avro");
        forms.json_encode();
        forms.json = forms.out.clone();
        forms.serde_json_encode();
        assert_eq!(forms.json, forms.out, "both write the same JSON");
        forms
    }

    fn meta() -> SampleMeta<'static> {
        SampleMeta {
            tag: black_box(TAG),
            def: 1,
            read_time: Micros(TIME.0 + 2000),
            device_time: None,
            source: black_box(SOURCE),
            seq: 1_849_123_840_000_123,
        }
    }

    fn avro_encode(&mut self) {
        self.out.clear();
        black_box(avro::encode(&Self::meta(), black_box(&self.row), &self.batch.heap, &mut self.out));
    }

    fn serde_avro_encode(&mut self) {
        self.out.clear();
        serde_avro_fast::to_datum(black_box(&self.foreign), &mut self.out, &mut self.config).expect("serde_avro_fast writes a sample");
    }

    fn json_encode(&mut self) {
        self.out.clear();
        black_box(json::encode(&Self::meta(), black_box(&self.row), &self.batch.heap, &mut self.out));
    }

    fn serde_json_encode(&mut self) {
        self.out.clear();
        serde_json::to_writer(&mut self.out, black_box(&self.foreign_json)).expect("serde_json writes a sample");
    }

    fn avro_decode(&mut self) {
        self.room();
        avro::decode(black_box(&self.avro), &mut self.back).expect("we read our own");
    }

    fn serde_avro_decode(&mut self) {
        let read: Foreign = serde_avro_fast::from_datum_slice(black_box(&self.avro), self.schema).expect("serde_avro_fast reads a sample");
        black_box(read);
    }

    fn json_decode(&mut self) {
        self.room();
        json::decode(black_box(&self.json), &mut self.back).expect("we read our own");
    }

    fn serde_json_decode(&mut self) {
        let read: ForeignJson = serde_json::from_slice(black_box(&self.json)).expect("serde_json reads a sample");
        black_box(read);
    }

    /// A batch takes a thousand records, as from Kafka.
    fn room(&mut self) {
        if self.back.rows.len() >= 1000 {
            self.back.clear();
        }
    }
}
