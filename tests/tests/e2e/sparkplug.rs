//! Sparkplug B edge nodes of two ecosystems into Kafka: values and types one by one, sessions, deaths, rebirths.

use millrace_tests::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const PACKAGING: &str = "
topics: {$topic: {format: json}}
sources:
  packaging:
    type: mqtt
    endpoint: $broker
    host: {id: $host, primary: true}
    subscribe:
      - {filter: 'spBv1.0/pack/#', payload: sparkplug, topic: $topic, at: 'packaging/{node}/{device}', tag: '{metric}'}
";

/// Names, types and values that both encoders know, and what must be in Kafka.
///
/// JSON carries no 64 bits to the edge nodes' scripts: large integers go there as texts.
fn scalars() -> Vec<(&'static str, &'static str, Value, Value)> {
    let same = |name, kind, value: Value| (name, kind, value.clone(), value);
    vec![
        same("i8", "Int8", json!(-12)),
        same("i16", "Int16", json!(-1234)),
        same("i32", "Int32", json!(-123_456)),
        ("i64", "Int64", json!("-9007199254740993"), json!(-9_007_199_254_740_993i64)),
        same("u8", "UInt8", json!(250)),
        same("u16", "UInt16", json!(65_000)),
        same("u32", "UInt32", json!(4_294_967_284u32)),
        ("u64", "UInt64", json!("18446744073709551615"), json!(u64::MAX)),
        ("f32", "Float", json!(0.1), json!(f64::from(0.1f32))),
        same("f64", "Double", json!(0.1)),
        same("bool", "Boolean", json!(true)),
        same("string", "String", json!("Größe \"7\"")),
        same("text", "Text", json!("")),
        same("uuid", "UUID", json!("4a6ff8ba-ed32-4bd5-8e1d-9c2e8c9d4f2a")),
    ]
}

fn metrics(scalars: &[(&str, &str, Value, Value)]) -> Vec<Value> {
    scalars.iter().map(|(name, kind, value, _)| json!({"name": name, "type": kind, "value": value})).collect()
}

/// The first sample of each tag, by its path below the site.
fn firsts(records: &[Record]) -> BTreeMap<String, Value> {
    let mut firsts = BTreeMap::new();
    for sample in records.iter().map(Record::json) {
        let tag = below_site(sample["tag"].as_str().expect("a sample has a tag")).to_owned();
        firsts.entry(tag).or_insert(sample);
    }
    firsts
}

/// The last sample of a tag.
fn last(records: &[Record], tag: &str) -> Option<Value> {
    records.iter().map(Record::json).rfind(|sample| sample["tag"].as_str().is_some_and(|path| below_site(path) == tag))
}

/// Waits until the last sample of the tag has this value.
fn until_value(follow: &mut Follow, tag: &str, value: &Value) -> Value {
    let records = follow.until(&format!("{tag} is {value}"), |records| last(records, tag).is_some_and(|sample| sample["value"] == *value));
    last(records, tag).expect("it was there")
}

fn start(kafka: &Kafka, broker: &Mosquitto, topic: &str) -> Millrace {
    let millrace = Factory::on(kafka).with("broker", broker.url()).with("topic", topic).with("host", "millrace").start(PACKAGING);
    millrace.wait_running("packaging");
    millrace
}

#[test]
fn values_and_types_of_both_ecosystems_come_through_one_by_one() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("sparkplug"));
    let millrace = start(kafka, &broker, &topic);
    let scalars = scalars();
    let mut tahu = EdgeNode::tahu(&broker, "pack", "tahu");
    let mut birth = metrics(&scalars);
    birth.extend([
        json!({"name": "when", "type": "DateTime", "value": 1_763_700_000_000i64}),
        json!({"name": "bytes", "type": "Bytes", "value": "AP8B"}),
        json!({"name": "nothing", "type": "Int32", "value": null}),
        json!({"name": "stale", "type": "Double", "value": 1.5, "properties": {
            "Quality": {"type": "Int32", "value": 500}, "engUnit": {"type": "String", "value": "degC"}}}),
        json!({"name": "table", "type": "DataSet", "value": {
            "numOfColumns": 2, "columns": ["a", "b"], "types": ["Int32", "String"], "rows": [[-1, "x"], [2, "y"]]}}),
        json!({"name": "Motor/pump", "type": "Template", "value": {"isDefinition": false, "templateRef": "Pump", "version": "1",
            "metrics": [{"name": "speed", "type": "Double", "value": 2.5}], "parameters": [{"name": "size", "type": "Int32", "value": -3}]}}),
    ]);
    tahu.birth(json!(birth));
    tahu.device_birth("filler", json!(metrics(&scalars)));

    let mut pysparkplug = EdgeNode::pysparkplug(&broker, "pack", "py");
    let mut birth = metrics(&scalars);
    birth.extend([
        json!({"name": "nothing", "type": "Int32", "isNull": true}),
        json!({"name": "i16s", "type": "Int16Array", "value": [-300, 2]}),
        json!({"name": "u64s", "type": "UInt64Array", "value": [u64::MAX, 2]}),
        json!({"name": "f32s", "type": "FloatArray", "value": [0.5, -1.25]}),
        json!({"name": "bools", "type": "BooleanArray", "value": [true, false, true, true, false, false, false, true, true]}),
        json!({"name": "strings", "type": "StringArray", "value": ["a", "", "b"]}),
    ]);
    pysparkplug.birth(json!(birth));
    pysparkplug.device_birth("filler", json!(metrics(&scalars)));

    let mut follow = kafka.follow(&topic);
    let expected = 4 * scalars.len() + 7 + 6;
    let samples = firsts(follow.until("every metric of both births", |records| firsts(records).len() >= expected));
    assert_eq!(samples.len(), expected, "{:?}", samples.keys());
    for part in ["tahu", "tahu/filler", "py", "py/filler"] {
        for (name, _, _, value) in &scalars {
            let sample = &samples[&format!("packaging/{part}/{name}")];
            assert_eq!(
                (&sample["value"], &sample["quality"], &sample["origin"], &sample["time_source"]),
                (value, &json!("good"), &json!("initial"), &json!("device")),
                "{part}/{name}"
            );
        }
        assert!(samples.keys().all(|tag| !tag.contains("bdSeq")));
    }
    let table = json!({"json": {"columns": ["a", "b"], "types": ["Int32", "String"], "rows": [[-1, "x"], [2, "y"]]}});
    for (tag, value, quality) in [
        ("tahu/when", json!(1_763_700_000_000_000i64), "good"),
        ("tahu/bytes", json!({"bytes": "AP8B"}), "good"),
        ("tahu/nothing", Value::Null, "bad"),
        ("tahu/stale", json!(1.5), "bad"),
        ("tahu/table", table, "good"),
        ("tahu/Motor%2Fpump/speed", json!(2.5), "good"),
        ("tahu/Motor%2Fpump/size", json!(-3), "good"),
        ("py/nothing", Value::Null, "bad"),
        ("py/i16s", json!([-300, 2]), "good"),
        ("py/u64s", json!([u64::MAX, 2]), "good"),
        ("py/f32s", json!([0.5, -1.25]), "good"),
        ("py/bools", json!([true, false, true, true, false, false, false, true, true]), "good"),
        ("py/strings", json!(["a", "", "b"]), "good"),
    ] {
        let sample = &samples[&format!("packaging/{tag}")];
        assert_eq!((&sample["value"], sample["quality"].as_str()), (&value, Some(quality)), "{tag}");
    }

    // The catalog says what each value was.
    let catalog: Vec<(String, Value)> = kafka
        .read("millrace.tags")
        .iter()
        .filter(|record| record.value.is_some())
        .map(|record| (record.key_text(), record.json()))
        .collect();
    for part in ["tahu", "py/filler"] {
        for (name, kind, ..) in &scalars {
            let key = format!("packaging/{part}/{name}#");
            assert!(catalog.iter().any(|(tag, entry)| below_site(tag).starts_with(&key) && entry["type"] == *kind), "{key} is no {kind}");
        }
    }
    assert!(catalog.iter().any(|(tag, entry)| tag.contains("/tahu/stale#") && entry["unit"] == "degC"));

    // Data: Tahu by name, with its type; pysparkplug by name alone.
    tahu.data(json!([{"name": "i8", "type": "Int8", "value": -13}, {"name": "u32", "type": "UInt32", "value": 5}]));
    pysparkplug.order(
        json!({"do": "device_data", "device": "filler", "dtypes": false, "metrics": [{"name": "i16", "type": "Int16", "value": -2}]}),
    );
    assert_eq!(until_value(&mut follow, "packaging/tahu/i8", &json!(-13))["origin"], "change");
    until_value(&mut follow, "packaging/tahu/u32", &json!(5));
    until_value(&mut follow, "packaging/py/filler/i16", &json!(-2));
    let ledger = millrace.drained("packaging");
    assert_eq!((ledger.dead_at_intake, ledger.received >= expected as u64), (0, true), "{ledger:?}");
}

#[test]
fn a_death_certificate_turns_every_tag_of_the_node_bad_and_a_birth_good_again() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("deaths"));
    let _millrace = start(kafka, &broker, &topic);
    let mut follow = kafka.follow(&topic);
    for (name, connect) in [("tahu", EdgeNode::tahu as fn(&Mosquitto, &str, &str) -> EdgeNode), ("py", EdgeNode::pysparkplug)] {
        let born = |node: &mut EdgeNode| {
            node.birth(json!([{"name": "speed", "type": "Int32", "value": -7}]));
            node.device_birth("filler", json!([{"name": "load", "type": "Double", "value": 0.5}]));
            node.device_birth("capper", json!([{"name": "load", "type": "Double", "value": 0.75}]));
        };
        let tags = ["speed", "filler/load", "capper/load"].map(|tag| format!("packaging/{name}/{tag}"));
        let values = [json!(-7), json!(0.5), json!(0.75)];
        let mut node = connect(&broker, "pack", name);
        born(&mut node);
        for (tag, value) in tags.iter().zip(&values) {
            until_value(&mut follow, tag, value);
        }
        // A device alone.
        node.device_death("capper");
        let dead = until_value(&mut follow, &tags[2], &Value::Null);
        assert_eq!((&dead["status"], &dead["origin"]), (&json!(0x8031_0000u32), &json!("status")), "{dead}");
        // The node, by the will of a connection that is cut.
        node.kill9();
        for tag in &tags[..2] {
            let dead = until_value(&mut follow, tag, &Value::Null);
            assert_eq!(
                (&dead["status"], &dead["origin"], &dead["quality"]),
                (&json!(0x8031_0000u32), &json!("status"), &json!("bad")),
                "{dead}"
            );
        }
        let mut node = connect(&broker, "pack", name);
        born(&mut node);
        for (tag, value) in tags.iter().zip(&values) {
            assert_eq!(until_value(&mut follow, tag, value)["quality"], "good");
        }
        // The node, by its own farewell.
        node.stop();
        for tag in &tags {
            until_value(&mut follow, tag, &Value::Null);
        }
    }
}

#[test]
fn aliases_hold_over_a_kill_of_the_runtime_which_asks_for_the_birth() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("aliases"));
    let mut millrace = start(kafka, &broker, &topic);
    let mut watcher = broker.client();
    watcher.subscribe("spBv1.0/STATE/millrace", 1);
    let state = |message: &Message| serde_json::from_slice::<Value>(&message.payload).expect("STATE is JSON");
    let online = watcher.take(1).pop().expect("STATE is retained");
    assert_eq!(state(&online)["online"], true);

    let mut node = EdgeNode::pysparkplug(&broker, "pack", "edge");
    node.birth(json!([{"name": "speed", "type": "Int32", "value": -1, "alias": 3}]));
    node.device_birth("filler", json!([{"name": "load", "type": "Int16", "value": -1, "alias": 3}]));
    let by_alias = |node: &mut EdgeNode, value: i32| {
        node.order(json!({"do": "data", "dtypes": false, "metrics": [{"type": "Int32", "value": value, "alias": 3}]}));
        node.order(
            json!({"do": "device_data", "device": "filler", "dtypes": false, "metrics": [{"type": "Int16", "value": value, "alias": 3}]}),
        );
    };
    by_alias(&mut node, -2);
    let mut follow = kafka.follow(&topic);
    let (speed, load) = ("packaging/edge/speed", "packaging/edge/filler/load");
    until_value(&mut follow, speed, &json!(-2));
    until_value(&mut follow, load, &json!(-2));
    millrace.drained("packaging");
    assert_eq!(node.rebirths(), 0, "nothing was missing");

    millrace.kill9();
    let offline = watcher.take(1).pop().expect("the broker publishes the will");
    assert_eq!((&state(&offline)["online"], &state(&offline)["timestamp"]), (&json!(false), &state(&online)["timestamp"]));
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_running("packaging");
    watcher.take_until("STATE is online again", |message| state(message)["online"] == true);
    // Before any birth: aliases alone.
    by_alias(&mut node, -3);
    assert_eq!(until_value(&mut follow, speed, &json!(-3))["quality"], "good");
    assert_eq!(until_value(&mut follow, load, &json!(-3))["quality"], "good");
    eventually("the runtime asks for the birth that it may have missed", || (node.rebirths() == 1).then_some(()));
    // The birth repeats the first values.
    until_value(&mut follow, speed, &json!(-1));
    until_value(&mut follow, load, &json!(-1));
    let ledger = millrace.drained("packaging");
    assert_eq!(ledger.dead_at_intake, 0, "{ledger:?}");
    millrace.stop();
    let farewell = watcher.take_until("STATE is offline after a clean end", |message| state(message)["online"] == false);
    assert!(state(farewell.last().expect("there is one"))["timestamp"].as_i64() > state(&online)["timestamp"].as_i64());
}

#[test]
fn a_gap_asks_for_a_birth_and_an_unknown_alias_is_a_dead_letter_with_its_payload() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("gaps"));
    let millrace = start(kafka, &broker, &topic);
    let mut follow = kafka.follow(&topic);
    let mut node = EdgeNode::tahu(&broker, "pack", "edge");
    node.birth(json!([{"name": "speed", "type": "Int32", "value": 1}]));
    until_value(&mut follow, "packaging/edge/speed", &json!(1));
    node.skip_seq();
    node.data(json!([{"name": "speed", "type": "Int32", "value": 2}]));
    until_value(&mut follow, "packaging/edge/speed", &json!(2));
    eventually("a birth is asked for when the gap does not heal", || (node.rebirths() == 1).then_some(()));
    until_value(&mut follow, "packaging/edge/speed", &json!(1));

    node.data(json!([{"alias": 99, "type": "Int32", "value": 3}, {"name": "speed", "type": "Int32", "value": 4}]));
    until_value(&mut follow, "packaging/edge/speed", &json!(4));
    let mut dead = kafka.follow(&format!("{topic}.dead"));
    let dead = &dead.count(1)[0];
    let reason = dead.header("__connect.errors.exception.message").unwrap_or_else(|| panic!("not a dead letter: {dead:?}"));
    assert!(reason.contains("alias 99"), "{reason}");
    assert_eq!(dead.header("mqtt.topic").as_deref(), Some("spBv1.0/pack/NDATA/edge"));
    let ledger = millrace.drained("packaging");
    assert_eq!(ledger.dead_at_intake, 1, "{ledger:?}");
    eventually("asked again, within the limits", || (node.rebirths() == 2).then_some(()));
}

#[test]
fn a_passive_host_publishes_nothing_at_all() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("passive"));
    let mut watcher = broker.client();
    watcher.subscribe("spBv1.0/+/NCMD/#", 0);
    watcher.subscribe("spBv1.0/STATE/#", 1);
    let text = PACKAGING.replace("{id: $host, primary: true}", "{passive: true}");
    let millrace = Factory::on(kafka).with("broker", broker.url()).with("topic", &topic).start(&text);
    millrace.wait_running("packaging");
    let mut node = EdgeNode::tahu(&broker, "pack", "edge");
    node.data(json!([{"alias": 99, "type": "Int32", "value": 3}]));
    kafka.follow(&format!("{topic}.dead")).count(1);
    assert!(watcher.listen(Duration::from_secs(5)).is_empty());
    assert_eq!(node.rebirths(), 0);
}

#[test]
fn a_birth_with_fifty_thousand_metrics_is_taken_and_known_after_a_kill() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("large"));
    let mut millrace = start(kafka, &broker, &topic);
    let mut node = EdgeNode::tahu(&broker, "pack", "large");
    let count = 50_000;
    // Names that compress badly: what is kept of the birth takes several pieces.
    let name =
        |i: u64| format!("Area {}/{:016x}{:016x}", i % 7, i.wrapping_mul(0x9E37_79B9_7F4A_7C15), i.wrapping_mul(0xD134_2543_DE82_EF95));
    let metrics: Vec<Value> = (1..=count).map(|i| json!({"name": name(i), "alias": i, "type": "Int32", "value": -(i as i64)})).collect();
    node.birth(json!(metrics));
    let mut follow = kafka.follow(&topic);
    follow.until("every metric", |records| records.len() as u64 >= count);
    let ledger = millrace.drained("packaging");
    assert_eq!((ledger.received, ledger.produced), (count, count), "{ledger:?}");

    millrace.kill9();
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_running("packaging");
    node.data(json!([{"alias": count, "type": "Int32", "value": 7}]));
    let tag = format!("packaging/large/{}", name(count).replace('/', "%2F"));
    until_value(&mut follow, &tag, &json!(7));
    eventually("the birth is asked for", || (node.rebirths() == 1).then_some(()));
    follow.until("every metric once more: the first values of this run", |records| records.len() as u64 > 2 * count);
    let ledger = millrace.drained("packaging");
    assert_eq!(ledger.dead_at_intake, 0, "{ledger:?}");
}
