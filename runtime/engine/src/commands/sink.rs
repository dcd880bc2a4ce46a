//! The sink of commands: at most once.
//!
//! ```text
//! write: check, audit the intent (synced, with a position under "command:SINK:ID")   flush: its offset may be committed   committed: to the source
//! ```
//!
//! The engine commits after a flush, and says so; where the commit fails, commands wait for the next one. After a crash between intent and answer the
//! answer is `unknown`, never a second try: the position is still there, and a record that Kafka gives again is known by its place. Commands of one sink
//! reach the source in the order they came in.

use super::check::{self, EXPIRES_AFTER, No, Order, Tags};
use super::request::{Request, answer, said};
use super::seen::{Before, Seen, until};
use super::{AUDIT_ROUTE, CommandRules};
use crate::intake::Intake;
use crate::source::{Remote, Waiting};
use async_trait::async_trait;
use millrace_contract::{
    AckId, Answer, Command, CommandValue, Failure, Flush, Flushed, Input, Offset, Outcome, Partition, Records, Refused, Sink,
};
use millrace_schemas::{Batch, Doc, Micros, RouteId, Span, TagId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Positions of ids: of commands that have no answer yet, and of those that had one.
const PREFIX: &str = "command:";
const FLUSH_EVERY: Duration = Duration::from_millis(50);
/// The device may take so long beyond the expiry; nobody knows then whether it did.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// Commands of a sink that wait for their source at most.
const MOST_WAITING: usize = 1024;

/// What is needed to run one command sink.
#[derive(Clone)]
pub struct CommandParts {
    pub rules: Arc<CommandRules>,
    /// Its place in [`model`](super::model).
    pub index: usize,
    pub remote: Remote,
    pub target: Arc<Intake>,
    /// The engine's own intake: audit and answers.
    pub own: Arc<Intake>,
    /// The ids that came, over all instances.
    pub seen: Arc<Mutex<Seen>>,
}

impl CommandParts {
    fn position(&self, id: &str) -> String {
        format!("{PREFIX}{}:{id}", self.rules.name)
    }
}

impl Tags for Intake {
    fn tag_of(&self, path: &str) -> Option<TagId> {
        self.tag_of(path)
    }

    fn last(&self, tag: TagId) -> Option<CommandValue> {
        self.last_value(tag)
    }
}

/// An intent as its position keeps it.
#[derive(serde::Deserialize, serde::Serialize)]
struct Intent {
    #[serde(flatten)]
    request: Request,
    /// Where the command lies: `topic/partition/offset`.
    #[serde(default)]
    came: String,
}

struct Staged {
    partition: Partition,
    offset: Offset,
    request: Request,
    until: Micros,
    outcome: Result<(Command, oneshot::Receiver<Outcome>), Outcome>,
}

pub struct CommandSink {
    parts: CommandParts,
    staged: Vec<Staged>,
    /// Staged and flushed: wait for their commit.
    flushed: Vec<Staged>,
    /// Committed, and more than may wait for the source.
    too_many: Vec<Staged>,
    below: HashMap<Partition, Offset>,
    /// When each tag was last written.
    times: HashMap<String, Instant>,
    to_source: mpsc::Sender<Staged>,
}

impl CommandSink {
    pub fn new(parts: CommandParts) -> Self {
        let (to_source, waiting) = mpsc::channel(MOST_WAITING);
        tokio::spawn(dispatch(parts.clone(), waiting));
        Self {
            parts,
            staged: Vec::new(),
            flushed: Vec::new(),
            too_many: Vec::new(),
            below: HashMap::new(),
            times: HashMap::new(),
            to_source,
        }
    }

    /// Takes up the ids of earlier processes. What is returned a dead process began and never finished: [`answer_unknown`](Self::answer_unknown).
    pub fn remember(parts: &CommandParts) -> Vec<(String, Vec<u8>)> {
        let mut open = Vec::new();
        let prefix = parts.position("");
        let mut seen = parts.seen.lock();
        for (key, value) in parts.own.positions(&prefix) {
            let id = key.strip_prefix(&prefix).unwrap_or_default();
            let answered = std::str::from_utf8(&value).ok().and_then(|text| text.strip_prefix("until ")?.parse().ok());
            match (answered, serde_json::from_slice::<Intent>(&value)) {
                (Some(until), _) => seen.insert(id, "", Micros(until)),
                (None, Ok(intent)) => {
                    seen.insert(id, &intent.came, until(Micros::now()));
                    open.push((key, value));
                }
                (None, Err(_)) => {}
            }
        }
        open
    }

    pub async fn answer_unknown(parts: &CommandParts, open: Vec<(String, Vec<u8>)>) {
        for (_, value) in open {
            let Ok(intent) = serde_json::from_slice::<Intent>(&value) else { continue };
            finish(parts, &intent.request, until(Micros::now()), &Outcome::Unknown).await;
        }
    }

    /// Judges a command; nothing has happened yet.
    fn judge(&mut self, request: &Request, default_expiry: Micros, before: &Before) -> Result<Order, No> {
        if let Before::Other(place) = before {
            let place = if place.is_empty() { String::new() } else { format!(", at {place}") };
            return Err(No::Refused(format!("a command with the id {} came before{place}; none is carried out twice", request.id)));
        }
        check::check(&self.parts.rules, request, default_expiry, &*self.parts.target, &mut self.times)
    }

    /// Checks a command and writes its intent, or why it is refused, to the audit.
    async fn stage(&mut self, request: Request, partition: Partition, offset: Offset, timestamp_ms: i64) {
        let place = format!("{}/{}/{offset}", partition.topic, partition.partition);
        let before = self.parts.seen.lock().before(&request.id, &place);
        if before == Before::Same {
            // Its intent was written and its offset was not: it has its answer, or gets it as what a dead process left.
            return audit(&self.parts, &request, "given again", None, &[]).await;
        }
        let default_expiry = Micros(timestamp_ms * 1000 + EXPIRES_AFTER.as_micros() as i64);
        let judged = self.judge(&request, default_expiry, &before);
        let expires = request.expires(default_expiry).unwrap_or(default_expiry);
        let until = until(expires);
        let outcome = match judged {
            Ok(Order { tag, value, expires, conditions }) => {
                let gone: Vec<String> = self.parts.seen.lock().sweep(Micros::now()).iter().map(|id| self.parts.position(id)).collect();
                let intent = Intent { request: request.clone(), came: place.clone() };
                let (key, text) = (self.parts.position(&request.id), serde_json::to_vec(&intent).unwrap_or_default());
                let mut moved: Vec<(&str, &[u8])> = gone.iter().map(|key| (key.as_str(), &b""[..])).collect();
                moved.push((&key, &text));
                self.parts.seen.lock().insert(&request.id, &place, until);
                audit(&self.parts, &request, "intent", None, &moved).await;
                let (answer, outcome) = Answer::new();
                Ok((Command { id: request.id.clone(), tag, value, expires, conditions, answer }, outcome))
            }
            Err(No::Refused(reason)) => Err(Outcome::Refused(reason)),
            Err(No::Expired) => Err(Outcome::Expired),
        };
        self.staged.push(Staged { partition, offset, request, until, outcome });
    }

    /// Whoever takes over reads it again: it never ran.
    async fn give_back(&mut self, staged: Staged) {
        if staged.outcome.is_ok() {
            self.parts.seen.lock().forget(&staged.request.id);
        }
        let key = self.parts.position(&staged.request.id);
        let moved: &[(&str, &[u8])] = if staged.outcome.is_ok() { &[(&key, b"")] } else { &[] };
        audit(&self.parts, &staged.request, "given back", None, moved).await;
    }

    /// Answers commands for which there is no room.
    async fn refuse_too_many(&mut self) {
        for Staged { request, until, outcome, .. } in self.too_many.drain(..) {
            let source = &self.parts.rules.source;
            let outcome = match outcome {
                Ok(_) => Outcome::Failed(format!("{MOST_WAITING} commands wait for source {source} already; it was not carried out")),
                Err(outcome) => outcome,
            };
            finish(&self.parts, &request, until, &outcome).await;
        }
    }
}

/// Gives commands to the source, in order; the answers come back on tasks of their own.
async fn dispatch(parts: CommandParts, mut waiting: mpsc::Receiver<Staged>) {
    while let Some(Staged { request, until, outcome, .. }) = waiting.recv().await {
        let (command, answered) = match outcome {
            Ok(carried) => carried,
            Err(outcome) => {
                finish(&parts, &request, until, &outcome).await;
                continue;
            }
        };
        let left = |expires: Micros| Duration::from_micros((expires.0 - Micros::now().0).max(0) as u64);
        let expires = command.expires;
        let (command, ticket) = Waiting::new(command);
        let outcome = match tokio::time::timeout(left(expires), parts.remote.commands.send(command)).await {
            Err(_) => Outcome::Expired,
            Ok(Err(_)) => Outcome::Failed(format!("source {} is not running", parts.rules.source)),
            Ok(Ok(())) => {
                let parts = parts.clone();
                tokio::spawn(async move {
                    let mut answered = answered;
                    let outcome = match tokio::time::timeout(left(expires), &mut answered).await {
                        Ok(outcome) => outcome.ok(),
                        // No session took it: it can't have been carried out, and will not be.
                        Err(_) if ticket.withdraw() => Some(Outcome::Expired),
                        Err(_) => tokio::time::timeout(ANSWERS_WITHIN, answered).await.ok().and_then(Result::ok),
                    };
                    finish(&parts, &request, until, &outcome.unwrap_or(Outcome::Unknown)).await;
                });
                continue;
            }
        };
        finish(&parts, &request, until, &outcome).await;
    }
}

#[async_trait]
impl Sink for CommandSink {
    fn input(&self) -> Input {
        Input::Documents
    }

    fn flush_every(&self) -> Duration {
        FLUSH_EVERY
    }

    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure> {
        Ok(vec![None; parts.len()])
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        self.refuse_too_many().await;
        let mut refused = Vec::new();
        for (record, document) in records.records.iter().zip(&records.documents) {
            let partition = records.partition(record).clone();
            let below = self.below.entry(partition.clone()).or_default();
            *below = (*below).max(record.offset + 1);
            match document.map(|span| serde_json::from_slice::<Request>(records.of(span))) {
                Some(Ok(request)) => self.stage(request, partition, record.offset, record.timestamp_ms).await,
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
        Ok(refused)
    }

    async fn flush(&mut self, why: Flush) -> Result<Flushed, Failure> {
        self.refuse_too_many().await;
        if why == Flush::Tick {
            self.flushed.append(&mut self.staged);
        } else {
            for staged in std::mem::take(&mut self.staged) {
                let below = self.below.entry(staged.partition.clone()).or_default();
                *below = (*below).min(staged.offset);
                self.give_back(staged).await;
            }
        }
        let below = self.below.drain().collect();
        Ok(Flushed { below, ..Flushed::default() })
    }

    fn committed(&mut self, below: &[(Partition, Offset)]) {
        let is_committed = |staged: &Staged| below.iter().any(|(part, offset)| *part == staged.partition && staged.offset < *offset);
        for staged in self.flushed.extract_if(.., |staged| is_committed(staged)) {
            if let Err(full) = self.to_source.try_send(staged) {
                self.too_many.push(full.into_inner());
            }
        }
    }

    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        // What could not be committed up to now.
        let lost: Vec<Staged> = self.flushed.extract_if(.., |staged| parts.contains(&staged.partition)).collect();
        for staged in lost {
            self.give_back(staged).await;
        }
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
    document(&mut batch, AUDIT_ROUTE, &request.tag, &line);
    let id = parts.own.send(batch, moved).await;
    parts.own.durable(AckId(id.0 - 1)).await;
}

/// Answers a command and writes its end to the audit. The id of one that was taken is remembered.
async fn finish(parts: &CommandParts, request: &Request, until: Micros, outcome: &Outcome) {
    if parts.rules.reply.is_some() {
        let mut batch = parts.own.batch().await;
        document(&mut batch, RouteId(1 + parts.index as u32), &request.tag, &answer(request, outcome, Micros::now()));
        parts.own.send(batch, &[]).await;
    }
    let (key, remembered) = (parts.position(&request.id), format!("until {}", until.0));
    // One that was refused at once has no position, and leaves none.
    let is_pending = parts.own.resume(&key).is_some_and(|value| !value.starts_with(b"until "));
    let moved: &[(&str, &[u8])] = if is_pending { &[(&key, remembered.as_bytes())] } else { &[] };
    let said = said(outcome);
    audit(parts, request, said.result, said.reason, moved).await;
}

pub(crate) fn document(batch: &mut Batch, route: RouteId, key: &str, value: &serde_json::Value) {
    let key = batch.push_bytes(key.as_bytes());
    let payload = batch.push_bytes(value.to_string().as_bytes());
    batch.docs.push(Doc { route, time: batch.read_time, key, headers: Span::EMPTY, payload: Some(payload), topic: Span::EMPTY });
}
