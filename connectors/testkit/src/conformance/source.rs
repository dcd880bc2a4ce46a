//! The suite of sources.
//!
//! A fixture makes its device say numbers; the suite asks for `emit(0..n)`, disturbs the connector, and looks for every number.
//! Each check begins with a new device and a new host, so that none depends on another.
//!
//! ```ignore
//! #[global_allocator]
//! static MEMORY: millrace_testkit::CountingAllocator = millrace_testkit::CountingAllocator;
//!
//! millrace_testkit::source_conforms!(the_source, MyFixture);
//! ```

use crate::host::{Received, TestHost};
use crate::proxy::FaultProxy;
use crate::{memory, soon};
use async_trait::async_trait;
use millrace_contract::{Compiled, Failure, Guarantee, Source, SourceIo};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long a session may take to end after `stopping()`: the engine's bound.
pub const STOP_BOUND: Duration = Duration::from_secs(5);

/// Makes devices for a connector's conformance tests.
#[async_trait]
pub trait SourceFixture: Sync {
    /// A new device that has said nothing yet.
    async fn device(&self) -> Box<dyn Device>;
}

/// One device and the connector's configuration for it.
#[async_trait]
pub trait Device: Send {
    /// Compiles the connector for this device. Must touch nothing: no file, no connection.
    fn compile(&self) -> Box<dyn Compiled>;

    /// Makes the device say these numbers. Returns when it has them, not when they were read.
    async fn emit(&mut self, numbers: Range<u64>);

    /// The number a record carries; `None` for records that are not of [`Self::emit`].
    fn number(&self, record: &Received) -> Option<u64>;

    /// The cable between connector and device, where there is one. `compile` must point at it.
    fn cable(&self) -> Option<&FaultProxy> {
        None
    }

    /// Whether `compile` touched anything besides the cable. Asked right after the first `compile` of an unused device.
    fn untouched(&self) -> bool {
        true
    }

    /// Whether what was sent while nobody was connected, or not acknowledged, comes (again).
    fn replays(&self) -> bool {
        true
    }

    /// Makes the device say something that can't be read (a bad tag, a broken payload) and whether a record is its trace:
    /// a sample with bad status or a reject. `false` where the connector has nothing of the kind.
    async fn emit_bad(&mut self) -> bool {
        false
    }

    fn is_bad(&self, record: &Received) -> bool {
        match record {
            Received::Sample(sample) => sample.status.is_bad(),
            Received::Rejected(_) => true,
            Received::Document(_) => false,
        }
    }

    /// Makes the device say much, in the background, for ever; returns at once. `false` where it can't.
    async fn pump(&mut self) -> bool {
        false
    }

    /// What a connector may hold while the log is full.
    fn memory_bound_bytes(&self) -> usize {
        32 * 1024 * 1024
    }
}

/// One test for each check of the suite, in a module of the name given; the fixture is made anew for each.
#[macro_export]
macro_rules! source_conforms {
    ($suite:ident, $fixture:expr) => {
        $crate::source_conforms!(@checks $suite, $fixture, [
            compile_touches_nothing
            opens_and_closes_twice
            stops_within_its_bound
            survives_cancellation_in_mid_read
            cut_cable
            silent_cable
            unacknowledged_comes_back
            bad_beside_good
        ]);
    };
    (@checks $suite:ident, $fixture:expr, [$($check:ident)*]) => {
        mod $suite {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $check() {
                    let _turn = $crate::conformance::beside_others().await;
                    $crate::conformance::source::$check(&$fixture).await;
                }
            )*

            #[tokio::test(flavor = "multi_thread")]
            async fn memory_is_bounded_while_the_log_is_full() {
                let _turn = $crate::conformance::alone().await;
                $crate::conformance::source::memory_is_bounded_while_the_log_is_full(&$fixture).await;
            }
        }
    };
}

/// A connector under supervision, as the engine does it, only faster: back-off of milliseconds.
struct Running {
    host: TestHost,
    /// Of the session that runs.
    io: Arc<Mutex<SourceIo>>,
    task: JoinHandle<(Box<dyn Source>, Vec<Failure>)>,
}

fn start(compiled: &dyn Compiled, host: &TestHost) -> Running {
    let source = compiled.source().expect("a source conforms, not a sink");
    resume(source, host)
}

fn resume(mut source: Box<dyn Source>, host: &TestHost) -> Running {
    let io_host = host.clone();
    let io = Arc::new(Mutex::new(host.io()));
    let current = io.clone();
    let task = tokio::spawn(async move {
        let mut failures = Vec::new();
        loop {
            let io = io_host.io();
            *current.lock() = io.clone();
            let ended = source.session(io.clone()).await;
            io.end().await;
            let wait = match ended {
                Ok(()) | Err(Failure::Stopped) => return (source, failures),
                Err(failure) => {
                    let wait = match &failure {
                        Failure::RetryAfter(after, _) => (*after).min(Duration::from_millis(100)),
                        _ => Duration::from_millis(10),
                    };
                    failures.push(failure);
                    wait
                }
            };
            assert!(failures.len() < 100_000, "the source fails again and again: {:?}", failures.last());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = async { io_host.io().stopping().await } => return (source, failures),
            }
        }
    });
    Running { host: host.clone(), io, task }
}

impl Running {
    /// Stops in order and returns the source and the failures it had.
    async fn stop(self, check: &str) -> (Box<dyn Source>, Vec<Failure>) {
        self.host.stop();
        match tokio::time::timeout(STOP_BOUND, self.task).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(panic)) => panic!("conformance: {check}: the source panicked: {panic}"),
            Err(_) => panic!("conformance: {check}: the session did not end within {STOP_BOUND:?} of stopping()"),
        }
    }

    /// Drops the session where it stands, as a crash does.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        let io = self.io.lock().clone();
        io.end().await;
    }
}

/// How often each number arrived.
fn counts(device: &dyn Device, host: &TestHost) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for number in host.received().iter().filter_map(|record| device.number(record)) {
        *counts.entry(number).or_default() += 1;
    }
    counts
}

async fn until_arrived(check: &str, device: &dyn Device, host: &TestHost, numbers: Range<u64>) {
    let what = format!("conformance: {check}: numbers {numbers:?} arrive");
    host.until(&what, |host| {
        let counts = counts(device, host);
        numbers.clone().all(|n| counts.contains_key(&n))
    })
    .await;
}

/// Every number arrived, and exactly once where that is promised.
fn assert_delivered(check: &str, device: &dyn Device, compiled: &dyn Compiled, host: &TestHost, numbers: Range<u64>) {
    let counts = counts(device, host);
    for number in numbers {
        let times = counts.get(&number).copied().unwrap_or(0);
        assert!(times > 0, "conformance: {check}: number {number} is missing");
        if matches!(compiled.guarantee(), Guarantee::ExactlyOnce(_)) {
            assert_eq!(times, 1, "conformance: {check}: number {number} came {times} times, and exactly once is promised");
        }
    }
}

async fn until_running(check: &str, host: &TestHost) {
    let what = format!("conformance: {check}: the source says Running");
    host.until(&what, |host| host.statuses("").contains(&millrace_contract::Status::Running)).await;
}

/// Compiling reads no file and opens no connection, and says the same twice.
pub async fn compile_touches_nothing(fixture: &dyn SourceFixture) {
    let device = fixture.device().await;
    let first = device.compile();
    let connections = device.cable().map_or(0, FaultProxy::accepted);
    assert!(device.untouched() && connections == 0, "conformance: compile_touches_nothing: compiling did I/O");
    assert_eq!(first.model(), device.compile().model(), "conformance: compile_touches_nothing: the same YAML gave two models");
    assert!(!first.plan().endpoint.is_empty(), "conformance: compile_touches_nothing: the plan names no endpoint");
}

/// Open, close, open the same source again, close; and a second instance after it.
pub async fn opens_and_closes_twice(fixture: &dyn SourceFixture) {
    let check = "opens_and_closes_twice";
    let mut device = fixture.device().await;
    let compiled = device.compile();
    let host = TestHost::of(&*compiled);
    let mut running = start(&*compiled, &host);
    for round in 0..3 {
        until_running(check, &host).await;
        device.emit(round * 10..round * 10 + 10).await;
        until_arrived(check, &*device, &host, round * 10..round * 10 + 10).await;
        let (source, failures) = running.stop(check).await;
        assert_eq!(failures, [], "conformance: {check}: nothing was disturbed");
        host.restart();
        running = if round == 0 { resume(source, &host) } else { start(&*compiled, &host) };
    }
    running.stop(check).await;
    assert_delivered(check, &*device, &*compiled, &host, 0..30);
    if let Some(cable) = device.cable() {
        cable.until_open(0).await;
    }
}

/// `stopping()` ends a session before it connects, while it idles, while the log is full and while nothing becomes durable.
pub async fn stops_within_its_bound(fixture: &dyn SourceFixture) {
    let mut device = fixture.device().await;
    let compiled = device.compile();

    let host = TestHost::of(&*compiled);
    host.stop();
    start(&*compiled, &host).stop("stops_within_its_bound, before it began").await;

    let host = TestHost::of(&*compiled);
    let running = start(&*compiled, &host);
    until_running("stops_within_its_bound", &host).await;
    running.stop("stops_within_its_bound, idle").await;

    let host = TestHost::of(&*compiled);
    host.fill_log();
    let running = start(&*compiled, &host);
    device.emit(0..10).await;
    running.stop("stops_within_its_bound, with a full log").await;

    let host = TestHost::of(&*compiled);
    host.withhold();
    let running = start(&*compiled, &host);
    device.emit(10..20).await;
    until_arrived("stops_within_its_bound", &*device, &host, 10..20).await;
    running.stop("stops_within_its_bound, with nothing durable").await;

    if let Some(cable) = device.cable() {
        cable.half_open();
        let host = TestHost::of(&*compiled);
        start(&*compiled, &host).stop("stops_within_its_bound, with a silent device").await;
    }
}

/// A session dropped at any point leaves nothing behind that harms the next one.
pub async fn survives_cancellation_in_mid_read(fixture: &dyn SourceFixture) {
    let check = "survives_cancellation_in_mid_read";
    let mut device = fixture.device().await;
    let compiled = device.compile();
    let host = TestHost::of(&*compiled);
    let running = start(&*compiled, &host);
    until_running(check, &host).await;
    running.kill().await;
    for round in 0..10 {
        // Killed after as many turns of the scheduler: in connecting, in the first read, between read and send.
        let before = host.count();
        let running = start(&*compiled, &host);
        if device.replays() {
            device.emit(round * 100..round * 100 + 100).await;
        }
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        if round % 2 == 1 && device.replays() {
            host.until(&format!("conformance: {check}: something arrives"), |host| host.count() > before).await;
        }
        running.kill().await;
        host.restart();
    }
    let running = start(&*compiled, &host);
    until_running(check, &host).await;
    device.emit(1000..1010).await;
    let from = if device.replays() { 0 } else { 1000 };
    until_arrived(check, &*device, &host, from..1010).await;
    running.stop(check).await;
    assert_delivered(check, &*device, &*compiled, &host, from..1010);
}

/// The cable is cut in mid-stream: the session fails as `Reconnect` and a later one goes on.
pub async fn cut_cable(fixture: &dyn SourceFixture) {
    let check = "cut_cable";
    let mut device = fixture.device().await;
    if device.cable().is_none() {
        return;
    }
    let compiled = device.compile();
    let host = TestHost::of(&*compiled);
    let running = start(&*compiled, &host);
    until_running(check, &host).await;
    device.emit(0..50).await;
    until_arrived(check, &*device, &host, 0..50).await;

    let cable = device.cable().expect("it had one");
    let accepted = cable.accepted();
    cable.cut();
    cable.until_open(0).await;
    if device.replays() {
        device.emit(50..100).await;
    }
    let cable = device.cable().expect("it had one");
    cable.heal();
    cable.until_more_than(accepted).await;
    if device.replays() {
        until_arrived(check, &*device, &host, 50..100).await;
    } else {
        let times = host.statuses("").len();
        host.until("conformance: cut_cable: the source runs again", |host| host.statuses("").len() > times || host.count() > 50).await;
    }
    device.emit(100..150).await;
    until_arrived(check, &*device, &host, 100..150).await;
    let (_, failures) = running.stop(check).await;
    assert!(
        failures.iter().all(|f| matches!(f, Failure::Reconnect(_) | Failure::RetryAfter(..))),
        "conformance: {check}: a cut cable heals by itself, but the source said {failures:?}"
    );
    if device.replays() {
        assert_delivered(check, &*device, &*compiled, &host, 0..150);
    }
}

/// A device that accepts and says nothing is given up on, not waited for for ever; afterwards the next session works.
pub async fn silent_cable(fixture: &dyn SourceFixture) {
    let check = "silent_cable";
    let mut device = fixture.device().await;
    let Some(cable) = device.cable() else { return };
    cable.half_open();
    let compiled = device.compile();
    let host = TestHost::of(&*compiled);
    let mut source = compiled.source().expect("a source conforms, not a sink");
    let ended = soon("conformance: silent_cable: a session with a silent device ends", source.session(host.io())).await;
    assert!(
        matches!(ended, Err(Failure::Reconnect(_) | Failure::RetryAfter(..))),
        "conformance: {check}: a silent device may speak again, but the source said {ended:?}"
    );
    cable.heal();
    cable.reset();
    let running = resume(source, &host);
    until_running(check, &host).await;
    device.emit(0..10).await;
    until_arrived(check, &*device, &host, 0..10).await;
    running.stop(check).await;
}

/// What was read and is not durable when the power goes comes again; what is durable does not, where exactly once is promised.
pub async fn unacknowledged_comes_back(fixture: &dyn SourceFixture) {
    let check = "unacknowledged_comes_back";
    let mut device = fixture.device().await;
    if !device.replays() {
        return;
    }
    let compiled = device.compile();
    let host = TestHost::of(&*compiled);

    let running = start(&*compiled, &host);
    until_running(check, &host).await;
    device.emit(0..100).await;
    until_arrived(check, &*device, &host, 0..100).await;
    running.stop(check).await;
    host.restart();

    for round in 1..4 {
        let numbers = round * 100..round * 100 + 100;
        host.withhold();
        let running = start(&*compiled, &host);
        device.emit(numbers.clone()).await;
        until_arrived(check, &*device, &host, numbers.clone()).await;
        running.kill().await;
        host.power_cut();

        let running = start(&*compiled, &host);
        until_arrived(check, &*device, &host, numbers).await;
        running.stop(check).await;
        host.restart();
    }
    assert_delivered(check, &*device, &*compiled, &host, 0..400);
}

/// What can't be read leaves a trace, and what stands beside it arrives.
pub async fn bad_beside_good(fixture: &dyn SourceFixture) {
    let check = "bad_beside_good";
    let mut device = fixture.device().await;
    let compiled = device.compile();
    let host = TestHost::of(&*compiled);
    let running = start(&*compiled, &host);
    until_running(check, &host).await;
    device.emit(0..10).await;
    if device.emit_bad().await {
        device.emit(10..20).await;
        until_arrived(check, &*device, &host, 0..20).await;
        let what = format!("conformance: {check}: the bad one leaves a bad sample or a reject");
        host.until(&what, |host| host.received().iter().any(|record| device.is_bad(record))).await;
    }
    let (_, failures) = running.stop(check).await;
    assert_eq!(failures, [], "conformance: {check}: one bad thing is data, not an error of the session");
}

/// A device that says much meets a full log: the connector slows it or counts, but does not swallow it.
pub async fn memory_is_bounded_while_the_log_is_full(fixture: &dyn SourceFixture) {
    let check = "memory_is_bounded_while_the_log_is_full";
    let mut device = fixture.device().await;
    let compiled = device.compile();
    let host = TestHost::of(&*compiled);
    let running = start(&*compiled, &host);
    until_running(check, &host).await;
    if device.pump().await {
        host.until(&format!("conformance: {check}: the pump is read"), |host| host.count() > 0).await;
        host.fill_log();
        host.discard();
        let before = memory::held_bytes();
        assert!(before > 0, "conformance: {check}: install millrace_testkit::CountingAllocator as the global allocator");
        let mut most = before;
        // The only measured time of the suite: long enough for a pump to show what it does.
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            most = most.max(memory::held_bytes());
        }
        let held = most - before;
        assert!(
            held <= device.memory_bound_bytes(),
            "conformance: {check}: held {held} bytes more with a full log, allowed are {}",
            device.memory_bound_bytes()
        );
        let count = host.count();
        host.free_log();
        // The pump may have run dry in what was on its way when the log filled.
        device.emit(0..1).await;
        host.until(&format!("conformance: {check}: it flows again"), |host| host.count() > count).await;
    }
    running.stop(check).await;
}
