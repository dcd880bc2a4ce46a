//! Lists of topics and partitions.

use crate::error::KafkaError;
use crate::raw::text::{c_string, owned};
use rdkafka::bindings::*;
use std::ptr::NonNull;

// ---- partition lists ----------------------------------------------------------------------------------------------------------

/// A list of partitions, with offsets where they matter.
pub struct List(pub(super) NonNull<rd_kafka_topic_partition_list_t>);

impl List {
    pub fn new() -> Self {
        // SAFETY: never null.
        Self(unsafe { NonNull::new_unchecked(rd_kafka_topic_partition_list_new(8)) })
    }

    pub fn push(&mut self, topic: &str, partition: i32, offset: i64) -> Result<(), KafkaError> {
        let topic = c_string(topic)?;
        // SAFETY: the topic is copied; the new entry is never null.
        unsafe { (*rd_kafka_topic_partition_list_add(self.0.as_ptr(), topic.as_ptr(), partition)).offset = offset };
        Ok(())
    }

    pub fn entries(&self) -> Vec<(String, i32, i64, i32)> {
        // SAFETY: owned.
        unsafe { entries(self.0.as_ptr()) }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) }
    }
}

/// Topic, partition, offset and error of each entry.
///
/// SAFETY: `list` is null or a list.
pub(super) unsafe fn entries(list: *const rd_kafka_topic_partition_list_t) -> Vec<(String, i32, i64, i32)> {
    if list.is_null() {
        return Vec::new();
    }
    unsafe {
        (0..usize::try_from((*list).cnt).unwrap_or(0))
            .map(|i| {
                let entry = (*list).elems.add(i);
                (owned((*entry).topic), (*entry).partition, (*entry).offset, (&raw const (*entry).err).cast::<i32>().read())
            })
            .collect()
    }
}
