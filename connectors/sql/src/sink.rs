//! The session of the sink: records into rows, rows and positions into one transaction.
//!
//! ```text
//! assign   connect; make the table where it is missing; read the positions that the database holds
//! write    each record -> a row; what no row can hold is refused with its reason
//! flush    new fields -> new columns; rows and the next offsets -> one transaction, if every position is where it was
//!          (rows that the table refuses are handed over first; the others are committed by the next flush)
//! ```

use crate::sink_config::{SinkSettings, SqlSinkConfig};
use crate::sink_mysql::MySql;
use crate::sink_postgres::Postgres;
use crate::sink_rows::{SAMPLE, Waiting};
use crate::sink_table::{Database, Target};
use crate::statement::Dialect;
use async_trait::async_trait;
use millrace_config::Problems;
use millrace_contract::{
    Compiled, Context, Failure, Flush, Flushed, Guarantee, Input, Model, Offset, Partition, Plan, Plugin, Records, Refused, Role, Sink,
    Upstream,
};
use millrace_kit::documents::{Column, Documents, META};
use millrace_kit::parts::Parts;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// `type: sql`, as a sink.
#[derive(Debug)]
pub struct SqlSink;

impl Plugin for SqlSink {
    const TYPE: &'static str = "sql";
    const ROLE: Role = Role::Sink;
    type Config = SqlSinkConfig;

    fn compile(config: SqlSinkConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let settings = Arc::new(config.compile(context, problems)?);
        Some(Box::new(CompiledSink { settings, model: Model::default(), topics: context.topics.clone() }))
    }
}

struct CompiledSink {
    settings: Arc<SinkSettings>,
    model: Model,
    topics: Vec<String>,
}

impl Compiled for CompiledSink {
    fn model(&self) -> &Model {
        &self.model
    }

    fn sink(&self) -> Option<Box<dyn Sink>> {
        Some(Box::new(Instance::new(self.settings.clone())))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce("rows and positions are one transaction, which compares the positions it begins at".into())
    }

    fn plan(&self) -> Plan {
        let settings = &self.settings;
        let scheme = settings.database.dialect.scheme();
        let how = if settings.database.dialect == Dialect::Postgres { "COPY" } else { "INSERTs of many rows" };
        let keys: Vec<&str> = settings.key.iter().map(|column| &*column.name).collect();
        let what = match (settings.is_samples, &keys[..]) {
            (true, _) => "a row for each sample".to_owned(),
            (false, []) => "a row for each document, a column for each field".to_owned(),
            (false, keys) => format!("a row for each {}, which a later document replaces", keys.join(" and ")),
        };
        let lines = vec![
            format!("writes {} to table {} by {how}: {what}", self.topics.join(", "), settings.table),
            format!("commits rows and positions every {:?}, or when {} MiB wait", settings.commit_every, settings.memory >> 20),
        ];
        Plan { endpoint: format!("{scheme}://{}/{}", settings.database.address(), settings.database.name), lines, rate: None }
    }
}

/// Connects, and makes what is missing.
async fn open(settings: &SinkSettings, columns: &[Column]) -> Result<Target, Failure> {
    let database: Box<dyn Database> = match settings.database.dialect {
        Dialect::Postgres => Box::new(Postgres::connect(settings).await?),
        Dialect::MySql => Box::new(MySql::connect(settings).await?),
        Dialect::SqlServer => return Err(Failure::Blocked("SQL Server is a source only".into())),
    };
    Target::open(database, settings, columns).await
}

/// One instance of the sink.
struct Instance {
    settings: Arc<SinkSettings>,
    upstream: Upstream,
    target: Option<Target>,
    parts: Parts,
    waiting: Waiting,
    /// Rows of it that the table will never take: their dead letters are safe when the others are committed.
    refused: HashSet<(Partition, Offset)>,
}

impl Instance {
    fn new(settings: Arc<SinkSettings>) -> Self {
        let waiting = match settings.is_samples {
            true => Waiting::samples(),
            false => Waiting::Documents(Documents::new(&settings.declared, &[])),
        };
        Self { settings, upstream: Upstream::default(), target: None, parts: Parts::default(), waiting, refused: HashSet::new() }
    }

    /// The name of a position: what it is a position of, and in which table.
    fn id(&self, part: &Partition) -> String {
        let Upstream { cluster, group, topic_ids } = &self.upstream;
        let topic_id = topic_ids.get(&part.topic).map_or("", String::as_str);
        format!("{}/{cluster}/{group}/{}/{topic_id}/{}", self.settings.table, part.topic, part.partition)
    }

    async fn target(&mut self) -> Result<&mut Target, Failure> {
        if self.target.is_none() {
            let columns = match self.settings.is_samples {
                true => SAMPLE.map(|(name, kind)| Column::new(name, kind)).to_vec(),
                false => META.map(|(name, kind)| Column::new(name, kind)).to_vec(),
            };
            self.target = Some(open(&self.settings, &columns).await?);
        }
        self.target.as_mut().ok_or_else(|| Failure::Reconnect("the connection is gone".into()))
    }

    async fn commit(&mut self) -> Result<Flushed, Failure> {
        let moves = self.parts.moves();
        if moves.is_empty() {
            return Ok(Flushed::default());
        }
        let waiting = self.waiting.take();
        let columns = waiting.columns();
        // After a failure there is a new connection, and a new look at the positions.
        let mut target = self.target.take().ok_or_else(|| Failure::Reconnect("the connection is gone".into()))?;
        if let Waiting::Documents(documents) = &waiting
            && !documents.added().is_empty()
        {
            target.widen(documents.added()).await?;
        }
        let mut rows = waiting.rows();
        rows.retain(|row| !self.refused.contains(&(row.partition.clone(), row.offset)));
        let refused = target.write(&columns, &rows, &moves).await?;
        self.target = Some(target);
        if !refused.is_empty() {
            self.refused.extend(refused.iter().map(|one| (one.partition.clone(), one.offset)));
            self.waiting = waiting;
            return Ok(Flushed { refused, ..Flushed::default() });
        }
        self.refused.clear();
        Ok(Flushed { below: self.parts.committed(&moves), ..Flushed::default() })
    }
}

#[async_trait]
impl Sink for Instance {
    fn input(&self) -> Input {
        match self.settings.is_samples {
            true => Input::Samples,
            false => Input::Documents,
        }
    }

    fn flush_every(&self) -> Duration {
        self.settings.commit_every
    }

    fn wants_upstream(&self) -> bool {
        true
    }

    fn upstream(&mut self, upstream: Upstream) {
        self.upstream = upstream;
    }

    fn is_full(&self) -> bool {
        self.waiting.bytes() as u64 >= self.settings.memory
    }

    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure> {
        let ids: Vec<String> = parts.iter().map(|part| self.id(part)).collect();
        let target = self.target().await?;
        let held = target.positions(&ids).await?;
        let there = target.columns();
        if let Waiting::Documents(documents) = &mut self.waiting
            && documents.is_empty()
        {
            let is_meta = |column: &Column| META.iter().any(|(name, _)| *name == &*column.name);
            let mut columns: Vec<Column> = META.map(|(name, kind)| Column::new(name, kind)).to_vec();
            columns.extend(there.into_iter().filter(|column| !is_meta(column)));
            documents.know(&columns);
        }
        self.parts.assign(parts, ids, &held);
        Ok(held)
    }

    fn skip(&mut self, below: &[(Partition, Offset)]) {
        self.parts.skip(below);
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        let mut refused = Vec::new();
        for (index, record) in records.records.iter().enumerate() {
            if let Err(reason) = self.waiting.push(records, index, record) {
                refused.push(Refused { partition: records.partition(record).clone(), offset: record.offset, reason: reason.into() });
            }
        }
        self.parts.read(records);
        Ok(refused)
    }

    async fn flush(&mut self, _why: Flush) -> Result<Flushed, Failure> {
        self.commit().await
    }

    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        self.parts.revoke(parts);
        Ok(())
    }
}
