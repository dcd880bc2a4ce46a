//! The schema registry: a client of Confluent's REST interface, and an embedded one.
//!
//! - [`schema`]: a schema, its references, its id and the five bytes in front of a value.
//! - [`client`]: registers and looks up; works from what it remembers while the registry is away.
//! - [`parsed`]: schemas of the three kinds, parsed and compared; `avro`, `json`, `protobuf` do it, [`difference`] says what breaks.
//! - [`embedded`]: the registry for a site that has none.
//! - [`fuzz`]: what must bear any bytes.

mod avro;
pub mod client;
pub mod difference;
pub mod embedded;
pub mod error;
pub mod fuzz;
mod json;
mod memory;
pub mod parsed;
pub mod protobuf;
pub mod schema;

pub use client::{Client, RegistryLogin, Settings, Verdict, Version};
pub use embedded::{Level, Registry};
pub use error::RegistryError;
pub use millrace_tls::ClientTls;
pub use parsed::Parsed;
pub use schema::{Kind, Reference, Resolved, Schema, SchemaId};
