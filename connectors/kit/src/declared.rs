//! The columns that a schema declares: the fields at the top of an Avro record or of a JSON Schema, and their types. No I/O.
//!
//! What a schema leaves open (a union of several types, a type elsewhere named) is JSON as it stands; what it does not name at all gets its type from
//! the first value.

use crate::documents::{Column, Kind, Unit};
use millrace_schemas::contract::{Kind as Language, Schema};
use serde_json::Value;

/// The fields of the documents that a schema describes; none of Protobuf.
pub fn columns(schema: &Schema) -> Vec<Column> {
    let Ok(whole) = serde_json::from_str::<Value>(&schema.text) else { return Vec::new() };
    match schema.kind {
        Language::Avro => {
            let fields = whole["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
            fields.iter().filter_map(|field| Some(Column::new(field["name"].as_str()?, avro(&field["type"])))).collect()
        }
        Language::Json => {
            let properties = whole["properties"].as_object().into_iter().flatten();
            properties.filter_map(|(name, property)| Some(Column::new(name, json(property)?))).collect()
        }
        Language::Protobuf => Vec::new(),
    }
}

fn avro(of: &Value) -> Kind {
    let named = |name: &str| match name {
        "boolean" => Kind::Bool,
        "int" | "long" => Kind::Long,
        "float" | "double" => Kind::Double,
        "string" | "bytes" => Kind::Text,
        _ => Kind::Json,
    };
    match of {
        Value::String(name) => named(name),
        Value::Array(branches) => {
            let mut others = branches.iter().filter(|branch| *branch != "null");
            match (others.next(), others.next()) {
                (Some(one), None) => avro(one),
                _ => Kind::Json,
            }
        }
        Value::Object(object) => {
            let name = object.get("type").and_then(Value::as_str).unwrap_or_default();
            let number = |key: &str| object.get(key).and_then(Value::as_u64).and_then(|number| u8::try_from(number).ok());
            match object.get("logicalType").and_then(Value::as_str).unwrap_or_default() {
                "timestamp-millis" => Kind::Time(Unit::Millis),
                "timestamp-micros" => Kind::Time(Unit::Micros),
                "timestamp-nanos" => Kind::Long,
                "date" => Kind::Date,
                "decimal" => match (number("precision"), number("scale").unwrap_or(0)) {
                    (Some(precision @ 1..=38), scale) if scale <= precision => Kind::Decimal(precision, scale),
                    // A decimal of 40 digits fits no column of numbers: its digits stay, as text.
                    _ => Kind::Json,
                },
                _ if matches!(name, "enum" | "fixed") => Kind::Text,
                _ => named(name),
            }
        }
        _ => Kind::Json,
    }
}

fn json(property: &Value) -> Option<Kind> {
    let name = match &property["type"] {
        Value::String(name) => name.as_str(),
        Value::Array(names) => {
            let mut others = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            match (others.next(), others.next()) {
                (Some(one), None) => one,
                (Some("integer"), Some("number")) | (Some("number"), Some("integer")) => "number",
                _ => return Some(Kind::Json),
            }
        }
        // Named elsewhere, or left open: the first value tells.
        _ => return None,
    };
    Some(match name {
        "boolean" => Kind::Bool,
        "integer" => Kind::Long,
        "number" => Kind::Double,
        "string" => Kind::Text,
        _ => Kind::Json,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::contract::Contract;

    fn of(kind: Language, text: &str) -> Vec<(String, Kind)> {
        let contract = Contract::compile(kind, text, None, &mut |_| None).unwrap();
        columns(contract.schema()).into_iter().map(|column| (column.name.to_string(), column.kind)).collect()
    }

    #[test]
    fn an_avro_record_declares_its_columns() {
        let text = r#"{"type":"record","name":"Order","fields":[
            {"name":"id","type":"string"},
            {"name":"quantity","type":["null","int"],"default":null},
            {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}},
            {"name":"huge","type":{"type":"bytes","logicalType":"decimal","precision":40,"scale":2}},
            {"name":"due","type":{"type":"long","logicalType":"timestamp-millis"}},
            {"name":"lines","type":{"type":"array","items":"string"}},
            {"name":"either","type":["int","string"]}]}"#;
        let expected = [
            ("id", Kind::Text),
            ("quantity", Kind::Long),
            ("price", Kind::Decimal(12, 2)),
            ("huge", Kind::Json),
            ("due", Kind::Time(Unit::Millis)),
            ("lines", Kind::Json),
            ("either", Kind::Json),
        ];
        assert_eq!(of(Language::Avro, text), expected.map(|(name, kind)| (name.to_owned(), kind)));
    }

    #[test]
    fn a_json_schema_declares_its_columns_and_leaves_some_open() {
        let text = r#"{"type":"object","properties":{"speed":{"type":"number"},"count":{"type":["integer","null"]},"any":{},"parts":{"type":"array"}}}"#;
        let expected = [("speed", Kind::Double), ("count", Kind::Long), ("parts", Kind::Json)];
        assert_eq!(of(Language::Json, text), expected.map(|(name, kind)| (name.to_owned(), kind)));
    }
}
