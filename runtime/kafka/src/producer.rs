//! The producer: one per runtime, shared by all logs.
//!
//! ```text
//! send() ── copied into librdkafka's queue ── linger, batches, retries ── broker
//!                                                                           │
//! Deliveries::reports() <── polling thread <── delivery reports ────────────┘   in groups, never per message
//! ```
//!
//! Every message that `send` took is reported exactly once, whatever happens, also when the producer is dropped. Transactions are
//! for one thread at a time. A producer whose reports or transactions say `Fatal` or `Fenced` is dropped by its owner, who makes a
//! new one and goes on from its cursors.

use crate::error::{Class, Connection, KafkaError, classify};
use crate::events::{connection_of, refresh_token};
use crate::logging::LogBridge;
use crate::partition::{GroupMetadata, TopicPartition};
use crate::properties::{PRODUCER, PRODUCER_FIXED, Settings};
use crate::raw::{HeaderList, List, Native, Queue, Role, TopicHandle, TransactionFault};
use parking_lot::Mutex;
use rdkafka::bindings as sys;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Under load the polling thread takes reports this often, many at once: who waits for them wakes it.
const NAP: Duration = Duration::from_millis(20);
/// Reports of a group never exceed this.
const REPORTS: usize = 1024;
/// How often a producer whose cluster is away asks whether it is back.
const PROBE: Duration = Duration::from_secs(1);

/// What became of one message.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// As given to `send`.
    pub opaque: u64,
    pub partition: i32,
    /// The record's offset in Kafka; -1 if it was not delivered.
    pub offset: i64,
    /// `None`: delivered.
    pub error: Option<Box<KafkaError>>,
}

/// Who hears what became of the messages. Called on the producer's polling thread: be short, don't block.
pub trait Deliveries: Send + Sync + 'static {
    /// What became of some messages; of one partition they come in order.
    fn reports(&self, reports: &[Report]);
    /// The connection to the cluster changed.
    fn connection(&self, _state: Connection) {}
}

/// A message to send; its bytes are copied before `send` returns.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// `None`: by the key's hash, as Java does.
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    /// `None`: a tombstone.
    pub value: Option<&'a [u8]>,
    /// Milliseconds since 1970; zero: now.
    pub timestamp_ms: i64,
    /// Comes back in the report.
    pub opaque: u64,
}

/// Why a message was not taken; there will be no report of it.
#[derive(Debug)]
pub enum SendError {
    /// The queue is full: go on when reports came.
    QueueFull,
    /// The transaction can only be aborted; the reports say whose fault it was.
    Doomed(KafkaError),
    /// Nothing of it will be taken; what to do is the error's class.
    Refused(KafkaError),
}

/// What a failed call of a transaction means.
#[derive(Debug)]
pub enum TransactionError {
    /// Call it again.
    Retriable(KafkaError),
    /// Abort, and begin again with the same records.
    Abortable(KafkaError),
    /// Another producer has the transactional id.
    Fenced(KafkaError),
    /// Make a new producer.
    Fatal(KafkaError),
}

impl TransactionError {
    pub fn error(&self) -> &KafkaError {
        match self {
            Self::Retriable(error) | Self::Abortable(error) | Self::Fenced(error) | Self::Fatal(error) => error,
        }
    }
}

impl std::fmt::Display for TransactionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error().fmt(f)
    }
}

impl std::error::Error for TransactionError {}

impl From<TransactionFault> for TransactionError {
    fn from(fault: TransactionFault) -> Self {
        let TransactionFault { error, fatal, retriable, abort } = fault;
        if error.class == Class::Fenced && (fatal || !abort) {
            Self::Fenced(error)
        } else if fatal {
            Self::Fatal(error)
        } else if abort {
            Self::Abortable(error)
        } else if retriable {
            Self::Retriable(error)
        } else {
            Self::Fatal(error)
        }
    }
}

/// A topic of one producer: look it up once, send with it often.
#[derive(Clone)]
pub struct Topic {
    name: Arc<str>,
    handle: Arc<TopicHandle>,
}

impl Topic {
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Topic").field(&self.name).finish()
    }
}

pub struct Producer {
    native: Arc<Native>,
    topics: Mutex<HashMap<Arc<str>, Topic>>,
    queue: Arc<Queue>,
    stop: Arc<AtomicBool>,
    /// Calls that wait for reports.
    urgent: Arc<AtomicUsize>,
    polling: Option<JoinHandle<()>>,
}

impl Producer {
    /// A producer of the `at_least_once` kind: idempotent, waiting for Kafka as long as it takes.
    pub fn new(settings: &Settings, deliveries: Arc<dyn Deliveries>) -> Result<Self, KafkaError> {
        let mut fixed = PRODUCER_FIXED.to_vec();
        fixed.push(("message.timeout.ms", "0"));
        Self::start(settings, &fixed, deliveries)
    }

    /// A producer with transactions. Call [`Producer::init_transactions`] first, which fences whoever had the id before.
    pub fn transactional(settings: &Settings, id: &str, timeout: Duration, deliveries: Arc<dyn Deliveries>) -> Result<Self, KafkaError> {
        let timeout = timeout.as_millis().to_string();
        let mut fixed = PRODUCER_FIXED.to_vec();
        // A message may not outlive its transaction: librdkafka takes the transaction's timeout for both.
        fixed.extend([("transactional.id", id), ("transaction.timeout.ms", timeout.as_str())]);
        Self::start(settings, &fixed, deliveries)
    }

    fn start(settings: &Settings, fixed: &[(&str, &str)], deliveries: Arc<dyn Deliveries>) -> Result<Self, KafkaError> {
        let conf = settings.conf(PRODUCER, fixed)?;
        let mut events = sys::RD_KAFKA_EVENT_DR | sys::RD_KAFKA_EVENT_ERROR;
        if settings.wants_token() {
            events |= sys::RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH;
        }
        let native = Native::new(Role::Producer, conf, events, LogBridge::new(format!("{} producer", settings.client_id)))?;
        let queue = Arc::new(native.queue());
        let stop = Arc::new(AtomicBool::new(false));
        let urgent = Arc::new(AtomicUsize::new(0));
        let poller = Poller {
            queue: queue.clone(),
            stop: stop.clone(),
            urgent: urgent.clone(),
            deliveries,
            settings: settings.clone(),
            group: Vec::with_capacity(REPORTS),
            away: Away::default(),
        };
        let polling = std::thread::Builder::new().name("kafka-reports".into()).spawn(move || poller.run()).map_err(|e| {
            KafkaError::new(sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE as i32, format!("cannot start a thread: {e}"))
        })?;
        Ok(Self { native, topics: Mutex::default(), queue, stop, urgent, polling: Some(polling) })
    }

    /// The handle of a topic, made once.
    pub fn topic(&self, name: &str) -> Result<Topic, KafkaError> {
        let mut topics = self.topics.lock();
        if let Some(topic) = topics.get(name) {
            return Ok(topic.clone());
        }
        let topic = Topic { name: name.into(), handle: Arc::new(self.native.topic(name)?) };
        topics.insert(topic.name.clone(), topic.clone());
        Ok(topic)
    }

    /// Hands a message over; never blocks.
    #[inline]
    pub fn send<'h>(
        &self,
        topic: &Topic,
        message: &Outgoing<'_>,
        headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) -> Result<(), SendError> {
        debug_assert!(topic.handle.belongs_to(&self.native));
        let mut list: Option<HeaderList> = None;
        for (name, value) in headers {
            list.get_or_insert_with(HeaderList::new).push(name, value);
        }
        let code = self.native.produce(
            &topic.handle,
            message.partition.unwrap_or(-1),
            message.key,
            message.value,
            message.timestamp_ms,
            list,
            message.opaque,
        );
        const FULL: i32 = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL as i32;
        const STATE: i32 = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__STATE as i32;
        match code {
            0 => Ok(()),
            FULL => Err(SendError::QueueFull),
            code => Err(match self.native.fatal() {
                Some(fatal) => SendError::Refused(fatal),
                None => {
                    let error = KafkaError::described(code, &format!("cannot send to {}", topic.name));
                    if code == STATE { SendError::Doomed(error) } else { SendError::Refused(error) }
                }
            }),
        }
    }

    /// Messages that were taken and are not reported yet, and requests about them.
    pub fn waiting(&self) -> usize {
        self.native.waiting()
    }

    /// Names of all topics of the cluster, those without a leader at the moment too.
    pub fn topics(&self, timeout: Duration) -> Result<HashSet<String>, KafkaError> {
        const UNKNOWN: i32 = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as i32;
        Ok(self.native.metadata(None, timeout)?.into_iter().filter(|t| t.error != UNKNOWN).map(|t| t.name).collect())
    }

    /// Sends what waits without lingering, and waits until all of it is reported.
    pub fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.urgently(|native| native.flush(timeout))
    }

    /// Makes a call that ends only when reports have been taken.
    fn urgently<T>(&self, call: impl FnOnce(&Native) -> T) -> T {
        self.urgent.fetch_add(1, Ordering::AcqRel);
        if let Some(polling) = &self.polling {
            polling.thread().unpark();
        }
        let outcome = call(&self.native);
        self.urgent.fetch_sub(1, Ordering::AcqRel);
        outcome
    }

    /// Gives up everything that waits or is in flight; each message is reported as failed.
    pub fn purge(&self) {
        self.native.purge();
    }

    /// The error that ended this producer for good, if one did.
    pub fn fatal(&self) -> Option<KafkaError> {
        self.native.fatal()
    }

    pub fn init_transactions(&self, timeout: Duration) -> Result<(), TransactionError> {
        Ok(self.native.init_transactions(timeout)?)
    }

    pub fn begin(&self) -> Result<(), TransactionError> {
        Ok(self.native.begin_transaction()?)
    }

    /// Sends what waits, and commits once all of it is delivered.
    pub fn commit(&self, timeout: Duration) -> Result<(), TransactionError> {
        Ok(self.urgently(|native| native.commit_transaction(timeout))?)
    }

    /// Gives up what waits, and aborts.
    pub fn abort(&self, timeout: Duration) -> Result<(), TransactionError> {
        Ok(self.urgently(|native| native.abort_transaction(timeout))?)
    }

    /// Commits a consumer's offsets with the transaction, fenced by its membership.
    pub fn send_offsets(
        &self,
        offsets: &[(TopicPartition, i64)],
        group: &GroupMetadata,
        timeout: Duration,
    ) -> Result<(), TransactionError> {
        let mut list = List::new();
        for (part, offset) in offsets {
            list.push(&part.topic, part.partition, *offset).map_err(TransactionError::Fatal)?;
        }
        Ok(self.native.send_offsets(&list, group.handle(), timeout)?)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.native.purge();
        // The reports of what was purged come out of the queue before it ends.
        let _ = self.flush(Duration::from_secs(2));
        self.stop.store(true, Ordering::Release);
        self.queue.wake();
        if let Some(polling) = self.polling.take() {
            polling.thread().unpark();
            let _ = polling.join();
        }
    }
}

/// Ends whoever has this transactional id: what it has open is aborted, and nothing of it is committed any more.
///
/// Errors: the cluster does not answer within the timeout, or refuses.
pub fn fence_out(settings: &Settings, id: &str, timeout: Duration) -> Result<(), KafkaError> {
    struct Nobody;
    impl Deliveries for Nobody {
        fn reports(&self, _: &[Report]) {}
    }
    let producer = Producer::transactional(settings, id, timeout, Arc::new(Nobody))?;
    producer.init_transactions(timeout).map_err(|error| error.error().clone())
}

/// The thread that takes events out of the queue.
struct Poller {
    queue: Arc<Queue>,
    stop: Arc<AtomicBool>,
    urgent: Arc<AtomicUsize>,
    deliveries: Arc<dyn Deliveries>,
    settings: Settings,
    group: Vec<Report>,
    away: Away,
}

/// Whether the cluster is away, as far as is known.
#[derive(Default)]
struct Away {
    since: Option<Instant>,
    probed: Option<Instant>,
}

impl Poller {
    fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            let Some(event) = self.queue.poll(Duration::from_millis(500)) else {
                self.probe();
                continue;
            };
            self.take(&event);
            while let Some(event) = self.queue.poll(Duration::ZERO) {
                self.take(&event);
            }
            if self.urgent.load(Ordering::Acquire) == 0 && !self.stop.load(Ordering::Acquire) {
                std::thread::park_timeout(NAP);
            }
        }
        // What is still in the queue was taken, so it is reported.
        while let Some(event) = self.queue.poll(Duration::ZERO) {
            if event.kind() == sys::RD_KAFKA_EVENT_DR {
                self.deliver(&event);
            }
        }
    }

    fn take(&mut self, event: &crate::raw::Event) {
        match event.kind() {
            sys::RD_KAFKA_EVENT_DR => self.deliver(event),
            sys::RD_KAFKA_EVENT_ERROR => self.error(&event.error(), event.is_fatal()),
            sys::RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH => refresh_token(self.queue.native(), &self.settings),
            _ => {}
        }
    }

    fn deliver(&mut self, event: &crate::raw::Event) {
        let mut any = false;
        let (group, deliveries) = (&mut self.group, &self.deliveries);
        event.reports(|raw| {
            let error = raw.text.map(|text| Box::new(KafkaError { code: raw.code, class: classify(raw.code), text }));
            any |= error.is_none();
            group.push(Report { opaque: raw.opaque, partition: raw.partition, offset: raw.offset, error });
            if group.len() == REPORTS {
                deliveries.reports(group);
                group.clear();
            }
        });
        if !group.is_empty() {
            deliveries.reports(group);
            group.clear();
        }
        if any {
            self.back();
        }
    }

    fn error(&mut self, error: &KafkaError, fatal: bool) {
        if fatal {
            tracing::warn!(target: "kafka", client = self.settings.client_id, "the producer can't go on and will be replaced: {error}");
        }
        if let Some(state) = connection_of(error) {
            self.away.since.get_or_insert_with(Instant::now);
            self.deliveries.connection(state);
        }
    }

    fn back(&mut self) {
        if self.away.since.take().is_some() {
            self.away.probed = None;
            self.deliveries.connection(Connection::Up);
        }
    }

    /// With nothing to send there is no report to say that the cluster is back: ask.
    fn probe(&mut self) {
        if self.away.since.is_some() && self.away.probed.is_none_or(|at| at.elapsed() > PROBE) {
            self.away.probed = Some(Instant::now());
            if self.queue.native().metadata(None, Duration::from_millis(500)).is_ok() {
                self.back();
            }
        }
    }
}
