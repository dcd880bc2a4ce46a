//! Sinks by consumer groups: consume, write, flush, commit below what is durable.

use crate::status::Board;
use millrace_contract::Sink;
use millrace_kafka::Settings;
use std::sync::Arc;
use std::time::Duration;

/// What one sink runs with.
pub struct SinkOptions {
    pub name: String,
    pub settings: Settings,
    pub group: String,
    /// Names, or prefixes that end with `*`.
    pub topics: Vec<String>,
    pub from_latest: bool,
    /// `enterprise/site/name`, for the dead letters' headers.
    pub connector: String,
    /// The dead-letter topic of a topic.
    pub dead_letter: Box<dyn Fn(&str) -> Arc<str> + Send + Sync>,
    /// Makes a new instance: at start, and after a failure.
    pub make: Box<dyn Fn() -> Box<dyn Sink> + Send + Sync>,
    pub board: Arc<Board>,
}

/// Counts of a sink: `consumed = written + dead + in flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SinkCounts {
    pub consumed: u64,
    pub written: u64,
    pub dead: u64,
}

/// A running sink: its threads.
pub struct SinkTask {}

impl SinkTask {
    pub fn start(_options: SinkOptions, _tokio: tokio::runtime::Handle) -> Result<Self, String> {
        todo!()
    }

    pub fn counts(&self) -> SinkCounts {
        todo!()
    }

    /// Flushes, commits, leaves the group; bounded. Safe to call twice.
    pub fn stop(&self, _bound: Duration) {
        todo!()
    }
}
