//! The decoders that see bytes from a network, a disk or a person, each as a function of bytes that must not panic.
//!
//! `cargo +nightly fuzz run NAME` (in `tests/fuzz`) explores; the ordinary tests replay `corpus/NAME` (`tests/tests/house/corpora.rs`).

/// What a target does with bytes.
pub type Target = fn(&[u8]);

/// Every target, by name.
pub const TARGETS: [(&str, Target); 35] = [
    ("avro_sample", millrace_schemas::avro::fuzz_avro_sample),
    ("config", millrace_config::fuzz::fuzz_config),
    ("document", millrace_schemas::contract::fuzz::fuzz_document),
    ("erp_metadata", millrace_erp::fuzz::fuzz_erp_metadata),
    ("erp_page", millrace_erp::fuzz::fuzz_erp_page),
    ("extract", millrace_kit::extract::fuzz_extract),
    ("frame", millrace_engine::frame::fuzz_frame),
    ("http_events", millrace_http::fuzz::fuzz_http_events),
    ("http_post", millrace_http::fuzz::fuzz_http_post),
    ("import_db", millrace_import::fuzz::fuzz_import_db),
    ("import_ignition", millrace_import::fuzz::fuzz_import_ignition),
    ("import_kepware", millrace_import::fuzz::fuzz_import_kepware),
    ("import_step7", millrace_import::fuzz::fuzz_import_step7),
    ("import_tia", millrace_import::fuzz::fuzz_import_tia),
    ("json_sample", millrace_schemas::json::fuzz_json_sample),
    ("kafka_answer", millrace_kafka::wire::fuzz::fuzz_answer),
    ("kafka_batch", millrace_broker::fuzz::fuzz_batch),
    ("kafka_request", millrace_broker::fuzz::fuzz_request),
    ("kafka_saved", millrace_broker::fuzz::fuzz_saved),
    ("log_cursors", millrace_log::fuzz::fuzz_cursors),
    ("log_segment", millrace_log::fuzz::fuzz_segment),
    ("modbus_answer", millrace_modbus::fuzz::fuzz_modbus_answer),
    ("modbus_sunspec", millrace_modbus::fuzz::fuzz_modbus_sunspec),
    ("mqtt_packet", millrace_mqtt::fuzz_mqtt_packet),
    ("mqtt_request", millrace_mqtt_sim::wire::fuzz_mqtt_request),
    ("opcua_answer", millrace_opcua::answer::fuzz_opcua_answer),
    ("opcua_dictionary", millrace_opcua::dictionary::fuzz_opcua_dictionary),
    ("opcua_value", millrace_opcua::fuzz::fuzz_opcua_value),
    ("protobuf_sample", millrace_schemas::protobuf::fuzz_protobuf_sample),
    ("registry_record", millrace_registry::fuzz::fuzz_record),
    ("registry_schema", millrace_registry::fuzz::fuzz_schema),
    ("resolved", millrace_schemas::contract::fuzz::fuzz_resolved),
    ("s7_frame", millrace_s7::frame::fuzz_s7_frame),
    ("schema", millrace_schemas::contract::fuzz::fuzz_schema),
    ("sparkplug", millrace_mqtt::sparkplug::fuzz_sparkplug),
];

/// Runs one target; for `fuzz_targets`.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a fuzz target is named in TARGETS");
    target(bytes);
}
