//! `millrace.cursors`: how far each log is in Kafka, kept in Kafka itself, because the group offsets of a consumer expire and disks are lost.
//!
//! ```text
//! key   ["cursor", source, lane]      value  {"offset": next offset to send, "lane_total": .., "produced": .., "dead": .., "dropped": .., ..}
//! key   ["position", source, key]     value  the plugin's bytes as they are; a tombstone when the key is gone
//! ```
//!
//! Compacted, one partition. Under exactly_once these records go with the data, in its transaction; read back they say what was committed.
//! Under at_least_once they follow the data, so what they say was delivered; the little that came after them is sent again.

use crate::frame::Lane;
use crate::source_logs::{CursorMetadata, Positions, SourceLogs};
use millrace_kafka::{KafkaError, Message, Settings, TopicSpec};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Duration;

/// The topic of the cursors.
pub const TOPIC: &str = "millrace.cursors";
/// No offset and no count of ours comes as far: JSON keeps numbers exact below it.
const FARTHEST: u64 = 1 << 53;
/// How long a read may stand still before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The topic as it is created where it is missing.
pub fn spec() -> TopicSpec {
    TopicSpec {
        name: TOPIC.into(),
        partitions: Some(1),
        replication: None,
        configs: [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.1"), ("segment.ms", "3600000")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    }
}

#[derive(Serialize, Deserialize)]
struct Value {
    offset: u64,
    #[serde(default)]
    lane_total: u64,
    #[serde(default)]
    produced: u64,
    #[serde(default)]
    dead: u64,
    #[serde(default)]
    dropped: u64,
    #[serde(default)]
    timestamp_replaced: u64,
}

impl Value {
    fn farthest(&self) -> u64 {
        let Self { offset, lane_total, produced, dead, dropped, timestamp_replaced } = *self;
        [offset, lane_total, produced, dead, dropped, timestamp_replaced].into_iter().max().unwrap_or(0)
    }
}

pub fn cursor_key(source: &str, lane: Lane) -> Vec<u8> {
    serde_json::to_vec(&("cursor", source, lane.as_str())).unwrap_or_default()
}

pub fn position_key(source: &str, key: &str) -> Vec<u8> {
    serde_json::to_vec(&("position", source, key)).unwrap_or_default()
}

pub fn cursor_value(offset: u64, note: &CursorMetadata) -> Vec<u8> {
    let CursorMetadata { lane_total, produced, dead, dropped, timestamp_replaced } = *note;
    serde_json::to_vec(&Value { offset, lane_total, produced, dead, dropped, timestamp_replaced }).unwrap_or_default()
}

/// What Kafka knows of the logs.
#[derive(Debug, Default, PartialEq)]
pub struct Known {
    /// By the log's name.
    pub cursors: HashMap<String, (u64, CursorMetadata)>,
    /// By source.
    pub positions: HashMap<String, Positions>,
}

impl Known {
    /// Takes in one record of the topic; what is not ours is passed over.
    pub fn take(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Ok((kind, source, name)) = serde_json::from_slice::<(String, String, String)>(key) else { return };
        match kind.as_str() {
            "cursor" => {
                let Some(lane) = Lane::ALL.into_iter().find(|l| l.as_str() == name) else { return };
                let log = SourceLogs::log_name(&source, lane);
                match value.map(serde_json::from_slice::<Value>) {
                    Some(Ok(value)) if value.farthest() > FARTHEST => {
                        tracing::warn!(
                            log,
                            farthest = value.farthest(),
                            "a cursor in {TOPIC} is beyond all that can be, and is passed over"
                        );
                    }
                    Some(Ok(Value { offset, lane_total, produced, dead, dropped, timestamp_replaced })) => {
                        self.cursors.insert(log, (offset, CursorMetadata { lane_total, produced, dead, dropped, timestamp_replaced }));
                    }
                    Some(Err(error)) => tracing::warn!(log, "a cursor in {TOPIC} can't be read and is passed over: {error}"),
                    None => _ = self.cursors.remove(&log),
                }
            }
            "position" => match value {
                Some(value) => _ = self.positions.entry(source).or_default().insert(name, value.to_vec()),
                None => _ = self.positions.get_mut(&source).map(|p| p.remove(&name)),
            },
            _ => {}
        }
    }
}

/// Reads the whole topic as committed up to now. Call it after `init_transactions`: then nothing of ours is open any more, and what others
/// have open is waited for.
pub fn read(settings: &Settings) -> Result<Known, KafkaError> {
    let mut known = Known::default();
    millrace_kafka::read_topic(settings, TOPIC, PATIENCE, |message: Message<'_>| {
        if let Some(key) = message.key() {
            known.take(key, message.value());
        }
    })?;
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_and_positions_come_back_and_the_last_one_counts() {
        let mut known = Known::default();
        let note = CursorMetadata { lane_total: 7, produced: 5, dead: 1, dropped: 1, timestamp_replaced: 2 };
        known.take(&cursor_key("acme/plant/a", Lane::First), Some(&cursor_value(10, &CursorMetadata::default())));
        known.take(&cursor_key("acme/plant/a", Lane::First), Some(&cursor_value(1 << 50, &note)));
        known.take(&position_key("acme/plant/a", "file \"x\""), Some(b"\x00\xff"));
        known.take(&position_key("acme/plant/a", "gone"), Some(b"1"));
        known.take(&position_key("acme/plant/a", "gone"), None);
        assert_eq!(known.cursors["acme/plant/a:first"], (1 << 50, note));
        assert_eq!(known.positions["acme/plant/a"], Positions::from([("file \"x\"".to_owned(), vec![0, 255])]));
    }

    #[test]
    fn what_is_not_ours_is_passed_over() {
        let mut known = Known::default();
        known.take(b"hello", Some(b"1"));
        known.take(&cursor_key("a", Lane::Bulk), Some(b"not json"));
        known.take(br#"["other","a","b"]"#, Some(b"1"));
        known.take(&cursor_key("a", Lane::Bulk), Some(&cursor_value(u64::MAX, &CursorMetadata::default())));
        let counts = CursorMetadata { produced: u64::MAX, ..CursorMetadata::default() };
        known.take(&cursor_key("a", Lane::Bulk), Some(&cursor_value(1, &counts)));
        assert_eq!(known, Known::default());
    }
}
