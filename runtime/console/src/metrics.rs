//! The engine's report as Prometheus text. The ledger is the only place that counts; this only writes it down.
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

/// Prometheus text format, version 0.0.4.
pub fn render(report: &EngineReport, certificates: &[Certificate], damage: &[Damaged], version: &str) -> String {
    let mut out = Text(String::with_capacity(8192));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
    process(&mut out, report, now, version);
    ledger(&mut out, report);
    sources(&mut out, report);
    pace(&mut out, report, now);
    sinks(&mut out, report);

    out.family("millrace_disk_free_bytes", "gauge", "Free beyond keep_free.");
    out.line("millrace_disk_free_bytes", &[], report.disk.free as f64);
    out.family(
        "millrace_broker_damaged_places",
        "gauge",
        "Pieces of the embedded broker's data that could not be read and were set aside.",
    );
    out.line("millrace_broker_damaged_places", &[], damage.iter().map(|one| one.pieces).sum::<u64>() as f64);
    out.family("millrace_broker_damaged_records", "gauge", "Records that were in them, as far as that is known.");
    out.line("millrace_broker_damaged_records", &[], damage.iter().map(|one| one.records).sum::<u64>() as f64);
    out.family("millrace_certificate_expires_timestamp_seconds", "gauge", "When a certificate ends, in Unix time: ours, or one we trust.");
    for one in certificates {
        let labels = [("shelf", one.shelf), ("thumbprint", one.thumbprint.as_str()), ("subject", one.subject.as_str())];
        let until = one.until.duration_since(UNIX_EPOCH).unwrap_or_default();
        out.line("millrace_certificate_expires_timestamp_seconds", &labels, until.as_secs() as f64);
    }
    out.0
}

fn process(out: &mut Text, report: &EngineReport, now: i64, version: &str) {
    out.family("millrace_build_info", "gauge", "1; its labels say which program this is.");
    let (release, commit) = version.split_once(" (").map_or((version, ""), |(release, commit)| (release, commit.trim_end_matches(')')));
    out.line("millrace_build_info", &[("version", release), ("commit", commit)], 1.0);
    out.family("process_start_time_seconds", "gauge", "When the runtime started, in Unix time.");
    out.line("process_start_time_seconds", &[], report.started as f64 / 1e6);
    out.family("millrace_up_seconds", "gauge", "Seconds since the runtime started.");
    out.line("millrace_up_seconds", &[], (now - report.started).max(0) as f64 / 1e6);
    out.family("process_resident_memory_bytes", "gauge", "Resident memory.");
    if let Some(bytes) = resident() {
        out.line("process_resident_memory_bytes", &[], bytes as f64);
    }
}

/// Resident memory, where the system says it.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn ledger(out: &mut Text, report: &EngineReport) {
    type Count = fn(&millrace_engine::ledger::Snapshot) -> u64;
    let counts: [(&str, &str, &str, Count); 11] = [
        ("millrace_received_total", "counter", "Readings and documents that entered the pipeline.", |l| l.received),
        ("millrace_filtered_total", "counter", "Held back by the report filter.", |l| l.filtered),
        ("millrace_dropped_at_intake_total", "counter", "Dropped before the log.", |l| l.dropped_at_intake),
        ("millrace_dead_at_intake_total", "counter", "Became dead letters before the log.", |l| l.dead_at_intake),
        ("millrace_appended_total", "counter", "Appended to the log.", |l| l.appended),
        ("millrace_produced_total", "counter", "Acknowledged by Kafka.", |l| l.produced),
        ("millrace_dead_at_send_total", "counter", "Refused by Kafka, became dead letters.", |l| l.dead_at_send),
        ("millrace_dropped_from_log_total", "counter", "Dropped from the log before Kafka had them.", |l| l.dropped_from_log),
        ("millrace_waiting", "gauge", "In the log, not yet in Kafka.", |l| l.waiting),
        ("millrace_clock_refused_total", "counter", "Times of devices that were not believed.", |l| l.clock_refused),
        ("millrace_timestamp_replaced_total", "counter", "Kafka timestamps replaced by the read time.", |l| l.timestamp_replaced),
    ];
    for (name, kind, help, count) in counts {
        out.family(name, kind, help);
        for (source, s) in &report.sources {
            out.line(name, &[("source", source)], count(&s.ledger) as f64);
        }
    }
    for (name, help, known) in [
        ("millrace_lost_total", "Readings that existed and never came in, by reason.", LOST.as_slice()),
        ("millrace_dropped_total", "Dropped, by reason.", DROPPED.as_slice()),
    ] {
        out.family(name, "counter", help);
        for (source, s) in &report.sources {
            let counts = if name == "millrace_lost_total" { &s.ledger.lost } else { &s.ledger.dropped };
            for reason in known {
                out.line(name, &[("source", source), ("reason", reason)], counts.get(reason).copied().unwrap_or(0) as f64);
            }
            for (reason, count) in counts.iter().filter(|(reason, _)| !known.contains(reason)) {
                out.line(name, &[("source", source), ("reason", reason)], *count as f64);
            }
        }
    }
}

fn sources(out: &mut Text, report: &EngineReport) {
    type Value = fn(&millrace_engine::engine::SourceReport) -> f64;
    let gauges: [(&str, &str, Value); 4] = [
        ("millrace_ledger_adds_up", "1 when both equations of the ledger hold.", |s| f64::from(u8::from(s.adds_up))),
        ("millrace_log_bytes", "Bytes in the log.", |s| s.log_bytes as f64),
        ("millrace_log_limit_bytes", "The log's limit.", |s| s.log_limit as f64),
        ("millrace_tags", "Tags known.", |s| s.tags as f64),
    ];
    for (name, help, value) in gauges {
        out.family(name, "gauge", help);
        for (source, s) in &report.sources {
            out.line(name, &[("source", source)], value(s));
        }
    }
    out.family("millrace_status", "gauge", "1 for the status a connector has.");
    for (source, s) in &report.sources {
        out.line("millrace_status", &[("source", source), ("status", s.state.status)], 1.0);
    }
    for (sink, s) in &report.sinks {
        out.line("millrace_status", &[("sink", sink), ("status", s.state.status)], 1.0);
    }
    out.line("millrace_status", &[("kafka", "kafka"), ("status", report.kafka.status)], 1.0);
    out.family("millrace_sessions_total", "counter", "Sessions opened.");
    for (source, s) in &report.sources {
        out.line("millrace_sessions_total", &[("source", source)], s.state.sessions as f64);
    }
    out.family("millrace_in_flight", "gauge", "Records handed to Kafka's producer whose delivery is not reported yet.");
    out.line("millrace_in_flight", &[], report.kafka.in_flight as f64);
}

fn pace(out: &mut Text, report: &EngineReport, now: i64) {
    let age = |since: Option<i64>| since.map(|since| (now - since).max(0) as f64 / 1e6);
    out.family("millrace_newest_age_seconds", "gauge", "Age of the newest record that was read; none before the first.");
    for (source, s) in &report.sources {
        if let Some(age) = age(s.pace.newest) {
            out.line("millrace_newest_age_seconds", &[("source", source)], age);
        }
    }
    out.family("millrace_waiting_age_seconds", "gauge", "Age of the oldest record that Kafka does not have; 0: it has all.");
    for (source, s) in &report.sources {
        out.line("millrace_waiting_age_seconds", &[("source", source)], age(s.pace.waiting_since).unwrap_or(0.0));
    }
    out.family("millrace_delivery_latency_seconds", "summary", "From reading a record to its acknowledgement by Kafka.");
    for (source, s) in &report.sources {
        out.line("millrace_delivery_latency_seconds_sum", &[("source", source)], s.pace.latency_sum as f64 / 1e6);
        out.line("millrace_delivery_latency_seconds_count", &[("source", source)], s.pace.delivered as f64);
    }
    out.family(
        "millrace_took_seconds",
        "histogram",
        "How long what a source measures took: trigger_to_ack, from an edge to its acknowledgement.",
    );
    for (source, s) in &report.sources {
        for (what, measured) in &s.measured {
            let labels = [("source", source.as_str()), ("what", what)];
            for (bound, count) in BOUNDS.iter().zip(measured.within) {
                let bound = bound.to_string();
                out.line("millrace_took_seconds_bucket", &[labels[0], labels[1], ("le", &bound)], count as f64);
            }
            out.line("millrace_took_seconds_bucket", &[labels[0], labels[1], ("le", "+Inf")], measured.count as f64);
            out.line("millrace_took_seconds_sum", &labels, measured.sum);
            out.line("millrace_took_seconds_count", &labels, measured.count as f64);
        }
    }
}

fn sinks(out: &mut Text, report: &EngineReport) {
    type SinkCount = fn(&millrace_engine::sinks::SinkCounts) -> u64;
    let counts: [(&str, &str, &str, SinkCount); 7] = [
        ("millrace_sink_consumed_total", "counter", "Records read from Kafka by a sink.", |c| c.consumed),
        ("millrace_sink_written_total", "counter", "Records a sink made durable.", |c| c.written),
        ("millrace_sink_dead_total", "counter", "Records a sink's target refused.", |c| c.dead),
        ("millrace_sink_filtered_total", "counter", "Records a sink left out by rule.", |c| c.filtered),
        ("millrace_sink_lost_total", "counter", "Records that Kafka no longer had when a sink came to read them.", |c| c.lost),
        ("millrace_sink_missed_fields_total", "counter", "Fields that a rule was to change and that were not in their records.", |c| {
            c.missed
        }),
        ("millrace_sink_lag", "gauge", "Records in Kafka that a sink has not read yet.", |c| c.lag),
    ];
    for (name, kind, help, count) in counts {
        out.family(name, kind, help);
        for (sink, s) in &report.sinks {
            out.line(name, &[("sink", sink)], count(&s.counts) as f64);
        }
    }
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (i, (key, text)) in labels.iter().enumerate() {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{key}=\"{escaped}\"", if i == 0 { "{" } else { "," });
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_engine::engine::{DiskReport, SourceReport};
    use millrace_engine::measures::Measured;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text(String::new());
        text.line("m", &[("source", "a\"b\\c")], 1.5);
        assert_eq!(text.0, "m{source=\"a\\\"b\\\\c\"} 1.5\n");
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
            pace: Default::default(),
            measured: [("trigger_to_ack", Measured { count: 2, sum: 0.25, ..Default::default() })].into(),
        };
        let report = EngineReport {
            site: "acme/plant".into(),
            started: 1,
            kafka: millrace_engine::drain::DrainReport { status: "Running", ..Default::default() },
            sources: [("a".to_owned(), source()), ("b".to_owned(), source())].into(),
            sinks: Default::default(),
            disk: DiskReport::default(),
        };
        let text = render(&report, &[], &[], "0.1.0 (abc)");
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
