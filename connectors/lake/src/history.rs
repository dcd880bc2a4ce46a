//! Samples of a tag out of the table, day by day, without an SQL engine.
//!
//! ```text
//! log: files whose days and least and greatest values fit -> row groups of the tag -> pages of the tag and the time -> rows, checked one by one
//! ```
//!
//! Days are apart, since a sample lies in the folder of its own day: what is held at once is one tag's day.

use crate::object::{LiveFile, Object};
use crate::series::{Sample, Value, tidy};
use crate::store::{LakeError, chain};
use crate::target::{Target, Wanted};
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use futures_util::{StreamExt, TryStreamExt};
use millrace_config::Reason;
use millrace_schemas::{Origin, StatusCode};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const DAY: i64 = 86_400_000_000;
/// Files of one day read at a time.
const AT_ONCE: usize = 4;
/// Samples of one tag and one day held at once.
const MOST: usize = 20_000_000;
const WANTED: [&str; 18] = [
    "tag",
    "time",
    "seq",
    "status",
    "origin",
    "value_double",
    "value_long",
    "value_bool",
    "value_text",
    "value_uint",
    "value_bytes",
    "value_json",
    "values_double",
    "values_long",
    "values_bool",
    "values_text",
    "values_uint",
    "values_bytes",
];

/// What a question cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Cost {
    /// Files opened, and all of the table.
    pub files: u64,
    pub bytes: u64,
}

/// A table, for questions.
pub struct History {
    pub table: Target,
    /// Samples of the tag that are in Kafka only, in order.
    tail: Vec<Sample>,
    bytes: Arc<AtomicU64>,
    files: AtomicU64,
    budget: u64,
}

impl History {
    /// `tail`: samples of the tag in question that the table may lack.
    /// `budget`: how many bytes of the table may be read.
    pub fn new(table: Target, mut tail: Vec<Sample>, budget: u64) -> Self {
        tidy(&mut tail);
        Self { table, tail, bytes: Arc::default(), files: AtomicU64::new(0), budget }
    }

    pub fn cost(&self) -> Cost {
        Cost { files: self.files.load(Relaxed), bytes: self.bytes.load(Relaxed) }
    }

    /// The samples of a tag in a range of microseconds since 1970, in order, one day after the other.
    ///
    /// Errors: what `take` says, or the table can't be read.
    pub fn each_day(
        &self,
        tag: &str,
        range: Range<i64>,
        mut take: impl FnMut(Vec<Sample>) -> Result<(), LakeError>,
    ) -> Result<(), LakeError> {
        for (day, files) in self.by_day(tag, range.clone())? {
            let samples = self.read(day, files, tag, range.clone())?;
            if !samples.is_empty() {
                take(samples)?;
            }
        }
        Ok(())
    }

    /// The last sample before a time, looked for as many days back.
    pub fn before(&self, tag: &str, time: i64, days: i64) -> Result<Option<Sample>, LakeError> {
        let range = time.saturating_sub(days.saturating_mul(DAY))..time;
        for (day, files) in self.by_day(tag, range.clone())?.into_iter().rev() {
            if let Some(last) = self.read(day, files, tag, range.clone())?.pop() {
                return Ok(Some(last));
            }
        }
        Ok(None)
    }

    fn by_day(&self, tag: &str, range: Range<i64>) -> Result<BTreeMap<i64, Vec<LiveFile>>, LakeError> {
        let mut days: BTreeMap<i64, Vec<LiveFile>> = BTreeMap::new();
        for sample in self.tail.iter().filter(|sample| range.contains(&sample.time)) {
            days.entry(sample.time.div_euclid(DAY)).or_default();
        }
        for file in self.table.live(&Wanted { range: Some(range), tag: Some(tag) })? {
            days.entry(i64::from(file.day)).or_default().push(file);
        }
        Ok(days)
    }

    /// One day's samples, in order.
    fn read(&self, day: i64, files: Vec<LiveFile>, tag: &str, range: Range<i64>) -> Result<Vec<Sample>, LakeError> {
        let of_day = |sample: &&Sample| sample.time.div_euclid(DAY) == day && range.contains(&sample.time);
        let tail: Vec<Sample> = self.tail.iter().filter(of_day).cloned().collect();
        if self.bytes.load(Relaxed) > self.budget {
            return Err(LakeError::Refused(format!(
                "more than {} MiB of the table would be read; ask for a shorter range",
                self.budget >> 20
            )));
        }
        self.files.fetch_add(files.len() as u64, Relaxed);
        let reads = files.into_iter().map(|file| self.read_file(file, tag, range.clone()));
        let all = async { futures_util::stream::iter(reads).buffered(AT_ONCE).try_concat().await };
        let mut samples: Vec<Sample> = self.table.runtime().block_on(all)?;
        samples.extend(tail);
        tidy(&mut samples);
        Ok(samples)
    }

    async fn read_file(&self, file: LiveFile, tag: &str, range: Range<i64>) -> Result<Vec<Sample>, LakeError> {
        let failed = |error: &dyn std::error::Error| LakeError::Refused(format!("cannot read {}: {}", file.name, chain(error)));
        let reader = Object::new(self.table.store(), &file, self.bytes.clone());
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_page_index_policy(PageIndexPolicy::Optional);
        let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await.map_err(|error| failed(&error))?;
        let metadata = builder.metadata().clone();
        let (groups, selection) = chosen(&metadata, tag, &range);
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let filled = WANTED.into_iter().filter(|name| has_values(&metadata, &groups, name));
        let mask = ProjectionMask::columns(builder.parquet_schema(), filled);
        let stream = builder.with_row_groups(groups).with_row_selection(selection).with_projection(mask).with_batch_size(8192).build();
        let mut stream = stream.map_err(|error| failed(&error))?;
        let mut samples = Vec::new();
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(|error| failed(&error))?;
            take(&batch, tag, &range, &mut samples).map_err(|what| LakeError::Refused(format!("cannot read {}: {what}", file.name)))?;
            if samples.len() > MOST {
                return Err(LakeError::Refused(format!("tag {tag} has more than {MOST} samples on one day; ask for a shorter range")));
            }
        }
        Ok(samples)
    }
}

/// The row groups that may hold the tag in the range, and which of their rows.
fn chosen(metadata: &ParquetMetaData, tag: &str, range: &Range<i64>) -> (Vec<usize>, RowSelection) {
    let mut groups = Vec::new();
    let mut selectors: Vec<RowSelector> = Vec::new();
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let leaf = |name: &str| group.columns().iter().position(|column| column.column_path().string() == name);
        let (tags, times) = (leaf("tag"), leaf("time"));
        let is_out = |column: Option<usize>, is_in: &dyn Fn(&Statistics) -> bool| {
            column.and_then(|column| group.column(column).statistics()).is_some_and(|statistics| !is_in(statistics))
        };
        let tag_in = |statistics: &Statistics| match (statistics.min_bytes_opt(), statistics.max_bytes_opt()) {
            (Some(min), Some(max)) => min <= tag.as_bytes() && tag.as_bytes() <= max,
            _ => true,
        };
        let time_in = |statistics: &Statistics| match statistics {
            Statistics::Int64(values) => {
                values.min_opt().is_none_or(|min| *min < range.end) && values.max_opt().is_none_or(|max| *max >= range.start)
            }
            _ => true,
        };
        if is_out(tags, &tag_in) || is_out(times, &time_in) {
            continue;
        }
        let rows = group.num_rows().unsigned_abs() as usize;
        let mut selection = RowSelection::from(vec![RowSelector::select(rows)]);
        for column in [tags, times].into_iter().flatten() {
            if let Some(pages) = pages(metadata, index, column, rows, tag, range) {
                selection = selection.intersection(&pages);
            }
        }
        groups.push(index);
        selectors.extend(Vec::<RowSelector>::from(selection));
    }
    (groups, RowSelection::from(selectors))
}

/// Whether a column, or a list's items, has a value in one of these row groups; most columns of values have none.
fn has_values(metadata: &ParquetMetaData, groups: &[usize], name: &str) -> bool {
    let is_null = |column: &ColumnChunkMetaData| {
        let nulls = column.statistics().and_then(Statistics::null_count_opt);
        nulls.is_some_and(|nulls| nulls == column.num_values().unsigned_abs())
    };
    groups.iter().any(|group| {
        let columns = metadata.row_group(*group).columns().iter();
        columns.filter(|column| column.column_path().parts().first().is_some_and(|first| first == name)).any(|column| !is_null(column))
    })
}

/// The rows of the pages of one column that may fit; `None`: nothing is known of its pages.
fn pages(metadata: &ParquetMetaData, group: usize, column: usize, rows: usize, tag: &str, range: &Range<i64>) -> Option<RowSelection> {
    let index = metadata.column_index()?.get(group)?.get(column)?;
    let pages = metadata.offset_index()?.get(group)?.get(column)?.page_locations();
    let fits = |page: usize| match index {
        ColumnIndexMetaData::BYTE_ARRAY(index) => {
            index.min_value(page).is_none_or(|min| min <= tag.as_bytes()) && index.max_value(page).is_none_or(|max| tag.as_bytes() <= max)
        }
        ColumnIndexMetaData::INT64(index) => {
            index.min_value(page).is_none_or(|min| *min < range.end) && index.max_value(page).is_none_or(|max| *max >= range.start)
        }
        _ => true,
    };
    let selectors = pages.iter().enumerate().map(|(page, location)| {
        let start = location.first_row_index.unsigned_abs() as usize;
        let end = pages.get(page + 1).map_or(rows, |next| next.first_row_index.unsigned_abs() as usize);
        let count = end.saturating_sub(start);
        if fits(page) { RowSelector::select(count) } else { RowSelector::skip(count) }
    });
    Some(selectors.collect::<Vec<_>>().into())
}

/// Takes the rows that are meant.
fn take(batch: &RecordBatch, tag: &str, range: &Range<i64>, samples: &mut Vec<Sample>) -> Result<(), Reason> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("it has no column `{name}`"));
    let tags = column("tag")?.as_string_opt::<i32>().ok_or("its column `tag` is not text")?;
    let times = column("time")?.as_primitive_opt::<TimestampMicrosecondType>().ok_or("its column `time` is not in microseconds")?;
    let longs = |name: &str| batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let (seqs, statuses) = (longs("seq"), longs("status"));
    let origins = batch.column_by_name("origin").and_then(|column| column.as_string_opt::<i32>());
    for row in 0..batch.num_rows() {
        if tags.is_null(row) || tags.value(row) != tag || times.is_null(row) || !range.contains(&times.value(row)) {
            continue;
        }
        let long = |of: Option<&arrow_array::Int64Array>| of.filter(|values| values.is_valid(row)).map_or(0, |values| values.value(row));
        let origin = origins.filter(|values| values.is_valid(row)).map_or("", |values| values.value(row));
        samples.push(Sample {
            time: times.value(row),
            seq: long(seqs),
            value: value(batch, row),
            status: StatusCode(u32::try_from(long(statuses)).unwrap_or(StatusCode::BAD.0)),
            origin: Origin::ALL.into_iter().find(|known| known.as_str() == origin).unwrap_or_default(),
        });
    }
    Ok(())
}

/// The value of a row, from the one column that has it.
fn value(batch: &RecordBatch, row: usize) -> Value {
    let there = |name: &str| batch.column_by_name(name).filter(|column| column.is_valid(row));
    if let Some(column) = there("value_double") {
        return column.as_primitive_opt::<arrow_array::types::Float64Type>().map_or(Value::Null, |values| Value::Double(values.value(row)));
    }
    if let Some(column) = there("value_long") {
        return column.as_primitive_opt::<Int64Type>().map_or(Value::Null, |values| Value::Long(values.value(row)));
    }
    if let Some(column) = there("value_bool") {
        return column.as_boolean_opt().map_or(Value::Null, |values| Value::Bool(values.value(row)));
    }
    if let Some(column) = there("value_text") {
        return column.as_string_opt::<i32>().map_or(Value::Null, |values| Value::Text(values.value(row).to_owned()));
    }
    if let Some(column) = there("value_uint") {
        let number = column.as_primitive_opt::<Decimal128Type>().and_then(|values| u64::try_from(values.value(row)).ok());
        return number.map_or(Value::Null, Value::UInt);
    }
    if let Some(column) = there("value_json") {
        return column.as_string_opt::<i32>().map_or(Value::Null, |values| Value::Json(values.value(row).to_owned()));
    }
    WANTED
        .iter()
        .filter(|name| name.starts_with("values_") || **name == "value_bytes")
        .find_map(|name| there(name))
        .map_or(Value::Null, |column| Value::Json(arrow_text(column, row)))
}

/// Bytes, or the items of a list, as JSON.
fn arrow_text(column: &arrow_array::ArrayRef, row: usize) -> String {
    if let Some(bytes) = column.as_binary_opt::<i32>() {
        return serde_json::Value::from(hex(bytes.value(row))).to_string();
    }
    let Some(list) = column.as_list_opt::<i32>() else { return String::new() };
    let items = list.value(row);
    let item = |index: usize| -> serde_json::Value {
        if let Some(values) = items.as_primitive_opt::<arrow_array::types::Float64Type>() {
            let value = values.value(index);
            return serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), serde_json::Value::Number);
        }
        if let Some(values) = items.as_primitive_opt::<Int64Type>() {
            return values.value(index).into();
        }
        if let Some(values) = items.as_primitive_opt::<Decimal128Type>() {
            return u64::try_from(values.value(index)).map_or(serde_json::Value::Null, serde_json::Value::from);
        }
        if let Some(values) = items.as_boolean_opt() {
            return values.value(index).into();
        }
        if let Some(values) = items.as_string_opt::<i32>() {
            return values.value(index).into();
        }
        items.as_binary_opt::<i32>().map_or(serde_json::Value::Null, |values| hex(values.value(index)).into())
    };
    serde_json::Value::Array((0..items.len()).map(item).collect()).to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
