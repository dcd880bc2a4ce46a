//! Events of a queue: reports, messages, rebalances.

use crate::codes;
use crate::error::KafkaError;
use crate::raw::list::entries;
use crate::raw::text::{NO_ERROR, owned, slice};
use rdkafka::bindings::*;
use std::ffi::CStr;
use std::ptr::{self, NonNull};

pub struct Event(pub(super) NonNull<rd_kafka_event_t>);

/// A delivery report as it lies in its event.
pub struct RawReport {
    pub opaque: u64,
    pub partition: i32,
    pub offset: i64,
    pub code: i32,
    pub text: Option<String>,
}

impl Event {
    pub fn kind(&self) -> i32 {
        // SAFETY: a plain number.
        unsafe { rd_kafka_event_type(self.0.as_ptr()) }
    }

    pub fn code(&self) -> i32 {
        // SAFETY: a plain number.
        unsafe { rd_kafka_event_error(self.0.as_ptr()) as i32 }
    }

    pub fn error(&self) -> KafkaError {
        // SAFETY: the text belongs to the event.
        KafkaError::new(self.code(), unsafe { owned(rd_kafka_event_error_string(self.0.as_ptr())) })
    }

    pub fn is_fatal(&self) -> bool {
        // SAFETY: a plain flag.
        unsafe { rd_kafka_event_error_is_fatal(self.0.as_ptr()) != 0 }
    }

    /// Each delivery report of a report event, in the order of the partition.
    pub fn reports(&self, mut each: impl FnMut(RawReport)) {
        // SAFETY: messages belong to the event; a null ends them.
        unsafe {
            while let Some(message) = rd_kafka_event_message_next(self.0.as_ptr()).as_ref() {
                let code = (&raw const message.err).cast::<i32>().read();
                each(RawReport {
                    opaque: message._private as usize as u64,
                    partition: message.partition,
                    offset: message.offset,
                    code,
                    // Never `rd_kafka_message_produce_errstr`: librdkafka frees that text with the answer, before the report is read.
                    // Nor `rd_kafka_message_errstr`, which is for consumers: of a report it would be the payload.
                    text: (code != NO_ERROR).then(|| codes::describe(code)),
                });
            }
        }
    }

    /// The message of a fetch event.
    pub fn message(&self) -> Option<RawMessage<'_>> {
        // SAFETY: the message belongs to the event, and the borrow says so.
        unsafe { rd_kafka_event_message_next(self.0.as_ptr()).as_ref() }.map(RawMessage)
    }

    pub fn partitions(&self) -> Vec<(String, i32, i64, i32)> {
        // SAFETY: the list belongs to the event.
        unsafe { entries(rd_kafka_event_topic_partition_list(self.0.as_ptr())) }
    }

    /// The partition an error event is about, and its offset.
    pub fn partition(&self) -> Option<(String, i32, i64)> {
        // SAFETY: a new object, or null.
        unsafe {
            let part = NonNull::new(rd_kafka_event_topic_partition(self.0.as_ptr()))?;
            let found = (owned(part.as_ref().topic), part.as_ref().partition, part.as_ref().offset);
            rd_kafka_topic_partition_destroy(part.as_ptr());
            Some(found)
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

/// A fetched message, borrowed from its event.
#[derive(Clone, Copy)]
pub struct RawMessage<'a>(pub(super) &'a rd_kafka_message_t);

impl<'a> RawMessage<'a> {
    pub fn code(self) -> i32 {
        // SAFETY: reads the number as it is.
        unsafe { (&raw const self.0.err).cast::<i32>().read() }
    }

    pub fn topic(self) -> &'a str {
        // SAFETY: the topic outlives its message; names of topics are ASCII.
        unsafe { CStr::from_ptr(rd_kafka_topic_name(self.0.rkt)) }.to_str().unwrap_or("")
    }

    pub fn partition(self) -> i32 {
        self.0.partition
    }

    pub fn offset(self) -> i64 {
        self.0.offset
    }

    pub fn key(self) -> Option<&'a [u8]> {
        // SAFETY: pointer and length belong together, as long as the message lives.
        unsafe { slice(self.0.key, self.0.key_len) }
    }

    pub fn value(self) -> Option<&'a [u8]> {
        // SAFETY: as above.
        unsafe { slice(self.0.payload, self.0.len) }
    }

    pub fn timestamp_ms(self) -> Option<i64> {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives.
        let time = unsafe { rd_kafka_message_timestamp(self.0, &mut kind) };
        (kind != rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE).then_some(time)
    }

    pub fn headers(self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        let mut list = ptr::null_mut();
        // SAFETY: the list belongs to the message.
        let found = unsafe { rd_kafka_message_headers(self.0, &mut list) } as i32 == NO_ERROR;
        let mut index = 0;
        std::iter::from_fn(move || {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: name and value belong to the message.
            unsafe {
                if !found || rd_kafka_header_get_all(list, index, &mut name, &mut value, &mut size) as i32 != NO_ERROR {
                    return None;
                }
                index += 1;
                Some((CStr::from_ptr(name).to_str().unwrap_or(""), slice(value, size)))
            }
        })
    }
}
