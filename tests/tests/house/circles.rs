//! No files of a crate import each other in a circle: whoever reads one can read what it needs below it, and stop.
//!
//! The files' own paths are followed (`crate::`, `super::`, `self::`, a child's or an imported module's name), through re-exports to the file
//! that defines the name. Code of tests is left out. What a method call needs is not seen: it names no file.

use super::floors::folder;
use super::{members, read, root};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// One file of a crate.
struct Module {
    file: PathBuf,
    parent: Option<usize>,
    children: HashMap<String, usize>,
    /// Every path that its code writes, in pieces: `["crate", "a", "B"]`.
    paths: Vec<Vec<String>>,
    /// What its `use` lines bind: the name here, and the path behind it.
    names: HashMap<String, Vec<String>>,
    /// Those of them that it only hands on (`pub use`): the face of a folder needs nothing of what it shows.
    shown: BTreeSet<String>,
    globs: Vec<Vec<String>>,
    defines: BTreeSet<String>,
}

/// The words of the code: names, `::`, and single signs; without comments, texts and what only tests see.
fn words(code: &str) -> Vec<String> {
    let bytes = code.as_bytes();
    let mut words: Vec<String> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &code[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += rest.find("*/").map_or(rest.len(), |end| end + 2);
        } else if rest.starts_with("r#\"") || rest.starts_with("r\"") {
            let end = if rest.starts_with("r#") { "\"#" } else { "\"" };
            let open = if rest.starts_with("r#") { 3 } else { 2 };
            at += rest[open..].find(end).map_or(rest.len(), |found| open + found + end.len());
        } else if rest.starts_with('"') {
            let mut end = 1;
            while end < rest.len() && bytes[at + end] != b'"' {
                end += if bytes[at + end] == b'\\' { 2 } else { 1 };
            }
            at = (at + end + 1).min(bytes.len());
            while at < bytes.len() && !code.is_char_boundary(at) {
                at += 1;
            }
        } else if rest.starts_with('\'') {
            // A letter ('x', '\n', '\''), or a lifetime, which ends at its name.
            let mut letters = rest.chars().skip(1);
            let first = letters.next();
            let second = letters.next();
            at += match (first, second) {
                (Some('\\'), Some(escaped)) => {
                    let open = 2 + escaped.len_utf8();
                    open + rest[open..].find('\'').map_or(0, |end| end + 1)
                }
                (Some(letter), Some('\'')) => 2 + letter.len_utf8(),
                _ => 1,
            };
        } else if rest.starts_with("::") {
            words.push("::".into());
            at += 2;
        } else {
            let letter = rest.chars().next().expect("there is a rest");
            if letter.is_alphanumeric() || letter == '_' {
                let end = rest.find(|sign: char| !sign.is_alphanumeric() && sign != '_').unwrap_or(rest.len());
                words.push(rest[..end].to_owned());
                at += end;
            } else {
                if !letter.is_whitespace() {
                    words.push(letter.to_string());
                }
                at += letter.len_utf8();
            }
        }
    }
    without_tests(&words)
}

/// Leaves out each item behind `#[cfg(test)]` or `#[test]`, to its closing brace or its semicolon.
fn without_tests(words: &[String]) -> Vec<String> {
    let is = |at: usize, wanted: &[&str]| words.get(at..at + wanted.len()).is_some_and(|found| found == wanted);
    let mut kept = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        if !is(at, &["#", "[", "cfg", "(", "test", ")", "]"]) && !is(at, &["#", "[", "test", "]"]) {
            kept.push(words[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0;
        while let Some(word) = words.get(at) {
            at += 1;
            depth += i32::from(word == "{") - i32::from(word == "}");
            if depth == 0 && (word == "}" || word == ";") {
                break;
            }
        }
    }
    kept
}

/// The paths of a `use` tree that begins at `at`: each with the name it binds (`*` for all), and where the tree ends.
fn tree(words: &[String], mut at: usize, before: &[String], found: &mut Vec<(Vec<String>, String)>) -> usize {
    let mut path = before.to_vec();
    loop {
        match words.get(at).map(String::as_str) {
            Some("::") => at += 1,
            Some("{") => {
                at += 1;
                while words.get(at).is_some_and(|word| word != "}" && word != ";") {
                    at = tree(words, at, &path, found);
                    at += usize::from(words.get(at).is_some_and(|word| word == ","));
                }
                return at + 1;
            }
            Some("as") => {
                found.push((path, words.get(at + 1).cloned().unwrap_or_default()));
                return at + 2;
            }
            Some("*") => {
                found.push((path, "*".into()));
                return at + 1;
            }
            Some("," | ";" | "}") | None => {
                if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                    path.pop();
                }
                let name = path.last().cloned().unwrap_or_default();
                found.push((path, name));
                return at;
            }
            Some(name) => {
                path.push(name.to_owned());
                at += 1;
            }
        }
    }
}

fn add(modules: &mut Vec<Module>, file: &Path, parent: Option<usize>, folder: &Path) -> usize {
    let words = words(&read(file));
    let here = modules.len();
    modules.push(Module {
        file: file.to_owned(),
        parent,
        children: HashMap::new(),
        paths: Vec::new(),
        names: HashMap::new(),
        shown: BTreeSet::new(),
        globs: Vec::new(),
        defines: BTreeSet::new(),
    });
    let mut at = 0;
    while at < words.len() {
        let next = words.get(at + 1).map_or("", String::as_str);
        match words[at].as_str() {
            "mod" if words.get(at + 2).is_some_and(|word| word == ";") => {
                let flat = folder.join(format!("{next}.rs"));
                let file = if root().join(&flat).exists() { flat } else { folder.join(next).join("mod.rs") };
                if root().join(&file).exists() {
                    let child = add(modules, &file, Some(here), &folder.join(next));
                    modules[here].children.insert(next.to_owned(), child);
                }
                at += 3;
            }
            "use" => {
                let mut found = Vec::new();
                let is_shown = at > 0 && (words[at - 1] == "pub" || words[at - 1] == ")");
                at = tree(&words, at + 1, &[], &mut found);
                for (path, name) in found {
                    if name == "*" {
                        modules[here].globs.push(path);
                    } else {
                        if is_shown {
                            modules[here].shown.insert(name.clone());
                        }
                        modules[here].names.insert(name, path);
                    }
                }
            }
            "struct" | "enum" | "trait" | "fn" | "type" | "const" | "static" | "union" | "mod" => {
                modules[here].defines.insert(next.to_owned());
                at += 2;
            }
            word if next == "::" && word.starts_with(|sign: char| sign.is_alphabetic() || sign == '_') => {
                let mut path = vec![words[at].clone()];
                while words.get(at + 1).is_some_and(|word| word == "::")
                    && words.get(at + 2).is_some_and(|word| word.starts_with(|sign: char| sign.is_alphabetic() || sign == '_'))
                {
                    path.push(words[at + 2].clone());
                    at += 2;
                }
                modules[here].paths.push(path);
                at += 1;
            }
            _ => at += 1,
        }
    }
    here
}

/// The file that defines what `path` names when `from` writes it; `None` for what lies outside the crate.
fn target(modules: &[Module], from: usize, path: &[String], depth: usize) -> Option<usize> {
    if depth > 8 {
        return None;
    }
    let (first, mut rest) = path.split_first()?;
    let mut here = match first.as_str() {
        "crate" => 0,
        "self" => from,
        "super" => modules[from].parent?,
        name => match (modules[from].children.get(name), modules[from].names.get(name)) {
            (Some(child), _) => *child,
            (None, Some(behind)) if behind.first() != Some(first) || behind.len() > 1 => {
                let whole: Vec<String> = behind.iter().chain(rest).cloned().collect();
                return target(modules, from, &whole, depth + 1);
            }
            _ => return None,
        },
    };
    while let Some((name, after)) = rest.split_first() {
        if name == "super" {
            here = modules[here].parent?;
        } else if let Some(child) = modules[here].children.get(name) {
            here = *child;
        } else if modules[here].defines.contains(name) {
            return Some(here);
        } else if let Some(behind) = modules[here].names.get(name) {
            let whole: Vec<String> = behind.iter().chain(after).cloned().collect();
            return target(modules, here, &whole, depth + 1).or(Some(here));
        } else {
            let through = modules[here].globs.iter().filter_map(|glob| target(modules, here, glob, depth + 1));
            return through.into_iter().find(|inner| modules[*inner].defines.contains(name)).or(Some(here));
        }
        rest = after;
    }
    // A module alone: what is taken from it is named where it is used.
    None
}

/// Sets of files that reach each other, of one crate.
fn circles(top: &Path) -> Vec<String> {
    let mut modules = Vec::new();
    add(&mut modules, top, None, top.parent().expect("a crate's root lies in a folder"));
    let mut arrows: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (from, module) in modules.iter().enumerate() {
        let globs = module.globs.iter().map(|glob| [glob.as_slice(), &["*".to_owned()]].concat());
        let names = module.names.iter().filter(|(name, _)| !module.shown.contains(*name)).map(|(_, path)| path);
        for path in module.paths.iter().chain(names).cloned().chain(globs) {
            if let Some(to) = target(&modules, from, &path, 0).filter(|to| *to != from) {
                arrows.entry(from).or_default().insert(to);
            }
        }
    }
    let reach = |from: usize| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(here) = open.pop() {
            open.extend(arrows.get(&here).into_iter().flatten().filter(|next| seen.insert(**next)));
        }
        seen
    };
    let reached: Vec<BTreeSet<usize>> = (0..modules.len()).map(reach).collect();
    let mut told: BTreeSet<usize> = BTreeSet::new();
    let mut found = Vec::new();
    for from in 0..modules.len() {
        let circle: Vec<usize> = reached[from].iter().copied().filter(|to| reached[*to].contains(&from)).collect();
        if circle.len() > 1 && told.insert(circle[0]) {
            let name = |module: &usize| modules[*module].file.display().to_string();
            let lines = circle.iter().flat_map(|one| {
                let inside = arrows[one].iter().filter(|to| circle.contains(to));
                inside.map(move |to| format!("    {} -> {}", name(one), name(to)))
            });
            found.push(lines.collect::<Vec<_>>().join("\n"));
        }
    }
    found
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut found = Vec::new();
    for package in members() {
        let mut here = Vec::new();
        for target in package.targets.iter().filter(|target| target.is_lib() || target.is_bin()) {
            let top = target.src_path.as_std_path().strip_prefix(root()).expect("a crate lies below the top");
            here.extend(circles(top));
        }
        if !here.is_empty() {
            found.push(format!("{}: {} circles between files:\n{}", folder(package), here.len(), here.join("\n\n")));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n\n"));
}
