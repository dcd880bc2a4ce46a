//! What was read of a query, as it lies in the log beside the rows.
//!
//! ```text
//! key NAME           {"w": the last watermark, "k": its ids, "edge": where the overlap begins, "again": whether the next reading begins there,
//!                     "next": the edge of the reading under way}
//! key NAME/seen/N    the rows of the overlap that the N-th batch brought: 16 bytes each, by their content
//! ```
//!
//! A reading ends; a row that was committed late may still appear behind the cursor, but not before the edge. So the next reading begins there, and
//! passes over the rows it knows by their content: a row that was changed meanwhile is another one.
//!
//! Invariants: the edge is never later than any row that can still appear when the transactions are shorter than the overlap, through kills in the
//! middle of a reading: a reading that is taken up again keeps the moment at which it began. It never goes back, whatever the server's clock or the
//! highest number do: every row from it on that was read is known by its content, and nothing before it is.

use crate::statement::After;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// So many rows of the overlap are known by their content; more are an error that says to make it shorter.
pub const MOST_SEEN: usize = 1_000_000;

/// A query's position.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// The watermark and the ids of the last row, as the server's text.
    #[serde(rename = "w", skip_serializing_if = "Option::is_none")]
    watermark: Option<String>,
    #[serde(rename = "k", default, skip_serializing_if = "Vec::is_empty")]
    ids: Vec<String>,
    /// From here on, it included, rows are known by their content: microseconds, or a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    edge: Option<i128>,
    /// The next reading begins at the edge; else after the last row.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    again: bool,
    /// A reading is under way; the edge once it is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i128>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    under_way: bool,
}

/// The position and the rows of the overlap.
#[derive(Debug, Default)]
pub struct Progress {
    name: String,
    position: Position,
    /// As it was sent last.
    sent: Position,
    /// Each row's batch, and whether this reading met it.
    seen: HashMap<u128, (u64, bool)>,
    batches: HashMap<u64, usize>,
    next_batch: u64,
    /// Of the batch being filled.
    filling: Vec<u8>,
    /// The reading was taken up in its middle: what it does not meet may be there all the same.
    is_resumed: bool,
    met_recent: bool,
}

impl Progress {
    /// What the log knows.
    pub fn resume(name: &str, position: Option<Vec<u8>>, seen: Vec<(String, Vec<u8>)>) -> Self {
        let position: Position = position.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let mut progress =
            Self { name: name.to_owned(), is_resumed: position.under_way, sent: position.clone(), position, ..Self::default() };
        for (key, hashes) in seen {
            let Some(number) = key.rsplit('/').next().and_then(|number| number.parse().ok()) else { continue };
            progress.next_batch = progress.next_batch.max(number + 1);
            for hash in hashes.chunks_exact(16) {
                let mut bytes = [0; 16];
                bytes.copy_from_slice(hash);
                progress.insert(u128::from_le_bytes(bytes), number, false);
            }
        }
        progress
    }

    fn insert(&mut self, hash: u128, batch: u64, met: bool) {
        if let Some((old, _)) = self.seen.insert(hash, (batch, met)) {
            self.let_go(old);
        }
        *self.batches.entry(batch).or_default() += 1;
    }

    fn let_go(&mut self, batch: u64) {
        if let Some(count) = self.batches.get_mut(&batch) {
            *count = count.saturating_sub(1);
        }
    }

    /// A reading begins, or goes on. `recent`: from where on a row may still appear after this moment; `text`: that as the server reads it.
    /// Returns where its first page begins, and what is recent of it.
    pub fn begin(&mut self, recent: Option<i128>, text: impl Fn(i128) -> String) -> (After, Option<String>) {
        self.met_recent = self.is_resumed;
        let Position { edge, again, next, under_way, .. } = &mut self.position;
        let is_new = !std::mem::replace(under_way, true);
        if is_new {
            *next = recent.map(|recent| edge.map_or(recent, |edge| edge.max(recent)));
        }
        let recent = next.map(&text);
        let after = match edge {
            Some(edge) if is_new && *again => After { watermark: Some(text(*edge)), ids: None },
            _ => self.cursor(),
        };
        (after, recent)
    }

    /// Behind the last row.
    pub fn cursor(&self) -> After {
        After { watermark: self.position.watermark.clone(), ids: self.position.watermark.is_some().then(|| self.position.ids.clone()) }
    }

    /// A row comes by. `hash` is asked for where it is recent. False: it was read before.
    pub fn row(&mut self, is_recent: bool, hash: impl FnOnce() -> u128) -> bool {
        if is_recent || !self.seen.is_empty() {
            let hash = hash();
            self.met_recent |= is_recent;
            if let Some((_, met)) = self.seen.get_mut(&hash) {
                *met = true;
                return false;
            }
            if is_recent {
                self.insert(hash, self.next_batch, true);
                self.filling.extend_from_slice(&hash.to_le_bytes());
            }
        }
        true
    }

    /// The cursor stands on this row.
    pub fn at(&mut self, watermark: &str, ids: &[String]) {
        let to = self.position.watermark.get_or_insert_default();
        to.clear();
        to.push_str(watermark);
        self.position.ids.resize_with(ids.len(), String::new);
        for (to, id) in self.position.ids.iter_mut().zip(ids) {
            to.clone_from(id);
        }
    }

    pub fn seen(&self) -> usize {
        self.seen.len()
    }

    /// What moves with the batch that is sent now.
    pub fn moved(&mut self) -> Vec<(String, Vec<u8>)> {
        self.sent.clone_from(&self.position);
        let mut moved = vec![(self.name.clone(), serde_json::to_vec(&self.position).unwrap_or_default())];
        if !self.filling.is_empty() {
            moved.push((format!("{}/seen/{}", self.name, self.next_batch), std::mem::take(&mut self.filling)));
            self.next_batch += 1;
        }
        moved
    }

    /// The reading is complete. What moves with it; empty where nothing did.
    pub fn end(&mut self) -> Vec<(String, Vec<u8>)> {
        let next = self.position.next.take();
        self.position.again = next.is_some() && self.met_recent;
        self.position.edge = next.or(self.position.edge);
        self.position.under_way = false;
        let mut gone = Vec::new();
        if !std::mem::take(&mut self.is_resumed) {
            for (hash, (batch, met)) in &mut self.seen {
                if !std::mem::take(met) {
                    gone.push((*hash, *batch));
                }
            }
        }
        for (hash, batch) in gone {
            self.seen.remove(&hash);
            self.let_go(batch);
        }
        let mut moved = Vec::new();
        // The edge alone moves with the clock: an idle table writes nothing, it only reads a little more again after a restart.
        let is_new = Position { edge: None, ..self.sent.clone() } != Position { edge: None, ..self.position.clone() };
        self.batches.retain(|batch, count| {
            if *count == 0 {
                moved.push((format!("{}/seen/{batch}", self.name), Vec::new()));
            }
            *count > 0
        });
        if is_new || !moved.is_empty() || !self.filling.is_empty() {
            moved.extend(self.moved());
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    type Log = BTreeMap<String, Vec<u8>>;

    fn apply(log: &mut Log, moved: Vec<(String, Vec<u8>)>) {
        for (key, value) in moved {
            if value.is_empty() {
                log.remove(&key)
            } else {
                log.insert(key, value)
            };
        }
    }

    fn resumed(log: &Log) -> Progress {
        let seen = log.iter().filter(|(key, _)| key.starts_with("q/seen/")).map(|(key, value)| (key.clone(), value.clone())).collect();
        Progress::resume("q", log.get("q").cloned(), seen)
    }

    /// One reading of a table of (watermark, id); `now` is the clock, the overlap 10. Returns what is new. `kill_after` rows it ends.
    fn read(log: &mut Log, table: &[(u32, u32)], now: u32, kill_after: usize) -> Vec<(u32, u32)> {
        let mut progress = resumed(log);
        let (mut after, recent) = progress.begin(Some(i128::from(now.saturating_sub(10))), |edge| edge.to_string());
        let recent: Option<u32> = recent.map(|recent| recent.parse().unwrap());
        let mut rows = table.to_vec();
        rows.sort_unstable();
        let mut new = Vec::new();
        let number = |text: &String| text.parse::<u32>().unwrap();
        for (n, row) in rows.iter().enumerate() {
            let begins = match (&after.watermark, &after.ids) {
                (None, _) => true,
                (Some(w), None) => row.0 >= number(w),
                (Some(w), Some(ids)) => (row.0, row.1) > (number(w), number(&ids[0])),
            };
            if !begins {
                continue;
            }
            if n >= kill_after {
                return new;
            }
            if progress.row(recent.is_some_and(|recent| row.0 >= recent), || u128::from(row.0) << 32 | u128::from(row.1)) {
                new.push(*row);
            }
            progress.at(&row.0.to_string(), &[row.1.to_string()]);
            apply(log, progress.moved());
            after = progress.cursor();
        }
        apply(log, progress.end());
        new
    }

    #[test]
    fn late_commits_and_equal_times_come_once_through_kills_in_the_middle() {
        let mut log = Log::new();
        let mut table = vec![(100, 1), (100, 2), (105, 3)];
        assert_eq!(read(&mut log, &table, 106, usize::MAX), [(100, 1), (100, 2), (105, 3)]);
        table.extend([(98, 4), (105, 2)]); // late by 8, and of an equal time
        assert_eq!(read(&mut log, &table, 108, usize::MAX), [(98, 4), (105, 2)]);
        assert_eq!(read(&mut log, &table, 109, usize::MAX), []);
        // Killed after one row; a late one appears before it goes on; the reading after it finds that one.
        table.extend([(110, 5), (111, 6)]);
        assert_eq!(read(&mut log, &table, 112, 6), [(110, 5)]);
        table.push((103, 7));
        assert_eq!(read(&mut log, &table, 200, usize::MAX), [(111, 6)]);
        assert_eq!(read(&mut log, &table, 201, usize::MAX), [(103, 7)]);
        // All is old by now: nothing is kept but the cursor.
        assert_eq!(read(&mut log, &table, 300, usize::MAX), []);
        assert_eq!(read(&mut log, &table, 301, usize::MAX), []);
        assert_eq!(log.keys().collect::<Vec<_>>(), ["q"], "{:?}", String::from_utf8_lossy(&log["q"]));
    }

    #[test]
    fn a_clock_that_is_set_back_brings_no_row_again() {
        let mut log = Log::new();
        let mut table = vec![(80, 1), (95, 2), (100, 3)];
        assert_eq!(read(&mut log, &table, 100, usize::MAX), table);
        assert_eq!(read(&mut log, &table, 85, usize::MAX), []);
        table.push((86, 4));
        assert_eq!(read(&mut log, &table, 86, usize::MAX), [], "it lies before the overlap as that was");
        table.push((101, 5));
        assert_eq!(read(&mut log, &table, 101, usize::MAX), [(101, 5)]);
        assert_eq!(read(&mut log, &table, 101, usize::MAX), []);
    }

    #[test]
    fn a_bulk_of_old_rows_is_remembered_by_its_end_alone() {
        let mut progress = Progress::resume("q", None, Vec::new());
        progress.begin(Some(900), |edge| edge.to_string());
        for n in 0..1000_u32 {
            assert!(progress.row(n >= 990, || u128::from(n)));
        }
        assert_eq!(progress.seen(), 10);
    }
}
