//! The file of a source's positions: a short cut, so that a start need not read whole logs.
//!
//! ```text
//! "millrace positions 1\n" | u32 crc32c of the rest | u64 end of each lane | u32 n | n times: u32 length key, u32 length value
//! ```
//!
//! Replaced as a whole (write, sync, rename); the version before is kept as `positions.old`. Where the file is damaged the older version, or none, is the
//! beginning: what moved since is in the log, or, where its segments are reclaimed, in Kafka. A position is never guessed.

use crate::source_logs::Positions;
use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::Path;

const MAGIC: &[u8] = b"millrace positions 1\n";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    pub positions: Positions,
    /// Each lane's end: batches from there on may move them further.
    pub ends: [u64; 3],
    /// The newest version is lost: Kafka may know later positions than these and the log.
    pub is_behind: bool,
}

/// Reads the file, or the version before if it is damaged; `None` if there is neither.
///
/// Errors: a file was written by a later release.
pub fn load(path: &Path) -> Result<Option<Saved>> {
    let mut is_behind = false;
    for path in [path, &old_of(path)] {
        match std::fs::read(path).and_then(|bytes| decode(&bytes)) {
            Ok(saved) => return Ok(Some(Saved { is_behind, ..saved })),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) if e.kind() == ErrorKind::Unsupported => return Err(e),
            Err(e) => {
                tracing::error!(path = %path.display(), "a file of positions is damaged: {e}; positions come from the version before, the log and Kafka, and some data may be read again");
                is_behind = true;
            }
        }
    }
    Ok(is_behind.then(|| Saved { is_behind, ..Saved::default() }))
}

/// Writes the file and keeps the version before.
pub fn save(path: &Path, saved: &Saved) -> Result<()> {
    let old = old_of(path);
    if std::fs::read(path).is_ok_and(|bytes| decode(&bytes).is_ok()) {
        let _ = std::fs::remove_file(&old);
        // Without links the new file alone has to do.
        let _ = std::fs::hard_link(path, &old);
    }
    replace(path, &encode(saved))
}

fn old_of(path: &Path) -> std::path::PathBuf {
    path.with_extension("old")
}

/// Replaces a small file as a whole, durably.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn encode(saved: &Saved) -> Vec<u8> {
    let mut body = Vec::new();
    for end in saved.ends {
        body.extend_from_slice(&end.to_le_bytes());
    }
    body.extend_from_slice(&(saved.positions.len() as u32).to_le_bytes());
    for (key, value) in &saved.positions {
        for bytes in [key.as_bytes(), value] {
            body.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            body.extend_from_slice(bytes);
        }
    }
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

fn decode(bytes: &[u8]) -> Result<Saved> {
    let damaged = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err(if is_newer(bytes) {
            Error::new(ErrorKind::Unsupported, "the positions were written by a later release; use that release")
        } else {
            damaged("not a positions file of version 1")
        });
    };
    let (crc, body) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("file is cut short"))?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
        return Err(damaged("checksum does not match"));
    }
    let mut at = body;
    let mut take = |len: usize| {
        let (taken, rest) = at.split_at_checked(len).ok_or_else(|| damaged("file is cut short"))?;
        at = rest;
        Ok::<_, Error>(taken)
    };
    let mut saved = Saved::default();
    for end in &mut saved.ends {
        *end = u64::from_le_bytes(take(8)?.try_into().expect("eight bytes"));
    }
    let count = u32::from_le_bytes(take(4)?.try_into().expect("four bytes"));
    for _ in 0..count {
        let len = u32::from_le_bytes(take(4)?.try_into().expect("four bytes"));
        let key = String::from_utf8(take(len as usize)?.to_vec()).map_err(|_| damaged("a key is not UTF-8"))?;
        let len = u32::from_le_bytes(take(4)?.try_into().expect("four bytes"));
        saved.positions.insert(key, take(len as usize)?.to_vec());
    }
    Ok(saved)
}

/// Whether bytes are a positions file of a later version: its first line says so, and the checksum, which covers that line from version 2 on, holds.
fn is_newer(bytes: &[u8]) -> bool {
    let end = bytes.iter().take(40).position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (head, rest) = bytes.split_at(end);
    head.starts_with(b"millrace positions ")
        && rest
            .split_first_chunk::<4>()
            .is_some_and(|(crc, body)| u32::from_le_bytes(*crc) == crc32c::crc32c_append(crc32c::crc32c(head), body))
        && std::str::from_utf8(&head[19..]).is_ok_and(|version| version.trim_end().parse::<u32>().is_ok_and(|version| version > 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back_and_of_a_damaged_file_the_version_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("positions");
        assert_eq!(load(&path).unwrap(), None);
        let old = Saved { positions: [("a".to_owned(), vec![1, 2]), ("b".to_owned(), vec![])].into(), ends: [1, 2, 3], is_behind: false };
        let new = Saved { ends: [4, 5, 6], ..old.clone() };
        save(&path, &old).unwrap();
        assert_eq!(load(&path).unwrap(), Some(old.clone()));
        save(&path, &new).unwrap();
        assert_eq!(load(&path).unwrap(), Some(new.clone()));
        let bytes = std::fs::read(&path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, flipped).unwrap();
            assert_eq!(load(&path).unwrap(), Some(Saved { is_behind: true, ..old.clone() }), "bit {bit}");
        }
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert_eq!(load(&path).unwrap(), Some(Saved { is_behind: true, ..old.clone() }), "{len} bytes");
        }
        let body = &bytes[MAGIC.len() + 4..];
        let head = b"millrace positions 2\n";
        let crc = crc32c::crc32c_append(crc32c::crc32c(head), body).to_le_bytes();
        std::fs::write(&path, [&head[..], &crc, body].concat()).unwrap();
        assert_eq!(load(&path).unwrap_err().kind(), ErrorKind::Unsupported);
        // What is damaged never becomes the version before.
        save(&path, &new).unwrap();
        std::fs::write(&path, b"").unwrap();
        assert_eq!(load(&path).unwrap(), Some(Saved { is_behind: true, ..old }));
        std::fs::remove_file(old_of(&path)).unwrap();
        assert_eq!(load(&path).unwrap(), Some(Saved { is_behind: true, ..Saved::default() }));
    }
}
