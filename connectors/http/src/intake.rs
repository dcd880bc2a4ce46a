//! From posts to batches, and back to answers.
//!
//! ```text
//! posts ──▶ what came meanwhile becomes one batch ──▶ log ──▶ synced: every sender of it is answered
//! ```
//!
//! One task does it, so that what is remembered of posts needs no lock: a repeat waits for what was sent before it, the first of it included,
//! and is answered as that was.
//!
//! Invariants: a post is in one batch; a post that is refused leaves no record, and is not remembered; of a post with good and bad records the bad
//! ones are dead letters, and its answer names them.

use crate::body::Body;
use crate::config::{Settings, is_ours};
use crate::rest_proxy::Produced;
use crate::split::Record;
use millrace_contract::{SourceIo, Status};
use millrace_kit::AfterSync;
use millrace_kit::records::{Records, reject};
use millrace_schemas::{Batch, Doc, RouteId, Span};
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// A batch is sent when its bytes are so many.
const BATCH_BYTES: usize = 1 << 20;
/// Posts in one batch.
const BATCH_POSTS: usize = 1_024;
/// The log takes nothing: said to senders after so long.
const FULL_AFTER: Duration = Duration::from_millis(250);
/// Signatures remembered; a post beyond them is refused, because it could be a repeat.
const SIGNATURES: usize = 500_000;
/// Bad records that an answer names.
const NAMED: usize = 100;

/// What was posted.
pub struct Post {
    pub what: What,
    pub body: Body,
    /// Headers of its documents.
    pub headers: Vec<(String, Vec<u8>)>,
    /// A repeat is known by it.
    pub named: Option<Vec<u8>>,
    /// Its signature, where it has one.
    pub signature: Option<Vec<u8>>,
    pub answer: oneshot::Sender<Done>,
}

pub enum What {
    /// Records of a route, by its index, with what its path holds.
    Records { route: usize, given: Vec<String>, records: Vec<Record> },
    /// Records for a topic as they are.
    Produced { topic: String, records: Vec<Produced> },
}

/// What became of a post.
#[derive(Clone, PartialEq, Debug)]
pub enum Done {
    /// Synced. The bad records of it are dead letters: their numbers, and why.
    Taken { records: u32, repeats: u32, bad: Vec<(u32, String)> },
    /// Nothing of it is there.
    Refused { bad: Vec<(u32, String)> },
    /// So many signed posts came that a repeat would not be known.
    Busy,
}

/// Posts that are remembered, so that a repeat is known.
pub struct Seen {
    hasher: (RandomState, RandomState),
    until: HashMap<u128, Instant>,
    order: VecDeque<(Instant, u128)>,
    /// Of the batch being filled: forgotten if it never is sent.
    filling: Vec<u128>,
    most: usize,
}

impl Seen {
    pub fn new(most: usize) -> Self {
        Self { hasher: Default::default(), until: HashMap::new(), order: VecDeque::new(), filling: Vec::new(), most }
    }

    fn hash(&self, name: &[u8]) -> u128 {
        u128::from(self.hasher.0.hash_one(name)) << 64 | u128::from(self.hasher.1.hash_one(name))
    }

    fn knows(&mut self, name: &[u8]) -> bool {
        let now = Instant::now();
        while let Some((_, oldest)) = self.order.front().filter(|(until, _)| *until <= now) {
            self.until.remove(oldest);
            self.order.pop_front();
        }
        self.until.contains_key(&self.hash(name))
    }

    fn is_full(&self) -> bool {
        self.order.len() >= self.most
    }

    fn add(&mut self, name: &[u8], life: Duration) {
        if self.most == 0 {
            return;
        }
        while self.is_full() {
            if let Some((_, oldest)) = self.order.pop_front() {
                self.until.remove(&oldest);
            }
        }
        let (until, hash) = (Instant::now() + life, self.hash(name));
        if self.until.insert(hash, until).is_none() {
            self.order.push_back((until, hash));
        }
        self.filling.push(hash);
    }

    fn sent(&mut self) {
        self.filling.clear();
    }

    /// The batch being filled is gone.
    fn dropped(&mut self) {
        for hash in self.filling.drain(..) {
            self.until.remove(&hash);
            self.order.retain(|(_, known)| *known != hash);
        }
    }
}

/// What lives as long as the source.
pub struct Intake {
    settings: Arc<Settings>,
    records: Records,
    repeats: Seen,
    signatures: Seen,
    /// The log takes nothing.
    pub is_full: Arc<AtomicBool>,
    text: Vec<u8>,
}

type Answers = AfterSync<(oneshot::Sender<Done>, Done, Body)>;

impl Intake {
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            records: Records::new(millrace_schemas::Origin::Change, settings.max_tags),
            repeats: Seen::new(settings.repeats_most),
            signatures: Seen::new(SIGNATURES),
            is_full: Arc::default(),
            text: Vec::new(),
            settings,
        }
    }

    /// Takes posts until nobody posts any more.
    pub async fn run(&mut self, posts: &mut mpsc::Receiver<Post>, io: &SourceIo) {
        self.repeats.dropped();
        self.signatures.dropped();
        let mut answers = Answers::default();
        let mut came = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = synced(&mut answers, io, self.settings.sync_apart) => {}
                count = posts.recv_many(&mut came, BATCH_POSTS) => {
                    if count == 0 {
                        break;
                    }
                    self.take(&mut came, &mut answers, io).await;
                }
            }
        }
        while !answers.is_empty() {
            synced(&mut answers, io, self.settings.sync_apart).await;
        }
    }

    async fn take(&mut self, came: &mut Vec<Post>, answers: &mut Answers, io: &SourceIo) {
        let mut batch = self.batch(answers, io).await;
        for post in came.drain(..) {
            if batch.heap.len() > BATCH_BYTES {
                answers.sent(io.send(batch, &[]).await);
                self.sent();
                batch = self.batch(answers, io).await;
            }
            match self.post(&post, &mut batch, io) {
                done @ Done::Taken { .. } => answers.push((post.answer, done, post.body)),
                refused => _ = post.answer.send(refused),
            }
        }
        if batch.is_empty() {
            answers.nothing_to_send();
        } else {
            answers.sent(io.send(batch, &[]).await);
        }
        self.sent();
    }

    fn sent(&mut self) {
        self.repeats.sent();
        self.signatures.sent();
    }

    /// A batch; who waits for an answer meanwhile gets it.
    async fn batch(&mut self, answers: &mut Answers, io: &SourceIo) -> Batch {
        let full = tokio::time::sleep(FULL_AFTER);
        tokio::pin!(full);
        let mut said = false;
        loop {
            tokio::select! {
                biased;
                batch = io.batch() => {
                    if said {
                        self.is_full.store(false, Relaxed);
                        io.status("", Status::Running);
                    }
                    return batch;
                }
                () = synced(answers, io, self.settings.sync_apart) => {}
                () = &mut full, if !said => {
                    said = true;
                    self.is_full.store(true, Relaxed);
                    io.status("", Status::Degraded("the log is full: posts are answered with status 503".into()));
                }
            }
        }
    }

    fn post(&mut self, post: &Post, batch: &mut Batch, io: &SourceIo) -> Done {
        let repeated = Done::Taken { records: 0, repeats: 1, bad: Vec::new() };
        if post.signature.as_ref().is_some_and(|signature| self.signatures.knows(signature))
            || post.named.as_ref().is_some_and(|name| self.repeats.knows(name))
        {
            return repeated;
        }
        let life = self.settings.signature.as_ref().and_then(|signature| signature.life());
        if post.signature.is_some() && life.is_some() && self.signatures.is_full() {
            return Done::Busy;
        }
        let done = match &post.what {
            What::Records { route, given, records } => self.records(*route, given, records, post, batch, io),
            What::Produced { topic, records } => self.produced(topic, records, post, batch),
        };
        if let Done::Taken { .. } = done {
            if let Some(signature) = &post.signature {
                self.signatures.add(signature, life.unwrap_or(self.settings.repeats_within));
            }
            if let Some(name) = &post.named {
                self.repeats.add(name, self.settings.repeats_within);
            }
        }
        done
    }

    fn records(&mut self, route: usize, given: &[String], records: &[Record], post: &Post, batch: &mut Batch, io: &SourceIo) -> Done {
        let settings = self.settings.clone();
        let making = &settings.routes[route].making;
        let given: Vec<_> = given.iter().map(String::as_str).collect();
        let (mut taken, mut repeats) = (0, 0);
        let mut bad: Vec<(u32, String)> = Vec::new();
        let mut bad_payloads = Vec::new();
        let shared = push_headers(&post.headers, &[], batch);
        for record in records {
            let payload = &post.body.bytes[record.at.clone()];
            let done = match &record.event {
                None => self.records.take(making, payload, &given, shared, batch, io),
                Some(event) => {
                    if self.repeats.knows(event.identity.as_bytes()) {
                        repeats += 1;
                        continue;
                    }
                    let headers = push_headers(&post.headers, &event.attributes, batch);
                    let payload = event.data.as_deref().unwrap_or(payload);
                    let docs = batch.docs.len();
                    let done = self.records.take(making, payload, &given, headers, batch, io);
                    if done.is_ok() {
                        self.repeats.add(event.identity.as_bytes(), settings.repeats_within);
                        if let (Some(key), Some(at)) = (&event.partition_key, (batch.docs.len() > docs).then_some(docs))
                            && batch.docs[at].key.len == 0
                        {
                            batch.docs[at].key = batch.push_bytes(key.as_bytes());
                        }
                    }
                    done
                }
            };
            match done {
                Ok(()) => taken += 1,
                Err(reason) => {
                    bad_payloads.push((payload, if bad.len() < NAMED { reason.clone() } else { String::new().into() }));
                    bad.push((record.number, reason.into()));
                }
            }
        }
        if taken + repeats == 0 {
            bad.truncate(NAMED);
            return Done::Refused { bad };
        }
        for ((payload, _), (number, reason)) in bad_payloads.iter().zip(&bad) {
            reject(making, payload, shared, format!("record {number} of the post: {reason}"), batch);
        }
        Done::Taken { records: taken, repeats, bad }
    }

    fn produced(&mut self, topic: &str, records: &[Produced], post: &Post, batch: &mut Batch) -> Done {
        let route = self.settings.rest_proxy.as_ref().map_or(RouteId(0), |(route, _)| *route);
        for record in records {
            let start = batch.heap.len();
            for (name, value) in &post.headers {
                batch.push_header(name, Some(value));
            }
            for (name, value) in &record.headers {
                self.text.clear();
                if is_ours(name) {
                    self.text.extend_from_slice(b"user.");
                }
                self.text.extend_from_slice(name.as_bytes());
                batch.push_header(std::str::from_utf8(&self.text).unwrap_or_default(), value.as_deref());
            }
            let headers = batch.span_from(start);
            let key = batch.push_bytes(record.key.as_deref().unwrap_or_default());
            let payload = record.value.as_deref().map(|value| batch.push_bytes(value));
            let topic = batch.push_bytes(topic.as_bytes());
            batch.docs.push(Doc { route, time: record.time.unwrap_or(batch.read_time), key, headers, payload, topic });
        }
        Done::Taken { records: records.len() as u32, repeats: 0, bad: Vec::new() }
    }
}

fn push_headers(headers: &[(String, Vec<u8>)], attributes: &[(String, String)], batch: &mut Batch) -> Span {
    let start = batch.heap.len();
    for (name, value) in headers {
        batch.push_header(name, Some(value));
    }
    for (name, value) in attributes {
        batch.push_header(name, Some(value.as_bytes()));
    }
    batch.span_from(start)
}

/// Answers what is synced now. Waits for the log while nothing is; forever while nobody waits.
async fn synced(answers: &mut Answers, io: &SourceIo, apart: Duration) {
    let Some(after) = answers.waits_after() else {
        if answers.iter().next().is_none() {
            std::future::pending::<()>().await;
        }
        return answer(answers);
    };
    let durable = io.durable_within(after, apart).await;
    answers.synced(durable);
    answer(answers);
}

fn answer(answers: &mut Answers) {
    while let Some((sender, done, _)) = answers.pop() {
        // Who does not wait any more needs no answer.
        let _ = sender.send(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_sent_is_not_remembered_and_the_oldest_are_forgotten() {
        let mut seen = Seen::new(2);
        let hour = Duration::from_secs(3600);
        seen.add(b"a", hour);
        assert!(seen.knows(b"a"));
        seen.dropped();
        assert!(!seen.knows(b"a"));
        for name in [b"a", b"b", b"c"] {
            seen.add(name, hour);
        }
        seen.sent();
        seen.dropped();
        assert_eq!([b"a", b"b", b"c"].map(|name| seen.knows(name)), [false, true, true]);
        seen.add(b"d", Duration::ZERO);
        assert!(!Seen::new(0).knows(b"d"));
    }
}
