//! Wide records: many tags of one asset in one record, per window or per scan.
//!
//! ```text
//! sample of a tag ──> its cell in the asset's row        asset: the first change opens a window; at its end the whole row is written
//!                                                        scan:  at the end of the batch what the batch brought is written
//! ```
//!
//! [`WideLayout`] is a topic's: the fields, shared by all sources that feed it, kept in `shapes/TOPIC.json`, so that a field keeps its place and its
//! type over a restart. [`Rows`] are one source's: the last values of its assets, already in the topic's format.
//!
//! A sample that went into a row is counted as filtered; the record is counted as received and appended. Nothing that was folded into an open
//! window is acknowledged before the record is in the log: that is `intake`'s.

use crate::topics::Topic;
use crate::wide_layout::{Shape, WideLayout};
use millrace_contract::TagDef;
use millrace_schemas::contract::Kind;
use millrace_schemas::wide::Of;
use millrace_schemas::{Micros, Row, StatusCode, Value, avro, json};
use std::collections::HashMap;
use std::sync::Arc;

/// Where a tag has its cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CellRef {
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
    layout: Arc<WideLayout>,
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
    /// A cell for a tag of that full path, on a topic with a layout.
    pub fn cell(&mut self, topic: &Arc<Topic>, layout: &Arc<WideLayout>, path: &str, tag: &TagDef) -> CellRef {
        let (asset, leaf) = path.rsplit_once('/').unwrap_or(("", path));
        let row = *self.by_asset.entry((topic.name.clone(), asset.into())).or_insert_with(|| {
            self.rows.push(Asset {
                topic: topic.clone(),
                layout: layout.clone(),
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
            return CellRef { row, cell };
        }
        // A declared type is in the schema before the first value; a scaled value is a double whatever it was.
        let is_scaled = tag.options.scale.is_some() || tag.options.offset.is_some() || tag.options.raw.is_some();
        let declared = tag.kind.as_deref().and_then(Of::declared);
        let of = if is_scaled && declared == Some(Of::Long) { Some(Of::Double) } else { declared };
        let field = of.map(|of| (of, layout.field(leaf, of)));
        let label = field.map_or_else(Vec::new, |(_, at)| label(&layout.name(at)));
        cells.push(Cell { tag: leaf.into(), status: StatusCode::GOOD, field, label, value: Vec::new(), is_set: false });
        CellRef { row, cell: cells.len() - 1 }
    }

    /// Takes a sample in. Returns when the window it is in ends; zero: at the end of the batch.
    pub fn fold(&mut self, cell: CellRef, row: &Row, heap: &[u8], read_time: Micros) -> i64 {
        let asset = &mut self.rows[cell.row];
        if asset.due == 0 {
            self.open.push(cell.row);
            asset.due = match asset.layout.shape {
                Shape::Asset(window) => read_time.0.saturating_add(window).max(1),
                Shape::Scan => 1,
            };
        }
        asset.time = asset.time.max(row.time);
        asset.read_time = read_time;
        let cell = &mut asset.cells[cell.cell];
        cell.is_set = true;
        cell.status = row.status;
        cell.value.clear();
        if let Some(of) = Of::value(row.value, heap) {
            if cell.field.is_none_or(|(known, _)| known != of) {
                let at = asset.layout.field(&cell.tag, of);
                cell.field = Some((of, at));
                cell.label = label(&asset.layout.name(at));
            }
            let written = match asset.layout.kind {
                Kind::Avro => avro::encode_value(row.value, heap, &mut cell.value).map(|_| ()),
                _ => json::encode_value(row.value, heap, &mut cell.value),
            };
            if written.is_none() {
                cell.status = StatusCode::BAD_DECODING_ERROR;
            }
        } else if row.value == Value::Null && cell.status.is_good() {
            cell.status = StatusCode::BAD_NO_DATA;
        }
        match asset.layout.shape {
            Shape::Asset(_) => asset.due,
            Shape::Scan => 0,
        }
    }

    pub fn is_scan(&self, cell: CellRef) -> bool {
        self.rows[cell.row].layout.shape == Shape::Scan
    }

    /// Whether a scan already has a value of this tag: the next one begins another record.
    pub fn is_repeat(&self, cell: CellRef) -> bool {
        let asset = &self.rows[cell.row];
        asset.layout.shape == Shape::Scan && asset.due != 0 && asset.cells[cell.cell].is_set
    }

    /// The next row whose time has come, out of those that are open.
    pub fn next_due(&mut self, now: Micros) -> Option<usize> {
        let at = self.open.iter().position(|row| self.rows[*row].due <= now.0)?;
        Some(self.open.swap_remove(at))
    }

    /// The row of a cell, closed.
    pub fn close(&mut self, cell: CellRef) -> usize {
        self.open.retain(|row| *row != cell.row);
        cell.row
    }

    pub fn has_due(&self, now: Micros) -> bool {
        self.open.iter().any(|row| self.rows[*row].due <= now.0)
    }

    /// Writes a row as a record.
    ///
    /// Errors: its schema can't be kept on the disk; the row stays open.
    pub fn write(&mut self, row: usize, source: &str, seq: u64, out: &mut Vec<u8>) -> std::io::Result<Made<'_>> {
        let asset = &mut self.rows[row];
        let (mark, fields) = asset.layout.snapshot().inspect_err(|_| self.open.push(row))?;
        out.clear();
        match asset.layout.kind {
            Kind::Avro => asset.avro(fields, source, seq, out),
            _ => asset.json(source, seq, out),
        }
        let time = asset.time;
        (asset.due, asset.time) = (0, Micros::NONE);
        if asset.layout.shape == Shape::Scan {
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
