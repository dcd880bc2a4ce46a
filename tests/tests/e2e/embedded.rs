//! The embedded broker: as the factory's own Kafka, and alone under clients while it is killed.

use crate::load::*;
use millrace_tests::*;
use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

const PATIENT: Duration = Duration::from_secs(60);

#[test]
fn a_factory_with_the_embedded_broker_survives_kills_and_shows_every_value_once() {
    let count = 20_000;
    let kafka = Kafka::inside(free_port());
    let factory = Factory::on(&kafka).with("listen", kafka.brokers());
    let (factory, topic) = counters(factory, &kafka, count, "4000/s");
    let text = format!("kafka: {{brokers: embedded, embedded: {{listen: \"$listen\"}}, delivery: exactly_once}}\n{COUNTERS}");
    let mut millrace = factory.start(&text);
    for kill in 1..=3 {
        millrace.wait_ledger("load", &format!("progress before kill {kill}"), |ledger| ledger.produced >= kill * count / 5);
        millrace.restart();
    }
    finished(&millrace, count);
    let records = kafka.read(&topic);
    every_value_once(&records, count);
    order_holds(&records);
    // A clean stop and start: all of it is still there, and readable.
    millrace.stop();
    millrace.launch();
    millrace.wait_alive();
    assert_eq!(kafka.read(&topic).len(), records.len());
}

/// Clients of the broker end before it does: one that is left behind would warn that it is gone.
#[test]
fn a_factory_with_its_own_broker_and_registry_stops_without_a_warning() {
    let kafka = Kafka::inside(free_port());
    let factory = Factory::on(&kafka).with("listen", kafka.brokers()).with("registry", free_port());
    std::fs::create_dir(factory.dir().join("out")).expect("a folder can be made");
    let mut millrace = factory.start(
        "kafka: {brokers: embedded, embedded: {listen: \"$listen\"}, delivery: exactly_once}\n\
         schemas: {registry: embedded, listen: \"127.0.0.1:$registry\"}\n\
         topics: {telemetry: {format: avro, schema: telemetry}}\n\
         sources: {load: {type: generator, at: load, topic: telemetry, tags: 10, rate: 1000/s, shapes: [counter], report: all}}\n\
         sinks: {archive: {type: file, topics: [telemetry], path: \"$dir/out/{topic}.ndjson\"}}\n",
    );
    eventually("the sink has written", || {
        millrace.dir().join("out/telemetry.ndjson").metadata().is_ok_and(|file| file.len() > 0).then_some(())
    });
    millrace.stop();
    let log = millrace.log();
    let (_, end) = log.split_once("stopping: intake first").unwrap_or_else(|| panic!("it did not say that it stops\n{log}"));
    assert!(end.contains("stopped") && !end.contains("WARN") && !end.contains("ERROR"), "{end}");
}

/// What the broker says of each record of a producer.
#[derive(Default)]
struct Told {
    acknowledged: AtomicUsize,
    refused: Mutex<Vec<RDKafkaErrorCode>>,
}

impl ClientContext for Told {}

impl ProducerContext for Told {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => drop(self.acknowledged.fetch_add(1, Relaxed)),
            Err((error, _)) => self.refused.lock().expect("nobody panicked").extend(error.rdkafka_error_code()),
        }
    }
}

/// Produces, without trying again, until a record is refused; returns how many were acknowledged, and why one was not.
fn produce_until_refused(kafka: &Kafka, topic: &str) -> (usize, RDKafkaErrorCode) {
    let mut config = kafka.client();
    config.set("enable.idempotence", "false").set("retries", "0").set("linger.ms", "2");
    let producer: BaseProducer<Told> = config.create_with_context(Told::default()).expect("a producer can be made");
    let value = vec![b'x'; 10_000];
    let refusal = || producer.context().refused.lock().expect("nobody panicked").first().copied();
    while refusal().is_none() {
        for _ in 0..8 {
            let _ = producer.send(BaseRecord::<(), [u8]>::to(topic).payload(&value));
        }
        producer.poll(Duration::from_millis(1));
    }
    producer.flush(PATIENT).expect("everything is answered");
    (producer.context().acknowledged.load(Relaxed), refusal().expect("there was one"))
}

/// Records of others fill the disk that the broker and the source's log share. Both say so, and go on when somebody has made room.
fn filled_by_foreign_records(delivery: &str) -> (Millrace, Kafka, String, SmallDisk) {
    let (kafka, disk, count) = (Kafka::inside(free_port()), SmallDisk::of(60 << 20), 8_000);
    let factory = Factory::on(&kafka).with("listen", kafka.brokers());
    let factory = factory.with("folder", disk.path().join("data").display()).with("keep_free", disk.keep_free());
    // The load lasts much longer than it takes to fill the disk.
    let (factory, topic) = counters(factory, &kafka, count, "200/s");
    let millrace = factory.start(&format!(
        "kafka: {{brokers: embedded, embedded: {{listen: \"$listen\"}}, delivery: {delivery}}}\ndata_dir: $folder\nlog: {{keep_free: $keep_free}}{COUNTERS}"
    ));
    millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > 100);
    let foreign = kafka.topic("foreign");
    kafka.create_topic(&foreign, 1, &[]);
    let (acknowledged, refusal) = produce_until_refused(&kafka, &foreign);
    assert_eq!(refusal, RDKafkaErrorCode::KafkaStorageError);
    assert!(acknowledged > 1_000, "{acknowledged}");
    eventually("the source is held, and it is said why", || {
        let held = millrace.connector("load")["log_held"].as_str().map(str::to_owned)?;
        assert!(held.contains("disk"), "{held}");
        assert_eq!(millrace.status()["disk"]["low"], true);
        Some(())
    });
    assert!(millrace.ledger("load").received < count, "the disk was full too late");
    eventually("the way to Kafka names the disk", || {
        let status = millrace.status();
        status["kafka"]["reason"].as_str().is_some_and(|reason| reason.contains("the disk here is full")).then_some(())
    });
    let said = String::from_utf8_lossy(&millrace.run(&["status", "-c", "factory.yaml"]).stdout).into_owned();
    assert!(said.contains("the disk here is full") && said.contains("make room in the data directory's file system"), "{said}");
    assert_eq!(kafka.read(&foreign).len(), acknowledged, "what was acknowledged is there, what was refused is not");

    kafka.delete_records(&foreign, 0);
    let (more, _) = produce_until_refused(&kafka, &foreign);
    assert!(more > 1_000, "{more}");
    assert_eq!(kafka.read(&foreign).len(), more);
    kafka.delete_records(&foreign, 0);
    let ledger = finished(&millrace, count);
    assert_eq!((ledger.appended, ledger.dropped_at_intake, ledger.dropped_from_log), (count, 0, 0), "{ledger:?}");
    (millrace, kafka, topic, disk)
}

#[test]
fn a_disk_that_foreign_records_fill_is_told_to_all_and_got_over_when_they_are_deleted() {
    let (_millrace, kafka, topic, _disk) = filled_by_foreign_records("at_least_once");
    every_value_at_least_once(&kafka.read(&topic), 8_000);
}

/// A transaction that finds no room is ended after 15 s and repeated, as often as it takes: its records and their cursors count once.
#[test]
fn a_disk_that_foreign_records_fill_is_got_over_with_transactions_and_shows_every_value_once() {
    let (millrace, kafka, topic, _disk) = filled_by_foreign_records("exactly_once");
    every_value_once(&kafka.read(&topic), 8_000);
    let log = millrace.log();
    let said = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert!(said("has not got all its markers yet") <= 1, "{log}");
    assert!(said("the disk is full; appends wait") <= 8, "two stores say it once for each time that it fills\n{log}");
}

/// An idempotent producer that goes on while the broker dies: what was acknowledged is there once, in order.
#[test]
fn what_the_broker_acknowledged_is_there_once_however_often_it_is_killed() {
    let mut kafka = Kafka::millrace(0);
    let topic = kafka.topic("acked");
    kafka.create_topic(&topic, 1, &[]);
    let producer: BaseProducer = kafka
        .client()
        .set("enable.idempotence", "true")
        .set("linger.ms", "2")
        .set("message.timeout.ms", "120000")
        .set("retry.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "200")
        .create()
        .expect("a producer can be made");
    let count = 30_000;
    for i in 0..count {
        let value = i.to_string();
        while producer.send(BaseRecord::<(), str>::to(&topic).payload(&value)).is_err() {
            producer.poll(Duration::from_millis(20));
        }
        producer.poll(Duration::ZERO);
        if i % 6_000 == 3_000 {
            kafka.restart();
        }
    }
    producer.flush(PATIENT).expect("everything is acknowledged in the end");
    let values: Vec<String> = kafka.read(&topic).iter().map(Record::text).collect();
    assert_eq!(values, (0..count).map(|i| i.to_string()).collect::<Vec<_>>());
}

/// A transaction that is open when the broker dies is aborted; one that was committed stays.
#[test]
fn a_kill_in_mid_transaction_aborts_it_and_leaves_the_committed_ones() {
    let mut kafka = Kafka::millrace(200);
    let topic = kafka.topic("txn");
    kafka.create_topic(&topic, 3, &[]);
    let mut committed = BTreeSet::new();
    for round in 0..4 {
        let producer: BaseProducer = kafka
            .client()
            .set("transactional.id", "rounds")
            .set("transaction.timeout.ms", "30000")
            .create()
            .expect("a producer can be made");
        producer.init_transactions(PATIENT).expect("the coordinator answers");
        for ends in [true, false] {
            producer.begin_transaction().expect("a transaction begins");
            for i in 0..30 {
                let value = format!("{round} {ends} {i}");
                producer.send(BaseRecord::to(&topic).payload(&value).key(&i.to_string())).expect("there is room");
                if ends {
                    committed.insert(value);
                }
            }
            producer.flush(PATIENT).expect("the records arrive");
            if ends {
                producer.commit_transaction(PATIENT).expect("the transaction commits");
            }
        }
        kafka.restart();
    }
    let values: Vec<String> = kafka.read(&topic).iter().map(Record::text).collect();
    assert_eq!(values.iter().cloned().collect::<BTreeSet<_>>(), committed);
    assert_eq!(values.len(), committed.len(), "a record is there twice");
    let all = kafka.follow_uncommitted(&topic).to_end().len();
    assert_eq!(all, 2 * committed.len(), "the aborted ones are there for who reads uncommitted");
}

#[test]
fn hostile_frames_end_their_own_connection_and_no_other() {
    let kafka = Kafka::millrace(200);
    let topic = kafka.topic("calm");
    kafka.create_topic(&topic, 1, &[]);
    let hostile: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        &[0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 4, 0, 0, 0, 9],
        &[0, 0, 0, 8, 0x7f, 0xff, 0, 0, 0, 0, 0, 1],
        // Produce version 8 whose list of topics claims two thousand million.
        &[0, 0, 0, 22, 0, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff],
    ];
    for round in 0..20 {
        for bytes in hostile {
            let mut stream = TcpStream::connect(kafka.brokers()).expect("it listens");
            stream.set_read_timeout(Some(PATIENT)).expect("a timeout can be set");
            stream.write_all(bytes).expect("bytes can be sent");
            let mut answer = Vec::new();
            // A reset is an end, too.
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.is_empty(), "{bytes:?} was answered");
        }
        kafka.produce(&topic, [("key", round.to_string().as_bytes())]);
    }
    // ApiVersions of a version to come: error 35 in the oldest format.
    let mut stream = TcpStream::connect(kafka.brokers()).expect("it listens");
    stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff]).expect("bytes can be sent");
    let mut head = [0; 10];
    stream.read_exact(&mut head).expect("an answer comes");
    assert_eq!(head[4..], [0, 0, 0, 7, 0, 35]);
    assert_eq!(kafka.read(&topic).len(), 20);
}

#[test]
fn what_cannot_be_started_says_why() {
    let mut kafka = Kafka::millrace(200);
    let start = |args: &[&str]| {
        let output = std::process::Command::new(millrace::binary()).arg("broker").args(args).output().expect("it runs");
        assert!(!output.status.success(), "it started: {args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let data = kafka.dir().join("data").display().to_string();
    let other = kafka.dir().join("other").display().to_string();
    let said = start(&["--data", &data, "--listen", "127.0.0.1:0"]);
    assert!(said.contains("in use by process"), "{said}");
    let said = start(&["--data", &other, "--listen", &kafka.brokers()]);
    assert!(said.contains("cannot listen on"), "{said}");
    let said = start(&["--data", &other, "--listen", "0.0.0.0:0"]);
    assert!(said.contains("TLS") && said.contains("logins"), "{said}");
    kafka.kill9();
    // A later format is followed by its CRC-32C; without one it would be taken for damage.
    std::fs::write(kafka.dir().join("data/format"), "MILLRBROKER 9\nad54b1b5\n").expect("a file can be written");
    let said = start(&["--data", &data, "--listen", "127.0.0.1:0"]);
    assert!(said.contains("another format"), "{said}");
}

#[test]
fn offsets_are_found_by_time_and_a_consumer_waits_for_more() {
    let kafka = Kafka::millrace(200);
    let topic = kafka.topic("times");
    kafka.create_topic(&topic, 1, &[("retention.ms", "-1")]);
    let producer: BaseProducer = kafka.client().set("compression.type", "lz4").create().expect("a producer can be made");
    let base = 1_700_000_000_000;
    for i in 0..100 {
        let value = i.to_string();
        producer.send(BaseRecord::<(), str>::to(&topic).payload(&value).timestamp(base + 10 * i)).expect("there is room");
    }
    producer.flush(PATIENT).expect("the records arrive");
    let consumer: BaseConsumer = kafka.client().set("group.id", "times").create().expect("a consumer can be made");
    for (time, offset) in [(0, 0), (base, 0), (base + 1, 1), (base + 495, 50), (base + 990, 99)] {
        let mut wanted = rdkafka::TopicPartitionList::new();
        wanted.add_partition_offset(&topic, 0, rdkafka::Offset::Offset(time)).expect("an offset");
        let found = consumer.offsets_for_times(wanted, PATIENT).expect("the broker answers");
        assert_eq!(found.elements()[0].offset(), rdkafka::Offset::Offset(offset), "at {time}");
    }
}
