//! Another foreign Modbus server: a small program against Debian's `libmodbus`, which encodes its values by itself.

use crate::script::Script;
use crate::{free_port, peers};
use serde_json::json;
use std::process::Command;

/// 100 coils, 100 discrete inputs, 300 holding and 300 input registers, all 0 at first, whatever the unit.
pub struct Libmodbus {
    script: Script,
    port: u16,
}

impl Libmodbus {
    pub fn start() -> Self {
        let port = free_port();
        let mut command = Command::new(peers::libmodbus().join("server"));
        command.arg(port.to_string());
        Self { script: Script::start("libmodbus", command, "ready"), port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets the values of a table: `holding`, `input`, `coil`, `discrete`.
    pub fn set(&mut self, table: &str, start: u16, words: &[u16]) {
        self.script.order(json!({"set": {"table": table, "start": start, "words": words}}));
    }

    pub fn get(&mut self, table: &str, start: u16, count: u16) -> Vec<i64> {
        let done = self.script.order(json!({"get": {"table": table, "start": start, "count": count}}));
        done["words"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_i64).collect()
    }

    /// Sets two input registers and two holding registers by libmodbus's own function for an order on the wire: `abcd`, `badc`, `cdab`, `dcba`.
    pub fn set_float(&mut self, start: u16, order: &str, value: f32) {
        self.script.order(json!({"float": {"start": start, "order": order, "value": value}}));
    }
}
