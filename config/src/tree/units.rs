//! Scalars with units: `250ms`, `4GiB`, `1%`, `10000/s`.
//!
//! Each reads and writes one notation, in YAML, in JSON and for a person. Errors say what to write instead.

use crate::tree::reason::Reason;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// A duration with its unit: `250ms`, `1s`, `15m`, `4h`, `7d`, `1m30s`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Period(pub Duration);

/// A size with its unit, `64KiB`, `256MiB`, `4GiB`, `10GB`, or a bare number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct ByteSize(pub u64);

/// A deadband: absolute in engineering units (`0.5`), or in percent of the engineering range (`1%`).
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Deadband {
    Absolute(f64),
    Percent(f64),
}

/// A share of a whole: `70%`.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Percent(pub f64);

/// Space to leave free on a disk: a share of it (`10%`) or a size (`2GiB`).
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum KeepFree {
    Percent(f64),
    Size(u64),
}

/// A rate: `10000/s`, `5/m`, `1/h`. Holds events per second.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Rate(pub f64);

/// Bytes per second: `2MiB/s`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteRate(pub u64);

/// An address to listen on: `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Listen(pub SocketAddr);

impl Period {
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

impl std::ops::Deref for Period {
    type Target = Duration;
    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl KeepFree {
    /// Bytes to leave free on a disk of `total` bytes.
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Self::Percent(percent) => (total as f64 * percent / 100.0) as u64,
            Self::Size(bytes) => bytes,
        }
    }
}

/// A scalar's notation; the pieces of its `Deserialize`, `Serialize` and `JsonSchema`.
trait Notation: Sized + FromStr<Err = Reason> + fmt::Display {
    const NAME: &'static str;
    /// "a duration such as `250ms`"
    const EXPECTING: &'static str;
    const PATTERN: &'static str;
    /// The name by which our own deserializer knows a notation, and a value in it: [`SUCH_AS`] and `1s`.
    const SUCH_AS: &'static str;
    const EXAMPLES: &'static [&'static str];
    /// Whether a bare number is in the notation too.
    const BARE: bool = false;

    /// What a number without a unit means; `text` is the number as written.
    fn from_number(_number: f64, text: &str) -> Result<Self, Reason> {
        text.parse()
    }
}

/// See [`Notation::SUCH_AS`].
pub(crate) const SUCH_AS: &str = "$millrace::such as ";

struct NotationVisitor<T>(PhantomData<T>);

impl<'de, T: Notation> Visitor<'de> for NotationVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(T::EXPECTING)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::from_number(number as f64, &number.to_string()).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        T::from_number(number as f64, &number.to_string()).map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        T::from_number(number, &number.to_string()).map_err(E::custom)
    }
}

macro_rules! notation {
    ($type:ident) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_newtype_struct(Self::SUCH_AS, NotationVisitor(PhantomData))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                Self::NAME.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let types: &[&str] = if Self::BARE { &["string", "number"] } else { &["string"] };
                json_schema!({
                    "type": types,
                    "description": Self::EXPECTING,
                    "pattern": Self::PATTERN,
                    "examples": Self::EXAMPLES,
                })
            }
        }
    };
}

notation!(Period);

notation!(ByteSize);

notation!(Deadband);

notation!(Percent);

notation!(KeepFree);

notation!(Rate);

notation!(ByteRate);

notation!(Listen);

/// Splits `12.5ms` into number and unit; a space may stand between them.
fn number_and_unit(text: &str) -> Option<(f64, &str, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let unit_end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    number.parse().ok().map(|number| (number, unit, rest))
}

/// The short form of a unit of time that people write out: `30 sec`, `7 days`.
fn short_unit(unit: &str) -> &str {
    match unit {
        "msec" | "millis" | "millisecond" | "milliseconds" => "ms",
        "sec" | "secs" | "second" | "seconds" => "s",
        "min" | "mins" | "minute" | "minutes" => "m",
        "hr" | "hrs" | "hour" | "hours" => "h",
        "day" | "days" => "d",
        "week" | "weeks" => "w",
        unit => unit,
    }
}

fn percent(text: &str) -> Option<f64> {
    let number: f64 = text.strip_suffix('%')?.trim_end().parse().ok()?;
    number.is_finite().then_some(number)
}

const PERIODS: [(&str, u64); 7] =
    [("w", 604_800_000_000), ("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

impl FromStr for Period {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        const UNITS: &str = "units of time are `ms`, `s`, `m` (minutes), `h`, `d` and `w`";
        let wrong = || format!("`{text}` is not a duration; write a number and a unit: `250ms`, `1s`, `15m`, `4h`, `7d` or `1m30s`");
        let mut rest = text.trim();
        let mut micros = 0f64;
        if rest.is_empty() {
            return Err(wrong().into());
        }
        while !rest.is_empty() {
            let (number, unit, tail) = number_and_unit(rest).ok_or_else(wrong)?;
            if unit.is_empty() {
                let bare = rest.len() == text.trim().len() && tail.is_empty();
                return Err(match bare {
                    true => format!("`{text}` has no unit; write `{number}s` for seconds or `{number}ms` for milliseconds").into(),
                    false => wrong().into(),
                });
            }
            let factor = PERIODS
                .iter()
                .find(|(name, _)| *name == short_unit(unit))
                .ok_or_else(|| format!("`{text}` has an unknown unit `{unit}`; {UNITS}"))?;
            micros += number * factor.1 as f64;
            rest = tail.trim_start();
        }
        // 1,000 years: beyond any use here, and far below what a Duration or a timestamp holds.
        if micros > 3.2e16 {
            return Err(format!("`{text}` is longer than 1,000 years; write a shorter duration").into());
        }
        Ok(Self(Duration::from_micros(micros.round() as u64)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut rest = self.0.as_micros() as u64;
        if rest == 0 {
            return f.write_str("0s");
        }
        // Weeks are read, but seven days are written as days, as people say them.
        for (unit, micros) in &PERIODS[1..] {
            if rest >= *micros {
                write!(f, "{}{unit}", rest / micros)?;
                rest %= micros;
            }
        }
        Ok(())
    }
}

impl Notation for Period {
    const NAME: &'static str = "Period";
    const SUCH_AS: &'static str = "$millrace::such as 1s";
    const EXPECTING: &'static str = "a duration such as `250ms`, `1s`, `15m`, `4h`, `7d`";
    const PATTERN: &'static str = r"^(\d+(\.\d+)? ?(us|ms|s|m|h|d|w|[a-z]{3,12}) ?)+$";
    const EXAMPLES: &'static [&'static str] = &["250ms", "1s", "15m", "4h", "7d", "1m30s"];
}

/// Largest first: a size is written in the largest unit that divides it.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        let wrong = || format!("`{text}` is not a size; write a number and a unit: `64KiB`, `256MiB`, `4GiB`, `10GB`");
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit = unit.trim_start();
        let factor = match unit {
            "" => 1,
            unit => {
                SIZES
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                    .ok_or_else(|| format!("`{text}` has an unknown unit `{unit}`; units of size are `KiB`, `MiB`, `GiB`, `TiB`, and `KB`, `MB`, `GB`, `TB` by thousands"))?
                    .1
            }
        };
        let bytes = number * factor as f64;
        if bytes >= u64::MAX as f64 {
            return Err(format!("`{text}` is larger than any disk; write a smaller size").into());
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match SIZES.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) if *factor > 1 => write!(f, "{}{unit}", self.0 / factor),
            _ => write!(f, "{}B", self.0),
        }
    }
}

impl Notation for ByteSize {
    const NAME: &'static str = "ByteSize";
    const SUCH_AS: &'static str = "$millrace::such as 1MiB";
    const EXPECTING: &'static str = "a size such as `64KiB`, `256MiB`, `4GiB`";
    const PATTERN: &'static str = r"^\d+(\.\d+)? ?([KMGTkmgt]i?)?[Bb]?$";
    const EXAMPLES: &'static [&'static str] = &["64KiB", "256MiB", "4GiB"];
    const BARE: bool = true;
}

impl FromStr for Deadband {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        let wrong = || format!("`{text}` is not a deadband; write a number in engineering units (`0.5`) or percent of the range (`1%`)");
        let trimmed = text.trim();
        let band = match percent(trimmed) {
            Some(percent) => Self::Percent(percent),
            None => Self::Absolute(trimmed.parse().map_err(|_| wrong())?),
        };
        match band {
            Self::Percent(percent) if !(0.0..=100.0).contains(&percent) => Err(format!("`{text}` is outside 0% to 100%").into()),
            Self::Absolute(band) if !(band >= 0.0 && band.is_finite()) => Err(wrong().into()),
            band => Ok(band),
        }
    }
}

impl fmt::Display for Deadband {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Absolute(band) => write!(f, "{band}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Notation for Deadband {
    const NAME: &'static str = "Deadband";
    const SUCH_AS: &'static str = "$millrace::such as 1";
    const EXPECTING: &'static str = "a deadband: a number in engineering units, `0.5`, or percent of the range, `1%`";
    const PATTERN: &'static str = r"^\d+(\.\d+)? ?%?$";
    const EXAMPLES: &'static [&'static str] = &["0.5", "1%"];
    const BARE: bool = true;
}

impl FromStr for Percent {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        match percent(text.trim()) {
            Some(percent) if (0.0..=100.0).contains(&percent) => Ok(Self(percent)),
            Some(_) => Err(format!("`{text}` is outside 0% to 100%").into()),
            None => Err(format!("`{text}` is not a share; write percent: `70%`").into()),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Notation for Percent {
    const NAME: &'static str = "Percent";
    const SUCH_AS: &'static str = "$millrace::such as 1%";
    const EXPECTING: &'static str = "a share such as `70%`";
    const PATTERN: &'static str = r"^\d+(\.\d+)? ?%$";
    const EXAMPLES: &'static [&'static str] = &["70%"];
}

impl FromStr for KeepFree {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        match percent(text.trim()) {
            Some(percent) if (0.0..100.0).contains(&percent) => Ok(Self::Percent(percent)),
            Some(_) => Err(format!("`{text}` is outside 0% to 100%").into()),
            None => match text.parse::<ByteSize>() {
                Ok(size) => Ok(Self::Size(size.0)),
                Err(_) => Err(format!("`{text}` is neither a share nor a size; write `10%` or `2GiB`").into()),
            },
        }
    }
}

impl fmt::Display for KeepFree {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Size(bytes) => ByteSize(*bytes).fmt(f),
        }
    }
}

impl Notation for KeepFree {
    const NAME: &'static str = "KeepFree";
    const SUCH_AS: &'static str = "$millrace::such as 1%";
    const EXPECTING: &'static str = "a share of the disk, `10%`, or a size, `2GiB`";
    const PATTERN: &'static str = r"^\d+(\.\d+)? ?(%|([KMGTkmgt]i?)?[Bb]?)$";
    const EXAMPLES: &'static [&'static str] = &["10%", "2GiB"];
    const BARE: bool = true;
}

impl FromStr for Rate {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        let wrong = || format!("`{text}` is not a rate; write a number per unit of time: `100/s`, `5/m`, `1/h`");
        let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(wrong().into()),
        };
        if !(number >= 0.0 && number.is_finite()) {
            return Err(wrong().into());
        }
        Ok(Self(number / seconds))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (unit, seconds) in [("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)] {
            let number = self.0 * seconds;
            if number >= 1.0 || unit == "d" || number == 0.0 {
                return write!(f, "{}/{unit}", (number * 1e6).round() / 1e6);
            }
        }
        Ok(())
    }
}

impl Notation for Rate {
    const NAME: &'static str = "Rate";
    const SUCH_AS: &'static str = "$millrace::such as 1/s";
    const EXPECTING: &'static str = "a rate such as `100/s`, `5/m`, `1/h`";
    const PATTERN: &'static str = r"^\d+(\.\d+)? ?/ ?(s|m|min|h|d)$";
    const EXAMPLES: &'static [&'static str] = &["10000/s", "5/m", "1/h"];
}

impl FromStr for ByteRate {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        let wrong = || format!("`{text}` is not a bandwidth; write bytes per second: `2MiB/s`, `500KiB/s`");
        let bytes = text.trim().strip_suffix("/s").ok_or_else(wrong)?;
        bytes.trim().parse::<ByteSize>().map(|size| Self(size.0)).map_err(|_| wrong()).map_err(Reason::from)
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/s", ByteSize(self.0))
    }
}

impl Notation for ByteRate {
    const NAME: &'static str = "ByteRate";
    const SUCH_AS: &'static str = "$millrace::such as 1MiB/s";
    const EXPECTING: &'static str = "bytes per second, such as `2MiB/s`";
    const PATTERN: &'static str = r"^\d+(\.\d+)? ?(B|[kKMGT]i?B) ?/ ?s$";
    const EXAMPLES: &'static [&'static str] = &["2MiB/s", "500KiB/s"];
}

impl FromStr for Listen {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        let wrong = || format!("`{text}` is not an address to listen on; write `127.0.0.1:8080`, or `0.0.0.0:8080` for every interface");
        let numeric = match text.trim().strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.trim().to_owned(),
        };
        numeric.parse().map(Self).map_err(|_| wrong()).map_err(Reason::from)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Notation for Listen {
    const NAME: &'static str = "Listen";
    const SUCH_AS: &'static str = "$millrace::such as 127.0.0.1:1";
    const EXPECTING: &'static str = "an address to listen on, such as `127.0.0.1:8080`";
    const PATTERN: &'static str = r"^(\[[0-9A-Fa-f:]+\]|[0-9.]+|localhost):\d{1,5}$";
    const EXAMPLES: &'static [&'static str] = &["127.0.0.1:8080", "0.0.0.0:8080"];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_written_as_it_is_read() {
        for text in ["250ms", "1s", "15m", "4h", "7d", "1m30s", "1d12h", "0s", "1s500ms", "5us"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        assert_eq!("90s".parse::<Period>().unwrap().to_string(), "1m30s");
        assert_eq!("1.5s".parse::<Period>().unwrap(), Period::from_millis(1500));
        assert_eq!("2w".parse::<Period>().unwrap().to_string(), "14d");
    }

    #[test]
    fn a_period_without_a_unit_says_what_to_write() {
        assert_eq!("5".parse::<Period>().unwrap_err(), "`5` has no unit; write `5s` for seconds or `5ms` for milliseconds");
        for text in ["", "s", "-1s", "1s2", "1x", "1..2s", "99999999999999999999d", "∞", "1 fortnight"] {
            let message = text.parse::<Period>().unwrap_err();
            assert!(!message.contains(&format!("write `{text}")), "{message}");
        }
    }

    #[test]
    fn a_period_in_words_is_understood() {
        for (text, short) in
            [("30 sec", "30s"), ("7 days", "7d"), ("4 hours", "4h"), ("1 min 30 s", "1m30s"), ("250 ms", "250ms"), ("1 week", "7d")]
        {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), short);
        }
    }

    #[test]
    fn a_size_is_written_as_it_is_read() {
        for text in ["64KiB", "256MiB", "4GiB", "10GB", "1TB", "17B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        assert_eq!("1.5KiB".parse::<ByteSize>().unwrap(), ByteSize(1536));
        assert_eq!("4096".parse::<ByteSize>().unwrap(), ByteSize(4096));
        for text in ["", "-1", "4XB", "1e30TiB", "999999999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_rates_and_addresses_come_back_as_written() {
        assert_eq!("1%".parse::<Deadband>().unwrap(), Deadband::Percent(1.0));
        assert_eq!("0.5".parse::<Deadband>().unwrap(), Deadband::Absolute(0.5));
        assert!("-1".parse::<Deadband>().is_err());
        assert!("101%".parse::<Deadband>().is_err());
        assert_eq!("10%".parse::<KeepFree>().unwrap().bytes(1000), 100);
        assert_eq!("2GiB".parse::<KeepFree>().unwrap().to_string(), "2GiB");
        assert_eq!("10000/s".parse::<Rate>().unwrap().to_string(), "10000/s");
        assert_eq!("5/m".parse::<Rate>().unwrap().to_string(), "5/m");
        assert_eq!("localhost:80".parse::<Listen>().unwrap().to_string(), "127.0.0.1:80");
        assert!("example.com:80".parse::<Listen>().is_err());
    }
}
