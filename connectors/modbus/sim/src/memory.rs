//! The tables of one unit, and its answers.
//!
//! Source: Modbus Application Protocol V1.1b3, section 6.

use std::collections::BTreeMap;
use std::ops::Range;

/// One write that a unit took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    pub unit: u8,
    pub function: u8,
    pub start: u16,
    pub words: Vec<u16>,
}

/// What a unit holds.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub coils: BTreeMap<u16, bool>,
    pub discrete: BTreeMap<u16, bool>,
    pub input: BTreeMap<u16, u16>,
    pub holding: BTreeMap<u16, u16>,
    /// Addresses of registers that are refused whatever the tables hold.
    pub refused: Vec<Range<u16>>,
    /// With which exception; 2 where nothing is said.
    pub refused_with: Option<u8>,
    /// Registers at which it closes the connection instead of answering.
    pub hangs_up_at: Vec<Range<u16>>,
    /// The most registers of a request.
    pub most_registers: Option<u16>,
    /// A register that comes wrong where others are read with it.
    pub wrong_over: Option<u16>,
    /// Answers everything with this exception.
    pub exception: Option<u8>,
    /// Takes writes of registers and forgets them: a drive whose key switch says "local".
    pub is_locked: bool,
}

const ILLEGAL_FUNCTION: u8 = 1;
const ILLEGAL_ADDRESS: u8 = 2;
const ILLEGAL_VALUE: u8 = 3;

impl Memory {
    /// Sets registers, big-endian words in this order.
    pub fn set_holding(&mut self, start: u16, words: &[u16]) {
        self.holding.extend((start..).zip(words.iter().copied()));
    }

    pub fn set_input(&mut self, start: u16, words: &[u16]) {
        self.input.extend((start..).zip(words.iter().copied()));
    }

    /// Whether it closes the connection at this request.
    pub fn hangs_up(&self, pdu: &[u8]) -> bool {
        let Some(&[_, high, low, ..]) = pdu.first_chunk::<5>() else { return false };
        let start = u16::from_be_bytes([high, low]);
        self.hangs_up_at.iter().any(|range| range.contains(&start))
    }

    /// The answer to a request's PDU, and what it wrote.
    pub fn answer(&mut self, unit: u8, pdu: &[u8]) -> (Vec<u8>, Option<Written>) {
        let function = pdu.first().copied().unwrap_or(0);
        let refuse = |code: u8| (vec![function | 0x80, code], None);
        if let Some(code) = self.exception {
            return refuse(code);
        }
        let word = |at: usize| pdu.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        let (Some(start), Some(second)) = (word(1), word(3)) else { return refuse(ILLEGAL_VALUE) };
        let answered = match function {
            1 => self.read_bits(&self.coils, start, second).map(|data| with_data(function, &data)),
            2 => self.read_bits(&self.discrete, start, second).map(|data| with_data(function, &data)),
            3 => self.read_registers(&self.holding, start, second).map(|data| with_data(function, &data)),
            4 => self.read_registers(&self.input, start, second).map(|data| with_data(function, &data)),
            5 | 6 | 15 | 16 | 22 => return self.write(unit, function, start, second, pdu),
            _ => Err(ILLEGAL_FUNCTION),
        };
        match answered {
            Ok(answer) => (answer, None),
            Err(code) => refuse(code),
        }
    }

    fn read_bits(&self, table: &BTreeMap<u16, bool>, start: u16, count: u16) -> Result<Vec<u8>, u8> {
        if !(1..=2000).contains(&count) {
            return Err(ILLEGAL_VALUE);
        }
        let mut data = vec![0; usize::from(count).div_ceil(8)];
        for index in 0..count {
            let at = start.checked_add(index).ok_or(ILLEGAL_ADDRESS)?;
            if *table.get(&at).ok_or(ILLEGAL_ADDRESS)? {
                data[usize::from(index / 8)] |= 1 << (index % 8);
            }
        }
        Ok(data)
    }

    fn read_registers(&self, table: &BTreeMap<u16, u16>, start: u16, count: u16) -> Result<Vec<u8>, u8> {
        if !(1..=125).contains(&count) || self.most_registers.is_some_and(|most| count > most) {
            return Err(ILLEGAL_VALUE);
        }
        let end = u32::from(start) + u32::from(count);
        if end > 0x1_0000 || self.refused.iter().any(|range| u32::from(range.start) < end && range.end > start) {
            return Err(self.refused_with.unwrap_or(ILLEGAL_ADDRESS));
        }
        let last = (end - 1) as u16;
        let mut data = Vec::with_capacity(usize::from(count) * 2);
        for (at, word) in table.range(start..=last) {
            let word = if count > 1 && self.wrong_over == Some(*at) { !word } else { *word };
            data.extend_from_slice(&word.to_be_bytes());
        }
        if data.len() == usize::from(count) * 2 { Ok(data) } else { Err(ILLEGAL_ADDRESS) }
    }

    fn write(&mut self, unit: u8, function: u8, start: u16, second: u16, pdu: &[u8]) -> (Vec<u8>, Option<Written>) {
        let refuse = |code: u8| (vec![function | 0x80, code], None);
        let words: Vec<u16> = match function {
            5 if !matches!(second, 0 | 0xFF00) => return refuse(ILLEGAL_VALUE),
            5 => vec![u16::from(second != 0)],
            6 => vec![second],
            15 => (0..second).map(|bit| pdu.get(6 + usize::from(bit / 8)).map_or(0, |byte| u16::from(byte >> (bit % 8) & 1))).collect(),
            16 => pdu.get(6..).unwrap_or_default().chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]])).collect(),
            _ => {
                let Some(or) = pdu.get(5..7).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]])) else { return refuse(ILLEGAL_VALUE) };
                vec![(self.holding.get(&start).copied().unwrap_or_default() & second) | (or & !second)]
            }
        };
        if matches!(function, 15 | 16) && words.len() != usize::from(second) {
            return refuse(ILLEGAL_VALUE);
        }
        let is_coil = matches!(function, 5 | 15);
        for (index, word) in words.iter().enumerate() {
            let Some(at) = u16::try_from(index).ok().and_then(|index| start.checked_add(index)) else { return refuse(ILLEGAL_ADDRESS) };
            let known = if is_coil { self.coils.contains_key(&at) } else { self.holding.contains_key(&at) };
            if !known {
                return refuse(ILLEGAL_ADDRESS);
            }
            if is_coil {
                self.coils.insert(at, *word != 0);
            } else if !self.is_locked {
                self.holding.insert(at, *word);
            }
        }
        let answer = if function == 22 { pdu.get(..7) } else { pdu.get(..5) }.unwrap_or_default().to_vec();
        (answer, Some(Written { unit, function, start, words }))
    }
}

fn with_data(function: u8, data: &[u8]) -> Vec<u8> {
    let mut answer = vec![function, data.len() as u8];
    answer.extend_from_slice(data);
    answer
}
