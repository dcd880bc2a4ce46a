//! What waits for the database: samples or documents as rows, each with its place in Kafka. No I/O.

use millrace_config::Reason;
use millrace_contract::{Offset, Partition, Record, Records, Refused};
use millrace_kit::documents::{Around, Cell, Column, Day, Documents, Kind, META, Unit};
use millrace_schemas::{Batch, Columns, Value, json};
use std::sync::Arc;

/// The columns of a sample. What is no number, text or boolean is JSON, as it stands in a sample: bytes, arrays, structures, and whole numbers above
/// 2^63 - 1.
pub const SAMPLE: [(&str, Kind); 15] = [
    ("tag", Kind::Text),
    ("time", Kind::Time(Unit::Micros)),
    ("value_double", Kind::Double),
    ("value_long", Kind::Long),
    ("value_bool", Kind::Bool),
    ("value_text", Kind::Text),
    ("value_json", Kind::Json),
    ("status", Kind::Long),
    ("quality", Kind::Text),
    ("origin", Kind::Text),
    ("time_source", Kind::Text),
    ("read_time", Kind::Time(Unit::Micros)),
    ("def", Kind::Long),
    ("source", Kind::Text),
    ("seq", Kind::Long),
];

/// All that waits to be written.
pub enum Waiting {
    Samples { day: Day, places: Vec<(Partition, Offset)>, bytes: usize },
    Documents(Documents),
}

/// One row of it.
#[derive(Clone, Debug)]
pub struct Row<'w> {
    pub day: &'w Day,
    pub index: usize,
    pub partition: Partition,
    pub offset: Offset,
}

impl<'w> Row<'w> {
    pub fn cells(&self) -> &'w [(u16, Cell)] {
        self.day.row(self.index)
    }

    pub fn cell(&self, column: u16) -> Option<Cell> {
        self.cells().iter().find(|(known, _)| *known == column).map(|(_, cell)| *cell)
    }
}

impl Waiting {
    pub fn samples() -> Self {
        Self::Samples { day: Day::default(), places: Vec::new(), bytes: 0 }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Samples { bytes, .. } => *bytes,
            Self::Documents(documents) => documents.bytes(),
        }
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Self::Samples { places, .. } => places.is_empty(),
            Self::Documents(documents) => documents.is_empty(),
        }
    }

    pub fn take(&mut self) -> Self {
        match self {
            Self::Samples { .. } => std::mem::replace(self, Self::samples()),
            Self::Documents(documents) => Self::Documents(documents.take()),
        }
    }

    pub fn columns(&self) -> Vec<Column> {
        match self {
            Self::Samples { .. } => SAMPLE.map(|(name, kind)| Column::new(name, kind)).to_vec(),
            Self::Documents(documents) => documents.columns().to_vec(),
        }
    }

    /// The rows, in the order in which they came, per day.
    pub fn rows(&self) -> Vec<Row<'_>> {
        match self {
            Self::Samples { day, places, .. } => {
                let row = |(index, (partition, offset)): (usize, &(Partition, Offset))| Row {
                    day,
                    index,
                    partition: partition.clone(),
                    offset: *offset,
                };
                places.iter().enumerate().map(row).collect()
            }
            Self::Documents(documents) => {
                let days = documents.days().flat_map(|(_, day)| (0..day.len()).map(move |index| (day, index)));
                days.map(|(day, index)| {
                    let (partition, offset) = place(day, index);
                    Row { day, index, partition, offset }
                })
                .collect()
            }
        }
    }

    /// Takes one record.
    ///
    /// Errors: why no row can hold it.
    pub fn push(&mut self, records: &Records, index: usize, record: &Record) -> Result<(), Reason> {
        match self {
            Self::Samples { day, places, bytes } => {
                let batch = records.batch.as_ref().filter(|batch| index < batch.rows.len());
                let Some((batch, columns)) = batch.and_then(|batch| Some((batch, batch.decoded.as_ref()?))) else {
                    return Err("is no sample".into());
                };
                *bytes += sample(day, batch, columns, index)?;
                places.push((records.partition(record).clone(), record.offset));
                Ok(())
            }
            Self::Documents(documents) => match records.documents.get(index) {
                Some(document) => documents.push(document.map(|span| records.of(span)), &Around::of(records, record)),
                None => Err("is no document".into()),
            },
        }
    }
}

/// Where a document was in Kafka: it is in its cells.
fn place(day: &Day, index: usize) -> (Partition, Offset) {
    let mut place = (Partition { topic: Arc::from(""), partition: 0 }, 0);
    for (column, cell) in day.row(index) {
        match (META.get(usize::from(*column)).map(|(name, _)| *name), cell) {
            (Some("kafka_topic"), Cell::Text(span)) => place.0.topic = Arc::from(day.text(*span)),
            (Some("kafka_partition"), Cell::Long(number)) => place.0.partition = i32::try_from(*number).unwrap_or_default(),
            (Some("kafka_offset"), Cell::Long(offset)) => place.1 = *offset,
            _ => {}
        }
    }
    place
}

/// Adds one sample; how many bytes it takes.
fn sample(day: &mut Day, batch: &Batch, columns: &Columns, index: usize) -> Result<usize, Reason> {
    let row = &batch.rows[index];
    let text = |span: millrace_schemas::Span, what: &str| {
        std::str::from_utf8(span.get(&batch.heap).unwrap_or_default()).map_err(|_| format!("its {what} is not UTF-8"))
    };
    let (tag, source) = (text(columns.tag_path[index], "tag")?, text(columns.source[index], "source")?);
    for (what, time) in [("time", row.time.0), ("read_time", columns.read_time[index].0)] {
        if !millrace_kit::documents::TIMES.contains(&time) {
            return Err(format!("{what} is {time} microseconds since 1970, which is not between the years 1 and 9999").into());
        }
    }
    let mut shown = Vec::new();
    let value = match row.value {
        Value::Null => None,
        Value::Double(value) => Some((2, Cell::Double(value))),
        Value::Int(value) => Some((3, Cell::Long(value))),
        Value::UInt(value) if i64::try_from(value).is_ok() => Some((3, Cell::Long(value as i64))),
        Value::Bool(value) => Some((4, Cell::Bool(value))),
        Value::Text(span) => Some((5, day.keep(text(span, "value")?.as_bytes())?)),
        Value::Struct(span) => Some((6, day.keep(text(span, "value")?.as_bytes())?)),
        value => {
            json::encode_value(value, &batch.heap, &mut shown).ok_or("its value is not whole")?;
            Some((6, day.keep(&shown)?))
        }
    };
    let mut cells = Vec::with_capacity(SAMPLE.len());
    cells.push((0, day.keep(tag.as_bytes())?));
    cells.push((1, Cell::Long(row.time.0)));
    cells.extend(value);
    cells.push((7, Cell::Long(i64::from(row.status.0))));
    for (column, word) in [(8, row.status.quality().as_str()), (9, row.flags.origin.as_str()), (10, row.flags.time_source.as_str())] {
        cells.push((column, day.keep(word.as_bytes())?));
    }
    cells.push((11, Cell::Long(columns.read_time[index].0)));
    cells.push((12, Cell::Long(i64::from(columns.def[index]))));
    cells.push((13, day.keep(source.as_bytes())?));
    cells.push((14, Cell::Long(columns.seq[index])));
    day.push(&cells);
    let texts = tag.len() + source.len() + 24 + if let Some((_, Cell::Text(span))) = value { span.len as usize } else { 0 };
    Ok(cells.len() * size_of::<(u16, Cell)>() + texts + 64)
}

/// The rows that have their key: a document all of its fields, a tombstone the record's in Kafka, which is one field's.
pub fn with_keys<'w>(columns: &[Column], rows: &[Row<'w>], key: &[String], refused: &mut Vec<Refused>) -> Vec<Row<'w>> {
    let index = |name: &str| columns.iter().zip(0_u16..).find(|(column, _)| *column.name == *name).map(|(_, index)| index);
    let (tombstone, kafka_key) = (index("kafka_tombstone"), index("kafka_key"));
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows {
        let cell = |index: Option<u16>| index.and_then(|index| row.cell(index));
        let reason = if cell(tombstone) == Some(Cell::Bool(true)) {
            (key.len() > 1 || cell(kafka_key).is_none()).then(|| "is a tombstone whose key in Kafka is not that of a row".to_owned())
        } else {
            key.iter().find(|name| cell(index(name)).is_none()).map(|name| format!("has no `{name}`, which belongs to the key"))
        };
        match reason {
            Some(reason) => refused.push(Refused { partition: row.partition.clone(), offset: row.offset, reason }),
            None => kept.push(row.clone()),
        }
    }
    kept
}
