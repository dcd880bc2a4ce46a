//! Confluent's REST interface: paths, queries, bodies, status codes.
//!
//! - [`apicurio`]: the few paths of Apicurio's own interface by which its Java serdes decode.

mod apicurio;
mod path;

use super::guard::{self, Guard, Places};
use super::operations::{Fault, Wanted};
use super::record::{ConfigValue, SchemaValue};
use super::registry::Registry;
use crate::client::RegistryLogin;
use crate::schema::{Kind, Reference, Schema, SchemaId};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use path::{Shared, number};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// The longest body of a request: a schema, escaped, with its references.
const BODY: usize = 4 << 20;

type Flags = Query<HashMap<String, String>>;

/// Why a registry could not begin to serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {addr}; choose a free port of this machine")]
    Listen { addr: SocketAddr, source: std::io::Error },
    #[error("the schema registry would be open to everybody who reaches {0}; ask for a login with `schemas.login`, or listen on 127.0.0.1")]
    Unguarded(SocketAddr),
}

/// Binds an address and serves the registry there until it is stopped. Returns the address bound.
///
/// Shape: `login` is asked of everybody; off loopback there must be one.
/// Errors: the address is in use or not this machine's, or it is open to others without a login.
pub async fn serve(listen: SocketAddr, registry: Arc<Registry>, login: Option<&RegistryLogin>) -> Result<SocketAddr, ServeError> {
    if !listen.ip().is_loopback() {
        if login.is_none() {
            return Err(ServeError::Unguarded(listen));
        }
        tracing::warn!(%listen, "the schema registry's logins cross the network in clear text: it serves no TLS; listen on 127.0.0.1 behind a proxy that does");
    }
    let failed = |source| ServeError::Listen { addr: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let guard = Guard::new(listen, login);
    let bound = listener.local_addr().map_err(failed)?;
    let mut stopping = registry.stopping.subscribe();
    tokio::spawn(async move {
        tokio::select! {
            served = axum::serve(Places::new(listener), guarded(registry, guard)) => {
                if let Err(error) = served {
                    tracing::error!("the schema registry ended: {error}");
                }
            }
            _ = stopping.wait_for(|stops| *stops) => {}
        }
    });
    Ok(bound)
}

/// The router of the embedded registry on loopback, without a login.
pub fn router(registry: Arc<Registry>) -> Router {
    guarded(registry, Guard::default())
}

fn guarded(registry: Arc<Registry>, guard: Guard) -> Router {
    Router::new()
        .route("/", get(async || Answer::json(&json!({}))))
        .route("/contexts", get(async || Answer::json(&json!(["."]))))
        .route("/v1/metadata/id", get(async || Answer::json(&json!({"scope": {"path": [], "clusters": {}}, "id": ""}))))
        .route("/v1/metadata/version", get(async || Answer::json(&json!({"version": env!("CARGO_PKG_VERSION"), "commitId": ""}))))
        .route("/schemas/types", get(async || Answer::json(&["JSON", "PROTOBUF", "AVRO"])))
        .route("/schemas", get(schemas))
        .route("/schemas/ids/{id}", get(by_id))
        .route("/schemas/ids/{id}/schema", get(text_by_id))
        .route("/schemas/ids/{id}/subjects", get(subjects_of))
        .route("/schemas/ids/{id}/versions", get(versions_of))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(lookup).delete(delete_subject))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", get(version).delete(delete_version))
        .route("/subjects/{subject}/versions/{version}/schema", get(text))
        .route("/subjects/{subject}/versions/{version}/referencedby", get(referenced_by))
        .route("/compatibility/subjects/{subject}/versions", post(check_all))
        .route("/compatibility/subjects/{subject}/versions/{version}", post(check_one))
        .route("/config", get(config).put(set_config).delete(delete_config))
        .route("/config/{subject}", get(subject_config).put(set_subject_config).delete(delete_subject_config))
        .route("/mode", get(mode).put(set_mode).delete(delete_mode))
        .route("/mode/{subject}", get(subject_mode).put(set_subject_mode).delete(delete_subject_mode))
        .nest(apicurio::PATH, apicurio::router())
        .fallback(async || Fault::new(404, "HTTP 404 Not Found"))
        .method_not_allowed_fallback(async || Fault::new(405, "HTTP 405 Method Not Allowed"))
        .layer(DefaultBodyLimit::max(BODY))
        .layer(axum::middleware::from_fn_with_state(guard, guard::guard))
        .with_state(registry)
}

/// What is answered where all went well.
struct Answer(Vec<u8>);

impl Answer {
    fn json(value: &impl serde::Serialize) -> Self {
        Self(serde_json::to_vec(value).unwrap_or_default())
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/vnd.schemaregistry.v1+json")], self.0).into_response()
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Answer::json(&json!({"error_code": self.code, "message": self.message}))).into_response()
    }
}

type Outcome = Result<Answer, Fault>;

fn is_set(flags: &HashMap<String, String>, name: &str) -> bool {
    flags.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn is_serialized(flags: &HashMap<String, String>) -> bool {
    flags.get("format").is_some_and(|format| format == "serialized")
}

/// Reads a body; what is wrong with it is said as Confluent's does: 400 for what is no JSON, 422 for what does not belong there.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            return Fault::new(422, error.to_string());
        }
        Fault::new(400, format!("Unable to process JSON: {error}"))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Submission {
    #[serde(default)]
    schema: Option<String>,
    #[serde(rename = "schemaType", default)]
    kind: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
    #[serde(default)]
    version: Option<i32>,
    #[serde(default)]
    id: Option<i32>,
    /// Clients of Confluent's send what they were answered.
    #[serde(default, rename = "subject")]
    _subject: Option<String>,
    #[serde(default)]
    metadata: Option<Value>,
    #[serde(rename = "ruleSet", default)]
    rules: Option<Value>,
    #[serde(default, rename = "schemaTagsToAdd")]
    _tags_to_add: Option<Value>,
    #[serde(default, rename = "schemaTagsToRemove")]
    _tags_to_remove: Option<Value>,
}

impl Submission {
    fn schema(&mut self) -> Result<Schema, Fault> {
        if self.rules.is_some() || self.metadata.is_some() {
            return Err(Fault::new(42210, "this registry keeps no metadata and no rules"));
        }
        let kind = match self.kind.as_deref() {
            None | Some("") => Kind::Avro,
            Some(name) => name.parse().map_err(|_| Fault::new(42201, format!("Invalid schema type {name}")))?,
        };
        Ok(Schema { kind, text: self.schema.take().unwrap_or_default(), references: self.references.take().unwrap_or_default() })
    }
}

fn schema_body(schema: &Schema) -> Map<String, Value> {
    let mut body = Map::new();
    if schema.kind != Kind::Avro {
        body.insert("schemaType".into(), json!(schema.kind.as_str()));
    }
    body.insert("schema".into(), json!(schema.text));
    if !schema.references.is_empty() {
        body.insert("references".into(), json!(schema.references));
    }
    body
}

fn version_body(value: &SchemaValue) -> Value {
    let mut body = Map::new();
    body.insert("subject".into(), json!(value.subject));
    body.insert("version".into(), json!(value.version));
    body.insert("id".into(), json!(value.id));
    body.extend(schema_body(&super::state::schema_of(value)));
    Value::Object(body)
}

async fn register(State(registry): Shared, Path(subject): Path<String>, Query(flags): Flags, body: Bytes) -> Outcome {
    let mut submission: Submission = read(&body)?;
    let schema = submission.schema()?;
    let id = registry.register(subject, schema, is_set(&flags, "normalize"), (submission.id, submission.version)).await?;
    Ok(Answer::json(&json!({ "id": id })))
}

async fn lookup(State(registry): Shared, Path(subject): Path<String>, Query(flags): Flags, body: Bytes) -> Outcome {
    let schema = read::<Submission>(&body)?.schema()?;
    let found = registry.lookup(subject, schema, is_set(&flags, "normalize"), is_set(&flags, "deleted")).await?;
    Ok(Answer::json(&version_body(&found)))
}

async fn check_all(State(registry): Shared, Path(subject): Path<String>, Query(flags): Flags, body: Bytes) -> Outcome {
    check(&registry, subject, None, &flags, &body).await
}

async fn check_one(State(registry): Shared, Path((subject, version)): Path<(String, String)>, Query(flags): Flags, body: Bytes) -> Outcome {
    let wanted = Wanted::parse(&version)?;
    check(&registry, subject, Some(wanted), &flags, &body).await
}

async fn check(
    registry: &Arc<Registry>,
    subject: String,
    version: Option<Wanted>,
    flags: &HashMap<String, String>,
    body: &Bytes,
) -> Outcome {
    let schema = read::<Submission>(body)?.schema()?;
    let judged = registry.check(subject, schema, version, is_set(flags, "normalize")).await?;
    Ok(Answer::json(&if is_set(flags, "verbose") {
        json!({"is_compatible": judged.compatible, "messages": judged.messages})
    } else {
        json!({"is_compatible": judged.compatible})
    }))
}

async fn by_id(State(registry): Shared, Path(id): Path<String>, Query(flags): Flags) -> Outcome {
    let schema = registry.by_id(number(&id)?, is_serialized(&flags)).await?;
    let mut body = schema_body(&schema);
    if is_set(&flags, "fetchMaxId") {
        body.insert("maxId".into(), json!(registry.state.read().last_id));
    }
    Ok(Answer::json(&body))
}

async fn text_by_id(State(registry): Shared, Path(id): Path<String>, Query(flags): Flags) -> Outcome {
    Ok(Answer(registry.by_id(number(&id)?, is_serialized(&flags)).await?.text.into_bytes()))
}

async fn subjects_of(State(registry): Shared, Path(id): Path<String>, Query(flags): Flags) -> Outcome {
    let found = registry.carrying(number(&id)?, is_set(&flags, "deleted"))?;
    let mut names: Vec<&String> = found.iter().map(|(subject, _)| subject).collect();
    names.dedup();
    Ok(Answer::json(&names))
}

async fn versions_of(State(registry): Shared, Path(id): Path<String>, Query(flags): Flags) -> Outcome {
    let found = registry.carrying(number(&id)?, is_set(&flags, "deleted"))?;
    let list: Vec<Value> = found.iter().map(|(subject, version)| json!({"subject": subject, "version": version})).collect();
    Ok(Answer::json(&list))
}

impl Registry {
    /// Subjects and versions that carry an id.
    fn carrying(&self, id: SchemaId, deleted: bool) -> Result<Vec<(String, i32)>, Fault> {
        self.ready().map_err(|why| Fault::new(50001, why))?;
        let state = self.state.read();
        let all = state.versions_of(id);
        if all.is_empty() {
            return Err(Fault::new(40403, format!("Schema {id} not found")));
        }
        Ok(all.into_iter().filter(|value| deleted || !value.deleted).map(|value| (value.subject.clone(), value.version)).collect())
    }
}

async fn subjects(State(registry): Shared, Query(flags): Flags) -> Outcome {
    registry.ready().map_err(|why| Fault::new(50001, why))?;
    let prefix = flags.get("subjectPrefix").map_or("", String::as_str);
    let (deleted, only) = (is_set(&flags, "deleted"), is_set(&flags, "deletedOnly"));
    let state = registry.state.read();
    let wanted = |name: &&String| {
        let live = !state.versions(name, false).is_empty();
        name.starts_with(prefix) && if only { !live } else { live || deleted }
    };
    let names: Vec<&String> = state.subjects.keys().filter(wanted).collect();
    Ok(Answer::json(&page(&names, &flags)))
}

async fn schemas(State(registry): Shared, Query(flags): Flags) -> Outcome {
    registry.ready().map_err(|why| Fault::new(50001, why))?;
    let prefix = flags.get("subjectPrefix").map_or("", String::as_str);
    let state = registry.state.read();
    let mut list = Vec::new();
    for name in state.subjects.keys().filter(|name| name.starts_with(prefix)) {
        let mut versions = state.versions(name, is_set(&flags, "deleted"));
        if is_set(&flags, "latestOnly") {
            versions = versions.pop().into_iter().collect();
        }
        list.extend(versions);
    }
    Ok(Answer::json(&page(&list, &flags).iter().map(|value| version_body(value)).collect::<Vec<_>>()))
}

/// The part of a list that `offset` and `limit` ask for.
fn page<'a, T>(list: &'a [T], flags: &HashMap<String, String>) -> &'a [T] {
    let asked = |name: &str| flags.get(name).and_then(|text| text.parse::<usize>().ok());
    let rest = &list[asked("offset").unwrap_or(0).min(list.len())..];
    &rest[..asked("limit").unwrap_or(rest.len()).min(rest.len())]
}

async fn versions(State(registry): Shared, Path(subject): Path<String>, Query(flags): Flags) -> Outcome {
    registry.ready().map_err(|why| Fault::new(50001, why))?;
    let (deleted, only) = (is_set(&flags, "deleted"), is_set(&flags, "deletedOnly"));
    let state = registry.state.read();
    let all = state.versions(&subject, deleted || only);
    let numbers: Vec<i32> = all.into_iter().filter(|value| !only || value.deleted).map(|value| value.version).collect();
    if numbers.is_empty() {
        return Err(Fault::new(40401, format!("Subject '{subject}' not found.")));
    }
    Ok(Answer::json(&page(&numbers, &flags)))
}

async fn version(State(registry): Shared, Path((subject, version)): Path<(String, String)>, Query(flags): Flags) -> Outcome {
    let value = registry.version(&subject, Wanted::parse(&version)?, is_set(&flags, "deleted"), is_serialized(&flags)).await?;
    Ok(Answer::json(&version_body(&value)))
}

async fn text(State(registry): Shared, Path((subject, version)): Path<(String, String)>, Query(flags): Flags) -> Outcome {
    let value = registry.version(&subject, Wanted::parse(&version)?, is_set(&flags, "deleted"), is_serialized(&flags)).await?;
    Ok(Answer(value.schema.into_bytes()))
}

async fn referenced_by(State(registry): Shared, Path((subject, version)): Path<(String, String)>) -> Outcome {
    let value = registry.version(&subject, Wanted::parse(&version)?, true, false).await?;
    Ok(Answer::json(&registry.state.read().referring(&subject, value.version)))
}

async fn delete_version(State(registry): Shared, Path((subject, version)): Path<(String, String)>, Query(flags): Flags) -> Outcome {
    let wanted = Wanted::parse(&version)?;
    Ok(Answer::json(&registry.delete_version(&subject, wanted, is_set(&flags, "permanent")).await?))
}

async fn delete_subject(State(registry): Shared, Path(subject): Path<String>, Query(flags): Flags) -> Outcome {
    Ok(Answer::json(&registry.delete_subject(&subject, is_set(&flags, "permanent")).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigSubmission {
    #[serde(default)]
    compatibility: Option<String>,
    #[serde(default)]
    normalize: Option<bool>,
}

fn config_answer(config: &ConfigValue) -> Answer {
    let mut body = json!({"compatibilityLevel": config.level});
    if let Some(normalize) = config.normalize {
        body["normalize"] = normalize.into();
    }
    Answer::json(&body)
}

async fn put_config(registry: &Registry, subject: Option<&str>, body: &Bytes) -> Outcome {
    let submission: ConfigSubmission = read(body)?;
    registry.set_config(subject, submission.compatibility.as_deref(), submission.normalize).await?;
    let mut answer = Map::new();
    if let Some(level) = submission.compatibility {
        answer.insert("compatibility".into(), level.to_uppercase().into());
    }
    if let Some(normalize) = submission.normalize {
        answer.insert("normalize".into(), normalize.into());
    }
    Ok(Answer::json(&answer))
}

async fn config(State(registry): Shared) -> Outcome {
    Ok(config_answer(&registry.config(None, true)?))
}

async fn subject_config(State(registry): Shared, Path(subject): Path<String>, Query(flags): Flags) -> Outcome {
    Ok(config_answer(&registry.config(Some(&subject), is_set(&flags, "defaultToGlobal"))?))
}

async fn set_config(State(registry): Shared, body: Bytes) -> Outcome {
    put_config(&registry, None, &body).await
}

async fn set_subject_config(State(registry): Shared, Path(subject): Path<String>, body: Bytes) -> Outcome {
    put_config(&registry, Some(&subject), &body).await
}

async fn delete_config(State(registry): Shared) -> Outcome {
    Ok(config_answer(&registry.delete_config(None).await?))
}

async fn delete_subject_config(State(registry): Shared, Path(subject): Path<String>) -> Outcome {
    Ok(config_answer(&registry.delete_config(Some(&subject)).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeSubmission {
    #[serde(default)]
    mode: Option<String>,
}

async fn put_mode(registry: &Registry, subject: Option<&str>, flags: &HashMap<String, String>, body: &Bytes) -> Outcome {
    let submission: ModeSubmission = read(body)?;
    let mode = registry.set_mode(subject, submission.mode.as_deref(), is_set(flags, "force")).await?;
    Ok(Answer::json(&json!({"mode": mode.as_str()})))
}

async fn mode(State(registry): Shared) -> Outcome {
    Ok(Answer::json(&json!({"mode": registry.mode(None, true)?.as_str()})))
}

async fn subject_mode(State(registry): Shared, Path(subject): Path<String>, Query(flags): Flags) -> Outcome {
    Ok(Answer::json(&json!({"mode": registry.mode(Some(&subject), is_set(&flags, "defaultToGlobal"))?.as_str()})))
}

async fn set_mode(State(registry): Shared, Query(flags): Flags, body: Bytes) -> Outcome {
    put_mode(&registry, None, &flags, &body).await
}

async fn set_subject_mode(State(registry): Shared, Path(subject): Path<String>, Query(flags): Flags, body: Bytes) -> Outcome {
    put_mode(&registry, Some(&subject), &flags, &body).await
}

async fn delete_mode(State(registry): Shared) -> Outcome {
    Ok(Answer::json(&json!({"mode": registry.delete_mode(None).await?.as_str()})))
}

async fn delete_subject_mode(State(registry): Shared, Path(subject): Path<String>) -> Outcome {
    Ok(Answer::json(&json!({"mode": registry.delete_mode(Some(&subject)).await?.as_str()})))
}
