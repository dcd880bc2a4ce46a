//! What the drain must know of this runtime's place in its group: whether it is still there, and what its transactions are fenced with.
//!
//! Invariant: a fence is taken when the group has just given or confirmed partitions, and thrown away before anything that was lost is told to anybody.
//! So a transaction that carries one is refused by Kafka as soon as another runtime may read what this one reads.

use millrace_kafka::{GroupMetadata, TopicPartition};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What a transaction carries to be refused where this runtime is not what it was.
#[derive(Clone)]
pub struct Fence {
    /// A partition that it holds.
    pub part: TopicPartition,
    pub group: Arc<GroupMetadata>,
}

pub struct Seat {
    /// `runtime.id`.
    pub runtime: String,
    /// Before its name: the transactional id of each runtime of the group.
    transactional: String,
    session: Duration,
    fence: Mutex<Option<Fence>>,
    /// Nobody else has this name, as far as is known: Kafka may be written to.
    is_admitted: AtomicBool,
    /// When the group was last looked after, by the clock that also runs while the machine sleeps; in milliseconds.
    looked_at: AtomicU64,
}

impl Seat {
    pub fn new(runtime: &str, transactional: &str, session: Duration) -> Arc<Self> {
        Arc::new(Self {
            runtime: runtime.to_owned(),
            transactional: transactional.to_owned(),
            session,
            fence: Mutex::default(),
            is_admitted: AtomicBool::new(false),
            looked_at: AtomicU64::new(awake_ms()),
        })
    }

    /// `runtime.session`.
    pub fn session(&self) -> Duration {
        self.session
    }

    /// The transactional id of a runtime of the group.
    pub fn transactional_id(&self, runtime: &str) -> String {
        format!("{}-{runtime}", self.transactional)
    }

    pub fn admit(&self) {
        self.is_admitted.store(true, Relaxed);
    }

    pub fn turn_out(&self) {
        self.is_admitted.store(false, Relaxed);
        self.doubt();
    }

    pub fn is_admitted(&self) -> bool {
        self.is_admitted.load(Relaxed)
    }

    /// The group has just spoken.
    pub fn confirm(&self, fence: Option<Fence>) {
        *self.fence.lock() = fence;
    }

    /// Nothing is sure until the group speaks again.
    pub fn doubt(&self) {
        *self.fence.lock() = None;
    }

    /// What a transaction is fenced with; `None`: this runtime holds nothing, as far as it knows.
    pub fn fence(&self) -> Option<Fence> {
        if self.has_slept() {
            return None;
        }
        self.fence.lock().clone()
    }

    /// Whether nobody looked after the group for a whole session: the process or the machine was frozen, and others have taken over.
    pub fn has_slept(&self) -> bool {
        awake_ms().saturating_sub(self.looked_at.load(Relaxed)) > self.session.as_millis() as u64
    }

    /// The group is looked after.
    pub fn look(&self) {
        self.looked_at.store(awake_ms(), Relaxed);
    }
}

/// Milliseconds since the machine started, those that it slept included; where the system does not say it, always the same.
fn awake_ms() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok());
    seconds.map_or(0, |seconds| (seconds * 1_000.0) as u64)
}
