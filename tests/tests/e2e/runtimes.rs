//! Two runtimes with one file: each source is read by one of them, by the other when that one dies, and never twice.

use crate::load::order_holds;
use millrace_tests::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Generators count 0, 1, 2.. per tag, from the position that is kept with the data: a gap or a repeat is seen.
const FILE: &str = "
site: $site
runtime: {id: $id, group: g, host: host-$id, session: 6s}
topics: {$topic: {format: json, partitions: 3}}
sources:
  one: {type: generator, at: one, topic: $topic, tags: 2, rate: 100/s, shapes: [counter], report: all}
  two: {type: generator, at: two, topic: $topic, tags: 2, rate: 100/s, shapes: [counter], report: all}
  three: {type: generator, at: three, topic: $topic, tags: 2, rate: 100/s, shapes: [counter], report: all}
  four: {type: generator, at: four, topic: $topic, tags: 2, rate: 100/s, shapes: [counter], report: all}
";
const SOURCES: [&str; 4] = ["four", "one", "three", "two"];
const SESSION: Duration = Duration::from_secs(6);

struct Pair {
    runtimes: Vec<Millrace>,
    topic: String,
}

impl Pair {
    /// Two runtimes `a` and `b`, not started yet.
    fn new(kafka: &Kafka, delivery: fn(Factory) -> Factory, file: &str) -> Self {
        let topic = kafka.topic("shared");
        let mut site = None;
        let runtimes = ["a", "b"].map(|id| {
            let factory = delivery(Factory::on(kafka));
            let site = site.get_or_insert_with(|| factory.site().to_owned()).clone();
            factory.with("site", site).with("id", id).with("topic", &topic).prepare(file)
        });
        Self { runtimes: runtimes.into(), topic }
    }

    fn start(&mut self) {
        for millrace in &mut self.runtimes {
            millrace.launch();
        }
        self.runtimes.iter_mut().for_each(Millrace::wait_alive);
    }

    fn reads(&self, at: usize) -> BTreeSet<String> {
        reads(&self.runtimes[at])
    }

    /// Waits until one runtime runs all; returns how long that took.
    fn wait_all_at(&self, at: usize) -> Duration {
        let since = Instant::now();
        eventually("one runtime reads everything", || (self.reads(at).len() == SOURCES.len()).then_some(()));
        since.elapsed()
    }

    /// Waits until both read two sources each, and together all.
    fn wait_shared(&self) {
        eventually("the runtimes have shared the sources out", || {
            let (a, b) = (self.reads(0), self.reads(1));
            (a.len() == 2 && b.len() == 2 && a.is_disjoint(&b)).then_some(())
        });
    }

    /// Waits until more of each source is in Kafka.
    fn wait_progress(&self, kafka: &Kafka) {
        let mut follow = kafka.follow(&self.topic);
        let before = by_tag(&kafka.read(&self.topic));
        follow.until("every source goes on", |records| {
            let now = by_tag(records);
            now.len() == 8 && now.iter().all(|(tag, values)| values.len() > before.get(tag).map_or(0, Vec::len) + 20)
        });
    }

    fn stop(&mut self) {
        self.runtimes.iter_mut().for_each(Millrace::stop);
    }
}

/// The sources that a runtime itself says it runs.
fn reads(millrace: &Millrace) -> BTreeSet<String> {
    let status = millrace.status();
    let sources = status["sources"].as_object().cloned().unwrap_or_default();
    let runs = |(name, source): (String, serde_json::Value)| {
        (source["elsewhere"].is_null() && source["status"] == "Running" && name != "millrace").then_some(name)
    };
    sources.into_iter().filter_map(runs).collect()
}

fn by_tag(records: &[Record]) -> BTreeMap<String, Vec<u64>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in records {
        let sample = record.json();
        if let (Some(tag), Some(value)) = (sample["tag"].as_str(), sample["value"].as_u64()) {
            found.entry(below_site(tag).to_owned()).or_default().push(value);
        }
    }
    found
}

/// No value of any tag is missing, none is there twice, and each tag's values come in their order.
fn nothing_lost_and_nothing_twice(records: &[Record]) {
    let values = by_tag(records);
    assert_eq!(values.len(), 8, "tags: {:?}", values.keys());
    for (tag, values) in values {
        let mut sorted = values.clone();
        sorted.sort_unstable();
        let twice: Vec<u64> = sorted.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        assert!(twice.is_empty(), "{tag}: {} values are there twice, the first are {:?}", twice.len(), &twice[..twice.len().min(5)]);
        let lost: Vec<u64> =
            (0..sorted.len() as u64).zip(&sorted).filter(|(wanted, is)| wanted != *is).map(|(wanted, _)| wanted).take(5).collect();
        assert!(lost.is_empty(), "{tag}: values are missing from {lost:?}");
    }
    order_holds(records);
}

/// How often a runtime is killed or frozen: `MILLRACE_TAKE_OVERS`.
fn take_overs() -> usize {
    std::env::var("MILLRACE_TAKE_OVERS").ok().and_then(|count| count.parse().ok()).unwrap_or(2)
}

#[test]
fn a_runtime_that_is_killed_or_frozen_is_taken_over_from_and_nothing_is_lost_or_twice_under_exactly_once() {
    let kafka = Kafka::shared();
    let mut pair = Pair::new(kafka, Factory::exactly_once, FILE);
    pair.start();
    let mut took = Vec::new();
    for round in 0..take_overs() {
        pair.wait_shared();
        pair.wait_progress(kafka);
        let (victim, other) = (round / 2 % 2, 1 - round / 2 % 2);
        if round % 2 == 0 {
            pair.runtimes[victim].kill9();
            took.push(pair.wait_all_at(other));
            pair.wait_progress(kafka);
            pair.runtimes[victim].launch();
            pair.runtimes[victim].wait_alive();
        } else {
            pair.runtimes[victim].process().freeze();
            took.push(pair.wait_all_at(other));
            pair.wait_progress(kafka);
            // It goes on where it was, and thinks for a moment that all is its own.
            pair.runtimes[victim].process().thaw();
        }
    }
    pair.wait_shared();
    pair.wait_progress(kafka);
    pair.stop();
    nothing_lost_and_nothing_twice(&kafka.read(&pair.topic));
    println!("taken over after {took:?}, with a session of {SESSION:?}");
}

#[test]
fn a_rolling_restart_moves_sources_at_once_and_those_that_prefer_a_runtime_come_back_to_it() {
    let kafka = Kafka::shared();
    let file = FILE.replace("{type: generator, at: one,", "{type: generator, prefer: a, at: one,");
    let mut pair = Pair::new(kafka, Factory::exactly_once, &file);
    pair.start();
    for at in [0, 1] {
        pair.wait_shared();
        eventually("one, which prefers a, is read by a", || pair.reads(0).contains("one").then_some(()));
        pair.wait_progress(kafka);
        pair.runtimes[at].stop();
        let took = pair.wait_all_at(1 - at);
        println!("moved in {took:?} after the end of the process");
        pair.wait_progress(kafka);
        pair.runtimes[at].launch();
        pair.runtimes[at].wait_alive();
    }
    pair.wait_shared();
    eventually("one, which prefers a, is read by a", || pair.reads(0).contains("one").then_some(()));
    // Any of them shows both.
    let said = String::from_utf8(pair.runtimes[1].run(&["status", "-c", "factory.yaml"]).stdout).expect("text");
    assert!(said.contains("this is b") && said.contains("host-a") && said.contains("host-b"), "{said}");
    pair.stop();
    nothing_lost_and_nothing_twice(&kafka.read(&pair.topic));
}

#[test]
fn two_runtimes_of_one_name_are_told_apart_and_the_second_reads_nothing() {
    let kafka = Kafka::shared();
    let mut pair = Pair::new(kafka, Factory::exactly_once, &FILE.replace("id: $id", "id: same"));
    pair.runtimes[0].launch();
    pair.runtimes[0].wait_alive();
    pair.wait_all_at(0);
    pair.runtimes[1].launch();
    pair.runtimes[1].wait_alive();
    let group = eventually("the second is refused", || {
        let group = pair.runtimes[1].status()["group"].clone();
        (group["status"] == "Blocked").then_some(group)
    });
    let why = group["reason"].as_str().unwrap_or_default();
    assert!(why.contains("same") && why.contains("host-a") && why.contains("host-b"), "it names both machines: {why}");
    assert!(pair.runtimes[1].log().contains("two runtimes have one name"));
    pair.wait_progress(kafka);
    assert_eq!(pair.reads(0).len(), SOURCES.len(), "the first goes on");
    assert!(pair.reads(1).is_empty());
    pair.stop();
    nothing_lost_and_nothing_twice(&kafka.read(&pair.topic));
}

#[test]
fn a_source_runs_on_its_machines_only_and_different_files_are_named() {
    let kafka = Kafka::shared();
    let file = FILE.replace("{type: generator, at: one,", "{type: generator, runs_on: [host-a], at: one,");
    let mut pair = Pair::new(kafka, |factory| factory, &file);
    pair.runtimes[1].write(&file.replace("at: two, topic: $topic, tags: 2", "at: two, topic: $topic, tags: 3"));
    pair.start();
    pair.wait_shared();
    assert!(pair.reads(0).contains("one"));
    let troubles = eventually("the files are told to differ", || {
        let troubles = pair.runtimes[1].status()["group"]["troubles"].to_string();
        troubles.contains("different files").then_some(troubles)
    });
    assert!(troubles.contains("a on host-a") && troubles.contains("b on host-b"), "{troubles}");
    pair.runtimes[0].kill9();
    eventually("the others are taken over, and one waits for its machine", || {
        let group = pair.runtimes[1].status()["group"].clone();
        (pair.reads(1).len() == 3 && group["unread"] == serde_json::json!(["one"])).then_some(())
    });
    pair.runtimes[1].stop();
}

#[test]
fn the_embedded_broker_lets_runtimes_share_their_sources_too() {
    let kafka = Kafka::millrace(200);
    let mut pair = Pair::new(&kafka, Factory::exactly_once, FILE);
    pair.start();
    pair.wait_shared();
    pair.wait_progress(&kafka);
    pair.runtimes[1].kill9();
    println!("taken over after {:?}", pair.wait_all_at(0));
    pair.wait_progress(&kafka);
    pair.runtimes[0].stop();
    nothing_lost_and_nothing_twice(&kafka.read(&pair.topic));
}

/// A source whose records nobody can read again. Each record has a name of its own.
const TICKS: &str = "
site: $site
runtime: {id: $id, group: g, host: host-$id, session: 6s, on_isolation: release}
topics: {$topic: {format: json}}
sources:
  ticks: {type: exec, prefer: a, command: [python3, '$scripts/ticks.py'], at: ticks, topic: $topic, config: {me: $id, acked: '$dir/acked'}}
";

/// What was acknowledged to the source of a runtime: it is in its log, at least.
fn acknowledged(millrace: &Millrace) -> Vec<String> {
    let text = std::fs::read_to_string(millrace.dir().join("acked")).unwrap_or_default();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
}

fn ticks(records: &[Record]) -> Vec<String> {
    records.iter().filter_map(|record| record.json()["value"].as_str().map(str::to_owned)).collect()
}

#[test]
fn cut_off_from_kafka_a_runtime_stops_or_reads_on_as_told_and_what_lies_on_a_dead_host_is_sent_once_when_it_is_back() {
    let kafka = Kafka::options().proxied().start();
    let cable = Cable::between(kafka.proxy_port(), kafka.behind_proxy());
    let topic = kafka.topic("ticks");
    let site = Factory::on(&kafka).site().to_owned();
    let scripts = peers::scripts().display().to_string();
    let [mut a, mut b] = [("a", format!("127.0.0.1:{}", cable.port())), ("b", kafka.brokers())].map(|(id, brokers)| {
        let factory = Factory::at(&brokers).exactly_once().with("site", &site).with("id", id);
        factory.with("topic", &topic).with("scripts", &scripts).prepare(TICKS)
    });
    let wait_reads = |millrace: &Millrace, who: &str, does: bool| {
        eventually(&format!("{who} reads: {does}"), || (reads(millrace).is_empty() != does).then_some(()));
    };
    a.launch();
    b.launch();
    a.wait_alive();
    b.wait_alive();
    wait_reads(&a, "a", true);

    cable.cut();
    wait_reads(&a, "a, told to release", false);
    wait_reads(&b, "b", true);
    cable.heal();
    wait_reads(&a, "a, which is preferred", true);
    wait_reads(&b, "b", false);

    a.stop();
    a.write(&TICKS.replace("release", "keep"));
    a.launch();
    a.wait_alive();
    wait_reads(&a, "a, which is preferred", true);
    cable.cut();
    wait_reads(&b, "b", true);
    let (before, of_b) = (acknowledged(&a).len(), acknowledged(&b).len());
    eventually("a reads on into its log, and b reads", || {
        (acknowledged(&a).len() > before + 50 && acknowledged(&b).len() > of_b + 50).then_some(())
    });
    a.kill9();
    let left_behind = acknowledged(&a);
    cable.heal();
    eventually("b goes on", || (acknowledged(&b).len() > of_b + 100).then_some(()));
    a.launch();
    a.wait_alive();
    wait_reads(&a, "a, which is preferred", true);
    let mut follow = kafka.follow(&topic);
    follow.until("what was left behind", |records| {
        let there: BTreeSet<String> = ticks(records).into_iter().collect();
        left_behind.iter().all(|tick| there.contains(tick))
    });
    a.stop();
    b.stop();
    let there = ticks(&kafka.read(&topic));
    let distinct: BTreeSet<&String> = there.iter().collect();
    assert_eq!(there.len(), distinct.len(), "none is there twice");
    let lost: Vec<String> = [&a, &b].into_iter().flat_map(acknowledged).filter(|tick| !distinct.contains(tick)).collect();
    assert!(lost.is_empty(), "{} are lost, the first are {:?}", lost.len(), &lost[..lost.len().min(5)]);
    let place = |tick: &String| there.iter().position(|one| one == tick);
    assert!(left_behind.last().and_then(place) > acknowledged(&b).get(of_b).and_then(place), "it came late");
}

const SHOP: &str = "
site: $site
runtime: {id: $id, group: g, host: host-$id, session: 6s}
floor: {writes: allowed}
topics: {$topic: {format: json}, $commands: {format: json}, $replies: {format: json}}
sources:
  oven: {type: generator, prefer: a, at: oven, topic: $topic, tags: 2, rate: 20/s, setpoint: true}
sinks:
  setpoints: {source: oven, topics: [$commands], reply: $replies, allow: {setpoint: {min: 0, max: 300}}}
  archive: {type: file, topics: [$orders], path: '$dir/out/{partition}.ndjson', lines: records, flush_every: 200ms}
";

#[test]
fn commands_reach_the_owner_only_and_sinks_share_their_topics_so_that_each_record_is_written_once() {
    let kafka = Kafka::shared();
    let [topic, commands, replies, orders] = ["oven", "commands", "replies", "orders"].map(|name| kafka.topic(name));
    kafka.create_topic(&commands, 1, &[]);
    kafka.create_topic(&orders, 4, &[]);
    let site = Factory::on(kafka).site().to_owned();
    let [mut a, mut b] = ["a", "b"].map(|id| {
        let factory = Factory::on(kafka).with("site", &site).with("id", id).with("topic", &topic).with("commands", &commands);
        std::fs::create_dir(factory.dir().join("out")).expect("a folder can be made");
        factory.with("replies", &replies).with("orders", &orders).prepare(SHOP)
    });
    a.launch();
    b.launch();
    a.wait_alive();
    b.wait_alive();
    let has_commands = |millrace: &Millrace| millrace.status()["sinks"]["setpoints"]["status"] == "Running";
    eventually("a reads the oven, and its commands", || (has_commands(&a) && reads(&a).contains("oven")).then_some(()));
    assert!(!has_commands(&b));

    // While the second one joins: what moves is flushed first.
    let written = |millrace: &Millrace| -> Vec<u64> {
        let files = std::fs::read_dir(millrace.dir().join("out")).expect("the folder is there").map(|file| file.unwrap().path());
        // Beside them lies what the sink remembers of them.
        let of_lines = files.filter(|file| file.extension().is_some_and(|extension| extension == "ndjson"));
        let text: String = of_lines.map(|file| std::fs::read_to_string(file).unwrap_or_default()).collect();
        text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["value"].as_u64()).collect()
    };
    let mut sent = 0;
    eventually("both write", || {
        let numbers: Vec<String> = (sent..sent + 40).map(|number| number.to_string()).collect();
        kafka.produce(&orders, numbers.iter().map(|number| (number.as_str(), number.as_bytes())));
        sent += 40;
        (!written(&a).is_empty() && !written(&b).is_empty()).then_some(())
    });

    let ask = |id: &str, value: f64| {
        let command = serde_json::json!({"id": id, "tag": "setpoint", "value": value, "by": "a test"}).to_string();
        kafka.produce(&commands, [("setpoint", command.as_bytes())]);
        let of_it = |records: &[Record]| records.iter().map(Record::json).filter(|answer| answer["id"] == id).collect::<Vec<_>>();
        let mut follow = kafka.follow(&replies);
        let answers = of_it(follow.until(&format!("the answer to {id}"), |records| !of_it(records).is_empty()));
        assert_eq!((answers.len(), &answers[0]["result"]), (1, &"done".into()), "{answers:?}");
    };
    let id = |name: &str| format!("{name}-{:08x}", fastrand::u32(..));
    let (first, second) = (id("first"), id("second"));
    ask(&first, 100.0);
    a.stop();
    eventually("b reads the oven, and its commands", || (has_commands(&b) && reads(&b).contains("oven")).then_some(()));
    ask(&second, 200.0);
    let counted = |millrace: &Millrace| written(millrace).len() as u64;
    eventually("everything is written", || (counted(&a) + counted(&b) >= sent).then_some(()));
    b.stop();
    let mut all: Vec<u64> = [&a, &b].into_iter().flat_map(written).collect();
    all.sort_unstable();
    assert_eq!(all, (0..sent).collect::<Vec<_>>());
    let audited = kafka.read("millrace.audit");
    for id in [&first, &second] {
        let intents = audited.iter().map(Record::json).filter(|line| line["id"] == **id && line["what"] == "intent").count();
        assert_eq!(intents, 1, "one runtime tried {id}");
    }
}
