//! The configuration as Kafka Connect's interface shows it: flat, texts, read-only; and what `check` says of one that somebody asks about.
//!
//! `groups.0.every`: keys are dotted, items of lists are numbers, a dot of a key itself is `\.`. `topics` alone is `a,b`, as Connect has it. Secrets are
//! the references that stand in the file.

use crate::catalog::ENTRIES;
use millrace_config::factory::{COMMANDS, Connector, Factory};
use millrace_config::{Disk, Files, Kind, Load, Node, Problems};
use millrace_console::connect::class;
use millrace_console::control::{Declared, Wrong};
use millrace_engine::compile::compile;
use millrace_engine::hold::Role;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keys shown of one connector: ten thousand tags are looked at in the file.
const KEYS_MAX: usize = 2000;
const CUT: &str = "millrace.cut";

type Config = BTreeMap<String, String>;

/// Every source and sink of a factory. A sink that has the name of a source is `sink:NAME`.
pub fn declared(factory: &Factory) -> Vec<Declared> {
    let of = |role: Role, connectors: &[Connector]| -> Vec<Declared> { connectors.iter().map(|one| declare(role, one)).collect() };
    let mut all = of(Role::Source, &factory.sources);
    let mut sinks = of(Role::Sink, &factory.sinks);
    for sink in sinks.iter_mut().filter(|sink| factory.sources.iter().any(|source| source.name == sink.own)) {
        sink.name = format!("sink:{}", sink.own);
    }
    all.append(&mut sinks);
    all
}

fn declare(role: Role, connector: &Connector) -> Declared {
    let mut config = Config::new();
    flatten(&connector.node, "", &mut config);
    if role == Role::Sink
        && let Some(topics) = connector.node.get(TOPICS)
    {
        config.retain(|key, _| !key.starts_with("topics."));
        config.insert(TOPICS.to_owned(), topics.items().iter().filter_map(Node::as_str).collect::<Vec<_>>().join(","));
    }
    config.remove("type");
    config.insert("name".to_owned(), connector.name.clone());
    config.insert("connector.class".to_owned(), class(role, &connector.type_name.value));
    config.insert("tasks.max".to_owned(), "1".to_owned());
    Declared { name: connector.name.clone(), own: connector.name.clone(), role, config }
}

fn flatten(node: &Node, key: &str, out: &mut Config) {
    if out.len() >= KEYS_MAX {
        out.insert(CUT.to_owned(), format!("there are more than {KEYS_MAX} keys; the rest is in the file"));
        return;
    }
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match &node.kind {
        Kind::Map(entries) if !entries.is_empty() => {
            for entry in entries {
                flatten(&entry.value, &below(&entry.key.replace('\\', "\\\\").replace('.', "\\.")), out);
            }
        }
        Kind::Seq(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                flatten(item, &below(&at.to_string()), out);
            }
        }
        Kind::Null | Kind::Map(_) | Kind::Seq(_) => _ = out.insert(key.to_owned(), String::new()),
        Kind::Bool(text) | Kind::Int(text) | Kind::Float(text) | Kind::String(text) => {
            out.insert(key.to_owned(), text.reference().unwrap_or(text.as_str()).to_owned());
        }
    }
}

const TOPICS: &str = "topics";

/// A mapping, a list, or a text of the YAML that flat keys stand for.
#[derive(Default)]
struct Tree {
    text: Option<String>,
    below: BTreeMap<String, Tree>,
}

impl Tree {
    fn of(config: &Config) -> Self {
        let mut tree = Self::default();
        for (key, text) in config {
            let at = parts(key).into_iter().fold(&mut tree, |at, part| at.below.entry(part).or_default());
            at.text = Some(text.clone());
        }
        tree
    }

    /// In YAML's flow style. `topics`: names with commas between them, as Connect has them.
    fn yaml(&self, is_topics: bool) -> String {
        let index = |name: &String| name.parse::<usize>().ok();
        match &self.text {
            Some(text) if is_topics => {
                let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
                format!("[{}]", names.map(quoted).collect::<Vec<_>>().join(", "))
            }
            Some(text) if self.below.is_empty() => scalar(text),
            _ if !self.below.is_empty() && self.below.keys().all(|name| index(name).is_some()) => {
                let mut items: Vec<_> = self.below.iter().collect();
                items.sort_by_key(|(name, _)| index(name));
                format!("[{}]", items.into_iter().map(|(_, item)| item.yaml(false)).collect::<Vec<_>>().join(", "))
            }
            _ => self.mapping(|_| false),
        }
    }

    fn mapping(&self, are_topics: impl Fn(&str) -> bool) -> String {
        let entries = self.below.iter().map(|(name, value)| format!("{}: {}", quoted(name), value.yaml(are_topics(name))));
        format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
    }

    /// The connector as a whole.
    fn connector(&self, role: Role) -> String {
        self.mapping(|name| name == TOPICS && role == Role::Sink)
    }
}

/// The names in a dotted key.
fn parts(key: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = key.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => parts.last_mut().expect("never empty").extend(chars.next()),
            '.' => parts.push(String::new()),
            c => parts.last_mut().expect("never empty").push(c),
        }
    }
    parts
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A number and a truth stand as they are: a key that wants text takes them, too.
fn scalar(text: &str) -> String {
    let is_number = text.parse::<f64>().is_ok_and(f64::is_finite) && text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    match text {
        "" => "~".to_owned(),
        "true" | "false" => text.to_owned(),
        text if is_number => text.to_owned(),
        text => quoted(text),
    }
}

/// The factory's files, and one that is not on the disk.
#[derive(Debug)]
struct WithOne {
    path: PathBuf,
    text: String,
}

impl Files for WithOne {
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        if path == self.path { Ok(self.text.clone().into_bytes()) } else { Disk.read(path, limit) }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, bool)>> {
        Disk.list(folder)
    }
}

/// What `check` says of a connector beside what runs: only what is wrong with that one. Reads the files that it names.
pub fn validate(running: &Factory, beside: &Path, role: Role, type_name: &str, mut config: Config) -> Vec<Wrong> {
    let name = config.remove("name").filter(|name| !name.is_empty()).unwrap_or_else(|| "new".to_owned());
    for key in ["connector.class", "tasks.max", CUT] {
        config.remove(key);
    }
    if type_name != COMMANDS {
        config.insert("type".to_owned(), type_name.to_owned());
    }
    let section = match role {
        Role::Source => "sources",
        Role::Sink => "sinks",
    };
    let mut text = millrace_config::expanded(running);
    // A sink of commands needs the sources; a source none of its own name.
    if let Some(end) = text.find(&format!("\n{section}:\n")) {
        text.truncate(end);
    }
    if role == Role::Source
        && let Some(end) = text.find("\nsinks:\n")
    {
        text.truncate(end);
    }
    text += &format!("\n{section}: {{{}: {}}}\n", quoted(&name), Tree::of(&config).connector(role));
    let path = beside.parent().unwrap_or(Path::new("")).join(".asked-about.yaml");
    let how = Load { files: Arc::new(WithOne { path: path.clone(), text }), ..Load::to_check() };
    let mut problems = Problems::new();
    if let Some(factory) = millrace_config::load(&[path], &how, &mut problems) {
        let _ = compile(&factory, ENTRIES, &mut problems);
    }
    let own = format!("{section}.{name}");
    let mut wrong = Vec::new();
    for problem in problems.to_json().as_array().into_iter().flatten().filter(|problem| problem["severity"] == "error") {
        let text = |key: &str| problem[key].as_str().unwrap_or_default();
        let rest = text("path").strip_prefix(&own).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        let Some(rest) = rest.or_else(|| text("path").is_empty().then_some("")) else { continue };
        let key = rest.replace('[', ".").replace(']', "");
        let help = Some(text("help")).filter(|help| !help.is_empty()).map(|help| format!("; {help}")).unwrap_or_default();
        wrong.push(Wrong { key: key.trim_start_matches('.').to_owned(), says: format!("{}{help}", text("message")) });
    }
    wrong
}

/// File and line where a connector is declared; where it is not, the first file.
pub fn stands_at(paths: &[PathBuf], role: Role, name: &str) -> String {
    let mut problems = Problems::new();
    let factory = millrace_config::load(paths, &Load::to_check(), &mut problems);
    let connectors = factory.as_ref().map(|factory| match role {
        Role::Source => &factory.sources,
        Role::Sink => &factory.sinks,
    });
    match connectors.and_then(|all| all.iter().find(|one| one.name == name)) {
        Some(one) => {
            let at = problems.locate(one.place);
            format!("{}:{}", at.file, at.line)
        }
        None => paths.first().map_or_else(String::new, |path| path.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "site: acme/plant\nsources:\n  load: {type: generator, at: load, topic: t, tags: 2, rate: 10/s, shapes: [counter, sine]}\n\
                        sinks:\n  load: {type: file, topics: [t, u], path: /tmp/x, properties: {a.b: 1}}\n";

    fn factory(text: &str) -> Factory {
        let files = millrace_config::Given([(PathBuf::from("f.yaml"), text.as_bytes().to_vec())].into());
        let how = Load { files: Arc::new(files), ..Load::to_check() };
        millrace_config::load(&["f.yaml".into()], &how, &mut Problems::new()).unwrap()
    }

    #[test]
    fn a_connector_is_flat_texts_and_comes_back_from_them() {
        let all = declared(&factory(FILE));
        assert_eq!((all[0].name.as_str(), all[1].name.as_str(), all[1].own.as_str()), ("load", "sink:load", "load"));
        assert_eq!(all[0].config["connector.class"], "millrace.generator.Source");
        assert_eq!((all[0].config["tags"].as_str(), all[0].config["shapes.1"].as_str()), ("2", "sine"));
        assert_eq!((all[1].config["topics"].as_str(), all[1].config["properties.a\\.b"].as_str()), ("t,u", "1"));
        let mut sink = all[1].config.clone();
        sink.retain(|key, _| !["name", "connector.class", "tasks.max"].contains(&key.as_str()));
        assert_eq!(Tree::of(&sink).connector(Role::Sink), r#"{"path": "/tmp/x", "properties": {"a.b": 1}, "topics": ["t", "u"]}"#);
    }

    #[test]
    fn what_check_says_stands_at_the_key_it_is_about() {
        let running = factory(FILE);
        let ask = |pairs: &[(&str, &str)]| {
            let config = pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
            let wrong = validate(&running, Path::new("f.yaml"), Role::Source, "generator", config);
            wrong.into_iter().map(|one| (one.key, one.says)).collect::<Vec<_>>()
        };
        let good = [("name", "more"), ("topic", "t"), ("at", "more"), ("tags", "2"), ("rate", "10/s")];
        assert_eq!(ask(&good), []);
        let mut bad = good.to_vec();
        bad.extend([("rate", "often"), ("shapes.0", "circle"), ("taggs", "2")]);
        let mut keys: Vec<String> = ask(&bad).into_iter().map(|(key, _)| key).collect();
        keys.sort();
        assert_eq!(keys, ["rate", "shapes.0", "taggs"]);
    }
}
