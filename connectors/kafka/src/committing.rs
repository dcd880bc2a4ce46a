//! The end of a flush: what was sent is acknowledged, positions go with it, and what the target refused is judged.

use crate::deliveries::{Failed, OWN};
use crate::groups::{Means, Task};
use crate::names::POSITIONS;
use crate::pairs::{self, Pair};
use crate::positions::{self, Held};
use crate::sink::{Instance, PATIENCE, PATIENCE_AT_END, Part, now_ms};
use crate::target::failure;
use millrace_contract::{Failure, Offset, Partition};
use millrace_kafka::wire::batches::records::Builder;
use millrace_kafka::{Class, Connection, KafkaError, Outgoing, SendError, TopicPartition, TransactionError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Instance {
    pub(crate) fn transaction_failure(&self, what: &str, error: &TransactionError) -> Failure {
        match (error, self.outcomes.trouble()) {
            (TransactionError::Fenced(error), _) => self.fenced(what, error),
            (_, Some(Connection::Denied(why))) => Failure::Blocked(format!("{what}: {why}")),
            (_, Some(Connection::Down(why))) => Failure::Reconnect(format!("{what}: {why}")),
            (error, _) => failure(what, error.error()),
        }
    }

    /// Another runtime has our transactional id.
    pub(crate) fn fenced(&self, what: &str, error: &KafkaError) -> Failure {
        if self.replication.runtime.is_some() {
            return Failure::Reconnect(format!("{what}: another runtime has taken over what this one copied: {error}"));
        }
        Failure::Blocked(format!(
            "{what}: {error}; another runtime copies with the transactional id {}: stop one of them",
            self.replication.transactional_id()
        ))
    }

    /// The transaction can only be aborted; the reports of what is in it say why.
    pub(crate) fn doomed(&mut self, error: &KafkaError) -> Failure {
        if let Some(producer) = &self.producer {
            let _ = producer.abort(PATIENCE_AT_END);
        }
        let failed = self.outcomes.take_failed();
        self.judge(failed).err().unwrap_or_else(|| failure("the transaction at the target failed", error))
    }

    pub(crate) fn away(&self, what: &str) -> Failure {
        match self.outcomes.trouble() {
            Some(Connection::Denied(why)) => Failure::Blocked(format!("the target refuses us: {why}")),
            Some(Connection::Down(why)) => Failure::Reconnect(format!("the target is away: {why}")),
            _ => Failure::Reconnect(format!("the target {what} for {} s", PATIENCE.as_secs())),
        }
    }

    /// Waits until the target has acknowledged everything. Errors: it refused some of it, or took too long.
    fn settled(&mut self, patience: Duration) -> Result<(), Failure> {
        if let Some(whole) = &mut self.whole {
            let settled = whole.sender.settle(patience);
            return settled.map_err(|e| self.unsent("cannot send batches to the target", &e));
        }
        self.settle(patience)?;
        let failed = self.outcomes.take_failed();
        self.judge(failed)
    }

    /// Waits until the target has acknowledged or refused everything.
    fn settle(&self, patience: Duration) -> Result<(), Failure> {
        let Some(producer) = &self.producer else { return Ok(()) };
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match producer.flush(left.min(Duration::from_secs(1))) {
                Ok(()) => return Ok(()),
                Err(error) if error.class == Class::Fatal => return Err(failure("cannot send to the target", &error)),
                Err(_) if left.is_zero() => return Err(self.away("acknowledged nothing")),
                Err(_) => {}
            }
        }
    }

    pub(crate) fn write_positions(&mut self, moved: &[(Partition, Offset)]) -> Result<(), Failure> {
        let replication = self.replication.clone();
        let position = |(part, offset): &(Partition, Offset)| {
            let key = positions::key(&replication.names.origin, &replication.carrying.name, part);
            let value = positions::value(&Held {
                offset: *offset,
                topic_id: replication_id(&self.topic_ids, &part.topic),
                pairs: self.pairs_of(part),
                windows: self.index.get(part).and_then(|index| Some(self.parts[*index].windows.as_ref()?.closed())),
            });
            (key, Some(value))
        };
        let records: Vec<_> = moved.iter().map(position).collect();
        self.write_own(&records, now_ms())
    }

    /// Sends records of our own, keys and values, to [`POSITIONS`].
    pub(crate) fn write_own(&mut self, records: &[(Vec<u8>, Option<Vec<u8>>)], timestamp_ms: i64) -> Result<(), Failure> {
        if let Some(whole) = &mut self.whole {
            let mut batch = Builder::default();
            records.iter().for_each(|(key, value)| batch.push(timestamp_ms, Some(key), value.as_deref()));
            let batch = batch.finish(false).map_err(|e| Failure::Reconnect(format!("cannot write positions: {e}")))?;
            let sent = whole.sender.push(&TopicPartition::new(POSITIONS, 0), batch.into(), 0);
            return sent.map_err(|e| failure("cannot write positions", &e));
        }
        let topic = self.connect()?.topic(POSITIONS).map_err(|e| failure("cannot write positions", &e))?;
        let deadline = Instant::now() + PATIENCE;
        for (key, value) in records {
            let message = Outgoing { partition: Some(0), key: Some(key), value: value.as_deref(), timestamp_ms, opaque: OWN };
            loop {
                let Some(producer) = &self.producer else { return Ok(()) };
                match producer.send(&topic, &message, std::iter::empty()) {
                    Ok(()) => break,
                    Err(SendError::QueueFull) if Instant::now() < deadline => self.outcomes.wait(Duration::from_millis(20)),
                    Err(SendError::QueueFull) => return Err(self.away("takes no more records")),
                    Err(SendError::Doomed(error)) => return Err(self.doomed(&error)),
                    Err(SendError::Refused(error)) => return Err(failure("cannot write positions", &error)),
                }
            }
        }
        Ok(())
    }

    /// What follows from records that were not delivered. Record faults leave suspects, so that the next instance finds the one to blame.
    pub(crate) fn judge(&mut self, failed: Vec<Failed>) -> Result<(), Failure> {
        let Some(first) = failed.first() else { return Ok(()) };
        let blamed: Vec<(Partition, Offset)> = failed
            .iter()
            .filter(|one| matches!(one.error.class, Class::Record(_)))
            .filter_map(|one| one.record.and_then(|(part, offset)| Some((self.parts.get(part)?.name.clone(), offset))))
            .collect();
        if blamed.is_empty() {
            let cause = failed.iter().find(|one| is_cause(&one.error)).unwrap_or(first);
            let name = cause.record.and_then(|(part, _)| self.parts.get(part)).map_or(POSITIONS, |part| &*part.name.topic);
            return Err(failure(&format!("cannot send records of topic {name} to the target"), &cause.error));
        }
        let words = failed.iter().find(|one| matches!(one.error.class, Class::Record(_))).unwrap_or(first).error.to_string();
        let mut suspects = self.replication.suspects.lock();
        if let [alone] = &blamed[..] {
            suspects.suspected.remove(alone);
            // It comes again, is refused before it is sent, and is in the dead letters before its position moves.
            suspects.refused.insert(alone.clone(), format!("the target refuses it: {words}"));
        } else {
            suspects.suspected.extend(blamed);
        }
        Err(Failure::RetryAfter(Duration::from_millis(100), format!("the target refused a record ({words}); looking for it")))
    }

    /// Commits, or waits for what was sent and writes positions. Everything that was written is durable then, or refused.
    /// What moved is told with the next flush.
    pub(crate) fn finish(&mut self, patience: Duration) -> Result<(), Failure> {
        // A pair is known after its records are committed, and goes with the next commit, or with one of its own.
        let position = |part: &Part| part.next.or(part.has_news.then_some(part.at));
        let moved: Vec<(Partition, Offset)> = self.parts.iter().filter_map(|part| Some((part.name.clone(), position(part)?))).collect();
        if moved.is_empty() {
            return Ok(());
        }
        if self.replication.carrying.exactly_once {
            self.begin()?;
            self.write_positions(&moved)?;
            self.commit(patience)?;
        } else {
            self.settled(patience)?;
            self.write_positions(&moved)?;
            self.settled(patience)?;
        }
        for part in &mut self.parts {
            part.at = part.next.take().unwrap_or(part.at);
            part.has_news = false;
        }
        self.note_pairs();
        self.moved.extend(moved);
        Ok(())
    }

    /// Takes over where the records that are committed lie at the target.
    pub(crate) fn note_pairs(&mut self) {
        let mut delivered = match &mut self.whole {
            Some(whole) => whole.take_delivered(),
            None => self.outcomes.take_delivered(),
        };
        if self.replication.carrying.groups.is_none() {
            delivered.clear();
        }
        if delivered.is_empty() {
            return;
        }
        let mut shared = self.pairs.lock();
        for (index, pair) in delivered {
            // A window of time is at no offset of its own.
            let Some(part) = self.parts.get_mut(index).filter(|part| part.windows.is_none()) else { continue };
            pairs::add(&mut part.pairs, pair);
            part.has_news = true;
            shared.insert(part.name.clone(), part.pairs.clone());
        }
    }

    pub(crate) fn pairs_of(&self, part: &Partition) -> Vec<Pair> {
        self.index.get(part).map(|index| self.parts[*index].pairs.clone()).unwrap_or_default()
    }

    /// Begins to translate offsets of groups, from what is known of before.
    pub(crate) fn translate(&mut self) {
        let Some(copying) = self.replication.carrying.groups.clone().filter(|_| self.task.is_none()) else { return };
        let known = self.parts.iter().filter(|part| !part.pairs.is_empty());
        *self.pairs.lock() = known.map(|part| (part.name.clone(), part.pairs.clone())).collect();
        let replication = &self.replication;
        self.task = Task::start(Means {
            sink: replication.carrying.name.clone(),
            names: replication.names.clone(),
            home: replication.home.clone(),
            target: replication.target.clone(),
            copying,
            pairs: self.pairs.clone(),
        });
    }

    pub(crate) fn commit(&mut self, patience: Duration) -> Result<(), Failure> {
        if let Some(whole) = &mut self.whole {
            let committed = whole.sender.commit(patience);
            return committed.map_err(|e| self.unsent("cannot commit at the target", &e));
        }
        let Some(producer) = &self.producer else { return Ok(()) };
        let deadline = Instant::now() + patience;
        loop {
            match producer.commit(Duration::from_secs(1).min(patience)) {
                Ok(()) => break,
                Err(TransactionError::Retriable(_)) if Instant::now() < deadline => {}
                Err(TransactionError::Retriable(_)) => return Err(self.away("did not commit")),
                Err(error) => {
                    let outcome = self.transaction_failure("cannot commit at the target", &error);
                    if matches!(error, TransactionError::Abortable(_)) {
                        // What the broker said of single records comes with the abort.
                        let _ = producer.abort(PATIENCE_AT_END);
                    }
                    let failed = self.outcomes.take_failed();
                    self.judge(failed)?;
                    return Err(outcome);
                }
            }
        }
        self.in_transaction = false;
        let failed = self.outcomes.take_failed();
        self.judge(failed)
    }
}

/// Whether an error is a cause, rather than what follows for the other records of an aborted transaction or a purge.
fn is_cause(error: &KafkaError) -> bool {
    !error.name().contains("PURGE")
}

/// The id under which a position is kept; `None`: the cluster at home has none.
fn replication_id(ids: &HashMap<Arc<str>, String>, topic: &str) -> Option<String> {
    ids.get(topic).filter(|id| !id.is_empty()).cloned()
}
