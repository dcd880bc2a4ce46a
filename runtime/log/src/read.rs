//! Reading batches: from memory what is not synced, from the files what is.
//!
//! A tail reader costs one copy under the log's lock; a reader behind costs one `pread` of up to `max_bytes` without it. The place
//! where a read ended is kept in the [`ReadBuf`], and open segments remember places 64 KiB apart, so nothing is searched for twice.

use std::io;
use std::sync::Arc;

use crate::error::ReadError;
use crate::format::{BATCH_HEADER, BatchHeader, SEGMENT_HEADER};
use crate::recover::Newest;
use crate::report::Quarantined;
use crate::scan::Survey;
use crate::segment::{Open, rebuild};
use crate::state::{Inner, State};

/// Least bytes of one read from a file.
const LEAST: usize = 16 << 10;
/// Bytes read at a time while looking for a place.
const SEEK: usize = 128 << 10;

/// A batch as it was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch<'a> {
    pub first: u64,
    pub next: u64,
    pub records: u32,
    /// Microseconds since 1970.
    pub appended: i64,
    pub payload: &'a [u8],
}

/// A batch with memory of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedBatch {
    pub first: u64,
    pub next: u64,
    pub records: u32,
    /// Microseconds since 1970.
    pub appended: i64,
    pub payload: Vec<u8>,
}

impl OwnedBatch {
    pub(crate) fn new(header: &BatchHeader, payload: Vec<u8>) -> Self {
        Self { first: header.first, next: header.next(), records: header.records, appended: header.appended, payload }
    }

    pub fn as_batch(&self) -> Batch<'_> {
        Batch { first: self.first, next: self.next, records: self.records, appended: self.appended, payload: &self.payload }
    }
}

/// Memory for reads, and the place where the last one ended. Keep one for each reader.
#[derive(Default)]
pub struct ReadBuf {
    /// Grows to the largest read and stays, so that a read clears nothing.
    data: Vec<u8>,
    batches: Vec<Meta>,
    hint: Option<Hint>,
}

struct Meta {
    header: BatchHeader,
    /// Start of the payload in the data.
    start: usize,
}

/// Where the batch at `offset` stands.
#[derive(Clone, Copy)]
struct Hint {
    log: u64,
    seq: u64,
    epoch: u32,
    offset: u64,
    pos: u64,
}

impl ReadBuf {
    pub fn new() -> Self {
        Self::default()
    }

    /// Batches of the last read, in order of their offsets.
    pub fn batches(&self) -> impl ExactSizeIterator<Item = Batch<'_>> {
        self.batches.iter().map(|Meta { header, start }| Batch {
            first: header.first,
            next: header.next(),
            records: header.records,
            appended: header.appended,
            payload: &self.data[*start..*start + header.len as usize],
        })
    }

    pub fn len(&self) -> usize {
        self.batches.len()
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Offset behind the last batch of the last read.
    pub fn next(&self) -> Option<u64> {
        self.batches.last().map(|meta| meta.header.next())
    }

    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.data.len() < len {
            self.data.resize(len, 0);
        }
        &mut self.data[..len]
    }
}

/// A piece of a segment file to read from.
struct Place {
    seq: u64,
    epoch: u32,
    salt: u32,
    open: Arc<Open>,
    pos: u64,
    /// Position behind the last synced batch.
    limit: u64,
    /// Where to go on if nothing from the wanted offset on is here.
    next: u64,
}

/// Why a read from a file gave nothing.
enum Trouble {
    /// The bytes are not what was written.
    Corrupt,
    Io(io::Error),
}

impl Inner {
    pub fn read(&self, mut from: u64, max_bytes: usize, buf: &mut ReadBuf) -> Result<usize, ReadError> {
        buf.batches.clear();
        let mut troubles = 0;
        loop {
            let place = {
                let mut state = self.state.lock();
                if state.closed {
                    return Err(ReadError::Closed);
                }
                if from >= state.end {
                    return Ok(0);
                }
                if from >= state.synced {
                    return Ok(self.read_held(&state, from, max_bytes, buf));
                }
                match self.find(&mut state, from, buf.hint) {
                    Some(place) => place.map_err(|(path, source)| ReadError::Io { path, source })?,
                    None => return Ok(0),
                }
            };
            let (seq, next) = (place.seq, place.next);
            match self.read_file(place, from, max_bytes, buf) {
                Ok(0) => from = next,
                Ok(n) => return Ok(n),
                Err(trouble) => {
                    troubles += 1;
                    let path = || self.dir.join(format!("segment {seq}"));
                    match trouble {
                        // Once may be the cable; twice is the place on the disk.
                        Trouble::Io(source) if troubles > 3 => return Err(ReadError::Io { path: path(), source }),
                        Trouble::Io(_) if troubles == 1 => {}
                        Trouble::Corrupt if troubles > 3 => {
                            return Err(ReadError::Io { path: path(), source: io::ErrorKind::InvalidData.into() });
                        }
                        Trouble::Io(_) | Trouble::Corrupt => self.quarantine(seq)?,
                    }
                }
            }
        }
    }

    /// Copies batches that are held in memory.
    fn read_held(&self, state: &State, from: u64, max_bytes: usize, buf: &mut ReadBuf) -> usize {
        let begin = state.held.partition_point(|held| held.next <= from);
        let mut filled = 0;
        'pieces: for held in state.held.range(begin..) {
            let mut at = 0;
            while let Some(header) = held.bytes[at..].first_chunk::<BATCH_HEADER>().map(BatchHeader::decode) {
                let batch = &held.bytes[at..at + header.size()];
                at += header.size();
                if header.next() <= from {
                    continue;
                }
                if !buf.batches.is_empty() && filled + batch.len() > max_bytes {
                    break 'pieces;
                }
                buf.room(filled + batch.len())[filled..].copy_from_slice(batch);
                buf.batches.push(Meta { header, start: filled + BATCH_HEADER });
                filled += batch.len();
                let epoch = 0; // a segment that holds unsynced batches was never rewritten
                buf.hint = Some(Hint { log: self.id, seq: held.seq, epoch, offset: header.next(), pos: held.pos + at as u64 });
            }
        }
        buf.batches.len()
    }

    /// The place of the first synced batch that ends behind `from`.
    fn find(&self, state: &mut State, from: u64, hint: Option<Hint>) -> Option<Result<Place, (std::path::PathBuf, io::Error)>> {
        let i = state.segments.partition_point(|segment| segment.next <= from);
        let segment = state.segments.get_mut(i)?;
        let seq = segment.header.seq;
        let limit = state.held.iter().find(|held| held.seq == seq).map_or(segment.len, |held| held.pos);
        let open = match &segment.open {
            Some(open) => open.clone(),
            None => match self.open_segment(segment) {
                Ok(open) => open,
                Err(e) => return Some(Err((segment.path(&self.dir), e))),
            },
        };
        open.touch(self.shared.tick());
        let hint = hint.filter(|hint| hint.log == self.id && hint.seq == seq && hint.epoch == segment.epoch);
        let pos = match hint {
            Some(hint) if hint.offset <= from && hint.pos <= limit => hint.pos.max(open.seek(from)),
            _ => open.seek(from),
        };
        let next = if limit < segment.len { state.synced } else { segment.next };
        Some(Ok(Place { seq, epoch: segment.epoch, salt: segment.header.salt, open, pos, limit, next }))
    }

    fn read_file(&self, place: Place, from: u64, max_bytes: usize, buf: &mut ReadBuf) -> Result<usize, Trouble> {
        let (mut base, mut least) = (place.pos, LEAST);
        while base < place.limit {
            // Bytes of the file from `base`; whole batches of them are passed until the wanted ones are there.
            let room = (place.limit - base) as usize;
            let want = max_bytes.max(least).min(room);
            let n = place.open.file.read_full_at(base, buf.room(want)).map_err(Trouble::Io)?;
            let (mut at, mut taken, mut cut_off) = (0, 0, 0);
            while let Some(header) = buf.data[at..n].first_chunk::<BATCH_HEADER>().map(BatchHeader::decode) {
                let size = header.size();
                let sound = header.plausible((room - at) as u64, 0) && !header.is_footer();
                if sound && (at + size > n || taken > 0 && taken + size > max_bytes) {
                    cut_off = size;
                    break;
                }
                if !sound || !header.intact(&buf.data[at..at + size], place.salt) {
                    if buf.is_empty() {
                        return Err(Trouble::Corrupt);
                    }
                    break; // what stands before it is good; the next read finds it again
                }
                place.open.learn(header.first, base + at as u64);
                if header.next() > from {
                    buf.batches.push(Meta { header, start: at + BATCH_HEADER });
                    taken += size;
                }
                at += size;
            }
            let pos = base + at as u64;
            if let Some(offset) = buf.next() {
                buf.hint = Some(Hint { log: self.id, seq: place.seq, epoch: place.epoch, offset, pos });
                return Ok(buf.len());
            }
            if at == 0 && cut_off == 0 || n < want {
                return Err(Trouble::Corrupt); // the file is shorter than what was written to it
            }
            least = cut_off.max(SEEK);
            base = pos;
        }
        Ok(0)
    }

    pub fn newest(&self) -> Result<Option<OwnedBatch>, ReadError> {
        for _ in 0..3 {
            let (place, pos) = {
                let mut state = self.state.lock();
                if state.closed {
                    return Err(ReadError::Closed);
                }
                let Some(Newest { seq, pos }) = state.newest else { return Ok(None) };
                let held = state.held.iter().find(|held| held.seq == seq && held.pos <= pos && pos < held.pos + held.bytes.len() as u64);
                if let Some(held) = held {
                    let batch = &held.bytes[(pos - held.pos) as usize..];
                    let header = BatchHeader::decode(batch.first_chunk().expect("a held batch has a header"));
                    return Ok(Some(OwnedBatch::new(&header, batch[BATCH_HEADER..header.size()].to_vec())));
                }
                let i = state.segments.partition_point(|segment| segment.header.seq < seq);
                let Some(segment) = state.segments.get_mut(i) else { return Ok(None) };
                let (epoch, salt, limit, next) = (segment.epoch, segment.header.salt, segment.len, segment.next);
                let open = match &segment.open {
                    Some(open) => open.clone(),
                    None => self.open_segment(segment).map_err(|source| ReadError::Io { path: segment.path(&self.dir), source })?,
                };
                (Place { seq, epoch, salt, open, pos, limit, next }, pos)
            };
            let seq = place.seq;
            let mut buf = ReadBuf::new();
            match self.read_file(Place { pos, ..place }, 0, 1, &mut buf) {
                Ok(_) => {
                    let batch = buf.batches.last().map(|meta| {
                        let payload = buf.data[meta.start..meta.start + meta.header.len as usize].to_vec();
                        OwnedBatch::new(&meta.header, payload)
                    });
                    return Ok(batch);
                }
                Err(Trouble::Corrupt) => self.quarantine(seq)?,
                Err(Trouble::Io(source)) => return Err(ReadError::Io { path: self.dir.join(format!("segment {seq}")), source }),
            }
        }
        Ok(None)
    }

    /// Sets a segment's file aside and goes on with what is intact of it.
    fn quarantine(&self, seq: u64) -> Result<(), ReadError> {
        {
            let mut state = self.state.lock();
            if state.segments.back().is_some_and(|last| last.header.seq == seq) {
                self.seal_last(&mut state);
            }
        }
        // All of it is synced from here on, or there is no telling what its file holds.
        self.sync().map_err(|e| match e {
            crate::error::StoreError::Io { path, source, .. } => ReadError::Io { path, source },
            _ => ReadError::Closed,
        })?;
        let mut state = self.state.lock();
        let state = &mut *state;
        let i = state.segments.partition_point(|segment| segment.header.seq < seq);
        let total = state.segments.get(i + 1).map_or(state.total, |next| next.header.total);
        let Some(segment) = state.segments.get_mut(i).filter(|segment| segment.header.seq == seq) else { return Ok(()) };
        let path = segment.path(&self.dir);
        let failed = |source| ReadError::Io { path: path.clone(), source };
        let open = match &segment.open {
            Some(open) => open.clone(),
            None => self.open_segment(segment).map_err(failed)?,
        };
        let survey = Survey::of(&open.file, &segment.header, segment.len, u64::MAX).map_err(failed)?;
        if survey.is_whole() {
            return Ok(());
        }
        let (mut rebuilt, aside) =
            rebuild(&*self.shared.fs, &self.dir, &segment.path(&self.dir), segment.header, &survey.runs, segment.next, total)
                .map_err(failed)?;
        rebuilt.epoch = segment.epoch + 1;
        let used: u64 = survey.runs.iter().map(|run| run.len).sum();
        let lost = segment.records.saturating_sub(rebuilt.records);
        let quarantined = Quarantined {
            path: aside,
            reason: "batches are corrupt".to_owned(),
            bytes: segment.len.saturating_sub(SEGMENT_HEADER as u64 + used),
            records: Some(lost),
        };
        tracing::error!(log = self.name, path = %quarantined.path.display(), records = lost, "a corrupt part of the log was set aside");
        let before = segment.bytes();
        state.dir_unsynced = true;
        self.close_segment(segment);
        self.account(rebuilt.bytes());
        self.discount(before);
        *segment = rebuilt;
        state.faults.records_lost += lost;
        state.faults.quarantined.push(quarantined);
        if state.newest.is_some_and(|newest| newest.seq == seq) {
            let newest = state.segments.iter().rev().find(|segment| segment.newest > 0);
            state.newest = newest.map(|segment| Newest { seq: segment.header.seq, pos: segment.newest });
        }
        Ok(())
    }
}
