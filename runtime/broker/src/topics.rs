//! The topics: names, ids, partitions and configurations, durable in the journal `topics`.
//!
//! A partition's log is opened when it is first asked for, so a start costs nothing for what nobody uses. A topic exists when its entry is on the
//! disk; logs without an entry are what a crash left of a deleted topic, and go at the next start.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use millrace_log::{Store, StoreError};
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use crate::broker::now;
use crate::journal::{Journal, JournalError};
use crate::partition::{Partition, log_name};
use crate::topic_config::TopicConfig;
use crate::transactions::Transactions;
use crate::wire::{Reader, Writer};

/// More partitions make nothing faster here.
pub const MOST_PARTITIONS: usize = 10_000;
const ENTRY_VERSION: u8 = 1;

/// A refusal, with a sentence for the client.
pub type Refused = (ResponseError, String);

pub struct Topic {
    pub name: Arc<str>,
    pub id: Uuid,
    config: RwLock<Arc<TopicConfig>>,
    partitions: RwLock<Vec<Arc<Slot>>>,
}

/// A partition that may not be open yet.
#[derive(Default)]
struct Slot(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Closed,
    Open(Arc<Partition>),
    /// The topic is gone.
    Deleted,
}

impl Topic {
    pub fn config(&self) -> Arc<TopicConfig> {
        self.config.read().clone()
    }

    pub fn partition_count(&self) -> usize {
        self.partitions.read().len()
    }

    fn encode(&self) -> Vec<u8> {
        encode(&self.id, self.partition_count(), &self.config().given)
    }
}

fn encode(id: &Uuid, partitions: usize, given: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Writer::default();
    out.u8(ENTRY_VERSION).bytes(id.as_bytes()).u32(partitions as u32).u32(given.len() as u32);
    for (name, value) in given {
        out.str(name).str(value);
    }
    out.0
}

fn decode(name: &str, entry: &[u8]) -> Option<Topic> {
    let mut from = Reader(entry);
    if from.u8()? != ENTRY_VERSION {
        return None;
    }
    let id = Uuid::from_slice(from.bytes()?).ok()?;
    let partitions = from.u32()? as usize;
    let given = from.list(|from| Some((from.str()?.to_owned(), from.str()?.to_owned())))?;
    let config = TopicConfig::new(given.into_iter().collect()).ok()?;
    Some(Topic::new(name, id, config, partitions))
}

impl Topic {
    fn new(name: &str, id: Uuid, config: TopicConfig, partitions: usize) -> Self {
        let partitions = (0..partitions).map(|_| Arc::default()).collect();
        Self { name: name.into(), id, config: RwLock::new(Arc::new(config)), partitions: RwLock::new(partitions) }
    }
}

/// All topics of the broker.
pub struct Topics {
    store: Store,
    journal: Journal,
    transactions: Arc<Transactions>,
    /// How long what is appended may wait for its fdatasync.
    sync: Duration,
    by_name: RwLock<BTreeMap<Arc<str>, Arc<Topic>>>,
    /// Held while topics change, so that the journal and the map say the same.
    changing: Mutex<()>,
}

impl Topics {
    pub fn open(store: &Store, sync: Duration, transactions: Arc<Transactions>) -> Result<Self, JournalError> {
        let journal = Journal::open(store, "topics")?;
        let (mut by_name, mut unreadable) = (BTreeMap::new(), None);
        journal.each(|name, entry| match std::str::from_utf8(name).ok().and_then(|name| decode(name, entry)) {
            Some(topic) => drop(by_name.insert(topic.name.clone(), Arc::new(topic))),
            None => unreadable = Some(String::from_utf8_lossy(name).into_owned()),
        });
        if let Some(name) = unreadable {
            return Err(JournalError::Entry(format!("topics (topic {name})")));
        }
        let topics = Self { store: store.clone(), journal, transactions, sync, by_name: RwLock::new(by_name), changing: Mutex::new(()) };
        topics.remove_orphans()?;
        Ok(topics)
    }

    /// Removes the logs of topics that a crash left half deleted.
    fn remove_orphans(&self) -> Result<(), StoreError> {
        let topics = self.by_name.read();
        let known: HashSet<String> =
            topics.values().flat_map(|topic| (0..topic.partition_count()).map(|index| log_name(&topic.name, index as i32))).collect();
        for name in self.store.names()? {
            let is_partition = name.rsplit_once('-').is_some_and(|(_, index)| index.parse::<u32>().is_ok());
            if is_partition && !known.contains(&name) {
                self.store.remove(&name)?;
            }
        }
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.by_name.read().get(name).cloned()
    }

    pub fn by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.by_name.read().values().find(|topic| topic.id == id).cloned()
    }

    /// All topics in order of their names.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.by_name.read().values().cloned().collect()
    }

    /// A partition, opened if need be.
    ///
    /// Errors: `UnknownTopicOrPartition`; `KafkaStorageError` if its log cannot be opened now.
    pub fn partition(&self, topic: &str, index: i32) -> Result<Arc<Partition>, ResponseError> {
        let topic = self.get(topic).ok_or(ResponseError::UnknownTopicOrPartition)?;
        self.partition_of(&topic, index)
    }

    /// As [`Topics::partition`], of a topic at hand.
    pub fn partition_of(&self, topic: &Topic, index: i32) -> Result<Arc<Partition>, ResponseError> {
        let slot = usize::try_from(index).ok().and_then(|index| topic.partitions.read().get(index).cloned());
        let slot = slot.ok_or(ResponseError::UnknownTopicOrPartition)?;
        let mut state = slot.0.lock();
        match &*state {
            State::Open(partition) => Ok(partition.clone()),
            State::Deleted => Err(ResponseError::UnknownTopicOrPartition),
            State::Closed => {
                let opened = Partition::open(&self.store, topic.name.clone(), index, &topic.config(), self.sync).map_err(|e| {
                    tracing::error!(topic = %topic.name, partition = index, "cannot open the partition: {e}");
                    ResponseError::KafkaStorageError
                })?;
                self.abort_what_was_open(&opened)?;
                let partition = Arc::new(opened);
                *state = State::Open(partition.clone());
                Ok(partition)
            }
        }
    }

    /// A transaction that a partition finds open in its log was open when the broker ended: it is aborted, unless it was decided otherwise.
    fn abort_what_was_open(&self, partition: &Partition) -> Result<(), ResponseError> {
        for producer in partition.producers() {
            if producer.open.is_some() && !self.transactions.is_committing(producer.producer_id) {
                partition.mark(producer.producer_id, producer.epoch, false, now())?;
            }
        }
        Ok(())
    }

    /// Opens some partitions that are not open yet.
    pub fn open_some(&self, most: usize) {
        let closed = |slot: &Arc<Slot>| matches!(*slot.0.lock(), State::Closed);
        let mut left = most;
        for topic in self.all() {
            let indexes: Vec<_> =
                topic.partitions.read().iter().enumerate().filter(|(_, slot)| closed(slot)).map(|(i, _)| i).take(left).collect();
            left -= indexes.len();
            for index in indexes {
                // A failure is logged where it happens, and tried again.
                let _ = self.partition_of(&topic, index as i32);
            }
            if left == 0 {
                return;
            }
        }
    }

    /// Partitions that are open already.
    pub fn opened(&self) -> Vec<(Arc<Topic>, Arc<Partition>)> {
        let mut opened = Vec::new();
        for topic in self.all() {
            for slot in topic.partitions.read().iter() {
                if let State::Open(partition) = &*slot.0.lock() {
                    opened.push((topic.clone(), partition.clone()));
                }
            }
        }
        opened
    }

    /// Says whether a topic could be created.
    pub fn may_create(&self, name: &str, partitions: usize, given: BTreeMap<String, String>) -> Result<TopicConfig, Refused> {
        check_name(name).map_err(|why| (ResponseError::InvalidTopicException, why))?;
        let topics = self.by_name.read();
        if topics.contains_key(name) {
            return Err((ResponseError::TopicAlreadyExists, format!("Topic '{name}' already exists.")));
        }
        // Kafka's metrics would take `a.b` and `a_b` for one; clients rely on neither, tools warn of both.
        let same = |other: &str| other.len() == name.len() && other.replace('.', "_") == name.replace('.', "_");
        if let Some(other) = topics.keys().find(|other| same(other)) {
            let why = format!("Topic '{name}' collides with existing topic: {other}");
            return Err((ResponseError::InvalidTopicException, why));
        }
        if partitions == 0 || partitions > MOST_PARTITIONS {
            let why = format!("Number of partitions must be from 1 to {MOST_PARTITIONS}, not {partitions}.");
            return Err((ResponseError::InvalidPartitions, why));
        }
        TopicConfig::new(given).map_err(|why| (ResponseError::InvalidConfig, why))
    }

    /// Creates a topic; it is on the disk when this returns.
    pub async fn create(&self, name: &str, partitions: usize, given: BTreeMap<String, String>) -> Result<Arc<Topic>, Refused> {
        let (topic, written) = {
            let _changing = self.changing.lock();
            let config = self.may_create(name, partitions, given)?;
            let topic = Arc::new(Topic::new(name, Uuid::from_bytes(random_id()), config, partitions));
            let written = self.put(name, Some(&topic.encode()))?;
            self.by_name.write().insert(topic.name.clone(), topic.clone());
            (topic, written)
        };
        self.journal.reach(written).await;
        tracing::info!(topic = name, partitions, "topic created");
        Ok(topic)
    }

    /// Deletes a topic with all that is in it.
    pub async fn delete(&self, name: &str) -> Result<(), Refused> {
        let (topic, written) = {
            let _changing = self.changing.lock();
            let topic = self.get(name).ok_or_else(unknown)?;
            let written = self.put(name, None)?;
            self.by_name.write().remove(name);
            (topic, written)
        };
        self.journal.reach(written).await;
        for (index, slot) in topic.partitions.read().iter().enumerate() {
            let mut state = slot.0.lock();
            *state = State::Deleted;
            match self.store.remove(&log_name(name, index as i32)) {
                Ok(()) | Err(StoreError::NoSuchLog(_)) => {}
                Err(e) => tracing::warn!(topic = name, partition = index, "{e}; the next start removes it"),
            }
        }
        tracing::info!(topic = name, "topic deleted");
        Ok(())
    }

    /// Says whether a topic could have so many partitions.
    pub fn may_grow(&self, name: &str, partitions: usize) -> Result<Arc<Topic>, Refused> {
        let topic = self.get(name).ok_or_else(unknown)?;
        let now = topic.partition_count();
        if partitions > now && partitions <= MOST_PARTITIONS {
            return Ok(topic);
        }
        let why = if partitions == now {
            format!("Topic already has {now} partition(s).")
        } else if partitions < now {
            format!("The topic {name} currently has {now} partition(s); {partitions} would not be an increase.")
        } else {
            format!("A topic has at most {MOST_PARTITIONS} partitions.")
        };
        Err((ResponseError::InvalidPartitions, why))
    }

    /// Gives a topic more partitions.
    pub async fn grow(&self, name: &str, partitions: usize) -> Result<(), Refused> {
        let written = {
            let _changing = self.changing.lock();
            let topic = self.may_grow(name, partitions)?;
            let written = self.put(name, Some(&encode(&topic.id, partitions, &topic.config().given)))?;
            topic.partitions.write().resize_with(partitions, Arc::default);
            written
        };
        self.journal.reach(written).await;
        Ok(())
    }

    /// Replaces what a topic was told.
    pub async fn configure(&self, name: &str, given: BTreeMap<String, String>) -> Result<(), Refused> {
        let config = TopicConfig::new(given).map_err(|why| (ResponseError::InvalidConfig, why))?;
        let written = {
            let _changing = self.changing.lock();
            let topic = self.get(name).ok_or_else(unknown)?;
            let written = self.put(name, Some(&encode(&topic.id, topic.partition_count(), &config.given)))?;
            *topic.config.write() = Arc::new(config);
            written
        };
        self.journal.reach(written).await;
        Ok(())
    }

    fn put(&self, name: &str, entry: Option<&[u8]>) -> Result<u64, Refused> {
        self.journal.put(&[(name.as_bytes(), entry)]).map_err(|e| (ResponseError::KafkaStorageError, e.to_string()))
    }
}

fn unknown() -> Refused {
    (ResponseError::UnknownTopicOrPartition, "This server does not host this topic-partition.".to_owned())
}

fn check_name(name: &str) -> Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() {
        Err("Topic name is invalid: the empty string is not allowed".to_owned())
    } else if name == "." || name == ".." {
        Err("Topic name is invalid: '.' or '..' is not allowed".to_owned())
    } else if name.len() > 249 {
        Err(format!("Topic name is invalid: the length of '{name}' is longer than the max allowed length 249"))
    } else if !name.bytes().all(legal) {
        Err(format!("Topic name is invalid: '{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"))
    } else {
        Ok(())
    }
}

/// Sixteen bytes that no one else has, with the marks of a random UUID.
pub fn random_id() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let half = || RandomState::new().hash_one(std::time::SystemTime::now()).to_be_bytes();
    let mut id = [0; 16];
    id[..8].copy_from_slice(&half());
    id[8..].copy_from_slice(&half());
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_log::StoreOptions;

    fn open(dir: &std::path::Path) -> (Store, Topics) {
        let store = Store::open(dir, StoreOptions::default()).unwrap();
        let transactions = Arc::new(Transactions::open(&store).unwrap());
        let topics = Topics::open(&store, Duration::from_millis(200), transactions).unwrap();
        (store, topics)
    }

    #[tokio::test]
    async fn topics_come_back_after_a_restart_and_a_deleted_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let id = {
            let (store, topics) = open(dir.path());
            let given: BTreeMap<_, _> = [("cleanup.policy".to_owned(), "compact".to_owned())].into();
            let id = topics.create("kept", 3, given.clone()).await.unwrap().id;
            topics.grow("kept", 5).await.unwrap();
            topics.create("gone", 1, BTreeMap::new()).await.unwrap();
            topics.partition("gone", 0).unwrap();
            topics.partition("kept", 4).unwrap();
            topics.delete("gone").await.unwrap();
            assert_eq!(store.names().unwrap(), ["kept-4", "topics", "transactions"]);
            // What a crash in the middle of a deletion leaves.
            store.log("half-0", Default::default()).unwrap();
            id
        };
        let (store, topics) = open(dir.path());
        let kept = topics.get("kept").unwrap();
        assert_eq!((kept.id, kept.partition_count(), kept.config().compact), (id, 5, true));
        assert!(topics.get("gone").is_none());
        assert_eq!(store.names().unwrap(), ["kept-4", "topics", "transactions"]);
    }

    #[tokio::test]
    async fn what_cannot_be_a_topic_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, topics) = open(dir.path());
        topics.create("a.b", 1, BTreeMap::new()).await.unwrap();
        let refused = async |name: &str, partitions| topics.create(name, partitions, BTreeMap::new()).await.map(drop).unwrap_err().0;
        assert_eq!(refused("a.b", 1).await, ResponseError::TopicAlreadyExists);
        for name in ["", ".", "..", "a/b", "a_b", "ä", &"x".repeat(250)] {
            assert_eq!(refused(name, 1).await, ResponseError::InvalidTopicException, "{name:?}");
        }
        assert_eq!(refused("c", 0).await, ResponseError::InvalidPartitions);
        assert_eq!(refused("c", usize::MAX).await, ResponseError::InvalidPartitions);
        assert_eq!(topics.grow("a.b", 1).await.unwrap_err().0, ResponseError::InvalidPartitions);
        assert_eq!(topics.grow("none", 2).await.unwrap_err().0, ResponseError::UnknownTopicOrPartition);
    }
}
