//! Loads whose outcome is known beforehand, and the judgement on what arrived.

use millrace_tests::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Counters: every tag counts 0, 1, 2, ... up to `$count` values over all tags. The generator resumes at the number it had reached.
pub const COUNTERS: &str = "
topics: {$topic: {format: json, partitions: 3}}
sources:
  load: {type: generator, at: load, topic: $topic, tags: 10, rate: $rate, shapes: [counter], count: $count, report: all}
";

/// A factory with [`COUNTERS`] on a topic of its own; returns the topic.
pub fn counters(factory: Factory, kafka: &Kafka, count: u64, rate: &str) -> (Factory, String) {
    let topic = kafka.topic("counters");
    (factory.with("topic", &topic).with("count", count).with("rate", rate), topic)
}

/// Waits until the generator has made all its values and everything is in Kafka; checks the ledger.
pub fn finished(millrace: &Millrace, count: u64) -> Ledger {
    millrace.drained_when("load", |ledger| ledger.received >= count)
}

/// Every value of [`COUNTERS`] is there exactly once.
pub fn every_value_once(records: &[Record], count: u64) {
    let values = values_by_tag(records);
    assert_eq!(values.len(), 10, "tags: {:?}", values.keys());
    for (tag, mut values) in values {
        values.sort_unstable();
        assert_eq!(values, (0..count / 10).collect::<Vec<_>>(), "the values of {tag}");
    }
    every_identity_says_one_thing(records);
}

/// Every value of [`COUNTERS`] is there; returns how many records repeat an identity.
pub fn every_value_at_least_once(records: &[Record], count: u64) -> usize {
    for (tag, values) in values_by_tag(records) {
        let distinct: BTreeSet<u64> = values.into_iter().collect();
        assert_eq!(distinct.len() as u64, count / 10, "{tag}: a value is missing");
        assert_eq!(distinct.last(), Some(&(count / 10 - 1)), "{tag}");
    }
    every_identity_says_one_thing(records)
}

/// Records of one identity are the same to the last byte; returns how many are repeats.
pub fn every_identity_says_one_thing(records: &[Record]) -> usize {
    let mut said: HashMap<(String, i64), &Record> = HashMap::new();
    let mut repeats = 0;
    for record in records {
        if let Some(before) = said.insert(record.identity(), record) {
            assert_eq!(
                (&before.key, &before.value, &before.headers, before.partition),
                (&record.key, &record.value, &record.headers, record.partition),
                "one identity, two records: {} and {}",
                before.text(),
                record.text()
            );
            repeats += 1;
        }
    }
    repeats
}

/// Within a partition the identities of one source grow, leaving repeats aside.
pub fn order_holds(records: &[Record]) {
    let mut last: BTreeMap<(i32, Vec<u8>), u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for record in records.iter().filter(|record| seen.insert(record.identity())) {
        let value = record.json()["value"].as_u64().unwrap_or_default();
        if let Some(before) = last.insert((record.partition, record.key.clone().unwrap_or_default()), value) {
            assert!(before < value, "{}: {value} after {before}", record.key_text());
        }
    }
}

fn values_by_tag(records: &[Record]) -> BTreeMap<String, Vec<u64>> {
    let mut values: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in records {
        let sample = record.json();
        let value = sample["value"].as_u64().unwrap_or_else(|| panic!("no counter: {sample}"));
        values.entry(sample["tag"].as_str().expect("a sample has a tag").to_owned()).or_default().push(value);
    }
    values
}
