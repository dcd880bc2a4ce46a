//! Who may ask over HTTP, how often, and what is written down of it.

use millrace_tests::*;
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

const FACTORY: &str = "
http:
  listen: 127.0.0.1:$http
  tokens:
    grafana: {token: \"${env:VIEWER}\"}
    shift: {token: \"${env:OPERATOR}\", role: operator}
  users:
    anna: {hash: '$hash', role: admin}
topics: {$topic: {format: json}}
sources:
  load: {type: generator, at: load, topic: $topic, tags: 2, rate: 10/s, shapes: [counter]}
";

fn hash(password: &str) -> String {
    let mut command = std::process::Command::new(millrace::binary());
    let mut child = command.args(["config", "hash"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    child.stdin.take().expect("a pipe").write_all(format!("{password}\n").as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[test]
fn tokens_and_logins_have_roles_every_change_is_audited_and_guessing_has_to_wait() {
    let (kafka, topic) = (Kafka::shared(), Kafka::shared().topic("access"));
    let (viewer, operator) = ("v-0123456789abcdef", "o-0123456789abcdef");
    let factory =
        Factory::on(kafka).with("topic", &topic).with("hash", hash("correct horse")).env("VIEWER", viewer).env("OPERATOR", operator);
    let http_port = free_port();
    let mut millrace = factory.with("http", http_port).prepare_at(FACTORY, http_port);
    millrace.launch();
    millrace.wait_alive();
    let send = |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        http::request_with(http_port, method, path, headers, body, Duration::from_secs(20)).expect("it answers")
    };
    let with = |token: &str, method: &str, path: &str| send(method, path, &[("authorization", &format!("Bearer {token}"))], "").0;
    let login = |user: &str, password: &str| send("POST", "/login", &[], &json!({"user": user, "password": password}).to_string());

    assert_eq!(send("GET", "/status", &[], "").0, 401);
    assert_eq!(with("no-such-token-at-all", "GET", "/status"), 401);
    assert_eq!((send("GET", "/health/live", &[], "").0, send("GET", "/", &[], "").0), (200, 200));
    assert_eq!((with(viewer, "GET", "/status"), with(viewer, "POST", "/reload?dry_run=true")), (200, 403));
    assert_eq!((with(operator, "POST", "/reload?dry_run=true"), with(operator, "POST", "/certificates/00/approve")), (200, 403));

    let (code, body) = login("anna", "correct horse");
    let session: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((code, &session["role"]), (200, &json!("admin")), "{body}");
    let token = session["token"].as_str().expect("a token");
    // Nothing is trusted yet: it is allowed, and there is nothing of that name.
    assert_eq!(with(token, "POST", "/certificates/00/approve"), 400);
    assert_eq!((with(token, "POST", "/logout"), with(token, "GET", "/status")), (200, 401));

    // A page of somebody else: neither by origin, nor by a name that leads here.
    let bearer = format!("Bearer {operator}");
    let foreign = [("authorization", bearer.as_str()), ("origin", "http://evil.example")];
    assert_eq!(send("POST", "/reload?dry_run=true", &foreign, "").0, 403);
    // A body that is too long is refused before it is read to its end, whoever sends it.
    let long = http::request_with(http_port, "POST", "/login", &[], &"x".repeat(64 << 20), Duration::from_secs(20));
    assert!(long.as_ref().is_err() || long.as_ref().is_ok_and(|(code, _)| *code == 413), "{long:?}");

    let codes: Vec<u16> = (0..8).map(|n| login("anna", &format!("guess {n}")).0).collect();
    assert_eq!((&codes[..5], codes[7]), (&[401; 5][..], 429), "{codes:?}");
    assert_eq!(login("anna", "correct horse").0, 429, "the right one has to wait, too: it may have been guessed");
    let busy: Vec<u16> = (0..40).map(|_| with(operator, "POST", "/reload?dry_run=true")).collect();
    assert!(busy.contains(&429), "{busy:?}");
    assert_eq!(with(viewer, "GET", "/status"), 200, "looking has a measure of its own");

    let site = millrace.site().to_owned();
    let mut audit = kafka.follow("millrace.audit");
    let of_site = |records: &[Record]| -> Vec<Value> {
        let ours = records.iter().filter(|record| record.header("millrace.source").is_some_and(|source| source.starts_with(&site)));
        ours.map(Record::json).collect()
    };
    let entry = |entries: &[Value], by: &str, request: &str, outcome: &str| {
        entries.iter().any(|e| e["by"] == by && e["request"] == request && e["outcome"] == outcome && e["from"] == "127.0.0.1")
    };
    let entries = of_site(audit.until("every change, the refused ones too", |records| {
        let entries = of_site(records);
        entry(&entries, "grafana", "POST /reload?dry_run=true", "refused")
            && entry(&entries, "shift", "POST /reload?dry_run=true", "asked")
            && entry(&entries, "shift", "POST /certificates/00/approve", "refused")
            && entry(&entries, "anna", "POST /login", "logged in")
            && entry(&entries, "anna", "POST /login", "refused")
            && entry(&entries, "anna", "POST /certificates/00/approve", "asked")
    }));
    let all = format!("{entries:?}") + &millrace.log();
    for secret in [viewer, operator, "correct horse", "guess 1", token] {
        assert!(!all.contains(secret), "{secret} is in the audit or in the messages");
    }
    millrace.stop();

    let text = FACTORY.replace("$hash", "correct horse").replace("127.0.0.1:$http", "127.0.0.1:1");
    let factory = Factory::at("127.0.0.1:1").with("topic", "t").env("VIEWER", viewer).env("OPERATOR", operator);
    let output = factory.prepare(&text).run(&["check", "-c", "factory.yaml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("the hash of user `anna` is not of Argon2"), "{said}");
}
