//! Where the protocol is not built in: no collector is taken from the file, so nobody asks.

use crate::{About, Message, Rejected};
use millrace_console::metrics::Family;

pub fn metrics(_: &[Family], _: &About, _started: u64, _now: u64) -> Vec<u8> {
    Vec::new()
}

pub fn logs(_: &[Message], _: &About, _now: u64) -> Vec<u8> {
    Vec::new()
}

pub fn rejected_metrics(_: &[u8]) -> Rejected {
    Rejected::default()
}

pub fn rejected_logs(_: &[u8]) -> Rejected {
    Rejected::default()
}
