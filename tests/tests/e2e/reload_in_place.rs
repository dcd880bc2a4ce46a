//! A reload that changes a group of a source: its connection, its session and its other groups go on as if nothing were.

use millrace_tests::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn reload(millrace: &Millrace, args: &[&str]) -> String {
    let output = millrace.run(&[&["reload", "-c", "factory.yaml"], args].concat());
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

fn samples<'r>(records: &'r [Record], tag: &'r str) -> impl Iterator<Item = Value> + 'r {
    records.iter().map(Record::json).filter(move |sample| below_site(sample["tag"].as_str().unwrap_or_default()) == tag)
}

fn until(follow: &mut Follow, tag: &str, wanted: impl Fn(&Value) -> bool) {
    follow.until(tag, |records| samples(records, tag).any(|sample| wanted(&sample)));
}

/// The group that changes comes first: what the server calls the items behind it must not change with it.
const SUBSCRIBED: &str = "
topics: {$topic: {format: json}}
sources:
  plant:
    type: opcua
    endpoint: $endpoint
    namespaces: {t: 'http://millrace.test/plant'}
    topic: $topic
    report: all
    groups:
      - {every: 100ms, tags: {temp: 't:s=Live.Temp'$more}}
      - {every: 50ms, sampling: 0s, queue: 5000, tags: {counter: 't:s=Live.Counter'}}
";

#[test]
fn a_tag_that_is_added_to_one_group_leaves_the_session_and_the_subscription_of_another_as_they_are() {
    let mut plant = Plant::start(Stack::NodeOpcua);
    let (cable, topic) = (Cable::to(plant.port()), Kafka::shared().topic("in-place"));
    let factory = Factory::on(Kafka::shared()).with("topic", &topic).with("endpoint", plant.endpoint_at(cable.port()));
    let millrace = factory.start(&SUBSCRIBED.replace("$more", ""));
    millrace.wait_running("plant");
    let mut follow = Kafka::shared().follow(&topic);
    until(&mut follow, "counter", |sample| sample["value"] == 0);
    until(&mut follow, "temp", |sample| sample["quality"] == "good");
    let (connections, subscriptions) = (cable.accepted(), plant.subscriptions());
    assert_eq!((plant.sessions(), subscriptions.len()), (1, 2));

    plant.begin_count(1, 1_000);
    until(&mut follow, "counter", |sample| sample["value"] == 50);
    millrace.write(&SUBSCRIBED.replace("$more", ", flag: 't:s=Types.Bool'"));
    let said = reload(&millrace, &["--dry-run"]);
    assert!(said.contains("source plant: in place: group 1"), "{said}");
    let began = Instant::now();
    let said = reload(&millrace, &[]);
    assert!(said.contains("source plant: in place: group 1"), "{said}");
    until(&mut follow, "flag", |sample| sample["value"] == true);
    eprintln!("the new tag's value came {:?} after the reload began", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    plant.finish();
    until(&mut follow, "counter", |sample| sample["value"] == 1_000);

    let numbers: Vec<i64> = samples(follow.records(), "counter").filter_map(|sample| sample["value"].as_i64()).collect();
    assert_eq!(numbers, (0..=1_000).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(samples(follow.records(), "counter").filter(|sample| sample["quality"] != "good").count(), 0);
    assert_eq!((plant.sessions(), cable.accepted()), (1, connections), "the session and its connection are those of before");
    let ids = |of: &[(u64, u64)]| of.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>();
    let (before, after) = (ids(&subscriptions), ids(&plant.subscriptions()));
    assert_eq!(
        (after.len(), before.intersection(&after).count()),
        (2, 1),
        "{before:?} {after:?}: one subscription was made anew, one was not"
    );
    let report = millrace.connector("plant");
    assert_eq!((&report["sessions"], &report["ledger"]["lost"]), (&1.into(), &Value::Object(Default::default())), "{report}");

    // What is gone from the file is gone from the server's subscription and from the tags, and a change of the endpoint is a restart.
    millrace.write(&SUBSCRIBED.replace("$more", ""));
    assert!(reload(&millrace, &[]).contains("in place: group 1"));
    eventually("the tag is gone", || {
        let tags = String::from_utf8_lossy(&millrace.run(&["tags", "-c", "factory.yaml"]).stdout).into_owned();
        (tags.contains("temp") && !tags.contains("flag")).then_some(())
    });
    millrace.write(&SUBSCRIBED.replace("$more", "").replace("topic: $topic\n", "topic: $topic\n    keep_alive: 7s\n"));
    let said = reload(&millrace, &["--dry-run"]);
    assert!(said.contains("source plant: restart: `keep_alive` changes"), "{said}");
}

const POLLED: &str = "
topics: {$topic: {format: json}}
sources:
  press:
    type: modbus
    endpoint: tcp://127.0.0.1:$modbus
    unit_id: 1
    at: press
    topic: $topic
    report: all
    groups:
      - {every: 50ms, tags: {count: holding:0}}
      - {every: 100ms, tags: {speed: holding:1$press}}
  oven:
    type: s7
    endpoint: 127.0.0.1:$s7
    at: oven
    topic: $topic
    report: all
    groups:
      - {every: 50ms, tags: {count: DB2.DBW0}}
      - {every: 100ms, tags: {speed: DB2.DBW2$oven}}
";

#[test]
fn a_tag_that_is_added_to_a_polled_group_is_read_on_the_connection_that_is_there() {
    let (mut press, mut oven) = (Pymodbus::tcp(), Snap7::start());
    press.set(1, "holding", 0, &[7, 8, 9]);
    oven.set(4, "int", 9);
    let (press_cable, oven_cable) = (Cable::to(press.port()), Cable::to(oven.port()));
    let topic = Kafka::shared().topic("in-place");
    let factory = Factory::on(Kafka::shared()).with("topic", &topic).with("modbus", press_cable.port()).with("s7", oven_cable.port());
    let text = |press: &str, oven: &str| POLLED.replace("$press", press).replace("$oven", oven);
    let millrace = factory.start(&text("", ""));
    let mut follow = Kafka::shared().follow(&topic);
    for source in ["press", "oven"] {
        millrace.wait_running(source);
        until(&mut follow, &format!("{source}/count"), |sample| sample["quality"] == "good");
    }
    millrace.write(&text(", more: holding:2", ", more: DB2.DBW4"));
    let began = Instant::now();
    let said = reload(&millrace, &[]);
    for source in ["press", "oven"] {
        assert!(said.contains(&format!("source {source}: in place: group 2")), "{said}");
        until(&mut follow, &format!("{source}/more"), |sample| sample["value"] == 9);
        eprintln!("the new tag of {source} came {:?} after the reload began", began.elapsed());
    }
    let seen = follow.records().len();
    follow.until("both are read on", |records| ["press/count", "oven/count"].iter().all(|tag| samples(&records[seen..], tag).count() > 10));
    for (source, cable) in [("press", &press_cable), ("oven", &oven_cable)] {
        assert_eq!(cable.accepted(), 1, "{source} was read over one connection all the time");
        assert_eq!(samples(follow.records(), &format!("{source}/count")).filter(|sample| sample["quality"] != "good").count(), 0);
        let report = millrace.connector(source);
        assert_eq!(report["sessions"], 1, "{report}");
        millrace.ledger(source).adds_up();
    }

    // A tag with another address is another tag of the same name.
    press.set(1, "holding", 5, &[55]);
    millrace.write(&text(", more: holding:5", ""));
    reload(&millrace, &[]);
    until(&mut follow, "press/more", |sample| sample["value"] == 55);
    assert_eq!((press_cable.accepted(), oven_cable.accepted()), (1, 1));
}
