//! Avro schemas: parsed with everything they refer to, written back in one form, compared by the specification's resolution rules.
//!
//! ```text
//! nodes   one per type, in an arena; a named type that is used again is the same node, so recursion is a cycle of indexes
//! names   full name -> node
//! ```
//!
//! Every rule of a parser that makes records ambiguous is held here: names, duplicate fields and symbols, unions of the same type twice,
//! defaults of another type. `canonical` is Java's `Schema.toString()`, so that two texts of one schema are one schema.

mod compare;
mod parse;
mod write;

pub(crate) use compare::incompatibilities;

use serde_json::{Map, Value};
use std::collections::HashMap;

/// Index of a type in its schema.
pub(crate) type NodeId = usize;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Primitive {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
}

impl Primitive {
    pub const ALL: [Self; 8] = [Self::Null, Self::Boolean, Self::Int, Self::Long, Self::Float, Self::Double, Self::Bytes, Self::String];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Bytes => "bytes",
            Self::String => "string",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|primitive| primitive.as_str() == name)
    }
}

/// A full name in its parts.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Name {
    pub space: Option<String>,
    pub name: String,
}

impl Name {
    pub fn full(&self) -> String {
        match &self.space {
            Some(space) => format!("{space}.{}", self.name),
            None => self.name.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub name: String,
    pub doc: Option<String>,
    pub aliases: Vec<String>,
    pub node: NodeId,
    pub default: Option<Value>,
    pub order: Option<String>,
    pub properties: Map<String, Value>,
}

#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub name: Name,
    pub doc: Option<String>,
    /// Full names.
    pub aliases: Vec<Name>,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Primitive(Primitive),
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record { named: Named, fields: Vec<Field>, is_error: bool },
    Enum { named: Named, symbols: Vec<String>, default: Option<String> },
    Fixed { named: Named, size: u64 },
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub kind: Kind,
    /// Attributes the specification does not reserve, logical types among them.
    pub properties: Map<String, Value>,
}

impl Node {
    /// The name of the type, as messages and unions have it.
    pub fn type_name(&self) -> &'static str {
        match &self.kind {
            Kind::Primitive(primitive) => primitive.as_str(),
            Kind::Array(_) => "array",
            Kind::Map(_) => "map",
            Kind::Union(_) => "union",
            Kind::Record { .. } => "record",
            Kind::Enum { .. } => "enum",
            Kind::Fixed { .. } => "fixed",
        }
    }

    pub fn named(&self) -> Option<&Named> {
        match &self.kind {
            Kind::Record { named, .. } | Kind::Enum { named, .. } | Kind::Fixed { named, .. } => Some(named),
            _ => None,
        }
    }
}

/// A parsed schema.
#[derive(Clone, Debug)]
pub(crate) struct Avro {
    nodes: Vec<Node>,
    names: HashMap<String, NodeId>,
    root: NodeId,
    /// The first node of the schema's own text: what its references define was read before.
    own: NodeId,
}

impl Avro {
    /// Parses a schema after those it refers to, which must come in the order of their use.
    ///
    /// Errors: one line that says what is wrong and where.
    pub fn parse(text: &str, references: &[&str]) -> Result<Self, String> {
        parse::parse(text, references)
    }

    /// The schema in Java's form: what comes from references is named, not repeated. `sorted`: attributes in order of their names.
    pub fn canonical(&self, sorted: bool) -> String {
        write::write(self, sorted)
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub(crate) fn root(&self) -> NodeId {
        self.root
    }
}
