//! Devices and brokers that send nonsense: every protocol that a source reads, through a cable that flips bits both ways.

use super::{Campaign, idle_kib, is_unharmed};
use millrace_tests::*;
use std::process::Command;
use std::time::Duration;

/// `millrace simulate`, behind a cable.
fn simulator(kind: &str, args: &[&str], folder: &std::path::Path) -> (Process, Cable) {
    let port = free_port();
    let mut command = Command::new(millrace::binary());
    command.args(["simulate", kind, "--listen", &format!("127.0.0.1:{port}")]).args(args);
    let mut process = Process::start(kind, command, &folder.join(format!("{kind}.log")));
    eventually("the simulator listens", || {
        assert!(process.is_running(), "it ended at its start\n{}", process.output());
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    (process, Cable::to(port))
}

const PLANT: &str = r#"
topics: {$topic: {format: json}}
sources:
  cells:
    type: mqtt
    endpoint: mqtt://127.0.0.1:$mqtt
    topic: $topic
    subscribe:
      - {filter: cells/+/telemetry, payload: json, at: "cells/{1}", samples: {seq: /seq, torque: /torque/nm}, qos: 1}
      - {filter: spBv1.0/packaging/#, payload: sparkplug, at: "packaging/{device}", tag: "{metric}"}
  presses:
    type: opcua
    endpoint: opc.tcp://127.0.0.1:$opcua
    namespaces: {p: "http://millrace.example/press-shop"}
    at: body
    topic: $topic
    groups: [{every: 100ms, tags: {strokes: p:s=Press1.Strokes, force: p:s=Press1.Force}}]
  meters:
    type: modbus
    endpoint: tcp://127.0.0.1:$modbus
    bus: {timeout: 500ms}
    topic: $topic
    devices: {m01: {unit_id: 1, at: meters/1, groups: [{every: 100ms, tags: {power: {address: "input:52", as: i32, order: CDAB}}}]}}
  oven:
    type: s7
    endpoint: 127.0.0.1:$s7
    at: oven
    topic: $topic
    groups: [{every: 100ms, tags: {zone1: "DB1.DBD0:REAL", part_done: DB1.DBX4.1}}]
  load: {type: generator, at: load, topic: $topic, tags: 10, rate: 100/s}
"#;

const SOURCES: [&str; 4] = ["cells", "presses", "meters", "oven"];

#[test]
fn no_answer_of_a_device_or_broker_stops_its_source_for_good_or_another_at_all() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("attacked");
    let factory = Factory::on(kafka).with("topic", &topic);
    let folder = factory.dir().to_owned();
    let peers = [
        simulator("mqtt", &["--rate", "50"], &folder),
        simulator("opcua", &[], &folder),
        simulator("modbus", &[], &folder),
        simulator("s7", &["--parts", "1s"], &folder),
    ];
    let factory =
        ["mqtt", "opcua", "modbus", "s7"].iter().zip(&peers).fold(factory, |factory, (name, (_, cable))| factory.with(name, cable.port()));
    let mut millrace = factory.start(PLANT);
    for source in SOURCES {
        millrace.wait_ledger(source, "it runs", |ledger| ledger.produced > 2);
    }
    let mut campaign = Campaign::begin("mutated answers");
    let (idle, before) = (idle_kib(&mut millrace), millrace.log().lines().count());
    let mut bent = 0;
    while campaign.goes_on() {
        for (_, cable) in &peers {
            // From a bit here and there to one in every message.
            cable.corrupt(campaign.rng.u64(30..2_000));
            if campaign.rng.u8(..4) == 0 {
                cable.reset();
            }
        }
        std::thread::sleep(Duration::from_millis(250));
        assert_eq!(millrace.word("load"), "Running", "ATTACK_SEED={}", campaign.seed);
        bent += 1;
    }
    let lines = millrace.log().lines().count() - before;
    println!("{bent} cables bent four times each, {lines} lines in the log");
    assert!(lines < 200 * bent, "{lines} lines in the log");
    for (_, cable) in &peers {
        cable.heal();
        cable.reset();
    }
    is_unharmed(&mut millrace, idle);
    for source in SOURCES {
        let before = millrace.ledger(source).produced;
        millrace.wait_ledger(source, "it goes on", |ledger| ledger.produced > before + 2);
        millrace.wait_running(source);
    }
    for source in SOURCES {
        millrace.ledger(source).received.checked_sub(1).expect("something was received");
    }
    millrace.stop();
    super::never_panicked(&millrace);
}

/// A small file that is large inside: one line without an end, and one of a good size behind a good one.
#[test]
fn a_compressed_file_that_is_a_thousand_times_larger_inside_takes_little_memory() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("bomb");
    let factory = Factory::on(kafka).with("topic", &topic);
    let folder = factory.dir().join("in");
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let packed = |name: &str, script: &str| {
        let done = Command::new("sh").arg("-c").arg(format!("{{ {script}; }} | gzip -1 > {}", folder.join(name).display())).status();
        assert!(done.expect("sh starts").success());
    };
    packed("a.ndjson.gz", "echo '{\"n\": 1}'");
    let mut millrace =
        factory.start("sources: {drop: {type: file, path: '$dir/in/*.ndjson.gz', format: ndjson, topic: $topic, when_done: keep}}\n");
    millrace.wait_ledger("drop", "the first file is read", |ledger| ledger.produced == 1);
    let idle = idle_kib(&mut millrace);
    packed("b.ndjson.gz", "head -c 400M /dev/zero | tr '\\0' x");
    packed("c.ndjson.gz", "echo '{\"n\": 2}'");
    millrace.wait_ledger("drop", "the bomb and the file behind it are read", |ledger| ledger.produced >= 2 && ledger.received >= 3);
    // A record may be as large as `max_record`, 16 MiB, and is read into memory whole before it is known to be larger.
    is_unharmed(&mut millrace, idle);
    let texts: Vec<String> = kafka.read(&topic).iter().map(Record::text).collect();
    assert_eq!(texts, ["{\"n\": 1}", "{\"n\": 2}"]);
    millrace.stop();
}

/// Each topic is another, and nearly as long as MQTT allows. Tags cannot have such names, documents go out with them; what is in flight counts with its
/// headers. `ATTACK_TOPICS=18255` is what once took 5 GB.
#[test]
fn topics_as_long_as_mqtt_allows_take_little_memory_though_kafka_is_frozen() {
    let (kafka, broker) = (Kafka::start(), Mosquitto::options().line("max_queued_messages 0").start());
    let count = std::env::var("ATTACK_TOPICS").map_or(1_500, |text| text.parse::<u64>().expect("a number"));
    let (samples, documents) = (kafka.topic("samples"), kafka.topic("documents"));
    let factory = Factory::on(&kafka).with("broker", broker.url()).with("samples", &samples).with("documents", &documents);
    let mut millrace = factory.start(
        "topics: {$samples: {format: json}, $documents: {format: json}}\n\
         sources:\n  cells:\n    type: mqtt\n    endpoint: $broker\n    topic: $samples\n    subscribe:\n      \
         - {filter: t/#, payload: json, at: '{topic}', samples: {v: /v}, qos: 1}\n      \
         - {filter: d/#, payload: json, topic: $documents, qos: 1}\n",
    );
    millrace.wait_running("cells");
    let mut client = broker.client();
    for topic in ["t/short", "d/short"] {
        client.publish(topic, b"{\"v\": 1}", 1, false);
    }
    client.finish();
    millrace.wait_ledger("cells", "the first have gone out", |ledger| ledger.produced >= 2 && ledger.waiting == 0);
    let idle = idle_kib(&mut millrace);
    kafka.freeze();
    let long = "x".repeat(60_000);
    for i in 0..count {
        for kind in ["t", "d"] {
            client.publish(&format!("{kind}/{i}/{long}"), format!("{{\"v\": {i}}}").as_bytes(), 1, false);
        }
    }
    client.finish();
    millrace.wait_ledger("cells", "all have come in", |ledger| ledger.received >= 2 + 2 * count);
    is_unharmed(&mut millrace, idle);
    kafka.thaw();
    let ledger = millrace.drained("cells");
    assert_eq!((ledger.produced, ledger.dead_at_intake, ledger.dead_at_send), (2 + count, count, 0), "{ledger:?}");
    is_unharmed(&mut millrace, idle);
    let sent = kafka.read(&documents);
    assert_eq!(sent.len() as u64, 1 + count);
    assert!(sent.iter().all(|record| record.text() == "{\"v\": 1}" || record.headers.len() > 1));
    let dead = kafka.read(&format!("{samples}.dead"));
    let reason = dead[0].header("__connect.errors.exception.message").unwrap_or_default();
    assert!(dead.len() as u64 == count && reason.contains("60"), "{} of {count}: {reason}", dead.len());
    millrace.stop();
    super::never_panicked(&millrace);
}
