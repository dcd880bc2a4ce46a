//! JSON Schemas: parsed with everything they refer to, compared by Confluent's difference rules.
//!
//! A schema is seen as shapes, as the comparison needs it: one keyword group of one JSON object. An object with several (a `type` and an
//! `enum`, say) is all of them at once; a list of types is any of them; without a `type` the keywords tell.
//!
//! `$ref` reaches inside its own document, into a reference of the registry by name, or a document by `$id`; nothing is ever fetched.

mod compare;
mod document;
mod shape;

pub(crate) use compare::incompatibilities;
pub(crate) use document::Json;
