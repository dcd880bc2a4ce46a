//! Gives back to a log what files set aside earlier still hold.
//!
//! A disk reads again what it could not read, a good copy took the damaged file's name, an earlier release set aside more than it had to: a batch
//! that is intact in such a file, and whose offsets are free in the segment of the same name, takes its place again. The file stays where it is.

use crate::error::StoreError;
use crate::format::{BATCH_HEADER, BatchHeader, Footer, SEGMENT_HEADER, SegmentHeader, parse_segment_name};
use crate::fs::{Fs, Mode};
use crate::on_disk::{File, files};
use crate::report::Salvaged;
use crate::resync::rebuild_header;
use crate::rewrite::count;
use crate::scan::{Found, Scanner};
use crate::segment::Segment;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Offset of a batch -> the file it stands in (0: the segment itself), its position, its header.
type Places = BTreeMap<u64, (usize, u64, BatchHeader)>;

/// `passed`: below it nobody reads any more. The caller syncs the directory.
pub fn salvage(fs: &dyn Fs, dir: &Path, passed: Option<u64>) -> Result<Salvaged, StoreError> {
    let mut aside: BTreeMap<PathBuf, Vec<(PathBuf, u64)>> = BTreeMap::new();
    for entry in fs.list(dir).map_err(StoreError::io("list", dir))? {
        // `BASE-SEQ.quarantined`, `BASE-SEQ.1.quarantined`
        let name = entry.name.strip_suffix(".quarantined").and_then(|rest| rest.split('.').next()).map(|stem| format!("{stem}.seg"));
        if let Some(name) = name.filter(|name| parse_segment_name(name).is_some()) {
            aside.entry(dir.join(name)).or_default().push((dir.join(&entry.name), entry.len));
        }
    }
    let mut salvaged = Salvaged::default();
    for file in files(fs, dir)? {
        if let (Some(header), Some(aside)) = (file.header, aside.get(&file.path)) {
            give_back(fs, &file, header, aside, passed, &mut salvaged)
                .map_err(StoreError::io("salvage what was set aside of", &file.path))?;
        }
    }
    Ok(salvaged)
}

fn give_back(
    fs: &dyn Fs,
    file: &File,
    header: SegmentHeader,
    aside: &[(PathBuf, u64)],
    passed: Option<u64>,
    salvaged: &mut Salvaged,
) -> io::Result<()> {
    let mut scanners = vec![Scanner::new(fs.open(&file.path, Mode::Read)?, &header, file.len)];
    let (mut places, mut footer) = (Places::new(), None);
    while let Some(found) = scanners[0].next()? {
        match found {
            Found::Batch(pos, batch) => _ = places.insert(batch.first, (0, pos, batch)),
            Found::Footer(_, found) => footer = Some(found),
            Found::Hole(..) => {}
        }
    }
    let end = footer.map_or_else(|| places.values().map(|(.., batch)| batch.next()).max().unwrap_or(0), |footer| footer.next);
    let end = end.min(file.void_from);
    let before = salvaged.batches;
    for (path, len) in aside {
        let open = fs.open(path, Mode::Read)?;
        let old = match SegmentHeader::read(&*open)? {
            Ok(old) => old,
            Err(_) => match rebuild_header(&open, *len, header.base, header.seq)? {
                Some(Ok(old)) => old,
                _ => continue,
            },
        };
        let mut scanner = Scanner::new(open, &old, *len);
        while let Some(found) = scanner.next()? {
            let Found::Batch(pos, batch) = found else { continue };
            let is_free = places.range(..batch.next()).next_back().is_none_or(|(_, (.., other))| other.next() <= batch.first);
            if !is_free || batch.next() > end {
                continue;
            }
            if passed.is_some_and(|passed| batch.next() <= passed) {
                salvaged.passed += u64::from(batch.records);
                continue;
            }
            places.insert(batch.first, (scanners.len(), pos, batch));
            salvaged.batches += 1;
            salvaged.records += u64::from(batch.records);
        }
        scanners.push(scanner);
    }
    if salvaged.batches == before {
        return Ok(());
    }
    let temporary = file.path.with_extension("seg.tmp");
    let _ = fs.remove(&temporary);
    let written = write(fs, &temporary, header, &places, footer, &mut scanners);
    if written.is_err() {
        let _ = fs.remove(&temporary);
        return written;
    }
    fs.rename(&temporary, &file.path)
}

/// Writes a segment of batches that stand in several files.
fn write(
    fs: &dyn Fs,
    path: &Path,
    header: SegmentHeader,
    places: &Places,
    footer: Option<Footer>,
    scanners: &mut [Scanner],
) -> io::Result<()> {
    let new = fs.open(path, Mode::New)?;
    new.write_all_at(0, &header.encode())?;
    let (mut segment, mut bytes) = (Segment::empty(header), Vec::new());
    for (from, pos, batch) in places.values() {
        bytes.clear();
        bytes.resize(BATCH_HEADER, 0);
        bytes.extend_from_slice(scanners[*from].payload(*pos, batch)?);
        batch.seal(&mut bytes, header.salt);
        new.write_all_at(segment.len.max(SEGMENT_HEADER as u64), &bytes)?;
        count(&mut segment, batch);
    }
    if let Some(footer) = footer {
        segment.next = footer.next;
        new.write_all_at(segment.len, &segment.footer(footer.total).encode(header.salt))?;
    }
    new.sync_data()
}
