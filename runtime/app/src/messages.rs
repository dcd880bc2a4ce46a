//! The last warnings and errors, kept in memory for the console and `bundle`: what a person would look for in the messages.

use millrace_otlp::Said;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt::{Debug, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// So many are kept, each cut to so many bytes.
const KEPT: usize = 500;
const LENGTH_MAX: usize = 2000;

struct Message {
    /// Microseconds since 1970.
    time: i64,
    level: &'static str,
    text: String,
}

struct Last {
    kept: VecDeque<Message>,
    /// The number of the next.
    next: u64,
}

static LAST: Mutex<Last> = Mutex::new(Last { kept: VecDeque::new(), next: 0 });

/// Keeps warnings and errors beside wherever else they go.
pub struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            _ => return,
        };
        let mut words = Words::default();
        event.record(&mut words);
        let mut text = words.message + &words.fields;
        if let Some((end, _)) = text.char_indices().find(|(at, _)| *at >= LENGTH_MAX) {
            text.truncate(end);
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if last.kept.len() == KEPT {
            last.kept.pop_front();
        }
        last.kept.push_back(Message { time, level, text });
        last.next += 1;
    }
}

#[derive(Default)]
struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// The newest first: `[{time, level, message}]`.
pub fn last() -> Value {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.kept.iter().rev().map(|message| json!({ "time": message.time, "level": message.level, "message": message.text })).collect()
}

/// From a number on, so many at most, the oldest first.
pub fn since(number: u64, most: usize) -> Said {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let first = last.next - last.kept.len() as u64;
    let from = number.clamp(first, last.next);
    let found = last.kept.iter().skip(usize::try_from(from - first).unwrap_or(usize::MAX)).take(most);
    let message =
        |message: &Message| millrace_otlp::Message { time: message.time, is_error: message.level == "error", text: message.text.clone() };
    let messages: Vec<_> = found.map(message).collect();
    Said { next: from + messages.len() as u64, missed: from - number.min(from), messages }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn warnings_and_errors_are_kept_the_newest_first_and_no_more_than_so_many() {
        let subscriber = tracing_subscriber::registry().with(Keep);
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..KEPT + 10 {
                tracing::warn!(source = "press", n, "it is late");
            }
            tracing::info!("all is well");
            tracing::error!("{}", "x".repeat(10_000));
        });
        let (said, total) = (since(5, 3), KEPT as u64 + 11);
        assert_eq!((said.missed, said.next, said.messages.len()), (total - KEPT as u64 - 5, total - KEPT as u64 + 3, 3));
        let said = since(total - 1, 10);
        assert_eq!((said.missed, said.next, said.messages.len(), said.messages[0].is_error), (0, total, 1, true));
        assert_eq!(since(total, 10), Said { next: total, ..Said::default() });
        let last = last();
        let last = last.as_array().unwrap();
        assert_eq!(last.len(), KEPT);
        assert_eq!((last[0]["level"].as_str(), last[0]["message"].as_str().map(str::len)), (Some("error"), Some(LENGTH_MAX)));
        assert_eq!(last[1]["message"], format!("it is late source=\"press\" n={}", KEPT + 9));
    }
}
