//! Tags of a structure's leaves: a structured value becomes one sample per leaf, `path/field`, whose tags are declared as they are met.

use millrace_config::Reason;
use millrace_contract::{SourceIo, TagDef};
use millrace_schemas::TagId;
use std::collections::HashMap;

/// The leaves of one structured value, or of several that share a name space.
#[derive(Clone, Debug, Default)]
pub struct Leaves {
    known: HashMap<Box<str>, Result<TagId, Reason>>,
    /// How many of the known ones are no tags.
    refused: usize,
    /// Of one that is not kept.
    last: Option<Reason>,
}

/// So many paths that could not be declared are kept: garbage without end takes no memory without end.
const REFUSED: usize = 10_000;

impl Leaves {
    /// The tag of the leaf at `path`, declared by what `def` says when it is met first. No allocation for one that is known.
    ///
    /// Errors: why it could not be declared; said again, but not tried again, each time (of very many, tried again).
    pub fn tag<E: Into<Reason>>(&mut self, path: &str, io: &SourceIo, def: impl FnOnce() -> Result<TagDef, E>) -> Result<TagId, &Reason> {
        if !self.known.contains_key(path) {
            let declared = match def() {
                Ok(def) => io.declare(def).map_err(|clash| Reason::from(clash.to_string())),
                Err(error) => Err(error.into()),
            };
            match &declared {
                Ok(_) => {}
                Err(why) if self.refused >= REFUSED => {
                    return Err(self.last.insert(why.clone()));
                }
                Err(why) => {
                    self.refused += 1;
                    tracing::warn!(leaf = path, %why, "a field of a structure has no tag");
                }
            }
            self.known.insert(path.into(), declared);
        }
        match &self.known[path] {
            Ok(tag) => Ok(*tag),
            Err(why) => Err(why),
        }
    }

    /// As [`Self::tag`], below a tag: the leaf's path and address are the tag's with the leaf's behind it.
    pub fn below(&mut self, of: &TagDef, path: &str, io: &SourceIo) -> Result<TagId, &Reason> {
        self.tag(path, io, || Ok::<_, Reason>(leaf_of(of, path)))
    }

    /// The tags that were declared.
    pub fn tags(&self) -> impl Iterator<Item = TagId> {
        self.known.values().filter_map(|tag| tag.as_ref().ok().copied())
    }

    /// How many tags were declared.
    pub fn len(&self) -> usize {
        self.known.len() - self.refused
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// The definition of a leaf below a tag: same topic, same options, a type that is not known yet.
pub fn leaf_of(of: &TagDef, path: &str) -> TagDef {
    TagDef { path: format!("{}/{path}", of.path), address: format!("{}/{path}", of.address), kind: None, ..of.clone() }
}
