//! The embedded broker against Apache Kafka with a small heap: the same client, the same durability, one after the other on the same machine.

use crate::figures::{Row, row};
use millrace_tests::hostile::{Listener, attack, kafka_frames};
use millrace_tests::{Embedded, Kafka};
use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 6;
/// Bytes of a record's value; nothing is compressed, so that the broker has them all.
const VALUE: usize = 200;
const RATE: f64 = 20_000.0;
const LONG: Duration = Duration::from_secs(300);
const HEAP_MIB: u32 = 256;

/// What one broker did.
struct Measured {
    produced_per_s: f64,
    consumed_per_s: f64,
    bytes_per_record: f64,
    p50_ms: f64,
    p99_ms: f64,
    wide_mib: u64,
}

/// Notes how long each record took to be acknowledged.
#[derive(Default)]
struct Acks(Mutex<Vec<f64>>);

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Instant>) {
        result.as_ref().map_err(|(error, _)| error.clone()).expect("every record is acknowledged");
        self.0.lock().expect("nobody panics with it").push(sent.elapsed().as_secs_f64() * 1e3);
    }
}

fn producer(kafka: &Kafka, linger_ms: &str) -> BaseProducer<Acks> {
    let mut config = kafka.client();
    config.set("acks", "all").set("enable.idempotence", "true").set("linger.ms", linger_ms).set("batch.size", "1000000");
    config.set("queue.buffering.max.messages", "200000").set("message.timeout.ms", "300000");
    config.create_with_context(Acks::default()).expect("a producer can be made")
}

/// Sends `count` records, `rate` a second (0: as fast as they go), each to the next partition; returns the seconds until all are acknowledged.
fn send(producer: &BaseProducer<Acks>, topic: &str, partitions: i32, count: u64, rate: f64) -> f64 {
    let value: Vec<u8> = (0..VALUE).map(|_| fastrand::u8(..)).collect();
    let began = Instant::now();
    let mut sent = 0;
    while sent < count {
        if rate > 0.0 && sent as f64 >= began.elapsed().as_secs_f64() * rate {
            producer.poll(Duration::from_micros(500));
            continue;
        }
        // A run of records for each partition: so do sources, and so batches come about.
        let partition = (sent / 50 % partitions as u64) as i32;
        let record = BaseRecord::<(), [u8], _>::with_opaque_to(topic, Box::new(Instant::now())).payload(&value).partition(partition);
        match producer.send(record) {
            Ok(()) => sent += 1,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(1));
            }
            Err((error, _)) => panic!("the producer cannot send: {error}"),
        }
        if sent.is_multiple_of(256) {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(LONG).expect("the broker takes everything");
    began.elapsed().as_secs_f64()
}

fn reader(kafka: &Kafka, topic: &str, partitions: i32) -> BaseConsumer {
    let mut config = kafka.client();
    config.set("group.id", "bench").set("enable.auto.commit", "false").set("queued.min.messages", "200000");
    let consumer: BaseConsumer = config.create().expect("a consumer can be made");
    let mut list = TopicPartitionList::new();
    (0..partitions).for_each(|partition| list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset"));
    consumer.assign(&list).expect("partitions can be assigned");
    consumer
}

/// Reads `count` records from the beginning; returns the seconds.
fn read(kafka: &Kafka, topic: &str, count: u64) -> f64 {
    let consumer = reader(kafka, topic, PARTITIONS);
    let began = Instant::now();
    let mut seen = 0;
    while seen < count {
        match consumer.poll(Duration::from_secs(30)) {
            Some(message) => drop(message.expect("the broker answers")),
            None => panic!("{seen} of {count} records came"),
        }
        seen += 1;
    }
    began.elapsed().as_secs_f64()
}

/// Bytes of the disk that the folders of a topic's partitions take.
fn on_disk(folder: &Path, topic: &str) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let (path, name) = (entry.path(), entry.file_name());
            match entry.metadata() {
                Ok(found) if !found.is_dir() => match folder.to_string_lossy().contains(topic) {
                    true => found.blocks() * 512,
                    false => 0,
                },
                Ok(_) if name.to_string_lossy().starts_with('.') => 0,
                Ok(_) => on_disk(&path, topic),
                Err(_) => 0,
            }
        })
        .sum()
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted.get((sorted.len().saturating_sub(1) as f64 * q) as usize).copied().unwrap_or(f64::NAN)
}

fn measure(kafka: &Kafka, quick: bool) -> Measured {
    let count = if quick { 500_000 } else { 3_000_000 };
    let window = if quick { 10.0 } else { 30.0 };
    let warm = kafka.topic("warm");
    let bulk = kafka.topic("bulk");
    let single = kafka.topic("single");
    [&warm, &bulk, &single].into_iter().for_each(|topic| kafka.create_topic(topic, PARTITIONS, &[]));
    // A just-in-time compiler gets its time.
    send(&producer(kafka, "5"), &warm, PARTITIONS, count / 2, 0.0);
    read(kafka, &warm, count / 2);

    let produced = send(&producer(kafka, "5"), &bulk, PARTITIONS, count, 0.0);
    let consumed = read(kafka, &bulk, count);
    let bytes = on_disk(kafka.dir(), &bulk);
    let one_by_one = producer(kafka, "0");
    send(&one_by_one, &single, PARTITIONS, (RATE * 3.0) as u64, RATE);
    one_by_one.context().0.lock().expect("nobody panics with it").clear();
    send(&one_by_one, &single, PARTITIONS, (RATE * window) as u64, RATE);
    let mut acks = std::mem::take(&mut *one_by_one.context().0.lock().expect("nobody panics with it"));
    acks.sort_by(f64::total_cmp);
    Measured {
        produced_per_s: count as f64 / produced,
        consumed_per_s: count as f64 / consumed,
        bytes_per_record: bytes as f64 / count as f64,
        p50_ms: quantile(&acks, 0.5),
        p99_ms: quantile(&acks, 0.99),
        wide_mib: 0,
    }
}

/// MiB that a broker of its own has with 200 partitions that are written and read at the rate.
fn memory(kafka: &Kafka, quick: bool) -> u64 {
    let wide = kafka.topic("wide");
    kafka.create_topic(&wide, 200, &[]);
    let count = (RATE * if quick { 10.0 } else { 60.0 }) as u64;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let consumer = reader(kafka, &wide, 200);
            (0..count).for_each(|_| drop(consumer.poll(LONG).expect("a record comes").expect("the broker answers")));
        });
        send(&producer(kafka, "5"), &wide, 200, count, RATE);
    });
    kafka.process().memory_kib("VmHWM") / 1024
}

fn both(is_synced: bool, quick: bool) -> [Measured; 2] {
    let theirs = || {
        let options = Kafka::options().heap_mib(HEAP_MIB);
        if is_synced { options.property("log.flush.interval.messages", "1").start() } else { options.start() }
    };
    let ours = || Kafka::millrace(if is_synced { 0 } else { 200 });
    let starts: [&dyn Fn() -> Kafka; 2] = [&ours, &theirs];
    starts.map(|start| {
        let mut measured = measure(&start(), quick);
        if !is_synced {
            measured.wide_mib = memory(&start(), quick);
        }
        measured
    })
}

pub fn broker(quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for (is_synced, policy) in [(false, "no fsync per write"), (true, "fsync per write")] {
        let [ours, theirs] = both(is_synced, quick);
        let compare = |what: &str, unit: &str, goal: &str, of: fn(&Measured) -> f64, digits: usize| {
            let (ours, theirs) = (of(&ours), of(&theirs));
            let figure = format!("{ours:.digits$} {unit}, Kafka {theirs:.digits$} {unit}");
            row(format!("{what}, {policy}"), figure, goal, format!("{:.2}", ours / theirs))
        };
        rows.push(compare("embedded broker: produce", "records/s", ">= 1.0 x", |m| m.produced_per_s, 0));
        rows.push(compare("  consume", "records/s", ">= 1.0 x", |m| m.consumed_per_s, 0));
        rows.push(compare("  p50 of one record at 20,000/s, acks=all", "ms", "", |m| m.p50_ms, 2));
        rows.push(compare("  p99 of one record at 20,000/s, acks=all", "ms", "< 1 x", |m| m.p99_ms, 2));
        rows.push(compare("  on disk", "B/record", "1.0 x", |m| m.bytes_per_record, 1));
        if !is_synced {
            rows.push(compare("  memory with 200 partitions under load", "MiB", "<= 64 MiB", |m| m.wide_mib as f64, 0));
        }
    }
    rows
}

/// Clients at once; each opens a connection after the other.
const HOSTILE: u64 = 200;

pub fn hostile(quick: bool) -> Vec<Row> {
    let broker = Embedded::start();
    let listener = Listener { port: broker.port(), frames: kafka_frames("there") };
    let idle = broker.process().memory_kib("VmRSS");
    let end = Instant::now() + Duration::from_secs(if quick { 10 } else { 60 });
    let sent: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..HOSTILE)
            .map(|n| {
                scope.spawn({
                    let listener = &listener;
                    move || attack(listener, 777 + n, || Instant::now() < end)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client never panics")).sum()
    });
    let grown = broker.process().memory_kib("VmHWM").saturating_sub(idle) / 1024;
    vec![row(
        format!("embedded broker: memory above idle, {HOSTILE} hostile clients"),
        format!("{grown} MiB after {sent} frames"),
        "<= 128 MiB",
        "",
    )]
}
