//! What is resolved when a file is loaded: references, templates in templates, settings in layers.

use millrace_config::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

fn load_with(text: &str, env: &[(&str, &str)], files: &[(&str, &str)], read_secrets: bool) -> (Factory, Problems) {
    let mut given = BTreeMap::from([(PathBuf::from("conf/factory.yaml"), text.as_bytes().to_vec())]);
    given.extend(files.iter().map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec())));
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut problems = Problems::new();
    let how = Load { read_secrets, env, files: Arc::new(Given(given)) };
    let factory = load(&["conf/factory.yaml".into()], &how, &mut problems).unwrap_or_else(|| panic!("{}", problems.render()));
    (factory, problems)
}

/// Loads without a problem.
fn loaded(text: &str, env: &[(&str, &str)], files: &[(&str, &str)]) -> Factory {
    let (factory, problems) = load_with(text, env, files, true);
    assert!(problems.is_empty(), "{}", problems.render());
    factory
}

fn text<'f>(factory: &'f Factory, source: &str, path: &str) -> &'f str {
    let source = factory.sources.iter().find(|known| known.name == source).unwrap_or_else(|| panic!("no source {source}"));
    let node = path.split('.').fold(&source.node, |node, step| match step.parse::<usize>() {
        Ok(index) => &node.items()[index],
        Err(_) => node.get(step).unwrap_or_else(|| panic!("no {step} in {node:#?}")),
    });
    node.as_str().unwrap_or_else(|| panic!("{node:?}"))
}

#[test]
fn references_nest_and_escape_and_leave_record_templates_alone() {
    let factory = loaded(
        "site: acme/detroit
sources:
  oven:
    type: demo
    password: '${file:/run/secrets/${name}}'
    both: 'user:${env:USER_${env:WHICH}}@${site}'
    as_it_stands: '$${name} and $$ and $ and {name} and {1}'
    at: 'paint/${env:AREA}/x'
    whole: '${env:AREA}'
",
        &[("WHICH", "A"), ("USER_A", "max"), ("AREA", "hall/1")],
        &[("/run/secrets/oven", "correct horse\r\n")],
    );
    assert_eq!(text(&factory, "oven", "password"), "correct horse");
    assert_eq!(text(&factory, "oven", "both"), "user:max@acme/detroit");
    assert_eq!(text(&factory, "oven", "as_it_stands"), "${name} and $$ and $ and {name} and {1}");
    assert_eq!(text(&factory, "oven", "at"), "paint/hall%2F1/x");
    assert_eq!(text(&factory, "oven", "whole"), "hall/1");
    let printed = expanded(&factory);
    assert!(printed.contains("user:${env:USER_${env:WHICH}}@acme/detroit"), "{printed}");
    assert!(
        !printed.contains("max") && !printed.contains("correct horse") && !format!("{factory:?}").contains("correct horse"),
        "{printed}"
    );
}

#[test]
fn check_reads_no_secret_and_says_nothing_about_what_it_has_not_read() {
    let yaml =
        "site: a/b\nsources: {s: {type: '${file:/none/type}', enabled: '${file:/none/enabled}'}}\nlog: {size: '${file:/none/size}'}\n";
    let (_, problems) = load_with(yaml, &[], &[], false);
    assert!(problems.is_empty(), "{}", problems.render());
    let (_, problems) = load_with(yaml, &[], &[], true);
    assert_eq!(problems.iter().filter(|problem| problem.message.contains("cannot read the secret in /none/")).count(), 3);
}

#[test]
fn a_parameter_that_stands_alone_keeps_what_it_is() {
    let factory = loaded(
        "site: a/b
templates:
  outer: {params: {hosts: required, port: 502, tls: {ca: x}}, use: inner, with: {hosts: '${hosts}', port: '${port}'}, tls: '${tls}', own: outer}
  inner: {params: {hosts: required, port: required}, type: demo, endpoint: '${hosts}', port: '${port}', url: 'tcp://x:${port}', own: inner, deep: {a: 1, b: 2}}
sources:
  s: {use: outer, with: {hosts: [a, b]}, deep: {b: 3}}
",
        &[],
        &[],
    );
    let source = &factory.sources[0];
    assert_eq!(source.type_name.value, "demo");
    assert_eq!(source.node.get("endpoint").unwrap().items().len(), 2);
    assert_eq!(source.node.get("port").unwrap().as_i64(), Some(502));
    assert_eq!(text(&factory, "s", "url"), "tcp://x:502");
    assert_eq!(text(&factory, "s", "own"), "outer");
    assert_eq!(text(&factory, "s", "tls.ca"), "x");
    assert_eq!((text(&factory, "s", "deep.a"), text(&factory, "s", "deep.b")), ("1", "3"));
}

#[test]
fn devices_have_their_own_name_template_and_table() {
    let factory = loaded(
        "site: a/b
templates:
  meter: {params: {ct: 1}, label: '${name}', groups: [{every: 1s, tags: {p: '${ct}', u: x}}]}
sources:
  line:
    type: modbus
    label: '${name}'
    devices: {m1: {use: meter, with: {ct: 5}, unit_id: 1, groups: [{every: 5s, tags: {u: y}}]}}
    devices_from: meters/all.csv
",
        &[],
        &[("conf/meters/all.csv", "name,use,unit_id,ct\nm2,meter,2,7\nm3,,3,\n")],
    );
    assert_eq!(text(&factory, "line", "label"), "line");
    assert_eq!(text(&factory, "line", "devices.m1.label"), "m1");
    assert_eq!(text(&factory, "line", "devices.m1.groups.0.tags.p"), "5");
    assert_eq!(text(&factory, "line", "devices.m1.groups.1.tags.u"), "y");
    assert_eq!(text(&factory, "line", "devices.m2.groups.0.tags.p"), "7");
    assert_eq!(text(&factory, "line", "devices.m2.unit_id"), "2");
    assert_eq!(text(&factory, "line", "devices.m3.unit_id"), "3");
}

#[test]
fn the_environment_lies_over_the_file_and_the_file_over_the_defaults() {
    let yaml = "site: a/b\nhttp: {listen: 127.0.0.1:9000}\nlog: {size: 1GiB}\nsources: {s: {type: demo}}\n";
    let defaults = loaded("site: a/b\nsources: {s: {type: demo}}\n", &[], &[]);
    let file = loaded(yaml, &[], &[]);
    let environment = loaded(
        yaml,
        &[("MILLRACE_HTTP_LISTEN", "127.0.0.1:80"), ("MILLRACE_DATA_DIR", "/var/lib/millrace"), ("MILLRACE_MESSAGES_LEVEL", "debug")],
        &[],
    );
    assert_eq!(defaults.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(file.http.listen.to_string(), "127.0.0.1:9000");
    assert_eq!(environment.http.listen.to_string(), "127.0.0.1:80");
    assert_eq!((defaults.log.size, file.log.size, environment.log.size), (ByteSize(4 << 30), ByteSize(1 << 30), ByteSize(1 << 30)));
    assert_eq!((file.data_dir, environment.data_dir), ("./millrace-data".into(), "/var/lib/millrace".into()));
    assert_eq!(environment.messages.level, factory::Level::Debug);
    assert_eq!(defaults.kafka, factory::Kafka::default());
}

#[test]
fn only_the_file_may_allow_writing() {
    for variable in ["MILLRACE_FLOOR_WRITES", "MILLRACE_FLOOR__WRITES"] {
        let (factory, problems) = load_with("site: a/b\nsources: {s: {type: demo}}\n", &[(variable, "allowed")], &[], true);
        assert_eq!(factory.floor.writes.value, factory::Writes::Forbidden);
        assert!(problems.has_errors(), "{variable}");
    }
}

#[test]
fn a_secret_in_somebodys_own_message_is_not_shown() {
    let (factory, mut problems) = load_with("site: a/b\nsources: {s: {type: '${env:TYPE}'}}\n", &[("TYPE", "correct horse")], &[], true);
    let source = &factory.sources[0];
    problems.error(source.type_name.place, format!("there is no source of type `{}`", source.type_name.value));
    let said = problems.render() + &problems.to_json().to_string();
    assert!(said.contains("${env:TYPE}") && !said.contains("correct horse"), "{said}");
}

#[test]
fn a_reference_never_allows_writing_to_devices() {
    let yaml = |writes: &str| format!("site: acme/plant\nkafka: {{brokers: a:1}}\nfloor: {{writes: \"{writes}\"}}\n");
    for (reference, files) in [("${env:WRITES}", &[][..]), ("${file:writes}", &[("writes", "allowed")][..]), ("al${env:REST}", &[][..])] {
        let (_, problems) = load_with(&yaml(reference), &[("WRITES", "allowed"), ("REST", "lowed")], files, true);
        assert!(problems.has_errors() && problems.render().contains("by this file alone"), "{reference}: {}", problems.render());
    }
    let (factory, problems) = load_with(&yaml("allowed"), &[], &[], true);
    assert!(!problems.has_errors(), "{}", problems.render());
    assert_eq!(factory.floor.writes.value, millrace_config::factory::Writes::Allowed);
}

#[test]
fn problems_for_a_program_carry_every_place() {
    let (_, problems) =
        load_with("site: a/b\ntemplates: {t: {params: {x: required}, type: demo}}\nsources:\n  s: {use: t}\n", &[], &[], true);
    let json = problems.to_json();
    let problem = &json[0];
    assert_eq!(problem["severity"], "error");
    assert_eq!((&problem["file"], &problem["line"], &problem["path"]), (&"conf/factory.yaml".into(), &4.into(), &"sources.s".into()));
    assert_eq!(problem["related"][0]["line"], 2);
    assert!(problem["help"].as_str().unwrap().contains("with"), "{problem}");
}

#[test]
fn a_slash_in_a_connectors_topic_becomes_a_dot() {
    let factory = loaded(
        "site: a/b\nsources: {s: {type: demo, topic: plant/state, scale: 2}}\nsinks: {t: {type: demo, topics: ['plant/*', x], start: latest}}\n",
        &[],
        &[],
    );
    let mut problems = Problems::new();
    let (keys, own) = factory.sources[0].source_keys(&mut problems);
    assert_eq!(keys.unwrap().topic.unwrap().value, "plant.state");
    assert_eq!(own.entries().len(), 1);
    let (keys, own) = factory.sinks[0].sink_keys(&mut problems);
    let keys = keys.unwrap();
    assert_eq!(keys.topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>(), ["plant.*", "x"]);
    assert_eq!(keys.start, Some(factory::Start::Latest));
    assert!(own.entries().is_empty() && problems.is_empty());
}

#[test]
fn a_device_takes_the_keys_of_its_profile_and_its_own_over_them() {
    let factory = loaded(
        "site: acme/detroit
templates:
  meter: {type: demo, unit_id: '1', order: ABCD, max_gap: '16', groups: [{every: 1s, tags: {u1: a, i1: b}}]}
sources:
  line:
    type: demo
    devices:
      m01: {use: meter, profile: profiles/m01.yaml, unit_id: '7'}
      m02: {profile: 'profiles/${name}.yaml'}
",
        &[],
        &[
            ("conf/profiles/m01.yaml", "unit_id: '3'\norder: CDAB\ngroups: [{every: 5s, tags: {u1: c}}]\n"),
            ("conf/profiles/m02.yaml", "unit_id: '4'\n"),
        ],
    );
    assert_eq!(text(&factory, "line", "devices.m01.unit_id"), "7", "its own over the profile's");
    assert_eq!(text(&factory, "line", "devices.m01.order"), "CDAB", "the profile's over the template's");
    assert_eq!(text(&factory, "line", "devices.m01.max_gap"), "16");
    assert_eq!(text(&factory, "line", "devices.m01.groups.1.tags.u1"), "c");
    assert_eq!(text(&factory, "line", "devices.m02.unit_id"), "4");
}
