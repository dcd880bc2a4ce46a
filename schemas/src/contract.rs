//! The contract of a topic: does a document fit its schema, and what are its bytes in the topic's format?
//!
//! ```text
//! schema file ── compile, once ──> Contract
//! document (JSON) ── Contract::fit ──> the value for Kafka, or a Misfit: where, what was found, what is wanted
//! ```
//!
//! | schema | the value |
//! |---|---|
//! | [`Kind::Json`] (2020-12, draft 7 and older) | the document's own bytes, checked |
//! | [`Kind::Avro`] | written from the scanned text, field by field: `avro` |
//! | [`Kind::Protobuf`] | likewise, the message indexes in front that registries want there: `protobuf` |
//!
//! Invariants: no type is lost, nothing is rounded, nothing is left out: what the schema does not know is a misfit, not dropped. Documents of
//! any size and nesting are read with a bounded stack; what nests deeper than [`crate::scan::DEPTH`] is a misfit.

mod avro;
#[doc(hidden)]
pub mod fuzz;
mod json;
mod misfit;
mod number;
mod protobuf;
mod scalars;
mod schema;
mod time;
mod work;

pub use crate::schema_error::{Files, SchemaError};
pub use misfit::Misfit;
pub use schema::{Kind, Reference, Schema, UnknownKind};
pub use work::Work;

use crate::scan::Scanner;
use std::sync::Arc;

/// A compiled schema.
#[derive(Debug)]
pub struct Contract {
    schema: Arc<Schema>,
    rules: Rules,
}

#[derive(Debug)]
enum Rules {
    Avro(avro::Avro),
    Json(json::JsonSchema),
    Protobuf(protobuf::Message),
}

impl Contract {
    /// Compiles a schema. `files` is asked for the files it names; `name` chooses a message of a Protobuf file, else it is the first.
    ///
    /// Errors: the place, and what is wrong there: syntax, a reference that isn't there, a default that does not fit.
    pub fn compile(kind: Kind, text: &str, name: Option<&str>, files: &mut Files<'_>) -> Result<Self, SchemaError> {
        let (schema, rules) = match kind {
            Kind::Avro => {
                let (schema, avro) = avro::compile(text, files)?;
                (schema, Rules::Avro(avro))
            }
            Kind::Json => {
                let (schema, json) = json::compile(text, files)?;
                (schema, Rules::Json(json))
            }
            Kind::Protobuf => {
                let (schema, message) = protobuf::compile(text, name, files)?;
                (schema, Rules::Protobuf(message))
            }
        };
        Ok(Self { schema: Arc::new(schema), rules })
    }

    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Checks a JSON document and appends its value in the topic's format to `out`; after a misfit `out` is as before.
    pub fn fit(&self, document: &[u8], out: &mut Vec<u8>, work: &mut Work) -> Result<(), Box<Misfit>> {
        let start = out.len();
        work.clear();
        let outcome = match &self.rules {
            Rules::Json(json) => {
                json.check(document)?;
                out.extend_from_slice(document);
                return Ok(());
            }
            Rules::Avro(avro) => read_all(document, |scanner| avro.write(scanner, out, work)),
            Rules::Protobuf(message) => {
                out.extend_from_slice(&self.schema.indexes);
                read_all(document, |scanner| message.write(scanner, out, work))
            }
        };
        if outcome.is_err() {
            out.truncate(start);
        }
        outcome
    }
}

impl Contract {
    /// What a value in the topic's format says, as JSON for a person; `None` where the bytes are no such value, or in Protobuf.
    pub fn show(&self, value: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        match &self.rules {
            Rules::Avro(avro) => avro.show(value, &mut out)?,
            Rules::Json(_) => out.extend_from_slice(value),
            Rules::Protobuf(_) => return None,
        }
        String::from_utf8(out).ok()
    }
}

impl Contract {
    /// Appends a value that was written with another Avro schema as this one has it; `None` where it is no such value, or means nothing here.
    pub fn resolve(&self, writer: &Self, value: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let start = out.len();
        let resolved = match (&self.rules, &writer.rules) {
            (Rules::Avro(reader), Rules::Avro(writer)) => reader.resolve(writer, value, out),
            _ => None,
        };
        if resolved.is_none() {
            out.truncate(start);
        }
        resolved
    }
}

fn read_all(document: &[u8], write: impl FnOnce(&mut Scanner<'_>) -> Result<(), Box<Misfit>>) -> Result<(), Box<Misfit>> {
    let mut scanner = Scanner::new(document)?;
    write(&mut scanner)?;
    Ok(scanner.end()?)
}
