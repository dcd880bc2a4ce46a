//! What people are told while something is amiss: once, in words, and also when it is over.

use millrace_tests::*;
use std::time::Duration;

const SOURCES: &str = "
topics: {$topic: {format: json}}
sources:
  cells:
    type: mqtt
    endpoint: $broker
    client_id: $topic
    topic: $topic
    subscribe:
      - {filter: 'speed/+', payload: number, tag: 'speed/{1}'}
      - {filter: 'words/+', payload: number, tag: 'words/{1}'}
      - {filter: 'Speed/+', payload: number, tag: 'never/{1}'}
  stranger: {type: opcua, endpoint: 'opc.tcp://127.0.0.1:$port', topic: $topic, groups: [{every: 1s, tags: {a: 'ns=2;s=A'}}]}
";

#[test]
fn what_goes_is_told_once_and_that_it_is_back_and_sessions_are_not_attempts() {
    let mut broker = Mosquitto::start();
    let url = broker.url();
    let port = url.rsplit(':').next().expect("a port").to_owned();
    let factory = Factory::at("127.0.0.1:1").with("broker", &url).with("port", port).with("topic", "told");
    let millrace = factory.start(SOURCES);
    millrace.wait_running("cells");
    let sessions = || {
        let metrics = millrace.metrics();
        let line = metrics.lines().find(|line| line.starts_with("millrace_sessions_total") && line.contains("cells"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_else(|| panic!("no line in {metrics}"))
    };
    assert_eq!(sessions(), 1.0);
    broker.kill9();
    millrace.wait_word("cells", "Degraded");
    // Several attempts fail before it is back.
    eventually("it was tried again", || millrace.log().contains("interrupted: ").then_some(()));
    broker.restart();
    millrace.wait_running("cells");
    assert_eq!(sessions(), 2.0, "a session is one that was opened");
    assert!(millrace.log().contains("runs again after"), "{}", millrace.log());

    let mut publisher = broker.client();
    publisher.publish("speed/1", b"1", 1, false);
    (0..10).for_each(|_| publisher.publish("words/1", b"fast", 1, false));
    publisher.finish();
    let reason = eventually("it is said that all of a subscription die", || {
        let connector = millrace.connector("cells").to_string();
        connector.contains("is not a number").then_some(connector)
    });
    assert!(reason.contains("words/+"), "{reason}");

    let tap = Process::start(
        "millrace tap",
        {
            let mut command = std::process::Command::new(millrace::binary());
            command.args(["tap", "nosuch", "--url", &format!("http://127.0.0.1:{}", millrace.http_port())]);
            command
        },
        &millrace.dir().join("tap.log"),
    );
    eventually("tap says that there is nothing of that name", || tap.output().contains("nosuch").then_some(()));

    within(Duration::from_secs(180), "a filter that nothing matches is named", || {
        millrace.log().lines().any(|line| line.contains("no message has matched the filter") && line.contains("Speed/+")).then_some(())
    });
    let log = millrace.log();
    assert_eq!(log.matches("Kafka can't be reached").count(), 1, "{log}");
    assert!(!log.contains("librdkafka says") && !log.contains("Some(Err"), "no library's raw words: {log}");
    let stranger = millrace.connector("stranger");
    assert!(stranger["reason"].as_str().is_some_and(|reason| reason.len() > 20 && !reason.contains("Os {")), "{stranger}");
}

#[test]
fn a_corrected_password_is_taken_by_a_reload() {
    let broker = MosquittoOptions::default().user("millrace", "right").start();
    let factory = Factory::at("127.0.0.1:1").with("broker", broker.login_url()).file("secret", "wrong");
    let millrace = factory.start(
        "topics: {t: {format: json}}\nsources:\n  cells: {type: mqtt, endpoint: $broker, login: {user: millrace, password: '${file:$dir/secret}'}, \
         topic: t, subscribe: [{filter: 'a/+', payload: number, tag: '{1}'}]}\n",
    );
    millrace.wait_word("cells", "Blocked");
    std::fs::write(millrace.dir().join("secret"), "right").expect("a file can be written");
    let taken = millrace.run(&["reload", "factory.yaml"]);
    let said = String::from_utf8_lossy(&taken.stdout).into_owned();
    assert!(taken.status.success() && said.contains("another secret"), "{said}{taken:?}");
    millrace.wait_running("cells");
}
