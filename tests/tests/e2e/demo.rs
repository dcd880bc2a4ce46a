//! `millrace demo`: the whole product in one command, judged by its own summary and by what it leaves behind.

use millrace_tests::*;
use serde_json::Value;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn demo(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(millrace::binary());
    command.arg("demo").args(args).current_dir(dir).env_remove("RUST_LOG");
    command
}

fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("the summary is not JSON: {error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// Whether both equations hold for the total and for every source.
fn adds_up(summary: &Value) {
    let of = |ledger: &Value| serde_json::from_value::<Ledger>(ledger.clone()).expect("a ledger");
    let total = of(&summary["ledger"]);
    total.adds_up();
    let sources = summary["sources"].as_object().expect("sources by name");
    sources.values().for_each(|source| of(&source["ledger"]).adds_up());
    assert_eq!(total.received, sources.values().map(|source| of(&source["ledger"]).received).sum::<u64>());
    assert_eq!((total.waiting, total.dropped_at_intake, total.dropped_from_log), (0, 0, 0), "{summary:#}");
}

#[test]
fn the_demo_ends_by_itself_with_a_ledger_that_adds_up_and_nothing_missing() {
    let dir = scratch("demo");
    // Ports that are taken are no obstacle.
    let _taken = ["127.0.0.1:1883", "127.0.0.1:9092", "127.0.0.1:8080"].map(TcpListener::bind);
    let output = demo(dir.path(), &["--for", "25s", "--json"]).output().expect("the binary starts");
    let summary = summary(&output);
    assert!(output.status.success(), "{summary:#}\n{}", String::from_utf8_lossy(&output.stderr));
    adds_up(&summary);
    assert_eq!((&summary["ok"], &summary["missing"]), (&Value::Bool(true), &Value::from(0)), "{summary:#}");
    assert!(summary["sent"].as_u64() > Some(500) && summary["sent"] == summary["in_kafka"], "{summary:#}");
    // What Kafka got last is written with the next start; nothing is there that Kafka has not.
    let (in_lake, in_kafka) = (summary["in_lake"].as_u64().expect("there is a lake"), summary["in_kafka"].as_u64().expect("a number"));
    assert!(in_lake > in_kafka / 2 && in_lake <= in_kafka, "{summary:#}");
    for device in summary["devices"].as_array().expect("devices") {
        assert!(device["sent"].as_u64() > Some(3) && device["sent"] == device["in_kafka"], "{device}");
    }
    let events = summary["events"].as_array().expect("events");
    let at = |part: &str| {
        let event = events.iter().find(|event| event["what"].as_str().is_some_and(|what| what.contains(part)));
        event.unwrap_or_else(|| panic!("no event `{part}` in {events:#?}"))["ms"].as_u64().expect("a time")
    };
    for taken in ["1883 is taken", "9092 is taken", "8080 is taken"] {
        at(taken);
    }
    // What came first: data in Kafka, long before the first trouble was over.
    assert!(summary["first_in_kafka_ms"].as_u64().expect("data came") < at("the cable to cell-3 is back"));
    assert!(at("the cable to cell-3 is cut") < at("the cable to cell-3 is back"));
    assert!(at("Millrace's cable to the MQTT broker is cut") < at("Millrace's cable is back"));
    assert!(at("Kafka stops for 5 s") < at("records waited in the log and follow"), "the log is seen filling and draining");
    assert!(!events.iter().any(|event| event["what"].as_str().is_some_and(|what| what.contains("back: 0 records waited"))), "{events:#?}");
    assert_eq!(summary["hostile"], summary["ledger"]["dead_at_intake"], "each wrong payload is a dead letter: {summary:#}");
    // Parts are confirmed to the ERP: some answers never came, and none is posted twice.
    let erp = &summary["erp"];
    assert!(erp["orders"].as_u64() > Some(5) && erp["confirmed"].as_u64() > Some(3) && erp["answers_lost"].as_u64() > Some(0), "{erp}");
    assert_eq!(erp["twice"], 0, "{erp}");
    let file = dir.path().join("millrace-demo/demo.yaml");
    let words = ["query", "--lake-only", "body/press-1/force", "--from", "5m", "--output", "plot", "-c"];
    let plot = Command::new(millrace::binary()).args(words).arg(&file).current_dir(dir.path()).output().expect("the binary starts");
    assert!(plot.status.success() && plot.stdout.len() > 500, "{plot:?}");
    // A day before, generated, and said to be.
    let words = ["query", "--lake-only", "body/press-1/force", "--from", "1d", "--json", "-c"];
    let day = Command::new(millrace::binary()).args(words).arg(&file).current_dir(dir.path()).output().expect("the binary starts");
    let day: Value = serde_json::from_slice(&day.stdout).unwrap_or_else(|error| panic!("{error}: {day:?}"));
    let rows = day["tags"][0]["rows"].as_array().expect("rows");
    let generated = rows.iter().filter(|row| row["origin"] == "backfill").count();
    // The oldest have left the day while the demo ran.
    assert!((8_600..=8_640).contains(&generated) && rows.len() > generated, "{generated} of {}", rows.len());
    at("yesterday is there, generated: 25920 values");
    let check = Command::new(millrace::binary()).args(["check", "-c"]).arg(file).output().expect("the binary starts");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn ctrl_c_ends_a_demo_cleanly_and_its_folder_is_its_own() {
    let dir = scratch("demo");
    let data = dir.path().join("here");
    let mut running = Process::start("millrace demo", demo(dir.path(), &["--data", "here"]), &dir.path().join("demo.log"));
    eventually("data flows", || {
        assert!(running.is_running(), "it ended at its start\n{}", running.output());
        (running.output().matches("the ledger adds up").count() > 2).then_some(())
    });
    let second = demo(dir.path(), &["--data", "here", "--for", "5s"]).output().expect("the binary starts");
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another demo runs in here"), "{second:?}");
    running.interrupt();
    let status = running.wait();
    let said = running.output();
    assert!(status.success(), "{status}\n{said}");
    assert!(said.contains("every reading is in Kafka, and the ledger adds up"), "{said}");
    assert!(data.join("demo.yaml").exists() && data.join("millrace.log").exists());

    // The same folder once more: what is there is kept, and the numbers of the first demo are not those of the second.
    let output = demo(dir.path(), &["--data", "here", "--for", "15s", "--json", "--calm"]).output().expect("the binary starts");
    let summary = summary(&output);
    assert!(output.status.success(), "{summary:#}");
    adds_up(&summary);
}

/// At whatever moment of the start: what was made is in Kafka, what was taken in is not left in the log. Several start at once, for the same ports.
#[test]
fn ctrl_c_at_the_start_is_as_clean_as_any_other() {
    let moments: [fn(&Process, &Path) -> bool; 5] = [
        |_, data| data.join("millrace.log").exists(),
        |_, data| data.join("data").exists() || data.join("broker").exists(),
        |running, _| running.output().contains("Millrace demo"),
        |running, _| running.output().contains("the ledger adds up"),
        |running, _| running.output().contains("is Running"),
    ];
    std::thread::scope(|scope| {
        for (i, moment) in moments.into_iter().enumerate() {
            scope.spawn(move || {
                let dir = scratch("demo");
                let mut running = Process::start("millrace demo", demo(dir.path(), &[]), &dir.path().join(format!("demo-{i}.log")));
                eventually("the moment comes", || {
                    assert!(running.is_running(), "it ended at its start\n{}", running.output());
                    moment(&running, &dir.path().join("millrace-demo")).then_some(())
                });
                running.interrupt();
                let status = running.wait();
                let said = running.output();
                assert!(status.success(), "{status} at moment {i}\n{said}");
                assert!(said.contains("and the ledger adds up"), "{said}");
            });
        }
    });
}

#[test]
fn a_folder_of_somebody_else_is_refused() {
    let dir = scratch("demo");
    std::fs::create_dir(dir.path().join("millrace-demo")).expect("a folder can be made");
    std::fs::write(dir.path().join("millrace-demo/precious.txt"), "mine").expect("a file can be written");
    let output = demo(dir.path(), &["--for", "5s"]).output().expect("the binary starts");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not a demo's data"), "{output:?}");
    assert!(dir.path().join("millrace-demo/precious.txt").exists());
}
