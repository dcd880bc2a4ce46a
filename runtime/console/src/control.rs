//! What may be changed over HTTP, by the program around the console: it alone knows the files and the connectors.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use millrace_engine::hold::Role;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What the console may ask of the program around it.
pub trait Control: Send + Sync {
    /// Takes the factory's files as they are now; only says what would change with `dry_run`.
    ///
    /// The answer: `{"changes": [..], "sources": {"press": "in place: group 2"}, "restarts_everything_because": [..], "taken": "live" | "restart" | "nothing", "dry_run": ..}`.
    fn reload(&self, dry_run: bool) -> BoxFuture<'_, Result<Value, Refusal>>;

    /// Dead letters: `{"kinds": [{topic, belongs_to, reason, example, count}], "letters": [{id, belongs_to, reason, time, value, ..}]}`.
    fn dead(&self, which: DeadQuery) -> BoxFuture<'_, Result<Value, Refusal>>;

    /// Sends dead letters to where they belong; only says how many with `dry_run`: `{"sent": .., "refused": .., "reasons": [[id, why]]}`.
    fn replay(&self, which: DeadQuery, dry_run: bool) -> BoxFuture<'_, Result<Value, Refusal>>;

    /// What tags were, out of the lake and Kafka, as `millrace query --output json` has it. Reads, and is bounded.
    fn history(&self, which: HistoryQuery) -> BoxFuture<'_, Result<Value, Refusal>>;

    /// Every certificate, as `millrace pki list --json` has it. Reads files.
    fn certificates(&self) -> Value;

    /// Trusts a certificate, or trusts it no longer. The beginning of a thumbprint will do. Reads and writes files.
    fn decide(&self, thumbprint: &str, trust: bool) -> Result<Value, Refusal>;

    /// Every source and sink of the file, those that are switched off, too.
    fn connectors(&self) -> BoxFuture<'_, Vec<Declared>>;

    /// The JSON Schema of the factory's file.
    fn schema(&self) -> Value;

    /// What `check` says of a connector with these flat keys, beside what runs. Reads files.
    fn validate(&self, role: Role, type_name: &str, config: BTreeMap<String, String>) -> BoxFuture<'_, Vec<Wrong>>;

    /// File and line where a connector is declared; where it is not, the file to declare it in. Reads files.
    fn stands_at(&self, role: Role, name: &str) -> String;

    /// The alarms that stand: `{alarms: [{id, level, text, help, since, told, gone}], targets: {name: {sent, failed}}, maintenance}`.
    fn alarms(&self) -> Value;

    /// The last warnings and errors, the newest first: `[{time, level, message}]`.
    fn messages(&self) -> Value;
}

/// A source or sink of the file.
#[derive(Clone, Debug)]
pub struct Declared {
    /// One name for each: a sink that has the name of a source is `sink:NAME`.
    pub name: String,
    /// As it stands in the file.
    pub own: String,
    pub role: Role,
    /// Flat: dotted keys, texts, secrets by reference.
    pub config: BTreeMap<String, String>,
}

/// What is wrong with one key.
pub struct Wrong {
    /// Dotted; empty: the connector as a whole.
    pub key: String,
    pub says: String,
}

/// Which dead letters; empty texts mean all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeadQuery {
    /// The topic where they belong.
    pub topic: String,
    /// A part of the connector's name.
    pub source: String,
    /// A part of the reason.
    pub reason: String,
    /// One letter, as it is named: `orders.dead-0@17`.
    pub id: String,
    /// At most so many are shown.
    pub limit: Option<usize>,
    pub dry_run: bool,
}

/// Which history; empty texts mean what `millrace query` means without them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HistoryQuery {
    /// Tags, with commas between.
    pub tag: String,
    /// SQL instead: one SELECT.
    pub sql: String,
    /// The sink of type `lake`, where there are several.
    pub sink: String,
    /// `2026-11-28T06:00:00Z`, a day, or how long ago: `8h`.
    pub from: String,
    pub to: String,
    /// `samples`, `last`, `average`, `step`, `linear`, `minmax`, `triangles`.
    #[serde(rename = "as")]
    pub what: String,
    pub every: String,
    pub points: Option<usize>,
    /// Samples of a tag, at most.
    pub limit: Option<usize>,
    pub lake_only: bool,
}

/// Why something was not done.
#[derive(Debug)]
pub struct Refusal {
    code: StatusCode,
    pub error: String,
    problems: Value,
}

impl Refusal {
    /// The files have mistakes; `problems` as `check --json` lists them, or null.
    pub fn invalid(error: String, problems: Value) -> Self {
        Self { code: StatusCode::UNPROCESSABLE_ENTITY, error, problems }
    }

    /// Something else is under way.
    pub fn conflict(error: &str) -> Self {
        Self { code: StatusCode::CONFLICT, error: error.to_owned(), problems: Value::Null }
    }

    /// There is no such thing, or it can't be done.
    pub fn wrong(error: String) -> Self {
        Self { code: StatusCode::BAD_REQUEST, error, problems: Value::Null }
    }

    pub fn failed(error: String) -> Self {
        Self { code: StatusCode::INTERNAL_SERVER_ERROR, error, problems: Value::Null }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.error });
        if !self.problems.is_null() {
            body["problems"] = self.problems;
        }
        (self.code, Json(body)).into_response()
    }
}
