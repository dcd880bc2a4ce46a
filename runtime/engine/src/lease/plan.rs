//! Which runtime reads which source: decided by one of them, out of what all of them have said. Pure.
//!
//! ```text
//! source ──map──▶ slot ──group protocol──▶ runtime          slot = a partition of the topic `millrace.assign`
//! ```
//!
//! Kafka's assignor deals the slots out and takes those of a dead runtime to the others, by itself. What it can't know (preferences, which machines
//! may, how many sources lie in a slot) is done here, by moving sources between slots.
//!
//! Invariants: only runtimes read a source that know it and whose machine may; of these the preferred one, where it is there; no source moves that need not:
//! a plan of what was planned is empty, and loads differ by one where nothing else decides.

use std::collections::{BTreeMap, BTreeSet};

/// What the file says of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The runtime that reads it whenever it is there.
    pub prefer: Option<String>,
    /// The machines that may; empty: all.
    pub runs_on: Vec<String>,
}

impl Wish {
    pub fn may_run_on(&self, host: &str) -> bool {
        self.runs_on.is_empty() || self.runs_on.iter().any(|one| one == host)
    }
}

/// A runtime that is there.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub id: String,
    pub host: String,
    pub slots: BTreeSet<i32>,
    /// The sources of its file.
    pub knows: BTreeSet<String>,
}

/// Names of sources.
pub type Names = BTreeSet<String>;

/// In which slot each source lies.
pub type Map = BTreeMap<String, i32>;

/// What must change in the map. What nobody may read stays where it is.
pub fn plan(wishes: &BTreeMap<String, Wish>, runtimes: &[Candidate], map: &Map) -> Map {
    let nothing = Wish::default();
    let names: BTreeSet<&String> = wishes.keys().chain(map.keys()).collect();
    let mut placed: BTreeMap<&String, usize> = BTreeMap::new();
    let mut able: BTreeMap<&String, Vec<usize>> = BTreeMap::new();
    let mut load = vec![0_usize; runtimes.len()];
    let mut open = Vec::new();
    for name in names {
        let wish = wishes.get(name).unwrap_or(&nothing);
        let may = |one: &Candidate| !one.slots.is_empty() && one.knows.contains(name) && wish.may_run_on(&one.host);
        let who: Vec<usize> = (0..runtimes.len()).filter(|at| may(&runtimes[*at])).collect();
        let preferred = who.iter().copied().find(|at| wish.prefer.as_ref() == Some(&runtimes[*at].id));
        let present = map.get(name).and_then(|slot| who.iter().copied().find(|at| runtimes[*at].slots.contains(slot)));
        match preferred.or(present) {
            Some(at) => {
                placed.insert(name, at);
                load[at] += 1;
            }
            None if who.is_empty() => continue,
            None => open.push(name),
        }
        // A preference is not weighed against loads.
        able.insert(name, if preferred.is_some() { Vec::new() } else { who });
    }
    for name in open {
        let Some(at) = able[name].iter().copied().min_by_key(|at| load[*at]) else { continue };
        placed.insert(name, at);
        load[at] += 1;
    }
    // Each move makes a pair of loads more even, so this ends.
    while let Some((name, to)) = placed.iter().find_map(|(name, from)| {
        let to = able[*name].iter().copied().min_by_key(|at| load[*at])?;
        (load[*from] > load[to] + 1).then_some((*name, to))
    }) {
        if let Some(from) = placed.insert(name, to) {
            load[from] -= 1;
        }
        load[to] += 1;
    }
    let mut lie: BTreeMap<i32, usize> = BTreeMap::new();
    for slot in map.values() {
        *lie.entry(*slot).or_default() += 1;
    }
    let mut changes = Map::new();
    for (name, at) in placed {
        let slots = &runtimes[at].slots;
        if map.get(name).is_some_and(|slot| slots.contains(slot)) {
            continue;
        }
        let Some(slot) = slots.iter().copied().min_by_key(|slot| lie.get(slot).copied().unwrap_or(0)) else { continue };
        *lie.entry(slot).or_default() += 1;
        changes.insert(name.clone(), slot);
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLOTS: i32 = 16;

    fn runtimes(ids: &[&str], sources: usize) -> Vec<Candidate> {
        let knows: BTreeSet<String> = (0..sources).map(|n| format!("s{n:02}")).collect();
        let slots = |at: usize| (0..SLOTS).filter(|slot| *slot as usize % ids.len() == at).collect();
        let one =
            |(at, id): (usize, &&str)| Candidate { id: (*id).into(), host: format!("host-{id}"), slots: slots(at), knows: knows.clone() };
        ids.iter().enumerate().map(one).collect()
    }

    fn wishes(count: usize) -> BTreeMap<String, Wish> {
        (0..count).map(|n| (format!("s{n:02}"), Wish::default())).collect()
    }

    fn owner<'r>(runtimes: &'r [Candidate], map: &Map, name: &str) -> Option<&'r str> {
        let slot = map.get(name)?;
        runtimes.iter().find(|one| one.slots.contains(slot)).map(|one| one.id.as_str())
    }

    fn after(wishes: &BTreeMap<String, Wish>, runtimes: &[Candidate], map: &Map) -> Map {
        let mut map = map.clone();
        map.extend(plan(wishes, runtimes, &map));
        map
    }

    #[test]
    fn sources_are_dealt_out_evenly_and_those_of_a_dead_runtime_go_to_the_others() {
        let (wishes, three) = (wishes(10), runtimes(&["a", "b", "c"], 10));
        let map = after(&wishes, &three, &Map::new());
        let of = |runtimes: &[Candidate], map: &Map, id: &str| wishes.keys().filter(|name| owner(runtimes, map, name) == Some(id)).count();
        let mut counts = ["a", "b", "c"].map(|id| of(&three, &map, id));
        counts.sort_unstable();
        assert_eq!(counts, [3, 3, 4]);
        // The group has dealt the slots of c to a and b.
        let two = runtimes(&["a", "b"], 10);
        let map = after(&wishes, &two, &map);
        assert_eq!([of(&two, &map, "a"), of(&two, &map, "b")], [5, 5]);
    }

    #[test]
    fn a_preferred_runtime_has_its_sources_back_when_it_is_there_again() {
        let mut wishes = wishes(4);
        wishes.get_mut("s00").unwrap().prefer = Some("b".into());
        let both = runtimes(&["a", "b"], 4);
        let map = after(&wishes, &both, &Map::new());
        assert_eq!(owner(&both, &map, "s00"), Some("b"));
        let alone = runtimes(&["a"], 4);
        let map = after(&wishes, &alone, &map);
        assert_eq!(owner(&alone, &map, "s00"), Some("a"));
        let map = after(&wishes, &both, &map);
        assert_eq!(owner(&both, &map, "s00"), Some("b"));
    }

    #[test]
    fn a_source_with_machines_of_its_own_waits_for_one_of_them() {
        let mut wishes = wishes(2);
        wishes.get_mut("s00").unwrap().runs_on = vec!["host-b".into()];
        let alone = runtimes(&["a"], 2);
        assert_eq!(plan(&wishes, &alone, &Map::new()).keys().collect::<Vec<_>>(), ["s01"]);
        let both = runtimes(&["a", "b"], 2);
        let map = after(&wishes, &both, &Map::new());
        assert_eq!(owner(&both, &map, "s00"), Some("b"));
    }

    proptest! {
        #[test]
        fn a_plan_holds_what_is_promised_and_a_second_one_is_empty(
            present in 1_usize..5,
            count in 0_usize..24,
            prefers in proptest::collection::vec(0_usize..6, 24),
            hosts in proptest::collection::vec(0_usize..6, 24),
            lies in proptest::collection::vec(0_i32..24, 24),
        ) {
            let ids = ["a", "b", "c", "d"];
            let runtimes = runtimes(&ids[..present], count);
            let mut wishes = wishes(count);
            let mut map = Map::new();
            for (at, (name, wish)) in wishes.iter_mut().enumerate() {
                wish.prefer = ids.get(prefers[at]).map(|id| (*id).to_owned());
                wish.runs_on = ids.get(hosts[at]).map(|id| format!("host-{id}")).into_iter().collect();
                if lies[at] < SLOTS {
                    map.insert(name.clone(), lies[at]);
                }
            }
            let map = after(&wishes, &runtimes, &map);
            prop_assert!(plan(&wishes, &runtimes, &map).is_empty());
            for (name, wish) in &wishes {
                let able: Vec<&Candidate> = runtimes.iter().filter(|one| wish.may_run_on(&one.host)).collect();
                if able.is_empty() {
                    continue;
                }
                let owner = owner(&runtimes, &map, name).expect("somebody who may has it");
                prop_assert!(able.iter().any(|one| one.id == owner));
                if let Some(prefer) = wish.prefer.as_ref().filter(|prefer| able.iter().any(|one| one.id == **prefer)) {
                    prop_assert_eq!(owner, prefer.as_str());
                }
            }
        }
    }
}
