//! Free SQL over the lake and over what is still in Kafka only: what it answers, that it changes nothing, and that it keeps its bounds.

use crate::lake::{LAKE, exists, holds, lake, readers, send, topic};
use millrace_tests::*;
use serde_json::{Value, json};

fn ask(millrace: &Millrace, sql: &str, words: &[&str]) -> Result<Value, String> {
    let output = millrace.run(&[&["query", "-c", "factory.yaml", "--json", "--sql", sql], words].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(serde_json::from_slice(&output.stdout).expect("it answers in JSON")) } else { Err(said) }
}

#[test]
fn sql_sees_the_lake_and_what_is_in_kafka_only_as_one_view_and_changes_nothing() {
    let topic = topic(2);
    let folder = scratch("lake");
    let table = folder.path().display().to_string();
    let mut millrace = lake(&topic, &table, "commit_every: 100ms, partition_by: [date, area]").start(LAKE);
    let mut readers = readers();
    eventually("the table is made", || exists(folder.path()).then_some(()));
    send(&topic, 0, 1_000);
    holds(&mut readers, &json!({"count": table}), 1_000);
    // Over HTTP, of a running service, with its bounds.
    let http = |query: &str| -> (u16, Value) {
        let (code, body) = http::get(millrace.http_port(), &format!("/history?{query}")).expect("it answers over HTTP");
        (code, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    };
    let (code, said) = http("sql=SELECT%20count(*)%20AS%20n%20FROM%20history_table&limit=5");
    assert!(code == 400 && said["error"].as_str().is_some_and(|error| error.contains("history_table")), "{said}");
    let (code, said) = http("sql=SELECT%20tag,count(*)%20AS%20n%20FROM%20lake%20GROUP%20BY%20tag&limit=3");
    assert_eq!(
        (code, said["rows"].as_array().map(Vec::len), &said["cut"], &said["rows"][0]["n"]),
        (200, Some(3), &json!(true), &json!(100)),
        "{said}"
    );
    let (code, said) = http("sql=DROP%20TABLE%20lake");
    assert!(code == 400 && said["error"].as_str().is_some_and(|error| error.contains("DROP is refused")), "{said}");
    // What comes now is in Kafka only.
    millrace.stop();
    send(&topic, 1_000, 500);
    let one = |sql: &str, words: &[&str]| ask(&millrace, sql, words).unwrap_or_else(|error| panic!("{sql}: {error}"))["rows"][0].clone();
    let count = "SELECT count(*) AS n, count(DISTINCT seq) AS d, sum(value_double) AS s FROM lake";
    // 0.5 + 1.5 + .. of so many.
    let sum = |count: i64| (0..count).map(|n| n as f64 + 0.5).sum::<f64>();
    assert_eq!(one(count, &[]), json!({"n": 1_500, "d": 1_500, "s": sum(1_500)}));
    assert_eq!(one(count, &["--lake-only"]), json!({"n": 1_000, "d": 1_000, "s": sum(1_000)}));
    let by_sink =
        "SELECT count(*) AS n FROM history WHERE date = '2026-11-28' AND area = 'body' AND tag = 'acme/detroit/body/press-3/force'";
    assert_eq!(one(by_sink, &[]), json!({"n": 150}));
    let late = "SELECT max(time) AS t FROM lake WHERE time >= '2026-11-28T00:20:00Z' AND time < '2026-11-28T00:24:00Z'";
    assert_eq!(one(late, &[]), json!({"t": "2026-11-28T00:23:59.000000Z"}));
    // The library as table functions: the same as without SQL.
    let history = "SELECT count(*) AS n, min(value) AS a, max(value) AS z FROM history('body/press-3/force', '2026-11-28', '2026-11-29')";
    assert_eq!(one(history, &[]), json!({"n": 150, "a": 3.5, "z": 1_493.5}));
    let means = "SELECT sum(count) AS n, max(max) AS z FROM resample('body/press-3/force', '2026-11-28', '2026-11-29', '1h') WHERE mean IS NOT NULL";
    assert_eq!(one(means, &[]), json!({"n": 150, "z": 1_493.5}));
    let at =
        "SELECT value FROM interpolate('body/press-3/force', '2026-11-28T00:00:08Z', '2026-11-28T00:00:14Z', '1s', 'linear') ORDER BY time";
    assert_eq!(one(at, &[]), json!({"value": 8.5}));
    // The last line of a range leads to the sample behind it: 3.5 at 3 s, 13.5 at 13 s.
    let last =
        "SELECT max(value) AS z FROM interpolate('body/press-3/force', '2026-11-28T00:00:04Z', '2026-11-28T00:00:09Z', '1s', 'linear')";
    assert_eq!(one(last, &[]), json!({"z": 8.5}));
    // Files are found by their tag and day: a day without data reads none.
    let nothing = ask(&millrace, "SELECT count(*) AS n FROM lake WHERE date = '2026-01-01'", &["--lake-only"]).expect("it answers");
    assert_eq!((&nothing["rows"][0]["n"], &nothing["bytes"]), (&json!(0), &json!(0)), "{nothing}");
    let whole = ask(&millrace, "SELECT * FROM lake", &["--limit", "10", "--lake-only"]).expect("it answers");
    assert_eq!((whole["rows"].as_array().map(Vec::len), &whole["cut"]), (Some(10), &json!(true)));
    for (sql, because) in [
        ("DELETE FROM lake", "DELETE is refused"),
        ("INSERT INTO lake SELECT * FROM lake", "INSERT is refused"),
        ("CREATE TABLE x AS SELECT 1", "CREATE is refused"),
        ("COPY lake TO '/tmp/x.parquet'", "COPY is refused"),
        ("CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '/'", "CREATE is refused"),
        ("SET datafusion.execution.batch_size = 1", "SET is refused"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("SELEC 1", "SELEC"),
        ("SELECT nonsense FROM lake", "nonsense"),
        ("SELECT * FROM '/etc/passwd'", "passwd"),
        ("SELECT * FROM history('body/press-3/force')", "history('tag', 'from' [, 'to'])"),
        ("SELECT * FROM history('body/press-3/force', 'yesterday')", "is no time"),
    ] {
        let error = ask(&millrace, sql, &["--lake-only"]).expect_err(sql);
        assert!(error.contains(because), "{sql}: {error}");
    }
    // Bounds: memory and time.
    let pairs =
        "SELECT a.seq, b.seq FROM lake a CROSS JOIN lake b CROSS JOIN lake c ORDER BY a.value_double + b.value_double + c.value_double";
    let error = ask(&millrace, pairs, &["--lake-only", "--memory", "4MiB"]).expect_err("it needs more");
    assert!(error.contains("more memory than it may have"), "{error}");
    let error = ask(
        &millrace,
        &pairs
            .replace("a.seq, b.seq", "count(*)")
            .replace(" ORDER BY a.value_double + b.value_double + c.value_double", " WHERE sin(a.seq * b.seq + c.seq) > 2"),
        &["--lake-only", "--patience", "1s"],
    )
    .expect_err("it takes longer");
    assert!(error.contains("no answer within"), "{error}");
    assert_eq!(holds(&mut readers, &json!({"count": table}), 1_000)["deltalake"], json!([1_000, 1_000]));
}
