//! What Millrace says of itself to an OpenTelemetry collector.

use crate::tree::node::Spanned;
use crate::tree::secret::Secret;
use crate::tree::units::Period;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Metrics, warnings and errors to an OpenTelemetry collector, by OTLP over HTTP. In packages that have it; `/metrics` is everywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// The collector: `http://collector:4318`. `/v1/metrics` and `/v1/logs` are below it. Without it nothing is sent.
    pub endpoint: Option<Spanned<String>>,
    /// How often.
    pub every: Spanned<Period>,
    /// A token for `Authorization: Bearer`, by reference.
    pub bearer: Option<Secret>,
    /// More headers, by reference: `{x-api-key: ${env:KEY}}`.
    pub headers: IndexMap<String, Secret>,
    /// The authority to trust, PEM. Left out: the system's.
    pub ca: Option<PathBuf>,
}

impl Default for Otlp {
    fn default() -> Self {
        Self { endpoint: None, every: Period::from_secs(15).into(), bearer: None, headers: IndexMap::new(), ca: None }
    }
}
