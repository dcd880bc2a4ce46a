//! A file's bytes, cut into records: lines of NDJSON, records of CSV.
//!
//! - A record that is not finished stays where it is, until its newline comes; or it is taken as it is, where the file is known to be finished.
//! - A record that is longer than the bound is skipped up to its newline, and its first bytes are shown.
//! - A quote of CSV that never closes costs its own line only: reading goes on with the next one.
//! - Memory is the bound plus one read, whatever the file.

use crate::csv::{Dialect, Fields, Split};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

const READ_BYTES: usize = 256 * 1024;
/// What is shown of a record that is too long.
pub const SHOWN_BYTES: usize = 1024;

enum Bytes {
    Plain(File),
    Gzip(Box<MultiGzDecoder<File>>),
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
        }
    }
}

/// One file, read on from an offset.
pub struct Records {
    bytes: Bytes,
    dialect: Option<Dialect>,
    max_record_bytes: usize,
    /// Nothing will be appended: the end of the file ends its last record.
    is_whole: bool,
    buffer: Vec<u8>,
    /// Where in the buffer the next record starts.
    start: usize,
    at_end: bool,
    /// Offset of the next record in the (decompressed) file.
    pub offset: u64,
    /// The number of the next record's first line, from 0.
    pub line: u64,
    pub fields: Fields,
}

/// One record.
#[derive(Debug, PartialEq)]
pub enum Cut<'a> {
    /// Without its newline. Of CSV, [`Records::fields`] holds the fields.
    Record(&'a [u8]),
    /// Longer than the bound: its first bytes.
    TooLong(&'a [u8]),
    /// CSV: the line opens a quote that never closes.
    OpenQuote(&'a [u8]),
}

/// Ranges of the buffer, so that the borrow of the buffer ends before it is shown.
enum Found {
    Record { end: usize },
    TooLong { shown: usize },
    OpenQuote { end: usize },
    End,
}

impl Records {
    /// Reads `file` on from `offset`. A compressed file is decompressed from its start.
    pub fn open(
        mut file: File,
        is_gzip: bool,
        dialect: Option<Dialect>,
        max_record_bytes: usize,
        is_whole: bool,
        (offset, line): (u64, u64),
    ) -> io::Result<Self> {
        // An empty file is no gzip, and no damaged one either: it is empty.
        let bytes = if is_gzip && file.metadata()?.len() > 0 {
            file.seek(SeekFrom::Start(0))?;
            let mut decoder = MultiGzDecoder::new(file);
            let skipped = io::copy(&mut (&mut decoder).take(offset), &mut io::sink())?;
            if skipped < offset {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than what was read of it before"));
            }
            Bytes::Gzip(Box::new(decoder))
        } else {
            file.seek(SeekFrom::Start(offset))?;
            Bytes::Plain(file)
        };
        let fields = Fields::default();
        Ok(Self { bytes, dialect, max_record_bytes, is_whole, buffer: Vec::new(), start: 0, at_end: false, offset, line, fields })
    }

    /// The next record; `None` where the file ends, or its last record is not finished.
    ///
    /// After an error the offset is that of the record that could not be read.
    pub fn next_record(&mut self) -> io::Result<Option<Cut<'_>>> {
        if self.offset == 0 && self.start == 0 {
            self.skip_byte_order_mark()?;
        }
        let found = self.find()?;
        let start = self.start;
        let end = match found {
            Found::End => return Ok(None),
            Found::Record { end } | Found::OpenQuote { end } => end,
            // The rest of its line is skipped already; what is shown lies at the buffer's start.
            Found::TooLong { shown } => return Ok(Some(Cut::TooLong(&self.buffer[..shown]))),
        };
        let bytes = &self.buffer[start..end];
        self.offset += bytes.len() as u64;
        self.line += memchr::memchr_iter(b'\n', bytes).count() as u64 + u64::from(!bytes.ends_with(b"\n"));
        self.start = end;
        let record = trim_newline(bytes);
        Ok(Some(match found {
            Found::OpenQuote { .. } => Cut::OpenQuote(record),
            _ if record.len() > self.max_record_bytes => Cut::TooLong(&record[..record.len().min(SHOWN_BYTES)]),
            _ => Cut::Record(record),
        }))
    }

    fn find(&mut self) -> io::Result<Found> {
        // Where in the buffer to look for the newline: what was looked at is not looked at again.
        let mut looked = self.start;
        loop {
            let rest = &self.buffer[self.start..];
            let is_last = self.at_end && self.is_whole;
            if self.at_end && rest.is_empty() {
                return Ok(Found::End);
            }
            let quoted = match &self.dialect {
                None => {
                    if let Some(len) = memchr::memchr(b'\n', &self.buffer[looked..]) {
                        return Ok(Found::Record { end: looked + len + 1 });
                    }
                    looked = self.buffer.len();
                    false
                }
                Some(dialect) => match dialect.split(rest, is_last, &mut self.fields) {
                    Split::Record(len) => return Ok(Found::Record { end: self.start + len }),
                    Split::More { quoted } => quoted,
                },
            };
            let is_too_long = rest.len() > self.max_record_bytes;
            if quoted && (is_too_long || is_last) {
                let line = memchr::memchr(b'\n', rest).map_or(rest.len(), |len| len + 1);
                if line <= self.max_record_bytes {
                    return Ok(Found::OpenQuote { end: self.start + line });
                }
            }
            if is_too_long {
                return self.skip_line();
            }
            if self.at_end {
                return Ok(if is_last { Found::Record { end: self.buffer.len() } } else { Found::End });
            }
            let before = self.start;
            self.read_more()?;
            looked -= before - self.start;
        }
    }

    /// Reads on to the newline without keeping what is read; the record is passed only if the newline is there (or the file is whole).
    fn skip_line(&mut self) -> io::Result<Found> {
        let rest = &self.buffer[self.start..];
        let shown = SHOWN_BYTES.min(rest.len());
        let newline = memchr::memchr(b'\n', rest);
        let mut passed = newline.map_or(rest.len(), |len| len + 1);
        let after = self.start + passed;
        self.buffer.copy_within(self.start..self.start + shown, 0);
        self.buffer.drain(shown..after);
        self.start = shown;
        if newline.is_some() {
            self.offset += passed as u64;
            self.line += 1;
            return Ok(Found::TooLong { shown });
        }
        let mut chunk = vec![0; READ_BYTES];
        loop {
            let read = read_some(&mut self.bytes, &mut chunk)?;
            if read == 0 {
                self.at_end = true;
                if !self.is_whole {
                    // Left where it is: it may go on. The buffer no longer holds it, so this reader is at its end.
                    self.buffer.clear();
                    self.start = 0;
                    return Ok(Found::End);
                }
                break;
            }
            if let Some(len) = memchr::memchr(b'\n', &chunk[..read]) {
                passed += len + 1;
                self.buffer.extend_from_slice(&chunk[len + 1..read]);
                break;
            }
            passed += read;
        }
        self.offset += passed as u64;
        self.line += 1;
        Ok(Found::TooLong { shown })
    }

    fn skip_byte_order_mark(&mut self) -> io::Result<()> {
        while self.buffer.len() < 3 && !self.at_end {
            self.read_more()?;
        }
        if self.buffer.starts_with(b"\xEF\xBB\xBF") {
            self.start = 3;
            self.offset = 3;
        }
        Ok(())
    }

    /// Appends one read to the buffer; what was taken makes room.
    fn read_more(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        // Growing by what is there already: a long record is looked at a few times, not once per read.
        let len = self.buffer.len();
        self.buffer.resize(len + READ_BYTES.max(len.min(self.max_record_bytes)), 0);
        let read = read_some(&mut self.bytes, &mut self.buffer[len..]);
        self.buffer.truncate(len + *read.as_ref().unwrap_or(&0));
        self.at_end = read? == 0;
        Ok(())
    }
}

fn read_some(bytes: &mut Bytes, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match bytes.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn trim_newline(record: &[u8]) -> &[u8] {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    record.strip_suffix(b"\r").unwrap_or(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const CSV: Option<Dialect> = Some(Dialect { delimiter: b',', quote: b'"' });

    fn read(content: &[u8], gzip: bool, dialect: Option<Dialect>, bound: usize, whole: bool) -> (Vec<String>, u64, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let mut records = Records::open(file, gzip, dialect, bound, whole, (0, 0)).unwrap();
        let mut found = Vec::new();
        while let Some(cut) = records.next_record().unwrap() {
            let (kind, bytes) = match cut {
                Cut::Record(bytes) => ("", bytes),
                Cut::TooLong(bytes) => ("too long: ", bytes),
                Cut::OpenQuote(bytes) => ("open: ", bytes),
            };
            found.push(format!("{kind}{}", String::from_utf8_lossy(bytes)));
        }
        (found, records.offset, records.line)
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unfinished_line_waits_unless_the_file_is_whole() {
        assert_eq!(read(b"a\r\nb\nhalf", false, None, 100, false), (texts(&["a", "b"]), 5, 2));
        assert_eq!(read(b"a\r\nb\nhalf", false, None, 100, true), (texts(&["a", "b", "half"]), 9, 3));
        assert_eq!(read(b"", false, None, 100, true), (vec![], 0, 0));
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        assert_eq!(read(b"\xEF\xBB\xBFa\n", false, None, 100, false), (texts(&["a"]), 5, 1));
    }

    #[test]
    fn a_line_beyond_the_bound_is_shown_and_skipped() {
        let long = "x".repeat(3_000_000);
        let content = format!("a\n{long}\nb\n{long}");
        let shown = format!("too long: {}", &long[..SHOWN_BYTES]);
        assert_eq!(read(content.as_bytes(), false, None, 100_000, false), (texts(&["a", &shown, "b"]), 3_000_005, 3));
        assert_eq!(read(content.as_bytes(), false, None, 100_000, true).0, texts(&["a", &shown, "b", &shown]));
        assert_eq!(read(content.as_bytes(), false, None, 5_000_000, true).0, texts(&["a", &long, "b", &long]));
    }

    #[test]
    fn lines_longer_than_one_read_come_whole() {
        let lines: Vec<_> = (1..6).map(|i| i.to_string().repeat(READ_BYTES / 2 * i + i)).collect();
        assert_eq!(read((lines.join("\n") + "\n").as_bytes(), false, None, 1 << 24, false).0, lines);
    }

    #[test]
    fn a_csv_record_may_span_lines() {
        assert_eq!(read(b"a,\"1\n2\"\nb,3\n", false, CSV, 100, false), (texts(&["a,\"1\n2\"", "b,3"]), 12, 3));
    }

    #[test]
    fn an_open_quote_costs_its_own_line() {
        let content = b"a,\"oops\nb,2\nc,3\n";
        assert_eq!(read(content, false, CSV, 100, true), (texts(&["open: a,\"oops", "b,2", "c,3"]), 16, 3));
        assert_eq!(read(content, false, CSV, 100, false), (vec![], 0, 0));
        let more = [&content[..], "d,4\n".repeat(500_000).as_bytes()].concat();
        assert_eq!(read(&more, false, CSV, 100_000, false).0.len(), 500_003);
    }

    #[test]
    fn gzip_is_read_through_all_its_members() {
        let member = |text: &str| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let content = [member("a\nb"), member("c\nd\n")].concat();
        assert_eq!(read(&content, true, None, 100, true), (texts(&["a", "bc", "d"]), 7, 3));
    }

    #[test]
    fn reading_goes_on_at_an_offset() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a\nb\nc\n").unwrap();
        let mut records = Records::open(file, false, None, 100, false, (2, 1)).unwrap();
        assert_eq!(records.next_record().unwrap(), Some(Cut::Record(b"b")));
        assert_eq!((records.offset, records.line), (4, 2));
    }
}
