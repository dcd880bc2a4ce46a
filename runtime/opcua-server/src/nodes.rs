//! What there is to see at a moment, as paths with values.

use millrace_console::Trouble;
use millrace_engine::EngineReport;
use millrace_engine::engine::{SinkReport, SourceReport};
use millrace_engine::status::Report;
use opcua::types::{DataTypeId, DateTime, Variant};

/// The runtime at one moment.
#[derive(Debug)]
pub struct Snapshot {
    pub report: EngineReport,
    /// What is wrong, worst first.
    pub troubles: Vec<Trouble>,
    /// What stands in the book of alarms.
    pub alarms: Vec<String>,
    pub version: &'static str,
}

/// One node: a folder, or a variable with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// `Sources/press/Status`; of the one on top empty.
    pub path: String,
    pub value: Option<(DataTypeId, Variant)>,
    /// What it is, for people.
    pub about: &'static str,
}

/// How fast a source was, by what was counted before.
pub type Rate<'r> = &'r dyn Fn(&str, u64) -> f64;

/// Everything, each folder before what is in it.
pub fn nodes(now: &Snapshot, at: DateTime, rate: Rate<'_>) -> Vec<Node> {
    let mut out = Nodes { nodes: Vec::new(), folder: String::new() };
    let report = &now.report;
    out.folder("", "What Millrace says of itself");
    out.text("Site", "Enterprise and site", &report.site);
    out.text("Version", "The release and its commit", now.version);
    out.value("Started", "When this process began", DataTypeId::DateTime, time(report.started).into());
    let worst = now.troubles.first();
    out.text("Status", "The worst status there is; Running where all is well", worst.map_or("Running", |worst| &worst.status));
    let trouble = worst.map_or_else(String::new, |worst| format!("{} is {}: {}", worst.what, worst.status, worst.reason));
    out.text("Trouble", "The worst of what is wrong", &trouble);
    out.value("Troubles", "How many things are wrong", DataTypeId::UInt32, count(now.troubles.len() as u64).into());
    out.value("Alarms", "The alarms that stand", DataTypeId::String, now.alarms.clone().into());
    out.folder("Kafka", "Where the records go");
    out.text("Status", "Its status", report.kafka.status);
    out.text("Reason", "Why, where it is not Running", report.kafka.reason.as_deref().unwrap_or_default());
    out.value("InFlight", "Records handed over and not acknowledged", DataTypeId::UInt64, (report.kafka.in_flight as u64).into());
    out.folder("Disk", "Of the data directory");
    out.value("Free", "Bytes beyond what is to stay free", DataTypeId::UInt64, report.disk.free.into());
    out.value("Low", "Nothing is taken in until there is room", DataTypeId::Boolean, report.disk.low.into());
    out.folder("Sources", "Where data comes from");
    for (name, source) in &report.sources {
        out.folder(&format!("Sources/{name}"), "A source");
        out.state(&source.state);
        self::source(&mut out, source, at, rate(name, source.ledger.received));
    }
    out.folder("Sinks", "Where Kafka's topics go");
    for (name, sink) in &report.sinks {
        out.folder(&format!("Sinks/{name}"), "A sink");
        out.state(&sink.state);
        self::sink(&mut out, sink);
    }
    out.nodes
}

fn source(out: &mut Nodes, source: &SourceReport, at: DateTime, rate: f64) {
    let ledger = &source.ledger;
    let lost = ledger.lost.values().sum::<u64>() + ledger.dropped_at_intake + ledger.dropped_from_log;
    let fill = if source.log_limit == 0 { 0.0 } else { source.log_bytes as f64 / source.log_limit as f64 * 100.0 };
    let newest = source.pace.newest.map_or(f64::NAN, |newest| (micros(at) - newest).max(0) as f64 / 1e6);
    out.value("Received", "Readings and documents since the start", DataTypeId::UInt64, ledger.received.into());
    out.value("PerSecond", "Of the last second", DataTypeId::Double, rate.into());
    out.value("Waiting", "In the log, not yet in Kafka", DataTypeId::UInt64, ledger.waiting.into());
    out.value("Dead", "Dead letters", DataTypeId::UInt64, (ledger.dead_at_intake + ledger.dead_at_send).into());
    out.value("Lost", "What is known to be missing", DataTypeId::UInt64, lost.into());
    out.value("LogFill", "How full its log is, in percent", DataTypeId::Double, fill.into());
    out.value("Tags", "Tags known", DataTypeId::UInt32, count(source.tags as u64).into());
    out.value("NewestAge", "Age of the newest record in seconds; NaN before the first", DataTypeId::Double, newest.into());
}

fn sink(out: &mut Nodes, sink: &SinkReport) {
    out.value("Written", "Records made durable", DataTypeId::UInt64, sink.counts.written.into());
    out.value("Dead", "Records its target refused", DataTypeId::UInt64, sink.counts.dead.into());
    out.value("Lag", "Records it has not read yet", DataTypeId::UInt64, sink.counts.lag.into());
}

struct Nodes {
    nodes: Vec<Node>,
    folder: String,
}

impl Nodes {
    /// What follows is in this folder.
    fn folder(&mut self, path: &str, about: &'static str) {
        self.nodes.push(Node { path: path.to_owned(), value: None, about });
        path.clone_into(&mut self.folder);
    }

    fn value(&mut self, name: &str, about: &'static str, kind: DataTypeId, value: Variant) {
        let path = if self.folder.is_empty() { name.to_owned() } else { format!("{}/{name}", self.folder) };
        self.nodes.push(Node { path, value: Some((kind, value)), about });
    }

    fn text(&mut self, name: &str, about: &'static str, text: &str) {
        self.value(name, about, DataTypeId::String, text.into());
    }

    fn state(&mut self, state: &Report) {
        self.text("Status", "Starting, Running, Degraded, Blocked, Paused, Stopping or Stopped", state.status);
        self.text("Reason", "Why, where it is not Running", state.reason.as_deref().unwrap_or_default());
        self.value("Since", "Since when its status is this", DataTypeId::DateTime, time(state.since).into());
    }
}

fn count(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// 1601 in microseconds before 1970.
const EPOCH: i64 = 11_644_473_600_000_000;

fn time(micros: i64) -> DateTime {
    if micros <= 0 { DateTime::null() } else { DateTime::from((micros + EPOCH) * 10) }
}

fn micros(at: DateTime) -> i64 {
    at.ticks() / 10 - EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_the_same_in_both_ways_of_counting() {
        assert_eq!(micros(time(1_767_323_045_678_901)), 1_767_323_045_678_901);
        assert_eq!(time(0), DateTime::null());
    }
}
