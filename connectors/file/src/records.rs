//! A file's bytes, cut into records: lines of NDJSON, records of CSV, values of a JSON text.
//!
//! ```text
//! file -> gzip? -> two bytes a character? -> UTF-8 or one of its neighbours -> records
//! ```
//!
//! - A record that is not finished stays where it is, until its newline comes; or it is taken as it is, where the file is known to be finished.
//! - A record that is longer than the bound is skipped up to its newline, and its first bytes are shown.
//! - A quote of CSV that never closes costs its own line only: reading goes on with the next one.
//! - NULs in front of a record are room that nobody has written yet (a file made as large as it will be): no record, and nothing in memory.
//! - Memory is the bound plus one read, whatever the file.

use crate::csv::{Dialect, Fields, Split};
use crate::position::is_gzip;
use flate2::read::MultiGzDecoder;
use millrace_kit::Encoding;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

const READ_BYTES: usize = 256 * 1024;
/// What is shown of a record that is too long.
pub const SHOWN_BYTES: usize = 1024;

/// So many NULs in front of a record are no part of it.
const UNWRITTEN_BYTES: usize = 16;

/// How much of a file's head says how its lines end.
const HEAD_BYTES: usize = 64 * 1024;

/// How the bytes are cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cutting {
    Lines {
        newline: u8,
    },
    Csv(Dialect),
    /// The items of a list, or values one after the other, over any number of lines.
    Json,
}

impl Cutting {
    /// The same, for a file whose lines end so.
    fn ending(self, newline: u8) -> Self {
        match self {
            Self::Lines { .. } => Self::Lines { newline },
            Self::Csv(dialect) => Self::Csv(Dialect { newline, ..dialect }),
            Self::Json => Self::Json,
        }
    }
}

/// What a file's bytes are.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub is_gzip: bool,
    /// Two bytes a character: read as UTF-8, and offsets count that.
    pub wide: Option<Encoding>,
    /// What the records are in: the mark's, else the one that is declared; UTF-8 where two bytes a character were read as that.
    pub encoding: Encoding,
    pub newline: u8,
}

impl Shape {
    /// Looks at a file's head. A `\r` ends lines where there is no `\n`, and something follows it.
    pub fn of(file: &File, is_gzip: bool, encoding: Encoding) -> io::Result<Self> {
        let mut head = Vec::new();
        bytes(file.try_clone()?, is_gzip)?.take(HEAD_BYTES as u64).read_to_end(&mut head).or_else(|error| {
            // A compressed file that is not whole yet shows what it has.
            if error.kind() == io::ErrorKind::UnexpectedEof { Ok(0) } else { Err(error) }
        })?;
        let encoding = Encoding::marked(&head).map_or(encoding, |(encoding, _)| encoding);
        let wide = encoding.is_wide().then_some(encoding);
        let is_old = |byte: &[u8]| byte[0] == b'\r' && byte[1] != b'\n';
        let text = match wide {
            Some(wide) => wide.decode(&head[..head.len() & !1]).map_or_else(|_| Vec::new(), |text| text.into_owned().into_bytes()),
            None => head,
        };
        let newline = if !text.contains(&b'\n') && text.windows(2).any(is_old) { b'\r' } else { b'\n' };
        let encoding = if wide.is_some() { Encoding::default() } else { encoding };
        Ok(Self { is_gzip, wide, encoding, newline })
    }

    /// Offsets are not those of the file as it lies on disk.
    pub fn is_translated(&self) -> bool {
        self.is_gzip || self.wide.is_some()
    }
}

fn bytes(mut file: File, is_gzip: bool) -> io::Result<Box<dyn Read + Send>> {
    // An empty file is no gzip, and no damaged one either: it is empty.
    let is_gzip = is_gzip && file.metadata()?.len() > 0;
    file.seek(SeekFrom::Start(0))?;
    Ok(if is_gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Reads on from an offset in what the bytes say.
fn bytes_from(mut file: File, shape: Shape, offset: u64) -> io::Result<Box<dyn Read + Send>> {
    if !shape.is_translated() {
        file.seek(SeekFrom::Start(offset))?;
        return Ok(Box::new(file));
    }
    let mut read = bytes(file, shape.is_gzip)?;
    if let Some(wide) = shape.wide {
        read = Box::new(wide.reader(read));
    }
    if io::copy(&mut (&mut read).take(offset), &mut io::sink())? < offset {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than what was read of it before"));
    }
    Ok(read)
}

/// The first lines of a file as text, as many as `most` bytes hold; what is no text in its encoding is shown as such.
pub fn head(path: &Path, encoding: Encoding, most: usize) -> io::Result<String> {
    let file = File::open(path)?;
    let shape = Shape::of(&file, is_gzip(path), encoding)?;
    let mut records = Records::open(file, shape, Cutting::Lines { newline: b'\n' }, most, true, (0, 0))?;
    let mut text = String::new();
    while let Some(cut) = records.next_record()? {
        let (Cut::Record(line) | Cut::TooLong(line) | Cut::OpenQuote(line)) = cut;
        if text.len() + line.len() > most {
            break;
        }
        text.push_str(&shape.encoding.decode(line).unwrap_or_else(|_| String::from_utf8_lossy(line)));
        text.push('\n');
    }
    Ok(text)
}

/// How many rows there are in a file whose records are not understood: lines that are not blank.
pub fn rows_of(file: &File, is_gzip: bool, encoding: Encoding, max_record_bytes: usize) -> io::Result<u64> {
    let shape = Shape::of(file, is_gzip, encoding)?;
    let mut records = Records::open(file.try_clone()?, shape, Cutting::Lines { newline: b'\n' }, max_record_bytes, true, (0, 0))?;
    let mut rows = 0;
    while let Some(cut) = records.next_record()? {
        rows += u64::from(!matches!(cut, Cut::Record(line) if line.trim_ascii().is_empty()));
    }
    Ok(rows)
}

/// One file, read on from an offset.
pub struct Records {
    bytes: Box<dyn Read + Send>,
    cutting: Cutting,
    max_record_bytes: usize,
    /// Nothing will be appended: the end of the file ends its last record.
    is_whole: bool,
    buffer: Vec<u8>,
    /// Where in the buffer the next record starts.
    start: usize,
    at_end: bool,
    /// JSON: something was read, so that a `[` opens a record and not the list of records.
    has_begun: bool,
    /// The last record had no newline.
    pub is_unfinished: bool,
    /// Offset of the next record in the file, as it is read.
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
    /// Reads `file` on from `offset`. What is compressed or two bytes a character is read over from its start.
    pub fn open(
        file: File,
        shape: Shape,
        cutting: Cutting,
        max_record_bytes: usize,
        is_whole: bool,
        (offset, line): (u64, u64),
    ) -> io::Result<Self> {
        let bytes = bytes_from(file, shape, offset)?;
        Ok(Self {
            bytes,
            cutting: cutting.ending(shape.newline),
            max_record_bytes,
            is_whole,
            buffer: Vec::new(),
            start: 0,
            at_end: false,
            has_begun: offset > 3,
            is_unfinished: false,
            offset,
            line,
            fields: Fields::default(),
        })
    }

    /// The byte that ends a line.
    fn newline(&self) -> u8 {
        match self.cutting {
            Cutting::Lines { newline } | Cutting::Csv(Dialect { newline, .. }) => newline,
            Cutting::Json => b'\n',
        }
    }

    /// At its end, and something that is no whole record is left.
    pub fn has_rest(&self) -> bool {
        !self.buffer[self.start..].trim_ascii().is_empty()
    }

    /// The next record; `None` where the file ends, or its last record is not finished.
    ///
    /// After an error the offset is that of the record that could not be read.
    pub fn next_record(&mut self) -> io::Result<Option<Cut<'_>>> {
        if self.offset == 0 && self.start == 0 {
            self.skip_byte_order_mark()?;
        }
        if !self.pass_unwritten()? {
            return Ok(None);
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
        let newline = self.newline();
        self.is_unfinished = self.cutting != Cutting::Json && bytes.last() != Some(&newline);
        self.line += memchr::memchr_iter(newline, bytes).count() as u64 + u64::from(self.is_unfinished);
        self.start = end;
        let record = if self.cutting == Cutting::Json { bytes.trim_ascii() } else { trim_newline(bytes, newline) };
        Ok(Some(match found {
            Found::OpenQuote { .. } => Cut::OpenQuote(record),
            _ if record.len() > self.max_record_bytes => Cut::TooLong(&record[..record.len().min(SHOWN_BYTES)]),
            _ => Cut::Record(record),
        }))
    }

    /// Passes over what nobody has written yet. False: the file ends in it; one that is not whole is read from there once it is written.
    fn pass_unwritten(&mut self) -> io::Result<bool> {
        let mut passed = 0;
        loop {
            let is_text = self.buffer.get(self.start).is_some_and(|byte| *byte != 0);
            while !is_text && self.buffer.len() - self.start < UNWRITTEN_BYTES && !self.at_end {
                self.read_more()?;
            }
            let rest = &self.buffer[self.start..];
            let run = rest.iter().position(|byte| *byte != 0).unwrap_or(rest.len());
            let is_all = run == rest.len();
            if run == 0 && !is_all || run < UNWRITTEN_BYTES && !is_all && passed == 0 {
                self.offset += passed;
                return Ok(true);
            }
            passed += run as u64;
            self.start += run;
            if is_all && self.at_end {
                if self.is_whole {
                    self.offset += passed;
                }
                return Ok(passed == 0);
            }
        }
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
            let quoted = match &self.cutting {
                Cutting::Lines { newline } => {
                    if let Some(len) = memchr::memchr(*newline, &self.buffer[looked..]) {
                        return Ok(Found::Record { end: looked + len + 1 });
                    }
                    looked = self.buffer.len();
                    false
                }
                Cutting::Json => {
                    let skipped = between(rest, &mut self.has_begun);
                    self.offset += skipped as u64;
                    self.line += memchr::memchr_iter(b'\n', &rest[..skipped]).count() as u64;
                    self.start += skipped;
                    let rest = &self.buffer[self.start..];
                    if let Some(len) = value_end(rest, is_last) {
                        return Ok(Found::Record { end: self.start + len });
                    }
                    if self.at_end && rest.is_empty() {
                        return Ok(Found::End);
                    }
                    looked = self.start;
                    false
                }
                Cutting::Csv(dialect) => match dialect.split(rest, is_last, &mut self.fields) {
                    Split::Record(len) => return Ok(Found::Record { end: self.start + len }),
                    Split::More { quoted } => quoted,
                },
            };
            let is_too_long = rest.len() > self.max_record_bytes;
            let rest = &self.buffer[self.start..];
            if quoted && (is_too_long || is_last) {
                let line = memchr::memchr(self.newline(), rest).map_or(rest.len(), |len| len + 1);
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
        let byte = self.newline();
        let newline = memchr::memchr(byte, rest);
        let mut passed = newline.map_or(rest.len(), |len| len + 1);
        let after = self.start + passed;
        self.buffer.copy_within(self.start..self.start + shown, 0);
        self.buffer.drain(shown..after);
        // What a long record took is not kept for short ones.
        self.buffer.shrink_to(READ_BYTES);
        self.start = shown;
        if newline.is_some() {
            self.offset += passed as u64;
            self.line += 1;
            return Ok(Found::TooLong { shown });
        }
        let mut chunk = vec![0; READ_BYTES];
        loop {
            let read = read_some(&mut *self.bytes, &mut chunk)?;
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
            if let Some(len) = memchr::memchr(byte, &chunk[..read]) {
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
        // Growing by what is there already, up to the bound: a long record is looked at a few times, not once per read.
        let len = self.buffer.len();
        let more = READ_BYTES.max(len.min((self.max_record_bytes + READ_BYTES).saturating_sub(len)));
        self.buffer.reserve_exact(more);
        self.buffer.resize(len + more, 0);
        let read = read_some(&mut *self.bytes, &mut self.buffer[len..]);
        self.buffer.truncate(len + *read.as_ref().unwrap_or(&0));
        self.at_end = read? == 0;
        Ok(())
    }
}

fn read_some(bytes: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match bytes.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn trim_newline(record: &[u8], newline: u8) -> &[u8] {
    let record = record.strip_suffix(&[newline]).unwrap_or(record);
    record.strip_suffix(b"\r").unwrap_or(record)
}

/// How many bytes stand between two values of JSON: blanks, commas, and the brackets around the list of records.
fn between(bytes: &[u8], has_begun: &mut bool) -> usize {
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            0 | b' ' | b'\n' | b'\r' | b'\t' | b',' | b']' => {}
            b'[' if !*has_begun => *has_begun = true,
            _ => {
                *has_begun = true;
                return at;
            }
        }
    }
    bytes.len()
}

/// Where the value that begins here ends; `None`: further on. What is no JSON ends with its line.
fn value_end(bytes: &[u8], is_last: bool) -> Option<usize> {
    let (mut depth, mut in_text, mut at) = (0_u32, false, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_text => at += 1,
            b'"' => {
                in_text = !in_text;
                if !in_text && depth == 0 {
                    return Some(at + 1);
                }
            }
            _ if in_text => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 1 => depth -= 1,
            b'}' | b']' if depth == 1 => return Some(at + 1),
            b'\n' | b',' | b']' | b'}' if depth == 0 && at > 0 => return Some(at),
            b'}' if depth == 0 => return Some(at + 1),
            _ => {}
        }
        at += 1;
    }
    (is_last && !bytes.is_empty()).then_some(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const CSV: Cutting = Cutting::Csv(Dialect { delimiter: b',', quote: b'"', newline: b'\n', merge: false });
    const LINES: Cutting = Cutting::Lines { newline: b'\n' };

    fn read(content: &[u8], gzip: bool, cutting: Cutting, bound: usize, whole: bool) -> (Vec<String>, u64, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let shape = Shape::of(&file, gzip, Encoding::default()).unwrap();
        let mut records = Records::open(file, shape, cutting, bound, whole, (0, 0)).unwrap();
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
        assert_eq!(read(b"a\r\nb\nhalf", false, LINES, 100, false), (texts(&["a", "b"]), 5, 2));
        assert_eq!(read(b"a\r\nb\nhalf", false, LINES, 100, true), (texts(&["a", "b", "half"]), 9, 3));
        assert_eq!(read(b"", false, LINES, 100, true), (vec![], 0, 0));
    }

    #[test]
    fn room_that_nobody_has_written_yet_is_no_record_and_takes_no_memory() {
        let room = "\0".repeat(3 * READ_BYTES);
        assert_eq!(read(format!("a\nb\n{room}").as_bytes(), false, LINES, 1 << 24, false), (texts(&["a", "b"]), 4, 2));
        assert_eq!(read(format!("a\nb\n{room}").as_bytes(), false, LINES, 1 << 24, true), (texts(&["a", "b"]), 4 + room.len() as u64, 2));
        assert_eq!(read(format!("a\n{room}b\n").as_bytes(), false, LINES, 1 << 24, false).0, texts(&["a", "b"]));
        assert_eq!(read(b"a\n\0\0b\n", false, LINES, 100, false).0, texts(&["a", "\0\0b"]), "a fault to be told, not room");
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        let shape = Shape::of(&file, false, Encoding::default()).unwrap();
        let mut records = Records::open(file, shape, LINES, 1 << 24, true, (0, 0)).unwrap();
        assert_eq!(records.next_record().unwrap(), None);
        assert!(records.buffer.capacity() <= 4 * READ_BYTES, "{}", records.buffer.capacity());
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        assert_eq!(read(b"\xEF\xBB\xBFa\n", false, LINES, 100, false), (texts(&["a"]), 5, 1));
    }

    #[test]
    fn a_line_beyond_the_bound_is_shown_and_skipped() {
        let long = "x".repeat(3_000_000);
        let content = format!("a\n{long}\nb\n{long}");
        let shown = format!("too long: {}", &long[..SHOWN_BYTES]);
        assert_eq!(read(content.as_bytes(), false, LINES, 100_000, false), (texts(&["a", &shown, "b"]), 3_000_005, 3));
        assert_eq!(read(content.as_bytes(), false, LINES, 100_000, true).0, texts(&["a", &shown, "b", &shown]));
        assert_eq!(read(content.as_bytes(), false, LINES, 5_000_000, true).0, texts(&["a", &long, "b", &long]));
    }

    #[test]
    fn lines_longer_than_one_read_come_whole() {
        let lines: Vec<_> = (1..6).map(|i| i.to_string().repeat(READ_BYTES / 2 * i + i)).collect();
        assert_eq!(read((lines.join("\n") + "\n").as_bytes(), false, LINES, 1 << 24, false).0, lines);
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
        assert_eq!(read(&content, true, LINES, 100, true), (texts(&["a", "bc", "d"]), 7, 3));
    }

    #[test]
    fn lines_that_end_in_a_carriage_return_alone_are_lines() {
        assert_eq!(read(b"a\rb\rhalf", false, LINES, 100, false).0, texts(&["a", "b"]));
        assert_eq!(read(b"a,1\rb,2\r", false, CSV, 100, true), (texts(&["a,1", "b,2"]), 8, 2));
        assert_eq!(read(b"a\r\nb\r\n", false, LINES, 100, true).0, texts(&["a", "b"]));
    }

    #[test]
    fn text_of_two_bytes_a_character_is_read_by_its_mark() {
        let wide: Vec<u8> = "\u{FEFF}a,\u{e4}\r\nb,2\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(&wide, false, CSV, 100, true).0, texts(&["a,\u{e4}", "b,2"]));
    }

    #[test]
    fn values_of_json_are_cut_out_of_a_list_or_one_after_the_other() {
        let list = b" [ {\"a\": 1,\n \"b\": \"]}\\\"\"}, {\"a\":[2]} ,3 ]\n";
        assert_eq!(read(list, false, Cutting::Json, 100, true).0, texts(&["{\"a\": 1,\n \"b\": \"]}\\\"\"}", "{\"a\":[2]}", "3"]));
        assert_eq!(read(b"{\"a\":1}\n{\"a\":\n2}{\"a\":3", false, Cutting::Json, 100, false).0, texts(&["{\"a\":1}", "{\"a\":\n2}"]));
        assert_eq!(read(b"{\"a\":1}\noops\n[2]", false, Cutting::Json, 100, true).0, texts(&["{\"a\":1}", "oops", "[2]"]));
        assert_eq!(read(b"{\"a\":", false, Cutting::Json, 100, true).0, texts(&["{\"a\":"]));
    }

    #[test]
    fn reading_goes_on_at_an_offset() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a\nb\nc\n").unwrap();
        let shape = Shape::of(&file, false, Encoding::default()).unwrap();
        let mut records = Records::open(file, shape, LINES, 100, false, (2, 1)).unwrap();
        assert_eq!(records.next_record().unwrap(), Some(Cut::Record(b"b")));
        assert_eq!((records.offset, records.line), (4, 2));
    }
}
