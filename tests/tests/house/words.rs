//! What must not stand in the source, and what must.

use super::{files, read};
use std::path::{Path, PathBuf};

fn rust_files() -> impl Iterator<Item = &'static PathBuf> {
    files().iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
}

/// A source without its comments and texts, so that words in them don't count.
pub fn code(source: &str) -> String {
    source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn nothing_is_left_to_do() {
    // Put together, so that this file doesn't find itself.
    let forbidden = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let found: Vec<String> = rust_files()
        .flat_map(|file| {
            let code = code(&read(file));
            let found: Vec<String> =
                forbidden.iter().filter(|word| code.contains(*word)).map(|word| format!("{}: {word}", file.display())).collect();
            found
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

/// `println!` panics where the pipe is closed, and shows a terminal whatever a device sent.
#[test]
fn the_program_prints_through_say() {
    let printing = ["println", "print", "eprintln", "eprint"].map(|name| format!("{name}!("));
    let is_program =
        |file: &&PathBuf| file.starts_with("runtime/app/src") || file.starts_with("connectors") && file.iter().any(|part| part == "src");
    for file in rust_files().filter(is_program) {
        let source = read(file);
        let program = code(source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default());
        for (at, line) in program.lines().enumerate() {
            let prints = printing.iter().any(|word| line.trim_start().starts_with(word.as_str()) || line.contains(&format!(" {word}")));
            assert!(!prints, "{}:{}: {line}: use the macros of runtime/app/src/say.rs", file.display(), at + 1);
        }
    }
}

/// The last argument of each `Result<..>` of a source, as written.
fn errors_of(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices("Result<").filter_map(|(at, found)| {
        let inside = &code[at + found.len()..];
        let (mut depth, mut comma) = (1, None);
        for (at, byte) in inside.bytes().enumerate() {
            match byte {
                b'<' | b'(' | b'[' => depth += 1,
                b'>' if at > 0 && inside.as_bytes()[at - 1] == b'-' => {}
                b'>' | b')' | b']' => depth -= 1,
                b',' if depth == 1 => comma = Some(at + 1),
                _ => {}
            }
            if depth == 0 {
                return comma.map(|comma| inside[comma..at].trim());
            }
        }
        None
    })
}

/// A text that nobody should tell apart is `millrace_config::Reason`; what somebody must tell apart is a type that says it.
#[test]
fn no_error_is_a_bare_text() {
    let is_ours = |file: &&PathBuf| {
        file.iter().any(|part| part == "src")
            && !file.starts_with("tests")
            && !file.iter().any(|part| part == "sim" || part == "tests.rs" || part == "testkit")
    };
    for file in rust_files().filter(is_ours) {
        let source = read(file);
        let program = code(source.split("#[cfg(test)]\nmod ").next().unwrap_or_default());
        let texts = errors_of(&program).filter(|error| ["String", "&'static str"].contains(error)).count();
        assert_eq!(texts, 0, "{}: an error is a type, not a text", file.display());
    }
    assert_eq!(
        errors_of("fn f() -> Option<Result<(), Vec<(u8, String)>>> { Result<A<B, C>, String> }").collect::<Vec<_>>(),
        ["Vec<(u8, String)>", "String"]
    );
}

#[test]
fn no_module_is_called_after_nothing() {
    let forbidden = ["util", "utils", "helper", "helpers", "manager", "misc", "common"];
    for file in rust_files() {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        assert!(!forbidden.contains(&stem), "{}: which question does it answer?", file.display());
    }
}

#[test]
fn every_module_says_what_it_is() {
    for file in rust_files().filter(|file| !file.starts_with("tests/fuzz")) {
        let source = read(file);
        assert!(source.is_empty() || source.starts_with("//!") || source.starts_with("#![doc"), "{} has no head", file.display());
    }
}

/// What writes into the source tree (fresh corpora) is started by hand; nothing else may be switched off.
#[test]
fn no_test_is_switched_off() {
    let ignored = format!("#[{}", "ignore");
    for file in rust_files() {
        for line in read(file).lines().map(str::trim_start).filter(|line| line.starts_with(&ignored)) {
            assert!(line.contains("writes into the source tree"), "{}: {line}: a test that isn't run proves nothing", file.display());
        }
    }
}

/// The generated JSON Schema of the configuration: a field without a description is a field without documentation.
#[test]
fn every_field_of_the_configuration_is_documented() {
    let file = Path::new("config/factory.schema.json");
    let schema: serde_json::Value = serde_json::from_str(&read(file)).expect("the generated schema is JSON");
    let mut bare = Vec::new();
    undocumented(&schema, &schema, "", &mut bare);
    assert!(bare.is_empty(), "fields without a doc comment in {}: {bare:#?}", file.display());
}

fn undocumented(root: &serde_json::Value, schema: &serde_json::Value, path: &str, bare: &mut Vec<String>) {
    use serde_json::Value;
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                let below = format!("{path}/{key}");
                if let ("properties", Value::Object(fields)) = (key.as_str(), value) {
                    for (name, field) in fields {
                        let target = field["$ref"].as_str().and_then(|pointer| root.pointer(pointer.trim_start_matches('#')));
                        let is_documented = [Some(field), target].into_iter().flatten().any(|one| one["description"].is_string());
                        // `type` and its like are fixed by where they stand.
                        if !is_documented && field.get("const").is_none() {
                            bare.push(format!("{below}/{name}"));
                        }
                        undocumented(root, field, &format!("{below}/{name}"), bare);
                    }
                } else {
                    undocumented(root, value, &below, bare);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                undocumented(root, item, &format!("{path}/{index}"), bare);
            }
        }
        _ => {}
    }
}

#[test]
fn scripts_and_texts_end_with_a_line_feed() {
    let is_text = |file: &&PathBuf| {
        matches!(
            file.extension().and_then(|extension| extension.to_str()),
            Some("rs" | "md" | "toml" | "yaml" | "py" | "js" | "avsc" | "xml")
        ) && !file.starts_with(Path::new("tests/fuzz/corpus"))
    };
    for file in files().iter().filter(is_text) {
        let text = read(file);
        assert!(text.is_empty() || text.ends_with('\n'), "{} ends without a line feed", file.display());
        assert!(!text.contains('\r') || file.starts_with("connectors"), "{} has carriage returns", file.display());
    }
}
