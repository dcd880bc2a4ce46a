//! The decoders of files as plain functions of bytes; for fuzzing and the replay of its corpus.

use std::io;
use std::sync::Arc;

use crate::cursors::Cursors;
use crate::format::{Footer, SegmentHeader};
use crate::fs::File;
use crate::scan::Survey;

struct Bytes(Vec<u8>);

impl File for Bytes {
    fn read_at(&self, pos: u64, buf: &mut [u8]) -> io::Result<usize> {
        let from = (pos as usize).min(self.0.len());
        let n = buf.len().min(self.0.len() - from);
        buf[..n].copy_from_slice(&self.0[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

/// Surveys bytes as a segment file. A header that is corrupt is replaced, so that the batches are looked at all the same.
pub fn fuzz_segment(bytes: &[u8]) {
    let header = SegmentHeader::decode(bytes).unwrap_or(SegmentHeader { salt: 0, seq: 1, base: 0, follows: 0, synced: 0, total: 0 });
    let len = bytes.len() as u64;
    let file: Arc<dyn File> = Arc::new(Bytes(bytes.to_vec()));
    let survey = Survey::of(&file, &header, len, u64::MAX).expect("bytes in memory can be read");
    let mut end = header.base;
    for run in &survey.runs {
        assert!(run.first >= end && run.next > run.first && run.end() <= len, "offsets grow, inside the file");
        end = run.next;
    }
    let _ = Footer::read(&*file, len, header.salt);
}

/// Decodes bytes as a cursor file; what is valid is the same when encoded again.
pub fn fuzz_cursors(bytes: &[u8]) {
    if let Ok(cursors) = Cursors::decode(bytes) {
        assert_eq!(Cursors::decode(&cursors.encode()), Ok(cursors));
    }
}
