//! What belongs to a client and holds it alive: topics, queues; and what goes with a record.

use crate::error::KafkaError;
use crate::raw::client::{Native, Role, TopicMetadata, TransactionFault, bytes, fallible, transaction};
use crate::raw::event::Event;
use crate::raw::list::List;
use crate::raw::text::{NO_ERROR, c_string, check, millis, owned};
use rdkafka::bindings::*;
use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

impl Native {
    /// The queue all events come out of: of a consumer, with its messages.
    pub fn queue(self: &Arc<Self>) -> Queue {
        // SAFETY: both calls return a new reference; a consumer always has its queue.
        let queue = unsafe {
            match self.role {
                Role::Producer => rd_kafka_queue_get_main(self.ptr()),
                Role::Consumer => rd_kafka_queue_get_consumer(self.ptr()),
            }
        };
        Queue { queue: NonNull::new(queue).expect("every client has its queue"), native: self.clone() }
    }

    pub fn topic(self: &Arc<Self>, name: &str) -> Result<TopicHandle, KafkaError> {
        let c_name = c_string(name)?;
        // SAFETY: a null configuration means the client's own defaults.
        let rkt = unsafe { rd_kafka_topic_new(self.ptr(), c_name.as_ptr(), ptr::null_mut()) };
        match NonNull::new(rkt) {
            Some(rkt) => Ok(TopicHandle { rkt, native: self.clone() }),
            None => {
                // SAFETY: reads the calling thread's last error.
                let code = unsafe { rd_kafka_last_error() } as i32;
                Err(KafkaError::described(code, &format!("cannot use topic {name}")))
            }
        }
    }

    /// Hands a message over; its bytes are copied. The code is librdkafka's, zero when it was taken.
    #[allow(clippy::too_many_arguments)]
    pub fn produce(
        &self,
        topic: &TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp_ms: i64,
        headers: Option<HeaderList>,
        opaque: u64,
    ) -> i32 {
        let (key_ptr, key_len) = bytes(key);
        let (value_ptr, value_len) = bytes(value);
        let header_list = headers.as_ref().map_or(ptr::null_mut(), |h| h.0.as_ptr());
        // SAFETY: each tag is followed by the values librdkafka documents for it; with F_COPY nothing is kept of ours.
        let code = unsafe {
            rd_kafka_producev(
                self.ptr(),
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT,
                topic.rkt.as_ptr(),
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION,
                partition,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
                RD_KAFKA_MSG_F_COPY,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
                value_ptr,
                value_len,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
                key_ptr,
                key_len,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE,
                opaque as usize as *mut c_void,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_TIMESTAMP,
                timestamp_ms,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS,
                header_list,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
            )
        } as i32;
        if code == NO_ERROR {
            std::mem::forget(headers); // the message owns them now
        }
        code
    }

    pub fn send_offsets(&self, offsets: &List, group: &GroupHandle, timeout: Duration) -> Result<(), TransactionFault> {
        // SAFETY: as above; list and group live through the call.
        unsafe { transaction(rd_kafka_send_offsets_to_transaction(self.ptr(), offsets.0.as_ptr(), group.0.as_ptr(), millis(timeout))) }
    }

    /// Asks for a topic's partitions; `None` for every topic of the cluster. Blocks up to the timeout.
    pub fn metadata(&self, topic: Option<&TopicHandle>, timeout: Duration) -> Result<Vec<TopicMetadata>, KafkaError> {
        let mut metadata = ptr::null();
        let only = topic.map_or(ptr::null_mut(), |t| t.rkt.as_ptr());
        // SAFETY: on success the metadata is ours until destroyed; counts and arrays belong together.
        unsafe {
            check(
                rd_kafka_metadata(self.ptr(), c_int::from(topic.is_none()), only, &mut metadata, millis(timeout)),
                "cannot read the cluster's metadata",
            )
            .map_err(|error| self.refusal().unwrap_or(error))?;
            let count = usize::try_from((*metadata).topic_cnt).unwrap_or(0);
            let topics = (0..count)
                .map(|i| {
                    let topic = (*metadata).topics.add(i);
                    let partitions = usize::try_from((*topic).partition_cnt).unwrap_or(0);
                    let replicas = if partitions == 0 { 0 } else { usize::try_from((*(*topic).partitions).replica_cnt).unwrap_or(0) };
                    let error = (&raw const (*topic).err).cast::<i32>().read();
                    TopicMetadata { name: owned((*topic).topic), partitions, replicas, error }
                })
                .collect();
            rd_kafka_metadata_destroy(metadata);
            Ok(topics)
        }
    }

    pub fn group(&self) -> Option<GroupHandle> {
        // SAFETY: a new object, or null.
        NonNull::new(unsafe { rd_kafka_consumer_group_metadata(self.ptr()) }).map(GroupHandle)
    }

    /// Starts leaving the group; revocations come out of the queue until [`Native::is_closed`].
    pub fn close(&self, queue: &Queue) -> Result<(), KafkaError> {
        // SAFETY: the queue belongs to this client; the error object is ours.
        unsafe { fallible(rd_kafka_consumer_close_queue(self.ptr(), queue.queue.as_ptr())) }
    }
}

// ---- topic, headers, group ----------------------------------------------------------------------------------------------------

/// A cached topic handle: what makes sending cheap.
pub struct TopicHandle {
    pub(super) rkt: NonNull<rd_kafka_topic_t>,
    pub(super) native: Arc<Native>,
}

// SAFETY: rd_kafka_topic_t is thread-safe.
unsafe impl Send for TopicHandle {}

unsafe impl Sync for TopicHandle {}

impl TopicHandle {
    pub fn belongs_to(&self, native: &Arc<Native>) -> bool {
        Arc::ptr_eq(&self.native, native)
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd_kafka_topic_destroy(self.rkt.as_ptr()) }
    }
}

/// Headers on their way into a message.
pub struct HeaderList(pub(super) NonNull<rd_kafka_headers_t>);

impl HeaderList {
    pub fn new() -> Self {
        // SAFETY: never null.
        Self(unsafe { NonNull::new_unchecked(rd_kafka_headers_new(2)) })
    }

    pub fn push(&mut self, name: &str, value: Option<&[u8]>) {
        let (value, size) = bytes(value);
        // SAFETY: name and value are copied; lengths are given, nothing is searched for its NUL. Names longer than isize don't exist.
        unsafe { rd_kafka_header_add(self.0.as_ptr(), name.as_ptr().cast(), name.len() as isize, value, size as isize) };
    }
}

impl Drop for HeaderList {
    fn drop(&mut self) {
        // SAFETY: owned; forgotten once a message has taken it.
        unsafe { rd_kafka_headers_destroy(self.0.as_ptr()) }
    }
}

/// A consumer's membership, for a transaction that commits its offsets.
pub struct GroupHandle(pub(super) NonNull<rd_kafka_consumer_group_metadata_t>);

// SAFETY: an immutable object.
unsafe impl Send for GroupHandle {}

unsafe impl Sync for GroupHandle {}

impl Drop for GroupHandle {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) }
    }
}

// ---- events -------------------------------------------------------------------------------------------------------------------

/// Where a client's events wait.
pub struct Queue {
    pub(super) queue: NonNull<rd_kafka_queue_t>,
    pub(super) native: Arc<Native>,
}

// SAFETY: rd_kafka_queue_t is thread-safe.
unsafe impl Send for Queue {}

unsafe impl Sync for Queue {}

impl Queue {
    pub fn poll(&self, timeout: Duration) -> Option<Event> {
        // SAFETY: the event is ours.
        NonNull::new(unsafe { rd_kafka_queue_poll(self.queue.as_ptr(), millis(timeout)) }).map(Event)
    }

    /// Ends a poll that waits in another thread.
    pub fn wake(&self) {
        // SAFETY: thread-safe.
        unsafe { rd_kafka_queue_yield(self.queue.as_ptr()) }
    }

    pub fn native(&self) -> &Arc<Native> {
        &self.native
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}
