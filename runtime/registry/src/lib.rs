//! The schema registry: a client of Confluent's REST interface, and an embedded one.
//!
//! - [`schema`]: a schema, its references, its id and the five bytes in front of a value.
//! - [`client`]: registers and looks up; works from what it remembers while the registry is away.

pub mod client;
pub mod error;
mod memory;
pub mod schema;

pub use client::{Client, RegistryLogin, Settings, Verdict, Version};
pub use error::RegistryError;
pub use schema::{Kind, Reference, Resolved, Schema, SchemaId};
