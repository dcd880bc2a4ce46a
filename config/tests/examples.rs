//! Every example loads without a problem, and begins with the line that editors look for.

use millrace_config::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    [
        "generator.yaml",
        "mqtt-to-kafka.yaml",
        "files.yaml",
        "opcua.yaml",
        "plc.yaml",
        "demo.yaml",
        "contracts/factory.yaml",
        "two-runtimes/factory.yaml",
        "templates/factory.yaml",
    ]
    .map(|name| folder.join(name))
    .into()
}

#[test]
fn every_example_loads_without_a_problem() {
    for path in examples() {
        let env = [("MQTT_PASSWORD".to_owned(), "x".to_owned())].into();
        let mut problems = Problems::new();
        let factory = load(&[path], &Load { read_secrets: false, env, files: Arc::new(Disk) }, &mut problems).expect("is read");
        assert!(problems.is_empty(), "{}", problems.render());
        assert!(!factory.sources.is_empty());
        assert!(["localhost:9092", "embedded", "kafka-1:9092,kafka-2:9092,kafka-3:9092"].contains(&factory.kafka.brokers.value.as_str()));
    }
}

#[test]
fn every_yaml_names_the_schema_that_lies_beside_the_examples() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let schema = text.lines().next().unwrap().strip_prefix("# yaml-language-server: $schema=");
                let schema = folder.join(schema.unwrap_or_else(|| panic!("{} names no schema", path.display())));
                let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("factory.schema.json");
                assert_eq!(schema.canonicalize().ok(), beside.canonicalize().ok(), "{}", path.display());
            }
        }
    }
}

#[test]
fn the_templates_example_makes_five_cells_of_one_template() {
    let mut problems = Problems::new();
    let path = examples().pop().unwrap();
    let factory = load(&[path], &Load { read_secrets: false, env: [].into(), files: Arc::new(Disk) }, &mut problems).unwrap();
    let names: Vec<&str> = factory.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["cell-1", "paint", "cell-2", "cell-3", "cell-4"]);
    let of = |name: &str, key: &str| {
        let source = factory.sources.iter().find(|source| source.name == name).unwrap();
        source.node.get(key).unwrap().as_str().unwrap().to_owned()
    };
    assert_eq!(of("cell-3", "endpoint"), "mqtts://10.0.0.7:8883");
    assert_eq!(of("cell-3", "at_least_every"), "10s");
    assert_eq!(of("cell-2", "at_least_every"), "60s");
}
