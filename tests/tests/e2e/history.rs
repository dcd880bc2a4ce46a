//! A historian's past, out of an export that Python wrote, through kills of the import.

use millrace_tests::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const ROWS: usize = 150_000;
const TAGS: usize = 40;
/// 2024-01-01 in Berlin, in microseconds.
const START: i64 = 1_704_063_600_000_000;

/// Bytes of all files below a folder.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

#[test]
fn an_export_of_a_historian_is_in_kafka_once_through_kills_of_its_import() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("past");
    let factory = Factory::on(kafka).with("topic", &topic);
    let export = factory.dir().join("export.csv");
    let mut python = peers::debian("python3", "python3");
    python.arg(peers::scripts().join("historian.py")).arg(&export).args([ROWS.to_string(), TAGS.to_string()]);
    assert!(python.status().expect("Python runs").success());
    let millrace = factory.prepare("topics: {$topic: {format: json, schema: telemetry}}\n");
    let words =
        ["import", "history", "export.csv", "-c", "factory.yaml", "--to", &topic, "--at", "pi", "--zone", "Europe/Berlin", "--json"];
    let said = |words: &[&str], is_whole: bool| -> Value {
        let output = millrace.run(words);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        // The line that is cut short is no success.
        assert_eq!(output.status.code(), Some(i32::from(!is_whole)), "{errors}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
    };
    let rehearsed = said(&words, false);
    assert_eq!((&rehearsed["rows"], &rehearsed["tags"], &rehearsed["dry_run"]), (&json!(ROWS), &json!(TAGS), &json!(true)), "{rehearsed}");
    assert_eq!(rehearsed["paths"][0], "pi/TIC-00.PV", "{rehearsed}");
    assert!(!millrace.data_dir().exists(), "a rehearsal leaves nothing behind");
    let slashed = "tag,press,time,value\npress-1/force,1,2024-01-01T00:00:00Z,1.5\n";
    std::fs::write(millrace.dir().join("slashed.csv"), slashed).expect("a file can be written");
    for (tag, path) in [("tag", "press-1%2Fforce"), ("press-{press}/force", "press-1/force")] {
        let output = millrace.run(&["import", "history", "slashed.csv", "-c", "factory.yaml", "--to", &topic, "--tag", tag]);
        let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains(&format!("the first tags below the site: {path}\n")), "{said}");
        assert_eq!(told.contains("a slash in a tag's name makes no level"), path.contains("%2F"), "{told}");
    }

    let words = [&words[..], &["--yes"]].concat();
    let log = millrace.data_dir().join("import/history/log");
    for _ in 0..3 {
        let before = size(&log);
        let mut command = Command::new(millrace::binary());
        command.args(&words).current_dir(millrace.dir());
        let mut import = Process::start("import", command, &millrace.dir().join("import.log"));
        // Well behind the only line that is cut short: a kill between the pieces of its batch, which go to two lanes, may show it twice.
        eventually("it goes on", || (size(&log) > before + 500_000 || !import.is_running()).then_some(()));
        import.kill9();
    }
    let last = said(&words, false);
    let before = last["rows_before"].as_u64().expect("a number") as usize;
    assert!(before < ROWS, "it was killed in the middle: {last}");
    eprintln!("{before} rows were in the log before the last run");
    assert_eq!((&last["rows"], &last["sent"], &last["is_done"]), (&json!(ROWS), &json!(ROWS), &json!(true)), "{last}");
    let told = std::fs::read_to_string(millrace.dir().join("import.log")).unwrap_or_default() + &last["lines"].to_string();
    assert!(told.contains("cannot read line 4711 of"), "{told}");

    let site = millrace.site();
    let mut seen = vec![false; ROWS];
    let mut statuses = BTreeSet::new();
    for record in kafka.read(&topic) {
        let sample = record.json();
        let tag = sample["tag"].as_str().expect("a tag").strip_prefix(&format!("{site}/pi/TIC-")).expect("ours").strip_suffix(".PV");
        let tag: usize = tag.and_then(|tag| tag.parse().ok()).expect("a number");
        let step = sample["time"].as_i64().expect("a time") - START;
        let n = usize::try_from(step / 1_000_000).expect("after the start") * TAGS + tag;
        assert!(!std::mem::replace(&mut seen[n], true), "row {n} is there twice");
        let (value, quality) = match n % 1000 {
            0..=2 => (Value::Null, "bad"),
            3 => (json!(n as f64 / 8.0), "uncertain"),
            _ => (json!(n as f64 / 8.0), "good"),
        };
        let status = sample["status"].as_u64().unwrap_or(0);
        let found = ["good", "uncertain", "bad"][(status >> 30) as usize];
        assert!(sample["value"] == value && found == quality && sample["origin"] == "backfill", "row {n}: {sample}");
        statuses.insert(status);
    }
    let missing: Vec<usize> = (0..ROWS).filter(|n| !seen[*n]).take(10).collect();
    assert!(missing.is_empty(), "missing rows: {missing:?}");
    assert_eq!(statuses, BTreeSet::from([0, 0x4000_0000, 0x8000_0000, 0x8031_0000, 0x809B_0000]));
    let dead = kafka.read(&format!("{topic}.dead"));
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].text().as_str(), dead[0].header("millrace.line").as_deref()), ("TIC-00.PV;01-Jan-20", Some("4711")));

    // What is there is there: begun once more, nothing is sent.
    let again = said(&words, false);
    assert_eq!((&again["rows_before"], &again["sent"], &again["lines"]), (&json!(ROWS), &json!(ROWS), &json!([])), "{again}");
    let refused = millrace.run(&["import", "history", "export.csv", "-c", "factory.yaml", "--to", "elsewhere"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not declared to carry samples"), "{refused:?}");
}
