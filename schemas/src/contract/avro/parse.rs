//! Which types does an Avro schema's text declare?
//!
//! Avro 1.12, with references to named types in files of their own: `acme.Address` is looked for in `acme.Address.avsc`, then `Address.avsc`.
//! Recursive types are fine. A logical type that is unknown, or does not fit its type, is ignored, as the specification wants it.

use super::super::number::DIGITS_MAX;
use super::super::time::Unit;
use super::super::{Files, Kind, Reference, Schema, SchemaError, cut};
use super::{Avro, Field, Id, Record, Type};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// Types of one schema, at most.
const TYPES_MAX: usize = 100_000;
/// Bytes of a fixed, at most.
const FIXED_MAX: u64 = 16 << 20;

pub(super) fn parse(text: &str, files: &mut Files<'_>) -> Result<(Schema, Avro), SchemaError> {
    let value: Value = serde_json::from_str(text).map_err(|e| SchemaError::json(&e))?;
    let mut parser =
        Parser { types: Vec::new(), names: HashMap::new(), loaded: HashMap::new(), files, references: Vec::new(), open: Vec::new() };
    let root = parser.any(&value, "", "").map_err(Fault::into_error)?;
    let name = match &parser.types[root] {
        Type::Record(record) => record.name.as_ref().into(),
        Type::Enum { name, .. } | Type::Fixed { name, .. } => name.as_ref().into(),
        _ => Arc::from(""),
    };
    let mut avro = Avro { types: parser.types, root };
    for at in 0..avro.types.len() {
        let Type::Record(record) = &avro.types[at] else { continue };
        let nulls: Vec<_> = record.fields.iter().map(|f| null_of(&avro.types, f.id)).collect();
        let Type::Record(record) = &mut avro.types[at] else { continue };
        record.fields.iter_mut().zip(nulls).for_each(|(field, null)| field.null = null);
    }
    let schema = Schema { kind: Kind::Avro, text: text.into(), name, references: parser.references, indexes: Box::default() };
    Ok((schema, avro))
}

/// Where a type has its null: a union's branch, or itself.
fn null_of(types: &[Type], id: Id) -> Option<Option<usize>> {
    match &types[id] {
        Type::Null => Some(None),
        Type::Union(branches) => branches.iter().position(|b| matches!(types[*b], Type::Null)).map(Some),
        _ => None,
    }
}

/// What is wrong, and at which place of the schema's own tree.
struct Fault {
    path: Vec<String>,
    error: SchemaError,
}

impl Fault {
    fn new(what: impl Into<String>) -> Self {
        Self { path: Vec::new(), error: SchemaError::whole(what) }
    }

    fn at(mut self, step: impl Into<String>) -> Self {
        self.path.push(step.into());
        self
    }

    fn into_error(mut self) -> SchemaError {
        if !self.path.is_empty() {
            self.path.reverse();
            self.error.what = format!("{}: {}", self.path.join(", "), self.error.what);
        }
        self.error
    }
}

type Parsed<T> = Result<T, Fault>;

struct Parser<'f, 'g> {
    types: Vec<Type>,
    names: HashMap<Box<str>, Id>,
    /// Files that were read, by the name they were asked for.
    loaded: HashMap<String, Reference>,
    files: &'f mut Files<'g>,
    /// Of the file at hand.
    references: Vec<Reference>,
    /// Names whose files are being read.
    open: Vec<String>,
}

impl Parser<'_, '_> {
    fn push(&mut self, of: Type) -> Parsed<Id> {
        if self.types.len() >= TYPES_MAX {
            return Err(Fault::new(format!("more than {TYPES_MAX} types")));
        }
        self.types.push(of);
        Ok(self.types.len() - 1)
    }

    /// `hint`: what it is the type of, for a message.
    fn any(&mut self, value: &Value, namespace: &str, hint: &str) -> Parsed<Id> {
        match value {
            Value::String(name) => match primitive(name) {
                Some(of) => self.push(of),
                None => self.named(name, namespace),
            },
            Value::Array(branches) => self.union(branches, namespace),
            Value::Object(map) => self.object(map, namespace),
            _ => Err(Fault::new(format!("{hint} {} is no type", cut(&value.to_string())).trim_start().to_owned())),
        }
    }

    fn object(&mut self, map: &Map<String, Value>, namespace: &str) -> Parsed<Id> {
        let of = map.get("type").ok_or_else(|| Fault::new("an object without `type` is no type"))?;
        let Value::String(of) = of else { return self.any(of, namespace, "type") };
        match of.as_str() {
            "record" | "error" => self.record(map, namespace),
            "enum" => {
                let (name, _) = self.full_name(map, namespace)?;
                let list = map.get("symbols").and_then(Value::as_array).ok_or_else(|| Fault::new(format!("enum {name} has no symbols")))?;
                let mut symbols = HashMap::new();
                for symbol in list {
                    let text = symbol.as_str().filter(|s| is_name(s));
                    let text = text.ok_or_else(|| Fault::new(format!("enum {name}: {} is no symbol", cut(&symbol.to_string()))))?;
                    if symbols.insert(text.into(), symbols.len() as i64).is_some() {
                        return Err(Fault::new(format!("enum {name} has {text} twice")));
                    }
                }
                let default = map.get("default").and_then(Value::as_str).and_then(|default| symbols.get(default)).copied();
                self.declare(name, |name| Type::Enum { symbols, name, default })
            }
            "fixed" => {
                let (name, _) = self.full_name(map, namespace)?;
                let size = map.get("size").and_then(Value::as_u64).filter(|size| *size <= FIXED_MAX);
                let size = size.ok_or_else(|| Fault::new(format!("fixed {name} needs a size up to {FIXED_MAX}")))? as usize;
                let of = match logical(map) {
                    "decimal" => decimal_of(map, Some(size)).unwrap_or(None),
                    "uuid" if size == 16 => Some(Type::Uuid { is_fixed: true }),
                    _ => None,
                };
                self.declare(name, |name| of.unwrap_or(Type::Fixed { size, name }))
            }
            "array" => {
                let items = map.get("items").ok_or_else(|| Fault::new("an array without `items`"))?;
                let items = self.any(items, namespace, "items").map_err(|f| f.at("items"))?;
                self.push(Type::Array(items))
            }
            "map" => {
                let values = map.get("values").ok_or_else(|| Fault::new("a map without `values`"))?;
                let values = self.any(values, namespace, "values").map_err(|f| f.at("values"))?;
                self.push(Type::Map(values))
            }
            name => match primitive(name) {
                Some(of) => {
                    let of = with_logical(of, map)?;
                    self.push(of)
                }
                None => self.named(name, namespace),
            },
        }
    }

    fn record(&mut self, map: &Map<String, Value>, namespace: &str) -> Parsed<Id> {
        let (name, namespace) = self.full_name(map, namespace)?;
        let list = map.get("fields").and_then(Value::as_array);
        let list = list.ok_or_else(|| Fault::new(format!("record {name} has no fields")))?.clone();
        let id = self.declare(name.clone(), |_| Type::Unknown)?;
        let (mut fields, mut by_name) = (Vec::new(), HashMap::new());
        for value in &list {
            let in_record = |f: Fault| f.at(format!("record {name}"));
            let field = value.get("name").and_then(Value::as_str).filter(|n| is_name(n));
            let field = field.ok_or_else(|| in_record(Fault::new(format!("a field without a name: {}", cut(&value.to_string())))))?;
            let in_field = |f: Fault| in_record(f.at(format!("field {field}")));
            let of = value.get("type").ok_or_else(|| in_field(Fault::new("has no type")))?;
            let of = self.any(of, &namespace, "type").map_err(in_field)?;
            if by_name.insert(field.into(), fields.len()).is_some() {
                return Err(in_field(Fault::new("is there twice")));
            }
            let default = value.get("default").map(|default| self.default_of(default, of)).transpose().map_err(in_field)?;
            fields.push(Field { name: field.into(), id: of, default, null: None });
        }
        self.types[id] = Type::Record(Record { name: name.into(), fields, by_name });
        Ok(id)
    }

    /// A default as a document would have it: Avro writes bytes as characters up to U+00FF, documents as base64.
    fn default_of(&self, default: &Value, of: Id) -> Parsed<Box<str>> {
        let is_bytes = |id: Id| matches!(self.types[id], Type::Bytes | Type::Fixed { .. });
        let takes_bytes = match &self.types[of] {
            Type::Union(branches) => {
                branches.iter().any(|b| is_bytes(*b)) && !branches.iter().any(|b| matches!(self.types[*b], Type::Text | Type::Enum { .. }))
            }
            _ => is_bytes(of),
        };
        match default {
            Value::String(text) if takes_bytes => {
                use base64::Engine;
                let bytes: Result<Vec<u8>, _> = text.chars().map(|c| u8::try_from(u32::from(c))).collect();
                let bytes = bytes.map_err(|_| Fault::new("the default of bytes has a character above U+00FF"))?;
                Ok(format!("\"{}\"", base64::engine::general_purpose::STANDARD.encode(bytes)).into())
            }
            other => Ok(other.to_string().into()),
        }
    }

    fn union(&mut self, list: &[Value], namespace: &str) -> Parsed<Id> {
        if list.is_empty() {
            return Err(Fault::new("a union without branches"));
        }
        let id = self.push(Type::Unknown)?;
        let mut branches: Vec<Id> = Vec::with_capacity(list.len());
        let mut taken: Vec<String> = Vec::new();
        for value in list {
            let branch = self.any(value, namespace, "branch")?;
            let name = match &self.types[branch] {
                Type::Union(_) => return Err(Fault::new("a union in a union")),
                // One that is being read, or is named: by its number.
                Type::Unknown | Type::Record(_) | Type::Enum { .. } | Type::Fixed { .. } => branch.to_string(),
                Type::Decimal { size: Some(_), .. } | Type::Uuid { is_fixed: true } => branch.to_string(),
                of => of.name().to_owned(),
            };
            if taken.contains(&name) {
                return Err(Fault::new(format!("a union with two branches of one type: {}", cut(&value.to_string()))));
            }
            taken.push(name);
            branches.push(branch);
        }
        self.types[id] = Type::Union(branches);
        Ok(id)
    }

    /// A type by its name: of this text, or of a file of its own.
    fn named(&mut self, name: &str, namespace: &str) -> Parsed<Id> {
        let full = if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") };
        if let Some((known, id)) = [full.as_str(), name].into_iter().find_map(|n| self.names.get_key_value(n)) {
            if let Some(reference) = self.loaded.get(&**known)
                && !self.references.iter().any(|r| r.name == reference.name)
            {
                self.references.push(reference.clone());
            }
            return Ok(*id);
        }
        if self.open.contains(&full) {
            return Err(Fault::new(format!("the file of {full} names it, but does not declare it")));
        }
        let short = full.rsplit('.').next().unwrap_or(&full);
        let found = [full.as_str(), short].into_iter().find_map(|n| (self.files)(&format!("{n}.avsc")));
        let text = found.ok_or_else(|| {
            Fault::new(format!("type {} is not there: neither declared before, nor in a file {full}.avsc or {short}.avsc", cut(name)))
        })?;
        let value: Value =
            serde_json::from_str(&text).map_err(|e| Fault { path: Vec::new(), error: SchemaError::json(&e).within(&full) })?;
        let outer = std::mem::take(&mut self.references);
        self.open.push(full.clone());
        let parsed = self.any(&value, "", "type");
        self.open.pop();
        let inner = std::mem::replace(&mut self.references, outer);
        parsed.map_err(|f| Fault { path: Vec::new(), error: f.into_error().within(&full) })?;
        let id = *self.names.get(full.as_str()).ok_or_else(|| Fault::new(format!("the file of {full} declares another type")))?;
        let schema = Schema { kind: Kind::Avro, text: text.into(), name: full.as_str().into(), references: inner, indexes: Box::default() };
        let reference = Reference { name: full.as_str().into(), schema: Arc::new(schema) };
        self.loaded.insert(full, reference.clone());
        self.references.push(reference);
        Ok(id)
    }

    fn declare(&mut self, name: String, of: impl FnOnce(Box<str>) -> Type) -> Parsed<Id> {
        if self.names.contains_key(name.as_str()) {
            return Err(Fault::new(format!("type {name} is declared twice")));
        }
        let id = self.push(of(name.as_str().into()))?;
        self.names.insert(name.into(), id);
        Ok(id)
    }

    /// The full name of a named type, and the namespace within it.
    fn full_name(&self, map: &Map<String, Value>, outer: &str) -> Parsed<(String, String)> {
        let name = map.get("name").and_then(Value::as_str).ok_or_else(|| Fault::new("a named type without `name`"))?;
        if !name.split('.').all(is_name) {
            return Err(Fault::new(format!("{} is no name", cut(name))));
        }
        if let Some((namespace, _)) = name.rsplit_once('.') {
            return Ok((name.to_owned(), namespace.to_owned()));
        }
        let namespace = map.get("namespace").and_then(Value::as_str).unwrap_or(outer);
        if namespace.is_empty() {
            return Ok((name.to_owned(), String::new()));
        }
        if !namespace.split('.').all(is_name) {
            return Err(Fault::new(format!("{} is no namespace", cut(namespace))));
        }
        Ok((format!("{namespace}.{name}"), namespace.to_owned()))
    }
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_') && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn primitive(name: &str) -> Option<Type> {
    Some(match name {
        "null" => Type::Null,
        "boolean" => Type::Boolean,
        "int" => Type::Int,
        "long" => Type::Long,
        "float" => Type::Float,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "string" => Type::Text,
        _ => return None,
    })
}

fn logical(map: &Map<String, Value>) -> &str {
    map.get("logicalType").and_then(Value::as_str).unwrap_or_default()
}

fn with_logical(of: Type, map: &Map<String, Value>) -> Parsed<Type> {
    Ok(match (of, logical(map)) {
        (Type::Int, "date") => Type::Date,
        (Type::Int, "time-millis") => Type::Time(Unit::Millis),
        (Type::Long, "time-micros") => Type::Time(Unit::Micros),
        (Type::Long, "timestamp-millis") => Type::Timestamp { unit: Unit::Millis, local: false },
        (Type::Long, "timestamp-micros") => Type::Timestamp { unit: Unit::Micros, local: false },
        (Type::Long, "timestamp-nanos") => Type::Timestamp { unit: Unit::Nanos, local: false },
        (Type::Long, "local-timestamp-millis") => Type::Timestamp { unit: Unit::Millis, local: true },
        (Type::Long, "local-timestamp-micros") => Type::Timestamp { unit: Unit::Micros, local: true },
        (Type::Long, "local-timestamp-nanos") => Type::Timestamp { unit: Unit::Nanos, local: true },
        (Type::Text, "uuid") => Type::Uuid { is_fixed: false },
        (Type::Bytes, "decimal") => decimal_of(map, None)?.unwrap_or(Type::Bytes),
        (Type::Bytes, "big-decimal") => return Err(Fault::new("the logical type big-decimal is not converted: use decimal")),
        (of, _) => of,
    })
}

/// `None`: its precision or scale is no such thing, and the logical type is ignored.
fn decimal_of(map: &Map<String, Value>, size: Option<usize>) -> Parsed<Option<Type>> {
    let number = |key: &str| map.get(key).map(Value::as_u64);
    let (Some(Some(precision)), Some(scale)) = (number("precision"), number("scale").unwrap_or(Some(0))) else { return Ok(None) };
    if precision > u64::from(DIGITS_MAX) {
        return Err(Fault::new(format!("a decimal of {precision} digits; {DIGITS_MAX} are the most")));
    }
    if precision == 0 || scale > precision {
        return Ok(None);
    }
    Ok(Some(Type::Decimal { precision: precision as u32, scale: scale as u32, size }))
}
