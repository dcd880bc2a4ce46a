//! Every command of the program, as the command line itself names them: its answer in JSON is JSON, and whoever stops reading it ends it quietly.
//!
//! The commands come from the manual pages, which are made of the command line: one that nobody has said here how to call fails the test.

use millrace_tests::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a command answers with `--json`.
#[derive(Clone, Copy, PartialEq)]
enum Json {
    /// One document.
    Whole,
    /// A document a line.
    Lines,
    /// It has none: it serves, or what it prints is made for another program as it is.
    None,
}
use Json::{Lines, None as NoJson, Whole};

/// How each command is called so that it prints something. `$fresh` is a path where nothing is yet.
const CALLS: &[(&str, &str, Json)] = &[
    ("alarm-list", "--url $url", Whole),
    ("alarm-test", "-c factory.yaml", Whole),
    ("broker", "--data $fresh --listen 127.0.0.1:0", NoJson),
    ("browse", "opcua $opcua --data $dir/peers", Whole),
    ("bundle", "--url $url --to $fresh", Whole),
    ("check", "factory.yaml", Whole),
    ("config-diff", "-c factory.yaml 1", Whole),
    ("config-hash", "", NoJson),
    ("config-history", "factory.yaml", Whole),
    ("config-reference", "", NoJson),
    ("config-rollback", "-c factory.yaml --dry-run 1", Whole),
    ("config-schema", "", NoJson),
    ("dead-list", "-c factory.yaml", Whole),
    ("dead-replay", "-c factory.yaml", Whole),
    ("dead-show", "-c factory.yaml --since 1h", Lines),
    ("demo", "--data $fresh --for 4s --calm", Whole),
    ("doctor", "-c factory.yaml", Whole),
    ("import-db", "$dir/oven.db", Whole),
    ("import-history", "$dir/past.csv -c factory.yaml --to again", Whole),
    ("import-ignition", "$dir/tags.json", Whole),
    ("import-kepware", "$dir/kepware.csv", Whole),
    ("import-step7", "$dir/symbols.sdf", Whole),
    ("import-tia", "$dir/tags.sdf", Whole),
    ("lake-check", "-c factory.yaml", Whole),
    ("lake-compact", "-c factory.yaml", Whole),
    ("lake-vacuum", "-c factory.yaml --keep 2h", Whole),
    ("log-export", "-c factory.yaml $log --to $fresh --all", Whole),
    ("log-import", "--data $fresh $dir/export.bin", Whole),
    ("log-ls", "-c factory.yaml", Whole),
    ("log-repair", "--data $dir/imported", Whole),
    ("log-verify", "-c factory.yaml", Whole),
    ("lost", "--url $url --since 30s", Whole),
    ("pki-approve", "-c factory.yaml $stranger", Whole),
    ("pki-export", "-c factory.yaml --to $fresh", Whole),
    ("pki-list", "-c factory.yaml", Whole),
    ("pki-reject", "-c factory.yaml $stranger", Whole),
    ("plan", "factory.yaml", Whole),
    ("probe", "opcua $opcua --data $dir/peers", Whole),
    ("query", "-c factory.yaml --from 10m load/counter-0", Whole),
    ("reload", "--dry-run factory.yaml", Whole),
    ("replicate-status", "-c copy.yaml --over 100ms", Whole),
    ("replicate-verify", "copy.yaml", Whole),
    ("replay", "-c factory.yaml --lake history --to again --from 10m --until 1s", Whole),
    ("run", "second.yaml", NoJson),
    ("schema-check", "-c factory.yaml", Whole),
    ("schema-diff", "-c factory.yaml", Whole),
    ("schema-list", "-c factory.yaml", Whole),
    ("schema-register", "-c factory.yaml", Lines),
    ("shell-completions", "bash", NoJson),
    ("shell-man", "$fresh", NoJson),
    ("simulate-erp", "--listen 127.0.0.1:0", NoJson),
    ("simulate-modbus", "--listen 127.0.0.1:0", NoJson),
    ("simulate-mqtt", "--listen 127.0.0.1:0", NoJson),
    ("simulate-opcua", "--listen 127.0.0.1:0", NoJson),
    ("simulate-s7", "--listen 127.0.0.1:0", NoJson),
    ("status", "--url $url", Whole),
    ("tags", "--url $url", Whole),
    ("tap", "--url $url", Lines),
    ("top", "--url $url --every 100ms", Lines),
    ("why", "--url $url load/counter-0", Whole),
];
/// They go on until they are told to end, whoever reads what they say.
const SERVING: &[&str] = &["broker", "run", "simulate-erp", "simulate-modbus", "simulate-mqtt", "simulate-opcua", "simulate-s7"];
/// They go on until nobody reads them any more.
const FOLLOWING: &[&str] = &["tap", "top"];

const FACTORY: &str = "
kafka: {brokers: embedded, embedded: {listen: \"$listen\"}}
schemas: {registry: embedded, listen: \"127.0.0.1:$registry\"}
topics:
  telemetry: {format: avro, schema: telemetry}
  again: {format: avro, schema: telemetry}
  orders: {format: avro, schema: order.avsc}
sources:
  load: {type: generator, at: load, topic: telemetry, tags: 1, rate: 50/s, shapes: [counter], report: all}
  desk: {type: file, path: $dir/orders.ndjson, format: ndjson, topic: orders}
alarms: {to: {nobody: {webhook: 'http://127.0.0.1:1/'}}}
sinks:
  history: {type: lake, topics: [telemetry], table: $dir/table, commit_every: 1s}
";
const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"acme","fields":[{"name":"id","type":"string"}]}"#;

/// What has a manual page of its own and no command below it.
fn commands(dir: &Path) -> BTreeSet<String> {
    let pages = dir.join("pages");
    let made = Command::new(millrace::binary()).args(["shell", "man"]).arg(&pages).status().expect("the binary starts");
    assert!(made.success());
    let names: BTreeSet<String> = std::fs::read_dir(pages)
        .expect("there are pages")
        .filter_map(|page| Some(page.ok()?.file_name().to_str()?.strip_suffix(".1")?.to_owned()))
        .filter_map(|name| Some(name.strip_prefix("millrace-")?.to_owned()))
        .collect();
    let is_leaf = |name: &&String| !names.iter().any(|other| other.starts_with(&format!("{name}-")));
    names.iter().filter(is_leaf).cloned().collect()
}

struct Ground {
    millrace: Millrace,
    _shop: Process,
    values: Vec<(&'static str, String)>,
    fresh: std::cell::Cell<u32>,
}

impl Ground {
    fn start() -> Self {
        let kafka = Kafka::inside(free_port());
        let factory = Factory::on(&kafka).with("listen", kafka.brokers()).with("registry", free_port());
        let lines = "{\"id\":\"1\"}\n{\"id\":7}\n{\"id\":\"\\u001b[2J\\u009b31m\"}\n{\"no\":\"\\u202e\"}\n";
        let factory = factory.file("order.avsc", ORDER).file("orders.ndjson", lines);
        let factory = factory.file("kepware.csv", "Tag Name,Address,Data Type\nSpeed,400001,Word\n");
        let factory = factory.file("oven.db", "DATA_BLOCK DB 1\nTITLE =\n STRUCT\n  a : INT;\n END_STRUCT ;\nBEGIN\nEND_DATA_BLOCK\n");
        let factory = factory.file("symbols.sdf", "\"Pump\",\"A       4.1 \",\"BOOL      \",\"main pump\"\n");
        let factory = factory.file("tags.sdf", "\"Pump\",\"%Q4.1\",\"Bool\",\"True\",\"True\",\"False\",\"\",\"\",\"True\"\n");
        let tags = r#"[{"name":"T","tagType":"AtomicTag","valueSource":"opc","opcItemPath":"ns=2;s=Line.Temp"}]"#;
        let factory = factory.file("tags.json", tags).file("past.csv", "tag,time,value\nT,2026-01-01T00:00:00Z,1\n");
        let second = format!(
            "site: acme/second\ndata_dir: {}/second\nhttp: {{listen: 127.0.0.1:0}}\nkafka: {{brokers: 127.0.0.1:1}}\n\
             sources: {{load: {{type: generator, at: a, topic: t, tags: 1, rate: 100/s}}}}\n",
            factory.dir().display()
        );
        let copy = format!(
            "site: acme/copy\ndata_dir: {}/copy\nkafka: {{brokers: \"{}\"}}\nschemas: {{registry: none}}\n\
             sinks: {{cloud: {{type: kafka, topics: [orders], brokers: \"{}\", rename: \"copy.{{topic}}\"}}}}\n",
            factory.dir().display(),
            kafka.brokers(),
            // Its own cluster, by another name.
            kafka.brokers().replace("127.0.0.1", "localhost"),
        );
        let millrace = factory.file("second.yaml", &second).file("copy.yaml", &copy).start(FACTORY);
        millrace.wait_running("load");
        millrace.wait_ledger("desk", "there are dead letters", |ledger| ledger.dead_at_intake >= 2 && ledger.waiting == 0);

        let port = free_port();
        let mut command = Command::new(millrace::binary());
        command.args(["simulate", "opcua", "--listen", &format!("127.0.0.1:{port}")]);
        let shop = Process::start("millrace simulate", command, &millrace.dir().join("shop.log"));
        eventually("the shop is open", || shop.output().contains("an OPC UA server at").then_some(()));

        let rejected = millrace.data_dir().join("pki/rejected/certs");
        std::fs::create_dir_all(&rejected).expect("a folder can be made");
        let stranger = rcgen::generate_simple_self_signed(vec!["stranger".to_owned()]).expect("a certificate can be made");
        std::fs::write(rejected.join("stranger.der"), stranger.cert.der()).expect("a file can be written");

        let mut ground = Self { millrace, _shop: shop, values: Vec::new(), fresh: 0.into() };
        let said = |args: &[&str]| -> Value {
            let output = ground.millrace.run(args);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text} {output:?}"))
        };
        let logs = said(&["log", "ls", "-c", "factory.yaml", "--json"]);
        let of_load = |log: &&Value| log["name"].as_str().is_some_and(|name| name.contains("load") && log["records"] != 0);
        let log = logs.as_array().and_then(|logs| logs.iter().find(of_load)).expect("a log of the generator");
        let log = log["name"].as_str().expect("a name").to_owned();
        said(&["log", "export", "-c", "factory.yaml", &log, "--to", "export.bin", "--all", "--json"]);
        said(&["log", "import", "--data", "imported", "export.bin", "--json"]);
        let shelves = said(&["pki", "list", "-c", "factory.yaml", "--json"]);
        let of_stranger = |one: &&Value| one["shelf"] == "rejected";
        let stranger = shelves.as_array().and_then(|all| all.iter().find(of_stranger)).expect("the stranger")["thumbprint"].clone();
        // A log that rests is not said to wait for Kafka.
        eventually("what is in Kafka is said to be there", || {
            let logs = said(&["log", "ls", "-c", "factory.yaml", "--json"]);
            logs.as_array().expect("logs").iter().filter(|log| !of_load(log)).all(|log| log["is_drained"] == true).then_some(())
        });
        let dir = ground.millrace.dir().display().to_string();
        let url = format!("http://127.0.0.1:{}", ground.millrace.http_port());
        ground.values = vec![
            ("$dir", dir),
            ("$url", url),
            ("$log", log),
            ("$stranger", stranger.as_str().expect("a text").to_owned()),
            ("$opcua", format!("opc.tcp://127.0.0.1:{port}")),
        ];
        eventually("the lake has a version", || {
            ground.millrace.dir().join("table/_delta_log/00000000000000000001.json").exists().then_some(())
        });
        ground
    }

    fn command(&self, name: &str, call: &str) -> Command {
        let fresh = self.fresh.replace(self.fresh.get() + 1);
        let mut call = call.replace("$fresh", &format!("{}/fresh-{fresh}", self.millrace.dir().display()));
        for (name, value) in &self.values {
            call = call.replace(name, value);
        }
        let mut command = Command::new(millrace::binary());
        command.args(name.split('-')).args(call.split_whitespace()).current_dir(self.millrace.dir()).env_remove("RUST_LOG");
        command
    }
}

fn password(child: &mut Child) {
    let mut stdin = child.stdin.take().expect("it is piped");
    let _ = std::io::Write::write_all(&mut stdin, b"a long password\n");
}

/// Waits for the end; what does not end is killed and fails the test.
fn end(name: &str, mut child: Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(status) = child.try_wait().expect("a child can be asked") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("{name} does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_json(name: &str, form: Json, text: &str) {
    let documents: Vec<Result<Value, _>> = match form {
        Whole => vec![serde_json::from_str(text)],
        Lines => text.lines().map(serde_json::from_str).collect(),
        NoJson => return,
    };
    assert!(!documents.is_empty(), "{name} --json says nothing");
    for document in documents {
        document.unwrap_or_else(|error| panic!("{name} --json: {error}\n{text}"));
    }
    let is_safe = |c: char| !c.is_control() || c == '\n';
    assert!(text.chars().all(is_safe) && !text.contains('\u{202e}'), "{name} --json prints a control character: {text:?}");
}

#[test]
fn every_command_answers_in_json_and_ends_quietly_when_nobody_reads_on() {
    let ground = Ground::start();
    let known: BTreeSet<String> = CALLS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let there = commands(ground.millrace.dir());
    assert_eq!(there, known, "the commands of the program, and those that are called here");
    for &(name, call, form) in CALLS {
        if form != NoJson {
            let mut command = ground.command(name, call);
            command.arg("--json");
            if FOLLOWING.contains(&name) {
                command.args(["--count", "3"]);
            }
            let output = command.output().expect("the binary starts");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(matches!(output.status.code(), Some(0 | 1)) && !said.is_empty(), "{command:?}: {output:?}");
            is_json(name, form, &said);
        }
        for both in [false, true] {
            let log = ground.millrace.dir().join("stderr");
            let (reader, writer) = std::io::pipe().expect("a pipe can be made");
            let mut command = ground.command(name, call);
            match both {
                false => command.stderr(std::fs::File::create(&log).expect("a file can be made")),
                true => command.stderr(writer.try_clone().expect("a second handle")),
            };
            let mut child = command.stdin(Stdio::piped()).stdout(writer).spawn().expect("the binary starts");
            drop(command); // with its ends of the pipe
            password(&mut child);
            let mut first = String::new();
            let is_silent = name == "shell-man" || name == "run" && !both;
            if !is_silent {
                BufReader::new(reader).read_line(&mut first).expect("a line can be read");
            } else {
                drop(reader);
            }
            if SERVING.contains(&name) {
                // It says that it stops, and nobody hears it.
                let pid = rustix::process::Pid::from_child(&child);
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it can be told to end");
            }
            let status = end(name, child);
            // What was told to end before it listens for that ends by the signal itself.
            let is_told = SERVING.contains(&name) && status.signal() == Some(15);
            assert!(is_told || matches!(status.code(), Some(0 | 1)), "{name}, both streams {both}: {status}");
            assert!(is_silent || !first.is_empty() || !both && status.code() == Some(1), "{name} says nothing");
            if !both {
                let said = std::fs::read_to_string(&log).expect("a file can be read");
                assert!(!said.contains("panicked") && !said.contains("Broken pipe"), "{name}: {said}");
            }
        }
    }
}

/// The line that the demo ends with, and the next one.
#[test]
fn a_whole_file_out_of_a_device_passes_check() {
    let (dir, port) = (scratch("next"), free_port());
    let mut command = Command::new(millrace::binary());
    command.args(["simulate", "opcua", "--listen", &format!("127.0.0.1:{port}")]);
    let shop = Process::start("millrace simulate", command, &dir.path().join("shop.log"));
    eventually("the shop is open", || shop.output().contains("an OPC UA server at").then_some(()));
    let endpoint = format!("opc.tcp://127.0.0.1:{port}");
    let run = |args: &[&str]| Command::new(millrace::binary()).args(args).current_dir(dir.path()).output().expect("the binary starts");
    let browsed = run(&["browse", "opcua", &endpoint, "--site", "acme/plant"]);
    std::fs::write(dir.path().join("factory.yaml"), &browsed.stdout).expect("a file can be written");
    let checked = run(&["check", "factory.yaml"]);
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", String::from_utf8_lossy(&checked.stderr));
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 2, "a look leaves nothing behind: {left:?}");
}
