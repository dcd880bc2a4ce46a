//! An entity set that is read.

use millrace_kit::Template;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// What an entity that left the filter becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeftFilter {
    /// Nothing; it is counted as lost with the reason `left_filter`.
    #[default]
    Count,
    /// A tombstone.
    Tombstone,
}

/// One entity set, as the configuration has it.
#[derive(Clone, PartialEq, Debug)]
pub struct Set {
    pub name: Arc<str>,
    pub every: Duration,
    pub key: Option<Template>,
    pub watermark: Option<String>,
    pub overlap: Duration,
    pub select: Vec<String>,
    pub filter: Option<String>,
    pub expand: Vec<String>,
    pub page: u32,
    pub wants_delta: bool,
    pub left_filter: LeftFilter,
    /// How often its keys are compared with those in the topic.
    pub reconcile_every: Option<Duration>,
}
