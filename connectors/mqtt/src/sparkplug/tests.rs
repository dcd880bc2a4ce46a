//! The host against messages: vectors of real encoders, the specification's rules one by one, and arbitrary sequences.

use super::*;
use crate::topic::{Filter, Template};
use futures_util::FutureExt;
use millrace_contract::{Loss, SourceIo, Status, Structure, TagOptions};
use millrace_schemas::{Batch, Micros, Origin, RouteId, StatusCode, TimeSource};
use millrace_testkit::{Owned, Rejected, Sample, TestHost};
use proptest::prelude::*;
use prost::Message as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tahu's messages through a generated decoder: builds payloads, and is the oracle of the reader in place.
mod tahu {
    use prost::{Message, Oneof};

    #[derive(Clone, PartialEq, Message)]
    pub struct Payload {
        #[prost(uint64, optional, tag = "1")]
        pub timestamp: Option<u64>,
        #[prost(message, repeated, tag = "2")]
        pub metrics: Vec<Metric>,
        #[prost(uint64, optional, tag = "3")]
        pub seq: Option<u64>,
        #[prost(string, optional, tag = "4")]
        pub uuid: Option<String>,
        #[prost(bytes = "vec", optional, tag = "5")]
        pub body: Option<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Metric {
        #[prost(string, optional, tag = "1")]
        pub name: Option<String>,
        #[prost(uint64, optional, tag = "2")]
        pub alias: Option<u64>,
        #[prost(uint64, optional, tag = "3")]
        pub timestamp: Option<u64>,
        #[prost(uint32, optional, tag = "4")]
        pub datatype: Option<u32>,
        #[prost(bool, optional, tag = "5")]
        pub is_historical: Option<bool>,
        #[prost(bool, optional, tag = "6")]
        pub is_transient: Option<bool>,
        #[prost(bool, optional, tag = "7")]
        pub is_null: Option<bool>,
        #[prost(message, optional, tag = "9")]
        pub properties: Option<PropertySet>,
        #[prost(oneof = "Value", tags = "10, 11, 12, 13, 14, 15, 16, 18")]
        pub value: Option<Value>,
    }

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Value {
        #[prost(uint32, tag = "10")]
        Int(u32),
        #[prost(uint64, tag = "11")]
        Long(u64),
        #[prost(float, tag = "12")]
        Float(f32),
        #[prost(double, tag = "13")]
        Double(f64),
        #[prost(bool, tag = "14")]
        Bool(bool),
        #[prost(string, tag = "15")]
        Text(String),
        #[prost(bytes, tag = "16")]
        Bytes(Vec<u8>),
        #[prost(message, tag = "18")]
        Template(Template),
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Template {
        #[prost(message, repeated, tag = "2")]
        pub metrics: Vec<Metric>,
        #[prost(bool, optional, tag = "5")]
        pub is_definition: Option<bool>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct PropertySet {
        #[prost(string, repeated, tag = "1")]
        pub keys: Vec<String>,
        #[prost(message, repeated, tag = "2")]
        pub values: Vec<PropertyValue>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct PropertyValue {
        #[prost(uint32, optional, tag = "1")]
        pub datatype: Option<u32>,
        #[prost(uint32, optional, tag = "3")]
        pub int: Option<u32>,
        #[prost(string, optional, tag = "8")]
        pub text: Option<String>,
    }
}

use tahu::Value as Tahu;

/// 2025-11-21T04:40:00Z, in milliseconds: the time of all vectors.
const T: u64 = 1_763_700_000_000;

fn metric(name: &str, alias: u64, datatype: u32, value: Tahu) -> tahu::Metric {
    tahu::Metric {
        name: Some(name).filter(|name| !name.is_empty()).map(str::to_owned),
        alias: Some(alias).filter(|alias| *alias > 0),
        datatype: Some(datatype).filter(|datatype| *datatype > 0),
        value: Some(value),
        ..tahu::Metric::default()
    }
}

fn payload(seq: Option<u64>, metrics: Vec<tahu::Metric>) -> Vec<u8> {
    tahu::Payload { timestamp: Some(T), seq, metrics, ..tahu::Payload::default() }.encode_to_vec()
}

fn bd_seq(number: u64) -> tahu::Metric {
    metric("bdSeq", 0, 4, Tahu::Long(number))
}

/// A host, an engine's stand-in, and a clock that stands still until it is told to go on.
struct Plant {
    engine: TestHost,
    io: SourceIo,
    host: Host,
    now: Instant,
}

fn route(filter: &str, at: &str, tag: &str) -> Route {
    let template = |text| Template::read(text, Variable::parse).unwrap();
    Route {
        id: RouteId(0),
        filter: Filter::parse(filter).unwrap(),
        topic: Arc::from("telemetry"),
        at: template(at),
        tag: template(tag),
        options: TagOptions::default(),
        confirm: None,
    }
}

impl Plant {
    fn new() -> Self {
        Self::with(HostConfig::default(), vec![route("spBv1.0/g/#", "{node}/{device}", "{metric}")])
    }

    fn with(config: HostConfig, routes: Vec<Route>) -> Self {
        Self::on(TestHost::new(), config, routes)
    }

    fn on(engine: TestHost, config: HostConfig, routes: Vec<Route>) -> Self {
        let mut plant = Self { io: engine.io(), engine, host: Host::new(config, routes), now: Instant::now() };
        plant.host.will();
        plant.host.on_connect(plant.now, &plant.io);
        plant
    }

    /// The process starts again: what was durable is all that is known.
    fn restart(self) -> Self {
        let engine = TestHost::new();
        let positions = self.engine.positions();
        let moved: Vec<(&str, &[u8])> = positions.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        engine.io().send(Batch::new(), &moved).now_or_never().unwrap();
        Self::on(engine, HostConfig::default(), vec![route("spBv1.0/g/#", "{node}/{device}", "{metric}")])
    }

    fn message(&mut self, message: Message<'_>) -> Vec<Outgoing> {
        let mut batch = Batch { read_time: Micros(T as i64 * 1000 + 5000), ..Batch::new() };
        let out = self.host.on_message(message, self.now, &mut batch, &self.io);
        let moved = self.host.take_moved();
        let moved: Vec<(&str, &[u8])> = moved.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        self.io.send(batch, &moved).now_or_never().unwrap();
        out
    }

    /// Hands `g/VERB/...` over; returns what it wants to publish.
    fn send(&mut self, topic: &str, payload: &[u8]) -> Vec<Outgoing> {
        self.message(Message { topic: &format!("spBv1.0/g/{topic}"), payload, retain: false, dup: false })
    }

    fn after(&mut self, seconds: u64) -> Vec<Outgoing> {
        self.now += Duration::from_secs(seconds);
        self.host.tick(self.now, &self.io)
    }

    fn samples(&self) -> Vec<Sample> {
        self.engine.samples()
    }

    fn last(&self, tag: &str) -> Sample {
        self.samples().into_iter().rfind(|sample| sample.tag == tag).unwrap_or_else(|| panic!("no sample of {tag}"))
    }

    fn value(&self, tag: &str) -> Owned {
        self.last(tag).value
    }

    fn rejects(&self) -> Vec<Rejected> {
        self.engine.rejects()
    }

    /// Node `n` with `speed` under alias 1, Int32, seq 0, bdSeq 7; device `d` with `load` under alias 1, Double, seq 1.
    fn born() -> Self {
        let mut plant = Self::new();
        plant.send("NBIRTH/n", &payload(Some(0), vec![metric("speed", 1, 3, Tahu::Int(10)), bd_seq(7)]));
        plant.send("DBIRTH/n/d", &payload(Some(1), vec![metric("load", 1, 10, Tahu::Double(0.5))]));
        plant
    }
}

fn is_rebirth_of(out: &[Outgoing], node: &str) -> bool {
    let [request] = out else { return false };
    let payload = tahu::Payload::decode(&request.payload[..]).unwrap();
    assert_eq!((request.qos, request.retain), (0, false));
    assert_eq!(payload.metrics[0].name.as_deref(), Some("Node Control/Rebirth"));
    assert_eq!((payload.metrics[0].datatype, &payload.metrics[0].value), (Some(11), &Some(Tahu::Bool(true))));
    assert_eq!(payload.seq, None, "a command has no sequence number");
    request.topic == format!("spBv1.0/g/NCMD/{node}")
}

// Written by these encoders' own code; each metric is {name, type, value} as the table in `scalars_of_both_encoders`:
//   npm sparkplug-payload 1.0.3:  get('spBv1.0').encodePayload({timestamp: T, seq: 0, metrics: [...]}), bodies by pako.gzip and pako.deflate
//   PyPI pysparkplug 0.6.1:       NBirth(timestamp=T, seq=0, metrics=(...)).encode(include_dtypes=True), NData(...).encode()
const JS_NBIRTH: &[u8] = include_bytes!("vectors/tahu-js-nbirth.bin");
const JS_NDEATH: &[u8] = include_bytes!("vectors/tahu-js-ndeath.bin");
const JS_DBIRTH: &[u8] = include_bytes!("vectors/tahu-js-dbirth.bin");
const JS_DDATA: &[u8] = include_bytes!("vectors/tahu-js-ddata.bin");
const JS_GZIP: &[u8] = include_bytes!("vectors/tahu-js-ddata-gzip.bin");
const JS_DEFLATE: &[u8] = include_bytes!("vectors/tahu-js-ddata-deflate.bin");
const PY_NBIRTH: &[u8] = include_bytes!("vectors/pysparkplug-nbirth.bin");
const PY_NDATA: &[u8] = include_bytes!("vectors/pysparkplug-ndata.bin");
const PY_NDEATH: &[u8] = include_bytes!("vectors/pysparkplug-ndeath.bin");

/// What both encoders were given, and what must come out.
fn scalars_of_both_encoders() -> Vec<(&'static str, &'static str, Owned)> {
    vec![
        ("i8", "Int8", Owned::Int(-12)),
        ("i16", "Int16", Owned::Int(-1234)),
        ("i32", "Int32", Owned::Int(-123_456)),
        ("i64", "Int64", Owned::Int(-9_007_199_254_740_993)),
        ("u8", "UInt8", Owned::Int(250)),
        ("u16", "UInt16", Owned::Int(65_000)),
        ("u32", "UInt32", Owned::Int(4_294_967_284)),
        ("u64", "UInt64", Owned::UInt(u64::MAX)),
        ("f32", "Float", Owned::Double(f64::from(0.1f32))),
        ("f64", "Double", Owned::Double(0.1)),
        ("bool", "Boolean", Owned::Bool(true)),
        ("string", "String", Owned::Text("Grüße".into())),
        ("text", "Text", Owned::Text("t".into())),
        ("uuid", "UUID", Owned::Text("4a6ff8ba-ed32-4bd5-8e1d-9c2e8c9d4f2a".into())),
        ("when", "DateTime", Owned::Int(T as i64 * 1000)),
        ("bytes", "Bytes", Owned::Bytes(vec![0, 255, 1])),
        ("file", "File", Owned::Bytes(b"abc".to_vec())),
    ]
}

#[test]
fn a_birth_of_tahu_js_comes_out_as_it_went_in() {
    let mut plant = Plant::new();
    plant.send("NBIRTH/n", JS_NBIRTH);
    assert_eq!(plant.rejects(), []);
    for (name, kind, value) in scalars_of_both_encoders() {
        let sample = plant.last(&format!("n/{name}"));
        assert_eq!((&sample.value, sample.status, sample.origin), (&value, StatusCode::GOOD, Origin::Initial), "{name}");
        assert_eq!((sample.time.0, sample.time_source), (T as i64 * 1000, TimeSource::Device), "{name}");
        let tag = &plant.engine.tags()[plant.engine.tag(&sample.tag).unwrap().0 as usize];
        assert_eq!(tag.kind.as_deref(), Some(kind), "{name}");
        assert_eq!((&*tag.part, tag.address.as_str()), ("g/n", format!("g/n:{name}").as_str()));
    }
    let null = plant.last("n/null");
    assert_eq!((null.value, null.status), (Owned::Null, StatusCode::BAD_NO_DATA));
    let old = plant.last("n/old");
    assert_eq!((old.origin, old.time.0), (Origin::Backfill, (T as i64 - 60_000) * 1000));
    let table = r#"{"columns":["a","b","c"],"types":["Int32","String","Double"],"rows":[[-1,"x",0.5],[2,"y","NaN"]]}"#;
    assert_eq!(plant.value("n/table"), Owned::Struct(table.into()));

    // Templates: one tag per leaf, nested ones and parameters too; their definitions are no values.
    assert_eq!(plant.value("n/pump/speed"), Owned::Double(2.5));
    assert_eq!(plant.value("n/pump/on"), Owned::Bool(true));
    assert_eq!(plant.value("n/pump/motor/rpm"), Owned::Int(-5));
    assert_eq!(plant.value("n/pump/size"), Owned::Int(3));
    assert!(plant.samples().iter().all(|sample| !sample.tag.contains("_types_") && !sample.tag.contains("bdSeq")));

    // Properties: quality to the value's status, the others to the catalog.
    let stale = plant.last("n/stale");
    assert_eq!((stale.value, stale.status), (Owned::Double(1.5), StatusCode::BAD_NO_COMMUNICATION));
    let tag = &plant.engine.tags()[plant.engine.tag("n/stale").unwrap().0 as usize];
    assert_eq!((tag.options.unit.as_deref(), tag.options.eu), (Some("degC"), Some([-40.0, 900.0])));
    assert_eq!(tag.options.description.as_deref(), Some("Oven"));
    assert_eq!(tag.options.labels.as_ref().unwrap()["readOnly"], "true");
}

#[test]
fn a_birth_of_pysparkplug_comes_out_as_it_went_in() {
    let mut plant = Plant::new();
    plant.send("NBIRTH/n", PY_NBIRTH);
    assert_eq!(plant.rejects(), []);
    let ints = |items: &[i64]| Owned::Array(items.iter().map(|item| Owned::Int(*item)).collect(), vec![]);
    let doubles = |items: &[f64]| Owned::Array(items.iter().map(|item| Owned::Double(*item)).collect(), vec![]);
    let when = T as i64 * 1000;
    let bools = [false, false, true, true, false, true, false, false, true, true, false, true];
    let arrays = [
        ("i8s", ints(&[-1, 2])),
        ("i16s", ints(&[-300, 2])),
        ("i32s", ints(&[-70_000, 2])),
        ("i64s", ints(&[-(1 << 40), 2])),
        ("u8s", ints(&[255, 2])),
        ("u16s", ints(&[65_535, 2])),
        ("u32s", ints(&[4_294_967_295, 2])),
        ("u64s", Owned::Array(vec![Owned::UInt(u64::MAX), Owned::UInt(2)], vec![])),
        ("f32s", doubles(&[0.5, -1.25])),
        ("f64s", doubles(&[0.1, -1.25])),
        ("bools", Owned::Array(bools.map(Owned::Bool).to_vec(), vec![])),
        ("strings", Owned::Array(["ABC", "", "hello"].map(|text| Owned::Text(text.into())).to_vec(), vec![])),
        ("whens", ints(&[when, when])),
    ];
    let scalars = scalars_of_both_encoders().into_iter().map(|(name, _, value)| (name, value));
    for (name, value) in scalars.chain(arrays) {
        let sample = plant.last(&format!("n/{name}"));
        assert_eq!((&sample.value, sample.status), (&value, StatusCode::GOOD), "{name}");
    }
    assert_eq!(plant.last("n/null").status, StatusCode::BAD_NO_DATA);
    assert_eq!(plant.last("n/old").origin, Origin::Backfill);

    // Data without datatypes: those of the birth hold.
    plant.send("NDATA/n", PY_NDATA);
    assert_eq!((plant.value("n/i8"), plant.value("n/u32")), (Owned::Int(-13), Owned::Int(5)));
    assert_eq!(plant.last("n/i8").origin, Origin::Change);
    // Its own death certificate carries the next session's number.
    plant.send("NDEATH/n", PY_NDEATH);
    assert_eq!(plant.engine.gone(), ["g/n"]);
    assert_eq!(plant.rejects(), []);
}

#[test]
fn data_of_tahu_js_is_resolved_by_alias_and_by_name_compressed_or_not() {
    let mut plant = Plant::new();
    plant.send("NBIRTH/n", JS_NBIRTH);
    plant.send("DBIRTH/n/d", JS_DBIRTH);
    assert_eq!((plant.value("n/d/speed"), plant.value("n/d/count")), (Owned::Int(-1), Owned::Int(3_000_000_000)));
    plant.send("DDATA/n/d", JS_DDATA);
    assert_eq!((plant.value("n/d/speed"), plant.value("n/d/count")), (Owned::Int(-2), Owned::Int(1)));
    plant.send("DDATA/n/d", JS_GZIP);
    assert_eq!(plant.value("n/d/speed"), Owned::Int(-3));
    plant.send("DDATA/n/d", JS_DEFLATE);
    assert_eq!((plant.rejects().len(), plant.samples().len()), (0, plant.samples().len()));
    assert!(plant.after(5).is_empty(), "both carry seq 3: a repeat is no gap");
    assert_eq!(plant.engine.lost("sequence_gap"), 0);
    plant.send("NDEATH/n", JS_NDEATH);
    assert_eq!(plant.engine.gone(), ["g/n", "g/n/d"]);
}

#[test]
fn negative_and_unsigned_integers_are_read_from_any_member_an_encoder_chose() {
    use datatype::{DataType as D, Mismatch, Typed, typed};
    use wire::Member as M;
    let table = [
        (D::Int8, M::Int(0xF4), Ok(-12)),
        (D::Int8, M::Int(0xFFFF_FFF4), Ok(-12)),
        (D::Int8, M::Long(-12i64 as u64), Ok(-12)),
        (D::Int8, M::Long(0xFFFF_FFF4), Ok(-12)),
        (D::Int8, M::Int(127), Ok(127)),
        (D::Int8, M::Int(256), Err(Mismatch)),
        (D::Int16, M::Int(0xFFF4), Ok(-12)),
        (D::Int16, M::Int(0xFFFF_FFF4), Ok(-12)),
        (D::Int16, M::Int(0x1_0000), Err(Mismatch)),
        (D::Int32, M::Int(0xFFFF_FFF4), Ok(-12)),
        (D::Int32, M::Long(0xFFFF_FFF4), Ok(-12)),
        (D::Int32, M::Long(-12i64 as u64), Ok(-12)),
        (D::Int32, M::Long(1 << 32), Err(Mismatch)),
        (D::Int64, M::Long(i64::MIN as u64), Ok(i64::MIN)),
        (D::Int64, M::Int(12), Ok(12)),
        (D::UInt8, M::Int(255), Ok(255)),
        (D::UInt8, M::Int(256), Err(Mismatch)),
        (D::UInt32, M::Int(u32::MAX), Ok(4_294_967_295)),
        (D::UInt32, M::Long(4_294_967_295), Ok(4_294_967_295)),
        (D::UInt32, M::Long(1 << 32), Err(Mismatch)),
        (D::DateTime, M::Long(T), Ok(T as i64 * 1000)),
        (D::DateTime, M::Long(u64::MAX), Ok(-1000)),
        (D::DateTime, M::Long(1 << 62), Err(Mismatch)),
        (D::Int32, M::Double(1.0), Err(Mismatch)),
        (D::Int32, M::Text(b"1"), Err(Mismatch)),
    ];
    for (datatype, member, expected) in table {
        assert_eq!(typed(datatype, member), expected.map(Typed::Int), "{datatype:?} {member:?}");
    }
    assert_eq!(typed(D::Boolean, M::Int(1)), Ok(Typed::Bool(true)));
    assert_eq!(typed(D::Float, M::Double(0.1)), Ok(Typed::Double(0.1)));
    assert_eq!(typed(D::String, M::Text(&[0xFF])), Err(Mismatch));
    assert_eq!(typed(D::Unknown, M::Long(u64::MAX)), Ok(Typed::UInt(u64::MAX)));
}

#[test]
fn aliases_are_known_after_a_restart_and_the_birth_is_asked_for() {
    let plant = Plant::born();
    let mut plant = plant.restart();
    plant.send("NDATA/n", &payload(Some(9), vec![metric("", 1, 0, Tahu::Int(-11i32 as u32))]));
    plant.send("DDATA/n/d", &payload(Some(10), vec![metric("", 1, 0, Tahu::Double(0.75))]));
    assert_eq!((plant.value("n/speed"), plant.value("n/d/load")), (Owned::Int(-11), Owned::Double(0.75)));
    assert_eq!(plant.rejects(), []);
    assert!(is_rebirth_of(&plant.after(3), "n"), "what changed in the meantime is unknown");
    // The same birth once more: nothing to keep that isn't kept.
    let before = plant.engine.positions();
    plant.send("NBIRTH/n", &payload(Some(0), vec![metric("speed", 1, 3, Tahu::Int(12)), bd_seq(7)]));
    plant.send("DBIRTH/n/d", &payload(Some(1), vec![metric("load", 1, 10, Tahu::Double(0.5))]));
    assert_eq!(plant.engine.positions(), before);
    assert!(plant.after(60).iter().all(|out| !out.topic.contains("NCMD")), "the birth answered");
}

#[test]
fn a_node_that_died_is_not_trusted_after_a_restart() {
    let mut plant = Plant::born();
    plant.send("NDEATH/n", &payload(None, vec![bd_seq(7)]));
    let mut plant = plant.restart();
    assert!(plant.after(5).is_empty(), "the dead are not asked");
    plant.send("NDATA/n", &payload(Some(9), vec![metric("", 1, 0, Tahu::Int(1))]));
    assert_eq!((plant.samples().len(), plant.rejects().len()), (0, 1));
}

#[test]
fn an_unknown_alias_is_a_dead_letter_and_a_request_within_limits() {
    let mut plant = Plant::new();
    let data = payload(Some(5), vec![metric("", 9, 3, Tahu::Int(1))]);
    let out = plant.send("NDATA/n", &data);
    assert!(is_rebirth_of(&out, "n"));
    let [reject] = &plant.rejects()[..] else { panic!("{:?}", plant.rejects()) };
    assert_eq!((reject.payload.as_slice(), reject.route), (data.as_slice(), 0));
    assert_eq!(reject.reason, "g/n: alias 9 is in no birth that is known");
    assert_eq!(reject.headers[0], ("mqtt.topic".into(), Some(b"spBv1.0/g/NDATA/n".to_vec())));

    // Not twice within ten seconds, then twice as seldom after each that is not answered.
    let mut asked = Vec::new();
    for second in 1..=100u64 {
        let seq = Some(5 + second);
        let mut out = plant.send("NDATA/n", &payload(seq, vec![metric("", 9, 3, Tahu::Int(1))]));
        out.extend(plant.after(1));
        if !out.is_empty() {
            asked.push(second);
        }
    }
    assert_eq!(asked, [10, 30, 70]);
    assert_eq!(plant.rejects().len(), 101, "each payload is kept");
}

#[test]
fn a_metric_that_is_named_and_typed_is_a_tag_though_its_birth_was_missed() {
    let mut plant = Plant::new();
    let out = plant.send("DDATA/n/d", &payload(Some(5), vec![metric("load", 0, 10, Tahu::Double(1.5))]));
    assert_eq!(plant.value("n/d/load"), Owned::Double(1.5));
    assert!(is_rebirth_of(&out, "n"));
    assert_eq!(plant.rejects(), []);
    plant.after(1);
    assert_eq!(plant.engine.alive("g/n/d"), 0, "without a birth nothing vouches for it");
    // Without its type it could be anything.
    plant.send("DDATA/n/d", &payload(Some(6), vec![metric("count", 0, 0, Tahu::Int(0xFFFF_FFFF))]));
    assert_eq!(plant.rejects()[0].reason, "g/n/d: metric count is in no birth and has no datatype");
}

#[test]
fn an_alias_with_another_type_than_the_births_is_not_believed() {
    let mut plant = Plant::born();
    let out = plant.send("NDATA/n", &payload(Some(2), vec![metric("", 1, 12, Tahu::Text("x".into()))]));
    assert!(is_rebirth_of(&out, "n"));
    assert_eq!(plant.rejects().len(), 1);
    assert_eq!(plant.value("n/speed"), Owned::Int(10));
}

#[test]
fn a_gap_is_lost_after_the_reorder_time_and_the_birth_asked_for() {
    let mut plant = Plant::born();
    let data = |seq| payload(Some(seq), vec![metric("", 1, 0, Tahu::Int(seq as u32))]);
    plant.send("NDATA/n", &data(2));
    assert!(plant.send("NDATA/n", &data(6)).is_empty());
    assert_eq!(plant.value("n/speed"), Owned::Int(6), "what came is taken at once");
    plant.send("NDATA/n", &data(4));
    assert!(plant.after(1).is_empty());
    assert!(is_rebirth_of(&plant.after(1), "n"));
    assert_eq!(plant.engine.lost(Loss::SequenceGap.as_str()), 2, "3 and 5");
}

#[test]
fn only_its_own_sessions_death_buries_a_node() {
    let mut plant = Plant::born();
    plant.send("NDEATH/n", &payload(None, vec![bd_seq(6)]));
    assert_eq!(plant.engine.gone(), [""; 0], "the will of the session before");
    plant.after(1);
    assert_eq!((plant.engine.alive("g/n"), plant.engine.alive("g/n/d")), (2, 2));
    assert!(plant.host.ends_batch("spBv1.0/g/NDEATH/n") && plant.host.ends_batch("spBv1.0/g/DDEATH/n/d"));
    assert!(!plant.host.ends_batch("spBv1.0/g/NDATA/n"));

    plant.send("NDEATH/n", &payload(None, vec![metric("", 9, 0, Tahu::Long(6))]));
    assert_eq!(plant.engine.gone(), [""; 0], "the same will, its bdSeq by its alias alone");

    plant.send("NDEATH/n", &payload(None, vec![metric("bdSeq", 0, 8, Tahu::Int(7))]));
    assert_eq!(plant.engine.gone(), ["g/n", "g/n/d"]);
    assert!(matches!(plant.engine.status("g/n"), Some(Status::Degraded(_))));
    plant.send("NDEATH/n", &payload(None, vec![bd_seq(7)]));
    assert_eq!(plant.engine.gone().len(), 2, "the will after the farewell");
    plant.after(1);
    assert_eq!(plant.engine.alive("g/n"), 2, "nothing vouches for the dead");

    // An alias means nothing now; a name still does. Either says that a birth was missed.
    let out = plant.send("NDATA/n", &payload(Some(2), vec![metric("", 1, 0, Tahu::Int(1)), metric("speed", 0, 0, Tahu::Int(2))]));
    assert!(is_rebirth_of(&out, "n"));
    assert_eq!((plant.value("n/speed"), plant.rejects().len()), (Owned::Int(2), 1));

    plant.send("NBIRTH/n", &payload(Some(0), vec![metric("speed", 1, 3, Tahu::Int(20)), bd_seq(8)]));
    assert_eq!(plant.engine.status("g/n"), Some(Status::Running));
    assert_eq!(plant.last("n/speed").origin, Origin::Change, "not the first birth since the start");
}

#[test]
fn a_member_of_a_template_may_come_by_its_alias_alone() {
    let mut plant = Plant::born();
    let pump = |metrics| Tahu::Template(tahu::Template { metrics, is_definition: Some(false) });
    let born = pump(vec![metric("flow", 5, 10, Tahu::Double(1.5)), metric("on", 6, 11, Tahu::Bool(true))]);
    plant.send("NBIRTH/n", &payload(Some(0), vec![metric("pump", 4, 19, born), bd_seq(7)]));
    plant.send("NDATA/n", &payload(Some(1), vec![metric("", 4, 19, pump(vec![metric("", 5, 0, Tahu::Double(2.5))]))]));
    assert_eq!(plant.value("n/pump/flow"), Owned::Double(2.5));
    assert_eq!(plant.rejects().len(), 0);
}

#[test]
fn a_device_dies_alone_and_one_that_is_not_born_again_is_gone() {
    let mut plant = Plant::born();
    plant.send("DDEATH/n/d", &payload(Some(2), vec![]));
    assert_eq!(plant.engine.gone(), ["g/n/d"]);
    assert!(plant.send("DBIRTH/n/d", &payload(Some(3), vec![metric("load", 1, 10, Tahu::Double(1.0))])).is_empty());
    // A rebirth of the node without the device.
    plant.send("NBIRTH/n", &payload(Some(0), vec![metric("speed", 1, 3, Tahu::Int(20)), bd_seq(7)]));
    plant.after(9);
    assert_eq!(plant.engine.gone().len(), 1);
    plant.after(1);
    assert_eq!(plant.engine.gone(), ["g/n/d", "g/n/d"]);
}

#[test]
fn what_a_birth_does_not_name_any_more_is_retired() {
    let mut plant = Plant::new();
    let birth = |metrics| payload(Some(0), metrics);
    plant.send("NBIRTH/n", &birth(vec![metric("a", 1, 3, Tahu::Int(1)), metric("b", 2, 3, Tahu::Int(2)), bd_seq(1)]));
    let (a, b) = (plant.engine.tag("n/a").unwrap(), plant.engine.tag("n/b").unwrap());
    plant.send("NBIRTH/n", &birth(vec![metric("b", 1, 3, Tahu::Int(3)), metric("c", 2, 3, Tahu::Int(4)), bd_seq(1)]));
    assert_eq!(plant.engine.retired(), [a]);
    assert_eq!(plant.engine.tag("n/b"), Some(b));
    plant.send("NDATA/n", &payload(Some(1), vec![metric("", 1, 0, Tahu::Int(7)), metric("", 2, 0, Tahu::Int(8))]));
    assert_eq!((plant.value("n/b"), plant.value("n/c"), plant.value("n/a")), (Owned::Int(7), Owned::Int(8), Owned::Int(1)));
}

#[test]
fn a_template_stays_whole_where_the_config_says_so() {
    let mut whole = route("spBv1.0/g/#", "{node}", "{metric_path}");
    whole.options.structure = Some(Structure::Json);
    let mut plant = Plant::with(HostConfig::default(), vec![whole]);
    plant.send("NBIRTH/n", JS_NBIRTH);
    assert_eq!(plant.value("n/pump"), Owned::Struct(r#"{"size":3,"speed":2.5,"on":true,"motor":{"rpm":-5}}"#.into()));
}

#[test]
fn some_members_of_a_template_may_come_alone_and_after_a_restart() {
    let template = |value: f64| {
        let members = vec![metric("speed", 0, 10, Tahu::Double(value))];
        Tahu::Template(tahu::Template { metrics: members, is_definition: Some(false) })
    };
    let mut plant = Plant::new();
    let both = Tahu::Template(tahu::Template {
        metrics: vec![metric("speed", 0, 10, Tahu::Double(1.0)), metric("on", 0, 11, Tahu::Bool(true))],
        is_definition: Some(false),
    });
    plant.send("NBIRTH/n", &payload(Some(0), vec![metric("pump", 4, 19, both), bd_seq(1)]));
    plant.send("NDATA/n", &payload(Some(1), vec![metric("", 4, 0, template(2.0))]));
    assert_eq!(plant.value("n/pump/speed"), Owned::Double(2.0));
    let null = tahu::Metric { alias: Some(4), is_null: Some(true), ..tahu::Metric::default() };
    plant.send("NDATA/n", &payload(Some(2), vec![null]));
    assert_eq!((plant.last("n/pump/on").value, plant.last("n/pump/on").status), (Owned::Null, StatusCode::BAD_NO_DATA));

    let mut plant = plant.restart();
    plant.send("NDATA/n", &payload(Some(3), vec![metric("", 4, 0, template(3.0))]));
    assert_eq!((plant.value("n/pump/speed"), plant.rejects().len()), (Owned::Double(3.0), 0));
    assert_eq!(plant.engine.tags().len(), 2);
}

#[test]
fn templates_nested_too_deeply_are_refused() {
    let mut inner = Tahu::Int(1);
    for _ in 0..40 {
        inner = Tahu::Template(tahu::Template { metrics: vec![metric("m", 0, 19, inner)], is_definition: Some(false) });
    }
    let mut plant = Plant::new();
    plant.send("NBIRTH/n", &payload(Some(0), vec![metric("deep", 1, 19, inner), metric("fine", 2, 3, Tahu::Int(1)), bd_seq(1)]));
    assert!(plant.rejects()[0].reason.contains("nested too deeply"), "{}", plant.rejects()[0].reason);
    assert_eq!(plant.value("n/fine"), Owned::Int(1));
}

#[test]
fn what_is_not_sparkplug_is_a_dead_letter_and_commands_are_nobodys_business() {
    let mut plant = Plant::with(HostConfig::default(), vec![route("spBv1.0/#", "{node}/{device}", "{metric}")]);
    let samples = plant.samples().len();
    plant.send("NDATA/n", b"{\"json\":true}");
    plant.send("HELLO/n", &payload(Some(2), vec![]));
    plant.send("NCMD/n", &payload(None, vec![metric("Node Control/Rebirth", 0, 11, Tahu::Bool(true))]));
    plant.send("DCMD/n/d", b"\xff\xff");
    plant.message(Message { topic: "spBv1.0/STATE/scada", payload: b"{\"online\":true}", retain: true, dup: false });
    let reasons: Vec<String> = plant.rejects().into_iter().map(|reject| reject.reason).collect();
    assert_eq!(
        reasons,
        [
            "spBv1.0/g/NDATA/n: the payload is not Sparkplug B: field 15 has another wire type",
            "topic spBv1.0/g/HELLO/n has the unknown verb HELLO"
        ]
    );
    assert_eq!(plant.samples().len(), samples);
}

#[test]
fn a_value_that_is_not_of_its_type_is_bad_and_its_payload_a_dead_letter() {
    let mut plant = Plant::born();
    plant.send("NDATA/n", &payload(Some(2), vec![metric("", 1, 0, Tahu::Text("fast".into()))]));
    let sample = plant.last("n/speed");
    assert_eq!((sample.value, sample.status), (Owned::Null, StatusCode::BAD_TYPE_MISMATCH));
    assert_eq!(plant.rejects()[0].reason, "g/n: the value of speed is no Int32");
}

#[test]
fn two_metrics_of_one_path_are_counted_and_named() {
    let mut plant = Plant::with(HostConfig::default(), vec![route("spBv1.0/g/#", "line", "{metric}")]);
    let birth = payload(Some(0), vec![metric("speed", 1, 3, Tahu::Int(1)), bd_seq(1)]);
    plant.send("NBIRTH/n1", &birth);
    plant.send("NBIRTH/n2", &birth);
    assert_eq!(plant.samples().len(), 1);
    assert_eq!(plant.engine.lost("path_clash"), 1);
    let reason = &plant.rejects()[0].reason;
    assert!(reason.contains("declared already") && reason.contains("set `at` and `tag`"), "{reason}");
    assert!(matches!(plant.engine.status("g/n2"), Some(Status::Degraded(_))));
}

#[test]
fn retained_messages_are_initial_values_and_say_nothing_about_life() {
    let mut plant = Plant::new();
    let retained = |plant: &mut Plant, topic: &str, payload: &[u8]| {
        plant.message(Message { topic: &format!("spBv1.0/g/{topic}"), payload, retain: true, dup: false })
    };
    retained(&mut plant, "NBIRTH/n", &payload(Some(0), vec![metric("speed", 1, 3, Tahu::Int(1)), bd_seq(1)]));
    retained(&mut plant, "NDATA/n", &payload(Some(77), vec![metric("", 1, 0, Tahu::Int(2))]));
    assert!(plant.samples().iter().all(|sample| sample.origin == Origin::Initial));
    assert_eq!(plant.samples().len(), 2);
    plant.after(10);
    assert_eq!((plant.engine.alive("g/n"), plant.engine.lost("sequence_gap")), (0, 0));
}

#[test]
fn after_a_reconnect_only_nodes_that_may_have_missed_something_are_asked() {
    let mut plant = Plant::born();
    plant.send("NBIRTH/other", &payload(Some(0), vec![bd_seq(1)]));
    plant.host.on_disconnect();
    assert!(plant.after(10).is_empty());
    plant.host.on_connect(plant.now, &plant.io);
    plant.send("NDATA/n", &payload(Some(2), vec![metric("", 1, 0, Tahu::Int(1))]));
    assert!(is_rebirth_of(&plant.after(3), "other"), "n went on where it was, other is silent");
    plant.after(1);
    assert_eq!((plant.engine.alive("g/other"), plant.engine.alive("g/n")), (1, 3), "other has only been born");
}

#[test]
fn state_is_published_retained_with_the_wills_timestamp_and_defended() {
    let config = HostConfig { id: Some("millrace".into()), primary: true, ..HostConfig::default() };
    let engine = TestHost::new();
    let io = engine.io();
    let mut host = Host::new(config.clone(), vec![route("spBv1.0/#", "{node}", "{metric}")]);
    assert_eq!(host.filters(), ["spBv1.0/STATE/millrace"]);
    let will = host.will().unwrap();
    let mut now = Instant::now();
    let [birth] = &host.on_connect(now, &io)[..] else { panic!("no birth") };
    let read = |out: &Outgoing| serde_json::from_slice::<serde_json::Value>(&out.payload).unwrap();
    assert_eq!((will.topic.as_str(), will.qos, will.retain), ("spBv1.0/STATE/millrace", 1, true));
    assert_eq!((birth.topic.as_str(), birth.qos, birth.retain), ("spBv1.0/STATE/millrace", 1, true));
    assert_eq!((&read(&will)["online"], &read(birth)["online"]), (&false.into(), &true.into()));
    assert_eq!(read(&will)["timestamp"], read(birth)["timestamp"]);
    let farewell = read(&host.farewell()[0]);
    assert_eq!(farewell["online"], false);
    assert!(farewell["timestamp"].as_i64() >= read(&will)["timestamp"].as_i64());

    // The broker delivers the will of an earlier connection late.
    let mut batch = Batch::new();
    let late = Message { topic: &will.topic, payload: &will.payload, retain: false, dup: false };
    host.on_message(late, now, &mut batch, &io);
    now += Duration::from_secs(5);
    assert_eq!(host.tick(now, &io), std::slice::from_ref(birth));
    assert!(batch.is_empty() && host.tick(now, &io).is_empty());

    let older = HostConfig { state: StateStyle::V2, ..config.clone() };
    let mut host = Host::new(older, vec![]);
    assert_eq!(host.will().unwrap(), Outgoing { topic: "STATE/millrace".into(), payload: b"OFFLINE".into(), qos: 1, retain: true });
    assert_eq!(host.on_connect(now, &io)[0].payload, b"ONLINE");

    for config in [HostConfig { primary: false, ..config.clone() }, HostConfig { passive: true, ..config }] {
        let mut host = Host::new(config, vec![]);
        assert_eq!((host.will(), host.on_connect(now, &io), host.filters().len()), (None, vec![], 0));
    }
}

#[test]
fn a_passive_host_never_publishes() {
    let config = HostConfig { passive: true, ..HostConfig::default() };
    let mut plant = Plant::with(config, vec![route("spBv1.0/g/#", "{node}", "{metric}")]);
    assert!(plant.send("NDATA/n", &payload(Some(5), vec![metric("", 9, 3, Tahu::Int(1))])).is_empty());
    assert!(plant.after(100).is_empty());
    assert_eq!(plant.rejects().len(), 1);
}

#[test]
fn a_host_config_that_contradicts_itself_says_so() {
    let config = HostConfig::default();
    assert_eq!(config.problem(), None);
    let id = |id: &str| Some(id.to_owned());
    for (config, part) in [
        (HostConfig { primary: true, ..config.clone() }, "needs an `id`"),
        (HostConfig { id: id("a/b"), ..config.clone() }, "one level"),
        (HostConfig { id: id("a"), primary: true, passive: true, ..config.clone() }, "choose one"),
    ] {
        assert!(config.problem().unwrap().contains(part));
    }
}

#[test]
fn many_nodes_are_not_asked_all_at_once() {
    let mut plant = Plant::new();
    let mut asked: Vec<usize> = vec![0];
    for node in 0..50 {
        asked[0] += plant.send(&format!("NDATA/n{node}"), &payload(Some(5), vec![metric("", 9, 3, Tahu::Int(1))])).len();
    }
    for _ in 0..3 {
        asked.push(plant.after(1).len());
    }
    assert_eq!(asked, [20, 20, 10, 0]);
}

#[test]
fn a_birth_with_fifty_thousand_metrics_is_taken_kept_in_pieces_and_resumed() {
    // Names that hardly compress.
    let name = |i: u64| format!("{:016x}{:016x}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15), (i + 7).wrapping_mul(0xD134_2543_DE82_EF95));
    let metrics: Vec<_> = (1..=50_000).map(|i| metric(&name(i), i, 10, Tahu::Double(i as f64))).chain([bd_seq(1)]).collect();
    let mut plant = Plant::new();
    plant.send("NBIRTH/n", &payload(Some(0), metrics));
    assert_eq!((plant.samples().len(), plant.rejects().len()), (50_000, 0));
    let positions = plant.engine.positions();
    assert!(positions.len() > 3 && positions.values().all(|value| value.len() <= 256 * 1024 + 16), "{} pieces", positions.len());

    let mut plant = plant.restart();
    plant.send("NDATA/n", &payload(Some(1), vec![metric("", 50_000, 0, Tahu::Double(-1.0))]));
    assert_eq!(plant.value(&format!("n/{}", name(50_000))), Owned::Double(-1.0));
    // A smaller birth takes the pieces that are too many away.
    plant.send("NBIRTH/n", &payload(Some(0), vec![metric("a", 1, 3, Tahu::Int(1)), bd_seq(1)]));
    assert_eq!(plant.engine.positions().len(), 2);
    assert_eq!(plant.engine.retired().len(), 50_000);
}

#[test]
fn a_birth_of_which_a_piece_is_missing_is_not_believed() {
    let plant = Plant::born();
    let engine = TestHost::new();
    let mut positions = plant.engine.positions();
    positions.insert("sparkplug:g/n#1".into(), vec![1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    positions.insert("sparkplug:elsewhere/n#0".into(), positions["sparkplug:g/n/d#0"].clone());
    let moved: Vec<(&str, &[u8])> = positions.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
    engine.io().send(Batch::new(), &moved).now_or_never().unwrap();
    let mut plant = Plant::on(engine, HostConfig::default(), vec![route("spBv1.0/g/#", "{node}/{device}", "{metric}")]);
    assert_eq!(plant.engine.tags().len(), 1, "the device's birth is whole");
    plant.send("NDATA/n", &payload(Some(3), vec![metric("", 1, 0, Tahu::Int(1))]));
    assert_eq!(plant.rejects().len(), 1);
    let left: Vec<String> = plant.engine.positions().into_keys().collect();
    assert_eq!(left, ["sparkplug:g/n", "sparkplug:g/n/d#0"]);
}

#[test]
fn a_compressed_body_that_grows_without_end_is_refused() {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..33 {
        encoder.write_all(&vec![0u8; 1 << 20]).unwrap();
    }
    let bomb = tahu::Payload { uuid: Some("SPBV1.0_COMPRESSED".into()), body: encoder.finish().ok(), ..tahu::Payload::default() };
    let mut plant = Plant::new();
    plant.send("NDATA/n", &bomb.encode_to_vec());
    assert!(plant.rejects()[0].reason.contains("inflates to more than"), "{}", plant.rejects()[0].reason);
}

#[test]
fn a_million_empty_metrics_in_two_bytes_each_are_refused() {
    let mut plant = Plant::new();
    plant.send("NBIRTH/n", &[0x12, 0x00].repeat(1_000_000));
    assert!(plant.rejects()[0].reason.contains("more than 500000 metrics"), "{}", plant.rejects()[0].reason);
}

#[test]
fn qualities_become_status_codes() {
    let with = |quality: i32| {
        let value = tahu::PropertyValue { datatype: Some(3), int: Some(quality as u32), text: None };
        tahu::PropertySet { keys: vec!["Quality".into()], values: vec![value] }
    };
    for (quality, status) in [
        (0, StatusCode::BAD),
        (192, StatusCode::GOOD),
        (500, StatusCode::BAD_NO_COMMUNICATION),
        (216, StatusCode::GOOD),
        (64, StatusCode::UNCERTAIN),
        (24, StatusCode::BAD_NO_COMMUNICATION),
        (0x8074_0000u32 as i32, StatusCode::BAD_TYPE_MISMATCH),
    ] {
        assert_eq!(properties::quality(&with(quality).encode_to_vec()), Ok(status), "{quality}");
    }
    assert_eq!(properties::quality(&[]), Ok(StatusCode::GOOD));
    // More keys than values: what has no value says nothing.
    let short = tahu::PropertySet { keys: vec!["Quality".into()], values: vec![] };
    assert_eq!(properties::quality(&short.encode_to_vec()), Ok(StatusCode::GOOD));
}

fn any_value() -> impl Strategy<Value = Tahu> {
    prop_oneof![
        any::<u32>().prop_map(Tahu::Int),
        any::<u64>().prop_map(Tahu::Long),
        any::<f32>().prop_filter("comparable", |x| !x.is_nan()).prop_map(Tahu::Float),
        any::<f64>().prop_filter("comparable", |x| !x.is_nan()).prop_map(Tahu::Double),
        any::<bool>().prop_map(Tahu::Bool),
        ".{0,12}".prop_map(Tahu::Text),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Tahu::Bytes),
    ]
}

prop_compose! {
    fn any_metric()(
        name in proptest::option::of("[ab/]{0,2}"),
        alias in proptest::option::of(0..4u64),
        timestamp in proptest::option::of(prop_oneof![Just(0), Just(T), any::<u64>()]),
        datatype in proptest::option::of(0..40u32),
        is_historical in proptest::option::of(any::<bool>()),
        is_null in proptest::option::of(any::<bool>()),
        value in proptest::option::of(any_value()),
        nested in any::<bool>(),
    ) -> tahu::Metric {
        let inner = tahu::Metric { name: Some("m".into()), datatype, value: value.clone(), ..tahu::Metric::default() };
        let template = tahu::Template { metrics: vec![inner], is_definition: Some(false) };
        let (datatype, value) = if nested { (Some(19), Some(Tahu::Template(template))) } else { (datatype, value) };
        tahu::Metric { name, alias, timestamp, datatype, is_historical, is_transient: None, is_null, properties: None, value }
    }
}

prop_compose! {
    fn any_payload()(
        timestamp in proptest::option::of(any::<u64>()),
        seq in proptest::option::of(0..300u64),
        metrics in proptest::collection::vec(any_metric(), 0..4),
        session in proptest::option::of(0..3u64),
    ) -> tahu::Payload {
        let metrics = metrics.into_iter().chain(session.map(bd_seq)).collect();
        tahu::Payload { timestamp, seq, metrics, uuid: None, body: None }
    }
}

proptest! {
    /// The reader in place reads what the generated encoder wrote.
    #[test]
    fn the_reader_agrees_with_a_generated_one(payload in any_payload()) {
        let bytes = payload.encode_to_vec();
        let read = wire::Payload::read(&bytes).unwrap();
        prop_assert_eq!((read.timestamp, read.seq), (payload.timestamp.unwrap_or(0), payload.seq));
        prop_assert_eq!(read.metrics.len(), payload.metrics.len());
        for (read, metric) in read.metrics.iter().zip(&payload.metrics) {
            prop_assert_eq!(read.name, metric.name.as_deref());
            prop_assert_eq!((read.alias, read.timestamp), (metric.alias, metric.timestamp.unwrap_or(0)));
            prop_assert_eq!(read.datatype, metric.datatype.unwrap_or(0));
            prop_assert_eq!((read.historical, read.null), (metric.is_historical.unwrap_or(false), metric.is_null.unwrap_or(false)));
            let template;
            let expected = match &metric.value {
                None => wire::Member::None,
                Some(Tahu::Int(value)) => wire::Member::Int(*value),
                Some(Tahu::Long(value)) => wire::Member::Long(*value),
                Some(Tahu::Float(value)) => wire::Member::Float(*value),
                Some(Tahu::Double(value)) => wire::Member::Double(*value),
                Some(Tahu::Bool(value)) => wire::Member::Bool(*value),
                Some(Tahu::Text(text)) => wire::Member::Text(text.as_bytes()),
                Some(Tahu::Bytes(bytes)) => wire::Member::Bytes(bytes),
                Some(Tahu::Template(value)) => {
                    template = value.encode_to_vec();
                    wire::Member::Template(&template)
                }
            };
            prop_assert_eq!(read.value, expected);
        }
    }
}

proptest! {
    // Each case is a conversation, or a dozen.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    /// Whatever comes in whatever order: no panic, every row has a declared tag, data is a row or a dead letter, only requests go out,
    /// and the next process takes over what was kept.
    #[test]
    fn any_conversation_is_survived(
        messages in proptest::collection::vec((0..7usize, any_payload(), any::<bool>(), any::<bool>(), 0..4u64), 0..40),
    ) {
        let mut plant = Plant::new();
        for (verb, payload, retain, dup, seconds) in messages {
            let topic = ["NBIRTH/n", "NDATA/n", "NDEATH/n", "DBIRTH/n/d", "DDATA/n/d", "DDEATH/n/d", "NDATA/m"][verb];
            let topic = format!("spBv1.0/g/{topic}");
            let bytes = payload.encode_to_vec();
            let before = (plant.samples().len(), plant.rejects().len(), plant.engine.lost("path_clash"));
            let mut out = plant.message(Message { topic: &topic, payload: &bytes, retain, dup });
            out.extend(plant.after(seconds));
            prop_assert!(out.iter().all(|out| out.topic.starts_with("spBv1.0/g/NCMD/")));
            let is_value = |metric: &tahu::Metric| metric.value.is_some() && metric.is_null != Some(true);
            let has_value =
                payload.metrics.iter().any(|metric| is_value(metric) && !metric.name.as_deref().is_some_and(births::is_bookkeeping));
            let left_a_trace = before != (plant.samples().len(), plant.rejects().len(), plant.engine.lost("path_clash"));
            prop_assert!(left_a_trace || !has_value || topic.contains("DEATH"), "{} {:?}", topic, payload);
        }
        let known = plant.engine.tags().len();
        let plant = plant.restart();
        prop_assert!(plant.engine.tags().len() <= known);
        prop_assert_eq!(plant.samples().len(), 0);
    }

    /// Any bytes at all, and real payloads with some bytes changed.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte: u8) {
        fuzz_sparkplug(&bytes);
        for vector in [JS_NBIRTH, JS_GZIP, PY_NBIRTH] {
            let mut changed = vector.to_vec();
            let at = at.index(changed.len());
            changed[at] = byte;
            fuzz_sparkplug(&changed);
            fuzz_sparkplug(&changed[..at]);
        }
    }
}
