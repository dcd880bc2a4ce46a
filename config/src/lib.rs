//! The factory's YAML: parsed with places, expanded, checked, every problem at once.
//!
//! ```text
//! files --yaml--> marked trees --files--> one tree --expand--> templates, tables, ${..} --settings--> environment --load--> Factory
//! ```
//!
//! - [`place`], [`node`]: values that know their file, line, column and YAML path, also through templates and tables.
//! - [`problem`]: what is wrong, collected, rendered for a person and for a program.
//! - [`factory`]: what every factory has, typed. Sources and sinks stay nodes: their connectors parse them with [`Node::parse`].
//! - [`units`]: durations, sizes, rates, secrets.
//! - [`schema`]: JSON Schema and reference, generated from the same types.
//!
//! Invariants: knows no connector; the only I/O is reading the files that are named; a secret's text reaches no error, no `Debug`, no output.

mod de;
mod emit;
mod expand;
pub mod factory;
mod files;
#[doc(hidden)]
pub mod fuzz;
pub mod load;
pub mod name;
pub mod node;
pub mod place;
pub mod problem;
mod render;
pub mod schema;
mod settings;
mod substitute;
mod suggest;
mod table;
pub mod units;
mod yaml;

pub use de::{parse_halves, parse_within};
pub use emit::expanded;
pub use factory::{COMMANDS, Connector, Factory};
pub use files::{Disk, Files, Given};
pub use load::{Load, load};
pub use node::{Entry, Kind, Node, Short, Shorthand, Spanned, Text};
pub use place::{Location, Place};
pub use problem::{Problem, Problems, Severity};
pub use schema::{Catalog, SchemaOf, reference, schema};
pub use settings::{SETTINGS, variable};
pub use units::{ByteSize, Deadband, KeepFree, Listen, Percent, Period, Rate, Secret};
