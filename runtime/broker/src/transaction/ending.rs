//! How a transaction begins under an id, ends, and gets its markers: the steps that need topics and groups.

use std::collections::BTreeSet;
use std::time::Instant;

use kafka_protocol::ResponseError;

use crate::broker::Broker;
use crate::clock::now;
use crate::transaction::state::{Identity, LONGEST_MS, MOST, Phase, Transaction};
use crate::transaction::stuck::Say;

impl Broker {
    /// Gives a transactional id a producer that is the only one from now on: an earlier one is fenced, what it left open is aborted.
    ///
    /// `had` is what the caller says it was: then it must be the owner.
    pub(crate) async fn init_producer(&self, id: &str, timeout_ms: i32, had: Option<Identity>) -> Result<Identity, ResponseError> {
        if id.is_empty() {
            return Err(ResponseError::InvalidRequest);
        }
        if !(1..=LONGEST_MS).contains(&timeout_ms) {
            return Err(ResponseError::InvalidTransactionTimeout);
        }
        let transactions = &self.transactions;
        if let Some(known) = transactions.get(id) {
            if let Some(had) = had {
                let again = had.producer_id == known.producer_id && had.epoch == known.last_epoch;
                if again && known.is_over() {
                    return Ok(Identity { producer_id: known.producer_id, epoch: known.epoch });
                }
                known.owned_by(had.producer_id, had.epoch).map_err(|_| ResponseError::ProducerFenced)?;
            }
            match known.phase {
                Phase::Prepare { .. } => return Err(ResponseError::ConcurrentTransactions),
                Phase::Ongoing => self.fence(id, known.epoch).await?,
                Phase::Empty | Phase::Complete { .. } => {}
            }
        }
        // An id that nobody knows gets a fresh identity, whatever the caller was before: it must be able to go on after its broker's data were lost.
        let spent = transactions.get(id).is_none_or(|known| known.epoch >= i16::MAX - 1);
        let fresh = if spent { Some(transactions.new_producer().await?) } else { None };
        let (identity, written) = {
            let mut by_id = transactions.by_id.lock();
            let before = by_id.get(id);
            if before.is_some_and(|before| !before.is_over()) {
                return Err(ResponseError::ConcurrentTransactions); // another producer was faster
            }
            if before.is_none() && by_id.len() >= MOST {
                return Err(ResponseError::CoordinatorNotAvailable);
            }
            let (producer_id, epoch, last_epoch) = match (fresh, before) {
                (Some(producer_id), _) => (producer_id, 0, -1),
                (None, Some(before)) => (before.producer_id, before.epoch + 1, before.epoch),
                (None, None) => return Err(ResponseError::ConcurrentTransactions), // it expired just now
            };
            let transaction = Transaction {
                producer_id,
                epoch,
                last_epoch,
                timeout_ms,
                phase: Phase::Empty,
                partitions: BTreeSet::new(),
                groups: BTreeSet::new(),
                started: -1,
                changed: now(),
                after: 0,
            };
            if !transactions.has_room(id, &transaction) {
                return Err(ResponseError::PolicyViolation);
            }
            let written = transactions.write(id, &transaction)?;
            by_id.insert(id.to_owned(), transaction);
            (Identity { producer_id, epoch }, written)
        };
        // A fence that a power cut could take back would be none.
        if transactions.journal.reach_at_once(written).await { Ok(identity) } else { Err(ResponseError::CoordinatorNotAvailable) }
    }

    /// Ends a producer's transaction as it asks.
    pub(crate) async fn end_transaction(&self, id: &str, who: Identity, commit: bool) -> Result<(), ResponseError> {
        let transactions = &self.transactions;
        let known = transactions.get(id).ok_or(ResponseError::InvalidProducerIdMapping)?;
        known.owned_by(who.producer_id, who.epoch)?;
        match known.phase {
            Phase::Ongoing => {}
            Phase::Complete { commit: was } if was == commit => return Ok(()), // asked again
            Phase::Prepare { commit: was } if was == commit => return Err(ResponseError::ConcurrentTransactions),
            _ => return Err(ResponseError::InvalidTxnState),
        }
        if commit {
            self.sync_written(&known).await?;
        }
        let ((), written) = transactions.change(id, |transaction| {
            transaction.owned_by(who.producer_id, who.epoch)?;
            if transaction.phase != Phase::Ongoing {
                return Err(ResponseError::ConcurrentTransactions);
            }
            transaction.phase = Phase::Prepare { commit };
            Ok(())
        })?;
        if commit && !transactions.journal.reach_at_once(written).await {
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        // It is decided: a failure from here on is made good by the next try, not told to the client.
        if let Err(e) = self.finish(id).await {
            tracing::warn!(id, "a transaction is decided, and not all its markers are written yet: {}", self.why(e));
        }
        Ok(())
    }

    /// Waits until all that a transaction has written, records, offsets of groups and markers, is on the disk.
    async fn sync_written(&self, transaction: &Transaction) -> Result<(), ResponseError> {
        let partitions = transaction.partitions.iter().map(|(topic, index)| self.topics.partition(topic, *index));
        // A topic may have been deleted meanwhile: then there is nothing to commit in it.
        let partitions: Vec<_> = partitions.filter_map(Result::ok).map(|partition| (partition.end(), partition)).collect();
        partitions.iter().for_each(|(_, partition)| partition.want_sync_at_once());
        if !transaction.groups.is_empty() {
            self.groups.synced().await?;
        }
        for (end, partition) in partitions {
            partition.reach(end).await;
        }
        if self.is_stopping() { Err(ResponseError::CoordinatorNotAvailable) } else { Ok(()) }
    }

    /// Aborts an ongoing transaction whose producer's time is over, and fences that producer.
    async fn fence(&self, id: &str, epoch: i16) -> Result<(), ResponseError> {
        let fenced = self.transactions.change(id, |transaction| {
            if transaction.phase != Phase::Ongoing || transaction.epoch != epoch {
                return Err(ResponseError::ConcurrentTransactions);
            }
            transaction.phase = Phase::Prepare { commit: false };
            transaction.epoch = transaction.epoch.saturating_add(1);
            transaction.last_epoch = -1;
            Ok(())
        });
        fenced?;
        self.finish(id).await
    }

    /// Writes the markers of a decided transaction, and lets its offsets count or not. Safe to be called again after a failure.
    async fn finish(&self, id: &str) -> Result<(), ResponseError> {
        let _turn = self.transactions.turn(id).lock().await;
        let Some(known) = self.transactions.get(id) else { return Ok(()) };
        let Phase::Prepare { commit } = known.phase else { return Ok(()) };
        for (topic, index) in &known.partitions {
            match self.topics.partition(topic, *index) {
                Ok(partition) if partition.is_open(known.producer_id) => {
                    partition.mark(known.producer_id, known.epoch, commit, now())?;
                }
                Ok(_) | Err(ResponseError::UnknownTopicOrPartition) => {}
                Err(e) => return Err(e),
            }
        }
        if !known.groups.is_empty() {
            self.groups.end_transaction(known.producer_id, commit)?;
        }
        if commit {
            self.sync_written(&known).await?;
        }
        let completed = self.transactions.change(id, |transaction| {
            if transaction.phase == known.phase && transaction.epoch == known.epoch {
                transaction.settle(Phase::Complete { commit }, now());
            }
            Ok(())
        });
        completed.map(drop)
    }

    /// What a crash left: offsets that wait for no decided transaction are dropped. The decided ones are finished by the first
    /// [`Broker::tend_transactions`].
    pub(crate) fn recover_transactions(&self) {
        for producer_id in self.groups.pending_producers() {
            if !self.transactions.is_committing(producer_id)
                && let Err(e) = self.groups.end_transaction(producer_id, false)
            {
                tracing::warn!(producer_id, "cannot drop the offsets of an aborted transaction: {e:?}");
            }
        }
    }

    /// Aborts what has timed out, finishes what a failure left half done.
    pub(crate) async fn tend_transactions(&self) {
        let now = now();
        let (decided, late) = self.transactions.due(now);
        let mut stuck = Vec::new();
        for id in decided {
            if let Err(e) = self.finish(&id).await {
                stuck.push((id, e));
            }
        }
        for id in late {
            let Some(epoch) = self.transactions.get(&id).map(|one| one.epoch) else { continue };
            let fenced = self.fence(&id, epoch).await;
            // Once: from then on it is decided, and waits for its markers.
            if self.transactions.get(&id).is_none_or(|one| one.phase != Phase::Ongoing) {
                tracing::warn!(id, "a transaction has timed out and is aborted");
            }
            stuck.extend(fenced.err().map(|e| (id, e)));
        }
        self.tell_stuck(&stuck);
        self.transactions.expire(now);
    }

    /// Says once that transactions can't be ended, and why; then now and then how many they are; and when it is over.
    fn tell_stuck(&self, stuck: &[(String, ResponseError)]) {
        let say = self.stuck.lock().now(!stuck.is_empty(), Instant::now());
        match (say, stuck) {
            (Some(Say::Waits(since)), [(id, e), ..]) => {
                let (transactions, seconds) = (stuck.len(), since.as_secs());
                tracing::warn!(id, transactions, seconds, "a decided transaction has not got all its markers yet: {}", self.why(*e));
            }
            (Some(Say::Over(since)), _) => tracing::info!(seconds = since.as_secs(), "all decided transactions have got their markers"),
            _ => {}
        }
    }

    /// What stands in the way of a transaction's end, for a person.
    fn why(&self, error: ResponseError) -> String {
        let is_of_disk = matches!(error, ResponseError::KafkaStorageError | ResponseError::CoordinatorNotAvailable);
        match self.store.space() {
            Ok(space) if is_of_disk && self.store.low_on_space() => {
                format!("the disk is full, {} bytes are free; make room there, and it goes on by itself", space.free)
            }
            _ => format!("{error:?}"),
        }
    }
}
