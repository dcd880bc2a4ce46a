//! The rows of an XLSX workbook: a ZIP archive with XML in it, as much of both as spreadsheets and TIA Portal write.
//!
//! ```text
//! ..local files.. central directory: 504B0102 .. method:16 @10 size:32 @20 full:32 @24 name:16 @28 extra:16 comment:16 .. offset:32 @42 name
//! end of it:  504B0506 .. entries:16 @10 .. offset:32 @16
//! ```
//!
//! Invariants: what a file claims of its sizes is bounded before anything is inflated, and so is what its cells come to: a text that is shared by a
//! million of them counts a million times.

use crate::Unreadable;
use flate2::read::DeflateDecoder;
use quick_xml::Reader;
use quick_xml::events::Event;
use std::collections::HashMap;
use std::io::Read;

/// A sheet: its name, and its rows with their numbers.
pub struct Sheet {
    pub name: String,
    pub rows: Vec<(usize, Vec<String>)>,
}

/// Bytes of a file of the archive, inflated, at most.
const INFLATED_MOST: u64 = 512 << 20;
const COLUMNS_MOST: usize = 1024;
/// Bytes of all cells, at most.
const CELL_BYTES_MOST: usize = 256 << 20;

/// Reads every sheet. Errors: it is no workbook, or damaged.
pub fn read(bytes: &[u8]) -> Result<Vec<Sheet>, Unreadable> {
    let files = directory(bytes).ok_or(Unreadable::NoWorkbook)?;
    let file = |name: &str| -> Result<Option<String>, Unreadable> {
        let Some(entry) = files.get(name) else { return Ok(None) };
        let content = inflate(bytes, entry).ok_or_else(|| Unreadable::Damaged(format!("{name} can't be unpacked")))?;
        Ok(Some(String::from_utf8_lossy(&content).into_owned()))
    };
    let shared = file("xl/sharedStrings.xml")?.map(|xml| texts(&xml)).transpose()?.unwrap_or_default();
    let workbook = file("xl/workbook.xml")?.ok_or(Unreadable::NoSheets)?;
    let targets =
        file("xl/_rels/workbook.xml.rels")?.map(|xml| attributes(&xml, b"Relationship", "Id", "Target")).transpose()?.unwrap_or_default();
    let mut sheets = Vec::new();
    let mut left = CELL_BYTES_MOST;
    for (name, id) in attributes(&workbook, b"sheet", "name", "r:id")? {
        let target = targets.iter().find(|(known, _)| *known == id).map(|(_, target)| target.as_str());
        let Some(target) = target else { continue };
        let path = match target.strip_prefix('/') {
            Some(absolute) => absolute.to_owned(),
            None => format!("xl/{target}"),
        };
        if let Some(xml) = file(&path)? {
            sheets.push(Sheet { name, rows: rows(&xml, &shared, &mut left)? });
        }
    }
    if sheets.is_empty() { Err(Unreadable::Empty) } else { Ok(sheets) }
}

struct Entry {
    offset: usize,
    size: usize,
    is_deflated: bool,
}

fn two(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

fn four(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
}

fn directory(bytes: &[u8]) -> Option<HashMap<String, Entry>> {
    // Behind it there may be a comment of 64 KiB.
    let from = bytes.len().saturating_sub(22 + 0x1_0000);
    let end = from + bytes[from..].windows(4).rposition(|window| window == b"PK\x05\x06")?;
    let (count, mut at) = (two(bytes, end + 10)?, four(bytes, end + 16)?);
    let mut files = HashMap::new();
    for _ in 0..count {
        if bytes.get(at..at + 4)? != b"PK\x01\x02" {
            return None;
        }
        let (name, extra, comment) = (two(bytes, at + 28)?, two(bytes, at + 30)?, two(bytes, at + 32)?);
        let entry = Entry { offset: four(bytes, at + 42)?, size: four(bytes, at + 20)?, is_deflated: two(bytes, at + 10)? == 8 };
        files.insert(String::from_utf8_lossy(bytes.get(at + 46..at + 46 + name)?).into_owned(), entry);
        at += 46 + name + extra + comment;
    }
    Some(files)
}

fn inflate(bytes: &[u8], entry: &Entry) -> Option<Vec<u8>> {
    let at = entry.offset;
    if bytes.get(at..at + 4)? != b"PK\x03\x04" {
        return None;
    }
    let start = at + 30 + two(bytes, at + 26)? + two(bytes, at + 28)?;
    let data = bytes.get(start..start.checked_add(entry.size)?)?;
    if !entry.is_deflated {
        return Some(data.to_vec());
    }
    let mut out = Vec::new();
    let mut inflated = DeflateDecoder::new(data).take(INFLATED_MOST + 1);
    inflated.read_to_end(&mut out).ok()?;
    (out.len() as u64 <= INFLATED_MOST).then_some(out)
}

fn damaged(error: impl std::fmt::Display) -> Unreadable {
    Unreadable::Damaged(error.to_string())
}

/// Two attributes of every element of a name, in order.
fn attributes(xml: &str, element: &[u8], first: &str, second: &str) -> Result<Vec<(String, String)>, Unreadable> {
    let mut reader = Reader::from_str(xml);
    let mut found = Vec::new();
    loop {
        match reader.read_event().map_err(damaged)? {
            Event::Start(start) | Event::Empty(start) if start.local_name().as_ref() == element => {
                found.push((attribute(&start, first), attribute(&start, second)));
            }
            Event::Eof => return Ok(found),
            _ => {}
        }
    }
}

/// An attribute's text; empty where there is none.
pub fn attribute(start: &quick_xml::events::BytesStart<'_>, name: &str) -> String {
    let value = start.try_get_attribute(name).ok().flatten();
    value.and_then(|value| value.unescape_value().ok().map(|text| text.into_owned())).unwrap_or_default()
}

/// What a reference such as `&amp;` stands for.
pub fn referenced(reference: &quick_xml::events::BytesRef<'_>) -> String {
    if let Ok(Some(character)) = reference.resolve_char_ref() {
        return character.to_string();
    }
    match reference.decode().as_deref() {
        Ok("amp") => "&",
        Ok("lt") => "<",
        Ok("gt") => ">",
        Ok("quot") => "\"",
        Ok("apos") => "'",
        _ => "",
    }
    .into()
}

/// The shared texts: of each `si` all its `t`.
fn texts(xml: &str) -> Result<Vec<String>, Unreadable> {
    let mut reader = Reader::from_str(xml);
    let (mut found, mut text, mut is_text) = (Vec::new(), String::new(), false);
    loop {
        match reader.read_event().map_err(damaged)? {
            Event::Start(start) => is_text = start.local_name().as_ref() == b"t",
            Event::Text(part) if is_text => text += &part.decode().map_err(damaged)?,
            Event::GeneralRef(reference) if is_text => text += &referenced(&reference),
            Event::End(end) => {
                is_text = false;
                if end.local_name().as_ref() == b"si" {
                    found.push(std::mem::take(&mut text));
                }
            }
            Event::Empty(empty) if empty.local_name().as_ref() == b"si" => found.push(String::new()),
            Event::Eof => return Ok(found),
            _ => {}
        }
    }
}

/// `left`: how many bytes of cells there may still be.
fn rows(xml: &str, shared: &[String], left: &mut usize) -> Result<Vec<(usize, Vec<String>)>, Unreadable> {
    let mut reader = Reader::from_str(xml);
    let mut rows: Vec<(usize, Vec<String>)> = Vec::new();
    let (mut number, mut cells) = (0, Vec::new());
    let (mut column, mut kind, mut text, mut is_value) = (0, String::new(), String::new(), false);
    loop {
        match reader.read_event().map_err(damaged)? {
            Event::Start(start) => match start.local_name().as_ref() {
                b"row" => number = attribute(&start, "r").parse().unwrap_or(number + 1),
                b"c" => {
                    column = column_of(&attribute(&start, "r")).unwrap_or(cells.len());
                    kind = attribute(&start, "t");
                    text.clear();
                }
                b"v" | b"t" => is_value = true,
                _ => {}
            },
            Event::Text(part) if is_value => text += &part.decode().map_err(damaged)?,
            Event::GeneralRef(reference) if is_value => text += &referenced(&reference),
            Event::End(end) => match end.local_name().as_ref() {
                b"v" | b"t" => is_value = false,
                b"c" if column < COLUMNS_MOST => {
                    let value = match kind.as_str() {
                        "s" => text.parse::<usize>().ok().and_then(|index| shared.get(index)).map_or("", String::as_str),
                        "b" if text == "1" => "True",
                        "b" => "False",
                        _ => &text,
                    };
                    let more = (column + 1).saturating_sub(cells.len()) * size_of::<String>() + value.len();
                    *left = left.checked_sub(more).ok_or(Unreadable::TooLarge(CELL_BYTES_MOST >> 20))?;
                    if cells.len() <= column {
                        cells.resize(column + 1, String::new());
                    }
                    cells[column] = value.to_owned();
                }
                b"row" => {
                    let row = std::mem::take(&mut cells);
                    if row.iter().any(|cell| !cell.trim().is_empty()) {
                        rows.push((number, row));
                    }
                }
                _ => {}
            },
            Event::Eof => return Ok(rows),
            _ => {}
        }
    }
}

/// `C7` is column 2.
fn column_of(reference: &str) -> Option<usize> {
    let letters = reference.bytes().take_while(u8::is_ascii_uppercase);
    let number = letters.take(4).fold(0, |number, letter| number * 26 + usize::from(letter - b'A') + 1);
    number.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by openpyxl 3.1.5: shared texts, a second sheet, a gap in a row, an umlaut and an ampersand.
    #[test]
    fn a_workbook_of_another_program_is_read() {
        let sheets = read(include_bytes!("fixtures/tags.xlsx")).unwrap();
        assert_eq!(sheets.iter().map(|sheet| sheet.name.as_str()).collect::<Vec<_>>(), ["PLC Tags", "TagTable Properties"]);
        let rows = &sheets[0].rows;
        assert_eq!(rows[0].1[..5], ["Name", "Path", "Data Type", "Logical Address", "Comment"]);
        assert_eq!((rows[1].0, rows[1].1[0].as_str(), rows[1].1[4].as_str()), (2, "Pump_on", "Öl & Wasser"));
        assert_eq!((rows[2].0, rows[2].1[4].as_str(), rows[2].1[5].as_str()), (4, "", "True"));
        let whole = include_bytes!("fixtures/tags.xlsx");
        for end in (0..whole.len()).step_by(97) {
            let _ = read(&whole[..end]);
            let mut damaged = whole.to_vec();
            damaged[end] ^= 0x55;
            let _ = read(&damaged);
        }
    }

    #[test]
    fn what_the_cells_of_a_workbook_come_to_is_bounded() {
        let shared = ["x".repeat(1000)];
        let cells = |count: usize| format!("<sheetData><row r=\"1\">{}</row></sheetData>", "<c t=\"s\"><v>0</v></c>".repeat(count));
        let mut left = 100_000;
        assert_eq!(rows(&cells(90), &shared, &mut left).unwrap()[0].1.len(), 90);
        assert_eq!(rows(&cells(10), &shared, &mut left).err(), Some(Unreadable::TooLarge(CELL_BYTES_MOST >> 20)));
    }

    #[test]
    fn what_is_no_workbook_is_refused_in_words() {
        for bytes in [&b""[..], b"PK", b"PK\x03\x04 and then nothing", &[b'P'; 100]] {
            assert_eq!(read(bytes).err(), Some(Unreadable::NoWorkbook));
        }
        assert_eq!((column_of("A1"), column_of("Z9"), column_of("AB3"), column_of("7")), (Some(0), Some(25), Some(27), None));
    }
}
