//! The decoders that see bytes from a network, a disk or a person, each as a function of bytes that must not panic.
//!
//! `cargo +nightly fuzz run NAME` (in `tests/fuzz`) explores; the ordinary tests replay `corpus/NAME` (`tests/tests/house/corpora.rs`).

/// A target's name and what it does with bytes.
pub const TARGETS: [(&str, fn(&[u8])); 2] =
    [("frame", millrace_engine::frame::fuzz_frame), ("mqtt_packet", millrace_mqtt::packet::fuzz_mqtt_packet)];

/// Runs one target; for `fuzz_targets`.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a fuzz target is named in TARGETS");
    target(bytes);
}
