//! What intake and drain share of one source: its logs, its ledger, the positions that came back from Kafka.
//!
//! The intake appends to the lanes' logs and never looks at Kafka; the drain reads them, moves the cursor [`CURSOR`] of each log over the
//! contiguous delivered head, and calls [`SourceLogs::reclaim`] now and then. Nothing else passes between them.

use crate::frame::Lane;
use crate::ledger::Ledger;
use millrace_log::Log;
use millrace_schemas::Micros;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use tokio::sync::watch;

/// The drain's cursor in each log.
pub const CURSOR: &str = "kafka";

/// A source, as the drain sees it.
pub struct SourceLogs {
    /// `enterprise/site/name`.
    pub source: Arc<str>,
    /// In order of urgency. A lane's log is opened when the source may use that lane.
    pub lanes: Vec<(Lane, Log)>,
    pub ledger: Arc<Ledger>,
    /// Why the drain can't go on with this source; `None`: it does. Needs a human.
    pub blocked: Mutex<Option<String>>,
    pub pace: Pace,
    /// Kafka lost its topics: catalog entries and positions must go once more.
    pub must_repeat: AtomicBool,
    /// The positions that Kafka holds for this source, once the drain has read `millrace.cursors`; before that, `None`.
    pub from_kafka: watch::Sender<Option<Arc<Positions>>>,
    /// The highest cursor that Kafka holds for a log of this source; 0: none, or not known yet.
    pub known_end: AtomicU64,
    /// Other runtimes may read this source, too.
    pub is_shared: AtomicBool,
    /// Another runtime that begins at the positions that Kafka has reads again all that came after them.
    pub reads_again: AtomicBool,
    /// Under which term its positions here are those of its owner; 0: they are of a time before it was shared.
    pub term: AtomicU64,
    /// Called before segments are reclaimed: saves what only those segments held (positions).
    pub save: Box<dyn Fn() -> std::io::Result<()> + Send + Sync>,
}

/// How fresh a source is: for metrics, cheap to read at any time. Times in microseconds since 1970; zero: none yet.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the newest record was read.
    pub newest: AtomicI64,
    /// When the oldest record was read that Kafka does not have; zero: it has all.
    pub waiting_since: AtomicI64,
    /// From reading to delivery: the sum over all records of this run in microseconds, and how many they are.
    pub latency_sum: AtomicU64,
    pub delivered: AtomicU64,
}

impl Pace {
    /// So many records, read at `read_time`, were delivered now.
    pub(crate) fn delivered(&self, records: u32, read_time: Micros, now: Micros) {
        let took = u64::try_from(now.0.saturating_sub(read_time.0)).unwrap_or(0);
        self.latency_sum.fetch_add(took.saturating_mul(records.into()), Relaxed);
        self.delivered.fetch_add(records.into(), Relaxed);
    }
}

/// Positions of a source: the plugin's own keys.
pub type Positions = BTreeMap<String, Vec<u8>>;

impl SourceLogs {
    /// The name of a lane's log, in the store and in `millrace.cursors`.
    pub fn log_name(source: &str, lane: Lane) -> String {
        format!("{source}:{}", lane.as_str())
    }
}

/// What the drain must know of a topic beyond its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRules {
    pub dead_letter: Arc<str>,
}

/// What is kept with a lane's cursor, in the log and in `millrace.cursors`: the lane's half of the ledger at that offset.
///
/// ```text
/// six u64, little-endian: lane total, produced, dead, dropped, timestamps replaced, superseded
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CursorMetadata {
    /// Data records the lane held below the cursor: produced + dead + dropped.
    pub lane_total: u64,
    pub produced: u64,
    pub dead: u64,
    pub dropped: u64,
    pub timestamp_replaced: u64,
    /// Of those dropped: another runtime has read them again.
    pub superseded: u64,
}

impl CursorMetadata {
    pub fn encode(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        let counts = [self.lane_total, self.produced, self.dead, self.dropped, self.timestamp_replaced, self.superseded];
        for (at, count) in bytes.chunks_exact_mut(8).zip(counts) {
            at.copy_from_slice(&count.to_le_bytes());
        }
        bytes
    }

    /// Counts that are missing (an older release wrote fewer) are zero.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut counts = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
        let mut next = || counts.next().unwrap_or(0);
        Self { lane_total: next(), produced: next(), dead: next(), dropped: next(), timestamp_replaced: next(), superseded: next() }
    }
}
