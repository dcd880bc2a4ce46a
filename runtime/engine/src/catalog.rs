//! The tag catalog: the compacted topic `millrace.tags`, which says what each tag is.
//!
//! Key: `path#def`. `def` is a fingerprint of the definition (type, unit, limits, meaning, address), the same on every machine and after every
//! loss of the data directory, so no counter has to be kept; a changed unit has another `def`, and old data keeps its meaning. `since` orders them.
//! A tag that goes gets a last entry with `retired`.
//!
//! The file lists what was already sent, one line `s|d def path` each (s: known before connecting, d: discovered); it is a cache: without it, the
//! entries are sent again, and compaction keeps one of them.

use crate::positions::replace;
use crate::sample_key::named_levels;
use millrace_contract::{TagDef, TagOptions};
use millrace_schemas::Micros;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The topic of the catalog.
pub const TOPIC: &str = "millrace.tags";

/// A record for the catalog's topic, or that of the last samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub topic: Arc<str>,
    pub key: Vec<u8>,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
}

#[derive(Debug)]
pub struct Catalog {
    file: PathBuf,
    source: Arc<str>,
    topic: Arc<str>,
    /// Where the last sample of each tag is kept: a tag that goes has none.
    latest: Option<Arc<str>>,
    /// Names of the parts of `at`.
    levels: Arc<[String]>,
    known: HashMap<Arc<str>, Known>,
    pending: Vec<Entry>,
    is_dirty: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    def: i32,
    is_static: bool,
    /// Declared in this run.
    is_here: bool,
}

impl Catalog {
    /// Reads the cache; whatever can't be read of it is sent again.
    pub fn open(file: &Path, source: &Arc<str>, latest: Option<Arc<str>>) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let known = text.lines().filter_map(|line| {
            let (kind, rest) = line.split_once(' ')?;
            let (def, path) = rest.split_once(' ')?;
            Some((path.into(), Known { def: def.parse().ok()?, is_static: kind == "s", is_here: false }))
        });
        let known = known.collect();
        Self {
            file: file.to_owned(),
            source: source.clone(),
            topic: TOPIC.into(),
            latest,
            levels: Arc::default(),
            known,
            pending: Vec::new(),
            is_dirty: false,
        }
    }

    /// With names for the parts of `at`.
    #[must_use]
    pub fn with_levels(self, levels: &Arc<[String]>) -> Self {
        Self { levels: levels.clone(), ..self }
    }

    /// Takes a definition in. Returns its `def`, and whether it is another than before.
    pub fn declare(&mut self, path: &Arc<str>, tag: &TagDef, is_static: bool, now: Micros) -> (i32, bool) {
        let value = self.definition(path, &tag.address, tag.kind.as_deref(), &tag.options);
        let def = fingerprint(&Value::Object(value.clone()).to_string());
        let known = self.known.insert(path.clone(), Known { def, is_static, is_here: true });
        let is_news = known.is_none_or(|k| k.def != def);
        if is_news {
            self.news(path, def, value, now);
        }
        (def, is_news)
    }

    /// Sends a definition once more, where it is still the tag's.
    pub fn repeat(&mut self, path: &Arc<str>, def: i32, address: &str, kind: Option<&str>, options: &TagOptions, now: Micros) {
        if self.known.get(path).is_some_and(|known| known.def == def) {
            let definition = self.definition(path, address, kind, options);
            self.news(path, def, definition, now);
        }
    }

    /// What the catalog says of a tag.
    pub fn definition(&self, path: &str, address: &str, kind: Option<&str>, options: &TagOptions) -> Map<String, Value> {
        whole_definition(path, address, kind, options, &self.levels)
    }

    fn news(&mut self, path: &str, def: i32, mut value: Map<String, Value>, now: Micros) {
        value.insert("source".to_owned(), self.source.as_ref().into());
        value.insert("since".to_owned(), now.0.into());
        self.push(path, def, value);
    }

    pub fn retire(&mut self, path: &Arc<str>, now: Micros) {
        if let Some(known) = self.known.remove(path) {
            let value = json!({ "source": &*self.source, "retired": now.0 });
            let Value::Object(value) = value else { return };
            self.push(path, known.def, value);
            if let Some(topic) = &self.latest {
                self.pending.push(Entry { topic: topic.clone(), key: path.as_bytes().to_vec(), value: None });
            }
        }
    }

    /// Retires the tags that were known before connecting in an earlier run, and are not any more.
    pub fn retire_missing(&mut self, now: Micros) {
        let gone: Vec<Arc<str>> = self.known.iter().filter(|(_, k)| k.is_static && !k.is_here).map(|(path, _)| path.clone()).collect();
        for path in gone {
            self.retire(&path, now);
        }
    }

    fn push(&mut self, path: &str, def: i32, mut value: Map<String, Value>) {
        value.insert("tag".to_owned(), path.into());
        value.insert("def".to_owned(), def.into());
        let key = format!("{path}#{def}").into_bytes();
        self.pending.push(Entry { topic: self.topic.clone(), key, value: Some(Value::Object(value).to_string().into_bytes()) });
        self.is_dirty = true;
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn take_pending(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.pending)
    }

    /// The cache's text, if it changed since the last time and nothing is pending. Whoever takes it writes it with [`Catalog::write`].
    pub fn take_changed(&mut self) -> Option<(PathBuf, String)> {
        if !self.is_dirty || self.has_pending() {
            return None;
        }
        self.is_dirty = false;
        let mut text = String::new();
        for (path, known) in &self.known {
            let _ = writeln!(text, "{} {} {path}", if known.is_static { 's' } else { 'd' }, known.def);
        }
        Some((self.file.clone(), text))
    }

    /// Replaces the cache's file.
    pub fn write((file, text): &(PathBuf, String)) -> std::io::Result<()> {
        replace(file, text.as_bytes())
    }
}

/// The `def` of a tag.
pub fn def_of(path: &str, tag: &TagDef, levels: &[String]) -> i32 {
    let definition = whole_definition(path, &tag.address, tag.kind.as_deref(), &tag.options, levels);
    fingerprint(&Value::Object(definition).to_string())
}

/// What a tag is, with the names of the parts of its `at`.
fn whole_definition(path: &str, address: &str, kind: Option<&str>, options: &TagOptions, levels: &[String]) -> Map<String, Value> {
    let mut value = definition(address, kind, options);
    let levels: Map<String, Value> = named_levels(path, levels).map(|(name, part)| (name.to_owned(), part.into())).collect();
    if !levels.is_empty() {
        value.insert("levels".to_owned(), levels.into());
    }
    value
}

/// What a tag is, as the catalog says it.
fn definition(address: &str, kind: Option<&str>, o: &TagOptions) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    };
    put("address", Some(address.into()));
    put("type", kind.map(Into::into));
    put("unit", o.unit.as_deref().map(Into::into));
    put("min", o.min.map(Into::into));
    put("max", o.max.map(Into::into));
    put("warn", o.warn.map(|w| json!(w)));
    put("raw", o.raw.map(|w| json!(w)));
    put("eu", o.eu.map(|w| json!(w)));
    put("scale", o.scale.map(Into::into));
    put("offset", o.offset.map(Into::into));
    put("values", o.values.as_ref().map(|v| json!(v)));
    put("kind", o.kind.as_deref().map(Into::into));
    put("labels", o.labels.as_ref().map(|v| json!(v)));
    put("description", o.description.as_deref().map(Into::into));
    put("writable", o.writable.map(Into::into));
    map
}

/// 31 bits of the definition's text; never zero, which means "no definition".
fn fingerprint(text: &str) -> i32 {
    ((crc32c::crc32c(text.as_bytes()) & 0x7fff_ffff) as i32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(unit: &str) -> TagDef {
        TagDef {
            path: "body/temperature".to_owned(),
            address: "a".to_owned(),
            kind: None,
            topic: "telemetry".into(),
            part: "".into(),
            options: Arc::new(TagOptions { unit: Some(unit.to_owned()), ..TagOptions::default() }),
        }
    }

    #[test]
    fn an_entry_is_sent_once_per_definition_and_a_missing_static_tag_is_retired() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("catalog");
        let path: Arc<str> = "acme/plant/body/temperature".into();
        let source: Arc<str> = "acme/plant/press".into();

        let mut catalog = Catalog::open(&file, &source, None);
        let (celsius, is_news) = catalog.declare(&path, &tag("degC"), true, Micros(1));
        assert!(is_news);
        assert_eq!(catalog.take_pending()[0].key, format!("{path}#{celsius}").into_bytes());
        Catalog::write(&catalog.take_changed().unwrap()).unwrap();

        let mut catalog = Catalog::open(&file, &source, None);
        assert_eq!(catalog.declare(&path, &tag("degC"), true, Micros(2)), (celsius, false));
        assert!(!catalog.has_pending());
        let (fahrenheit, is_news) = catalog.declare(&path, &tag("degF"), true, Micros(3));
        assert!(is_news && fahrenheit != celsius);
        catalog.take_pending();
        Catalog::write(&catalog.take_changed().unwrap()).unwrap();

        let levels = ["area".to_owned(), "line".to_owned()].into();
        let mut named = Catalog::open(&dir.path().join("named"), &source, None).with_levels(&levels);
        named.declare(&path, &tag("degC"), true, Micros(1));
        let entry: Value = serde_json::from_slice(named.take_pending()[0].value.as_ref().unwrap()).unwrap();
        assert_eq!(entry["levels"], json!({"area": "body"}));

        let mut catalog = Catalog::open(&file, &source, Some("latest".into()));
        catalog.retire_missing(Micros(4));
        let pending = catalog.take_pending();
        let entry: Value = serde_json::from_slice(pending[0].value.as_ref().unwrap()).unwrap();
        assert_eq!((entry["tag"].as_str(), entry["retired"].as_i64()), (Some(&*path), Some(4)));
        assert_eq!(pending[1], Entry { topic: "latest".into(), key: path.as_bytes().to_vec(), value: None }, "the last sample goes, too");
    }
}
