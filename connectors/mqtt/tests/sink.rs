//! The sink against a real mosquitto.

mod common;

use async_trait::async_trait;
use common::{Client, Mosquitto, compile, scripted};
use millrace_config::Place;
use millrace_contract::{Compiled, Context, Failure, Flush, Partition, Record, Records, Sink};
use millrace_mqtt::MqttSink;
use millrace_schemas::Span;
use millrace_schemas::record::push_header;
use millrace_testkit::conformance::{self, sink::SinkFixture};
use millrace_testkit::{FaultProxy, soon, yaml};
use std::sync::Arc;

struct Fixture {
    mosquitto: Mosquitto,
    proxy: FaultProxy,
    reader: Client,
    qos: u8,
    read: Vec<(i32, i64)>,
}

impl Fixture {
    async fn new(qos: u8) -> Self {
        let mosquitto = Mosquitto::start().await;
        let proxy = FaultProxy::to(format!("127.0.0.1:{}", mosquitto.port)).await;
        let mut reader = mosquitto.client("reader").await;
        reader.subscribe("#").await;
        Self { mosquitto, proxy, reader, qos, read: Vec::new() }
    }
}

#[async_trait]
impl SinkFixture for Fixture {
    fn compile(&self) -> Box<dyn Compiled> {
        compile::<MqttSink>(&format!(
            "{{endpoint: 'mqtt://{}', publish: {{topic: 'out/{{topic}}/{{partition}}', qos: {}}}}}",
            self.proxy.addr(),
            self.qos
        ))
    }

    fn untouched(&self) -> bool {
        self.proxy.accepted() == 0
    }

    async fn read_back(&mut self) -> Vec<(i32, i64)> {
        // Everything before this mark has arrived when it has.
        self.mosquitto.client("marker").await.publish("mark", b"", 1, false).await;
        loop {
            let got = self.reader.next().await;
            if got.topic == "mark" {
                return self.read.clone();
            }
            self.read.extend(conformance::sink::numbered(std::str::from_utf8(&got.payload).unwrap_or("")));
        }
    }

    async fn break_target(&mut self) -> bool {
        self.proxy.cut();
        true
    }

    async fn mend(&mut self) {
        self.proxy.heal();
        // The proxy listens again in a moment.
        soon("the target is back", async { while tokio::net::TcpStream::connect(self.proxy.addr()).await.is_err() {} }).await;
    }
}

millrace_testkit::sink_conforms!(qos_1, Fixture::new(1).await);

millrace_testkit::sink_conforms!(qos_2, Fixture::new(2).await);

/// Records of one topic: key, value, header `shift`.
fn records(list: &[(Option<&str>, Option<&str>, Option<&str>)]) -> Records {
    let mut records = Records { parts: vec![Partition { topic: Arc::from("machine-state"), partition: 3 }], ..Records::default() };
    let push = |heap: &mut Vec<u8>, text: &str| {
        heap.extend_from_slice(text.as_bytes());
        Span { start: (heap.len() - text.len()) as u32, len: text.len() as u32 }
    };
    for (offset, (key, value, header)) in list.iter().enumerate() {
        let key = key.map(|key| push(&mut records.heap, key));
        let value = value.map(|value| push(&mut records.heap, value));
        let start = records.heap.len();
        if let Some(header) = header {
            push_header(&mut records.heap, "shift", Some(header.as_bytes()));
        }
        let headers = Span { start: start as u32, len: (records.heap.len() - start) as u32 };
        records.records.push(Record { part: 0, offset: offset as i64, timestamp_ms: 0, key, value, headers, prefix: 0 });
    }
    records
}

async fn sink(endpoint: &str, publish: &str) -> Box<dyn Sink> {
    compile::<MqttSink>(&format!("{{endpoint: '{endpoint}', publish: {publish}}}")).sink().unwrap()
}

#[tokio::test]
async fn topics_and_properties_come_from_the_record() {
    let mosquitto = Mosquitto::start().await;
    let mut reader = mosquitto.client("reader").await;
    reader.subscribe("kafka/#").await;
    let publish = "{topic: 'kafka/{topic}/{partition}/{key}', properties: {shift: '{header:shift}', from: millrace}, content_type: application/json, expires: 1m}";
    let mut sink = sink(&mosquitto.endpoint(), publish).await;
    let refused = sink.write(&records(&[(Some("a/b"), Some("1"), Some("late")), (Some("c"), Some("2"), None)])).await.unwrap();
    assert_eq!(refused, []);
    let flushed = sink.flush(Flush::Tick).await.unwrap();
    assert_eq!(flushed.below, [(Partition { topic: Arc::from("machine-state"), partition: 3 }, 2)]);
    let first = reader.next().await;
    assert_eq!((first.topic.as_str(), &*first.payload), ("kafka/machine-state/3/a/b", &b"1"[..]));
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(first.user, [pair("from", "millrace"), pair("shift", "late")]);
    assert_eq!(reader.next().await.user, [pair("from", "millrace")]);
    sink.flush(Flush::Stop).await.unwrap();
}

#[tokio::test]
async fn records_that_make_no_topic_are_refused_with_a_reason_and_the_others_go_on() {
    let mosquitto = Mosquitto::start().await;
    let mut reader = mosquitto.client("reader").await;
    reader.subscribe("kafka/#").await;
    let mut sink = sink(&mosquitto.endpoint(), "{topic: 'kafka/{key}'}").await;
    let long = "x".repeat(70_000);
    let table = [
        (Some("a/+/b"), "wildcard `+`"),
        (Some("a#"), "wildcard `#`"),
        (Some("a//b"), "empty level"),
        (Some(""), "empty level"),
        (Some("a\0b"), "NUL"),
        (None, "no key"),
        (Some(long.as_str()), "more than 65535"),
    ];
    let mut list: Vec<_> = table.iter().map(|(key, _)| (*key, Some("v"), None)).collect();
    list.push((Some("good"), Some("v"), None));
    let refused = sink.write(&records(&list)).await.unwrap();
    assert_eq!(refused.len(), table.len());
    for ((offset, (_, part)), refused) in table.iter().enumerate().zip(&refused) {
        assert_eq!(refused.offset, offset as i64);
        assert!(refused.reason.contains(part), "{}", refused.reason);
    }
    assert_eq!(reader.next().await.topic, "kafka/good");
    assert_eq!(sink.flush(Flush::Tick).await.unwrap().below[0].1, list.len() as i64);
}

#[tokio::test]
async fn a_tombstone_clears_the_retained_message() {
    let mosquitto = Mosquitto::start().await;
    let mut sink = sink(&mosquitto.endpoint(), "{topic: 'state/{key}', retain: true}").await;
    sink.write(&records(&[(Some("a"), Some("1"), None), (Some("b"), Some("2"), None), (Some("a"), None, None)])).await.unwrap();
    sink.flush(Flush::Tick).await.unwrap();
    let mut reader = mosquitto.client("reader").await;
    reader.subscribe("state/#").await;
    let got = reader.next().await;
    assert_eq!((got.topic.as_str(), got.retain), ("state/b", true));
}

#[tokio::test]
async fn what_the_broker_refuses_is_a_refused_record_and_what_it_cannot_do_is_said() {
    const CONNECT: u8 = 1;
    const PUBLISH: u8 = 3;
    let connack = vec![0x20, 3, 0, 0, 0];
    // PUBACK of packet 1: not authorized.
    let endpoint = scripted(vec![(CONNECT, connack.clone()), (PUBLISH, vec![0x40, 3, 0, 1, 0x87])]).await;
    let mut one = sink(&endpoint, "{topic: 'a'}").await;
    let mut refused = one.write(&records(&[(None, Some("v"), None)])).await.unwrap();
    let flushed = soon("the flush", one.flush(Flush::Tick)).await.unwrap();
    refused.extend(flushed.refused);
    assert!(refused[0].reason.contains("refuses the message on a: not authorized (0x87)"), "{refused:?}");
    assert_eq!(flushed.below[0].1, 1);

    // Quota exceeded: later.
    let endpoint = scripted(vec![(CONNECT, connack), (PUBLISH, vec![0x40, 3, 0, 1, 0x97])]).await;
    let mut one = sink(&endpoint, "{topic: 'a'}").await;
    let failure = match one.write(&records(&[(None, Some("v"), None)])).await {
        Ok(_) => soon("the flush", one.flush(Flush::Tick)).await.unwrap_err(),
        Err(failure) => failure,
    };
    assert!(matches!(failure, Failure::RetryAfter(..)), "{failure:?}");

    // Maximum QoS 0, no retained messages, packets of 40 bytes.
    for (property, publish, part) in
        [(vec![36, 0], "{topic: 'a'}", "set `qos: 0`"), (vec![37, 0], "{topic: 'a', retain: true}", "remove `retain`")]
    {
        let connack = [vec![0x20, 5, 0, 0, 2], property].concat();
        let mut one = sink(&scripted(vec![(CONNECT, connack)]).await, publish).await;
        let failure = one.assign(&[]).await.unwrap_err();
        assert!(matches!(&failure, Failure::Blocked(cause) if cause.contains(part)), "{failure:?}");
    }
    let small = scripted(vec![(CONNECT, vec![0x20, 8, 0, 0, 5, 39, 0, 0, 0, 40])]).await;
    let mut one = sink(&small, "{topic: 'a', qos: 0}").await;
    let refused = one.write(&records(&[(None, Some(&"x".repeat(50)), None), (None, Some("y"), None)])).await.unwrap();
    assert_eq!(refused.len(), 1);
    assert!(refused[0].reason.contains("takes at most 40"), "{}", refused[0].reason);
}

fn problems(keys: &str, context: &Context) -> String {
    yaml::compile::<MqttSink>(keys, context).err().expect("problems")
}

#[test]
fn wrong_configurations_say_what_is_wrong() {
    let context = yaml::context("apps", &["machine-state"]);
    for (keys, part) in [
        ("{endpoint: 'mqtt://b', publish: {topic: 'a/{nothing}'}}", "`{nothing}` in `a/{nothing}`: unknown here"),
        ("{endpoint: 'mqtt://b', publish: {topic: 'a/+'}}", "wildcard"),
        ("{endpoint: 'mqtt://b', publish: {topic: ''}}", "is empty"),
        ("{endpoint: 'mqtt://b', publish: {topic: a, qos: 3}}", "there is no QoS 3"),
        ("{endpoint: 'http://b', publish: {topic: a}}", "mqtt, mqtts, ws and wss"),
        ("{endpoint: 'mqtt://b', version: 3, publish: {topic: a}}", "no mqtt version 3"),
        ("{endpoint: 'mqtt://b', version: 4, publish: {topic: a, expires: 1m}}", "`expires` is part of mqtt 5"),
        ("{endpoint: 'mqtt://b', publish: {topic: a, retained: true}}", "retained"),
    ] {
        let text = problems(keys, &context);
        assert!(text.contains(part), "{keys}: {text}");
    }
}

#[test]
fn a_sink_is_refused_while_writes_are_forbidden() {
    let context = Context { writes_allowed: false, place: Place::default(), ..yaml::context("apps", &["machine-state"]) };
    let text = problems("{endpoint: 'mqtt://b', publish: {topic: a}}", &context);
    assert!(text.contains("sink `apps` publishes to the floor, and writes are forbidden"), "{text}");
}
