//! A child that reads: its batches become samples and documents, and are acknowledged when they are synced.

use crate::child::Child;
use crate::config::{Program, SourceConfig};
use crate::message::{self, Level, Reading, Said, Tag, Word};
use async_trait::async_trait;
use millrace_config::Problems;
use millrace_contract::{
    AckId, Compiled, Context, Failure, Guarantee, Loss, Model, Plan, Plugin, Role, Route, Source, SourceIo, Status, TagDef, TagOptions,
};
use millrace_schemas::{Batch, Doc, Flags, Micros, Origin, RouteId, Row, Span, StatusCode, TagId, TimeSource, Value};
use serde_json::{Map, json};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Tags that one program may have.
const TAGS_MAX: usize = 100_000;
/// Batches that may wait for their acknowledgement; then no more are read.
const UNACKED_MAX: usize = 1000;
/// How long what waits to be synced may take at a stop.
const LAST_ACKS: Duration = Duration::from_secs(1);

/// `type: exec` among the sources.
pub struct ExecSource;

impl Plugin for ExecSource {
    const TYPE: &'static str = "exec";
    const ROLE: Role = Role::Source;
    type Config = SourceConfig;

    fn compile(config: SourceConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let mark = problems.mark();
        let program = config.shared.compile(context.place, problems)?;
        let documents = &config.own.documents;
        if context.topic.is_none() && documents.is_none() {
            problems
                .error(context.place, format!("source `{}` has no topic", context.name))
                .help("add `topic:` for samples, `documents:` for documents, or both");
        }
        let routes = documents.iter().map(|topic| Route {
            topic: topic.replace('/', ".").into(),
            name: program.command.first().cloned().unwrap_or_default(),
            samples: false,
        });
        let model = Model { tags: Vec::new(), routes: routes.collect() };
        let compiled = Exec { program: Arc::new(program), context: Arc::new(context.clone()), model };
        (!problems.has_errors_since(mark)).then(|| Box::new(compiled) as _)
    }
}

#[derive(Clone)]
struct Exec {
    program: Arc<Program>,
    context: Arc<Context>,
    model: Model,
}

impl Compiled for Exec {
    fn model(&self) -> &Model {
        &self.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(self.clone()))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce("what was not acknowledged to the program is its to send again; a position is kept with the data".into())
    }

    fn keeps_positions(&self) -> bool {
        true
    }

    fn plan(&self) -> Plan {
        let mut lines = vec![format!("ready within {:?}, lines of {} bytes at most", self.program.answer_within, self.program.max_line)];
        lines.extend(self.model.routes.iter().map(|route| format!("documents to topic {}", route.topic)));
        Plan { endpoint: self.program.words(), lines, rate: None }
    }
}

/// One life of the child.
struct Session<'s> {
    exec: &'s Exec,
    io: &'s SourceIo,
    tags: HashMap<String, TagId>,
    /// Batches that wait to be synced, with the program's own numbers.
    unacked: VecDeque<(AckId, u64)>,
}

#[async_trait]
impl Source for Exec {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let mut child = Child::start(&self.program)?;
        let positions: Map<String, serde_json::Value> =
            io.positions("").into_iter().map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned().into())).collect();
        let start = json!({
            "type": "start", "protocol": 1, "role": "source", "name": self.context.name, "site": self.context.site,
            "config": self.program.config, "positions": positions,
        });
        child.say(&start).await?;
        let mut session = Session { exec: self, io: &io, tags: HashMap::new(), unacked: VecDeque::new() };
        let ended = session.run(&mut child).await;
        match ended {
            Ok(()) => {
                session.last_acks(&mut child).await;
                child.stop().await;
                Ok(())
            }
            Err(Failure::Stopped) => {
                session.last_acks(&mut child).await;
                child.stop().await;
                Err(Failure::Stopped)
            }
            Err(failure) => Err(failure),
        }
    }
}

impl Session<'_> {
    async fn run(&mut self, child: &mut Child) -> Result<(), Failure> {
        let ready = tokio::time::sleep(self.exec.program.answer_within);
        tokio::pin!(ready);
        let mut is_ready = false;
        loop {
            let oldest = self.unacked.front().map(|(ack, _)| AckId(ack.0 - 1));
            let io = self.io;
            tokio::select! {
                biased;
                () = io.stopping() => return Ok(()),
                () = &mut ready, if !is_ready => {
                    return Err(Failure::Reconnect(format!(
                        "`{}` did not say {{\"type\":\"ready\"}} within {:?}", self.exec.program.words(), self.exec.program.answer_within
                    )));
                }
                synced = async { io.durable(oldest.unwrap_or(AckId(0))).await }, if oldest.is_some() => self.acknowledge(child, synced).await?,
                line = child.line(), if self.unacked.len() < UNACKED_MAX => {
                    let line = line?;
                    let said = Said::parse(&line).map_err(|why| self.wrong(&why))?;
                    if matches!(said, Said::Ready) {
                        is_ready = true;
                    }
                    self.take(said).await?;
                }
            }
        }
    }

    fn wrong(&self, why: &str) -> Failure {
        Failure::Reconnect(format!("`{}`: {why}", self.exec.program.words()))
    }

    /// Tells the newest number only: all before it is synced, too.
    async fn acknowledge(&mut self, child: &mut Child, synced: AckId) -> Result<(), Failure> {
        let mut newest = None;
        while let Some((_, id)) = self.unacked.front().filter(|(ack, _)| *ack <= synced) {
            newest = Some(*id);
            self.unacked.pop_front();
        }
        match newest {
            Some(id) => child.say(&json!({ "type": "ack", "id": id })).await,
            None => Ok(()),
        }
    }

    async fn last_acks(&mut self, child: &mut Child) {
        if let Some((newest, _)) = self.unacked.back().copied() {
            let waiting = tokio::time::timeout(LAST_ACKS, self.io.durable(AckId(newest.0 - 1)));
            if let Ok(synced) = waiting.await {
                let _ = self.acknowledge(child, synced).await;
            }
        }
    }

    async fn take(&mut self, said: Said) -> Result<(), Failure> {
        let io = self.io;
        match said {
            Said::Ready => io.status("", Status::Running),
            Said::Tag(tag) => self.declare(tag)?,
            Said::Batch(reading) => self.send(reading).await?,
            Said::Alive { part } => io.alive(&part),
            Said::Status { part, status, reason } => io.status(
                &part,
                match status {
                    Word::Running => Status::Running,
                    Word::Degraded => Status::Degraded(reason),
                    Word::Blocked => Status::Blocked(reason),
                },
            ),
            Said::Lost { count } => io.lost(Loss::Other("program_lost"), count),
            Said::Log { level, message } => {
                let (name, message) = (self.exec.context.name.as_str(), plain(&message));
                match level {
                    Level::Debug => tracing::debug!(name, "the program says: {message}"),
                    Level::Info => tracing::info!(name, "the program says: {message}"),
                    Level::Warning => tracing::warn!(name, "the program says: {message}"),
                    Level::Error => tracing::error!(name, "the program says: {message}"),
                }
            }
            Said::Blocked { reason } => return Err(Failure::Blocked(plain(&reason))),
            Said::Retry { reason, after } => {
                let after = Duration::try_from_secs_f64(after.clamp(0.0, 3600.0)).unwrap_or_default();
                return Err(match after.is_zero() {
                    true => Failure::Reconnect(plain(&reason)),
                    false => Failure::RetryAfter(after, plain(&reason)),
                });
            }
            Said::Done => return Err(Failure::Stopped),
            Said::Flushed { .. } => return Err(self.wrong("`flushed` is a sink's answer, and this is a source")),
        }
        Ok(())
    }

    fn declare(&mut self, tag: Tag) -> Result<(), Failure> {
        let own = &self.exec.context.options;
        let options = TagOptions {
            unit: tag.unit.or_else(|| own.unit.clone()),
            description: tag.description.or_else(|| own.description.clone()),
            min: tag.min.or(own.min),
            max: tag.max.or(own.max),
            ..own.clone()
        };
        self.tag(&tag.tag, tag.kind, tag.part.into(), Arc::new(options)).map(drop)
    }

    fn tag(&mut self, name: &str, kind: Option<String>, part: Arc<str>, options: Arc<TagOptions>) -> Result<TagId, Failure> {
        if let Some(tag) = self.tags.get(name) {
            return Ok(*tag);
        }
        if name.is_empty() || name.len() > 500 || name.chars().any(char::is_control) || name.split('/').any(str::is_empty) {
            return Err(self.wrong(&format!("`{}` is no name of a tag", plain(name))));
        }
        if self.tags.len() >= TAGS_MAX {
            return Err(Failure::Blocked(format!("`{}` has more than {TAGS_MAX} tags", self.exec.program.words())));
        }
        let context = &self.exec.context;
        let topic =
            context.topic_of(&options).ok_or_else(|| Failure::Blocked(format!("source `{}` has no `topic` for samples", context.name)))?;
        let def = TagDef { path: context.tag_path(name), address: name.to_owned(), kind, topic, part, options };
        let tag = self.io.declare(def).map_err(|clash| Failure::Blocked(clash.to_string()))?;
        self.tags.insert(name.to_owned(), tag);
        Ok(tag)
    }

    async fn send(&mut self, reading: Reading) -> Result<(), Failure> {
        if !reading.documents.is_empty() && self.exec.model.routes.is_empty() {
            return Err(Failure::Blocked(format!("source `{}` sends documents; add `documents: TOPIC`", self.exec.context.name)));
        }
        let mut rows = Vec::with_capacity(reading.samples.len());
        let options = Arc::new(self.exec.context.options.clone());
        for sample in &reading.samples {
            rows.push(self.tag(&sample.tag, None, Arc::default(), options.clone())?);
        }
        // Waits while the log is full; the program waits behind it.
        let mut batch = self.io.batch().await;
        let read_time = batch.read_time;
        for (sample, tag) in reading.samples.iter().zip(rows) {
            let Some(value) = message::value(&sample.value, &mut batch) else {
                return Err(self.wrong(&format!("the value of `{}` is neither plain nor a list of one kind", plain(&sample.tag))));
            };
            let is_dated = sample.time.is_some();
            batch.rows.push(Row {
                time: sample.time.as_ref().map_or(read_time, message::Time::micros),
                server_time: Micros::NONE,
                // A value that is not good may be missing; a good one is there.
                status: if value == Value::Null && sample.status == 0 { StatusCode::BAD_NO_DATA } else { StatusCode(sample.status) },
                value,
                tag,
                flags: Flags::new(Origin::Change, if is_dated { TimeSource::Device } else { TimeSource::Gateway }),
            });
        }
        for document in &reading.documents {
            push(document, &mut batch);
        }
        let moved: Vec<(&str, &[u8])> = reading.position.iter().map(|(key, value)| (key.as_str(), value.as_bytes())).collect();
        let ack = self.io.send(batch, &moved).await;
        if let Some(id) = reading.id {
            self.unacked.push_back((ack, id));
        }
        Ok(())
    }
}

fn push(document: &message::Document, batch: &mut Batch) {
    let time = document.time.as_ref().map_or(batch.read_time, message::Time::micros);
    let key = batch.push_bytes(document.key.as_bytes());
    let headers = batch.push_headers(document.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_bytes()))));
    let payload = (!document.value.is_null()).then(|| batch.push_bytes(document.value.to_string().as_bytes()));
    batch.docs.push(Doc { route: RouteId(0), time, key, headers, payload, topic: Span::EMPTY });
}

/// A program's text for a message: one line, no control characters.
fn plain(text: &str) -> String {
    text.chars().take(1000).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
