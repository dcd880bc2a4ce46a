//! Clocks that begin in 1970, and that somebody sets while the runtime runs.

use super::never_panicked;
use crate::load::*;
use millrace_tests::*;
use std::collections::BTreeSet;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// From 1970 to now, an hour ahead, two days back, and right again, each while records flow: all are there, no identity is used twice, no tag turns bad.
#[test]
fn a_clock_that_begins_in_1970_and_jumps_loses_nothing_and_makes_no_tag_stale() {
    let kafka = Kafka::shared();
    let count = 12_000;
    for is_exactly_once in [false, true] {
        let factory = if is_exactly_once { Factory::on(kafka).exactly_once() } else { Factory::on(kafka) };
        let (clock, factory) = Clock::of(factory);
        let (factory, topic) = counters(factory, kafka, count, "1000/s");
        // By its clock of 1970 each record is too old for any retention: Kafka is not to delete what the test looks for.
        kafka.create_topic(&topic, 3, &[("retention.ms", "-1")]);
        clock.set(7 * 60);
        let mut millrace = factory.start(COUNTERS);
        for (part, offset) in [(1, Some(0)), (2, Some(HOUR)), (3, Some(-2 * DAY)), (4, Some(0)), (5, None)] {
            millrace.wait_ledger("load", &format!("records go out before step {part}"), |ledger| ledger.produced > part * count / 6);
            match offset {
                Some(offset) => clock.put(offset),
                // A start with a clock that went back again.
                None => {
                    clock.set(9 * 60);
                    millrace.restart();
                }
            }
        }
        let ledger = finished(&millrace, count);
        assert_eq!((ledger.dropped_at_intake, ledger.dropped_from_log, ledger.dead_at_send), (0, 0, 0), "{ledger:?}");
        let records = kafka.read(&topic);
        let repeats = every_value_at_least_once(&records, count);
        order_holds(&records);
        assert!(!is_exactly_once || repeats == 0, "{repeats} repeats");
        let bad: BTreeSet<_> =
            records.iter().map(|record| record.json()["quality"].to_string()).filter(|quality| quality != "\"good\"").collect();
        assert!(bad.is_empty(), "{bad:?}");
        assert_eq!(millrace.status()["kafka"]["status"], "Running");
        millrace.stop();
        never_panicked(&millrace);
    }
}

/// The data directory is lost again and again while the clock says 1972: Kafka alone knows what was used, so nothing is numbered before it has said so.
#[test]
fn no_identity_stands_for_two_values_though_the_data_is_lost_and_the_clock_says_1972() {
    let mut kafka = Kafka::start();
    let count = 30_000;
    let (clock, factory) = Clock::of(Factory::on(&kafka));
    let (factory, topic) = counters(factory, &kafka, count, "2000/s");
    kafka.create_topic(&topic, 3, &[("retention.ms", "-1")]);
    let mut millrace = factory.prepare(COUNTERS);
    for round in 1..=4 {
        clock.set(2 * 365 * DAY as u64);
        let is_away = round % 2 == 0;
        if is_away {
            kafka.kill9();
        }
        millrace.launch();
        millrace.wait_alive();
        if is_away {
            eventually("it says that it waits, and for what", || {
                let reason = millrace.connector("load")["reason"].as_str().unwrap_or_default().to_owned();
                reason.contains("can't be numbered").then_some(())
            });
            assert_eq!(millrace.ledger("load").received, 0, "nothing is read before it can be numbered");
            kafka.restart();
        }
        let sent = kafka_records(&kafka, &topic);
        eventually(&format!("more is in Kafka in round {round}"), || (kafka_records(&kafka, &topic) > sent + 2_000).then_some(()));
        millrace.kill9();
        std::fs::remove_dir_all(millrace.data_dir()).expect("the data can be removed");
    }
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_word("load", "Stopped");
    millrace.drained("load");
    let records = kafka.read(&topic);
    every_value_at_least_once(&records, count);
    never_panicked(&millrace);
}

fn kafka_records(kafka: &Kafka, topic: &str) -> u64 {
    if kafka.topics().iter().any(|(name, _)| name == topic) { kafka.read(topic).len() as u64 } else { 0 }
}
