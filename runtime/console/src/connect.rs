//! Kafka Connect's REST interface, so that the tools that people have list, watch, pause and restart Millrace's connectors.
//!
//! ```text
//! GET /                                  (asked for JSON) version, commit, the cluster's id
//! GET /connectors?expand=info&expand=status      GET /connector-plugins, ../{class}/config
//! GET /connectors/{name}, ../config, ../status, ../tasks, ../tasks/{n}/status, ../topics, ../offsets
//! PUT ../pause, ../resume, ../stop       PUT /connector-plugins/{class}/config/validate
//! POST ../restart?includeTasks&onlyFailed, ../tasks/{n}/restart
//! PATCH, DELETE ../offsets               of a stopped sink
//! POST /connectors, PUT and PATCH ../config, DELETE ../{name}: 403 with file and line; the files are the configuration
//! ```
//!
//! - A connector is a source or a sink; its tasks are the parts that the source tells apart (devices, subscriptions), at least one.
//! - Words: Starting = RESTARTING; Degraded = RUNNING with a FAILED task; Blocked = FAILED; `enabled: false` = STOPPED.
//! - Errors are `{error_code, message}`. 409 is what clients try again: only a name that exists has it.
//!
//! Where the answers differ from Kafka Connect's on purpose: a body that is not JSON is 400 (Connect: 500), topics can't be reset (403), and a source's
//! offsets can't be altered (400). Everything else is compared call by call (`tests/tests/e2e/connect.rs`).

mod answer;
mod definitions;
mod offsets;
mod state;

use crate::control::Declared;
use crate::shared::{Console, Shared};
use answer::{Answer, Fault, fault, json_body, not_there, release};
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use definitions::Plugins;
pub use definitions::class;
use millrace_engine::hold::{Role, Wanted};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The release of Kafka Connect whose interface this is: clients choose their calls by it.
const VERSION: &str = "4.1.1";

pub(crate) fn router() -> Router<Arc<Console>> {
    let one = "/connectors/{name}";
    let at = |rest: &str| format!("{one}{rest}");
    Router::new()
        .route("/connectors", get(list).post(create))
        .route("/connectors/", get(list).post(create))
        .route(one, get(about).delete(read_only))
        .route(&at("/"), get(about).delete(read_only))
        .route(&at("/config"), get(config).put(read_only).patch(read_only))
        .route(&at("/status"), get(status))
        .route(&at("/tasks"), get(tasks))
        .route(&at("/tasks/{task}/status"), get(task_status))
        .route(&at("/tasks/{task}/restart"), post(restart_task))
        .route(&at("/topics"), get(topics))
        .route(&at("/topics/reset"), put(reset_topics))
        .route(&at("/pause"), put(|state, path| want(state, path, Wanted::Paused)))
        .route(&at("/resume"), put(|state, path| want(state, path, Wanted::Running)))
        .route(&at("/stop"), put(|state, path| want(state, path, Wanted::Stopped)))
        .route(&at("/restart"), post(restart))
        .route(&at("/offsets"), get(offsets::show).patch(offsets::alter).delete(offsets::reset))
        .route("/connector-plugins", get(plugins))
        .route("/connector-plugins/{class}/config", get(definitions_of))
        .route("/connector-plugins/{class}/config/validate", put(validate))
}

/// `GET /` of a program.
pub(crate) async fn root(console: Arc<Console>) -> Response {
    let engine = console.engine.clone();
    let cluster = tokio::task::spawn_blocking(move || engine.cluster_id()).await.unwrap_or_default();
    let commit = console.version.rsplit(['(', ' ']).next().unwrap_or_default().trim_end_matches(')');
    Json(json!({ "version": VERSION, "commit": format!("millrace-{commit}"), "kafka_cluster_id": cluster })).into_response()
}

pub(crate) async fn not_found() -> Response {
    Fault(StatusCode::NOT_FOUND, "HTTP 404 Not Found".to_owned()).into_response()
}

pub(crate) async fn no_such_method() -> Response {
    Fault(StatusCode::METHOD_NOT_ALLOWED, "HTTP 405 Method Not Allowed".to_owned()).into_response()
}

async fn list(State(console): Shared, RawQuery(query): RawQuery) -> Answer {
    let declared = console.declared().await?;
    let expands = |what: &str| query.as_deref().unwrap_or_default().split('&').any(|part| part == format!("expand={what}"));
    let (info, status) = (expands("info"), expands("status"));
    if !info && !status {
        return Ok(Json(declared.into_iter().map(|one| one.name).collect::<Vec<_>>()).into_response());
    }
    let report = console.engine.report();
    let mut all = Map::new();
    for one in declared {
        let mut entry = Map::new();
        let state = state::of(&console, &report, &one);
        if status {
            entry.insert("status".to_owned(), state.status());
        }
        if info {
            entry.insert("info".to_owned(), info_of(&one, state.tasks.len()));
        }
        all.insert(one.name, Value::Object(entry));
    }
    Ok(Json(Value::Object(all)).into_response())
}

fn info_of(one: &Declared, tasks: usize) -> Value {
    let tasks: Vec<Value> = (0..tasks).map(|task| json!({ "connector": one.name, "task": task })).collect();
    json!({ "name": one.name, "config": one.config, "tasks": tasks, "type": state::kind(one.role) })
}

async fn about(State(console): Shared, Path(name): Path<String>) -> Answer {
    let one = console.find(&name, || not_there(&name)).await?;
    let tasks = state::of(&console, &console.engine.report(), &one).tasks.len();
    Ok(Json(info_of(&one, tasks)).into_response())
}

async fn config(State(console): Shared, Path(name): Path<String>) -> Answer {
    Ok(Json(console.find(&name, || not_there(&name)).await?.config).into_response())
}

async fn status(State(console): Shared, Path(name): Path<String>) -> Answer {
    let one = console.find(&name, || format!("No status found for connector {name}")).await?;
    Ok(Json(state::of(&console, &console.engine.report(), &one).status()).into_response())
}

async fn tasks(State(console): Shared, Path(name): Path<String>) -> Answer {
    let one = console.find(&name, || not_there(&name)).await?;
    let state = state::of(&console, &console.engine.report(), &one);
    let task = |(id, task): (usize, &state::Task)| {
        let mut config = one.config.clone();
        config.insert("task.part".to_owned(), task.part.clone());
        json!({ "id": { "connector": name, "task": id }, "config": config })
    };
    Ok(Json(state.tasks.iter().enumerate().map(task).collect::<Vec<_>>()).into_response())
}

async fn task_status(State(console): Shared, Path((name, task)): Path<(String, String)>) -> Answer {
    let missing = || format!("No status found for task {name}-{task}");
    let one = console.find(&name, missing).await?;
    let state = state::of(&console, &console.engine.report(), &one);
    let found = task.parse().ok().and_then(|id: usize| state.task(id));
    found.map_or_else(|| fault(StatusCode::NOT_FOUND, missing()), |task| Ok(Json(task).into_response()))
}

async fn topics(State(console): Shared, Path(name): Path<String>) -> Answer {
    // As Connect has it: of a name that it does not know, none.
    let found = console.declared().await?.into_iter().find(|one| one.name == name);
    let topics = found.map(|one| console.engine.topics_of(one.role, &one.own)).unwrap_or_default();
    Ok(Json(json!({ name: { "topics": topics } })).into_response())
}

async fn reset_topics() -> Answer {
    fault(StatusCode::FORBIDDEN, "Topic tracking reset is disabled: the topics of a connector are those that its files name")
}

async fn want(State(console): Shared, Path(name): Path<String>, wanted: Wanted) -> Answer {
    let one = console.find(&name, || format!("Unknown connector {name}")).await?;
    match console.engine.want(one.role, &one.own, wanted).await {
        Ok(true) if wanted == Wanted::Stopped => Ok(StatusCode::NO_CONTENT.into_response()),
        Ok(true) => Ok(StatusCode::ACCEPTED.into_response()),
        Ok(false) if wanted == Wanted::Running => fault(StatusCode::BAD_REQUEST, switched_off(&console, &one)?),
        // It does not run anyway.
        Ok(false) => Ok(StatusCode::ACCEPTED.into_response()),
        Err(why) => fault(StatusCode::INTERNAL_SERVER_ERROR, why),
    }
}

fn switched_off(console: &Console, one: &Declared) -> Result<String, Fault> {
    let place = console.files()?.stands_at(one.role, &one.own);
    Ok(format!("{} is switched off by `enabled: false` at {place}; change it there, then `millrace reload`", one.name))
}

async fn restart(State(console): Shared, Path(name): Path<String>, RawQuery(query): RawQuery) -> Answer {
    let asks = |what: &str| query.as_deref().unwrap_or_default().split('&').any(|part| part.eq_ignore_ascii_case(&format!("{what}=true")));
    let (with_tasks, only_failed) = (asks("includeTasks"), asks("onlyFailed"));
    let one = console.find(&name, || format!("Unknown connector: {name}")).await?;
    let before = state::of(&console, &console.engine.report(), &one);
    let is_wanted = !only_failed || before.state == "FAILED" || (with_tasks && before.has_failed_task());
    if is_wanted && !console.engine.restart(one.role, &one.own).await {
        return fault(StatusCode::BAD_REQUEST, switched_off(&console, &one)?);
    }
    if !with_tasks && !only_failed {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let status = if is_wanted { before.restarting() } else { before.status() };
    Ok((StatusCode::ACCEPTED, Json(status)).into_response())
}

/// A part has no session of its own: its connector's begins anew.
async fn restart_task(State(console): Shared, Path((name, task)): Path<(String, String)>) -> Answer {
    let one = console.find(&name, || format!("Unknown connector: {name}")).await?;
    let state = state::of(&console, &console.engine.report(), &one);
    if task.parse().ok().and_then(|id: usize| state.task(id)).is_none() {
        return fault(StatusCode::NOT_FOUND, format!("Unknown task: {name}-{task}"));
    }
    console.engine.restart(one.role, &one.own).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST /connectors`.
async fn create(State(console): Shared, headers: HeaderMap, body: Bytes) -> Answer {
    let body = json_body(&headers, &body)?;
    let name = body["name"].as_str().unwrap_or_default();
    if console.declared().await?.iter().any(|one| one.name == name) {
        return fault(StatusCode::CONFLICT, format!("Connector {name} already exists"));
    }
    let place = console.files()?.stands_at(Role::Source, name);
    fault(StatusCode::FORBIDDEN, format!("the configuration is in files: declare the connector in {place}, then `millrace reload`"))
}

/// What would change the configuration of one.
async fn read_only(State(console): Shared, Path(name): Path<String>) -> Answer {
    let control = console.files()?;
    let declared = console.declared().await?.into_iter().find(|one| one.name == name);
    let place = control.stands_at(declared.as_ref().map_or(Role::Source, |one| one.role), &name);
    let what = match &declared {
        Some(_) => format!("{name} is declared at {place}: change it there"),
        None => format!("there is no connector {name}: declare it in {place}"),
    };
    fault(StatusCode::FORBIDDEN, format!("the configuration is in files, and {what}, then `millrace reload`"))
}

// ---- plugins ------------------------------------------------------------------------------------------------------------------

async fn plugins(State(console): Shared) -> Answer {
    let plugins = Plugins::new(console.files()?.schema());
    let about = |(class, role): (String, Role)| json!({ "class": class, "type": state::kind(role), "version": release(console.version) });
    Ok(Json(plugins.classes().map(about).collect::<Vec<_>>()).into_response())
}

async fn definitions_of(State(console): Shared, Path(class): Path<String>) -> Answer {
    let plugins = Plugins::new(console.files()?.schema());
    let definitions = plugins.definitions(&class);
    definitions.map_or_else(|| fault(StatusCode::NOT_FOUND, format!("Unknown plugin {class}.")), |all| Ok(Json(all).into_response()))
}

/// What `millrace check` says of a connector, each problem under its key.
async fn validate(State(console): Shared, Path(class): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let config = match json_body(&headers, &body)? {
        Value::Object(config) => config,
        other => return fault(StatusCode::BAD_REQUEST, format!("expected a map of keys and texts, found {other}")),
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let config: BTreeMap<String, String> =
        config.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), text(value))).collect();
    match config.get("connector.class") {
        None => return fault(StatusCode::BAD_REQUEST, format!("Connector config {config:?} contains no connector type")),
        Some(other) if *other != class => {
            return fault(StatusCode::BAD_REQUEST, format!("Included connector type {other} does not match request type {class}"));
        }
        Some(_) => {}
    }
    let plugins = Plugins::new(console.files()?.schema());
    let Some((role, type_name)) = plugins.find(&class) else {
        let known: Vec<String> = plugins.classes().map(|(class, _)| class).collect();
        return fault(StatusCode::NOT_FOUND, format!("there is no connector {class}; this build has {}", known.join(", ")));
    };
    let problems = console.files()?.validate(role, type_name, config.clone()).await;
    Ok(Json(plugins.validated(&class, &config, &problems)).into_response())
}
