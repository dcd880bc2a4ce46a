//! Records that Kafka deleted before a sink read them: named once, with their range, and counted once, by every sink that keeps its positions at its target.

use crate::lake::{kafka, send, topic};
use crate::lake_iceberg::catalog;
use millrace_testkit::Database;
use millrace_tests::*;

const SINKS: [&str; 4] = ["delta", "parquet", "iceberg", "sql"];
const FACTORY: &str = "
kafka: {brokers: '$kafka', properties: {session.timeout.ms: '6000'}}
site: acme/detroit
topics:
  $topic: {format: json, schema: telemetry}
sinks:
  delta: {type: lake, topics: [$topic], group: d-$topic, table: $folder/delta, commit_every: 1m}
  parquet: {type: lake, topics: [$topic], group: p-$topic, table: $folder/parquet, format: parquet, commit_every: 1m}
  iceberg: {type: lake, topics: [$topic], group: i-$topic, table: plant.lost, format: iceberg, commit_every: 1m, catalog: {uri: '$uri'}}
  sql:
    type: sql
    topics: [$topic]
    group: s-$topic
    endpoint: 'postgres://127.0.0.1:$port/plant'
    login: {user: millrace, password: '${env:DATABASE_PASSWORD}'}
    table: history
    commit_every: 1m
";

/// What a sink's metric says.
fn count(millrace: &Millrace, what: &str, sink: &str) -> Option<u64> {
    let name = format!("millrace_sink_{what}_total{{sink=\"{sink}\"}} ");
    millrace.metrics().lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

fn all(millrace: &Millrace, what: &str, wanted: u64) {
    for sink in SINKS {
        eventually(&format!("{what} of {sink} is {wanted}"), || (count(millrace, what, sink) == Some(wanted)).then_some(()));
    }
}

#[test]
fn what_retention_took_is_named_with_its_range_and_counted_once_however_often_a_sink_restarts() {
    let (database, folder) = (Database::postgres(), scratch("lost"));
    let (_catalog, _, uri) = catalog(folder.path());
    let topic = topic(1);
    let factory = Factory::on(kafka()).with("topic", &topic).with("folder", folder.path().display()).with("uri", uri);
    let mut millrace = factory.with("port", database.port()).env("DATABASE_PASSWORD", "secret").prepare(FACTORY);
    send(&topic, 0, 100);
    millrace.launch();
    millrace.wait_alive();
    all(&millrace, "written", 100);
    millrace.stop();
    send(&topic, 100, 50);
    kafka().delete_records(&topic, 0);
    let named = |millrace: &Millrace, sink: &str| {
        let is_it = |line: &&str| line.contains("records were deleted in Kafka before this sink could read them") && line.contains(sink);
        millrace.log().lines().filter(is_it).map(str::to_owned).collect::<Vec<String>>()
    };
    // Nothing new is there to be written: the positions move over the gap all the same.
    millrace.launch();
    millrace.wait_alive();
    all(&millrace, "lost", 50);
    for (restart, is_killed) in [true, false, true].into_iter().enumerate() {
        if is_killed {
            millrace.kill9()
        } else {
            millrace.stop()
        }
        millrace.launch();
        millrace.wait_alive();
        let assigned = 4 * (restart + 3);
        eventually("all have their partition", || (millrace.log().matches("partitions assigned").count() >= assigned).then_some(()));
        all(&millrace, "lost", 0);
    }
    send(&topic, 150, 10);
    all(&millrace, "written", 10);
    all(&millrace, "lost", 0);
    millrace.stop();
    for sink in SINKS {
        let lines = named(&millrace, sink);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("from=100") && lines[0].contains("to=149"), "{lines:?}");
    }
    assert_eq!(database.run("SELECT count(*), count(DISTINCT seq) FROM history").replace('\t', "|"), "110|110");
}
