//! Wide records: many tags of one asset in one record, per window or per scan.
//!
//! ```text
//! sample of a tag ──> its cell in the asset's row        asset: the first change opens a window; at its end the whole row is written
//!                                                        scan:  at the end of the batch what the batch brought is written
//! ```
//!
//! [`Sheet`] is a topic's: the fields, shared by all sources that feed it, kept in `shapes/TOPIC.json`, so that a field keeps its place and its
//! type over a restart. [`Rows`] are one source's: the last values of its assets, already in the topic's format.
//!
//! A sample that went into a row is counted as filtered; the record is counted as received and appended. Nothing that was folded into an open
//! window is acknowledged before the record is in the log: that is `intake`'s.

use crate::book::Book;
use crate::positions::replace;
use crate::topics::{Format, Topic};
use millrace_contract::TagDef;
use millrace_schemas::contract::Kind;
use millrace_schemas::wide::{Field, Of, Wide};
use millrace_schemas::{Micros, Row, StatusCode, Value, avro, json};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// When a row becomes a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// So many microseconds after the first change.
    Asset(i64),
    /// At the end of the batch.
    Scan,
}

/// The fields of a topic's wide records.
#[derive(Debug)]
pub struct Sheet {
    pub shape: Shape,
    topic: Arc<str>,
    kind: Kind,
    file: PathBuf,
    book: Arc<Book>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    wide: Wide,
    /// Of the schema with the first `fields` of them; zero: not made yet.
    mark: u64,
    fields: usize,
}

impl Sheet {
    /// Takes up the fields of an earlier run.
    ///
    /// Errors: the folder can't be made, or the file is none of ours.
    pub fn open(data_dir: &Path, topic: &Topic, shape: Shape, book: &Arc<Book>) -> std::io::Result<Self> {
        let folder = data_dir.join("shapes");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{}.json", topic.name));
        let wide = match std::fs::read(&file) {
            Ok(bytes) => Wide::with(read(&bytes).ok_or_else(|| {
                std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    format!("{} does not hold the fields of a topic; put it back", file.display()),
                )
            })?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Wide::default(),
            Err(error) => return Err(error),
        };
        let kind = if topic.format == Format::Avro { Kind::Avro } else { Kind::Json };
        let state = Mutex::new(State { wide, mark: 0, fields: 0 });
        Ok(Self { shape, topic: topic.name.clone(), kind, file, book: book.clone(), state })
    }

    fn field(&self, tag: &str, of: Of) -> usize {
        self.state.lock().wide.field(tag, of)
    }

    /// The mark of the schema with all fields there are, which is on the disk then; and how many there are.
    fn snapshot(&self) -> std::io::Result<(u64, usize)> {
        let mut state = self.state.lock();
        let count = state.wide.fields().len();
        if state.mark == 0 || state.fields != count {
            let list = state.wide.fields().iter().map(|f| json!({"tag": f.tag, "type": f.of.as_str(), "name": f.name}));
            replace(&self.file, &serde_json::to_vec_pretty(&list.collect::<Vec<_>>())?)?;
            let schema = state.wide.schema(self.kind, &self.topic).ok_or(std::io::ErrorKind::Unsupported)?;
            state.mark = self.book.keep(&Arc::new(schema))?;
            state.fields = count;
        }
        Ok((state.mark, count))
    }

    fn name(&self, field: usize) -> Box<str> {
        self.state.lock().wide.fields()[field].name.clone()
    }
}

fn read(bytes: &[u8]) -> Option<Vec<Field>> {
    let list: Vec<serde_json::Value> = serde_json::from_slice(bytes).ok()?;
    let text = |item: &serde_json::Value, key: &str| item.get(key).and_then(|v| v.as_str()).map(Box::<str>::from);
    list.iter()
        .map(|item| Some(Field { tag: text(item, "tag")?, of: Of::named(&text(item, "type")?)?, name: text(item, "name")? }))
        .collect()
}

/// Where a tag has its cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seat {
    row: usize,
    cell: usize,
}

/// The assets of one source.
#[derive(Default)]
pub struct Rows {
    rows: Vec<Asset>,
    by_asset: HashMap<(Arc<str>, Box<str>), usize>,
    /// Rows that wait for their window's end or the batch's.
    open: Vec<usize>,
}

struct Asset {
    topic: Arc<Topic>,
    sheet: Arc<Sheet>,
    path: Box<str>,
    cells: Vec<Cell>,
    /// Microseconds since 1970 of the window's end; zero: it is not open.
    due: i64,
    time: Micros,
    read_time: Micros,
}

struct Cell {
    tag: Box<str>,
    status: StatusCode,
    /// Its type and field, once it had a value.
    field: Option<(Of, usize)>,
    /// Its name, quoted, for JSON.
    label: Vec<u8>,
    /// In the topic's format; empty: none.
    value: Vec<u8>,
    /// It was read, well or not.
    is_set: bool,
}

/// A row that became a record.
pub struct Made<'r> {
    pub topic: &'r Arc<Topic>,
    pub asset: &'r str,
    pub mark: u64,
    pub time: Micros,
}

impl Rows {
    /// A seat for a tag of that full path, on a topic with a sheet.
    pub fn seat(&mut self, topic: &Arc<Topic>, sheet: &Arc<Sheet>, path: &str, tag: &TagDef) -> Seat {
        let (asset, leaf) = path.rsplit_once('/').unwrap_or(("", path));
        let row = *self.by_asset.entry((topic.name.clone(), asset.into())).or_insert_with(|| {
            self.rows.push(Asset {
                topic: topic.clone(),
                sheet: sheet.clone(),
                path: asset.into(),
                cells: Vec::new(),
                due: 0,
                time: Micros::NONE,
                read_time: Micros::NONE,
            });
            self.rows.len() - 1
        });
        let cells = &mut self.rows[row].cells;
        if let Some(cell) = cells.iter().position(|c| &*c.tag == leaf) {
            return Seat { row, cell };
        }
        // A declared type is in the schema before the first value; a scaled value is a double whatever it was.
        let is_scaled = tag.options.scale.is_some() || tag.options.offset.is_some() || tag.options.raw.is_some();
        let declared = tag.kind.as_deref().and_then(Of::declared);
        let of = if is_scaled && declared == Some(Of::Long) { Some(Of::Double) } else { declared };
        let field = of.map(|of| (of, sheet.field(leaf, of)));
        let label = field.map_or_else(Vec::new, |(_, at)| label(&sheet.name(at)));
        cells.push(Cell { tag: leaf.into(), status: StatusCode::GOOD, field, label, value: Vec::new(), is_set: false });
        Seat { row, cell: cells.len() - 1 }
    }

    /// Takes a sample in. Returns when the window it is in ends; zero: at the end of the batch.
    pub fn fold(&mut self, seat: Seat, row: &Row, heap: &[u8], read_time: Micros) -> i64 {
        let asset = &mut self.rows[seat.row];
        if asset.due == 0 {
            self.open.push(seat.row);
            asset.due = match asset.sheet.shape {
                Shape::Asset(window) => read_time.0.saturating_add(window).max(1),
                Shape::Scan => 1,
            };
        }
        asset.time = asset.time.max(row.time);
        asset.read_time = read_time;
        let cell = &mut asset.cells[seat.cell];
        cell.is_set = true;
        cell.status = row.status;
        cell.value.clear();
        if let Some(of) = Of::value(row.value, heap) {
            if cell.field.is_none_or(|(known, _)| known != of) {
                let at = asset.sheet.field(&cell.tag, of);
                cell.field = Some((of, at));
                cell.label = label(&asset.sheet.name(at));
            }
            let written = match asset.sheet.kind {
                Kind::Avro => avro::encode_value(row.value, heap, &mut cell.value).map(|_| ()),
                _ => json::encode_value(row.value, heap, &mut cell.value),
            };
            if written.is_none() {
                cell.status = StatusCode::BAD_DECODING_ERROR;
            }
        } else if row.value == Value::Null && cell.status.is_good() {
            cell.status = StatusCode::BAD_NO_DATA;
        }
        match asset.sheet.shape {
            Shape::Asset(_) => asset.due,
            Shape::Scan => 0,
        }
    }

    pub fn is_scan(&self, seat: Seat) -> bool {
        self.rows[seat.row].sheet.shape == Shape::Scan
    }

    /// Whether a scan already has a value of this tag: the next one begins another record.
    pub fn is_repeat(&self, seat: Seat) -> bool {
        let asset = &self.rows[seat.row];
        asset.sheet.shape == Shape::Scan && asset.due != 0 && asset.cells[seat.cell].is_set
    }

    /// The next row whose time has come, out of those that are open.
    pub fn next_due(&mut self, now: Micros) -> Option<usize> {
        let at = self.open.iter().position(|row| self.rows[*row].due <= now.0)?;
        Some(self.open.swap_remove(at))
    }

    /// The row of a seat, closed.
    pub fn close(&mut self, seat: Seat) -> usize {
        self.open.retain(|row| *row != seat.row);
        seat.row
    }

    pub fn has_due(&self, now: Micros) -> bool {
        self.open.iter().any(|row| self.rows[*row].due <= now.0)
    }

    /// Writes a row as a record.
    ///
    /// Errors: its schema can't be kept on the disk; the row stays open.
    pub fn write(&mut self, row: usize, source: &str, seq: u64, out: &mut Vec<u8>) -> std::io::Result<Made<'_>> {
        let asset = &mut self.rows[row];
        let (mark, fields) = asset.sheet.snapshot().inspect_err(|_| self.open.push(row))?;
        out.clear();
        match asset.sheet.kind {
            Kind::Avro => asset.avro(fields, source, seq, out),
            _ => asset.json(source, seq, out),
        }
        let time = asset.time;
        (asset.due, asset.time) = (0, Micros::NONE);
        if asset.sheet.shape == Shape::Scan {
            for cell in &mut asset.cells {
                cell.is_set = false;
                cell.value.clear();
                cell.status = StatusCode::GOOD;
            }
        }
        Ok(Made { topic: &asset.topic, asset: &asset.path, mark, time })
    }
}

fn label(name: &str) -> Vec<u8> {
    let mut label = Vec::new();
    json::encode_text(name, &mut label);
    label.push(b':');
    label
}

impl Asset {
    fn bad(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|c| c.is_set && !c.status.is_good())
    }

    fn avro(&self, fields: usize, source: &str, seq: u64, out: &mut Vec<u8>) {
        let text = |out: &mut Vec<u8>, text: &str| {
            long(out, text.len() as i64);
            out.extend_from_slice(text.as_bytes());
        };
        text(out, &self.path);
        long(out, self.time.0);
        long(out, self.read_time.0);
        text(out, source);
        long(out, seq as i64);
        let bad = self.bad().count();
        if bad > 0 {
            long(out, bad as i64);
            for cell in self.bad() {
                text(out, &cell.tag);
                long(out, cell.status.0.into());
            }
        }
        out.push(0);
        let mut by_field: Vec<Option<&Cell>> = vec![None; fields];
        for cell in self.cells.iter().filter(|c| c.is_set && !c.value.is_empty()) {
            if let Some(slot) = cell.field.and_then(|(_, at)| by_field.get_mut(at)) {
                *slot = Some(cell);
            }
        }
        for cell in by_field {
            match cell {
                Some(cell) => {
                    out.push(2); // the second branch
                    out.extend_from_slice(&cell.value);
                }
                None => out.push(0),
            }
        }
    }

    fn json(&self, source: &str, seq: u64, out: &mut Vec<u8>) {
        use std::io::Write;
        out.extend_from_slice(b"{\"asset\":");
        json::encode_text(&self.path, out);
        let _ = write!(out, ",\"time\":{},\"read_time\":{},\"source\":", self.time.0, self.read_time.0);
        json::encode_text(source, out);
        let _ = write!(out, ",\"seq\":{seq},\"status\":{{");
        for (n, cell) in self.bad().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            json::encode_text(&cell.tag, out);
            let _ = write!(out, ":{}", cell.status.0);
        }
        out.push(b'}');
        for cell in self.cells.iter().filter(|c| c.is_set && c.field.is_some()) {
            out.push(b',');
            out.extend_from_slice(&cell.label);
            out.extend_from_slice(if cell.value.is_empty() { b"null" } else { &cell.value });
        }
        out.push(b'}');
    }
}

/// Zigzag, seven bits a byte, lowest first.
fn long(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
