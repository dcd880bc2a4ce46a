//! Where a file is read up to, and whether a file is still the one that was read.
//!
//! A name says little: files are renamed, truncated, replaced, copied. An inode says more, until it is used again. So a position also carries
//! two fingerprints of what was read; only a file that shows both again is read on, any other is read from its start.
//!
//! ```text
//! file   |<- head: up to 1 KiB ->|......................|<- tail: up to 256 B ->|  not read yet ...
//!        0                                                                   offset
//! ```

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

const HEAD_BYTES: u64 = 1024;
const TAIL_BYTES: u64 = 256;

/// Whether a name says that the file is compressed.
pub fn is_gzip(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

/// A file on a file system: device and inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// The key of its position.
    pub fn key(self) -> String {
        format!("{:x}-{:x}", self.device, self.inode)
    }

    pub fn from_key(key: &str) -> Option<Self> {
        let (device, inode) = key.split_once('-')?;
        Some(Self { device: u64::from_str_radix(device, 16).ok()?, inode: u64::from_str_radix(inode, 16).ok()? })
    }
}

/// How far a file is read. Kept with the data, as JSON.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    pub path: PathBuf,
    /// Bytes read: whole records only. In a compressed file they are counted decompressed.
    pub offset: u64,
    /// Lines read, for people.
    pub line: u64,
    head: Fingerprint,
    tail: Fingerprint,
    /// The file's own time of its last change when it was read, seconds since 1970: which forgotten file is the oldest.
    pub changed: i64,
    /// Read to the end, and nothing more is expected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
    /// A declared column is not in it: it is neither deleted nor moved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// The last record had no newline: where it begins, and its line. If the file grows after all, it is read again from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<(u64, u64)>,
    /// The size on disk where offsets count something else: compressed, or two bytes a character.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_size: Option<u64>,
}

/// How far a file is read, for whoever shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadUpTo {
    pub path: PathBuf,
    /// Bytes of the file on the disk; `None`: it is compressed, or two bytes a character, and not done.
    pub bytes: Option<u64>,
    pub lines: u64,
    pub is_done: bool,
}

impl ReadUpTo {
    /// Out of a position that the source sent; `None`: it is none of a file.
    pub fn of(key: &str, value: &[u8]) -> Option<Self> {
        FileId::from_key(key)?;
        let position = Position::decode(value)?;
        let bytes = match position.disk_size {
            None => Some(position.offset),
            whole => whole.filter(|_| position.done),
        };
        Some(Self { path: position.path, bytes, lines: position.line, is_done: position.done })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Fingerprint {
    bytes: u64,
    hash: u64,
}

impl Fingerprint {
    fn of(file: &File, start: u64, bytes: u64) -> io::Result<Self> {
        if bytes == 0 {
            return Ok(Self::default());
        }
        let mut buffer = vec![0; bytes as usize];
        file.read_exact_at(&mut buffer, start)?;
        Ok(Self::hash(&buffer))
    }

    fn hash(buffer: &[u8]) -> Self {
        if buffer.is_empty() {
            return Self::default();
        }
        // FNV-1a: told apart are honest files, not forged ones.
        let hash = buffer.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3));
        Self { bytes: buffer.len() as u64, hash }
    }
}

impl Position {
    pub fn at_start(path: PathBuf) -> Self {
        Self { path, ..Self::default() }
    }

    /// Takes the fingerprints of what is read now. `raw_offset` is in the file as it lies on disk.
    pub fn fingerprint(&mut self, file: &File, raw_offset: u64) -> io::Result<()> {
        let head = raw_offset.min(HEAD_BYTES);
        if self.head.bytes != head {
            self.head = Fingerprint::of(file, 0, head)?;
        }
        let tail = raw_offset.min(TAIL_BYTES);
        self.tail = Fingerprint::of(file, raw_offset - tail, tail)?;
        Ok(())
    }

    /// Whether the file shows what was read. `raw_offset` as in [`Self::fingerprint`].
    pub fn matches(&self, file: &File, raw_offset: u64) -> io::Result<bool> {
        if file.metadata()?.len() < raw_offset {
            return Ok(false);
        }
        let same = |kept: Fingerprint, start: u64| match Fingerprint::of(file, start, kept.bytes) {
            Ok(now) => Ok(now == kept),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        };
        Ok(same(self.head, 0)? && same(self.tail, raw_offset.saturating_sub(self.tail.bytes))?)
    }

    /// How much of the file's head is known.
    pub fn head_bytes(&self) -> u64 {
        self.head.bytes
    }

    /// Whether a compressed file holds what was read of this one before it was compressed.
    pub fn matches_gzip(&self, file: &File) -> io::Result<bool> {
        let mut decoder = MultiGzDecoder::new(file);
        let mut head = vec![0; self.head.bytes as usize];
        match decoder.read_exact(&mut head) {
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput) => return Ok(false),
            other => other?,
        }
        if Fingerprint::hash(&head) != self.head {
            return Ok(false);
        }
        let mut tail = vec![0; self.tail.bytes as usize];
        if self.offset < self.head.bytes + self.tail.bytes {
            let mut all = head;
            io::Read::by_ref(&mut decoder).take(self.offset - self.head.bytes).read_to_end(&mut all)?;
            return Ok(all.len() as u64 == self.offset && Fingerprint::hash(&all[all.len() - tail.len()..]) == self.tail);
        }
        let between = self.offset - self.head.bytes - self.tail.bytes;
        if io::copy(&mut io::Read::by_ref(&mut decoder).take(between), &mut io::sink())? < between {
            return Ok(false);
        }
        Ok(decoder.read_exact(&mut tail).is_ok() && Fingerprint::hash(&tail) == self.tail)
    }

    /// Read to the end, and unchanged since.
    pub fn is_done(&self, path: &Path, metadata: &std::fs::Metadata) -> bool {
        let has_its_size = is_gzip(path) || self.disk_size.unwrap_or(self.offset) == metadata.size();
        self.done && has_its_size && self.changed == metadata.mtime() && self.path == path
    }

    pub fn encode(&self) -> Vec<u8> {
        // A struct of numbers and a path that came from UTF-8 or is shown lossy: it always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn read_up_to(content: &[u8], offset: u64) -> Position {
        let mut position = Position::at_start("a.csv".into());
        position.offset = offset;
        position.fingerprint(&file(content), offset).unwrap();
        Position::decode(&position.encode()).unwrap()
    }

    #[test]
    fn a_file_that_only_grew_is_the_same() {
        for (read, now) in [("", "a\n"), ("a\nb\n", "a\nb\nc\n")] {
            let position = read_up_to(read.as_bytes(), read.len() as u64);
            assert!(position.matches(&file(now.as_bytes()), position.offset).unwrap());
        }
    }

    #[test]
    fn a_shorter_or_other_file_is_not() {
        let long = (0..500).map(|i| format!("{i},header,header\n")).collect::<String>();
        let position = read_up_to(long.as_bytes(), long.len() as u64);
        assert!(!position.matches(&file(b""), position.offset).unwrap());
        let mut other_tail = long.clone().into_bytes();
        let at = other_tail.len() - 5;
        other_tail[at] = b'X';
        assert!(!position.matches(&file(&other_tail), position.offset).unwrap(), "the same head is not enough");
        let other_head = long.replacen("0,header", "Z,header", 1);
        assert!(!position.matches(&file(other_head.as_bytes()), position.offset).unwrap());
    }

    #[test]
    fn a_key_names_its_file() {
        let id = FileId { device: 0xfe01, inode: 12345 };
        assert_eq!(FileId::from_key(&id.key()), Some(id));
        assert_eq!(FileId::from_key("cursor"), None);
    }
}
