//! A durable map of bytes to bytes on a log: what the broker must remember beside records.
//!
//! A change is one batch of entries, all or nothing; at the start the log is read from its beginning and the last entry of a key counts. When
//! the log has grown to a multiple of what lives, all that lives is written again and the segments before it go. The map is held in memory: it is
//! for topics, producer ids, transactions and committed offsets, not for records.
//!
//! What cannot be read is left out and counted, and the rest counts: whoever owns the journal finds out from [`Journal::is_damaged`] that entries may be
//! missing, and never takes a missing entry for one that was forgotten.
//!
//! ```text
//! batch   entry | entry | ...      entry   key len 4 | key | 1 | value len 4 | value      or   key len 4 | key | 0   (the key is forgotten)
//! ```

use std::collections::BTreeMap;

use millrace_log::{AppendError, LogOptions, ReadBuf, ReadError, Store, StoreError};
use parking_lot::Mutex;

use crate::storage::damage::Damage;
use crate::storage::synced::SyncedLog;
use crate::storage::wire::{Reader, Writer};

const SEGMENT: u64 = 1 << 20;
/// The log may grow to this many times what lives, and to [`SEGMENT`] at least.
const SLACK: u64 = 4;
/// What clients may have remembered in one journal, in bytes of entries: they are held in memory, and once more by whoever owns the journal.
const MOST_LIVE: u64 = 12 << 20;
/// Entries of a rewrite go in batches of about this size.
const PIECE: usize = 256 << 10;

pub struct Journal {
    log: SyncedLog,
    state: Mutex<State>,
    damage: Damage,
    /// The journal ended in something that was not written whole.
    is_torn: bool,
    /// It was not there, though others were.
    is_new: bool,
    /// All of it was not there, though partitions were.
    is_missing: bool,
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
    #[error("the journal {0} holds an entry that a later release wrote; start that release, or one after it")]
    Newer(String),
}

impl Journal {
    /// Opens or creates the journal `name`; the name may not end in `-` and digits, which are partitions.
    pub fn open(store: &Store, name: &str) -> Result<Self, JournalError> {
        // On a disk that is full of records topics can still be deleted, offsets committed, transactions ended.
        let options = LogOptions { segment_bytes: SEGMENT, uses_kept_free: true, ..LogOptions::default() };
        // Before it is made.
        let others = store.names()?;
        let is_first = others.is_empty();
        let (log, recovery) = SyncedLog::open(store, name, options)?;
        let mut damage = Damage::found(&recovery);
        let (is_torn, is_new) = (recovery.truncated_bytes > 0, recovery.created && !is_first);
        // A first start that ended between two journals, on a full disk say, has no partitions; a journal that nobody wrote to has only its folder.
        let is_partition = |log: &String| log.rsplit_once('-').is_some_and(|(_, index)| index.parse::<u32>().is_ok());
        let is_missing = recovery.created && !others.iter().any(|other| other == name) && others.iter().any(is_partition);
        let mut state = State { live: BTreeMap::new(), live_bytes: 0, since: log.bytes() };
        let (mut buf, mut at) = (ReadBuf::new(), 0);
        while log.read(at, PIECE, &mut buf)? > 0 {
            for batch in buf.batches() {
                if state.replay(batch.payload).is_none() {
                    damage = damage + Damage { places: 1, records: batch.records.into(), bytes: batch.payload.len() as u64 };
                }
                at = batch.next;
            }
        }
        damage = damage + Damage::met(&log.faults());
        if damage.is_any() {
            tracing::error!(
                journal = name,
                entries = damage.records,
                bytes = damage.bytes,
                "a part of the journal cannot be read and is set aside; what it said is made up for as far as it can be"
            );
        }
        Ok(Self { log, state: Mutex::new(state), damage, is_torn, is_new, is_missing })
    }

    /// What could not be read at the start.
    pub fn damage(&self) -> Damage {
        self.damage
    }

    /// Whether entries may be missing.
    pub fn is_damaged(&self) -> bool {
        self.damage.is_any() || self.is_torn || self.is_new
    }

    /// Says what it means that entries are lost, if some are: those that could not be read, and `unreadable` more. An end that was torn off held nothing
    /// that anybody was told is there, unless the power was cut.
    pub fn say_losses(&self, unreadable: u64, means: &str) {
        let journal = self.log.name();
        let entries = self.damage.records + unreadable;
        if !self.has_lost(unreadable) {
            if self.is_torn {
                tracing::info!(journal, "the journal ended in an entry that was not written whole, as a crash or a full disk leaves it");
            }
        } else if self.is_missing {
            tracing::error!(journal, "the journal is gone and begins anew: {means}");
        } else {
            tracing::error!(journal, entries, "the journal has lost entries: {means}");
        }
    }

    /// Whether something is lost that was answered; [`Journal::is_damaged`] is true of a torn end, too.
    fn has_lost(&self, unreadable: u64) -> bool {
        self.damage.is_any() || unreadable > 0 || self.is_missing
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

    /// Whether these entries keep the journal within [`MOST_LIVE`], or make it no larger. For what a client asks to be remembered; what ends something
    /// is written in any case.
    pub fn has_room(&self, entries: &[(&[u8], Option<&[u8]>)]) -> bool {
        let state = self.state.lock();
        let (mut more, mut less) = (0, 0);
        for (key, value) in entries {
            less += state.live.get(*key).map_or(0, |old| size(key, old));
            more += value.map_or(0, |value| size(key, value));
        }
        more <= less || state.live_bytes + more - less <= MOST_LIVE
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

/// What an entry counts for.
fn size(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len() + 9) as u64
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
        let old = match value {
            Some(value) => {
                self.live_bytes += size(key, value);
                self.live.insert(key.to_vec(), value.to_vec())
            }
            None => self.live.remove(key),
        };
        self.live_bytes -= old.map_or(0, |old| size(key, &old));
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

    /// What a disk leaves that was full while the journal was to go on in a new segment, and what is left of a first start that it ended.
    #[test]
    fn an_end_that_was_torn_is_no_loss_and_a_journal_that_is_gone_is() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = store(dir.path());
            Journal::open(&store, "topics").unwrap().put(&[(b"a", Some(b"1"))]).unwrap();
            store.log("t-0", LogOptions::default()).unwrap();
        }
        let file = std::fs::read_dir(dir.path().join("topics")).unwrap().map(|entry| entry.unwrap().path());
        let last = file.filter(|file| file.extension().is_some_and(|extension| extension == "seg")).max().unwrap();
        let mut file = std::fs::File::options().append(true).open(last).unwrap();
        std::io::Write::write_all(&mut file, &[0; 17]).unwrap();
        let store = store(dir.path());
        let journal = Journal::open(&store, "topics").unwrap();
        assert!(journal.is_damaged() && !journal.damage().is_any() && !journal.has_lost(0));
        assert!(journal.has_lost(1));
        assert_eq!(entries(&journal), [("a".to_owned(), "1".to_owned())]);
        assert!(Journal::open(&store, "groups").unwrap().has_lost(0), "there are partitions, so there was a journal");
        let dir = tempfile::tempdir().unwrap();
        let store = self::store(dir.path());
        Journal::open(&store, "topics").unwrap();
        assert!(!Journal::open(&store, "groups").unwrap().has_lost(0));
    }

    /// As kill -9 leaves a broker that has no groups.
    #[test]
    fn a_journal_that_nobody_wrote_to_is_not_missed_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let killed = tempfile::tempdir().unwrap();
        {
            let store = store(dir.path());
            Journal::open(&store, "groups").unwrap();
            store.log("t-0", LogOptions::default()).unwrap().0.append(0, 1, 1, &[b"record"]).unwrap();
            copy(dir.path(), killed.path());
        }
        let store = store(killed.path());
        assert!(!Journal::open(&store, "groups").unwrap().has_lost(0));
        assert!(Journal::open(&store, "topics").unwrap().has_lost(0), "there are partitions, so there was a journal of topics");
    }

    fn copy(from: &std::path::Path, to: &std::path::Path) {
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                std::fs::create_dir(&to).unwrap();
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }

    #[test]
    fn there_is_room_up_to_a_bound_and_for_what_does_not_grow() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let journal = Journal::open(&store, "groups").unwrap();
        let (long, longer) = (vec![1; MOST_LIVE as usize / 2], vec![1; MOST_LIVE as usize / 2 + 1]);
        journal.put(&[(b"a", Some(&long))]).unwrap();
        assert!(!journal.has_room(&[(b"b", Some(&long))]));
        assert!(journal.has_room(&[(b"a", Some(&long)), (b"b", Some(&[1; 1_000]))]));
        assert!(journal.has_room(&[(b"a", None), (b"b", Some(&longer))]));
        journal.put(&[(b"b", Some(&longer))]).unwrap();
        assert!(journal.has_room(&[(b"b", Some(&long))]) && !journal.has_room(&[(b"c", Some(b""))]));
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
