//! OPC UA servers as they are: few subscriptions, few items, few sessions, short queues, texts and histories that are wrong.

use millrace_tests::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn path(sample: &Value) -> &str {
    below_site(sample["tag"].as_str().expect("a sample has a tag"))
}

fn has(records: &[Record], tag: &str, wanted: impl Fn(&Value) -> bool) -> bool {
    records.iter().map(Record::json).any(|sample| path(&sample) == tag && wanted(&sample))
}

fn start(plant: &Plant, topic: &str, rest: &str) -> Millrace {
    Factory::on(Kafka::shared()).with("topic", topic).with("endpoint", plant.endpoint()).start(&source("plant", rest))
}

fn source(name: &str, rest: &str) -> String {
    format!(
        "topics: {{$topic: {{format: json}}}}\nsources:\n  {name}:\n    type: opcua\n    endpoint: $endpoint\n    \
         namespaces: {{t: 'http://millrace.test/plant'}}\n    topic: $topic\n    report: all\n{rest}"
    )
}

const THREE_GROUPS: &str = "    groups:
      - {every: 200ms, tags: {temp: 't:s=Live.Temp'}}
      - {every: 1s, tags: {load: 't:s=Load.N000000'}}
      - {every: 100ms, sampling: 0s, queue: 5000, tags: {counter: 't:s=Live.Counter'}}
    events: [{from: Server, fields: [Message], topic: $topic}]
";

#[test]
fn groups_share_the_subscriptions_that_a_server_allows_and_a_killed_runtime_goes_on_with_them() {
    let mut plant = Plant::of(Stack::NodeOpcua).subscriptions(2).load(1).start();
    let topic = Kafka::shared().topic("shared");
    let mut millrace = start(&plant, &topic, THREE_GROUPS);
    millrace.wait_running("plant");
    let mut follow = Kafka::shared().follow(&topic);
    let samples =
        |records: &[Record]| -> Vec<Record> { records.iter().filter(|record| record.json()["tag"].is_string()).cloned().collect() };
    follow.until("a value of every group", |records| ["temp", "load", "counter"].iter().all(|tag| has(&samples(records), tag, |_| true)));
    let subscriptions = plant.subscriptions();
    assert_eq!(subscriptions.len(), 2, "{subscriptions:?}");
    plant.event("door open", 700);
    follow.until("an event", |records| records.iter().any(|record| record.json()["Message"] == "door open"));
    plant.begin_count(1, 400);
    follow.until("it counts", |records| has(&samples(records), "counter", |sample| sample["value"] == 100));
    millrace.restart();
    plant.finish();
    let numbers = |records: &[Record]| -> BTreeSet<i64> {
        let counts = samples(records).iter().map(Record::json).filter(|sample| path(sample) == "counter").collect::<Vec<_>>();
        counts.iter().filter_map(|sample| sample["value"].as_i64()).collect()
    };
    follow.until("every number", |records| numbers(records).is_superset(&(1..=400).collect()));
    let now: Vec<u64> = plant.subscriptions().iter().map(|(id, _)| *id).collect();
    assert_eq!(now, subscriptions.iter().map(|(id, _)| *id).collect::<Vec<_>>(), "the same subscriptions are gone on with");
    millrace.drained("plant");
}

#[test]
fn more_items_than_a_subscription_takes_are_spread_over_several_and_gone_on_with() {
    let mut plant = Plant::of(Stack::NodeOpcua).items(1_000).load(2_500).start();
    let topic = Kafka::shared().topic("spread");
    let table: String = (0..2_500).map(|number| format!("n{number},t:s=Load.N{number:06}\n")).collect();
    let factory = Factory::on(Kafka::shared()).with("topic", &topic).with("endpoint", plant.endpoint());
    let text = source("plant", "    groups: [{every: 200ms, tags_from: tags.csv}]\n");
    let mut millrace = factory.file("tags.csv", &format!("name,node\n{table}")).start(&text);
    millrace.wait_running("plant");
    let mut follow = Kafka::shared().follow(&topic);
    let tags = |records: &[Record], value: f64| -> usize {
        let with_value = records.iter().map(Record::json).filter(|sample| sample["value"] == value);
        with_value.map(|sample| path(&sample).to_owned()).collect::<BTreeSet<_>>().len()
    };
    follow.until("every first value", |records| tags(records, 0.0) == 2_500);
    let subscriptions = plant.subscriptions();
    assert_eq!(subscriptions.iter().map(|(_, items)| *items).collect::<Vec<_>>(), [1_000, 1_000, 500]);
    millrace.restart();
    millrace.wait_running("plant");
    plant.load(7.5);
    follow.until("every changed value", |records| tags(records, 7.5) == 2_500);
    assert_eq!(plant.subscriptions(), subscriptions, "the same subscriptions are gone on with");
    millrace.drained("plant");
}

const ONE_TAG: &str = "    groups: [{every: 100ms, tags: {temp: 't:s=Live.Temp'}}]\n";

#[test]
fn sessions_that_nobody_goes_on_with_are_closed() {
    let mut plant = Plant::of(Stack::NodeOpcua).sessions(1).start();
    let topic = Kafka::shared().topic("sessions");
    let two_groups = format!(
        "{}      - {{every: 1s, tags: {{counter: 't:s=Live.Counter'}}}}\n",
        THREE_GROUPS.split("      - {every: 1s").next().unwrap()
    );
    let mut millrace = start(&plant, &topic, &two_groups);
    millrace.wait_running("plant");
    assert_eq!((plant.sessions(), plant.subscriptions().len()), (1, 2));
    millrace.stop();
    assert_eq!(plant.sessions(), 1, "it is kept for whoever starts next");
    // A group is gone: its subscription is not gone on with.
    millrace.write(&source("plant", ONE_TAG));
    relaunch(&mut millrace, "plant");
    eventually("one subscription is left", || (plant.subscriptions().len() == 1).then_some(()));
    millrace.stop();
    // The source has another name: the only session that the server has is closed for it.
    millrace.write(&source("press", &format!("    on_stop: close\n{ONE_TAG}")));
    relaunch(&mut millrace, "press");
    assert_eq!((plant.sessions(), plant.subscriptions().len()), (1, 1));
    millrace.stop();
    assert_eq!(plant.sessions(), 0, "closed, as asked for");
    relaunch(&mut millrace, "press");
    plant.set("Live.Temp", json!(33.5));
    Kafka::shared().follow(&topic).until("values of the new session", |records| has(records, "temp", |sample| sample["value"] == 33.5));
    millrace.drained("press");
}

fn relaunch(millrace: &mut Millrace, source: &str) {
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_running(source);
}

#[test]
fn what_a_servers_queue_dropped_while_nobody_came_is_counted() {
    let mut plant = Plant::start(Stack::NodeOpcua);
    let cable = Cable::to(plant.port());
    let topic = Kafka::shared().topic("dropped");
    let text = source(
        "plant",
        "    keep_alive: 2s\n    groups: [{every: 100ms, sampling: 10ms, queue: 10, tags: {counter: 't:s=Live.Counter'}}]\n",
    );
    let millrace = Factory::on(Kafka::shared()).with("topic", &topic).with("endpoint", plant.endpoint_at(cable.port())).start(&text);
    millrace.wait_running("plant");
    let plan = millrace.run(&["plan", "-c", "factory.yaml"]);
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.contains("a stop of up to 100ms is bridged by the server's queues"), "{plan}");
    let mut follow = Kafka::shared().follow(&topic);
    follow.until("the first value", |records| !records.is_empty());
    cable.refuse();
    cable.cut();
    plant.count(1, 400);
    cable.heal();
    plant.set("Live.Counter", json!(1_000));
    follow.until("the last value", |records| has(records, "counter", |sample| sample["value"] == 1_000));
    millrace.drained("plant");
    let came: BTreeSet<i64> = follow.records().iter().map(Record::json).filter_map(|sample| sample["value"].as_i64()).collect();
    let missing = 400 - came.range(1..=400).count();
    assert!(missing > 100, "the queue is too short for this: {missing} are missing");
    let metrics = millrace.metrics();
    let of = |reason: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with("millrace_lost_total") && line.contains(&format!("reason=\"{reason}\"")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    };
    assert!(of("device_overflow") + of("server_queue") > 50.0, "{missing} are missing:\n{metrics}");
}

#[test]
fn a_text_that_is_not_utf_8_and_a_history_without_end_cost_nothing_else() {
    let mut plant = Plant::start(Stack::Asyncua);
    plant.wrong_text("Bad.Value", "value", "K?chler");
    plant.wrong_text("Bad.Name", "name", "T?r");
    let topic = Kafka::shared().topic("wrong");
    let rest = "    history: {from: last}
    groups:
      - {every: 100ms, tags: {text: 't:s=Bad.Value', done: 't:s=Live.Temp', counter: 't:s=Live.Counter'}}
      - {every: 100ms, mode: poll, tags: {polled: 't:s=Bad.Value', beside: 't:s=Live.Temp'}}
      - {every: 100ms, browse: {from: 't:s=Wrong.Bad.Name', name: 'found/{name}', again: 0s}}
      - {trigger: {tag: done, edge: change}, record: {topic: $topic}, tags: {serial: 't:s=Bad.Value'}}
";
    let mut millrace = start(&plant, &topic, rest);
    millrace.wait_running("plant");
    let mut follow = Kafka::shared().follow(&topic);
    plant.set("Live.Temp", json!(21.5));
    let samples = |records: &[Record]| -> Vec<Value> { records.iter().map(Record::json).filter(|one| one["tag"].is_string()).collect() };
    let tags = ["text", "polled", "beside", "found/T?r", "counter"];
    let records = follow.until("a value of each, and the document", |records| {
        let known: BTreeSet<String> = samples(records).iter().map(|sample| path(sample).to_owned()).collect();
        tags.iter().all(|tag| known.contains(*tag)) && records.iter().any(|record| record.json()["serial"].is_string())
    });
    for tag in ["text", "polled"] {
        let sample = samples(records).into_iter().find(|sample| path(sample) == tag).expect("it was there");
        assert_eq!((&sample["value"], &sample["quality"]), (&json!("K\u{FFFD}chler"), &json!("uncertain")), "{sample}");
    }
    let document = records.iter().map(Record::json).find(|one| one["serial"].is_string()).expect("it was there");
    assert_eq!((&document["serial"], &document["_status"]["serial"]), (&json!("K\u{FFFD}chler"), &json!(0x4000_0000)), "{document}");

    // A gap that the history can't fill.
    millrace.drained("plant");
    millrace.stop();
    plant.drop_sessions();
    plant.endless_history();
    plant.count(1, 20);
    relaunch(&mut millrace, "plant");
    plant.count(21, 30);
    let parts = eventually("it says so", || {
        Some(millrace.connector("plant")["parts"]["history"].to_string()).filter(|why| why.contains("goes on without values"))
    });
    let (_, _, histories) = plant.counts();
    assert!((5..30).contains(&histories), "the server was asked {histories} times: {parts}");
    plant.set("Live.Counter", json!(77));
    follow.until("values go on", |records| samples(records).iter().any(|sample| path(sample) == "counter" && sample["value"] == 77));
}
