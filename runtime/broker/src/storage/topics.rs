//! The topics: names, ids, partitions and configurations, durable in the journal `topics`.
//!
//! A partition's log is opened when it is first asked for, so a start costs nothing for what nobody uses. A topic exists when its entry is on the
//! disk. Nothing is deleted because an entry cannot be read: a partition's log without a topic makes its topic exist again, from the copy of the
//! journal ([`TopicCopy`]) or, where that does not know it either, with as many partitions as there are logs and a retention that keeps everything.
//! Only a topic that the copy names as deleted is removed: that is what a crash left half done.

mod entry;
mod restore;

use crate::random::random_id;
use crate::storage::damage::Damage;
use crate::storage::journal::Journal;
use crate::storage::partition::{Partition, log_name};
use crate::storage::refused::Refused;
use crate::storage::topic_config::TopicConfig;
use crate::storage::topic_copy::TopicCopy;
use crate::storage::topics::entry::{Slot, State, encode};
use crate::transaction::state::Transactions;
pub use entry::Topic;
use kafka_protocol::ResponseError;
use millrace_log::{Store, StoreError};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;
use uuid::Uuid;

/// More partitions make nothing faster here.
pub const MOST_PARTITIONS: usize = 10_000;

/// Partitions of all topics together.
pub const MOST_PARTITIONS_OF_ALL: usize = 20_000;

/// The producer id of markers that end no transaction; no id that is given out comes to it.
pub(super) const NOBODY: i64 = i64::MAX;

/// What a topic is told of which nothing is known but its partitions: to keep everything until somebody says otherwise.
pub(super) const KEEPS_EVERYTHING: [(&str, &str); 2] = [("retention.bytes", "-1"), ("retention.ms", "-1")];

/// All topics of the broker.
pub struct Topics {
    pub(super) store: Store,
    pub(super) journal: Journal,
    pub(super) transactions: Arc<Transactions>,
    /// How long what is appended may wait for its fdatasync.
    pub(super) sync: Duration,
    pub(super) by_name: RwLock<BTreeMap<Arc<str>, Arc<Topic>>>,
    /// Held while topics change, so that the journal and the map say the same; with the names of those that are being deleted.
    pub(super) changing: Mutex<BTreeSet<String>>,
    /// Partitions of all topics together.
    pub(super) partitions: AtomicUsize,
    pub(super) copy: PathBuf,
    /// The copy does not say what the journal says.
    pub(super) is_copy_due: AtomicBool,
}

impl Topics {
    /// What of the journal could not be read.
    pub fn damage(&self) -> Damage {
        self.journal.damage()
    }

    /// Writes the copy of the journal if topics have changed since.
    pub fn copy_if_due(&self) -> std::io::Result<()> {
        if !self.is_copy_due.swap(false, Relaxed) {
            return Ok(());
        }
        let deleting = self.changing.lock();
        self.write_copy(&deleting)
    }

    /// Writes the copy; the caller holds the names of what is being deleted.
    pub(super) fn write_copy(&self, deleting: &BTreeSet<String>) -> std::io::Result<()> {
        let topics = self.by_name.read().values().map(|topic| (topic.name.to_string(), topic.encode())).collect();
        let written = TopicCopy { topics, deleting: deleting.clone() }.write(&self.copy);
        self.is_copy_due.store(written.is_err(), Relaxed);
        written
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
                self.end_what_was_open(&opened)?;
                let partition = Arc::new(opened);
                *state = State::Open(partition.clone());
                Ok(partition)
            }
        }
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
        check_name(name)?;
        let topics = self.by_name.read();
        if topics.contains_key(name) {
            return Err((ResponseError::TopicAlreadyExists, format!("Topic '{name}' already exists.")));
        }
        // Kafka's metrics would take `a.b` and `a_b` for one; clients rely on neither, tools warn of both.
        let alike = |(a, b): (u8, u8)| a == b || matches!((a, b), (b'.', b'_') | (b'_', b'.'));
        let same = |other: &str| other.len() == name.len() && other.bytes().zip(name.bytes()).all(alike);
        if let Some(other) = topics.keys().find(|other| name.contains(['.', '_']) && same(other)) {
            let why = format!("Topic '{name}' collides with existing topic: {other}");
            return Err((ResponseError::InvalidTopicException, why));
        }
        if partitions == 0 || partitions > MOST_PARTITIONS {
            let why = format!("Number of partitions must be from 1 to {MOST_PARTITIONS}, not {partitions}.");
            return Err((ResponseError::InvalidPartitions, why));
        }
        let all = self.partitions.load(Relaxed);
        if all + partitions > MOST_PARTITIONS_OF_ALL {
            return Err((ResponseError::PolicyViolation, too_many_of_all(all)));
        }
        TopicConfig::new(given)
    }

    /// Creates a topic; it is on the disk when this returns.
    pub async fn create(&self, name: &str, partitions: usize, given: BTreeMap<String, String>) -> Result<Arc<Topic>, Refused> {
        let (topic, written) = self.begin(name, partitions, given)?;
        self.reach(written).await;
        Ok(topic)
    }

    /// Waits until topics that were begun are on the disk.
    pub async fn reach(&self, written: u64) {
        self.journal.reach(written).await;
    }

    /// Creates a topic, which is on the disk when [`Topics::reach`] has returned for the offset that this gives.
    pub fn begin(&self, name: &str, partitions: usize, given: BTreeMap<String, String>) -> Result<(Arc<Topic>, u64), Refused> {
        let (topic, written) = {
            let mut deleting = self.changing.lock();
            let config = self.may_create(name, partitions, given)?;
            if deleting.remove(name) {
                // From here on its logs are the new topic's, and no start may remove them.
                self.write_copy(&deleting)
                    .map_err(|e| (ResponseError::KafkaStorageError, format!("cannot write {}: {e}", self.copy.display())))?;
            }
            let topic = Arc::new(Topic::new(name, Uuid::from_bytes(random_id()), config, partitions));
            let written = self.put(name, Some(&topic.encode()))?;
            self.by_name.write().insert(topic.name.clone(), topic.clone());
            self.partitions.fetch_add(partitions, Relaxed);
            (topic, written)
        };
        tracing::info!(topic = name, partitions, "topic created");
        Ok((topic, written))
    }

    /// Deletes a topic with all that is in it.
    pub async fn delete(&self, name: &str) -> Result<(), Refused> {
        let (topic, written) = {
            let mut deleting = self.changing.lock();
            let topic = self.get(name).ok_or_else(unknown)?;
            deleting.insert(name.to_owned());
            // First of all: a log without an entry would make its topic exist again.
            if let Err(e) = self.write_copy(&deleting) {
                deleting.remove(name);
                return Err((ResponseError::KafkaStorageError, format!("cannot write {}: {e}", self.copy.display())));
            }
            let written = self.put(name, None).inspect_err(|_| _ = deleting.remove(name))?;
            self.by_name.write().remove(name);
            self.partitions.fetch_sub(topic.partition_count(), Relaxed);
            (topic, written)
        };
        self.journal.reach(written).await;
        let mut is_removed = true;
        for (index, slot) in topic.partitions.read().iter().enumerate() {
            let mut state = slot.0.lock();
            *state = State::Deleted;
            match self.store.remove(&log_name(name, index as i32)) {
                Ok(()) | Err(StoreError::NoSuchLog(_)) => {}
                Err(e) => {
                    is_removed = false;
                    tracing::warn!(
                        topic = name,
                        partition = index,
                        "cannot remove the files of a partition: {e}; the next start removes it"
                    );
                }
            }
        }
        if is_removed {
            self.changing.lock().remove(name);
        }
        self.is_copy_due.store(true, Relaxed);
        tracing::info!(topic = name, "topic deleted");
        Ok(())
    }

    /// Says whether a topic could have so many partitions.
    pub fn may_grow(&self, name: &str, partitions: usize) -> Result<Arc<Topic>, Refused> {
        let topic = self.get(name).ok_or_else(unknown)?;
        let now = topic.partition_count();
        let all = self.partitions.load(Relaxed);
        if partitions > now && partitions <= MOST_PARTITIONS {
            if all - now + partitions > MOST_PARTITIONS_OF_ALL {
                return Err((ResponseError::PolicyViolation, too_many_of_all(all)));
            }
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
            self.partitions.fetch_add(partitions - topic.partition_count(), Relaxed);
            topic.partitions.write().resize_with(partitions, Arc::default);
            written
        };
        self.journal.reach(written).await;
        Ok(())
    }

    /// Replaces what a topic was told.
    pub async fn configure(&self, name: &str, given: BTreeMap<String, String>) -> Result<(), Refused> {
        let config = TopicConfig::new(given)?;
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

    pub(super) fn put(&self, name: &str, entry: Option<&[u8]>) -> Result<u64, Refused> {
        self.is_copy_due.store(true, Relaxed);
        self.journal.put(&[(name.as_bytes(), entry)]).map_err(|e| (ResponseError::KafkaStorageError, e.to_string()))
    }
}

fn unknown() -> Refused {
    (ResponseError::UnknownTopicOrPartition, "This server does not host this topic-partition.".to_owned())
}

fn too_many_of_all(there_are: usize) -> String {
    format!("All topics together have at most {MOST_PARTITIONS_OF_ALL} partitions; there are {there_are}.")
}

/// Says why a name can be no topic's.
pub fn check_name(name: &str) -> Result<(), Refused> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let why = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        "'.' or '..' is not allowed".to_owned()
    } else if name.len() > 249 {
        format!("the length of '{name}' is longer than the max allowed length 249")
    } else if !name.bytes().all(legal) {
        format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err((ResponseError::InvalidTopicException, format!("Topic name is invalid: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_log::StoreOptions;

    fn copy(dir: &std::path::Path) -> PathBuf {
        dir.join("topics.copy")
    }

    fn open(dir: &std::path::Path) -> (Store, Topics) {
        let store = Store::open(dir.join("logs"), StoreOptions::default()).unwrap();
        let transactions = Arc::new(Transactions::open(&store).unwrap());
        let topics = Topics::open(&store, copy(dir), Duration::from_millis(200), transactions).unwrap();
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
            topics.create("half", 2, BTreeMap::new()).await.unwrap();
            topics.partition("half", 0).unwrap();
            topics.changing.lock().insert("half".to_owned());
            topics.write_copy(&topics.changing.lock().clone()).unwrap();
            topics.put("half", None).unwrap();
            id
        };
        let (store, topics) = open(dir.path());
        let kept = topics.get("kept").unwrap();
        assert_eq!((kept.id, kept.partition_count(), kept.config().compact), (id, 5, true));
        assert!(topics.get("gone").is_none() && topics.get("half").is_none());
        assert_eq!(store.names().unwrap(), ["kept-4", "topics", "transactions"]);
    }

    /// Files of the journal of the topics.
    fn journal_files(dir: &std::path::Path) -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(dir.join("logs/topics")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[tokio::test]
    async fn whatever_happens_to_the_journal_every_topic_with_data_is_there() {
        let original = tempfile::tempdir().unwrap();
        let ids: BTreeMap<String, Uuid> = {
            let (store, topics) = open(original.path());
            for (name, partitions, given) in [("a", 3, ("cleanup.policy", "compact")), ("b-1", 1, ("retention.ms", "5000"))] {
                topics.create(name, partitions, [(given.0.to_owned(), given.1.to_owned())].into()).await.unwrap();
                (0..partitions as i32).for_each(|index| drop(topics.partition(name, index).unwrap()));
            }
            topics.copy_if_due().unwrap();
            store.close().unwrap();
            topics.all().iter().map(|topic| (topic.name.to_string(), topic.id)).collect()
        };
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        println!("seed {seed}");
        let mut next = seed | 1;
        let mut random = move |below: usize| {
            next ^= next << 13;
            next ^= next >> 7;
            next ^= next << 17;
            (next % below as u64) as usize
        };
        for case in 0..60 {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(original.path(), dir.path());
            let with_copy = case % 2 == 0;
            if !with_copy {
                std::fs::write(copy(dir.path()), b"noise").unwrap();
            }
            for file in journal_files(dir.path()) {
                let mut bytes = std::fs::read(&file).unwrap();
                match case % 5 {
                    _ if bytes.is_empty() => {}
                    0 => bytes.truncate(random(bytes.len())),
                    1 => bytes.fill(0),
                    2 => bytes.clear(),
                    _ => {
                        let bit = random(bytes.len() * 8);
                        bytes[bit / 8] ^= 1 << (bit % 8);
                    }
                }
                std::fs::write(&file, bytes).unwrap();
            }
            for start in 0..2 {
                let (_store, topics) = open(dir.path());
                for (name, partitions) in [("a", 3), ("b-1", 1)] {
                    let topic = topics.get(name).unwrap_or_else(|| panic!("seed {seed}, case {case}, start {start}: {name} is gone"));
                    assert_eq!(topic.partition_count(), partitions, "seed {seed}, case {case}, start {start}");
                    let config = topic.config();
                    if with_copy {
                        assert_eq!(topic.id, ids[name], "seed {seed}, case {case}");
                        assert_eq!((config.compact, config.retention.is_some()), (name == "a", true), "seed {seed}, case {case}");
                    } else if topic.id != ids[name] {
                        assert_eq!((config.retention, config.retention_bytes), (None, None), "nothing of it may grow old");
                    }
                }
            }
        }
    }

    fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy_dir(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_topic_made_anew_under_a_deleted_name_is_not_removed_by_what_is_remembered_of_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        {
            let (_store, topics) = open(dir.path());
            topics.changing.lock().insert("again".to_owned());
            topics.write_copy(&topics.changing.lock().clone()).unwrap();
            topics.create("again", 1, BTreeMap::new()).await.unwrap();
            topics.partition("again", 0).unwrap();
        }
        std::fs::remove_dir_all(dir.path().join("logs/topics")).unwrap();
        let (_store, topics) = open(dir.path());
        assert!(topics.get("again").is_some());
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
