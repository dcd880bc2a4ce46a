//! The engine at one moment: what REST, metrics and people see.

use crate::drain::DrainReport;
use crate::lease::report::GroupReport;
use crate::ledger::Snapshot;
use crate::measures::Measured;
use crate::sinks::SinkCounts;
use crate::source_logs::Pace;
use crate::status::Report;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// The engine at one moment, as REST gives it.
#[derive(Clone, Debug, Serialize)]
pub struct EngineReport {
    pub site: Arc<str>,
    /// Microseconds since 1970.
    pub started: i64,
    pub kafka: DrainReport,
    /// The runtimes that share the sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupReport>,
    pub sources: BTreeMap<String, SourceReport>,
    pub sinks: BTreeMap<String, SinkReport>,
    pub disk: DiskReport,
}

#[derive(Clone, Debug, Serialize)]
pub struct SourceReport {
    pub r#type: String,
    #[serde(flatten)]
    pub state: Report,
    /// What survives a kill between device and log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<&'static str>,
    pub ledger: Snapshot,
    pub pace: PaceReport,
    /// How long what the source measures took, in seconds: `trigger_to_ack`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub measured: BTreeMap<&'static str, Measured>,
    /// Both equations of the ledger hold.
    pub adds_up: bool,
    pub tags: usize,
    pub log_bytes: u64,
    pub log_limit: u64,
    /// Why the log takes nothing at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_held: Option<String>,
    /// Another runtime reads it, or none: what stands here is what this one has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<String>,
    /// It fills: how full it is, and how soon it is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_fills: Option<String>,
}

/// How fresh a source is. Times in microseconds since 1970; `null`: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PaceReport {
    /// When the newest record was read.
    pub newest: Option<i64>,
    /// When the oldest record was read that Kafka does not have.
    pub waiting_since: Option<i64>,
    /// From reading to delivery, in microseconds: the sum over all records of this run.
    pub latency_sum: u64,
    /// How many records that are.
    pub delivered: u64,
}

impl PaceReport {
    pub(crate) fn of(pace: &Pace) -> Self {
        let time = |at: &AtomicI64| Some(at.load(Relaxed)).filter(|at| *at != 0);
        Self {
            newest: time(&pace.newest),
            waiting_since: time(&pace.waiting_since),
            latency_sum: pace.latency_sum.load(Relaxed),
            delivered: pace.delivered.load(Relaxed),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct SinkReport {
    pub r#type: String,
    #[serde(flatten)]
    pub state: Report,
    pub counts: SinkCounts,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DiskReport {
    /// Bytes free beyond `keep_free`.
    pub free: u64,
    /// Appends are refused until there is room again.
    pub low: bool,
}
