//! The answers at 3 a.m., against a real Kafka: how far a value has come, and what keeps it.

use millrace_tests::*;
use serde_json::Value;
use std::process::Output;

const FACTORY: &str = "
topics: {$topic: {format: json}}
sources:
  press: {type: mqtt, endpoint: $broker, at: body, subscribe: [{filter: 'press/+', payload: number, topic: $topic, tag: '{1}', qos: 1}], report: all}
sinks:
  archive: {type: file, topics: [$topic], path: '$dir/archive.ndjson'}
  elsewhere: {type: file, topics: [nobody-writes-here], path: '$dir/elsewhere.ndjson'}
";

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_value_is_followed_to_its_record_and_to_each_sink_and_the_broken_hop_is_named() {
    let (kafka, broker) = (Kafka::shared(), Mosquitto::start());
    let topic = kafka.topic("why");
    let millrace = Factory::on(kafka).with("topic", &topic).with("broker", broker.url()).start(FACTORY);
    millrace.wait_running("press");
    let mut publisher = broker.client();
    for n in 0..100 {
        for machine in ["speed", "force"] {
            publisher.publish(&format!("press/{machine}"), n.to_string().as_bytes(), 1, false);
        }
    }
    publisher.finish();
    millrace.drained_when("press", |ledger| ledger.received >= 200);
    eventually("the sink wrote them", || (millrace.connector("archive")["counts"]["written"] == 200).then_some(()));
    let tag = format!("{}/body/force", millrace.site());
    let last = kafka.read(&topic).into_iter().rfind(|record| record.key_text() == tag).expect("it has records");
    let why = || json(&millrace.run(&["why", &tag, "-c", "factory.yaml", "--json"]));
    let hops = |answer: &Value, hop: &str| -> Vec<String> {
        let all = answer["hops"].as_array().expect("hops").iter().filter(|one| one["hop"] == hop);
        all.map(|one| one["says"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let answer = eventually("the sink has committed", || {
        let answer = why();
        hops(&answer, "sink").first().is_some_and(|says| says.contains("is past this record")).then_some(answer)
    });
    assert_eq!(answer["broken"], Value::Null, "{answer:#}");
    let record = &answer["trace"]["record"];
    assert_eq!((record["partition"].as_i64(), record["offset"].as_i64()), (Some(last.partition.into()), Some(last.offset)), "{answer:#}");
    assert_eq!(record["seq"], last.json()["seq"]);
    assert_eq!(hops(&answer, "sink").len(), 1, "a sink of another topic is no hop: {answer:#}");
    let (_, trend) = http::get(millrace.http_port(), &format!("/trend?tag={tag}&seconds=3600")).expect("it answers");
    let trend: Value = serde_json::from_str(&trend).expect("JSON");
    let points = trend["points"].as_array().expect("points");
    assert_eq!((&trend["complete"], &trend["records"]), (&Value::Bool(true), &Value::from(200)), "{trend}");
    assert_eq!((points[0][1].as_f64(), points[points.len() - 1][1].as_f64()), (Some(0.0), Some(99.0)));

    // The sink is stopped: that is the hop, and what to do stands beside it.
    let (code, said) = http::request(millrace.http_port(), "PUT", "/connectors/archive/stop", "").expect("it answers");
    assert_eq!(code, 204, "{said}");
    eventually("it is stopped", || (millrace.connector("archive")["status"] == "Stopped").then_some(()));
    let output = millrace.run(&["why", &tag, "-c", "factory.yaml"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("BAD sink") && said.contains("archive: Stopped") && said.contains("broken at sink"), "{said}");
    assert_eq!(http::request(millrace.http_port(), "PUT", "/connectors/archive/resume", "").expect("it answers").0, 202);
    eventually("it runs again", || (millrace.connector("archive")["status"] == "Running").then_some(()));

    // Kafka has let go of it: nothing is broken, and that is said.
    kafka.delete_records(&topic, last.partition);
    let answer = why();
    assert_eq!(answer["broken"], Value::Null, "{answer:#}");
    assert!(hops(&answer, "record")[0].contains("retention took it"), "{answer:#}");
}

const SECURED: &str = "
kafka:
  brokers: $secured
  properties: {security.protocol: SASL_PLAINTEXT, sasl.mechanism: SCRAM-SHA-512, sasl.username: millrace, sasl.password: '${env:KAFKA_PASSWORD}'}
topics: {$topic: {format: json}}
sources:
  press: {type: generator, at: body/press-1, topic: $topic, tags: 1, rate: 100/s, shapes: [counter], count: 100, report: all}
sinks:
  archive: {type: file, topics: [$topic], group: plant-archive, path: '$dir/archive.ndjson'}
";

#[test]
fn doctor_names_each_right_that_is_missing_and_the_line_it_prints_gives_it() {
    let kafka = Kafka::options().user("millrace", "secret").authorizer().start();
    let topic = kafka.topic("rights");
    kafka.create_topic(&topic, 1, &[]);
    kafka.allow("millrace", &["--operation", "Read", "--topic", &topic]);
    let factory = Factory::on(&kafka).with("secured", kafka.secured_brokers()).with("topic", &topic).env("KAFKA_PASSWORD", "secret");
    let millrace = factory.prepare(SECURED);
    // `type: kafka-acls.sh --bootstrap-server .. --add --allow-principal User:millrace --operation .. --topic ..`
    let missing = || -> Vec<(String, Vec<String>)> {
        let found = json(&millrace.run(&["doctor", "-c", "factory.yaml", "--json"]));
        let rights = found["findings"].as_array().expect("findings").iter().filter(|one| one["what"] == "kafka's rights").cloned();
        let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
        let line = |one: &Value| {
            let help = text(one, "help");
            let (before, operations) = help.split_once(" --add --allow-principal User:millrace ").unwrap_or_else(|| panic!("{one:#}"));
            assert!(before.contains("kafka-acls.sh --bootstrap-server 127.0.0.1:"), "{one:#}");
            operations.split(' ').map(str::to_owned).collect()
        };
        rights.filter(|one| one["ok"] == false).map(|one| (text(&one, "says"), line(&one))).collect()
    };
    let first = missing();
    let says = |part: &str| first.iter().any(|(says, _)| says.contains(part));
    assert!(says(&format!("topic {topic}: Write is missing")), "Read and Describe are there: {first:#?}");
    assert!(says(&format!("topic {topic}.dead: Write, Describe are missing")), "{first:#?}");
    assert!(says("topic millrace.cursors: Read, Write, Describe are missing"), "{first:#?}");
    assert!(says("group plant-archive: Read, Describe are missing"), "{first:#?}");
    // What is typed is enough: once as it is, and once for what is only seen then (topics that are not there have to be made).
    let mut rights = first;
    for _ in 0..2 {
        for (_, line) in &rights {
            kafka.allow("millrace", &line.iter().map(String::as_str).collect::<Vec<_>>());
        }
        rights = missing();
    }
    assert!(rights.is_empty(), "{rights:#?}");
    let millrace =
        Factory::on(&kafka).with("secured", kafka.secured_brokers()).with("topic", &topic).env("KAFKA_PASSWORD", "secret").start(SECURED);
    millrace.drained_when("press", |ledger| ledger.received >= 100);
    eventually("the sink reads them", || (millrace.connector("archive")["counts"]["written"] == 100).then_some(()));
    assert_eq!(millrace.status()["kafka"]["status"], "Running");
}
