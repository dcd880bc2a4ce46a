//! The offsets that one group has committed, and those that wait for their transactions to end.

use std::collections::BTreeMap;

use crate::group::stored::{Committed, Key};

#[derive(Default)]
pub struct Offsets {
    committed: BTreeMap<String, BTreeMap<i32, Committed>>,
    /// By producer id.
    pending: BTreeMap<i64, BTreeMap<String, BTreeMap<i32, Committed>>>,
}

impl Offsets {
    pub fn commit(&mut self, topic: &str, partition: i32, committed: Committed) {
        put(&mut self.committed, topic, partition, committed);
    }

    /// Commits when, and if, the producer's transaction does.
    pub fn commit_later(&mut self, producer: i64, topic: &str, partition: i32, committed: Committed) {
        put(self.pending.entry(producer).or_default(), topic, partition, committed);
    }

    /// The producer's transaction has ended.
    pub fn end(&mut self, producer: i64, committed: bool) {
        let Some(pending) = self.pending.remove(&producer).filter(|_| committed) else { return };
        for (topic, partitions) in pending {
            self.committed.entry(topic).or_default().extend(partitions);
        }
    }

    pub fn get(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.committed.get(topic)?.get(&partition)
    }

    /// Whether a transaction that has not ended will move this offset.
    pub fn is_pending(&self, topic: &str, partition: i32) -> bool {
        self.pending.values().any(|topics| topics.get(topic).is_some_and(|partitions| partitions.contains_key(&partition)))
    }

    pub fn topics(&self) -> impl Iterator<Item = (&str, &BTreeMap<i32, Committed>)> {
        self.committed.iter().map(|(topic, partitions)| (topic.as_str(), partitions))
    }

    pub fn pending(&self) -> impl Iterator<Item = (i64, &str, i32, &Committed)> {
        let of = |(producer, topics): (&i64, _)| (*producer, topics);
        self.pending.iter().map(of).flat_map(|(producer, topics): (i64, &BTreeMap<String, BTreeMap<i32, Committed>>)| {
            topics.iter().flat_map(move |(topic, partitions)| {
                partitions.iter().map(move |(partition, committed)| (producer, topic.as_str(), *partition, committed))
            })
        })
    }

    pub fn producers(&self) -> impl Iterator<Item = i64> {
        self.pending.keys().copied()
    }

    /// Where the journal keeps what is known of a partition.
    pub fn keys<'a>(&'a self, group: &'a str, topic: &'a str, partition: i32) -> impl Iterator<Item = Key<'a>> {
        let pending = self.pending.iter().filter(move |(_, topics)| topics.get(topic).is_some_and(|of| of.contains_key(&partition)));
        let offset = self.get(topic, partition).map(|_| Key::Offset { group, topic, partition });
        offset.into_iter().chain(pending.map(move |(producer, _)| Key::Pending { producer: *producer, group, topic, partition }))
    }

    pub fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.pending.is_empty()
    }

    pub fn forget(&mut self, topic: &str, partition: i32) {
        remove(&mut self.committed, topic, partition);
        self.pending.retain(|_, topics| {
            remove(topics, topic, partition);
            !topics.is_empty()
        });
    }

    /// The partitions of a topic that something is known of.
    pub fn of_topic(&self, topic: &str) -> Vec<i32> {
        let pending = self.pending.values().filter_map(|topics| topics.get(topic));
        let mut partitions: Vec<i32> = self.committed.get(topic).into_iter().chain(pending).flat_map(|of| of.keys().copied()).collect();
        partitions.sort_unstable();
        partitions.dedup();
        partitions
    }

    /// What has outlived its time: its own, or `retention_ms` since the commit and since `idle_since_ms`.
    pub fn outdated(&self, now_ms: i64, idle_since_ms: i64, retention_ms: i64) -> Vec<(String, i32)> {
        let is_over = |committed: &Committed| match committed.expires_ms {
            Some(at) => at <= now_ms,
            None => committed.at_ms.max(idle_since_ms).saturating_add(retention_ms) <= now_ms,
        };
        let of = |(topic, partitions): (&String, &BTreeMap<i32, Committed>)| -> Vec<(String, i32)> {
            partitions.iter().filter(|(_, committed)| is_over(committed)).map(|(partition, _)| (topic.clone(), *partition)).collect()
        };
        let over = self.committed.iter().flat_map(of);
        over.filter(|(topic, partition)| !self.is_pending(topic, *partition)).collect()
    }
}

fn put(topics: &mut BTreeMap<String, BTreeMap<i32, Committed>>, topic: &str, partition: i32, committed: Committed) {
    match topics.get_mut(topic) {
        Some(partitions) => _ = partitions.insert(partition, committed),
        None => _ = topics.insert(topic.to_owned(), BTreeMap::from([(partition, committed)])),
    }
}

fn remove(topics: &mut BTreeMap<String, BTreeMap<i32, Committed>>, topic: &str, partition: i32) {
    let Some(partitions) = topics.get_mut(topic) else { return };
    partitions.remove(&partition);
    if partitions.is_empty() {
        topics.remove(topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64, at_ms: i64) -> Committed {
        Committed { offset, leader_epoch: -1, metadata: String::new(), at_ms, expires_ms: None }
    }

    #[test]
    fn what_a_transaction_commits_is_seen_when_it_ends_and_not_before() {
        let mut offsets = Offsets::default();
        offsets.commit("t", 0, at(5, 1));
        offsets.commit_later(7, "t", 0, at(9, 2));
        offsets.commit_later(8, "t", 1, at(3, 2));
        assert_eq!(offsets.get("t", 0).unwrap().offset, 5);
        assert!(offsets.is_pending("t", 0) && offsets.is_pending("t", 1) && !offsets.is_pending("t", 2));
        offsets.end(7, true);
        offsets.end(8, false);
        assert_eq!(offsets.get("t", 0).unwrap().offset, 9);
        assert_eq!(offsets.get("t", 1), None);
        assert!(!offsets.is_pending("t", 0) && offsets.producers().next().is_none());
    }

    #[test]
    fn an_offset_outlives_its_group_by_the_retention_and_one_with_a_time_of_its_own_by_that() {
        let mut offsets = Offsets::default();
        offsets.commit("t", 0, at(5, 1_000));
        offsets.commit("t", 1, Committed { expires_ms: Some(1_500), ..at(5, 1_000) });
        assert_eq!(offsets.outdated(1_400, 0, 500), []);
        assert_eq!(offsets.outdated(1_500, 0, 500), [("t".into(), 0), ("t".into(), 1)]);
        assert_eq!(offsets.outdated(1_600, 1_200, 500), [("t".into(), 1)], "the group was busy until 1,200");
        offsets.commit_later(1, "t", 0, at(6, 1_000));
        assert_eq!(offsets.outdated(2_000, 0, 500), [("t".into(), 1)], "a transaction is about to move it");
        offsets.forget("t", 0);
        assert!(offsets.get("t", 0).is_none() && !offsets.is_pending("t", 0) && offsets.producers().next().is_none());
        assert_eq!(offsets.of_topic("t"), [1]);
    }
}
