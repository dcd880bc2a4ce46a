//! What Apicurio's serdes ask when they decode: a schema and its references, by id or by name. Nothing else of its interface is here.
//!
//! Our ids are its content ids and global ids, a subject is an artifact of the group `default`.

use super::path::{Shared, number};
use crate::embedded::operations::{Fault, Wanted};
use crate::embedded::registry::Registry;
use crate::schema::{Kind, Schema};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::Arc;

/// Where it lies.
pub(super) const PATH: &str = "/apis/registry/v3";

pub(super) fn router() -> Router<Arc<Registry>> {
    Router::new()
        .route("/ids/contentIds/{id}", get(text_of_id))
        .route("/ids/contentIds/{id}/references", get(references_of_id))
        .route("/ids/globalIds/{id}", get(text_of_id))
        .route("/ids/globalIds/{id}/references", get(references_of_id))
        .route("/groups/default/artifacts/{subject}/versions/{version}/content", get(text))
        .route("/groups/default/artifacts/{subject}/versions/{version}/references", get(references))
}

async fn text_of_id(State(registry): Shared, Path(id): Path<String>) -> Result<Response, Fault> {
    Ok(content(registry.by_id(number(&id)?, false).await?))
}

async fn references_of_id(State(registry): Shared, Path(id): Path<String>) -> Result<Response, Fault> {
    Ok(named(&registry.by_id(number(&id)?, false).await?))
}

async fn text(State(registry): Shared, Path((subject, version)): Path<(String, String)>) -> Result<Response, Fault> {
    Ok(content(of(&registry, &subject, &version).await?))
}

async fn references(State(registry): Shared, Path((subject, version)): Path<(String, String)>) -> Result<Response, Fault> {
    Ok(named(&of(&registry, &subject, &version).await?))
}

/// A version of a subject; deleted ones, too: what refers to them must still be read.
async fn of(registry: &Arc<Registry>, subject: &str, version: &str) -> Result<Schema, Fault> {
    let value = registry.version(subject, Wanted::parse(version)?, true, false).await?;
    Ok(crate::embedded::state::schema_of(&value))
}

fn content(schema: Schema) -> Response {
    let media = if schema.kind == Kind::Protobuf { "application/x-protobuf" } else { "application/json" };
    ([(header::CONTENT_TYPE, media)], schema.text).into_response()
}

fn named(schema: &Schema) -> Response {
    let one = |reference: &crate::schema::Reference| json!({"groupId": "default", "artifactId": reference.subject, "version": reference.version.to_string(), "name": reference.name});
    let list: Value = schema.references.iter().map(one).collect();
    ([(header::CONTENT_TYPE, "application/json")], list.to_string()).into_response()
}
