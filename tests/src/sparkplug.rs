//! Sparkplug B edge nodes from two foreign ecosystems: npm's `sparkplug-client` (Eclipse Tahu) and PyPI's `pysparkplug`.
//!
//! They differ where it hurts (UInt32 in `long_value` or `int_value`, negative Int8 and Int16, bdSeq), so tests take both.
//! Both run a small script of ours (`tests/peers/edge.js`, `edge.py`) that takes orders as lines of JSON.

use crate::Mosquitto;
use crate::script::Script;
use serde_json::{Value, json};
use std::process::Command;

pub struct EdgeNode(Script);

impl EdgeNode {
    /// An edge node on npm's `sparkplug-client`, connected.
    pub fn tahu(broker: &Mosquitto, group: &str, node: &str) -> Self {
        let mut command = crate::peers::debian("node", "nodejs");
        command.arg(crate::peers::scripts().join("edge.js")).arg(crate::peers::sparkplug_client());
        command.args([&broker.url(), group, node]);
        Self::start("sparkplug-client", command)
    }

    /// An edge node on PyPI's `pysparkplug`, connected.
    pub fn pysparkplug(broker: &Mosquitto, group: &str, node: &str) -> Self {
        let mut command = crate::peers::python(crate::peers::pysparkplug());
        command.arg(crate::peers::scripts().join("edge.py")).args(["127.0.0.1", &broker.port().to_string(), group, node]);
        Self::start("pysparkplug", command)
    }

    fn start(name: &str, command: Command) -> Self {
        Self(Script::start(name, command, "connected"))
    }

    /// NBIRTH with these metrics: `[{"name": "speed", "type": "Double", "value": 1.5, "alias": 7}]`; repeated at a rebirth request.
    pub fn birth(&mut self, metrics: Value) {
        self.order(json!({"do": "birth", "metrics": metrics}));
    }

    pub fn device_birth(&mut self, device: &str, metrics: Value) {
        self.order(json!({"do": "device_birth", "device": device, "metrics": metrics}));
    }

    pub fn data(&mut self, metrics: Value) {
        self.order(json!({"do": "data", "metrics": metrics}));
    }

    pub fn device_data(&mut self, device: &str, metrics: Value) {
        self.order(json!({"do": "device_data", "device": device, "metrics": metrics}));
    }

    pub fn device_death(&mut self, device: &str) {
        self.order(json!({"do": "device_death", "device": device}));
    }

    /// Leaves a gap in the sequence numbers, as a lost message would.
    pub fn skip_seq(&mut self) {
        self.order(json!({"do": "skip_seq"}));
    }

    /// A clean end, with NDEATH.
    pub fn stop(&mut self) {
        self.order(json!({"do": "stop"}));
    }

    /// A cut cable: the broker publishes the will.
    pub fn kill9(&mut self) {
        self.0.process().kill9();
    }

    /// How often a host asked for a rebirth.
    pub fn rebirths(&self) -> usize {
        self.0.said().iter().filter(|line| line["event"] == "rebirth requested").count()
    }

    /// The commands it got: the device, or null, and the metrics.
    pub fn commands(&self) -> Vec<Value> {
        self.0.said().into_iter().filter(|line| line["event"] == "command").collect()
    }

    /// Any order the scripts know; waits until it is done.
    pub fn order(&mut self, order: Value) {
        self.0.order(order);
    }
}
