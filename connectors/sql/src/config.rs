//! The keys of a SQL source in the YAML, checked and compiled without I/O.

use crate::statement::{Bound, Dialect, From, Query};
use millrace_config::{Period, Place, Problems, Spanned};
use millrace_contract::{Context, Model};
use millrace_kit::records::polling::{self, Own, Polling, PollingConfig, PollingKeys};
use millrace_kit::shape::namespace;
use millrace_kit::{Login, Tls};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// A database that is polled.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlConfig {
    /// The database: `postgres://host:5432/name`, `mysql://host:3306/name` (MariaDB, too) or `mssql://host:1433/name` (SQL Server 2012 or newer).
    pub endpoint: Spanned<String>,
    /// A user that may only read, and his password.
    #[serde(default)]
    pub login: Option<Login>,
    /// Certificates; with it, the connection is encrypted or there is none.
    #[serde(default)]
    pub tls: Option<Spanned<Tls>>,
    /// What to read.
    pub queries: Vec<Spanned<PollingConfig<QueryConfig>>>,
    /// How long one statement may take; the database ends it then. With SQL Server the connection ends, and a lock is waited for no longer.
    #[serde(default = "defaults::timeout")]
    pub timeout: Spanned<Period>,
    /// SQL Server: `read_only` lets an availability group send this connection to a readable secondary.
    #[serde(default)]
    pub application_intent: Option<Spanned<Intent>>,
    /// How many tags may be discovered.
    #[serde(default = "polling::max_tags")]
    pub max_tags: u32,
}

/// What a connection to SQL Server is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    ReadOnly,
    ReadWrite,
}

mod defaults {
    use super::*;

    pub fn timeout() -> Spanned<Period> {
        Period::from_secs(60).into()
    }
    pub fn overlap() -> Period {
        Period::from_secs(60)
    }
    pub fn overlap_ids() -> u32 {
        1_000
    }
    pub fn page() -> Spanned<u32> {
        10_000.into()
    }
}

/// A table or a query, and what becomes of its rows. A row is a JSON object of its columns. Tag options may stand beside these keys.
///
/// `watermark` is the column that grows with each row written: a time of change, or a number.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryConfig {
    /// The table: `orders`, `mes.orders`.
    #[serde(default)]
    pub table: Option<Spanned<String>>,
    /// A `SELECT` of its own, instead of a table; it wants `name`.
    #[serde(default)]
    pub query: Option<Spanned<String>>,
    /// The columns that tell rows of one moment apart: the primary key. A watermark that is a number needs none.
    #[serde(default)]
    pub id: Vec<Spanned<String>>,
    /// With a time: how long a transaction may take from the time it stamps to its commit. So much is read again each time; rows that were
    /// read are known by their content.
    #[serde(default = "defaults::overlap")]
    pub overlap: Period,
    /// With a number: how far behind the highest a row may still be committed.
    #[serde(default = "defaults::overlap_ids")]
    pub overlap_ids: u32,
    /// An upper bound below which no row can appear any more, instead of the overlap. PostgreSQL. A `rowversion` of SQL Server has its own.
    #[serde(default)]
    pub bound: Option<Spanned<Bound>>,
    /// The time zone of a watermark that carries none.
    #[serde(default)]
    pub timezone: Option<Spanned<String>>,
    /// Rows in one statement.
    #[serde(default = "defaults::page")]
    pub page: Spanned<u32>,
}

/// A SQL source that knows all it will do.
#[derive(Clone, Debug)]
pub struct Settings {
    pub dialect: Dialect,
    pub host: String,
    pub port: u16,
    pub database: String,
    pub login: Option<Login>,
    pub tls: Option<Tls>,
    pub timeout: Duration,
    /// SQL Server: a readable secondary may answer.
    pub is_read_only: bool,
    pub max_tags: usize,
    pub queries: Vec<Polling<Query>>,
    /// Of the schemas of documents.
    pub namespace: String,
    pub model: Model,
}

/// How a database is reached.
#[derive(Clone, Debug)]
pub struct Database {
    pub dialect: Dialect,
    pub host: String,
    pub port: u16,
    pub name: String,
    pub login: Option<Login>,
    pub tls: Option<Tls>,
}

impl Database {
    /// `host:port`, for messages.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl Settings {
    pub fn database(&self) -> Database {
        let Self { dialect, host, port, database, login, tls, .. } = self.clone();
        Database { dialect, host, port, name: database, login, tls }
    }
}

impl SqlConfig {
    pub fn compile(&self, context: &Context, problems: &mut Problems) -> Option<Settings> {
        let mark = problems.mark();
        let endpoint = reached(&self.endpoint, self.tls.as_ref(), self.login.is_some(), problems);
        if self.timeout.0 < Duration::from_secs(1) {
            problems.error(self.timeout.place, "`timeout` is at least 1s");
        }
        if self.queries.is_empty() {
            problems
                .error(context.place, "`queries` is empty: nothing would be read")
                .help("add `- {table: orders, watermark: changed_at, id: [order_id], topic: orders}`");
        }
        let mut model = Model::default();
        let queries = polling::compile(&self.queries, context, &mut model, problems, compile_query);
        if let Some(endpoint) = &endpoint
            && endpoint.dialect != Dialect::Postgres
        {
            for bound in self.queries.iter().filter_map(|query| query.own.own.own.bound.as_ref()) {
                problems
                    .error(bound.place, "only PostgreSQL can tell such a bound")
                    .help("leave `bound` out, and let `overlap` be longer than any transaction");
            }
        }
        if let Some(endpoint) = &endpoint {
            self.check_sql_server(endpoint.dialect == Dialect::SqlServer, problems);
        }
        if problems.has_errors_since(mark) {
            return None;
        }
        let endpoint = endpoint?;
        Some(Settings {
            dialect: endpoint.dialect,
            host: endpoint.host,
            port: endpoint.port,
            database: endpoint.database,
            login: self.login.clone(),
            tls: self.tls.as_ref().map(|tls| tls.value.clone()),
            timeout: self.timeout.0,
            is_read_only: self.application_intent.as_ref().is_some_and(|intent| intent.value == Intent::ReadOnly),
            max_tags: self.max_tags as usize,
            queries,
            namespace: namespace(context),
            model,
        })
    }
}

impl SqlConfig {
    fn check_sql_server(&self, is_sql_server: bool, problems: &mut Problems) {
        if !is_sql_server {
            if let Some(intent) = &self.application_intent {
                problems.error(intent.place, "`application_intent` is a word of SQL Server").help("leave it out");
            }
            return;
        }
        if self.login.is_none() {
            problems
                .error(self.endpoint.place, "SQL Server wants a login of its own; one of Windows cannot be used")
                .help("add `login: {user: .., password: ..}`");
        }
        if let Some(tls) = self.tls.as_ref().filter(|tls| tls.cert.is_some()) {
            problems.error(tls.place, "SQL Server knows a client by its login, not by a certificate").help("leave `cert` and `key` out");
        }
        for query in self.queries.iter().filter_map(|query| query.own.own.own.query.as_ref()) {
            if query.trim().get(..4).is_some_and(|word| word.eq_ignore_ascii_case("with")) {
                problems
                    .error(query.place, "SQL Server takes no WITH within a SELECT")
                    .help("make it a view, or write the SELECT without it");
            }
        }
    }
}

pub(crate) struct Endpoint {
    pub dialect: Dialect,
    pub host: String,
    pub port: u16,
    pub database: String,
}

/// The database that a source or sink names, with what is wrong with how it is reached.
pub(crate) fn reached(text: &Spanned<String>, tls: Option<&Spanned<Tls>>, has_login: bool, problems: &mut Problems) -> Option<Endpoint> {
    let endpoint = endpoint(text, problems);
    if let Some(tls) = tls {
        tls.check(tls.place, problems);
    }
    if let (Some(endpoint), None, true) = (&endpoint, tls, has_login)
        && !is_loopback(&endpoint.host)
    {
        problems.warn(text.place, format!("the password and the rows go to {} in clear text", endpoint.host)).help("add `tls: {ca: ..}`");
    }
    endpoint
}

fn endpoint(text: &Spanned<String>, problems: &mut Problems) -> Option<Endpoint> {
    let parts = text.split_once("://").and_then(|(scheme, rest)| rest.split_once('/').map(|(host, database)| (scheme, host, database)));
    let Some((scheme, authority, database)) = parts else {
        problems.error(text.place, "this is not the address of a database").help("write `postgres://host:5432/name`");
        return None;
    };
    let (dialect, usual) = match scheme {
        "postgres" | "postgresql" => (Dialect::Postgres, 5432),
        "mysql" | "mariadb" => (Dialect::MySql, 3306),
        "mssql" | "sqlserver" => (Dialect::SqlServer, 1433),
        other => {
            problems.error(text.place, format!("`{other}://` is not known; there are postgres://, mysql:// and mssql://"));
            return None;
        }
    };
    if authority.contains('@') {
        problems.error(text.place, "a login stands in the address, where it would be shown").help("write it under `login`");
        return None;
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, Some(usual)),
    };
    let host = host.trim_matches(['[', ']']);
    let database = database.trim_end_matches('/');
    let is_good = !host.is_empty() && !database.is_empty() && !database.contains(['/', '?', '#']);
    let Some(port) = port.filter(|_| is_good) else {
        problems
            .error(text.place, format!("`{}` names no database", text.value))
            .help("write `postgres://host:5432/name`, and nothing behind it");
        return None;
    };
    Some(Endpoint { dialect, host: host.to_owned(), port, database: database.to_owned() })
}

pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn compile_query(own: &QueryConfig, keys: &PollingKeys, place: Place, problems: &mut Problems) -> Option<Own<Query>> {
    let (from, name) = match (&own.table, &own.query) {
        (Some(table), None) => {
            if table.split('.').any(str::is_empty) {
                problems.error(table.place, format!("`{}` is no name of a table", table.value));
            }
            (From::Table(table.split('.').map(str::to_owned).collect()), Some(table.value.clone()))
        }
        (None, Some(query)) => {
            let text = query.trim().trim_end_matches(';');
            let begins = text.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("select"))
                || text.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("with"));
            if !begins || text.contains(';') {
                problems
                    .error(query.place, "`query` is one SELECT")
                    .help("write `SELECT .. FROM ..`; the order, the limit and the watermark are added");
            }
            (From::Query(text.to_owned()), None)
        }
        (Some(_), Some(query)) => {
            problems.error(query.place, "`table` and `query` both say what to read; leave one out");
            return None;
        }
        (None, None) => {
            problems.error(place, "nothing says what to read").help("add `table: orders`, or `query: SELECT ..`");
            return None;
        }
    };
    let Some(name) = keys.name.as_ref().map(|name| name.value.clone()).or(name) else {
        problems.error(place, "a query wants a `name`: its position is kept under it");
        return None;
    };
    if name.is_empty() || name.contains('/') {
        problems.error(place, format!("`{name}` is no name of a query: it has no `/`"));
    }
    if keys.watermark.is_none() && (!own.id.is_empty() || own.bound.is_some() || keys.start.is_some()) {
        problems.error(place, "`id`, `bound` and `start` go with `watermark`").help("add `watermark: COLUMN`");
    }
    if !(1..=1_000_000).contains(&own.page.value) {
        problems.error(own.page.place, "`page` is from 1 to 1000000");
    }
    let zone = match &own.timezone {
        None => jiff::tz::TimeZone::UTC,
        Some(name) => match jiff::tz::TimeZone::get(name) {
            Ok(zone) => zone,
            Err(_) => {
                problems.error(name.place, format!("`{}` is no time zone", name.value)).help("write `Europe/Berlin`");
                return None;
            }
        },
    };
    let query = Query {
        from,
        watermark: keys.watermark.as_ref().map(|column| column.value.clone()),
        id: own.id.iter().map(|column| column.value.clone()).collect(),
        overlap: own.overlap.0,
        overlap_ids: own.overlap_ids,
        bound: own.bound.as_ref().map(|bound| bound.value),
        start: keys.start.clone(),
        zone,
        page: own.page.value,
    };
    Some(Own { what: format!("query {name}"), name, own: query })
}
