//! Kafka into a lake: foreign programs count and compare what is in the table, after kills, faults of the store and other writers.

use millrace_tests::*;
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::time::Duration;

/// The embedded broker of these tests; none of them hurts it.
pub fn kafka() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    KAFKA.get_or_init(|| Kafka::millrace(200))
}

/// deltalake, pyarrow and DuckDB.
pub fn readers() -> Script {
    let mut command = peers::python(peers::lake());
    command.arg(peers::scripts().join("lake.py"));
    Script::start("the readers of the lake", command, "ready")
}

pub const START: i64 = 1_795_824_000_000_000; // 2026-11-28T00:00:00Z
pub const SECOND: i64 = 1_000_000;

/// A sample as the topic has it; `value` is its JSON.
pub fn sample(tag: &str, seq: i64, time: i64, value: &str) -> String {
    format!(
        r#"{{"tag":"acme/detroit/{tag}","def":1,"value":{value},"time":{time},"time_source":"device","read_time":{time},"status":0,"quality":"good","origin":"change","source":"acme/detroit/stand","seq":{seq}}}"#
    )
}

/// Sends `count` numbers of ten tags, one a second, the identity from `from` on.
pub fn send(topic: &str, from: i64, count: i64) {
    let records: Vec<(String, String)> = (from..from + count)
        .map(|seq| {
            (format!("tag-{}", seq % 10), sample(&format!("body/press-{}/force", seq % 10), seq, START + seq * SECOND, &format!("{seq}.5")))
        })
        .collect();
    kafka().produce(topic, records.iter().map(|(key, value)| (key.as_str(), value.as_bytes())));
}

/// A topic with these many partitions.
pub fn topic(partitions: i32) -> String {
    let topic = kafka().topic("history");
    kafka().create_topic(&topic, partitions, &[]);
    topic
}

pub const LAKE: &str = "
site: acme/detroit
levels: [area, machine]
topics:
  $topic: {format: json, schema: telemetry}
sinks:
  history: {type: lake, topics: [$topic], group: g-$topic, table: '$table', $keys}
";

/// A factory that writes the topic to a table.
pub fn lake(topic: &str, table: &str, keys: &str) -> Factory {
    Factory::on(kafka()).with("topic", topic).with("table", table).with("keys", keys)
}

pub fn pair(value: &Value) -> (i64, i64) {
    (value[0].as_i64().unwrap_or(-1), value[1].as_i64().unwrap_or(-1))
}

/// Waits until the table has so many rows, all with identities of their own, in the eyes of each reader.
pub fn holds(readers: &mut Script, table: &Value, count: i64) -> Value {
    within(Duration::from_secs(180), &format!("the table holds {count} rows"), || {
        let found = readers.order(table.clone());
        let (rows, distinct) = pair(&found["deltalake"]);
        assert_eq!(rows, distinct, "rows are there twice: {found}");
        assert!(rows <= count, "there are rows too many: {found}");
        (rows == count).then(|| {
            for reader in ["pyarrow", "duckdb"].into_iter().filter(|reader| !found[*reader].is_null()) {
                assert_eq!(pair(&found[reader]), (count, count), "{reader} counts differently: {found}");
            }
            found
        })
    })
}

pub fn exists(table: &std::path::Path) -> bool {
    table.join("_delta_log/00000000000000000000.json").exists()
}

/// How often the tests of kill -9 kill: `MILLRACE_KILLS`.
pub fn kills() -> u32 {
    std::env::var("MILLRACE_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(6)
}

/// Sends some, lets the sink work for a moment, kills it, so often. How many were sent.
pub fn kill(millrace: &mut Millrace, topic: &str, kills: u32, seed: u64) -> i64 {
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sent = 0;
    for _ in 0..kills {
        let more = random.i64(500..3_000);
        send(topic, sent, more);
        sent += more;
        millrace.launch();
        // Before it opens the table, while it reads, writes files, commits, commits again.
        std::thread::sleep(Duration::from_millis(random.u64(100..2_500)));
        millrace.kill9();
    }
    sent
}

fn killed_at_any_point(keys: &str, kills: u32) -> (Millrace, Script, i64) {
    let topic = topic(3);
    let folder = scratch("lake");
    let table = folder.keep();
    let mut readers = readers();
    let mut millrace = lake(&topic, &table.display().to_string(), keys).prepare(LAKE);
    let sent = kill(&mut millrace, &topic, kills, fastrand::u64(..));
    millrace.launch();
    millrace.wait_alive();
    if !exists(&table) {
        eventually("the table is made", || exists(&table).then_some(()));
    }
    let found = holds(&mut readers, &json!({"count": table}), sent);
    println!("{kills} kills, {sent} rows, {found}");
    (millrace, readers, sent)
}

#[test]
fn a_lake_that_is_killed_at_any_point_holds_each_row_once() {
    let (mut millrace, _, _) = killed_at_any_point("commit_every: 100ms", kills());
    millrace.stop();
}

#[test]
fn plain_parquet_that_is_killed_at_any_point_holds_each_row_once_after_the_next_start() {
    let (mut millrace, mut readers, sent) = killed_at_any_point("format: parquet, commit_every: 100ms", kills());
    let yaml = std::fs::read_to_string(millrace.dir().join("factory.yaml")).expect("it was written");
    let table = yaml.split("table: '").nth(1).and_then(|rest| rest.split('\'').next()).expect("it names the table").to_owned();
    // Readers that know no log.
    let found = readers.order(json!({"folder": table}));
    assert_eq!(pair(&found["pyarrow"]), (sent, sent), "{found}");
    assert_eq!(pair(&found["duckdb"]), (sent, sent), "{found}");
    millrace.stop();
}

#[test]
fn foreign_readers_see_every_value_as_the_type_it_is() {
    let topic = topic(1);
    let folder = scratch("lake");
    let table = folder.path().display().to_string();
    // What came, the column it belongs to, and what a reader says is there.
    let values: [(&str, &str, Value); 16] = [
        ("1.5", "value_double", json!(1.5)),
        (r#""NaN""#, "value_double", json!("NaN")),
        ("42", "value_long", json!(42)),
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
    // 1970, 2262, the day before, and a null: each has its place.
    let times = [0, 9_223_372_036_854_775, START - 86_400 * SECOND, START];
    let mut records: Vec<String> =
        values.iter().enumerate().map(|(n, (value, ..))| sample("body/types/all", n as i64, START + n as i64, value)).collect();
    records.extend(times.iter().enumerate().map(|(n, time)| sample("body/types/times", 100 + n as i64, *time, "null")));
    // Times that no reader can show become dead letters, and nothing else does.
    records.push(sample("body/types/times", 200, 300_000_000_000_000_000, "1"));
    kafka().produce(&topic, records.iter().map(|record| ("k", record.as_bytes())));
    let mut millrace = lake(&topic, &table, "commit_every: 200ms, partition_by: [date, area]").start(LAKE);
    let mut readers = readers();
    eventually("the table is made", || exists(folder.path()).then_some(()));
    holds(&mut readers, &json!({"count": table}), (values.len() + times.len()) as i64);
    let found = readers.order(json!({"rows": table, "tag": "acme/detroit/body/types/all"}));
    for (row, (value, column, expected)) in found["rows"].as_array().expect("rows").iter().zip(&values) {
        assert_eq!(&row[*column], expected, "{value}: {row}");
        let others = row.as_object().expect("a row").keys().filter(|key| key.starts_with("value") && key != column).count();
        assert_eq!(others, usize::from(*column == "dims"), "{value} stands in one column: {row}");
        assert_eq!((&row["area"], &row["quality"]), (&json!("body"), &json!("good")));
    }
    let types = &found["types"];
    for (column, expected) in [
        ("time", "timestamp[us, tz=UTC]"),
        ("value_uint", "decimal128(20, 0)"),
        ("value_long", "int64"),
        ("value_double", "double"),
        ("date", "date32[day]"),
        ("seq", "int64"),
    ] {
        assert_eq!(types[column], expected, "{types}");
    }
    let found = readers.order(json!({"rows": table, "tag": "acme/detroit/body/types/times"}));
    let days: Vec<&str> = found["rows"].as_array().expect("rows").iter().map(|row| row["date"].as_str().unwrap_or_default()).collect();
    assert_eq!(days, ["1970-01-01", "2026-11-27", "2026-11-28", "2262-04-11"]);
    let mut dead = kafka().follow(&format!("{topic}.dead"));
    let letters = dead.count(1);
    assert!(
        letters[0].header("__connect.errors.exception.message").is_some_and(|reason| reason.contains("years 1 and 9999")),
        "{letters:?}"
    );
    millrace.stop();
}

pub fn blocked(millrace: &Millrace, because: &str) {
    millrace.wait_word("history", "Blocked");
    let connector = millrace.connector("history").to_string();
    assert!(connector.contains(because), "{connector}");
}

#[test]
fn a_writer_that_slept_while_another_took_over_is_fenced() {
    let topic = topic(4);
    let folder = scratch("lake");
    let table = folder.path().display().to_string();
    let keys = "commit_every: 300ms";
    let quick = "kafka: {brokers: '$kafka', properties: {session.timeout.ms: '6000'}}\n";
    let text = format!("{quick}{LAKE}");
    let mut first = lake(&topic, &table, keys).start(&text);
    send(&topic, 0, 3_000);
    let mut readers = readers();
    eventually("the table is made", || exists(folder.path()).then_some(()));
    holds(&mut readers, &json!({"count": table}), 3_000);
    let mut second = lake(&topic, &table, keys).start(&text);
    let mut sent = 3_000;
    for round in 0..3 {
        // In the middle of its work: records are in its buffers, and a commit may be on its way.
        send(&topic, sent, 2_000);
        sent += 2_000;
        std::thread::sleep(Duration::from_millis(200 + 150 * round));
        first.process().freeze();
        send(&topic, sent, 2_000);
        sent += 2_000;
        holds(&mut readers, &json!({"count": table}), sent);
        first.process().thaw();
        std::mem::swap(&mut first, &mut second);
    }
    send(&topic, sent, 2_000);
    sent += 2_000;
    holds(&mut readers, &json!({"count": table}), sent);
    first.stop();
    second.stop();
}

#[test]
fn a_second_writer_that_moves_the_same_positions_is_fenced() {
    // Two runtimes that know nothing of each other's group would share no position; one group on one partition, and both believe to have it: the
    // first sleeps between its read and its commit.
    let topic = topic(1);
    let folder = scratch("lake");
    let table = folder.path().display().to_string();
    let text = format!("kafka: {{brokers: '$kafka', properties: {{session.timeout.ms: '6000'}}}}\n{LAKE}");
    let mut first = lake(&topic, &table, "commit_every: 5s").start(&text);
    eventually("the table is made", || exists(folder.path()).then_some(()));
    send(&topic, 0, 1_000);
    eventually("the first has read them", || (first.connector("history")["counts"]["consumed"].as_u64()? == 1_000).then_some(()));
    first.process().freeze();
    let mut second = lake(&topic, &table, "commit_every: 200ms").start(&text);
    let mut readers = readers();
    holds(&mut readers, &json!({"count": table}), 1_000);
    first.process().thaw();
    eventually("the first is fenced, or learns that it lost the partition", || {
        let log = first.log();
        (log.contains("another writer moved the position") || log.contains("partitions given back")).then_some(())
    });
    send(&topic, 1_000, 1_000);
    holds(&mut readers, &json!({"count": table}), 2_000);
    first.stop();
    second.stop();
}

#[test]
fn commits_of_another_program_are_no_trouble_and_stay() {
    let topic = topic(2);
    let folder = scratch("lake");
    let table = folder.path().display().to_string();
    let mut millrace = lake(&topic, &table, "commit_every: 100ms").start(LAKE);
    let mut readers = readers();
    eventually("the table is made", || exists(folder.path()).then_some(()));
    for round in 0..5 {
        readers.begin(&json!({"append": table, "commits": 10, "from": round * 10}));
        send(&topic, round * 1_000, 1_000);
    }
    holds(&mut readers, &json!({"count": table}), 5_050);
    millrace.stop();
}

#[test]
fn tables_that_cannot_take_samples_are_refused_and_stay_as_they_are() {
    let topic = topic(1);
    send(&topic, 0, 10);
    let mut readers = readers();
    for (what, because) in
        [("schema", "its column `tag` is long"), ("unpartitioned", "partitioned by"), ("files", "holds files and no table")]
    {
        let folder = scratch("lake");
        let table = folder.path().display().to_string();
        readers.order(json!({"make": table, "what": what}));
        let before = files(folder.path());
        let mut millrace = lake(&topic, &table, "commit_every: 100ms").start(LAKE);
        blocked(&millrace, because);
        millrace.kill9();
        assert_eq!(files(folder.path()), before, "{what}");
    }
    // Ours, changed by somebody: a constraint that can't be checked here, positions that would expire, a log that can't be read.
    for (change, because) in [
        (json!({"constraint": "seq >= 0"}), "can't take samples"),
        (json!({"properties": {"delta.setTransactionRetentionDuration": "interval 1 days"}}), "setTransactionRetentionDuration"),
    ] {
        // A topic of its own: the group of another table has its offsets in Kafka.
        let topic = self::topic(1);
        send(&topic, 0, 10);
        let folder = scratch("lake");
        let table = folder.path().display().to_string();
        let mut millrace = lake(&topic, &table, "commit_every: 100ms").start(LAKE);
        eventually("the table is made", || exists(folder.path()).then_some(()));
        holds(&mut readers, &json!({"count": table}), 10);
        millrace.kill9();
        let mut order = change.clone();
        order["set"] = json!(table);
        readers.order(order);
        millrace.launch();
        millrace.wait_alive();
        blocked(&millrace, because);
        millrace.kill9();
        holds(&mut readers, &json!({"count": table}), 10);
    }
}

pub fn files(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            // The probe of a store leaves its empty folder.
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found.sort();
    found
}

#[test]
fn a_checkpoint_that_is_corrupt_is_named_and_nothing_that_is_committed_is_harmed() {
    let topic = topic(1);
    let folder = scratch("lake");
    let table = folder.path().display().to_string();
    let mut millrace = lake(&topic, &table, "commit_every: 100ms").start(LAKE);
    send(&topic, 0, 100);
    let mut readers = readers();
    eventually("the table is made", || exists(folder.path()).then_some(()));
    holds(&mut readers, &json!({"count": table}), 100);
    // A clean stop writes a checkpoint.
    millrace.stop();
    let log = folder.path().join("_delta_log");
    let checkpoint = files(&log).into_iter().find(|name| name.ends_with("checkpoint.parquet")).expect("a clean stop writes a checkpoint");
    let whole = std::fs::read(&checkpoint).expect("it can be read");
    std::fs::write(&checkpoint, &whole[..whole.len() / 2]).expect("it can be damaged");
    send(&topic, 100, 100);
    millrace.launch();
    millrace.wait_alive();
    let outcome = eventually("it says so, or reads the log instead", || {
        let word = millrace.word("history");
        (word == "Blocked" || word == "Degraded" || millrace.connector("history")["counts"]["written"].as_u64()? >= 100).then_some(word)
    });
    println!("with a damaged checkpoint: {outcome}: {}", millrace.connector("history"));
    millrace.kill9();
    std::fs::write(&checkpoint, &whole).expect("it can be mended");
    millrace.launch();
    millrace.wait_alive();
    holds(&mut readers, &json!({"count": table}), 200);
    millrace.stop();
}

#[test]
fn a_disk_that_is_full_in_mid_file_stops_the_lake_until_there_is_room() {
    let Some(disk) = SmallDisk::mounted(1 << 20, "") else { return };
    let topic = topic(1);
    let table = disk.path().join("table");
    let mut millrace = lake(&topic, &table.display().to_string(), "commit_every: 100ms").start(LAKE);
    let mut readers = readers();
    send(&topic, 0, 1_000);
    eventually("the table is made", || exists(&table).then_some(()));
    holds(&mut readers, &json!({"count": table}), 1_000);
    // Texts that don't compress.
    let noise =
        |seq: i64| -> String { std::iter::repeat_with(fastrand::alphanumeric).take(4_000).chain(seq.to_string().chars()).collect() };
    let records: Vec<String> =
        (1_000..4_000).map(|seq| sample("body/press-1/label", seq, START + seq, &format!("\"{}\"", noise(seq)))).collect();
    kafka().produce(&topic, records.iter().map(|record| ("k", record.as_bytes())));
    millrace.wait_word("history", "Degraded");
    // What is committed can be read all the while.
    holds_at_least(&mut readers, &json!({"count": table}), 1_000);
    disk.remount("size=100m");
    holds(&mut readers, &json!({"count": table}), 4_000);
    millrace.stop();
}

fn holds_at_least(readers: &mut Script, table: &Value, count: i64) {
    let found = readers.order(table.clone());
    let (rows, distinct) = pair(&found["deltalake"]);
    assert!(rows >= count && rows == distinct, "{found}");
}

#[test]
fn a_sink_tends_its_table_by_itself() {
    let topic = topic(1);
    let folder = scratch("lake");
    let table = folder.path().display().to_string();
    // The samples are of a day that is over.
    let mut millrace = lake(&topic, &table, "commit_every: 100ms, upkeep: {every: 1s}").start(LAKE);
    let mut readers = readers();
    eventually("the table is made", || exists(folder.path()).then_some(()));
    for round in 0..10 {
        send(&topic, round * 300, 300);
        holds(&mut readers, &json!({"count": table}), round * 300 + 300);
    }
    let few = within(Duration::from_secs(60), "small files become large ones", || {
        let found = holds(&mut readers, &json!({"count": table}), 3_000);
        found["files"].as_i64().filter(|files| *files <= 2)
    });
    println!("{few} files");
    millrace.stop();
}

#[test]
fn what_is_compacted_and_asked_is_what_was_sent() {
    let topic = topic(1);
    let folder = scratch("lake");
    let table = folder.path().display().to_string();
    let mut millrace = lake(&topic, &table, "commit_every: 100ms, upkeep: {enabled: false}").start(LAKE);
    let mut readers = readers();
    eventually("the table is made", || exists(folder.path()).then_some(()));
    for round in 0..6 {
        send(&topic, round * 500, 500);
        holds(&mut readers, &json!({"count": table}), round * 500 + 500);
    }
    let before = readers.order(json!({"sums": table}));
    let many = readers.order(json!({"count": table}))["files"].as_i64().expect("a number");
    let lake_command = |millrace: &Millrace, words: &[&str]| -> Value {
        let output = millrace.run(&[&["lake"], words, &["-c", "factory.yaml", "--json"]].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("it answers in JSON")
    };
    let compacted = lake_command(&millrace, &["compact", "--all"]);
    assert!(compacted["before"].as_i64() >= Some(6) && compacted["rows"] == 3_000, "{compacted}");
    let few = readers.order(json!({"count": table}))["files"].as_i64().expect("a number");
    assert!(few < many, "{few} of {many} files");
    // A writer does not mind.
    send(&topic, 3_000, 500);
    holds(&mut readers, &json!({"count": table}), 3_500);
    let checked = lake_command(&millrace, &["check"]);
    assert_eq!((&checked["missing"], &checked["rows"]), (&json!([]), &json!(3_500)), "{checked}");
    let after = readers.order(json!({"sums": table}));
    assert_eq!(after["tags"].as_object().map(|tags| tags.len()), before["tags"].as_object().map(|tags| tags.len()));
    // 350 values of each tag, k.5 for k = 3, 13, 23, ..
    let expected: f64 = (0..350).map(|n| f64::from(n * 10 + 3) + 0.5).sum();
    assert_eq!(after["tags"]["acme/detroit/body/press-3/force"][1], json!(expected), "{after}");
    let ask = |words: &[&str]| -> Value {
        let from = ["query", "-c", "factory.yaml", "--from", "2026-11-28", "--to", "2026-11-29", "--output", "json", "body/press-3/force"];
        let output = millrace.run(&[&from[..], words].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("it answers in JSON")
    };
    // The same over HTTP, within bounds.
    let http = |query: &str| -> (u16, Value) {
        let (code, body) = http::get(millrace.http_port(), &format!("/history?{query}")).expect("it answers over HTTP");
        (code, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    };
    let (code, said) = http("tag=body/press-3/force,body/press-4/force&from=2026-11-28&to=2026-11-29&as=average&every=24h");
    assert_eq!(code, 200, "{said}");
    assert_eq!((&said["tags"][0]["rows"][0]["count"], &said["tags"][1]["rows"][0]["count"]), (&json!(350), &json!(350)), "{said}");
    for (query, because) in [
        ("tag=", "names 1 to 20 tags"),
        ("tag=a&as=magic", "`as` is"),
        ("tag=a&from=yesterday", "is no time"),
        ("tag=a&as=average&every=1ms&from=10000h", "more than 1000000 lines"),
    ] {
        let (code, said) = http(query);
        assert_eq!(code, 400, "{query}: {said}");
        assert!(said["error"].as_str().is_some_and(|error| error.contains(because)), "{query}: {said}");
    }
    // The same as a file for other programs, and as a picture.
    let file = |output: &str| -> std::path::PathBuf {
        let file = millrace.dir().join(format!("force.{output}"));
        let name = file.display().to_string();
        let words = ["query", "-c", "factory.yaml", "--from", "2026-11-28", "--to", "2026-11-29", "--output", output, "--file", &name];
        let output = millrace.run(&[&words[..], &["body/press-3/force"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        file
    };
    let python = |python: &std::path::Path, text: &str, file: &std::path::Path| -> String {
        let output = peers::python(python).args(["-c", text]).arg(file).output().expect("Python starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let sums =
        "import sys, duckdb; print(duckdb.execute('SELECT count(*), sum(value_double) FROM read_parquet(?)', [sys.argv[1]]).fetchone())";
    assert_eq!(python(peers::lake(), sums, &file("parquet")), format!("(350, {expected:?})"));
    let colours = "import sys, PIL.Image; image = PIL.Image.open(sys.argv[1]).convert('RGB'); print(image.size, (21, 101, 192) in {rgb for _, rgb in image.getcolors()})";
    assert_eq!(python(peers::pillow(), colours, &file("png")), "(960, 360) True");
    let last = ask(&["--as", "last"]);
    assert!(last.to_string().contains("3493.5"), "{last}");
    let samples = ask(&["--limit", "1000"]);
    assert_eq!(samples.to_string().matches(".5,").count() + samples.to_string().matches(".5}").count(), 350, "{samples}");
    millrace.stop();
}
