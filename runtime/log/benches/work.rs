//! The work that is measured, once for `cargo bench` and once for the table of `examples/figures.rs`.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use millrace_log::{KeepFree, Log, LogOptions, ReadBuf, Store, StoreOptions};

/// Bytes of a batch's header on disk: a plain write of as many bytes as the log writes has them too.
pub const HEADER: usize = 44;

pub fn store(dir: &Path) -> Store {
    Store::open(dir, StoreOptions { keep_free: KeepFree::Bytes(0), syncers: 0, unsynced: 1 << 30, ..StoreOptions::default() }).unwrap()
}

pub fn options() -> LogOptions {
    LogOptions { unsynced: 1 << 30, ..LogOptions::default() }
}

/// Appends batches of `len` bytes, with an fdatasync after every `sync_bytes`.
pub fn append(log: &Log, len: usize, total: u64, sync_bytes: u64) -> Duration {
    let payload = vec![0x5a; len - HEADER];
    let started = Instant::now();
    let (mut done, mut synced) = (0, 0);
    while done < total {
        let first = log.end();
        done += log.append(first, first + 10, 10, &[&payload]).unwrap().bytes;
        if done - synced >= sync_bytes {
            log.sync().unwrap();
            synced = done;
        }
    }
    log.sync().unwrap();
    started.elapsed()
}

/// The same bytes by plain write() into one file, with the same fdatasyncs.
pub fn write(path: &Path, len: usize, total: u64, sync_bytes: u64) -> Duration {
    let payload = vec![0x5a; len];
    let started = Instant::now();
    let mut file = File::create(path).unwrap();
    let (mut done, mut synced) = (0, 0);
    while done < total {
        file.write_all(&payload).unwrap();
        done += len as u64;
        if done - synced >= sync_bytes {
            file.sync_data().unwrap();
            synced = done;
        }
    }
    file.sync_data().unwrap();
    started.elapsed()
}

/// Reads a whole log, 1 MiB at a time.
pub fn read(log: &Log) -> (u64, Duration) {
    let (mut buf, mut from, mut bytes) = (ReadBuf::new(), 0, 0);
    let started = Instant::now();
    while log.read(from, 1 << 20, &mut buf).unwrap() > 0 {
        bytes += buf.batches().map(|batch| (batch.payload.len() + HEADER) as u64).sum::<u64>();
        from = buf.next().unwrap();
    }
    (bytes, started.elapsed())
}

/// Reads a file by plain pread(), 1 MiB at a time.
pub fn pread(path: &Path) -> (u64, Duration) {
    let file = File::open(path).unwrap();
    let mut buf = vec![0; 1 << 20];
    let started = Instant::now();
    let mut bytes = 0;
    loop {
        match file.read_at(&mut buf, bytes).unwrap() {
            0 => return (bytes, started.elapsed()),
            n => bytes += n as u64,
        }
    }
}

/// How long opening a log takes after a clean end, and after a crash.
pub fn reopen(dir: &Path, clean: bool) -> Duration {
    let previous = store(dir);
    let (log, _) = previous.log("a", options()).unwrap();
    let first = log.end();
    log.append(first, first + 1, 1, &[&[0; 1000]]).unwrap();
    log.sync().unwrap();
    if clean {
        previous.close().unwrap();
    }
    drop((previous, log));
    let store = store(dir);
    let started = Instant::now();
    let opened = store.log("a", options()).unwrap();
    let took = started.elapsed();
    drop(opened);
    took
}
