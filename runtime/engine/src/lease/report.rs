//! The group as a person sees it, from any of its runtimes.

use serde::Serialize;
use std::collections::BTreeMap;

/// The group at one moment, as this runtime knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GroupReport {
    pub group: String,
    /// This runtime.
    pub id: String,
    pub host: String,
    /// `Starting`, `Running`, `Degraded` (cut off from the group), `Blocked` (another runtime has its name, or Kafka refuses it).
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// By name, those that are away, too.
    pub runtimes: BTreeMap<String, RuntimeReport>,
    /// What is amiss between the runtimes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// Sources that no runtime reads at the moment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
}

/// A runtime of the group, as it last said of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RuntimeReport {
    pub host: String,
    pub version: String,
    /// A checksum of its file, without what may differ between machines.
    pub config: String,
    /// `there`, `left` (in order), `away` (silent).
    pub state: &'static str,
    /// Microseconds since 1970, by its own clock.
    pub started: i64,
    pub time: i64,
    /// The sources that it reads, with their status.
    pub reads: BTreeMap<String, String>,
    /// Of these, those that it reads though it is cut off: another runtime may read them, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}
