//! What of an MQTT session is kept in the source's position, so that a restart knows it: which filters the broker holds for a client id, and which
//! QoS 2 messages were recorded but not released yet.
//!
//! ```text
//! key            filters/CLIENT_ID    value   one line for each filter: its QoS or `?`, a space, the filter
//!                received/CLIENT_ID           ranges of packet identifiers: first, last (2 bytes each, big-endian)
//! ```
//!
//! A message of QoS 2 whose identifier is in `received` and that is marked as a duplicate was recorded already. An identifier leaves the set
//! durably before PUBCOMP: the broker may use it again afterwards.

use crate::packet::Qos;
use std::collections::BTreeMap;

pub const FILTERS: &str = "filters/";
pub const RECEIVED: &str = "received/";

/// Filters the broker holds, with their QoS; `None`: perhaps, it has not answered yet.
pub type Filters = BTreeMap<String, Option<Qos>>;

pub fn write_filters(filters: &Filters) -> Vec<u8> {
    let line = |(filter, qos): (&String, &Option<Qos>)| match qos {
        Some(qos) => format!("{} {filter}", *qos as u8),
        None => format!("? {filter}"),
    };
    filters.iter().map(line).collect::<Vec<_>>().join("\n").into_bytes()
}

/// Reads filters; a line that isn't one is left out.
pub fn read_filters(bytes: &[u8]) -> Filters {
    let text = String::from_utf8_lossy(bytes);
    text.split('\n')
        .filter_map(|line| {
            let (qos, filter) = line.split_once(' ')?;
            let qos = if qos == "?" { None } else { Some(Qos::from_bits(qos.parse().ok()?)?) };
            Some((filter.to_owned(), qos))
        })
        .collect()
}

/// Packet identifiers received with QoS 2 and not released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreleased {
    bits: Box<[u64; 1024]>,
    count: usize,
}

impl Default for Unreleased {
    fn default() -> Self {
        Self { bits: Box::new([0; 1024]), count: 0 }
    }
}

impl Unreleased {
    pub fn contains(&self, id: u16) -> bool {
        self.bits[id as usize / 64] & 1 << (id % 64) != 0
    }

    pub fn insert(&mut self, id: u16) {
        self.count += usize::from(!self.contains(id));
        self.bits[id as usize / 64] |= 1 << (id % 64);
    }

    /// Returns whether it was there.
    pub fn remove(&mut self, id: u16) -> bool {
        let was = self.contains(id);
        self.count -= usize::from(was);
        self.bits[id as usize / 64] &= !(1 << (id % 64));
        was
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The set as ranges; empty for none, which removes the key.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut range: Option<(u16, u16)> = None;
        let mut push = |(first, last): (u16, u16)| {
            out.extend_from_slice(&first.to_be_bytes());
            out.extend_from_slice(&last.to_be_bytes());
        };
        for (index, word) in self.bits.iter().enumerate() {
            let mut word = *word;
            while word != 0 {
                let id = (index * 64) as u16 + word.trailing_zeros() as u16;
                word &= word - 1;
                range = Some(match range {
                    Some((first, last)) if last.checked_add(1) == Some(id) => (first, id),
                    Some(done) => {
                        push(done);
                        (id, id)
                    }
                    None => (id, id),
                });
            }
        }
        if let Some(done) = range {
            push(done);
        }
        out
    }

    pub fn read(bytes: &[u8]) -> Self {
        let mut set = Self::default();
        for [a, b, c, d] in bytes.as_chunks::<4>().0 {
            for id in u16::from_be_bytes([*a, *b])..=u16::from_be_bytes([*c, *d]) {
                set.insert(id);
            }
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn filters_come_back_as_written() {
        let filters = Filters::from([("a/+/b c".into(), Some(Qos::AtLeastOnce)), ("#".into(), Some(Qos::ExactlyOnce)), ("b".into(), None)]);
        assert_eq!(read_filters(&write_filters(&filters)), filters);
        assert_eq!(read_filters(b""), Filters::new());
        assert_eq!(read_filters(b"9 a\nnonsense\n1 b"), Filters::from([("b".into(), Some(Qos::AtLeastOnce))]));
    }

    proptest! {
        #[test]
        fn unreleased_identifiers_come_back_as_written(ids: BTreeSet<u16>, released: BTreeSet<u16>) {
            let mut set = Unreleased::default();
            ids.iter().for_each(|id| set.insert(*id));
            for id in &released {
                prop_assert_eq!(set.remove(*id), ids.contains(id));
            }
            let left: BTreeSet<_> = ids.difference(&released).copied().collect();
            let back = Unreleased::read(&set.write());
            prop_assert_eq!(&back, &set);
            prop_assert_eq!(back.is_empty(), left.is_empty());
            prop_assert!((0..=u16::MAX).all(|id| back.contains(id) == left.contains(&id)));
        }

        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            Unreleased::read(&bytes);
            read_filters(&bytes);
        }
    }
}
