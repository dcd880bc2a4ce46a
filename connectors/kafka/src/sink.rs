//! The session: records in, a producer of the target, positions with them.
//!
//! ```text
//! assign   topics at the target; (exactly_once: init_transactions fences whoever was before, `claims` other runtimes) read positions; hold them
//!          against the origin
//! turn     where nothing in a record has to change: batches as they are -> sender (`forwarding`), and nothing is written
//! write    each record -> producer, in the partition it comes from; a sample of a topic with windows -> its window, and what is closed -> producer
//! flush    at_least_once: wait for every acknowledgement, then write positions
//!          exactly_once:  positions into the transaction, commit
//! ```
//!
//! A record that the target refuses is found by sending again: a refusal hits a whole batch, so every record of it is a suspect. A suspect goes
//! alone, in a transaction of its own; what is refused alone is refused. Suspects outlive the instance, which is dropped after a failure.

use crate::deliveries::{MAX_PARTS, Outcomes, opaque};
use crate::groups::{Copying, Shared, Task};
use crate::leaving::{Guard, Leaver, Leaving, Outcome};
use crate::names::{Names, ORIGIN, POSITIONS};
use crate::pairs::Pair;
use crate::positions::{self, Held};
use crate::target::{self, Making, failure};
use crate::throttle::{Limits, Throttle};
use crate::whole::Whole;
use crate::windows::{Rule, Sample, Taken, Windows};
use async_trait::async_trait;
use millrace_contract::{Failure, Flush, Flushed, Input, Offset, Partition, Record, Records, Refused, Sink, Upstream, is_meant};
use millrace_kafka::{Class, Consumer, Outgoing, Producer, SendError, Settings, Topic, TopicPartition};
use millrace_schemas::headers;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the target may take for what was sent, before the session starts over.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a flush before an end may take.
pub(crate) const PATIENCE_AT_END: Duration = Duration::from_secs(8);
/// The header of a dead letter that names the topic where it belongs; Kafka Connect has the same.
const DEAD: &str = "__connect.errors.topic";
/// Longer than any flush: the broker must not end what is still being written.
pub(crate) const TRANSACTION: Duration = Duration::from_secs(120);

/// How records are carried.
#[derive(Debug)]
pub struct Carrying {
    /// `enterprise/site/sink`.
    pub name: String,
    pub exactly_once: bool,
    pub provenance: bool,
    pub restart_recreated: bool,
    pub limits: Limits,
    /// Topics of samples that leave in windows of time.
    pub windows: Vec<Rule>,
    /// `None`: offsets of groups stay where they are.
    pub groups: Option<Copying>,
    pub commit_every: Duration,
}

/// A configuration that was checked, and what its instances hand on to each other.
#[derive(Debug)]
pub struct Replication {
    pub carrying: Carrying,
    pub names: Names,
    /// Which of several runtimes with the same file this is: each has transactions of its own.
    pub runtime: Option<String>,
    pub home: Settings,
    pub target: Settings,
    pub making: Making,
    pub suspects: Mutex<Suspects>,
    /// Until then records go one by one, though their batches could be forwarded whole.
    pub by_record_until: Mutex<Option<Instant>>,
    pub guard: Arc<Guard>,
}

impl Replication {
    pub fn transactional_id(&self) -> String {
        let id = format!("millrace-replication-{}-{}", self.names.origin, self.carrying.name.replace('/', "-"));
        self.runtime.as_ref().map_or(id.clone(), |runtime| format!("{id}-{runtime}"))
    }

    /// In which windows of time the samples of a topic leave.
    pub fn windows(&self, topic: &str) -> Option<&Rule> {
        self.carrying.windows.iter().find(|rule| is_meant(&rule.topic, topic))
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
    pub(crate) suspected: HashSet<(Partition, Offset)>,
    /// Refused alone, with the target's words.
    pub(crate) refused: HashMap<(Partition, Offset), String>,
}

/// What is known of a partition at home.
pub(crate) struct Part {
    pub(crate) name: Partition,
    /// Where its records go.
    pub(crate) at_target: TopicPartition,
    /// Nowhere: it stays at home.
    pub(crate) stays: bool,
    /// As the producer knows it, where there is one.
    pub(crate) topic: Option<Topic>,
    /// It is this instance's at the moment.
    pub(crate) is_held: bool,
    /// The offset that is read next.
    pub(crate) reads: Offset,
    /// Its records may leave other than as they are.
    pub(crate) is_changed: bool,
    /// They go before others.
    pub(crate) is_first: bool,
    /// The next offset, once something was written since the last flush.
    pub(crate) next: Option<Offset>,
    /// The position at the target.
    pub(crate) at: Offset,
    /// Where records lie there; the newest first.
    pub(crate) pairs: Vec<Pair>,
    /// The last of them is not written yet.
    pub(crate) has_news: bool,
    /// Where samples leave in windows of time.
    pub(crate) windows: Option<Windows>,
}

/// One instance of the sink.
pub struct Instance {
    pub(crate) replication: Arc<Replication>,
    pub(crate) outcomes: Arc<Outcomes>,
    /// Where records go one by one.
    pub(crate) producer: Option<Producer>,
    /// Where batches are forwarded whole.
    pub(crate) whole: Option<Whole>,
    pub(crate) parts: Vec<Part>,
    pub(crate) index: HashMap<Partition, usize>,
    pub(crate) throttle: Option<Throttle>,
    pub(crate) in_transaction: bool,
    /// Positions that moved since the last flush was told.
    pub(crate) moved: Vec<(Partition, Offset)>,
    pub(crate) filtered: u64,
    pub(crate) missed: u64,
    pub(crate) late: u64,
    pub(crate) leaving: Leaving,
    /// What tells the topics at home from others of their names.
    pub(crate) topic_ids: HashMap<Arc<str>, String>,
    /// What translates offsets of groups, and what it works with.
    pub(crate) pairs: Shared,
    pub(crate) task: Option<Task>,
    /// Scratch for `millrace.origin`.
    pub(crate) origin: Vec<u8>,
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
            whole: None,
            parts: Vec::new(),
            index: HashMap::new(),
            throttle,
            in_transaction: false,
            moved: Vec::new(),
            filtered: 0,
            missed: 0,
            late: 0,
            topic_ids: HashMap::new(),
            origin: Vec::new(),
        }
    }

    // ---- the target -----------------------------------------------------------------------------------------------------------

    /// The producer; with transactions, whoever had the id before is fenced by it.
    pub(crate) fn connect(&mut self) -> Result<&Producer, Failure> {
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

    /// Takes partitions into the table; those that are there already keep their place.
    fn add(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        for part in parts.iter().filter(|part| !self.index.contains_key(part)).cloned().collect::<Vec<_>>() {
            if self.parts.len() == MAX_PARTS {
                return Err(Failure::Reconnect(format!("{MAX_PARTS} partitions were copied by one instance; starting over")));
            }
            let (name, stays) = (self.replication.names.at_target(&part.topic), self.replication.names.stays(&part.topic));
            let topic = if stays || self.whole.is_some() {
                None
            } else {
                let topic = self.connect()?.topic(&name);
                Some(topic.map_err(|e| failure(&format!("cannot write to topic {name} of the target"), &e))?)
            };
            let at_target = TopicPartition::new(name, part.partition);
            self.index.insert(part.clone(), self.parts.len());
            let is_changed = self.replication.guard.concerns(&part.topic);
            let is_first = self.replication.carrying.limits.is_first(&part.topic);
            let windows = self.replication.windows(&part.topic).map(|rule| Windows::new(rule.clone()));
            self.parts.push(Part {
                name: part,
                at_target,
                stays,
                topic,
                is_held: false,
                reads: 0,
                is_changed,
                is_first,
                next: None,
                at: 0,
                pairs: Vec::new(),
                has_news: false,
                windows,
            });
        }
        Ok(())
    }

    /// Holds the positions at the target against what the origin still has: what retention took the
    /// engine finds, too, and has it passed; a topic that was made anew is noticed.
    fn place(&mut self, parts: &[Partition], known: &HashMap<Partition, Held>) -> Result<Vec<Option<Offset>>, Failure> {
        let reader = Consumer::reader(&self.replication.home, true).map_err(|e| failure("cannot read from the factory's Kafka", &e))?;
        let mut placed = Vec::with_capacity(parts.len());
        for part in parts {
            let Some(Held { offset: held, topic_id, pairs, windows }) =
                known.get(part).filter(|_| !self.replication.names.stays(&part.topic))
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
                low
            } else {
                held
            };
            if let Some(known) = self.index.get(part).map(|index| &mut self.parts[*index]) {
                known.at = next;
                known.next = (next != held).then_some(next);
                // Of another topic they say nothing.
                let is_another = is_another || held > high;
                known.pairs = if is_another { Vec::new() } else { pairs.clone() };
                let windows = windows.filter(|_| !is_another);
                let is_whole = if is_another { next == 0 } else { next == held && windows.is_some() };
                known.windows = self.replication.windows(&part.topic).map(|rule| Windows::resume(rule.clone(), windows, next, is_whole));
            }
            placed.push(Some(if is_another || held > high { next } else { held }));
        }
        Ok(placed)
    }

    /// What tells a topic at home from another of its name; `None`: the cluster has no such ids.
    fn topic_id(&self, topic: &str) -> Option<&str> {
        const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";
        self.topic_ids.get(topic).map(String::as_str).filter(|id| !id.is_empty() && *id != NONE)
    }

    // ---- records --------------------------------------------------------------------------------------------------------------

    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        // Forwarding whole batches, the first of them begins it.
        if self.replication.carrying.exactly_once && !self.in_transaction && self.whole.is_none() {
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
        let left = is_changed.then(|| std::mem::take(&mut self.leaving.left));
        if let Some(left) = &left {
            (key, value, encoded) = (key.map(|_| &*left.key), value.map(|_| &*left.value), &left.headers);
        }
        let leaver = Leaver { key, value, headers: encoded, timestamp_ms: record.timestamp_ms, is_prefixed: false };
        let refused = self.send(part, record.offset, number, &leaver);
        if let Some(left) = left {
            self.leaving.left = left;
        }
        refused
    }

    /// Takes a sample into its window, and sends the windows that it closes. `Some`: it will never be taken, and why.
    fn window(&mut self, records: &Records, index: usize, record: &Record, part: usize) -> Result<Option<String>, Failure> {
        let row = records.rows.get(index).copied().flatten().zip(records.batch.as_ref());
        let Some((row, batch)) = row.map(|(row, batch)| (row as usize, batch)) else {
            // A tombstone.
            self.filtered += 1;
            return Ok(None);
        };
        let Some(mut windows) = self.parts[part].windows.take() else { return Ok(None) };
        let tag = batch.decoded.as_ref().and_then(|columns| columns.tag_path.get(row)).map_or("", |tag| batch.text_of(*tag));
        let sample = Sample {
            offset: record.offset,
            key: record.key.map(|key| records.of(key)),
            tag,
            time: batch.rows[row].time.0,
            value: batch.rows[row].value,
            status: batch.rows[row].status,
            heap: &batch.heap,
        };
        let mut refused = None;
        match windows.take(&sample) {
            Taken::Counted | Taken::Known => {}
            Taken::Late => {
                self.late += 1;
                self.filtered += 1;
            }
            Taken::Full => refused = Some("there are too many tags in the windows that are open: shorten `every` or `late`".to_owned()),
        }
        while let Some(window) = windows.next_closed() {
            for (tag, tally) in &window.tags {
                let mut value = Vec::new();
                tally.write(tag, &window, windows.rule(), &mut value);
                let Some(number) = opaque(part, tally.offset) else { continue };
                let leaver = Leaver {
                    key: tally.key.as_deref(),
                    value: Some(&value),
                    headers: &[],
                    timestamp_ms: window.until.div_euclid(1_000).max(1),
                    is_prefixed: false,
                };
                if let Some(reason) = self.send(part, tally.offset, number, &leaver)? {
                    refused.get_or_insert(reason);
                }
            }
        }
        self.parts[part].windows = Some(windows);
        Ok(refused)
    }

    /// Notes that a record is dealt with.
    fn reached(&mut self, part: usize, offset: Offset) {
        let part = &mut self.parts[part];
        part.reads = offset + 1;
        part.next = Some(match &mut part.windows {
            Some(windows) => {
                windows.pass(offset);
                windows.position()
            }
            None => offset + 1,
        });
    }

    /// Hands what leaves to the producer, when the line has room for it. `Some`: the target will never take it, and why.
    fn send(&mut self, part: usize, offset: Offset, number: u64, leaver: &Leaver<'_>) -> Result<Option<String>, Failure> {
        self.begin()?;
        let Leaver { key, value, headers: encoded, timestamp_ms, .. } = *leaver;
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
            let _ = write!(self.origin, "{}/{}/{}/{offset}", self.replication.names.origin, at_home.topic, at_home.partition);
        }
        let (Some(producer), Some(topic)) = (&self.producer, &self.parts[part].topic) else { return Ok(None) };
        let message = Outgoing { partition: Some(at_home.partition), key, value, timestamp_ms, opaque: number };
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
}

/// By this machine's clock.
fn time_of_day() -> jiff::civil::Time {
    jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::system()).time()
}

pub(crate) fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_millis() as i64)
}

#[async_trait]
impl Sink for Instance {
    fn input(&self) -> Input {
        Input::Raw
    }

    fn wants_samples(&self, topic: &str) -> bool {
        self.replication.windows(topic).is_some()
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
        // An instance that carries records goes over to batches after a flush only, when nothing of it is open.
        if self.producer.is_none() && !self.open_whole()? {
            self.connect()?;
        }
        self.add(parts)?;
        self.claim(parts)?;
        let known = positions::read(&replication.target, &replication.names.origin, &replication.carrying.name);
        // It was made, or seen, a moment ago: not to know it is no reason to begin from the start.
        let known = known
            .map_err(|e| failure("cannot read positions at the target", &e))?
            .ok_or_else(|| Failure::Reconnect(format!("topic {POSITIONS} is not known at the target at the moment")))?;
        let placed = self.place(parts, &known)?;
        self.translate();
        Ok(placed)
    }

    fn skip(&mut self, below: &[(Partition, Offset)]) {
        for (part, offset) in below {
            if let Some(known) = self.index.get(part).map(|index| &mut self.parts[*index]) {
                known.next = known.next.max(Some(*offset));
            }
        }
    }

    fn reads_itself(&self) -> bool {
        self.whole.is_some()
    }

    fn placed(&mut self, at: &[(Partition, Offset)]) {
        for (name, offset) in at {
            if let Some(index) = self.index.get(name) {
                let part = &mut self.parts[*index];
                (part.is_held, part.reads) = (true, *offset);
            }
        }
        self.read_whole(at);
    }

    async fn turn(&mut self, wait: Duration) -> Result<Vec<millrace_contract::Taken>, Failure> {
        self.forward(wait)
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        self.add(&records.parts)?;
        let places: Vec<usize> = records.parts.iter().map(|part| self.index[part]).collect();
        let is_searching = {
            let suspects = self.replication.suspects.lock();
            !suspects.suspected.is_empty() || !suspects.refused.is_empty()
        };
        let mut refused = Vec::new();
        let is_first = |(_, record): &(usize, &Record)| self.parts[places[record.part as usize]].is_first;
        // In their order within each partition, which is of one topic.
        let (first, rest): (Vec<_>, Vec<_>) = records.records.iter().enumerate().partition(is_first);
        for (index, record) in first.into_iter().chain(rest) {
            let part = places[record.part as usize];
            if self.parts[part].stays || headers(records.of(record.headers)).any(|(name, value)| self.replication.stays(name, value)) {
                self.filtered += 1;
                self.reached(part, record.offset);
                continue;
            }
            let mut no = |reason| refused.push(Refused { partition: records.partition(record).clone(), offset: record.offset, reason });
            let is_suspect = is_searching && {
                let mark = (records.partition(record).clone(), record.offset);
                let mut suspects = self.replication.suspects.lock();
                if let Some(reason) = suspects.refused.remove(&mark) {
                    no(reason);
                    drop(suspects);
                    self.reached(part, record.offset);
                    continue;
                }
                suspects.suspected.remove(&mark)
            };
            if is_suspect {
                self.finish(PATIENCE)?;
            }
            let reason = match self.parts[part].windows {
                Some(_) => self.window(records, index, record, part)?,
                None => self.carry(records, record, part).await?,
            };
            if let Some(reason) = reason {
                no(reason);
            }
            self.reached(part, record.offset);
            if is_suspect {
                self.finish(PATIENCE)?;
            }
        }
        Ok(refused)
    }

    async fn flush(&mut self, why: Flush) -> Result<Flushed, Failure> {
        self.finish(if why == Flush::Tick { PATIENCE } else { PATIENCE_AT_END })?;
        let below = std::mem::take(&mut self.moved);
        if why == Flush::Tick {
            self.go_whole()?;
        }
        let [filtered, missed, late] = [&mut self.filtered, &mut self.missed, &mut self.late].map(std::mem::take);
        Ok(Flushed { below, filtered, missed, late, ..Flushed::default() })
    }

    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        self.end_whole(parts);
        for index in parts.iter().filter_map(|part| self.index.get(part)) {
            self.parts[*index].is_held = false;
        }
        // Their place in the table stays: a report still finds it.
        self.give_back(parts)
    }
}
