//! What `check` says of an MQTT source, and what it knows without a connection.

mod common;

use common::{compile, context};
use millrace_contract::Guarantee;
use millrace_mqtt::MqttSource;
use millrace_testkit::yaml;

fn problems(keys: &str) -> String {
    yaml::compile::<MqttSource>(keys, &context()).err().unwrap_or_else(|| panic!("no problem with {keys}"))
}

#[test]
fn the_contracts_example_compiles() {
    let compiled = compile::<MqttSource>(
        r#"
endpoint: mqtts://broker.plant:8883
version: 5
client_id: millrace-cells
connections: 1
host: {id: millrace, primary: true}
tls: {ca: /etc/millrace/ca.pem, cert: /etc/millrace/client.pem, key: /etc/millrace/client.key}
subscribe:
  - {filter: "factory/+/+/state", payload: json, topic: machine-state, key: "{1}/{2}"}
  - {filter: "factory/+/+/+/value", payload: number, topic: telemetry, tag: "{1}/{2}/{3}"}
  - {filter: "car/+/telemetry", payload: json, topic: telemetry, at: "fleet/{1}", samples: {speed: /v/kmh, soc: /battery/soc}, time: {at: /ts, unit: ms}, status: /quality, qos: 1}
  - {filter: "spBv1.0/pack/#", payload: sparkplug, topic: telemetry, at: "packaging/{node}/{device}", tag: "{metric}"}
"#,
    );
    let routes: Vec<_> = compiled.model().routes.iter().map(|route| (&*route.topic, route.name.as_str(), route.samples)).collect();
    let expected = [
        ("machine-state", "factory/+/+/state", false),
        ("telemetry", "factory/+/+/+/value", true),
        ("telemetry", "car/+/telemetry", true),
        ("telemetry", "spBv1.0/pack/#", true),
    ];
    assert_eq!(routes, expected);
    assert!(matches!(compiled.guarantee(), Guarantee::AtLeastOnce(_)));
    let plan = compiled.plan();
    assert!(plan.lines.iter().any(|line| line.contains("Sparkplug primary host millrace")), "{:?}", plan.lines);
}

#[test]
fn tags_of_fixed_topics_are_known_before_connecting() {
    let compiled = compile::<MqttSource>(
        "{endpoint: 'mqtt://b', subscribe: [{filter: oven/t, payload: number, tag: 'oven/temperature', unit: degC, min: 0}, {filter: car, at: fleet, samples: {speed: {at: /v, topic: fast}}}]}",
    );
    let tags = &compiled.model().tags;
    let known: Vec<_> = tags.iter().map(|tag| (tag.path.as_str(), tag.address.as_str(), &*tag.topic)).collect();
    assert_eq!(known, [("oven/temperature", "oven/t", "telemetry"), ("fleet/speed", "car#/v", "fast")]);
    assert_eq!((tags[0].options.unit.as_deref(), tags[0].options.min), (Some("degC"), Some(0.0)));
}

#[test]
fn wrong_configurations_say_what_is_wrong() {
    let with = |keys: &str| format!("{{endpoint: 'mqtt://b', {keys}}}");
    let subscribe = |item: &str| with(&format!("subscribe: [{{{item}}}]"));
    let ok = "subscribe: [{filter: a, topic: docs}]";
    for (keys, part) in [
        (format!("{{endpoint: 'http://b', {ok}}}"), "mqtt, mqtts, ws and wss"),
        (format!("{{endpoint: 'b:1883', {ok}}}"), "write mqtt://b:1883"),
        (with("subscribe: []"), "`subscribe` is empty"),
        (with(&format!("version: 3, {ok}")), "no mqtt version 3"),
        (with(&format!("window: 0, {ok}")), "`window` is from 1"),
        (with(&format!("max_packet: 1KiB, {ok}")), "`max_packet` is from 128KiB"),
        (with(&format!("keep_alive: 1s, {ok}")), "`keep_alive` is from 2s"),
        (with(&format!("client_id: '', {ok}")), "a client id has"),
        (with(&format!("connections: 4, {ok}")), "add `share: NAME`"),
        (
            with("connections: 2, share: s, subscribe: [{filter: a, payload: number, tag: a, topic: t, command: {topic: b}}]"),
            "a source of its own, with one connection",
        ),
        (subscribe("filter: a, command: {topic: b}"), "`command` has no use here"),
        (subscribe("filter: 'spBv1.0/#', payload: sparkplug, command: {topic: b}"), "only `confirm` is said here"),
        (subscribe("filter: 'spBv1.0/g/NDATA/#', payload: sparkplug"), "brings no births"),
        (with(&format!("share: 'a/b', {ok}")), "no name of a shared subscription"),
        (with(&format!("tls: {{ca: /x}}, {ok}")), "`tls` has no use"),
        (with(&format!("host: {{id: x}}, {ok}")), "no subscription has `payload: sparkplug`"),
        (with("share: s, subscribe: [{filter: 'spBv1.0/#', payload: sparkplug}]"), "Sparkplug cannot be shared"),
        (subscribe("filter: 'a/#/b', topic: docs"), "must be the last level"),
        (subscribe("filter: 'a', qos: 3"), "there is no QoS 3"),
        (subscribe("filter: 'a/+', payload: number"), "no `tag` for the values"),
        (subscribe("filter: 'a/+', payload: number, tag: x"), "every topic of `a/+` would be the tag `x`"),
        (subscribe("filter: 'a/+', samples: {x: /x}"), "the same tags"),
        (subscribe("filter: 'a/+', payload: number, tag: '{2}'"), "there are topic, 1"),
        (subscribe("filter: 'a/+', payload: number, tag: '{/id}'"), "take JSON pointers"),
        (subscribe("filter: a, samples: {x: v.kmh}"), "write /v/kmh"),
        (subscribe("filter: a, at: b, samples: {}"), "`samples` is empty"),
        (subscribe("filter: a, each: /v, value: /x"), "`each` wants `tag`"),
        (subscribe("filter: a, each: /v, tag: '{/id}'"), "nothing says where a reading's value stands"),
        (subscribe("filter: a, each: '/v/*', tag: '{/id}', value: /x"), "which a JSON pointer does not know"),
        (subscribe("filter: a, payload: text, each: /v"), "`each` has no use here"),
        (subscribe("filter: a, samples: {x: {at: /x, as: float}}"), "`float` is not one of"),
        (subscribe("filter: a, samples: {x: /x}, status: {at: /q, as: opc}"), "`opcua`, `opcda`, `sparkplug`"),
        (subscribe("filter: a, samples: {x: /x}, time: {at: /t, format: yyyy-MM-dd}"), "write it as in `%Y-%m-%d`"),
        (subscribe("filter: a, encoding: klingon"), "is not an encoding"),
        (with("allow_topics: ['millrace.*'], subscribe: [{filter: a}]"), "Kafka's or Millrace's own"),
        (subscribe("filter: a, tag: x"), "`tag` has no use here"),
        (subscribe("filter: a, payload: number, tag: x, key: y"), "`key` has no use here"),
        (subscribe("filter: a, payload: number, tag: x, time: {at: /t}"), "`time` has no use here"),
        (subscribe("filter: a, status: /q"), "`status` has no use here"),
        (subscribe("filter: a, topic: 'to/kafka'"), "`/` is not allowed in it"),
        (subscribe("filter: a, payload: text, tag: 'x//y'"), "empty level"),
        (subscribe("filter: a, payload: telepathy"), "telepathy"),
        (subscribe("filter: x/y, payload: sparkplug"), "does not begin with `spBv1.0/`"),
        (with("subscribe: [{filter: a, topic: x}, {filter: a, topic: y}]"), "the filter `a` is there twice"),
        (with("subscribe: [{filter: a, payload: number, tag: t}, {filter: b, payload: number, tag: t}]"), "two tags have the path `t`"),
    ] {
        let text = problems(&keys);
        assert!(text.contains(part), "{keys}\n{text}");
    }
}

#[test]
fn a_subscription_without_a_topic_is_a_problem() {
    let context = millrace_contract::Context { topic: None, ..context() };
    let text = yaml::compile::<MqttSource>("{endpoint: 'mqtt://b', subscribe: [{filter: a}]}", &context).err().expect("a problem");
    assert!(text.contains("no `topic` for the messages of `a`"), "{text}");
}

#[test]
fn the_guarantee_is_that_of_the_weakest_subscription() {
    let guarantee = |keys: &str| compile::<MqttSource>(&format!("{{endpoint: 'mqtt://b', {keys}}}")).guarantee();
    assert!(matches!(guarantee("subscribe: [{filter: a, qos: 2}]"), Guarantee::ExactlyOnce(_)));
    assert!(matches!(guarantee("subscribe: [{filter: a, qos: 2}, {filter: b}]"), Guarantee::AtLeastOnce(_)));
    assert!(matches!(guarantee("subscribe: [{filter: a, qos: 2}, {filter: b, qos: 0}]"), Guarantee::AtMostOnce(_)));
    assert!(matches!(guarantee("session_expiry: 0s, subscribe: [{filter: a, qos: 2}]"), Guarantee::AtMostOnce(_)));
}
