//! The contract of a Kafka topic.

use crate::tree::node::Spanned;
use crate::tree::units::Period;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The contract of a Kafka topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Topic {
    /// How values are encoded.
    pub format: Format,
    /// `telemetry` (that of samples), `source` (what the source's own device says of its documents: an ERP's `$metadata`), or a file: `.avsc`,
    /// `.schema.json`, `.proto`. Without it: for avro `source` where there is one, else `telemetry`; `telemetry` for protobuf, none for json; wide
    /// records have one that is made of their tags.
    pub schema: Option<Spanned<String>>,
    /// The key of its samples: `tag` (the tag's path, as if nothing were said), `asset` (the path without its last level), `none`, or a template
    /// such as `{at}/{tag}`. It knows `{site}`, `{at}`, `{tag}`, `{path}`, `{asset}`, `{source}` and each of `levels` by its name.
    pub key: Option<Spanned<String>>,
    /// One wide record per asset or scan, or one per sample.
    pub shape: Shape,
    /// How long an `asset` record collects.
    pub window: Option<Period>,
    /// Partitions, when Millrace creates the topic.
    pub partitions: Option<u32>,
    /// Replication factor, when Millrace creates the topic; the broker's default otherwise.
    pub replication: Option<u16>,
    /// How long Kafka keeps records, when Millrace creates the topic; the broker's default otherwise.
    pub retention: Option<Period>,
    /// Kafka keeps the last record of each key.
    pub compacted: bool,
    /// Order of sending after an outage.
    pub lane: Lane,
    /// Where records go that break this contract; `{topic}.dead` unless said.
    pub dead_letter: Option<Spanned<String>>,
    /// Also keep the last sample of each tag in the compacted topic `millrace.latest`: in this topic's format, unless that topic is declared,
    /// too. Where the topics that are kept there have two formats, it must be.
    pub latest: bool,
    /// What the Kafka timestamp is.
    pub timestamp: Timestamp,
    /// How the subject in the schema registry is named.
    pub subject: Subject,
    /// Properties of the topic, as Kafka names them.
    pub properties: IndexMap<String, Spanned<String>>,
}

impl Default for Topic {
    fn default() -> Self {
        Self {
            format: Format::Json,
            schema: None,
            key: None,
            shape: Shape::Sample,
            window: None,
            partitions: None,
            replication: None,
            retention: None,
            compacted: false,
            lane: Lane::Normal,
            dead_letter: None,
            latest: false,
            timestamp: Timestamp::Time,
            subject: Subject::TopicName,
            properties: IndexMap::new(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// JSON; with a schema, checked against it.
    Json,
    /// Avro in binary; the most compact.
    Avro,
    /// Protobuf.
    Protobuf,
    /// The bytes as they came.
    Raw,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// One record per sample.
    Sample,
    /// One wide record per asset and `window`.
    Asset,
    /// One wide record per scan of a group.
    Scan,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Before all others: alarms.
    First,
    /// In its turn.
    Normal,
    /// After all others: backfill.
    Bulk,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Timestamp {
    /// The best time believed of the sample or document.
    Time,
    /// When Millrace read it.
    ReadTime,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// `{topic}-value`
    TopicName,
    /// The schema's full name.
    RecordName,
    /// `{topic}-{the schema's full name}`
    TopicRecordName,
}
