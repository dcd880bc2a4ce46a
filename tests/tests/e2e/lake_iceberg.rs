//! Kafka into Iceberg tables, by Apache's own REST catalog: pyiceberg and DuckDB count and compare, after kills, a catalog that loses answers, and
//! other writers.

use crate::lake::{SECOND, START, blocked, kafka, kill, kills, pair, sample, send, topic};
use millrace_tests::*;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const LAKE: &str = "
site: acme/detroit
levels: [area, machine]
topics:
  $topic: {format: json, $schema}
sinks:
  history: {type: lake, format: iceberg, topics: [$topic], group: g-$topic, table: $table, catalog: {uri: '$uri'}, $keys}
";

/// The catalog and its readers, in a folder; where it is reached through the proxy that hurts, and where without.
pub fn catalog(folder: &Path) -> (Script, String, String) {
    let mut command = peers::python(peers::iceberg_readers());
    command.arg(peers::scripts().join("iceberg.py")).arg(peers::iceberg()).arg(folder);
    let catalog = Script::start("the catalog", command, "ready");
    let said = catalog.said().into_iter().find(|line| line["ready"] == true).expect("it says where it is");
    let address = |key: &str| said[key].as_str().expect("an address").to_owned();
    let (uri, direct) = (address("uri"), address("direct"));
    (catalog, uri, direct)
}

fn lake(topic: &str, uri: &str, table: &str, keys: &str) -> Factory {
    Factory::on(kafka()).with("topic", topic).with("uri", uri).with("table", table).with("keys", keys).with("schema", "schema: telemetry")
}

/// Waits until the table has so many rows, all with identities of their own, in the eyes of each reader, and by its own count.
fn holds(catalog: &mut Script, table: &str, count: i64) -> Value {
    within(Duration::from_secs(180), &format!("the table holds {count} rows"), || {
        let found = catalog.order(json!({"count": table}));
        let (rows, distinct) = pair(&found["pyiceberg"]);
        assert_eq!(rows, distinct, "rows are there twice: {found}");
        assert!(rows <= count, "there are rows too many: {found}");
        (rows == count).then(|| {
            assert_eq!(pair(&found["duckdb"]), (count, count), "DuckDB counts differently: {found}");
            assert_eq!((&found["counted"], &found["said"]), (&json!(count), &json!(count)), "the metadata count differently: {found}");
            found
        })
    })
}

#[test]
fn a_catalog_that_loses_answers_and_a_writer_that_is_killed_leave_each_row_once_in_iceberg() {
    let folder = scratch("iceberg");
    let (mut catalog, uri, _) = catalog(folder.path());
    let topic = topic(3);
    let keys = "partition_by: [date, area], commit_every: 200ms";
    let mut millrace = lake(&topic, &uri, "plant.history", keys).prepare(LAKE);
    let seed = fastrand::u32(..);
    catalog.order(json!({"faults": {"seed": seed, "error": 0.1, "lost": 0.15, "slow": 0.02}}));
    let mut sent = kill(&mut millrace, &topic, kills(), seed.into());
    millrace.launch();
    let hurt = within(Duration::from_secs(120), "the catalog hurt often enough", || {
        send(&topic, sent, 100);
        sent += 100;
        std::thread::sleep(Duration::from_millis(300));
        let hurt = catalog.order(json!({}))["hurt"].as_i64().unwrap_or(0);
        (hurt >= 10).then_some(hurt)
    });
    catalog.order(json!({"faults": {}}));
    let found = holds(&mut catalog, "plant.history", sent);
    println!("{hurt} requests were hurt; {found}");
    let layout = catalog.order(json!({"layout": "plant.history"}));
    assert_eq!((&layout["spec"], &layout["sort"]), (&json!(["day(time)", "identity(area)"]), &json!(["tag", "time"])), "{layout}");
    for file in layout["files"].as_array().expect("files") {
        assert_eq!(file["partition"], json!({"time_day": "2026-11-28", "area": "body"}), "{file}");
        let tag = &file["metrics"]["tag"];
        assert!(tag["lower_bound"].as_str().is_some_and(|least| least.starts_with("acme/detroit/body/press-")), "{file}");
        assert_eq!((&tag["null_value_count"], &file["metrics"]["value_long"]["null_value_count"]), (&json!(0), &file["rows"]), "{file}");
        assert!(file["metrics"]["time"]["upper_bound"].as_str().is_some_and(|time| time.starts_with("2026-11-28T")), "{file}");
    }
    // Where it goes on stands in the snapshot and in the table: one of them dies with its snapshot.
    let position =
        |of: &Value| of.as_object().map_or(0, |all| all.keys().filter(|key| key.starts_with("millrace/") && key.contains(&topic)).count());
    assert_eq!(position(&layout["properties"]), 3, "{layout}");
    assert!(position(&layout["summary"]) >= 1, "{layout}");
    millrace.stop();
}

#[test]
fn iceberg_readers_see_every_value_as_the_type_it_is_and_it_is_asked_for_its_history() {
    let folder = scratch("iceberg");
    let (mut catalog, _, uri) = catalog(folder.path());
    let topic = topic(1);
    let values: [(&str, &str, Value); 15] = [
        ("1.5", "value_double", json!(1.5)),
        (r#""NaN""#, "value_double", json!("NaN")),
        ("-9223372036854775808", "value_long", json!(i64::MIN)),
        ("18446744073709551615", "value_uint", json!("18446744073709551615")),
        ("true", "value_bool", json!(true)),
        (r#""red \u00e4""#, "value_text", json!("red ä")),
        (r#"{"bytes":"AAEC/w=="}"#, "value_bytes", json!("000102ff")),
        (r#"{"json":{"a":[1,null]}}"#, "value_json", json!(r#"{"a":[1,null]}"#)),
        ("[1,2,3]", "values_long", json!([1, 2, 3])),
        ("[1.5,2.0]", "values_double", json!([1.5, 2.0])),
        ("[true,false]", "values_bool", json!([true, false])),
        (r#"["a","b"]"#, "values_text", json!(["a", "b"])),
        ("[18446744073709551615]", "values_uint", json!(["18446744073709551615"])),
        (r#"{"of":"bytes","items":["AA=="]}"#, "values_bytes", json!(["00"])),
        (r#"{"items":[1,2,3,4],"dims":[2,2]}"#, "dims", json!([2, 2])),
    ];
    let mut records: Vec<String> =
        values.iter().enumerate().map(|(n, (value, ..))| sample("body/types/all", n as i64, START + n as i64, value)).collect();
    records.extend((0..1_000).map(|n| sample("body/press-1/force", 100 + n, START - 86_400 * SECOND + n * SECOND, &format!("{n}.5"))));
    kafka().produce(&topic, records.iter().map(|record| ("k", record.as_bytes())));
    let mut millrace = lake(&topic, &uri, "plant.typed", "commit_every: 200ms").start(LAKE);
    holds(&mut catalog, "plant.typed", 1_015);
    let found = catalog.order(json!({"rows": "plant.typed", "tag": "acme/detroit/body/types/all"}));
    for (row, (value, column, expected)) in found["rows"].as_array().expect("rows").iter().zip(&values) {
        assert_eq!(&row[*column], expected, "{value}: {row}");
    }
    let types = &found["types"];
    for (column, expected) in [
        ("time", "timestamptz"),
        ("value_uint", "decimal(20, 0)"),
        ("value_long", "long"),
        ("value_double", "double"),
        ("values_text", "list<string>"),
        ("def", "int"),
    ] {
        assert_eq!(types[column], expected, "{types}");
    }
    assert!(types["date"].is_null(), "the day is hidden: {types}");
    // Asked by us: from the same catalog.
    let ask = [
        "query",
        "-c",
        "factory.yaml",
        "--from",
        "2026-11-27",
        "--to",
        "2026-11-28",
        "--as",
        "average",
        "--every",
        "24h",
        "--json",
        "body/press-1/force",
    ];
    let output = millrace.run(&ask);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&said["tags"][0]["rows"][0]["count"], &said["tags"][0]["rows"][0]["max"]), (&json!(1_000), &json!(999.5)), "{said}");
    millrace.stop();
}

/// What `millrace lake ..` says, and whether it says that all is well.
fn tend(millrace: &Millrace, words: &[&str]) -> (Value, bool) {
    let output = millrace.run(&[&["lake"], words, &["-c", "factory.yaml", "--json"]].concat());
    let said = serde_json::from_slice(&output.stdout);
    (said.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr))), output.status.success())
}

fn parquet_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let of = |path: std::path::PathBuf| if path.is_dir() { parquet_files(&path) } else { vec![path] };
    entries.flat_map(of).filter(|path| path.extension().is_some_and(|kind| kind == "parquet")).collect()
}

#[test]
fn small_files_of_an_iceberg_table_become_large_ones_beside_its_sink_and_old_snapshots_go() {
    let folder = scratch("iceberg");
    let (mut catalog, _, uri) = catalog(folder.path());
    let (topic, table) = (topic(2), "plant.tended");
    let (clock, factory) = Clock::of(lake(&topic, &uri, table, "partition_by: [date, area], commit_every: 100ms"));
    let mut millrace = factory.start(LAKE);
    for round in 1..=6 {
        send(&topic, (round - 1) * 500, 500);
        holds(&mut catalog, table, round * 500);
    }
    // Another program's rows, in files of its own: two of them in one day.
    catalog.order(json!({"append": table, "commits": 3}));
    let before = holds(&mut catalog, table, 3_003);
    catalog.order(json!({"label": table, "name": "before"}));
    let rows = catalog.order(json!({"digest": table}));
    // While rows come in.
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for batch in 0..60 {
                send(&topic, 3_000 + batch * 50, 50);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let mut merged = 0;
        while !writing.is_finished() {
            let (said, is_well) = tend(&millrace, &["compact"]);
            assert!(is_well && said["left"] == json!([]), "{said}");
            merged += said["before"].as_u64().unwrap_or(0);
        }
        assert!(merged > 12, "only {merged} files were merged");
        writing.join().expect("all is sent");
    });
    holds(&mut catalog, table, 6_003);
    millrace.stop();
    let all = catalog.order(json!({"digest": table}));
    let (last, _) = tend(&millrace, &["compact"]);
    let found = holds(&mut catalog, table, 6_003);
    assert_eq!(catalog.order(json!({"digest": table})), all, "the rows are others than before {last}");
    assert_eq!(all["sorted"], true, "{all}");
    let files = |of: &Value| of["files"].as_u64().unwrap_or(0);
    assert!(files(&found) <= 2 && files(&before) > 8, "{found}, {before}");
    let (checked, is_well) = tend(&millrace, &["check"]);
    assert!(is_well && checked["rows"] == 6_003 && checked["missing"] == json!([]), "{checked}");

    // Nothing is old enough; a week later only the newest snapshot is left, and that which has a name.
    let (young, _) = tend(&millrace, &["vacuum", "--yes"]);
    assert_eq!((&young["files"], &young["snapshots"]), (&json!(0), &json!(0)), "{young}");
    clock.put(8 * 86_400);
    let (dry, _) = tend(&millrace, &["vacuum"]);
    let (gone, _) = tend(&millrace, &["vacuum", "--yes"]);
    assert_eq!(dry, gone, "it does what it said");
    assert!(gone["snapshots"].as_u64() > Some(10) && gone["files"].as_u64() > Some(10), "{gone}");
    let left = holds(&mut catalog, table, 6_003);
    assert_eq!(left["snapshots"], 2, "{left}");
    assert_eq!(catalog.order(json!({"digest": table}))["digest"], all["digest"]);
    assert_eq!(catalog.order(json!({"digest": table, "at": "before"}))["digest"], rows["digest"], "what has a name stays readable");
    let on_disk = parquet_files(folder.path());
    assert_eq!(on_disk.len() as u64, files(&left) + files(&before), "{on_disk:?}");
    let (checked, is_well) = tend(&millrace, &["check"]);
    assert!(is_well && checked["stray"] == 0 && checked["snapshots"] == 2, "{checked}");

    // The sink goes on where it was, and a file that is gone is missed.
    clock.put(0);
    millrace.launch();
    millrace.wait_alive();
    send(&topic, 6_000, 10);
    holds(&mut catalog, table, 6_013);
    millrace.stop();
    let newest = parquet_files(folder.path()).into_iter().max_by_key(|path| path.metadata().and_then(|file| file.modified()).ok());
    std::fs::remove_file(newest.expect("there are files")).expect("a file can go");
    let (checked, is_well) = tend(&millrace, &["check"]);
    assert!(!is_well && checked["missing"].as_array().map(Vec::len) == Some(1), "{checked}");
}

#[test]
fn iceberg_tables_take_new_columns_bear_other_writers_and_refuse_what_is_not_theirs() {
    let folder = scratch("iceberg");
    let (mut catalog, _, uri) = catalog(folder.path());
    // Another program's commits come between.
    let topic = topic(2);
    let quick = "kafka: {brokers: '$kafka', properties: {session.timeout.ms: '6000'}}\n";
    let text = format!("{quick}{LAKE}");
    let mut first = lake(&topic, &uri, "plant.shared", "commit_every: 100ms").start(&text);
    send(&topic, 0, 1_000);
    holds(&mut catalog, "plant.shared", 1_000);
    catalog.begin(&json!({"append": "plant.shared", "commits": 5}));
    send(&topic, 1_000, 1_000);
    holds(&mut catalog, "plant.shared", 2_005);
    // One sleeps in the middle of its work, while another takes over.
    let mut second = lake(&topic, &uri, "plant.shared", "commit_every: 100ms").start(&text);
    send(&topic, 2_000, 2_000);
    std::thread::sleep(Duration::from_millis(200));
    first.process().freeze();
    send(&topic, 4_000, 1_000);
    holds(&mut catalog, "plant.shared", 5_005);
    first.process().thaw();
    send(&topic, 5_000, 1_000);
    holds(&mut catalog, "plant.shared", 6_005);
    first.stop();
    second.stop();
    // A new field is a new column, null before.
    let orders = kafka().topic("orders");
    kafka().create_topic(&orders, 1, &[]);
    let mut millrace = lake(&orders, &uri, "plant.orders", "commit_every: 100ms").with("schema", "partitions: 1").start(LAKE);
    for (count, line) in [r#"{"id":"A1","weight":0.5}"#, r#"{"id":"A2","line":{"part":"x"},"urgent":true}"#].iter().enumerate() {
        kafka().produce(&orders, [("k", line.as_bytes())]);
        eventually("the document is in the table", || {
            let rows = catalog.order(json!({"documents": "plant.orders"}))["rows"].as_array()?.len();
            (rows == count + 1).then_some(())
        });
    }
    let found = catalog.order(json!({"documents": "plant.orders"}));
    assert_eq!(
        (&found["rows"][0]["urgent"], &found["rows"][1]["urgent"], &found["rows"][1]["line"]),
        (&Value::Null, &json!(true), &json!(r#"{"part":"x"}"#))
    );
    assert_eq!((&found["types"]["weight"], &found["types"]["urgent"]), (&json!("double"), &json!("boolean")), "{found}");
    millrace.stop();
    for (what, because) in [("schema", "partitioned by []"), ("unpartitioned", "partitioned by []")] {
        let table = format!("plant.{what}");
        catalog.order(json!({"make": table, "what": what}));
        let mut millrace = lake(&topic, &uri, &table, "").start(LAKE);
        blocked(&millrace, because);
        millrace.kill9();
    }
}
