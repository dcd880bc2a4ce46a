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
