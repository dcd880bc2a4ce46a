//! Programs of others as source and sink: the examples in Python and in Go, from a folder through Kafka into a file.

use millrace_tests::*;
use serde_json::Value;

const FACTORY: &str = "
topics: {$topic: {format: json}}
sources:
  lab: {type: exec, command: [python3, '$examples/lab.py'], at: lab, topic: $topic, unit: g, config: {folder: '$dir/in', every: 0.1}}
sinks:
  archive: {type: exec, command: [python3, '$examples/archive.py'], topics: [$topic], config: {path: '$dir/archive.ndjson'}}
";

fn examples() -> String {
    format!("{}/../examples/exec", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_python_source_and_a_python_sink_lose_nothing_over_a_kill() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("exec");
    let mut millrace = Factory::on(kafka).with("topic", &topic).with("examples", examples()).prepare(FACTORY);
    let folder = millrace.dir().join("in");
    std::fs::create_dir(&folder).expect("a folder can be made");
    let write = |name: &str, from: i32, to: i32| {
        use std::io::Write;
        let mut file = std::fs::File::options().create(true).append(true).open(folder.join(name)).expect("a file can be opened");
        (from..to).for_each(|n| writeln!(file, "{n}.5").expect("it is written"));
    };
    write("scale-1.txt", 0, 500);
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_running("lab");
    millrace.wait_ledger("lab", "the first are read", |ledger| ledger.received >= 100);
    millrace.kill9();
    write("scale-1.txt", 500, 1000);
    write("scale-2.txt", 0, 10);
    std::fs::write(folder.join("scale-3.txt"), "x\n").expect("a file can be written");
    millrace.launch();
    millrace.wait_alive();
    let wanted: Vec<String> = (0..1000).map(|n| format!("{n}.5")).collect();
    let is_of = |value: &Value, name: &str| value["tag"].as_str().is_some_and(|tag| tag.ends_with(&format!("lab/{name}")));
    let values = eventually("everything is in the archive", || {
        let text = std::fs::read_to_string(millrace.dir().join("archive.ndjson")).ok()?;
        let whole = text.rsplit_once('\n')?.0;
        let values: Vec<Value> =
            whole.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).map(|one| one["value"].clone()).collect();
        let seen: std::collections::BTreeSet<String> =
            values.iter().filter(|one| is_of(one, "scale-1")).map(|one| one["value"].to_string()).collect();
        let has_two = values.iter().filter(|one| is_of(one, "scale-2")).count() >= 10;
        let bad = values.iter().any(|one| is_of(one, "scale-3") && one["status"].as_u64() == Some(0x8007_0000));
        (wanted.iter().all(|value| seen.contains(value)) && has_two && bad).then_some(values)
    });
    // Each line is one record of the log: the position is kept with the data. The sink may have been given one twice.
    let mut identities = std::collections::BTreeMap::<String, std::collections::BTreeSet<i64>>::new();
    for value in values.iter().filter(|value| is_of(value, "scale-1") && value["value"].is_number()) {
        identities.entry(value["value"].to_string()).or_default().insert(value["seq"].as_i64().expect("a number"));
    }
    assert!(identities.values().all(|of| of.len() == 1), "{identities:?}");
    millrace.drained("lab");
    millrace.stop();
}

#[test]
fn a_go_source_goes_on_where_it_was() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("exec-go");
    let dir = scratch("go");
    let mut go = peers::debian("go", "golang-go");
    go.env("HOME", dir.path()).env("GOFLAGS", "-mod=mod").args(["build", "-o"]).arg(dir.path().join("clock"));
    let built = go.arg(format!("{}/clock.go", examples())).output().expect("go starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let text = "topics: {$topic: {format: json}}\nsources: {clock: {type: exec, command: ['$clock'], at: go, topic: $topic, config: {every: 0.02}}}\n";
    let mut millrace = Factory::on(kafka).with("topic", &topic).with("clock", dir.path().join("clock").display()).start(text);
    millrace.wait_ledger("clock", "it ticks", |ledger| ledger.received > 20);
    millrace.kill9();
    millrace.launch();
    millrace.wait_alive();
    let mut follow = kafka.follow(&topic);
    let records = follow.until("it ticks again", |records| records.len() > 60);
    let values: Vec<i64> = records.iter().filter_map(|record| record.json()["value"].as_i64()).collect();
    let mut distinct = values.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct, (1..=distinct.len() as i64).collect::<Vec<_>>(), "no tick is missing and none began anew: {values:?}");
    millrace.stop();
}
