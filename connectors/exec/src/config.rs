//! `type: exec`: which program runs, and what it is given.

use millrace_config::{ByteSize, Kind, Node, Period, Problems, Spanned};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A program that reads or writes what Millrace has no connector for: lines of JSON over standard input and output.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// The program and its arguments: `[python3, /opt/millrace/lab.py]`. No shell is in between.
    pub command: Vec<Spanned<String>>,
    /// The folder it runs in; Millrace's own unless said.
    #[serde(default)]
    pub dir: Option<PathBuf>,
    /// Its environment, beside `PATH`, `HOME`, `LANG` and `TZ`: nothing else is passed on.
    #[serde(default)]
    pub env: BTreeMap<String, Spanned<String>>,
    /// What it is given at its start, as JSON. References to secrets are resolved.
    #[serde(default)]
    pub config: Option<Node>,
    /// The Kafka topic of its documents; without it, it may send samples only.
    #[serde(default)]
    pub documents: Option<Spanned<String>>,
    /// How long it may take to be ready, to answer, and to read what it is sent.
    #[serde(default)]
    pub answer_within: Option<Spanned<Period>>,
    /// The longest line it may print.
    #[serde(default)]
    pub max_line: Option<Spanned<ByteSize>>,
}

/// A program that writes records of Kafka where Millrace has no connector for: lines of JSON over standard input and output.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// The program and its arguments: `[python3, /opt/millrace/archive.py]`. No shell is in between.
    pub command: Vec<Spanned<String>>,
    /// The folder it runs in; Millrace's own unless said.
    #[serde(default)]
    pub dir: Option<PathBuf>,
    /// Its environment, beside `PATH`, `HOME`, `LANG` and `TZ`: nothing else is passed on.
    #[serde(default)]
    pub env: BTreeMap<String, Spanned<String>>,
    /// What it is given at its start, as JSON. References to secrets are resolved.
    #[serde(default)]
    pub config: Option<Node>,
    /// How long it may take to be ready, to flush, and to read what it is sent.
    #[serde(default)]
    pub answer_within: Option<Spanned<Period>>,
    /// How often it is asked to make durable what it was given.
    #[serde(default)]
    pub flush_every: Option<Spanned<Period>>,
    /// The longest line it may print.
    #[serde(default)]
    pub max_line: Option<Spanned<ByteSize>>,
}

/// How a child is started.
#[derive(Clone, Debug)]
pub struct Program {
    pub command: Vec<String>,
    pub dir: Option<PathBuf>,
    pub env: BTreeMap<String, String>,
    pub config: Value,
    pub answer_within: Duration,
    pub max_line: usize,
}

/// Keys that both roles have.
pub struct Keys<'a> {
    pub command: &'a [Spanned<String>],
    pub dir: &'a Option<PathBuf>,
    pub env: &'a BTreeMap<String, Spanned<String>>,
    pub config: &'a Option<Node>,
    pub answer_within: &'a Option<Spanned<Period>>,
    pub max_line: &'a Option<Spanned<ByteSize>>,
}

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const MAX_LINE: usize = 1 << 20;

impl Program {
    /// Touches no file. `None`: there is no command.
    pub fn compile(keys: &Keys<'_>, place: millrace_config::Place, problems: &mut Problems) -> Option<Self> {
        if keys.command.first().is_none_or(|program| program.is_empty()) {
            problems.error(place, "`command` names no program").help("write `command: [python3, /opt/millrace/lab.py]`");
            return None;
        }
        for text in keys.command.iter().chain(keys.env.values()).filter(|text| text.contains('\0')) {
            problems.error(text.place, "a NUL can't be passed to a program");
        }
        for (name, value) in keys.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                problems.error(value.place, format!("`{name}` is no name of a variable"));
            }
        }
        let answer_within = keys.answer_within.as_ref().map_or(ANSWER_WITHIN, |period| period.0);
        if let Some(period) = keys.answer_within.as_ref().filter(|_| answer_within.is_zero()) {
            problems.error(period.place, "`answer_within` must be more than 0");
        }
        let max_line = keys.max_line.as_ref().map_or(MAX_LINE, |size| usize::try_from(size.0).unwrap_or(usize::MAX));
        if let Some(size) = keys.max_line.as_ref().filter(|_| !(1 << 10..=64 << 20).contains(&max_line)) {
            problems.error(size.place, "`max_line` is from 1KiB to 64MiB");
        }
        Some(Self {
            command: keys.command.iter().map(|word| word.value.clone()).collect(),
            dir: keys.dir.clone(),
            env: keys.env.iter().map(|(name, value)| (name.clone(), value.value.clone())).collect(),
            config: keys.config.as_ref().map_or_else(|| Value::Object(Map::new()), as_json),
            answer_within,
            max_line,
        })
    }

    /// For people: the command as it is typed.
    pub fn words(&self) -> String {
        self.command.join(" ")
    }
}

/// A YAML value as JSON: numbers and truths as such, `1.10` too.
fn as_json(node: &Node) -> Value {
    let text = || node.as_str().unwrap_or_default();
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Bool(_) => node.as_bool().map_or_else(|| text().into(), Value::Bool),
        Kind::Int(_) => node.as_i64().map_or_else(|| text().into(), Value::from),
        Kind::Float(_) => node.as_f64().map_or_else(|| text().into(), Value::from),
        Kind::String(_) => text().into(),
        Kind::Seq(items) => items.iter().map(as_json).collect(),
        Kind::Map(entries) => entries.iter().map(|entry| (entry.key.to_string(), as_json(&entry.value))).collect::<Map<_, _>>().into(),
    }
}
