//! The keys of a SQL sink in the YAML, checked and compiled without I/O.

use crate::config::{Database, reached};
use crate::statement::Dialect;
use millrace_config::{ByteSize, Period, Problems, Spanned};
use millrace_contract::{Carries, Context};
use millrace_kit::declared;
use millrace_kit::documents::{Column, Kind, META};
use millrace_kit::{Login, Tls};
use millrace_schemas::contract::Kind as Language;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// Writes samples, or documents, to a table of a database, each once.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlSinkConfig {
    /// The database: `postgres://host:5432/name` or `mysql://host:3306/name` (MariaDB, too).
    pub endpoint: Spanned<String>,
    /// A user that may make the table and write to it, and his password.
    #[serde(default)]
    pub login: Option<Login>,
    /// Certificates; with it, the connection is encrypted or there is none.
    #[serde(default)]
    pub tls: Option<Spanned<Tls>>,
    /// The table: `telemetry`, `history.telemetry`. It is made when missing, and gets a column for each new field.
    pub table: Spanned<String>,
    /// Fields of documents that make a row: a later document with the same values replaces it, and a tombstone deletes it. Left out: each document is
    /// a row of its own.
    #[serde(default)]
    pub key: Vec<Spanned<String>>,
    /// How often rows are committed, with the positions in Kafka.
    #[serde(default = "commit_every")]
    pub commit_every: Spanned<Period>,
    /// How much may wait in memory: what is above it is committed at once, and nothing is read from Kafka meanwhile.
    #[serde(default = "memory")]
    pub memory: Spanned<ByteSize>,
    /// How long one statement may take; the database ends it then.
    #[serde(default = "timeout")]
    pub timeout: Spanned<Period>,
}

fn commit_every() -> Spanned<Period> {
    Period::from_secs(1).into()
}

fn memory() -> Spanned<ByteSize> {
    ByteSize(32 << 20).into()
}

fn timeout() -> Spanned<Period> {
    Period::from_secs(60).into()
}

/// A SQL sink that knows all it will do.
#[derive(Clone, Debug)]
pub struct SinkSettings {
    pub database: Database,
    pub table: String,
    /// With their types; only documents have one.
    pub key: Vec<Column>,
    pub is_samples: bool,
    /// What the topics' schemas say of the fields of documents.
    pub declared: Vec<Column>,
    pub commit_every: Duration,
    pub memory: u64,
    pub timeout: Duration,
}

impl SqlSinkConfig {
    pub fn compile(&self, context: &Context, problems: &mut Problems) -> Option<SinkSettings> {
        let mark = problems.mark();
        let endpoint = reached(&self.endpoint, self.tls.as_ref(), self.login.is_some(), problems);
        if endpoint.as_ref().is_some_and(|endpoint| endpoint.dialect == Dialect::SqlServer) {
            problems.error(self.endpoint.place, "SQL Server is a source only").help("write to postgres:// or mysql://");
        }
        let parts: Vec<&str> = self.table.split('.').collect();
        if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
            problems
                .error(self.table.place, format!("`{}` is no name of a table", self.table.value))
                .help("write `telemetry` or `history.telemetry`");
        }
        for (name, period) in [("commit_every", &self.commit_every), ("timeout", &self.timeout)] {
            if period.0 < Duration::from_millis(10) {
                problems.error(period.place, format!("`{name}` is at least 10ms"));
            }
        }
        if self.memory.0 < 64 << 10 {
            problems.error(self.memory.place, format!("`memory: {}` is less than 64KiB", self.memory.value));
        }
        let declared: Vec<Column> = context.schemas.iter().flat_map(|schema| declared::columns(schema)).collect();
        let key = self.key_columns(context, &declared, problems);
        match context.carries {
            Carries::Both => {
                problems
                    .error(context.place, format!("sink {} reads topics of samples and topics of documents", context.name))
                    .help("a table holds one or the other: declare two sinks; topics of samples say `schema: telemetry`, and patterns with `*` say neither");
            }
            Carries::Documents if context.schemas.iter().any(|schema| schema.kind == Language::Protobuf) => {
                problems.error(context.place, format!("sink {} reads documents in Protobuf, which it can't take apart", context.name));
            }
            _ => {}
        }
        if problems.has_errors_since(mark) {
            return None;
        }
        let endpoint = endpoint?;
        Some(SinkSettings {
            database: Database {
                dialect: endpoint.dialect,
                host: endpoint.host,
                port: endpoint.port,
                name: endpoint.database,
                login: self.login.clone(),
                tls: self.tls.as_ref().map(|tls| tls.value.clone()),
            },
            table: self.table.value.clone(),
            key,
            is_samples: context.carries == Carries::Samples,
            declared,
            commit_every: self.commit_every.0,
            memory: self.memory.0,
            timeout: self.timeout.0,
        })
    }

    fn key_columns(&self, context: &Context, declared: &[Column], problems: &mut Problems) -> Vec<Column> {
        let mut key = Vec::new();
        for name in &self.key {
            let known = declared.iter().find(|column| *column.name == *name.value);
            if context.carries == Carries::Samples {
                problems.error(name.place, "samples have no key: each is a row").help("leave `key` out");
            } else if META.iter().any(|(meta, _)| *meta == name.value) {
                problems.error(name.place, format!("`{}` is no field of a document", name.value));
            } else if known.is_some_and(|column| matches!(column.kind, Kind::Json | Kind::Double)) {
                problems.error(name.place, format!("`{}` is a structure or a fraction, which are no keys", name.value));
            }
            key.push(Column::new(&name.value, known.map_or(Kind::Text, |column| column.kind)));
        }
        key
    }
}
