//! What the drain's thread and those who made it share: orders, the report, a signal.

use crate::source_logs::{Positions, SourceLogs};
use millrace_kafka::TopicSpec;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

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

/// What comes in while it runs.
pub(super) struct Order {
    pub(super) source_logs: Vec<Arc<SourceLogs>>,
    pub(super) declared: Vec<TopicSpec>,
}

/// What became of a take-over.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// `enterprise/site/name`.
    pub source: Arc<str>,
    /// Another runtime read it meanwhile: what is known here is old.
    pub was_others: bool,
    /// Under which it is this runtime's now.
    pub term: u64,
    pub positions: Positions,
    /// The highest cursor that any runtime has of it.
    pub end: u64,
}

/// A source changes hands.
pub(super) enum Lease {
    /// This runtime becomes their owner. Those of `patient` wait for their owner until then.
    Take { sources: Vec<Arc<str>>, patient: Vec<Arc<str>>, until: Instant, done: oneshot::Sender<Vec<Taken>> },
    /// What they hold is sent, until then, and they are given back.
    Give { sources: Vec<Arc<str>>, until: Instant, done: oneshot::Sender<()> },
    /// Their leases are gone.
    Lose { sources: Vec<Arc<str>>, done: oneshot::Sender<()> },
}

pub(super) struct Shared {
    pub(super) signal: Arc<Signal>,
    /// Sources and topics that are to be taken on.
    pub(super) orders: Mutex<Vec<Order>>,
    /// Sources that are to change hands.
    pub(super) leases: Mutex<Vec<Lease>>,
    /// When to stop at the latest.
    pub(super) stop: Mutex<Option<Instant>>,
    pub(super) report: Mutex<DrainReport>,
}

impl Shared {
    /// Is woken by what is appended.
    pub(super) fn listen(&self, source_logs: &[Arc<SourceLogs>]) {
        for (_, log) in source_logs.iter().flat_map(|o| &o.lanes) {
            let signal = self.signal.clone();
            log.on_append(move |_| signal.wake());
        }
    }
}

/// Wakes the drain. Cheap where nobody sleeps.
#[derive(Default)]
pub(super) struct Signal {
    pub(super) woken: Mutex<bool>,
    pub(super) condvar: Condvar,
}

impl Signal {
    pub(super) fn wake(&self) {
        let mut woken = self.woken.lock();
        if !std::mem::replace(&mut *woken, true) {
            self.condvar.notify_one();
        }
    }

    pub(super) fn wait(&self, timeout: Duration) {
        let mut woken = self.woken.lock();
        if !*woken {
            self.condvar.wait_for(&mut woken, timeout);
        }
        *woken = false;
    }
}
