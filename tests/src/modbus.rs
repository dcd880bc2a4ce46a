//! A foreign Modbus server: PyPI's `pymodbus`, over TCP or over RTU through a pair of pseudo-terminals.

use crate::script::Script;
use crate::{free_port, peers};
use serde_json::json;
use std::path::Path;

/// Units 1 and 2, each with 100 coils and 300 registers, all 0 at first.
pub struct Pymodbus {
    script: Script,
    port: u16,
    path: String,
}

impl Pymodbus {
    pub fn tcp() -> Self {
        let port = free_port();
        Self::start(port, &json!({"port": port}))
    }

    /// On one end of a pair of pseudo-terminals; [`Pymodbus::path`] is the other.
    pub fn serial() -> Self {
        Self::start(0, &json!({"serial": true}))
    }

    /// Over TCP; unit 1 runs a program that makes `count` parts and hands each over. `retained`: where it goes on after it was killed.
    pub fn with_parts(count: u32, retained: &Path) -> Self {
        let port = free_port();
        Self::start(port, &json!({"port": port, "parts": {"count": count, "retained": retained}}))
    }

    /// Parts that were acknowledged to the program.
    pub fn taken(&mut self) -> u64 {
        self.script.order(json!({"taken": true}))["count"].as_u64().expect("a count")
    }

    fn start(port: u16, options: &serde_json::Value) -> Self {
        let mut command = peers::python(peers::pymodbus());
        command.arg(peers::scripts().join("modbus.py")).arg(options.to_string());
        let script = Script::start("pymodbus", command, "ready");
        let path = script.said().iter().find_map(|line| line["path"].as_str().map(str::to_owned)).unwrap_or_default();
        Self { script, port, path }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// Sets the values of a table: `holding`, `input`, `coil`, `discrete`.
    pub fn set(&mut self, unit: u8, table: &str, start: u16, words: &[u16]) {
        self.script.order(json!({"set": {"unit": unit, "table": table, "start": start, "words": words}}));
    }

    pub fn get(&mut self, unit: u8, table: &str, start: u16, count: u16) -> Vec<u64> {
        let done = self.script.order(json!({"get": {"unit": unit, "table": table, "start": start, "count": count}}));
        done["words"].as_array().into_iter().flatten().filter_map(|word| word.as_u64().or(word.as_bool().map(u64::from))).collect()
    }

    /// Nothing comes through the cable any more, or does again (serial alone).
    pub fn deaf(&mut self, is_deaf: bool) {
        self.script.order(json!({"deaf": is_deaf}));
    }
}
