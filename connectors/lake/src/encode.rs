//! Rows to Parquet: sorted by tag and time, in encodings for a historian's questions.
//!
//! - times, sequence numbers and delays as differences, doubles with their bytes apart, words that repeat as a dictionary, all in zstd;
//! - row groups of a million rows with the least and greatest value of every column, pages of 8,192 with those of tag and time: one tag of a file is
//!   found without reading the others, and an index of all columns would be larger than what it saves.

use crate::config::Shape;
use crate::layout::{COLUMNS, DIMS, file_schema, items};
use crate::rows::{Buffer, Folder, Names, Rows, Sample};
use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, Decimal128Builder, Float64Builder, Int32Builder, Int64Builder, ListBuilder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch, StringArray, StructArray};
use arrow_schema::{FieldRef, SchemaRef};
use delta_kernel::expressions::ColumnName;
use delta_kernel::schema::StructType;
use delta_kernel_default_engine::stats::FileStatsAccumulator;
use millrace_kit::parts::TargetError;
use millrace_schemas::record::Array;
use millrace_schemas::{Kind, Value};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use std::sync::Arc;

/// Rows made into columns at once.
const CHUNK: usize = 16_384;
const ROW_GROUP: usize = 1_000_000;
const PAGE_ROWS: usize = 8_192;
/// By what pages are looked for.
const FOUND_BY: [&str; 2] = ["tag", "time"];
/// What the dictionary encoding can't make smaller.
const DIFFERENCES: [&str; 8] = ["time", "seq", "read_delay", "server_time", "device_time", "kafka_offset", "kafka_time", "millrace_seq"];

/// What the files of a table are made of.
#[derive(Clone, Debug)]
pub struct Form {
    pub schema: StructType,
    pub arrow: SchemaRef,
    pub holds: Shape,
    /// The level stands in the files, too, as the last column, with this value.
    pub level: Option<Option<Arc<str>>>,
}

impl Form {
    /// Of a table with this schema.
    pub fn new(holds: &Shape, table: &StructType) -> Result<Self, TargetError> {
        let made = file_schema(holds, table);
        let (schema, arrow) = made.map_err(|error| TargetError::Refused(format!("the table's columns can't be made: {error}")))?;
        Ok(Self { schema, arrow, holds: holds.clone(), level: None })
    }

    /// For the files of one folder.
    pub fn of(&self, folder: &Folder) -> Self {
        Self { level: self.level.as_ref().map(|_| folder.level.clone()), ..self.clone() }
    }
}

/// The properties of every file.
pub fn properties(form: &Form) -> WriterProperties {
    let column = |name: &str| ColumnPath::from(name);
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("millrace ", env!("CARGO_PKG_VERSION")).into())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default()))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(4096)
        .set_statistics_enabled(EnabledStatistics::Page);
    if let Shape::Samples(_) = form.holds {
        let by = [0, 1].map(|column_idx| SortingColumn { column_idx, descending: false, nulls_first: false });
        builder = builder.set_sorting_columns(Some(by.to_vec())).set_statistics_enabled(EnabledStatistics::Chunk);
        for name in FOUND_BY {
            builder = builder.set_column_statistics_enabled(column(name), EnabledStatistics::Page);
        }
    }
    for name in DIFFERENCES {
        builder =
            builder.set_column_dictionary_enabled(column(name), false).set_column_encoding(column(name), Encoding::DELTA_BINARY_PACKED);
    }
    builder
        .set_column_dictionary_enabled(column("value_double"), false)
        .set_column_encoding(column("value_double"), Encoding::BYTE_STREAM_SPLIT)
        .build()
}

/// A file as it is to be put.
pub struct Encoded {
    pub bytes: Vec<u8>,
    pub rows: usize,
    /// For the log: counts, least and greatest values.
    pub stats: Option<StructArray>,
}

/// A Parquet file being made, and the statistics beside it.
pub struct FileWriter {
    writer: ArrowWriter<Vec<u8>>,
    stats: FileStatsAccumulator,
    rows: usize,
}

impl FileWriter {
    pub fn new(stats_columns: &[ColumnName], form: &Form) -> Result<Self, TargetError> {
        // Readers take the types from Parquet itself.
        let options = ArrowWriterOptions::new().with_properties(properties(form)).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Vec::new(), form.arrow.clone(), options).map_err(|error| failed(&error))?;
        Ok(Self { writer, stats: FileStatsAccumulator::new(stats_columns, &form.schema), rows: 0 })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), TargetError> {
        self.writer.write(batch).map_err(|error| failed(&error))?;
        self.stats.merge(batch).map_err(|error| failed(&error))?;
        self.rows += batch.num_rows();
        Ok(())
    }

    pub fn finish(self) -> Result<Encoded, TargetError> {
        let bytes = self.writer.into_inner().map_err(|error| failed(&error))?;
        let stats = self.stats.finish().map_err(|error| failed(&error))?;
        Ok(Encoded { bytes, rows: self.rows, stats })
    }
}

/// The file of one buffer.
pub fn encode(buffer: &Buffer, names: &Names, ranks: &[u32], stats_columns: &[ColumnName], form: &Form) -> Result<Encoded, TargetError> {
    let order = buffer.order(ranks);
    let mut file = FileWriter::new(stats_columns, form)?;
    for chunk in order.chunks(CHUNK) {
        file.write(&batch(form, buffer, names, chunk)?)?;
    }
    file.finish()
}

/// All that waits, as columns of files; by folder.
pub fn batches(rows: &Rows, form: &Form) -> Result<Vec<(Folder, RecordBatch)>, TargetError> {
    let ranks = rows.names.ranks();
    let mut all = Vec::new();
    for (folder, buffer) in rows.folders() {
        for chunk in buffer.order(&ranks).chunks(CHUNK) {
            all.push((folder.clone(), batch(&form.of(folder), buffer, &rows.names, chunk)?));
        }
    }
    Ok(all)
}

pub fn failed(error: &dyn std::error::Error) -> TargetError {
    TargetError::Refused(format!("cannot write Parquet: {}", crate::store::chain(error)))
}

/// Sorted samples as columns.
fn batch(form: &Form, buffer: &Buffer, names: &Names, places: &[u32]) -> Result<RecordBatch, TargetError> {
    let (chosen, schema) = (Chosen { buffer, names, places }, &form.arrow);
    let mut columns: Vec<ArrayRef> = COLUMNS.iter().chain([&DIMS]).map(|column| chosen.column(column, schema)).collect();
    if let Some(level) = &form.level {
        columns.push(Arc::new(std::iter::repeat_n(level.as_deref(), places.len()).collect::<StringArray>()));
    }
    RecordBatch::try_new(schema.clone(), columns).map_err(|error| failed(&error))
}

struct Chosen<'a> {
    buffer: &'a Buffer,
    names: &'a Names,
    places: &'a [u32],
}

impl<'a> Chosen<'a> {
    fn samples(&self) -> impl Iterator<Item = &'a Sample> {
        let samples = &self.buffer.samples;
        self.places.iter().map(move |place| &samples[*place as usize])
    }

    fn long(&self, of: impl Fn(&Sample) -> Option<i64>) -> ArrayRef {
        Arc::new(self.samples().map(of).collect::<arrow_array::Int64Array>())
    }

    fn words<'t>(&'t self, of: impl Fn(&Sample) -> &'t str) -> ArrayRef {
        let mut words = StringBuilder::with_capacity(self.places.len(), self.places.len() * 16);
        self.samples().for_each(|sample| words.append_value(of(sample)));
        Arc::new(words.finish())
    }

    fn times(&self, of: impl Fn(&Sample) -> Option<i64>) -> ArrayRef {
        let mut times = TimestampMicrosecondBuilder::with_capacity(self.places.len());
        self.samples().for_each(|sample| times.append_option(of(sample)));
        Arc::new(times.finish().with_timezone("UTC"))
    }

    fn column(&self, column: &str, schema: &SchemaRef) -> ArrayRef {
        let heap = &self.buffer.heap;
        let count = self.places.len();
        match column {
            "tag" => self.words(|s| self.names.text(s.tag)),
            "time" => self.times(|s| Some(s.time)),
            "server_time" => self.times(|s| Some(s.server_time).filter(|time| *time != 0)),
            "device_time" => self.times(|s| Some(s.device_time).filter(|time| *time != 0)),
            "status" => self.long(|s| Some(i64::from(s.status.0))),
            "quality" => self.words(|s| s.status.quality().as_str()),
            "origin" => self.words(|s| s.flags.origin.as_str()),
            "time_source" => self.words(|s| s.flags.time_source.as_str()),
            "read_delay" => self.long(|s| Some(s.read_delay)),
            "source" => self.words(|s| self.names.text(s.source)),
            "seq" => self.long(|s| Some(s.seq)),
            "def" => Arc::new(self.samples().map(|s| Some(s.def)).collect::<arrow_array::Int32Array>()),
            "value_long" => self.long(|s| match s.value {
                Value::Int(value) => Some(value),
                _ => None,
            }),
            "value_double" => {
                let of = |s: &Sample| match s.value {
                    Value::Double(value) => Some(value),
                    _ => None,
                };
                Arc::new(self.samples().map(of).collect::<arrow_array::Float64Array>())
            }
            "value_bool" => {
                let of = |s: &Sample| match s.value {
                    Value::Bool(value) => Some(value),
                    _ => None,
                };
                Arc::new(self.samples().map(of).collect::<arrow_array::BooleanArray>())
            }
            "value_uint" => {
                let mut values = decimals(count);
                self.samples().for_each(|s| match s.value {
                    Value::UInt(value) => values.append_value(i128::from(value)),
                    _ => values.append_null(),
                });
                Arc::new(values.finish())
            }
            "value_bytes" => {
                let mut values = BinaryBuilder::new();
                self.samples().for_each(|s| match s.value {
                    Value::Bytes(span) => values.append_value(span.of(heap)),
                    _ => values.append_null(),
                });
                Arc::new(values.finish())
            }
            "value_text" | "value_json" => {
                let mut values = StringBuilder::new();
                self.samples().for_each(|s| match (s.value, column) {
                    (Value::Text(span), "value_text") | (Value::Struct(span), "value_json") => values.append_value(utf8(span.of(heap))),
                    _ => values.append_null(),
                });
                Arc::new(values.finish())
            }
            _ => self.list(column, items(schema, column)),
        }
    }

    /// An array's items, or a matrix's dimensions.
    fn list(&self, column: &str, field: Option<FieldRef>) -> ArrayRef {
        let longs = |items: Vec<i64>, to: &mut Int64Builder| items.into_iter().for_each(|item| to.append_value(item));
        match column {
            "values_double" => self.lists(Float64Builder::new(), field, |array, to| {
                (array.kind == Kind::Double).then(|| array.words().for_each(|word| to.append_value(f64::from_le_bytes(word)))).is_some()
            }),
            "values_long" => self.lists(Int64Builder::new(), field, |array, to| match array.kind {
                Kind::Int => {
                    longs(array.words().map(i64::from_le_bytes).collect(), to);
                    true
                }
                Kind::UInt if fits_longs(array) => {
                    longs(array.words().map(|word| u64::from_le_bytes(word) as i64).collect(), to);
                    true
                }
                _ => false,
            }),
            "values_uint" => self.lists(decimals(0), field, |array, to| {
                let is_so = array.kind == Kind::UInt && !fits_longs(array);
                if is_so {
                    array.words().for_each(|word| to.append_value(i128::from(u64::from_le_bytes(word))));
                }
                is_so
            }),
            "values_bool" => self.lists(BooleanBuilder::new(), field, |array, to| {
                (array.kind == Kind::Bool).then(|| array.bools().for_each(|item| to.append_value(item))).is_some()
            }),
            "values_text" => self.lists(StringBuilder::new(), field, |array, to| {
                (array.kind == Kind::Text).then(|| array.blobs().for_each(|item| to.append_value(utf8(item)))).is_some()
            }),
            "values_bytes" => self.lists(BinaryBuilder::new(), field, |array, to| {
                (array.kind == Kind::Bytes).then(|| array.blobs().for_each(|item| to.append_value(item))).is_some()
            }),
            _ => self.lists(Int32Builder::new(), field, |array, to| {
                array.dims().for_each(|dim| to.append_value(dim));
                array.dims().len() > 0
            }),
        }
    }

    /// `fill` appends the items of the arrays that belong into this column, and says whether it is one.
    fn lists<B: ArrayBuilder>(&self, items: B, field: Option<FieldRef>, fill: impl Fn(&Array<'_>, &mut B) -> bool) -> ArrayRef {
        let mut lists = ListBuilder::new(items);
        if let Some(field) = field {
            lists = lists.with_field(field);
        }
        for sample in self.samples() {
            let is_so = match sample.value {
                Value::Array(kind, span) => Array::read(kind, span, &self.buffer.heap).is_some_and(|array| fill(&array, lists.values())),
                _ => false,
            };
            lists.append(is_so);
        }
        Arc::new(lists.finish())
    }
}

fn decimals(capacity: usize) -> Decimal128Builder {
    Decimal128Builder::with_capacity(capacity).with_data_type(arrow_schema::DataType::Decimal128(20, 0))
}

fn fits_longs(array: &Array<'_>) -> bool {
    array.words().all(|word| i64::try_from(u64::from_le_bytes(word)).is_ok())
}

/// It was checked when it came.
fn utf8(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
