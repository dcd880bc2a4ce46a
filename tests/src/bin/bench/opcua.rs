//! OPC UA: the press shop's `Load` folder, all of whose values change ten times a second, read by Millrace and by a bare client that only counts.
//!
//! And what becomes of 5,000 changes a second when the connection is reset, the runtime killed, Kafka frozen: every node of `Load` counts by one, so
//! that what is missing between its first and its last value in Kafka shows.
//!
//! `count ENDPOINT NODES`: the bare client, of the library that Millrace reads with; prints how many values it got, again and again.

use crate::figures::{Child, LONG, Row, child, cpu_over, row, start_stub, stub_port};
use millrace_tests::wait::within;
use millrace_tests::{Cable, Factory, Kafka, Millrace, Process, Record, Registry, free_port, scratch};
use opcua::client::{ClientBuilder, DataChangeCallback, IdentityToken};
use opcua::crypto::SecurityPolicy;
use opcua::types::{
    MessageSecurityMode, MonitoredItemCreateRequest, MonitoringMode, MonitoringParameters, NodeId, ReadValueId, TimestampsToReturn,
    UserTokenPolicy,
};
use std::collections::{BTreeSet, HashMap};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const OPCUA: &str = "
schemas: {registry: '$registry'}
topics: {$topic: {format: avro, schema: telemetry, partitions: 6}}
sources:
  shop:
    type: opcua
    endpoint: $endpoint
    namespaces: {p: 'http://millrace.example/press-shop'}
    $security
    topic: $topic
    groups:
      - {every: 250ms, sampling: 100ms, report: all, browse: {from: 'Objects/p:Load', name: '{name}', limit: 200000}}
";

/// What begins at all begins within this.
const SHORT: Duration = Duration::from_secs(60);
/// Telegraf 1.x on this kind of machine, values per CPU-second: the middle of 105,000 to 145,000.
const TELEGRAF: f64 = 125_000.0;

/// The release binary's press shop, as a process of its own.
fn shop(nodes: u64) -> (Process, String, tempfile::TempDir) {
    let (dir, port) = (scratch("shop"), free_port());
    let mut command = Command::new(millrace_tests::millrace::binary());
    command.args(["simulate", "opcua", "--listen", &format!("127.0.0.1:{port}"), "--presses", "1", "--load", &nodes.to_string()]);
    command.arg("--pki").arg(dir.path().join("pki"));
    let process = Process::start("shop", command, &dir.path().join("log"));
    within(LONG, "the press shop listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    (process, format!("opc.tcp://127.0.0.1:{port}"), dir)
}

/// What the ledger says was lost before it came in, for whatever reason.
fn lost(millrace: &Millrace) -> u64 {
    millrace.connector("shop")["ledger"]["lost"].as_object().map_or(0, |all| all.values().filter_map(|n| n.as_u64()).sum())
}

/// Values a second, and CPU microseconds per value, of the bare client.
fn bare(nodes: u64, window: Duration) -> (f64, f64) {
    let (_shop, endpoint, _dir) = shop(nodes);
    let counter: Child = child("count", &["count", &endpoint, &nodes.to_string()]);
    let so_far = || counter.process.output().lines().last().and_then(|line| line.parse::<u64>().ok());
    within(SHORT, "values come to the bare client", || so_far().filter(|count| *count > nodes * 20));
    let before = so_far().unwrap_or(0);
    let cpu = cpu_over(&counter.process, window);
    let count = (so_far().unwrap_or(0) - before) as f64;
    (count / window.as_secs_f64(), cpu / count * 1e6)
}

/// Values a second, CPU microseconds per value, memory in MiB and values lost in the server's queues, of Millrace.
fn ours(nodes: u64, security: &str, window: Duration) -> (f64, f64, u64, u64) {
    let (_shop, endpoint, _dir) = shop(nodes);
    let port = stub_port();
    let _stub = start_stub(port);
    // As plants have it: an id in front of each value, and no header beside it.
    let registry = Registry::start();
    let factory = Factory::at(&format!("127.0.0.1:{port}")).with("registry", registry.url());
    let factory = factory.with("topic", "load").with("endpoint", &endpoint).with("security", security);
    let mut millrace = factory.start(OPCUA);
    if !security.is_empty() {
        millrace.wait_word("shop", "Blocked");
        let reason = millrace.connector("shop")["reason"].to_string();
        millrace.type_line_of(&reason);
    }
    within(SHORT, "values come", || (millrace.ledger("shop").produced > nodes * 20).then_some(()));
    let before = millrace.ledger("shop").received;
    let cpu = cpu_over(millrace.process(), window);
    let count = (millrace.ledger("shop").received - before) as f64;
    let lost = lost(&millrace);
    (count / window.as_secs_f64(), cpu / count * 1e6, millrace.process().memory_kib("VmHWM") / 1024, lost)
}

pub fn opcua(quick: bool) -> Vec<Row> {
    let window = Duration::from_secs(if quick { 8 } else { 30 });
    let (rate, us, memory, lost) = ours(10_000, "", window);
    let (bare_rate, bare_us) = bare(10_000, window);
    let security = "security: {policy: Basic256Sha256, mode: SignAndEncrypt}";
    let (secure_rate, secure_us, _, secure_lost) = ours(10_000, security, window);
    let figure = |rate: f64, us: f64| format!("{:.0} k values per CPU-s ({us:.2} us) at {:.0} k/s", 1e3 / us, rate / 1e3);
    let mut rows = vec![
        row(
            "OPC UA, 10,000 nodes at 10 Hz, to samples in Avro, into a stub",
            figure(rate, us),
            ">= 5 x Telegraf (125 k), 100 k/s",
            format!("{:.2}", 1e6 / us / TELEGRAF),
        ),
        row("  a bare client of the same library that only counts", figure(bare_rate, bare_us), "", format!("{:.2}", us / bare_us)),
        row("  lost in the server's queues; memory (VmHWM)", format!("{lost}; {memory} MiB"), "", ""),
        row("  with Basic256Sha256, SignAndEncrypt", format!("{}, {secure_lost} lost", figure(secure_rate, secure_us)), "", ""),
    ];
    if !quick {
        let (rate, _, memory, lost) = ours(100_000, "", window);
        rows.push(row("  100,000 nodes: memory (VmHWM)", format!("{memory} MiB at {:.0} k/s, {lost} lost", rate / 1e3), "stated", ""));
    }
    rows
}

/// What happens in the middle of it.
type Event = fn(&Cable, &mut Millrace, &Kafka);

const EVENTS: [(&str, Event); 3] = [
    ("one connection reset", |cable, _, _| cable.reset()),
    ("kill -9 of the runtime", |_, millrace, _| millrace.restart()),
    ("Kafka frozen for 15 s", |_, _, kafka| {
        kafka.freeze();
        std::thread::sleep(Duration::from_secs(15));
        kafka.thaw();
    }),
];

/// Values that are in Kafka, that are missing, and that the ledger says were lost, with an event in the middle.
fn through(event: Event, values: u64) -> (u64, u64, u64) {
    let (_shop, endpoint, _dir) = shop(500);
    let port = endpoint.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an endpoint ends with its port");
    let cable = Cable::to(port);
    let kafka = Kafka::start();
    let topic = kafka.topic("load");
    let factory = Factory::on(&kafka).with("registry", "none").with("topic", &topic).with("security", "");
    let factory = factory.with("endpoint", format!("opc.tcp://127.0.0.1:{}", cable.port()));
    let mut millrace = factory.start(&OPCUA.replace("format: avro, schema: telemetry", "format: json"));
    let so_far = |millrace: &Millrace| millrace.ledger("shop").produced;
    within(LONG, "values come", || (so_far(&millrace) > values).then_some(()));
    // A process that has just begun does not know yet what the one before it had.
    let before = so_far(&millrace);
    event(&cable, &mut millrace, &kafka);
    let before = so_far(&millrace).max(before);
    within(LONG, "values come after it", || (so_far(&millrace) > before + values).then_some(()));
    let named = lost(&millrace);
    millrace.stop();
    let mut numbers: HashMap<String, BTreeSet<u64>> = HashMap::new();
    for sample in kafka.read(&topic).iter().map(Record::json) {
        let (Some(tag), Some(value)) = (sample["tag"].as_str(), sample["value"].as_f64()) else { continue };
        numbers.entry(tag.to_owned()).or_default().insert(value as u64);
    }
    assert_eq!(numbers.len(), 500, "every node has values");
    let had: u64 = numbers.values().map(|numbers| numbers.len() as u64).sum();
    let span = |numbers: &BTreeSet<u64>| numbers.last().zip(numbers.first()).map_or(0, |(last, first)| last - first + 1);
    (had, numbers.values().map(span).sum::<u64>() - had, named)
}

pub fn losses(quick: bool) -> Vec<Row> {
    let values = if quick { 20_000 } else { 100_000 };
    EVENTS
        .iter()
        .map(|(what, event)| {
            let (had, missing, named) = through(*event, values);
            let figure = format!("{missing} missing beside {had}, {named} of them named");
            row(format!("OPC UA, 5,000 changes/s: {what}"), figure, "0, or named", "")
        })
        .collect()
}

pub fn count(endpoint: &str, nodes: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio starts");
    runtime.block_on(async {
        let dir = scratch("count");
        let builder =
            ClientBuilder::new().application_name("count").application_uri("urn:count").pki_dir(dir.path()).session_retry_limit(0);
        let builder = builder.max_array_length(1 << 20).max_message_size(64 << 20).max_chunk_count(1 << 16);
        let mut client = builder.trust_server_certs(true).client().expect("the client is complete");
        let target = (endpoint, SecurityPolicy::None.to_str(), MessageSecurityMode::None, UserTokenPolicy::anonymous());
        let (session, events) = client.connect_to_matching_endpoint(target, IdentityToken::Anonymous).await.expect("the server answers");
        let _events = events.spawn();
        session.wait_for_connection().await;
        let total = Arc::new(AtomicU64::new(0));
        let counted = total.clone();
        let heard = DataChangeCallback::new(move |_, _| _ = counted.fetch_add(1, Relaxed));
        let subscription =
            session.create_subscription(Duration::from_millis(250), 1_000, 20, 0, 0, true, heard).await.expect("a subscription");
        for chunk in (0..nodes).collect::<Vec<_>>().chunks(1_000) {
            let items = chunk.iter().map(|n| MonitoredItemCreateRequest {
                item_to_monitor: ReadValueId { node_id: NodeId::new(2, format!("Load.N{n:06}")), attribute_id: 13, ..Default::default() },
                monitoring_mode: MonitoringMode::Reporting,
                requested_parameters: MonitoringParameters {
                    client_handle: *n as u32 + 1,
                    sampling_interval: 100.0,
                    queue_size: 100,
                    discard_oldest: true,
                    ..Default::default()
                },
            });
            let created = session.create_monitored_items(subscription, TimestampsToReturn::Both, items.collect()).await.expect("items");
            assert!(created.iter().all(|item| item.result.status_code.is_good()), "{:?}", created.first().map(|item| &item.result));
        }
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            println!("{}", total.load(Relaxed));
        }
    });
}
