//! An open log's state.
//!
//! One mutex guards it; nothing but a write to the file happens under it. Observers are called without it.

use crate::budget::Budget;
use crate::cursors::{CursorFiles, Cursors};
use crate::format::{BATCH_HEADER, BatchHeader};
use crate::recover::Newest;
use crate::report::Faults;
use crate::segment::Segment;
use crate::shared::Shared;
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

#[derive(Clone)]
pub struct LogOptions {
    /// A segment is sealed when it has grown to this, and to a sixteenth of the budget at most.
    pub segment_bytes: u64,
    /// How long an appended batch waits for its fdatasync when nobody asks for it.
    pub sync: Duration,
    /// First offset of a log that is new.
    pub start: u64,
    pub budget: Option<Arc<Budget>>,
    /// Within a budget, the log with the lowest priority is the first to lose segments.
    pub priority: u8,
    /// Largest batch.
    pub max_batch: u32,
    /// Bytes held in memory until synced; beyond it appends are refused.
    pub unsynced: u64,
    /// Appends may use what is to be kept free on the disk: for a small log that tells what may go.
    pub uses_kept_free: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            sync: Duration::from_millis(200),
            start: 0,
            budget: None,
            priority: 0,
            max_batch: 64 << 20,
            unsynced: 16 << 20,
            uses_kept_free: false,
        }
    }
}

/// Batches held in memory until they are synced; they stand one behind the other in one segment.
pub(crate) struct Held {
    pub seq: u64,
    /// Position of the first one.
    pub pos: u64,
    pub first: u64,
    pub next: u64,
    pub bytes: Vec<u8>,
    /// A sync has begun that covers it: nothing is added.
    pub closed: bool,
}

pub(crate) struct State {
    /// In order; the last one is appended to unless it is sealed.
    pub segments: VecDeque<Segment>,
    pub next_seq: u64,
    pub end: u64,
    pub synced: u64,
    /// Records appended since the log was created.
    pub total: u64,
    pub newest: Option<Newest>,
    pub held: VecDeque<Held>,
    pub held_bytes: u64,
    /// The last segment takes no more batches: its file is in an unknown state.
    pub roll: bool,
    /// A name may have been created or removed since the directory was synced.
    pub dir_unsynced: bool,
    pub syncing: bool,
    /// Someone waits for a sync, which may start so long after the last one.
    pub wanted: Option<Duration>,
    pub scheduled: Option<Instant>,
    pub last_sync: Option<Instant>,
    pub trouble: Option<Trouble>,
    pub faults: Faults,
    pub cursors: Cursors,
    /// The first segment that stays, as the cursors say before those in front of it go.
    pub front: Option<(u64, u64)>,
    pub closed: bool,
}

impl State {
    /// The first `count` segments are about to be deleted.
    pub fn lets_go(&mut self, count: usize) {
        self.front = self.front.max(self.segments.get(count).map(|first| (first.header.seq, first.header.total)));
    }

    /// Records appended below `synced`.
    pub fn synced_total(&self) -> u64 {
        let unsynced = self.held.front().and_then(|held| held.bytes.first_chunk::<BATCH_HEADER>());
        unsynced.map_or(self.total, |header| BatchHeader::decode(header).total)
    }
}

/// A disk that does not sync.
pub(crate) struct Trouble {
    pub attempts: u32,
    pub retry_at: Instant,
}

type Observed<T> = Arc<Vec<Arc<T>>>;

pub(crate) struct Observers<T: ?Sized>(RwLock<Observed<T>>);

impl<T: ?Sized> Observers<T> {
    pub(crate) fn none() -> Self {
        Self(RwLock::new(Arc::new(Vec::new())))
    }

    pub(crate) fn add(&self, observer: Arc<T>) {
        let mut list = self.0.write();
        let mut more = Vec::clone(&list);
        more.push(observer);
        *list = Arc::new(more);
    }

    pub fn each(&self, call: impl Fn(&T)) {
        let list = self.0.read().clone();
        list.iter().for_each(|observer| call(observer));
    }
}

type OnOffset = dyn Fn(u64) + Send + Sync;

type OnRoom = dyn Fn() + Send + Sync;

pub(crate) struct Inner {
    pub id: u64,
    pub name: String,
    pub dir: PathBuf,
    pub options: LogOptions,
    pub segment_bytes: u64,
    pub shared: Arc<Shared>,
    pub this: Weak<Self>,
    pub state: Mutex<State>,
    pub sync_lock: Mutex<()>,
    pub drop_lock: Mutex<()>,
    pub cursor_files: Mutex<CursorFiles>,
    pub end: AtomicU64,
    pub synced: AtomicU64,
    pub bytes: AtomicU64,
    /// As in the state, for those who must not lock it.
    pub(crate) closed: AtomicBool,
    /// The log's own directory may be new and its name not durable yet.
    pub(crate) name_unsynced: AtomicBool,
    /// An append was refused for want of room since the observers were told last.
    pub refused: AtomicBool,
    pub on_append: Observers<OnOffset>,
    pub on_sync: Observers<OnOffset>,
    pub(crate) on_room: Observers<OnRoom>,
}
