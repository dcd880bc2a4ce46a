//! Requests and answers, without what a line wraps around them.
//!
//! ```text
//! read          FC 1 2 3 4   function, start, count                              -> function, byte count, values
//! write one     FC 5 6       function, start, value (a coil: FF00 or 0000)       -> the same
//! write many    FC 15 16     function, start, count, byte count, values          -> function, start, count
//! mask write    FC 22        function, start, and, or                            -> the same
//! identify      FC 43 / 14   function, 0E, code, first object                    -> function, 0E, .., count, objects
//! refused       function | 80, code
//! ```
//!
//! Invariants: nothing is read off an answer before its function, its length and its byte count are those that were asked for; a request never
//! asks for more than the standard allows, whatever a profile says.
//!
//! Source: Modbus Application Protocol V1.1b3, sections 6 and 7.

use crate::address::Table;
use std::fmt;

/// The longest PDU (section 4.1).
pub const MOST_BYTES: usize = 253;
/// The most registers and coils of one write (sections 6.12 and 6.11).
pub const MOST_WRITE_REGISTERS: usize = 123;
pub const MOST_WRITE_COILS: usize = 1968;

/// Reads consecutive values of one table.
///
/// Units: `start` is zero-based (40001 is 0); `count` in coils or registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Read {
    pub table: Table,
    pub start: u16,
    pub count: u16,
    /// What one register of this device holds: 2 bytes, of 32-bit devices 4.
    pub register_bytes: u8,
}

/// Writes values; never sent twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    Coil {
        start: u16,
        on: bool,
    },
    Coils {
        start: u16,
        on: Vec<bool>,
    },
    Register {
        start: u16,
        word: [u8; 2],
    },
    /// The words' bytes as they go over the wire; `count` of them, of four bytes each in 32-bit devices.
    Registers {
        start: u16,
        count: u16,
        bytes: Vec<u8>,
    },
    /// The register becomes `(register & and) | (or & !and)`.
    Mask {
        start: u16,
        and: u16,
        or: u16,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    Read(Read),
    Write(Write),
    /// Asks for vendor, product and version, from this object on.
    Identify {
        from: u8,
    },
}

/// A device's answer that it will not: its code (section 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Exception(pub u8);

impl Exception {
    pub const FUNCTION: Self = Self(1);
    pub const ADDRESS: Self = Self(2);
    pub const VALUE: Self = Self(3);
    pub const FAILURE: Self = Self(4);
    pub const ACKNOWLEDGE: Self = Self(5);
    pub const BUSY: Self = Self(6);
    pub const GATEWAY_PATH: Self = Self(0x0A);
    pub const GATEWAY_TARGET: Self = Self(0x0B);

    /// Whether a part of the request may be what the device minds: then smaller requests tell which.
    pub const fn is_about_the_request(self) -> bool {
        matches!(self, Self::ADDRESS | Self::VALUE | Self::FAILURE)
    }

    /// Whether the device only wants to be asked later.
    pub const fn is_busy(self) -> bool {
        matches!(self, Self::ACKNOWLEDGE | Self::BUSY)
    }

    /// Whether a gateway says that the unit behind it didn't answer.
    pub const fn is_from_a_gateway(self) -> bool {
        matches!(self, Self::GATEWAY_PATH | Self::GATEWAY_TARGET)
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = match self.0 {
            1 => "illegal function",
            2 => "illegal data address",
            3 => "illegal data value",
            4 => "device failure",
            5 => "acknowledge, still working",
            6 => "device busy",
            8 => "memory parity error",
            0x0A => "gateway path unavailable",
            0x0B => "gateway target did not respond",
            _ => "not in the standard",
        };
        write!(f, "exception {} ({meaning})", self.0)
    }
}

/// Why an answer is none to its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Misfit {
    #[error("the answer is empty")]
    Empty,
    #[error("the answer is to function {got}, and function {asked} was asked")]
    Function { asked: u8, got: u8 },
    #[error("the answer holds {got} bytes where {asked} were asked for{}", hint(*.asked, *.got))]
    ByteCount { asked: usize, got: usize },
    #[error("the answer is {got} bytes long where {expected} were expected")]
    Length { expected: usize, got: usize },
    #[error("the device confirmed something else than was written")]
    Echo,
}

/// What a byte count of another size usually means.
const fn hint(asked: usize, got: usize) -> &'static str {
    if asked != 0 && got == asked * 2 {
        "; this device's registers have 32 bits: set `register_bits: 32`"
    } else if asked != 0 && asked == got * 2 {
        "; this device's registers have 16 bits: leave out `register_bits: 32`"
    } else {
        ""
    }
}

/// What came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply<'a> {
    /// The values of a read, nothing of a write.
    Data(&'a [u8]),
    Refused(Exception),
}

impl Read {
    /// How many bytes its answer holds.
    pub const fn data_bytes(&self) -> usize {
        if self.table.is_bits() { (self.count as usize).div_ceil(8) } else { self.count as usize * self.register_bytes as usize }
    }

    /// One past the last value.
    pub const fn end(&self) -> u32 {
        self.start as u32 + self.count as u32
    }

    const fn function(&self) -> u8 {
        match self.table {
            Table::Coil => 1,
            Table::Discrete => 2,
            Table::Holding => 3,
            Table::Input => 4,
        }
    }
}

impl fmt::Display for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.table.as_str(), self.start)?;
        if self.count > 1 { write!(f, "..{}", self.end() - 1) } else { Ok(()) }
    }
}

impl Request {
    pub const fn function(&self) -> u8 {
        match self {
            Self::Read(read) => read.function(),
            Self::Write(Write::Coil { .. }) => 5,
            Self::Write(Write::Register { .. }) => 6,
            Self::Write(Write::Coils { .. }) => 15,
            Self::Write(Write::Registers { .. }) => 16,
            Self::Write(Write::Mask { .. }) => 22,
            Self::Identify { .. } => 43,
        }
    }

    /// Appends the PDU.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.function());
        fn push(out: &mut Vec<u8>, word: u16) {
            out.extend_from_slice(&word.to_be_bytes());
        }
        match self {
            Self::Read(read) => {
                push(out, read.start);
                push(out, read.count);
            }
            Self::Write(Write::Coil { start, on }) => {
                push(out, *start);
                push(out, if *on { 0xFF00 } else { 0 });
            }
            Self::Write(Write::Register { start, word: value }) => {
                push(out, *start);
                out.extend_from_slice(value);
            }
            Self::Write(Write::Coils { start, on }) => {
                push(out, *start);
                push(out, on.len() as u16);
                out.push(on.len().div_ceil(8) as u8);
                out.extend(on.chunks(8).map(|eight| eight.iter().enumerate().fold(0u8, |byte, (bit, on)| byte | u8::from(*on) << bit)));
            }
            Self::Write(Write::Registers { start, count, bytes }) => {
                push(out, *start);
                push(out, *count);
                out.push(bytes.len() as u8);
                out.extend_from_slice(bytes);
            }
            Self::Write(Write::Mask { start, and, or }) => {
                push(out, *start);
                push(out, *and);
                push(out, *or);
            }
            Self::Identify { from } => out.extend_from_slice(&[0x0E, 0x01, *from]),
        }
    }

    /// How long the PDU of the answer is, where it is not refused; `None` where only the answer itself tells.
    pub fn answer_bytes(&self) -> Option<usize> {
        match self {
            Self::Read(read) => Some(2 + read.data_bytes()),
            Self::Write(Write::Mask { .. }) => Some(7),
            Self::Write(_) => Some(5),
            Self::Identify { .. } => None,
        }
    }

    /// Checks that a PDU answers this request, and takes it apart.
    pub fn reply<'a>(&self, pdu: &'a [u8]) -> Result<Reply<'a>, Misfit> {
        let (&function, rest) = pdu.split_first().ok_or(Misfit::Empty)?;
        let asked = self.function();
        if function == asked | 0x80 {
            return match rest {
                [code] => Ok(Reply::Refused(Exception(*code))),
                _ => Err(Misfit::Length { expected: 2, got: pdu.len() }),
            };
        }
        if function != asked {
            return Err(Misfit::Function { asked, got: function });
        }
        match self {
            Self::Read(read) => {
                let (&count, data) = rest.split_first().ok_or(Misfit::Length { expected: 2, got: pdu.len() })?;
                let expected = read.data_bytes();
                if usize::from(count) != expected {
                    return Err(Misfit::ByteCount { asked: expected, got: count.into() });
                }
                if data.len() != expected {
                    return Err(Misfit::Length { expected: expected + 2, got: pdu.len() });
                }
                Ok(Reply::Data(data))
            }
            Self::Write(_) => {
                let expected = self.answer_bytes().unwrap_or_default();
                if pdu.len() != expected {
                    return Err(Misfit::Length { expected, got: pdu.len() });
                }
                let mut request = Vec::with_capacity(MOST_BYTES);
                self.encode(&mut request);
                if request.get(..expected) == Some(pdu) { Ok(Reply::Data(&[])) } else { Err(Misfit::Echo) }
            }
            Self::Identify { .. } => Ok(Reply::Data(rest)),
        }
    }
}

/// The length of an answer's PDU as its first bytes tell it; `None` while they are too few.
///
/// For lines that carry no length of their own.
pub fn length_of(pdu: &[u8]) -> Option<usize> {
    match *pdu.first()? {
        function if function & 0x80 != 0 => Some(2),
        1..=4 | 23 => Some(2 + usize::from(*pdu.get(1)?)),
        22 => Some(7),
        43 => {
            let objects = *pdu.get(6)?;
            (0..objects).try_fold(7, |at: usize, _| Some(at + 2 + usize::from(*pdu.get(at + 1)?)))
        }
        _ => Some(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(table: Table, start: u16, count: u16) -> Request {
        Request::Read(Read { table, start, count, register_bytes: 2 })
    }

    /// Request, its bytes, an answer's bytes and its data.
    type Example = (Request, Vec<u8>, Vec<u8>, Vec<u8>);

    /// The examples of the standard, section 6, by their numbers.
    fn examples() -> Vec<Example> {
        vec![
            // 6.1: coils 20-38.
            (read(Table::Coil, 0x13, 0x13), vec![1, 0, 0x13, 0, 0x13], vec![1, 3, 0xCD, 0x6B, 0x05], vec![0xCD, 0x6B, 0x05]),
            // 6.2: discrete inputs 197-218.
            (read(Table::Discrete, 0xC4, 0x16), vec![2, 0, 0xC4, 0, 0x16], vec![2, 3, 0xAC, 0xDB, 0x35], vec![0xAC, 0xDB, 0x35]),
            // 6.3: holding registers 108-110.
            (read(Table::Holding, 0x6B, 3), vec![3, 0, 0x6B, 0, 3], vec![3, 6, 2, 0x2B, 0, 0, 0, 0x64], vec![2, 0x2B, 0, 0, 0, 0x64]),
            // 6.4: input register 9.
            (read(Table::Input, 8, 1), vec![4, 0, 8, 0, 1], vec![4, 2, 0, 0x0A], vec![0, 0x0A]),
            // 6.5: coil 173 on.
            (Request::Write(Write::Coil { start: 0xAC, on: true }), vec![5, 0, 0xAC, 0xFF, 0], vec![5, 0, 0xAC, 0xFF, 0], vec![]),
            // 6.6: register 2 to 3.
            (Request::Write(Write::Register { start: 1, word: [0, 3] }), vec![6, 0, 1, 0, 3], vec![6, 0, 1, 0, 3], vec![]),
            // 6.11: ten coils from 20 on.
            (
                Request::Write(Write::Coils { start: 0x13, on: [1, 0, 1, 1, 0, 0, 1, 1, 1, 0].map(|bit| bit == 1).to_vec() }),
                vec![15, 0, 0x13, 0, 0x0A, 2, 0xCD, 1],
                vec![15, 0, 0x13, 0, 0x0A],
                vec![],
            ),
            // 6.12: two registers from 2 on.
            (
                Request::Write(Write::Registers { start: 1, count: 2, bytes: vec![0, 0x0A, 1, 2] }),
                vec![16, 0, 1, 0, 2, 4, 0, 0x0A, 1, 2],
                vec![16, 0, 1, 0, 2],
                vec![],
            ),
            // 6.16: register 5.
            (
                Request::Write(Write::Mask { start: 4, and: 0xF2, or: 0x25 }),
                vec![22, 0, 4, 0, 0xF2, 0, 0x25],
                vec![22, 0, 4, 0, 0xF2, 0, 0x25],
                vec![],
            ),
            // 6.21: the basic identification, one object of it.
            (
                Request::Identify { from: 0 },
                vec![43, 14, 1, 0],
                vec![43, 14, 1, 1, 0, 0, 1, 0, 2, b'A', b'B'],
                vec![14, 1, 1, 0, 0, 1, 0, 2, b'A', b'B'],
            ),
        ]
    }

    #[test]
    fn the_examples_of_the_standard_go_out_and_come_back() {
        for (request, bytes, answer, data) in examples() {
            let mut out = Vec::new();
            request.encode(&mut out);
            assert_eq!(out, bytes, "{request:?}");
            assert_eq!(request.reply(&answer), Ok(Reply::Data(&data)), "{request:?}");
            assert_eq!(length_of(&answer), Some(answer.len()), "{request:?}");
            assert!(request.answer_bytes().is_none_or(|bytes| bytes == answer.len()));
            for cut in 0..answer.len() {
                assert!(matches!(length_of(&answer[..cut]), None | Some(2..)), "cut at {cut}");
                assert!(matches!(request, Request::Identify { .. }) || request.reply(&answer[..cut]).is_err(), "{request:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn exceptions_are_read_whatever_their_code() {
        let request = read(Table::Holding, 0, 1);
        assert_eq!(request.reply(&[0x83, 2]), Ok(Reply::Refused(Exception::ADDRESS)));
        assert_eq!(Exception(244).to_string(), "exception 244 (not in the standard)");
        assert_eq!(Exception(0x0B).to_string(), "exception 11 (gateway target did not respond)");
        assert_eq!(request.reply(&[0x83]), Err(Misfit::Length { expected: 2, got: 1 }));
    }

    #[test]
    fn an_answer_that_does_not_fit_says_why() {
        let request = read(Table::Holding, 0, 2);
        let said = |pdu: &[u8]| request.reply(pdu).unwrap_err().to_string();
        assert_eq!(said(&[4, 4, 0, 0, 0, 0]), "the answer is to function 4, and function 3 was asked");
        assert_eq!(
            said(&[3, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
            "the answer holds 8 bytes where 4 were asked for; this device's registers have 32 bits: set `register_bits: 32`"
        );
        assert_eq!(said(&[3, 3, 0, 0, 0]), "the answer holds 3 bytes where 4 were asked for");
        assert_eq!(said(&[3, 4, 0, 0, 0]), "the answer is 5 bytes long where 6 were expected");
        assert_eq!(said(&[]), "the answer is empty");
        let write = Request::Write(Write::Register { start: 1, word: [0, 3] });
        assert_eq!(write.reply(&[6, 0, 1, 0, 4]), Err(Misfit::Echo));
    }

    proptest! {
        #[test]
        fn no_answer_makes_a_reader_panic(pdu in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = length_of(&pdu);
            for (request, ..) in examples() {
                if let Ok(Reply::Data(data)) = request.reply(&pdu) {
                    prop_assert!(data.len() < pdu.len());
                }
            }
        }
    }
}
