//! A compiled message: its fields by the names a document may have for them.

use std::collections::HashMap;

/// The name the schema's own text is compiled under.
pub(in crate::contract) const OWN: &str = "millrace/schema.proto";

pub(in crate::contract) const UNPACKED: u32 = 2;

/// A compiled message, and all it holds.
#[derive(Debug)]
pub struct Message {
    pub(in crate::contract) types: Vec<Fields>,
    pub(in crate::contract) root: usize,
}

#[derive(Debug)]
pub(in crate::contract) struct Fields {
    pub(in crate::contract) name: Box<str>,
    pub(in crate::contract) form: Form,
    pub(in crate::contract) fields: Vec<Field>,
    pub(in crate::contract) by_name: HashMap<Box<str>, usize>,
    /// Numbers of the fields that must be there.
    pub(in crate::contract) required: Vec<usize>,
}

/// What JSON has for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::contract) enum Form {
    Object,
    Timestamp,
    Duration,
    /// Of one field, `value`.
    Wrapper,
    Struct,
    Value,
    List,
}

#[derive(Debug)]
pub(in crate::contract) struct Field {
    pub(in crate::contract) name: Box<str>,
    pub(in crate::contract) number: u32,
    pub(in crate::contract) of: Scalar,
    pub(in crate::contract) shape: Shape,
    /// A zero is written like any other value.
    pub(in crate::contract) presence: bool,
    pub(in crate::contract) oneof: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::contract) enum Shape {
    One,
    List {
        packed: bool,
    },
    /// Of entries: a key, a value.
    Map,
}

#[derive(Debug)]
pub(in crate::contract) enum Scalar {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    Text,
    Bytes,
    Enum { name: Box<str>, values: HashMap<Box<str>, i32>, is_closed: bool },
    Message(usize),
}

impl Scalar {
    pub(super) const fn wire(&self) -> u32 {
        match self {
            Self::Double | Self::Fixed64 | Self::Sfixed64 => 1,
            Self::Text | Self::Bytes | Self::Message(_) => UNPACKED,
            Self::Float | Self::Fixed32 | Self::Sfixed32 => 5,
            _ => 0,
        }
    }
}
