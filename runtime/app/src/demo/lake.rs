//! The lake beside the broker, in builds with the feature `lake`: which numbers of which device are in its table, counted as the verifying consumer
//! counts them in Kafka.

use super::verifying_consumer::Numbers;
use millrace_lake::series::Value;
use millrace_lake::{Place, Question, Series, Tail, What};
use millrace_schemas::{Micros, Origin};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// What a demo writes to its table, behind the sinks of its file.
pub const SINK: &str = r#"
  # The same samples as a Delta table on this disk: what `millrace query` asks.
  lake: {type: lake, topics: [telemetry, alarms], table: "./millrace-demo/lake", commit_every: 2s}
"#;
/// How often it is counted.
const EVERY: Duration = Duration::from_secs(5);
/// A clock may be set back.
const AHEAD: i64 = 86_400_000_000;
/// Readings of one device in one demo, at most.
const MOST: usize = 5_000_000;

/// Counts now and then, beside the demo.
pub struct LakeReader {
    reading: Arc<Reading>,
    next: Instant,
    at_work: Option<JoinHandle<()>>,
}

struct Reading {
    place: Place,
    site: String,
    /// Below the site, and whether its numbers count from the first one seen.
    tags: Vec<(String, bool)>,
    since: Micros,
    found: Mutex<BTreeMap<String, u64>>,
}

impl LakeReader {
    /// `since`: what is older does not count, as for the consumer.
    pub fn new(place: Place, site: String, tags: Vec<(String, bool)>, since: Micros) -> Self {
        let reading = Reading { place, site, tags, since, found: Mutex::default() };
        Self { reading: Arc::new(reading), next: Instant::now() + EVERY, at_work: None }
    }

    /// Different numbers of each device in the table, by tag, as it was counted last.
    pub fn found(&self) -> BTreeMap<String, u64> {
        self.reading.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts anew where it is time.
    pub fn turn(&mut self) {
        if Instant::now() < self.next || self.at_work.as_ref().is_some_and(|work| !work.is_finished()) {
            return;
        }
        self.next = Instant::now() + EVERY;
        self.at_work = Some(self.begin());
    }

    /// Counts for the last time: everything is committed.
    pub async fn finish(&mut self) {
        if let Some(work) = self.at_work.take() {
            let _ = work.await;
        }
        let _ = self.begin().await;
    }

    fn begin(&self) -> JoinHandle<()> {
        let (reading, runtime) = (self.reading.clone(), tokio::runtime::Handle::current());
        tokio::task::spawn_blocking(move || {
            for (tag, counts_from_first) in &reading.tags {
                // No table yet, or a commit in between: next time.
                let Some(count) = reading.count(tag, *counts_from_first, runtime.clone()) else { return };
                reading.found.lock().unwrap_or_else(PoisonError::into_inner).insert(tag.clone(), count);
            }
        })
    }
}

impl Reading {
    fn count(&self, tag: &str, counts_from_first: bool, runtime: tokio::runtime::Handle) -> Option<u64> {
        let question = Question {
            tag: format!("{}/{tag}", self.site),
            range: self.since.0..Micros::now().0 + AHEAD,
            what: What::Samples,
            lookback_days: 0,
            limit: MOST,
            budget: u64::MAX,
            tail: Tail::default(),
        };
        let answer = match millrace_lake::ask(&self.place, &question, runtime) {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!("the lake is not counted: {error}");
                return None;
            }
        };
        let Series::Samples(samples) = answer.series else { return None };
        let (mut numbers, now) = (Numbers::new(counts_from_first), Instant::now());
        for sample in samples.iter().filter(|sample| !matches!(sample.origin, Origin::Heartbeat | Origin::Status)) {
            if let Value::Long(number @ 1..) = sample.value {
                numbers.see(number.unsigned_abs(), now);
            }
        }
        Some(numbers.count())
    }
}
