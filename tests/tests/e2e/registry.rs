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
struct Ours {
    kafka: Kafka,
    tokio: tokio::runtime::Runtime,
    port: u16,
}

impl Ours {
    fn shared() -> &'static Self {
        static SHARED: OnceLock<Ours> = OnceLock::new();
        SHARED.get_or_init(|| {
            let kafka = Kafka::start();
            let tokio = tokio::runtime::Runtime::new().expect("tokio starts");
            let port = serve(&kafka, &tokio);
            Self { kafka, tokio, port }
        })
    }
}

/// Starts a registry over a Kafka and waits until it has read its topic.
fn serve(kafka: &Kafka, tokio: &tokio::runtime::Runtime) -> u16 {
    let registry = Registry::start(Settings::new(kafka.brokers()), Level::Backward).expect("a thread can be started");
    let bound = tokio.block_on(embedded::serve(([127, 0, 0, 1], 0).into(), registry.clone())).expect("a port is free");
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
                wrong.push(format!("{} {} {level}: ours says {expected}, the foreign one {there}, and nobody says why", change.kind, change.what));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
