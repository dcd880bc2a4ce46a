//! The benchmarks that need peers: one table of figures, each with its goal and its ratio from this run. Started by `tests/bench`.
//!
//! The runtime under test is the release binary; what it is compared with (a bare rdkafka producer) runs as a process of its own in the same
//! minute on the same machine, so the ratios mean something where the figures don't travel.

mod bare;
mod broker;
mod figures;
mod history;
mod lake;
mod latency;
mod live;
mod office;
mod opcua;
mod plc;
mod publish;
mod replicate;

use figures::Row;
use std::process::ExitCode;
use std::time::Instant;

/// Measures; shorter if told so.
type Measure = fn(bool) -> Vec<Row>;

const ROWS: [(&str, &str, Measure); 22] = [
    ("produce", "CPU per record at 50,000 records/s into Apache Kafka, against a bare rdkafka producer", figures::produce),
    ("catch-up", "1 GiB of backlog into a stub receiver, against a bare rdkafka producer", figures::catch_up),
    ("exactly-once", "throughput against at_least_once at a 100 ms commit; p99 of a read_committed reader", figures::exactly_once),
    ("outage", "CPU while Kafka is frozen, refuses, swallows everything or is 50 ms away, against the minute before", figures::outage),
    ("latency", "source time to consumer at 5,000 values/s", figures::latency),
    ("mqtt", "JSON to samples, QoS 1, Mosquitto to Kafka: messages per CPU-second, p50 and p99", figures::mqtt),
    ("devices", "100,000 topics at 10,000 messages/s: memory", figures::devices),
    ("opcua", "10,000 nodes at 10 Hz from a compiled server: values per CPU-second, against a bare client that only counts", opcua::opcua),
    (
        "opcua-loss",
        "5,000 changes/s from OPC UA through a connection reset, kill -9 and a frozen Kafka: what is missing, and what of it is named",
        opcua::losses,
    ),
    ("modbus", "40 units of 250 f32 and a dead one, 100 units of 1,000: values per CPU-second, memory", plc::modbus),
    ("s7", "1,000 REALs in a scan and one by one: values per CPU-second", plc::s7),
    ("erp", "first load of an ERP's entity set, against a bare loop over the same pages; memory", office::erp),
    ("sql", "a table of PostgreSQL, against COPY through the same driver; memory", office::sql),
    ("http", "small posts over 64 connections, each synced before its answer: posts/s, p50 and p99", office::http),
    ("broker", "the embedded broker against Apache Kafka with a heap of 256 MiB, without and with an fsync per write", broker::broker),
    ("hostile", "memory of the embedded broker above idle while hostile clients send it mutated requests", broker::hostile),
    ("lake", "samples from Kafka to a committed Delta table, and what they take; one tag over HTTP", lake::lake),
    ("history", "one tag of 1,000 at 1 Hz over 30 days out of the lake, against DuckDB on the same files", history::history),
    ("live", "1,000 clients of server-sent events, and 1,000 that never read: CPU, memory", live::live),
    ("console", "100,000 tags in Chromium: first paint, what ten viewers cost; /status with 1,000 devices", live::console),
    ("replicate", "a backlog into a second Apache Kafka: CPU, memory, first record and rate, against MirrorMaker 2", replicate::replicate),
    ("memory", "VmHWM through an outage and the catch-up, 10,000 and 100,000 tags at 1 Hz", figures::memory),
];

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        // Roles of child processes.
        Some("stub") => {
            let port = args[1].parse().expect("a port");
            millrace_tests::stub::serve(port).unwrap_or_else(|error| panic!("the stub cannot serve on port {port}: {error}"));
            return ExitCode::SUCCESS;
        }
        Some("bare") => {
            bare::main(&args[1..]);
            return ExitCode::SUCCESS;
        }
        Some("count") => {
            opcua::count(&args[1], args[2].parse().expect("a number of nodes"));
            return ExitCode::SUCCESS;
        }
        Some("publish") => {
            publish::main(&args[1..]);
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    args.retain(|arg| arg != "--quick");
    if args.iter().any(|arg| !ROWS.iter().any(|(name, ..)| name == arg)) {
        eprintln!("tests/bench [--quick] [ROW...]; the rows:");
        for (name, what, _) in ROWS {
            eprintln!("  {name:14} {what}");
        }
        return ExitCode::from(2);
    }
    let mut table = Vec::new();
    for (name, what, measure) in ROWS.iter().filter(|(name, ..)| args.is_empty() || args.iter().any(|arg| arg == name)) {
        eprintln!("==> {name}: {what}");
        let began = Instant::now();
        let rows = measure(quick);
        for row in &rows {
            eprintln!("    {}: {}", row.what.trim_start(), row.figure);
        }
        table.extend(rows);
        eprintln!("    {:.0} s", began.elapsed().as_secs_f64());
    }
    let widths = |column: fn(&Row) -> &str| table.iter().map(|row| column(row).chars().count()).max().unwrap_or(0);
    let (what, figure, goal) = (widths(|row| &row.what), widths(|row| &row.figure), widths(|row| &row.goal));
    println!("{:what$}  {:>figure$}  {:goal$}  ratio", "", "figure", "goal");
    for row in &table {
        println!("{:what$}  {:>figure$}  {:goal$}  {}", row.what, row.figure, row.goal, row.ratio);
    }
    ExitCode::SUCCESS
}
