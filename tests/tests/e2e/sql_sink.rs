//! Kafka into a database: each row once through kill -9, and what the table refuses in the dead letters.

use crate::lake::{kafka, kills, sample, send, topic};
use millrace_testkit::Database;
use millrace_tests::*;
use std::time::Duration;

const FACTORY: &str = "
site: acme/detroit
topics:
  $topic: {format: json, schema: telemetry}
sinks:
  history:
    type: sql
    topics: [$topic]
    group: g-$topic
    endpoint: '$scheme://127.0.0.1:$port/plant'
    login: {user: millrace, password: '${env:DATABASE_PASSWORD}'}
    table: history
    commit_every: 100ms
";

fn killed_at_any_point(database: &Database, scheme: &str) {
    let topic = topic(3);
    let factory = Factory::on(kafka()).with("topic", &topic).with("scheme", scheme).with("port", database.port());
    let mut millrace = factory.env("DATABASE_PASSWORD", "secret").prepare(FACTORY);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sent = 0;
    for _ in 0..kills() {
        let more = random.i64(500..3_000);
        send(&topic, sent, more);
        sent += more;
        millrace.launch();
        std::thread::sleep(Duration::from_millis(random.u64(100..2_500)));
        millrace.kill9();
    }
    // What no text of PostgreSQL holds is named, and its neighbours are there.
    let odd = [sample("body/odd/a", 1_000_000, 0, r#""with a \u0000 in it""#), sample("body/odd/b", 1_000_001, 0, "1.5")];
    kafka().produce(&topic, odd.iter().map(|text| ("k", text.as_bytes())));
    let refused = i64::from(scheme == "postgres");
    millrace.launch();
    millrace.wait_alive();
    within(Duration::from_secs(120), "every row is there", || {
        let said = database.run("SELECT count(*), count(DISTINCT seq) FROM history").replace('\t', "|");
        let (rows, distinct) = said.split_once('|')?;
        assert_eq!(rows, distinct, "rows are there twice");
        (rows.parse::<i64>() == Ok(sent + 2 - refused)).then_some(())
    });
    if refused > 0 {
        let mut dead = kafka().follow(&format!("{topic}.dead"));
        let reason = dead.count(1)[0].header("__connect.errors.exception.message").unwrap_or_default();
        assert!(reason.contains("22021"), "{reason}");
    }
    assert_eq!(database.run("SELECT count(*) FROM history WHERE value_double = 1.5 AND seq = 1000001"), "1");
    assert!(!millrace.log().contains("secret"), "the password is in the log");
    millrace.stop();
}

#[test]
fn rows_in_postgresql_are_there_once_after_kills() {
    killed_at_any_point(&Database::postgres(), "postgres");
}

#[test]
fn rows_in_mariadb_are_there_once_after_kills() {
    killed_at_any_point(&Database::mariadb(), "mysql");
}
