//! All samples of a range, as they were in Kafka: for who sends them once more.
//!
//! Day by day, folder by folder, and in each sorted by tag, time and number: where a walk broke off, the next one goes on behind the last key.

use crate::config::Shape;
use crate::mark::{Each, Mark};
use crate::object::LiveFile;
use crate::target::{Target, Wanted};
use crate::upkeep::Merging;
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use millrace_config::Reason;
use millrace_kit::parts::TargetError;
use millrace_schemas::{Batch, Columns, Flags, Micros, Origin, Row, StatusCode, TagId, TimeSource, Value};
use std::collections::BTreeMap;
use std::ops::Range;

/// Hands on every sample of a range of microseconds since 1970 that lies behind `after`: a batch, and its place.
///
/// Errors: the table can't be read, holds no samples, or what `each` says.
pub fn walk(table: &mut Target, range: &Range<i64>, after: Option<&Mark>, each: &mut Each<'_>) -> Result<(), TargetError> {
    table.prepare()?;
    if !matches!(table.shape(), Shape::Samples(_)) {
        return Err(TargetError::Refused(format!("the table {} holds documents, and samples can be replayed", table.store().url)));
    }
    let mut folders: BTreeMap<(i32, String), Vec<LiveFile>> = BTreeMap::new();
    for file in table.live(&Wanted { range: Some(range.clone()), tag: None })? {
        folders.entry((file.day, file.level.as_deref().unwrap_or_default().to_owned())).or_default().push(file);
    }
    let form = table.form()?;
    let runtime = table.runtime().clone();
    for ((day, level), files) in folders {
        if after.is_some_and(|after| (day, level.as_str()) < (after.0, after.1.as_str())) {
            continue;
        }
        let mut merging = runtime.block_on(Merging::open(table.store(), &form, &files))?;
        while let Some(rows) = runtime.block_on(merging.next())? {
            for row in 0..rows.num_rows() {
                let mut batch = Batch::new();
                sample(&rows, row, &mut batch).map_err(|what| TargetError::Refused(format!("a row of {} {what}", table.store().url)))?;
                let Some(columns) = &batch.decoded else { continue };
                let tag = batch.text_of(columns.tag_path[0]).to_owned();
                let place = (day, level.clone(), tag, batch.rows[0].time.0, columns.seq[0]);
                if after.is_none_or(|after| place > *after) {
                    each(&batch, place).map_err(|why| TargetError::Away(why.into()))?;
                }
            }
        }
    }
    Ok(())
}

/// Reads one row as a decoded sample.
fn sample(rows: &RecordBatch, row: usize, batch: &mut Batch) -> Result<(), Reason> {
    let text = |name: &str| {
        let column = rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()).filter(|column| column.is_valid(row));
        column.map_or("", |column| column.value(row))
    };
    let long = |name: &str| {
        let column = rows.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let time = |name: &str| {
        let column = rows.column_by_name(name)?.as_primitive_opt::<TimestampMicrosecondType>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let at = time("time").ok_or("has no time")?;
    let def = rows.column_by_name("def").and_then(|column| column.as_primitive_opt::<Int32Type>()).filter(|column| column.is_valid(row));
    let mut columns = Columns::default();
    columns.tag_path.push(batch.push_bytes(text("tag").as_bytes()));
    columns.source.push(batch.push_bytes(text("source").as_bytes()));
    columns.read_time.push(Micros(at + long("read_delay").unwrap_or(0)));
    columns.device_time.push(time("device_time").map_or(Micros::NONE, Micros));
    columns.def.push(def.map_or(0, |column| column.value(row)));
    columns.seq.push(long("seq").ok_or("has no number")?);
    let value = value(rows, row, batch)?;
    let origin = Origin::ALL.into_iter().find(|known| known.as_str() == text("origin")).unwrap_or_default();
    let time_source = TimeSource::ALL.into_iter().find(|known| known.as_str() == text("time_source")).unwrap_or_default();
    batch.rows.push(Row {
        time: Micros(at),
        server_time: time("server_time").map_or(Micros::NONE, Micros),
        value,
        tag: TagId::NONE,
        status: StatusCode(u32::try_from(long("status").unwrap_or(0)).unwrap_or(StatusCode::BAD.0)),
        flags: Flags { origin, time_source },
    });
    batch.decoded = Some(columns);
    Ok(())
}

/// The value of a row, from the one column that has it, as the type it was.
fn value(rows: &RecordBatch, row: usize, batch: &mut Batch) -> Result<Value, Reason> {
    let there = |name: &str| rows.column_by_name(name).filter(|column| column.is_valid(row));
    let other = |name: &str| format!("has a column `{name}` of another type");
    let uint = |value: i128| u64::try_from(value).map_err(|_| "has an unsigned value that is none".to_owned());
    if let Some(column) = there("value_double") {
        return Ok(Value::Double(column.as_primitive_opt::<Float64Type>().ok_or_else(|| other("value_double"))?.value(row)));
    }
    if let Some(column) = there("value_long") {
        return Ok(Value::Int(column.as_primitive_opt::<Int64Type>().ok_or_else(|| other("value_long"))?.value(row)));
    }
    if let Some(column) = there("value_bool") {
        return Ok(Value::Bool(column.as_boolean_opt().ok_or_else(|| other("value_bool"))?.value(row)));
    }
    if let Some(column) = there("value_uint") {
        return uint(column.as_primitive_opt::<Decimal128Type>().ok_or_else(|| other("value_uint"))?.value(row))
            .map(Value::UInt)
            .map_err(Reason::from);
    }
    if let Some(column) = there("value_text") {
        return Ok(batch.text(column.as_string_opt::<i32>().ok_or_else(|| other("value_text"))?.value(row)));
    }
    if let Some(column) = there("value_json") {
        let text = column.as_string_opt::<i32>().ok_or_else(|| other("value_json"))?.value(row);
        return Ok(Value::Struct(batch.push_bytes(text.as_bytes())));
    }
    if let Some(column) = there("value_bytes") {
        let bytes = column.as_binary_opt::<i32>().ok_or_else(|| other("value_bytes"))?.value(row);
        return Ok(Value::Bytes(batch.push_bytes(bytes)));
    }
    let items = |name: &str| there(name).and_then(|column| column.as_list_opt::<i32>()).map(|list| list.value(row));
    let dims: Vec<i32> = items(crate::layout::DIMS)
        .and_then(|items| items.as_primitive_opt::<Int32Type>().map(|dims| dims.values().to_vec()))
        .unwrap_or_default();
    if let Some(items) = items("values_double") {
        let items = items.as_primitive_opt::<Float64Type>().ok_or_else(|| other("values_double"))?;
        return Ok(batch.doubles(items.values().iter().copied(), &dims));
    }
    if let Some(items) = items("values_long") {
        let items = items.as_primitive_opt::<Int64Type>().ok_or_else(|| other("values_long"))?;
        return Ok(batch.longs(items.values().iter().copied(), &dims));
    }
    if let Some(items) = items("values_bool") {
        let items = items.as_boolean_opt().ok_or_else(|| other("values_bool"))?;
        return Ok(batch.bools(items.iter().flatten(), &dims));
    }
    if let Some(items) = items("values_uint") {
        let items = items.as_primitive_opt::<Decimal128Type>().ok_or_else(|| other("values_uint"))?;
        let items = items.values().iter().map(|value| uint(*value)).collect::<Result<Vec<u64>, _>>()?;
        return Ok(batch.uints(items, &dims));
    }
    if let Some(items) = items("values_text") {
        let items = items.as_string_opt::<i32>().ok_or_else(|| other("values_text"))?;
        return Ok(batch.texts(items.iter().flatten(), &dims));
    }
    if let Some(items) = items("values_bytes") {
        let items = items.as_binary_opt::<i32>().ok_or_else(|| other("values_bytes"))?;
        return Ok(batch.blobs(items.iter().flatten(), &dims));
    }
    Ok(Value::Null)
}
