//! Walks a segment file batch by batch and finds the way again behind a hole.
//!
//! Whatever the bytes are, a scan ends, every valid batch is found, and at most one batch is held in memory.

use crate::blocks::{WINDOW, read_past_bad_blocks};
use crate::format::{BATCH_HEADER, BatchHeader, Footer, SEGMENT_HEADER, SegmentHeader};
use crate::fs::File;
use crate::prefixes::Prefixes;
use std::io;
use std::sync::Arc;

const MARK: u64 = 64 << 10;

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
    /// Made at the first hole.
    prefixes: Option<Prefixes>,
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
            prefixes: None,
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
        if let Some(found) = self.at(start)? {
            return Ok(Some(self.pass(found)));
        }
        self.pos = self.resync(start + 1)?;
        Ok(Some(Found::Hole(start, self.pos - start)))
    }

    /// The first batch or footer, wherever it stands; `None` or a hole: there is none.
    pub fn next_found(&mut self) -> io::Result<Option<Found>> {
        match self.next()? {
            Some(Found::Hole(..)) => self.next(),
            found => Ok(found),
        }
    }

    /// The position of the next batch or footer; the limit if there is none.
    fn resync(&mut self, mut pos: u64) -> io::Result<u64> {
        let (limit, end, salt) = (self.limit, self.end, self.salt);
        while pos + BATCH_HEADER as u64 <= limit {
            let bytes = self.bytes(pos, BATCH_HEADER)?;
            let header = BatchHeader::decode(bytes.first_chunk().expect("as many bytes as asked for"));
            if header.plausible(limit - pos, end) {
                let prefixes = match &mut self.prefixes {
                    Some(prefixes) => prefixes,
                    None => {
                        let prefixes = Prefixes::new(self.file.clone(), pos, limit)?;
                        self.read_bytes += prefixes.read_bytes;
                        self.prefixes.insert(prefixes)
                    }
                };
                if prefixes.intact(pos, &header, salt)? {
                    return Ok(pos);
                }
            }
            pos += 1;
        }
        Ok(limit)
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

    /// The batch or footer at a position.
    fn at(&mut self, pos: u64) -> io::Result<Option<Found>> {
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
            read_past_bad_blocks(&*self.file, pos, &mut self.window)?;
            return Ok(&self.window[..len]);
        }
        Ok(&self.window[from..from + len])
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
