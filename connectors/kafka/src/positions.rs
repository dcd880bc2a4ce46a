//! How far each partition was copied, kept at the target, where a lost data directory or a consumer group's retention can't take it.
//!
//! ```text
//! topic millrace.replication, compacted, one partition
//! key    ["ORIGIN","GROUP","TOPIC",PARTITION]
//! value  {"offset": the next offset to copy, "topic_id": the topic's at home, "pairs": [[offset at home, at the target], ..],
//!         "windows": {"until": those that end up to here are sent, "seen": the offset behind what was read}}
//! ```
//!
//! With `delivery: exactly_once` a position is written in the transaction of the records before it, otherwise after their acknowledgement.

use crate::names::POSITIONS;
use crate::pairs::Pair;
use crate::windows::Closed;
use millrace_contract::{Offset, Partition};
use millrace_kafka::{KafkaError, Message, Settings, TopicSpec, read_topic};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// How far a partition was copied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    pub offset: Offset,
    /// Of the topic at home: one of the same name that was made later is another one. `None`: nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Where records lie at the target, the newest first; thinned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<Pair>,
    /// Of a topic that leaves in windows of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Closed>,
}

impl Held {
    /// The offset behind what was read, though some of it may be read again.
    pub fn reached(&self) -> Offset {
        self.windows.map_or(self.offset, |closed| closed.seen.max(self.offset))
    }
}

/// The topic, for where it is missing.
pub fn spec() -> TopicSpec {
    TopicSpec {
        name: POSITIONS.to_owned(),
        partitions: Some(1),
        replication: None,
        configs: BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]),
    }
}

/// The key of one partition's position.
pub fn key(origin: &str, group: &str, part: &Partition) -> Vec<u8> {
    serde_json::to_vec(&(origin, group, &*part.topic, part.partition)).unwrap_or_default()
}

pub fn value(held: &Held) -> Vec<u8> {
    serde_json::to_vec(held).unwrap_or_default()
}

/// Positions of one origin and group, as committed now; `None`: the topic is not there, as far as the broker that was asked knows.
pub fn read(target: &Settings, origin: &str, group: &str) -> Result<Option<HashMap<Partition, Held>>, KafkaError> {
    let mut known = HashMap::new();
    let partitions = read_topic(target, POSITIONS, PATIENCE, |message: Message<'_>| {
        if let Some((part, held)) = message.key().and_then(|key| entry(key, message.value(), origin, group)) {
            match held {
                Some(held) => _ = known.insert(part, held),
                None => _ = known.remove(&part),
            }
        }
    })?;
    Ok((partitions > 0).then_some(known))
}

/// A record of the topic, if it is of that origin and group. A value that can't be read is passed over: the position before it holds.
fn entry(key: &[u8], value: Option<&[u8]>, origin: &str, group: &str) -> Option<(Partition, Option<Held>)> {
    let (of, by, topic, partition) = serde_json::from_slice::<(String, String, String, i32)>(key).ok()?;
    if of != origin || by != group {
        return None;
    }
    let held = match value.map(serde_json::from_slice::<Held>) {
        Some(Ok(held)) => Some(held),
        Some(Err(error)) => {
            tracing::warn!(topic, partition, "a position in {POSITIONS} can't be read and is passed over: {error}");
            return None;
        }
        None => None,
    };
    Some((Partition { topic: topic.into(), partition }, held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_for_its_own_origin_and_group() {
        let part = Partition { topic: "a\"b".into(), partition: 3 };
        let key = key("acme.detroit", "g", &part);
        let held = Held {
            offset: 17,
            topic_id: Some("id".into()),
            pairs: vec![(16, 20), (3, 4)],
            windows: Some(Closed { until: Some(60), seen: 19 }),
        };
        assert_eq!(held.reached(), 19);
        assert_eq!(entry(&key, Some(&value(&held)), "acme.detroit", "g"), Some((part.clone(), Some(held.clone()))));
        // As it was written before topics had ids here.
        let old = Held { topic_id: None, pairs: Vec::new(), windows: None, ..held.clone() };
        assert_eq!(entry(&key, Some(b"{\"offset\":17}"), "acme.detroit", "g"), Some((part.clone(), Some(old))));
        assert_eq!(entry(&key, None, "acme.detroit", "g"), Some((part, None)));
        assert_eq!(entry(&key, Some(&value(&held)), "acme.detroit", "h"), None);
        assert_eq!(entry(&key, Some(b"17"), "acme.detroit", "g"), None);
        assert_eq!(entry(b"x", Some(&value(&held)), "acme.detroit", "g"), None);
    }
}
