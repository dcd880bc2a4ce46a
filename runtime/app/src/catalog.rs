//! The connectors of this build. A new connector is one line here, one dependency line, and its folder.

use millrace_contract::{Entry, Role};

/// Every type of source and sink.
pub const ENTRIES: &[Entry] = &[
    Entry::of::<millrace_generator::GeneratorPlugin>(),
    Entry::of::<millrace_file::FileSourcePlugin>(),
    Entry::of::<millrace_file::FileSinkPlugin>(),
    Entry::of::<millrace_mqtt::MqttSource>(),
    Entry::of::<millrace_mqtt::MqttSink>(),
];

/// The entries of one role.
pub fn of(role: Role) -> impl Iterator<Item = &'static Entry> {
    ENTRIES.iter().filter(move |e| e.role == role)
}
