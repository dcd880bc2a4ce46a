//! Sparkplug B as a host application: a state machine between MQTT messages and batches, without sockets or tasks.
//!
//! ```text
//! will()               the STATE will for CONNECT                        filters()      what to subscribe to beside the routes' filters
//! on_connect(..)       births resumed, STATE birth, rebirths planned     on_disconnect  nothing is vouched for any more
//! ends_batch(topic)    send the batch filled so far before this message: a death must not overtake values
//! on_message(..)       rows and rejects into the batch; returns what to publish
//! tick(..)             once a second: vouches for live nodes, rebirth requests that are due, gaps that did not heal
//! take_moved()         positions that go with the batch: births, so that aliases are known after a restart
//! farewell()           STATE offline, to publish before a clean DISCONNECT
//! ```
//!
//! ```text
//! address    topics, and the paths of tags           sequence   what is missing
//! wire       protobuf, read in place                 births     names, aliases and types to tags; values to rows
//! datatype   what a value means                      rebirth    when to ask which node
//! json       data sets and whole templates           positions  births over a restart
//! properties quality, unit, range, labels            host       the conversation
//! ```
//!
//! ```text
//! Int8..Int64, UInt8..UInt32   a long           DateTime         a long, microseconds
//! UInt64                       an exact UInt64  DataSet          a structure, as JSON
//! Float, Double                a double         Template         a tag per leaf, or JSON with `structure: json`
//! String, Text, UUID           a text           ..Array          an array of the same
//! Bytes, File                  bytes            null             BadNoData, or the bad status its Quality gives
//! is_historical                origin backfill  retained         origin initial, as is the first birth after a start
//! no such alias                a dead letter with the payload, beside the rows that are known; the node is asked for its birth
//! no protobuf, a wrong type    a dead letter with the payload; the wrong type's row is bad
//! NDEATH, DDEATH               every tag of the node with its devices, or of the device: BadNoCommunication, at once
//! bdSeq, Node Control/Rebirth  no tags: they are the conversation
//! ```
//!
//! All messages of an edge node must come to one `Host`, in the order of their connection: not over shared subscriptions.
//! `TagId`s are kept while the `Host` lives. Timers run on the `Instant`s handed in; the clock is read only to stamp its own messages.
//!
//! Source: Eclipse Sparkplug Specification 3.0.0; the payload's protobuf from Eclipse Tahu.

mod address;
mod births;
mod datatype;
mod fuzz;
mod host;
mod json;
mod positions;
mod properties;
mod rebirth;
mod sequence;
#[cfg(test)]
mod tests;
mod wire;

#[doc(hidden)]
pub use fuzz::fuzz_sparkplug;
pub use host::Host;
pub use wire::write;

use crate::topic::{Filter, Template};
use millrace_config::Period;
use millrace_contract::TagOptions;
use millrace_schemas::RouteId;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// Millrace as a Sparkplug host application.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// The host's id, as edge nodes know it; in the topic of its STATE.
    pub id: Option<String>,
    /// Edge nodes wait for this host: it publishes its STATE, retained, with a will.
    pub primary: bool,
    /// Sends nothing at all: neither rebirth requests nor STATE.
    pub passive: bool,
    /// How STATE is written: `v3` (JSON under `spBv1.0/STATE/ID`), or `v2` (`ONLINE` under `STATE/ID`) for older edge nodes.
    pub state: StateStyle,
    /// A node is asked for its birth at most this often; one that doesn't answer ever more seldom.
    pub rebirth_every: Period,
    /// How long a message may be overtaken by later ones before it counts as lost.
    pub reorder: Period,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            id: None,
            primary: false,
            passive: false,
            state: StateStyle::V3,
            rebirth_every: Period(Duration::from_secs(10)),
            reorder: Period(Duration::from_secs(2)),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateStyle {
    #[default]
    V3,
    V2,
}

impl HostConfig {
    /// What contradicts itself in these settings, for `check`.
    pub fn problem(&self) -> Option<String> {
        let Some(id) = &self.id else {
            return self.primary.then(|| "a primary host needs an `id`: edge nodes look for its STATE".to_owned());
        };
        if id.is_empty() || id.contains(['/', '+', '#', '\0']) {
            return Some(format!("the host's id `{id}` must be one level of a topic, without `/`, `+` and `#`"));
        }
        (self.primary && self.passive).then(|| "a passive host publishes no STATE and so can't be primary; choose one".to_owned())
    }
}

/// One subscription with `payload: sparkplug`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where its rejects go.
    pub id: RouteId,
    pub filter: Filter,
    /// The Kafka topic of its samples.
    pub topic: Arc<str>,
    /// Where its tags stand, the source's own `at` included.
    pub at: Template<Variable>,
    /// Their name below `at`; `{metric}` where the config says nothing.
    pub tag: Template<Variable>,
    /// Options of the subscription, over those of the source.
    pub options: TagOptions,
}

/// What stands in braces in `at` and `tag` of a Sparkplug subscription; parse with `Template::parse(text, Variable::parse)`.
///
/// A level that is left empty, as `{device}` is for a metric of the node itself, is left out of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    Group,
    Node,
    Device,
    /// `{metric}`: the metric's name as one level: a `/` in it becomes `%2F`.
    Metric,
    /// `{metric_path}`: the metric's name with its levels.
    MetricPath,
}

impl Variable {
    /// Errors: names the unknown variable and those that exist.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name {
            "group" => Ok(Self::Group),
            "node" => Ok(Self::Node),
            "device" => Ok(Self::Device),
            "metric" => Ok(Self::Metric),
            "metric_path" => Ok(Self::MetricPath),
            _ => Err(format!(
                "`{{{name}}}` is unknown here; there are `{{group}}`, `{{node}}`, `{{device}}`, `{{metric}}` and `{{metric_path}}`"
            )),
        }
    }
}

/// A message as it came from the broker.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub retain: bool,
    pub dup: bool,
}

/// A message to publish, or a will.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
}
