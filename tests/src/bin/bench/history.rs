//! One tag of a thousand at 1 Hz over thirty days, out of the lake, against DuckDB on the same files in the same minute.
//!
//! The files are the product's own, as large as compaction makes them and written by the same writer, and each holds every tag. One day is
//! made: the other days name the same files again (hard links, entries in the log), since thirty different ones would be 20 GB and half an hour. Each is
//! opened, searched and decoded like any other. Both sides have the samples in memory in the end, in the order of time: here as the answer of
//! [`millrace_lake::ask`], the table's opening included; there as an Arrow table, the list of files given.

use crate::figures::{Row, row};
use millrace_lake::config::Shape;
use millrace_lake::encode::{Encoded, FileWriter, batches};
use millrace_lake::rows::{Folder, Rows};
use millrace_lake::table::Table;
use millrace_lake::{Place, Question, Series, Tail, What};
use millrace_schemas::{Batch, Columns, Flags, Micros, Row as Sample, StatusCode, TagId, Value};
use millrace_tests::{Script, peers, scratch};
use serde_json::json;
use std::path::Path;

const TAGS: usize = 1_000;
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400;
/// 2026-11-01, in days since 1970.
const FIRST: i32 = 20_758;
const DAYS: i64 = 30;
/// The hours of a day and of one of its files: of all of it about what compaction aims at.
const WHOLE: (i64, i64) = (24, 4);
const QUICK: (i64, i64) = (1, 1);
/// Tags made at once.
const GROUP: usize = 25;
const ROUNDS: usize = 5;

fn tag(number: usize) -> String {
    format!("acme/plant/hall/machine-{number:03}/temperature")
}

/// All tags over some seconds of the first day, as one file.
fn file(table: &Table, seconds: std::ops::Range<i64>) -> Encoded {
    let form = table.form().expect("a form");
    let mut writer = FileWriter::new(table.stats_columns(), &form).expect("a writer");
    for first in (0..TAGS).step_by(GROUP) {
        let mut noise = fastrand::Rng::with_seed(first as u64);
        let (mut batch, mut columns) = (Batch::new(), Columns::default());
        let source = batch.push_bytes(b"acme/plant/load");
        for number in first..first + GROUP {
            let name = batch.push_bytes(tag(number).as_bytes());
            for second in seconds.clone() {
                let time = i64::from(FIRST) * DAY * SECOND + second * SECOND + noise.i64(0..1_000) * 1_000;
                let value = (20_000.0 + (second as f64 / 600.0).sin() * 2_000.0 + noise.f64() * 200.0).round() / 100.0;
                batch.rows.push(Sample {
                    time: Micros(time),
                    server_time: Micros::NONE,
                    value: Value::Double(value),
                    tag: TagId(0),
                    status: StatusCode::GOOD,
                    flags: Flags::default(),
                });
                columns.tag_path.push(name);
                columns.source.push(source);
                columns.read_time.push(Micros(time + noise.i64(200..2_000)));
                columns.device_time.push(Micros::NONE);
                columns.def.push(1);
                columns.seq.push(second * TAGS as i64 + number as i64);
            }
        }
        let mut rows = Rows::default();
        (0..batch.rows.len()).for_each(|index| rows.push(&batch, &columns, index, None).expect("a sample"));
        for (_, batch) in batches(&rows, &form).expect("columns") {
            writer.write(&batch).expect("a batch");
        }
    }
    writer.finish().expect("a file")
}

/// The table of the first day; its rows.
fn first_day(place: &Place, (hours, each): (i64, i64), runtime: &tokio::runtime::Runtime) -> u64 {
    let mut table = Table::open(place, true, runtime.handle().clone()).expect("a table");
    let folder = Folder { day: FIRST, level: None };
    let slices: Vec<i64> = (0..hours / each).collect();
    // Two at a time: each is in memory until it is put.
    let files: Vec<_> = slices
        .chunks(2)
        .flat_map(|pair| {
            std::thread::scope(|scope| {
                let threads: Vec<_> = pair
                    .iter()
                    .map(|slice| {
                        let (table, folder) = (&table, &folder);
                        scope.spawn(move || {
                            let seconds = slice * each * 3_600..(slice + 1) * each * 3_600;
                            table.put(folder, &format!("part-{slice}.zstd.parquet"), file(table, seconds)).expect("it is put")
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().expect("it is made")).collect::<Vec<_>>()
            })
        })
        .collect();
    table.commit(&files, &[], &[]).expect("it is committed");
    files.iter().map(|file| file.rows as u64).sum()
}

/// Names the files of the first day again, as those of another.
fn other_days(folder: &Path) {
    let log = |version: u64| folder.join(format!("_delta_log/{version:020}.json"));
    let newest = (0..).take_while(|version| log(*version).exists()).last().expect("a log");
    let text = std::fs::read_to_string(log(newest)).expect("the log can be read");
    let adds: Vec<&str> = text.lines().filter(|line| line.starts_with("{\"add\"")).collect();
    assert!(!adds.is_empty(), "{text}");
    let first = jiff::civil::date(2026, 11, 1);
    let mut entry = String::new();
    for day in 1..DAYS {
        let date = first + jiff::Span::new().days(day);
        std::fs::create_dir_all(folder.join(format!("date={date}"))).expect("a folder");
        for add in &adds {
            entry.push_str(
                &add.replace("2026-11-01/", &format!("{date}/")).replace("\"date\":\"2026-11-01\"", &format!("\"date\":\"{date}\"")),
            );
            entry.push('\n');
        }
        for file in std::fs::read_dir(folder.join(format!("date={first}"))).expect("a folder") {
            let file = file.expect("a file").path();
            let link = folder.join(format!("date={date}")).join(file.file_name().expect("a name"));
            std::fs::hard_link(&file, link).expect("a link");
        }
    }
    std::fs::write(log(newest + 1), entry).expect("the log can be written");
}

pub fn history(quick: bool) -> Vec<Row> {
    let folder = scratch("history");
    let table = folder.path().join("table");
    let place = Place { shape: Shape::Samples(None), ..Place::bare(&table.display().to_string()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let shape = if quick { QUICK } else { WHOLE };
    let (hours, _) = shape;
    let rows = first_day(&place, shape, &runtime);
    assert_eq!(rows, (hours * 3_600) as u64 * TAGS as u64);
    other_days(&table);
    let size: u64 = std::fs::read_dir(table.join("date=2026-11-01"))
        .expect("a folder")
        .map(|file| file.and_then(|file| file.metadata()).expect("a file").len())
        .sum();
    let whole = size * DAYS as u64;
    let name = tag(500);
    let start = i64::from(FIRST) * DAY * SECOND;
    let question = Question {
        tag: name.clone(),
        range: start..start + DAYS * DAY * SECOND,
        what: What::Samples,
        lookback_days: 0,
        limit: usize::MAX,
        budget: u64::MAX,
        tail: Tail::default(),
    };
    let mut command = peers::python(peers::lake());
    command.arg(peers::scripts().join("lake.py"));
    let mut readers = Script::start("the readers of the lake", command, "ready");
    let mut best = (f64::INFINITY, f64::INFINITY);
    let (mut bytes, mut count) = (0, 0);
    for _ in 0..ROUNDS {
        let began = std::time::Instant::now();
        let answer = millrace_lake::ask(&place, &question, runtime.handle().clone()).expect("it answers");
        best.0 = best.0.min(began.elapsed().as_secs_f64());
        let Series::Samples(samples) = &answer.series else { panic!("samples were asked for") };
        (bytes, count) = (answer.bytes, samples.len());
        let duck = readers.order(json!({"range": table, "tag": name}));
        assert_eq!(duck["rows"].as_u64(), Some(count as u64), "{duck}");
        best.1 = best.1.min(duck["seconds"].as_f64().unwrap_or(f64::INFINITY));
    }
    assert_eq!(count as i64, hours * 3_600 * DAYS);
    vec![
        row(
            format!(
                "history: one tag of {TAGS} at 1 Hz over {DAYS} days of {hours} h ({count} of {} samples), against DuckDB",
                rows * DAYS as u64
            ),
            format!("{:.0} ms", best.0 * 1e3),
            "<= 1.5",
            format!("{:.2}", best.0 / best.1),
        ),
        row(
            "  bytes of the table read for it",
            format!("{:.1} of {:.0} MiB", bytes as f64 / f64::from(1 << 20), whole as f64 / f64::from(1 << 20)),
            "< 2 %",
            format!("{:.2} %", bytes as f64 / whole as f64 * 100.0),
        ),
    ]
}
