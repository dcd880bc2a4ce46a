//! Consumers: members of a group, whose rebalances wait until the caller has flushed, and readers of fixed partitions.
//!
//! ```text
//! loop {
//!     match consumer.poll(timeout, |message| ..) {
//!         Messages(n)     => n messages went through the closure
//!         Assigned(parts) => find their offsets; consumer.take(parts, offsets)          // nothing is fetched before; an empty list, too
//!         Revoked{parts}  => flush, commit; consumer.give(parts)                        // the group waits for this
//!         ..
//!     }
//! }
//! ```
//!
//! The assignment is cooperative-sticky: a rebalance takes away only what moves, and the rest goes on. `partition.assignment.strategy`
//! among the properties changes it; the calls are the same. Offsets are committed by the caller only, below what its sink has flushed.

use crate::error::{Class, Connection, KafkaError};
use crate::events::{connection_of, refresh_token};
use crate::logging::LogBridge;
use crate::partition::{GroupMetadata, TopicPartition};
use crate::properties::{CONSUMER, CONSUMER_FIXED, Settings};
use crate::raw::{Event, List, Native, Queue, RawMessage, Role};
use parking_lot::Mutex;
use rdkafka::bindings as sys;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// librdkafka's words for an offset that the group has, or that `Start` decides.
const STORED: i64 = sys::RD_KAFKA_OFFSET_STORED as i64;

/// How long a lessee may be busy between two polls before the group takes its partitions away.
const LESSEE_POLL: Duration = Duration::from_secs(15);

/// Where a group begins that has no offset yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Start {
    #[default]
    Earliest,
    Latest,
    /// Nowhere: it is always told from where, and an offset that is not there any more fails, [`KafkaError::is_out_of_range`], and skips nothing.
    Never,
}

/// A message of Kafka, borrowed until the closure returns.
#[derive(Clone, Copy)]
pub struct Message<'a>(RawMessage<'a>);

impl<'a> Message<'a> {
    pub fn topic(&self) -> &'a str {
        self.0.topic()
    }

    pub fn partition(&self) -> i32 {
        self.0.partition()
    }

    pub fn offset(&self) -> i64 {
        self.0.offset()
    }

    pub fn key(&self) -> Option<&'a [u8]> {
        self.0.key()
    }

    /// `None`: a tombstone.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.0.value()
    }

    /// Milliseconds since 1970, zero where there is none.
    pub fn timestamp_ms(&self) -> i64 {
        self.0.timestamp_ms().unwrap_or(0)
    }

    /// Names and values in their order; a value of `None` is null.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        self.0.headers()
    }
}

/// What came out of a poll.
#[derive(Debug)]
pub enum Polled {
    /// Nothing within the timeout.
    Idle,
    /// So many messages went through the closure.
    Messages(usize),
    /// The group gives these partitions: answer with [`Consumer::take`].
    Assigned(Vec<TopicPartition>),
    /// The group wants these partitions back: flush, commit, answer with [`Consumer::give`]. `lost`: another member has them
    /// already, commits will be refused.
    Revoked { parts: Vec<TopicPartition>, lost: bool },
    /// The end of a partition: its next offset.
    End(TopicPartition, i64),
    /// The connection changed; nothing to do.
    Connection(Connection),
    /// The consumer can't go on so; by the error's class.
    Failed(KafkaError),
}

pub struct Consumer {
    queue: Queue,
    native: Arc<Native>,
    settings: Settings,
    closed: bool,
    /// It has a name in its group, and says so when it goes: else its place would be kept for it until the session is over.
    says_goodbye: bool,
    /// What the group has said and nobody has answered: assigned (or taken away), and what.
    unanswered: Mutex<Option<(bool, Vec<TopicPartition>)>>,
    /// What came behind messages, for the next poll: the caller is told of these first.
    next: Mutex<Option<Polled>>,
}

impl Consumer {
    /// A member of a group. It belongs to it once [`Consumer::subscribe`] was called and `poll` is called often (at least every
    /// `max.poll.interval.ms`, five minutes by default). With `group.instance.id` among the settings it has its partitions again at once when it comes
    /// back after a kill, where others would have to wait until the session of the dead one is over.
    pub fn group(settings: &Settings, group: &str, start: Start) -> Result<Self, KafkaError> {
        let reset = match start {
            Start::Earliest => "earliest",
            Start::Latest => "latest",
            Start::Never => "error",
        };
        let fixed = [
            ("group.id", group),
            ("auto.offset.reset", reset),
            ("isolation.level", "read_committed"),
            // Behind the last record there may be marks of transactions: only so is it known that nothing waits.
            ("enable.partition.eof", "true"),
        ];
        let mut consumer = Self::new(settings, &fixed)?;
        consumer.says_goodbye = settings.properties.contains_key("group.instance.id");
        Ok(consumer)
    }

    /// A member that holds partitions as leases and reads none of them: one that is silent for `session` has lost them, one whose name comes up
    /// again (after a restart) has them back, and a second one of the same name ends this one, [`Class::Fenced`]. [`Consumer::take`] them, then
    /// [`Consumer::pause`] them.
    pub fn lessee(settings: &Settings, group: &str, name: &str, session: Duration) -> Result<Self, KafkaError> {
        let session_ms = session.as_millis().to_string();
        let poll_ms = session.max(LESSEE_POLL).as_millis().to_string();
        // What happened to the others is heard with a heartbeat; of the session a twelfth, so that a take-over waits for little else than the session.
        let beat_ms = (session / 12).clamp(Duration::from_millis(200), Duration::from_secs(1)).as_millis().to_string();
        let own = [
            ("group.id", group),
            ("group.instance.id", name),
            ("group.protocol", "classic"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("session.timeout.ms", session_ms.as_str()),
            ("heartbeat.interval.ms", beat_ms.as_str()),
            ("max.poll.interval.ms", poll_ms.as_str()),
            ("topic.metadata.refresh.interval.ms", "10000"),
            ("auto.offset.reset", "latest"),
            ("isolation.level", "read_committed"),
        ];
        Self::new(settings, &own)
    }

    /// A reader of partitions of its own choice, in no group: [`Consumer::take`] them. Their ends are told. `committed`: records of open
    /// and aborted transactions are not seen.
    pub fn reader(settings: &Settings, committed: bool) -> Result<Self, KafkaError> {
        let isolation = if committed { "read_committed" } else { "read_uncommitted" };
        // librdkafka assigns partitions only where there is a group's name; nothing is ever committed under this one.
        let fixed = [
            ("group.id", "millrace-reader"),
            ("auto.offset.reset", "error"),
            ("isolation.level", isolation),
            ("enable.partition.eof", "true"),
        ];
        Self::new(settings, &fixed)
    }

    fn new(settings: &Settings, own: &[(&str, &str)]) -> Result<Self, KafkaError> {
        let mut fixed = CONSUMER_FIXED.to_vec();
        fixed.extend_from_slice(own);
        let conf = settings.conf(CONSUMER, &fixed)?;
        let mut events = sys::RD_KAFKA_EVENT_REBALANCE | sys::RD_KAFKA_EVENT_ERROR | sys::RD_KAFKA_EVENT_FETCH;
        if settings.wants_token() {
            events |= sys::RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH;
        }
        let native = Native::new(Role::Consumer, conf, events, LogBridge::new(format!("{} consumer", settings.client_id)))?;
        Ok(Self {
            queue: native.queue(),
            native,
            settings: settings.clone(),
            closed: false,
            says_goodbye: false,
            unanswered: Mutex::default(),
            next: Mutex::default(),
        })
    }

    /// Joins the group for these topics. One that starts with `^` is a regular expression; topics that come later are joined too.
    pub fn subscribe<'t>(&self, topics: impl IntoIterator<Item = &'t str>) -> Result<(), KafkaError> {
        let mut list = List::new();
        for topic in topics {
            list.push(topic, -1, STORED)?;
        }
        self.native.subscribe(&list)
    }

    /// Hands messages to the closure for as long as it asks for more (true). Waits for the first one only. What comes behind them, a rebalance say, is
    /// told by the next call: where the closure was called, the answer is [`Polled::Messages`].
    pub fn poll(&self, timeout: Duration, mut each: impl FnMut(Message<'_>) -> bool) -> Polled {
        match self.next.lock().take() {
            // It may have changed since.
            Some(Polled::Revoked { parts, .. }) => return Polled::Revoked { parts, lost: self.native.assignment_lost() },
            Some(polled) => return polled,
            None => {}
        }
        let deadline = Instant::now() + timeout;
        let mut count = 0;
        loop {
            let wait = if count == 0 { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            let Some(event) = self.queue.poll(wait) else {
                if count > 0 {
                    return Polled::Messages(count);
                }
                if Instant::now() >= deadline {
                    return Polled::Idle;
                }
                continue;
            };
            let other = match event.message().filter(|_| event.kind() == sys::RD_KAFKA_EVENT_FETCH) {
                Some(message) if message.code() == 0 => {
                    count += 1;
                    if !each(Message(message)) {
                        return Polled::Messages(count);
                    }
                    None
                }
                Some(message) => self.trouble(KafkaError::described(message.code(), &format!("cannot read {}", message.topic()))),
                None => self.other(&event),
            };
            match other {
                None => {}
                Some(polled) if count == 0 => return polled,
                Some(polled) => {
                    *self.next.lock() = Some(polled);
                    return Polled::Messages(count);
                }
            }
        }
    }

    /// What an event that is no message means to the caller; `None`: nothing.
    fn other(&self, event: &Event) -> Option<Polled> {
        const END: i32 = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF as i32;
        match event.kind() {
            sys::RD_KAFKA_EVENT_REBALANCE => Some(self.rebalance(event)),
            sys::RD_KAFKA_EVENT_ERROR if event.code() == END => {
                event.partition().map(|(topic, partition, offset)| Polled::End(TopicPartition::new(topic, partition), offset))
            }
            sys::RD_KAFKA_EVENT_ERROR => self.trouble(event.error()),
            sys::RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH => {
                refresh_token(&self.native, &self.settings);
                None
            }
            _ => None,
        }
    }

    fn rebalance(&self, event: &Event) -> Polled {
        const ASSIGN: i32 = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS as i32;
        let parts: Vec<_> = event.partitions().into_iter().map(|(topic, partition, ..)| TopicPartition::new(topic, partition)).collect();
        let is_assigned = event.code() == ASSIGN;
        *self.unanswered.lock() = Some((is_assigned, parts.clone()));
        if is_assigned { Polled::Assigned(parts) } else { Polled::Revoked { parts, lost: self.native.assignment_lost() } }
    }

    /// Answers what the group has said last, where the caller has failed before it did: librdkafka waits for the answer, also when it is to end.
    fn answer(&self) {
        let unanswered = self.unanswered.lock().take();
        let answered = match unanswered {
            None => Ok(()),
            Some((true, parts)) => self.take(&parts.into_iter().map(|part| (part, None)).collect::<Vec<_>>()),
            Some((false, parts)) => self.give(&parts),
        };
        if let Err(error) = answered {
            tracing::debug!(%error, "a rebalance is not answered");
        }
    }

    /// What an error means to the caller; `None`: librdkafka deals with it.
    fn trouble(&self, error: KafkaError) -> Option<Polled> {
        const POLL_EXCEEDED: i32 = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED as i32;
        const NO_OFFSET: i32 = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET as i32;
        if let Some(fatal) = self.native.fatal() {
            return Some(Polled::Failed(fatal));
        }
        if let Some(state) = connection_of(&error) {
            return Some(Polled::Connection(state));
        }
        match (error.code, error.class) {
            (POLL_EXCEEDED | NO_OFFSET, _) | (_, Class::Topic | Class::Denied | Class::Fenced | Class::Fatal) => {
                Some(Polled::Failed(error))
            }
            _ => None,
        }
    }

    /// Takes partitions over, from the given offsets; where there is none, from the group's, and without that by [`Start`].
    pub fn take(&self, parts: &[(TopicPartition, Option<i64>)]) -> Result<(), KafkaError> {
        let mut list = List::new();
        for (part, offset) in parts {
            list.push(&part.topic, part.partition, offset.unwrap_or(STORED))?;
        }
        if self.native.is_cooperative() {
            self.native.incremental_assign(&list)?
        } else {
            self.native.assign(Some(&list))?
        }
        self.unanswered.lock().take();
        Ok(())
    }

    /// Gives partitions back, after the caller has flushed and committed.
    pub fn give(&self, parts: &[TopicPartition]) -> Result<(), KafkaError> {
        if self.native.is_cooperative() {
            self.native.incremental_unassign(&list_of(parts)?)?
        } else {
            self.native.assign(None)?
        }
        self.unanswered.lock().take();
        Ok(())
    }

    /// Commits each partition's next offset, and waits for the answer.
    pub fn commit(&self, offsets: &[(TopicPartition, i64)]) -> Result<(), KafkaError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let mut list = List::new();
        for (part, offset) in offsets {
            list.push(&part.topic, part.partition, *offset)?;
        }
        self.native.commit(&list)
    }

    /// The group's committed offsets; `None` where it has none.
    pub fn committed(&self, parts: &[TopicPartition], timeout: Duration) -> Result<Vec<Option<i64>>, KafkaError> {
        let mut list = list_of(parts)?;
        self.native.committed(&mut list, timeout)?;
        Ok(list.entries().into_iter().map(|(.., offset, _)| (offset >= 0).then_some(offset)).collect())
    }

    /// The offset of the first record of each partition that is not older than this time, in milliseconds since 1970; `None`: there is none.
    pub fn offsets_since(&self, parts: &[TopicPartition], since_ms: i64, timeout: Duration) -> Result<Vec<Option<i64>>, KafkaError> {
        let mut list = List::new();
        for part in parts {
            list.push(&part.topic, part.partition, since_ms.max(0))?;
        }
        self.native.offsets_for_times(&mut list, timeout)?;
        let found: HashMap<(String, i32), i64> =
            list.entries().into_iter().map(|(topic, partition, offset, _)| ((topic, partition), offset)).collect();
        let of = |part: &TopicPartition| found.get(&(part.topic.to_string(), part.partition)).copied().filter(|offset| *offset >= 0);
        Ok(parts.iter().map(of).collect())
    }

    /// Moves to an offset of a partition that is assigned; what was fetched from elsewhere is dropped.
    pub fn seek(&self, part: &TopicPartition, offset: i64, timeout: Duration) -> Result<(), KafkaError> {
        let mut list = List::new();
        list.push(&part.topic, part.partition, offset)?;
        self.native.seek(&mut list, timeout)
    }

    /// Stops fetching these partitions, and keeps them.
    pub fn pause(&self, parts: &[TopicPartition]) -> Result<(), KafkaError> {
        self.native.pause(&mut list_of(parts)?, true)
    }

    pub fn resume(&self, parts: &[TopicPartition]) -> Result<(), KafkaError> {
        self.native.pause(&mut list_of(parts)?, false)
    }

    /// First and next offset of a partition, asked of its leader; for a `committed` consumer the end of what is decided.
    pub fn watermarks(&self, part: &TopicPartition, timeout: Duration) -> Result<(i64, i64), KafkaError> {
        self.native.watermarks(&part.topic, part.partition, timeout)
    }

    /// The next offset of a partition as of the last fetch, without asking: for lag.
    pub fn known_end(&self, part: &TopicPartition) -> Option<i64> {
        self.native.known_end(&part.topic, part.partition)
    }

    /// How many partitions a topic has; zero when it does not exist.
    ///
    /// Errors: also those of the topic alone: it has no leader at the moment, it may not be described.
    pub fn partitions(&self, topic: &str, timeout: Duration) -> Result<usize, KafkaError> {
        let handle = self.native.topic(topic)?;
        let found = self.native.metadata(Some(&handle), timeout)?;
        let Some(found) = found.first() else { return Ok(0) };
        if found.error == 0 {
            return Ok(found.partitions);
        }
        let error = KafkaError::described(found.error, &format!("cannot ask for topic {topic}"));
        if error.is_unknown_topic() { Ok(0) } else { Err(error) }
    }

    /// The names of all topics of the cluster.
    pub fn topics(&self, timeout: Duration) -> Result<Vec<String>, KafkaError> {
        Ok(self.native.metadata(None, timeout)?.into_iter().filter(|t| t.error == 0).map(|t| t.name).collect())
    }

    /// The membership, for a producer that commits this group's offsets in its transaction.
    pub fn membership(&self) -> Option<GroupMetadata> {
        self.native.group().map(GroupMetadata)
    }

    /// As [`Consumer::membership`], where the group counts on this client at the moment: a client that lost its membership has one that fences nobody.
    pub fn fence(&self) -> Option<GroupMetadata> {
        let membership = self.membership()?;
        self.native.is_member().then_some(membership)
    }

    /// Tells the group that this member goes for good, a static one too; its partitions come back as revoked.
    pub fn unsubscribe(&self) -> Result<(), KafkaError> {
        self.native.unsubscribe()
    }

    /// Leaves the group at once, so that others need not wait for the session to time out. Flush and commit before; partitions
    /// are given back without asking.
    pub fn leave(&mut self, timeout: Duration) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.answer();
        let deadline = Instant::now() + timeout;
        if self.says_goodbye && self.native.is_member() && self.native.unsubscribe().is_ok() {
            self.answer_until(deadline, || !self.native.is_member());
        }
        if self.native.close(&self.queue).is_ok() {
            self.answer_until(deadline, || self.native.is_closed());
        }
    }

    fn answer_until(&self, deadline: Instant, is_over: impl Fn() -> bool) {
        while !is_over() && Instant::now() < deadline {
            if let Some(event) = self.queue.poll(Duration::from_millis(20))
                && event.kind() == sys::RD_KAFKA_EVENT_REBALANCE
            {
                self.rebalance(&event);
                self.answer();
            }
        }
    }

    /// Reads partitions from the given offsets until each has passed its end, in no order between partitions. For readers only.
    ///
    /// `ends`: partition -> the offset to reach. Errors: what the cluster says, or a timeout after `patience` without progress.
    pub fn read_to(
        &self,
        from: &[(TopicPartition, i64)],
        ends: &HashMap<TopicPartition, i64>,
        patience: Duration,
        mut each: impl FnMut(Message<'_>),
    ) -> Result<(), KafkaError> {
        let mut open: HashMap<TopicPartition, i64> =
            ends.iter().filter(|(part, end)| from.iter().any(|(p, o)| p == *part && o < *end)).map(|(p, e)| (p.clone(), *e)).collect();
        let start: Vec<_> = from.iter().filter(|(p, _)| open.contains_key(p)).map(|(p, o)| (p.clone(), Some(*o))).collect();
        if start.is_empty() {
            return Ok(());
        }
        self.take(&start)?;
        let mut progress = Instant::now();
        while !open.is_empty() {
            let mut done = Vec::new();
            let mut left = 4096;
            let polled = self.poll(Duration::from_millis(200), |message| {
                let part = TopicPartition::new(message.topic(), message.partition());
                if let Some(end) = open.get(&part) {
                    if message.offset() < *end {
                        each(message);
                    }
                    if message.offset() + 1 >= *end {
                        done.push(part);
                    }
                }
                left -= 1;
                left > 0
            });
            match polled {
                Polled::Messages(_) => progress = Instant::now(),
                Polled::End(part, offset) if open.get(&part).is_some_and(|end| offset >= *end) => done.push(part),
                // Of the group that is only a name, or a broker that is away for a while.
                Polled::Failed(error) if error.class != Class::Topic && error.class != Class::Fatal && progress.elapsed() < patience => {}
                Polled::Failed(error) => return Err(error),
                _ if progress.elapsed() > patience => {
                    let code = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT as i32;
                    return Err(KafkaError::described(
                        code,
                        &format!("cannot read {} to its end", open.keys().next().map_or(String::new(), ToString::to_string)),
                    ));
                }
                _ => {}
            }
            for part in done {
                open.remove(&part);
            }
        }
        self.native.assign(None)
    }
}

/// Reads a whole topic, as committed up to now: for topics of ours that hold the last value of each key. Returns its number of partitions; 0: there is
/// no such topic, as far as the broker that was asked knows.
///
/// Transactions that others have open are waited for. Errors: what the cluster says, or a timeout after `patience` without progress.
pub fn read_topic(settings: &Settings, topic: &str, patience: Duration, each: impl FnMut(Message<'_>)) -> Result<usize, KafkaError> {
    // The end of everything, not of what is decided: a transaction of another runtime must not hide our own records behind it.
    let reader = Consumer::reader(settings, false)?;
    let (mut from, mut ends) = (Vec::new(), HashMap::new());
    let partitions = reader.partitions(topic, patience)?;
    for partition in 0..partitions as i32 {
        let part = TopicPartition::new(topic, partition);
        let (low, high) = reader.watermarks(&part, patience)?;
        from.push((part.clone(), low));
        ends.insert(part, high);
    }
    drop(reader);
    Consumer::reader(settings, true)?.read_to(&from, &ends, patience, each)?;
    Ok(partitions)
}

/// Reads a whole topic as it is now, and waits for no transaction: to `decided` goes what lies before the first one that is open, to `doubtful` what lies
/// behind its begin, records of any outcome.
///
/// Errors: what the cluster says, or a timeout after `patience` without progress.
pub fn read_topic_now(
    settings: &Settings,
    topic: &str,
    patience: Duration,
    decided: impl FnMut(Message<'_>),
    doubtful: impl FnMut(Message<'_>),
) -> Result<(), KafkaError> {
    let (stable, all) = (Consumer::reader(settings, true)?, Consumer::reader(settings, false)?);
    let (mut from, mut open, mut stable_ends, mut ends) = (Vec::new(), Vec::new(), HashMap::new(), HashMap::new());
    for partition in 0..stable.partitions(topic, patience)? as i32 {
        let part = TopicPartition::new(topic, partition);
        let (low, stable_end) = stable.watermarks(&part, patience)?;
        let (_, high) = all.watermarks(&part, patience)?;
        from.push((part.clone(), low));
        open.push((part.clone(), stable_end.max(low)));
        stable_ends.insert(part.clone(), stable_end);
        ends.insert(part, high);
    }
    stable.read_to(&from, &stable_ends, patience, decided)?;
    all.read_to(&open, &ends, patience, doubtful)
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.leave(Duration::from_secs(5));
    }
}

fn list_of(parts: &[TopicPartition]) -> Result<List, KafkaError> {
    let mut list = List::new();
    for part in parts {
        list.push(&part.topic, part.partition, STORED)?;
    }
    Ok(list)
}
