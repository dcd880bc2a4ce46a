//! One source or sink: the keys that all have, typed; the rest a node for its connector.

use crate::factory::intake::Full;
use crate::tree::name;
use crate::tree::node::{Node, Spanned};
use crate::tree::place::Place;
use crate::tree::problem::Problems;
use crate::tree::units::ByteSize;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One source or sink, merged from its templates. Two are equal when they say the same, wherever they stand: what a reload need not touch.
#[derive(Clone, Debug)]
pub struct Connector {
    pub name: String,
    /// Where its name stands.
    pub place: Place,
    /// `type:`; of a sink with `source:`, which has none, [`COMMANDS`].
    pub type_name: Spanned<String>,
    pub enabled: bool,
    /// All its keys, common ones too; `use` and `with` are gone.
    pub node: Node,
}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.node == other.node
    }
}

/// The type name of a sink that sends commands through a source's own connection (`source:` instead of `type:`).
pub const COMMANDS: &str = "commands";

/// Keys that every source has, whatever its type. Tag options may stand beside them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SourceKeys {
    /// Levels below the site, where its tags live: `body/press-1`.
    pub at: String,
    /// The Kafka topic of its samples and documents, where nothing more specific says otherwise.
    pub topic: Option<Spanned<String>>,
    /// Its own log's limits.
    pub log: Option<SourceLog>,
    /// The `runtime.id` that reads it whenever that runtime is there. Left out: any of the group, so that each has about as many.
    pub prefer: Option<Spanned<String>>,
    /// The machines that may read it, as `runtime.host` names them: where its cable ends. Left out: all.
    pub runs_on: Vec<Spanned<String>>,
}

/// Limits of one source's log, where they differ from the factory's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SourceLog {
    /// Bytes, all lanes together.
    pub size: Option<ByteSize>,
    /// What happens when it is full and the device can't wait.
    pub full: Option<Full>,
}

impl SourceKeys {
    /// Of every source; `type` and `enabled` are in [`Connector`] already.
    pub const KEYS: [&'static str; 7] = ["type", "enabled", "at", "topic", "log", "prefer", "runs_on"];
}

/// Keys that every sink has, whatever its type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SinkKeys {
    /// Topics to read; `machine-*` takes all that begin so.
    pub topics: Vec<Spanned<String>>,
    /// The consumer group; `millrace-{site}-{name}` unless said.
    pub group: Option<Spanned<String>>,
    /// Where a new group starts.
    pub start: Option<Start>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With everything the topic still has.
    Earliest,
    /// With what comes from now on.
    Latest,
}

impl SinkKeys {
    /// Of every sink; `type` and `enabled` are in [`Connector`] already.
    pub const KEYS: [&'static str; 5] = ["type", "enabled", "topics", "group", "start"];
}

impl Connector {
    /// A source's common keys, and its node without them: tag options and the connector's own keys.
    pub fn source_keys(&self, problems: &mut Problems) -> (Option<SourceKeys>, Node) {
        let (mut keys, own) = self.split::<SourceKeys>(&SourceKeys::KEYS, problems);
        if let Some(size) = keys.as_ref().and_then(|keys| keys.log.as_ref()?.size) {
            crate::factory::limits::log_size(size, self.node.get("log").and_then(|log| log.get("size")), problems);
        }
        // One with `{..}` is a template: its connector knows what may stand in it.
        if let Some(topic) = keys.as_mut().and_then(|keys| keys.topic.as_mut()).filter(|topic| !topic.contains('{')) {
            as_topic(topic, problems);
        }
        (keys, own)
    }

    /// A sink's common keys, and its node without them.
    pub fn sink_keys(&self, problems: &mut Problems) -> (Option<SinkKeys>, Node) {
        let (mut keys, own) = self.split::<SinkKeys>(&SinkKeys::KEYS, problems);
        for topic in keys.iter_mut().flat_map(|keys| &mut keys.topics) {
            as_topic(topic, problems);
        }
        (keys, own)
    }

    fn split<T: DeserializeOwned>(&self, keys: &[&str], problems: &mut Problems) -> (Option<T>, Node) {
        let (common, own) = self.node.take(keys);
        let (_, common) = common.take(&["type", "enabled"]);
        (common.parse(problems), own)
    }
}

/// In a Kafka topic's name `/` is `.`; what Kafka refuses is refused here. In a pattern, `*` stands for anything.
fn as_topic(topic: &mut Spanned<String>, problems: &mut Problems) {
    match name::topic(&topic.replace('*', "x")) {
        Ok(_) => topic.value = topic.replace('/', "."),
        Err(message) => problems.refused(topic.place, &message),
    }
}
