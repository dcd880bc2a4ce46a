//! A compiled Avro schema: types that name each other by number.

use crate::contract::misfit::{Misfit, shown};
use crate::contract::time::Unit;
use crate::scan::{Scanner, Text};
use std::collections::HashMap;

pub(in crate::contract) type Id = usize;

/// A compiled Avro schema: its types, which name each other by number.
#[derive(Debug)]
pub struct Avro {
    pub(in crate::contract) types: Vec<Type>,
    pub(in crate::contract) root: Id,
}

#[derive(Debug)]
pub(in crate::contract) enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed {
        size: usize,
        name: Box<str>,
    },
    Enum {
        symbols: HashMap<Box<str>, i64>,
        name: Box<str>,
        /// What a reader takes a symbol for that it does not know.
        default: Option<i64>,
    },
    /// `size`: of a fixed.
    Decimal {
        precision: u32,
        scale: u32,
        size: Option<usize>,
    },
    /// As text or, with 16 bytes, as fixed.
    Uuid {
        is_fixed: bool,
    },
    Date,
    Time(Unit),
    Timestamp {
        unit: Unit,
        local: bool,
    },
    Array(Id),
    Map(Id),
    Union(Vec<Id>),
    Record(Record),
}

impl Type {
    /// Its name as a branch of a union.
    pub(in crate::contract) fn name(&self) -> &str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Int | Self::Date | Self::Time(Unit::Millis) => "int",
            Self::Long | Self::Time(_) | Self::Timestamp { .. } => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Bytes | Self::Decimal { size: None, .. } => "bytes",
            Self::Text | Self::Uuid { is_fixed: false } => "string",
            Self::Fixed { name, .. } | Self::Enum { name, .. } => name,
            Self::Decimal { .. } | Self::Uuid { .. } => "fixed",
            Self::Array(_) => "array",
            Self::Map(_) => "map",
            Self::Record(record) => &record.name,
            Self::Union(_) => "",
        }
    }
}

#[derive(Debug, Default)]
pub(in crate::contract) struct Record {
    pub(in crate::contract) name: Box<str>,
    pub(in crate::contract) fields: Vec<Field>,
    pub(in crate::contract) by_name: HashMap<Box<str>, usize>,
}

impl Record {
    #[inline(never)]
    pub(in crate::contract) fn index_of(&self, key: &Text<'_>, s: &Scanner<'_>) -> Result<usize, Box<Misfit>> {
        let name = key.cow();
        let unknown = || Misfit::at(s, format!("key {} is not in record {}", shown(&name), self.name));
        self.by_name.get(&*name).copied().ok_or_else(unknown)
    }
}

#[derive(Debug)]
pub(in crate::contract) struct Field {
    pub(in crate::contract) name: Box<str>,
    pub(in crate::contract) id: Id,
    /// The default as a document has it.
    pub(in crate::contract) default: Option<Box<str>>,
    /// Its type has null, and this is where.
    pub(in crate::contract) null: Option<Option<usize>>,
}
