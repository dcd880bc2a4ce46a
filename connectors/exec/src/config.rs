//! `type: exec`: which program runs, and what it is given.

use millrace_config::{ByteSize, Kind, Node, Period, Place, Problems, Spanned};
use millrace_kit::groups::{Beside, SharedKeys};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How a program is started and spoken to: keys of sources and sinks.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProgramKeys {
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
    /// How long it may take to be ready, to answer or to flush, and to read what it is sent.
    #[serde(default = "answer_within")]
    pub answer_within: Spanned<Period>,
    /// The longest line it may print.
    #[serde(default = "max_line")]
    pub max_line: Spanned<ByteSize>,
}

impl SharedKeys for ProgramKeys {
    const KEYS: &'static [&'static str] = &["command", "dir", "env", "config", "answer_within", "max_line"];
}

/// A program that reads what Millrace has no connector for: lines of JSON over standard input and output.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceKeys {
    /// The Kafka topic of its documents; without it, it may send samples only.
    #[serde(default)]
    pub documents: Option<Spanned<String>>,
}

pub type SourceConfig = Beside<ProgramKeys, SourceKeys>;

/// A program that writes records of Kafka where Millrace has no connector for: lines of JSON over standard input and output.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkKeys {
    /// How often it is asked to make durable what it was given.
    #[serde(default = "flush_every")]
    pub flush_every: Spanned<Period>,
}

pub type SinkConfig = Beside<ProgramKeys, SinkKeys>;

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

fn answer_within() -> Spanned<Period> {
    Period::from_secs(30).into()
}

fn max_line() -> Spanned<ByteSize> {
    ByteSize(1 << 20).into()
}

fn flush_every() -> Spanned<Period> {
    Period::from_secs(1).into()
}

impl ProgramKeys {
    /// Touches no file. `None`: there is no command.
    pub fn compile(&self, place: Place, problems: &mut Problems) -> Option<Program> {
        if self.command.first().is_none_or(|program| program.is_empty()) {
            problems.error(place, "`command` names no program").help("write `command: [python3, /opt/millrace/lab.py]`");
            return None;
        }
        for text in self.command.iter().chain(self.env.values()).filter(|text| text.contains('\0')) {
            problems.error(text.place, "a NUL can't be passed to a program");
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                problems.error(value.place, format!("`{name}` is no name of a variable"));
            }
        }
        let answer_within = self.answer_within.0;
        if answer_within.is_zero() {
            problems.error(self.answer_within.place, "`answer_within` must be more than 0");
        }
        let max_line = usize::try_from(self.max_line.0).unwrap_or(usize::MAX);
        if !(1 << 10..=64 << 20).contains(&max_line) {
            problems.error(self.max_line.place, "`max_line` is from 1KiB to 64MiB");
        }
        Some(Program {
            command: self.command.iter().map(|word| word.value.clone()).collect(),
            dir: self.dir.clone(),
            env: self.env.iter().map(|(name, value)| (name.clone(), value.value.clone())).collect(),
            config: self.config.as_ref().map_or_else(|| Value::Object(Map::new()), as_json),
            answer_within,
            max_line,
        })
    }
}

impl Program {
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
