//! What a reading holds while it goes through pages: those that were read, and how far a comparison of keys is.

use crate::watermark::fingerprint;
use millrace_kit::http::Url;
use std::collections::HashSet;
use std::hash::RandomState;
use std::time::Duration;
use tokio::time::Instant;

/// A comparison under way.
pub(crate) struct Pass {
    pub state: RandomState,
    /// Of the known keys that were not met yet.
    pub unmet: HashSet<u64>,
    pub base: Url,
    /// The page to be read next.
    pub next: Option<Url>,
    pub visited: Visited,
    pub rows: u64,
    pub of: Option<u64>,
    /// Once all pages were read: the pieces in which what was not met is looked for, the newest last.
    pub pieces: Option<Vec<String>>,
    pub told: u64,
}

/// Why the keys could not be compared, and when that is tried again.
#[derive(Debug)]
pub(crate) struct Unreconciled {
    pub why: String,
    pub wait: Duration,
    pub not_before: Instant,
}

/// The pages that were read, so that links that lead in a circle are found.
#[derive(Default)]
pub(crate) struct Visited(HashSet<u64>);

impl Visited {
    /// A page was read. Whether the one behind it was read already.
    pub fn leads_back(&mut self, url: &Url, next: Option<&Url>) -> bool {
        let print = |url: &Url| fingerprint(url.as_str().as_bytes(), b"");
        self.0.insert(print(url));
        next.is_some_and(|next| self.0.contains(&print(next)))
    }
}
