//! The drain against a real Kafka: every log record once or at least once, whatever is refused, killed or lost.

use millrace_contract::{Model, Route};
use millrace_engine::book::Book;
use millrace_engine::drain::{Drain, DrainOptions};
use millrace_engine::intake::{ClockWindow, Intake, IntakeOptions};
use millrace_engine::ledger::Snapshot;
use millrace_engine::outlet::Positions;
use millrace_engine::taps::Taps;
use millrace_engine::topics::{Topic, Topics};
use millrace_kafka::{Settings, TopicSpec};
use millrace_log::{Full, Store, StoreOptions};
use millrace_schemas::{Doc, Micros, RouteId, Span};
use millrace_tests::*;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ONCE: Option<Duration> = Some(Duration::from_millis(100));
const AT_LEAST_ONCE: Option<Duration> = None;

/// A runtime of sources without devices: their documents come from the test.
struct Site {
    tokio: tokio::runtime::Runtime,
    store: Store,
    sources: Vec<Arc<Intake>>,
    drain: Drain,
}

/// The site is named after the test's own topic: tests that share a broker must not find each other's cursors.
fn plant(topic: &str) -> String {
    format!("acme/{topic}")
}

/// Sources by name, each with the topics of its routes.
fn site(kafka: &Kafka, dir: &Path, commit: Option<Duration>, sources: &[(&str, &[&str])], declared: Vec<TopicSpec>) -> Site {
    let tokio = tokio::runtime::Runtime::new().expect("tokio starts");
    let store = Store::open(dir.join("log"), StoreOptions::default()).expect("the store opens");
    let plant = plant(sources.last().and_then(|(_, topics)| topics.last()).expect("a topic"));
    let topics = Topics::new(sources.iter().flat_map(|(_, topics)| topics.iter()).map(|t| Topic::undeclared(t)));
    let sources: Vec<Arc<Intake>> = sources
        .iter()
        .map(|(name, routes)| {
            let route = |topic: &&str| Route { topic: (*topic).into(), name: (*topic).to_owned(), samples: false };
            let model = Model { tags: Vec::new(), routes: routes.iter().map(route).collect() };
            let options = IntakeOptions {
                site: &plant,
                name,
                model: &model,
                topics: &topics,
                clock: ClockWindow::default(),
                log_size: 256 << 20,
                full: Full::Block,
                sync: Duration::from_millis(200),
                compress: true,
                dir: dir.join("sources").join(name),
                taps: Arc::new(Taps::default()),
                paths: Default::default(),
            };
            Intake::open(&store, options).expect("the intake opens")
        })
        .collect();
    // A name per broker and folder: two tests that share a broker must not fence each other.
    let id = format!("test-{}", dir.display());
    let drain = Drain::start(DrainOptions {
        settings: Settings::new(kafka.brokers()).with("reconnect.backoff.max.ms", "500"),
        transactions: commit.map(|every| (id, every)),
        topics,
        declared,
        outlets: sources.iter().map(|s| s.outlet.clone()).collect(),
        linger: Duration::from_millis(5),
        book: Arc::new(Book::open(dir).expect("the folder of schemas is made")),
        registrar: None,
    })
    .expect("the drain starts");
    Site { tokio, store, sources, drain }
}

impl Site {
    /// Sends documents as one batch of a source: route, key, payload.
    fn send<'d>(&self, source: usize, docs: impl IntoIterator<Item = (u32, String, Vec<u8>)>, moved: &[(&'d str, &'d [u8])]) {
        self.send_at(source, docs, moved, None);
    }

    fn send_at<'d>(
        &self,
        source: usize,
        docs: impl IntoIterator<Item = (u32, String, Vec<u8>)>,
        moved: &[(&'d str, &'d [u8])],
        time: Option<Micros>,
    ) {
        self.tokio.block_on(async {
            let intake = &self.sources[source];
            let mut batch = intake.batch().await;
            for (route, key, payload) in docs {
                let key = batch.push_bytes(key.as_bytes());
                let payload = Some(batch.push_bytes(&payload));
                let time = time.unwrap_or(batch.read_time);
                batch.docs.push(Doc { route: RouteId(route), time, key, headers: Span::EMPTY, payload, topic: Span::EMPTY });
            }
            intake.send(batch, moved).await;
        });
    }

    fn count(&self, source: usize, range: std::ops::Range<u64>) {
        for start in range.clone().step_by(100) {
            let end = (start + 100).min(range.end);
            self.send(source, (start..end).map(|i| (0, (i % 10).to_string(), i.to_string().into_bytes())), &[]);
        }
    }

    fn ledger(&self, source: usize) -> Snapshot {
        self.sources[source].ledger.snapshot()
    }

    /// Waits until nothing of the source waits any more.
    fn drained(&self, source: usize) -> Snapshot {
        eventually("everything is in Kafka", || {
            let ledger = self.ledger(source);
            (ledger.waiting == 0).then_some(ledger)
        })
    }

    fn blocked(&self, source: usize) -> Option<String> {
        self.sources[source].outlet.blocked.lock().clone()
    }

    fn stop(self) {
        self.drain.stop(Duration::from_secs(20));
        drop(self.sources);
        self.store.close().expect("the store closes");
    }
}

fn values(records: &[Record]) -> Vec<u64> {
    let mut values: Vec<u64> = records.iter().map(|r| r.text().parse().expect("a number")).collect();
    values.sort_unstable();
    values
}

fn every_once(kafka: &Kafka, topic: &str, count: u64) {
    let values = values(&kafka.read(topic));
    assert_eq!(values.len() as u64, count, "records of {topic}");
    assert!(values.into_iter().eq(0..count), "every value once");
}

#[test]
fn what_was_appended_is_in_kafka_in_order_and_a_restart_sends_nothing_again() {
    for commit in [AT_LEAST_ONCE, ONCE] {
        let kafka = Kafka::shared();
        let (dir, topic) = (scratch("drain"), kafka.topic("orders"));
        let start = || site(kafka, dir.path(), commit, &[("mes", &[&topic])], Vec::new());
        let first = start();
        first.count(0, 0..5_000);
        let ledger = first.drained(0);
        assert_eq!((ledger.appended, ledger.produced), (5_000, 5_000));
        first.stop();
        let second = start();
        second.count(0, 5_000..6_000);
        let ledger = second.drained(0);
        assert!(ledger.adds_up() && ledger.produced == 6_000, "{ledger:?}");
        second.stop();
        every_once(kafka, &topic, 6_000);
        let records = kafka.read(&topic);
        for key in 0..10 {
            let of_key: Vec<i64> = records.iter().filter(|r| r.key_text() == key.to_string()).map(|r| r.identity().1).collect();
            assert!(of_key.is_sorted(), "order of key {key}");
        }
    }
}

#[test]
fn a_record_that_kafka_refuses_becomes_a_dead_letter_and_its_neighbours_go() {
    for commit in [AT_LEAST_ONCE, ONCE] {
        let kafka = Kafka::shared();
        let (dir, topic) = (scratch("drain"), kafka.topic("orders"));
        kafka.create_topic(&topic, 1, &[("max.message.bytes", "20000")]);
        let site = site(kafka, dir.path(), commit, &[("mes", &[&topic])], Vec::new());
        // Not compressible, so that it is too large however it is packed.
        let large: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(b'!'..b'~')).take(60_000).collect();
        site.count(0, 0..250);
        site.send(0, (250..350).map(|i: u64| (0, "k".to_owned(), if i == 300 { large.clone() } else { i.to_string().into_bytes() })), &[]);
        site.count(0, 350..600);
        let ledger = site.drained(0);
        assert_eq!((ledger.produced, ledger.dead_at_send), (599, 1), "{ledger:?}");
        assert_eq!(site.blocked(0), None);
        site.stop();
        let mut seen = values(&kafka.read(&topic));
        seen.dedup();
        assert!(seen.into_iter().eq((0..600).filter(|i| *i != 300)));
        let dead = kafka.read(&format!("{topic}.dead"));
        assert_eq!(dead.len(), 1);
        assert_eq!(dead[0].value.as_ref().map(Vec::len), Some(60_000));
        assert_eq!(dead[0].header("__connect.errors.topic").as_ref(), Some(&topic));
        assert!(dead[0].header("__connect.errors.exception.message").is_some_and(|m| m.contains("refused by Kafka")));
        assert_eq!(dead[0].header("millrace.source"), Some(format!("{}/mes", plant(&topic))));
    }
}

#[test]
fn a_record_without_a_key_is_refused_by_a_compacted_topic_and_is_found_among_its_neighbours() {
    let kafka = Kafka::shared();
    let (dir, topic) = (scratch("drain"), kafka.topic("orders"));
    kafka.create_topic(&topic, 1, &[("cleanup.policy", "compact")]);
    let site = site(kafka, dir.path(), ONCE, &[("mes", &[&topic])], Vec::new());
    site.send(0, (0..500u64).map(|i| (0, if i == 77 { String::new() } else { i.to_string() }, i.to_string().into_bytes())), &[]);
    let ledger = site.drained(0);
    assert_eq!((ledger.produced, ledger.dead_at_send), (499, 1), "{ledger:?}");
    site.stop();
    let seen = values(&kafka.read(&topic));
    let missing: Vec<u64> = (0..500).filter(|i| *i != 77 && !seen.contains(i)).collect();
    assert_eq!((seen.len(), missing), (499, vec![]));
    assert_eq!(kafka.read(&format!("{topic}.dead"))[0].text(), "77");
}

#[test]
fn a_timestamp_that_the_topic_refuses_is_replaced_by_the_read_time_and_counted() {
    for commit in [AT_LEAST_ONCE, ONCE] {
        let kafka = Kafka::shared();
        let (dir, topic) = (scratch("drain"), kafka.topic("orders"));
        kafka.create_topic(&topic, 1, &[("message.timestamp.before.max.ms", "60000")]);
        let site = site(kafka, dir.path(), commit, &[("mes", &[&topic])], Vec::new());
        let now = Micros::now();
        site.count(0, 0..100);
        site.send_at(0, [(0, "old".to_owned(), b"100".to_vec())], &[], Some(Micros(now.0 - 3_600_000_000)));
        site.count(0, 101..200);
        let ledger = site.drained(0);
        assert_eq!((ledger.produced, ledger.dead_at_send, ledger.timestamp_replaced), (200, 0, 1), "{ledger:?}");
        site.stop();
        let records = kafka.read(&topic);
        let old = records.iter().find(|r| r.key_text() == "old").expect("the old one is there");
        assert!(old.timestamp_ms >= now.as_millis());
    }
}

#[test]
fn a_refused_topic_blocks_its_source_alone_until_it_is_allowed() {
    for commit in [AT_LEAST_ONCE, ONCE] {
        let kafka = Kafka::shared();
        let (dir, topic) = (scratch("drain"), kafka.topic("fine"));
        let site = site(kafka, dir.path(), commit, &[("bad", &["no/such topic"]), ("good", &[&topic])], Vec::new());
        site.count(0, 0..10);
        site.count(1, 0..1_000);
        assert_eq!(site.drained(1).produced, 1_000);
        let reason = eventually("the source is blocked", || site.blocked(0));
        assert!(reason.contains("no/such topic"), "{reason}");
        assert_eq!((site.ledger(0).waiting, site.blocked(1)), (10, None));
        site.stop();
        every_once(kafka, &topic, 1_000);
    }
}

#[test]
fn a_lost_data_dir_begins_a_new_incarnation_with_the_positions_that_kafka_kept() {
    for commit in [AT_LEAST_ONCE, ONCE] {
        let kafka = Kafka::shared();
        let (name, topic) = (kafka.topic("mes"), kafka.topic("orders"));
        let dir = scratch("drain");
        let first = site(kafka, dir.path(), commit, &[(&name, &[&topic])], Vec::new());
        first.count(0, 0..500);
        first.send(0, [(0, "k".to_owned(), b"500".to_vec())], &[("file a", b"17"), ("gone", b"1")]);
        first.send(0, [(0, "k".to_owned(), b"501".to_vec())], &[("file b", b"4"), ("gone", b"")]);
        first.drained(0);
        let highest = first.sources[0].outlet.lanes[0].1.end();
        first.stop();
        drop(dir);
        let dir = scratch("drain");
        let second = site(kafka, dir.path(), commit, &[(&name, &[&topic])], Vec::new());
        let mut from_kafka = second.sources[0].outlet.from_kafka.subscribe();
        let known = second.tokio.block_on(async { from_kafka.wait_for(Option::is_some).await.expect("the drain lives").clone() });
        assert_eq!(
            *known.expect("just seen"),
            Positions::from([("file a".to_owned(), b"17".to_vec()), ("file b".to_owned(), b"4".to_vec())])
        );
        second.count(0, 502..1_000);
        second.drained(0);
        second.stop();
        every_once(kafka, &topic, 1_000);
        let records = kafka.read(&topic);
        let incarnation = |range: std::ops::Range<u64>| {
            records.iter().filter(move |r| range.contains(&r.text().parse().unwrap())).map(|r| r.identity().1 as u64)
        };
        assert!(incarnation(502..1_000).min() > Some(highest), "no identity is used twice");
    }
}

#[test]
fn kafka_killed_under_transactions_shows_every_record_once() {
    let mut kafka = Kafka::start();
    let (dir, topic) = (scratch("drain"), kafka.topic("orders"));
    kafka.create_topic(&topic, 3, &[]);
    let site = site(&kafka, dir.path(), ONCE, &[("mes", &[&topic])], Vec::new());
    let count = 60_000;
    for part in 0..3u64 {
        site.count(0, part * count / 3..(part + 1) * count / 3);
        eventually("some of it is in Kafka", || (site.ledger(0).produced > part * count / 3).then_some(()));
        kafka.kill9();
        kafka.restart();
    }
    let ledger = site.drained(0);
    assert!(ledger.adds_up() && ledger.produced == count, "{ledger:?}");
    site.stop();
    every_once(&kafka, &topic, count);
}

#[test]
fn a_topic_that_is_not_as_declared_is_reported_and_used_as_it_is() {
    let kafka = Kafka::shared();
    let (dir, topic, new) = (scratch("drain"), kafka.topic("orders"), kafka.topic("new"));
    kafka.create_topic(&topic, 1, &[("retention.ms", "1000000")]);
    let spec = |name: &str| TopicSpec {
        name: name.to_owned(),
        partitions: Some(3),
        replication: None,
        configs: [("retention.ms".to_owned(), "2000000".to_owned())].into(),
    };
    let site = site(kafka, dir.path(), AT_LEAST_ONCE, &[("mes", &[&topic])], vec![spec(&topic), spec(&new)]);
    site.count(0, 0..10);
    site.drained(0);
    let report = site.drain.report();
    assert_eq!(report.status, "Running");
    assert_eq!(report.contradictions, [format!("topic {topic}: partitions is 1, declared 3, retention.ms is 1000000, declared 2000000")]);
    assert!(kafka.topics().contains(&(new, 3)));
    site.stop();
}
