//! Times as devices write them: numbers since 1970, ISO 8601, or a format of the plant's own.
//!
//! ```text
//! time: {at: /ts, unit: ms}                                                              1763726880123, "1763726880123", 1763726880123.5
//! time: {at: timestamp}                                                                  2025-11-21T12:08:00.123Z, 2025-11-21 12:08:00
//! time: {at: timestamp, format: "%d.%m.%Y %H:%M:%S", zone: Europe/Berlin}                21.11.2025 13:08:00
//! time: {at: [Date, Time], format: "%d.%m.%Y %H:%M:%S"}                                  two columns, read with a space between them
//! time: {at: t, unit: excel}                                                             45982.506 (days since 1899-12-30)
//! ```
//!
//! Numbers are read digit by digit, so no time passes through a double. A time that carries no zone is taken in `zone` (default: UTC): in the hour that
//! a change of the clocks repeats it is the first of the two and *uncertain*; in the hour that is left out it does not exist, an error.
//! Any year is read; whether a time is believed is the engine's decision, and [`Clock::doubt`] says why a very old one may be misread.

use crate::extract::pointer::Places;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use millrace_config::{Place, Problems, Reason, Spanned};
use millrace_schemas::Micros;
use schemars::JsonSchema;
use serde::Deserialize;

/// Where a record's time stands, and how it is written. A record whose time cannot be read becomes a dead letter with the reason.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeConfig {
    /// Where it stands: the JSON Pointer, or the name of the column. Of several, as in `[Date, Time]`, the texts are read as one with a space
    /// between them.
    pub at: Places,
    /// Of a number: `s`, `ms` (default), `us` or `ns` since 1970; `excel` or `ole`, days since 1899-12-30 in `zone`; `filetime`, 100 ns since 1601.
    #[serde(default)]
    pub unit: Option<TimeUnit>,
    /// Of a text: as in `%d.%m.%Y %H:%M:%S`. Default: ISO 8601, as in `2025-11-21T12:08:00Z`, or a number.
    /// `%Y` year, `%y` its last two digits, `%m` month, `%b` its short and `%B` its full English name, `%d` day, `%j` day of the year; `%H` hour (0
    /// to 23), `%I` hour (1 to 12) with `%p` AM or PM, `%M` minute, `%S` second, `%f` its fraction, `%.f` the same with its point where there is
    /// one; `%z` offset (`+0100`), `%:z` (`+01:00`), `%Q` zone (`Europe/Berlin`), `%s` seconds since 1970, `%T` for `%H:%M:%S`, `%F` for `%Y-%m-%d`,
    /// `%%` a percent sign.
    #[serde(default)]
    pub format: Option<Spanned<String>>,
    /// The zone of a text that carries none, as in `Europe/Berlin`. Default: UTC. In the hour that the end of summer time repeats it is the first of
    /// the two, and the values are uncertain; a time in the hour that is left out in spring does not exist: a dead letter.
    #[serde(default)]
    pub zone: Option<Spanned<String>>,
    /// What a record without a time means, or one where it is null or empty: `dead`, a dead letter; or `read`: its values have the time when they
    /// were read.
    #[serde(default)]
    pub missing: TimeMissing,
}

/// What a record without a time means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeMissing {
    /// A dead letter.
    #[default]
    Dead,
    /// Its values have the time when they were read.
    Read,
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
    /// Days since 1899-12-30, local time in `zone`.
    Excel,
    /// As `excel`: the OLE automation date.
    Ole,
    /// Windows: 100 ns since 1601.
    Filetime,
}

/// Before 1990 no device of today wrote its values: the claim is a clock that was never set, or a number of another unit.
const EARLIEST: i64 = 631_152_000_000_000;

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
    /// A record without a time has the time when it was read.
    pub missing_is_read: bool,
}

impl Default for Clock {
    fn default() -> Self {
        Self { unit: TimeUnit::default(), format: None, zone: TimeZone::UTC, missing_is_read: false }
    }
}

impl Clock {
    /// Seconds since 1970; a record without has the time when it was read.
    pub fn seconds_if_any() -> Self {
        Self { unit: TimeUnit::S, missing_is_read: true, ..Self::default() }
    }

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
                    let help = match foreign(format) {
                        Some(ours) => format!("write it as in `{ours}`"),
                        None => "as in `%d.%m.%Y %H:%M:%S`".into(),
                    };
                    problems.error(format.place, format!("`{}` is not a format of a date and time: {why}", format.as_str())).help(help);
                    None
                }
            },
        };
        let missing_is_read = config.missing == TimeMissing::Read;
        Some(Self { unit: config.unit.unwrap_or_default(), format: format?, zone: zone?, missing_is_read })
    }

    /// Reads a number as it was written: `1763726880123`, `1763726880.123`, `1.763726880123e9`.
    ///
    /// Errors: one line for a person, with the number.
    pub fn number(&self, number: &str) -> Result<Stamp, Reason> {
        if self.format.is_some() {
            return self.text(number);
        }
        if let TimeUnit::Excel | TimeUnit::Ole = self.unit {
            return self
                .serial(number)
                .unwrap_or_else(|| Err(format!("`{}` is not a number of days since 1899-12-30", cut(number)).into()));
        }
        match self.micros(number) {
            Some(micros) => Ok(Stamp { time: Micros(micros), uncertain: false }),
            None => Err(format!("`{}` is no number of {} since 1970", cut(number), self.unit_name()).into()),
        }
    }

    /// Reads a text: in the format given, else a number, else ISO 8601.
    ///
    /// Errors: one line for a person, with the text.
    pub fn text(&self, text: &str) -> Result<Stamp, Reason> {
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
        if let TimeUnit::Excel | TimeUnit::Ole = self.unit
            && let Some(read) = self.serial(text)
        {
            return read;
        }
        if let Some(micros) = self.micros(text) {
            return Ok(Stamp { time: Micros(micros), uncertain: false });
        }
        if let Ok(timestamp) = text.parse::<Timestamp>() {
            return Ok(certain(timestamp));
        }
        match text.parse::<DateTime>() {
            Ok(civil) => self.civil(civil, text),
            Err(_) => Err(format!("`{}` is no time as in `2025-11-21T12:08:00Z`; give its `format`", cut(text)).into()),
        }
    }

    /// Why a time that was read may be none: it is too old to be true.
    pub fn doubt(&self, stamp: Stamp) -> Option<String> {
        if stamp.time.0 >= EARLIEST {
            return None;
        }
        let time = Timestamp::from_microsecond(stamp.time.0).map_or_else(|_| "before any calendar".into(), |time| time.to_string());
        let other = match self.unit {
            _ if self.format.is_some() => "is the device's clock set",
            TimeUnit::Ms => "is it in seconds (`unit: s`) or a date of Excel (`unit: excel`), or was the device's clock never set",
            TimeUnit::Us => "is it in milliseconds (`unit: ms`)",
            TimeUnit::Ns => "is it in microseconds (`unit: us`)",
            _ => "is the device's clock set, and `unit` right",
        };
        Some(format!("the time {time} is before 1990: {other}?"))
    }

    /// A date as spreadsheets count: days since 1899-12-30 in local time, to the microsecond.
    fn serial(&self, number: &str) -> Option<Result<Stamp, Reason>> {
        let text = number.trim().replace(',', ".");
        let days: f64 = text.parse().ok().filter(|days: &f64| (0.0..3_000_000.0).contains(days))?;
        // A double holds a day's part to about a microsecond: what is shown is what was meant, in milliseconds.
        let millis = (days * 86_400_000.0).round() as i64;
        let civil = DateTime::constant(1899, 12, 30, 0, 0, 0, 0).checked_add(jiff::SignedDuration::from_millis(millis)).ok()?;
        Some(self.civil(civil, number))
    }

    fn civil(&self, civil: DateTime, text: &str) -> Result<Stamp, Reason> {
        let (offset, uncertain) = match self.zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => (offset, false),
            AmbiguousOffset::Fold { before, .. } => (before, true),
            AmbiguousOffset::Gap { .. } => {
                let zone = self.zone.iana_name().unwrap_or("its zone");
                return Err(format!("`{}` does not exist in {zone}: the clocks were put forward over it", cut(text)).into());
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
            TimeUnit::Filetime => 100,
            TimeUnit::Excel | TimeUnit::Ole => return None,
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
        let epoch = if self.unit == TimeUnit::Filetime { FILETIME_NANOS } else { 0 };
        i64::try_from((if negative { -nanos } else { nanos } + epoch).div_euclid(1000)).ok()
    }

    fn unit_name(&self) -> &'static str {
        match self.unit {
            TimeUnit::S => "seconds",
            TimeUnit::Ms => "milliseconds",
            TimeUnit::Us => "microseconds",
            TimeUnit::Ns => "nanoseconds",
            TimeUnit::Filetime => "100 ns (filetime)",
            TimeUnit::Excel | TimeUnit::Ole => "days",
        }
    }
}

/// 1601-01-01, where Windows begins to count.
const FILETIME_NANOS: i128 = -11_644_473_600_000_000_000;

/// What a format of Java or Go would be here.
fn foreign(format: &str) -> Option<String> {
    if format.contains('%') {
        return None;
    }
    let java = [("yyyy", "%Y"), ("yy", "%y"), ("MM", "%m"), ("dd", "%d"), ("HH", "%H"), ("mm", "%M"), ("ss", "%S"), (".SSS", "%.f")];
    let go = [("2006", "%Y"), ("01", "%m"), ("02", "%d"), ("15", "%H"), ("04", "%M"), ("05", "%S")];
    for (table, known) in [(&java[..], "dd"), (&go[..], "2006")] {
        if format.contains(known) {
            return Some(table.iter().fold(format.to_owned(), |format, (theirs, ours)| format.replace(theirs, ours)));
        }
    }
    None
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
fn check(format: &str) -> Result<(), Reason> {
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

    fn certain(micros: i64) -> Result<Stamp, Reason> {
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
            "`%H:%M` is not a format of a date and time: it lacks the date or the time of day"
        );
        assert!(clock("{at: t, format: \"%d.%m.%Y %\"}").unwrap_err().starts_with("`%d.%m.%Y %` is not a format of a date and time: "));
    }

    #[test]
    fn spreadsheets_and_windows_count_their_own_way() {
        let excel = clock("{at: t, unit: excel, zone: Europe/Berlin}").unwrap();
        assert_eq!(excel.number("45982.5472222222"), certain(1_763_726_880_000_000));
        assert_eq!(excel.text("45982,5472222222"), certain(1_763_726_880_000_000));
        assert!(excel.number("-1").is_err());
        let filetime = clock("{at: t, unit: filetime}").unwrap();
        assert_eq!(filetime.number("134082004801234567"), certain(1_763_726_880_123_456));
    }

    #[test]
    fn a_time_that_is_too_old_to_be_true_is_doubted() {
        let millis = clock("{at: t}").unwrap();
        let doubt = |number: &str| millis.doubt(millis.number(number).unwrap());
        assert_eq!(doubt("1763726880123"), None);
        assert!(doubt("1763726880").unwrap().contains("the time 1970-01-21T09:55:26.88Z is before 1990: is it in seconds (`unit: s`)"));
        assert!(doubt("45982").is_some() && doubt("0").is_some());
    }

    #[test]
    fn a_foreign_format_is_translated() {
        let mut problems = Problems::new();
        for (theirs, ours) in [("dd.MM.yyyy HH:mm:ss", "%d.%m.%Y %H:%M:%S"), ("2006-01-02T15:04:05", "%Y-%m-%dT%H:%M:%S")] {
            let config: TimeConfig =
                Node::from_yaml(&format!("{{at: t, format: '{theirs}'}}"), &mut problems).unwrap().parse(&mut problems).unwrap();
            assert!(Clock::compile(&config, &mut problems).is_none());
            assert_eq!(problems.iter().last().unwrap().help.as_deref(), Some(&*format!("write it as in `{ours}`")));
        }
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
