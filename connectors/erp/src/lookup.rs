//! What became of entities that a reading did not meet: the ERP is asked for each of them by its key.
//!
//! ```text
//! $select=Plant,Order&$filter=(Plant eq '1010' and Order eq '4711') or (..)
//! ```
//!
//! With a filter of the set's own two questions are asked: which of them are within it, and which of the others are there at all.
//!
//! Invariants: an entity is gone only by an answer that is whole, of status 200, to a question that names it; a key that cannot be asked for counts as
//! there. So no page that was cut, no row that was shifted out of sight and none that came meanwhile becomes a tombstone.

use crate::metadata::Version;
use crate::pass::Visited;
use crate::reading::{Mode, Reading, Trouble};
use crate::service::escape;
use millrace_kit::http::Url;
use millrace_schemas::Batch;
use std::collections::HashSet;

/// Keys in one question, and bytes of it: servers and proxies bound the length of a URL.
const MOST_KEYS: usize = 40;
const MOST_BYTES: usize = 1_400;

/// What became of an entity that was known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    There,
    /// It is there, but not within the set's filter any more.
    LeftFilter,
    Gone,
}

impl Reading {
    /// What became of each of these keys, in their order.
    pub(crate) async fn fates(&self, keys: &[Vec<u8>]) -> Result<Vec<Fate>, Trouble> {
        let mut fates = vec![Fate::There; keys.len()];
        let (mut asked, mut bytes) = (Vec::new(), 0);
        for (n, key) in keys.iter().enumerate() {
            let Some(condition) = self.asking.as_ref().and_then(|asking| asking.condition(key, self.version)) else { continue };
            let length = escape(&condition).len() + " or ".len();
            if !asked.is_empty() && (asked.len() == MOST_KEYS || bytes + length > MOST_BYTES) {
                self.ask_for(&asked, keys, &mut fates).await?;
                asked.clear();
                bytes = 0;
            }
            bytes += length;
            asked.push((n, condition));
        }
        if !asked.is_empty() {
            self.ask_for(&asked, keys, &mut fates).await?;
        }
        Ok(fates)
    }

    /// `asked`: indexes of keys, and how each is asked for.
    async fn ask_for(&self, asked: &[(usize, String)], keys: &[Vec<u8>], fates: &mut [Fate]) -> Result<(), Trouble> {
        let all: Vec<&(usize, String)> = asked.iter().collect();
        let within = self.found(&all, self.set.filter.as_deref()).await?;
        let missing: Vec<_> = all.into_iter().filter(|(n, _)| !within.contains(&keys[*n])).collect();
        let there = match self.set.filter.is_some() && !missing.is_empty() {
            true => self.found(&missing, None).await?,
            false => HashSet::new(),
        };
        for (n, _) in missing {
            fates[*n] = if there.contains(&keys[*n]) { Fate::LeftFilter } else { Fate::Gone };
        }
        Ok(())
    }

    /// The keys of those that are there, within a filter.
    async fn found(&self, asked: &[&(usize, String)], within: Option<&str>) -> Result<HashSet<Vec<u8>>, Trouble> {
        let mut filter = asked.iter().map(|(_, condition)| condition.as_str()).collect::<Vec<_>>().join(" or ");
        if let Some(within) = within {
            filter = format!("({within}) and ({filter})");
        }
        let mut url = self.keys_url(Some(&filter), false);
        let (mut found, mut scratch, mut visited) = (HashSet::new(), Batch::new(), Visited::default());
        let wrong = |what: &str| Trouble::set(format!("{}, asked for entities by their keys, answers with {what}", self.set.name), true);
        loop {
            let came = self.come(self.ask(&url, Mode::Water), &url, Mode::Water).await?;
            for row in came.page.rows(&came.text) {
                scratch.clear();
                let key = self.key_of(row, &mut scratch).ok_or_else(|| wrong("one whose key cannot be read"))?;
                found.insert(scratch.bytes_of(key).to_vec());
            }
            // Upper and lower case may be the same to it; but nothing else is.
            if found.len() > 2 * asked.len() {
                return Err(wrong("others: it does not look at the filter"));
            }
            let next = came.page.next.as_ref().map(|link| self.linked(&url, link)).transpose()?;
            self.leads_on(&mut visited, &url, next.as_ref())?;
            match next {
                Some(next) => url = next,
                None => return Ok(found),
            }
        }
    }

    /// Where the keys are read, and nothing else.
    pub(crate) fn keys_url(&self, filter: Option<&str>, is_counted: bool) -> Url {
        let own = self.record.keys.iter().map(|index| &self.record.fields[*index].name);
        let mut names: Vec<&str> = Vec::new();
        for name in own.chain(&self.key_names) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let select = names.join(",");
        let mut query = vec![("$select", select.as_str())];
        query.extend(filter.map(|filter| ("$filter", filter)));
        match self.version {
            Version::V4 if is_counted => query.push(("$count", "true")),
            Version::V2 if is_counted => query.push(("$inlinecount", "allpages")),
            _ => {}
        }
        if self.version == Version::V2 {
            query.push(("$format", "json"));
        }
        self.service.url(&self.set.name, &query)
    }
}
