//! The session: records in, a producer of the target, positions with them.
//!
//! ```text
//! assign   topics at the target; (exactly_once: init_transactions fences whoever was before) read positions; hold them against the origin
//! write    each record -> producer, in the partition it comes from
//! flush    at_least_once: wait for every acknowledgement, then write positions
//!          exactly_once:  positions into the transaction, commit
//! ```
//!
//! A record that the target refuses is found by sending again: a refusal hits a whole batch, so every record of it is a suspect. A suspect goes
//! alone, in a transaction of its own; what is refused alone is refused. Suspects outlive the instance, which is dropped after a failure.

use crate::deliveries::{Failed, MAX_PARTS, OWN, Outcomes, opaque};
use crate::groups::{Copying, Means, Shared, Task};
use crate::leaving::{Guard, Leaver, Leaving, Outcome};
use crate::names::{Names, ORIGIN, POSITIONS};
use crate::pairs::{self, Pair};
use crate::positions::{self, Held};
use crate::target::{self, Making, failure};
use crate::throttle::{Limits, Throttle};
use async_trait::async_trait;
use millrace_contract::{Failure, Flush, Flushed, Input, Offset, Partition, Record, Records, Refused, Sink, Upstream};
use millrace_kafka::{
    Class, Connection, Consumer, KafkaError, Outgoing, Producer, SendError, Settings, Topic, TopicPartition, TransactionError,
};
use millrace_schemas::headers;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the target may take for what was sent, before the session starts over.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a flush before an end may take.
const PATIENCE_AT_END: Duration = Duration::from_secs(8);
/// The header of a dead letter that names the topic where it belongs; Kafka Connect has the same.
const DEAD: &str = "__connect.errors.topic";
/// Longer than any flush: the broker must not end what is still being written.
const TRANSACTION: Duration = Duration::from_secs(120);

/// How records are carried.
#[derive(Debug)]
pub struct Carrying {
    /// `enterprise/site/sink`.
    pub name: String,
    pub exactly_once: bool,
    pub provenance: bool,
    pub restart_recreated: bool,
    pub limits: Limits,
    /// `None`: offsets of groups stay where they are.
    pub groups: Option<Copying>,
    pub commit_every: Duration,
}

/// A configuration that was checked, and what its instances hand on to each other.
#[derive(Debug)]
pub struct Replication {
    pub carrying: Carrying,
    pub names: Names,
    pub home: Settings,
    pub target: Settings,
    pub making: Making,
    pub suspects: Mutex<Suspects>,
    pub guard: Arc<Guard>,
}

impl Replication {
    pub fn transactional_id(&self) -> String {
        format!("millrace-replication-{}-{}", self.names.origin, self.carrying.name.replace('/', "-"))
    }

    /// Whether a record with this header stays at home: it came from the target, or is a dead letter of a topic that does not leave as it is.
    pub fn stays(&self, header: &str, value: Option<&[u8]>) -> bool {
        let Some(value) = value else { return false };
        match header {
            ORIGIN => self.names.came_from_target(value),
            DEAD => std::str::from_utf8(value).is_ok_and(|topic| self.names.stays_by_word(topic) || self.guard.rules(topic).is_some()),
            _ => false,
        }
    }
}

/// Records of batches that the target refused.
#[derive(Debug, Default)]
pub struct Suspects {
    suspected: HashSet<(Partition, Offset)>,
    /// Refused alone, with the target's words.
    refused: HashMap<(Partition, Offset), String>,
}

/// What is known of a partition at home.
struct Part {
    name: Partition,
    /// `None`: it stays at home.
    topic: Option<Topic>,
    /// Its records may leave other than as they are.
    is_changed: bool,
    /// They go before others.
    is_first: bool,
    /// The next offset, once something was written since the last flush.
    next: Option<Offset>,
    /// The position at the target.
    at: Offset,
    /// Where records lie there; the newest first.
    pairs: Vec<Pair>,
    /// The last of them is not written yet.
    has_news: bool,
}

/// One instance of the sink.
pub struct Instance {
    replication: Arc<Replication>,
    outcomes: Arc<Outcomes>,
    producer: Option<Producer>,
    parts: Vec<Part>,
    index: HashMap<Partition, usize>,
    throttle: Option<Throttle>,
    in_transaction: bool,
    filtered: u64,
    lost: u64,
    missed: u64,
    leaving: Leaving,
    /// What tells the topics at home from others of their names.
    topic_ids: HashMap<Arc<str>, String>,
    /// What translates offsets of groups, and what it works with.
    pairs: Shared,
    task: Option<Task>,
    /// Scratch for `millrace.origin`.
    origin: Vec<u8>,
}

impl Instance {
    pub fn new(replication: Arc<Replication>) -> Self {
        let limits = &replication.carrying.limits;
        let throttle = limits.is_limited().then(|| Throttle::new(limits.clone(), Instant::now(), time_of_day()));
        let has_groups = replication.carrying.groups.is_some();
        Self {
            leaving: Leaving::new(replication.guard.clone()),
            replication,
            outcomes: Arc::new(Outcomes::new(has_groups)),
            pairs: Shared::default(),
            task: None,
            producer: None,
            parts: Vec::new(),
            index: HashMap::new(),
            throttle,
            in_transaction: false,
            filtered: 0,
            lost: 0,
            missed: 0,
            topic_ids: HashMap::new(),
            origin: Vec::new(),
        }
    }

    // ---- the target -----------------------------------------------------------------------------------------------------------

    /// The producer; with transactions, whoever had the id before is fenced by it.
    fn connect(&mut self) -> Result<&Producer, Failure> {
        if self.producer.is_none() {
            let replication = &self.replication;
            let producer = if replication.carrying.exactly_once {
                let id = replication.transactional_id();
                let producer = Producer::transactional(&replication.target, &id, TRANSACTION, self.outcomes.clone());
                let producer = producer.map_err(|e| failure("cannot make a producer for the target", &e))?;
                producer.init_transactions(PATIENCE).map_err(|e| self.transaction_failure("cannot begin at the target", &e))?;
                producer
            } else {
                Producer::new(&replication.target, self.outcomes.clone())
                    .map_err(|e| failure("cannot make a producer for the target", &e))?
            };
            self.producer = Some(producer);
        }
        self.producer.as_ref().ok_or(Failure::Stopped)
    }

    fn transaction_failure(&self, what: &str, error: &TransactionError) -> Failure {
        match (error, self.outcomes.trouble()) {
            (TransactionError::Fenced(error), _) => Failure::Blocked(format!(
                "{what}: {error}; another runtime copies with the transactional id {}: stop one of them",
                self.replication.transactional_id()
            )),
            (_, Some(Connection::Denied(why))) => Failure::Blocked(format!("{what}: {why}")),
            (_, Some(Connection::Down(why))) => Failure::Reconnect(format!("{what}: {why}")),
            (error, _) => failure(what, error.error()),
        }
    }

    /// Takes partitions into the table; those that are there already keep their place.
    fn add(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        for part in parts.iter().filter(|part| !self.index.contains_key(part)).cloned().collect::<Vec<_>>() {
            if self.parts.len() == MAX_PARTS {
                return Err(Failure::Reconnect(format!("{MAX_PARTS} partitions were copied by one instance; starting over")));
            }
            let topic = if self.replication.names.stays(&part.topic) {
                None
            } else {
                let name = self.replication.names.at_target(&part.topic);
                let topic = self.connect()?.topic(&name);
                Some(topic.map_err(|e| failure(&format!("cannot write to topic {name} of the target"), &e))?)
            };
            self.index.insert(part.clone(), self.parts.len());
            let is_changed = self.replication.guard.concerns(&part.topic);
            let is_first = self.replication.carrying.limits.is_first(&part.topic);
            self.parts.push(Part { name: part, topic, is_changed, is_first, next: None, at: 0, pairs: Vec::new(), has_news: false });
        }
        Ok(())
    }

    /// Holds the positions at the target against what the origin still has: what retention took is counted, a topic that was made anew is noticed.
    fn place(&mut self, parts: &[Partition], known: &HashMap<Partition, Held>) -> Result<Vec<Option<Offset>>, Failure> {
        let reader = Consumer::reader(&self.replication.home, true).map_err(|e| failure("cannot read from the factory's Kafka", &e))?;
        let mut placed = Vec::with_capacity(parts.len());
        for part in parts {
            let Some(Held { offset: held, topic_id, pairs }) = known.get(part).filter(|_| !self.replication.names.stays(&part.topic))
            else {
                placed.push(None);
                continue;
            };
            let at = TopicPartition::new(part.topic.clone(), part.partition);
            let (low, high) = reader.watermarks(&at, PATIENCE).map_err(|e| failure("cannot ask for the offsets of a partition", &e))?;
            let held = *held;
            let is_another = matches!((topic_id.as_deref(), self.topic_id(&part.topic)), (Some(then), Some(now)) if then != now);
            let next = if is_another || held > high {
                let what = match is_another {
                    true => format!(
                        "topic {} was made anew: what is copied, up to offset {held} of partition {}, was another topic's",
                        part.topic, part.partition
                    ),
                    false => format!(
                        "topic {} was made anew: offset {held} of partition {} is copied, and it ends at {high}",
                        part.topic, part.partition
                    ),
                };
                if !self.replication.carrying.restart_recreated {
                    return Err(Failure::Blocked(format!("{what}; set `on_recreated: restart` to copy it from its start")));
                }
                tracing::warn!(sink = self.replication.carrying.name, "a topic was made anew at home and is copied from its start: {what}");
                low
            } else if held < low {
                self.lost += (low - held) as u64;
                tracing::error!(
                    sink = self.replication.carrying.name,
                    topic = &*part.topic,
                    partition = part.partition,
                    from = held,
                    to = low - 1,
                    "records were deleted at home before they could be copied; keep them longer there, or copy faster"
                );
                low
            } else {
                held
            };
            if let Some(known) = self.index.get(part).map(|index| &mut self.parts[*index]) {
                known.at = next;
                // Of another topic they say nothing.
                known.pairs = if is_another || held > high { Vec::new() } else { pairs.clone() };
            }
            placed.push(Some(next));
        }
        Ok(placed)
    }

    /// What tells a topic at home from another of its name; `None`: the cluster has no such ids.
    fn topic_id(&self, topic: &str) -> Option<&str> {
        const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";
        self.topic_ids.get(topic).map(String::as_str).filter(|id| !id.is_empty() && *id != NONE)
    }

    // ---- records --------------------------------------------------------------------------------------------------------------

    fn begin(&mut self) -> Result<(), Failure> {
        if self.replication.carrying.exactly_once && !self.in_transaction {
            let producer = self.producer.as_ref().ok_or(Failure::Stopped)?;
            producer.begin().map_err(|e| self.transaction_failure("cannot begin a transaction at the target", &e))?;
            self.in_transaction = true;
        }
        Ok(())
    }

    /// Hands one record to the producer. `Some`: the target will never take it, and why.
    async fn carry(&mut self, records: &Records, record: &Record, part: usize) -> Result<Option<String>, Failure> {
        let Some(number) = opaque(part, record.offset) else {
            return Ok(Some(format!("offset {} is beyond what can be told apart", record.offset)));
        };
        if record.timestamp_ms == 0 {
            return Ok(Some("its timestamp is 0, which the Kafka client would replace by the time of now".into()));
        }
        // As it lies in Kafka, a registry's prefix included.
        let value = record.value.map(|value| {
            let prefix = u32::from(record.prefix);
            records.of(millrace_schemas::Span { start: value.start - prefix, len: value.len + prefix })
        });
        let (mut key, mut value, mut encoded) = (record.key.map(|key| records.of(key)), value, records.of(record.headers));
        let is_changed = self.parts[part].is_changed && {
            let leaver = Leaver { key, value, headers: encoded, timestamp_ms: record.timestamp_ms, is_prefixed: record.prefix > 0 };
            let topic = self.parts[part].name.topic.clone();
            match self.leaving.change(&topic, &self.replication.names.at_target(&topic), &leaver).await? {
                Outcome::AsItIs => false,
                Outcome::Changed(missed) => {
                    self.missed += missed;
                    true
                }
                Outcome::Stays(why) => return Ok(Some(format!("it stays at home: {why}"))),
            }
        };
        self.begin()?;
        if is_changed {
            let left = &self.leaving.left;
            (key, value, encoded) = (key.map(|_| &*left.key), value.map(|_| &*left.value), &left.headers);
        }
        if let Some(throttle) = &mut self.throttle {
            let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + encoded.len();
            let wait = throttle.take(bytes, Instant::now(), time_of_day);
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
        }
        let at_home = &self.parts[part].name;
        let provenance = self.replication.carrying.provenance && !headers(encoded).any(|(name, _)| name == ORIGIN);
        if provenance {
            self.origin.clear();
            let _ = write!(self.origin, "{}/{}/{}/{}", self.replication.names.origin, at_home.topic, at_home.partition, record.offset);
        }
        let (Some(producer), Some(topic)) = (&self.producer, &self.parts[part].topic) else { return Ok(None) };
        let message = Outgoing { partition: Some(at_home.partition), key, value, timestamp_ms: record.timestamp_ms, opaque: number };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let origin = provenance.then_some((ORIGIN, Some(&*self.origin)));
            match producer.send(topic, &message, headers(encoded).chain(origin)) {
                Ok(()) => return Ok(None),
                Err(SendError::QueueFull) if Instant::now() < deadline => self.outcomes.wait(Duration::from_millis(20)),
                Err(SendError::QueueFull) => return Err(self.away("takes no more records")),
                Err(SendError::Doomed(error)) => return Err(self.doomed(&error)),
                Err(SendError::Refused(error)) => match error.class {
                    Class::Record(_) => return Ok(Some(error.to_string())),
                    _ => return Err(failure(&format!("cannot send to topic {} of the target", topic.name()), &error)),
                },
            }
        }
    }

    /// The transaction can only be aborted; the reports of what is in it say why.
    fn doomed(&mut self, error: &KafkaError) -> Failure {
        if let Some(producer) = &self.producer {
            let _ = producer.abort(PATIENCE_AT_END);
        }
        let failed = self.outcomes.take_failed();
        self.judge(failed).err().unwrap_or_else(|| failure("the transaction at the target failed", error))
    }

    fn away(&self, what: &str) -> Failure {
        match self.outcomes.trouble() {
            Some(Connection::Denied(why)) => Failure::Blocked(format!("the target refuses us: {why}")),
            Some(Connection::Down(why)) => Failure::Reconnect(format!("the target is away: {why}")),
            _ => Failure::Reconnect(format!("the target {what} for {} s", PATIENCE.as_secs())),
        }
    }

    // ---- flush ----------------------------------------------------------------------------------------------------------------

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

    fn write_positions(&mut self, moved: &[(Partition, Offset)]) -> Result<(), Failure> {
        let producer = self.connect()?;
        let topic = producer.topic(POSITIONS).map_err(|e| failure("cannot write positions", &e))?;
        let replication = &self.replication;
        let Some(producer) = &self.producer else { return Ok(()) };
        for (part, offset) in moved {
            let key = positions::key(&replication.names.origin, &replication.carrying.name, part);
            let value = positions::value(&Held {
                offset: *offset,
                topic_id: replication_id(&self.topic_ids, &part.topic),
                pairs: self.pairs_of(part),
            });
            let message = Outgoing { partition: Some(0), key: Some(&key), value: Some(&value), timestamp_ms: now_ms(), opaque: OWN };
            let deadline = Instant::now() + PATIENCE;
            loop {
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
    fn judge(&mut self, failed: Vec<Failed>) -> Result<(), Failure> {
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
    fn finish(&mut self, patience: Duration) -> Result<Vec<(Partition, Offset)>, Failure> {
        // A pair is known after its records are committed, and goes with the next commit, or with one of its own.
        let position = |part: &Part| part.next.or(part.has_news.then_some(part.at));
        let moved: Vec<(Partition, Offset)> = self.parts.iter().filter_map(|part| Some((part.name.clone(), position(part)?))).collect();
        if moved.is_empty() {
            return Ok(moved);
        }
        if self.replication.carrying.exactly_once {
            self.begin()?;
            self.write_positions(&moved)?;
            self.commit(patience)?;
        } else {
            self.settle(patience)?;
            let failed = self.outcomes.take_failed();
            self.judge(failed)?;
            self.write_positions(&moved)?;
            self.settle(patience)?;
            let failed = self.outcomes.take_failed();
            self.judge(failed)?;
        }
        for part in &mut self.parts {
            part.at = part.next.take().unwrap_or(part.at);
            part.has_news = false;
        }
        self.note_pairs();
        Ok(moved)
    }

    /// Takes over where the records that are committed lie at the target.
    fn note_pairs(&mut self) {
        let delivered = self.outcomes.take_delivered();
        if delivered.is_empty() {
            return;
        }
        let mut shared = self.pairs.lock();
        for (index, pair) in delivered {
            let Some(part) = self.parts.get_mut(index) else { continue };
            pairs::add(&mut part.pairs, pair);
            part.has_news = true;
            shared.insert(part.name.clone(), part.pairs.clone());
        }
    }

    fn pairs_of(&self, part: &Partition) -> Vec<Pair> {
        self.index.get(part).map(|index| self.parts[*index].pairs.clone()).unwrap_or_default()
    }

    /// Begins to translate offsets of groups, from what is known of before.
    fn translate(&mut self) {
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

    fn commit(&mut self, patience: Duration) -> Result<(), Failure> {
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

/// By this machine's clock.
fn time_of_day() -> jiff::civil::Time {
    jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::system()).time()
}

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_millis() as i64)
}

#[async_trait]
impl Sink for Instance {
    fn input(&self) -> Input {
        Input::Raw
    }

    fn flush_every(&self) -> Duration {
        self.replication.carrying.commit_every
    }

    fn wants_upstream(&self) -> bool {
        true
    }

    fn upstream(&mut self, upstream: Upstream) {
        self.topic_ids.extend(upstream.topic_ids);
    }

    fn reads_ahead(&self) -> Option<u64> {
        self.replication.carrying.limits.ahead()
    }

    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure> {
        let replication = self.replication.clone();
        let topics: BTreeSet<&str> = parts.iter().map(|part| &*part.topic).filter(|topic| !replication.names.stays(topic)).collect();
        if topics.is_empty() {
            self.add(parts)?;
            return Ok(vec![None; parts.len()]);
        }
        target::prepare(&replication.home, &replication.target, &topics, &replication.names, &replication.making)?;
        // With transactions this ends what an instance before has open, so that the positions read next are final.
        self.connect()?;
        self.add(parts)?;
        let known = positions::read(&replication.target, &replication.names.origin, &replication.carrying.name);
        // It was made, or seen, a moment ago: not to know it is no reason to begin from the start.
        let known = known
            .map_err(|e| failure("cannot read positions at the target", &e))?
            .ok_or_else(|| Failure::Reconnect(format!("topic {POSITIONS} is not known at the target at the moment")))?;
        let placed = self.place(parts, &known)?;
        self.translate();
        Ok(placed)
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        self.add(&records.parts)?;
        let places: Vec<usize> = records.parts.iter().map(|part| self.index[part]).collect();
        let is_searching = {
            let suspects = self.replication.suspects.lock();
            !suspects.suspected.is_empty() || !suspects.refused.is_empty()
        };
        let mut refused = Vec::new();
        let is_first = |record: &&Record| self.parts[places[record.part as usize]].is_first;
        // In their order within each partition, which is of one topic.
        let (first, rest): (Vec<&Record>, Vec<&Record>) = records.records.iter().partition(is_first);
        for record in first.into_iter().chain(rest) {
            let part = places[record.part as usize];
            if self.parts[part].topic.is_none()
                || headers(records.of(record.headers)).any(|(name, value)| self.replication.stays(name, value))
            {
                self.filtered += 1;
                self.parts[part].next = Some(record.offset + 1);
                continue;
            }
            let mut no = |reason| refused.push(Refused { partition: records.partition(record).clone(), offset: record.offset, reason });
            let is_suspect = is_searching && {
                let mark = (records.partition(record).clone(), record.offset);
                let mut suspects = self.replication.suspects.lock();
                if let Some(reason) = suspects.refused.remove(&mark) {
                    no(reason);
                    self.parts[part].next = Some(record.offset + 1);
                    continue;
                }
                suspects.suspected.remove(&mark)
            };
            if is_suspect {
                self.finish(PATIENCE)?;
            }
            if let Some(reason) = self.carry(records, record, part).await? {
                no(reason);
            }
            self.parts[part].next = Some(record.offset + 1);
            if is_suspect {
                self.finish(PATIENCE)?;
            }
        }
        Ok(refused)
    }

    async fn flush(&mut self, why: Flush) -> Result<Flushed, Failure> {
        let below = self.finish(if why == Flush::Tick { PATIENCE } else { PATIENCE_AT_END })?;
        let (filtered, lost, missed) =
            (std::mem::take(&mut self.filtered), std::mem::take(&mut self.lost), std::mem::take(&mut self.missed));
        Ok(Flushed { below, filtered, lost, missed, ..Flushed::default() })
    }

    async fn revoke(&mut self, _parts: &[Partition]) -> Result<(), Failure> {
        // Their place in the table stays: a report still finds it.
        Ok(())
    }
}
