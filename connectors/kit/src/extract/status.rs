//! Statuses as devices write them, and what they are in OPC UA's terms.
//!
//! ```text
//! status: /q                              good, ok, true; uncertain; bad, false; or an OPC UA status code above 65535
//! status: {at: /q, as: opcua}             any OPC UA status code: 0 is good
//! status: {at: /q, as: opcda}             OPC DA: 0 to 63 bad, 64 to 127 uncertain, 192 to 255 good
//! status: {at: /q, as: sparkplug}         0 bad, 192 good, 500 stale; 256 to 499 uncertain
//! status: {at: /q, as: {OK: good, E4: bad}}   the device's own words and numbers
//! ```
//!
//! A small number says nothing by itself: 0 is good in OPC UA and bad in OPC DA. What is unknown is uncertain, with a reason, never good.

use crate::time::cut;
use millrace_config::{Kind, Node, Reason, Shorthand, Spanned};
use millrace_schemas::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::borrow::Cow;

/// Where a record's status stands, and how it is written.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusConfig {
    /// Where it stands: the JSON Pointer, or the name of the column.
    pub at: Spanned<String>,
    /// How it is written: `opcua` (any status code, 0 is good), `opcda` (0 bad, 64 uncertain, 192 good), `sparkplug` (0 bad, 192 good, 500 stale),
    /// or what each of the device's words means: `{OK: good, E4: bad}`. Left out: `good`, `ok`, `true`; `uncertain`; `bad`, `false`; or an OPC UA
    /// status code above 65535. What is none of them is uncertain.
    #[serde(default, rename = "as")]
    pub notation: Option<StatusNotation>,
}

impl Shorthand for StatusConfig {
    const KEY: &'static str = "at";
}

impl StatusConfig {
    pub fn notation(&self) -> StatusNotation {
        self.notation.clone().unwrap_or_default()
    }
}

/// How a device writes statuses.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum StatusNotation {
    #[default]
    Words,
    OpcUa,
    OpcDa,
    Sparkplug,
    /// The device's own.
    Map(Box<[(Box<str>, StatusCode)]>),
}

impl StatusNotation {
    /// The status that a text or a number stands for. Errors: one line for a person; the status is then uncertain.
    pub fn read(&self, text: &str) -> Result<StatusCode, Reason> {
        let text = text.trim();
        if let Self::Map(words) = self {
            let known = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
            return known.map(|(_, status)| *status).ok_or_else(|| format!("the status `{}` is not in the list of `as`", cut(text)).into());
        }
        if let Some(status) = word(text) {
            return Ok(status);
        }
        let number = number(text);
        match (self, number) {
            (Self::OpcUa, Some(code)) => Ok(StatusCode(code)),
            (Self::OpcDa, Some(quality)) => opc_da(quality).ok_or_else(|| format!("`{quality}` is not an OPC DA quality").into()),
            (Self::Sparkplug, Some(code)) => sparkplug(code).ok_or_else(|| format!("`{code}` is not a Sparkplug quality").into()),
            (Self::Words, Some(code @ 0x1_0000..)) => Ok(StatusCode(code)),
            (Self::Words, Some(code)) => Err(format!(
                "the status `{code}` is ambiguous: 0 is good in OPC UA and bad in OPC DA; set `as: opcua`, `opcda` or `sparkplug`"
            )
            .into()),
            _ => Err(format!(
                "the status `{}` is none of good, uncertain, bad, true, false or a status code; say what it means in `as`",
                cut(text)
            )
            .into()),
        }
    }
}

fn word(text: &str) -> Option<StatusCode> {
    let is = |names: &[&str]| names.iter().any(|name| text.eq_ignore_ascii_case(name));
    if is(&["good", "ok", "true"]) {
        Some(StatusCode::GOOD)
    } else if is(&["uncertain"]) {
        Some(StatusCode::UNCERTAIN)
    } else if is(&["bad", "false"]) {
        Some(StatusCode::BAD)
    } else {
        None
    }
}

/// What a person calls a status: a word of it, or its code.
pub(super) fn meaning(text: &str) -> Option<StatusCode> {
    word(text).or_else(|| number(text).map(StatusCode))
}

/// A status code as a number: decimal, `0x..`, or signed 32 bits, as some encoders write what is unsigned.
fn number(text: &str) -> Option<u32> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u32::from_str_radix(hex, 16).ok();
    }
    let text = text.strip_suffix(".0").unwrap_or(text);
    text.parse().ok().or_else(|| text.parse::<i32>().ok().map(|signed| signed as u32))
}

/// OPC DA: the two upper bits of the low byte, with the sub-statuses that OPC UA has too. The high byte is the vendor's.
fn opc_da(quality: u32) -> Option<StatusCode> {
    if quality > 0xFFFF {
        return None;
    }
    Some(match quality & 0xFC {
        192.. => StatusCode::GOOD,
        0x44 => StatusCode::UNCERTAIN_LAST_USABLE_VALUE,
        0x54 => StatusCode::UNCERTAIN_ENGINEERING_UNITS_EXCEEDED,
        64..128 => StatusCode::UNCERTAIN,
        128..192 => return None,
        0x04 => StatusCode::BAD_CONFIGURATION_ERROR,
        0x08 => StatusCode::BAD_NOT_CONNECTED,
        0x0C => StatusCode::BAD_DEVICE_FAILURE,
        0x10 => StatusCode::BAD_SENSOR_FAILURE,
        0x18 => StatusCode::BAD_NO_COMMUNICATION,
        0x1C => StatusCode::BAD_OUT_OF_SERVICE,
        0x20 => StatusCode::BAD_WAITING_FOR_INITIAL_DATA,
        _ => StatusCode::BAD,
    })
}

/// Sparkplug's three codes, OPC DA's as gateways write them, and Ignition 8's ranges.
fn sparkplug(code: u32) -> Option<StatusCode> {
    match code {
        0..256 => opc_da(code),
        256..500 => Some(StatusCode::UNCERTAIN),
        500 => Some(StatusCode::BAD_NO_COMMUNICATION),
        501..0x1_0000 => Some(StatusCode::BAD),
        _ => Some(StatusCode(code)),
    }
}

impl<'de> Deserialize<'de> for StatusNotation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        if let Kind::Map(entries) = &node.kind {
            let words = entries.iter().map(|entry| {
                let said = entry.value.text().map_or("", |text| text.as_str());
                match meaning(said) {
                    Some(status) => Ok((Box::from(&*entry.key), status)),
                    None => Err(D::Error::custom(format!("`{}: {said}` must be good, uncertain, bad or an OPC UA status code", entry.key))),
                }
            });
            return words.collect::<Result<_, _>>().map(Self::Map);
        }
        match node.text().map(|text| text.as_str().to_owned()).as_deref() {
            Some("opcua") => Ok(Self::OpcUa),
            Some("opcda") => Ok(Self::OpcDa),
            Some("sparkplug") => Ok(Self::Sparkplug),
            _ => Err(D::Error::custom(format!(
                "`as` of a status is `opcua`, `opcda`, `sparkplug` or a list as in {{OK: good, E4: bad}}, found {}",
                node.describe()
            ))),
        }
    }
}

impl JsonSchema for StatusNotation {
    fn schema_name() -> Cow<'static, str> {
        "StatusNotation".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "anyOf": [{"enum": ["opcua", "opcda", "sparkplug"]}, {"type": "object", "additionalProperties": {"type": ["string", "integer", "boolean"]}}]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_number_is_never_good_unless_its_notation_is_said() {
        for number in ["0", "1", "64", "192", "500"] {
            assert!(StatusNotation::Words.read(number).unwrap_err().contains("ambiguous"), "{number}");
        }
        assert_eq!(StatusNotation::Words.read("2147483648"), Ok(StatusCode::BAD));
        assert_eq!(StatusNotation::Words.read("0x40940000"), Ok(StatusCode::UNCERTAIN_ENGINEERING_UNITS_EXCEEDED));
        assert_eq!(StatusNotation::Words.read("-2147483648"), Ok(StatusCode::BAD));
        assert_eq!(StatusNotation::OpcUa.read("0"), Ok(StatusCode::GOOD));
    }

    #[test]
    fn qualities_of_opc_da_and_sparkplug_are_theirs() {
        let da = |text| StatusNotation::OpcDa.read(text);
        assert_eq!(da("0"), Ok(StatusCode::BAD));
        assert_eq!(da("24"), Ok(StatusCode::BAD_NO_COMMUNICATION));
        assert_eq!(da("64"), Ok(StatusCode::UNCERTAIN));
        assert_eq!(da("192"), Ok(StatusCode::GOOD));
        assert_eq!(da("216"), Ok(StatusCode::GOOD));
        assert_eq!(da("true"), Ok(StatusCode::GOOD));
        assert!(da("128").is_err() && da("70000").is_err() && da("-1").is_err());
        let sparkplug = |text| StatusNotation::Sparkplug.read(text);
        assert_eq!(sparkplug("0"), Ok(StatusCode::BAD));
        assert_eq!(sparkplug("192"), Ok(StatusCode::GOOD));
        assert_eq!(sparkplug("500"), Ok(StatusCode::BAD_NO_COMMUNICATION));
    }

    #[test]
    fn a_devices_own_words_are_read_as_listed() {
        let mut problems = millrace_config::Problems::new();
        let config: StatusConfig = Node::from_yaml("{at: /q, as: {OK: good, \"2\": uncertain, E4: bad, E5: 0x80310000}}", &mut problems)
            .unwrap()
            .parse(&mut problems)
            .unwrap();
        let read = |text| config.notation().read(text);
        assert_eq!(read("ok"), Ok(StatusCode::GOOD));
        assert_eq!(read("2"), Ok(StatusCode::UNCERTAIN));
        assert_eq!(read("E5"), Ok(StatusCode::BAD_NO_COMMUNICATION));
        assert!(read("E6").unwrap_err().contains("not in the list"));
        let wrong: Option<StatusConfig> = Node::from_yaml("{at: /q, as: opc}", &mut problems).unwrap().parse(&mut problems);
        assert!(wrong.is_none() && problems.iter().any(|p| p.message.contains("`opcua`, `opcda`, `sparkplug`")));
    }
}
