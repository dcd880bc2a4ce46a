//! Documents to Parquet: in the order in which they came, a column per field.

use crate::encode::{Encoded, FileWriter, Form, failed};
use arrow_array::builder::{Decimal128Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, RecordBatch, new_null_array};
use arrow_schema::DataType;
use delta_kernel::expressions::ColumnName;
use millrace_kit::documents::{Cell, Column, Day};
use millrace_kit::parts::TargetError;
use std::ops::Range;
use std::sync::Arc;

/// Values made into columns at once, nulls too.
const CHUNK: usize = 1 << 18;

/// The file of one day. `columns`: those that the cells speak of.
pub fn encode(day: &Day, columns: &[Column], stats_columns: &[ColumnName], form: &Form) -> Result<Encoded, TargetError> {
    let mut file = FileWriter::new(stats_columns, form)?;
    let rows = (CHUNK / columns.len().max(1)).max(64);
    for start in (0..day.len()).step_by(rows) {
        file.write(&batch(day, columns, form, start..(start + rows).min(day.len()))?)?;
    }
    file.finish()
}

fn batch(day: &Day, columns: &[Column], form: &Form, rows: Range<usize>) -> Result<RecordBatch, TargetError> {
    let count = rows.len();
    let cells = day.columns(columns.len(), rows);
    let arrays = form.arrow.fields().iter().map(|field| {
        let cells = columns.iter().position(|column| *column.name == **field.name()).map(|index| &cells[index]);
        match cells {
            Some(cells) => array(cells, field.data_type(), day),
            // Of another writer, added meanwhile.
            None => Ok(new_null_array(field.data_type(), count)),
        }
    });
    let arrays = arrays.collect::<Result<Vec<_>, TargetError>>()?;
    RecordBatch::try_new(form.arrow.clone(), arrays).map_err(|error| failed(&error))
}

fn array(cells: &[Option<Cell>], of: &DataType, day: &Day) -> Result<ArrayRef, TargetError> {
    let long = |cell: &Option<Cell>| match cell {
        Some(Cell::Long(value)) => Some(*value),
        _ => None,
    };
    Ok(match of {
        DataType::Boolean => Arc::new(BooleanArray::from_iter(cells.iter().map(|cell| match cell {
            Some(Cell::Bool(value)) => Some(*value),
            _ => None,
        }))),
        DataType::Int64 => Arc::new(Int64Array::from_iter(cells.iter().map(long))),
        DataType::Float64 => Arc::new(Float64Array::from_iter(cells.iter().map(|cell| match cell {
            Some(Cell::Double(value)) => Some(*value),
            _ => None,
        }))),
        DataType::Date32 => Arc::new(Date32Array::from_iter(cells.iter().map(|cell| match cell {
            Some(Cell::Days(value)) => Some(*value),
            _ => None,
        }))),
        DataType::Timestamp(..) => {
            let mut times = TimestampMicrosecondBuilder::with_capacity(cells.len());
            cells.iter().for_each(|cell| times.append_option(long(cell)));
            Arc::new(times.finish().with_timezone("UTC"))
        }
        DataType::Decimal128(..) => {
            let mut values = Decimal128Builder::with_capacity(cells.len()).with_data_type(of.clone());
            cells.iter().for_each(|cell| match cell {
                Some(Cell::Decimal(value)) => values.append_value(*value),
                _ => values.append_null(),
            });
            Arc::new(values.finish())
        }
        DataType::Utf8 => {
            let mut texts = StringBuilder::new();
            cells.iter().for_each(|cell| match cell {
                Some(Cell::Text(span)) => texts.append_value(day.text(*span)),
                _ => texts.append_null(),
            });
            Arc::new(texts.finish())
        }
        // A column of somebody else's: no cell can be for it.
        other => new_null_array(other, cells.len()),
    })
}
