//! Whatever the bytes are: no panic, no hang; and what loads loads again as it was printed.

use millrace_config::fuzz::fuzz_config;
use millrace_config::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[test]
fn the_corpus_of_the_fuzz_target_is_taken() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/config");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus is there") {
        fuzz_config(&std::fs::read(entry.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files >= 30);
}

/// A piece of YAML, right or wrong.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "site: a/b\n",
        "sources:\n",
        "  s: ",
        "sinks:\n",
        "templates:\n",
        "use: t",
        "with: {x: 1}",
        "params: ",
        "type: demo",
        "groups:\n",
        "  - ",
        "- ",
        "tags: ",
        "tags_from: table.csv",
        "sources_from: table.csv",
        "devices_from: table.csv",
        "devices: ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        ": ",
        "\n",
        "\n  ",
        "\n    ",
        "\t",
        "\"",
        "'",
        "${",
        "${name}",
        "${site}",
        "${x}",
        "${env:SECRET}",
        "${file:x}",
        "$$",
        "&a ",
        "*a",
        "!!str ",
        "<<: ",
        "? ",
        "| \n",
        "#",
        "---\n",
        "~",
        "1e3",
        "0x",
        "name,use,a\n",
        "p,t,\"",
        ";",
        "é",
        "topics: ",
        "kafka: ",
        "log: {size: 1}",
        "include: [x*]",
        "at: ",
        "null",
        "enabled: no",
    ];
    prop_oneof![8 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,6}"]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz_config(&bytes);
    }

    #[test]
    fn any_pieces_of_yaml_are_taken_or_refused(pieces in prop::collection::vec(piece(), 0..40)) {
        fuzz_config(pieces.concat().as_bytes());
    }

    #[test]
    fn a_file_with_a_byte_changed_is_taken_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = include_bytes!("contract/factory.yaml").to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        fuzz_config(&bytes);
    }

    #[test]
    fn any_text_comes_back_from_what_is_printed(text in "\\PC{0,20}|[ -~]{0,20}|[\"'#:{}\\[\\],&*!|>%@`~\\- ]{0,8}", key in "[a-z~:# {\"']{1,6}") {
        let mut problems = Problems::new();
        let quoted = |text: &str| serde_json::to_string(&text.replace("${", "$${")).unwrap();
        let yaml = format!("site: a/b\nsources: {{s: {{type: demo, k: {{{}: {}}}, l: [{0}]}}}}\n", quoted(&key), quoted(&text));
        let load_one = |text: &str, problems: &mut Problems| {
            let files = Given(BTreeMap::from([(PathBuf::from("f.yaml"), text.as_bytes().to_vec())]));
            load(&["f.yaml".into()], &Load { read_secrets: true, env: BTreeMap::new(), files: Arc::new(files) }, problems)
        };
        let Some(factory) = load_one(&yaml, &mut problems).filter(|_| !problems.has_errors()) else { return Ok(()) };
        let printed = expanded(&factory);
        let again = load_one(&printed, &mut problems).expect("is YAML");
        prop_assert!(!problems.has_errors(), "{printed}\n{}", problems.render());
        prop_assert!(again.sources == factory.sources, "{printed}");
    }
}

#[test]
fn ten_thousand_sources_come_from_one_template_and_one_table() {
    let mut table = String::from("name,use,at,host,unit\n");
    for press in 0..10_000 {
        table.push_str(&format!("press-{press},press,body/press-{press},10.0.{}.{},{}\n", press / 250, press % 250, press % 200));
    }
    let tags: String = (0..20).map(|tag| format!("          t{tag}: {{address: \"holding:{tag}\", unit: degC, max: 900}}\n")).collect();
    let yaml = format!(
        "site: a/b\nsources_from: t.csv\ntemplates:\n  press:\n    params: {{host: required, unit: 1}}\n    type: modbus\n    endpoint: \"tcp://${{host}}:502\"\n    unit_id: \"${{unit}}\"\n    groups:\n      - every: 1s\n        tags:\n{tags}"
    );
    let files = Given(BTreeMap::from([("f.yaml".into(), yaml.into_bytes()), ("t.csv".into(), table.into_bytes())]));
    let mut problems = Problems::new();
    let start = std::time::Instant::now();
    let factory =
        load(&["f.yaml".into()], &Load { read_secrets: true, env: BTreeMap::new(), files: Arc::new(files) }, &mut problems).unwrap();
    println!("loaded in {:?}", start.elapsed());
    assert!(problems.is_empty(), "{}", problems.render());
    assert_eq!(factory.sources.len(), 10_000);
    assert_eq!(factory.sources[9_999].node.get("endpoint").unwrap().as_str(), Some("tcp://10.0.39.249:502"));
    println!("printed {} MiB, after {:?}", expanded(&factory).len() >> 20, start.elapsed());
}

#[cfg(unix)]
#[test]
fn a_named_pipe_that_nobody_writes_to_is_waited_for_by_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let file = dir.path().join("factory.yaml");
    let secret = format!("site: a/b\nkafka: {{brokers: 'b:1', properties: {{sasl.password: '${{file:{}}}'}}}}\n", pipe.display());
    std::fs::write(&file, secret).unwrap();
    for config in [&file, &pipe] {
        let mut problems = Problems::new();
        load(std::slice::from_ref(config), &Load::to_run(), &mut problems);
        assert!(problems.render().contains("named pipe"), "{}", problems.render());
    }
}
