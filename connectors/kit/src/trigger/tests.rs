//! Triggers on a paused clock: which events are recorded, which are acknowledged, and when.

use super::*;
use crate::Template;
use crate::polled::{Group, Tag};
use async_trait::async_trait;
use millrace_config::{Place, Problems};
use millrace_contract::{Clash, Command, SourceHost, Status, TagDef, TagOptions};
use millrace_schemas::{Flags, Row};
use parking_lot::Mutex;
use std::collections::HashMap;

/// A log that is synced as soon as something is sent, with positions.
#[derive(Default)]
struct Host {
    positions: Mutex<HashMap<String, Vec<u8>>>,
    durable: tokio::sync::watch::Sender<u64>,
    lost: Mutex<u64>,
}

#[async_trait]
impl SourceHost for Host {
    fn resume(&self, key: &str) -> Option<Vec<u8>> {
        self.positions.lock().get(key).cloned()
    }
    fn positions(&self, _: &str) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }
    fn declare(&self, _: TagDef) -> Result<TagId, Clash> {
        Ok(TagId(0))
    }
    fn retire(&self, _: TagId) {}
    async fn batch(&self) -> Batch {
        Batch::new()
    }
    async fn send(&self, _: Batch, _: &[(&str, &[u8])]) -> AckId {
        AckId(0)
    }
    async fn durable(&self, after: AckId) -> AckId {
        AckId(*self.durable.subscribe().wait_for(|durable| *durable > after.0).await.unwrap())
    }
    async fn command(&self) -> Command {
        std::future::pending().await
    }
    fn lost(&self, _: Loss, count: u64) {
        *self.lost.lock() += count;
    }
    fn alive(&self, _: &str) {}
    fn gone(&self, _: &str) {}
    fn status(&self, _: &str, _: Status) {}
    async fn stopping(&self) {
        std::future::pending().await
    }
    fn is_stopping(&self) -> bool {
        false
    }
}

const DONE: TagId = TagId(3);

/// A PLC's handshake, and one runtime after another that reads it: the group has the fields `serial` and `peak`.
struct Bench {
    host: Arc<Host>,
    polled: Polled<()>,
    triggers: Triggers,
    sent: u64,
    documents: Vec<String>,
}

fn polled(edge: Edge, key: Option<&str>, ack: Option<Ack>) -> Polled<()> {
    let def = |name: &str| TagDef {
        path: name.into(),
        address: String::new(),
        kind: None,
        topic: "t".into(),
        part: "".into(),
        options: Default::default(),
    };
    let tag = |group: usize, name: &str| Tag { address: (), group, name: name.into(), place: Place::NONE, def: def(name), shape: None };
    let key = key.map(|key| Template::parse(key, Place::NONE, &mut Problems::new(), |_| Ok(())).unwrap());
    let trigger = Trigger { tag: 0, edge, ack, route: 0, key, fields: vec![1, 2], position: "trigger/done/t".into() };
    let group = |tags: std::ops::Range<usize>, trigger: Option<Trigger>| Group {
        device: None,
        every: Duration::from_secs(1),
        align: false,
        tags,
        trigger,
        part: "".into(),
        topic: "t".into(),
        options: TagOptions::default(),
        place: Place::NONE,
        own: (),
    };
    Polled {
        devices: Vec::new(),
        groups: vec![group(0..1, None), group(1..4, Some(trigger))],
        tags: vec![tag(0, "done"), tag(1, "serial"), tag(1, "peak"), tag(1, "taken")],
        ..Polled::default()
    }
}

fn ack(set: Option<CommandValue>, reset: Reset) -> Option<Ack> {
    Some(Ack { tag: 3, set, reset })
}

const YES: CommandValue = CommandValue::Bool(true);

impl Bench {
    fn new(edge: Edge, key: Option<&str>, ack: Option<Ack>) -> Self {
        let polled = polled(edge, key, ack);
        let host = Arc::new(Host::default());
        let triggers = Triggers::of(&polled, [1], &[DONE; 4], &SourceIo::new(host.clone()));
        Self { host, polled, triggers, sent: 0, documents: Vec::new() }
    }

    fn io(&self) -> SourceIo {
        SourceIo::new(self.host.clone())
    }

    /// The runtime starts again.
    fn restart(&mut self) {
        self.triggers = Triggers::of(&self.polled, [1], &[DONE; 4], &self.io());
    }

    /// One poll that finds the trigger at these values, and the data of its events with this serial. Returns how many documents were made.
    fn poll(&mut self, values: &[Value], serial: i64) -> usize {
        let mut batch = Batch::new();
        batch.rows.extend(values.iter().map(|value| row(*value)));
        let mut made = 0;
        for event in self.triggers.fired(&batch, 0) {
            let field = |index: usize, out: &mut Vec<u8>| {
                let value = if index == 1 { Value::Int(serial) } else { Value::Double(20.5) };
                write_value(value, StatusCode::GOOD, &[], &TagOptions::default(), out)
            };
            if self.triggers.record(&event, &mut batch, field) == Recorded::New {
                made += 1;
            }
        }
        for doc in &batch.docs {
            self.documents.push(String::from_utf8(batch.bytes_of(doc.payload.unwrap()).to_vec()).unwrap());
        }
        if self.triggers.has_recorded() {
            self.sent += 1;
            for (key, value) in self.triggers.moved() {
                self.host.positions.lock().insert(key.to_owned(), value.to_vec());
            }
            let io = self.io();
            self.triggers.sent(AckId(self.sent), &io);
        }
        made
    }

    fn sync(&self) {
        self.host.durable.send_replace(self.sent);
    }

    /// The next write, carried out; `None`: nothing is to be written.
    async fn write(&mut self) -> Option<CommandValue> {
        let io = self.io();
        let write = tokio::time::timeout(Duration::from_millis(1), self.triggers.next_write(&io)).await.ok()?;
        self.triggers.written(&write, Ok(()), &io);
        assert_eq!(write.tag, 3);
        Some(write.value)
    }
}

impl Bench {
    /// Carries out everything that is to be written; what the device sees in the end.
    async fn last_write(&mut self) -> Option<CommandValue> {
        let mut last = None;
        while let Some(value) = self.write().await {
            last = Some(value);
        }
        last
    }
}

fn row(value: Value) -> Row {
    Row { time: Micros(1), server_time: Micros::NONE, value, tag: DONE, status: StatusCode::GOOD, flags: Flags::default() }
}

fn on(on: bool) -> Value {
    Value::Bool(on)
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_four_phases_and_none_before_the_log_is_synced() {
    let mut bench = Bench::new(Edge::Rising, None, ack(Some(YES), Reset::OnTriggerDown));
    assert_eq!(bench.poll(&[on(false)], 0), 0);
    assert_eq!(bench.poll(&[on(true)], 7), 1);
    assert_eq!(bench.documents, [r#"{"serial":7,"peak":20.5}"#]);
    assert_eq!(bench.write().await, None, "the log is not synced");
    bench.sync();
    assert_eq!(bench.write().await, Some(YES));
    assert_eq!(bench.poll(&[on(true)], 7), 0);
    assert_eq!(bench.write().await, None, "the trigger is up still");
    bench.poll(&[on(false)], 7);
    assert_eq!(bench.write().await, Some(CommandValue::Bool(false)));
    assert_eq!(bench.poll(&[on(true)], 7), 1, "another part may have the same serial, after an edge");
}

#[tokio::test(start_paused = true)]
async fn a_plc_that_started_anew_hands_a_part_again_and_it_is_known_by_its_key() {
    let mut bench = Bench::new(Edge::Rising, Some("{serial}"), ack(Some(YES), Reset::OnTriggerDown));
    assert_eq!(bench.poll(&[on(false), on(true)], 7), 1);
    bench.sync();
    bench.triggers.connected(Before::Unknown);
    assert_eq!(bench.poll(&[on(false)], 0), 0, "its outputs are down until its program has run");
    assert_eq!(bench.poll(&[on(true)], 7), 0, "the part nobody acknowledged to it");
    bench.sync();
    assert_eq!(bench.last_write().await, Some(YES));
    assert_eq!(bench.poll(&[on(false)], 7), 0);
    assert_eq!(bench.poll(&[on(true)], 8), 1);
    assert_eq!(bench.poll(&[on(false)], 8), 0);
    assert_eq!(bench.poll(&[on(true)], 8), 1, "worked on twice, on one connection");
}

#[tokio::test(start_paused = true)]
async fn every_part_is_recorded_once_through_restarts_at_every_point_of_the_handshake() {
    for crash_at in 0..5 {
        let mut bench = Bench::new(Edge::Rising, Some("{serial}"), ack(Some(YES), Reset::OnTriggerDown));
        let mut recorded = 0;
        for part in 1..4 {
            let is_hit = part == 2;
            let crash = |bench: &mut Bench, at: usize| {
                if is_hit && crash_at == at {
                    bench.restart();
                }
            };
            recorded += bench.poll(&[on(false)], 0);
            crash(&mut bench, 0);
            recorded += bench.poll(&[on(true)], part);
            bench.sync();
            crash(&mut bench, 1);
            recorded += bench.poll(&[on(true)], part);
            bench.sync();
            assert_eq!(bench.last_write().await, Some(YES), "part {part}, crash at {crash_at}");
            crash(&mut bench, 2);
            recorded += bench.poll(&[on(true)], part);
            bench.sync();
            bench.last_write().await;
            crash(&mut bench, 3);
            recorded += bench.poll(&[on(false)], part);
            bench.sync();
            let last = bench.last_write().await;
            assert_eq!(last, Some(CommandValue::Bool(false)), "part {part}, crash at {crash_at}: the acknowledgement is taken back");
            crash(&mut bench, 4);
        }
        assert_eq!(recorded, 3, "crash at {crash_at}: {:?}", bench.documents);
    }
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_can_not_be_written_is_written_again_and_the_record_is_not() {
    let mut bench = Bench::new(Edge::Rising, None, ack(Some(YES), Reset::Never));
    bench.poll(&[on(false), on(true)], 1);
    bench.sync();
    let io = bench.io();
    for _ in 0..5 {
        let write = bench.triggers.next_write(&io).await;
        bench.triggers.written(&write, Err("no link"), &io);
        assert_eq!(bench.poll(&[on(true)], 1), 0);
    }
    let write = bench.triggers.next_write(&io).await;
    bench.triggers.connected(Before::Unknown);
    let again = bench.triggers.next_write(&io).await;
    assert_eq!(write, again, "the connection broke under it");
    bench.triggers.written(&again, Ok(()), &io);
    assert_eq!((bench.write().await, bench.documents.len()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_may_be_taken_back_after_a_time() {
    let mut bench = Bench::new(Edge::Rising, None, ack(Some(CommandValue::Int(5)), Reset::After(Duration::from_millis(500))));
    bench.poll(&[on(false), on(true)], 1);
    bench.sync();
    assert_eq!(bench.write().await, Some(CommandValue::Int(5)));
    let (start, io) = (Instant::now(), bench.io());
    let write = bench.triggers.next_write(&io).await;
    assert_eq!((write.value, start.elapsed()), (CommandValue::Int(0), Duration::from_millis(500)));
}

#[tokio::test(start_paused = true)]
async fn a_counter_is_echoed_and_what_it_skips_is_counted_also_over_a_restart() {
    let mut bench = Bench::new(Edge::Counter, None, ack(None, Reset::Never));
    let count = Value::Int;
    assert_eq!(bench.poll(&[count(0)], 0), 0, "nothing was made yet");
    assert_eq!(bench.poll(&[count(1)], 1), 1);
    bench.sync();
    assert_eq!(bench.write().await, Some(CommandValue::Int(1)));
    assert_eq!(bench.poll(&[count(1)], 1) + bench.poll(&[count(4)], 4), 1);
    bench.sync();
    assert_eq!((bench.write().await, *bench.host.lost.lock()), (Some(CommandValue::Int(4)), 2));
    bench.restart();
    assert_eq!(bench.poll(&[count(4)], 4), 0);
    bench.sync();
    assert_eq!(bench.write().await, Some(CommandValue::Int(4)), "nobody knows whether it was told");
    bench.restart();
    assert_eq!((bench.poll(&[count(6)], 6), *bench.host.lost.lock()), (1, 3));
    bench.restart();
    assert_eq!((bench.poll(&[count(1)], 1), *bench.host.lost.lock()), (1, 3), "the counter began anew");
}

#[test]
fn data_that_changes_under_the_read_is_read_again() {
    let mut bench = Bench::new(Edge::Counter, None, None);
    bench.poll(&[Value::Int(1)], 0);
    let mut batch = Batch::new();
    batch.rows.push(row(Value::Int(2)));
    let mut event = bench.triggers.fired(&batch, 0).pop().unwrap();
    assert_eq!(bench.triggers.settle(&mut event, Value::Int(3), &[]), Settled::Again);
    assert_eq!(bench.triggers.settle(&mut event, Value::Int(3), &[]), Settled::Whole);
    assert_eq!((event.count, event.missed, event.is_torn), (Some(3), 1, false));
    assert_eq!(bench.poll(&[Value::Int(3)], 0), 0, "the later event is the one that was read");
    for count in 4.. {
        if bench.triggers.settle(&mut event, Value::Int(count), &[]) == Settled::Whole {
            break;
        }
    }
    assert!(event.is_torn);
    let mut bench = Bench::new(Edge::Rising, None, None);
    bench.poll(&[on(false)], 0);
    batch.rows[0] = row(on(true));
    let mut event = bench.triggers.fired(&batch, 0).pop().unwrap();
    bench.triggers.settle(&mut event, on(false), &[]);
    bench.triggers.record(&event, &mut batch, |_, _| StatusCode::BAD_TIMEOUT);
    let payload = batch.docs[0].payload.unwrap();
    let text = std::str::from_utf8(batch.bytes_of(payload)).unwrap();
    assert!(text.starts_with(r#"{"serial":null,"peak":null,"_torn":true,"_status":{"serial":"#), "{text}");
}

fn fired(edge: Edge, goes_on: bool, values: &[i64]) -> usize {
    let mut bench = Bench::new(edge, None, None);
    bench.triggers.goes_on = goes_on;
    bench.poll(&values.iter().map(|value| Value::Int(*value)).collect::<Vec<_>>(), 1)
}

#[test]
fn the_first_value_is_no_edge_unless_the_subscription_goes_on() {
    assert_eq!(fired(Edge::Rising, false, &[1, 0, 1, 1, 0, 2]), 2);
    assert_eq!(fired(Edge::Rising, true, &[1, 0, 1]), 2);
    assert_eq!(fired(Edge::Falling, false, &[1, 0, 1, 0]), 2);
    assert_eq!(fired(Edge::Change, false, &[1, 1, 2, 1]), 2);
}

#[test]
fn texts_are_compared_by_what_they_say_in_whatever_batch_they_came() {
    let mut bench = Bench::new(Edge::Change, None, None);
    let mut fired = Vec::new();
    for text in ["FA-1", "FA-2", "FA-2", "FA-3"] {
        let mut batch = Batch::new();
        let value = batch.text(text);
        batch.rows.push(row(value));
        fired.push(bench.triggers.fired(&batch, 0).len());
    }
    assert_eq!(fired, [0, 1, 0, 1]);
}

#[test]
fn an_edge_of_a_message_that_comes_again_is_an_edge_again() {
    let mut bench = Bench::new(Edge::Change, None, None);
    bench.poll(&[Value::Int(1)], 0);
    for _ in 0..2 {
        let mark = bench.triggers.mark();
        let mut batch = Batch::new();
        batch.rows.push(row(Value::Int(2)));
        let events = bench.triggers.fired(&batch, 0);
        assert_eq!(events.len(), 1);
        bench.triggers.record(&events[0], &mut batch, |_, _| StatusCode::GOOD);
        bench.triggers.undo(mark);
        assert!(!bench.triggers.has_recorded());
    }
}
