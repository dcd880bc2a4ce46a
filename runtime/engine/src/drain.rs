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
//! - [`lane`](self): one log: its window in flight, and what happens where a record is in the way; in it `send`: records on their way to the producer.
//! - `pump`: the loop, and the books it keeps; in it `commit`: how far each log is, told to Kafka.
//! - `client`: the producer, topics made ready before their first record.
//! - `pump/owning`: sources that change hands between runtimes.
//! - `reports`: what the producer's thread tells this one.
//!
//! Invariants: a cursor never passes a record that Kafka does not have (or its dead letter). Kafka away means waiting, never dropping. A lane
//! in trouble stops alone. After anything that leaves a transaction in doubt, the cursors are read again from Kafka before a record is sent.

mod client;
mod lane;
mod options;
mod pump;
mod reports;
mod shared;
mod source;

use crate::drain::pump::Pump;
use crate::drain::shared::{Lease, Order, Shared};
use crate::error::EngineError;
use crate::source_logs::SourceLogs;
use millrace_kafka::TopicSpec;
pub use options::DrainOptions;
use parking_lot::Mutex;
pub use shared::{DrainReport, Taken};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The drain's thread.
pub struct Drain {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drain {
    /// Starts the thread; it connects by itself, for as long as that takes.
    ///
    /// Errors: no thread can be had.
    pub fn start(mut options: DrainOptions) -> Result<Self, EngineError> {
        options.settings.properties.entry("linger.ms".into()).or_insert_with(|| options.linger.as_millis().to_string());
        let report = DrainReport { status: "Starting", ..DrainReport::default() };
        let shared = Arc::new(Shared {
            signal: Arc::default(),
            orders: Mutex::default(),
            leases: Mutex::default(),
            stop: Mutex::default(),
            report: Mutex::new(report),
        });
        shared.listen(&options.source_logs);
        if let Some(registrar) = &options.registrar {
            let signal = shared.signal.clone();
            registrar.on_answer(move || signal.wake());
        }
        let pump = Pump::new(options, shared.clone());
        let thread = std::thread::Builder::new().name("drain".into()).spawn(move || pump.run());
        let thread = thread.map_err(|error| EngineError::Thread { what: "the drain".to_owned(), error })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Takes on sources and topics that a reload added. What is there goes on; the logs of a source that is gone are sent to their ends.
    pub fn add(&self, source_logs: Vec<Arc<SourceLogs>>, declared: Vec<TopicSpec>) {
        self.shared.listen(&source_logs);
        self.shared.orders.lock().push(Order { source_logs, declared });
        self.shared.signal.wake();
    }

    /// Makes this runtime the owner of sources; those of `patient` are waited for until then. Returned are those that are taken over, once Kafka has it.
    pub fn take(&self, sources: Vec<Arc<str>>, patient: Vec<Arc<str>>, until: Instant) -> oneshot::Receiver<Vec<Taken>> {
        let (done, is_done) = oneshot::channel();
        self.lease(Lease::Take { sources, patient, until, done });
        is_done
    }

    /// Sends what sources hold, until then, and gives them back.
    pub fn give(&self, sources: Vec<Arc<str>>, until: Instant) -> oneshot::Receiver<()> {
        let (done, is_done) = oneshot::channel();
        self.lease(Lease::Give { sources, until, done });
        is_done
    }

    /// The leases of sources are gone.
    pub fn lose(&self, sources: Vec<Arc<str>>) -> oneshot::Receiver<()> {
        let (done, is_done) = oneshot::channel();
        self.lease(Lease::Lose { sources, done });
        is_done
    }

    fn lease(&self, lease: Lease) {
        self.shared.leases.lock().push(lease);
        self.shared.signal.wake();
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
