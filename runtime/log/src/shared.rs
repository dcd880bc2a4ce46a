//! What the logs of a store share: room on the disk and in memory, open files, the queue of those that are to be synced.

use crate::error::StoreError;
use crate::fs::{Fs, Lock, RealFs, Space};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Bytes appended between two looks at the room on the disk.
pub(crate) const LOOK_BYTES: u64 = 1 << 20;

/// An open segment that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(30);

const TICK: Duration = Duration::from_secs(1);

/// Memory of synced batches kept for the next ones.
const SPARE_BYTES: usize = 8 << 20;

/// Room that the logs leave on the disk for others.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum KeepFree {
    Bytes(u64),
    /// Percent of the disk's size.
    Percent(f64),
}

impl KeepFree {
    /// Bytes to keep free on a disk.
    pub fn of(self, space: Space) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (space.total as f64 * percent / 100.0) as u64,
        }
    }
}

#[derive(Clone)]
pub struct StoreOptions {
    /// What appends leave free on the disk.
    pub keep_free: KeepFree,
    /// Threads that sync. With 0 nothing is synced but by [`Log::sync`].
    pub syncers: usize,
    /// Segments kept open at once.
    pub open_files: usize,
    /// Bytes of all logs together held in memory until synced; beyond it appends are refused.
    pub unsynced: u64,
    pub fs: Arc<dyn Fs>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { keep_free: KeepFree::Percent(5.0), syncers: 2, open_files: 256, unsynced: 64 << 20, fs: Arc::new(RealFs) }
    }
}

/// An open log, as the store has to do with it.
pub(crate) trait OpenLog: Send + Sync {
    /// A syncer's call; does nothing if the log was synced or scheduled anew since.
    fn sync_if_scheduled(&self, at: Instant);
    fn tell_room(&self);
    /// Adds when each open file was used last.
    fn ages(&self, ages: &mut Vec<u64>);
    /// Closes files that were not used since then.
    fn close_idle(&self, not_since: u64);
    fn is_closed(&self) -> bool;
    fn close(&self) -> Result<(), StoreError>;
    /// Closes without a sync: the log is deleted.
    fn close_and_forget(&self);
}

/// What the logs of a store share.
pub(crate) struct Shared {
    pub fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) options: StoreOptions,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) due: Condvar,
    pub(crate) logs: Mutex<HashMap<String, Weak<dyn OpenLog>>>,
    /// Held while a log is opened or removed; never by an append.
    pub(crate) naming: Mutex<()>,
    pub(crate) spare: Mutex<(Vec<Vec<u8>>, usize)>,
    pub(crate) low: AtomicBool,
    /// The largest append that was refused since: what fits less is no room yet.
    pub(crate) short: AtomicU64,
    pub(crate) since_look: AtomicU64,
    /// Open segment files.
    pub open: AtomicUsize,
    /// Bytes held in memory until synced.
    pub held: AtomicU64,
    /// An append was refused because of them.
    pub(crate) held_refused: AtomicBool,
    pub(crate) started: Instant,
    pub(crate) next_id: AtomicU64,
    pub(crate) closed: AtomicBool,
    /// A log was let go of before all of it was synced: no later close makes this run a clean one.
    pub(crate) unclean: AtomicBool,
    pub power_cut: bool,
    /// Logs that were not recovered since the power cut.
    pub(crate) unchecked: Mutex<HashSet<String>>,
    pub(crate) _lock: Box<dyn Lock>,
}

#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) due: BTreeMap<(Instant, u64), Weak<dyn OpenLog>>,
    pub(crate) stop: bool,
}

impl Shared {
    /// No append is taken any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    pub fn left_unsynced(&self) {
        self.unclean.store(true, Relaxed);
    }

    /// Seconds since the store was opened; a clock for what was used last.
    pub fn tick(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Queues a log for its sync.
    pub fn schedule(&self, at: Instant, id: u64, log: Weak<dyn OpenLog>) {
        let mut queue = self.queue.lock();
        queue.due.insert((at, id), log);
        if queue.due.first_key_value().is_some_and(|(first, _)| *first == (at, id)) {
            drop(queue);
            self.due.notify_one();
        }
    }

    pub(crate) fn sync_when_due(&self, ticks: bool) {
        let (mut last_tick, mut last_sweep) = (Instant::now(), Instant::now());
        let mut queue = self.queue.lock();
        while !queue.stop {
            let now = Instant::now();
            if ticks && now >= last_tick + TICK {
                last_tick = now;
                drop(queue);
                self.look_again();
                if now >= last_sweep + IDLE {
                    last_sweep = now;
                    self.close_idle(self.tick().saturating_sub(IDLE.as_secs()));
                }
                queue = self.queue.lock();
                continue;
            }
            match queue.due.first_key_value().map(|(key, _)| *key) {
                Some(key) if key.0 <= now => {
                    let log = queue.due.remove(&key).and_then(|log| log.upgrade());
                    drop(queue);
                    if let Some(log) = log {
                        log.sync_if_scheduled(key.0);
                    }
                    queue = self.queue.lock();
                }
                first => {
                    let tick = ticks.then_some(last_tick + TICK);
                    match first.map(|key| key.0).into_iter().chain(tick).min() {
                        Some(until) => drop(self.due.wait_until(&mut queue, until)),
                        None => self.due.wait(&mut queue),
                    }
                }
            }
        }
    }

    /// Whether `bytes` more may be written: `Err` with what is free and what is to be kept free. Looks at the disk once in a MiB, and always while it is full.
    pub fn check_space(&self, bytes: u64) -> Result<(), (u64, u64)> {
        if !self.low.load(Relaxed) && self.since_look.fetch_add(bytes, Relaxed) < LOOK_BYTES {
            return Ok(());
        }
        self.since_look.store(0, Relaxed);
        let Ok(space) = self.fs.space(&self.dir) else { return Ok(()) };
        let keep = self.options.keep_free.of(space);
        let enough = space.free >= keep.saturating_add(bytes);
        if !enough {
            self.short.fetch_max(bytes, Relaxed);
            if !self.low.swap(true, Relaxed) {
                tracing::warn!(free = space.free, keep, "the disk is full; appends wait until there is room");
            }
        } else if space.free >= keep.saturating_add(self.short.load(Relaxed)) && self.low.swap(false, Relaxed) {
            self.short.store(0, Relaxed);
            tracing::info!(free = space.free, "there is room on the disk again");
        }
        if enough { Ok(()) } else { Err((space.free, keep)) }
    }

    /// A write found the disk full: no append passes before a look says otherwise.
    pub fn found_full(&self) -> (u64, u64) {
        self.low.store(true, Relaxed);
        let space = self.fs.space(&self.dir).unwrap_or_default();
        (space.free, self.options.keep_free.of(space))
    }

    /// Looks at the disk, which others fill and empty too; tells those who wait when there is room again.
    pub fn look_again(&self) {
        let was_low = self.low.load(Relaxed);
        self.since_look.store(LOOK_BYTES, Relaxed);
        if self.check_space(0).is_ok() && was_low {
            self.tell_room();
        }
    }

    /// Whether all logs together hold as much as they may: used and limit. Who is refused is told after the next sync of any log.
    pub fn check_held(&self) -> Result<(), (u64, u64)> {
        let (held, limit) = (self.held.load(Relaxed), self.options.unsynced);
        if held < limit {
            return Ok(());
        }
        self.held_refused.store(true, Relaxed);
        Err((held, limit))
    }

    /// Time for those who append to ask for a sync.
    pub fn is_half_full(&self, held: u64) -> bool {
        held >= self.options.unsynced / 2
    }

    pub fn tell_if_held_was_refused(&self) {
        if self.held_refused.swap(false, Relaxed) {
            self.tell_room();
        }
    }

    pub(crate) fn tell_room(&self) {
        let logs: Vec<_> = self.logs.lock().values().filter_map(Weak::upgrade).collect();
        logs.iter().for_each(|log| log.tell_room());
    }

    /// As many files are open as should be, or more because they hold what is not synced.
    pub fn is_crowded(&self) -> bool {
        self.open.load(Relaxed) >= self.options.open_files
    }

    /// Closes segments until few enough are open; called before one more is opened, with no log locked but the caller's.
    pub fn make_room_for_open(&self) {
        if !self.is_crowded() {
            return;
        }
        let mut ages: Vec<u64> = Vec::new();
        let logs: Vec<_> = self.logs.lock().values().filter_map(Weak::upgrade).collect();
        logs.iter().for_each(|log| log.ages(&mut ages));
        ages.sort_unstable();
        let Some(median) = ages.get(ages.len() / 2) else { return };
        let median = *median;
        logs.iter().for_each(|log| log.close_idle(median));
    }

    pub(crate) fn close_idle(&self, not_since: u64) {
        let logs: Vec<_> = self.logs.lock().values().filter_map(Weak::upgrade).collect();
        logs.iter().for_each(|log| log.close_idle(not_since));
    }

    /// An empty buffer, used before if possible.
    pub fn buffer(&self) -> Vec<u8> {
        let mut spare = self.spare.lock();
        let buffer = spare.0.pop().unwrap_or_default();
        spare.1 -= buffer.capacity();
        buffer
    }

    pub fn recycle(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.lock();
        if spare.1 + buffer.capacity() <= SPARE_BYTES {
            buffer.clear();
            spare.1 += buffer.capacity();
            spare.0.push(buffer);
        }
    }
}
