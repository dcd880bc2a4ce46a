//! Files being written, and what is durable in them.
//!
//! ```text
//! orders-2026-11-21.ndjson.gz          finished: complete, never touched again; free to be copied away
//! orders-2026-11-21.1.ndjson.gz.part   being written; renamed when it is finished
//! .archive.millrace                    the ledger: what is durable
//! .archive.millrace.lock               held by the instance that writes
//!
//! ledger = {"version":1, "offsets":{"orders":{"0":4711}}, "files":[{"path":"..part","name":"..","bytes":123}], "finished":[..]}
//! ```
//!
//! A flush: data written and synced, then the ledger replaced in one step. After a crash each file is cut to the length that the ledger
//! knows, and reading goes on at the ledger's offsets: no line is torn, none is doubled. A compressed file ends a gzip member with
//! every flush, so that a cut leaves a valid file.
//!
//! The folder itself is never made: a stick that is not plugged in must not become a folder on the system's disk.

use flate2::Compression;
use flate2::write::GzEncoder;
use millrace_config::Reason;
use millrace_contract::Offset;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes of a file that wait in memory before they are handed to the system.
const PENDING_BYTES: usize = 1024 * 1024;
const PART: &str = ".part";

/// Where each partition stands: topic, partition, the next offset.
pub type Offsets = BTreeMap<String, BTreeMap<i32, Offset>>;

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Ledger {
    version: u32,
    offsets: Offsets,
    /// Being written. Paths are relative to the folder.
    files: Vec<Writing>,
    /// Synced and still to be renamed.
    finished: Vec<Writing>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Writing {
    path: PathBuf,
    /// Its name once it is finished.
    name: PathBuf,
    bytes: u64,
    /// Which name of the template and which window of time it belongs to.
    stem: PathBuf,
    window: i64,
}

/// How files are written.
#[derive(Clone, PartialEq, Debug)]
pub struct Layout {
    pub folder: PathBuf,
    /// The sink's name: of its ledger.
    pub name: String,
    pub gzip: bool,
    /// Whether files are ever finished; if not, the file is written under its own name.
    pub rotates: bool,
    pub max_bytes: u64,
    /// The first line of every file.
    pub header: Vec<u8>,
}

#[derive(Debug)]
enum Pending {
    Plain(Vec<u8>),
    Gzip(Box<GzEncoder<Vec<u8>>>, bool),
}

#[derive(Debug)]
struct Open {
    writing: Writing,
    file: File,
    pending: Pending,
}

/// The files of one sink, under a lock.
#[derive(Debug)]
pub struct Archive {
    layout: Layout,
    ledger: Ledger,
    open: BTreeMap<PathBuf, Open>,
    /// Full: to be finished with the next flush.
    full: Vec<Open>,
    /// Offsets of what was written, durable or not.
    written: Offsets,
    _lock: File,
}

impl Archive {
    /// Takes the folder over: cuts what is not durable, finishes what was to be finished.
    ///
    /// Errors: what can't be done, with the path and what to do.
    pub fn open(layout: Layout) -> Result<Self, Reason> {
        let folder = &layout.folder;
        if !folder.is_dir() {
            return Err(format!("folder {} is not there; mount it or make it", folder.display()).into());
        }
        let lock_path = folder.join(format!(".{}.millrace.lock", layout.name));
        let lock = File::create(&lock_path).map_err(|error| format!("cannot write {}: {error}", lock_path.display()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(format!("another millrace writes `{}` in {}; give each its own folder", layout.name, folder.display()).into());
            }
            // Some network drives have no locks: then nobody checks.
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "cannot lock the folder; make sure that only one millrace writes it")
            }
        }
        let ledger_path = folder.join(format!(".{}.millrace", layout.name));
        let ledger = match fs::read(&ledger_path) {
            Ok(bytes) => serde_json::from_slice::<Ledger>(&bytes).map_err(|error| {
                format!("{} is damaged: {error}; delete it to go on at the consumer group's offsets", ledger_path.display())
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ledger::default(),
            Err(error) => return Err(format!("cannot read {}: {error}", ledger_path.display()).into()),
        };
        if ledger.version > 1 {
            return Err(format!("{} was written by a newer millrace (version {})", ledger_path.display(), ledger.version).into());
        }
        let written = ledger.offsets.clone();
        let mut archive = Self { layout, ledger, open: BTreeMap::new(), full: Vec::new(), written, _lock: lock };
        archive.recover().map_err(|error| format!("cannot take over {}: {error}", archive.layout.folder.display()))?;
        Ok(archive)
    }

    fn recover(&mut self) -> io::Result<()> {
        for writing in std::mem::take(&mut self.ledger.files) {
            let path = self.layout.folder.join(&writing.path);
            let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::error!(path = %path.display(), "a file that was being written is gone; its durable lines went with it");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let len = file.metadata()?.len();
            if len < writing.bytes {
                tracing::error!(path = %path.display(), bytes = writing.bytes - len, "a file that was being written lost its end; it is left as it is");
                continue;
            }
            if len > writing.bytes {
                file.set_len(writing.bytes)?;
                file.sync_all()?;
            }
            file.seek(SeekFrom::End(0))?;
            let pending = self.pending();
            self.open.insert(writing.stem.clone(), Open { writing, file, pending });
        }
        let was_finishing = !self.ledger.finished.is_empty();
        self.rename_finished()?;
        if was_finishing { self.save() } else { Ok(()) }
    }

    /// Offsets the files hold durably.
    pub fn offset(&self, topic: &str, partition: i32) -> Option<Offset> {
        self.ledger.offsets.get(topic)?.get(&partition).copied()
    }

    /// Offsets of what was written so far.
    pub fn written(&self) -> &Offsets {
        &self.written
    }

    /// Appends lines to the file of `stem` in this window of time.
    pub fn write(&mut self, stem: &Path, window: i64, lines: &[u8]) -> io::Result<()> {
        let is_other = |open: &Open| {
            let has_room = open.writing.bytes + open.pending.len() < self.layout.max_bytes;
            self.layout.rotates && (open.writing.window != window || !has_room)
        };
        if self.open.get(stem).is_some_and(is_other)
            && let Some(open) = self.open.remove(stem)
        {
            self.full.push(open);
        }
        if !self.open.contains_key(stem) {
            let open = self.create(stem, window)?;
            self.open.insert(stem.to_owned(), open);
        }
        let Some(open) = self.open.get_mut(stem) else { return Ok(()) };
        open.pending.push(lines)?;
        if open.pending.len() as usize >= PENDING_BYTES {
            open.hand_over(false)?;
        }
        Ok(())
    }

    /// The next offset of a partition, of what is written.
    pub fn advance(&mut self, topic: &str, partition: i32, next: Offset) {
        match self.written.get_mut(topic) {
            Some(partitions) => {
                partitions.insert(partition, next);
            }
            None => {
                self.written.entry(topic.to_owned()).or_default().insert(partition, next);
            }
        }
    }

    /// Makes everything written durable; finishes files that are full, or of another time than `is_current` knows.
    pub fn flush(&mut self, is_current: impl Fn(&Path, i64) -> bool) -> io::Result<()> {
        if self.layout.rotates {
            let past: Vec<_> =
                self.open.iter().filter(|(stem, open)| !is_current(stem, open.writing.window)).map(|(stem, _)| stem.clone()).collect();
            for stem in past {
                self.full.extend(self.open.remove(&stem));
            }
        }
        let mut has_changed = self.written != self.ledger.offsets || !self.full.is_empty();
        for open in self.open.values_mut().chain(&mut self.full) {
            has_changed |= open.pending.len() > 0;
            open.hand_over(true)?;
            open.file.sync_data()?;
        }
        if !has_changed {
            return Ok(());
        }
        self.ledger.version = 1;
        self.ledger.offsets = self.written.clone();
        self.ledger.files = self.open.values().map(|open| open.writing.clone()).collect();
        self.ledger.finished.extend(self.full.iter().map(|open| open.writing.clone()));
        self.save()?;
        self.full.clear();
        if !self.ledger.finished.is_empty() {
            self.rename_finished()?;
            // Before anything is written again: a new file may take the name that was just given up.
            self.save()?;
        }
        Ok(())
    }

    /// Another may write these partitions from now on: what it wrote is not known here.
    pub fn forget(&mut self, partitions: &[(&str, i32)]) -> io::Result<()> {
        for (topic, partition) in partitions {
            for offsets in [&mut self.written, &mut self.ledger.offsets] {
                if let Some(of_topic) = offsets.get_mut(*topic) {
                    of_topic.remove(partition);
                }
            }
        }
        self.save()
    }

    fn pending(&self) -> Pending {
        if self.layout.gzip {
            Pending::Gzip(Box::new(GzEncoder::new(Vec::new(), Compression::default())), false)
        } else {
            Pending::Plain(Vec::new())
        }
    }

    fn create(&self, stem: &Path, window: i64) -> io::Result<Open> {
        let folder = &self.layout.folder;
        // One by one: what is below the folder is made, the folder itself never.
        let mut below = folder.clone();
        for part in stem.parent().into_iter().flat_map(Path::components) {
            below.push(part);
            match fs::create_dir(&below) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let mut name = stem.to_owned();
        let mut path = name.clone();
        if self.layout.rotates {
            let mut number = 0;
            loop {
                path = with_suffix(&name, PART);
                let is_pending = self.full.iter().any(|open| open.writing.name == name);
                if !is_pending && !folder.join(&name).exists() && !self.is_known(&path) {
                    break;
                }
                number += 1;
                name = numbered(stem, number);
            }
        }
        // A part that the ledger does not know holds nothing durable.
        let mut file = OpenOptions::new().create(true).write(true).truncate(self.layout.rotates).open(folder.join(&path))?;
        let bytes = file.seek(SeekFrom::End(0))?;
        let mut open = Open { writing: Writing { path, name, bytes, stem: stem.to_owned(), window }, file, pending: self.pending() };
        if bytes == 0 {
            open.pending.push(&self.layout.header)?;
        } else {
            // Written by someone else before: left as it is, and a line of its own begins.
            let mut last = [0];
            let mut before = File::open(folder.join(&open.writing.path))?;
            before.seek(SeekFrom::End(-1))?;
            before.read_exact(&mut last)?;
            if !self.layout.gzip && last != *b"\n" {
                open.pending.push(b"\n")?;
            }
        }
        Ok(open)
    }

    fn is_known(&self, path: &Path) -> bool {
        self.open.values().chain(&self.full).any(|open| open.writing.path == path) || self.ledger.finished.iter().any(|w| w.path == path)
    }

    fn rename_finished(&mut self) -> io::Result<()> {
        for writing in std::mem::take(&mut self.ledger.finished) {
            let from = self.layout.folder.join(&writing.path);
            let to = self.layout.folder.join(&writing.name);
            match fs::rename(&from, &to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                // Renamed before the crash.
                _ => sync_folder(to.parent().unwrap_or(&self.layout.folder))?,
            }
        }
        Ok(())
    }

    /// Replaces the ledger in one step.
    fn save(&self) -> io::Result<()> {
        let path = self.layout.folder.join(format!(".{}.millrace", self.layout.name));
        let fresh = with_suffix(&path, ".new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(&self.ledger)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        sync_folder(&self.layout.folder)
    }
}

impl Pending {
    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(pending) => pending.extend_from_slice(bytes),
            Self::Gzip(encoder, has_data) => {
                encoder.write_all(bytes)?;
                *has_data |= !bytes.is_empty();
            }
        }
        Ok(())
    }

    /// Bytes that wait to be handed over; of a compressed file, at least one while anything waits.
    fn len(&self) -> u64 {
        match self {
            Self::Plain(pending) => pending.len() as u64,
            Self::Gzip(encoder, has_data) => (encoder.get_ref().len() as u64).max(u64::from(*has_data)),
        }
    }
}

impl Open {
    /// Hands what waits over to the system. `whole`: a gzip member ends here.
    fn hand_over(&mut self, whole: bool) -> io::Result<()> {
        let bytes = match &mut self.pending {
            Pending::Plain(pending) => pending,
            Pending::Gzip(encoder, has_data) => {
                if whole && *has_data {
                    encoder.try_finish()?;
                    let fresh = GzEncoder::new(Vec::new(), Compression::default());
                    let finished = std::mem::replace(&mut **encoder, fresh).finish()?;
                    *has_data = false;
                    self.file.write_all(&finished)?;
                    self.writing.bytes += finished.len() as u64;
                }
                encoder.get_mut()
            }
        };
        self.file.write_all(bytes)?;
        self.writing.bytes += bytes.len() as u64;
        bytes.clear();
        Ok(())
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// `a.ndjson.gz` -> `a.1.ndjson.gz`
fn numbered(path: &Path, number: u32) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (rest, gz) = name.strip_suffix(".gz").map_or((&*name, ""), |rest| (rest, ".gz"));
    let (stem, extension) = rest.rsplit_once('.').map_or((rest, String::new()), |(stem, extension)| (stem, format!(".{extension}")));
    path.with_file_name(format!("{stem}.{number}{extension}{gz}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::MultiGzDecoder;

    fn layout(folder: &Path, gzip: bool, rotates: bool) -> Layout {
        Layout { folder: folder.into(), name: "archive".into(), gzip, rotates, max_bytes: 1000, header: b"h\n".to_vec() }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }

    #[test]
    fn what_was_not_flushed_is_cut_and_what_was_is_kept() {
        for gzip in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let stem = Path::new("a.ndjson");
            let text = || {
                let bytes = fs::read(folder.path().join("a.ndjson.part")).unwrap();
                let mut text = String::new();
                if gzip {
                    MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
                } else {
                    text = String::from_utf8(bytes).unwrap();
                }
                text
            };
            let mut archive = Archive::open(layout(folder.path(), gzip, true)).unwrap();
            archive.write(stem, 0, b"1\n").unwrap();
            archive.advance("t", 0, 1);
            archive.flush(|_, _| true).unwrap();
            archive.write(stem, 0, &b"2\n".repeat(PENDING_BYTES)).unwrap();
            archive.advance("t", 0, 2);
            archive.open.values_mut().for_each(|open| open.hand_over(true).unwrap());
            drop(archive);

            let mut archive = Archive::open(layout(folder.path(), gzip, true)).unwrap();
            assert_eq!(archive.offset("t", 0), Some(1));
            assert_eq!(text(), "h\n1\n");
            archive.write(stem, 0, b"2\n").unwrap();
            archive.advance("t", 0, 2);
            archive.flush(|_, _| true).unwrap();
            assert_eq!(text(), "h\n1\n2\n");
        }
    }

    #[test]
    fn a_file_is_finished_by_its_window_and_its_size_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let stem = Path::new("sub/a.csv.gz");
        let mut archive = Archive::open(Layout { gzip: false, ..layout(folder.path(), false, true) }).unwrap();
        archive.write(stem, 0, b"x\n").unwrap();
        archive.flush(|_, window| window == 0).unwrap();
        assert_eq!(names(&folder.path().join("sub")), ["a.csv.gz.part"]);
        archive.write(stem, 1, b"y\n").unwrap();
        archive.flush(|_, window| window == 1).unwrap();
        assert_eq!(names(&folder.path().join("sub")), ["a.1.csv.gz.part", "a.csv.gz"]);
        archive.write(stem, 1, &b"z\n".repeat(600)).unwrap();
        archive.write(stem, 1, b"next\n").unwrap();
        archive.flush(|_, window| window == 1).unwrap();
        archive.flush(|_, _| false).unwrap();
        assert_eq!(names(&folder.path().join("sub")), ["a.1.csv.gz", "a.2.csv.gz", "a.csv.gz"]);
        assert_eq!(fs::read_to_string(folder.path().join("sub/a.2.csv.gz")).unwrap(), "h\nnext\n");
    }

    #[test]
    fn a_crash_between_ledger_and_rename_is_finished_by_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Archive::open(layout(folder.path(), false, true)).unwrap();
        archive.write(Path::new("a.csv"), 0, b"x\n").unwrap();
        archive.flush(|_, _| true).unwrap();
        archive.ledger.finished = std::mem::take(&mut archive.ledger.files);
        archive.save().unwrap();
        drop(archive);
        let archive = Archive::open(layout(folder.path(), false, true)).unwrap();
        assert_eq!(names(folder.path()), ["a.csv"]);
        assert!(archive.ledger.finished.is_empty() && archive.open.is_empty());
    }

    #[test]
    fn two_writers_of_one_folder_are_one_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Archive::open(layout(folder.path(), false, true)).unwrap();
        assert!(Archive::open(layout(folder.path(), false, true)).unwrap_err().contains("another millrace writes"));
        assert!(Archive::open(layout(&folder.path().join("none"), false, true)).unwrap_err().contains("is not there"));
    }

    #[test]
    fn a_damaged_ledger_is_a_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".archive.millrace"), b"{").unwrap();
        assert!(Archive::open(layout(folder.path(), false, true)).unwrap_err().contains("is damaged"));
    }

    #[test]
    fn numbers_stand_before_the_extension() {
        assert_eq!(numbered(Path::new("d/line.orders-1.ndjson.gz"), 2), Path::new("d/line.orders-1.2.ndjson.gz"));
        assert_eq!(numbered(Path::new("plain"), 1), Path::new("plain.1"));
    }
}
