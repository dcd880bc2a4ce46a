//! Where records of one partition lie at the target: pairs of offsets, exact for the newest, coarser further back.

use millrace_contract::Offset;

/// The newest pairs are all kept; the gap between two others is no wider than the newer of them is far back.
const NEWEST: usize = 4;
/// Pairs of one partition.
const KEPT: usize = 64;

/// The offset of a record at home and at the target.
pub type Pair = (Offset, Offset);

/// Adds a pair to the others, the newest first, and thins the old ones.
pub fn add(pairs: &mut Vec<Pair>, new: Pair) {
    if pairs.first().is_some_and(|newest| newest.0 >= new.0) {
        return;
    }
    pairs.insert(0, new);
    let back = |pair: &Pair| new.0 - pair.0;
    let mut kept: Vec<Pair> = Vec::with_capacity(pairs.len());
    for (at, pair) in pairs.iter().enumerate() {
        // Without it, would the gap be wider than it is far back?
        let is_needed = match (kept.last(), pairs.get(at + 1)) {
            (Some(newer), Some(older)) => back(older) - back(newer) > back(newer),
            _ => true,
        };
        if at < NEWEST || is_needed {
            kept.push(*pair);
        }
    }
    *pairs = kept;
    pairs.truncate(KEPT);
}

/// Where a group goes on at the target that has committed this offset at home.
pub fn translate(pairs: &[Pair], committed: Offset) -> Option<Offset> {
    let (home, target) = pairs.iter().find(|(home, _)| *home <= committed)?;
    Some(if *home == committed { *target } else { target + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_translation_repeats_and_never_skips_nor_passes_what_is_copied() {
        // Of every third record at home, and with marks of transactions at the target.
        let mut pairs = Vec::new();
        let copied: Vec<Pair> = (0..5_000).map(|n| (n * 3, n + n / 100)).collect();
        for pair in copied.iter().filter(|(home, _)| home % 7 == 0) {
            add(&mut pairs, *pair);
        }
        assert!((8..=KEPT).contains(&pairs.len()), "{}", pairs.len());
        let newest = pairs[0];
        for committed in 0..16_000 {
            let Some(there) = translate(&pairs, committed) else {
                assert!(committed < pairs[pairs.len() - 1].0);
                continue;
            };
            // The first record that the group has not read, at the target.
            let next = copied.iter().find(|(home, _)| *home >= committed).map_or(i64::MAX, |(_, target)| *target);
            assert!(there <= next, "{committed}: {there} skips {next}");
            assert!(there <= newest.1 + 1, "{committed}: {there}");
        }
        assert_eq!(translate(&pairs, newest.0), Some(newest.1));
        assert_eq!(translate(&pairs, newest.0 + 1), Some(newest.1 + 1));
        assert_eq!(translate(&[], 5), None);
    }

    #[test]
    fn how_far_back_a_pair_lies_says_how_near_the_next_one_is() {
        let mut pairs = Vec::new();
        (0..100_000).step_by(10).for_each(|n| add(&mut pairs, (n, n)));
        for back in [0, 10, 100, 1_000, 10_000] {
            let committed = 99_990 - back;
            let there = translate(&pairs, committed).unwrap();
            assert!(committed - there <= 2 * back + 10, "{back}: {there}");
        }
    }
}
