//! Offsets of consumer groups that this client is no member of.

use crate::error::KafkaError;
use crate::raw::admin::ask;
use crate::raw::client::Native;
use crate::raw::list::{List, entries};
use crate::raw::text::{NO_ERROR, c_string, owned};
use rdkafka::bindings::*;
use std::time::Duration;

/// The names of all groups. Errors: the cluster can't be asked.
pub fn names(native: &Native, timeout: Duration) -> Result<Vec<String>, KafkaError> {
    // SAFETY: what the answer shows is copied before it goes.
    unsafe {
        let answer = ask(native, timeout, "cannot list consumer groups", |(options, queue)| {
            rd_kafka_ListConsumerGroups(native.ptr(), options, queue);
        })?;
        let result = rd_kafka_event_ListConsumerGroups_result(answer.event());
        let mut count = 0;
        let found = if result.is_null() { std::ptr::null_mut() } else { rd_kafka_ListConsumerGroups_result_valid(result, &mut count) };
        if found.is_null() {
            return Ok(Vec::new());
        }
        Ok(std::slice::from_raw_parts(found, count).iter().map(|one| owned(rd_kafka_ConsumerGroupListing_group_id(*one))).collect())
    }
}

/// What a group has committed: topic, partition, offset. Errors: the cluster can't be asked, or refuses.
pub fn offsets(native: &Native, group: &str, timeout: Duration) -> Result<Vec<(String, i32, i64)>, KafkaError> {
    const WHAT: &str = "cannot read a consumer group's offsets";
    let name = c_string(group)?;
    // SAFETY: the name is copied; the request is ours and destroyed once it is made; what the answer shows is copied before it goes.
    unsafe {
        let mut request = rd_kafka_ListConsumerGroupOffsets_new(name.as_ptr(), std::ptr::null());
        let answer = ask(native, timeout, WHAT, |(options, queue)| {
            rd_kafka_ListConsumerGroupOffsets(native.ptr(), &mut request, 1, options, queue);
        });
        rd_kafka_ListConsumerGroupOffsets_destroy(request);
        let answer = answer?;
        let result = rd_kafka_event_ListConsumerGroupOffsets_result(answer.event());
        let mut count = 0;
        let groups =
            if result.is_null() { std::ptr::null_mut() } else { rd_kafka_ListConsumerGroupOffsets_result_groups(result, &mut count) };
        parts(groups, count, WHAT)
    }
}

/// Commits offsets for a group without members; its answer is no error only where every partition took it.
pub fn set(native: &Native, group: &str, offsets: &[(&str, i32, i64)], timeout: Duration) -> Result<(), KafkaError> {
    const WHAT: &str = "cannot set a consumer group's offsets";
    let name = c_string(group)?;
    let mut list = List::new();
    for (topic, partition, offset) in offsets {
        list.push(topic, *partition, *offset)?;
    }
    // SAFETY: as in `offsets`; the list is copied, too.
    unsafe {
        let mut request = rd_kafka_AlterConsumerGroupOffsets_new(name.as_ptr(), list.0.as_ptr());
        let answer = ask(native, timeout, WHAT, |(options, queue)| {
            rd_kafka_AlterConsumerGroupOffsets(native.ptr(), &mut request, 1, options, queue);
        });
        rd_kafka_AlterConsumerGroupOffsets_destroy(request);
        let answer = answer?;
        let result = rd_kafka_event_AlterConsumerGroupOffsets_result(answer.event());
        let mut count = 0;
        let groups =
            if result.is_null() { std::ptr::null_mut() } else { rd_kafka_AlterConsumerGroupOffsets_result_groups(result, &mut count) };
        parts(groups, count, WHAT).map(|_| ())
    }
}

/// The partitions of the one group of an answer.
///
/// SAFETY: `groups` is null or shows `count` results that live through the call.
unsafe fn parts(groups: *mut *const rd_kafka_group_result_t, count: usize, what: &str) -> Result<Vec<(String, i32, i64)>, KafkaError> {
    if groups.is_null() || count != 1 {
        return Err(KafkaError::described(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FAIL as i32, what));
    }
    unsafe {
        let error = rd_kafka_group_result_error(*groups);
        if !error.is_null() {
            return Err(KafkaError::described(rd_kafka_error_code(error) as i32, what));
        }
        let mut found = Vec::new();
        for (topic, partition, offset, code) in entries(rd_kafka_group_result_partitions(*groups)) {
            if code != NO_ERROR {
                return Err(KafkaError::described(code, what));
            }
            found.push((topic, partition, offset));
        }
        Ok(found)
    }
}
