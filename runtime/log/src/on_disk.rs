//! The segment files of a log that nobody has open.

use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::format::{BadHeader, SegmentHeader, VERSION, parse_segment_name};
use crate::fs::{Fs, Mode};

/// A segment file before it is read.
pub struct File {
    pub path: PathBuf,
    pub len: u64,
    pub header: Option<SegmentHeader>,
    /// Batches at or above this stand in a later segment.
    pub void_from: u64,
}

/// The segment files of a log in order, without those that are void as a whole.
pub fn files(fs: &dyn Fs, dir: &Path) -> Result<Vec<File>, StoreError> {
    let entries = fs.list(dir).map_err(StoreError::io("list", dir))?;
    let mut named: Vec<_> = entries.iter().filter_map(|entry| Some((parse_segment_name(&entry.name)?, entry))).collect();
    named.sort_by_key(|((_, seq), _)| *seq);
    let (mut files, mut void_from) = (Vec::new(), u64::MAX);
    for ((base, seq), entry) in named.into_iter().rev() {
        if base >= void_from {
            continue;
        }
        let path = dir.join(&entry.name);
        let open = fs.open(&path, Mode::Read).map_err(StoreError::io("open", &path))?;
        let header = match SegmentHeader::read(&*open).map_err(StoreError::io("read", &path))? {
            Err(BadHeader::Newer(found)) => return Err(StoreError::Newer { path, found, known: VERSION }),
            header => header.ok().filter(|header| header.seq == seq),
        };
        files.push(File { path, len: entry.len, header, void_from });
        void_from = header.map_or(void_from, |header| header.base.min(void_from));
    }
    files.reverse();
    Ok(files)
}
