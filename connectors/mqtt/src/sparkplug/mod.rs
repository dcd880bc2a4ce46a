//! Sparkplug B as a host application: a state machine between MQTT messages and batches, without sockets, clocks or tasks.
//!
//! ```text
//! will(now)            the STATE will for CONNECT                        filters()      what to subscribe to beside the routes' filters
//! on_connect(..)       births resumed, STATE birth, rebirths planned     on_disconnect  nothing is vouched for any more
//! ends_batch(topic)    send the batch filled so far before this message: a death must not overtake values
//! on_message(..)       rows and rejects into the batch; returns what to publish
//! tick(..)             once a second: vouches for live nodes, rebirth requests that are due, gaps that did not heal
//! take_moved()         positions that go with the batch: births, so that aliases are known after a restart
//! farewell()           STATE offline, to publish before a clean DISCONNECT
//! ```
//!
//! All messages of an edge node must come to one `Host`, in the order of their connection: not over shared subscriptions.
//! `TagId`s are kept while the `Host` lives.
//!
//! Source: Eclipse Sparkplug Specification 3.0.0; the payload's protobuf from Eclipse Tahu.

use crate::topic::{Filter, Template};
use millrace_config::Period;
use millrace_contract::{SourceIo, TagOptions};
use millrace_schemas::{Batch, RouteId};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
        todo!()
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
            _ => Err(format!("`{{{name}}}` is unknown here; there are `{{group}}`, `{{node}}`, `{{device}}`, `{{metric}}` and `{{metric_path}}`")),
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

/// A Sparkplug host application: what is known about edge nodes, and what is to be asked of them.
pub struct Host {
    _config: HostConfig,
}

impl Host {
    pub fn new(_config: HostConfig, _routes: Vec<Route>) -> Self {
        todo!()
    }

    /// Filters to subscribe to (QoS 1) beside the routes' own: the host's own STATE.
    pub fn filters(&self) -> Vec<String> {
        todo!()
    }

    /// The will of the connection about to be opened; `on_connect` publishes a birth of the same timestamp.
    pub fn will(&mut self) -> Option<Outgoing> {
        todo!()
    }

    /// The connection stands and is subscribed.
    pub fn on_connect(&mut self, _now: Instant, _io: &SourceIo) -> Vec<Outgoing> {
        todo!()
    }

    /// The connection is gone: until the next one nothing vouches for a node.
    pub fn on_disconnect(&mut self) {
        todo!()
    }

    /// To publish before a clean DISCONNECT (which discards the will).
    pub fn farewell(&self) -> Vec<Outgoing> {
        todo!()
    }

    /// Whether the batch filled so far must be sent before this message is handled: it turns tags bad at once.
    pub fn ends_batch(&self, _topic: &str) -> bool {
        todo!()
    }

    /// Handles one message; `batch.read_time` is when it came.
    pub fn on_message(&mut self, _message: Message<'_>, _now: Instant, _batch: &mut Batch, _io: &SourceIo) -> Vec<Outgoing> {
        todo!()
    }

    /// Does what is due. Call it once a second while connected.
    pub fn tick(&mut self, _now: Instant, _io: &SourceIo) -> Vec<Outgoing> {
        todo!()
    }

    /// Positions that moved since the last call, to go with the batch just filled; an empty value removes the key.
    pub fn take_moved(&mut self) -> Vec<(String, Vec<u8>)> {
        todo!()
    }
}
