//! The Iceberg table: the same files as everywhere, with the ids of its columns in them, and what their footers say of them for its manifests.
//!
//! Of samples, the table has the columns of the Delta table save `date`: it is partitioned by the day of `time`, and readers need not know it. A level
//! is a column of the files, too.

use crate::config::{Level, Place, Shape};
use crate::encode::{Encoded, Form, failed};
use crate::layout;
use crate::rows::Folder;
use crate::store::Store;
use crate::vended;
use arrow_schema::{DataType as ArrowType, Field as ArrowField, Schema as ArrowSchema};
use async_trait::async_trait;
use bytes::Bytes;
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use delta_kernel::schema::{ArrayType, DataType, DecimalType, PrimitiveType, StructField, StructType};
use millrace_kit::documents::Column;
use millrace_kit::parts::{Move, TargetError};
use millrace_lake_iceberg::catalog::Catalog;
use millrace_lake_iceberg::{Committed, DataFile, Field, Files, Found, Layout, Live, Metrics, Name, Of, Table as Inner};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::statistics::Statistics;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What a document's day is of.
const DOCUMENTS_TIME: &str = "kafka_time";

/// An open table.
pub struct IcebergTable {
    pub store: Store,
    inner: Inner,
    shape: Shape,
    form: Arc<Form>,
    runtime: tokio::runtime::Handle,
}

#[async_trait]
impl Files for Store {
    async fn read(&self, location: &str) -> Result<Bytes, TargetError> {
        let there = self.get_at(&self.located(location)?).await?;
        there.ok_or_else(|| TargetError::Refused(format!("{location} is gone, and the table's metadata name it")))
    }

    async fn write(&self, location: &str, bytes: Bytes) -> Result<(), TargetError> {
        self.put_at(&self.located(location)?, bytes).await
    }

    async fn delete(&self, location: &str) -> Result<(), TargetError> {
        Self::delete(self, &[self.located(location)?]).await
    }
}

impl IcebergTable {
    /// Opens a table; makes it where it is missing and `makes` says so. Blocks: call it on a thread that may.
    ///
    /// Errors: `Refused`: it has another shape, or features that can't be written; `Away`: the catalog or the store can't be reached.
    pub fn open(place: &Place, makes: bool, runtime: tokio::runtime::Handle) -> Result<Self, TargetError> {
        let catalog = place.catalog.as_ref().ok_or_else(|| TargetError::Refused(format!("{} is in no catalog", place.table)))?;
        let name = Name::parse(&place.table).ok_or_else(|| TargetError::Refused(format!("`{}` names no table", place.table)))?;
        let layout = layout_of(&place.shape);
        let wanted = layout::iceberg_schema(&place.shape).map_err(|why| TargetError::Refused(why.into()))?;
        let wanted: Vec<Field> = wanted.fields().map(field_of).collect::<Result<_, _>>()?;
        let found = runtime.block_on(async {
            let delegates = !place.store.has_credentials();
            let asked = Arc::new(Catalog::open(&catalog.endpoint, catalog.warehouse.as_deref(), name, delegates).await?);
            Found::open(asked, makes.then_some((&wanted[..], &layout)), catalog.location.as_deref()).await
        })?;
        let store = Store::at(found.location(), place, makes, &vended::lent(found.catalog())?)?;
        // Who reads takes the table as it is.
        let shape = match found.partitioned_by()[..] {
            _ if makes => place.shape.clone(),
            [DOCUMENTS_TIME] => Shape::Documents,
            [_, level] => Shape::Samples(Some(Level { name: level.to_owned(), part: 0 })),
            _ => Shape::Samples(None),
        };
        let inner = found.table(&layout_of(&shape), Arc::new(store.clone()))?;
        let form = Arc::new(form_of(&inner, &shape)?);
        Ok(Self { store, inner, shape, form, runtime })
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn form(&self) -> &Arc<Form> {
        &self.form
    }

    pub fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    /// For messages.
    pub fn name(&self) -> String {
        self.inner.name().to_string()
    }

    pub fn refresh(&mut self) -> Result<(), TargetError> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.inner.refresh())
    }

    /// The positions in the metadata at hand.
    pub fn positions<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> Vec<Option<i64>> {
        ids.into_iter().map(|id| self.inner.position(id)).collect()
    }

    /// The number of the newest snapshot, and when it was made, in microseconds since 1970.
    pub fn committed(&self) -> (u64, i64) {
        let (number, at) = self.inner.snapshot();
        (number.unsigned_abs(), at.saturating_mul(1000))
    }

    /// The columns of documents.
    pub fn columns(&self) -> Result<Vec<Column>, TargetError> {
        Ok(layout::columns(&struct_of(&self.inner.fields())?))
    }

    /// Adds columns of documents, those that the table lacks.
    pub fn widen(&mut self, added: &[Column]) -> Result<(), TargetError> {
        let fields = added.iter().map(|column| field_of(&layout::field(column).map_err(|why| TargetError::Refused(why.into()))?));
        let fields = fields.collect::<Result<Vec<_>, TargetError>>()?;
        let runtime = self.runtime.clone();
        runtime.block_on(self.inner.widen(&fields, |there, wanted| there.of == wanted.of && there.doc == wanted.doc))?;
        self.form = Arc::new(form_of(&self.inner, &self.shape)?);
        Ok(())
    }

    /// Puts a file into its folder, under a name of its own.
    pub fn put(&self, folder: &Folder, name: &str, encoded: Encoded) -> Result<DataFile, TargetError> {
        let bytes = Bytes::from(encoded.bytes);
        let footer = ParquetMetaDataReader::new().parse_and_finish(&bytes).map_err(|error| failed(&error))?;
        let day = jiff::civil::date(1970, 1, 1).saturating_add(jiff::Span::new().days(i64::from(folder.day)));
        let mut location = format!("{}/{}_day={day}", self.inner.data_folder(), layout_of(&self.shape).time);
        if let Some(level) = self.shape.level() {
            // Its value is in the manifest and in the file; here it is for people.
            let shown = folder.level.as_deref().unwrap_or("null");
            let shown: String = shown.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
            location.push_str(&format!("/{}={shown}", level.name));
        }
        location.push_str(&format!("/{name}"));
        let size = bytes.len() as u64;
        self.runtime.block_on(self.store.put_at(&self.store.located(&location)?, bytes))?;
        let groups = footer.row_groups().iter().filter_map(|group| Some(group.columns().first()?.byte_range().0 as i64)).collect();
        let level = folder.level.as_ref().map(ToString::to_string);
        Ok(DataFile { location, rows: encoded.rows as u64, size, day: folder.day, level, columns: metrics(&footer), groups })
    }

    /// Commits files and positions as one snapshot.
    pub fn commit(&mut self, files: &[DataFile], moves: &[Move]) -> Result<Committed, TargetError> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.inner.commit(files, moves))
    }

    /// Puts one file in the place of several. `None`: one of them is not in the table any more.
    pub fn replace(&mut self, old: &[Live], new: &DataFile) -> Result<Option<Committed>, TargetError> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.inner.replace(old, new))
    }

    pub fn can_replace(&self) -> Result<(), TargetError> {
        self.inner.can_replace()
    }

    /// The ids of all its columns, at the top.
    pub fn ids(&self) -> HashSet<i32> {
        self.inner.fields().iter().map(|field| field.id).collect()
    }

    pub fn snapshots(&self) -> u64 {
        self.inner.snapshots()
    }

    pub fn expire(&mut self, before_ms: i64, dry: bool) -> Result<u64, TargetError> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.inner.expire(before_ms, dry))
    }

    pub fn reachable(&self, but: i64) -> Result<HashSet<String>, TargetError> {
        self.runtime.block_on(self.inner.reachable(but))
    }

    pub fn data_folder(&self) -> String {
        self.inner.data_folder()
    }

    pub fn metadata_folder(&self) -> String {
        self.inner.metadata_folder()
    }

    /// The live files of these days, with the bounds of columns by name.
    pub fn live(&self, days: Option<std::ops::RangeInclusive<i32>>, columns: &[&str]) -> Result<Vec<Live>, TargetError> {
        let fields = self.inner.fields();
        let id = |name: &&str| fields.iter().find(|field| field.name == **name).map_or(-1, |field| field.id);
        let ids: Vec<i32> = columns.iter().map(id).collect();
        self.runtime.block_on(self.inner.live(days, &ids))
    }
}

fn layout_of(shape: &Shape) -> Layout {
    let (time, sorted_by) = match shape {
        Shape::Samples(_) => ("time", vec!["tag".to_owned(), "time".to_owned()]),
        Shape::Documents => (DOCUMENTS_TIME, Vec::new()),
    };
    Layout { time: time.to_owned(), level: shape.level().map(|level| level.name.clone()), sorted_by }
}

/// What a new file is made of, once the table was held against that.
fn form_of(inner: &Inner, shape: &Shape) -> Result<Form, TargetError> {
    let fields = inner.fields();
    let there = struct_of(&fields)?;
    if let Some(why) = layout::mismatch_of_columns(shape, &there) {
        return Err(TargetError::Refused(format!("the table {} can't take {}: {why}; name another table", inner.name(), shape.name())));
    }
    let wanted: Vec<StructField> = match shape {
        Shape::Samples(_) => layout::iceberg_schema(shape).map_err(|why| TargetError::Refused(why.into()))?.fields().cloned().collect(),
        // A column of a type that is not written here is left out, which reads as null.
        Shape::Documents => there.fields().filter(|field| field.data_type != other()).cloned().collect(),
    };
    let schema = StructType::try_new(wanted).map_err(|error| TargetError::Refused(error.to_string()))?;
    let arrow: ArrowSchema =
        (&schema).try_into_arrow().map_err(|error: arrow_schema::ArrowError| TargetError::Refused(error.to_string()))?;
    let with_ids: Vec<ArrowField> = arrow.fields().iter().map(|field| with_id(field, &fields)).collect();
    let level = shape.level().map(|_| None);
    Ok(Form { schema, arrow: Arc::new(ArrowSchema::new(with_ids)), holds: shape.clone(), level })
}

fn with_id(arrow: &ArrowField, fields: &[Field]) -> ArrowField {
    let key = |id: i32| HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]);
    let Some(field) = fields.iter().find(|field| field.name == *arrow.name()) else { return arrow.clone() };
    let of = match (arrow.data_type(), &field.of) {
        (ArrowType::List(items), Of::List { id, .. }) => {
            ArrowType::List(Arc::new(ArrowField::new("element", items.data_type().clone(), true).with_metadata(key(*id))))
        }
        (of, _) => of.clone(),
    };
    ArrowField::new(arrow.name(), of, true).with_metadata(key(field.id))
}

/// Stands for every type that is not written here.
fn other() -> DataType {
    DataType::SHORT
}

const JSON: &str = "JSON";

fn struct_of(fields: &[Field]) -> Result<StructType, TargetError> {
    let all = fields.iter().map(|field| {
        let of = match &field.of {
            Of::Plain(plain) => type_of(plain),
            Of::List { of, .. } => match type_of(of) {
                of if of == other() => of,
                of => DataType::from(ArrayType::new(of, true)),
            },
            Of::Other => other(),
        };
        let made = StructField::new(field.name.as_str(), of, !field.required);
        if field.doc.as_deref() == Some(JSON) { made.with_metadata([(layout::KIND, "json")]) } else { made }
    });
    StructType::try_new(all).map_err(|error| TargetError::Refused(error.to_string()))
}

fn type_of(plain: &str) -> DataType {
    match plain {
        "string" => DataType::STRING,
        "long" => DataType::LONG,
        "int" => DataType::INTEGER,
        "double" => DataType::DOUBLE,
        "boolean" => DataType::BOOLEAN,
        "binary" => DataType::BINARY,
        "date" => DataType::DATE,
        "timestamptz" => DataType::TIMESTAMP,
        _ => {
            let inner = plain.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')).and_then(|inner| inner.split_once(','));
            let parsed = inner.and_then(|(precision, scale)| Some((precision.trim().parse().ok()?, scale.trim().parse().ok()?)));
            let made = parsed.and_then(|(precision, scale)| DecimalType::try_new(precision, scale).ok());
            made.map_or_else(other, |decimal| DataType::Primitive(PrimitiveType::Decimal(decimal)))
        }
    }
}

fn field_of(field: &StructField) -> Result<Field, TargetError> {
    let unknown = || TargetError::Refused(format!("column `{}` is of a type that is not written to Iceberg", field.name));
    let plain = |of: &DataType| match of {
        DataType::Primitive(of) => Some(match of {
            PrimitiveType::String => "string".to_owned(),
            PrimitiveType::Long => "long".into(),
            PrimitiveType::Integer => "int".into(),
            PrimitiveType::Double => "double".into(),
            PrimitiveType::Boolean => "boolean".into(),
            PrimitiveType::Binary => "binary".into(),
            PrimitiveType::Date => "date".into(),
            PrimitiveType::Timestamp => "timestamptz".into(),
            PrimitiveType::Decimal(of) => format!("decimal({}, {})", of.precision(), of.scale()),
            _ => return None,
        }),
        _ => None,
    };
    let of = match &field.data_type {
        DataType::Array(array) => Of::List { id: 0, of: plain(&array.element_type).ok_or_else(unknown)? },
        of => Of::Plain(plain(of).ok_or_else(unknown)?),
    };
    let doc = field.metadata.contains_key(layout::KIND).then(|| JSON.to_owned());
    Ok(Field { id: 0, name: field.name.clone(), required: false, of, doc })
}

// ---- what a footer says ------------------------------------------------------------------------------------------------------------

/// The least and the greatest value of a column, as they can be compared.
#[derive(Clone, PartialEq, PartialOrd)]
enum Bound {
    Bool(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(Vec<u8>),
}

impl Bound {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Bool(value) => vec![u8::from(value)],
            Self::Int(value) => value.to_le_bytes().to_vec(),
            Self::Long(value) => value.to_le_bytes().to_vec(),
            Self::Double(value) => value.to_le_bytes().to_vec(),
            Self::Text(value) => value,
        }
    }
}

fn bounds(statistics: &Statistics) -> Option<(Bound, Bound)> {
    Some(match statistics {
        Statistics::Boolean(of) => (Bound::Bool(*of.min_opt()?), Bound::Bool(*of.max_opt()?)),
        Statistics::Int32(of) => (Bound::Int(*of.min_opt()?), Bound::Int(*of.max_opt()?)),
        Statistics::Int64(of) => (Bound::Long(*of.min_opt()?), Bound::Long(*of.max_opt()?)),
        Statistics::Double(of) => (Bound::Double(*of.min_opt()?), Bound::Double(*of.max_opt()?)),
        Statistics::ByteArray(of) => (Bound::Text(of.min_opt()?.data().to_vec()), Bound::Text(of.max_opt()?.data().to_vec())),
        _ => return None,
    })
}

fn metrics(footer: &ParquetMetaData) -> Vec<Metrics> {
    use parquet::basic::{ConvertedType, LogicalType};
    let schema = footer.file_metadata().schema_descr();
    let mut all = Vec::new();
    for (index, column) in schema.columns().iter().enumerate() {
        let info = column.self_type().get_basic_info();
        if !info.has_id() {
            continue;
        }
        let is_plain = column.path().parts().len() == 1;
        let is_decimal =
            matches!(column.logical_type_ref(), Some(LogicalType::Decimal { .. })) || column.converted_type() == ConvertedType::DECIMAL;
        let is_text = matches!(column.logical_type_ref(), Some(LogicalType::String));
        let is_bytes = column.physical_type() == parquet::basic::Type::BYTE_ARRAY && !is_text;
        let mut one = Metrics { id: info.id(), bytes: 0, values: 0, nulls: Some(0), bounds: None };
        let mut range: Option<(Bound, Bound)> = None;
        let mut is_known = is_plain && !is_decimal && !is_bytes;
        for group in footer.row_groups() {
            let chunk = group.column(index);
            one.bytes += chunk.compressed_size().unsigned_abs();
            one.values += chunk.num_values().unsigned_abs();
            let nulls = chunk.statistics().and_then(Statistics::null_count_opt);
            one.nulls = one.nulls.zip(nulls).map(|(all, more)| all + more);
            match chunk.statistics().and_then(bounds) {
                Some((least, greatest)) => {
                    range = Some(match range {
                        Some((a, z)) => (if least < a { least } else { a }, if greatest > z { greatest } else { z }),
                        None => (least, greatest),
                    });
                }
                // All null has none; NaN has none, either, and then nothing is known.
                None => is_known &= nulls.is_some_and(|nulls| nulls == chunk.num_values().unsigned_abs()),
            }
        }
        if is_known {
            one.bounds = range.map(|(least, greatest)| (least.bytes(), greatest.bytes()));
        }
        if !is_plain {
            one.nulls = None;
        }
        all.push(one);
    }
    all
}
