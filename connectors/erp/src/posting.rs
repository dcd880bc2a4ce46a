//! The keys of `type: erp`, as a sink.

use millrace_config::{Period, Spanned};
use schemars::JsonSchema;
use serde::Deserialize;

/// Posts each record of topics to an OData service.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErpSinkConfig {
    /// The entity set that records are posted to, or updated in.
    #[serde(default)]
    pub entity_set: Option<Spanned<String>>,
    /// What is done with a record.
    #[serde(default)]
    pub operation: Operation,
    /// The action that is called with each record: an action import, or an action bound to the entity of `entity_set` whose key the record has.
    #[serde(default)]
    pub action: Option<Spanned<String>>,
    /// Operations in one `$batch`, each in a change set of its own; 1: each by itself.
    #[serde(default = "batch")]
    pub batch: Spanned<u16>,
    /// A property by which an entity that was posted is found again: before a record is posted, the service is asked for one with the record's
    /// value. It makes a lost answer, and a crash, safe with every service.
    #[serde(default)]
    pub lookup: Option<Spanned<String>>,
    /// What becomes of a record whose answer was lost, where neither `lookup` nor the service tells whether it was carried out.
    #[serde(default)]
    pub unknown: Unknown,
    /// What becomes of an update of an entity that changed meanwhile.
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// A topic for results: what the ERP said of each record, as JSON.
    #[serde(default)]
    pub reply: Option<String>,
    /// Words in an error that mean "later": the record is tried again.
    #[serde(default = "later")]
    pub later: Vec<String>,
    /// How long it waits then.
    #[serde(default = "retry_after")]
    pub retry_after: Period,
}

fn batch() -> Spanned<u16> {
    1.into()
}

fn later() -> Vec<String> {
    ["locked", "gesperrt", "being processed by", "enqueue"].map(str::to_owned).to_vec()
}

fn retry_after() -> Period {
    Period::from_secs(5)
}

/// What is done with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A new entity of it.
    #[default]
    Create,
    /// The entity with its key gets its other properties; what it does not have stays.
    Update,
}

/// What becomes of a record of which nobody knows whether it was posted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// A dead letter that says so: nothing is posted twice.
    #[default]
    DeadLetter,
    /// It is posted again: nothing is missing.
    Repeat,
}

/// What becomes of an update of an entity that changed meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// It is read anew and updated.
    #[default]
    Overwrite,
    /// A dead letter.
    DeadLetter,
}

/// What is posted where, as the configuration has it.
#[derive(Clone, PartialEq, Debug)]
pub struct Posting {
    pub set: Option<String>,
    pub operation: Operation,
    pub action: Option<String>,
    pub batch: usize,
    pub lookup: Option<String>,
    pub unknown: Unknown,
    pub on_conflict: OnConflict,
    pub reply: Option<String>,
    pub later: Vec<String>,
    pub retry_after: std::time::Duration,
    /// `enterprise/site/name`: part of the identity of each request.
    pub name: String,
}
