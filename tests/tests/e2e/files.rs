//! Files into Kafka and back.

use millrace_tests::*;
use std::fmt::Write as _;

#[test]
fn lines_of_a_file_go_through_kafka_into_another_file() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("lines");
    let factory = Factory::on(kafka).exactly_once().with("topic", &topic);
    let folder = factory.dir().join("in");
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    std::fs::create_dir_all(factory.dir().join("out")).expect("a folder can be made");
    let line = |i: usize| format!("{{\"number\":{i},\"text\":\"line {i}\"}}");
    let mut text = String::new();
    for i in 0..5_000 {
        let _ = writeln!(text, "{}", line(i));
    }
    std::fs::write(folder.join("a.ndjson"), &text).expect("a file can be written");
    let mut millrace = factory.start(
        "
sources:
  stand: {type: file, path: '$dir/in/*.ndjson', format: ndjson, topic: $topic}
sinks:
  archive: {type: file, topics: [$topic], path: '$dir/out/{topic}.ndjson'}
",
    );
    millrace.drained_when("stand", |ledger| ledger.received >= 5_000);
    // The position is kept: a restart reads on where the file was left.
    millrace.restart();
    let mut more = std::fs::File::options().append(true).open(folder.join("a.ndjson")).expect("a file can be opened");
    std::io::Write::write_all(&mut more, format!("{}\n", line(5_000)).as_bytes()).expect("a file can be written");
    millrace.drained_when("stand", |ledger| ledger.received >= 5_001);
    let texts: Vec<String> = kafka.read(&topic).iter().map(Record::text).collect();
    assert_eq!(texts, (0..=5_000).map(line).collect::<Vec<_>>());
    eventually("the archive holds every line", || {
        let written: usize = std::fs::read_dir(millrace.dir().join("out"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| std::fs::read_to_string(entry.path()).unwrap_or_default().matches("\"line ").count())
            .sum();
        (written >= 5_001).then_some(())
    });
}

/// With a session of five minutes: nothing comes in this test's time if the group waits for the dead one.
#[test]
fn a_sink_that_was_killed_has_its_partitions_again_when_it_comes_back() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("again");
    kafka.create_topic(&topic, 2, &[]);
    let mut millrace = Factory::on(kafka).with("topic", &topic).with("brokers", kafka.brokers()).start(
        "
kafka: {brokers: $brokers, properties: {session.timeout.ms: '300000'}}
sinks:
  archive: {type: file, topics: [$topic], group: g-$topic, path: '$dir/{topic}.ndjson'}
",
    );
    for round in 1..=3 {
        kafka.produce(&topic, (0..10).map(|i| (["a", "b", "c"][i % 3], &b"{\"number\":1}"[..])));
        eventually("the archive goes on", || (millrace.connector("archive")["counts"]["consumed"].as_u64()? >= 10).then_some(()));
        let committed = || (0..2).filter_map(|part| kafka.committed(&format!("g-{topic}"), &topic, part)).sum::<i64>();
        eventually("what was read is committed", || (committed() == 10 * round).then_some(()));
        millrace.kill9();
        millrace.launch();
        millrace.wait_alive();
    }
}

/// More than is held in memory until it is synced, taken over by another machine in two goes.
#[test]
fn a_large_export_is_imported_in_little_memory_and_gone_on_with_after_a_kill() {
    let (lines, line_bytes) = (20_000, 16_000);
    let factory = Factory::at("127.0.0.1:1");
    std::fs::create_dir(factory.dir().join("in")).expect("a folder can be made");
    let file = std::fs::File::create(factory.dir().join("in/a.ndjson")).expect("a file can be made");
    let mut file = std::io::BufWriter::new(file);
    let filling = "x".repeat(line_bytes);
    for number in 0..lines {
        std::io::Write::write_all(&mut file, format!("{{\"number\":{number},\"text\":\"{filling}\"}}\n").as_bytes())
            .expect("a line can be written");
    }
    drop(file);
    let mut millrace =
        factory.start("log: {compression: none}\nsources: {stand: {type: file, path: '$dir/in/*.ndjson', format: ndjson, topic: lines}}\n");
    millrace.wait_ledger("stand", "all waits in the log", |ledger| ledger.waiting >= lines);
    millrace.stop();
    let json = |args: &[&str]| -> serde_json::Value {
        let output = millrace.run(args);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error} {output:?}"))
    };
    let logs = json(&["log", "ls", "--data", "data", "--json"]);
    let name =
        logs.as_array().and_then(|logs| logs.iter().find(|log| log["records"].as_u64() >= Some(lines))).expect("the log")["name"].clone();
    let name = name.as_str().expect("a name");
    let written = json(&["log", "export", "--data", "data", name, "--to", "export.bin", "--all", "--json"]);
    assert_eq!(written["records"].as_u64(), Some(lines), "{written}");

    let import = || {
        let mut command = std::process::Command::new(millrace::binary());
        command.args(["log", "import", "--data", "moved", "export.bin", "--json"]).current_dir(millrace.dir());
        let log = millrace.dir().join(format!("import-{}.log", fastrand::u32(..)));
        Process::start("millrace log import", command, &log)
    };
    let size = || -> u64 { walk(&millrace.dir().join("moved")) };
    let mut first = import();
    eventually("a part is imported", || (size() > 100 << 20).then_some(()));
    first.kill9();
    let mut second = import();
    let mut peak = 0;
    eventually("the rest is imported", || {
        peak = peak.max(second.memory_kib("VmHWM"));
        (!second.is_running()).then_some(())
    });
    let said: serde_json::Value = serde_json::from_str(&second.output()).unwrap_or_else(|error| panic!("{error}: {}", second.output()));
    assert!(said["there_already"].as_u64() > Some(0) && said["batches"].as_u64() > Some(0), "{said}");
    let bytes = lines * line_bytes as u64;
    assert!(peak > 0 && peak << 10 < bytes / 2, "{peak} KiB for an export of {bytes} bytes");
    let verified = json(&["log", "verify", "--data", "moved", "--json"]);
    assert_eq!((&verified[0]["is_whole"], &verified[0]["records"]), (&true.into(), &lines.into()), "{verified}");
    json(&["log", "export", "--data", "moved", name, "--to", "again.bin", "--all", "--json"]);
    let read = |name: &str| std::fs::read(millrace.dir().join(name)).expect("a file can be read");
    assert!(read("export.bin") == read("again.bin"), "it holds what the first one held");
}

/// The bytes of all files below a folder.
fn walk(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { entry.metadata().map_or(0, |about| about.len()) }).sum()
}
