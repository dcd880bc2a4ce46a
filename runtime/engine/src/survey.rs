//! The topics of a factory as a person looks at them: declared, written, read, and what Kafka says of them.

use crate::Engine;
use crate::sample_key::SampleKey;
use crate::topics::{Topic, dead_letter_of};
use millrace_contract::{Role, is_meant};
use millrace_kafka::{Consumer, KafkaError, TopicPartition};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);
/// How long records are counted; topics behind that have no count.
const COUNTING: Duration = Duration::from_secs(3);
/// Topics in one answer.
const TOPICS_MAX: usize = 1000;
/// Millrace's own topics begin so.
const OWN: &str = "millrace.";

#[derive(Clone, Debug, Serialize)]
pub struct Survey {
    pub topics: Vec<TopicReport>,
    /// Why Kafka is not asked; `None`: it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct TopicReport {
    pub name: String,
    pub declared: bool,
    pub format: String,
    /// `tag`, `asset`, `none`, `template`.
    pub key: &'static str,
    pub schema: Option<SchemaReport>,
    /// `asset`, `scan`: many tags go into one record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
    pub dead_letter: String,
    /// `None`: Kafka has no such topic, or was not asked.
    pub partitions: Option<i32>,
    /// Offsets between first and next of all partitions: markers of transactions and what compaction took count, too.
    pub records: Option<i64>,
    /// Sources, as far as it is known before they run.
    pub writers: Vec<String>,
    /// Sinks.
    pub readers: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct SchemaReport {
    pub name: String,
    pub kind: String,
    /// In the registry.
    pub subject: String,
    pub text: String,
}

impl Engine {
    /// Every topic that the factory declares, writes or reads, and Millrace's own. Blocks, for some seconds at most.
    pub fn survey(&self) -> Survey {
        let report = self.report();
        let (there, why) = match self.topics_there() {
            Ok(there) => (there, None),
            Err(error) => (BTreeMap::new(), Some(error.to_string())),
        };
        let of = |role, name: &String| self.topics_of(role, name).into_iter().map(|topic| (topic, name.clone())).collect::<Vec<_>>();
        let written: Vec<(String, String)> = report.sources.keys().flat_map(|name| of(Role::Source, name)).collect();
        let read: Vec<(String, String)> = report.sinks.keys().flat_map(|name| of(Role::Sink, name)).collect();
        let known = &self.ground.topics;
        let mut names: BTreeSet<String> = known.all().iter().map(|topic| topic.name.to_string()).collect();
        names.extend(written.iter().map(|(topic, _)| topic.clone()).filter(|topic| !topic.contains('{')));
        names.extend(read.iter().map(|(topic, _)| topic.clone()).filter(|topic| !topic.contains('*')));
        names.extend(names.iter().map(|name| dead_letter_of(name).to_string()).filter(|dead| there.contains_key(dead)).collect::<Vec<_>>());
        names.extend(there.keys().filter(|name| name.starts_with(OWN) || read.iter().any(|(topic, _)| is_meant(topic, name))).cloned());
        let counts = self.counts(names.iter().filter_map(|name| Some((name.as_str(), *there.get(name)?)))).unwrap_or_default();
        let named = |pairs: &[(String, String)], fits: &dyn Fn(&str) -> bool| -> Vec<String> {
            let names: BTreeSet<&String> = pairs.iter().filter(|(topic, _)| fits(topic)).map(|(_, name)| name).collect();
            names.into_iter().cloned().collect()
        };
        let topics = names.iter().take(TOPICS_MAX).map(|name| {
            let topic = known.get(name);
            TopicReport {
                declared: known.declared(name).is_some(),
                format: format!("{:?}", topic.format).to_lowercase(),
                key: match topic.key {
                    SampleKey::Tag => "tag",
                    SampleKey::Asset => "asset",
                    SampleKey::None => "none",
                    SampleKey::Template(_) => "template",
                },
                schema: schema(&topic),
                shape: topic.shape.map(|shape| format!("{shape:?}").to_lowercase()),
                dead_letter: topic.dead_letter.to_string(),
                partitions: there.get(name).copied(),
                records: counts.get(name.as_str()).copied(),
                writers: named(&written, &|topic| topic == name),
                readers: named(&read, &|topic| is_meant(topic, name)),
                name: name.clone(),
            }
        });
        Survey { topics: topics.collect(), why }
    }

    /// How many records topics have, as far as there is time to ask.
    fn counts<'t>(&self, topics: impl Iterator<Item = (&'t str, i32)>) -> Result<BTreeMap<String, i64>, KafkaError> {
        let consumer = Consumer::reader(&self.ground.settings, true)?;
        let (mut counts, until) = (BTreeMap::new(), Instant::now() + COUNTING);
        for (name, partitions) in topics {
            let mut count = 0;
            for partition in 0..partitions {
                if Instant::now() > until {
                    return Ok(counts);
                }
                let (low, high) = consumer.watermarks(&TopicPartition::new(name, partition), PATIENCE)?;
                count += high - low;
            }
            counts.insert(name.to_owned(), count);
        }
        Ok(counts)
    }
}

fn schema(topic: &Topic) -> Option<SchemaReport> {
    let schema = topic.schema.as_ref()?;
    Some(SchemaReport {
        name: schema.name.to_string(),
        kind: format!("{:?}", schema.kind).to_lowercase(),
        subject: topic.subject.of(&topic.name, &schema.name),
        text: schema.text.to_string(),
    })
}
