//! Replication into a second Apache Kafka: records as they are, each once over kills, refusals set aside, losses said.

use millrace_tests::*;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
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

    let said = |args: &[&str]| -> serde_json::Value {
        let output = millrace.run(&[args, &["-c", "factory.yaml", "--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"))
    };
    let standing = eventually("nothing waits", || {
        Some(said(&["replicate", "status", "--over", "100ms"])).filter(|standing| standing["lag_records"] == 0)
    });
    assert_eq!((&standing["partitions"][0]["position"], &standing["catch_up_seconds"]), (&sent.into(), &0.0.into()), "{standing}");
    let compared = said(&["replicate", "verify", "--all"]);
    let counted =
        |side: &str| compared["ranges"].as_array().unwrap().iter().map(|range| range[side]["count"].as_u64().unwrap()).sum::<u64>();
    assert_eq!((&compared["differ"], counted("at_home"), counted("at_target")), (&0.into(), sent as u64, sent as u64), "{compared}");
    // Somebody writes among the copies.
    cloud.produce_with_headers(&topic, [("k", Some(&b"3"[..]), &[("millrace.origin", "x/y/0/1")][..])]);
    assert_eq!(said(&["replicate", "verify"])["differ"], 1);
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
    // As many as before: only the topic's id tells them apart.
    numbers(&home, &topic, 0, 200);
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

#[test]
fn what_may_leave_leaves_in_json_and_avro_and_the_rest_stays_at_home() {
    let (home, cloud) = (Kafka::shared(), cloud());
    let (here, there) = (Registry::start(), Registry::start());
    let prefix = home.topic("leave");
    let topic = |name: &str| format!("{prefix}-{name}");
    let (orders, shifts, plain, payroll) = (topic("orders"), topic("shifts"), topic("plain"), topic("payroll"));
    let letters = format!("{orders}.dead");
    for name in [&orders, &shifts, &plain, &payroll, &letters] {
        home.create_topic(name, 1, &[]);
    }
    let old = r#"{"type":"record","name":"Shift","fields":[{"name":"operator","type":"string"},{"name":"hours","type":"long"}]}"#;
    let new = r#"{"type":"record","name":"Shift","fields":[{"name":"wage","type":"long"},{"name":"operator","type":"string"},{"name":"hours","type":"long"}]}"#;
    // The ids differ on both sides.
    here.register("other-value", r#""string""#);
    let ids = [old, new].map(|schema| here.register(&format!("{shifts}-value"), schema));
    let value = |id: i32, rest: &[u8]| [&[0][..], &id.to_be_bytes(), rest].concat();
    let json: [&[u8]; 3] = [br#"{"ID": "1", "operator": "Ann"}"#, br#"{"ID": "2", "operator": "Ann", "margin": 0.3}"#, b"Ann in a letter"];
    home.produce(&orders, json.map(|value| ("Ann", value)));
    let (shift, grown) = (value(ids[0], b"\x06Ann\x10"), value(ids[1], b"\xc8\x01\x06Ann\x10"));
    home.produce(&shifts, [("k", &shift[..]), ("k", &grown)]);
    home.produce(&plain, [("k", &shift[..])]);
    home.produce(&payroll, [("k", &b"secret"[..])]);
    let mut millrace = Factory::on(home)
        .with("prefix", &prefix)
        .with("here", here.url())
        .with("there", there.url())
        .with("cloud", cloud.brokers())
        .env("HASH_KEY", "0123456789abcdef")
        .prepare(&format!(
            "schemas: {{registry: \"$here\"}}\n{}",
            CLOUD.replace("[$topics]", "[\"$prefix-*\"]")
                + r#"    registry: {url: "$there"}
    stay_home: ["$prefix-pay*"]
    hash_keys: [{id: "2026", secret: "${env:HASH_KEY}"}]
    fields:
      $prefix-orders: {allow: [ID], hash: [operator], key: pseudonym}
      $prefix-shifts: {allow: [hours], mask: [operator]}
"#
        ));
    millrace.launch();
    millrace.wait_alive();
    cloud_has(cloud, &orders, 2);
    cloud_has(cloud, &shifts, 2);
    cloud_has(cloud, &plain, 1);

    let left = cloud.read(&orders);
    let names: Vec<String> = left[0].json().as_object().unwrap().keys().cloned().collect();
    assert_eq!((names, left[0].json()["ID"].as_str()), (vec!["ID".to_owned(), "operator".to_owned()], Some("1")));
    assert_eq!(left[0].json()["operator"], left[1].json()["operator"]);
    assert_eq!(left[1].json().as_object().map(|fields| fields.len()), Some(2), "the new field stays at home");
    assert_eq!(left[0].header("millrace.hash-key").as_deref(), Some("2026"));
    assert!(left[0].key_text().starts_with("p-"), "{}", left[0].key_text());
    assert!(!left.iter().any(|record| (record.text() + &record.key_text()).contains("Ann")), "{left:?}");
    // What cannot be read stays at home, in a topic whose records do not leave either.
    let dead = home.follow(&letters).count(1).to_vec();
    assert_eq!(dead[0].text(), "Ann in a letter");
    assert!(dead[0].header("__connect.errors.exception.message").is_some_and(|why| why.contains("stays at home")), "{dead:?}");

    let left = cloud.read(&shifts);
    let id = |record: &Record| i32::from_be_bytes(record.value.as_deref().expect("a value")[1..5].try_into().unwrap());
    for record in &left {
        let (subject, schema) = there.schema(id(record));
        assert_eq!(subject, format!("{shifts}-value"));
        assert!(!schema.to_string().contains("wage"), "{schema}");
        assert_eq!(&record.value.as_deref().unwrap()[5..], b"\x02\x06***\x10");
    }
    let left = cloud.read(&plain);
    assert_eq!(there.schema(id(&left[0])), (format!("{plain}-value"), here.schema(ids[0]).1));
    assert_eq!(&left[0].value.as_deref().unwrap()[5..], &shift[5..]);
    wait_for("what stays at home is counted, the dead letter too", || {
        millrace.metrics().lines().any(|line| line.starts_with("millrace_sink_filtered_total") && line.ends_with(" 2"))
    });
    assert!(!cloud.topics().iter().any(|(name, _)| *name == payroll));
    assert!(cloud.read(&letters).is_empty());
}

#[test]
fn both_ways_under_one_name_each_record_is_there_once() {
    let (east, west) = (Kafka::shared(), cloud());
    let topic = east.topic("both");
    for side in [east, west] {
        side.create_topic(&topic, 1, &[]);
    }
    let way = |from: &Kafka, to: &Kafka, names: &str| {
        let mut millrace = replication(from, to, &topic, names);
        millrace.launch();
        millrace
    };
    let there = way(east, west, "    origin: east\n    target: west\n");
    let back = way(west, east, "    origin: west\n    target: east\n");
    numbers(east, &topic, 0, 500);
    numbers(west, &topic, 500, 500);
    let whole: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    for side in [east, west] {
        side.follow(&topic).count(1_000);
    }
    // A record that would go round would be counted here last of all.
    for millrace in [&there, &back] {
        wait_for("what came from there stays here", || {
            millrace.metrics().lines().any(|line| line.starts_with("millrace_sink_filtered_total") && line.ends_with(" 500"))
        });
    }
    for side in [east, west] {
        let mut values = values(&side.read(&topic));
        values.sort_unstable_by_key(|text| text.parse::<u32>().expect("a number"));
        assert_eq!(values, whole);
    }
}

#[test]
fn a_group_goes_on_at_the_target_where_it_was_at_home() {
    let (home, cloud) = (Kafka::shared(), cloud());
    let topic = home.topic("moving");
    let (group, copy, alias) = (format!("{topic}-readers"), format!("west.{topic}"), format!("west-{topic}"));
    home.create_topic(&topic, 1, &[]);
    let more = format!("    rename: \"west.{{topic}}\"\n    origin: {alias}\n    groups: {{copy: [\"{group}\"], every: 1s}}\n");
    let mut millrace = replication(home, cloud, &topic, &more);
    numbers(home, &topic, 0, 100);
    millrace.launch();
    cloud_has(cloud, &copy, 100);
    numbers(home, &topic, 100, 100);
    cloud_has(cloud, &copy, 200);
    let commit = |offset: i64| {
        let consumer: BaseConsumer = home.client().set("group.id", &group).create().expect("a consumer can be made");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(offset)).expect("an offset");
        consumer.commit(&list, CommitMode::Sync).expect("the broker takes it");
    };
    // What a reader at the target finds first.
    let next = || {
        let at = cloud.committed(&group, &copy, 0)?;
        let rest = cloud.read(&copy).into_iter().filter(|record| record.offset >= at);
        Some(rest.map(|record| record.text().parse::<u32>().expect("a number")).min().unwrap_or(200))
    };
    commit(150);
    let first = eventually("the group is at the target", next);
    assert!(first <= 150, "{first} skips records");
    commit(200);
    wait_for("the group is at the end", || next() == Some(200));
    let checkpoints = cloud.follow(&format!("{alias}.checkpoints.internal")).count(1).to_vec();
    let key = checkpoints[0].key.as_deref().expect("a key");
    assert!(key.windows(copy.len()).any(|part| part == copy.as_bytes()), "{key:?}");
}

fn cloud_has(cloud: &Kafka, topic: &str, count: usize) {
    wait_for("the copy's topic", || cloud.topics().iter().any(|(name, _)| name == topic));
    cloud.follow(topic).count(count);
}
