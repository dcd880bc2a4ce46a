//! A sealed segment written anew with fewer batches, for a log that is compacted.
//!
//! Offsets stay where they are: a batch that goes leaves a gap, one that is replaced keeps its range. The new file takes the old one's name when it
//! is on the disk, so a crash leaves one or the other; who reads the old one meanwhile goes on with it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::error::StoreError;
use crate::format::{BATCH_HEADER, BatchHeader, SEGMENT_HEADER, SegmentHeader};
use crate::fs::{File, Fs, Mode};
use crate::read::Batch;
use crate::scan::{Found, Scanner};
use crate::segment::{Open, Segment};
use crate::state::Inner;

/// What becomes of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rewrite {
    Keep,
    Drop,
    /// Another payload with so many records stands for the same offsets.
    Replace {
        records: u32,
        payload: Vec<u8>,
    },
}

/// Bytes written at once.
const PIECE: usize = 256 << 10;

/// A segment to be rewritten, as it stood when the work began.
struct Old {
    header: SegmentHeader,
    len: u64,
    next: u64,
    epoch: u32,
    /// Records appended to the log up to its end.
    total: u64,
    open: Arc<Open>,
}

impl Inner {
    /// Seals the last segment; the next batch begins another. False: it was sealed or empty.
    pub fn seal(&self) -> bool {
        let mut state = self.state.lock();
        let begun = !state.closed && state.segments.back().is_some_and(|last| last.batches > 0 && !last.sealed);
        if begun {
            self.seal_last(&mut state);
        }
        begun
    }

    pub fn rewrite(&self, base: u64, decide: &mut dyn FnMut(Batch<'_>) -> Rewrite) -> Result<u64, StoreError> {
        let Some(old) = self.rewritable(base)? else { return Ok(0) };
        let path = self.dir.join(crate::format::segment_name(old.header.base, old.header.seq));
        let failed = |source| StoreError::Io { what: "rewrite", path: path.clone(), source };
        let Some((rebuilt, temporary)) = write_anew(&*self.shared.fs, &self.dir, &old, decide).map_err(failed)? else { return Ok(0) };
        let mut state = self.state.lock();
        let state = &mut *state;
        let found = state.segments.iter_mut().find(|segment| segment.header.seq == old.header.seq && segment.epoch == old.epoch);
        let Some(segment) = found.filter(|_| !state.closed) else {
            // It went, or was set aside, meanwhile.
            let _ = self.shared.fs.remove(&temporary);
            return Ok(0);
        };
        self.shared.fs.rename(&temporary, &path).map_err(failed)?;
        let before = segment.bytes();
        self.close_segment(segment);
        let freed = before.saturating_sub(rebuilt.bytes());
        self.account(rebuilt.bytes());
        self.discount(before);
        *segment = Segment { epoch: old.epoch + 1, ..rebuilt };
        state.dir_unsynced = true;
        self.schedule(state, Instant::now() + self.options.sync);
        Ok(freed)
    }

    /// The segment at `base` if nothing is appended to it any more, all of it is synced, and the newest batch is in another.
    fn rewritable(&self, base: u64) -> Result<Option<Old>, StoreError> {
        let mut state = self.state.lock();
        let newest = state.newest.map_or(0, |newest| newest.seq);
        let unsynced = state.held.front().map_or(u64::MAX, |held| held.seq);
        let Some(i) = state.segments.iter().position(|segment| segment.header.base == base && segment.batches > 0) else { return Ok(None) };
        let total = state.segments.get(i + 1).map(|next| next.header.total);
        let segment = &mut state.segments[i];
        let seq = segment.header.seq;
        let Some(total) = total.filter(|_| segment.sealed && seq < newest && seq < unsynced) else { return Ok(None) };
        let open = match &segment.open {
            Some(open) => open.clone(),
            None => self.open_segment(segment).map_err(StoreError::io("open", &segment.path(&self.dir)))?,
        };
        Ok(Some(Old { header: segment.header, len: segment.len, next: segment.next, epoch: segment.epoch, total, open }))
    }
}

/// Writes what stays of a segment to a temporary file and syncs it; `None` if all of it stays.
fn write_anew(fs: &dyn Fs, dir: &Path, old: &Old, decide: &mut dyn FnMut(Batch<'_>) -> Rewrite) -> io::Result<Option<(Segment, PathBuf)>> {
    let mut segment = Segment::empty(old.header);
    let temporary = segment.path(dir).with_extension("seg.tmp");
    let _ = fs.remove(&temporary);
    let file = fs.open(&temporary, Mode::New)?;
    let written = write_batches(&*file, &mut segment, old, decide);
    match written {
        Ok(true) => Ok(Some((segment, temporary))),
        Ok(false) => {
            fs.remove(&temporary)?;
            Ok(None)
        }
        Err(e) => {
            let _ = fs.remove(&temporary);
            Err(e)
        }
    }
}

fn write_batches(file: &dyn File, segment: &mut Segment, old: &Old, decide: &mut dyn FnMut(Batch<'_>) -> Rewrite) -> io::Result<bool> {
    file.write_all_at(0, &old.header.encode())?;
    let mut scanner = Scanner::new(old.open.file.clone(), &old.header, old.len);
    let (mut changed, mut out, mut out_pos) = (false, Vec::with_capacity(PIECE), SEGMENT_HEADER as u64);
    while let Some(found) = scanner.next()? {
        let Found::Batch(pos, mut header) = found else {
            // A hole is for the reader to find and set aside.
            return Err(io::ErrorKind::InvalidData.into());
        };
        let payload = scanner.payload(pos, &header)?;
        let batch = Batch { first: header.first, next: header.next(), records: header.records, appended: header.appended, payload };
        let replaced;
        let payload = match decide(batch) {
            Rewrite::Keep => payload,
            Rewrite::Drop => {
                changed = true;
                continue;
            }
            Rewrite::Replace { records, payload } => {
                changed = true;
                replaced = payload;
                (header.records, header.len) = (records, replaced.len() as u32);
                &replaced
            }
        };
        let start = out.len();
        out.resize(start + BATCH_HEADER, 0);
        out.extend_from_slice(payload);
        header.seal(&mut out[start..], old.header.salt);
        count(segment, &header);
        if out.len() >= PIECE {
            file.write_all_at(out_pos, &out)?;
            out_pos += out.len() as u64;
            out.clear();
        }
    }
    if !changed {
        return Ok(false);
    }
    segment.next = old.next;
    (segment.sealed, segment.footer) = (true, true);
    out.extend_from_slice(&segment.footer(old.total).encode(old.header.salt));
    file.write_all_at(out_pos, &out)?;
    file.sync_data()?;
    Ok(true)
}

/// Counts a batch that is written behind the others.
pub fn count(segment: &mut Segment, header: &BatchHeader) {
    if segment.batches == 0 {
        segment.first_append = header.appended;
    }
    segment.newest = segment.len;
    segment.len += header.size() as u64;
    segment.records += u64::from(header.records);
    segment.batches += 1;
    segment.last_append = header.appended;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogOptions, ReadBuf, Store, StoreOptions};

    fn payloads(log: &crate::Log) -> Vec<(u64, u64, Vec<u8>)> {
        let (mut buf, mut from, mut out) = (ReadBuf::new(), 0, Vec::new());
        while log.read(from, 1 << 20, &mut buf).unwrap() > 0 {
            out.extend(buf.batches().map(|batch| (batch.first, batch.next, batch.payload.to_vec())));
            from = buf.next().unwrap();
        }
        out
    }

    #[test]
    fn a_rewritten_segment_keeps_its_offsets_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let expected = {
            let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
            let (log, _) = store.log("a", LogOptions::default()).unwrap();
            for i in 0..9_u64 {
                log.append(2 * i, 2 * i + 2, 2, &[format!("batch {i}").as_bytes()]).unwrap();
                if i == 5 || i == 7 {
                    assert!(log.seal());
                }
            }
            assert!(!log.seal() || log.append(18, 20, 2, &[b"last"]).is_ok());
            log.sync().unwrap();
            let mut decide = |batch: Batch<'_>| match batch.first {
                0 | 10 => Rewrite::Drop,
                4 => Rewrite::Replace { records: 1, payload: b"new".to_vec() },
                _ => Rewrite::Keep,
            };
            let freed = log.rewrite(0, &mut decide).unwrap();
            assert!(freed > 80, "{freed} bytes");
            assert_eq!(log.rewrite(12, &mut |_| Rewrite::Drop).unwrap(), 2 * (44 + 7));
            assert_eq!(log.rewrite(0, &mut |_| Rewrite::Keep).unwrap(), 0);
            let read = payloads(&log);
            assert_eq!(read.iter().map(|(first, ..)| *first).collect::<Vec<_>>(), [2, 4, 6, 8, 16, 18]);
            assert_eq!(read[1], (4, 6, b"new".to_vec()));
            store.close().unwrap();
            read
        };
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let (log, recovery) = store.log("a", LogOptions::default()).unwrap();
        assert!(recovery.quarantined.is_empty() && recovery.truncated_bytes == 0, "{recovery:?}");
        assert_eq!(payloads(&log), expected);
        assert_eq!(log.end(), 20);
    }
}
