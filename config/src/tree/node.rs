//! The marked tree: YAML values that know their places.

use crate::tree::place::Place;
use crate::tree::scalar::{core_bool, core_float, core_int};
pub use crate::tree::text::Text;
use std::ops::Deref;
use std::sync::Arc;

/// A YAML value with its place. A config struct may hold one, to be parsed later.
///
/// Two nodes are equal when they say the same, wherever they stand.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub kind: Kind,
}

/// What a YAML value is. Numbers and truths keep their text: a field that wants text gets `1.10`, not `1.1`.
#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    Null,
    Bool(Text),
    Int(Text),
    Float(Text),
    String(Text),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Node,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Node {
    pub const fn new(place: Place, kind: Kind) -> Self {
        Self { place, kind }
    }

    pub const fn null(place: Place) -> Self {
        Self { place, kind: Kind::Null }
    }

    pub fn string(place: Place, text: &str) -> Self {
        Self { place, kind: Kind::String(text.into()) }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }

    /// The value of a key; `None` also for anything that is not a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| &*entry.key == key).map(|entry| &entry.value)
    }

    /// The keys and values of a mapping; empty for anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; empty for anything else.
    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::Seq(items) => items,
            _ => &[],
        }
    }

    /// Text, also of a number as it was written.
    pub fn as_str(&self) -> Option<&str> {
        self.text().map(Text::as_str)
    }

    pub fn text(&self) -> Option<&Text> {
        match &self.kind {
            Kind::Bool(text) | Kind::Int(text) | Kind::Float(text) | Kind::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match &self.kind {
            Kind::Bool(text) => core_bool(text.as_str()),
            _ => None,
        }
    }

    pub fn as_i64(&self) -> Option<i64> {
        self.as_i128()?.try_into().ok()
    }

    pub(crate) fn as_i128(&self) -> Option<i128> {
        match &self.kind {
            Kind::Int(text) => core_int(text.as_str()),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match &self.kind {
            Kind::Int(text) | Kind::Float(text) => core_float(text.as_str()).or_else(|| self.as_i128().map(|int| int as f64)),
            _ => None,
        }
    }

    /// The same value with its places changed, all the way down.
    pub(crate) fn map_places(&self, change: &impl Fn(Place) -> Place) -> Self {
        let kind = match &self.kind {
            Kind::Seq(items) => Kind::Seq(items.iter().map(|item| item.map_places(change)).collect()),
            Kind::Map(entries) => {
                Kind::Map(entries.iter().map(|entry| Entry { key: entry.key.clone(), value: entry.value.map_places(change) }).collect())
            }
            scalar => scalar.clone(),
        };
        Self { place: change(self.place), kind }
    }

    /// What it is, for an error: `a list`, `the number 5`, `the text "x"`. A secret's text is not in it.
    pub fn describe(&self) -> String {
        let of = |what: &str, text: &Text| match text.reference() {
            Some(reference) => format!("the value of `{reference}`"),
            None => format!("{what} `{}`", shorten(text.as_str())),
        };
        match &self.kind {
            Kind::Null => "nothing".into(),
            Kind::Bool(text) => of("the truth", text),
            Kind::Int(text) | Kind::Float(text) => of("the number", text),
            Kind::String(text) => of("the text", text),
            Kind::Seq(_) => "a list".into(),
            Kind::Map(_) => "a mapping".into(),
        }
    }

    /// Splits a mapping in two: the given keys, and the rest. Both keep the place. Anything that is not a mapping goes to the rest.
    pub fn take(&self, keys: &[&str]) -> (Self, Self) {
        let Kind::Map(entries) = &self.kind else { return (Self::new(self.place, Kind::Map(Vec::new())), self.clone()) };
        let (taken, rest) = entries.iter().cloned().partition(|entry| keys.contains(&&*entry.key));
        (Self::new(self.place, Kind::Map(taken)), Self::new(self.place, Kind::Map(rest)))
    }
}

/// At most 60 characters, on one line, for an error.
pub(crate) fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    let short: String = line.chars().take(60).map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    if short.len() < text.len() { format!("{short}...") } else { short }
}

/// A value and where it stands. Two are equal when the values are.
#[derive(Clone, Debug, Default)]
pub struct Spanned<T> {
    pub value: T,
    pub place: Place,
}

impl<T> From<T> for Spanned<T> {
    /// A value that stands nowhere: a default.
    fn from(value: T) -> Self {
        Self { value, place: Place::NONE }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: serde::Serialize> serde::Serialize for Spanned<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

/// A struct that may be written as its most important value alone: `temperature: p:s=Temp` for `temperature: {node: p:s=Temp}`.
pub trait Shorthand {
    /// The key that the value alone stands for.
    const KEY: &'static str;
}

/// A struct, or its shorthand.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Short<T>(pub T);

impl<T> Deref for Short<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
