//! Names with `*` in them.

/// Whether a name fits a pattern: `*` stands for anything, a pattern without a site fits below any.
pub(crate) fn matches(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first).or_else(|| {
        let below_site = name.splitn(3, '/').nth(2)?;
        below_site.strip_prefix(first)
    }) else {
        return false;
    };
    let mut is_open = false;
    for part in parts {
        is_open = part.is_empty();
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty() || is_open
}

/// Whether a subject (a tag's path, or a topic) of a source is of the tags or the source that somebody named; no name means all.
pub(crate) fn is_of(source: &str, subject: &str, name: &str) -> bool {
    name.is_empty() || matches(subject, name) || matches(source, name) || source.rsplit('/').next() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_whole_names_and_names_below_the_site() {
        assert!(matches("acme/plant/body/press-1/temperature", "body/press-1/temperature"));
        assert!(matches("acme/plant/body/press-1/temperature", "body/*"));
        assert!(matches("acme/plant/body/press-1/temperature", "*/temperature"));
        assert!(matches("acme/plant/body/press-1/temperature", "acme/plant/*"));
        assert!(!matches("acme/plant/body/press-1/temperature", "body/press-1"));
        assert!(!matches("acme/plant/body/press-1/temperature", "*/force"));
    }
}
