//! Source and sink against the suites of every connector, with children in Python. Alone in its binary: it measures memory.

use async_trait::async_trait;
use millrace_contract::Compiled;
use millrace_exec::{ExecSink, ExecSource};
use millrace_testkit::conformance::sink::{TOPIC, numbered};
use millrace_testkit::conformance::{Device, SinkFixture, SourceFixture};
use millrace_testkit::{Received, yaml};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::Range;
use tempfile::TempDir;

#[global_allocator]
static MEMORY: millrace_testkit::CountingAllocator = millrace_testkit::CountingAllocator;

fn script(name: &str) -> String {
    format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"))
}

struct Reader;

/// A file whose lines a child hands on.
struct Lines(TempDir);

impl Lines {
    fn append(&self, text: &str) {
        let path = self.0.path().join("lines");
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }
}

#[async_trait]
impl SourceFixture for Reader {
    async fn device(&self) -> Box<dyn Device> {
        let lines = Lines(tempfile::tempdir().unwrap());
        lines.append("");
        Box::new(lines)
    }
}

#[async_trait]
impl Device for Lines {
    fn compile(&self) -> Box<dyn Compiled> {
        let text = format!("{{command: [python3, '{}'], config: {{path: '{}/lines'}}}}", script("child.py"), self.0.path().display());
        yaml::compile::<ExecSource>(&text, &yaml::context("exec", &[])).unwrap()
    }

    fn untouched(&self) -> bool {
        fs::metadata(self.0.path().join("lines")).unwrap().len() == 0
    }

    async fn emit(&mut self, numbers: Range<u64>) {
        self.append(&numbers.map(|n| format!("{n}\n")).collect::<String>());
    }

    fn number(&self, record: &Received) -> Option<u64> {
        match record {
            Received::Sample(sample) => sample.value.number(),
            _ => None,
        }
    }

    async fn emit_bad(&mut self) -> bool {
        self.append("bad\n");
        true
    }
}

millrace_testkit::source_conforms!(a_source, Reader);

struct Writer(TempDir);

#[async_trait]
impl SinkFixture for Writer {
    fn compile(&self) -> Box<dyn Compiled> {
        let text = format!("{{command: [python3, '{}'], config: {{path: '{}/out'}}}}", script("writer.py"), self.0.path().display());
        yaml::compile::<ExecSink>(&text, &yaml::context("exec", &[TOPIC])).unwrap()
    }

    fn untouched(&self) -> bool {
        fs::read_dir(self.0.path()).unwrap().next().is_none()
    }

    async fn read_back(&mut self) -> Vec<(i32, i64)> {
        let text = fs::read_to_string(self.0.path().join("out")).unwrap_or_default();
        text.lines().filter_map(numbered).collect()
    }

    fn refused(&self) -> Option<Vec<u8>> {
        Some(vec![0xFF])
    }
}

millrace_testkit::sink_conforms!(a_sink, Writer(tempfile::tempdir().unwrap()));
