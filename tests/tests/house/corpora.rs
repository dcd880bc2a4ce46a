//! Every fuzz target's corpus is replayed by the ordinary tests, so that what was once found stays found.

use super::root;
use std::collections::BTreeSet;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

fn names_in(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(root().join("tests/fuzz").join(folder)).unwrap_or_else(|error| panic!("tests/fuzz/{folder}: {error}"));
    entries
        .map(|entry| entry.expect("a folder can be read").path().file_stem().expect("a file has a name").to_string_lossy().into_owned())
        .collect()
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let named: BTreeSet<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names_in("fuzz_targets"), named, "left: files in tests/fuzz/fuzz_targets, right: TARGETS");
    assert_eq!(names_in("corpus"), named, "left: folders in tests/fuzz/corpus, right: TARGETS");
}

#[test]
fn every_corpus_is_replayed() {
    for (name, _) in targets::TARGETS {
        let mut replayed = 0;
        for entry in std::fs::read_dir(root().join("tests/fuzz/corpus").join(name)).expect("every target has a corpus") {
            let file = entry.expect("a folder can be read").path();
            let bytes = std::fs::read(&file).expect("a corpus' file can be read");
            let outcome = std::panic::catch_unwind(|| targets::run(name, &bytes));
            assert!(outcome.is_ok(), "{name} panics on {}", file.display());
            replayed += 1;
        }
        assert!(replayed > 0, "the corpus of {name} is empty");
    }
}

/// A short run with made-up input, seeded, for those who have no nightly compiler.
#[test]
fn every_target_bears_what_grows_out_of_its_corpus() {
    let mut random = fastrand::Rng::with_seed(7);
    for (name, _) in targets::TARGETS {
        let folder = root().join("tests/fuzz/corpus").join(name);
        let seeds: Vec<Vec<u8>> = std::fs::read_dir(folder)
            .expect("every target has a corpus")
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        for round in 0..2_000 {
            let mut bytes = seeds[random.usize(..seeds.len())].clone();
            for _ in 0..=random.usize(..4) {
                mutate(&mut bytes, &mut random);
            }
            let outcome = std::panic::catch_unwind(|| targets::run(name, &bytes));
            assert!(outcome.is_ok(), "{name} panics in round {round} on {bytes:02x?}");
        }
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let at = random.usize(..bytes.len().max(1));
    match random.u8(..5) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.u8(..8),
        1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][random.usize(..5)],
        2 => bytes.truncate(at),
        3 => bytes.insert(at.min(bytes.len()), random.u8(..)),
        _ if !bytes.is_empty() => {
            let end = (at + random.usize(..16)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => {}
    }
}
