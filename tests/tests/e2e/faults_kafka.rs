//! Kafka dies, freezes, loses its cable: nothing is lost, the ledger adds up, order holds.

use crate::load::*;
use millrace_tests::*;
use std::time::Duration;

const COUNT: u64 = 40_000;

/// All that was said of the outage is taken back.
fn is_ready_again(millrace: &Millrace) {
    eventually("the status says that Kafka answers", || (millrace.status()["kafka"]["status"] == "Running").then_some(()));
    eventually("it is ready", || matches!(http::get(millrace.http_port(), "/health/ready"), Ok((200, _))).then_some(()));
}

#[test]
fn kafka_killed_and_restarted_under_load_loses_nothing() {
    let mut kafka = Kafka::start();
    // A Kafka that is slow to come back may find that the source has made all its records: the catch-up is then over before it is killed again.
    let count = 2 * COUNT;
    let (factory, topic) = counters(Factory::on(&kafka), &kafka, count, "4000/s");
    let millrace = factory.start(COUNTERS);
    for part in [1, 2] {
        millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > part * count / 8);
        kafka.kill9();
        millrace.wait_ledger("load", "records wait in the log, or there are no more", |ledger| {
            ledger.waiting > 1_000 || part == 2 && ledger.received == count
        });
        kafka.restart();
    }
    let ledger = finished(&millrace, count);
    is_ready_again(&millrace);
    let records = kafka.read(&topic);
    every_value_at_least_once(&records, count);
    order_holds(&records);
    assert_eq!((ledger.appended, ledger.dropped_from_log), (count, 0));
}

#[test]
fn kafka_frozen_for_fifteen_seconds_loses_nothing_and_costs_nothing() {
    let kafka = Kafka::start();
    let (factory, topic) = counters(Factory::on(&kafka).exactly_once(), &kafka, COUNT, "4000/s");
    let mut millrace = factory.start(COUNTERS);
    millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > COUNT / 5);
    kafka.freeze();
    let frozen = std::time::Instant::now();
    within(Duration::from_secs(30), "the status says that Kafka does not answer", || {
        (millrace.status()["kafka"]["status"] == "Degraded").then_some(())
    });
    // The fault itself lasts: longer than a request's or a session's patience. Meanwhile nothing is done over and over again.
    let (cpu, began) = (millrace.process().cpu_seconds(), std::time::Instant::now());
    std::thread::sleep(Duration::from_secs(15).saturating_sub(frozen.elapsed()).max(Duration::from_secs(5)));
    let (cpu, seconds) = (millrace.process().cpu_seconds() - cpu, began.elapsed().as_secs_f64());
    assert!(cpu < 0.5 * seconds, "{cpu} s of CPU in {seconds} s");
    kafka.thaw();
    is_ready_again(&millrace);
    finished(&millrace, COUNT);
    every_value_once(&kafka.read(&topic), COUNT);
}

#[test]
fn a_cable_to_kafka_that_is_cut_slow_or_half_open_loses_nothing() {
    let kafka = Kafka::options().proxied().start();
    let cable = Cable::between(kafka.proxy_port(), kafka.behind_proxy());
    let factory = Factory::at(&format!("127.0.0.1:{}", cable.port())).exactly_once();
    // So many that every fault finds the source at work, on a slow machine too.
    let count = 3 * COUNT;
    let (factory, topic) = counters(factory, &kafka, count, "4000/s");
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
        let ledger =
            millrace.wait_ledger("load", &format!("records pass before the cable is {name}"), |ledger| ledger.produced > produced + 2_000);
        assert!(ledger.received < count, "the source ended before the cable was {name}: {ledger:?}");
        fault(&cable);
        let ledger = millrace.wait_ledger("load", &format!("records wait while the cable is {name}"), |ledger| {
            ledger.waiting > 4_000 || name.starts_with("reset")
        });
        assert!(ledger.received < count, "the source ended while the cable was {name}: {ledger:?}");
        cable.heal();
        produced = millrace.ledger("load").produced;
    }
    finished(&millrace, count);
    is_ready_again(&millrace);
    every_value_once(&kafka.read(&topic), count);
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
    is_ready_again(&millrace);
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
