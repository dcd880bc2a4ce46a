//! The drain against a real Kafka: every log record once or at least once, whatever is refused, killed or lost.

use millrace_contract::{Model, Route};
use millrace_engine::dead::kept::{self, KeptRecords};
use millrace_engine::drain::{Drain, DrainOptions};
use millrace_engine::intake::{ClockWindow, Intake, IntakeOptions};
use millrace_engine::ledger::Snapshot;
use millrace_engine::schema_store::SchemaStore;
use millrace_engine::source_logs::Positions;
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
        source_logs: sources.iter().map(|s| s.source_logs.clone()).collect(),
        store: store.clone(),
        linger: Duration::from_millis(5),
        schema_store: Arc::new(SchemaStore::open(dir).expect("the folder of schemas is made")),
        registrar: None,
        kept: KeptRecords::new(dir),
        seat: None,
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

    /// Waits until the drain says that all is well: what a client before the last said of its connection is over.
    fn well(&self, source: usize) {
        eventually("the drain runs", || (self.blocked(source).is_none() && self.drain.report().status == "Running").then_some(()));
    }

    fn blocked(&self, source: usize) -> Option<String> {
        self.sources[source].source_logs.blocked.lock().clone()
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
fn a_refused_record_stops_nobody_while_others_keep_coming() {
    let kafka = Kafka::shared();
    let (dir, topic, other) = (scratch("drain"), kafka.topic("orders"), kafka.topic("other"));
    kafka.create_topic(&topic, 1, &[("max.message.bytes", "20000")]);
    let site = site(kafka, dir.path(), ONCE, &[("busy", &[&other]), ("mes", &[&topic])], Vec::new());
    let large: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(b'!'..b'~')).take(50_000).collect();
    // 500 a second: more records are always on their way when the transaction fails, so the producer refuses them.
    let (count, refused) = (1_000u64, 400);
    for part in (0..count).step_by(10) {
        let doc = |i: u64| (0, "k".to_owned(), if i == refused { large.clone() } else { i.to_string().into_bytes() });
        site.send(1, (part..part + 10).map(doc), &[]);
        site.count(0, part..part + 10);
        std::thread::sleep(Duration::from_millis(20));
    }
    let ledger = site.drained(1);
    assert_eq!((ledger.produced, ledger.dead_at_send), (count - 1, 1), "{ledger:?}");
    assert_eq!((site.drained(0).produced, site.blocked(1)), (count, None));
    site.stop();
    every_once(kafka, &other, count);
    let seen = values(&kafka.read(&topic));
    assert!(seen.into_iter().eq((0..count).filter(|i| *i != refused)), "every other record once");
    let dead = kafka.read(&format!("{topic}.dead"));
    assert_eq!(dead[0].value.as_ref(), Some(&large));
    let reason = dead[0].header("__connect.errors.exception.message").expect("a reason");
    assert!(reason.contains(&format!("topic {topic} takes 20000")) && reason.contains("max.message.bytes"), "{reason}");
}

#[test]
fn a_record_too_large_even_for_the_dead_letters_is_kept_whole_in_a_file() {
    for commit in [AT_LEAST_ONCE, ONCE] {
        let kafka = Kafka::shared();
        let (dir, topic) = (scratch("drain"), kafka.topic("orders"));
        let site = site(kafka, dir.path(), commit, &[("mes", &[&topic])], Vec::new());
        let (key, property) = ("k".repeat(1_500_000), "p".repeat(60_000));
        site.count(0, 0..100);
        site.send(0, [(0, key.clone(), b"100".to_vec())], &[]);
        site.tokio.block_on(async {
            let mut batch = site.sources[0].batch().await;
            let payload = Some(batch.push_bytes(b"101"));
            let headers = batch.push_headers((0..30).map(|_| ("property", Some(property.as_bytes()))));
            let time = batch.read_time;
            batch.docs.push(Doc { route: RouteId(0), time, key: Span::EMPTY, headers, payload, topic: Span::EMPTY });
            site.sources[0].send(batch, &[]).await;
        });
        site.count(0, 102..200);
        let ledger = site.drained(0);
        assert_eq!((ledger.produced, ledger.dead_at_send), (198, 2), "{ledger:?}");
        assert_eq!(site.blocked(0), None);
        site.stop();
        let dead = kafka.read(&format!("{topic}.dead"));
        assert_eq!(dead.len(), 2);
        for letter in &dead {
            let header = |name: &str| letter.header(name).unwrap_or_default();
            assert_eq!(header("millrace.payload.cut"), "true");
            let file = kept::read(&header(kept::FILE), &header(kept::DIGEST)).expect("the file is there, as it was written");
            let whole = kept::decode(&file).expect("the file is ours");
            match letter.text().as_str() {
                "100" => assert_eq!((whole.key, whole.value), (Some(key.as_bytes()), Some(&b"100"[..]))),
                _ => {
                    assert_eq!((whole.key, whole.value), (None, Some(&b"101"[..])));
                    assert_eq!(
                        whole.headers().filter(|(name, value)| *name == "property" && *value == Some(property.as_bytes())).count(),
                        30
                    );
                }
            }
        }
    }
}

#[test]
fn records_without_a_key_are_refused_by_a_compacted_topic_and_each_says_why_in_words_of_its_own() {
    let kafka = Kafka::shared();
    let (dir, topic) = (scratch("drain"), kafka.topic("orders"));
    kafka.create_topic(&topic, 1, &[("cleanup.policy", "compact")]);
    let site = site(kafka, dir.path(), ONCE, &[("mes", &[&topic])], Vec::new());
    let is_keyless = |i: &u64| i % 60 == 17;
    site.send(0, (0..500u64).map(|i| (0, if is_keyless(&i) { String::new() } else { i.to_string() }, i.to_string().into_bytes())), &[]);
    let ledger = site.drained(0);
    let keyless = (0..500).filter(is_keyless).count() as u64;
    assert_eq!((ledger.produced, ledger.dead_at_send), (500 - keyless, keyless), "{ledger:?}");
    site.stop();
    let seen = values(&kafka.read(&topic));
    assert!(seen.into_iter().eq((0..500).filter(|i| !is_keyless(i))));
    let dead = kafka.read(&format!("{topic}.dead"));
    assert!(values(&dead).into_iter().eq((0..500).filter(is_keyless)));
    // Nothing but these words: what librdkafka gives as the broker's text is memory that it has freed.
    let reason = "refused by Kafka: Broker: Broker failed to validate record (INVALID_RECORD)";
    assert!(dead.iter().all(|d| d.header("__connect.errors.exception.message").as_deref() == Some(reason)), "{dead:?}");
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
fn a_record_that_was_read_before_the_clock_was_set_has_the_time_of_sending_as_its_timestamp() {
    for commit in [AT_LEAST_ONCE, ONCE] {
        let kafka = Kafka::shared();
        let (dir, topic) = (scratch("drain"), kafka.topic("orders"));
        let site = site(kafka, dir.path(), commit, &[("mes", &[&topic])], Vec::new());
        let now = Micros::now();
        site.tokio.block_on(async {
            let intake = &site.sources[0];
            let mut batch = intake.batch().await;
            batch.read_time = Micros(7 * 60_000_000);
            for i in 0..100 {
                let (key, payload) = (batch.push_bytes(b"k"), Some(batch.push_bytes(i.to_string().as_bytes())));
                let time = batch.read_time;
                batch.docs.push(Doc { route: RouteId(0), time, key, headers: Span::EMPTY, payload, topic: Span::EMPTY });
            }
            intake.send(batch, &[]).await;
        });
        site.count(0, 100..200);
        let ledger = site.drained(0);
        assert_eq!((ledger.produced, ledger.dead_at_send, ledger.timestamp_replaced), (200, 0, 100), "{ledger:?}");
        site.stop();
        let records = kafka.read(&topic);
        assert!(records.len() >= 200 && records.iter().all(|record| record.timestamp_ms >= now.as_millis()));
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
        let highest = first.sources[0].source_logs.lanes[0].1.end();
        first.stop();
        drop(dir);
        let dir = scratch("drain");
        let second = site(kafka, dir.path(), commit, &[(&name, &[&topic])], Vec::new());
        let mut from_kafka = second.sources[0].source_logs.from_kafka.subscribe();
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
    site.well(0);
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

#[test]
fn a_topic_that_is_deleted_while_records_flow_is_made_again_as_declared() {
    for commit in [AT_LEAST_ONCE, ONCE] {
        let kafka = Kafka::shared();
        let (dir, topic) = (scratch("drain"), kafka.topic("orders"));
        let spec = TopicSpec { name: topic.clone(), partitions: Some(3), ..TopicSpec::default() };
        let site = site(kafka, dir.path(), commit, &[("mes", &[&topic])], vec![spec]);
        site.count(0, 0..1_000);
        site.drained(0);
        kafka.delete_topic(&topic);
        let mut next = 1_000;
        within(Duration::from_secs(90), "the topic is there again, and takes records", || {
            site.count(0, next..next + 10);
            next += 10;
            (kafka.topics().contains(&(topic.clone(), 3)) && site.ledger(0).produced > 1_100).then_some(())
        });
        let ledger = site.drained(0);
        assert!(ledger.adds_up() && ledger.dead_at_send == 0, "{ledger:?}");
        site.well(0);
        site.stop();
        // What came after the deletion is in the new topic; at most what was in flight by then went into the old one.
        let values = values(&kafka.read(&topic));
        assert!(
            values.last() == Some(&(next - 1)) && values.len() as u64 >= next.saturating_sub(1_200),
            "{} of {next}, the last {:?}",
            values.len(),
            values.last()
        );
    }
}

#[test]
fn a_kafka_that_has_forgotten_everything_gets_its_topics_cursors_and_positions_again() {
    type Start = fn() -> Kafka;
    let kafkas: [(Start, _, _); 3] =
        [(|| Kafka::millrace(0), AT_LEAST_ONCE, Some(3)), (Kafka::start, ONCE, Some(3)), (Kafka::start, AT_LEAST_ONCE, None)];
    for (start, commit, partitions) in kafkas {
        let mut kafka = start();
        let (dir, topic) = (scratch("drain"), kafka.topic("orders"));
        let spec = TopicSpec { name: topic.clone(), partitions, ..TopicSpec::default() };
        let site = site(&kafka, dir.path(), commit, &[("mes", &[&topic])], vec![spec]);
        site.count(0, 0..100);
        site.send(0, [(0, "k".to_owned(), b"100".to_vec())], &[("file a", b"17")]);
        site.drained(0);
        kafka.wipe();
        site.count(0, 101..200);
        let ledger = within(Duration::from_secs(90), "what came after it is in the new Kafka", || {
            // The engine's own tick, which a source's task calls.
            site.tokio.block_on(site.sources[0].tick());
            let ledger = site.ledger(0);
            (ledger.produced == 200).then_some(ledger)
        });
        assert!(ledger.adds_up() && ledger.dead_at_send + ledger.dropped_from_log == 0, "{ledger:?}");
        site.well(0);
        assert!(kafka.topics().contains(&(topic.clone(), partitions.map_or(1, |count: i32| count as usize))), "as declared");
        let cursors = within(Duration::from_secs(30), "cursor and position are there", || {
            site.tokio.block_on(site.sources[0].tick());
            let cursors = kafka.read("millrace.cursors");
            let has = |kind: &str| cursors.iter().any(|r| r.key_text().contains(kind));
            (has("\"cursor\"") && has("file a")).then_some(cursors)
        });
        assert!(cursors.iter().any(|r| r.key_text().contains("file a") && r.text() == "17"));
        site.stop();
        let seen = values(&kafka.read(&topic));
        assert!((101..200).all(|i| seen.contains(&i)), "{seen:?}");
    }
}
