//! Topics of Kafka onto a real MQTT broker.

use millrace_tests::*;
use std::collections::BTreeSet;

const SINK: &str = "
floor: {writes: allowed}
sinks:
  apps: {type: mqtt, topics: [$topic], endpoint: $broker, publish: {topic: 'kafka/$topic/{key}', qos: $qos, retain: $retain, properties: {order: '{header:order}'}}}
";

fn factory(kafka: &Kafka, broker: &str, topic: &str, qos: u8) -> Factory {
    Factory::on(kafka).with("broker", broker).with("topic", topic).with("qos", qos).with("retain", "false")
}

#[test]
fn records_are_published_with_template_topic_qos_and_retain() {
    let (kafka, broker) = (Kafka::shared(), Mosquitto::start());
    let mut listener = broker.client();
    listener.subscribe("kafka/#", 2);
    for qos in [0, 1, 2] {
        let topic = kafka.topic("states");
        kafka.create_topic(&topic, 2, &[]);
        let millrace = factory(kafka, &broker.url(), &topic, qos).with("retain", "true").start(SINK);
        millrace.wait_running("apps");
        kafka.produce(&topic, [("k", &b"{\"state\": 1}"[..])]);
        let message = listener.take(1).remove(0);
        assert_eq!((message.topic.as_str(), message.text().as_str()), (format!("kafka/{topic}/k").as_str(), "{\"state\": 1}"));
        assert_eq!(message.qos, qos);
    }
    let mut late = broker.client();
    late.subscribe("kafka/#", 0);
    assert!(late.take(3).iter().all(|message| message.retain));
}

#[test]
fn headers_travel_as_mqtt_5_properties() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("states"));
    kafka.create_topic(&topic, 1, &[]);
    let millrace = factory(kafka, &broker.url(), &topic, 1).start(SINK);
    millrace.wait_running("apps");
    let output = scratch("sub").path().join("out");
    std::fs::create_dir_all(output.parent().unwrap()).unwrap();
    let mut listener =
        Process::start("mosquitto_sub", broker.mosquitto_sub(&["-V", "5", "-t", "kafka/#", "-F", "%t %p %P", "-C", "1"]), &output);
    eventually("the listener has subscribed", || broker.log().contains("kafka/#").then_some(()));
    kafka.produce_with_headers(&topic, [("k", Some(&b"{}"[..]), &[("order", "4711")][..])]);
    assert!(listener.wait().success());
    assert!(listener.output().contains("4711"), "{}", listener.output());
}

#[test]
fn nothing_is_missing_after_kills_and_cuts() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("states"));
    kafka.create_topic(&topic, 3, &[]);
    let cable = Cable::to(broker.port());
    let mut listener = broker.client();
    listener.subscribe("kafka/#", 1);
    let mut millrace = factory(kafka, &format!("mqtt://127.0.0.1:{}", cable.port()), &topic, 1).start(SINK);
    let mut missing: BTreeSet<String> = BTreeSet::new();
    let mut sent = 0;
    for round in 0..4 {
        let batch: Vec<(String, String)> = (0..500).map(|i| (format!("k{}", i % 7), (sent + i).to_string())).collect();
        sent += 500;
        missing.extend(batch.iter().map(|(_, value)| value.clone()));
        kafka.produce(&topic, batch.iter().map(|(key, value)| (key.as_str(), value.as_bytes())));
        match round {
            0 => cable.cut(),
            1 => millrace.kill9(),
            2 => cable.half_open(),
            _ => {}
        }
        if round == 1 {
            millrace.restart();
        }
        cable.reset();
        cable.heal();
        listener.take_until("every record is published", |message| {
            missing.remove(&message.text());
            missing.is_empty()
        });
    }
    // Offsets follow the broker's acknowledgements: a restart publishes nothing anew, once all is committed.
    millrace.stop();
    listener.listen(std::time::Duration::from_millis(500));
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_running("apps");
    kafka.produce(&topic, [("k", &b"last"[..])]);
    let after = listener.take_until("the last record", |message| message.text() == "last");
    assert_eq!(after.len(), 1, "published again after a clean stop: {after:?}");
}

#[test]
fn a_record_the_broker_can_never_take_becomes_a_dead_letter() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("states"));
    kafka.create_topic(&topic, 1, &[]);
    let mut listener = broker.client();
    listener.subscribe("kafka/#", 1);
    let millrace = factory(kafka, &broker.url(), &topic, 1).start(SINK);
    millrace.wait_running("apps");
    // A wildcard in the topic of a PUBLISH is malformed (MQTT 5, 3.3.2.1).
    kafka.produce(&topic, [("good", &b"1"[..]), ("bad/#", b"2"), ("good", b"3")]);
    let texts: Vec<String> = listener.take(2).iter().map(Message::text).collect();
    assert_eq!(texts, ["1", "3"]);
    let mut follow = kafka.follow(&format!("{topic}.dead"));
    let dead = &follow.count(1)[0];
    assert_eq!(dead.text(), "2");
    assert!(dead.header("__connect.errors.exception.message").is_some(), "{dead:?}");
}
