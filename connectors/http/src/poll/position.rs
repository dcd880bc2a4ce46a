//! What was read of a request, as it lies in the log beside the records.
//!
//! ```text
//! {"w": the watermark of the last whole reading, "seen": [hashes of the records read since, of those at the watermark, of those without]}
//! ```
//!
//! The watermark moves when the last page is read. Until then records are known by their content: a reading that was cut in its middle begins again and
//! passes over them. Servers that take `since` as inclusive give those at the watermark again: they are known, too.

use millrace_kit::records::content_hash;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// So many records are known by their content; more in one reading may come twice after a kill.
const MOST_SEEN: usize = 20_000;

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    #[serde(rename = "w", skip_serializing_if = "Option::is_none")]
    watermark: Option<String>,
    /// By content, with the watermark of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    seen: BTreeMap<String, String>,
    /// The highest of this reading so far.
    #[serde(skip)]
    highest: Option<String>,
}

impl Position {
    pub fn read(bytes: Option<Vec<u8>>) -> Self {
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    pub fn watermark(&self) -> Option<&str> {
        self.watermark.as_deref()
    }

    /// A reading begins.
    pub fn begin(&mut self) {
        self.highest.clone_from(&self.watermark);
    }

    /// A record comes by; false: it was read before.
    pub fn record(&mut self, content: &[u8], watermark: &str) -> bool {
        if self.highest.as_ref().is_none_or(|highest| order(watermark, highest) == Ordering::Greater) {
            self.highest = Some(watermark.to_owned());
        }
        self.is_new(content, watermark)
    }

    /// A record without a watermark comes by; false: it was read before.
    pub fn unmarked(&mut self, content: &[u8]) -> bool {
        self.is_new(content, "")
    }

    fn is_new(&mut self, content: &[u8], watermark: &str) -> bool {
        let name = format!("{:032x}", content_hash(content));
        if self.seen.contains_key(&name) {
            return false;
        }
        if self.seen.len() < MOST_SEEN {
            self.seen.insert(name, watermark.to_owned());
        }
        true
    }

    /// The last page was read.
    pub fn end(&mut self) {
        self.watermark.clone_from(&self.highest);
        if let Some(watermark) = &self.watermark {
            self.seen.retain(|_, at| at.is_empty() || order(at, watermark) == Ordering::Equal);
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The order of watermarks: numbers as numbers, times as times, else texts as texts.
fn order(a: &str, b: &str) -> Ordering {
    if let (Ok(a), Ok(b)) = (a.parse::<i128>(), b.parse::<i128>()) {
        return a.cmp(&b);
    }
    if let (Ok(a), Ok(b)) = (a.parse::<jiff::Timestamp>(), b.parse::<jiff::Timestamp>()) {
        return a.cmp(&b);
    }
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.total_cmp(&b),
        _ => a.cmp(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_is_the_highest_of_all_pages_and_what_stands_at_it_is_known() {
        let mut position = Position::default();
        position.begin();
        for (content, watermark) in [("a", "9"), ("b", "10"), ("c", "2")] {
            assert!(position.record(content.as_bytes(), watermark));
        }
        assert_eq!(position.watermark(), None, "until the last page");
        // Killed here, it begins again.
        let mut position = Position::read(Some(position.bytes()));
        position.begin();
        assert!(!position.record(b"a", "9") && !position.record(b"b", "10") && position.record(b"d", "10"));
        position.end();
        assert_eq!(position.watermark(), Some("10"));
        position.begin();
        assert!(!position.record(b"b", "10") && !position.record(b"d", "10") && position.record(b"e", "10"));
        assert_eq!(order("2026-01-01T00:00:00+01:00", "2026-01-01T00:00:00Z"), Ordering::Less);
        assert_eq!(order("abc", "abd"), Ordering::Less);
    }
}
