//! Times as devices write them: numbers since 1970, ISO 8601, or a format of the plant's own.
//!
//! ```text
//! time: {at: /ts, unit: ms}                                                              1763726880123, "1763726880123", 1763726880123.5
//! time: {at: timestamp}                                                                  2025-11-21T12:08:00.123Z, 2025-11-21 12:08:00
//! time: {at: timestamp, format: "%d.%m.%Y %H:%M:%S", zone: Europe/Berlin}                21.11.2025 13:08:00
//! ```
//!
//! Numbers are read digit by digit, so no time passes through a double. A time that carries no zone is taken in `zone` (default: UTC): in the hour that
//! a change of the clocks repeats it is the first of the two and *uncertain*; in the hour that is left out it does not exist, an error.
//! Any year is read; whether a time is believed is the engine's decision.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use millrace_config::{Place, Problems, Spanned};
use millrace_schemas::Micros;
use schemars::JsonSchema;
use serde::Deserialize;

/// Where a record's time stands, and how it is written.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeConfig {
    /// Where it stands: the JSON Pointer, or the name of the column.
    pub at: Spanned<String>,
    /// Of a number: `s`, `ms` (default), `us` or `ns` since 1970.
    #[serde(default)]
    pub unit: Option<TimeUnit>,
    /// Of a text: as in `%d.%m.%Y %H:%M:%S`. Default: ISO 8601, as in `2025-11-21T12:08:00Z`.
    #[serde(default)]
    pub format: Option<Spanned<String>>,
    /// The zone of a text that carries none, as in `Europe/Berlin`. Default: UTC.
    #[serde(default)]
    pub zone: Option<Spanned<String>>,
}

/// The unit of a number that is a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    S,
    #[default]
    Ms,
    Us,
    Ns,
}

/// A time that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    pub time: Micros,
    /// It carries no zone and lies in the hour that a change of the clocks repeats.
    pub uncertain: bool,
}

/// Reads times of one way of writing.
#[derive(Clone, Debug)]
pub struct Clock {
    unit: TimeUnit,
    format: Option<Box<str>>,
    zone: TimeZone,
}

impl Default for Clock {
    fn default() -> Self {
        Self { unit: TimeUnit::default(), format: None, zone: TimeZone::UTC }
    }
}

impl Clock {
    /// Checks a configuration, without I/O beyond the zone's data.
    pub fn compile(config: &TimeConfig, problems: &mut Problems) -> Option<Self> {
        let zone = match &config.zone {
            None => Some(TimeZone::UTC),
            Some(name) => zone(name, name.place, problems),
        };
        let format = match &config.format {
            None => Some(None),
            Some(format) => match check(format) {
                Ok(()) => Some(Some(format.as_str().into())),
                Err(why) => {
                    problems.error(format.place, format!("`{}` is no format of a date and time: {why}", format.as_str()));
                    None
                }
            },
        };
        Some(Self { unit: config.unit.unwrap_or_default(), format: format?, zone: zone? })
    }

    /// Reads a number as it was written: `1763726880123`, `1763726880.123`, `1.763726880123e9`.
    ///
    /// Errors: one line for a person, with the number.
    pub fn number(&self, number: &str) -> Result<Stamp, String> {
        match self.micros(number) {
            Some(micros) => Ok(Stamp { time: Micros(micros), uncertain: false }),
            None => Err(format!("`{}` is no number of {} since 1970", cut(number), self.unit_name())),
        }
    }

    /// Reads a text: in the format given, else a number, else ISO 8601.
    ///
    /// Errors: one line for a person, with the text.
    pub fn text(&self, text: &str) -> Result<Stamp, String> {
        let text = text.trim();
        if let Some(format) = &self.format {
            let parsed = BrokenDownTime::parse(&**format, text)
                .map_err(|error| format!("`{}` is no time written as `{format}`: {error}", cut(text)))?;
            if let Ok(timestamp) = parsed.to_timestamp() {
                return Ok(certain(timestamp));
            }
            let civil = parsed.to_datetime().map_err(|error| format!("`{}` is no time: {error}", cut(text)))?;
            return self.civil(civil, text);
        }
        if let Some(micros) = self.micros(text) {
            return Ok(Stamp { time: Micros(micros), uncertain: false });
        }
        if let Ok(timestamp) = text.parse::<Timestamp>() {
            return Ok(certain(timestamp));
        }
        match text.parse::<DateTime>() {
            Ok(civil) => self.civil(civil, text),
            Err(_) => Err(format!("`{}` is no time as in `2025-11-21T12:08:00Z`; give its `format`", cut(text))),
        }
    }

    fn civil(&self, civil: DateTime, text: &str) -> Result<Stamp, String> {
        let (offset, uncertain) = match self.zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => (offset, false),
            AmbiguousOffset::Fold { before, .. } => (before, true),
            AmbiguousOffset::Gap { .. } => {
                let zone = self.zone.iana_name().unwrap_or("its zone");
                return Err(format!("`{}` does not exist in {zone}: the clocks were put forward over it", cut(text)));
            }
        };
        let timestamp = offset.to_timestamp(civil).map_err(|error| format!("`{}` is no time: {error}", cut(text)))?;
        Ok(Stamp { uncertain, ..certain(timestamp) })
    }

    fn micros(&self, number: &str) -> Option<i64> {
        let nanos_per_unit: i128 = match self.unit {
            TimeUnit::S => 1_000_000_000,
            TimeUnit::Ms => 1_000_000,
            TimeUnit::Us => 1000,
            TimeUnit::Ns => 1,
        };
        let (negative, digits) = match number.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, number),
        };
        if digits.len() > 1 && digits.contains(['e', 'E']) && digits.starts_with(|first: char| first.is_ascii_digit()) {
            let nanos = number.parse::<f64>().ok()? * nanos_per_unit as f64;
            return (nanos.abs() < 9e21).then(|| (nanos / 1e3).floor() as i64);
        }
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_digits(whole) || !is_digits(fraction) || whole.len() > 20 {
            return None;
        }
        let fraction = &fraction[..fraction.len().min(12)];
        let part = fraction.parse::<i128>().ok()? * nanos_per_unit / 10_i128.pow(fraction.len() as u32);
        let nanos = whole.parse::<i128>().ok()? * nanos_per_unit + part;
        i64::try_from(if negative { -nanos } else { nanos }.div_euclid(1000)).ok()
    }

    fn unit_name(&self) -> &'static str {
        match self.unit {
            TimeUnit::S => "seconds",
            TimeUnit::Ms => "milliseconds",
            TimeUnit::Us => "microseconds",
            TimeUnit::Ns => "nanoseconds",
        }
    }
}

/// A time zone by its name.
pub fn zone(name: &str, place: Place, problems: &mut Problems) -> Option<TimeZone> {
    match TimeZone::get(name) {
        Ok(zone) => Some(zone),
        Err(_) => {
            problems.error(place, format!("`{name}` is no time zone")).help("write it as in `Europe/Berlin`, or UTC");
            None
        }
    }
}

/// Whether a format writes a time that it can read back.
fn check(format: &str) -> Result<(), String> {
    let example = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
    let text = strtime::format(format, &example).map_err(|error| error.to_string())?;
    let parsed = BrokenDownTime::parse(format, &text).map_err(|error| error.to_string())?;
    match (parsed.to_timestamp(), parsed.to_datetime()) {
        (Err(_), Err(_)) => Err("it lacks the date or the time of day".into()),
        _ => Ok(()),
    }
}

fn certain(timestamp: Timestamp) -> Stamp {
    Stamp { time: Micros(timestamp.as_microsecond()), uncertain: false }
}

/// At most 64 characters of a foreign text, for an error.
pub(crate) fn cut(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_config::Node;
    use proptest::prelude::*;

    fn clock(yaml: &str) -> Result<Clock, String> {
        let mut problems = Problems::new();
        let config: Option<TimeConfig> = Node::from_yaml(yaml, &mut problems).and_then(|node| node.parse(&mut problems));
        let clock = config.and_then(|config| Clock::compile(&config, &mut problems));
        clock.ok_or_else(|| problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; "))
    }

    fn certain(micros: i64) -> Result<Stamp, String> {
        Ok(Stamp { time: Micros(micros), uncertain: false })
    }

    #[test]
    fn numbers_are_times_of_their_unit() {
        for (unit, number, micros) in [
            ("s", "1763726880", 1_763_726_880_000_000),
            ("s", "1763726880.123456", 1_763_726_880_123_456),
            ("s", "1.76372688e9", 1_763_726_880_000_000),
            ("ms", "1763726880123", 1_763_726_880_123_000),
            ("ms", "1763726880123.25", 1_763_726_880_123_250),
            ("us", "1763726880123456", 1_763_726_880_123_456),
            ("ns", "1763726880123456999", 1_763_726_880_123_456),
            ("ns", "-1", -1),
            ("s", "-11644473600", -11_644_473_600_000_000),
            ("s", "7258118400", 7_258_118_400_000_000),
        ] {
            let clock = clock(&format!("{{at: /ts, unit: {unit}}}")).unwrap();
            assert_eq!(clock.number(number), certain(micros), "{number} {unit}");
            assert_eq!(clock.text(&format!(" {number} ")), certain(micros), "\"{number}\" {unit}");
        }
        let clock = clock("{at: /ts}").unwrap();
        assert_eq!(clock.number("99999999999999999999"), Err("`99999999999999999999` is no number of milliseconds since 1970".into()));
        assert_eq!(clock.number("1e300"), Err("`1e300` is no number of milliseconds since 1970".into()));
    }

    #[test]
    fn texts_are_iso_8601_unless_said_otherwise() {
        let utc = clock("{at: t}").unwrap();
        for (text, micros) in [
            ("2025-11-21T12:08:00Z", 1_763_726_880_000_000),
            ("2025-11-21T13:08:00.123456+01:00", 1_763_726_880_123_456),
            ("2025-11-21 12:08:00", 1_763_726_880_000_000),
            ("1601-01-01T00:00:00Z", -11_644_473_600_000_000),
            ("2200-01-01T00:00:00Z", 7_258_118_400_000_000),
        ] {
            assert_eq!(utc.text(text), certain(micros), "{text}");
        }
        let berlin = clock("{at: t, zone: Europe/Berlin}").unwrap();
        assert_eq!(berlin.text("2025-11-21T13:08:00"), certain(1_763_726_880_000_000));
        assert_eq!(berlin.text("2025-11-21T12:08:00Z"), certain(1_763_726_880_000_000));
        assert_eq!(utc.text("yesterday"), Err("`yesterday` is no time as in `2025-11-21T12:08:00Z`; give its `format`".into()));
        assert!(utc.text(&"x".repeat(1 << 20)).unwrap_err().len() < 200);
    }

    #[test]
    fn a_format_of_the_plant_is_read_in_its_zone() {
        let clock = clock("{at: timestamp, format: \"%d.%m.%Y %H:%M:%S\", zone: Europe/Berlin}").unwrap();
        assert_eq!(clock.text("21.11.2025 13:08:00"), certain(1_763_726_880_000_000));
        assert!(
            clock.text("2025-11-21 13:08:00").unwrap_err().starts_with("`2025-11-21 13:08:00` is no time written as `%d.%m.%Y %H:%M:%S`: ")
        );
    }

    #[test]
    fn the_doubled_hour_is_uncertain_and_the_skipped_hour_an_error() {
        let berlin = clock("{at: t, zone: Europe/Berlin}").unwrap();
        let doubled = berlin.text("2025-10-26 02:30:00").unwrap();
        assert_eq!(doubled, Stamp { time: Micros(1_761_438_600_000_000), uncertain: true });
        assert_eq!(berlin.text("2025-10-26T02:30:00+01:00"), certain(1_761_442_200_000_000));
        let skipped = berlin.text("2025-03-30 02:30:00");
        assert_eq!(skipped, Err("`2025-03-30 02:30:00` does not exist in Europe/Berlin: the clocks were put forward over it".into()));
    }

    #[test]
    fn a_wrong_zone_or_format_is_a_problem_of_the_config() {
        assert_eq!(clock("{at: t, zone: Middle/Earth}").unwrap_err(), "`Middle/Earth` is no time zone");
        assert_eq!(
            clock("{at: t, format: \"%H:%M\"}").unwrap_err(),
            "`%H:%M` is no format of a date and time: it lacks the date or the time of day"
        );
        assert!(clock("{at: t, format: \"%d.%m.%Y %\"}").unwrap_err().starts_with("`%d.%m.%Y %` is no format of a date and time: "));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}", number in "-?[0-9]{0,25}(\\.[0-9]{0,20})?([eE][+-]?[0-9]{0,4})?") {
            for yaml in ["{at: t, unit: ns}", "{at: t, zone: Europe/Berlin}", "{at: t, format: \"%d.%m.%Y %H:%M:%S %z\"}"] {
                let clock = clock(yaml).unwrap();
                let _ = (clock.text(&text), clock.text(&number), clock.number(&number));
            }
        }
    }
}
