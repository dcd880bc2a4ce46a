//! The source against the press shop, through a cable that can be cut.

use millrace_contract::{CommandValue, Compiled, Failure, Outcome, Source, Status};
use millrace_opcua::OpcUaSource;
use millrace_opcua::pki::{Pki, TrustList};
use millrace_opcua_sim::{NAMESPACE, Options, Shop};
use millrace_schemas::{Origin, StatusCode, TimeSource};
use millrace_testkit::yaml::context;
use millrace_testkit::{FaultProxy, Owned, Sample, TestHost, soon};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A shop behind a cable, and a data directory.
struct Bench {
    shop: Shop,
    cable: FaultProxy,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn open(options: Options) -> Self {
        let shop = tokio::task::spawn_blocking(move || Shop::start(options).expect("opens")).await.expect("starts");
        let cable = FaultProxy::to(format!("127.0.0.1:{}", shop.port())).await;
        Self { shop, cable, folder: tempfile::tempdir().expect("a folder") }
    }

    fn compile(&self, rest: &str) -> Box<dyn Compiled> {
        let yaml = format!("{{endpoint: 'opc.tcp://{}', keep_alive: 2s, namespaces: {{p: '{NAMESPACE}'}}, {rest}}}", self.cable.addr());
        let context = millrace_contract::Context { data_dir: self.folder.path().into(), ..context("press", &[]) };
        millrace_testkit::yaml::compile::<OpcUaSource>(&yaml, &context).unwrap_or_else(|problems| panic!("{problems}"))
    }
}

/// The source under supervision, as the engine does it, only faster.
struct Run {
    host: TestHost,
    task: JoinHandle<(Box<dyn Source>, Vec<Failure>)>,
}

impl Run {
    fn start(compiled: &dyn Compiled, host: &TestHost) -> Self {
        let mut source = compiled.source().expect("a source");
        let io = host.clone();
        let task = tokio::spawn(async move {
            let mut failures = Vec::new();
            loop {
                match source.session(io.io()).await {
                    Ok(()) | Err(Failure::Stopped) => return (source, failures),
                    Err(failure) => failures.push(failure),
                }
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                    () = async { io.io().stopping().await } => return (source, failures),
                }
            }
        });
        Self { host: host.clone(), task }
    }

    async fn stop(self) -> Vec<Failure> {
        self.host.stop();
        self.task.await.expect("no panic").1
    }

    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn of<'s>(samples: &'s [Sample], tag: &str) -> Vec<&'s Sample> {
    samples.iter().filter(|sample| sample.tag == format!("at/press/{tag}")).collect()
}

/// Numbers of a tag that counts: none is missing and none is there twice. What is read once after a start, because nothing else came, is no count.
fn assert_counts(host: &TestHost, tag: &str) {
    let samples = host.samples();
    let counted = of(&samples, tag).into_iter().filter(|sample| sample.origin != Origin::Initial);
    let numbers: Vec<u64> = counted.filter_map(|sample| sample.value.number()).collect();
    for pair in numbers.windows(2) {
        assert_eq!(pair[1], pair[0] + 1, "{tag} counts by one: {numbers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_value_keeps_its_type_time_and_status() {
    let bench = Bench::open(Options::default()).await;
    let compiled = bench.compile(
        "groups: [{every: 100ms, tags: {temp: 'p:s=Press1.Temp', force: 'p:s=Press1.Force', word: 'p:s=Press1.Word', running: 'p:s=Press1.Running', \
         order: 'p:s=Press1.Order', curve: 'p:s=Press1.Curve', part: 'p:s=Press1.LastPart', state: 'Objects/Press1/State', \
         whole: {node: 'p:s=Press1.LastPart', structure: json}, gone: 'p:s=Nowhere', first: {node: 'p:s=Press1.Curve', range: '0:1'}}}]",
    );
    let host = TestHost::of(&*compiled);
    let run = Run::start(&*compiled, &host);
    let wanted = [
        "temp",
        "force",
        "word",
        "running",
        "order",
        "curve",
        "part/Die/Temperature",
        "part/Serial",
        "part/Zones",
        "state",
        "whole",
        "gone",
        "first",
    ];
    // Before the first part is made its fields are null.
    host.until("every tag has a sample, and a part is made", |host| {
        let samples = host.samples();
        let is_made = of(&samples, "part/Zones").last().is_some_and(|zones| zones.value != Owned::Null);
        is_made && wanted.iter().all(|tag| !of(&samples, tag).is_empty())
    })
    .await;
    let samples = host.samples();
    let value = |tag: &str| of(&samples, tag).last().expect("is there").value.clone();
    assert!(matches!(value("temp"), Owned::Double(_)));
    assert!(matches!(value("force"), Owned::Int(_)));
    assert!(matches!(value("word"), Owned::UInt(_)));
    assert!(matches!(value("running"), Owned::Bool(_)));
    assert!(matches!(value("order"), Owned::Text(text) if text.starts_with("FA-")));
    assert!(matches!(value("curve"), Owned::Array(items, dims) if items.len() > 2 && dims.is_empty()));
    assert!(matches!(value("first"), Owned::Array(items, _) if items.len() == 2));
    assert!(matches!(value("part/Die/Temperature"), Owned::Double(_)));
    assert!(matches!(value("part/Zones"), Owned::Array(..)));
    assert!(matches!(value("state"), Owned::Int(_)));
    let Owned::Struct(whole) = value("whole") else { panic!("is JSON") };
    assert!(whole.starts_with("{\"") && whole.contains("\"Die\":{\""), "{whole}");
    let gone = of(&samples, "gone")[0];
    assert_eq!((gone.value.clone(), gone.status), (Owned::Null, StatusCode::BAD_NODE_ID_UNKNOWN));
    let temp = of(&samples, "temp")[0];
    assert_eq!((temp.status, temp.time_source, temp.origin), (StatusCode::GOOD, TimeSource::Device, Origin::Change));
    assert!(temp.read_time.0 - temp.time.0 < 10_000_000, "{temp:?}");
    let tags = host.tags();
    let tag = |name: &str| tags.iter().find(|tag| tag.path == format!("at/press/{name}")).expect("is declared");
    assert_eq!(tag("temp").kind.as_deref(), Some("Double"));
    assert!(tag("state").options.values.as_ref().is_some_and(|values| values.values().any(|text| text == "Running")), "{:?}", tag("state"));
    host.until(
        "the group says which tag is not there",
        |host| matches!(host.status("group 1"), Some(Status::Degraded(why)) if why.contains("Nowhere")),
    )
    .await;
    assert_eq!(run.stop().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_and_a_silent_cable_and_a_crash_lose_nothing_and_repeat_nothing() {
    let bench = Bench::open(Options { every: Duration::from_millis(50), ..Options::default() }).await;
    let compiled = bench.compile("groups: [{every: 100ms, sampling: 20ms, queue: 1000, tags: {strokes: 'p:s=Press1.Strokes'}}]");
    let host = TestHost::of(&*compiled);
    let run = Run::start(&*compiled, &host);
    let more = async |what: &str, n: usize| {
        let before = of(&host.samples(), "strokes").len();
        host.until(what, |host| of(&host.samples(), "strokes").len() >= before + n).await;
    };
    more("strokes are counted", 3).await;
    bench.cable.cut();
    bench.cable.until_open(0).await;
    bench.cable.heal();
    more("they are counted after the cut", 3).await;
    let accepted = bench.cable.accepted();
    bench.cable.half_open();
    bench.cable.until_more_than(accepted).await;
    bench.cable.heal();
    more("they are counted after the silence", 3).await;
    run.kill().await;
    host.power_cut();
    let run = Run::start(&*compiled, &host);
    more("they are counted after the crash", 3).await;
    run.stop().await;
    assert_counts(&host, "strokes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_durable_comes_again_and_is_not_acknowledged_before() {
    let bench = Bench::open(Options { every: Duration::from_millis(50), ..Options::default() }).await;
    let compiled = bench.compile("groups: [{every: 100ms, sampling: 20ms, queue: 1000, tags: {strokes: 'p:s=Press1.Strokes'}}]");
    let host = TestHost::of(&*compiled);
    let run = Run::start(&*compiled, &host);
    host.until("it runs", |host| !host.samples().is_empty()).await;
    host.withhold();
    let durable = host.count();
    host.until("more is read", |host| host.count() > durable + 3).await;
    run.kill().await;
    host.power_cut();
    let before = host.count();
    let run = Run::start(&*compiled, &host);
    host.until("it comes again", |host| host.count() > before + 5).await;
    run.stop().await;
    assert_counts(&host, "strokes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_namespace_table_is_read_on() {
    let bench = Bench::open(Options::default()).await;
    let compiled = bench.compile("groups: [{every: 100ms, tags: {temp: 'p:s=Press1.Temp'}}]");
    let host = TestHost::of(&*compiled);
    let run = Run::start(&*compiled, &host);
    host.until("it runs", |host| host.count() > 3).await;
    bench.shop.restart(&["urn:in-front"]).expect("restarts");
    let before = host.count();
    host.until("it is read on", |host| host.count() > before + 3 && host.samples().last().is_some_and(|sample| sample.status.is_good()))
        .await;
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_are_found_with_their_units() {
    let bench = Bench::open(Options { presses: 2, ..Options::default() }).await;
    let compiled = bench.compile("groups: [{every: 200ms, browse: {from: Objects, match: 'Press*/Motor*/*', units: server}}]");
    let host = TestHost::of(&*compiled);
    let run = Run::start(&*compiled, &host);
    host.until("every motor has values", |host| {
        let samples = host.samples();
        ["Press1/Motor1/Speed", "Press2/Motor2/Current"].iter().all(|tag| !of(&samples, tag).is_empty())
    })
    .await;
    let tags = host.tags();
    assert_eq!(tags.len(), 8);
    let speed = tags.iter().find(|tag| tag.path == "at/press/Press1/Motor1/Speed").expect("is found");
    assert_eq!((speed.options.unit.as_deref(), speed.options.max), (Some("1/min"), Some(3000.0)));
    assert!(speed.address.starts_with(&format!("nsu={NAMESPACE};")), "{}", speed.address);
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polled_tags_are_read_at_their_interval_and_a_command_is_written() {
    let bench = Bench::open(Options::default()).await;
    let compiled = bench.compile(
        "groups: [{every: 50ms, mode: poll, tags: {temp: 'p:s=Press1.Temp', setpoint: {node: 'p:s=Press1.Setpoint', writable: true}}}]",
    );
    let host = TestHost::of(&*compiled);
    let run = Run::start(&*compiled, &host);
    host.until("it polls", |host| of(&host.samples(), "temp").len() > 3).await;
    assert_eq!(of(&host.samples(), "temp")[0].origin, Origin::Poll);
    let outcome = host.command("at/press/setpoint", CommandValue::Int(71));
    assert_eq!(outcome.await, Ok(Outcome::Done));
    host.until("the setpoint is read back", |host| {
        of(&host.samples(), "setpoint").last().is_some_and(|sample| matches!(sample.value, Owned::Double(x) if x == 71.0))
    })
    .await;
    let outcome = host.command("at/press/setpoint", CommandValue::Text("hot".into()));
    assert!(matches!(outcome.await, Ok(Outcome::Refused(_))));
    assert_eq!(run.stop().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_makes_one_document_of_a_part_and_acknowledges_it() {
    let bench = Bench::open(Options { every: Duration::from_millis(50), ..Options::default() }).await;
    let compiled = bench.compile(
        "groups: [{every: 50ms, tags: {done: 'p:s=Press1.PartDone', ack: 'p:s=Press1.PartAck'}}, \
         {trigger: {tag: done, ack: part_ack}, record: {topic: part-results, key: '{serial}'}, \
         tags: {serial: 'p:s=Press1.Serial', peak: 'p:s=Press1.Peak', lost: 'p:s=Nowhere', part_ack: 'p:s=Press1.PartAck'}}]",
    );
    let host = TestHost::of(&*compiled);
    let run = Run::start(&*compiled, &host);
    host.until("two parts are done", |host| host.documents().len() >= 2).await;
    let documents = host.documents();
    assert_eq!(documents[0].topic, "part-results");
    let text = documents[0].text();
    let key = String::from_utf8_lossy(&documents[0].key).into_owned();
    assert!(!key.is_empty() && text.contains(&format!("\"serial\":\"{key}\"")), "{key}: {text}");
    assert!(text.contains("\"lost\":null") && text.contains("\"_status\":{\"lost\":2150891520}"), "{text}");
    assert_ne!(documents[0].key, documents[1].key);
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breakdown_is_a_bad_status_and_an_event() {
    let bench = Bench::open(Options::default()).await;
    let compiled = bench.compile(
        "groups: [{every: 100ms, tags: {force: 'p:s=Press1.Force'}}], \
         events: [{from: Server, where: 'severity >= 100', fields: [Time, SourceName, Message, Severity], topic: press-events, key: '{SourceName}'}]",
    );
    let host = TestHost::of(&*compiled);
    let run = Run::start(&*compiled, &host);
    host.until("it runs", |host| host.status("events 1") == Some(Status::Running) && host.count() > 0).await;
    bench.shop.breakdown(1).expect("breaks");
    host.until("the breakdown is told", |host| {
        !host.documents().is_empty() && of(&host.samples(), "force").last().is_some_and(|sample| sample.status.is_bad())
    })
    .await;
    let event = &host.documents()[0];
    assert_eq!(event.topic, "press-events");
    assert!(event.text().contains("\"SourceName\":\"Press1\"") && event.text().contains("\"Time\":\"20"), "{}", event.text());
    assert_eq!(run.stop().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_subscription_missed_is_read_back_once() {
    let bench = Bench::open(Options { every: Duration::from_millis(50), ..Options::default() }).await;
    let compiled = bench.compile("history: {from: last}, groups: [{every: 100ms, sampling: 20ms, tags: {strokes: 'p:s=Press1.Strokes'}}]");
    let host = TestHost::of(&*compiled);
    let run = Run::start(&*compiled, &host);
    host.until("strokes are counted", |host| host.count() > 3).await;
    let had = bench.shop.strokes()[0];
    bench.cable.refuse();
    bench.cable.cut();
    bench.shop.restart(&[]).expect("restarts");
    // The presses go on while nobody is there.
    while bench.shop.strokes()[0] < had + 5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.cable.heal();
    host.until("the gap is filled", |host| host.samples().iter().any(|sample| sample.origin == Origin::Backfill)).await;
    host.until("the gap is closed", |host| host.positions().keys().all(|key| !key.starts_with("gap/"))).await;
    run.stop().await;
    let samples = host.samples();
    let strokes = of(&samples, "strokes");
    let filled: Vec<u64> =
        strokes.iter().filter(|sample| sample.origin == Origin::Backfill).filter_map(|sample| sample.value.number()).collect();
    assert!(filled.len() >= 4, "what was missed came from the history: {filled:?}");
    let mut all: Vec<(i64, u64)> = strokes.iter().filter_map(|sample| Some((sample.time.0, sample.value.number()?))).collect();
    all.sort_unstable();
    for pair in all.windows(2) {
        assert!(pair[1].1 <= pair[0].1 + 1, "strokes are missing between {pair:?}: {all:?}");
    }
    let count = all.len();
    all.dedup();
    assert!(count - all.len() <= 1, "what was read back came once: {count} samples, {} of them different", all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_source_notices_when_a_person_trusts_the_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let bench = Bench::open(Options { pki: Some(folder.path().join("shop")), ..Options::default() }).await;
    let compiled = bench.compile("security: {policy: Basic256Sha256}, groups: [{every: 100ms, tags: {temp: 'p:s=Press1.Temp'}}]");
    let host = TestHost::of(&*compiled);
    let mut source = compiled.source().expect("a source");
    let pki = Pki::new(bench.folder.path().join("pki"));
    let ended = source.session(host.io()).await;
    assert!(matches!(&ended, Err(Failure::Blocked(why)) if why.contains("is not trusted")), "{ended:?}");
    let looked = tokio::time::timeout(Duration::from_millis(10), source.unblocked()).await;
    assert!(looked.is_err(), "nobody has trusted it yet; what it made itself, its own certificate, counts for nothing");
    let rejected = pki.list().into_iter().find(|one| one.shelf == TrustList::Rejected).expect("it is kept to be approved");
    pki.approve(&rejected.thumbprint, &["127.0.0.1".into()]).expect("it is approved");
    soon("the source notices", source.unblocked()).await;
    let io = host.io();
    let session = tokio::spawn(async move { source.session(io).await });
    host.until("it reads", |host| !host.samples().is_empty()).await;
    host.stop();
    assert_eq!(session.await.expect("no panic"), Ok(()));
}

/// How the process before ended.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Ended {
    InOrder,
    Killed,
}

/// A process reads two presses in one subscription, ends; the server forgets the subscription, strokes are made, and the next process begins. The clock
/// of one press is not the server's.
async fn gaps_of_two_clocks(ahead_s: i64, ended: Ended) {
    let bench = Bench::open(Options { every: Duration::from_millis(50), ahead_s, ..Options::default() }).await;
    let compiled = bench.compile(
        "history: {from: last}, groups: [{every: 100ms, sampling: 20ms, tags: {right: 'p:s=Press1.Strokes', other: 'p:s=Press2.Strokes'}}]",
    );
    let host = TestHost::of(&*compiled);
    let run = Run::start(&*compiled, &host);
    host.until("strokes are counted", |host| ["right", "other"].iter().all(|tag| of(&host.samples(), tag).len() > 2)).await;
    match ended {
        Ended::InOrder => drop(run.stop().await),
        Ended::Killed => {
            host.until("it is written down how far each tag was read", |host| host.positions().contains_key("s0/1/read/0")).await;
            run.kill().await;
            host.power_cut();
        }
    }
    host.restart();
    bench.shop.restart(&[]).expect("restarts");
    let before = bench.shop.strokes();
    while bench.shop.strokes().iter().zip(&before).take(2).any(|(now, before)| *now < before + 3) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let had = host.samples().len();
    let run = Run::start(&*compiled, &host);
    host.until("both gaps are filled and closed", |host| {
        let samples = host.samples();
        let has = |tag: &str, origin: Origin| of(&samples[had..], tag).iter().any(|sample| sample.origin == origin);
        let is_open = host.positions().keys().any(|key| key.starts_with("gap/"));
        !is_open && ["right", "other"].iter().all(|tag| has(tag, Origin::Change) && has(tag, Origin::Backfill))
    })
    .await;
    assert_eq!(run.stop().await, []);
    for tag in ["right", "other"] {
        let samples = host.samples();
        let mut values: Vec<(i64, u64)> =
            of(&samples, tag).iter().filter_map(|sample| sample.value.number().map(|number| (sample.time.0, number))).collect();
        values.sort_unstable();
        for pair in values.windows(2) {
            assert!(pair[1].1 <= pair[0].1 + 1, "{ahead_s} {ended:?}: {tag} misses strokes between {pair:?}");
        }
        let all = values.len();
        values.dedup();
        assert!(values.len() == all || ended == Ended::Killed, "{ahead_s} {ended:?}: {} values of {tag} came twice", all - values.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_stop_each_tag_is_read_back_from_its_own_last_value_whatever_its_clock_says() {
    for ahead_s in [-3_600, 0, 3_600] {
        gaps_of_two_clocks(ahead_s, Ended::InOrder).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_each_tag_is_read_back_from_where_it_was_written_down_at_the_latest() {
    for ahead_s in [-3_600, 3_600] {
        gaps_of_two_clocks(ahead_s, Ended::Killed).await;
    }
}
