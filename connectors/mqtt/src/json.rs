//! Values, times and statuses out of a JSON payload, by JSON Pointer (RFC 6901).

use jiff::Timestamp;
use jiff::civil;
use jiff::tz::TimeZone;
use millrace_schemas::{Batch, Kind, Micros, StatusCode, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;
use std::fmt;

/// A JSON Pointer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pointer(Box<str>);

impl Pointer {
    /// Reads a pointer. Errors: one line for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.is_empty() && !text.starts_with('/') {
            return Err(format!("`{text}` is no JSON pointer; write /{}", text.replace('.', "/")));
        }
        let tildes = text.as_bytes().iter().enumerate().filter(|(_, byte)| **byte == b'~');
        for (index, _) in tildes {
            if !matches!(text.as_bytes().get(index + 1), Some(b'0' | b'1')) {
                return Err(format!("`~` in `{text}` must be written ~0, and a `/` in a name ~1"));
            }
        }
        Ok(Self(text.into()))
    }

    pub fn get<'j>(&self, json: &'j Json) -> Option<&'j Json> {
        json.pointer(&self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(the whole payload)" } else { &self.0 })
    }
}

/// Reads a payload. Errors: what is wrong and where.
pub fn parse(payload: &[u8]) -> Result<Json, String> {
    serde_json::from_slice(payload).map_err(|error| broken(payload, &error))
}

/// Whether a payload is JSON, without making anything of it.
pub fn check(payload: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(payload).map_err(|error| format!("the payload is no JSON: byte {} is no UTF-8", error.valid_up_to()))?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(drop).map_err(|error| broken(payload, &error))
}

fn broken(payload: &[u8], error: &serde_json::Error) -> String {
    if payload.is_empty() {
        return "the payload is no JSON: it is empty".into();
    }
    format!("the payload is no JSON: {error}; it begins `{}`", crate::payload::excerpt(payload))
}

/// A JSON value as the value of a tag. A list of one type becomes an array; other lists and objects stay JSON.
pub fn value(json: &Json, batch: &mut Batch) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(int), _, _) => Value::Int(int),
            (_, Some(uint), _) => Value::UInt(uint),
            (_, _, Some(double)) => Value::Double(double),
            _ => Value::Null,
        },
        Json::String(text) => batch.text(text),
        Json::Array(items) => array(items, batch).unwrap_or_else(|| whole(json, batch)),
        Json::Object(_) => whole(json, batch),
    }
}

fn whole(json: &Json, batch: &mut Batch) -> Value {
    let start = batch.heap.len();
    let _ = serde_json::to_writer(&mut batch.heap, json);
    Value::Struct(batch.span_from(start))
}

fn array(items: &[Json], batch: &mut Batch) -> Option<Value> {
    let kind = match items.first()? {
        Json::Bool(_) => Kind::Bool,
        Json::Number(_) if items.iter().all(Json::is_i64) => Kind::Int,
        Json::Number(_) if items.iter().all(Json::is_u64) => Kind::UInt,
        Json::Number(_) => Kind::Double,
        Json::String(_) => Kind::Text,
        _ => return None,
    };
    match kind {
        Kind::Bool if items.iter().all(Json::is_boolean) => Some(batch.bools(items.iter().filter_map(Json::as_bool), &[])),
        Kind::Int => Some(batch.longs(items.iter().filter_map(Json::as_i64), &[])),
        Kind::UInt => Some(batch.uints(items.iter().filter_map(Json::as_u64), &[])),
        Kind::Double if items.iter().all(Json::is_number) => Some(batch.doubles(items.iter().filter_map(Json::as_f64), &[])),
        Kind::Text if items.iter().all(Json::is_string) => Some(batch.texts(items.iter().filter_map(Json::as_str), &[])),
        _ => None,
    }
}

/// A status in a payload: `good`, `uncertain`, `bad`, true, false or an OPC UA status code. Errors: what it is instead.
pub fn status(json: &Json) -> Result<StatusCode, String> {
    let code = match json {
        Json::Bool(true) => Some(StatusCode::GOOD),
        Json::Bool(false) => Some(StatusCode::BAD),
        Json::Number(number) => number.as_u64().and_then(|code| u32::try_from(code).ok()).map(StatusCode),
        Json::String(text) => match text.to_ascii_lowercase().as_str() {
            "good" | "ok" => Some(StatusCode::GOOD),
            "uncertain" => Some(StatusCode::UNCERTAIN),
            "bad" => Some(StatusCode::BAD),
            _ => None,
        },
        _ => None,
    };
    code.ok_or_else(|| format!("the status `{json}` is none of good, uncertain, bad, true, false or an OPC UA status code"))
}

/// The time in a payload.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeConfig {
    /// The JSON Pointer of the time.
    pub at: String,
    /// Of a number: `s`, `ms` (default), `us` or `ns` since 1970.
    #[serde(default)]
    pub unit: Option<TimeUnit>,
    /// Of a text: as in `%d.%m.%Y %H:%M:%S`. Default: RFC 3339.
    #[serde(default)]
    pub format: Option<String>,
    /// The time zone of a text that carries none: `Europe/Berlin`. Default: UTC.
    #[serde(default)]
    pub zone: Option<String>,
}

/// The unit of a number that is a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    S,
    Ms,
    Us,
    Ns,
}

/// Where the time of a payload stands and how it is written.
#[derive(Clone, Debug)]
pub struct Clock {
    pub pointer: Pointer,
    unit: TimeUnit,
    format: Option<Box<str>>,
    zone: TimeZone,
}

impl Clock {
    pub fn compile(config: &TimeConfig) -> Result<Self, String> {
        let zone = match &config.zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| format!("`{name}` is no time zone; write it as in `Europe/Berlin`"))?,
        };
        Ok(Self {
            pointer: Pointer::parse(&config.at)?,
            unit: config.unit.unwrap_or(TimeUnit::Ms),
            format: config.format.as_deref().map(Into::into),
            zone,
        })
    }

    /// Reads the time of a payload. Errors: what is there instead.
    pub fn read(&self, payload: &Json) -> Result<Micros, String> {
        match self.pointer.get(payload) {
            None => Err(format!("the time {} is not in the payload", self.pointer)),
            Some(Json::Number(number)) => self.number(number).ok_or_else(|| format!("{} at {} is no time", number, self.pointer)),
            Some(Json::String(text)) => self.text(text).ok_or_else(|| match &self.format {
                Some(format) => format!("`{text}` at {} is no time written as `{format}`", self.pointer),
                None => format!("`{text}` at {} is no time of RFC 3339; give its `format`", self.pointer),
            }),
            Some(other) => Err(format!("`{other}` at {} is no time", self.pointer)),
        }
    }

    fn number(&self, number: &serde_json::Number) -> Option<Micros> {
        if let Some(int) = number.as_i64() {
            return match self.unit {
                TimeUnit::S => int.checked_mul(1_000_000),
                TimeUnit::Ms => int.checked_mul(1000),
                TimeUnit::Us => Some(int),
                TimeUnit::Ns => Some(int.div_euclid(1000)),
            }
            .map(Micros);
        }
        let factor = match self.unit {
            TimeUnit::S => 1e6,
            TimeUnit::Ms => 1e3,
            TimeUnit::Us => 1.0,
            TimeUnit::Ns => 1e-3,
        };
        let micros = (number.as_f64()? * factor).round();
        (micros.abs() < 9e18).then_some(Micros(micros as i64))
    }

    fn text(&self, text: &str) -> Option<Micros> {
        let micros = |timestamp: Timestamp| Micros(timestamp.as_microsecond());
        let Some(format) = &self.format else {
            let text = text.trim();
            return match text.parse::<Timestamp>() {
                Ok(timestamp) => Some(micros(timestamp)),
                Err(_) => Some(micros(text.parse::<civil::DateTime>().ok()?.to_zoned(self.zone.clone()).ok()?.timestamp())),
            };
        };
        let parsed = jiff::fmt::strtime::parse(&**format, text).ok()?;
        if let Ok(timestamp) = parsed.to_timestamp() {
            return Some(micros(timestamp));
        }
        Some(micros(parsed.to_datetime().ok()?.to_zoned(self.zone.clone()).ok()?.timestamp()))
    }
}
