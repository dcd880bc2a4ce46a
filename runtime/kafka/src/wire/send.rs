//! Batches into partitions, each once and in their order; in a transaction, if wanted.
//!
//! ```text
//! push ─▶ queue of its partition ─▶ pump: a batch of each partition in a request, five on their way to a broker ─▶ answers ─▶ delivered
//! ```
//!
//! A batch has its number in its partition from the moment it is pushed. Where a leader moves or a connection breaks, what was on its way to it is
//! waited for, and then everything that is not answered goes again under the numbers it has: the new leader knows what it has already.

use crate::error::{Class, KafkaError};
use crate::partition::TopicPartition;
use crate::wire::access::Access;
use crate::wire::cluster::{Cluster, PAUSE};
use crate::wire::connection::wait_any;
use crate::wire::fault::{damaged, garbled, late, refused};
use crate::wire::messages::{self, Api, Sent};
use crate::wire::transaction::{Identity, Transaction, plain_identity};
use bytes::Bytes;
use millrace_batches::{HEADER, Header, header};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Requests on their way to one broker: it knows the numbers of the last five batches of a producer.
const IN_FLIGHT: usize = 5;
/// Of the batches in one request, the first apart.
const REQUEST_BYTES: usize = 4 << 20;
/// How long a leader may wait for its followers.
const REPLICATED: Duration = Duration::from_secs(30);
/// A broker that answers nothing for so long is lost.
const SILENT: Duration = Duration::from_secs(40);
/// How long the coordinator may take before anything is sent.
const COORDINATED: Duration = Duration::from_secs(30);

/// A batch that is in its partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub part: TopicPartition,
    /// What [`Sender::push`] was told of its last record.
    pub last: i64,
    /// Where its last record lies.
    pub offset: i64,
}

struct Batch {
    head: [u8; HEADER],
    records: Bytes,
    count: i32,
    last: i64,
}

#[derive(Default)]
struct Part {
    queue: VecDeque<Batch>,
    /// So many of the queue are on their way.
    sent: usize,
    /// Requests on their way that carry one of them.
    open: usize,
    /// The broker to which they are.
    node: Option<i32>,
    /// One of them has to go again, and all behind it.
    goes_again: bool,
    next_sequence: i32,
}

impl Part {
    /// A request that carried a batch of it came back, or never will.
    fn closed(&mut self) {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 && self.goes_again {
            (self.sent, self.goes_again) = (0, false);
        }
    }
}

/// What is on its way in one request.
struct Asked {
    at: Instant,
    parts: Vec<TopicPartition>,
}

/// Writes batches.
pub struct Sender {
    cluster: Cluster,
    transaction: Option<Transaction>,
    who: Identity,
    parts: BTreeMap<TopicPartition, Part>,
    asked: HashMap<i32, VecDeque<Asked>>,
    /// Of the batches that are not answered.
    bytes: usize,
    delivered: Vec<Delivered>,
    again_at: Instant,
}

impl Sender {
    /// Asks for a producer's id. With a transactional id, who had it before is refused from now on, and what it has open is ended; a transaction of
    /// ours that is left open is ended by the cluster after `timeout`.
    pub fn open(access: Access, transactional: Option<(&str, Duration)>, patience: Duration) -> Result<Self, KafkaError> {
        let mut cluster = Cluster::new(access);
        let mut transaction = transactional.map(|(id, timeout)| Transaction::new(id, timeout));
        let who = match &mut transaction {
            Some(transaction) => transaction.init(&mut cluster, patience)?,
            None => plain_identity(&mut cluster, patience)?,
        };
        Ok(Self {
            cluster,
            transaction,
            who,
            parts: BTreeMap::new(),
            asked: HashMap::new(),
            bytes: 0,
            delivered: Vec::new(),
            again_at: Instant::now(),
        })
    }

    /// Takes a batch for a partition. It goes as it is but for its header, which becomes this producer's; `last` is told back when it is delivered.
    ///
    /// Errors: it is damaged.
    pub fn push(&mut self, part: &TopicPartition, batch: Bytes, last: i64) -> Result<(), KafkaError> {
        let fault = |base| damaged(format_args!("what goes to {part}"), base);
        let head = Header::read(&batch).filter(Header::is_dense).ok_or_else(|| fault(last))?;
        let at = self.parts.entry(part.clone()).or_default();
        let sender = header::Sender {
            producer_id: self.who.0,
            producer_epoch: self.who.1,
            first_sequence: at.next_sequence,
            is_transactional: self.transaction.is_some(),
        };
        let sent = header::forwarded(&batch, &sender).map_err(|_| fault(head.base_offset))?;
        at.next_sequence = ((i64::from(at.next_sequence) + i64::from(head.records)) & i64::from(i32::MAX)) as i32;
        self.bytes += batch.len();
        at.queue.push_back(Batch { head: sent, records: batch.slice(HEADER..), count: head.records, last });
        Ok(())
    }

    /// Bytes of batches that are not answered.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was delivered since the last call.
    pub fn take_delivered(&mut self) -> Vec<Delivered> {
        std::mem::take(&mut self.delivered)
    }

    /// Sends what may be sent, and takes the answers that have come, waiting for one no longer than so.
    ///
    /// Errors: what sending again would not cure; nothing can be sent by this sender then. By its class it is the batch ([`Class::Record`]), the topic, or us.
    pub fn pump(&mut self, wait: Duration) -> Result<(), KafkaError> {
        self.send()?;
        if self.bytes == 0 {
            return Ok(());
        }
        if self.asked.values().all(VecDeque::is_empty) {
            // Nobody can be reached at the moment.
            std::thread::sleep(wait.min(PAUSE));
            return Ok(());
        }
        wait_any(self.cluster.connections(), wait);
        for node in self.asked.keys().copied().collect::<Vec<_>>() {
            self.answers(node)?;
        }
        self.send()
    }

    /// Waits until everything is delivered. Errors: as [`Sender::pump`], or nothing is for longer than `patience`: a thin line may take its time.
    pub fn settle(&mut self, patience: Duration) -> Result<(), KafkaError> {
        let (mut deadline, mut least) = (Instant::now() + patience, self.bytes);
        while self.bytes > 0 {
            if self.bytes < least {
                (deadline, least) = (Instant::now() + patience, self.bytes);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let waits = self.parts.iter().find(|(_, part)| !part.queue.is_empty()).map_or(String::new(), |(name, _)| name.to_string());
                return Err(late(format!("what was sent to {waits} is not acknowledged after {} s", patience.as_secs())));
            }
            self.pump(left.min(Duration::from_millis(100)))?;
        }
        Ok(())
    }

    /// Waits until everything is delivered, and commits it. Errors: as [`Sender::settle`]; what was sent can only be taken back then.
    pub fn commit(&mut self, patience: Duration) -> Result<(), KafkaError> {
        self.settle(patience)?;
        match &mut self.transaction {
            Some(transaction) => transaction.end(&mut self.cluster, self.who, true, patience),
            None => Ok(()),
        }
    }

    /// Takes back what is in the transaction; the sender is done.
    pub fn abort(mut self, patience: Duration) -> Result<(), KafkaError> {
        match &mut self.transaction {
            Some(transaction) => transaction.end(&mut self.cluster, self.who, false, patience),
            None => Ok(()),
        }
    }

    fn waiting(&self) -> impl Iterator<Item = (&TopicPartition, &Part)> {
        self.parts.iter().filter(|(_, part)| part.sent < part.queue.len() && !part.goes_again)
    }

    fn send(&mut self) -> Result<(), KafkaError> {
        if Instant::now() < self.again_at {
            return Ok(());
        }
        let unknown: BTreeSet<&str> =
            self.waiting().filter(|(name, _)| self.cluster.leader(name).is_none()).map(|(name, _)| &*name.topic).collect();
        if !unknown.is_empty() {
            let topics: BTreeSet<String> = unknown.into_iter().map(str::to_owned).collect();
            self.cluster.learn(&topics.iter().map(String::as_str).collect())?;
        }
        if let Some(transaction) = &self.transaction {
            let new: Vec<TopicPartition> = self.waiting().map(|(name, _)| name).filter(|name| !transaction.has(name)).cloned().collect();
            if let Some(transaction) = self.transaction.as_mut().filter(|_| !new.is_empty()) {
                transaction.add(&mut self.cluster, self.who, &new.iter().collect::<Vec<_>>(), COORDINATED)?;
            }
        }
        while self.send_round()? {}
        Ok(())
    }

    /// Sends each broker a request, if it may have one more; whether one was sent.
    fn send_round(&mut self) -> Result<bool, KafkaError> {
        let mut by_node: BTreeMap<i32, (usize, Vec<TopicPartition>)> = BTreeMap::new();
        for (name, part) in self.waiting() {
            let Some(leader) = self.cluster.leader(name) else { continue };
            // What is on its way to another broker is waited for: numbers must come in their order.
            if part.open > 0 && part.node != Some(leader.node) || self.asked.get(&leader.node).is_some_and(|open| open.len() >= IN_FLIGHT) {
                continue;
            }
            let (bytes, parts) = by_node.entry(leader.node).or_default();
            let len = HEADER + part.queue[part.sent].records.len();
            if parts.is_empty() || *bytes + len <= REQUEST_BYTES {
                *bytes += len;
                parts.push(name.clone());
            }
        }
        let mut has_sent = false;
        for (node, (_, names)) in by_node {
            let batches: Vec<Sent<'_>> = names
                .iter()
                .filter_map(|name| Some((name, self.parts.get(name)?)))
                .map(|(name, part)| (name, &part.queue[part.sent]))
                .map(|(name, batch)| Sent { topic: &name.topic, partition: name.partition, head: &batch.head, records: &batch.records })
                .collect();
            let id = self.transaction.as_ref().map(Transaction::id);
            let Some(connection) = self.cluster.connection(node)? else { continue };
            let sent = connection.send(Api::Produce, |out| messages::produce(out, id, REPLICATED.as_millis() as i32, &batches));
            has_sent = true;
            for name in &names {
                if let Some(part) = self.parts.get_mut(name) {
                    (part.sent, part.open, part.node) = (part.sent + 1, part.open + 1, Some(node));
                }
            }
            self.asked.entry(node).or_default().push_back(Asked { at: Instant::now(), parts: names });
            if let Err(error) = sent {
                tracing::debug!("{error}");
                self.lose(node);
            }
        }
        Ok(has_sent)
    }

    /// Takes the answers of a broker that have come.
    fn answers(&mut self, node: i32) -> Result<(), KafkaError> {
        loop {
            let Some(asked) = self.asked.get(&node).and_then(VecDeque::front) else { return Ok(()) };
            let is_silent = asked.at.elapsed() > SILENT;
            let Some(connection) = self.cluster.connected(node) else {
                self.lose(node);
                return Ok(());
            };
            match connection.receive(Duration::ZERO) {
                Ok(Some(answer)) => {
                    let broker = connection.broker.clone();
                    self.take(node, &broker, &answer)?;
                }
                Ok(None) if !is_silent => return Ok(()),
                Ok(None) => self.lose(node),
                Err(error) if error.class == Class::Retry && !error.is_unsupported() => {
                    tracing::debug!("{error}");
                    self.lose(node);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, node: i32, broker: &str, answer: &Bytes) -> Result<(), KafkaError> {
        const KNOWN_ALREADY: i16 = 46;
        let Some(asked) = self.asked.get_mut(&node).and_then(VecDeque::pop_front) else { return Ok(()) };
        let written = messages::produce_answer(answer).ok_or_else(|| garbled(broker, Api::Produce))?;
        for name in asked.parts {
            let Some(part) = self.parts.get_mut(&name) else { continue };
            let one = written.iter().find(|one| one.topic == *name.topic && one.partition == name.partition);
            let one = one.ok_or_else(|| garbled(broker, Api::Produce))?;
            // Behind one that goes again, all of them do, whatever is said of them.
            if !part.goes_again {
                let error = refused(broker, Api::Produce, format_args!("to {name}"), one.error);
                match one.error {
                    0 | KNOWN_ALREADY => {
                        if let Some(batch) = part.queue.pop_front() {
                            part.sent = part.sent.saturating_sub(1);
                            self.bytes = self.bytes.saturating_sub(HEADER + batch.records.len());
                            // Of one that was there already, nobody may know where.
                            if one.base_offset >= 0 {
                                let offset = one.base_offset + i64::from(batch.count) - 1;
                                self.delivered.push(Delivered { part: name.clone(), last: batch.last, offset });
                            }
                        }
                    }
                    _ if error.class == Class::Retry || error.is_unknown_topic() => {
                        tracing::debug!("{error}");
                        part.goes_again = true;
                        self.cluster.forget(&name);
                        self.again_at = Instant::now() + PAUSE;
                    }
                    _ => return Err(error),
                }
            }
            part.closed();
        }
        Ok(())
    }

    /// The connection to a broker is lost, and with it every answer.
    fn lose(&mut self, node: i32) {
        self.cluster.lose(node);
        for name in self.asked.remove(&node).into_iter().flatten().flat_map(|asked| asked.parts) {
            if let Some(part) = self.parts.get_mut(&name) {
                part.goes_again = true;
                part.closed();
            }
        }
    }
}
