//! Records that are too large even for the dead letters: whole, in a file of the data directory each; the letter names it.
//!
//! ```text
//! DATA_DIR/dead/{source, / as %2F}/{seq}.record
//! file = "MLRD" | u8 version | u32 length of key | u32 of headers | u32 of value | key | headers | value     u32::MAX: none; little-endian
//! ```
//!
//! Written and synced before its letter is sent. Nothing here deletes a file but a replay that has sent it; beyond [`ROOM`] nothing more is kept,
//! and the source waits, as it does where its log is full.

use millrace_config::Reason;
use millrace_schemas::headers;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Names the file, on the machine that the source ran on.
pub const FILE: &str = "millrace.payload.file";
/// SHA-256 of the whole file, in hexadecimal digits.
pub const DIGEST: &str = "millrace.payload.sha256";
/// All kept records together, in bytes.
const ROOM: u64 = 4 << 30;
/// No record of a log is as large.
const LARGEST: u64 = 1 << 30;
const EXTENSION: &str = "record";
const MARK: &[u8; 5] = b"MLRD\x01";
const NONE: u32 = u32::MAX;

/// The folder of kept records.
#[derive(Clone, Debug)]
pub struct KeptRecords {
    dir: PathBuf,
    room: u64,
}

/// A record as it was to be sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whole<'a> {
    pub key: Option<&'a [u8]>,
    /// In the layout of `millrace_schemas::headers`.
    pub headers: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// Where a record is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub path: String,
    pub sha256: String,
}

impl KeptRecords {
    pub fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("dead"), room: ROOM }
    }

    /// Writes a record and waits until it is on the disk. Once more with the same `seq` is the same file.
    ///
    /// Errors: there is no room, or the disk fails; for a person.
    pub fn keep(&self, source: &str, seq: u64, record: &Whole<'_>) -> Result<Kept, Reason> {
        let dir = self.dir.join(source.replace('/', "%2F"));
        let path = dir.join(format!("{seq}.{EXTENSION}"));
        let bytes = encode(record);
        let used = used(&self.dir).saturating_sub(path.metadata().map_or(0, |m| m.len()));
        if used + bytes.len() as u64 > self.room {
            return Err(format!(
                "{} holds {used} bytes of records that Kafka refused, of {} at most: replay them, or move them away",
                self.dir.display(),
                self.room
            )
            .into());
        }
        let write = || {
            std::fs::create_dir_all(&dir)?;
            let part = dir.join(format!("{seq}.part"));
            let mut file = std::fs::File::create(&part)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&part, &path)?;
            std::fs::File::open(&dir)?.sync_all()
        };
        write().map_err(|error: std::io::Error| format!("cannot keep a record that Kafka refused in {}: {error}", path.display()))?;
        Ok(Kept { path: path.display().to_string(), sha256: digest(&bytes) })
    }
}

/// Reads a kept record back into memory that it borrows from.
///
/// Whoever can write letters names the file: it is read only if it can be one of ours.
///
/// Errors: the file is not here, or not what was written; for a person.
pub fn read(path: &str, sha256: &str) -> Result<Vec<u8>, Reason> {
    let found = std::fs::symlink_metadata(path).map_err(|error| format!("is kept in {path}, which can't be read here: {error}"))?;
    if !found.is_file() || found.len() > LARGEST || Path::new(path).extension().is_none_or(|extension| extension != EXTENSION) {
        return Err(format!("is kept in {path}, which is no file of kept records").into());
    }
    let bytes = std::fs::read(path).map_err(|error| format!("is kept in {path}, which can't be read here: {error}"))?;
    if digest(&bytes) != sha256 {
        return Err(format!("is kept in {path}, which is not what was written there").into());
    }
    Ok(bytes)
}

/// What a file holds; `None`: it is none of ours.
pub fn decode(bytes: &[u8]) -> Option<Whole<'_>> {
    let mut rest = bytes.strip_prefix(MARK)?;
    let mut lens = [0; 3];
    for len in &mut lens {
        let (four, behind) = rest.split_first_chunk::<4>()?;
        (*len, rest) = (u32::from_le_bytes(*four), behind);
    }
    let mut take = |len: u32| {
        if len == NONE {
            return Some(None);
        }
        let (taken, behind) = rest.split_at_checked(len as usize)?;
        rest = behind;
        Some(Some(taken))
    };
    let [key, own, value] = lens;
    Some(Whole { key: take(key)?, headers: take(own)?.unwrap_or_default(), value: take(value)? })
}

impl Whole<'_> {
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        headers(self.headers)
    }
}

fn encode(record: &Whole<'_>) -> Vec<u8> {
    let parts = [record.key, Some(record.headers), record.value];
    let mut bytes = MARK.to_vec();
    for part in parts {
        bytes.extend_from_slice(&part.map_or(NONE, |p| p.len() as u32).to_le_bytes());
    }
    parts.iter().flatten().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

fn digest(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of all files two levels below.
fn used(dir: &Path) -> u64 {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries(dir).flat_map(|source| entries(&source.path())).filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::push_header;

    #[test]
    fn a_record_comes_back_whole_and_a_changed_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut own = Vec::new();
        push_header(&mut own, "a", Some(b"1"));
        push_header(&mut own, "b", None);
        let records = KeptRecords::new(dir.path());
        for (seq, (key, value)) in
            [(None, None), (Some(&b"k"[..]), Some(&b""[..])), (Some(&b""[..]), Some(&[7; 70_000][..]))].into_iter().enumerate()
        {
            let whole = Whole { key, headers: &own, value };
            let kept = records.keep("acme/plant/a", seq as u64, &whole).unwrap();
            assert_eq!(records.keep("acme/plant/a", seq as u64, &whole).unwrap(), kept);
            let bytes = read(&kept.path, &kept.sha256).unwrap();
            assert_eq!(decode(&bytes), Some(whole));
            assert_eq!((1..bytes.len()).find(|end| decode(&bytes[..*end]).is_some_and(|w| w == whole)), None);
            std::fs::write(&kept.path, &bytes[1..]).unwrap();
            assert!(read(&kept.path, &kept.sha256).unwrap_err().contains("not what was written"));
        }
    }

    /// A letter is written by whoever may write to its topic: what it names may have no end, or be nobody's business.
    #[test]
    fn a_letter_cannot_have_any_file_read() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("1.record");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for path in ["/dev/zero", "/etc/passwd", &dir.path().display().to_string(), &link.display().to_string()] {
            assert!(read(path, "").unwrap_err().contains("no file of kept records"), "{path}");
        }
    }

    #[test]
    fn beyond_its_room_nothing_is_kept_and_nothing_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let records = KeptRecords { room: 1_000, ..KeptRecords::new(dir.path()) };
        let whole = Whole { key: None, headers: &[], value: Some(&[1; 900]) };
        let kept = records.keep("a/b/c", 1, &whole).unwrap();
        assert!(records.keep("a/b/d", 2, &whole).unwrap_err().contains("replay them"));
        assert!(read(&kept.path, &kept.sha256).is_ok());
    }
}
