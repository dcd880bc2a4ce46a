//! Commands: from a topic of Kafka to a device's source, with the answer and the audit; at most once, whatever ends the runtime.

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use millrace_tests::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

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

    fn command(&self, id: &str, tag: &str, value: Value, expires: Option<Value>) {
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
    oven.command(&late, "setpoint", json!(77), Some(json!("2020-01-01T00:00:00Z")));
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

#[test]
fn a_command_that_is_sent_twice_is_carried_out_once_also_over_a_restart() {
    let mut oven = Oven::start("");
    let id = id("twice");
    // An answer that a kill made come twice has one identity, and counts once.
    let answers = |oven: &Oven, count: usize| -> Vec<Value> {
        let of_it = |records: &[Record]| {
            let mut seen = BTreeSet::new();
            let once = records.iter().filter(|record| seen.insert(record.identity()));
            once.map(Record::json).filter(|answer| answer["id"] == *id).collect::<Vec<_>>()
        };
        of_it(oven.kafka.follow(&oven.replies).until("its answers", |records| of_it(records).len() >= count))
    };
    oven.command(&id, "setpoint", json!(100), None);
    assert_eq!(answers(&oven, 1)[0]["result"], "done");
    oven.command(&id, "setpoint", json!(200), None);
    let again = answers(&oven, 2).remove(1);
    assert!(
        again["result"] == "refused" && again["reason"].as_str().is_some_and(|why| why.contains("none is carried out twice")),
        "{again}"
    );
    oven.millrace.restart();
    oven.millrace.wait_running("setpoints");
    oven.command(&id, "setpoint", json!(250), None);
    // What was read before a kill and not committed is read again, and refused again.
    let results: Vec<_> = answers(&oven, 3).into_iter().map(|answer| answer["result"].clone()).collect();
    assert!(results[0] == "done" && results[1..].iter().all(|result| result == "refused"), "{results:?}");
    let seen = oven.setpoints();
    assert!(!seen.contains(&200.0) && !seen.contains(&250.0), "{seen:?}");
}

#[test]
fn a_command_whose_source_does_not_run_expires_in_time() {
    let oven = Oven::start("count: 20");
    oven.millrace.wait_word("oven", "Stopped");
    let (late, later) = (id("late"), id("later"));
    let since_1970 = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later than 1970").as_micros();
    let soon = |seconds: u128| json!(u64::try_from(since_1970() + seconds * 1_000_000).expect("before the year 586,000"));
    oven.command(&late, "setpoint", json!(42), Some(soon(3)));
    oven.command(&later, "setpoint", json!(43), Some(soon(4)));
    assert_eq!(oven.answer(&late)["result"], "expired");
    assert_eq!(oven.answer(&later)["result"], "expired");
    // On a machine that is slow it may be late before it is looked at.
    let audit = oven.audit(&late, "expired");
    assert!(audit == ["intent", "expired"] || audit == ["expired"], "{audit:?}");
    assert!(!oven.setpoints().contains(&42.0));
}

/// A schema of the sender's own.
const SETPOINT: &str = r#"{"type":"record","name":"Setpoint","namespace":"mes","fields":[
  {"name":"by","type":"string"},{"name":"id","type":"string"},{"name":"tag","type":"string"},{"name":"value","type":"double"}]}"#;

fn read_avro(schema: &str, mut bytes: &[u8]) -> BTreeMap<String, Avro> {
    let schema = apache_avro::Schema::parse_str(schema).expect("the schema is Avro");
    let value = GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut bytes).expect("the value fits its schema");
    let Avro::Record(fields) = value else { panic!("{value:?} is no record") };
    fields.into_iter().collect()
}

fn write_avro(schema: &str, fields: &[(&str, Avro)]) -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(schema).expect("the schema is Avro");
    let record = Avro::Record(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect());
    GenericDatumWriter::builder(&schema).build().and_then(|writer| writer.write_value_to_vec(record)).expect("it fits")
}

#[test]
fn commands_in_avro_of_the_senders_own_schema_are_carried_out_and_answered_in_avro() {
    let (kafka, registry) = (Kafka::shared(), Registry::start());
    let [topic, commands, replies] = ["telemetry", "commands", "replies"].map(|name| kafka.topic(name));
    kafka.create_topic(&commands, 1, &[]);
    let factory = Factory::on(kafka).with("topic", &topic).with("commands", &commands).with("replies", &replies).with("end", "");
    let text = format!("schemas: {{registry: '{}'}}\n{}", registry.url(), OVEN);
    let text = text.replace("$commands: {format: json}, $replies: {format: json}", "$commands: {format: avro}, $replies: {format: avro}");
    let millrace = factory.start(&text);
    millrace.wait_running("setpoints");
    let registered = registry.register(&format!("{commands}-value"), SETPOINT);
    let command = |id: &str, value: f64| {
        let fields = [("by", Avro::String("MES".into())), ("id", Avro::String(id.into())), ("tag", Avro::String("setpoint".into()))];
        let value = ("value", Avro::Double(value));
        let mut bytes = vec![0];
        bytes.extend(registered.to_be_bytes());
        bytes.extend(write_avro(SETPOINT, &[&fields[..], &[value]].concat()));
        kafka.produce(&commands, [("setpoint", &bytes[..])]);
    };
    let answer = |count: usize| {
        let mut follow = kafka.follow(&replies);
        let record = &follow.count(count)[count - 1];
        let (prefix, rest) = record.value.as_deref().and_then(|value| value.split_first_chunk::<5>()).expect("a value with a prefix");
        let (subject, body) = registry.schema(i32::from_be_bytes(prefix[1..].try_into().expect("four bytes")));
        assert_eq!((prefix[0], subject), (0, format!("{replies}-value")));
        read_avro(body["schema"].as_str().expect("a schema is a text"), rest)
    };
    let (good, outside) = (id("avro"), id("outside"));
    command(&good, 180.5);
    let said = answer(1);
    assert_eq!((&said["id"], &said["result"], &said["status"]), (&Avro::String(good), &Avro::String("done".into()), &Avro::Long(0)));
    command(&outside, f64::NAN);
    let said = answer(2);
    assert_eq!(said["result"], Avro::String("refused".into()));
    let Avro::Union(_, reason) = &said["reason"] else { panic!("{said:?}") };
    assert!(matches!(&**reason, Avro::String(why) if why.contains("NaN") && why.contains("0..300")), "{reason:?}");
    // What is no command of any schema is a dead letter, as it came.
    kafka.produce(&commands, [("setpoint", &b"\0\0\0\0\x63{}"[..])]);
    let letter = kafka.follow(&format!("{commands}.dead")).count(1)[0].clone();
    assert_eq!(letter.value.as_deref(), Some(&b"\0\0\0\0\x63{}"[..]));
    let mut follow = kafka.follow(&topic);
    follow.until("the echo", |records| records.iter().any(|record| record.json()["value"] == 180.5));
}
