//! Every kind of mistake, and what a person reads about it: a folder each under `mistakes/`, `config.yaml` (with what it includes) and
//! `expected.txt`. `UPDATE=1 cargo test -p millrace-config --test mistakes` writes what is said now.

use millrace_config::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A connector such as there will be: what it says of its own keys is what all connectors say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "what matters is what is refused")]
struct Demo {
    endpoint: String,
    #[serde(default)]
    unit_id: u8,
    #[serde(default)]
    login: Option<Login>,
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
struct Login {
    user: String,
    password: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
struct Group {
    every: Period,
    #[serde(default)]
    tags: BTreeMap<String, Short<Tag>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
struct Tag {
    address: String,
    deadband: Option<Deadband>,
    warn: Option<[f64; 2]>,
    order: Option<Order>,
}

impl Shorthand for Tag {
    const KEY: &'static str = "address";
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Order {
    Abcd,
    Cdab,
}

fn rendered(paths: &[PathBuf], how: &Load) -> String {
    let mut problems = Problems::new();
    if let Some(factory) = load(paths, how, &mut problems) {
        for source in &factory.sources {
            let (_, own) = source.source_keys(&mut problems);
            own.parse::<Demo>(&mut problems);
        }
        for sink in &factory.sinks {
            sink.sink_keys(&mut problems);
        }
    }
    problems.render()
}

#[test]
fn every_mistake_is_told_as_it_was_agreed() {
    let root = Path::new("tests/mistakes");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 25, "{} cases", folders.len());
    let mut different = Vec::new();
    for folder in folders {
        let variables = std::fs::read_to_string(folder.join("environment")).unwrap_or_default();
        let env = variables.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect();
        let how = Load { read_secrets: true, env, files: Arc::new(Disk) };
        let several = folder.join("several");
        let path = if several.is_dir() { several } else { folder.join("config.yaml") };
        let said = rendered(&[path], &how).replace(&format!("{}/", folder.display()), "");
        assert!(!said.is_empty(), "{} is told nothing", folder.display());
        assert!(!said.contains("hunter2"), "{said}");
        let expected = folder.join("expected.txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&expected, &said).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != said {
            different.push(format!("{}:\n{said}", folder.display()));
        }
    }
    assert!(different.is_empty(), "{} differ; UPDATE=1 accepts what is said now\n{}", different.len(), different.join("\n"));
}

/// Loads one text, and returns what is said.
fn said_of(text: impl Into<Vec<u8>>) -> String {
    let files = Given(BTreeMap::from([(PathBuf::from("factory.yaml"), text.into())]));
    rendered(&["factory.yaml".into()], &Load { read_secrets: true, env: BTreeMap::new(), files: Arc::new(files) })
}

#[test]
fn a_thousand_levels_are_refused_and_not_followed() {
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")] {
        let said = said_of(format!("site: a/b\nlevels: {}1{}\n", open.repeat(1000), close.repeat(1000)));
        assert!(said.contains("nested deeper") || said.contains("not YAML"), "{open}: {said}");
    }
    let block: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(said_of(block).contains("nested deeper than 64 levels"));
}

#[test]
fn ten_megabytes_are_refused() {
    let said = said_of(format!("site: a/b # {}", "x".repeat(10 << 20)));
    assert!(said.contains("larger than 8 MiB") && said.contains("include"), "{said}");
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..=9 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    assert!(said_of(text).contains("more than 2000000 values once aliases are followed"));
}

#[test]
fn rubbish_is_refused_with_a_reason() {
    assert!(said_of(b"\x7fELF\x02\x01\x01\0\0\0".to_vec()).contains("not text"));
    assert!(said_of(b"site: \xff\xfe".to_vec()).contains("not UTF-8"));
    assert!(said_of(b"\xff\xfes\0i\0".to_vec()).contains("UTF-16"));
    assert!(said_of("%PDF-1.4").contains("not YAML"));
}

#[test]
fn templates_that_multiply_are_refused() {
    let mut text = String::from("site: a/b\ntemplates:\n");
    for level in 0..30 {
        text.push_str(&format!("  t{level}: {{params: {{x: required}}, use: t{}, with: {{x: \"${{x}}${{x}}\"}}}}\n", level + 1));
    }
    text.push_str("sources:\n  s: {use: t0, with: {x: aaaaaaaaaaaaaaaa}}\n");
    assert!(said_of(text).contains("more than 16 deep"));
}
