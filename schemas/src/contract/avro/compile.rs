//! From a parsed schema to the types a document is written by.
//!
//! A logical type that is unknown, or does not fit its type, is ignored, as the specification wants it.

use crate::avsc::{self, Avsc, Kind as Of, Node, Primitive};
use crate::contract::avro::types::{Avro, Field, Id, Record, Type};
use crate::contract::number::DIGITS_MAX;
use crate::contract::schema::{Kind, Reference, Schema};
use crate::contract::time::Unit;
use crate::schema_error::{Files, SchemaError};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of a fixed, at most.
const FIXED_MAX: u64 = 16 << 20;

pub(in crate::contract) fn compile(text: &str, files: &mut Files<'_>) -> Result<(Schema, Avro), SchemaError> {
    let parsed = Avsc::parse(text, &[], Some(files))?;
    let mut types = Vec::with_capacity(parsed.nodes().len());
    for (id, node) in parsed.nodes().iter().enumerate() {
        types.push(type_of(node).map_err(|error| match parsed.place_of(id) {
            Some(place) => SchemaError::whole(format!("{place}: {error}")),
            None => error,
        })?);
    }
    for (id, node) in parsed.nodes().iter().enumerate() {
        let Of::Record { named, fields, .. } = &node.kind else { continue };
        types[id] = Type::Record(record(&named.name.full(), fields, &types)?);
    }
    let avro = Avro { types, root: parsed.root() };
    avro.check_defaults()?;
    Ok((schema(text, &parsed), avro))
}

/// The schema as it is registered, with the files it names.
fn schema(text: &str, parsed: &Avsc) -> Schema {
    let mut known: Vec<Reference> = Vec::new();
    for file in parsed.files() {
        let references = file.references.iter().map(|at| known[*at].clone()).collect();
        let name: Arc<str> = file.name.as_str().into();
        let schema = Schema { kind: Kind::Avro, text: file.text.as_str().into(), name: name.clone(), references, indexes: Box::default() };
        known.push(Reference { name, schema: Arc::new(schema) });
    }
    let name = parsed.node(parsed.root()).named().map_or(Arc::from(""), |named| named.name.full().into());
    let references = parsed.references().iter().map(|at| known[*at].clone()).collect();
    Schema { kind: Kind::Avro, text: text.into(), name, references, indexes: Box::default() }
}

/// A type of its own; a record without its fields, which need the others.
fn type_of(node: &Node) -> Result<Type, SchemaError> {
    Ok(match &node.kind {
        Of::Primitive(primitive) => with_logical(*primitive, &node.properties)?,
        Of::Array(items) => Type::Array(*items),
        Of::Map(values) => Type::Map(*values),
        Of::Union(branches) if branches.is_empty() => return Err(SchemaError::whole("a union without branches")),
        Of::Union(branches) => Type::Union(branches.clone()),
        Of::Record { named, .. } => Type::Record(Record { name: named.name.full().into(), ..Record::default() }),
        Of::Enum { named, symbols, default } => {
            let symbols: HashMap<Box<str>, i64> = symbols.iter().zip(0..).map(|(symbol, at)| (symbol.as_str().into(), at)).collect();
            let default = default.as_ref().and_then(|default| symbols.get(default.as_str()).copied());
            Type::Enum { symbols, name: named.name.full().into(), default }
        }
        Of::Fixed { named, size } => {
            let name = named.name.full();
            if *size > FIXED_MAX {
                return Err(SchemaError::whole(format!("fixed {name} needs a size up to {FIXED_MAX}")));
            }
            let size = *size as usize;
            let logical = match logical(&node.properties) {
                "decimal" => decimal_of(&node.properties, Some(size)).unwrap_or(None),
                "uuid" if size == 16 => Some(Type::Uuid { is_fixed: true }),
                _ => None,
            };
            logical.unwrap_or(Type::Fixed { size, name: name.into() })
        }
    })
}

fn record(name: &str, list: &[avsc::Field], types: &[Type]) -> Result<Record, SchemaError> {
    let mut fields = Vec::with_capacity(list.len());
    for field in list {
        let default = field.default.as_ref().map(|default| default_of(default, field.node, types)).transpose();
        let default = default.map_err(|error| SchemaError::whole(format!("record {name}, field {}: {error}", field.name)))?;
        fields.push(Field { name: field.name.as_str().into(), id: field.node, default, null: null_of(types, field.node) });
    }
    let by_name = fields.iter().enumerate().map(|(at, field): (usize, &Field)| (field.name.clone(), at)).collect();
    Ok(Record { name: name.into(), fields, by_name })
}

/// A default as a document would have it: Avro writes bytes as characters up to U+00FF, documents as base64.
fn default_of(default: &Value, of: Id, types: &[Type]) -> Result<Box<str>, SchemaError> {
    let is_bytes = |id: Id| matches!(types[id], Type::Bytes | Type::Fixed { .. });
    let takes_bytes = match &types[of] {
        Type::Union(branches) => {
            branches.iter().any(|b| is_bytes(*b)) && !branches.iter().any(|b| matches!(types[*b], Type::Text | Type::Enum { .. }))
        }
        _ => is_bytes(of),
    };
    match default {
        Value::String(text) if takes_bytes => {
            use base64::Engine;
            let bytes: Result<Vec<u8>, _> = text.chars().map(|c| u8::try_from(u32::from(c))).collect();
            let bytes = bytes.map_err(|_| SchemaError::whole("the default of bytes has a character above U+00FF"))?;
            Ok(format!("\"{}\"", base64::engine::general_purpose::STANDARD.encode(bytes)).into())
        }
        other => Ok(other.to_string().into()),
    }
}

/// Where a type has its null: a union's branch, or itself.
fn null_of(types: &[Type], id: Id) -> Option<Option<usize>> {
    match &types[id] {
        Type::Null => Some(None),
        Type::Union(branches) => branches.iter().position(|b| matches!(types[*b], Type::Null)).map(Some),
        _ => None,
    }
}

fn logical(properties: &Map<String, Value>) -> &str {
    properties.get("logicalType").and_then(Value::as_str).unwrap_or_default()
}

fn with_logical(of: Primitive, properties: &Map<String, Value>) -> Result<Type, SchemaError> {
    Ok(match (of, logical(properties)) {
        (Primitive::Int, "date") => Type::Date,
        (Primitive::Int, "time-millis") => Type::Time(Unit::Millis),
        (Primitive::Long, "time-micros") => Type::Time(Unit::Micros),
        (Primitive::Long, "timestamp-millis") => Type::Timestamp { unit: Unit::Millis, local: false },
        (Primitive::Long, "timestamp-micros") => Type::Timestamp { unit: Unit::Micros, local: false },
        (Primitive::Long, "timestamp-nanos") => Type::Timestamp { unit: Unit::Nanos, local: false },
        (Primitive::Long, "local-timestamp-millis") => Type::Timestamp { unit: Unit::Millis, local: true },
        (Primitive::Long, "local-timestamp-micros") => Type::Timestamp { unit: Unit::Micros, local: true },
        (Primitive::Long, "local-timestamp-nanos") => Type::Timestamp { unit: Unit::Nanos, local: true },
        (Primitive::String, "uuid") => Type::Uuid { is_fixed: false },
        (Primitive::Bytes, "decimal") => decimal_of(properties, None)?.unwrap_or(Type::Bytes),
        (Primitive::Bytes, "big-decimal") => return Err(SchemaError::whole("the logical type big-decimal is not converted: use decimal")),
        (Primitive::Null, _) => Type::Null,
        (Primitive::Boolean, _) => Type::Boolean,
        (Primitive::Int, _) => Type::Int,
        (Primitive::Long, _) => Type::Long,
        (Primitive::Float, _) => Type::Float,
        (Primitive::Double, _) => Type::Double,
        (Primitive::Bytes, _) => Type::Bytes,
        (Primitive::String, _) => Type::Text,
    })
}

/// `None`: its precision or scale is no such thing, and the logical type is ignored.
fn decimal_of(properties: &Map<String, Value>, size: Option<usize>) -> Result<Option<Type>, SchemaError> {
    let number = |key: &str| properties.get(key).map(Value::as_u64);
    let (Some(Some(precision)), Some(scale)) = (number("precision"), number("scale").unwrap_or(Some(0))) else { return Ok(None) };
    if precision > u64::from(DIGITS_MAX) {
        return Err(SchemaError::whole(format!("a decimal of {precision} digits; {DIGITS_MAX} are the most")));
    }
    if precision == 0 || scale > precision {
        return Ok(None);
    }
    Ok(Some(Type::Decimal { precision: precision as u32, scale: scale as u32, size }))
}
