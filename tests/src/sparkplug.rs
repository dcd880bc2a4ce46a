//! Sparkplug B edge nodes from two foreign ecosystems: npm's `sparkplug-client` (Eclipse Tahu) and PyPI's `pysparkplug`.
//!
//! They differ where it hurts (UInt32 in `long_value` or `int_value`, negative Int8 and Int16, bdSeq), so tests take both.
//! Both run a small script of ours (`tests/peers/edge.js`, `edge.py`) that takes orders as lines of JSON.

use crate::{Mosquitto, Process, eventually, scratch};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};

pub struct EdgeNode {
    process: Process,
    orders: ChildStdin,
    answers: usize,
    _dir: tempfile::TempDir,
}

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
        let python = crate::peers::pysparkplug();
        let mut command = Command::new(python);
        command.env("PYTHONPATH", python.ancestors().nth(2).expect("python lies in bin").join("packages"));
        command.arg(crate::peers::scripts().join("edge.py")).args(["127.0.0.1", &broker.port().to_string(), group, node]);
        Self::start("pysparkplug", command)
    }

    fn start(name: &str, mut command: Command) -> Self {
        let dir = scratch("edge");
        let log = dir.path().join("edge.log");
        let out = File::create(&log).expect("a file can be made");
        command.stdin(Stdio::piped()).stdout(out.try_clone().expect("a file handle can be cloned")).stderr(out);
        let mut process = Process::spawn(name, command, &log);
        let orders = process.child().stdin.take().expect("its standard input is a pipe");
        let mut node = Self { process, orders, answers: 0, _dir: dir };
        eventually("the edge node connects", || {
            assert!(node.process.is_running(), "the edge node ended at its start\n{}", node.process.output());
            node.said().iter().any(|line| line["connected"] == true).then_some(())
        });
        node
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
        self.process.kill9();
    }

    /// How often a host asked for a rebirth.
    pub fn rebirths(&self) -> usize {
        self.said().iter().filter(|line| line["event"] == "rebirth requested").count()
    }

    /// Any order the scripts know; waits until it is done.
    pub fn order(&mut self, order: Value) {
        writeln!(self.orders, "{order}").unwrap_or_else(|error| panic!("the edge node is gone: {error}\n{}", self.process.output()));
        self.answers += 1;
        let done = eventually("the edge node does as it is told", || {
            assert!(self.process.is_running(), "the edge node ended\n{}", self.process.output());
            let answers = self.said().into_iter().filter(|line| line["done"].is_string() || line["failed"].is_string());
            answers.into_iter().nth(self.answers - 1)
        });
        assert!(done["done"].is_string(), "the edge node refuses {order}: {done}");
    }

    fn said(&self) -> Vec<Value> {
        self.process.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}
