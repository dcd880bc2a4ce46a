//! What the runtimes of a group have told each other, through two compacted topics.
//!
//! ```text
//! millrace.assign   partition 0   ["source", group, name]    {"slot": 5}              written by the runtime that holds slot 0
//!                   all others    empty: they are the slots themselves
//! millrace.status   partition 0   ["runtime", group, id]     Told, as JSON            written by each of itself
//! ```
//!
//! A wrong or late word here never makes two runtimes read one source: that is decided by the slots, and by the fence of their transactions.

use crate::lease::plan::{Candidate, Map};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The topic whose partitions are the slots.
pub const ASSIGN: &str = "millrace.assign";
/// What each runtime says of itself.
pub const STATUS: &str = "millrace.status";
/// How many slots there are, and so how many runtimes can read at a time; more stand by.
pub const SLOTS: i32 = 16;

/// What a runtime says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    pub host: String,
    pub version: String,
    /// A checksum of what its file says, but for what may differ between machines.
    pub config: String,
    /// When this process began, and when it said so, in microseconds since 1970.
    pub started: i64,
    pub time: i64,
    /// Tells it from another process of the same name.
    pub life: String,
    pub slots: BTreeSet<i32>,
    /// The sources that it reads, with their status.
    pub reads: BTreeMap<String, String>,
    /// Those that it reads without a lease, cut off from Kafka.
    pub kept: BTreeSet<String>,
    /// The sources of its file.
    pub knows: BTreeSet<String>,
    /// It went in order.
    pub has_left: bool,
}

struct Heard {
    told: Told,
    at: Instant,
}

impl Told {
    pub fn is_same_but_for_time(&self, other: &Self) -> bool {
        Self { time: other.time, started: other.started, ..self.clone() } == *other
    }
}

pub struct View {
    pub map: Map,
    runtimes: BTreeMap<String, Heard>,
    slots: usize,
}

#[derive(Serialize, Deserialize)]
struct Slot {
    slot: i32,
}

pub fn source_key(group: &str, name: &str) -> Vec<u8> {
    serde_json::to_vec(&("source", group, name)).unwrap_or_default()
}

pub fn slot_value(slot: i32) -> Vec<u8> {
    serde_json::to_vec(&Slot { slot }).unwrap_or_default()
}

pub fn runtime_key(group: &str, id: &str) -> Vec<u8> {
    serde_json::to_vec(&("runtime", group, id)).unwrap_or_default()
}

impl View {
    pub fn new(slots: i32) -> Self {
        Self { map: Map::new(), runtimes: BTreeMap::new(), slots: usize::try_from(slots).unwrap_or(0) }
    }

    /// Takes in one record of either topic. True: something of the group is other than before; that a runtime is still there is no news.
    pub fn take(&mut self, group: &str, key: &[u8], value: Option<&[u8]>, now: Instant) -> bool {
        let Ok((kind, of, name)) = serde_json::from_slice::<(String, String, String)>(key) else { return false };
        if of != group {
            return false;
        }
        match kind.as_str() {
            "source" => match value.and_then(|value| serde_json::from_slice::<Slot>(value).ok()) {
                Some(Slot { slot }) => self.map.insert(name, slot) != Some(slot),
                None => self.map.remove(&name).is_some(),
            },
            "runtime" => match value.and_then(|value| serde_json::from_slice::<Told>(value).ok()) {
                Some(told) => {
                    let known = self.runtimes.insert(name, Heard { told: told.clone(), at: now });
                    known.is_none_or(|known| !known.told.is_same_but_for_time(&told))
                }
                None => self.runtimes.remove(&name).is_some(),
            },
            _ => false,
        }
    }

    pub fn told(&self, id: &str) -> Option<&Told> {
        self.runtimes.get(id).map(|heard| &heard.told)
    }

    /// All that ever were in the group, and whether each is there: it said something within this time, and not that it goes.
    pub fn runtimes(&self, within: Duration, now: Instant) -> impl Iterator<Item = (&str, &Told, bool)> {
        let is_there = move |heard: &Heard| !heard.told.has_left && now.duration_since(heard.at) <= within;
        self.runtimes.iter().map(move |(id, heard)| (id.as_str(), &heard.told, is_there(heard)))
    }

    /// Those that are there, once they agree on who holds which slot, and all slots are held; until then nothing is planned.
    pub fn settled(&self, within: Duration, now: Instant) -> Option<Vec<Candidate>> {
        let mut held = BTreeSet::new();
        let mut found = Vec::new();
        for (id, told, _) in self.runtimes(within, now).filter(|(.., is_there)| *is_there) {
            if told.slots.iter().any(|slot| !held.insert(*slot)) {
                return None;
            }
            found.push(Candidate { id: id.to_owned(), host: told.host.clone(), slots: told.slots.clone(), knows: told.knows.clone() });
        }
        (held.len() == self.slots).then_some(found)
    }

    /// Sources of the map that no runtime knows, of those that are there and of those that are away: nobody's file has them any more.
    pub fn forgotten(&self) -> Vec<String> {
        let is_known = |name: &&String| self.runtimes.values().any(|heard| heard.told.knows.contains(*name));
        self.map.keys().filter(|name| !is_known(name)).cloned().collect()
    }

    /// What is amiss between the runtimes, for a person.
    pub fn troubles(&self, own: &str, within: Duration, now: Instant) -> Vec<String> {
        let mut found = Vec::new();
        let Some(mine) = self.told(own) else { return found };
        for (id, told, is_there) in self.runtimes(within, now).filter(|(id, ..)| *id != own) {
            if is_there && told.config != mine.config {
                let differ =
                    |(has, lacks): (&Told, &Told)| has.knows.difference(&lacks.knows).take(3).cloned().collect::<Vec<_>>().join(", ");
                let (here, there) = (differ((mine, told)), differ((told, mine)));
                let only = |names: String, id: &str| if names.is_empty() { String::new() } else { format!("; only {id} has {names}") };
                found.push(format!(
                    "runtimes {own} on {} and {id} on {} have different files ({} and {}){}{}",
                    mine.host,
                    told.host,
                    mine.config,
                    told.config,
                    only(here, own),
                    only(there, id)
                ));
            }
        }
        let is_read =
            |name: &str| self.runtimes(within, now).any(|(id, told, is_there)| (is_there || id == own) && told.knows.contains(name));
        for name in self.map.keys().filter(|name| !is_read(name)) {
            let who: Vec<&str> =
                self.runtimes.iter().filter(|(_, heard)| heard.told.knows.contains(name)).map(|(id, _)| id.as_str()).collect();
            found.push(format!("source {name} is in the file of {} only, which is away: nobody reads it", who.join(", ")));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(slots: &[i32], knows: &[&str], config: &str) -> Told {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Told { host: "h".into(), config: config.into(), slots: slots.iter().copied().collect(), knows: names(knows), ..Told::default() }
    }

    fn tell(view: &mut View, id: &str, told: &Told, now: Instant) -> bool {
        view.take("g", &runtime_key("g", id), Some(&serde_json::to_vec(told).unwrap()), now)
    }

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn nothing_is_planned_until_the_runtimes_agree_on_who_holds_what() {
        let (mut view, now) = (View::new(SLOTS), Instant::now());
        let all: Vec<i32> = (0..SLOTS).collect();
        assert!(tell(&mut view, "a", &told(&all, &["s"], "1"), now));
        assert_eq!(view.settled(LONG, now).unwrap().len(), 1);
        assert!(!tell(&mut view, "a", &Told { time: 5, ..told(&all, &["s"], "1") }, now), "that it is still there is no news");
        tell(&mut view, "b", &told(&all[8..], &["s"], "1"), now);
        assert!(view.settled(LONG, now).is_none(), "two say that they hold the same");
        tell(&mut view, "a", &told(&all[..8], &["s"], "1"), now);
        assert_eq!(view.settled(LONG, now).unwrap().len(), 2);
        let later = now + LONG + Duration::from_secs(1);
        tell(&mut view, "a", &told(&all, &["s"], "1"), later);
        assert_eq!(view.settled(LONG, later).unwrap().len(), 1, "b has not been heard of for a session");
        assert!(!view.take("other", &source_key("g", "s"), Some(&slot_value(3)), now) && view.map.is_empty());
    }

    #[test]
    fn different_files_are_named_with_what_differs() {
        let (mut view, now) = (View::new(SLOTS), Instant::now());
        tell(&mut view, "a", &told(&[0], &["s", "t"], "1"), now);
        tell(&mut view, "b", &told(&[1], &["s", "u"], "2"), now);
        let said = view.troubles("a", LONG, now).join("\n");
        assert_eq!(said, "runtimes a on h and b on h have different files (1 and 2); only a has t; only b has u");
    }

    #[test]
    fn a_source_that_only_a_runtime_knows_that_is_away_is_told_and_one_that_nobody_knows_is_forgotten() {
        let (mut view, now) = (View::new(SLOTS), Instant::now());
        tell(&mut view, "a", &told(&[0], &["s"], "1"), now);
        tell(&mut view, "b", &Told { has_left: true, ..told(&[], &["s", "u"], "1") }, now);
        for name in ["s", "u", "gone"] {
            assert!(view.take("g", &source_key("g", name), Some(&slot_value(1)), now));
        }
        assert_eq!(view.forgotten(), ["gone"]);
        let said = view.troubles("a", LONG, now);
        assert!(said.iter().any(|one| one == "source u is in the file of b only, which is away: nobody reads it"), "{said:?}");
    }
}
