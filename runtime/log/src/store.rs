//! One directory of logs, and the few threads that sync them.
//!
//! ```text
//! store/   .lock        held while a process has the store open; its process id
//!          .boot        which start of the machine the store was last open in, and whether it was closed
//!          NAME/        one log; its name percent-encoded
//!            BASE-SEQ.seg   cursors.0   cursors.1   *.quarantined
//! ```

use crate::error::StoreError;
use crate::fs::{Fs, Lock, Mode, Space};
use crate::log::Log;
use crate::names;
use crate::report::Recovery;
use crate::shared::{LOOK_BYTES, Shared, StoreOptions};
use crate::state::{Inner, LogOptions};
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

const BOOT_MAGIC: &str = "MILLRBOOT 1";

/// Three lines, blanks, and a checksum of eight digits; blanks there too in a file of an early version.
const BOOT_BYTES: usize = 128;

/// A directory of logs, open in this process alone. Clones share it.
#[derive(Clone)]
pub struct Store {
    core: Arc<Core>,
}

/// What ends with the last clone of the store, though logs may outlive it.
struct Core {
    shared: Arc<Shared>,
    syncers: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// Opens or creates a store.
    ///
    /// Errors: `Locked` if another process has it open; `Newer` if a later release wrote it.
    pub fn open(dir: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        let (dir, fs) = (dir.as_ref().to_path_buf(), options.fs.clone());
        fs.create_dir(&dir).map_err(StoreError::io("create", &dir))?;
        let lock = take_lock(&*fs, &dir)?;
        let power_cut = after_power_cut(&*fs, &dir)?;
        let unchecked = if power_cut { names_in(&*fs, &dir)?.into_iter().collect() } else { HashSet::new() };
        write_boot(&*fs, &dir, if unchecked.is_empty() { Ended::Open } else { Ended::OpenAfterCut })?;
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
            short: AtomicU64::new(0),
            since_look: AtomicU64::new(LOOK_BYTES),
            open: AtomicUsize::new(0),
            held: AtomicU64::new(0),
            held_refused: AtomicBool::new(false),
            started: Instant::now(),
            next_id: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            unclean: AtomicBool::new(false),
            power_cut,
            unchecked: Mutex::new(unchecked),
            _lock: lock,
        });
        let mut threads = Vec::new();
        for i in 0..syncers {
            let shared = shared.clone();
            let name = format!("log-sync-{i}");
            let thread = std::thread::Builder::new().name(name).spawn(move || shared.sync_when_due(i == 0));
            threads.push(thread.map_err(StoreError::io("start a thread for", Path::new("syncing")))?);
        }
        Ok(Self { core: Arc::new(Core { shared, syncers: Mutex::new(threads) }) })
    }

    pub fn dir(&self) -> &Path {
        &self.core.shared.dir
    }

    /// The last run did not close the store, and the machine was started anew since: what was not synced may be gone.
    pub fn power_cut(&self) -> bool {
        self.core.shared.power_cut
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
        let mut unchecked = shared.unchecked.lock();
        if unchecked.remove(name) && unchecked.is_empty() {
            write_boot(&*shared.fs, &shared.dir, Ended::Open)?;
        }
        drop(unchecked);
        let open: Weak<Inner> = Arc::downgrade(&log);
        shared.logs.lock().insert(name.to_owned(), open);
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
        write_boot(&*shared.fs, &shared.dir, Ended::Closed)
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

/// How a run ended, as far as it could say so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// It did not close the store.
    Open,
    /// Nor did it recover every log after the power cut before it.
    OpenAfterCut,
    Closed,
}

impl Ended {
    fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::OpenAfterCut => "open after a power cut",
            Self::Closed => "closed",
        }
    }
}

/// The last run did not close the store, and the machine was started anew since, or some log was not recovered since it was.
pub(crate) fn after_power_cut(fs: &dyn Fs, dir: &Path) -> Result<bool, StoreError> {
    let path = dir.join(".boot");
    let file = match fs.open(&path, Mode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file.map_err(StoreError::io("open", &path))?,
    };
    let mut bytes = [0; BOOT_BYTES];
    // What cannot be read, or is damaged, is believed least: then there was a power cut.
    let n = file.read_full_at(0, &mut bytes).unwrap_or(0);
    let (text, crc) = bytes[..n].split_at(n.min(BOOT_BYTES - 9));
    let is_whole = crc.get(..8) == Some(&boot_checksum(text)[..]);
    let is_early = crc.iter().all(|byte| byte.is_ascii_whitespace());
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines();
    let magic = lines.next().unwrap_or_default();
    let version = magic.strip_prefix("MILLRBOOT ").and_then(|version| version.parse::<u32>().ok());
    if let Some(found) = version.filter(|found| is_whole && *found > 1) {
        return Err(StoreError::Newer { path, found, known: 1 });
    }
    let (boot_id, state) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default().trim_end());
    if magic != BOOT_MAGIC || !(is_whole || is_early) || state == Ended::OpenAfterCut.as_str() {
        return Ok(true);
    }
    Ok(state != Ended::Closed.as_str() && boot_id != fs.boot_id())
}

/// Eight hexadecimal digits.
fn boot_checksum(text: &[u8]) -> Vec<u8> {
    format!("{:08x}", crc32c::crc32c(text)).into_bytes()
}

/// Written in place: on a full disk its block is there already.
fn write_boot(fs: &dyn Fs, dir: &Path, ended: Ended) -> Result<(), StoreError> {
    let path = dir.join(".boot");
    let text = format!("{BOOT_MAGIC}\n{}\n{}\n", fs.boot_id(), ended.as_str());
    let mut bytes = format!("{text:width$}", width = BOOT_BYTES - 9).into_bytes();
    bytes.truncate(BOOT_BYTES - 9);
    bytes.extend_from_slice(&boot_checksum(&bytes));
    bytes.push(b'\n');
    let written = (|| {
        let (file, created) = match fs.open(&path, Mode::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => (fs.open(&path, Mode::New)?, true),
            file => (file?, false),
        };
        file.write_all_at(0, &bytes)?;
        file.sync_data()?;
        if created { fs.sync_dir(dir) } else { Ok(()) }
    })();
    written.map_err(StoreError::io("write", &path))
}
