//! Every YAML of docs/connectors/opcua.md is read as a factory's, and its sources compile.

use millrace_config::{Load, Problems, Severity, load};
use millrace_contract::{Context, Entry};
use millrace_opcua::OpcUaSource;
use millrace_testkit::yaml::context;
use std::collections::BTreeMap;
use std::path::Path;

/// The YAML blocks of a page, their indentation taken off.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for line in page.lines() {
        match &mut open {
            None if line.trim() == "```yaml" => open = Some((line.len() - line.trim_start().len(), String::new())),
            Some(_) if line.trim() == "```" => blocks.extend(open.take().map(|(_, text)| text)),
            Some((indent, text)) => {
                text.push_str(line.get(*indent..).unwrap_or_default());
                text.push('\n');
            }
            None => {}
        }
    }
    blocks
}

#[test]
fn every_yaml_of_the_page_compiles() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/connectors/opcua.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let folder = tempfile::tempdir().expect("a folder");
    let passwords = ["PRESS", "OVEN", "KEPWARE", "TWINCAT"].map(|name| (format!("{name}_PASSWORD"), "secret".to_owned()));
    let how = Load { env: BTreeMap::from(passwords), ..Load::to_run() };
    let mut compiled = 0;
    for (number, block) in blocks(&page).into_iter().enumerate() {
        let path = folder.path().join(format!("block-{number}.yaml"));
        std::fs::write(&path, format!("site: acme/detroit\nkafka: {{brokers: embedded}}\n{block}")).expect("is written");
        let mut problems = Problems::new();
        let factory = load(std::slice::from_ref(&path), &how, &mut problems);
        for source in factory.iter().flat_map(|factory| &factory.sources) {
            let (keys, own) = source.source_keys(&mut problems);
            let topic = keys.and_then(|keys| keys.topic).map(|topic| topic.value.into());
            let around = Context { topic, data_dir: folder.path().into(), ..context(&source.name, &[]) };
            let done = (Entry::of::<OpcUaSource>().compile)(&own, &around, &mut problems);
            compiled += usize::from(done.is_some());
        }
        let wrong: Vec<_> = problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
        assert!(wrong.is_empty(), "block {number}:\n{block}\n{}", problems.render());
    }
    assert!(compiled >= 10, "{compiled} sources");
}
