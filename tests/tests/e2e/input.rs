//! Wrong configurations: a clear answer with its place, and nothing started.

use millrace_tests::*;

/// What `check` says about a text; it must refuse it.
fn refused(text: &str) -> String {
    let millrace = Factory::at("127.0.0.1:1").prepare(text);
    let output = millrace.run(&["check", "-c", "factory.yaml"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("factory.yaml:"), "no place in: {said}");
    said
}

#[test]
fn every_problem_is_told_at_once_with_its_line() {
    let said = refused(
        "
sources:
  cells: {type: mqqt, endpoint: 'mqtt://127.0.0.1:1', subscribe: [{filter: 'a/#', topic: t}]}
  load: {type: generator, at: load, topic: t, tags: many, rate: 10000/s}
  press: {type: mqtt, endpoint: 'mqtt://127.0.0.1:1', subscribe: [{filter: 'a/#/b', topic: t}], colour: red}
",
    );
    for word in ["mqqt", "mqtt", "many", "a/#/b", "colour"] {
        assert!(said.contains(word), "no word of {word} in: {said}");
    }
}

#[test]
fn a_property_that_would_break_a_promise_is_refused() {
    let said = refused("kafka: {brokers: '127.0.0.1:1', properties: {acks: '0', enable.idempotence: 'false'}}\nsources: {}\n");
    assert!(said.contains("acks") && said.contains("enable.idempotence"), "{said}");
}

#[test]
fn a_contract_that_can_t_be_kept_is_refused_where_it_is_declared() {
    let said = refused(
        "
topics:
  wide: {format: protobuf, shape: asset}
  first: {format: avro, latest: true}
  second: {format: json, latest: true}
  orders: {format: raw, latest: true}
  gone: {format: avro, schema: gone.avsc}
",
    );
    for words in [
        "topic wide: wide records are avro or json",
        "topics first and second both keep their last samples in millrace.latest, and have two formats",
        "topics: {millrace.latest: {format: avro}}",
        "topic orders: `latest` keeps samples, and its records are documents",
        "gone.avsc",
    ] {
        assert!(said.contains(words), "not said: {words}\n{said}");
    }
    let said = refused("topics: {millrace.latest: {format: avro, key: asset}}\n");
    assert!(said.contains("topic millrace.latest keeps the last sample of each tag, by the tag's path"), "{said}");
}

#[test]
fn a_fault_in_a_schema_s_file_is_shown_where_it_is() {
    let properties: String = (4..40).map(|n| format!("    \"p{n}\": {{\"type\": \"string\"}},\n")).collect();
    let schema =
        format!("{{\n  \"type\": \"object\",\n  \"properties\": {{\n{properties}    \"last\": {{\"type\" \"string\"}}\n  }}\n}}\n");
    let millrace =
        Factory::at("127.0.0.1:1").file("long.schema.json", &schema).prepare("topics: {t: {format: json, schema: long.schema.json}}\n");
    let output = millrace.run(&["check", "-c", "factory.yaml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("long.schema.json:40:21") && said.contains("factory.yaml:"), "{said}");
}

#[test]
fn text_that_is_no_yaml_and_a_file_that_is_not_there_are_told() {
    refused("sources: [unclosed\n");
    let millrace = Factory::at("127.0.0.1:1").prepare("sources: {}\n");
    let output = millrace.run(&["check", "-c", "nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere.yaml"), "{output:?}");
}

#[test]
fn check_does_no_io_and_plan_says_the_guarantee() {
    let millrace = Factory::at("127.0.0.1:1")
        .prepare("sources:\n  cells: {type: mqtt, endpoint: 'mqtt://192.0.2.1:1883', subscribe: [{filter: 'a/#', topic: t}]}\n");
    let output = millrace.run(&["check", "-c", "factory.yaml"]);
    assert!(output.status.success(), "{output:?}");
    let plan = millrace.run(&["plan", "-c", "factory.yaml"]);
    let said = String::from_utf8_lossy(&plan.stdout);
    assert!(plan.status.success() && said.contains("cells") && said.contains("192.0.2.1:1883") && said.contains("once"), "{said}");
    assert!(!millrace.data_dir().exists(), "check and plan leave nothing on the disk");
}
