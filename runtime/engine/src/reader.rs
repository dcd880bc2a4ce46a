//! The records of a topic for a person or a page: read back from Kafka, each in JSON, from any offset on.

use crate::Engine;
use crate::topics::{Format, Topic};
use crate::writer_schemas::WriterSchemas;
use millrace_config::Reason;
use millrace_kafka::{Consumer, KafkaError, Message, Polled, TopicPartition};
use millrace_registry::SchemaId;
use millrace_schemas::TELEMETRY_SCHEMA;
use millrace_schemas::contract::{Contract, Kind};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long Kafka may take to say which partitions there are.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest text of a key, a header, or a value that is not JSON.
const TEXT_MAX: usize = 10_000;

/// Where to begin, in each partition.
#[derive(Clone, Debug, PartialEq)]
pub enum Begin {
    /// With what comes from now on.
    Newest,
    /// With all that is there.
    Oldest,
    /// So many records before the end.
    Last(i64),
    /// At these offsets; a partition that is not named from its beginning on: it was made since.
    At(BTreeMap<i32, i64>),
}

/// Why a topic is not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("there is no topic `{0}` in Kafka, or this user may not see it")]
    NoTopic(String),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// A record as a person reads it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Shown {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    pub key: Option<String>,
    pub headers: BTreeMap<String, String>,
    /// JSON; `null`: a tombstone; `{"text": ..}` or `{"bytes": ..}` with the reason, where it can't be read.
    pub value: Box<RawValue>,
    /// Bytes of the value in Kafka.
    pub size: usize,
}

/// Reads one topic, on and on.
pub struct TopicReader {
    consumer: Consumer,
    topic: Arc<Topic>,
    writers: Option<WriterSchemas>,
    has_registry: bool,
    /// The next offset of each partition.
    pub next: BTreeMap<i32, i64>,
    /// Where each partition ended when it was opened.
    pub ends: BTreeMap<i32, i64>,
    /// Records that were asked for and are not in Kafka any more.
    pub gone: u64,
}

impl Engine {
    /// Opens a topic. Blocks.
    ///
    /// Errors: Kafka does not answer, or there is no such topic.
    pub fn read_topic(&self, name: &str, begin: &Begin) -> Result<TopicReader, ReadError> {
        let ground = &self.ground;
        let consumer = Consumer::reader(&ground.settings, true)?;
        let mut reader = TopicReader {
            topic: ground.topics.get(name),
            writers: ground.registry.clone().map(|client| WriterSchemas::new(client, tokio::runtime::Handle::current())),
            has_registry: ground.registry.is_some(),
            next: BTreeMap::new(),
            ends: BTreeMap::new(),
            gone: 0,
            consumer,
        };
        let count = reader.consumer.partitions(name, PATIENCE)?;
        if count == 0 {
            return Err(ReadError::NoTopic(name.to_owned()));
        }
        let mut parts = Vec::new();
        for partition in 0..count {
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            let part = TopicPartition::new(name, partition);
            let (low, high) = reader.consumer.watermarks(&part, PATIENCE)?;
            let asked = match begin {
                Begin::Newest => high,
                Begin::Oldest => low,
                Begin::Last(count) => (high - count).max(low),
                Begin::At(offsets) => offsets.get(&partition).copied().unwrap_or(low),
            };
            // Behind the end: the topic was made anew.
            let at = if asked > high { low } else { asked.max(low) };
            reader.gone += (low - asked).max(0) as u64;
            reader.next.insert(partition, at);
            reader.ends.insert(partition, high);
            parts.push((part, Some(at)));
        }
        reader.consumer.take(&parts)?;
        Ok(reader)
    }

    /// Topics of the cluster that this user may see, each with its number of partitions. Blocks.
    pub fn topics_there(&self) -> Result<BTreeMap<String, i32>, KafkaError> {
        let there = millrace_kafka::Admin::new(&self.ground.settings, PATIENCE)?.topics()?;
        Ok(there.into_iter().map(|(name, shape)| (name, shape.partitions)).collect())
    }
}

impl TopicReader {
    /// The next records, at most so many; waits for the first of them. Blocks.
    ///
    /// Errors: it can't go on.
    pub fn read(&mut self, wait: Duration, most: usize) -> Result<Vec<Shown>, KafkaError> {
        let mut read = Vec::new();
        let Self { consumer, topic, writers, has_registry, next, .. } = self;
        let polled = consumer.poll(wait, |message| {
            next.insert(message.partition(), message.offset() + 1);
            read.push(shown(&message, topic, writers.as_mut(), *has_registry));
            read.len() < most
        });
        match polled {
            Polled::Failed(error) => Err(error),
            // Behind records of a transaction there is none to read.
            Polled::End(part, offset) => {
                self.next.insert(part.partition, offset);
                Ok(read)
            }
            _ => Ok(read),
        }
    }

    /// All that was there when it was opened has been read.
    pub fn is_at_end(&self) -> bool {
        self.ends.iter().all(|(partition, end)| self.next.get(partition).is_some_and(|next| next >= end))
    }
}

fn shown(message: &Message<'_>, topic: &Topic, writers: Option<&mut WriterSchemas>, has_registry: bool) -> Shown {
    let headers = message.headers().map(|(name, value)| (name.to_owned(), value.map_or_else(String::new, text)));
    Shown {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp_ms(),
        key: message.key().map(text),
        headers: headers.collect(),
        value: value(message.value(), topic, writers, has_registry),
        size: message.value().map_or(0, <[u8]>::len),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX)]).into_owned()
}

fn value(bytes: Option<&[u8]>, topic: &Topic, writers: Option<&mut WriterSchemas>, has_registry: bool) -> Box<RawValue> {
    let Some(bytes) = bytes else { return raw(&Value::Null) };
    let body = &bytes[if has_registry { usize::from(topic.prefix_of(bytes)) } else { 0 }..];
    let mut out = Vec::new();
    let read = match (topic.format, SchemaId::split(bytes), writers, &topic.contract) {
        (Format::Avro, Some((id, _)), Some(writers), _) if body.len() < bytes.len() => match writers.show(id, body, &mut out) {
            Ok(read) => read,
            Err(failure) => Err(Reason::from(failure.to_string())),
        },
        (Format::Avro, _, _, Some(contract)) => show(contract, body, &mut out),
        (Format::Avro, _, _, None) => match Contract::compile(Kind::Avro, TELEMETRY_SCHEMA, None, &mut |_| None) {
            Ok(telemetry) => show(&telemetry, body, &mut out),
            Err(error) => Err(error.to_string().into()),
        },
        (Format::Protobuf, ..) => Err("it is in Protobuf".into()),
        _ => {
            out.extend_from_slice(body);
            Ok(())
        }
    };
    let json = read.and_then(|()| String::from_utf8(out).map_err(|_| "it is not text".to_owned().into())).and_then(|text| {
        let is_spaced = text.contains(['\n', '\r']);
        match serde_json::from_str::<Box<RawValue>>(&text) {
            // One line, whatever the sender wrote.
            Ok(_) if is_spaced => Ok(raw(&serde_json::from_str::<Value>(&text).unwrap_or_default())),
            Ok(json) => Ok(json),
            Err(_) => Err("it is not JSON".to_owned().into()),
        }
    });
    json.unwrap_or_else(|why| {
        let cut = &bytes[..bytes.len().min(TEXT_MAX)];
        match std::str::from_utf8(cut) {
            Ok(text) => raw(&json!({ "text": text, "why": why })),
            Err(_) => raw(&json!({ "bytes": cut.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), "why": why })),
        }
    })
}

fn show(contract: &Contract, body: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let json = contract.show(body).ok_or_else(|| format!("it is not what {} says", contract.schema().name))?;
    out.extend_from_slice(json.as_bytes());
    Ok(())
}

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).expect("a value is JSON")
}
