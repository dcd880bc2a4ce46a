//! Batches forwarded whole between two Apache Kafkas, and what cannot be: holes, transactions that failed, records that the target refuses.

use crate::replication::{CLOUD, cloud, numbers, of_two_runtimes, producer, values, wait_for};
use millrace_tests::*;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const WHOLE: &str = "batches are forwarded whole";

/// A runtime that forwards `topics` into `cloud`, under names of their own.
fn forwarding(home: &Kafka, cloud: &Kafka, topics: &str, more: &str) -> Millrace {
    let factory = Factory::on(home).with("topics", topics).with("cloud", cloud.brokers());
    factory.prepare(&format!("{CLOUD}    rename: \"w.{{topic}}\"\n{more}"))
}

/// By partition, in their order, without their offsets.
fn bare(records: Vec<Record>) -> BTreeMap<i32, Vec<Record>> {
    let mut parts: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
    for record in records {
        parts.entry(record.partition).or_default().push(record);
    }
    for records in parts.values_mut() {
        records.sort_by_key(|record| record.offset);
        records.iter_mut().for_each(|record| record.offset = 0);
    }
    parts
}

/// The codecs of the batches that a partition has on the disk, marks of transactions apart.
fn codecs(kafka: &Kafka, topic: &str, partition: i32) -> Vec<u8> {
    let folder: PathBuf = kafka.dir().join("data").join(format!("{topic}-{partition}"));
    let mut codecs = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the partition has a folder") {
        let file = entry.expect("it can be read").path();
        if file.extension().is_none_or(|end| end != "log") {
            continue;
        }
        let bytes = std::fs::read(&file).expect("a segment can be read");
        let mut rest = &bytes[..];
        while rest.len() > 61 {
            let len = 12 + u32::from_be_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
            let attributes = rest[22];
            if len <= 12 || len > rest.len() {
                break;
            }
            if attributes & 32 == 0 {
                codecs.push(attributes & 7);
            }
            rest = &rest[len..];
        }
    }
    codecs
}

fn send(sender: &BaseProducer, record: BaseRecord<'_, str, str>) {
    sender.send(record).map_err(|(error, _)| error).expect("the record is taken");
}

#[test]
fn batches_of_every_codec_arrive_as_they_are_compressed_and_nothing_in_them_is_changed() {
    let (home, cloud) = (Kafka::shared(), cloud());
    let codecs_by_name = [("none", 0), ("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)];
    let topics: Vec<String> = codecs_by_name.iter().map(|(name, _)| home.topic(name)).collect();
    for (topic, (codec, _)) in topics.iter().zip(codecs_by_name) {
        home.create_topic(topic, 2, &[]);
        let sender: BaseProducer = home.client().set("linger.ms", "20").set("compression.type", codec).create().expect("a producer");
        for n in 0..400_i32 {
            let (text, headers) = (format!("value {n} {}", "x".repeat(200)), OwnedHeaders::new());
            let headers = headers.insert(Header { key: "a", value: Some("1") }).insert(Header { key: "a", value: None::<&str> });
            let record = BaseRecord::to(topic).partition(n % 2).timestamp(1_000_000 + i64::from(n)).headers(headers);
            match n % 7 {
                0 => send(&sender, record.key("gone")),
                1 => send(&sender, record.payload("")),
                2 => send(&sender, record.key("").payload(text.as_str())),
                _ => send(&sender, record.key("k").payload(text.as_str())),
            }
        }
        sender.flush(Duration::from_secs(60)).expect("the broker takes the records");
    }
    let list = topics.join(", ");
    let mut millrace = forwarding(home, cloud, &list, "");
    millrace.launch();
    millrace.wait_alive();
    for (topic, (codec, number)) in topics.iter().zip(codecs_by_name) {
        let copy = format!("w.{topic}");
        wait_for("the copy's topic", || cloud.topics().iter().any(|(name, _)| *name == copy));
        cloud.follow(&copy).count(400);
        assert_eq!(bare(cloud.read(&copy)), bare(home.read(topic)), "{codec}");
        let found = codecs(cloud, &copy, 1);
        assert!(!found.is_empty() && found.iter().all(|found| *found == number), "{codec}: {found:?}");
    }
    assert!(millrace.log().contains(WHOLE), "{}", millrace.log());
    let counted = |name: &str| {
        let line = format!("{name}{{sink=\"cloud\"}} ");
        millrace.metrics().lines().find_map(|text| text.strip_prefix(&line)?.parse::<f64>().ok())
    };
    wait_for("every record is counted", || counted("millrace_sink_consumed_total") == Some(2_000.0));
    wait_for("nothing waits", || counted("millrace_sink_lag") == Some(0.0));
    let compared = millrace.run(&["replicate", "verify", "--all", "-c", "factory.yaml", "--json"]);
    assert!(compared.status.success(), "{compared:?}");
}

#[test]
fn what_a_transaction_took_back_at_home_is_not_forwarded_and_what_it_committed_is() {
    let (home, cloud) = (Kafka::shared(), cloud());
    let topic = home.topic("transactions");
    home.create_topic(&topic, 1, &[]);
    let sender: BaseProducer =
        home.client().set("transactional.id", &topic).set("linger.ms", "5").create().expect("a producer can be made");
    let wait = Duration::from_secs(60);
    sender.init_transactions(wait).expect("transactions begin");
    let mut kept = Vec::new();
    for turn in 0..6 {
        sender.begin_transaction().expect("a transaction begins");
        for n in 0..50 {
            let text = format!("{turn}-{n}");
            send(&sender, BaseRecord::to(&topic).partition(0).key("k").payload(text.as_str()));
            if turn % 3 != 1 {
                kept.push(text);
            }
        }
        sender.flush(wait).expect("the broker takes the records");
        match turn % 3 {
            1 => sender.abort_transaction(wait).expect("it is taken back"),
            _ => sender.commit_transaction(wait).expect("it is committed"),
        }
    }
    let mut millrace = forwarding(home, cloud, &topic, "");
    millrace.launch();
    millrace.wait_alive();
    let copy = format!("w.{topic}");
    wait_for("the copy's topic", || cloud.topics().iter().any(|(name, _)| *name == copy));
    cloud.follow(&copy).count(kept.len());
    assert_eq!(values(&cloud.read(&copy)), kept);
    assert!(millrace.log().contains(WHOLE), "{}", millrace.log());
    // Marks of transactions lie behind the last record: nothing waits all the same.
    wait_for("nothing waits", || millrace.metrics().lines().any(|line| line == "millrace_sink_lag{sink=\"cloud\"} 0"));
}

#[test]
fn where_compaction_left_holes_or_the_copy_begins_within_a_batch_the_records_that_are_there_arrive() {
    let home = Kafka::options().property("log.cleaner.backoff.ms", "200").start();
    let cloud = cloud();
    let (holes, middle) = (home.topic("holes"), home.topic("middle"));
    let compacts =
        [("cleanup.policy", "compact"), ("segment.ms", "500"), ("min.cleanable.dirty.ratio", "0.01"), ("max.compaction.lag.ms", "500")];
    home.create_topic(&holes, 1, &compacts);
    home.create_topic(&middle, 1, &[]);
    let sender = producer(&home);
    let keyed = |keys: std::ops::Range<usize>| {
        for key in keys {
            let (key, text) = ((key % 150).to_string(), key.to_string());
            send(&sender, BaseRecord::to(&holes).partition(0).key(key.as_str()).payload(text.as_str()));
        }
        sender.flush(Duration::from_secs(60)).expect("the broker takes the records");
    };
    keyed(0..200);
    eventually("compaction leaves holes", || {
        // Each time a segment is closed, and those before it may be cleaned.
        keyed(200..201);
        std::thread::sleep(Duration::from_millis(600));
        let found = home.read(&holes);
        let newest = found.last().map_or(0, |record| record.offset);
        ((found.len() as i64) < newest).then_some(())
    });
    for n in 0..1_000 {
        send(&sender, BaseRecord::to(&middle).partition(0).key("k").payload(n.to_string().as_str()));
    }
    sender.flush(Duration::from_secs(60)).expect("the broker takes the records");
    let file = home.dir().join("delete.json");
    let text = format!(r#"{{"version": 1, "partitions": [{{"topic": "{middle}", "partition": 0, "offset": 503}}]}}"#);
    std::fs::write(&file, text).expect("a file can be written");
    home.tool("DeleteRecordsCommand", &["--offset-json-file", &file.display().to_string()]);

    let mut millrace = forwarding(&home, cloud, &format!("{holes}, {middle}"), "");
    millrace.launch();
    millrace.wait_alive();
    let copies = [format!("w.{holes}"), format!("w.{middle}")];
    wait_for("the copies' topics", || copies.iter().all(|copy| cloud.topics().iter().any(|(name, _)| name == copy)));
    cloud.follow(&copies[1]).count(497);
    assert_eq!(values(&cloud.read(&copies[1])), (503..1_000).map(|n| n.to_string()).collect::<Vec<_>>());
    // Compaction goes on, here and there: the last record of each key is the same.
    let last = |records: Vec<Record>| records.into_iter().map(|record| (record.key_text(), record.text())).collect::<BTreeMap<_, _>>();
    let wanted = last(home.read(&holes));
    wait_for("the last record of each key", || last(cloud.read(&copies[0])) == wanted);
    assert!(millrace.log().contains(WHOLE) && !millrace.log().contains("one by one"), "{}", millrace.log());
}

#[test]
fn forwarded_whole_every_record_arrives_once_over_kills_of_the_runtime_and_of_both_kafkas() {
    let (mut home, mut cloud) = (Kafka::start(), Kafka::start());
    let topic = home.topic("killed");
    home.create_topic(&topic, 3, &[]);
    let mut millrace = forwarding(&home, &cloud, &topic, "");
    millrace.launch();
    let copy = format!("w.{topic}");
    let mut sent = 0;
    for turn in 0..5 {
        numbers(&home, &topic, sent, 20_000);
        sent += 20_000;
        wait_for("some of it is copied", || {
            cloud.topics().iter().any(|(name, _)| *name == copy) && cloud.follow_uncommitted(&copy).to_end().len() > sent - 19_500
        });
        match turn {
            1 => cloud.restart(),
            3 => home.restart(),
            _ => {
                millrace.kill9();
                millrace.launch();
            }
        }
    }
    cloud.follow(&copy).count(sent);
    millrace.wait_running("cloud");
    assert_eq!(bare(cloud.read(&copy)), bare(home.read(&topic)));
    assert!(millrace.log().contains(WHOLE), "{}", millrace.log());
}

/// Without transactions: what goes again on a new connection is known there by its numbers.
#[test]
fn a_line_that_breaks_again_and_again_while_batches_are_on_it_repeats_none_and_loses_none() {
    let (home, cloud) = (Kafka::shared(), Kafka::options().proxied().start());
    let cable = Cable::between(cloud.proxy_port(), cloud.behind_proxy());
    cable.slow(4 << 20);
    let topic = home.topic("broken-line");
    home.create_topic(&topic, 3, &[]);
    let factory = Factory::on(home).with("topic", &topic).with("cloud", format!("127.0.0.1:{}", cable.port()));
    let text = "sinks:\n  cloud: {type: kafka, topics: [$topic], brokers: \"$cloud\", rename: \"w.{topic}\"}\n";
    let mut millrace = factory.prepare(text);
    millrace.launch();
    millrace.wait_alive();
    wait_for("it forwards", || millrace.log().contains("partitions assigned"));
    let copy = format!("w.{topic}");
    let noise: String = std::iter::repeat_with(fastrand::alphanumeric).take(500).collect();
    let mut sent = 0;
    for _ in 0..12 {
        let texts: Vec<String> = (sent..sent + 2_000).map(|n| format!("{n} {noise}")).collect();
        let keys: Vec<String> = (sent..sent + 2_000).map(|n| (n % 50).to_string()).collect();
        home.produce(&topic, keys.iter().zip(&texts).map(|(key, text)| (key.as_str(), text.as_bytes())));
        sent += 2_000;
        cable.reset();
        std::thread::sleep(Duration::from_millis(150));
        cable.reset();
    }
    cloud.follow(&copy).count(sent);
    assert_eq!(bare(cloud.read(&copy)), bare(home.read(&topic)));
    assert!(millrace.log().contains(WHOLE) && !millrace.log().contains("tried again"), "{}", millrace.log());
}

#[test]
fn what_the_target_refuses_of_a_batch_is_found_and_its_neighbours_arrive() {
    let (home, cloud) = (Kafka::shared(), cloud());
    let topic = home.topic("refused");
    home.create_topic(&topic, 1, &[]);
    let large: String = std::iter::repeat_with(fastrand::alphanumeric).take(60_000).collect();
    numbers(home, &topic, 0, 500);
    home.produce(&topic, [("k", large.as_bytes())]);
    numbers(home, &topic, 500, 500);
    let mut millrace = forwarding(home, cloud, &topic, "    topic_properties: {max.message.bytes: \"20000\"}\n");
    millrace.launch();
    millrace.wait_alive();
    let copy = format!("w.{topic}");
    wait_for("the copy's topic", || cloud.topics().iter().any(|(name, _)| *name == copy));
    cloud.follow(&copy).count(1_000);
    assert_eq!(values(&cloud.read(&copy)), (0..1_000).map(|n| n.to_string()).collect::<Vec<_>>());
    let dead = home.follow(&format!("{topic}.dead")).count(1).to_vec();
    assert_eq!(dead[0].text().len(), large.len());
    assert!(millrace.log().contains(WHOLE) && millrace.log().contains("one by one"), "{}", millrace.log());
}

#[test]
fn forwarding_whole_of_two_runtimes_one_that_stood_still_is_refused_at_the_target_and_every_record_arrives_once() {
    of_two_runtimes("    rename: \"w.{topic}\"\n", |topic| format!("w.{topic}"));
}

const SECURED: &str = r#"
kafka: {brokers: "$home", properties: {security.protocol: SASL_SSL, ssl.ca.location: $ca, sasl.mechanism: SCRAM-SHA-512, sasl.username: plant, sasl.password: "${env:AT_HOME}"}}
sinks:
  cloud:
    type: kafka
    topics: [$topics]
    brokers: "$cloud"
    rename: "w.{topic}"
    delivery: $delivery
    properties: {security.protocol: SASL_SSL, ssl.ca.location: $ca, sasl.mechanism: $mechanism, sasl.username: millrace, sasl.password: "${env:THERE}"}
"#;

#[test]
fn batches_are_forwarded_whole_over_tls_with_scram_and_plain() {
    let authority = tls::Authority::new("plant");
    let secured = |user: &str| Kafka::options().tls(&authority, &authority.leaf("kafka")).user(user, "s3cret").start();
    let (home, cloud) = (secured("plant"), secured("millrace"));
    for (mechanism, delivery) in [("SCRAM-SHA-512", "exactly_once"), ("PLAIN", "at_least_once")] {
        let topic = home.topic("secured");
        home.create_topic(&topic, 2, &[]);
        numbers(&home, &topic, 0, 2_000);
        let factory = Factory::at(&home.secured_brokers()).env("AT_HOME", "s3cret").env("THERE", "s3cret");
        let factory = factory.with("topics", &topic).with("home", home.secured_brokers()).with("cloud", cloud.secured_brokers());
        let factory = factory.with("ca", authority.ca().display()).with("mechanism", mechanism).with("delivery", delivery);
        let millrace = factory.start(SECURED);
        let copy = format!("w.{topic}");
        wait_for("the copy's topic", || cloud.topics().iter().any(|(name, _)| *name == copy));
        cloud.follow(&copy).count(2_000);
        assert_eq!(bare(cloud.read(&copy)), bare(home.read(&topic)));
        assert!(millrace.log().contains(WHOLE), "{}", millrace.log());
    }
}
