//! The connectors of this build. A new connector is one line here, one dependency line, and its folder.

use millrace_contract::{Entry, Role};

/// The certificates that `millrace pki` looks after; OPC UA alone has its own.
pub use millrace_opcua::pki::{CertificateInfo, Pki, TrustList};

/// Every type of source and sink.
pub const ENTRIES: &[Entry] = &[
    Entry::of::<millrace_generator::GeneratorPlugin>(),
    Entry::of::<millrace_exec::ExecSource>(),
    Entry::of::<millrace_exec::ExecSink>(),
    Entry::of::<millrace_file::FileSourcePlugin>(),
    Entry::of::<millrace_file::FileSinkPlugin>(),
    Entry::of::<millrace_erp::ErpSourcePlugin>(),
    Entry::of::<millrace_erp::ErpSinkPlugin>(),
    Entry::of::<millrace_http::HttpSource>(),
    Entry::of::<millrace_http::PollSource>(),
    Entry::of::<millrace_http::SseSource>(),
    Entry::of::<millrace_http::WebSocketSource>(),
    Entry::of::<millrace_influx::InfluxSink>(),
    Entry::of::<millrace_modbus::ModbusSource>(),
    Entry::of::<millrace_kafka_sink::KafkaSink>(),
    Entry::of::<millrace_lake::LakeSink>(),
    Entry::of::<millrace_mqtt::MqttSource>(),
    Entry::of::<millrace_mqtt::MqttSink>(),
    Entry::of::<millrace_opcua::OpcUaSource>(),
    Entry::of::<millrace_s7::S7SourcePlugin>(),
    #[cfg(feature = "sql")]
    Entry::of::<millrace_sql::SqlSink>(),
    #[cfg(feature = "sql")]
    Entry::of::<millrace_sql::SqlSource>(),
];

/// The entries of one role.
pub fn of(role: Role) -> impl Iterator<Item = &'static Entry> {
    ENTRIES.iter().filter(move |e| e.role == role)
}
