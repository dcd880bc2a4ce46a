//! The lake: samples out of Kafka into a committed Delta table on local disk, and what they take there, held against the JSON in Kafka.
//!
//! One tag is asked over HTTP, and its time held against DuckDB's on the same files, which has no server in front. Engine against engine, over a month at
//! 1 Hz, is the row `history`.

use crate::figures::{LONG, Row, row};
use millrace_tests::wait::within;
use millrace_tests::{Factory, Kafka, Script, http, peers, scratch};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

const TAGS: i64 = 1_000;
const START: i64 = 1_793_491_200_000_000; // 2026-11-01T00:00:00Z
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400;

const FACTORY: &str = "
site: acme/plant
topics: {$topic: {format: json, schema: telemetry, partitions: 3}}
sinks:
  history: {type: lake, topics: [$topic], table: '$table', commit_every: 10s, memory: 128MiB}
";

/// Samples of a thousand tags over as many days, in the order of time, each tag one value every so many seconds.
fn samples(days: i64, every: i64) -> impl Iterator<Item = (String, String)> {
    let mut noise = fastrand::Rng::with_seed(7);
    let steps = days * DAY / every;
    (0..steps * TAGS).map(move |n| {
        let (step, tag) = (n / TAGS, n % TAGS);
        let time = START + step * every * SECOND + noise.i64(0..1_000) * 1_000;
        let value = (200.0 + (step as f64 / 50.0).sin() * 20.0 + noise.f64() * 2.0).mul_add(100.0, 0.0).round() / 100.0;
        let name = format!("acme/plant/hall/machine-{tag}/temperature");
        let text = format!(
            r#"{{"tag":"{name}","def":1,"value":{value:?},"time":{time},"time_source":"device","read_time":{},"status":0,"quality":"good","origin":"poll","source":"acme/plant/load","seq":{n}}}"#,
            time + noise.i64(200..2_000)
        );
        (name, text)
    })
}

pub fn lake(quick: bool) -> Vec<Row> {
    // A thousand tags, as dense as a minute allows: of one at 1 Hz, a day's file would be made of more of the same.
    let (days, every) = if quick { (1, 300) } else { (2, 15) };
    let kafka = Kafka::millrace(200);
    let topic = kafka.topic("history");
    kafka.create_topic(&topic, 3, &[]);
    let (mut count, mut bytes) = (0_u64, 0_u64);
    let mut chunk: Vec<(String, String)> = Vec::new();
    let flush = |chunk: &mut Vec<(String, String)>| {
        kafka.produce(&topic, chunk.iter().map(|(key, value)| (key.as_str(), value.as_bytes())));
        chunk.clear();
    };
    for sample in samples(days, every) {
        count += 1;
        bytes += sample.1.len() as u64;
        chunk.push(sample);
        if chunk.len() == 50_000 {
            flush(&mut chunk);
        }
    }
    flush(&mut chunk);
    let folder = scratch("lake");
    let table = folder.path().join("table");
    let mut millrace = Factory::on(&kafka).with("topic", &topic).with("table", table.display()).prepare(FACTORY);
    let began = Instant::now();
    millrace.launch();
    millrace.wait_alive();
    let cpu = millrace.process().cpu_seconds();
    within(LONG, "all is committed", || {
        let counts = millrace.connector("history")["counts"].clone();
        (counts["written"].as_u64()? == count
            && (0..3).map(|part| kafka.committed(&group(), &topic, part).unwrap_or(0)).sum::<i64>() == count as i64)
            .then_some(())
    });
    let seconds = began.elapsed().as_secs_f64();
    let cpu = millrace.process().cpu_seconds() - cpu;
    let memory = millrace.process().memory_kib("VmHWM") >> 10;
    let compacted = millrace.run(&["lake", "compact", "--all", "-c", "factory.yaml", "--json"]);
    assert!(compacted.status.success(), "{}", String::from_utf8_lossy(&compacted.stderr));
    let checked = millrace.run(&["lake", "check", "-c", "factory.yaml", "--json"]);
    let checked: serde_json::Value = serde_json::from_slice(&checked.stdout).expect("it answers in JSON");
    assert_eq!(checked["rows"].as_u64(), Some(count), "{checked}");
    let on_disk = checked["bytes"].as_u64().unwrap_or(0);
    // One tag of a thousand over all of it.
    let mut command = peers::python(peers::lake());
    command.arg(peers::scripts().join("lake.py"));
    let mut readers = Script::start("the readers of the lake", command, "ready");
    let tag = "acme/plant/hall/machine-500/temperature";
    let mut best = (f64::INFINITY, f64::INFINITY);
    let (mut read, mut rows) = (0, 0);
    let port = millrace.http_port();
    for _ in 0..5 {
        // Both run already: what the start of a program takes is no question.
        let path = format!("/history?tag={tag}&from=2026-11-01&to=2026-12-01&limit=100000&lake_only=true");
        let began = Instant::now();
        let (code, said) = http::get(port, &path).expect("it answers over HTTP");
        let took = began.elapsed().as_secs_f64();
        assert_eq!(code, 200, "{said}");
        let said: serde_json::Value = serde_json::from_str(&said).expect("it answers in JSON");
        (read, rows) = (said["tags"][0]["bytes"].as_u64().unwrap_or(0), said["tags"][0]["rows"].as_array().map_or(0, Vec::len));
        let duck = readers.order(json!({"range": table, "tag": tag}));
        assert_eq!(duck["rows"].as_u64(), Some(rows as u64), "{duck}");
        best = (best.0.min(took), best.1.min(duck["seconds"].as_f64().unwrap_or(f64::INFINITY)));
    }
    millrace.kill9();
    let rival = rival(&kafka, &topic, count.min(1_000_000));
    let per_sample = on_disk as f64 / count as f64;
    vec![
        row(format!("lake: {count} samples from Kafka to committed Delta"), format!("{:.0} rows/s", count as f64 / seconds), "", ""),
        row(
            "  rows per CPU-second of the whole runtime, against a sink in Python (confluent-kafka, deltalake)",
            format!("{:.0}", count as f64 / cpu),
            ">= 3",
            format!("{:.1}", count as f64 / cpu / rival),
        ),
        row("  memory", format!("{memory} MiB"), "<= 256 MiB", ""),
        row(
            "  on disk, against the JSON in Kafka",
            format!("{per_sample:.1} B a sample"),
            "",
            format!("{:.3}", per_sample * count as f64 / bytes as f64),
        ),
        row(
            format!(
                "  one tag of {TAGS} over {days} days ({rows} rows) over HTTP, the table's opening included, against DuckDB's query alone"
            ),
            format!("{:.0} ms", best.0 * 1e3),
            "",
            format!("{:.2}", best.0 / best.1),
        ),
        row("  bytes of the table read for it", format!("{read}"), "< 2 %", format!("{:.1} %", read as f64 / on_disk as f64 * 100.0)),
    ]
}

/// Rows per CPU-second of a sink in Python.
fn rival(kafka: &Kafka, topic: &str, count: u64) -> f64 {
    let folder = scratch("rival");
    let packages = |python: &Path| python.ancestors().nth(2).expect("python lies in bin").join("packages");
    let path = std::env::join_paths([packages(peers::lake()), packages(peers::kafka_pythons())]).expect("folders make a path");
    let mut command = peers::python(peers::lake());
    command.env("PYTHONPATH", path).arg(peers::scripts().join("sink.py")).arg(kafka.brokers()).arg(topic);
    let output = command.arg(folder.path().join("table")).arg(count.to_string()).output().expect("Python starts");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)));
    said["rows"].as_f64().unwrap_or(0.0) / said["cpu"].as_f64().unwrap_or(f64::INFINITY)
}

fn group() -> String {
    "millrace-acme-plant-history".into()
}
