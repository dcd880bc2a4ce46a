//! The suite of sinks.
//!
//! The suite writes numbered records and reads back what the target durably holds. The one promise under test: what a flush calls
//! durable is there, whatever happens next; and where the target holds the offsets itself, nothing is there twice.

use async_trait::async_trait;
use millrace_contract::{Compiled, Failure, Flush, Input, Offset, Partition, Record, Records, Sink};
use millrace_schemas::record::push_header;
use millrace_schemas::{Batch, Flags, Micros, Row, Span, StatusCode, TagId, Value};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The topic that the suite writes; a fixture's YAML says `topics: [conformance]`.
pub const TOPIC: &str = "conformance";

/// A connector's target for conformance tests.
#[async_trait]
pub trait SinkFixture: Send {
    /// Compiles the connector for its target. Must touch nothing.
    fn compile(&self) -> Box<dyn Compiled>;

    /// Whether `compile` touched anything. Asked before the first instance is made.
    fn untouched(&self) -> bool {
        true
    }

    /// Everything the target durably holds, in its order: partition and number of each record, as written with [`payload`].
    async fn read_back(&mut self) -> Vec<(i32, i64)>;

    /// A payload that the target will never take, where there is one.
    fn refused(&self) -> Option<Vec<u8>> {
        None
    }

    /// Breaks the target so that flushing fails, until [`Self::mend`]. `false` where it can't.
    async fn break_target(&mut self) -> bool {
        false
    }

    async fn mend(&mut self) {}
}

/// The payload of a numbered record: JSON, `{"partition":0,"number":7}`.
pub fn payload(partition: i32, number: i64) -> String {
    format!(r#"{{"partition":{partition},"number":{number}}}"#)
}

/// The partition and number of a payload.
pub fn numbered(payload: &str) -> Option<(i32, i64)> {
    let rest = payload.trim().strip_prefix(r#"{"partition":"#)?;
    let (partition, rest) = rest.split_once(r#","number":"#)?;
    Some((partition.parse().ok()?, rest.strip_suffix('}')?.parse().ok()?))
}

/// The time of a numbered record.
pub fn timestamp_ms(number: i64) -> i64 {
    1_750_000_000_000 + number
}

pub fn part(partition: i32) -> Partition {
    Partition { topic: Arc::from(TOPIC), partition }
}

/// Records of one partition; the offset of a record is its number.
pub fn records(input: Input, partition: i32, numbers: Range<i64>) -> Records {
    let mut records = Records { parts: vec![part(partition)], ..Records::default() };
    for number in numbers {
        push(&mut records, number, payload(partition, number).as_bytes());
    }
    if input == Input::Samples {
        records.batch = Some(samples(&records));
    }
    records
}

/// Appends a record with a key and a header to the first partition of `records`.
pub fn push(records: &mut Records, offset: Offset, payload: &[u8]) {
    let key = append(&mut records.heap, |heap| heap.extend_from_slice(format!("key-{offset}").as_bytes()));
    let value = append(&mut records.heap, |heap| heap.extend_from_slice(payload));
    let headers = append(&mut records.heap, |heap| push_header(heap, "millrace.seq", Some(offset.to_string().as_bytes())));
    let timestamp_ms = timestamp_ms(offset);
    records.records.push(Record { part: 0, offset, timestamp_ms, key: Some(key), value: Some(value), headers, prefix: 0 });
}

fn append(heap: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Span {
    let start = heap.len();
    write(heap);
    Span { start: start as u32, len: (heap.len() - start) as u32 }
}

/// Samples beside the records: the value is the payload's text, the tag `conformance/partition`.
fn samples(records: &Records) -> Batch {
    let mut batch = Batch::new();
    let mut columns = millrace_schemas::Columns::default();
    for record in &records.records {
        let text = records.of(record.value.expect("numbered records have values"));
        let value = Value::Text(batch.push_bytes(text));
        let time = Micros(record.timestamp_ms * 1000);
        let flags = Flags::default();
        batch.rows.push(Row { time, server_time: Micros::NONE, value, tag: TagId(0), status: StatusCode::GOOD, flags });
        columns.tag_path.push(batch.push_bytes(format!("test/site/{TOPIC}/{}", records.partition(record).partition).as_bytes()));
        columns.source.push(batch.push_bytes(b"test/site/source"));
        columns.read_time.push(time);
        columns.device_time.push(Micros::NONE);
        columns.def.push(1);
        columns.seq.push(record.offset);
    }
    batch.decoded = Some(columns);
    batch
}

/// One test for each check of the suite, in a module of the name given; `$fixture` makes a new, empty target each time.
#[macro_export]
macro_rules! sink_conforms {
    ($suite:ident, $fixture:expr) => {
        $crate::sink_conforms!(@checks $suite, $fixture, [
            compile_touches_nothing
            what_is_flushed_is_there
            a_flush_of_nothing_claims_nothing
            a_dropped_instance_loses_nothing_flushed
            a_revoked_partition_leaves_the_others
            a_refused_record_is_named_and_passed
            a_failed_target_is_written_by_the_next_instance
        ]);
    };
    (@checks $suite:ident, $fixture:expr, [$($check:ident)*]) => {
        mod $suite {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $check() {
                    let _turn = $crate::conformance::beside_others().await;
                    $crate::conformance::sink::$check(&mut $fixture).await;
                }
            )*
        }
    };
}

/// The engine's side of a sink: what was committed, and where each partition stands.
struct Driver {
    sink: Box<dyn Sink>,
    committed: BTreeMap<i32, Offset>,
    /// Whether the target itself told where to begin.
    target_knows: bool,
}

impl Driver {
    async fn begin(compiled: &dyn Compiled, parts: &[i32], committed: &BTreeMap<i32, Offset>) -> Result<Self, Failure> {
        let mut sink = compiled.sink().expect("a sink conforms, not a source");
        let wanted: Vec<_> = parts.iter().map(|p| part(*p)).collect();
        let held = sink.assign(&wanted).await?;
        assert_eq!(held.len(), wanted.len(), "conformance: assign answers for each partition");
        let mut committed = committed.clone();
        for (partition, offset) in parts.iter().zip(&held) {
            if let Some(offset) = offset {
                committed.insert(*partition, *offset);
            }
        }
        Ok(Self { target_knows: held.iter().any(Option::is_some), sink, committed })
    }

    async fn write(&mut self, partition: i32, numbers: Range<i64>) -> Result<(), Failure> {
        let refused = self.sink.write(&records(self.sink.input(), partition, numbers)).await?;
        assert_eq!(refused, [], "conformance: nothing is wrong with these records");
        Ok(())
    }

    async fn flush(&mut self, why: Flush) -> Result<(), Failure> {
        for (partition, below) in self.sink.flush(why).await?.below {
            let before = self.committed.insert(partition.partition, below);
            assert!(before.is_none_or(|before| before <= below), "conformance: flushed offsets never go back");
        }
        Ok(())
    }

    fn committed(&self, partition: i32) -> Offset {
        self.committed.get(&partition).copied().unwrap_or(0)
    }
}

/// Below every committed offset each number is in the target, in order within its partition; once, where it keeps the offsets itself.
async fn assert_held(check: &str, fixture: &mut impl SinkFixture, driver: &Driver, parts: &[i32], once: bool) {
    let held = fixture.read_back().await;
    for partition in parts {
        let numbers: Vec<_> = held.iter().filter(|(p, _)| p == partition).map(|(_, n)| *n).collect();
        for number in 0..driver.committed(*partition) {
            let times = numbers.iter().filter(|n| **n == number).count();
            assert!(times > 0, "conformance: {check}: record {number} of partition {partition} was called durable and is not there");
            assert!(times == 1 || !once, "conformance: {check}: record {number} of partition {partition} is there {times} times");
        }
        if once {
            assert!(numbers.is_sorted(), "conformance: {check}: partition {partition} is out of order: {numbers:?}");
        }
    }
}

pub async fn compile_touches_nothing(fixture: &mut impl SinkFixture) {
    let compiled = fixture.compile();
    assert!(fixture.untouched(), "conformance: compile_touches_nothing: compiling did I/O");
    let sink = compiled.sink().expect("a sink conforms, not a source");
    assert!(!sink.flush_every().is_zero(), "conformance: compile_touches_nothing: flush_every is zero");
}

pub async fn what_is_flushed_is_there(fixture: &mut impl SinkFixture) {
    let check = "what_is_flushed_is_there";
    let mut driver = Driver::begin(&*fixture.compile(), &[0, 1], &BTreeMap::new()).await.expect(check);
    for round in 0..5 {
        driver.write(0, round * 20..round * 20 + 20).await.expect(check);
        driver.write(1, round * 10..round * 10 + 10).await.expect(check);
        driver.flush(Flush::Tick).await.expect(check);
    }
    driver.flush(Flush::Stop).await.expect(check);
    assert_eq!((driver.committed(0), driver.committed(1)), (100, 50), "conformance: {check}: a stop makes everything durable");
    driver.sink.revoke(&[part(0), part(1)]).await.expect(check);
    assert_held(check, fixture, &driver, &[0, 1], true).await;
}

pub async fn a_flush_of_nothing_claims_nothing(fixture: &mut impl SinkFixture) {
    let check = "a_flush_of_nothing_claims_nothing";
    let mut driver = Driver::begin(&*fixture.compile(), &[0], &BTreeMap::new()).await.expect(check);
    driver.flush(Flush::Tick).await.expect(check);
    assert_eq!(driver.committed(0), 0, "conformance: {check}");
    driver.flush(Flush::Stop).await.expect(check);
    driver.sink.revoke(&[part(0)]).await.expect(check);
    driver.sink.revoke(&[]).await.expect(check);
}

/// Killed between write and flush, five times: the next instance begins where the target or the group stands.
pub async fn a_dropped_instance_loses_nothing_flushed(fixture: &mut impl SinkFixture) {
    let check = "a_dropped_instance_loses_nothing_flushed";
    let mut committed = BTreeMap::new();
    let mut target_knows = true;
    for round in 0..5 {
        let mut driver = Driver::begin(&*fixture.compile(), &[0], &committed).await.expect(check);
        // A target that never held anything can't know; from the second time on it does or it doesn't.
        target_knows &= driver.target_knows || round == 0;
        let from = driver.committed(0);
        driver.write(0, from..from + 30).await.expect(check);
        driver.flush(Flush::Tick).await.expect(check);
        let flushed = driver.committed(0);
        driver.write(0, from + 30..from + 50).await.expect(check);
        // In odd rounds the flush succeeded and the commit to Kafka did not.
        if round % 2 == 0 || target_knows {
            committed.insert(0, flushed);
        }
        assert_held(check, fixture, &driver, &[0], target_knows).await;
        drop(driver);
    }
    let mut driver = Driver::begin(&*fixture.compile(), &[0], &committed).await.expect(check);
    let from = driver.committed(0);
    driver.write(0, from..from + 10).await.expect(check);
    driver.flush(Flush::Stop).await.expect(check);
    assert_held(check, fixture, &driver, &[0], target_knows).await;
}

pub async fn a_revoked_partition_leaves_the_others(fixture: &mut impl SinkFixture) {
    let check = "a_revoked_partition_leaves_the_others";
    let mut driver = Driver::begin(&*fixture.compile(), &[0, 1], &BTreeMap::new()).await.expect(check);
    driver.write(0, 0..20).await.expect(check);
    driver.write(1, 0..20).await.expect(check);
    driver.flush(Flush::Revoke).await.expect(check);
    assert_eq!((driver.committed(0), driver.committed(1)), (20, 20), "conformance: {check}: a revoke makes everything durable");
    driver.sink.revoke(&[part(1)]).await.expect(check);
    driver.write(0, 20..40).await.expect(check);
    driver.flush(Flush::Tick).await.expect(check);
    driver.flush(Flush::Stop).await.expect(check);
    assert_eq!(driver.committed(0), 40, "conformance: {check}");
    assert_held(check, fixture, &driver, &[0, 1], true).await;
}

pub async fn a_refused_record_is_named_and_passed(fixture: &mut impl SinkFixture) {
    let check = "a_refused_record_is_named_and_passed";
    let Some(poison) = fixture.refused() else { return };
    let mut driver = Driver::begin(&*fixture.compile(), &[0], &BTreeMap::new()).await.expect(check);
    let mut mixed = Records { parts: vec![part(0)], ..Records::default() };
    push(&mut mixed, 0, payload(0, 0).as_bytes());
    push(&mut mixed, 1, &poison);
    push(&mut mixed, 2, payload(0, 2).as_bytes());
    let mut refused = driver.sink.write(&mixed).await.expect(check);
    let flushed = driver.sink.flush(Flush::Stop).await.expect(check);
    refused.extend(flushed.refused);
    assert_eq!(refused.iter().map(|r| r.offset).collect::<Vec<_>>(), [1], "conformance: {check}: exactly the poison is refused");
    assert!(!refused[0].reason.is_empty(), "conformance: {check}: a refusal has a reason");
    assert_eq!(flushed.below, [(part(0), 3)], "conformance: {check}: a refused record does not hold the others back");
    assert_eq!(fixture.read_back().await, [(0, 0), (0, 2)], "conformance: {check}");
}

pub async fn a_failed_target_is_written_by_the_next_instance(fixture: &mut impl SinkFixture) {
    let check = "a_failed_target_is_written_by_the_next_instance";
    let mut driver = Driver::begin(&*fixture.compile(), &[0], &BTreeMap::new()).await.expect(check);
    driver.write(0, 0..20).await.expect(check);
    driver.flush(Flush::Tick).await.expect(check);
    let committed = driver.committed.clone();
    if !fixture.break_target().await {
        return;
    }
    let failed = match driver.write(0, 20..40).await {
        Ok(()) => driver.flush(Flush::Tick).await,
        failed => failed,
    };
    assert!(failed.is_err(), "conformance: {check}: a broken target fails the flush");
    assert_eq!(driver.committed, committed, "conformance: {check}: a failed flush claims nothing");
    drop(driver);
    fixture.mend().await;

    let mut driver = Driver::begin(&*fixture.compile(), &[0], &committed).await.expect(check);
    let from = driver.committed(0);
    driver.write(0, from..60).await.expect(check);
    driver.flush(Flush::Stop).await.expect(check);
    assert_eq!(driver.committed(0), 60, "conformance: {check}");
    assert_held(check, fixture, &driver, &[0], driver.target_knows).await;
}
