//! Administrative requests: each waits in a queue of its own for its one answer.

use crate::error::KafkaError;
use crate::raw::client::Native;
use crate::raw::list::List;
use crate::raw::text::{NO_ERROR, c_string, check, millis, owned};
use rdkafka::bindings::*;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::ptr::{self, NonNull};
use std::time::Duration;

/// A topic to be made; -1 leaves a number to the cluster.
pub struct NewTopic<'a> {
    pub name: &'a str,
    pub partitions: i32,
    pub replication: i32,
    pub configs: &'a BTreeMap<String, String>,
}

/// A setting of a topic.
pub struct Setting {
    pub name: String,
    pub value: Option<String>,
    /// Made for the topic itself, not one of its brokers'.
    pub is_own: bool,
}

/// An answer, destroyed once.
pub(super) struct Answer(NonNull<rd_kafka_event_t>);

impl Answer {
    pub fn event(&self) -> *mut rd_kafka_event_t {
        self.0.as_ptr()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

/// What a request is made with.
pub(super) type Means = (*const rd_kafka_AdminOptions_t, *mut rd_kafka_queue_t);

/// Makes a request and waits for its answer, which is no error as a whole.
///
/// SAFETY: `request` makes one request of this client with these means, and keeps neither.
pub(super) unsafe fn ask(native: &Native, timeout: Duration, what: &str, request: impl FnOnce(Means)) -> Result<Answer, KafkaError> {
    // SAFETY: queue and options are ours and destroyed once.
    unsafe {
        let queue = rd_kafka_queue_new(native.ptr());
        let options = rd_kafka_AdminOptions_new(native.ptr(), rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ANY);
        let mut error = [0 as c_char; 256];
        rd_kafka_AdminOptions_set_request_timeout(options, millis(timeout), error.as_mut_ptr(), error.len());
        rd_kafka_AdminOptions_set_operation_timeout(options, millis(timeout), error.as_mut_ptr(), error.len());
        request((options, queue));
        rd_kafka_AdminOptions_destroy(options);
        // The request's own timeout ends it.
        let event = rd_kafka_queue_poll(queue, millis(timeout + Duration::from_secs(5)));
        rd_kafka_queue_destroy(queue);
        let Some(answer) = NonNull::new(event).map(Answer) else {
            return Err(KafkaError::described(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT as i32, what));
        };
        check(rd_kafka_event_error(answer.event()), what)?;
        Ok(answer)
    }
}

/// Asks, as an offset, for the record with the highest timestamp.
pub const MAX_TIMESTAMP: i64 = rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_MAX_TIMESTAMP as i64;

/// The highest timestamp of each partition that has one, with its topic.
///
/// Errors: the cluster can't be asked.
pub fn newest(native: &Native, parts: &List, timeout: Duration) -> Result<Vec<(String, i64)>, KafkaError> {
    // SAFETY: the list lives until the request is made, which copies it; what the answer shows is copied before it goes.
    unsafe {
        let answer = ask(native, timeout, "cannot ask for the newest records", |(options, queue)| {
            rd_kafka_ListOffsets(native.ptr(), parts.0.as_ptr(), options, queue);
        })?;
        let result = rd_kafka_event_ListOffsets_result(answer.event());
        let mut count = 0;
        let found = if result.is_null() { ptr::null_mut() } else { rd_kafka_ListOffsets_result_infos(result, &mut count) };
        if found.is_null() {
            return Ok(Vec::new());
        }
        let one = |info: &*const rd_kafka_ListOffsetsResultInfo_t| {
            let part = rd_kafka_ListOffsetsResultInfo_topic_partition(*info);
            (owned((*part).topic), rd_kafka_ListOffsetsResultInfo_timestamp(*info))
        };
        Ok(std::slice::from_raw_parts(found, count).iter().map(one).collect())
    }
}

/// Objects of a request, destroyed once it is made.
struct Objects<T>(Vec<*mut T>, unsafe extern "C" fn(*mut T));

impl<T> Drop for Objects<T> {
    fn drop(&mut self) {
        // SAFETY: each is owned, and this is what destroys it.
        self.0.iter().for_each(|object| unsafe { (self.1)(*object) });
    }
}

/// The code of each topic's result, in the order of the request.
///
/// SAFETY: `results` is null or shows `count` results that live through the call.
unsafe fn codes(results: *mut *const rd_kafka_topic_result_t, count: usize, wanted: usize, what: &str) -> Result<Vec<i32>, KafkaError> {
    if results.is_null() || count != wanted {
        return Err(KafkaError::described(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FAIL as i32, what));
    }
    unsafe { Ok(std::slice::from_raw_parts(results, count).iter().map(|one| rd_kafka_topic_result_error(*one) as i32).collect()) }
}

/// Makes topics; the code of each, in their order.
///
/// Errors: the cluster can't be asked, or a name or setting can be none.
pub fn create_topics(native: &Native, topics: &[NewTopic<'_>], timeout: Duration) -> Result<Vec<i32>, KafkaError> {
    const WHAT: &str = "cannot create topics";
    let mut objects = Objects(Vec::with_capacity(topics.len()), rd_kafka_NewTopic_destroy);
    for topic in topics {
        let name = c_string(topic.name)?;
        let mut error = [0 as c_char; 256];
        // SAFETY: all pointers live through the calls, which copy what they are given.
        unsafe {
            let new = rd_kafka_NewTopic_new(name.as_ptr(), topic.partitions, topic.replication, error.as_mut_ptr(), error.len());
            if new.is_null() {
                let code = rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG as i32;
                return Err(KafkaError::new(code, format!("cannot create topic {}: {}", topic.name, owned(error.as_ptr()))));
            }
            objects.0.push(new);
            for (name, value) in topic.configs {
                let (name, value) = (c_string(name)?, c_string(value)?);
                check(rd_kafka_NewTopic_set_config(new, name.as_ptr(), value.as_ptr()), WHAT)?;
            }
        }
    }
    // SAFETY: the objects live until the request is made, which copies them; what the answer shows is copied before it goes.
    unsafe {
        let answer = ask(native, timeout, WHAT, |(options, queue)| {
            rd_kafka_CreateTopics(native.ptr(), objects.0.as_mut_ptr(), objects.0.len(), options, queue);
        })?;
        let mut count = 0;
        let result = rd_kafka_event_CreateTopics_result(answer.event());
        let results = if result.is_null() { ptr::null_mut() } else { rd_kafka_CreateTopics_result_topics(result, &mut count) };
        codes(results, count, topics.len(), WHAT)
    }
}

/// Deletes topics; as [`create_topics`].
pub fn delete_topics(native: &Native, topics: &[&str], timeout: Duration) -> Result<Vec<i32>, KafkaError> {
    const WHAT: &str = "cannot delete topics";
    let mut objects = Objects(Vec::with_capacity(topics.len()), rd_kafka_DeleteTopic_destroy);
    for topic in topics {
        let name = c_string(topic)?;
        // SAFETY: the name is copied; the object is never null.
        objects.0.push(unsafe { rd_kafka_DeleteTopic_new(name.as_ptr()) });
    }
    // SAFETY: as in `create_topics`.
    unsafe {
        let answer = ask(native, timeout, WHAT, |(options, queue)| {
            rd_kafka_DeleteTopics(native.ptr(), objects.0.as_mut_ptr(), objects.0.len(), options, queue);
        })?;
        let mut count = 0;
        let result = rd_kafka_event_DeleteTopics_result(answer.event());
        let results = if result.is_null() { ptr::null_mut() } else { rd_kafka_DeleteTopics_result_topics(result, &mut count) };
        codes(results, count, topics.len(), WHAT)
    }
}

/// Gives topics so many partitions in all; as [`create_topics`].
pub fn create_partitions(native: &Native, topics: &[(&str, i32)], timeout: Duration) -> Result<Vec<i32>, KafkaError> {
    const WHAT: &str = "cannot add partitions";
    let mut objects = Objects(Vec::with_capacity(topics.len()), rd_kafka_NewPartitions_destroy);
    for (topic, partitions) in topics {
        let name = c_string(topic)?;
        let mut error = [0 as c_char; 256];
        // SAFETY: all pointers live through the call, which copies the name.
        let new = unsafe { rd_kafka_NewPartitions_new(name.as_ptr(), (*partitions).max(1) as usize, error.as_mut_ptr(), error.len()) };
        if new.is_null() {
            return Err(KafkaError::described(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG as i32, WHAT));
        }
        objects.0.push(new);
    }
    // SAFETY: as in `create_topics`.
    unsafe {
        let answer = ask(native, timeout, WHAT, |(options, queue)| {
            rd_kafka_CreatePartitions(native.ptr(), objects.0.as_mut_ptr(), objects.0.len(), options, queue);
        })?;
        let mut count = 0;
        let result = rd_kafka_event_CreatePartitions_result(answer.event());
        let results = if result.is_null() { ptr::null_mut() } else { rd_kafka_CreatePartitions_result_topics(result, &mut count) };
        codes(results, count, topics.len(), WHAT)
    }
}

/// Deletes a group of consumers, with its offsets; the code of its result.
///
/// Errors: the cluster can't be asked.
pub fn delete_group(native: &Native, group: &str, timeout: Duration) -> Result<i32, KafkaError> {
    const WHAT: &str = "cannot delete a group";
    let name = c_string(group)?;
    // SAFETY: the name is copied; the object is never null.
    let mut objects = Objects(vec![unsafe { rd_kafka_DeleteGroup_new(name.as_ptr()) }], rd_kafka_DeleteGroup_destroy);
    // SAFETY: as in `create_topics`; a group's error is null where it has none.
    unsafe {
        let answer = ask(native, timeout, WHAT, |(options, queue)| {
            rd_kafka_DeleteGroups(native.ptr(), objects.0.as_mut_ptr(), objects.0.len(), options, queue);
        })?;
        let mut count = 0;
        let result = rd_kafka_event_DeleteGroups_result(answer.event());
        let results = if result.is_null() { ptr::null_mut() } else { rd_kafka_DeleteGroups_result_groups(result, &mut count) };
        if results.is_null() || count != 1 {
            return Err(KafkaError::described(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FAIL as i32, WHAT));
        }
        let error = rd_kafka_group_result_error(*results);
        Ok(if error.is_null() { NO_ERROR } else { rd_kafka_error_code(error) as i32 })
    }
}

/// The settings of topics, in their order; of a topic that can't be described, none.
///
/// Errors: the cluster can't be asked.
pub fn describe_topics(native: &Native, topics: &[&str], timeout: Duration) -> Result<Vec<Vec<Setting>>, KafkaError> {
    const WHAT: &str = "cannot read the topics' configs";
    let mut objects = Objects(Vec::with_capacity(topics.len()), rd_kafka_ConfigResource_destroy);
    for topic in topics {
        let name: CString = c_string(topic)?;
        // SAFETY: the name is copied; the object is never null.
        let resource = unsafe { rd_kafka_ConfigResource_new(rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC, name.as_ptr()) };
        objects.0.push(resource);
    }
    // SAFETY: as in `create_topics`; arrays and their counts belong together.
    unsafe {
        let answer = ask(native, timeout, WHAT, |(options, queue)| {
            rd_kafka_DescribeConfigs(native.ptr(), objects.0.as_mut_ptr(), objects.0.len(), options, queue);
        })?;
        let result = rd_kafka_event_DescribeConfigs_result(answer.event());
        let mut count = 0;
        let found = if result.is_null() { ptr::null_mut() } else { rd_kafka_DescribeConfigs_result_resources(result, &mut count) };
        if found.is_null() || count != topics.len() {
            return Err(KafkaError::described(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FAIL as i32, WHAT));
        }
        let settings = |resource: *const rd_kafka_ConfigResource_t| {
            let mut count = 0;
            let entries = rd_kafka_ConfigResource_configs(resource, &mut count);
            if entries.is_null() || rd_kafka_ConfigResource_error(resource) as i32 != NO_ERROR {
                return Vec::new();
            }
            let setting = |entry: &*const rd_kafka_ConfigEntry_t| {
                let value = rd_kafka_ConfigEntry_value(*entry);
                Setting {
                    name: owned(rd_kafka_ConfigEntry_name(*entry)),
                    value: (!value.is_null()).then(|| owned(value)),
                    is_own: rd_kafka_ConfigEntry_source(*entry) as i32
                        == rd_kafka_ConfigSource_t::RD_KAFKA_CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG as i32,
                }
            };
            std::slice::from_raw_parts(entries, count).iter().map(setting).collect()
        };
        Ok(std::slice::from_raw_parts(found, count).iter().map(|resource| settings(*resource)).collect())
    }
}
