//! A data directory that was damaged while nobody looked: every file, in several ways.
//!
//! `BROKER_CAMPAIGN=1000` goes through all of them so often, `BROKER_CAMPAIGN_SEED=N` begins at another seed (one seed, one round).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_log::{KeepFree, ReadBuf};

use crate::broker::Broker;
use crate::clock::now;
use crate::start::Options;
use crate::storage::batch::{Header, sample};

const BATCHES: u64 = 400;
const RECORDS: u64 = 50;
const FAULTS: [&str; 6] = ["a bit", "16 bytes", "4 KiB of zeros", "truncated", "garbage behind", "gone"];

async fn start(dir: &Path) -> Arc<Broker> {
    let options = Options {
        dir: dir.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        sync: Duration::from_millis(200),
        keep_free: KeepFree::Bytes(0),
        security: None,
    };
    Broker::start(options).await.unwrap_or_else(|e| panic!("the broker does not start: {e}"))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

fn copy_dir(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
}

/// Offsets of the batches that a reader gets.
fn offsets(broker: &Broker, index: i32) -> Vec<u64> {
    let partition = broker.topics.partition("t", index).unwrap();
    let (mut buf, mut from, mut found) = (ReadBuf::new(), partition.start(), Vec::new());
    loop {
        let mut out = Vec::new();
        let next = partition.read(from, partition.end(), 64 << 10, true, &mut buf, &mut out).unwrap();
        let mut rest = &out[..];
        while !rest.is_empty() {
            let len = 12 + i32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
            // A marker is no batch that a producer might have sent.
            if !Header::read(&rest[..len]).expect("a batch has a header").is_control() {
                let header = Header::check(&rest[..len]).expect("a batch that is served is whole");
                found.push(header.base_offset as u64);
            }
            rest = &rest[len..];
        }
        if next == from {
            assert_eq!(next, partition.end(), "a reader comes to the end");
            return found;
        }
        from = next;
    }
}

async fn filled(dir: &Path) {
    let broker = start(dir).await;
    let topic = broker.topics.create("t", 2, BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())])).await.unwrap();
    let batch = sample(RECORDS as i32, (-1, -1, -1), false);
    let header = Header::check(&batch).unwrap();
    for index in 0..2 {
        let partition = broker.topics.partition_of(&topic, index).unwrap();
        for _ in 0..BATCHES {
            partition.append(&header, &batch, &topic.config(), now(), || Ok(())).unwrap();
        }
    }
    broker.transactions.new_producer().await.unwrap();
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_costs_the_batches_it_hit_and_nothing_else() {
    let original = tempfile::tempdir().unwrap();
    filled(original.path()).await;
    let id = std::fs::read_to_string(original.path().join("cluster")).unwrap();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    let (seed, rounds) = (number("BROKER_CAMPAIGN_SEED").unwrap_or(now), number("BROKER_CAMPAIGN").unwrap_or(1));
    println!("BROKER_CAMPAIGN_SEED={seed} BROKER_CAMPAIGN={rounds}");
    let mut faults = 0;
    for seed in seed..seed + rounds {
        faults += round(original.path(), id.trim(), seed).await;
    }
    println!("{faults} faults");
}

/// Every file once in every way; returns how many faults that were.
async fn round(original: &Path, id: &str, seed: u64) -> usize {
    let mut state = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    let names: Vec<PathBuf> = files(original).iter().map(|file| file.strip_prefix(original).unwrap().to_owned()).collect();
    let faults = names.len() * FAULTS.len();
    for name in names {
        for fault in FAULTS {
            let is_segment = name.extension().is_some_and(|extension| extension == "seg");
            let is_data = is_segment && (name.starts_with("logs/t-0") || name.starts_with("logs/t-1"));
            // What is not there cannot be told from what never was.
            let is_cut = is_data && matches!(fault, "truncated" | "gone");
            let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            copy_dir(original, dir.path());
            let path = dir.path().join(&name);
            let mut bytes = std::fs::read(&path).unwrap();
            let at = random(bytes.len());
            match fault {
                "a bit" if !bytes.is_empty() => bytes[at] ^= 1 << random(8),
                "16 bytes" => bytes.iter_mut().skip(at).take(16).for_each(|byte| *byte = random(256) as u8),
                "4 KiB of zeros" => bytes.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0),
                "truncated" => bytes.truncate(at),
                "garbage behind" => bytes.extend((0..500).map(|_| random(256) as u8)),
                _ => {}
            }
            match fault {
                "gone" => std::fs::remove_file(&path).unwrap(),
                _ => std::fs::write(&path, bytes).unwrap(),
            }
            let case = format!("BROKER_CAMPAIGN_SEED={seed}: {fault} at {at} of {}", name.display());
            for again in 0..2 {
                let broker = start(dir.path()).await;
                let topic = broker.topics.get("t").unwrap_or_else(|| panic!("{case}: the topic is gone"));
                assert_eq!((topic.partition_count(), topic.config().retention), (2, None), "{case}");
                assert_eq!(broker.cluster_id, id, "{case}");
                let missing: u64 = (0..2).map(|index| BATCHES - offsets(&broker, index).len() as u64).sum();
                // 4 KiB hit nine batches of some 500 bytes, and one more at each end.
                let most = if is_cut {
                    BATCHES
                } else if is_data {
                    11
                } else {
                    0
                };
                assert!(missing <= most, "{case}: {missing} batches are missing");
                let counted: u64 =
                    broker.damage().iter().filter(|(place, _)| place.starts_with("partition")).map(|(_, one)| one.records).sum();
                if again == 0 && !is_cut {
                    assert_eq!(counted, missing * RECORDS, "{case}: {:?}", broker.damage());
                }
                broker.stop().await.unwrap();
            }
        }
    }
    faults
}

#[tokio::test(flavor = "multi_thread")]
async fn producer_ids_are_not_given_out_again_when_their_journal_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut given = Vec::new();
    for _ in 0..3 {
        let broker = start(dir.path()).await;
        given.push(broker.transactions.new_producer().await.unwrap());
        broker.stop().await.unwrap();
        std::fs::remove_dir_all(dir.path().join("logs/transactions")).unwrap();
    }
    assert!(given.is_sorted_by(|a, b| a < b), "{given:?}");
}

/// The marker of a committed transaction is hit: its records stay committed, and readers come past the place.
#[tokio::test(flavor = "multi_thread")]
async fn a_committed_transaction_whose_marker_is_lost_stays_committed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let topic = broker.topics.create("t", 1, BTreeMap::new()).await.unwrap();
    let partition = broker.topics.partition_of(&topic, 0).unwrap();
    let who = broker.init_producer("id", 60_000, None).await.unwrap();
    broker.transactions.add_partitions("id", who, &[("t".to_owned(), 0)]).await.unwrap();
    let batch = sample(RECORDS as i32, (who.producer_id, who.epoch, 0), true);
    partition.append(&Header::check(&batch).unwrap(), &batch, &topic.config(), now(), || Ok(())).unwrap();
    broker.end_transaction("id", who, true).await.unwrap();
    assert_eq!((partition.stable(), partition.end()), (RECORDS + 1, RECORDS + 1));

    // As kill -9 leaves it: no checkpoint of the partition.
    let killed = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), killed.path());
    let segment = files(killed.path())
        .into_iter()
        .find(|file| file.starts_with(killed.path().join("logs/t-0")) && file.extension().is_some_and(|e| e == "seg"));
    let segment = segment.expect("the partition has a segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    let marker = bytes.iter().rposition(|byte| *byte != 0).unwrap() - 4;
    bytes[marker] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let again = start(killed.path()).await;
    let partition = again.topics.partition("t", 0).unwrap();
    assert_eq!(partition.damage().records, 1, "the marker: {:?}", partition.damage());
    assert_eq!(partition.stable(), partition.end(), "nothing is open");
    assert!(partition.aborted(0, partition.end()).iter().all(|one| one.producer_id != who.producer_id), "it was committed");
    assert_eq!(offsets(&again, 0)[0], 0);
    again.stop().await.unwrap();
    broker.stop().await.unwrap();
}
