//! Problems of a configuration, each with its places; collected, never thrown.

use crate::tree::place::{Location, Place, Places, Step};
use crate::tree::text::Text;
use std::borrow::Cow;

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
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
    /// The help is a sentence of the program's own: nothing in it can be a secret.
    pub(crate) is_plain: bool,
    /// Second places: the template's line, the earlier definition.
    pub related: Vec<(Place, String)>,
    /// A secret that is written out where the problem is: no rendering shows it.
    pub(crate) secret: Option<Text>,
}

pub(crate) const WRITTEN_OUT: &str = "a secret is written out here; write where it is: `${file:/run/secrets/name}` or `${env:NAME}`";

/// A moment in the search for problems.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(usize);

/// All problems found so far, and what their places mean.
#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    /// Problems with a value that is not read now (a secret's file, in `check`): nothing is known of them.
    unread: Vec<Problem>,
    pub(crate) places: Places,
    /// A factory's files were loaded: a secret that is written out is a problem.
    pub(crate) strict: bool,
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
        self.add(Problem { severity, place, message, help: None, is_plain: false, related: Vec::new(), secret: None })
    }

    pub(crate) fn add(&mut self, problem: Problem) -> &mut Problem {
        if let Some(secret) = &problem.secret {
            self.places.add_secret(secret.as_str(), "<secret>");
        }
        let list = if self.places.is_unread(problem.place) { &mut self.unread } else { &mut self.list };
        list.push(problem);
        list.last_mut().expect("just pushed")
    }

    /// Adds an error whose message says what failed, then after `; ` what to do.
    pub fn refused(&mut self, place: Place, message: &str) {
        match message.split_once("; ") {
            Some((what, help)) => _ = self.error(place, what).help(help.to_owned()),
            None => _ = self.error(place, message),
        }
    }

    /// Refuses a secret that is no reference.
    pub(crate) fn written_out(&mut self, place: Place, text: &Text) {
        let what = WRITTEN_OUT.split_once("; ").map_or((WRITTEN_OUT, ""), |parts| parts);
        let problem = Problem {
            severity: Severity::Error,
            place,
            message: what.0.into(),
            help: Some(what.1.into()),
            is_plain: true,
            related: Vec::new(),
            secret: Some(text.clone()),
        };
        self.add(problem);
    }

    pub fn has_errors(&self) -> bool {
        self.iter().any(|p| p.severity == Severity::Error)
    }

    /// How many problems there are by now, to ask later for [`Self::has_errors_since`].
    pub fn mark(&self) -> Mark {
        Mark(self.list.len())
    }

    /// Whether an error was found since `mark`.
    pub fn has_errors_since(&self, mark: Mark) -> bool {
        self.list[mark.0..].iter().any(|p| p.severity == Severity::Error)
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The problems in the order they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// A place in a file that is no YAML: a schema. Lines and columns count from one.
    pub fn place_in(&mut self, file: &str, text: &str, line: usize, column: usize) -> Place {
        let file = self.places.add_file(file, text.into());
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.places.mark(file, Place::NONE, Step::Root, (count(line), count(column)))
    }

    /// What a place means: file, line, column, path.
    /// The files that were read as configuration, tables too, in their order: as far as they are text. No secret's file is among them.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.places.names()
    }

    pub fn locate(&self, place: Place) -> Location {
        self.places.locate(place)
    }
}

impl Problem {
    /// What to do about it.
    pub fn help(&mut self, text: impl Into<Cow<'static, str>>) -> &mut Self {
        let text = text.into();
        self.is_plain = matches!(text, Cow::Borrowed(_));
        self.help = Some(text.into_owned());
        self
    }

    pub fn also(&mut self, place: Place, note: impl Into<String>) -> &mut Self {
        self.related.push((place, note.into()));
        self
    }
}
