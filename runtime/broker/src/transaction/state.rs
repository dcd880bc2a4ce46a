//! The transaction coordinator: who may write under a transactional id, which partitions a transaction has touched, and how it ends.
//!
//! ```text
//!            AddPartitions, AddOffsets        EndTxn            markers in every partition, offsets of groups
//!   Empty ──────────────────────────> Ongoing ──────> Prepare ─────────────────────────────────────────────> Complete ──> Ongoing ..
//! ```
//!
//! - What a commit commits, records and offsets of groups, is on the disk before `Prepare` is in the journal, and that is on the disk before the first
//!   marker is written: a crash behind it goes on with the markers. `Complete` is written when the markers are on the disk, and is there itself
//!   before the next transaction writes anything: so what `Prepare` finds open after a power cut is its own, and what is open without it was
//!   never committed.
//! - So a commit waits for four fdatasyncs, one behind the other: its records, `Prepare`, the markers, and `Complete`, for which the next
//!   transaction waits. None of them rests for the sake of group commit: the rests would add up. Transactions that end together share them.
//! - A transaction that is open when the broker stops or dies is aborted, and its producer fenced by a higher epoch, as one that timed out. Its
//!   partitions get their markers when they are opened: an open transaction that a partition finds in its log then can be no other.
//! - A producer id is never given out twice: the journal is ahead by a block of them.
//!
//! Source: KIP-98, "Exactly Once Delivery and Transactional Messaging"; KIP-360 for the bumping of epochs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use kafka_protocol::ResponseError;
use parking_lot::Mutex;

use crate::clock::now;
use crate::storage::damage::Damage;
use crate::storage::journal::{Journal, JournalError};
use crate::storage::wire::{Reader, Writer};
use crate::transaction::stuck::SAY_EVERY;
use millrace_log::Store;

/// As Kafka's `transaction.max.timeout.ms`.
pub(super) const LONGEST_MS: i32 = 900_000;
/// As Kafka's `transactional.id.expiration.ms`.
const EXPIRE_MS: i64 = 7 * 86_400_000;
/// Producer ids that one journal entry gives out.
const BLOCK: i64 = 1_000;
/// More producer ids than anybody gives out in a millisecond.
const IDS_PER_MS: i64 = 1_000;
/// Transactional ids at once.
pub(super) const MOST: usize = 100_000;
/// Ends of transactions that go on at the same time.
const TURNS: usize = 64;
const NEXT_PRODUCER: &[u8] = b"p";
const ENTRY_VERSION: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Empty,
    Ongoing,
    Prepare { commit: bool },
    Complete { commit: bool },
}

impl Phase {
    pub const ALL: [Self; 6] = [
        Self::Empty,
        Self::Ongoing,
        Self::Prepare { commit: true },
        Self::Prepare { commit: false },
        Self::Complete { commit: true },
        Self::Complete { commit: false },
    ];

    /// As Kafka's tools print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::Prepare { commit: true } => "PrepareCommit",
            Self::Prepare { commit: false } => "PrepareAbort",
            Self::Complete { commit: true } => "CompleteCommit",
            Self::Complete { commit: false } => "CompleteAbort",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Ongoing => 1,
            Self::Prepare { commit } => 2 + u8::from(commit),
            Self::Complete { commit } => 4 + u8::from(commit),
        }
    }

    fn of(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Empty,
            1 => Self::Ongoing,
            2 | 3 => Self::Prepare { commit: code == 3 },
            4 | 5 => Self::Complete { commit: code == 5 },
            _ => return None,
        })
    }
}

/// What is known about a transactional id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    pub producer_id: i64,
    pub epoch: i16,
    /// The epoch before, whose owner may ask again for the one it did not hear of; -1: none.
    pub(super) last_epoch: i16,
    pub timeout_ms: i32,
    pub phase: Phase,
    pub partitions: BTreeSet<(String, i32)>,
    pub groups: BTreeSet<String>,
    /// Milliseconds since 1970 when the transaction began; -1: none has.
    pub started: i64,
    pub(super) changed: i64,
    /// Offset in the journal behind the end of the transaction before, which is on the disk before this one writes. Not stored.
    pub(super) after: u64,
}

impl Transaction {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u8(ENTRY_VERSION).i64(self.producer_id).i16(self.epoch).i16(self.last_epoch).i32(self.timeout_ms);
        out.u8(self.phase.code()).i64(self.started).i64(self.changed).u32(self.partitions.len() as u32);
        for (topic, index) in &self.partitions {
            out.str(topic).i32(*index);
        }
        out.u32(self.groups.len() as u32);
        for group in &self.groups {
            out.str(group);
        }
        out.0
    }

    fn decode(entry: &[u8]) -> Option<Self> {
        let mut from = Reader(entry);
        if from.u8()? != ENTRY_VERSION {
            return None;
        }
        Some(Self {
            producer_id: from.i64()?,
            epoch: from.i16()?,
            last_epoch: from.i16()?,
            timeout_ms: from.i32()?,
            phase: Phase::of(from.u8()?)?,
            started: from.i64()?,
            changed: from.i64()?,
            partitions: from.list(|from| Some((from.str()?.to_owned(), from.i32()?)))?.into_iter().collect(),
            groups: from.list(|from| Some(from.str()?.to_owned()))?.into_iter().collect(),
            after: 0,
        })
    }

    /// Whether the caller is the producer that owns the id now.
    pub(super) fn owned_by(&self, producer_id: i64, epoch: i16) -> Result<(), ResponseError> {
        if producer_id != self.producer_id {
            Err(ResponseError::InvalidProducerIdMapping)
        } else if epoch != self.epoch {
            Err(ResponseError::ProducerFenced)
        } else {
            Ok(())
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Empty | Phase::Complete { .. })
    }

    /// Nothing of an earlier transaction is left, and `phase` begins.
    pub(super) fn settle(&mut self, phase: Phase, now: i64) {
        self.phase = phase;
        self.partitions.clear();
        self.groups.clear();
        (self.started, self.changed) = (-1, now);
    }
}

/// Who is told to write with which producer id and epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub producer_id: i64,
    pub epoch: i16,
}

pub struct Transactions {
    pub(super) journal: Journal,
    pub(super) by_id: Mutex<BTreeMap<String, Transaction>>,
    /// The next producer id, and the one up to which the journal has given them out.
    next: tokio::sync::Mutex<(i64, i64)>,
    /// When it was last said that the journal takes nothing.
    said: Mutex<Option<Instant>>,
    /// Held while a transaction gets its markers, by its id: a second try that came late would end the transaction behind it.
    turns: [tokio::sync::Mutex<()>; TURNS],
}

impl Transactions {
    /// Opens the journal; what was ongoing is aborted and fenced.
    pub fn open(store: &Store) -> Result<Self, JournalError> {
        let journal = Journal::open(store, "transactions")?;
        let (mut by_id, mut next, mut newer, mut unreadable) = (BTreeMap::new(), 0, None, 0);
        journal.each(|key, value| match key.strip_prefix(b"t").and_then(|id| std::str::from_utf8(id).ok()) {
            Some(id) => match Transaction::decode(value) {
                Some(transaction) => drop(by_id.insert(id.to_owned(), transaction)),
                None if value.first().is_some_and(|version| *version > ENTRY_VERSION) => newer = Some(id.to_owned()),
                None => unreadable += 1,
            },
            None => next = value.try_into().map_or(0, i64::from_be_bytes),
        });
        if let Some(id) = newer {
            return Err(JournalError::Newer(format!("transactions (id {id})")));
        }
        if journal.is_damaged() || unreadable > 0 {
            // How far the ids had come may be lost: on from where counting cannot have come.
            next = next.max(now().saturating_mul(IDS_PER_MS));
            journal.say_losses(unreadable, &format!("producer ids go on from {next}, and a transaction that was decided may be aborted"));
        }
        for transaction in by_id.values_mut() {
            if matches!(transaction.phase, Phase::Ongoing | Phase::Prepare { commit: false }) {
                transaction.epoch = transaction.epoch.saturating_add(1);
                transaction.last_epoch = -1;
                transaction.settle(Phase::Complete { commit: false }, now());
            }
        }
        let turns = std::array::from_fn(|_| tokio::sync::Mutex::default());
        Ok(Self { journal, by_id: Mutex::new(by_id), next: tokio::sync::Mutex::new((next, next)), said: Mutex::default(), turns })
    }

    pub(super) fn turn(&self, id: &str) -> &tokio::sync::Mutex<()> {
        &self.turns[crc32c::crc32c(id.as_bytes()) as usize % TURNS]
    }

    pub fn get(&self, id: &str) -> Option<Transaction> {
        self.by_id.lock().get(id).cloned()
    }

    /// What of the journal could not be read.
    pub fn damage(&self) -> Damage {
        self.journal.damage()
    }

    /// All transactional ids with what is known about them.
    pub fn all(&self) -> Vec<(String, Transaction)> {
        self.by_id.lock().iter().map(|(id, transaction)| (id.clone(), transaction.clone())).collect()
    }

    /// Whether a producer's transaction was decided for commit before a crash and has not got all its markers yet.
    pub fn is_committing(&self, producer_id: i64) -> bool {
        let commits = |one: &Transaction| one.producer_id == producer_id && one.phase == Phase::Prepare { commit: true };
        self.by_id.lock().values().any(commits)
    }

    /// Whether the last transaction of a producer was committed, and all its markers were on the disk.
    pub fn has_committed(&self, producer_id: i64, epoch: i16) -> bool {
        let did = |one: &Transaction| (one.producer_id, one.epoch) == (producer_id, epoch) && one.phase == Phase::Complete { commit: true };
        self.by_id.lock().values().any(did)
    }

    /// A producer id that nobody had before; on the disk before it is used.
    pub async fn new_producer(&self) -> Result<i64, ResponseError> {
        let mut next = self.next.lock().await;
        if next.0 == next.1 {
            let until = next.1 + BLOCK;
            let written = self.journal.put(&[(NEXT_PRODUCER, Some(&until.to_be_bytes()))]).map_err(|e| self.unavailable(&e))?;
            if !self.journal.reach_at_once(written).await {
                return Err(ResponseError::CoordinatorNotAvailable);
            }
            next.1 = until;
        }
        next.0 += 1;
        Ok(next.0 - 1)
    }

    /// Whether so much may be remembered of a transactional id.
    pub(super) fn has_room(&self, id: &str, transaction: &Transaction) -> bool {
        self.journal.has_room(&[(&key(id), Some(&transaction.encode()))])
    }

    /// Writes what a transactional id has become; the caller holds the map.
    pub(super) fn write(&self, id: &str, transaction: &Transaction) -> Result<u64, ResponseError> {
        self.journal.put(&[(&key(id), Some(&transaction.encode()))]).map_err(|e| self.unavailable(&e))
    }

    /// Changes what is known about a transactional id: in the journal first.
    pub(super) fn change<T>(
        &self,
        id: &str,
        change: impl FnOnce(&mut Transaction) -> Result<T, ResponseError>,
    ) -> Result<(T, u64), ResponseError> {
        let mut by_id = self.by_id.lock();
        let transaction = by_id.get_mut(id).ok_or(ResponseError::InvalidProducerIdMapping)?;
        let mut changed = transaction.clone();
        let out = change(&mut changed)?;
        if changed.phase == Phase::Ongoing && !self.has_room(id, &changed) {
            return Err(ResponseError::PolicyViolation);
        }
        let written = if changed == *transaction { 0 } else { self.write(id, &changed)? };
        *transaction = changed;
        Ok((out, written))
    }

    /// Adds partitions to a transaction, and begins it.
    pub async fn add_partitions(&self, id: &str, who: Identity, partitions: &[(String, i32)]) -> Result<(), ResponseError> {
        self.add(id, who, |transaction| transaction.partitions.extend(partitions.iter().cloned())).await
    }

    /// Adds a group, whose offsets the transaction will carry, and begins it.
    pub async fn add_group(&self, id: &str, who: Identity, group: &str) -> Result<(), ResponseError> {
        self.add(id, who, |transaction| transaction.groups.extend([group.to_owned()])).await
    }

    async fn add(&self, id: &str, who: Identity, add: impl FnOnce(&mut Transaction)) -> Result<(), ResponseError> {
        let (after, _) = self.change(id, |transaction| {
            transaction.owned_by(who.producer_id, who.epoch)?;
            if matches!(transaction.phase, Phase::Prepare { .. }) {
                return Err(ResponseError::ConcurrentTransactions);
            }
            if transaction.phase != Phase::Ongoing {
                let now = now();
                transaction.after = if transaction.phase == (Phase::Complete { commit: true }) { self.journal.end() } else { 0 };
                transaction.settle(Phase::Ongoing, now);
                transaction.started = now;
            }
            add(transaction);
            Ok(transaction.after)
        })?;
        if self.journal.reach_at_once(after).await { Ok(()) } else { Err(ResponseError::CoordinatorNotAvailable) }
    }

    /// Whether a producer may write to a partition within its transaction.
    pub fn may_write(&self, id: &str, who: Identity, topic: &str, index: i32) -> Result<(), ResponseError> {
        self.ongoing(id, who, |transaction| transaction.partitions.contains(&(topic.to_owned(), index)))
    }

    /// Whether a producer may commit a group's offsets within its transaction.
    pub fn may_commit_offsets(&self, id: &str, who: Identity, group: &str) -> Result<(), ResponseError> {
        self.ongoing(id, who, |transaction| transaction.groups.contains(group))
    }

    fn ongoing(&self, id: &str, who: Identity, covers: impl FnOnce(&Transaction) -> bool) -> Result<(), ResponseError> {
        let by_id = self.by_id.lock();
        let transaction = by_id.get(id).ok_or(ResponseError::InvalidProducerIdMapping)?;
        transaction.owned_by(who.producer_id, who.epoch)?;
        let covered = transaction.phase == Phase::Ongoing && covers(transaction);
        if covered { Ok(()) } else { Err(ResponseError::InvalidTxnState) }
    }

    /// Ids whose transaction is decided but not finished, and those that have taken too long.
    pub(super) fn due(&self, now: i64) -> (Vec<String>, Vec<String>) {
        let by_id = self.by_id.lock();
        let select = |wanted: &dyn Fn(&Transaction) -> bool| {
            by_id.iter().filter(|(_, transaction)| wanted(transaction)).map(|(id, _)| id.clone()).collect()
        };
        let late = |one: &Transaction| one.phase == Phase::Ongoing && now - one.started > one.timeout_ms.into();
        (select(&|one| matches!(one.phase, Phase::Prepare { .. })), select(&late))
    }

    /// What a client is told whose transaction can't be written down; it tries again at once, and that is said now and then.
    fn unavailable(&self, error: &millrace_log::AppendError) -> ResponseError {
        let mut said = self.said.lock();
        if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            *said = Some(Instant::now());
            tracing::warn!("the coordinator cannot write its journal: {error}");
        }
        ResponseError::CoordinatorNotAvailable
    }

    /// Forgets ids that nobody used for a week.
    pub(super) fn expire(&self, now: i64) {
        let mut by_id = self.by_id.lock();
        let old = |one: &Transaction| one.is_over() && now - one.changed > EXPIRE_MS;
        let ids: Vec<String> = by_id.iter().filter(|(_, one)| old(one)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            if self.journal.put(&[(&key(&id), None)]).is_ok() {
                by_id.remove(&id);
            }
        }
    }
}

fn key(id: &str) -> Vec<u8> {
    [b"t", id.as_bytes()].concat()
}
