//! The files of a factory: what `-c` names, what they include, merged into one tree.

use crate::factory::environment::Load;
use crate::tree::node::{Entry, Kind, Node};
use crate::tree::place::Place;
use crate::tree::problem::Problems;
use crate::tree::reason::Reason;
use crate::tree::{suggest, yaml};
use globset::GlobBuilder;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

const MAX_FILES: usize = 10_000;
/// Keys of the top level whose entries may come from several files.
const SHARED: [&str; 4] = ["sources", "sinks", "topics", "templates"];

/// What an I/O error means here, without the operating system's numbers.
pub(crate) fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => "this user may not read it".into(),
        io::ErrorKind::IsADirectory => "it is a folder".into(),
        _ => error.to_string(),
    }
}

/// Reads all files and merges them. `None` if any of them can't be read, or is not YAML.
pub(crate) fn read_all(paths: &[PathBuf], how: &Load, problems: &mut Problems) -> Option<Node> {
    let mut reading = Reading { how, problems, waiting: VecDeque::new(), known: BTreeSet::new(), failed: false };
    for path in paths {
        reading.named(path);
    }
    let mut tops = Vec::new();
    while let Some((path, from)) = reading.waiting.pop_front() {
        tops.extend(reading.file(&path, from));
    }
    if tops.is_empty() && !reading.failed {
        let named: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        reading
            .problems
            .error(Place::NONE, format!("there is nothing in {}", named.join(", ")))
            .help("begin with `site: enterprise/site`, then `sources:`; config/examples has whole files");
        reading.failed = true;
    }
    let failed = reading.failed;
    let merged = merge(tops, problems);
    if failed { None } else { Some(merged) }
}

struct Reading<'a> {
    how: &'a Load,
    problems: &'a mut Problems,
    waiting: VecDeque<(PathBuf, Place)>,
    known: BTreeSet<PathBuf>,
    failed: bool,
}

impl Reading<'_> {
    /// A path of the command line: a file, or a folder with `*.yaml` in it.
    fn named(&mut self, path: &Path) {
        let Ok(names) = self.how.files.list(path) else {
            self.wait(path.to_owned(), Place::NONE);
            return;
        };
        let mut names: Vec<_> = names.into_iter().filter(|(name, folder)| !folder && is_yaml(name)).map(|(name, _)| name).collect();
        names.sort();
        if names.is_empty() {
            self.problems.error(Place::NONE, format!("the folder {} holds no *.yaml", path.display()));
            self.failed = true;
        }
        for name in names {
            self.wait(path.join(name), Place::NONE);
        }
    }

    /// Each file is read once, however often it is included.
    fn wait(&mut self, path: PathBuf, from: Place) {
        let path = tidy(&path);
        if self.known.len() >= MAX_FILES {
            if !self.failed {
                self.problems.error(from, format!("more than {MAX_FILES} files"));
            }
            self.failed = true;
        } else if self.known.insert(path.clone()) {
            self.waiting.push_back((path, from));
        }
    }

    fn file(&mut self, path: &Path, from: Place) -> Option<Node> {
        let bytes = match self.how.files.read(path, yaml::MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.problems.error(from, format!("cannot read {}: {}", path.display(), cause(&error)));
                // Without a file that is included, the others can still be looked at.
                self.failed |= from.is_none();
                return None;
            }
        };
        let Some(top) = yaml::read(&path.to_string_lossy(), &bytes, self.problems) else {
            self.failed = true;
            return None;
        };
        match top.kind {
            Kind::Map(_) => {}
            Kind::Null => return None,
            _ => {
                self.problems
                    .error(top.place, format!("expected a mapping of `site`, `kafka`, `sources`.., found {}", top.describe()))
                    .help("see config/examples for whole files");
                self.failed = true;
                return None;
            }
        }
        if let Some(include) = top.get("include") {
            let folder = path.parent().unwrap_or(Path::new(""));
            let single = std::slice::from_ref(include);
            for pattern in if include.text().is_some() { single } else { include.items() } {
                self.include(folder, pattern);
            }
            if include.text().is_none() && !matches!(include.kind, Kind::Seq(_) | Kind::Null) {
                self.problems.error(include.place, format!("expected a list of files, found {}", include.describe()));
            }
        }
        Some(top)
    }

    fn include(&mut self, folder: &Path, pattern: &Node) {
        let Some(text) = pattern.as_str() else {
            self.problems
                .error(pattern.place, format!("expected a file or a pattern such as `presses/*.yaml`, found {}", pattern.describe()));
            return;
        };
        if !text.contains(['*', '?', '[', '{']) {
            self.wait(folder.join(text), pattern.place);
            return;
        }
        let mut found = Vec::new();
        let steps: Vec<&str> = text.split('/').filter(|step| !step.is_empty()).collect();
        let start = if text.starts_with('/') { Path::new("/") } else { folder };
        match self.matching(start, &steps, 0, &mut found) {
            Err(error) => {
                self.problems.error(pattern.place, format!("`{text}` is not a pattern: {error}"));
            }
            Ok(()) if found.is_empty() => {
                self.problems
                    .warn(pattern.place, format!("`{text}` matches no file"))
                    .help(format!("it is looked for in {}", shown(folder)));
            }
            Ok(()) => {
                found.sort();
                for path in found {
                    self.wait(path, pattern.place);
                }
            }
        }
    }

    /// Files below a folder that match the steps of a pattern; `**` is any number of folders.
    fn matching(&self, folder: &Path, steps: &[&str], depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Reason> {
        let Some((step, rest)) = steps.split_first() else { return Ok(()) };
        if *step == ".." || *step == "." {
            return self.matching(&folder.join(step), rest, depth, found);
        }
        let any_depth = *step == "**";
        if any_depth {
            self.matching(folder, rest, depth, found)?;
        }
        let matcher = GlobBuilder::new(step).literal_separator(true).build().map_err(|error| error.kind().to_string())?.compile_matcher();
        for (name, is_folder) in self.how.files.list(folder).unwrap_or_default() {
            if name.starts_with('.') || depth > 16 || found.len() > MAX_FILES {
                continue;
            }
            match is_folder {
                true if any_depth => self.matching(&folder.join(name), steps, depth + 1, found)?,
                true if !rest.is_empty() && matcher.is_match(&name) => self.matching(&folder.join(name), rest, depth + 1, found)?,
                false if rest.is_empty() && (any_depth && is_yaml(&name) || !any_depth && matcher.is_match(&name)) => {
                    found.push(folder.join(name))
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_yaml(name: &str) -> bool {
    !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml"))
}

fn shown(folder: &Path) -> String {
    if folder.as_os_str().is_empty() { "the current folder".into() } else { folder.display().to_string() }
}

/// Without `./` and `x/..`, so that one file has one name.
pub(crate) fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for step in path.components() {
        match step {
            Component::CurDir => {}
            Component::ParentDir if matches!(tidy.components().next_back(), Some(Component::Normal(_))) => {
                tidy.pop();
            }
            step => tidy.push(step),
        }
    }
    tidy
}

/// One tree of all files: shared keys entry by entry, any other key from one file only.
fn merge(tops: Vec<Node>, problems: &mut Problems) -> Node {
    let place = tops.first().map_or(Place::NONE, |top| top.place);
    let mut keys: Vec<Entry> = Vec::new();
    let mut index: HashMap<Arc<str>, usize> = HashMap::new();
    for top in tops {
        let Kind::Map(entries) = top.kind else { continue };
        for entry in entries {
            let Some(at) = index.get(&entry.key).copied() else {
                index.insert(entry.key.clone(), keys.len());
                keys.push(entry);
                continue;
            };
            let first = &mut keys[at];
            match (&mut first.value.kind, entry.value.kind) {
                (_, Kind::Null) => {}
                (kind @ Kind::Null, more) => *kind = more,
                (Kind::Map(all), Kind::Map(more)) if SHARED.contains(&&*entry.key) => all.extend(more),
                (all, more) if matches!(&*entry.key, "include" | "sources_from") => {
                    let mut items = list(std::mem::replace(all, Kind::Null), first.value.place);
                    items.extend(list(more, entry.value.place));
                    *all = Kind::Seq(items);
                }
                _ => {
                    problems
                        .error(entry.value.place.key(), format!("the key `{}` is in another file already", entry.key))
                        .help("say it once")
                        .also(first.value.place.key(), "first here");
                }
            }
        }
    }
    for entry in keys.iter_mut().filter(|entry| SHARED.contains(&&*entry.key)) {
        unique(&entry.key, &mut entry.value, problems);
    }
    Node::new(place, Kind::Map(keys))
}

fn list(kind: Kind, place: Place) -> Vec<Node> {
    match kind {
        Kind::Seq(items) => items,
        kind => vec![Node::new(place, kind)],
    }
}

/// Refuses the same name in two files; in one file it is a key that is there twice.
fn unique(what: &str, node: &mut Node, problems: &mut Problems) {
    let Kind::Map(entries) = &mut node.kind else { return };
    let what = what.strip_suffix('s').unwrap_or(what);
    let mut seen: HashMap<Arc<str>, Place> = HashMap::new();
    entries.retain(|entry| match seen.get(&entry.key) {
        None => {
            seen.insert(entry.key.clone(), entry.value.place.key());
            true
        }
        Some(first) => {
            same_name(what, &entry.key, entry.value.place.key(), *first, problems);
            false
        }
    });
}

/// The one wording for a name that is there twice.
pub(crate) fn same_name(what: &str, name: &str, place: Place, first: Place, problems: &mut Problems) {
    problems.error(place, format!("the {what} `{name}` is here a second time")).help("rename one of them").also(first, "first here");
}

/// A name among those of a mapping, for "did you mean".
pub(crate) fn nearest_entry(name: &str, what: &str, node: Option<&Node>) -> String {
    let names: Vec<&str> = node.map(|node| node.entries().iter().map(|entry| &*entry.key).collect()).unwrap_or_default();
    suggest::help(name, what, names.iter().copied())
}
