//! Encodings of a text in registers.

use super::number::Unfit;
use millrace_schemas::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the bytes of a text are read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum Encoding {
    /// UTF-8, and with it ASCII.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// ISO 8859-1.
    #[serde(rename = "latin1")]
    Latin1,
    /// Windows code page 1252, Western Europe.
    #[serde(rename = "cp1252")]
    Cp1252,
}

/// What 0x80 to 0x9F are in Windows code page 1252; the five unused ones stay control characters.
const CP1252_HIGH: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8D}', 'Ž', '\u{8F}', '\u{90}', '‘', '’', '“', '”', '•', '–',
    '—', '˜', '™', 'š', '›', 'œ', '\u{9D}', 'ž', 'Ÿ',
];

impl Encoding {
    /// Appends a text to the heap as UTF-8. Errors: bytes that are no text in this encoding.
    pub fn decode(self, bytes: &[u8], heap: &mut Vec<u8>) -> Result<(), StatusCode> {
        let char_of = |byte: u8| match (self, byte) {
            (Self::Cp1252, 0x80..=0x9F) => CP1252_HIGH[usize::from(byte - 0x80)],
            _ => char::from(byte),
        };
        if self == Self::Utf8 {
            std::str::from_utf8(bytes).map_err(|_| StatusCode::BAD_DECODING_ERROR)?;
            heap.extend_from_slice(bytes);
            return Ok(());
        }
        for &byte in bytes {
            heap.extend_from_slice(char_of(byte).encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(())
    }

    /// The bytes of a text. Errors: a character that this encoding doesn't have.
    pub fn encode(self, text: &str) -> Result<Vec<u8>, Unfit> {
        let byte_of = |c: char| match u8::try_from(u32::from(c)) {
            Ok(byte) if self != Self::Cp1252 || !(0x80..=0x9F).contains(&byte) => Some(byte),
            _ if self == Self::Cp1252 => CP1252_HIGH.iter().position(|high| *high == c).map(|at| 0x80 + at as u8),
            _ => None,
        };
        match self {
            Self::Utf8 => Ok(text.as_bytes().to_vec()),
            _ => text.chars().map(|c| byte_of(c).ok_or(Unfit::Character(c))).collect(),
        }
    }
}
