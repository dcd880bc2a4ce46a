//! Live data for many, and what the page costs: clients that read, clients that never do, and people who look.

use crate::figures::{LONG, Row, cpu_over, row, start_stub, stub_port};
use millrace_tests::wait::within;
use millrace_tests::{Browser, Factory, Millrace, free_port, http, scratch};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const FACTORY: &str = "
log: {size: 64GiB, keep_free: 1GiB}
topics: {$topic: {format: avro, schema: telemetry, partitions: 6}}
sources:
  load: {type: generator, at: load, topic: $topic, tags: $tags, rate: $rate/s, shapes: [sine], report: all}
";

const CLIENTS: usize = 1_000;

/// A runtime whose tags have a value each second, into a stub.
fn plant(port: u16, tags: u64) -> Millrace {
    let factory = Factory::at(&format!("127.0.0.1:{port}")).with("topic", "live").with("tags", tags).with("rate", tags);
    let millrace = factory.start(FACTORY);
    within(LONG, "every tag has a value", || (millrace.ledger("load").received > tags * 2).then_some(()));
    millrace
}

/// Clients of server-sent events, all served by one thread.
struct Clients {
    events: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    reads: Option<JoinHandle<usize>>,
}

impl Clients {
    fn open(millrace: &Millrace, count: usize, path: impl Fn(usize) -> String) -> Self {
        let port = millrace.http_port();
        let mut streams: Vec<TcpStream> = (0..count).map(|client| ask(port, &path(client))).collect();
        let (events, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, told) = (events.clone(), ends.clone());
        let reads = std::thread::spawn(move || {
            let mut buffer = [0; 64 << 10];
            while !told.load(Relaxed) {
                streams.retain_mut(|stream| {
                    loop {
                        match stream.read(&mut buffer) {
                            Ok(0) => return false,
                            Ok(read) => {
                                let found = buffer[..read].windows(7).filter(|bytes| bytes == b"event: ").count();
                                counted.fetch_add(found as u64, Relaxed);
                            }
                            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                            Err(_) => return false,
                        }
                    }
                });
                std::thread::sleep(Duration::from_millis(50));
            }
            streams.len()
        });
        Self { events, ends, reads: Some(reads) }
    }

    /// How many are still connected.
    fn close(mut self) -> usize {
        self.ends.store(true, Relaxed);
        self.reads.take().map_or(0, |reads| reads.join().expect("it reads"))
    }
}

/// Asks, and does not wait for the answer.
fn ask(port: u16, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\naccept: text/event-stream\r\n\r\n").expect("it takes a request");
    stream.set_nonblocking(true).expect("it can");
    stream
}

/// Most systems give a program 1,024 files unless it asks for more.
fn allow_many_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most).expect("a soft limit can be raised");
}

fn metric(millrace: &Millrace, name: &str) -> f64 {
    let metrics = millrace.metrics();
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(f64::NAN)
}

pub fn live(quick: bool) -> Vec<Row> {
    allow_many_files();
    let window = Duration::from_secs(if quick { 10 } else { 30 });
    let port = stub_port();
    let _stub = start_stub(port);
    let mut millrace = plant(port, CLIENTS as u64);
    let alone = cpu_over(millrace.process(), window) / window.as_secs_f64();
    let memory = millrace.process().memory_kib("VmRSS");
    let tags: Vec<String> = {
        let (_, tags) = http::get(millrace.http_port(), &format!("/tags?limit={CLIENTS}")).expect("it answers");
        let tags: serde_json::Value = serde_json::from_str(&tags).expect("it is JSON");
        let tags = tags["tags"].as_array().expect("a list").iter();
        tags.map(|tag| tag["tag"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(tags.len(), CLIENTS);
    let of = |what: &str, alone: f64, millrace: &mut Millrace, path: &dyn Fn(usize) -> String| {
        let clients = Clients::open(millrace, CLIENTS, path);
        within(LONG, "each has something", || (clients.events.load(Relaxed) > CLIENTS as u64 * 2).then_some(()));
        let before = clients.events.load(Relaxed);
        let cpu = cpu_over(millrace.process(), window) / window.as_secs_f64();
        let events = (clients.events.load(Relaxed) - before) as f64 / window.as_secs_f64();
        let grown = millrace.process().memory_kib("VmRSS").saturating_sub(memory);
        let (slow, still) = (metric(millrace, "millrace_live_slow_total"), clients.close());
        row(
            what,
            format!(
                "{:.1} % of a core above {:.1} % ({:.1} us an event, {events:.0}/s), {:.1} MiB more ({} KiB each); {still} stay, {slow} slow",
                (cpu - alone) * 100.0,
                alone * 100.0,
                (cpu - alone) / events * 1e6,
                grown as f64 / 1024.0,
                grown / CLIENTS as u64,
            ),
            "stated",
            "",
        )
    };
    let mut rows = vec![of("1,000 clients (SSE) of 1,000 tags at 1 Hz, each of one", alone, &mut millrace, &|client| {
        format!("/live?tag={}", tags[client])
    })];
    rows.push(of("  all of the same tag", alone, &mut millrace, &|_| format!("/live?tag={}", tags[0])));

    // None reads a byte: each is sent what its socket takes, and let go once the ring has left it behind.
    let before = millrace.process().memory_kib("VmRSS");
    let deaf: Vec<TcpStream> = (0..CLIENTS).map(|_| ask(millrace.http_port(), "/live")).collect();
    let began = Instant::now();
    let cpu = cpu_over(millrace.process(), window) / window.as_secs_f64();
    let mut most = 0;
    within(LONG, "they are left behind", || {
        most = most.max(millrace.process().memory_kib("VmRSS"));
        (metric(&millrace, "millrace_live_slow_total") >= CLIENTS as f64).then_some(())
    });
    let gone = began.elapsed().as_secs_f64();
    drop(deaf);
    rows.push(row(
        "  1,000 that ask for all of it and never read",
        format!(
            "{:.1} % of a core, at most {:.0} MiB more, all let go after {gone:.0} s",
            cpu * 100.0,
            (most - before.min(most)) as f64 / 1024.0
        ),
        "bounded",
        "",
    ));
    rows
}

/// Units behind five gateways, each a part of its source.
fn devices(port: u16, gateway: u16) -> Millrace {
    let units: String = (1..=200)
        .map(|n| format!("m{n}: {{unit_id: {n}, groups: [{{every: 1s, tags: {{v: {{address: 'input:1000', as: f32}}}}}}]}}, "))
        .collect();
    let sources: String = (1..=5)
        .map(|n| {
            format!("  hall{n}: {{type: modbus, endpoint: 'tcp://127.0.0.1:{gateway}', at: hall{n}, topic: live, devices: {{{units}}}}}\n")
        })
        .collect();
    let text = format!("topics: {{live: {{format: avro, schema: telemetry}}}}\nsources:\n{sources}");
    let millrace = Factory::at(&format!("127.0.0.1:{port}")).start(&text);
    within(LONG, "every device answers", || {
        let sources = (1..=5).map(|n| millrace.connector(&format!("hall{n}")));
        let mut devices = sources.map(|source| source["ledger"]["received"].as_u64().unwrap_or(0));
        devices.all(|received| received >= 400).then_some(())
    });
    millrace
}

pub fn console(quick: bool) -> Vec<Row> {
    let window = Duration::from_secs(if quick { 10 } else { 30 });
    let port = stub_port();
    let _stub = start_stub(port);
    let mut millrace = plant(port, 100_000);
    let page = format!("http://127.0.0.1:{}/", millrace.http_port());
    // What a start costs is over by then.
    std::thread::sleep(Duration::from_secs(30));
    let alone = cpu_over(millrace.process(), window) / window.as_secs_f64();
    let browser = Browser::start(false);
    // The browser's own start is not the page's.
    browser.open("about:blank");
    let mut paints: Vec<f64> = (0..5)
        .map(|_| {
            browser.open(&page);
            let paint = "return performance.getEntriesByType('paint').find((paint) => paint.name === 'first-contentful-paint')?.startTime";
            within(LONG, "it is painted", || browser.run(paint, &[]).as_f64())
        })
        .collect();
    paints.sort_by(f64::total_cmp);
    browser.text_until("#overall", |text| !text.is_empty());
    // A browser has six connections to one server, and a page holds one: two people each have a browser, and five windows.
    let other = Browser::start(false);
    let mut viewed = |what: &str, view: &str, windows: usize| {
        for browser in [&browser, &other] {
            browser.open(&format!("{page}{view}"));
            (0..windows).for_each(|_| browser.another_window(&format!("{page}{view}")));
        }
        std::thread::sleep(Duration::from_secs(5));
        let cpu = cpu_over(millrace.process(), window) / window.as_secs_f64();
        row(
            what,
            format!("{:.2} % of a core above {:.1} %", (cpu - alone) * 100.0, alone * 100.0),
            "< 2 %",
            format!("{:.2}", (cpu - alone) * 100.0 / 2.0),
        )
    };
    let mut rows = vec![
        row(
            "console with 100,000 tags at 1 Hz: first paint in Chromium, of five",
            format!("{:.0} ms, at most {:.0} ms", paints[paints.len() / 2], paints[paints.len() - 1]),
            "< 1 s",
            format!("{:.2}", paints[paints.len() / 2] / 1000.0),
        ),
        viewed("  ten windows show the overview", "", 4),
        viewed("  and two of them the tags", "#tags", 0),
    ];
    drop(millrace);

    let (gateway, dir) = (free_port(), scratch("gateway"));
    let mut command = std::process::Command::new(millrace_tests::millrace::binary());
    command.args(["simulate", "modbus", "--listen", &format!("127.0.0.1:{gateway}"), "--meters", "200", "--load", "1"]);
    let _gateway = millrace_tests::Process::start("gateway", command, &dir.path().join("log"));
    within(LONG, "the simulator listens", || TcpStream::connect(("127.0.0.1", gateway)).ok());
    let millrace = devices(port, gateway);
    let mut took: Vec<f64> = (0..200)
        .map(|_| {
            let began = Instant::now();
            let (code, _) = http::get(millrace.http_port(), "/status").expect("it answers");
            assert_eq!(code, 200);
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    took.sort_by(f64::total_cmp);
    let (middle, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    rows.push(row("/status with 1,000 devices", format!("p50 {middle:.1} ms, p99 {p99:.1} ms"), "< 50 ms", format!("{:.2}", p99 / 50.0)));
    rows
}
