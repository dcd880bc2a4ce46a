//! Topic filters, what their wildcards matched, and templates made of that.
//!
//! Source: MQTT 5.0, section 4.7 (topic names and filters).

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
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a filter is never empty; `#` is everything".into());
        }
        if text.len() > LONGEST {
            return Err(format!("a filter has at most {LONGEST} bytes, this one has {}", text.len()));
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
                return Err(format!("`#` in `{text}` must be the last level"));
            }
            levels.push(match level {
                "+" => Level::Any,
                "#" => Level::Rest,
                other if other.contains(['+', '#']) => {
                    return Err(format!("a wildcard in `{text}` must fill its level: `+` or `#`, not `{other}`"));
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

/// A text with variables in braces; `V` is what the variables mean where it is used.
#[derive(Clone, Debug, PartialEq)]
pub struct Template<V> {
    parts: Vec<Part<V>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part<V> {
    Text(Box<str>),
    Variable(V),
}

impl<V> Template<V> {
    /// Reads a template; `variable` says what a name in braces means, or why it means nothing.
    pub fn parse(text: &str, mut variable: impl FnMut(&str) -> Result<V, String>) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            if rest.as_bytes()[open] == b'}' {
                return Err(format!("`}}` without `{{` in `{text}`"));
            }
            let close = rest[open..].find('}').ok_or_else(|| format!("`{{` is never closed in `{text}`"))? + open;
            if open > 0 {
                parts.push(Part::Text(rest[..open].into()));
            }
            parts.push(Part::Variable(variable(&rest[open + 1..close])?));
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Self { parts })
    }

    /// The variables it uses, in order.
    pub fn variables(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(variable) => Some(variable),
            Part::Text(_) => None,
        })
    }

    /// The whole text, where it has no variables.
    pub fn constant(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the text; `value` appends that of a variable, or says why it has none.
    pub fn render<E>(&self, out: &mut Vec<u8>, mut value: impl FnMut(&V, &mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => value(variable, out)?,
            }
        }
        Ok(())
    }
}

/// Appends a value as one level: a `/` in it becomes `%2F`.
pub fn push_level(out: &mut Vec<u8>, value: &[u8]) {
    let mut rest = value;
    while let Some(slash) = memchr::memchr(b'/', rest) {
        out.extend_from_slice(&rest[..slash]);
        out.extend_from_slice(b"%2F");
        rest = &rest[slash + 1..];
    }
    out.extend_from_slice(rest);
}

/// What stands in braces in the templates of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `{topic}`: the whole MQTT topic, with its levels.
    Topic,
    /// `{1}`, `{2}`: what the wildcards matched, counted from 1.
    Capture(usize),
    /// `{/order/id}`: a JSON Pointer into the payload.
    Pointer(Box<str>),
}

impl Variable {
    /// Reads a variable of a subscription with this filter.
    pub fn parse(name: &str, filter: &Filter) -> Result<Self, String> {
        if name == "topic" {
            return Ok(Self::Topic);
        }
        if name.starts_with('/') {
            return Ok(Self::Pointer(name.into()));
        }
        match (name.parse::<usize>(), filter.wildcards()) {
            (Ok(n), count) if (1..=count).contains(&n) => Ok(Self::Capture(n - 1)),
            (Ok(n), 0) => Err(format!("`{{{n}}}`: the filter `{filter}` has no wildcard")),
            (Ok(n), count) => Err(format!("`{{{n}}}`: the filter `{filter}` has {count} wildcards, `{{1}}` to `{{{count}}}`")),
            (Err(_), _) => {
                Err(format!("`{{{name}}}` is unknown here; there are `{{topic}}`, `{{1}}`, `{{2}}`.. and JSON pointers like `{{/id}}`"))
            }
        }
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

    fn rendered(filter: &str, template: &str, topic: &str) -> Result<String, String> {
        let filter = Filter::parse(filter)?;
        let template = Template::parse(template, |name| Variable::parse(name, &filter))?;
        let captures = filter.captures(topic).ok_or("no match")?;
        let mut out = Vec::new();
        template.render(&mut out, |variable, out| match variable {
            Variable::Topic => {
                out.extend_from_slice(topic.as_bytes());
                Ok(())
            }
            Variable::Capture(n) => {
                push_level(out, captures[*n].as_bytes());
                Ok(())
            }
            Variable::Pointer(pointer) => Err(format!("pointer {pointer}")),
        })?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn templates_put_captures_in_and_keep_levels_only_of_the_topic() {
        assert_eq!(rendered("f/+/+/v", "{1}/{2}", "f/a/b/v").unwrap(), "a/b");
        assert_eq!(rendered("f/#", "x/{1}", "f/a/b").unwrap(), "x/a%2Fb");
        assert_eq!(rendered("f/#", "x/{topic}", "f/a/b").unwrap(), "x/f/a/b");
        assert_eq!(rendered("f/#", "plain", "f/a").unwrap(), "plain");
    }

    #[test]
    fn a_wrong_template_says_what_is_wrong() {
        for (filter, template, part) in [
            ("a/+", "{2}", "has 1 wildcards"),
            ("a/b", "{1}", "has no wildcard"),
            ("a/+", "{0}", "`{0}`"),
            ("a/+", "{name}", "unknown here"),
            ("a/+", "{1", "never closed"),
            ("a/+", "1}", "without"),
        ] {
            let error = rendered(filter, template, "a/b").unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        }
    }
}
