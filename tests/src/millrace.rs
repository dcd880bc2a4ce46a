//! The runtime under test: the built binary, run from a YAML text in a folder of its own.
//!
//! The binary is `$MILLRACE_BIN`, else the one beside the test binary's `deps` folder, built once per test run if need be.

pub use crate::binary::binary;
use crate::wait::{PATIENCE, late};
use crate::{Kafka, Process, eventually, free_port, http, scratch};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A factory being written: its YAML and what to put into it.
///
/// `site` (one of its own), `data_dir`, `http`, `kafka` and `schemas: {registry: none}` are written in front unless the text has them.
/// `$name` in the text is replaced by the value of `with("name", ...)`; `$dir` is the runtime's own folder.
pub struct Factory {
    dir: tempfile::TempDir,
    site: String,
    brokers: String,
    delivery: &'static str,
    values: Vec<(String, String)>,
    environment: Vec<(String, String)>,
}

impl Factory {
    /// A factory that sends to this Kafka.
    pub fn on(kafka: &Kafka) -> Self {
        Self::at(&kafka.brokers())
    }

    /// A factory that sends to these `bootstrap.servers`: a proxy's, a secured listener's, nobody's.
    pub fn at(brokers: &str) -> Self {
        let dir = scratch("millrace");
        // Cursors, positions and transactions are named after the site: one of its own keeps tests on a shared Kafka apart.
        let site = format!("acme/t{:08x}", fastrand::u32(..));
        let mut factory =
            Self { dir, site, brokers: brokers.into(), delivery: "at_least_once", values: Vec::new(), environment: Vec::new() };
        factory = factory.with("kafka", brokers);
        let own = factory.dir().display().to_string();
        factory.with("dir", own)
    }

    /// `$name` in the text becomes this value.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.values.retain(|(known, _)| known != name);
        self.values.push((name.into(), value.to_string()));
        // The longest name first: `$topic` must not eat the beginning of `$topics`.
        self.values.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        self
    }

    /// `enterprise/site`, no other test's.
    pub fn site(&self) -> &str {
        &self.site
    }

    pub fn exactly_once(mut self) -> Self {
        self.delivery = "exactly_once";
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The folder that holds `factory.yaml` and the data; files the YAML names go here.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file beside the YAML.
    pub fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.dir().join(name), text).expect("a file can be written");
        self
    }

    /// Starts the runtime and waits until it answers over HTTP.
    pub fn start(self, text: &str) -> Millrace {
        let mut millrace = self.prepare(text);
        millrace.launch();
        millrace.wait_alive();
        millrace
    }

    /// Writes everything, starts nothing.
    pub fn prepare(self, text: &str) -> Millrace {
        self.prepare_at(text, free_port())
    }

    /// As [`Factory::prepare`], where the text itself says under `http:` where it listens.
    pub fn prepare_at(self, text: &str, http: u16) -> Millrace {
        let millrace = Millrace { process: None, http, launches: 0, factory: self };
        millrace.write(text);
        millrace
    }

    fn complete(&self, text: &str, http: u16) -> String {
        let mut whole = String::new();
        let says = |key: &str| text.lines().any(|line| line.starts_with(key));
        if !says("site:") {
            whole += &format!("site: {}\n", self.site);
        }
        if !says("data_dir:") {
            whole += &format!("data_dir: {}\n", self.dir().join("data").display());
        }
        if !says("http:") {
            whole += &format!("http: {{listen: 127.0.0.1:{http}}}\n");
        }
        if !says("kafka:") {
            whole += &format!("kafka: {{brokers: \"{}\", delivery: {}}}\n", self.brokers, self.delivery);
        }
        if !says("schemas:") {
            whole += "schemas: {registry: none}\n";
        }
        whole += text;
        for (name, value) in &self.values {
            whole = whole.replace(&format!("${name}"), value);
        }
        whole
    }
}

/// A runtime, running or not. Dropping it kills it and removes its folder.
pub struct Millrace {
    process: Option<Process>,
    http: u16,
    launches: u32,
    factory: Factory,
}

impl Millrace {
    /// `enterprise/site`, no other test's.
    pub fn site(&self) -> &str {
        self.factory.site()
    }

    /// The folder of the YAML; its data lies in `data` below.
    pub fn dir(&self) -> &Path {
        self.factory.dir()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir().join("data")
    }

    pub fn http_port(&self) -> u16 {
        self.http
    }

    /// Writes another YAML for the next start.
    pub fn write(&self, text: &str) {
        std::fs::write(self.dir().join("factory.yaml"), self.factory.complete(text, self.http)).expect("a file can be written");
    }

    /// Starts it, without waiting.
    pub fn launch(&mut self) {
        self.launch_with(&[]);
    }

    /// As [`Millrace::launch`], with more words for `run`.
    pub fn launch_with(&mut self, args: &[&str]) {
        self.launches += 1;
        let mut command = self.command(&["run"]);
        command.args(args);
        command.arg("-c").arg(self.dir().join("factory.yaml"));
        self.process = Some(Process::start("millrace", command, &self.dir().join("millrace.log")));
    }

    /// Starts it behind a line of the shell, without waiting: `ulimit -n 64`.
    pub fn launch_under(&mut self, line: &str) {
        self.launches += 1;
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{line}; exec \"$0\" run -c factory.yaml")).arg(binary()).current_dir(self.dir());
        command.env("RUST_BACKTRACE", "1").envs(self.factory.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::start("millrace", command, &self.dir().join("millrace.log")));
    }

    /// Kills what runs, starts anew on the same data and waits until it answers.
    pub fn restart(&mut self) {
        self.kill9();
        self.launch();
        self.wait_alive();
    }

    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
    }

    /// SIGTERM; waits for the end, which must be a clean one.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("the runtime was started");
        process.terminate();
        let status = process.wait();
        assert!(status.success(), "millrace ended with {status}\n{}", process.output());
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the runtime was started")
    }

    /// Everything it logged, over all starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("millrace.log")).unwrap_or_default()
    }

    /// Runs another command of the binary (`check`, `plan`, `dead list`, ...) in the runtime's folder.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary starts")
    }

    /// As [`Millrace::run`], with more in its environment.
    pub fn run_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Output {
        self.command(args).envs(environment.iter().copied()).output().expect("the binary starts")
    }

    /// Types the line that a refusal names, as a person would (`.. type: millrace pki approve ..`), and returns what the command said. `why` may be JSON.
    pub fn type_line_of(&self, why: &str) -> Output {
        let line = why.split("type: millrace ").nth(1).unwrap_or_else(|| panic!("it names no line to type: {why}"));
        let words: Vec<&str> = line.split(['"', '\\']).next().unwrap_or_default().split_whitespace().collect();
        let output = self.run(&words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.dir()).env("RUST_BACKTRACE", "1");
        command.envs(self.factory.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Waits until it answers over HTTP.
    pub fn wait_alive(&mut self) {
        eventually("millrace answers over HTTP", || {
            let port = self.http;
            let process = self.process();
            assert!(process.is_running(), "millrace ended at its start\n{}", process.output());
            matches!(http::get(port, "/health/live"), Ok((200, _))).then_some(())
        });
    }

    /// `GET /status`.
    pub fn status(&self) -> serde_json::Value {
        let (code, body) = http::get(self.http, "/status").expect("millrace answers over HTTP");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("the status is not JSON: {error}: {body}"))
    }

    /// The status of one source or sink, as JSON.
    pub fn connector(&self, name: &str) -> serde_json::Value {
        let status = self.status();
        ["sources", "sinks", "connectors"]
            .iter()
            .find_map(|kind| match &status[kind] {
                serde_json::Value::Object(all) => all.get(name).cloned(),
                serde_json::Value::Array(all) => all.iter().find(|one| one["name"] == name).cloned(),
                _ => None,
            })
            .unwrap_or_else(|| panic!("no connector {name} in {status:#}"))
    }

    /// The status word of a connector: `Running`, `Blocked`, ...
    pub fn word(&self, name: &str) -> String {
        let connector = self.connector(name);
        let status = &connector["status"];
        status.as_str().or_else(|| status["word"].as_str()).unwrap_or_else(|| panic!("no status in {connector:#}")).to_owned()
    }

    pub fn wait_word(&self, name: &str, word: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.word(name) != word {
            let what = format!("{name} becomes {word}");
            assert!(Instant::now() < deadline, "{}: {:#}", late(&what, PATIENCE), self.connector(name));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn wait_running(&self, name: &str) {
        self.wait_word(name, "Running");
    }

    /// The ledger of a source.
    pub fn ledger(&self, source: &str) -> Ledger {
        let connector = self.connector(source);
        serde_json::from_value(connector["ledger"].clone()).unwrap_or_else(|error| panic!("no ledger in {connector:#}: {error}"))
    }

    /// Waits for a moment in the ledger of a source.
    pub fn wait_ledger(&self, source: &str, what: &str, ready: impl FnMut(&Ledger) -> bool) -> Ledger {
        self.wait_ledger_within(PATIENCE, source, what, ready)
    }

    /// As [`Millrace::wait_ledger`]; the deadline counts from the last change of the ledger.
    fn wait_ledger_within(&self, patience: Duration, source: &str, what: &str, mut ready: impl FnMut(&Ledger) -> bool) -> Ledger {
        let mut last = None;
        let mut deadline = Instant::now() + patience;
        loop {
            let ledger = self.ledger(source);
            if ready(&ledger) {
                return ledger;
            }
            assert!(Instant::now() < deadline, "{}: the ledger of {source} stays {ledger:?}", late(what, patience));
            if last.as_ref() != Some(&ledger) {
                deadline = Instant::now() + patience;
                last = Some(ledger);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until nothing of a source waits in its log, and checks that its ledger adds up.
    pub fn drained(&self, source: &str) -> Ledger {
        self.drained_when(source, |_| true)
    }

    /// As [`Millrace::drained`], once the ledger also satisfies `ready`: all that was sent has been received, say.
    pub fn drained_when(&self, source: &str, ready: impl Fn(&Ledger) -> bool) -> Ledger {
        let mut last = None;
        let ledger = self.wait_ledger_within(Duration::from_secs(180), source, "nothing waits", |ledger| {
            // Twice the same: nothing is on its way between two counts.
            let is_still = last.replace(ledger.clone()).as_ref() == Some(ledger);
            ledger.waiting == 0 && is_still && ready(ledger)
        });
        ledger.adds_up();
        ledger
    }

    /// The value of a metric's line in `/metrics`, its labels as they stand there.
    pub fn metrics(&self) -> String {
        http::get(self.http, "/metrics").expect("millrace answers over HTTP").1
    }
}

/// What came in and what became of it (design: every source has one, and it survives kill -9).
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
pub struct Ledger {
    pub received: u64,
    pub filtered: u64,
    pub dropped_at_intake: u64,
    pub dead_at_intake: u64,
    pub appended: u64,
    pub produced: u64,
    pub dead_at_send: u64,
    pub dropped_from_log: u64,
    pub waiting: u64,
}

impl Ledger {
    /// Both equations, to the last record.
    pub fn adds_up(&self) {
        assert_eq!(self.received, self.filtered + self.dropped_at_intake + self.dead_at_intake + self.appended, "{self:?}");
        assert_eq!(self.appended, self.produced + self.dead_at_send + self.dropped_from_log + self.waiting, "{self:?}");
    }
}
