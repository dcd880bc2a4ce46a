//! The engine's report as metrics, and these as Prometheus text. The ledger is the only place that counts; this only writes it down.
//!
//! Labels are `source`, `sink`, `reason` and `status`: never a tag, so the number of series is bounded by the configuration. Certificates are few:
//! our own, and those that a person approved. The lines of a family stand together, behind its `HELP` and `TYPE`.

use crate::supplied::{Certificate, Damaged};
use millrace_engine::EngineReport;
use millrace_engine::measures::BOUNDS;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Every reason is there from the first scrape on, so that a rate can be taken of it.
const LOST: [&str; 3] = ["device_overflow", "poll_skipped", "sequence_gap"];
const DROPPED: [&str; 5] = ["corrupt", "dropped_newest", "dropped_oldest", "too_large", "unknown_tag"];

/// Points that are of one kind and one meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub points: Vec<Point>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows while the runtime runs.
    Counter,
    Gauge,
    Summary,
    Histogram,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub labels: Vec<(&'static str, String)>,
    pub value: Number,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Number {
    One(f64),
    /// Of a summary.
    Sum {
        sum: f64,
        count: u64,
    },
    /// Of a histogram: how many were within each bound, those of the bounds before it included.
    Within {
        within: Vec<(f64, u64)>,
        sum: f64,
        count: u64,
    },
}

/// Everything that is measured, at this moment.
pub fn families(report: &EngineReport, certificates: &[Certificate], damage: &[Damaged], version: &str) -> Vec<Family> {
    let mut out = Families(Vec::with_capacity(64));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
    process(&mut out, report, now, version);
    ledger(&mut out, report);
    sources(&mut out, report);
    pace(&mut out, report, now);
    sinks(&mut out, report, now);

    out.family("millrace_disk_free_bytes", Kind::Gauge, "Free beyond keep_free.");
    out.line(&[], report.disk.free as f64);
    out.family(
        "millrace_broker_damaged_places",
        Kind::Gauge,
        "Pieces of the embedded broker's data that could not be read and were set aside.",
    );
    out.line(&[], damage.iter().map(|one| one.pieces).sum::<u64>() as f64);
    out.family("millrace_broker_damaged_records", Kind::Gauge, "Records that were in them, as far as that is known.");
    out.line(&[], damage.iter().map(|one| one.records).sum::<u64>() as f64);
    out.family(
        "millrace_certificate_expires_timestamp_seconds",
        Kind::Gauge,
        "When a certificate ends, in Unix time: ours, or one we trust.",
    );
    for one in certificates {
        let labels = [("shelf", one.shelf), ("thumbprint", one.thumbprint.as_str()), ("subject", one.subject.as_str())];
        let until = one.until.duration_since(UNIX_EPOCH).unwrap_or_default();
        out.line(&labels, until.as_secs() as f64);
    }
    out.0
}

fn process(out: &mut Families, report: &EngineReport, now: i64, version: &str) {
    out.family("millrace_build_info", Kind::Gauge, "1; its labels say which program this is.");
    let (release, commit) = version.split_once(" (").map_or((version, ""), |(release, commit)| (release, commit.trim_end_matches(')')));
    out.line(&[("version", release), ("commit", commit)], 1.0);
    out.family("process_start_time_seconds", Kind::Gauge, "When the runtime started, in Unix time.");
    out.line(&[], report.started as f64 / 1e6);
    out.family("millrace_up_seconds", Kind::Gauge, "Seconds since the runtime started.");
    out.line(&[], (now - report.started).max(0) as f64 / 1e6);
    out.family("process_resident_memory_bytes", Kind::Gauge, "Resident memory.");
    if let Some(bytes) = resident() {
        out.line(&[], bytes as f64);
    }
}

/// Resident memory, where the system says it.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn ledger(out: &mut Families, report: &EngineReport) {
    type Count = fn(&millrace_engine::ledger::Snapshot) -> u64;
    let counts: [(&str, Kind, &str, Count); 11] = [
        ("millrace_received_total", Kind::Counter, "Readings and documents that entered the pipeline.", |l| l.received),
        ("millrace_filtered_total", Kind::Counter, "Held back by the report filter.", |l| l.filtered),
        ("millrace_dropped_at_intake_total", Kind::Counter, "Dropped before the log.", |l| l.dropped_at_intake),
        ("millrace_dead_at_intake_total", Kind::Counter, "Became dead letters before the log.", |l| l.dead_at_intake),
        ("millrace_appended_total", Kind::Counter, "Appended to the log.", |l| l.appended),
        ("millrace_produced_total", Kind::Counter, "Acknowledged by Kafka.", |l| l.produced),
        ("millrace_dead_at_send_total", Kind::Counter, "Refused by Kafka, became dead letters.", |l| l.dead_at_send),
        ("millrace_dropped_from_log_total", Kind::Counter, "Dropped from the log before Kafka had them.", |l| l.dropped_from_log),
        ("millrace_waiting", Kind::Gauge, "In the log, not yet in Kafka.", |l| l.waiting),
        ("millrace_clock_refused_total", Kind::Counter, "Times of devices that were not believed.", |l| l.clock_refused),
        ("millrace_timestamp_replaced_total", Kind::Counter, "Kafka timestamps replaced by the read time.", |l| l.timestamp_replaced),
    ];
    for (name, kind, help, count) in counts {
        out.family(name, kind, help);
        for (source, s) in &report.sources {
            out.line(&[("source", source)], count(&s.ledger) as f64);
        }
    }
    for (name, help, known) in [
        ("millrace_lost_total", "Readings that existed and never came in, by reason.", LOST.as_slice()),
        ("millrace_dropped_total", "Dropped, by reason.", DROPPED.as_slice()),
    ] {
        out.family(name, Kind::Counter, help);
        for (source, s) in &report.sources {
            let counts = if name == "millrace_lost_total" { &s.ledger.lost } else { &s.ledger.dropped };
            for reason in known {
                out.line(&[("source", source), ("reason", reason)], counts.get(reason).copied().unwrap_or(0) as f64);
            }
            for (reason, count) in counts.iter().filter(|(reason, _)| !known.contains(reason)) {
                out.line(&[("source", source), ("reason", reason)], *count as f64);
            }
        }
    }
}

fn sources(out: &mut Families, report: &EngineReport) {
    type Value = fn(&millrace_engine::engine::SourceReport) -> f64;
    let gauges: [(&str, &str, Value); 4] = [
        ("millrace_ledger_adds_up", "1 when both equations of the ledger hold.", |s| f64::from(u8::from(s.adds_up))),
        ("millrace_log_bytes", "Bytes in the log.", |s| s.log_bytes as f64),
        ("millrace_log_limit_bytes", "The log's limit.", |s| s.log_limit as f64),
        ("millrace_tags", "Tags known.", |s| s.tags as f64),
    ];
    for (name, help, value) in gauges {
        out.family(name, Kind::Gauge, help);
        for (source, s) in &report.sources {
            out.line(&[("source", source)], value(s));
        }
    }
    out.family("millrace_status", Kind::Gauge, "1 for the status a connector has.");
    for (source, s) in &report.sources {
        out.line(&[("source", source), ("status", s.state.status)], 1.0);
    }
    for (sink, s) in &report.sinks {
        out.line(&[("sink", sink), ("status", s.state.status)], 1.0);
    }
    out.line(&[("kafka", "kafka"), ("status", report.kafka.status)], 1.0);
    out.family("millrace_sessions_total", Kind::Counter, "Sessions opened.");
    for (source, s) in &report.sources {
        out.line(&[("source", source)], s.state.sessions as f64);
    }
    out.family("millrace_in_flight", Kind::Gauge, "Records handed to Kafka's producer whose delivery is not reported yet.");
    out.line(&[], report.kafka.in_flight as f64);
}

fn pace(out: &mut Families, report: &EngineReport, now: i64) {
    let age = |since: Option<i64>| since.map(|since| (now - since).max(0) as f64 / 1e6);
    out.family("millrace_newest_age_seconds", Kind::Gauge, "Age of the newest record that was read; none before the first.");
    for (source, s) in &report.sources {
        if let Some(age) = age(s.pace.newest) {
            out.line(&[("source", source)], age);
        }
    }
    out.family("millrace_waiting_age_seconds", Kind::Gauge, "Age of the oldest record that Kafka does not have; 0: it has all.");
    for (source, s) in &report.sources {
        out.line(&[("source", source)], age(s.pace.waiting_since).unwrap_or(0.0));
    }
    out.family("millrace_delivery_latency_seconds", Kind::Summary, "From reading a record to its acknowledgement by Kafka.");
    for (source, s) in &report.sources {
        out.point(&[("source", source)], Number::Sum { sum: s.pace.latency_sum as f64 / 1e6, count: s.pace.delivered });
    }
    out.family(
        "millrace_took_seconds",
        Kind::Histogram,
        "How long what a source measures took: trigger_to_ack, from an edge to its acknowledgement.",
    );
    for (source, s) in &report.sources {
        for (what, measured) in &s.measured {
            let within = BOUNDS.into_iter().zip(measured.within).collect();
            out.point(&[("source", source.as_str()), ("what", what)], Number::Within { within, sum: measured.sum, count: measured.count });
        }
    }
}

fn sinks(out: &mut Families, report: &EngineReport, now: i64) {
    type SinkCount = fn(&millrace_engine::sinks::SinkCounts) -> u64;
    let counts: [(&str, Kind, &str, SinkCount); 10] = [
        ("millrace_sink_consumed_total", Kind::Counter, "Records read from Kafka by a sink.", |c| c.consumed),
        ("millrace_sink_bytes_total", Kind::Counter, "Bytes of keys, values and headers read from Kafka by a sink.", |c| c.bytes),
        ("millrace_sink_written_total", Kind::Counter, "Records a sink made durable.", |c| c.written),
        ("millrace_sink_dead_total", Kind::Counter, "Records a sink's target refused.", |c| c.dead),
        ("millrace_sink_filtered_total", Kind::Counter, "Records a sink left out by rule.", |c| c.filtered),
        ("millrace_sink_lost_total", Kind::Counter, "Records that Kafka no longer had when a sink came to read them.", |c| c.lost),
        ("millrace_sink_missed_fields_total", Kind::Counter, "Fields that a rule was to change and that were not in their records.", |c| {
            c.missed
        }),
        ("millrace_sink_late_total", Kind::Counter, "Samples that came when their window of time was closed.", |c| c.late),
        ("millrace_sink_lag", Kind::Gauge, "Records in Kafka that a sink has not read yet.", |c| c.lag),
        ("millrace_sink_lag_bytes", Kind::Gauge, "Their bytes, by the mean of those that were read.", |c| c.lag_bytes),
    ];
    for (name, kind, help, count) in counts {
        out.family(name, kind, help);
        for (sink, s) in &report.sinks {
            out.line(&[("sink", sink)], count(&s.counts) as f64);
        }
    }
    out.family(
        "millrace_sink_lag_seconds",
        Kind::Gauge,
        "Age of the oldest record in Kafka that a sink has not read and made durable; 0: it has all.",
    );
    for (sink, s) in &report.sinks {
        out.line(&[("sink", sink)], s.counts.lag_seconds(now / 1_000));
    }
    out.family(
        "millrace_sink_catch_up_seconds",
        Kind::Gauge,
        "When a sink will have caught up, at the rate of the last minutes; none: never at this one.",
    );
    for (sink, s) in &report.sinks {
        if let Some(seconds) = s.counts.catch_up_seconds {
            out.line(&[("sink", sink)], seconds as f64);
        }
    }
}

struct Families(Vec<Family>);

impl Families {
    fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        self.0.push(Family { name, kind, help, points: Vec::new() });
    }

    /// A point of the family named last.
    fn line(&mut self, labels: &[(&'static str, &str)], value: f64) {
        self.point(labels, Number::One(value));
    }

    fn point(&mut self, labels: &[(&'static str, &str)], value: Number) {
        let labels = labels.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        if let Some(family) = self.0.last_mut() {
            family.points.push(Point { labels, value });
        }
    }
}

/// Prometheus text format, version 0.0.4.
pub fn text(families: &[Family]) -> String {
    let mut out = String::with_capacity(16 << 10);
    for Family { name, kind, help, points } in families {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Summary => "summary",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for Point { labels, value } in points {
            match value {
                Number::One(value) => line(&mut out, name, "", labels, None, *value),
                Number::Sum { sum, count } => {
                    line(&mut out, name, "_sum", labels, None, *sum);
                    line(&mut out, name, "_count", labels, None, *count as f64);
                }
                Number::Within { within, sum, count } => {
                    for (bound, within) in within {
                        line(&mut out, name, "_bucket", labels, Some(&bound.to_string()), *within as f64);
                    }
                    line(&mut out, name, "_bucket", labels, Some("+Inf"), *count as f64);
                    line(&mut out, name, "_sum", labels, None, *sum);
                    line(&mut out, name, "_count", labels, None, *count as f64);
                }
            }
        }
    }
    out
}

/// `le`: the bound of a bucket.
fn line(out: &mut String, name: &str, of: &str, labels: &[(&'static str, String)], le: Option<&str>, value: f64) {
    let _ = write!(out, "{name}{of}");
    let labels = labels.iter().map(|(key, text)| (*key, text.as_str())).chain(le.map(|le| ("le", le)));
    let mut is_first = true;
    for (key, text) in labels {
        let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{}{key}=\"{escaped}\"", if is_first { "{" } else { "," });
        is_first = false;
    }
    if !is_first {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_engine::engine::{DiskReport, SourceReport};
    use millrace_engine::measures::Measured;

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        line(&mut out, "m", "", &[("source", "a\"b\\c".to_owned())], None, 1.5);
        assert_eq!(out, "m{source=\"a\\\"b\\\\c\"} 1.5\n");
    }

    #[test]
    fn the_lines_of_a_family_stand_together_and_losses_begin_at_zero() {
        let source = || SourceReport {
            r#type: "mqtt".into(),
            state: millrace_engine::status::Report { status: "Running", ..Default::default() },
            guarantee: None,
            ledger: Default::default(),
            adds_up: true,
            tags: 1,
            log_bytes: 0,
            log_limit: 10,
            log_held: None,
            log_fills: None,
            elsewhere: None,
            pace: Default::default(),
            measured: [("trigger_to_ack", Measured { count: 2, sum: 0.25, ..Default::default() })].into(),
        };
        let report = EngineReport {
            site: "acme/plant".into(),
            started: 1,
            kafka: millrace_engine::drain::DrainReport { status: "Running", ..Default::default() },
            group: None,
            sources: [("a".to_owned(), source()), ("b".to_owned(), source())].into(),
            sinks: Default::default(),
            disk: DiskReport::default(),
        };
        let text = text(&families(&report, &[], &[], "0.1.0 (abc)"));
        let mut family = "";
        let mut seen = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap();
                assert!(seen.insert(family), "{family} comes twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                // A summary's own lines are its sum and its count; a histogram has its buckets, too.
                let name = ["_sum", "_count", "_bucket"].iter().find_map(|own| name.strip_suffix(own)).unwrap_or(name);
                assert_eq!(name, family, "{line} stands in the family {family}");
            }
        }
        assert!(text.contains("millrace_lost_total{source=\"a\",reason=\"poll_skipped\"} 0\n"), "{text}");
        assert!(text.contains("millrace_dropped_total{source=\"b\",reason=\"corrupt\"} 0\n"));
        assert!(text.contains("millrace_took_seconds_bucket{source=\"a\",what=\"trigger_to_ack\",le=\"+Inf\"} 2\n"), "{text}");
        assert!(text.contains("millrace_build_info{version=\"0.1.0\",commit=\"abc\"} 1\n"));
    }
}
