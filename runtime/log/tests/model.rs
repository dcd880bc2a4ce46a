//! Random operations on a disk that fails, against a simple model.
//!
//! What was reported synced is there, bit for bit, after any crash; flipped bytes are set aside and reported; no batch is invented; offsets
//! grow; a cursor is never where nobody set it, and nothing it still needs is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_log::faulty::{FaultyFs, Plan};
use millrace_log::{AppendError, KeepFree, Log, LogOptions, ReadBuf, Recovery, Store, StoreOptions};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Append { gap: u64, span: u64, len: usize },
    Sync,
    Read { from: u64, max: usize },
    SetCursor(u64),
    SaveCursors,
    Reclaim,
    Kill,
    PowerCut,
    Close,
    Faults { writes: bool, syncs: bool, full: bool },
    Evict,
    Flip { file: u64, pos: u64, mask: u8 },
}

fn op(with_flips: bool) -> impl Strategy<Value = Op> {
    let flip = move |(file, pos, mask)| if with_flips { Op::Flip { file, pos, mask } } else { Op::Sync };
    prop_oneof![
        30 => (0..3u64, 1..5u64, 0..1500usize).prop_map(|(gap, span, len)| Op::Append { gap, span, len }),
        8 => Just(Op::Sync),
        6 => (0..100u64, 1..5000usize).prop_map(|(from, max)| Op::Read { from, max }),
        4 => (0..=100u64).prop_map(Op::SetCursor),
        2 => Just(Op::SaveCursors),
        4 => Just(Op::Reclaim),
        2 => Just(Op::Kill),
        3 => Just(Op::PowerCut),
        1 => Just(Op::Close),
        4 => (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(writes, syncs, full)| Op::Faults { writes, syncs, full }),
        1 => Just(Op::Evict),
        2 => (any::<u64>(), any::<u64>(), 1..=255u8).prop_map(flip),
    ]
}

/// A batch as the model keeps it: next, records, payload.
type Kept = (u64, u32, Vec<u8>);

struct World {
    fs: FaultyFs,
    store: Option<Store>,
    log: Option<Log>,
    model: BTreeMap<u64, Kept>,
    synced: u64,
    /// A sync failed since the log was opened: what was not synced may be gone even without a power cut.
    sync_failed: bool,
    flipped: bool,
    /// A log that is closed by now has reported corruption.
    reported: bool,
    cursors_set: BTreeSet<u64>,
    /// Lowest cursor under which something may have been reclaimed.
    reclaimed_below: u64,
    /// All that was ever appended: where corruption voids what voided them, batches of a failed sync come back.
    ever: BTreeSet<(u64, Kept)>,
    /// Reclaimed batches: a power cut may bring them back.
    reclaimed: BTreeMap<u64, Kept>,
    appended: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            fs: FaultyFs::new(seed),
            store: None,
            log: None,
            model: BTreeMap::new(),
            synced: 0,
            sync_failed: false,
            flipped: false,
            reported: false,
            cursors_set: BTreeSet::new(),
            reclaimed_below: 0,
            ever: BTreeSet::new(),
            reclaimed: BTreeMap::new(),
            appended: 0,
        };
        world.open();
        world
    }

    fn open(&mut self) -> Recovery {
        let options = StoreOptions {
            keep_free: KeepFree::Bytes(0),
            syncers: 0,
            open_files: 4,
            fs: Arc::new(self.fs.clone()),
            ..StoreOptions::default()
        };
        let store = Store::open("/data", options).expect("the disk works while a store is opened");
        let options = LogOptions { segment_bytes: 4000, unsynced: 20_000, ..LogOptions::default() };
        let (log, recovery) = store.log("a/b", options).expect("the disk works while a log is opened");
        (self.store, self.log) = (Some(store), Some(log));
        recovery
    }

    fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    fn append(&mut self, gap: u64, span: u64, len: usize) {
        let first = self.log().end() + gap;
        let payload: Vec<u8> = (0..len).map(|i| (first as usize + i * 7) as u8).collect();
        let (a, b) = payload.split_at(len / 3);
        let records = span as u32;
        match self.log().append(first, first + span, records, &[a, b]) {
            Ok(appended) => {
                assert_eq!((appended.first, appended.next), (first, first + span));
                self.ever.insert((first, (first + span, records, payload.clone())));
                self.model.insert(first, (first + span, records, payload));
                self.appended += 1;
            }
            Err(AppendError::Full { .. } | AppendError::NoSpace { .. } | AppendError::Io { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }

    fn sync(&mut self) {
        match self.log().sync() {
            Ok(()) => assert_eq!(self.log().synced(), self.log().end()),
            Err(_) => self.sync_failed = true,
        }
        self.sync_failed |= self.log().faults().failed_syncs > 0;
        self.synced = self.synced.max(self.log().synced());
    }

    fn read_all(&self) -> Vec<(u64, Kept)> {
        let (mut buf, mut from, mut all) = (ReadBuf::new(), 0, Vec::new());
        while self.log().read(from, 2000, &mut buf).expect("the disk works while everything is read") > 0 {
            for batch in buf.batches() {
                assert!(batch.next > from && batch.first >= all.last().map_or(0, |(_, (next, _, _)): &(u64, Kept)| *next), "offsets grow");
                from = batch.next;
                all.push((batch.first, (batch.next, batch.records, batch.payload.to_vec())));
            }
        }
        all
    }

    /// Compares the log after a crash with the model, and takes over what was not synced and is gone.
    fn check(&mut self, recovery: &Recovery, everything: bool) {
        let log = self.log().clone();
        let start = log.start();
        let all = self.read_all();
        for (first, batch) in &all {
            let known = self.model.get(first).or(self.reclaimed.get(first)) == Some(batch);
            let came_back = self.flipped && self.ever.contains(&(*first, batch.clone()));
            assert!(known || came_back, "no batch is invented or changed: {first} of {} bytes", batch.2.len());
        }
        let there: BTreeSet<u64> = all.iter().map(|(first, _)| *first).collect();
        let faults = self.log().faults();
        let reported = self.reported || !recovery.quarantined.is_empty() || !faults.quarantined.is_empty();
        for (first, (next, _, _)) in &self.model {
            let needed = *next > self.reclaimed_below && (everything || *next <= self.synced);
            if needed && !there.contains(first) {
                assert!(self.flipped, "batch {first}..{next} is gone; start {start}, synced {}, recovery {recovery:?}", self.synced);
                // The newest synced batches look like a torn tail when nothing written since says they were synced.
                assert!(reported || recovery.truncated_bytes > 0, "lost without a word: {recovery:?} {faults:?}");
            }
        }
        if !self.flipped {
            assert!(log.end() >= self.synced, "the end {} fell behind what was synced {}", log.end(), self.synced);
            // What a failed sync has thrown away, and nobody was told is durable, is missed after a crash.
            assert!(recovery.records_lost == Some(0) || self.sync_failed, "{recovery:?}");
        }
        let newest = log.newest().unwrap().map(|batch| batch.first);
        assert_eq!(newest, all.last().map(|(first, _)| *first), "end {}, {recovery:?}, {faults:?}, {:#?}", log.end(), log.segments());
        if let Some((cursor, _)) = log.cursor("c") {
            assert!(self.cursors_set.contains(&cursor), "nobody set the cursor to {cursor}");
        }
        for (first, batch) in std::mem::take(&mut self.model) {
            match there.contains(&first) {
                true => drop(self.model.insert(first, batch)),
                false if batch.0 <= self.reclaimed_below => drop(self.reclaimed.insert(first, batch)),
                false => {}
            }
        }
        self.model.extend(all);
        // The end of a log without batches rests on its cursors, which may not have been saved.
        self.synced = if self.flipped || newest.is_none() { 0 } else { log.synced() };
        self.sync_failed = false;
    }

    fn reopen(&mut self, everything: bool) {
        self.reported |= !self.log().faults().quarantined.is_empty();
        self.sync_failed |= self.log().faults().failed_syncs > 0;
        (self.log, self.store) = (None, None);
        let recovery = self.open();
        self.check(&recovery, everything);
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Append { gap, span, len } => self.append(gap, span, len),
            Op::Sync => self.sync(),
            Op::Read { from, max } => {
                let from = self.log().end() * from / 100;
                let mut buf = ReadBuf::new();
                let expected = self.model.iter().find(|(_, (next, _, _))| *next > from.max(self.log().start()));
                let read = self.log().read(from, max, &mut buf);
                if matches!(read, Ok(n) if n > 0) {
                    for batch in buf.batches() {
                        let model = &self.model[&batch.first];
                        assert_eq!((batch.next, batch.records, batch.payload), (model.0, model.1, &model.2[..]));
                    }
                    let first = buf.batches().next().unwrap().first;
                    assert!(self.flipped || first <= *expected.expect("something was read").0, "nothing is skipped");
                    let bytes: usize = buf.batches().map(|batch| batch.payload.len()).sum();
                    assert!(buf.len() == 1 || bytes <= max, "{bytes} of {max}");
                } else {
                    assert!(self.flipped || expected.is_none(), "{read:?}: {:?} was not read from {from}", expected.map(|e| e.0));
                }
            }
            Op::SetCursor(part) => {
                let offset = self.log().end() * part / 100;
                self.log().set_cursor("c", offset, &offset.to_le_bytes());
                self.cursors_set.insert(offset);
            }
            Op::SaveCursors => drop(self.log().save_cursors()),
            Op::Reclaim => {
                let cursor = self.log().cursor("c").map_or(0, |(offset, _)| offset);
                let _ = self.log().reclaim();
                self.reclaimed_below = self.reclaimed_below.max(cursor);
            }
            Op::Kill => {
                self.fs.plan(Plan::default());
                let everything = !self.sync_failed && self.log().faults().failed_syncs == 0;
                self.reopen(everything);
            }
            Op::PowerCut => {
                self.fs.plan(Plan::default());
                self.fs.power_cut();
                self.reopen(false);
            }
            Op::Close => {
                self.fs.plan(Plan::default());
                self.sync();
                self.store.as_ref().unwrap().close().expect("the disk works");
                self.reopen(true);
            }
            Op::Faults { writes, syncs, full } => {
                let used: u64 = self.fs.files().iter().map(|(_, len)| len).sum();
                self.fs.plan(Plan {
                    short_write: if writes { 0.3 } else { 0.0 },
                    failed_write: if writes { 0.2 } else { 0.0 },
                    failed_sync: if syncs { 0.5 } else { 0.0 },
                    capacity: if full { used + 3000 } else { u64::MAX },
                });
            }
            Op::Evict => self.fs.evict(),
            Op::Flip { file, pos, mask } => {
                let files: Vec<_> = self.fs.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg")).collect();
                if let Some((path, len)) = files.get((file % files.len().max(1) as u64) as usize).filter(|(_, len)| *len > 0) {
                    self.flipped = true;
                    self.fs.flip(path, pos % len, mask);
                }
            }
        }
    }
}

fn play(seed: u64, ops: &[Op]) {
    let mut world = World::new(seed);
    for op in ops {
        if trace() {
            eprintln!("{:?} {:?}\n{op:?}", world.log().faults(), world.fs.files());
        }
        world.run(op);
    }
    world.run(&Op::PowerCut);
    world.run(&Op::Faults { writes: false, syncs: false, full: false });
    let before = world.appended;
    world.append(0, 1, 10);
    assert_eq!(world.appended, before + 1, "the log takes batches again");
    world.sync();
    world.run(&Op::Kill);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_survives_any_crash(seed in any::<u64>(), ops in prop::collection::vec(op(false), 1..longest())) {
        play(seed, &ops);
    }

    #[test]
    fn flipped_bytes_are_set_aside_and_reported(seed in any::<u64>(), ops in prop::collection::vec(op(true), 1..longest())) {
        play(seed, &ops);
    }
}

/// `LOG_MODEL_TRACE=1` prints the operations of the last case.
fn trace() -> bool {
    std::env::var_os("LOG_MODEL_TRACE").is_some()
}

/// Operations of a case at most; `LOG_MODEL_OPS` for a search of other lengths.
fn longest() -> usize {
    std::env::var("LOG_MODEL_OPS").map_or(150, |text| text.parse().expect("a number"))
}

#[test]
fn a_sync_that_failed_before_a_crash_is_not_believed_after_it() {
    let a = |gap, span, len| Op::Append { gap, span, len };
    play(6345872131208761096, &[a(0, 1, 0), Op::Faults { writes: true, syncs: true, full: false }, a(0, 1, 13), Op::Sync, Op::Kill]);
}

#[test]
fn a_torn_header_is_no_lost_record() {
    let a = |gap, span, len| Op::Append { gap, span, len };
    let f = |writes, syncs, full| Op::Faults { writes, syncs, full };
    play(
        15859408504954068,
        &[
            a(0, 4, 472),
            Op::SaveCursors,
            a(0, 4, 105),
            a(0, 4, 862),
            Op::Reclaim,
            a(2, 1, 902),
            Op::Reclaim,
            f(true, true, true),
            a(0, 4, 619),
        ],
    );
}

#[test]
fn a_directory_that_does_not_sync_hides_no_quarantine() {
    let a = |gap, span, len| Op::Append { gap, span, len };
    let f = |writes, syncs, full| Op::Faults { writes, syncs, full };
    play(
        4452141477866484078,
        &[
            f(false, true, false),
            a(0, 1, 168),
            Op::Sync,
            Op::Flip { file: 0, pos: 8169734200, mask: 1 },
            Op::Read { from: 0, max: 1 },
            Op::Close,
        ],
    );
}

#[test]
fn a_batch_that_follows_a_failed_sync_outlives_what_was_set_aside_before_it() {
    let a = |gap, span, len| Op::Append { gap, span, len };
    let f = |writes, syncs, full| Op::Faults { writes, syncs, full };
    play(
        10,
        &[
            Op::PowerCut,
            a(0, 1, 1232),
            a(2, 1, 1463),
            Op::Sync,
            a(1, 4, 516),
            Op::Sync,
            a(2, 2, 528),
            Op::PowerCut,
            a(2, 2, 1471),
            a(1, 3, 251),
            Op::Close,
            a(2, 2, 542),
            f(true, true, true),
            a(2, 4, 927),
            a(2, 3, 1499),
            Op::Sync,
            Op::Kill,
            f(true, true, false),
            Op::SetCursor(2),
            a(2, 2, 1195),
            f(true, true, false),
            a(0, 1, 438),
            a(1, 2, 1337),
            Op::Sync,
            Op::SetCursor(11),
            a(1, 3, 1168),
            Op::Sync,
            Op::SetCursor(48),
            Op::Sync,
            a(1, 2, 712),
            Op::SetCursor(67),
            Op::Evict,
            a(2, 3, 1335),
            a(1, 2, 1177),
            Op::Kill,
            Op::Close,
            Op::Reclaim,
            Op::Evict,
            f(true, true, false),
            a(2, 2, 174),
            Op::PowerCut,
            a(0, 3, 540),
        ],
    );
}
