//! Looking at a log from outside, repairing it, and taking it elsewhere.

use std::path::{Path, PathBuf};

use millrace_log::{KeepFree, LogOptions, Store, StoreError, StoreOptions, offline};

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions { keep_free: KeepFree::Bytes(0), ..StoreOptions::default() }).unwrap()
}

fn filled(dir: &Path) -> Store {
    let store = open(dir);
    let (log, _) = store.log("a/b", LogOptions { segment_bytes: 2000, ..LogOptions::default() }).unwrap();
    for i in 0..20u64 {
        log.append(i * 10, i * 10 + 5, 5, &[&[i as u8; 300]]).unwrap();
    }
    log.set_cursor("kafka", 42, b"note");
    log.sync().unwrap();
    log.save_cursors().unwrap();
    store
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join("a%2Fb")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "seg"));
    files.sort();
    files
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_log_is_listed_and_verified_beside_the_process_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    assert_eq!(offline::logs(dir.path()).unwrap(), ["a/b"]);
    for listing in [offline::list(dir.path(), "a/b").unwrap(), offline::verify(dir.path(), "a/b").unwrap()] {
        assert!(listing.is_whole());
        assert_eq!((listing.start(), listing.end(), listing.records()), (0, 195, 100));
        assert_eq!(listing.cursors, [("kafka".to_owned(), 42, b"note".to_vec())]);
    }
    assert!(matches!(offline::list(dir.path(), "x"), Err(StoreError::NoSuchLog(_))));
    assert!(matches!(offline::repair(dir.path(), "a/b"), Err(StoreError::Locked { pid, .. }) if pid == std::process::id()));
    drop(store);
}

#[test]
fn verify_finds_what_repair_sets_aside() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    flip(&segments(dir.path())[1], 64 + 344 + 100);
    let listing = offline::verify(dir.path(), "a/b").unwrap();
    assert!(!listing.is_whole());
    assert_eq!(listing.segments[1].holes, [(64 + 344, 344)]);
    let report = offline::repair(dir.path(), "a/b").unwrap();
    assert_eq!((report.quarantined.len(), report.records_lost), (1, Some(5)));
    let listing = offline::verify(dir.path(), "a/b").unwrap();
    assert!(listing.is_whole() && listing.quarantined.len() == 1);
    assert_eq!((listing.end(), listing.records()), (195, 95));
    assert!(offline::repair(dir.path(), "a/b").unwrap().quarantined.is_empty(), "once is enough");
    let store = open(dir.path());
    let (_, recovery) = store.log("a/b", LogOptions::default()).unwrap();
    assert!(recovery.quarantined.is_empty(), "{recovery:?}");
}

#[test]
fn a_torn_tail_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let last = segments(dir.path()).pop().unwrap();
    let bytes = std::fs::read(&last).unwrap();
    std::fs::write(&last, [&bytes[..], &bytes[64..200]].concat()).unwrap();
    assert!(!offline::verify(dir.path(), "a/b").unwrap().is_whole());
    let report = offline::repair(dir.path(), "a/b").unwrap();
    assert_eq!((report.truncated_bytes, report.records_lost), (136, Some(0)));
    assert!(offline::verify(dir.path(), "a/b").unwrap().is_whole());
}

#[test]
fn what_is_exported_can_be_imported() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(filled(from.path()));
    let store = open(to.path());
    let (log, _) = store.log("copy", LogOptions::default()).unwrap();
    for batch in offline::batches(from.path(), "a/b").unwrap() {
        let batch = batch.unwrap();
        log.append(batch.first, batch.next, batch.records, &[&batch.payload]).unwrap();
    }
    store.close().unwrap();
    let copied: Vec<_> = offline::batches(to.path(), "copy").unwrap().map(|batch| batch.unwrap()).collect();
    let original: Vec<_> = offline::batches(from.path(), "a/b").unwrap().map(|batch| batch.unwrap()).collect();
    assert_eq!(original.len(), 20);
    assert!(
        original.iter().zip(&copied).all(|(a, b)| (a.first, a.next, a.records, &a.payload) == (b.first, b.next, b.records, &b.payload))
    );
}

#[test]
fn repair_takes_back_what_is_intact_in_a_file_set_aside_earlier() {
    for header_too in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path()));
        let all: Vec<_> = offline::batches(dir.path(), "a/b").unwrap().map(|batch| batch.unwrap()).collect();
        let segment = segments(dir.path())[1].clone();
        let good = std::fs::read(&segment).unwrap();
        let mut bad = good.clone();
        if header_too {
            // Nothing is left that proves anything: the segment begins again, with another salt.
            bad[..64].fill(0);
            (0..5).for_each(|batch| bad[64 + batch * 344 + 60 + 7 * batch] ^= 1 << batch);
            let footer = bad.len() - 20;
            bad[footer] ^= 1;
        } else {
            bad[64 + 100] ^= 1;
            bad[64 + 2 * 344 + 100] ^= 1;
        }
        std::fs::write(&segment, bad).unwrap();
        let report = offline::repair(dir.path(), "a/b").unwrap();
        assert_eq!((report.quarantined.len(), report.salvaged.batches), (1, 0), "{report:?}");
        let aside = &report.quarantined[0].path;

        // One place can be read again, the other can't: then only that one comes back.
        let mut half = good.clone();
        half[64 + 2 * 344 + 100] ^= 1;
        std::fs::write(aside, half).unwrap();
        let report = offline::repair(dir.path(), "a/b").unwrap();
        let wanted = if header_too { 4 } else { 1 };
        assert_eq!((report.salvaged.batches, report.salvaged.records, report.salvaged.passed), (wanted, wanted * 5, 0));
        assert_eq!(offline::verify(dir.path(), "a/b").unwrap().records(), 95);

        std::fs::write(aside, &good).unwrap();
        let report = offline::repair(dir.path(), "a/b").unwrap();
        assert_eq!((report.salvaged.batches, report.salvaged.records), (1, 5));
        let listing = offline::verify(dir.path(), "a/b").unwrap();
        assert!(listing.is_whole() && aside.exists());
        assert_eq!((listing.end(), listing.records()), (195, 100));
        let back: Vec<_> = offline::batches(dir.path(), "a/b").unwrap().map(|batch| batch.unwrap()).collect();
        assert!(all.iter().zip(&back).all(|(a, b)| (a.first, a.next, a.records, &a.payload) == (b.first, b.next, b.records, &b.payload)));
        assert_eq!(offline::repair(dir.path(), "a/b").unwrap().salvaged.batches, 0, "once is enough");
        let store = open(dir.path());
        let (log, recovery) = store.log("a/b", LogOptions::default()).unwrap();
        assert!(recovery.quarantined.is_empty() && recovery.records_lost == Some(0), "{recovery:?}");
        log.append(195, 196, 1, &[b"goes on"]).unwrap();
    }
}

#[test]
fn what_every_cursor_has_passed_is_not_put_back() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let segment = segments(dir.path())[0].clone();
    let good = std::fs::read(&segment).unwrap();
    let mut bad = good.clone();
    bad[64 + 344 + 100] ^= 1;
    std::fs::write(&segment, bad).unwrap();
    let aside = offline::repair(dir.path(), "a/b").unwrap().quarantined.remove(0).path;
    std::fs::write(aside, good).unwrap();
    let salvaged = offline::repair(dir.path(), "a/b").unwrap().salvaged;
    assert_eq!((salvaged.batches, salvaged.passed), (0, 5), "offsets 10 to 15, and the cursor is at 42");
}
