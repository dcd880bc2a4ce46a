//! kill -9 of a real process that appends, again and again: what `append` returned is there afterwards, once and whole.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use millrace_log::{KeepFree, Log, LogOptions, ReadBuf, Store, StoreOptions};

const KILLS: usize = 25;
const CHILD: &str = "MILLRACE_LOG_KILL_CHILD";

fn open(dir: &Path) -> (Store, Log) {
    let store = Store::open(dir, StoreOptions { keep_free: KeepFree::Bytes(0), ..StoreOptions::default() }).unwrap();
    let (log, recovery) = store.log("victim", LogOptions { segment_bytes: 100_000, ..LogOptions::default() }).unwrap();
    assert!(recovery.quarantined.is_empty(), "a kill corrupts nothing: {recovery:?}");
    assert!(!store.power_cut());
    (store, log)
}

fn payload(first: u64) -> Vec<u8> {
    (0..first.wrapping_mul(2_654_435_761) % 3000).map(|i| (first + i) as u8).collect()
}

/// Not a test of its own: the process that is killed.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let (_store, log) = open(Path::new(&dir));
    log.on_sync(|synced| say('s', synced));
    for n in 0u64.. {
        let first = log.end() + n % 3;
        log.append(first, first + 2, 2, &[&payload(first)]).unwrap();
        say('a', first);
        if n % 5 == 0 {
            log.want_sync();
        }
        if n % 200 == 199 {
            let cursor = log.synced().saturating_sub(300);
            log.set_cursor("c", cursor, &cursor.to_le_bytes());
            log.reclaim().unwrap();
            say('c', cursor);
        }
    }
}

/// A line to the parent, written past the test harness's capture.
fn say(what: char, offset: u64) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n={what} {offset}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}

#[test]
fn nothing_appended_is_lost_by_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut appended: HashSet<u64> = HashSet::new();
    let (mut cursor, mut total) = (0, 0);
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let until = fastrand::usize(1..1500);
        let mut seen = 0;
        let mut last_synced = 0;
        // After the kill the pipe still holds what the child said before.
        while let Some(Ok(line)) = lines.next() {
            let Some((what, offset)) = line.strip_prefix('=').and_then(|line| line.split_once(' ')) else { continue };
            let Ok(offset) = offset.parse::<u64>() else { continue };
            match what {
                "a" => {
                    appended.insert(offset);
                }
                "c" => cursor = offset,
                _ => last_synced = offset,
            }
            seen += 1;
            if seen == until {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= until, "round {round}: the child died by itself after {seen} lines");
        let (store, log) = open(dir.path());
        assert!(log.end() >= last_synced);
        let saved = log.cursor("c").map_or(0, |(offset, note)| {
            assert_eq!(note, offset.to_le_bytes());
            offset
        });
        assert!(saved >= cursor, "the cursor {cursor} was saved, {saved} is there");
        let (mut buf, mut from, mut there) = (ReadBuf::new(), 0, HashSet::new());
        while log.read(from, 50_000, &mut buf).unwrap() > 0 {
            for batch in buf.batches() {
                assert!(batch.first >= from && batch.payload == payload(batch.first), "batch {}", batch.first);
                from = batch.next;
                there.insert(batch.first);
            }
        }
        for first in &appended {
            assert!(*first < saved || there.contains(first), "round {round}: batch {first} of {} is lost", appended.len());
        }
        total += seen;
        appended = there;
        if round % 3 == 0 {
            store.close().unwrap();
        }
    }
    assert!(total > KILLS);
}
