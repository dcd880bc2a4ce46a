//! The rows of the table: what is started, what is measured, what it is compared with.

use crate::bare;
use crate::latency::Ages;
use millrace_tests::wait::within;
use millrace_tests::{Cable, Factory, Kafka, Millrace, Mosquitto, Process, free_port, scratch, stub};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// One line of the table.
pub struct Row {
    pub what: String,
    pub figure: String,
    pub goal: String,
    pub ratio: String,
}

pub fn row(what: impl Into<String>, figure: impl Into<String>, goal: impl Into<String>, ratio: impl Into<String>) -> Row {
    Row { what: what.into(), figure: figure.into(), goal: goal.into(), ratio: ratio.into() }
}

pub const LONG: Duration = Duration::from_secs(1_800);

/// Avro samples of a generator, six partitions.
const AVRO: &str = "
topics: {$topic: {format: avro, schema: telemetry, partitions: 6}}
log: {size: 64GiB, keep_free: 1GiB}
sources:
  load: {type: generator, at: load, topic: $topic, tags: $tags, $pace shapes: [sine], report: all}
";

/// The same samples as JSON, whose time a consumer reads without a schema.
pub const JSON: &str = "
topics: {$topic: {format: json, partitions: 6}}
sources:
  load: {type: generator, at: load, topic: $topic, tags: $tags, $pace shapes: [sine], report: all}
";

fn me(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a process knows its own file"));
    command.args(args);
    command
}

pub struct Child {
    pub process: Process,
    _dir: tempfile::TempDir,
}

pub fn child(name: &str, args: &[&str]) -> Child {
    let dir = scratch(name);
    let log = dir.path().join("log");
    Child { process: Process::start(name, me(args), &log), _dir: dir }
}

pub fn start_stub(port: u16) -> Child {
    let stub = child("stub", &["stub", &port.to_string()]);
    within(LONG, "the stub serves", || stub::counts(port).ok());
    stub
}

/// CPU seconds that pass in a window.
pub fn cpu_over(process: &Process, window: Duration) -> f64 {
    let before = process.cpu_seconds();
    std::thread::sleep(window);
    process.cpu_seconds() - before
}

/// Some of what the runtime wrote, in a file for the bare producer; and the mean size of a record.
fn recorded(kafka: &Kafka, topic: &str, folder: &Path) -> (PathBuf, f64) {
    let mut follow = kafka.follow(topic);
    let records = follow.count(50_000);
    let records = &records[..50_000];
    let bytes: usize = records
        .iter()
        .map(|record| {
            let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len)).sum();
            record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len) + headers
        })
        .sum();
    let file = folder.join("recorded");
    bare::save(records, &file);
    (file, bytes as f64 / records.len() as f64)
}

fn wait_produced(millrace: &Millrace, source: &str, count: u64) {
    within(LONG, "records are produced", || (millrace.ledger(source).produced >= count).then_some(()));
}

pub fn produce(quick: bool) -> Vec<Row> {
    let window = Duration::from_secs(if quick { 8 } else { 30 });
    let kafka = Kafka::start();
    let topic = kafka.topic("produce");
    let factory = Factory::on(&kafka).with("topic", &topic).with("tags", 1_000).with("pace", "rate: 50000/s,");
    let folder = factory.dir().to_owned();
    let mut millrace = factory.start(AVRO);
    wait_produced(&millrace, "load", 150_000);
    let before = millrace.ledger("load").produced;
    let cpu = cpu_over(millrace.process(), window);
    let produced = millrace.ledger("load").produced - before;
    let (file, size) = recorded(&kafka, &topic, &folder);
    millrace.kill9();
    let ours = cpu / produced as f64 * 1e6;

    let bare = child("bare", &["bare", &kafka.brokers(), &topic, &file.display().to_string(), "50000", "0"]);
    std::thread::sleep(Duration::from_secs(3));
    let yardstick = cpu_over(&bare.process, window) / (50_000.0 * window.as_secs_f64()) * 1e6;
    vec![
        row(
            format!("CPU per record at 50,000 records/s of {size:.0} B into Kafka"),
            format!("{ours:.2} us at {:.0}/s, bare rdkafka {yardstick:.2} us", produced as f64 / window.as_secs_f64()),
            "<= 2 x",
            format!("{:.2}", ours / yardstick),
        ),
        row("  its memory (VmHWM)", format!("{} MiB", bare_mib(&bare.process)), "", ""),
    ]
}

fn bare_mib(process: &Process) -> u64 {
    process.memory_kib("VmHWM") / 1024
}

/// What an outage of Kafka costs while records keep coming: nothing is to be done over and over again.
pub fn outage(quick: bool) -> Vec<Row> {
    let window = Duration::from_secs(if quick { 10 } else { 40 });
    type Fault = fn(&Kafka, &Cable);
    let faults: [(&str, Fault, Fault); 4] = [
        ("frozen", |kafka, _| kafka.freeze(), |kafka, _| kafka.thaw()),
        ("refused", |_, cable| cable.refuse(), |_, cable| cable.heal()),
        ("a black hole", |_, cable| cable.half_open(), |_, cable| cable.heal()),
        ("50 ms away", |_, cable| cable.delay(Duration::from_millis(25)), |_, cable| cable.heal()),
    ];
    let kafka = Kafka::options().proxied().start();
    let cable = Cable::between(kafka.proxy_port(), kafka.behind_proxy());
    let topic = kafka.topic("outage");
    let factory = Factory::at(&format!("127.0.0.1:{}", cable.port())).with("topic", &topic).with("tags", 1_000);
    let mut millrace = factory.with("pace", "rate: 5000/s,").start(AVRO);
    let mut rows = Vec::new();
    for (name, begin, end) in faults {
        // Behind an outage comes the catch-up: it is over before the next one is compared with what is usual.
        within(LONG, "nothing waits", || {
            let ledger = millrace.ledger("load");
            (ledger.produced > 20_000 && ledger.waiting < 5_000).then_some(())
        });
        let usual = cpu_over(millrace.process(), window);
        begin(&kafka, &cable);
        // Until it is noticed, and the queue of the client is full.
        std::thread::sleep(Duration::from_secs(8));
        let cpu = cpu_over(millrace.process(), window);
        end(&kafka, &cable);
        let percent = |cpu: f64| cpu / window.as_secs_f64() * 100.0;
        rows.push(row(
            format!("CPU at 5,000 records/s while Kafka is {name}"),
            format!("{:.1} % of a core, {:.1} % before", percent(cpu), percent(usual)),
            "<= 1.5 x",
            format!("{:.2}", cpu / usual),
        ));
    }
    rows
}

pub fn catch_up(quick: bool) -> Vec<Row> {
    let bytes = if quick { 128 << 20 } else { 1 << 30 } as f64;
    // What the records look like, from a small run.
    let kafka = Kafka::start();
    let topic = kafka.topic("catch-up");
    let factory = Factory::on(&kafka).with("topic", &topic).with("tags", 1_000).with("pace", "count: 60000,");
    let folder = scratch("recorded");
    let (file, size) = {
        let millrace = factory.start(AVRO);
        wait_produced(&millrace, "load", 60_000);
        recorded(&kafka, &topic, folder.path())
    };
    drop(kafka);
    let count = (bytes / size) as u64;

    let port = stub_port();
    let factory =
        Factory::at(&format!("127.0.0.1:{port}")).with("topic", &topic).with("tags", 1_000).with("pace", format!("count: {count},"));
    let mut millrace = factory.start(AVRO);
    // A first start asks Kafka for positions before it begins; the filling is measured from there.
    within(LONG, "the source has begun", || (millrace.ledger("load").received > 0).then_some(()));
    let filling = Instant::now();
    within(LONG, "the backlog is in the log", || (millrace.ledger("load").received >= count).then_some(()));
    let filled = filling.elapsed().as_secs_f64();
    let log_bytes = millrace.connector("load")["log_bytes"].as_u64().unwrap_or(0);
    let stub = start_stub(port);
    within(LONG, "the catch-up begins", || (stub::counts(port).ok()?.0 > 10_000).then_some(()));
    let (began, first, cpu) = (Instant::now(), stub::counts(port).unwrap().0, millrace.process().cpu_seconds());
    // Ledgers are behind by a moment; the receiver isn't.
    let last = within(LONG, "the backlog is delivered", || {
        stub::counts(port).ok().filter(|(records, _)| *records >= count).map(|(records, _)| records)
    });
    let ours = (last - first) as f64 / began.elapsed().as_secs_f64();
    let our_cpu = (millrace.process().cpu_seconds() - cpu) / (last - first) as f64 * 1e6;
    let hwm = millrace.process().memory_kib("VmHWM") / 1024;
    drop(millrace);
    drop(stub);

    let stub = start_stub(port);
    let output = me(&["bare", &format!("127.0.0.1:{port}"), &topic, &file.display().to_string(), "0", &count.to_string()])
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seconds: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds");
    let yardstick = count as f64 / seconds;
    drop(stub);
    let mib = |records: f64| records * size / (1 << 20) as f64;
    vec![
        row(
            format!("catch-up of {:.0} MiB ({count} records) into a stub", bytes / (1 << 20) as f64),
            format!(
                "{:.0} MiB/s ({:.0} k/s), bare rdkafka {:.0} MiB/s ({:.0} k/s)",
                mib(ours),
                ours / 1e3,
                mib(yardstick),
                yardstick / 1e3
            ),
            ">= 0.8 x",
            format!("{:.2}", ours / yardstick),
        ),
        row("  CPU per record, memory (VmHWM)", format!("{our_cpu:.2} us, {hwm} MiB"), "", ""),
        row(
            "  bytes on disk per sample, hours of outage per GB at 10,000/s",
            format!("{:.1} B, {:.1} h", log_bytes as f64 / count as f64, 1e9 / (log_bytes as f64 / count as f64) / 10_000.0 / 3_600.0),
            "",
            "",
        ),
        row("  filling: generator to synced log", format!("{:.0} k/s", count as f64 / filled / 1e3), "", ""),
    ]
}

/// A port whose neighbour is free as well: the stub's counts are there.
pub fn stub_port() -> u16 {
    loop {
        let port = free_port();
        if std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

pub fn exactly_once(quick: bool) -> Vec<Row> {
    let count: u64 = if quick { 500_000 } else { 3_000_000 };
    let rate_of = |exactly: bool| {
        let kafka = Kafka::options().proxied().start();
        let cable = Cable::between(kafka.proxy_port(), kafka.behind_proxy());
        cable.cut();
        let topic = kafka.topic("drain");
        let mut factory = Factory::at(&format!("127.0.0.1:{}", cable.port()))
            .with("topic", &topic)
            .with("tags", 1_000)
            .with("pace", format!("count: {count},"));
        if exactly {
            factory = factory.exactly_once();
        }
        let millrace = factory.start(AVRO);
        within(LONG, "the backlog is in the log", || (millrace.ledger("load").received >= count).then_some(()));
        cable.heal();
        wait_produced(&millrace, "load", 1);
        let (began, first) = (Instant::now(), millrace.ledger("load").produced);
        wait_produced(&millrace, "load", count);
        (count - first) as f64 / began.elapsed().as_secs_f64()
    };
    let (at_least, exactly) = (rate_of(false), rate_of(true));
    let kafka = Kafka::start();
    let ages = ages_at(&kafka, Factory::on(&kafka).exactly_once(), "5000/s", quick);
    vec![
        row(
            "exactly_once against at_least_once, 100 ms commit, backlog into Kafka",
            format!("{:.0} k/s, {:.0} k/s", exactly / 1e3, at_least / 1e3),
            ">= 0.7 x",
            format!("{:.2}", exactly / at_least),
        ),
        row(
            "  age at a read_committed reader, 5,000/s",
            format!("p50 {:.0} ms, p99 {:.0} ms", ages.quantile(0.5), ages.quantile(0.99)),
            "stated",
            "",
        ),
    ]
}

fn ages_at(kafka: &Kafka, factory: Factory, rate: &str, quick: bool) -> Ages {
    let topic = kafka.topic("ages");
    let millrace = factory.with("topic", &topic).with("tags", 1_000).with("pace", format!("rate: {rate},")).start(JSON);
    wait_produced(&millrace, "load", 10_000);
    Ages::of(kafka, &topic, 6, Duration::from_secs(if quick { 8 } else { 30 }))
}

pub fn latency(quick: bool) -> Vec<Row> {
    let kafka = Kafka::start();
    let ages = ages_at(&kafka, Factory::on(&kafka), "5000/s", quick);
    let goal = 5.0 + 10.0;
    vec![row(
        format!("source time to consumer, 5,000 values/s ({} of them)", ages.count()),
        format!("p50 {:.1} ms, p99 {:.1} ms", ages.quantile(0.5), ages.quantile(0.99)),
        "p99 <= linger (5 ms) + 10 ms",
        format!("{:.2}", ages.quantile(0.99) / goal),
    )]
}

const MQTT: &str = "
topics: {$topic: {format: json, partitions: 6}}
sources:
  cells:
    type: mqtt
    endpoint: $broker
    topic: $topic
    subscribe:
      - {filter: 'plant/+/telemetry', payload: json, qos: 1, at: 'plant/{1}', samples: {v: /v}, time: {at: /ts, unit: us}, report: all}
";

/// Telegraf 1.x on this kind of machine, messages per CPU-second: the middle of 41,000 to 54,000.
const TELEGRAF: f64 = 47_500.0;

fn under_mqtt_load(topics: u64, publishers: u64, rate: u64, measure: impl FnOnce(&Kafka, &str, &mut Millrace) -> Vec<Row>) -> Vec<Row> {
    let kafka = Kafka::start();
    // The default of 20 would measure the round trips, not the runtime.
    let broker = Mosquitto::options().quiet().line("max_inflight_messages 5000").start();
    let topic = kafka.topic("mqtt");
    let mut millrace = Factory::on(&kafka).with("broker", broker.url()).with("topic", &topic).start(MQTT);
    millrace.wait_running("cells");
    let each = (rate / publishers).to_string();
    let _load: Vec<Child> =
        (0..publishers).map(|_| child("publish", &["publish", &broker.port().to_string(), &each, &topics.to_string()])).collect();
    measure(&kafka, &topic, &mut millrace)
}

pub fn mqtt(quick: bool) -> Vec<Row> {
    let window = Duration::from_secs(if quick { 8 } else { 30 });
    under_mqtt_load(1_000, 2, 20_000, |kafka, topic, millrace| {
        wait_produced(millrace, "cells", 100_000);
        let before = millrace.ledger("cells").received;
        let cpu = cpu_over(millrace.process(), window);
        let received = (millrace.ledger("cells").received - before) as f64;
        let ages = Ages::of(kafka, topic, 6, window);
        let per_cpu = received / cpu;
        vec![row(
            "MQTT JSON to samples, QoS 1, Mosquitto to Kafka",
            format!(
                "{:.0} k messages per CPU-s at {:.0} k/s, p50 {:.0} ms, p99 {:.0} ms",
                per_cpu / 1e3,
                received / window.as_secs_f64() / 1e3,
                ages.quantile(0.5),
                ages.quantile(0.99)
            ),
            ">= 5 x Telegraf (47.5 k)",
            format!("{:.2}", per_cpu / TELEGRAF),
        )]
    })
}

pub fn devices(quick: bool) -> Vec<Row> {
    let messages = if quick { 300_000 } else { 1_000_000 };
    under_mqtt_load(100_000, 1, 10_000, |_, _, millrace| {
        wait_produced(millrace, "cells", messages);
        let process = millrace.process();
        vec![row(
            format!("100,000 devices with a topic each, 10,000 messages/s, after {messages}"),
            format!("VmHWM {} MiB, VmRSS {} MiB", process.memory_kib("VmHWM") / 1024, process.memory_kib("VmRSS") / 1024),
            "stated",
            "",
        )]
    })
}

pub fn memory(quick: bool) -> Vec<Row> {
    let outage = Duration::from_secs(if quick { 60 } else { 600 });
    [(10_000u64, 96u64), (100_000, 256)]
        .into_iter()
        .map(|(tags, goal)| {
            let port = stub_port();
            let stub = start_stub(port);
            let factory = Factory::at(&format!("127.0.0.1:{port}"))
                .with("topic", "memory")
                .with("tags", tags)
                .with("pace", format!("rate: {tags}/s,"));
            let mut millrace = factory.start(AVRO);
            wait_produced(&millrace, "load", tags * 5);
            drop(stub);
            std::thread::sleep(outage);
            let _stub = start_stub(port);
            within(LONG, "the catch-up is done", || (millrace.ledger("load").waiting < tags).then_some(()));
            let hwm = millrace.process().memory_kib("VmHWM") / 1024;
            row(
                format!("VmHWM, {tags} tags at 1 Hz, {} s of outage and the catch-up", outage.as_secs()),
                format!("{hwm} MiB"),
                format!("<= {goal} MiB"),
                format!("{:.2}", hwm as f64 / goal as f64),
            )
        })
        .collect()
}
