//! The outgoing half: reads every source's logs and brings their records to Kafka, in order, once acknowledged never lost.

use crate::outlet::Outlet;
use crate::topics::Topics;
use millrace_kafka::{Settings, TopicSpec};
use std::sync::Arc;
use std::time::Duration;

/// What the drain is made with.
pub struct DrainOptions {
    pub settings: Settings,
    /// `Some`: exactly once, with this transactional id and commit interval; `None`: at least once.
    pub transactions: Option<(String, Duration)>,
    pub topics: Topics,
    /// Created when missing; a contradiction is reported.
    pub declared: Vec<TopicSpec>,
    pub outlets: Vec<Arc<Outlet>>,
    /// The runtime's tokio, for wake-ups only.
    pub linger: Duration,
}

/// The drain's thread.
pub struct Drain {}

/// The drain at one moment.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct DrainReport {
    /// `Starting`, `Running`, `Degraded` (Kafka is away), `Blocked`, `Stopped`.
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Declared topics that are otherwise in Kafka.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contradictions: Vec<String>,
}

impl Drain {
    pub fn start(_options: DrainOptions) -> Result<Self, String> {
        todo!()
    }

    pub fn report(&self) -> DrainReport {
        todo!()
    }

    /// Sends what it can until the deadline, saves the cursors, ends the thread. Safe to call twice.
    pub fn stop(&self, _bound: Duration) {
        todo!()
    }
}
