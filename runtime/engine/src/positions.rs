//! The file of a source's positions: a short cut, so that a start need not read whole logs.
//!
//! ```text
//! "millrace positions 1\n" | u32 crc32c of the rest | u64 end of each lane | u32 n | n times: u32 length key, u32 length value
//! ```
//!
//! Replaced as a whole (write, sync, rename). A damaged file is an error: guessing a position could skip data.

use crate::outlet::Positions;
use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::Path;

const MAGIC: &[u8] = b"millrace positions 1\n";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    pub positions: Positions,
    /// Each lane's end: batches from there on may move them further.
    pub ends: [u64; 3],
}

/// Reads the file; `None` if there is none.
pub fn load(path: &Path) -> Result<Option<Saved>> {
    match std::fs::read(path) {
        Ok(bytes) => decode(&bytes).map(Some),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

pub fn save(path: &Path, saved: &Saved) -> Result<()> {
    replace(path, &encode(saved))
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
    let damaged = |what: &str| Error::new(ErrorKind::InvalidData, format!("{what}; remove the file to start from the log alone"));
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("not a positions file of version 1"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back_and_a_flipped_byte_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("positions");
        assert_eq!(load(&path).unwrap(), None);
        let saved = Saved { positions: [("a".to_owned(), vec![1, 2]), ("b".to_owned(), vec![])].into(), ends: [1, 2, 3] };
        save(&path, &saved).unwrap();
        assert_eq!(load(&path).unwrap(), Some(saved));
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        bytes.push(0);
        std::fs::write(&path, bytes).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("checksum"));
    }
}
