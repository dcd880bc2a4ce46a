//! Rows of an answer: as JSON has them, or as a Parquet file.

use crate::shown;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::Result;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::Value;

/// So many rows of these.
pub fn first(batches: Vec<RecordBatch>, rows: usize) -> Vec<RecordBatch> {
    let mut left = rows;
    let cut = batches.into_iter().map(|batch| {
        let take = batch.num_rows().min(left);
        left -= take;
        batch.slice(0, take)
    });
    cut.filter(|batch| batch.num_rows() > 0).collect()
}

pub fn parquet(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default())).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?;
    for batch in batches {
        writer.write(batch)?;
    }
    Ok(writer.into_inner()?)
}

pub fn rows(batches: &[RecordBatch]) -> Result<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            rows.push(batch.columns().iter().map(|column| value(column, row)).collect::<Result<Vec<_>>>()?);
        }
    }
    Ok(rows)
}

/// JSON has no NaN and no date: texts. What is exact stays exact.
fn value(column: &dyn Array, row: usize) -> Result<Value> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    let time = |micros: i64| Value::from(shown::time(micros));
    Ok(match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Float64 => shown::number(column.as_primitive::<Float64Type>().value(row)),
        DataType::Float32 => shown::number(f64::from(column.as_primitive::<Float32Type>().value(row))),
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => time(column.as_primitive::<TimestampMicrosecondType>().value(row)),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => time(column.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1000)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            time(column.as_primitive::<TimestampMillisecondType>().value(row).saturating_mul(1000))
        }
        DataType::Timestamp(TimeUnit::Second, _) => time(column.as_primitive::<TimestampSecondType>().value(row).saturating_mul(1_000_000)),
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>().value(row);
            jiff::civil::date(1970, 1, 1).saturating_add(jiff::Span::new().days(i64::from(days))).to_string().into()
        }
        // 20 digits and more are no number of JSON's.
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().value_as_string(row).into(),
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            Value::Array((0..items.len()).map(|item| value(&items, item)).collect::<Result<_>>()?)
        }
        of => {
            let text = ArrayFormatter::try_new(column, &FormatOptions::default())?.value(row).try_to_string()?;
            match text.parse::<serde_json::Number>() {
                Ok(number) if of.is_integer() => Value::Number(number),
                _ => text.into(),
            }
        }
    })
}
