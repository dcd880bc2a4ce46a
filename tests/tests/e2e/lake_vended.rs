//! An Iceberg table whose catalog vends the credentials for its store: Apache's own fixture, over a store that takes no others.

use crate::lake::{kafka, pair, send, topic};
use millrace_tests::*;
use serde_json::{Value, json};
use std::time::Duration;

const LAKE: &str = "
site: acme/detroit
topics:
  $topic: {format: json, schema: telemetry}
sinks:
  history: {type: lake, format: iceberg, topics: [$topic], group: g-$topic, table: plant.vended, commit_every: 200ms, catalog: {uri: '$uri'}, store: {$store}}
";

/// So long the credentials live, in seconds.
const LIFE: u64 = 12;

fn holds(catalog: &mut Script, count: i64) {
    within(Duration::from_secs(120), &format!("the table holds {count} rows"), || {
        let found = catalog.order(json!({"count": "plant.vended"}));
        (pair(&found["pyiceberg"]) == (count, count)).then_some(())
    });
}

#[test]
fn a_table_is_written_and_asked_with_the_credentials_that_its_catalog_vends_and_renews() {
    let folder = scratch("vending");
    let mut command = peers::python(peers::iceberg_with_moto());
    command.arg(peers::scripts().join("vending.py")).arg(peers::iceberg_vending()).arg(folder.path()).args(["plant", &LIFE.to_string()]);
    let mut catalog = Script::start("the catalog", command, "ready");
    let said = catalog.said().into_iter().find(|line| line["ready"] == true).expect("it says where it is");
    let uri = said["uri"].as_str().expect("an address");
    let topic = topic(1);
    let factory = |store: &str| Factory::on(kafka()).with("topic", &topic).with("uri", uri).with("store", store);
    let mut millrace = factory("").start(LAKE);
    send(&topic, 0, 500);
    holds(&mut catalog, 500);
    let used = |catalog: &mut Script| catalog.order(json!({"used": true}));
    let keys = |used: &Value| used["keys"].as_array().map_or(0, Vec::len);
    let first = used(&mut catalog);
    // What it has ends while nothing comes: the next file is put with what is renewed.
    std::thread::sleep(Duration::from_secs(LIFE + 3));
    send(&topic, 500, 500);
    holds(&mut catalog, 1_000);
    let later = used(&mut catalog);
    assert!(keys(&later) > keys(&first) && keys(&first) >= 1, "{first} {later}");
    assert_eq!(later["refused"], json!([]), "it used what had ended, or other credentials: {later}");
    let ask = ["query", "-c", "factory.yaml", "--from", "2026-11-27", "--to", "2026-11-29", "--as", "last", "--json", "body/press-1/force"];
    let output = millrace.run(&ask);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("991.5"), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!millrace.log().contains("secret-of-") && !millrace.log().contains("token-of-"), "a secret is in the log");
    millrace.stop();

    // With credentials in the file the catalog is not asked for any; this store takes only what it vends.
    let before = used(&mut catalog);
    let store = format!(
        "endpoint: '{}', region: us-east-1, access_key: mine, secret_key: '${{env:MINE}}'",
        said["store"].as_str().expect("an address")
    );
    let mut own = factory(&store).env("MINE", "hush").start(LAKE);
    send(&topic, 1_000, 10);
    let after = eventually("the store is asked with them", || {
        let used = used(&mut catalog);
        used["refused"].as_array().is_some_and(|refused| refused.contains(&json!("mine"))).then_some(used)
    });
    assert_eq!(before["vended"], after["vended"], "{after}");
    own.kill9();
}
