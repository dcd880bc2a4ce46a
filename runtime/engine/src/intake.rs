//! The intake of one source: what a plugin sends is judged, encoded and appended to the logs, in one pass and in the order of `send`.
//!
//! ```text
//! send(batch) ─ rows ─ believe the time ─ scale, range ─ report filter ─ encode ─┐
//!             ─ docs ─ headers millrace.source, millrace.seq ────────────────────┼─ one builder per lane ─ append
//!             ─ rejects ─ dead letters, ordinary records of another topic ───────┘        │
//!                                                       durable() <── all lanes synced <──┘
//! ```
//!
//! Two locks: `pipe` (async) keeps the order of appends and may be held while the log is full; `core` (sync) holds the tags and is never held
//! across a wait. Nothing is allocated per value once the builders are warm.
//! A count moves in the ledger only when what it counts is appended, filtered or dropped, so that the ledger adds up at any moment.

mod core;
mod keeper;
mod pieces;

use self::core::Core;
use self::keeper::Keeper;
use self::pieces::{Delta, LanePipe, Pipe, lane_of, restore_counts};
use crate::catalog::Catalog;
use crate::frame::{Builder, Frame, Key, Lane, Record, flag};
use crate::ledger::Ledger;
use crate::outlet::{CURSOR, Note, Outlet, Positions};
use crate::paths::Paths;
use crate::positions;
use crate::repeats::Repeats;
use crate::tags::{Tags, Verdict};
use crate::taps::Taps;
use crate::topics::{Format, LATEST, SampleKey, Topic, Topics};
use crate::wide::{Rows, Seat};
use millrace_contract::{AckId, Clash, Model, Route, TagDef};
use millrace_log::{Budget, Full, Log, LogOptions, Store};
use millrace_schemas::contract::Work;
use millrace_schemas::{
    Batch, Doc, Flags, Micros, Origin, Reject, Row, SampleMeta, Span, StatusCode, TagId, TimeSource, Value, push_header,
};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Lanes are appended when one of them holds this many bytes; a batch of a plugin may be larger.
const PIECE_BYTES: usize = 1 << 20;
/// How often the cache of catalog entries is saved, at most.
const SAVE_CATALOG_EVERY: Duration = Duration::from_secs(10);
/// Batches kept for recycling, and how much heap one may keep.
const SPARE_BATCHES: usize = 4;
const SPARE_HEAP: usize = 4 << 20;
/// Topics that a source makes up from templates, at most.
const TOPICS_MAX: usize = 100_000;
/// In front of a sample in Protobuf: it is the first message of its file.
const FIRST_MESSAGE: u8 = 0;
/// No clock older than this program is used to number a new incarnation: 2026-11-01.
const PROGRAM_BUILT: u64 = 1_793_491_200;

/// A device's time outside this window around read_time is not believed.
#[derive(Clone, Copy, Debug)]
pub struct ClockWindow {
    pub behind: Duration,
    pub ahead: Duration,
}

impl Default for ClockWindow {
    fn default() -> Self {
        Self { behind: Duration::from_secs(86_400), ahead: Duration::from_secs(300) }
    }
}

/// What the intake of a source is made with.
pub struct IntakeOptions<'a> {
    /// `enterprise/site`.
    pub site: &'a str,
    pub name: &'a str,
    pub model: &'a Model,
    pub topics: &'a Topics,
    pub clock: ClockWindow,
    pub log_size: u64,
    pub full: Full,
    pub sync: Duration,
    pub compress: bool,
    /// Where the source keeps its small files: positions, catalog.
    pub dir: PathBuf,
    pub taps: Arc<Taps>,
    /// The tag paths of all sources.
    pub paths: Arc<Paths>,
}

pub struct Intake {
    pub source: Arc<str>,
    pub ledger: Arc<Ledger>,
    pub outlet: Arc<Outlet>,
    /// Whether this data directory knew the source before; if not, Kafka may.
    pub is_new: bool,
    site: Box<str>,
    routes: Vec<Route>,
    clock: ClockWindow,
    compress: bool,
    budget: Arc<Budget>,
    full: Full,
    pipe: tokio::sync::Mutex<Pipe>,
    core: Mutex<Core>,
    positions: Arc<Keeper>,
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
struct Events {
    synced: Notify,
    sent: Notify,
    room: Notify,
    /// Something waits in `core` for the next tick.
    work: Notify,
}

#[derive(Default)]
struct Acks {
    sent: u64,
    done: u64,
    /// Ack ids whose lanes are not all synced.
    pending: VecDeque<Unsynced>,
    /// How many of them are held.
    holding: usize,
}

impl Acks {
    /// Lets go of what is synced: below these heads in every lane. Not every source asks what is durable.
    fn settle(&mut self, heads: [u64; 3]) {
        while let Some(Unsynced { id, ends, held: 0 }) = self.pending.front()
            && ends.iter().zip(heads).all(|(end, synced)| *end <= synced)
        {
            self.done = *id;
            self.pending.pop_front();
        }
    }
}

/// A batch that is not durable yet.
struct Unsynced {
    id: u64,
    /// Each lane's end after it.
    ends: [u64; 3],
    /// Some of it is in a wide record's window that ends then, and in no log before; zero: nothing.
    held: i64,
}

/// Forgets what the report filter remembers, unless it is disarmed.
struct Undo<'a> {
    core: &'a Mutex<Core>,
    is_armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.core.lock().tags.forget();
        }
    }
}

/// What could not be delivered.
struct Dead<'a> {
    key: Key<'a>,
    headers: Span,
    payload: &'a [u8],
    reason: &'a str,
}

impl Intake {
    /// Opens the source's logs and takes up where the last run ended.
    ///
    /// Errors: the log can't be opened, or its newest batch is of a newer release.
    pub fn open(store: &Store, options: IntakeOptions<'_>) -> Result<Arc<Self>, String> {
        let source: Arc<str> = format!("{}/{}", options.site, options.name).into();
        std::fs::create_dir_all(&options.dir).map_err(|e| format!("cannot create {}: {e}", options.dir.display()))?;
        let ledger = Arc::new(Ledger::default());
        let events = Arc::new(Events::default());
        let budget = Budget::new(options.log_size, options.full);
        {
            let events = events.clone();
            budget.on_room(move || events.room.notify_waiters());
        }
        let mut wanted = vec![Lane::Normal, Lane::Bulk];
        wanted.extend(options.topics.lanes());
        wanted.sort_unstable();
        wanted.dedup();

        let positions_file = options.dir.join("positions");
        let saved = positions::load(&positions_file).map_err(|e| format!("cannot read {}: {e}", positions_file.display()))?;
        let names = store.names().map_err(|e| e.to_string())?;
        let is_new = saved.is_none() && !names.contains(&Outlet::log_name(&source, Lane::Normal));
        let saved = saved.unwrap_or_default();

        let floor = incarnation();
        let mut next_seq = if store.power_cut() { floor } else { 0 };
        let mut lanes = Vec::new();
        let mut recovered = [0; 3];
        let mut counts: Vec<u64> = Vec::new();
        for lane in wanted {
            let name = Outlet::log_name(&source, lane);
            let (log, recovery) = store
                .log(
                    &name,
                    LogOptions {
                        start: floor,
                        sync: options.sync,
                        budget: Some(budget.clone()),
                        priority: 2 - lane as u8,
                        ..LogOptions::default()
                    },
                )
                .map_err(|e| format!("cannot open the log of {source}, lane {}: {e}", lane.as_str()))?;
            if recovery.truncated_bytes > 0 || !recovery.quarantined.is_empty() {
                tracing::warn!(source = %source, lane = lane.as_str(), truncated_bytes = recovery.truncated_bytes, quarantined = ?recovery.quarantined, "the log was repaired");
                next_seq = next_seq.max(floor);
            }
            let mut total = log.records();
            if let Some(batch) = log.newest().map_err(|e| format!("cannot read the log of {source}: {e}"))? {
                let frame = Frame::read(&batch.payload).map_err(|e| format!("log of {source}, lane {}: {e}", lane.as_str()))?;
                total = total.max(frame.lane_total + frame.data_records);
                if counts.first() < frame.counts.first() {
                    counts = frame.counts;
                }
            }
            if let Some((_, note)) = log.cursor(CURSOR) {
                // What was sent was appended, though a power cut or a corrupt tail took it from the log since.
                total = total.max(Note::decode(&note).lane_total);
            }
            next_seq = next_seq.max(log.end()).max(log.cursor(CURSOR).map_or(0, |(offset, _)| offset + 1));
            if names.contains(&name) {
                recovered[lane as usize] = log.end();
            }
            lanes.push(LanePipe { lane, log, builder: Builder::default(), total });
        }
        let logs: Vec<(Lane, Log)> = lanes.iter().map(|l| (l.lane, l.log.clone())).collect();
        let positions = Keeper::open(positions_file.clone(), logs.clone(), &recovered, saved);
        let positions = Arc::new(positions.map_err(|e| format!("cannot read the positions of {source}: {e}"))?);
        restore_counts(&ledger, counts, lanes.iter().map(|l| l.total).sum());
        // A lane that lost its end goes on above it: at the next start the missing pieces would seem to be there.
        positions.save().map_err(|e| format!("cannot write {}: {e}", positions_file.display()))?;
        for lane in &lanes {
            let events = events.clone();
            lane.log.on_sync(move |_| events.synced.notify_waiters());
        }
        let outlet = Arc::new(Outlet {
            source: source.clone(),
            lanes: logs,
            ledger: ledger.clone(),
            blocked: Mutex::new(None),
            from_kafka: watch::Sender::new(None),
            save: {
                let positions = positions.clone();
                Box::new(move || positions.save())
            },
        });
        let intake_source = source.clone();
        let keeps_latest = options.topics.iter().any(|topic| topic.latest);
        let catalog = Catalog::open(&options.dir.join("catalog"), &source, keeps_latest.then(|| LATEST.into()));
        let intake = Self {
            source,
            ledger,
            outlet,
            is_new,
            site: options.site.into(),
            routes: options.model.routes.clone(),
            clock: options.clock,
            compress: options.compress,
            budget,
            full: options.full,
            pipe: tokio::sync::Mutex::new(Pipe {
                lanes,
                next_seq,
                owed: Vec::new(),
                headers: Vec::new(),
                key: Vec::new(),
                value: Vec::new(),
                work: Work::default(),
                held: VecDeque::new(),
            }),
            core: Mutex::new(Core {
                source: intake_source,
                paths: options.paths,
                tags: Tags::default(),
                defs: Vec::new(),
                by_path: HashMap::new(),
                bits: HashMap::new(),
                topics: options.topics.clone(),
                topic_cache: HashMap::new(),
                catalog,
                pending: Vec::new(),
                rows: Rows::default(),
            }),
            positions,
            acks: Mutex::default(),
            events,
            spare: Mutex::default(),
            taps: options.taps,
            held: Mutex::new(None),
            catalog_saved: Mutex::new(Instant::now()),
            latest: options.topics.get(LATEST),
            told: Mutex::default(),
        };
        {
            let mut core = intake.core.lock();
            for tag in &options.model.tags {
                // Two static tags of one path were refused by `check`.
                let _ = core.declare(&intake.site, tag.clone(), true, Micros::now());
            }
            core.catalog.retire_missing(Micros::now());
        }
        Ok(Arc::new(intake))
    }

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

    pub fn declare(&self, tag: TagDef) -> Result<TagId, Clash> {
        let id = self.core.lock().declare(&self.site, tag, false, Micros::now())?;
        Ok(id)
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

    /// The last reported value of a tag, where it is a number or a boolean.
    pub fn last(&self, tag: TagId) -> Option<(Value, StatusCode)> {
        self.core.lock().tags.last(tag)
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
                    for (lane, log) in &self.outlet.lanes {
                        if log.synced() < ends[*lane as usize] {
                            log.want_sync();
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
        for (lane, log) in &self.outlet.lanes {
            heads[*lane as usize] = log.synced();
        }
        heads
    }

    /// Says what the engine itself has to say: stale tags, heartbeats, catalog entries. Call it every so often and when [`Intake::work`] resolves.
    pub async fn tick(&self) {
        let mut batch = self.spare.lock().pop().unwrap_or_default();
        batch.read_time = Micros::now();
        let mut pipe = self.pipe.lock().await;
        let has_catalog = {
            let mut core = self.core.lock();
            let core = &mut *core;
            core.tags.tick(batch.read_time, &mut batch);
            !core.pending.is_empty() || core.catalog.has_pending() || core.rows.has_due(batch.read_time)
        };
        if !batch.is_empty() || has_catalog {
            self.append(&mut pipe, &batch, &[]).await;
        }
        drop(pipe);
        batch.clear();
        self.spare.lock().push(batch);
        if self.catalog_saved.lock().elapsed() > SAVE_CATALOG_EVERY {
            self.save_catalog().await;
        }
        if self.positions.is_due() {
            let positions = self.positions.clone();
            let saved = tokio::task::spawn_blocking(move || positions.save()).await;
            if let Ok(Err(e)) = saved {
                tracing::warn!(source = %self.source, "cannot save positions: {e}; they are in the log, a start takes longer");
            }
        }
    }

    async fn save_catalog(&self) {
        *self.catalog_saved.lock() = Instant::now();
        let Some(changed) = self.core.lock().catalog.take_changed() else { return };
        if let Ok(Err(e)) = tokio::task::spawn_blocking(move || Catalog::write(&changed)).await {
            tracing::warn!(source = %self.source, "cannot save the list of catalog entries: {e}; they are sent again at the next start");
        }
    }

    /// Resolves when [`Intake::tick`] has something to do at once.
    pub async fn work(&self) {
        self.events.work.notified().await;
    }

    /// Makes everything durable that was sent: for a clean stop.
    pub async fn close(&self) {
        {
            // Windows end with the source.
            let mut pipe = self.pipe.lock().await;
            let batch = Batch { read_time: Micros::now(), ..Batch::new() };
            self.append_until(&mut pipe, &batch, &[], Micros(i64::MAX)).await;
        }
        let sent = self.acks.lock().sent;
        if sent > 0 {
            let _ = tokio::time::timeout(Duration::from_secs(10), self.durable(AckId(sent - 1))).await;
        }
        self.save_catalog().await;
        let positions = self.positions.clone();
        let _ = tokio::task::spawn_blocking(move || positions.save()).await;
    }

    async fn append(&self, pipe: &mut Pipe, batch: &Batch, moved: &[(&str, &[u8])]) -> i64 {
        self.append_until(pipe, batch, moved, batch.read_time).await
    }

    /// Appends a batch; wide records whose window ends until `windows` go with it. Returns until when some of the batch is held in a window.
    async fn append_until(&self, pipe: &mut Pipe, batch: &Batch, moved: &[(&str, &[u8])], windows: Micros) -> i64 {
        // Dropped in a wait, what was judged is not written: it must not be filtered when it comes again.
        let mut undo = Undo { core: &self.core, is_armed: true };
        let mut delta = Delta::default();
        for lane in &mut pipe.lanes {
            lane.builder.begin(batch.read_time);
        }
        // What the engine owes comes first: a death before the birth that follows it.
        let owed = {
            let mut core = self.core.lock();
            let owed = std::mem::take(&mut core.pending);
            for row in &owed {
                self.sample(&mut core, pipe, &mut delta, row, &[], batch.read_time);
            }
            core.catalog.take_pending()
        };
        for entry in owed {
            self.entry(pipe, &entry, batch.read_time);
            if pipe.is_full() {
                self.flush(pipe, &mut delta, &[]).await;
            }
        }
        for rows in batch.rows.chunks(1024) {
            {
                let mut core = self.core.lock();
                for row in rows {
                    self.reading(&mut core, pipe, &mut delta, row, &batch.heap, batch.read_time);
                }
            }
            if pipe.is_full() {
                self.flush(pipe, &mut delta, &[]).await;
            }
        }
        for doc in &batch.docs {
            self.document(pipe, &mut delta, doc, batch);
            if pipe.is_full() {
                self.flush(pipe, &mut delta, &[]).await;
            }
        }
        for reject in &batch.rejects {
            self.reject(pipe, &mut delta, reject, batch);
            if pipe.is_full() {
                self.flush(pipe, &mut delta, &[]).await;
            }
        }
        let written_until = if self.wide_records(pipe, batch.read_time, windows) { windows.0 } else { 0 };
        // Positions wait with what they stand behind, and behind one that waits.
        let held = delta.held;
        let until = held.max(pipe.held.back().map_or(0, |(until, ..)| *until));
        if until != 0 {
            pipe.held.extend(moved.iter().map(|(key, value)| (until, (*key).to_owned(), value.to_vec())));
        }
        let free = pipe.held.iter().take_while(|(until, ..)| *until <= written_until).count();
        pipe.owed.extend(pipe.held.drain(..free).map(|(_, key, value)| (key, value)));
        self.flush(pipe, &mut delta, if until == 0 { moved } else { &[] }).await;
        let Acks { pending, holding, .. } = &mut *self.acks.lock();
        if *holding > 0 {
            let ends = self.positions.ends();
            for waiting in pending.iter_mut().filter(|w| w.held != 0 && w.held <= written_until) {
                (waiting.held, waiting.ends) = (0, ends);
                *holding -= 1;
            }
        }
        undo.is_armed = false;
        held
    }

    /// Writes the wide records whose window or scan is over. False: some have to wait.
    fn wide_records(&self, pipe: &mut Pipe, read_time: Micros, until: Micros) -> bool {
        let mut core = self.core.lock();
        while let Some(row) = core.rows.next_due(until) {
            if !self.wide_record(&mut core, pipe, row, read_time) {
                return false;
            }
        }
        true
    }

    /// Writes a wide record. False: its schema can't be kept on the disk; it waits.
    fn wide_record(&self, core: &mut Core, pipe: &mut Pipe, row: usize, read_time: Micros) -> bool {
        let seq = pipe.next_seq;
        let Pipe { lanes, value, key: key_buffer, .. } = pipe;
        let made = match core.rows.write(row, &self.source, seq, value) {
            Ok(made) => made,
            Err(error) => {
                let why = format!("the schema of a wide record can't be kept: {error}");
                if self.told.lock().say(&why).is_some() {
                    tracing::error!(source = %self.source, "{why}; its values wait in memory");
                }
                self.hold(Some(&why));
                return false;
            }
        };
        pipe.next_seq += 1;
        let (timestamp, is_replaced) = made.topic.timestamp(made.time, read_time);
        if is_replaced {
            self.ledger.outgoing.timestamp_replaced.fetch_add(1, Relaxed);
        }
        let key = match sample_key(&made.topic.key, made.asset, &self.source, key_buffer) {
            KeyChoice::Bytes(bytes) if matches!(made.topic.key, SampleKey::Template(_)) => Key::Bytes(bytes),
            KeyChoice::None => Key::None,
            _ => Key::Bytes(made.asset.as_bytes()),
        };
        let record = Record { offset: seq, topic: &made.topic.name, schema: made.mark, timestamp_ms: timestamp, flags: 0, headers: &[] };
        lane_of(lanes, made.topic.lane).builder.push(
            &record,
            Some(|out: &mut Vec<u8>| {
                out.extend_from_slice(value);
                key
            }),
            Key::None,
        );
        true
    }

    /// One reading: the bits of a word become their own samples.
    fn reading(&self, core: &mut Core, pipe: &mut Pipe, delta: &mut Delta, row: &Row, heap: &[u8], read_time: Micros) {
        if row.tag.0 as usize >= core.defs.len() {
            self.ledger.dropped("unknown_tag", 1);
            delta.dropped += 1;
            return;
        }
        if !core.tags.rules(row.tag).is_some_and(|r| r.bits) {
            return self.sample(core, pipe, delta, row, heap, read_time);
        }
        let word = match row.value {
            Value::Int(v) => Some(v as u64),
            Value::UInt(v) => Some(v),
            _ => None,
        };
        for (bit, tag) in core.bits.get(&row.tag).cloned().unwrap_or_default() {
            let value = word.map_or(Value::Null, |w| Value::Bool(w >> bit & 1 == 1));
            self.sample(core, pipe, delta, &Row { tag, value, ..*row }, heap, read_time);
        }
    }

    fn sample(&self, core: &mut Core, pipe: &mut Pipe, delta: &mut Delta, row: &Row, heap: &[u8], read_time: Micros) {
        let mut row = *row;
        let device_time = self.believe(&mut row, read_time);
        if device_time.is_some() {
            delta.clock_refused += 1;
        }
        let applied = core.tags.rules(row.tag).map_or(Ok(()), |rules| rules.apply(&mut row));
        let verdict = core.tags.judge(&row, heap, read_time);
        if let (Some(seat), Ok(())) = (core.defs[row.tag.0 as usize].seat, &applied) {
            return self.fold(core, pipe, delta, seat, &row, heap, read_time, verdict);
        }
        if let Verdict::Report { first } = verdict {
            if first && matches!(row.flags.origin, Origin::Change | Origin::Poll | Origin::Other) {
                row.flags.origin = Origin::Initial;
            }
            let seq = pipe.next_seq;
            pipe.next_seq += 1;
            let def = &core.defs[row.tag.0 as usize];
            let meta = SampleMeta { tag: &def.path, def: def.def, read_time, device_time, source: &self.source, seq: seq as i64 };
            if let Err(reason) = applied {
                pipe.headers.clear();
                dead_letter_headers(&mut pipe.headers, &def.topic.name, &def.path, &self.source, seq, &reason);
                self.tell(&def.topic, "", &format!("tag {}: {reason}", def.path));
                let Pipe { lanes, headers, .. } = pipe;
                let lane = lane_of(lanes, def.topic.lane);
                let record = Record {
                    offset: seq,
                    topic: &def.topic.dead_letter,
                    schema: 0,
                    timestamp_ms: read_time.as_millis(),
                    flags: flag::AUX,
                    headers,
                };
                lane.builder.push(
                    &record,
                    Some(|out: &mut Vec<u8>| {
                        millrace_schemas::json::encode(&meta, &row, heap, out);
                        Key::Bytes(def.path.as_bytes())
                    }),
                    Key::None,
                );
                delta.dead += 1;
                return;
            }
            let lane = if row.flags.origin == Origin::Backfill { Lane::Bulk } else { def.topic.lane };
            let (timestamp, is_replaced) = def.topic.timestamp(row.time, read_time);
            if is_replaced {
                self.ledger.outgoing.timestamp_replaced.fetch_add(1, Relaxed);
            }
            let Pipe { lanes, key: key_buffer, .. } = pipe;
            let lane = lane_of(lanes, lane);
            let topic = &def.topic;
            let write_key = sample_key(&topic.key, &def.path, &self.source, key_buffer);
            let record =
                Record { offset: seq, topic: &topic.name, schema: topic.sample_mark(), timestamp_ms: timestamp, flags: 0, headers: &[] };
            lane.builder.push(
                &record,
                Some(|out: &mut Vec<u8>| {
                    let start = out.len();
                    let tag_at = encode(topic.format, &meta, &row, heap, out);
                    match (write_key, tag_at) {
                        (KeyChoice::Tag, Some(at)) => Key::InValue { start: (at.start - start) as u32, len: at.len() as u32 },
                        (KeyChoice::Tag, None) => Key::Bytes(def.path.as_bytes()),
                        (KeyChoice::None, _) => Key::None,
                        (KeyChoice::Bytes(bytes), _) => Key::Bytes(bytes),
                    }
                }),
                Key::None,
            );
            if topic.latest && row.flags.origin != Origin::Backfill {
                // In one lane whatever the topic's, so that a tombstone never overtakes a sample.
                let seq = pipe.next_seq;
                pipe.next_seq += 1;
                let record = Record {
                    offset: seq,
                    topic: &self.latest.name,
                    schema: self.latest.sample_mark(),
                    timestamp_ms: timestamp,
                    flags: flag::AUX,
                    headers: &[],
                };
                lane_of(&mut pipe.lanes, Lane::Normal).builder.push(
                    &record,
                    Some(|out: &mut Vec<u8>| {
                        encode(self.latest.format, &meta, &row, heap, out);
                        Key::Bytes(def.path.as_bytes())
                    }),
                    Key::None,
                );
            }
            if self.taps.is_watched() {
                let mut line = Vec::new();
                millrace_schemas::json::encode(&meta, &row, heap, &mut line);
                self.taps.say(&self.source, &def.path, line);
            }
        } else {
            delta.filtered += 1;
        }
    }

    /// A sample that goes into a wide record: a change into its asset's, any reading into its scan's.
    #[allow(clippy::too_many_arguments, reason = "one sample on its way, as in `sample`")]
    fn fold(
        &self,
        core: &mut Core,
        pipe: &mut Pipe,
        delta: &mut Delta,
        seat: Seat,
        row: &Row,
        heap: &[u8],
        read_time: Micros,
        verdict: Verdict,
    ) {
        delta.filtered += 1;
        let is_scan = core.rows.is_scan(seat);
        let is_wanted = if is_scan { !matches!(row.flags.origin, Origin::Heartbeat | Origin::Status) } else { verdict != Verdict::Filter };
        if !is_wanted {
            return;
        }
        if core.rows.is_repeat(seat) {
            let closed = core.rows.close(seat);
            self.wide_record(core, pipe, closed, read_time);
        }
        delta.held = delta.held.max(core.rows.fold(seat, row, heap, read_time));
        if self.taps.is_watched() {
            let def = &core.defs[row.tag.0 as usize];
            let meta =
                SampleMeta { tag: &def.path, def: def.def, read_time, device_time: None, source: &self.source, seq: pipe.next_seq as i64 };
            let mut line = Vec::new();
            millrace_schemas::json::encode(&meta, row, heap, &mut line);
            self.taps.say(&self.source, &def.path, line);
        }
    }

    /// Decides whether the row's time is believed. Returns the device's claim where it is not.
    fn believe(&self, row: &mut Row, read_time: Micros) -> Option<Micros> {
        if row.time.is_none() {
            row.time = read_time;
            row.flags.time_source = TimeSource::Gateway;
            return None;
        }
        if row.flags.time_source == TimeSource::Gateway || row.flags.origin == Origin::Heartbeat {
            return None;
        }
        if self.is_believed(row.time, read_time, row.flags.origin == Origin::Backfill) {
            return None;
        }
        let claim = row.time;
        row.time = read_time;
        row.flags = Flags::new(row.flags.origin, TimeSource::Gateway);
        Some(claim)
    }

    fn is_believed(&self, time: Micros, read_time: Micros, is_past: bool) -> bool {
        let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        let is_not_behind = is_past || time.0 >= read_time.0.saturating_sub(micros(self.clock.behind));
        is_not_behind && time.0 <= read_time.0.saturating_add(micros(self.clock.ahead))
    }

    fn document(&self, pipe: &mut Pipe, delta: &mut Delta, doc: &Doc, batch: &Batch) {
        let route = self.routes.get(doc.route.0 as usize);
        let topic = {
            let name = if doc.topic == Span::EMPTY { route.map_or("millrace.unrouted", |r| &r.topic) } else { batch.text_of(doc.topic) };
            self.core.lock().topic(name)
        };
        let key = if doc.key.len == 0 { Key::None } else { Key::Bytes(batch.bytes_of(doc.key)) };
        let payload = doc.payload.map(|span| batch.bytes_of(span));
        let mut is_converted = false;
        if let (Some(contract), Some(bytes)) = (&topic.contract, payload) {
            pipe.value.clear();
            if let Err(misfit) = contract.fit(bytes, &mut pipe.value, &mut pipe.work) {
                let reason = format!("does not fit the schema of topic {}: {misfit}", topic.name);
                return self.dead_letter(
                    pipe,
                    delta,
                    &topic,
                    route,
                    Dead { key, headers: doc.headers, payload: bytes, reason: &reason },
                    batch,
                );
            }
            is_converted = true;
        }
        let time = if doc.time.is_none() { batch.read_time } else { doc.time };
        let (timestamp, is_replaced) = topic.timestamp(time, batch.read_time);
        if is_replaced {
            self.ledger.outgoing.timestamp_replaced.fetch_add(1, Relaxed);
        }
        let seq = pipe.next_seq;
        pipe.next_seq += 1;
        pipe.headers.clear();
        pipe.headers.extend_from_slice(batch.bytes_of(doc.headers));
        identity_headers(&mut pipe.headers, &self.source, seq);
        let Pipe { lanes, headers, value, .. } = pipe;
        let lane = lane_of(lanes, topic.lane);
        let record = Record { offset: seq, topic: &topic.name, schema: topic.mark, timestamp_ms: timestamp, flags: 0, headers };
        let written: Option<&[u8]> = if is_converted { Some(value) } else { payload };
        lane.builder.push(
            &record,
            written.map(|bytes| {
                move |out: &mut Vec<u8>| {
                    out.extend_from_slice(bytes);
                    key
                }
            }),
            key,
        );
        if self.taps.is_watched()
            && let Some(bytes) = payload
        {
            self.taps.say(&self.source, &topic.name, bytes.to_vec());
        }
    }

    fn reject(&self, pipe: &mut Pipe, delta: &mut Delta, reject: &Reject, batch: &Batch) {
        let route = self.routes.get(reject.route.0 as usize);
        let topic = self.core.lock().topic(route.map_or("millrace.unrouted", |r| &r.topic));
        let key = if reject.key.len == 0 { Key::None } else { Key::Bytes(batch.bytes_of(reject.key)) };
        let payload = batch.bytes_of(reject.payload);
        self.dead_letter(pipe, delta, &topic, route, Dead { key, headers: reject.headers, payload, reason: &reject.reason }, batch);
    }

    /// A dead letter with the payload as it came.
    fn dead_letter(&self, pipe: &mut Pipe, delta: &mut Delta, topic: &Topic, route: Option<&Route>, dead: Dead<'_>, batch: &Batch) {
        let Dead { key, headers: carried, payload, reason } = dead;
        let route = route.map_or("", |r| &*r.name);
        self.tell(topic, route, reason);
        let seq = pipe.next_seq;
        pipe.next_seq += 1;
        pipe.headers.clear();
        pipe.headers.extend_from_slice(batch.bytes_of(carried));
        dead_letter_headers(&mut pipe.headers, &topic.name, route, &self.source, seq, reason);
        let Pipe { lanes, headers, .. } = pipe;
        let lane = lane_of(lanes, topic.lane);
        let record = Record {
            offset: seq,
            topic: &topic.dead_letter,
            schema: 0,
            timestamp_ms: batch.read_time.as_millis(),
            flags: flag::AUX,
            headers,
        };
        lane.builder.push(
            &record,
            Some(|out: &mut Vec<u8>| {
                out.extend_from_slice(payload);
                key
            }),
            Key::None,
        );
        delta.dead += 1;
    }

    /// Says in the messages that there is a dead letter: of each way in the first at once, a storm of them now and then.
    fn tell(&self, topic: &Topic, route: &str, reason: &str) {
        if let Some(times) = self.told.lock().say(&format!("{route} {}", topic.name)) {
            tracing::warn!(source = %self.source, route, topic = &*topic.dead_letter, repeated = times, "a dead letter: {reason}");
        }
    }

    /// One catalog entry: a tag's definition, or the news that it is retired.
    fn entry(&self, pipe: &mut Pipe, entry: &crate::catalog::Entry, read_time: Micros) {
        let seq = pipe.next_seq;
        pipe.next_seq += 1;
        let lane = pipe.lane(Lane::Normal);
        let record =
            Record { offset: seq, topic: &entry.topic, schema: 0, timestamp_ms: read_time.as_millis(), flags: flag::AUX, headers: &[] };
        lane.builder.push(
            &record,
            entry.value.as_ref().map(|value| {
                |out: &mut Vec<u8>| {
                    out.extend_from_slice(value);
                    Key::Bytes(&entry.key)
                }
            }),
            Key::Bytes(&entry.key),
        );
    }
}

enum KeyChoice<'a> {
    Tag,
    None,
    Bytes(&'a [u8]),
}

fn sample_key<'a>(key: &SampleKey, path: &'a str, source: &str, buffer: &'a mut Vec<u8>) -> KeyChoice<'a> {
    let asset = || path.rsplit_once('/').map_or(path, |(asset, _)| asset);
    match key {
        SampleKey::Tag => KeyChoice::Tag,
        SampleKey::None => KeyChoice::None,
        SampleKey::Asset => KeyChoice::Bytes(asset().as_bytes()),
        SampleKey::Template(text) => {
            buffer.clear();
            let mut rest: &str = text;
            while let Some((before, after)) = rest.split_once('{') {
                buffer.extend_from_slice(before.as_bytes());
                let (name, tail) = after.split_once('}').unwrap_or((after, ""));
                buffer.extend_from_slice(match name {
                    "tag" => path.as_bytes(),
                    "asset" => asset().as_bytes(),
                    "source" => source.as_bytes(),
                    _ => b"",
                });
                rest = tail;
            }
            buffer.extend_from_slice(rest.as_bytes());
            KeyChoice::Bytes(buffer)
        }
    }
}

/// A sample in its topic's format. Returns where in `out` the tag's path lies, for the record's key.
pub(crate) fn encode(format: Format, meta: &SampleMeta<'_>, row: &Row, heap: &[u8], out: &mut Vec<u8>) -> Option<std::ops::Range<usize>> {
    match format {
        Format::Avro => millrace_schemas::avro::encode(meta, row, heap, out),
        Format::Json | Format::Raw => millrace_schemas::json::encode(meta, row, heap, out),
        Format::Protobuf => {
            out.push(FIRST_MESSAGE);
            millrace_schemas::protobuf::encode(meta, row, heap, out)
        }
    }
}

fn identity_headers(out: &mut Vec<u8>, source: &str, seq: u64) {
    use std::io::Write;
    push_header(out, "millrace.source", Some(source.as_bytes()));
    let mut digits = [0u8; 20];
    let mut rest = &mut digits[..];
    let _ = write!(rest, "{seq}");
    let len = 20 - rest.len();
    push_header(out, "millrace.seq", Some(&digits[..len]));
}

/// The headers of a dead letter, named as Kafka Connect names them.
pub(crate) fn dead_letter_headers(out: &mut Vec<u8>, topic: &str, route: &str, source: &str, seq: u64, reason: &str) {
    push_header(out, "__connect.errors.topic", Some(topic.as_bytes()));
    push_header(out, "__connect.errors.connector.name", Some(source.as_bytes()));
    push_header(out, "__connect.errors.exception.message", Some(reason.as_bytes()));
    push_header(out, "millrace.route", Some(route.as_bytes()));
    identity_headers(out, source, seq);
}

/// The first offset of a new incarnation: from the clock, unless the clock is older than this program. The microseconds count, so that one that
/// follows another within a second is above it.
fn incarnation() -> u64 {
    let now = Micros::now().0 as u64;
    (now / 1_000_000).max(PROGRAM_BUILT) << 20 | (now % 1_000_000)
}

/// Where a source keeps its small files, below the data directory.
pub fn source_dir(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.join("sources").join(name.replace('/', "%2F"))
}
