//! Names of Kafka topics that come out of data: what a device may write to.

use millrace_config::{Problems, Reason, Spanned};

/// Kafka's own topics and Millrace's: no name out of data may be one of them.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with("__") || name.starts_with("millrace.") || name == "millrace"
}

/// The longest name of a Kafka topic.
const LONGEST: usize = 249;

/// Whether Kafka takes this name of a topic. Errors: why not.
pub fn check_name(name: &str) -> Result<(), Reason> {
    let shown = || name.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    if name.is_empty() || name == "." || name == ".." {
        Err(format!("`{name}` is no name of a Kafka topic").into())
    } else if let Some(c) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-".contains(*c)) {
        Err(format!("`{}` is no name of a Kafka topic: `{}` is not allowed in it", shown(), c.escape_debug()).into())
    } else if name.len() > LONGEST {
        Err(format!("`{}` is no name of a Kafka topic: longer than {LONGEST} characters", shown()).into())
    } else {
        Ok(())
    }
}

/// The key `allow_topics`: patterns of the names that data may choose; none: any that is not reserved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AllowedTopics(Option<Box<[Box<str>]>>);

impl AllowedTopics {
    /// Checks the key.
    pub fn compile(patterns: Option<&Vec<Spanned<String>>>, problems: &mut Problems) -> Self {
        let Some(patterns) = patterns else { return Self::default() };
        for pattern in patterns {
            let fixed = pattern.split('*').next().unwrap_or_default();
            if pattern.is_empty() || is_reserved(pattern) || !fixed.is_empty() && is_reserved(fixed) {
                problems.error(pattern.place, format!("`{}` allows names that are Kafka's or Millrace's own", pattern.value));
            }
        }
        Self(Some(patterns.iter().map(|pattern| pattern.as_str().into()).collect()))
    }

    /// Whether data may choose this name. Errors: why not, for a dead letter.
    pub fn check(&self, name: &str) -> Result<(), Reason> {
        check_name(name)?;
        if is_reserved(name) {
            return Err(format!("the topic `{name}` is Kafka's or Millrace's own: data may not choose it").into());
        }
        match &self.0 {
            Some(patterns) if !patterns.iter().any(|pattern| matches(pattern, name)) => {
                Err(format!("the topic `{name}` is not in `allow_topics`").into())
            }
            _ => Ok(()),
        }
    }
}

/// Whether a name fits a pattern in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut last = None;
    for piece in pieces {
        if let Some(middle) = last.replace(piece) {
            match rest.find(middle) {
                Some(at) => rest = &rest[at + middle.len()..],
                None => return false,
            }
        }
    }
    last.map_or(rest.is_empty(), |last: &str| rest.ends_with(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_chooses_only_what_it_may() {
        let any = AllowedTopics::default();
        assert_eq!(any.check("press.state"), Ok(()));
        for reserved in ["__consumer_offsets", "millrace.cursors", "millrace.tags"] {
            assert!(any.check(reserved).unwrap_err().contains("data may not choose it"));
        }
        let long = "x".repeat(250);
        for wrong in ["", "..", "a b", "über", "a/b", &*long] {
            assert!(any.check(wrong).unwrap_err().contains("is no name of a Kafka topic"), "{wrong}");
        }
        let patterns = ["press.*".to_owned(), "a*c*e".into(), "one".into()].map(Spanned::from).to_vec();
        let some = AllowedTopics::compile(Some(&patterns), &mut Problems::new());
        for name in ["press.", "press.1", "ace", "abcde", "one"] {
            assert_eq!(some.check(name), Ok(()), "{name}");
        }
        for name in ["pres", "ae", "ones", "xone", "abcd"] {
            assert!(some.check(name).is_err(), "{name}");
        }
        let mut problems = Problems::new();
        AllowedTopics::compile(Some(&vec![Spanned::from("millrace.*".to_owned())]), &mut problems);
        assert_eq!(problems.iter().count(), 1);
    }
}
