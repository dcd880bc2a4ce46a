//! Where a value is in a device: `holding:100`, `40101`, `coil:7`, `holding:100.3`.
//!
//! ```text
//! holding:100        table and number as they go over the wire, from 0 to 65535; the table is coil, discrete, input or holding
//! 40101, 400101      the same register as manuals count it: the first digit is the table (0, 1, 3, 4), the rest counts from 1
//! holding:100.3      bit 3 of the register, 0 the least significant
//! holding:100.4-7    bits 4 to 7, a number from 0 to 15
//! ```
//!
//! The two ways to count differ by one, and nothing here guesses: a number below 10001 without a table is an error that names both readings.
//!
//! Source: Modbus Application Protocol V1.1b3, sections 4.3 and 4.4.

use millrace_kit::registers::Bits;
use std::fmt;
use std::str::FromStr;

/// One of the four tables of a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Table {
    /// Single bits, readable and writable.
    Coil,
    /// Single bits, readable.
    Discrete,
    /// 16-bit words, readable.
    Input,
    /// 16-bit words, readable and writable.
    Holding,
}

impl Table {
    pub const ALL: [Self; 4] = [Self::Coil, Self::Discrete, Self::Input, Self::Holding];

    /// Its name in the YAML.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Input => "input",
            Self::Holding => "holding",
        }
    }

    /// Whether it holds bits and not words.
    pub const fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// Whether it can be written at all.
    pub const fn is_writable(self) -> bool {
        matches!(self, Self::Coil | Self::Holding)
    }

    /// The most values of one request (sections 6.1 to 6.4).
    pub const fn most(self) -> u16 {
        if self.is_bits() { 2000 } else { 125 }
    }

    const fn digit(self) -> u32 {
        match self {
            Self::Coil => 0,
            Self::Discrete => 1,
            Self::Input => 3,
            Self::Holding => 4,
        }
    }

    fn of_digit(digit: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.digit() == digit)
    }
}

/// A place in a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    pub table: Table,
    /// As it goes over the wire: 40001 is 0.
    pub start: u16,
    /// A piece of the word.
    pub bits: Option<Bits>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.table.as_str(), self.start)?;
        match self.bits {
            None => Ok(()),
            Some(bits) => write!(f, ".{bits}"),
        }
    }
}

/// Why a text is no address.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum WrongAddress {
    #[error("`{0}` is no address; write `holding:100` (counted from 0) or `40101` (counted from 1)")]
    Unknown(String),
    #[error(
        "`{0}` names no table, and is {zero} if it counts from 0 but {one} if it counts from 1; write `holding:{zero}` or `{four}`",
        zero = .0,
        one = .0.saturating_sub(1),
        four = 40_000 + .0
    )]
    NoTable(u32),
    #[error("there is no table `{0}`; the tables are `coil`, `discrete`, `input`, `holding`")]
    NoSuchTable(String),
    #[error("`{0}`: a table with a number counts from 0 and ends at 65535; {1}")]
    TooLarge(String, String),
    #[error("`{0}` counts from 1: the last digits are 0001 or more")]
    CountsFromOne(String),
    #[error("`{0}`: a {1} is a single bit and has no bits of its own")]
    BitOfABit(String, &'static str),
    #[error("`{0}`: bits are written `.3`, or `.4-7` for several, from 0 to 63")]
    Bits(String),
}

impl FromStr for Address {
    type Err = WrongAddress;

    fn from_str(text: &str) -> Result<Self, WrongAddress> {
        let (place, bits) = match text.split_once('.') {
            None => (text, None),
            Some((place, bits)) => (place, Some(parse_bits(bits).ok_or_else(|| WrongAddress::Bits(text.into()))?)),
        };
        let (table, start) = match place.split_once(':') {
            Some((table, number)) => zero_based(text, table.trim(), number.trim())?,
            None => counted_from_one(text, place.trim())?,
        };
        if table.is_bits() && bits.is_some() {
            return Err(WrongAddress::BitOfABit(text.into(), table.as_str()));
        }
        Ok(Self { table, start, bits })
    }
}

fn zero_based(text: &str, table: &str, number: &str) -> Result<(Table, u16), WrongAddress> {
    let table = Table::ALL.into_iter().find(|known| known.as_str() == table).ok_or_else(|| WrongAddress::NoSuchTable(table.into()))?;
    let parsed = match number.strip_prefix("0x").or_else(|| number.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if number.bytes().all(|byte| byte.is_ascii_digit()) => number.parse().ok(),
        None => None,
    };
    let number: u32 = parsed.ok_or_else(|| WrongAddress::Unknown(text.into()))?;
    let start = u16::try_from(number).map_err(|_| {
        // `holding:400101`: both ways to count at once.
        let meant = counted_from_one(text, &number.to_string()).map_or_else(
            |_| "use a smaller number".to_owned(),
            |(table, start)| format!("write `{}:{start}`, or `{number}` alone", table.as_str()),
        );
        WrongAddress::TooLarge(text.into(), meant)
    })?;
    Ok((table, start))
}

/// Five digits or six: the first is the table, the others count from 1.
fn counted_from_one(text: &str, digits: &str) -> Result<(Table, u16), WrongAddress> {
    let unknown = || WrongAddress::Unknown(text.into());
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(unknown());
    }
    let whole: u32 = digits.parse().map_err(|_| unknown())?;
    if digits.len() < 5 {
        return Err(WrongAddress::NoTable(whole));
    }
    if digits.len() > 6 {
        return Err(unknown());
    }
    let table = digits[..1].parse().ok().and_then(Table::of_digit).ok_or_else(unknown)?;
    let count: u32 = digits[1..].parse().map_err(|_| unknown())?;
    let start = count.checked_sub(1).ok_or_else(|| WrongAddress::CountsFromOne(text.into()))?;
    Ok((table, u16::try_from(start).map_err(|_| unknown())?))
}

fn parse_bits(text: &str) -> Option<Bits> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let bits = Bits { low: low.parse().ok()?, high: high.parse().ok()? };
    (bits.low <= bits.high && bits.high < 64).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, String> {
        text.parse::<Address>().map(|address| address.to_string()).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn both_ways_to_count_are_read_and_never_mixed() {
        for (text, is) in [
            ("holding:100", "holding:100"),
            ("holding:0x64", "holding:100"),
            ("40101", "holding:100"),
            ("400101", "holding:100"),
            ("40001", "holding:0"),
            ("465536", "holding:65535"),
            ("30053", "input:52"),
            ("10008", "discrete:7"),
            ("00008", "coil:7"),
            ("coil:7", "coil:7"),
            ("holding:65535", "holding:65535"),
            // Zero-based, whatever it looks like.
            ("holding:40001", "holding:40001"),
            ("holding:100.3", "holding:100.3"),
            ("40101.4-7", "holding:100.4-7"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(is), "{text}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused_with_both() {
        for (text, said) in [
            ("100", "`100` names no table, and is 100 if it counts from 0 but 99 if it counts from 1; write `holding:100` or `40100`"),
            (
                "holding:400101",
                "`holding:400101`: a table with a number counts from 0 and ends at 65535; write `holding:100`, or `400101` alone",
            ),
            ("holding:70000", "`holding:70000`: a table with a number counts from 0 and ends at 65535; use a smaller number"),
            ("40000", "`40000` counts from 1: the last digits are 0001 or more"),
            ("register:1", "there is no table `register`; the tables are `coil`, `discrete`, `input`, `holding`"),
            ("coil:1.2", "`coil:1.2`: a coil is a single bit and has no bits of its own"),
            ("holding:1.64", "`holding:1.64`: bits are written `.3`, or `.4-7` for several, from 0 to 63"),
            ("holding:1.7-4", "`holding:1.7-4`: bits are written `.3`, or `.4-7` for several, from 0 to 63"),
            ("50001", "`50001` is no address; write `holding:100` (counted from 0) or `40101` (counted from 1)"),
            ("466000", "`466000` is no address; write `holding:100` (counted from 0) or `40101` (counted from 1)"),
            ("holding:-1", "`holding:-1` is no address; write `holding:100` (counted from 0) or `40101` (counted from 1)"),
            ("", "`` is no address; write `holding:100` (counted from 0) or `40101` (counted from 1)"),
        ] {
            assert_eq!(parse(text), Err(said.to_owned()), "{text}");
        }
    }
}
