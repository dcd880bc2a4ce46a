//! What Millrace writes, decoded by foreign clients as they are: samples, documents and wide records in all three formats, through the
//! embedded registry and through a foreign one.

use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_registry::{Kind, Parsed, Schema};
use millrace_tests::*;
use serde_json::{Value, json};

const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"acme","fields":[
  {"name":"id","type":"string"},
  {"name":"quantity","type":"long"},
  {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}},
  {"name":"line","type":["null","acme.Line"],"default":null}]}"#;
const LINE: &str =
    r#"{"type":"record","name":"Line","namespace":"acme","fields":[{"name":"part","type":"string"},{"name":"count","type":"int"}]}"#;
const STATE: &str = r##"{"$schema":"http://json-schema.org/draft-07/schema#","title":"State","type":"object","required":["state"],
  "properties":{"state":{"enum":["stopped","running"]},"speed":{"$ref":"speed.schema.json"}}}"##;
const SPEED: &str = r#"{"$schema":"http://json-schema.org/draft-07/schema#","title":"Speed","type":"number","maximum":400}"#;
/// The second message, and of a file that imports another.
const PART: &str = "syntax = \"proto3\"; package acme; import \"torque.proto\"; message Box { string label = 1; }
message Part { string serial = 1; int64 peak = 2; Torque torque = 3; }";
const TORQUE: &str = "syntax = \"proto3\"; package acme; message Torque { double newton_metres = 1; }";

const CELLS: &str = "
schemas: {registry: '$registry'$listen}
topics:
  $p.sample.avro: {format: avro}
  $p.sample.json: {format: json, schema: telemetry}
  $p.sample.protobuf: {format: protobuf}
  $p.order.avro: {format: avro, schema: order.avsc}
  $p.state.json: {format: json, schema: state.schema.json}
  $p.part.protobuf: {format: protobuf, schema: 'part.proto#acme.Part', subject: topic_record_name}
  $p.asset.avro: {format: avro, shape: asset, window: 50ms}
  $p.asset.json: {format: json, shape: asset, window: 50ms}
  $p.scan.avro: {format: avro, shape: scan}
  $p.scan.json: {format: json, shape: scan}
sources:
  cells:
    type: mqtt
    endpoint: $broker
    client_id: $p
    subscribe:
      - {filter: 'sample/avro', payload: json, topic: $p.sample.avro, at: sample-avro, samples: {speed: /v}, qos: 1}
      - {filter: 'sample/json', payload: json, topic: $p.sample.json, at: sample-json, samples: {speed: /v}, qos: 1}
      - {filter: 'sample/protobuf', payload: json, topic: $p.sample.protobuf, at: sample-protobuf, samples: {speed: /v}, qos: 1}
      - {filter: 'order', payload: json, topic: $p.order.avro, key: '1', qos: 1}
      - {filter: 'state', payload: json, topic: $p.state.json, key: '1', qos: 1}
      - {filter: 'part', payload: json, topic: $p.part.protobuf, key: '1', qos: 1}
      - {filter: 'asset/avro', payload: json, topic: $p.asset.avro, at: asset-avro, samples: {speed: /v, name: /name}, qos: 1}
      - {filter: 'asset/json', payload: json, topic: $p.asset.json, at: asset-json, samples: {speed: /v, name: /name}, qos: 1}
      - {filter: 'scan/avro', payload: json, topic: $p.scan.avro, at: scan-avro, samples: {speed: /v, name: /name}, qos: 1}
      - {filter: 'scan/json', payload: json, topic: $p.scan.json, at: scan-json, samples: {speed: /v, name: /name}, qos: 1}
";

/// What every client must find: the places where one of them has it, and the value as text.
type Found<'a> = (&'a [&'a str], &'a str);

const SAMPLE: &[Found<'_>] = &[(&["/value", "/value/double", "/double_value", "/value/value"], "12.5"), (&["/quality"], "good")];
const ORDERS: &[Found<'_>] = &[(&["/id"], "4711"), (&["/quantity"], "12"), (&["/line/part", "/line/acme.Line/part"], "A-100")];
const STATES: &[Found<'_>] = &[(&["/state"], "running"), (&["/speed"], "12.5")];
const PARTS: &[Found<'_>] = &[(&["/serial"], "a"), (&["/peak"], "-5"), (&["/torque/newton_metres", "/torque/newtonMetres"], "80.5")];
const WIDE: &[Found<'_>] = &[(&["/speed"], "12.5"), (&["/name"], "red")];

/// Topic, and what its one record says.
const TOPICS: [(&str, &[Found<'_>]); 10] = [
    ("sample.avro", SAMPLE),
    ("sample.json", SAMPLE),
    ("sample.protobuf", &[SAMPLE[0]]),
    ("order.avro", ORDERS),
    ("state.json", STATES),
    ("part.protobuf", PARTS),
    ("asset.avro", WIDE),
    ("asset.json", WIDE),
    ("scan.avro", WIDE),
    ("scan.json", WIDE),
];

/// An older telemetry schema: other places, other symbols, other branches, a field that is no more, and some that were not yet.
const OLD_SAMPLE: &str = r#"{"type":"record","name":"Sample","namespace":"millrace","fields":[
  {"name":"source","type":"string"},
  {"name":"seq","type":"long"},
  {"name":"tag","type":"string"},
  {"name":"notes","type":{"type":"array","items":"string"}},
  {"name":"value","type":["double","null"]},
  {"name":"time","type":{"type":"long","logicalType":"timestamp-micros"}},
  {"name":"read_time","type":{"type":"long","logicalType":"timestamp-micros"}},
  {"name":"time_source","type":{"type":"enum","name":"TimeSource","symbols":["device","server","gateway"]}},
  {"name":"quality","type":{"type":"enum","name":"Quality","symbols":["bad","good"]}},
  {"name":"origin","type":{"type":"enum","name":"Origin","symbols":["poll","change"]}}]}"#;

#[test]
fn a_sink_reads_a_sample_by_the_schema_it_was_written_with() {
    let (kafka, registry) = (Kafka::inside(free_port()), free_port());
    let topic = kafka.topic("telemetry");
    let factory = Factory::on(&kafka).with("listen", kafka.brokers()).with("registry", registry).with("topic", &topic);
    std::fs::create_dir(factory.dir().join("out")).expect("a folder can be made");
    let millrace = factory.start(
        "kafka: {brokers: embedded, embedded: {listen: \"$listen\"}}\n\
         schemas: {registry: embedded, listen: \"127.0.0.1:$registry\"}\n\
         topics: {$topic: {format: avro, schema: telemetry}}\n\
         sources: {load: {type: generator, at: new, topic: $topic, tags: 1, rate: 100/s, shapes: [counter], count: 5, report: all}}\n\
         sinks: {archive: {type: file, topics: [$topic], lines: samples, path: \"$dir/out/{topic}.ndjson\"}}\n",
    );
    millrace.drained_when("load", |ledger| ledger.received >= 5);
    let body = json!({"schema": OLD_SAMPLE}).to_string();
    let (status, answer) = http::request(registry, "POST", "/subjects/old-value/versions", &body).expect("the registry answers");
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("an id");
    let id = answer["id"].as_i64().and_then(|id| i32::try_from(id).ok()).expect("an id");

    let schema = apache_avro::Schema::parse_str(OLD_SAMPLE).expect("a schema");
    let sample = Avro::Record(vec![
        ("source".into(), Avro::String("acme/old/cells".into())),
        ("seq".into(), Avro::Long(77)),
        ("tag".into(), Avro::String("acme/old/speed".into())),
        ("notes".into(), Avro::Array(vec![Avro::String("no more".into())])),
        ("value".into(), Avro::Union(0, Box::new(Avro::Double(12.5)))),
        ("time".into(), Avro::TimestampMicros(1_750_000_000_000_001)),
        ("read_time".into(), Avro::TimestampMicros(1_750_000_000_000_002)),
        ("time_source".into(), Avro::Enum(0, "device".into())),
        ("quality".into(), Avro::Enum(1, "good".into())),
        ("origin".into(), Avro::Enum(0, "poll".into())),
    ]);
    let mut old = [&[0][..], &id.to_be_bytes()].concat();
    old.extend(GenericDatumWriter::builder(&schema).build().and_then(|writer| writer.write_value_to_vec(sample)).expect("it fits"));
    kafka.produce(&topic, [("old", &*old)]);
    // Of an id that nobody knows nothing is guessed.
    let stray = [&[0, 0x7F, 0, 0, 0][..], &old[5..]].concat();
    kafka.produce(&topic, [("stray", &*stray)]);

    let found = eventually("the samples are in the file", || {
        let text = std::fs::read_to_string(millrace.dir().join(format!("out/{topic}.ndjson"))).ok()?;
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() == 6).then_some(lines)
    });
    let tag = |line: &Value| line["tag"].as_str().expect("a tag").to_owned();
    assert_eq!(found.iter().filter(|line| tag(line).contains("/new/")).count(), 5, "{found:#?}");
    let old = found.iter().find(|line| tag(line) == "acme/old/speed").expect("the old one");
    let expected = json!({"value": 12.5, "time": 1_750_000_000_000_001_i64, "read_time": 1_750_000_000_000_002_i64, "time_source": "device",
        "origin": "poll", "source": "acme/old/cells", "seq": 77, "status": 0, "def": 0});
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&old[key], value, "{key} of {old}");
    }
    let dead = kafka.follow(&format!("{topic}.dead")).count(1)[0].clone();
    let reason = dead.header("__connect.errors.exception.message").expect("a reason");
    assert!(reason.contains("does not know its schema, id 2130706432"), "{reason}");
    assert_eq!(dead.value.as_deref(), Some(&*stray));
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Lets Millrace write a record to each topic.
///
/// Returns: the runtime, which serves its registry, and a line per topic, as decoders take them.
fn written(kafka: &Kafka, registry: &str, listen: &str) -> (Millrace, Vec<Value>) {
    let broker = Mosquitto::start();
    let prefix = kafka.topic("read");
    let factory = Factory::on(kafka).with("broker", broker.url()).with("registry", registry).with("listen", listen).with("p", &prefix);
    let millrace = factory
        .file("order.avsc", ORDER)
        .file("acme.Line.avsc", LINE)
        .file("state.schema.json", STATE)
        .file("speed.schema.json", SPEED)
        .file("part.proto", PART)
        .file("torque.proto", TORQUE)
        .start(CELLS);
    millrace.wait_running("cells");
    let mut publisher = broker.client();
    for (topic, _) in TOPICS {
        let (payload, topic) = match topic {
            "order.avro" => (r#"{"line":{"part":"A-100","count":4},"id":"4711","quantity":12,"price":12.5}"#, "order".to_owned()),
            "state.json" => (r#"{"state":"running","speed":12.5}"#, "state".to_owned()),
            "part.protobuf" => (r#"{"serial":"a","peak":-5,"torque":{"newton_metres":80.5}}"#, "part".to_owned()),
            other => (r#"{"v":12.5,"name":"red"}"#, other.replace('.', "/")),
        };
        publisher.publish(&topic, payload.as_bytes(), 1, false);
    }
    publisher.finish();
    millrace.drained_when("cells", |ledger| ledger.produced >= TOPICS.len() as u64);
    let line = |(name, _): &(&str, _)| {
        let topic = format!("{prefix}.{name}");
        let records = kafka.read(&topic);
        let [record] = &records[..] else { panic!("{topic} holds {} records", records.len()) };
        let value = STANDARD.encode(record.value.as_deref().expect("a value"));
        let message = if *name == "part.protobuf" { "acme.Part" } else { "millrace.Sample" };
        json!({"format": name.split('.').next_back(), "topic": topic, "value": value, "message": message})
    };
    let lines = TOPICS.iter().map(line).collect();
    (millrace, lines)
}

/// Lets a client decode what was written.
fn decode(decoder: Decoder, url: &str, lines: &[Value]) {
    for (line, decoded) in lines.iter().zip(decoder.decode(url, lines)) {
        let topic = line["topic"].as_str().expect("a topic");
        let (_, found) = TOPICS.iter().find(|(name, _)| topic.ends_with(name)).expect("a topic of ours");
        for (places, wanted) in *found {
            let said = places.iter().filter_map(|place| decoded.pointer(place)).find(|value| text(value) == *wanted);
            assert!(said.is_some(), "{decoder:?}, {topic}: no {wanted} at {places:?} in {decoded}");
        }
    }
}

#[test]
fn foreign_clients_decode_every_format_and_shape_through_the_embedded_registry() {
    // One of its own: the registry's topic has a fixed name.
    let (kafka, port) = (Kafka::start(), free_port());
    let (_millrace, lines) = written(&kafka, "embedded", &format!(", listen: '127.0.0.1:{port}'"));
    for decoder in Decoder::ALL {
        decode(decoder, &format!("http://127.0.0.1:{port}"), &lines);
    }
}

/// Files as descriptors, the first ones needed by the last.
fn descriptors(files: &[(&str, &str)]) -> Value {
    let schema = |text: &str| Schema::new(Kind::Protobuf, text);
    let before = |at: usize| files[..at].iter().map(|(name, text)| ((*name).to_owned(), schema(text))).collect::<Vec<_>>();
    let one = |(at, (name, text)): (usize, &(&str, &str))| {
        let parsed = Parsed::parse(&schema(text), &before(at)).expect("is Protobuf");
        json!([name, parsed.serialized()])
    };
    files.iter().enumerate().map(one).collect()
}

#[test]
fn foreign_clients_decode_every_format_and_shape_through_a_foreign_registry() {
    let apicurio = Apicurio::start();
    let (_millrace, mut lines) = written(Kafka::shared(), &apicurio.url(), "");
    // Confluent's clients ask for Protobuf's schemas as descriptors. This registry gives the text instead, whoever registered it, so Node's
    // can't be used with it at all; Python's does with a class and without a registry.
    let given = apicurio.get("/subjects/torque.proto/versions/1?format=serialized");
    assert!(given["schema"].as_str().is_some_and(|text| text.contains("message Torque")), "it can, after all: {given}");
    let telemetry = [("telemetry.proto", millrace_schemas::protobuf::TELEMETRY_PROTO)];
    for line in lines.iter_mut().filter(|line| line["format"] == "protobuf") {
        let of_parts = [("torque.proto", TORQUE), ("part.proto", PART)];
        line["descriptors"] = if line["message"] == "acme.Part" { descriptors(&of_parts) } else { descriptors(&telemetry) };
    }
    decode(Decoder::ConfluentPython, &apicurio.url(), &lines);
    decode(Decoder::ApicurioJava, &format!("http://127.0.0.1:{}", apicurio.port()), &lines);
    lines.retain(|line| line["format"] != "protobuf");
    decode(Decoder::ConfluentNode, &apicurio.url(), &lines);
}
