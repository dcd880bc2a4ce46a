//! Links within the documentation lead somewhere.

use super::{files, read, root};

/// The text without what stands in code: there `[..](..)` is no link.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            // Every other piece between backticks is code.
            lines.push(line.split('`').step_by(2).collect::<Vec<_>>().join("`"));
        }
    }
    lines.join("\n")
}

#[test]
fn every_link_to_a_file_finds_it() {
    let mut dead = Vec::new();
    for file in files().iter().filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
        let folder = root().join(file).parent().expect("a file lies in a folder").to_owned();
        for link in prose(&read(file)).split("](").skip(1) {
            let target = link.split([')', '#', ' ']).next().unwrap_or_default();
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !is_elsewhere && !folder.join(target).exists() {
                dead.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}
