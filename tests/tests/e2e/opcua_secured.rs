//! How OPC UA connections are secured through the runtime: every policy of three foreign servers, users by password and by certificate, and
//! what each refusal says.

use millrace_tests::*;
use serde_json::json;
use std::collections::BTreeSet;

const POLICIES: [&str; 3] = ["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"];
const MODES: [&str; 2] = ["Sign", "SignAndEncrypt"];
const LOGIN: &str = "{user: millrace, password: '${env:OPCUA_PASSWORD}'}";

/// The name of a source, and its `at`.
fn name(policy: &str, mode: &str) -> String {
    format!("{policy}-{mode}")
}

/// A source for every policy and mode, all of them reading the counter.
fn every_policy(login: &str) -> String {
    let mut text = String::from("topics: {$topic: {format: json}}\nsources:\n");
    for policy in POLICIES {
        for mode in MODES {
            let name = name(policy, mode);
            text += &format!(
                "  {name}: {{type: opcua, endpoint: $endpoint, at: {name}, topic: $topic, namespaces: {{t: 'http://millrace.test/plant'}}, \
                 security: {{policy: {policy}, mode: {mode}}}, login: {login}, groups: [{{every: 100ms, tags: {{counter: 't:s=Live.Counter'}}}}]}}\n"
            );
        }
    }
    text
}

fn prepare(plant: &Plant, topic: &str, text: &str) -> Millrace {
    let factory = Factory::on(Kafka::shared()).with("topic", topic).with("endpoint", plant.endpoint());
    factory.env("OPCUA_PASSWORD", "secret").env("OPCUA_WRONG", "hunter2").prepare(text)
}

fn launch(millrace: &mut Millrace) {
    millrace.launch();
    millrace.wait_alive();
}

/// Types the line that a blocked source names, until it runs: for the certificate, and for a host that the certificate does not name. The process
/// goes on all the while.
fn trust(millrace: &Millrace, source: &str) {
    for _ in 0..3 {
        let word = eventually("the source has tried", || Some(millrace.word(source)).filter(|word| word == "Blocked" || word == "Running"));
        if word == "Running" {
            return;
        }
        approve(millrace, source);
    }
    panic!("{source} still does not run: {:#}", millrace.connector(source));
}

/// Types the line that a blocked source names, and waits until it has tried again.
fn approve(millrace: &Millrace, source: &str) {
    let reason = millrace.connector(source)["reason"].clone();
    millrace.type_line_of(&reason.to_string());
    eventually("the source tries again by itself", || (millrace.connector(source)["reason"] != reason).then_some(()));
}

/// Every source has this value of the counter.
fn all_have(follow: &mut Follow, number: i64) {
    let wanted: BTreeSet<String> = POLICIES.iter().flat_map(|policy| MODES.map(|mode| format!("{}/counter", name(policy, mode)))).collect();
    follow.until(&format!("{number} by every policy"), |records| {
        let samples = records.iter().map(Record::json).filter(|sample| sample["value"] == number);
        let tags: BTreeSet<String> = samples.filter_map(|sample| sample["tag"].as_str().map(|tag| below_site(tag).to_owned())).collect();
        tags.is_superset(&wanted)
    });
}

/// Blocked, and why.
fn blocked(millrace: &Millrace, source: &str) -> String {
    millrace.wait_word(source, "Blocked");
    millrace.connector(source).to_string()
}

fn secured(stack: Stack) {
    let mut plant = Plant::of(stack).secured().user("millrace", "secret").start();
    let topic = Kafka::shared().topic("policies");
    let mut millrace = prepare(&plant, &topic, &every_policy(LOGIN));
    launch(&mut millrace);
    let first = name(POLICIES[0], MODES[1]);
    let why = blocked(&millrace, &first);
    assert!(why.contains("is not trusted"), "{stack:?}: {why}");
    trust(&millrace, &first);
    plant.set("Live.Counter", json!(5));
    let mut follow = Kafka::shared().follow(&topic);
    all_have(&mut follow, 5);
    millrace.stop();

    // Our own certificate will do for a user's, too.
    let own = millrace.data_dir().join("pki/own");
    let only = |folder: &str| {
        let mut files = std::fs::read_dir(own.join(folder)).expect("the own certificate was made");
        files.next().expect("there is one").expect("it can be listed").path().display().to_string()
    };
    millrace.write(&every_policy(&format!("{{certificate: '{}', key: '{}'}}", only("certs"), only("private"))));
    launch(&mut millrace);
    plant.set("Live.Counter", json!(6));
    all_have(&mut follow, 6);
    millrace.stop();

    millrace.write(&every_policy("{user: millrace, password: '${env:OPCUA_WRONG}'}"));
    launch(&mut millrace);
    for source in [name(POLICIES[0], MODES[0]), name(POLICIES[2], MODES[1])] {
        let why = blocked(&millrace, &source);
        assert!(why.contains("check `login`"), "{stack:?}: {why}");
        assert!(!why.contains("hunter2") && !millrace.log().contains("hunter2"), "a password is never printed");
    }
}

#[test]
fn every_policy_of_asyncua_reads_with_passwords_and_with_certificates() {
    secured(Stack::Asyncua);
}

#[test]
fn every_policy_of_node_opcua_reads_with_passwords_and_with_certificates() {
    secured(Stack::NodeOpcua);
}

#[test]
fn every_policy_of_milo_reads_with_passwords_and_with_certificates() {
    secured(Stack::Milo);
}

#[test]
fn a_server_that_does_not_trust_our_certificate_blocks_and_says_where_to_take_it() {
    let plant = Plant::of(Stack::NodeOpcua).strict().start();
    let topic = Kafka::shared().topic("strict");
    let text = "
topics: {$topic: {format: json}}
sources:
  plant:
    type: opcua
    endpoint: $endpoint
    topic: $topic
    security: {policy: Basic256Sha256}
    groups: [{every: 1s, tags: {counter: 'nsu=http://millrace.test/plant;s=Live.Counter'}}]
";
    let mut millrace = prepare(&plant, &topic, text);
    launch(&mut millrace);
    for _ in 0..3 {
        let why = blocked(&millrace, "plant");
        if why.contains("does not trust Millrace's certificate") {
            assert!(why.contains("millrace pki export"), "{why}");
            return;
        }
        approve(&millrace, "plant");
    }
    panic!("the server took a certificate that nobody approved: {:#}", millrace.connector("plant"));
}

#[test]
fn all_that_is_wrong_with_a_certificate_is_said_at_once_and_put_up_with_where_the_yaml_names_it() {
    let plant = Plant::of(Stack::Asyncua).old_certificate().start();
    let topic = Kafka::shared().topic("old");
    let text = |accept: &str| {
        format!(
            "topics: {{$topic: {{format: json}}}}\nsources:\n  plant: {{type: opcua, endpoint: $endpoint, topic: $topic, \
             security: {{policy: Basic256Sha256{accept}}}, groups: [{{every: 100ms, tags: {{counter: 'nsu=http://millrace.test/plant;s=Live.Counter'}}}}]}}\n"
        )
    };
    let mut millrace = prepare(&plant, &topic, &text(""));
    launch(&mut millrace);
    let why = blocked(&millrace, "plant");
    for said in
        ["valid from 2020", "a key of 1024 bits", "names no application", "not for 127.0.0.1", "accept: [expired, short_key, no_uri]"]
    {
        assert!(why.contains(said), "{said}: {why}");
    }
    millrace.stop();
    millrace.write(&text(", accept: [expired, short_key, no_uri]"));
    let check = millrace.run(&["check", "-c", "factory.yaml"]);
    let check = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    assert!(check.contains("`short_key` is accepted: a key of fewer than 2,048 bits can be broken"), "{check}");
    let plan = millrace.run(&["plan", "-c", "factory.yaml"]);
    assert!(String::from_utf8_lossy(&plan.stdout).contains("accepted of the server's certificate: expired, short_key, no_uri"));
    launch(&mut millrace);
    let why = blocked(&millrace, "plant");
    assert!(why.contains("is not trusted") && !why.contains("accept:"), "{why}");
    // One line: for the certificate, and for the host that it does not name.
    millrace.type_line_of(&why);
    millrace.wait_running("plant");
    let log = millrace.log();
    assert!(log.contains("accepted=\"short_key\"") && log.contains("which `security` accepts"), "{log}");
}
