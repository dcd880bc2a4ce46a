//! Commands to nodes and methods of a foreign OPC UA server, which counts what is written and called; and nothing of either while writes are forbidden.

use millrace_tests::*;
use serde_json::{Value, json};

const PLANT: &str = "
topics: {$topic: {format: json}, $commands: {format: json}, $replies: {format: json}}
sources:
  plant:
    type: opcua
    endpoint: $endpoint
    namespaces: {t: 'http://millrace.test/plant'}
    topic: $topic
    groups:
      - every: 100ms
        tags:
          temp: t:s=Live.Temp
          setpoint: {node: 't:s=Live.Setpoint', writable: true, read_back: true}
          stuck: {node: 't:s=Live.Stuck', writable: true, read_back: true}
          counter: {node: 't:s=Live.Counter', writable: true}
          load: {node: 't:s=Live.Load', object: 't:s=Live', writable: true}
          reset: {node: 't:s=Live.Reset', object: 't:s=Live', writable: true}
      - {trigger: {tag: counter, edge: change}, record: {topic: $topic}, tags: {serial: 't:s=Live.Temp'}}
    events: [{from: Server, fields: [Message], topic: $topic}]
";

const SINK: &str = "
floor: {writes: allowed}
sinks:
  setpoints:
    source: plant
    topics: [$commands]
    reply: $replies
    allow: {setpoint: {min: 0, max: 300, step: 50, only_if: {temp: 20}}, stuck: {}, counter: {}, load: {}, reset: {}}
";

#[test]
fn a_command_writes_a_node_or_calls_a_method_and_is_answered_with_what_became_of_it() {
    let mut plant = Plant::start(Stack::Asyncua);
    let kafka = Kafka::shared();
    let [topic, commands, replies] = ["values", "commands", "replies"].map(|name| kafka.topic(name));
    kafka.create_topic(&commands, 1, &[]);
    let factory = Factory::on(kafka).with("topic", &topic).with("commands", &commands).with("replies", &replies);
    let millrace = factory.with("endpoint", plant.endpoint()).start(&format!("{PLANT}{SINK}"));
    millrace.wait_running("plant");
    millrace.wait_running("setpoints");
    let has = |records: &[Record], tag: &str, value: Value| {
        records.iter().map(Record::json).any(|one| one["tag"].as_str().is_some_and(|path| below_site(path) == tag) && one["value"] == value)
    };
    let mut values = kafka.follow(&topic);
    values.until("first values", |records| has(records, "setpoint", json!(20.0)) && has(records, "temp", json!(20.0)));
    let mut answers = kafka.follow(&replies);
    let mut asked = 0;
    let mut ask = |tag: &str, value: Value| -> (String, String) {
        asked += 1;
        let command = json!({"id": format!("c{asked}"), "tag": tag, "value": value, "by": "a test"}).to_string();
        kafka.produce(&commands, [(tag, command.as_bytes())]);
        let answer = answers.count(asked)[asked - 1].json();
        assert_eq!(answer["id"], format!("c{asked}"));
        (answer["result"].as_str().unwrap_or_default().to_owned(), answer["reason"].as_str().unwrap_or_default().to_owned())
    };
    let mut check = |tag: &str, value: Value, result: &str, why: &str| {
        let (said, reason) = ask(tag, value.clone());
        assert!(said == result && reason.contains(why), "{tag} {value}: {said}: {reason}");
    };
    check("setpoint", json!(50.5), "done", "");
    values.until("the setpoint", |records| has(records, "setpoint", json!(50.5)));
    check("setpoint", json!(150), "refused", "a step from 50.5 to 150 is larger than 50");
    check("setpoint", json!(301), "refused", "outside 0..300");
    check("setpoint", json!(0.1), "refused", "larger than 50");
    check("setpoint", json!("hot"), "refused", "is no number");
    check("stuck", json!(5), "failed", "still shows 1");
    check("stuck", json!(1.5), "refused", "not exact");
    check("counter", json!(5), "done", "");
    check("temp", json!(5), "refused", "not allowed");
    check("load", json!(["steel", 7]), "done", "");
    check("load", json!(["none", 7]), "failed", "BadInvalidState");
    check("load", json!(["steel", 70_000]), "refused", "argument Amount");
    check("load", json!([7, 7]), "refused", "argument Recipe");
    check("load", json!(["steel"]), "refused", "takes 2 arguments, and the command has 1");
    check("reset", json!([]), "done", "");
    assert_eq!(plant.called(), json!([["steel", 7], ["none", 7], []]));
    // A condition that does not hold any more.
    plant.set("Live.Temp", json!(25.0));
    values.until("another temperature", |records| has(records, "temp", json!(25.0)));
    check("setpoint", json!(60), "refused", "temp must be 20, and is 25");
    let (writes, calls, _) = plant.counts();
    // Setpoint, stuck and counter were written once each; the calls are three of ours and one for the conditions of the events.
    assert_eq!((writes, calls), (3, 4));
    let audit = kafka.read("millrace.audit");
    let of_this = audit.iter().map(Record::json).filter(|line| line["sink"] == "setpoints" && line["by"] == "a test").count();
    assert!(of_this >= 16, "every attempt is in the audit: {of_this}");
}

#[test]
fn while_writes_are_forbidden_nothing_is_written_and_nothing_is_called() {
    let mut plant = Plant::start(Stack::Asyncua);
    let kafka = Kafka::shared();
    let [topic, commands, replies] = ["values", "commands", "replies"].map(|name| kafka.topic(name));
    let factory = Factory::on(kafka).with("topic", &topic).with("commands", &commands).with("replies", &replies);
    let mut millrace =
        factory.with("endpoint", plant.endpoint()).prepare(&format!("{PLANT}{}", SINK.replace("floor: {writes: allowed}", "")));
    let output = millrace.run(&["check", "-c", "factory.yaml"]);
    assert_eq!(output.status.code(), Some(1), "a file with a command sink is refused");
    millrace.write(PLANT);
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_running("plant");
    let mut follow = kafka.follow(&topic);
    plant.set("Live.Counter", json!(1));
    plant.event("door open", 700);
    follow.until("values, a document and an event", |records| {
        let any = |wanted: &dyn Fn(&Value) -> bool| records.iter().map(Record::json).any(|one| wanted(&one));
        any(&|one| one["value"] == 1) && any(&|one| one["serial"].is_number()) && any(&|one| one["Message"] == "door open")
    });
    millrace.stop();
    let (writes, calls, _) = plant.counts();
    assert_eq!((writes, calls), (0, 0));
}
