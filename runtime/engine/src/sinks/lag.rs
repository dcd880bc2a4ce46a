//! How far a sink is behind Kafka: records, bytes, the age of the oldest that waits, and when it will have caught up.
//!
//! ```text
//! assigned ─▶ partition: where it begins      read ─▶ behind which record it is, and how old that one is      end ─▶ nothing waits
//! measure (each flush; after a failure, by asking) ─▶ standing
//! ```
//!
//! It outlives a session: a target that is away for days shows in it, at once by what was read and is not durable. The oldest that waits is as old as the last that was read, or, where none was, as the
//! one that was looked up. Marks of transactions have offsets, too: who was told the end of a partition has all of it.

use millrace_kafka::{Consumer, KafkaError, Polled, Settings, TopicPartition};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long Kafka may take to say how far its partitions go.
const ASK: Duration = Duration::from_secs(3);
/// Partitions whose oldest record is looked up at once.
const DATED: usize = 50;
/// How much the last measurement counts in a rate.
const WEIGHT: f64 = 0.2;
/// The least time between two that make a rate.
const BETWEEN: Duration = Duration::from_millis(500);

/// How far a sink is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Standing {
    pub records: u64,
    /// By the mean of those that were read; 0 before.
    pub bytes: u64,
    /// When the oldest that waits was written, milliseconds since 1970; `None`: nothing waits, or nobody knows.
    pub oldest_ms: Option<i64>,
    /// Seconds until nothing waits, at the rate of the last minutes; `None`: never at this one.
    pub catch_up: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Part {
    /// The offset behind the last record read; `None`: nobody knows yet.
    next: Option<i64>,
    end: i64,
    /// The time of the record in front of `next`, or at it.
    time_ms: Option<i64>,
}

/// What is known of a sink's partitions.
#[derive(Debug, Default)]
pub(super) struct Lag {
    parts: HashMap<TopicPartition, Part>,
    /// Of the records that were read, in all.
    read: u64,
    bytes: u64,
    /// Since when something is read that is not durable, milliseconds since 1970.
    open_ms: Option<i64>,
    /// When rates were taken last, and what had been read and written then.
    taken: Option<(Instant, u64, i64)>,
    read_per_s: f64,
    written_per_s: f64,
}

impl Lag {
    /// A partition is this sink's, and it begins there, where that is known.
    pub fn assigned(&mut self, part: &TopicPartition, next: Option<i64>) {
        let known = self.parts.entry(part.clone()).or_default();
        if next.is_some() && known.next != next {
            *known = Part { next, end: known.end, time_ms: None };
        }
    }

    pub fn revoked(&mut self, part: &TopicPartition) {
        self.parts.remove(part);
    }

    /// Records up to there were read.
    pub fn read(&mut self, part: &TopicPartition, next: i64, time_ms: i64) {
        if let Some(known) = self.parts.get_mut(part) {
            known.next = Some(next);
            known.end = known.end.max(next);
            known.time_ms = (time_ms > 0).then_some(time_ms);
        }
    }

    pub fn counted(&mut self, records: u64, bytes: u64, now_ms: i64) {
        self.read += records;
        self.bytes += bytes;
        self.open_ms.get_or_insert(now_ms);
    }

    /// What was read is durable.
    pub fn flushed(&mut self) {
        self.open_ms = None;
    }

    pub fn open_ms(&self) -> Option<i64> {
        self.open_ms
    }

    /// Of all that was read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// There is nothing behind what was read.
    pub fn at_end(&mut self, part: &TopicPartition, offset: i64) {
        if let Some(known) = self.parts.get_mut(part) {
            known.next = known.next.max(Some(offset));
            known.end = known.end.max(offset);
        }
    }

    /// There is more behind what was read, up to there.
    pub fn ends(&mut self, part: &TopicPartition, end: i64) {
        if let Some(known) = self.parts.get_mut(part) {
            known.end = known.end.max(end);
        }
    }

    pub fn measure(&mut self, now: Instant, end: impl Fn(&TopicPartition) -> Option<i64>) -> Standing {
        let mut standing = Standing::default();
        for (name, part) in &mut self.parts {
            part.end = part.end.max(end(name).unwrap_or(0));
            let waits = part.next.map_or(0, |next| (part.end - next).max(0) as u64);
            standing.records += waits;
            if waits > 0 {
                standing.oldest_ms = match (standing.oldest_ms, part.time_ms) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
        }
        if self.read > 0 {
            standing.bytes = (standing.records as f64 * (self.bytes as f64 / self.read as f64)) as u64;
        }
        self.rate(now);
        let gain = self.read_per_s - self.written_per_s;
        standing.catch_up = match standing.records {
            0 => Some(0.0),
            records => (gain > 0.0).then(|| records as f64 / gain),
        };
        standing
    }

    fn rate(&mut self, now: Instant) {
        let written: i64 = self.parts.values().map(|part| part.end).sum();
        let Some((then, read_then, written_then)) = self.taken else {
            self.taken = Some((now, self.read, written));
            return;
        };
        let passed = now.saturating_duration_since(then);
        if passed < BETWEEN {
            return;
        }
        self.taken = Some((now, self.read, written));
        let blend = |old: &mut f64, count: f64| *old += WEIGHT * (count.max(0.0) / passed.as_secs_f64() - *old);
        blend(&mut self.read_per_s, (self.read - read_then) as f64);
        blend(&mut self.written_per_s, (written - written_then) as f64);
    }

    /// Partitions, where they were read to, and whether it is known how old the oldest is that waits.
    fn open(&self) -> Vec<(TopicPartition, Option<i64>, bool)> {
        self.parts.iter().map(|(name, part)| (name.clone(), part.next, part.time_ms.is_some())).collect()
    }
}

/// Asks Kafka what a sink that does not run is behind; each answer is noted in `lag`.
pub(super) fn survey(settings: &Settings, lag: &parking_lot::Mutex<Lag>) -> Result<Standing, KafkaError> {
    let open = lag.lock().open();
    let reader = Consumer::reader(settings, true)?;
    let (mut ends, mut dated) = (HashMap::new(), 0);
    for (name, next, is_dated) in open {
        let (low, end) = reader.watermarks(&name, ASK)?;
        ends.insert(name.clone(), end);
        let next = next.unwrap_or(low).max(low);
        let time_ms = if !is_dated && next < end && dated < DATED {
            dated += 1;
            time_of(&reader, &name, next)?
        } else {
            None
        };
        if let Some(part) = lag.lock().parts.get_mut(&name) {
            part.next = Some(next);
            part.time_ms = part.time_ms.or(time_ms);
        }
    }
    Ok(lag.lock().measure(Instant::now(), |name| ends.get(name).copied()))
}

/// When the first record from there was written; `None`: there is none that is decided.
fn time_of(reader: &Consumer, name: &TopicPartition, next: i64) -> Result<Option<i64>, KafkaError> {
    reader.take(&[(name.clone(), Some(next))])?;
    let deadline = Instant::now() + ASK;
    let mut time_ms = None;
    while time_ms.is_none() && Instant::now() < deadline {
        let polled = reader.poll(Duration::from_millis(200), |message| {
            time_ms = Some(message.timestamp_ms());
            false
        });
        if matches!(polled, Polled::End(..) | Polled::Failed(_)) {
            break;
        }
    }
    reader.give(std::slice::from_ref(name))?;
    Ok(time_ms.filter(|time| *time > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: i32) -> TopicPartition {
        TopicPartition::new("t", number)
    }

    #[test]
    fn what_waits_has_the_age_of_the_last_that_was_read_and_marks_of_transactions_do_not_wait() {
        let (mut lag, now) = (Lag::default(), Instant::now());
        lag.assigned(&part(0), Some(10));
        lag.assigned(&part(1), None);
        assert_eq!(lag.measure(now, |_| Some(10)), Standing { catch_up: Some(0.0), ..Standing::default() });
        lag.read(&part(0), 20, 5_000);
        lag.counted(10, 1_000, 7_000);
        assert_eq!(lag.open_ms(), Some(7_000));
        lag.flushed();
        assert_eq!(lag.open_ms(), None);
        let behind = lag.measure(now, |name| (*name == part(0)).then_some(25));
        assert_eq!((behind.records, behind.bytes, behind.oldest_ms), (5, 500, Some(5_000)));
        lag.at_end(&part(0), 25);
        assert_eq!(lag.measure(now, |_| None).records, 0);
        lag.revoked(&part(0));
        lag.read(&part(0), 30, 6_000);
        assert_eq!(lag.measure(now, |_| Some(99)).records, 0, "it is another one's now");
    }

    #[test]
    fn it_catches_up_when_more_is_read_than_written() {
        let (mut lag, mut now) = (Lag::default(), Instant::now());
        lag.assigned(&part(0), Some(0));
        let mut end = 100_000;
        let mut standing = lag.measure(now, |_| Some(end));
        assert_eq!(standing.catch_up, None, "nothing was read yet");
        for step in 1..=60 {
            now += Duration::from_secs(1);
            end += 100;
            lag.read(&part(0), step * 1_100, 1);
            lag.counted(1_100, 0, 0);
            standing = lag.measure(now, |_| Some(end));
        }
        let (left, gain) = (standing.records as f64, 1_000.0);
        assert!(standing.catch_up.is_some_and(|seconds| (seconds / (left / gain) - 1.0).abs() < 0.1), "{standing:?}");
    }
}
