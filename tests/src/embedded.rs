//! The embedded broker, alone: `millrace broker` in a process of its own.

use crate::{Process, eventually, free_port, millrace, scratch};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

pub struct Embedded {
    process: Process,
    dir: tempfile::TempDir,
    port: u16,
}

impl Embedded {
    /// The one that tests share which don't hurt it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Embedded> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub fn start() -> Self {
        let (dir, port) = (scratch("broker"), free_port());
        let mut broker = Self { process: launch(dir.path(), port), dir, port };
        broker.wait_ready();
        broker
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `bootstrap.servers`.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Kills it as a power switch would; its data stays.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Kills it, starts it again on the same port and data, and waits until it answers.
    pub fn restart(&mut self) {
        self.relaunch();
        self.wait_ready();
    }

    /// Starts it again without waiting.
    pub fn relaunch(&mut self) {
        self.process.kill9();
        self.process = launch(self.dir.path(), self.port);
    }

    /// SIGTERM; waits for the end, which must be a clean one.
    pub fn stop(&mut self) {
        self.process.terminate();
        let status = self.process.wait();
        assert!(status.success(), "the broker ended with {status}\n{}", self.process.output());
    }

    fn wait_ready(&mut self) {
        let mut config = ClientConfig::new();
        let consumer: BaseConsumer =
            config.set("bootstrap.servers", self.brokers()).set("log_level", "0").create().expect("a consumer can be made");
        eventually("the embedded broker answers", || {
            assert!(self.process.is_running(), "the broker ended at its start\n{}", self.process.output());
            consumer.fetch_metadata(None, Duration::from_secs(1)).ok().map(drop)
        });
    }
}

fn launch(dir: &std::path::Path, port: u16) -> Process {
    let mut command = Command::new(millrace::binary());
    command.arg("broker").arg("--data").arg(dir.join("data")).arg("--listen").arg(format!("127.0.0.1:{port}")).env("RUST_BACKTRACE", "1");
    Process::start("millrace broker", command, &dir.join("broker.log"))
}
