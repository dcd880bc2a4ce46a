//! The intake over a real log on disk: what is sent is appended once, counted once, acknowledged when synced, and known again after a restart.

use millrace_contract::{AckId, Clash, Failure, Model, Route, Source, SourceIo, TagDef, TagOptions};
use millrace_engine::frame::{Frame, Lane, records};
use millrace_engine::hold::Order;
use millrace_engine::intake::{ClockWindow, Intake, IntakeOptions};
use millrace_engine::paths::Paths;
use millrace_engine::schema_store::SchemaStore;
use millrace_engine::source::{Host, supervise};
use millrace_engine::source_logs::CURSOR;
use millrace_engine::status::Board;
use millrace_engine::taps::Taps;
use millrace_engine::topics::{Format, LATEST, Topic, Topics};
use millrace_engine::wide_layout::Shape;
use millrace_log::{Full, ReadBuf, Store, StoreOptions};
use millrace_schemas::contract::{Contract, Kind as Language};
use millrace_schemas::{Batch, Doc, Flags, Micros, Origin, Reject, RouteId, Row, Span, StatusCode, TagId, TimeSource, Value};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

fn tag(path: &str) -> TagDef {
    TagDef {
        path: path.to_owned(),
        address: path.to_owned(),
        kind: None,
        topic: "telemetry".into(),
        part: "".into(),
        options: Arc::new(TagOptions::default()),
    }
}

fn model() -> Model {
    let route = |topic: &str| Route { topic: topic.into(), name: "a filter".to_owned(), samples: false };
    Model { tags: vec![tag("body/force"), TagDef { topic: "alarms".into(), ..tag("body/alarm") }], routes: vec![route("orders")] }
}

fn topics() -> Topics {
    Topics::new([
        Topic { format: Format::Avro, ..Topic::undeclared("telemetry") },
        Topic { lane: Lane::First, ..Topic::undeclared("alarms") },
    ])
}

struct Bench {
    store: Store,
    intake: Arc<Intake>,
}

impl Bench {
    fn open(dir: &Path, size: u64, full: Full) -> Self {
        Self::with(dir, size, full, &model(), &topics())
    }

    fn with(dir: &Path, size: u64, full: Full, model: &Model, topics: &Topics) -> Self {
        let store = Store::open(dir.join("log"), StoreOptions::default()).unwrap();
        let intake = Intake::open(
            &store,
            IntakeOptions {
                site: "acme/plant",
                name: "press",
                model,
                topics,
                clock: ClockWindow::default(),
                log_size: size,
                full,
                sync: Duration::from_millis(200),
                compress: true,
                dir: dir.join("sources/press"),
                taps: Arc::new(Taps::default()),
                paths: Default::default(),
            },
        )
        .unwrap();
        Self { store, intake }
    }

    fn small(dir: &Path) -> Self {
        Self::open(dir, 64 << 20, Full::Block)
    }

    async fn send(&self, rows: &[Row], moved: &[(&str, &[u8])]) -> AckId {
        let mut batch = self.intake.batch().await;
        batch.rows.extend_from_slice(rows);
        self.intake.send(batch, moved).await
    }

    /// Every record of a lane: offset, topic, key, value.
    fn records(&self, lane: Lane) -> Vec<(u64, String, Vec<u8>, Vec<u8>)> {
        let (_, log) = self.intake.source_logs.lanes.iter().find(|(l, _)| *l == lane).unwrap();
        let mut found = Vec::new();
        let mut buffer = ReadBuf::default();
        let mut at = log.start();
        while log.read(at, 1 << 20, &mut buffer).unwrap() > 0 {
            for batch in buffer.batches() {
                let frame = Frame::read(batch.payload).unwrap();
                let mut body = Vec::new();
                frame.unpack(&mut body).unwrap();
                for record in records(&body, &frame.topics) {
                    let record = record.unwrap();
                    found.push((
                        batch.first + record.delta,
                        frame.topics[record.topic].0.to_owned(),
                        record.key.map(|r| body[r].to_vec()).unwrap_or_default(),
                        record.value.map(|r| body[r].to_vec()).unwrap_or_default(),
                    ));
                }
                at = batch.next;
            }
        }
        found
    }

    fn data(&self, lane: Lane) -> Vec<(u64, String, Vec<u8>, Vec<u8>)> {
        self.records(lane).into_iter().filter(|(_, topic, ..)| topic != "millrace.tags").collect()
    }
}

fn row(tag: u32, value: Value) -> Row {
    Row {
        time: Micros::now(),
        server_time: Micros::NONE,
        value,
        tag: TagId(tag),
        status: StatusCode::GOOD,
        flags: Flags::new(Origin::Change, TimeSource::Device),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_in_the_log_once_and_acknowledged_when_it_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::small(dir.path());
    let first = bench.send(&[row(0, Value::Int(1)), row(0, Value::Int(1)), row(0, Value::Int(2))], &[]).await;
    let second = bench.send(&[row(1, Value::Bool(true))], &[]).await;
    assert!(second > first);
    assert!(bench.intake.durable(first).await >= second);

    let normal = bench.data(Lane::Normal);
    assert_eq!(normal.len(), 2, "the repeat was filtered");
    assert_eq!(normal[0].2, b"acme/plant/body/force", "the key is the tag's path");
    let mut batch = Batch::new();
    millrace_schemas::avro::decode(&normal[0].3, &mut batch).unwrap();
    assert_eq!((batch.rows[0].value, batch.rows[0].flags.origin), (Value::Int(1), Origin::Initial));
    let columns = batch.decoded.as_ref().unwrap();
    assert_eq!((batch.text_of(columns.source[0]), columns.seq[0] as u64), ("acme/plant/press", normal[0].0), "the identity is the offset");
    assert_eq!(bench.data(Lane::First).len(), 1, "alarms have a lane of their own");

    let ledger = bench.intake.ledger.snapshot();
    assert!(ledger.adds_up());
    assert_eq!((ledger.received, ledger.filtered, ledger.appended, ledger.waiting), (4, 1, 3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_knows_positions_counts_and_never_uses_an_identity_twice() {
    let dir = tempfile::tempdir().unwrap();
    let last = {
        let bench = Bench::small(dir.path());
        bench.send(&[row(0, Value::Int(1)), row(1, Value::Int(1))], &[("file", b"7"), ("other", b"1")]).await;
        let id = bench.send(&[row(0, Value::Int(2))], &[("file", b"9"), ("other", b"")]).await;
        bench.intake.durable(AckId(id.0 - 1)).await;
        let last = bench.records(Lane::Normal).last().unwrap().0;
        // No clean stop: the store is dropped as a kill would leave it, but for the lock.
        drop(bench);
        last
    };
    let bench = Bench::small(dir.path());
    assert_eq!(bench.intake.resume("file").as_deref(), Some(&b"9"[..]));
    assert_eq!(bench.intake.resume("other"), None);
    assert!(!bench.intake.is_new);
    let ledger = bench.intake.ledger.snapshot();
    assert!(ledger.adds_up());
    assert_eq!(ledger.appended, 3);
    bench.send(&[row(0, Value::Int(2))], &[]).await;
    let records = bench.data(Lane::Normal);
    assert_eq!(records.len(), 3, "the first value after a start is initial, never filtered");
    assert!(records.last().unwrap().0 > last);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_keep_their_bytes_and_rejects_become_dead_letters_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::small(dir.path());
    let mut batch = bench.intake.batch().await;
    let (key, payload, broken) = (batch.push_bytes(b"42"), batch.push_bytes(b"{\"a\": 1}"), batch.push_bytes(b"{oops"));
    let time = batch.read_time;
    batch.docs.push(Doc { route: RouteId(0), time, key, headers: Span::EMPTY, payload: Some(payload), topic: Span::EMPTY });
    batch.docs.push(Doc { route: RouteId(0), time, key, headers: Span::EMPTY, payload: None, topic: Span::EMPTY });
    batch.rejects.push(Reject { route: RouteId(0), key, headers: Span::EMPTY, payload: broken, reason: "not JSON at byte 1".to_owned() });
    bench.intake.send(batch, &[]).await;
    let records = bench.data(Lane::Normal);
    let topics: Vec<&str> = records.iter().map(|r| r.1.as_str()).collect();
    assert_eq!(topics, ["orders", "orders", "orders.dead"]);
    assert_eq!((&records[0].3[..], &records[1].3[..], &records[2].3[..]), (&b"{\"a\": 1}"[..], &b""[..], &b"{oops"[..]));
    let ledger = bench.intake.ledger.snapshot();
    assert!(ledger.adds_up());
    assert_eq!((ledger.received, ledger.appended, ledger.dead_at_intake), (3, 2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_cannot_be_is_kept_as_a_claim_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::small(dir.path());
    let of_1601 = Row { time: Micros(-11_644_473_600_000_000), ..row(0, Value::Int(1)) };
    let of_2200 = Row { time: Micros(7_258_118_400_000_000), ..row(0, Value::Int(2)) };
    let backfill =
        Row { time: Micros(1_600_000_000_000_000), flags: Flags::new(Origin::Backfill, TimeSource::Device), ..row(0, Value::Int(3)) };
    bench.send(&[of_1601, of_2200, backfill], &[]).await;
    let mut batch = Batch::new();
    for record in bench.data(Lane::Normal) {
        millrace_schemas::avro::decode(&record.3, &mut batch).unwrap();
    }
    let columns = batch.decoded.as_ref().unwrap();
    assert_eq!(columns.device_time, [of_1601.time, of_2200.time]);
    for (row, read_time) in batch.rows.iter().zip(&columns.read_time) {
        assert_eq!((row.time, row.flags.time_source), (*read_time, TimeSource::Gateway));
    }
    assert_eq!(bench.data(Lane::Bulk).len(), 1, "the past goes last, and is believed");
    assert_eq!(bench.intake.ledger.snapshot().clock_refused, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_drops_the_newest_counted_or_makes_the_source_wait() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), 4 << 20, Full::DropNewest);
    let mut noise = fastrand::Rng::with_seed(7);
    for _ in 0..40 {
        let mut batch = bench.intake.batch().await;
        let bytes: Vec<u8> = (0..200_000).map(|_| noise.u8(..)).collect();
        let payload = batch.push_bytes(&bytes);
        let time = batch.read_time;
        batch.docs.push(Doc {
            route: RouteId(0),
            time,
            key: Span::EMPTY,
            headers: Span::EMPTY,
            payload: Some(payload),
            topic: Span::EMPTY,
        });
        bench.intake.send(batch, &[("position", b"moved")]).await;
    }
    let ledger = bench.intake.ledger.snapshot();
    assert!(ledger.adds_up(), "{ledger:?}");
    assert_eq!(ledger.received, 40);
    assert!(ledger.dropped_at_intake > 0 && ledger.appended > 10, "{ledger:?}");
    assert_eq!(ledger.dropped["dropped_newest"], ledger.dropped_at_intake);
    assert!(bench.intake.held().is_some());
    drop(bench);

    let bench = Bench::open(dir.path(), 4 << 20, Full::Block);
    let waits = tokio::time::timeout(Duration::from_millis(300), bench.intake.batch()).await;
    assert!(waits.is_err(), "a batch is given out only when the log has room");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_of_a_split_batch_counts_only_with_all_its_pieces() {
    let dir = tempfile::tempdir().unwrap();
    {
        let bench = Bench::small(dir.path());
        bench.send(&[row(0, Value::Int(1))], &[("at", b"1")]).await;
        bench.send(&[row(1, Value::Int(1)), row(0, Value::Int(2))], &[("at", b"2")]).await;
        bench.store.close().unwrap();
    }
    // The lane of the alarms is lost: the second batch is not whole any more.
    let lost = std::fs::read_dir(dir.path().join("log")).unwrap().map(|e| e.unwrap().path());
    let lost = lost.into_iter().find(|p| p.file_name().unwrap().to_string_lossy().ends_with("first")).expect("the lane's directory");
    std::fs::remove_dir_all(lost).unwrap();
    // A lane that is made anew starts above what was lost, at the clock's second: its numbers do not say that the piece is there.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for start in ["first", "second"] {
        let bench = Bench::small(dir.path());
        assert_eq!(bench.intake.resume("at").as_deref(), Some(&b"1"[..]), "at the {start} start");
        bench.store.close().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filled_batch_of_a_hundred_thousand_rows_is_appended_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::small(dir.path());
    let rows: Vec<Row> = (0..100_000).map(|i| row(i % 2, Value::Int(i64::from(i)))).collect();
    let id = bench.send(&rows, &[("at", b"end")]).await;
    bench.intake.durable(AckId(id.0 - 1)).await;
    assert_eq!(bench.data(Lane::Normal).len() + bench.data(Lane::First).len(), 100_000);
    let mut all: Vec<u64> = bench.data(Lane::Normal).into_iter().chain(bench.data(Lane::First)).map(|r| r.0).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 100_000, "no identity is used twice, over lanes too");
    assert!(bench.intake.ledger.snapshot().adds_up());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_that_is_dropped_while_it_waits_is_not_filtered_when_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), 4 << 20, Full::Block);
    bench.send(&[row(0, Value::Int(1))], &[]).await;
    let mut noise = fastrand::Rng::with_seed(7);
    let batch = |value: i64, noise: &mut fastrand::Rng| {
        let mut batch = Batch { read_time: Micros::now(), ..Batch::new() };
        let bytes: Vec<u8> = (0..100_000).map(|_| noise.u8(..)).collect();
        let payload = Some(batch.push_bytes(&bytes));
        let (route, time) = (RouteId(0), batch.read_time);
        batch.docs.push(Doc { route, time, key: Span::EMPTY, headers: Span::EMPTY, payload, topic: Span::EMPTY });
        batch.rows.push(row(0, Value::Int(value)));
        batch
    };
    let mut value = 1_000_000;
    while tokio::time::timeout(Duration::from_millis(100), bench.intake.send(batch(value, &mut noise), &[])).await.is_ok() {
        value += 1;
    }
    let before = bench.intake.ledger.snapshot();
    assert!(before.adds_up(), "{before:?}");
    // Room again, as after Kafka has taken everything; then the device sends the same once more.
    let again = tokio::time::timeout(Duration::from_secs(60), bench.intake.send(batch(value, &mut noise), &[]));
    // Again and again, as the drain does: what is not synced yet can't go.
    let make_room = async {
        loop {
            for (_, log) in &bench.intake.source_logs.lanes {
                log.set_cursor(CURSOR, log.end(), &[]);
                log.reclaim().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        sent = again => { sent.expect("there is room"); }
        () = make_room => {}
    }
    let after = bench.intake.ledger.snapshot();
    assert!(after.adds_up() && after.filtered == before.filtered, "{after:?}");
    assert_eq!(after.appended, before.appended + 2, "document and value: what was dropped in a wait was never counted");
    let last = bench.data(Lane::Normal).into_iter().rfind(|(_, topic, ..)| topic == "telemetry").expect("a sample");
    let mut decoded = Batch::new();
    millrace_schemas::avro::decode(&last.3, &mut decoded).unwrap();
    assert_eq!(decoded.rows[0].value, Value::Int(value));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timestamp_that_is_replaced_at_the_intake_is_counted_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let old = Row {
        time: Micros(Micros::now().0 - 30 * 86_400_000_000),
        flags: Flags::new(Origin::Backfill, TimeSource::Device),
        ..row(0, Value::Int(1))
    };
    let bench = Bench::small(dir.path());
    bench.send(&[old, old, row(0, Value::Int(2))], &[]).await;
    // The drain sums its own half up, and leaves the other alone.
    bench.intake.ledger.outgoing.set(&[0, 0, 0, 5]);
    assert_eq!(bench.intake.ledger.snapshot().timestamp_replaced, 7);
    bench.intake.close().await;
    drop(bench);
    assert_eq!(Bench::small(dir.path()).intake.ledger.snapshot().timestamp_replaced, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_only_the_engine_gives_are_not_taken_over_from_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::small(dir.path());
    let mut batch = bench.intake.batch().await;
    let payload = Some(batch.push_bytes(b"{}"));
    let forged = ["millrace.source", "millrace.seq", "millrace.payload.encoded", "__connect.errors.topic", "colour", "millrace.file"];
    let headers = batch.push_headers(forged.map(|name| (name, Some(&b"forged"[..]))));
    let time = batch.read_time;
    batch.docs.push(Doc { route: RouteId(0), time, key: Span::EMPTY, headers, payload, topic: Span::EMPTY });
    bench.intake.send(batch, &[]).await;
    let (_, log) = bench.intake.source_logs.lanes.iter().find(|(lane, _)| *lane == Lane::Normal).unwrap();
    let newest = log.newest().unwrap().unwrap();
    let (frame, mut body) = (Frame::read(&newest.payload).unwrap(), Vec::new());
    frame.unpack(&mut body).unwrap();
    let record = records(&body, &frame.topics).last().unwrap().unwrap();
    let names: Vec<&str> =
        millrace_schemas::headers(&body[record.headers]).filter(|(_, v)| *v == Some(b"forged")).map(|(name, _)| name).collect();
    assert_eq!(names, ["colour", "millrace.file"]);
}

#[tokio::test]
async fn a_tag_path_that_another_source_has_discovered_is_refused_and_says_whose_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("log"), StoreOptions::default()).unwrap();
    let paths = Arc::new(Paths::default());
    let open = |name: &str| {
        let options = IntakeOptions {
            site: "acme/plant",
            name,
            model: &Model::default(),
            topics: &topics(),
            clock: ClockWindow::default(),
            log_size: 64 << 20,
            full: Full::Block,
            sync: Duration::from_millis(200),
            compress: true,
            dir: dir.path().join("sources").join(name),
            taps: Arc::new(Taps::default()),
            paths: paths.clone(),
        };
        Intake::open(&store, options).unwrap()
    };
    let (first, second) = (open("first"), open("second"));
    let id = first.declare(tag("line/speed")).unwrap();
    let clash = second.declare(tag("line/speed")).unwrap_err();
    assert_eq!(clash, Clash::Taken { path: "acme/plant/line/speed".to_owned(), by: "source acme/plant/first".to_owned() });
    assert_eq!(second.tags_len(), 0);
    second.declare(tag("line/force")).unwrap();
    // A tag that goes leaves its path to others.
    first.retire(id);
    second.declare(tag("line/speed")).unwrap();
    assert!(first.declare(tag("line/speed")).is_err());
}

/// Says when its session begins, and stays.
struct Begins(mpsc::UnboundedSender<()>);

#[async_trait::async_trait]
impl Source for Begins {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let _ = self.0.send(());
        io.stopping().await;
        Ok(())
    }
}

#[tokio::test]
async fn a_first_start_without_kafka_says_that_it_waits_and_then_reads_and_a_later_one_reads_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for is_first in [true, false] {
        let bench = Bench::small(dir.path());
        assert_eq!(bench.intake.is_new, is_first);
        let order = watch::Sender::new(Order::default());
        let board = Arc::new(Board::default());
        let (host, _) = Host::new(bench.intake.clone(), board.clone(), order.subscribe());
        let (begins, mut begun) = mpsc::unbounded_channel();
        let running = tokio::spawn(supervise(move || Box::new(Begins(begins.clone())), host, true));
        if is_first {
            while board.report(None).status == "Starting" {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let report = board.report(None);
            assert!(report.status == "Degraded" && report.reason.as_deref().is_some_and(|r| r.contains("waits 10s")), "{report:?}");
            assert!(begun.try_recv().is_err());
        }
        // Nobody ever says what Kafka knows.
        tokio::time::timeout(Duration::from_secs(60), begun.recv()).await.expect("it reads without Kafka").unwrap();
        assert_eq!(board.report(None).status, "Starting");
        order.send(Order { ends: true, ..Order::default() }).unwrap();
        running.await.unwrap();
        bench.store.close().unwrap();
        // Its ticker lets go of it a moment later, and of the folder with it.
        while Arc::strong_count(&bench.intake) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A bench whose tags go into wide records of that shape.
fn wide(dir: &Path, shape: Shape) -> Bench {
    let schema_store = Arc::new(SchemaStore::open(dir).unwrap());
    let cars = Topic { shape: Some(shape), ..Topic::undeclared("telemetry") };
    let topics = Topics::new([cars]).with_layouts(dir, &schema_store).unwrap();
    let model = Model { tags: vec![tag("fleet/7/speed"), tag("fleet/7/soc")], routes: Vec::new() };
    Bench::with(dir, 64 << 20, Full::Block, &model, &topics)
}

fn json_of(value: &[u8]) -> serde_json::Value {
    serde_json::from_slice(value).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_an_open_window_is_neither_acknowledged_nor_behind_the_position() {
    let dir = tempfile::tempdir().unwrap();
    let bench = wide(dir.path(), Shape::Asset(3_600_000_000));
    bench.send(&[row(0, Value::Int(1)), row(1, Value::Double(80.5))], &[("file", b"1")]).await;
    let last = bench.send(&[row(0, Value::Int(2)), row(0, Value::Int(2))], &[("file", b"2")]).await;
    assert_eq!(bench.data(Lane::Normal).len(), 0);
    assert_eq!(bench.intake.resume("file").as_deref(), Some(&b"2"[..]), "the next session goes on behind what was sent");
    let crashed = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp").arg("-r").arg(dir.path()).arg(crashed.path().join("copy")).status().unwrap();
    assert!(copied.success());
    let after_a_crash = wide(&crashed.path().join("copy"), Shape::Asset(3_600_000_000));
    assert_eq!(after_a_crash.intake.resume("file"), None, "after a crash now it would be read again");
    bench.intake.close().await;
    let data = bench.data(Lane::Normal);
    assert_eq!(data.len(), 1);
    assert_eq!(data[0].2, b"acme/plant/fleet/7", "the key is the asset");
    let record = json_of(&data[0].3);
    assert_eq!((&record["speed"], &record["soc"]), (&2.into(), &80.5.into()), "{record}");
    assert_eq!(record["seq"].as_u64(), Some(data[0].0));
    assert_eq!(bench.intake.resume("file").as_deref(), Some(&b"2"[..]));
    assert!(bench.intake.durable(AckId(last.0 - 1)).await >= last);
    let ledger = bench.intake.ledger.snapshot();
    assert!(ledger.adds_up());
    assert_eq!((ledger.received, ledger.filtered, ledger.appended), (5, 4, 1), "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_is_one_record_and_absent_differs_from_bad() {
    let dir = tempfile::tempdir().unwrap();
    let bench = wide(dir.path(), Shape::Scan);
    let bad = Row { status: StatusCode::BAD_TIMEOUT, flags: Flags::new(Origin::Change, TimeSource::Device), ..row(1, Value::Null) };
    bench.send(&[row(0, Value::Int(1)), row(1, Value::Int(5)), row(0, Value::Int(1)), bad, row(0, Value::Int(3))], &[]).await;
    let records: Vec<_> = bench.data(Lane::Normal).iter().map(|(.., value)| json_of(value)).collect();
    assert_eq!(records.len(), 3, "a tag that comes again begins another scan: {records:?}");
    assert_eq!((&records[0]["speed"], &records[0]["soc"], &records[0]["status"]), (&1.into(), &5.into(), &serde_json::json!({})));
    assert_eq!((&records[1]["speed"], &records[1]["soc"]), (&1.into(), &serde_json::Value::Null), "the same value again");
    assert_eq!(records[1]["status"], serde_json::json!({"soc": StatusCode::BAD_TIMEOUT.0}));
    assert_eq!((&records[2]["speed"], records[2].get("soc")), (&3.into(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_converted_or_kept_with_the_place_of_the_fault() {
    let dir = tempfile::tempdir().unwrap();
    let schema = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"}]}"#;
    let contract = Contract::compile(Language::Avro, schema, None, &mut |_| None).unwrap();
    let orders = Topic { format: Format::Avro, ..Topic::undeclared("orders") }.with_schema(contract.schema().clone());
    let topics = Topics::new([Topic { contract: Some(Arc::new(contract)), ..orders }]);
    let bench = Bench::with(dir.path(), 64 << 20, Full::Block, &model(), &topics);
    let mut batch = bench.intake.batch().await;
    for payload in [Some(&br#"{"id":5}"#[..]), Some(br#"{"id":"5"}"#), None] {
        let payload = payload.map(|bytes| batch.push_bytes(bytes));
        let key = batch.push_bytes(b"k");
        let time = batch.read_time;
        batch.docs.push(Doc { route: RouteId(0), time, key, headers: Span::EMPTY, payload, topic: Span::EMPTY });
    }
    bench.intake.send(batch, &[]).await;
    let data = bench.data(Lane::Normal);
    let found: Vec<(&str, &[u8])> = data.iter().map(|(_, topic, _, value)| (topic.as_str(), value.as_slice())).collect();
    assert_eq!(found, [("orders", &[10][..]), ("orders.dead", br#"{"id":"5"}"#), ("orders", b"")], "the last is a tombstone");
    let ledger = bench.intake.ledger.snapshot();
    assert_eq!((ledger.received, ledger.dead_at_intake, ledger.appended), (3, 1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_sample_is_kept_apart_and_goes_with_its_tag() {
    let dir = tempfile::tempdir().unwrap();
    let topics = Topics::new([Topic { latest: true, ..Topic::undeclared("telemetry") }]);
    let bench = Bench::with(dir.path(), 64 << 20, Full::Block, &model(), &topics);
    let backfill = Row { flags: Flags::new(Origin::Backfill, TimeSource::Device), ..row(0, Value::Int(0)) };
    bench.send(&[row(0, Value::Int(1)), backfill, row(0, Value::Int(2))], &[]).await;
    bench.intake.retire(TagId(0));
    bench.intake.tick().await;
    let latest: Vec<_> = bench.data(Lane::Normal).into_iter().filter(|(_, topic, ..)| topic == LATEST).collect();
    assert_eq!(latest.len(), 3, "two samples and a tombstone; what is history is not the last");
    assert_eq!((latest[0].2.as_slice(), &json_of(&latest[1].3)["value"]), (&b"acme/plant/body/force"[..], &2.into()));
    assert!(latest[2].3.is_empty());
    let ledger = bench.intake.ledger.snapshot();
    assert!(ledger.adds_up());
    assert_eq!(ledger.appended, 3);
}
