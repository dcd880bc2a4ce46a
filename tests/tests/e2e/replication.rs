//! Replication into a second Apache Kafka: records as they are, each once over kills, refusals set aside, losses said.

use millrace_tests::*;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

const CLOUD: &str = r#"
kafka: {brokers: "$kafka", properties: {session.timeout.ms: "6000"}}
sinks:
  cloud:
    type: kafka
    topics: [$topics]
    brokers: "$cloud"
    delivery: exactly_once
    commit_every: 200ms
"#;

/// The second cluster, one for all tests here.
fn cloud() -> &'static Kafka {
    static CLOUD: OnceLock<Kafka> = OnceLock::new();
    CLOUD.get_or_init(Kafka::start)
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually(what, || is_so().then_some(()));
}

/// A runtime that copies `topics` into `cloud`; `more` are further keys of the sink.
fn replication(home: &Kafka, cloud: &Kafka, topics: &str, more: &str) -> Millrace {
    let factory = Factory::on(home).with("topics", topics).with("cloud", cloud.brokers());
    factory.prepare(&format!("{CLOUD}{more}"))
}

fn producer(kafka: &Kafka) -> BaseProducer {
    kafka.client().set("linger.ms", "5").create().expect("a producer can be made")
}

fn numbers(kafka: &Kafka, topic: &str, from: usize, count: usize) {
    let texts: Vec<String> = (from..from + count).map(|n| n.to_string()).collect();
    kafka.produce(topic, texts.iter().map(|text| ("k", text.as_bytes())));
}

fn values(records: &[Record]) -> Vec<String> {
    records.iter().map(Record::text).collect()
}

#[test]
fn records_arrive_as_they_are_in_topics_like_their_own() {
    let (home, cloud) = (Kafka::shared(), cloud());
    let topic = home.topic("originals");
    home.create_topic(&topic, 3, &[("retention.ms", "-1"), ("cleanup.policy", "compact,delete")]);
    let sender = producer(home);
    let headers = || {
        OwnedHeaders::new()
            .insert(Header { key: "a", value: Some("1") })
            .insert(Header { key: "none", value: None::<&str> })
            .insert(Header { key: "a", value: Some("") })
    };
    let send = |record: BaseRecord<'_, str, str>| sender.send(record).map_err(|(error, _)| error).expect("the record is taken");
    send(BaseRecord::to(&topic).partition(2).key("k").payload("v").timestamp(1_234_567).headers(headers()));
    send(BaseRecord::to(&topic).partition(1).key("").payload(""));
    send(BaseRecord::to(&topic).partition(0).key("gone"));
    send(BaseRecord::to(&topic).partition(0).key("k").payload(&"x".repeat(100_000)));
    sender.flush(Duration::from_secs(60)).expect("the broker takes the records");

    let mut millrace = replication(home, cloud, &topic, "    rename: \"{origin}.{topic}\"\n    origin: west\n");
    millrace.launch();
    millrace.wait_alive();
    let copy = format!("west.{topic}");
    wait_for("the copy's topic", || cloud.topics().iter().any(|(name, count)| *name == copy && *count == 3));
    let copied = cloud.follow(&copy).count(4).to_vec();
    let by_place = |records: Vec<Record>| -> BTreeMap<(i32, i64), Record> {
        records.into_iter().map(|record| ((record.partition, record.offset), record)).collect()
    };
    // Offsets differ where a transaction's marker lies between: what is in a record does not.
    let bare =
        |records: Vec<Record>| -> Vec<Record> { by_place(records).into_values().map(|record| Record { offset: 0, ..record }).collect() };
    assert_eq!(bare(copied), bare(home.read(&topic)));
    let described = cloud.tool("TopicCommand", &["--describe", "--topic", &copy]);
    assert!(described.contains("retention.ms=-1") && described.contains("compact"), "{described}");
}

#[test]
fn every_record_arrives_once_though_the_runtime_is_killed_again_and_again() {
    let (home, cloud) = (Kafka::shared(), cloud());
    let topic = home.topic("killed");
    home.create_topic(&topic, 1, &[]);
    let mut millrace = replication(home, cloud, &topic, "");
    millrace.launch();
    let mut sent = 0;
    for _ in 0..3 {
        numbers(home, &topic, sent, 5_000);
        sent += 5_000;
        wait_for("some of it is copied", || {
            cloud.topics().iter().any(|(name, _)| *name == topic) && cloud.follow_uncommitted(&topic).to_end().len() > sent - 4_500
        });
        millrace.kill9();
        millrace.launch();
    }
    let mut follow = cloud.follow(&topic);
    follow.count(sent);
    millrace.wait_running("cloud");
    let copied = cloud.read(&topic);
    assert_eq!(values(&copied), (0..sent).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(copied[17].header("millrace.origin").is_some_and(|origin| origin.ends_with(&format!("/{topic}/0/17"))), "{:?}", copied[17]);
}

#[test]
fn a_record_the_target_refuses_goes_to_the_dead_letters_and_its_neighbours_arrive() {
    let (home, cloud) = (Kafka::shared(), cloud());
    let topic = home.topic("large");
    home.create_topic(&topic, 1, &[]);
    cloud.create_topic(&topic, 1, &[("max.message.bytes", "20000")]);
    // Nothing that compression could hide.
    let large: String = std::iter::repeat_with(fastrand::alphanumeric).take(60_000).collect();
    numbers(home, &topic, 0, 500);
    home.produce(&topic, [("k", large.as_bytes())]);
    numbers(home, &topic, 500, 500);
    let mut millrace = replication(home, cloud, &topic, "    topic_properties: {max.message.bytes: \"20000\"}\n");
    millrace.launch();
    millrace.wait_alive();
    let copied = cloud.follow(&topic).count(1_000).to_vec();
    assert_eq!(values(&copied), (0..1_000).map(|n| n.to_string()).collect::<Vec<_>>());
    let dead = home.follow(&format!("{topic}.dead")).count(1).to_vec();
    assert_eq!(dead[0].text().len(), large.len());
    let reason = dead[0].header("__connect.errors.exception.message").unwrap_or_default();
    assert!(reason.contains("the target refuses it"), "{reason}");
}

#[test]
fn what_retention_took_is_counted_and_a_topic_made_anew_stops_the_sink() {
    let (home, cloud) = (Kafka::start(), cloud());
    let topic = home.topic("forgotten");
    home.create_topic(&topic, 1, &[]);
    numbers(&home, &topic, 0, 100);
    let mut millrace = replication(&home, cloud, &topic, "");
    millrace.launch();
    cloud_has(cloud, &topic, 100);
    millrace.stop();
    numbers(&home, &topic, 100, 50);
    home.delete_records(&topic, 0);
    numbers(&home, &topic, 150, 10);
    millrace.launch();
    millrace.wait_alive();
    cloud_has(cloud, &topic, 110);
    wait_for("the loss is counted", || {
        millrace.metrics().lines().any(|line| line.starts_with("millrace_sink_lost_total") && line.ends_with(" 50"))
    });
    millrace.stop();

    home.tool("TopicCommand", &["--delete", "--topic", &topic]);
    wait_for("the topic is gone", || !home.topics().iter().any(|(name, _)| *name == topic));
    home.create_topic(&topic, 1, &[]);
    numbers(&home, &topic, 0, 3);
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_word("cloud", "Blocked");
    let status = millrace.connector("cloud").to_string();
    assert!(status.contains("was made anew") && status.contains("on_recreated: restart"), "{status}");
    assert_eq!(cloud.read(&topic).len(), 110);
}

#[test]
fn what_came_from_the_target_does_not_go_back() {
    let (home, cloud) = (Kafka::shared(), cloud());
    let topic = home.topic("round");
    home.create_topic(&topic, 1, &[]);
    let from_there = [("millrace.origin", "cloud/x/0/1")];
    let from_elsewhere = [("millrace.origin", "east/x/0/1")];
    home.produce_with_headers(
        &topic,
        [("k", Some(&b"there"[..]), &from_there[..]), ("k", Some(b"elsewhere"), &from_elsewhere), ("k", Some(b"here"), &[])],
    );
    let mut millrace = replication(home, cloud, &topic, "    target: cloud\n");
    millrace.launch();
    millrace.wait_alive();
    let copied = cloud.follow(&topic).count(2).to_vec();
    assert_eq!(values(&copied), ["elsewhere", "here"]);
    assert_eq!(copied[0].header("millrace.origin").as_deref(), Some("east/x/0/1"));
    wait_for("what was left out is counted", || {
        millrace.metrics().lines().any(|line| line.starts_with("millrace_sink_filtered_total") && line.ends_with(" 1"))
    });
}

fn cloud_has(cloud: &Kafka, topic: &str, count: usize) {
    wait_for("the copy's topic", || cloud.topics().iter().any(|(name, _)| name == topic));
    cloud.follow(topic).count(count);
}
