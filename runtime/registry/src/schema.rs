//! A schema as a registry holds it: its kind, its text, and the schemas it refers to.

pub use millrace_schemas::contract::Kind;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A schema of another subject that this one uses, under the name by which it does: an Avro full name, a JSON Schema's `$ref`, a
/// Protobuf import.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    pub subject: String,
    /// A version, or -1 for the latest where it is registered.
    pub version: i32,
}

/// What is registered under a subject.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Schema {
    pub kind: Kind,
    pub text: String,
    pub references: Vec<Reference>,
}

impl Schema {
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), references: Vec::new() }
    }
}

/// A schema with the texts of everything it refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    pub schema: Schema,
    /// Name of the reference and what it stands for; what others need comes before them, each name once.
    pub references: Vec<(String, Schema)>,
}

/// The number by which a record names its schema: the four bytes after the magic byte, big-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchemaId(pub i32);

impl SchemaId {
    /// Bytes in front of a value: the magic byte zero, then the id.
    pub const PREFIX: usize = 5;

    /// The prefix of a value in Avro or JSON. Protobuf adds the message's indexes, see [`SchemaId::FIRST_MESSAGE`].
    pub const fn prefix(self) -> [u8; Self::PREFIX] {
        let id = self.0.to_be_bytes();
        [0, id[0], id[1], id[2], id[3]]
    }

    /// The id a value begins with, and the rest; `None` where there is no prefix.
    pub fn split(value: &[u8]) -> Option<(Self, &[u8])> {
        let (prefix, rest) = value.split_first_chunk::<{ Self::PREFIX }>()?;
        let [0, id @ ..] = *prefix else { return None };
        Some((Self(i32::from_be_bytes(id)), rest))
    }

    /// After a Protobuf value's prefix: the indexes of the message, in its short form for the first message of the file.
    pub const FIRST_MESSAGE: u8 = 0;
}

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_taken_off_as_it_was_put_on() {
        let mut value = SchemaId(258).prefix().to_vec();
        assert_eq!(value, [0, 0, 0, 1, 2]);
        value.extend_from_slice(b"rest");
        assert_eq!(SchemaId::split(&value), Some((SchemaId(258), &b"rest"[..])));
        assert_eq!(SchemaId::split(b"{\"a\":1}"), None);
        assert_eq!(SchemaId::split(&[0, 0, 0]), None);
    }
}
