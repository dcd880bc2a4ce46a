//! One directory of logs, and the few threads that sync them.
//!
//! ```text
//! store/   .lock        held while a process has the store open; its process id
//!          .boot        which start of the machine the store was last open in, and whether it was closed
//!          NAME/        one log; its name percent-encoded
//!            BASE-SEQ.seg   cursors.0   cursors.1   *.quarantined
//! ```

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::StoreError;
use crate::fs::{Fs, Lock, Mode, RealFs, Space};
use crate::log::{Inner, Log, LogOptions, Recovery};
use crate::names;

const BOOT_MAGIC: &str = "MILLRBOOT 1";
/// Bytes appended between two looks at the room on the disk.
const LOOK_BYTES: u64 = 1 << 20;
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
    /// Default: 5 percent of the disk.
    pub keep_free: KeepFree,
    /// Threads that sync; default 2. With 0 nothing is synced but by [`Log::sync`].
    pub syncers: usize,
    /// Segments kept open at once; default 256.
    pub open_files: usize,
    /// Bytes of all logs together held in memory until synced; beyond it appends are refused. Default 64 MiB.
    pub unsynced: u64,
    pub fs: Arc<dyn Fs>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { keep_free: KeepFree::Percent(5.0), syncers: 2, open_files: 256, unsynced: 64 << 20, fs: Arc::new(RealFs) }
    }
}

/// A directory of logs, open in this process alone. Clones share it.
#[derive(Clone)]
pub struct Store {
    core: Arc<Core>,
}

/// What ends with the last clone of the store, though logs may outlive it.
struct Core {
    shared: Arc<Shared>,
    power_cut: bool,
    syncers: Mutex<Vec<JoinHandle<()>>>,
}

/// What the logs of a store share.
pub(crate) struct Shared {
    pub fs: Arc<dyn Fs>,
    dir: PathBuf,
    options: StoreOptions,
    queue: Mutex<Queue>,
    due: Condvar,
    logs: Mutex<HashMap<String, Weak<Inner>>>,
    /// Held while a log is opened or removed; never by an append.
    naming: Mutex<()>,
    spare: Mutex<(Vec<Vec<u8>>, usize)>,
    low: AtomicBool,
    since_look: AtomicU64,
    /// Open segment files.
    pub open: AtomicUsize,
    /// Bytes held in memory until synced.
    pub held: AtomicU64,
    /// An append was refused because of them.
    held_refused: AtomicBool,
    started: Instant,
    next_id: AtomicU64,
    closed: AtomicBool,
    /// A log was let go of before all of it was synced: no later close makes this run a clean one.
    unclean: AtomicBool,
    _lock: Box<dyn Lock>,
}

#[derive(Default)]
struct Queue {
    due: BTreeMap<(Instant, u64), Weak<Inner>>,
    stop: bool,
}

impl Store {
    /// Opens or creates a store.
    ///
    /// Errors: `Locked` if another process has it open; `Newer` if a later release wrote it.
    pub fn open(dir: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        let (dir, fs) = (dir.as_ref().to_path_buf(), options.fs.clone());
        fs.create_dir(&dir).map_err(StoreError::io("create", &dir))?;
        let lock = take_lock(&*fs, &dir)?;
        let boot_id = fs.boot_id();
        let power_cut = match read_boot(&*fs, &dir)? {
            Some((last, clean)) => !clean && last != boot_id,
            None => false,
        };
        write_boot(&*fs, &dir, &boot_id, false)?;
        let syncers = options.syncers;
        let shared = Arc::new(Shared {
            fs,
            dir,
            options,
            queue: Mutex::default(),
            due: Condvar::new(),
            logs: Mutex::default(),
            naming: Mutex::new(()),
            spare: Mutex::default(),
            low: AtomicBool::new(false),
            since_look: AtomicU64::new(LOOK_BYTES),
            open: AtomicUsize::new(0),
            held: AtomicU64::new(0),
            held_refused: AtomicBool::new(false),
            started: Instant::now(),
            next_id: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            unclean: AtomicBool::new(false),
            _lock: lock,
        });
        let mut threads = Vec::new();
        for i in 0..syncers {
            let shared = shared.clone();
            let name = format!("log-sync-{i}");
            let thread = std::thread::Builder::new().name(name).spawn(move || shared.sync_when_due(i == 0));
            threads.push(thread.map_err(StoreError::io("start a thread for", Path::new("syncing")))?);
        }
        Ok(Self { core: Arc::new(Core { shared, power_cut, syncers: Mutex::new(threads) }) })
    }

    pub fn dir(&self) -> &Path {
        &self.core.shared.dir
    }

    /// The last run did not close the store, and the machine was started anew since: what was not synced may be gone.
    pub fn power_cut(&self) -> bool {
        self.core.power_cut
    }

    /// Room on the disk.
    pub fn space(&self) -> Result<Space, StoreError> {
        let shared = &self.core.shared;
        shared.fs.space(&shared.dir).map_err(StoreError::io("find the free space of", &shared.dir))
    }

    /// Bytes free on the disk beyond `keep_free`.
    pub fn free(&self) -> Result<u64, StoreError> {
        let space = self.space()?;
        Ok(space.free.saturating_sub(self.core.shared.options.keep_free.of(space)))
    }

    /// Appends are refused until there is room again.
    pub fn low_on_space(&self) -> bool {
        self.core.shared.low.load(Relaxed)
    }

    /// Opens or creates a log and says what recovery found.
    pub fn log(&self, name: &str, options: LogOptions) -> Result<(Log, Recovery), StoreError> {
        let shared = &self.core.shared;
        if shared.closed.load(Relaxed) {
            return Err(StoreError::Closed);
        }
        let dir = shared.dir.join(names::encode(name)?);
        let _naming = shared.naming.lock();
        if shared.logs.lock().get(name).and_then(Weak::upgrade).is_some_and(|log| !log.is_closed()) {
            return Err(StoreError::AlreadyOpen(name.to_owned()));
        }
        let is_new = match shared.fs.list(&dir) {
            Ok(_) => false,
            Err(e) if e.kind() == io::ErrorKind::NotFound => true,
            Err(e) => return Err(StoreError::io("list", &dir)(e)),
        };
        if is_new {
            // Its name is made durable with what is in it.
            shared.fs.create_dir(&dir).map_err(StoreError::io("create", &dir))?;
        }
        let id = shared.next_id.fetch_add(1, Relaxed);
        let (log, recovery) = Inner::open(id, name, dir, options, shared.clone())?;
        shared.logs.lock().insert(name.to_owned(), Arc::downgrade(&log));
        Ok((Log::new(log), recovery))
    }

    /// Names of all logs of the store, open or not, sorted.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        names_in(&*self.core.shared.fs, &self.core.shared.dir)
    }

    /// Deletes a log with all that is in it. An open log is closed first.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let shared = &self.core.shared;
        let dir = shared.dir.join(names::encode(name)?);
        let _naming = shared.naming.lock();
        let open = shared.logs.lock().remove(name);
        if let Some(log) = open.and_then(|log| log.upgrade()) {
            log.close_and_forget();
        }
        let entries = match shared.fs.list(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(StoreError::NoSuchLog(name.to_owned())),
            entries => entries.map_err(StoreError::io("list", &dir))?,
        };
        for entry in entries {
            let path = dir.join(&entry.name);
            shared.fs.remove(&path).map_err(StoreError::io("remove", &path))?;
        }
        shared.fs.remove_dir(&dir).map_err(StoreError::io("remove", &dir))?;
        shared.fs.sync_dir(&shared.dir).map_err(StoreError::io("sync", &shared.dir))
    }

    /// Syncs every log, saves the cursors and marks the store as closed. Safe to call twice.
    pub fn close(&self) -> Result<(), StoreError> {
        let shared = &self.core.shared;
        if shared.closed.swap(true, Relaxed) {
            return Ok(());
        }
        self.core.stop_syncers();
        let _naming = shared.naming.lock();
        let logs: Vec<_> = shared.logs.lock().values().filter_map(Weak::upgrade).collect();
        let mut first_failure = Ok(());
        for log in logs {
            let closed = log.close();
            first_failure = first_failure.and(closed);
        }
        first_failure?;
        if shared.unclean.load(Relaxed) {
            return Ok(());
        }
        write_boot(&*shared.fs, &shared.dir, &shared.fs.boot_id(), true)
    }
}

impl Core {
    fn stop_syncers(&self) {
        self.shared.queue.lock().stop = true;
        self.shared.due.notify_all();
        for thread in self.syncers.lock().drain(..) {
            // An observer called by a syncer may drop the last clone of the store.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.closed.store(true, Relaxed);
        self.stop_syncers();
    }
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
    pub fn schedule(&self, at: Instant, id: u64, log: Weak<Inner>) {
        let mut queue = self.queue.lock();
        queue.due.insert((at, id), log);
        if queue.due.first_key_value().is_some_and(|(first, _)| *first == (at, id)) {
            drop(queue);
            self.due.notify_one();
        }
    }

    fn sync_when_due(&self, ticks: bool) {
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
        if self.low.swap(!enough, Relaxed) == enough {
            if enough {
                tracing::info!(free = space.free, "there is room on the disk again");
            } else {
                tracing::warn!(free = space.free, keep, "the disk is full; appends wait until there is room");
            }
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

    fn tell_room(&self) {
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

    fn close_idle(&self, not_since: u64) {
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

/// Names of the logs in a store's directory, sorted.
pub(crate) fn names_in(fs: &dyn Fs, dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = fs.list(dir).map_err(StoreError::io("list", dir))?;
    let mut names: Vec<_> = entries.iter().filter(|entry| entry.is_dir).filter_map(|entry| names::decode(&entry.name)).collect();
    names.sort();
    Ok(names)
}

/// Takes a store's lock, or says who has it.
pub(crate) fn take_lock(fs: &dyn Fs, dir: &Path) -> Result<Box<dyn Lock>, StoreError> {
    let path = dir.join(".lock");
    fs.lock(&path).map_err(|held| match held {
        Ok(pid) => StoreError::Locked { path: dir.to_path_buf(), pid },
        Err(e) => StoreError::io("lock", &path)(e),
    })
}

/// Boot id of the last run, and whether it closed the store.
fn read_boot(fs: &dyn Fs, dir: &Path) -> Result<Option<(String, bool)>, StoreError> {
    let path = dir.join(".boot");
    let file = match fs.open(&path, Mode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(StoreError::io("open", &path))?,
    };
    let mut bytes = [0; 256];
    let n = file.read_full_at(0, &mut bytes).map_err(StoreError::io("read", &path))?;
    let text = String::from_utf8_lossy(&bytes[..n]);
    let mut lines = text.lines();
    let magic = lines.next().unwrap_or_default();
    if let Some(version) = magic.strip_prefix("MILLRBOOT ").and_then(|v| v.parse::<u32>().ok()).filter(|v| *v > 1) {
        return Err(StoreError::Newer { path, found: version, known: 1 });
    }
    // A torn file was being written by a run that did not close the store; no boot id is its boot id.
    let (boot_id, state) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    Ok(Some((boot_id.to_owned(), magic == BOOT_MAGIC && state == "closed")))
}

/// Written in place: on a full disk its block is there already.
fn write_boot(fs: &dyn Fs, dir: &Path, boot_id: &str, clean: bool) -> Result<(), StoreError> {
    let path = dir.join(".boot");
    let text = format!("{BOOT_MAGIC}\n{boot_id}\n{}\n", if clean { "closed" } else { "open" });
    let written = (|| {
        let (file, created) = match fs.open(&path, Mode::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => (fs.open(&path, Mode::New)?, true),
            file => (file?, false),
        };
        file.write_all_at(0, format!("{text:127}\n").as_bytes())?;
        file.sync_data()?;
        if created { fs.sync_dir(dir) } else { Ok(()) }
    })();
    written.map_err(StoreError::io("write", &path))
}
