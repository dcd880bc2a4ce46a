//! What tells a cluster and a topic from another of the same name: the cluster's id, and the id that a topic got when it was made.

use crate::error::KafkaError;
use crate::raw::admin::ask;
use crate::raw::client::Native;
use crate::raw::text::{c_string, check, millis, owned};
use rdkafka::bindings::*;
use std::ffi::CString;
use std::time::Duration;

const WHAT: &str = "cannot ask for the ids of topics";

/// The cluster's id; `None`: it has none, or said nothing in time.
pub fn cluster_id(native: &Native, timeout: Duration) -> Option<String> {
    // SAFETY: the client lives; the text is ours, and given back once it is copied.
    unsafe {
        let id = rd_kafka_clusterid(native.ptr(), millis(timeout));
        let copied = owned(id);
        if !id.is_null() {
            rd_kafka_mem_free(native.ptr(), id.cast());
        }
        Some(copied).filter(|id| !id.is_empty())
    }
}

/// The ids of topics, in their order, in Kafka's own writing of 22 letters; a broker before 2.8 has none and says nil for each.
///
/// Errors: the cluster can't be asked, or refuses one of them.
pub fn topic_ids(native: &Native, topics: &[&str], timeout: Duration) -> Result<Vec<String>, KafkaError> {
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<CString> = topics.iter().map(|topic| c_string(topic)).collect::<Result<_, _>>()?;
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the names live until the request is made, which copies them; the collection is ours and destroyed once; what the answer shows is
    // copied before it goes.
    unsafe {
        let answer = ask(native, timeout, WHAT, |(options, queue)| {
            let collection = rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            rd_kafka_DescribeTopics(native.ptr(), collection, options, queue);
            rd_kafka_TopicCollection_destroy(collection);
        })?;
        let result = rd_kafka_event_DescribeTopics_result(answer.event());
        let mut count = 0;
        let found = if result.is_null() { std::ptr::null_mut() } else { rd_kafka_DescribeTopics_result_topics(result, &mut count) };
        if found.is_null() || count != topics.len() {
            return check(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FAIL, WHAT).map(|()| Vec::new());
        }
        let mut ids = Vec::with_capacity(count);
        for topic in std::slice::from_raw_parts(found, count) {
            let error = rd_kafka_TopicDescription_error(*topic);
            if !error.is_null() {
                let name = owned(rd_kafka_TopicDescription_name(*topic));
                check(rd_kafka_error_code(error), &format!("cannot ask for the id of topic {name}"))?;
            }
            ids.push(owned(rd_kafka_Uuid_base64str(rd_kafka_TopicDescription_topic_id(*topic))));
        }
        Ok(ids)
    }
}
