//! The press shop through the runtime: parts by trigger, commands, and channels whose tokens do not live long.

use millrace_opcua_sim::{NAMESPACE, Options, Shop};
use millrace_tests::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

fn of(records: &[Record], tag: &str) -> Vec<Value> {
    let samples = records.iter().map(Record::json);
    samples.filter(|sample| sample["tag"].as_str().is_some_and(|path| below_site(path) == tag)).collect()
}

const PARTS: &str = "
floor: {writes: allowed}
topics: {$topic: {format: json}, $parts: {format: json}, $commands: {format: json}, $replies: {format: json}}
sources:
  plant:
    type: opcua
    endpoint: $endpoint
    namespaces: {p: $namespace}
    topic: $topic
    groups:
      - every: 100ms
        sampling: 0s
        tags: {done: 'p:s=Press1.PartDone', ack: 'p:s=Press1.PartAck', setpoint: {node: 'p:s=Press1.Setpoint', writable: true}}
      - trigger: {tag: done, ack: part_ack}
        record: {topic: $parts, key: '{serial}'}
        tags: {serial: 'p:s=Press1.Serial', peak: 'p:s=Press1.Peak', part: 'p:s=Press1.LastPart', part_ack: {node: 'p:s=Press1.PartAck', writable: true}}
sinks:
  setpoints: {source: plant, topics: [$commands], reply: $replies, allow: {setpoint: {min: 20, max: 300}}}
";

#[test]
fn every_part_is_one_document_and_acknowledged_and_a_command_reaches_the_press() {
    let shop = Shop::start(Options::default()).expect("the shop opens");
    let kafka = Kafka::shared();
    let [topic, parts, commands, replies] = ["values", "parts", "commands", "replies"].map(|name| kafka.topic(name));
    kafka.create_topic(&commands, 1, &[]);
    let factory = Factory::on(kafka).with("topic", &topic).with("parts", &parts).with("commands", &commands).with("replies", &replies);
    let millrace = factory.with("endpoint", shop.endpoint()).with("namespace", NAMESPACE).start(PARTS);
    millrace.wait_running("plant");
    millrace.wait_running("setpoints");
    let mut follow = kafka.follow(&parts);
    let documents = follow.until("five parts", |records| records.len() >= 5);
    let serials: Vec<String> = documents.iter().map(|record| record.json()["serial"].as_str().unwrap_or_default().to_owned()).collect();
    let numbers: Vec<u32> = serials.iter().filter_map(|serial| serial.rsplit('-').next()?.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "part after part: {serials:?}");
    for record in documents {
        let part = record.json();
        assert_eq!((record.key_text(), &part["part"]["Serial"]), (part["serial"].as_str().unwrap_or_default().to_owned(), &part["serial"]));
        assert!(part["peak"].as_f64().is_some_and(|peak| peak > 50.0), "{part}");
    }
    let mut values = kafka.follow(&topic);
    values.until("an acknowledgement", |records| of(records, "ack").iter().any(|sample| sample["value"] == true));
    for (id, value) in [("hot", json!(250)), ("too-hot", json!(301))] {
        let command = json!({"id": id, "tag": "setpoint", "value": value, "by": "a test"}).to_string();
        kafka.produce(&commands, [("setpoint", command.as_bytes())]);
    }
    let mut answers = kafka.follow(&replies);
    let answers: Vec<Value> = answers.count(2).iter().map(Record::json).collect();
    let result = |id: &str| answers.iter().find(|answer| answer["id"] == id).map(|answer| answer["result"].clone());
    assert_eq!((result("hot"), result("too-hot")), (Some(json!("done")), Some(json!("refused"))));
    values.until("the setpoint", |records| of(records, "setpoint").last().is_some_and(|sample| sample["value"] == 250.0));
    millrace.drained("plant");
}

const COUNT: &str = "
topics: {$topic: {format: json}}
sources:
  plant:
    type: opcua
    endpoint: $endpoint
    namespaces: {p: $namespace}
    topic: $topic
    keep_alive: 2s
    security: {policy: Aes256_Sha256_RsaPss}
    groups: [{every: 100ms, sampling: 0s, queue: 1000, tags: {temp: 'p:s=Press1.Temp', strokes: 'p:s=Press1.Strokes'}}]
";

#[test]
fn encrypted_tokens_of_one_second_are_renewed_again_and_again_and_no_value_is_missing() {
    let pki = scratch("shop");
    let options = Options {
        pki: Some(pki.path().into()),
        token_lifetime: Duration::from_secs(1),
        every: Duration::from_millis(50),
        ..Options::default()
    };
    let shop = Shop::start(options).expect("the shop opens");
    let cable = Cable::to(shop.port());
    let kafka = Kafka::shared();
    let topic = kafka.topic("tokens");
    let endpoint = format!("opc.tcp://127.0.0.1:{}", cable.port());
    let millrace = Factory::on(kafka).with("topic", &topic).with("endpoint", endpoint).with("namespace", NAMESPACE).start(COUNT);
    millrace.wait_word("plant", "Blocked");
    let connector = millrace.connector("plant").to_string();
    millrace.type_line_of(&connector);
    millrace.wait_running("plant");
    let connections = cable.accepted();
    let mut follow = kafka.follow(&topic);
    // A new temperature every fifty milliseconds: over twenty tokens.
    let records = follow.until("values over many tokens", |records| of(records, "temp").len() >= 400);
    assert_eq!(cable.accepted(), connections, "the connection is the first one");
    assert!(records.iter().all(|record| record.json()["quality"] == "good"));
    let strokes: BTreeSet<i64> = of(records, "strokes").iter().filter_map(|sample| sample["value"].as_i64()).collect();
    let (first, last) = (strokes.first().copied().unwrap_or(0), strokes.last().copied().unwrap_or(0));
    assert_eq!(strokes.len() as i64, last - first + 1, "{strokes:?}");
    let ledger = millrace.drained("plant");
    assert_eq!((ledger.dropped_at_intake, ledger.dead_at_intake), (0, 0), "{ledger:?}");
    let metrics = millrace.metrics();
    let expiry = |shelf: &str| {
        metrics.lines().any(|line| line.starts_with(&format!("millrace_certificate_expires_timestamp_seconds{{shelf=\"{shelf}\"")))
    };
    assert!(expiry("own") && expiry("trusted"), "{metrics}");
}
