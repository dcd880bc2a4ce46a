//! A schema of any kind, parsed, and what two of one kind are to each other.

use crate::avro;
use crate::difference::Difference;
use crate::json::{self, Json};
use crate::protobuf::{self, Protobuf};
use crate::schema::{Kind, Schema};
use millrace_config::Reason;
use millrace_schemas::avsc::Avsc;

/// A parsed schema.
pub struct Parsed(Inner);

enum Inner {
    Avro(Avsc),
    Json(Json),
    Protobuf(Box<Protobuf>),
}

impl Parsed {
    /// Parses a schema; `references` as [`crate::Resolved`] has them: what others need first.
    ///
    /// Errors: one line that says what is wrong and where.
    pub fn parse(schema: &Schema, references: &[(String, Schema)]) -> Result<Self, Reason> {
        if let Some((name, other)) = references.iter().find(|(_, other)| other.kind != schema.kind) {
            return Err(format!("the reference {name} is a schema of kind {}, this is {}", other.kind, schema.kind).into());
        }
        let named: Vec<(&str, &str)> = references.iter().map(|(name, other)| (name.as_str(), other.text.as_str())).collect();
        Ok(Self(match schema.kind {
            Kind::Avro => {
                let parsed = Avsc::parse(&schema.text, &named, None).map_err(|error| error.to_string())?;
                parsed.check_defaults().map_err(|error| error.to_string())?;
                Inner::Avro(parsed)
            }
            Kind::Json => Inner::Json(Json::parse(&schema.text, &named)?),
            Kind::Protobuf => Inner::Protobuf(Box::new(Protobuf::parse(&schema.text, &named)?)),
        }))
    }

    /// The text as a registry keeps it. `normalized`: what has no order is put into one.
    pub fn canonical(&self, normalized: bool) -> String {
        match &self.0 {
            Inner::Avro(schema) => schema.canonical(normalized),
            Inner::Json(schema) => schema.canonical(normalized),
            Inner::Protobuf(schema) => schema.text().to_owned(),
        }
    }

    /// What makes two schemas the same one.
    pub fn identity(&self, normalized: bool) -> Vec<u8> {
        match &self.0 {
            Inner::Protobuf(schema) => schema.identity(),
            _ => self.canonical(normalized).into_bytes(),
        }
    }

    /// A Protobuf schema's descriptor in base64.
    pub fn serialized(&self) -> Option<String> {
        match &self.0 {
            Inner::Protobuf(schema) => Some(schema.serialized()),
            _ => None,
        }
    }

    /// What keeps this schema from reading what was written with the other; empty: nothing.
    ///
    /// Errors: the two can't be compared; of different kinds they never can.
    pub fn cannot_read(&self, writer: &Self) -> Result<Vec<Difference>, Reason> {
        match (&self.0, &writer.0) {
            (Inner::Avro(reader), Inner::Avro(writer)) => avro::incompatibilities(reader, writer),
            (Inner::Json(reader), Inner::Json(writer)) => json::incompatibilities(reader, writer),
            (Inner::Protobuf(reader), Inner::Protobuf(writer)) => protobuf::incompatibilities(reader, writer),
            _ => Err("Incompatible because of different schema type".into()),
        }
    }
}
