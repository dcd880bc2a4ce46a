//! The worked examples of `examples/`, run as their READMEs say: with a smaller fleet where there is a large one.
//!
//! Each holds what it finds against what was sent, by itself, and ends with a failure where they differ; here the counts it names are held against
//! what must have been sent.

use millrace_tests::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// Runs a script to its end, and gives what its last line says.
fn run(script: &str, words: &[&str]) -> Value {
    // What it takes when it is there: an MQTT broker, and a compiler for what is compiled when it is run.
    peers::debian("mosquitto", "mosquitto");
    let dir = scratch("example");
    let mut python = peers::python(peers::examples());
    python.arg(examples().join(script)).args(words).arg("--folder").arg(dir.path()).current_dir(dir.path());
    python.env("MILLRACE_BIN", millrace::binary()).env("PYTHONDONTWRITEBYTECODE", "1");
    let mut example = Process::start(script, python, &dir.path().join("example.log"));
    // Each wait within it has a deadline of its own; all of them together take longer on a busy machine.
    let status =
        within(Duration::from_secs(600), &format!("{script} ends"), || example.child().try_wait().expect("a child can be waited for"));
    let output = example.output();
    assert!(status.success(), "{script} ended with {status}\n{output}");
    let last = output.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{script} says nothing in JSON\n{output}"));
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{script}: {error}: {last}"))
}

#[test]
fn the_notebook_tells_oee_trend_and_quality_of_a_lake_as_they_were_sent() {
    let said = run("lake/run.py", &["--days", "4"]);
    assert_eq!((&said["shifts"], &said["rows"]), (&json!(8), &said["imported"]), "{said}");
    assert!(said["rows"].as_u64().is_some_and(|rows| rows > 8 * 4 * 481), "{said}");
}

#[test]
fn kafka_streams_works_out_the_oee_that_python_works_out() {
    peers::debian("javac", "openjdk-17-jdk-headless");
    let libs = peers::kafka_streams().display().to_string();
    let said = run("oee/run.py", &["--json", "--libs", &libs]);
    // Eight hours of a shift and the hour after it, of three presses.
    assert_eq!(said["hours"], 27, "{said}");
    assert_eq!((&said["samples"], &said["received"]), (&said["readings"], &said["readings"]), "{said}");
    assert_eq!(said["parts"], said["parts_made"], "{said}");
    // Twenty minutes with four readings each, and what changed in them; one bad state; one press that begins to vibrate.
    assert!(said["late"].as_u64().is_some_and(|late| late >= 80), "{said}");
    assert_eq!((&said["bad"], &said["conditions"]), (&json!(1), &json!([true])), "{said}");
}

#[test]
fn a_model_warns_of_bearings_before_they_fail_and_its_scores_are_in_kafka() {
    let said = run("bearings/run.py", &["--machines", "160"]);
    // One machine in 40 fails.
    assert_eq!((&said["failures"], &said["dead"]), (&json!(4), &json!(0)), "{said}");
    let figure = |name: &str| said[name].as_f64().unwrap_or_else(|| panic!("no {name} in {said}"));
    assert!(figure("precision") >= 0.6 && figure("median_lead_days") >= 3.0, "{said}");
    assert!(figure("caught") > figure("fixed_caught") && figure("scores") > 17_000.0, "{said}");
}

#[test]
fn every_car_of_a_fleet_is_in_kafka_under_its_own_key_over_a_kill() {
    let said = run("cars/run.py", &["--json", "--vehicles", "2000", "--messages", "5"]);
    let found = |name: &str| said[name].as_i64().unwrap_or_else(|| panic!("no {name} in {said}"));
    assert_eq!((&said["cars"], &said["killed"]), (&json!(2_000), &json!(true)), "{said}");
    assert_eq!(found("samples") - found("repeated_samples"), 3 * 2_000 * 5, "{said}");
    assert_eq!(found("trips") - found("repeated_trips"), 2_000, "{said}");
    assert!(found("repeated_samples") >= 0 && found("repeated_trips") >= 0, "{said}");
}

/// Outputs are those of somebody's machine, and change with every run.
#[test]
fn notebooks_are_kept_without_what_they_put_out() {
    let mut notebooks = 0;
    for folder in std::fs::read_dir(examples()).expect("the examples are there").flatten().filter(|entry| entry.path().is_dir()) {
        let files = std::fs::read_dir(folder.path()).expect("a folder can be read").flatten().map(|entry| entry.path());
        for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "ipynb")) {
            let notebook: Value =
                serde_json::from_str(&std::fs::read_to_string(&file).expect("a notebook is text")).expect("a notebook is JSON");
            let cells = notebook["cells"].as_array().expect("a notebook has cells");
            for cell in cells.iter().filter(|cell| cell["cell_type"] == "code") {
                assert_eq!((&cell["outputs"], &cell["execution_count"]), (&json!([]), &Value::Null), "{}: {cell}", file.display());
            }
            notebooks += 1;
        }
    }
    assert_eq!(notebooks, 2);
}
