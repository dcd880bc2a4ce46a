//! Where the reading of one entity set is: what moves with the rows, in the log.

use serde::{Deserialize, Serialize};

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

    /// The position of an earlier session; of another query, or none: all is read.
    pub fn resume(bytes: Option<Vec<u8>>, query: &str) -> Self {
        let kept = bytes.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok()).filter(|position| position.query == query);
        kept.unwrap_or_else(|| Self { query: query.to_owned(), load: Some(Load::default()), ..Self::default() })
    }

    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
