//! Sinks by consumer groups: consume, write, flush, commit below what is durable.
//!
//! ```text
//! session: join the group, make an instance
//! loop {
//!     Assigned(parts)  => instance.assign(parts); take them from the offsets the target holds, else from the group's
//!     Messages         => decode where samples are wanted; instance.write(records)
//!     flush_every      => instance.flush(Tick);   dead letters in Kafka; commit
//!     Revoked(parts)   => instance.flush(Revoke); dead letters in Kafka; commit; instance.revoke(parts); give them back
//! }
//! stop:    flush(Stop); dead letters; commit; leave the group
//! failure: drop the instance and leave the group, so that another runtime may go on meanwhile; back off; the next session
//! ```
//!
//! One thread per sink: a rebalance waits for the write at hand, and nothing is written behind the back of a flush. What is not committed
//! comes again: at least once, unless the target holds the offsets itself.

use crate::dead;
use crate::status::Board;
use crate::topics::{Format, Topics};
use crate::writers::Writers;
use millrace_contract::{Failure, Flush, Flushed, Input, Partition, Record, Records, Refused, Sink, Status};
use millrace_kafka::{Class, Connection, Consumer, KafkaError, Message, Polled, Settings, Start, TopicPartition};
use millrace_registry::{Client, SchemaId};
use millrace_schemas::{Batch, Micros, Span, avro, json, protobuf, push_header};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Records handed to a sink at once, and their bytes (one record may be larger).
const RECORDS: usize = 4096;
const BYTES: usize = 4 << 20;
/// Back-off between sessions: doubles from the first to the last, with jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_LAST: Duration = Duration::from_secs(60);
/// What needs a human is tried again this slowly.
const BLOCKED_FOR: Duration = Duration::from_secs(60);
/// How often an ailing consumer asks whether Kafka is back.
const PROBE: Duration = Duration::from_secs(5);
/// Topics that are not there are looked for so long after the start, when the drain has made those that are declared, and so often from then on.
const LOOK_FIRST: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How often the commit before partitions go is tried, and how long it rests between.
const COMMIT_TRIES: u32 = 10;
const COMMIT_PAUSE: Duration = Duration::from_millis(100);
/// How long Kafka may take for dead letters, for offsets and for a single record.
const PATIENCE: Duration = Duration::from_secs(30);

/// Names the dead-letter topic of a topic.
pub type DeadLetterOf = Box<dyn Fn(&str) -> Arc<str> + Send + Sync>;

/// What one sink runs with.
pub struct SinkOptions {
    pub name: String,
    pub settings: Settings,
    pub group: String,
    /// Names, or patterns with `*`.
    pub topics: Vec<String>,
    pub from_latest: bool,
    /// `enterprise/site/name`, for the dead letters' headers.
    pub connector: String,
    /// The dead-letter topic of a topic.
    pub dead_letter: DeadLetterOf,
    /// What is known of the topics: their formats.
    pub known: Topics,
    /// Where there is one, values of topics with a schema begin with its prefix.
    pub registry: Option<Arc<Client>>,
    /// Makes a new instance: at start, and after a failure.
    pub make: Box<dyn Fn() -> Box<dyn Sink> + Send + Sync>,
    pub board: Arc<Board>,
}

/// Counts of a sink: `consumed = written + dead + in flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SinkCounts {
    pub consumed: u64,
    pub written: u64,
    pub dead: u64,
    /// Records in Kafka behind what was consumed, as of the last flush.
    pub lag: u64,
}

/// A running sink: its thread.
pub struct SinkTask {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// How long the last flush may take.
    bound: Mutex<Duration>,
    stopped: Condvar,
    consumed: AtomicU64,
    written: AtomicU64,
    dead: AtomicU64,
    lag: AtomicU64,
}

impl SinkTask {
    /// Starts the thread; a target or a Kafka that is away is tried again for ever.
    ///
    /// Errors: no thread can be had.
    pub fn start(options: SinkOptions, tokio: tokio::runtime::Handle) -> Result<Self, String> {
        let shared = Arc::new(Shared::default());
        let name = options.name.clone();
        let runner = Runner { options, shared: shared.clone(), tokio };
        let thread = std::thread::Builder::new().name(format!("sink {name}")).spawn(move || runner.run());
        let thread = thread.map_err(|e| format!("cannot start a thread for sink {name}: {e}"))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    pub fn counts(&self) -> SinkCounts {
        let shared = &self.shared;
        SinkCounts {
            written: shared.written.load(Relaxed),
            dead: shared.dead.load(Relaxed),
            consumed: shared.consumed.load(Relaxed),
            lag: shared.lag.load(Relaxed),
        }
    }

    /// Flushes, commits, leaves the group; bounded. Safe to call twice.
    pub fn stop(&self, bound: Duration) {
        let Some(thread) = self.thread.lock().take() else { return };
        {
            let mut held = self.shared.bound.lock();
            *held = bound;
            self.shared.stop.store(true, Relaxed);
            self.shared.stopped.notify_all();
        }
        let deadline = Instant::now() + bound + Duration::from_secs(2);
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else {
            tracing::warn!("a sink did not end in time; what it had not committed comes again at the next start");
        }
    }
}

struct Runner {
    options: SinkOptions,
    shared: Arc<Shared>,
    tokio: tokio::runtime::Handle,
}

impl Runner {
    fn run(self) {
        // Sinks may use tokio where they are made and dropped, too.
        let _context = self.tokio.enter();
        let board = self.options.board.clone();
        let mut backoff = BACKOFF_FIRST;
        while !self.is_stopping() {
            board.session_opened();
            let started = Instant::now();
            let Err(failure) = Session::open(&self).and_then(Session::run) else { break };
            if started.elapsed() > BACKOFF_LAST {
                backoff = BACKOFF_FIRST;
            }
            let wait = match &failure {
                Failure::Blocked(_) => BLOCKED_FOR,
                Failure::RetryAfter(wait, _) => *wait,
                Failure::Reconnect(_) | Failure::Stopped => {
                    let wait = backoff.mul_f64(0.5 + fastrand::f64());
                    backoff = (backoff * 2).min(BACKOFF_LAST);
                    wait
                }
            };
            let cause = failure.to_string();
            board.failed(&cause, Micros::now());
            match &failure {
                Failure::Blocked(_) => {
                    if board.set(Status::Blocked(cause.clone()), Micros::now()) {
                        tracing::error!(sink = self.options.name, "blocked until somebody acts: {cause}");
                    }
                }
                _ => {
                    if board.set(Status::Degraded(cause.clone()), Micros::now()) {
                        tracing::warn!(sink = self.options.name, "failed and is tried again: {cause}");
                    }
                }
            }
            let mut bound = self.shared.bound.lock();
            if !self.is_stopping() {
                self.shared.stopped.wait_for(&mut bound, wait);
            }
        }
        board.set(Status::Stopped, Micros::now());
    }

    fn is_stopping(&self) -> bool {
        self.shared.stop.load(Relaxed)
    }
}

/// What is known of an assigned partition.
struct Part {
    /// The offset behind the last record seen.
    seen: i64,
    /// The offset behind the last record handed to the sink.
    given: i64,
    /// Below it everything is durable, says the sink; a commit may have failed since.
    durable: i64,
    /// Committed, or where it began.
    committed: i64,
}

/// One instance of the sink, as a member of its group.
struct Session<'r> {
    runner: &'r Runner,
    consumer: Consumer,
    sink: Box<dyn Sink>,
    input: Input,
    parts: HashMap<TopicPartition, Part>,
    records: Records,
    letters: dead::Letters,
    writers: Option<Writers>,
    /// Dead letters sent since the last commit.
    letters_open: bool,
    flush_at: Instant,
    flush_every: Duration,
    /// Kafka is away, since this was last asked.
    ailing: Option<Instant>,
    /// When to look whether the topics are there; `None`: they were.
    look_at: Option<Instant>,
}

impl<'r> Session<'r> {
    fn open(runner: &'r Runner) -> Result<Self, Failure> {
        let options = &runner.options;
        let start = if options.from_latest { Start::Latest } else { Start::Earliest };
        let consumer = Consumer::group(&options.settings, &options.group, start).map_err(|e| failure("cannot read from Kafka", &e))?;
        let patterns: Vec<String> = options.topics.iter().map(|t| subscription(t)).collect();
        consumer.subscribe(patterns.iter().map(String::as_str)).map_err(|e| failure("cannot subscribe", &e))?;
        let sink = (options.make)();
        let (input, flush_every) = (sink.input(), sink.flush_every().max(Duration::from_millis(10)));
        Ok(Self {
            runner,
            consumer,
            sink,
            input,
            parts: HashMap::new(),
            records: Records::default(),
            letters: dead::Letters::new(&options.settings),
            writers: options.registry.clone().map(|client| Writers::new(client, runner.tokio.clone())),
            letters_open: false,
            flush_at: Instant::now() + flush_every,
            flush_every,
            ailing: None,
            look_at: Some(Instant::now() + LOOK_FIRST),
        })
    }

    fn run(mut self) -> Result<(), Failure> {
        loop {
            if self.runner.is_stopping() {
                return self.stop();
            }
            let now = Instant::now();
            if now >= self.flush_at {
                self.flush(Flush::Tick, true)?;
                self.flush_at = Instant::now() + self.flush_every;
            }
            if self.look_at.is_some_and(|at| now >= at) {
                self.look_for_topics();
            }
            let wait = self.flush_at.saturating_duration_since(now).min(Duration::from_millis(200));
            let polled = self.fetch(wait);
            match polled {
                Polled::Messages(count) => {
                    self.is_well();
                    self.runner.shared.consumed.fetch_add(count as u64, Relaxed);
                    self.write()?;
                }
                Polled::Assigned(parts) => {
                    if let Some(at) = &mut self.look_at {
                        *at = (*at).min(Instant::now() + LOOK_FIRST);
                    }
                    self.assign(parts)?;
                    self.is_well();
                }
                Polled::Revoked { parts, lost } => self.revoke(parts, lost)?,
                Polled::Connection(Connection::Denied(why)) => self.is_ailing(Status::Blocked(why)),
                Polled::Connection(Connection::Down(why)) => self.is_ailing(Status::Degraded(why)),
                Polled::Failed(error) => match error.class {
                    Class::Fatal | Class::Fenced => return Err(failure("cannot read from Kafka", &error)),
                    Class::Denied => self.is_ailing(Status::Blocked(error.to_string())),
                    _ => self.is_ailing(Status::Degraded(error.to_string())),
                },
                Polled::Idle | Polled::Connection(Connection::Up) | Polled::End(..) => self.probe(),
            }
        }
    }

    // ---- Kafka to sink --------------------------------------------------------------------------------------------------------

    /// Reads messages into `records`.
    fn fetch(&mut self, wait: Duration) -> Polled {
        let Self { consumer, records, runner, .. } = self;
        let options = &runner.options;
        records.parts.clear();
        records.records.clear();
        records.heap.clear();
        consumer.poll(wait, |message| {
            push(records, &message, options);
            records.records.len() < RECORDS && records.heap.len() < BYTES
        })
    }

    /// Notes for each partition how far the records reach.
    fn reach(&mut self, note: impl Fn(&mut Part, i64)) {
        for (index, part) in self.records.parts.iter().enumerate() {
            let last = self.records.records.iter().rev().find(|r| r.part as usize == index);
            if let (Some(record), Some(known)) = (last, self.parts.get_mut(&TopicPartition::new(part.topic.clone(), part.partition))) {
                note(known, record.offset + 1);
            }
        }
    }

    fn write(&mut self) -> Result<(), Failure> {
        self.reach(|part, next| part.seen = next);
        if self.input == Input::Samples {
            self.decode()?;
        }
        self.reach(|part, next| part.given = next);
        if self.records.records.is_empty() {
            return Ok(());
        }
        let refused = self.runner.tokio.block_on(self.sink.write(&self.records))?;
        let count = self.records.records.len() as u64;
        for refused in &refused {
            let found = self.records.records.iter().find(|r| r.offset == refused.offset && *self.records.partition(r) == refused.partition);
            match found {
                Some(record) => {
                    let record = *record;
                    self.letter(&record, &refused.reason)?;
                }
                None => self.late_letter(refused)?,
            }
        }
        self.runner.shared.written.fetch_add(count.saturating_sub(refused.len() as u64), Relaxed);
        Ok(())
    }

    /// Decodes the records as samples; what is none becomes a dead letter, and a tombstone is passed over.
    fn decode(&mut self) -> Result<(), Failure> {
        let mut batch = self.records.batch.take().unwrap_or_default();
        batch.clear();
        let mut kept = Vec::with_capacity(self.records.records.len());
        for record in std::mem::take(&mut self.records.records) {
            let Some(value) = record.value else { continue };
            let format = self.runner.options.known.get(&self.records.partition(&record).topic).format;
            let writers = self.writers.as_mut().filter(|_| usize::from(record.prefix) == SchemaId::PREFIX);
            let whole = Span { start: value.start - u32::from(record.prefix), len: value.len + u32::from(record.prefix) };
            match decode_sample(format, self.records.of(whole), record.prefix, writers, &mut batch)? {
                Ok(()) => kept.push(record),
                Err(reason) => self.letter(&record, &reason)?,
            }
        }
        self.records.records = kept;
        self.records.batch = Some(batch);
        Ok(())
    }

    // ---- dead letters ---------------------------------------------------------------------------------------------------------

    /// Sends a record to the dead letters of its topic; it is there before anything past it is committed.
    fn letter(&mut self, record: &Record, reason: &str) -> Result<(), Failure> {
        let part = self.records.partition(record);
        let of = |span: Option<Span>| span.map(|s| self.records.of(s));
        let options = &self.runner.options;
        let letter = dead::Letter {
            topic: &part.topic,
            partition: part.partition,
            offset: record.offset,
            connector: &options.connector,
            reason,
            key: of(record.key),
            // As it lies in Kafka.
            value: of(record.value.map(|v| Span { start: v.start - u32::from(record.prefix), len: v.len + u32::from(record.prefix) })),
            headers: self.records.of(record.headers),
        };
        self.letters.send(&(options.dead_letter)(&part.topic), &letter).map_err(|e| failure("cannot write a dead letter", &e))?;
        self.letters_open = true;
        self.runner.shared.dead.fetch_add(1, Relaxed);
        Ok(())
    }

    /// A record that was refused after it had left memory: read again from Kafka.
    fn late_letter(&mut self, refused: &Refused) -> Result<(), Failure> {
        let part = TopicPartition::new(refused.partition.topic.clone(), refused.partition.partition);
        let mut found = Records::default();
        let reader = Consumer::reader(&self.runner.options.settings, true).map_err(|e| failure("cannot read a refused record", &e))?;
        let ends = HashMap::from([(part.clone(), refused.offset + 1)]);
        let outcome =
            reader.read_to(&[(part.clone(), refused.offset)], &ends, PATIENCE, |message| push(&mut found, &message, &self.runner.options));
        outcome.map_err(|e| failure("cannot read a refused record", &e))?;
        let Some(record) = found.records.first().copied() else {
            tracing::error!(sink = self.runner.options.name, partition = %part, offset = refused.offset, "a refused record is not in Kafka any more: {}", refused.reason);
            return Ok(());
        };
        let kept = std::mem::replace(&mut self.records, found);
        let outcome = self.letter(&record, &refused.reason);
        self.records = kept;
        outcome
    }

    // ---- flush and commit -----------------------------------------------------------------------------------------------------

    fn flush(&mut self, why: Flush, commits: bool) -> Result<(), Failure> {
        let flushed = self.runner.tokio.block_on(self.sink.flush(why))?;
        self.settle(flushed, commits, why != Flush::Tick)
    }

    /// Dead letters first, then the commit. `is_last`: there is no next flush that could say the same.
    fn settle(&mut self, flushed: Flushed, commits: bool, is_last: bool) -> Result<(), Failure> {
        for refused in &flushed.refused {
            self.late_letter(refused)?;
            // It was counted as written when the sink took it.
            let _ = self.runner.shared.written.fetch_update(Relaxed, Relaxed, |w| w.checked_sub(1));
        }
        if std::mem::take(&mut self.letters_open) {
            self.letters.flush(PATIENCE).map_err(|e| failure("cannot write dead letters", &e))?;
        }
        for (part, offset) in flushed.below {
            if let Some(part) = self.parts.get_mut(&TopicPartition::new(part.topic, part.partition)) {
                part.durable = part.durable.max(offset);
            }
        }
        if !commits {
            return Ok(());
        }
        let mut offsets = Vec::new();
        for (name, part) in &self.parts {
            // Nothing of the partition waits in the sink: what was passed over or became a dead letter is done, too.
            let next = if part.durable >= part.given { part.durable.max(part.seen) } else { part.durable };
            if next > part.committed {
                offsets.push((name.clone(), next));
            }
        }
        if offsets.is_empty() {
            return Ok(());
        }
        let mut tries = COMMIT_TRIES;
        loop {
            tries -= 1;
            match self.consumer.commit(&offsets) {
                Ok(()) => break,
                Err(error) if matches!(error.class, Class::Fatal | Class::Fenced | Class::Denied) => {
                    return Err(failure("cannot commit offsets", &error));
                }
                // A coordinator that moves, a rebalance: before partitions go it is worth another try, otherwise the next flush says the same.
                Err(error) if tries == 0 || !is_last => {
                    tracing::debug!(sink = self.runner.options.name, "offsets were not committed: {error}");
                    return Ok(());
                }
                Err(_) => std::thread::sleep(COMMIT_PAUSE),
            }
        }
        for (name, offset) in offsets {
            if let Some(part) = self.parts.get_mut(&name) {
                part.committed = offset;
            }
        }
        self.measure_lag();
        Ok(())
    }

    fn measure_lag(&self) {
        let lag = |(name, part): (&TopicPartition, &Part)| self.consumer.known_end(name).map_or(0, |end| (end - part.seen).max(0) as u64);
        self.runner.shared.lag.store(self.parts.iter().map(lag).sum(), Relaxed);
    }

    // ---- the group ------------------------------------------------------------------------------------------------------------

    fn assign(&mut self, parts: Vec<TopicPartition>) -> Result<(), Failure> {
        let names = contract_parts(&parts);
        let held = self.runner.tokio.block_on(self.sink.assign(&names))?;
        let mut placed: Vec<(TopicPartition, Option<i64>)> =
            parts.into_iter().enumerate().map(|(i, part)| (part, held.get(i).copied().flatten())).collect();
        for (name, held) in &placed {
            let at = held.unwrap_or(0);
            self.parts.insert(name.clone(), Part { seen: at, given: at, durable: at, committed: at });
        }
        if self.runner.options.from_latest {
            self.place_new_ones_at_the_end(&mut placed).map_err(|e| failure("cannot ask for the end of a partition", &e))?;
        }
        self.consumer.take(&placed).map_err(|e| failure("cannot take partitions over", &e))?;
        if !placed.is_empty() {
            tracing::info!(sink = self.runner.options.name, partitions = placed.len(), "partitions assigned");
        }
        Ok(())
    }

    /// Gives the partitions that the group has never read their end of this moment, which the next flush commits: what comes from now on is for
    /// this sink, though it be restarted before it has read a record.
    fn place_new_ones_at_the_end(&mut self, placed: &mut [(TopicPartition, Option<i64>)]) -> Result<(), KafkaError> {
        let open: Vec<usize> = (0..placed.len()).filter(|i| placed[*i].1.is_none()).collect();
        if open.is_empty() {
            return Ok(());
        }
        let names: Vec<TopicPartition> = open.iter().map(|i| placed[*i].0.clone()).collect();
        let committed = self.consumer.committed(&names, PATIENCE)?;
        for (i, _) in open.into_iter().zip(committed).filter(|(_, committed)| committed.is_none()) {
            let (name, at) = &mut placed[i];
            let (_, end) = self.consumer.watermarks(name, PATIENCE)?;
            *at = Some(end);
            self.parts.insert(name.clone(), Part { seen: end, given: end, durable: end, committed: -1 });
        }
        Ok(())
    }

    fn revoke(&mut self, parts: Vec<TopicPartition>, lost: bool) -> Result<(), Failure> {
        self.flush(Flush::Revoke, !lost)?;
        let names = contract_parts(&parts);
        self.runner.tokio.block_on(self.sink.revoke(&names))?;
        for part in &parts {
            self.parts.remove(part);
        }
        self.consumer.give(&parts).map_err(|e| failure("cannot give partitions back", &e))?;
        tracing::info!(sink = self.runner.options.name, partitions = parts.len(), lost, "partitions given back");
        Ok(())
    }

    fn stop(mut self) -> Result<(), Failure> {
        self.runner.options.board.set(Status::Stopping, Micros::now());
        let bound = *self.runner.shared.bound.lock();
        let flush = async { tokio::time::timeout(bound, self.sink.flush(Flush::Stop)).await };
        let outcome = match self.runner.tokio.block_on(flush) {
            Ok(Ok(flushed)) => self.settle(flushed, true, true),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::Reconnect(format!("not flushed within {} s", bound.as_secs()))),
        };
        if let Err(failure) = outcome {
            tracing::warn!(sink = self.runner.options.name, "what was not flushed comes again at the next start: {failure}");
        } else {
            let names = contract_parts(&self.parts.keys().cloned().collect::<Vec<_>>());
            let _ = self.runner.tokio.block_on(async { tokio::time::timeout(bound, self.sink.revoke(&names)).await });
        }
        self.consumer.leave(Duration::from_secs(1));
        Ok(())
    }

    // ---- health ---------------------------------------------------------------------------------------------------------------

    fn is_well(&mut self) {
        self.ailing = None;
        self.runner.options.board.set(Status::Running, Micros::now());
    }

    fn is_ailing(&mut self, status: Status) {
        self.ailing = Some(Instant::now());
        let reason = status.reason().unwrap_or_default().to_owned();
        let needs_human = matches!(status, Status::Blocked(_));
        if self.runner.options.board.set(status, Micros::now()) {
            match needs_human {
                true => tracing::error!(sink = self.runner.options.name, "Kafka refuses it: {reason}"),
                false => tracing::warn!(sink = self.runner.options.name, "can't read from Kafka at the moment: {reason}"),
            }
        }
    }

    /// Says which topics do not exist: nothing comes of them, and no error either.
    fn look_for_topics(&mut self) {
        let options = &self.runner.options;
        self.look_at = Some(Instant::now() + LOOK_AGAIN);
        let Ok(there) = self.consumer.topics(Duration::from_secs(1)) else { return };
        let mut are_all_there = true;
        for topic in &options.topics {
            let is_there = there.iter().any(|name| is_meant(topic, name));
            are_all_there &= is_there;
            let part = format!("topic {topic}");
            if !is_there {
                let reason = "it does not exist yet, or this user may not see it; the sink begins when it is there: create it, or declare it under `topics`".to_owned();
                if options.board.set_part(&part, Status::Degraded(reason.clone()), Micros::now()) {
                    tracing::warn!(sink = options.name, topic, "{reason}");
                }
            } else if options.board.has_part(&part) {
                options.board.set_part(&part, Status::Running, Micros::now());
            }
        }
        if are_all_there {
            self.look_at = None;
        }
    }

    /// Nothing comes: where that may be Kafka's fault, ask.
    fn probe(&mut self) {
        if self.ailing.is_some_and(|asked| asked.elapsed() > PROBE) {
            self.ailing = Some(Instant::now());
            let known: Vec<&String> = self.runner.options.topics.iter().filter(|t| !t.contains('*')).collect();
            if let Ok(there) = self.consumer.topics(Duration::from_secs(1))
                && known.iter().all(|t| there.contains(t))
            {
                self.is_well();
            }
        }
    }
}

fn failure(what: &str, error: &KafkaError) -> Failure {
    let text = format!("{what}: {error}");
    match error.class {
        Class::Denied | Class::Topic => Failure::Blocked(text),
        _ => Failure::Reconnect(text),
    }
}

/// A topic's name as Kafka's subscription takes it: a pattern becomes a regular expression.
fn subscription(topic: &str) -> String {
    if !topic.contains('*') {
        return topic.to_owned();
    }
    let mut regex = String::from("^");
    for c in topic.chars() {
        match c {
            '*' => regex.push_str(".*"),
            '.' => regex.push_str("\\."),
            c => regex.push(c),
        }
    }
    regex.push('$');
    regex
}

/// Whether a sink's topic, a name or a pattern with `*`, means this one.
fn is_meant(topic: &str, name: &str) -> bool {
    let Some((first, rest)) = topic.split_once('*') else { return topic == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut pieces = rest.split('*').peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return left.ends_with(piece);
        }
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    true
}

fn contract_parts(parts: &[TopicPartition]) -> Vec<Partition> {
    parts.iter().map(|p| Partition { topic: p.topic.clone(), partition: p.partition }).collect()
}

/// Copies a message into the records.
fn push(records: &mut Records, message: &Message<'_>, options: &SinkOptions) {
    let is_same = |p: &Partition| p.partition == message.partition() && &*p.topic == message.topic();
    // The last one, nearly always; the records of one partition may come in several runs.
    let part = match records.parts.iter().rposition(is_same) {
        Some(index) => index,
        None => {
            let topic =
                records.parts.iter().find(|p| &*p.topic == message.topic()).map_or_else(|| message.topic().into(), |p| p.topic.clone());
            records.parts.push(Partition { topic, partition: message.partition() });
            records.parts.len() - 1
        }
    };
    let heap = &mut records.heap;
    let mut copy = |bytes: &[u8]| {
        let start = heap.len() as u32;
        heap.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    };
    let (key, mut value) = (message.key().map(&mut copy), message.value().map(&mut copy));
    let mut prefix = 0;
    if options.registry.is_some()
        && let (Some(span), Some(bytes)) = (&mut value, message.value())
    {
        prefix = options.known.get(message.topic()).prefix_of(bytes);
        *span = Span { start: span.start + u32::from(prefix), len: span.len - u32::from(prefix) };
    }
    let start = heap.len() as u32;
    for (name, value) in message.headers() {
        push_header(heap, name, value);
    }
    let headers = Span { start, len: heap.len() as u32 - start };
    records.records.push(Record {
        part: part as u32,
        offset: message.offset(),
        timestamp_ms: message.timestamp_ms(),
        key,
        value,
        headers,
        prefix,
    });
}

/// Reads a sample in any of its forms, behind a prefix. JSON can't be confused: Avro begins with the length of the tag, which is not negative, as
/// `{` would be. The inner error says why it is none.
///
/// Errors: the registry can't be asked for the schema it was written with.
fn decode_sample(
    format: Format,
    whole: &[u8],
    prefix: u8,
    writers: Option<&mut Writers>,
    batch: &mut Batch,
) -> Result<Result<(), String>, Failure> {
    let rows = batch.rows.len();
    let value = &whole[usize::from(prefix)..];
    let outcome = match (format, writers.zip(SchemaId::split(whole))) {
        (Format::Protobuf, _) => protobuf::decode(value, batch).map_err(|error| error.to_string()),
        _ if value.first() == Some(&b'{') => json::decode(value, batch).map_err(|error| error.to_string()),
        (_, Some((writers, (id, value)))) => writers.decode(id, value, batch)?,
        (_, None) => avro::decode(value, batch).map_err(|error| error.to_string()),
    };
    Ok(outcome.map_err(|error| {
        batch.rows.truncate(rows);
        format!("is no sample: {error}")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_becomes_a_regular_expression_and_a_name_stays() {
        assert_eq!(subscription("orders"), "orders");
        assert_eq!(subscription("machine-*"), "^machine-.*$");
        assert_eq!(subscription("a.b*"), "^a\\.b.*$");
    }

    #[test]
    fn a_pattern_means_what_its_regular_expression_matches() {
        for (topic, means, not) in [
            ("orders", &["orders"][..], &["orders2", "order"][..]),
            ("machine-*", &["machine-", "machine-7"], &["machine", "a-machine-7"]),
            ("*", &["", "anything"], &[]),
            ("a*b*c", &["abc", "a1b2c", "abbc"], &["ab", "acb", "abcd"]),
        ] {
            assert!(means.iter().all(|name| is_meant(topic, name)), "{topic}");
            assert!(!not.iter().any(|name| is_meant(topic, name)), "{topic}");
        }
    }

    #[test]
    fn what_is_no_sample_is_refused_with_the_reason_and_leaves_no_row() {
        let mut batch = Batch::new();
        for bytes in [&b"{\"tag\": 1}"[..], b"", b"\xff\xff", b"hello"] {
            let refused = decode_sample(Format::Avro, bytes, 0, None, &mut batch).unwrap().unwrap_err();
            assert!(refused.starts_with("is no sample: "));
            assert!(batch.rows.is_empty());
        }
    }
}
