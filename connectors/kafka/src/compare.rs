//! What `millrace replicate` answers: how far the copy is, and whether both sides have the same.
//!
//! ```text
//! status   per partition: position at the target, end at home, what lies between: records, bytes (by a sample), age of the oldest
//! verify   per partition and range of time: count and checksum of what is at home, below the position, and of what is at the target
//!          of a compacted topic: the last record of each key
//! ```
//!
//! A checksum is a sum over records, so that neither repeats nor a hole elsewhere hide in it, and the order within a range does not matter.
//! Invariants: nothing is written at home or into the copies; what retention took on one side is not judged, and said.

use crate::leaving::{Leaver, Leaving, Outcome};
use crate::names::ORIGIN;
use crate::positions;
use crate::sink::Replication;
use crate::target::failure;
use millrace_contract::{Failure, Partition, is_meant};
use millrace_kafka::{Admin, Consumer, Message, Settings, TopicPartition};
use millrace_schemas::{headers, push_header};
use ring::digest;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const PATIENCE: Duration = Duration::from_secs(30);
/// Records of a partition that are looked at to estimate the bytes of all.
const SAMPLE: i64 = 200;
/// Keys of a compacted partition that are held in memory, 24 bytes each.
const KEYS: usize = 20_000_000;

/// How far a copy is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Standing {
    pub partitions: Vec<PartStanding>,
    pub lag_records: u64,
    pub lag_bytes: u64,
    /// The age of the oldest record that is not copied.
    pub lag_seconds: f64,
    /// Copied and written per second, while it was watched.
    pub copied_per_s: f64,
    pub written_per_s: f64,
    /// `None`: at this rate, never.
    pub catch_up_seconds: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct PartStanding {
    pub topic: Arc<str>,
    pub at_target: String,
    pub partition: i32,
    /// The next offset to copy; `None`: nothing was copied yet.
    pub position: Option<i64>,
    pub first: i64,
    pub end: i64,
    pub lag_records: u64,
    pub lag_bytes: u64,
    pub lag_seconds: f64,
    /// Records that retention took at home before they were copied.
    pub lost: u64,
}

/// What one range has on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    pub topic: Arc<str>,
    pub partition: i32,
    /// Milliseconds since 1970; `None`: the whole partition.
    pub from_ms: Option<i64>,
    pub at_home: Sum,
    pub at_target: Sum,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Equal,
    Differs,
    /// Retention took some of it on one side.
    NotJudged,
}

/// Of some records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Sum {
    pub count: u64,
    #[serde(serialize_with = "as_hex")]
    pub checksum: u64,
}

fn as_hex<S: serde::Serializer>(sum: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{sum:016x}"))
}

impl Sum {
    fn add(&mut self, digest: u64) {
        self.count += 1;
        self.checksum = self.checksum.wrapping_add(digest);
    }
}

/// One sink's copy, looked at from outside.
pub struct Comparison<'r> {
    replication: &'r Replication,
    /// Names and patterns.
    topics: &'r [String],
}

impl<'r> Comparison<'r> {
    pub(crate) fn new(replication: &'r Replication, topics: &'r [String]) -> Self {
        Self { replication, topics }
    }

    fn parts(&self) -> Result<Vec<Partition>, Failure> {
        let shapes = Admin::new(&self.replication.home, PATIENCE).and_then(|admin| admin.topics());
        let shapes: BTreeMap<_, _> = shapes.map_err(|e| failure("cannot ask the factory's Kafka", &e))?.into_iter().collect();
        let is_copied = |name: &str| self.topics.iter().any(|topic| is_meant(topic, name)) && !self.replication.names.stays(name);
        let copied = shapes.into_iter().filter(|(name, _)| is_copied(name));
        Ok(copied
            .flat_map(|(name, shape)| {
                let topic: Arc<str> = name.into();
                (0..shape.partitions).map(move |partition| Partition { topic: topic.clone(), partition })
            })
            .collect())
    }

    fn held(&self) -> Result<HashMap<Partition, i64>, Failure> {
        let replication = self.replication;
        let held = positions::read(&replication.target, &replication.names.origin, &replication.carrying.name);
        let held = held.map_err(|e| failure("cannot read positions at the target", &e))?.unwrap_or_default();
        Ok(held.into_iter().map(|(part, held)| (part, held.reached())).collect())
    }

    /// Looks at the copy, for so long that rates can be told.
    pub fn status(&self, over: Duration) -> Result<Standing, Failure> {
        let parts = self.parts()?;
        let reader = Consumer::reader(&self.replication.home, true).map_err(|e| failure("cannot read from the factory's Kafka", &e))?;
        let ends = |parts: &[Partition]| -> Result<HashMap<Partition, (i64, i64)>, Failure> {
            let ask = |part: &Partition| reader.watermarks(&TopicPartition::new(part.topic.clone(), part.partition), PATIENCE);
            let ask = |part: &Partition| ask(part).map_err(|e| failure("cannot ask for the offsets of a partition", &e));
            parts.iter().map(|part| Ok((part.clone(), ask(part)?))).collect()
        };
        let started = Instant::now();
        let (before, ends_before) = (self.held()?, ends(&parts)?);
        std::thread::sleep(over);
        let (held, bounds) = (self.held()?, ends(&parts)?);
        let took = started.elapsed().as_secs_f64().max(0.001);
        let moved = |now: i64, then: Option<i64>| (now - then.unwrap_or(now)).max(0) as f64;
        let copied: f64 = held.iter().map(|(part, now)| moved(*now, before.get(part).copied())).sum();
        let written: f64 = bounds.iter().map(|(part, (_, now))| moved(*now, ends_before.get(part).map(|(_, end)| *end))).sum();
        let mut standing = Standing { copied_per_s: copied / took, written_per_s: written / took, ..Standing::default() };
        drop(reader);
        let waiting = self.waiting(&parts, &held, &bounds)?;
        for part in parts {
            let (first, end) = bounds[&part];
            let position = held.get(&part).copied();
            let next = position.unwrap_or(first).clamp(first, end);
            let seen = waiting.get(&part).copied().unwrap_or_default();
            // Marks of transactions have offsets, too: where all that waits was seen, it is counted.
            let records = if end - next > SAMPLE { (end - next) as u64 } else { seen.records };
            let bytes = if seen.records == 0 { 0 } else { (seen.bytes as f64 / seen.records as f64 * records as f64) as u64 };
            standing.lag_records += records;
            standing.lag_bytes += bytes;
            standing.lag_seconds = standing.lag_seconds.max(seen.age());
            standing.partitions.push(PartStanding {
                at_target: self.replication.names.at_target(&part.topic),
                lost: position.map_or(0, |position| (first - position).max(0) as u64),
                lag_records: records,
                lag_bytes: bytes,
                lag_seconds: seen.age(),
                topic: part.topic,
                partition: part.partition,
                position,
                first,
                end,
            });
        }
        let gain = standing.copied_per_s - standing.written_per_s;
        standing.catch_up_seconds = match standing.lag_records {
            0 => Some(0.0),
            lag => (gain > 0.0).then(|| lag as f64 / gain),
        };
        Ok(standing)
    }

    /// The first records that wait, of each partition.
    fn waiting(
        &self,
        parts: &[Partition],
        held: &HashMap<Partition, i64>,
        bounds: &HashMap<Partition, (i64, i64)>,
    ) -> Result<HashMap<Partition, Waiting>, Failure> {
        let (mut from, mut to) = (Vec::new(), HashMap::new());
        for part in parts {
            let (first, end) = bounds[part];
            let next = held.get(part).copied().unwrap_or(first).clamp(first, end);
            let at = TopicPartition::new(part.topic.clone(), part.partition);
            if next < end {
                to.insert(at.clone(), end.min(next + SAMPLE));
                from.push((at, next));
            }
        }
        let mut waiting: HashMap<Partition, Waiting> = HashMap::new();
        read(&self.replication.home, &from, &to, |message| {
            let seen = waiting.entry(Partition { topic: message.topic().into(), partition: message.partition() }).or_default();
            seen.records += 1;
            seen.bytes += (message.key().map_or(0, <[u8]>::len) + message.value().map_or(0, <[u8]>::len)) as u64;
            let time = message.timestamp_ms();
            seen.oldest_ms = Some(seen.oldest_ms.map_or(time, |oldest| oldest.min(time)));
        })?;
        Ok(waiting)
    }

    /// Compares both sides, in ranges of so much time. `tokio`: on which registries are asked.
    pub fn verify(&self, range: Duration, tokio: &tokio::runtime::Handle) -> Result<Vec<Compared>, Failure> {
        let (parts, held) = (self.parts()?, self.held()?);
        let mut topics: Vec<&str> = parts.iter().map(|part| &*part.topic).collect();
        topics.dedup();
        let admin = Admin::new(&self.replication.home, PATIENCE).map_err(|e| failure("cannot ask the factory's Kafka", &e))?;
        let configs = admin.own_configs(&topics).map_err(|e| failure("cannot read the topics' settings", &e))?;
        let is_compacted =
            |config: &BTreeMap<String, String>| config.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
        let compacted: HashMap<&str, bool> = topics.iter().copied().zip(configs.iter().map(is_compacted)).collect();
        let range_ms = i64::try_from(range.as_millis()).unwrap_or(i64::MAX).max(1);
        let mut leaving = Leaving::new(self.replication.guard.clone());
        let mut compared = Vec::new();
        for part in &parts {
            // What leaves in windows of time has no counterpart at home.
            let Some(position) = held.get(part).filter(|_| self.replication.windows(&part.topic).is_none()) else { continue };
            let mut sides = Sides { range_ms: (!compacted[&*part.topic]).then_some(range_ms), ..Sides::default() };
            self.read_home(part, *position, &mut leaving, tokio, &mut sides)?;
            self.read_target(part, &mut sides)?;
            compared.extend(sides.compared(part));
        }
        Ok(compared)
    }

    fn read_home(
        &self,
        part: &Partition,
        position: i64,
        leaving: &mut Leaving,
        tokio: &tokio::runtime::Handle,
        sides: &mut Sides,
    ) -> Result<(), Failure> {
        let at = TopicPartition::new(part.topic.clone(), part.partition);
        let (low, _) = watermarks(&self.replication.home, &at)?;
        let at_target = self.replication.names.at_target(&part.topic);
        let mut outcome = Ok(());
        let mut encoded = Vec::new();
        read(&self.replication.home, &[(at.clone(), low)], &HashMap::from([(at, position)]), |message| {
            if outcome.is_err() {
                return;
            }
            encoded.clear();
            message.headers().for_each(|(name, value)| push_header(&mut encoded, name, value));
            if headers(&encoded).any(|(name, value)| self.replication.stays(name, value)) {
                return;
            }
            let record = Leaver {
                key: message.key(),
                value: message.value(),
                headers: &encoded,
                timestamp_ms: message.timestamp_ms(),
                is_prefixed: false,
            };
            let (key, value, encoded) = match tokio.block_on(leaving.change(&part.topic, &at_target, &record)) {
                Err(failure) => return outcome = Err(failure),
                Ok(Outcome::AsItIs) => (record.key, record.value, &encoded),
                Ok(Outcome::Changed(_)) => {
                    let left = &leaving.left;
                    (record.key.map(|_| &*left.key), record.value.map(|_| &*left.value), &left.headers)
                }
                // It is a dead letter.
                Ok(Outcome::Stays(_)) => return,
            };
            let time = message.timestamp_ms();
            sides.add(Side::Home, key, time, digest(key, value, time, headers(encoded)), message.value().is_none());
        })?;
        outcome?;
        sides.cut(Side::Home, low);
        Ok(())
    }

    fn read_target(&self, part: &Partition, sides: &mut Sides) -> Result<(), Failure> {
        let name = self.replication.names.at_target(&part.topic);
        let at = TopicPartition::new(name, part.partition);
        let (low, high) = watermarks(&self.replication.target, &at)?;
        let provenance = self.replication.carrying.provenance;
        let ours = format!("{}/", self.replication.names.origin);
        read(&self.replication.target, &[(at.clone(), low)], &HashMap::from([(at, high)]), |message| {
            let origin = message.headers().find(|(name, _)| *name == ORIGIN).and_then(|(_, value)| value);
            // Somebody else's, in a topic of the same name.
            if provenance && origin.is_none() {
                return;
            }
            let is_mark = |name: &str, value: Option<&[u8]>| {
                provenance && name == ORIGIN && value.is_some_and(|value| value.starts_with(ours.as_bytes()))
            };
            let kept = message.headers().filter(|(name, value)| !is_mark(name, *value));
            let time = message.timestamp_ms();
            let digest = digest(message.key(), message.value(), time, kept);
            sides.add(Side::Target, message.key(), time, digest, message.value().is_none());
        })?;
        sides.cut(Side::Target, low);
        Ok(())
    }
}

fn watermarks(settings: &Settings, at: &TopicPartition) -> Result<(i64, i64), Failure> {
    let reader = Consumer::reader(settings, true).map_err(|e| failure("cannot read", &e))?;
    reader.watermarks(at, PATIENCE).map_err(|e| failure("cannot ask for the offsets of a partition", &e))
}

fn read(
    settings: &Settings,
    from: &[(TopicPartition, i64)],
    to: &HashMap<TopicPartition, i64>,
    each: impl FnMut(Message<'_>),
) -> Result<(), Failure> {
    if from.is_empty() {
        return Ok(());
    }
    let reader = Consumer::reader(settings, true).map_err(|e| failure("cannot read", &e))?;
    reader.read_to(from, to, PATIENCE, each).map_err(|e| failure("cannot read records", &e))
}

#[derive(Clone, Copy, Default)]
struct Waiting {
    records: u64,
    bytes: u64,
    oldest_ms: Option<i64>,
}

impl Waiting {
    fn age(&self) -> f64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        self.oldest_ms.map_or(0.0, |oldest| (now - oldest).max(0) as f64 / 1000.0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Home,
    Target,
}

/// What both sides have of a partition.
#[derive(Default)]
struct Sides {
    /// `None`: of a compacted topic.
    range_ms: Option<i64>,
    ranges: BTreeMap<i64, [Sum; 2]>,
    /// Of a compacted topic: the last record of each key, by digests.
    keys: [HashMap<u64, u64>; 2],
    oldest_ms: [Option<i64>; 2],
    /// Nothing before it is judged.
    judged_from_ms: Option<i64>,
    overflows: bool,
}

impl Sides {
    fn add(&mut self, side: Side, key: Option<&[u8]>, time: i64, digest: u64, is_tombstone: bool) {
        let side = side as usize;
        self.oldest_ms[side] = Some(self.oldest_ms[side].map_or(time, |oldest| oldest.min(time)));
        match self.range_ms {
            Some(range) => self.ranges.entry(time.div_euclid(range)).or_default()[side].add(digest),
            None => {
                let name = key.map_or(0, |key| first_64(digest::digest(&digest::SHA256, key).as_ref()));
                if is_tombstone {
                    // Sooner on one side than on the other it is gone.
                    self.keys[side].remove(&name);
                } else if self.keys[side].len() < KEYS {
                    self.keys[side].insert(name, digest);
                } else {
                    self.overflows = true;
                }
            }
        }
    }

    /// One side begins at this offset.
    fn cut(&mut self, side: Side, low: i64) {
        if low > 0 {
            self.judged_from_ms = self.judged_from_ms.max(Some(self.oldest_ms[side as usize].unwrap_or(i64::MAX)));
        }
    }

    fn compared(self, part: &Partition) -> Vec<Compared> {
        let of = |from_ms, [at_home, at_target]: [Sum; 2], is_judged: bool| {
            let verdict = match at_home == at_target {
                true => Verdict::Equal,
                false if is_judged => Verdict::Differs,
                false => Verdict::NotJudged,
            };
            Compared { topic: part.topic.clone(), partition: part.partition, from_ms, at_home, at_target, verdict }
        };
        let Some(range) = self.range_ms else {
            let sum = |keys: &HashMap<u64, u64>| {
                let mut sum = Sum::default();
                keys.iter().for_each(|(key, value)| sum.add(key.wrapping_mul(31).wrapping_add(*value)));
                sum
            };
            return vec![of(None, [sum(&self.keys[0]), sum(&self.keys[1])], !self.overflows)];
        };
        let is_judged = |bucket: i64| self.judged_from_ms.is_none_or(|from| bucket.saturating_mul(range) >= from);
        self.ranges.iter().map(|(bucket, sums)| of(Some(bucket.saturating_mul(range)), *sums, is_judged(*bucket))).collect()
    }
}

fn digest<'h>(key: Option<&[u8]>, value: Option<&[u8]>, time: i64, headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>) -> u64 {
    let mut sha = digest::Context::new(&digest::SHA256);
    let mut add = |bytes: Option<&[u8]>| {
        sha.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        sha.update(bytes.unwrap_or_default());
    };
    add(key);
    add(value);
    add(Some(&time.to_le_bytes()));
    for (name, value) in headers {
        add(Some(name.as_bytes()));
        add(value);
    }
    first_64(sha.finish().as_ref())
}

fn first_64(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> Partition {
        Partition { topic: "t".into(), partition: 0 }
    }

    fn add(sides: &mut Sides, side: Side, times: &[i64]) {
        for time in times {
            let value = time.to_string();
            let digest = digest(Some(b"k"), Some(value.as_bytes()), *time, std::iter::empty());
            sides.add(side, Some(value.as_bytes()), *time, digest, false);
        }
    }

    fn verdicts(sides: Sides) -> Vec<(Option<i64>, u64, u64, Verdict)> {
        sides.compared(&part()).into_iter().map(|one| (one.from_ms, one.at_home.count, one.at_target.count, one.verdict)).collect()
    }

    #[test]
    fn a_range_differs_where_a_record_is_missing_doubled_or_another_and_the_others_do_not() {
        let mut sides = Sides { range_ms: Some(10), ..Sides::default() };
        add(&mut sides, Side::Home, &[1, 2, 11, 12, 21, 31]);
        add(&mut sides, Side::Target, &[2, 1, 11, 21, 21, 32]);
        assert_eq!(
            verdicts(sides),
            [
                (Some(0), 2, 2, Verdict::Equal),
                (Some(10), 2, 1, Verdict::Differs),
                (Some(20), 1, 2, Verdict::Differs),
                (Some(30), 1, 1, Verdict::Differs)
            ]
        );
    }

    #[test]
    fn what_retention_took_on_one_side_is_not_judged() {
        let mut sides = Sides { range_ms: Some(10), ..Sides::default() };
        add(&mut sides, Side::Home, &[12, 13, 21]);
        sides.cut(Side::Home, 100);
        add(&mut sides, Side::Target, &[1, 2, 11, 12, 13, 21]);
        sides.cut(Side::Target, 0);
        let expected = [(Some(0), 0, 2, Verdict::NotJudged), (Some(10), 2, 3, Verdict::NotJudged), (Some(20), 1, 1, Verdict::Equal)];
        assert_eq!(verdicts(sides), expected);
    }

    #[test]
    fn of_a_compacted_topic_the_last_of_each_key_counts() {
        let mut sides = Sides::default();
        for (side, records) in [(Side::Home, &[("a", "1"), ("b", "1"), ("a", "2")][..]), (Side::Target, &[("b", "1"), ("a", "2")])] {
            for (key, value) in records {
                let digest = digest(Some(key.as_bytes()), Some(value.as_bytes()), 0, std::iter::empty());
                sides.add(side, Some(key.as_bytes()), 0, digest, false);
            }
        }
        assert_eq!(verdicts(sides), [(None, 2, 2, Verdict::Equal)]);
    }

    #[test]
    fn null_and_empty_differ_and_so_do_headers_and_times() {
        let none = std::iter::empty;
        let all = [
            digest(None, Some(b""), 0, none()),
            digest(Some(b""), None, 0, none()),
            digest(Some(b""), Some(b""), 0, none()),
            digest(Some(b""), Some(b""), 1, none()),
            digest(Some(b""), Some(b""), 0, [("a", None)].into_iter()),
            digest(Some(b""), Some(b""), 0, [("a", Some(&b""[..]))].into_iter()),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(!all[n + 1..].contains(one), "{n}");
        }
    }
}
