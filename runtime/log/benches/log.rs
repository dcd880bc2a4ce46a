//! `cargo bench -p millrace-log`: append against plain write(), reopening, reading.

#[allow(dead_code, reason = "shared with the example")]
mod work;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const TOTAL: u64 = 64 << 20;
const SYNC: u64 = 4 << 20;

fn appends(c: &mut Criterion) {
    let mut group = c.benchmark_group("append 64 MiB, fdatasync every 4 MiB");
    group.throughput(Throughput::Bytes(TOTAL)).sample_size(10);
    for len in [1 << 10, 16 << 10, 128 << 10] {
        let dir = tempfile::tempdir_in(".").unwrap();
        group.bench_with_input(BenchmarkId::new("plain write", len), &len, |b, len| {
            b.iter_custom(|times| (0..times).map(|_| work::write(&dir.path().join("plain"), *len, TOTAL, SYNC)).sum());
        });
        let store = work::store(dir.path());
        group.bench_with_input(BenchmarkId::new("log", len), &len, |b, len| {
            b.iter_custom(|times| {
                let once = |_| {
                    let (log, _) = store.log("a", work::options()).unwrap();
                    let took = work::append(&log, *len, TOTAL, SYNC);
                    store.remove("a").unwrap();
                    took
                };
                (0..times).map(once).sum()
            });
        });
    }
    group.finish();
}

fn one_batch(c: &mut Criterion) {
    let dir = tempfile::tempdir_in(".").unwrap();
    let store = work::store(dir.path());
    let (log, _) = store.log("a", work::options()).unwrap();
    let mut group = c.benchmark_group("append one batch, not synced");
    for len in [100, 1000, 10_000] {
        let payload = vec![1; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(len.to_string(), |b| {
            b.iter_custom(|times| {
                let mut took = Duration::ZERO;
                for _ in 0..times {
                    let first = log.end();
                    let started = std::time::Instant::now();
                    black_box(log.append(first, first + 1, 1, &[&payload]).unwrap());
                    took += started.elapsed();
                    if first % 1000 == 0 {
                        log.sync().unwrap();
                        log.delete_below(first).unwrap();
                    }
                }
                took
            });
        });
    }
    group.finish();
}

fn reopen(c: &mut Criterion) {
    let mut group = c.benchmark_group("reopen after a crash");
    group.sample_size(20);
    for mib in [10u64, 500] {
        let dir = tempfile::tempdir_in(".").unwrap();
        let store = work::store(dir.path());
        let (log, _) = store.log("a", work::options()).unwrap();
        work::append(&log, 64 << 10, mib << 20, 16 << 20);
        drop((store, log));
        group.bench_function(format!("{mib} MiB"), |b| {
            b.iter_custom(|times| (0..times).map(|_| work::reopen(dir.path(), false)).sum());
        });
    }
    group.finish();
}

fn reads(c: &mut Criterion) {
    let dir = tempfile::tempdir_in(".").unwrap();
    let store = work::store(dir.path());
    let (log, _) = store.log("a", work::options()).unwrap();
    work::append(&log, 16 << 10, TOTAL, 16 << 20);
    let plain = dir.path().join("plain");
    work::write(&plain, 16 << 10, TOTAL, 16 << 20);
    let mut group = c.benchmark_group("read 64 MiB");
    group.throughput(Throughput::Bytes(TOTAL)).sample_size(20);
    group.bench_function("plain pread", |b| b.iter_custom(|times| (0..times).map(|_| work::pread(&plain).1).sum()));
    group.bench_function("log", |b| b.iter_custom(|times| (0..times).map(|_| work::read(&log).1).sum()));
    group.finish();
}

criterion_group!(benches, appends, one_batch, reopen, reads);
criterion_main!(benches);
