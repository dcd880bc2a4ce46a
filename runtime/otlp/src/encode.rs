//! Metrics and messages in the words of OTLP 1.x.
//!
//! | here | there |
//! |---|---|
//! | counter | sum, cumulative, monotonic, since the runtime started |
//! | gauge | gauge |
//! | summary | summary without quantiles |
//! | histogram | histogram with explicit bounds, cumulative |
//!
//! Names are those of `/metrics`, so that one dashboard serves both ways; a name's ending says the unit.

use crate::{About, Message, Rejected};
use millrace_console::metrics::{Family, Kind, Number};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary,
    SummaryDataPoint, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

/// Everything that is measured at `now`; `started` is when the counters were zero. Nanoseconds since 1970.
pub fn metrics(families: &[Family], about: &About, started: u64, now: u64) -> Vec<u8> {
    let metrics = families.iter().map(|family| metric(family, started, now)).collect();
    let scope = ScopeMetrics { scope: Some(scope(about)), metrics, ..ScopeMetrics::default() };
    let of = ResourceMetrics { resource: Some(resource(about)), scope_metrics: vec![scope], ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![of] }.encode_to_vec()
}

/// What a collector says of metrics that it took. An answer that can't be read refuses nothing.
pub fn rejected_metrics(answer: &[u8]) -> Rejected {
    let said = ExportMetricsServiceResponse::decode(answer).unwrap_or_default().partial_success.unwrap_or_default();
    Rejected { count: u64::try_from(said.rejected_data_points).unwrap_or(0), why: said.error_message }
}

/// As [`rejected_metrics`], of messages.
pub fn rejected_logs(answer: &[u8]) -> Rejected {
    let said = ExportLogsServiceResponse::decode(answer).unwrap_or_default().partial_success.unwrap_or_default();
    Rejected { count: u64::try_from(said.rejected_log_records).unwrap_or(0), why: said.error_message }
}

fn metric(family: &Family, started: u64, now: u64) -> Metric {
    let cumulative = AggregationTemporality::Cumulative as i32;
    let numbers = || {
        let points = family.points.iter().map(|point| {
            let Number::One(value) = point.value else { return NumberDataPoint::default() };
            NumberDataPoint {
                attributes: attributes(&point.labels),
                start_time_unix_nano: if family.kind == Kind::Counter { started } else { 0 },
                time_unix_nano: now,
                value: Some(number_data_point::Value::AsDouble(value)),
                ..NumberDataPoint::default()
            }
        });
        points.collect::<Vec<_>>()
    };
    let data = match family.kind {
        Kind::Counter => metric::Data::Sum(Sum { data_points: numbers(), aggregation_temporality: cumulative, is_monotonic: true }),
        Kind::Gauge => metric::Data::Gauge(Gauge { data_points: numbers() }),
        Kind::Summary => {
            let points = family.points.iter().map(|point| {
                let Number::Sum { sum, count } = point.value else { return SummaryDataPoint::default() };
                SummaryDataPoint {
                    attributes: attributes(&point.labels),
                    start_time_unix_nano: started,
                    time_unix_nano: now,
                    count,
                    sum,
                    ..SummaryDataPoint::default()
                }
            });
            metric::Data::Summary(Summary { data_points: points.collect() })
        }
        Kind::Histogram => {
            let points = family.points.iter().map(|point| {
                let Number::Within { within, sum, count } = &point.value else { return HistogramDataPoint::default() };
                HistogramDataPoint {
                    attributes: attributes(&point.labels),
                    start_time_unix_nano: started,
                    time_unix_nano: now,
                    count: *count,
                    sum: Some(*sum),
                    bucket_counts: buckets(within, *count),
                    explicit_bounds: within.iter().map(|(bound, _)| *bound).collect(),
                    ..HistogramDataPoint::default()
                }
            });
            metric::Data::Histogram(Histogram { data_points: points.collect(), aggregation_temporality: cumulative })
        }
    };
    let unit = match family.name.trim_end_matches("_total") {
        name if name.ends_with("_seconds") => "s",
        name if name.ends_with("_bytes") => "By",
        _ => "",
    };
    Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// What is in each bucket, out of what is within each bound; the last has what is beyond all of them.
fn buckets(within: &[(f64, u64)], count: u64) -> Vec<u64> {
    let mut before = 0;
    let ends = within.iter().map(|(_, within)| *within).chain([count]);
    ends.map(|end| end.saturating_sub(std::mem::replace(&mut before, end))).collect()
}

/// Warnings and errors.
pub fn logs(messages: &[Message], about: &About, now: u64) -> Vec<u8> {
    let record = |message: &Message| {
        let (number, text) = if message.is_error { (SeverityNumber::Error, "ERROR") } else { (SeverityNumber::Warn, "WARN") };
        LogRecord {
            time_unix_nano: u64::try_from(message.time).unwrap_or(0) * 1000,
            observed_time_unix_nano: now,
            severity_number: number as i32,
            severity_text: text.to_owned(),
            body: Some(text_of(&message.text)),
            ..LogRecord::default()
        }
    };
    let scope = ScopeLogs { scope: Some(scope(about)), log_records: messages.iter().map(record).collect(), ..ScopeLogs::default() };
    let of = ResourceLogs { resource: Some(resource(about)), scope_logs: vec![scope], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![of] }.encode_to_vec()
}

fn scope(about: &About) -> InstrumentationScope {
    InstrumentationScope { name: "millrace".to_owned(), version: about.version.clone(), ..InstrumentationScope::default() }
}

fn resource(about: &About) -> Resource {
    let named = [
        ("service.name", "millrace"),
        ("service.namespace", &about.site),
        ("service.instance.id", &about.host),
        ("service.version", &about.version),
        ("host.name", &about.host),
    ];
    Resource { attributes: named.map(|(name, text)| attribute(name, text)).into(), ..Resource::default() }
}

fn attributes(labels: &[(&'static str, String)]) -> Vec<KeyValue> {
    labels.iter().map(|(name, text)| attribute(name, text)).collect()
}

fn attribute(name: &str, text: &str) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(text_of(text)), ..KeyValue::default() }
}

fn text_of(text: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_has_its_own_and_all_together_are_the_count() {
        assert_eq!(buckets(&[(0.1, 2), (1.0, 2), (5.0, 7)], 9), [2, 0, 5, 2]);
        assert_eq!(buckets(&[], 3), [3]);
        // Counts that are read while they move.
        assert_eq!(buckets(&[(0.1, 5)], 4), [5, 0]);
    }
}
