//! The intake of one source: what a plugin sends is judged, encoded and appended to the logs, in one pass and in the order of `send`.
//!
//! ```text
//! send(batch) ─ rows ─ believe the time ─ scale, range ─ report filter ─ encode ─┐
//!             ─ docs ─ headers millrace.source, millrace.seq ────────────────────┼─ one builder per lane ─ append
//!             ─ rejects ─ dead letters, ordinary records of another topic ───────┘        │
//!                                                       durable() <── all lanes synced <──┘
//! ```
//!
//! - `records`: what becomes of each reading, document and reject; `append`: how it is appended, out of the `pipe`; `core`: the tags; `position_store`: positions.
//!
//! Two locks: `pipe` (async) keeps the order of appends and may be held while the log is full; `core` (sync) holds the tags and is never held
//! across a wait. Nothing is allocated per value once the builders are warm.
//! A count moves in the ledger only when what it counts is appended, filtered or dropped, so that the ledger adds up at any moment.

mod acks;
mod append;
mod core;
mod look;
mod number;
mod open;
mod options;
mod pipe;
mod position_store;
mod records;
mod upkeep;
pub use self::look::TagReport;
pub use self::number::is_believed;
pub use self::options::{ClockWindow, IntakeOptions};
pub(crate) use self::records::{believe, dead_letter_headers, encode};

use crate::intake::acks::{Acks, Unsynced};
use crate::intake::core::Core;
use crate::intake::number::{APART, TAKEN_OVER_APART, incarnation};
use crate::intake::pipe::{PIECE_BYTES, Pipe};
use crate::intake::position_store::PositionStore;
use crate::ledger::Ledger;
use crate::repeats::Repeats;
use crate::source_logs::{Positions, SourceLogs};
use crate::taps::Taps;
use crate::topics::Topic;
use millrace_contract::source::SchemaIn;
use millrace_contract::{AckId, Clash, Model, Route, TagDef};
use millrace_log::{Budget, Full};
use millrace_schemas::contract::SchemaError;
use millrace_schemas::{Batch, Micros, RouteId, TagId};
use parking_lot::{Mutex, RwLock};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Batches kept for recycling, and how much heap one may keep.
const SPARE_BATCHES: usize = 4;

const SPARE_HEAP: usize = 4 << 20;

pub struct Intake {
    pub source: Arc<str>,
    pub ledger: Arc<Ledger>,
    pub source_logs: Arc<SourceLogs>,
    /// Whether this data directory knew the source before; if not, Kafka may.
    pub is_new: bool,
    /// The data directory is lost and the clock is not believed: only Kafka, or a clock that was set, can say which identities were used.
    pub is_unnumbered: bool,
    site: Box<str>,
    routes: RwLock<Arc<[Route]>>,
    clock: ClockWindow,
    compress: bool,
    budget: Arc<Budget>,
    full: Full,
    pipe: Arc<tokio::sync::Mutex<Pipe>>,
    core: Mutex<Core>,
    positions: Arc<PositionStore>,
    acks: Mutex<Acks>,
    events: Arc<Events>,
    spare: Mutex<Vec<Batch>>,
    taps: Arc<Taps>,
    /// Why the log takes nothing at the moment; for the status board.
    held: Mutex<Option<String>>,
    catalog_saved: Mutex<Instant>,
    latest: Arc<Topic>,
    /// Dead letters are told in the messages, a storm of them now and then.
    told: Mutex<Repeats>,
}

#[derive(Default)]
pub(super) struct Events {
    synced: Notify,
    sent: Notify,
    room: Notify,
    /// Something waits in `core` for the next tick.
    work: Notify,
}

impl Intake {
    pub fn resume(&self, key: &str) -> Option<Vec<u8>> {
        self.positions.get(key)
    }

    pub fn positions(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        self.positions.beginning(prefix)
    }

    /// Takes over what Kafka knew of this source, where this data directory is new.
    pub fn adopt(&self, from_kafka: &Positions) {
        self.positions.adopt(from_kafka);
    }

    /// Numbers what comes from now on above all that Kafka knows of this source, and as the clock says now.
    pub async fn number_above_kafka(&self) {
        let known = self.source_logs.known_end.load(Relaxed);
        let mut pipe = self.pipe.lock().await;
        let is_started = pipe.lanes.iter().any(|lane| lane.log.end() > lane.log.start());
        let clock = if self.is_unnumbered && !is_started { incarnation(Micros::now()) } else { 0 };
        // Behind the cursor Kafka may hold what was delivered before the cursor was written.
        let known = if known > pipe.next_seq { known + APART } else { 0 };
        if known > 0 {
            tracing::warn!(source = %self.source, known, next = pipe.next_seq, "Kafka knows later offsets than this new log; numbering goes on above them");
        }
        pipe.next_seq = pipe.next_seq.max(known).max(clock);
    }

    /// Another runtime has read this source: what it left is where this one goes on, under numbers of their own.
    ///
    /// Errors: the positions can't be kept; nothing may be read then.
    pub async fn take_over(&self, positions: &Positions, end: u64) -> std::io::Result<()> {
        let mut pipe = self.pipe.lock().await;
        pipe.owed.clear();
        // What the other has numbered and not sent yet, or numbers while it is cut off, lies below.
        pipe.next_seq = pipe.next_seq.max(end + APART).max(incarnation(Micros::now())) + TAKEN_OVER_APART;
        drop(pipe);
        self.positions.replace(positions);
        let positions = self.positions.clone();
        tokio::task::spawn_blocking(move || positions.save()).await.unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into()))
    }

    pub fn declare(&self, tag: TagDef) -> Result<TagId, Clash> {
        let id = self.core.lock().declare(&self.site, tag, false, Micros::now())?;
        Ok(id)
    }

    /// The source says what the documents of a route are.
    pub fn describe(&self, route: RouteId, schema: &SchemaIn<'_>) -> Result<(), SchemaError> {
        let routes = self.routes.read().clone();
        match routes.get(route.0 as usize) {
            Some(route) => self.core.lock().describe(&route.topic, schema),
            None => Ok(()),
        }
    }

    /// The source takes over another model between two sessions. A tag that stays as it was keeps its last value and all that is known of it.
    pub fn change(&self, before: &Model, model: &Model) {
        *self.routes.write() = model.routes.as_slice().into();
        self.core.lock().change(&self.site, before, model, Micros::now());
        self.events.work.notify_one();
    }

    pub fn retire(&self, tag: TagId) {
        let mut core = self.core.lock();
        core.tags.retire(tag);
        if let Some(def) = core.defs.get(tag.0 as usize) {
            let path = def.path.clone();
            core.paths.release(&path, &core.source);
            core.catalog.retire(&path, Micros::now());
        }
        drop(core);
        self.events.work.notify_one();
    }

    pub fn alive(&self, part: &str) {
        self.core.lock().tags.alive(part, Micros::now());
    }

    pub fn gone(&self, part: &str) {
        let mut core = self.core.lock();
        let Core { tags, pending, .. } = &mut *core;
        tags.gone(part, Micros::now(), |row| pending.push(row));
        drop(core);
        self.events.work.notify_one();
    }

    /// The path of a tag, with the site.
    pub fn path_of(&self, tag: TagId) -> Option<Arc<str>> {
        self.core.lock().defs.get(tag.0 as usize).map(|d| d.path.clone())
    }

    /// The tag of a path with or without the site.
    pub fn tag_of(&self, path: &str) -> Option<TagId> {
        let core = self.core.lock();
        core.by_path.get(path).or_else(|| core.by_path.get(format!("{}/{path}", self.site).as_str())).copied()
    }

    pub fn tags_len(&self) -> usize {
        self.core.lock().tags.count()
    }

    /// Bytes in the logs and their limit.
    pub fn log_bytes(&self) -> (u64, u64) {
        (self.budget.used(), self.budget.limit())
    }

    /// Why the log takes nothing at the moment.
    pub fn held(&self) -> Option<String> {
        self.held.lock().clone()
    }

    /// An empty batch with `read_time` set; waits while the log is full and the policy is to block.
    pub async fn batch(&self) -> Batch {
        while self.full == Full::Block && self.budget.used() + PIECE_BYTES as u64 > self.budget.limit() {
            self.wait_for_room("the log is full").await;
        }
        let mut batch = self.spare.lock().pop().unwrap_or_default();
        batch.read_time = Micros::now();
        batch
    }

    async fn wait_for_room(&self, why: &str) {
        self.hold(Some(why));
        let room = self.events.room.notified();
        tokio::select! {
            () = room => {}
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }

    fn hold(&self, why: Option<&str>) {
        let mut held = self.held.lock();
        if held.as_deref() != why {
            *held = why.map(str::to_owned);
        }
    }

    /// Appends a batch and the positions that moved with it.
    pub async fn send(&self, mut batch: Batch, moved: &[(&str, &[u8])]) -> AckId {
        let mut pipe = self.pipe.lock().await;
        let pipe = &mut *pipe;
        let held = self.append(pipe, &batch, moved).await;
        let id = {
            let mut acks = self.acks.lock();
            acks.settle(self.synced());
            acks.sent += 1;
            acks.holding += usize::from(held != 0);
            let id = acks.sent;
            acks.pending.push_back(Unsynced { id, ends: self.positions.ends(), held });
            AckId(id)
        };
        self.events.sent.notify_waiters();
        if batch.heap.capacity() <= SPARE_HEAP {
            batch.clear();
            let mut spare = self.spare.lock();
            if spare.len() < SPARE_BATCHES {
                spare.push(batch);
            }
        }
        id
    }

    /// The newest ack id whose batch, with all before it, is synced; once it is greater than `after`.
    pub async fn durable(&self, after: AckId) -> AckId {
        self.durable_within(after, millrace_log::APART).await
    }

    /// As [`Self::durable`], with a least time between two syncs.
    pub async fn durable_within(&self, after: AckId, apart: Duration) -> AckId {
        loop {
            let (synced, sent) = (self.events.synced.notified(), self.events.sent.notified());
            tokio::pin!(synced, sent);
            synced.as_mut().enable();
            sent.as_mut().enable();
            {
                let mut acks = self.acks.lock();
                acks.settle(self.synced());
                if acks.done > after.0 {
                    return AckId(acks.done);
                }
                if let Some(Unsynced { ends, .. }) = acks.pending.back() {
                    for (lane, log) in &self.source_logs.lanes {
                        if log.synced() < ends[*lane as usize] {
                            log.want_sync_within(apart);
                        }
                    }
                }
            }
            tokio::select! {
                () = synced => {}
                // Nobody else asks for the sync of what is sent from now on.
                () = sent => {}
            }
        }
    }

    fn synced(&self) -> [u64; 3] {
        let mut heads = [u64::MAX; 3];
        for (lane, log) in &self.source_logs.lanes {
            heads[*lane as usize] = log.synced();
        }
        heads
    }
}

/// Where a source keeps its small files, below the data directory.
pub fn source_dir(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.join("sources").join(name.replace('/', "%2F"))
}
