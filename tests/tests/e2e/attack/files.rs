//! A data directory with the embedded broker and registry in it, damaged while nobody runs: one file after the other.

use super::{Campaign, never_panicked};
use crate::load::*;
use millrace_tests::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const COUNT: u64 = 2_000;
/// Rounds at least, however slow the machine is.
const ROUNDS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    Flip,
    Flips16,
    Zeros,
    Truncation,
    Garbage,
    Deletion,
}

const DAMAGES: [Damage; 6] = [Damage::Flip, Damage::Flips16, Damage::Zeros, Damage::Truncation, Damage::Garbage, Damage::Deletion];

impl Damage {
    fn does(self, file: &Path, rng: &mut fastrand::Rng) {
        if self == Damage::Deletion {
            return std::fs::remove_file(file).expect("a file can be removed");
        }
        let mut bytes = std::fs::read(file).expect("a file can be read");
        match self {
            Damage::Flip | Damage::Flips16 if !bytes.is_empty() => {
                for _ in 0..if self == Damage::Flip { 1 } else { 16 } {
                    let at = rng.usize(..bytes.len());
                    bytes[at] ^= 1 << rng.u8(..8);
                }
            }
            Damage::Zeros => {
                let from = rng.usize(..=bytes.len());
                bytes[from..].iter_mut().take(4096).for_each(|byte| *byte = 0);
            }
            Damage::Truncation => bytes.truncate(rng.usize(..=bytes.len())),
            Damage::Garbage => bytes.extend(std::iter::repeat_with(|| rng.u8(..)).take(500)),
            _ => {}
        }
        std::fs::write(file, bytes).expect("a file can be written");
    }
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the data can be listed").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(all_files(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    for file in all_files(from) {
        let target = to.join(file.strip_prefix(from).expect("it lies in the folder"));
        std::fs::create_dir_all(target.parent().expect("a file lies in a folder")).expect("a folder can be made");
        std::fs::copy(&file, target).expect("a file can be copied");
    }
}

/// Records that the embedded broker says it could not read.
fn damaged_records(millrace: &Millrace) -> u64 {
    let metrics = millrace.metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix("millrace_broker_damaged_records ")).expect("the metric is there");
    line.trim().parse().expect("a number")
}

#[test]
fn no_damaged_file_of_the_data_directory_stops_the_runtime_or_costs_what_it_does_not_hold() {
    let kafka = Kafka::inside(free_port());
    let factory = Factory::on(&kafka).with("listen", kafka.brokers()).with("registry", free_port());
    let (factory, topic) = counters(factory, &kafka, COUNT, "2000/s");
    let mut millrace = factory.start(&format!(
        "kafka: {{brokers: embedded, embedded: {{listen: \"$listen\"}}, delivery: exactly_once}}\n\
         schemas: {{registry: embedded, listen: \"127.0.0.1:$registry\"}}\n{COUNTERS}"
    ));
    finished(&millrace, COUNT);
    millrace.stop();
    let (data, whole) = (millrace.data_dir(), millrace.dir().join("whole"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&data.metadata().expect("the data is there").permissions());
    assert_eq!(mode & 0o077, 0, "the data is its owner's alone: {mode:o}");
    copy(&data, &whole);
    let names: Vec<PathBuf> =
        all_files(&whole).iter().map(|file| file.strip_prefix(&whole).expect("it lies in the folder").to_owned()).collect();
    let mut campaign = Campaign::begin("damaged files");
    let (mut rounds, mut hit) = (0, BTreeSet::new());
    while rounds < ROUNDS || campaign.goes_on() {
        copy(&whole, &data);
        let name = campaign.rng.choice(&names).expect("there are files");
        let damage = campaign.rng.choice(DAMAGES).expect("there are some");
        damage.does(&data.join(name), &mut campaign.rng);
        let case = format!("ATTACK_SEED={}, round {rounds}: {damage:?} of {}", campaign.seed, name.display());
        println!("{case}");
        millrace.launch();
        millrace.wait_alive();
        eventually(&format!("{case}: the source has run"), || {
            matches!(millrace.word("load").as_str(), "Stopped" | "Running").then_some(())
        });
        millrace.drained("load");
        let values: BTreeSet<(String, u64)> = kafka
            .read(&topic)
            .iter()
            .map(|record| record.json())
            .map(|sample| (sample["tag"].as_str().unwrap_or_default().to_owned(), sample["value"].as_u64().unwrap_or(u64::MAX)))
            .collect();
        let missing = COUNT.saturating_sub(values.len() as u64);
        let of_the_topic = name.display().to_string().contains(&format!("broker/logs/{topic}"));
        // What a file no longer holds at its end cannot be told from what never was.
        if of_the_topic && !matches!(damage, Damage::Truncation | Damage::Deletion) {
            assert!(missing <= damaged_records(&millrace), "{case}: {missing} values are gone, {} are said", damaged_records(&millrace));
        } else if !of_the_topic {
            assert_eq!(missing, 0, "{case}: values are gone that the file did not hold");
        }
        if damaged_records(&millrace) > 0 {
            let status = millrace.status();
            assert!(status["troubles"].as_array().is_some_and(|all| all.iter().any(|one| one["what"] == "embedded broker")), "{case}");
        }
        millrace.stop();
        never_panicked(&millrace);
        rounds += 1;
        hit.insert(name);
    }
    println!("{rounds} rounds, {} of {} files", hit.len(), names.len());
}
