//! What the console may ask of this program: it knows the files, the certificates, and how to read dead letters.

use crate::catalog::Pki;
use crate::dead::Letters;
use crate::lake::{place_of, places_of};
use crate::messages;
use crate::query::{As, Asked};
use crate::reload::Reloader;
use crate::{connect, pki, reference, say, sql};
use futures_util::future::BoxFuture;
use millrace_console::control::{Control, DeadQuery, Declared, HistoryQuery, Refusal, Wrong};
use millrace_engine::dead::Filter;
use millrace_engine::hold::Role;
use millrace_lake::sql::Statement;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Dead letters shown where nobody says how many, and at most.
const SHOWN: usize = 50;
const SHOWN_MAX: usize = 500;
/// History, where nobody says how much, and at most: tags, samples of each, points, bytes of the table.
const TAGS: usize = 20;
const SAMPLES: usize = 10_000;
const SAMPLES_MAX: usize = 100_000;
const POINTS_MAX: usize = 10_000;
const BYTES_MAX: u64 = 256 << 20;
/// What SQL may take: memory for its sorts and joins, and time.
const SQL_MEMORY: usize = 128 << 20;
const SQL_PATIENCE: Duration = Duration::from_secs(20);
/// How long one who asks waits for the one before.
const TURN: Duration = Duration::from_secs(20);

pub struct Controls {
    reloader: Arc<Reloader>,
    alarms: Arc<crate::alarm::Watch>,
    pki: Pki,
    /// Whole topics are read: one at a time.
    reading: Arc<Semaphore>,
    /// Tables are read, likewise.
    asking: Arc<Semaphore>,
}

impl Controls {
    pub fn new(reloader: Arc<Reloader>, alarms: Arc<crate::alarm::Watch>, data_dir: PathBuf) -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self { reloader, alarms, pki: Pki::new(data_dir.join("pki")), reading: one(), asking: one() }
    }

    async fn letters(
        &self,
        which: DeadQuery,
        ask: impl FnOnce(&Letters) -> anyhow::Result<Value> + Send + 'static,
    ) -> Result<Value, Refusal> {
        let Ok(Ok(permit)) = tokio::time::timeout(TURN, self.reading.clone().acquire_owned()).await else {
            return Err(Refusal::conflict("dead letters are being read already; ask again when that is done"));
        };
        let factory = self.reloader.factory().await;
        let named = |text: String| Some(text).filter(|text| !text.is_empty());
        let filter = Filter {
            site: Some(factory.site.to_string()),
            belongs_to: named(which.topic),
            source: named(which.source),
            reason: named(which.reason),
            since_ms: None,
            until_ms: None,
            ids: named(which.id).into_iter().collect(),
        };
        let asked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            ask(&Letters::of(factory, filter)?)
        });
        match asked.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Refusal::failed(format!("{error:#}"))),
            Err(_) => Err(Refusal::failed("reading ended in a panic; please report it".to_owned())),
        }
    }
}

/// What is asked over HTTP: in the words of the command line, within bounds.
fn asked(which: HistoryQuery) -> Result<Asked, Refusal> {
    let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
    let tags: Vec<String> = which.tag.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
    if tags.is_empty() || tags.len() > TAGS {
        return Err(Refusal::wrong(format!("`tag` names 1 to {TAGS} tags, with commas between")));
    }
    let what = <As as clap::ValueEnum>::from_str(&or(which.what, "samples"), true)
        .map_err(|_| Refusal::wrong("`as` is samples, last, average, step, linear, minmax or triangles".to_owned()))?;
    Ok(Asked {
        tags,
        from: or(which.from, "1h"),
        to: Some(which.to).filter(|to| !to.is_empty()),
        what,
        every: or(which.every, "1m").parse().map_err(|error| Refusal::wrong(format!("`every`: {error}")))?,
        points: which.points.unwrap_or(1_000).clamp(2, POINTS_MAX),
        limit: which.limit.unwrap_or(SAMPLES).min(SAMPLES_MAX),
        lookback: 31,
        lake_only: which.lake_only,
        draws: false,
        budget: BYTES_MAX,
    })
}

/// SQL over HTTP, within bounds.
fn statement(sql: String, limit: Option<usize>) -> Statement {
    let rows = limit.unwrap_or(SAMPLES).min(SAMPLES_MAX);
    Statement { sql, rows, memory: SQL_MEMORY, patience: SQL_PATIENCE, as_parquet: false }
}

impl Control for Controls {
    fn reload(&self, dry_run: bool) -> BoxFuture<'_, Result<Value, Refusal>> {
        Box::pin(self.reloader.take(dry_run))
    }

    fn dead(&self, which: DeadQuery) -> BoxFuture<'_, Result<Value, Refusal>> {
        let limit = which.limit.unwrap_or(SHOWN).min(SHOWN_MAX);
        Box::pin(self.letters(which, move |letters| Ok(json!({ "kinds": letters.kinds()?, "letters": letters.shown(limit)? }))))
    }

    fn replay(&self, which: DeadQuery, dry_run: bool) -> BoxFuture<'_, Result<Value, Refusal>> {
        Box::pin(self.letters(which, move |letters| {
            let replayed = letters.replay(!dry_run)?;
            Ok(json!({ "dry_run": dry_run, "sent": replayed.sent, "refused": replayed.refused_total, "reasons": replayed.refused }))
        }))
    }

    fn history(&self, which: HistoryQuery) -> BoxFuture<'_, Result<Value, Refusal>> {
        Box::pin(async move {
            let sink = Some(which.sink.clone()).filter(|sink| !sink.is_empty());
            let sql = Some(which.sql.clone()).filter(|sql| !sql.trim().is_empty());
            let statement = sql.map(|sql| statement(sql, which.limit));
            let lake_only = which.lake_only;
            let asked = if statement.is_some() { None } else { Some(asked(which)?) };
            let Ok(Ok(permit)) = tokio::time::timeout(TURN, self.asking.clone().acquire_owned()).await else {
                return Err(Refusal::conflict("a table is being read already; ask again when that is done"));
            };
            let factory = self.reloader.factory().await;
            let answered = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                if let Some(statement) = statement {
                    let lakes = places_of(&factory, sink.as_deref())?;
                    return sql::ask(lakes, Some(&factory), lake_only, &statement).map(|answered| answered.to_json());
                }
                let (place, writer) = place_of(factory, sink.as_deref())?;
                let answers = asked.map(|asked| asked.ask(&place, Some(&writer))).transpose()?;
                Ok(answers.map_or(Value::Null, |answers| answers.to_json()))
            });
            match answered.await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => Err(Refusal::wrong(format!("{error:#}"))),
                Err(_) => Err(Refusal::failed("reading ended in a panic; please report it".to_owned())),
            }
        })
    }

    fn certificates(&self) -> Value {
        pki::as_json(&self.pki)
    }

    fn decide(&self, thumbprint: &str, trust: bool) -> Result<Value, Refusal> {
        let decided = if trust { self.pki.approve(thumbprint, &[]) } else { self.pki.reject(thumbprint) };
        let one = decided.map_err(|error| Refusal::wrong(say::visible(&error.to_string())))?;
        let what = if trust { "trusted" } else { "trusted no longer" };
        tracing::info!(thumbprint = one.thumbprint, subject = one.subject, "the certificate is {what}");
        Ok(json!({ "thumbprint": one.thumbprint, "subject": one.subject, "trusted": trust }))
    }

    fn connectors(&self) -> BoxFuture<'_, Vec<Declared>> {
        Box::pin(async { connect::declared(&self.reloader.factory().await) })
    }

    fn schema(&self) -> Value {
        static SCHEMA: OnceLock<Value> = OnceLock::new();
        SCHEMA.get_or_init(reference::schema).clone()
    }

    fn validate(&self, role: Role, type_name: &str, config: BTreeMap<String, String>) -> BoxFuture<'_, Vec<Wrong>> {
        let type_name = type_name.to_owned();
        Box::pin(async move {
            let factory = self.reloader.factory().await;
            let beside = self.reloader.paths().first().cloned().unwrap_or_default();
            tokio::task::block_in_place(|| connect::validate(&factory, &beside, role, &type_name, config))
        })
    }

    fn stands_at(&self, role: Role, name: &str) -> String {
        tokio::task::block_in_place(|| connect::stands_at(self.reloader.paths(), role, name))
    }

    fn alarms(&self) -> Value {
        self.alarms.report()
    }

    fn messages(&self) -> Value {
        messages::last()
    }
}
