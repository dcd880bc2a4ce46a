//! The engine's report as Prometheus text. The ledger is the only place that counts; this only writes it down.
//!
//! Labels are `source`, `sink`, `reason` and `status`: never a tag, so the number of series is bounded by the configuration. Certificates are few:
//! our own, and those that a person approved.

use crate::Certificate;
use millrace_engine::EngineReport;
use std::fmt::Write;

/// Prometheus text format, version 0.0.4.
pub fn render(report: &EngineReport, certificates: &[Certificate]) -> String {
    let mut out = Text(String::with_capacity(4096));
    out.family("millrace_up_seconds", "gauge", "Seconds since the runtime started.");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
    out.line("millrace_up_seconds", &[], (now - report.started).max(0) as f64 / 1e6);

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
    for (name, help, is_lost) in [
        ("millrace_lost_total", "Readings that existed and never came in, by reason.", true),
        ("millrace_dropped_total", "Dropped, by reason.", false),
    ] {
        out.family(name, "counter", help);
        for (source, s) in &report.sources {
            for (reason, count) in if is_lost { &s.ledger.lost } else { &s.ledger.dropped } {
                out.line(name, &[("source", source), ("reason", reason)], *count as f64);
            }
        }
    }
    out.family("millrace_ledger_adds_up", "gauge", "1 when both equations of the ledger hold.");
    out.family("millrace_log_bytes", "gauge", "Bytes in the log.");
    out.family("millrace_log_limit_bytes", "gauge", "The log's limit.");
    out.family("millrace_tags", "gauge", "Tags known.");
    for (source, s) in &report.sources {
        let label = [("source", source.as_str())];
        out.line("millrace_ledger_adds_up", &label, f64::from(u8::from(s.adds_up)));
        out.line("millrace_log_bytes", &label, s.log_bytes as f64);
        out.line("millrace_log_limit_bytes", &label, s.log_limit as f64);
        out.line("millrace_tags", &label, s.tags as f64);
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
    type SinkCount = fn(&millrace_engine::sinks::SinkCounts) -> u64;
    let sink_counts: [(&str, &str, SinkCount); 3] = [
        ("millrace_sink_consumed_total", "Records read from Kafka by a sink.", |c| c.consumed),
        ("millrace_sink_written_total", "Records a sink made durable.", |c| c.written),
        ("millrace_sink_dead_total", "Records a sink's target refused.", |c| c.dead),
    ];
    for (name, help, count) in sink_counts {
        out.family(name, "counter", help);
        for (sink, s) in &report.sinks {
            out.line(name, &[("sink", sink)], count(&s.counts) as f64);
        }
    }
    out.family("millrace_disk_free_bytes", "gauge", "Free beyond keep_free.");
    out.line("millrace_disk_free_bytes", &[], report.disk.free as f64);
    out.family("millrace_certificate_expires_timestamp_seconds", "gauge", "When a certificate ends, in Unix time: ours, or one we trust.");
    for one in certificates {
        let labels = [("shelf", one.shelf), ("thumbprint", one.thumbprint.as_str()), ("subject", one.subject.as_str())];
        let until = one.until.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        out.line("millrace_certificate_expires_timestamp_seconds", &labels, until.as_secs() as f64);
    }
    out.0
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

    #[test]
    fn labels_are_escaped() {
        let mut text = Text(String::new());
        text.line("m", &[("source", "a\"b\\c")], 1.5);
        assert_eq!(text.0, "m{source=\"a\\\"b\\\\c\"} 1.5\n");
    }
}
