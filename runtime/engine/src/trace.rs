//! A tag behind the log, read back from Kafka: which record its last sample is, how far each sink has come, and what it was in the last hours.
//!
//! Both begin where the topic's timestamps say, and are bounded in records and time: a question of a person never reads a whole topic.

use crate::Engine;
use crate::intake::TagReport;
use crate::sinks::decode_sample;
use crate::source_logs::CURSOR;
use crate::topics::Topic;
use crate::writer_schemas::WriterSchemas;
use millrace_config::Reason;
use millrace_contract::is_meant;
pub use millrace_kafka::KafkaError;
use millrace_kafka::{Consumer, Message, Polled, TopicPartition};
use millrace_registry::SchemaId;
use millrace_schemas::{Batch, Micros, Row, Value};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long Kafka may take for one answer, and reading for one question.
const PATIENCE: Duration = Duration::from_secs(5);
const READING: Duration = Duration::from_secs(4);
/// How long it rests until it looks for a fresh sample once more.
const AGAIN: Duration = Duration::from_millis(100);
/// A sample that is younger, in microseconds, may not be in Kafka yet.
const FRESH: i64 = 10_000_000;
/// Records read to find one, and to draw a trend.
const SEARCHED: u64 = 20_000;
const DRAWN: i64 = 200_000;
/// Points of a trend, and of a stretch of its time.
const POINTS: usize = 2_500;
const OF_A_STRETCH: usize = 5;
/// A sample may be of the future by so many microseconds: another clock.
const AHEAD: i64 = 60_000_000;

/// A tag's last sample, from the log to the sinks.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// Of the lane of its topic: the next offset that Kafka does not have, and the log's end.
    pub sent: u64,
    pub end: u64,
    pub record: Found,
    pub sinks: Vec<Reader>,
}

/// Where the last sample is.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Found {
    There {
        partition: i32,
        offset: i64,
        /// Its number, which is its offset in the source's log.
        seq: i64,
        /// The id of its schema in the registry.
        schema: Option<i32>,
    },
    /// Kafka begins behind it: retention took it.
    Deleted {
        oldest_ms: i64,
    },
    /// It is in none of the records from its time on.
    NotThere {
        read: u64,
    },
    /// It was read a moment ago, and is not in Kafka yet.
    OnItsWay,
    /// More records were made since than are looked at for one question.
    TooFar {
        read: u64,
    },
    /// It is none of its own: a column of a wide record, or nothing was read yet.
    NoRecord,
    Unknown {
        why: String,
    },
}

/// A sink that reads the tag's topic.
#[derive(Clone, Debug, Serialize)]
pub struct Reader {
    pub sink: String,
    /// Of the record's partition: what it reads next, as it has committed; `None`: nothing yet, or Kafka does not say.
    pub committed: Option<i64>,
    /// Records of that partition behind it.
    pub behind: Option<i64>,
}

/// A time in microseconds, a value (booleans as 0 and 1; `None`: it is no number), and a status.
pub type Point = (i64, Option<f64>, u32);

/// What a tag was, as Kafka has it; where that is much, of each stretch of time the first, the lowest, the highest and the last value, and what is bad.
#[derive(Clone, Debug, Serialize)]
pub struct Trend {
    pub topic: Arc<str>,
    /// From where on Kafka was read, in microseconds since 1970: later than asked where there is too much, or nothing older.
    pub from: i64,
    /// All that was asked for was read.
    pub complete: bool,
    pub records: u64,
    pub points: Vec<Point>,
}

/// A sample of the tag that is looked for.
struct Sample<'a> {
    message: Message<'a>,
    row: Row,
    seq: i64,
}

/// Reads the samples of one tag.
struct Samples<'a> {
    consumer: Consumer,
    topic: Arc<Topic>,
    tag: &'a str,
    writers: Option<WriterSchemas>,
    parts: Vec<TopicPartition>,
    read: u64,
    /// The timestamp of the oldest record that was read.
    oldest_ms: i64,
}

impl Engine {
    /// Follows a tag's last sample. Blocks, for some seconds at most.
    pub fn trace(&self, tag: &TagReport) -> Trace {
        let topic = self.ground.topics.get(&tag.topic);
        let name = tag.source.rsplit('/').next().unwrap_or(&tag.source);
        let log = self.logs(name).into_iter().find(|(lane, _)| *lane == topic.lane).map(|(_, log)| log);
        let sent = log.as_ref().and_then(|log| log.cursor(CURSOR)).map_or(0, |(offset, _)| offset);
        let end = log.as_ref().map_or(0, |log| log.end());
        let (record, part) = match self.find(tag, &topic, sent >= end) {
            Ok(found) => found,
            Err(error) => (Found::Unknown { why: error.to_string() }, None),
        };
        let readers = self
            .sinks
            .read()
            .iter()
            .filter(|sink| sink.topics.iter().any(|pattern| is_meant(pattern, &tag.topic)))
            .cloned()
            .collect::<Vec<_>>();
        let reader = |sink: &Arc<crate::engine::RunningSink>| {
            let place = part.as_ref().and_then(|(part, end)| {
                let consumer = self.ground.group_of(sink).ok()?;
                let committed = consumer.committed(std::slice::from_ref(part), PATIENCE).ok()?.first().copied()??;
                Some((committed, (end - committed).max(0)))
            });
            Reader { sink: sink.name.clone(), committed: place.map(|(committed, _)| committed), behind: place.map(|(_, behind)| behind) }
        };
        Trace { sent, end, record, sinks: readers.iter().map(reader).collect() }
    }

    /// `is_sent`: Kafka has all of its lane.
    fn find(&self, tag: &TagReport, topic: &Arc<Topic>, is_sent: bool) -> Result<(Found, Option<(TopicPartition, i64)>), KafkaError> {
        if topic.shape.is_some() || tag.time == 0 {
            return Ok((Found::NoRecord, None));
        }
        let mut samples = self.samples(&tag.tag, topic)?;
        // Kafka's timestamp is the sample's time, or when it was read.
        let since_ms = tag.time.min(tag.sent).div_euclid(1000);
        let from = samples.since(since_ms)?;
        let is_cut = samples.begins_behind(&from)?;
        let (wanted, has_registry) = (tag.time, self.ground.registry.is_some());
        // What was read a moment ago may still be on its way, or in a transaction.
        let is_fresh = Micros::now().0.saturating_sub(tag.sent) < FRESH;
        let until = Instant::now() + READING;
        let mut found = None;
        let is_all = loop {
            let is_all = samples.read(&from, SEARCHED, |sample| {
                // Of several that were read at the same time it is the last.
                if sample.row.time.0 == wanted {
                    let prefix = if has_registry { sample.message.value().and_then(SchemaId::split) } else { None };
                    found = Some((sample.message.partition(), sample.message.offset(), sample.seq, prefix.map(|(id, _)| id.0)));
                }
                if found.is_some() && sample.row.time.0 > wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if found.is_some() || !is_fresh || is_sent && is_cut || !is_all || Instant::now() > until {
                break is_all;
            }
            std::thread::sleep(AGAIN);
        };
        let Some((partition, offset, seq, schema)) = found else {
            let found = match samples.read {
                read if is_cut && (is_sent || !is_fresh) && (read == 0 || samples.oldest_ms > since_ms) => {
                    Found::Deleted { oldest_ms: samples.oldest_ms }
                }
                _ if is_fresh => Found::OnItsWay,
                read if !is_all => Found::TooFar { read },
                read => Found::NotThere { read },
            };
            return Ok((found, None));
        };
        let part = TopicPartition::new(&*topic.name, partition);
        let (_, end) = samples.consumer.watermarks(&part, PATIENCE)?;
        let has_prefix = schema.filter(|_| topic.mark != 0 || topic.shape.is_some() || topic.from_source);
        Ok((Found::There { partition, offset, seq, schema: has_prefix }, Some((part, end))))
    }

    /// What a tag was since a time, in microseconds since 1970. Blocks, for some seconds at most.
    ///
    /// Errors: Kafka can't be asked.
    pub fn trend(&self, tag: &TagReport, since: i64) -> Result<Trend, KafkaError> {
        let topic = self.ground.topics.get(&tag.topic);
        let mut trend = Trend { topic: topic.name.clone(), from: since, complete: topic.shape.is_none(), records: 0, points: Vec::new() };
        if topic.shape.is_some() {
            return Ok(trend);
        }
        let mut samples = self.samples(&tag.tag, &topic)?;
        let mut from = samples.since(since.div_euclid(1000))?;
        // What is newest is there whole, however much there is.
        let most = DRAWN / (samples.parts.len().max(1) as i64);
        let mut is_cut = false;
        for (part, at) in &mut from {
            let (_, end) = samples.consumer.watermarks(part, PATIENCE)?;
            is_cut |= end - *at > most;
            *at = (*at).max(end - most);
        }
        let until = Micros::now().0;
        let points = &mut trend.points;
        let ended = samples.read(&from, u64::MAX, |Sample { row, .. }| {
            if row.time.0 >= since && row.time.0 <= until.saturating_add(AHEAD) {
                points.push((row.time.0, number(row.value), row.status.0));
                if points.len() >= 2 * POINTS {
                    thin(points, POINTS);
                }
            }
            ControlFlow::Continue(())
        })?;
        if points.len() > POINTS {
            thin(points, POINTS);
        }
        points.sort_by_key(|point| point.0);
        trend.records = samples.read;
        trend.complete = ended && !is_cut;
        if is_cut {
            trend.from = trend.points.first().map_or(until, |point| point.0);
        }
        Ok(trend)
    }

    fn samples<'a>(&self, tag: &'a str, topic: &Arc<Topic>) -> Result<Samples<'a>, KafkaError> {
        let ground = &self.ground;
        let consumer = Consumer::reader(&ground.settings, true)?;
        let count = consumer.partitions(&topic.name, PATIENCE)?;
        let parts = (0..count).map(|partition| TopicPartition::new(&*topic.name, partition as i32)).collect();
        let writers = ground.registry.clone().map(|client| WriterSchemas::new(client, tokio::runtime::Handle::current()));
        Ok(Samples { consumer, topic: topic.clone(), tag, writers, parts, read: 0, oldest_ms: i64::MAX })
    }
}

impl Samples<'_> {
    /// Where each partition has its first record that is not older; the end where there is none.
    fn since(&self, since_ms: i64) -> Result<Vec<(TopicPartition, i64)>, KafkaError> {
        let found = self.consumer.offsets_since(&self.parts, since_ms, PATIENCE)?;
        let mut from = Vec::with_capacity(self.parts.len());
        for (part, offset) in self.parts.iter().zip(found) {
            let at = match offset {
                Some(offset) => offset,
                None => self.consumer.watermarks(part, PATIENCE)?.1,
            };
            from.push((part.clone(), at));
        }
        Ok(from)
    }

    /// Whether a partition is read from its beginning, and that is not its first record ever.
    fn begins_behind(&self, from: &[(TopicPartition, i64)]) -> Result<bool, KafkaError> {
        for (part, at) in from {
            let (low, _) = self.consumer.watermarks(part, PATIENCE)?;
            if low > 0 && *at <= low {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hands on each sample of the tag until `each` has enough, so many records were read, time is over, or all was read that is there now. Whether the
    /// last is so.
    fn read(
        &mut self,
        from: &[(TopicPartition, i64)],
        most: u64,
        mut each: impl FnMut(Sample<'_>) -> ControlFlow<()>,
    ) -> Result<bool, KafkaError> {
        // To the end as it was: where records come all the time there is no other.
        let mut ends = BTreeMap::new();
        for (part, at) in from {
            let (_, end) = self.consumer.watermarks(part, PATIENCE)?;
            if *at < end {
                ends.insert(part.partition, end);
            }
        }
        let placed: Vec<_> = from.iter().map(|(part, at)| (part.clone(), Some(*at))).collect();
        self.consumer.take(&placed)?;
        let until = Instant::now() + READING;
        self.read = 0;
        let mut batch = Batch::new();
        let Self { consumer, topic, tag, writers, read, oldest_ms, .. } = self;
        let (mut is_enough, mut trouble) = (false, None);
        while !ends.is_empty() && !is_enough && *read < most && Instant::now() < until {
            let polled = consumer.poll(Duration::from_millis(200), |message| {
                *read += 1;
                *oldest_ms = (*oldest_ms).min(message.timestamp_ms());
                if ends.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                    ends.remove(&message.partition());
                }
                match sample(&message, topic, tag, writers.as_mut(), &mut batch) {
                    Ok(Some((row, seq))) => is_enough = each(Sample { message, row, seq }).is_break(),
                    Ok(None) => {}
                    Err(why) => trouble = Some(why),
                }
                !is_enough && *read < most
            });
            match polled {
                Polled::End(part, _) => _ = ends.remove(&part.partition),
                Polled::Failed(error) => return Err(error),
                _ => {}
            }
        }
        if let Some(why) = trouble {
            tracing::debug!(topic = &*topic.name, "a sample is not read: {why}");
        }
        Ok(ends.is_empty())
    }
}

/// A record as a sample of this tag, with its number; `None`: it is another's, or no sample.
fn sample(
    message: &Message<'_>,
    topic: &Topic,
    tag: &str,
    writers: Option<&mut WriterSchemas>,
    batch: &mut Batch,
) -> Result<Option<(Row, i64)>, Reason> {
    let Some(value) = message.value() else { return Ok(None) };
    // Most records are of other tags, which is seen without reading them.
    if topic.key == crate::sample_key::SampleKey::Tag && message.key().is_some_and(|key| key != tag.as_bytes()) {
        return Ok(None);
    }
    let prefix = if writers.is_some() { topic.prefix_of(value) } else { 0 };
    let writers = writers.filter(|_| usize::from(prefix) == SchemaId::PREFIX);
    batch.clear();
    match decode_sample(topic.format, value, prefix, writers, batch) {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Ok(None),
        Err(failure) => return Err(failure.to_string().into()),
    }
    let Some((row, columns)) = batch.rows.first().zip(batch.decoded.as_ref()) else { return Ok(None) };
    let is_wanted = columns.tag_path.first().is_some_and(|path| batch.text_of(*path) == tag);
    Ok(is_wanted.then(|| (*row, columns.seq.first().copied().unwrap_or(0))))
}

fn number(value: Value) -> Option<f64> {
    let number = match value {
        Value::Bool(value) => f64::from(u8::from(value)),
        Value::Int(value) => value as f64,
        Value::UInt(value) => value as f64,
        Value::Double(value) => value,
        Value::Null | Value::Text(_) | Value::Bytes(_) | Value::Array(..) | Value::Struct(_) => return None,
    };
    number.is_finite().then_some(number)
}

/// Fewer points that look the same: of each stretch of time the first, the last, the lowest, the highest, and the first that has no value.
fn thin(points: &mut Vec<Point>, most: usize) {
    points.sort_by_key(|point| point.0);
    let (Some(from), Some(to)) = (points.first().map(|point| point.0), points.last().map(|point| point.0)) else { return };
    let width = (to - from) / (most / OF_A_STRETCH).max(1) as i64 + 1;
    let mut kept = Vec::with_capacity(most);
    for stretch in points.chunk_by(|a, b| (a.0 - from) / width == (b.0 - from) / width) {
        let known = || stretch.iter().enumerate().filter_map(|(at, point)| Some((at, point.1?)));
        let by_value = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1);
        let mut wanted = vec![0, stretch.len() - 1];
        wanted.extend(known().min_by(by_value).map(|(at, _)| at));
        wanted.extend(known().max_by(by_value).map(|(at, _)| at));
        wanted.extend(stretch.iter().position(|point| point.1.is_none()));
        wanted.sort_unstable();
        wanted.dedup();
        kept.extend(wanted.into_iter().map(|at| stretch[at]));
    }
    *points = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_stretch_the_first_the_last_the_extremes_and_a_gap_are_kept() {
        let value = |at: i64| match at {
            300 => Some(-5.0),
            600 => Some(99.0),
            800 | 801 => None,
            at => Some((at % 7) as f64),
        };
        let mut points: Vec<Point> = (0..1000).rev().map(|at| (at, value(at), 0)).collect();
        thin(&mut points, 5);
        assert_eq!(points.iter().map(|point| point.0).collect::<Vec<_>>(), [0, 300, 600, 800, 999]);
        let mut few = Vec::new();
        thin(&mut few, 5);
        assert!(few.is_empty());
    }

    #[test]
    fn what_is_no_number_is_none() {
        assert_eq!((number(Value::Bool(true)), number(Value::Int(-3)), number(Value::Double(f64::NAN))), (Some(1.0), Some(-3.0), None));
    }
}
