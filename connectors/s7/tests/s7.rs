//! The source against its simulator: the suite that every source runs, and what is S7's own; in `foreign` the servers of others.

mod foreign;

use async_trait::async_trait;
use millrace_config::Problems;
use millrace_contract::{Browse, CommandValue, Compiled, Context, Failure, Must, Outcome, Status};
use millrace_s7::S7SourcePlugin;
use millrace_s7_sim::memory::DATA_BLOCK;
use millrace_s7_sim::oven::Options;
use millrace_s7_sim::server::{Garbled, Limits};
use millrace_s7_sim::{Kind, Memory, Oven, Server};
use millrace_schemas::{Quality, StatusCode};
use millrace_testkit::conformance::{Device, SourceFixture};
use millrace_testkit::{CountingAllocator, FaultProxy, Owned, Received, TestHost, soon, source_conforms, yaml};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;

#[global_allocator]
static MEMORY: CountingAllocator = CountingAllocator;

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn compile(yaml: &str) -> Box<dyn Compiled> {
    yaml::compile::<S7SourcePlugin>(yaml, &yaml::context("plc", &[])).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A number in each of these: a PLC keeps a value until the next.
const SLOTS: u64 = 64;

struct Fixture;

struct Plc {
    server: Server,
    proxy: FaultProxy,
}

#[async_trait]
impl SourceFixture for Fixture {
    async fn device(&self) -> Box<dyn Device> {
        let mut memory = Memory::new();
        memory.resize(1, 4 * SLOTS as usize);
        memory.resize(2, 2);
        let server = Server::start(LOCAL, memory, Limits::default()).await.expect("a free port");
        let proxy = FaultProxy::to(server.addr()).await;
        Box::new(Plc { server, proxy })
    }
}

#[async_trait]
impl Device for Plc {
    fn compile(&self) -> Box<dyn Compiled> {
        let tags: Vec<String> = (0..SLOTS).map(|slot| format!("n{slot}: 'DB1.DBD{}:UDINT'", 4 * slot)).collect();
        compile(&format!(
            "{{endpoint: '{}', timeout: 500ms, groups: [{{every: 50ms, tags: {{{}, other: DB2.DBW0}}}}]}}",
            self.proxy.addr(),
            tags.join(", ")
        ))
    }

    async fn emit(&mut self, numbers: Range<u64>) {
        let mut memory = self.server.cpu.memory.lock();
        for number in numbers {
            // Zero is what nobody has said yet.
            memory.write(DATA_BLOCK, 1, (number % SLOTS * 4) as usize, &(number as u32 + 1).to_be_bytes()).unwrap();
        }
    }

    fn number(&self, record: &Received) -> Option<u64> {
        match record {
            Received::Sample(sample) if !sample.tag.ends_with("other") => sample.value.number()?.checked_sub(1),
            _ => None,
        }
    }

    fn cable(&self) -> Option<&FaultProxy> {
        Some(&self.proxy)
    }

    fn replays(&self) -> bool {
        false
    }

    async fn emit_bad(&mut self) -> bool {
        self.server.cpu.memory.lock().remove(2);
        true
    }

    async fn pump(&mut self) -> bool {
        true
    }

    fn memory_bound_bytes(&self) -> usize {
        4 * 1024 * 1024
    }
}

source_conforms!(conforms, Fixture);

/// A source that runs, as the engine runs it, only that it comes back at once.
struct Run {
    host: TestHost,
    task: JoinHandle<()>,
}

impl Run {
    fn of(compiled: &dyn Compiled, host: TestHost) -> Self {
        let mut source = compiled.source().expect("a source");
        let io = host.clone();
        let task = tokio::spawn(async move {
            while !matches!(source.session(io.io()).await, Ok(()) | Err(Failure::Stopped)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { host, task }
    }

    fn start(yaml: &str) -> Self {
        let compiled = compile(yaml);
        Self::of(&*compiled, TestHost::of(&*compiled))
    }

    async fn stop(self) -> TestHost {
        self.host.stop();
        soon("the session ends", self.task).await.unwrap();
        self.host
    }

    async fn until_value(&self, tag: &str, wanted: Owned) {
        let tag = format!("at/plc/{tag}");
        let has =
            |host: &TestHost| host.samples().iter().any(|sample| sample.tag == tag && sample.value == wanted && sample.status.is_good());
        self.host.until(&format!("{tag} is {wanted:?}"), has).await;
    }
}

fn parts_yaml(oven: &Oven) -> String {
    format!(
        "{{endpoint: '{}', timeout: 1s, groups: [
           {{every: 5ms, tags: {{part_done: DB1.DBX4.1}}}},
           {{trigger: {{tag: part_done, ack: {{tag: part_ack, reset: on_trigger_down}}}}, record: {{topic: parts, key: '{{serial}}'}},
             tags: {{serial: 'DB1.DBB12:STRING[18]', number: 'DB1.DBD32:DINT', peak: 'DB1.DBD36:REAL', finished: 'DB1.DBB40:DTL', part_ack: {{address: DB1.DBX60.0, writable: true}}}}}}]}}",
        oven.addr()
    )
}

/// The program counts parts and waits for each acknowledgement: what it counts is what must be recorded, once each, in order.
#[tokio::test(flavor = "multi_thread")]
async fn every_part_is_recorded_once_through_restarts_of_both_sides() {
    let oven = Oven::start(Options { part_every: Duration::from_millis(15), ..Options::at(LOCAL) }).await.unwrap();
    let compiled = compile(&parts_yaml(&oven));
    let host = TestHost::of(&*compiled);
    for round in 0..12_usize {
        let before = host.documents().len();
        let run = Run::of(&*compiled, host.clone());
        host.until("parts are recorded", |host| host.documents().len() >= before + 5 + round % 3).await;
        match round % 3 {
            // The PLC's side goes away in the middle of whatever was under way.
            0 => {
                oven.inflict(Kind::Cut);
                let after = host.documents().len();
                host.until("parts are recorded after a cut", |host| host.documents().len() > after + 3).await;
                run.stop().await;
            }
            // Ours dies; what was not synced is gone with the power.
            1 => {
                host.withhold();
                let after = host.documents().len();
                host.until("a part is recorded and not synced", |host| host.documents().len() > after).await;
                run.task.abort();
                let _ = run.task.await;
                host.power_cut();
            }
            _ => _ = run.stop().await,
        }
        host.restart();
    }
    assert_eq!(oven.unacknowledged(), 0);
    let numbers: Vec<i64> = host.documents().iter().map(|document| number_of(document.text())).collect();
    let wanted: Vec<i64> = (1..=numbers.len() as i64).collect();
    assert_eq!(numbers, wanted);
    // The oven is at most one part further than what is recorded.
    assert!((0..=1).contains(&(i64::from(oven.parts()) - numbers.len() as i64)), "{} of {}", numbers.len(), oven.parts());
    assert_eq!(host.documents()[6].key, b"OVEN-00000007");
}

fn number_of(json: &str) -> i64 {
    let rest = json.split("\"number\":").nth(1).unwrap_or_else(|| panic!("{json}"));
    rest[..rest.find([',', '}']).unwrap()].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_not_acknowledged_before_it_is_synced() {
    let oven = Oven::start(Options { part_every: Duration::from_millis(15), ..Options::at(LOCAL) }).await.unwrap();
    let compiled = compile(&parts_yaml(&oven));
    let host = TestHost::of(&*compiled);
    host.withhold();
    let run = Run::of(&*compiled, host.clone());
    host.until("a part is recorded", |host| !host.documents().is_empty()).await;
    // Many cycles later still nothing was written.
    let count = host.count();
    host.until("cycles go on", |host| host.count() > count + 50).await;
    assert_eq!(oven.cpu().writes.load(Ordering::Relaxed), 0);
    assert_eq!((oven.parts(), host.documents().len()), (1, 1));
    host.sync();
    host.until("a second part", |host| host.documents().len() == 2).await;
    assert!(oven.cpu().writes.load(Ordering::Relaxed) >= 2);
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_too_short_costs_only_the_tags_beyond_it_and_says_what_to_check() {
    let oven = Oven::start(Options::at(LOCAL)).await.unwrap();
    oven.inflict(Kind::Short);
    let run = Run::start(&format!(
        "{{endpoint: '{}', groups: [{{every: 10ms, tags: {{setpoint: 'DB1.DBD8:REAL', unacknowledged: 'DB1.DBD56:DINT', ack: DB1.DBX60.0, gone: DB9.DBW0, zone1: 'DB1.DBD0:REAL'}}}}]}}",
        oven.addr()
    ));
    run.until_value("setpoint", Owned::Double(180.0)).await;
    let is_told = |host: &TestHost| matches!(host.status(""), Some(Status::Degraded(why)) if why.starts_with("3 of 5 tags can't be read; the first: cannot read "));
    run.host.until("the status says what can't be read", is_told).await;
    let status = |tag: &str| run.host.samples().iter().rev().find(|sample| sample.tag == tag).map(|sample| sample.status);
    assert_eq!(status("at/plc/ack"), Some(StatusCode::BAD_NOT_FOUND));
    assert_eq!(status("at/plc/gone"), Some(StatusCode::BAD_NOT_FOUND));
    assert_eq!(status("at/plc/zone1"), Some(StatusCode::GOOD));
    run.stop().await;
    let run = Run::start(&format!(
        "{{endpoint: '{}', groups: [{{every: 10ms, tags: {{peak: 'DB1.DBD36:REAL', late: DB1.DBW40, setpoint: 'DB1.DBD8:REAL'}}}}]}}",
        oven.addr()
    ));
    let why = format!(
        "cannot read DB1.DBW40 from {}: block is shorter than 42 bytes; check the offset or the DB's length in TIA, and that DB1 is no optimised block (its \
         attribute \"Optimized block access\" must be off, or read it by OPC UA, which needs neither)",
        oven.addr()
    );
    run.host.until("the status names the tag", |host| host.status("") == Some(Status::Degraded(why.clone()))).await;
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_named_with_its_danger_and_the_way_out() {
    let oven = Oven::start(Options::at(LOCAL)).await.unwrap();
    oven.inflict(Kind::Refuse);
    let compiled = compile(&format!("{{endpoint: '{}', groups: [{{tags: {{setpoint: 'DB1.DBD8:REAL'}}}}]}}", oven.addr()));
    let ended = compiled.source().unwrap().session(TestHost::of(&*compiled).io()).await;
    let Err(Failure::Blocked(why)) = ended else { panic!("{ended:?}") };
    for word in ["PUT/GET", "opens the CPU to everybody in its network", "OPC UA"] {
        assert!(why.contains(word), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_in_stop_shows_in_the_status_in_its_tags_and_where_asked_in_the_values() {
    let oven = Oven::start(Options::at(LOCAL)).await.unwrap();
    let run = Run::start(&format!(
        "{{endpoint: '{}', keep_alive: 100ms, cpu_tags: true, in_stop: uncertain, groups: [{{every: 10ms, tags: {{setpoint: 'DB1.DBD8:REAL'}}}}]}}",
        oven.addr()
    ));
    run.until_value("cpu/state", Owned::Text("RUN".into())).await;
    run.until_value("cpu/order_number", Owned::Text("6ES7 214-1AG40-0XB0".into())).await;
    run.until_value("cpu/firmware", Owned::Text("V4.2.0".into())).await;
    oven.inflict(Kind::Stop);
    run.until_value("cpu/state", Owned::Text("STOP".into())).await;
    let frozen = Status::Degraded("the CPU is in STOP: its values are frozen".into());
    run.host.until("the status says so", |host| host.status("") == Some(frozen.clone())).await;
    let is_uncertain = |host: &TestHost| {
        host.samples().iter().any(|sample| sample.tag == "at/plc/setpoint" && sample.status.quality() == Quality::Uncertain)
    };
    run.host.until("values are uncertain", is_uncertain).await;
    oven.inflict(Kind::Heal);
    run.host.until("it runs again", |host| host.status("") == Some(Status::Running)).await;
    run.stop().await;
}

async fn answered(run: &Run, tag: &str, value: CommandValue) -> Outcome {
    let answer = run.host.command(&format!("at/plc/{tag}"), value);
    soon("a command is answered", answer).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_written_typed_and_read_back_or_says_why_not() {
    let oven = Oven::start(Options::at(LOCAL)).await.unwrap();
    let run = Run::start(&format!(
        "{{endpoint: '{}', groups: [{{every: 10ms, tags: {{
            setpoint: {{address: 'DB1.DBD8:REAL', writable: true, read_back: true}}, zone1: {{address: 'DB1.DBD0:REAL', writable: true, read_back: true}},
            recipe: {{address: 'DB1.DBW6:INT', writable: true, scale: 0.1}}, serial: {{address: 'DB1.DBB12:STRING[40]', writable: true}},
            ack: {{address: DB1.DBX60.0, writable: true}}, peak: 'DB1.DBD36:REAL', beyond: {{address: DB1.DBW100, writable: true}}}}}}]}}",
        oven.addr()
    ));
    run.until_value("setpoint", Owned::Double(180.0)).await;
    assert_eq!(answered(&run, "setpoint", CommandValue::Double(200.0)).await, Outcome::Done);
    run.until_value("setpoint", Owned::Double(200.0)).await;
    assert_eq!(answered(&run, "recipe", CommandValue::Double(12.3)).await, Outcome::Done);
    assert_eq!(answered(&run, "ack", CommandValue::Bool(true)).await, Outcome::Done);
    assert_eq!(answered(&run, "serial", CommandValue::Text("PART 7".into())).await, Outcome::Done);
    {
        let memory = oven.cpu().memory.lock();
        assert_eq!(memory.read(DATA_BLOCK, 1, 6, 2), Ok(&[0, 123][..]));
        assert_eq!(memory.read(DATA_BLOCK, 1, 12, 8), Ok(&b"\x12\x06PART 7"[..]));
        // The bit's neighbours are what they were.
        assert_eq!(memory.read(DATA_BLOCK, 1, 60, 2), Ok(&[1, 0][..]));
    }
    for (tag, value, why) in [
        ("recipe", CommandValue::Int(4000), "does not fit the device's i16"),
        ("serial", CommandValue::Text("a text that is too long".into()), "the block declares 18"),
        ("setpoint", CommandValue::Text("hot".into()), "is not a number"),
        ("beyond", CommandValue::Int(1), "cannot write DB1.DBW100 to "),
    ] {
        let outcome = answered(&run, tag, value).await;
        let said = match &outcome {
            Outcome::Failed(said) if tag == "beyond" => said,
            Outcome::Refused(said) if tag != "beyond" => said,
            _ => panic!("{tag}: {outcome:?}"),
        };
        assert!(said.contains(why), "{tag}: {said}");
    }
    let Outcome::Refused(why) = answered(&run, "peak", CommandValue::Double(1.0)).await else { panic!("not writable") };
    assert!(why.contains("writable"), "{why}");
    // The program of the PLC sets it back in the same cycle.
    let outcome = loop {
        match answered(&run, "zone1", CommandValue::Double(900.0)).await {
            // Read back within the PLC's cycle: a moment, not a guarantee.
            Outcome::Done => continue,
            outcome => break outcome,
        }
    };
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("set it back")), "{outcome:?}");
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_hold_is_read_from_the_cpu_right_before_the_write() {
    let oven = Oven::start(Options::at(LOCAL)).await.unwrap();
    // So seldom that no poll tells of a change.
    let run = Run::start(&format!(
        "{{endpoint: '{}', groups: [{{every: 1h, tags: {{
            setpoint: {{address: 'DB1.DBD8:REAL', writable: true}}, ack: DB1.DBX60.0, beyond: DB1.DBW100, serial: 'DB1.DBB12:STRING[40]'}}}}]}}",
        oven.addr()
    ));
    run.until_value("setpoint", Owned::Double(180.0)).await;
    let outcome = async |must: &[(&str, Must)]| {
        let answer = run.host.command_if("at/plc/setpoint", CommandValue::Double(190.0), must);
        soon("a command is answered", answer).await.unwrap()
    };
    let setpoint = || oven.cpu().memory.lock().read(DATA_BLOCK, 1, 8, 4).map(<[u8]>::to_vec);
    let is_acknowledged = ("at/plc/ack", Must::Be(CommandValue::Bool(true)));
    let near = |step| ("at/plc/setpoint", Must::BeWithin { step, from: 190.0 });
    assert!(
        matches!(outcome(std::slice::from_ref(&is_acknowledged)).await, Outcome::Refused(why) if why.contains("ack must be true, and is false"))
    );
    assert!(matches!(outcome(&[near(5.0)]).await, Outcome::Refused(why) if why.contains("a step from 180 to 190 is larger than 5")));
    let beyond = ("at/plc/beyond", Must::Be(CommandValue::Int(1)));
    assert!(matches!(outcome(&[beyond]).await, Outcome::Failed(why) if why.contains("nothing was written") && why.contains("DB1.DBW100")));
    assert_eq!(setpoint(), Ok(180.0_f32.to_be_bytes().to_vec()));
    oven.cpu().memory.lock().write(DATA_BLOCK, 1, 60, &[1]).unwrap();
    assert_eq!(outcome(&[is_acknowledged, near(10.0)]).await, Outcome::Done);
    assert_eq!(setpoint(), Ok(190.0_f32.to_be_bytes().to_vec()));
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_while_writes_are_forbidden() {
    let oven = Oven::start(Options { part_every: Duration::from_millis(15), ..Options::at(LOCAL) }).await.unwrap();
    let forbidden = Context { writes_allowed: false, ..yaml::context("plc", &[]) };
    let refused = yaml::compile::<S7SourcePlugin>(&parts_yaml(&oven), &forbidden);
    assert!(refused.is_err_and(|problems| problems.contains("writes are forbidden")));
    let yaml = format!(
        "{{endpoint: '{}', groups: [{{every: 5ms, tags: {{setpoint: {{address: 'DB1.DBD8:REAL', writable: true}}}}}}]}}",
        oven.addr()
    );
    let compiled = yaml::compile::<S7SourcePlugin>(&yaml, &forbidden).unwrap();
    let run = Run::of(&*compiled, TestHost::of(&*compiled));
    run.until_value("setpoint", Owned::Double(180.0)).await;
    assert_eq!(answered(&run, "setpoint", CommandValue::Double(200.0)).await, Outcome::Refused("writes are forbidden".into()));
    run.stop().await;
    assert_eq!(oven.cpu().writes.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_of_pdu_reads_the_same_values() {
    for (pdu, jobs) in [(112, 1), (240, 3), (480, 2), (960, 8)] {
        let mut memory = Memory::new();
        memory.resize(1, 1000);
        memory.write(DATA_BLOCK, 1, 0, &(0..1000).map(|n| (n % 251) as u8).collect::<Vec<_>>()).unwrap();
        let server = Server::start(LOCAL, memory, Limits { pdu, jobs, connections: 2 }).await.unwrap();
        let tags: Vec<String> = (0..200).map(|n| format!("n{n}: DB1.DBB{}", n * 5)).collect();
        let run = Run::start(&format!(
            "{{endpoint: '{}', groups: [{{every: 20ms, tags: {{{}, all: 'DB1.DBB0:BYTE[1000]'}}}}]}}",
            server.addr(),
            tags.join(", ")
        ));
        let all = Owned::Array((0..1000).map(|n| Owned::UInt(n % 251)).collect(), vec![]);
        run.until_value("all", all).await;
        for n in 0..200 {
            run.until_value(&format!("n{n}"), Owned::UInt(n * 5 % 251)).await;
        }
        run.stop().await;
    }
}

/// Cut in the middle, of another length, for another request, with fewer items: the connection can't be trusted any more; an error of the job can.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_or_to_something_else_is_no_value_and_says_why() {
    let mut memory = Memory::new();
    memory.resize(1, 64);
    memory.write(DATA_BLOCK, 1, 0, &[0, 7, 0, 8]).unwrap();
    memory.write(DATA_BLOCK, 1, 60, &[0, 9]).unwrap();
    let server = Server::start(LOCAL, memory, Limits::default()).await.unwrap();
    let compiled = compile(&format!(
        "{{endpoint: '{}', timeout: 200ms, groups: [{{every: 20ms, tags: {{a: 'DB1.DBW0:INT', b: 'DB1.DBW2:INT', c: 'DB1.DBW60:INT'}}}}]}}",
        server.addr()
    ));
    for (garbled, said) in [
        (Garbled::Cut(20), "did not answer within"),
        (Garbled::Reference, "did not answer within"),
        (Garbled::Fewer, "sent bytes that are not S7"),
        (Garbled::Longer, "sent bytes that are not S7"),
        (Garbled::Error(0x8500), ""),
    ] {
        let host = TestHost::of(&*compiled);
        let (mut source, io, failed) = (compiled.source().unwrap(), host.clone(), std::sync::Arc::new(std::sync::Mutex::new(Vec::new())));
        let told = failed.clone();
        let task = tokio::spawn(async move {
            loop {
                match source.session(io.io()).await {
                    Ok(()) | Err(Failure::Stopped) => return,
                    Err(failure) => told.lock().unwrap().push(format!("{failure:?}")),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let good = |host: &TestHost| host.samples().iter().filter(|sample| sample.status.is_good()).count();
        host.until("good values", |host| good(host) >= 3).await;
        *server.cpu.garbled.lock() = Some(garbled);
        let is_bad = |host: &TestHost| host.samples().iter().any(|sample| sample.tag == "at/plc/a" && sample.status.is_bad());
        host.until(&format!("{garbled:?} is no value"), is_bad).await;
        *server.cpu.garbled.lock() = None;
        if said.is_empty() {
            let says = |host: &TestHost| matches!(host.status(""), Some(Status::Degraded(why)) if why.contains("0x8500"));
            host.until("the status names the error", says).await;
        } else {
            let before = good(&host);
            host.until("good values again", |host| good(host) >= before + 3).await;
            assert!(failed.lock().unwrap().iter().any(|why| why.contains(said)), "{garbled:?}: {:?}", failed.lock().unwrap());
        }
        host.stop();
        soon("the session ends", task).await.unwrap();
        for sample in host.samples().iter().filter(|sample| sample.status.is_good()) {
            let expected = match sample.tag.as_str() {
                "at/plc/a" => 7,
                "at/plc/b" => 8,
                _ => 9,
            };
            assert_eq!(sample.value, Owned::Int(expected), "{garbled:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_way_is_taken_when_the_first_does_not_answer() {
    let (first, second) = (Oven::start(Options::at(LOCAL)).await.unwrap(), Oven::start(Options::at(LOCAL)).await.unwrap());
    let run = Run::start(&format!(
        "{{endpoint: ['{}', '{}'], timeout: 200ms, groups: [{{every: 10ms, tags: {{setpoint: 'DB1.DBD8:REAL'}}}}]}}",
        first.addr(),
        second.addr()
    ));
    run.until_value("setpoint", Owned::Double(180.0)).await;
    assert_eq!(second.cpu().reads.load(Ordering::Relaxed), 0);
    first.inflict(Kind::Silence);
    let count = run.host.count();
    run.host.until("the second is read", |host| host.count() > count && second.cpu().reads.load(Ordering::Relaxed) > 5).await;
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_and_browse_say_what_there_is() {
    let oven = Oven::start(Options::at(LOCAL)).await.unwrap();
    let browse = Browse { url: oven.addr().to_string(), limit: 100, ..Browse::default() };
    let said = millrace_s7::inspect::probe(browse.clone()).await.unwrap().json("s7");
    assert_eq!(said["cpu"]["order number"], "6ES7 214-1AG40-0XB0");
    assert_eq!(said["cpu"]["state"], "RUN");
    assert_eq!((&said["limits"]["pdu_bytes"], &said["limits"]["connections"]), (&240.into(), &8.into()));
    assert_eq!((&said["reading"], &said["source"]["slot"]), (&"allowed".into(), &1.into()));
    let found = millrace_s7::inspect::browse(browse.clone()).await.unwrap();
    assert!(found.yaml("s7").contains("db1: {address: \"DB1.DBB0:BYTE[62]\"}"), "{}", found.yaml("s7"));
    // What is found can be read.
    let mut problems = Problems::new();
    let node = millrace_config::Node::from_yaml(&found.yaml("s7"), &mut problems).unwrap();
    assert_eq!(node.get("sources").and_then(|sources| sources.get("plc")).map(|plc| plc.entries().len()), Some(6), "{}", problems.render());
    oven.cpu().says_little.store(true, Ordering::Relaxed);
    let found = millrace_s7::inspect::browse(browse).await.unwrap();
    assert!(found.yaml("s7").contains("DB1.DBB0:BYTE[62]"), "found by reading: {}", found.yaml("s7"));
    assert_eq!(oven.cpu().writes.load(Ordering::Relaxed), 0);
}

#[test]
fn plan_shows_every_job_with_its_tags_and_bytes() {
    let plan = compile(
        "{endpoint: 10.0.0.7, timezone: Europe/Berlin, groups: [{every: 100ms, tags: {zone1: 'DB1.DBD0:REAL', burner: DB1.DBX4.0, far: DB1.DBW100}},
          {trigger: {tag: burner, ack: ack}, record: {topic: parts}, tags: {serial: 'DB1.DBB12:STRING[18]', ack: DB1.DBX60.0}}]}",
    )
    .plan();
    assert_eq!(plan.endpoint, "10.0.0.7:102");
    assert_eq!(
        plan.lines,
        [
            "connects to rack 0, slot 1 (TSAP 0201), asks for a PDU of 960 bytes and 8 jobs in flight; the CPU may lower both",
            "every 100ms: 3 tags in 1 job with a PDU of 960, 1 with one of 240 (about 5ms at 5ms a job)",
            "  job 1, 80 bytes on the wire: DB1.DBB0..5 (zone1, burner); DB1.DBB100..102 (far)",
            "when at/plc/burner rises: 2 tags in 1 job with a PDU of 960, 1 with one of 240 (about 5ms at 5ms a job)",
            "  job 1, 94 bytes on the wire: DB1.DBB12..32 (serial); DB1.DBB60..61 (ack)",
            "  then writes DB1.DBX60.0 (ack) to acknowledge",
        ]
    );
}

#[test]
fn problems_come_all_at_once_with_their_places() {
    let problems = yaml::compile::<S7SourcePlugin>(
        "endpoint: 'opc.tcp://x'\nslot: 40\ntsap: '20'\ntimezone: Middle/Earth\nencoding: ebcdic\ngroups:\n  - {every: 1s, tags: {a: DBW20, b: 'DB1.DBW0:REAL', c: {address: DB1.DBD0, as: FLOAT}}}\n",
        &yaml::context("plc", &[]),
    )
    .err()
    .expect("is full of problems");
    for said in [
        "is not a host and a port",
        "is not a slot",
        "is not a pair of TSAPs",
        "is no time zone",
        "is not an encoding",
        "names no block",
        "REAL takes 4",
        "`FLOAT` is not a type",
    ] {
        assert!(problems.contains(said), "{said} in\n{problems}");
    }
    let reals: Vec<String> = (0..15_000).map(|n| format!("t{n}: 'DB1.DBD{}:REAL'", n * 4)).collect();
    let problems = yaml::compile::<S7SourcePlugin>(
        &format!("{{endpoint: x, groups: [{{every: 1ms, tags: {{{}}}}}]}}", reals.join(", ")),
        &yaml::context("plc", &[]),
    );
    assert!(problems.is_err_and(|problems| problems.contains("is to be read every 1ms")), "{:?}", Problems::new().render());
}
