//! A child that writes: it is given records, and says when they are durable.

use crate::child::Child;
use crate::config::{Program, SinkConfig};
use crate::message::{Level, Said};
use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use millrace_config::Problems;
use millrace_contract::{
    Compiled, Context, Failure, Flush, Flushed, Guarantee, Input, Model, Offset, Partition, Plan, Plugin, Record, Records, Refused, Role,
    Sink,
};
use millrace_schemas::headers;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Records in one line, and their bytes: one record may be larger.
const RECORDS: usize = 500;
const BYTES: usize = 512 << 10;

/// `type: exec` among the sinks.
pub struct ExecSink;

impl Plugin for ExecSink {
    const TYPE: &'static str = "exec";
    const ROLE: Role = Role::Sink;
    type Config = SinkConfig;

    fn compile(config: SinkConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let mark = problems.mark();
        let program = config.shared.compile(context.place, problems)?;
        let every = config.own.flush_every.0;
        if every < Duration::from_millis(10) {
            problems.error(config.own.flush_every.place, "`flush_every` is at least 10ms");
        }
        let compiled =
            Exec { program: Arc::new(program), name: context.name.clone(), site: context.site.clone(), every, model: Model::default() };
        (!problems.has_errors_since(mark)).then(|| Box::new(compiled) as _)
    }
}

struct Exec {
    program: Arc<Program>,
    name: String,
    site: String,
    every: Duration,
    model: Model,
}

impl Compiled for Exec {
    fn model(&self) -> &Model {
        &self.model
    }

    fn sink(&self) -> Option<Box<dyn Sink>> {
        let start = json!({
            "type": "start", "protocol": 1, "role": "sink", "name": self.name, "site": self.site, "config": self.program.config, "positions": {},
        });
        let (program, every) = (self.program.clone(), self.every);
        Some(Box::new(Running { program, start, every, child: None, below: HashMap::new(), flushes: 0 }))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce("what the program has not said to be durable is given to it again".into())
    }

    fn plan(&self) -> Plan {
        Plan { endpoint: self.program.words(), lines: vec![format!("asked to flush every {:?}", self.every)], rate: None }
    }
}

struct Running {
    program: Arc<Program>,
    start: Value,
    every: Duration,
    /// Started with the first partitions.
    child: Option<Child>,
    /// The offset behind what it was given of each partition.
    below: HashMap<Partition, Offset>,
    flushes: u64,
}

/// A record in a line. A value that is JSON stands as such, another in base64.
#[derive(serde::Serialize)]
struct Line<'r> {
    topic: &'r str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    headers: Map<String, Value>,
}

fn line<'r>(records: &'r Records, index: usize, record: &Record) -> Line<'r> {
    let part = records.partition(record);
    let value = records.documents.get(index).copied().flatten().or(record.value).map(|span| records.of(span));
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    // A line break inside of it would end the line.
    let json = text.and_then(|text| match text.contains(['\n', '\r']) {
        true => serde_json::from_str::<Value>(text).ok().and_then(|value| RawValue::from_string(value.to_string()).ok()),
        false => serde_json::from_str::<Box<RawValue>>(text).ok(),
    });
    let text_of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Line {
        topic: &part.topic,
        partition: part.partition,
        offset: record.offset,
        timestamp: record.timestamp_ms,
        key: record.key.map(|key| text_of(records.of(key))),
        bytes: value.filter(|_| json.is_none()).map(|value| BASE64_STANDARD.encode(value)),
        value: json,
        headers: headers(records.of(record.headers))
            .map(|(name, value)| (name.to_owned(), value.map_or(Value::Null, |value| text_of(value).into())))
            .collect(),
    }
}

impl Running {
    /// The next message that is not just said by the way.
    async fn answer(child: &mut Child, program: &Program, to: &str) -> Result<Said, Failure> {
        let wrong = |why: &str| Failure::Reconnect(format!("`{}`: {why}", program.words()));
        let heard = async {
            loop {
                match Said::parse(&child.line().await?).map_err(|why| wrong(&why))? {
                    Said::Log { level: Level::Debug, .. } => {}
                    Said::Log { message, .. } => {
                        tracing::info!(command = program.words(), "the program says: {}", message.replace(char::is_control, " "))
                    }
                    Said::Blocked { reason } => return Err(Failure::Blocked(reason)),
                    Said::Retry { reason, .. } => return Err(Failure::Reconnect(reason)),
                    said @ (Said::Ready | Said::Flushed { .. }) => return Ok(said),
                    other => return Err(wrong(&format!("a sink does not say {other:?}").chars().take(200).collect::<String>())),
                }
            }
        };
        match tokio::time::timeout(program.answer_within, heard).await {
            Ok(heard) => heard,
            Err(_) => Err(wrong(&format!("no answer to `{to}` within {:?}", program.answer_within))),
        }
    }

    async fn started(&mut self) -> Result<&mut Child, Failure> {
        if self.child.is_none() {
            let mut child = Child::start(&self.program)?;
            child.say(&self.start).await?;
            match Self::answer(&mut child, &self.program, "start").await? {
                Said::Ready => {}
                _ => {
                    return Err(Failure::Reconnect(format!("`{}` answers `start` with something else than `ready`", self.program.words())));
                }
            }
            self.child = Some(child);
        }
        Ok(self.child.as_mut().expect("just started"))
    }
}

#[async_trait]
impl Sink for Running {
    fn input(&self) -> Input {
        Input::Documents
    }

    fn flush_every(&self) -> Duration {
        self.every
    }

    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure> {
        self.started().await?;
        Ok(vec![None; parts.len()])
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        for (index, record) in records.records.iter().enumerate() {
            lines.push(line(records, index, record));
            bytes += record.value.map_or(0, |value| value.len as usize);
            if lines.len() >= RECORDS || bytes >= BYTES || index + 1 == records.records.len() {
                let message = json!({ "type": "records", "records": lines });
                self.started().await?.say(&message).await?;
                (lines, bytes) = (Vec::new(), 0);
            }
        }
        for record in &records.records {
            self.below.insert(records.partition(record).clone(), record.offset + 1);
        }
        Ok(Vec::new())
    }

    async fn flush(&mut self, why: Flush) -> Result<Flushed, Failure> {
        if self.below.is_empty() && why == Flush::Tick {
            return Ok(Flushed::default());
        }
        self.flushes += 1;
        let id = self.flushes;
        let program = self.program.clone();
        let child = self.started().await?;
        child.say(&json!({ "type": "flush", "id": id })).await?;
        let refused = match Self::answer(child, &program, "flush").await? {
            Said::Flushed { id: of, refused } if of == id => refused,
            other => return Err(Failure::Reconnect(format!("`{}` answers flush {id} with {other:?}", program.words()))),
        };
        let refused: Vec<Refused> = refused
            .into_iter()
            .map(|one| Refused {
                partition: Partition { topic: one.topic.into(), partition: one.partition },
                offset: one.offset,
                reason: one.reason,
            })
            .collect();
        if let Some(strange) = refused.iter().find(|one| self.below.get(&one.partition).is_none_or(|below| one.offset >= *below)) {
            let (topic, partition, offset) = (&strange.partition.topic, strange.partition.partition, strange.offset);
            return Err(Failure::Reconnect(format!(
                "`{}` refuses {topic} [{partition}] {offset}, which it was not given",
                program.words()
            )));
        }
        let below = self.below.iter().map(|(part, offset)| (part.clone(), *offset)).collect();
        if why == Flush::Stop
            && let Some(child) = self.child.take()
        {
            child.stop().await;
        }
        Ok(Flushed { below, refused, ..Flushed::default() })
    }

    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        self.below.retain(|part, _| !parts.contains(part));
        Ok(())
    }
}
