//! Against python-snap7: the native server (2.0.2 carries snap7 itself) and the pure one (3.3.0). Their values are encoded by snap7's functions.

use super::{Run, answered, compile};
use millrace_contract::{CommandValue, Outcome, Status};
use millrace_testkit::{FaultProxy, Owned, TestHost, soon};
use serde_json::Value as Json;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const NATIVE: &str = "2.0.2";
const PURE: &str = "3.3.0";

/// The packages of a version, from PyPI, in the cache of foreign peers.
fn packages(version: &str) -> PathBuf {
    static ONE_AT_A_TIME: OnceLock<std::sync::Mutex<()>> = OnceLock::new();
    let _turn = ONE_AT_A_TIME.get_or_init(Default::default).lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let cache = match std::env::var_os("MILLRACE_TEST_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/millrace-tests"),
    };
    let folder = cache.join(format!("python-snap7-{version}"));
    if !folder.is_dir() {
        std::fs::create_dir_all(&cache).expect("the cache can be made");
        let unfinished = cache.join(format!(".python-snap7-{version}.{}", std::process::id()));
        let mut pip = std::process::Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(&unfinished).arg(format!("python-snap7=={version}"));
        let fetched = pip.status().unwrap_or_else(|error| panic!("{pip:?}: {error}; Debian: apt-get install python3 python3-pip"));
        assert!(fetched.success(), "cannot fetch python-snap7 {version} from PyPI: {pip:?}");
        if std::fs::rename(&unfinished, &folder).is_err() {
            let _ = std::fs::remove_dir_all(&unfinished);
        }
    }
    folder
}

struct Snap7 {
    port: u16,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Snap7 {
    async fn start(version: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/snap7_server.py");
        let mut python = Command::new("python3");
        python.arg(script).arg(port.to_string()).env("PYTHONPATH", packages(version)).kill_on_drop(true);
        let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 runs");
        let orders = child.stdin.take().expect("it has one");
        let answers = BufReader::new(child.stdout.take().expect("it has one")).lines();
        let mut server = Self { port, orders, answers, _child: child };
        assert_eq!(server.answer().await, "ready");
        server
    }

    async fn order(&mut self, order: &str) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.expect("the server takes orders");
    }

    async fn answer(&mut self) -> Json {
        let line = soon("the server answers", self.answers.next_line()).await.expect("a line").expect("it has not ended");
        serde_json::from_str(&line).expect("its answers are JSON")
    }
}

fn types_yaml(port: u16) -> String {
    format!(
        "{{endpoint: '127.0.0.1:{port}', timeout: 1s, keep_alive: 200ms, groups: [{{every: 20ms, tags: {{
           bit: DB2.DBX0.3, int: {{address: 'DB2.DBW2:INT', writable: true, read_back: true}}, dint: 'DB2.DBD4:DINT', real: {{address: '%DB2:8:REAL', writable: true}},
           text: {{address: 'DB2,S12.10', writable: true}}, uint: 'DB2.DBW26:UINT', udint: 'DB2.DBD28:UDINT', sint: 'DB2.DBB32:SINT', usint: 'DB2.DBB33:USINT',
           lreal: 'DB2.DBB34:LREAL', date: 'DB2.DBW42:DATE', word: DB2.DBW50, dword: DB2.DBD52, flag: {{address: DB2.DBX60.5, writable: true}},
           beyond: DB2.DBW255, missing: DB77.DBW0}}}}]}}"
    )
}

async fn reads_and_writes(version: &str) {
    let mut server = Snap7::start(version).await;
    let run = Run::start(&types_yaml(server.port));
    for (tag, value) in [
        ("bit", Owned::Bool(true)),
        ("int", Owned::Int(-1234)),
        ("dint", Owned::Int(-123_456_789)),
        ("real", Owned::Double(f64::from(123.456_f32))),
        ("text", Owned::Text("snap7".into())),
        ("uint", Owned::UInt(65534)),
        ("udint", Owned::UInt(4_000_000_000)),
        ("sint", Owned::Int(-100)),
        ("usint", Owned::UInt(200)),
        ("lreal", Owned::Double(-1.5e300)),
        ("date", Owned::Text("2026-07-01".into())),
        ("word", Owned::UInt(0xABCD)),
        ("dword", Owned::UInt(0xDEAD_BEEF)),
    ] {
        run.until_value(tag, value).await;
    }
    // The block that is not there and the tag that ends beyond its block cost nobody else a value.
    let has_bad = |tag: &'static str| {
        move |host: &TestHost| host.samples().iter().any(|sample| sample.tag == format!("at/plc/{tag}") && sample.status.is_bad())
    };
    run.host.until("the tag beyond the block is bad", has_bad("beyond")).await;
    run.host.until("the tag without a block is bad", has_bad("missing")).await;
    run.host
        .until("the status says so", |host| matches!(host.status(""), Some(Status::Degraded(why)) if why.starts_with("2 of 16 tags")))
        .await;

    assert_eq!(answered(&run, "int", CommandValue::Int(321)).await, Outcome::Done);
    assert_eq!(answered(&run, "real", CommandValue::Double(0.5)).await, Outcome::Done);
    assert_eq!(answered(&run, "text", CommandValue::Text("new".into())).await, Outcome::Done);
    assert_eq!(answered(&run, "flag", CommandValue::Bool(true)).await, Outcome::Done);
    run.until_value("text", Owned::Text("new".into())).await;
    if version == PURE {
        // It serves a copy of the memory that it was given, so its script can't look; and it writes a bit as a byte.
        run.stop().await;
        return;
    }
    // The foreign side looks at its own memory: the bit stands alone, the text keeps its greatest length.
    server.order("read 0").await;
    assert_eq!(server.answer().await["hex"], "08000141f8a432eb3f0000000a036e65");
    server.order("read 60").await;
    assert!(server.answer().await["hex"].as_str().is_some_and(|hex| hex.starts_with("2000")));
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snap7s_native_server_is_read_and_written() {
    reads_and_writes(NATIVE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_snap7s_pure_server_is_read_and_written() {
    reads_and_writes(PURE).await;
}

/// The program in the foreign CPU counts the parts that were taken from it; the line is cut under it again and again, and we are killed.
#[tokio::test(flavor = "multi_thread")]
async fn every_part_of_a_foreign_program_is_recorded_once() {
    const PARTS: usize = 60;
    let mut server = Snap7::start(NATIVE).await;
    let cable = FaultProxy::to(format!("127.0.0.1:{}", server.port)).await;
    let compiled = compile(&format!(
        "{{endpoint: '{}', timeout: 500ms, groups: [
           {{every: 5ms, tags: {{part_done: DB1.DBX4.1}}}},
           {{trigger: {{tag: part_done, ack: part_ack}}, record: {{topic: parts, key: '{{serial}}'}},
             tags: {{serial: 'DB1.DBB12:STRING[18]', number: 'DB1.DBD32:DINT', half: 'DB1.DBD36:REAL', part_ack: {{address: DB1.DBX60.0, writable: true}}}}}}]}}",
        cable.addr()
    ));
    let host = TestHost::of(&*compiled);
    server.order(&format!("parts {PARTS}")).await;
    let mut round = 0;
    while host.documents().len() < PARTS {
        let wanted = (host.documents().len() + 9).min(PARTS);
        let run = Run::of(&*compiled, host.clone());
        host.until("parts are recorded", |host| host.documents().len() >= wanted).await;
        match round % 3 {
            0 => {
                cable.reset();
                run.stop().await;
            }
            1 => {
                cable.half_open();
                tokio::time::sleep(Duration::from_millis(50)).await;
                cable.heal();
                cable.reset();
                run.task.abort();
                let _ = run.task.await;
            }
            _ => _ = run.stop().await,
        }
        host.restart();
        round += 1;
    }
    // The last acknowledgement may have been cut off: a part that was recorded is acknowledged again, and only that.
    let run = Run::of(&*compiled, host.clone());
    assert_eq!(server.answer().await["taken"], PARTS);
    run.stop().await;
    let documents = host.documents();
    let wanted: Vec<String> = (1..=PARTS).map(|n| format!("SN-{n:06}")).collect();
    assert_eq!(documents.iter().map(|document| String::from_utf8_lossy(&document.key).into_owned()).collect::<Vec<_>>(), wanted);
    assert!(documents.iter().zip(1..).all(|(document, n)| document.text().contains(&format!("\"number\":{n},\"serial\""))
        || document.text().contains(&format!("\"number\":{n},"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_line_and_a_dead_one_are_told_apart() {
    let server = Snap7::start(NATIVE).await;
    let cable = FaultProxy::to(format!("127.0.0.1:{}", server.port)).await;
    let run = Run::start(&types_yaml(cable.addr().port()));
    run.until_value("int", Owned::Int(-1234)).await;
    let accepted = cable.accepted();
    // 200 ms on the way: late, but within the second that an answer may take.
    cable.delay(Duration::from_millis(200));
    let count = run.host.count();
    run.host.until("a slow line carries values", |host| host.count() > count + 50).await;
    assert_eq!(cable.accepted(), accepted, "and the connection stays");
    assert!(run.host.lost("poll_skipped") > 0, "cycles that a slow line can't keep are counted");
    // Nothing comes any more: the connection is given up, and made anew.
    cable.half_open();
    cable.until_more_than(accepted).await;
    cable.heal();
    cable.reset();
    let count = run.host.count();
    run.host.until("it is read again", |host| host.count() > count + 50).await;
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_cpu_in_stop_shows_in_the_status() {
    let mut server = Snap7::start(NATIVE).await;
    let yaml = format!(
        "{{endpoint: '127.0.0.1:{}', keep_alive: 100ms, cpu_tags: true, groups: [{{every: 20ms, tags: {{int: 'DB2.DBW2:INT'}}}}]}}",
        server.port
    );
    let run = Run::start(&yaml);
    run.until_value("cpu/state", Owned::Text("RUN".into())).await;
    server.order("stop").await;
    run.until_value("cpu/state", Owned::Text("STOP".into())).await;
    run.host.until("the status says so", |host| matches!(host.status(""), Some(Status::Degraded(why)) if why.contains("STOP"))).await;
    run.stop().await;
}
