//! What documents look like whose shape the source knows: their fields and types, and the schemas a registry takes for them.
//!
//! | | in the document | in Avro |
//! |---|---|---|
//! | Text | text | string |
//! | Bool | true, false | boolean |
//! | Int, Long | number | int, long |
//! | Decimal of known scale; of any | number, exact; text | bytes, decimal(p, s); string |
//! | Double | number, or `"NaN"`, `"Infinity"`, `"-Infinity"` | double |
//! | Date | `2026-07-01` | int, date |
//! | LocalTime | `2026-07-01T08:00:00` | long, local-timestamp-micros |
//! | Moment, up to 6 digits of a second; finer | `2026-07-01T08:00:00Z` | long, timestamp-micros; string: nanoseconds of 64 bits end in 2262 |
//! | TimeOfDay | `13:20:00` | long, time-micros |
//! | Guid, Binary | text, base64 | string with uuid, bytes |
//! | Record, List | object, array | record, array |
//! | Json: anything, as text | its JSON as text | string |
//! | Any, Number: as JSON has it, where the schema is not Avro | itself; in Avro its text | string |
//!
//! Every field but a key may be null or left out.

use millrace_contract::Context;
use millrace_schemas::contract::Kind;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The namespace of a source's Avro records: its site and its name, as Avro has names.
pub fn namespace(context: &Context) -> String {
    format!("{}.{}", context.site, context.name).replace(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_', ".")
}

/// A type as it is written.
#[derive(Clone, PartialEq, Debug)]
pub enum Shape {
    Text,
    Bool,
    Int,
    Long,
    Decimal(Option<(u32, u32)>),
    Double,
    Date,
    /// V2: a moment without zone that SAP says is a date.
    DateOfMoment,
    LocalTime,
    /// With so many digits behind the second.
    Moment(u32),
    TimeOfDay,
    Time,
    Guid,
    Binary,
    Record(Box<Record>),
    List(Box<Shape>),
    /// JSON as text.
    Json,
    /// JSON as it is, but text where the documents become Avro.
    Any,
    /// A number of any digits, but text where the documents become Avro.
    Number,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Field {
    pub name: String,
    pub shape: Shape,
    pub is_key: bool,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Record {
    /// For Avro: unique in the schema.
    pub name: String,
    pub fields: Vec<Field>,
    pub keys: Vec<usize>,
    by_name: HashMap<String, usize>,
}

impl Record {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    pub fn push(&mut self, field: Field) {
        self.by_name.insert(field.name.clone(), self.fields.len());
        self.fields.push(field);
    }

    pub fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The schema of the documents, as a registry takes it. `namespace`: of the Avro record.
    pub fn schema(&self, kind: Kind, namespace: &str) -> Option<String> {
        match kind {
            Kind::Avro => {
                let mut schema = self.avro();
                schema["namespace"] = namespace.into();
                Some(schema.to_string())
            }
            Kind::Json => {
                let mut schema = self.json_schema();
                schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
                schema["title"] = self.name.as_str().into();
                Some(schema.to_string())
            }
            Kind::Protobuf => None,
        }
    }

    fn avro(&self) -> Value {
        let fields = self.fields.iter().map(|field| match field.is_key {
            true => json!({"name": field.name, "type": field.shape.avro()}),
            false => json!({"name": field.name, "type": ["null", field.shape.avro()], "default": null}),
        });
        json!({"type": "record", "name": self.name, "fields": fields.collect::<Vec<_>>()})
    }

    fn json_schema(&self) -> Value {
        let properties = self.fields.iter().map(|field| {
            let schema = field.shape.json_schema();
            let schema = if field.is_key { schema } else { json!({"anyOf": [schema, {"type": "null"}]}) };
            (field.name.clone(), schema)
        });
        let required: Vec<_> = self.fields.iter().filter(|field| field.is_key).map(|field| field.name.as_str()).collect();
        json!({"type": "object", "properties": properties.collect::<serde_json::Map<_, _>>(), "required": required})
    }
}

impl Shape {
    /// An unsigned integer of 64 bits: exact, also in Avro.
    pub const UNSIGNED: Self = Self::Decimal(Some((20, 0)));

    fn avro(&self) -> Value {
        let logical = |of: &str, name: &str| json!({"type": of, "logicalType": name});
        match self {
            Self::Text | Self::Decimal(None) | Self::Json | Self::Any | Self::Number | Self::Moment(7..) => "string".into(),
            Self::Bool => "boolean".into(),
            Self::Int => "int".into(),
            Self::Long => "long".into(),
            Self::Decimal(Some((precision, scale))) => {
                json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
            }
            Self::Double => "double".into(),
            Self::Date | Self::DateOfMoment => logical("int", "date"),
            Self::LocalTime => logical("long", "local-timestamp-micros"),
            Self::Moment(_) => logical("long", "timestamp-micros"),
            Self::TimeOfDay | Self::Time => logical("long", "time-micros"),
            Self::Guid => logical("string", "uuid"),
            Self::Binary => "bytes".into(),
            Self::Record(record) => record.avro(),
            Self::List(item) => json!({"type": "array", "items": ["null", item.avro()]}),
        }
    }

    fn json_schema(&self) -> Value {
        let text = |format: &str| json!({"type": "string", "format": format});
        match self {
            Self::Text | Self::Decimal(None) | Self::Json | Self::LocalTime => json!({"type": "string"}),
            Self::Bool => json!({"type": "boolean"}),
            Self::Any => json!({}),
            Self::Int | Self::Long => json!({"type": "integer"}),
            Self::Decimal(Some(_)) => json!({"type": "number"}),
            Self::Double | Self::Number => json!({"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}),
            Self::Date | Self::DateOfMoment => text("date"),
            Self::Moment(_) => text("date-time"),
            Self::TimeOfDay | Self::Time => json!({"type": "string"}),
            Self::Guid => text("uuid"),
            Self::Binary => json!({"type": "string", "contentEncoding": "base64"}),
            Self::Record(record) => record.json_schema(),
            Self::List(item) => json!({"type": "array", "items": {"anyOf": [item.json_schema(), {"type": "null"}]}}),
        }
    }
}
