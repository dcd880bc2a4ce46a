//! The write guard: with writes forbidden nothing leaves for the floor. The broker's own log of packets is the witness.

use millrace_tests::*;

#[test]
fn check_refuses_a_publishing_sink_while_writes_are_forbidden_and_names_both_places() {
    let millrace = Factory::at("127.0.0.1:1")
        .prepare("sinks:\n  apps: {type: mqtt, topics: [t], endpoint: 'mqtt://127.0.0.1:1', publish: {topic: 'x/{key}'}}\n");
    let output = millrace.run(&["check", "-c", "factory.yaml"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("writes") && said.contains("apps"), "{said}");
    let run = millrace.run(&["run", "-c", "factory.yaml"]);
    assert!(!run.status.success());
}

#[test]
fn the_environment_cannot_allow_writes() {
    let millrace = Factory::at("127.0.0.1:1")
        .env("MILLRACE_FLOOR_WRITES", "allowed")
        .env("MILLRACE_FLOOR__WRITES", "allowed")
        .prepare("sinks:\n  apps: {type: mqtt, topics: [t], endpoint: 'mqtt://127.0.0.1:1', publish: {topic: 'x/{key}'}}\n");
    assert_eq!(millrace.run(&["check", "-c", "factory.yaml"]).status.code(), Some(1));
}

#[test]
fn a_source_alone_publishes_nothing() {
    let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("documents"));
    let mut millrace = Factory::on(kafka).with("broker", broker.url()).with("topic", &topic).start(
        "
sources:
  cells: {type: mqtt, endpoint: $broker, client_id: witness, subscribe: [{filter: 'a/#', qos: 2, topic: $topic}]}
  passive: {type: mqtt, endpoint: $broker, client_id: witness-passive, host: {id: mill, passive: true},
            subscribe: [{filter: 'spBv1.0/#', payload: sparkplug, topic: $topic, at: '{node}', tag: '{metric}'}]}
",
    );
    millrace.wait_running("cells");
    millrace.wait_running("passive");
    broker.publish("a/1", b"{}", 2, false);
    // Data without a birth: an active host would ask for one.
    broker.publish("spBv1.0/plant/NDATA/press", b"\x08\x01\x18\x05", 0, false);
    kafka.follow(&topic).count(1);
    millrace.stop();
    let log = broker.log();
    assert!(log.contains("witness"), "the witness saw the connection");
    let published: Vec<&str> = log.lines().filter(|line| line.contains("Received PUBLISH from witness")).collect();
    assert!(published.is_empty(), "{published:?}");
}
