//! What Millrace says of itself, sent to an OpenTelemetry collector: the metrics of `/metrics`, and the warnings and errors.
//!
//! ```text
//! every `every`: the metrics as they are now ─▶ ExportMetricsServiceRequest ─▶ POST {endpoint}/v1/metrics
//!                messages since the last ─────▶ ExportLogsServiceRequest ────▶ POST {endpoint}/v1/logs
//! ```
//!
//! - [`collector`]: where they go, as the file says it; [`export`]: when; [`encode`]: what the protocol calls them, behind the feature `export`, without
//!   which no collector is taken.
//!
//! Invariants: memory is bounded by one request and by the messages that are kept anyhow; a collector that is away costs its data, never ours. Metrics that
//! it did not take are not sent again (counters only grow, so the next ones say the same); messages are, as long as they are kept. What never
//! arrives is counted.

pub mod collector;
#[cfg(feature = "export")]
pub mod encode;
#[cfg(not(feature = "export"))]
#[path = "unencoded.rs"]
pub mod encode;
pub mod export;

pub use collector::Collector;
pub use export::{Counts, Exporter};

/// A warning or an error.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Microseconds since 1970.
    pub time: i64,
    pub is_error: bool,
    pub text: String,
}

/// Messages from one number on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    pub messages: Vec<Message>,
    /// The number of the one behind the last.
    pub next: u64,
    /// How many were asked for and are kept no more.
    pub missed: u64,
}

/// What a collector refused of a request that it took, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rejected {
    pub count: u64,
    pub why: String,
}

/// Whose metrics and messages they are.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// `enterprise/site`.
    pub site: String,
    pub host: String,
    pub version: String,
}
