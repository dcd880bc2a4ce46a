//! The data types of S7 CPUs: their names, and how many bytes each takes.
//!
//! Names are those of TIA Portal and STEP 7, with the short forms that nodeS7 and Kepware write. How they lie in memory: [`crate::decode`].

use std::fmt;

/// An elementary type, or a text of a given length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DataType {
    Bool,
    Byte,
    Word,
    DWord,
    LWord,
    SInt,
    USInt,
    Int,
    UInt,
    DInt,
    UDInt,
    LInt,
    ULInt,
    Real,
    LReal,
    Char,
    WChar,
    /// With its greatest length in characters, at most 254.
    String(u8),
    /// With its greatest length in UTF-16 units, at most 16382.
    WString(u16),
    S5Time,
    Time,
    LTime,
    Date,
    TimeOfDay,
    LTimeOfDay,
    /// DATE_AND_TIME: eight bytes, BCD.
    DateTime,
    /// DATE_AND_LTIME: nanoseconds since 1970.
    LDateTime,
    /// Twelve bytes, binary.
    Dtl,
    /// The value of a counter of the area C: three BCD digits.
    Counter,
}

use DataType::*;

/// Names as people write them, the standard's own first.
const NAMES: [(&str, DataType); 45] = [
    ("BOOL", Bool),
    ("BYTE", Byte),
    ("WORD", Word),
    ("DWORD", DWord),
    ("LWORD", LWord),
    ("SINT", SInt),
    ("USINT", USInt),
    ("INT", Int),
    ("UINT", UInt),
    ("DINT", DInt),
    ("UDINT", UDInt),
    ("LINT", LInt),
    ("ULINT", ULInt),
    ("REAL", Real),
    ("LREAL", LReal),
    ("CHAR", Char),
    ("WCHAR", WChar),
    ("STRING", String(254)),
    ("WSTRING", WString(254)),
    ("S5TIME", S5Time),
    ("TIME", Time),
    ("LTIME", LTime),
    ("DATE", Date),
    ("TIME_OF_DAY", TimeOfDay),
    ("TOD", TimeOfDay),
    ("LTIME_OF_DAY", LTimeOfDay),
    ("LTOD", LTimeOfDay),
    ("DATE_AND_TIME", DateTime),
    ("DT", DateTime),
    ("DATE_AND_LTIME", LDateTime),
    ("LDT", LDateTime),
    ("DTL", Dtl),
    ("TIMER", S5Time),
    ("COUNTER", Counter),
    // nodeS7 and Kepware.
    ("X", Bool),
    ("B", Byte),
    ("W", Word),
    ("D", DWord),
    ("DW", DWord),
    ("I", Int),
    ("DI", DInt),
    ("R", Real),
    ("LR", LReal),
    ("C", Char),
    ("S", String(254)),
];

impl DataType {
    /// Parses the name of a type, in any case, with the length of a text: `STRING[20]`, `STRING(20)`. The short forms of other tools are taken
    /// with `short` only.
    pub fn parse(text: &str, short: bool) -> Option<Self> {
        let (name, length) = match text.find(['[', '(']) {
            Some(at) => {
                let inner = text[at + 1..].strip_suffix([']', ')'])?;
                (text[..at].trim(), Some(inner.trim().parse::<u16>().ok().filter(|n| *n > 0)?))
            }
            None => (text.trim(), None),
        };
        let (_, kind) = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name) && (short || known.len() > 2 || *known == "DT"))?;
        match (kind, length) {
            (String(_), Some(n)) => (n <= 254).then_some(String(n as u8)),
            (WString(_), Some(n)) => (n <= 16382).then_some(WString(n)),
            (_, Some(_)) => None,
            (kind, None) => Some(*kind),
        }
    }

    /// Bytes of one value; of a BOOL the byte it lies in.
    pub const fn size(self) -> usize {
        match self {
            Bool | Byte | SInt | USInt | Char => 1,
            Word | Int | UInt | WChar | S5Time | Date | Counter => 2,
            DWord | DInt | UDInt | Real | Time | TimeOfDay => 4,
            LWord | LInt | ULInt | LReal | LTime | LTimeOfDay | DateTime | LDateTime => 8,
            Dtl => 12,
            String(max) => max as usize + 2,
            WString(max) => max as usize * 2 + 4,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Bool => "BOOL",
            Byte => "BYTE",
            Word => "WORD",
            DWord => "DWORD",
            LWord => "LWORD",
            SInt => "SINT",
            USInt => "USINT",
            Int => "INT",
            UInt => "UINT",
            DInt => "DINT",
            UDInt => "UDINT",
            LInt => "LINT",
            ULInt => "ULINT",
            Real => "REAL",
            LReal => "LREAL",
            Char => "CHAR",
            WChar => "WCHAR",
            String(_) => "STRING",
            WString(_) => "WSTRING",
            S5Time => "S5TIME",
            Time => "TIME",
            LTime => "LTIME",
            Date => "DATE",
            TimeOfDay => "TIME_OF_DAY",
            LTimeOfDay => "LTIME_OF_DAY",
            DateTime => "DATE_AND_TIME",
            LDateTime => "LDT",
            Dtl => "DTL",
            Counter => "COUNTER",
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            String(max) => write!(f, "STRING[{max}]"),
            WString(max) => write!(f, "WSTRING[{max}]"),
            other => f.write_str(other.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_own_name() {
        for (name, kind) in NAMES {
            assert_eq!(DataType::parse(name, true), Some(kind), "{name}");
            assert_eq!(DataType::parse(&kind.to_string(), false), Some(kind), "{kind}");
        }
    }

    #[test]
    fn texts_have_a_length_and_nothing_else_has() {
        assert_eq!(DataType::parse("string[20]", false), Some(String(20)));
        assert_eq!(DataType::parse("WString( 20 )", false), Some(WString(20)));
        assert_eq!(DataType::parse("STRING[255]", false), None);
        assert_eq!(DataType::parse("STRING[0]", false), None);
        assert_eq!(DataType::parse("REAL[2]", false), None);
        assert_eq!(String(20).size(), 22);
        assert_eq!(WString(20).size(), 44);
    }

    #[test]
    fn a_short_form_is_no_name_of_tia() {
        assert_eq!(DataType::parse("R", false), None);
        assert_eq!(DataType::parse("DT", false), Some(DateTime));
    }
}
