//! Every dependency may be shipped, is wanted, and compiles with the Rust we state; exceptions are named, with their reason.

use super::metadata;
use cargo_metadata::{DependencyKind, PackageId};
use std::collections::BTreeSet;

const ALLOWED: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Not shipped: benchmarks measure against it.
const ONLY_IN_TESTS: [&str; 2] = ["serde_avro_fast", "serde_serializer_quick_unsupported"];

/// Shipped under the MPL-2.0, which binds the files it covers and nothing beside them: we change none of them and say where they are (crates.io).
/// No other maintained crate speaks OPC UA.
const FILE_LEVEL_COPYLEFT: (&str, &str) = ("async-opcua", "MPL-2.0");

/// Never compiled: arrow's way to random numbers in a browser.
const ONLY_FOR_WEBASSEMBLY: (&str, &str) = ("tiny-keccak", "CC0-1.0");

/// Crates that must not come back, and why.
const BANNED: [(&str, &str); 5] = [
    ("aws-lc-rs", "ring is the one provider of cryptography; two of them panic at the start"),
    ("native-tls", "rustls is the one TLS of our own connections"),
    ("opcua", "frozen with open advisories; async-opcua is its successor"),
    ("serde_yml", "unsound, RUSTSEC-2025-0068"),
    ("deltalake", "two arrows in one binary; delta_kernel is used"),
];

/// Crates that become part of the binary: reached from `millrace` without dependencies for tests.
fn shipped() -> BTreeSet<&'static PackageId> {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().expect("cargo metadata resolves");
    let app = metadata.workspace_packages().into_iter().find(|package| *package.name == "millrace").expect("the app is a member");
    let mut reached = BTreeSet::from([&app.id]);
    let mut next = vec![&app.id];
    while let Some(id) = next.pop() {
        let node = resolve.nodes.iter().find(|node| node.id == *id).expect("every package is resolved");
        for dependency in &node.deps {
            let ships = dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development);
            if ships && reached.insert(&dependency.pkg) {
                next.push(&dependency.pkg);
            }
        }
    }
    reached
}

/// Whether an SPDX expression can be met with what is allowed: `(MIT OR Apache-2.0) AND Unicode-3.0`; `MIT/Apache-2.0` is its old form.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "~WITH~");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let (met, rest) = any_of(&tokens);
    assert!(rest.is_empty(), "not an SPDX expression: {expression}");
    met
}

fn any_of<'a>(tokens: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = all_of(tokens);
    while rest.first() == Some(&"OR") {
        let (other, after) = all_of(&rest[1..]);
        (met, rest) = (met || other, after);
    }
    (met, rest)
}

fn all_of<'a>(tokens: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = one(tokens);
    while rest.first() == Some(&"AND") {
        let (other, after) = one(&rest[1..]);
        (met, rest) = (met && other, after);
    }
    (met, rest)
}

fn one<'a>(tokens: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    match tokens.split_first() {
        Some((&"(", inner)) => {
            let (met, rest) = any_of(inner);
            (met, rest.strip_prefix(&[")"]).unwrap_or(rest))
        }
        Some((name, rest)) => (ALLOWED.contains(&name.replace("~WITH~", " WITH ").as_str()), rest),
        None => (false, tokens),
    }
}

#[test]
fn spdx_expressions_are_understood() {
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT/Apache-2.0", true),
        ("MIT OR Apache-2.0 OR LGPL-2.1-or-later", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("MIT AND GPL-2.0", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
    ] {
        assert_eq!(is_allowed(expression), expected, "{expression}");
    }
}

#[test]
fn every_dependency_may_be_shipped() {
    let shipped = shipped();
    for package in metadata().packages.iter().filter(|package| package.source.is_some()) {
        let licence = package.license.as_deref().unwrap_or_else(|| panic!("{} {} names no licence", package.name, package.version));
        if is_allowed(licence) {
            continue;
        }
        if (package.name.as_str(), licence) == ONLY_FOR_WEBASSEMBLY {
            continue;
        }
        let (family, its_licence) = FILE_LEVEL_COPYLEFT;
        if package.name.starts_with(family) && licence == its_licence {
            continue;
        }
        let is_excepted = ONLY_IN_TESTS.contains(&package.name.as_str()) && !shipped.contains(&package.id);
        assert!(is_excepted, "{} {}: {licence} is not allowed", package.name, package.version);
    }
}

/// librdkafka's own OpenSSL is bound by openssl-sys alone; another binding serves SQL Server: the only TLS of its driver beside aws-lc, and the same library.
#[test]
fn openssl_is_bound_for_librdkafka_and_sql_server_alone() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().expect("cargo metadata resolves");
    let users = |name: &str| -> Vec<&str> {
        let is_of = |node: &&cargo_metadata::Node| node.deps.iter().any(|dependency| metadata[&dependency.pkg].name.as_str() == name);
        resolve.nodes.iter().filter(is_of).map(|node| metadata[&node.id].name.as_str()).collect()
    };
    assert_eq!(users("openssl"), ["opentls"]);
    assert_eq!(users("opentls"), ["tiberius"]);
}

#[test]
fn no_banned_crate_is_in_the_tree() {
    for package in &metadata().packages {
        if let Some((name, why)) = BANNED.iter().find(|(name, _)| *name == package.name.as_str()) {
            panic!("{name} {} is a dependency: {why}", package.version);
        }
    }
}

/// An older compiler is not at hand here; what every dependency says it needs is.
#[test]
fn the_oldest_rust_that_is_stated_suffices_for_every_dependency() {
    let stated = metadata().workspace_packages()[0].rust_version.clone().expect("the workspace states its oldest Rust");
    for package in &metadata().packages {
        if let Some(needed) = &package.rust_version {
            assert!(*needed <= stated, "{} {} needs Rust {needed}, and {stated} is stated", package.name, package.version);
        }
    }
    let readme = super::read(std::path::Path::new("README.md"));
    let short = format!("{}.{}", stated.major, stated.minor);
    assert!(readme.contains(&short), "README.md does not state Rust {short}");
}
