//! Samples in memory until they are written: one buffer for each day and level.
//!
//! Invariants: what is held is counted, and bounded by whoever asks [`Rows::bytes`]; a tag's and a source's text is held once.

use crate::config::Level;
use millrace_config::Reason;
use millrace_schemas::record::Array;
use millrace_schemas::{Batch, Columns, Flags, Kind, Span, StatusCode, Value};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

const DAY: i64 = 86_400_000_000;
/// From the year 1 to 9999: what every reader of the table can show.
const TIMES: Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;

/// A folder of the table: a day since 1970, and the level's name where the table has one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Folder {
    pub day: i32,
    /// `None`: the table has no level, or the tag's path does not reach it.
    pub level: Option<Arc<str>>,
}

/// One sample; its texts lie in the buffer's heap, its tag and source in the names.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub time: i64,
    pub seq: i64,
    pub value: Value,
    pub read_delay: i64,
    /// 0: none.
    pub server_time: i64,
    pub device_time: i64,
    pub tag: u32,
    pub source: u32,
    pub status: StatusCode,
    pub def: i32,
    pub flags: Flags,
}

/// The samples of one folder.
#[derive(Debug, Default)]
pub struct Buffer {
    pub samples: Vec<Sample>,
    pub heap: Vec<u8>,
}

/// Texts by number, each held once.
#[derive(Debug, Default)]
pub struct Names {
    numbers: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
    bytes: usize,
}

impl Names {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let shared: Arc<str> = text.into();
        let number = self.texts.len() as u32;
        self.bytes += 2 * text.len() + 64;
        self.texts.push(shared.clone());
        self.numbers.insert(shared, number);
        number
    }

    pub fn text(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", |text| text)
    }

    /// The place of each number when the texts are sorted.
    pub fn ranks(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.texts.len() as u32).collect();
        order.sort_unstable_by(|a, b| self.text(*a).cmp(self.text(*b)));
        let mut ranks = vec![0; order.len()];
        for (rank, number) in order.into_iter().enumerate() {
            ranks[number as usize] = rank as u32;
        }
        ranks
    }
}

/// All that waits to be written.
#[derive(Debug, Default)]
pub struct Rows {
    folders: BTreeMap<Folder, Buffer>,
    pub names: Names,
    count: usize,
    heap: usize,
}

impl Rows {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// What is held, in bytes, as good as it can be told: vectors grow in steps.
    pub fn bytes(&self) -> usize {
        self.count * size_of::<Sample>() * 5 / 4 + self.heap * 5 / 4 + self.names.bytes + self.folders.len() * 256
    }

    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    pub fn folders(&self) -> impl Iterator<Item = (&Folder, &Buffer)> {
        self.folders.iter()
    }

    /// Takes the sample of one row.
    ///
    /// Errors: why no table can hold it.
    pub fn push(&mut self, batch: &Batch, columns: &Columns, index: usize, level: Option<&Level>) -> Result<(), Reason> {
        let row = &batch.rows[index];
        let time = row.time.0;
        let read_time = columns.read_time[index].0;
        for (what, time) in
            [("time", time), ("read_time", read_time), ("server_time", row.server_time.0), ("device_time", columns.device_time[index].0)]
        {
            if !TIMES.contains(&time) {
                return Err(format!("{what} is {time} microseconds since 1970, which is not between the years 1 and 9999").into());
            }
        }
        let tag = text(batch, columns.tag_path[index], "tag")?;
        let source = text(batch, columns.source[index], "source")?;
        let value = match row.value {
            Value::UInt(number) => i64::try_from(number).map_or(row.value, Value::Int),
            value => value,
        };
        check(value, batch)?;
        let level = level.and_then(|level| tag.split('/').nth(level.part).filter(|name| !name.is_empty() && is_inner(tag, level.part)));
        let folder = Folder { day: time.div_euclid(DAY) as i32, level: level.map(Arc::from) };
        let buffer = self.folders.entry(folder).or_default();
        let before = buffer.heap.len();
        let value = buffer.keep(value, &batch.heap).ok_or("more texts than one file can hold came at once")?;
        self.heap += buffer.heap.len() - before;
        buffer.samples.push(Sample {
            time,
            seq: columns.seq[index],
            value,
            read_delay: read_time - time,
            server_time: row.server_time.0,
            device_time: columns.device_time[index].0,
            tag: self.names.number(tag),
            source: self.names.number(source),
            status: row.status,
            def: columns.def[index],
            flags: row.flags,
        });
        self.count += 1;
        Ok(())
    }
}

/// Whether that part of a path is a level, not the tag's own name.
fn is_inner(tag: &str, part: usize) -> bool {
    tag.split('/').nth(part + 1).is_some()
}

fn text<'b>(batch: &'b Batch, span: Span, what: &str) -> Result<&'b str, Reason> {
    let bytes = span.get(&batch.heap).unwrap_or_default();
    std::str::from_utf8(bytes).map_err(|_| format!("its {what} is not UTF-8").into())
}

fn check(value: Value, batch: &Batch) -> Result<(), Reason> {
    match value {
        Value::Text(span) | Value::Struct(span) => text(batch, span, "value").map(|_| ()),
        Value::Array(kind, span) => {
            let array = Array::read(kind, span, &batch.heap).ok_or("its array ends within an item")?;
            if kind == Kind::Text && array.blobs().any(|item| std::str::from_utf8(item).is_err()) {
                return Err("an item of its array is not UTF-8".into());
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

impl Buffer {
    /// Copies what a value points to. `None`: the heap is full.
    fn keep(&mut self, value: Value, heap: &[u8]) -> Option<Value> {
        let mut copy = |span: Span| {
            let start = u32::try_from(self.heap.len()).ok()?;
            start.checked_add(span.len)?;
            self.heap.extend_from_slice(span.of(heap));
            Some(Span { start, len: span.len })
        };
        Some(match value {
            Value::Text(span) => Value::Text(copy(span)?),
            Value::Bytes(span) => Value::Bytes(copy(span)?),
            Value::Struct(span) => Value::Struct(copy(span)?),
            Value::Array(kind, span) => Value::Array(kind, copy(span)?),
            plain => plain,
        })
    }

    /// The samples' places, sorted by tag, time and sequence number.
    pub fn order(&self, ranks: &[u32]) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.samples.len() as u32).collect();
        let key = |place: &u32| {
            let sample = &self.samples[*place as usize];
            (ranks.get(sample.tag as usize).copied().unwrap_or(0), sample.time, sample.seq)
        };
        // What came in order is left so.
        order.sort_by_key(|one| key(one));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::{Micros, Row, TagId};

    fn batch(tag: &str, times: &[i64]) -> Batch {
        let mut batch = Batch::new();
        let mut columns = Columns::default();
        for time in times {
            let tag = batch.push_bytes(tag.as_bytes());
            let value = batch.text("x");
            batch.rows.push(Row {
                time: Micros(*time),
                server_time: Micros::NONE,
                value,
                tag: TagId::NONE,
                status: StatusCode::GOOD,
                flags: Flags::default(),
            });
            columns.tag_path.push(tag);
            columns.source.push(tag);
            columns.read_time.push(Micros(*time));
            columns.device_time.push(Micros::NONE);
            columns.def.push(0);
            columns.seq.push(*time);
        }
        batch.decoded = Some(columns);
        batch
    }

    fn push(rows: &mut Rows, batch: &Batch, level: Option<&Level>) -> Result<(), Reason> {
        (0..batch.rows.len()).try_for_each(|index| rows.push(batch, batch.decoded.as_ref().unwrap(), index, level))
    }

    #[test]
    fn a_sample_lies_in_the_folder_of_its_own_day_and_area() {
        let level = Level { name: "area".into(), part: 2 };
        let mut rows = Rows::default();
        // Before 1970, in 1970, in 2262 and beyond what nanoseconds can say.
        push(&mut rows, &batch("a/b/body/line/speed", &[-1, 0, 9_223_372_036_854_775, 9_223_372_036_854_776 + DAY]), Some(&level)).unwrap();
        push(&mut rows, &batch("a/b/speed", &[5]), Some(&level)).unwrap();
        let folders: Vec<_> = rows.folders().map(|(folder, buffer)| (folder.day, folder.level.as_deref(), buffer.samples.len())).collect();
        assert_eq!(
            folders,
            [(-1, Some("body"), 1), (0, None, 1), (0, Some("body"), 1), (106_751, Some("body"), 1), (106_752, Some("body"), 1)]
        );
        assert_eq!(rows.count(), 5);
    }

    #[test]
    fn a_time_that_no_reader_can_show_is_refused_with_its_number() {
        let refused = push(&mut Rows::default(), &batch("a/b/c", &[i64::MAX]), None).unwrap_err();
        assert!(refused.contains("time is 9223372036854775807"), "{refused}");
    }

    #[test]
    fn samples_are_sorted_by_tag_and_time() {
        let mut rows = Rows::default();
        push(&mut rows, &batch("z", &[3, 1]), None).unwrap();
        push(&mut rows, &batch("a", &[4, 2]), None).unwrap();
        let (_, buffer) = rows.folders().next().unwrap();
        let order = buffer.order(&rows.names.ranks());
        let sorted: Vec<_> = order.iter().map(|place| &buffer.samples[*place as usize]).map(|s| (rows.names.text(s.tag), s.time)).collect();
        assert_eq!(sorted, [("a", 2), ("a", 4), ("z", 1), ("z", 3)]);
    }
}
