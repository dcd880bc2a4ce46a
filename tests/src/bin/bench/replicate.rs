//! Replication beside MirrorMaker 2: the same backlog between the same two Apache Kafkas, one after the other.
//!
//! CPU is counted from the first record at the target on, so that the start of a virtual machine is not in it; memory is the most there was.

use crate::figures::{JSON, LONG, Row, row};
use crate::latency::Ages;
use millrace_tests::wait::within;
use millrace_tests::{Factory, Kafka, Millrace, MirrorMaker, Process};
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 6;
const VALUE: usize = 250;

const FACTORY: &str = "
sinks:
  cloud: {type: kafka, topics: [$topic], brokers: \"$cloud\", rename: \"$name.{topic}\", delivery: $delivery, provenance: $marked}
";

/// As it is tuned for a backlog: larger fetches, larger batches, the same compression as ours.
const TUNED: &str = "tasks.max=2\nemit.heartbeats.enabled=false\nemit.checkpoints.enabled=false\nsync.topic.acls.enabled=false\n\
    home.consumer.max.poll.records=10000\nhome.consumer.fetch.max.bytes=52428800\nhome.consumer.max.partition.fetch.bytes=8388608\n\
    cloud.producer.batch.size=1000000\ncloud.producer.linger.ms=5\ncloud.producer.compression.type=lz4\ncloud.producer.buffer.memory=134217728\n";

struct Measured {
    first_s: f64,
    cpu_per_million: f64,
    records_per_s: f64,
    wide_mib: u64,
}

/// Records that a topic has; 0: it is not there.
fn count(consumer: &BaseConsumer, topic: &str) -> i64 {
    let of = |partition| consumer.fetch_watermarks(topic, partition, Duration::from_secs(5)).map_or(0, |(low, high)| high - low);
    (0..PARTITIONS).map(of).sum()
}

/// Records of the copy that are there beyond those of the original, when what copies is killed half-way and started again.
/// `restart` kills what copies, if it runs, and starts it.
fn twice<T>(cloud: &Kafka, topic: &str, records: i64, mut copies: T, restart: impl Fn(&mut T)) -> i64 {
    let consumer: BaseConsumer = cloud.client().create().expect("a consumer can be made");
    restart(&mut copies);
    within(LONG, "half is copied", || (count(&consumer, topic) >= records / 2).then_some(()));
    restart(&mut copies);
    let seen = |least: usize| cloud.follow(topic).until_within(LONG, "all is copied", |all| all.len() >= least).len();
    let mut all = seen(records as usize);
    // What comes late comes within this time.
    loop {
        std::thread::sleep(Duration::from_secs(5));
        let now = cloud.read(topic).len();
        if now == all {
            return all as i64 - records;
        }
        all = now;
    }
}

/// How old samples at 5,000/s are when a reader of the target has them: p99 in milliseconds. `start` begins to copy; what it returns copies until it is
/// dropped.
fn age<T>(cloud: &Kafka, topic: &str, quick: bool, start: impl FnOnce() -> T) -> f64 {
    let consumer: BaseConsumer = cloud.client().create().expect("a consumer can be made");
    let _copies = start();
    within(LONG, "the copy grows", || (count(&consumer, topic) > 20_000).then_some(()));
    let ages = Ages::of(cloud, topic, PARTITIONS, Duration::from_secs(if quick { 10 } else { 30 }));
    assert!(ages.count() > 20_000, "{} samples arrived", ages.count());
    ages.quantile(0.99)
}

/// From its start until the target has everything.
fn measure<T>(cloud: &Kafka, topic: &str, records: i64, start: impl FnOnce() -> T, process: fn(&mut T) -> &mut Process) -> Measured {
    let consumer: BaseConsumer = cloud.client().create().expect("a consumer can be made");
    let began = Instant::now();
    let mut started = start();
    let process = process(&mut started);
    let seen = loop {
        match count(&consumer, topic) {
            0 if began.elapsed() < LONG => assert!(process.is_running(), "it ended\n{}", process.output()),
            seen => break seen,
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let (first, cpu) = (Instant::now(), process.cpu_seconds());
    within(LONG, "the target has everything", || (count(&consumer, topic) >= records).then_some(()));
    let copied = (records - seen) as f64;
    let measured = Measured {
        first_s: (first - began).as_secs_f64(),
        cpu_per_million: (process.cpu_seconds() - cpu) / copied * 1e6,
        records_per_s: copied / first.elapsed().as_secs_f64(),
        wide_mib: process.memory_kib("VmHWM") >> 10,
    };
    process.kill9();
    measured
}

pub fn replicate(quick: bool) -> Vec<Row> {
    let records: i64 = if quick { 600_000 } else { 4_000_000 };
    let (home, cloud) = (Kafka::start(), Kafka::start());
    let topic = home.topic("backlog");
    home.create_topic(&topic, PARTITIONS, &[]);
    // Half of it repeats, as the fields of real records do.
    let mut noise = fastrand::Rng::with_seed(7);
    let values: Vec<String> = (0..10_000)
        .map(|_| "x".repeat(VALUE / 2) + &std::iter::repeat_with(|| noise.alphanumeric()).take(VALUE / 2).collect::<String>())
        .collect();
    let keys: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    for _ in 0..records / 10_000 {
        home.produce(&topic, keys.iter().zip(&values).map(|(key, value)| (key.as_str(), value.as_bytes())));
    }
    // With a header in each, records go one by one.
    let prepared = |topic: &str, name: &str, delivery: &str, marked: bool| {
        let factory = Factory::on(&home).with("topic", topic).with("cloud", cloud.brokers()).with("name", name);
        factory.with("delivery", delivery).with("marked", marked).prepare(FACTORY)
    };
    let launched = |topic: &str, name: &str, delivery: &str, marked: bool| {
        let mut millrace = prepared(topic, name, delivery, marked);
        millrace.launch();
        millrace
    };
    let ours = |name: &str, delivery: &str, marked: bool| {
        measure(&cloud, &format!("{name}.{topic}"), records, || launched(&topic, name, delivery, marked), Millrace::process)
    };
    let (once_whole, least_whole) = (ours("once-whole", "exactly_once", false), ours("least-whole", "at_least_once", false));
    let (once, least) = (ours("once", "exactly_once", true), ours("least", "at_least_once", true));
    let mirror_of = |topic: &str, name: &str, more: &str| {
        let more = format!("{TUNED}{more}").replace("home.", &format!("{name}."));
        MirrorMaker::start((name, &home), ("cloud", &cloud), topic, &more)
    };
    let mirror = |name: &str, more: &str| {
        measure(&cloud, &format!("{name}.{topic}"), records, || mirror_of(&topic, name, more), MirrorMaker::process)
    };
    let theirs = mirror("mirror", "");
    let theirs_once = mirror("mirror-once", "cloud.exactly.once.source.support=enabled\n");

    let killed = home.topic("killed");
    home.create_topic(&killed, PARTITIONS, &[]);
    let few = records.min(300_000);
    for _ in 0..few / 10_000 {
        home.produce(&killed, keys.iter().zip(&values).map(|(key, value)| (key.as_str(), value.as_bytes())));
    }
    let ours_twice = twice(&cloud, &format!("killed.{killed}"), few, prepared(&killed, "killed", "exactly_once", false), |millrace| {
        millrace.kill9();
        millrace.launch();
    });
    let theirs_twice = twice(&cloud, &format!("mirror-killed.{killed}"), few, None::<MirrorMaker>, |mirror| {
        // The one before is killed where it is dropped.
        *mirror = None;
        *mirror = Some(mirror_of(&killed, "mirror-killed", ""));
    });

    let telemetry = home.topic("telemetry");
    let factory = Factory::on(&home).with("topic", &telemetry).with("tags", 1_000).with("pace", "rate: 5000/s,");
    let _source = factory.start(JSON);
    let ours_age = age(&cloud, &format!("live.{telemetry}"), quick, || launched(&telemetry, "live", "at_least_once", false));
    let theirs_age = age(&cloud, &format!("mirror-live.{telemetry}"), quick, || mirror_of(&telemetry, "mirror-live", ""));
    let mut rows = Vec::new();
    let (least_theirs, once_theirs) = (&theirs, &theirs_once);
    for (what, ours, theirs, goal) in [
        ("batches whole, at_least_once", least_whole, least_theirs, "<= 0.2 s"),
        ("batches whole, exactly_once", once_whole, once_theirs, "<= 0.2 s"),
        ("record by record, at_least_once", least, least_theirs, "<= 0.95 s"),
        ("record by record, exactly_once", once, once_theirs, ""),
    ] {
        let ratio = |ours: f64, theirs: f64| format!("{:.2}", ours / theirs);
        rows.extend([
            row(
                format!("replicate, {what}: CPU per million records of {VALUE} B, against MirrorMaker 2"),
                format!("{:.2} s, MirrorMaker 2 {:.2} s", ours.cpu_per_million, theirs.cpu_per_million),
                goal,
                ratio(ours.cpu_per_million, theirs.cpu_per_million),
            ),
            row(
                "  its memory (VmHWM)",
                format!("{} MiB, MirrorMaker 2 {} MiB", ours.wide_mib, theirs.wide_mib),
                "<= 120 MiB",
                ratio(ours.wide_mib as f64, theirs.wide_mib as f64),
            ),
            row(
                "  from the start to the first record at the target",
                format!("{:.1} s, MirrorMaker 2 {:.1} s", ours.first_s, theirs.first_s),
                "0.5 s",
                ratio(ours.first_s, theirs.first_s),
            ),
            row(
                format!("  catch-up of {records} records"),
                format!("{:.0}/s, MirrorMaker 2 {:.0}/s", ours.records_per_s, theirs.records_per_s),
                ">= 1",
                ratio(ours.records_per_s, theirs.records_per_s),
            ),
        ]);
    }
    rows.push(row(
        "replicate: records that are there twice after kill -9 (exactly_once), MirrorMaker 2 as it is",
        format!("{ours_twice}, MirrorMaker 2 {theirs_twice} of {few}"),
        "0",
        "",
    ));
    rows.push(row(
        "replicate: p99 of the age of samples at the target, 5,000/s",
        format!("{ours_age:.0} ms, MirrorMaker 2 {theirs_age:.0} ms"),
        "< 1",
        format!("{:.2}", ours_age / theirs_age),
    ));
    rows
}
