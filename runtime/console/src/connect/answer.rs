//! What the calls have in common: answers that are errors, bodies, and the connectors of the file by name.

use crate::control::{Control, Declared};
use crate::shared::Console;
use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

/// An answer that is an error, as Kafka Connect has them.
pub struct Fault(pub StatusCode, pub String);

pub type Answer = Result<Response, Fault>;

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error_code": self.0.as_u16(), "message": self.1 }))).into_response()
    }
}

pub fn fault<T>(code: StatusCode, message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault(code, message.into()))
}

impl Console {
    pub fn files(&self) -> Result<&Arc<dyn Control>, Fault> {
        let none = || Fault(StatusCode::NOT_IMPLEMENTED, "this service was not made of files, and declares no connectors".to_owned());
        self.control.as_ref().ok_or_else(none)
    }

    pub async fn declared(&self) -> Result<Vec<Declared>, Fault> {
        Ok(self.files()?.connectors().await)
    }

    pub async fn find(&self, name: &str, missing: impl FnOnce() -> String) -> Result<Declared, Fault> {
        let found = self.declared().await?.into_iter().find(|one| one.name == name);
        found.ok_or_else(|| Fault(StatusCode::NOT_FOUND, missing()))
    }
}

pub fn not_there(name: &str) -> String {
    format!("Connector {name} not found")
}

pub fn json_body(headers: &HeaderMap, body: &[u8]) -> Result<Value, Fault> {
    let is_json = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).is_some_and(|kind| kind.contains("json"));
    if !is_json {
        return fault(StatusCode::UNSUPPORTED_MEDIA_TYPE, "HTTP 415 Unsupported Media Type");
    }
    serde_json::from_slice(body).map_err(|error| Fault(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}")))
}

/// `0.1.0` of `0.1.0 (abc)`.
pub fn release(version: &str) -> &str {
    version.split(' ').next().unwrap_or(version)
}
