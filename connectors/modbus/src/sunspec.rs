//! SunSpec: which models a device has, where their points are, and what they mean.
//!
//! ```text
//! 40000  "SunS"          (or at 0, or 50000)
//! 40002  1   66  66 registers     model 1, "common"
//! 40070  103 50  50 registers     model 103, "inverter"
//! 40122  FFFF 0                   the end
//! ```
//!
//! Offsets are found only by walking the chain: lengths differ between versions of a model. Points are those of the SunSpec Information Model
//! Reference, each counted from the register that holds the model's id. A point's scale factor stands in the model, and a device may change it.

use crate::pdu::Exception;
use millrace_config::Reason;

/// The marker, as two registers.
pub const MARKER: [u8; 4] = *b"SunS";
/// Where the marker may be.
pub const BASES: [u16; 3] = [40_000, 0, 50_000];
/// The id behind the last model.
const END: u16 = 0xFFFF;
/// No device has more models; a chain that goes on is rubbish.
const MODELS_MOST: usize = 100;

/// A model of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Model {
    pub id: u16,
    /// Where its id is.
    pub start: u16,
    /// Registers behind id and length.
    pub length: u16,
}

/// A walk along the chain: gives the address of the next id and length, and takes what is read there.
#[derive(Debug)]
pub struct Walk {
    at: u16,
    pub models: Vec<Model>,
    pub is_over: bool,
}

impl Walk {
    /// Behind a marker at `base`.
    pub const fn from(base: u16) -> Self {
        Self { at: base + 2, models: Vec::new(), is_over: false }
    }

    /// Two registers are to be read here.
    pub const fn next(&self) -> u16 {
        self.at
    }

    /// Takes the four bytes that were read. Errors: the chain does not end as it should; what was found so far is good.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        let Some(&[a, b, c, d]) = bytes.first_chunk::<4>() else {
            self.is_over = true;
            return Err("an id and a length are two registers".into());
        };
        let (id, length) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        if id == END {
            self.is_over = true;
            return Ok(());
        }
        let next = u16::try_from(u32::from(self.at) + 2 + u32::from(length)).ok();
        // A model beyond the last register is none.
        if next.is_some() {
            self.models.push(Model { id, start: self.at, length });
        }
        match next {
            Some(next) if self.models.len() < MODELS_MOST => self.at = next,
            _ => {
                self.is_over = true;
                return Err(format!("the chain of models does not end: model {id} at {} has a length of {length}", self.at).into());
            }
        }
        Ok(())
    }

    /// The device refuses the next id.
    pub fn refused(&mut self, exception: Exception) -> String {
        self.is_over = true;
        format!("the chain of models breaks off at {}: {exception}", self.at)
    }
}

/// How a point is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    I16,
    U16,
    U32,
    F32,
    /// Counts up and rolls over; 0: not counted.
    Acc32,
    Text(u16),
}

impl Stored {
    const fn registers(self) -> u16 {
        match self {
            Self::I16 | Self::U16 => 1,
            Self::U32 | Self::F32 | Self::Acc32 => 2,
            Self::Text(bytes) => bytes / 2,
        }
    }

    fn word(self) -> String {
        match self {
            Self::I16 => "i16".into(),
            Self::U16 => "u16".into(),
            Self::U32 | Self::Acc32 => "u32".into(),
            Self::F32 => "f32".into(),
            Self::Text(bytes) => format!("'string[{bytes}]'"),
        }
    }

    /// What stands for "not implemented".
    const fn null(self) -> Option<&'static str> {
        match self {
            Self::I16 => Some("0x8000"),
            Self::U16 => Some("0xFFFF"),
            Self::U32 => Some("0xFFFFFFFF"),
            Self::F32 => Some("0x7FC00000"),
            Self::Acc32 => Some("0"),
            Self::Text(_) => None,
        }
    }
}

/// A point of a model, and where its scale factor is.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    name: &'static str,
    at: u16,
    stored: Stored,
    factor: Option<u16>,
    unit: &'static str,
}

const fn point(name: &'static str, at: u16, stored: Stored, factor: u16, unit: &'static str) -> Point {
    Point { name, at, stored, factor: if factor == 0 { None } else { Some(factor) }, unit }
}

use Stored::{Acc32, F32, I16, Text, U16, U32};

const COMMON: [Point; 4] = [
    point("manufacturer", 2, Text(32), 0, ""),
    point("model", 18, Text(32), 0, ""),
    point("version", 42, Text(16), 0, ""),
    point("serial", 50, Text(32), 0, ""),
];

/// Inverters with integers and scale factors: 101 (one phase), 102 (two), 103 (three).
const INVERTER: [Point; 17] = [
    point("current", 2, U16, 6, "A"),
    point("voltage_an", 10, U16, 13, "V"),
    point("voltage_bn", 11, U16, 13, "V"),
    point("voltage_cn", 12, U16, 13, "V"),
    point("power", 14, I16, 15, "W"),
    point("frequency", 16, U16, 17, "Hz"),
    point("apparent_power", 18, I16, 19, "VA"),
    point("reactive_power", 20, I16, 21, "var"),
    point("power_factor", 22, I16, 23, "%"),
    point("energy", 24, Acc32, 26, "Wh"),
    point("dc_current", 27, U16, 28, "A"),
    point("dc_voltage", 29, U16, 30, "V"),
    point("dc_power", 31, I16, 32, "W"),
    point("cabinet_temperature", 33, I16, 37, "degC"),
    point("heat_sink_temperature", 34, I16, 37, "degC"),
    point("state", 38, U16, 0, ""),
    point("events", 40, U32, 0, ""),
];

/// The same with floats: 111, 112, 113.
const INVERTER_FLOAT: [Point; 15] = [
    point("current", 2, F32, 0, "A"),
    point("voltage_an", 16, F32, 0, "V"),
    point("voltage_bn", 18, F32, 0, "V"),
    point("voltage_cn", 20, F32, 0, "V"),
    point("power", 22, F32, 0, "W"),
    point("frequency", 24, F32, 0, "Hz"),
    point("apparent_power", 26, F32, 0, "VA"),
    point("reactive_power", 28, F32, 0, "var"),
    point("power_factor", 30, F32, 0, "%"),
    point("energy", 32, F32, 0, "Wh"),
    point("dc_current", 34, F32, 0, "A"),
    point("dc_voltage", 36, F32, 0, "V"),
    point("dc_power", 38, F32, 0, "W"),
    point("cabinet_temperature", 40, F32, 0, "degC"),
    point("state", 48, U16, 0, ""),
];

/// Meters with integers and scale factors: 201 (one phase) to 204 (three, delta).
const METER: [Point; 13] = [
    point("current", 2, I16, 6, "A"),
    point("current_a", 3, I16, 6, "A"),
    point("current_b", 4, I16, 6, "A"),
    point("current_c", 5, I16, 6, "A"),
    point("voltage_an", 8, I16, 15, "V"),
    point("voltage_bn", 9, I16, 15, "V"),
    point("voltage_cn", 10, I16, 15, "V"),
    point("frequency", 16, I16, 17, "Hz"),
    point("power", 18, I16, 22, "W"),
    point("apparent_power", 23, I16, 27, "VA"),
    point("reactive_power", 28, I16, 32, "var"),
    point("energy_exported", 38, Acc32, 54, "Wh"),
    point("energy_imported", 46, Acc32, 54, "Wh"),
];

/// A name for the tags of a model, and the points that are known of it.
pub fn known(id: u16) -> Option<(&'static str, &'static [Point])> {
    Some(match id {
        1 => ("common", &COMMON),
        101..=103 => ("inverter", &INVERTER),
        111..=113 => ("inverter", &INVERTER_FLOAT),
        201..=204 => ("meter", &METER),
        _ => return None,
    })
}

impl Model {
    /// Where the scale factors of its known points are.
    pub fn factors(&self) -> Vec<u16> {
        let mut all: Vec<u16> = self.points().filter_map(|point| Some(self.start + point.factor?)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The known points that it is long enough for.
    fn points(&self) -> impl Iterator<Item = &'static Point> + use<> {
        let end = self.length + 2;
        let points = known(self.id).map_or(&[][..], |(_, points)| points);
        points.iter().filter(move |point| point.at + point.stored.registers() <= end && point.factor.is_none_or(|at| at < end))
    }

    /// Its tags as lines of YAML, `name: {address: .., as: ..}`. `factor`: what a scale factor was when it was read.
    pub fn tags(&self, prefix: &str, factor: impl Fn(u16) -> Option<i16>) -> Vec<String> {
        let line = |point: &Point| {
            let scale = match point.factor.map(|at| factor(self.start + at)) {
                // -32768: the device does not have the point.
                Some(None | Some(i16::MIN)) => return None,
                Some(Some(exponent)) if !(-10..=10).contains(&exponent) => return None,
                Some(Some(0)) | None => String::new(),
                Some(Some(exponent)) => format!(", scale: {}", 10f64.powi(exponent.into())),
            };
            let null = point.stored.null().map_or_else(String::new, |null| format!(", null_values: [{null}]"));
            let unit = if point.unit.is_empty() { String::new() } else { format!(", unit: \"{}\"", point.unit) };
            let kind = if point.stored == Acc32 { ", kind: counter" } else { "" };
            let (name, word) = (point.name, point.stored.word());
            Some(format!("{prefix}/{name}: {{address: 'holding:{}', as: {word}{scale}{unit}{null}{kind}}}", self.start + point.at))
        };
        self.points().filter_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_walked_to_its_end_and_one_without_an_end_is_given_up() {
        let mut walk = Walk::from(40_000);
        for (at, bytes) in [(40_002, [0, 1, 0, 66]), (40_070, [0, 103, 0, 50]), (40_122, [0xFF, 0xFF, 0, 0])] {
            assert_eq!(walk.next(), at);
            walk.take(&bytes).unwrap();
        }
        assert!(walk.is_over);
        let model = |id, start, length| Model { id, start, length };
        assert_eq!(walk.models, [model(1, 40_002, 66), model(103, 40_070, 50)]);
        let mut endless = Walk::from(0);
        let why = loop {
            if let Err(why) = endless.take(&[0, 9, 0, 0]) {
                break why;
            }
        };
        assert!(why.contains("does not end") && endless.is_over && endless.models.len() == MODELS_MOST);
        assert!(Walk::from(50_000).take(&[0, 9, 0xFF, 0xF0]).unwrap_err().contains("65520"));
        assert!(Walk::from(0).take(&[0, 1]).is_err());
    }

    /// SunSpec's own example: W = 1234 with W_SF = -1 is 123.4 W.
    #[test]
    fn points_have_their_place_their_factor_and_what_stands_for_nothing() {
        let model = Model { id: 103, start: 40_070, length: 50 };
        assert_eq!(model.factors(), [40_076, 40_083, 40_085, 40_087, 40_089, 40_091, 40_093, 40_096, 40_098, 40_100, 40_102, 40_107]);
        let tags = model.tags("inverter", |at| match at {
            40_085 => Some(-1),
            40_096 => Some(i16::MIN),
            40_087 => Some(2),
            _ => Some(0),
        });
        assert!(
            tags.contains(
                &"inverter/power: {address: 'holding:40084', as: i16, scale: 0.1, unit: \"W\", null_values: [0x8000]}".to_owned()
            ),
            "{tags:#?}"
        );
        assert!(tags.iter().any(|tag| tag.starts_with("inverter/frequency: {address: 'holding:40086', as: u16, scale: 100,")));
        assert!(!tags.iter().any(|tag| tag.starts_with("inverter/energy:")), "its factor says that it is not implemented");
        // A shorter version of a model: what is beyond it is not there.
        let short = Model { length: 20, ..model };
        assert!(short.tags("inverter", |_| Some(0)).iter().all(|tag| !tag.contains("dc_power")));
        let common = Model { id: 1, start: 40_002, length: 66 };
        assert_eq!(common.tags("common", |_| None)[3], "common/serial: {address: 'holding:40052', as: 'string[32]'}");
    }
}
