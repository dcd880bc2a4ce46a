//! Samples of a tag out of the table, day by day, without an SQL engine.
//!
//! ```text
//! log: files whose days and least and greatest values fit -> row groups of the tag -> pages of the tag and the time -> rows, checked one by one
//! ```
//!
//! - Days are apart, since a sample lies in the folder of its own day: what is held at once is one tag's day, and the files that are read ahead.
//! - Of a file are read: its footer, the page index of the row groups that are left, and the pages that are left of the columns that have values.

use crate::object::{LiveFile, Object};
use crate::series::{Sample, Value, tidy};
use crate::shown;
use crate::store::{Store, chain};
use crate::target::{Target, Wanted};
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use futures_util::StreamExt;
use millrace_config::Reason;
use millrace_kit::parts::TargetError;
use millrace_schemas::{Origin, StatusCode};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const DAY: i64 = 86_400_000_000;
/// Files read at a time: from a disk, and from a store that answers late.
const AT_ONCE: usize = 4;
const AT_ONCE_AFAR: usize = 16;
/// Samples of one tag and one day held at once.
const MOST: usize = 20_000_000;
/// Rows decoded at once.
const BATCH: usize = 8192;
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

/// The files of each day since 1970, also of those that only Kafka has samples of.
type Days = BTreeMap<i64, Vec<LiveFile>>;

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
        take: impl FnMut(Vec<Sample>) -> Result<(), TargetError>,
    ) -> Result<(), TargetError> {
        let days = self.by_day(tag, &range)?;
        self.read(days, tag, range, take)
    }

    /// The last sample before a time, looked for as many days back.
    pub fn before(&self, tag: &str, time: i64, days: i64) -> Result<Option<Sample>, TargetError> {
        let range = time.saturating_sub(days.saturating_mul(DAY))..time;
        self.one(self.by_day(tag, &range)?.into_iter().rev(), tag, &range, |mut day| day.pop())
    }

    /// The first sample at a time or behind it, looked for as many days ahead.
    pub fn after(&self, tag: &str, time: i64, days: i64) -> Result<Option<Sample>, TargetError> {
        let range = time..time.saturating_add(days.saturating_mul(DAY));
        self.one(self.by_day(tag, &range)?.into_iter(), tag, &range, |day| day.into_iter().next())
    }

    /// Day by day, each by itself, until one has a sample.
    fn one(
        &self,
        days: impl Iterator<Item = (i64, Vec<LiveFile>)>,
        tag: &str,
        range: &Range<i64>,
        choose: impl Fn(Vec<Sample>) -> Option<Sample>,
    ) -> Result<Option<Sample>, TargetError> {
        let mut found = None;
        for day in days {
            self.read(Days::from([day]), tag, range.clone(), |samples| {
                found = choose(samples);
                Ok(())
            })?;
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }

    fn by_day(&self, tag: &str, range: &Range<i64>) -> Result<Days, TargetError> {
        let mut days = Days::new();
        for sample in self.tail.iter().filter(|sample| range.contains(&sample.time)) {
            days.entry(sample.time.div_euclid(DAY)).or_default();
        }
        for file in self.table.live(&Wanted { range: Some(range.clone()), tag: Some(tag) })? {
            days.entry(i64::from(file.day)).or_default().push(file);
        }
        Ok(days)
    }

    /// Reads days in their order, some files ahead of what is taken; days without a sample are passed over.
    fn read(
        &self,
        days: Days,
        tag: &str,
        range: Range<i64>,
        mut take: impl FnMut(Vec<Sample>) -> Result<(), TargetError>,
    ) -> Result<(), TargetError> {
        let counts: Vec<(i64, usize)> = days.iter().map(|(day, files)| (*day, files.len())).collect();
        let reader = Arc::new(Reader {
            store: self.table.store().clone(),
            tag: tag.to_owned(),
            range: range.clone(),
            bytes: self.bytes.clone(),
            runtime: self.table.runtime().clone(),
        });
        let at_once = if reader.store.is_local() { AT_ONCE } else { AT_ONCE_AFAR };
        let reads = futures_util::stream::iter(days.into_values().flatten()).map(|file| self.begin(&reader, file));
        let mut reads = reads.buffered(at_once);
        for (day, count) in counts {
            let mut samples = Vec::new();
            for _ in 0..count {
                if self.bytes.load(Relaxed) > self.budget {
                    return Err(TargetError::Refused(format!(
                        "more than {} MiB of the table would be read; ask for a shorter range",
                        self.budget >> 20
                    )));
                }
                if let Some(more) = reader.runtime.block_on(reads.next()) {
                    samples.append(&mut more?);
                }
            }
            let is_of_day = |sample: &&Sample| sample.time.div_euclid(DAY) == day && range.contains(&sample.time);
            samples.extend(self.tail.iter().filter(is_of_day).cloned());
            tidy(&mut samples);
            if !samples.is_empty() {
                take(samples)?;
            }
        }
        Ok(())
    }

    /// Begins to read a file, on a thread that may block: rows are decoded there, not where a factory's devices are served.
    fn begin(&self, reader: &Arc<Reader>, file: LiveFile) -> impl Future<Output = Result<Vec<Sample>, TargetError>> + use<> {
        self.files.fetch_add(1, Relaxed);
        let reader = reader.clone();
        let work = reader.runtime.clone().spawn_blocking(move || reader.runtime.block_on(reader.samples(&file)));
        async move { work.await.map_err(|error| TargetError::Away(format!("reading the lake broke off: {error}")))? }
    }
}

/// What is looked for in each file.
struct Reader {
    store: Store,
    tag: String,
    range: Range<i64>,
    bytes: Arc<AtomicU64>,
    runtime: tokio::runtime::Handle,
}

impl Reader {
    /// The samples of one file, in its order.
    async fn samples(&self, file: &LiveFile) -> Result<Vec<Sample>, TargetError> {
        let failed = |error: &dyn std::error::Error| TargetError::Refused(format!("cannot read {}: {}", file.name, chain(error)));
        let (tag, range) = (self.tag.as_str(), &self.range);
        let reader = Object::new(&self.store, file, self.bytes.clone());
        let Some(builder) = reader.open(|group| may_hold(group, tag, range)).await.map_err(|error| failed(&error))? else {
            return Ok(Vec::new());
        };
        let metadata = builder.metadata().clone();
        let selection = chosen(&metadata, tag, range);
        if !selection.selects_any() {
            return Ok(Vec::new());
        }
        let filled = WANTED.into_iter().filter(|name| has_values(&metadata, name));
        let mask = ProjectionMask::columns(builder.parquet_schema(), filled);
        let stream = builder.with_row_selection(selection).with_projection(mask).with_batch_size(BATCH).build();
        let mut stream = stream.map_err(|error| failed(&error))?;
        let mut samples = Vec::new();
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(|error| failed(&error))?;
            take(&batch, tag, range, &mut samples).map_err(|what| TargetError::Refused(format!("cannot read {}: {what}", file.name)))?;
            if samples.len() > MOST {
                return Err(TargetError::Refused(format!("tag {tag} has more than {MOST} samples on one day; ask for a shorter range")));
            }
        }
        Ok(samples)
    }
}

/// The place of a column among a row group's.
fn leaf(group: &RowGroupMetaData, name: &str) -> Option<usize> {
    group.columns().iter().position(|column| matches!(column.column_path().parts(), [only] if only == name))
}

/// Whether a row group may hold the tag in the range, by the least and greatest values of its columns.
fn may_hold(group: &RowGroupMetaData, tag: &str, range: &Range<i64>) -> bool {
    let statistics = |name: &str| leaf(group, name).and_then(|column| group.column(column).statistics());
    let tag_fits = statistics("tag").is_none_or(|tags| match (tags.min_bytes_opt(), tags.max_bytes_opt()) {
        (Some(min), Some(max)) => min <= tag.as_bytes() && tag.as_bytes() <= max,
        _ => true,
    });
    tag_fits
        && statistics("time").is_none_or(|times| match times {
            Statistics::Int64(times) => {
                times.min_opt().is_none_or(|min| *min < range.end) && times.max_opt().is_none_or(|max| *max >= range.start)
            }
            _ => true,
        })
}

/// The rows of the pages that may hold the tag in the range.
fn chosen(metadata: &ParquetMetaData, tag: &str, range: &Range<i64>) -> RowSelection {
    let mut selectors: Vec<RowSelector> = Vec::new();
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let rows = group.num_rows().unsigned_abs() as usize;
        let mut selection = RowSelection::from(vec![RowSelector::select(rows)]);
        for column in ["tag", "time"].into_iter().filter_map(|name| leaf(group, name)) {
            if let Some(pages) = pages(metadata, index, column, rows, tag, range) {
                selection = selection.intersection(&pages);
            }
        }
        selectors.extend(Vec::<RowSelector>::from(selection));
    }
    RowSelection::from(selectors)
}

/// Whether a column, or a list's items, has a value in one of the row groups; most columns of values have none.
fn has_values(metadata: &ParquetMetaData, name: &str) -> bool {
    let is_null = |column: &ColumnChunkMetaData| {
        let nulls = column.statistics().and_then(Statistics::null_count_opt);
        nulls.is_some_and(|nulls| nulls == column.num_values().unsigned_abs())
    };
    metadata.row_groups().iter().any(|group| {
        let columns = group.columns().iter();
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
    let values = Values::of(batch);
    // Most rows have the origin of the row before.
    let (mut word, mut origin) = ("", Origin::default());
    for row in 0..batch.num_rows() {
        if tags.is_null(row) || tags.value(row) != tag || times.is_null(row) || !range.contains(&times.value(row)) {
            continue;
        }
        let long = |of: Option<&arrow_array::Int64Array>| of.filter(|values| values.is_valid(row)).map_or(0, |values| values.value(row));
        let its_word = origins.filter(|values| values.is_valid(row)).map_or("", |values| values.value(row));
        if its_word != word {
            word = its_word;
            origin = Origin::ALL.into_iter().find(|known| known.as_str() == word).unwrap_or_default();
        }
        samples.push(Sample {
            time: times.value(row),
            seq: long(seqs),
            value: values.at(row),
            status: StatusCode(u32::try_from(long(statuses)).unwrap_or(StatusCode::BAD.0)),
            origin,
        });
    }
    Ok(())
}

/// The columns of a batch that hold values, those first that most rows have.
struct Values<'b>(Vec<Typed<'b>>);

enum Typed<'b> {
    Double(&'b arrow_array::Float64Array),
    Long(&'b arrow_array::Int64Array),
    Bool(&'b arrow_array::BooleanArray),
    Text(&'b arrow_array::StringArray),
    UInt(&'b arrow_array::Decimal128Array),
    Json(&'b arrow_array::StringArray),
    /// Bytes, or a list.
    Whole(&'b ArrayRef),
}

impl<'b> Values<'b> {
    fn of(batch: &'b RecordBatch) -> Self {
        let typed = |name: &&str| -> Option<Typed<'b>> {
            let column = batch.column_by_name(name)?;
            match *name {
                "value_double" => column.as_primitive_opt().map(Typed::Double),
                "value_long" => column.as_primitive_opt().map(Typed::Long),
                "value_bool" => column.as_boolean_opt().map(Typed::Bool),
                "value_text" => column.as_string_opt().map(Typed::Text),
                "value_uint" => column.as_primitive_opt().map(Typed::UInt),
                "value_json" => column.as_string_opt().map(Typed::Json),
                _ => Some(Typed::Whole(column)),
            }
        };
        Self(WANTED.iter().filter(|name| name.starts_with("value")).filter_map(typed).collect())
    }

    /// The value of a row, from the one column that has it.
    fn at(&self, row: usize) -> Value {
        self.0.iter().find_map(|column| column.at(row)).unwrap_or(Value::Null)
    }
}

impl Typed<'_> {
    /// `None`: the row has its value elsewhere.
    fn at(&self, row: usize) -> Option<Value> {
        match self {
            Self::Double(values) => values.is_valid(row).then(|| Value::Double(values.value(row))),
            Self::Long(values) => values.is_valid(row).then(|| Value::Long(values.value(row))),
            Self::Bool(values) => values.is_valid(row).then(|| Value::Bool(values.value(row))),
            Self::Text(values) => values.is_valid(row).then(|| Value::Text(values.value(row).to_owned())),
            Self::UInt(values) => values.is_valid(row).then(|| u64::try_from(values.value(row)).map_or(Value::Null, Value::UInt)),
            Self::Json(values) => values.is_valid(row).then(|| Value::Json(values.value(row).to_owned())),
            Self::Whole(column) => column.is_valid(row).then(|| Value::Json(arrow_text(column, row))),
        }
    }
}

/// Bytes, or the items of a list, as JSON.
fn arrow_text(column: &ArrayRef, row: usize) -> String {
    if let Some(bytes) = column.as_binary_opt::<i32>() {
        return serde_json::Value::from(hex(bytes.value(row))).to_string();
    }
    let Some(list) = column.as_list_opt::<i32>() else { return String::new() };
    let items = list.value(row);
    let item = |index: usize| -> serde_json::Value {
        if let Some(values) = items.as_primitive_opt::<arrow_array::types::Float64Type>() {
            return shown::number(values.value(index));
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
