//! A value with its meaning into a batch.

use super::datatype::{DataType, Mismatch, Typed, booleans, items, micros, numbers, texts};
use super::json;
use millrace_schemas::{Batch, Value};

/// Puts a value into a batch. Data sets and templates become JSON there.
pub fn store(value: Typed<'_>, batch: &mut Batch) -> Result<Value, Mismatch> {
    Ok(match value {
        Typed::Null => Value::Null,
        Typed::Bool(value) => Value::Bool(value),
        Typed::Int(value) => Value::Int(value),
        Typed::UInt(value) => Value::UInt(value),
        Typed::Double(value) => Value::Double(value),
        Typed::Text(text) => batch.text(text),
        Typed::Bytes(bytes) => Value::Bytes(batch.push_bytes(bytes)),
        Typed::Array(kind, bytes) => array(kind, bytes, batch)?,
        Typed::DataSet(_) | Typed::Template(_) => {
            let start = batch.heap.len();
            if let Err(mismatch) = json::push(value, &mut batch.heap, 0) {
                batch.heap.truncate(start);
                return Err(mismatch);
            }
            Value::Struct(batch.span_from(start))
        }
    })
}

fn array(kind: DataType, bytes: &[u8], batch: &mut Batch) -> Result<Value, Mismatch> {
    use DataType as T;
    Ok(match kind {
        T::FloatArray | T::DoubleArray => {
            let items = numbers(kind, bytes)?.map(|item| match item {
                Typed::Double(value) => value,
                _ => f64::NAN,
            });
            batch.doubles(items, &[])
        }
        T::UInt64Array => batch.uints(items::<8>(bytes)?.map(u64::from_le_bytes), &[]),
        T::BooleanArray => batch.bools(booleans(bytes)?, &[]),
        T::StringArray => {
            let texts = texts(bytes)?;
            batch.texts(texts, &[])
        }
        T::DateTimeArray => {
            if items::<8>(bytes)?.any(|item| micros(u64::from_le_bytes(item)).is_err()) {
                return Err(Mismatch);
            }
            batch.longs(items::<8>(bytes)?.map(|item| i64::from_le_bytes(item) * 1000), &[])
        }
        _ => {
            let items = numbers(kind, bytes)?.map(|item| match item {
                Typed::Int(value) => value,
                _ => 0,
            });
            batch.longs(items, &[])
        }
    })
}
