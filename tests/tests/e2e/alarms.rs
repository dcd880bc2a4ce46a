//! Alarms without Kafka: to a webhook, a broker and a mail server, again while they last, and once more when it is over.

use millrace_tests::tls::Authority;
use millrace_tests::*;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

const FACTORY: &str = "
floor: {writes: allowed}
topics: {$topic: {format: json}}
alarms:
  hold: 1s
  repeat: 3s
  $maintenance
  to:
    shift: {webhook: \"http://127.0.0.1:$web/alarm\", bearer: \"${env:BEARER}\"}
    plant: {mqtt: $broker, topic: 'alarms/{key}'}
    mail:
      mail: smtp://localhost:$smtp
      level: error
      login: {user: millrace, password: \"${env:PASSWORD}\"}
      ca: $ca
      from: millrace@plant.example
      recipients: [shift@plant.example, lead@plant.example]
sources:
  lab: {type: exec, command: ['$dir/scale'], at: lab, topic: $topic}
";

/// Web and mail server of the tests.
struct Receivers {
    _process: Process,
    out: PathBuf,
    web: u16,
    smtp: u16,
    authority: Authority,
    _dir: tempfile::TempDir,
}

impl Receivers {
    /// `refuses`: so many posts fail at first.
    fn start(refuses: u32) -> Self {
        let (dir, authority, web, smtp) = (scratch("alarms"), Authority::new("plant"), free_port(), free_port());
        let (leaf, out) = (authority.leaf("mail"), dir.path().join("got"));
        let mut python = peers::python(peers::smtp_server());
        python.arg(peers::scripts().join("alarms.py")).args([web.to_string(), smtp.to_string()]).args([&leaf.cert, &leaf.key, &out]);
        python.arg(refuses.to_string());
        let process = Process::start("web and mail server", python, &dir.path().join("log"));
        eventually("both listen", || {
            [web, smtp].iter().all(|port| std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok()).then_some(())
        });
        Self { _process: process, out, web, smtp, authority, _dir: dir }
    }

    fn got(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.out).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.got().into_iter().find(&holds))
    }

    fn factory(&self, kafka: &Kafka, broker: &Mosquitto, maintenance: &str) -> Factory {
        Factory::on(kafka)
            .with("topic", kafka.topic("alarms"))
            .with("web", self.web)
            .with("smtp", self.smtp)
            .with("broker", broker.url())
            .with("ca", self.authority.ca().display())
            .with("maintenance", maintenance)
            .env("BEARER", "b-0123456789")
            .env("PASSWORD", "secret")
    }
}

fn is(got: &Value, way: &str, id: &str, event: &str) -> bool {
    let body = &got["body"];
    got["way"] == way && body["id"] == id && body["event"] == event
}

/// Lets a program stand where none was.
fn mend(path: &Path) {
    std::fs::write(path, "#!/bin/sh\nread start\necho '{\"type\":\"ready\"}'\ncat > /dev/null\n").expect("a file can be written");
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it can be run");
}

#[test]
fn a_blocked_source_is_told_on_every_way_again_and_when_it_is_over() {
    let (kafka, broker, receivers) = (Kafka::shared(), Mosquitto::start(), Receivers::start(2));
    let mut client = broker.client();
    client.subscribe("alarms/#", 1);
    let mut millrace = receivers.factory(kafka, &broker, "").start(FACTORY);
    millrace.wait_word("lab", "Blocked");
    // The first two posts fail: it is tried again.
    let id = "source/lab/blocked";
    let raised = receivers.until("the webhook has it", |got| is(got, "webhook", id, "raised"));
    assert_eq!(raised["auth"], "Bearer b-0123456789");
    assert_eq!((&raised["body"]["level"], &raised["body"]["site"]), (&"error".into(), &millrace.site().into()), "{raised:#}");
    assert!(raised["body"]["text"].as_str().is_some_and(|text| text.contains("cannot start") && text.contains("scale")), "{raised:#}");
    assert!(raised["body"]["help"].as_str().is_some_and(|help| !help.is_empty()));
    let mail = receivers.until("a mail has it", |got| got["way"] == "mail" && got["text"].as_str().is_some_and(|text| text.contains(id)));
    assert_eq!((&mail["encrypted"], &mail["user"], &mail["sender"]), (&true.into(), &"millrace".into(), &"millrace@plant.example".into()));
    assert_eq!(mail["to"], serde_json::json!(["shift@plant.example", "lead@plant.example"]));
    assert!(mail["subject"].as_str().is_some_and(|subject| subject.contains("ERROR") && subject.contains(millrace.site())), "{mail:#}");
    let message = client.take_until("MQTT has it", |message| message.topic == format!("alarms/{id}"));
    assert_eq!(message.last().expect("one").json()["event"], "raised");
    receivers.until("it is told again", |got| is(got, "webhook", id, "repeated"));
    let listed = millrace.run(&["alarm", "list", "-c", "factory.yaml"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(text.contains("source lab is Blocked") && text.contains("mail: "), "{text}");

    // What stands is known after a restart, and its end is told.
    millrace.kill9();
    mend(&millrace.dir().join("scale"));
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_running("lab");
    receivers.until("its end is told", |got| is(got, "webhook", id, "recovered"));
    let got = receivers.got();
    let raised = got.iter().filter(|got| is(got, "webhook", id, "raised")).count();
    assert_eq!(raised, 1, "{got:#?}");
    let all = millrace.log() + &format!("{got:?}").replace("Bearer b-0123456789", "");
    assert!(!all.contains("secret") && !all.contains("b-0123456789"), "a secret is told");
    millrace.stop();
}

#[test]
fn in_maintenance_nobody_is_told_until_a_reload_ends_it() {
    let (kafka, broker, receivers) = (Kafka::shared(), Mosquitto::start(), Receivers::start(0));
    let window = "maintenance: [{from: '2020-01-01T00:00:00Z', until: '2099-01-01T00:00:00Z'}]";
    let mut millrace = receivers.factory(kafka, &broker, window).start(FACTORY);
    millrace.wait_word("lab", "Blocked");
    let alarms = || -> Value {
        let (code, body) = http::get(millrace.http_port(), "/alarms").expect("it answers");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    };
    let standing = eventually("it stands", || {
        let alarms = alarms();
        let one = alarms["alarms"].as_array()?.iter().find(|one| one["id"] == "source/lab/blocked")?.clone();
        Some((alarms["maintenance"].clone(), one))
    });
    assert_eq!((&standing.0, &standing.1["told"]), (&true.into(), &Value::Null));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(receivers.got(), Vec::<Value>::new());
    millrace.write(&FACTORY.replace("$maintenance", ""));
    let (code, body) = http::request(millrace.http_port(), "POST", "/reload", "").expect("it answers");
    assert!(code == 200 && body.contains("\"live\""), "only the alarms change: {body}");
    receivers.until("what still stands is told", |got| is(got, "webhook", "source/lab/blocked", "raised"));
    millrace.stop();
}

#[test]
fn a_test_alarm_says_of_each_target_whether_it_arrived() {
    let (kafka, broker, receivers) = (Kafka::shared(), Mosquitto::start(), Receivers::start(0));
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let mut client = broker.client();
    client.subscribe("alarms/#", 1);
    let millrace = receivers.factory(kafka, &broker, "").prepare(FACTORY);
    let sent = millrace.run(&["alarm", "test", "-c", "factory.yaml"]);
    assert!(sent.status.success(), "{}", text(&sent));
    for target in ["shift", "plant", "mail"] {
        assert!(text(&sent).contains(&format!("{target}: sent")), "{}", text(&sent));
    }
    assert_eq!(client.take_until("MQTT has it", |message| message.topic == "alarms/test").last().expect("one").json()["event"], "test");
    let ways: Vec<Value> = receivers.got().iter().map(|got| got["way"].clone()).collect();
    assert!(ways.contains(&"webhook".into()) && ways.contains(&"mail".into()), "{ways:?}");

    // A wrong password, an authority that is not trusted: which target, which step, and what was said.
    let wrong = receivers.factory(kafka, &broker, "").env("PASSWORD", "guess").prepare(FACTORY);
    let output = wrong.run(&["alarm", "test", "-c", "factory.yaml", "--to", "mail"]);
    assert!(!output.status.success() && text(&output).contains("mail: not sent: the mail server refuses AUTH"), "{}", text(&output));
    assert!(!text(&output).contains("guess"));
    let other = Authority::new("somebody else");
    let distrusted = receivers.factory(kafka, &broker, "").with("ca", other.ca().display()).prepare(FACTORY);
    let output = distrusted.run(&["alarm", "test", "-c", "factory.yaml", "--to", "mail"]);
    assert!(!output.status.success() && text(&output).contains("certificate"), "{}", text(&output));
    let output = millrace.run(&["alarm", "test", "-c", "factory.yaml", "--to", "nobody"]);
    assert!(!output.status.success() && text(&output).contains("there are: shift, plant, mail"), "{}", text(&output));

    // A broker is the floor.
    let forbidden = receivers.factory(kafka, &broker, "").prepare(&FACTORY.replace("writes: allowed", "writes: forbidden"));
    let output = forbidden.run(&["check", "-c", "factory.yaml"]);
    assert!(!output.status.success() && text(&output).contains("an alarm to a broker is a write to the floor"), "{}", text(&output));
}
