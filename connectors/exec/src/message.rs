//! What a child says: one JSON object a line, told apart by `type`.

use millrace_config::Reason;
use millrace_schemas::{Batch, Micros, Value};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Said {
    /// It runs.
    Ready,
    /// What a tag is, for the catalog; before its first sample.
    Tag(Tag),
    Batch(Reading),
    /// Something vouches for its tags though they do not change.
    Alive {
        #[serde(default)]
        part: String,
    },
    /// How one of its devices is: `running`, `degraded` or `blocked`.
    Status {
        part: String,
        status: Word,
        #[serde(default)]
        reason: String,
    },
    /// So much was lost before it got here.
    Lost {
        count: u64,
    },
    Log {
        #[serde(default)]
        level: Level,
        message: String,
    },
    /// A human is needed.
    Blocked {
        reason: String,
    },
    /// It can't go on, and is to be started again after so many seconds.
    Retry {
        reason: String,
        #[serde(default)]
        after: f64,
    },
    /// There is nothing more to read.
    Done,
    /// A sink's answer.
    Flushed {
        id: u64,
        #[serde(default)]
        refused: Vec<Refusal>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    Running,
    Degraded,
    Blocked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Debug,
    #[default]
    Info,
    Warning,
    Error,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    pub tag: String,
    pub unit: Option<String>,
    pub description: Option<String>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub kind: Option<String>,
    /// Whose `alive` vouches for it.
    #[serde(default)]
    pub part: String,
}

/// Samples and documents that go together, with the position behind them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// It is acknowledged by this number, which grows.
    pub id: Option<u64>,
    #[serde(default)]
    pub samples: Vec<Sample>,
    #[serde(default)]
    pub documents: Vec<Document>,
    /// What it is given back at its next start, under its own keys.
    #[serde(default)]
    pub position: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    pub tag: String,
    #[serde(default)]
    pub value: serde_json::Value,
    pub time: Option<Time>,
    /// An OPC UA status code; good without it.
    #[serde(default)]
    pub status: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    #[serde(default)]
    pub key: String,
    /// Written as JSON; null is a tombstone.
    pub value: serde_json::Value,
    pub time: Option<Time>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// A moment: microseconds since 1970, or a text as RFC 3339 has it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct Time(Micros);

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Micros(i64),
    Text(String),
}

impl TryFrom<Written> for Time {
    type Error = Reason;

    fn try_from(written: Written) -> Result<Self, Reason> {
        match written {
            Written::Micros(micros) => Ok(Self(Micros(micros))),
            Written::Text(text) => match text.parse::<jiff::Timestamp>() {
                Ok(time) => Ok(Self(Micros(time.as_microsecond()))),
                Err(error) => Err(format!("`{text}` is no time: {error}").into()),
            },
        }
    }
}

impl Time {
    pub fn micros(&self) -> Micros {
        self.0
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub reason: String,
}

impl Said {
    /// Errors: what is wrong with the line, and its beginning.
    pub fn parse(line: &str) -> Result<Self, Reason> {
        serde_json::from_str(line).map_err(|error| {
            let beginning: String = line.chars().take(100).map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
            format!("it printed what is no message of the protocol ({error}): {beginning}").into()
        })
    }
}

/// A JSON value as a tag's value; `None` of an object, and of a list whose items are not alike.
pub fn value(json: &serde_json::Value, batch: &mut Batch) -> Option<Value> {
    use serde_json::Value as Json;
    Some(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(int), ..) => Value::Int(int),
            (_, Some(uint), _) => Value::UInt(uint),
            (.., Some(double)) => Value::Double(double),
            _ => return None,
        },
        Json::String(text) => batch.text(text),
        Json::Array(items) => return array(items, batch),
        Json::Object(_) => return None,
    })
}

fn array(items: &[serde_json::Value], batch: &mut Batch) -> Option<Value> {
    let all = |is: fn(&serde_json::Value) -> bool| items.iter().all(is);
    Some(match () {
        () if items.is_empty() => batch.doubles([], &[]),
        () if all(|item| item.is_i64()) => batch.longs(items.iter().filter_map(serde_json::Value::as_i64), &[]),
        () if all(serde_json::Value::is_number) => batch.doubles(items.iter().filter_map(serde_json::Value::as_f64), &[]),
        () if all(serde_json::Value::is_boolean) => batch.bools(items.iter().filter_map(serde_json::Value::as_bool), &[]),
        () if all(serde_json::Value::is_string) => batch.texts(items.iter().filter_map(serde_json::Value::as_str), &[]),
        () => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::Kind;

    #[test]
    fn a_line_is_a_message_or_is_refused_with_its_beginning() {
        assert!(matches!(Said::parse(r#"{"type":"ready"}"#), Ok(Said::Ready)));
        let batch = r#"{"type":"batch","id":1,"samples":[{"tag":"a/b","value":1.5,"time":"2026-11-29T06:00:00Z"}],"position":{"f":"1"}}"#;
        match Said::parse(batch) {
            Ok(Said::Batch(batch)) => assert_eq!(batch.samples[0].time.as_ref().map(|time| time.micros().0), Some(1_795_932_000_000_000)),
            other => panic!("{other:?}"),
        }
        for wrong in ["", "hello", "{}", r#"{"type":"nope"}"#, r#"{"type":"batch","sample":[]}"#, "\u{1b}[31mred"] {
            let why = Said::parse(wrong).expect_err("no message");
            assert!(why.starts_with("it printed what is no message") && !why.contains('\u{1b}'), "{why}");
        }
    }

    #[test]
    fn json_is_a_value_where_it_is_plain_or_a_list_of_one_kind() {
        let mut batch = Batch::new();
        let mut of = |text: &str| value(&serde_json::from_str(text).expect("JSON"), &mut batch);
        assert_eq!((of("null"), of("true"), of("-1")), (Some(Value::Null), Some(Value::Bool(true)), Some(Value::Int(-1))));
        assert_eq!((of("18446744073709551615"), of("1.5")), (Some(Value::UInt(u64::MAX)), Some(Value::Double(1.5))));
        assert!(matches!(of("[1,2]"), Some(Value::Array(Kind::Int, _))) && matches!(of("[1,2.5]"), Some(Value::Array(Kind::Double, _))));
        assert!(of("{}").is_none() && of("[1,\"a\"]").is_none() && of("[[1]]").is_none());
    }
}
