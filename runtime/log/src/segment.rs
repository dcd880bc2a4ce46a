//! A segment as the open log knows it, and the rewriting of one that has holes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::format::{FOOTER, Footer, SEGMENT_HEADER, SegmentHeader, segment_name};
use crate::fs::{File, Fs, Mode};
use crate::report::SegmentInfo;
use crate::scan::Run;

/// Distance between two places that the index of an open segment remembers.
const INDEX_STEP: u64 = 64 << 10;

/// An open segment file and the places of some of its batches.
pub struct Open {
    pub file: Arc<dyn File>,
    /// `(first, position)`, ascending, at least [`INDEX_STEP`] apart.
    index: Mutex<Vec<(u64, u64)>>,
    /// Tick of the store's clock when it was last used.
    pub used: AtomicU64,
}

impl Open {
    pub fn new(file: Arc<dyn File>, tick: u64) -> Arc<Self> {
        Arc::new(Self { file, index: Mutex::new(Vec::new()), used: AtomicU64::new(tick) })
    }

    pub fn touch(&self, tick: u64) {
        self.used.store(tick, Relaxed);
    }

    /// Remembers where a batch stands.
    pub fn learn(&self, first: u64, pos: u64) {
        let mut index = self.index.lock();
        let at = index.partition_point(|(_, p)| *p < pos);
        let far_before = at == 0 || index[at - 1].1 + INDEX_STEP <= pos;
        let far_behind = index.get(at).is_none_or(|(_, p)| pos + INDEX_STEP <= *p);
        if far_before && far_behind {
            index.insert(at, (first, pos));
        }
    }

    /// A position at or before the batch that holds `offset`.
    pub fn seek(&self, offset: u64) -> u64 {
        let index = self.index.lock();
        let at = index.partition_point(|(first, _)| *first <= offset);
        if at == 0 { SEGMENT_HEADER as u64 } else { index[at - 1].1 }
    }
}

/// One segment of an open log.
pub struct Segment {
    pub header: SegmentHeader,
    /// Offset after its newest batch; for a segment with holes, what it once reached.
    pub next: u64,
    /// Position behind its newest batch.
    pub len: u64,
    pub records: u64,
    pub batches: u32,
    /// Position of its newest batch; 0: none.
    pub newest: u64,
    pub first_append: i64,
    pub last_append: i64,
    /// Nothing is appended any more.
    pub sealed: bool,
    /// The file ends with a footer.
    pub footer: bool,
    /// Grows when the file is rewritten, so that positions remembered elsewhere are not used.
    pub epoch: u32,
    pub open: Option<Arc<Open>>,
}

impl Segment {
    /// A segment without batches.
    pub fn empty(header: SegmentHeader) -> Self {
        Self {
            header,
            next: header.follows,
            len: SEGMENT_HEADER as u64,
            records: 0,
            batches: 0,
            newest: 0,
            first_append: 0,
            last_append: 0,
            sealed: false,
            footer: false,
            epoch: 0,
            open: None,
        }
    }

    pub fn from_footer(header: SegmentHeader, footer: &Footer, file_len: u64) -> Self {
        Self {
            next: footer.next,
            len: file_len - FOOTER as u64,
            records: footer.records,
            batches: footer.batches,
            newest: footer.newest,
            first_append: footer.first_append,
            last_append: footer.last_append,
            sealed: true,
            footer: true,
            ..Self::empty(header)
        }
    }

    pub fn from_runs(header: SegmentHeader, runs: &[Run]) -> Self {
        let mut segment = Self::empty(header);
        for run in runs {
            segment.push_run(run, run.pos);
        }
        segment
    }

    fn push_run(&mut self, run: &Run, pos: u64) {
        if self.batches == 0 {
            self.first_append = run.first_append;
        }
        self.next = run.next;
        self.len = pos + run.len;
        self.records += run.records;
        self.batches += run.batches;
        self.newest = pos + (run.newest - run.pos);
        self.last_append = run.last_append;
    }

    pub fn bytes(&self) -> u64 {
        self.len + if self.footer { FOOTER as u64 } else { 0 }
    }

    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join(segment_name(self.header.base, self.header.seq))
    }

    /// The footer that seals it; `total`: records appended to the log up to its end.
    pub fn footer(&self, total: u64) -> Footer {
        Footer {
            next: self.next,
            total,
            newest: self.newest,
            first_append: self.first_append,
            last_append: self.last_append,
            records: self.records,
            batches: self.batches,
        }
    }

    pub fn info(&self) -> SegmentInfo {
        SegmentInfo {
            base: self.header.base,
            next: self.next,
            bytes: self.bytes(),
            records: self.records,
            first_append: self.first_append,
            last_append: self.last_append,
            sealed: self.sealed,
        }
    }
}

/// Writes a segment anew without its holes, and sets the old file, `from`, aside.
///
/// `next` and `total` are what the segment once reached. The new file takes its place when it is durable, so a crash leaves one or the other; its name
/// is the old one's, unless it begins later.
/// Returns the new segment, sealed, and the name of the file set aside; the caller syncs the directory.
pub fn rebuild(
    fs: &dyn Fs,
    dir: &Path,
    from: &Path,
    header: SegmentHeader,
    runs: &[Run],
    next: u64,
    total: u64,
) -> io::Result<(Segment, PathBuf)> {
    let path = dir.join(segment_name(header.base, header.seq));
    let temporary = path.with_extension("seg.tmp");
    let _ = fs.remove(&temporary);
    let built = (|| {
        let old = fs.open(from, Mode::Read)?;
        let new = fs.open(&temporary, Mode::New)?;
        new.write_all_at(0, &header.encode())?;
        let mut segment = Segment::empty(header);
        let mut copy = vec![0; 256 << 10];
        for run in runs {
            let at = segment.len;
            segment.push_run(run, at);
            let mut done = 0;
            while done < run.len {
                let part = copy.len().min((run.len - done) as usize);
                if old.read_full_at(run.pos + done, &mut copy[..part])? < part {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                new.write_all_at(at + done, &copy[..part])?;
                done += part as u64;
            }
        }
        segment.next = segment.next.max(next);
        new.write_all_at(segment.len, &segment.footer(total).encode(header.salt))?;
        (segment.sealed, segment.footer) = (true, true);
        new.sync_data()?;
        Ok(segment)
    })();
    let segment = match built {
        Ok(segment) => segment,
        Err(e) => {
            let _ = fs.remove(&temporary);
            return Err(e);
        }
    };
    let aside = set_aside(fs, from, from == path)?;
    fs.rename(&temporary, &path)?;
    Ok((segment, aside))
}

/// Gives a file the name `*.quarantined`; with `keep` its old name stays until something replaces it.
pub fn set_aside(fs: &dyn Fs, path: &Path, keep: bool) -> io::Result<PathBuf> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let taken: Vec<String> = fs.list(dir)?.into_iter().map(|entry| entry.name).collect();
    let aside = (0..)
        .map(|n| path.with_extension(if n == 0 { "quarantined".to_owned() } else { format!("{n}.quarantined") }))
        .find(|path| !taken.iter().any(|name| path.file_name().is_some_and(|file| file == name.as_str())))
        .expect("some number is free");
    // Not every file system has links; there the name is free for a moment, and recovery finds the new file under its temporary name.
    if !keep || fs.link(path, &aside).is_err() {
        fs.rename(path, &aside)?;
    }
    Ok(aside)
}
