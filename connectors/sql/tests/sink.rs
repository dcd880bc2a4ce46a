//! The SQL sink with PostgreSQL and MariaDB of Debian: types, new fields, keys, rows that a table refuses, a writer that was overtaken.

use millrace_contract::{Carries, Context, Failure, Flush, Partition, Record, Records, Sink, Upstream};
use millrace_schemas::contract::{Contract, Kind};
use millrace_schemas::{Batch, Span, json};
use millrace_sql::SqlSink;
use millrace_testkit::{Database, yaml};
use std::sync::Arc;

const TOPIC: &str = "orders";

fn part() -> Partition {
    Partition { topic: TOPIC.into(), partition: 0 }
}

struct Target {
    database: Database,
    scheme: &'static str,
}

impl Target {
    fn both() -> [Self; 2] {
        [Self { database: Database::postgres(), scheme: "postgres" }, Self { database: Database::mariadb(), scheme: "mysql" }]
    }

    /// A new instance that has the partition; where it begins.
    async fn sink(&self, keys: &str, carries: Carries, schema: Option<&str>) -> Result<(Box<dyn Sink>, Option<i64>), Failure> {
        let text = format!(
            "{{endpoint: '{}://127.0.0.1:{}/plant', login: {{user: millrace, password: secret}}, {keys}}}",
            self.scheme,
            self.database.port()
        );
        let schema = schema.map(|text| Contract::compile(Kind::Json, text, None, &mut |_| None).unwrap().schema().clone());
        let context = Context { carries, schemas: schema.into_iter().collect(), ..yaml::context("sql", &[TOPIC]) };
        let compiled = yaml::compile::<SqlSink>(&text, &context).unwrap_or_else(|problems| panic!("{problems}"));
        let mut sink = compiled.sink().unwrap();
        sink.upstream(Upstream { cluster: "c".into(), group: "g".into(), topic_ids: [(Arc::from(TOPIC), "id".into())].into() });
        let held = sink.assign(&[part()]).await?;
        Ok((sink, held[0]))
    }
}

/// Documents from an offset on; an empty one is a tombstone.
fn documents(from: i64, texts: &[(&str, &str)]) -> Records {
    let mut records = Records { parts: vec![part()], ..Records::default() };
    for (offset, (key, text)) in (from..).zip(texts) {
        let mut span = |text: &str| {
            let start = records.heap.len() as u32;
            records.heap.extend_from_slice(text.as_bytes());
            Span { start, len: text.len() as u32 }
        };
        let (key, value) = (span(key), span(text));
        let value = Some(value).filter(|_| !text.is_empty());
        records.documents.push(value);
        let timestamp_ms = 1_795_824_000_000 + offset;
        records.records.push(Record { part: 0, offset, timestamp_ms, key: Some(key), value, headers: Span::EMPTY, prefix: 0 });
    }
    records
}

/// Samples as the topic has them; each with this JSON as its value.
fn samples(values: &[&str]) -> Records {
    let mut records = documents(0, &values.iter().map(|value| ("k", *value)).collect::<Vec<_>>());
    let mut batch = Batch::new();
    for (seq, value) in values.iter().enumerate() {
        let text = format!(
            r#"{{"tag":"a/b/c","value":{value},"time":1795824000000001,"time_source":"device","read_time":1795824000000002,"status":0,"origin":"change","source":"a/b/s","seq":{seq}}}"#
        );
        json::decode(text.as_bytes(), &mut batch).unwrap();
    }
    records.documents.clear();
    records.batch = Some(batch);
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_of_a_sample_stands_in_the_column_of_its_type() {
    let values =
        ["1.5", "-9223372036854775808", "true", r#""red \u00e4""#, r#"{"json":{"a":[1,null]}}"#, "[1,2]", "18446744073709551615", "null"];
    for target in Target::both() {
        let (mut sink, held) = target.sink("table: history", Carries::Samples, None).await.unwrap();
        assert_eq!(held, None);
        assert_eq!(sink.write(&samples(&values)).await.unwrap(), []);
        let flushed = sink.flush(Flush::Tick).await.unwrap();
        assert_eq!((flushed.below, flushed.refused.len()), (vec![(part(), 8)], 0));
        let ask = |sql: &str| target.database.run(sql);
        let number = |name: &str| ask(&format!("SELECT {name} FROM history WHERE {name} IS NOT NULL ORDER BY seq"));
        assert_eq!(number("value_double"), "1.5");
        assert_eq!(number("value_long"), "-9223372036854775808");
        assert_eq!(number("value_text"), "red ä");
        let json: Vec<String> = number("value_json").lines().map(|line| line.replace(' ', "")).collect();
        assert_eq!(json, [r#"{"a":[1,null]}"#, "[1,2]", "18446744073709551615"]);
        assert_eq!(ask("SELECT count(*) FROM history WHERE value_bool"), "1");
        let time = ask("SELECT time FROM history WHERE seq = 0");
        assert!(time.starts_with("2026-11-28 00:00:00.000001"), "{time}");
        // What comes again after a restart begins where the table has it.
        drop(sink);
        assert_eq!(target.sink("table: history", Carries::Samples, None).await.unwrap().1, Some(8));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nan_is_a_double_where_the_database_has_it_and_else_refused() {
    for target in Target::both() {
        let (mut sink, _) = target.sink("table: history", Carries::Samples, None).await.unwrap();
        sink.write(&samples(&[r#""NaN""#, "2.5"])).await.unwrap();
        let flushed = sink.flush(Flush::Tick).await.unwrap();
        if target.scheme == "postgres" {
            assert!(flushed.refused.is_empty(), "{flushed:?}");
            assert_eq!(target.database.run("SELECT value_double FROM history ORDER BY seq"), "NaN\n2.5");
        } else {
            // Nothing is committed before its dead letter is safe; then the others are.
            assert_eq!((flushed.below.len(), flushed.refused.len(), flushed.refused[0].offset), (0, 1, 0), "{flushed:?}");
            let flushed = sink.flush(Flush::Tick).await.unwrap();
            assert_eq!((flushed.below, flushed.refused.len()), (vec![(part(), 2)], 0));
            assert_eq!(target.database.run("SELECT value_double FROM history"), "2.5");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_field_is_a_new_column_and_a_row_that_is_refused_spares_its_neighbours() {
    let schema = r#"{"type":"object","properties":{"id":{"type":"string"},"weight":{"type":"number"}}}"#;
    for target in Target::both() {
        let keys = "table: orders";
        let (mut sink, _) = target.sink(keys, Carries::Documents, Some(schema)).await.unwrap();
        let first = documents(0, &[("a", r#"{"id":"A1","weight":12}"#), ("b", r#"{"id":"A2","lines":[{"n":1}]}"#)]);
        assert_eq!(sink.write(&first).await.unwrap(), []);
        assert_eq!(sink.flush(Flush::Tick).await.unwrap().below, [(part(), 2)]);
        // A restart learns the columns from the table: a structure is one still, and a text no number.
        let (mut sink, held) = target.sink(keys, Carries::Documents, Some(schema)).await.unwrap();
        assert_eq!(held, Some(2));
        let second = documents(2, &[("c", r#"{"id":"A3","lines":[],"urgent":true}"#), ("d", r#"{"id":7}"#)]);
        let refused = sink.write(&second).await.unwrap();
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].reason.contains("field `id` is a number (7), and its column is string"), "{refused:?}");
        // The table itself refuses one of many.
        target.database.run("ALTER TABLE orders ADD CONSTRAINT light CHECK (weight < 100)");
        let third: Vec<String> = (4..300).map(|n| format!(r#"{{"id":"B{n}","weight":{}}}"#, if n == 150 { 1000 } else { 1 })).collect();
        let third: Vec<(&str, &str)> = third.iter().map(|text| ("k", text.as_str())).collect();
        assert_eq!(sink.write(&documents(4, &third)).await.unwrap(), []);
        let flushed = sink.flush(Flush::Tick).await.unwrap();
        assert_eq!((flushed.below.len(), flushed.refused.len(), flushed.refused[0].offset), (0, 1, 150), "{flushed:?}");
        assert_eq!(target.database.run("SELECT count(*) FROM orders"), "2", "nothing counts before the dead letter is safe");
        assert_eq!(sink.flush(Flush::Tick).await.unwrap().below, [(part(), 300)]);
        assert_eq!(
            target.database.run("SELECT count(*), count(DISTINCT kafka_offset), sum(weight) FROM orders").replace('\t', "|"),
            "298|298|307"
        );
        assert_eq!(target.database.run("SELECT id FROM orders WHERE urgent"), "A3");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_key_the_last_document_counts_and_a_tombstone_deletes() {
    for target in Target::both() {
        let keys = "table: orders, key: [id]";
        let (mut sink, _) = target.sink(keys, Carries::Documents, None).await.unwrap();
        let first = documents(
            0,
            &[
                ("A1", r#"{"id":"A1","state":"new"}"#),
                ("A2", r#"{"id":"A2","state":"new"}"#),
                ("A1", r#"{"id":"A1","state":"done"}"#),
                ("A3", r#"{"id":"A3"}"#),
            ],
        );
        sink.write(&first).await.unwrap();
        assert_eq!(sink.flush(Flush::Tick).await.unwrap().below, [(part(), 4)]);
        let second = documents(
            4,
            &[
                ("A2", ""),
                ("A3", r#"{"id":"A3","state":"late"}"#),
                ("x", r#"{"state":"without a key"}"#),
                ("A4", r#"{"id":"A4"}"#),
                ("A4", ""),
            ],
        );
        sink.write(&second).await.unwrap();
        let flushed = sink.flush(Flush::Tick).await.unwrap();
        assert_eq!(flushed.refused.len(), 1, "{flushed:?}");
        assert!(flushed.refused[0].reason.contains("has no `id`"), "{flushed:?}");
        assert_eq!(sink.flush(Flush::Tick).await.unwrap().below, [(part(), 9)]);
        let said = target.database.run("SELECT id, state FROM orders ORDER BY id").replace('\t', "|");
        assert_eq!(said, "A1|done\nA3|late");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_was_overtaken_is_fenced_and_writes_nothing() {
    for target in Target::both() {
        let (mut first, _) = target.sink("table: orders", Carries::Documents, None).await.unwrap();
        let (mut second, _) = target.sink("table: orders", Carries::Documents, None).await.unwrap();
        let records = documents(0, &[("a", r#"{"id":"A1"}"#), ("b", r#"{"id":"A2"}"#)]);
        first.write(&records).await.unwrap();
        second.write(&records).await.unwrap();
        assert_eq!(second.flush(Flush::Tick).await.unwrap().below, [(part(), 2)]);
        let failure = first.flush(Flush::Tick).await.unwrap_err();
        assert!(failure.to_string().contains("another writer moved the position"), "{failure}");
        assert_eq!(target.database.run("SELECT count(*) FROM orders"), "2");
        // A connection that is killed in the middle tells nothing, and the next instance finds where the table is.
        second.write(&documents(2, &[("c", r#"{"id":"A3"}"#)])).await.unwrap();
        match target.scheme {
            "postgres" => _ = target.database.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'millrace'"),
            _ => target.database.run("SELECT id FROM information_schema.processlist WHERE user = 'millrace'").lines().for_each(|id| {
                target.database.run(&format!("KILL {id}"));
            }),
        }
        assert!(matches!(second.flush(Flush::Tick).await.unwrap_err(), Failure::Reconnect(_)));
        assert_eq!(target.sink("table: orders", Carries::Documents, None).await.unwrap().1, Some(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_another_type_is_refused_and_stays_as_it_is() {
    for target in Target::both() {
        target.database.run("CREATE TABLE history (tag integer)");
        if target.scheme == "postgres" {
            target.database.run("ALTER TABLE history OWNER TO millrace");
        }
        let failure = target.sink("table: history", Carries::Samples, None).await.map(|_| ()).unwrap_err();
        assert!(
            matches!(&failure, Failure::Blocked(text) if text.contains("column `tag`") && text.contains("name another table")),
            "{failure}"
        );
    }
}
