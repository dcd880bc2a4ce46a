//! Metrics and messages to an OpenTelemetry collector, judged by PyPI's `opentelemetry-proto`.

use millrace_tests::*;
use serde_json::{Value, json};

const PLANT: &str = "
topics: {$topic: {format: json}}
otlp: {endpoint: 'http://127.0.0.1:$collector/otel', every: 1s, bearer: '${env:COLLECTOR_TOKEN}'}
sources:
  load: {type: generator, at: load, topic: $topic, tags: 3, rate: 50/s, report: all}
  gone: {type: modbus, endpoint: 'tcp://127.0.0.1:$nobody', at: gone, topic: $topic, groups: [{every: 100ms, tags: {a: holding:0}}]}
";

fn points<'v>(metric: &'v Value, kind: &str) -> &'v Vec<Value> {
    metric[kind]["dataPoints"].as_array().unwrap_or_else(|| panic!("it is no {kind}: {metric:#}"))
}

fn of_source<'v>(points: &'v [Value], source: &str) -> &'v Value {
    let has =
        |point: &&Value| point["attributes"].as_array().is_some_and(|all| all.iter().any(|one| one["value"]["stringValue"] == source));
    points.iter().find(has).unwrap_or_else(|| panic!("nothing of {source}: {points:#?}"))
}

/// A counter of the runtime's own `/metrics`.
fn counted(millrace: &Millrace, name: &str, signal: &str) -> f64 {
    let line = format!("{name}{{signal=\"{signal}\"}} ");
    millrace.metrics().lines().find_map(|one| one.strip_prefix(&line)?.parse().ok()).unwrap_or(f64::NAN)
}

#[test]
fn a_collector_gets_the_metrics_and_the_messages_and_what_it_does_not_take_is_counted() {
    let kafka = Kafka::shared();
    let collector_port = free_port();
    let mut python = peers::python(peers::opentelemetry());
    python.arg(peers::scripts().join("collector.py")).arg(json!({"port": collector_port, "token": "Quite-Secret-7"}).to_string());
    let mut collector = script::Script::start("collector", python, "ready");
    let factory = Factory::on(kafka).with("topic", kafka.topic("otlp")).with("collector", collector_port).with("nobody", free_port());
    let mut millrace = factory.env("COLLECTOR_TOKEN", "Quite-Secret-7").start(PLANT);
    millrace.wait_ledger("load", "it reads", |ledger| ledger.received > 50);

    let metrics = eventually("metrics come", || collector.said().into_iter().filter(|line| line["metrics"].is_object()).nth(2));
    let resource = &metrics["resource"];
    assert_eq!((&resource["service.name"], &resource["service.namespace"]), (&"millrace".into(), &millrace.site().into()), "{resource:#}");
    let metrics = &metrics["metrics"];
    let received = &metrics["millrace_received_total"];
    assert_eq!(
        (&received["sum"]["isMonotonic"], &received["sum"]["aggregationTemporality"]),
        (&true.into(), &"AGGREGATION_TEMPORALITY_CUMULATIVE".into()),
        "{received:#}"
    );
    let point = of_source(points(received, "sum"), "load");
    assert!(point["asDouble"].as_f64().is_some_and(|count| count > 0.0), "{point:#}");
    let nanos = |key: &str| point[key].as_str().and_then(|text| text.parse::<u64>().ok()).expect("a time");
    assert!(nanos("startTimeUnixNano") < nanos("timeUnixNano"), "{point:#}");
    let bytes = &metrics["millrace_log_bytes"];
    assert!(bytes["unit"] == "By" && of_source(points(bytes, "gauge"), "load")["asDouble"].is_number(), "{bytes:#}");
    assert!(of_source(points(&metrics["millrace_delivery_latency_seconds"], "summary"), "load")["count"].is_string());
    // Each family of `/metrics` is there, by its name.
    let text = millrace.metrics();
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let missing: Vec<&str> = families.filter(|name| metrics.get(name).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");

    let logs = eventually("messages come", || collector.said().into_iter().find(|line| line["logs"].is_array()));
    let record = &logs["logs"][0];
    assert!(record["severityText"] == "WARN" && record["severityNumber"] == "SEVERITY_NUMBER_WARN", "{record:#}");
    assert!(record["body"]["stringValue"].as_str().is_some_and(|text| text.contains("gone")), "{record:#}");

    // It is busy: metrics are dropped and counted, messages wait, and once it takes them again they come.
    let before = collector.said().len();
    collector.order(json!({"answer": 503}));
    eventually("what it did not take is counted", || (counted(&millrace, "millrace_otlp_dropped_total", "metrics") > 0.0).then_some(()));
    eventually("and told", || millrace.log().contains("the OpenTelemetry collector did not take metrics").then_some(()));
    collector.order(json!({"answer": 200, "refuse": 5}));
    eventually("the message about it comes when it is over", || {
        let said = collector.said();
        let texts = said[before..].iter().flat_map(|line| line["logs"].as_array().into_iter().flatten());
        texts.filter_map(|record| record["body"]["stringValue"].as_str()).any(|text| text.contains("did not take metrics")).then_some(())
    });
    // Of what it takes it may refuse some.
    let dropped = counted(&millrace, "millrace_otlp_dropped_total", "metrics");
    eventually("what it refuses is counted", || {
        (counted(&millrace, "millrace_otlp_dropped_total", "metrics") >= dropped + 5.0).then_some(())
    });
    assert_eq!(counted(&millrace, "millrace_otlp_dropped_total", "logs"), 0.0);

    // What is so at the end is sent, too.
    let before = collector.said().len();
    millrace.stop();
    assert!(collector.said()[before..].iter().any(|line| line["metrics"].is_object()), "the last metrics came");
}
