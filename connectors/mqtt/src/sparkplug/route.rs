//! What a host is asked to read, what comes in, and what goes out.

use crate::topic::{Filter, Template};
use millrace_config::Reason;
use millrace_contract::TagOptions;
use millrace_schemas::RouteId;
use std::sync::Arc;
use std::time::Duration;

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
    /// A command is done only when its metric reports the value within this time.
    pub confirm: Option<Duration>,
}

/// What stands in braces in `at` and `tag` of a Sparkplug subscription; parse with `Template::read(text, Variable::parse)`.
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
    pub fn parse(name: &str) -> Result<Self, Reason> {
        match name {
            "group" => Ok(Self::Group),
            "node" => Ok(Self::Node),
            "device" => Ok(Self::Device),
            "metric" => Ok(Self::Metric),
            "metric_path" => Ok(Self::MetricPath),
            _ => Err("unknown here; there are `{group}`, `{node}`, `{device}`, `{metric}` and `{metric_path}`".into()),
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
