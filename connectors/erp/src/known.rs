//! The keys of an entity set that are in the topic, so that a load can tell what is gone: a delta link that the ERP has forgotten would have said it.
//!
//! ```text
//! position known:SET/GENERATION/PIECE    one change after the other: `+` or `-`, u32 length, key; little-endian, at most PIECE bytes
//! ```
//!
//! A load writes a generation of its own: a `+` for each row. Between loads each change appends a `+`, each deletion a `-`, whoever told it. When a load is complete,
//! what the generation before has and the new one has not is gone. A generation of many changes is written anew, without what came to nothing.
//!
//! Memory: a batch's changes, and, while two generations are compared, or a generation with the keys of the ERP, 8 bytes for each key.

use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// A position holds no more; it goes to Kafka as one record.
pub const PIECE: usize = 256 << 10;
/// A set with more bytes of keys is not kept: its positions would be a burden.
pub const MOST_BYTES: u64 = 32 << 20;
/// Changes of so many bytes are worth no rewriting; but of so many pieces, for each page and each poll makes one.
const FEW_BYTES: u64 = 1 << 20;
const MANY_PIECES: u32 = 2 * (MOST_BYTES / PIECE as u64) as u32;

/// A generation of keys, as it lies in the positions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Keys {
    pub generation: u32,
    /// Pieces, numbered from zero.
    pub pieces: u32,
    pub bytes: u64,
    /// Bytes without anything that came to nothing, when it was complete.
    pub base: u64,
}

impl Keys {
    /// An empty generation after others.
    pub fn after<'k>(others: impl IntoIterator<Item = &'k Self>) -> Self {
        let last = others.into_iter().map(|keys| keys.generation).max().unwrap_or(0);
        Self { generation: last.wrapping_add(1), ..Self::default() }
    }

    /// What the keys of all positions of a set begin with.
    pub fn prefix(set: &str) -> String {
        format!("known:{set}/")
    }

    fn name(&self, set: &str, piece: u32) -> String {
        format!("{}{}/{piece}", Self::prefix(set), self.generation)
    }

    /// The keys of its positions, the newest first.
    pub fn names<'s>(&'s self, set: &'s str) -> impl Iterator<Item = String> + 's {
        (0..self.pieces).rev().map(move |piece| self.name(set, piece))
    }

    /// Whether half of it and more came to nothing, or it lies in many small pieces, or what came to nothing takes the place of keys.
    pub fn is_worn(&self) -> bool {
        let is_near_the_end = self.bytes + 4 * FEW_BYTES > MOST_BYTES && self.bytes > self.base + FEW_BYTES;
        self.bytes > 2 * self.base + FEW_BYTES || self.pieces > MANY_PIECES || is_near_the_end
    }
}

/// Changes on their way into positions.
#[derive(Debug, Default)]
pub struct Changes(Vec<u8>);

impl Changes {
    pub fn there(&mut self, key: &[u8]) {
        self.push(b'+', key);
    }

    pub fn gone(&mut self, key: &[u8]) {
        self.push(b'-', key);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, sign: u8, key: &[u8]) {
        self.0.push(sign);
        self.0.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.0.extend_from_slice(key);
    }

    /// The positions that hold them, behind those of `keys`.
    pub fn moved(&mut self, set: &str, keys: &mut Keys) -> Vec<(String, Vec<u8>)> {
        let mut moved = Vec::new();
        let (mut start, mut at) = (0, 0);
        while start < self.0.len() {
            let next = self.0[at..].get(..5).map(|head| at + 5 + u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize);
            match next {
                Some(next) if next - start <= PIECE || at == start => at = next,
                _ => {
                    moved.push((keys.name(set, keys.pieces), self.0[start..at].to_vec()));
                    keys.pieces += 1;
                    start = at;
                }
            }
        }
        keys.bytes += self.0.len() as u64;
        self.0.clear();
        moved
    }
}

/// Changes of a piece, the oldest first: whether it is there, and its key. What is damaged is left out.
pub(crate) fn changes(piece: &[u8]) -> Vec<(bool, &[u8])> {
    let mut all = Vec::new();
    let mut rest = piece;
    while let Some(([sign, length @ ..], behind)) = rest.split_first_chunk::<5>() {
        let Some((key, behind)) = behind.split_at_checked(u32::from_le_bytes(*length) as usize) else { break };
        all.push((*sign == b'+', key));
        rest = behind;
    }
    all
}

/// Goes through generations from the newest change to the oldest: only the last word on a key counts.
#[derive(Debug, Default)]
pub struct Newest {
    met: HashSet<u64>,
    state: RandomState,
}

impl Newest {
    /// Hands each key whose last word is that it is there to `each`.
    pub fn take(&mut self, piece: &[u8], mut each: impl FnMut(&[u8])) {
        for (is_there, key) in changes(piece).into_iter().rev() {
            if self.met.insert(self.state.hash_one(key)) && is_there {
                each(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(pieces: &[(String, Vec<u8>)], newest: &mut Newest) -> Vec<String> {
        let mut live = Vec::new();
        for (_, piece) in pieces.iter().rev() {
            newest.take(piece, |key| live.push(String::from_utf8(key.to_vec()).unwrap()));
        }
        live.sort();
        live
    }

    #[test]
    fn the_last_word_on_a_key_counts_in_a_generation_and_between_two() {
        let (mut old, mut changes) = (Keys::after([]), Changes::default());
        ["a", "b", "c", "d"].iter().for_each(|key| changes.there(key.as_bytes()));
        let mut pieces = changes.moved("S", &mut old);
        changes.gone(b"b");
        changes.gone(b"c");
        changes.there(b"c");
        pieces.extend(changes.moved("S", &mut old));
        assert_eq!(pieces.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["known:S/1/0", "known:S/1/1"]);
        assert_eq!(old.names("S").collect::<Vec<_>>(), ["known:S/1/1", "known:S/1/0"]);
        assert_eq!(live(&pieces, &mut Newest::default()), ["a", "c", "d"]);
        let mut new = Keys::after([&old]);
        changes.there(b"a");
        changes.there(b"e");
        let loaded = changes.moved("S", &mut new);
        let mut newest = Newest::default();
        live(&loaded, &mut newest);
        assert_eq!(live(&pieces, &mut newest), ["c", "d"], "what the load did not meet");
    }

    #[test]
    fn a_generation_is_written_anew_before_what_came_to_nothing_takes_the_place_of_keys() {
        const MIB: u64 = 1 << 20;
        let keys = |base, bytes| Keys { base: base * MIB / 2, bytes: bytes * MIB / 2, ..Keys::default() };
        assert!(!keys(40, 50).is_worn(), "there is room");
        assert!(keys(40, 57).is_worn(), "the end is near");
        assert!(!keys(63, 64).is_worn(), "nearly all are keys that are there");
        assert!(keys(10, 23).is_worn(), "most came to nothing");
    }

    #[test]
    fn pieces_are_small_and_end_where_changes_end() {
        let (mut keys, mut changes) = (Keys::after([]), Changes::default());
        for n in 0..50_000 {
            changes.there(format!("{n:020}").as_bytes());
        }
        changes.there(&vec![b'k'; PIECE + 1]);
        let bytes = changes.len() as u64;
        let moved = changes.moved("S", &mut keys);
        assert_eq!((keys.bytes, moved.iter().map(|(_, piece)| piece.len() as u64).sum::<u64>()), (bytes, bytes));
        assert_eq!(moved.len(), keys.pieces as usize);
        assert!(moved[..moved.len() - 1].iter().all(|(_, piece)| piece.len() <= PIECE), "but for a key that is longer itself");
        assert_eq!(live(&moved, &mut Newest::default()).len(), 50_001);
        assert!(changes.is_empty());
    }
}
