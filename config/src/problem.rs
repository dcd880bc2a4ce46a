//! Problems of a configuration, each with its places; collected, never thrown.

use crate::place::{Location, Place, Places};
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    Error,
    Warning,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Problem {
    pub severity: Severity,
    pub place: Place,
    pub message: String,
    pub help: Option<String>,
    /// Second places: the template's line, the earlier definition.
    pub related: Vec<(Place, String)>,
}

/// All problems found so far, and what their places mean.
#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    pub(crate) places: Places,
}

impl Problems {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an error. Message: lowercase, no full stop, names the thing and the value.
    pub fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Error, place, message.into())
    }

    pub fn warn(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Warning, place, message.into())
    }

    fn push(&mut self, severity: Severity, place: Place, message: String) -> &mut Problem {
        self.list.push(Problem { severity, place, message, help: None, related: Vec::new() });
        self.list.last_mut().expect("just pushed")
    }

    pub(crate) fn add(&mut self, problem: Problem) {
        self.list.push(problem);
    }

    pub fn has_errors(&self) -> bool {
        self.iter().any(|p| p.severity == Severity::Error)
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The problems in the order they were found. One with a value that is not read now (a secret's file, in `check`) is none.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter().filter(|problem| !self.places.is_unread(problem.place))
    }

    /// What a place means: file, line, column, path.
    pub fn locate(&self, place: Place) -> Location {
        self.places.locate(place)
    }
}

impl Problem {
    /// What to do about it.
    pub fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    pub fn also(&mut self, place: Place, note: impl Into<String>) -> &mut Self {
        self.related.push((place, note.into()));
        self
    }
}

impl Problems {
    /// Every problem for a person: sorted, with its line, a caret, what to do, and the other places.
    pub fn render(&self) -> String {
        todo!()
    }

    /// Every problem for a program: sorted.
    pub fn to_json(&self) -> Value {
        json!([])
    }
}
