//! The decoders that see bytes from a network, a disk or a person, each as a function of bytes that must not panic.
//!
//! `cargo +nightly fuzz run NAME` (in `tests/fuzz`) explores; the ordinary tests replay `corpus/NAME` (`tests/tests/house/corpora.rs`).

/// What a target does with bytes.
pub type Target = fn(&[u8]);

/// Every target, by name.
pub const TARGETS: [(&str, Target); 21] = [
    ("avro_sample", millrace_schemas::avro::fuzz_avro_sample),
    ("config", millrace_config::fuzz::fuzz_config),
    ("document", millrace_schemas::contract::fuzz_document),
    ("extract", millrace_kit::extract::fuzz_extract),
    ("frame", millrace_engine::frame::fuzz_frame),
    ("json_sample", millrace_schemas::json::fuzz_json_sample),
    ("kafka_batch", millrace_broker::fuzz::fuzz_batch),
    ("kafka_request", millrace_broker::fuzz::fuzz_request),
    ("kafka_saved", millrace_broker::fuzz::fuzz_saved),
    ("log_cursors", millrace_log::fuzz::fuzz_cursors),
    ("log_segment", millrace_log::fuzz::fuzz_segment),
    ("mqtt_packet", millrace_mqtt::packet::fuzz_mqtt_packet),
    ("mqtt_request", millrace_mqtt_sim::wire::fuzz_mqtt_request),
    ("opcua_dictionary", millrace_opcua::dictionary::fuzz_opcua_dictionary),
    ("opcua_value", millrace_opcua::wire::fuzz_opcua_value),
    ("protobuf_sample", millrace_schemas::protobuf::fuzz_protobuf_sample),
    ("registry_record", millrace_registry::fuzz::fuzz_record),
    ("registry_schema", millrace_registry::fuzz::fuzz_schema),
    ("resolved", millrace_schemas::contract::fuzz_resolved),
    ("schema", millrace_schemas::contract::fuzz_schema),
    ("sparkplug", millrace_mqtt::sparkplug::fuzz_sparkplug),
];

/// Runs one target; for `fuzz_targets`.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a fuzz target is named in TARGETS");
    target(bytes);
}
