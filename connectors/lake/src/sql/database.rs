//! The session: tables, functions, bounds.

use super::functions::{Function, Which};
use super::scan::Scanned;
use super::{Rows, Statement, Version, values};
use crate::config::{Place, Shape};
use crate::rows::Rows as Tail;
use crate::series::Sample;
use crate::target::Target;
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement as Parsed};
use datafusion::sql::sqlparser::ast;
use futures_util::StreamExt;
use millrace_config::Reason;
use millrace_contract::{Offset, Partition, Upstream};
use millrace_schemas::Batch;
use std::collections::HashMap;
use std::sync::Arc;

/// Samples in Kafka only that are held for one question.
const MOST: usize = 1_000_000;

/// Open tables, and what they lack.
pub struct Database {
    tables: Vec<Open>,
    site: Option<String>,
    runtime: tokio::runtime::Handle,
}

struct Open {
    name: String,
    place: Place,
    target: Target,
    version: u64,
    complete_until: i64,
    tail: Tail,
    /// The same, by tag, for the functions.
    samples: HashMap<String, Vec<Sample>>,
    read_until: Option<i64>,
    is_too_much: bool,
}

impl Database {
    /// Opens tables, by name. Blocks: call it on a thread that may.
    ///
    /// `site`: what a tag's path begins with where a question leaves it out.
    /// Errors: one can't be read.
    pub fn open(places: Vec<(String, Place)>, site: Option<String>, runtime: tokio::runtime::Handle) -> Result<Self, Reason> {
        let mut tables = Vec::new();
        for (name, place) in places {
            let opened = Target::open(&place, false, runtime.clone()).and_then(|mut target| {
                target.prepare()?;
                let (version, complete_until) = target.committed()?;
                Ok((target, version, complete_until))
            });
            let (target, version, complete_until) = opened.map_err(|error| error.to_string())?;
            let (tail, samples) = (Tail::default(), HashMap::new());
            tables.push(Open { name, place, target, version, complete_until, tail, samples, read_until: None, is_too_much: false });
        }
        Ok(Self { tables, site, runtime })
    }

    /// The next offsets that a table's version holds.
    ///
    /// Errors: they can't be read.
    pub fn positions(&self, table: usize, upstream: &Upstream, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Reason> {
        let Some(open) = self.tables.get(table) else { return Err("there is no such table".into()) };
        let ids: Vec<String> = parts.iter().map(|part| crate::sink::app_id(upstream, part)).collect();
        open.target.positions(ids.iter().map(String::as_str)).map_err(|error| error.to_string().into())
    }

    /// Whether a table holds samples; what is in Kafka only can be pushed for those.
    pub fn holds_samples(&self, table: usize) -> bool {
        self.tables.get(table).is_some_and(|open| matches!(open.target.shape(), Shape::Samples(_)))
    }

    /// Takes a sample that is in Kafka only.
    pub fn push(&mut self, table: usize, batch: &Batch) {
        let (Some(open), Some(columns)) = (self.tables.get_mut(table), &batch.decoded) else { return };
        // A table says what its level is called; which part of a tag's path that is, says the file.
        let level = match (open.target.shape(), open.place.shape.level()) {
            (Shape::Samples(Some(level)), Some(own)) if own.name == level.name => Some(own.clone()),
            (Shape::Samples(level), _) => level.clone(),
            (Shape::Documents, _) => return,
        };
        for index in 0..batch.rows.len() {
            if open.tail.count() >= MOST {
                open.is_too_much = true;
                return;
            }
            // What no table can hold is none of its rows, here or there.
            if open.tail.push(batch, columns, index, level.as_ref()).is_ok() {
                let tag = batch.text_of(columns.tag_path[index]).to_owned();
                open.samples.entry(tag).or_default().push(Sample::of(batch, columns, index));
            }
        }
    }

    /// All that was in Kafka by then was pushed.
    pub fn is_read_until(&mut self, table: usize, until: i64) {
        if let Some(open) = self.tables.get_mut(table) {
            open.read_until = Some(until);
        }
    }

    /// Answers. Blocks: call it on a thread that may.
    ///
    /// Errors: the statement is no SELECT, is wrong, or needs more than its bounds allow.
    pub fn run(self, statement: &Statement) -> Result<Rows, Reason> {
        selects(&statement.sql)?;
        if let Some(open) = self.tables.iter().find(|open| open.is_too_much) {
            return Err(format!("more than {MOST} samples of {} are in Kafka only; ask the lake alone: --lake-only", open.name).into());
        }
        // On a thread of the runtime: what computes without a pause must not hold the clock up.
        let (runtime, asked) = (self.runtime.clone(), statement.clone());
        let mut task = runtime.spawn(async move { self.answer(&asked).await });
        let answered = runtime.block_on(async {
            let answer = tokio::time::timeout(statement.patience, &mut task).await;
            answer.map_err(|_| format!("no answer within {:?}; ask for less, or raise the bound: --patience", statement.patience))
        });
        task.abort();
        let answered = answered?.map_err(|error| format!("the answer ended: {error}; please report it"))?;
        answered.map_err(|error| said(&error).into())
    }

    async fn answer(self, statement: &Statement) -> Result<Rows, DataFusionError> {
        let mut disk = DiskManagerBuilder::default();
        disk.set_mode(DiskManagerMode::Disabled);
        let bounded = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(statement.memory)))
            .with_disk_manager_builder(disk)
            .build_arc()?;
        let mut config = SessionConfig::new().with_information_schema(true);
        let options = config.options_mut();
        // Texts stay what the files say they are.
        options.execution.parquet.schema_force_view_types = false;
        options.execution.parquet.pushdown_filters = true;
        options.execution.parquet.reorder_filters = true;
        options.execution.time_zone = Some("UTC".into());
        let context = SessionContext::new_with_config_rt(config, bounded);
        let mut versions = Vec::new();
        for (index, open) in self.tables.into_iter().enumerate() {
            let complete_until = open.read_until.unwrap_or(open.complete_until);
            versions.push(Version { name: open.name.clone(), version: open.version, complete_until });
            let samples = Arc::new(open.samples);
            if index == 0 {
                for which in Which::ALL {
                    let (place, samples, runtime) = (open.place.clone(), samples.clone(), self.runtime.clone());
                    let function = Function {
                        which,
                        place,
                        samples,
                        read_until: open.read_until,
                        site: self.site.clone(),
                        runtime,
                        rows: statement.rows,
                    };
                    context.register_udtf(which.name(), Arc::new(function));
                }
            }
            let scanned: Arc<dyn TableProvider> = Arc::new(Scanned::new(&context, index, open.target, open.tail)?);
            context.register_table(quoted(&open.name), scanned.clone())?;
            if index == 0 && open.name != "lake" {
                context.register_table("lake", scanned)?;
            }
        }
        let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let mut frame = context.sql_with_options(&statement.sql, read_only).await?;
        // A plan that is explained stands alone.
        if !matches!(frame.logical_plan(), LogicalPlan::Explain(_) | LogicalPlan::Analyze(_)) {
            frame = frame.limit(0, Some(statement.rows.saturating_add(1)))?;
        }
        let task = Arc::new(frame.task_ctx());
        let plan = frame.create_physical_plan().await?;
        let schema = plan.schema();
        let mut stream = execute_stream(plan.clone(), task)?;
        let (mut batches, mut count) = (Vec::new(), 0);
        let mut held = 0;
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            count += batch.num_rows();
            held += batch.get_array_memory_size();
            if held > statement.memory {
                return Err(DataFusionError::ResourcesExhausted(format!("the answer is larger than {} MiB", statement.memory >> 20)));
            }
            batches.push(batch);
        }
        drop(stream);
        let is_cut = count > statement.rows;
        let mut answer = Rows { is_cut, bytes: bytes_read(&plan), tables: versions, ..Rows::default() };
        answer.columns = schema.fields().iter().map(|field| field.name().clone()).collect();
        let batches = values::first(batches, statement.rows);
        if statement.as_parquet {
            answer.parquet = Some(values::parquet(&schema, &batches)?);
        } else {
            answer.rows = values::rows(&batches)?;
        }
        Ok(answer)
    }
}

/// A table's name as it stands, whatever is in it.
fn quoted(name: &str) -> datafusion::common::TableReference {
    datafusion::common::TableReference::bare(name.to_owned())
}

/// Whether it is one question, and changes nothing.
fn selects(sql: &str) -> Result<(), Reason> {
    let parsed = DFParser::parse_sql(sql).map_err(|error| format!("this is no SQL: {}", said(&error)))?;
    let [statement] = &parsed.iter().collect::<Vec<_>>()[..] else {
        return Err(format!("{} statements came; ask one question at a time", parsed.len()).into());
    };
    let is_question = match statement {
        Parsed::Statement(statement) => {
            matches!(
                &**statement,
                ast::Statement::Query(_)
                    | ast::Statement::ShowTables { .. }
                    | ast::Statement::ShowColumns { .. }
                    | ast::Statement::ExplainTable { .. }
            )
        }
        Parsed::Explain(_) => true,
        _ => false,
    };
    if is_question {
        return Ok(());
    }
    let word = sql.split_whitespace().next().unwrap_or_default().to_uppercase();
    Err(format!("{word} is refused: only questions are answered here, with SELECT, WITH, SHOW or EXPLAIN; nothing is changed").into())
}

/// In one line, without DataFusion's own words around it.
fn said(error: &DataFusionError) -> String {
    let text = match error.find_root() {
        DataFusionError::ResourcesExhausted(text) => {
            format!("it needs more memory than it may have ({text}); ask for less, or raise the bound: --memory")
        }
        root => root.strip_backtrace(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the scans of a plan have read.
fn bytes_read(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let own = plan.metrics().and_then(|metrics| metrics.sum_by_name("bytes_scanned")).map_or(0, |value| value.as_usize() as u64);
    own + plan.children().into_iter().map(bytes_read).sum::<u64>()
}
