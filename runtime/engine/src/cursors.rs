//! `millrace.cursors`: how far each log is in Kafka, kept in Kafka itself, because the group offsets of a consumer expire and disks are lost.
//!
//! ```text
//! key   ["cursor", source, lane]      value  {"offset": next offset to send, "lane_total": .., "produced": .., "dead": .., "dropped": .., ..}
//! key   ["position", source, key]     value  the plugin's bytes as they are; a tombstone when the key is gone
//! ```
//!
//! Of runtimes that share their sources (`lease`), each has logs of its own, so each has cursors of its own; the positions are the source's:
//!
//! ```text
//! key   ["cursor", source, lane, runtime]   value as above
//! key   ["owner", source, ""]               value  {"runtime": who reads it, or read it last, "term": 3, "released": in order}
//! ```
//!
//! Compacted, one partition. Under exactly_once these records go with the data, in its transaction; read back they say what was committed.
//! Under at_least_once they follow the data, so what they say was delivered; the little that came after them is sent again.

use crate::frame::Lane;
use crate::source_logs::{CursorMetadata, Positions, SourceLogs};
use millrace_kafka::{KafkaError, Message, Settings, TopicSpec};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
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
    #[serde(default, skip_serializing_if = "is_zero")]
    superseded: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Value {
    fn farthest(&self) -> u64 {
        let Self { offset, lane_total, produced, dead, dropped, timestamp_replaced, superseded } = *self;
        [offset, lane_total, produced, dead, dropped, timestamp_replaced, superseded].into_iter().max().unwrap_or(0)
    }
}

/// Who reads a source, or has read it last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub runtime: String,
    /// Grows with every take-over: the same runtime twice is not the same as never another.
    #[serde(default)]
    pub term: u64,
    /// It gave the source back in order: all that it will ever send with the positions is in Kafka.
    #[serde(default)]
    pub released: bool,
}

/// `runtime`: of those that share their sources.
pub fn cursor_key(source: &str, lane: Lane, runtime: Option<&str>) -> Vec<u8> {
    match runtime {
        None => serde_json::to_vec(&("cursor", source, lane.as_str())).unwrap_or_default(),
        Some(runtime) => serde_json::to_vec(&("cursor", source, lane.as_str(), runtime)).unwrap_or_default(),
    }
}

pub fn owner_key(source: &str) -> Vec<u8> {
    serde_json::to_vec(&("owner", source, "")).unwrap_or_default()
}

pub fn owner_value(owner: &Owner) -> Vec<u8> {
    serde_json::to_vec(owner).unwrap_or_default()
}

pub fn position_key(source: &str, key: &str) -> Vec<u8> {
    serde_json::to_vec(&("position", source, key)).unwrap_or_default()
}

pub fn cursor_value(offset: u64, note: &CursorMetadata) -> Vec<u8> {
    let CursorMetadata { lane_total, produced, dead, dropped, timestamp_replaced, superseded } = *note;
    serde_json::to_vec(&Value { offset, lane_total, produced, dead, dropped, timestamp_replaced, superseded }).unwrap_or_default()
}

/// What Kafka knows of the logs.
#[derive(Debug, Default, PartialEq)]
pub struct Known {
    /// By the log's name.
    pub cursors: HashMap<String, (u64, CursorMetadata)>,
    /// By source.
    pub positions: HashMap<String, Positions>,
    /// The highest cursor of any runtime, by source.
    pub ends: HashMap<String, u64>,
    /// By source, of those that are shared.
    pub owners: HashMap<String, Owner>,
    /// By source: those whom a transaction that is not decided may have made its owner, in order. Empty where what is open was waited for.
    pub doubtful: HashMap<String, Vec<Owner>>,
    /// Whose cursors are wanted, where each runtime has its own.
    runtime: Option<String>,
    /// Logs whose cursor is this runtime's own, not that of the time before it shared.
    own: HashSet<String>,
}

impl Known {
    fn of(runtime: Option<&str>) -> Self {
        Self { runtime: runtime.map(str::to_owned), ..Self::default() }
    }

    /// All that may own a source, or have owned it last.
    pub fn possible_owners(&self, source: &str) -> impl Iterator<Item = &Owner> {
        self.owners.get(source).into_iter().chain(self.doubtful.get(source).into_iter().flatten())
    }

    /// Takes in one record that may belong to a transaction that is open.
    fn take_doubtful(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Ok((kind, source, _)) = serde_json::from_slice::<(String, String, String)>(key) else { return };
        if let Some(owner) = value.filter(|_| kind == "owner").and_then(|value| serde_json::from_slice(value).ok()) {
            self.doubtful.entry(source).or_default().push(owner);
        }
    }

    /// Takes in one record of the topic; what is not ours is passed over.
    pub fn take(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Ok(parts) = serde_json::from_slice::<Vec<String>>(key) else { return };
        let (kind, source, name, runtime) = match parts.as_slice() {
            [kind, source, name] => (kind.as_str(), source, name.clone(), None),
            [kind, source, name, runtime] => (kind.as_str(), source, name.clone(), Some(runtime)),
            _ => return,
        };
        let source = source.clone();
        match kind {
            "cursor" => {
                let Some(lane) = Lane::ALL.into_iter().find(|l| l.as_str() == name) else { return };
                let log = SourceLogs::log_name(&source, lane);
                let is_own = runtime == self.runtime.as_ref();
                match value.map(serde_json::from_slice::<Value>) {
                    Some(Ok(value)) if value.farthest() > FARTHEST => {
                        tracing::warn!(
                            log,
                            farthest = value.farthest(),
                            "a cursor in {TOPIC} is beyond all that can be, and is passed over"
                        );
                    }
                    Some(Ok(Value { offset, lane_total, produced, dead, dropped, timestamp_replaced, superseded })) => {
                        let end = self.ends.entry(source).or_default();
                        *end = offset.max(*end);
                        // One that began to share goes on from the cursor that it had before.
                        if is_own || (runtime.is_none() && !self.own.contains(&log)) {
                            let note = CursorMetadata { lane_total, produced, dead, dropped, timestamp_replaced, superseded };
                            self.cursors.insert(log.clone(), (offset, note));
                        }
                        if is_own && runtime.is_some() {
                            self.own.insert(log);
                        }
                    }
                    Some(Err(error)) => tracing::warn!(log, "a cursor in {TOPIC} can't be read and is passed over: {error}"),
                    None if is_own => _ = self.cursors.remove(&log),
                    None => {}
                }
            }
            "position" => match value {
                Some(value) => _ = self.positions.entry(source).or_default().insert(name, value.to_vec()),
                None => _ = self.positions.get_mut(&source).map(|p| p.remove(&name)),
            },
            "owner" => match value.and_then(|value| serde_json::from_slice(value).ok()) {
                Some(owner) => _ = self.owners.insert(source, owner),
                None => _ = self.owners.remove(&source),
            },
            _ => {}
        }
    }
}

/// Reads the whole topic as committed up to now. Call it after `init_transactions`: then nothing of ours is open any more, and what others
/// have open is waited for. `runtime`: whose cursors, of those that share their sources.
pub fn read(settings: &Settings, runtime: Option<&str>) -> Result<Known, KafkaError> {
    let mut known = Known::of(runtime);
    millrace_kafka::read_topic(settings, TOPIC, PATIENCE, |message: Message<'_>| {
        if let Some(key) = message.key() {
            known.take(key, message.value());
        }
    })?;
    Ok(known)
}

/// As [`read`], but nothing is waited for: a runtime that is dead or frozen may hold a transaction open for long. What is decided counts up to the first
/// one that is open; behind it only owners are noted, as doubtful.
pub fn read_now(settings: &Settings, runtime: Option<&str>) -> Result<Known, KafkaError> {
    let (mut known, mut doubtful) = (Known::of(runtime), Known::of(runtime));
    let decided = |message: Message<'_>| _ = message.key().map(|key| known.take(key, message.value()));
    let open = |message: Message<'_>| _ = message.key().map(|key| doubtful.take_doubtful(key, message.value()));
    millrace_kafka::read_topic_now(settings, TOPIC, PATIENCE, decided, open)?;
    known.doubtful = doubtful.doubtful;
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_and_positions_come_back_and_the_last_one_counts() {
        let mut known = Known::default();
        let note = CursorMetadata { lane_total: 7, produced: 5, dead: 1, dropped: 1, timestamp_replaced: 2, superseded: 1 };
        known.take(&cursor_key("acme/plant/a", Lane::First, None), Some(&cursor_value(10, &CursorMetadata::default())));
        known.take(&cursor_key("acme/plant/a", Lane::First, None), Some(&cursor_value(1 << 50, &note)));
        known.take(&position_key("acme/plant/a", "file \"x\""), Some(b"\x00\xff"));
        known.take(&position_key("acme/plant/a", "gone"), Some(b"1"));
        known.take(&position_key("acme/plant/a", "gone"), None);
        assert_eq!(known.cursors["acme/plant/a:first"], (1 << 50, note));
        assert_eq!(known.positions["acme/plant/a"], Positions::from([("file \"x\"".to_owned(), vec![0, 255])]));
    }

    #[test]
    fn of_runtimes_that_share_each_has_its_own_cursor_and_all_have_the_same_positions() {
        let note = CursorMetadata { lane_total: 7, produced: 7, ..CursorMetadata::default() };
        let mut known = Known::of(Some("a"));
        known.take(&cursor_key("s", Lane::Normal, None), Some(&cursor_value(5, &note)));
        assert_eq!(known.cursors["s:normal"].0, 5, "where it left off before it shared");
        known.take(&cursor_key("s", Lane::Normal, Some("a")), Some(&cursor_value(10, &note)));
        known.take(&cursor_key("s", Lane::Normal, Some("b")), Some(&cursor_value(1 << 40, &note)));
        known.take(&cursor_key("s", Lane::Normal, None), Some(&cursor_value(6, &note)));
        known.take(&owner_key("s"), Some(&owner_value(&Owner { runtime: "b".into(), term: 3, released: false })));
        known.take(&position_key("s", "k"), Some(b"1"));
        assert_eq!((known.cursors["s:normal"].0, known.ends["s"]), (10, 1 << 40));
        assert_eq!(known.owners["s"], Owner { runtime: "b".into(), term: 3, released: false });
        assert_eq!(known.positions["s"].len(), 1);
    }

    #[test]
    fn an_owner_of_whom_nobody_knows_yet_is_a_possible_one() {
        let owner = |runtime: &str, term| Owner { runtime: runtime.into(), term, released: false };
        let mut known = Known::of(Some("a"));
        known.take(&owner_key("s"), Some(&owner_value(&owner("b", 3))));
        known.take_doubtful(&owner_key("s"), Some(&owner_value(&owner("c", 4))));
        known.take_doubtful(&cursor_key("s", Lane::Normal, Some("c")), Some(&cursor_value(5, &CursorMetadata::default())));
        known.take_doubtful(&position_key("s", "k"), Some(b"1"));
        assert_eq!(known.possible_owners("s").collect::<Vec<_>>(), [&owner("b", 3), &owner("c", 4)]);
        assert!(known.positions.is_empty() && known.cursors.is_empty() && known.possible_owners("t").next().is_none());
    }

    #[test]
    fn what_is_not_ours_is_passed_over() {
        let mut known = Known::default();
        known.take(b"hello", Some(b"1"));
        known.take(&cursor_key("a", Lane::Bulk, None), Some(b"not json"));
        known.take(br#"["other","a","b"]"#, Some(b"1"));
        known.take(&cursor_key("a", Lane::Bulk, None), Some(&cursor_value(u64::MAX, &CursorMetadata::default())));
        let counts = CursorMetadata { produced: u64::MAX, ..CursorMetadata::default() };
        known.take(&cursor_key("a", Lane::Bulk, None), Some(&cursor_value(1, &counts)));
        assert_eq!(known, Known::default());
    }
}
