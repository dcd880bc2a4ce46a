//! Process settings in layers: defaults < the file < `MILLRACE_*` in the environment.
//!
//! The crate `config` does the layering. It keeps no places, but an origin per value: ours is the place, so that a wrong setting is reported where it
//! is written, in the file or as the variable. `floor` is no such setting: only the file may allow writing to devices.

use crate::factory::environment::Load;
use crate::factory::top::DATA_DIR;
use crate::factory::{Http, Kafka, Log, Messages, Schemas};
use crate::tree::node::{Entry, Kind, Node, Text};
use crate::tree::place::{Place, Step};
use crate::tree::problem::Problems;
use crate::tree::{suggest, yaml};
use config::{Config, Map, Source, Value, ValueKind};
use std::collections::HashMap;

/// Settings that the environment may override, by path.
pub const SETTINGS: [&str; 14] = [
    "data_dir",
    "kafka.brokers",
    "schemas.registry",
    "schemas.listen",
    "http.listen",
    "runtime.id",
    "runtime.host",
    "log.size",
    "log.keep_free",
    "log.full",
    "log.sync",
    "log.compression",
    "messages.level",
    "messages.format",
];

const PREFIX: &str = "MILLRACE_";

/// `MILLRACE_HTTP_LISTEN` for `http.listen`.
pub fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_uppercase())
}

/// The head of the file with the environment's settings over it, and the defaults under it.
pub(crate) fn layer(head: &Node, how: &Load, problems: &mut Problems) -> Node {
    refuse(how, problems);
    let mut places = HashMap::new();
    let file = Layer::default().with(SETTINGS.iter().filter_map(|path| {
        let node = at(head, path)?;
        let text = node.text()?.as_str();
        places.insert(node.place.0.to_string(), node.clone());
        Some((*path, text.to_owned(), node.place))
    }));
    let environment = Layer::default().with(SETTINGS.iter().filter_map(|path| {
        let variable = variable(path);
        let text = how.env.get(&variable)?;
        let file = problems.places.add_file(format!("environment variable {variable}"), text.as_str().into());
        let place = problems.places.mark(file, Place::NONE, Step::Key((*path).into()), (1, 1));
        places.insert(place.0.to_string(), Node::new(place, yaml::resolve(Text::from(text.as_str()))));
        Some((*path, text.clone(), place))
    }));
    let layered = Config::builder().add_source(defaults()).add_source(file).add_source(environment).build();
    let Ok(layered) = layered.and_then(|layered| layered.collect()) else { return head.clone() };
    let mut settled = head.clone();
    for path in SETTINGS {
        let Some(value) = find(&layered, path) else { continue };
        // A value written as something else than a scalar stays where it is, and is refused there.
        if at(head, path).is_some_and(|node| node.text().is_none() && !node.is_null()) {
            continue;
        }
        let node = match value.origin().and_then(|origin| places.get(origin)) {
            Some(node) => node.clone(),
            None => Node::string(Place::NONE, &value.to_string()),
        };
        set(&mut settled, path, node);
    }
    settled
}

/// Variables that can't be settings.
fn refuse(how: &Load, problems: &mut Problems) {
    let known: Vec<String> = SETTINGS.iter().map(|path| variable(path)).collect();
    for (name, value) in how.env.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        let floor = name.starts_with("MILLRACE_FLOOR");
        let near = suggest::nearest(name, known.iter().map(String::as_str));
        if known.contains(name) || !floor && near.is_none() {
            continue;
        }
        let file = problems.places.add_file(format!("environment variable {name}"), value.as_str().into());
        let place = problems.places.mark(file, Place::NONE, Step::Root, (1, 1));
        if floor {
            problems
                .error(place, "writing to devices can't be allowed by the environment")
                .help("unset it; write `floor: {writes: allowed}` into the file");
        } else if let Some(near) = near {
            problems.warn(place, format!("{name} is not a setting")).help(format!("did you mean {near}?"));
        }
    }
}

/// What holds where neither file nor environment says anything.
fn defaults() -> Layer {
    let sections = serde_json::json!({
        "data_dir": DATA_DIR,
        "kafka": Kafka::default(),
        "schemas": Schemas::default(),
        "http": Http::default(),
        "log": Log::default(),
        "messages": Messages::default(),
    });
    let text = |path: &str| {
        let value = sections.pointer(&format!("/{}", path.replace('.', "/")))?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    Layer::default().with(SETTINGS.iter().filter_map(|path| Some((*path, text(path)?, Place::NONE))))
}

/// Settings of one layer: each knows its place as its origin.
#[derive(Clone, Debug, Default)]
struct Layer(Map<String, Value>);

impl Layer {
    fn with<'p>(mut self, settings: impl Iterator<Item = (&'p str, String, Place)>) -> Self {
        self.0.extend(settings.map(|(path, text, place)| {
            let origin = (!place.is_none()).then(|| place.0.to_string());
            (path.to_owned(), Value::new(origin.as_ref(), ValueKind::String(text)))
        }));
        self
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

pub(crate) fn at<'n>(node: &'n Node, path: &str) -> Option<&'n Node> {
    path.split('.').try_fold(node, |node, key| node.get(key))
}

fn find<'v>(layered: &'v Map<String, Value>, path: &str) -> Option<&'v Value> {
    let mut keys = path.split('.');
    let first = layered.get(keys.next()?)?;
    keys.try_fold(first, |value, key| match &value.kind {
        ValueKind::Table(table) => table.get(key),
        _ => None,
    })
}

fn set(node: &mut Node, path: &str, value: Node) {
    if node.is_null() {
        node.kind = Kind::Map(Vec::new());
    }
    let Kind::Map(entries) = &mut node.kind else { return };
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let index = entries.iter().position(|entry| *entry.key == *key).unwrap_or_else(|| {
        entries.push(Entry { key: key.into(), value: Node::null(Place::NONE) });
        entries.len() - 1
    });
    match rest {
        None => entries[index].value = value,
        Some(rest) => set(&mut entries[index].value, rest, value),
    }
}
