//! The positions of a source: in memory as appended, in the log with their data, in a file so that a start need not read whole logs.

use crate::error::LogFault;
use crate::frame::{Frame, Lane};
use crate::positions::{self, Saved};
use crate::source_logs::Positions;
use millrace_log::Log;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Positions are saved when this much was appended since the last time, so that a start reads no more than that.
const SAVE_EVERY_BYTES: u64 = 8 << 20;

pub(super) struct PositionStore {
    file: PathBuf,
    logs: Vec<(Lane, Log)>,
    state: Mutex<State>,
    bytes_since: AtomicU64,
    saving: Mutex<()>,
    /// Keys that the log moved, where the newest saved version is lost; Kafka knows the others better.
    moved_by_log: Option<BTreeSet<String>>,
}

struct State {
    map: Positions,
    /// Those that were sent and wait with rows that a window holds: a session goes on behind them, a start does not know them.
    ahead: Positions,
    /// Each lane's end when `map` was last moved.
    ends: [u64; 3],
    is_dirty: bool,
}

impl PositionStore {
    /// Takes up what was saved, and what the logs say since. `recovered`: each lane's end as it was found.
    ///
    /// Errors: a log can't be read.
    pub fn open(file: PathBuf, logs: Vec<(Lane, Log)>, recovered: &[u64; 3], saved: Saved) -> Result<Self, LogFault> {
        let mut map = saved.positions;
        let (left_out, moved) = fold(&logs, recovered, &saved.ends, &mut map)?;
        let state = Mutex::new(State { map, ahead: Positions::new(), ends: ends(&logs), is_dirty: left_out > 0 || saved.is_behind });
        let moved_by_log = saved.is_behind.then_some(moved);
        Ok(Self { file, logs, state, bytes_since: AtomicU64::new(0), saving: Mutex::new(()), moved_by_log })
    }

    /// As it was sent last.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        match state.ahead.get(key) {
            Some(value) => Some(value.clone()).filter(|value| !value.is_empty()),
            None => state.map.get(key).cloned(),
        }
    }

    /// Those whose key begins so, as they were sent last.
    pub fn beginning(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let state = self.state.lock();
        let mut all: Positions = beginning(&state.map, prefix).collect();
        for (key, value) in beginning(&state.ahead, prefix) {
            apply(&mut all, &key, &value);
        }
        all.into_iter().collect()
    }

    /// All that are in the log.
    pub fn written(&self) -> Vec<(String, Vec<u8>)> {
        beginning(&self.state.lock().map, "").collect()
    }

    /// These were sent, and are written later, with what they stand behind.
    pub fn hold(&self, moved: &[(&str, &[u8])]) {
        self.state.lock().ahead.extend(moved.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())));
    }

    /// Takes over what is not known here, or known of a time before.
    pub fn adopt(&self, others: &Positions) {
        let mut state = self.state.lock();
        for (key, value) in others {
            match &self.moved_by_log {
                Some(moved) if !moved.contains(key) => drop(state.map.insert(key.clone(), value.clone())),
                Some(_) => {}
                None => drop(state.map.entry(key.clone()).or_insert_with(|| value.clone())),
            }
        }
        state.is_dirty = true;
    }

    /// Forgets what is known here: another runtime has moved on from it.
    pub fn replace(&self, others: &Positions) {
        let mut state = self.state.lock();
        state.map.clone_from(others);
        state.ahead.clear();
        state.ends = self.ends();
        state.is_dirty = true;
    }

    /// Each lane's end at this moment.
    pub fn ends(&self) -> [u64; 3] {
        ends(&self.logs)
    }

    pub fn appended(&self, bytes: u64) {
        self.bytes_since.fetch_add(bytes, Relaxed);
    }

    /// So much was appended since the last time that a start would read long.
    pub fn is_due(&self) -> bool {
        self.bytes_since.load(Relaxed) > SAVE_EVERY_BYTES
    }

    pub fn moved(&self, moved: &[(&str, &[u8])]) {
        let mut state = self.state.lock();
        for (key, value) in moved {
            apply(&mut state.map, key, value);
            if state.ahead.get(*key).is_some_and(|ahead| ahead == value) {
                state.ahead.remove(*key);
            }
        }
        state.ends = self.ends();
        state.is_dirty |= !moved.is_empty();
    }

    /// Writes the file; first waits until the logs are synced up to there, so that it is never ahead of them.
    pub fn save(&self) -> std::io::Result<()> {
        let _one = self.saving.lock();
        let (map, ends) = {
            let mut state = self.state.lock();
            self.bytes_since.store(0, Relaxed);
            if !state.is_dirty {
                return Ok(());
            }
            state.is_dirty = false;
            (state.map.clone(), state.ends)
        };
        let result = self.wait_synced(&ends).and_then(|()| positions::save(&self.file, &Saved { positions: map, ends, is_behind: false }));
        if result.is_err() {
            self.state.lock().is_dirty = true;
        }
        result
    }

    fn wait_synced(&self, ends: &[u64; 3]) -> std::io::Result<()> {
        for (lane, log) in &self.logs {
            let end = ends[*lane as usize];
            for _ in 0..2000 {
                if log.synced() >= end {
                    break;
                }
                log.want_sync();
                std::thread::sleep(Duration::from_millis(1));
            }
            if log.synced() < end {
                return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the log was not synced in two seconds"));
            }
        }
        Ok(())
    }
}

fn beginning<'p>(positions: &'p Positions, prefix: &'p str) -> impl Iterator<Item = (String, Vec<u8>)> + 'p {
    positions
        .range(prefix.to_owned()..)
        .take_while(move |(key, _)| key.starts_with(prefix))
        .map(|(key, value)| (key.clone(), value.clone()))
}

fn ends(logs: &[(Lane, Log)]) -> [u64; 3] {
    let mut ends = [0; 3];
    for (lane, log) in logs {
        ends[*lane as usize] = log.end();
    }
    ends
}

/// Keys and values that moved with one batch.
type Moves = Vec<(String, Vec<u8>)>;

/// Folds the positions of every batch behind `from` into `map`, in the order they were sent. A split batch whose other pieces did not
/// reach the `recovered` end of their lane is left out; returns how many were, and the keys that moved.
fn fold(logs: &[(Lane, Log)], recovered: &[u64; 3], from: &[u64; 3], map: &mut Positions) -> Result<(usize, BTreeSet<String>), LogFault> {
    let mut left_out = 0;
    let mut moves: Vec<(u64, Moves)> = Vec::new();
    let mut buffer = millrace_log::ReadBuf::default();
    for (lane, log) in logs {
        let mut at = from[*lane as usize].max(log.start());
        while at < log.end() {
            log.read(at, 1 << 20, &mut buffer)?;
            let mut next = at;
            for batch in buffer.batches() {
                next = batch.next;
                let frame = Frame::read(batch.payload)?;
                if frame.moved.is_empty() {
                    continue;
                }
                if frame.split.iter().any(|(lane, end)| recovered[*lane as usize] < *end) {
                    left_out += 1;
                    continue;
                }
                moves.push((batch.first, frame.moved.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect()));
            }
            if next == at {
                break;
            }
            at = next;
        }
    }
    moves.sort_by_key(|(first, _)| *first);
    let mut moved_keys = BTreeSet::new();
    for (key, value) in moves.into_iter().flat_map(|(_, moved)| moved) {
        apply(map, &key, &value);
        moved_keys.insert(key);
    }
    Ok((left_out, moved_keys))
}

fn apply(map: &mut Positions, key: &str, value: &[u8]) {
    if value.is_empty() {
        map.remove(key);
    } else if let Some(old) = map.get_mut(key) {
        old.clear();
        old.extend_from_slice(value);
    } else {
        map.insert(key.to_owned(), value.to_vec());
    }
}
