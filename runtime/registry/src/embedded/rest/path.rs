//! What the handlers of both interfaces take from a request.

use crate::embedded::operations::Fault;
use crate::embedded::registry::Registry;
use crate::schema::SchemaId;
use axum::extract::State;
use std::sync::Arc;

pub(super) type Shared = State<Arc<Registry>>;

pub(super) fn number(text: &str) -> Result<SchemaId, Fault> {
    // A path that is no number is no path of this interface.
    text.parse().map(SchemaId).map_err(|_| Fault::new(404, "HTTP 404 Not Found"))
}
