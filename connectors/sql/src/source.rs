//! The session: one connection, its queries one after the other when they are due.
//!
//! A query that fails (a table that is gone, a type that does not fit) is told in the status of its part and tried again at its next turn; the others go
//! on. A connection that is lost ends the session.

use crate::config::{Settings, SqlConfig};
use crate::mysql::MySql;
use crate::object::Style;
use crate::postgres::Postgres;
use crate::progress::Progress;
use crate::sqlserver::SqlServer;
use crate::statement::{Column, Dialect, Kind, Page, Query, clock};
use crate::taking::{Taking, Trouble, send};
use async_trait::async_trait;
use millrace_config::Problems;
use millrace_contract::plugin::Compiled;
use millrace_contract::{Context, Failure, Guarantee, Model, Plan, Plugin, Role, Source, SourceIo, Status};
use millrace_kit::records::Records;
use millrace_kit::records::polling::{self, Polling, Reads};
use millrace_kit::shape::{Field, Record};
use millrace_schemas::contract;
use millrace_schemas::{Origin, avsc};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows without a watermark are looked for once in so many readings.
const LOOK_EVERY: u64 = 100;

/// `type: sql`.
#[derive(Debug)]
pub struct SqlSource;

impl Plugin for SqlSource {
    const TYPE: &'static str = "sql";
    const ROLE: Role = Role::Source;
    type Config = SqlConfig;

    fn compile(config: SqlConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        config.compile(context, problems).map(|settings| Box::new(CompiledSql(Arc::new(settings))) as _)
    }
}

struct CompiledSql(Arc<Settings>);

impl Compiled for CompiledSql {
    fn model(&self) -> &Model {
        &self.0.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(SqlSession { settings: self.0.clone(), records: Records::new(Origin::Poll, self.0.max_tags) }))
    }

    fn reads_again(&self) -> bool {
        matches!(self.guarantee(), Guarantee::ExactlyOnce(_))
    }

    fn guarantee(&self) -> Guarantee {
        match self.0.queries.iter().find(|polling| polling.own.watermark.is_none()) {
            None => Guarantee::ExactlyOnce(
                "the position moves with the rows, in the log, and rows of the overlap are known by their content. Deletes, and a row changed twice between two \
                 readings, are not seen"
                    .into(),
            ),
            Some(polling) => polling.without_watermark(),
        }
    }

    fn keeps_positions(&self) -> bool {
        true
    }

    fn describes(&self) -> bool {
        true
    }

    fn plan(&self) -> Plan {
        let settings = &self.0;
        let line = |polling: &Polling<Query>| {
            let query = &polling.own;
            let how = match (&query.watermark, query.bound) {
                (None, _) => "all rows each time".to_owned(),
                (Some(watermark), Some(bound)) => format!("after `{watermark}`, below {bound:?}"),
                (Some(watermark), None) => {
                    format!("after `{watermark}`, {:?} of it (or {} numbers) again", query.overlap, query.overlap_ids)
                }
            };
            polling.line(&format!("{}, {how},", polling.name))
        };
        let scheme = settings.dialect.scheme();
        Plan {
            endpoint: format!("{scheme}://{}:{}/{}", settings.host, settings.port, settings.database),
            lines: settings.queries.iter().map(line).collect(),
            rate: None,
        }
    }
}

struct SqlSession {
    settings: Arc<Settings>,
    records: Records,
}

enum Database {
    Postgres(Box<Postgres>),
    MySql(Box<MySql>),
    SqlServer(Box<SqlServer>),
}

impl Database {
    async fn connect(settings: &Settings) -> Result<Self, Failure> {
        match settings.dialect {
            Dialect::Postgres => Postgres::connect(settings).await.map(|database| Self::Postgres(Box::new(database))),
            Dialect::MySql => MySql::connect(settings).await.map(|database| Self::MySql(Box::new(database))),
            Dialect::SqlServer => SqlServer::connect(settings).await.map(|database| Self::SqlServer(Box::new(database))),
        }
    }

    async fn columns(&mut self, query: &Query) -> Result<Vec<Column>, Trouble> {
        match self {
            Self::Postgres(database) => database.columns(query).await,
            Self::MySql(database) => database.columns(query).await,
            Self::SqlServer(database) => database.columns(query).await,
        }
    }

    async fn ask(&mut self, page: &Page) -> Result<Option<String>, Trouble> {
        match self {
            Self::Postgres(database) => database.ask(page).await,
            Self::MySql(database) => database.ask(page).await,
            Self::SqlServer(database) => database.ask(page).await,
        }
    }

    async fn read(&mut self, page: &Page, columns: &[Column], query: &Query, taking: &mut Taking<'_>) -> Result<u64, Trouble> {
        match self {
            Self::Postgres(database) => database.read(page, columns, query, taking).await,
            Self::MySql(database) => database.read(page, columns, query, taking).await,
            Self::SqlServer(database) => database.read(page, columns, query, taking).await,
        }
    }
}

#[async_trait]
impl Source for SqlSession {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let settings = self.settings.clone();
        let database = tokio::select! {
            biased;
            () = io.stopping() => return Ok(()),
            database = Database::connect(&settings) => database?,
        };
        let readings = vec![0; settings.queries.len()];
        let described = vec![None; settings.queries.len()];
        let mut reader =
            Reader { settings: &settings, records: &mut self.records, database, progress: HashMap::new(), readings, described };
        polling::run(&settings.queries, &mut reader, &io).await
    }
}

struct Reader<'a> {
    settings: &'a Settings,
    records: &'a mut Records,
    database: Database,
    /// By the query's number; gone where a reading ended in the middle of a batch: then the log knows better.
    progress: HashMap<usize, Progress>,
    /// So many of each query.
    readings: Vec<u64>,
    /// The columns of each query that its topic was told of, and how its rows are written since.
    described: Vec<Option<(Vec<Column>, Style)>>,
}

impl Reads for Reader<'_> {
    async fn read(&mut self, number: usize, io: &SourceIo) -> Result<Status, polling::Trouble> {
        let look = self.readings[number].is_multiple_of(LOOK_EVERY);
        self.readings[number] += 1;
        let Settings { queries, host, port, .. } = self.settings;
        match self.all_new(number, look, io).await {
            Ok(unreachable) => Ok(unreachable.map_or(Status::Running, Status::Degraded)),
            Err(Trouble::Query(why)) => Err(polling::Trouble::This(format!("cannot read `{}`: {why}", queries[number].name))),
            Err(Trouble::Human(why)) => Err(polling::Trouble::Session(Failure::Blocked(why))),
            Err(Trouble::Lost(why)) => Err(polling::Trouble::Session(Failure::Reconnect(format!("{host}:{port}: {why}")))),
        }
    }
}

impl Reader<'_> {
    /// Reads all that is new. Returns what of the table can't be reached, where it was looked for.
    async fn all_new(&mut self, number: usize, look: bool, io: &SourceIo) -> Result<Option<String>, Trouble> {
        let polling = &self.settings.queries[number];
        let (query, dialect) = (&polling.own, self.settings.dialect);
        let columns = self.database.columns(query).await?;
        let known = |name: &String| {
            let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
            let why = || format!("there is no column `{name}`; there are {}", names.join(", "));
            columns.iter().find(|column| column.name == *name).ok_or_else(|| Trouble::Query(why()))
        };
        query.id.iter().try_for_each(|id| known(id).map(drop))?;
        let style = self.describe(number, &columns, io)?;
        let database = &mut self.database;
        // It comes back only when the reading has ended well.
        let mut progress = self
            .progress
            .remove(&number)
            .unwrap_or_else(|| Progress::resume(&polling.name, io.resume(&polling.name), io.positions(&format!("{}/seen/", polling.name))));
        let Some(name) = &query.watermark else {
            let page = query.page(dialect, &columns, &progress.cursor(), None, None);
            let mut taking = Taking { polling, records: &mut *self.records, progress: &mut progress, io, batch: io.batch().await, style };
            database.read(&page, &columns, query, &mut taking).await?;
            taking.flush().await?;
            return Ok(None);
        };
        let watermark = known(name)?;
        if query.id.is_empty() && !matches!(watermark.kind, Kind::Number | Kind::RowVersion) {
            return Err(Trouble::Query(format!(
                "`{name}` may be equal in several rows; name the primary key in `id`, as in `id: [order_id]`"
            )));
        }
        let now = match query.now(dialect, watermark.kind) {
            Some(sql) => database.ask(&Page { sql, parameters: Vec::new() }).await?.and_then(|text| clock(dialect, watermark.kind, text)),
            None => None,
        };
        if watermark.kind == Kind::RowVersion && (now.is_none() || self.settings.is_read_only) {
            return Err(Trouble::Query(format!(
                "`{name}` is a rowversion: only the primary knows what open transactions may still write; leave out `application_intent`"
            )));
        }
        let recent = query.recent(watermark.kind, now.as_deref());
        let (mut after, recent) = progress.begin(recent, |recent| query.recent_text(dialect, watermark.kind, recent));
        let mut taking = Taking { polling, records: &mut *self.records, progress: &mut progress, io, batch: io.batch().await, style };
        loop {
            let page = query.page(dialect, &columns, &after, now.as_deref(), recent.as_deref());
            let count = database.read(&page, &columns, query, &mut taking).await?;
            let reached = taking.progress.cursor();
            if count < u64::from(query.page) {
                break;
            }
            if reached == after {
                let at = after.watermark.unwrap_or_default();
                return Err(Trouble::Query(format!(
                    "the rows after `{name}` {at} are the same again: the server does not find its own text of it"
                )));
            }
            after = reached;
        }
        let batch = std::mem::take(&mut taking.batch);
        let moved = progress.end();
        if !batch.is_empty() || !moved.is_empty() {
            send(io, batch, &moved).await;
        }
        self.progress.insert(number, progress);
        if !look {
            return Ok(None);
        }
        let Some(page) = query.unreachable(dialect, watermark, now.as_deref()) else { return Ok(None) };
        let count = database.ask(&page).await?.unwrap_or_default();
        let text = format!("{count} rows (at least) have no `{name}`, or one in the future: they are not read");
        Ok((count != "0" && !count.is_empty()).then_some(text))
    }

    /// Tells the topic of documents what they are made of, where that is new. Returns how the rows are to be written.
    fn describe(&mut self, number: usize, columns: &[Column], io: &SourceIo) -> Result<Style, Trouble> {
        if let Some((known, style)) = &self.described[number]
            && known == columns
        {
            return Ok(*style);
        }
        let polling = &self.settings.queries[number];
        let mut style = Style { is_document: !polling.making.is_samples(), is_avro: false };
        if style.is_document {
            let mut record = Record::new(avsc::name(&polling.name));
            for column in columns {
                record.push(Field { name: column.name.clone(), shape: column.shape.clone(), is_key: false });
            }
            let is_avro = AtomicBool::new(false);
            let schema = |kind| {
                is_avro.fetch_or(kind == contract::Kind::Avro, Ordering::Relaxed);
                record.schema(kind, &self.settings.namespace)
            };
            io.describe(polling.making.route, &schema).map_err(|error| {
                Trouble::Query(format!("its schema cannot be used: {error}; a column gets another name with `AS` in a `query`"))
            })?;
            style.is_avro = is_avro.into_inner();
        }
        self.described[number] = Some((columns.to_vec(), style));
        Ok(style)
    }
}
