//! The embedded broker is killed and started again under its clients: what was acknowledged is there, what was aborted is not, and groups go on.

use millrace_tests::{Embedded, Program, Side, eventually, wait::within};
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ASK: Duration = Duration::from_secs(60);

fn client(broker: &Embedded, more: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.brokers()).set("log_level", "0").set("reconnect.backoff.max.ms", "200");
    more.iter().for_each(|(name, value)| _ = config.set(*name, *value));
    config
}

/// Everything a read_committed consumer sees of a partition, in order.
fn read(broker: &Embedded, topic: &str) -> Vec<(i64, String)> {
    let config = [("group.id", "reader"), ("enable.partition.eof", "true"), ("isolation.level", "read_committed")];
    let consumer: BaseConsumer = client(broker, &config).create().expect("a consumer can be made");
    let mut parts = TopicPartitionList::new();
    parts.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset can be given");
    consumer.assign(&parts).expect("a partition can be assigned");
    let mut seen = Vec::new();
    loop {
        match consumer.poll(ASK).expect("the end of the partition is reached") {
            Ok(record) => seen.push((record.offset(), String::from_utf8_lossy(record.payload().unwrap_or_default()).into_owned())),
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => return seen,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Remembers what the broker has acknowledged.
#[derive(Clone, Default)]
struct Acknowledged(Arc<Mutex<BTreeMap<usize, i64>>>);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<usize>) {
        if let Ok(message) = result {
            self.0.lock().expect("nobody panics with it").insert(*number, message.offset());
        }
    }
}

#[test]
fn what_an_idempotent_producer_was_told_is_stored_once_over_any_number_of_kills() {
    let mut broker = Embedded::start();
    let acknowledged = Acknowledged::default();
    let config =
        client(&broker, &[("enable.idempotence", "true"), ("linger.ms", "1"), ("message.timeout.ms", "0"), ("batch.num.messages", "50")]);
    let producer: ThreadedProducer<Acknowledged> =
        ThreadedProducer::from_config_and_context(&config, acknowledged.clone()).expect("a producer can be made");
    let count = || acknowledged.0.lock().unwrap().len();
    let mut sent = 0;
    for _ in 0..6 {
        let wanted = count() + 500;
        within(ASK * 3, "five hundred more are acknowledged", || {
            for _ in 0..20 {
                let value = sent.to_string();
                let record = BaseRecord::<str, str, Box<usize>>::with_opaque_to("killed", Box::new(sent)).payload(&value).partition(0);
                sent += usize::from(producer.send(record).is_ok());
            }
            (count() >= wanted).then_some(())
        });
        // In mid-produce: some are on their way.
        broker.restart();
    }
    within(ASK * 3, "all are acknowledged", || (count() == sent).then_some(()));
    let seen = read(&broker, "killed");
    let values: Vec<usize> = seen.iter().map(|(_, value)| value.parse().expect("a number")).collect();
    assert!(values.iter().copied().eq(0..sent), "each once and in order: {} of {sent}", values.len());
    for (number, offset) in acknowledged.0.lock().unwrap().iter() {
        assert_eq!(seen[*number].0, *offset, "it lies where the producer was told");
    }
}

#[test]
fn a_transaction_that_a_kill_interrupts_is_not_seen_and_one_that_was_committed_is() {
    let mut broker = Embedded::start();
    let mut expected = Vec::new();
    for round in 0..5 {
        let producer: BaseProducer =
            client(&broker, &[("transactional.id", "t"), ("transaction.timeout.ms", "60000")]).create().expect("a producer can be made");
        producer.init_transactions(ASK).expect("the coordinator answers");
        for (what, ends) in [("committed", true), ("aborted", false), ("open", false)] {
            producer.begin_transaction().expect("a transaction begins");
            for i in 0..20 {
                let value = format!("{what} {round}.{i}");
                producer.send(BaseRecord::<str, str>::to("torn").payload(&value).partition(0)).expect("the queue has room");
                expected.extend(ends.then_some(value));
            }
            producer.flush(ASK).expect("all is delivered");
            match what {
                "committed" => producer.commit_transaction(ASK).expect("it commits"),
                "aborted" => producer.abort_transaction(ASK).expect("it aborts"),
                _ => {}
            }
        }
        broker.restart();
    }
    // The last one left open is aborted, too, and holds nobody back.
    let seen: Vec<String> = read(&broker, "torn").into_iter().map(|(_, value)| value).collect();
    assert_eq!(seen, expected);
}

/// Takes a consumer out of its group. Dropping it would wait for a close that its binding never sees when records were waiting to be polled.
fn leave(consumer: BaseConsumer) {
    consumer.unsubscribe();
    eventually("the group takes its partitions back", || {
        consumer.poll(Duration::from_millis(50));
        (consumer.assignment().ok()?.count() == 0).then_some(())
    });
    std::mem::forget(consumer);
}

#[test]
fn committed_offsets_survive_a_kill_and_members_go_on_without_joining_anew() {
    let mut broker = Embedded::start();
    let producer: BaseProducer = client(&broker, &[]).create().expect("a producer can be made");
    for i in 0..10 {
        producer.send(BaseRecord::<str, str>::to("kept").payload(&i.to_string()).partition(0)).expect("the queue has room");
    }
    producer.flush(ASK).expect("all is delivered");
    let config = [("group.id", "g"), ("auto.offset.reset", "earliest"), ("enable.auto.commit", "false"), ("session.timeout.ms", "30000")];
    let consumer: BaseConsumer = client(&broker, &config).create().expect("a consumer can be made");
    consumer.subscribe(&["kept"]).expect("it subscribes");
    let next = |consumer: &BaseConsumer| {
        eventually("a record", || match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => Some(record.offset()),
            _ => None,
        })
    };
    assert_eq!(next(&consumer), 0);
    let commit = |offset: i64| {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset("kept", 0, Offset::Offset(offset)).expect("an offset can be given");
        consumer.commit(&offsets, CommitMode::Sync)
    };
    commit(4).expect("it commits");
    broker.restart();
    // The generation of before the kill still counts.
    within(ASK, "the member commits as if nothing had happened", || commit(6).ok());
    let committed = consumer.committed(ASK).expect("the coordinator answers");
    assert_eq!(committed.elements()[0].offset(), Offset::Offset(6));
    leave(consumer);
    let other: BaseConsumer = client(&broker, &config).create().expect("a consumer can be made");
    other.subscribe(&["kept"]).expect("it subscribes");
    assert_eq!(next(&other), 6);
    leave(other);
}

#[test]
fn after_a_stop_and_after_a_kill_everything_is_told_as_before() {
    let mut broker = Embedded::start();
    let side = Side { name: "the embedded broker", brokers: broker.brokers() };
    // What the scenarios leave behind: topics, groups and transactions of every kind.
    Program::Librdkafka.run(&side, "a", &["records", "transactions", "commits", "configs", "static_members"]);
    let told = || Program::Librdkafka.run(&side, "a", &["everything"]);
    let before = told();
    assert!(before.len() >= 15, "{before:?}");
    broker.stop();
    broker.restart();
    assert_eq!(before, told());
    broker.restart();
    assert_eq!(before, told());
}
