//! What messages hold and what comes of it: a folder for each case, against one broker.

mod common;

use common::{Mosquitto, Run, compile};
use millrace_mqtt::MqttSource;
use millrace_testkit::{DEADLINE, TestHost, cases};
use std::fs;
use std::time::Duration;

#[tokio::test]
async fn messages_give_the_records_that_their_cases_expect() {
    let mosquitto = Mosquitto::start().await;
    let mut client = mosquitto.client("device").await;
    for case in cases::cases(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases")) {
        let keys = fs::read_to_string(case.join("config.yaml")).unwrap();
        let name = case.file_name().unwrap().to_string_lossy();
        let compiled = compile::<MqttSource>(&format!("{keys}endpoint: '{}'\nclient_id: 'case-{name}'\n", mosquitto.endpoint()));
        let host = TestHost::of(&*compiled);
        let run = Run::with(&*compiled, host.clone()).await;
        let input = fs::read_to_string(case.join("input.txt")).unwrap();
        for line in input.lines() {
            let (topic, payload) = line.split_once(' ').unwrap();
            client.publish(topic, payload.as_bytes(), 1, false).await;
        }
        let count = cases::expected(&case).len() as u64;
        if cases::is_writing() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        } else {
            let come = tokio::time::timeout(DEADLINE, host.until("the records", |host| host.count() >= count)).await;
            assert!(come.is_ok(), "{}", case.display());
        }
        run.stop().await;
        let lines: Vec<_> = host.received().iter().map(|record| cases::line(record, "")).collect();
        cases::compare(&case, &lines);
    }
}
