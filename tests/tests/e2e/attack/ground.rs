//! What a runtime runs on: a disk that is read-only or has no inodes left, and few file descriptors.

use super::never_panicked;
use crate::load::*;
use millrace_tests::*;
use std::net::TcpStream;

/// What a full or read-only disk says, and what makes it right: the start that found it so ends or waits, the next one goes on.
#[test]
fn a_disk_that_cannot_be_written_is_said_and_nothing_is_missing_once_it_can() {
    for (options, hurts, heals, says) in
        [("", "ro", "rw", "Read-only file system"), (",nr_inodes=4", "rw", "rw,nr_inodes=10000", "No space left on device")]
    {
        let (kafka, count) = (Kafka::shared(), 4_000);
        let Some(disk) = SmallDisk::mounted(64 << 20, options) else { return };
        let (factory, topic) = counters(Factory::on(kafka), kafka, count, "2000/s");
        let factory = factory.with("folder", disk.path().join("data").display()).with("keep_free", disk.keep_free());
        let mut millrace = factory.prepare(&format!("data_dir: $folder\nlog: {{keep_free: $keep_free}}{COUNTERS}"));
        if options.is_empty() {
            millrace.launch();
            millrace.wait_alive();
            millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > 500);
            millrace.stop();
        }
        disk.remount(hurts);
        millrace.launch();
        eventually("it says what is wrong with the disk", || millrace.log().contains(says).then_some(()));
        millrace.kill9();
        disk.remount(heals);
        millrace.restart();
        finished(&millrace, count);
        every_value_at_least_once(&kafka.read(&topic), count);
        millrace.stop();
        never_panicked(&millrace);
    }
}

/// Sixty-four file descriptors: strangers take all that are left, and nothing ends; what is free again is used again.
#[test]
fn strangers_who_take_every_file_descriptor_stop_nothing_that_runs() {
    let (kafka, count) = (Kafka::shared(), 6_000);
    let (factory, topic) = counters(Factory::on(kafka), kafka, count, "1000/s");
    let mut millrace = factory.prepare(COUNTERS);
    millrace.launch_under("ulimit -n 64");
    millrace.wait_alive();
    millrace.wait_ledger("load", "some is in Kafka", |ledger| ledger.produced > 500);
    let strangers: Vec<TcpStream> = (0..100).filter_map(|_| TcpStream::connect(("127.0.0.1", millrace.http_port())).ok()).collect();
    assert_eq!(strangers.len(), 100, "the kernel takes them in, accepted or not");
    let pid = millrace.process().pid();
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    eventually("no file descriptor is left", || (open() >= 64).then_some(()));
    assert!(millrace.process().is_running());
    drop(strangers);
    millrace.wait_alive();
    let ledger = finished(&millrace, count);
    assert_eq!((ledger.dropped_at_intake, ledger.dropped_from_log), (0, 0), "{ledger:?}");
    every_value_at_least_once(&kafka.read(&topic), count);
    millrace.stop();
    never_panicked(&millrace);
}
