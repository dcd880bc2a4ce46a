//! The whole grammar: the contract's own file loads, expands, and loads again as it was printed.

use millrace_config::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn how() -> Load {
    let env = [("MQTT_PASSWORD", "correct horse"), ("ERP_SECRET", "battery staple")];
    Load { read_secrets: false, env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(), files: Arc::new(Disk) }
}

fn contract() -> Factory {
    let mut problems = Problems::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/factory.yaml");
    let factory = load(&[path], &how(), &mut problems);
    assert!(problems.is_empty(), "{}", problems.render());
    factory.expect("loads")
}

fn source<'f>(factory: &'f Factory, name: &str) -> &'f Connector {
    factory.sources.iter().find(|source| source.name == name).expect(name)
}

fn at<'n>(node: &'n Node, path: &str) -> &'n Node {
    path.split('.').fold(node, |node, step| match step.parse::<usize>() {
        Ok(index) => &node.items()[index],
        Err(_) => node.get(step).unwrap_or_else(|| panic!("{step} of {path} in {node:#?}")),
    })
}

#[test]
fn the_top_level_is_what_the_contract_says() {
    let factory = contract();
    assert_eq!(factory.site.value, "acme/detroit");
    assert_eq!(factory.levels, ["area", "line", "cell"]);
    assert_eq!(factory.data_dir, PathBuf::from("./millrace-data"));
    assert_eq!(factory.kafka.brokers.value, "embedded");
    assert_eq!(factory.kafka.embedded.sync, Period::from_millis(200));
    let said = [&factory.runtime.id, &factory.runtime.group].map(|name| name.as_ref().map(|name| name.value.as_str()));
    assert_eq!(said, [Some("a"), Some("detroit")]);
    assert_eq!(factory.kafka.delivery, factory::Delivery::AtLeastOnce);
    assert_eq!(factory.kafka.properties["compression.type"].value, "lz4");
    assert_eq!(factory.schemas.registry.value, "embedded");
    assert_eq!(factory.log.size, ByteSize(4 << 30));
    assert_eq!(factory.log.keep_free, KeepFree::Percent(10.0));
    assert_eq!(factory.log.alarm.left, Period::from_secs(4 * 3600));
    assert_eq!(factory.clock.behind, Period::from_secs(86_400));
    assert_eq!(factory.floor.writes.value, factory::Writes::Allowed);
    assert_eq!(factory.topics["alarms"].lane, factory::Lane::First);
    assert_eq!(factory.topics["telemetry"].retention, Some(Period::from_secs(7 * 86_400)));
    assert_eq!(factory.topics["part-results"].subject, factory::Subject::TopicRecordName);
    assert_eq!(factory.defaults.as_ref().unwrap().get("stale_after").unwrap().as_str(), Some("3m"));
}

#[test]
fn every_source_and_sink_is_there_with_its_type() {
    let factory = contract();
    let names = |connectors: &[Connector]| connectors.iter().map(|c| format!("{} {}", c.name, c.type_name.value)).collect::<Vec<_>>();
    assert_eq!(
        names(&factory.sources),
        [
            "press-1 opcua",
            "line-2 modbus",
            "oven s7",
            "cells mqtt",
            "production-orders erp",
            "mes poll",
            "test-stand file",
            "load generator",
            "press-9 opcua",
            "press-2 opcua",
            "press-3 opcua",
        ]
    );
    assert_eq!(names(&factory.sinks), ["lake lake", "confirmations erp", "setpoints commands", "archive file", "apps mqtt", "cloud kafka"]);
    assert!(!source(&factory, "load").enabled);
    assert!(!source(&factory, "press-3").enabled);
}

#[test]
fn a_template_is_filled_in_for_each_use() {
    let factory = contract();
    let press = &source(&factory, "press-1").node;
    assert_eq!(at(press, "endpoint").as_str(), Some("opc.tcp://10.0.0.5:4840"));
    assert_eq!(at(press, "namespaces.p").as_str(), Some("http://acme.example/press"));
    // Not read: nothing here may touch secrets.
    let password = at(press, "login.password").text().unwrap();
    assert_eq!(password.reference(), Some("${file:/run/secrets/press-1}"));
    assert_eq!(at(press, "groups.1.browse.name").as_str(), Some("{path}"));
    assert!(press.get("use").is_none() && press.get("with").is_none() && press.get("params").is_none());
    assert_eq!(at(&source(&factory, "press-2").node, "endpoint").as_str(), Some("opc.tcp://10.0.0.6:4840"));
}

#[test]
fn own_groups_are_added_and_a_tag_of_the_same_name_replaces_or_removes() {
    let factory = contract();
    let press = &source(&factory, "press-9").node;
    let groups = at(press, "groups").items();
    assert_eq!(groups.len(), 3);
    let names = |group: &Node| at(group, "tags").entries().iter().map(|tag| tag.key.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&groups[0]), ["force", "state", "running"]);
    assert_eq!(names(&groups[2]), ["temperature"]);
    assert_eq!(at(&groups[2], "tags.temperature.node").as_str(), Some("p:s=Temp2"));
}

#[test]
fn a_table_of_tags_has_the_long_forms_keys() {
    let factory = contract();
    let meter = at(&source(&factory, "line-2").node, "devices.m01");
    assert_eq!(at(meter, "unit_id").as_i64(), Some(1));
    assert_eq!(at(meter, "groups.0.tags.voltage_l1.max").as_f64(), Some(400.0));
    assert_eq!(at(meter, "groups.0.tags.power.description").as_str(), Some("Active power of all phases"));
    assert!(at(meter, "groups.0.tags.power").get("min").is_none());
    assert_eq!(at(meter, "groups.1.tags.kwh.kind").as_str(), Some("counter"));
    assert_eq!(at(meter, "labels.cost_centre").as_str(), Some("4711"));
}

#[test]
fn what_is_printed_expanded_loads_to_the_same_factory_and_shows_no_secret() {
    let factory = contract();
    let printed = expanded(&factory);
    assert!(!printed.contains("correct horse") && !printed.contains("battery staple"), "{printed}");
    assert!(printed.contains("${env:MQTT_PASSWORD}"), "{printed}");
    assert!(!printed.contains("templates:") && !printed.contains("sources_from"), "{printed}");
    let files = Given(BTreeMap::from([(PathBuf::from("expanded.yaml"), printed.clone().into_bytes())]));
    let mut problems = Problems::new();
    let again = load(&["expanded.yaml".into()], &Load { files: Arc::new(files), ..how() }, &mut problems).unwrap();
    assert!(problems.is_empty(), "{}", problems.render());
    assert!(again.sources == factory.sources, "{printed}");
    assert!(again.sinks == factory.sinks, "{printed}");
    assert_eq!(again.topics, factory.topics);
    assert_eq!(expanded(&again), printed);
}
