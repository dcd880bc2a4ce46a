//! Addresses in a CPU's memory, as people write them.
//!
//! ```text
//! TIA, STEP 7      DB1.DBX4.0  %DB1.DBD0:REAL  DB1.DBB10:STRING[20]  M10.2  %IW64:INT  QD8  PIW256  T5  C3
//! German           E0.0  A4.1  EW64  AB2  PEW256  PAW256  Z3
//! PLC4X            %DB1:20:INT  %DB1:4.0:BOOL  %DB1:10:STRING(20)  %MW10:INT[5]
//! nodeS7, Kepware  DB1,REAL0  DB1,X4.0  DB1,S10.20  DB1,INT20.5 (five of them)  MR30
//! S7-200, LOGO!    VB10  VW20  VD0:REAL  V4.0  (V is DB1)  AIW0  AQW2
//! ```
//!
//! A letter of size (`X`, `B`, `W`, `D`) without a type means BOOL, BYTE, WORD, DWORD; with a type it must be of that type's size, or be
//! `B` or `X.0`, where a value of any size may begin. `[n]` after the type is an array of n values.
//!
//! What it does not do: `DW20` without `DB` (STEP 5 counts words, not bytes) and symbolic names; both are refused with the way out.

use crate::datatype::DataType;
use millrace_kit::shape::Shape;
use std::fmt;
use thiserror::Error;

/// A part of a CPU's memory; the number is the one in a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Area {
    /// Analogue inputs of an S7-200.
    AnalogInputs = 0x06,
    /// Analogue outputs of an S7-200.
    AnalogOutputs = 0x07,
    Counters = 0x1C,
    Timers = 0x1D,
    /// The process image is passed by: the modules themselves.
    Peripherals = 0x80,
    Inputs = 0x81,
    Outputs = 0x82,
    Flags = 0x83,
    DataBlock = 0x84,
}

impl Area {
    /// Whether it is addressed by number, two bytes each, instead of by byte.
    pub const fn counts_elements(self) -> bool {
        matches!(self, Self::Counters | Self::Timers)
    }
}

/// Where a value lies and what it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    pub area: Area,
    /// Of a data block; else 0.
    pub db: u16,
    /// The first byte; of a timer or counter twice its number, as if the area were bytes.
    pub byte: u32,
    pub bit: u8,
    pub kind: DataType,
    /// Of an array, its items; `None`: a single value.
    pub count: Option<u16>,
}

impl Address {
    /// What its value is in a document, unscaled: durations, times of day and moments are numbers, as in a sample.
    pub fn shape(&self) -> Shape {
        let one = match self.kind {
            DataType::Bool => Shape::Bool,
            DataType::Real | DataType::LReal => Shape::Double,
            DataType::LWord | DataType::ULInt => Shape::UNSIGNED,
            DataType::Char | DataType::WChar | DataType::String(_) | DataType::WString(_) | DataType::Date => Shape::Text,
            _ => Shape::Long,
        };
        match (self.count, self.kind) {
            (None, _) | (Some(_), DataType::Char | DataType::WChar) => one,
            (Some(_), _) => Shape::List(Box::new(one)),
        }
    }
}

/// Why a text is no address.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AddressError {
    #[error("`{0}` is not an S7 address; write it as in `DB1.DBD0:REAL`, `DB1.DBX4.0`, `M10.2`, `IW64:INT` or `T5`")]
    Unknown(String),
    #[error(
        "`{0}` is a symbolic name: classic S7 communication reads absolute addresses only; write it as in `DB1.DBD0:REAL`, or read the symbol by OPC UA"
    )]
    Symbol(String),
    #[error("`{0}` names no block: write `DB1.DBW20` (byte 20 of DB1), or with the block you mean")]
    NoBlock(String),
    #[error("`{0}` has the number {1}, and a bit is 0 to 7")]
    Bit(String, u32),
    #[error("`{0}` names no bit: write it as in `{0}.0`")]
    NoBit(String),
    #[error("`{0}` names a bit, but {1} is no bit; write `{2}`")]
    NotABit(String, DataType, String),
    #[error(
        "`{0}` is not a type: one of BOOL, BYTE, WORD, DWORD, LWORD, SINT, USINT, INT, UINT, DINT, UDINT, LINT, ULINT, REAL, LREAL, CHAR, WCHAR, STRING[n], WSTRING[n], S5TIME, TIME, LTIME, DATE, TOD, LTOD, DT, LDT, DTL"
    )]
    Type(String),
    #[error("`{0}` addresses {1} bytes, and {2} takes {3}; write `{4}`")]
    Size(String, usize, DataType, usize, String),
    #[error("`{0}` ends beyond byte 65535, the last that a request can name")]
    TooFar(String),
    #[error("`{0}`: an array has 1 to 65535 items")]
    Count(String),
    #[error("`{0}`: the type is given twice, as {1} and as {2}")]
    Twice(String, DataType, DataType),
}

impl Address {
    /// Parses an address; `kind` is a type that is given beside it (`as: REAL`).
    pub fn parse(text: &str, kind: Option<&str>) -> Result<Self, AddressError> {
        let given = kind.map(|kind| typed(kind).ok_or_else(|| AddressError::Type(kind.to_owned()))).transpose()?;
        Parser { text, given }.parse()
    }

    /// Bytes it takes.
    pub fn size(&self) -> usize {
        match (self.kind, self.count) {
            (DataType::Bool, Some(count)) => (usize::from(self.bit) + usize::from(count)).div_ceil(8),
            (kind, count) => {
                // In an array, texts and structures begin at even bytes.
                let size = if count.is_some() && kind.size() > 1 { kind.size().next_multiple_of(2) } else { kind.size() };
                size * usize::from(count.unwrap_or(1))
            }
        }
    }

    /// One past its last byte.
    pub fn end(&self) -> u32 {
        self.byte + self.size() as u32
    }
}

/// As TIA Portal writes it, with the type.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            DataType::Bool => "X",
            kind if kind.size() == 2 && self.count.is_none() => "W",
            kind if kind.size() == 4 && self.count.is_none() => "D",
            _ => "B",
        };
        match self.area {
            Area::Timers => return write!(f, "T{}", self.byte / 2),
            Area::Counters => return write!(f, "C{}", self.byte / 2),
            Area::DataBlock => write!(f, "DB{}.DB{letter}{}", self.db, self.byte)?,
            area => {
                let name = match area {
                    Area::Inputs => "I",
                    Area::Outputs => "Q",
                    Area::Flags => "M",
                    Area::Peripherals => "PI",
                    Area::AnalogInputs => "AI",
                    _ => "AQ",
                };
                write!(f, "{name}{}{}", if letter == "X" { "" } else { letter }, self.byte)?;
            }
        }
        if self.kind == DataType::Bool {
            write!(f, ".{}", self.bit)?;
        }
        let implied = match letter {
            "X" => DataType::Bool,
            "B" => DataType::Byte,
            "W" => DataType::Word,
            _ => DataType::DWord,
        };
        if self.kind != implied || self.count.is_some() {
            write!(f, ":{}", self.kind)?;
        }
        match self.count {
            Some(count) => write!(f, "[{count}]"),
            None => Ok(()),
        }
    }
}

/// A type with or without a number of items: `REAL`, `REAL[10]`, `STRING[20]`, `STRING[20][5]`.
fn typed(text: &str) -> Option<(DataType, Option<u16>)> {
    let text = text.trim();
    if let Some(kind) = DataType::parse(text, false) {
        return Some((kind, None));
    }
    let open = text.rfind('[')?;
    let count = text[open + 1..].strip_suffix(']')?.trim().parse::<u16>().ok().filter(|n| *n > 0)?;
    Some((DataType::parse(&text[..open], false)?, Some(count)))
}

struct Parser<'a> {
    text: &'a str,
    given: Option<(DataType, Option<u16>)>,
}

/// The size that a letter says.
#[derive(Clone, Copy, PartialEq)]
enum Letter {
    Bit,
    Byte,
    Word,
    Double,
    None,
}

impl Parser<'_> {
    fn parse(self) -> Result<Address, AddressError> {
        let unknown = || AddressError::Unknown(self.text.to_owned());
        let text = self.text.trim();
        if text.starts_with('"') || text.starts_with('#') {
            return Err(AddressError::Symbol(self.text.to_owned()));
        }
        let upper = text.trim_start_matches('%').to_ascii_uppercase();
        if !upper.is_ascii() {
            return Err(AddressError::Symbol(self.text.to_owned()));
        }
        if let Some(rest) = upper.strip_prefix("DB") {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            if digits == 0 {
                let lettered = rest.starts_with(['X', 'B', 'W', 'D']);
                return Err(if lettered { AddressError::NoBlock(self.text.to_owned()) } else { unknown() });
            }
            let db: u16 = rest[..digits].parse().ok().filter(|db| *db > 0).ok_or_else(unknown)?;
            let rest = &rest[digits..];
            if let Some(rest) = rest.strip_prefix(",") {
                return self.short(Area::DataBlock, db, rest);
            }
            if let Some(rest) = rest.strip_prefix(".DB") {
                let (letter, rest) = letter(rest);
                return match letter {
                    Letter::None => Err(unknown()),
                    letter => self.place(Area::DataBlock, db, letter, rest),
                };
            }
            if let Some(rest) = rest.strip_prefix(":") {
                return self.place(Area::DataBlock, db, Letter::None, rest);
            }
            return Err(unknown());
        }
        if upper.starts_with("DW") || upper.starts_with("DD") || upper.starts_with("DX") {
            return Err(AddressError::NoBlock(self.text.to_owned()));
        }
        const AREAS: [(&str, Area, u16); 17] = [
            ("AIW", Area::AnalogInputs, 0),
            ("AEW", Area::AnalogInputs, 0),
            ("AQW", Area::AnalogOutputs, 0),
            ("AAW", Area::AnalogOutputs, 0),
            ("PI", Area::Peripherals, 0),
            ("PE", Area::Peripherals, 0),
            ("PQ", Area::Peripherals, 0),
            ("PA", Area::Peripherals, 0),
            ("I", Area::Inputs, 0),
            ("E", Area::Inputs, 0),
            ("Q", Area::Outputs, 0),
            ("A", Area::Outputs, 0),
            ("M", Area::Flags, 0),
            ("V", Area::DataBlock, 1),
            ("T", Area::Timers, 0),
            ("C", Area::Counters, 0),
            ("Z", Area::Counters, 0),
        ];
        let (name, area, db) = AREAS.iter().find(|(name, ..)| upper.starts_with(name)).ok_or_else(unknown)?;
        let rest = &upper[name.len()..];
        if area.counts_elements() {
            return self.element(*area, rest).ok_or_else(unknown);
        }
        if matches!(area, Area::AnalogInputs | Area::AnalogOutputs) {
            return self.place(*area, 0, Letter::Word, rest);
        }
        let (letter, after) = letter(rest);
        if after.starts_with(|c: char| c.is_ascii_digit()) {
            return self.place(*area, *db, letter, after);
        }
        if rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return self.short(*area, *db, rest);
        }
        Err(unknown())
    }

    /// A timer or a counter: its number.
    fn element(&self, area: Area, rest: &str) -> Option<Address> {
        let number: u32 = rest.parse().ok().filter(|n| *n <= 0x7FFF)?;
        let kind = if area == Area::Timers { DataType::S5Time } else { DataType::Counter };
        if self.given.is_some_and(|given| given != (kind, None)) {
            return None;
        }
        Some(Address { area, db: 0, byte: number * 2, bit: 0, kind, count: None })
    }

    /// `0:REAL`, `4.0`, `20`, after the letter of size.
    fn place(&self, area: Area, db: u16, letter: Letter, rest: &str) -> Result<Address, AddressError> {
        let (place, kind) = match rest.split_once(':') {
            Some((place, kind)) => (place, Some(typed(kind).ok_or_else(|| AddressError::Type(kind.to_owned()))?)),
            None => (rest, None),
        };
        let given = match (kind, self.given) {
            (Some((kind, _)), Some((other, _))) => return Err(AddressError::Twice(self.text.to_owned(), kind, other)),
            (kind, given) => kind.or(given),
        };
        let (byte, bit) = self.numbers(place)?;
        let bitwise = matches!(letter, Letter::Bit) || (letter == Letter::None && bit.is_some());
        let (kind, count) = match (given, letter) {
            (Some(given), _) => given,
            (None, Letter::Byte) => (DataType::Byte, None),
            (None, Letter::Word) => (DataType::Word, None),
            (None, Letter::Double) => (DataType::DWord, None),
            (None, _) if bitwise => (DataType::Bool, None),
            (None, _) => return Err(AddressError::NoBit(self.text.to_owned())),
        };
        let suggestion = || Address { area, db, byte, bit: bit.unwrap_or(0), kind, count }.to_string();
        let bit = match (kind, bit) {
            (DataType::Bool, Some(bit)) => bit,
            (DataType::Bool, None) => return Err(AddressError::NoBit(self.text.to_owned())),
            (_, None | Some(0)) if bit.is_none() || bitwise => 0,
            _ => return Err(AddressError::NotABit(self.text.to_owned(), kind, suggestion())),
        };
        let says = match letter {
            Letter::Word => 2,
            Letter::Double => 4,
            _ => kind.size(),
        };
        if says != kind.size() {
            return Err(AddressError::Size(self.text.to_owned(), says, kind, kind.size(), suggestion()));
        }
        self.checked(Address { area, db, byte, bit, kind, count })
    }

    /// `REAL0`, `X4.0`, `S10.20`, `INT20.5`: type first, then the byte, of a bit its number, of a text its length, then the number of items.
    fn short(&self, area: Area, db: u16, rest: &str) -> Result<Address, AddressError> {
        let unknown = || AddressError::Unknown(self.text.to_owned());
        let letters = rest.find(|c: char| c.is_ascii_digit()).ok_or_else(unknown)?;
        let kind = DataType::parse(&rest[..letters], true).ok_or_else(|| AddressError::Type(rest[..letters].to_owned()))?;
        if let Some((other, _)) = self.given {
            return Err(AddressError::Twice(self.text.to_owned(), kind, other));
        }
        let mut numbers = rest[letters..].split('.').map(|number| number.parse::<u32>().map_err(|_| unknown()));
        let byte = numbers.next().ok_or_else(unknown)??;
        let mut second = numbers.next().transpose()?;
        let (kind, bit) = match kind {
            DataType::Bool => (kind, second.take().ok_or_else(|| AddressError::NoBit(self.text.to_owned()))?),
            DataType::String(_) => {
                let length = second.take().unwrap_or(254);
                (DataType::String(u8::try_from(length).ok().filter(|n| (1..=254).contains(n)).ok_or_else(unknown)?), 0)
            }
            DataType::WString(_) => {
                let length = second.take().unwrap_or(254);
                (DataType::WString(u16::try_from(length).ok().filter(|n| (1..=16382).contains(n)).ok_or_else(unknown)?), 0)
            }
            kind => (kind, 0),
        };
        let bit = u8::try_from(bit).ok().filter(|bit| *bit < 8).ok_or(AddressError::Bit(self.text.to_owned(), bit))?;
        let count = match second {
            Some(count) => Some(count),
            None => numbers.next().transpose()?,
        };
        if numbers.next().is_some() {
            return Err(unknown());
        }
        let count = match count {
            None => None,
            Some(count) => Some(u16::try_from(count).ok().filter(|n| *n > 0).ok_or_else(|| AddressError::Count(self.text.to_owned()))?),
        };
        self.checked(Address { area, db, byte, bit, kind, count })
    }

    /// `20` or `4.0`.
    fn numbers(&self, place: &str) -> Result<(u32, Option<u8>), AddressError> {
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| AddressError::Unknown(self.text.to_owned()));
        let Some((byte, bit)) = place.split_once('.') else { return Ok((self.byte(number(place)?)?, None)) };
        let bit = number(bit)?;
        let bit = u8::try_from(bit).ok().filter(|bit| *bit < 8).ok_or(AddressError::Bit(self.text.to_owned(), bit))?;
        Ok((self.byte(number(byte)?)?, Some(bit)))
    }

    fn byte(&self, byte: u32) -> Result<u32, AddressError> {
        if byte <= 0xFFFF { Ok(byte) } else { Err(AddressError::TooFar(self.text.to_owned())) }
    }

    fn checked(&self, address: Address) -> Result<Address, AddressError> {
        self.byte(address.byte)?;
        if address.byte as usize + address.size() > 0x1_0000 {
            return Err(AddressError::TooFar(self.text.to_owned()));
        }
        Ok(address)
    }
}

fn letter(text: &str) -> (Letter, &str) {
    let letter = match text.bytes().next() {
        Some(b'X') => Letter::Bit,
        Some(b'B') => Letter::Byte,
        Some(b'W') => Letter::Word,
        Some(b'D') => Letter::Double,
        _ => return (Letter::None, text),
    };
    (letter, &text[1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> String {
        match Address::parse(text, None) {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_spelling_of_an_address_is_the_same_address() {
        for (spellings, address) in [
            (
                &["DB1.DBD0:REAL", "%DB1.DBD0:REAL", "%DB1:0:REAL", "DB1,REAL0", "DB1,R0", "DB1.DBB0:real", "DB1.DBX0.0:REAL", "VD0:REAL"]
                    [..],
                "DB1.DBD0:REAL",
            ),
            (&["DB1.DBX4.0", "%DB1:4.0:BOOL", "DB1,X4.0", "%DB1.DBX4.0:BOOL", "V4.0", "VX4.0"], "DB1.DBX4.0"),
            (&["DB1.DBW20:INT", "%DB1:20:INT", "DB1,INT20", "DB1,I20", "VW20:INT"], "DB1.DBW20:INT"),
            (&["DB1.DBB10:STRING[20]", "%DB1:10:STRING(20)", "DB1,S10.20", "DB1,STRING10.20"], "DB1.DBB10:STRING[20]"),
            (&["DB1.DBB20:INT[5]", "%DB1:20:INT[5]", "DB1,INT20.5"], "DB1.DBB20:INT[5]"),
            (&["I0.0", "E0.0", "%I0.0", "IX0.0", "%I0.0:BOOL"], "I0.0"),
            (&["IW64:INT", "EW64:INT", "%IW64:INT", "II64", "IINT64"], "IW64:INT"),
            (&["QD8", "AD8"], "QD8"),
            (&["PIW256", "PEW256", "%PIW256:WORD"], "PIW256"),
            (&["M10.2", "MX10.2"], "M10.2"),
            (&["MD30:REAL", "MR30", "MREAL30", "%MD30:REAL"], "MD30:REAL"),
            (&["T5", "%T5", "t5"], "T5"),
            (&["C3", "Z3"], "C3"),
            (&["DB7.DBB6:DTL", "DB7.DBX6.0:DTL"], "DB7.DBB6:DTL"),
            (&["AIW4:INT"], "AIW4:INT"),
        ] {
            for spelling in spellings {
                assert_eq!(read(spelling), address, "{spelling}");
            }
            assert_eq!(read(address), address);
        }
    }

    #[test]
    fn a_type_may_stand_beside_the_address() {
        assert_eq!(Address::parse("DB1.DBD0", Some("REAL")).unwrap().to_string(), "DB1.DBD0:REAL");
        assert_eq!(Address::parse("DB1.DBB0", Some("REAL[10]")).unwrap().size(), 40);
        assert_eq!(Address::parse("DB1.DBB0", Some("STRING[3][2]")).unwrap().size(), 12);
        assert!(matches!(Address::parse("DB1.DBD0:REAL", Some("INT")), Err(AddressError::Twice(..))));
        assert!(matches!(Address::parse("DB1.DBD0", Some("FLOAT")), Err(AddressError::Type(_))));
    }

    #[test]
    fn an_error_says_what_to_write() {
        for (text, said) in [
            ("DB1.DBW20:REAL", "`DB1.DBW20:REAL` addresses 2 bytes, and REAL takes 4; write `DB1.DBD20:REAL`"),
            ("DB1.DBX4", "`DB1.DBX4` names no bit: write it as in `DB1.DBX4.0`"),
            ("DB1.DBX4.8", "`DB1.DBX4.8` has the number 8, and a bit is 0 to 7"),
            ("DB1.DBX4.1:INT", "`DB1.DBX4.1:INT` names a bit, but INT is no bit; write `DB1.DBW4:INT`"),
            ("DB1.DBB65535:REAL", "`DB1.DBB65535:REAL` ends beyond byte 65535, the last that a request can name"),
            ("DBW20", "`DBW20` names no block: write `DB1.DBW20` (byte 20 of DB1), or with the block you mean"),
            ("DW20", "`DW20` names no block: write `DB1.DBW20` (byte 20 of DB1), or with the block you mean"),
            ("M10", "`M10` names no bit: write it as in `M10.0`"),
        ] {
            assert_eq!(read(text), said);
        }
        for text in [
            "",
            "DB",
            "DB1",
            "DB0.DBW0",
            "DB1.DBQ0",
            "DB1.DBW",
            "IW",
            "X",
            "DB70000.DBW0",
            "DB1.DBW-1",
            "T5:INT",
            "M1.2.3",
            "DB1,INT",
            "P0",
        ] {
            assert!(Address::parse(text, None).is_err(), "{text}");
        }
        assert!(read("\"Oven\".Zone1").contains("by OPC UA"));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_printed_is_read_back(text in "[%]?(DB|M|I|E|PEW|T|V|MB)?[0-9]{0,5}[.,:]?(DB)?[XBWDRS]?[A-Z0-9.:\\[\\]]{0,12}") {
            if let Ok(address) = Address::parse(&text, None) {
                prop_assert_eq!(Address::parse(&address.to_string(), None), Ok(address));
            }
        }

        #[test]
        fn no_foreign_text_panics(text in ".{0,24}") {
            let _ = Address::parse(&text, None);
        }
    }
}
