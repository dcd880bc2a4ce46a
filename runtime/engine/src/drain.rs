//! The drain: one thread that reads every log and produces to Kafka.
//!
//! ```text
//! loop {                                                  // woken by appends, reports and commands
//!     take reports; advance each cursor over its contiguous delivered head
//!     while there is room in flight {
//!         pick a lane: first before normal before bulk by weight, fair among sources
//!         read, patch, produce
//!     }
//!     at_least_once: write cursors and positions behind what was delivered, twice a second
//!     exactly_once:  every `commit`, cursors and positions join the data's transaction, and it commits
//! }
//! ```
//!
//! - [`lane`](self): one log: its window in flight, and what happens where a record is in the way.
//! - `pump`: the loop, and the books it keeps; in it `commit`: how far each log is, told to Kafka.
//! - `client`: the producer, topics made ready before their first record.
//! - `reports`: what the producer's thread tells this one.
//!
//! Invariants: a cursor never passes a record that Kafka does not have (or its dead letter). Kafka away means waiting, never dropping. A lane
//! in trouble stops alone. After anything that leaves a transaction in doubt, the cursors are read again from Kafka before a record is sent.

mod client;
mod lane;
mod pump;
mod reports;

use crate::book::Book;
use crate::frame::RESERVED;
use crate::outlet::Outlet;
use crate::registrar::{Answer, Registrar};
use crate::topics::Topics;
use millrace_kafka::{Settings, TopicSpec};
use millrace_schemas::contract::Kind;
use parking_lot::{Condvar, Mutex};
use pump::Pump;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the drain is made with.
pub struct DrainOptions {
    pub settings: Settings,
    /// `Some`: exactly once, with this transactional id and commit interval; `None`: at least once.
    pub transactions: Option<(String, Duration)>,
    /// Formats and dead-letter topics.
    pub topics: Topics,
    /// Created when missing; a contradiction is reported.
    pub declared: Vec<TopicSpec>,
    pub outlets: Vec<Arc<Outlet>>,
    /// How long a record waits for company, unless the properties say so.
    pub linger: Duration,
    /// The schemas that records in the logs were written with.
    pub book: Arc<Book>,
    /// `None`: values go out without ids.
    pub registrar: Option<Arc<Registrar>>,
}

/// Why a batch can't go yet.
enum Hindrance {
    /// The registry is asked.
    Wait,
    /// It needs a human.
    Refused(String),
}

/// How the values of one topic and schema go out.
struct Way {
    /// Magic byte and id.
    prefix: Option<[u8; RESERVED]>,
    /// Bytes in front of the value that only a registry's readers want: the indexes of a Protobuf message.
    indexes: usize,
    /// Without a registry: readers find the schema by its fingerprint in a header.
    names_schema: bool,
}

impl Way {
    const PLAIN: Self = Self { prefix: None, indexes: 0, names_schema: false };

    /// What is sent of a value, whose reserved bytes lie in front of it.
    fn of_value(&self, value: Range<usize>, is_reserved: bool) -> Range<usize> {
        match self.prefix {
            _ if !is_reserved => value,
            Some(_) => value.start - RESERVED..value.end,
            None => (value.start + self.indexes).min(value.end)..value.end,
        }
    }
}

impl DrainOptions {
    fn way_of(&self, topic: &str, mark: u64) -> Result<Way, Hindrance> {
        if mark == 0 {
            return Ok(Way::PLAIN);
        }
        if let Some(registrar) = &self.registrar {
            return match registrar.id(topic, mark) {
                Answer::Id(id) => Ok(Way { prefix: Some(id.prefix()), ..Way::PLAIN }),
                Answer::Wait => Err(Hindrance::Wait),
                Answer::Refused(why) => Err(Hindrance::Refused(why)),
            };
        }
        let schema = self.book.get(mark);
        let names_schema = schema.as_ref().is_none_or(|schema| schema.kind != Kind::Json);
        Ok(Way { prefix: None, indexes: schema.map_or(0, |schema| schema.indexes.len()), names_schema })
    }

    /// How long a transaction stays open; `None`: there are none.
    fn commit_every(&self) -> Option<Duration> {
        self.transactions.as_ref().map(|(_, every)| *every)
    }
}

/// The drain at one moment.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct DrainReport {
    /// `Starting`, `Running`, `Degraded` (Kafka is away), `Blocked`, `Stopped`.
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Declared topics that are otherwise in Kafka, or refused by it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contradictions: Vec<String>,
    pub transactions_committed: u64,
    pub transactions_aborted: u64,
    /// Records handed to the producer whose delivery is not reported yet.
    pub in_flight: usize,
    /// Why records wait for the schema registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
}

/// The drain's thread.
pub struct Drain {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    signal: Arc<Signal>,
    /// When to stop at the latest.
    stop: Mutex<Option<Instant>>,
    report: Mutex<DrainReport>,
}

/// Wakes the drain. Cheap where nobody sleeps.
#[derive(Default)]
struct Signal {
    woken: Mutex<bool>,
    condvar: Condvar,
}

impl Signal {
    fn wake(&self) {
        let mut woken = self.woken.lock();
        if !std::mem::replace(&mut *woken, true) {
            self.condvar.notify_one();
        }
    }

    fn wait(&self, timeout: Duration) {
        let mut woken = self.woken.lock();
        if !*woken {
            self.condvar.wait_for(&mut woken, timeout);
        }
        *woken = false;
    }
}

impl Drain {
    /// Starts the thread; it connects by itself, for as long as that takes.
    ///
    /// Errors: no thread can be had.
    pub fn start(mut options: DrainOptions) -> Result<Self, String> {
        options.settings.properties.entry("linger.ms".into()).or_insert_with(|| options.linger.as_millis().to_string());
        let report = DrainReport { status: "Starting", ..DrainReport::default() };
        let shared = Arc::new(Shared { signal: Arc::default(), stop: Mutex::default(), report: Mutex::new(report) });
        for (_, log) in options.outlets.iter().flat_map(|o| &o.lanes) {
            let signal = shared.signal.clone();
            log.on_append(move |_| signal.wake());
        }
        if let Some(registrar) = &options.registrar {
            let signal = shared.signal.clone();
            registrar.on_answer(move || signal.wake());
        }
        let pump = Pump::new(options, shared.clone());
        let thread = std::thread::Builder::new().name("drain".into()).spawn(move || pump.run());
        let thread = thread.map_err(|e| format!("cannot start a thread for the drain: {e}"))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    pub fn report(&self) -> DrainReport {
        self.shared.report.lock().clone()
    }

    /// Sends what is in the logs for at most this long, saves the cursors, and ends; the rest goes next time. Blocks; safe to call twice.
    pub fn stop(&self, bound: Duration) {
        let Some(thread) = self.thread.lock().take() else { return };
        let deadline = Instant::now() + bound;
        *self.shared.stop.lock() = Some(deadline);
        self.shared.signal.wake();
        // Kafka may hold the thread a little beyond; what it does then is repeated at the next start.
        let grace = deadline + Duration::from_secs(2);
        while !thread.is_finished() && Instant::now() < grace {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        if thread.is_finished() && thread.join().is_err() {
            tracing::error!("the drain ended in a panic; what it had not sent goes at the next start");
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}
