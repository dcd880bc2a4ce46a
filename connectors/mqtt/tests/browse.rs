//! `browse` against a real mosquitto: what it prints compiles as a source.

mod common;

use common::{Mosquitto, context};
use millrace_config::{Node, Problems};
use millrace_contract::{Browse, Context, Entry, Plugin, TagOptions};
use millrace_mqtt::MqttSource;
use millrace_testkit::soon;
use std::time::Duration;

fn request(url: String) -> Browse {
    Browse { url, user: None, password: None, ca: None, watch: Duration::from_millis(500), limit: 100, ..Browse::default() }
}

#[tokio::test]
async fn what_a_broker_says_is_printed_as_a_source_that_compiles() {
    let mosquitto = Mosquitto::start().await;
    let mut client = mosquitto.client("device").await;
    for (topic, payload) in [
        ("hall/a/value", "21.5"),
        ("hall/b/value", "3"),
        ("hall/a/name \"x\"", "text: with # and {braces}"),
        ("car/1/t", r#"{"ts":1750000000123,"v":{"kmh":1},"odd name/~":true}"#),
        ("car/2/t", r#"{"v":{"kmh":2,"rpm":3}}"#),
        ("list", "[1]"),
        ("spBv1.0/g/NBIRTH/n", "x"),
    ] {
        client.publish(topic, payload.as_bytes(), 1, true).await;
    }
    client.publish("raw", &[0xFF, 0], 1, true).await;
    let browse = MqttSource::browse().expect("mqtt can be browsed");
    let text = soon("browse", browse(request(mosquitto.endpoint()))).await.unwrap().yaml("mqtt");
    for part in [
        "filter: \"hall/+/value\", payload: number",
        "filter: \"car/+/t\"",
        "time: {at: \"/ts\", unit: ms}",
        "v/rpm: \"/v/rpm\"",
        "filter: \"spBv1.0/g/#\", payload: sparkplug",
        "filter: \"raw\", payload: bytes",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let mut problems = Problems::new();
    let node = Node::from_yaml(&text, &mut problems).unwrap_or_else(|| panic!("{text}\n{}", problems.render()));
    let (common, own) =
        node.get("sources").and_then(|sources| sources.get("broker")).expect("a source named broker").take(&["type", "topic"]);
    assert_eq!(common.get("type").and_then(Node::as_str), Some("mqtt"));
    let context = Context { topic: Some("telemetry".into()), options: TagOptions::default(), ..context() };
    let compiled = (Entry::of::<MqttSource>().compile)(&own, &context, &mut problems);
    assert!(compiled.is_some() && !problems.has_errors(), "{text}\n{}", problems.render());
}

#[tokio::test]
async fn a_filter_behind_the_url_narrows_what_is_seen() {
    let mosquitto = Mosquitto::start().await;
    let mut client = mosquitto.client("device").await;
    client.publish("a/1", b"1", 1, true).await;
    client.publish("b/1", b"1", 1, true).await;
    let browse = MqttSource::browse().expect("mqtt can be browsed");
    let text = soon("browse", browse(request(format!("{}/a/#", mosquitto.endpoint())))).await.unwrap().yaml("mqtt");
    assert!(text.contains("filter: \"a/1\"") && !text.contains("b/1"), "{text}");
}

#[tokio::test]
async fn nobody_there_is_an_error_that_says_where() {
    let port = common::free_port();
    let browse = MqttSource::browse().expect("mqtt can be browsed");
    let error = soon("browse", browse(request(format!("mqtt://127.0.0.1:{port}")))).await.unwrap_err();
    assert!(error.contains(&format!("cannot connect to mqtt://127.0.0.1:{port}")), "{error}");
}
