//! The engine's side of a source, in memory, under the test's control.
//!
//! ```text
//! source --send--> sent --(sync: by itself, or when the test says)--> durable --> durable(after) resolves
//!                   |                                                   |
//!                   +-- power_cut() drops what is not durable           +-- survives, with its positions
//! ```
//!
//! What was sent is kept as owned records, to be compared; positions are folded as the engine folds them.

use crate::DEADLINE;
use async_trait::async_trait;
use millrace_contract::{
    AckId, Answer, Clash, Command, CommandValue, Compiled, Condition, Loss, Must, Outcome, Route, SourceHost, SourceIo, Status, TagDef,
};
use millrace_schemas::record::{Array, Doc, Reject, Row, headers};
use millrace_schemas::{Batch, Kind, Micros, Origin, StatusCode, TagId, TimeSource, Value};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot, watch};

/// A value that owns its bytes.
#[derive(Clone, PartialEq, Debug)]
pub enum Owned {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Items, and the dimensions of a matrix.
    Array(Vec<Owned>, Vec<i32>),
    Struct(String),
}

impl Owned {
    pub fn of(value: Value, heap: &[u8]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("a text in a batch is UTF-8");
        match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(b),
            Value::Int(n) => Self::Int(n),
            Value::UInt(n) => Self::UInt(n),
            Value::Double(x) => Self::Double(x),
            Value::Text(span) => Self::Text(text(span.of(heap))),
            Value::Bytes(span) => Self::Bytes(span.of(heap).to_vec()),
            Value::Struct(span) => Self::Struct(text(span.of(heap))),
            Value::Array(kind, span) => {
                let array = Array::read(kind, span, heap).expect("an array in a batch is whole");
                let items = match kind {
                    Kind::Bool => array.bools().map(Self::Bool).collect(),
                    Kind::Int => array.words().map(|w| Self::Int(i64::from_le_bytes(w))).collect(),
                    Kind::UInt => array.words().map(|w| Self::UInt(u64::from_le_bytes(w))).collect(),
                    Kind::Double => array.words().map(|w| Self::Double(f64::from_le_bytes(w))).collect(),
                    Kind::Text => array.blobs().map(|b| Self::Text(text(b))).collect(),
                    Kind::Bytes => array.blobs().map(|b| Self::Bytes(b.to_vec())).collect(),
                };
                Self::Array(items, array.dims().collect())
            }
        }
    }

    /// The value as a whole number, where it is one.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Int(n) => u64::try_from(*n).ok(),
            Self::UInt(n) => Some(*n),
            Self::Double(x) if x.fract() == 0.0 && *x >= 0.0 => Some(*x as u64),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// One sample as the source sent it.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Path below the site.
    pub tag: String,
    pub topic: String,
    pub value: Owned,
    pub time: Micros,
    pub server_time: Micros,
    pub read_time: Micros,
    pub status: StatusCode,
    pub origin: Origin,
    pub time_source: TimeSource,
}

/// One document as the source sent it.
#[derive(Clone, PartialEq, Debug)]
pub struct Document {
    pub route: u32,
    pub topic: String,
    pub time: Micros,
    pub key: Vec<u8>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub payload: Option<Vec<u8>>,
}

impl Document {
    pub fn text(&self) -> &str {
        std::str::from_utf8(self.payload.as_deref().unwrap_or_default()).unwrap_or("<not utf-8>")
    }
}

/// What the source could not decode, as it sent it.
#[derive(Clone, PartialEq, Debug)]
pub struct Rejected {
    pub route: u32,
    pub key: Vec<u8>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub payload: Vec<u8>,
    pub reason: String,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Received {
    Sample(Sample),
    Document(Document),
    Rejected(Rejected),
}

struct Sent {
    records: Vec<Received>,
    moved: Vec<(String, Vec<u8>)>,
}

#[derive(Default)]
struct State {
    routes: Vec<Route>,
    tags: Vec<TagDef>,
    retired: Vec<TagId>,
    by_path: HashMap<String, TagId>,
    /// Batch `i` has AckId `i + 1`.
    sent: Vec<Sent>,
    /// AckIds up to here are synced.
    synced: u64,
    withheld: bool,
    full: bool,
    stopping: bool,
    /// Count only, keep nothing: for loads.
    discard: bool,
    discarded: u64,
    positions: BTreeMap<String, Vec<u8>>,
    recycled: Vec<Batch>,
    lost: BTreeMap<&'static str, u64>,
    dropped: BTreeMap<&'static str, u64>,
    alive: BTreeMap<String, u64>,
    gone: Vec<String>,
    status: BTreeMap<String, Vec<Status>>,
}

/// The stand-in of the engine for one source. Clones share it.
#[derive(Clone)]
pub struct TestHost(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Counts changes of the state; waiting is waiting for the next one.
    changes: watch::Sender<u64>,
    commands: mpsc::UnboundedSender<Command>,
    commands_in: AsyncMutex<mpsc::UnboundedReceiver<Command>>,
}

impl Default for TestHost {
    fn default() -> Self {
        Self::new()
    }
}

impl TestHost {
    pub fn new() -> Self {
        let (commands, commands_in) = mpsc::unbounded_channel();
        Self(Arc::new(Inner {
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            commands,
            commands_in: AsyncMutex::new(commands_in),
        }))
    }

    /// A host that knows the routes of a compiled source.
    pub fn of(compiled: &dyn Compiled) -> Self {
        let host = Self::new();
        host.0.state.lock().routes = compiled.model().routes.clone();
        host
    }

    pub fn io(&self) -> SourceIo {
        SourceIo::new(Arc::new(self.clone()))
    }

    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let result = f(&mut self.0.state.lock());
        self.0.changes.send_modify(|n| *n += 1);
        result
    }

    /// From now on nothing becomes durable until [`Self::sync`].
    pub fn withhold(&self) {
        self.change(|s| s.withheld = true);
    }

    /// Everything sent is durable now, and from now on as soon as it is sent.
    pub fn sync(&self) {
        self.change(|s| {
            s.withheld = false;
            s.synced = s.sent.len() as u64;
        });
    }

    /// The log is full: `batch()` waits.
    pub fn fill_log(&self) {
        self.change(|s| s.full = true);
    }

    pub fn free_log(&self) {
        self.change(|s| s.full = false);
    }

    /// The engine wants the session to end.
    pub fn stop(&self) {
        self.change(|s| s.stopping = true);
    }

    /// Keeps no records from now on, only counts them.
    pub fn discard(&self) {
        self.change(|s| s.discard = true);
    }

    /// The runtime starts again after an orderly stop: everything is durable.
    pub fn restart(&self) {
        self.sync();
        self.change(|s| s.stopping = false);
    }

    /// The runtime starts again after a power cut: what was not durable never happened.
    pub fn power_cut(&self) {
        self.change(|s| {
            s.sent.truncate(s.synced as usize);
            s.positions.clear();
            for index in 0..s.sent.len() {
                let moved = s.sent[index].moved.clone();
                fold(&mut s.positions, moved);
            }
            s.withheld = false;
            s.full = false;
            s.stopping = false;
        });
    }

    /// Everything sent and not lost in a power cut, in order.
    pub fn received(&self) -> Vec<Received> {
        self.0.state.lock().sent.iter().flat_map(|batch| batch.records.iter().cloned()).collect()
    }

    pub fn samples(&self) -> Vec<Sample> {
        self.received().into_iter().filter_map(|r| if let Received::Sample(s) = r { Some(s) } else { None }).collect()
    }

    pub fn documents(&self) -> Vec<Document> {
        self.received().into_iter().filter_map(|r| if let Received::Document(d) = r { Some(d) } else { None }).collect()
    }

    pub fn rejects(&self) -> Vec<Rejected> {
        self.received().into_iter().filter_map(|r| if let Received::Rejected(r) = r { Some(r) } else { None }).collect()
    }

    /// Records received so far.
    pub fn count(&self) -> u64 {
        let state = self.0.state.lock();
        state.discarded + state.sent.iter().map(|batch| batch.records.len() as u64).sum::<u64>()
    }

    /// Declared tags, in order of their ids.
    pub fn tags(&self) -> Vec<TagDef> {
        self.0.state.lock().tags.clone()
    }

    pub fn tag(&self, path: &str) -> Option<TagId> {
        self.0.state.lock().by_path.get(path).copied()
    }

    pub fn retired(&self) -> Vec<TagId> {
        self.0.state.lock().retired.clone()
    }

    pub fn positions(&self) -> BTreeMap<String, Vec<u8>> {
        self.0.state.lock().positions.clone()
    }

    pub fn lost(&self, reason: &str) -> u64 {
        self.0.state.lock().lost.get(reason).copied().unwrap_or(0)
    }

    pub fn dropped(&self, reason: &str) -> u64 {
        self.0.state.lock().dropped.get(reason).copied().unwrap_or(0)
    }

    /// How often something vouched for a part.
    pub fn alive(&self, part: &str) -> u64 {
        self.0.state.lock().alive.get(part).copied().unwrap_or(0)
    }

    pub fn gone(&self) -> Vec<String> {
        self.0.state.lock().gone.clone()
    }

    /// All statuses of a part so far; of the connector with an empty part.
    pub fn statuses(&self, part: &str) -> Vec<Status> {
        self.0.state.lock().status.get(part).cloned().unwrap_or_default()
    }

    pub fn status(&self, part: &str) -> Option<Status> {
        self.statuses(part).pop()
    }

    /// Sends a command to a tag; its outcome comes by the receiver.
    pub fn command(&self, tag: &str, value: CommandValue) -> oneshot::Receiver<Outcome> {
        self.command_if(tag, value, &[])
    }

    /// As [`command`](Self::command), with what tags must be.
    pub fn command_if(&self, tag: &str, value: CommandValue, must: &[(&str, Must)]) -> oneshot::Receiver<Outcome> {
        let find = |tag: &str| self.tag(tag).unwrap_or_else(|| panic!("no tag {tag} is declared"));
        let condition = |(tag, must): &(&str, Must)| Condition { tag: find(tag), name: (*tag).to_owned(), must: must.clone() };
        let (tag, conditions) = (find(tag), must.iter().map(condition).collect());
        let (answer, outcome) = Answer::new();
        let expires = Micros(Micros::now().0 + DEADLINE.as_micros() as i64);
        let command = Command { id: "test".into(), tag, value, expires, conditions, answer };
        self.0.commands.send(command).expect("the host holds the receiver");
        outcome
    }

    /// Waits until the test's condition holds; fails the test with `what` when it never does.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let mut changes = self.0.changes.subscribe();
        let wait = async {
            while !holds(self) {
                changes.changed().await.expect("the host lives");
            }
        };
        if tokio::time::timeout(DEADLINE, wait).await.is_err() {
            let state = self.0.state.lock();
            let records: usize = state.sent.iter().map(|b| b.records.len()).sum();
            panic!(
                "{what}: did not happen within {DEADLINE:?}; {records} records in {} batches, {} synced, statuses {:?}, last {:?}",
                state.sent.len(),
                state.synced,
                state.status,
                state.sent.last().and_then(|b| b.records.last()),
            );
        }
    }

    async fn when<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut changes = self.0.changes.subscribe();
        loop {
            if let Some(value) = ready(&mut self.0.state.lock()) {
                return value;
            }
            changes.changed().await.expect("the host lives");
        }
    }
}

fn fold(positions: &mut BTreeMap<String, Vec<u8>>, moved: Vec<(String, Vec<u8>)>) {
    for (key, value) in moved {
        if value.is_empty() {
            positions.remove(&key);
        } else {
            positions.insert(key, value);
        }
    }
}

impl State {
    fn sample(&self, row: &Row, batch: &Batch) -> Sample {
        let tag = self.tags.get(row.tag.0 as usize).expect("a row's tag is declared");
        Sample {
            tag: tag.path.clone(),
            topic: tag.topic.to_string(),
            value: Owned::of(row.value, &batch.heap),
            time: row.time,
            server_time: row.server_time,
            read_time: batch.read_time,
            status: row.status,
            origin: row.flags.origin,
            time_source: row.flags.time_source,
        }
    }

    fn document(&self, doc: &Doc, batch: &Batch) -> Document {
        let own = batch.text_of(doc.topic);
        let topic = match self.routes.get(doc.route.0 as usize) {
            Some(route) if own.is_empty() => route.topic.to_string(),
            _ => own.to_owned(),
        };
        Document {
            route: doc.route.0,
            topic,
            time: doc.time,
            key: batch.bytes_of(doc.key).to_vec(),
            headers: owned_headers(batch.bytes_of(doc.headers)),
            payload: doc.payload.map(|span| batch.bytes_of(span).to_vec()),
        }
    }

    fn take(&mut self, mut batch: Batch, moved: &[(&str, &[u8])]) -> AckId {
        let moved: Vec<_> = moved.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect();
        let records = if self.discard {
            self.discarded += batch.len() as u64;
            Vec::new()
        } else {
            let samples = batch.rows.iter().map(|row| Received::Sample(self.sample(row, &batch)));
            let documents = batch.docs.iter().map(|doc| Received::Document(self.document(doc, &batch)));
            let rejects = batch.rejects.iter().map(|reject| Received::Rejected(rejected(reject, &batch)));
            samples.chain(documents).chain(rejects).collect()
        };
        fold(&mut self.positions, moved.clone());
        self.sent.push(Sent { records, moved });
        if !self.withheld {
            self.synced = self.sent.len() as u64;
        }
        batch.clear();
        self.recycled.push(batch);
        AckId(self.sent.len() as u64)
    }
}

fn rejected(reject: &Reject, batch: &Batch) -> Rejected {
    Rejected {
        route: reject.route.0,
        key: batch.bytes_of(reject.key).to_vec(),
        headers: owned_headers(batch.bytes_of(reject.headers)),
        payload: batch.bytes_of(reject.payload).to_vec(),
        reason: reject.reason.clone(),
    }
}

fn owned_headers(bytes: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    headers(bytes).map(|(key, value)| (key.to_owned(), value.map(<[u8]>::to_vec))).collect()
}

#[async_trait]
impl SourceHost for TestHost {
    fn resume(&self, key: &str) -> Option<Vec<u8>> {
        self.0.state.lock().positions.get(key).cloned()
    }

    fn positions(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let state = self.0.state.lock();
        state.positions.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    fn declare(&self, tag: TagDef) -> Result<TagId, Clash> {
        self.change(|s| {
            if let Some(&id) = s.by_path.get(&tag.path) {
                let known = &mut s.tags[id.0 as usize];
                if known.address != tag.address {
                    return Err(Clash::Taken { path: tag.path, by: known.address.clone() });
                }
                *known = tag;
                return Ok(id);
            }
            let id = TagId(s.tags.len() as u32);
            s.by_path.insert(tag.path.clone(), id);
            s.tags.push(tag);
            Ok(id)
        })
    }

    fn retire(&self, tag: TagId) {
        self.change(|s| s.retired.push(tag));
    }

    async fn batch(&self) -> Batch {
        let mut batch = self.when(|s| (!s.full).then(|| s.recycled.pop().unwrap_or_default())).await;
        batch.read_time = Micros::now();
        batch
    }

    async fn send(&self, batch: Batch, moved: &[(&str, &[u8])]) -> AckId {
        self.change(|s| s.take(batch, moved))
    }

    async fn durable(&self, after: AckId) -> AckId {
        self.when(|s| (s.synced > after.0).then_some(AckId(s.synced))).await
    }

    async fn command(&self) -> Command {
        let mut commands = self.0.commands_in.lock().await;
        commands.recv().await.expect("the host holds the sender")
    }

    fn lost(&self, reason: Loss, count: u64) {
        self.change(|s| *s.lost.entry(reason.as_str()).or_default() += count);
    }

    fn dropped(&self, reason: Loss, count: u64) {
        self.change(|s| *s.dropped.entry(reason.as_str()).or_default() += count);
    }

    fn alive(&self, part: &str) {
        self.change(|s| *s.alive.entry(part.to_owned()).or_default() += 1);
    }

    fn gone(&self, part: &str) {
        self.change(|s| s.gone.push(part.to_owned()));
    }

    fn status(&self, part: &str, status: Status) {
        self.change(|s| s.status.entry(part.to_owned()).or_default().push(status));
    }

    async fn stopping(&self) {
        self.when(|s| s.stopping.then_some(())).await
    }

    fn is_stopping(&self) -> bool {
        self.0.state.lock().stopping
    }
}
