//! The harness itself: the peers start, answer, die and come back.

use millrace_tests::*;
use serde_json::json;

#[test]
fn kafka_keeps_its_records_over_a_kill() {
    let mut kafka = Kafka::start();
    let topic = kafka.topic("kept");
    kafka.create_topic(&topic, 3, &[("cleanup.policy", "compact")]);
    kafka.produce(&topic, (0..100).map(|_| ("key", &b"value"[..])));
    kafka.kill9();
    kafka.restart();
    let records = kafka.read(&topic);
    assert_eq!(records.len(), 100);
    assert_eq!((records[99].key_text(), records[99].text()), ("key".into(), "value".into()));
    assert!(kafka.topics().contains(&(topic, 3)));
}

#[test]
fn kafka_with_tls_scram_and_acls_lets_only_the_allowed_in() {
    let authority = Authority::new("plant");
    let kafka = Kafka::options().tls(&authority, &authority.leaf("kafka")).user("millrace", "secret").authorizer().start();
    kafka.create_topic("allowed", 1, &[]);
    kafka.create_topic("forbidden", 1, &[]);
    kafka.allow("millrace", &["--operation", "All", "--topic", "allowed"]);
    let try_as = |password: &str, topic: &str| {
        use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
        let producer: BaseProducer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", kafka.secured_brokers())
            .set("security.protocol", "SASL_SSL")
            .set("sasl.mechanism", "SCRAM-SHA-512")
            .set("sasl.username", "millrace")
            .set("sasl.password", password)
            .set("ssl.ca.location", authority.ca().to_str().unwrap())
            .set("message.timeout.ms", "5000")
            .set("log_level", "0")
            .create()
            .unwrap();
        producer.send(BaseRecord::<str, str>::to(topic).payload("x")).unwrap();
        let _ = producer.flush(std::time::Duration::from_secs(20));
    };
    try_as("secret", "allowed");
    try_as("secret", "forbidden");
    try_as("wrong", "allowed");
    assert_eq!(kafka.read("allowed").len(), 1);
    assert_eq!(kafka.read("forbidden").len(), 0);
}

#[test]
fn mosquitto_keeps_a_session_over_a_restart_and_has_every_listener() {
    let authority = Authority::new("plant");
    let mut broker = Mosquitto::options().tls(&authority, &authority.leaf("broker")).user("millrace", "secret").websocket().start();
    let mut subscriber = Client::connect_kept(broker.port(), "kept");
    subscriber.subscribe("a/#", 1);
    drop(subscriber);
    let mut publisher = broker.client();
    for i in 0..500 {
        publisher.publish(&format!("a/{}", i % 7), i.to_string().as_bytes(), 1 + (i % 2) as u8, false);
    }
    publisher.finish();
    // Its data is saved every second, and when it is told to end.
    broker.stop();
    broker.restart();
    let mut subscriber = Client::connect_kept(broker.port(), "kept");
    assert!(subscriber.session_present());
    let mut numbers: Vec<u32> = subscriber.take(500).iter().map(|message| message.text().parse().unwrap()).collect();
    // Order holds per QoS only.
    numbers.sort_unstable();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
    broker.mosquitto_pub(&["-V", "5", "-t", "b", "-m", "x", "-D", "publish", "user-property", "k", "v"]);
}

#[test]
fn edge_nodes_of_both_ecosystems_are_born_and_die() {
    let broker = Mosquitto::start();
    let mut listener = broker.client();
    listener.subscribe("spBv1.0/#", 1);
    for make in [EdgeNode::tahu, EdgeNode::pysparkplug] {
        let mut node = make(&broker, "plant", "press");
        node.birth(json!([{"name": "speed", "type": "Double", "value": 1.5}]));
        node.device_birth(
            "d1",
            json!([{"name": "count", "type": "UInt32", "value": 4_000_000_000u32}, {"name": "t", "type": "Int16", "value": -3}]),
        );
        node.device_data("d1", json!([{"name": "count", "type": "UInt32", "value": 7}]));
        node.device_death("d1");
        node.kill9();
        let topics: Vec<String> = listener.take(5).into_iter().map(|message| message.topic).collect();
        let expected = ["NBIRTH/press", "DBIRTH/press/d1", "DDATA/press/d1", "DDEATH/press/d1", "NDEATH/press"];
        assert_eq!(topics, expected.map(|tail| format!("spBv1.0/plant/{tail}")));
    }
}
