//! A disk in memory that fails on purpose, for tests: the same seed gives the same failures.
//!
//! Faults that the log survives, and what is promised under each:
//!
//! | Fault | Promise |
//! |---|---|
//! | a write takes only a part of its bytes, then fails | nothing of that batch is in the log |
//! | the disk is full, with or without a partial write | appends are refused until there is room; deleting works |
//! | fdatasync fails, and the pages it should have written are clean from then on | what was reported synced stays; the rest is written elsewhere |
//! | those pages are evicted: reading gives the old content | as above |
//! | power cut: of what is not synced, any set of 512-byte sectors is on the disk, some torn in the middle | what was reported synced is there, in order, with nothing invented |
//! | power cut: of the names created, renamed and removed since the directory was synced, any first part | as above |
//! | flipped bytes anywhere, unreadable blocks | what is corrupt is set aside and reported; what is proven intact stays |
//!
//! Not survived, as on any one disk: loss of synced data together with every later claim that it was synced; another program that writes to the files.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::fs::{Entry, File, Fs, Lock, Mode, Space};

const SECTOR: usize = 512;

/// What fails, as chances from 0 to 1, and how large the disk is.
#[derive(Clone, Debug)]
pub struct Plan {
    pub short_write: f64,
    pub failed_write: f64,
    pub failed_sync: f64,
    pub capacity: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self { short_write: 0.0, failed_write: 0.0, failed_sync: 0.0, capacity: u64::MAX }
    }
}

/// The disk. Clones share it.
#[derive(Clone)]
pub struct FaultyFs(Arc<Mutex<Disk>>);

#[derive(Clone)]
struct Disk {
    plan: Plan,
    random: u64,
    nodes: BTreeMap<u64, Node>,
    dirs: BTreeMap<PathBuf, Dir>,
    next_node: u64,
    /// Grows with each power cut; older handles are dead.
    boot: u64,
    locked: HashSet<PathBuf>,
}

#[derive(Clone, Default)]
struct Node {
    /// What a reader sees.
    seen: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Sectors that a failed fdatasync left clean: seen, not durable, and never written by the next one.
    dropped: BTreeSet<usize>,
    unreadable: BTreeSet<usize>,
}

#[derive(Clone, Default)]
struct Dir {
    names: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    changes: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Set(String, u64),
    Remove(String),
    Rename(String, String),
}

struct Handle {
    disk: Arc<Mutex<Disk>>,
    node: u64,
    boot: u64,
}

struct Held(Arc<Mutex<Disk>>, PathBuf);

impl Lock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().locked.remove(&self.1);
    }
}

impl FaultyFs {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            plan: Plan::default(),
            random: seed | 1,
            nodes: BTreeMap::new(),
            dirs: BTreeMap::new(),
            next_node: 1,
            boot: 1,
            locked: HashSet::new(),
        })))
    }

    /// What fails from now on.
    pub fn plan(&self, plan: Plan) {
        self.0.lock().plan = plan;
    }

    /// Cuts the power and switches it on again. Open handles are dead.
    pub fn power_cut(&self) {
        let disk = &mut *self.0.lock();
        disk.boot += 1;
        disk.locked.clear();
        let mut nodes = std::mem::take(&mut disk.nodes);
        for node in nodes.values_mut() {
            node.lose_power(disk);
        }
        let mut dirs = std::mem::take(&mut disk.dirs);
        for dir in dirs.values_mut() {
            let survive = disk.below(dir.changes.len() as u64 + 1) as usize;
            let mut names = std::mem::take(&mut dir.durable);
            dir.changes.drain(..).take(survive).for_each(|change| change.apply(&mut names));
            (dir.names, dir.durable) = (names.clone(), names);
        }
        let live: HashSet<u64> = dirs.values().flat_map(|dir| dir.names.values().copied()).collect();
        nodes.retain(|id, _| live.contains(id));
        (disk.nodes, disk.dirs) = (nodes, dirs);
    }

    /// What would be on the disk after a power cut at this moment; this one goes on as if nothing had happened.
    pub fn after_power_cut(&self) -> Self {
        let copy = Self(Arc::new(Mutex::new(self.0.lock().clone())));
        copy.power_cut();
        copy
    }

    /// Throws away the cached content of sectors that a failed fdatasync did not write.
    pub fn evict(&self) {
        for node in self.0.lock().nodes.values_mut() {
            for sector in std::mem::take(&mut node.dropped) {
                let (from, to) = node.sector(sector);
                let old: Vec<u8> = (from..to).map(|i| node.durable.get(i).copied().unwrap_or(0)).collect();
                node.seen[from..to].copy_from_slice(&old);
            }
        }
    }

    /// Paths of all files, sorted, with their lengths.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let disk = self.0.lock();
        let files = disk.dirs.iter().flat_map(|(dir, content)| content.names.iter().map(|(name, node)| (dir.join(name), *node)));
        files.map(|(path, node)| (path, disk.nodes[&node].seen.len() as u64)).collect()
    }

    /// Flips bits of one byte, on the disk and in what is read.
    pub fn flip(&self, path: &Path, pos: u64, mask: u8) {
        let disk = &mut *self.0.lock();
        let Ok(id) = disk.find(path) else { return };
        let node = disk.nodes.get_mut(&id).expect("a name has a node");
        for bytes in [&mut node.seen, &mut node.durable] {
            if let Some(byte) = bytes.get_mut(pos as usize) {
                *byte ^= mask;
            }
        }
    }

    /// Makes the sector at a position unreadable.
    pub fn break_sector(&self, path: &Path, pos: u64) {
        let disk = &mut *self.0.lock();
        let Ok(id) = disk.find(path) else { return };
        disk.nodes.get_mut(&id).expect("a name has a node").unreadable.insert(pos as usize / SECTOR);
    }

    /// A pseudo-random number below `n`.
    pub fn below(&self, n: u64) -> u64 {
        self.0.lock().below(n)
    }
}

impl Disk {
    /// xorshift64*.
    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % n.max(1)
    }

    fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && (self.below(1 << 20) as f64) < p * f64::from(1 << 20)
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        self.dirs.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn find(&mut self, path: &Path) -> io::Result<u64> {
        let (dir, name) = split(path)?;
        self.dir(&dir)?.names.get(&name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, dir: &Path, change: Change) -> io::Result<()> {
        let dir = self.dir(dir)?;
        change.apply(&mut dir.names);
        dir.changes.push(change);
        Ok(())
    }

    fn used(&self) -> u64 {
        let live: HashSet<u64> = self.dirs.values().flat_map(|dir| dir.names.values().copied()).collect();
        live.iter().map(|id| self.nodes[id].seen.len() as u64).sum()
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Set(name, node) => {
                names.insert(name.clone(), *node);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

impl Node {
    fn sector(&self, sector: usize) -> (usize, usize) {
        ((sector * SECTOR).min(self.seen.len()), ((sector + 1) * SECTOR).min(self.seen.len()))
    }

    fn touch(&mut self, from: usize, to: usize) {
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            self.dirty.insert(sector);
            // A page written again is a page to write.
            self.dropped.remove(&sector);
        }
    }

    fn set_len(&mut self, len: usize) {
        let old = self.seen.len();
        self.seen.resize(len, 0);
        self.touch(old.min(len), old.max(len));
    }

    fn sync(&mut self) {
        let len = self.seen.len();
        self.durable.resize(len, 0);
        for sector in std::mem::take(&mut self.dirty) {
            let (from, to) = self.sector(sector);
            self.durable[from..to].copy_from_slice(&self.seen[from..to]);
        }
    }

    fn lose_power(&mut self, disk: &mut Disk) {
        let (old, new) = (self.durable.len(), self.seen.len());
        let len = match disk.below(3) {
            0 => old,
            1 => new,
            _ => old.min(new) + disk.below(old.abs_diff(new) as u64 + 1) as usize,
        };
        self.durable.resize(len, 0);
        for sector in std::mem::take(&mut self.dirty) {
            let (from, to) = self.sector(sector);
            let (from, mut to) = (from.min(len), to.min(len));
            match disk.below(8) {
                0..=3 => continue,
                4 => to = from + disk.below((to - from) as u64 + 1) as usize,
                _ => {}
            }
            self.durable[from..to].copy_from_slice(&self.seen[from..to]);
        }
        self.dropped.clear();
        self.seen = self.durable.clone();
    }
}

fn split(path: &Path) -> io::Result<(PathBuf, String)> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok((path.parent().unwrap_or(Path::new("")).to_path_buf(), name.to_owned()))
}

fn broken() -> io::Error {
    io::Error::other("input/output error (injected)")
}

impl Fs for FaultyFs {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let disk = &mut *self.0.lock();
        let node = match (disk.find(path), mode) {
            (Ok(_), Mode::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(node), _) => node,
            (Err(_), Mode::New) => {
                let (dir, name) = split(path)?;
                if disk.used() >= disk.plan.capacity {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let node = disk.next_node;
                disk.change(&dir, Change::Set(name, node))?;
                disk.next_node += 1;
                disk.nodes.insert(node, Node::default());
                node
            }
            (Err(e), _) => return Err(e),
        };
        Ok(Arc::new(Handle { disk: self.0.clone(), node, boot: disk.boot }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.lock().dirs.entry(path.to_path_buf()).or_default();
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.lock().dirs.remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let disk = &mut *self.0.lock();
        let names = disk.dir(path)?.names.clone();
        let file = |(name, node): (String, u64)| Entry { name, is_dir: false, len: disk.nodes[&node].seen.len() as u64 };
        let mut entries: Vec<_> = names.into_iter().map(file).collect();
        let children = disk.dirs.keys().filter(|dir| dir.parent() == Some(path));
        let names = children.filter_map(|dir| dir.file_name().and_then(|name| name.to_str()));
        entries.extend(names.map(|name| Entry { name: name.to_owned(), is_dir: true, len: 0 }));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let disk = &mut *self.0.lock();
        disk.find(from)?;
        let ((dir, from), (_, to)) = (split(from)?, split(to)?);
        disk.change(&dir, Change::Rename(from, to))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let disk = &mut *self.0.lock();
        let node = disk.find(from)?;
        let (dir, to) = split(to)?;
        disk.change(&dir, Change::Set(to, node))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let disk = &mut *self.0.lock();
        disk.find(path)?;
        let (dir, name) = split(path)?;
        disk.change(&dir, Change::Remove(name))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let disk = &mut *self.0.lock();
        let failed = disk.plan.failed_sync;
        if disk.chance(failed) {
            return Err(broken());
        }
        let Ok(dir) = disk.dir(path) else { return Ok(()) };
        dir.changes.clear();
        dir.durable = dir.names.clone();
        Ok(())
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let disk = self.0.lock();
        Ok(Space { total: disk.plan.capacity, free: disk.plan.capacity.saturating_sub(disk.used()) })
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, Result<u32, io::Error>> {
        if !self.0.lock().locked.insert(path.to_path_buf()) {
            return Err(Ok(std::process::id()));
        }
        Ok(Box::new(Held(self.0.clone(), path.to_path_buf())))
    }

    fn boot_id(&self) -> String {
        self.0.lock().boot.to_string()
    }
}

impl Handle {
    fn with<T>(&self, work: impl FnOnce(&mut Disk, &mut Node) -> io::Result<T>) -> io::Result<T> {
        let disk = &mut *self.disk.lock();
        if disk.boot != self.boot {
            return Err(broken());
        }
        let mut node = disk.nodes.remove(&self.node).ok_or_else(broken)?;
        let result = work(disk, &mut node);
        disk.nodes.insert(self.node, node);
        result
    }
}

impl File for Handle {
    fn read_at(&self, pos: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|_, node| {
            let from = (pos as usize).min(node.seen.len());
            let n = buf.len().min(node.seen.len() - from);
            if node.unreadable.range(from / SECTOR..(from + n).div_ceil(SECTOR)).next().is_some() {
                return Err(broken());
            }
            buf[..n].copy_from_slice(&node.seen[from..from + n]);
            Ok(n)
        })
    }

    fn write_at(&self, pos: u64, bytes: &[u8]) -> io::Result<usize> {
        let free = {
            let disk = self.disk.lock();
            disk.plan.capacity.saturating_sub(disk.used())
        };
        self.with(|disk, node| {
            if disk.chance(disk.plan.failed_write) {
                return Err(broken());
            }
            let pos = pos as usize;
            let grows = (pos + bytes.len()).saturating_sub(node.seen.len()) as u64;
            let mut n = bytes.len() - grows.saturating_sub(free).min(bytes.len() as u64) as usize;
            if n == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if disk.chance(disk.plan.short_write) {
                n = 1 + disk.below(n as u64) as usize;
            }
            if pos + n > node.seen.len() {
                node.set_len(pos + n);
            }
            node.seen[pos..pos + n].copy_from_slice(&bytes[..n]);
            node.touch(pos, pos + n);
            Ok(n)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk, node| {
            if disk.chance(disk.plan.failed_sync) {
                let dirty = std::mem::take(&mut node.dirty);
                node.dropped.extend(dirty);
                return Err(broken());
            }
            node.sync();
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|disk, node| {
            if disk.chance(disk.plan.failed_write) {
                return Err(broken());
            }
            node.set_len(len as usize);
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|_, node| Ok(node.seen.len() as u64))
    }
}
