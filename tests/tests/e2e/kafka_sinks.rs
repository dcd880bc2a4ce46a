//! Sinks by consumer groups: offsets behind flushes, rebalances, refused records.

use async_trait::async_trait;
use millrace_contract::{Failure, Flush, Flushed, Input, Offset, Partition, Records, Refused, Sink, Upstream};
use millrace_engine::dead;
use millrace_engine::hold::Order;
use millrace_engine::sinks::{SinkOptions, SinkTask};
use millrace_engine::status::Board;
use millrace_engine::topics::Topics;
use millrace_kafka::Settings;
use millrace_tests::*;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// What a target has durably, shared by all instances that write to it.
#[derive(Default)]
struct Target {
    /// Each flushed record, and how often it was flushed.
    flushed: Mutex<BTreeMap<String, u32>>,
    instances: Mutex<u32>,
    /// Offsets that the target holds itself.
    held: Mutex<HashMap<(String, i32), i64>>,
    revoked_unflushed: Mutex<u32>,
    partitions: Mutex<Vec<usize>>,
    /// Where the records were said to be from.
    upstreams: Mutex<Vec<Upstream>>,
    /// It is away for so many flushes more.
    away: Mutex<u32>,
}

impl Target {
    fn len(&self) -> usize {
        self.flushed.lock().len()
    }

    fn repeats(&self) -> usize {
        self.flushed.lock().values().filter(|n| **n > 1).count()
    }
}

/// Buffers records and makes them durable with a flush.
struct Buffer {
    target: Arc<Target>,
    input: Input,
    holds_offsets: bool,
    /// Refuses values that begin with this: at once, or with the flush.
    refuses: Option<(&'static str, bool)>,
    /// Fails once at this value, per target.
    fails_at: Option<&'static str>,
    /// It holds so many, is flushed only when it does, and asks where they are from.
    full_at: Option<usize>,
    waiting: Vec<String>,
    late: Vec<Refused>,
    below: HashMap<Partition, Offset>,
    mine: usize,
}

#[async_trait]
impl Sink for Buffer {
    fn input(&self) -> Input {
        self.input
    }

    fn flush_every(&self) -> Duration {
        if self.full_at.is_some() { Duration::from_secs(3600) } else { Duration::from_millis(100) }
    }

    fn is_full(&self) -> bool {
        self.full_at.is_some_and(|full| self.waiting.len() >= full)
    }

    fn wants_upstream(&self) -> bool {
        self.full_at.is_some()
    }

    fn upstream(&mut self, upstream: Upstream) {
        self.target.upstreams.lock().push(upstream);
    }

    fn skip(&mut self, below: &[(Partition, Offset)]) {
        self.below.extend(below.iter().cloned());
    }

    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure> {
        self.mine += parts.len();
        self.target.partitions.lock().push(self.mine);
        let held = self.target.held.lock();
        Ok(parts.iter().map(|p| if self.holds_offsets { held.get(&(p.topic.to_string(), p.partition)).copied() } else { None }).collect())
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        let mut refused = Vec::new();
        for (index, record) in records.records.iter().enumerate() {
            let part = records.partition(record).clone();
            let text = match &records.batch {
                Some(batch) if self.input == Input::Samples => format!("{:?}", batch.rows[index].value),
                _ => String::from_utf8_lossy(record.value.map_or(&b""[..], |v| records.of(v))).into_owned(),
            };
            if self.fails_at == Some(text.as_str()) && *self.target.instances.lock() == 1 {
                return Err(Failure::RetryAfter(Duration::from_millis(10), "the target fell over".into()));
            }
            self.below.insert(part.clone(), record.offset + 1);
            match self.refuses {
                Some((prefix, is_late)) if text.starts_with(prefix) => {
                    let no = Refused { partition: part, offset: record.offset, reason: "the target wants none of it".into() };
                    if is_late { self.late.push(no) } else { refused.push(no) }
                }
                _ => self.waiting.push(text),
            }
        }
        Ok(refused)
    }

    async fn flush(&mut self, _why: Flush) -> Result<Flushed, Failure> {
        let mut away = self.target.away.lock();
        if *away > 0 {
            *away -= 1;
            return Err(Failure::RetryAfter(Duration::from_millis(10), "the target is away".into()));
        }
        let mut flushed = self.target.flushed.lock();
        for text in self.waiting.drain(..) {
            *flushed.entry(text).or_default() += 1;
        }
        let mut held = self.target.held.lock();
        for (part, offset) in &self.below {
            held.insert((part.topic.to_string(), part.partition), *offset);
        }
        Ok(Flushed { below: self.below.drain().collect(), refused: std::mem::take(&mut self.late), ..Flushed::default() })
    }

    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        self.mine = self.mine.saturating_sub(parts.len());
        *self.target.revoked_unflushed.lock() += self.waiting.len() as u32;
        Ok(())
    }
}

/// How a test's sinks differ.
#[derive(Clone, Copy)]
struct Kind {
    input: Input,
    holds_offsets: bool,
    refuses: Option<(&'static str, bool)>,
    fails_at: Option<&'static str>,
    full_at: Option<usize>,
}

const PLAIN: Kind = Kind { input: Input::Raw, holds_offsets: false, refuses: None, fails_at: None, full_at: None };

struct Bench {
    kafka: &'static Kafka,
    tokio: tokio::runtime::Runtime,
    topic: String,
    group: String,
    target: Arc<Target>,
    board: Arc<Board>,
}

impl Bench {
    fn new(partitions: i32) -> Self {
        let kafka = Kafka::shared();
        let (topic, group) = (kafka.topic("sink"), kafka.topic("group"));
        kafka.create_topic(&topic, partitions, &[]);
        let tokio = tokio::runtime::Runtime::new().expect("tokio starts");
        Self { kafka, tokio, topic, group, target: Arc::default(), board: Arc::default() }
    }

    fn start(&self, kind: Kind) -> SinkTask {
        self.start_on(kind, vec![self.topic.clone()])
    }

    fn start_on(&self, kind: Kind, topics: Vec<String>) -> SinkTask {
        let target = self.target.clone();
        let options = SinkOptions {
            session: None,
            member: format!("target-{:x}", fastrand::u64(..)),
            name: "target".into(),
            settings: Settings::new(self.kafka.brokers()).with("heartbeat.interval.ms", "500"),
            group: self.group.clone(),
            topics,
            from_latest: false,
            connector: "acme/plant/target".into(),
            known: Topics::default(),
            order: Order::default(),
            registry: None,
            dead_letter: Box::new(|topic| format!("{topic}.dead").into()),
            make: Box::new(move || {
                *target.instances.lock() += 1;
                Box::new(Buffer {
                    target: target.clone(),
                    input: kind.input,
                    holds_offsets: kind.holds_offsets,
                    refuses: kind.refuses,
                    fails_at: kind.fails_at,
                    full_at: kind.full_at,
                    waiting: Vec::new(),
                    late: Vec::new(),
                    below: HashMap::new(),
                    mine: 0,
                })
            }),
            board: self.board.clone(),
        };
        SinkTask::start(options, self.tokio.handle().clone()).expect("the sink starts")
    }

    fn produce(&self, range: std::ops::Range<u32>) {
        let texts: Vec<String> = range.map(|i| i.to_string()).collect();
        self.kafka.produce(&self.topic, texts.iter().map(|t| (t.as_str(), t.as_bytes())));
    }

    fn wait(&self, count: usize) {
        eventually("the target has every record", || (self.target.len() >= count).then_some(()));
    }

    fn dead(&self) -> Vec<Record> {
        eventually("the dead letters are there", || {
            let name = format!("{}.dead", self.topic);
            let records = if self.kafka.topics().iter().any(|(t, _)| *t == name) { self.kafka.read(&name) } else { Vec::new() };
            (!records.is_empty()).then_some(records)
        })
    }
}

#[test]
fn what_was_flushed_is_committed_and_a_restart_repeats_nothing() {
    let bench = Bench::new(2);
    bench.produce(0..500);
    let task = bench.start(PLAIN);
    bench.wait(500);
    task.stop(Duration::from_secs(10));
    assert_eq!(bench.board.own().word(), "Stopped");
    bench.produce(500..600);
    let task = bench.start(PLAIN);
    bench.wait(600);
    task.stop(Duration::from_secs(10));
    assert_eq!((bench.target.len(), bench.target.repeats()), (600, 0));
    let committed: i64 = (0..2).filter_map(|p| bench.kafka.committed(&bench.group, &bench.topic, p)).sum();
    assert_eq!(committed, 600);
    assert_eq!(task.counts().consumed, 100);
}

#[test]
fn a_sink_that_asks_is_told_where_records_are_from_and_flushed_when_it_is_full() {
    let bench = Bench::new(1);
    bench.produce(0..300);
    let mindful = Kind { holds_offsets: true, full_at: Some(100), ..PLAIN };
    let task = bench.start(mindful);
    bench.wait(100);
    task.stop(Duration::from_secs(10));
    let said = bench.target.upstreams.lock().clone();
    assert!(said.len() == 1 && !said[0].cluster.is_empty() && said[0].group == bench.group, "{said:?}");
    assert_eq!(said[0].topic_ids[bench.topic.as_str()].len(), 22, "{said:?}");
    // What retention took behind the position that the target holds is lost, and counted once: when the target is past it, however often it was found.
    let key = (bench.topic.clone(), 0);
    bench.target.held.lock().insert(key.clone(), 250);
    bench.kafka.delete_records(&bench.topic, 0);
    *bench.target.away.lock() = 3;
    let instances = *bench.target.instances.lock();
    let task = bench.start(mindful);
    eventually("what is lost is counted", || (task.counts().lost > 0).then_some(()));
    assert_eq!((task.counts().lost, *bench.target.instances.lock() - instances), (50, 4), "each instance found it");
    assert_eq!(bench.target.held.lock()[&key], 300, "it is past the gap, with nothing new to write");
    task.stop(Duration::from_secs(10));
    bench.produce(300..400);
    let task = bench.start(mindful);
    eventually("the target has what is left", || bench.target.flushed.lock().contains_key("399").then_some(()));
    assert_eq!((task.counts().lost, bench.target.repeats()), (0, 0));
    task.stop(Duration::from_secs(10));
    // A position beyond Kafka's end: Kafka lost what was read before. That needs a person.
    bench.target.held.lock().insert(key, 1_000);
    let task = bench.start(mindful);
    eventually("the sink needs a person", || (bench.board.own().word() == "Blocked").then_some(()));
    assert!(bench.board.own().reason().is_some_and(|reason| reason.contains("Kafka ends at 400")), "{:?}", bench.board.own());
    task.stop(Duration::from_secs(10));
}

#[test]
fn what_retention_took_behind_a_groups_offset_is_counted_once_with_nothing_new_to_read() {
    let bench = Bench::new(1);
    bench.produce(0..100);
    let task = bench.start(PLAIN);
    bench.wait(100);
    task.stop(Duration::from_secs(10));
    bench.produce(100..130);
    bench.kafka.delete_records(&bench.topic, 0);
    let task = bench.start(PLAIN);
    eventually("what is lost is counted", || (task.counts().lost == 30).then_some(()));
    task.stop(Duration::from_secs(10));
    assert_eq!(bench.kafka.committed(&bench.group, &bench.topic, 0), Some(130));
    bench.produce(130..140);
    let task = bench.start(PLAIN);
    bench.wait(110);
    assert_eq!((task.counts().lost, bench.target.repeats()), (0, 0));
    task.stop(Duration::from_secs(10));
}

#[test]
fn a_failed_instance_is_replaced_and_what_it_had_not_flushed_comes_again() {
    let bench = Bench::new(1);
    bench.produce(0..300);
    let task = bench.start(Kind { fails_at: Some("200"), ..PLAIN });
    bench.wait(300);
    task.stop(Duration::from_secs(10));
    assert_eq!(*bench.target.instances.lock(), 2);
}

#[test]
fn refused_records_are_dead_letters_before_they_are_committed() {
    for is_late in [false, true] {
        let bench = Bench::new(1);
        bench.produce(0..100);
        let task = bench.start(Kind { refuses: Some(("7", is_late)), ..PLAIN });
        bench.wait(89);
        eventually("all is committed", || (bench.kafka.committed(&bench.group, &bench.topic, 0) == Some(100)).then_some(()));
        let counts = task.counts();
        assert_eq!((counts.consumed, counts.written, counts.dead), (100, 89, 11));
        task.stop(Duration::from_secs(10));
        let dead = bench.dead();
        let texts: Vec<String> = dead.iter().map(Record::text).collect();
        assert_eq!(texts, ["7", "70", "71", "72", "73", "74", "75", "76", "77", "78", "79"]);
        assert_eq!(dead[0].header(dead::TOPIC), Some(bench.topic.clone()));
        assert_eq!(dead[1].header("__connect.errors.offset").as_deref(), Some("70"));
        assert_eq!(dead[0].header(dead::REASON).as_deref(), Some("the target wants none of it"));
    }
}

#[test]
fn a_second_member_takes_over_in_mid_write_and_nothing_is_lost() {
    let bench = Bench::new(6);
    let first = bench.start(PLAIN);
    bench.produce(0..5_000);
    eventually("the first has some", || (bench.target.len() > 100).then_some(()));
    let second = bench.start(PLAIN);
    bench.produce(5_000..20_000);
    eventually("both have partitions", || {
        (bench.target.partitions.lock().iter().filter(|n| (1..6).contains(*n)).count() > 0).then_some(())
    });
    bench.produce(20_000..25_000);
    bench.wait(25_000);
    first.stop(Duration::from_secs(10));
    bench.produce(25_000..26_000);
    bench.wait(26_000);
    second.stop(Duration::from_secs(10));
    assert_eq!(*bench.target.revoked_unflushed.lock(), 0, "the engine flushes before it revokes");
    assert_eq!((bench.target.len(), bench.target.repeats()), (26_000, 0));
}

#[test]
fn offsets_that_the_target_holds_win_over_the_groups() {
    let bench = Bench::new(1);
    bench.produce(0..100);
    bench.target.held.lock().insert((bench.topic.clone(), 0), 40);
    let task = bench.start(Kind { holds_offsets: true, ..PLAIN });
    bench.wait(60);
    task.stop(Duration::from_secs(10));
    assert!(bench.target.flushed.lock().keys().all(|t| t.parse::<u32>().unwrap() >= 40));
}

#[test]
fn samples_are_decoded_and_what_is_none_is_a_dead_letter() {
    let bench = Bench::new(1);
    let sample = br#"{"tag":"acme/plant/t","def":0,"value":7,"time":1700000000000000,"time_source":"gateway","read_time":1700000000000000,"server_time":null,"device_time":null,"status":0,"quality":"good","origin":"poll","source":"acme/plant/s","seq":1}"#;
    bench.kafka.produce(&bench.topic, [("a", &sample[..]), ("b", b"not a sample"), ("c", &sample[..])]);
    let task = bench.start(Kind { input: Input::Samples, ..PLAIN });
    bench.wait(1);
    let dead = bench.dead();
    assert_eq!((dead.len(), dead[0].text().as_str()), (1, "not a sample"));
    assert!(dead[0].header(dead::REASON).is_some_and(|r| r.contains("no sample")));
    eventually("all is committed", || (bench.kafka.committed(&bench.group, &bench.topic, 0) == Some(3)).then_some(()));
    task.stop(Duration::from_secs(10));
    assert_eq!(bench.target.flushed.lock().iter().next().map(|(k, v)| (k.as_str(), *v)), Some(("Int(7)", 2)));
}

#[test]
fn a_pattern_takes_every_topic_that_fits() {
    let bench = Bench::new(1);
    let (prefix, other) = (bench.topic.clone(), format!("{}.b", bench.topic));
    bench.kafka.create_topic(&other, 1, &[]);
    bench.produce(0..10);
    bench.kafka.produce(&other, [("x", &b"from the other"[..])]);
    let task = bench.start_on(PLAIN, vec![format!("{prefix}*")]);
    bench.wait(11);
    task.stop(Duration::from_secs(10));
}

#[test]
fn dead_letters_are_listed_and_sent_again_but_never_a_command() {
    let bench = Bench::new(1);
    bench.produce(0..20);
    let task = bench.start(Kind { refuses: Some(("1", false)), ..PLAIN });
    bench.wait(9);
    eventually("all is committed", || (bench.kafka.committed(&bench.group, &bench.topic, 0) == Some(20)).then_some(()));
    task.stop(Duration::from_secs(10));
    let settings = Settings::new(bench.kafka.brokers());
    let letters = format!("{}.dead", bench.topic);
    let topics: Vec<String> = dead::topics(&settings, &[]).unwrap().into_iter().filter(|t| *t == letters).collect();
    let summary = dead::summary(&settings, &topics, &dead::Filter::default()).unwrap();
    assert_eq!(summary.into_values().collect::<Vec<_>>(), [11]);
    let mut ids = Vec::new();
    let filter = dead::Filter { source: Some("target".into()), reason: Some("none of it".into()), ..dead::Filter::default() };
    dead::read(&settings, &topics, &filter, |letter| {
        ids.push(letter.id());
        ids.len() < 3
    })
    .unwrap();
    let chosen = dead::Filter { ids, ..dead::Filter::default() };
    let as_it_was = |topic: &str, letter: dead::DeadLetter| Ok(vec![(topic.to_owned(), letter)]);
    let refused = dead::replay(&settings, &topics, &chosen, std::slice::from_ref(&bench.topic), false, as_it_was).unwrap();
    assert_eq!((refused.sent, refused.refused_total), (0, 3));
    assert!(refused.refused[0].1.contains("command"));
    let replayed = dead::replay(&settings, &topics, &chosen, &[], false, as_it_was).unwrap();
    assert_eq!((replayed.sent, replayed.refused_total), (3, 0));
    let records = bench.kafka.read(&bench.topic);
    assert_eq!(records.len(), 23);
    assert!(records[20..].iter().all(|r| r.header(dead::REPLAYED).is_some() && r.header(dead::REASON).is_none()));
}

#[test]
fn a_sink_says_which_of_its_topics_is_missing_and_begins_when_it_is_there() {
    let kafka = Kafka::shared();
    let (here, missing) = (kafka.topic("here"), kafka.topic("missing"));
    kafka.create_topic(&here, 1, &[]);
    let factory = Factory::on(kafka).with("here", &here).with("missing", &missing);
    let archive = factory.dir().to_owned();
    let millrace = factory.start(
        "
kafka: {brokers: '$kafka', properties: {topic.metadata.refresh.interval.ms: '1000'}}
sinks:
  archive: {type: file, topics: [$here, $missing], path: '$dir/{topic}.ndjson'}
",
    );
    let part = format!("topic {missing}");
    eventually("the missing topic is named", || {
        let sink = millrace.connector("archive");
        let reason = sink["parts"][&part].as_str().unwrap_or_default().to_owned();
        (sink["status"] == "Degraded" && reason.contains("does not exist yet")).then_some(())
    });
    assert!(millrace.log().contains("does not exist yet"));
    assert!(millrace.connector("archive")["parts"][format!("topic {here}")].is_null());
    kafka.create_topic(&missing, 1, &[]);
    kafka.produce(&missing, [("k", &b"\"unmistakable\""[..])]);
    eventually("it is read", || {
        let text = std::fs::read_to_string(archive.join(format!("{missing}.ndjson"))).unwrap_or_default();
        text.contains("unmistakable").then_some(())
    });
    millrace.wait_running("archive");
}
