//! What failed by itself and is tried again by itself, ever more slowly: a node that is not there, a block that was refused.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Waits between tries: doubled from the first to the longest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub most: Duration,
}

impl Backoff {
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most }
    }

    /// The wait after one of `wait`.
    pub fn after(&self, wait: Option<Duration>) -> Duration {
        wait.map_or(self.first, |wait| (wait * 2).min(self.most))
    }
}

#[derive(Clone, Debug)]
struct Failed<Why> {
    why: Why,
    again: Instant,
    wait: Duration,
}

/// Items that failed, each with why and when it is tried again.
#[derive(Clone, Debug)]
pub struct Retries<Item, Why> {
    backoff: Backoff,
    items: BTreeMap<Item, Failed<Why>>,
}

impl<Item: Ord + Clone, Why> Retries<Item, Why> {
    pub const fn new(backoff: Backoff) -> Self {
        Self { backoff, items: BTreeMap::new() }
    }

    /// An item failed, for the first time or again.
    pub fn failed(&mut self, item: Item, why: Why) {
        let wait = self.backoff.after(self.items.get(&item).map(|failed| failed.wait));
        self.items.insert(item, Failed { why, again: Instant::now() + wait, wait });
    }

    /// An item is known to have failed in an earlier process, which no longer tries: it is due at once.
    pub fn handed_down(&mut self, item: Item, why: Why) {
        self.items.insert(item, Failed { why, again: Instant::now(), wait: self.backoff.first });
    }

    /// An item works. Says why it did not, where it had failed.
    pub fn succeeded(&mut self, item: &Item) -> Option<Why> {
        self.items.remove(item).map(|failed| failed.why)
    }

    /// What is to be tried again now.
    pub fn due(&self) -> Vec<Item> {
        let now = Instant::now();
        self.items.iter().filter(|(_, failed)| failed.again <= now).map(|(item, _)| item.clone()).collect()
    }

    /// Whether an item failed and is not to be tried again yet.
    pub fn is_resting(&self, item: &Item) -> bool {
        self.items.get(item).is_some_and(|failed| failed.again > Instant::now())
    }

    /// When the next item is due.
    pub fn next(&self) -> Option<Instant> {
        self.items.values().map(|failed| failed.again).min()
    }

    pub fn contains(&self, item: &Item) -> bool {
        self.items.contains_key(item)
    }

    pub fn why(&self, item: &Item) -> Option<&Why> {
        self.items.get(item).map(|failed| &failed.why)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Item, &Why)> {
        self.items.iter().map(|(item, failed)| (item, &failed.why))
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn clear(&mut self) {
        self.items.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_due_ever_more_slowly_and_alone() {
        let secs = Duration::from_secs;
        let mut retries = Retries::new(Backoff::new(secs(1), secs(4)));
        retries.failed("a", 1);
        tokio::time::advance(secs(1)).await;
        retries.failed("b", 2);
        assert_eq!(retries.due(), ["a"]);
        for wait in [2, 4, 4] {
            retries.failed("a", 1);
            assert!(!retries.due().contains(&"a"));
            tokio::time::advance(secs(wait)).await;
            assert!(retries.due().contains(&"a"));
        }
        assert_eq!((retries.succeeded(&"a"), retries.succeeded(&"a")), (Some(1), None));
        retries.handed_down("c", 3);
        assert_eq!((retries.due(), retries.len()), (vec!["b", "c"], 2));
    }
}
