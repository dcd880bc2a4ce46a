//! Names: of Kafka topics, of sources and sinks, of the site.

use crate::tree::reason::Reason;

/// Kafka's own limit for a topic's name; sources and sinks keep to it, because topics and groups are named after them.
const MAX_CHARS: usize = 249;

/// A Kafka topic's name as written, with `/` as `.`; an error says what Kafka refuses.
pub fn topic(written: &str) -> Result<String, Reason> {
    let name = written.replace('/', ".");
    match plain("topic", &name) {
        Ok(()) => Ok(name),
        Err(message) => Err(message),
    }
}

/// Checks the name of a source or sink.
pub fn connector(what: &str, name: &str) -> Result<(), Reason> {
    plain(what, name)
}

fn plain(what: &str, name: &str) -> Result<(), Reason> {
    if name.is_empty() {
        return Err(format!("the {what} has an empty name; give it one").into());
    }
    if let Some(refused) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return Err(format!("the {what} name `{name}` has a `{refused}` in it; letters, digits, `.`, `_` and `-` are allowed").into());
    }
    if name == "." || name == ".." {
        return Err(format!("`{name}` is not a {what} name; Kafka refuses it").into());
    }
    if name.len() > MAX_CHARS {
        return Err(format!("the {what} name is {} characters long; {MAX_CHARS} are allowed", name.len()).into());
    }
    Ok(())
}

/// Checks `enterprise/site`.
pub(crate) fn site(site: &str) -> Result<(), Reason> {
    let levels: Vec<&str> = site.split('/').collect();
    if levels.len() != 2 || levels.iter().any(|level| level.is_empty()) {
        return Err(format!("`{site}` is not an enterprise and a site; write both, as in `acme/detroit`").into());
    }
    if let Some(refused) = site.chars().find(|c| c.is_control() || matches!(c, '{' | '}' | '#' | '+' | '%' | '*' | ' ')) {
        return Err(format!(
            "the site `{site}` has a `{refused}` in it; it begins every tag's path, so letters, digits and `-` serve best"
        )
        .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_in_a_topic_becomes_a_dot() {
        assert_eq!(topic("acme/detroit/orders").unwrap(), "acme.detroit.orders");
        for name in ["", "..", "a b", "ü", &"x".repeat(250)] {
            assert!(topic(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_site_has_two_levels() {
        assert!(site("acme/detroit").is_ok());
        for text in ["acme", "acme/", "/x", "a/b/c", "a/b#"] {
            assert!(site(text).is_err(), "{text}");
        }
    }
}
