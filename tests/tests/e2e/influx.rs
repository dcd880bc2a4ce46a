//! Kafka into a server of the line protocol: each sample once though it comes twice, and what it can't hold in the dead letters.

use crate::lake::{SECOND, START, kafka, sample, send, topic};
use millrace_tests::*;
use serde_json::json;
use std::time::Duration;

const FACTORY: &str = "
site: acme/detroit
topics:
  $topic: {format: json, schema: telemetry}
sinks:
  history:
    type: influx
    topics: [$topic]
    group: g-$topic
    endpoint: 'http://127.0.0.1:$port'
    flush_every: 100ms
";

#[test]
fn samples_in_questdb_are_there_once_and_as_they_were() {
    let database = QuestDb::start();
    let table = "CREATE TABLE telemetry (tag SYMBOL, nth SYMBOL, timestamp TIMESTAMP) TIMESTAMP(timestamp) PARTITION BY DAY WAL \
                 DEDUP UPSERT KEYS(timestamp, tag, nth)";
    database.ask(table).expect("a table can be made");
    let topic = topic(3);
    let mut millrace = Factory::on(kafka()).with("topic", &topic).with("port", database.port()).start(FACTORY);
    // All of it comes twice, as after a crash.
    let sent = 2_000;
    send(&topic, 0, sent);
    send(&topic, 0, sent);
    // Each type, and what has a meaning of its own in a line.
    let time = |n: i64| START - n * SECOND;
    let odd = [
        sample("odd/a, b=c\\\\d\\\\", 1_000_000, time(1), r#""two\nlines \\ \"quoted\"""#),
        sample("odd/long", 1_000_001, time(2), "-9223372036854775807"),
        sample("odd/bool", 1_000_002, time(3), "true"),
        sample("odd/null", 1_000_003, time(4), "null"),
        sample("odd/large", 1_000_004, time(5), "18446744073709551615"),
        sample("odd/nan", 1_000_005, time(6), r#""NaN""#),
        sample("odd/early", 1_000_006, -1_000_000, "1.5"),
        sample("odd/same", 1_000_007, time(7), "1.5"),
        sample("odd/same", 1_000_008, time(7), "2.5"),
    ];
    kafka().produce(&topic, odd.iter().map(|text| ("k", text.as_bytes())));
    let count = |sql: &str| database.ask(sql).ok()?.first()?.first()?.as_i64();
    within(Duration::from_secs(120), "every sample is there", || {
        let rows = count("SELECT count() FROM telemetry")?;
        assert!(rows <= sent + 6, "{rows} rows of {}", sent + 6);
        (rows == sent + 6).then_some(())
    });
    let sum = database.ask("SELECT sum(value_double) FROM telemetry WHERE tag LIKE '%/force'").expect("it answers");
    assert_eq!(sum[0][0].as_f64(), Some((0..sent).map(|n| n as f64 + 0.5).sum()));
    let said = database.ask("SELECT tag, value_text, value_long, value_bool, quality FROM telemetry WHERE tag LIKE '%odd/%' AND NOT tag LIKE '%same' ORDER BY timestamp DESC");
    let expected = json!([
        ["acme/detroit/odd/a, b=c\\d\\", "two\nlines \\ \"quoted\"", null, false, "good"],
        ["acme/detroit/odd/long", null, -9_223_372_036_854_775_807_i64, false, "good"],
        ["acme/detroit/odd/bool", null, null, true, "good"],
        ["acme/detroit/odd/null", null, null, false, "good"],
    ]);
    assert_eq!(json!(said.expect("it answers")), expected);
    let same = database.ask("SELECT nth, value_double FROM telemetry WHERE tag LIKE '%/same' ORDER BY value_double").expect("it answers");
    assert_eq!(json!(same), json!([[null, 1.5], ["2", 2.5]]));
    let mut dead = kafka().follow(&format!("{topic}.dead"));
    let mut reasons: Vec<String> =
        dead.count(3).iter().map(|letter| letter.header("__connect.errors.exception.message").unwrap_or_default().to_owned()).collect();
    reasons.sort();
    assert!(reasons[0].contains("18446744073709551615") && reasons[1].contains("NaN"), "{reasons:?}");
    assert!(reasons[2].contains("before 1970"), "{reasons:?}");
    millrace.stop();
}
