//! Changed files, taken while it runs: only what changed is touched, and what runs can be gone back to.

use millrace_tests::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// Two sources at quality of service 0: what a source misses while it reconnects, nobody sends again.
const TWO: &str = "
topics: {$topic: {format: json}}
sources:
  steady: {type: mqtt, endpoint: $broker, client_id: steady-$id, subscribe: [{filter: 'steady/+', payload: json, topic: $topic, key: '{1}', qos: 0}]}
  moved: {type: mqtt, endpoint: $broker, client_id: moved-$id, subscribe: [{filter: 'moved/+', payload: json, topic: $topic, key: '{1}', qos: 0}$more]}
$sources
sinks:
  archive: {type: file, topics: [$topic], path: '$dir/archive.ndjson'}
$sinks";

/// Publishes counters until it is told to stop; returns how many.
fn publishes(broker: &Mosquitto, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u32> {
    let mut publisher = broker.client();
    std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(SeqCst) {
            for source in ["steady", "moved"] {
                publisher.publish(&format!("{source}/{source}"), format!("{{\"n\": {count}}}").as_bytes(), 0, false);
            }
            publisher.send().expect("the broker takes it");
            count += 1;
            std::thread::sleep(Duration::from_millis(2));
        }
        // Quality 0 has no answer: what is behind it was taken before it.
        publisher.publish("steady/end", b"{}", 1, false);
        publisher.publish("moved/end", b"{}", 1, false);
        publisher.finish();
        count
    })
}

fn reload(millrace: &Millrace, args: &[&str]) -> (Option<i32>, String) {
    let output = millrace.run(&[&["reload", "-c", "factory.yaml"], args].concat());
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

fn connects(broker: &Mosquitto, client: &str) -> usize {
    broker.log().lines().filter(|line| line.contains("New client connected") && line.contains(&format!(" as {client}"))).count()
}

#[test]
fn a_reload_touches_what_changed_and_a_source_beside_it_misses_nothing_at_quality_of_service_0() {
    for exactly_once in [false, true] {
        let (kafka, broker, topic) = (Kafka::shared(), Mosquitto::start(), Kafka::shared().topic("reload"));
        let other = kafka.topic("other");
        let factory = if exactly_once { Factory::on(kafka).exactly_once() } else { Factory::on(kafka) };
        let id = fastrand::u32(..).to_string();
        let factory = factory.with("broker", broker.url()).with("topic", &topic).with("id", &id);
        let text = |more: &str, sources: &str, sinks: &str| {
            TWO.replace("$more", more).replace("$sources", sources).replace("$sinks", sinks).replace("$other", &other)
        };
        let mut millrace = factory.start(&text("", "", ""));
        millrace.wait_running("steady");
        millrace.wait_running("moved");
        let pid = millrace.process().pid();
        let stop = Arc::new(AtomicBool::new(false));
        let publisher = publishes(&broker, stop.clone());
        millrace.wait_ledger("steady", "it reads", |ledger| ledger.received > 20);

        // A mistake changes nothing and names its line.
        millrace.write(&text("", "  broken: {type: mqtt, endpoint: $broker, subscribe: [{filtre: x}]}", ""));
        let (code, said) = reload(&millrace, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("filtre") && said.contains("factory.yaml:") && said.contains("what runs goes on"), "{said}");

        // One source changes, one is new with a topic of its own, a sink is new.
        let more = ", {filter: 'also/+', payload: json, topic: $topic, key: '{1}', qos: 0}";
        let counted =
            "  counted: {type: generator, at: counted, topic: $other, tags: 2, rate: 100/s, shapes: [counter], count: 200, report: all}";
        let sinks = "  copy: {type: file, topics: [$other], path: '$dir/copy.ndjson'}\n";
        let changed = text(more, counted, sinks).replace("topics: {", &format!("topics: {{{other}: {{format: json, partitions: 2}}, "));
        millrace.write(&changed);
        let (code, said) = reload(&millrace, &["--dry-run"]);
        assert_eq!(code, Some(0), "{said}");
        for line in ["source moved changes", "source counted is new", "sink copy is new", &format!("topic {other} is new"), "would go on"] {
            assert!(said.contains(line), "{line}: {said}");
        }
        assert!(!said.contains("steady"), "{said}");
        assert_eq!(connects(&broker, &format!("moved-{id}")), 1, "a dry run touches nothing");
        let (code, said) = reload(&millrace, &[]);
        assert!(code == Some(0) && said.contains("only these"), "{said}");
        millrace.wait_running("moved");
        broker.publish("also/new", b"{}", 1, false);
        kafka.follow(&topic).until("the new filter reads", |records| records.iter().any(|record| record.key_text() == "new"));
        let finished = millrace.drained_when("counted", |ledger| ledger.received >= 200);
        assert_eq!(finished.produced, 200);
        eventually("the new sink wrote them", || (millrace.connector("copy")["counts"]["written"] == 200).then_some(()));

        // SIGHUP: the new source goes again; what it read stays where it is.
        millrace.write(&text(more, "", ""));
        millrace.process().hangup();
        eventually("the source that left is not listed any more", || millrace.status()["sources"].get("counted").is_none().then_some(()));
        assert!(millrace.status()["sinks"].get("copy").is_none(), "its sink went before it");

        stop.store(true, SeqCst);
        let count = publisher.join().expect("the publisher ends");
        let ledger = millrace.drained_when("steady", |ledger| ledger.received > u64::from(count));
        assert_eq!(ledger.received, u64::from(count) + 1);
        // And what the filter that came with the reload read.
        millrace.drained_when("moved", |ledger| ledger.received > u64::from(count) + 1);
        let records = kafka.read(&topic);
        let numbers =
            |of: &str| -> Vec<u64> { records.iter().filter(|r| r.key_text() == of).map(|r| r.json()["n"].as_u64().unwrap()).collect() };
        for source in ["steady", "moved"] {
            assert_eq!(numbers(source), (0..u64::from(count)).collect::<Vec<_>>(), "{source} misses nothing, nor has it anything twice");
        }
        assert_eq!(connects(&broker, &format!("steady-{id}")), 1, "the broker saw one connection of it");
        assert_eq!(connects(&broker, &format!("moved-{id}")), 1, "and of the source that changed, too: only its subscriptions did");
        assert_eq!(millrace.connector("steady")["sessions"], 1);
        assert_eq!(millrace.process().pid(), pid);
        let seqs: Vec<(String, i64)> = records.iter().map(Record::identity).collect();
        assert_eq!(seqs.iter().collect::<BTreeSet<_>>().len(), seqs.len(), "an identity was used twice");

        // The source that left comes back where it left off: its log and its position were kept.
        millrace.write(&changed.replace("count: 200", "count: 300"));
        let (code, said) = reload(&millrace, &[]);
        assert!(code == Some(0), "{said}");
        millrace.drained_when("counted", |ledger| ledger.received >= 300);
        let values = |tag: &str| -> Vec<u64> {
            let samples = kafka.read(&other).into_iter().map(|r| r.json());
            samples.filter(|s| s["tag"].as_str().unwrap().ends_with(tag)).map(|s| s["value"].as_u64().unwrap()).collect()
        };
        assert_eq!(values("counter-0"), (0..150).collect::<Vec<_>>());
        assert_eq!(values("counter-1"), (0..150).collect::<Vec<_>>());

        // Both survive a kill: what was taken live is what runs.
        millrace.restart();
        millrace.wait_running("steady");
        millrace.stop();
    }
}

#[test]
fn what_everything_stands_on_starts_anew_in_the_same_process_and_history_goes_back() {
    let (kafka, topic) = (Kafka::shared(), Kafka::shared().topic("history"));
    let text = |rate: &str, log: &str| {
        format!(
            "{log}topics: {{$topic: {{format: json}}}}\nsources:\n  load: {{type: generator, at: load, topic: $topic, tags: 1, rate: {rate}, shapes: [counter]}}\n"
        )
    };
    let factory = Factory::on(kafka).with("topic", &topic);
    let mut millrace = factory.start(&text("10/s", ""));
    millrace.wait_running("load");
    let pid = millrace.process().pid();

    millrace.write(&text("20/s", ""));
    let (code, said) = reload(&millrace, &["--json"]);
    let answer: serde_json::Value = serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((code, &answer["taken"], &answer["changes"][0]), (Some(0), &"live".into(), &"source load changes".into()));

    millrace.write(&text("20/s", "log: {size: 1GiB}\n"));
    let started = millrace.status()["started"].clone();
    let (code, said) = reload(&millrace, &[]);
    assert!(code == Some(0) && said.contains("everything starts anew: log changes"), "{said}");
    eventually("it runs again", || {
        let (_, body) = http::get(millrace.http_port(), "/status").ok()?;
        let status: serde_json::Value = serde_json::from_str(&body).ok()?;
        (status["started"] != started && status["sources"]["load"]["status"] == "Running").then_some(())
    });
    assert_eq!(millrace.process().pid(), pid, "a supervisor sees no end");
    assert_eq!(millrace.connector("load")["log_limit"], 1u64 << 30);

    let run = |args: &[&str]| {
        let output = millrace.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let history: serde_json::Value = serde_json::from_str(&run(&["config", "history", "-c", "factory.yaml", "--json"])).unwrap();
    assert_eq!(history.as_array().map(Vec::len), Some(3), "{history}");
    assert_eq!(history[1]["changes"][0], "source load changes");
    let diff = run(&["config", "diff", "1", "2", "-c", "factory.yaml"]);
    assert!(diff.contains("-     rate: 10/s\n+     rate: 20/s") && !diff.contains("log"), "{diff}");

    let said = run(&["config", "rollback", "1", "-c", "factory.yaml"]);
    assert!(said.contains("factory.yaml is written as it was in 1") && said.contains("log changes"), "{said}");
    let now = std::fs::read_to_string(millrace.dir().join("factory.yaml")).unwrap();
    assert!(now.contains("rate: 10/s") && !now.contains("1GiB"), "{now}");
    assert!(std::fs::read_to_string(millrace.dir().join("factory.yaml.before-rollback")).unwrap().contains("1GiB"));
    eventually("it runs as it did first", || {
        let (_, body) = http::get(millrace.http_port(), "/status").ok()?;
        let status: serde_json::Value = serde_json::from_str(&body).ok()?;
        (status["sources"]["load"]["log_limit"] == 4u64 << 30).then_some(())
    });
}

#[test]
fn a_watched_file_is_taken_by_itself_and_two_reloads_at_once_are_one() {
    let (kafka, topic) = (Kafka::shared(), Kafka::shared().topic("watch"));
    let text = |tags: u32| {
        format!(
            "topics: {{$topic: {{format: json}}}}\nsources:\n  load: {{type: generator, at: load, topic: $topic, tags: {tags}, rate: 10/s, shapes: [counter]}}\n"
        )
    };
    let mut millrace = Factory::on(kafka).with("topic", &topic).prepare(&text(1));
    millrace.launch_with(&["--watch"]);
    millrace.wait_alive();
    millrace.wait_running("load");
    let tags = |millrace: &Millrace| millrace.connector("load")["tags"].as_u64();
    millrace.write("sources: {load: {type: nothing}}\n");
    eventually("the mistake is told", || millrace.log().contains("there is no source of type `nothing`").then_some(()));
    assert_eq!(tags(&millrace), Some(1), "what runs goes on");
    millrace.write(&text(3));
    eventually("the file is taken", || (tags(&millrace) == Some(3)).then_some(()));

    millrace.write(&text(5));
    let port = millrace.http_port();
    let asked: Vec<_> = (0..4).map(|_| std::thread::spawn(move || http::request(port, "POST", "/reload", "").unwrap())).collect();
    let answers: Vec<(u16, String)> = asked.into_iter().map(|one| one.join().unwrap()).collect();
    assert!(answers.iter().all(|(code, body)| *code == 200 || (*code == 409 && body.contains("under way"))), "{answers:?}");
    eventually("one of them took it, or the watch", || (tags(&millrace) == Some(5)).then_some(()));
    millrace.stop();
}
