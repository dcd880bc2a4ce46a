//! Live data out: server-sent events by tag pattern or of a topic, taken up again where a client left off.
//!
//! ```text
//! GET /live?tag=body/*&snapshot=true    each new sample, straight from intake, also while Kafka is away;     id: RUN-N
//! GET /live?topic=orders&from=..        each record of a topic as Kafka has it;                              id: 0:17,1:4 (next offsets)
//!
//! intake ─ taps ─▶ hub: one task, one ring of the last events, each made once ─▶ each client is woken by what it wants, and waits for nobody
//! Kafka ─ a reader for each client ─▶ a few records ahead ─▶ the client
//! ```
//!
//! `Last-Event-ID` (a browser sends it by itself) or `from` says where to go on. What the ring no longer has is told as an event `gap`, and what the
//! tags are now follows. A client that falls behind by the whole ring is disconnected and counted: it comes back and is told of the gap.
//!
//! Invariants: memory is bounded by the ring, whoever watches; nothing is made while nobody does, and for [`KEEP`] after that.

pub mod events;
mod ring;

use crate::access::refused;
use crate::clock::now;
use crate::listener::FOLLOWERS;
use crate::live::events::event;
use crate::live::ring::{Found, LOOKED_AT, Ring};
use crate::metrics::{Family, Kind, Number, Point};
use crate::pattern::matches;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use millrace_engine::Engine;
use millrace_engine::reader::{Begin, ReadError, TopicReader};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc, watch};

/// Readers of topics at a time: each costs a client of Kafka.
const READERS: usize = 16;
/// How long the ring goes on when nobody watches any more: somebody may come back.
const KEEP: Duration = Duration::from_secs(60);
/// How often a connection without news has a byte sent.
const STILL_HERE: Duration = Duration::from_secs(15);
/// Tags in one snapshot.
const SNAPSHOT: usize = 10_000;
/// How long a client of a topic may take for what is ahead of it.
const SLOWEST: Duration = Duration::from_secs(30);

/// The samples of the last moments, for whoever watches.
pub struct Hub {
    pub engine: Arc<Engine>,
    ring: RwLock<Ring>,
    clients: AtomicUsize,
    /// Clients that fell behind and were disconnected.
    slow: AtomicU64,
    is_pumping: AtomicBool,
    readers: Arc<Semaphore>,
}

impl Hub {
    pub fn new(engine: Arc<Engine>) -> Arc<Self> {
        Arc::new(Self {
            engine,
            ring: RwLock::new(Ring::new(format!("{:x}", now()))),
            clients: AtomicUsize::new(0),
            slow: AtomicU64::new(0),
            is_pumping: AtomicBool::new(false),
            readers: Arc::new(Semaphore::new(READERS)),
        })
    }

    fn ring(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_mut(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client was disconnected because it did not take what it was sent.
    pub fn was_slow(&self) {
        self.slow.fetch_add(1, Relaxed);
    }

    /// For the metrics.
    pub fn metrics(&self) -> [Family; 2] {
        let one = |value: f64| vec![Point { labels: Vec::new(), value: Number::One(value) }];
        [
            Family {
                name: "millrace_live_clients",
                kind: Kind::Gauge,
                help: "Clients of live samples.",
                points: one(self.clients.load(Relaxed) as f64),
            },
            Family {
                name: "millrace_live_slow_total",
                kind: Kind::Counter,
                help: "Clients of live data that fell behind and were disconnected.",
                points: one(self.slow.load(Relaxed) as f64),
            },
        ]
    }

    /// Starts to listen to intake, unless it does.
    fn pump(self: &Arc<Self>) {
        if self.is_pumping.swap(true, Relaxed) {
            return;
        }
        // What came while nobody listened is not here.
        self.ring_mut().cut(1);
        let hub = self.clone();
        let mut watch = hub.engine.taps().watch();
        tokio::spawn(async move {
            let mut empty_since = None;
            loop {
                let received = tokio::time::timeout(Duration::from_secs(1), watch.lines.recv()).await;
                {
                    let mut ring = hub.ring_mut();
                    let mut one = received.ok();
                    for _ in 0..LOOKED_AT {
                        match one {
                            Some(Ok(line)) => ring.push(&line),
                            Some(Err(RecvError::Lagged(_))) => ring.gap(),
                            Some(Err(RecvError::Closed)) | None => break,
                        }
                        one = watch.lines.try_recv().ok().map(Ok);
                    }
                    ring.tell();
                }
                if hub.clients.load(Relaxed) > 0 {
                    empty_since = None;
                } else if empty_since.get_or_insert_with(Instant::now).elapsed() > KEEP {
                    hub.is_pumping.store(false, Relaxed);
                    return;
                }
            }
        });
    }

    /// Where a client goes on that had this id; `None`: it is of another run, or was never given.
    fn after(&self, id: &str) -> Option<u64> {
        let (run, number) = id.split_once('-')?;
        let ring = self.ring();
        number.parse().ok().filter(|number| run == ring.run && *number <= ring.next())
    }

    fn id(&self, next: u64) -> String {
        format!("{}-{next}", self.ring().run)
    }
}

#[derive(Deserialize)]
pub struct LiveQuery {
    /// A tag's path, a pattern with `*`, or a source.
    tag: Option<String>,
    /// Begins with what the tags are now.
    #[serde(default)]
    snapshot: bool,
    topic: Option<String>,
    /// Where to go on: an id of an event; of a topic also `earliest`, or `last:N` of each partition.
    from: Option<String>,
}

/// Events as they are written for a stream of server-sent events: each piece holds whole ones.
pub struct Events {
    pub pieces: BoxStream<'static, Bytes>,
    /// That this client was too slow is counted already, by who serves it.
    pub is_counted: Arc<AtomicBool>,
}

/// Why nothing is sent.
pub type Refused = (StatusCode, String);

pub async fn live(State(hub): State<Arc<Hub>>, Query(query): Query<LiveQuery>, headers: HeaderMap) -> Response {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    match open(&hub, query, last).await {
        Ok(events) => streamed(events.pieces.map(Ok)),
        Err((code, why)) => refused(code, &why),
    }
}

/// The events that a query means; `last`: the id of the last one that the client had.
pub async fn open(hub: &Arc<Hub>, query: LiveQuery, last: Option<String>) -> Result<Events, Refused> {
    let from = last.or(query.from).filter(|from| !from.is_empty());
    match (query.topic, query.tag) {
        (Some(_), Some(_)) => Err((StatusCode::BAD_REQUEST, "give `tag` or `topic`, not both".to_owned())),
        (Some(topic), None) => of_topic(hub.clone(), topic, from).await,
        (None, tag) => of_tags(hub, tag.unwrap_or_default(), query.snapshot, from.as_deref()),
    }
}

pub fn streamed(body: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(body)).into_response()
}

/// A client of live samples; counted until it is dropped.
pub struct Follower {
    hub: Arc<Hub>,
    name: String,
    feed: usize,
    next: u64,
    news: watch::Receiver<u64>,
    /// What it is sent before anything else.
    first: Option<String>,
    is_over: bool,
    is_counted: Arc<AtomicBool>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.hub.clients.fetch_sub(1, Relaxed);
        let mut ring = self.hub.ring_mut();
        // A connection that takes nothing is never asked for more: it ends here.
        if !self.is_over && !self.is_counted.load(Relaxed) && ring.is_too_slow(self.next, self.feed) {
            self.hub.slow.fetch_add(1, Relaxed);
        }
        ring.unfollow(self.feed);
    }
}

impl Follower {
    /// Waits for a sample that it wants, or for as long as a connection rests; true where one came. What it is, is not looked at.
    pub async fn changed(&mut self) -> bool {
        let until = tokio::time::Instant::now() + STILL_HERE;
        loop {
            self.news.mark_unchanged();
            let found = self.hub.ring().look(self.next, self.feed);
            match found {
                Found::Nothing(next) if next > self.next => {
                    self.next = next;
                    continue;
                }
                Found::Nothing(_) => {}
                Found::Lines(_, next) | Found::Cut(next) => {
                    self.next = next;
                    return true;
                }
                Found::TooSlow => {
                    self.next = self.hub.ring().next();
                    return true;
                }
            }
            if tokio::time::timeout_at(until, self.news.changed()).await.is_err() {
                return false;
            }
        }
    }
}

fn of_tags(hub: &Arc<Hub>, name: String, snapshot: bool, from: Option<&str>) -> Result<Events, Refused> {
    let mut follower = follow(hub, name).ok_or_else(full)?;
    let known = from.and_then(|id| hub.after(id));
    let mut first = String::new();
    if let Some(next) = known {
        follower.next = next;
    } else if from.is_some() {
        event(&mut first, "gap", None, r#"{"why":"this id is of another run, or of none: the tags as they are now follow"}"#);
    }
    if (from.is_some() && known.is_none()) || (snapshot && known.is_none()) {
        now_of(hub, &follower.name, follower.next, &mut first);
    }
    follower.first = Some(first);
    let is_counted = follower.is_counted.clone();
    Ok(Events { pieces: stream::unfold(follower, step).boxed(), is_counted })
}

/// `None`: as many watch as may.
pub fn follow(hub: &Arc<Hub>, name: String) -> Option<Follower> {
    if hub.clients.fetch_add(1, Relaxed) >= FOLLOWERS {
        hub.clients.fetch_sub(1, Relaxed);
        return None;
    }
    hub.pump();
    let mut ring = hub.ring_mut();
    let ((feed, news), next) = (ring.follow(&name), ring.next());
    drop(ring);
    Some(Follower { hub: hub.clone(), name, feed, next, news, first: None, is_over: false, is_counted: Arc::default() })
}

pub fn too_many() -> Response {
    let (code, why) = full();
    refused(code, &why)
}

fn full() -> Refused {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{FOLLOWERS} clients watch already; come again later"))
}

/// The last sample of each tag.
fn now_of(hub: &Hub, name: &str, next: u64, text: &mut String) {
    let id = hub.id(next);
    let (tags, _) = hub.engine.tags(|path| name.is_empty() || matches(path, name), |_| true, SNAPSHOT);
    for tag in tags {
        if let Some(sample) = tag.sample {
            event(text, "sample", Some(&id), sample.get());
        }
    }
}

async fn step(mut follower: Follower) -> Option<(Bytes, Follower)> {
    if let Some(first) = follower.first.take() {
        // A comment opens the stream, so that the client knows that it is there.
        return Some((Bytes::from(format!(": millrace\n\n{first}")), follower));
    }
    if follower.is_over {
        return None;
    }
    loop {
        follower.news.mark_unchanged();
        let mut text = String::new();
        let found = follower.hub.ring().look(follower.next, follower.feed);
        match found {
            Found::Lines(lines, next) => {
                follower.next = next;
                return Some((lines, follower));
            }
            Found::Nothing(next) if next > follower.next => {
                follower.next = next;
                continue;
            }
            Found::Nothing(_) => {}
            Found::Cut(next) => {
                follower.next = next;
                event(&mut text, "gap", None, r#"{"why":"more came than is kept here; nothing is lost in Kafka"}"#);
                return Some((Bytes::from(text), follower));
            }
            Found::TooSlow => {
                follower.hub.slow.fetch_add(1, Relaxed);
                follower.is_over = true;
                event(&mut text, "gap", None, r#"{"why":"this client was too slow and is disconnected; nothing is lost in Kafka"}"#);
                return Some((Bytes::from(text), follower));
            }
        }
        if tokio::time::timeout(STILL_HERE, follower.news.changed()).await.is_err() {
            return Some((Bytes::from_static(b": still here\n\n"), follower));
        }
    }
}

// ---- topics ---------------------------------------------------------------------------------------------------------------------

/// `0:17,1:4`.
fn offsets(text: &str) -> Option<BTreeMap<i32, i64>> {
    let one = |part: &str| {
        let (partition, offset) = part.split_once(':')?;
        Some((partition.parse().ok()?, offset.parse().ok().filter(|offset: &i64| *offset >= 0)?))
    };
    text.split(',').map(one).collect()
}

/// Where `from` says to begin.
pub fn begin(from: Option<&str>) -> Result<Begin, Refused> {
    let not_understood = |why: String| (StatusCode::BAD_REQUEST, why);
    match from {
        None => Ok(Begin::Newest),
        Some("earliest") => Ok(Begin::Oldest),
        Some(from) => match from.strip_prefix("last:") {
            Some(count) => match count.parse() {
                Ok(count) if (0..=10_000).contains(&count) => Ok(Begin::Last(count)),
                _ => Err(not_understood(format!("`{from}` is not `last:` and a number up to 10000"))),
            },
            None => offsets(from).map(Begin::At).ok_or_else(|| {
                not_understood(format!("`{from}` is neither `earliest`, `last:N` nor offsets as `0:17,1:4`, partition and next offset"))
            }),
        },
    }
}

async fn of_topic(hub: Arc<Hub>, topic: String, from: Option<String>) -> Result<Events, Refused> {
    let begin = begin(from.as_deref())?;
    let Ok(permit) = hub.readers.clone().try_acquire_owned() else {
        return Err((StatusCode::SERVICE_UNAVAILABLE, format!("{READERS} clients read topics already; come again later")));
    };
    let engine = hub.engine.clone();
    let name = topic.clone();
    let opened = tokio::task::spawn_blocking(move || engine.read_topic(&name, &begin)).await;
    let mut reader = match opened {
        Ok(Ok(reader)) => reader,
        Ok(Err(error @ ReadError::NoTopic(_))) => return Err((StatusCode::NOT_FOUND, error.to_string())),
        Ok(Err(error)) => return Err((StatusCode::SERVICE_UNAVAILABLE, format!("cannot read topic {topic}: {error}"))),
        Err(_) => return Err((StatusCode::INTERNAL_SERVER_ERROR, "reading ended in a panic; please report it".to_owned())),
    };
    let (sender, receiver) = mpsc::channel::<Bytes>(8);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut text = ": millrace\n\n".to_owned();
        if reader.gone > 0 {
            let why = serde_json::json!({ "why": "records that were asked for are not in Kafka any more", "records": reader.gone });
            event(&mut text, "gap", None, &why.to_string());
        }
        loop {
            if !text.is_empty() && !handed(&sender, std::mem::take(&mut text)) {
                if !sender.is_closed() {
                    hub.slow.fetch_add(1, Relaxed);
                }
                return;
            }
            if let Err(error) = records(&mut reader, &mut text) {
                event(&mut text, "error", None, &serde_json::json!({ "why": error.to_string() }).to_string());
                handed(&sender, text);
                return;
            }
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|text| (text, receiver)) }).boxed();
    Ok(Events { pieces, is_counted: Arc::default() })
}

/// Appends the next records as events, or a sign of life.
fn records(reader: &mut TopicReader, text: &mut String) -> Result<(), ReadError> {
    let before = reader.next.clone();
    let mut next = before.clone();
    let records = reader.read(STILL_HERE.min(Duration::from_secs(5)), 100)?;
    for record in &records {
        next.insert(record.partition, record.offset + 1);
        let id: Vec<String> = next.iter().map(|(partition, offset)| format!("{partition}:{offset}")).collect();
        event(text, "record", Some(&id.join(",")), &serde_json::to_string(record).unwrap_or_default());
    }
    if records.is_empty() && reader.next == before {
        text.push_str(": still here\n\n");
    }
    Ok(())
}

/// Whether the client took it in time. Blocks.
fn handed(sender: &mpsc::Sender<Bytes>, text: String) -> bool {
    let (mut text, until) = (Bytes::from(text), Instant::now() + SLOWEST);
    loop {
        match sender.try_send(text) {
            Ok(()) => return true,
            Err(mpsc::error::TrySendError::Closed(_)) => return false,
            Err(mpsc::error::TrySendError::Full(_)) if Instant::now() >= until => return false,
            Err(mpsc::error::TrySendError::Full(back)) => text = back,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_begin_is_said_in_three_ways() {
        assert_eq!(begin(None), Ok(Begin::Newest));
        assert_eq!(begin(Some("earliest")), Ok(Begin::Oldest));
        assert_eq!(begin(Some("last:5")), Ok(Begin::Last(5)));
        assert_eq!(begin(Some("0:17,2:4")), Ok(Begin::At([(0, 17), (2, 4)].into())));
        for wrong in ["last:-1", "last:x", "0:-1", "x", "0:1,", "last:99999999"] {
            assert!(begin(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
