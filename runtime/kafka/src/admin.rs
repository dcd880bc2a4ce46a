//! Topics: created when missing, as declared; an existing one that contradicts is reported, never changed.

use crate::error::{Class, KafkaError};
use crate::logging::LogBridge;
use crate::properties::Settings;
use crate::raw::admin::{NewTopic, Setting};
use crate::raw::{self, List, Native, Queue, Role, TopicMetadata};
use rdkafka::bindings::{RD_KAFKA_EVENT_ERROR, rd_kafka_resp_err_t as code};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ALREADY_THERE: i32 = code::RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS as i32;
const NO_SUCH_GROUP: i32 = code::RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND as i32;
const NOT_THERE: i32 = code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as i32;

/// A topic as declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    /// `None`: the cluster's default.
    pub partitions: Option<i32>,
    /// `None`: the cluster's default.
    pub replication: Option<i32>,
    /// As Kafka names them: `retention.ms`, `cleanup.policy`, ...
    pub configs: BTreeMap<String, String>,
}

/// What became of a declared topic.
#[derive(Clone, Debug, PartialEq)]
pub enum TopicOutcome {
    Created,
    /// It exists; what contradicts the declaration, if anything.
    Exists(Vec<Contradiction>),
    /// It does not exist, and could not be made.
    Refused(KafkaError),
}

/// A setting of a topic that is not as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// `partitions`, `replication`, or the name of a topic's config.
    pub what: String,
    pub declared: String,
    pub there: String,
}

impl std::fmt::Display for Contradiction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {}, declared {}", self.what, self.there, self.declared)
    }
}

/// What a topic accepts, and how long it keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A timestamp further behind the broker's clock is refused.
    pub before_max_ms: i64,
    /// A timestamp further ahead of the broker's clock is refused.
    pub after_max_ms: i64,
    /// Older records are deleted; `None`: kept for ever (or compacted only).
    pub retention_ms: Option<i64>,
    pub max_message_bytes: i64,
    /// The broker overwrites timestamps with its own clock.
    pub log_append_time: bool,
}

impl Default for Limits {
    /// Kafka 4's own defaults.
    fn default() -> Self {
        Self {
            before_max_ms: i64::MAX,
            after_max_ms: 3_600_000,
            retention_ms: Some(604_800_000),
            max_message_bytes: 1_048_588,
            log_append_time: false,
        }
    }
}

/// An administrative client; make one when needed and drop it, it costs threads and connections.
pub struct Admin {
    native: Arc<Native>,
    /// Where it says why it is not let in.
    events: Queue,
    timeout: Duration,
}

/// How long a refused login may take to be told, once a request has failed.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// Its log lines repeat what its answers say.
const QUIET: &[(&str, &str)] = &[("log_level", "2")];

impl Admin {
    pub fn new(settings: &Settings, timeout: Duration) -> Result<Self, KafkaError> {
        let conf = settings.conf(&[], QUIET)?;
        let native = Native::new(Role::Producer, conf, RD_KAFKA_EVENT_ERROR, LogBridge::new(format!("{} admin", settings.client_id)))?;
        if let Some(source) = &settings.token {
            native.set_token(source.token()).map_err(|why| {
                KafkaError::described(code::RD_KAFKA_RESP_ERR__AUTHENTICATION as i32, &format!("cannot get a token for Kafka ({why})"))
            })?;
        }
        let events = native.queue();
        Ok(Self { native, events, timeout })
    }

    /// Names and partition counts of all topics.
    pub fn topics(&self) -> Result<HashMap<String, TopicShape>, KafkaError> {
        let metadata = self.native.metadata(None, self.timeout).map_err(|error| self.denial().unwrap_or(error))?;
        let shape = |topic: &TopicMetadata| TopicShape { partitions: topic.partitions as i32, replication: topic.replicas as i32 };
        Ok(metadata.into_iter().filter(|topic| topic.error == 0).map(|topic| (topic.name.clone(), shape(&topic))).collect())
    }

    /// The cluster's id, and the ids of topics, in their order: what tells them from others of the same name. A cluster without ids says nothing for
    /// its own, and nil for those of its topics.
    pub fn identities(&self, topics: &[&str]) -> Result<(String, Vec<String>), KafkaError> {
        let ids = raw::identity::topic_ids(&self.native, topics, self.timeout);
        let ids = ids.map_err(|error| self.denial().unwrap_or(error))?;
        Ok((raw::identity::cluster_id(&self.native, self.timeout).unwrap_or_default(), ids))
    }

    /// The cluster's id; `None`: it has none, or does not answer.
    pub fn cluster_id(&self) -> Option<String> {
        raw::identity::cluster_id(&self.native, self.timeout)
    }

    /// Forgets a group without members, with all its offsets; of one that is not there, nothing.
    pub fn forget_group(&self, group: &str) -> Result<(), KafkaError> {
        let code = raw::admin::delete_group(&self.native, group, self.timeout);
        match code.map_err(|error| self.denial().unwrap_or(error))? {
            0 | NO_SUCH_GROUP => Ok(()),
            code => Err(KafkaError::described(code, &format!("cannot forget group {group}"))),
        }
    }

    /// The names of all groups.
    pub fn groups(&self) -> Result<Vec<String>, KafkaError> {
        raw::groups::names(&self.native, self.timeout).map_err(|error| self.denial().unwrap_or(error))
    }

    /// What a group has committed: topic, partition, offset.
    pub fn group_offsets(&self, group: &str) -> Result<Vec<(String, i32, i64)>, KafkaError> {
        Ok(raw::groups::offsets(&self.native, group, self.timeout)?.into_iter().filter(|(.., offset)| *offset >= 0).collect())
    }

    /// Commits offsets for a group that has no members.
    pub fn set_group_offsets(&self, group: &str, offsets: &[(&str, i32, i64)]) -> Result<(), KafkaError> {
        raw::groups::set(&self.native, group, offsets, self.timeout)
    }

    pub(crate) fn native(&self) -> &Native {
        &self.native
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// An answer; where there is none and the cluster did not let us in, that is why.
    pub(crate) fn asked<T>(&self, answer: Result<T, KafkaError>) -> Result<T, KafkaError> {
        answer.map_err(|error| self.denial().unwrap_or(error))
    }

    /// When the newest record of each topic was made, by its own timestamp, in milliseconds since 1970; of a topic without records, `None`.
    ///
    /// Errors: the cluster can't be asked.
    pub fn newest(&self, topics: &[&str]) -> Result<Vec<Option<i64>>, KafkaError> {
        let there = self.topics()?;
        let mut list = List::new();
        for topic in topics {
            for partition in 0..there.get(*topic).map_or(0, |shape| shape.partitions) {
                list.push(topic, partition, raw::admin::MAX_TIMESTAMP)?;
            }
        }
        let found = if list.entries().is_empty() { Vec::new() } else { raw::admin::newest(&self.native, &list, self.timeout)? };
        let of = |topic: &&str| found.iter().filter(|(name, _)| name == *topic).map(|(_, at)| *at).max().filter(|at| *at > 0);
        Ok(topics.iter().map(of).collect())
    }

    /// Why the cluster does not let us in, if it said so: a request that failed only says that there was no connection.
    fn denial(&self) -> Option<KafkaError> {
        let deadline = Instant::now() + TOLD_WITHIN;
        loop {
            let event = self.events.poll(deadline.saturating_duration_since(Instant::now()))?;
            if event.kind() == RD_KAFKA_EVENT_ERROR && event.error().class == Class::Denied {
                return Some(event.error());
            }
        }
    }

    /// Creates what is missing and compares what is there; one outcome per spec, in their order.
    ///
    /// Errors: the cluster could not be asked at all.
    pub fn ensure(&self, specs: &[TopicSpec]) -> Result<Vec<TopicOutcome>, KafkaError> {
        let there = self.topics()?;
        let mut outcomes: Vec<Option<TopicOutcome>> = vec![None; specs.len()];
        let missing: Vec<usize> = (0..specs.len()).filter(|i| !there.contains_key(&specs[*i].name)).collect();
        if !missing.is_empty() {
            let new: Vec<NewTopic<'_>> = missing.iter().map(|i| new_topic(&specs[*i])).collect();
            for (index, code) in missing.iter().zip(raw::admin::create_topics(&self.native, &new, self.timeout)?) {
                outcomes[*index] = match code {
                    0 => Some(TopicOutcome::Created),
                    // Somebody else was quicker: compare.
                    ALREADY_THERE => None,
                    code => Some(TopicOutcome::Refused(refused("create", &specs[*index].name, code))),
                };
            }
        }
        let exist: Vec<usize> = (0..specs.len()).filter(|i| outcomes[*i].is_none()).collect();
        if !exist.is_empty() {
            let there = if missing.iter().any(|i| outcomes[*i].is_none()) { self.topics()? } else { there };
            let names: Vec<&str> = exist.iter().map(|i| specs[*i].name.as_str()).collect();
            let configs = self.describe(&names)?;
            for (index, config) in exist.iter().zip(configs) {
                let spec = &specs[*index];
                outcomes[*index] = Some(TopicOutcome::Exists(contradictions(spec, there.get(&spec.name), &config)));
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// The settings of topics, by Kafka's names; of a topic that can't be described, none.
    fn describe(&self, topics: &[&str]) -> Result<Vec<BTreeMap<String, String>>, KafkaError> {
        self.settings(topics, |_| true)
    }

    fn settings(&self, topics: &[&str], wanted: impl Fn(&Setting) -> bool) -> Result<Vec<BTreeMap<String, String>>, KafkaError> {
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let described = raw::admin::describe_topics(&self.native, topics, self.timeout)?;
        let map = |settings: Vec<Setting>| settings.into_iter().filter(&wanted).filter_map(|one| Some((one.name, one.value?))).collect();
        Ok(described.into_iter().map(map).collect())
    }

    /// Settings that were made for each topic itself, by Kafka's names; not those it has from its brokers. Of a topic that can't be described, none.
    pub fn own_configs(&self, topics: &[&str]) -> Result<Vec<BTreeMap<String, String>>, KafkaError> {
        self.settings(topics, |setting| setting.is_own)
    }

    /// Gives topics more partitions. Errors: the first that the cluster refuses.
    pub fn grow(&self, topics: &[(&str, i32)]) -> Result<(), KafkaError> {
        for ((name, _), code) in topics.iter().zip(raw::admin::create_partitions(&self.native, topics, self.timeout)?) {
            if code != 0 {
                return Err(refused("add partitions to", name, code));
            }
        }
        Ok(())
    }

    /// What topics accept; Kafka's defaults where they may not be described.
    pub fn limits(&self, topics: &[&str]) -> Result<Vec<Limits>, KafkaError> {
        Ok(self.describe(topics)?.iter().map(limits_of).collect())
    }

    /// Deletes topics; of one that is not there, nothing. For tests and for `millrace`'s own clean-up.
    pub fn delete(&self, topics: &[&str]) -> Result<(), KafkaError> {
        for (name, code) in topics.iter().zip(raw::admin::delete_topics(&self.native, topics, self.timeout)?) {
            if code != 0 && code != NOT_THERE {
                return Err(refused("delete", name, code));
            }
        }
        Ok(())
    }
}

/// How a topic is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicShape {
    pub partitions: i32,
    pub replication: i32,
}

fn new_topic(spec: &TopicSpec) -> NewTopic<'_> {
    // -1 leaves it to the cluster.
    let (partitions, replication) = (spec.partitions.unwrap_or(-1), spec.replication.unwrap_or(-1));
    NewTopic { name: &spec.name, partitions, replication, configs: &spec.configs }
}

fn refused(verb: &str, name: &str, code: i32) -> KafkaError {
    KafkaError::described(code, &format!("cannot {verb} topic {name}"))
}

fn contradictions(spec: &TopicSpec, shape: Option<&TopicShape>, there: &BTreeMap<String, String>) -> Vec<Contradiction> {
    let mut found = Vec::new();
    let mut compare = |what: &str, declared: String, there: String| {
        if declared != there {
            found.push(Contradiction { what: what.to_owned(), declared, there });
        }
    };
    if let Some(shape) = shape {
        if let Some(partitions) = spec.partitions {
            compare("partitions", partitions.to_string(), shape.partitions.to_string());
        }
        if let Some(replication) = spec.replication {
            compare("replication", replication.to_string(), shape.replication.to_string());
        }
    }
    for (name, declared) in &spec.configs {
        if let Some(value) = there.get(name) {
            compare(name, in_order(declared), in_order(value));
        }
    }
    found
}

/// Lists (`compact,delete`) in one order.
fn in_order(value: &str) -> String {
    let mut parts: Vec<&str> = value.split(',').map(str::trim).collect();
    parts.sort_unstable();
    parts.join(",")
}

fn limits_of(config: &BTreeMap<String, String>) -> Limits {
    let defaults = Limits::default();
    let number = |name: &str| config.get(name).and_then(|v| v.parse::<i64>().ok());
    let deletes = config.get("cleanup.policy").is_none_or(|p| p.contains("delete"));
    Limits {
        before_max_ms: number("message.timestamp.before.max.ms").unwrap_or(defaults.before_max_ms),
        after_max_ms: number("message.timestamp.after.max.ms").unwrap_or(defaults.after_max_ms),
        retention_ms: if deletes { number("retention.ms").or(defaults.retention_ms).filter(|ms| *ms >= 0) } else { None },
        max_message_bytes: number("max.message.bytes").unwrap_or(defaults.max_message_bytes),
        log_append_time: config.get("message.timestamp.type").is_some_and(|t| t == "LogAppendTime"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_contradiction_says_what_is_declared_and_what_is_there() {
        let spec = TopicSpec {
            name: "t".into(),
            partitions: Some(6),
            replication: None,
            configs: map(&[("retention.ms", "604800000"), ("cleanup.policy", "compact,delete")]),
        };
        let there = map(&[("retention.ms", "1000"), ("cleanup.policy", "delete,compact")]);
        let found = contradictions(&spec, Some(&TopicShape { partitions: 3, replication: 1 }), &there);
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["partitions is 3, declared 6", "retention.ms is 1000, declared 604800000"]);
    }

    #[test]
    fn a_topic_without_deletion_has_no_retention() {
        assert_eq!(limits_of(&map(&[("cleanup.policy", "compact"), ("retention.ms", "5")])).retention_ms, None);
        assert_eq!(limits_of(&map(&[("cleanup.policy", "delete"), ("retention.ms", "-1")])).retention_ms, None);
        assert_eq!(limits_of(&map(&[("retention.ms", "5")])).retention_ms, Some(5));
        assert_eq!(limits_of(&map(&[])), Limits::default());
    }
}
