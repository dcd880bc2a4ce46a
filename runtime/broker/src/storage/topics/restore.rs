//! Opening: the journal read, its copy where it is damaged, partitions without a topic.

use crate::clock::now;
use crate::random::random_id;
use crate::storage::journal::{Journal, JournalError};
use crate::storage::partition::Partition;
use crate::storage::topic_config::TopicConfig;
use crate::storage::topic_copy::TopicCopy;
use crate::storage::topics::entry::{ENTRY_VERSION, Topic, decode};
use crate::storage::topics::{KEEPS_EVERYTHING, MOST_PARTITIONS, NOBODY, Topics, check_name};
use crate::transaction::state::Transactions;
use kafka_protocol::ResponseError;
use millrace_log::Store;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;
use uuid::Uuid;

impl Topics {
    /// Opens the journal; `copy` is the file of its copy.
    pub fn open(store: &Store, copy: PathBuf, sync: Duration, transactions: Arc<Transactions>) -> Result<Self, JournalError> {
        let journal = Journal::open(store, "topics")?;
        let (mut by_name, mut newer, mut unreadable) = (BTreeMap::new(), None, 0);
        journal.each(|name, entry| match std::str::from_utf8(name).ok().and_then(|name| decode(name, entry)) {
            Some(topic) => drop(by_name.insert(topic.name.clone(), Arc::new(topic))),
            None if entry.first().is_some_and(|version| *version > ENTRY_VERSION) => {
                newer = Some(String::from_utf8_lossy(name).into_owned())
            }
            None => unreadable += 1,
        });
        if let Some(name) = newer {
            return Err(JournalError::Newer(format!("topics (topic {name})")));
        }
        let copied = TopicCopy::read(&copy).unwrap_or_default();
        let topics = Self {
            store: store.clone(),
            is_copy_due: AtomicBool::new(true),
            partitions: AtomicUsize::new(by_name.values().map(|topic: &Arc<Topic>| topic.partition_count()).sum()),
            copy,
            transactions,
            sync,
            by_name: RwLock::new(by_name),
            changing: Mutex::default(),
            journal,
        };
        if unreadable > 0 || topics.journal.is_damaged() {
            topics.restore_copied(&copied)?;
        }
        topics.restore_orphans(&copied)?;
        Ok(topics)
    }

    /// Brings back what the journal has lost and its copy knows.
    pub(super) fn restore_copied(&self, copied: &TopicCopy) -> Result<(), JournalError> {
        for (name, entry) in &copied.topics {
            if self.get(name).is_none()
                && !copied.deleting.contains(name)
                && let Some(topic) = decode(name, entry)
            {
                tracing::warn!(topic = name, "the journal of the topics has lost the topic; it is back from the journal's copy");
                self.restore(topic)?;
            }
        }
        Ok(())
    }

    /// Gives the logs of partitions that belong to no topic their topic back, and ends deletions that a crash left half done.
    pub(super) fn restore_orphans(&self, copied: &TopicCopy) -> Result<(), JournalError> {
        let mut orphans: BTreeMap<String, usize> = BTreeMap::new();
        for log in self.store.names()? {
            let Some((name, index)) = partition_of_log(&log) else { continue };
            let known = self.get(name).map(|topic| topic.partition_count());
            if known.is_some_and(|count| index < count) {
                continue;
            }
            if known.is_none() && copied.deleting.contains(name) {
                tracing::info!(topic = name, partition = index, "the topic was deleted; what was left of it is removed");
                self.store.remove(&log)?;
                continue;
            }
            let count = orphans.entry(name.to_owned()).or_default();
            *count = (*count).max(index + 1);
        }
        for (name, count) in orphans {
            if let Some(known) = self.get(&name) {
                tracing::error!(
                    topic = name,
                    partitions = count,
                    "the topic has more partitions on the disk than its entry says; they are served again"
                );
                self.restore(Topic::new(&name, known.id, (*known.config()).clone(), count))?;
            } else if let Some(topic) = copied.topics.get(&name).and_then(|entry| decode(&name, entry)) {
                tracing::error!(topic = name, "the topic's entry is lost; it is back from the journal's copy");
                let count = count.max(topic.partition_count());
                self.restore(Topic::new(&name, topic.id, (*topic.config()).clone(), count))?;
            } else {
                tracing::error!(
                    topic = name,
                    partitions = count,
                    "the topic's entry is lost; it is made anew from its partitions and keeps everything until its retention is set again"
                );
                let given = KEEPS_EVERYTHING.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
                let config = TopicConfig::new(given).expect("the keys are known");
                self.restore(Topic::new(&name, Uuid::from_bytes(random_id()), config, count))?;
            }
        }
        Ok(())
    }

    pub(super) fn restore(&self, topic: Topic) -> Result<(), JournalError> {
        // On a disk that takes nothing the topic is served all the same, and restored again by the next start.
        if let Err((_, why)) = self.put(&topic.name, Some(&topic.encode())) {
            tracing::warn!(topic = %topic.name, "the restored topic is not in the journal yet: {why}");
        }
        self.partitions.fetch_add(topic.partition_count(), Relaxed);
        if let Some(before) = self.by_name.write().insert(topic.name.clone(), Arc::new(topic)) {
            self.partitions.fetch_sub(before.partition_count(), Relaxed);
        }
        Ok(())
    }

    /// A transaction that a partition finds open in its log was open when the broker ended: it is aborted, unless it was decided otherwise.
    ///
    /// Where records are lost that were on the disk, a marker may be among them: what its coordinator knows to be committed is. And the log may end
    /// in a hole there, behind which readers would wait for ever: one more marker, of nobody, stands behind it.
    pub(super) fn end_what_was_open(&self, partition: &Partition) -> Result<(), ResponseError> {
        let damage = partition.damage();
        for producer in partition.producers() {
            if producer.open.is_some() && !self.transactions.is_committing(producer.producer_id) {
                let committed = damage.records > 0 && self.transactions.has_committed(producer.producer_id, producer.epoch);
                partition.mark(producer.producer_id, producer.epoch, committed, now())?;
            }
        }
        if damage.is_any() {
            partition.mark(NOBODY, 0, false, now())?;
        }
        Ok(())
    }
}

/// Topic and index of a partition's log, if it is one.
fn partition_of_log(log: &str) -> Option<(&str, usize)> {
    let (topic, index) = log.rsplit_once('-')?;
    let index = index.parse::<u32>().ok().map(|index| index as usize).filter(|index| *index < MOST_PARTITIONS)?;
    check_name(topic).ok().map(|()| (topic, index))
}
