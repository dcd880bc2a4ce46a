//! Text files as other tools write them: in any encoding, with any separator.

use crate::Unreadable;
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// Decodes a file: as said, else by its byte order mark, as UTF-16 without one, as UTF-8, and what is none of it as windows-1252.
pub fn decode(bytes: &[u8], encoding: Option<&str>) -> Result<String, Unreadable> {
    let encoding = match encoding {
        Some(label) => Encoding::for_label(label.as_bytes()).ok_or_else(|| Unreadable::Encoding(label.into()))?,
        None => match Encoding::for_bom(bytes) {
            Some((encoding, _)) => encoding,
            None => guessed(bytes),
        },
    };
    let (text, _, _) = encoding.decode(bytes);
    Ok(text.into_owned())
}

fn guessed(bytes: &[u8]) -> &'static Encoding {
    let sample = &bytes[..bytes.len().min(4096)];
    let zeros = |parity: usize| sample.iter().skip(parity).step_by(2).filter(|byte| **byte == 0).count();
    let half = sample.len() / 2;
    if half > 4 && zeros(1) * 2 > half {
        UTF_16LE
    } else if half > 4 && zeros(0) * 2 > half {
        UTF_16BE
    } else if std::str::from_utf8(bytes).is_ok() {
        UTF_8
    } else {
        WINDOWS_1252
    }
}

/// The cells of each line, with its number; quotes as RFC 4180 has them. Empty lines are left out.
pub fn rows(text: &str, separator: char) -> Vec<(usize, Vec<String>)> {
    let mut rows = Vec::new();
    let (mut line, mut began) = (1, 1);
    let (mut cells, mut cell, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut characters = text.chars().peekable();
    let mut end = |cells: &mut Vec<String>, cell: &mut String, began: usize| {
        cells.push(std::mem::take(cell));
        let row = std::mem::take(cells);
        if row.iter().any(|cell| !cell.trim().is_empty()) {
            rows.push((began, row));
        }
    };
    while let Some(character) = characters.next() {
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' if is_quoted => is_quoted = false,
            '"' if cell.trim().is_empty() => {
                cell.clear();
                is_quoted = true;
            }
            '\n' => {
                line += 1;
                if is_quoted {
                    cell.push(' ');
                } else {
                    end(&mut cells, &mut cell, began);
                    began = line;
                }
            }
            '\r' => {}
            other if other == separator && !is_quoted => cells.push(std::mem::take(&mut cell)),
            other => cell.push(other),
        }
    }
    end(&mut cells, &mut cell, began);
    rows
}

/// What separates the cells of a line, by how often each occurs in it outside of quotes.
pub fn separator(line: &str) -> char {
    let count = |wanted: char| {
        let mut is_quoted = false;
        line.chars()
            .filter(|character| {
                is_quoted ^= *character == '"';
                !is_quoted && *character == wanted
            })
            .count()
    };
    [',', ';', '\t'].into_iter().max_by_key(|separator| (count(*separator), *separator == ',')).unwrap_or(',')
}

/// Finds columns by their names, in any order and language.
pub struct Header(Vec<String>);

impl Header {
    pub fn new(cells: &[String]) -> Self {
        Self(cells.iter().map(|cell| cell.trim().to_lowercase()).collect())
    }

    /// The columns of one of these names; a name that ends with `*` is a beginning.
    pub fn find(&self, names: &[&str]) -> Vec<usize> {
        let is_named = |cell: &str| {
            names.iter().any(|name| match name.strip_suffix('*') {
                Some(beginning) => cell.starts_with(beginning),
                None => cell == *name,
            })
        };
        self.0.iter().enumerate().filter(|(_, cell)| is_named(cell)).map(|(index, _)| index).collect()
    }
}

/// The first of these cells that has something in it.
pub fn first<'a>(row: &'a [String], columns: &[usize]) -> &'a str {
    columns.iter().filter_map(|column| row.get(*column)).map(|cell| cell.trim()).find(|cell| !cell.is_empty()).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_that_is_met_is_read() {
        let text = "Öl;°C\r\n";
        let utf16le: Vec<u8> = "Tank;Temp;Level".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let bom: Vec<u8> = [0xFE, 0xFF].into_iter().chain(text.encode_utf16().flat_map(u16::to_be_bytes)).collect();
        assert_eq!(decode(text.as_bytes(), None).unwrap(), text);
        assert_eq!(decode(&[b"\xEF\xBB\xBF", text.as_bytes()].concat(), None).unwrap(), text);
        assert_eq!(decode(b"\xD6l;\xB0C\r\n", None).unwrap(), text);
        assert_eq!(decode(&utf16le, None).unwrap(), "Tank;Temp;Level");
        assert_eq!(decode(&bom, None).unwrap(), text);
        assert_eq!(decode(b"\xB3", Some("windows-1250")).unwrap(), "ł");
        assert_eq!(decode(b"", Some("ebcdic")), Err(Unreadable::Encoding("ebcdic".into())));
    }

    #[test]
    fn rows_keep_their_lines_through_quotes_and_empty_lines() {
        let rows = rows("a,\"b \"\"x\"\", c\"\n\n\"two\nlines\",d\r\ne,f", ',');
        let row = |line: usize, cells: [&str; 2]| (line, cells.map(str::to_owned).to_vec());
        assert_eq!(rows, [row(1, ["a", "b \"x\", c"]), row(3, ["two lines", "d"]), row(5, ["e", "f"])]);
        assert_eq!((separator("\"a;b\",c"), separator("a;b;c,d"), separator("a\tb")), (',', ';', '\t'));
    }
}
