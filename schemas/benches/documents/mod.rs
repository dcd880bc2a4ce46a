//! One order as a document, checked and converted by a contract, and the same by those who do it with a tree or a type in between.

use millrace_schemas::contract::{Contract, Kind, Work};
use prost_reflect::prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde::{Deserialize, Serialize};
use serde_avro_fast::ser::SerializerConfig;
use std::hint::black_box;

const DOCUMENT: &str = r#"{"id":"4711-0815","quantity":1200,"weight":12.625,"due":1795251600500,"customer":"Acme Detroit","note":null,
 "lines":[{"part":"A-100","count":4,"length":1.5},{"part":"B-200","count":12,"length":0.75},{"part":"C-300","count":1,"length":12.0}]}"#;
const AVRO: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"string"},{"name":"quantity","type":"long"},
 {"name":"weight","type":"double"},{"name":"due","type":{"type":"long","logicalType":"timestamp-millis"}},{"name":"customer","type":"string"},
 {"name":"note","type":["null","string"],"default":null},{"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[
 {"name":"part","type":"string"},{"name":"count","type":"long"},{"name":"length","type":"double"}]}}}]}"#;
const JSON: &str = r##"{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","required":["id","quantity","due"],
 "additionalProperties":false,"properties":{"id":{"type":"string","pattern":"^[0-9-]+$"},"quantity":{"type":"integer","minimum":0},
 "weight":{"type":"number","maximum":1000},"due":{"type":"integer"},"customer":{"type":"string","maxLength":80},"note":{"type":["null","string"]},
 "lines":{"type":"array","maxItems":100,"items":{"$ref":"#/$defs/line"}}},"$defs":{"line":{"type":"object","required":["part","count"],
 "properties":{"part":{"type":"string"},"count":{"type":"integer","minimum":1},"length":{"type":"number"}}}}}"##;
const PROTO: &str = r#"syntax = "proto3"; message Order { string id = 1; int64 quantity = 2; double weight = 3; int64 due = 4; string customer = 5;
 optional string note = 6; repeated Line lines = 7; message Line { string part = 1; int64 count = 2; double length = 3; } }"#;

#[derive(Serialize, Deserialize)]
struct Order {
    id: String,
    quantity: i64,
    weight: f64,
    due: i64,
    customer: String,
    note: Option<String>,
    lines: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    part: String,
    count: i64,
    length: f64,
}

pub struct Documents {
    contracts: [Contract; 3],
    validator: jsonschema::Validator,
    avro: serde_avro_fast::Schema,
    message: MessageDescriptor,
    order: Order,
    work: Work,
    out: Vec<u8>,
}

type Run = fn(&mut Documents);

impl Documents {
    /// What, by us, by others.
    pub const PAIRS: [(&'static str, Run, Run); 4] = [
        ("JSON Schema / bare jsonschema", |d| d.fit(0), Self::bare_jsonschema),
        ("Avro / serde with a type", |d| d.fit(1), Self::typed_avro),
        ("Avro / encoding alone", |d| d.fit(1), Self::encoded_avro),
        ("Protobuf / prost-reflect", |d| d.fit(2), Self::dynamic_message),
    ];

    pub fn new() -> Self {
        let compile = |kind, text| Contract::compile(kind, text, None, &mut |_| None).expect("is a schema");
        let mut pool = protox::Compiler::with_file_resolver(One);
        pool.open_file("order.proto").expect("is Protobuf");
        Self {
            contracts: [compile(Kind::Json, JSON), compile(Kind::Avro, AVRO), compile(Kind::Protobuf, PROTO)],
            validator: jsonschema::validator_for(&serde_json::from_str(JSON).expect("is JSON")).expect("is a schema"),
            avro: AVRO.parse().expect("is Avro"),
            message: pool.descriptor_pool().get_message_by_name("Order").expect("is there"),
            order: serde_json::from_str(DOCUMENT).expect("is an order"),
            work: Work::default(),
            out: Vec::new(),
        }
    }

    fn fit(&mut self, contract: usize) {
        self.out.clear();
        self.contracts[contract].fit(black_box(DOCUMENT.as_bytes()), &mut self.out, &mut self.work).expect("fits");
    }

    fn bare_jsonschema(&mut self) {
        let value: serde_json::Value = serde_json::from_slice(black_box(DOCUMENT.as_bytes())).expect("is JSON");
        assert!(self.validator.is_valid(&value));
    }

    fn typed_avro(&mut self) {
        let order: Order = serde_json::from_slice(black_box(DOCUMENT.as_bytes())).expect("is an order");
        self.out = serde_avro_fast::to_datum(&order, std::mem::take(&mut self.out), &mut SerializerConfig::new(&self.avro)).expect("fits");
        self.out.clear();
    }

    fn encoded_avro(&mut self) {
        let order = black_box(&self.order);
        self.out = serde_avro_fast::to_datum(order, std::mem::take(&mut self.out), &mut SerializerConfig::new(&self.avro)).expect("fits");
        self.out.clear();
    }

    fn dynamic_message(&mut self) {
        let mut json = serde_json::Deserializer::from_slice(black_box(DOCUMENT.as_bytes()));
        let message = DynamicMessage::deserialize(self.message.clone(), &mut json).expect("fits");
        self.out.clear();
        message.encode(&mut self.out).expect("there is room");
    }
}

struct One;

impl protox::file::FileResolver for One {
    fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
        protox::file::File::from_source(name, PROTO)
    }
}
