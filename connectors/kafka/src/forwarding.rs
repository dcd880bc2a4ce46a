//! Batches forwarded whole, still compressed, where nothing in their records has to change.
//!
//! ```text
//! Fetcher (home) ─▶ a batch as it is: to the Sender (target)     its positions with it, in the same transaction
//!                 └▶ with holes, from its middle on, with a broker's times: packed again      └▶ refused: record by record for a while
//! ```
//!
//! One instance of the sink carries everything whole, or everything record by record: there is one producer at the target at a time, under the one
//! transactional id. What the target refuses of a batch, and what this way cannot do, goes record by record from the last position on, where it is
//! found which record is to blame; after [`AGAIN`] the next flush goes back to whole batches.

use crate::sink::{Instance, PATIENCE, PATIENCE_AT_END, Replication, TRANSACTION};
use crate::target::failure;
use crate::whole::Whole;
use millrace_contract::{Failure, Offset, Partition, Taken};
use millrace_kafka::wire::batches::{Header, records};
use millrace_kafka::wire::{Fetched, understands};
use millrace_kafka::{Class, KafkaError, TopicPartition};
use std::time::{Duration, Instant};

/// How long records go one by one after a batch was refused, or could not be carried.
const AGAIN: Duration = Duration::from_secs(600);
/// Bytes that may be on their way to the target while more is read.
const ROOM: usize = 16 << 20;
/// How long answers of the target are waited for while nothing comes from home.
const NAP: Duration = Duration::from_millis(20);

impl Replication {
    /// Why records go one by one; `None`: their batches are forwarded whole.
    pub fn by_record(&self) -> Option<String> {
        let carrying = &self.carrying;
        let packs = ["compression.type", "compression.codec"].iter().find_map(|name| Some((name, self.target.properties.get(*name)?)));
        let why = match packs {
            _ if carrying.provenance => "each gets the header `millrace.origin`".to_owned(),
            _ if self.names.target.is_some() => "those that came from `target` are told by their header".to_owned(),
            _ if !self.guard.rules.is_empty() => "`fields` looks into them".to_owned(),
            _ if !self.names.stay_home.is_empty() => "dead letters of what stays at home are told by their header".to_owned(),
            _ if self.guard.target.is_some() => "values get the schema ids of the target's registry".to_owned(),
            _ if !carrying.windows.is_empty() => "`windows` looks into them".to_owned(),
            _ if carrying.limits.is_limited() => "`bandwidth` counts their bytes before compression".to_owned(),
            Some((name, value)) => format!("`{name}: {value}` packs them anew"),
            None => match understands(&self.home).and_then(|()| understands(&self.target)) {
                Ok(()) => return None,
                Err(error) => error.text,
            },
        };
        Some(why)
    }

    /// Whether batches are to be forwarded whole at the moment.
    pub(crate) fn is_whole(&self) -> bool {
        self.by_record().is_none() && self.by_record_until.lock().is_none_or(|until| Instant::now() >= until)
    }

    /// Lets records go one by one for a while.
    fn go_by_record(&self) {
        *self.by_record_until.lock() = Some(Instant::now() + AGAIN);
    }
}

fn at_home(part: &Partition) -> TopicPartition {
    TopicPartition::new(part.topic.clone(), part.partition)
}

impl Instance {
    /// Begins to forward batches whole, if they may be; `false`: records go one by one.
    pub(crate) fn open_whole(&mut self) -> Result<bool, Failure> {
        if self.whole.is_some() || !self.replication.is_whole() {
            return Ok(self.whole.is_some());
        }
        let (replication, id) = (&self.replication, self.replication.transactional_id());
        let transactional = replication.carrying.exactly_once.then_some((id.as_str(), TRANSACTION));
        match Whole::open(&replication.home, &replication.target, transactional, PATIENCE) {
            Ok(whole) => {
                tracing::info!(sink = self.replication.carrying.name, "batches are forwarded whole, as they are compressed");
                self.whole = Some(whole);
                let places: Vec<_> = self.parts.iter().filter(|part| part.is_held).map(|part| (part.name.clone(), part.reads)).collect();
                self.read_whole(&places);
                Ok(true)
            }
            // What nobody can be reached for, librdkafka does not reach either.
            Err(error) if error.class == Class::Retry && !error.is_unsupported() => Err(failure("cannot reach both clusters", &error)),
            Err(error) if error.class == Class::Fenced => Err(self.fenced("cannot begin at the target", &error)),
            Err(error) => {
                // librdkafka may come further (another TLS library), and says what is wrong where it does not.
                tracing::warn!(
                    sink = self.replication.carrying.name,
                    "copies record by record, for batches cannot be forwarded whole: {error}"
                );
                self.replication.go_by_record();
                Ok(false)
            }
        }
    }

    /// Goes over to whole batches after a flush, where records went one by one for a while.
    pub(crate) fn go_whole(&mut self) -> Result<(), Failure> {
        if self.whole.is_some() || self.producer.is_none() || !self.replication.is_whole() {
            return Ok(());
        }
        if self.open_whole()? {
            // Nothing of it is open; its transactional id is the new one's.
            self.producer = None;
        } else if self.replication.carrying.exactly_once {
            return Err(Failure::RetryAfter(Duration::from_millis(100), "batches cannot be forwarded whole after all".into()));
        }
        Ok(())
    }

    /// Reads partitions from these offsets on, where they are forwarded whole.
    pub(crate) fn read_whole(&mut self, at: &[(Partition, Offset)]) {
        let Some(whole) = &mut self.whole else { return };
        for (name, offset) in at {
            let Some(index) = self.index.get(name).copied() else { continue };
            let part = &self.parts[index];
            whole.index.insert(part.at_target.clone(), index);
            whole.fetcher.begin(&at_home(name), *offset, part.is_first);
        }
    }

    pub(crate) fn end_whole(&mut self, parts: &[Partition]) {
        if let Some(whole) = &mut self.whole {
            parts.iter().for_each(|part| whole.fetcher.end(&at_home(part)));
        }
    }

    /// Takes what has come from home, and sends it on.
    pub(crate) fn forward(&mut self, wait: Duration) -> Result<Vec<Taken>, Failure> {
        let Some(whole) = &mut self.whole else { return Ok(Vec::new()) };
        let mut fetched = Vec::new();
        if whole.sender.bytes() < ROOM {
            let wait = if whole.sender.bytes() == 0 { wait } else { Duration::ZERO };
            fetched = match whole.fetcher.poll(wait) {
                Ok(fetched) => fetched,
                Err(error) => return Err(self.unread(&error)),
            };
        }
        // What goes first is handed over first.
        fetched.sort_by_key(|one| !self.replication.carrying.limits.is_first(&one.part.topic));
        let wait = if fetched.iter().any(|one| !one.batches.is_empty()) { Duration::ZERO } else { NAP.min(wait) };
        let taken = fetched.into_iter().map(|one| self.take_whole(one)).collect::<Result<Vec<_>, _>>()?;
        if let Some(Err(error)) = self.whole.as_mut().map(|whole| whole.sender.pump(wait)) {
            return Err(self.unsent("cannot send batches to the target", &error));
        }
        Ok(taken)
    }

    /// Hands the batches of a partition to the sender.
    fn take_whole(&mut self, fetched: Fetched) -> Result<Taken, Failure> {
        let name = Partition { topic: fetched.part.topic, partition: fetched.part.partition };
        let mut taken = Taken { partition: name, records: 0, bytes: 0, next: fetched.next, end: fetched.end, newest_ms: 0 };
        let (Some(index), Some(whole)) = (self.index.get(&taken.partition).copied(), &mut self.whole) else { return Ok(taken) };
        let part = &mut self.parts[index];
        for batch in fetched.batches {
            let Some(head) = Header::read(&batch) else { continue };
            let last = head.last_offset();
            let is_cut = head.base_offset < fetched.from;
            let sent = if head.is_dense() && head.is_plain() && !is_cut {
                Some(batch)
            } else {
                match records::dense(&head, &batch, fetched.from) {
                    Ok(packed) => packed.map(Into::into),
                    Err(_) => {
                        self.replication.go_by_record();
                        let why = format!("the batch at offset {} of {} cannot be packed again", head.base_offset, part.name.topic);
                        return Err(Failure::RetryAfter(Duration::from_millis(100), format!("{why}; its records go one by one")));
                    }
                }
            };
            let Some((head, sent)) = sent.and_then(|sent| Some((Header::read(&sent)?, sent))) else { continue };
            taken.records += head.records as u64;
            taken.bytes += sent.len() as u64;
            taken.newest_ms = head.newest_time;
            if part.stays {
                self.filtered += head.records as u64;
            } else {
                whole.sender.push(&part.at_target, sent, last).map_err(|e| failure("cannot forward what the factory's Kafka sent", &e))?;
            }
        }
        part.reads = fetched.next;
        if fetched.next > fetched.from {
            part.next = Some(fetched.next);
        }
        Ok(taken)
    }

    /// What follows where batches cannot be read.
    fn unread(&self, error: &KafkaError) -> Failure {
        match error {
            // The next instance asks what is still there, and counts what is not.
            error if error.is_out_of_range() => {
                Failure::RetryAfter(Duration::from_millis(100), format!("what was to be read next is not in Kafka any more: {error}"))
            }
            error if error.is_unsupported() => {
                self.replication.go_by_record();
                Failure::RetryAfter(
                    Duration::from_millis(100),
                    format!("batches cannot be forwarded whole ({error}); records go one by one"),
                )
            }
            error => failure("cannot read from the factory's Kafka", error),
        }
    }

    /// What follows where batches, positions or the end of a transaction were not taken. The instance is dropped; what it has open is taken back.
    pub(crate) fn unsent(&mut self, what: &str, error: &KafkaError) -> Failure {
        let outcome = match error.class {
            Class::Fenced => return self.fenced(what, error),
            Class::Record(_) => {
                self.replication.go_by_record();
                let what = format!("the target refused a batch ({error}); its records go one by one, to find the one to blame");
                Failure::RetryAfter(Duration::from_millis(100), what)
            }
            _ if error.is_unsupported() => {
                self.replication.go_by_record();
                Failure::RetryAfter(
                    Duration::from_millis(100),
                    format!("batches cannot be forwarded whole ({error}); records go one by one"),
                )
            }
            _ => failure(what, error),
        };
        if let Some(whole) = self.whole.take() {
            let _ = whole.sender.abort(PATIENCE_AT_END);
        }
        outcome
    }
}
