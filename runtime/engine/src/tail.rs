//! What a sink has not committed yet, read from Kafka beside it: for who asks a lake, and wants the last minutes, too.

use crate::sinks::decode_sample;
use crate::topics::Topics;
use crate::writer_schemas::WriterSchemas;
use millrace_config::Reason;
use millrace_contract::{Failure, Offset, Partition, Upstream};
use millrace_kafka::{Admin, Consumer, KafkaError, Settings, TopicPartition};
use millrace_registry::{Client, SchemaId};
use millrace_schemas::{Batch, Micros};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(15);
/// More than these are not read for one question: the sink is behind.
const MOST: i64 = 2_000_000;

/// Whose records.
pub struct Reading<'a> {
    pub settings: &'a Settings,
    pub group: &'a str,
    /// By name: patterns are for sinks.
    pub topics: &'a [String],
    pub known: &'a Topics,
    pub registry: Option<Arc<Client>>,
    pub tokio: tokio::runtime::Handle,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub records: u64,
    /// They are no samples.
    pub unreadable: u64,
    /// All that was in Kafka by then was read.
    pub until: Micros,
}

/// Hands on every sample behind the positions that `held` knows, one batch each; of a partition without one, all that Kafka has.
///
/// Errors: Kafka or the registry can't be asked, or there is too much.
pub fn read(
    reading: &Reading<'_>,
    held: impl FnOnce(&Upstream, &[Partition]) -> Result<Vec<Option<Offset>>, Reason>,
    mut each: impl FnMut(&Batch),
) -> Result<Read, Reason> {
    let failed = |error: KafkaError| format!("cannot read what is in Kafka only: {error}");
    let names: Vec<&str> = reading.topics.iter().map(String::as_str).collect();
    let (cluster, ids) = Admin::new(reading.settings, PATIENCE).and_then(|admin| admin.identities(&names)).map_err(failed)?;
    let topic_ids = reading.topics.iter().map(|topic| Arc::from(topic.as_str())).zip(ids).collect();
    let upstream = Upstream { cluster, group: reading.group.to_owned(), topic_ids };
    let reader = Consumer::reader(reading.settings, true).map_err(failed)?;
    let mut parts = Vec::new();
    for topic in &names {
        let count = reader.partitions(topic, PATIENCE).map_err(failed)?;
        parts.extend((0..count as i32).map(|partition| Partition { topic: Arc::from(*topic), partition }));
    }
    let held = held(&upstream, &parts)?;
    let until = Micros::now();
    let (mut from, mut ends, mut count) = (Vec::new(), HashMap::new(), 0);
    for (part, held) in parts.into_iter().zip(held) {
        let part = TopicPartition::new(part.topic, part.partition);
        let (low, high) = reader.watermarks(&part, PATIENCE).map_err(failed)?;
        let start = held.unwrap_or(low).max(low);
        count += (high - start).max(0);
        from.push((part.clone(), start));
        ends.insert(part, high);
    }
    if count > MOST {
        return Err(format!(
            "{count} records are in Kafka only, which are too many to read for one question: the sink is behind, or has never run"
        )
        .into());
    }
    let mut writers = reading.registry.clone().map(|client| WriterSchemas::new(client, reading.tokio.clone()));
    let mut outcome = Read { records: 0, unreadable: 0, until };
    let mut trouble: Option<Failure> = None;
    let mut batch = Batch::new();
    let done = reader.read_to(&from, &ends, PATIENCE, |message| {
        let Some(value) = message.value() else { return };
        outcome.records += 1;
        let topic = reading.known.get(message.topic());
        let prefix = if reading.registry.is_some() { topic.prefix_of(value) } else { 0 };
        let writers = writers.as_mut().filter(|_| usize::from(prefix) == SchemaId::PREFIX);
        batch.clear();
        match decode_sample(topic.format, value, prefix, writers, &mut batch) {
            Ok(Ok(())) => each(&batch),
            Ok(Err(_)) => outcome.unreadable += 1,
            Err(failure) => trouble = trouble.take().or(Some(failure)),
        }
    });
    done.map_err(failed)?;
    match trouble {
        Some(failure) => Err(format!("cannot read what is in Kafka only: {failure}").into()),
        None => Ok(outcome),
    }
}
