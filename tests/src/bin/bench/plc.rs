//! PLCs: meters behind a simulated gateway and a simulated S7 CPU, each a process of its own, read into a stub that takes everything.
//!
//! The reference is Telegraf 1.x on machines of this kind, values per CPU-second: Modbus 134-141 k as a metric per value, 450-530 k with 250 in one; S7
//! 222-335 k.

use crate::figures::{LONG, Row, cpu_over, row, start_stub, stub_port};
use millrace_tests::wait::within;
use millrace_tests::{Factory, Millrace, Process, Registry, free_port, scratch};
use std::process::Command;
use std::time::Duration;

const TELEGRAF_SAMPLES: f64 = 137_000.0;
const TELEGRAF_WIDE: f64 = 490_000.0;
const TELEGRAF_S7: f64 = 280_000.0;

const FACTORY: &str = "
log: {size: 64GiB, keep_free: 1GiB}
schemas: {registry: '$registry'}
topics: {$topic: {format: avro, $shape partitions: 6}}
templates:
  meter: {groups: [{every: 1s, report: all, tags_from: tags.csv}]}
sources:
  plc:
    type: $type
    endpoint: $endpoint
    topic: $topic
    $more
";

/// A simulator of the release binary, and what `endpoint` it has.
fn simulator(kind: &str, args: &[&str]) -> (Process, u16, tempfile::TempDir) {
    let (dir, port) = (scratch(kind), free_port());
    let mut command = Command::new(millrace_tests::millrace::binary());
    command.args(["simulate", kind, "--listen", &format!("127.0.0.1:{port}")]).args(args);
    let process = Process::start(kind, command, &dir.path().join("log"));
    within(LONG, "the simulator listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    (process, port, dir)
}

struct Measured {
    /// Values a second, those without a value included.
    rate: f64,
    /// Records into the log a second: what a dead unit does not say is in none.
    records: f64,
    /// CPU microseconds per value.
    us: f64,
    /// Of one core.
    load: f64,
    memory_mib: u64,
    lost: u64,
}

struct Case<'c> {
    kind: &'c str,
    endpoint: String,
    shape: &'c str,
    /// The table of tags.
    tags: String,
    /// More of the source's YAML.
    more: String,
    values: u64,
}

fn measure(case: &Case<'_>, window: Duration) -> Measured {
    let port = stub_port();
    let _stub = start_stub(port);
    let registry = Registry::start();
    let factory = Factory::at(&format!("127.0.0.1:{port}")).with("registry", registry.url()).with("topic", "plc");
    let factory = factory.with("shape", case.shape).with("type", case.kind).with("endpoint", &case.endpoint).with("more", &case.more);
    let mut millrace = factory.file("tags.csv", &case.tags).start(FACTORY);
    let received = |millrace: &Millrace| millrace.ledger("plc").received;
    within(LONG, "values come", || (received(&millrace) > case.values * 5).then_some(()));
    let before = millrace.ledger("plc");
    let cpu = cpu_over(millrace.process(), window);
    let after = millrace.ledger("plc");
    let count = (after.received - before.received) as f64;
    let lost = millrace.connector("plc")["ledger"]["lost"].as_object().map_or(0, |all| all.values().filter_map(|n| n.as_u64()).sum());
    Measured {
        rate: count / window.as_secs_f64(),
        records: (after.appended - before.appended) as f64 / window.as_secs_f64(),
        us: cpu / count * 1e6,
        load: cpu / window.as_secs_f64(),
        memory_mib: millrace.process().memory_kib("VmHWM") / 1024,
        lost,
    }
}

fn window(quick: bool) -> Duration {
    Duration::from_secs(if quick { 10 } else { 30 })
}

fn figure(m: &Measured) -> String {
    format!("{:.0} k values per CPU-s ({:.2} us) at {:.1} k/s", 1e3 / m.us, m.us, m.rate / 1e3)
}

fn registers(count: u16) -> String {
    let rows = (0..count).map(|n| format!("v{n},input:{},f32\n", 1000 + 2 * n));
    format!("name,address,as\n{}", rows.collect::<String>())
}

fn units(count: u8, more: &str) -> String {
    let units = (1..=count).map(|n| format!("m{n}: {{use: meter, unit_id: {n}, at: hall/m{n}}}"));
    format!("devices: {{{}{more}}}", units.collect::<Vec<_>>().join(", "))
}

const WIDE: &str = "shape: scan,";
const SAMPLES: &str = "schema: telemetry,";

/// Values of one table, in order: where each begins, and how many registers or bits it has.
struct Table {
    name: &'static str,
    kind: &'static str,
    values: Vec<(u32, u32)>,
}

/// What a plant has on one device: 500 values in coils, discrete inputs, input and holding registers, with holes between them.
fn plant() -> Vec<Table> {
    let mut random = fastrand::Rng::with_seed(13);
    let mut table = |name, kind, registers: u32, count: u32, hole_every: u32, hole_most: u32| {
        let mut at = 100;
        let values = (0..count).map(|n| {
            if n % hole_every == hole_every - 1 {
                at += 1 + random.u32(..hole_most);
            }
            at += registers;
            (at - registers, registers)
        });
        Table { name, kind, values: values.collect() }
    };
    vec![
        table("coil", "", 1, 60, 8, 40),
        table("discrete", "", 1, 80, 8, 300),
        table("input", "f32", 2, 160, 8, 30),
        table("holding", "i16", 1, 200, 5, 25),
    ]
}

/// The fewest requests that read values over holes of 16 registers at most, by trying every end of each.
fn fewest(table: &Table) -> usize {
    let (most, hole) = if table.kind.is_empty() { (2000, 256) } else { (125, 16) };
    let values = &table.values;
    let mut least = vec![usize::MAX; values.len() + 1];
    least[0] = 0;
    for from in 0..values.len() {
        for to in from..values.len() {
            let end = values[to].0 + values[to].1;
            if end - values[from].0 > most || to > from && values[to].0 > values[to - 1].0 + values[to - 1].1 + hole {
                break;
            }
            least[to + 1] = least[to + 1].min(least[from] + 1);
        }
    }
    least[values.len()]
}

/// Requests a cycle of such a device, as `millrace plan` names them.
fn requests() -> Row {
    let tables = plant();
    let mut tags = "name,address,as\n".to_owned();
    for Table { name, kind, values } in &tables {
        tags.extend(values.iter().map(|(at, _)| format!("{name}{at},{name}:{at},{kind}\n")));
    }
    let factory = Factory::at("127.0.0.1:1").with("registry", "http://127.0.0.1:1").with("topic", "plc").with("shape", SAMPLES);
    let factory = factory.with("type", "modbus").with("endpoint", "tcp://127.0.0.1:502").with("more", units(1, ""));
    let plan = factory.file("tags.csv", &tags).prepare(FACTORY).run(&["plan", "-c", "factory.yaml"]);
    let said = String::from_utf8_lossy(&plan.stdout).into_owned();
    let planned = said.lines().filter(|line| line.trim_start().starts_with("FC")).count();
    assert!(planned > 0, "{said}{}", String::from_utf8_lossy(&plan.stderr));
    let best: usize = tables.iter().map(fewest).sum();
    row(
        "Modbus, a device of 500 tags: requests a cycle, of `millrace plan`",
        format!("{planned}, the fewest {best}, one for each tag 500"),
        "<= 1.1 x the fewest",
        format!("{:.2}", planned as f64 / best as f64),
    )
}

pub fn modbus(quick: bool) -> Vec<Row> {
    let window = window(quick);
    let (_gateway, port, _dir) = simulator("modbus", &["--meters", "40", "--load", "250"]);
    let case = |shape, more| Case {
        kind: "modbus",
        endpoint: format!("tcp://127.0.0.1:{port}"),
        shape,
        tags: registers(250),
        more,
        values: 10_000,
    };
    let each = measure(&case(SAMPLES, units(40, "")), window);
    let wide = measure(&case(WIDE, units(40, "")), window);
    // There is no unit 247: a timeout each time that it is asked.
    let dead = measure(&case(SAMPLES, units(40, ", dead: {use: meter, unit_id: 247, at: hall/dead}")), window * 3);
    let meters: u8 = if quick { 20 } else { 100 };
    let tags = u64::from(meters) * 1000;
    let (_hall, port, _dir) = simulator("modbus", &["--meters", &meters.to_string(), "--load", "1000"]);
    let hall =
        Case { endpoint: format!("tcp://127.0.0.1:{port}"), tags: registers(1000), values: tags, ..case(SAMPLES, units(meters, "")) };
    let hall = measure(&hall, window);
    vec![
        requests(),
        row(
            "Modbus, 40 units x 250 f32 at 1 Hz, a record per value in Avro, into a stub",
            figure(&each),
            ">= 5 x Telegraf (137 k)",
            format!("{:.2}", 1e6 / each.us / TELEGRAF_SAMPLES),
        ),
        row("  250 in a record (scan)", figure(&wide), ">= 5 x Telegraf (490 k)", format!("{:.2}", 1e6 / wide.us / TELEGRAF_WIDE)),
        row(
            "  with one dead unit of 41: values of the others",
            format!("{:.1} k/s of {:.1} k/s, timeout 1 s", dead.records / 1e3, each.records / 1e3),
            ">= 0.99",
            format!("{:.3}", dead.records / each.records),
        ),
        row(
            format!("  {meters} units, {tags} tags at 1 Hz: CPU, memory (VmHWM)"),
            format!("{:.0} % of a core, {} MiB, at {:.1} k/s, {} lost", hall.load * 100.0, hall.memory_mib, hall.rate / 1e3, hall.lost),
            "<= 256 MiB",
            format!("{:.2}", hall.memory_mib as f64 / 256.0),
        ),
    ]
}

pub fn s7(quick: bool) -> Vec<Row> {
    let (_cpu, port, _dir) = simulator("s7", &["--load", "1000", "--pdu", "480"]);
    let rows: String = (0..1000).map(|n| format!("v{n},DB100.DBD{}:REAL\n", n * 4)).collect();
    let case = |shape| Case {
        kind: "s7",
        endpoint: format!("127.0.0.1:{port}"),
        shape,
        tags: format!("name,address\n{rows}"),
        more: "groups: [{every: 100ms, report: all, tags_from: tags.csv}]".into(),
        values: 1_000,
    };
    let wide = measure(&case(WIDE), window(quick));
    let each = measure(&case(SAMPLES), window(quick));
    vec![
        row(
            "S7, 1,000 REALs at 10 Hz in a scan, PDU 480, into a stub",
            figure(&wide),
            ">= 5 x Telegraf (280 k)",
            format!("{:.2}", 1e6 / wide.us / TELEGRAF_S7),
        ),
        row("  a record per value", figure(&each), "", format!("{:.2}", 1e6 / each.us / TELEGRAF_S7)),
    ]
}
