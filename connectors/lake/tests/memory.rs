//! Memory with a thousand open folders. Alone in its binary: it counts the whole process.
#![cfg(feature = "tables")]

use millrace_contract::{Carries, Context, Records, Upstream};
use millrace_lake::LakeSink;
use millrace_schemas::{Micros, Span};
use millrace_testkit::conformance::sink::{TOPIC, part, records};
use millrace_testkit::memory::held_bytes;
use millrace_testkit::yaml;

#[global_allocator]
static MEMORY: millrace_testkit::CountingAllocator = millrace_testkit::CountingAllocator;

const DAYS: i64 = 1_000;
const DAY: i64 = 86_400_000_000;

/// The records of the suite, each on the next of a thousand days.
fn spread(from: i64, to: i64) -> Records {
    let mut records = records(millrace_contract::Input::Samples, 0, from..to);
    let batch = records.batch.as_mut().unwrap();
    for (row, record) in batch.rows.iter_mut().zip(&records.records) {
        row.time = Micros(record.offset % DAYS * DAY);
    }
    let columns = batch.decoded.as_mut().unwrap();
    columns.read_time.iter_mut().zip(&batch.rows).for_each(|(read, row)| *read = row.time);
    // A text is what takes room: each row has its own.
    assert!(batch.rows.iter().all(|row| matches!(row.value, millrace_schemas::Value::Text(Span { len: 20.., .. }))));
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_open_folders_take_no_more_memory_than_they_may() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("{{table: \"{}/table\", memory: 32MiB, commit_every: 1h}}", folder.path().display());
    let context = Context { carries: Carries::Samples, ..yaml::context("lake", &[TOPIC]) };
    let mut sink = yaml::compile::<LakeSink>(&text, &context).unwrap().sink().unwrap();
    sink.upstream(Upstream::default());
    sink.assign(&[part(0)]).await.unwrap();
    let before = held_bytes();
    let mut next = 0;
    while !sink.is_full() {
        assert_eq!(sink.write(&spread(next, next + 4_000)).await.unwrap(), []);
        next += 4_000;
        let held = held_bytes() - before;
        assert!(held < 48 << 20, "{next} rows in {DAYS} folders hold {} MiB", held >> 20);
    }
    assert!(next > 150_000, "it is full with {next} rows already");
    // What comes next is the engine's flush; nothing was committed by the way.
    assert_eq!(std::fs::read_dir(folder.path().join("table/_delta_log")).unwrap().count(), 1);
}
