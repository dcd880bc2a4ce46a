//! The tags of a source, and what goes with each: definition, topic, cell in a wide record.

use super::options::IntakeOptions;
use crate::catalog::Catalog;
use crate::paths::Paths;
use crate::tags::Tags;
use crate::topics::{LATEST, Topic, Topics};
use crate::wide::{CellRef, Rows};
use millrace_contract::source::SchemaIn;
use millrace_contract::{Clash, Model, TagDef};
use millrace_schemas::contract::SchemaError;
use millrace_schemas::{Micros, Row, TagId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Topics that a source makes up from templates, at most.
const TOPICS_MAX: usize = 100_000;

/// The tags, and what sync calls of a session leave for the next append.
pub(super) struct Core {
    pub source: Arc<str>,
    pub paths: Arc<Paths>,
    pub tags: Tags,
    pub defs: Vec<Def>,
    pub by_path: HashMap<Arc<str>, TagId>,
    /// Bits of a word: the tags that stand for them.
    pub bits: HashMap<TagId, Vec<(u8, TagId)>>,
    pub topics: Topics,
    pub topic_cache: HashMap<Arc<str>, Arc<Topic>>,
    pub catalog: Catalog,
    /// Samples the engine owes: of parts that are gone.
    pub pending: Vec<Row>,
    /// What becomes one record for many tags.
    pub rows: Rows,
    pub clock: Clock,
}

/// Notices that somebody set the clock: between two looks it went otherwise than time did.
#[derive(Debug, Default)]
pub(super) struct Clock(Option<(Instant, Micros)>);

impl Clock {
    /// By how many microseconds the clock was set since the last look; what is below [`STEP`] is none.
    pub fn step(&mut self, at: Instant, now: Micros) -> i64 {
        let Some((before, clock)) = self.0.replace((at, now)) else { return 0 };
        let step = now.0 - clock.0 - i64::try_from(at.duration_since(before).as_micros()).unwrap_or(i64::MAX);
        if step.abs() >= STEP { step } else { 0 }
    }
}

/// A clock that is slewed stays far below this between two looks.
const STEP: i64 = 1_000_000;

pub(super) struct Def {
    /// Full path, with the site.
    pub path: Arc<str>,
    pub address: Box<str>,
    kind: Option<Arc<str>>,
    pub topic: Arc<Topic>,
    pub def: i32,
    /// Where it goes into a wide record.
    pub cell: Option<CellRef>,
}

impl Core {
    pub fn new(source: &Arc<str>, options: &IntakeOptions<'_>) -> Self {
        let keeps_latest = options.topics.all().iter().any(|topic| topic.latest);
        let catalog = Catalog::open(&options.dir.join("catalog"), source, keeps_latest.then(|| LATEST.into()));
        Self {
            source: source.clone(),
            paths: options.paths.clone(),
            tags: Tags::default(),
            defs: Vec::new(),
            by_path: HashMap::new(),
            bits: HashMap::new(),
            topics: options.topics.clone(),
            topic_cache: HashMap::new(),
            catalog: catalog.with_levels(options.topics.levels()),
            pending: Vec::new(),
            rows: Rows::default(),
            clock: Clock::default(),
        }
    }

    /// Declares what is known before connecting, and retires what was and is not any more.
    pub fn declare_all(&mut self, site: &str, model: &Model) {
        for tag in &model.tags {
            // Two static tags of one path were refused by `check`.
            let _ = self.declare(site, tag.clone(), true, Micros::now());
        }
        self.catalog.retire_missing(Micros::now());
    }

    /// Takes over another model: what is not in it goes, and what has another address begins anew.
    pub fn change(&mut self, site: &str, before: &Model, model: &Model, now: Micros) {
        // A topic may be declared now that was not before.
        self.topic_cache.clear();
        let wanted: HashMap<&str, &TagDef> = model.tags.iter().map(|tag| (tag.path.as_str(), tag)).collect();
        for old in &before.tags {
            let new = wanted.get(old.path.as_str());
            if new.is_none_or(|new| new.address != old.address || new.options.bits != old.options.bits) {
                let bits = old.options.bits.iter().flatten().map(|(_, name)| format!("{}/{name}", old.path));
                for path in bits.chain([old.path.clone()]) {
                    self.forget(&format!("{site}/{path}"), !wanted.contains_key(path.as_str()), now);
                }
            }
        }
        for tag in &model.tags {
            let _ = self.declare(site, tag.clone(), true, now);
        }
    }

    /// A path is no tag any more; where it comes again at once, with another address, the catalog has no end of it.
    fn forget(&mut self, path: &str, is_gone: bool, now: Micros) {
        let Some((path, id)) = self.by_path.remove_entry(path) else { return };
        self.tags.retire(id);
        self.bits.remove(&id);
        self.paths.release(&path, &self.source);
        if is_gone {
            self.catalog.retire(&path, now);
        }
    }

    pub fn declare(&mut self, site: &str, tag: TagDef, is_static: bool, now: Micros) -> Result<TagId, Clash> {
        let path: Arc<str> = format!("{site}/{}", tag.path).into();
        let known = self.by_path.get(&path).copied();
        if let Some(known) = known.map(|id| &self.defs[id.0 as usize])
            && *known.address != *tag.address
        {
            return Err(Clash::Taken { path: path.to_string(), by: known.address.to_string() });
        }
        self.paths.claim(&path, &self.source).map_err(|by| Clash::Taken { path: path.to_string(), by: format!("source {by}") })?;
        let topic = self.topic(tag.options.topic.as_deref().unwrap_or(&tag.topic));
        let (def, is_news) = self.catalog.declare(&path, &tag, is_static, now);
        if let Some(id) = known {
            let known = &mut self.defs[id.0 as usize];
            if is_news || known.def != def || !Arc::ptr_eq(&known.topic, &topic) {
                known.def = def;
                known.topic = topic;
                known.kind = tag.kind.as_deref().map(Into::into);
                self.tags.change(id, &tag.options, &tag.part, now);
                let cell = known.topic.layout.clone().map(|layout| self.rows.cell(&known.topic, &layout, &path, &tag));
                known.cell = cell;
            }
            return Ok(id);
        }
        let id = self.tags.add(&tag.options, &tag.part, now);
        let cell = topic.layout.clone().map(|layout| self.rows.cell(&topic, &layout, &path, &tag));
        let kind = tag.kind.as_deref().map(|kind| self.kind(kind));
        self.defs.push(Def { path: path.clone(), address: tag.address.as_str().into(), kind, topic, def, cell });
        self.by_path.insert(path, id);
        if let Some(bits) = &tag.options.bits {
            let options = Arc::new(millrace_contract::TagOptions { bits: None, ..(*tag.options).clone() });
            let mut children = Vec::new();
            for (bit, name) in bits {
                let child = TagDef {
                    path: format!("{}/{name}", tag.path),
                    address: format!("{}, bit {bit}", tag.address),
                    options: options.clone(),
                    ..tag.clone()
                };
                children.push((*bit, self.declare(site, child, is_static, now)?));
            }
            self.bits.insert(id, children);
        }
        Ok(id)
    }

    /// The name of a type, shared by the tags that have it.
    fn kind(&self, name: &str) -> Arc<str> {
        let last = self.defs.last().and_then(|def| def.kind.as_ref()).filter(|kind| &***kind == name);
        last.cloned().unwrap_or_else(|| name.into())
    }

    /// Sends every definition once more.
    pub fn repeat_catalog(&mut self, now: Micros) {
        for (at, def) in self.defs.iter().enumerate() {
            let Some(rules) = self.tags.rules(TagId(at as u32)) else { continue };
            self.catalog.repeat(&def.path, def.def, &def.address, def.kind.as_deref(), &rules.options, now);
        }
    }

    /// What the catalog says of a tag.
    pub fn definition(&self, at: usize) -> Option<serde_json::Map<String, serde_json::Value>> {
        let (def, rules) = (self.defs.get(at)?, self.tags.rules(TagId(at as u32))?);
        Some(self.catalog.definition(&def.path, &def.address, def.kind.as_deref(), &rules.options))
    }

    pub fn topic(&mut self, name: &str) -> Arc<Topic> {
        if let Some(topic) = self.topic_cache.get(name) {
            return topic.clone();
        }
        let topic = self.topics.get(name);
        if self.topic_cache.len() < TOPICS_MAX {
            self.topic_cache.insert(topic.name.clone(), topic.clone());
        }
        topic
    }

    /// The documents of a topic are what the source says, where the topic leaves it to the source.
    pub fn describe(&mut self, name: &str, schema: &SchemaIn<'_>) -> Result<(), SchemaError> {
        if let Some(topic) = self.topics.described(&self.topics.get(name), schema)? {
            self.topic_cache.insert(topic.name.clone(), Arc::new(topic));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_clock_that_is_set_is_told_from_one_that_goes() {
        let mut clock = Clock::default();
        let (start, now) = (Instant::now(), Micros(1_800_000_000_000_000));
        let later = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(clock.step(start, now), 0);
        assert_eq!(clock.step(later(1), Micros(now.0 + 1_100_000)), 0, "slewed");
        assert_eq!(clock.step(later(2), Micros(now.0 + 3_602_100_000)), 3_600_000_000);
        assert_eq!(clock.step(later(3), Micros(now.0 + 3_100_000)), -3_600_000_000);
        assert_eq!(clock.step(later(4), Micros(now.0 + 4_100_000)), 0);
    }
}
