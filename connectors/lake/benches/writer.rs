//! Rows into Parquet: what the lake makes of samples that wait (sorting, columns, encoding, statistics), against arrow's writer alone on the same rows,
//! already sorted and in columns.
//!
//!   cargo bench -p millrace-lake --features tables -- [ROWS]

use arrow_array::RecordBatch;
use millrace_lake::config::Shape;
use millrace_lake::encode::{Form, encode, properties};
use millrace_lake::layout;
use millrace_lake::rows::Rows;
use millrace_schemas::{Batch, Columns, Flags, Micros, Row, StatusCode, TagId, Value};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use std::time::Instant;

const TAGS: u64 = 500;
const ROUNDS: usize = 5;

/// Samples in the order of time, as they come from Kafka.
fn samples(count: u64) -> Batch {
    let mut noise = fastrand::Rng::with_seed(7);
    let (mut batch, mut columns) = (Batch::new(), Columns::default());
    let source = batch.push_bytes(b"acme/plant/load");
    let tags: Vec<_> = (0..TAGS).map(|tag| batch.push_bytes(format!("acme/plant/hall/machine-{tag}/temperature").as_bytes())).collect();
    for n in 0..count {
        let time = 1_795_824_000_000_000 + (n / TAGS) as i64 * 1_000_000 + noise.i64(0..1_000) * 1_000;
        let value = Value::Double((20_000.0 + noise.f64() * 200.0).round() / 100.0);
        let row =
            Row { time: Micros(time), server_time: Micros::NONE, value, tag: TagId(0), status: StatusCode::GOOD, flags: Flags::default() };
        batch.rows.push(row);
        columns.tag_path.push(tags[(n % TAGS) as usize]);
        columns.source.push(source);
        columns.read_time.push(Micros(time + noise.i64(200..2_000)));
        columns.device_time.push(Micros::NONE);
        columns.def.push(1);
        columns.seq.push(n as i64);
    }
    batch.decoded = Some(columns);
    batch
}

fn main() {
    let count: u64 = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(500_000);
    let batch = samples(count);
    let columns = batch.decoded.as_ref().expect("it was decoded");
    let shape = Shape::Samples(None);
    let table = layout::schema(&shape).expect("a schema");
    let form = Form::new(&shape, &table).expect("a form");
    let best = |mut run: Box<dyn FnMut() -> usize + '_>| {
        let mut best = f64::INFINITY;
        let mut bytes = 0;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            bytes = run();
            best = best.min(began.elapsed().as_secs_f64());
        }
        (best, bytes)
    };
    let mut rows = Rows::default();
    let (pushed, _) = best(Box::new(|| {
        rows = Rows::default();
        (0..batch.rows.len()).for_each(|index| rows.push(&batch, columns, index, None).expect("a sample"));
        rows.count()
    }));
    let ranks = rows.names.ranks();
    let file = |rows: &Rows| {
        let (_, buffer) = rows.folders().next().expect("one day");
        encode(buffer, &rows.names, &ranks, &[], &form).expect("a file")
    };
    let (ours, bytes) = best(Box::new(|| file(&rows).bytes.len()));
    let whole = bytes::Bytes::from(file(&rows).bytes);
    let options = ArrowReaderOptions::new().with_schema(form.arrow.clone());
    let sorted: Vec<RecordBatch> = ParquetRecordBatchReaderBuilder::try_new_with_options(whole, options)
        .and_then(|builder| builder.with_batch_size(16_384).build())
        .expect("it can be read")
        .map(|batch| batch.expect("a batch"))
        .collect();
    let (alone, _) = best(Box::new(|| {
        let options = ArrowWriterOptions::new().with_properties(properties(&form)).with_skip_arrow_metadata(true);
        let mut writer = ArrowWriter::try_new_with_options(Vec::new(), form.arrow.clone(), options).expect("a writer");
        sorted.iter().for_each(|batch| writer.write(batch).expect("a batch"));
        writer.into_inner().expect("a file").len()
    }));
    let rate = |seconds: f64| count as f64 / seconds;
    println!("{count} samples of {TAGS} tags, best of {ROUNDS}");
    println!("taken from Kafka's batch   {:>12.0} rows/s", rate(pushed));
    println!("sorted and written         {:>12.0} rows/s   {:.1} bytes a row", rate(ours), bytes as f64 / count as f64);
    println!("arrow's writer alone       {:>12.0} rows/s", rate(alone));
    println!("ratio                      {:>12.2}          goal 0.7", alone / ours);
}
