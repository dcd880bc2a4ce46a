//! All consumer groups of the broker: their states in memory, their journal on disk, and the clock that ends sessions.
//!
//! - One lock over all groups; nothing but a write to the journal happens under it. Answers that have to wait are [`Reply`](crate::group::membership::Reply)s.
//! - What changes an offset is in the journal before it is in memory: a full disk refuses the commit and changes nothing. A roster is written
//!   when a generation has its assignment; if that fails, a restart costs the members a rebalance and nothing else.
//! - Offsets of a transaction are journalled as pending and become visible, or vanish, with [`Groups::end_transaction`].
//! - Bounded: [`GROUPS_MAX`] groups of [`MEMBERS_MAX`](crate::group::membership::MEMBERS_MAX) members; a group without members and offsets is forgotten.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use millrace_log::Store;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};

use crate::clock;
use crate::group::membership::{Group, Join, Joined, Phase, Speaker, Synced};
use crate::group::offsets::Offsets;
use crate::group::stored::{Committed, Key, is_newer_entry, read_offset, read_roster, write_offset, write_roster};
use crate::storage::damage::Damage;
use crate::storage::journal::{Journal, JournalError};

/// A group more than this is refused.
pub const GROUPS_MAX: usize = 10_000;

/// What is kept of the members of all groups, in bytes.
const MEMBERS_BYTES: usize = 12 << 20;
/// A subscription or an assignment of so many bytes is an ordinary one.
const SMALL: usize = 4 << 10;
/// Between two looks for offsets that have outlived their time.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct GroupSettings {
    pub session_min: Duration,
    pub session_max: Duration,
    /// How long the offsets of a group without members are kept.
    pub offsets_retention: Duration,
    /// Longest text a client may keep with an offset.
    pub metadata_max: usize,
    /// A commit is acknowledged when it is synced, not when it is written.
    pub sync_commits: bool,
}

impl Default for GroupSettings {
    /// Apache Kafka's, but for the shortest session: six seconds there.
    fn default() -> Self {
        Self {
            session_min: Duration::from_secs(1),
            session_max: Duration::from_secs(1_800),
            offsets_retention: Duration::from_secs(7 * 86_400),
            metadata_max: 4_096,
            sync_commits: false,
        }
    }
}

/// A moment, by the clock that only goes forward and by the calendar (milliseconds since 1970).
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub at: Instant,
    pub ms: i64,
}

impl Now {
    pub fn new() -> Self {
        Self { at: Instant::now(), ms: clock::now() }
    }
}

pub struct Groups {
    shelf: Mutex<Shelf>,
    journal: Journal,
    /// The clock has to look before the time it sleeps until.
    hurry: Notify,
    settings: GroupSettings,
}

#[derive(Default)]
struct Shelf {
    groups: BTreeMap<String, Held>,
    /// What is kept of all members, in bytes.
    bytes: usize,
    /// When the clock looks next.
    wakes: Option<Instant>,
    expires: Option<Instant>,
}

#[derive(Default)]
struct Held {
    group: Group,
    offsets: Offsets,
    /// Of [`Shelf::bytes`].
    bytes: usize,
    /// Since when the group has no members; milliseconds since 1970.
    idle_since_ms: i64,
}

/// What an offset is to become.
#[derive(Clone, Debug)]
pub struct Move<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub committed: Committed,
}

/// Entries for the journal, which takes them together or not at all.
#[derive(Default)]
struct Page(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Page {
    fn put(&mut self, key: Key<'_>, value: Vec<u8>) {
        self.0.push((key.bytes(), Some(value)));
    }

    fn forget(&mut self, key: Key<'_>) {
        self.0.push((key.bytes(), None));
    }

    fn entries(&self) -> Vec<(&[u8], Option<&[u8]>)> {
        self.0.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect()
    }
}

impl Groups {
    /// Opens the journal `groups` of the store and reads what it says.
    pub fn open(store: &Store, settings: GroupSettings, now: Now) -> Result<Self, JournalError> {
        let journal = Journal::open(store, "groups")?;
        let mut shelf = Shelf::default();
        let (mut unreadable, mut is_newer) = (0_u64, false);
        journal.each(|key, value| {
            if shelf.replay(key, value, now).is_none() {
                unreadable += 1;
                is_newer |= is_newer_entry(value);
            }
        });
        if is_newer {
            return Err(JournalError::Newer("groups".into()));
        }
        journal.say_losses(unreadable, "some groups go on from older offsets, or from where their consumers choose");
        Ok(Self { shelf: Mutex::new(shelf), journal, hurry: Notify::new(), settings })
    }

    /// What of the journal could not be read.
    pub fn damage(&self) -> Damage {
        self.journal.damage()
    }

    pub fn settings(&self) -> &GroupSettings {
        &self.settings
    }

    /// A member joins; the answer comes when its generation is complete.
    pub async fn join(&self, group: &str, join: Join, now: Now) -> Joined {
        let member = join.member.clone();
        let refused = |error| Joined::refused(error, &member);
        if group.is_empty() {
            return refused(ResponseError::InvalidGroupId);
        }
        if !(self.settings.session_min..=self.settings.session_max).contains(&join.session_timeout) {
            return refused(ResponseError::InvalidSessionTimeout);
        }
        let bytes = join.protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum();
        let (reply, answer) = oneshot::channel();
        {
            let mut shelf = self.shelf.lock();
            if !shelf.has_room(join.member.is_empty(), bytes) {
                return refused(ResponseError::GroupMaxSizeReached);
            }
            if !shelf.groups.contains_key(group) {
                if !join.member.is_empty() {
                    return refused(ResponseError::UnknownMemberId);
                }
                if shelf.groups.len() >= GROUPS_MAX {
                    return refused(ResponseError::GroupMaxSizeReached);
                }
                shelf.groups.insert(group.to_owned(), Held::default());
            }
            self.on(&mut shelf, group, now, |group| group.join(join, reply, now.at));
        }
        answer.await.unwrap_or_else(|_| refused(ResponseError::CoordinatorNotAvailable))
    }

    /// A member asks for its share of the generation; the answer comes when the leader has brought everybody's.
    pub async fn sync(
        &self,
        group: &str,
        speaker: Speaker<'_>,
        expects: (Option<&str>, Option<&str>),
        assignments: Vec<(String, Bytes)>,
        now: Now,
    ) -> Synced {
        let bytes = assignments.iter().map(|(_, assignment)| assignment.len()).sum();
        let (reply, answer) = oneshot::channel();
        let known = {
            let mut shelf = self.shelf.lock();
            if !shelf.has_room(false, bytes) {
                return Synced::refused(ResponseError::GroupMaxSizeReached);
            }
            self.on(&mut shelf, group, now, |group| group.sync(speaker, expects, assignments, reply, now.at))
        };
        match known {
            Some(()) => answer.await.unwrap_or_else(|_| Synced::refused(ResponseError::CoordinatorNotAvailable)),
            None => Synced::refused(ResponseError::UnknownMemberId),
        }
    }

    pub fn heartbeat(&self, group: &str, speaker: Speaker<'_>, now: Now) -> Result<(), ResponseError> {
        let beaten = self.on(&mut self.shelf.lock(), group, now, |group| group.heartbeat(speaker, now.at));
        beaten.unwrap_or(Err(ResponseError::UnknownMemberId))
    }

    /// A member leaves, by name or by instance.
    pub fn leave(&self, group: &str, member: &str, instance: Option<&str>, now: Now) -> Result<(), ResponseError> {
        let left = self.on(&mut self.shelf.lock(), group, now, |group| group.leave(member, instance, now.at));
        left.unwrap_or(Err(ResponseError::UnknownMemberId))
    }

    /// Commits offsets, all or none; `producer`: with the transaction of this one, whose right to do so the caller has checked.
    /// Returns what to pass to [`Groups::settled`] before the commit is acknowledged.
    pub fn commit(
        &self,
        group: &str,
        speaker: Speaker<'_>,
        producer: Option<i64>,
        moves: &[Move<'_>],
        now: Now,
    ) -> Result<u64, ResponseError> {
        if group.is_empty() {
            return Err(ResponseError::InvalidGroupId);
        }
        let mut shelf = self.shelf.lock();
        let count = shelf.groups.len();
        if let Some(held) = shelf.groups.get_mut(group) {
            held.group.may_commit(speaker, producer.is_some(), now.at)?;
        } else if speaker.generation >= 0 {
            return Err(ResponseError::IllegalGeneration);
        } else if count >= GROUPS_MAX {
            return Err(ResponseError::GroupMaxSizeReached);
        }
        let mut page = Page::default();
        for &Move { topic, partition, ref committed } in moves {
            let key = match producer {
                None => Key::Offset { group, topic, partition },
                Some(producer) => Key::Pending { producer, group, topic, partition },
            };
            page.put(key, write_offset(committed));
        }
        if !self.journal.has_room(&page.entries()) {
            return Err(ResponseError::PolicyViolation);
        }
        let reached = self.write(&page)?;
        if moves.is_empty() {
            return Ok(reached);
        }
        let held = shelf.groups.entry(group.to_owned()).or_insert_with(|| Held { idle_since_ms: now.ms, ..Held::default() });
        for &Move { topic, partition, ref committed } in moves {
            match producer {
                None => held.offsets.commit(topic, partition, committed.clone()),
                Some(producer) => held.offsets.commit_later(producer, topic, partition, committed.clone()),
            }
        }
        Ok(reached)
    }

    /// Waits until a commit is as durable as the broker promises.
    pub async fn settled(&self, reached: u64) -> Result<(), ResponseError> {
        let is_settled = !self.settings.sync_commits || self.journal.reach(reached).await;
        if is_settled { Ok(()) } else { Err(ResponseError::CoordinatorNotAvailable) }
    }

    /// Waits until all that is written by now is on the disk, whatever is promised for a commit.
    pub async fn synced(&self) -> Result<(), ResponseError> {
        if self.journal.reach_at_once(self.journal.end()).await { Ok(()) } else { Err(ResponseError::CoordinatorNotAvailable) }
    }

    /// The offsets that a producer's transaction carried become visible, or vanish. Told again, it does nothing.
    pub fn end_transaction(&self, producer: i64, committed: bool) -> Result<(), ResponseError> {
        let mut shelf = self.shelf.lock();
        let mut page = Page::default();
        for (group, held) in &shelf.groups {
            for (_, topic, partition, offset) in held.offsets.pending().filter(|pending| pending.0 == producer) {
                page.forget(Key::Pending { producer, group, topic, partition });
                if committed {
                    page.put(Key::Offset { group, topic, partition }, write_offset(offset));
                }
            }
        }
        self.write(&page)?;
        shelf.groups.values_mut().for_each(|held| held.offsets.end(producer, committed));
        Ok(())
    }

    /// Producers whose transactions hold offsets back; at its start the coordinator ends those it knows nothing of.
    pub fn pending_producers(&self) -> Vec<i64> {
        let shelf = self.shelf.lock();
        let mut producers: Vec<i64> = shelf.groups.values().flat_map(|held| held.offsets.producers()).collect();
        producers.sort_unstable();
        producers.dedup();
        producers
    }

    /// Looks at a group and its offsets; `None`: there is no such group.
    pub fn look<R>(&self, group: &str, look: impl FnOnce(&Group, &Offsets) -> R) -> Option<R> {
        self.shelf.lock().groups.get(group).map(|held| look(&held.group, &held.offsets))
    }

    /// Looks at every group, in order of their names.
    pub fn each(&self, mut look: impl FnMut(&str, &Group)) {
        self.shelf.lock().groups.iter().for_each(|(id, held)| look(id, &held.group));
    }

    /// Forgets a group that nobody is in, with its offsets.
    pub fn delete(&self, group: &str) -> Result<(), ResponseError> {
        let mut shelf = self.shelf.lock();
        let held = shelf.groups.get(group).ok_or(ResponseError::GroupIdNotFound)?;
        // A transaction that is about to commit here counts as a member.
        if !held.group.is_vacant() || held.offsets.producers().next().is_some() {
            return Err(ResponseError::NonEmptyGroup);
        }
        let mut page = Page::default();
        held.forget(group, &mut page);
        self.write(&page)?;
        shelf.remove(group);
        Ok(())
    }

    /// Forgets offsets of a group.
    pub fn forget(&self, group: &str, partitions: &[(&str, i32)]) -> Result<(), ResponseError> {
        let mut shelf = self.shelf.lock();
        let held = shelf.groups.get_mut(group).ok_or(ResponseError::GroupIdNotFound)?;
        let mut page = Page::default();
        partitions.iter().for_each(|&(topic, partition)| held.offsets.keys(group, topic, partition).for_each(|key| page.forget(key)));
        self.write(&page)?;
        partitions.iter().for_each(|(topic, partition)| held.offsets.forget(topic, *partition));
        Ok(())
    }

    /// A topic is deleted: nobody's offsets in it mean anything any more.
    pub fn forget_topic(&self, topic: &str) -> Result<(), ResponseError> {
        let mut shelf = self.shelf.lock();
        let mut page = Page::default();
        for (group, held) in &shelf.groups {
            let partitions = held.offsets.of_topic(topic);
            partitions.into_iter().for_each(|partition| held.offsets.keys(group, topic, partition).for_each(|key| page.forget(key)));
        }
        self.write(&page)?;
        for held in shelf.groups.values_mut() {
            held.offsets.of_topic(topic).into_iter().for_each(|partition| held.offsets.forget(topic, partition));
        }
        Ok(())
    }

    /// Ends sessions, rebalances and offsets when their time is over; until it is dropped.
    pub async fn run(&self) {
        loop {
            let wakes = self.tick(Now::new());
            tokio::select! {
                () = tokio::time::sleep_until(wakes.into()) => {}
                () = self.hurry.notified() => {}
            }
        }
    }

    /// Does what is due; returns when to look again.
    fn tick(&self, now: Now) -> Instant {
        let mut shelf = self.shelf.lock();
        let due = shelf.groups.iter().filter(|(_, held)| held.group.deadline().is_some_and(|deadline| deadline <= now.at));
        let due: Vec<String> = due.map(|(id, _)| id.clone()).collect();
        for id in due {
            self.on(&mut shelf, &id, now, |group| group.tick(now.at));
        }
        if shelf.expires.is_none_or(|at| at <= now.at) {
            shelf.expires = Some(now.at + EXPIRE_EVERY);
            if self.expire(&mut shelf, now).is_err() {
                tracing::warn!("committed offsets that have outlived their time could not be deleted; tried again in a minute");
            }
        }
        let deadlines = shelf.groups.values().filter_map(|held| held.group.deadline());
        let wakes = deadlines.chain(shelf.expires).min().unwrap_or(now.at + EXPIRE_EVERY);
        shelf.wakes = Some(wakes);
        wakes
    }

    fn expire(&self, shelf: &mut Shelf, now: Now) -> Result<(), ResponseError> {
        let retention_ms = self.settings.offsets_retention.as_millis() as i64;
        for (group, held) in shelf.groups.iter_mut().filter(|(_, held)| held.group.is_vacant()) {
            let mut page = Page::default();
            let outdated = held.offsets.outdated(now.ms, held.idle_since_ms, retention_ms);
            outdated.iter().for_each(|(topic, partition)| page.forget(Key::Offset { group, topic, partition: *partition }));
            self.write(&page)?;
            outdated.iter().for_each(|(topic, partition)| held.offsets.forget(topic, *partition));
        }
        let vacant = shelf.groups.iter().filter(|(_, held)| held.group.is_vacant() && held.offsets.is_empty());
        let vacant: Vec<String> = vacant.map(|(id, _)| id.clone()).collect();
        let mut page = Page::default();
        vacant.iter().for_each(|group| page.forget(Key::Roster { group }));
        self.write(&page)?;
        vacant.iter().for_each(|group| shelf.remove(group));
        Ok(())
    }

    /// Does something to a group, writes down what must survive, and tells the clock.
    fn on<R>(&self, shelf: &mut MutexGuard<'_, Shelf>, id: &str, now: Now, act: impl FnOnce(&mut Group) -> R) -> Option<R> {
        let wakes = shelf.wakes;
        let held = shelf.groups.get_mut(id)?;
        let result = act(&mut held.group);
        let bytes = held.group.bytes();
        let before = std::mem::replace(&mut held.bytes, bytes);
        if held.group.phase() == Phase::Empty {
            held.idle_since_ms = now.ms;
        }
        if held.group.take_dirty() {
            let mut page = Page::default();
            page.put(Key::Roster { group: id }, write_roster(&held.group.roster()));
            if self.write(&page).is_err() {
                tracing::warn!(group = id, "the members of the group could not be written down; after a restart they join anew");
            }
        }
        if held.group.deadline().is_some_and(|deadline| wakes.is_none_or(|wakes| deadline < wakes)) {
            self.hurry.notify_one();
        }
        shelf.bytes = shelf.bytes - before + bytes;
        Some(result)
    }

    /// Writes into the journal; the shelf is locked, so that what is written and what is in memory have one order.
    fn write(&self, page: &Page) -> Result<u64, ResponseError> {
        if page.0.is_empty() {
            return Ok(0);
        }
        self.journal.put(&page.entries()).map_err(|error| {
            tracing::warn!(%error, "the journal of the groups takes nothing");
            ResponseError::CoordinatorNotAvailable
        })
    }
}

impl Held {
    /// Everything the journal knows of this group.
    fn forget(&self, group: &str, page: &mut Page) {
        page.forget(Key::Roster { group });
        for (topic, partitions) in self.offsets.topics() {
            partitions.keys().for_each(|partition| page.forget(Key::Offset { group, topic, partition: *partition }));
        }
    }
}

impl Shelf {
    fn remove(&mut self, group: &str) {
        self.bytes -= self.groups.remove(group).map_or(0, |held| held.bytes);
    }

    /// Whether so many bytes more may be remembered of members. Small ones of members that are known come back even where strangers took all there is.
    fn has_room(&self, is_new: bool, bytes: usize) -> bool {
        let most = if is_new || bytes > SMALL { MEMBERS_BYTES } else { MEMBERS_BYTES * 3 / 2 };
        self.bytes + bytes <= most
    }

    fn replay(&mut self, key: &[u8], value: &[u8], now: Now) -> Option<()> {
        let key = Key::read(key)?;
        let (Key::Roster { group } | Key::Offset { group, .. } | Key::Pending { group, .. }) = key;
        let held = self.groups.entry(group.to_owned()).or_insert_with(|| Held { idle_since_ms: now.ms, ..Held::default() });
        match key {
            Key::Roster { .. } => {
                held.group = Group::restore(read_roster(value)?, now.at);
                let bytes = held.group.bytes();
                self.bytes = self.bytes - std::mem::replace(&mut held.bytes, bytes) + bytes;
            }
            Key::Offset { topic, partition, .. } => held.offsets.commit(topic, partition, read_offset(value)?),
            Key::Pending { producer, topic, partition, .. } => held.offsets.commit_later(producer, topic, partition, read_offset(value)?),
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_log::StoreOptions;

    const OUTSIDER: Speaker<'static> = Speaker { member: "", instance: None, generation: -1 };

    /// The groups of a directory, as a start of the broker finds them.
    fn open(dir: &tempfile::TempDir) -> (Store, Groups) {
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let groups = Groups::open(&store, GroupSettings::default(), Now::new()).unwrap();
        (store, groups)
    }

    fn to(topic: &str, partition: i32, offset: i64) -> Move<'_> {
        let committed = Committed { offset, leader_epoch: -1, metadata: String::new(), at_ms: Now::new().ms, expires_ms: None };
        Move { topic, partition, committed }
    }

    fn offset(groups: &Groups, group: &str, topic: &str, partition: i32) -> Option<i64> {
        groups.look(group, |_, offsets| offsets.get(topic, partition).map(|committed| committed.offset)).flatten()
    }

    #[tokio::test]
    async fn what_is_committed_and_what_waits_for_its_transaction_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let now = Now::new();
        {
            let (_store, groups) = open(&dir);
            let reached = groups.commit("g", OUTSIDER, None, &[to("t", 0, 5), to("t", 1, 6)], now).unwrap();
            groups.settled(reached).await.unwrap();
            groups.commit("g", OUTSIDER, Some(7), &[to("t", 0, 50)], now).unwrap();
            groups.commit("g", OUTSIDER, Some(8), &[to("t", 1, 60)], now).unwrap();
            groups.end_transaction(7, true).unwrap();
            assert_eq!(offset(&groups, "g", "t", 0), Some(50));
        }
        {
            let (_store, groups) = open(&dir);
            assert_eq!((offset(&groups, "g", "t", 0), offset(&groups, "g", "t", 1)), (Some(50), Some(6)));
            assert_eq!(groups.pending_producers(), [8]);
            assert_eq!(groups.delete("g"), Err(ResponseError::NonEmptyGroup), "a transaction is about to commit here");
            groups.end_transaction(8, false).unwrap();
            groups.end_transaction(8, true).unwrap();
            assert_eq!(offset(&groups, "g", "t", 1), Some(6), "told again, it does nothing");
            groups.commit("other", OUTSIDER, None, &[to("t", 0, 1), to("u", 0, 2)], now).unwrap();
            groups.forget_topic("t").unwrap();
            groups.delete("g").unwrap();
        }
        let (_store, groups) = open(&dir);
        assert!(groups.pending_producers().is_empty());
        let mut all = Vec::new();
        groups.each(|id, _| all.push(id.to_owned()));
        assert_eq!(all, ["other"]);
        assert_eq!((offset(&groups, "other", "t", 0), offset(&groups, "other", "u", 0)), (None, Some(2)));
    }

    #[test]
    fn a_group_that_nobody_used_for_the_retention_is_forgotten_with_its_offsets() {
        let dir = tempfile::tempdir().unwrap();
        let now = Now::new();
        {
            let (_store, groups) = open(&dir);
            groups.commit("g", OUTSIDER, None, &[to("t", 0, 5)], now).unwrap();
            let week_ms = groups.settings().offsets_retention.as_millis() as i64;
            let later = |ms: i64| Now { at: now.at + Duration::from_millis(ms as u64), ms: now.ms + ms };
            groups.tick(later(week_ms - 60_000));
            assert_eq!(offset(&groups, "g", "t", 0), Some(5));
            groups.tick(later(week_ms + 60_000));
            assert!(groups.look("g", |_, _| ()).is_none());
        }
        let (_store, groups) = open(&dir);
        assert!(groups.look("g", |_, _| ()).is_none());
    }

    #[test]
    fn a_commit_from_nowhere_is_refused_and_makes_no_group() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, groups) = open(&dir);
        let stranger = Speaker { member: "m", instance: None, generation: 3 };
        let refused = |group: &str, speaker| groups.commit(group, speaker, None, &[to("t", 0, 5)], Now::new()).unwrap_err();
        assert_eq!(refused("g", stranger), ResponseError::IllegalGeneration);
        assert_eq!(refused("", OUTSIDER), ResponseError::InvalidGroupId);
        groups.commit("g", OUTSIDER, None, &[], Now::new()).unwrap();
        assert!(groups.look("g", |_, _| ()).is_none());
    }
}
