//! "did you mean": the nearest of the names that would have been right.

/// The candidate nearest to what was written, if any is near enough.
pub fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let fold = |text: &str| text.chars().filter(|c| !matches!(c, '_' | '-' | '.' | ' ')).flat_map(char::to_lowercase).collect::<String>();
    let folded = fold(written);
    let bound = match folded.chars().count() {
        0 | 1 => 0,
        2..=4 => 1,
        5..=8 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .filter(|candidate| *candidate != written)
        .map(|candidate| (strsim::damerau_levenshtein(&folded, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// What to do about a name that is not among the candidates.
pub fn help<'a>(written: &str, what: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(written, candidates.clone()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => {
            let all: Vec<_> = candidates.into_iter().collect();
            match all.len() {
                0 => format!("there are no {what} here"),
                _ => format!("{what}: {}", list(&all)),
            }
        }
    }
}

/// `a`, `b` and `c`, cut where it gets long.
pub fn list(names: &[&str]) -> String {
    const SHOWN: usize = 24;
    let mut text = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(", and {} more", names.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_a_far_one_is_not() {
        assert_eq!(nearest("dedband", ["deadband", "every"]), Some("deadband"));
        assert_eq!(nearest("atLeastEvery", ["at_least_every"]), Some("at_least_every"));
        assert_eq!(nearest("endpiont", ["endpoint", "every"]), Some("endpoint"));
        assert_eq!(nearest("colour", ["endpoint", "every"]), None);
    }
}
