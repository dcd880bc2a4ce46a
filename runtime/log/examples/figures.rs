//! The log's figures as a small table, ratios from one run: `cargo run --release -p millrace-log --example figures [DIR]`.

#[path = "../benches/work.rs"]
mod work;

use std::path::Path;
use std::time::{Duration, Instant};

use millrace_log::{KeepFree, LogOptions, Store, StoreOptions};

const ROUNDS: usize = 5;

fn main() {
    let base = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let dir = tempfile::tempdir_in(base).unwrap();
    many_logs(dir.path()); // first, while the process's memory is its own
    appends(dir.path());
    one_batch(dir.path());
    reads(dir.path());
    reopens(dir.path());
}

fn median(mut took: Vec<Duration>) -> f64 {
    took.sort();
    took[took.len() / 2].as_secs_f64()
}

fn appends(dir: &Path) {
    println!("append against plain write(), same write sizes and fdatasyncs, medians of {ROUNDS} in turn (goal: ratio >= 0.70)");
    println!("{:>10} {:>16} {:>12} {:>12} {:>8}", "write", "fdatasync", "write MB/s", "log MB/s", "ratio");
    for (len, total, sync, name) in [
        (1 << 10, 64u64 << 20, 4u64 << 20, "every 4 MiB"),
        (16 << 10, 256 << 20, 4 << 20, "every 4 MiB"),
        (128 << 10, 256 << 20, 4 << 20, "every 4 MiB"),
        (16 << 10, 16 << 20, 1, "every write"),
    ] {
        let store = work::store(&dir.join("store"));
        let (mut plain, mut log) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let file = dir.join("plain");
            plain.push(work::write(&file, len, total, sync));
            std::fs::remove_file(file).unwrap();
            let (opened, _) = store.log("a", work::options()).unwrap();
            log.push(work::append(&opened, len, total, sync));
            store.remove("a").unwrap();
        }
        let mb = total as f64 / 1e6;
        let (plain, log) = (mb / median(plain), mb / median(log));
        println!("{:>7} KiB {name:>16} {plain:>12.0} {log:>12.0} {:>8.2}", len >> 10, log / plain);
    }
}

fn one_batch(dir: &Path) {
    let store = work::store(&dir.join("store"));
    let (log, _) = store.log("a", work::options()).unwrap();
    for len in [100, 1000] {
        let payload = vec![1; len];
        let count = 20_000;
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            let started = Instant::now();
            for _ in 0..count {
                let first = log.end();
                log.append(first, first + 1, 1, &[&payload]).unwrap();
            }
            took.push(started.elapsed() / count);
            log.sync().unwrap();
        }
        println!("append of one batch of {len} bytes, not synced: {:.2} us", median(took) * 1e6);
    }
    store.remove("a").unwrap();
}

fn reads(dir: &Path) {
    let store = work::store(&dir.join("store"));
    let (log, _) = store.log("a", work::options()).unwrap();
    work::append(&log, 16 << 10, 256 << 20, 16 << 20);
    let file = dir.join("plain");
    work::write(&file, 16 << 10, 256 << 20, 16 << 20);
    let rate = |(bytes, took): (u64, Duration)| bytes as f64 / 1e6 / took.as_secs_f64();
    let best = |rates: Vec<f64>| rates.into_iter().fold(0.0, f64::max);
    let plain = best((0..ROUNDS).map(|_| rate(work::pread(&file))).collect());
    let log_rate = best((0..ROUNDS).map(|_| rate(work::read(&log))).collect());
    println!(
        "read from the page cache, checksums checked: {log_rate:.0} MB/s; plain pread(): {plain:.0} MB/s; ratio {:.2}",
        log_rate / plain
    );
    std::fs::remove_file(file).unwrap();
    store.remove("a").unwrap();
}

fn reopens(dir: &Path) {
    for mib in [10u64, 2048] {
        let path = dir.join(format!("reopen-{mib}"));
        let store = work::store(&path);
        let (log, _) = store.log("a", work::options()).unwrap();
        // The last segment is as full in both.
        work::append(&log, 64 << 10, (mib << 20) - (6 << 20), 16 << 20);
        let bytes = log.bytes();
        drop((store, log));
        let [clean, crash] = [true, false].map(|clean| median((0..ROUNDS).map(|_| work::reopen(&path, clean)).collect()) * 1e3);
        println!("open a log of {:.0} MB: {clean:.2} ms after a clean end, {crash:.2} ms after a crash", bytes as f64 / 1e6);
        std::fs::remove_dir_all(&path).unwrap();
    }
}

fn many_logs(dir: &Path) {
    let status = |key: &str| {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0)
    };
    let before = status("VmRSS:");
    let store = Store::open(dir.join("many"), StoreOptions { keep_free: KeepFree::Bytes(0), ..StoreOptions::default() }).unwrap();
    let started = Instant::now();
    let logs: Vec<_> = (0..500).map(|i| store.log(&format!("log-{i}"), LogOptions::default()).unwrap().0).collect();
    let opened = started.elapsed();
    for _ in 0..4 {
        for log in &logs {
            let first = log.end();
            log.append(first, first + 10, 10, &[&[7; 1000]]).unwrap();
        }
    }
    logs.iter().for_each(|log| log.sync().unwrap());
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    println!(
        "500 new logs: opened in {:.0} ms, {} threads, {fds} files open, {:.1} KiB of memory for each after four batches",
        opened.as_secs_f64() * 1e3,
        status("Threads:"),
        (status("VmRSS:").saturating_sub(before)) as f64 / 500.0
    );
    store.close().unwrap();
    drop((store, logs));
    let store = Store::open(dir.join("many"), StoreOptions::default()).unwrap();
    let started = Instant::now();
    let logs: Vec<_> = (0..500).map(|i| store.log(&format!("log-{i}"), LogOptions::default()).unwrap().0).collect();
    println!("500 logs opened again in {:.0} ms after a clean end", started.elapsed().as_secs_f64() * 1e3);
    drop(logs);
}
