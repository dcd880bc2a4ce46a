//! A table of the lake as DataFusion reads it: the live files of the days and tags asked for, and what is in Kafka only.

use crate::encode;
use crate::object::LiveFile;
use crate::rows::Rows as Tail;
use crate::target::{Target, Wanted};
use arrow_array::{ArrayRef, Date32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use datafusion::prelude::SessionContext;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

const DAY: i64 = 86_400_000_000;

pub struct Scanned {
    target: Arc<Target>,
    /// Of the files.
    file: SchemaRef,
    /// What the folders say.
    folders: Vec<FieldRef>,
    all: SchemaRef,
    url: ObjectStoreUrl,
    tail: Vec<RecordBatch>,
}

impl fmt::Debug for Scanned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scanned({})", self.target.store().url)
    }
}

fn failed(error: impl fmt::Display) -> DataFusionError {
    DataFusionError::Execution(error.to_string())
}

impl Scanned {
    pub fn new(context: &SessionContext, number: usize, target: Target, tail: Tail) -> Result<Self> {
        let form = target.form().map_err(failed)?;
        let fields: Vec<Field> =
            form.arrow.fields().iter().map(|field| Field::new(field.name(), field.data_type().clone(), true)).collect();
        let file: SchemaRef = Arc::new(Schema::new(fields));
        let mut folders: Vec<FieldRef> = Vec::new();
        if let Target::Delta(_) = target {
            folders.push(Arc::new(Field::new(target.shape().date(), DataType::Date32, true)));
            folders.extend(target.shape().level().map(|level| Arc::new(Field::new(&level.name, DataType::Utf8, true))));
        }
        let all: SchemaRef = Arc::new(Schema::new(file.fields().iter().cloned().chain(folders.iter().cloned()).collect::<Vec<_>>()));
        // A store for each table: two of them may be two clouds.
        let url = ObjectStoreUrl::parse(format!("lake://table-{number}"))?;
        context.register_object_store(url.as_ref(), target.store().objects.clone());
        let mut held = Vec::new();
        for (folder, rows) in encode::batches(&tail, &form).map_err(failed)? {
            let count = rows.num_rows();
            let mut columns = rows.columns().to_vec();
            if !folders.is_empty() {
                columns.push(Arc::new(Date32Array::from(vec![folder.day; count])) as ArrayRef);
                if folders.len() > 1 {
                    columns.push(Arc::new(std::iter::repeat_n(folder.level.as_deref(), count).collect::<StringArray>()));
                }
            }
            held.push(RecordBatch::try_new(all.clone(), columns)?);
        }
        Ok(Self { target: Arc::new(target), file, folders, all, url, tail: held })
    }

    fn partitioned(&self, file: LiveFile) -> PartitionedFile {
        let date = ScalarValue::Date32(Some(file.day));
        let level = ScalarValue::Utf8(file.level.as_deref().map(ToOwned::to_owned));
        let values = [date, level].into_iter().take(self.folders.len()).collect();
        let mut partitioned = PartitionedFile::new(String::new(), file.size).with_partition_values(values);
        // Letter by letter, as the table has it.
        partitioned.object_meta.location = file.path;
        partitioned
    }
}

#[async_trait]
impl TableProvider for Scanned {
    fn schema(&self) -> SchemaRef {
        self.all.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (tag, range) = wanted(filters);
        let target = self.target.clone();
        let live = tokio::task::spawn_blocking(move || target.live(&Wanted { range, tag: tag.as_deref() }));
        let live = live.await.map_err(failed)?.map_err(failed)?;
        let schema = TableSchema::builder(self.file.clone()).with_table_partition_cols(self.folders.clone()).build();
        let mut source = ParquetSource::new(schema)
            .with_table_parquet_options(state.default_table_options().parquet)
            .with_pushdown_filters(true)
            .with_enable_page_index(true)
            .with_bloom_filter_on_read(true)
            .with_metadata_size_hint(32 << 10);
        if let Some(filter) = conjunction(filters.to_vec()) {
            let schema = DFSchema::try_from(self.all.clone())?;
            source = source.with_predicate(state.create_physical_expr(filter, &schema)?);
        }
        // As many groups as there are threads, the largest files apart.
        let at_once = state.config().target_partitions().max(1);
        let mut live = live;
        live.sort_by_key(|file| std::cmp::Reverse(file.size));
        let mut groups: Vec<Vec<PartitionedFile>> = vec![Vec::new(); at_once.min(live.len()).max(1)];
        let count = groups.len();
        for (index, file) in live.into_iter().enumerate() {
            groups[index % count].push(self.partitioned(file));
        }
        let config = FileScanConfigBuilder::new(self.url.clone(), Arc::new(source))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .with_projection_indices(projection.cloned())?
            .build();
        let files: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config);
        if self.tail.is_empty() {
            return Ok(files);
        }
        let tail: Arc<dyn ExecutionPlan> =
            MemorySourceConfig::try_new_exec(std::slice::from_ref(&self.tail), self.all.clone(), projection.cloned())?;
        UnionExec::try_new(vec![files, tail])
    }
}

/// The tag and the times that the filters leave, for which files are looked for; the rows are compared by DataFusion.
fn wanted(filters: &[Expr]) -> (Option<String>, Option<Range<i64>>) {
    let (mut tag, mut range, mut is_bounded) = (None, i64::MIN..i64::MAX, false);
    for filter in filters {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { continue };
        let (name, op, value) = match (&**left, &**right) {
            (Expr::Column(column), Expr::Literal(value, _)) => (&column.name, *op, value),
            (Expr::Literal(value, _), Expr::Column(column)) => (&column.name, op.swap().unwrap_or(*op), value),
            _ => continue,
        };
        if name == "tag" {
            if let (Operator::Eq, Some(Some(text))) = (op, value.try_as_str()) {
                tag = Some(text.to_owned());
            }
            continue;
        }
        let (from, until) = match (name.as_str(), value) {
            ("time", ScalarValue::TimestampMicrosecond(Some(time), _)) => (*time, time.saturating_add(1)),
            ("time", ScalarValue::TimestampNanosecond(Some(time), _)) => (time.div_euclid(1000), time.div_euclid(1000) + 2),
            ("date", ScalarValue::Date32(Some(day))) => (i64::from(*day) * DAY, (i64::from(*day) + 1) * DAY),
            _ => continue,
        };
        match op {
            Operator::Eq => range = range.start.max(from)..range.end.min(until),
            Operator::Gt | Operator::GtEq => range.start = range.start.max(from),
            Operator::Lt | Operator::LtEq => range.end = range.end.min(until),
            _ => continue,
        }
        is_bounded = true;
    }
    (tag, is_bounded.then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::{col, lit};

    #[test]
    fn files_are_looked_for_by_what_the_filters_leave() {
        let time = |time: i64| lit(ScalarValue::TimestampMicrosecond(Some(time), Some("UTC".into())));
        let filters = [col("tag").eq(lit("a/b")), col("time").gt_eq(time(10)), time(20).gt(col("time")), col("status").eq(lit(0))];
        assert_eq!(wanted(&filters), (Some("a/b".into()), Some(10..21)));
        assert_eq!(wanted(&[col("date").eq(lit(ScalarValue::Date32(Some(1))))]), (None, Some(DAY..2 * DAY)));
        assert_eq!(wanted(&[col("tag").not_eq(lit("a")), col("time").eq(col("server_time"))]), (None, None));
    }
}
