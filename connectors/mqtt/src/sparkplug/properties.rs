//! What the properties of a metric say about its quality, and about its tag in the catalog.
//!
//! ```text
//! Quality                              the status of this value: 0 bad, 192 good, 500 stale; also OPC DA's and Ignition's other codes
//! engUnit                              unit
//! engLow, engHigh                      eu: for the catalog and for deadbands in percent. Not limits: gateways write 0..100 for any tag
//! documentation, tooltip, description  description
//! other texts, numbers, booleans       labels, at most 32 of 256 bytes each
//! ```
//!
//! What the config says about a tag goes before what its properties say.
//!
//! Source: Sparkplug 3.0.0, section 6.4.9 (properties, quality codes); names of the others as Ignition writes them.

use super::datatype::{DataType, Typed, typed};
use super::wire::{self, Malformed};
use millrace_contract::TagOptions;
use millrace_schemas::StatusCode;
use std::collections::BTreeMap;

const MOST_LABELS: usize = 32;
const LONGEST_LABEL: usize = 256;

/// The status that the property `Quality` gives this value; good where it is missing.
pub fn quality(properties: &[u8]) -> Result<StatusCode, Malformed> {
    let mut status = StatusCode::GOOD;
    if properties.is_empty() {
        return Ok(status);
    }
    wire::properties(properties, |key, property| {
        if key.eq_ignore_ascii_case("quality")
            && !property.null
            && let Ok(Typed::Int(code)) = typed(DataType::Int64, property.value)
        {
            status = status_of(code);
        }
    })?;
    Ok(status)
}

/// The status code of a quality code.
fn status_of(code: i64) -> StatusCode {
    // Two's complement of 32 bits, where an encoder took the number for signed.
    let code = code & 0xFFFF_FFFF;
    match code {
        500 => StatusCode::BAD_NO_COMMUNICATION,
        // OPC DA: the two upper bits of the byte.
        0..256 => match code >> 6 {
            3 => StatusCode::GOOD,
            1 => StatusCode::UNCERTAIN,
            _ if code == 0x08 => StatusCode::BAD_NOT_CONNECTED,
            _ if code == 0x0C => StatusCode::BAD_DEVICE_FAILURE,
            _ if code == 0x10 => StatusCode::BAD_SENSOR_FAILURE,
            _ if code == 0x18 => StatusCode::BAD_NO_COMMUNICATION,
            _ if code == 0x1C => StatusCode::BAD_OUT_OF_SERVICE,
            _ => StatusCode::BAD,
        },
        // Ignition 8: 256 and up uncertain, 500 and up bad or an error.
        256..500 => StatusCode::UNCERTAIN,
        // An OPC UA status code as it is.
        0x4000_0000.. => StatusCode(code as u32),
        _ => StatusCode::BAD,
    }
}

/// The options that a metric's properties imply, beside those the config gives; `None` where they imply none.
pub fn options(properties: &[u8], config: &TagOptions) -> Result<Option<TagOptions>, Malformed> {
    let mut implied = TagOptions::default();
    let (mut low, mut high) = (None, None);
    let mut labels = BTreeMap::new();
    wire::properties(properties, |key, property| {
        let Ok(value) = typed(DataType::of(property.datatype), property.value) else { return };
        let number = match value {
            Typed::Int(value) => Some(value as f64),
            Typed::UInt(value) => Some(value as f64),
            Typed::Double(value) => Some(value),
            _ => None,
        };
        match (key.to_ascii_lowercase().as_str(), value) {
            ("quality", _) | (_, Typed::Null) => {}
            ("engunit", Typed::Text(text)) => implied.unit = Some(text.to_owned()).filter(|text| !text.is_empty()),
            ("englow", _) if number.is_some() => low = number,
            ("enghigh", _) if number.is_some() => high = number,
            ("documentation" | "tooltip" | "description", Typed::Text(text)) if !text.is_empty() => {
                implied.description = Some(text.to_owned());
            }
            (_, value) => {
                let text = match value {
                    Typed::Bool(value) => value.to_string(),
                    Typed::Int(value) => value.to_string(),
                    Typed::UInt(value) => value.to_string(),
                    Typed::Double(value) => value.to_string(),
                    Typed::Text(text) => text.to_owned(),
                    _ => return,
                };
                if !text.is_empty() && text.len() <= LONGEST_LABEL && key.len() <= LONGEST_LABEL && labels.len() < MOST_LABELS {
                    labels.insert(key.to_owned(), text);
                }
            }
        }
    })?;
    if let (Some(low), Some(high)) = (low, high)
        && low < high
        && (high - low).is_finite()
    {
        implied.eu = Some([low, high]);
    }
    if !labels.is_empty() {
        labels.extend(config.labels.clone().unwrap_or_default());
    }
    implied.labels = Some(labels).filter(|labels| !labels.is_empty());
    if implied == TagOptions::default() {
        return Ok(None);
    }
    let labels = implied.labels.take();
    let mut merged = config.over(&implied);
    merged.labels = labels.or(merged.labels);
    Ok(Some(merged))
}
