//! What a topic can be told: names, defaults and meanings as in Apache Kafka.

use crate::storage::refused::Refused;
use kafka_protocol::ResponseError;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a value may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Bool,
    Int,
    Long,
    Double,
    Text,
    List,
}

/// One key, its default, and the values it takes.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    /// Smallest number, or the words that are understood.
    least: i64,
    words: &'static [&'static str],
}

const fn number(name: &'static str, kind: Kind, default: &'static str, least: i64) -> Key {
    Key { name, kind, default, least, words: &[] }
}

const fn word(name: &'static str, kind: Kind, default: &'static str, words: &'static [&'static str]) -> Key {
    Key { name, kind, default, least: 0, words }
}

const NEVER: &str = "9223372036854775807";

/// Every key of a topic, in order of their names.
pub const KEYS: &[Key] = &[
    word("cleanup.policy", Kind::List, "delete", &["delete", "compact"]),
    // Kept for whoever asks; batches are stored as their producer compressed them, which every consumer reads.
    word("compression.type", Kind::Text, "producer", &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
    number("delete.retention.ms", Kind::Long, "86400000", 0),
    number("file.delete.delay.ms", Kind::Long, "60000", 0),
    number("flush.messages", Kind::Long, NEVER, 1),
    number("flush.ms", Kind::Long, NEVER, 0),
    word("follower.replication.throttled.replicas", Kind::List, "", &[]),
    number("index.interval.bytes", Kind::Int, "4096", 0),
    word("leader.replication.throttled.replicas", Kind::List, "", &[]),
    number("max.compaction.lag.ms", Kind::Long, NEVER, 1),
    number("max.message.bytes", Kind::Int, "1048588", 0),
    number("message.timestamp.after.max.ms", Kind::Long, "3600000", 0),
    number("message.timestamp.before.max.ms", Kind::Long, NEVER, 0),
    word("message.timestamp.type", Kind::Text, "CreateTime", &["CreateTime", "LogAppendTime"]),
    number("min.cleanable.dirty.ratio", Kind::Double, "0.5", 0),
    number("min.compaction.lag.ms", Kind::Long, "0", 0),
    number("min.insync.replicas", Kind::Int, "1", 1),
    word("preallocate", Kind::Bool, "false", &["true", "false"]),
    number("retention.bytes", Kind::Long, "-1", -1),
    number("retention.ms", Kind::Long, "604800000", -1),
    number("segment.bytes", Kind::Int, "1073741824", 1),
    number("segment.index.bytes", Kind::Int, "10485760", 4),
    number("segment.jitter.ms", Kind::Long, "0", 0),
    number("segment.ms", Kind::Long, "604800000", 1),
    word("unclean.leader.election.enable", Kind::Bool, "false", &["true", "false"]),
];

/// A topic's configuration: what was given, and what the broker goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// Only what differs from the defaults was given; in order of the names.
    pub given: BTreeMap<String, String>,
    pub delete: bool,
    pub compact: bool,
    pub max_message_bytes: usize,
    /// `None`: for ever.
    pub retention: Option<Duration>,
    pub retention_bytes: Option<u64>,
    pub segment_bytes: u64,
    pub segment_age: Duration,
    /// Records get the time of their arrival.
    pub log_append_time: bool,
    /// Milliseconds a record's time may lie in the past and in the future.
    pub before_max_ms: i64,
    pub after_max_ms: i64,
    pub delete_retention: Duration,
    pub min_cleanable_ratio: f64,
    pub min_compaction_lag: Duration,
    pub max_compaction_lag: Duration,
}

impl TopicConfig {
    /// Reads what was given. Errors: a sentence for the client, as Kafka's own.
    pub fn new(given: BTreeMap<String, String>) -> Result<Self, Refused> {
        for (name, value) in &given {
            let key = key(name).ok_or_else(|| (ResponseError::InvalidConfig, format!("Unknown topic config name: {name}")))?;
            key.check(value)?;
        }
        let text = |name: &str| given.get(name).map_or_else(|| key(name).expect("a known key").default, String::as_str);
        let long = |name: &str| text(name).parse::<i64>().expect("the value was checked");
        let millis = |name: &str| Duration::from_millis(long(name) as u64);
        let policy = text("cleanup.policy");
        let (retention, retention_bytes) = (long("retention.ms"), long("retention.bytes"));
        Ok(Self {
            delete: policy.split(',').any(|word| word.trim() == "delete"),
            compact: policy.split(',').any(|word| word.trim() == "compact"),
            max_message_bytes: long("max.message.bytes") as usize,
            retention: (retention >= 0).then(|| Duration::from_millis(retention as u64)),
            retention_bytes: u64::try_from(retention_bytes).ok(),
            segment_bytes: long("segment.bytes") as u64,
            segment_age: millis("segment.ms"),
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
            before_max_ms: long("message.timestamp.before.max.ms"),
            after_max_ms: long("message.timestamp.after.max.ms"),
            delete_retention: millis("delete.retention.ms"),
            min_cleanable_ratio: text("min.cleanable.dirty.ratio").parse().expect("the value was checked"),
            min_compaction_lag: millis("min.compaction.lag.ms"),
            max_compaction_lag: millis("max.compaction.lag.ms"),
            given,
        })
    }
}

/// The key of a name.
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Key {
    fn check(&self, value: &str) -> Result<(), Refused> {
        let number = match self.kind {
            Kind::Int => value.parse::<i32>().map(i64::from).map_err(drop),
            Kind::Long => value.parse::<i64>().map_err(drop),
            Kind::Double => value.parse::<f64>().map_err(drop).and_then(|ratio| if (0.0..=1.0).contains(&ratio) { Ok(0) } else { Err(()) }),
            Kind::Bool | Kind::Text | Kind::List => {
                let mut words = value.split(',').map(str::trim).filter(|_| self.kind == Kind::List || !value.contains(','));
                let known = self.words.is_empty() || words.clone().count() > 0 && words.all(|word| self.words.contains(&word));
                if known { Ok(0) } else { Err(()) }
            }
        };
        let why = match number {
            Ok(number) if number >= self.least => return Ok(()),
            Ok(_) => format!("Value must be at least {}", self.least),
            Err(()) if !self.words.is_empty() => format!("it must be one of: {}", self.words.join(", ")),
            Err(()) => format!("Not a number of type {}", format!("{:?}", self.kind).to_uppercase()),
        };
        Err((ResponseError::InvalidConfig, format!("Invalid value {value} for configuration {}: {why}", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Result<TopicConfig, Refused> {
        TopicConfig::new([(name.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn every_default_passes_its_own_check() {
        for key in KEYS {
            assert_eq!(key.check(key.default), Ok(()), "{}", key.name);
        }
        assert!(KEYS.is_sorted_by_key(|key| key.name));
        let config = TopicConfig::new(BTreeMap::new()).unwrap();
        assert!(config.delete && !config.compact);
        assert_eq!(config.retention, Some(Duration::from_secs(7 * 86_400)));
    }

    #[test]
    fn a_wrong_value_says_which_and_why() {
        assert!(with("cleanup.policy", "compact,delete").unwrap().compact);
        assert_eq!(with("retention.ms", "-1").unwrap().retention, None);
        for (name, value) in [
            ("retention.ms", "-2"),
            ("retention.ms", "week"),
            ("cleanup.policy", "shred"),
            ("cleanup.policy", ""),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("compression.type", "rar"),
            ("no.such.key", "1"),
        ] {
            let error = with(name, value).unwrap_err();
            assert!(error.1.contains(name), "{error:?}");
        }
    }
}
