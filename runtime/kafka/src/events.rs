//! What both kinds of clients do with the events that all of them get.

use crate::error::{Class, Connection, KafkaError};
use crate::properties::Settings;
use crate::raw::Native;
use rdkafka::bindings as sys;

/// What an error event says about the connection, if anything.
pub(crate) fn connection_of(error: &KafkaError) -> Option<Connection> {
    const ALL_DOWN: i32 = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN as i32;
    const RESOLVE: i32 = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__RESOLVE as i32;
    match (error.code, error.class) {
        (ALL_DOWN | RESOLVE, _) => Some(Connection::Down(error.text.clone())),
        (_, Class::Denied) => Some(Connection::Denied(error.text.clone())),
        _ => None,
    }
}

pub(crate) fn refresh_token(native: &Native, settings: &Settings) {
    let Some(source) = &settings.token else { return };
    if let Err(why) = native.set_token(source.token()) {
        tracing::error!(target: "kafka", client = settings.client_id, "cannot get a token for Kafka: {why}");
    }
}
