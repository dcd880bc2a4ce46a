//! What a log promises, one sentence a test, on a real disk or on one in memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use millrace_log::faulty::{FaultyFs, Plan};
use millrace_log::{AppendError, Bound, Budget, Full, KeepFree, Log, LogOptions, ReadBuf, Store, StoreError, StoreOptions};

fn in_memory(fs: &FaultyFs, syncers: usize) -> StoreOptions {
    StoreOptions { keep_free: KeepFree::Bytes(0), syncers, fs: Arc::new(fs.clone()), ..StoreOptions::default() }
}

fn on_disk() -> StoreOptions {
    StoreOptions { keep_free: KeepFree::Bytes(0), ..StoreOptions::default() }
}

fn small() -> LogOptions {
    LogOptions { segment_bytes: 2000, ..LogOptions::default() }
}

/// Appends a batch of one record and `len` bytes.
fn push(log: &Log, len: usize) -> Result<u64, AppendError> {
    let first = log.end();
    log.append(first, first + 1, 1, &[&vec![first as u8; len]]).map(|appended| appended.first)
}

fn push_many(log: &Log, count: usize, len: usize) {
    for _ in 0..count {
        push(log, len).unwrap();
    }
}

fn firsts(log: &Log) -> Vec<u64> {
    let (mut buf, mut from, mut all) = (ReadBuf::new(), 0, Vec::new());
    while log.read(from, 1000, &mut buf).unwrap() > 0 {
        all.extend(buf.batches().map(|batch| batch.first));
        from = buf.next().unwrap();
    }
    all
}

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_batch_comes_back_whole_from_any_offset_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), on_disk()).unwrap();
    let (log, recovery) = store.log("plant/line 1.normal", LogOptions { start: 100, ..LogOptions::default() }).unwrap();
    assert!(recovery.created);
    assert_eq!((log.start(), log.end(), log.synced()), (100, 100, 100));
    log.append(100, 110, 10, &[b"ab", b"", b"c"]).unwrap();
    log.append(500, 501, 0, &[]).unwrap();
    let mut buf = ReadBuf::new();
    for synced in [false, true] {
        for from in [0, 100, 109] {
            assert_eq!(log.read(from, usize::MAX, &mut buf).unwrap(), 2, "from {from}, synced {synced}");
            let batch = buf.batches().next().unwrap();
            assert_eq!((batch.first, batch.next, batch.records, batch.payload), (100, 110, 10, &b"abc"[..]));
        }
        assert_eq!(log.read(110, 1, &mut buf).unwrap(), 1);
        assert_eq!(buf.batches().next().unwrap().first, 500);
        assert_eq!(log.read(501, 1, &mut buf).unwrap(), 0);
        log.sync().unwrap();
    }
    assert_eq!(log.newest().unwrap().unwrap().first, 500);
    assert_eq!((log.records(), log.end(), log.synced()), (10, 501, 501));
    assert_eq!(store.names().unwrap(), ["plant/line 1.normal"]);
}

#[test]
fn offsets_never_go_back_and_a_batch_takes_at_least_one() {
    let store = Store::open("/s", in_memory(&FaultyFs::new(1), 0)).unwrap();
    let (log, _) = store.log("a", LogOptions { max_batch: 10, ..LogOptions::default() }).unwrap();
    log.append(5, 7, 2, &[b"x"]).unwrap();
    assert!(matches!(log.append(6, 8, 2, &[b"x"]), Err(AppendError::OffsetBehind { first: 6, end: 7 })));
    assert!(matches!(log.append(7, 7, 0, &[b"x"]), Err(AppendError::BadRange { .. })));
    assert!(matches!(log.append(8, 7, 0, &[b"x"]), Err(AppendError::BadRange { .. })));
    assert!(matches!(log.append(7, 7 + (1 << 32), 0, &[b"x"]), Err(AppendError::BadRange { .. })));
    assert!(matches!(log.append(7, 8, 1, &[&[0; 11]]), Err(AppendError::TooLarge { bytes: 11, limit: 10 })));
    log.append(u64::MAX - 1, u64::MAX, 1, &[b"x"]).unwrap();
    assert_eq!(firsts(&log), [5, u64::MAX - 1]);
}

#[test]
fn a_store_that_is_open_names_the_process_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), on_disk()).unwrap();
    match Store::open(dir.path(), on_disk()) {
        Err(StoreError::Locked { pid, .. }) => assert_eq!(pid, std::process::id()),
        other => panic!("{:?}", other.map(|_| ())),
    }
    let (log, _) = store.log("a", LogOptions::default()).unwrap();
    assert!(matches!(store.log("a", LogOptions::default()), Err(StoreError::AlreadyOpen(_))));
    drop(store);
    assert!(Store::open(dir.path(), on_disk()).is_err(), "a log still holds it");
    drop(log);
    Store::open(dir.path(), on_disk()).unwrap();
}

#[test]
fn a_power_cut_is_told_from_a_crash_and_from_a_clean_end() {
    let fs = FaultyFs::new(2);
    let store = Store::open("/s", in_memory(&fs, 0)).unwrap();
    assert!(!store.power_cut());
    drop(store);
    let store = Store::open("/s", in_memory(&fs, 0)).unwrap();
    assert!(!store.power_cut(), "a crash of the process alone");
    fs.power_cut();
    drop(store);
    let store = Store::open("/s", in_memory(&fs, 0)).unwrap();
    assert!(store.power_cut());
    store.close().unwrap();
    fs.power_cut();
    drop(store);
    assert!(!Store::open("/s", in_memory(&fs, 0)).unwrap().power_cut(), "it was closed before");
}

#[test]
fn a_file_of_a_later_release_is_refused_with_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), on_disk()).unwrap();
    let (log, _) = store.log("a", LogOptions::default()).unwrap();
    push(&log, 10).unwrap();
    store.close().unwrap();
    drop((store, log));
    let segment =
        std::fs::read_dir(dir.path().join("a")).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|e| e == "seg"));
    let mut bytes = std::fs::read(segment.as_ref().unwrap()).unwrap();
    bytes[8] = 7;
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(segment.unwrap(), &bytes).unwrap();
    let store = Store::open(dir.path(), on_disk()).unwrap();
    let error = store.log("a", LogOptions::default()).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 7, known: 1, .. }), "{error}");
}

#[test]
fn someone_who_waits_is_told_when_the_batch_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), on_disk()).unwrap();
    let (log, _) = store.log("a", LogOptions { sync: Duration::from_secs(3600), ..LogOptions::default() }).unwrap();
    let (tell, told) = mpsc::channel();
    log.on_sync(move |synced| tell.send(synced).unwrap());
    for i in 1..=20 {
        push(&log, 100).unwrap();
        log.want_sync();
        while told.recv_timeout(PATIENCE).unwrap() < i {}
        assert!(log.synced() >= i);
    }
}

/// Each step waits for the one before. With the rest of 5 ms between two syncs they could not be done in this time, without it they are within moments.
#[test]
fn steps_that_wait_for_each_other_do_not_rest_between_their_syncs() {
    const STEPS: u32 = 2_000;
    let store = Store::open("/s", in_memory(&FaultyFs::new(9), 1)).unwrap();
    let (log, _) = store.log("a", LogOptions { sync: Duration::from_secs(3600), ..LogOptions::default() }).unwrap();
    let (tell, told) = mpsc::channel();
    log.on_sync(move |synced| tell.send(synced).unwrap());
    let begun = Instant::now();
    for i in 1..=u64::from(STEPS) {
        push(&log, 100).unwrap();
        log.want_sync_at_once();
        while told.recv_timeout(PATIENCE).unwrap() < i {}
    }
    assert!(begun.elapsed() < (STEPS - 1) * Duration::from_millis(5), "{:?}", begun.elapsed());
}

#[test]
fn nobody_has_to_ask_for_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), on_disk()).unwrap();
    let (log, _) = store.log("a", LogOptions { sync: Duration::from_millis(20), ..LogOptions::default() }).unwrap();
    let (tell, told) = mpsc::channel();
    log.on_sync(move |synced| tell.send(synced).unwrap());
    push(&log, 100).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 1);
}

#[test]
fn a_sync_that_fails_is_made_up_for_in_a_new_segment() {
    let fs = FaultyFs::new(3);
    let store = Store::open("/s", in_memory(&fs, 1)).unwrap();
    let (log, _) = store.log("a", small()).unwrap();
    push(&log, 100).unwrap();
    log.sync().unwrap();
    fs.plan(Plan { failed_sync: 1.0, ..Plan::default() });
    push_many(&log, 30, 100);
    assert!(log.sync().is_err());
    assert_eq!(log.synced(), 1);
    assert!(log.faults().now.is_some());
    push(&log, 100).unwrap();
    fs.plan(Plan::default());
    let (tell, told) = mpsc::channel();
    log.on_sync(move |synced| tell.send(synced).unwrap());
    while told.recv_timeout(PATIENCE).unwrap() < 32 {}
    assert!(log.faults().now.is_none() && log.faults().failed_syncs > 0);
    fs.evict();
    assert_eq!(firsts(&log), (0..32).collect::<Vec<_>>());
    fs.power_cut();
    drop((store, log));
    let store = Store::open("/s", in_memory(&fs, 0)).unwrap();
    let (log, recovery) = store.log("a", small()).unwrap();
    assert_eq!(firsts(&log), (0..32).collect::<Vec<_>>(), "{recovery:?}");
}

#[test]
fn what_is_not_synced_is_bounded_while_the_disk_does_not_sync() {
    let fs = FaultyFs::new(4);
    let store = Store::open("/s", in_memory(&fs, 1)).unwrap();
    let (log, _) = store.log("a", LogOptions { unsynced: 10_000, ..LogOptions::default() }).unwrap();
    let (tell, told) = mpsc::channel();
    log.on_room(move || tell.send(()).unwrap_or_default());
    fs.plan(Plan { failed_sync: 1.0, ..Plan::default() });
    let refused = (0..100).find_map(|_| push(&log, 1000).err()).expect("a bound");
    assert!(matches!(refused, AppendError::Full { bound: Bound::Unsynced, limit: 10_000, .. }), "{refused}");
    fs.plan(Plan::default());
    told.recv_timeout(PATIENCE).unwrap();
    push(&log, 1000).unwrap();
}

#[test]
fn what_all_logs_hold_unsynced_is_bounded_together() {
    let fs = FaultyFs::new(13);
    let store = Store::open("/s", StoreOptions { unsynced: 100_000, ..in_memory(&fs, 1) }).unwrap();
    let [a, b] = ["a", "b"].map(|name| store.log(name, LogOptions::default()).unwrap().0);
    fs.plan(Plan { failed_sync: 1.0, ..Plan::default() });
    while push(&a, 1000).is_ok() {}
    let (tell, told) = mpsc::channel();
    b.on_room(move || tell.send(()).unwrap_or_default());
    let refused = push(&b, 1000).unwrap_err();
    assert!(matches!(refused, AppendError::Full { bound: Bound::Unsynced, limit: 100_000, .. }), "{refused}");
    fs.plan(Plan::default());
    told.recv_timeout(PATIENCE).unwrap();
    push(&b, 1000).unwrap();
}

#[test]
fn a_full_disk_refuses_and_recovers_by_itself() {
    let fs = FaultyFs::new(5);
    let store = Store::open("/s", in_memory(&fs, 1)).unwrap();
    let (log, _) = store.log("a", small()).unwrap();
    log.set_cursor("c", 0, b"");
    log.save_cursors().unwrap();
    log.save_cursors().unwrap();
    let (tell, told) = mpsc::channel();
    log.on_room(move || tell.send(()).unwrap_or_default());
    fs.plan(Plan { capacity: 20_000, ..Plan::default() });
    let refused = (0..100).find_map(|_| push(&log, 500).err()).expect("a full disk");
    assert!(matches!(refused, AppendError::NoSpace { .. }), "{refused}");
    assert!(store.low_on_space());
    let end = log.end();
    log.sync().unwrap();
    log.set_cursor("c", end, b"");
    assert!(log.reclaimable() > 0);
    assert!(log.reclaim().unwrap() > 0, "what is behind the cursor goes on a full disk too");
    told.recv_timeout(PATIENCE).unwrap();
    push(&log, 500).unwrap();
    assert!(!store.low_on_space());
    assert_eq!(firsts(&log).last(), Some(&end));
}

#[test]
fn room_is_kept_free_for_others() {
    let fs = FaultyFs::new(6);
    fs.plan(Plan { capacity: 10 << 20, ..Plan::default() });
    let store = Store::open("/s", StoreOptions { keep_free: KeepFree::Percent(50.0), ..in_memory(&fs, 0) }).unwrap();
    let (log, _) = store.log("a", LogOptions { unsynced: 1 << 30, ..LogOptions::default() }).unwrap();
    let refused = (0..1000).find_map(|_| push(&log, 500_000).err()).expect("a bound");
    assert!(matches!(refused, AppendError::NoSpace { keep: 5_242_880, .. }), "{refused}");
    assert!(store.space().unwrap().free >= 4 << 20, "the disk is looked at once in a MiB");
}

#[test]
fn a_full_budget_blocks_until_something_is_reclaimed() {
    let store = Store::open("/s", in_memory(&FaultyFs::new(7), 0)).unwrap();
    let budget = Budget::new(1 << 20, Full::Block);
    let lane = |name| store.log(name, LogOptions { budget: Some(budget.clone()), ..LogOptions::default() }).unwrap().0;
    let (a, b) = (lane("a"), lane("b"));
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    budget.on_room(move || {
        count.fetch_add(1, SeqCst);
    });
    push(&b, 1000).unwrap();
    let refused = (0..10_000).find_map(|_| push(&a, 1000).err()).expect("a bound");
    assert!(matches!(refused, AppendError::Full { bound: Bound::Budget, limit: 1_048_576, .. }), "{refused}");
    assert!(push(&b, 1000).is_err(), "the lanes share it");
    assert!(budget.used() <= budget.limit() && budget.used() > budget.limit() - 3000);
    assert_eq!(budget.used(), a.bytes() + b.bytes());
    a.sync().unwrap();
    a.set_cursor("c", a.end(), b"");
    assert!(a.reclaim().unwrap() > 900_000);
    assert_eq!(told.load(SeqCst), 1);
    push(&b, 1000).unwrap();
    assert_eq!(budget.used(), a.bytes() + b.bytes());
}

#[test]
fn batches_as_large_as_half_the_budget_flow_for_ever() {
    let store = Store::open("/s", in_memory(&FaultyFs::new(8), 0)).unwrap();
    let budget = Budget::new(100_000, Full::Block);
    let (log, _) = store.log("a", LogOptions { budget: Some(budget), ..LogOptions::default() }).unwrap();
    for _ in 0..20 {
        push(&log, 45_000).unwrap();
        log.sync().unwrap();
        log.set_cursor("c", log.end(), b"");
        log.reclaim().unwrap();
    }
    assert!(matches!(push(&log, 200_000), Err(AppendError::TooLarge { .. })));
}

#[test]
fn the_oldest_of_the_least_important_lane_is_dropped_and_counted() {
    let fs = FaultyFs::new(9);
    let store = Store::open("/s", in_memory(&fs, 0)).unwrap();
    let budget = Budget::new(1 << 20, Full::DropOldest);
    let options = |priority| LogOptions { budget: Some(budget.clone()), priority, unsynced: 1 << 30, ..LogOptions::default() };
    let (bulk, _) = store.log("bulk", options(0)).unwrap();
    let (first, _) = store.log("first", options(2)).unwrap();
    for log in [&bulk, &first] {
        log.set_cursor("c", 0, b"");
        push_many(log, 300, 1000);
        log.sync().unwrap();
    }
    bulk.set_cursor("c", 10, b"note");
    for _ in 0..600 {
        push(&first, 1000).unwrap();
        first.sync().unwrap();
    }
    assert_eq!(first.dropped(), 0, "the important lane lost nothing while the other had something");
    let (dropped, (cursor, note)) = (bulk.dropped(), bulk.cursor("c").unwrap());
    assert_eq!(dropped, cursor - 10, "records behind the cursor are not lost");
    assert_eq!((cursor, note.as_slice()), (bulk.start(), &b"note"[..]));
    for _ in 0..600 {
        push(&first, 1000).unwrap();
        first.sync().unwrap();
    }
    assert!(first.dropped() > 0);
    assert_eq!(first.dropped() + firsts(&first).len() as u64, first.records());
    fs.power_cut();
    drop((store, bulk, first));
    let store = Store::open("/s", in_memory(&fs, 0)).unwrap();
    let (bulk, _) = store.log("bulk", LogOptions::default()).unwrap();
    assert!(bulk.dropped() >= dropped, "the count is on the disk before the segment goes");
}

#[test]
fn nothing_is_reclaimed_without_a_cursor_and_the_newest_batch_never() {
    let store = Store::open("/s", in_memory(&FaultyFs::new(10), 0)).unwrap();
    let (log, _) = store.log("a", small()).unwrap();
    push_many(&log, 10, 900);
    log.sync().unwrap();
    assert_eq!((log.reclaimable(), log.reclaim().unwrap()), (0, 0));
    log.set_cursor("fast", 10, b"");
    log.set_cursor("slow", 5, b"");
    let freed = log.reclaimable();
    assert_eq!(log.reclaim().unwrap(), freed);
    assert_eq!(firsts(&log), (4..10).collect::<Vec<_>>());
    log.remove_cursor("slow");
    log.reclaim().unwrap();
    assert_eq!(log.newest().unwrap().unwrap().first, 9);
    assert_eq!(log.segments().len(), 1);
    assert_eq!(log.delete_below(u64::MAX).unwrap(), 0);
}

#[test]
fn an_unreadable_sector_costs_its_batch_alone() {
    let fs = FaultyFs::new(11);
    let store = Store::open("/s", in_memory(&fs, 0)).unwrap();
    let (log, _) = store.log("a", LogOptions::default()).unwrap();
    push_many(&log, 40, 2000);
    log.sync().unwrap();
    let segment = fs.files().into_iter().find(|(path, _)| path.extension().is_some_and(|e| e == "seg")).unwrap().0;
    fs.break_sector(&segment, 64 + 20 * 2044 + 1000);
    let left = firsts(&log);
    assert!(left.len() >= 36 && left.iter().all(|first| !(20..21).contains(first)), "{left:?}");
    let faults = log.faults();
    assert_eq!(faults.records_lost as usize, 40 - left.len());
    assert_eq!(faults.quarantined.len(), 1);
    push(&log, 10).unwrap();
    assert_eq!(firsts(&log).last(), Some(&40));
}

#[test]
fn a_corrupt_tail_is_counted_though_nothing_behind_it_says_how_much_it_was() {
    // All batches, the last ones, half of the last: as much of the newest segment.
    for kept in [0, 100, 900, 2_500] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), on_disk()).unwrap();
        let (log, _) = store.log("a", LogOptions::default()).unwrap();
        for i in 0..10 {
            log.append(i * 100, (i + 1) * 100, 100, &[&[7; 300]]).unwrap();
        }
        store.close().unwrap();
        let segment = std::fs::read_dir(log.dir()).unwrap().flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "seg"));
        let segment = segment.expect("the log has a segment");
        drop((log, store));
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[64 + kept..].fill(0xA5);
        std::fs::write(&segment, bytes).unwrap();

        for start in 0..2 {
            let store = Store::open(dir.path(), on_disk()).unwrap();
            let (log, recovery) = store.log("a", LogOptions::default()).unwrap();
            let left = firsts(&log).len() as u64;
            assert!(left < 10);
            assert_eq!(log.head(), (1000, 1000), "{kept} bytes kept, start {start}");
            let lost = if start == 0 { 1000 - left * 100 } else { 0 };
            assert_eq!(recovery.records_lost, Some(lost), "{kept} bytes kept, start {start}: {:?}", recovery.quarantined);
            store.close().unwrap();
        }
    }
}

#[test]
fn a_log_of_many_segments_is_opened_by_reading_its_last() {
    let fs = FaultyFs::new(12);
    let store = Store::open("/s", in_memory(&fs, 0)).unwrap();
    let (log, _) = store.log("a", small()).unwrap();
    for _ in 0..1000 {
        push(&log, 900).unwrap();
        log.sync().unwrap();
    }
    let bytes = log.bytes();
    drop((store, log));
    let store = Store::open("/s", in_memory(&fs, 0)).unwrap();
    let (log, recovery) = store.log("a", small()).unwrap();
    assert_eq!((log.end(), log.bytes(), log.records()), (1000, bytes, 1000));
    assert!(recovery.scanned_bytes < 5000 + 500 * 140, "{recovery:?}");
    assert_eq!(firsts(&log).len(), 1000);
}

#[test]
fn few_files_are_open_however_many_logs_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions { open_files: 20, ..on_disk() }).unwrap();
    let logs: Vec<_> = (0..100).map(|i| store.log(&format!("log {i}"), LogOptions::default()).unwrap().0).collect();
    for _ in 0..3 {
        for log in &logs {
            push(log, 10).unwrap();
            log.sync().unwrap();
        }
    }
    let prefix = dir.path().to_path_buf();
    let ours = |fd: &Path| std::fs::read_link(fd).is_ok_and(|to| to.starts_with(&prefix));
    let open = std::fs::read_dir("/proc/self/fd").unwrap().filter(|fd| ours(&fd.as_ref().unwrap().path())).count();
    assert!(open <= 22, "{open} files are open");
    assert!(logs.iter().all(|log| firsts(log) == [0, 1, 2]));
}

#[test]
fn a_removed_log_is_gone_and_its_handle_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), on_disk()).unwrap();
    let (log, _) = store.log("a", LogOptions::default()).unwrap();
    push(&log, 10).unwrap();
    store.remove("a").unwrap();
    assert!(matches!(push(&log, 10), Err(AppendError::Closed)));
    assert!(store.names().unwrap().is_empty());
    assert!(matches!(store.remove("a"), Err(StoreError::NoSuchLog(_))));
    assert!(store.log("a", LogOptions::default()).unwrap().1.created);
}

#[test]
fn readers_and_writers_on_many_threads_see_the_same_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), on_disk()).unwrap();
    let (log, _) = store.log("a", LogOptions { segment_bytes: 50_000, ..LogOptions::default() }).unwrap();
    let done = Arc::new(AtomicU64::new(0));
    std::thread::scope(|threads| {
        for _ in 0..3 {
            let (log, done) = (log.clone(), done.clone());
            threads.spawn(move || {
                let (mut buf, mut from) = (ReadBuf::new(), 0);
                while from < 5000 {
                    if log.read(from, 10_000, &mut buf).unwrap() == 0 {
                        std::thread::yield_now();
                    }
                    for batch in buf.batches() {
                        assert_eq!(batch.first, from);
                        assert!(batch.payload.iter().all(|byte| *byte == from as u8) && batch.payload.len() == from as usize % 300);
                        from = batch.next;
                    }
                }
                done.fetch_add(1, SeqCst);
            });
        }
        for i in 0..5000u64 {
            log.append(i, i + 1, 1, &[&vec![i as u8; i as usize % 300]]).unwrap();
            if i % 16 == 0 {
                log.want_sync();
            }
        }
    });
    assert_eq!(done.load(SeqCst), 3);
}
