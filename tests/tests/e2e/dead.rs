//! Dead letters as a person meets them: counted, shown with their reasons, and sent again once the contract is mended.

use millrace_tests::*;
use serde_json::Value;

const ORDER: &str =
    r#"{"type":"record","name":"Order","namespace":"acme","fields":[{"name":"id","type":"string"},{"name":"quantity","type":"long"}]}"#;
const WITH_COLOR: &str = r#"{"type":"record","name":"Order","namespace":"acme","fields":[{"name":"id","type":"string"},{"name":"quantity","type":"long"},
  {"name":"color","type":["null","string"],"default":null}]}"#;

const ORDERS: &str = "
schemas: {registry: $registry}
topics: {$orders: {format: avro, schema: order.avsc}}
sources:
  cells:
    type: mqtt
    endpoint: $broker
    client_id: $orders
    subscribe: [{filter: 'orders/+', payload: json, topic: $orders, key: '{1}', qos: 1}]
";

#[test]
fn letters_are_counted_shown_and_sent_again_once_the_contract_is_mended() {
    let (kafka, broker, registry) = (Kafka::shared(), Mosquitto::start(), Registry::start());
    let orders = kafka.topic("orders");
    let factory = Factory::on(kafka).with("broker", broker.url()).with("registry", registry.url()).with("orders", &orders);
    let millrace = factory.file("order.avsc", ORDER).start(ORDERS);
    millrace.wait_running("cells");
    let mut publisher = broker.client();
    for (key, payload) in [
        ("1", r#"{"id":"1","quantity":5}"#),
        ("2", r#"{"id":"2","quantity":5,"color":"red"}"#),
        ("3", r#"{"id":"3","quantity":"many"}"#),
        ("4", r#"{"id":"4","quantity":7,"color":"blue"}"#),
    ] {
        publisher.publish(&format!("orders/{key}"), payload.as_bytes(), 1, false);
    }
    publisher.finish();
    millrace.drained_when("cells", |ledger| ledger.received >= 4);
    let dead = |command: &str, more: &[&str]| {
        let output = millrace.run(&[&["dead", command, "-c", "factory.yaml", "--topic", &orders], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };

    let (code, said, _) = dead("list", &[]);
    assert_eq!(code, Some(0), "{said}");
    let counted =
        |reason: &str| said.lines().find(|line| line.contains(reason)).map(|line| line.split_whitespace().next().unwrap().to_owned());
    assert_eq!(counted("key color is not in record acme.Order").as_deref(), Some("2"), "{said}");
    assert_eq!(counted("/quantity").as_deref(), Some("1"), "{said}");
    assert_eq!(dead("list", &["--reason", "nothing of the kind"]).1.lines().count(), 1);

    let (_, said, _) = dead("show", &["--reason", "key color", "--since", "1h", "--json"]);
    let shown: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect();
    let payloads: Vec<&str> = shown.iter().filter_map(|letter| letter["value"].as_str()).collect();
    assert_eq!(payloads, [r#"{"id":"2","quantity":5,"color":"red"}"#, r#"{"id":"4","quantity":7,"color":"blue"}"#]);
    assert_eq!(shown[0]["headers"]["millrace.route"], "orders/+");
    let first = shown[0]["id"].as_str().expect("an id").to_owned();

    let (code, said, _) = dead("replay", &["--reason", "key color"]);
    assert!(code == Some(0) && said.starts_with("0 dead letters would be sent") && said.contains("2 refused"), "{said}");
    let (code, said, _) = dead("replay", &["--id", &first, "--yes"]);
    assert!(code != Some(0) && said.contains("0 sent, 1 refused") && said.contains("still does not fit"), "{said}");
    assert_eq!(kafka.read(&orders).len(), 1, "what still does not fit is not sent");

    std::fs::write(millrace.dir().join("order.avsc"), WITH_COLOR).expect("a file can be written");
    let (code, said, _) = dead("replay", &["--reason", "key color"]);
    assert!(code == Some(0) && said.starts_with("2 dead letters would be sent"), "{said}");
    let (code, said, error) = dead("replay", &["--reason", "key color", "--yes"]);
    assert!(code == Some(0) && said.starts_with("2 sent, 0 refused"), "{said}{error}");
    let records = kafka.read(&orders);
    assert_eq!(records.iter().map(Record::key_text).collect::<Vec<_>>(), ["1", "2", "4"]);
    for record in &records[1..] {
        let value = record.value.as_deref().expect("a value");
        let id = i32::from_be_bytes(value[1..5].try_into().expect("four bytes"));
        assert!(registry.schema(id).1["schema"].as_str().is_some_and(|text| text.contains("color")), "with the schema of today");
        assert!(
            record.header("millrace.replayed").is_some() && record.header("__connect.errors.exception.message").is_none(),
            "{record:?}"
        );
    }
    let (code, said, error) = dead("replay", &["--reason", "key color", "--yes"]);
    assert!(code == Some(0) && said.starts_with("0 sent, 0 refused"), "what was sent is not sent twice: {said}{error}");
    assert_eq!(kafka.read(&orders).len(), 3);
}

const DEVICES: &str = "
kafka: {brokers: embedded, embedded: {listen: \"$listen\"}}
schemas: {registry: embedded, listen: \"127.0.0.1:$registry\"}
topics:
  valves: {format: protobuf}
  rows: {format: avro, schema: telemetry}
  packs: {format: json}
sources:
  plant:
    type: mqtt
    endpoint: $broker
    client_id: plant
    subscribe:
      - {filter: 'valve/+', payload: number, tag: '{1}/open', topic: valves, qos: 1 MAP}
      - {filter: 'spBv1.0/#', payload: sparkplug, topic: packs, qos: 1}
  stand: {type: file, path: '$dir/in/*.csv', at: stand, topic: rows, samples: {v: {at: v, as: double}}, time: {at: t FORMAT}}
";

/// `ON`, rows of CSV and Protobuf of Sparkplug: what is no sample as it came becomes one by the corrected file, or stays where it is.
#[test]
fn what_devices_sent_is_decoded_again_by_the_corrected_routes_and_goes_once() {
    let (kafka, broker) = (Kafka::inside(free_port()), Mosquitto::start());
    let factory = Factory::on(&kafka).with("listen", kafka.brokers()).with("registry", free_port()).with("broker", broker.url());
    std::fs::create_dir(factory.dir().join("in")).expect("a folder can be made");
    let factory = factory.file("in/a.csv", "t,v\n21.11.2024 12:00:00,5.5\n22.11.2024 12:00:00,6.5\n");
    let millrace = factory.start(&DEVICES.replace(" MAP", "").replace(" FORMAT", ""));
    millrace.wait_running("plant");
    let mut publisher = broker.client();
    for (topic, payload) in [("valve/7", &b"ON"[..]), ("valve/8", b"OFF"), ("valve/9", b"ajar")] {
        publisher.publish(topic, payload, 1, false);
    }
    // A value of alias 7 whose node was never born.
    publisher.publish("spBv1.0/hall/NDATA/n", &[0x08, 1, 0x12, 6, 0x18, 7, 0x20, 7, 0x50, 5, 0x18, 1], 1, false);
    publisher.finish();
    millrace.drained_when("plant", |ledger| ledger.dead_at_intake >= 4);
    millrace.drained_when("stand", |ledger| ledger.dead_at_intake >= 2);
    let replay = |more: &[&str]| {
        let output = millrace.run(&[&["dead", "replay", "-c", "factory.yaml", "--json"], more].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {output:?}"));
        (said["sent"].as_u64().expect("a count"), said["refused"].as_u64().expect("a count"), said["reasons"].to_string())
    };
    let (sent, refused, reasons) = replay(&["--yes"]);
    assert_eq!((sent, refused), (0, 6), "nothing is corrected yet: {reasons}");
    millrace.write(&DEVICES.replace(" MAP", ", map: {ON: true, OFF: false}").replace(" FORMAT", ", format: '%d.%m.%Y %H:%M:%S'"));
    let (sent, refused, reasons) = replay(&[]);
    assert_eq!((sent, refused), (4, 2), "a dry run judges: {reasons}");
    assert!(reasons.contains("is not a number") && reasons.contains("without its node's birth"), "{reasons}");
    assert!(kafka.read("valves").is_empty() && kafka.read("rows").is_empty(), "a dry run sends nothing");

    let (sent, refused, reasons) = replay(&["--yes"]);
    assert_eq!((sent, refused), (4, 2), "{reasons}");
    let samples = |topic: &str, is_protobuf: bool| {
        let records = kafka.read(topic);
        let mut batch = millrace_schemas::Batch::new();
        for record in &records {
            let value = record.value.as_deref().expect("a value");
            match is_protobuf {
                true => millrace_schemas::protobuf::decode(&value[6..], &mut batch).expect("a sample"),
                false => millrace_schemas::avro::decode(&value[5..], &mut batch).expect("a sample"),
            }
        }
        let columns = batch.decoded.as_ref().expect("samples");
        let tag = |at: usize| below_site(batch.text_of(columns.tag_path[at])).to_owned();
        let mut found: Vec<_> =
            batch.rows.iter().enumerate().map(|(at, row)| (tag(at), row.time.0 / 1_000_000, format!("{:?}", row.value))).collect();
        assert!(batch.rows.iter().all(|row| row.flags.origin == millrace_schemas::Origin::Replay), "{found:?}");
        found.sort();
        found
    };
    let valves: Vec<_> = samples("valves", true).into_iter().map(|(tag, _, value)| (tag, value)).collect();
    assert_eq!(valves, [("7/open".to_owned(), "Bool(true)".to_owned()), ("8/open".to_owned(), "Bool(false)".to_owned())]);
    let rows = samples("rows", false);
    let wanted = |time, value: &str| ("stand/v".to_owned(), time, value.to_owned());
    assert_eq!(rows, [wanted(1_732_190_400, "Double(5.5)"), wanted(1_732_276_800, "Double(6.5)")]);

    let (sent, refused, reasons) = replay(&["--yes"]);
    assert_eq!((sent, refused), (0, 2), "what was sent is not sent twice: {reasons}");
    assert_eq!((kafka.read("valves").len(), kafka.read("rows").len(), kafka.read("packs").len()), (2, 2, 0));
}

/// Larger than Kafka takes: kept whole on the disk, and sent once its topic takes it. What still is too large stays, and costs no other letter.
#[test]
fn a_payload_above_kafkas_limit_survives_and_is_sent_once_the_topic_takes_it() {
    let (kafka, broker) = (Kafka::shared(), Mosquitto::start());
    let topic = kafka.topic("large");
    let millrace = Factory::on(kafka).with("broker", broker.url()).with("topic", &topic).start(
        "topics: {$topic: {format: json}}\nsources: {parts: {type: mqtt, endpoint: $broker, client_id: $topic, \
         subscribe: [{filter: 'part/+', topic: $topic, key: '{1}', qos: 1}]}}\n",
    );
    millrace.wait_running("parts");
    // What can't be compressed.
    let payload = |bytes: usize| format!("\"{}\"", (0..bytes).map(|_| fastrand::alphanumeric()).collect::<String>());
    let (large, larger) = (payload(3_000_000), payload(20_000_000));
    let mut publisher = broker.client();
    publisher.publish("part/1", large.as_bytes(), 1, false);
    publisher.publish("part/2", larger.as_bytes(), 1, false);
    publisher.finish();
    millrace.drained_when("parts", |ledger| ledger.dead_at_intake + ledger.dead_at_send >= 2);
    let replay = || {
        let output = millrace.run(&["dead", "replay", "-c", "factory.yaml", "--topic", &topic, "--yes", "--json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {output:?}"));
        (said["sent"].as_u64().expect("a count"), said["refused"].as_u64().expect("a count"), said["reasons"].to_string())
    };
    let takes = |bytes: &str| {
        let limit = format!("max.message.bytes={bytes}");
        kafka.tool("ConfigCommand", &["--alter", "--entity-type", "topics", "--entity-name", &topic, "--add-config", &limit]);
    };
    let (sent, refused, reasons) = replay();
    assert_eq!((sent, refused), (0, 2), "{reasons}");
    assert!(reasons.contains("Kafka does not take it"), "{reasons}");
    takes("5000000");
    let (sent, refused, reasons) = replay();
    assert_eq!((sent, refused), (1, 1), "{reasons}");
    takes("40000000");
    let (sent, refused, reasons) = replay();
    assert_eq!((sent, refused), (1, 0), "{reasons}");
    let (sent, refused, _) = replay();
    assert_eq!((sent, refused), (0, 0), "nothing is left, and nothing goes twice");
    let records = kafka.read(&topic);
    assert_eq!(records.iter().map(Record::key_text).collect::<Vec<_>>(), ["1", "2"]);
    assert!(records[0].text() == large && records[1].text() == larger, "they are what the device sent");
}
