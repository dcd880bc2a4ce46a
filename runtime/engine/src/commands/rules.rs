//! What a command sink allows: as the file says it, and compiled.

use millrace_config::Spanned;
use millrace_contract::CommandValue;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `sinks: NAME: {source: oven, topics, reply, allow}`: commands through that source's own connection.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// The source whose device takes the commands.
    pub source: Spanned<String>,
    /// The topic of the answers; none are sent without it.
    #[serde(default)]
    pub reply: Option<Spanned<String>>,
    /// Tags that commands may write, each with its bounds: by name below the source's `at`, or by path below the site.
    #[serde(default)]
    pub allow: BTreeMap<String, Allow>,
}

/// The bounds of a tag that commands may write.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Allow {
    /// The smallest value taken.
    pub min: Option<f64>,
    /// The largest value taken.
    pub max: Option<f64>,
    /// The largest change against the value that the tag has.
    pub step: Option<f64>,
    /// How often: `1/s`.
    pub rate: Option<millrace_config::units::Rate>,
    /// Other tags of the source, and the values they must have. OPC UA, Modbus and S7 read them, as the value for `step`, from the device right
    /// before the write; the device may change between the two.
    pub only_if: BTreeMap<String, serde_json::Value>,
}

/// The bounds of a tag, compiled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowed {
    pub bounds: Allow,
    pub only_if: Vec<(String, CommandValue)>,
    /// The tag's `values`: what a word stands for.
    pub words: BTreeMap<String, CommandValue>,
}

/// A compiled command sink.
#[derive(Clone, Debug)]
pub struct CommandRules {
    pub name: String,
    pub source: String,
    /// `at` of that source.
    pub at: String,
    pub topics: Vec<String>,
    pub group: String,
    pub reply: Option<String>,
    pub allow: BTreeMap<String, Allowed>,
    /// The source reads conditions itself, right before the write.
    pub reads_conditions: bool,
}
