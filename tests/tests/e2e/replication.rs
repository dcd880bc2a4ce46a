//! Replication into a second Apache Kafka: records as they are, each once over kills, refusals set aside, losses said.

use crate::registry;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_tests::*;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

pub const CLOUD: &str = r#"
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
pub fn cloud() -> &'static Kafka {
    static CLOUD: OnceLock<Kafka> = OnceLock::new();
    CLOUD.get_or_init(Kafka::start)
}

pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually(what, || is_so().then_some(()));
}

/// A runtime that copies `topics` into `cloud`; `more` are further keys of the sink.
fn replication(home: &Kafka, cloud: &Kafka, topics: &str, more: &str) -> Millrace {
    let factory = Factory::on(home).with("topics", topics).with("cloud", cloud.brokers());
    factory.prepare(&format!("{CLOUD}{more}"))
}

pub fn producer(kafka: &Kafka) -> BaseProducer {
    kafka.client().set("linger.ms", "5").create().expect("a producer can be made")
}

pub fn numbers(kafka: &Kafka, topic: &str, from: usize, count: usize) {
    let texts: Vec<String> = (from..from + count).map(|n| n.to_string()).collect();
    kafka.produce(topic, texts.iter().map(|text| ("k", text.as_bytes())));
}

pub fn values(records: &[Record]) -> Vec<String> {
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
fn of_two_runtimes_that_copy_one_that_stood_still_is_refused_at_the_target_and_every_record_arrives_once() {
    of_two_runtimes("", |topic| topic.to_owned());
}

/// Two runtimes that copy, one of which stands still again and again; `more` are further keys of the sink.
pub fn of_two_runtimes(more: &str, at_target: impl Fn(&str) -> String) {
    let (home, cloud) = (Kafka::shared(), cloud());
    let topic = home.topic("pair");
    home.create_topic(&topic, 2, &[]);
    let site = Factory::on(home).site().to_owned();
    let file = format!("site: $site\nruntime: {{id: $id, group: g, session: 6s}}{CLOUD}{more}");
    let mut pair = ["a", "b"].map(|id| {
        let factory = Factory::on(home).with("topics", &topic).with("cloud", cloud.brokers()).with("site", &site).with("id", id);
        factory.prepare(&file)
    });
    pair.iter_mut().for_each(Millrace::launch);
    pair.iter_mut().for_each(Millrace::wait_alive);
    // One after the other, without end: while it stands still a transaction is open, mostly.
    let (sender, mut sent) = (producer(home), [0; 2]);
    let mut send = || {
        for partition in 0..2 {
            let number = sent[partition as usize].to_string();
            let record: BaseRecord<'_, str, str> = BaseRecord::to(&topic).partition(partition).key("k").payload(&number);
            sender.send(record).map_err(|(error, _)| error).expect("the record is taken");
            sent[partition as usize] += 1;
        }
        sender.flush(Duration::from_secs(60)).expect("the broker takes the records");
        sent[0]
    };
    let has_copied = |copied: &[Record], partition: i32, number: i32| {
        copied.iter().any(|record| record.partition == partition && record.text() == number.to_string())
    };
    let mut follow = cloud.follow(&at_target(&topic));
    wait_for("both copy", || {
        send();
        pair.iter().all(|millrace| millrace.log().contains("partitions assigned"))
    });
    for _ in 0..2 {
        let reached = send();
        follow.until("both partitions are copied", |copied| {
            send();
            (0..2).all(|partition| has_copied(copied, partition, reached))
        });
        pair[0].process().freeze();
        let later = send();
        follow.until_within(Duration::from_secs(60), "the other one copies both", |copied| {
            send();
            (0..2).all(|partition| has_copied(copied, partition, later))
        });
        pair[0].process().thaw();
        // It goes on where it was, and is told otherwise; then it has its share again.
        wait_for("it copies again", || {
            send();
            let log = pair[0].log();
            log.rfind("partitions assigned") > log.rfind("partitions given back").max(log.rfind("failed and is tried again"))
        });
    }
    let last = send() - 1;
    follow.until("everything is copied", |copied| (0..2).all(|partition| has_copied(copied, partition, last)));
    pair.iter_mut().for_each(Millrace::stop);
    let copied = cloud.read(&at_target(&topic));
    for partition in 0..2 {
        let values: Vec<String> = copied.iter().filter(|record| record.partition == partition).map(Record::text).collect();
        assert_eq!(values, (0..=last).map(|n| n.to_string()).collect::<Vec<_>>(), "partition {partition}");
    }
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
    let counts = |millrace: &Millrace, count: &str| {
        let line = format!("millrace_sink_lost_total{{sink=\"cloud\"}} {count}");
        millrace.metrics().lines().any(|said| said == line)
    };
    wait_for("the loss is counted", || counts(&millrace, "50"));
    millrace.stop();
    numbers(&home, &topic, 160, 5);
    millrace.launch();
    millrace.wait_alive();
    cloud_has(cloud, &topic, 115);
    assert!(counts(&millrace, "0"), "it is counted once\n{}", millrace.metrics());
    assert_eq!(millrace.log().matches("records were deleted in Kafka before this sink could read them").count(), 1);
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
    assert_eq!(cloud.read(&topic).len(), 115);
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
fn what_retention_takes_while_it_runs_is_counted_not_skipped() {
    let (home, cloud) = (Kafka::shared(), cloud());
    let topic = home.topic("outrun");
    home.create_topic(&topic, 1, &[]);
    numbers(home, &topic, 0, 100);
    let mut millrace = replication(home, cloud, &topic, "");
    millrace.launch();
    cloud_has(cloud, &topic, 100);
    // What it has fetched already when it stands still, nobody knows: in the end each record is there, or counted.
    millrace.process().freeze();
    for n in 0..50 {
        numbers(home, &topic, 100 + n, 1);
    }
    home.delete_records(&topic, 0);
    millrace.process().thaw();
    numbers(home, &topic, 150, 10);
    cloud.follow(&topic).until("the last record", |records| records.iter().any(|record| record.text() == "159"));
    let copied = cloud.read(&topic).len() as u64;
    let lost =
        || millrace.metrics().lines().find_map(|line| line.strip_prefix("millrace_sink_lost_total{sink=\"cloud\"} ")?.parse::<u64>().ok());
    wait_for("each record is copied or counted", || lost().is_some_and(|lost| lost > 0 && lost + copied == 160));
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
    // MirrorMaker 2's own client reads them.
    let there = cloud.committed(&group, &copy, 0).expect("an offset");
    assert_eq!(mirror::checkpoints(cloud, &alias, &group), [(copy, 0, there)]);
}

#[test]
fn beside_mirrormaker_its_copies_and_its_bookkeeping_stay_where_they_are() {
    let (home, cloud) = (Kafka::start(), cloud());
    let (there, here) = (cloud.topic("made-there"), home.topic("made-here"));
    cloud.create_topic(&there, 1, &[]);
    home.create_topic(&here, 1, &[]);
    numbers(cloud, &there, 0, 10);
    let _mirror = MirrorMaker::start(("cloud", cloud), ("home", &home), &there, "");
    let copy = format!("cloud.{there}");
    wait_for("MirrorMaker 2 has copied", || home.topics().iter().any(|(name, _)| *name == copy) && home.follow(&copy).to_end().len() >= 10);
    let mut millrace = replication(&home, cloud, "\"*\"", "    rename: \"site.{topic}\"\n    target: cloud\n");
    millrace.launch();
    numbers(&home, &here, 0, 10);
    cloud_has(cloud, &format!("site.{here}"), 10);
    let ours: Vec<String> = cloud.topics().into_iter().map(|(name, _)| name).filter(|name| name.starts_with("site.")).collect();
    assert_eq!(ours, [format!("site.{here}")]);
}

#[test]
fn of_protobuf_leaves_what_is_allowed_and_a_foreign_reader_finds_no_new_field() {
    let (home, cloud) = (Kafka::shared(), cloud());
    let tokio = tokio::runtime::Runtime::new().expect("tokio starts");
    let (here, there) = (registry::Ours::shared().port, registry::serve(cloud, &tokio));
    let [here, there] = [here, there].map(|port| format!("http://127.0.0.1:{port}"));
    let topic = home.topic("protobuf");
    home.create_topic(&topic, 1, &[]);
    let values: Vec<Vec<u8>> = decoders::orders_by_confluent_python(&here, &topic).iter().map(bytes_of).collect();
    home.produce(&topic, values.iter().map(|value| ("k", &value[..])).chain([("k", &values[1][..values[1].len() - 1])]));
    let mut millrace = Factory::on(home)
        .with("topic", &topic)
        .with("here", here)
        .with("there", &there)
        .with("cloud", cloud.brokers())
        .env("HASH_KEY", "0123456789abcdef")
        .prepare(&format!(
            "schemas: {{registry: \"$here\"}}\n{}",
            CLOUD.replace("$topics", "$topic")
                + r#"    registry: {url: "$there"}
    hash_keys: [{id: "2026", secret: "${env:HASH_KEY}"}]
    fields:
      $topic: {allow: [id, /operators/shift], pseudonym: [/operators/name]}
"#
        ));
    millrace.launch();
    cloud_has(cloud, &topic, 2);
    let copied: Vec<serde_json::Value> = cloud
        .read(&topic)
        .iter()
        .map(|record| serde_json::json!({"format": "protobuf", "topic": topic, "value": base64(record.value.as_deref().expect("a value"))}))
        .collect();
    let read = Decoder::ConfluentPython.decode(&there, &copied);
    assert_eq!(read[0], read[1], "what is new stays at home");
    let operator = &read[0]["operators"][0];
    assert_eq!((&read[0]["id"], &operator["shift"]), (&"4711".into(), &2.into()));
    assert!(operator["name"].as_str().is_some_and(|name| name.starts_with("p-")), "{operator}");
    assert_eq!((read[0].as_object().map(|order| order.len()), operator.as_object().map(|person| person.len())), (Some(2), Some(2)));
    let dead = home.follow(&format!("{topic}.dead")).count(1).to_vec();
    assert!(dead[0].header("__connect.errors.exception.message").is_some_and(|why| why.contains("stays at home")), "{dead:?}");
}

fn bytes_of(line: &serde_json::Value) -> Vec<u8> {
    STANDARD.decode(line["value"].as_str().expect("a value")).expect("base64")
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[test]
fn windows_of_time_arrive_once_and_whole_over_kills_and_late_and_bad_samples_are_counted() {
    let (home, cloud) = (Kafka::shared(), cloud());
    let topic = home.topic("windows");
    home.create_topic(&topic, 1, &[]);
    let mut millrace =
        replication(home, cloud, &topic, "    windows: {$topics: {every: 1s, late: 300ms, keep: [min, max, mean, count, last]}}\n");
    // Two tags, ten samples a second each, out of order by up to 300 ms; some are bad, and each third window lacks one of the tags.
    const START: i64 = 1_790_000_000_000_000;
    let mut random = fastrand::Rng::with_seed(16);
    let mut samples: Vec<(i64, &str, i64, bool)> = Vec::new();
    for step in 0..600_i64 {
        for tag in ["a", "b"] {
            if tag == "a" || step / 10 % 3 != 0 {
                samples.push((step * 100_000, tag, random.i64(-50..50), random.u8(..8) > 0));
            }
        }
    }
    let mut order: Vec<(i64, usize)> =
        samples.iter().enumerate().map(|(index, sample)| (sample.0 + random.i64(0..300_000), index)).collect();
    order.sort_unstable();
    let value = |(time, tag, value, good): (i64, &str, i64, bool)| {
        let (time, status) = (START + time, if good { 0_u32 } else { 0x8000_0000 });
        format!(
            "{{\"tag\":\"{tag}\",\"value\":{value},\"time\":{time},\"read_time\":{time},\"status\":{status},\"source\":\"s\",\"seq\":1,\"def\":1}}"
        )
    };
    millrace.launch();
    let whole: Vec<String> = order.iter().map(|(_, index)| value(samples[*index])).collect();
    for (part, texts) in whole.chunks(whole.len() / 2 + 1).enumerate() {
        home.produce(&topic, texts.iter().map(|text| (if text.contains("\"a\"") { "a" } else { "b" }, text.as_bytes())));
        wait_for("some windows are there", || {
            cloud.topics().iter().any(|(name, _)| *name == topic) && cloud.read(&topic).len() > 10 * part
        });
        millrace.kill9();
        millrace.launch();
    }
    // One that closes all windows, and two that are too late.
    let last = value((70_000_000, "end", 0, true));
    home.produce(
        &topic,
        [last, value((1_000_000, "a", 1_000, true)), value((2_000_000, "b", 1_000, true))].iter().map(|text| ("end", text.as_bytes())),
    );
    /// Of a window's beginning and a tag: time, value, and whether it is good.
    type Expected<'t> = BTreeMap<(i64, &'t str), Vec<(i64, i64, bool)>>;
    let mut expected = Expected::new();
    for (time, tag, value, good) in samples {
        expected.entry((START + time / 1_000_000 * 1_000_000, tag)).or_default().push((time, value, good));
    }
    let copied = cloud.follow(&topic).count(expected.len()).to_vec();
    wait_for("the late ones are counted", || {
        millrace.metrics().lines().any(|line| line.starts_with("millrace_sink_late_total") && line.ends_with(" 2"))
    });
    assert_eq!(cloud.read(&topic).len(), expected.len(), "no window is there twice");
    for record in copied {
        let json = record.json();
        let (from, tag) = (json["from"].as_i64().expect("a time"), json["tag"].as_str().expect("a tag"));
        let (_, samples) = expected.iter().find(|((start, name), _)| *start == from && *name == tag).unwrap_or_else(|| panic!("{json}"));
        let good: Vec<i64> = samples.iter().filter(|(.., good)| *good).map(|(_, value, _)| *value).collect();
        let mean = good.iter().sum::<i64>() as f64 / good.len() as f64;
        assert_eq!(
            (json["count"].as_u64(), json["bad"].as_u64()),
            (Some(good.len() as u64), Some((samples.len() - good.len()) as u64)),
            "{json}"
        );
        assert_eq!((json["min"].as_i64(), json["max"].as_i64()), (good.iter().min().copied(), good.iter().max().copied()), "{json}");
        assert_eq!(json["last"].as_i64(), good.last().copied(), "{json}");
        assert!(good.is_empty() || (json["mean"].as_f64().expect("a mean") - mean).abs() < 1e-9, "{json} {mean}");
        assert_eq!(
            (json["until"].as_i64(), record.timestamp_ms, record.key_text()),
            (Some(from + 1_000_000), from / 1_000 + 1_000, tag.to_owned())
        );
    }
}

#[test]
fn a_target_that_is_away_shows_in_the_lag_and_is_alarmed() {
    let (home, cloud) = (Kafka::shared(), Kafka::start());
    let topic = home.topic("behind");
    home.create_topic(&topic, 1, &[]);
    let factory = Factory::on(home).with("topics", &topic).with("cloud", cloud.brokers());
    let mut millrace = factory.prepare(&format!("alarms: {{lag: 2s, hold: 100ms}}\n{CLOUD}"));
    numbers(home, &topic, 0, 100);
    millrace.launch();
    cloud_has(&cloud, &topic, 100);
    let metric = |name: &str| {
        let name = format!("{name}{{sink=\"cloud\"}} ");
        millrace.metrics().lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok())
    };
    wait_for("nothing waits", || metric("millrace_sink_lag") == Some(0.0) && metric("millrace_sink_lag_seconds") == Some(0.0));
    cloud.freeze();
    numbers(home, &topic, 100, 50_000);
    let alarms = || http::get(millrace.http_port(), "/alarms").map_or_else(|_| String::new(), |(_, body)| body);
    wait_for("the lag is alarmed", || alarms().contains("sink/cloud/lag"));
    assert!(metric("millrace_sink_lag_seconds").is_some_and(|seconds| seconds > 2.0));
    cloud.thaw();
    cloud_has(&cloud, &topic, 50_100);
    wait_for("it has caught up", || {
        metric("millrace_sink_lag_seconds") == Some(0.0) && metric("millrace_sink_catch_up_seconds") == Some(0.0)
    });
    wait_for("the alarm is over", || !alarms().contains("sink/cloud/lag"));
}

fn cloud_has(cloud: &Kafka, topic: &str, count: usize) {
    wait_for("the copy's topic", || cloud.topics().iter().any(|(name, _)| name == topic));
    cloud.follow(topic).count(count);
}
