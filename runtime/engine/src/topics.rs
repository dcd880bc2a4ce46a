//! What the engine knows of each Kafka topic: format, key, lane, dead letters, and which timestamps it takes.

use crate::frame::Lane;
use millrace_schemas::Micros;
use std::collections::HashMap;
use std::sync::Arc;

/// The form of a topic's values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    Avro,
    #[default]
    Json,
}

/// The key of a topic's samples.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum SampleKey {
    /// The tag's path.
    #[default]
    Tag,
    /// The tag's path without its last level.
    Asset,
    /// No key.
    None,
    /// A text with `{tag}`, `{asset}` and `{source}`.
    Template(Arc<str>),
}

/// The contract of one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topic {
    pub name: Arc<str>,
    pub format: Format,
    pub key: SampleKey,
    pub lane: Lane,
    pub dead_letter: Arc<str>,
    /// How far behind and ahead of read_time, in microseconds, Kafka takes a timestamp: its retention, and one hour by default.
    pub behind: i64,
    pub ahead: i64,
}

const DAY: i64 = 86_400_000_000;
const HOUR: i64 = 3_600_000_000;

impl Topic {
    /// A topic that is not declared: JSON, no schema.
    pub fn undeclared(name: &str) -> Self {
        Self {
            name: name.into(),
            format: Format::Json,
            key: SampleKey::Tag,
            lane: Lane::Normal,
            dead_letter: dead_letter_of(name),
            behind: 7 * DAY,
            ahead: HOUR,
        }
    }

    /// The timestamp Kafka gets for a record of this time, and whether it had to be replaced.
    pub fn timestamp(&self, time: Micros, read_time: Micros) -> (i64, bool) {
        let is_taken = time.0 >= read_time.0.saturating_sub(self.behind) && time.0 <= read_time.0.saturating_add(self.ahead);
        if is_taken { (time.as_millis(), false) } else { (read_time.as_millis(), true) }
    }
}

/// `{topic}.dead`; of a topic that is only known as a template, `millrace.dead`.
pub fn dead_letter_of(topic: &str) -> Arc<str> {
    if topic.contains('{') { "millrace.dead".into() } else { format!("{topic}.dead").into() }
}

/// The declared topics of a factory.
#[derive(Clone, Debug, Default)]
pub struct Topics(HashMap<Arc<str>, Arc<Topic>>);

impl Topics {
    pub fn new(topics: impl IntoIterator<Item = Topic>) -> Self {
        Self(topics.into_iter().map(|t| (t.name.clone(), Arc::new(t))).collect())
    }

    pub fn get(&self, name: &str) -> Arc<Topic> {
        self.0.get(name).cloned().unwrap_or_else(|| Arc::new(Topic::undeclared(name)))
    }

    pub fn lanes(&self) -> impl Iterator<Item = Lane> {
        self.0.values().map(|t| t.lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_that_kafka_would_refuse_is_replaced_by_the_read_time() {
        let topic = Topic::undeclared("t");
        let now = Micros(1_800_000_000_000_000);
        assert_eq!(topic.timestamp(Micros(now.0 - DAY), now), ((now.0 - DAY) / 1000, false));
        assert_eq!(topic.timestamp(Micros(now.0 + 2 * HOUR), now), (now.0 / 1000, true));
        assert_eq!(topic.timestamp(Micros(-11_644_473_600_000_000), now), (now.0 / 1000, true));
        assert_eq!(topic.timestamp(Micros(i64::MAX), now), (now.0 / 1000, true));
    }
}
