//! What the service says at WARN and ERROR stands in `docs/troubleshooting.md`, and nothing else does.
//!
//! A message is the text of `warn!(..)` or `error!(..)`, with `…` in the place of its values and without backticks. An entry of the page begins with
//! one or more lines ``**`message`**``, and text below them.

use super::{files, read};
use std::collections::BTreeMap;
use std::path::Path;

const PAGE: &str = "docs/troubleshooting.md";
/// So much of a message can be looked for.
const FIXED_WORDS: usize = 2;

/// The texts of every warning and error of the program, each with a place where it stands.
fn messages() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let is_program = |file: &&std::path::PathBuf| {
        let parts: Vec<&str> = file.iter().filter_map(|part| part.to_str()).collect();
        file.extension().is_some_and(|extension| extension == "rs")
            && matches!(parts[0], "connectors" | "runtime" | "config" | "schemas")
            && !parts.iter().any(|part| ["tests", "sim", "testkit", "tests.rs"].contains(part))
    };
    for file in files().iter().filter(is_program) {
        let source = read(file);
        let program = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for (at, text) in calls(program) {
            let line = 1 + program[..at].matches('\n').count();
            let place = format!("{}:{line}", file.display());
            let text =
                text.unwrap_or_else(|| panic!("{place}: a message without a text of its own can't be looked for: begin it with one"));
            found.entry(plain(&text)).or_insert(place);
        }
    }
    found
}

/// Where `warn!(` and `error!(` stand, and the last text among their own arguments.
fn calls(source: &str) -> Vec<(usize, Option<String>)> {
    let mut calls = Vec::new();
    for name in ["warn!(", "error!("] {
        for (at, _) in source.match_indices(name) {
            let is_whole = !source[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
            let line = source[..at].rfind('\n').map_or(0, |newline| newline + 1);
            if is_whole && !source[line..at].contains("//") {
                calls.push((at, last_text(&source[at + name.len()..])));
            }
        }
    }
    calls
}

fn last_text(arguments: &str) -> Option<String> {
    let (mut depth, mut last) = (0, None);
    let mut rest = arguments.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => return last,
            ')' | ']' | '}' => depth -= 1,
            '"' => {
                let mut text = String::new();
                while let Some(c) = rest.next() {
                    match c {
                        '"' => break,
                        '\\' => match rest.next() {
                            Some('\n') => while rest.next_if(|c| c.is_whitespace()).is_some() {},
                            Some('n' | 't') => text.push(' '),
                            Some(c) => text.push(c),
                            None => {}
                        },
                        c => text.push(c),
                    }
                }
                if depth == 0 {
                    last = Some(text);
                }
            }
            _ => {}
        }
    }
    last
}

/// A text as the page has it.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '{' | '}' if rest.next_if_eq(&c).is_some() => out.push(c),
            '{' => {
                rest.by_ref().find(|c| *c == '}');
                out.push('…');
            }
            '`' => {}
            c => out.push(c),
        }
    }
    let text = out.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace("……", "…")
}

#[test]
fn every_warning_and_error_has_its_entry_and_every_entry_its_message() {
    let page = read(Path::new(PAGE));
    let heads = |line: &str| Some(line.strip_prefix("**`")?.strip_suffix("`**")?.to_owned());
    let mut entries: Vec<String> = page.lines().filter_map(heads).collect();
    let messages = messages();
    assert!(messages.len() > 100, "only {} messages were found", messages.len());

    let bare: Vec<_> = messages
        .iter()
        .filter(|(text, _)| text.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic)).count() < FIXED_WORDS)
        .collect();
    assert!(bare.is_empty(), "messages of which nothing can be looked for; begin them with words: {bare:#?}");
    let missing: Vec<String> =
        messages.iter().filter(|(text, _)| !entries.contains(text)).map(|(text, place)| format!("{place}: **`{text}`**")).collect();
    assert!(missing.is_empty(), "say in {PAGE} what these mean, what is lost, what to do: {missing:#?}");
    let stale: Vec<&String> = entries.iter().filter(|entry| !messages.contains_key(*entry)).collect();
    assert!(stale.is_empty(), "nothing says this any more: {stale:#?}");
    let count = entries.len();
    entries.sort();
    entries.dedup();
    assert_eq!(count, entries.len(), "an entry stands twice in {PAGE}");

    for (line, next) in page.lines().zip(page.lines().skip(1)) {
        assert!(heads(line).is_none() || !next.trim().is_empty(), "nothing is said of {line}");
    }
}

#[test]
fn texts_are_found_and_values_left_out() {
    let source = "tracing::warn!(log = self.name, path = %path(\"inner\"), \"cannot `sync` {}: {e:?} {{x}} \\\n    end\", path.display());\n// warn!(\"no\")\n";
    let found: Vec<_> = calls(source).into_iter().map(|(_, text)| text.as_deref().map(plain)).collect();
    assert_eq!(found, [Some("cannot sync …: … {x} end".to_owned())]);
    assert_eq!(calls("warn!(%part, what)"), [(0, None)]);
}
