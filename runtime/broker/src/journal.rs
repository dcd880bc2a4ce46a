//! A durable map of bytes to bytes on a log: what the broker must remember beside records.
//!
//! A change is one batch of entries, all or nothing; at the start the log is read from its beginning and the last entry of a key counts. When
//! the log has grown to a multiple of what lives, all that lives is written again and the segments before it go. The map is held in memory: it is
//! for topics, producer ids, transactions and committed offsets, not for records.
//!
//! ```text
//! batch   entry | entry | ...      entry   key len 4 | key | 1 | value len 4 | value      or   key len 4 | key | 0   (the key is forgotten)
//! ```

use std::collections::BTreeMap;

use millrace_log::{AppendError, LogOptions, ReadBuf, ReadError, Store, StoreError};
use parking_lot::Mutex;

use crate::synced::SyncedLog;
use crate::wire::{Reader, Writer};

const SEGMENT: u64 = 1 << 20;
/// The log may grow to this many times what lives, and to [`SEGMENT`] at least.
const SLACK: u64 = 4;
/// Entries of a rewrite go in batches of about this size.
const PIECE: usize = 256 << 10;

pub struct Journal {
    log: SyncedLog,
    state: Mutex<State>,
}

struct State {
    live: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes of the entries that live.
    live_bytes: u64,
    /// Bytes appended since all of it was last written.
    since: u64,
}

/// Why a journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the journal {0} holds an entry that this program cannot read; it was written by another release")]
    Entry(String),
}

impl Journal {
    /// Opens or creates the journal `name`; the name may not end in `-` and digits, which are partitions.
    pub fn open(store: &Store, name: &str) -> Result<Self, JournalError> {
        // On a disk that is full of records topics can still be deleted, offsets committed, transactions ended.
        let options = LogOptions { segment_bytes: SEGMENT, uses_kept_free: true, ..LogOptions::default() };
        let (log, _) = SyncedLog::open(store, name, options)?;
        let mut state = State { live: BTreeMap::new(), live_bytes: 0, since: log.bytes() };
        let (mut buf, mut at) = (ReadBuf::new(), 0);
        while log.read(at, PIECE, &mut buf)? > 0 {
            for batch in buf.batches() {
                state.replay(batch.payload).ok_or_else(|| JournalError::Entry(name.to_owned()))?;
                at = batch.next;
            }
        }
        Ok(Self { log, state: Mutex::new(state) })
    }

    /// Calls `see` with each entry, in order of the keys. `see` does not come back to the journal.
    pub fn each(&self, mut see: impl FnMut(&[u8], &[u8])) {
        self.state.lock().live.iter().for_each(|(key, value)| see(key, value));
    }

    /// Writes entries, all or nothing; `None` forgets the key. Survives kill -9 at once, and a power cut when [`Journal::reach`] has
    /// returned for the offset it gives.
    pub fn put(&self, entries: &[(&[u8], Option<&[u8]>)]) -> Result<u64, AppendError> {
        let mut state = self.state.lock();
        let mut batch = Writer::default();
        entries.iter().for_each(|(key, value)| write_entry(&mut batch, key, *value));
        let next = self.append(&mut state, &batch.0, entries.len() as u32)?;
        for (key, value) in entries {
            state.apply(key, *value);
        }
        if state.since > SEGMENT.max(state.live_bytes * SLACK) {
            // What lives is in the old segments still: a failure costs room, nothing else.
            if let Err(e) = self.rewrite(&mut state) {
                tracing::warn!(journal = self.log.name(), "cannot rewrite the journal: {e}");
            }
        }
        Ok(next)
    }

    /// Waits until everything below `offset` is on the disk. False: the broker stops.
    pub async fn reach(&self, offset: u64) -> bool {
        self.log.reach(offset).await
    }

    /// As [`Journal::reach`], for one of several steps that wait for each other.
    pub async fn reach_at_once(&self, offset: u64) -> bool {
        self.log.reach_at_once(offset).await
    }

    /// Offset behind all that is written by now.
    pub fn end(&self) -> u64 {
        self.log.end()
    }

    fn append(&self, state: &mut State, batch: &[u8], entries: u32) -> Result<u64, AppendError> {
        let first = self.log.end();
        let appended = self.log.append(first, first + 1, entries, &[batch])?;
        state.since += appended.bytes;
        Ok(appended.next)
    }

    /// Writes all that lives again, syncs it, and lets the segments before it go.
    fn rewrite(&self, state: &mut State) -> Result<(), Box<dyn std::error::Error>> {
        let first = self.log.end();
        let live = std::mem::take(&mut state.live);
        let written = self.write_all(state, &live);
        state.live = live;
        written?;
        self.log.sync()?;
        self.log.delete_below(first)?;
        state.since = self.log.bytes();
        Ok(())
    }

    fn write_all(&self, state: &mut State, live: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<(), AppendError> {
        let (mut batch, mut entries) = (Writer::default(), 0);
        for (key, value) in live {
            write_entry(&mut batch, key, Some(value));
            entries += 1;
            if batch.0.len() >= PIECE {
                self.append(state, &batch.0, entries)?;
                (batch, entries) = (Writer::default(), 0);
            }
        }
        if entries > 0 {
            self.append(state, &batch.0, entries)?;
        }
        Ok(())
    }
}

fn write_entry(batch: &mut Writer, key: &[u8], value: Option<&[u8]>) {
    batch.bytes(key);
    match value {
        Some(value) => batch.u8(1).bytes(value),
        None => batch.u8(0),
    };
}

impl State {
    fn replay(&mut self, batch: &[u8]) -> Option<()> {
        let mut reader = Reader(batch);
        while !reader.is_empty() {
            let key = reader.bytes()?;
            let value = match reader.u8()? {
                0 => None,
                1 => Some(reader.bytes()?),
                _ => return None,
            };
            self.apply(key, value);
        }
        Some(())
    }

    fn apply(&mut self, key: &[u8], value: Option<&[u8]>) {
        let size = |value: &[u8]| (key.len() + value.len() + 9) as u64;
        let old = match value {
            Some(value) => {
                self.live_bytes += size(value);
                self.live.insert(key.to_vec(), value.to_vec())
            }
            None => self.live.remove(key),
        };
        self.live_bytes -= old.map_or(0, |old| size(&old));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_log::StoreOptions;

    fn store(dir: &std::path::Path) -> Store {
        Store::open(dir, StoreOptions::default()).unwrap()
    }

    fn entries(journal: &Journal) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        journal.each(|key, value| out.push((text(key), text(value))));
        out
    }

    #[test]
    fn the_last_entry_of_a_key_counts_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let expected = [("a".to_owned(), "2".to_owned()), ("c".to_owned(), String::new())];
        {
            let store = store(dir.path());
            let journal = Journal::open(&store, "topics").unwrap();
            journal.put(&[(b"a", Some(b"1")), (b"b", Some(b"1"))]).unwrap();
            journal.put(&[(b"a", Some(b"2")), (b"b", None), (b"c", Some(b""))]).unwrap();
            assert_eq!(entries(&journal), expected);
        }
        let store = store(dir.path());
        assert_eq!(entries(&Journal::open(&store, "topics").unwrap()), expected);
    }

    #[test]
    fn a_journal_stays_small_however_often_its_keys_change() {
        let dir = tempfile::tempdir().unwrap();
        let value = vec![b'v'; 10_000];
        {
            let store = store(dir.path());
            let journal = Journal::open(&store, "offsets").unwrap();
            for i in 0..2_000 {
                journal.put(&[(format!("key {}", i % 7).as_bytes(), Some(&value)), (b"last", Some(i.to_string().as_bytes()))]).unwrap();
            }
            assert!(journal.log.bytes() < 4 * SEGMENT, "20 MB were written, {} bytes are kept", journal.log.bytes());
        }
        let store = store(dir.path());
        let journal = Journal::open(&store, "offsets").unwrap();
        assert!(entries(&journal).contains(&("last".to_owned(), "1999".to_owned())));
        assert_eq!(entries(&journal).len(), 8);
    }
}
