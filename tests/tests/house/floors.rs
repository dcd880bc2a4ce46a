//! Which crate may depend on which, from `cargo metadata`. ARCHITECTURE.md states the same invariants.

use super::{files, members, read, root};
use cargo_metadata::{DependencyKind, Package};
use std::collections::BTreeSet;
use std::path::Path;

/// The invariants, as ARCHITECTURE.md states them. Each is held by the tests below it.
const INVARIANTS: [&str; 6] = [
    "a crate depends only on lower floors; connectors never on each other, nor on the runtime;",
    // a_crate_depends_only_on_lower_floors, connectors_never_depend_on_each_other_or_on_the_runtime, the_ground_floor_knows_nobody
    "`config/src/tree` knows no factory, and connectors know only the tree;",
    // the_tree_of_the_configuration_knows_no_factory, connectors_know_only_the_tree_of_the_configuration
    "`runtime/log` depends on no crate of ours, `runtime/kafka` on those alone that know no record: `runtime/batches`, `runtime/tls`;",
    // the_log_and_the_kafka_layer_know_no_record
    "only `runtime/kafka` uses rdkafka; only `runtime/app` names concrete connectors, but for `runtime/import`, which writes their addresses;",
    // only_runtime_kafka_uses_rdkafka, only_app_names_concrete_connectors
    "`connectors/testkit` is a development dependency everywhere;",
    // the_testkit_is_for_tests_only
    "every fuzz corpus is replayed by an ordinary test; every key of the YAML is documented.",
    // corpora.rs, words.rs
];

/// The folder of a workspace member, from the top: `runtime/engine`.
pub fn folder(package: &Package) -> String {
    let dir = package.manifest_path.parent().expect("a manifest lies in a folder").as_std_path();
    dir.strip_prefix(root()).expect("a member lies below the top").to_str().expect("a folder's name is UTF-8").to_owned()
}

/// Floors, ground to roof; kit stands on contract, so it is half a floor higher.
fn floor(folder: &str) -> f64 {
    match folder {
        "schemas" | "config" | "runtime/batches" | "runtime/tls" => 0.0,
        "connectors/contract" | "runtime/kafka" => 1.0,
        "connectors/kit" | "runtime/registry" => 1.5,
        "connectors/testkit" => 2.5,
        "runtime/log" => 2.0,
        // What the lake alone uses, a crate since it brings an Arrow of its own.
        "connectors/lake/iceberg" => 1.75,
        "runtime/engine" | "runtime/broker" | "runtime/import" => 3.0,
        "runtime/console" => 4.0,
        "runtime/otlp" | "runtime/opcua-server" => 4.5,
        "runtime/app" => 5.0,
        "tests" => 6.0,
        simulator if simulated(simulator).is_some() => 2.25,
        connector if is_connector(connector) => 2.0,
        other => panic!("{other} has no floor: give it one here and in ARCHITECTURE.md"),
    }
}

fn is_connector(folder: &str) -> bool {
    folder.starts_with("connectors/") && !["connectors/contract", "connectors/kit", "connectors/testkit"].contains(&folder)
}

/// The connector that a simulator belongs to: `connectors/mqtt` of `connectors/mqtt/sim`. It may be made of the connector's own codec.
fn simulated(folder: &str) -> Option<&str> {
    folder.strip_suffix("/sim").filter(|folder| is_connector(folder))
}

/// Whether a crate is a part of a connector, in its folder, because what it is made of takes long to build: `connectors/lake/iceberg`.
fn is_part(part: &str, connector: &str) -> bool {
    is_connector(part) && simulated(part).is_none() && part.strip_prefix(connector).is_some_and(|rest| rest.starts_with('/'))
}

/// Dependencies between our own crates, as folders; with or without those for tests.
fn edges(with_dev: bool) -> Vec<(String, String)> {
    let mut edges = Vec::new();
    for package in members() {
        for dependency in package.dependencies.iter().filter(|one| with_dev || one.kind != DependencyKind::Development) {
            if let Some(target) = members().iter().find(|member| *member.name == dependency.name) {
                edges.push((folder(package), folder(target)));
            }
        }
    }
    edges
}

#[test]
fn a_crate_depends_only_on_lower_floors() {
    for (from, to) in edges(false) {
        assert!(floor(&from) > floor(&to), "{from} (floor {}) depends on {to} (floor {})", floor(&from), floor(&to));
    }
}

#[test]
fn connectors_never_depend_on_each_other_or_on_the_runtime() {
    for (from, to) in edges(true).into_iter().filter(|(from, _)| is_connector(from)) {
        let is_a_pair = is_part(&to, &from) || simulated(&from) == Some(&*to) || simulated(&to) == Some(&*from);
        assert!(!is_connector(&to) || is_a_pair, "{from} depends on the connector {to}");
        let is_allowed =
            !to.starts_with("runtime/") || (from == "connectors/kafka" && ["runtime/kafka", "runtime/registry"].contains(&to.as_str()));
        assert!(is_allowed, "{from} depends on {to}; a connector knows the contract, not the runtime");
    }
}

#[test]
fn only_app_names_concrete_connectors() {
    for (from, to) in edges(false).into_iter().filter(|(_, to)| is_connector(to)) {
        assert!(
            ["runtime/app", "runtime/import", "tests"].contains(&from.as_str()) || simulated(&from) == Some(&*to) || is_part(&to, &from),
            "{from} names the connector {to}; only runtime/app and runtime/import may"
        );
    }
}

#[test]
fn only_runtime_kafka_uses_rdkafka() {
    for package in members() {
        let uses = package.dependencies.iter().any(|dependency| dependency.name.starts_with("rdkafka"));
        assert!(!uses || ["runtime/kafka", "tests"].contains(&folder(package).as_str()), "{} depends on rdkafka", folder(package));
    }
}

#[test]
fn the_log_and_the_kafka_layer_know_no_record() {
    // In its tests the Kafka layer may meet a real broker.
    let knows_no_record = |to: &str| ["runtime/batches", "runtime/tls"].contains(&to);
    let is_wrong = |from: &str, to: &str| from == "runtime/log" || from == "runtime/kafka" && !knows_no_record(to);
    assert_eq!(edges(false).into_iter().find(|(from, to)| is_wrong(from, to)), None);
}

#[test]
fn the_ground_floor_knows_nobody() {
    assert_eq!(edges(false).into_iter().find(|(from, _)| floor(from) == 0.0), None);
}

/// Rust sources below a folder, without comments.
fn code_below(folder: &str) -> Vec<(&'static Path, String)> {
    let is_code = |file: &&std::path::PathBuf| file.starts_with(folder) && file.extension().is_some_and(|end| end == "rs");
    let found: Vec<_> = files().iter().filter(is_code).map(|file| (file.as_path(), super::words::code(&read(file)))).collect();
    assert!(!found.is_empty(), "no Rust below {folder}");
    found
}

#[test]
fn the_tree_of_the_configuration_knows_no_factory() {
    for (file, code) in code_below("config/src/tree") {
        for after in code.split("crate::").skip(1) {
            assert!(after.starts_with("tree::"), "{}: crate::{}", file.display(), after.lines().next().unwrap_or_default());
        }
    }
}

#[test]
fn connectors_know_only_the_tree_of_the_configuration() {
    let tree = read(Path::new("config/src/lib.rs"));
    let (_, shown) = tree.split_once("pub use tree::{").expect("the tree's names are listed");
    let shown: BTreeSet<&str> = shown.split(['{', '}', ',', ';']).map(str::trim).filter(|name| !name.is_empty()).collect();
    assert!(shown.contains("Node") && !shown.contains("Factory"), "{shown:?}");
    for (file, code) in code_below("connectors").into_iter().filter(|(file, _)| file.components().any(|part| part.as_os_str() == "src")) {
        for after in code.split("millrace_config::").skip(1) {
            let list = after.strip_prefix('{').and_then(|list| list.split('}').next());
            let mut names = list.unwrap_or(after).split(',').map(|name| name.trim().split(|c: char| !c.is_alphanumeric() && c != '_'));
            let names = names.by_ref().take(if list.is_some() { usize::MAX } else { 1 }).filter_map(|mut name| name.next());
            for name in names.filter(|name| !name.is_empty()) {
                assert!(shown.contains(name), "{} uses millrace_config::{name}, which is the program's", file.display());
            }
        }
    }
}

#[test]
fn the_testkit_is_for_tests_only() {
    for (from, to) in edges(false).into_iter().filter(|(_, to)| to == "connectors/testkit") {
        // `tests` is nothing but tests: its library is the harness.
        assert_eq!(from, "tests", "{from} depends on {to} outside its tests");
    }
}

#[test]
fn the_architecture_states_these_invariants_and_no_others() {
    let text = read(Path::new("ARCHITECTURE.md"));
    let (_, after) = text.split_once("\nInvariants, each checked by a test").expect("ARCHITECTURE.md lists the invariants");
    let list = after.lines().skip(1).take_while(|line| line.starts_with("- "));
    let stated: Vec<&str> = list.map(|line| line.trim_start_matches("- ")).collect();
    assert_eq!(stated, INVARIANTS, "left: ARCHITECTURE.md, right: what is tested here");
}

#[test]
fn the_top_level_holds_only_what_a_newcomer_expects() {
    let allowed = [
        ".cargo",
        ".ci",
        ".gitattributes",
        ".github",
        ".gitignore",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "NOTICE",
        "README.md",
        "config",
        "connectors",
        "docs",
        "examples",
        "packaging",
        "rustfmt.toml",
        "runtime",
        "schemas",
        "tests",
    ];
    let top: BTreeSet<&str> = files().iter().filter_map(|file| file.components().next()?.as_os_str().to_str()).collect();
    let strange: Vec<&&str> = top.iter().filter(|name| !allowed.contains(name)).collect();
    assert!(strange.is_empty(), "at the top level: {strange:?}");
}

#[test]
fn every_member_is_laid_out_alike() {
    let allowed =
        ["Cargo.toml", "README.md", "benches", "build.rs", "examples", "fixtures", "proptest-regressions", "sim", "src", "static", "tests"];
    // What a crate is about may have a folder of its own.
    let own: &[(&str, &[&str])] = &[
        ("config", &["factory.schema.json", "reference.md"]),
        ("connectors/lake", &["iceberg"]),
        ("schemas", &["telemetry.avsc", "telemetry.proto", "telemetry.schema.json", "avro", "json", "proto"]),
        ("tests", &["fuzz", "peers", "run", "bench", "licences.txt"]),
    ];
    for package in members() {
        let folder = folder(package);
        assert!(root().join(&folder).join("src").is_dir(), "{folder} has no src");
        for file in files().iter().filter_map(|file| file.strip_prefix(&folder).ok()) {
            let first = file.components().next().expect("a file has a name").as_os_str().to_str().expect("names are UTF-8");
            let is_own = own.iter().any(|(member, names)| *member == folder && names.contains(&first));
            assert!(allowed.contains(&first) || is_own, "{folder}/{first}: what is it, and why there?");
        }
        assert_eq!(package.license.as_deref(), Some("Apache-2.0"), "{folder}: licence");
        assert!(package.name.starts_with("millrace"), "{folder}: its crate is called {}", package.name);
    }
}

#[test]
fn versions_of_dependencies_stand_in_one_place() {
    for package in members() {
        let manifest = read(&Path::new(&folder(package)).join("Cargo.toml"));
        for line in manifest.lines().skip_while(|line| !line.contains("dependencies]")) {
            let says_version = line.contains('=') && !line.contains("workspace") && !line.starts_with(['[', '#']) && line.contains("\"");
            let is_dependency = says_version
                && !["name", "path", "harness", "required-features", "default", "doctest", "test", "bench"]
                    .iter()
                    .any(|key| line.starts_with(key));
            assert!(!is_dependency, "{}/Cargo.toml: `{line}`: the version belongs to [workspace.dependencies]", folder(package));
        }
    }
}
