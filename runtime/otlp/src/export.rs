//! Sends, every so often, as long as the runtime runs; and once more when it stops.

use crate::collector::Collector;
use crate::{About, Rejected, Said, encode};
use millrace_console::metrics::{Family, Kind, Number, Point};
use millrace_kit::http::error::HttpError;
use millrace_kit::http::{Client, Expect, Method, Request, Url};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Messages in one request, at most.
const MESSAGES: usize = 500;
/// How long the last request may take when the runtime stops.
const LAST: Duration = Duration::from_secs(2);
/// A collector that says nothing of it is asked again after this, then after twice as long, and so on.
const PAUSE_LAST: Duration = Duration::from_secs(300);

/// Everything that is measured now. Blocks.
pub type Metrics = Arc<dyn Fn() -> Vec<Family> + Send + Sync>;
/// Messages from a number on, so many at most.
pub type Messages = fn(u64, usize) -> Said;

/// What became of what was to be sent, by its kind.
#[derive(Debug, Default)]
pub struct Counts {
    metrics: Count,
    messages: Count,
}

#[derive(Debug, Default)]
struct Count {
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    /// For the metrics.
    pub fn families(&self) -> Vec<Family> {
        let family = |name, help, count: fn(&Count) -> &AtomicU64| {
            let of = [("metrics", &self.metrics), ("logs", &self.messages)];
            let point = |(signal, of): (&str, &Count)| Point {
                labels: vec![("signal", signal.to_owned())],
                value: Number::One(count(of).load(Relaxed) as f64),
            };
            Family { name, kind: Kind::Counter, help, points: of.map(point).into() }
        };
        vec![
            family("millrace_otlp_sent_total", "Points of metrics and messages that the OpenTelemetry collector took.", |count| {
                &count.sent
            }),
            family("millrace_otlp_dropped_total", "Those that it never got, or refused.", |count| &count.dropped),
        ]
    }
}

/// Sends to a collector until it is stopped.
pub struct Exporter {
    ends: Arc<Notify>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Exporter {
    pub fn start(collector: Collector, about: About, metrics: Metrics, messages: Messages, counts: Arc<Counts>) -> Self {
        let ends = Arc::new(Notify::new());
        let sending =
            Sending { started: nanos(), collector, about, metrics, messages, counts, next: 0, client: None, pause: Pause::default() };
        let task = tokio::spawn(sending.run(ends.clone()));
        Self { ends, task: tokio::sync::Mutex::new(Some(task)) }
    }

    /// Sends what there is once more, in a bounded time.
    pub async fn stop(&self) {
        self.ends.notify_one();
        if let Some(task) = self.task.lock().await.take() {
            let abort = task.abort_handle();
            if tokio::time::timeout(LAST, task).await.is_err() {
                abort.abort();
            }
        }
    }
}

/// After a failure nothing is sent for a while.
#[derive(Default)]
struct Pause {
    until: Option<Instant>,
    last: Duration,
}

impl Pause {
    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }

    /// Returns whether this is the first failure in a row.
    fn begin(&mut self, every: Duration, after: Option<Duration>) -> bool {
        let is_first = self.until.is_none();
        self.last = if is_first { every } else { (self.last * 2).min(PAUSE_LAST) };
        self.until = Some(Instant::now() + after.unwrap_or(self.last).min(PAUSE_LAST.max(every)));
        is_first
    }
}

struct Sending {
    /// When the counters were zero, in nanoseconds since 1970.
    started: u64,
    collector: Collector,
    about: About,
    metrics: Metrics,
    messages: Messages,
    counts: Arc<Counts>,
    /// The number of the first message that was not sent.
    next: u64,
    client: Option<Client>,
    pause: Pause,
}

impl Sending {
    async fn run(mut self, ends: Arc<Notify>) {
        let mut every = tokio::time::interval(self.collector.every);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_last = tokio::select! {
                _ = every.tick() => false,
                () = ends.notified() => true,
            };
            if self.pause.is_over() {
                self.send_all().await;
            } else {
                let families = self.measured().await;
                self.counts.metrics.dropped.fetch_add(points(&families), Relaxed);
            }
            if is_last {
                return;
            }
        }
    }

    async fn measured(&self) -> Vec<Family> {
        let metrics = self.metrics.clone();
        tokio::task::spawn_blocking(move || metrics()).await.unwrap_or_default()
    }

    async fn send_all(&mut self) {
        let families = self.measured().await;
        let points = points(&families);
        let request = encode::metrics(&families, &self.about, self.started, nanos());
        let answer = self.post(self.collector.metrics.clone(), request).await;
        let is_up = self.settle("metrics", points, answer.map(|body| encode::rejected_metrics(&body)));
        if !is_up {
            return;
        }
        loop {
            let said = (self.messages)(self.next, MESSAGES);
            self.counts.messages.dropped.fetch_add(said.missed, Relaxed);
            self.next = said.next - said.messages.len() as u64;
            if said.messages.is_empty() {
                return;
            }
            let request = encode::logs(&said.messages, &self.about, nanos());
            let answer = self.post(self.collector.logs.clone(), request).await.map(|body| encode::rejected_logs(&body));
            if answer.as_ref().is_err_and(HttpError::is_passing) {
                // They are sent again, as long as they are kept.
                self.settle("messages", 0, answer);
                return;
            }
            self.next = said.next;
            let is_up = self.settle("messages", said.messages.len() as u64, answer);
            if !is_up || said.messages.len() < MESSAGES {
                return;
            }
        }
    }

    async fn post(&mut self, url: Url, body: Vec<u8>) -> Result<Vec<u8>, HttpError> {
        let collector = &self.collector;
        if self.client.is_none() {
            let client = Client::new(&collector.metrics, collector.login.as_ref(), &collector.tls, &collector.options);
            self.client = Some(client.map_err(|failure| HttpError::Tls { text: failure.to_string(), is_human: true })?);
        }
        let request = Request::new(Method::POST, url).body("application/x-protobuf", body).expect(Expect::Any);
        match &self.client {
            Some(client) => client.fetch(&request).await.map(|answer| answer.body),
            None => Ok(Vec::new()),
        }
    }

    /// Counts what became of a request, and says when that is another thing than before. Returns whether the collector took it.
    fn settle(&mut self, what: &str, count: u64, answer: Result<Rejected, HttpError>) -> bool {
        let counted = if what == "metrics" { &self.counts.metrics } else { &self.counts.messages };
        match answer {
            Ok(Rejected { count: rejected, why }) => {
                let rejected = rejected.min(count);
                counted.sent.fetch_add(count - rejected, Relaxed);
                counted.dropped.fetch_add(rejected, Relaxed);
                if rejected > 0 {
                    tracing::debug!(rejected, why, "the collector refuses some of the {what}");
                }
                if std::mem::take(&mut self.pause).until.is_some() {
                    tracing::info!("the OpenTelemetry collector takes what is sent again");
                }
                true
            }
            Err(error) => {
                counted.dropped.fetch_add(count, Relaxed);
                let after = if let HttpError::Busy { after, .. } = &error { *after } else { None };
                if self.pause.begin(self.collector.every, after) {
                    tracing::warn!("the OpenTelemetry collector did not take {what}: {error}");
                }
                false
            }
        }
    }
}

/// How many points a request has.
fn points(families: &[Family]) -> u64 {
    families.iter().map(|family| family.points.len() as u64).sum()
}

fn nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
