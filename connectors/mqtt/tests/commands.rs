//! Commands against a real broker: what a subscriber sees of them, and what is answered.

mod common;

use common::{Client, Mosquitto, Run, context};
use millrace_contract::{CommandValue, Compiled, Context, Outcome};
use millrace_mqtt::MqttSource;
use millrace_testkit::{TestHost, soon, yaml};
use std::time::Duration;

fn compiled(mosquitto: &Mosquitto, keys: &str, writes_allowed: bool) -> Box<dyn Compiled> {
    let yaml = format!("{{endpoint: '{}', {keys}}}", mosquitto.endpoint());
    yaml::compile::<MqttSource>(&yaml, &Context { writes_allowed, ..context() }).unwrap_or_else(|problems| panic!("{keys}\n{problems}"))
}

async fn run(mosquitto: &Mosquitto, keys: &str, writes_allowed: bool) -> Run {
    let compiled = compiled(mosquitto, keys, writes_allowed);
    Run::with(&*compiled, TestHost::of(&*compiled)).await
}

async fn outcome(run: &Run, tag: &str, value: CommandValue) -> Outcome {
    soon("the command is answered", run.host.command(tag, value)).await.expect("an answer")
}

/// A device that listens; what comes last in the test shows that nothing else came.
async fn device(mosquitto: &Mosquitto) -> Client {
    let mut device = mosquitto.client("device").await;
    device.subscribe("#").await;
    device
}

const HEATERS: &str = "subscribe: [{filter: 'heat/+/state', payload: number, tag: '{1}/setpoint', topic: t,
    command: {topic: 'heat/{1}/set'}}]";

#[tokio::test]
async fn a_command_is_published_once_where_the_device_listens_and_answered() {
    for version in [4, 5] {
        let mosquitto = Mosquitto::start().await;
        let run = run(&mosquitto, &format!("version: {version}, {HEATERS}"), true).await;
        let (mut device, mut sender) = (device(&mosquitto).await, mosquitto.client("sender").await);
        sender.publish("heat/7/state", b"20", 1, false).await;
        assert_eq!(device.next().await.topic, "heat/7/state");
        run.host.until("the tag is known", |host| host.samples().len() == 1).await;
        assert_eq!(outcome(&run, "7/setpoint", CommandValue::Double(21.5)).await, Outcome::Done);
        let got = device.next().await;
        assert_eq!((got.topic.as_str(), got.payload.as_slice(), got.retain), ("heat/7/set", &b"21.5"[..], false));
        let refused = outcome(&run, "7/setpoint", CommandValue::Text("warm".into())).await;
        assert!(matches!(&refused, Outcome::Refused(why) if why.contains("`warm` is not a number")), "{refused:?}");
        sender.publish("the/end", b"", 0, false).await;
        assert_eq!(device.next().await.topic, "the/end", "nothing else was published");
        run.stop().await;
    }
}

#[tokio::test]
async fn a_command_that_no_device_takes_failed() {
    let mosquitto = Mosquitto::start().await;
    let run = run(&mosquitto, HEATERS, true).await;
    mosquitto.client("device").await.publish("heat/7/state", b"20", 1, false).await;
    run.host.until("the tag is known", |host| host.samples().len() == 1).await;
    let failed = outcome(&run, "7/setpoint", CommandValue::Int(1)).await;
    assert!(matches!(&failed, Outcome::Failed(why) if why.contains("nobody is subscribed to `heat/7/set`")), "{failed:?}");
    run.stop().await;
}

#[tokio::test]
async fn a_command_to_a_named_member_is_done_when_the_device_reports_it() {
    let mosquitto = Mosquitto::start().await;
    let keys = "subscribe: [{filter: 'lamp', samples: {level: /level, on: {at: /on, as: boolean}}, topic: t,
        command: {topic: '{topic}/set', json: {'{name}': '{value}'}, qos: 0, confirm: 20s}}]";
    let run = run(&mosquitto, keys, true).await;
    let mut device = device(&mosquitto).await;
    // The filter has no wildcard: its tags can be commanded before the first message.
    let mut level = run.host.command("level", CommandValue::Int(40));
    let got = device.next().await;
    assert_eq!((got.topic.as_str(), got.payload.as_slice()), ("lamp/set", &br#"{"level":40}"#[..]));
    device.publish("lamp", br#"{"level": 39, "on": true}"#, 1, false).await;
    run.host.until("the other value came", |host| host.samples().len() == 2).await;
    assert!(level.try_recv().is_err(), "not yet as commanded");
    device.publish("lamp", br#"{"level": 40, "on": true}"#, 1, false).await;
    assert_eq!(soon("it is confirmed", level).await, Ok(Outcome::Done));
    let refused = outcome(&run, "on", CommandValue::Int(3)).await;
    assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
    run.stop().await;
}

#[tokio::test]
async fn a_command_without_the_report_it_waits_for_is_unknown_and_so_is_one_that_a_stop_interrupts() {
    let mosquitto = Mosquitto::start().await;
    let keys =
        |confirm| format!("subscribe: [{{filter: 'x', payload: text, tag: x, topic: t, command: {{topic: y, confirm: {confirm}}}}}]");
    let mut device = device(&mosquitto).await;
    let first = run(&mosquitto, &keys("50ms"), true).await;
    assert_eq!(outcome(&first, "x", CommandValue::Text("a".into())).await, Outcome::Unknown);
    assert_eq!(device.next().await.payload, b"a");
    first.stop().await;
    let second = run(&mosquitto, &keys("1h"), true).await;
    let waiting = second.host.command("x", CommandValue::Text("b".into()));
    assert_eq!(device.next().await.payload, b"b");
    second.stop().await;
    assert_eq!(soon("the stop answers", waiting).await, Ok(Outcome::Unknown));
}

#[tokio::test]
async fn nothing_is_published_while_writes_are_forbidden() {
    let mosquitto = Mosquitto::start().await;
    let run = run(&mosquitto, HEATERS, false).await;
    let (mut device, mut sender) = (device(&mosquitto).await, mosquitto.client("sender").await);
    sender.publish("heat/7/state", b"20", 1, false).await;
    assert_eq!(device.next().await.topic, "heat/7/state");
    run.host.until("the tag is known", |host| host.samples().len() == 1).await;
    let refused = outcome(&run, "7/setpoint", CommandValue::Int(21)).await;
    assert!(matches!(&refused, Outcome::Refused(why) if why.contains("writes are forbidden")), "{refused:?}");
    run.stop().await;
    sender.publish("the/end", b"", 0, false).await;
    assert_eq!(device.next().await.topic, "the/end", "a subscriber to everything saw no command");
}

#[tokio::test]
async fn a_broker_that_never_answers_leaves_a_command_unknown_when_the_connection_closes() {
    // CONNACK, SUBACK, and then silence: the PUBLISH has no PUBACK.
    let answers = vec![(1, vec![0x20, 3, 0, 0, 0]), (8, vec![0x90, 4, 0, 1, 0, 1])];
    let endpoint = common::scripted(answers).await;
    let yaml = format!("{{endpoint: '{endpoint}', subscribe: [{{filter: x, payload: number, tag: x, topic: t, command: {{topic: y}}}}]}}");
    let compiled = yaml::compile::<MqttSource>(&yaml, &Context { writes_allowed: true, ..context() }).unwrap();
    let run = Run::with(&*compiled, TestHost::of(&*compiled)).await;
    let mut waiting = run.host.command("x", CommandValue::Int(1));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(waiting.try_recv().is_err(), "nobody has answered");
    run.host.stop();
    assert_eq!(soon("the end answers", waiting).await, Ok(Outcome::Unknown));
}

/// NBIRTH of one metric `speed`, an Int16.
fn birth() -> Vec<u8> {
    use millrace_mqtt::sparkplug::write::{bytes, number};
    let now = 1_700_000_000_000;
    let mut speed = Vec::new();
    bytes(&mut speed, 1, b"speed");
    number(&mut speed, 3, now);
    number(&mut speed, 4, 2);
    number(&mut speed, 10, 5);
    let mut payload = Vec::new();
    number(&mut payload, 1, now);
    bytes(&mut payload, 2, &speed);
    number(&mut payload, 3, 0);
    payload
}

#[tokio::test]
async fn a_sparkplug_command_goes_to_a_node_that_lives_and_from_a_host_that_may() {
    let own = "subscribe: [{filter: 'spBv1.0/g/#', payload: sparkplug, topic: t}]";
    let passive = "host: {passive: true}, subscribe: [{filter: 'spBv1.0/g/#', payload: sparkplug, topic: t}]";
    for (keys, writes_allowed, why) in [(own, true, ""), (own, false, "writes are forbidden"), (passive, true, "this host is passive")] {
        let mosquitto = Mosquitto::start().await;
        let run = run(&mosquitto, keys, writes_allowed).await;
        let mut device = mosquitto.client("device").await;
        device.subscribe("spBv1.0/g/NCMD/#").await;
        device.publish("spBv1.0/g/NBIRTH/n", &birth(), 0, false).await;
        run.host.until("the tag is known", |host| host.tag("g/n/speed").is_some()).await;
        let outcome_of = async |value| outcome(&run, "g/n/speed", value).await;
        let first = outcome_of(CommandValue::Int(-3)).await;
        if why.is_empty() {
            assert_eq!(first, Outcome::Done);
            let got = device.next().await;
            assert_eq!(got.topic, "spBv1.0/g/NCMD/n");
            // int_value (10) of an Int16 (4): two's complement of 32 bits.
            assert!(got.payload.ends_with(&[0x20, 2, 0x50, 0xFD, 0xFF, 0xFF, 0xFF, 0x0F]), "{:x?}", got.payload);
            let refused = outcome_of(CommandValue::Int(40_000)).await;
            assert!(matches!(&refused, Outcome::Refused(why) if why.contains("does not fit the device's i16")), "{refused:?}");
            device.publish("spBv1.0/g/NDEATH/n", b"", 0, false).await;
            run.host
                .until("it is dead", |host| {
                    host.samples().iter().any(|sample| sample.status.is_bad()) || host.gone().contains(&"g/n".to_owned())
                })
                .await;
            let refused = outcome_of(CommandValue::Int(1)).await;
            assert!(matches!(&refused, Outcome::Refused(why) if why.contains("g/n is offline")), "{refused:?}");
        } else {
            assert!(matches!(&first, Outcome::Refused(said) if said.contains(why)), "{first:?}");
        }
        device.publish("spBv1.0/g/NCMD/the-end", b"", 0, false).await;
        assert_eq!(device.next().await.topic, "spBv1.0/g/NCMD/the-end", "nothing else was published");
        run.stop().await;
    }
}
