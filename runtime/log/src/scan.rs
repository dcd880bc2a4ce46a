//! Walks a segment file batch by batch and finds the way again behind a hole.
//!
//! Whatever the bytes are, a scan ends, reads each byte a bounded number of times and holds at most one batch in memory.

use std::io;
use std::sync::Arc;

use crate::format::{BATCH_HEADER, BatchHeader, Footer, SEGMENT_HEADER, SegmentHeader};
use crate::fs::File;

const WINDOW: usize = 256 << 10;
const BLOCK: usize = 4096;
const MARK: u64 = 64 << 10;
/// How often the bytes of a file may be checksummed while looking for the next batch behind a hole.
const RESYNC_PASSES: u64 = 8;

/// What stands next in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    Batch(u64, BatchHeader),
    /// Bytes that are no batch: position and length.
    Hole(u64, u64),
    Footer(u64, Footer),
}

/// A walk over the batches of one file.
pub struct Scanner {
    file: Arc<dyn File>,
    salt: u32,
    pos: u64,
    limit: u64,
    end: u64,
    window: Vec<u8>,
    window_pos: u64,
    resync_left: u64,
    /// Bytes read from the file.
    pub read_bytes: u64,
}

impl Scanner {
    /// Scans a segment's batches up to the position `limit`.
    pub fn new(file: Arc<dyn File>, header: &SegmentHeader, limit: u64) -> Self {
        Self {
            file,
            salt: header.salt,
            pos: SEGMENT_HEADER as u64,
            limit,
            end: header.base,
            window: Vec::new(),
            window_pos: 0,
            resync_left: limit.saturating_mul(RESYNC_PASSES),
            read_bytes: 0,
        }
    }

    /// The payload of the batch found last.
    pub fn payload(&mut self, pos: u64, header: &BatchHeader) -> io::Result<&[u8]> {
        Ok(&self.bytes(pos, header.size())?[BATCH_HEADER..])
    }

    pub fn next(&mut self) -> io::Result<Option<Found>> {
        if self.pos >= self.limit {
            return Ok(None);
        }
        let start = self.pos;
        if let Some(found) = self.at(start, None)? {
            return Ok(Some(self.pass(found)));
        }
        let mut pos = start + 1;
        while pos + BATCH_HEADER as u64 <= self.limit && self.resync_left > 0 {
            let mut left = self.resync_left;
            let found = self.at(pos, Some(&mut left))?;
            self.resync_left = left;
            if found.is_some() {
                break;
            }
            pos += 1;
        }
        if pos + BATCH_HEADER as u64 > self.limit || self.resync_left == 0 {
            pos = self.limit;
        }
        self.pos = pos;
        Ok(Some(Found::Hole(start, pos - start)))
    }

    fn pass(&mut self, found: Found) -> Found {
        match &found {
            Found::Batch(pos, header) => {
                self.pos = pos + header.size() as u64;
                self.end = header.next();
            }
            Found::Footer(pos, _) => self.pos = pos + crate::format::FOOTER as u64,
            Found::Hole(pos, len) => self.pos = pos + len,
        }
        found
    }

    /// The batch or footer at a position; `budget` bounds the bytes checksummed in vain.
    fn at(&mut self, pos: u64, budget: Option<&mut u64>) -> io::Result<Option<Found>> {
        let room = self.limit - pos;
        if room < BATCH_HEADER as u64 {
            return Ok(None);
        }
        let (end, salt) = (self.end, self.salt);
        let bytes = self.bytes(pos, BATCH_HEADER)?;
        let header = BatchHeader::decode(bytes.first_chunk().expect("as many bytes as asked for"));
        if !header.plausible(room, end) {
            return Ok(None);
        }
        if let Some(budget) = budget {
            *budget = budget.saturating_sub(header.size() as u64);
        }
        let bytes = self.bytes(pos, header.size())?;
        if !header.intact(bytes, salt) {
            return Ok(None);
        }
        if header.is_footer() {
            return Ok(Footer::decode(&header, &bytes[BATCH_HEADER..]).map(|footer| Found::Footer(pos, footer)));
        }
        Ok(Some(Found::Batch(pos, header)))
    }

    /// `len` bytes at a position within the limit.
    fn bytes(&mut self, pos: u64, len: usize) -> io::Result<&[u8]> {
        let from = pos.wrapping_sub(self.window_pos) as usize;
        if pos < self.window_pos || from.saturating_add(len) > self.window.len() {
            let want = len.max(WINDOW).min((self.limit - pos) as usize);
            self.window.clear();
            self.window.resize(want, 0);
            self.window_pos = pos;
            self.read_bytes += want as u64;
            if self.file.read_full_at(pos, &mut self.window).is_err() {
                self.read_blocks(pos)?;
            }
            return Ok(&self.window[..len]);
        }
        Ok(&self.window[from..from + len])
    }

    /// Reads the window again, block by block; blocks that the disk cannot give stay zero and become a hole.
    fn read_blocks(&mut self, pos: u64) -> io::Result<()> {
        let (mut failed, mut blocks) = (None, 0);
        for (i, block) in self.window.chunks_mut(BLOCK).enumerate() {
            blocks += 1;
            if let Err(e) = self.file.read_full_at(pos + (i * BLOCK) as u64, block) {
                block.fill(0);
                let (count, _) = failed.take().unwrap_or((0, e.kind()));
                failed = Some((count + 1, e.kind()));
                if count + 1 == blocks && blocks == 16 {
                    return Err(e); // not a bad spot: the disk is gone
                }
            }
        }
        Ok(())
    }
}

/// Valid batches that stand one behind the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    pub pos: u64,
    pub len: u64,
    pub first: u64,
    pub next: u64,
    /// Records appended to the log before the run, and after it.
    pub total_before: u64,
    pub total: u64,
    pub records: u64,
    pub batches: u32,
    pub newest: u64,
    pub first_append: i64,
    pub last_append: i64,
}

impl Run {
    fn begin(pos: u64, header: &BatchHeader) -> Self {
        let mut run = Self {
            pos,
            len: 0,
            first: header.first,
            next: header.first,
            total_before: header.total,
            total: header.total,
            records: 0,
            batches: 0,
            newest: pos,
            first_append: header.appended,
            last_append: header.appended,
        };
        run.extend(pos, header);
        run
    }

    fn extend(&mut self, pos: u64, header: &BatchHeader) {
        self.len += header.size() as u64;
        self.next = header.next();
        self.total = header.total + u64::from(header.records);
        self.records += u64::from(header.records);
        self.batches += 1;
        self.newest = pos;
        self.last_append = header.appended;
    }

    pub fn end(&self) -> u64 {
        self.pos + self.len
    }
}

/// What a whole segment holds.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    pub runs: Vec<Run>,
    pub footer: Option<Footer>,
    /// Position behind what was looked at: the file's end, the footer, or the first void batch.
    pub end: u64,
    /// Everything below is on the disk: the strongest claim found.
    pub synced: u64,
    /// `(next, position behind it)` of some batches, [`MARK`] apart.
    marks: Vec<(u64, u64)>,
    pub read_bytes: u64,
}

impl Survey {
    /// Reads a whole segment. Batches at or above `void_from` are void: they stand in a later segment.
    pub fn of(file: &Arc<dyn File>, header: &SegmentHeader, len: u64, void_from: u64) -> io::Result<Self> {
        let mut scanner = Scanner::new(file.clone(), header, len);
        let mut survey = Self { end: len.max(SEGMENT_HEADER as u64), synced: header.synced, ..Self::default() };
        while let Some(found) = scanner.next()? {
            match found {
                Found::Batch(pos, batch) if batch.first >= void_from => {
                    survey.end = pos;
                    break;
                }
                Found::Batch(pos, batch) => {
                    survey.synced = survey.synced.max(batch.synced());
                    let behind = pos + batch.size() as u64;
                    if survey.marks.last().map_or(0, |mark| mark.1) + MARK <= behind {
                        survey.marks.push((batch.next(), behind));
                    }
                    match survey.runs.last_mut().filter(|run| run.end() == pos) {
                        Some(run) => run.extend(pos, &batch),
                        None => survey.runs.push(Run::begin(pos, &batch)),
                    }
                }
                Found::Footer(pos, footer) => {
                    survey.footer = (footer.next <= void_from).then_some(footer);
                    survey.end = pos;
                    break;
                }
                Found::Hole(..) => {}
            }
        }
        survey.read_bytes = scanner.read_bytes;
        Ok(survey)
    }

    /// A position before which every batch ends at or below `offset`.
    pub fn before(&self, offset: u64) -> u64 {
        let at = self.marks.partition_point(|(next, _)| *next <= offset);
        if at == 0 { 0 } else { self.marks[at - 1].1 }
    }

    /// Places between, before and behind the runs: position and length.
    pub fn holes(&self) -> Vec<(u64, u64)> {
        let mut pos = SEGMENT_HEADER as u64;
        let ends = self.runs.iter().map(|run| (run.pos, run.end())).chain([(self.end, self.end)]);
        let gaps = ends.map(|(start, end)| (std::mem::replace(&mut pos, end), start));
        gaps.filter(|(from, to)| from < to).map(|(from, to)| (from, to - from)).collect()
    }

    /// No hole before, between or behind the batches.
    pub fn is_whole(&self) -> bool {
        self.holes().is_empty()
    }
}
