//! What the engine knows of each Kafka topic: format, key, lane, dead letters, and which timestamps it takes.

use crate::book::Book;
use crate::frame::{Lane, RESERVED};
use crate::wide::{Shape, Sheet};
use millrace_schemas::Micros;
use millrace_schemas::avro::TELEMETRY_FINGERPRINT;
use millrace_schemas::contract::{Contract, Kind, Schema};
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

/// The key of a topic's samples.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum SampleKey {
    /// The tag's path.
    #[default]
    Tag,
    /// The tag's path without its last level.
    Asset,
    /// No key.
    None,
    /// A text with `{tag}`, `{asset}` and `{source}`.
    Template(Arc<str>),
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
    pub subject: Subject,
    /// The schema's mark, by which a record in the log names it; 0: none.
    pub mark: u64,
    pub key: SampleKey,
    /// Many tags go into one record.
    pub shape: Option<Shape>,
    /// The fields of its wide records, once the engine runs.
    pub sheet: Option<Arc<Sheet>>,
    /// The last sample of each tag is also kept in [`LATEST`].
    pub latest: bool,
    pub lane: Lane,
    pub dead_letter: Arc<str>,
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
            subject: Subject::TopicName,
            mark: 0,
            key: SampleKey::Tag,
            shape: None,
            sheet: None,
            latest: false,
            lane: Lane::Normal,
            dead_letter: dead_letter_of(name),
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
        let Some((&[0, ..], rest)) = value.split_first_chunk::<RESERVED>().filter(|_| self.mark != 0 || self.shape.is_some()) else {
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
        let is_taken = time.0 >= read_time.0.saturating_sub(self.behind) && time.0 <= read_time.0.saturating_add(self.ahead);
        if is_taken { (time.as_millis(), false) } else { (read_time.as_millis(), true) }
    }
}

/// `{topic}.dead`; of a topic that is only known as a template, `millrace.dead`.
pub fn dead_letter_of(topic: &str) -> Arc<str> {
    if topic.contains('{') { "millrace.dead".into() } else { format!("{topic}.dead").into() }
}

/// The declared topics of a factory.
#[derive(Clone, Debug, Default)]
pub struct Topics(HashMap<Arc<str>, Arc<Topic>>);

impl Topics {
    pub fn new(topics: impl IntoIterator<Item = Topic>) -> Self {
        Self(topics.into_iter().map(|t| (t.name.clone(), Arc::new(t))).collect())
    }

    pub fn get(&self, name: &str) -> Arc<Topic> {
        self.0.get(name).cloned().unwrap_or_else(|| Arc::new(Topic::undeclared(name)))
    }

    /// With the sheets of wide topics, taken up from the data directory.
    pub fn with_sheets(&self, data_dir: &Path, book: &Arc<Book>) -> std::io::Result<Self> {
        let mut topics = self.clone();
        for topic in topics.0.values_mut() {
            if let Some(shape) = topic.shape {
                let sheet = Some(Arc::new(Sheet::open(data_dir, topic, shape, book)?));
                *topic = Arc::new(Topic { sheet, ..(**topic).clone() });
            }
        }
        Ok(topics)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.0.values()
    }

    pub fn lanes(&self) -> impl Iterator<Item = Lane> {
        self.0.values().map(|t| t.lane)
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
        let now = Micros(1_800_000_000_000_000);
        assert_eq!(topic.timestamp(Micros(now.0 - DAY), now), ((now.0 - DAY) / 1000, false));
        assert_eq!(topic.timestamp(Micros(now.0 + 2 * HOUR), now), (now.0 / 1000, true));
        assert_eq!(topic.timestamp(Micros(-11_644_473_600_000_000), now), (now.0 / 1000, true));
        assert_eq!(topic.timestamp(Micros(i64::MAX), now), (now.0 / 1000, true));
    }
}
