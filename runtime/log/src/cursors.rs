//! Cursors on disk: how far each reader has come, and what was dropped behind its back.
//!
//! Two files, `cursors.0` and `cursors.1`, are written in turn, in place; the valid one with the higher generation counts. So a torn write
//! leaves the other, and on a full disk cursors can be saved (and segments reclaimed) because the blocks are there already.
//!
//! ```text
//! file      0  magic "MILLRCUR"  8      8  version  4     12  body len  4     16  crc32c of all but itself  4     20  body | padding to 4 KiB
//! body      0  generation        8      8  synced   8     16  dropped   8     24  cursors             4     28  cursor | cursor | ...
//! cursor    offset 8 | name len 4 | note len 4 | name | note
//! end       total    8 (a file without it is of an early version)
//! padding   front: seq 8 | total 8 | crc32c 4 (zero: unknown)
//! ```
//!
//! `front`: the first segment that was not deleted on purpose, and the records appended before it. It stands in the padding, which early versions skip.
//! `synced`: everything below was on the disk when this was saved; `total`: records appended up to there since the log was created.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::format::{u32_at, u64_at};
use crate::fs::{Fs, Mode};

const MAGIC: [u8; 8] = *b"MILLRCUR";
const VERSION: u32 = 1;
const HEAD: usize = 20;
const PAGE: usize = 4096;
/// Largest cursor file that is read.
const MOST: u64 = 256 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub offset: u64,
    pub note: Vec<u8>,
}

/// All that the cursor file of a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursors {
    pub generation: u64,
    pub synced: u64,
    pub dropped: u64,
    /// Records appended below `synced`; 0: unknown.
    pub total: u64,
    /// Sequence number of the first segment that was not deleted on purpose, and the records appended before it.
    pub front: Option<(u64, u64)>,
    pub by_name: BTreeMap<String, Cursor>,
}

/// Why bytes are no cursors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadCursors {
    Newer(u32),
    Corrupt,
}

impl Cursors {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEAD];
        for field in [self.generation, self.synced, self.dropped] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&(self.by_name.len() as u32).to_le_bytes());
        for (name, cursor) in &self.by_name {
            out.extend_from_slice(&cursor.offset.to_le_bytes());
            out.extend_from_slice(&(name.len() as u32).to_le_bytes());
            out.extend_from_slice(&(cursor.note.len() as u32).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&cursor.note);
        }
        out.extend_from_slice(&self.total.to_le_bytes());
        let body = (out.len() - HEAD) as u32;
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&body.to_le_bytes());
        let crc = checksum(&out[..16], &out[HEAD..]);
        out[16..20].copy_from_slice(&crc.to_le_bytes());
        if let Some((seq, total)) = self.front {
            let front = [seq.to_le_bytes(), total.to_le_bytes()].concat();
            out.extend_from_slice(&front);
            out.extend_from_slice(&crc32c::crc32c_append(crc, &front).to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(PAGE), 0);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, BadCursors> {
        use BadCursors::{Corrupt, Newer};
        let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or(Corrupt)?;
        if head[..8] != MAGIC {
            return Err(Corrupt);
        }
        let (body, padding) = rest.split_at_checked(u32_at(head, 12) as usize).ok_or(Corrupt)?;
        let crc = u32_at(head, 16);
        if checksum(&head[..16], body) != crc {
            return Err(Corrupt);
        }
        match u32_at(head, 8) {
            VERSION => {
                let mut cursors = Self::decode_body(body).ok_or(Corrupt)?;
                let front = padding.first_chunk::<20>().filter(|front| crc32c::crc32c_append(crc, &front[..16]) == u32_at(&front[..], 16));
                cursors.front = front.map(|front| (u64_at(front, 0), u64_at(front, 8)));
                Ok(cursors)
            }
            version if version > VERSION => Err(Newer(version)),
            _ => Err(Corrupt),
        }
    }

    fn decode_body(body: &[u8]) -> Option<Self> {
        let (head, mut rest) = body.split_first_chunk::<28>()?;
        let mut cursors = Self { generation: u64_at(head, 0), synced: u64_at(head, 8), dropped: u64_at(head, 16), ..Self::default() };
        for _ in 0..u32_at(head, 24) {
            let (head, tail) = rest.split_first_chunk::<16>()?;
            let (name, tail) = tail.split_at_checked(u32_at(head, 8) as usize)?;
            let (note, tail) = tail.split_at_checked(u32_at(head, 12) as usize)?;
            let name = std::str::from_utf8(name).ok()?.to_owned();
            cursors.by_name.insert(name, Cursor { offset: u64_at(head, 0), note: note.to_vec() });
            rest = tail;
        }
        if let Some((total, tail)) = rest.split_first_chunk::<8>() {
            (cursors.total, rest) = (u64::from_le_bytes(*total), tail);
        }
        rest.is_empty().then_some(cursors)
    }

    pub fn slowest(&self) -> Option<u64> {
        self.by_name.values().map(|cursor| cursor.offset).min()
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), body)
}

/// The two files of a log's cursors.
pub struct CursorFiles {
    dir: PathBuf,
    generation: u64,
    /// The file whose last write failed: it gets new blocks before it is trusted again.
    distrusted: bool,
}

impl CursorFiles {
    /// Reads the cursors of a log. Corrupt files count as none, and as a problem that the caller reports.
    pub fn load(fs: &dyn Fs, dir: &Path) -> Result<(Self, Cursors, Option<PathBuf>), StoreError> {
        let (mut best, mut corrupt) = (None::<Cursors>, Vec::new());
        for slot in 0..2 {
            let path = slot_path(dir, slot);
            let bytes = match read(fs, &path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(StoreError::io("read", &path)(e)),
            };
            match Cursors::decode(&bytes) {
                Ok(cursors) => best = best.filter(|b| b.generation > cursors.generation).or(Some(cursors)),
                Err(BadCursors::Newer(found)) => return Err(StoreError::Newer { path, found, known: VERSION }),
                Err(BadCursors::Corrupt) => corrupt.push(path),
            }
        }
        // A torn write of one file is what the other is for; one alone was being written for the first time.
        let lost = corrupt.pop().filter(|_| best.is_none() && !corrupt.is_empty());
        let cursors = best.unwrap_or_default();
        Ok((Self { dir: dir.to_path_buf(), generation: cursors.generation, distrusted: false }, cursors, lost))
    }

    /// Makes cursors durable.
    pub fn save(&mut self, fs: &dyn Fs, cursors: &mut Cursors) -> Result<(), StoreError> {
        cursors.generation = self.generation + 1;
        let path = slot_path(&self.dir, cursors.generation % 2);
        let written = self.write(fs, &path, &cursors.encode());
        self.distrusted = written.is_err();
        written.map_err(StoreError::io("save cursors in", &path))?;
        self.generation = cursors.generation;
        Ok(())
    }

    fn write(&self, fs: &dyn Fs, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.distrusted {
            let _ = fs.remove(path);
        }
        let (file, created) = match fs.open(path, Mode::Write) {
            Ok(file) => (file, false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => (fs.open(path, Mode::New)?, true),
            Err(e) => return Err(e),
        };
        file.write_all_at(0, bytes)?;
        file.sync_data()?;
        if created { fs.sync_dir(&self.dir) } else { Ok(()) }
    }
}

fn slot_path(dir: &Path, slot: u64) -> PathBuf {
    dir.join(format!("cursors.{slot}"))
}

fn read(fs: &dyn Fs, path: &Path) -> io::Result<Vec<u8>> {
    let file = fs.open(path, Mode::Read)?;
    let mut bytes = vec![0; file.len()?.min(MOST) as usize];
    let n = file.read_full_at(0, &mut bytes)?;
    bytes.truncate(n);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Cursors {
        let cursor = |offset, note: &[u8]| Cursor { offset, note: note.to_vec() };
        let by_name = [("kafka".to_owned(), cursor(7, b"note")), (String::new(), cursor(u64::MAX, b""))].into();
        Cursors { generation: 3, synced: 9, dropped: 2, total: 5, front: Some((7, 4)), by_name }
    }

    #[test]
    fn cursors_come_back_as_saved() {
        assert_eq!(Cursors::decode(&some().encode()), Ok(some()));
        assert_eq!(some().encode().len() % PAGE, 0);
    }

    #[test]
    fn no_flipped_bit_of_a_cursor_file_goes_unnoticed() {
        let bytes = some().encode();
        let used = HEAD + u32_at(&bytes, 12) as usize;
        for bit in 0..(used + 20) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < used * 8 { Err(BadCursors::Corrupt) } else { Ok(Cursors { front: None, ..some() }) };
            assert_eq!(Cursors::decode(&flipped), expected, "bit {bit}");
        }
    }
}
