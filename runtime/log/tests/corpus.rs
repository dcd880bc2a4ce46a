//! The corpora of the fuzz targets, replayed.

use std::path::Path;

use millrace_log::{LogOptions, Store, StoreOptions, fuzz};

fn replay(name: &str, target: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(name);
    let files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 4, "{} holds a handful of files", dir.display());
    files.iter().for_each(|file| target(&std::fs::read(file).unwrap()));
}

#[test]
fn no_segment_of_the_corpus_is_too_strange() {
    replay("log_segment", fuzz::fuzz_segment);
}

#[test]
fn no_cursor_file_of_the_corpus_is_too_strange() {
    replay("log_cursors", fuzz::fuzz_cursors);
}

/// Writes the corpora anew: `cargo test -p millrace-log --test corpus -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_corpora() {
    let data = tempfile::tempdir().unwrap();
    let store = Store::open(data.path(), StoreOptions::default()).unwrap();
    let (log, _) = store.log("a", LogOptions { segment_bytes: 600, ..LogOptions::default() }).unwrap();
    for i in 0..8u64 {
        log.append(3 * i, 3 * i + 2, 2, &[&vec![i as u8; 20 * i as usize]]).unwrap();
    }
    log.set_cursor("kafka", 7, b"a note");
    log.save_cursors().unwrap();
    store.close().unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    for name in ["log_segment", "log_cursors"] {
        let to = corpus.join(name);
        std::fs::create_dir_all(&to).unwrap();
        let is_segment = name == "log_segment";
        let mut files: Vec<_> = std::fs::read_dir(data.path().join("a")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "seg") == is_segment);
        files.sort();
        let sealed = std::fs::read(&files[0]).unwrap();
        let used = if is_segment { sealed.len() } else { 80 };
        let mut flipped = sealed.clone();
        flipped[used / 2] ^= 0x10;
        let mut long = sealed.clone();
        let at = if is_segment { 68 } else { 12 };
        long[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut newer = sealed.clone();
        newer[8] = 2;
        let torn = &sealed[..used - used / 3];
        for (kind, bytes) in
            [("whole", &sealed[..]), ("flipped", &flipped), ("length_lies", &long), ("torn", torn), ("newer", &newer), ("empty", b"")]
        {
            std::fs::write(to.join(kind), bytes).unwrap();
        }
    }
}
