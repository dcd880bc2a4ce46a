//! An answer as a Parquet file, for whoever goes on with it in Python or SQL: the columns of the table, for one tag or several.
//!
//! | answer | columns behind `tag` and `time` |
//! |---|---|
//! | samples | `value_double`, `value_long`, `value_uint`, `value_bool`, `value_text`, `value_json`, `quality`, `status`, `origin` |
//! | averages | `mean`, `min`, `max`, `last`, `count`, `increase`, `covered`, `quality` |
//! | points | `value`, `quality` |
//!
//! The file's metadata say up to when it is complete: `millrace.complete_until`.

use crate::ask::Answer;
use millrace_config::Reason;

/// Errors: this build can't.
#[cfg(not(feature = "tables"))]
pub fn parquet(_answers: &[(String, Answer)], _complete_until: &str) -> Result<Vec<u8>, Reason> {
    Err("this build can't write Parquet; build it with the feature `lake`: cargo build --release -p millrace --features lake".into())
}

/// The file's bytes. `complete_until`: for a person, in the metadata.
///
/// Errors: what Parquet says.
#[cfg(feature = "tables")]
pub fn parquet(answers: &[(String, Answer)], complete_until: &str) -> Result<Vec<u8>, Reason> {
    tables::parquet(answers, complete_until)
}

#[cfg(feature = "tables")]
mod tables {
    use crate::ask::{Answer, Series};
    use crate::series::{Bucket, Point, Sample, Value};
    use arrow_array::builder::{
        BooleanBuilder, Decimal128Builder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
    };
    use arrow_array::{ArrayRef, RecordBatch};
    use arrow_schema::DataType;
    use millrace_config::Reason;
    use parquet::arrow::ArrowWriter;
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::file::metadata::KeyValue;
    use parquet::file::properties::WriterProperties;
    use std::sync::Arc;

    /// Rows made into columns at once.
    const CHUNK: usize = 65_536;

    pub fn parquet(answers: &[(String, Answer)], complete_until: &str) -> Result<Vec<u8>, Reason> {
        let mut writer: Option<ArrowWriter<Vec<u8>>> = None;
        for (tag, answer) in answers {
            for batch in batches(tag, &answer.series)? {
                let writer = match &mut writer {
                    Some(writer) => writer,
                    none => none.insert(begun(&batch, complete_until)?),
                };
                writer.write(&batch).map_err(|error| error.to_string())?;
            }
        }
        let writer = writer.ok_or("no tag was asked for")?;
        writer.into_inner().map_err(|error| error.to_string().into())
    }

    fn begun(batch: &RecordBatch, complete_until: &str) -> Result<ArrowWriter<Vec<u8>>, Reason> {
        let properties = WriterProperties::builder()
            .set_created_by(concat!("millrace ", env!("CARGO_PKG_VERSION")).into())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default()))
            .set_key_value_metadata(Some(vec![KeyValue::new("millrace.complete_until".to_owned(), complete_until.to_owned())]))
            .build();
        ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).map_err(|error| error.to_string().into())
    }

    /// At least one, so that a tag without samples leaves a file with its columns.
    fn batches(tag: &str, series: &Series) -> Result<Vec<RecordBatch>, Reason> {
        fn each<T>(rows: &[T], made: impl Fn(&[T]) -> Result<RecordBatch, Reason>) -> Result<Vec<RecordBatch>, Reason> {
            if rows.is_empty() { Ok(vec![made(rows)?]) } else { rows.chunks(CHUNK).map(made).collect() }
        }
        match series {
            Series::Samples(rows) => each(rows, |rows| samples(tag, rows)),
            Series::Buckets(rows) => each(rows, |rows| buckets(tag, rows)),
            Series::Points(rows) => each(rows, |rows| points(tag, rows)),
        }
    }

    fn batch(tag: &str, times: impl ExactSizeIterator<Item = i64>, more: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, Reason> {
        let (mut tags, mut at) = (StringBuilder::new(), TimestampMicrosecondBuilder::new());
        for time in times {
            tags.append_value(tag);
            at.append_value(time);
        }
        let first: [(&str, ArrayRef); 2] = [("tag", Arc::new(tags.finish())), ("time", Arc::new(at.finish().with_timezone("UTC")))];
        let columns = first.into_iter().chain(more).map(|(name, array)| (name, array, true));
        RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| error.to_string().into())
    }

    fn doubles<T>(rows: &[T], of: impl Fn(&T) -> Option<f64>) -> ArrayRef {
        let mut column = Float64Builder::with_capacity(rows.len());
        rows.iter().for_each(|row| column.append_option(of(row)));
        Arc::new(column.finish())
    }

    fn longs<T>(rows: &[T], of: impl Fn(&T) -> Option<i64>) -> ArrayRef {
        let mut column = Int64Builder::with_capacity(rows.len());
        rows.iter().for_each(|row| column.append_option(of(row)));
        Arc::new(column.finish())
    }

    fn texts<'r, T>(rows: &'r [T], of: impl Fn(&'r T) -> Option<&'r str>) -> ArrayRef {
        let mut column = StringBuilder::new();
        rows.iter().for_each(|row| column.append_option(of(row)));
        Arc::new(column.finish())
    }

    fn samples(tag: &str, rows: &[Sample]) -> Result<RecordBatch, Reason> {
        let mut bools = BooleanBuilder::with_capacity(rows.len());
        let mut uints = Decimal128Builder::with_capacity(rows.len()).with_data_type(DataType::Decimal128(20, 0));
        for row in rows {
            bools.append_option(if let Value::Bool(value) = row.value { Some(value) } else { None });
            uints.append_option(if let Value::UInt(value) = row.value { Some(i128::from(value)) } else { None });
        }
        let more: Vec<(&str, ArrayRef)> = vec![
            ("value_double", doubles(rows, |row| if let Value::Double(value) = row.value { Some(value) } else { None })),
            ("value_long", longs(rows, |row| if let Value::Long(value) = row.value { Some(value) } else { None })),
            ("value_uint", Arc::new(uints.finish())),
            ("value_bool", Arc::new(bools.finish())),
            ("value_text", texts(rows, |row| if let Value::Text(value) = &row.value { Some(value) } else { None })),
            ("value_json", texts(rows, |row| if let Value::Json(value) = &row.value { Some(value) } else { None })),
            ("quality", texts(rows, |row| Some(row.status.quality().as_str()))),
            ("status", longs(rows, |row| Some(i64::from(row.status.0)))),
            ("origin", texts(rows, |row| Some(row.origin.as_str()))),
        ];
        batch(tag, rows.iter().map(|row| row.time), more)
    }

    fn buckets(tag: &str, rows: &[Bucket]) -> Result<RecordBatch, Reason> {
        let more: Vec<(&str, ArrayRef)> = vec![
            ("mean", doubles(rows, |row| row.mean)),
            ("min", doubles(rows, |row| row.min)),
            ("max", doubles(rows, |row| row.max)),
            ("last", doubles(rows, |row| row.last)),
            ("count", longs(rows, |row| i64::try_from(row.count).ok())),
            ("increase", doubles(rows, |row| Some(row.increase))),
            ("covered", doubles(rows, |row| Some(row.covered))),
            ("quality", texts(rows, |row| Some(row.worst.as_str()))),
        ];
        batch(tag, rows.iter().map(|row| row.start), more)
    }

    fn points(tag: &str, rows: &[Point]) -> Result<RecordBatch, Reason> {
        let more: Vec<(&str, ArrayRef)> =
            vec![("value", doubles(rows, |row| row.value)), ("quality", texts(rows, |row| Some(row.quality.as_str())))];
        batch(tag, rows.iter().map(|row| row.time), more)
    }
}
