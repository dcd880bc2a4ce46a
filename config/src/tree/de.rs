//! Deserialising from the marked tree, with every problem at once.
//!
//! serde stops at the first error. So: deserialise; note the error and the value it arose at; stand something harmless in for that value; again,
//! until it passes. What then fails only because of a stand-in is not noted. A result with stand-ins in it is thrown away.
//!
//! - A wrong value is replaced by a [`StandIn`], which is whatever is asked of it: `""`, 0, the first variant, an empty list.
//! - An unknown key is left out. A missing one is supplied as a stand-in, so that the next missing one is found too.
//! - Where a stand-in doesn't pass either (a URL is not `""`), the value is left out, and the mapping around it stands in silently.
//!
//! [`Spanned`], [`Node`] and [`Secret`](crate::Secret) take their places through newtype names that only the deserializer here knows.

mod error;
mod placed;
mod stand_in;
mod state;
mod walk;

use crate::tree::node::Node;
use crate::tree::place::Place;
use crate::tree::problem::{Problem, Problems};
use error::WITHIN;
use serde::de::DeserializeOwned;
use state::State;
use std::cell::{Cell, RefCell};
use walk::{De, STRICT};

/// More problems than this in one value are not looked for.
const MAX_PROBLEMS: usize = 100;

impl Node {
    /// Deserialises, reporting every problem found (unknown keys, wrong types, missing keys) with its place.
    pub fn parse<T: DeserializeOwned>(&self, problems: &mut Problems) -> Option<T> {
        parse(self, problems)
    }
}

/// Deserialises, adding every problem. `None` if there was any.
pub(crate) fn parse<T: DeserializeOwned>(node: &Node, problems: &mut Problems) -> Option<T> {
    STRICT.set(problems.strict);
    attempt(node, &[])
        .map_err(|found| {
            for problem in found {
                problems.add(problem);
            }
        })
        .ok()
}

thread_local! {
    /// Of each parse under way: its node, and keys that were taken from it before.
    static KNOWN: RefCell<Vec<(Place, Vec<&'static str>)>> = const { RefCell::new(Vec::new()) };
    /// Calls of serde under way in this thread.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Parses a node inside a `Deserialize` of ours: all its problems, with their places, reach the [`Node::parse`] around it.
pub fn parse_within<T: DeserializeOwned, E: serde::de::Error>(node: &Node) -> Result<T, E> {
    attempt(node, &inherited(node)).map_err(pass_on)
}

/// Parses the two halves of a mapping that [`Node::take`] made, likewise. Keys of `theirs` are known to `own` for suggestions.
pub fn parse_halves<A: DeserializeOwned, B: DeserializeOwned, E: serde::de::Error>(
    own: &Node,
    theirs: &Node,
    keys: &[&'static str],
) -> Result<(A, B), E> {
    let known = [inherited(own).as_slice(), keys].concat();
    match (attempt(own, &known), attempt(theirs, &[])) {
        (Ok(own), Ok(theirs)) => Ok((own, theirs)),
        (own, theirs) => Err(pass_on(own.err().into_iter().chain(theirs.err()).flatten().collect())),
    }
}

/// Hands problems to the parse around this one; to another deserializer, their texts.
fn pass_on<E: serde::de::Error>(found: Vec<Problem>) -> E {
    let messages = found.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ");
    if DEPTH.get() > 0 {
        WITHIN.with_borrow_mut(|within| within.extend(found));
    }
    E::custom(messages)
}

/// Keys that were taken from this very node before.
fn inherited(node: &Node) -> Vec<&'static str> {
    KNOWN.with_borrow(|known| match known.last() {
        Some((place, keys)) if *place == node.place => keys.clone(),
        _ => Vec::new(),
    })
}

fn attempt<T: DeserializeOwned>(node: &Node, also_known: &[&'static str]) -> Result<T, Vec<Problem>> {
    KNOWN.with_borrow_mut(|known| known.push((node.place, also_known.to_vec())));
    let outcome = repeat(node, also_known);
    KNOWN.with_borrow_mut(|known| known.pop());
    outcome
}

fn repeat<T: DeserializeOwned>(node: &Node, also_known: &[&'static str]) -> Result<T, Vec<Problem>> {
    let mut state = State { also_known, ..State::default() };
    let mut found = Vec::new();
    loop {
        DEPTH.set(DEPTH.get() + 1);
        let outcome = T::deserialize(De { node, state: &state }).map_err(|error| error.through(node));
        DEPTH.set(DEPTH.get() - 1);
        match outcome {
            Ok(value) if found.is_empty() => return Ok(value),
            Ok(_) => return Err(found),
            Err(error) => {
                let goes_on = state.neutralise(node, error, &mut found);
                if !goes_on || found.len() >= MAX_PROBLEMS {
                    return Err(found);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::node::{Short, Shorthand, Spanned};
    use crate::tree::secret::Secret;
    use crate::tree::units::Period;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Plc {
        endpoint: Spanned<String>,
        every: Period,
        unit: Option<u8>,
        #[serde(default)]
        range: Option<[f64; 2]>,
        #[serde(default)]
        mode: Mode,
        #[serde(default)]
        tags: BTreeMap<String, Short<Tag>>,
        #[serde(default)]
        bits: BTreeMap<u8, String>,
        password: Option<Secret>,
        rest: Option<Node>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        #[default]
        Poll,
        Subscribe,
        Window {
            size: u32,
        },
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Tag {
        address: String,
        scale: Option<f64>,
    }

    impl Shorthand for Tag {
        const KEY: &'static str = "address";
    }

    /// Line, message, help.
    type Found = Vec<(u32, String, Option<String>)>;

    fn problems_of(text: &str) -> (Option<Plc>, Found) {
        let mut problems = Problems::new();
        problems.strict = true;
        let node = Node::from_yaml(text, &mut problems).expect("is YAML");
        let plc = node.parse(&mut problems);
        let found = problems.iter().map(|p| (problems.locate(p.place).line, p.message.clone(), p.help.clone())).collect();
        (plc, found)
    }

    #[test]
    fn a_right_value_comes_through_with_its_places() {
        let (plc, found) = problems_of(
            "endpoint: 10.0.0.5\nevery: 1s\nrange: [0, 1.5]\nmode: {window: {size: 4}}\ntags: {a: DB1, b: {address: 7, scale: 2}}\nbits: {3: door}\nrest: {x: [1]}\n",
        );
        assert_eq!(found, []);
        let plc = plc.unwrap();
        assert_eq!(plc.tags["b"].0, Tag { address: "7".into(), scale: Some(2.0) });
        assert_eq!(plc.tags["a"].address, "DB1");
        assert_eq!(plc.mode, Mode::Window { size: 4 });
        assert_eq!(plc.bits[&3], "door");
        assert!(!plc.endpoint.place.is_none());
        assert_eq!(plc.rest.unwrap().get("x").unwrap().items()[0].as_i64(), Some(1));
    }

    #[test]
    fn every_problem_is_found_at_once_and_none_twice() {
        let (plc, found) = problems_of(
            "endpiont: x\nevery: 5\nunit: 300\nrange: [1]\nmode: pole\ntags:\n  a: {adress: 1}\n  b: {scale: x, colour: 1}\n  c: [1]\nbits: {door: 1}\npassword: hunter2\n",
        );
        assert_eq!(plc, None);
        let mut lines: Vec<_> = found.iter().map(|(line, message, _)| (*line, message.as_str())).collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                (1, "unknown key `endpiont`"),
                (2, "`5` has no unit"),
                (3, "expected a whole number from 0 to 255, found the number `300`"),
                (4, "expected a list of 2 items, found 1"),
                (5, "`pole` is not one of `poll`, `subscribe`, `window`"),
                (7, "unknown key `adress`"),
                (8, "expected a number, found the text `x`"),
                (8, "the key `address` is missing"),
                (8, "unknown key `colour`"),
                (9, "expected text, found a list"),
                (10, "the key `door` should be a whole number from 0 to 255"),
                (11, "a secret is written out here"),
            ]
        );
        assert!(!found.iter().any(|(_, message, help)| message.contains("hunter2") || help.iter().any(|help| help.contains("hunter2"))));
    }

    #[test]
    fn all_missing_keys_are_found_at_once() {
        let (_, found) = problems_of("unit: 1\n");
        let messages: Vec<_> = found.iter().map(|(_, message, _)| message.as_str()).collect();
        assert_eq!(messages, ["the key `endpoint` is missing", "the key `every` is missing"]);
    }

    #[test]
    fn a_scalar_where_a_mapping_belongs_says_so() {
        let (_, found) = problems_of("just text\n");
        assert_eq!(found[0].1, "expected a mapping, found the text `just text`");
    }

    #[test]
    fn another_deserializer_works_too_without_places() {
        let plc: Plc = serde_json::from_str(r#"{"endpoint": "x", "every": "1s", "rest": {"a": [1, "b", null]}}"#).unwrap();
        assert!(plc.endpoint.place.is_none());
        assert_eq!(plc.rest.unwrap().get("a").unwrap().items().len(), 3);
    }
}
