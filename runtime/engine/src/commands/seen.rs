//! Which ids of commands came already: each is carried out once, whoever sends it again, and through restarts.
//!
//! ```text
//! position "command:SINK:ID":   the command as JSON, with `came` (where it lies) ── answered ──> "until MICROS"  ── long over ──> removed
//! ```
//!
//! An id is remembered for [`KEPT`] beyond its expiry: what comes later has expired itself, or is taken for another command. A record that Kafka gives
//! again, after a crash between its intent and its offset, is known by its place; it is not answered twice.

use millrace_schemas::Micros;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// How long an id is remembered beyond the expiry of its command.
pub const KEPT: Duration = Duration::from_secs(600);
/// Ids that are remembered at most; the oldest go first.
const MOST: usize = 100_000;
/// Old ids that go with each new one.
const SWEPT: usize = 64;

#[derive(Debug, Default)]
pub struct Seen {
    /// Where each lies: `topic/partition/offset`; empty of one that an earlier process had answered.
    places: HashMap<String, String>,
    by_end: BTreeMap<(Micros, String), ()>,
}

/// What is known of an id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Before {
    Never,
    /// This very record came before.
    Same,
    /// Another command had the id; where it lies, as far as that is known.
    Other(String),
}

impl Seen {
    /// What is known of an id that came at `place`.
    pub fn before(&self, id: &str, place: &str) -> Before {
        match self.places.get(id) {
            None => Before::Never,
            Some(known) if known == place => Before::Same,
            Some(known) => Before::Other(known.clone()),
        }
    }

    pub fn insert(&mut self, id: &str, place: &str, until: Micros) {
        self.places.insert(id.to_owned(), place.to_owned());
        self.by_end.insert((until, id.to_owned()), ());
    }

    /// A command is given back to Kafka, never carried out: whoever reads it next may.
    pub fn forget(&mut self, id: &str) {
        self.places.remove(id);
        self.by_end.retain(|(_, known), ()| known != id);
    }

    /// Some ids whose time is over, or that are too many; they are not remembered any more.
    pub fn sweep(&mut self, now: Micros) -> Vec<String> {
        let mut gone = Vec::new();
        while gone.len() < SWEPT
            && let Some(((until, id), ())) = self.by_end.first_key_value()
            && (*until < now || self.places.len() > MOST)
        {
            let key = (*until, id.clone());
            self.by_end.remove(&key);
            self.places.remove(&key.1);
            gone.push(key.1);
        }
        gone
    }
}

/// Until when an id is remembered.
pub fn until(expires: Micros) -> Micros {
    Micros(expires.0.max(Micros::now().0).saturating_add(KEPT.as_micros() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_until_its_time_is_over_and_the_same_record_is_told_from_another() {
        let mut seen = Seen::default();
        seen.insert("a", "t/0/1", Micros(10));
        seen.insert("b", "t/0/2", Micros(20));
        assert_eq!(seen.before("a", "t/0/1"), Before::Same);
        assert_eq!(seen.before("a", "t/0/3"), Before::Other("t/0/1".into()));
        assert_eq!(seen.before("c", "t/0/3"), Before::Never);
        assert_eq!(seen.sweep(Micros(15)), ["a"]);
        assert_eq!((seen.before("a", "t/0/3"), seen.before("b", "t/0/3")), (Before::Never, Before::Other("t/0/2".into())));
        seen.forget("b");
        assert_eq!((seen.before("b", "t/0/3"), seen.sweep(Micros(100)).len()), (Before::Never, 0));
    }

    #[test]
    fn a_flood_of_ids_takes_no_more_memory_than_is_said() {
        let mut seen = Seen::default();
        for n in 0..MOST + 10_000 {
            seen.insert(&n.to_string(), "t/0/1", Micros(i64::MAX - 1));
            seen.sweep(Micros(0));
        }
        assert_eq!((seen.places.len(), seen.by_end.len()), (MOST, MOST));
    }
}
