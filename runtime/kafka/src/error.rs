//! What an error of Kafka means for the one who sent.
//!
//! ```text
//! Retry    a leader moved, a broker is away, a timeout: send the same again, nothing is wrong with it
//! Record   this one record will never be taken: too large, its timestamp, its content
//! Topic    no record of this topic will be taken until somebody acts: unknown, not authorised, against a policy
//! Denied   nothing of ours will be taken until somebody acts: login, certificate, cluster-wide or transactional authorisation
//! Fenced   another producer has taken our transactional id over
//! Fatal    the client's state is spent: make a new one, and go on from the cursor
//! ```

use crate::codes;
use rdkafka::bindings::rd_kafka_resp_err_t as code;
use std::fmt;

/// What to do about an error; the groups are explained in the head of [`crate::error`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    Retry,
    Record(RecordFault),
    Topic,
    Denied,
    Fenced,
    Fatal,
}

/// What is wrong with one record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RecordFault {
    TooLarge,
    /// The topic's `message.timestamp.*.max.ms` refuses its timestamp.
    Timestamp,
    /// The broker refuses its content: no key in a compacted topic, a failed validation.
    Invalid,
}

impl RecordFault {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Timestamp => "timestamp",
            Self::Invalid => "invalid",
        }
    }
}

/// An error of Kafka: its number, its class, and a text for a person.
#[derive(Clone, PartialEq, Debug)]
pub struct KafkaError {
    /// Kafka's own error code; negative where librdkafka itself raised it.
    pub code: i32,
    pub class: Class,
    pub text: String,
}

impl KafkaError {
    pub(crate) fn new(code: i32, text: impl Into<String>) -> Self {
        Self { code, class: classify(code), text: text.into() }
    }

    /// An error with librdkafka's own description of the code.
    pub(crate) fn described(code: i32, what: &str) -> Self {
        Self::new(code, format!("{what}: {}", codes::describe(code)))
    }

    /// Whether the topic, or the partition, is not there.
    pub fn is_unknown_topic(&self) -> bool {
        use code::{RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION, RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART};
        [RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION]
            .iter()
            .any(|unknown| *unknown as i32 == self.code)
    }

    /// Whether a consumer that begins nowhere by itself was told an offset that is not there (any more).
    pub fn is_out_of_range(&self) -> bool {
        self.code == code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET as i32
    }

    /// Whether this client, or this broker, is not made for what was wanted: another way may be.
    pub fn is_unsupported(&self) -> bool {
        self.code == code::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE as i32
    }

    /// Whether a group's offsets are not ours to set: it has members.
    pub fn is_group_in_use(&self) -> bool {
        use code::{RD_KAFKA_RESP_ERR_NON_EMPTY_GROUP, RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS, RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID};
        [RD_KAFKA_RESP_ERR_NON_EMPTY_GROUP, RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS, RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]
            .iter()
            .any(|in_use| *in_use as i32 == self.code)
    }

    /// The code's name, as Kafka writes it: `TOPIC_AUTHORIZATION_FAILED`.
    pub fn name(&self) -> &'static str {
        codes::name(self.code)
    }
}

impl fmt::Display for KafkaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.name())
    }
}

impl std::error::Error for KafkaError {}

/// The state of the connection to the cluster, as far as a client knows it.
#[derive(Clone, PartialEq, Debug)]
pub enum Connection {
    Up,
    /// No broker can be reached; with the last error. Tried again for ever.
    Down(String),
    /// A broker answers, and refuses us: login, certificate. Tried again for ever; needs a human.
    Denied(String),
}

/// Says what an error code means for the one who sent.
pub(crate) const fn classify(number: i32) -> Class {
    const MSG_SIZE_TOO_LARGE: i32 = code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE as i32;
    const RECORD_LIST_TOO_LARGE: i32 = code::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE as i32;
    const INVALID_TIMESTAMP: i32 = code::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP as i32;
    const INVALID_RECORD: i32 = code::RD_KAFKA_RESP_ERR_INVALID_RECORD as i32;
    const INVALID_MSG_SIZE: i32 = code::RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE as i32;

    const TOPIC_AUTHORIZATION_FAILED: i32 = code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as i32;
    const UNKNOWN_TOPIC_OR_PART: i32 = code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as i32;
    const LOCAL_UNKNOWN_TOPIC: i32 = code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC as i32;
    const LOCAL_UNKNOWN_PARTITION: i32 = code::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION as i32;
    const TOPIC_EXCEPTION: i32 = code::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION as i32;
    const POLICY_VIOLATION: i32 = code::RD_KAFKA_RESP_ERR_POLICY_VIOLATION as i32;
    const UNSUPPORTED_FOR_MESSAGE_FORMAT: i32 = code::RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT as i32;
    const UNSUPPORTED_COMPRESSION_TYPE: i32 = code::RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE as i32;
    const INVALID_REQUIRED_ACKS: i32 = code::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS as i32;
    const INVALID_PARTITIONS: i32 = code::RD_KAFKA_RESP_ERR_INVALID_PARTITIONS as i32;
    const INVALID_REPLICATION_FACTOR: i32 = code::RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR as i32;
    const INVALID_CONFIG: i32 = code::RD_KAFKA_RESP_ERR_INVALID_CONFIG as i32;

    const CLUSTER_AUTHORIZATION_FAILED: i32 = code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED as i32;
    const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i32 = code::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED as i32;
    const GROUP_AUTHORIZATION_FAILED: i32 = code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED as i32;
    const SASL_AUTHENTICATION_FAILED: i32 = code::RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED as i32;
    const UNSUPPORTED_SASL_MECHANISM: i32 = code::RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM as i32;
    const LOCAL_AUTHENTICATION: i32 = code::RD_KAFKA_RESP_ERR__AUTHENTICATION as i32;
    const LOCAL_SSL: i32 = code::RD_KAFKA_RESP_ERR__SSL as i32;

    const INVALID_PRODUCER_EPOCH: i32 = code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH as i32;
    const PRODUCER_FENCED: i32 = code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED as i32;
    const TRANSACTION_COORDINATOR_FENCED: i32 = code::RD_KAFKA_RESP_ERR_TRANSACTION_COORDINATOR_FENCED as i32;
    const LOCAL_FENCED: i32 = code::RD_KAFKA_RESP_ERR__FENCED as i32;
    const FENCED_INSTANCE_ID: i32 = code::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID as i32;

    const LOCAL_FATAL: i32 = code::RD_KAFKA_RESP_ERR__FATAL as i32;
    const OUT_OF_ORDER_SEQUENCE_NUMBER: i32 = code::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER as i32;
    const UNKNOWN_PRODUCER_ID: i32 = code::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID as i32;
    const INVALID_PRODUCER_ID_MAPPING: i32 = code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING as i32;
    const INVALID_TXN_STATE: i32 = code::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE as i32;
    const INVALID_TRANSACTION_TIMEOUT: i32 = code::RD_KAFKA_RESP_ERR_INVALID_TRANSACTION_TIMEOUT as i32;
    const LOCAL_STATE: i32 = code::RD_KAFKA_RESP_ERR__STATE as i32;
    const LOCAL_INVALID_ARG: i32 = code::RD_KAFKA_RESP_ERR__INVALID_ARG as i32;

    match number {
        MSG_SIZE_TOO_LARGE | RECORD_LIST_TOO_LARGE | INVALID_MSG_SIZE => Class::Record(RecordFault::TooLarge),
        INVALID_TIMESTAMP => Class::Record(RecordFault::Timestamp),
        INVALID_RECORD => Class::Record(RecordFault::Invalid),
        TOPIC_AUTHORIZATION_FAILED
        | UNKNOWN_TOPIC_OR_PART
        | LOCAL_UNKNOWN_TOPIC
        | LOCAL_UNKNOWN_PARTITION
        | TOPIC_EXCEPTION
        | POLICY_VIOLATION
        | UNSUPPORTED_FOR_MESSAGE_FORMAT
        | UNSUPPORTED_COMPRESSION_TYPE
        | INVALID_REQUIRED_ACKS
        | INVALID_PARTITIONS
        | INVALID_REPLICATION_FACTOR
        | INVALID_CONFIG => Class::Topic,
        CLUSTER_AUTHORIZATION_FAILED
        | TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        | GROUP_AUTHORIZATION_FAILED
        | SASL_AUTHENTICATION_FAILED
        | UNSUPPORTED_SASL_MECHANISM
        | LOCAL_AUTHENTICATION
        | LOCAL_SSL
        | INVALID_TRANSACTION_TIMEOUT => Class::Denied,
        INVALID_PRODUCER_EPOCH | PRODUCER_FENCED | TRANSACTION_COORDINATOR_FENCED | LOCAL_FENCED | FENCED_INSTANCE_ID => Class::Fenced,
        LOCAL_FATAL
        | OUT_OF_ORDER_SEQUENCE_NUMBER
        | UNKNOWN_PRODUCER_ID
        | INVALID_PRODUCER_ID_MAPPING
        | INVALID_TXN_STATE
        | LOCAL_STATE
        | LOCAL_INVALID_ARG => Class::Fatal,
        _ => Class::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_an_outage() {
        for (number, class) in [
            (code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, Class::Record(RecordFault::TooLarge)),
            (code::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, Class::Record(RecordFault::Timestamp)),
            (code::RD_KAFKA_RESP_ERR_INVALID_RECORD, Class::Record(RecordFault::Invalid)),
            (code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Class::Topic),
            (code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, Class::Retry),
            (code::RD_KAFKA_RESP_ERR__INVALID_DIFFERENT_RECORD, Class::Retry),
            (code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, Class::Retry),
            (code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED, Class::Fenced),
            (code::RD_KAFKA_RESP_ERR__AUTHENTICATION, Class::Denied),
        ] {
            assert_eq!(classify(number as i32), class, "{number:?}");
        }
    }

    #[test]
    fn a_code_of_a_newer_broker_has_a_text_too() {
        assert_eq!(classify(30_000), Class::Retry);
        assert!(KafkaError::described(30_000, "cannot send").to_string().contains("30000"));
    }
}
