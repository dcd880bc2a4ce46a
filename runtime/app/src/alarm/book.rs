//! Which alarms stand, and what is to be told of them: a table and a clock, no I/O.
//!
//! ```text
//! found ─▶ stands ─ for `hold` ─▶ told: raised ─ each `repeat` ─▶ told: repeated
//!             │ gone before                      │ gone for `hold`
//!             ▼                                  ▼
//!           nothing                        told: recovered
//! ```
//!
//! In a maintenance window nothing is told; what still stands at its end is told then, and what was told before and is over, too.

use millrace_config::factory::AlarmLevel;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// `source/press-1/blocked`: the same thing has the same id.
    pub id: String,
    pub level: AlarmLevel,
    pub text: String,
    /// What to do.
    pub help: String,
}

/// An alarm that stands. Times in microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub level: AlarmLevel,
    pub text: String,
    pub help: String,
    pub since: i64,
    /// Last told; `None`: not yet.
    pub told: Option<i64>,
    /// Since when it is gone; `None`: it is there.
    pub gone: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Raised,
    Repeated,
    Recovered,
    Test,
}

impl Event {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Repeated => "still there",
            Self::Recovered => "over",
            Self::Test => "test",
        }
    }
}

/// What is told of one alarm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message {
    pub id: String,
    pub event: Event,
    pub level: AlarmLevel,
    pub text: String,
    pub help: String,
    /// Since when it is wrong, microseconds since 1970.
    pub since: i64,
    pub time: i64,
}

/// Every alarm that stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Book(pub BTreeMap<String, Standing>);

fn micros(period: Duration) -> i64 {
    i64::try_from(period.as_micros()).unwrap_or(i64::MAX)
}

impl Book {
    /// Takes what is found now; returns what is to be told.
    pub fn turn(&mut self, found: Vec<Condition>, now: i64, hold: Duration, repeat: Duration, is_quiet: bool) -> Vec<Message> {
        for standing in self.0.values_mut() {
            standing.gone.get_or_insert(now);
        }
        for Condition { id, level, text, help } in found {
            let new = Standing { level, text, help, since: now, told: None, gone: None };
            let standing = self.0.entry(id).or_insert_with(|| new.clone());
            *standing = Standing { since: standing.since, told: standing.told, ..new };
        }
        let mut told = Vec::new();
        self.0.retain(|id, standing| {
            let has_passed = |since: i64, period: Duration| now.saturating_sub(since) >= micros(period);
            let event = match (standing.gone, standing.told) {
                (Some(_), None) => return false,
                (Some(gone), Some(_)) if has_passed(gone, hold) => Event::Recovered,
                (None, None) if has_passed(standing.since, hold) => Event::Raised,
                (None, Some(last)) if has_passed(last, repeat) => Event::Repeated,
                _ => return true,
            };
            if is_quiet {
                return true;
            }
            standing.told = Some(now);
            let Standing { level, text, help, since, .. } = standing.clone();
            told.push(Message { id: id.clone(), event, level, text, help, since, time: now });
            event != Event::Recovered
        });
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn turn(book: &mut Book, found: &[&str], at: i64, is_quiet: bool) -> Vec<(String, Event)> {
        let condition =
            |id: &&str| Condition { id: (*id).to_owned(), level: AlarmLevel::Warning, text: "wrong".into(), help: "mend it".into() };
        let found = found.iter().map(condition).collect();
        let told = book.turn(found, at * SECOND, Duration::from_secs(30), Duration::from_secs(3600), is_quiet);
        told.into_iter().map(|message| (message.id, message.event)).collect()
    }

    #[test]
    fn an_alarm_is_told_when_it_lasts_again_while_it_does_and_when_it_is_over() {
        let mut book = Book::default();
        let told = |event| vec![("a".to_owned(), event)];
        assert_eq!(turn(&mut book, &["a"], 0, false), []);
        assert_eq!(turn(&mut book, &["a"], 29, false), []);
        assert_eq!(turn(&mut book, &["a"], 30, false), told(Event::Raised));
        assert_eq!(turn(&mut book, &["a"], 3000, false), []);
        assert_eq!(turn(&mut book, &["a"], 3630, false), told(Event::Repeated));
        assert_eq!(turn(&mut book, &[], 3640, false), []);
        assert_eq!(turn(&mut book, &["a"], 3660, false), [], "it was gone for a moment only");
        assert_eq!(turn(&mut book, &[], 3700, false), []);
        assert_eq!(turn(&mut book, &[], 3730, false), told(Event::Recovered));
        assert_eq!(turn(&mut book, &[], 9999, false), []);
        assert!(book.0.is_empty());
    }

    #[test]
    fn what_comes_and_goes_at_once_wakes_nobody() {
        let mut book = Book::default();
        for at in 0..100 {
            let found: &[&str] = if at % 20 < 10 { &["a"] } else { &[] };
            assert_eq!(turn(&mut book, found, at, false), []);
        }
    }

    #[test]
    fn in_maintenance_nothing_is_told_and_what_lasts_is_told_afterwards() {
        let mut book = Book::default();
        turn(&mut book, &["a", "b"], 0, false);
        assert_eq!(turn(&mut book, &["a", "b"], 30, false).len(), 2);
        assert_eq!(turn(&mut book, &["b", "c"], 60, true), []);
        assert_eq!(turn(&mut book, &["b", "c"], 600, true), []);
        let told = turn(&mut book, &["b", "c"], 700, false);
        assert_eq!(told, [("a".to_owned(), Event::Recovered), ("c".to_owned(), Event::Raised)]);
    }
}
