//! The offsets of a sink's group, as people look at them and move them.

use crate::Engine;
use crate::engine::{Ground, RunningSink};
use crate::hold::Wanted;
use millrace_contract::{Role, is_meant};
pub use millrace_kafka::TopicPartition;
use millrace_kafka::{Admin, Consumer, KafkaError, Start};
use std::sync::Arc;
use std::time::Duration;

/// How long Kafka may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why offsets were not told or moved.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    #[error("there is no sink {0}")]
    Unknown(String),
    #[error("sink {0} is not stopped: its offsets are its own while it runs")]
    NotStopped(String),
    #[error(
        "the target of sink {0} holds the offsets itself, beside what it wrote: moving the group's would change nothing; start the sink under another `group` to write everything again"
    )]
    OfTheTarget(String),
    #[error("sink {sink} does not read topic {topic}; it reads {reads}")]
    Elsewhere { sink: String, topic: String, reads: String },
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

impl Engine {
    fn sink(&self, name: &str) -> Result<Arc<RunningSink>, OffsetsError> {
        let found = self.sinks.read().iter().find(|sink| sink.name == name).cloned();
        found.ok_or_else(|| OffsetsError::Unknown(name.to_owned()))
    }

    /// Where a sink's group is: the offset it reads next of each partition that it has committed. Blocks.
    pub fn sink_offsets(&self, name: &str) -> Result<Vec<(TopicPartition, i64)>, OffsetsError> {
        let sink = self.sink(name)?;
        let consumer = self.ground.group_of(&sink)?;
        let mut parts = Vec::new();
        for topic in consumer.topics(PATIENCE)?.iter().filter(|topic| sink.topics.iter().any(|pattern| is_meant(pattern, topic))) {
            let count = consumer.partitions(topic, PATIENCE)?;
            parts.extend((0..count).map(|partition| TopicPartition::new(topic.as_str(), partition as i32)));
        }
        parts.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        let committed = consumer.committed(&parts, PATIENCE)?;
        Ok(parts.into_iter().zip(committed).filter_map(|(part, offset)| Some((part, offset?))).collect())
    }

    /// Lets a stopped sink go on at these offsets. Blocks.
    pub async fn move_sink(&self, name: &str, offsets: &[(TopicPartition, i64)]) -> Result<(), OffsetsError> {
        let _one = self.changing.lock().await;
        let sink = self.stopped(name)?;
        for (part, _) in offsets {
            if !sink.topics.iter().any(|pattern| is_meant(pattern, &part.topic)) {
                return Err(OffsetsError::Elsewhere {
                    sink: name.to_owned(),
                    topic: part.topic.to_string(),
                    reads: sink.topics.join(", "),
                });
            }
        }
        tokio::task::block_in_place(|| Ok(self.ground.group_of(&sink)?.commit(offsets)?))
    }

    /// Forgets the offsets of a stopped sink: it begins where a new one does. Blocks.
    pub async fn forget_sink(&self, name: &str) -> Result<(), OffsetsError> {
        let _one = self.changing.lock().await;
        let sink = self.stopped(name)?;
        tokio::task::block_in_place(|| Ok(Admin::new(&self.ground.settings, PATIENCE)?.forget_group(&sink.group)?))
    }

    fn stopped(&self, name: &str) -> Result<Arc<RunningSink>, OffsetsError> {
        let sink = self.sink(name)?;
        if self.wanted(Role::Sink, name) != Wanted::Stopped || !sink.task.rests() {
            return Err(OffsetsError::NotStopped(name.to_owned()));
        }
        if sink.task.is_placed_by_target() {
            return Err(OffsetsError::OfTheTarget(name.to_owned()));
        }
        Ok(sink)
    }
}

impl Ground {
    /// Looks into a sink's group without being a member of it.
    pub(crate) fn group_of(&self, sink: &RunningSink) -> Result<Consumer, KafkaError> {
        Consumer::group(&self.settings, &sink.group, Start::Earliest)
    }
}
