//! What a subscription makes of a payload: how it is declared, and the pure part of decoding it.
//!
//! A payload that is not what was declared is never bent into a value: the message becomes a dead letter with its bytes as they came.

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use millrace_config::Reason;
use millrace_contract::TagOptions;
use millrace_kit::extract::{self, Extraction, Rules};
use millrace_kit::records::{Readings, Samples, Variable};
use millrace_kit::{Encoding, Template};
use millrace_schemas::{Batch, StatusCode, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;

/// What a subscription makes of its messages.
#[derive(Clone, Debug)]
pub enum Decode {
    /// The payload as it is.
    Document(Document),
    /// Tags out of a JSON payload.
    Samples(Box<Samples>),
    /// Readings out of a JSON payload, each of which names its tag.
    Readings(Box<Readings>),
    /// The same of a payload that is SenML: its base values are resolved first.
    Senml(Box<Readings>),
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
    Json(Box<Extraction>),
    Text,
    Nothing,
}

#[derive(Clone, Debug)]
pub struct Single {
    pub kind: Scalar,
    /// Of a number its notation, of a number and a text the words that stand for values.
    pub rules: Rules,
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

/// How the bytes of a payload are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    Gzip,
    /// With or without zlib's header.
    Deflate,
}

/// What is between the bytes of a message and the payload that is declared.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Packing {
    pub compression: Option<Compression>,
    /// Of payloads that are text.
    pub encoding: Option<Encoding>,
    /// How large a payload may become.
    pub limit: usize,
}

impl Packing {
    /// The payload. Errors: why it can't be unpacked.
    pub fn open<'p>(&self, payload: &'p [u8]) -> Result<Cow<'p, [u8]>, Reason> {
        let mut bytes = Cow::Borrowed(payload);
        if let Some(compression) = self.compression {
            let unpacked = match compression {
                Compression::Gzip => self.all(MultiGzDecoder::new(payload)),
                Compression::Deflate => self.all(ZlibDecoder::new(payload)).or_else(|_| self.all(DeflateDecoder::new(payload))),
            };
            bytes = Cow::Owned(unpacked.map_err(|error| format!("the payload cannot be decompressed: {error}"))?);
        }
        if let Some(encoding) = self.encoding {
            let text = encoding.decode(&bytes).map_err(|error| format!("the payload cannot be read as text: {error}"))?;
            bytes = Cow::Owned(text.into_owned().into_bytes());
        }
        Ok(bytes)
    }

    fn all(&self, reader: impl Read) -> Result<Vec<u8>, Reason> {
        let mut out = Vec::new();
        reader.take(self.limit as u64 + 1).read_to_end(&mut out).map_err(|error| error.to_string())?;
        if out.len() > self.limit { Err(format!("it is longer than `max_packet`, {} bytes", self.limit).into()) } else { Ok(out) }
    }
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

/// The value of a payload that is one scalar, and its status. Errors: what is wrong with it.
pub fn scalar(single: &Single, payload: &[u8], batch: &mut Batch) -> Result<(Value, StatusCode), Reason> {
    let good = |value| (value, StatusCode::GOOD);
    if single.kind != Scalar::Bytes
        && !single.rules.is_plain()
        && let Ok(text) = std::str::from_utf8(payload)
        && let Some(said) = single.rules.word(text, batch)
    {
        return Ok(said);
    }
    match single.kind {
        Scalar::Bytes => Ok(good(Value::Bytes(batch.push_bytes(payload)))),
        Scalar::Text => extract::text(payload, batch).map(good),
        Scalar::Number => extract::number(payload, single.rules.notation).map(good),
    }
}
