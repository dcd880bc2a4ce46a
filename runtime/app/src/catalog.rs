//! The connectors of this build. A new connector is one line here, one dependency line, and its folder.

use millrace_contract::{Entry, Role};

/// The certificates that `millrace pki` looks after; OPC UA alone has its own.
pub use millrace_opcua::pki::{Listed, Pki, Shelf};

/// Every type of source and sink.
pub const ENTRIES: &[Entry] = &[
    Entry::of::<millrace_generator::GeneratorPlugin>(),
    Entry::of::<millrace_file::FileSourcePlugin>(),
    Entry::of::<millrace_file::FileSinkPlugin>(),
    Entry::of::<millrace_mqtt::MqttSource>(),
    Entry::of::<millrace_mqtt::MqttSink>(),
    Entry::of::<millrace_opcua::OpcUaSource>(),
];

/// The entries of one role.
pub fn of(role: Role) -> impl Iterator<Item = &'static Entry> {
    ENTRIES.iter().filter(move |e| e.role == role)
}
