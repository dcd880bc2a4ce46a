//! Splits and writes CSV: RFC 4180 with any delimiter and quote.
//!
//! - A quote opens a field only at its start: `5" pipe,3` is two fields.
//! - Inside quotes a doubled quote is one, and a newline belongs to the field.
//! - A record ends at a newline outside quotes, `\n` or `\r\n`; in a file that has no `\n`, at `\r`.

/// Delimiter, quote and end of a line, one byte each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dialect {
    pub delimiter: u8,
    pub quote: u8,
    /// `\n`, with or without `\r` in front; or `\r` alone, as old systems write it.
    pub newline: u8,
    /// Several delimiters in a row are one, as in tables aligned with blanks.
    pub merge: bool,
}

impl Default for Dialect {
    fn default() -> Self {
        Self { delimiter: b',', quote: b'"', newline: b'\n', merge: false }
    }
}

/// The fields of one record, unquoted, in memory that is used again.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Fields {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.bytes[start..end])
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// A line that holds nothing.
    pub fn is_blank(&self) -> bool {
        self.len() == 1 && self.bytes.is_empty()
    }

    /// Rewrites each field; `rewrite` appends what the field becomes.
    pub fn rewritten<E>(&self, into: &mut Self, mut rewrite: impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        into.clear();
        for field in self.iter() {
            rewrite(field, &mut into.bytes)?;
            into.end_field();
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn end_field(&mut self) {
        self.ends.push(self.bytes.len());
    }
}

/// How far a buffer holds the first record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// The record and its newline take so many bytes.
    Record(usize),
    /// The buffer ends before the record does.
    More {
        /// It ends inside quotes.
        quoted: bool,
    },
}

impl Dialect {
    /// Splits the first record of `bytes`. With `last`, the end of `bytes` ends the record too (but not inside quotes).
    pub fn split(&self, bytes: &[u8], last: bool, fields: &mut Fields) -> Split {
        fields.clear();
        let mut at = 0;
        loop {
            while self.merge && bytes.get(at) == Some(&self.delimiter) {
                at += 1;
            }
            if bytes.get(at) == Some(&self.quote) {
                at += 1;
                loop {
                    let Some(len) = memchr::memchr(self.quote, &bytes[at..]) else { return Split::More { quoted: true } };
                    fields.bytes.extend_from_slice(&bytes[at..at + len]);
                    at += len + 1;
                    if bytes.get(at) != Some(&self.quote) {
                        break;
                    }
                    fields.bytes.push(self.quote);
                    at += 1;
                }
                // The end of a quoted field at the buffer's end may yet be the first half of a doubled quote.
                if at == bytes.len() && !last {
                    return Split::More { quoted: true };
                }
            }
            let found = memchr::memchr2(self.delimiter, self.newline, &bytes[at..]);
            let end = match found {
                Some(len) => at + len,
                None if last => bytes.len(),
                None => return Split::More { quoted: false },
            };
            fields.bytes.extend_from_slice(&bytes[at..end]);
            let is_record_end = bytes.get(end) != Some(&self.delimiter);
            if is_record_end && end > at && bytes[end - 1] == b'\r' {
                fields.bytes.pop();
            }
            let is_blank = fields.bytes.len() == fields.ends.last().copied().unwrap_or(0);
            let is_trailing = self.merge && is_record_end && is_blank && !fields.is_empty();
            if !is_trailing {
                fields.end_field();
            }
            if is_record_end {
                return Split::Record((end + 1).min(bytes.len()));
            }
            at = end + 1;
        }
    }

    /// Appends a field, quoted where it must be.
    pub fn write_field(&self, field: &[u8], out: &mut Vec<u8>) {
        let special = |b: &u8| *b == self.delimiter || *b == self.quote || *b == b'\n' || *b == b'\r';
        let is_plain = !field.iter().any(special) && !field.starts_with(b" ") && !field.ends_with(b" ");
        if is_plain {
            out.extend_from_slice(field);
            return;
        }
        out.push(self.quote);
        for byte in field {
            if *byte == self.quote {
                out.push(self.quote);
            }
            out.push(*byte);
        }
        out.push(self.quote);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Dialect = Dialect { delimiter: b',', quote: b'"', newline: b'\n', merge: false };

    fn split(text: &str, last: bool) -> (Split, Vec<String>) {
        let mut fields = Fields::default();
        let split = PLAIN.split(text.as_bytes(), last, &mut fields);
        (split, fields.iter().map(|f| String::from_utf8(f.to_vec()).unwrap()).collect())
    }

    fn record(text: &str) -> Vec<String> {
        match split(text, true) {
            (Split::Record(len), fields) if len == text.len() => fields,
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    #[test]
    fn a_record_is_split_at_delimiters_and_ends_at_its_newline() {
        assert_eq!(record("a,b,,c\n"), ["a", "b", "", "c"]);
        assert_eq!(record("a,b\r\n"), ["a", "b"]);
        assert_eq!(record("a,b"), ["a", "b"]);
        assert_eq!(record(",\n"), ["", ""]);
        assert_eq!(split("a,b\nc,d\n", false).0, Split::Record(4));
    }

    #[test]
    fn quotes_hold_delimiters_newlines_and_doubled_quotes() {
        assert_eq!(record("\"a,b\",\"c\nd\",\"say \"\"hi\"\"\"\r\n"), ["a,b", "c\nd", "say \"hi\""]);
        assert_eq!(record("\"\",x\n"), ["", "x"]);
        assert_eq!(record("5\" pipe,3\n"), ["5\" pipe", "3"]);
    }

    #[test]
    fn a_carriage_return_alone_and_merged_blanks_are_read_where_declared() {
        let split = |dialect: Dialect, text: &str| {
            let mut fields = Fields::default();
            let split = dialect.split(text.as_bytes(), true, &mut fields);
            (split, fields.iter().map(|f| String::from_utf8(f.to_vec()).unwrap()).collect::<Vec<_>>())
        };
        let old = Dialect { newline: b'\r', ..PLAIN };
        assert_eq!(split(old, "a,b\rc,d\r"), (Split::Record(4), vec!["a".into(), "b".into()]));
        let blanks = Dialect { delimiter: b' ', merge: true, ..PLAIN };
        assert_eq!(split(blanks, "  a   b \r\n"), (Split::Record(10), vec!["a".into(), "b".into()]));
    }

    #[test]
    fn an_unfinished_record_waits() {
        assert_eq!(split("a,b", false).0, Split::More { quoted: false });
        assert_eq!(split("a,\"b\nc", false).0, Split::More { quoted: true });
        assert_eq!(split("a,\"b\"", false).0, Split::More { quoted: true });
        assert_eq!(split("a,\"b\nc", true).0, Split::More { quoted: true });
    }

    #[test]
    fn what_is_written_reads_back() {
        for field in ["", "plain", "a,b", "say \"hi\"", "two\nlines", " spaced ", "\r"] {
            let mut out = Vec::new();
            PLAIN.write_field(field.as_bytes(), &mut out);
            out.extend_from_slice(b",end\n");
            assert_eq!(record(std::str::from_utf8(&out).unwrap()), [field, "end"]);
        }
    }
}
