//! What a subscription makes of a payload: how it is declared, and the pure part of decoding it.
//!
//! A payload that is not what was declared is never bent into a value: the message becomes a dead letter with its bytes as they came.

use crate::json::{Clock, Pointer};
use crate::topic::{Template, Variable};
use millrace_contract::TagOptions;
use millrace_schemas::{Batch, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// What a subscription makes of its messages.
#[derive(Clone, Debug)]
pub enum Decode {
    /// The payload as it is.
    Document(Document),
    /// Tags out of a JSON payload.
    Samples(Samples),
    /// The payload is the value of one tag.
    Value(Single),
    Sparkplug,
}

#[derive(Clone, Debug)]
pub struct Document {
    pub check: Check,
    pub key: Option<Template<Variable>>,
    /// Whether the key has JSON pointers, so that it differs from message to message.
    pub key_in_payload: bool,
    pub time: Option<Clock>,
}

/// What a document must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    Json,
    Text,
    Nothing,
}

#[derive(Clone, Debug)]
pub struct Samples {
    /// The path above the samples' names.
    pub at: Template<Variable>,
    pub items: Vec<Sample>,
    pub time: Option<Clock>,
    pub status: Option<Pointer>,
    pub missing: Missing,
}

#[derive(Clone, Debug)]
pub struct Sample {
    pub name: Box<str>,
    pub pointer: Pointer,
    pub topic: Template<Variable>,
    pub options: Arc<TagOptions>,
}

#[derive(Clone, Debug)]
pub struct Single {
    pub kind: Scalar,
    /// The whole path.
    pub path: Template<Variable>,
    pub options: Arc<TagOptions>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scalar {
    Number,
    Text,
    Bytes,
}

/// What a pointer that isn't in a payload means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// A sample without value, status BadNoData.
    #[default]
    Bad,
    /// No sample: the device sends only what changed.
    Skip,
}

/// At most 60 characters of a payload on one line, for a reason.
pub fn excerpt(payload: &[u8]) -> String {
    let head = &payload[..payload.len().min(240)];
    let text = String::from_utf8_lossy(head);
    let mut short: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if payload.len() > short.len() {
        short.push_str("..");
    }
    short
}

/// The value of a payload that is one scalar. Errors: what is wrong with it.
pub fn scalar(kind: Scalar, payload: &[u8], batch: &mut Batch) -> Result<Value, String> {
    match kind {
        Scalar::Bytes => Ok(Value::Bytes(batch.push_bytes(payload))),
        Scalar::Text => match std::str::from_utf8(payload) {
            Ok(text) => Ok(batch.text(text)),
            Err(error) => Err(format!("the payload is no UTF-8 text: byte {}; declare `payload: bytes`", error.valid_up_to())),
        },
        Scalar::Number => number(payload),
    }
}

fn number(payload: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(payload.trim_ascii()).map_err(|_| "the payload is no number: it is not even text".to_owned())?;
    // Rust's own spellings of NaN and infinity are among those that devices use.
    if let Ok(int) = text.parse::<i64>() {
        Ok(Value::Int(int))
    } else if let Ok(uint) = text.parse::<u64>() {
        Ok(Value::UInt(uint))
    } else if let Ok(double) = text.parse::<f64>() {
        Ok(Value::Double(double))
    } else if text.is_empty() {
        Err("the payload is no number: it is empty".into())
    } else if text.contains(',') {
        Err(format!("the payload `{}` is no number: a decimal comma or a list", excerpt(payload)))
    } else {
        Err(format!("the payload `{}` is no number; declare `payload: text`, or `json`", excerpt(payload)))
    }
}
