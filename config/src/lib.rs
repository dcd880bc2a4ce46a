//! The factory's YAML: parsed with places, expanded, checked, every problem at once.
//!
//! ```text
//! files --yaml--> marked trees --files--> one tree --expand--> templates, tables, ${..} --settings--> environment --load--> Factory
//! ```
//!
//! Two halves. Connectors need the first only; the second stands on the first, never the other way:
//! - [`tree`]: values that know their file, line, column and YAML path, also through templates and tables; problems; units and secrets.
//! - [`factory`]: what every factory has, typed, and how files become one. Sources and sinks stay nodes: their connectors parse them with
//!   [`Node::parse`].
//!
//! Invariants: knows no connector; the only I/O is reading the files that are named; a secret's text reaches no error, no `Debug`, no output.

pub mod factory;
#[doc(hidden)]
pub mod fuzz;
pub mod tree;

pub use factory::{
    COMMANDS, Catalog, Connector, Disk, Factory, Files, Given, Load, SETTINGS, SchemaOf, expanded, load, reference, schema, variable,
};
pub use tree::{
    ByteRate, ByteSize, Deadband, Entry, KeepFree, Kind, Listen, Location, Node, Percent, Period, Place, Problem, Problems, Rate, Reason,
    Secret, ServerTls, Severity, Short, Shorthand, Spanned, Text, name, parse_halves, parse_within, suggest, units,
};
