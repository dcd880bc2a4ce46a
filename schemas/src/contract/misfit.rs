//! Why a document does not fit, and at which place of it.

use crate::scan::{ScanError, Scanner};
use crate::schema_error::cut;
use std::borrow::Cow;
use std::fmt;

/// Why a document does not fit, and at which place of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Misfit {
    /// Keys and indexes, innermost first.
    pub(super) path: Vec<Step>,
    /// The byte, where it is known.
    pub(super) at: Option<usize>,
    pub(super) what: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Key(Box<str>),
    Index(usize),
}

/// Keys and indexes of a place that are shown.
pub(super) const STEPS: usize = 32;

impl Misfit {
    pub(super) fn new(what: impl Into<String>) -> Box<Self> {
        Box::new(Self { path: Vec::new(), at: None, what: what.into() })
    }

    pub(super) fn at(scanner: &Scanner<'_>, what: impl Into<String>) -> Box<Self> {
        Box::new(Self { path: Vec::new(), at: Some(scanner.at()), what: what.into() })
    }

    /// "expected .., found ..", with a piece of what stands there.
    pub(super) fn expected(scanner: &Scanner<'_>, wanted: impl fmt::Display) -> Box<Self> {
        let mut probe = *scanner;
        match probe.skip() {
            Ok(text) => {
                let start = probe.at() - text.len();
                Box::new(Self { path: Vec::new(), at: Some(start), what: format!("expected {wanted}, found {}", shown(text)) })
            }
            Err(error) => error.into(),
        }
    }

    pub(super) fn in_key(mut self: Box<Self>, key: &str) -> Box<Self> {
        self.path.push(Step::Key(cut(key).into()));
        self
    }

    pub(super) fn in_item(mut self: Box<Self>, index: usize) -> Box<Self> {
        self.path.push(Step::Index(index));
        self
    }

    /// As a JSON pointer; empty for the document as a whole. Only the beginning of a very deep one.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for (depth, step) in self.path.iter().rev().enumerate() {
            path.push('/');
            if depth == STEPS {
                path.push_str("...");
                break;
            }
            match step {
                Step::Key(key) => path.push_str(&key.replace('~', "~0").replace('/', "~1")),
                Step::Index(index) => path.push_str(&index.to_string()),
            }
        }
        path
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path();
        match (path.as_str(), self.at) {
            ("", None) => {}
            ("", Some(at)) => write!(f, "byte {at}: ")?,
            (path, None) => write!(f, "{path}: ")?,
            (path, Some(at)) => write!(f, "{path} (byte {at}): ")?,
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for Misfit {}

impl From<ScanError> for Box<Misfit> {
    fn from(error: ScanError) -> Self {
        Box::new(Misfit { path: Vec::new(), at: Some(error.at), what: format!("is not JSON: {}", error.what) })
    }
}

pub(super) fn shown(text: &str) -> Cow<'_, str> {
    let beginning = cut(text);
    if beginning.len() < text.len() { format!("{beginning}...").into() } else { beginning.into() }
}

/// What a piece of a conversion answers.
pub(super) type Written = Result<(), Box<Misfit>>;
