//! A factory as it is compiled: what runs, what reads what, and how much each may hold.

use crate::commands::rules::CommandRules;
use crate::intake::ClockWindow;
use crate::lease::plan::Wish;
use crate::topics::Topics;
use millrace_config::factory::{Connector, Factory, SinkKeys};
use millrace_contract::Compiled;
use millrace_kafka::admin::TopicSpec;
use millrace_log::Full;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// A factory, compiled.
pub struct CompiledFactory {
    /// `enterprise/site`.
    pub site: String,
    pub sources: Vec<SourceSpec>,
    pub sinks: Vec<SinkSpec>,
    pub commands: Vec<CommandRules>,
    pub topics: Topics,
    /// Topics to create where they are missing.
    pub declared: Vec<TopicSpec>,
    pub clock: ClockWindow,
    /// With whom the sources are shared; `None`: with nobody.
    pub sharing: Option<Sharing>,
    /// Which runtime is to read each source.
    pub wishes: BTreeMap<String, Wish>,
}

/// Runtimes with the same file that share their sources.
#[derive(Clone, Debug, PartialEq)]
pub struct Sharing {
    pub id: String,
    pub group: String,
    /// `None`: as the machine names itself.
    pub host: Option<String>,
    pub session: Duration,
    /// Cut off from Kafka it goes on reading.
    pub keeps: bool,
    /// Before the name of each: the id of its transactions.
    pub transactional: String,
    /// A checksum of what the file says, but for what may differ between machines.
    pub config: String,
}

impl Sharing {
    /// The consumer group of Kafka; a site of its own has groups of its own.
    pub fn consumer_group(&self, site: &str) -> String {
        format!("millrace.{}.{}", site.replace('/', "-"), self.group)
    }
}

impl CompiledFactory {
    /// The topics that hold samples, as far as they are known before connecting.
    pub fn sample_topics(&self) -> HashSet<Arc<str>> {
        let of = |source: &SourceSpec| {
            let model = source.compiled.model();
            let tags = model.tags.iter().map(|tag| tag.options.topic.as_deref().map_or_else(|| tag.topic.clone(), Into::into));
            tags.chain(model.routes.iter().filter(|route| route.samples).map(|route| route.topic.clone())).collect::<Vec<Arc<str>>>()
        };
        self.sources.iter().flat_map(of).collect()
    }

    /// Under which id the factory's own engine opens transactions; another engine of the same site has another.
    pub fn transactional_id(&self) -> String {
        let id = format!("millrace-{}", self.site.replace('/', "-"));
        self.sharing.as_ref().map_or(id.clone(), |sharing| format!("{id}-{}", sharing.id))
    }
}

/// What Apache Kafka takes of a topic that says nothing else.
const KAFKA_TAKES: u64 = 1_048_588;

impl CompiledFactory {
    /// The topics of a source that take less than it may send, each with how much it takes: its `max.message.bytes`, else Kafka's default.
    pub fn too_small_for(&self, source: &SourceSpec) -> Vec<(Arc<str>, u64)> {
        let Some(longest) = source.compiled.longest() else { return Vec::new() };
        let model = source.compiled.model();
        let takes = |name: &str| {
            let declared = self.declared.iter().find(|topic| topic.name == name);
            declared.and_then(|topic| topic.configs.get("max.message.bytes")?.parse().ok()).unwrap_or(KAFKA_TAKES)
        };
        let mut topics: Vec<_> = model.routes.iter().map(|route| (route.topic.clone(), takes(&route.topic))).collect();
        topics.retain(|(_, takes)| *takes < longest);
        topics.sort_unstable();
        topics.dedup();
        topics
    }
}

pub struct SourceSpec {
    pub name: String,
    pub type_name: String,
    pub compiled: Box<dyn Compiled>,
    pub log_size: u64,
    pub full: Full,
}

pub struct SinkSpec {
    pub name: String,
    pub type_name: String,
    pub compiled: Box<dyn Compiled>,
    pub topics: Vec<String>,
    pub group: String,
    pub from_latest: bool,
}

/// The consumer group of a sink.
pub fn group(factory: &Factory, connector: &Connector, keys: &SinkKeys) -> String {
    keys.group.as_ref().map_or_else(
        || format!("millrace-{}-{}", factory.site.value.replace('/', "-"), connector.name.replace('/', "-")),
        |g| g.value.clone(),
    )
}
