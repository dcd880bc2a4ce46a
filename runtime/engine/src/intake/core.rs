//! The tags of a source, and what goes with each: definition, topic, seat in a wide record.

use super::TOPICS_MAX;
use crate::catalog::Catalog;
use crate::paths::Paths;
use crate::tags::Tags;
use crate::topics::{Topic, Topics};
use crate::wide::{Rows, Seat};
use millrace_contract::{Clash, TagDef};
use millrace_schemas::{Micros, Row, TagId};
use std::collections::HashMap;
use std::sync::Arc;

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
}

pub(super) struct Def {
    /// Full path, with the site.
    pub path: Arc<str>,
    pub address: Box<str>,
    pub topic: Arc<Topic>,
    pub def: i32,
    /// Where it goes into a wide record.
    pub seat: Option<Seat>,
}

impl Core {
    pub fn declare(&mut self, site: &str, tag: TagDef, is_static: bool, now: Micros) -> Result<TagId, Clash> {
        let path: Arc<str> = format!("{site}/{}", tag.path).into();
        let known = self.by_path.get(&path).copied();
        if let Some(known) = known.map(|id| &self.defs[id.0 as usize])
            && *known.address != *tag.address
        {
            return Err(Clash { path: path.to_string(), by: known.address.to_string() });
        }
        self.paths.claim(&path, &self.source).map_err(|by| Clash { path: path.to_string(), by: format!("source {by}") })?;
        let topic = self.topic(tag.options.topic.as_deref().unwrap_or(&tag.topic));
        let (def, is_news) = self.catalog.declare(&path, &tag, is_static, now);
        if let Some(id) = known {
            let known = &mut self.defs[id.0 as usize];
            if is_news || known.def != def || !Arc::ptr_eq(&known.topic, &topic) {
                known.def = def;
                known.topic = topic;
                self.tags.change(id, &tag.options, &tag.part, now);
                let seat = known.topic.sheet.clone().map(|sheet| self.rows.seat(&known.topic, &sheet, &path, &tag));
                known.seat = seat;
            }
            return Ok(id);
        }
        let id = self.tags.add(&tag.options, &tag.part, now);
        let seat = topic.sheet.clone().map(|sheet| self.rows.seat(&topic, &sheet, &path, &tag));
        self.defs.push(Def { path: path.clone(), address: tag.address.as_str().into(), topic, def, seat });
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
}
