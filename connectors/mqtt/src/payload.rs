//! What a subscription makes of a payload: how it is declared, and the pure part of decoding it.
//!
//! A payload that is not what was declared is never bent into a value: the message becomes a dead letter with its bytes as they came.

use crate::topic::{Template, Variable};
use millrace_contract::TagOptions;
use millrace_kit::extract::{self, Extraction, Pointer};
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
}

/// What a document must be.
#[derive(Clone, Debug)]
pub enum Check {
    /// Its time and the pointers of its key, in their order, are extracted.
    Json(Extraction),
    Text,
    Nothing,
}

#[derive(Clone, Debug)]
pub struct Samples {
    /// The path above the samples' names.
    pub at: Template<Variable>,
    /// In the order of the extraction.
    pub items: Vec<Sample>,
    pub extraction: Extraction,
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
    /// A sample without value, status BadNotFound.
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
        Scalar::Text => extract::text(payload, batch),
        Scalar::Number => extract::number(payload),
    }
}
