//! The table is tended by its sink: small files of days that are over become large ones, and what no version names goes when it is old.
//!
//! Beside the writing, on a thread and a connection of its own, one turn at a time, each bounded: so many groups of files, each so large. The sink that
//! has the first partition of its first topic does it, so that several runtimes don't do the same work; where two do it all the same, one of them finds
//! its files gone and changes nothing.

use crate::config::{Place, TableFormat};
use crate::target::Target;
use crate::upkeep::{self, Bound};
use millrace_kit::parts::TargetError;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Groups of files merged in one turn.
const GROUPS: usize = 16;
/// How often what is old is looked for.
const VACUUM_EVERY: Duration = Duration::from_secs(86_400);

/// When, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct Turns {
    pub every: Duration,
    /// What no version names stays so long.
    pub keep: Duration,
    /// One merged file is made of so many bytes at most.
    pub target: i64,
}

impl fmt::Display for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "merges small files of days that are over every {:?}, deletes what no version names after {:?}", self.every, self.keep)
    }
}

/// The state of the tending of one sink.
pub struct Tending {
    turns: Option<Turns>,
    next: Instant,
    next_vacuum: Instant,
    at_work: Option<JoinHandle<()>>,
    /// The sink is gone, and a stop of the runtime waits for what is at work.
    stop: Arc<AtomicBool>,
}

impl Drop for Tending {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

impl Tending {
    pub fn new(turns: Option<Turns>) -> Self {
        // Not all runtimes of a plant at once after a power cut.
        let first = turns.as_ref().map_or(Duration::ZERO, |turns| turns.every.min(Duration::from_secs(60))).mul_f64(0.5 + fastrand::f64());
        let next = Instant::now() + first;
        Self { turns, next, next_vacuum: next, at_work: None, stop: Arc::default() }
    }

    /// Begins a turn, where one is due and none is at work.
    pub fn turn(&mut self, place: &Place) {
        let Some(turns) = &self.turns else { return };
        let now = Instant::now();
        if now < self.next || self.at_work.as_ref().is_some_and(|work| !work.is_finished()) {
            return;
        }
        self.next = now + turns.every;
        let vacuums = now >= self.next_vacuum;
        if vacuums {
            self.next_vacuum = now + VACUUM_EVERY;
        }
        let (turns, place, runtime, stop) = (turns.clone(), place.clone(), tokio::runtime::Handle::current(), self.stop.clone());
        self.at_work = Some(tokio::task::spawn_blocking(move || {
            let bound = Bound { target: turns.target, groups: GROUPS, stop };
            if let Err(error) = tend(&place, &turns, vacuums, &bound, runtime) {
                tracing::warn!(table = place.table, "the table was not tended, which is tried again: {error}");
            }
        }));
    }
}

fn tend(place: &Place, turns: &Turns, vacuums: bool, bound: &Bound, runtime: tokio::runtime::Handle) -> Result<(), TargetError> {
    let mut table = match Target::open(place, false, runtime)? {
        Target::Delta(table) => table,
        #[cfg(feature = "iceberg")]
        Target::Iceberg(table) => return tend_iceberg(*table, turns, vacuums, bound),
    };
    table.prepare()?;
    let merged = upkeep::compact(&mut table, false, place.format == TableFormat::Parquet, bound)?;
    if merged.before > 0 {
        tracing::info!(table = %table.store.url, before = merged.before, after = merged.after, rows = merged.rows, "merged small files");
    }
    if vacuums && !bound.stop.load(Relaxed) {
        let gone = upkeep::vacuum(&mut table, turns.keep, false)?;
        if gone.files + gone.log > 0 {
            tracing::info!(table = %table.store.url, files = gone.files, bytes = gone.bytes, log = gone.log, "deleted what no version names");
        }
    }
    Ok(())
}

#[cfg(feature = "iceberg")]
fn tend_iceberg(mut table: crate::iceberg::IcebergTable, turns: &Turns, vacuums: bool, bound: &Bound) -> Result<(), TargetError> {
    use crate::iceberg_upkeep::{compact, vacuum};
    // A table whose files may not be rewritten still forgets old snapshots.
    let merged = compact(&mut table, false, bound);
    if let Ok(merged) = &merged
        && merged.before > 0
    {
        tracing::info!(table = table.name(), before = merged.before, after = merged.after, rows = merged.rows, "merged small files");
    }
    if vacuums && !bound.stop.load(Relaxed) {
        let gone = vacuum(&mut table, turns.keep, false)?;
        if gone.files + gone.snapshots > 0 {
            tracing::info!(
                table = table.name(),
                files = gone.files,
                bytes = gone.bytes,
                snapshots = gone.snapshots,
                "deleted what no snapshot names"
            );
        }
    }
    merged.map(drop)
}
