//! Kafka Connect's REST interface: call by call against Apache Kafka Connect, and by the clients that people use.

use millrace_tests::connect::Connect;
use millrace_tests::*;
use serde_json::{Map, Value, json};
use std::time::Duration;

const FACTORY: &str = "
topics: {$topic: {format: json}}
sources:
  load: {type: generator, at: load, topic: $topic, tags: 2, rate: 50/s, shapes: [counter]}
sinks:
  copy: {type: file, topics: [$topic], path: '$dir/copy.ndjson'}
";

/// Status and body. Millrace takes so many changes of one address in a second: what is beyond is asked again.
fn call(port: u16, method: &str, path: &str, body: &str) -> (u16, Value) {
    let asked = || {
        http::request_with(port, method, path, &[("accept", "application/json")], body, Duration::from_secs(30))
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    };
    let (code, body) = within(Duration::from_secs(60), "it is not asked too often", || Some(asked()).filter(|(code, _)| *code != 429));
    let body = if body.trim().is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&body).unwrap_or_else(|_| panic!("{method} {path}: {body}"))
    };
    (code, body)
}

/// What an answer looks like: keys and types, and whatever a client compares as it is. Configurations, places and versions are each program's own.
fn shape(value: &Value) -> Value {
    const OWN: [&str; 8] = ["worker_id", "version", "commit", "kafka_cluster_id", "topics", "trace", "documentation", "config"];
    match value {
        Value::Object(keys) => {
            let keys = keys.iter().map(|(key, value)| match OWN.contains(&key.as_str()) {
                true => (key.clone(), json!(kind(value))),
                false => (key.clone(), shape(value)),
            });
            let mut sorted: Vec<(String, Value)> = keys.collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(sorted.into_iter().collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(shape).collect(),
        other => other.clone(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "map",
    }
}

struct Both {
    theirs: u16,
    ours: u16,
}

impl Both {
    /// The same call to both; the answers are the same.
    fn same(&self, method: &str, path: &str, body: &str) -> Value {
        let (theirs, ours) = (call(self.theirs, method, path, body), call(self.ours, method, path, body));
        assert_eq!((ours.0, shape(&ours.1)), (theirs.0, shape(&theirs.1)), "{method} {path}\nours: {}\ntheirs: {}", ours.1, theirs.1);
        ours.1
    }

    /// Waits until both answer a call alike, in these words: after an order either may say for a moment what was true before it.
    fn settle(&self, path: &str, connector: &str, tasks: &[&str]) {
        within(Duration::from_secs(60), &format!("{path} says {connector} and {tasks:?} here and there"), || {
            let [theirs, ours] = [self.theirs, self.ours].map(|port| call(port, "GET", path, ""));
            let says_so = |body: &Value| {
                let words: Option<Vec<&str>> =
                    body["tasks"].as_array().map(|all| all.iter().filter_map(|task| task["state"].as_str()).collect());
                body["connector"]["state"] == connector && words.as_deref() == Some(tasks)
            };
            let alike = (ours.0, shape(&ours.1)) == (theirs.0, shape(&theirs.1));
            if !alike {
                println!("GET {path}\nours: {}\ntheirs: {}", ours.1, theirs.1);
            }
            (alike && says_so(&theirs.1) && says_so(&ours.1)).then_some(())
        });
    }
}

#[test]
fn connectors_are_listed_watched_paused_and_restarted_as_kafka_connect_s_are() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("connect");
    let connect = Connect::on(kafka);
    let millrace = Factory::on(kafka).with("topic", &topic).start(FACTORY);
    let both = Both { theirs: connect.port, ours: millrace.http_port() };

    // Nobody is there by that name.
    let nope = [
        ("GET", "", ""),
        ("GET", "/status", ""),
        ("GET", "/config", ""),
        ("GET", "/tasks", ""),
        ("GET", "/topics", ""),
        ("GET", "/offsets", ""),
        ("GET", "/tasks/0/status", ""),
        ("POST", "/restart", ""),
        ("POST", "/restart?includeTasks=true", ""),
        ("POST", "/tasks/0/restart", ""),
        ("PUT", "/pause", ""),
        ("PUT", "/resume", ""),
        ("PUT", "/stop", ""),
        ("DELETE", "/offsets", ""),
        ("PATCH", "/offsets", "{}"),
        ("GET", "/nope", ""),
    ];
    for (method, rest, body) in nope {
        both.same(method, &format!("/connectors/nope{rest}"), body);
    }
    both.same("PATCH", "/connectors", "");
    both.same("GET", "/connector-plugins/Nope/config", "");
    both.same("GET", "/", "");

    // The same two connectors on both sides.
    let input = millrace.dir().join("in.txt");
    std::fs::write(&input, "one\ntwo\n").expect("a file can be written");
    // Nobody makes it for Connect, whose task would wait for it and take no pause.
    let their_topic = kafka.topic("connect-theirs");
    kafka.create_topic(&their_topic, 1, &[]);
    let source = json!({"connector.class": "FileStreamSource", "file": input, "topic": their_topic});
    let sink = json!({"connector.class": "FileStreamSink", "file": millrace.dir().join("out.txt"), "topics": topic});
    for (name, config) in [("load", source), ("copy", sink)] {
        let (code, body) = call(both.theirs, "PUT", &format!("/connectors/{name}/config"), &config.to_string());
        assert_eq!(code, 201, "{body}");
    }
    for name in ["load", "copy"] {
        both.settle(&format!("/connectors/{name}/status"), "RUNNING", &["RUNNING"]);
    }
    for path in [
        "/connectors?expand=info&expand=status",
        "/connectors?expand=info",
        "/connectors?expand=status",
        "/connectors/load",
        "/connectors/load/",
        "/connectors/copy",
        "/connectors/load/tasks",
        "/connectors/copy/tasks/0/status",
        "/connectors/load/tasks/7/status",
        "/connectors/copy/topics",
    ] {
        both.same("GET", path, "");
    }
    let names = |value: &Value| -> Vec<String> {
        let mut names: Vec<String> = value.as_array().into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        names.sort();
        names
    };
    assert_eq!(names(&call(both.ours, "GET", "/connectors", "").1), names(&call(both.theirs, "GET", "/connectors", "").1));
    let (_, config) = call(both.ours, "GET", "/connectors/copy/config", "");
    assert_eq!(
        (&config["connector.class"], &config["name"], &config["topics"]),
        (&json!("millrace.file.Sink"), &json!("copy"), &json!(topic))
    );
    assert!(config.as_object().expect("a map").values().all(Value::is_string), "{config}");

    // Offsets are moved only while it is stopped.
    let part = json!({"kafka_topic": topic, "kafka_partition": 0});
    let to = |offset: i64| json!({"offsets": [{"partition": part, "offset": {"kafka_offset": offset}}]}).to_string();
    let offsets = "/connectors/copy/offsets";
    both.same("DELETE", offsets, "");
    both.same("PATCH", offsets, &to(0));
    both.same("PUT", "/connectors/load/pause", "");
    both.same("PUT", "/connectors/copy/stop", "");
    both.settle("/connectors/load/status", "PAUSED", &["PAUSED"]);
    both.settle("/connectors/copy/status", "STOPPED", &[]);
    let written = millrace.connector("copy")["counts"]["written"].as_u64().expect("a count");
    let before = millrace.connector("load")["ledger"]["received"].as_u64().expect("a count");
    for body in ["{}", &json!({"offsets": [{"partition": {"kafka_topic": topic}, "offset": {"kafka_offset": 0}}]}).to_string()] {
        both.same("PATCH", offsets, body);
    }
    both.same("PATCH", offsets, &to(1));
    let told = both.same("GET", offsets, "");
    assert_eq!(told["offsets"][0]["offset"]["kafka_offset"], 1, "{told}");
    both.same("DELETE", offsets, "");
    both.same("GET", offsets, "");
    both.same("PATCH", offsets, &to(1));
    assert_eq!(call(both.ours, "PATCH", offsets, "garbage").0, 400);
    assert_eq!(call(both.ours, "PATCH", "/connectors/load/offsets", &to(1)).0, 400, "a source's positions are its own");
    let elsewhere = json!({"offsets": [{"partition": {"kafka_topic": "elsewhere", "kafka_partition": 0}, "offset": {"kafka_offset": 0}}]});
    assert_eq!(call(both.ours, "PATCH", offsets, &elsewhere.to_string()).0, 400);
    assert_eq!(millrace.connector("load")["ledger"]["received"].as_u64(), Some(before), "a paused source reads nothing");
    assert_eq!(millrace.connector("copy")["counts"]["written"].as_u64(), Some(written), "a stopped sink writes nothing");
    assert_eq!((millrace.word("load"), millrace.word("copy")), ("Paused".to_owned(), "Stopped".to_owned()));

    both.same("PUT", "/connectors/load/resume", "");
    both.same("PUT", "/connectors/copy/resume", "");
    both.settle("/connectors/load/status", "RUNNING", &["RUNNING"]);
    both.settle("/connectors/copy/status", "RUNNING", &["RUNNING"]);
    millrace.wait_ledger("load", "it reads again", |ledger| ledger.received > before);
    eventually("the sink wrote from offset 1 on again", || {
        let counts = &millrace.connector("copy")["counts"];
        (counts["written"].as_u64()? >= written + written.saturating_sub(1)).then_some(())
    });

    let sessions = |name: &str| millrace.connector(name)["sessions"].as_u64().expect("a count");
    let had = sessions("load");
    both.same("POST", "/connectors/load/restart", "");
    eventually("a restart begins a session", || (sessions("load") > had).then_some(()));
    both.settle("/connectors/load/status", "RUNNING", &["RUNNING"]);
    both.same("POST", "/connectors/load/restart?includeTasks=true", "");
    both.settle("/connectors/load/status", "RUNNING", &["RUNNING"]);
    let had = sessions("load");
    both.same("POST", "/connectors/load/restart?onlyFailed=true", "");
    both.same("POST", "/connectors/load/restart?includeTasks=true&onlyFailed=true", "");
    assert_eq!(sessions("load"), had, "nothing has failed");
    both.same("POST", "/connectors/copy/tasks/0/restart", "");
    both.same("POST", "/connectors/copy/tasks/7/restart", "");
    both.settle("/connectors/copy/status", "RUNNING", &["RUNNING"]);

    // Plugins: the same keys, other plugins.
    let first =
        |port: u16, path: &str| shape(&call(port, "GET", path, "").1[0]).as_object().expect("a map").keys().cloned().collect::<Vec<_>>();
    assert_eq!(first(both.ours, "/connector-plugins"), first(both.theirs, "/connector-plugins"));
    assert_eq!(
        first(both.ours, "/connector-plugins/millrace.file.Sink/config"),
        first(both.theirs, "/connector-plugins/FileStreamSink/config")
    );
    let asked = |port: u16, class: &str, config: Value| {
        let (code, body) = call(port, "PUT", &format!("/connector-plugins/{class}/config/validate"), &config.to_string());
        assert_eq!(code, 200, "{body}");
        body
    };
    let good = asked(both.ours, "millrace.file.Sink", config.clone());
    assert_eq!(good["error_count"], 0, "{good:#}");
    let bad =
        asked(both.ours, "millrace.file.Sink", json!({"connector.class": "millrace.file.Sink", "name": "x", "topics": topic, "pth": "x"}));
    let theirs = asked(both.theirs, "FileStreamSource", json!({"connector.class": "FileStreamSource"}));
    let entry = |body: &Value| -> Value {
        let all = body["configs"].as_array().expect("a list");
        all.iter().find(|one| one["value"]["errors"].as_array().is_some_and(|errors| !errors.is_empty())).expect("one is wrong").clone()
    };
    let keys = |value: &Value| value.as_object().map(|keys| keys.keys().cloned().collect::<std::collections::BTreeSet<_>>());
    assert_eq!(keys(&bad), keys(&theirs));
    assert_eq!(keys(&entry(&bad)["value"]), keys(&entry(&theirs)["value"]));
    assert!(bad["error_count"].as_u64() > Some(0), "{bad:#}");
    both.same("PUT", "/connector-plugins/FileStreamSource/config/validate", &json!({"connector.class": "Other"}).to_string());

    // The files are the configuration.
    let again = json!({"connector.class": "FileStreamSource", "file": input, "topic": their_topic});
    both.same("POST", "/connectors", &json!({"name": "load", "config": again}).to_string());
    for (method, path, body) in [
        ("POST", "/connectors", r#"{"name": "more", "config": {}}"#),
        ("PUT", "/connectors/copy/config", "{}"),
        ("DELETE", "/connectors/copy", ""),
    ] {
        let (code, answer) = call(both.ours, method, path, body);
        let said = answer["message"].as_str().unwrap_or_default();
        assert!(code == 403 && answer["error_code"] == 403 && said.contains("factory.yaml"), "{method} {path}: {code} {answer}");
        assert!(!path.ends_with("config") || said.contains("factory.yaml:"), "it names the line: {said}");
    }
}

#[test]
fn what_is_paused_stays_so_after_a_restart_and_a_reload() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("paused");
    let mut millrace = Factory::on(kafka).with("topic", &topic).start(FACTORY);
    millrace.wait_running("load");
    let port = millrace.http_port();
    assert_eq!(call(port, "PUT", "/connectors/load/pause", "").0, 202);
    assert_eq!(call(port, "PUT", "/connectors/copy/pause", "").0, 202);
    millrace.wait_word("load", "Paused");
    millrace.wait_word("copy", "Paused");
    let received = millrace.ledger("load").received;
    millrace.kill9();
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_word("load", "Paused");
    millrace.wait_word("copy", "Paused");
    assert_eq!(millrace.ledger("load").received, received);
    // Another rate: the source changes, and rests as before.
    millrace.write(&FACTORY.replace("50/s", "60/s"));
    assert_eq!(http::request(port, "POST", "/reload", "").expect("it answers").0, 200);
    millrace.wait_word("load", "Paused");
    assert_eq!(millrace.ledger("load").received, received);
    assert_eq!(call(port, "PUT", "/connectors/load/resume", "").0, 202);
    millrace.wait_ledger("load", "it reads again", |ledger| ledger.received > received);
    millrace.stop();
}

const CLIENT: &str = r#"
import json, sys
url, token = sys.argv[1:3]
from kafka_connect import KafkaConnect
one = KafkaConnect(url=url, auth="ops:" + token)
said = {"version": one.get_cluster_info()["version"], "names": sorted(one.list_connectors())}
said["running"] = sorted(one.list_connectors(expand="status", state="running"))
said["class"] = one.get_connector_config("load")["connector.class"]
one.pause_connector("load")
one.resume_connector("load")
one.restart_connector("copy", include_tasks=True)
said["plugins"] = len(one.list_connector_plugins())
wrong = {"connector.class": "millrace.generator.Source", "name": "x", "topic": "t", "rate": "often"}
said["wrong"] = one.validate_connector_config("millrace.generator.Source", wrong)["error_count"]
try:
    one.delete_connector("load")
except Exception as error:
    said["refused"] = str(error)
from kafka_connect_api.kafka_connect_api import Api, Cluster
cluster = Cluster(Api(url=url, username="ops", password=token))
said["cluster"] = cluster.kafka_cluster
load = cluster.connectors["load"]
said["exists"] = load.exists()
load.cycle_connector()
said["task"] = load.tasks[0].state
print(json.dumps(said))
"#;

#[test]
fn clients_from_pypi_log_in_list_pause_and_restart() {
    let kafka = Kafka::shared();
    let token = "o-0123456789abcdef";
    let port = free_port();
    let text = format!("http:\n  listen: 127.0.0.1:{port}\n  tokens: {{ops: {{token: \"${{env:OPS}}\", role: operator}}}}\n{FACTORY}");
    let mut millrace = Factory::on(kafka).with("topic", kafka.topic("clients")).env("OPS", token).prepare_at(&text, port);
    millrace.launch();
    millrace.wait_alive();
    let url = format!("http://127.0.0.1:{port}");
    let said = eventually("both connectors run", || {
        let mut python = peers::python(peers::connect_clients());
        let output = python.args(["-c", CLIENT, &url, token]).output().expect("Python starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).expect("it says JSON");
        (said["running"] == json!(["copy", "load"])).then_some(said)
    });
    assert_eq!((&said["version"], &said["names"]), (&json!("4.1.1"), &json!(["copy", "load"])));
    assert_eq!((&said["class"], &said["exists"]), (&json!("millrace.generator.Source"), &json!(true)));
    assert!(said["refused"].as_str().is_some_and(|why| why.contains("403")), "{said}");
    assert!(said["cluster"].as_str().is_some_and(|id| !id.is_empty()) && said["plugins"].as_u64() > Some(5), "{said}");
    assert_eq!(said["wrong"], 1, "{said}");
    // Without the token, nothing; and the root tells a stranger nothing but the page.
    assert_eq!(call(port, "GET", "/connectors", "").0, 401);
    assert_eq!(call(port, "GET", "/", "").0, 401);
    millrace.stop();
}
