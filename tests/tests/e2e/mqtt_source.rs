//! MQTT into Kafka: payloads, versions, logins, sessions, bad input.

use millrace_tests::*;
use serde_json::json;
use std::collections::BTreeSet;

const DOCUMENTS: &str = "
sources:
  cells:
    type: mqtt
    endpoint: $broker
    version: $version
    subscribe:
      - {filter: 'f/+/+/state', payload: json, topic: $topic, key: '{1}/{2}', qos: 1}
";

/// A reason in the header that Kafka Connect's tools read.
fn reason(record: &Record) -> String {
    record.header("__connect.errors.exception.message").unwrap_or_else(|| panic!("not a dead letter: {record:?}"))
}

fn seqs_grow(records: &[Record]) {
    let seqs: Vec<i64> = records.iter().map(|record| record.identity().1).collect();
    assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?}");
}

#[test]
fn json_documents_come_through_to_the_byte_in_both_versions() {
    let (kafka, broker) = (Kafka::shared(), Mosquitto::start());
    for version in [4, 5] {
        let topic = kafka.topic("documents");
        let millrace = Factory::on(kafka).with("broker", broker.url()).with("topic", &topic).with("version", version).start(DOCUMENTS);
        millrace.wait_running("cells");
        let mut publisher = broker.client();
        let payload = |i: u32| format!("{{ \"state\" : {i},\t\"text\":\"Größe\" }}");
        for i in 0..300 {
            publisher.publish(&format!("f/a{}/b/state", i % 3), payload(i).as_bytes(), (i % 3) as u8, false);
            publisher.publish("f/a/elsewhere", b"not subscribed", 1, false);
        }
        publisher.finish();
        let ledger = millrace.drained_when("cells", |ledger| ledger.received >= 300);
        assert_eq!((ledger.received, ledger.produced), (300, 300));
        let records = kafka.read(&topic);
        let texts: BTreeSet<String> = records.iter().map(Record::text).collect();
        assert_eq!(texts, (0..300).map(payload).collect());
        assert!(records.iter().all(|record| record.header("millrace.source") == Some(format!("{}/cells", millrace.site()))));
        let keys: BTreeSet<String> = records.iter().map(Record::key_text).collect();
        assert_eq!(keys, ["a0/b", "a1/b", "a2/b"].map(String::from).into());
        seqs_grow(&records);
    }
}

#[test]
fn samples_are_taken_out_of_json_with_time_and_status() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("samples"));
    let millrace = Factory::on(kafka).with("broker", broker.url()).with("topic", &topic).start(
        "
topics: {$topic: {format: json}}
sources:
  cars:
    type: mqtt
    endpoint: $broker
    subscribe:
      - {filter: 'car/+/telemetry', payload: json, topic: $topic, at: 'fleet/{1}', samples: {speed: /v/kmh, soc: /battery/soc, name: /name},
         time: {at: /ts, unit: ms}, status: /quality}
",
    );
    millrace.wait_running("cars");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let mut publisher = broker.client();
    let first = json!({"v": {"kmh": 51.5}, "battery": {"soc": 80}, "name": "red \"7\"", "ts": now - 5_000, "quality": "good"});
    let second = json!({"v": {"kmh": null}, "battery": {}, "name": "red \"8\"", "ts": now, "quality": "uncertain"});
    publisher.publish("car/7/telemetry", first.to_string().as_bytes(), 1, false);
    publisher.publish("car/7/telemetry", second.to_string().as_bytes(), 1, false);
    publisher.finish();
    let mut follow = kafka.follow(&topic);
    let records = follow.until("name, twice, and the bad ones", |records| records.len() >= 5);
    let find = |tag: &str, nth: usize| {
        let tag = format!("{}/fleet/7/{tag}", millrace.site());
        records.iter().map(Record::json).filter(|sample| sample["tag"] == tag.as_str()).nth(nth).unwrap_or_else(|| panic!("no {tag} {nth}"))
    };
    let speed = find("speed", 0);
    assert_eq!((speed["value"].as_f64(), speed["quality"].as_str()), (Some(51.5), Some("good")), "{speed}");
    assert_eq!((speed["time_source"].as_str(), speed["origin"].as_str()), (Some("device"), Some("initial")), "{speed}");
    assert_eq!(find("soc", 0)["value"], 80);
    assert_eq!(find("name", 0)["value"], "red \"7\"");
    let name = find("name", 1);
    assert_eq!((name["value"].as_str(), name["quality"].as_str()), (Some("red \"8\""), Some("uncertain")), "{name}");
    assert!(name["status"].as_u64().is_some_and(|status| status >> 30 == 1), "{name}");
    assert!(records.iter().all(|record| below_site(&record.key_text()).starts_with("fleet/7/")));
}

#[test]
fn numbers_and_texts_become_samples_and_bytes_stay_as_they_are() {
    let (kafka, broker) = (Kafka::shared(), Mosquitto::start());
    let (samples, raw) = (kafka.topic("values"), kafka.topic("raw"));
    let millrace = Factory::on(kafka).with("broker", broker.url()).with("samples", &samples).with("raw", &raw).start(
        "
topics: {$samples: {format: json}}
sources:
  cells:
    type: mqtt
    endpoint: $broker
    subscribe:
      - {filter: 'n/+/+/value', payload: number, topic: $samples, tag: '{1}/{2}'}
      - {filter: 't/+', payload: text, topic: $samples, tag: 'texts/{1}'}
      - {filter: 'b/#', payload: bytes, topic: $raw, key: '{topic}'}
",
    );
    millrace.wait_running("cells");
    let mut publisher = broker.client();
    for (topic, payload) in [
        ("n/line/temp/value", &b"21.5"[..]),
        ("n/line/count/value", b"18446744073709551615"),
        ("n/line/low/value", b"-9223372036854775808"),
        ("n/line/wrong/value", b"warm"),
        ("t/shift", "früh".as_bytes()),
        ("b/x/y", b"\x00\xff\xfe"),
        ("b/empty", b""),
    ] {
        publisher.publish(topic, payload, 1, false);
    }
    publisher.finish();
    millrace.drained_when("cells", |ledger| ledger.received >= 7);
    let samples_read: Vec<_> = kafka.read(&samples).iter().map(Record::json).collect();
    let value = |tag: &str| {
        samples_read.iter().find(|sample| sample["tag"] == format!("{}/{tag}", millrace.site())).map(|sample| sample["value"].clone())
    };
    assert_eq!(value("line/temp"), Some(json!(21.5)));
    assert_eq!(value("line/low"), Some(json!(i64::MIN)));
    assert!(value("line/count").is_some_and(|count| count.to_string().contains("18446744073709551615")), "{samples_read:?}");
    assert_eq!(value("texts/shift"), Some(json!("früh")));
    let dead = kafka.read(&format!("{samples}.dead"));
    assert_eq!(dead.iter().map(Record::text).collect::<Vec<_>>(), ["warm"]);
    assert!(reason(&dead[0]).contains("warm"), "{}", reason(&dead[0]));
    let raw: Vec<(String, Option<Vec<u8>>)> = kafka.read(&raw).into_iter().map(|record| (record.key_text(), record.value)).collect();
    assert!(raw.contains(&("b/x/y".into(), Some(b"\x00\xff\xfe".to_vec()))), "{raw:?}");
}

#[test]
fn a_retained_message_is_initial_and_mqtt_5_properties_become_headers() {
    let (kafka, broker) = (Kafka::shared(), Mosquitto::start());
    let (samples, documents) = (kafka.topic("samples"), kafka.topic("documents"));
    broker.publish("n/kept", b"1", 1, true);
    let millrace = Factory::on(kafka).with("broker", broker.url()).with("samples", &samples).with("documents", &documents).start(
        "
topics: {$samples: {format: json}}
defaults: {report: all}
sources:
  cells:
    type: mqtt
    endpoint: $broker
    version: 5
    subscribe:
      - {filter: 'n/+', payload: number, topic: $samples, tag: 'n/{1}'}
      - {filter: 'd/#', payload: json, topic: $documents}
",
    );
    millrace.wait_running("cells");
    let mut follow = kafka.follow(&samples);
    follow.count(1);
    broker.publish("n/kept", b"2", 1, false);
    let origins: Vec<_> = follow.count(2).iter().map(|record| record.json()["origin"].clone()).collect();
    assert_eq!(origins[0], "initial");
    assert_ne!(origins[1], "initial");
    broker.mosquitto_pub(&[
        "-V",
        "5",
        "-q",
        "1",
        "-t",
        "d/1",
        "-m",
        "{}",
        "-D",
        "publish",
        "user-property",
        "order",
        "4711",
        "-D",
        "publish",
        "content-type",
        "application/json",
    ]);
    let mut follow = kafka.follow(&documents);
    let record = &follow.count(1)[0];
    let has = |value: &str| record.headers.iter().any(|(_, header)| header.as_deref() == Some(value.as_bytes()));
    assert!(has("4711") && has("application/json"), "{:?}", record.headers);
}

#[test]
fn what_breaks_its_contract_becomes_a_dead_letter_and_the_stream_goes_on() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("documents"));
    let millrace = Factory::on(kafka).with("broker", broker.url()).with("topic", &topic).with("version", 5).start(DOCUMENTS);
    millrace.wait_running("cells");
    let mut publisher = broker.client();
    let bad = [&b"{not json"[..], b"\xff\xfe", b"{\"a\": 1} trailing", b"\"\\ud800\"", &[b'['; 100_000]];
    for (i, payload) in bad.iter().enumerate() {
        publisher.publish("f/a/b/state", payload, 1, false);
        publisher.publish("f/a/b/state", format!("{{\"ok\":{i}}}").as_bytes(), 1, false);
    }
    publisher.finish();
    let ledger = millrace.drained_when("cells", |ledger| ledger.received >= 10);
    let dead = kafka.read(&format!("{topic}.dead"));
    assert_eq!(dead.len(), bad.len(), "{ledger:?}");
    for (record, payload) in dead.iter().zip(bad) {
        assert_eq!(record.value.as_deref(), Some(payload), "the original payload");
        assert!(!reason(record).is_empty());
        assert_eq!(record.header("__connect.errors.topic").as_deref(), Some(topic.as_str()));
    }
    // The document in front of what trails it lives.
    assert_eq!(kafka.read(&topic).len(), bad.len() + 1);
}

#[test]
fn a_message_too_large_for_kafka_becomes_a_dead_letter_that_fits_and_the_stream_goes_on() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("documents"));
    let millrace = Factory::on(kafka).exactly_once().with("broker", broker.url()).with("topic", &topic).with("version", 5).start(DOCUMENTS);
    millrace.wait_running("cells");
    let mut publisher = broker.client();
    let huge = format!("\"{}\"", "x".repeat(16 << 20));
    for i in 0..20 {
        publisher.publish("f/a/b/state", format!("{{\"before\":{i}}}").as_bytes(), 1, false);
    }
    publisher.publish("f/a/b/state", huge.as_bytes(), 1, false);
    for i in 0..20 {
        publisher.publish("f/a/b/state", format!("{{\"after\":{i}}}").as_bytes(), 1, false);
    }
    publisher.finish();
    let ledger = millrace.drained_when("cells", |ledger| ledger.received >= 41);
    assert_eq!(kafka.read(&topic).len(), 40, "{ledger:?}");
    let dead = kafka.read(&format!("{topic}.dead"));
    assert_eq!(dead.len(), 1);
    assert!(dead[0].value.as_ref().is_none_or(|value| value.len() < 1 << 20 && huge.as_bytes().starts_with(value)), "its beginning");
    assert!(reason(&dead[0]).contains("byte") || reason(&dead[0]).contains("large"), "{}", reason(&dead[0]));
    assert_eq!(ledger.dead_at_intake + ledger.dead_at_send, 1, "{ledger:?}");
}

#[test]
fn times_and_numbers_beyond_belief_are_kept_as_claims() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("samples"));
    let millrace = Factory::on(kafka).with("broker", broker.url()).with("topic", &topic).start(
        "
topics: {$topic: {format: json}}
defaults: {report: all, bad_after: 0s}
sources:
  cells:
    type: mqtt
    endpoint: $broker
    subscribe:
      - {filter: 'd/+', payload: json, topic: $topic, at: '{1}', samples: {v: /v}, time: {at: /ts}}
",
    );
    millrace.wait_running("cells");
    let mut publisher = broker.client();
    for (device, payload) in [
        ("1601", r#"{"v": 1, "ts": "1601-01-01T00:00:00Z"}"#),
        ("2200", r#"{"v": 2, "ts": "2200-01-01T00:00:00Z"}"#),
        ("huge", r#"{"v": 1e400, "ts": "2200-01-01T00:00:00Z"}"#),
        ("missing", r#"{"w": 2, "ts": "2200-01-01T00:00:00Z"}"#),
    ] {
        publisher.publish(&format!("d/{device}"), payload.as_bytes(), 1, false);
    }
    publisher.finish();
    let mut follow = kafka.follow(&topic);
    let tag = format!("{}/missing/v", millrace.site());
    let records = follow.until("the pointer that isn't there", |records| records.iter().any(|record| record.key_text() == tag));
    let samples: Vec<_> = records.iter().map(Record::json).collect();
    millrace.drained("cells");
    let find = |device: &str| samples.iter().find(|sample| sample["tag"] == format!("{}/{device}/v", millrace.site()));
    for (device, claim) in [("1601", -11_644_473_600_000_000i64), ("2200", 7_258_118_400_000_000)] {
        let sample = find(device).unwrap_or_else(|| panic!("no {device} in {samples:?}"));
        assert_eq!((&sample["time_source"], &sample["device_time"]), (&json!("gateway"), &json!(claim)), "{sample}");
        assert_eq!(sample["time"], sample["read_time"], "{sample}");
    }
    let missing = find("missing").expect("a pointer that isn't there is a bad sample");
    assert_eq!((&missing["value"], &missing["quality"]), (&json!(null), &json!("bad")), "{missing}");
    // 1e400 is no double: infinity, or a dead letter; never silence.
    let dead = kafka.topics().iter().any(|(name, _)| *name == format!("{topic}.dead"));
    assert!(find("huge").is_some() || dead, "{samples:?}");
}

#[test]
fn tls_with_a_client_certificate_websocket_and_passwords_are_ways_in() {
    let authority = Authority::new("plant");
    let broker = Mosquitto::options().tls(&authority, &authority.leaf("broker")).user("millrace", "secret").websocket().start();
    let (kafka, leaf) = (Kafka::shared(), authority.leaf("millrace"));
    let topic = kafka.topic("documents");
    let millrace = Factory::on(kafka)
        .with("topic", &topic)
        .with("tls_url", broker.tls_url())
        .with("login_url", broker.login_url())
        .with("ws_url", broker.websocket_url())
        .with("ca", authority.ca().display())
        .with("cert", leaf.cert.display())
        .with("leaf_key", leaf.key.display())
        .env("MQTT_PASSWORD", "secret")
        .env("WRONG_PASSWORD", "wrong")
        .start(
            "
sources:
  by-tls: {type: mqtt, endpoint: $tls_url, tls: {ca: $ca, cert: $cert, key: $leaf_key}, subscribe: [{filter: 'a/#', topic: $topic, key: tls}]}
  by-login: {type: mqtt, endpoint: $login_url, login: {user: millrace, password: '${env:MQTT_PASSWORD}'}, subscribe: [{filter: 'a/#', topic: $topic, key: login}]}
  by-websocket: {type: mqtt, endpoint: $ws_url, subscribe: [{filter: 'a/#', topic: $topic, key: websocket}]}
  wrong-password: {type: mqtt, endpoint: $login_url, login: {user: millrace, password: '${env:WRONG_PASSWORD}'}, subscribe: [{filter: 'a/#', topic: $topic, key: wrong}]}
  nobodys-certificate: {type: mqtt, endpoint: $tls_url, subscribe: [{filter: 'a/#', topic: $topic, key: nobody}]}
",
        );
    for source in ["by-tls", "by-login", "by-websocket"] {
        millrace.wait_running(source);
    }
    for source in ["wrong-password", "nobodys-certificate"] {
        millrace.wait_word(source, "Blocked");
    }
    broker.publish("a/b", b"{}", 1, false);
    let mut follow = kafka.follow(&topic);
    let keys: BTreeSet<String> = follow.count(3).iter().map(Record::key_text).collect();
    assert_eq!(keys, ["tls", "login", "websocket"].map(String::from).into());
    assert!(!millrace.log().contains("secret"), "a secret in the log");
}

#[test]
fn a_kept_session_brings_what_came_meanwhile_and_forgets_what_the_config_dropped() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("documents"));
    let text = |filters: &str| format!("sources:\n  cells: {{type: mqtt, endpoint: $broker, subscribe: [{filters}]}}\n");
    let one = |filter: &str| format!("{{filter: '{filter}', topic: $topic, key: '{{topic}}'}}");
    let mut millrace =
        Factory::on(kafka).with("broker", broker.url()).with("topic", &topic).start(&text(&[one("a/#"), one("b/#")].join(", ")));
    millrace.wait_running("cells");
    millrace.stop();
    let mut publisher = broker.client();
    for i in 0..1_000 {
        publisher.publish("a/1", i.to_string().as_bytes(), 1, false);
    }
    publisher.finish();
    millrace.launch();
    millrace.wait_alive();
    let mut follow = kafka.follow(&topic);
    let meanwhile: Vec<String> = follow.count(1_000).iter().map(Record::text).collect();
    assert_eq!(meanwhile, (0..1_000).map(|i| i.to_string()).collect::<Vec<_>>());
    millrace.stop();
    millrace.write(&text(&[one("b/#"), one("c/#")].join(", ")));
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_running("cells");
    for topic in ["a/2", "b/2", "c/2"] {
        publisher.publish(topic, b"{}", 1, false);
    }
    publisher.finish();
    // QoS 1 may bring again what was read before the stop; what the config dropped it may not.
    let came = |records: &[Record], key: &str| records.iter().any(|record| record.key_text() == key);
    let records = follow.until("both subscriptions work", |records| came(records, "b/2") && came(records, "c/2"));
    assert!(!came(records, "a/2"), "a subscription that the config dropped");
}

#[test]
fn a_shared_subscription_divides_the_messages_among_connections() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("documents"));
    let millrace = Factory::on(kafka).with("broker", broker.url()).with("topic", &topic).start(
        "sources:\n  cells: {type: mqtt, endpoint: $broker, connections: 3, share: mill, subscribe: [{filter: 'a/#', topic: $topic}]}\n",
    );
    millrace.wait_running("cells");
    eventually("three connections subscribe", || (broker.log().matches("$share/mill/a/#").count() >= 3).then_some(()));
    let mut publisher = broker.client();
    for i in 0..3_000 {
        publisher.publish(&format!("a/{}", i % 50), i.to_string().as_bytes(), 1, false);
    }
    publisher.finish();
    millrace.drained_when("cells", |ledger| ledger.received >= 3_000);
    let records = kafka.read(&topic);
    let texts: BTreeSet<u32> = records.iter().map(|record| record.text().parse().unwrap()).collect();
    assert_eq!((records.len(), texts.len()), (3_000, 3_000));
    seqs_grow(&records.iter().filter(|record| record.partition == 0).cloned().collect::<Vec<_>>());
}

#[test]
fn a_cable_to_the_broker_that_is_cut_slow_or_half_open_loses_nothing() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("documents"));
    let cable = Cable::to(broker.port());
    let millrace = Factory::on(kafka)
        .with("broker", format!("mqtt://127.0.0.1:{}", cable.port()))
        .with("topic", &topic)
        .start("sources:\n  cells: {type: mqtt, endpoint: $broker, keep_alive: 5s, subscribe: [{filter: 'a/#', topic: $topic}]}\n");
    millrace.wait_running("cells");
    let mut publisher = broker.client();
    let mut sent = 0;
    let faults: [fn(&Cable); 4] = [|cable| cable.cut(), |cable| cable.half_open(), |cable| cable.slow(5_000), |cable| cable.reset()];
    for fault in faults {
        for _ in 0..500 {
            publisher.publish(&format!("a/{}", sent % 20), sent.to_string().as_bytes(), 1, false);
            sent += 1;
        }
        fault(&cable);
        for _ in 0..500 {
            publisher.publish(&format!("a/{}", sent % 20), sent.to_string().as_bytes(), 1, false);
            sent += 1;
        }
        publisher.finish();
        // Half open: the keep-alive alone can tell; the session then starts over by itself.
        cable.reset();
        cable.heal();
        millrace.wait_ledger("cells", "all that was sent has come", |ledger| ledger.received >= sent);
    }
    eventually("every message is in Kafka", || {
        let texts: BTreeSet<u64> = kafka.read(&topic).iter().map(|record| record.text().parse().unwrap()).collect();
        (texts.len() as u64 == sent).then_some(())
    });
    millrace.drained("cells");
}

#[test]
fn a_half_open_connection_is_noticed_by_the_keep_alive() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("documents"));
    let cable = Cable::to(broker.port());
    let millrace = Factory::on(kafka)
        .with("broker", format!("mqtt://127.0.0.1:{}", cable.port()))
        .with("topic", &topic)
        .start("sources:\n  cells: {type: mqtt, endpoint: $broker, keep_alive: 2s, subscribe: [{filter: 'a/#', topic: $topic}]}\n");
    millrace.wait_running("cells");
    let accepted = cable.accepted();
    cable.half_open();
    eventually("a new connection is tried", || (cable.accepted() > accepted).then_some(()));
    cable.reset();
    cable.heal();
    millrace.wait_running("cells");
    broker.publish("a/1", b"{}", 1, false);
    kafka.follow(&topic).count(1);
}

#[test]
fn the_broker_killed_and_restarted_is_found_again() {
    let (kafka, mut broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("documents"));
    let millrace = Factory::on(kafka)
        .with("broker", broker.url())
        .with("topic", &topic)
        .start("sources:\n  cells: {type: mqtt, endpoint: $broker, subscribe: [{filter: 'a/#', topic: $topic}]}\n");
    millrace.wait_running("cells");
    broker.publish("a/1", b"1", 1, false);
    let mut follow = kafka.follow(&topic);
    follow.count(1);
    broker.kill9();
    eventually("the source says it is not running", || (millrace.word("cells") != "Running").then_some(()));
    broker.restart();
    millrace.wait_running("cells");
    broker.publish("a/2", b"2", 1, false);
    follow.until("the message after the restart", |records| records.iter().any(|record| record.text() == "2"));
}

/// Publishes while the runtime is killed and restarted; returns what the runtime got into Kafka.
fn publish_under_kills(millrace: &mut Millrace, broker: &Mosquitto, qos: u8, messages: u64) {
    let port = broker.port();
    let publisher = std::thread::spawn(move || {
        let mut client = Client::connect(port);
        for i in 0..messages {
            client.publish(&format!("a/{}", i % 10), i.to_string().as_bytes(), qos, false);
            if i % 50 == 0 {
                // A steady stream, so that every kill meets messages on their way.
                client.finish();
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        client.finish();
    });
    for kill in 1..=5 {
        millrace.wait_ledger("cells", "progress before a kill", |ledger| ledger.received >= kill * messages / 8);
        millrace.restart();
    }
    publisher.join().expect("everything is published");
}

#[test]
fn qos_1_under_kill_9_misses_nothing() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("documents"));
    let mut millrace = Factory::on(kafka)
        .exactly_once()
        .with("broker", broker.url())
        .with("topic", &topic)
        .start("sources:\n  cells: {type: mqtt, endpoint: $broker, subscribe: [{filter: 'a/#', qos: 1, topic: $topic}]}\n");
    millrace.wait_running("cells");
    let messages = 20_000;
    publish_under_kills(&mut millrace, &broker, 1, messages);
    let mut follow = kafka.follow(&topic);
    let mut seen = BTreeSet::new();
    let mut looked_at = 0;
    let records = follow.until("every message", |records| {
        seen.extend(records[looked_at..].iter().map(|record| record.text().parse::<u64>().unwrap()));
        looked_at = records.len();
        seen.len() as u64 == messages
    });
    println!("{} records, {} of them redeliveries", records.len(), records.len() as u64 - messages);
    let ledger = millrace.drained_when("cells", |ledger| ledger.received >= messages);
    assert_eq!(ledger.produced, kafka.read(&topic).len() as u64);
}

#[test]
fn qos_2_with_a_kept_session_comes_exactly_once_over_kills() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("documents"));
    let mut millrace = Factory::on(kafka)
        .exactly_once()
        .with("broker", broker.url())
        .with("topic", &topic)
        .start("sources:\n  cells: {type: mqtt, endpoint: $broker, subscribe: [{filter: 'a/#', qos: 2, topic: $topic}]}\n");
    millrace.wait_running("cells");
    let messages = 10_000;
    publish_under_kills(&mut millrace, &broker, 2, messages);
    let mut follow = kafka.follow(&topic);
    follow.count(messages as usize);
    millrace.drained_when("cells", |ledger| ledger.received >= messages);
    let mut numbers: Vec<u64> = kafka.read(&topic).iter().map(|record| record.text().parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers.len() as u64, messages);
    numbers.dedup();
    assert_eq!(numbers.len() as u64, messages, "a message came twice and another is missing");
}

#[test]
fn a_changed_client_id_is_told_with_what_to_do_about_the_session_it_leaves() {
    let (kafka, broker) = (Kafka::shared(), Mosquitto::start());
    let topic = kafka.topic("documents");
    let text = |client_id: &str| {
        format!(
            "sources:\n  cells: {{type: mqtt, endpoint: $broker, client_id: {client_id}, subscribe: [{{filter: 'a/#', topic: $topic}}]}}\n"
        )
    };
    let mut millrace = Factory::on(kafka).with("broker", broker.url()).with("topic", &topic).start(&text("first-id"));
    millrace.wait_running("cells");
    millrace.stop();
    millrace.write(&text("second-id"));
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_running("cells");
    assert!(millrace.log().contains("start once with `client_id: first-id`"), "{}", millrace.log());
}
