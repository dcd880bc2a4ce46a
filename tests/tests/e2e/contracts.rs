//! Contracts of topics: what fits is in the topic's format, what does not is a dead letter, and a registry's id stands in front.

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use millrace_tests::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"acme","fields":[
  {"name":"id","type":"string"},
  {"name":"quantity","type":"long"},
  {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}},
  {"name":"due","type":["null",{"type":"long","logicalType":"timestamp-millis"}],"default":null}]}"#;
const STATE: &str = r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"State","type":"object","required":["state"],
  "properties":{"state":{"enum":["stopped","running"]},"speed":{"type":"number","maximum":400}}}"#;
const PART: &str = "syntax = \"proto3\"; package acme; message Part { string serial = 1; int64 peak = 2; }";

const THREE_FORMS: &str = "
schemas: {registry: $registry}
topics:
  $orders: {format: avro, schema: order.avsc}
  $states: {format: json, schema: state.schema.json}
  $parts: {format: protobuf, schema: part.proto, subject: topic_record_name}
sources:
  cells:
    type: mqtt
    endpoint: $broker
    client_id: $orders
    subscribe:
      - {filter: 'orders/+', payload: json, topic: $orders, key: '{1}', qos: 1}
      - {filter: 'states/+', payload: json, topic: $states, key: '{1}', qos: 1}
      - {filter: 'parts/+', payload: json, topic: $parts, key: '{1}', qos: 1}
";

struct Topics {
    orders: String,
    states: String,
    parts: String,
}

fn factory(kafka: &Kafka, broker: &Mosquitto, registry: &str) -> (Factory, Topics) {
    let topics = Topics { orders: kafka.topic("orders"), states: kafka.topic("states"), parts: kafka.topic("parts") };
    let factory = Factory::on(kafka)
        .with("broker", broker.url())
        .with("registry", registry)
        .with("orders", &topics.orders)
        .with("states", &topics.states)
        .with("parts", &topics.parts)
        .file("order.avsc", ORDER)
        .file("state.schema.json", STATE)
        .file("part.proto", PART);
    (factory, topics)
}

fn avro(schema: &str, bytes: &[u8]) -> BTreeMap<String, Avro> {
    let schema = apache_avro::Schema::parse_str(schema).expect("the schema is Avro");
    let mut rest = bytes;
    let value = GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut rest).unwrap_or_else(|e| panic!("{e}: {bytes:02x?}"));
    assert!(rest.is_empty(), "{} bytes are left", rest.len());
    let Avro::Record(fields) = value else { panic!("{value:?} is no record") };
    fields.into_iter().collect()
}

fn value(record: &Record) -> &[u8] {
    record.value.as_deref().expect("a value")
}

/// The id in front of a value, and the rest.
fn split(record: &Record) -> (i32, &[u8]) {
    let (prefix, rest) = value(record).split_first_chunk::<5>().expect("a value with a prefix");
    let [0, id @ ..] = *prefix else { panic!("no magic byte: {prefix:02x?}") };
    (i32::from_be_bytes(id), rest)
}

fn reason(record: &Record) -> String {
    record.header("__connect.errors.exception.message").unwrap_or_else(|| panic!("not a dead letter: {record:?}"))
}

#[test]
fn documents_that_fit_are_converted_and_those_that_do_not_are_kept_with_the_place_of_the_fault() {
    let (kafka, broker) = (Kafka::shared(), Mosquitto::start());
    let (factory, topics) = factory(kafka, &broker, "none");
    let millrace = factory.start(THREE_FORMS);
    millrace.wait_running("cells");
    let mut publisher = broker.client();
    let mut publish = |topic: &str, payload: &str| publisher.publish(topic, payload.as_bytes(), 1, false);
    publish("orders/1", r#"{"price": 12.5, "quantity": 9007199254740993, "id": "1", "due": "2026-11-21T10:00:00.5+01:00"}"#);
    publish("orders/2", r#"{"price": 12.505, "quantity": 1, "id": "2"}"#);
    publish("orders/3", r#"{"price": 1, "quantity": 1, "id": "3", "color": "red"}"#);
    publish("states/1", r#"{ "state" : "running", "speed": 1e2 }"#);
    publish("states/2", r#"{"state":"running","speed":612}"#);
    publish("states/3", r#"{"state":"runn"#);
    publish("parts/1", r#"{"serial":"a","peak":"-5"}"#);
    publish("parts/2", r#"{"serial":7}"#);
    publisher.finish();
    let ledger = millrace.drained_when("cells", |ledger| ledger.received >= 8);
    assert_eq!((ledger.produced, ledger.dead_at_intake), (3, 5), "{ledger:?}");

    let [order] = &kafka.read(&topics.orders)[..] else { panic!("one order") };
    let fields = avro(ORDER, value(order));
    assert_eq!(fields["quantity"], Avro::Long(9_007_199_254_740_993));
    assert_eq!(fields["price"], Avro::Decimal(apache_avro::Decimal::from([0x04, 0xE2])));
    assert_eq!(fields["due"], Avro::Union(1, Box::new(Avro::TimestampMillis(1_795_251_600_500))));
    assert!(order.header("millrace.schema").is_some_and(|mark| mark.len() == 16), "{order:?}");
    let [state] = &kafka.read(&topics.states)[..] else { panic!("one state") };
    assert_eq!(state.text(), r#"{ "state" : "running", "speed": 1e2 }"#, "JSON passes to the byte");
    let [part] = &kafka.read(&topics.parts)[..] else { panic!("one part") };
    assert_eq!(value(part), [0x0A, 1, b'a', 0x10, 0xFB, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1], "a plain message, no indexes");

    let dead = |topic: &str| kafka.read(&format!("{topic}.dead"));
    let orders = dead(&topics.orders);
    assert_eq!(orders.iter().map(Record::key_text).collect::<Vec<_>>(), ["2", "3"]);
    assert_eq!(orders[0].text(), r#"{"price": 12.505, "quantity": 1, "id": "2"}"#, "the payload as it came");
    let expected = format!(
        "does not fit the schema of topic {}: /price (byte 10): expected a decimal of 12 digits, 2 of them behind the point, found 12.505",
        topics.orders
    );
    assert_eq!(reason(&orders[0]), expected);
    assert!(reason(&orders[1]).ends_with("key color is not in record acme.Order"), "{}", reason(&orders[1]));
    assert_eq!(orders[0].header("__connect.errors.topic"), Some(topics.orders.clone()));
    assert_eq!(orders[0].header("millrace.route").as_deref(), Some("orders/+"));
    let states = dead(&topics.states);
    assert!(reason(&states[0]).contains("/speed: 612 is greater than the maximum of 400"), "{}", reason(&states[0]));
    assert!(reason(&states[1]).contains("cannot be read as JSON"), "{}", reason(&states[1]));
    assert!(reason(&dead(&topics.parts)[0]).contains("/serial (byte 10): expected a string, found 7"));
}

#[test]
fn a_value_with_a_schema_goes_out_with_its_id_and_a_registry_that_is_away_costs_the_intake_nothing() {
    let (kafka, broker, registry) = (Kafka::shared(), Mosquitto::start(), Registry::away());
    let (factory, topics) = factory(kafka, &broker, &registry.url());
    let millrace = factory.start(THREE_FORMS);
    millrace.wait_running("cells");
    let mut publisher = broker.client();
    for n in 0..200 {
        publisher.publish("orders/1", format!(r#"{{"id":"{n}","quantity":{n},"price":0}}"#).as_bytes(), 1, false);
    }
    publisher.publish("states/1", br#"{"state":"running"}"#, 1, false);
    publisher.publish("parts/1", br#"{"serial":"a"}"#, 1, false);
    publisher.finish();
    let ledger = millrace.wait_ledger("cells", "everything is in the log", |ledger| ledger.appended >= 202);
    assert_eq!(ledger.produced, 0, "nothing goes out without its id");
    registry.come();
    let ledger = millrace.drained("cells");
    assert_eq!(ledger.produced, 202);

    let orders = kafka.read(&topics.orders);
    let (id, _) = split(&orders[0]);
    let (subject, body) = registry.schema(id);
    assert_eq!((subject, body["schemaType"].as_str()), (format!("{}-value", topics.orders), None), "{body}");
    for (n, record) in orders.iter().enumerate() {
        let (one, rest) = split(record);
        assert_eq!(one, id);
        assert_eq!(avro(body["schema"].as_str().unwrap(), rest)["quantity"], Avro::Long(n as i64));
        assert_eq!(record.header("millrace.schema"), None, "the id names it");
    }
    let [state] = &kafka.read(&topics.states)[..] else { panic!("one state") };
    let (id, rest) = split(state);
    assert_eq!(rest, br#"{"state":"running"}"#);
    assert_eq!(registry.schema(id).1["schemaType"], "JSON");
    let [part] = &kafka.read(&topics.parts)[..] else { panic!("one part") };
    let (id, rest) = split(part);
    assert_eq!(rest, [0, 0x0A, 1, b'a'], "the message's indexes, then the message");
    let (subject, body) = registry.schema(id);
    assert_eq!((subject, body["schemaType"].as_str()), (format!("{}-acme.Part", topics.parts), Some("PROTOBUF")));
    assert_eq!(registry.subjects().len(), 3, "each is registered once");
}

#[test]
fn a_registry_that_refuses_blocks_the_source_with_its_words() {
    let (kafka, broker, registry) = (Kafka::shared(), Mosquitto::start(), Registry::start());
    registry.refuse("Schema being registered is incompatible with an earlier schema: field price is gone");
    let (factory, topics) = factory(kafka, &broker, &registry.url());
    let millrace = factory.start(THREE_FORMS);
    millrace.wait_running("cells");
    broker.publish("orders/1", br#"{"id":"1","quantity":1,"price":0}"#, 1, false);
    millrace.wait_word("cells", "Blocked");
    let reason = millrace.connector("cells")["reason"].to_string();
    assert!(reason.contains("field price is gone") && reason.contains(&topics.orders), "{reason}");
    assert_eq!(millrace.ledger("cells").dead_at_intake, 0, "nothing is given up");
}

#[test]
fn a_sink_gets_the_value_without_the_prefix() {
    let (kafka, broker, registry) = (Kafka::shared(), Mosquitto::start(), Registry::start());
    let (factory, topics) = factory(kafka, &broker, &registry.url());
    let text = format!(
        "floor: {{writes: allowed}}\n{THREE_FORMS}
sinks:
  apps:
    type: mqtt
    topics: [$states, $parts]
    endpoint: $broker
    publish: {{topic: 'out/{{topic}}/{{key}}', qos: 1}}
    start: earliest
"
    );
    let mut listener = broker.client();
    listener.subscribe("out/#", 1);
    let millrace = factory.start(&text);
    millrace.wait_running("cells");
    broker.publish("states/1", br#"{"state":"running"}"#, 1, false);
    broker.publish("parts/1", br#"{"serial":"a"}"#, 1, false);
    let mut messages = listener.take(2);
    messages.sort_by(|a, b| a.topic.cmp(&b.topic));
    let payload = |topic: &str| messages.iter().find(|m| m.topic == format!("out/{topic}/1")).map(|m| m.payload.clone());
    assert_eq!(payload(&topics.states).as_deref(), Some(&br#"{"state":"running"}"#[..]));
    assert_eq!(payload(&topics.parts).as_deref(), Some(&[0x0A, 1, b'a'][..]), "neither id nor indexes");
}

const CARS: &str = "
schemas: {registry: $registry}
topics:
  $cars: {format: $format, shape: $shape}
sources:
  cars:
    type: mqtt
    endpoint: $broker
    client_id: $cars
    subscribe:
      - {filter: 'car/+', payload: json, topic: $cars, at: 'fleet/{1}', samples: {speed: /v, soc: /soc, name: /name}, status: /quality, missing: $missing, qos: 1}
";

fn cars(shape: &str, format: &str, registry: &str) -> (Millrace, String, Mosquitto) {
    let (kafka, broker) = (Kafka::shared(), Mosquitto::start());
    let topic = kafka.topic("cars");
    let factory = Factory::on(kafka).with("broker", broker.url()).with("registry", registry);
    let missing = if shape == "scan" { "bad" } else { "skip" };
    let millrace = factory.with("cars", &topic).with("shape", shape).with("format", format).with("missing", missing).start(CARS);
    millrace.wait_running("cars");
    (millrace, topic, broker)
}

#[test]
fn a_scan_is_one_record_with_all_its_tags_and_a_changed_type_is_a_new_field() {
    let registry = Registry::start();
    let (mut millrace, topic, broker) = cars("scan", "avro", &registry.url());
    let mut publisher = broker.client();
    for n in 0..50 {
        publisher.publish("car/7", json!({"v": n, "soc": 80.5}).to_string().as_bytes(), 1, false);
    }
    publisher.finish();
    millrace.drained_when("cars", |ledger| ledger.produced >= 50);
    millrace.stop();
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_running("cars");
    let mut publisher = broker.client();
    publisher.publish("car/7", json!({"v": 51.5, "name": "red", "quality": "bad"}).to_string().as_bytes(), 1, false);
    publisher.finish();
    millrace.drained_when("cars", |ledger| ledger.produced >= 51);
    let records = Kafka::shared().read(&topic);
    assert_eq!(records.len(), 51);
    let read = |record: &Record| {
        let (id, rest) = split(record);
        let schema = registry.schema(id).1["schema"].as_str().unwrap().to_owned();
        avro(&schema, rest)
    };
    for (n, record) in records[..50].iter().enumerate() {
        let fields = read(record);
        assert_eq!(fields["speed"], Avro::Union(1, Box::new(Avro::Long(n as i64))));
        assert_eq!(fields["soc"], Avro::Union(1, Box::new(Avro::Double(80.5))));
        assert_eq!(fields["asset"], Avro::String(format!("{}/fleet/7", millrace.site())));
        assert_eq!(record.key_text(), format!("{}/fleet/7", millrace.site()));
    }
    let last = read(&records[50]);
    assert_eq!(last["speed"], Avro::Union(0, Box::new(Avro::Null)), "the old field is empty");
    assert_eq!(last["speed_double"], Avro::Union(1, Box::new(Avro::Double(51.5))));
    assert_eq!(last["soc"], Avro::Union(0, Box::new(Avro::Null)));
    let Avro::Map(status) = &last["status"] else { panic!("{last:?}") };
    assert!(status.contains_key("speed") && status.contains_key("name"), "bad is said: {status:?}");
}

#[test]
fn an_asset_s_record_comes_after_a_change_and_holds_its_other_values() {
    let (millrace, topic, broker) = cars("asset, window: 100ms", "json", "none");
    let mut follow = Kafka::shared().follow(&topic);
    broker.publish("car/7", br#"{"v":1,"soc":80,"quality":"good"}"#, 1, false);
    follow.until("the first window", |records| !records.is_empty());
    broker.publish("car/7", br#"{"v":2,"quality":"good"}"#, 1, false);
    let records = follow.until("the second window", |records| records.iter().any(|r| r.json()["speed"] == 2));
    let last: Value = records.last().unwrap().json();
    assert_eq!((&last["soc"], &last["status"]), (&json!(80), &json!({})), "{last}");
    assert!(last.get("name").is_none(), "what was never read is absent: {last}");
    broker.publish("car/7", br#"{"v":3,"quality":"bad"}"#, 1, false);
    let records = follow.until("the third window", |records| records.iter().any(|r| r.json()["speed"] == 3));
    let last: Value = records.last().unwrap().json();
    assert!(last["status"]["speed"].is_u64() && last["status"]["soc"].is_null(), "bad is said of what is: {last}");
    let ledger = millrace.drained("cars");
    ledger.adds_up();
    assert_eq!(ledger.produced as usize, Kafka::shared().read(&topic).len());
}

#[test]
fn the_last_samples_of_topics_in_two_formats_are_kept_in_the_one_that_is_declared() {
    let (kafka, broker, registry) = (Kafka::start(), Mosquitto::start(), Registry::start());
    let millrace = Factory::on(&kafka).with("broker", broker.url()).with("registry", registry.url()).start(
        "
schemas: {registry: $registry}
topics:
  binary: {format: avro, latest: true}
  text: {format: json, latest: true}
  millrace.latest: {format: protobuf, partitions: 3}
sources:
  cells:
    type: mqtt
    endpoint: $broker
    client_id: cells
    subscribe:
      - {filter: 'a/+', payload: number, topic: binary, tag: 'a{1}', qos: 1}
      - {filter: 'b/+', payload: number, topic: text, tag: 'b{1}', qos: 1}
",
    );
    millrace.wait_running("cells");
    broker.publish("a/1", b"1.5", 1, false);
    broker.publish("b/1", b"2.5", 1, false);
    millrace.drained_when("cells", |ledger| ledger.produced >= 2);
    let mut latest = kafka.follow("millrace.latest");
    let records = latest.count(2);
    for record in records {
        let (id, rest) = split(record);
        assert_eq!(registry.schema(id).0, "millrace.latest-value");
        assert_eq!(rest[0], 0, "the message's indexes");
        let tag = record.key_text();
        assert!(rest.windows(tag.len()).any(|bytes| bytes == tag.as_bytes()), "{tag} in {rest:02x?}");
    }
    assert!(!registry.subjects().contains(&"text-value".to_owned()), "JSON without a schema has none: {:?}", registry.subjects());
    let policy = kafka.tool("TopicCommand", &["--describe", "--topic", "millrace.latest"]);
    assert!(policy.contains("cleanup.policy=compact") && policy.contains("PartitionCount: 3"), "{policy}");
}

#[test]
fn the_last_sample_of_each_tag_is_kept_apart() {
    let (kafka, broker) = (Kafka::shared(), Mosquitto::start());
    let topic = kafka.topic("values");
    let millrace = Factory::on(kafka).with("broker", broker.url()).with("topic", &topic).start(
        "
topics: {$topic: {format: json, latest: true}}
sources:
  cells:
    type: mqtt
    endpoint: $broker
    client_id: $topic
    subscribe:
      - {filter: 'n/+', payload: number, topic: $topic, tag: '{1}', qos: 1}
",
    );
    millrace.wait_running("cells");
    let mut publisher = broker.client();
    for n in 0..10 {
        publisher.publish("n/a", n.to_string().as_bytes(), 1, false);
    }
    publisher.finish();
    let ledger = millrace.drained_when("cells", |ledger| ledger.received >= 10);
    assert_eq!(ledger.produced, 10, "what is kept apart is not counted twice");
    let mut latest = kafka.follow("millrace.latest");
    let key = format!("{}/a", millrace.site());
    let records = latest.until("the last sample", |records| records.iter().any(|r| r.key_text() == key && r.json()["value"] == 9));
    assert_eq!(records.iter().filter(|r| r.key_text() == key).count(), 10);
    let policy = kafka.tool("TopicCommand", &["--describe", "--topic", "millrace.latest"]);
    assert!(policy.contains("cleanup.policy=compact"), "{policy}");
}

#[test]
fn an_incompatible_change_is_told_before_anything_runs_with_whom_it_breaks() {
    let kafka = Kafka::start();
    let listen = free_port();
    let text = "
schemas: {registry: embedded, listen: '127.0.0.1:$listen', compatibility: backward}
topics:
  orders: {format: avro, schema: order.avsc}
  states: {format: json, schema: state.schema.json}
  parts: {format: protobuf, schema: part.proto}
";
    let factory = Factory::on(&kafka).with("listen", listen).file("order.avsc", ORDER).file("state.schema.json", STATE);
    let millrace = factory.file("part.proto", PART).start(text);
    let schema = |command: &str| {
        let output = millrace.run(&["schema", command, "-c", "factory.yaml"]);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    eventually("the embedded registry serves", || (schema("list").0 == Some(0)).then_some(()));
    let (code, said) = schema("check");
    assert!(code == Some(0) && said.matches("not registered yet").count() == 3, "{said}");
    let (code, said) = schema("register");
    assert!(code == Some(0) && said.matches("registered under").count() == 3, "{said}");
    let (code, said) = schema("check");
    assert!(code == Some(0) && said.matches("registered, version 1").count() == 3, "{said}");

    let write = |name: &str, text: String| std::fs::write(millrace.dir().join(name), text).expect("a file can be written");
    write(
        "order.avsc",
        ORDER.replace(r#"{"name":"id","type":"string"}"#, r#"{"name":"id","type":"string"},{"name":"line","type":"long"}"#),
    );
    write("state.schema.json", STATE.replace(r#""maximum":400"#, r#""maximum":300"#));
    write("part.proto", PART.replace("int64 peak = 2", "string peak = 2"));
    let (code, said) = schema("check");
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said.matches("the registry refuses it").count(), 3, "{said}");
    assert!(said.contains("consumers with the new schema can't read old records"), "{said}");
    for word in ["line", "maximum", "#/Part/2"] {
        assert!(said.contains(word), "nothing of {word}: {said}");
    }
    let (code, said) = schema("register");
    assert!(code != Some(0) && said.contains("incompatible"), "{said}");

    // A change that may be made, and is still one.
    write("order.avsc", ORDER.replace(r#""type":"string"}"#, r#""type":"string"},{"name":"line","type":"long","default":1}"#));
    write("state.schema.json", STATE.replace(r#""maximum":400"#, r#""maximum":500"#));
    write("part.proto", PART.into());
    let (code, said) = schema("diff");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("consumers with the new schema can read old records"), "{said}");
    assert!(said.contains("consumers that still have the latest version can't read new records") && said.contains("maximum"), "{said}");
    let (code, said) = schema("check");
    assert_eq!(code, Some(0), "{said}");
}
