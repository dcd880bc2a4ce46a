//! A campaign of faults: one damaged file after the other, and no more is lost than the batches touched.
//!
//! Each case writes a log, ends it (closed, or as kill -9 does), damages one file, and opens it again. Whatever the damage is: the log opens; every batch
//! that was not touched is read, bit for bit, and none that was never written; what is lost is counted exactly; appends go on.
//!
//! `LOG_CAMPAIGN=100000` runs so many cases, `LOG_CAMPAIGN_SEED=N` begins at another seed (one seed, one case).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use millrace_log::{KeepFree, Log, LogOptions, ReadBuf, Recovery, Store, StoreOptions};

const CASES: u64 = 600;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Damage {
    Flip,
    Flips16,
    Zeros,
    Truncation,
    Garbage,
    Deletion,
}

/// A batch as it was written: records, payload, file, position in it, bytes with the header.
struct Written {
    records: u32,
    payload: Vec<u8>,
    at: Option<(PathBuf, u64, u64)>,
}

fn open(dir: &Path, segment_bytes: u64) -> (Store, Log, Recovery) {
    let options = StoreOptions { keep_free: KeepFree::Bytes(0), syncers: 0, ..StoreOptions::default() };
    let store = Store::open(dir, options).expect("no damage to a log stops the store");
    let (log, recovery) = store.log("a", LogOptions { segment_bytes, ..LogOptions::default() }).expect("no damage stops a log");
    (store, log, recovery)
}

fn read_all(log: &Log) -> BTreeMap<u64, (u32, Vec<u8>)> {
    let (mut buf, mut from, mut all) = (ReadBuf::new(), 0, BTreeMap::new());
    while log.read(from, 64 << 10, &mut buf).expect("what is damaged is passed over") > 0 {
        for batch in buf.batches() {
            from = batch.next;
            all.insert(batch.first, (batch.records, batch.payload.to_vec()));
        }
    }
    all
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("a")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "seg"));
    files.sort();
    files
}

/// Says where each batch stands, by its payload.
fn locate(dir: &Path, written: &mut BTreeMap<u64, Written>) {
    for file in segments(dir) {
        let bytes = fs::read(&file).unwrap();
        let mut at = 64;
        while at + 44 <= bytes.len() {
            let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
            let first = u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap());
            let span = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap());
            if span > 0 {
                written.get_mut(&first).expect("a batch that was written").at = Some((file.clone(), at as u64, 44 + len as u64));
            }
            at += 44 + len;
        }
    }
}

/// Damages one file; returns the bytes touched, as ranges of the old file.
fn damage(what: Damage, file: &Path, rng: &mut fastrand::Rng) -> Vec<(u64, u64)> {
    let mut bytes = fs::read(file).unwrap();
    let len = bytes.len() as u64;
    let mut touched = Vec::new();
    match what {
        Damage::Flip | Damage::Flips16 => {
            for _ in 0..if what == Damage::Flip { 1 } else { 16 } {
                let at = rng.u64(0..len);
                bytes[at as usize] ^= rng.u8(1..);
                touched.push((at, at + 1));
            }
        }
        Damage::Zeros => {
            let from = rng.u64(0..len);
            let to = (from + rng.u64(1..=4096)).min(len);
            bytes[from as usize..to as usize].fill(0);
            touched.push((from, to));
        }
        Damage::Truncation => {
            let to = rng.u64(0..len);
            bytes.truncate(to as usize);
            touched.push((to, len));
        }
        Damage::Garbage => {
            let more = rng.usize(1..5000);
            bytes.extend(std::iter::repeat_with(|| rng.u8(..)).take(more));
        }
        Damage::Deletion => {
            fs::remove_file(file).unwrap();
            return vec![(0, len)];
        }
    }
    fs::write(file, bytes).unwrap();
    touched
}

fn case(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    // In memory where there is such a file system: what a disk does with an fdatasync is not the question here.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let segment_bytes = [4 << 10, 32 << 10, 1 << 20][rng.usize(..3)];
    let (store, log, _) = open(dir.path(), segment_bytes);
    let mut written = BTreeMap::new();
    for _ in 0..rng.usize(1..120) {
        let longest = [40, 400, 4000][rng.usize(..3)];
        let (span, len) = (rng.u64(1..50), rng.usize(0..longest));
        let first = log.end() + if rng.u8(..8) == 0 { rng.u64(..1000) } else { 0 };
        let records = rng.u32(1..=span as u32);
        let payload: Vec<u8> = if rng.bool() { vec![rng.u8(..); len] } else { std::iter::repeat_with(|| rng.u8(..)).take(len).collect() };
        log.append(first, first + span, records, &[&payload]).unwrap();
        written.insert(first, Written { records, payload, at: None });
        match rng.u8(..20) {
            0..4 => log.sync().unwrap(),
            4 => log.save_cursors().unwrap(),
            _ => {}
        }
    }
    let is_closed = rng.bool();
    if is_closed {
        store.close().unwrap();
    }
    drop((log, store));
    locate(dir.path(), &mut written);

    let what = [Damage::Flip, Damage::Flips16, Damage::Zeros, Damage::Truncation, Damage::Garbage, Damage::Deletion][rng.usize(..6)];
    let mut files = segments(dir.path());
    files.extend(["a/cursors.0", "a/cursors.1", ".boot"].map(|name| dir.path().join(name)).into_iter().filter(|path| path.exists()));
    let victim = files[rng.usize(..files.len())].clone();
    let is_last = segments(dir.path()).last() == Some(&victim);
    let touched = damage(what, &victim, &mut rng);
    let hint = format!("seed {seed}: {what:?} of {touched:?} in {}, closed {is_closed}", victim.display());

    let is_touched = |at: &Option<(PathBuf, u64, u64)>| {
        let (file, pos, len) = at.as_ref().expect("every batch stands in a segment");
        *file == victim && touched.iter().any(|(from, to)| *from < pos + len && *pos < *to)
    };
    // Where nothing but the salt was proof of a segment's only batch, the header is a part of that batch.
    let header_hit = touched.iter().map(|(from, to)| (*to).min(64).saturating_sub(*from)).sum::<u64>() > 1;
    let batches_in = |file: &Path| written.values().filter(|batch| batch.at.as_ref().is_some_and(|(f, ..)| f == file)).count();
    let may_be_lost = |batch: &Written| {
        let survivors = || written.values().filter(|b| b.at.as_ref().is_some_and(|(f, ..)| *f == victim) && !is_touched(&b.at)).count();
        is_touched(&batch.at)
            || batch.at.as_ref().is_some_and(|(file, ..)| *file == victim) && header_hit && (batches_in(&victim) < 2 || survivors() < 2)
    };

    let (store, log, recovery) = open(dir.path(), segment_bytes);
    let read = read_all(&log);
    for (first, (records, payload)) in &read {
        let batch = written.get(first).unwrap_or_else(|| panic!("{hint}: a batch at {first} that nobody wrote"));
        assert!(
            batch.records == *records && batch.payload == *payload,
            "{hint}: the batch at {first} is another: {records} records and {} bytes instead of {} and {}; {recovery:?}",
            payload.len(),
            batch.records,
            batch.payload.len()
        );
    }
    let lost: u64 = written.iter().filter(|(first, _)| !read.contains_key(first)).map(|(_, batch)| u64::from(batch.records)).sum();
    for (first, batch) in &written {
        assert!(read.contains_key(first) || may_be_lost(batch), "{hint}: the batch at {first} was not touched, and is gone; {recovery:?}");
    }
    // A log that was not closed has nothing that says how much was in the last segment's end.
    if is_closed || !is_last {
        let counted = recovery.records_lost.map(|recovered| recovered + log.faults().records_lost);
        assert_eq!(counted, Some(lost), "{hint}: {recovery:?} {:?}", log.faults());
    }
    let end = log.end();
    assert!(!is_closed || end >= written.last_key_value().map_or(0, |(first, _)| first + 1), "{hint}: offsets would be used again");
    log.append(end, end + 1, 1, &[b"goes on"]).unwrap_or_else(|e| panic!("{hint}: {e}"));
    log.sync().unwrap();
    store.close().unwrap();
    drop((log, store));

    let (_store, log, again) = open(dir.path(), segment_bytes);
    assert!(again.quarantined.is_empty() && again.records_lost == Some(0), "{hint}: said once, {again:?}");
    let mut expected = read;
    expected.insert(end, (1, b"goes on".to_vec()));
    assert!(read_all(&log) == expected, "{hint}: another start finds what the first one found");
}

/// A header, and with it all batches of its segment but the footer: they were counted twice. A header and its only batch, a payload of one byte over and over:
/// two places in it were made alike, which passed for two batches that agree.
#[test]
fn what_was_wrong_before_is_right() {
    [172861385525, 200638].into_iter().for_each(case);
}

#[test]
fn no_fault_costs_more_than_the_batches_it_touches() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("LOG_CAMPAIGN_SEED").unwrap_or_else(|| fastrand::u64(..1 << 40));
    let cases = number("LOG_CAMPAIGN").unwrap_or(CASES);
    println!("LOG_CAMPAIGN_SEED={seed} LOG_CAMPAIGN={cases}");
    (seed..seed + cases).for_each(case);
}
