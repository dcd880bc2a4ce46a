//! A second record of the topics beside their journal, and of those that are being deleted.
//!
//! The journal is what counts. The copy is written within a second of a change, and is asked when the journal has lost something: a topic comes back
//! with its id and configuration. The logs of a topic are removed at a start only if the copy says that somebody deleted it.
//!
//! ```text
//! "MILLRTOPICS 1\n" | crc32c of the rest 4 | topics: list of (name, entry of the journal) | deleting: list of names
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use crate::storage::whole::write_whole;
use crate::storage::wire::{Reader, Writer};

const MAGIC: &[u8] = b"MILLRTOPICS 1\n";

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TopicCopy {
    /// Entries as the journal has them, by topic.
    pub topics: BTreeMap<String, Vec<u8>>,
    /// Topics that were deleted, whose logs may be there still.
    pub deleting: BTreeSet<String>,
}

impl TopicCopy {
    /// Reads the copy; `None` if there is none, or none that is whole.
    pub fn read(path: &Path) -> Option<Self> {
        Self::decode(&std::fs::read(path).ok()?)
    }

    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_whole(path, &self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.u32(self.topics.len() as u32);
        for (name, entry) in &self.topics {
            body.str(name).bytes(entry);
        }
        body.u32(self.deleting.len() as u32);
        for name in &self.deleting {
            body.str(name);
        }
        [MAGIC, &crc32c::crc32c(&body.0).to_be_bytes(), &body.0].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (crc, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        let mut from = Reader(body);
        let topics = from.list(|from| Some((from.str()?.to_owned(), from.bytes()?.to_vec())))?;
        let deleting = from.list(|from| Some(from.str()?.to_owned()))?;
        Some(Self { topics: topics.into_iter().collect(), deleting: deleting.into_iter().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_read_whole_or_not_at_all() {
        let copy = TopicCopy {
            topics: [("a".to_owned(), vec![1, 2, 3]), ("b".to_owned(), Vec::new())].into(),
            deleting: ["gone".to_owned()].into(),
        };
        let bytes = copy.encode();
        assert_eq!(TopicCopy::decode(&bytes), Some(copy));
        for len in 0..bytes.len() {
            assert_eq!(TopicCopy::decode(&bytes[..len]), None, "{len} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(TopicCopy::decode(&flipped), None, "bit {bit}");
        }
    }
}
