//! A partition of a topic, and a membership in a group: what a consumer has, and what a transaction of a producer is told of it.

use crate::raw::GroupHandle;
use std::sync::Arc;

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A membership as a transaction needs it.
pub struct GroupMetadata(pub(crate) GroupHandle);

impl GroupMetadata {
    pub(crate) fn handle(&self) -> &GroupHandle {
        &self.0
    }
}
