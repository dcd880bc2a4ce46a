//! The command line as people type it: what they are told, and that it ends as they expect.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

fn millrace(args: &[&str]) -> Output {
    let child = Command::new(env!("CARGO_BIN_EXE_millrace")).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the binary starts");
    let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let (out, err) = (std::thread::spawn(|| read(out)), std::thread::spawn(|| read(err)));
    let status = ended(&mut child, &args.join(" "));
    Output { status, stdout: out.join().expect("it is read"), stderr: err.join().expect("it is read") }
}

fn read(mut from: impl std::io::Read) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).expect("a pipe can be read");
    all
}

/// How a process ended; one that does not within a minute is killed and fails the test.
fn ended(child: &mut Child, what: &str) -> ExitStatus {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().expect("it can be asked") {
            return status;
        }
        if Instant::now() > end {
            child.kill().expect("it can be killed");
            panic!("`{what}` hangs: it did not end within a minute");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A folder of this test's own.
fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("millrace-cli-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder can be made");
    dir
}

/// What `check` says of a text, and whether it passes.
fn check(name: &str, text: &str) -> (bool, String) {
    let dir = scratch(name);
    let file = dir.join("factory.yaml");
    fs::write(&file, text).expect("a file can be written");
    let output = millrace(&["check", &file.to_string_lossy()]);
    fs::remove_dir_all(dir).expect("the folder goes");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A factory with one MQTT subscription.
fn mqtt(subscription: &str) -> String {
    format!(
        "site: acme/lab\ntopics: {{t: {{format: json}}, large: {{properties: {{max.message.bytes: \"40000000\"}}}}}}\nsources:\n  gateway: {{type: mqtt, endpoint: \"mqtt://127.0.0.1\", topic: t, subscribe: [{{{subscription}}}]}}\n"
    )
}

#[test]
fn check_and_plan_say_what_a_device_may_send_and_what_kafka_takes() {
    let dir = scratch("limits");
    let file = dir.join("factory.yaml");
    let path = file.to_string_lossy().into_owned();
    let said = |args: &[&str]| String::from_utf8_lossy(&millrace(&[args, &[&path]].concat()).stdout).into_owned();
    fs::write(&file, mqtt("filter: a")).expect("a file can be written");
    let limits = "a message may have 32 MiB, topic t takes 1 MiB: a longer one is kept whole in the data directory";
    for command in ["check", "plan"] {
        assert!(said(&[command]).contains(limits), "{command}: {}", said(&[command]));
    }
    let plan: Value = serde_json::from_str(&said(&["plan", "--json"])).expect("JSON");
    let limits = &plan["sources"][0]["limits"];
    assert_eq!((&limits["device_may_send_bytes"], &limits["topics"][0]["takes_bytes"]), (&(32 << 20).into(), &1_048_588.into()), "{plan}");
    // A topic that takes as much says nothing.
    fs::write(&file, mqtt("filter: a, topic: large")).expect("a file can be written");
    assert!(!said(&["check"]).contains("takes") && !said(&["plan"]).contains("limits:"), "{}", said(&["plan"]));
    fs::remove_dir_all(dir).expect("the folder goes");
}

#[test]
fn a_plan_names_the_topic_of_what_is_browsed_and_says_what_stop_is_survived() {
    let dir = scratch("plan");
    let file = dir.join("factory.yaml");
    let source = |groups: &str| format!("{{type: opcua, endpoint: \"opc.tcp://127.0.0.1:4840\", topic: telemetry, groups: [{groups}]}}");
    let text = format!(
        "site: acme/lab\ntopics: {{telemetry: {{format: avro}}}}\nsources:\n  shop: {}\n  plain: {}\n",
        source("{every: 1s, browse: {from: Objects, depth: 3}}"),
        source("{every: 1s, tags: {a: \"ns=2;s=A\"}}")
    );
    fs::write(&file, text).expect("a file can be written");
    let output = millrace(&["plan", "--json", &file.to_string_lossy()]);
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for source in plan["sources"].as_array().expect("sources") {
        assert_eq!(source["topics"], serde_json::json!(["telemetry"]), "{source}");
    }
    let does = plan["sources"][1]["does"].to_string();
    assert!(does.contains("a stop of up to 10s is bridged by the server's queues") && does.contains("`server_queue`"), "{does}");
    assert!(!plan.to_string().contains("None None"), "{plan}");
    fs::remove_dir_all(dir).expect("the folder goes");
}

#[test]
fn each_mistake_is_told_with_what_to_write() {
    let press = |more: &str| {
        format!(
            "site: acme/lab\ntopics: {{telemetry: {{format: avro}}}}\nsources:\n  load: {{type: generator, at: a/b, topic: telemetry, rate: 10/s, tags: 3{more}}}\n"
        )
    };
    let file = |more: &str| {
        format!(
            "site: acme/lab\ntopics: {{t: {{format: json}}}}\nsources:\n  a: {{type: file, path: \"/in/*.csv\", at: a, topic: t, {more}}}\n"
        )
    };
    let cases: &[(&str, String, &[&str])] = &[
        ("deadband", press(", deadband: 1%"), &["has a deadband in percent and no range", "give the tag `min` and `max`"]),
        (
            "topic",
            press("").replace("topic: telemetry", "topic: telemtry"),
            &["topic telemtry is not declared", "did you mean `telemetry`?"],
        ),
        (
            "sink",
            press("") + "sinks:\n  out: {type: file, topics: [telemetri], path: /tmp/x.ndjson}\n",
            &["sink out reads topic telemetri", "did you mean `telemetry`?"],
        ),
        (
            "type",
            press("").replace("type: generator", "type: genrator"),
            &["there is no source of type `genrator`", "did you mean `generator`?"],
        ),
        ("key", press("").replace("avro}", "avro, key: \"{hall}\"}"), &["names `{hall}`", "{at}", "{tag}"]),
        (
            "open",
            press("") + "http: {listen: \"0.0.0.0:8080\"}\n",
            &["the console would be open to everyone who reaches 0.0.0.0:8080", "tokens:"],
        ),
        ("period", press("").replace("rate: 10/s", "rate: 10/s, stale_after: 30 fortnights"), &["unknown unit `fortnights`"]),
        ("as", file("samples: {v: {at: v, as: float}}"), &["`float` is not one of", "`double`"]),
        ("java", file("samples: {v: v}, time: {at: t, format: \"dd.MM.yyyy HH:mm:ss\"}"), &["write it as in `%d.%m.%Y %H:%M:%S`"]),
        ("go", file("samples: {v: v}, time: {at: t, format: \"2006-01-02 15:04:05\"}"), &["write it as in `%Y-%m-%d %H:%M:%S`"]),
        (
            "star",
            mqtt("filter: \"a/+\", at: \"{1}\", samples: {v: /items/*/v}"),
            &["`/items/*/v` has a `*`, which a JSON pointer does not know", "name the list in `each`"],
        ),
        (
            "births",
            mqtt("filter: \"spBv1.0/Plant/DDATA/#\", payload: sparkplug"),
            &["brings no births (NBIRTH, DBIRTH)", "`spBv1.0/Plant/#`"],
        ),
        (
            "clear",
            "site: acme/lab\ntopics: {t: {format: json}}\nsources:\n  o: {type: opcua, endpoint: \"opc.tcp://10.0.0.5:4840\", topic: t, login: {user: u, password: \"${file:/run/secrets/plc}\"}, groups: [{every: 1s, tags: {a: \"ns=2;s=A\"}}]}\n".to_owned(),
            &["opc.tcp://10.0.0.5:4840 is not secured", "password"],
        ),
        ("command", mqtt("filter: x, payload: number, tag: x, command: {json: {v: 1}}"), &["`command` wants `topic`"]),
    ];
    for (name, text, expected) in cases {
        let (_, said) = check(name, text);
        for part in *expected {
            assert!(said.contains(part), "{name}: `{part}` is not in\n{said}");
        }
    }
    for good in ["", ", stale_after: 30 sec, at_least_every: 7 days"] {
        let (passes, said) = check("good", &press(good));
        assert!(passes && said.is_empty(), "{said}");
    }
    for group in ["spBv1.0/#", "spBv1.0/Plant/+/+/#", "+/Plant/#"].map(|filter| format!("filter: \"{filter}\", payload: sparkplug")) {
        assert!(!check("births", &mqtt(&group)).1.contains("brings no births"), "{group}");
    }
}

#[test]
fn levels_and_the_documented_key_template_pass() {
    let (passes, said) = check(
        "levels",
        "site: acme/lab\nlevels: [area, line]\ntopics: {telemetry: {format: avro, key: \"{at}/{tag}\"}, other: {key: \"{area}:{line}\", timestamp: read_time}}\nsources:\n  load: {type: generator, at: a/b, topic: telemetry, rate: 10/s, tags: 3}\n",
    );
    assert!(passes && said.is_empty(), "{said}");
}

/// A schema's shape, references followed.
fn resolved<'s>(schema: &'s Value, mut shape: &'s Value) -> &'s Value {
    for _ in 0..8 {
        let reference = shape.get("$ref").and_then(Value::as_str);
        let choice = ["anyOf", "allOf"].iter().find_map(|key| shape.get(*key)?.as_array()?.iter().find(|one| one.get("$ref").is_some()));
        shape = match (reference, choice) {
            (Some(reference), _) => &schema["$defs"][reference.rsplit('/').next().expect("a name")],
            (None, Some(one)) => one,
            (None, None) => return shape,
        };
    }
    shape
}

/// The words that a key takes.
fn words(shape: &Value) -> Vec<String> {
    let of_enum = shape.get("enum").and_then(Value::as_array).into_iter().flatten();
    let of_choice = shape.get("oneOf").and_then(Value::as_array).into_iter().flatten().flat_map(|one| {
        let inner = one.get("enum").and_then(Value::as_array).into_iter().flatten();
        one.get("const").into_iter().chain(inner)
    });
    of_enum.chain(of_choice).filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

#[test]
fn every_word_that_the_schema_documents_passes_check() {
    let output = millrace(&["config", "schema"]);
    let schema: Value = serde_json::from_slice(&output.stdout).expect("the schema is JSON");
    let mut count = 0;
    for section in ["kafka", "schemas", "http", "messages", "log", "clock", "floor", "topics"] {
        let top = resolved(&schema, &schema["properties"][section]);
        let below = if section == "topics" { resolved(&schema, &top["additionalProperties"]) } else { top };
        for (key, shape) in below["properties"].as_object().expect("keys") {
            for word in words(resolved(&schema, shape)) {
                count += 1;
                let more = if word == "asset" { ", window: 1s" } else { "" };
                let value = format!("{{{key}: {word}{more}}}");
                let value = if section == "topics" { format!("{{orders: {value}}}") } else { value };
                let text = format!(
                    "site: acme/lab\n{section}: {value}\nsources:\n  load: {{type: generator, at: a, topic: t, rate: 1/s, tags: 1}}\n"
                );
                let (passes, said) = check("word", &text);
                assert!(passes, "{section}.{key}: {word} is documented and refused\n{said}");
            }
        }
    }
    assert!(count > 25, "only {count} words were found in the schema");
}

/// Rust files below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != "tests" {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_key_of_the_factory_has_a_reader() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let declaring = ["connector", "http", "intake", "kafka", "registry", "top", "topic"];
    let declaring = declaring.map(|name| top.join(format!("config/src/factory/{name}.rs")).canonicalize().expect("it is there"));
    let mut files = Vec::new();
    for folder in ["config/src", "runtime", "connectors"] {
        sources(&top.join(folder), &mut files);
    }
    let text = |path: &PathBuf| fs::read_to_string(path).expect("a file can be read");
    let is_reader = |path: &&PathBuf| path.canonicalize().is_ok_and(|path| !declaring.contains(&path));
    let readers: String = files.iter().filter(is_reader).map(text).collect();
    let text: String = declaring.iter().map(text).collect();
    let keys: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("    pub ")?.split_once(": ")).map(|(key, _)| key).collect();
    assert!(keys.len() > 60, "{keys:?}");
    for key in keys.into_iter().filter(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_')) {
        let is_read =
            [format!(".{key}."), format!(".{key} "), format!(".{key},"), format!(".{key})"), format!(".{key};"), format!(".{key}\n")];
        assert!(is_read.iter().any(|form| readers.contains(form.as_str())), "nobody reads the key `{key}` of config/src/factory");
    }
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    for args in [&["config", "schema"][..], &["config", "reference"], &["check", "/does/not/exist.yaml"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        drop(child.stdout.take());
        let is_check = args[0] == "check";
        if is_check {
            drop(child.stderr.take());
        }
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{args:?}: {said}");
        assert_ne!(output.status.code(), Some(101), "{args:?}");
    }
}

#[test]
fn a_service_that_is_not_there_is_named_with_what_to_do() {
    for command in ["status", "tags", "lost", "top"] {
        let output = millrace(&[command, "--url", "http://127.0.0.1:9"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("no service answers at http://127.0.0.1:9"), "{command}: {said}");
    }
}

#[test]
fn the_version_names_the_release_and_the_exit_codes_are_told() {
    let version = String::from_utf8_lossy(&millrace(&["--version"]).stdout).into_owned();
    assert!(version.starts_with(concat!("millrace ", env!("CARGO_PKG_VERSION"))), "{version}");
    let help = String::from_utf8_lossy(&millrace(&["--help"]).stdout).into_owned();
    assert!(help.contains("Exit codes"), "{help}");
}

/// Waits for a condition, a minute at most.
fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn changed_files_are_taken_by_the_same_process_and_a_mistake_changes_nothing() {
    let dir = scratch("reload");
    let file = dir.join("factory.yaml");
    let factory = |more: &str| {
        let one = "one: {type: generator, at: a, topic: t, tags: 2, rate: 10/s}";
        let head = "site: acme/lab\nkafka: {brokers: \"127.0.0.1:9\"}\nhttp: {listen: \"127.0.0.1:0\"}\ntopics: {t: {format: json}}\n";
        let text = format!("{head}data_dir: {}\nsources:\n  {one}\n{more}", dir.join("data").display());
        fs::write(&file, text).expect("a file can be written");
    };
    factory("");
    let output = dir.join("output");
    let log = fs::File::create(&output).expect("a file can be made");
    let mut child = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args(["run", "-c"])
        .arg(&file)
        .env_remove("RUST_LOG")
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("the binary starts");
    let said = || fs::read_to_string(&output).unwrap_or_default();
    let starts = || said().matches(" runs acme/lab").count();
    let reload = |more: &[&str]| millrace(&[&["reload", &file.to_string_lossy()], more].concat());
    eventually("it runs", || (starts() == 1 && dir.join("data/running.yaml").exists()).then_some(()));

    factory("  two: {type: generator, at: b, topic: t, tgs: 2, rate: 10/s}\n");
    let refused = reload(&[]);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("unknown key `tgs`"), "{refused:?}");

    factory("  two: {type: generator, at: b, topic: t, tags: 2, rate: 10/s}\n");
    let dry = reload(&["--dry-run"]);
    assert_eq!(String::from_utf8_lossy(&dry.stdout), "source two is new\n", "{dry:?}");
    assert_eq!(starts(), 1, "{}", said());

    let told = reload(&[]);
    assert!(told.status.success() && String::from_utf8_lossy(&told.stdout).contains(&format!("told process {}", child.id())), "{told:?}");
    eventually("the new source runs", || said().contains("the changed files are taken").then_some(()));
    assert!(said().contains("taking changed files: source two is new"), "{}", said());
    assert_eq!(starts(), 1, "only the source is started\n{}", said());
    assert!(child.try_wait().expect("it can be asked").is_none(), "the process is the same");

    let pid = child.id().to_string();
    eventually("the service can be told to stop", || {
        Command::new("kill").args(["-TERM", &pid]).status().ok().filter(|status| status.success())
    });
    let status = ended(&mut child, "run");
    assert!(status.success(), "{status}\n{}", said());
    fs::remove_dir_all(dir).expect("the folder goes");
}
