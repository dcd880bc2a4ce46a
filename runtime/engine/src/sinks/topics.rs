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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_becomes_a_regular_expression_and_a_name_stays() {
        assert_eq!(subscription("orders"), "orders");
        assert_eq!(subscription("machine-*"), "^machine-.*$");
        assert_eq!(subscription("a.b*"), "^a\\.b.*$");
    }
}
