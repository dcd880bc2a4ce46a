//! CSV tables (`sources_from`, `devices_from`, `tags_from`), read with the line and column of every cell.
//!
//! RFC 4180, with what spreadsheets make of it: `;` or a tab for the comma, a byte order mark, spaces around cells. Lines that begin with `#`, and
//! empty ones, are left out. The first row names the columns. A cell is a YAML scalar; `[0, 850]` and `{0: ready}` are a list and a mapping.

use crate::tree::node::{Node, Text};
use crate::tree::place::{FileId, Place, Step};
use crate::tree::problem::Problems;
use crate::tree::yaml;
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) const MAX_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub(crate) struct Table {
    /// The top of the file: where paths into it begin.
    pub root: Place,
    pub rows: Vec<Row>,
}

#[derive(Debug)]
pub(crate) struct Row {
    /// What the row is called: its cell in the column of names.
    pub name: Arc<str>,
    pub place: Place,
    /// The other cells that are not empty, by column.
    pub cells: Vec<(Arc<str>, Node)>,
}

/// Reads a table whose rows are named by a column `name`. `None` if nothing of it can be used.
pub(crate) fn read(name: &str, bytes: &[u8], problems: &mut Problems) -> Option<Table> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        let file = problems.places.add_file(name, "".into());
        let place = problems.places.mark(file, Place::NONE, Step::Root, (0, 0));
        problems.error(place, "the table is not UTF-8 text").help("save it as CSV UTF-8");
        return None;
    };
    let text: Arc<str> = text.strip_prefix('\u{FEFF}').unwrap_or(text).into();
    let file = problems.places.add_file(name, text.clone());
    let root = problems.places.mark(file, Place::NONE, Step::Root, (1, 1));
    Reader { text: &text, file, root, problems }.read()
}

struct Cell {
    text: String,
    at: (u32, u32),
}

struct Reader<'a> {
    text: &'a str,
    file: FileId,
    root: Place,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn read(mut self) -> Option<Table> {
        let header = self.text.lines().find(|line| !is_left_out(line)).unwrap_or("");
        let separator = [';', '\t'].into_iter().find(|separator| header.contains(*separator) && !header.contains(',')).unwrap_or(',');
        let mut records = Records { rest: self.text, at: (1, 1), separator };
        let Some(header) = records.next_record() else {
            self.problems.error(self.root, "the table is empty").help("its first row names the columns: `name,use,at,enabled,..`");
            return None;
        };
        let header = self.columns(header.ok()?)?;
        let mut rows = Vec::new();
        let mut seen: HashMap<Arc<str>, Place> = HashMap::new();
        while let Some(record) = records.next_record() {
            let cells = match record {
                Ok(cells) => cells,
                Err(at) => {
                    let place = self.problems.places.mark(self.file, self.root, Step::Root, at);
                    self.problems.error(place, "this quote is never closed").help("close it, or double a quote inside of a cell: `\"\"`");
                    return None;
                }
            };
            if let Some(row) = self.row(&header, cells) {
                match seen.insert(row.name.clone(), row.place) {
                    None => rows.push(row),
                    Some(first) => {
                        self.problems.error(row.place, format!("the name `{}` is here a second time", row.name)).also(first, "first here");
                    }
                }
            }
        }
        Some(Table { root: self.root, rows })
    }

    fn columns(&mut self, cells: Vec<Cell>) -> Option<Vec<Arc<str>>> {
        let mut columns: Vec<Arc<str>> = Vec::new();
        for cell in &cells {
            // `tag` is what people call the column of names in a table of tags.
            let column = if cell.text == "tag" && !cells.iter().any(|cell| cell.text == "name") { "name" } else { &cell.text };
            if columns.iter().any(|known| **known == *column) && !column.is_empty() {
                let place = self.problems.places.mark(self.file, self.root, Step::Root, cell.at);
                self.problems.error(place, format!("the column `{column}` is here a second time"));
            }
            columns.push(column.into());
        }
        if columns.iter().any(|column| **column == *"name") {
            return Some(columns);
        }
        let place = self.problems.places.mark(self.file, self.root, Step::Root, cells.first().map_or((1, 1), |cell| cell.at));
        let names: Vec<&str> = columns.iter().map(|column| &**column).collect();
        self.problems
            .error(place, "the table has no column `name`")
            .help(format!("the first row names the columns; it has {}", crate::tree::suggest::list(&names)));
        None
    }

    fn row(&mut self, columns: &[Arc<str>], cells: Vec<Cell>) -> Option<Row> {
        let at = cells.first()?.at;
        let Some(name) = columns.iter().zip(&cells).find(|(column, cell)| ***column == *"name" && !cell.text.is_empty()) else {
            let place = self.problems.places.mark(self.file, self.root, Step::Root, at);
            self.problems.error(place, "this row has no name");
            return None;
        };
        let name: Arc<str> = name.1.text.as_str().into();
        let row = self.problems.places.mark(self.file, self.root, Step::Key(name.clone()), at);
        let mut values = Vec::new();
        for (index, cell) in cells.into_iter().enumerate() {
            if cell.text.is_empty() {
                continue;
            }
            let Some(column) = columns.get(index).filter(|column| !column.is_empty()) else {
                let place = self.problems.places.mark(self.file, row, Step::Root, cell.at);
                self.problems
                    .error(place, format!("the row has more cells than the table has named columns ({})", columns.len()))
                    .help("quote a cell that contains the separator");
                break;
            };
            if **column == *"name" {
                continue;
            }
            let place = self.problems.places.mark(self.file, row, Step::Key(column.clone()), cell.at);
            let list = cell.text.starts_with('[') && cell.text.ends_with(']');
            let mapping = cell.text.starts_with('{') && cell.text.ends_with('}') && cell.text.contains(": ");
            let value = match list || mapping {
                true => yaml::read_inline(&cell.text, place, self.problems)?,
                false => Node::new(place, yaml::resolve(Text::from(cell.text.as_str()))),
            };
            values.push((column.clone(), value));
        }
        Some(Row { name, place: row, cells: values })
    }
}

fn is_left_out(line: &str) -> bool {
    line.starts_with('#') || line.trim().is_empty()
}

/// Splits text into records, counting lines and columns.
struct Records<'t> {
    rest: &'t str,
    at: (u32, u32),
    separator: char,
}

impl Records<'_> {
    /// The next record's cells; an `Err` is where an unclosed quote stands.
    fn next_record(&mut self) -> Option<Result<Vec<Cell>, (u32, u32)>> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let line = self.rest.lines().next().unwrap_or("");
            if !is_left_out(line) {
                break;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
            self.at = (self.at.0 + 1, 1);
        }
        let mut cells = Vec::new();
        loop {
            match self.cell() {
                Ok((cell, last)) => {
                    cells.push(cell);
                    if last {
                        return Some(Ok(cells));
                    }
                }
                Err(at) => {
                    self.rest = "";
                    return Some(Err(at));
                }
            }
        }
    }

    /// A cell, and whether it is the record's last.
    fn cell(&mut self) -> Result<(Cell, bool), (u32, u32)> {
        while self.rest.starts_with([' ', '\u{A0}']) {
            self.take();
        }
        let at = self.at;
        let mut text = String::new();
        let quoted = self.rest.starts_with('"');
        if quoted {
            self.take();
            loop {
                match self.take() {
                    None => return Err(at),
                    Some('"') if self.rest.starts_with('"') => {
                        self.take();
                        text.push('"');
                    }
                    Some('"') => break,
                    Some(c) => text.push(c),
                }
            }
        }
        loop {
            match self.take() {
                None | Some('\n') => return Ok((Cell { text: tidy(text, quoted), at }, true)),
                Some(c) if c == self.separator => return Ok((Cell { text: tidy(text, quoted), at }, false)),
                Some(c) => text.push(c),
            }
        }
    }

    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.at = if c == '\n' { (self.at.0 + 1, 1) } else { (self.at.0, self.at.1 + 1) };
        Some(c)
    }
}

fn tidy(text: String, quoted: bool) -> String {
    match quoted {
        true => text.trim_end_matches(['\r', ' ']).to_owned(),
        false => text.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_know_their_line_and_column() {
        let mut problems = Problems::new();
        let text = "\u{FEFF}# presses\nname;use;host;warn\r\np1; press ;10.0.0.5;\n\n\"p;2\";press;\"a \"\"b\"\"\";[0, 850]\n";
        let table = read("presses.csv", text.as_bytes(), &mut problems).unwrap();
        assert!(problems.is_empty(), "{}", problems.render());
        assert_eq!(table.rows.len(), 2);
        assert_eq!(&*table.rows[1].name, "p;2");
        let (column, host) = &table.rows[1].cells[1];
        assert_eq!((&**column, host.as_str()), ("host", Some("a \"b\"")));
        let at = problems.locate(host.place);
        assert_eq!((at.line, at.column, at.path.as_str()), (5, 13, "p;2.host"));
        assert_eq!(table.rows[1].cells[2].1.items().len(), 2);
    }

    #[test]
    fn a_broken_table_is_refused_with_its_place() {
        for (text, message) in [
            ("", "the table is empty"),
            ("host\nx\n", "the table has no column `name`"),
            ("name,host\np1,\"x\n", "this quote is never closed"),
            ("name,host\np1,x\np1,y\n", "the name `p1` is here a second time"),
            ("name,host\n,x\n", "this row has no name"),
            ("name,host\np1,x,y\n", "the row has more cells than the table has named columns (2)"),
        ] {
            let mut problems = Problems::new();
            read("t.csv", text.as_bytes(), &mut problems);
            assert_eq!(problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(), [message]);
        }
    }
}
