//! Looking at logs, and repairing them, while nobody has the store open.
//!
//! Everything but [`repair`] only reads, and so may be used beside a running process: the end of a live log may then look torn.
//!
//! To import, open the [`Store`](crate::Store) and append what [`batches`] of the other one gives.

use std::path::{Path, PathBuf};

use crate::cursors::CursorFiles;
use crate::error::StoreError;
use crate::format::{Footer, SEGMENT_HEADER};
use crate::fs::{Fs, Mode, RealFs};
use crate::names;
use crate::on_disk::{File, files};
use crate::read::OwnedBatch;
use crate::recover::recover;
use crate::report::{Quarantined, Recovery, SegmentInfo};
use crate::salvage::salvage;
use crate::scan::{Found, Scanner, Survey};
use crate::segment::{Segment, rebuild};
use crate::store::{after_power_cut, names_in, take_lock};

/// A segment file and what is in it.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    pub path: PathBuf,
    pub file_bytes: u64,
    /// `None`: its header is corrupt, and nothing in it can be read.
    pub info: Option<SegmentInfo>,
    /// `verify` only: places that are no batch, position and length.
    pub holes: Vec<(u64, u64)>,
}

/// A log as it lies on the disk.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub segments: Vec<SegmentFile>,
    /// Files set aside earlier.
    pub quarantined: Vec<PathBuf>,
    /// Name, offset and note of each cursor.
    pub cursors: Vec<(String, u64, Vec<u8>)>,
    pub dropped: u64,
}

impl Listing {
    pub fn start(&self) -> u64 {
        let with_batches = self.segments.iter().filter_map(|segment| segment.info).find(|info| info.next > info.base);
        with_batches.map_or(0, |info| info.base)
    }

    pub fn end(&self) -> u64 {
        self.segments.iter().filter_map(|segment| segment.info).map(|info| info.next).max().unwrap_or(0)
    }

    pub fn records(&self) -> u64 {
        self.segments.iter().filter_map(|segment| segment.info).map(|info| info.records).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.file_bytes).sum()
    }

    /// No corrupt header and no hole; with `verify` that is certain.
    pub fn is_whole(&self) -> bool {
        self.segments.iter().all(|segment| segment.info.is_some() && segment.holes.is_empty())
    }
}

/// Names of the logs in a store, sorted.
pub fn logs(dir: &Path) -> Result<Vec<String>, StoreError> {
    names_in(&RealFs, dir)
}

/// What a log holds, out of headers and footers; only the last segment is read.
pub fn list(dir: &Path, name: &str) -> Result<Listing, StoreError> {
    look(&RealFs, dir, name, false)
}

/// What a log holds; every batch is read and its checksum checked.
pub fn verify(dir: &Path, name: &str) -> Result<Listing, StoreError> {
    look(&RealFs, dir, name, true)
}

/// Cuts off a torn tail, sets aside every corrupt place in all segments, and takes back what is intact in files set aside earlier.
///
/// Errors: `Locked` while a process has the store open.
pub fn repair(dir: &Path, name: &str) -> Result<Recovery, StoreError> {
    let fs = &RealFs;
    let _lock = take_lock(fs, dir)?;
    let power_cut = after_power_cut(fs, dir)?;
    let dir = log_dir(fs, dir, name)?;
    let mut report = recover(fs, &dir, 0, power_cut)?.report;
    for file in files(fs, &dir)? {
        let Some(header) = file.header else { continue };
        let open = fs.open(&file.path, Mode::Read).map_err(StoreError::io("open", &file.path))?;
        let survey = Survey::of(&open, &header, file.len, file.void_from).map_err(StoreError::io("read", &file.path))?;
        if survey.is_whole() {
            continue;
        }
        let (next, total, records) = match survey.footer {
            Some(footer) => (footer.next, footer.total, Some(footer.records)),
            None => survey.runs.last().map_or((header.follows, header.total, None), |run| (run.next, run.total, None)),
        };
        let bytes = survey.end - SEGMENT_HEADER as u64 - survey.runs.iter().map(|run| run.len).sum::<u64>();
        let (segment, aside) = rebuild(fs, &dir, &file.path, header, &survey.runs, next, total)
            .map_err(StoreError::io("rewrite without its corrupt part", &file.path))?;
        let records = records.map(|records| records.saturating_sub(segment.records));
        report.records_lost = report.records_lost.zip(records).map(|(a, b)| a + b);
        report.quarantined.push(Quarantined { path: aside, reason: "batches are corrupt".to_owned(), bytes, records });
    }
    let (_, cursors, _) = CursorFiles::load(fs, &dir)?;
    report.salvaged = salvage(fs, &dir, cursors.slowest())?;
    fs.sync_dir(&dir).map_err(StoreError::io("sync", &dir))?;
    Ok(report)
}

/// The batches of a log in order, without those that are corrupt.
pub fn batches(dir: &Path, name: &str) -> Result<Batches, StoreError> {
    let dir = log_dir(&RealFs, dir, name)?;
    let mut files = files(&RealFs, &dir)?;
    files.reverse();
    Ok(Batches { files, current: None })
}

/// Reads batch by batch; holds one in memory.
pub struct Batches {
    /// Those to come, last first.
    files: Vec<File>,
    current: Option<(File, Scanner)>,
}

impl Iterator for Batches {
    type Item = Result<OwnedBatch, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((file, scanner)) = &mut self.current else {
                let file = self.files.pop()?;
                let Some(header) = file.header else { continue };
                match RealFs.open(&file.path, Mode::Read) {
                    Ok(open) => {
                        let scanner = Scanner::new(open, &header, file.len);
                        self.current = Some((file, scanner));
                    }
                    Err(e) => return Some(Err(StoreError::io("open", &file.path)(e))),
                }
                continue;
            };
            match scanner.next() {
                Ok(Some(Found::Batch(pos, batch))) if batch.first < file.void_from => {
                    let payload = scanner.payload(pos, &batch).map(<[u8]>::to_vec);
                    return Some(payload.map(|payload| OwnedBatch::new(&batch, payload)).map_err(StoreError::io("read", &file.path)));
                }
                Ok(Some(Found::Hole(..))) => {}
                Ok(_) => self.current = None,
                Err(e) => {
                    let error = StoreError::io("read", &file.path)(e);
                    self.current = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

fn log_dir(fs: &dyn Fs, dir: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let path = dir.join(names::encode(name)?);
    fs.list(&path).map(|_| path).map_err(|_| StoreError::NoSuchLog(name.to_owned()))
}

fn look(fs: &dyn Fs, dir: &Path, name: &str, every_batch: bool) -> Result<Listing, StoreError> {
    let dir = log_dir(fs, dir, name)?;
    let (_, cursors, _) = CursorFiles::load(fs, &dir)?;
    let mut listing = Listing { dropped: cursors.dropped, ..Listing::default() };
    listing.cursors = cursors.by_name.into_iter().map(|(name, cursor)| (name, cursor.offset, cursor.note)).collect();
    let entries = fs.list(&dir).map_err(StoreError::io("list", &dir))?;
    listing.quarantined = entries.iter().filter(|e| e.name.ends_with(".quarantined")).map(|e| dir.join(&e.name)).collect();
    listing.quarantined.sort();
    for file in files(fs, &dir)? {
        let (mut info, mut holes) = (None, Vec::new());
        if let Some(header) = file.header {
            let open = fs.open(&file.path, Mode::Read).map_err(StoreError::io("open", &file.path))?;
            let footer = Footer::read(&*open, file.len, header.salt).map_err(StoreError::io("read", &file.path))?;
            info = Some(match footer.filter(|footer| !every_batch && footer.next <= file.void_from) {
                Some(footer) => Segment::from_footer(header, &footer, file.len).info(),
                None => {
                    let survey = Survey::of(&open, &header, file.len, file.void_from).map_err(StoreError::io("read", &file.path))?;
                    holes = survey.holes();
                    let mut segment = Segment::from_runs(header, &survey.runs);
                    segment.next = segment.next.max(survey.footer.map_or(0, |footer| footer.next));
                    (segment.sealed, segment.footer) = (survey.footer.is_some(), survey.footer.is_some());
                    segment.info()
                }
            });
        }
        listing.segments.push(SegmentFile { path: file.path, file_bytes: file.len, info, holes });
    }
    Ok(listing)
}
