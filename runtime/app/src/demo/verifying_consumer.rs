//! The consumer: an ordinary consumer of Kafka that knows nothing of the runtime, and notes which numbers of which device it has read.

use anyhow::{Context, Result};
use millrace_kafka::{Consumer, Polled, Settings, TopicPartition};
use millrace_schemas::{Batch, Micros, Origin, Value, avro};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The topic of the numbers.
const TOPIC: &str = "telemetry";
/// A gap that does not fill within this time is a loss.
const PATIENCE: Duration = Duration::from_secs(15);

/// The numbers of one device that were read: all from `base` up to `head`, and some beyond.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    /// The number before the first; `None`: whatever is seen first is the first.
    base: Option<u64>,
    head: u64,
    beyond: BTreeSet<u64>,
    /// Since when a gap waits to be filled.
    open_since: Option<Instant>,
    pub repeats: u64,
}

impl Numbers {
    pub fn new(counts_from_first: bool) -> Self {
        Self { base: (!counts_from_first).then_some(0), ..Self::default() }
    }

    pub fn see(&mut self, number: u64, now: Instant) {
        if number == 0 {
            // Nothing was made yet.
            return;
        }
        if self.base.is_none() {
            self.base = Some(number - 1);
            self.head = number - 1;
        }
        if number <= self.head || !self.beyond.insert(number) {
            self.repeats += 1;
            return;
        }
        let before = self.head;
        while self.beyond.remove(&(self.head + 1)) {
            self.head += 1;
        }
        match self.beyond.is_empty() {
            true => self.open_since = None,
            false if self.head > before => self.open_since = Some(now),
            false => _ = self.open_since.get_or_insert(now),
        }
    }

    /// How many different numbers were read.
    pub fn count(&self) -> u64 {
        self.head - self.base.unwrap_or(self.head) + self.beyond.len() as u64
    }

    /// How many numbers there are up to the last one given.
    pub fn of(&self, made: u64) -> u64 {
        self.base.map_or(0, |base| made.saturating_sub(base))
    }

    /// Numbers that should have come long ago: later ones are here.
    pub fn overdue(&self, now: Instant) -> u64 {
        match (self.beyond.last(), self.open_since) {
            (Some(last), Some(since)) if now >= since + PATIENCE => last - self.head - self.beyond.len() as u64,
            _ => 0,
        }
    }
}

/// What was read so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// By tag, below the site.
    pub numbers: BTreeMap<String, Numbers>,
    pub records: u64,
    /// The time of the newest sample.
    pub newest: Micros,
    pub first: Option<Instant>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    watching: AtomicBool,
    seen: Mutex<Seen>,
}

/// A thread that reads until it is stopped.
pub struct VerifyingConsumer {
    /// What is older does not count.
    pub since: Micros,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl VerifyingConsumer {
    /// Begins to watch as soon as the topic is there. What is older than now does not count: an earlier demo's numbers.
    /// `tags`: where numbers are, below the site, and whether they count from the first one seen; else from 1.
    pub fn start(settings: Settings, site: String, tags: impl IntoIterator<Item = (String, bool)>) -> Result<Self> {
        let numbers = tags.into_iter().map(|(tag, counts_from_first)| (tag, Numbers::new(counts_from_first))).collect();
        let shared = Arc::new(Shared { seen: Mutex::new(Seen { numbers, ..Seen::default() }), ..Shared::default() });
        let since = Micros::now();
        let watcher = Watcher { settings, prefix: format!("{site}/"), since, shared: shared.clone(), batch: Batch::new() };
        let thread = std::thread::Builder::new().name("consumer".into()).spawn(move || watcher.run()).context("cannot start a thread")?;
        Ok(Self { since, shared, thread: Some(thread) })
    }

    /// Whether nothing can be missed any more.
    pub fn is_watching(&self) -> bool {
        self.shared.watching.load(Relaxed)
    }

    pub fn seen(&self) -> Seen {
        lock(&self.shared.seen).clone()
    }

    pub fn stop(mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Watcher {
    settings: Settings,
    prefix: String,
    since: Micros,
    shared: Arc<Shared>,
    batch: Batch,
}

impl Watcher {
    fn run(mut self) {
        while !self.is_stopped() {
            // Kafka is not there yet, or was away: everything is read and counted anew.
            if let Err(error) = self.watch() {
                tracing::debug!("the consumer begins anew: {error}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.shared.stop.load(Relaxed)
    }

    fn watch(&mut self) -> Result<(), millrace_kafka::KafkaError> {
        let settings = self.settings.clone().with("fetch.wait.max.ms", "100").with("topic.metadata.refresh.interval.ms", "1000");
        let consumer = Consumer::reader(&settings, true)?;
        let ask = Duration::from_secs(2);
        let partitions = loop {
            match consumer.partitions(TOPIC, ask) {
                Ok(0) if self.is_stopped() => return Ok(()),
                Ok(0) => std::thread::sleep(Duration::from_millis(20)),
                Ok(partitions) => break partitions,
                Err(_) if self.is_stopped() => return Ok(()),
                // It was made a moment ago, and has no leader yet.
                Err(error) if error.class == millrace_kafka::Class::Retry => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(error),
            }
        };
        let mut parts = Vec::new();
        for partition in 0..partitions {
            let part = TopicPartition::new(TOPIC, i32::try_from(partition).unwrap_or(i32::MAX));
            let (low, _) = consumer.watermarks(&part, ask)?;
            parts.push((part, Some(low)));
        }
        // From here on everything counts, and only once.
        self.begin();
        consumer.take(&parts)?;
        self.shared.watching.store(true, Relaxed);
        while !self.is_stopped() {
            let polled = consumer.poll(Duration::from_millis(100), |message| {
                self.note(message.value().unwrap_or_default());
                true
            });
            if let Polled::Failed(error) = polled {
                return Err(error);
            }
        }
        Ok(())
    }

    fn begin(&mut self) {
        let mut seen = lock(&self.shared.seen);
        seen.records = 0;
        for numbers in seen.numbers.values_mut() {
            // Where the first was seen, it stays the first.
            *numbers = Numbers { base: numbers.base, head: numbers.base.unwrap_or(0), ..Numbers::default() };
        }
    }

    fn note(&mut self, value: &[u8]) {
        self.batch.clear();
        if avro::decode(plain(value), &mut self.batch).is_err() {
            return;
        }
        let (Some(row), Some(columns)) = (self.batch.rows.first(), &self.batch.decoded) else { return };
        if row.time < self.since && columns.read_time[0] < self.since {
            return;
        }
        let now = Instant::now();
        let mut seen = lock(&self.shared.seen);
        seen.records += 1;
        seen.newest = seen.newest.max(row.time);
        seen.first.get_or_insert(now);
        // A heartbeat is the last value once more, a status is no reading.
        if row.time < self.since || matches!(row.flags.origin, Origin::Heartbeat | Origin::Status) {
            return;
        }
        let tag = self.batch.text_of(columns.tag_path[0]);
        if let (Some(tag), Value::Int(number @ 1..)) = (tag.strip_prefix(&self.prefix), row.value)
            && let Some(numbers) = seen.numbers.get_mut(tag)
        {
            numbers.see(number as u64, now);
        }
    }
}

/// The value without the registry's prefix: a zero and four bytes of an id. A sample's own first byte is the length of its tag, never zero.
fn plain(value: &[u8]) -> &[u8] {
    if value.first() == Some(&0) { value.get(5..).unwrap_or_default() } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_what_later_numbers_have_overtaken_for_long() {
        let start = Instant::now();
        let mut numbers = Numbers::new(false);
        for number in [1, 2, 3, 3, 6, 5] {
            numbers.see(number, start);
        }
        assert_eq!((numbers.count(), numbers.repeats, numbers.overdue(start)), (5, 1, 0));
        assert_eq!(numbers.overdue(start + PATIENCE), 1);
        numbers.see(4, start);
        assert_eq!((numbers.count(), numbers.overdue(start + PATIENCE)), (6, 0));
    }

    #[test]
    fn a_device_that_worked_before_counts_from_the_first_number_seen() {
        let start = Instant::now();
        let mut numbers = Numbers::new(true);
        assert_eq!(numbers.of(40), 0);
        for number in [41, 42, 44] {
            numbers.see(number, start);
        }
        assert_eq!((numbers.count(), numbers.of(44), numbers.overdue(start + PATIENCE)), (3, 4, 1));
    }

    #[test]
    fn the_registrys_prefix_is_no_part_of_a_sample() {
        assert_eq!(plain(&[0, 0, 0, 0, 7, 10, 20]), [10, 20]);
        assert_eq!(plain(&[10, 20]), [10, 20]);
        assert_eq!(plain(&[0, 1]), [0u8; 0]);
    }
}
