//! Kafka dies, freezes, loses its cable: nothing is lost, the ledger adds up, order holds.

use crate::load::*;
use millrace_tests::*;
use std::time::Duration;

const COUNT: u64 = 40_000;

#[test]
fn kafka_killed_and_restarted_under_load_loses_nothing() {
    let mut kafka = Kafka::start();
    let (factory, topic) = counters(Factory::on(&kafka), &kafka, COUNT, "4000/s");
    let millrace = factory.start(COUNTERS);
    for part in [1, 2] {
        millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > part * COUNT / 5);
        kafka.kill9();
        millrace.wait_ledger("load", "records wait in the log", |ledger| ledger.waiting > 1_000);
        kafka.restart();
    }
    let ledger = finished(&millrace, COUNT);
    let records = kafka.read(&topic);
    every_value_at_least_once(&records, COUNT);
    order_holds(&records);
    assert_eq!((ledger.appended, ledger.dropped_from_log), (COUNT, 0));
}

#[test]
fn kafka_frozen_for_fifteen_seconds_loses_nothing() {
    let kafka = Kafka::start();
    let (factory, topic) = counters(Factory::on(&kafka).exactly_once(), &kafka, COUNT, "4000/s");
    let millrace = factory.start(COUNTERS);
    millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > COUNT / 5);
    kafka.freeze();
    // The fault itself lasts: longer than a request's or a session's patience.
    std::thread::sleep(Duration::from_secs(15));
    kafka.thaw();
    finished(&millrace, COUNT);
    every_value_once(&kafka.read(&topic), COUNT);
}

#[test]
fn a_cable_to_kafka_that_is_cut_slow_or_half_open_loses_nothing() {
    let kafka = Kafka::options().proxied().start();
    let cable = Cable::between(kafka.proxy_port(), kafka.behind_proxy());
    let factory = Factory::at(&format!("127.0.0.1:{}", cable.port())).exactly_once();
    let (factory, topic) = counters(factory, &kafka, COUNT, "4000/s");
    let millrace = factory.start(COUNTERS);
    let mut produced = 0;
    type Fault = fn(&Cable);
    let faults: [(&str, Fault); 4] = [
        ("cut", |cable| cable.cut()),
        ("half open", |cable| cable.half_open()),
        ("slow", |cable| cable.slow(20_000)),
        ("reset again and again", |cable| cable.reset()),
    ];
    for (name, fault) in faults {
        millrace.wait_ledger("load", &format!("records pass before the cable is {name}"), |ledger| {
            ledger.produced > produced + 2_000 || ledger.received >= COUNT
        });
        fault(&cable);
        millrace.wait_ledger("load", &format!("records wait while the cable is {name}"), |ledger| {
            ledger.waiting > 4_000 || ledger.received >= COUNT || name.starts_with("reset")
        });
        cable.heal();
        produced = millrace.ledger("load").produced;
    }
    finished(&millrace, COUNT);
    every_value_once(&kafka.read(&topic), COUNT);
}

#[test]
fn a_kafka_that_is_not_there_at_the_start_is_waited_for() {
    let mut kafka = Kafka::start();
    kafka.kill9();
    let (factory, topic) = counters(Factory::on(&kafka), &kafka, 5_000, "5000/s");
    let millrace = factory.start(COUNTERS);
    millrace.wait_ledger("load", "everything waits in the log", |ledger| ledger.waiting == 5_000);
    kafka.restart();
    finished(&millrace, 5_000);
    every_value_once(&kafka.read(&topic), 5_000);
}

#[test]
fn an_outage_is_survived_by_a_restart_of_the_runtime_with_a_full_log() {
    let mut kafka = Kafka::start();
    let (factory, topic) = counters(Factory::on(&kafka), &kafka, 20_000, "10000/s");
    let mut millrace = factory.start(COUNTERS);
    millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > 1_000);
    kafka.kill9();
    millrace.wait_ledger("load", "records wait in the log", |ledger| ledger.waiting > 5_000);
    millrace.restart();
    millrace.wait_ledger("load", "all waits in the log", |ledger| ledger.received == 20_000);
    kafka.restart();
    finished(&millrace, 20_000);
    let records = kafka.read(&topic);
    every_value_at_least_once(&records, 20_000);
    order_holds(&records);
}

#[test]
fn a_source_whose_topic_is_refused_is_blocked_alone() {
    let kafka = Kafka::options().user("millrace", "secret").authorizer().start();
    let (good, bad) = (kafka.topic("good"), kafka.topic("bad"));
    kafka.create_topic(&good, 1, &[]);
    kafka.create_topic(&bad, 1, &[]);
    for allowed in [&good, "millrace.cursors", "millrace.tags"] {
        kafka.allow("millrace", &["--operation", "All", "--topic", allowed]);
    }
    kafka.allow("millrace", &["--operation", "All", "--group", "*"]);
    kafka.allow("millrace", &["--operation", "All", "--cluster"]);
    let millrace = Factory::on(&kafka).with("secured", kafka.secured_brokers()).with("good", &good).with("bad", &bad).env("KAFKA_PASSWORD", "secret").start(
        "
kafka:
  brokers: $secured
  properties: {security.protocol: SASL_PLAINTEXT, sasl.mechanism: SCRAM-SHA-512, sasl.username: millrace, sasl.password: '${env:KAFKA_PASSWORD}'}
topics: {$good: {format: json}, $bad: {format: json}}
sources:
  well: {type: generator, at: well, topic: $good, tags: 1, rate: 100/s, shapes: [counter], report: all}
  ill: {type: generator, at: ill, topic: $bad, tags: 1, rate: 100/s, shapes: [counter], report: all}
",
    );
    millrace.wait_word("ill", "Blocked");
    millrace.wait_ledger("well", "the neighbour goes on", |ledger| ledger.produced >= 1_000);
    assert!(kafka.read(&good).len() >= 1_000);
    let status = millrace.connector("ill");
    assert!(status["reason"].as_str().is_some_and(|reason| reason.contains(&bad)), "{status:#}");
    // Once a human has allowed it, everything comes.
    kafka.allow("millrace", &["--operation", "All", "--topic", &bad]);
    let ledger = millrace.wait_ledger("ill", "what waited has come", |ledger| ledger.produced >= 1_000);
    ledger.adds_up();
    assert!(kafka.read(&bad).len() >= 1_000);
}
