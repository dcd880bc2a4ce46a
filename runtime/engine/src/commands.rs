//! Commands: from a Kafka topic to a device, through the device's own source, at most once.
//!
//! ```text
//! record ─ checked (known tag, type, range, step, rate, conditions, expiry) ─ intent to millrace.audit, synced ─ offset committed ─ run
//!                                                                                            answer to `reply` and millrace.audit <─┘
//! ```
//!
//! The sink of a `source:` entry is the engine's own. A command runs only after its offset is committed: the engine commits after a flush, so what a
//! flush staged runs at the next call. After a crash between the two its answer is `unknown`, never a second try: the intent's position is still there.
//! Nothing runs while `floor: {writes: allowed}` is missing: `check` refuses the file.

use crate::compile::Works;
use crate::intake::Intake;
use crate::source::Remote;
use async_trait::async_trait;
use millrace_config::factory::{self, Connector, Factory, SinkKeys};
use millrace_config::{Node, Problems, Spanned};
use millrace_contract::{
    Answer, Command, CommandValue, Failure, Flush, Flushed, Input, Model, Offset, Outcome, Partition, Records, Refused, Route, Sink,
};
use millrace_schemas::{Batch, Doc, Micros, RouteId, Span, Value};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The topic of every attempt, refused ones too.
pub const AUDIT: &str = "millrace.audit";
/// Positions of intents that have no answer yet.
const PENDING: &str = "command:";
/// A command that does not say when it expires lives this long after its Kafka timestamp.
const EXPIRES_AFTER: Duration = Duration::from_secs(10);
const FLUSH_EVERY: Duration = Duration::from_millis(50);

/// `sinks: NAME: {source: oven, topics, reply, allow}`: commands through that source's own connection.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// The source whose device takes the commands.
    pub source: Spanned<String>,
    /// The topic of the answers; none are sent without it.
    #[serde(default)]
    pub reply: Option<Spanned<String>>,
    /// Tags that commands may write, by name below the source's `at`, each with its bounds.
    #[serde(default)]
    pub allow: BTreeMap<String, Allow>,
}

/// The bounds of a tag that commands may write.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Allow {
    /// The smallest value taken.
    pub min: Option<f64>,
    /// The largest value taken.
    pub max: Option<f64>,
    /// The largest change against the last value read.
    pub step: Option<f64>,
    /// How often: `1/s`.
    pub rate: Option<millrace_config::units::Rate>,
    /// Other tags of the source, and the values they must have.
    pub only_if: BTreeMap<String, serde_json::Value>,
}

/// A compiled command sink.
#[derive(Clone, Debug)]
pub struct CommandRules {
    pub name: String,
    pub source: String,
    /// `at` of that source.
    pub at: String,
    pub topics: Vec<String>,
    pub group: String,
    pub reply: Option<String>,
    pub allow: BTreeMap<String, Allow>,
}

pub(crate) fn compile(
    factory: &Factory,
    connector: &Connector,
    keys: &SinkKeys,
    own: &Node,
    works: &Works,
    problems: &mut Problems,
) -> Option<CommandRules> {
    let config: CommandConfig = own.parse(problems)?;
    if factory.floor.writes.value != factory::Writes::Allowed {
        problems
            .error(connector.place, format!("sink {} writes to a device, and writes are forbidden", connector.name))
            .help("say `floor: {writes: allowed}` in this file if that is meant")
            .also(factory.floor.writes.place, "writes are forbidden here (or by default)");
    }
    let Some(target) = factory.sources.iter().find(|c| c.name == config.source.value) else {
        let names: Vec<&str> = works.sources.iter().map(|s| s.name.as_str()).collect();
        problems
            .error(config.source.place, format!("there is no source {}", config.source.value))
            .help(format!("sources: {}", names.join(", ")));
        return None;
    };
    for (tag, allow) in &config.allow {
        if allow.min > allow.max && allow.max.is_some() {
            problems.error(connector.place, format!("allow {tag}: min is above max"));
        }
    }
    if config.allow.is_empty() {
        problems.warn(connector.place, format!("sink {} allows no tag: every command will be refused", connector.name));
    }
    let at = target.source_keys(&mut Problems::new()).0.map(|k| k.at).unwrap_or_default();
    Some(CommandRules {
        name: connector.name.clone(),
        source: config.source.value,
        at,
        topics: keys.topics.iter().map(|t| t.value.clone()).collect(),
        group: crate::compile::group(factory, connector, keys),
        reply: config.reply.map(|r| r.value),
        allow: config.allow,
    })
}

/// Where the engine's own records go: audit, and one route per reply topic.
pub fn model(commands: &[CommandRules]) -> Model {
    let route = |topic: &str| Route { topic: topic.into(), name: "commands".to_owned(), samples: false };
    let mut routes = vec![route(AUDIT)];
    routes.extend(commands.iter().map(|c| route(c.reply.as_deref().unwrap_or(AUDIT))));
    Model { tags: Vec::new(), routes }
}

/// What is needed to run one command sink.
#[derive(Clone)]
pub struct CommandParts {
    pub rules: Arc<CommandRules>,
    /// Its place in [`model`].
    pub index: usize,
    pub remote: Remote,
    pub target: Arc<Intake>,
    /// The engine's own intake: audit and answers.
    pub own: Arc<Intake>,
}

/// A command, as it lies in Kafka.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
struct Request {
    id: String,
    tag: String,
    value: serde_json::Value,
    /// Microseconds since 1970, or RFC 3339.
    #[serde(default)]
    expires: Option<serde_json::Value>,
    #[serde(default)]
    by: Option<String>,
}

struct Staged {
    partition: Partition,
    offset: Offset,
    request: Request,
    command: Result<(Command, tokio::sync::oneshot::Receiver<Outcome>), Outcome>,
}

pub struct CommandSink {
    parts: CommandParts,
    staged: Vec<Staged>,
    /// Staged, and committed since: may run.
    ready: Vec<Staged>,
    below: HashMap<Partition, Offset>,
    last: HashMap<String, Instant>,
}

impl CommandSink {
    pub fn new(parts: CommandParts) -> Self {
        Self { parts, staged: Vec::new(), ready: Vec::new(), below: HashMap::new(), last: HashMap::new() }
    }

    /// Answers what a dead process began and never finished.
    pub async fn answer_unknown(parts: &CommandParts) {
        for (key, value) in parts.own.positions(&format!("{PENDING}{}:", parts.rules.name)) {
            let Ok(request) = serde_json::from_slice::<Request>(&value) else { continue };
            finish(parts, &request, &key, &Outcome::Unknown).await;
        }
    }

    fn key_of(&self, request: &Request) -> String {
        format!("{PENDING}{}:{}", self.parts.rules.name, request.id)
    }

    /// Checks everything that can be known now.
    fn check(&mut self, request: &Request, timestamp_ms: i64) -> Result<(Command, tokio::sync::oneshot::Receiver<Outcome>), Outcome> {
        let refuse = |reason: String| Outcome::Refused(reason);
        let rules = self.parts.rules.clone();
        let at = if rules.at.is_empty() { String::new() } else { format!("{}/", rules.at) };
        let full = |name: &str| format!("{at}{name}");
        let short = rules
            .allow
            .keys()
            .find(|name| **name == request.tag || request.tag.ends_with(&format!("/{}", full(name))) || request.tag == full(name))
            .ok_or_else(|| refuse(format!("tag {} is not allowed; `allow` of sink {} names the tags", request.tag, rules.name)))?;
        let allow = &rules.allow[short];
        let tag = self.parts.target.tag_of(&full(short)).ok_or_else(|| refuse(format!("source {} has no tag {short}", rules.source)))?;
        let expires = match &request.expires {
            None => Micros(timestamp_ms * 1000 + EXPIRES_AFTER.as_micros() as i64),
            Some(serde_json::Value::Number(n)) if n.is_i64() => Micros(n.as_i64().unwrap_or(0)),
            Some(serde_json::Value::String(text)) => text
                .parse::<jiff::Timestamp>()
                .map(|t| Micros(t.as_microsecond()))
                .map_err(|_| refuse(format!("expires {text:?} is neither microseconds since 1970 nor RFC 3339")))?,
            Some(other) => return Err(refuse(format!("expires {other} is neither microseconds since 1970 nor RFC 3339"))),
        };
        if expires <= Micros::now() {
            return Err(Outcome::Expired);
        }
        let value = command_value(&request.value).map_err(refuse)?;
        if let Some(v) = number(&request.value) {
            if allow.min.is_some_and(|min| v < min) || allow.max.is_some_and(|max| v > max) {
                let bound = |b: Option<f64>| b.map_or("any".to_owned(), |b| b.to_string());
                return Err(refuse(format!("value {v} is outside {}..{}", bound(allow.min), bound(allow.max))));
            }
            if let Some(step) = allow.step {
                let last = self.parts.target.last(tag).and_then(|(value, status)| status.is_good().then(|| as_number(value)).flatten());
                let last = last.ok_or_else(|| refuse(format!("the step to {v} can't be checked: {short} has no good value")))?;
                if (v - last).abs() > step {
                    return Err(refuse(format!("a step from {last} to {v} is larger than {step}")));
                }
            }
        }
        for (other, wanted) in &allow.only_if {
            let now = self.parts.target.tag_of(&full(other)).and_then(|tag| self.parts.target.last(tag));
            let holds = now.is_some_and(|(value, status)| status.is_good() && is_value(value, wanted));
            if !holds {
                return Err(refuse(format!("{other} is not {wanted} (or not known to be)")));
            }
        }
        if let Some(rate) = allow.rate {
            let distance = Duration::from_secs_f64(1.0 / rate.0.max(1e-9));
            let now = Instant::now();
            if self.last.get(short).is_some_and(|at| now.duration_since(*at) < distance) {
                return Err(refuse(format!("more often than {} times a second", rate.0)));
            }
            self.last.insert(short.clone(), now);
        }
        let (answer, outcome) = Answer::new();
        Ok((Command { id: request.id.clone(), tag, value, expires, answer }, outcome))
    }

    /// Sends what is committed to its source; the answers come back on tasks of their own.
    fn run_ready(&mut self) {
        for staged in self.ready.drain(..) {
            let parts = self.parts.clone();
            let key = format!("{PENDING}{}:{}", parts.rules.name, staged.request.id);
            tokio::spawn(async move {
                let outcome = match staged.command {
                    Err(outcome) => outcome,
                    Ok((command, outcome)) => {
                        let left = Duration::from_micros((command.expires.0 - Micros::now().0).max(0) as u64);
                        if parts.remote.commands.send(command).await.is_err() {
                            Outcome::Failed(format!("source {} is not running", parts.rules.source))
                        } else {
                            // The device may take a while beyond the expiry; nobody knows then whether it did.
                            let bound = left + Duration::from_secs(30);
                            tokio::time::timeout(bound, outcome).await.ok().and_then(Result::ok).unwrap_or(Outcome::Unknown)
                        }
                    }
                };
                finish(&parts, &staged.request, &key, &outcome).await;
            });
        }
    }
}

#[async_trait]
impl Sink for CommandSink {
    fn input(&self) -> Input {
        Input::Raw
    }

    fn flush_every(&self) -> Duration {
        FLUSH_EVERY
    }

    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure> {
        Ok(vec![None; parts.len()])
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        self.run_ready();
        let mut refused = Vec::new();
        for record in &records.records {
            let partition = records.partition(record).clone();
            let request = record.value.map(|v| serde_json::from_slice::<Request>(records.of(v)));
            match request {
                Some(Ok(request)) => {
                    let command = self.check(&request, record.timestamp_ms);
                    let key = self.key_of(&request);
                    let text = serde_json::to_vec(&request).unwrap_or_default();
                    let what = match &command {
                        Ok(_) => "intent",
                        Err(_) => "refused",
                    };
                    audit(&self.parts, &request, what, None, &[(&key, &text)]).await;
                    self.staged.push(Staged { partition, offset: record.offset, request, command });
                }
                bad => refused.push(Refused {
                    partition,
                    offset: record.offset,
                    reason: match bad {
                        Some(Err(e)) => format!("not a command: {e}; it takes {{id, tag, value, expires, by}}"),
                        _ => "not a command: it has no value".to_owned(),
                    },
                }),
            }
        }
        for record in &records.records {
            let below = self.below.entry(records.partition(record).clone()).or_default();
            *below = (*below).max(record.offset + 1);
        }
        Ok(refused)
    }

    async fn flush(&mut self, why: Flush) -> Result<Flushed, Failure> {
        self.run_ready();
        if why == Flush::Tick {
            self.ready.append(&mut self.staged);
        } else {
            // Whoever takes over reads these again: they never ran.
            for staged in self.staged.drain(..) {
                let below = self.below.entry(staged.partition.clone()).or_default();
                *below = (*below).min(staged.offset);
                let key = format!("{PENDING}{}:{}", self.parts.rules.name, staged.request.id);
                audit(&self.parts, &staged.request, "given back", None, &[(&key, b"")]).await;
            }
        }
        let below = self.below.drain().collect();
        Ok(Flushed { below, refused: Vec::new() })
    }

    async fn revoke(&mut self, _parts: &[Partition]) -> Result<(), Failure> {
        Ok(())
    }
}

/// Writes a line of the audit, durably, with the position that says whether an answer is owed.
async fn audit(parts: &CommandParts, request: &Request, what: &str, reason: Option<&str>, moved: &[(&str, &[u8])]) {
    let line = serde_json::json!({
        "id": request.id, "tag": request.tag, "value": request.value, "by": request.by,
        "sink": parts.rules.name, "source": parts.rules.source, "what": what, "reason": reason, "time": Micros::now().0,
    });
    let mut batch = parts.own.batch().await;
    document(&mut batch, RouteId(0), &request.tag, &line);
    let id = parts.own.send(batch, moved).await;
    parts.own.durable(millrace_contract::AckId(id.0 - 1)).await;
}

async fn finish(parts: &CommandParts, request: &Request, key: &str, outcome: &Outcome) {
    let (result, reason) = match outcome {
        Outcome::Done => ("done", None),
        Outcome::Refused(reason) => ("refused", Some(reason.as_str())),
        Outcome::Failed(reason) => ("failed", Some(reason.as_str())),
        Outcome::Expired => ("expired", None),
        Outcome::Unknown => ("unknown", Some("nobody knows whether the device took it: read the tag before trying again")),
    };
    if parts.rules.reply.is_some() {
        let answer = serde_json::json!({
            "id": request.id, "tag": request.tag, "result": result, "status": status_of(outcome), "reason": reason, "time": Micros::now().0,
        });
        let mut batch = parts.own.batch().await;
        document(&mut batch, RouteId(1 + parts.index as u32), &request.tag, &answer);
        parts.own.send(batch, &[]).await;
    }
    audit(parts, request, result, reason, &[(key, b"")]).await;
}

/// The OPC UA status of an outcome.
fn status_of(outcome: &Outcome) -> u32 {
    match outcome {
        Outcome::Done => 0,
        Outcome::Refused(_) => 0x801F_0000,
        Outcome::Failed(_) => 0x8000_0000,
        Outcome::Expired => 0x800A_0000,
        Outcome::Unknown => 0x4000_0000,
    }
}

fn document(batch: &mut Batch, route: RouteId, key: &str, value: &serde_json::Value) {
    let key = batch.push_bytes(key.as_bytes());
    let payload = batch.push_bytes(value.to_string().as_bytes());
    batch.docs.push(Doc { route, time: batch.read_time, key, headers: Span::EMPTY, payload: Some(payload), topic: Span::EMPTY });
}

fn command_value(value: &serde_json::Value) -> Result<CommandValue, String> {
    Ok(match value {
        serde_json::Value::Bool(v) => CommandValue::Bool(*v),
        serde_json::Value::String(v) => CommandValue::Text(v.clone()),
        serde_json::Value::Number(n) => n
            .as_i64()
            .map(CommandValue::Int)
            .or_else(|| n.as_u64().map(CommandValue::UInt))
            .or_else(|| n.as_f64().map(CommandValue::Double))
            .ok_or_else(|| format!("value {n} is not a number that fits"))?,
        other => return Err(format!("value {other} is neither a number, a boolean nor a text")),
    })
}

fn number(value: &serde_json::Value) -> Option<f64> {
    value.as_f64()
}

fn as_number(value: Value) -> Option<f64> {
    match value {
        Value::Int(v) => Some(v as f64),
        Value::UInt(v) => Some(v as f64),
        Value::Double(v) => Some(v),
        _ => None,
    }
}

fn is_value(value: Value, wanted: &serde_json::Value) -> bool {
    match (value, wanted) {
        (Value::Bool(v), serde_json::Value::Bool(w)) => v == *w,
        (value, wanted) => as_number(value).zip(number(wanted)).is_some_and(|(v, w)| v == w),
    }
}
