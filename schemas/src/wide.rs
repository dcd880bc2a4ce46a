//! One record for many tags: which fields it has, and the schema they make.
//!
//! ```text
//! asset | time | read_time | source | seq | status | a field per tag, in the order they were first seen
//! ```
//!
//! - A field is null where its tag has no value. `status` holds the status code of every tag that is not good: a tag without a value that is in
//!   `status` is bad, one that is not has never been read, or was not part of the scan.
//! - Fields are only added, each with the default null, so that every version reads every other. A tag whose type changes gets another field, named
//!   after the type.
//!
//! Pure: who keeps the fields over a restart is the engine.

use crate::avsc;
use crate::contract::{Kind, Schema};
use crate::record::{self, Array, Value};
use serde_json::json;
use std::collections::HashSet;
use std::fmt::Write;

/// The type of a field: the branches of a sample's value, in their order there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Of {
    Boolean = 1,
    Long = 2,
    Double = 3,
    String = 4,
    Bytes = 5,
    UInt64 = 6,
    Booleans = 7,
    Longs = 8,
    Doubles = 9,
    Strings = 10,
    UInt64s = 11,
    Blobs = 12,
    Structure = 13,
}

impl Of {
    const ALL: [Self; 13] = [
        Self::Boolean,
        Self::Long,
        Self::Double,
        Self::String,
        Self::Bytes,
        Self::UInt64,
        Self::Booleans,
        Self::Longs,
        Self::Doubles,
        Self::Strings,
        Self::UInt64s,
        Self::Blobs,
        Self::Structure,
    ];

    /// The type of a value; `None` where there is none.
    pub fn value(value: Value, heap: &[u8]) -> Option<Self> {
        Some(match value {
            Value::Null => return None,
            Value::Bool(_) => Self::Boolean,
            Value::Int(_) => Self::Long,
            Value::UInt(value) if i64::try_from(value).is_ok() => Self::Long,
            Value::UInt(_) => Self::UInt64,
            Value::Double(_) => Self::Double,
            Value::Text(_) => Self::String,
            Value::Bytes(_) => Self::Bytes,
            Value::Struct(_) => Self::Structure,
            Value::Array(kind, span) => match kind {
                record::Kind::Bool => Self::Booleans,
                record::Kind::Int => Self::Longs,
                record::Kind::UInt if Array::read(kind, span, heap)?.fits_longs() => Self::Longs,
                record::Kind::UInt => Self::UInt64s,
                record::Kind::Double => Self::Doubles,
                record::Kind::Text => Self::Strings,
                record::Kind::Bytes => Self::Blobs,
            },
        })
    }

    /// The type a protocol's own name of it leads to: `i16`, `UInt32`, `Float`, `Boolean`; `None` where that is not plain.
    pub fn declared(kind: &str) -> Option<Self> {
        let kind = kind.to_ascii_lowercase();
        Some(match kind.as_str() {
            "bool" | "boolean" => Self::Boolean,
            "f32" | "f64" | "float" | "double" | "real" | "lreal" => Self::Double,
            "string" | "text" => Self::String,
            "u64" | "uint64" | "ulint" | "lword" => return None, // a long until one is too large for it
            _ => {
                let width = kind.trim_start_matches("uint").trim_start_matches("int").trim_start_matches(['i', 'u']);
                let is_integer = matches!(width, "8" | "16" | "32" | "64") && kind.starts_with(['i', 'u']);
                return is_integer.then_some(Self::Long);
            }
        })
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Long => "long",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::UInt64 => "uint64",
            Self::Booleans => "booleans",
            Self::Longs => "longs",
            Self::Doubles => "doubles",
            Self::Strings => "strings",
            Self::UInt64s => "uint64s",
            Self::Blobs => "blobs",
            Self::Structure => "structure",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.as_str() == name)
    }

    /// Its type in Avro; a named one in full the first time.
    fn avro(self, known: &mut HashSet<Self>) -> serde_json::Value {
        const DECIMAL: &str = r#"{"type":"bytes","logicalType":"decimal","precision":20,"scale":0}"#;
        let decimal = || serde_json::from_str::<serde_json::Value>(DECIMAL).unwrap_or_default();
        let (name, items) = match self {
            Self::Boolean | Self::Long | Self::Double | Self::String | Self::Bytes => return json!(self.as_str()),
            Self::UInt64 => ("UInt64", json!(null)),
            Self::Structure => ("Structure", json!(null)),
            Self::Booleans => ("Booleans", json!("boolean")),
            Self::Longs => ("Longs", json!("long")),
            Self::Doubles => ("Doubles", json!("double")),
            Self::Strings => ("Strings", json!("string")),
            Self::UInt64s => ("UInt64s", decimal()),
            Self::Blobs => ("Blobs", json!("bytes")),
        };
        if !known.insert(self) {
            return json!(format!("millrace.{name}"));
        }
        let fields = match self {
            Self::UInt64 => json!([{"name": "number", "type": decimal()}]),
            Self::Structure => json!([{"name": "json", "type": "string"}]),
            _ => json!([
                {"name": "items", "type": {"type": "array", "items": items}},
                {"name": "dims", "type": {"type": "array", "items": "int"}, "default": []},
            ]),
        };
        json!({"type": "record", "name": name, "namespace": "millrace", "fields": fields})
    }

    fn json(self) -> serde_json::Value {
        match self {
            Self::Boolean => json!(["null", "boolean"]),
            Self::Long | Self::UInt64 => json!(["null", "integer"]),
            // "NaN", "Infinity", "-Infinity"
            Self::Double => json!(["null", "number", "string"]),
            Self::String => json!(["null", "string", "object"]),
            Self::Bytes | Self::Structure => json!(["null", "object"]),
            _ => json!(["null", "array", "object"]),
        }
    }
}

/// A field of a wide record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// The tag, below its asset.
    pub tag: Box<str>,
    pub of: Of,
    pub name: Box<str>,
}

/// The fields of a topic's wide records.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wide {
    fields: Vec<Field>,
}

/// What every wide record has.
const FIXED: [&str; 6] = ["asset", "time", "read_time", "source", "seq", "status"];

impl Wide {
    /// With the fields of an earlier run, in their order.
    pub fn with(fields: Vec<Field>) -> Self {
        Self { fields }
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The field of a tag and type; it is added where there is none yet.
    pub fn field(&mut self, tag: &str, of: Of) -> usize {
        if let Some(at) = self.fields.iter().position(|f| &*f.tag == tag && f.of == of) {
            return at;
        }
        let mut name = avsc::name(tag);
        if self.fields.iter().any(|f| &*f.tag == tag) {
            let _ = write!(name, "_{}", of.as_str());
        }
        let is_taken = |name: &str| FIXED.contains(&name) || self.fields.iter().any(|f| &*f.name == name);
        while is_taken(&name) {
            name.push('_');
        }
        self.fields.push(Field { tag: tag.into(), of, name: name.into() });
        self.fields.len() - 1
    }

    /// The schema of a topic's records as they are now. There is none for Protobuf.
    pub fn schema(&self, kind: Kind, topic: &str) -> Option<Schema> {
        let record = avsc::name(topic);
        let text = match kind {
            Kind::Avro => self.avro(&record),
            Kind::Json => self.json(&record),
            Kind::Protobuf => return None,
        };
        let name = format!("millrace.wide.{record}");
        Some(Schema { kind, text: text.into(), name: name.into(), references: Vec::new(), indexes: Box::default() })
    }

    fn avro(&self, record: &str) -> String {
        let time = json!({"type": "long", "logicalType": "timestamp-micros"});
        let mut fields = vec![
            json!({"name": "asset", "type": "string", "doc": "path: enterprise/site/area/line/cell"}),
            json!({"name": "time", "type": time, "doc": "the newest of its values"}),
            json!({"name": "read_time", "type": time, "doc": "when this runtime received the last of them"}),
            json!({"name": "source", "type": "string", "doc": "enterprise/site/name of the source"}),
            json!({"name": "seq", "type": "long", "doc": "with source: the identity, stable over resends"}),
            json!({"name": "status", "type": {"type": "map", "values": "long"}, "default": {}, "doc": "OPC UA status codes of the tags that are not good"}),
        ];
        let mut known = HashSet::new();
        for field in &self.fields {
            fields.push(json!({"name": field.name, "type": ["null", field.of.avro(&mut known)], "default": null, "doc": format!("tag {}", field.tag)}));
        }
        json!({"type": "record", "name": record, "namespace": "millrace.wide", "fields": fields}).to_string()
    }

    fn json(&self, record: &str) -> String {
        let mut properties = serde_json::Map::new();
        for (name, of) in [("asset", "string"), ("time", "integer"), ("read_time", "integer"), ("source", "string"), ("seq", "integer")] {
            properties.insert(name.into(), json!({ "type": of }));
        }
        properties.insert("status".into(), json!({"type": "object", "additionalProperties": {"type": "integer"}}));
        for field in &self.fields {
            properties.insert(field.name.to_string(), json!({"type": field.of.json(), "description": format!("tag {}", field.tag)}));
        }
        // Closed, so that a new field is a compatible change.
        json!({
            "$schema": "http://json-schema.org/draft-07/schema#", "title": format!("millrace.wide.{record}"), "type": "object",
            "required": FIXED, "properties": properties, "additionalProperties": false,
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Contract;

    #[test]
    fn a_changed_type_is_a_new_field_and_names_are_never_twice() {
        let mut wide = Wide::default();
        assert_eq!(wide.field("force", Of::Long), 0);
        assert_eq!(wide.field("force", Of::Long), 0);
        assert_eq!(wide.field("force", Of::Double), 1);
        assert_eq!(wide.field("time", Of::Long), 2);
        assert_eq!(wide.field("2nd speed", Of::Double), 3);
        assert_eq!(wide.field("_2nd_speed", Of::Double), 4);
        let names: Vec<&str> = wide.fields().iter().map(|f| &*f.name).collect();
        assert_eq!(names, ["force", "force_double", "time_", "_2nd_speed", "_2nd_speed_"]);
    }

    #[test]
    fn a_declared_type_is_known_before_the_first_value() {
        for (kind, of) in [("i16", Some(Of::Long)), ("UInt32", Some(Of::Long)), ("Float", Some(Of::Double)), ("Boolean", Some(Of::Boolean))]
        {
            assert_eq!(Of::declared(kind), of, "{kind}");
        }
        for kind in ["u64", "DateTime", "i7", "32", ""] {
            assert_eq!(Of::declared(kind), None, "{kind}");
        }
    }

    #[test]
    fn the_schema_is_one_for_every_type() {
        let mut wide = Wide::default();
        for of in Of::ALL.into_iter().chain(Of::ALL) {
            wide.field(of.as_str(), of);
            wide.field(&format!("{} again", of.as_str()), of);
        }
        assert_eq!(wide.fields().len(), 26);
        for kind in [Kind::Avro, Kind::Json] {
            let schema = wide.schema(kind, "part-results").unwrap();
            assert_eq!(&*schema.name, "millrace.wide.part_results");
            let compiled = Contract::compile(kind, &schema.text, None, &mut |_| None).unwrap();
            assert_eq!(compiled.schema().name, schema.name);
        }
    }
}
