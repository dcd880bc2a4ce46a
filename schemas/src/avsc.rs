//! Avro schemas: parsed with everything they refer to, written back in one form.
//!
//! ```text
//! nodes   one per type, in an arena; a named type that is used again is the same node, so recursion is a cycle of indexes
//! names   full name -> node
//! ```
//!
//! Every rule of a parser that makes records ambiguous is held here: names, duplicate fields and symbols, unions of the same type twice. The
//! canonical form is Java's `Schema.toString()`, so that two texts of one schema are one schema. [`crate::contract`] makes a writer of it, the
//! registry compares two.

mod parse;
mod types;
mod write;

pub use types::{Avsc, Field, Kind, Name, Named, NamedFile, Node, NodeId, Primitive};

/// A text as a name that Avro takes: letters, digits and `_`, no digit first. Different texts may have one name.
///
/// Source: Avro specification, Names.
pub fn name(text: &str) -> String {
    let mut name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        name.insert(0, '_');
    }
    name
}
