//! What a command and an answer look like, in JSON and in Avro.
//!
//! ```text
//! {"id": "17", "tag": "setpoint", "value": 180.5, "expires": "2026-11-28T12:00:00Z", "by": "MES"}
//! {"id": "17", "tag": "setpoint", "result": "done", "status": 0, "reason": null, "time": 1795867200000000}
//! ```
//!
//! A topic with `format: avro` has [`COMMAND_SCHEMA`] or [`ANSWER_SCHEMA`] unless it names another; what was written with another is read by that one's
//! fields.

use millrace_config::Reason;
use millrace_contract::{CommandValue, Outcome};
use millrace_schemas::Micros;
use serde::{Deserialize, Serialize};

/// What a topic's `schema` says for [`COMMAND_SCHEMA`].
pub const COMMAND: &str = "command";
/// As [`COMMAND`], of [`ANSWER_SCHEMA`].
pub const ANSWER: &str = "answer";

/// A command in Avro.
pub const COMMAND_SCHEMA: &str = r#"{
  "type": "record", "name": "Command", "namespace": "millrace", "doc": "What a tag is to become, or a method's arguments.",
  "fields": [
    {"name": "id", "type": "string", "doc": "Of the sender; an id is carried out once."},
    {"name": "tag", "type": "string"},
    {"name": "value", "type": ["null", "boolean", "long", "double", "string",
      {"type": "array", "items": ["null", "boolean", "long", "double", "string"]}]},
    {"name": "expires", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}], "default": null},
    {"name": "by", "type": ["null", "string"], "default": null}
  ]
}
"#;

/// An answer in Avro.
pub const ANSWER_SCHEMA: &str = r#"{
  "type": "record", "name": "Answer", "namespace": "millrace", "doc": "What became of a command.",
  "fields": [
    {"name": "id", "type": "string"},
    {"name": "tag", "type": "string"},
    {"name": "result", "type": "string", "doc": "done, refused, failed, expired or unknown"},
    {"name": "status", "type": "long", "doc": "an OPC UA status code"},
    {"name": "reason", "type": ["null", "string"], "default": null},
    {"name": "output", "type": ["null", {"type": "array", "items": ["null", "boolean", "long", "double", "string"]}], "default": null,
      "doc": "what a method gave back"},
    {"name": "time", "type": {"type": "long", "logicalType": "timestamp-micros"}}
  ]
}
"#;

/// The text of a schema that the engine has for commands; `None`: it is no such name.
pub(crate) fn schema_named(name: &str) -> Option<&'static str> {
    match name {
        COMMAND => Some(COMMAND_SCHEMA),
        ANSWER => Some(ANSWER_SCHEMA),
        _ => None,
    }
}

/// A command, as it lies in Kafka.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
pub(super) struct Request {
    pub id: String,
    pub tag: String,
    pub value: serde_json::Value,
    /// Microseconds since 1970, or RFC 3339.
    #[serde(default)]
    pub expires: Option<serde_json::Value>,
    #[serde(default)]
    pub by: Option<String>,
}

impl Request {
    /// When it expires; one that does not say so, so long after Kafka's timestamp. Errors: it is no time.
    pub(super) fn expires(&self, otherwise: Micros) -> Result<Micros, Reason> {
        let wrong = |shown: &dyn std::fmt::Display| format!("expires {shown} is neither microseconds since 1970 nor RFC 3339");
        match &self.expires {
            None => Ok(otherwise),
            Some(serde_json::Value::Number(n)) => n.as_i64().map(Micros).ok_or_else(|| wrong(n).into()),
            Some(serde_json::Value::String(text)) => {
                text.parse::<jiff::Timestamp>().map(|t| Micros(t.as_microsecond())).map_err(|_| wrong(&format!("{text:?}")).into())
            }
            Some(other) => Err(wrong(other).into()),
        }
    }
}

/// A value of JSON as commands have values. Errors: null or an object, or one within a list.
pub(super) fn value_of(value: &serde_json::Value) -> Result<CommandValue, Reason> {
    Ok(match value {
        serde_json::Value::Bool(v) => CommandValue::Bool(*v),
        serde_json::Value::String(v) => CommandValue::Text(v.clone()),
        serde_json::Value::Number(n) => n
            .as_i64()
            .map(CommandValue::Int)
            .or_else(|| n.as_u64().map(CommandValue::UInt))
            .or_else(|| n.as_f64().map(CommandValue::Double))
            .ok_or_else(|| format!("value {n} is not a number that fits"))?,
        serde_json::Value::Array(list) => CommandValue::List(list.iter().map(value_of).collect::<Result<_, _>>()?),
        other => return Err(format!("value {other} is neither a number, a boolean, a text nor a list of them").into()),
    })
}

fn json_of(value: &CommandValue) -> serde_json::Value {
    match value {
        CommandValue::Bool(value) => (*value).into(),
        CommandValue::Int(value) => (*value).into(),
        CommandValue::UInt(value) => (*value).into(),
        CommandValue::Double(value) if value.is_finite() => (*value).into(),
        CommandValue::Double(value) if value.is_nan() => "NaN".into(),
        CommandValue::Double(value) => if *value > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        CommandValue::Text(text) => text.as_str().into(),
        CommandValue::List(list) => list.iter().map(json_of).collect(),
    }
}

/// What the answer says.
pub(super) struct Said<'o> {
    pub result: &'static str,
    /// An OPC UA status code.
    pub status: u32,
    pub reason: Option<&'o str>,
    pub output: Option<serde_json::Value>,
}

pub(super) fn said(outcome: &Outcome) -> Said<'_> {
    let (result, status, reason) = match outcome {
        Outcome::Done | Outcome::Returned(_) => ("done", 0, None),
        Outcome::Refused(reason) => ("refused", 0x801F_0000, Some(reason.as_str())),
        Outcome::Failed(reason) => ("failed", 0x8000_0000, Some(reason.as_str())),
        Outcome::Expired => ("expired", 0x800A_0000, None),
        Outcome::Unknown => ("unknown", 0x4000_0000, Some("nobody knows whether the device took it: read the tag before trying again")),
    };
    let output = match outcome {
        Outcome::Returned(values) => Some(values.iter().map(json_of).collect()),
        _ => None,
    };
    Said { result, status, reason, output }
}

/// The answer to a command.
pub(super) fn answer(request: &Request, outcome: &Outcome, time: Micros) -> serde_json::Value {
    let Said { result, status, reason, output } = said(outcome);
    let mut answer = serde_json::json!({
        "id": request.id, "tag": request.tag, "result": result, "status": status, "reason": reason, "time": time.0,
    });
    if let (Some(output), Some(fields)) = (output, answer.as_object_mut()) {
        fields.insert("output".into(), output);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::contract::{Contract, Kind, Work};
    use serde_json::json;

    fn contract(text: &str) -> Contract {
        Contract::compile(Kind::Avro, text, None, &mut |_| None).unwrap()
    }

    #[test]
    fn commands_of_every_type_come_out_of_avro_as_they_went_in() {
        let contract = contract(COMMAND_SCHEMA);
        for value in [json!(true), json!(-5), json!(1.5), json!("auto"), json!([1, 2.5, "x", false]), json!(null)] {
            let command = json!({"id": "1", "tag": "a/b", "value": value, "expires": 1_795_867_200_000_000_i64, "by": null});
            let mut avro = Vec::new();
            contract.fit(command.to_string().as_bytes(), &mut avro, &mut Work::default()).unwrap();
            let shown: Request = serde_json::from_str(&contract.show(&avro).unwrap()).unwrap();
            assert_eq!(shown, serde_json::from_value(command).unwrap());
            assert_eq!(shown.expires(Micros(0)), Ok(Micros(1_795_867_200_000_000)));
        }
    }

    #[test]
    fn answers_of_every_kind_fit_their_schema() {
        let contract = contract(ANSWER_SCHEMA);
        let request = Request { id: "1".into(), tag: "t".into(), value: json!(1), expires: None, by: None };
        let list = vec![CommandValue::Int(1), CommandValue::Double(f64::NAN), CommandValue::Text("x".into())];
        let outcomes =
            [Outcome::Done, Outcome::Returned(list), Outcome::Refused("r".into()), Outcome::Failed("f".into()), Outcome::Expired];
        for outcome in outcomes.iter().chain([&Outcome::Unknown]) {
            let answer = answer(&request, outcome, Micros(7)).to_string();
            contract.fit(answer.as_bytes(), &mut Vec::new(), &mut Work::default()).unwrap_or_else(|misfit| panic!("{answer}: {misfit}"));
        }
    }

    #[test]
    fn what_is_no_value_or_no_time_is_named() {
        assert!(value_of(&json!({"a": 1})).unwrap_err().contains("neither a number"));
        assert!(value_of(&json!([null])).is_err());
        let request = |expires| Request { id: "1".into(), tag: "t".into(), value: json!(1), expires, by: None };
        assert!(request(Some(json!("tomorrow"))).expires(Micros(1)).unwrap_err().contains("\"tomorrow\""));
        assert!(request(Some(json!(1e300))).expires(Micros(1)).is_err());
        assert_eq!(request(None).expires(Micros(1)), Ok(Micros(1)));
    }
}
