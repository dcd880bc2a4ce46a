//! A connector in one file, to begin a new one from: `type: lines`, devices on one TCP connection that answer `?NAME` with a number.
//!
//! What is the protocol's own is in `Lines` (addresses), `Source::session` (the conversation) and the sink; the rest is the kit's. A real one is a
//! folder `connectors/NAME` with a line in the workspace's dependencies and one in `runtime/app/src/catalog.rs`; it splits into modules that answer
//! one question each (address, wire, session), has frame vectors, a fuzz target for what it decodes, a simulator, and this suite.

use async_trait::async_trait;
use millrace_config::{Problems, Shorthand, Spanned};
use millrace_contract::plugin::Compiled;
use millrace_contract::{
    Context, Failure, Flush, Flushed, Guarantee, Input, Model, Offset, Partition, Plan, Plugin, Records, Refused, Role, Sink, Source,
    SourceIo, Status,
};
use millrace_kit::groups::{GroupConfig, NoKeys};
use millrace_kit::polled::{self, push_bad};
use millrace_kit::{Addressed, Cycles, Polled, Protocol, TagAt};
use millrace_schemas::{Flags, Micros, Origin, Row, StatusCode, TagId, TimeSource, Value};
use millrace_testkit::conformance::{Device, SinkFixture, SourceFixture, sink};
use millrace_testkit::{CountingAllocator, FaultProxy, Received, yaml};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A device that answers lines with lines.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LinesConfig {
    /// The device, `host:port`.
    endpoint: Spanned<String>,
    /// What to read, and how.
    #[serde(default)]
    groups: Vec<Spanned<GroupConfig<LineTag>>>,
}

/// One tag.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LineTag {
    /// The name that the device knows it by.
    ask: Spanned<String>,
}

impl Shorthand for LineTag {
    const KEY: &'static str = "ask";
}

struct Lines;

impl Protocol for Lines {
    type Tag = LineTag;
    type Group = NoKeys;
    type Device = NoKeys;
    type Address = String;
    const EXAMPLE: &'static str = "speed: n1";

    fn address(&self, tag: &TagAt<'_, Self>, problems: &mut Problems) -> Option<Addressed<String>> {
        let ask = &tag.tag.own.ask;
        if ask.is_empty() || ask.contains(char::is_whitespace) {
            problems.error(ask.place, format!("`{}` is no name of a value", ask.value)).help("write `n1`");
            return None;
        }
        Some(Addressed { address: ask.value.clone(), written: ask.value.clone(), kind: Some("i64".into()), shape: None })
    }
}

impl Plugin for Lines {
    const TYPE: &'static str = "lines";
    const ROLE: Role = Role::Source;
    type Config = LinesConfig;

    fn compile(config: LinesConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let mark = problems.mark();
        let polled = polled::compile(&Lines, &config.groups, &BTreeMap::new(), context, problems);
        let compiled = LinesSource { endpoint: config.endpoint.value, model: polled.model(), polled: Arc::new(polled) };
        (!problems.has_errors_since(mark)).then(|| Box::new(compiled) as _)
    }
}

#[derive(Clone)]
struct LinesSource {
    endpoint: String,
    model: Model,
    polled: Arc<Polled<String, NoKeys, NoKeys>>,
}

impl Compiled for LinesSource {
    fn model(&self) -> &Model {
        &self.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(self.clone()))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtMostOnce("polled: what changes between two polls, or while nobody polls, is not seen".into())
    }

    fn plan(&self) -> Plan {
        let line = |group: &polled::Group<NoKeys>| format!("{}: {} values every {:?}", group.part, group.tags.len(), group.every);
        Plan { endpoint: self.endpoint.clone(), lines: self.polled.groups.iter().map(line).collect(), rate: Some(self.polled.rate()) }
    }
}

/// How long the device may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

impl LinesSource {
    /// Asks for one value. A value that the device refuses is data; a device that is silent or gone ends the session.
    async fn ask(&self, stream: &mut BufReader<TcpStream>, what: &str) -> Result<Result<i64, StatusCode>, Failure> {
        let lost = |error: std::io::Error| Failure::Reconnect(format!("cannot read {what} from {}: {error}", self.endpoint));
        let mut line = String::new();
        let asked = async {
            stream.get_mut().write_all(format!("?{what}\n").as_bytes()).await?;
            stream.read_line(&mut line).await
        };
        match tokio::time::timeout(ANSWER_WITHIN, asked).await {
            Err(_) => Err(Failure::Reconnect(format!("no answer to {what} from {} within {ANSWER_WITHIN:?}", self.endpoint))),
            Ok(Ok(0)) => Err(Failure::Reconnect(format!("{} closed the connection", self.endpoint))),
            Ok(Ok(_)) => Ok(line.trim().parse().map_err(|_| StatusCode::BAD_DEVICE_FAILURE)),
            Ok(Err(error)) => Err(lost(error)),
        }
    }

    async fn read(&self, io: &SourceIo, ids: &[TagId]) -> Result<(), Failure> {
        let connecting = tokio::time::timeout(ANSWER_WITHIN, TcpStream::connect(&self.endpoint)).await;
        let stream = match connecting {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Failure::Reconnect(format!("cannot connect to {}: {error}", self.endpoint))),
            Err(_) => return Err(Failure::Reconnect(format!("no connection to {} within {ANSWER_WITHIN:?}", self.endpoint))),
        };
        let mut stream = BufReader::new(stream);
        let mut cycles = Cycles::new(self.polled.groups.iter().map(|group| (group.every, group.align)));
        let mut is_running = false;
        loop {
            let due = cycles.due().await;
            due.count_skipped(io, |group| self.polled.groups[group].tags.len());
            let mut batch = io.batch().await;
            for group in due.groups.iter().map(|group| &self.polled.groups[*group]) {
                for index in group.tags.clone() {
                    match self.ask(&mut stream, &self.polled.tags[index].address).await? {
                        Ok(number) => batch.rows.push(Row {
                            time: batch.read_time,
                            server_time: Micros::NONE,
                            value: Value::Int(number),
                            tag: ids[index],
                            status: StatusCode::GOOD,
                            flags: Flags::new(Origin::Poll, TimeSource::Gateway),
                        }),
                        Err(status) => push_bad(&ids[index..=index], status, &mut batch),
                    }
                }
                io.alive(&group.part);
            }
            io.send(batch, &[]).await;
            if !std::mem::replace(&mut is_running, true) {
                io.status("", Status::Running);
            }
        }
    }
}

#[async_trait]
impl Source for LinesSource {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let ids = self.polled.declare(&io);
        tokio::select! {
            biased;
            () = io.stopping() => Ok(()),
            ended = self.read(&io, &ids) => ended,
        }
    }
}

/// A sink that appends lines to a file. It holds back nothing between `write` and `flush` but what is in its buffer.
#[derive(Clone)]
struct LinesSink {
    path: PathBuf,
    model: Model,
    written: BTreeMap<i32, (Partition, Offset)>,
    buffer: Vec<u8>,
}

impl Compiled for LinesSink {
    fn model(&self) -> &Model {
        &self.model
    }

    fn sink(&self) -> Option<Box<dyn Sink>> {
        Some(Box::new(self.clone()))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce("what was written and not committed is written again".into())
    }

    fn plan(&self) -> Plan {
        Plan { endpoint: self.path.display().to_string(), ..Plan::default() }
    }
}

#[async_trait]
impl Sink for LinesSink {
    fn input(&self) -> Input {
        Input::Raw
    }

    fn flush_every(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure> {
        Ok(vec![None; parts.len()])
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        let mut refused = Vec::new();
        for record in &records.records {
            let partition = records.partition(record).clone();
            match record.value.map(|value| std::str::from_utf8(records.of(value))) {
                Some(Ok(text)) => self.buffer.extend_from_slice(format!("{text}\n").as_bytes()),
                _ => refused.push(Refused { partition: partition.clone(), offset: record.offset, reason: "not a text".into() }),
            }
            self.written.insert(partition.partition, (partition, record.offset + 1));
        }
        Ok(refused)
    }

    async fn flush(&mut self, _: Flush) -> Result<Flushed, Failure> {
        let failed = |error: std::io::Error| Failure::Reconnect(format!("cannot write {}: {error}", self.path.display()));
        let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(&self.path).await.map_err(failed)?;
        file.write_all(&self.buffer).await.map_err(failed)?;
        file.sync_data().await.map_err(failed)?;
        self.buffer.clear();
        Ok(Flushed { below: self.written.values().cloned().collect(), ..Flushed::default() })
    }

    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        self.written.retain(|_, (partition, _)| !parts.contains(partition));
        Ok(())
    }
}

// What a connector's tests add: a device to talk to, and the suite.

#[global_allocator]
static MEMORY: CountingAllocator = CountingAllocator;

/// A device with as many values as the suite has numbers; each is -1 until it is said.
struct Bench {
    said: Arc<parking_lot::Mutex<BTreeMap<u64, u64>>>,
    cable: FaultProxy,
}

const NUMBERS: u64 = 1_100;

struct Fixture;

#[async_trait]
impl SourceFixture for Fixture {
    async fn device(&self) -> Box<dyn Device> {
        let said: Arc<parking_lot::Mutex<BTreeMap<u64, u64>>> = Arc::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let cable = FaultProxy::to(listener.local_addr().expect("is bound").to_string()).await;
        let answers = said.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let said = answers.clone();
                tokio::spawn(async move {
                    let mut lines = BufReader::new(stream);
                    let mut line = String::new();
                    while matches!(lines.read_line(&mut line).await, Ok(1..)) {
                        let number = line.trim().trim_start_matches("?n").parse().unwrap_or(u64::MAX);
                        let answer = match said.lock().get(&number) {
                            Some(&u64::MAX) => "broken".to_owned(),
                            Some(number) => number.to_string(),
                            None => "-1".to_owned(),
                        };
                        let _ = lines.get_mut().write_all(format!("{answer}\n").as_bytes()).await;
                        line.clear();
                    }
                });
            }
        });
        Box::new(Bench { said, cable })
    }
}

#[async_trait]
impl Device for Bench {
    fn compile(&self) -> Box<dyn Compiled> {
        let tags: String = (0..=NUMBERS).map(|n| format!("n{n}: n{n}, ")).collect();
        let text = format!("{{endpoint: '{}', groups: [{{every: 20ms, tags: {{{tags}}}}}]}}", self.cable.addr());
        yaml::compile::<Lines>(&text, &yaml::context("lines", &[])).unwrap_or_else(|problems| panic!("{problems}"))
    }

    async fn emit(&mut self, numbers: Range<u64>) {
        self.said.lock().extend(numbers.map(|n| (n, n)));
    }

    fn number(&self, record: &Received) -> Option<u64> {
        match record {
            Received::Sample(sample) => sample.value.number(),
            _ => None,
        }
    }

    fn cable(&self) -> Option<&FaultProxy> {
        Some(&self.cable)
    }

    async fn emit_bad(&mut self) -> bool {
        self.said.lock().insert(NUMBERS, u64::MAX);
        true
    }
}

millrace_testkit::source_conforms!(a_source, Fixture);

struct Target(tempfile::TempDir);

#[async_trait]
impl SinkFixture for Target {
    fn compile(&self) -> Box<dyn Compiled> {
        let path = self.0.path().join("lines");
        Box::new(LinesSink { path, model: Model::default(), written: BTreeMap::new(), buffer: Vec::new() })
    }

    async fn read_back(&mut self) -> Vec<(i32, i64)> {
        let text = std::fs::read_to_string(self.0.path().join("lines")).unwrap_or_default();
        text.lines().filter_map(sink::numbered).collect()
    }

    fn refused(&self) -> Option<Vec<u8>> {
        Some(vec![0xFF])
    }
}

millrace_testkit::sink_conforms!(a_sink, Target(tempfile::tempdir().expect("a folder")));
