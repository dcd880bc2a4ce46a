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
