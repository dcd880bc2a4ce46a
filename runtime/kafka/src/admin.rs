//! Topics: created when missing, as declared; an existing one that contradicts is reported, never changed.

use crate::error::{Class, KafkaError};
use crate::properties::Settings;
use crate::raw::{Native, Role};
use crate::voice::Voice;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::types::RDKafkaErrorCode;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

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
    client: AdminClient<DefaultClientContext>,
    settings: Settings,
    timeout: Duration,
}

/// How long a refused login may take to be told.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

impl Admin {
    pub fn new(settings: &Settings, timeout: Duration) -> Result<Self, KafkaError> {
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", &settings.brokers).set("client.id", &settings.client_id).set("log_level", "3");
        for (name, value) in &settings.properties {
            config.set(name, value);
        }
        // Its log lines repeat what its answers say.
        config.set_log_level(RDKafkaLogLevel::Critical);
        let client: AdminClient<DefaultClientContext> = config.create().map_err(|e| from_rdkafka("cannot make a Kafka client", &e))?;
        if let Some(source) = &settings.token {
            crate::raw::set_admin_token(client.inner(), source.token()).map_err(|why| {
                KafkaError::described(RDKafkaErrorCode::Authentication as i32, &format!("cannot get a token for Kafka ({why})"))
            })?;
        }
        Ok(Self { client, settings: settings.clone(), timeout })
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(self.timeout))
    }

    /// Names and partition counts of all topics.
    pub fn topics(&self) -> Result<HashMap<String, TopicShape>, KafkaError> {
        let metadata = self.client.inner().fetch_metadata(None, self.timeout);
        let metadata = metadata.map_err(|e| self.denial().unwrap_or_else(|| from_rdkafka("cannot list topics", &e)))?;
        let shape = |topic: &rdkafka::metadata::MetadataTopic| TopicShape {
            partitions: topic.partitions().len() as i32,
            replication: topic.partitions().first().map_or(0, |p| p.replicas().len() as i32),
        };
        Ok(metadata.topics().iter().filter(|t| t.error().is_none()).map(|t| (t.name().to_owned(), shape(t))).collect())
    }

    /// Why the cluster does not let us in. rdkafka's own client only says that it has no connection: another one asks, whose events are heard.
    fn denial(&self) -> Option<KafkaError> {
        let conf = self.settings.conf(&[], &[]).ok()?;
        let events = rdkafka::bindings::RD_KAFKA_EVENT_ERROR;
        let native = Native::new(Role::Producer, conf, events, Voice::new(format!("{} admin", self.settings.client_id))).ok()?;
        let queue = native.queue();
        let deadline = Instant::now() + TOLD_WITHIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let Some(event) = queue.poll(left) else { continue };
            if event.kind() == events {
                let error = event.error();
                if error.class == Class::Denied {
                    return Some(error);
                }
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
            let results =
                block_on(self.client.create_topics(&new, &self.options())).map_err(|e| from_rdkafka("cannot create topics", &e))?;
            for (index, result) in missing.iter().zip(results) {
                outcomes[*index] = match result {
                    Ok(_) => Some(TopicOutcome::Created),
                    // Somebody else was quicker: compare.
                    Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => None,
                    Err((name, code)) => Some(TopicOutcome::Refused(refused(&name, code))),
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
        let specifiers: Vec<ResourceSpecifier<'_>> = topics.iter().map(|t| ResourceSpecifier::Topic(t)).collect();
        let results = block_on(self.client.describe_configs(&specifiers, &self.options()))
            .map_err(|e| from_rdkafka("cannot read the topics' configs", &e))?;
        let map = |resource: ConfigResource| resource.entries.into_iter().filter_map(|e| Some((e.name, e.value?))).collect();
        Ok(results.into_iter().map(|r| r.map(map).unwrap_or_default()).collect())
    }

    /// What topics accept; Kafka's defaults where they may not be described.
    pub fn limits(&self, topics: &[&str]) -> Result<Vec<Limits>, KafkaError> {
        Ok(self.describe(topics)?.iter().map(limits_of).collect())
    }

    /// Deletes topics; of one that is not there, nothing. For tests and for `millrace`'s own clean-up.
    pub fn delete(&self, topics: &[&str]) -> Result<(), KafkaError> {
        let results = block_on(self.client.delete_topics(topics, &self.options())).map_err(|e| from_rdkafka("cannot delete topics", &e))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((name, code)) => return Err(refused(&name, code)),
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
    let mut topic = NewTopic::new(&spec.name, spec.partitions.unwrap_or(-1), TopicReplication::Fixed(spec.replication.unwrap_or(-1)));
    for (name, value) in &spec.configs {
        topic = topic.set(name, value);
    }
    topic
}

fn refused(name: &str, code: RDKafkaErrorCode) -> KafkaError {
    KafkaError::described(code as i32, &format!("cannot create topic {name}"))
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

fn from_rdkafka(what: &str, error: &rdkafka::error::KafkaError) -> KafkaError {
    match error.rdkafka_error_code() {
        Some(code) => KafkaError::described(code as i32, what),
        None => KafkaError { code: RDKafkaErrorCode::Fail as i32, class: Class::Retry, text: format!("{what}: {error}") },
    }
}

/// Waits for one of rdkafka's futures; its own thread completes it.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
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
