//! Which characters bytes are: by name, or by the mark in front.

use encoding_rs::{CoderResult, Decoder, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use millrace_config::Reason;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, Error as _};
use std::borrow::Cow;
use std::io::{self, Read};

/// An encoding by one of its names: `utf-8` (default), `utf-16le`, `windows-1252`, `iso-8859-2`, `shift_jis`, `gbk`, ...
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoding(&'static encoding_rs::Encoding);

impl Default for Encoding {
    fn default() -> Self {
        Self(UTF_8)
    }
}

impl Encoding {
    /// Finds an encoding by its name, as the web knows it.
    pub fn of(name: &str) -> Option<Self> {
        encoding_rs::Encoding::for_label(name.as_bytes()).map(Self)
    }

    pub fn name(self) -> &'static str {
        self.0.name()
    }

    pub fn is_utf8(self) -> bool {
        self.0 == UTF_8
    }

    /// Two bytes a character: a newline is not one byte.
    pub fn is_wide(self) -> bool {
        self.0 == UTF_16LE || self.0 == UTF_16BE
    }

    /// The encoding that the mark in front of `bytes` names, and how long the mark is.
    pub fn marked(bytes: &[u8]) -> Option<(Self, usize)> {
        encoding_rs::Encoding::for_bom(bytes).map(|(encoding, len)| (Self(encoding), len))
    }

    /// Reads bytes as text; a mark in front goes before the name.
    ///
    /// Errors: one line for a person, with the first byte that is no character.
    pub fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>, Reason> {
        let (encoding, mark) = Self::marked(bytes).unwrap_or((self, 0));
        let bytes = &bytes[mark..];
        if encoding.is_utf8() {
            return std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|error| {
                let at = error.valid_up_to();
                format!("byte 0x{:02X} at {at} is not UTF-8; set `encoding`: windows-1252 if a western Windows wrote it", bytes[at]).into()
            });
        }
        let text = encoding.0.decode_without_bom_handling_and_without_replacement(bytes);
        text.ok_or_else(|| format!("bytes that are not {}; set `encoding` to what wrote them", encoding.name()).into())
    }

    /// Reads a field of a table: as [`Self::decode`], and a NUL is a fault, because it shows text of two bytes a character.
    pub fn field(self, bytes: &[u8]) -> Result<Cow<'_, str>, Reason> {
        if memchr::memchr(0, bytes).is_some() && !self.is_wide() {
            return Err("a NUL character in a text; set `encoding: utf-16le` if every other byte is one".into());
        }
        self.decode(bytes)
    }

    /// A reader of UTF-8 over a reader of this encoding.
    pub fn reader<R: Read>(self, inner: R) -> Transcoder<R> {
        Transcoder { inner, decoder: self.0.new_decoder_with_bom_removal(), raw: Vec::new(), text: Vec::new(), taken: 0, is_done: false }
    }

    /// What western Windows writes.
    pub const fn windows_1252() -> Self {
        Self(WINDOWS_1252)
    }
}

impl<'de> Deserialize<'de> for Encoding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::of(&name).ok_or_else(|| {
            D::Error::custom(format!(
                "`{name}` is not an encoding; there are utf-8, utf-16le, windows-1252, iso-8859-2, shift_jis, gbk and the web's others"
            ))
        })
    }
}

impl JsonSchema for Encoding {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Encoding".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({"type": "string", "examples": ["utf-8", "utf-16le", "windows-1252", "iso-8859-2", "shift_jis", "gbk"]})
    }
}

/// Reads bytes of one encoding as UTF-8; what is no character becomes U+FFFD.
pub struct Transcoder<R> {
    inner: R,
    decoder: Decoder,
    raw: Vec<u8>,
    text: Vec<u8>,
    taken: usize,
    is_done: bool,
}

impl<R: Read> Read for Transcoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.text.len() && !self.is_done {
            self.raw.resize(64 * 1024, 0);
            let read = self.inner.read(&mut self.raw)?;
            self.is_done = read == 0;
            self.text.resize(4 * 64 * 1024, 0);
            let (result, _, written, _) = self.decoder.decode_to_utf8(&self.raw[..read], &mut self.text, self.is_done);
            // Four bytes hold whatever one byte becomes.
            debug_assert_eq!(result, CoderResult::InputEmpty);
            self.text.truncate(written);
            self.taken = 0;
        }
        let len = buffer.len().min(self.text.len() - self.taken);
        buffer[..len].copy_from_slice(&self.text[self.taken..self.taken + len]);
        self.taken += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_by_name_or_by_their_mark() {
        assert_eq!(Encoding::windows_1252().decode(b"80 \x80 \xE4").unwrap(), "80 € ä");
        assert!(Encoding::default().decode(b"a\xE4").unwrap_err().starts_with("byte 0xE4 at 1 is not UTF-8"));
        assert_eq!(Encoding::windows_1252().decode(b"\xFF\xFEa\0\xE4\0").unwrap(), "aä");
        assert_eq!(Encoding::of("shift_jis").unwrap().decode(b"\x83\x65").unwrap(), "テ");
        assert!(Encoding::windows_1252().field(b"a\0b\0").unwrap_err().contains("utf-16le"));
        assert!(Encoding::of("klingon").is_none());
    }

    #[test]
    fn a_long_text_of_two_bytes_a_character_comes_whole() {
        let text = "Prüfung;12,5\r\n".repeat(20_000);
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut out = String::new();
        Encoding::of("utf-16le").unwrap().reader(&wide[..]).read_to_string(&mut out).unwrap();
        assert_eq!(out, text);
    }
}
