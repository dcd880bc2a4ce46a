//! Where the reading of one entity set is: what moves with the rows, in the log.

use crate::known::Keys;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// JSON under the key `set:NAME`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Position {
    /// What was asked; with another query all is read anew.
    pub query: String,
    /// All is being read.
    pub load: Option<Load>,
    /// All was read once.
    pub is_loaded: bool,
    /// The link to what changes from now on.
    pub delta: Option<String>,
    /// The largest value of the watermark.
    pub water: Option<i64>,
    /// The keys of what is in the topic, where the service follows what changes.
    pub known: Option<Keys>,
    /// Those of before the last load, until what is gone has its tombstone.
    pub before: Option<Keys>,
    /// What of those is missing now may be there all the same, and is asked for by its key.
    pub is_doubted: bool,
    /// There are more keys than are kept.
    pub has_too_many: bool,
    /// What the keys are made of; an earlier release did not say.
    pub key: Option<String>,
    /// When the keys were last compared with those of the ERP, in microseconds since 1970.
    pub reconciled: Option<i64>,
}

/// A load in the middle.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// The link to the page to be read next; empty: the first.
    pub next: String,
    /// The service follows what changes meanwhile, and will give a delta link: its own links are to be followed.
    pub is_tracked: bool,
    /// Rows so far.
    pub rows: u64,
    /// Rows in all, where the service says so.
    pub of: Option<u64>,
    /// The largest value of the watermark so far.
    pub high: Option<i64>,
    /// The keys of the rows so far.
    pub keys: Keys,
    /// There was a row whose key cannot be read: what is gone cannot be told from it.
    pub is_blind: bool,
}

impl Position {
    /// Under which key of the engine's positions.
    pub fn key(set: &str) -> String {
        format!("set:{set}")
    }

    /// Of what was seen in the overlap.
    pub fn seen_key(set: &str) -> String {
        format!("seen:{set}")
    }

    /// The position of an earlier session; of another query or key, or none: all is read.
    pub fn resume(bytes: Option<Vec<u8>>, query: &str, key: &str) -> Self {
        let is_this = |position: &Self| position.query == query && position.key.as_ref().is_none_or(|of| of == key);
        let kept = bytes.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok()).filter(is_this);
        let position = kept.unwrap_or_else(|| Self { query: query.to_owned(), load: Some(Load::default()), ..Self::default() });
        Self { key: Some(key.to_owned()), ..position }
    }

    /// Those of `names`, which are positions of keys, that this one does not go by: of another query, of a load that was given up.
    pub fn without_use(&self, set: &str, names: impl IntoIterator<Item = String>) -> Vec<String> {
        let generations = [self.known.as_ref(), self.before.as_ref(), self.load.as_ref().map(|load| &load.keys)];
        let used: HashSet<String> = generations.into_iter().flatten().flat_map(|keys| keys.names(set)).collect();
        names.into_iter().filter(|name| !used.contains(name)).collect()
    }

    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
