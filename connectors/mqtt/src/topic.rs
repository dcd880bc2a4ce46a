//! Topic filters, what their wildcards matched, and templates made of that.
//!
//! Source: MQTT 5.0, section 4.7 (topic names and filters).

use millrace_config::Reason;
pub use millrace_kit::template::{Template, push_level};
use std::fmt;

/// A topic filter: levels divided by `/`, `+` for one level, `#` for the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    text: Box<str>,
    levels: Box<[Level]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Text(Box<str>),
    Any,
    Rest,
}

/// The longest topic or filter that fits on the wire.
pub const LONGEST: usize = 65_535;

impl Filter {
    /// Reads a filter. Errors: one line for a person.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        if text.is_empty() {
            return Err("a filter is never empty; `#` is everything".into());
        }
        if text.len() > LONGEST {
            return Err(format!("a filter has at most {LONGEST} bytes, this one has {}", text.len()).into());
        }
        if text.contains('\0') {
            return Err("a filter holds no NUL character".into());
        }
        if text.starts_with("$share/") {
            return Err("write the filter alone, and `share: NAME` beside `connections`".into());
        }
        let mut levels = Vec::new();
        for level in text.split('/') {
            if levels.last() == Some(&Level::Rest) {
                return Err(format!("`#` in `{text}` must be the last level").into());
            }
            levels.push(match level {
                "+" => Level::Any,
                "#" => Level::Rest,
                other if other.contains(['+', '#']) => {
                    return Err(format!("a wildcard in `{text}` must fill its level: `+` or `#`, not `{other}`").into());
                }
                other => Level::Text(other.into()),
            });
        }
        Ok(Self { text: text.into(), levels: levels.into() })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many wildcards it has: `{1}` to `{n}` exist.
    pub fn wildcards(&self) -> usize {
        self.levels.iter().filter(|level| !matches!(level, Level::Text(_))).count()
    }

    /// The level at this index, where it is a text.
    pub fn literal(&self, index: usize) -> Option<&str> {
        match self.levels.get(index) {
            Some(Level::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// What each wildcard matched, from left to right; `None` if the topic does not match. `#` yields the rest with its levels, perhaps empty.
    pub fn captures<'t>(&self, topic: &'t str) -> Option<Vec<&'t str>> {
        let starts_with_wildcard = !matches!(self.levels.first(), Some(Level::Text(_)));
        if starts_with_wildcard && topic.starts_with('$') {
            return None;
        }
        let mut captures = Vec::new();
        let mut rest = Some(topic);
        for level in &self.levels {
            if *level == Level::Rest {
                captures.push(rest.unwrap_or(""));
                return Some(captures);
            }
            let (head, tail) = match rest?.split_once('/') {
                Some((head, tail)) => (head, Some(tail)),
                None => (rest?, None),
            };
            match level {
                Level::Text(text) if **text == *head => {}
                Level::Text(_) => return None,
                _ => captures.push(head),
            }
            rest = tail;
        }
        rest.is_none().then_some(captures)
    }

    pub fn matches(&self, topic: &str) -> bool {
        self.captures(topic).is_some()
    }

    /// Whether a topic can exist that both match.
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut left = self.levels.iter();
        let mut right = other.levels.iter();
        loop {
            match (left.next(), right.next()) {
                (None, None) | (Some(Level::Rest), _) | (_, Some(Level::Rest)) => return true,
                (Some(Level::Text(a)), Some(Level::Text(b))) if a != b => return false,
                (Some(_), Some(_)) => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What the templates of a subscription are given beside the payload, by their numbers: `{topic}`, the whole topic, is [`TOPIC`]; what the wildcards
/// matched, `{1}`, `{2}`.., have their own.
pub const TOPIC: usize = 0;

impl Filter {
    /// The names of what its templates are given, in the order of their numbers.
    pub fn given(&self) -> Vec<String> {
        std::iter::once("topic".to_owned()).chain((1..=self.wildcards()).map(|n| n.to_string())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captures(filter: &str, topic: &str) -> Option<String> {
        Filter::parse(filter).unwrap().captures(topic).map(|c| c.join("|"))
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        // MQTT 5.0, 4.7.1.2 and 4.7.1.3 (the non-normative examples), 4.7.2 ($ topics).
        let table = [
            ("sport/tennis/player1/#", "sport/tennis/player1", Some("")),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", Some("ranking")),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", Some("score/wimbledon")),
            ("sport/#", "sport", Some("")),
            ("sport/#", "sports", None),
            ("#", "a/b", Some("a/b")),
            ("sport/tennis/+", "sport/tennis/player1", Some("player1")),
            ("sport/tennis/+", "sport/tennis/player1/ranking", None),
            ("sport/+", "sport", None),
            ("sport/+", "sport/", Some("")),
            ("+/+", "/finance", Some("|finance")),
            ("/+", "/finance", Some("finance")),
            ("+", "/finance", None),
            ("#", "$SYS/uptime", None),
            ("+/monitor/Clients", "$SYS/monitor/Clients", None),
            ("$SYS/#", "$SYS/uptime", Some("uptime")),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", Some("Clients")),
            ("a/+/c/#", "a/b/c/d/e", Some("b|d/e")),
            ("a/b", "a/b", Some("")),
            ("a/b", "a/b/c", None),
            ("a/b/c", "a/b", None),
        ];
        for (filter, topic, expected) in table {
            assert_eq!(captures(filter, topic).as_deref(), expected, "{filter} on {topic}");
        }
    }

    #[test]
    fn a_wrong_filter_says_what_is_wrong() {
        for (text, part) in [
            ("", "never empty"),
            ("a/#/b", "last level"),
            ("a/b#", "must fill its level"),
            ("a+/b", "must fill its level"),
            ("a\0", "NUL"),
            ("$share/g/a", "share: NAME"),
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn overlapping_filters_are_seen() {
        for (a, b, expected) in [
            ("a/+", "a/b", true),
            ("a/+", "+/b", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/+", "b/+", false),
            ("a/+", "a/b/c", false),
            ("a/+/state", "a/+/value", false),
        ] {
            let (a, b) = (Filter::parse(a).unwrap(), Filter::parse(b).unwrap());
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (expected, expected), "{a} and {b}");
        }
    }

    #[test]
    fn a_filter_gives_its_topic_and_what_its_wildcards_match() {
        assert_eq!(Filter::parse("a/+/b/#").unwrap().given(), ["topic", "1", "2"]);
        assert_eq!(Filter::parse("a/b").unwrap().given(), ["topic"]);
    }
}
