//! OPC UA servers of three implementations into Kafka: values and types one by one, and whatever can happen to a server, a cable or the runtime.

use millrace_opcua_sim::{Options, Shop};
use millrace_tests::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One group of `Live`, every value of it, from a server at `$endpoint`.
const LIVE: &str = "
topics: {$topic: {format: json}}
sources:
  plant:
    type: opcua
    endpoint: $endpoint
    namespaces: {t: 'http://millrace.test/plant'}
    topic: $topic
    report: all
    groups:
      - every: 100ms
        sampling: 0s
        queue: 5000
        tags: {counter: 't:s=Live.Counter', temp: 't:s=Live.Temp'}
";

fn start(topic: &str, endpoint: &str, text: &str) -> Millrace {
    let millrace = Factory::on(Kafka::shared()).with("topic", topic).with("endpoint", endpoint).start(text);
    millrace.wait_running("plant");
    millrace
}

/// The first sample of each tag, by its path below the site.
fn firsts(records: &[Record]) -> BTreeMap<String, Value> {
    let mut firsts = BTreeMap::new();
    for sample in records.iter().map(Record::json) {
        firsts.entry(path(&sample)).or_insert(sample);
    }
    firsts
}

fn path(sample: &Value) -> String {
    below_site(sample["tag"].as_str().expect("a sample has a tag")).to_owned()
}

/// Every number a tag has had.
fn numbers(records: &[Record], tag: &str) -> BTreeSet<i64> {
    records.iter().map(Record::json).filter(|sample| path(sample) == tag).filter_map(|sample| sample["value"].as_i64()).collect()
}

fn until(follow: &mut Follow, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let records = follow.until(what, |records| records.iter().map(Record::json).any(|sample| wanted(&sample)));
    records.iter().map(Record::json).rfind(|sample| wanted(sample)).expect("it was there")
}

fn until_number(follow: &mut Follow, tag: &str, number: i64) {
    until(follow, &format!("{tag} is {number}"), |sample| path(sample) == tag && sample["value"] == number);
}

/// From one number to another, none missing.
fn all_of(follow: &mut Follow, from: i64, to: i64) {
    until_number(follow, "counter", to);
    let wanted: BTreeSet<i64> = (from..=to).collect();
    let missing: Vec<i64> = wanted.difference(&numbers(follow.records(), "counter")).copied().collect();
    assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), wanted.len());
}

fn types(stack: Stack) {
    let plant = Plant::start(stack);
    let topic = Kafka::shared().topic("types");
    // A Node.js date has milliseconds.
    let when: i64 = if stack == Stack::NodeOpcua { 1_767_323_045_678_000 } else { 1_767_323_045_678_901 };
    let values = [
        ("Bool", json!(true)),
        ("SByte", json!(-12)),
        ("Byte", json!(250)),
        ("Int16", json!(-1234)),
        ("UInt16", json!(65_000)),
        ("Int32", json!(-123_456)),
        ("UInt32", json!(4_294_967_284u32)),
        ("Int64", json!(-9_007_199_254_740_993i64)),
        ("UInt64", json!(u64::MAX)),
        ("Float", json!(f64::from(0.1f32))),
        ("Double", json!(0.1)),
        ("NaN", json!("NaN")),
        ("Infinity", json!("-Infinity")),
        ("String", json!("Größe \"7\"")),
        ("EmptyString", json!("")),
        ("DateTime", json!(when)),
        ("Bytes", json!({"bytes": "AP8Q"})),
        ("Status", json!(0x80AB_0000u32)),
        ("QualifiedName", json!("2:Name")),
        ("LocalizedText", json!("heiß")),
        ("Doubles", json!([1.5, -2.5, 3.0])),
        ("Bools", json!([true, false, true])),
        ("Int64s", json!([-1, 9_007_199_254_740_993i64])),
        ("Strings", json!(["a", "", "ß"])),
        ("NoDoubles", json!({"of": "double", "items": []})),
        ("Matrix", json!({"items": [1, 2, 3, 4, 5, 6], "dims": [2, 3]})),
        ("Enum", json!(1)),
    ];
    let mut tags: Vec<String> = values.iter().map(|(name, _)| format!("{name}: 't:s=Types.{name}'")).collect();
    tags.extend(["Struct", "Guid", "NodeId", "Null"].map(|name| format!("{name}: 't:s=Types.{name}'")));
    tags.push("Whole: {node: 't:s=Types.Struct', structure: json}".into());
    let text = LIVE.replace("tags: {counter: 't:s=Live.Counter', temp: 't:s=Live.Temp'}", &format!("tags: {{{}}}", tags.join(", ")));
    let millrace = start(&topic, &plant.endpoint(), &text);
    let mut follow = Kafka::shared().follow(&topic);
    let leaves = [
        ("Struct/Serial", json!("P-7")),
        ("Struct/Peak", json!(123.5)),
        ("Struct/Good", json!(true)),
        ("Struct/State", json!(1)),
        ("Struct/Die/Id", json!(9)),
        ("Struct/Die/Temperature", json!(200.25)),
        ("Struct/Zones", json!([1.0, 2.5])),
    ];
    let wanted = values.len() + leaves.len() + 4;
    let samples = firsts(follow.until("every type", |records| firsts(records).len() >= wanted));
    for (name, value) in values.iter().chain(&leaves) {
        let sample = samples.get(*name).unwrap_or_else(|| panic!("{stack:?} has no {name}: {:?}", samples.keys()));
        assert_eq!((&sample["value"], &sample["quality"]), (value, &json!("good")), "{stack:?} {name}: {sample}");
        assert_eq!((&sample["origin"], &sample["status"]), (&json!("initial"), &json!(0)), "{stack:?} {name}: {sample}");
    }
    let text_of = |name: &str| samples[name]["value"].as_str().unwrap_or_default().to_ascii_lowercase();
    assert_eq!(text_of("Guid"), "4a6ff8ba-ed32-4bd5-8e1d-9c2e8c9d4f2a", "{stack:?}");
    assert_eq!(text_of("NodeId"), "ns=2;s=types.bool", "{stack:?}");
    assert_eq!(samples["Null"]["value"], Value::Null, "{stack:?}");
    let whole = &samples["Whole"]["value"]["json"];
    assert_eq!(
        (&whole["Serial"], &whole["Die"]["Id"], &whole["Zones"]),
        (&json!("P-7"), &json!(9), &json!([1.0, 2.5])),
        "{stack:?}: {whole}"
    );
    // The catalog says what each value was, and what an enumeration means.
    let catalog = Kafka::shared().read("millrace.tags");
    let entry = |name: &str| {
        let key = format!("{}/{name}#", millrace.site());
        let found = catalog.iter().rfind(|record| record.value.is_some() && record.key_text().starts_with(&key));
        found.map(Record::json).unwrap_or_else(|| panic!("{stack:?}: the catalog has no {key}"))
    };
    assert_eq!((&entry("Int16")["type"], &entry("UInt64")["type"]), (&json!("Int16"), &json!("UInt64")), "{stack:?}");
    assert_eq!(entry("Enum")["values"]["1"], "Running", "{stack:?}: {}", entry("Enum"));
    millrace.drained("plant");
}

#[test]
fn every_type_of_asyncua_arrives_as_it_is() {
    types(Stack::Asyncua);
}

#[test]
fn a_structure_that_only_a_type_dictionary_describes_has_its_leaves() {
    let plant = Plant::start(Stack::Asyncua);
    let topic = Kafka::shared().topic("dictionary");
    let text = LIVE.replace("counter: 't:s=Live.Counter', temp: 't:s=Live.Temp'", "old: 't:s=Types.Old', counter: 't:s=Live.Counter'");
    let millrace = start(&topic, &plant.endpoint(), &text);
    let wanted =
        [("old/Serial", json!("P-1")), ("old/Zones", json!([1.0, 2.5])), ("old/Die/Id", json!(9)), ("old/Die/Temperature", json!(200.25))];
    let mut follow = Kafka::shared().follow(&topic);
    let samples = firsts(follow.until("every leaf", |records| firsts(records).len() > wanted.len()));
    for (name, value) in wanted {
        assert_eq!(samples.get(name).map(|sample| &sample["value"]), Some(&value), "{name}: {samples:#?}");
    }
    millrace.drained("plant");
}

#[test]
fn every_type_of_node_opcua_arrives_as_it_is() {
    types(Stack::NodeOpcua);
}

#[test]
fn every_type_of_milo_arrives_as_it_is() {
    types(Stack::Milo);
}

#[test]
fn a_bad_value_keeps_its_status_and_a_good_one_follows() {
    for stack in Stack::ALL {
        let mut plant = Plant::start(stack);
        let topic = Kafka::shared().topic("bad");
        let millrace = start(&topic, &plant.endpoint(), LIVE);
        let mut follow = Kafka::shared().follow(&topic);
        until(&mut follow, "the first value", |sample| path(sample) == "temp" && sample["value"] == 20.0);
        plant.fail("Live.Temp", 0x808B_0000);
        let bad = until(&mut follow, "a bad one", |sample| path(sample) == "temp" && sample["quality"] == "bad");
        assert_eq!(bad["status"], json!(0x808B_0000u32), "{stack:?}: {bad}");
        plant.set("Live.Temp", json!(21.5));
        until(&mut follow, "a good one", |sample| path(sample) == "temp" && sample["value"] == 21.5);
        assert!(millrace.drained("plant").received >= 3, "{stack:?}");
    }
}

#[test]
fn a_restarted_server_with_another_namespace_table_is_read_on() {
    for stack in Stack::ALL {
        let mut plant = Plant::start(stack);
        let topic = Kafka::shared().topic("restart");
        let millrace = start(&topic, &plant.endpoint(), LIVE);
        let mut follow = Kafka::shared().follow(&topic);
        plant.set("Live.Counter", json!(1));
        until_number(&mut follow, "counter", 1);
        plant.restart(&["urn:another", "urn:one:more"]);
        millrace.wait_running("plant");
        plant.set("Live.Counter", json!(2));
        until_number(&mut follow, "counter", 2);
        millrace.drained("plant");
    }
}

#[test]
fn a_server_that_forgets_its_sessions_is_read_on() {
    for stack in [Stack::NodeOpcua, Stack::Milo] {
        let mut plant = Plant::start(stack);
        let topic = Kafka::shared().topic("forget");
        let millrace = start(&topic, &plant.endpoint(), LIVE);
        let mut follow = Kafka::shared().follow(&topic);
        for number in 1..=3 {
            plant.set("Live.Counter", json!(number));
            until_number(&mut follow, "counter", number);
            plant.drop_sessions();
        }
        plant.set("Live.Counter", json!(4));
        until_number(&mut follow, "counter", 4);
        millrace.drained("plant");
    }
}

#[test]
fn a_server_down_at_the_start_is_read_when_it_comes() {
    let mut plant = Plant::start(Stack::Asyncua);
    plant.kill9();
    let topic = Kafka::shared().topic("down");
    let millrace = Factory::on(Kafka::shared()).with("topic", &topic).with("endpoint", plant.endpoint()).start(LIVE);
    plant.restart(&[]);
    millrace.wait_running("plant");
    plant.set("Live.Counter", json!(7));
    until_number(&mut Kafka::shared().follow(&topic), "counter", 7);
}

// Milo looks at a variable every ten milliseconds at most, and asyncua forgets a session with its socket: what every value is counted by is node-opcua.

#[test]
fn a_reset_cable_costs_no_value_that_the_server_still_has() {
    for stack in [Stack::NodeOpcua] {
        let mut plant = Plant::start(stack);
        let cable = Cable::to(plant.port());
        let topic = Kafka::shared().topic("reset");
        let millrace = start(&topic, &plant.endpoint_at(cable.port()), LIVE);
        let mut follow = Kafka::shared().follow(&topic);
        until_number(&mut follow, "counter", 0);
        plant.begin_count(1, 600);
        for number in [100, 200, 300] {
            until_number(&mut follow, "counter", number);
            cable.reset();
        }
        plant.finish();
        all_of(&mut follow, 1, 600);
        let ledger = millrace.drained("plant");
        assert_eq!((ledger.dropped_at_intake, ledger.dead_at_intake), (0, 0), "{stack:?}: {ledger:?}");
    }
}

#[test]
fn a_half_open_cable_is_noticed_and_what_the_server_kept_is_fetched() {
    let mut plant = Plant::start(Stack::NodeOpcua);
    let cable = Cable::to(plant.port());
    let topic = Kafka::shared().topic("half-open");
    let text = LIVE.replace("    report: all\n", "    report: all\n    keep_alive: 2s\n");
    let millrace = start(&topic, &plant.endpoint_at(cable.port()), &text);
    let mut follow = Kafka::shared().follow(&topic);
    until_number(&mut follow, "counter", 0);
    let connections = cable.accepted();
    cable.half_open();
    plant.count(1, 200);
    eventually("another connection is tried", || (cable.accepted() > connections).then_some(()));
    cable.heal();
    all_of(&mut follow, 1, 200);
    millrace.drained("plant");
}

#[test]
fn a_killed_runtime_fetches_what_its_dead_process_had_not_acknowledged() {
    let mut plant = Plant::start(Stack::NodeOpcua);
    let topic = Kafka::shared().topic("killed");
    let mut millrace = start(&topic, &plant.endpoint(), LIVE);
    let mut follow = Kafka::shared().follow(&topic);
    until_number(&mut follow, "counter", 0);
    plant.begin_count(1, 600);
    until_number(&mut follow, "counter", 100);
    millrace.restart();
    plant.finish();
    all_of(&mut follow, 1, 600);
    millrace.drained("plant");
}

#[test]
fn a_gap_is_filled_from_the_servers_history_without_repeats() {
    for stack in [Stack::Asyncua, Stack::NodeOpcua] {
        let mut plant = Plant::start(stack);
        let topic = Kafka::shared().topic("history");
        let text = LIVE.replace("    report: all\n", "    report: all\n    history: {from: last}\n");
        let mut millrace = start(&topic, &plant.endpoint(), &text);
        let mut follow = Kafka::shared().follow(&topic);
        plant.count(1, 20);
        until_number(&mut follow, "counter", 20);
        millrace.drained("plant");
        millrace.stop();
        // The history alone can fill the gap.
        plant.drop_sessions();
        plant.count(21, 300);
        millrace.launch();
        millrace.wait_alive();
        millrace.wait_running("plant");
        plant.count(301, 320);
        // Live values come first.
        until_number(&mut follow, "counter", 320);
        follow.until("the gap is filled", |records| numbers(records, "counter").range(1..=320).count() == 320);
        millrace.drained("plant");
        let filled: Vec<Value> = follow
            .records()
            .iter()
            .map(Record::json)
            .filter(|sample| sample["origin"] == "backfill" && path(sample) == "counter")
            .collect();
        let distinct: BTreeSet<i64> = filled.iter().filter_map(|sample| sample["value"].as_i64()).collect();
        assert!((270..=300).contains(&distinct.len()), "{stack:?}: {} values came from the history", distinct.len());
        assert_eq!(filled.len(), distinct.len(), "{stack:?}: the history repeats nothing");
    }
}

#[test]
fn ten_thousand_items_are_subscribed_in_pieces_that_the_server_takes() {
    let mut plant = Plant::of(Stack::Milo).load(10_000).limit(700).start();
    let topic = Kafka::shared().topic("items");
    let text = "
topics: {$topic: {format: json}}
sources:
  plant:
    type: opcua
    endpoint: $endpoint
    topic: $topic
    groups:
      - every: 500ms
        tags_from: tags.csv
";
    let table: String = (0..10_000).map(|number| format!("n{number},nsu={};s=Load.N{number:06}\n", plant::NAMESPACE)).collect();
    let factory = Factory::on(Kafka::shared()).with("topic", &topic).with("endpoint", plant.endpoint());
    let millrace = factory.file("tags.csv", &format!("name,node\n{table}")).start(text);
    millrace.wait_running("plant");
    let mut follow = Kafka::shared().follow(&topic);
    follow.until("every first value", |records| records.len() >= 10_000);
    plant.load(7.5);
    let changed = |records: &[Record]| records.iter().map(Record::json).filter(|sample| sample["value"] == 7.5).count();
    follow.until("every changed value", |records| records.len() >= 20_000 && changed(records) == 10_000);
    let ledger = millrace.drained("plant");
    assert_eq!((ledger.received, ledger.produced), (20_000, 20_000), "{ledger:?}");
}

/// The other tag is read while `late` has no node; then its node comes, and its changes.
fn others_go_on_until_late_comes(plant: &mut Plant, follow: &mut Follow) {
    plant.set("Live.Counter", json!(3));
    until_number(follow, "counter", 3);
    plant.add("Live.Late", 5.5);
    until(follow, "it comes", |sample| path(sample) == "late" && sample["value"] == 5.5);
    plant.set("Live.Late", json!(6.5));
    until(follow, "it changes", |sample| path(sample) == "late" && sample["value"] == 6.5);
}

#[test]
fn a_node_that_is_not_there_is_bad_alone_and_good_once_it_comes() {
    for stack in Stack::ALL {
        let mut plant = Plant::start(stack);
        let topic = Kafka::shared().topic("late");
        let text = LIVE.replace("temp: 't:s=Live.Temp'", "late: 't:s=Live.Late'");
        let millrace = start_without_waiting(&topic, &plant, &text);
        let mut follow = Kafka::shared().follow(&topic);
        let bad = until(&mut follow, "a bad one", |sample| path(sample) == "late" && sample["quality"] == "bad");
        assert_eq!(bad["status"], json!(0x8034_0000u32), "{stack:?}: {bad}");
        others_go_on_until_late_comes(&mut plant, &mut follow);
        millrace.drained("plant");
    }
}

#[test]
fn nodes_that_come_are_found_when_the_server_says_so() {
    for stack in Stack::ALL {
        let mut plant = Plant::start(stack);
        let topic = Kafka::shared().topic("found");
        // No look without an event.
        let browse = "browse: {from: 'Objects/t:Live', again: 0s}";
        let text = LIVE.replace("tags: {counter: 't:s=Live.Counter', temp: 't:s=Live.Temp'}", browse);
        let millrace = start(&topic, &plant.endpoint(), &text);
        let mut follow = Kafka::shared().follow(&topic);
        until_number(&mut follow, "Counter", 0);
        plant.add("Live.Late", 5.5);
        until(&mut follow, "it is found", |sample| path(sample) == "Late" && sample["value"] == 5.5);
        plant.set("Live.Late", json!(6.5));
        until(&mut follow, "it changes", |sample| path(sample) == "Late" && sample["value"] == 6.5);
        millrace.drained("plant");
    }
}

fn start_without_waiting(topic: &str, plant: &Plant, text: &str) -> Millrace {
    Factory::on(Kafka::shared()).with("topic", topic).with("endpoint", plant.endpoint()).start(text)
}

#[test]
fn events_become_documents_with_the_fields_asked_for() {
    for stack in Stack::ALL {
        let mut plant = Plant::start(stack);
        let (topic, events) = (Kafka::shared().topic("values"), Kafka::shared().topic("events"));
        let text = format!(
            "{}    events: [{{from: Server, where: 'severity >= 500', fields: [Time, SourceName, Message, Severity], topic: $events, key: '{{SourceName}}'}}]\n",
            LIVE.replace("topics: {", "topics: {$events: {format: json}, ")
        );
        let factory = Factory::on(Kafka::shared()).with("topic", &topic).with("events", &events).with("endpoint", plant.endpoint());
        let millrace = factory.start(&text);
        millrace.wait_running("plant");
        until_number(&mut Kafka::shared().follow(&topic), "counter", 0);
        plant.event("a small one", 100);
        plant.event("door open", 700);
        let mut follow = Kafka::shared().follow(&events);
        let document = until(&mut follow, "the event", |document| document["Message"] == "door open");
        assert_eq!((&document["Severity"], &document["SourceName"]), (&json!(700), &json!("Plant")), "{stack:?}: {document}");
        assert_eq!(follow.records()[0].key_text(), "Plant");
        assert!(follow.records().iter().all(|record| record.json()["Message"] != "a small one"), "{stack:?}");
    }
}

#[test]
fn a_notifier_that_is_not_there_is_degraded_alone_and_heard_once_it_comes() {
    let mut plant = Plant::start(Stack::Asyncua);
    let (topic, events) = (Kafka::shared().topic("values"), Kafka::shared().topic("events"));
    let watched = |from: &str| format!("{{from: {from}, fields: [Message], topic: $events}}");
    let text = format!(
        "{}    events: [{}, {}]\n",
        LIVE.replace("topics: {", "topics: {$events: {format: json}, "),
        watched("Server"),
        watched("'t:s=Live.Cell'")
    );
    let factory = Factory::on(Kafka::shared()).with("topic", &topic).with("events", &events).with("endpoint", plant.endpoint());
    let millrace = factory.start(&text);
    let parts =
        eventually("a notifier is reported", || Some(millrace.connector("plant")["parts"].clone()).filter(|parts| parts.is_object()));
    assert_eq!(parts.as_object().map(|parts| parts.len()), Some(1), "the other notifier is well: {parts}");
    assert!(parts["events 2"].as_str().is_some_and(|why| why.contains("events of t:s=Live.Cell: ")), "{parts}");
    let mut follow = Kafka::shared().follow(&events);
    plant.event("of the server", 500);
    until(&mut follow, "an event of the one that is there", |document| document["Message"] == "of the server");
    plant.add_notifier("Live.Cell");
    millrace.wait_running("plant");
    plant.event_from("Live.Cell", "of the cell");
    until(&mut follow, "an event of the one that came", |document| document["Message"] == "of the cell");
    millrace.drained("plant");
}

#[test]
fn a_node_that_is_not_there_is_tried_again_by_a_process_that_goes_on_with_the_subscription() {
    let mut plant = Plant::start(Stack::NodeOpcua);
    let topic = Kafka::shared().topic("late");
    let text = LIVE.replace("temp: 't:s=Live.Temp'", "late: 't:s=Live.Late'");
    let mut millrace = start_without_waiting(&topic, &plant, &text);
    let mut follow = Kafka::shared().follow(&topic);
    until(&mut follow, "a bad one", |sample| path(sample) == "late" && sample["quality"] == "bad");
    millrace.restart();
    others_go_on_until_late_comes(&mut plant, &mut follow);
    millrace.drained("plant");
}

const SHOP: &str = "
topics: {$topic: {format: json}}
sources:
  plant:
    type: opcua
    endpoint: $endpoint
    namespaces: {p: 'http://millrace.example/press-shop'}
    topic: $topic
    keep_alive: 2s
    stale_after: 3s
    groups:
      - every: 100ms
        tags: {temp: 'p:s=Press1.Temp', force: 'p:s=Press1.Force', state: 'p:s=Press1.State', part: 'p:s=Press1.LastPart'}
";

#[test]
fn a_channel_whose_token_lives_two_seconds_is_renewed_without_a_gap() {
    let shop = Shop::start(Options { token_lifetime: Duration::from_secs(2), ..Options::default() }).expect("the shop opens");
    let cable = Cable::to(shop.port());
    let topic = Kafka::shared().topic("token");
    let millrace = start(&topic, &format!("opc.tcp://127.0.0.1:{}", cable.port()), SHOP);
    let mut follow = Kafka::shared().follow(&topic);
    let connections = cable.accepted();
    follow.until("values over several tokens", |records| records.iter().filter(|record| path(&record.json()) == "temp").count() >= 80);
    assert_eq!(cable.accepted(), connections, "the connection is the first one");
    assert!(follow.records().iter().all(|record| record.json()["quality"] == "good"));
    millrace.drained("plant");
}

#[test]
fn a_press_that_breaks_down_has_a_bad_force_and_a_restarted_shop_is_read_on() {
    let shop = Shop::start(Options::default()).expect("the shop opens");
    let topic = Kafka::shared().topic("shop");
    let millrace = start(&topic, &shop.endpoint(), SHOP);
    let mut follow = Kafka::shared().follow(&topic);
    until(&mut follow, "a part", |sample| {
        path(sample) == "part/Serial" && sample["value"].as_str().is_some_and(|serial| serial.starts_with("P1-"))
    });
    shop.breakdown(1).expect("the press breaks down");
    let bad = until(&mut follow, "a bad force", |sample| path(sample) == "force" && sample["quality"] == "bad");
    assert_eq!(bad["status"], json!(0x808B_0000u32), "BadDeviceFailure: {bad}");
    until(&mut follow, "the state", |sample| path(sample) == "state" && sample["value"] == 3);
    shop.repair(1).expect("the press is repaired");
    until(&mut follow, "a good force", |sample| {
        path(sample) == "force" && sample["quality"] == "good" && sample["time"].as_i64() > bad["time"].as_i64()
    });
    shop.restart(&["urn:in:front"]).expect("the shop opens again");
    let reopened = follow.records().len();
    follow.until("values of the new server", |records| {
        records[reopened..].iter().map(Record::json).filter(|sample| path(sample) == "temp" && sample["quality"] == "good").count() > 5
    });
    shop.freeze().expect("the shop stands still");
    until(&mut follow, "nothing vouches for it", |sample| path(sample) == "temp" && sample["status"] == json!(0x8031_0000u32));
    shop.thaw();
    let thawed = follow.records().len();
    follow.until("values again", |records| {
        records[thawed..].iter().map(Record::json).any(|sample| path(&sample) == "temp" && sample["quality"] == "good")
    });
    millrace.drained("plant");
}
