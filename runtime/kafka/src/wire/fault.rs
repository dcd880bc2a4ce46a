//! What went wrong between us and a broker, in the words and classes of [`crate::error`].

use crate::error::KafkaError;
use crate::wire::messages::Api;
use rdkafka::bindings::rd_kafka_resp_err_t as code;
use std::fmt::Display;

/// There is no connection, or no longer: try again.
pub fn away(broker: &str, why: impl Display) -> KafkaError {
    KafkaError::new(code::RD_KAFKA_RESP_ERR__TRANSPORT as i32, format!("broker {broker} cannot be reached: {why}"))
}

/// The broker does not let us in.
pub fn denied(broker: &str, why: impl Display) -> KafkaError {
    KafkaError::new(code::RD_KAFKA_RESP_ERR__AUTHENTICATION as i32, format!("broker {broker} does not let us in: {why}"))
}

/// A certificate, a key or a name is wrong.
pub fn no_tls(why: impl Display) -> KafkaError {
    KafkaError::new(code::RD_KAFKA_RESP_ERR__SSL as i32, why.to_string())
}

/// What it sends cannot be read.
pub fn garbled(broker: &str, api: Api) -> KafkaError {
    KafkaError::new(code::RD_KAFKA_RESP_ERR__BAD_MSG as i32, format!("the answer of broker {broker} to {api} cannot be read"))
}

/// Something here, or there, is not of a kind that this client can work with.
pub fn unsupported(why: impl Display) -> KafkaError {
    KafkaError::new(code::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE as i32, why.to_string())
}

/// Nothing was answered in time.
pub fn late(what: impl Display) -> KafkaError {
    KafkaError::new(code::RD_KAFKA_RESP_ERR__TIMED_OUT as i32, what.to_string())
}

/// The broker answered with an error; `about` is the topic and partition, the transactional id, or nothing.
pub fn refused(broker: &str, api: Api, about: impl Display, number: i16) -> KafkaError {
    KafkaError::described(i32::from(number), format!("broker {broker} refuses {api} {about}").trim_end())
}

/// A batch that came from a broker is damaged.
pub fn damaged(part: impl Display, offset: i64) -> KafkaError {
    KafkaError::new(
        code::RD_KAFKA_RESP_ERR__BAD_MSG as i32,
        format!("the batch at offset {offset} of {part} is damaged, on the broker's disk or on its way"),
    )
}
