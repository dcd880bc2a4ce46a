//! Commands: from a topic of Kafka to a device's source, with the answer and the audit; at most once, whatever ends the runtime.

use millrace_tests::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const OVEN: &str = "
floor: {writes: allowed}
topics: {$topic: {format: json}, $commands: {format: json}, $replies: {format: json}}
sources:
  oven: {type: generator, at: paint/oven, topic: $topic, tags: 2, rate: 20/s, setpoint: true, $end}
sinks:
  setpoints: {source: oven, topics: [$commands], reply: $replies, allow: {setpoint: {min: 0, max: 300}}}
";

struct Oven {
    kafka: &'static Kafka,
    millrace: Millrace,
    topic: String,
    commands: String,
    replies: String,
}

impl Oven {
    /// A running oven whose command sink has its partitions; `end` is more of the source's YAML.
    fn start(end: &str) -> Self {
        let kafka = Kafka::shared();
        let [topic, commands, replies] = ["telemetry", "commands", "replies"].map(|name| kafka.topic(name));
        kafka.create_topic(&commands, 1, &[]);
        let factory = Factory::on(kafka).with("topic", &topic).with("commands", &commands).with("replies", &replies).with("end", end);
        let millrace = factory.start(OVEN);
        // A first start begins at the latest offset: what is sent before the group has its partitions is not for it.
        millrace.wait_running("setpoints");
        Self { kafka, millrace, topic, commands, replies }
    }

    fn command(&self, id: &str, tag: &str, value: Value, expires: Option<&str>) {
        let command = json!({"id": id, "tag": tag, "value": value, "expires": expires, "by": "a test"}).to_string();
        self.kafka.produce(&self.commands, [(tag, command.as_bytes())]);
    }

    /// The answer to a command; there is one.
    fn answer(&self, id: &str) -> Value {
        let mut follow = self.kafka.follow(&self.replies);
        let records = follow.until(&format!("the answer to {id}"), |all| all.iter().any(|record| record.json()["id"] == id));
        let mut answers = records.iter().map(Record::json).filter(|answer| answer["id"] == id);
        let answer = answers.next().expect("just found");
        assert_eq!(answers.next(), None, "a second answer to {id}");
        answer
    }

    /// What the audit says of a command, in order, once it says `last`. A line that a kill made come twice has one identity, and counts once.
    fn audit(&self, id: &str, last: &str) -> Vec<String> {
        let of_it = |records: &[Record]| -> Vec<String> {
            let mut seen = BTreeSet::new();
            let lines = records.iter().filter(|record| seen.insert(record.identity())).map(Record::json).filter(|line| line["id"] == id);
            lines.map(|line| line["what"].as_str().unwrap_or_default().to_owned()).collect()
        };
        let mut follow = self.kafka.follow("millrace.audit");
        of_it(follow.until(&format!("the audit of {id}"), |records| of_it(records).last().is_some_and(|what| what == last)))
    }

    /// Values that the setpoint was seen to have.
    fn setpoints(&self) -> Vec<f64> {
        let records = self.kafka.read(&self.topic);
        let samples =
            records.iter().map(Record::json).filter(|sample| sample["tag"].as_str().is_some_and(|tag| tag.ends_with("/setpoint")));
        samples.filter_map(|sample| sample["value"].as_f64()).collect()
    }
}

/// Unlike any other test's: the audit is one topic for all.
fn id(name: &str) -> String {
    format!("{name}-{:08x}", fastrand::u32(..))
}

#[test]
fn a_command_reaches_the_source_and_is_answered_echoed_and_audited() {
    let oven = Oven::start("");
    let id = id("set");
    oven.command(&id, "setpoint", json!(180.5), None);
    let answer = oven.answer(&id);
    assert_eq!((answer["result"].as_str(), answer["status"].as_u64(), answer["tag"].as_str()), (Some("done"), Some(0), Some("setpoint")));
    assert_eq!(oven.audit(&id, "done"), ["intent", "done"]);
    let mut follow = oven.kafka.follow(&oven.topic);
    follow.until("the echo", |records| {
        records
            .iter()
            .map(Record::json)
            .any(|sample| sample["value"] == 180.5 && sample["tag"].as_str().is_some_and(|tag| tag.ends_with("/setpoint")))
    });
}

#[test]
fn what_may_not_be_or_comes_too_late_is_answered_and_audited_and_never_runs() {
    let oven = Oven::start("");
    let [outside, unknown, late, last] = ["outside", "unknown", "late", "last"].map(id);
    oven.command(&outside, "setpoint", json!(301), None);
    oven.command(&unknown, "sine-0", json!(1), None);
    oven.command(&late, "setpoint", json!(77), Some("2020-01-01T00:00:00Z"));
    oven.command(&last, "setpoint", json!(11), None);
    let answer = oven.answer(&outside);
    assert_eq!(answer["result"], "refused");
    assert!(answer["reason"].as_str().is_some_and(|reason| reason.contains("301") && reason.contains("0..300")), "{answer}");
    let answer = oven.answer(&unknown);
    assert_eq!(answer["result"], "refused");
    assert!(answer["reason"].as_str().is_some_and(|reason| reason.contains("sine-0 is not allowed")), "{answer}");
    assert_eq!(oven.answer(&late)["result"], "expired");
    assert_eq!(oven.answer(&last)["result"], "done");
    assert!(oven.audit(&outside, "refused").iter().all(|what| what == "refused"));
    assert!(!oven.audit(&late, "expired").contains(&"intent".to_owned()));
    let mut follow = oven.kafka.follow(&oven.topic);
    follow.until("the echo of the last one", |records| records.iter().any(|record| record.json()["value"] == 11.0));
    let seen = oven.setpoints();
    assert!(!seen.contains(&301.0) && !seen.contains(&77.0), "{seen:?}");
}

#[test]
fn a_command_that_a_kill_interrupts_is_answered_as_unknown_and_not_tried_again() {
    // The source has ended when the command comes, so that the command waits for it.
    let mut oven = Oven::start("count: 20");
    oven.millrace.wait_word("oven", "Stopped");
    let id = id("killed");
    oven.command(&id, "setpoint", json!(42), None);
    let group = format!("millrace-{}-setpoints", oven.millrace.site().replace('/', "-"));
    eventually("its offset is committed", || oven.kafka.committed(&group, &oven.commands, 0).filter(|next| *next == 1));
    oven.millrace.kill9();
    oven.millrace.launch();
    oven.millrace.wait_alive();
    let answer = oven.answer(&id);
    assert_eq!(answer["result"], "unknown");
    assert!(answer["reason"].as_str().is_some_and(|reason| reason.contains("read the tag")), "{answer}");
    assert_eq!(oven.audit(&id, "unknown"), ["intent", "unknown"]);
    assert!(!oven.setpoints().contains(&42.0));
}
