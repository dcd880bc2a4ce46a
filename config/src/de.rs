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

mod placed;
mod stand_in;
mod walk;

use crate::node::{Entry, Node, shorten};
use crate::place::Place;
use crate::problem::{Problem, Problems, Severity, WRITTEN_OUT};
use crate::suggest;
use serde::de::{DeserializeOwned, Unexpected};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use walk::De;

/// More problems than this in one value are not looked for.
const MAX_PROBLEMS: usize = 100;

const SPANNED: &str = "$millrace::Spanned";
const NODE: &str = "$millrace::Node";

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
    /// A node on its way through serde to a field of type [`Node`].
    static CARRIED: RefCell<Option<Node>> = const { RefCell::new(None) };
    /// Problems found by [`parse_within`], on their way to the parse around it.
    static WITHIN: RefCell<Vec<Problem>> = const { RefCell::new(Vec::new()) };
    /// Whether secrets must be references: in a factory's files, not in a snippet.
    static STRICT: Cell<bool> = const { Cell::new(false) };
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
    match (attempt(own, keys), attempt(theirs, &[])) {
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

/// A node's address: its identity while one parse borrows the tree.
type Id = *const Node;

#[derive(Default)]
struct State<'s> {
    also_known: &'s [&'static str],
    /// Values replaced by stand-ins.
    standing_in: HashSet<Id>,
    /// Values left out of their mapping or list.
    left_out: HashSet<Id>,
    /// Keys supplied to a mapping.
    supplied: HashSet<(Id, &'static str)>,
    /// Values with any of these below them: their own complaints may be consequences.
    touched: HashSet<Id>,
}

impl State<'_> {
    /// Notes the error unless it is the consequence of an earlier one. False if nothing can be done about it.
    fn neutralise(&mut self, root: &Node, error: Error, found: &mut Vec<Problem>) -> bool {
        let Some((at, above)) = error.trail.split_first() else {
            found.push(problem(root.place, error.to_string()));
            return false;
        };
        // The trail holds addresses inside of `root`, which outlives this call.
        let Some(node) = find(root, *at, &error.trail) else { return false };
        let known_before = self.touched.contains(at) || self.standing_in.contains(at);
        match error.what {
            What::UnknownKey { key, expected } => {
                let Some(entry) =
                    node.entries().iter().find(|entry| *entry.key == *key && !self.left_out.contains(&(&raw const entry.value)))
                else {
                    return self.stand_in(*at, above);
                };
                let candidates = expected.iter().copied().chain(if above.is_empty() { self.also_known } else { &[] }.iter().copied());
                let mut problem = problem(entry.value.place.key(), format!("unknown key `{key}`"));
                problem.help(suggest::help(&key, "keys here", candidates));
                found.push(problem);
                self.left_out.insert(&raw const entry.value);
                self.touch(&error.trail);
                true
            }
            What::MissingKey(key) => {
                let misspelt = node.entries().iter().any(|entry| {
                    self.left_out.contains(&(&raw const entry.value))
                        && (&*entry.key == key || suggest::nearest(&entry.key, [key]).is_some())
                });
                if !misspelt {
                    let mut problem = problem(node.place, format!("the key `{key}` is missing"));
                    problem.help(format!("add `{key}: ..`"));
                    found.push(problem);
                }
                self.touch(&error.trail);
                self.supplied.insert((*at, key)) || self.stand_in(*at, above)
            }
            What::Within(problems) => {
                found.extend(problems.into_iter().map(|mut problem| {
                    if problem.place.is_none() {
                        problem.place = node.place;
                    }
                    problem
                }));
                self.stand_in(*at, above)
            }
            What::StandIn => self.stand_in(*at, above),
            What::WrittenOut => {
                let mut problem = with_help(problem(node.place, WRITTEN_OUT.into()), WRITTEN_OUT);
                problem.secret = node.text().cloned();
                found.push(problem);
                self.stand_in(*at, above)
            }
            What::Key(message) => {
                found.push(with_help(problem(node.place.key(), message.clone()), &message));
                self.left_out.insert(*at);
                self.touch(above);
                true
            }
            What::Wrong(message) => {
                if !known_before {
                    found.push(wrong(node, message));
                }
                self.stand_in(*at, above)
            }
            What::Type { expected } => {
                if !known_before {
                    found.push(problem(node.place, format!("expected {expected}, found {}", node.describe())));
                }
                self.stand_in(*at, above)
            }
            What::Variant { variant, expected } => {
                if !known_before {
                    let written = node.text().and_then(|text| text.reference()).map_or(shorten(&variant), str::to_owned);
                    let mut problem = problem(node.place, format!("`{written}` is not one of {}", suggest::list(expected)));
                    if let Some(near) = suggest::nearest(&variant, expected.iter().copied()) {
                        problem.help(format!("did you mean `{near}`?"));
                    }
                    found.push(problem);
                }
                self.stand_in(*at, above)
            }
        }
    }

    /// Lets a stand-in take the value's place; where one already has, leaves the value out. False at the root.
    fn stand_in(&mut self, at: Id, above: &[Id]) -> bool {
        self.touch(above);
        self.standing_in.insert(at) || (!above.is_empty() && self.left_out.insert(at))
    }

    fn touch(&mut self, trail: &[Id]) {
        self.touched.extend(trail);
    }
}

/// Follows the trail from the root down to the node at its beginning.
fn find<'n>(root: &'n Node, wanted: Id, trail: &[Id]) -> Option<&'n Node> {
    let mut node = root;
    while !std::ptr::eq(node, wanted) {
        node = node
            .items()
            .iter()
            .chain(node.entries().iter().map(|entry| &entry.value))
            .find(|child| trail.contains(&(&raw const **child)))?;
    }
    Some(node)
}

fn problem(place: Place, message: String) -> Problem {
    Problem { severity: Severity::Error, place, message, help: None, related: Vec::new(), secret: None }
}

/// A problem with a value, in the words of the type that refused it. What those words quote may be a secret.
fn wrong(node: &Node, message: String) -> Problem {
    match node.text().and_then(|text| text.reference().map(|reference| (text, reference))) {
        None => with_help(problem(node.place, message.clone()), &message),
        Some((text, reference)) => {
            let quoted = !text.as_str().is_empty() && message.contains(text.as_str());
            let message = match quoted {
                true => message.replace(text.as_str(), reference),
                false => format!("the value of `{reference}` is not accepted here"),
            };
            with_help(problem(node.place, message.clone()), &message)
        }
    }
}

/// In the house's voice a message says what failed, then after `; ` what to do.
fn with_help(mut problem: Problem, message: &str) -> Problem {
    if let Some((what, help)) = message.split_once("; ") {
        problem.message = what.to_owned();
        problem.help(help);
    }
    problem
}

/// Why a value was refused, and the way up from it.
#[derive(Debug)]
struct Error {
    what: What,
    /// Addresses of the value and of everything around it, innermost first.
    trail: Vec<Id>,
}

#[derive(Debug)]
enum What {
    UnknownKey {
        key: String,
        expected: &'static [&'static str],
    },
    MissingKey(&'static str),
    Type {
        expected: String,
    },
    Variant {
        variant: String,
        expected: &'static [&'static str],
    },
    Wrong(String),
    /// A key that is not what the mapping wants.
    Key(String),
    /// Problems that were found in a parse of its own.
    Within(Vec<Problem>),
    /// A secret that is no reference.
    WrittenOut,
    /// A stand-in was not accepted.
    StandIn,
}

impl Error {
    fn new(what: What) -> Self {
        Self { what, trail: Vec::new() }
    }

    fn through(mut self, node: &Node) -> Self {
        if self.trail.last().is_none_or(|last| !std::ptr::eq(*last, node)) {
            self.trail.push(node);
        }
        self
    }

    fn in_key(self, entry: &Entry) -> Self {
        let message = match self.what {
            What::Type { expected } => format!("the key `{}` should be {expected}", shorten(&entry.key)),
            What::Variant { expected, .. } => {
                format!("the key `{}` is not one of {}", shorten(&entry.key), suggest::list(expected))
            }
            What::UnknownKey { .. } => return Self::new(self.what),
            What::Wrong(message) => message,
            _ => format!("the key `{}` is not accepted here", shorten(&entry.key)),
        };
        Self::new(What::Key(message)).through(&entry.value)
    }
}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let within = WITHIN.with_borrow_mut(std::mem::take);
        match within.is_empty() {
            false => Self::new(What::Within(within)),
            true => Self::new(What::Wrong(message.to_string())),
        }
    }

    fn invalid_type(_: Unexpected, expected: &dyn serde::de::Expected) -> Self {
        Self::new(What::Type { expected: in_words(&expected.to_string()) })
    }

    fn invalid_value(_: Unexpected, expected: &dyn serde::de::Expected) -> Self {
        Self::new(What::Type { expected: in_words(&expected.to_string()) })
    }

    fn invalid_length(len: usize, expected: &dyn serde::de::Expected) -> Self {
        Self::new(What::Wrong(format!("expected {}, found {len}", in_words(&expected.to_string()))))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::Variant { variant: variant.to_owned(), expected })
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey { key: field.to_owned(), expected })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(What::MissingKey(field))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.what {
            What::UnknownKey { key, .. } => write!(f, "unknown key `{key}`"),
            What::MissingKey(key) => write!(f, "the key `{key}` is missing"),
            What::Type { expected } => write!(f, "expected {expected}"),
            What::Variant { variant, expected } => write!(f, "`{variant}` is not one of {}", suggest::list(expected)),
            What::Wrong(message) | What::Key(message) => f.write_str(message),
            What::Within(problems) => f.write_str(problems.first().map_or("", |problem| &problem.message)),
            What::WrittenOut => f.write_str(WRITTEN_OUT),
            What::StandIn => f.write_str("not accepted"),
        }
    }
}

impl std::error::Error for Error {}

/// What serde expects, as a person says it.
fn in_words(expected: &str) -> String {
    let integer = |low: i128, high: u128| format!("a whole number from {low} to {high}");
    match expected {
        "u8" => integer(0, u8::MAX.into()),
        "u16" => integer(0, u16::MAX.into()),
        "u32" => integer(0, u32::MAX.into()),
        "u64" | "usize" => "a whole number, not negative".into(),
        "i8" => integer(i8::MIN.into(), i8::MAX as u128),
        "i16" => integer(i16::MIN.into(), i16::MAX as u128),
        "i32" => integer(i32::MIN.into(), i32::MAX as u128),
        "i64" | "isize" | "i128" | "u128" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a string" | "a borrowed string" | "a character" | "path string" => "text".into(),
        "a boolean" => "`true` or `false`".into(),
        "a sequence" => "a list".into(),
        "a map" => "a mapping".into(),
        "string or map" => "a name or a mapping".into(),
        "unit" => "nothing".into(),
        _ => {
            if let Some(length) = expected.strip_prefix("an array of length ") {
                format!("a list of {length} items")
            } else if let Some(length) = expected.strip_prefix("a tuple of size ") {
                format!("a list of {length} items")
            } else if expected.starts_with("struct ") {
                "a mapping".into()
            } else if expected.starts_with("enum ") || expected.starts_with("variant") {
                "a name".into()
            } else {
                expected.into()
            }
        }
    }
}

/// What serde's calls answer here.
type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Short, Shorthand, Spanned};
    use crate::units::{Period, Secret};
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
