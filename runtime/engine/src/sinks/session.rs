//! One life of a sink: from the subscription to its end, one turn after the other.

use crate::dead;
use crate::hold::{Order, Wanted};
use crate::sinks::decode::{as_json, decode_sample, push};
use crate::sinks::lag::survey;
use crate::sinks::options::{Gap, Shared, SinkOptions};
use crate::sinks::topics::subscription;
use crate::writer_schemas::WriterSchemas;
use millrace_contract::{Failure, Flush, Input, Partition, Record, Records, Sink, Status};
use millrace_kafka::{Class, Connection, Consumer, KafkaError, Polled, Start, TopicPartition};
use millrace_registry::SchemaId;
use millrace_schemas::{Batch, Micros, Span};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Records handed to a sink at once, and their bytes (one record may be larger).
const RECORDS: usize = 4096;

const BYTES: usize = 4 << 20;

/// Back-off between sessions: doubles from the first to the last, with jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);

const BACKOFF_LAST: Duration = Duration::from_secs(60);

/// What needs a human is tried again this slowly.
const BLOCKED_FOR: Duration = Duration::from_secs(60);

/// Topics that are not there are looked for so long after the start, when the drain has made those that are declared, and so often from then on.
const LOOK_FIRST: Duration = Duration::from_secs(3);

/// How long Kafka may take for dead letters, for offsets and for a single record.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long the last flush may take before it rests or begins anew.
const REST_BOUND: Duration = Duration::from_secs(30);

pub(super) struct Runner {
    pub(super) options: SinkOptions,
    pub(super) shared: Arc<Shared>,
    pub(super) tokio: tokio::runtime::Handle,
}

impl Runner {
    pub(super) fn run(self) {
        // Sinks may use tokio where they are made and dropped, too.
        let _context = self.tokio.enter();
        let board = self.options.board.clone();
        let mut backoff = BACKOFF_FIRST;
        while !self.is_stopping() {
            let order = self.order();
            if order.wanted != Wanted::Running {
                self.rest(order);
                continue;
            }
            let started = Instant::now();
            // A session that was told to end is followed by what is wanted now.
            let Err(failure) = Session::open(&self, order).and_then(Session::run) else { continue };
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
            if !matches!(failure, Failure::RetryAfter(..))
                && let Ok(standing) = survey(&self.options.settings, &self.shared.lag)
            {
                *self.shared.standing.lock() = standing;
            }
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
            if self.order() == order {
                self.shared.stopped.wait_for(&mut bound, wait);
            }
        }
        board.set(Status::Stopped, Micros::now());
    }

    fn order(&self) -> Order {
        *self.shared.order.lock()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.order().ends
    }

    /// Waits while it is paused or stopped.
    fn rest(&self, order: Order) {
        let word = if order.wanted == Wanted::Paused { Status::Paused } else { Status::Stopped };
        self.options.board.set(word, Micros::now());
        self.shared.rests.store(true, Relaxed);
        let mut bound = self.shared.bound.lock();
        while self.order() == order {
            self.shared.stopped.wait(&mut bound);
        }
        self.shared.rests.store(false, Relaxed);
        self.options.board.set(Status::Starting, Micros::now());
    }
}

/// What is known of an assigned partition.
pub(super) struct Part {
    /// The offset behind the last record seen.
    pub(super) seen: i64,
    /// The offset behind the last record handed to the sink.
    pub(super) given: i64,
    /// Below it everything is durable, says the sink; a commit may have failed since.
    pub(super) durable: i64,
    /// Committed, or where it began.
    pub(super) committed: i64,
}

/// One instance of the sink, as a member of its group.
pub(super) struct Session<'r> {
    pub(super) runner: &'r Runner,
    /// What it began with.
    pub(super) order: Order,
    pub(super) consumer: Consumer,
    pub(super) sink: Box<dyn Sink>,
    pub(super) input: Input,
    pub(super) parts: HashMap<TopicPartition, Part>,
    /// What Kafka had no more when they were assigned, and the position has not passed yet.
    pub(super) gaps: HashMap<TopicPartition, Gap>,
    pub(super) records: Records,
    /// Of records that are handed to the sink at once.
    pub(super) bytes: usize,
    pub(super) letters: dead::Letters,
    pub(super) writers: Option<WriterSchemas>,
    /// Dead letters sent since the last commit.
    pub(super) letters_open: bool,
    pub(super) flush_at: Instant,
    pub(super) flush_every: Duration,
    /// Kafka is away, since this was last asked.
    pub(super) ailing: Option<Instant>,
    /// This session came to run.
    pub(super) has_run: bool,
    /// The sink reads its partitions itself, which are paused.
    pub(super) is_held: bool,
    /// When to look whether the topics are there; `None`: they were.
    pub(super) look_at: Option<Instant>,
}

impl<'r> Session<'r> {
    pub(super) fn open(runner: &'r Runner, order: Order) -> Result<Self, Failure> {
        let options = &runner.options;
        let sink = (options.make)();
        // One that holds its offsets at the target is always told where to begin, so that nothing is skipped unseen.
        let start = match options.from_latest {
            _ if sink.wants_upstream() => Start::Never,
            true => Start::Latest,
            false => Start::Earliest,
        };
        let (mut settings, mut bytes) = (options.settings.clone(), BYTES);
        if let Some(ahead) = sink.reads_ahead() {
            bytes = bytes.min(ahead as usize);
            for (name, value) in [("queued.max.messages.kbytes", ahead.div_ceil(1 << 10)), ("fetch.message.max.bytes", ahead)] {
                settings.properties.entry(name.to_owned()).or_insert_with(|| value.to_string());
            }
        }
        settings.properties.entry("group.instance.id".to_owned()).or_insert_with(|| options.member.clone());
        // What a dead runtime had is read on by the others when they have its sources.
        if let Some(session) = options.session {
            settings.properties.entry("session.timeout.ms".to_owned()).or_insert_with(|| session.as_millis().to_string());
        }
        let consumer = Consumer::group(&settings, &options.group, start).map_err(|e| failure("cannot read from Kafka", &e))?;
        let patterns: Vec<String> = options.topics.iter().map(|t| subscription(t)).collect();
        consumer.subscribe(patterns.iter().map(String::as_str)).map_err(|e| failure("cannot subscribe", &e))?;
        let (input, flush_every) = (sink.input(), sink.flush_every().max(Duration::from_millis(10)));
        Ok(Self {
            runner,
            order,
            consumer,
            sink,
            input,
            parts: HashMap::new(),
            gaps: HashMap::new(),
            records: Records::default(),
            bytes,
            letters: dead::Letters::new(&options.settings),
            writers: options.registry.clone().map(|client| WriterSchemas::new(client, runner.tokio.clone())),
            letters_open: false,
            flush_at: Instant::now() + flush_every,
            flush_every,
            ailing: None,
            has_run: false,
            is_held: false,
            look_at: Some(Instant::now() + LOOK_FIRST),
        })
    }

    pub(super) fn run(mut self) -> Result<(), Failure> {
        loop {
            if self.runner.order() != self.order {
                return self.stop();
            }
            let now = Instant::now();
            if now >= self.flush_at {
                self.flush(Flush::Tick, true)?;
                self.hand_over_all()?;
                self.flush_at = Instant::now() + self.flush_every;
            }
            if self.look_at.is_some_and(|at| now >= at) {
                self.look_for_topics();
            }
            let wait = self.flush_at.saturating_duration_since(now).min(Duration::from_millis(200));
            if self.is_held {
                self.turn(wait)?;
            }
            let polled = self.fetch(if self.is_held { Duration::ZERO } else { wait });
            match polled {
                // On its way when the partitions were paused: the sink reads it itself.
                Polled::Messages(_) if self.is_held => {}
                Polled::Messages(count) => {
                    self.is_well();
                    self.runner.shared.consumed.fetch_add(count as u64, Relaxed);
                    self.write()?;
                    if self.sink.is_full() {
                        self.flush_at = Instant::now();
                    }
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
                    // Retention was quicker, or the topic was made anew: the next instance asks what is still there, and counts what is not.
                    _ if error.is_out_of_range() => {
                        return Err(Failure::RetryAfter(
                            Duration::from_millis(100),
                            format!("what was to be read next is not in Kafka any more: {error}"),
                        ));
                    }
                    Class::Denied => self.is_ailing(Status::Blocked(error.to_string())),
                    _ => self.is_ailing(Status::Degraded(error.to_string())),
                },
                Polled::End(part, offset) => {
                    self.runner.shared.lag.lock().at_end(&part, offset);
                    self.probe();
                }
                Polled::Idle | Polled::Connection(Connection::Up) => self.probe(),
            }
        }
    }

    /// Reads messages into `records`.
    pub(super) fn fetch(&mut self, wait: Duration) -> Polled {
        let Self { consumer, records, runner, bytes, .. } = self;
        let options = &runner.options;
        records.parts.clear();
        records.records.clear();
        records.heap.clear();
        consumer.poll(wait, |message| {
            push(records, &message, options);
            records.records.len() < RECORDS && records.heap.len() < *bytes
        })
    }

    /// Notes for each partition how far the records reach.
    pub(super) fn reach(&mut self, note: impl Fn(&mut Part, i64)) {
        for (index, part) in self.records.parts.iter().enumerate() {
            let last = self.records.records.iter().rev().find(|r| r.part as usize == index);
            if let (Some(record), Some(known)) = (last, self.parts.get_mut(&TopicPartition::new(part.topic.clone(), part.partition))) {
                note(known, record.offset + 1);
            }
        }
    }

    /// Notes how old the last record of each partition is, and how large they all are.
    fn note_lag(&self) {
        let mut lag = self.runner.shared.lag.lock();
        for (index, part) in self.records.parts.iter().enumerate() {
            if let Some(record) = self.records.records.iter().rev().find(|record| record.part as usize == index) {
                lag.read(&TopicPartition::new(part.topic.clone(), part.partition), record.offset + 1, record.timestamp_ms);
            }
        }
        lag.counted(self.records.records.len() as u64, self.records.heap.len() as u64, Micros::now().0 / 1_000);
    }

    pub(super) fn write(&mut self) -> Result<(), Failure> {
        self.reach(|part, next| part.seen = next);
        self.note_lag();
        match self.input {
            Input::Raw => self.decode_wanted()?,
            Input::Samples => self.decode()?,
            Input::Documents => self.show()?,
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
    pub(super) fn decode(&mut self) -> Result<(), Failure> {
        let mut batch = self.records.batch.take().unwrap_or_default();
        batch.clear();
        let mut kept = Vec::with_capacity(self.records.records.len());
        for record in std::mem::take(&mut self.records.records) {
            if self.decode_one(&record, &mut batch)? == Some(true) {
                kept.push(record);
            }
        }
        self.records.records = kept;
        self.records.batch = Some(batch);
        Ok(())
    }

    /// Decodes the samples of those topics that the sink asks for beside raw records; what is none becomes a dead letter.
    fn decode_wanted(&mut self) -> Result<(), Failure> {
        self.records.rows.clear();
        let wanted: Vec<bool> = self.records.parts.iter().map(|part| self.sink.wants_samples(&part.topic)).collect();
        if !wanted.contains(&true) {
            return Ok(());
        }
        let mut batch = self.records.batch.take().unwrap_or_default();
        batch.clear();
        let mut kept = Vec::with_capacity(self.records.records.len());
        for record in std::mem::take(&mut self.records.records) {
            let decoded = if wanted[record.part as usize] { self.decode_one(&record, &mut batch)? } else { None };
            if decoded != Some(false) {
                self.records.rows.push(decoded.map(|_| batch.rows.len() as u32 - 1));
                kept.push(record);
            }
        }
        self.records.records = kept;
        self.records.batch = Some(batch);
        Ok(())
    }

    /// Reads a record as a sample into the next row; `false`: it is none, and a dead letter; `None`: it is a tombstone.
    fn decode_one(&mut self, record: &Record, batch: &mut Batch) -> Result<Option<bool>, Failure> {
        let Some(value) = record.value else { return Ok(None) };
        let format = self.runner.options.known.get(&self.records.partition(record).topic).format;
        let writers = self.writers.as_mut().filter(|_| usize::from(record.prefix) == SchemaId::PREFIX);
        let whole = Span { start: value.start - u32::from(record.prefix), len: value.len + u32::from(record.prefix) };
        match decode_sample(format, self.records.of(whole), record.prefix, writers, batch)? {
            Ok(()) => Ok(Some(true)),
            Err(reason) => {
                self.letter(record, &reason)?;
                Ok(Some(false))
            }
        }
    }

    /// Reads the records as documents, in JSON; what can't be read becomes a dead letter.
    pub(super) fn show(&mut self) -> Result<(), Failure> {
        self.records.documents.clear();
        let mut kept = Vec::with_capacity(self.records.records.len());
        for record in std::mem::take(&mut self.records.records) {
            let topic = self.runner.options.known.get(&self.records.partition(&record).topic);
            match as_json(&topic, &record, &mut self.records.heap, self.writers.as_mut())? {
                Ok(document) => {
                    self.records.documents.push(document);
                    kept.push(record);
                }
                Err(reason) => self.letter(&record, &reason)?,
            }
        }
        self.records.records = kept;
        Ok(())
    }

    pub(super) fn flush(&mut self, why: Flush, commits: bool) -> Result<(), Failure> {
        // A target that holds the offsets itself moves them in its flush: what it refused must be safe before.
        self.flush_letters()?;
        let flushed = self.runner.tokio.block_on(self.sink.flush(why))?;
        self.settle(flushed, commits, why != Flush::Tick)
    }

    pub(super) fn stop(mut self) -> Result<(), Failure> {
        self.runner.options.board.set(Status::Stopping, Micros::now());
        let bound = match self.runner.is_stopping() {
            true => *self.runner.shared.bound.lock(),
            false => REST_BOUND,
        };
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
}

pub(super) fn failure(what: &str, error: &KafkaError) -> Failure {
    let text = format!("{what}: {error}");
    match error.class {
        Class::Denied | Class::Topic => Failure::Blocked(text),
        _ => Failure::Reconnect(text),
    }
}

pub(super) fn contract_parts(parts: &[TopicPartition]) -> Vec<Partition> {
    parts.iter().map(|p| Partition { topic: p.topic.clone(), partition: p.partition }).collect()
}
