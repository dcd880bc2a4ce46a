//! Records of JSON that come from anywhere (a post, a page, a row of a table, an event) as samples or documents.
//!
//! ```text
//! nothing said                     the record is a document; `key: "{/id}"`, `time: /ts`
//! samples: {speed: /v/kmh}         tags out of it, below `at`
//! tag: "{/name}", value: /v        one reading that names its tag; with `each: /values` a list of them
//! ```
//!
//! - [`config`]: the keys of the YAML, which stand beside a connector's own, and what they compile to ([`Making`]).
//! - [`polling`]: those that are asked for again and again.
//! - [`take`]: one record into a batch ([`Records`]).
//!
//! What a connector knows of a record beside its bytes (parts of a path) is *given*: names in braces in `at`, `tag`, `key` and `topic`, whose values
//! it hands over with each record, in the order it named them.
//!
//! Invariants: a record that does not fit is an error with its reason, never bent into a value; once a tag is known nothing is allocated for its values.

mod config;
pub mod polling;
mod take;

pub use config::{Compile, RecordKeys, Uses};
pub use take::{Records, content_hash, reject};

use crate::AllowedTopics;
use crate::extract::{CellType, Each, Extraction, Missing, Name, ValueMap};
use crate::template::Template;
use millrace_contract::TagOptions;
use millrace_schemas::RouteId;
use std::sync::Arc;

/// Something in braces.
#[derive(Clone, PartialEq, Debug)]
pub enum Variable {
    /// What the connector knows beside the record, by its number.
    Given(usize),
    /// What stands in the record, or around a reading.
    Name(Name),
}

/// What becomes of the records of one route.
#[derive(Clone, Debug)]
pub struct Making {
    pub route: RouteId,
    /// What the records are, for a person: `post /orders`.
    pub what: Arc<str>,
    /// The Kafka topic; of samples that of the tags that have none of their own.
    pub topic: Template<Variable>,
    pub allowed: Arc<AllowedTopics>,
    pub shape: Shape,
}

#[derive(Clone, Debug)]
pub enum Shape {
    Document(Box<Document>),
    Samples(Box<Samples>),
    Readings(Box<Readings>),
}

#[derive(Clone, Debug)]
pub struct Document {
    /// Its time, and the pointers of its key in their order.
    pub extraction: Extraction,
    pub key: Option<Template<Variable>>,
}

#[derive(Clone, Debug)]
pub struct Samples {
    pub at: Template<Variable>,
    pub items: Vec<Item>,
    pub extraction: Extraction,
    pub missing: Missing,
}

#[derive(Clone, Debug)]
pub struct Readings {
    pub path: Template<Variable>,
    pub items: Vec<Item>,
    pub each: Each,
    pub missing: Missing,
}

/// One value.
#[derive(Clone, Debug)]
pub struct Item {
    pub name: Box<str>,
    /// Where it stands, for people.
    pub place: Box<str>,
    /// `None`: its first value settles its type.
    pub declared: Option<CellType>,
    /// Words of the device, for the way back: a command.
    pub map: ValueMap,
    pub topic: Template<Variable>,
    pub options: Arc<TagOptions>,
}

impl Making {
    /// Whether its records become samples.
    pub fn is_samples(&self) -> bool {
        !matches!(self.shape, Shape::Document(_))
    }

    /// Whether a list of readings is looked for in the whole record.
    pub fn has_lists(&self) -> bool {
        matches!(self.shape, Shape::Readings(_))
    }
}
