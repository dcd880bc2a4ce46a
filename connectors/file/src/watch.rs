//! Which files there are to read, and from where: a watched folder, or tailed files through their rotations.
//!
//! ```text
//! folder   every file that matches is read to its end; unchanged for `settle` it is whole, and done
//! tail     a file is followed for ever; on rotation the old one is read to its end first, then the new one from its start:
//!            renamed     another inode stands at the path; the old one is still open here, or is found among its siblings
//!            truncated   the same inode shows other bytes; the rest is in the copy, found among its siblings by its fingerprints
//!            between     what was rotated since has the rotated file's name with other digits: press.1, press-2026-11-28.ndjson.gz
//! ```
//!
//! Siblings are the files of the same folder, whatever their names, compressed ones too. Looking is polling: stat, no notification.

use crate::position::{FileId, Position, is_gzip};
use globset::{GlobBuilder, GlobMatcher};
use millrace_config::Reason;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// Positions of files that are no longer there are kept, because a folder may be unmounted for a while; the oldest beyond this go.
const MAX_FORGOTTEN: usize = 10_000;
const MAX_DEPTH: usize = 32;
/// A last line without a newline waits so many times `settle`.
const LAST_LINE: u32 = 6;
/// So much must have been read of a file that it is known again by its bytes under any name: a header row alone is every day's.
const TELLING_BYTES: u64 = 64;

/// A path with wildcards: where to begin, and what matches.
#[derive(Clone, Debug)]
pub struct Pattern {
    base: PathBuf,
    /// `None`: the path is one file, `base`.
    matcher: Option<GlobMatcher>,
    depth: usize,
}

impl Pattern {
    pub fn parse(path: &str) -> Result<Self, Reason> {
        let is_wild = |part: &OsStr| part.to_string_lossy().contains(['*', '?', '[', '{']);
        let path = Path::new(path);
        let wild = path.components().position(|part| matches!(part, Component::Normal(name) if is_wild(name)));
        let Some(wild) = wild else { return Ok(Self { base: path.into(), matcher: None, depth: 0 }) };
        let text = path.to_string_lossy();
        let glob = GlobBuilder::new(&text).literal_separator(true).build().map_err(|e| e.kind().to_string())?;
        let base: PathBuf = path.components().take(wild).collect();
        let below = path.components().count() - wild;
        let depth = if text.contains("**") { MAX_DEPTH } else { below };
        Ok(Self { base: if base.as_os_str().is_empty() { ".".into() } else { base }, matcher: Some(glob.compile_matcher()), depth })
    }

    pub fn is_wild(&self) -> bool {
        self.matcher.is_some()
    }

    pub fn matches(&self, path: &Path) -> bool {
        match &self.matcher {
            Some(matcher) => matcher.is_match(path),
            None => path == self.base,
        }
    }

    /// Every regular file that matches, hidden ones apart. Errors: the folder itself can't be read.
    fn files(&self, trouble: &mut Option<String>) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
        let mut found = Vec::new();
        if self.matcher.is_none() {
            match fs::metadata(&self.base) {
                Ok(metadata) if metadata.is_file() => found.push((self.base.clone(), metadata)),
                Ok(_) => {
                    *trouble = Some(format!("{} is a folder; add a pattern such as {}/*.csv", self.base.display(), self.base.display()))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            return Ok(found);
        }
        let mut folders = vec![(self.base.clone(), self.depth)];
        while let Some((folder, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if folder == self.base => return Err(error),
                // Gone meanwhile, or not ours to read: the others count.
                Err(error) => {
                    if error.kind() != io::ErrorKind::NotFound {
                        *trouble = Some(format!("cannot read folder {}: {error}", folder.display()));
                    }
                    continue;
                }
            };
            for entry in entries.filter_map(Result::ok) {
                if entry.file_name().as_encoded_bytes().starts_with(b".") {
                    continue;
                }
                // `./*.csv` and `*.csv` are the same files: paths are compared as the pattern is written.
                let path = if self.base == Path::new(".") && folder == self.base { entry.file_name().into() } else { entry.path() };
                let Ok(metadata) = fs::metadata(entry.path()) else { continue };
                if metadata.is_dir() && depth > 1 {
                    folders.push((path, depth - 1));
                } else if metadata.is_file() && self.matches(&path) {
                    found.push((path, metadata));
                }
            }
        }
        Ok(found)
    }
}

/// How a file changes, as far as stat tells.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Look {
    size: u64,
    changed: (i64, i64),
}

impl Look {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { size: metadata.size(), changed: (metadata.mtime(), metadata.mtime_nsec()) }
    }
}

/// One file to read now.
#[derive(Debug)]
pub struct Work {
    pub id: FileId,
    pub file: File,
    pub position: Position,
    /// Nothing will be appended to it.
    pub is_whole: bool,
    /// Not even the rest of a last line without a newline.
    pub is_final: bool,
    pub is_gzip: bool,
}

/// A file still to be opened: opening all at once would take a handle each.
#[derive(Debug)]
pub enum Task {
    Read {
        id: FileId,
        path: PathBuf,
        is_whole: bool,
        is_final: bool,
    },
    /// Rotated away, perhaps deleted: only this handle has it.
    Rest(Work),
    /// Done before, and still to be deleted or moved.
    Finish {
        id: FileId,
        path: PathBuf,
    },
}

impl Task {
    pub fn id(&self) -> FileId {
        match self {
            Self::Read { id, .. } | Self::Finish { id, .. } => *id,
            Self::Rest(work) => work.id,
        }
    }
}

/// What a look at the files found.
#[derive(Debug, Default)]
pub struct Scan {
    pub tasks: Vec<Task>,
    /// Positions to remove.
    pub forgotten: Vec<FileId>,
    /// What hinders, for the connector's status.
    pub trouble: Option<String>,
    /// Files that were rotated away and not found again.
    pub lost: u64,
}

#[derive(Debug)]
pub struct Watch {
    pattern: Pattern,
    is_tail: bool,
    settle: Duration,
    /// What was read of each file, by identity.
    positions: BTreeMap<FileId, Position>,
    /// How a file looked when it was last read, and since when it looks so.
    looks: HashMap<FileId, (Look, Instant)>,
    /// Tailed files, kept open: a file renamed and deleted between two looks is still read to its end.
    held: BTreeMap<PathBuf, (FileId, File)>,
    /// Identities that files had before they were copied to others.
    outlived: Vec<FileId>,
}

impl Watch {
    pub fn new(pattern: Pattern, is_tail: bool, settle: Duration, positions: BTreeMap<FileId, Position>) -> Self {
        Self { pattern, is_tail, settle, positions, looks: HashMap::new(), held: BTreeMap::new(), outlived: Vec::new() }
    }

    /// A file is read up to here.
    pub fn read_up_to(&mut self, id: FileId, position: Position) {
        self.positions.insert(id, position);
    }

    pub fn forget(&mut self, id: FileId) {
        self.positions.remove(&id);
        self.looks.remove(&id);
    }

    /// Could not be read this time: look again, whether it changes or not.
    pub fn try_again(&mut self, id: FileId) {
        self.looks.remove(&id);
    }

    /// Looks at the files.
    pub fn scan(&mut self, finishes: bool) -> Scan {
        let mut scan = Scan { forgotten: std::mem::take(&mut self.outlived), ..Scan::default() };
        let files = match self.pattern.files(&mut scan.trouble) {
            Ok(files) => files,
            Err(error) => {
                scan.trouble = Some(format!("cannot read {}: {error}", self.pattern.base.display()));
                return scan;
            }
        };
        if self.is_tail {
            self.scan_tailed(files, &mut scan);
        } else {
            self.scan_folder(files, finishes, &mut scan);
        }
        scan
    }

    fn scan_folder(&mut self, mut files: Vec<(PathBuf, fs::Metadata)>, finishes: bool, scan: &mut Scan) {
        files.sort_by(|(a, am), (b, bm)| (am.mtime(), am.mtime_nsec(), a).cmp(&(bm.mtime(), bm.mtime_nsec(), b)));
        let now = Instant::now();
        for (path, metadata) in &files {
            let id = FileId::of(metadata);
            let look = Look::of(metadata);
            let (is_new, since) = match self.looks.get(&id) {
                Some((seen, since)) if *seen == look => (false, *since),
                _ => (true, now),
            };
            self.looks.insert(id, (look, since));
            let is_whole = now.duration_since(since) >= self.settle;
            let is_final = now.duration_since(since) >= self.settle * LAST_LINE;
            let is_done = self.positions.get(&id).is_some_and(|position| position.is_done(path, metadata));
            if !is_done && (is_new || is_whole) {
                scan.tasks.push(Task::Read { id, path: path.clone(), is_whole, is_final });
            } else if is_done && finishes && self.positions.get(&id).is_none_or(|position| !position.kept) {
                scan.tasks.push(Task::Finish { id, path: path.clone() });
            }
        }
        let there: HashSet<_> = files.iter().map(|(_, metadata)| FileId::of(metadata)).collect();
        self.looks.retain(|id, _| there.contains(id));
        self.forget_oldest(&there, scan);
    }

    fn scan_tailed(&mut self, mut files: Vec<(PathBuf, fs::Metadata)>, scan: &mut Scan) {
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        if files.is_empty() && scan.trouble.is_none() {
            scan.trouble = Some(format!("{} is not there (yet)", self.pattern.base.display()));
        }
        let there: HashSet<_> = files.iter().map(|(_, metadata)| FileId::of(metadata)).collect();
        for (path, metadata) in &files {
            if let Err(error) = self.look_at_tailed(path, metadata, &there, scan) {
                scan.trouble = Some(format!("cannot read {}: {error}", path.display()));
            }
        }
        // Renamed away, and nothing new stands there yet: whatever is still written to it is read.
        for (path, (id, file)) in &self.held {
            if files.iter().any(|(there, _)| there == path) {
                continue;
            }
            if let (Some(position), Ok(file), Ok(metadata)) = (self.positions.get(id), file.try_clone(), file.metadata())
                && metadata.len() > position.offset
                && self.looks.get(id).is_none_or(|(look, _)| *look != Look::of(&metadata))
            {
                self.looks.insert(*id, (Look::of(&metadata), Instant::now()));
                scan.tasks.push(Task::Rest(Work {
                    id: *id,
                    file,
                    position: position.clone(),
                    is_whole: false,
                    is_final: false,
                    is_gzip: false,
                }));
            }
        }
        self.forget_oldest(&there, scan);
    }

    fn look_at_tailed(&mut self, path: &Path, metadata: &fs::Metadata, there: &HashSet<FileId>, scan: &mut Scan) -> io::Result<()> {
        let id = FileId::of(metadata);
        let look = Look::of(metadata);
        if self.held.get(path).is_some_and(|(held, _)| *held == id) && self.looks.get(&id).is_some_and(|(seen, _)| *seen == look) {
            return Ok(());
        }
        let file = File::open(path)?;
        let is_same = match self.positions.get(&id) {
            Some(position) => position.matches(&file, position.offset)?,
            None => false,
        };
        if !is_same {
            // What was read at this path before, if anything, is another file by now: rotated, truncated, or only moved to another inode.
            let before = self.held.remove(path).map(|(id, file)| (id, Some(file))).or_else(|| {
                let of_path = self.positions.iter().filter(|(_, position)| position.path == path && !position.done);
                of_path.max_by_key(|(_, position)| position.changed).map(|(id, _)| (*id, None))
            });
            let mut adopted = None;
            if let Some((old, held)) = before
                && let Some(position) = self.positions.get(&old).cloned()
            {
                if old != id && there.contains(&old) {
                    // Renamed to a name that matches too: it is followed under that one.
                } else if old != id && position.offset > 0 && position.matches(&file, position.offset)? {
                    adopted = Some(position);
                    scan.forgotten.push(old);
                    self.positions.remove(&old);
                } else {
                    self.rotated(path, (old, position), held.filter(|_| old != id), id, scan)?;
                }
            }
            let position = adopted.unwrap_or_else(|| Position::at_start(path.into()));
            self.positions.insert(id, position);
        }
        self.looks.insert(id, (look, Instant::now()));
        self.held.insert(path.into(), (id, file));
        scan.tasks.push(Task::Read { id, path: path.into(), is_whole: false, is_final: false });
        Ok(())
    }

    /// Reads what is left of a file that was rotated away, then the generations between it and the one that stands there now.
    fn rotated(&mut self, path: &Path, old: (FileId, Position), held: Option<File>, now: FileId, scan: &mut Scan) -> io::Result<()> {
        let (old_id, position) = old;
        let siblings = siblings(path)?;
        let shows_it = |file: &File| position.matches(file, position.offset).unwrap_or(false);
        let holds_it = |sibling: &Sibling| {
            File::open(&sibling.path)
                .is_ok_and(|file| if is_gzip(&sibling.path) { position.matches_gzip(&file).unwrap_or(false) } else { shows_it(&file) })
        };
        let by_inode = siblings.iter().find(|sibling| sibling.id == old_id && sibling.id != now);
        let found = by_inode.or_else(|| {
            // The longer the name goes on as the tailed file's does, the likelier it is its copy.
            let may_be = |sibling: &&Sibling, is_own: bool| {
                let is_young = sibling.changed.0 >= position.changed || is_own;
                let is_telling = is_own && position.offset > 0 || position.offset >= TELLING_BYTES;
                sibling.is_own == is_own && sibling.id != now && is_young && is_telling && holds_it(sibling)
            };
            siblings.iter().find(|sibling| may_be(sibling, true)).or_else(|| siblings.iter().find(|sibling| may_be(sibling, false)))
        });
        // The held handle is the file itself; a sibling is found by its inode, or as a copy by what it shows.
        let rest = match (held, found) {
            (Some(file), _) if shows_it(&file) => Some((file, false)),
            (_, Some(sibling)) if holds_it(sibling) => File::open(&sibling.path).ok().map(|file| (file, is_gzip(&sibling.path))),
            _ => None,
        };
        match rest {
            Some((file, is_gzip)) => {
                let work = Work { id: old_id, file, position: position.clone(), is_whole: true, is_final: true, is_gzip };
                scan.tasks.push(Task::Rest(work));
                if let Some(old) = found {
                    let is_between = |other: &&Sibling| {
                        let is_of_same_kind = other.is_own || pattern(&other.path) == pattern(&old.path);
                        is_of_same_kind && other.changed >= old.changed && other.id != old.id && other.id != now
                    };
                    for sibling in siblings.iter().filter(is_between) {
                        if !self.positions.contains_key(&sibling.id) {
                            let path = sibling.path.clone();
                            scan.tasks.push(Task::Read { id: sibling.id, path, is_whole: true, is_final: true });
                        }
                    }
                }
            }
            None => {
                // Nothing says how much was left in it: the file is counted as one.
                scan.lost += 1;
                tracing::error!(path = %path.display(), line = position.line, "the file was rotated away and is not found in its folder; what it held beyond this line is lost");
            }
        }
        if old_id != now {
            scan.forgotten.push(old_id);
        }
        Ok(())
    }

    /// Opens a file to be read. `None`: it is another one by now, the next look finds it.
    pub fn open(&mut self, id: FileId, path: &Path, (is_whole, is_final): (bool, bool)) -> io::Result<Option<Work>> {
        let file = File::open(path)?;
        if FileId::of(&file.metadata()?) != id {
            return Ok(None);
        }
        let is_gzip = is_gzip(path);
        // A compressed file does not grow by lines: its head alone tells it apart.
        let shows = |position: &Position| {
            let is_translated = is_gzip || position.disk_size.is_some();
            position.matches(&file, if is_translated { position.head_bytes() } else { position.offset })
        };
        let mut known = match self.positions.get(&id) {
            Some(position) if shows(position)? => Some(position.clone()),
            _ => None,
        };
        if known.is_none() {
            // Written anew by an editor or a copy, or on a network drive that numbers its files anew: another inode, but the same bytes.
            let same_path = self.positions.iter().find(|(other, position)| **other != id && position.path == path && position.offset > 0);
            if let Some((&other, position)) = same_path
                && shows(position)?
            {
                known = Some(position.clone());
                self.outlived.push(other);
            }
        }
        let mut position = known.unwrap_or_else(|| Position::at_start(path.into()));
        position.path = path.into();
        position.done = false;
        Ok(Some(Work { id, file, position, is_whole, is_final, is_gzip }))
    }

    /// Keeps positions of files that are gone for a while, but not for ever.
    fn forget_oldest(&mut self, there: &HashSet<FileId>, scan: &mut Scan) {
        if self.positions.len() <= there.len() + MAX_FORGOTTEN {
            return;
        }
        let mut gone: Vec<_> = self.positions.iter().filter(|(id, _)| !there.contains(id)).map(|(id, p)| (p.changed, *id)).collect();
        gone.sort_unstable();
        for (_, id) in gone.iter().take(gone.len().saturating_sub(MAX_FORGOTTEN)) {
            self.forget(*id);
            scan.forgotten.push(*id);
        }
    }
}

/// A name without what differs between rotations: its digits, and `.gz`.
fn pattern(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut pattern = String::new();
    for char in name.strip_suffix(".gz").unwrap_or(&name).chars() {
        match char {
            '0'..='9' if pattern.ends_with('0') => {}
            '0'..='9' => pattern.push('0'),
            char => pattern.push(char),
        }
    }
    pattern
}

/// A file beside a tailed one that may once have been it.
struct Sibling {
    path: PathBuf,
    id: FileId,
    changed: (i64, i64),
    /// Its name goes on after the tailed file's.
    is_own: bool,
}

/// Files of the same folder, hidden ones apart, the oldest first.
fn siblings(path: &Path) -> io::Result<Vec<Sibling>> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)?.filter_map(Result::ok) {
        let other = entry.file_name();
        let other = other.as_encoded_bytes();
        if other != name
            && !other.starts_with(b".")
            && let Ok(metadata) = entry.metadata()
            && metadata.is_file()
        {
            let changed = (metadata.mtime(), metadata.mtime_nsec());
            found.push(Sibling { path: entry.path(), id: FileId::of(&metadata), changed, is_own: other.starts_with(name) });
        }
    }
    found.sort_by_key(|sibling| sibling.changed);
    Ok(found)
}
