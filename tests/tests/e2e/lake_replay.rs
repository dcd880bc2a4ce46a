//! Samples once more: out of the lake and out of a topic, into another topic.

use crate::lake::{LAKE, SECOND, START, exists, holds, kafka, lake, readers, sample, send, topic};
use millrace_tests::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

/// Runs `millrace replay` with these words, and takes its answer in JSON.
fn replay(millrace: &Millrace, words: &[&str]) -> Value {
    let output = millrace.run(&[&["replay", "-c", "factory.yaml", "--json"], words].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it answers in JSON")
}

/// Why it refuses these words.
fn refusal(millrace: &Millrace, words: &[&str]) -> String {
    let output = millrace.run(&[&["replay", "-c", "factory.yaml"], words].concat());
    assert!(!output.status.success(), "{words:?} were taken");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_range_of_the_lake_goes_back_into_a_topic_as_it_was() {
    let (from, again) = (topic(1), topic(1));
    let folder = scratch("lake");
    let table = folder.path().display().to_string();
    let text = LAKE.replace("topics:\n", "topics:\n  $again: {format: json, schema: telemetry}\n");
    let mut millrace = lake(&from, &table, "commit_every: 100ms").with("again", &again).start(&text);
    send(&from, 0, 600);
    // Values of other types, and a bad one.
    let values = [
        "true",
        r#""text""#,
        "18446744073709551615",
        "[1,2]",
        r#"{"items":[1.5,2.0],"dims":[1,2]}"#,
        r#"{"bytes":"AAE="}"#,
        r#"{"json":{"a":1}}"#,
        "null",
    ];
    let odd: Vec<String> = (0..).zip(values).map(|(n, value)| sample("body/odd/value", 1_000 + n, START + n * SECOND, value)).collect();
    kafka().produce(&from, odd.iter().map(|text| ("k", text.as_bytes())));
    eventually("the table is made", || exists(folder.path()).then_some(()));
    holds(&mut readers(), &json!({"count": table}), 608);
    let day = ["--lake", "history", "--to", &again, "--from", "2026-11-28", "--until", "2026-11-29"];
    let said = replay(&millrace, &[&day[..], &["--tag", "acme/detroit/body/press-3/*"]].concat());
    assert_eq!((&said["dry_run"], &said["sent"]), (&json!(true), &json!(60)), "{said}");
    assert!(kafka().read(&again).is_empty(), "a dry run sends nothing");
    let said = replay(&millrace, &[&day[..], &["--tag", "*/press-3/*", "--tag", "*/odd/*", "--quality", "good", "--yes"]].concat());
    assert_eq!((&said["sent"], &said["refused"]), (&json!(68), &json!(0)), "{said}");
    let originals = kafka().read(&from);
    let sent = kafka().read(&again);
    let identities: BTreeSet<(String, i64)> = sent.iter().map(Record::identity).collect();
    assert_eq!((sent.len(), identities.len()), (68, 68));
    for record in &sent {
        let original = originals.iter().find(|original| original.identity() == record.identity()).expect("it was there").json();
        let mut expected = original.clone();
        expected["origin"] = json!("replay");
        assert_eq!(record.json(), expected);
        assert_eq!(record.key_text(), original["tag"].as_str().expect("a tag"));
    }
    // It is done, and neither doubles the lake nor itself.
    assert!(
        refusal(&millrace, &[&day[..], &["--tag", "*/press-3/*", "--tag", "*/odd/*", "--quality", "good", "--yes"]].concat())
            .contains("is done")
    );
    assert!(refusal(&millrace, &[&day[..], &["--yes"]].concat()).contains("another replay"));
    let to_itself = ["--lake", "history", "--to", &from, "--from", "2026-11-28", "--until", "2026-11-29"];
    assert!(refusal(&millrace, &to_itself).contains("would hold what is replayed twice"));
    let to_itself = ["--topic", &from, "--to", &from, "--from", "2026-11-28", "--until", "2026-11-29"];
    assert!(refusal(&millrace, &to_itself).contains("to itself"));
    assert!(
        refusal(&millrace, &["--topic", &from, "--to", "elsewhere", "--from", "1d", "--until", "1h"])
            .contains("not declared to carry samples")
    );
    millrace.stop();
}

#[test]
fn a_replay_that_was_killed_goes_on_where_it_was() {
    let (from, again) = (topic(3), topic(2));
    let text = "
site: acme/detroit
topics:
  $from: {format: json, schema: telemetry}
  $again: {format: json, schema: telemetry}
";
    let mut millrace = Factory::on(kafka()).with("from", &from).with("again", &again).start(text);
    send(&from, 0, 4_000);
    let words = [
        "replay",
        "-c",
        "factory.yaml",
        "--topic",
        &from,
        "--to",
        &again,
        "--from",
        "2026-11-28",
        "--until",
        "2026-11-29",
        "--rate",
        "300",
        "--yes",
    ];
    for _ in 0..2 {
        let mut command = Command::new(millrace::binary());
        command.args(words).current_dir(millrace.dir());
        let before = kafka().read(&again).len();
        let mut process = Process::start("replay", command, &millrace.dir().join("replay.log"));
        // Behind a note of its progress, which it makes every other second.
        let mut follow = kafka().follow(&again);
        follow.count(before + 200);
        let noted = std::fs::read(millrace.dir().join("replay.json")).ok();
        eventually("it notes its progress", || (std::fs::read(millrace.dir().join("replay.json")).ok() != noted).then_some(()));
        process.kill9();
    }
    let said = replay(&millrace, &[&words[3..words.len() - 3], &["--rate", "100000", "--yes"]].concat());
    assert!(said["resumed_behind"].as_i64() > Some(0), "{said}");
    let sent = kafka().read(&again);
    let identities: BTreeSet<(String, i64)> = sent.iter().map(Record::identity).collect();
    assert_eq!(identities.len(), 4_000, "something is missing");
    // What was on its way came twice: what was sent since the last note, each time.
    assert!(sent.len() < 6_500, "it began anew: {} records for 4000", sent.len());
    millrace.stop();
}

#[test]
fn nothing_is_ever_replayed_to_a_topic_of_commands() {
    let [from, commands] = [topic(1), topic(1)];
    let text = "
site: acme/detroit
floor: {writes: allowed}
topics:
  $from: {format: json, schema: telemetry}
  $commands: {format: json, schema: telemetry}
sources:
  oven: {type: generator, at: paint/oven, topic: $from, tags: 2, rate: 20/s, setpoint: true}
sinks:
  setpoints: {source: oven, topics: [$commands], allow: {setpoint: {min: 0, max: 300}}}
";
    let millrace = Factory::on(kafka()).with("from", &from).with("commands", &commands).prepare(text);
    let words = ["--topic", &from, "--to", &commands, "--from", "2026-11-28", "--until", "2026-11-29", "--yes"];
    let said = refusal(&millrace, &words);
    assert!(said.contains("nothing is ever replayed to it"), "{said}");
}
