//! The sink: records are posted in the order they came, and a record is done when the ERP said what became of it.
//!
//! ```text
//! write ─> queue ─> flush ─┬─ looked up: it is there already ──────────────> done
//!                          ├─ posted: 2xx ─────────────────────────────────> done
//!                          ├─ posted: the ERP says no, for good ───────────> dead letter, with its words
//!                          └─ busy, locked, or no answer ── again, looked up first ── in the end a Failure: the next instance begins here
//! ```
//!
//! Invariants:
//! - a request's id is made of the record's identity: the same in every try, of every instance, on every machine;
//! - a record is tried again only where that cannot carry it out twice: it is looked up, the service keeps ids, or it certainly did not arrive;
//! - what was done before a failure is reported before the failure is.

use crate::batch;
use crate::metadata::{Metadata, Version};
use crate::operation::{Operations, Prepared};
use crate::pending::{FORGOTTEN, Memory, Pending, Verdict};
use crate::posting::{Operation, Posting, Unknown};
use crate::service::{Endpoint, Service};
use crate::session::Session;
use async_trait::async_trait;
use millrace_contract::{Failure, Flush, Flushed, Input, Offset, Partition, Record, Records, Refused, Reply, Sink};
use millrace_kit::http::{Expect, HttpError, Method, Request};
use millrace_schemas::headers;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use std::time::Duration;
use tokio::time::Instant;

/// Records that are looked up at once.
const LOOKED_UP: usize = 20;
/// A write posts when more than this many records wait, and for so long at most.
const WAITING: usize = 500;
const WRITING: Duration = Duration::from_secs(20);
/// Tries in place, before the instance gives up.
const TRIES: u32 = 6;
/// A wait in place is at most this long.
const LONGEST: Duration = Duration::from_secs(5);

/// A service that was looked at.
struct Open {
    service: Service,
    operations: Operations,
    session: Session,
}

pub struct ErpSink {
    endpoint: Arc<Endpoint>,
    posting: Arc<Posting>,
    memory: Arc<Memory>,
    open: Option<Open>,
    queue: VecDeque<Pending>,
    below: HashMap<Partition, Offset>,
    flushed: Flushed,
    /// What is said once what was done is reported.
    failure: Option<Failure>,
}

impl ErpSink {
    pub fn new(endpoint: Arc<Endpoint>, posting: Arc<Posting>, memory: Arc<Memory>) -> Self {
        Self {
            endpoint,
            posting,
            memory,
            open: None,
            queue: VecDeque::new(),
            below: HashMap::new(),
            flushed: Flushed::default(),
            failure: None,
        }
    }

    fn pending(&self, records: &Records, record: &Record) -> Pending {
        let partition = records.partition(record).clone();
        let carried = records.of(record.headers);
        let header = |name: &str| headers(carried).find(|(key, _)| *key == name).and_then(|(_, value)| value);
        // A record that was sent twice into Kafka has one identity.
        let identity = match (header("millrace.source"), header("millrace.seq")) {
            (Some(source), Some(seq)) => [source, b"#", seq].concat(),
            _ => format!("{}#{}#{}", partition.topic, partition.partition, record.offset).into_bytes(),
        };
        Pending {
            id: request_id(&self.posting.name, &identity),
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(|span| records.of(span).to_vec()),
            value: record.value.map(|span| records.of(span).to_vec()),
            partition,
            verdict: None,
        }
    }

    /// Posts what waits, until it is done, the time is over or something fails.
    async fn post(&mut self, until: Option<Instant>) {
        let mut tries = 0;
        while !self.queue.is_empty() && self.failure.is_none() {
            if until.is_some_and(|until| Instant::now() >= until) {
                return;
            }
            let waiting = self.queue.len();
            match self.chunk().await {
                Ok(()) => tries = 0,
                Err(failure) => {
                    if self.queue.len() < waiting {
                        tries = 0;
                    }
                    tries += 1;
                    let wait = match &failure {
                        Failure::RetryAfter(wait, _) => *wait,
                        Failure::Reconnect(_) => Duration::from_millis(50) * 2_u32.pow(tries),
                        Failure::Blocked(_) | Failure::Stopped => LONGEST * 2,
                    };
                    if tries >= TRIES || wait > LONGEST {
                        self.failure = Some(failure);
                        return;
                    }
                    tracing::debug!("{failure}; tried again in {wait:?}");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// The records at the head of the queue: looked up, then posted. Each that is done leaves the queue.
    async fn chunk(&mut self) -> Result<(), Failure> {
        if self.open.is_none() {
            self.open = Some(open(&self.endpoint, &self.posting).await?);
        }
        let size = self.posting.batch.max(if self.posting.lookup.is_some() { LOOKED_UP } else { 1 });
        let open = self.open.as_ref().expect("was opened");
        let mut ready = Vec::new();
        let mut verdicts: Vec<Option<Verdict>> = Vec::new();
        for pending in self.queue.iter().take(size) {
            // One that was done while an earlier one has to wait is not posted again.
            let prepared = if pending.verdict.is_some() { None } else { Some(self.prepare(open, pending)) };
            match prepared {
                Some(Ok(prepared)) => {
                    ready.push(Some(prepared));
                    verdicts.push(None);
                }
                Some(Err(verdict)) => {
                    ready.push(None);
                    verdicts.push(Some(verdict));
                }
                None => {
                    ready.push(None);
                    verdicts.push(None);
                }
            }
        }
        self.look_up(&ready, &mut verdicts).await?;
        let waiting = self.waiting(&ready, &verdicts);
        let is_batch = self.posting.batch > 1 && self.posting.operation == Operation::Create;
        let mut outcome = Ok(());
        if is_batch && waiting.len() > 1 {
            outcome = self.post_batch(&waiting, &ready, &mut verdicts).await;
        } else {
            for n in waiting {
                let Some(prepared) = &ready[n] else { continue };
                let open = self.open.as_mut().expect("was opened");
                match open.operations.run(&open.service, &mut open.session, prepared, &self.memory).await {
                    Ok(Verdict::Later(failure)) => {
                        outcome = Err(failure);
                        break;
                    }
                    Ok(verdict) => verdicts[n] = Some(verdict),
                    Err(failed) => {
                        self.doubt(&prepared.id, &failed);
                        outcome = Err(failed.failure);
                        break;
                    }
                }
            }
        }
        for (n, verdict) in verdicts.into_iter().enumerate() {
            match verdict {
                Some(Verdict::Later(failure)) => outcome = outcome.and(Err(failure)),
                Some(verdict) => self.queue[n].verdict = Some(verdict),
                None => {}
            }
        }
        // In the order they came, up to the first that is not done.
        while self.queue.front().is_some_and(|pending| pending.verdict.is_some()) {
            let Some(pending) = self.queue.pop_front() else { break };
            self.done(pending);
        }
        outcome
    }

    /// Those that are to be posted now: of one key, or one value to look up by, the first alone.
    fn waiting(&self, ready: &[Option<Prepared>], verdicts: &[Option<Verdict>]) -> Vec<usize> {
        let (mut keys, mut values) = (HashSet::new(), HashSet::new());
        let mut waiting = Vec::new();
        for (n, one) in ready.iter().enumerate().filter(|(n, _)| verdicts[*n].is_none()) {
            let Some(one) = one else { continue };
            let is_first_of_key = self.posting.batch == 1 || self.queue[n].key.as_ref().is_none_or(|key| keys.insert(key));
            let is_first_of_value = one.lookup_value.is_empty() || values.insert(&one.lookup_value);
            if is_first_of_key && is_first_of_value {
                waiting.push(n);
            }
        }
        waiting
    }

    fn doubt(&self, id: &str, failed: &crate::operation::Failed) {
        if failed.may_be_done {
            let mut doubtful = self.memory.doubtful.lock();
            if doubtful.len() < FORGOTTEN {
                doubtful.insert(id.to_owned());
            }
        }
    }

    fn prepare(&self, open: &Open, pending: &Pending) -> Result<Prepared, Verdict> {
        let is_safe = self.posting.operation == Operation::Update
            || self.posting.lookup.is_some()
            || self.memory.keeps_ids()
            || self.posting.unknown == Unknown::Repeat;
        if !is_safe && self.memory.doubtful.lock().contains(&pending.id) {
            let text = "the ERP's answer was lost, and it is not known whether it was posted; look there before this is replayed";
            return Err(Verdict::Refused { status: 0, text: text.into() });
        }
        let text = match &pending.value {
            Some(value) => value,
            None => return Err(Verdict::Refused { status: 0, text: "a tombstone says nothing that could be posted".into() }),
        };
        open.operations.prepare(pending, text).map_err(|text| Verdict::Refused { status: 0, text: text.into() })
    }

    /// Asks for those that are there already.
    async fn look_up(&mut self, ready: &[Option<Prepared>], verdicts: &mut [Option<Verdict>]) -> Result<(), Failure> {
        let Some(lookup) = self.posting.lookup.clone().filter(|_| self.posting.operation == Operation::Create) else { return Ok(()) };
        let open = self.open.as_mut().expect("was opened");
        let wanted: Vec<(usize, &Prepared)> = ready.iter().enumerate().filter_map(|(n, one)| Some((n, one.as_ref()?))).collect();
        for wanted in wanted.chunks(LOOKED_UP) {
            let filter: Vec<String> = wanted.iter().map(|(_, one)| format!("{lookup} eq {}", one.looked_up)).collect();
            let found = open.operations.look_up(&open.service, &mut open.session, &lookup, &filter.join(" or ")).await?;
            for (n, one) in wanted {
                if found.contains(&one.lookup_value) {
                    verdicts[*n] = Some(Verdict::Done { status: 200, location: String::new(), already: true });
                }
            }
        }
        Ok(())
    }

    async fn post_batch(&mut self, which: &[usize], ready: &[Option<Prepared>], verdicts: &mut [Option<Verdict>]) -> Result<(), Failure> {
        let open = self.open.as_mut().expect("was opened");
        let prepared: Vec<&Prepared> = which.iter().filter_map(|n| ready[*n].as_ref()).collect();
        let operations: Vec<batch::Operation> = prepared.iter().map(|one| one.for_batch()).collect();
        let (boundary, body) = batch::write(&operations);
        let version = open.operations.version;
        let url = open.service.url("$batch", &[]);
        let request =
            Request::new(Method::POST, url.clone()).expect(Expect::Multipart).body(&format!("multipart/mixed; boundary={boundary}"), body);
        let request = open.service.request(request, Some(version));
        let request = if version == Version::V4 { request.header("prefer", "odata.continue-on-error") } else { request };
        let doubt = |error: HttpError| {
            if error.may_be_done() {
                self.memory.doubtful.lock().extend(prepared.iter().map(|one| one.id.clone()));
            }
            crate::operation::again(&error, self.posting.retry_after)
        };
        let answer = open.session.write(&open.service, &request, version).await.map_err(doubt)?;
        if !answer.status.is_success() {
            return Err(open.service.refusal(&answer).into());
        }
        let broken = |text: String| doubt(HttpError::Cut { url: millrace_kit::http::redact::url(&url), cause: text });
        let parts = batch::read(answer.header("content-type"), &answer.body).map_err(|bad| broken(bad.to_string()))?;
        for (n, part) in which.iter().zip(&parts) {
            let Some(one) = &ready[*n] else { continue };
            verdicts[*n] = Some(open.operations.judge(one, part.status, &|name| part.header(name).to_owned(), &part.body, &self.memory));
        }
        if parts.len() < which.len() {
            return Err(broken(format!("it has {} answers to {} operations", parts.len(), which.len())));
        }
        Ok(())
    }

    fn done(&mut self, pending: Pending) {
        self.memory.doubtful.lock().remove(&pending.id);
        self.memory.failed.lock().remove(&pending.id);
        let said = |result: &str, status: u16, more: (&str, Value)| {
            let key = pending.key.as_deref().map(String::from_utf8_lossy);
            json!({
                "result": result, "status": status, more.0: more.1, "topic": &*pending.partition.topic,
                "partition": pending.partition.partition, "offset": pending.offset, "key": key, "request_id": pending.id,
            })
        };
        let reply = match &pending.verdict {
            Some(Verdict::Done { status, location, already }) => {
                said(if *already { "already" } else { "done" }, *status, ("location", location.as_str().into()))
            }
            Some(Verdict::Refused { status, text }) => {
                let reason = format!("{}: {text}", self.endpoint.root());
                let reply = said("refused", *status, ("reason", text.as_str().into()));
                self.flushed.refused.push(Refused { partition: pending.partition.clone(), offset: pending.offset, reason });
                reply
            }
            Some(Verdict::Later(_)) | None => return,
        };
        if let Some(topic) = &self.posting.reply {
            self.flushed.replies.push(Reply { topic: topic.clone(), key: pending.key.clone(), value: reply.to_string().into_bytes() });
        }
        self.below.insert(pending.partition, pending.offset + 1);
    }
}

async fn open(endpoint: &Endpoint, posting: &Arc<Posting>) -> Result<Open, Failure> {
    let service = Service::new(endpoint)?;
    let metadata: Metadata = service.metadata().await?;
    let operations = Operations::new(posting.clone(), metadata).map_err(|why| Failure::Blocked(why.into()))?;
    Ok(Open { service, operations, session: Session::default() })
}

/// An id of a request: the first half of the SHA-256 of who posts what.
fn request_id(name: &str, identity: &[u8]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(name.as_bytes());
    context.update(b"\0");
    context.update(identity);
    context.finish().as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[async_trait]
impl Sink for ErpSink {
    fn input(&self) -> Input {
        Input::Raw
    }

    fn flush_every(&self) -> Duration {
        Duration::from_millis(500)
    }

    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure> {
        Ok(vec![None; parts.len()])
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        for record in &records.records {
            let pending = self.pending(records, record);
            self.queue.push_back(pending);
        }
        if self.queue.len() > WAITING {
            self.post(Some(Instant::now() + WRITING)).await;
        }
        Ok(Vec::new())
    }

    async fn flush(&mut self, _: Flush) -> Result<Flushed, Failure> {
        self.post(None).await;
        let mut flushed = std::mem::take(&mut self.flushed);
        flushed.below = self.below.drain().collect();
        match self.failure.take() {
            // What was done is reported first; the next flush meets the same failure, or does not.
            Some(failure) if flushed.below.is_empty() => Err(failure),
            _ => Ok(flushed),
        }
    }

    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        self.queue.retain(|pending| !parts.contains(&pending.partition));
        self.below.retain(|partition, _| !parts.contains(partition));
        Ok(())
    }
}
