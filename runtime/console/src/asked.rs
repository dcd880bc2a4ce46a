//! What Kafka itself is asked for: the way of a tag's last sample, its trend, topics and their newest records. Each question makes a client of Kafka, so
//! few are answered at a time, and each is bounded.

use crate::access::refused;
use crate::answers;
use crate::clock::now;
use crate::pattern::matches;
use crate::shared::{Console, Shared};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use millrace_engine::Engine;
use millrace_engine::intake::TagReport;
use millrace_engine::reader::{Begin, ReadError};
use millrace_engine::trace::KafkaError;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Questions at a time.
pub const AT_A_TIME: usize = 4;
/// How long one waits for the others.
const TURN: Duration = Duration::from_secs(10);
/// Newest records shown, and how long they are read.
const NEWEST: usize = 10;
const READING: Duration = Duration::from_secs(4);

#[derive(Deserialize)]
pub struct WhyQuery {
    tag: String,
    /// Without asking Kafka where the last sample is.
    #[serde(default)]
    brief: bool,
}

/// The one tag that is meant. Errors: why there is none, as it is answered.
fn one_tag(engine: &Engine, name: &str) -> Result<TagReport, (StatusCode, String)> {
    let (mut tags, total) = engine.tags(|path| matches(path, name), |_| true, 2);
    match (tags.pop(), total) {
        (Some(tag), 1) => Ok(tag),
        (None, _) => Err((StatusCode::NOT_FOUND, format!("there is no tag `{name}`; `millrace tags` lists them, `*` matches"))),
        (_, total) => Err((StatusCode::BAD_REQUEST, format!("{total} tags fit `{name}`; name one: `millrace tags` lists them"))),
    }
}

pub async fn why(State(console): Shared, Query(query): Query<WhyQuery>) -> Response {
    let tag = match one_tag(&console.engine, &query.tag) {
        Ok(tag) => tag,
        Err((code, why)) => return refused(code, &why),
    };
    let trace = match console.asking_kafka.clone().try_acquire_owned() {
        // A Kafka that is away is a broken hop already.
        Ok(permit) if !query.brief && console.engine.report().kafka.status == "Running" => {
            let (engine, tag) = (console.engine.clone(), tag.clone());
            let traced = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                engine.trace(&tag)
            });
            traced.await.ok()
        }
        // Many ask: what is known here is answered at once.
        _ => None,
    };
    Json(answers::why(&console.engine.report(), &tag, trace.as_ref(), now())).into_response()
}

#[derive(Deserialize)]
pub struct TrendQuery {
    tag: String,
    /// How many seconds back.
    #[serde(default = "a_quarter")]
    seconds: u32,
}

fn a_quarter() -> u32 {
    900
}

/// What a tag was, as its topic has it.
pub async fn trend(State(console): Shared, Query(query): Query<TrendQuery>) -> Response {
    let tag = match one_tag(&console.engine, &query.tag) {
        Ok(tag) => tag,
        Err((code, why)) => return refused(code, &why),
    };
    let since = now() - i64::from(query.seconds) * 1_000_000;
    let failed = |error: KafkaError| (StatusCode::SERVICE_UNAVAILABLE, format!("the topic can't be read: {error}"));
    of_kafka(console, move |engine| engine.trend(&tag, since).map_err(failed)).await
}

/// What topics there are.
pub async fn topics(State(console): Shared) -> Response {
    of_kafka(console, |engine| Ok(engine.survey())).await
}

/// The newest records of a topic.
pub async fn newest(State(console): Shared, Path(topic): Path<String>) -> Response {
    of_kafka(console, move |engine| {
        let failed = |error: ReadError| match error {
            ReadError::NoTopic(_) => (StatusCode::NOT_FOUND, error.to_string()),
            error => (StatusCode::SERVICE_UNAVAILABLE, format!("the topic can't be read: {error}")),
        };
        let mut reader = engine.read_topic(&topic, &Begin::Last(NEWEST as i64)).map_err(failed)?;
        let (until, mut records) = (Instant::now() + READING, Vec::new());
        while !reader.is_at_end() && Instant::now() < until {
            records.extend(reader.read(Duration::from_millis(500), NEWEST).map_err(|error| failed(error.into()))?);
        }
        records.sort_by_key(|record| std::cmp::Reverse((record.timestamp, record.offset)));
        records.truncate(NEWEST);
        Ok(json!({ "topic": topic, "records": records }))
    })
    .await
}

/// Asks on a thread of its own, no more than so many at a time.
async fn of_kafka<T: Serialize + Send + 'static>(
    console: Arc<Console>,
    ask: impl FnOnce(&Engine) -> Result<T, (StatusCode, String)> + Send + 'static,
) -> Response {
    let Ok(Ok(permit)) = tokio::time::timeout(TURN, console.asking_kafka.clone().acquire_owned()).await else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "Kafka is being asked for others already; ask again in a moment");
    };
    let engine = console.engine.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        ask(&engine)
    });
    match asked.await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err((code, why))) => refused(code, &why),
        Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "asking Kafka ended in a panic; please report it"),
    }
}
