//! A foreign S7 CPU: PyPI's `python-snap7`, whose wheel of 2.0.2 carries the native snap7; 3.3.0 is a server of its own, nothing but Python.

use crate::script::Script;
use crate::{free_port, peers};
use serde_json::{Value, json};
use std::path::Path;

/// DB1 is an oven's, 64 bytes; DB2 has 256 bytes for the test's own.
pub struct Snap7 {
    script: Script,
    port: u16,
}

impl Snap7 {
    pub fn start() -> Self {
        let port = free_port();
        Self::with(peers::snap7(), port, &json!({"port": port}))
    }

    /// The server that is nothing but Python.
    pub fn pure() -> Self {
        let port = free_port();
        Self::with(peers::snap7_pure(), port, &json!({"port": port}))
    }

    /// DB1 runs a program that makes `count` parts and hands each over. `retained`: where it goes on after it was killed.
    pub fn with_parts(count: u32, retained: &Path) -> Self {
        let port = free_port();
        Self::with(peers::snap7(), port, &json!({"port": port, "parts": {"count": count, "retained": retained}}))
    }

    fn with(python: &Path, port: u16, options: &Value) -> Self {
        let mut command = peers::python(python);
        command.arg(peers::scripts().join("s7.py")).arg(options.to_string());
        Self { script: Script::start("snap7", command, "ready"), port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets a value of DB2, encoded by snap7: `real`, `int`, `dint`, ...
    pub fn set(&mut self, at: u16, kind: &str, value: impl Into<Value>) {
        self.script.order(json!({"set": {"at": at, "type": kind, "value": value.into()}}));
    }

    /// Bytes of DB2, in hex.
    pub fn get(&mut self, at: u16, count: u16) -> String {
        self.script.order(json!({"get": {"at": at, "count": count}}))["hex"].as_str().expect("bytes").to_owned()
    }

    /// Parts that were acknowledged to the program.
    pub fn taken(&mut self) -> u64 {
        self.script.order(json!({"taken": true}))["count"].as_u64().expect("a count")
    }
}
