//! Documents into a lake: a column for each field, by their schema, and evolving with them.

use crate::lake::{LAKE, SECOND, START, exists, holds, kafka, lake, pair, readers, sample};
use millrace_tests::*;
use serde_json::{Value, json};
use std::time::Duration;

const ORDERS: &str = "
site: acme/detroit
topics:
  $topic: {format: $format, $schema}
sinks:
  orders: {type: lake, topics: [$topic], group: g-$topic, table: '$table', commit_every: 200ms}
";

fn orders(topic: &str, table: &str, format: &str, schema: &str) -> Factory {
    Factory::on(kafka()).with("topic", topic).with("table", table).with("format", format).with("schema", schema)
}

/// Waits until the table has so many documents; all of them, in Kafka's order, and the types of the columns.
fn documents(readers: &mut Script, table: &str, count: usize) -> (Vec<Value>, Value) {
    within(Duration::from_secs(60), &format!("the table holds {count} documents"), || {
        let found = readers.order(json!({"documents": table}));
        let rows = found["rows"].as_array()?.clone();
        assert!(rows.len() <= count, "there are too many: {found}");
        assert_eq!(pair(&found["duckdb"]).0 as usize, rows.len(), "DuckDB counts differently: {found}");
        (rows.len() == count).then(|| (rows, found["types"].clone()))
    })
}

#[test]
fn a_new_field_is_a_new_column_and_a_changed_type_a_dead_letter() {
    let topic = kafka().topic("orders");
    kafka().create_topic(&topic, 1, &[]);
    let folder = scratch("lake");
    let table = folder.path().display().to_string();
    let schema = r#"{"type":"object","required":["id"],"properties":{"id":{"type":"string"},"weight":{"type":"number"},"count":{"type":["integer","null"]}}}"#;
    let mut millrace = orders(&topic, &table, "json", "schema: order.schema.json").file("order.schema.json", schema).start(ORDERS);
    let mut readers = readers();
    eventually("the table is made", || exists(folder.path()).then_some(()));
    let send = |lines: &[&str]| kafka().produce(&topic, lines.iter().map(|line| ("k", line.as_bytes())));
    // 12 is a double where the schema says so.
    send(&[r#"{"id":"A1","weight":12,"count":3}"#, r#"{"id":"A2","weight":0.5}"#]);
    let (rows, types) = documents(&mut readers, &table, 2);
    assert_eq!((&types["id"], &types["weight"], &types["count"]), (&json!("string"), &json!("double"), &json!("int64")), "{types}");
    assert_eq!((&rows[0]["weight"], &rows[0]["count"], &rows[1]["weight"]), (&json!(12.0), &json!(3), &json!(0.5)));
    // The field is new, and a structure stays one.
    send(&[r#"{"id":"A3","line":{"part":"x","items":[1,2]},"urgent":true}"#, r#"{"id":"A4","urgent":false}"#]);
    let (rows, types) = documents(&mut readers, &table, 4);
    assert_eq!((&types["line"], &types["urgent"]), (&json!("string"), &json!("bool")), "{types}");
    assert_eq!((&rows[2]["line"], &rows[2]["urgent"]), (&json!(r#"{"part":"x","items":[1,2]}"#), &json!(true)));
    assert!(rows[0]["urgent"].is_null() && rows[3]["urgent"] == false);
    // A changed type never becomes a text; its neighbours go on.
    send(&[r#"{"id":"A5","urgent":"yes"}"#, r#"{"id":"A6","count":1.5}"#, r#"{"id":"broken"#, r#"{"id":"A7"}"#]);
    let (rows, _) = documents(&mut readers, &table, 5);
    assert_eq!((&rows[4]["id"], &rows[4]["kafka_offset"]), (&json!("A7"), &json!(7)));
    let mut dead = kafka().follow(&format!("{topic}.dead"));
    let letters = dead.count(3);
    let reasons: Vec<String> =
        letters.iter().map(|letter| letter.header("__connect.errors.exception.message").unwrap_or_default()).collect();
    assert!(reasons[0].contains("field `urgent` is a text (\"yes\"), and its column is boolean"), "{reasons:?}");
    assert!(reasons[1].contains("field `count` is 1.5, which is no whole number"), "{reasons:?}");
    assert!(reasons[2].contains("is no JSON"), "{reasons:?}");
    // A restart knows the columns from the table, and a tombstone is a row.
    millrace.restart();
    kafka().produce_with_headers(&topic, [("gone", None, &[][..])]);
    send(&[r#"{"id":"A8","urgent":"no"}"#, r#"{"id":"A9","urgent":true,"more":"x"}"#]);
    let (rows, _) = documents(&mut readers, &table, 7);
    assert_eq!((&rows[5]["kafka_tombstone"], &rows[5]["kafka_key"]), (&json!(true), &json!("gone")));
    assert_eq!(rows[6]["more"], "x");
    let compacted = millrace.run(&["lake", "compact", "--all", "-c", "factory.yaml", "--json"]);
    assert!(compacted.status.success(), "{}", String::from_utf8_lossy(&compacted.stderr));
    let (again, _) = documents(&mut readers, &table, 7);
    assert_eq!(again, rows, "compaction changes no row");
    millrace.stop();
}

#[test]
fn an_avro_record_keeps_its_decimals_times_and_dates() {
    let topic = kafka().topic("orders");
    kafka().create_topic(&topic, 1, &[]);
    let folder = scratch("lake");
    let table = folder.path().display().to_string();
    let schema = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"string"},
        {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}},
        {"name":"huge","type":["null",{"type":"bytes","logicalType":"decimal","precision":40,"scale":0}],"default":null},
        {"name":"due","type":{"type":"long","logicalType":"timestamp-millis"}},
        {"name":"day","type":{"type":"int","logicalType":"date"}}]}"#;
    let factory = orders(&topic, &table, "avro", "schema: order.avsc").file("order.avsc", schema);
    std::fs::create_dir_all(factory.dir().join("in")).expect("a folder can be made");
    let text = format!("{ORDERS}sources:\n  stand: {{type: file, path: '$dir/in/*.ndjson', format: ndjson, topic: $topic}}\n");
    let line = r#"{"id":"A1","price":12345.67,"huge":1234567890123456789012345678901234567890,"due":1795824000123,"day":20785}"#;
    std::fs::write(factory.dir().join("in/a.ndjson"), format!("{line}\n")).expect("a file can be written");
    let mut millrace = factory.start(&text);
    let mut readers = readers();
    eventually("the table is made", || exists(folder.path()).then_some(()));
    let (rows, types) = documents(&mut readers, &table, 1);
    assert_eq!(
        (&types["price"], &types["due"], &types["day"]),
        (&json!("decimal128(12, 2)"), &json!("timestamp[us, tz=UTC]"), &json!("date32[day]"))
    );
    assert_eq!((&rows[0]["price"], &rows[0]["day"]), (&json!("12345.67"), &json!("2026-11-28")), "{rows:?}");
    assert!(rows[0]["due"].as_str().is_some_and(|due| due.starts_with("2026-11-28T00:00:00.123")), "{rows:?}");
    // No column of numbers has 40 digits: the bytes stay, as JSON has them.
    assert_eq!(rows[0]["huge"], r#""A6DJIHXA2/O4rLxfls4/CtI=""#);
    millrace.stop();
}

#[test]
fn the_example_tells_oee_trend_and_quality_of_what_was_sent() {
    let topic = kafka().topic("shift");
    kafka().create_topic(&topic, 1, &[]);
    let folder = scratch("lake");
    let table = folder.path().display().to_string();
    let mut millrace = lake(&topic, &table, "commit_every: 200ms").start(LAKE);
    let mut seq = 0;
    let mut send = |tag: &str, second: i64, value: &str, status: u32| {
        seq += 1;
        let text = sample(&format!("body/press-1/{tag}"), seq, START + second * SECOND, value)
            .replace("\"status\":0", &format!("\"status\":{status}"));
        kafka().produce(&topic, [("k", text.as_bytes())]);
    };
    // An hour of running, half an hour of standing, then nothing is known for half an hour, then half an hour of running.
    for (second, state, status) in [
        (0, "\"running\"", 0),
        (3_600, "\"stopped\"", 0),
        (5_400, "null", 0x8031_0000),
        (7_200, "\"running\"", 0),
        (9_000, "\"stopped\"", 0),
    ] {
        send("state", second, state, status);
    }
    // 1,000 good parts and 250 bad ones; the counter of the good ones began again at 0.
    for (second, parts, scrap) in [(0, 500, 0), (3_000, 1_300, 150), (7_300, 0, 150), (8_000, 200, 250)] {
        send("parts", second, &parts.to_string(), 0);
        send("scrap", second, &scrap.to_string(), 0);
    }
    // A degree an hour; one bad value, which counts nowhere.
    for hour in 0..10 {
        send("temperature", hour * 3_600, &format!("{}.0", 20 + hour), 0);
    }
    send("temperature", 1_000, "900.0", 0x8000_0000);
    let mut readers = readers();
    eventually("the table is made", || exists(folder.path()).then_some(()));
    holds(&mut readers, &json!({"count": table}), 24);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/lake/history.py");
    let output = peers::python(peers::lake()).args([example, &table, "acme/detroit/body/press-1", "2026-11-28", "2026-11-28"]).output();
    let output = output.expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("it answers in JSON");
    let oee = &said["oee"];
    assert_eq!((&oee["seconds"]["running"], &oee["seconds"]["stopped"]), (&json!(5_400.0), &json!(1_800.0)), "{oee}");
    assert_eq!((&oee["good"], &oee["scrap"]), (&json!(1_000), &json!(250)));
    let close = |value: &Value, expected: f64| (value.as_f64().unwrap_or(f64::NAN) - expected).abs() < 1e-9;
    let (availability, performance, quality) = (0.75, 1_250.0 * 2.0 / 5_400.0, 0.8);
    assert!(
        close(&oee["availability"], availability) && close(&oee["performance"], performance) && close(&oee["quality"], quality),
        "{oee}"
    );
    assert!(close(&oee["oee"], availability * performance * quality), "{oee}");
    assert!(close(&said["trend"]["slope_per_hour"], 1.0), "{}", said["trend"]);
    assert_eq!(said["trend"]["hours"].as_array().map(Vec::len), Some(10));
    assert_eq!(
        said["quality"],
        json!([{"day": "2026-11-28", "quality": "bad", "samples": 2}, {"day": "2026-11-28", "quality": "good", "samples": 22}])
    );
    millrace.stop();
}
