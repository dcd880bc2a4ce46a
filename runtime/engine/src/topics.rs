//! What the engine knows of each Kafka topic: format, key, lane, dead letters, and which timestamps it takes.

use crate::frame::{Lane, RESERVED};
use crate::sample_key::SampleKey;
use crate::schema_store::SchemaStore;
use crate::wide_layout::{Shape, WideLayout};
use millrace_contract::source::SchemaIn;
use millrace_schemas::Micros;
use millrace_schemas::avro::TELEMETRY_FINGERPRINT;
use millrace_schemas::contract::{Contract, Kind, Schema, SchemaError};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The form of a topic's values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    Avro,
    #[default]
    Json,
    Protobuf,
    /// Documents as they came; no samples.
    Raw,
}

impl Format {
    /// The language its schemas are written in.
    pub const fn kind(self) -> Option<Kind> {
        match self {
            Self::Avro => Some(Kind::Avro),
            Self::Json => Some(Kind::Json),
            Self::Protobuf => Some(Kind::Protobuf),
            Self::Raw => None,
        }
    }
}

/// How the subject of a topic's schema is named in a registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Subject {
    /// `{topic}-value`
    #[default]
    TopicName,
    /// The schema's full name.
    RecordName,
    /// `{topic}-{the schema's full name}`
    TopicRecordName,
}

impl Subject {
    pub fn of(self, topic: &str, name: &str) -> String {
        match self {
            Self::TopicName => format!("{topic}-value"),
            Self::RecordName => name.to_owned(),
            Self::TopicRecordName => format!("{topic}-{name}"),
        }
    }
}

/// The contract of one topic.
#[derive(Clone, Debug)]
pub struct Topic {
    pub name: Arc<str>,
    pub format: Format,
    /// What its values are written with; `None`: nothing is said of them.
    pub schema: Option<Arc<Schema>>,
    /// What its documents must be.
    pub contract: Option<Arc<Contract>>,
    /// Its schema is what the source says of its documents, once it does: see `SourceIo::describe`.
    pub from_source: bool,
    pub subject: Subject,
    /// The schema's mark, by which a record in the log names it; 0: none.
    pub mark: u64,
    pub key: SampleKey,
    /// Many tags go into one record.
    pub shape: Option<Shape>,
    /// The fields of its wide records, once the engine runs.
    pub layout: Option<Arc<WideLayout>>,
    /// The last sample of each tag is also kept in [`LATEST`].
    pub latest: bool,
    pub lane: Lane,
    pub dead_letter: Arc<str>,
    /// Kafka's timestamp is when it was read, whatever its own time says.
    pub by_read_time: bool,
    /// How far behind and ahead of read_time, in microseconds, Kafka takes a timestamp: its retention, and one hour by default.
    pub behind: i64,
    pub ahead: i64,
}

/// The header that names a value's schema by its mark where no registry's id stands in front.
pub const SCHEMA_HEADER: &str = "millrace.schema";
/// The compacted topic of last samples, by tag.
pub const LATEST: &str = "millrace.latest";
const DAY: i64 = 86_400_000_000;
const HOUR: i64 = 3_600_000_000;

impl Topic {
    /// A topic that is not declared: JSON, no schema.
    pub fn undeclared(name: &str) -> Self {
        Self {
            name: name.into(),
            format: Format::Json,
            schema: None,
            contract: None,
            from_source: false,
            subject: Subject::TopicName,
            mark: 0,
            key: SampleKey::Tag,
            shape: None,
            layout: None,
            latest: false,
            lane: Lane::Normal,
            dead_letter: dead_letter_of(name),
            by_read_time: false,
            behind: 7 * DAY,
            ahead: HOUR,
        }
    }

    /// With the schema its values are written with.
    #[must_use]
    pub fn with_schema(self, schema: Arc<Schema>) -> Self {
        Self { mark: schema.mark(), schema: Some(schema), ..self }
    }

    /// As [`Topic::mark`], of a sample.
    pub fn sample_mark(&self) -> u64 {
        if self.format == Format::Avro { TELEMETRY_FINGERPRINT } else { self.mark }
    }

    /// How many bytes of a registry's prefix a value of this topic begins with: magic byte and id, and of Protobuf the message's indexes.
    pub fn prefix_of(&self, value: &[u8]) -> u8 {
        let Some((&[0, ..], rest)) =
            value.split_first_chunk::<RESERVED>().filter(|_| self.mark != 0 || self.shape.is_some() || self.from_source)
        else {
            return 0;
        };
        if self.format != Format::Protobuf {
            return RESERVED as u8;
        }
        // A count, then so many indexes, each a zigzag varint; a single zero stands for the first message.
        let ends = rest.iter().take(64).enumerate().filter(|(_, byte)| **byte & 0x80 == 0).map(|(at, _)| at + 1);
        let count = usize::from(rest.first().copied().unwrap_or(0) >> 1);
        ends.take(count + 1).nth(count).map_or(RESERVED as u8, |end| (RESERVED + end) as u8)
    }

    /// The timestamp Kafka gets for a record of this time, and whether it had to be replaced.
    pub fn timestamp(&self, time: Micros, read_time: Micros) -> (i64, bool) {
        if self.by_read_time {
            return (read_time.as_millis(), false);
        }
        let is_taken = time.0 >= read_time.0.saturating_sub(self.behind) && time.0 <= read_time.0.saturating_add(self.ahead);
        if is_taken { (time.as_millis(), false) } else { (read_time.as_millis(), true) }
    }
}

/// `{topic}.dead`; of a topic that is only known as a template, `millrace.dead`.
pub fn dead_letter_of(topic: &str) -> Arc<str> {
    if topic.contains('{') { "millrace.dead".into() } else { format!("{topic}.dead").into() }
}

/// The declared topics of a factory. Clones share them: what a reload adds is known to all.
#[derive(Clone, Debug, Default)]
pub struct Topics {
    by_name: Arc<RwLock<HashMap<Arc<str>, Arc<Topic>>>>,
    /// Names of the parts of `at`.
    levels: Arc<[String]>,
    /// Where schemas are kept, once the engine runs.
    schema_store: Option<Arc<SchemaStore>>,
}

impl Topics {
    pub fn new(topics: impl IntoIterator<Item = Topic>) -> Self {
        let by_name: HashMap<_, _> = topics.into_iter().map(|t| (t.name.clone(), Arc::new(t))).collect();
        Self { by_name: Arc::new(RwLock::new(by_name)), levels: Arc::default(), schema_store: None }
    }

    /// With names for the parts of `at`.
    #[must_use]
    pub fn with_levels(self, levels: &[String]) -> Self {
        Self { levels: levels.into(), ..self }
    }

    /// Names of the parts of `at`.
    pub fn levels(&self) -> &Arc<[String]> {
        &self.levels
    }

    pub fn get(&self, name: &str) -> Arc<Topic> {
        self.declared(name).unwrap_or_else(|| Arc::new(Topic::undeclared(name)))
    }

    /// The topic of that name, where it is declared.
    pub fn declared(&self, name: &str) -> Option<Arc<Topic>> {
        self.by_name.read().get(name).cloned()
    }

    /// With the layouts of wide topics, taken up from the data directory.
    pub fn with_layouts(&self, data_dir: &Path, schema_store: &Arc<SchemaStore>) -> std::io::Result<Self> {
        let topics = Self { by_name: Arc::default(), levels: self.levels.clone(), schema_store: Some(schema_store.clone()) };
        topics.add(self.all(), data_dir, schema_store)?;
        Ok(topics)
    }

    /// A topic with the schema that a source says its documents have, compiled and kept on the disk; `None`: the topic has its own, or the source has
    /// none in its language.
    ///
    /// Errors: the schema does not compile, or the disk does not take it.
    pub fn described(&self, topic: &Topic, schema: &SchemaIn<'_>) -> Result<Option<Topic>, SchemaError> {
        let Some(kind) = topic.format.kind().filter(|_| topic.from_source) else { return Ok(None) };
        let Some(text) = schema(kind) else { return Ok(None) };
        let contract = Contract::compile(kind, &text, None, &mut |_| None)?;
        let schema = contract.schema().clone();
        if let Some(store) = &self.schema_store {
            let what = |error| format!("it cannot be kept on the disk: {error}");
            store.keep(&schema).map_err(|error| SchemaError { file: None, line: 0, column: 0, what: what(error) })?;
        }
        Ok(Some(Topic { contract: Some(Arc::new(contract)), ..topic.clone().with_schema(schema) }))
    }

    /// Adds topics that are not known yet, with the layouts of wide ones.
    pub fn add(&self, others: Vec<Arc<Topic>>, data_dir: &Path, schema_store: &Arc<SchemaStore>) -> std::io::Result<()> {
        for topic in others.into_iter().filter(|topic| self.declared(&topic.name).is_none()) {
            let topic = match topic.shape {
                Some(shape) => {
                    let kind = if topic.format == Format::Avro { Kind::Avro } else { Kind::Json };
                    let layout = Some(Arc::new(WideLayout::open(data_dir, &topic.name, kind, shape, schema_store)?));
                    Arc::new(Topic { layout, ..(*topic).clone() })
                }
                None => topic,
            };
            self.by_name.write().insert(topic.name.clone(), topic);
        }
        Ok(())
    }

    /// Every declared topic, in no order.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.by_name.read().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_s_prefix_is_measured_for_each_format() {
        let topic = |format| Topic { format, mark: 7, ..Topic::undeclared("t") };
        assert_eq!(topic(Format::Avro).prefix_of(&[0, 0, 0, 0, 1, 2]), 5);
        assert_eq!(topic(Format::Json).prefix_of(b"{\"a\":1}"), 0);
        assert_eq!(Topic::undeclared("t").prefix_of(&[0, 0, 0, 0, 1, 2]), 0);
        assert_eq!(topic(Format::Avro).prefix_of(&[0, 0, 0]), 0);
        assert_eq!(topic(Format::Protobuf).prefix_of(&[0, 0, 0, 0, 1, 0, 8, 5]), 6);
        assert_eq!(topic(Format::Protobuf).prefix_of(&[0, 0, 0, 0, 1, 4, 2, 0, 8, 5]), 8);
        assert_eq!(topic(Format::Protobuf).prefix_of(&[0, 0, 0, 0, 1, 4]), 5);
    }

    #[test]
    fn a_timestamp_that_kafka_would_refuse_is_replaced_by_the_read_time() {
        let topic = Topic::undeclared("t");
        let by_read_time = Topic { by_read_time: true, ..Topic::undeclared("t") };
        let now = Micros(1_800_000_000_000_000);
        assert_eq!(topic.timestamp(Micros(now.0 - DAY), now), ((now.0 - DAY) / 1000, false));
        assert_eq!(topic.timestamp(Micros(now.0 + 2 * HOUR), now), (now.0 / 1000, true));
        assert_eq!(topic.timestamp(Micros(-11_644_473_600_000_000), now), (now.0 / 1000, true));
        assert_eq!(topic.timestamp(Micros(i64::MAX), now), (now.0 / 1000, true));
        assert_eq!(by_read_time.timestamp(Micros(now.0 - DAY), now), (now.0 / 1000, false));
    }
}
