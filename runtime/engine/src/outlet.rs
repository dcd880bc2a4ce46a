//! What intake and drain share of one source: its logs, its ledger, the positions that came back from Kafka.
//!
//! The intake appends to the lanes' logs and never looks at Kafka; the drain reads them, moves the cursor [`CURSOR`] of each log over the
//! contiguous delivered head, and calls [`Outlet::reclaim`] now and then. Nothing else passes between them.

use crate::frame::Lane;
use crate::ledger::Ledger;
use millrace_log::Log;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The drain's cursor in each log.
pub const CURSOR: &str = "kafka";

/// A source, as the drain sees it.
pub struct Outlet {
    /// `enterprise/site/name`.
    pub source: Arc<str>,
    /// In order of urgency. A lane's log is opened when the source may use that lane.
    pub lanes: Vec<(Lane, Log)>,
    pub ledger: Arc<Ledger>,
    /// Why the drain can't go on with this source; `None`: it does. Needs a human.
    pub blocked: Mutex<Option<String>>,
    /// The positions that Kafka holds for this source, once the drain has read `millrace.cursors`; before that, `None`.
    pub from_kafka: watch::Sender<Option<Arc<Positions>>>,
    /// Called before segments are reclaimed: saves what only those segments held (positions).
    pub save: Box<dyn Fn() -> std::io::Result<()> + Send + Sync>,
}

/// Positions of a source: the plugin's own keys.
pub type Positions = BTreeMap<String, Vec<u8>>;

impl Outlet {
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
/// five u64, little-endian: lane total, produced, dead, dropped, timestamps replaced
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Data records the lane held below the cursor: produced + dead + dropped.
    pub lane_total: u64,
    pub produced: u64,
    pub dead: u64,
    pub dropped: u64,
    pub timestamp_replaced: u64,
}

impl Note {
    pub fn encode(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        for (at, count) in bytes.chunks_exact_mut(8).zip([self.lane_total, self.produced, self.dead, self.dropped, self.timestamp_replaced])
        {
            at.copy_from_slice(&count.to_le_bytes());
        }
        bytes
    }

    /// Counts that are missing (an older release wrote fewer) are zero.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut counts = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
        let mut next = || counts.next().unwrap_or(0);
        Self { lane_total: next(), produced: next(), dead: next(), dropped: next(), timestamp_replaced: next() }
    }
}
