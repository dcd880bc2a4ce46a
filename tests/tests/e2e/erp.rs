//! An ERP by OData: SAP's own framework, behind a gateway that fails in every way gateways do.

use millrace_tests::front::SECRET;
use millrace_tests::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often each key's newest value was read, by key.
fn orders(kafka: &Kafka, topic: &str) -> BTreeMap<String, u64> {
    let mut times = BTreeMap::new();
    for record in kafka.read(topic) {
        if let Some(value) = &record.value {
            let order: serde_json::Value = serde_json::from_slice(value).expect("is JSON");
            assert_eq!(order["material"], "000000000000004711", "leading zeros are kept: {order}");
            assert_eq!(order["quantity"].as_f64(), Some(12.5), "a decimal is a number, as a text of version 2, too: {order}");
            assert_eq!(order["components"][0]["item"], "0010", "what is expanded comes with it: {order}");
            assert_eq!(record.key_text(), order["ID"].as_str().unwrap_or_default());
            *times.entry(record.key_text()).or_default() += 1;
        }
    }
    times
}

/// How many faults each of these tests meets: `MILLRACE_FAULTS`; 500 of them take some minutes.
fn faults() -> u64 {
    std::env::var("MILLRACE_FAULTS").ok().and_then(|faults| faults.parse().ok()).unwrap_or(120)
}

/// Reads the orders of an ERP behind a gateway, with these keys of the entity set.
fn reader(kafka: &Kafka, topic: &str, front: &Front, path: &str, keys: &str) -> Millrace {
    let factory = Factory::on(kafka)
        .exactly_once()
        .with("topic", topic)
        .with("port", front.port())
        .with("login", front.login())
        .env(SECRET.0, SECRET.1);
    factory.with("path", path).with("keys", keys).start(
        "
topics: {$topic: {format: json}}
sources:
  erp:
    type: erp
    endpoint: 'http://127.0.0.1:$port$path'
    login: $login
    http: {timeout: 500ms}
    topic: $topic
    entity_sets: [{name: ProductionOrders, $keys}]
",
    )
}

/// Reads orders while they are released and the gateway fails, until it failed [`faults`] times; nothing may be missing.
fn reads_all(path: &str) {
    let faults = faults();
    let (cap, kafka) = (Cap::start(), Kafka::shared());
    let front = Front::of(cap.port());
    let topic = kafka.topic("orders");
    cap.release(0..1_000);
    front.fail(40);
    let mut millrace =
        reader(kafka, &topic, &front, path, "every: 100ms, watermark: modifiedAt, overlap: 30s, expand: [components], page: 20");
    let (mut released, mut kills) = (1_000, 0);
    // A fault takes about half a second; ten times that is late.
    within(Duration::from_secs(5 * faults), "the gateway fails often enough", || {
        cap.release(released..released + 20);
        released += 20;
        if front.faults() > (kills + 1) * faults / 3 {
            kills += 1;
            millrace.restart();
        }
        std::thread::sleep(Duration::from_millis(200));
        (front.faults() >= faults).then_some(())
    });
    eprintln!("{released} orders, {} faults: {:?}", front.faults(), front.met());
    front.fail(0);
    let numbers: Vec<String> = (0..released).map(|number| format!("{number:012}")).collect();
    let times = within(Duration::from_secs(300), "every order is in Kafka", || {
        let times = orders(kafka, &topic);
        numbers.iter().all(|number| times.contains_key(number)).then_some(times)
    });
    let again: u64 = times.values().map(|times| times - 1).sum();
    eprintln!("{again} came again");
    assert_eq!(times.len(), numbers.len(), "nothing is invented");
    let ledger = millrace.drained("erp");
    assert_eq!(ledger.dead_at_intake, 0, "{ledger:?}");
    millrace.stop();
}

#[test]
fn an_erp_with_odata_4_is_read_whole_through_the_faults_of_its_gateway() {
    reads_all("/odata/v4/plant");
}

#[test]
fn an_erp_with_odata_2_is_read_whole_through_the_faults_of_its_gateway() {
    reads_all("/odata/v2/plant");
}

/// Deletes orders while the gateway fails and the runtime is killed: those have tombstones in the end, and no other one has.
fn tells_what_is_gone(path: &str) {
    let (cap, kafka) = (Cap::start(), Kafka::shared());
    let front = Front::of(cap.port());
    let topic = kafka.topic("orders");
    cap.release(0..400);
    let mut millrace =
        reader(kafka, &topic, &front, path, "every: 200ms, watermark: modifiedAt, overlap: 30s, page: 50, reconcile_every: 500ms");
    millrace.wait_ledger("erp", "the first load", |ledger| ledger.received >= 400);
    front.fail(20);
    // Every seventh goes, a few at a time; others come.
    let gone: Vec<u64> = (0..400).filter(|number| number % 7 == 3).collect();
    for (part, numbers) in gone.chunks(20).enumerate() {
        numbers.iter().for_each(|number| cap.delete(*number));
        cap.release(400 + part as u64 * 10..410 + part as u64 * 10);
        millrace.restart();
        std::thread::sleep(Duration::from_secs(1));
    }
    front.fail(0);
    let released = 400 + gone.chunks(20).count() as u64 * 10;
    let there: BTreeMap<String, bool> = (0..released).map(|number| (format!("{number:012}"), !gone.contains(&number))).collect();
    let last = within(Duration::from_secs(120), "the topic is as the ERP is", || {
        let last: BTreeMap<String, bool> = kafka.read(&topic).iter().map(|record| (record.key_text(), record.value.is_some())).collect();
        (last == there).then_some(last)
    });
    eprintln!("{} faults: {:?}", front.faults(), front.met());
    let ledger = millrace.drained("erp");
    assert_eq!(ledger.dead_at_intake, 0, "{ledger:?}");
    millrace.stop();
    let told: Vec<String> = kafka.read(&topic).iter().filter(|record| record.value.is_none()).map(Record::key_text).collect();
    let wanted: Vec<&String> = last.iter().filter(|(_, is_there)| !**is_there).map(|(key, _)| key).collect();
    let mut once = told.clone();
    once.sort();
    assert_eq!(once.iter().collect::<Vec<_>>(), wanted, "each has its tombstone once, and what is there has none");
    assert!(front.faults() > 0, "the gateway failed");
}

#[test]
fn what_is_deleted_in_an_erp_without_delta_links_has_its_tombstone_by_odata_4_and_nothing_else_has() {
    tells_what_is_gone("/odata/v4/plant");
}

#[test]
fn what_is_deleted_in_an_erp_without_delta_links_has_its_tombstone_by_odata_2_and_nothing_else_has() {
    tells_what_is_gone("/odata/v2/plant");
}

/// Posts confirmations while the gateway fails; each must be in the ERP once.
fn posts_once(path: &str, batch: u32) {
    let faults = faults();
    let (cap, kafka) = (Cap::start(), Kafka::shared());
    let front = Front::of(cap.port());
    let (topic, results) = (kafka.topic("confirmations"), kafka.topic("results"));
    front.fail(40);
    let factory = Factory::on(kafka)
        .with("topic", &topic)
        .with("results", &results)
        .with("port", front.port())
        .with("login", front.login())
        .env(SECRET.0, SECRET.1);
    let mut millrace = factory.with("path", path).with("batch", batch).start(
        "
topics: {$topic: {format: json}, $results: {format: json}}
sinks:
  erp:
    type: erp
    topics: [$topic]
    endpoint: 'http://127.0.0.1:$port$path'
    login: $login
    http: {timeout: 500ms}
    entity_set: Confirmations
    lookup: externalId
    batch: $batch
    retry_after: 50ms
    reply: $results
",
    );
    let (mut posted, mut kills) = (0_u64, 0);
    within(Duration::from_secs(5 * faults), "the gateway fails often enough", || {
        let records: Vec<(String, String)> = (posted..posted + 10)
            .map(|number| {
                let quantity = if number % 10 == 7 { "-1" } else { "1.5" };
                (
                    format!("part-{number}"),
                    json!({"externalId": format!("part-{number}"), "order": "1", "serial": "s", "quantity": quantity}).to_string(),
                )
            })
            .collect();
        kafka.produce(&topic, records.iter().map(|(key, value)| (key.as_str(), value.as_bytes())));
        posted += 10;
        if front.faults() > (kills + 1) * faults / 3 {
            kills += 1;
            millrace.restart();
        }
        std::thread::sleep(Duration::from_millis(100));
        (front.faults() >= faults).then_some(())
    });
    eprintln!("{posted} confirmations, {} faults: {:?}", front.faults(), front.met());
    front.fail(0);
    let wanted: Vec<String> = {
        let mut all: Vec<String> = (0..posted).filter(|number| number % 10 != 7).map(|number| format!("part-{number}")).collect();
        all.sort();
        all
    };
    within(Duration::from_secs(300), "every confirmation is posted", || (cap.confirmed().len() >= wanted.len()).then_some(()));
    assert_eq!(cap.confirmed(), wanted, "each is there once, and none that the ERP refused");
    eventually("what the ERP refused is a dead letter with its words", || {
        let refused = kafka.read(&results).iter().filter(|one| one.text().contains("QUANTITY_MUST_BE_POSITIVE")).count() as u64;
        (refused >= posted / 10).then_some(())
    });
    millrace.stop();
}

#[test]
fn confirmations_reach_an_erp_with_odata_4_once_each_through_the_faults_of_its_gateway() {
    posts_once("/odata/v4/plant", 1);
}

#[test]
fn batches_of_confirmations_reach_an_erp_with_odata_2_once_each_through_the_faults_of_its_gateway() {
    posts_once("/odata/v2/plant", 5);
}
