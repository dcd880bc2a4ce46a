//! Dead letters as a person meets them: counted, shown with their reasons, and sent again once the contract is mended.

use millrace_tests::*;
use serde_json::Value;

const ORDER: &str =
    r#"{"type":"record","name":"Order","namespace":"acme","fields":[{"name":"id","type":"string"},{"name":"quantity","type":"long"}]}"#;
const WITH_COLOR: &str = r#"{"type":"record","name":"Order","namespace":"acme","fields":[{"name":"id","type":"string"},{"name":"quantity","type":"long"},
  {"name":"color","type":["null","string"],"default":null}]}"#;

const ORDERS: &str = "
schemas: {registry: $registry}
topics: {$orders: {format: avro, schema: order.avsc}}
sources:
  cells:
    type: mqtt
    endpoint: $broker
    client_id: $orders
    subscribe: [{filter: 'orders/+', payload: json, topic: $orders, key: '{1}', qos: 1}]
";

#[test]
fn letters_are_counted_shown_and_sent_again_once_the_contract_is_mended() {
    let (kafka, broker, registry) = (Kafka::shared(), Mosquitto::start(), Registry::start());
    let orders = kafka.topic("orders");
    let factory = Factory::on(kafka).with("broker", broker.url()).with("registry", registry.url()).with("orders", &orders);
    let millrace = factory.file("order.avsc", ORDER).start(ORDERS);
    millrace.wait_running("cells");
    let mut publisher = broker.client();
    for (key, payload) in [
        ("1", r#"{"id":"1","quantity":5}"#),
        ("2", r#"{"id":"2","quantity":5,"color":"red"}"#),
        ("3", r#"{"id":"3","quantity":"many"}"#),
        ("4", r#"{"id":"4","quantity":7,"color":"blue"}"#),
    ] {
        publisher.publish(&format!("orders/{key}"), payload.as_bytes(), 1, false);
    }
    publisher.finish();
    millrace.drained_when("cells", |ledger| ledger.received >= 4);
    let dead = |command: &str, more: &[&str]| {
        let output = millrace.run(&[&["dead", command, "-c", "factory.yaml", "--topic", &orders], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };

    let (code, said, _) = dead("list", &[]);
    assert_eq!(code, Some(0), "{said}");
    let counted =
        |reason: &str| said.lines().find(|line| line.contains(reason)).map(|line| line.split_whitespace().next().unwrap().to_owned());
    assert_eq!(counted("key color is not in record acme.Order").as_deref(), Some("2"), "{said}");
    assert_eq!(counted("/quantity").as_deref(), Some("1"), "{said}");
    assert_eq!(dead("list", &["--reason", "nothing of the kind"]).1.lines().count(), 1);

    let (_, said, _) = dead("show", &["--reason", "key color", "--since", "1h", "--json"]);
    let shown: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect();
    let payloads: Vec<&str> = shown.iter().filter_map(|letter| letter["value"].as_str()).collect();
    assert_eq!(payloads, [r#"{"id":"2","quantity":5,"color":"red"}"#, r#"{"id":"4","quantity":7,"color":"blue"}"#]);
    assert_eq!(shown[0]["headers"]["millrace.route"], "orders/+");
    let first = shown[0]["id"].as_str().expect("an id").to_owned();

    let (code, said, _) = dead("replay", &["--reason", "key color"]);
    assert!(code == Some(0) && said.starts_with("2 dead letters would be sent"), "{said}");
    let (code, said, _) = dead("replay", &["--id", &first, "--yes"]);
    assert!(code != Some(0) && said.contains("0 sent, 1 refused") && said.contains("still does not fit"), "{said}");
    assert_eq!(kafka.read(&orders).len(), 1, "what still does not fit is not sent");

    std::fs::write(millrace.dir().join("order.avsc"), WITH_COLOR).expect("a file can be written");
    let (code, said, error) = dead("replay", &["--reason", "key color", "--yes"]);
    assert!(code == Some(0) && said.starts_with("2 sent, 0 refused"), "{said}{error}");
    let records = kafka.read(&orders);
    assert_eq!(records.iter().map(Record::key_text).collect::<Vec<_>>(), ["1", "2", "4"]);
    for record in &records[1..] {
        let value = record.value.as_deref().expect("a value");
        let id = i32::from_be_bytes(value[1..5].try_into().expect("four bytes"));
        assert!(registry.schema(id).1["schema"].as_str().is_some_and(|text| text.contains("color")), "with the schema of today");
        assert!(
            record.header("millrace.replayed").is_some() && record.header("__connect.errors.exception.message").is_none(),
            "{record:?}"
        );
    }
}
