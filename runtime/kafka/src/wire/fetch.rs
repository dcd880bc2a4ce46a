//! Batches of partitions, from an offset on: what is committed, whole, and nothing else.
//!
//! ```text
//! begin(part, offset)
//! poll: an answer of each broker, at most ─▶ the next request is on its way ─▶ batches
//! ```
//!
//! One request is on its way to each broker while what came before is sent on, so that the next answer waits in the sockets. Marks of transactions and
//! the batches of those that failed are left out, and passed.

use crate::error::{Class, KafkaError};
use crate::partition::TopicPartition;
use crate::wire::access::Access;
use crate::wire::cluster::Cluster;
use crate::wire::connection::wait_any;
use crate::wire::fault::{garbled, refused, unsupported};
use crate::wire::messages::{self, Api, Had, Wanted};
use bytes::Bytes;
use millrace_batches::{Header, header};
use rdkafka::bindings::rd_kafka_resp_err_t as code;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// Of one partition in one answer; the first batch of it may be larger.
const PARTITION_BYTES: usize = 2 << 20;
/// A broker that answers nothing for so long beyond what it may wait is lost.
const SILENT: Duration = Duration::from_secs(30);

/// How much is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Bytes in one answer.
    pub bytes: usize,
    /// How long a broker waits for something to answer with.
    pub wait: Duration,
}

/// What came of a partition.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    pub part: TopicPartition,
    /// The offset that was asked for: the first batch may begin before it.
    pub from: i64,
    /// The offset behind the last batch, whether it is among `batches` or was left out.
    pub next: i64,
    /// The offset behind what is decided.
    pub end: i64,
    pub batches: Vec<Bytes>,
}

struct Part {
    name: TopicPartition,
    next: i64,
    is_first: bool,
    is_asked: bool,
}

/// What is on its way to a broker.
struct Asked {
    at: Instant,
    parts: Vec<(TopicPartition, i64)>,
}

/// Reads partitions.
pub struct Fetcher {
    cluster: Cluster,
    reading: Reading,
    /// In the order of their names.
    parts: Vec<Part>,
    asked: HashMap<i32, Asked>,
    /// Which partition is asked for first, so that each has its turn.
    turn: usize,
}

impl Fetcher {
    /// Asks the cluster who it is. Errors: it does not answer, or not to this client.
    pub fn open(access: Access, reading: Reading) -> Result<Self, KafkaError> {
        let mut cluster = Cluster::new(access);
        cluster.ask_metadata(&BTreeSet::new())?;
        Ok(Self { cluster, reading, parts: Vec::new(), asked: HashMap::new(), turn: 0 })
    }

    /// Reads a partition from this offset on; `is_first`: before the others, where there is more than goes into an answer.
    pub fn begin(&mut self, part: &TopicPartition, offset: i64, is_first: bool) {
        self.end(part);
        let at = self.parts.partition_point(|other| other.name < *part);
        self.parts.insert(at, Part { name: part.clone(), next: offset, is_first, is_asked: false });
    }

    /// Reads a partition no longer. What is on its way of it is passed over.
    pub fn end(&mut self, part: &TopicPartition) {
        self.parts.retain(|other| other.name != *part);
    }

    /// What has come, waiting for it no longer than so.
    ///
    /// Errors: what this client cannot get over: an offset that is not there ([`KafkaError::is_out_of_range`]), a login, records of a format before the
    /// batches of today. What passes (a leader that moved, a broker that is away) is tried again without a word.
    pub fn poll(&mut self, wait: Duration) -> Result<Vec<Fetched>, KafkaError> {
        self.ask()?;
        let asked = &self.asked;
        if asked.is_empty() {
            std::thread::sleep(wait);
            return Ok(Vec::new());
        }
        wait_any(self.cluster.connections(), wait);
        let mut fetched = Vec::new();
        for node in self.asked.keys().copied().collect::<Vec<_>>() {
            let Some(connection) = self.cluster.connected(node) else {
                self.lose(node);
                continue;
            };
            match connection.receive(Duration::ZERO) {
                Ok(Some(answer)) => {
                    let broker = connection.broker.clone();
                    self.take(node, &broker, &answer, &mut fetched)?;
                }
                Ok(None) if self.asked.get(&node).is_some_and(|asked| asked.at.elapsed() > SILENT + self.reading.wait) => self.lose(node),
                Ok(None) => {}
                Err(error) if error.class == Class::Retry && !error.is_unsupported() => {
                    tracing::debug!("{error}");
                    self.lose(node);
                }
                Err(error) => return Err(error),
            }
        }
        if !fetched.is_empty() {
            self.ask()?;
        }
        Ok(fetched)
    }

    fn lose(&mut self, node: i32) {
        self.cluster.lose(node);
        if let Some(asked) = self.asked.remove(&node) {
            self.answered(&asked.parts);
        }
    }

    fn answered(&mut self, asked: &[(TopicPartition, i64)]) {
        for part in self.parts.iter_mut().filter(|part| asked.iter().any(|(name, _)| *name == part.name)) {
            part.is_asked = false;
        }
    }

    /// Asks each broker that is asked nothing.
    fn ask(&mut self) -> Result<(), KafkaError> {
        if self.parts.iter().any(|part| self.cluster.leader(&part.name).is_none()) {
            let topics: BTreeSet<&str> = self.parts.iter().map(|part| &*part.name.topic).collect();
            self.cluster.learn(&topics)?;
        }
        let mut by_node: HashMap<i32, Vec<usize>> = HashMap::new();
        for (at, part) in self.parts.iter().enumerate().filter(|(_, part)| !part.is_asked) {
            if let Some(leader) = self.cluster.leader(&part.name).filter(|leader| !self.asked.contains_key(&leader.node)) {
                by_node.entry(leader.node).or_default().push(at);
            }
        }
        self.turn = self.turn.wrapping_add(1);
        for (node, mut places) in by_node {
            let len = places.len();
            places.rotate_left(self.turn % len);
            places.sort_by_key(|at| !self.parts[*at].is_first);
            let wanted: Vec<Wanted<'_>> = places
                .iter()
                .map(|at| &self.parts[*at])
                .map(|part| Wanted {
                    topic: &part.name.topic,
                    partition: part.name.partition,
                    epoch: self.cluster.leader(&part.name).map_or(-1, |leader| leader.epoch),
                    offset: part.next,
                })
                .collect();
            let Some(connection) = self.cluster.connection(node)? else { continue };
            let (wait_ms, bytes) = (self.reading.wait.as_millis() as i32, self.reading.bytes);
            let sent = connection.send(Api::Fetch, |out| {
                messages::fetch(out, &wanted, wait_ms, bytes as i32, bytes.min(PARTITION_BYTES) as i32);
            });
            match sent {
                Err(error) => {
                    tracing::debug!("{error}");
                    self.cluster.lose(node);
                }
                Ok(()) => {
                    let parts = places.iter().map(|at| (self.parts[*at].name.clone(), self.parts[*at].next)).collect();
                    places.iter().for_each(|at| self.parts[*at].is_asked = true);
                    self.asked.insert(node, Asked { at: Instant::now(), parts });
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, node: i32, broker: &str, answer: &Bytes, fetched: &mut Vec<Fetched>) -> Result<(), KafkaError> {
        let Some(asked) = self.asked.remove(&node) else { return Ok(()) };
        self.answered(&asked.parts);
        let (error, had) = messages::fetch_answer(answer).ok_or_else(|| garbled(broker, Api::Fetch))?;
        if error != 0 {
            return Err(refused(broker, Api::Fetch, "", error));
        }
        for one in had {
            let name = TopicPartition::new(one.topic, one.partition);
            let Some(from) = asked.parts.iter().find(|(asked, _)| *asked == name).map(|(_, from)| *from) else { continue };
            let Some(part) = self.parts.iter_mut().find(|part| part.name == name && part.next == from) else { continue };
            if one.error != 0 {
                trouble(broker, &name, from, one.error)?;
                self.cluster.forget(&name);
                continue;
            }
            let (batches, next) = committed(answer, &one, &name, from)?;
            part.next = next;
            fetched.push(Fetched { part: name, from, next, end: one.stable_end, batches });
        }
        Ok(())
    }
}

/// What an error of a partition means; those that pass are none.
fn trouble(broker: &str, part: &TopicPartition, from: i64, number: i16) -> Result<(), KafkaError> {
    const OUT_OF_RANGE: i16 = 1;
    let error = match number {
        OUT_OF_RANGE => KafkaError::new(
            code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET as i32,
            format!("offset {from} of {part} is not on broker {broker} any more"),
        ),
        _ => refused(broker, Api::Fetch, format_args!("of {part} from offset {from} on"), number),
    };
    let passes = error.class == Class::Retry && !error.is_out_of_range() || error.is_unknown_topic();
    if passes { Ok(()) } else { Err(error) }
}

/// The batches of an answer that a committed reader sees, and the offset behind the last one that is whole.
pub(super) fn committed(answer: &Bytes, had: &Had<'_>, name: &TopicPartition, from: i64) -> Result<(Vec<Bytes>, i64), KafkaError> {
    let mut aborted = had.aborted.clone();
    // The last first, to be taken off the end.
    aborted.sort_unstable_by_key(|(_, first)| std::cmp::Reverse(*first));
    let (mut failing, mut kept, mut next, mut rest) = (HashSet::new(), Vec::new(), from, had.records);
    while let Some(len) = header::whole(rest) {
        let (batch, behind) = rest.split_at(len);
        rest = behind;
        let Some(head) = Header::read(batch).filter(|_| header::magic(batch) == header::MAGIC) else {
            return Err(unsupported(format!(
                "the records of {name} at offset {next} are of a format before Kafka 0.11, which have no batches of their own"
            )));
        };
        while aborted.last().is_some_and(|(_, first)| *first <= head.last_offset()) {
            failing.extend(aborted.pop().map(|(producer, _)| producer));
        }
        if head.last_offset() < from {
            continue;
        }
        next = head.last_offset().saturating_add(1);
        let is_failed = head.is_transactional() && failing.contains(&head.producer_id);
        if head.is_control() {
            if header::marker_commits(batch) == Some(false) {
                failing.remove(&head.producer_id);
            }
        } else if !is_failed && head.records > 0 {
            kept.push(answer.slice_ref(batch));
        }
    }
    if next == from && !had.records.is_empty() && header::whole(had.records).is_none() {
        return Err(unsupported(format!("the batch at offset {from} of {name} does not come whole")));
    }
    Ok((kept, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_batches::header::{marker, sample, seal};

    /// A batch at an offset.
    fn at(offset: i64, mut batch: Vec<u8>) -> Vec<u8> {
        batch[..8].copy_from_slice(&offset.to_be_bytes());
        seal(&mut batch);
        batch
    }

    fn read(records: &[u8], aborted: Vec<(i64, i64)>, from: i64) -> Result<(Vec<i64>, i64), KafkaError> {
        let answer = Bytes::copy_from_slice(records);
        let had = Had { topic: "t", partition: 0, error: 0, stable_end: 100, aborted, records: &answer };
        let (batches, next) = committed(&answer, &had, &TopicPartition::new("t", 0), from)?;
        Ok((batches.iter().map(|batch| Header::read(batch).unwrap().base_offset).collect(), next))
    }

    #[test]
    fn of_two_producers_that_write_between_each_other_the_failed_transactions_are_left_out() {
        // Producer 7 takes back what it wrote at 0 and 4, and commits what it writes after that; 8 commits.
        let log = [
            at(0, sample(2, (7, 0, 0), true)),
            at(2, sample(2, (8, 0, 0), true)),
            at(4, sample(1, (7, 0, 2), true)),
            at(5, marker(7, 0, false, 0, 1)),
            at(6, sample(1, (7, 0, 3), true)),
            at(7, marker(8, 0, true, 0, 1)),
            at(8, sample(3, (-1, -1, -1), false)),
            at(11, marker(7, 0, true, 0, 1)),
        ]
        .concat();
        assert_eq!(read(&log, vec![(7, 0)], 0).unwrap(), (vec![2, 6, 8], 12));
        // From the middle of a batch on: it comes whole.
        assert_eq!(read(&log, vec![(7, 0)], 9).unwrap(), (vec![8], 12));
        // The last one is cut.
        assert_eq!(read(&log[..log.len() - 1], vec![(7, 0)], 0).unwrap(), (vec![2, 6, 8], 11));
        assert_eq!(read(&[], Vec::new(), 5).unwrap(), (Vec::new(), 5));
    }

    #[test]
    fn records_without_a_batch_and_half_a_batch_are_named() {
        let mut old = at(3, sample(1, (-1, -1, -1), false));
        old[16] = 1;
        let error = read(&old, Vec::new(), 3).unwrap_err();
        assert!(error.is_unsupported() && error.text.contains("before Kafka 0.11"), "{error}");
        let whole = at(3, sample(1, (-1, -1, -1), false));
        let error = read(&whole[..whole.len() - 1], Vec::new(), 3).unwrap_err();
        assert!(error.is_unsupported(), "{error}");
    }
}
