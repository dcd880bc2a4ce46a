//! JSON Schema of the whole file, from the same types that parse it.

use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

/// What the holder of the catalog knows of the connectors.
pub struct Catalog<'a> {
    pub sources: &'a [(&'a str, SchemaOf)],
    pub sinks: &'a [(&'a str, SchemaOf)],
    /// The tag options (`contract::TagOptions`).
    pub tag_options: SchemaOf,
}

pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The JSON Schema of a factory's file.
pub fn schema(_catalog: &Catalog) -> Value {
    todo!()
}

/// The reference of a factory's file, in Markdown.
pub fn reference(_catalog: &Catalog) -> String {
    todo!()
}
