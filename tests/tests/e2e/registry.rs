//! The embedded schema registry against a foreign one (Apicurio): the same calls, the same changes; and over a restart.
//!
//! Where the two differ, the table says what the foreign one answers and why. Ours is held to Confluent's documentation.

use millrace_kafka::Settings;
use millrace_registry::{Level, Registry, embedded};
use millrace_tests::*;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::OnceLock;

/// Ours, in this process, over a Kafka of its own: the topic's name is fixed.
pub struct Ours {
    _kafka: Kafka,
    _tokio: tokio::runtime::Runtime,
    pub port: u16,
}

impl Ours {
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Ours> = OnceLock::new();
        SHARED.get_or_init(|| {
            let kafka = Kafka::start();
            let tokio = tokio::runtime::Runtime::new().expect("tokio starts");
            let port = serve(&kafka, &tokio);
            Self { _kafka: kafka, _tokio: tokio, port }
        })
    }
}

/// Starts a registry over a Kafka and waits until it has read its topic.
pub fn serve(kafka: &Kafka, tokio: &tokio::runtime::Runtime) -> u16 {
    let registry = Registry::start(Settings::new(kafka.brokers()), Level::Backward).expect("a thread can be started");
    let bound = tokio.block_on(embedded::serve(([127, 0, 0, 1], 0).into(), registry.clone(), None)).expect("a port is free");
    eventually("the registry has read its topic", || registry.ready().ok());
    bound.port()
}

fn foreign() -> &'static Apicurio {
    static SHARED: OnceLock<Apicurio> = OnceLock::new();
    SHARED.get_or_init(Apicurio::start)
}

/// One of the two registries.
#[derive(Clone, Copy)]
struct At {
    port: u16,
    path: &'static str,
}

impl At {
    fn ours() -> Self {
        Self { port: Ours::shared().port, path: "" }
    }

    fn foreign() -> Self {
        Self { port: foreign().port(), path: apicurio::PATH }
    }

    fn call(self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let text = body.map_or_else(String::new, Value::to_string);
        let (status, answer) = http::request(self.port, method, &format!("{}{path}", self.path), &text).expect("a registry answers");
        (status, serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
    }

    fn must(self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(method, path, Some(body));
        assert_eq!(status, 200, "{method} {path} {body}: {answer}");
        answer
    }
}

#[derive(Deserialize)]
struct Change {
    kind: String,
    what: String,
    old: Value,
    new: Value,
    backward: bool,
    forward: bool,
    foreign: Option<Foreign>,
}

/// What the foreign registry says where it differs, and why.
#[derive(Deserialize)]
struct Foreign {
    #[serde(default)]
    backward: Option<bool>,
    #[serde(default)]
    forward: Option<bool>,
    why: String,
}

fn body(kind: &str, schema: &Value) -> Value {
    let text = schema.as_str().filter(|_| kind == "PROTOBUF").map_or_else(|| schema.to_string(), str::to_owned);
    json!({"schema": text, "schemaType": kind})
}

/// Whether a registry takes the new schema after the old one, at a level.
fn verdict(at: At, change: &Change, subject: &str, level: &str) -> bool {
    at.must("POST", &format!("/subjects/{subject}/versions"), &body(&change.kind, &change.old));
    at.must("PUT", &format!("/config/{subject}"), &json!({"compatibility": level}));
    let path = format!("/compatibility/subjects/{subject}/versions/latest");
    let answer = at.must("POST", &path, &body(&change.kind, &change.new));
    answer["is_compatible"].as_bool().unwrap_or_else(|| panic!("{}: {answer}", change.what))
}

#[test]
fn every_change_of_the_table_is_judged_as_by_a_foreign_registry_or_it_is_said_why_not() {
    let changes: Vec<Change> =
        serde_json::from_str(include_str!("../../../runtime/registry/fixtures/changes.json")).expect("the table is JSON");
    assert!(changes.len() >= 150, "{} changes", changes.len());
    let (ours, theirs) = (At::ours(), At::foreign());
    let mut wrong = Vec::new();
    for (index, change) in changes.iter().enumerate() {
        for (level, expected) in [("BACKWARD", change.backward), ("FORWARD", change.forward)] {
            let subject = format!("change-{index}-{}", level.to_lowercase());
            if verdict(ours, change, &subject, level) != expected {
                wrong.push(format!("{} {level}: ours says {}", change.what, !expected));
            }
            let said = change.foreign.as_ref().and_then(|foreign| if level == "BACKWARD" { foreign.backward } else { foreign.forward });
            assert_ne!(said, Some(expected), "{} {level}: no difference to explain", change.what);
            assert!(change.foreign.as_ref().is_none_or(|foreign| foreign.why.len() > 20), "{}: why?", change.what);
            let there = verdict(theirs, change, &subject, level);
            if there != said.unwrap_or(expected) {
                wrong.push(format!(
                    "{} {} {level}: ours says {expected}, the foreign one {there}, and nobody says why",
                    change.kind, change.what
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One call, and what is answered.
#[derive(Deserialize)]
struct Call {
    call: String,
    #[serde(default)]
    body: Option<Value>,
    /// The name by which later calls mean the id that is answered.
    #[serde(default)]
    save: Option<String>,
    status: u16,
    /// The error's code; without one it is no error.
    #[serde(default)]
    code: Option<i64>,
    #[serde(default)]
    foreign: Option<ForeignAnswer>,
}

/// What the foreign registry answers where it differs; where only the reason stands, its body does.
#[derive(Deserialize)]
struct ForeignAnswer {
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    code: Option<i64>,
    why: String,
}

/// An answer without what only one of the registries says, and with names for ids.
fn plain(answer: &Value, ids: &[(String, i64)]) -> Value {
    match answer {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, value)| {
                // Defaults that one writes out; which level was set is a key of its own in Confluent's.
                !(*key == "schemaType" && *value == "AVRO" || *key == "references" && **value == json!([]))
            });
            let entry = |(key, value): (&String, &Value)| match (key.as_str(), value) {
                ("schema", Value::String(text)) => (key.clone(), serde_json::from_str(text).unwrap_or_else(|_| json!(text.trim()))),
                ("id", Value::Number(id)) => (key.clone(), name_of(id.as_i64(), ids)),
                _ => (key.clone(), plain(value, ids)),
            };
            Value::Object(kept.map(entry).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(|one| plain(one, ids)).collect()),
        Value::String(text) => json!(text.trim()),
        other => other.clone(),
    }
}

fn name_of(id: Option<i64>, ids: &[(String, i64)]) -> Value {
    // The first name of an id: the same content has the same name in both registries.
    ids.iter().find(|(_, known)| Some(*known) == id).map_or(json!("?"), |(name, _)| json!(name))
}

#[test]
fn every_call_is_answered_as_by_a_foreign_registry_or_it_is_said_why_not() {
    let calls: Vec<Call> = serde_json::from_str(include_str!("registry_calls.json")).expect("the list is JSON");
    assert!(calls.len() >= 100, "{} calls", calls.len());
    let kafka = Kafka::start();
    let tokio = tokio::runtime::Runtime::new().expect("tokio starts");
    let ours = At { port: serve(&kafka, &tokio), path: "" };
    let apicurio = Apicurio::start();
    let theirs = At { port: apicurio.port(), path: apicurio::PATH };
    let (mut our_ids, mut their_ids) = (Vec::new(), Vec::new());
    let mut wrong = Vec::new();
    for call in &calls {
        let ask = |at: At, ids: &mut Vec<(String, i64)>| {
            let (method, path) = call.call.split_once(' ').expect("a method and a path");
            let path = ids.iter().fold(path.to_owned(), |path, (name, id)| path.replace(&format!("{{{name}}}"), &id.to_string()));
            let (status, answer) = at.call(method, &path, call.body.as_ref());
            if let (Some(name), Some(id)) = (&call.save, answer["id"].as_i64()) {
                ids.push((name.clone(), id));
            }
            (status, answer["error_code"].as_i64(), answer)
        };
        let (status, code, ours) = ask(ours, &mut our_ids);
        let (there_status, there_code, there) = ask(theirs, &mut their_ids);
        let shown = format!("{} {}", call.call, call.body.as_ref().map_or_else(String::new, Value::to_string));
        if (status, code) != (call.status, call.code) {
            wrong.push(format!("{shown}: {status} {ours}, not {} {:?}", call.status, call.code));
        }
        let (expected_status, expected_code) = match &call.foreign {
            Some(ForeignAnswer { status: Some(status), code, .. }) => (*status, *code),
            _ => (call.status, call.code),
        };
        if (there_status, there_code) != (expected_status, expected_code) {
            wrong.push(format!("{shown}: the foreign one says {there_status} {there}, and nobody says why"));
        }
        match &call.foreign {
            Some(foreign) => assert!(foreign.why.len() > 15, "{shown}: why?"),
            None if status == 200 && plain(&ours, &our_ids) != plain(&there, &their_ids) => {
                wrong.push(format!("{shown}: {ours}, the foreign one {there}, and nobody says why"));
            }
            None => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a registry says of itself: subjects, versions, levels.
fn contents(at: At) -> Vec<Value> {
    let (_, subjects) = at.call("GET", "/subjects?deleted=true", None);
    let mut all = vec![subjects.clone(), at.call("GET", "/config", None).1];
    for subject in subjects.as_array().expect("a list") {
        let subject = subject.as_str().expect("a name");
        for path in
            [format!("/subjects/{subject}/versions?deleted=true"), format!("/subjects/{subject}/versions"), format!("/config/{subject}")]
        {
            all.push(at.call("GET", &path, None).1);
        }
        all.push(at.call("GET", &format!("/subjects/{subject}/versions/latest"), None).1);
    }
    all
}

#[test]
fn what_one_registry_wrote_the_next_one_reads_over_kill_and_compaction() {
    let mut kafka = Kafka::options().property("log.cleaner.min.compaction.lag.ms", "0").start();
    let tokio = tokio::runtime::Runtime::new().expect("tokio starts");
    let first = At { port: serve(&kafka, &tokio), path: "" };
    let schema = |text: &str| json!({"schema": text});
    for (subject, text) in [("a", "\"int\""), ("a", "\"long\""), ("b", "\"string\""), ("gone", "\"bytes\""), ("c", "\"int\"")] {
        first.must("POST", &format!("/subjects/{subject}/versions"), &schema(text));
    }
    first.must("PUT", "/config", &json!({"compatibility": "FULL"}));
    first.must("PUT", "/config/b", &json!({"compatibility": "NONE"}));
    first.must("DELETE", "/subjects/a/versions/1", &json!({}));
    first.must("DELETE", "/subjects/gone", &json!({}));
    first.must("DELETE", "/subjects/gone?permanent=true", &json!({}));
    let before = contents(first);
    // Another registry over the same topic: the first one is as good as killed, it keeps nothing of its own.
    let second = At { port: serve(&kafka, &tokio), path: "" };
    assert_eq!(contents(second), before);
    // While Kafka is away nothing is lost and a write is refused; afterwards both go on.
    kafka.kill9();
    assert_eq!(second.call("GET", "/subjects", None).1, json!(["a", "b", "c"]));
    kafka.restart();
    let (_, answer) = eventually("a schema is registered again", || {
        let answer = second.call("POST", "/subjects/d/versions", Some(&schema("\"double\"")));
        (answer.0 == 200).then_some(answer)
    });
    assert_eq!(answer, json!({"id": 5}), "the number of a deleted schema is not used again");
    eventually("the first registry reads it, too", || (first.call("GET", "/subjects/d/versions", None).0 == 200).then_some(()));
    let keys: Vec<String> = kafka.read(embedded::TOPIC).iter().map(Record::key_text).collect();
    assert!(keys.contains(&r#"{"keytype":"SCHEMA","subject":"a","version":1,"magic":1}"#.to_owned()), "{keys:?}");
}

#[test]
fn foreign_clients_register_write_and_read_through_the_embedded_registry() {
    let url = format!("http://127.0.0.1:{}", Ours::shared().port);
    let values = decoders::encoded_by_confluent_python(&url);
    assert_eq!(values.len(), 3, "{values:?}");
    for decoder in [Decoder::ConfluentPython, Decoder::ConfluentNode] {
        for value in decoder.decode(&url, &values) {
            assert_eq!((&value["tag"], &value["v"]), (&json!("a"), &json!(1.5)), "{decoder:?}");
        }
    }
}
