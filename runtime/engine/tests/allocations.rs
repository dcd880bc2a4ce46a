//! From a filled batch to the log nothing is allocated per value, and nothing stays of what is synced: a counting allocator proves it.

use millrace_contract::{Model, TagDef, TagOptions};
use millrace_engine::intake::{ClockWindow, Intake, IntakeOptions};
use millrace_engine::taps::Taps;
use millrace_engine::topics::{Format, Topic, Topics};
use millrace_log::{Full, Store, StoreOptions};
use millrace_schemas::{Flags, Micros, Origin, Row, StatusCode, TagId, TimeSource, Value};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes allocated less bytes freed, by this thread.
    static HELD: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are plain thread-locals without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        HELD.with(|n| n.set(n.get() + layout.size() as isize));
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.with(|n| n.set(n.get() - layout.size() as isize));
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Bench {
    intake: Arc<Intake>,
    runtime: tokio::runtime::Runtime,
    _store: Store,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("log"), StoreOptions::default()).unwrap();
        let tags = (0..100).map(|i| TagDef {
            path: format!("line/t{i}"),
            address: i.to_string(),
            kind: None,
            topic: "telemetry".into(),
            part: "".into(),
            options: Arc::new(TagOptions::default()),
        });
        let model = Model { tags: tags.collect(), routes: Vec::new() };
        let topics = Topics::new([Topic { format: Format::Avro, ..Topic::undeclared("telemetry") }]);
        let intake = Intake::open(
            &store,
            IntakeOptions {
                site: "acme/plant",
                name: "press",
                model: &model,
                topics: &topics,
                clock: ClockWindow::default(),
                log_size: 1 << 30,
                full: Full::Block,
                sync: Duration::from_millis(200),
                compress: true,
                dir: dir.path().join("sources/press"),
                taps: Arc::new(Taps::default()),
                paths: Default::default(),
            },
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { intake, runtime, _store: store, _dir: dir }
    }

    /// Sends so many values that change from round to round, and counts the allocations it took.
    fn send(&self, values: u32, round: i64) -> u64 {
        self.runtime.block_on(async {
            let mut batch = self.intake.batch().await;
            let row = |i: u32| Row {
                time: batch.read_time,
                server_time: Micros::NONE,
                value: Value::Double(f64::from(i) + round as f64 * 0.5),
                tag: TagId(i % 100),
                status: StatusCode::GOOD,
                flags: Flags::new(Origin::Change, TimeSource::Device),
            };
            let rows: Vec<Row> = (0..values).map(row).collect();
            batch.rows.extend_from_slice(&rows);
            drop(rows);
            let before = ALLOCATIONS.with(Cell::get);
            self.intake.send(batch, &[]).await;
            ALLOCATIONS.with(Cell::get) - before
        })
    }
}

#[test]
fn a_warm_intake_allocates_nothing_per_value() {
    let bench = Bench::open();
    for round in 0..5 {
        bench.send(10_000, round);
    }
    let (few, many) = (bench.send(1_000, 6), bench.send(10_000, 7));
    assert!(many <= few + 40, "1,000 values took {few} allocations, 10,000 took {many}");
    assert!(few < 60, "{few} allocations for one batch");
    assert_eq!(bench.intake.ledger.snapshot().appended, 61_000);
}

#[test]
fn nothing_stays_of_what_is_synced_where_nobody_asks_what_is_durable() {
    let bench = Bench::open();
    let send = |rounds: std::ops::Range<i64>| {
        for round in rounds {
            bench.send(1, round);
            if round % 500 == 0 {
                bench.intake.source_logs.lanes.iter().for_each(|(_, log)| log.sync().unwrap());
            }
        }
        HELD.with(Cell::get)
    };
    let warm = send(0..5_000);
    let grown = send(5_000..45_000) - warm;
    assert!(grown < 400_000, "40,000 batches left {grown} bytes behind");
}
