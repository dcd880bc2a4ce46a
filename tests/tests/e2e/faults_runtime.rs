//! The runtime is killed, loses its disk, its power, its space.

use crate::load::*;
use millrace_tests::*;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Kills and restarts the runtime `kills` times, each after it has made some progress.
fn kill_in_a_loop(millrace: &mut Millrace, kills: u64, count: u64) {
    for kill in 1..=kills {
        let goal = kill * count / (kills + 2);
        millrace.wait_ledger("load", &format!("progress before kill {kill}"), |ledger| ledger.produced >= goal);
        // At any moment of a batch's way, not always at the same.
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..300)));
        millrace.restart();
    }
}

#[test]
fn kill_9_in_a_loop_under_exactly_once_shows_every_value_once() {
    let kafka = Kafka::shared();
    let count = 60_000;
    let (factory, topic) = counters(Factory::on(kafka).exactly_once(), kafka, count, "4000/s");
    let mut millrace = factory.start(COUNTERS);
    kill_in_a_loop(&mut millrace, 6, count);
    let ledger = finished(&millrace, count);
    let records = kafka.read(&topic);
    every_value_once(&records, count);
    order_holds(&records);
    assert_eq!((ledger.received, ledger.appended, ledger.produced), (count, count, count));
}

#[test]
fn kill_9_in_a_loop_under_at_least_once_repeats_only_identities() {
    let kafka = Kafka::shared();
    let count = 60_000;
    let (factory, topic) = counters(Factory::on(kafka), kafka, count, "4000/s");
    let mut millrace = factory.start(COUNTERS);
    kill_in_a_loop(&mut millrace, 6, count);
    let ledger = finished(&millrace, count);
    let records = kafka.read(&topic);
    let repeats = every_value_at_least_once(&records, count);
    order_holds(&records);
    println!("{} records, {repeats} of them repeats", records.len());
    assert_eq!(records.len() - repeats, count as usize, "a value has two identities");
    assert_eq!((ledger.received, ledger.appended), (count, count));
}

#[test]
fn sigterm_leaves_nothing_behind() {
    let kafka = Kafka::shared();
    let count = 20_000;
    let (factory, topic) = counters(Factory::on(kafka).exactly_once(), kafka, count, "10000/s");
    let mut millrace = factory.start(COUNTERS);
    millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > 2_000);
    millrace.stop();
    // What was read is in Kafka: the log was sent to its end.
    let sent = kafka.read(&topic).len() as u64;
    assert!((2_000..count).contains(&sent), "{sent}");
    millrace.launch();
    millrace.wait_alive();
    let ledger = finished(&millrace, count);
    assert_eq!(ledger.received, count, "the source went on behind what it had sent, so nothing was left in the log: {ledger:?}");
    every_value_once(&kafka.read(&topic), count);
}

#[test]
fn a_lost_data_dir_is_resumed_from_kafka_under_a_new_incarnation() {
    let kafka = Kafka::shared();
    let count = 40_000;
    let (factory, topic) = counters(Factory::on(kafka).exactly_once(), kafka, count, "5000/s");
    let mut millrace = factory.start(COUNTERS);
    millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > count / 3);
    millrace.kill9();
    std::fs::remove_dir_all(millrace.data_dir()).expect("the data can be removed");
    let before = kafka.read(&topic);
    millrace.launch();
    millrace.wait_alive();
    millrace.wait_word("load", "Stopped");
    millrace.drained("load");
    let records = kafka.read(&topic);
    // The generator's position came back with the cursor: it goes on where Kafka's records end, without a gap or a repeat.
    every_value_once(&records, count);
    let highest_before = before.iter().map(|record| record.identity().1).max().expect("something was sent");
    let lowest_after = records.iter().map(|record| record.identity().1).filter(|seq| *seq > highest_before).min();
    assert!(lowest_after.is_some_and(|seq| seq > highest_before + 1), "the new incarnation is a visible jump");
}

/// What a power cut leaves: the newest segment of each log without its last bytes.
fn cut_the_unsynced_tail(folder: &Path, bytes: u64) -> usize {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the data can be listed").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => files.push(path),
            }
        }
    }
    let mut newest: std::collections::BTreeMap<PathBuf, PathBuf> = Default::default();
    for file in files
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "seg" || extension == "segment" || extension == "log"))
    {
        let folder = file.parent().expect("a file lies in a folder").to_owned();
        let entry = newest.entry(folder).or_insert_with(|| file.clone());
        if file > *entry {
            *entry = file;
        }
    }
    let mut cut = 0;
    for file in newest.into_values() {
        let len = file.metadata().expect("a segment has a length").len();
        let handle = std::fs::File::options().write(true).open(&file).expect("a segment can be opened");
        handle.set_len(len.saturating_sub(bytes)).expect("a segment can be cut");
        cut += 1;
    }
    cut
}

#[test]
fn a_power_cut_reuses_no_identity_and_loses_no_value_of_a_source_with_a_position() {
    let kafka = Kafka::shared();
    let count = 40_000;
    let (factory, topic) = counters(Factory::on(kafka), kafka, count, "5000/s");
    let mut millrace = factory.start(COUNTERS);
    let mut before = 0;
    for part in [1, 2] {
        millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > part * count / 4);
        millrace.kill9();
        // Another boot: the log must not trust what it finds beyond the last sync, and numbers what comes above all that went.
        let boot = millrace.data_dir().join("log/.boot");
        let text = std::fs::read_to_string(&boot).expect("the log knows its boot");
        let own = text.lines().nth(1).filter(|id| !id.is_empty()).expect("the boot has a name").to_owned();
        std::fs::write(&boot, text.replace(&own, "00000000-0000-0000-0000-000000000000")).expect("another boot can be named");
        before = kafka.read(&topic).iter().map(|record| record.identity().1).max().expect("some is in Kafka");
        assert!(cut_the_unsynced_tail(&millrace.data_dir(), 20_000) > 0, "no segment found in {}", millrace.data_dir().display());
        millrace.launch();
        millrace.wait_alive();
    }
    millrace.wait_word("load", "Stopped");
    millrace.drained("load");
    let records = kafka.read(&topic);
    every_value_at_least_once(&records, count);
    let jump = records.iter().map(|record| record.identity().1).filter(|seq| *seq > before).min().expect("some came after it") - before;
    assert!(jump > 1 << 20, "the new incarnation begins seconds above the old one, not {jump} records");
}

#[test]
fn a_corrupt_segment_is_set_aside_and_the_rest_goes_on() {
    let (kafka, millrace, topic) = after_corruption(|segment| {
        let middle = segment.len() / 2;
        segment[middle..middle + 64].fill(0xA5);
    });
    let ledger = millrace.drained("load");
    let records = kafka.read(&topic);
    let distinct = (records.len() - every_identity_says_one_thing(&records)) as u64;
    assert!(ledger.dropped_from_log > 0, "what was lost is counted: {ledger:?}");
    assert_eq!((ledger.appended, ledger.produced + ledger.dropped_from_log), (30_000, 30_000), "{ledger:?}");
    // What the killed Kafka had taken and not yet acknowledged may be what the log then lost.
    assert!((ledger.produced..=30_000).contains(&distinct), "{distinct}: {ledger:?}");
}

#[test]
fn a_corrupt_tail_of_the_newest_segment_is_in_the_ledger_as_corrupt() {
    let (kafka, mut millrace, topic) = after_corruption(|segment| {
        let two_thirds = segment.len() * 2 / 3;
        segment[two_thirds..].fill(0xA5);
    });
    let ledger = millrace.drained("load");
    assert_eq!((ledger.received, ledger.appended), (30_000, 30_000), "{ledger:?}");
    assert!(ledger.dropped_from_log > 0, "{ledger:?}");
    assert_eq!(millrace.connector("load")["ledger"]["dropped"]["corrupt"], ledger.dropped_from_log, "{:#}", millrace.connector("load"));
    let records = kafka.read(&topic);
    let distinct = (records.len() - every_identity_says_one_thing(&records)) as u64;
    // What the killed Kafka had taken and not yet acknowledged may be what the log then lost: it is there, and counted as lost.
    assert!((ledger.produced..=ledger.produced + ledger.dropped_from_log).contains(&distinct), "{distinct}: {ledger:?}");
    // Said once: the next start finds nothing new.
    millrace.restart();
    assert_eq!(millrace.drained("load"), ledger);
}

/// Thirty thousand values, some of them in Kafka and the rest in a log whose largest file is then damaged, started again.
fn after_corruption(damage: impl FnOnce(&mut [u8])) -> (Kafka, Millrace, String) {
    let mut kafka = Kafka::start();
    let (factory, topic) = counters(Factory::on(&kafka), &kafka, 30_000, "5000/s");
    let mut millrace = factory.start(COUNTERS);
    millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > 1_000);
    kafka.kill9();
    millrace.wait_ledger("load", "all waits", |ledger| ledger.received == 30_000);
    millrace.stop();
    let segment = largest_file(&millrace.data_dir());
    let mut bytes = std::fs::read(&segment).expect("a segment can be read");
    damage(&mut bytes);
    std::fs::write(&segment, bytes).expect("a segment can be written");
    kafka.restart();
    millrace.launch();
    millrace.wait_alive();
    (kafka, millrace, topic)
}

fn largest_file(folder: &Path) -> PathBuf {
    let mut largest = (0, PathBuf::new());
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the data can be listed").flatten() {
            let path = entry.path();
            let len = entry.metadata().map_or(0, |metadata| metadata.len());
            if path.is_dir() {
                folders.push(path);
            } else if len > largest.0 {
                largest = (len, path);
            }
        }
    }
    largest.1
}

#[test]
fn a_full_disk_holds_the_source_back_and_recovers_by_itself() {
    let mut kafka = Kafka::start();
    let count = 300_000;
    let disk = SmallDisk::of(20 << 20);
    let (factory, topic) = counters(Factory::on(&kafka), &kafka, count, "20000/s");
    let factory = factory.with("folder", disk.path().join("data").display()).with("keep_free", disk.keep_free());
    let text = format!("data_dir: $folder\nlog: {{keep_free: $keep_free, compression: none}}{COUNTERS}");
    let millrace = factory.start(&text);
    millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > 1_000);
    kafka.kill9();
    eventually("the disk is full", || {
        (millrace.status()["disk"]["low"] == true || millrace.connector("load")["log_held"].is_string()).then_some(())
    });
    let held = millrace.ledger("load").received;
    assert!(held < count, "the disk was too large for this load");
    kafka.restart();
    let ledger = finished(&millrace, count);
    assert_eq!((ledger.appended, ledger.dropped_at_intake, ledger.dropped_from_log), (count, 0, 0), "{ledger:?}");
    every_value_at_least_once(&kafka.read(&topic), count);
}

#[test]
fn a_full_log_drops_the_oldest_where_told_and_counts_each() {
    let mut kafka = Kafka::start();
    let count = 200_000;
    // Slow enough that Kafka is away for most of it, however late that is noticed here.
    let (factory, topic) = counters(Factory::on(&kafka), &kafka, count, "10000/s");
    let millrace = factory.start(&format!("log: {{size: 4MiB, full: drop_oldest, compression: none}}{COUNTERS}"));
    millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > 1_000);
    kafka.kill9();
    millrace.wait_ledger("load", "all came in", |ledger| ledger.received == count);
    kafka.restart();
    let ledger = millrace.drained("load");
    let records = kafka.read(&topic);
    let repeats = every_identity_says_one_thing(&records);
    assert!(ledger.dropped_from_log > 0, "{ledger:?}");
    assert_eq!((records.len() - repeats) as u64, ledger.produced, "{ledger:?}");
    assert_eq!(ledger.produced + ledger.dropped_from_log, count, "{ledger:?}");
}

#[test]
fn the_runtime_of_one_folder_is_alone_in_it() {
    let kafka = Kafka::shared();
    let (factory, _) = counters(Factory::on(kafka), kafka, 10, "10/s");
    let millrace = factory.start(COUNTERS);
    let second = millrace.run(&["run", "-c", "factory.yaml"]);
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned() + &String::from_utf8_lossy(&second.stdout);
    assert!(said.contains("data"), "{said}");
}
