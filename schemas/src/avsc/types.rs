//! The types of an Avro schema, as its text declares them.

use crate::schema_error::SchemaError;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Index of a type in its schema.
pub type NodeId = usize;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Primitive {
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
pub struct Name {
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
pub struct Field {
    pub name: String,
    pub doc: Option<String>,
    pub aliases: Vec<String>,
    pub node: NodeId,
    pub default: Option<Value>,
    pub order: Option<String>,
    pub properties: Map<String, Value>,
}

#[derive(Clone, Debug)]
pub struct Named {
    pub name: Name,
    pub doc: Option<String>,
    /// Full names.
    pub aliases: Vec<Name>,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Primitive(Primitive),
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record { named: Named, fields: Vec<Field>, is_error: bool },
    Enum { named: Named, symbols: Vec<String>, default: Option<String> },
    Fixed { named: Named, size: u64 },
}

#[derive(Clone, Debug)]
pub struct Node {
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

/// A file that a schema names, by the full name of the type in it.
#[derive(Clone, Debug)]
pub struct NamedFile {
    pub name: String,
    pub text: String,
    /// Files that this one names, all of them before it.
    pub references: Vec<usize>,
}

/// A parsed schema.
#[derive(Clone, Debug)]
pub struct Avsc {
    pub(super) nodes: Vec<Node>,
    pub(super) names: HashMap<String, NodeId>,
    pub(super) root: NodeId,
    /// The first node of the schema's own text: what its references define was read before.
    pub(super) own: NodeId,
    /// Files that were read for names it does not declare.
    pub(super) files: Vec<NamedFile>,
    /// Those of them that it names itself.
    pub(super) references: Vec<usize>,
}

impl Avsc {
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn root(&self) -> NodeId {
        self.root
    }

    pub fn files(&self) -> &[NamedFile] {
        &self.files
    }

    pub fn references(&self) -> &[usize] {
        &self.references
    }

    /// Where a type stands first: `record R, field a`; empty outside of records.
    pub fn place_of(&self, id: NodeId) -> Option<String> {
        self.nodes.iter().find_map(|node| {
            let Kind::Record { named, fields, .. } = &node.kind else { return None };
            let field = fields.iter().find(|field| self.is_within(field.node, id))?;
            Some(format!("record {}, field {}", named.name.full(), field.name))
        })
    }

    /// Whether a type is the other, or made of it without a record between them.
    fn is_within(&self, outer: NodeId, id: NodeId) -> bool {
        outer == id
            || match &self.nodes[outer].kind {
                Kind::Array(inner) | Kind::Map(inner) => self.is_within(*inner, id),
                Kind::Union(branches) => branches.iter().any(|branch| self.is_within(*branch, id)),
                _ => false,
            }
    }

    /// Every default is a value of its field's type, as Avro's own JSON has it.
    ///
    /// Errors: the field, the default, the type.
    pub fn check_defaults(&self) -> Result<(), SchemaError> {
        for node in &self.nodes {
            let Kind::Record { named, fields, .. } = &node.kind else { continue };
            for field in fields {
                if let Some(default) = &field.default
                    && !self.is_valid(field.node, default, 0)
                {
                    let type_name = self.nodes[field.node].type_name();
                    let what = format!("invalid default for field {} of {}: {default} not a {type_name}", field.name, named.name.full());
                    return Err(SchemaError::whole(what));
                }
            }
        }
        Ok(())
    }

    fn is_valid(&self, id: NodeId, value: &Value, depth: usize) -> bool {
        // A default can't be deeper than the JSON it stands in; what recurses without taking from it is a record of defaults.
        if depth > 200 {
            return false;
        }
        match (&self.nodes[id].kind, value) {
            (Kind::Primitive(Primitive::Null), Value::Null)
            | (Kind::Primitive(Primitive::Boolean), Value::Bool(_))
            | (Kind::Primitive(Primitive::Float | Primitive::Double), Value::Number(_))
            | (Kind::Primitive(Primitive::Bytes | Primitive::String), Value::String(_))
            | (Kind::Fixed { .. } | Kind::Enum { .. }, Value::String(_)) => true,
            (Kind::Primitive(Primitive::Int), Value::Number(number)) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Kind::Primitive(Primitive::Long), Value::Number(number)) => number.as_i64().is_some(),
            (Kind::Array(items), Value::Array(list)) => list.iter().all(|one| self.is_valid(*items, one, depth + 1)),
            (Kind::Map(values), Value::Object(map)) => map.values().all(|one| self.is_valid(*values, one, depth + 1)),
            (Kind::Union(branches), value) => branches.iter().any(|branch| self.is_valid(*branch, value, depth + 1)),
            (Kind::Record { fields, .. }, Value::Object(map)) => fields.iter().all(|field| match map.get(&field.name) {
                Some(value) => self.is_valid(field.node, value, depth + 1),
                None => field.default.is_some(),
            }),
            _ => false,
        }
    }
}
