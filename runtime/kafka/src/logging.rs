//! librdkafka's own log lines, into tracing: levels that mean something, repeats summarised.
//!
//! librdkafka logs a broken connection as an error, again and again. Nothing is lost by it, and whoever uses the client says that Kafka is away, once,
//! in words of ours: such lines are for whoever looks for the cause. Of others each is said once, and again after a minute, with the number of times
//! it was left out.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const QUIET: Duration = Duration::from_secs(60);
/// Different lines remembered; beyond that the oldest go.
const REMEMBERED: usize = 128;

/// What a client says, in the name of `client`.
pub(crate) struct LogBridge {
    client: String,
    said: Mutex<HashMap<String, Said>>,
}

struct Said {
    at: Instant,
    left_out: u32,
}

impl LogBridge {
    pub fn new(client: impl Into<String>) -> Self {
        Self { client: client.into(), said: Mutex::default() }
    }

    /// Says one of librdkafka's lines; `level` is syslog's.
    pub fn say(&self, level: i32, facility: &str, text: &str) {
        let level = match facility {
            // A property of producers given to a consumer: the user's properties are for both.
            "CONFWARN" => 7,
            // A connection: told by an event, too, and said by whoever has the client.
            "FAIL" | "ERROR" | "REQTMOUT" | "SESSTMOUT" | "BUFQ" | "MAXPOLL" if level > 2 => 6,
            _ => level,
        };
        if level > 6 {
            tracing::trace!(target: "kafka", client = self.client, facility, "{text}");
            return;
        }
        let Some(left_out) = self.may_say(facility, text, Instant::now()) else { return };
        let again = if left_out > 0 { format!(" ({left_out} times more)") } else { String::new() };
        match level {
            ..=2 => tracing::error!(target: "kafka", client = self.client, facility, "librdkafka says: {text}{again}"),
            3 | 4 => tracing::warn!(target: "kafka", client = self.client, facility, "librdkafka says: {text}{again}"),
            _ => tracing::debug!(target: "kafka", client = self.client, facility, "{text}{again}"),
        }
    }

    /// Whether the line may be said now, and how often it was left out before.
    fn may_say(&self, facility: &str, text: &str, now: Instant) -> Option<u32> {
        let line = without_numbers(facility, text);
        let mut said = self.said.lock();
        if let Some(before) = said.get_mut(&line) {
            if now.duration_since(before.at) < QUIET {
                before.left_out += 1;
                return None;
            }
            before.at = now;
            return Some(std::mem::take(&mut before.left_out));
        }
        if said.len() >= REMEMBERED {
            said.retain(|_, s| now.duration_since(s.at) < QUIET);
        }
        if said.len() >= REMEMBERED {
            said.clear();
        }
        said.insert(line, Said { at: now, left_out: 0 });
        Some(0)
    }
}

/// The line with every number left out ("after 12ms in state UP"), so that repeats are equal; ports are left out too, and that is well.
fn without_numbers(facility: &str, text: &str) -> String {
    let mut line = String::with_capacity(facility.len() + 1 + text.len());
    line.push_str(facility);
    line.push(' ');
    line.extend(text.chars().filter(|c| !c.is_ascii_digit()));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_within_a_minute_is_counted_and_not_said() {
        let bridge = LogBridge::new("test");
        let start = Instant::now();
        assert_eq!(bridge.may_say("FAIL", "broker down after 3ms", start), Some(0));
        assert_eq!(bridge.may_say("FAIL", "broker down after 7ms", start + Duration::from_secs(1)), None);
        assert_eq!(bridge.may_say("FAIL", "broker down after 9ms", start + Duration::from_secs(2)), None);
        assert_eq!(bridge.may_say("FAIL", "another line", start), Some(0));
        assert_eq!(bridge.may_say("FAIL", "broker down after 1ms", start + Duration::from_secs(62)), Some(2));
    }

    #[test]
    fn many_different_lines_are_not_remembered_for_ever() {
        let bridge = LogBridge::new("test");
        let now = Instant::now();
        for i in 0..1000u32 {
            let letters: String = i.to_string().bytes().map(|b| (b + 49) as char).collect();
            bridge.may_say("X", &letters, now);
        }
        assert!(bridge.said.lock().len() <= REMEMBERED);
    }
}
