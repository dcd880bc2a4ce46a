//! The columns of a sample: one for each type of value, so that none becomes another. And the [`Shape`] of a table: samples, or documents.
//!
//! ```text
//! tag, time                      what, and when; a file is sorted by them (time: microseconds, UTC)
//! value_double .. value_json     the value, in the one column of its type; all null: no value came
//! values_double .. values_bytes  an array's items, and `dims` of a matrix
//! status, quality                OPC UA's status code, and its severity in a word
//! read_delay                     read_time - time, microseconds: small, so that it takes less room
//! source, seq                    the identity
//! date, and one level            the folders
//! ```

use crate::config::{DATE, DOCUMENTS_DATE, Level, Shape};
use arrow_schema::{DataType as ArrowType, Schema as ArrowSchema};
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use delta_kernel::schema::{ArrayType, DataType, DecimalType, MetadataValue, PrimitiveType, SchemaRef, StructField, StructType};
use millrace_config::Reason;
use millrace_kit::documents::{Column, Kind, META, Unit};
use std::sync::Arc;

/// The schema of a new table.
pub fn schema(shape: &Shape) -> Result<SchemaRef, Reason> {
    match shape {
        Shape::Samples(level) => table_schema(level.as_ref()),
        Shape::Documents => {
            let meta = META.iter().map(|(name, kind)| field(&Column::new(name, *kind)));
            let mut all = meta.collect::<Result<Vec<_>, _>>()?;
            all.push(StructField::nullable(shape.date(), DataType::DATE));
            StructType::try_new(all).map(Arc::new).map_err(|error| error.to_string().into())
        }
    }
}

/// Why a table is of another shape, if it is.
pub fn mismatch(shape: &Shape, schema: &StructType, partitions: &[String]) -> Option<String> {
    match shape {
        Shape::Samples(level) => mismatch_of_samples(schema, partitions, level.as_ref()),
        Shape::Documents => mismatch_of_documents(schema, partitions),
    }
}

/// What is in a file of a table that has this schema.
pub fn file_schema(shape: &Shape, table: &StructType) -> Result<(StructType, Arc<ArrowSchema>), Reason> {
    let schema = match shape {
        Shape::Samples(_) => StructType::try_new(fields()),
        Shape::Documents => StructType::try_new(table.fields().filter(|field| field.name != DOCUMENTS_DATE).cloned()),
    };
    let schema = schema.map_err(|error| error.to_string())?;
    let arrow: ArrowSchema = (&schema).try_into_arrow().map_err(|error: arrow_schema::ArrowError| error.to_string())?;
    Ok((schema, Arc::new(arrow)))
}

/// Of an Iceberg table, which is partitioned by the day of a time: no column for the day; the level is one like any other.
#[cfg(feature = "iceberg")]
pub fn iceberg_schema(shape: &Shape) -> Result<StructType, Reason> {
    let all = schema(shape)?;
    StructType::try_new(all.fields().filter(|field| field.name != shape.date()).cloned())
        .map_err(|error| error.to_string())
        .map_err(Reason::from)
}

/// Why an Iceberg table's columns are others, if they are.
#[cfg(feature = "iceberg")]
pub fn mismatch_of_columns(shape: &Shape, schema: &StructType) -> Option<String> {
    match shape {
        Shape::Samples(level) => lack_of_samples(schema, level.as_ref().map(|level| level.name.as_str())),
        Shape::Documents => lack_of_documents(schema),
    }
}

/// Says that a column's texts are JSON.
pub const KIND: &str = "millrace.kind";

/// A column of documents as the table has it.
pub fn field(column: &Column) -> Result<StructField, Reason> {
    let plain = |of: DataType| StructField::nullable(&*column.name, of);
    Ok(match column.kind {
        Kind::Bool => plain(DataType::BOOLEAN),
        Kind::Long => plain(DataType::LONG),
        Kind::Double => plain(DataType::DOUBLE),
        Kind::Decimal(precision, scale) => {
            let of = DecimalType::try_new(precision, scale).map_err(|error| error.to_string())?;
            plain(DataType::Primitive(PrimitiveType::Decimal(of)))
        }
        Kind::Time(_) => plain(DataType::TIMESTAMP),
        Kind::Date => plain(DataType::DATE),
        Kind::Text => plain(DataType::STRING),
        Kind::Json => plain(DataType::STRING).with_metadata([(KIND, "json")]),
        Kind::Other => return Err(format!("column `{}` is of a type that is not written here", column.name).into()),
    })
}

/// The columns of documents that a table has.
pub fn columns(table: &StructType) -> Vec<Column> {
    let is_json = |field: &StructField| matches!(field.metadata.get(KIND), Some(MetadataValue::String(kind)) if kind == "json");
    let kind = |field: &StructField| match &field.data_type {
        DataType::Primitive(of) => match of {
            PrimitiveType::Boolean => Kind::Bool,
            PrimitiveType::Long => Kind::Long,
            PrimitiveType::Double => Kind::Double,
            PrimitiveType::Timestamp => Kind::Time(Unit::Micros),
            PrimitiveType::Date => Kind::Date,
            PrimitiveType::String if is_json(field) => Kind::Json,
            PrimitiveType::String => Kind::Text,
            PrimitiveType::Decimal(of) => Kind::Decimal(of.precision(), of.scale()),
            _ => Kind::Other,
        },
        _ => Kind::Other,
    };
    table.fields().filter(|field| field.name != DOCUMENTS_DATE).map(|field| Column::new(&field.name, kind(field))).collect()
}

/// Whether two columns are the same in a table, which does not know how the numbers of a time were meant.
pub fn is_same(one: &Column, other: &Column) -> bool {
    one.name == other.name && (one.kind == other.kind || matches!((one.kind, other.kind), (Kind::Time(_), Kind::Time(_))))
}

fn mismatch_of_documents(schema: &StructType, partitions: &[String]) -> Option<String> {
    if partitions != [DOCUMENTS_DATE] {
        return Some(format!("it is partitioned by [{}], and documents lie in folders by [{}]", partitions.join(", "), DOCUMENTS_DATE));
    }
    lack_of_documents(schema)
}

fn lack_of_documents(schema: &StructType) -> Option<String> {
    let there = columns(schema);
    for (name, kind) in META {
        match there.iter().find(|column| &*column.name == name) {
            Some(column) if column.kind == kind => {}
            Some(column) => return Some(format!("its column `{name}` is {}, and documents have {kind}", column.kind)),
            None => return Some(format!("it has no column `{name}`")),
        }
    }
    schema
        .fields()
        .find(|field| !field.nullable)
        .map(|field| format!("its column `{}` may not be null, and documents may lack it", field.name))
}

/// The columns in their order, without the partitions'.
pub const COLUMNS: [&str; 25] = [
    "tag",
    "time",
    "value_double",
    "value_long",
    "value_bool",
    "value_text",
    "value_uint",
    "value_bytes",
    "value_json",
    "status",
    "quality",
    "origin",
    "time_source",
    "read_delay",
    "server_time",
    "device_time",
    "def",
    "source",
    "seq",
    "values_double",
    "values_long",
    "values_bool",
    "values_text",
    "values_uint",
    "values_bytes",
];
/// Behind them all: a matrix's dimensions.
pub const DIMS: &str = "dims";

fn type_of(column: &str) -> DataType {
    // An unsigned value above 2^63 - 1 fits no long, and a double would change it.
    let uint = || DecimalType::try_new(20, 0).map_or(DataType::STRING, |decimal| DataType::Primitive(PrimitiveType::Decimal(decimal)));
    let list = |items: DataType| DataType::from(ArrayType::new(items, true));
    match column {
        "time" | "server_time" | "device_time" => DataType::TIMESTAMP,
        "value_double" => DataType::DOUBLE,
        "value_long" | "status" | "read_delay" | "seq" => DataType::LONG,
        "value_bool" => DataType::BOOLEAN,
        "value_uint" => uint(),
        "value_bytes" => DataType::BINARY,
        "def" => DataType::INTEGER,
        "values_double" => list(DataType::DOUBLE),
        "values_long" => list(DataType::LONG),
        "values_bool" => list(DataType::BOOLEAN),
        "values_text" => list(DataType::STRING),
        "values_uint" => list(uint()),
        "values_bytes" => list(DataType::BINARY),
        DIMS => list(DataType::INTEGER),
        DATE => DataType::DATE,
        _ => DataType::STRING,
    }
}

fn fields() -> Vec<StructField> {
    COLUMNS.iter().chain([&DIMS]).map(|column| StructField::nullable(*column, type_of(column))).collect()
}

/// The columns of a sample and those of its folders.
fn table_schema(level: Option<&Level>) -> Result<SchemaRef, Reason> {
    let mut all = fields();
    all.push(StructField::nullable(DATE, type_of(DATE)));
    all.extend(level.map(|level| StructField::nullable(level.name.as_str(), DataType::STRING)));
    StructType::try_new(all).map(Arc::new).map_err(|error| error.to_string().into())
}

/// The field of a list's items.
pub fn items(schema: &ArrowSchema, column: &str) -> Option<arrow_schema::FieldRef> {
    match schema.field_with_name(column).ok()?.data_type() {
        ArrowType::List(items) => Some(items.clone()),
        _ => None,
    }
}

/// Why a table can't take samples, if it can't: another schema, other folders.
fn mismatch_of_samples(schema: &StructType, partitions: &[String], level: Option<&Level>) -> Option<String> {
    let mut wanted = vec![DATE];
    wanted.extend(level.map(|level| level.name.as_str()));
    if partitions != wanted {
        return Some(format!("it is partitioned by [{}], and the file says [{}]", partitions.join(", "), wanted.join(", ")));
    }
    lack_of_samples(schema, wanted)
}

/// `more`: the columns besides those of every sample.
fn lack_of_samples<'m>(schema: &StructType, more: impl IntoIterator<Item = &'m str>) -> Option<String> {
    for column in COLUMNS.into_iter().chain([DIMS]).chain(more) {
        match schema.field(column) {
            None => return Some(format!("it has no column `{column}`")),
            Some(field) if *field.data_type() != type_of(column) => {
                return Some(format!("its column `{column}` is {}, and samples have {}", field.data_type(), type_of(column)));
            }
            Some(field) if !field.nullable => return Some(format!("its column `{column}` may not be null")),
            Some(_) => {}
        }
    }
    // A column that somebody added stays null in our files.
    schema.fields().find(|field| !field.nullable).map(|field| format!("its column `{}` may not be null, and samples have none", field.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_another_shape_is_told_apart_by_its_first_difference() {
        let level = Level { name: "area".into(), part: 2 };
        let schema = table_schema(Some(&level)).unwrap();
        let by = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let shape = Shape::Samples(Some(level));
        let said = |shape: &Shape, schema: &StructType, names: &[&str]| mismatch(shape, schema, &by(names)).unwrap_or_default();
        assert_eq!(said(&shape, &schema, &["date", "area"]), "");
        assert_eq!(said(&shape, &schema, &["date"]), "it is partitioned by [date], and the file says [date, area]");
        let other = StructType::try_new(vec![StructField::nullable("tag", DataType::LONG)]).unwrap();
        assert_eq!(said(&Shape::Samples(None), &other, &["date"]), "its column `tag` is long, and samples have string");
        assert_eq!(said(&Shape::Documents, &other, &["kafka_date"]), "it has no column `kafka_topic`");
        let (_, arrow) = file_schema(&shape, &schema).unwrap();
        assert!(matches!(arrow.field_with_name("value_uint").unwrap().data_type(), ArrowType::Decimal128(20, 0)));
        assert!(items(&arrow, "values_long").is_some() && items(&arrow, "tag").is_none());
    }

    #[test]
    fn columns_of_documents_come_back_from_a_table_as_they_were() {
        let made = [
            Column::new("json", Kind::Json),
            Column::new("text", Kind::Text),
            Column::new("price", Kind::Decimal(12, 2)),
            Column::new("due", Kind::Time(Unit::Micros)),
            Column::new("day", Kind::Date),
        ];
        let mut all: Vec<StructField> = schema(&Shape::Documents).unwrap().fields().cloned().collect();
        all.extend(made.iter().map(|column| field(column).unwrap()));
        let table = StructType::try_new(all).unwrap();
        assert_eq!(mismatch(&Shape::Documents, &table, &["kafka_date".to_owned()]), None);
        assert_eq!(columns(&table)[META.len()..], made);
    }
}
