//! Repeats are summarised: the same complaint is said at once, then at growing distances, with how often it came in between.

use std::collections::HashMap;
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(10);
const LAST: Duration = Duration::from_secs(600);
/// Complaints remembered at once; beyond it, all are forgotten and said again.
const MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Repeats(HashMap<String, Said>);

#[derive(Debug)]
struct Said {
    next: Instant,
    distance: Duration,
    held_back: u64,
}

impl Repeats {
    /// Whether to say it now: how often it came since it was last said (1: the first time).
    pub fn say(&mut self, text: &str) -> Option<u64> {
        self.say_at(text, Instant::now())
    }

    fn say_at(&mut self, text: &str, now: Instant) -> Option<u64> {
        if let Some(said) = self.0.get_mut(text) {
            said.held_back += 1;
            if now < said.next {
                return None;
            }
            said.distance = (said.distance * 2).min(LAST);
            said.next = now + said.distance;
            return Some(std::mem::take(&mut said.held_back));
        }
        if self.0.len() >= MAX {
            self.0.clear();
        }
        self.0.insert(text.to_owned(), Said { next: now + FIRST, distance: FIRST, held_back: 0 });
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_is_held_back_and_counted() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        assert_eq!(repeats.say_at("refused", start), Some(1));
        assert_eq!(repeats.say_at("refused", start + Duration::from_secs(1)), None);
        assert_eq!(repeats.say_at("other", start + Duration::from_secs(1)), Some(1));
        assert_eq!(repeats.say_at("refused", start + Duration::from_secs(11)), Some(2));
        assert_eq!(repeats.say_at("refused", start + Duration::from_secs(12)), None);
    }
}
