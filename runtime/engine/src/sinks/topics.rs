//! Which topics a sink means.

/// A topic's name as Kafka's subscription takes it: a pattern becomes a regular expression.
pub(super) fn subscription(topic: &str) -> String {
    if !topic.contains('*') {
        return topic.to_owned();
    }
    let mut regex = String::from("^");
    for c in topic.chars() {
        match c {
            '*' => regex.push_str(".*"),
            '.' => regex.push_str("\\."),
            c => regex.push(c),
        }
    }
    regex.push('$');
    regex
}

/// Whether a sink's topic, a name or a pattern with `*`, means this one.
pub(crate) fn is_meant(topic: &str, name: &str) -> bool {
    let Some((first, rest)) = topic.split_once('*') else { return topic == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut pieces = rest.split('*').peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return left.ends_with(piece);
        }
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_becomes_a_regular_expression_and_a_name_stays() {
        assert_eq!(subscription("orders"), "orders");
        assert_eq!(subscription("machine-*"), "^machine-.*$");
        assert_eq!(subscription("a.b*"), "^a\\.b.*$");
    }

    #[test]
    fn a_pattern_means_what_its_regular_expression_matches() {
        for (topic, means, not) in [
            ("orders", &["orders"][..], &["orders2", "order"][..]),
            ("machine-*", &["machine-", "machine-7"], &["machine", "a-machine-7"]),
            ("*", &["", "anything"], &[]),
            ("a*b*c", &["abc", "a1b2c", "abbc"], &["ab", "acb", "abcd"]),
        ] {
            assert!(means.iter().all(|name| is_meant(topic, name)), "{topic}");
            assert!(!not.iter().any(|name| is_meant(topic, name)), "{topic}");
        }
    }
}
