//! Which operations the broker allows this user, asked with the description of topics, groups and the cluster.

use crate::error::KafkaError;
use crate::raw::admin::{Means, ask};
use crate::raw::client::Native;
use crate::raw::text::{NO_ERROR, c_string, owned};
use rdkafka::bindings::*;
use std::ffi::CString;
use std::ptr;
use std::time::Duration;

/// The error code of one thing, and the operations allowed on it, as Kafka numbers them; `None`: the broker does not say.
pub struct Described {
    pub name: String,
    pub code: i32,
    pub allowed: Option<Vec<u32>>,
}

/// SAFETY: `operations` is null or shows `count` numbers.
unsafe fn numbers(operations: *const rd_kafka_AclOperation_t, count: usize) -> Option<Vec<u32>> {
    if operations.is_null() {
        return None;
    }
    // As numbers: a newer broker may send one that the bindings' enum does not know.
    unsafe { Some(std::slice::from_raw_parts(operations.cast::<u32>(), count).to_vec()) }
}

/// SAFETY: `error` is null or an error that lives.
unsafe fn code(error: *const rd_kafka_error_t) -> i32 {
    if error.is_null() { NO_ERROR } else { unsafe { rd_kafka_error_code(error) as i32 } }
}

/// SAFETY: the options are those of a request that is being made.
unsafe fn with_operations((options, queue): Means) -> Means {
    unsafe { rd_kafka_error_destroy(rd_kafka_AdminOptions_set_include_authorized_operations(options.cast_mut(), 1)) };
    (options, queue)
}

/// Topics, each with what is allowed on it.
///
/// Errors: the cluster can't be asked.
pub fn of_topics(native: &Native, topics: &[&str], timeout: Duration) -> Result<Vec<Described>, KafkaError> {
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<CString> = topics.iter().map(|topic| c_string(topic)).collect::<Result<_, _>>()?;
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the names live until the request is made, which copies them; the collection is destroyed once; what the answer shows is copied.
    unsafe {
        let answer = ask(native, timeout, "cannot ask what is allowed on topics", |means| {
            let (options, queue) = with_operations(means);
            let collection = rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            rd_kafka_DescribeTopics(native.ptr(), collection, options, queue);
            rd_kafka_TopicCollection_destroy(collection);
        })?;
        let result = rd_kafka_event_DescribeTopics_result(answer.event());
        let mut count = 0;
        let found = if result.is_null() { ptr::null_mut() } else { rd_kafka_DescribeTopics_result_topics(result, &mut count) };
        let described = |topic: &*const rd_kafka_TopicDescription_t| {
            let mut count = 0;
            let operations = rd_kafka_TopicDescription_authorized_operations(*topic, &mut count);
            Described {
                name: owned(rd_kafka_TopicDescription_name(*topic)),
                code: code(rd_kafka_TopicDescription_error(*topic)),
                allowed: numbers(operations, count),
            }
        };
        Ok(if found.is_null() { Vec::new() } else { std::slice::from_raw_parts(found, count).iter().map(described).collect() })
    }
}

/// A group of consumers, with what is allowed on it. One that is not there has rights, too.
///
/// Errors: the cluster can't be asked.
pub fn of_group(native: &Native, group: &str, timeout: Duration) -> Result<Described, KafkaError> {
    let name = c_string(group)?;
    let mut pointers = [name.as_ptr()];
    // SAFETY: as in `of_topics`.
    unsafe {
        let answer = ask(native, timeout, "cannot ask what is allowed on a group", |means| {
            let (options, queue) = with_operations(means);
            rd_kafka_DescribeConsumerGroups(native.ptr(), pointers.as_mut_ptr(), pointers.len(), options, queue);
        })?;
        let result = rd_kafka_event_DescribeConsumerGroups_result(answer.event());
        let mut count = 0;
        let found = if result.is_null() { ptr::null_mut() } else { rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count) };
        if found.is_null() || count != 1 {
            return Ok(Described { name: group.to_owned(), code: NO_ERROR, allowed: None });
        }
        let one = *found;
        let mut count = 0;
        let operations = rd_kafka_ConsumerGroupDescription_authorized_operations(one, &mut count);
        Ok(Described {
            name: group.to_owned(),
            code: code(rd_kafka_ConsumerGroupDescription_error(one)),
            allowed: numbers(operations, count),
        })
    }
}

/// What is allowed on the cluster itself; `None`: the broker does not say.
///
/// Errors: the cluster can't be asked.
pub fn of_cluster(native: &Native, timeout: Duration) -> Result<Option<Vec<u32>>, KafkaError> {
    // SAFETY: as in `of_topics`.
    unsafe {
        let answer = ask(native, timeout, "cannot ask what is allowed on the cluster", |means| {
            let (options, queue) = with_operations(means);
            rd_kafka_DescribeCluster(native.ptr(), options, queue);
        })?;
        let result = rd_kafka_event_DescribeCluster_result(answer.event());
        if result.is_null() {
            return Ok(None);
        }
        let mut count = 0;
        let operations = rd_kafka_DescribeCluster_result_authorized_operations(result, &mut count);
        Ok(numbers(operations, count))
    }
}
