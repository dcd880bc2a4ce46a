//! What the generator promises beyond the suite.

use millrace_contract::{CommandValue, Compiled, Failure, Guarantee, Outcome};
use millrace_generator::GeneratorPlugin;
use millrace_schemas::Origin;
use millrace_testkit::{Owned, TestHost, soon, yaml};
use std::collections::BTreeMap;

fn compile(yaml: &str) -> Box<dyn Compiled> {
    yaml::compile::<GeneratorPlugin>(yaml, &yaml::context("load", &[])).unwrap()
}

fn refused(yaml: &str) -> String {
    yaml::compile::<GeneratorPlugin>(yaml, &yaml::context("load", &[])).err().expect("this must not compile")
}

async fn run(compiled: &dyn Compiled, host: &TestHost) -> Result<(), Failure> {
    soon("the session ends", compiled.source().unwrap().session(host.io())).await
}

#[tokio::test]
async fn a_finite_generator_writes_its_count_and_is_finished() {
    let compiled = compile("{tags: 3, shapes: [counter], count: 10000}");
    let host = TestHost::of(&*compiled);
    assert_eq!(run(&*compiled, &host).await, Err(Failure::Stopped));
    let mut per_tag: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for sample in host.samples() {
        per_tag.entry(sample.tag).or_default().push(sample.value.number().unwrap());
    }
    assert_eq!(per_tag.keys().collect::<Vec<_>>(), ["at/load/counter-0", "at/load/counter-1", "at/load/counter-2"]);
    for (tag, numbers) in per_tag {
        assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{tag} has a gap or a repeat");
    }
    assert_eq!(host.count(), 10_000);
    assert_eq!(run(&*compiled, &host).await, Err(Failure::Stopped));
    assert_eq!(host.count(), 10_000, "finished stays finished");
}

#[tokio::test]
async fn a_disconnect_on_purpose_loses_and_repeats_nothing() {
    let compiled = compile("{tags: 1, rate: 20000/s, shapes: [counter], count: 4000, faults: {disconnect_every: 30ms}}");
    let host = TestHost::of(&*compiled);
    let mut source = compiled.source().unwrap();
    let mut hung_up = 0;
    loop {
        match soon("the session ends", source.session(host.io())).await {
            Err(Failure::Reconnect(_)) => hung_up += 1,
            Err(Failure::Stopped) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(hung_up > 1);
    assert!(host.samples().iter().map(|s| s.value.number().unwrap()).eq(0..4000));
}

#[tokio::test]
async fn a_setpoint_is_set_echoed_and_kept_over_a_restart() {
    let compiled = compile("{tags: 1, rate: 1/s, setpoint: true}");
    let host = TestHost::of(&*compiled);
    let mut source = compiled.source().unwrap();
    let io = host.io();
    let session = tokio::spawn(async move { (source.session(io).await, source) });
    let is_setpoint = |sample: &millrace_testkit::Sample| sample.tag == "at/load/setpoint";
    host.until("the setpoint's initial value", |host| host.samples().iter().any(is_setpoint)).await;

    let outcome = host.command("at/load/setpoint", CommandValue::Double(72.5));
    assert_eq!(soon("the answer", outcome).await.unwrap(), Outcome::Done);
    let outcome = host.command("at/load/setpoint", CommandValue::Text("hot".into()));
    assert!(matches!(soon("the answer", outcome).await.unwrap(), Outcome::Refused(why) if why.contains("takes a number")));
    let outcome = host.command("at/load/sine-0", CommandValue::Double(1.0));
    assert!(matches!(soon("the answer", outcome).await.unwrap(), Outcome::Refused(_)));
    host.stop();
    assert_eq!(soon("the session ends", session).await.unwrap().0, Ok(()));

    host.restart();
    let before = host.samples().len();
    let mut source = compiled.source().unwrap();
    let io = host.io();
    tokio::spawn(async move { source.session(io).await });
    host.until("the setpoint after the restart", |host| host.samples()[before..].iter().any(is_setpoint)).await;
    let echoes: Vec<_> = host.samples().into_iter().filter(is_setpoint).map(|s| (s.value, s.origin)).collect();
    let initial = |x| (Owned::Double(x), Origin::Initial);
    assert_eq!(echoes, [initial(0.0), (Owned::Double(72.5), Origin::Change), initial(72.5)]);
}

#[tokio::test]
async fn documents_are_written_where_they_are_asked_for() {
    let compiled = compile("{tags: 2, count: 5, documents: {size: 120}}");
    let host = TestHost::of(&*compiled);
    assert_eq!(run(&*compiled, &host).await, Err(Failure::Stopped));
    let documents = host.documents();
    assert_eq!(documents.len(), 5);
    assert!(documents.iter().all(|d| d.topic == "telemetry" && d.text().len() == 120));
    assert_eq!(
        documents.iter().map(|d| String::from_utf8_lossy(&d.key).into_owned()).collect::<Vec<_>>(),
        ["key-0", "key-1", "key-0", "key-1", "key-0"]
    );
}

#[tokio::test]
async fn a_foreign_position_is_a_clear_error() {
    let compiled = compile("{}");
    let host = TestHost::of(&*compiled);
    host.io().send(host.io().batch().await, &[("next", b"here")]).await;
    let Err(Failure::Blocked(why)) = run(&*compiled, &host).await else { panic!("it must not guess") };
    assert!(why.contains("`here`, no number"), "{why}");
}

#[test]
fn the_model_and_the_plan_say_what_will_come() {
    let compiled = compile("{tags: 1000, rate: 10000/s, shapes: [sine, counter, random], setpoint: true, count: 7}");
    let model = compiled.model();
    assert_eq!(model.tags.len(), 1001);
    assert_eq!((model.tags[1].path.as_str(), model.tags[1].kind.as_deref()), ("at/load/counter-1", Some("u64")));
    assert_eq!(model.tags[1000].options.writable, Some(true));
    assert_eq!(compiled.plan().rate, Some(10_000.0));
    assert_eq!(compiled.plan().lines, ["1000 tags: sine, counter, random", "ends after 7 values", "takes commands on `setpoint`"]);
    assert!(matches!(compiled.guarantee(), Guarantee::ExactlyOnce(_)));
}

#[test]
fn wrong_settings_are_problems_all_at_once() {
    let problems = refused("{tags: 0, rate: 0/s, shapes: [], period: 0s}");
    for part in ["`tags` is 0", "`rate` must be more than 0", "`shapes` is empty", "`period` must be more than 0"] {
        assert!(problems.contains(part), "{part} is missing in:\n{problems}");
    }
    assert!(refused("{shapes: [triangle]}").contains("triangle"));
    assert!(refused("{tag: 5}").contains("tag"));
}
