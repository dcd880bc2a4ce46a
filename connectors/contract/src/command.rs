//! A command to a device, what must hold before it is carried out, and its answer.
//!
//! The engine checks what a file says of a command: the tag, range, step, rate, expiry, and that no id comes twice. A source fits the value into the
//! device's type, reads the [`Condition`]s over the connection that writes, writes once, and answers once.

use crate::tag::TagOptions;
use millrace_config::Reason;
use millrace_schemas::{Micros, StatusCode, TagId, Value};
use std::fmt;

/// A command to a device: typed, checked by the engine, expiring, answered.
#[derive(Debug)]
pub struct Command {
    pub id: String,
    pub tag: TagId,
    pub value: CommandValue,
    pub expires: Micros,
    /// What must hold right before it is carried out, read from the device over the same connection. Empty of a source that does not
    /// say that it [reads them](crate::Compiled::reads_conditions).
    pub conditions: Vec<Condition>,
    pub answer: Answer,
}

#[derive(Clone, PartialEq, Debug)]
pub enum CommandValue {
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(String),
    /// An array's elements, or a method's arguments.
    List(Vec<CommandValue>),
}

impl CommandValue {
    /// Its number, where it is one.
    pub const fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::UInt(value) => Some(*value as f64),
            Self::Double(value) => Some(*value),
            Self::Bool(_) | Self::Text(_) | Self::List(_) => None,
        }
    }
}

/// As a person reads it: a text is quoted, and only its beginning is shown.
impl fmt::Display for CommandValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::UInt(value) => value.fmt(f),
            Self::Double(value) => value.fmt(f),
            Self::Text(text) => write!(f, "`{}`", text.chars().take(40).collect::<String>()),
            Self::List(list) => {
                f.write_str("[")?;
                for (n, value) in list.iter().take(10).enumerate() {
                    write!(f, "{}{value}", if n == 0 { "" } else { ", " })?;
                }
                f.write_str(if list.len() > 10 { ", ..]" } else { "]" })
            }
        }
    }
}

/// What a tag of the same source must be for a command to be carried out.
#[derive(Clone, PartialEq, Debug)]
pub struct Condition {
    pub tag: TagId,
    /// As the file names it, for the answer.
    pub name: String,
    pub must: Must,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Must {
    /// It has this value.
    Be(CommandValue),
    /// It is a number no farther than `step` from `from`, in engineering units.
    BeWithin { step: f64, from: f64 },
}

impl Condition {
    /// Judges what was read: the device's own value, before `scale`; texts are in `heap`. Errors: why it does not hold.
    pub fn check(&self, read: Value, status: StatusCode, heap: &[u8], options: &TagOptions) -> Result<(), Reason> {
        let scaled = |raw: f64| options.scaling().map_or(raw, |(factor, offset)| raw * factor + offset);
        let value = match read {
            Value::Int(value) if options.scaling().is_none() => Some(CommandValue::Int(value)),
            Value::UInt(value) if options.scaling().is_none() => Some(CommandValue::UInt(value)),
            Value::Int(value) => Some(CommandValue::Double(scaled(value as f64))),
            Value::UInt(value) => Some(CommandValue::Double(scaled(value as f64))),
            Value::Double(value) => Some(CommandValue::Double(scaled(value))),
            Value::Bool(value) => Some(CommandValue::Bool(value)),
            Value::Text(span) => Some(CommandValue::Text(String::from_utf8_lossy(span.of(heap)).into_owned())),
            Value::Null | Value::Bytes(_) | Value::Array(..) | Value::Struct(_) => None,
        };
        self.judge(value.filter(|_| status.is_good()).as_ref())
    }

    /// Judges a value in engineering units; `None`: it is not known, or not good.
    pub fn judge(&self, value: Option<&CommandValue>) -> Result<(), Reason> {
        let name = &self.name;
        match (&self.must, value) {
            (Must::Be(wanted), None) => Err(format!("{name} must be {wanted}, and has no good value").into()),
            (Must::Be(wanted), Some(value)) if is_same(value, wanted) => Ok(()),
            (Must::Be(wanted), Some(value)) => Err(format!("{name} must be {wanted}, and is {value}").into()),
            (Must::BeWithin { step, from }, value) => match value.and_then(CommandValue::as_f64) {
                None => Err(format!("the step to {from} can't be checked: {name} has no good value").into()),
                Some(value) if (value - from).abs() <= *step => Ok(()),
                Some(value) => Err(format!("a step from {value} to {from} is larger than {step}").into()),
            },
        }
    }
}

fn is_same(value: &CommandValue, wanted: &CommandValue) -> bool {
    match (value, wanted) {
        (CommandValue::Bool(value), CommandValue::Bool(wanted)) => value == wanted,
        (CommandValue::Text(value), CommandValue::Text(wanted)) => value == wanted,
        (CommandValue::Int(value), CommandValue::Int(wanted)) => value == wanted,
        (CommandValue::UInt(value), CommandValue::UInt(wanted)) => value == wanted,
        (value, wanted) => value.as_f64().zip(wanted.as_f64()).is_some_and(|(value, wanted)| value == wanted),
    }
}

/// What became of a command.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    Done,
    /// Done, and the device gave something back: a method's output arguments.
    Returned(Vec<CommandValue>),
    Refused(String),
    Failed(String),
    Expired,
    Unknown,
}

/// The way back of a command's answer. Dropped unanswered it says `Unknown`.
#[derive(Debug)]
pub struct Answer(Option<tokio::sync::oneshot::Sender<Outcome>>);

impl Answer {
    pub fn new() -> (Self, tokio::sync::oneshot::Receiver<Outcome>) {
        let (tx, rx) = tokio::sync::oneshot::channel();
        (Self(Some(tx)), rx)
    }

    pub fn send(mut self, outcome: Outcome) {
        if let Some(tx) = self.0.take() {
            let _ = tx.send(outcome);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(tx) = self.0.take() {
            let _ = tx.send(Outcome::Unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(must: Must) -> Condition {
        Condition { tag: TagId(0), name: "burner".into(), must }
    }

    #[test]
    fn a_condition_is_judged_in_engineering_units_and_only_on_a_good_value() {
        let scaled = TagOptions { scale: Some(0.1), ..TagOptions::default() };
        let near = condition(Must::BeWithin { step: 20.0, from: 180.0 });
        assert_eq!(near.check(Value::Int(1_650), StatusCode::GOOD, &[], &scaled), Ok(()));
        assert_eq!(near.check(Value::Int(1_590), StatusCode::GOOD, &[], &scaled), Err("a step from 159 to 180 is larger than 20".into()));
        let bad = near.check(Value::Int(1_650), StatusCode::BAD_TIMEOUT, &[], &scaled);
        assert_eq!(bad, Err("the step to 180 can't be checked: burner has no good value".into()));
        let on = condition(Must::Be(CommandValue::Bool(true)));
        let plain = TagOptions::default();
        assert_eq!(on.check(Value::Bool(true), StatusCode::GOOD, &[], &plain), Ok(()));
        assert_eq!(on.check(Value::Bool(false), StatusCode::GOOD, &[], &plain), Err("burner must be true, and is false".into()));
        assert_eq!(on.check(Value::Null, StatusCode::GOOD, &[], &plain), Err("burner must be true, and has no good value".into()));
        let text = condition(Must::Be(CommandValue::Text("auto".into())));
        let span = millrace_schemas::Span { start: 0, len: 4 };
        assert_eq!(text.check(Value::Text(span), StatusCode::GOOD, b"auto", &plain), Ok(()));
        assert!(text.check(Value::Text(span), StatusCode::GOOD, b"hand", &plain).unwrap_err().contains("is `hand`"));
        let three = condition(Must::Be(CommandValue::Int(3)));
        assert_eq!(three.check(Value::Double(3.0), StatusCode::GOOD, &[], &plain), Ok(()));
        assert!(three.check(Value::Bool(true), StatusCode::GOOD, &[], &plain).is_err(), "a boolean is no number");
    }

    #[test]
    fn an_answer_that_nobody_gives_is_unknown() {
        let (answer, mut outcome) = Answer::new();
        drop(answer);
        assert_eq!(outcome.try_recv(), Ok(Outcome::Unknown));
    }
}
