//! The source against a real mosquitto.

mod common;

use common::{Client, Mosquitto, Run, compile, context, scripted, start};
use millrace_config::{Node, Problems, Secret};
use millrace_contract::{Failure, Guarantee, Late, Plugin, Status};
use millrace_kit::Login;
use millrace_mqtt::MqttSource;
use millrace_mqtt::config::SourceConfig;
use millrace_mqtt::packet::{push_correlation_data, push_text_property, push_user_property};
use millrace_schemas::{Batch, Origin, RouteId, StatusCode, TimeSource};
use millrace_testkit::{Owned, TestHost, soon};

// ---- what it makes of messages

#[tokio::test]
async fn documents_keep_their_bytes_and_get_keys_topics_and_headers() {
    let mosquitto = Mosquitto::start().await;
    let run = Run::of(
        &mosquitto,
        "subscribe: [{filter: 'factory/+/+/state', payload: json, topic: 'state.{1}', key: '{1}/{2}/{/id}', time: {at: /ts, unit: ms}}]",
    )
    .await;
    let mut client = mosquitto.client("device").await;
    let payload = br#"{ "id" :  7, "ts": 1750000000123, "s": "x" }"#;
    let mut properties = Vec::new();
    push_user_property(&mut properties, "shift", "late");
    push_text_property(&mut properties, millrace_mqtt::packet::CONTENT_TYPE, "application/json");
    push_correlation_data(&mut properties, &[1, 2]);
    client.publish_all([("factory/a/b/state".into(), payload.to_vec())], 1, false, &properties).await;
    run.host.until("the document", |host| host.count() == 1).await;
    let document = run.stop().await.documents().remove(0);
    assert_eq!(document.payload.as_deref(), Some(&payload[..]));
    assert_eq!(document.topic, "state.a");
    assert_eq!(document.key, b"a/b/7");
    assert_eq!(document.time.0, 1_750_000_000_123_000);
    let header = |name: &str| document.headers.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.clone());
    assert_eq!(header("mqtt.topic").as_deref(), Some(&b"factory/a/b/state"[..]));
    assert_eq!(header("shift").as_deref(), Some(&b"late"[..]));
    assert_eq!(header("content-type").as_deref(), Some(&b"application/json"[..]));
    assert_eq!(header("mqtt.correlation-data").as_deref(), Some(&[1, 2][..]));
    assert_eq!(header("mqtt.retain"), None);
}

#[tokio::test]
async fn samples_come_out_of_json_with_time_and_status() {
    let mosquitto = Mosquitto::start().await;
    let run = Run::of(
        &mosquitto,
        "subscribe: [{filter: 'car/+/telemetry', at: 'fleet/{1}', unit: km/h, samples: {speed: /v/kmh, soc: {at: /battery/soc, topic: alarms}, pos: /pos}, time: {at: /ts, unit: s}, status: /q}]",
    )
    .await;
    let mut client = mosquitto.client("device").await;
    client
        .publish(
            "car/7/telemetry",
            br#"{"v":{"kmh":81.5},"battery":{"soc":18446744073709551615},"pos":{"lat":1,"lon":2},"ts":1750000000.5,"q":"uncertain"}"#,
            1,
            true,
        )
        .await;
    run.host.until("the samples", |host| host.count() == 4).await;
    client.publish("car/7/telemetry", br#"{"v":{"kmh":-3},"pos":{"lat":3},"ts":1750000001,"q":0}"#, 1, false).await;
    run.host.until("the second", |host| host.count() == 7).await;
    let host = run.stop().await;
    let samples = host.samples();
    let one = |tag: &str, n: usize| samples.iter().filter(|sample| sample.tag == tag).nth(n).cloned().unwrap_or_else(|| panic!("{tag}"));
    let speed = one("fleet/7/speed", 0);
    assert_eq!(speed.value, Owned::Double(81.5));
    assert_eq!((speed.time.0, speed.time_source), (1_750_000_000_500_000, TimeSource::Device));
    assert_eq!(speed.status, StatusCode::UNCERTAIN);
    assert_eq!(speed.origin, Origin::Change);
    let soc = one("fleet/7/soc", 0);
    assert_eq!((soc.value, soc.topic.as_str()), (Owned::UInt(u64::MAX), "alarms"));
    assert_eq!(one("fleet/7/pos/lat", 0).value, Owned::Int(1));
    assert_eq!(one("fleet/7/pos/lon", 0).value, Owned::Int(2));
    assert_eq!(one("fleet/7/speed", 1).value, Owned::Int(-3));
    assert_eq!(one("fleet/7/pos/lat", 1).value, Owned::Int(3));
    let missing = one("fleet/7/soc", 1);
    assert_eq!((missing.value, missing.status), (Owned::Null, StatusCode::BAD_NOT_FOUND));
    let def = host.tags().into_iter().find(|tag| tag.path == "fleet/7/speed").expect("declared");
    assert_eq!(def.address, "car/7/telemetry#/v/kmh");
    assert_eq!(def.options.unit.as_deref(), Some("km/h"));
}

#[tokio::test]
async fn retained_messages_are_initial_and_an_empty_one_is_a_tombstone() {
    let mosquitto = Mosquitto::start().await;
    let mut client = mosquitto.client("device").await;
    client.publish("set/a", b"42", 1, true).await;
    client.publish("doc/a", b"{}", 1, true).await;
    let run =
        Run::of(&mosquitto, "subscribe: [{filter: 'set/+', payload: number, tag: '{topic}'}, {filter: 'doc/+', topic: docs, key: '{1}'}]")
            .await;
    run.host.until("the retained ones", |host| host.count() == 2).await;
    client.publish("set/a", b"43", 1, true).await;
    client.publish("doc/a", b"", 1, true).await;
    run.host.until("the live ones", |host| host.count() == 4).await;
    let host = run.stop().await;
    let samples: Vec<_> = host.samples().into_iter().map(|sample| (sample.tag, sample.value, sample.origin)).collect();
    assert_eq!(samples, [("set/a".into(), Owned::Int(42), Origin::Initial), ("set/a".into(), Owned::Int(43), Origin::Change)]);
    let documents = host.documents();
    assert!(documents[0].headers.contains(&("mqtt.retain".into(), Some(b"true".to_vec()))), "{documents:?}");
    assert_eq!((documents[1].key.as_slice(), &documents[1].payload), (&b"a"[..], &None));
}

#[tokio::test]
async fn what_cannot_be_read_becomes_a_dead_letter_with_its_payload_and_a_reason() {
    let mosquitto = Mosquitto::start().await;
    let run = Run::of(
        &mosquitto,
        "subscribe: [
           {filter: 'doc/#', topic: docs, key: '{/id}'},
           {filter: 'num/+', payload: number, tag: '{1}'},
           {filter: 'txt/+', payload: text, tag: 'text/{1}'},
           {filter: 'json/+', at: 'j/{1}', samples: {a: /a}, time: {at: /t}, status: /s},
           {filter: 'kafka/+', topic: 'to-{1}'}]",
    )
    .await;
    let mut client = mosquitto.client("device").await;
    let table: [(&str, &[u8], &str); 11] = [
        ("doc/1", b"{\"id\":", "cannot be read as JSON"),
        ("doc/2", b"{\"x\":1}", "/id is not in the payload"),
        ("doc/3", b"", "it is empty"),
        ("doc/4", b"{\"id\":\"\xff\"}", "cannot be read as JSON"),
        ("num/1", b"12,5", "12,5"),
        ("num/2", b"", "it is empty"),
        ("txt/1", b"a\xffb", "UTF-8"),
        ("json/1", b"[1", "cannot be read as JSON"),
        ("json/2", b"{\"a\":1,\"t\":\"yesterday\"}", "yesterday"),
        ("json/3", b"{\"a\":1}", "nothing is at /t"),
        ("kafka/a b", b"{}", "no name of a Kafka topic"),
    ];
    for (topic, payload, _) in table {
        client.publish(topic, payload, 1, false).await;
    }
    client.publish("num/9", b" 9 ", 1, false).await;
    run.host.until("all of them", |host| host.count() == table.len() as u64 + 1).await;
    let host = run.stop().await;
    let rejects = host.rejects();
    assert_eq!(rejects.len(), table.len());
    for ((topic, payload, part), reject) in table.iter().zip(&rejects) {
        assert!(reject.reason.contains(part) && reject.reason.contains(topic), "{topic}: {}", reject.reason);
        assert_eq!(reject.payload, *payload, "{topic}");
    }
    assert_eq!(host.samples()[0].value, Owned::Int(9));
}

#[tokio::test]
async fn numbers_keep_their_type_and_nan_is_a_value() {
    let mosquitto = Mosquitto::start().await;
    let run = Run::of(&mosquitto, "subscribe: [{filter: 'n/+', payload: number, tag: '{1}'}]").await;
    let mut client = mosquitto.client("device").await;
    for (n, text) in ["-9223372036854775808", "18446744073709551615", "1e3", " 7\n", "-Infinity"].iter().enumerate() {
        client.publish(&format!("n/{n}"), text.as_bytes(), 1, false).await;
    }
    run.host.until("five values", |host| host.count() == 5).await;
    let values: Vec<_> = run.stop().await.samples().into_iter().map(|sample| sample.value).collect();
    let expected = [Owned::Int(i64::MIN), Owned::UInt(u64::MAX), Owned::Double(1000.0), Owned::Int(7), Owned::Double(f64::NEG_INFINITY)];
    assert_eq!(values, expected);
}

#[tokio::test]
async fn two_topics_of_one_path_are_told_apart() {
    let mosquitto = Mosquitto::start().await;
    let run = Run::of(&mosquitto, "subscribe: [{filter: 'a/+/+', payload: number, tag: '{2}'}]").await;
    let mut client = mosquitto.client("device").await;
    client.publish("a/1/x", b"1", 1, false).await;
    client.publish("a/2/x", b"2", 1, false).await;
    run.host.until("both", |host| host.count() == 2).await;
    assert!(matches!(run.host.status("a/+/+"), Some(Status::Degraded(_))));
    let host = run.stop().await;
    assert_eq!(host.samples().len(), 1);
    assert!(host.rejects()[0].reason.contains("tag x is declared already"), "{}", host.rejects()[0].reason);
}

#[tokio::test]
async fn overlapping_subscriptions_make_one_record_each() {
    let mosquitto = Mosquitto::start().await;
    let run = Run::of(
        &mosquitto,
        "subscribe: [{filter: 'a/#', payload: bytes, topic: all}, {filter: 'a/+/v', payload: number, tag: '{1}'}, {filter: 'a/b/v', payload: text, topic: one}]",
    )
    .await;
    let mut client = mosquitto.client("device").await;
    client.publish("a/b/v", b"5", 1, false).await;
    client.publish("a/end", b"end", 1, false).await;
    run.host.until("the end", |host| host.documents().iter().any(|d| d.text() == "end")).await;
    let host = run.stop().await;
    assert_eq!(host.samples().len(), 1);
    let topics: Vec<_> = host.documents().into_iter().map(|document| document.topic).collect();
    assert_eq!(topics.iter().filter(|topic| *topic == "all").count(), 2, "{topics:?}");
    assert_eq!(topics.iter().filter(|topic| *topic == "one").count(), 1, "{topics:?}");
}

#[tokio::test]
async fn more_tags_than_allowed_become_dead_letters() {
    let mosquitto = Mosquitto::start().await;
    let run = Run::of(&mosquitto, "max_tags: 3, subscribe: [{filter: 't/+', payload: number, tag: '{1}'}]").await;
    let mut client = mosquitto.client("device").await;
    for n in 0..6 {
        client.publish(&format!("t/{n}"), b"1", 1, false).await;
    }
    client.publish("t/0", b"2", 1, false).await;
    run.host.until("all", |host| host.count() == 7).await;
    let host = run.stop().await;
    assert_eq!((host.samples().len(), host.rejects().len(), host.tags().len()), (4, 3, 3));
    assert!(host.rejects()[0].reason.contains("raise `max_tags`"));
}

#[tokio::test]
async fn a_message_that_is_too_long_is_a_dead_letter_and_the_stream_goes_on() {
    let mosquitto = Mosquitto::start().await;
    for version in [4, 5] {
        let keys = format!(
            "version: {version}, client_id: c{version}, max_packet: 200KiB, subscribe: [{{filter: 'd/+', payload: bytes, topic: docs}}]"
        );
        let run = Run::of(&mosquitto, &keys).await;
        let mut client = mosquitto.client("device").await;
        client.publish("d/1", &vec![1; 16 << 20], 1, false).await;
        client.publish("d/2", b"after", 1, false).await;
        run.host.until("what comes after", |host| host.count() == 2).await;
        let host = run.stop().await;
        let reject = &host.rejects()[0];
        assert!(reject.reason.contains("16777") && reject.reason.contains("max_packet"), "{}", reject.reason);
        assert!(reject.payload.len() > 100_000);
        assert_eq!(host.documents()[0].text(), "after");
    }
}

#[tokio::test]
async fn a_16_mib_message_within_the_limit_is_a_document() {
    let mosquitto = Mosquitto::start().await;
    let run = Run::of(&mosquitto, "subscribe: [{filter: 'd/+', payload: bytes, topic: docs}]").await;
    let payload: Vec<u8> = (0..16_u32 << 20).map(|n| n as u8).collect();
    mosquitto.client("device").await.publish("d/1", &payload, 1, false).await;
    run.host.until("it", |host| host.count() == 1).await;
    assert!(run.stop().await.documents()[0].payload.as_deref() == Some(&payload));
}

// ---- sessions

#[tokio::test]
async fn a_kept_session_loses_the_filters_that_went_and_gets_the_new_ones() {
    let mosquitto = Mosquitto::start().await;
    for version in [4, 5] {
        let yaml = |filters: &[&str]| {
            let list: Vec<_> = filters.iter().map(|filter| format!("{{filter: '{filter}', payload: text, topic: docs}}")).collect();
            format!("{{endpoint: '{}', version: {version}, client_id: v{version}, subscribe: [{}]}}", mosquitto.endpoint(), list.join(", "))
        };
        let first = compile::<MqttSource>(&yaml(&["a/+", "b/+"]));
        let host = Run::with(&*first, TestHost::of(&*first)).await.stop().await;
        assert_eq!(host.positions()[&format!("filters/v{version}")], b"1 a/+\n1 b/+");
        host.restart();

        let mut client = mosquitto.client("device").await;
        client.publish("a/1", b"a1", 1, false).await;
        client.publish("b/1", b"b1", 1, false).await;
        let second = compile::<MqttSource>(&yaml(&["b/+", "c/+"]));
        let run = Run::with(&*second, host).await;
        for topic in ["a/2", "b/2", "c/2"] {
            client.publish(topic, topic.as_bytes(), 1, false).await;
        }
        run.host.until("c/2", |host| host.documents().iter().any(|d| d.text() == "c/2")).await;
        let host = run.stop().await;
        assert_eq!(host.positions()[&format!("filters/v{version}")], b"1 b/+\n1 c/+");
        let texts: Vec<_> = host.documents().iter().map(|d| d.text().to_owned()).collect();
        // What came for `a/+` while it was still subscribed has no route any more; it leaves no record and blocks nothing.
        assert_eq!(texts, ["b1", "b/2", "c/2"], "version {version}");
    }
}

/// A clean stop must not reset the connection over what the broker is still sending: it would lose the last acknowledgements with it.
#[tokio::test]
async fn a_clean_stop_hands_the_last_acknowledgements_over_while_the_broker_goes_on_sending() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("mqtt://{}", listener.local_addr().unwrap());
    let (told, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let broker = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 1024];
        assert!(socket.read(&mut bytes).await.unwrap() > 0);
        socket.write_all(&[0x20, 3, 0, 0, 0]).await.unwrap(); // CONNACK
        assert!(socket.read(&mut bytes).await.unwrap() > 0);
        socket.write_all(&[0x90, 4, 0, 1, 0, 1]).await.unwrap(); // SUBACK, QoS 1
        let publish = |id: u8| [0x32, 8, 0, 1, b'a', 0, id, 0, b'x', b'y'];
        socket.write_all(&publish(1)).await.unwrap();
        (&mut stopped).await.unwrap();
        // It has not heard yet that the source stops. The source's window is full: these stay unread.
        for id in 2..200 {
            socket.write_all(&publish(id)).await.unwrap();
        }
        let mut heard = Vec::new();
        soon("the source closes", socket.read_to_end(&mut heard)).await.expect("the connection is closed, not reset");
        heard
    });
    let yaml = format!("{{endpoint: '{endpoint}', window: 1, subscribe: [{{filter: a, payload: text, topic: docs}}]}}");
    let compiled = compile::<MqttSource>(&yaml);
    let host = TestHost::of(&*compiled);
    host.withhold();
    let run = Run::with(&*compiled, host).await;
    run.host.until("the first message", |host| host.count() == 1).await;
    told.send(()).unwrap();
    run.host.stop();
    run.host.sync();
    run.stop().await;
    let heard = soon("the broker", broker).await.unwrap();
    let puback = [0x40, 2, 0, 1];
    assert!(heard.windows(4).any(|bytes| bytes == puback), "{heard:x?}");
    assert_eq!(heard[heard.len() - 4], 0xE0, "DISCONNECT is the last word: {heard:x?}");
}

const CONNECT: u8 = 1;
const SUBSCRIBE: u8 = 8;

#[tokio::test]
async fn a_refused_filter_degrades_its_part_and_the_others_go_on() {
    let connack = (CONNECT, vec![0x20, 3, 0, 0, 0]);
    // SUBACK of packet 1: granted; of packet 2: not authorized, with a reason string; then a message of the first.
    let granted = (SUBSCRIBE, vec![0x90, 4, 0, 1, 0, 1]);
    let refused = (SUBSCRIBE, vec![0x90, 9, 0, 2, 5, 31, 0, 2, b'n', b'o', 0x87]);
    let publish = (SUBSCRIBE, vec![0x30, 8, 0, 4, b'o', b'k', b'/', b'1', 0, b'x']);
    let endpoint = scripted(vec![connack, granted, refused, publish]).await;
    let yaml = format!(
        "{{endpoint: '{endpoint}', subscribe: [{{filter: 'ok/+', payload: text, topic: docs}}, {{filter: 'secret/+', payload: text, topic: docs}}]}}"
    );
    let compiled = compile::<MqttSource>(&yaml);
    let run = Run::with(&*compiled, TestHost::of(&*compiled)).await;
    let Some(Status::Degraded(reason)) = run.host.status("secret/+") else { panic!("{:?}", run.host.status("secret/+")) };
    assert!(reason.contains("refuses the filter `secret/+`: not authorized (0x87), it says: no"), "{reason}");
    run.host.until("the allowed one", |host| host.count() == 1).await;
    let host = run.stop().await;
    assert_eq!(host.positions()["filters/millrace-m"], b"1 ok/+");
}

#[tokio::test]
async fn a_refused_login_is_blocked_and_says_whose() {
    let dir = tempfile::tempdir().unwrap();
    let passwords = dir.path().join("passwords");
    let made = std::process::Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(&passwords).args(["millrace", "right"]).status();
    assert!(made.is_ok_and(|status| status.success()), "mosquitto_passwd is not installed; type: apt-get install -y mosquitto");
    let mosquitto = Mosquitto::with(&format!("allow_anonymous false\npassword_file {}\n", passwords.display())).await;
    let with_login = |version: u8, password: Option<&str>| {
        let yaml =
            format!("{{endpoint: '{}', version: {version}, subscribe: [{{filter: a, payload: text, topic: docs}}]}}", mosquitto.endpoint());
        let mut problems = Problems::new();
        let node = Node::from_yaml(&yaml, &mut problems).unwrap();
        let mut config: SourceConfig = node.parse(&mut problems).unwrap();
        config.shared.login = password.map(|password| Login { user: "millrace".into(), password: Secret::new(password) });
        MqttSource::compile(config, &context(), &mut problems).unwrap()
    };
    for (version, password, part) in
        [(5, Some("wrong"), "user `millrace`"), (4, Some("wrong"), "user `millrace`"), (5, None, "no user name")]
    {
        let compiled = with_login(version, password);
        let ended = soon("the refusal", start(&*compiled, &TestHost::of(&*compiled))).await.unwrap();
        let Err(Failure::Blocked(cause)) = ended else { panic!("{ended:?}") };
        assert!(cause.contains(part) && !cause.contains("wrong"), "{cause}");
    }
    let compiled = with_login(5, Some("right"));
    Run::with(&*compiled, TestHost::of(&*compiled)).await.stop().await;
}

#[tokio::test]
async fn what_a_broker_says_when_it_refuses_or_leaves_decides_what_happens_next() {
    let connack = |code: u8| vec![0x20, 3, 0, code, 0];
    let table = [
        (vec![(CONNECT, connack(0x84))], "Blocked", "set `version: 4`"),
        (vec![(CONNECT, connack(0x85))], "Blocked", "set another `client_id`"),
        (vec![(CONNECT, connack(0x87))], "Blocked", "check `login`"),
        (vec![(CONNECT, connack(0x88))], "Reconnect", "not available now"),
        (vec![(CONNECT, connack(0x89))], "RetryAfter", "server busy (0x89)"),
        (vec![(CONNECT, connack(0)), (SUBSCRIBE, vec![0xE0, 1, 0x8E])], "Blocked", "another client connected with client id `millrace-m`"),
        (vec![(CONNECT, connack(0)), (SUBSCRIBE, vec![0xE0, 1, 0x8B])], "Reconnect", "server shutting down (0x8B)"),
        (vec![(CONNECT, connack(0)), (SUBSCRIBE, vec![0x36, 3, 0, 1, b'a'])], "Reconnect", "malformed PUBLISH: QoS 3"),
        (vec![(CONNECT, connack(0)), (SUBSCRIBE, vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF])], "Reconnect", "a length of more than four bytes"),
    ];
    for (answers, variant, part) in table {
        let yaml = format!("{{endpoint: '{}', subscribe: [{{filter: a, payload: text, topic: docs}}]}}", scripted(answers).await);
        let compiled = compile::<MqttSource>(&yaml);
        let ended = soon("the end", start(&*compiled, &TestHost::of(&*compiled))).await.unwrap().unwrap_err();
        let text = format!("{ended:?}");
        assert!(text.starts_with(variant) && text.contains(part), "{text}");
    }
}

/// A cable that is cut looks as a broker of 3.1.1 does, which closes without a word; but this one has answered.
#[tokio::test]
async fn another_version_is_proposed_only_before_the_broker_has_answered_in_this_one() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = format!("{{endpoint: 'mqtt://{}', subscribe: [{{filter: a, payload: text, topic: docs}}]}}", listener.local_addr().unwrap());
    let compiled = compile::<MqttSource>(&yaml);
    let connack = [0x20, 3, 0, 0, 0];
    let mut causes = Vec::new();
    for answer in [&[][..], &connack, &[]] {
        let broker = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0, "CONNECT");
            socket.write_all(answer).await.unwrap();
        };
        let host = TestHost::of(&*compiled);
        let (ended, ()) = soon("the end", async { tokio::join!(start(&*compiled, &host), broker) }).await;
        causes.push(format!("{:?}", ended.unwrap().unwrap_err()));
    }
    let proposes: Vec<bool> = causes.iter().map(|cause| cause.contains("set `version: 4`")).collect();
    assert_eq!(proposes, [true, false, false], "{causes:#?}");
}

#[tokio::test]
async fn a_port_that_is_no_mqtt_says_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let yaml = format!("{{endpoint: 'mqtt://127.0.0.1:{port}', subscribe: [{{filter: a, payload: text, topic: docs}}]}}");
    let compiled = compile::<MqttSource>(&yaml);
    let ended = soon("the end", start(&*compiled, &TestHost::of(&*compiled))).await.unwrap();
    let Err(Failure::Reconnect(cause)) = ended else { panic!("{ended:?}") };
    assert!(cause.contains("is it an mqtt port"), "{cause}");
}

#[tokio::test]
async fn a_broker_that_is_killed_and_restarted_loses_nothing_it_had_persisted() {
    let mut mosquitto = Mosquitto::with("allow_anonymous true\nmax_inflight_messages 0\n").await;
    let yaml = format!("{{endpoint: '{}', subscribe: [{{filter: 'n/+', payload: number, tag: '{{1}}'}}]}}", mosquitto.endpoint());
    let compiled = compile::<MqttSource>(&yaml);
    let run = Run::with(&*compiled, TestHost::of(&*compiled)).await;
    mosquitto.restart().await;
    let ended = soon("the end", run.task).await.unwrap();
    assert!(matches!(ended, Err(Failure::Reconnect(_))), "{ended:?}");
    // The broker kept nothing: the session is new, and the source subscribes again.
    let run = Run::with(&*compiled, run.host).await;
    mosquitto.client("device").await.publish("n/1", b"1", 1, false).await;
    run.host.until("the value", |host| host.count() == 1).await;
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_connections_share_the_messages() {
    let mosquitto = Mosquitto::start().await;
    let run =
        Run::of(&mosquitto, "connections: 3, share: workers, subscribe: [{filter: 'n/+', payload: number, tag: 't/{1}', qos: 1}]").await;
    let mut client = mosquitto.client("device").await;
    client.publish_all((0..3000).map(|n| (format!("n/{}", n % 10), n.to_string().into_bytes())), 1, false, &[]).await;
    run.host.until("all", |host| host.count() >= 3000).await;
    let host = run.stop().await;
    let mut numbers: Vec<_> = host.samples().into_iter().filter_map(|sample| sample.value.number()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..3000).collect::<Vec<_>>());
    assert_eq!(host.tags().len(), 10);
}

#[tokio::test]
async fn it_speaks_tls_with_a_client_certificate_and_says_whom_it_does_not_trust() {
    let ours = Authority::new("ours");
    let (server, client) = (ours.leaf("server"), ours.leaf("client"));
    let tls = format!("cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true", ours.ca(), server.0, server.1);
    let mosquitto = Mosquitto::with_listener("allow_anonymous true\nmax_queued_messages 0\n", &tls).await;
    let yaml = |host: &str, tls: &str| {
        let port = mosquitto.other_port;
        format!("{{endpoint: 'mqtts://{host}:{port}', {tls} subscribe: [{{filter: 'n/+', payload: number, tag: '{{1}}'}}]}}")
    };
    for host in ["127.0.0.1", "localhost"] {
        let compiled = compile::<MqttSource>(&yaml(host, &format!("tls: {{ca: {}, cert: {}, key: {}}},", ours.ca(), client.0, client.1)));
        let run = Run::with(&*compiled, TestHost::of(&*compiled)).await;
        let messages = (0..500).map(|n| (format!("n/{}", n % 3), n.to_string().into_bytes()));
        mosquitto.client("device").await.publish_all(messages, 1, false, &[]).await;
        run.host.until("all", |host| host.count() == 500).await;
        run.stop().await;
    }
    let stranger = Authority::new("stranger");
    for (tls, part) in [
        (format!("tls: {{ca: {}}},", stranger.ca()), "nobody trusted here has signed its certificate"),
        (format!("tls: {{ca: {}}},", ours.ca()), "it wants a client certificate"),
        ("tls: {ca: /nowhere/ca.pem},".into(), "cannot read /nowhere/ca.pem"),
    ] {
        let compiled = compile::<MqttSource>(&yaml("127.0.0.1", &tls));
        let ended = soon("the refusal", start(&*compiled, &TestHost::of(&*compiled))).await.unwrap();
        let Err(Failure::Blocked(cause)) = ended else { panic!("{tls}: {ended:?}") };
        assert!(cause.contains(part), "{cause}");
    }
}

/// A certificate authority with leaves for this machine; its files live as long as it does.
struct Authority {
    dir: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: rcgen::Issuer::new(params, key) }
    }

    fn ca(&self) -> String {
        self.dir.path().join("ca.pem").display().to_string()
    }

    /// The files of a certificate and its key.
    fn leaf(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let file = |kind: &str, text: String| {
            let path = self.dir.path().join(format!("{name}.{kind}.pem"));
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        (file("cert", params.signed_by(&key, &self.issuer).unwrap().pem()), file("key", key.serialize_pem()))
    }
}

#[tokio::test]
async fn it_speaks_over_websockets() {
    let mosquitto = Mosquitto::with_listener("allow_anonymous true\nmax_queued_messages 0\n", "protocol websockets").await;
    let endpoint = format!("ws://127.0.0.1:{}/mqtt", mosquitto.other_port);
    let yaml = format!("{{endpoint: '{endpoint}', subscribe: [{{filter: 'n/+', payload: number, tag: '{{1}}'}}]}}");
    let compiled = compile::<MqttSource>(&yaml);
    let run = Run::with(&*compiled, TestHost::of(&*compiled)).await;
    let mut client = Client::open(&endpoint, "device").await;
    client.publish_all((0..500).map(|n| (format!("n/{}", n % 3), n.to_string().into_bytes())), 1, false, &[]).await;
    run.host.until("all", |host| host.count() == 500).await;
    run.stop().await;
}

#[tokio::test]
async fn the_plan_says_what_will_be_done() {
    let yaml =
        "{endpoint: 'mqtt://broker', subscribe: [{filter: 'a/+', payload: number, tag: '{1}', qos: 2}, {filter: b, topic: docs, qos: 0}]}";
    let compiled = compile::<MqttSource>(yaml);
    assert!(matches!(compiled.guarantee(), Guarantee::AtMostOnce(_)));
    let plan = compiled.plan();
    assert_eq!(plan.endpoint, "mqtt://broker");
    assert_eq!(
        plan.lines,
        [
            "mqtt 5, client id millrace-m",
            "subscribe a/+ at QoS 2: a tag of each topic to telemetry",
            "subscribe b at QoS 0: documents to docs"
        ]
    );
}

#[tokio::test]
async fn payloads_are_unpacked_and_read_in_their_encoding() {
    let mosquitto = Mosquitto::start().await;
    let keys = "subscribe: [{filter: 'gz', compression: gzip, samples: {a: /v}, at: gz, topic: t},
        {filter: 'deflate/+', compression: deflate, samples: {a: /v}, at: '{1}', topic: t},
        {filter: 'wide', encoding: utf-16le, payload: text, tag: wide, topic: t}, {filter: 'latin', encoding: windows-1252, payload: text, tag: latin, topic: t}]";
    let run = Run::of(&mosquitto, keys).await;
    let mut client = mosquitto.client("device").await;
    let json = br#"{"v": 7}"#;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    let mut bare = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    for encoder in [&mut gzip as &mut dyn std::io::Write, &mut zlib, &mut bare] {
        encoder.write_all(json).unwrap();
    }
    let wide: Vec<u8> = "Größe".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (topic, payload) in [
        ("gz", gzip.finish().unwrap()),
        ("deflate/zlib", zlib.finish().unwrap()),
        ("deflate/bare", bare.finish().unwrap()),
        ("wide", wide),
        ("latin", b"Gr\xf6\xdfe".to_vec()),
        ("gz", json.to_vec()),
    ] {
        client.publish(topic, &payload, 1, false).await;
    }
    run.host.until("everything came", |host| host.count() == 6).await;
    let mut values: Vec<_> = run.host.samples().into_iter().map(|sample| (sample.tag, sample.value)).collect();
    values.sort_by(|a, b| a.0.cmp(&b.0));
    let text = || Owned::Text("Größe".into());
    let expected = [("bare/a", Owned::Int(7)), ("gz/a", Owned::Int(7)), ("latin", text()), ("wide", text()), ("zlib/a", Owned::Int(7))];
    assert_eq!(values, expected.map(|(tag, value)| (tag.to_owned(), value)));
    let rejects = run.host.rejects();
    assert!(rejects[0].reason.contains("the payload cannot be decompressed") && rejects[0].payload == json, "{rejects:?}");
    run.stop().await;
}

#[test]
fn a_dead_letter_is_decoded_again_by_its_own_route() {
    let compiled = compile::<MqttSource>(
        "{endpoint: 'mqtt://b', subscribe: [{filter: 'valve/+', payload: text, tag: '{1}/open', topic: t},
          {filter: 'm/+', compression: gzip, samples: {p: /p}, at: '{1}', topic: t}, {filter: 'spBv1.0/#', payload: sparkplug, topic: t},
          {filter: 'doc/+', key: '{1}', topic: docs}]}",
    );
    let host = TestHost::of(&*compiled);
    let again = |route, topic: &str, payload: &[u8]| {
        let headers = [("mqtt.topic".to_owned(), Some(topic.as_bytes().to_vec()))];
        let mut batch = Batch::new();
        let late = Late { route: RouteId(route), payload, headers: &headers };
        let done = compiled.decode_again(&late, &host.io(), &mut batch);
        (done.expect("a message of MQTT"), batch)
    };
    let (done, batch) = again(0, "valve/7", b"ON");
    assert_eq!((done, batch.rows.len()), (Ok(()), 1));
    assert_eq!(Owned::of(batch.rows[0].value, &batch.heap), Owned::Text("ON".into()));
    assert_eq!(Some(batch.rows[0].tag), host.tag("7/open"));
    let (done, batch) = again(3, "doc/5", b"{\"a\": 1}");
    assert_eq!((done, batch.docs.len(), batch.bytes_of(batch.docs[0].key)), (Ok(()), 1, &b"5"[..]));
    for (route, topic, why) in [
        (1, "m/1", "the payload cannot be decompressed"),
        (1, "elsewhere", "no filter of today brings the topic elsewhere"),
        (2, "spBv1.0/g/NDATA/n", "means nothing without its node's birth"),
    ] {
        let (done, batch) = again(route, topic, b"{\"p\": 1}");
        assert!(done.as_ref().is_err_and(|said| said.contains(why)) && batch.is_empty(), "{topic}: {done:?}");
    }
    let foreign = Late { route: RouteId(0), payload: b"ON", headers: &[] };
    assert_eq!(compiled.decode_again(&foreign, &host.io(), &mut Batch::new()), None);
}
