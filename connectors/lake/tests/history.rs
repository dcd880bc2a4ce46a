//! One tag out of files of many: every sample of it and no other, whatever row groups and pages it lies in, and without reading the rest.
#![cfg(feature = "tables")]

use bytes::Bytes;
use millrace_lake::config::Shape;
use millrace_lake::encode::{Encoded, FileWriter, batches, properties};
use millrace_lake::rows::{Folder, Rows};
use millrace_lake::series::{Sample, Value};
use millrace_lake::table::Table;
use millrace_lake::{Answer, Place, Question, Series, Tail, What, ask};
use millrace_schemas::{Batch, Columns, Flags, Micros, Quality, Row, StatusCode, TagId};
use parquet::arrow::ArrowWriter;
use std::collections::BTreeMap;
use std::ops::Range;

const DAY: i64 = 86_400_000_000;
const SECOND: i64 = 1_000_000;
const TAGS: i64 = 10;
/// Of each tag, on each day, in each of its files.
const EACH: i64 = 1_500;

fn tag(number: i64) -> String {
    format!("acme/plant/machine-{number}/speed")
}

/// Samples of all tags from a second on, one every two seconds, as a file of small row groups and pages.
fn file(table: &Table, day: i64, first: i64) -> Encoded {
    let (mut batch, mut columns) = (Batch::new(), Columns::default());
    let source = batch.push_bytes(b"acme/plant/load");
    for number in 0..TAGS {
        let name = batch.push_bytes(tag(number).as_bytes());
        for n in 0..EACH {
            let second = first + 2 * n;
            let time = day * DAY + second * SECOND;
            let value = millrace_schemas::Value::Double((number * 100_000 + second) as f64);
            let (tag, status) = (TagId(0), StatusCode::GOOD);
            batch.rows.push(Row { time: Micros(time), server_time: Micros::NONE, value, tag, status, flags: Flags::default() });
            columns.tag_path.push(name);
            columns.source.push(source);
            columns.read_time.push(Micros(time));
            columns.device_time.push(Micros::NONE);
            columns.def.push(1);
            columns.seq.push(second);
        }
    }
    let mut rows = Rows::default();
    (0..batch.rows.len()).for_each(|index| rows.push(&batch, &columns, index, None).unwrap());
    let form = table.form().unwrap();
    let small = properties(&form).into_builder().set_max_row_group_row_count(Some(4_000)).set_data_page_row_count_limit(256);
    let small = small.set_write_batch_size(256).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), form.arrow.clone(), Some(small)).unwrap();
    let mut stats = FileWriter::new(table.stats_columns(), &form).unwrap();
    for (_, batch) in batches(&rows, &form).unwrap() {
        writer.write(&batch).unwrap();
        stats.write(&batch).unwrap();
    }
    Encoded { bytes: writer.into_inner().unwrap(), ..stats.finish().unwrap() }
}

/// A table of two days in two files each, whose samples alternate; its size.
fn table(folder: &std::path::Path, runtime: &tokio::runtime::Handle) -> (Place, u64) {
    let place = Place { shape: Shape::Samples(None), ..Place::bare(&folder.display().to_string()) };
    let mut table = Table::open(&place, true, runtime.clone()).unwrap();
    let mut files = Vec::new();
    for (day, first) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let encoded = file(&table, day, first);
        let groups = parquet::file::metadata::ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(encoded.bytes.clone())).unwrap();
        assert!(groups.num_row_groups() > 3);
        files.push(table.put(&Folder { day: day as i32, level: None }, &format!("part-{day}-{first}.parquet"), encoded).unwrap());
    }
    table.commit(&files, &[], &[]).unwrap();
    (place, files.iter().map(|file| file.size).sum())
}

fn answer(place: &Place, tag: &str, range: Range<i64>, what: What, runtime: &tokio::runtime::Handle) -> Answer {
    let question = Question { tag: tag.to_owned(), range, what, lookback_days: 3, limit: 100_000, budget: u64::MAX, tail: Tail::default() };
    ask(place, &question, runtime.clone()).unwrap()
}

#[test]
fn every_sample_of_a_tag_is_found_and_the_rest_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (place, size) = table(folder.path(), runtime.handle());
    let mut random = fastrand::Rng::with_seed(7);
    // The first, the last, and one in between.
    for number in [0, 4, TAGS - 1] {
        // All, nothing, and whatever lies in between.
        let at = |random: &mut fastrand::Rng| random.i64(0..2) * DAY + random.i64(0..3_200) * SECOND;
        let mut ranges = vec![0..2 * DAY, DAY - 1..DAY];
        ranges.extend((0..5).map(|_| at(&mut random)..at(&mut random)).filter(|range| range.start < range.end));
        for range in ranges {
            let found = answer(&place, &tag(number), range.clone(), What::Samples, runtime.handle());
            let expected: BTreeMap<i64, f64> = (0..2)
                .flat_map(|day| (0..2 * EACH).map(move |second| (day * DAY + second * SECOND, (number * 100_000 + second) as f64)))
                .filter(|(time, _)| range.contains(time))
                .collect();
            let Series::Samples(samples) = &found.series else { panic!("{found:?}") };
            let values = |sample: &Sample| match sample.value {
                Value::Double(value) => (sample.time, value),
                ref other => panic!("{other:?}"),
            };
            assert!(samples.iter().map(values).eq(expected), "{range:?}: {} samples", samples.len());
            assert!(found.bytes < size / 2, "{} of {size} bytes were read", found.bytes);
        }
    }
    let nobody = answer(&place, "acme/plant/machine-5/spee", 0..2 * DAY, What::Samples, runtime.handle());
    assert_eq!(nobody.series, Series::Samples(Vec::new()));
}

#[test]
fn the_last_line_of_a_range_leads_to_a_sample_of_another_day() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (place, _) = table(folder.path(), runtime.handle());
    // The last one of the first day is 2999 at 2999 s; the next one is 0, at midnight.
    let last = 2 * EACH - 1;
    let end = 86_400;
    let range = last * SECOND..(end - 1) * SECOND;
    let line = |linear| {
        let found = answer(&place, &tag(0), range.clone(), What::At { every: (end - last) / 3 * SECOND, linear }, runtime.handle());
        let Series::Points(points) = found.series else { panic!("{:?}", found.series) };
        points.iter().map(|point| (point.value.map(f64::round), point.quality)).collect::<Vec<_>>()
    };
    let good = |value| (Some(value), Quality::Good);
    let held = f64::from(last as i32);
    assert_eq!(line(true), [good(held), good((held * 2.0 / 3.0).round()), good((held / 3.0).round())]);
    assert_eq!(line(false), [good(held); 3]);
    // Behind the last of all there is nothing to draw a line to.
    let behind = DAY + last * SECOND;
    let found = answer(&place, &tag(0), behind..behind + 2 * SECOND, What::At { every: SECOND, linear: true }, runtime.handle());
    let Series::Points(points) = found.series else { panic!("{:?}", found.series) };
    assert_eq!(points.iter().map(|point| point.value).collect::<Vec<_>>(), [Some(held), Some(held)]);
}
