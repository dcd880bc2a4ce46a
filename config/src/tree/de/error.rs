//! Why a value was refused, in serde's terms and in a person's, and the way up from it.

use crate::tree::node::{Entry, Node, shorten};
use crate::tree::problem::{Problem, WRITTEN_OUT};
use crate::tree::suggest;
use serde::de::Unexpected;
use std::cell::RefCell;
use std::fmt;

thread_local! {
    /// Problems found by [`parse_within`](super::parse_within), on their way to the parse around it.
    pub(super) static WITHIN: RefCell<Vec<Problem>> = const { RefCell::new(Vec::new()) };
}

pub(super) const SPANNED: &str = "$millrace::Spanned";
pub(super) const NODE: &str = "$millrace::Node";

/// A node's address: its identity while one parse borrows the tree.
pub(super) type Id = *const Node;

/// Why a value was refused, and the way up from it.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) what: What,
    /// Addresses of the value and of everything around it, innermost first.
    pub(super) trail: Vec<Id>,
}

#[derive(Debug)]
pub(super) enum What {
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
    pub(super) fn new(what: What) -> Self {
        Self { what, trail: Vec::new() }
    }

    pub(super) fn through(mut self, node: &Node) -> Self {
        if self.trail.last().is_none_or(|last| !std::ptr::eq(*last, node)) {
            self.trail.push(node);
        }
        self
    }

    pub(super) fn in_key(self, entry: &Entry) -> Self {
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
pub(super) type Result<T, E = Error> = std::result::Result<T, E>;
