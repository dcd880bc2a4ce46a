//! The file source and the file sink against the suites of every connector. Alone in its binary: it measures memory.

use async_trait::async_trait;
use millrace_contract::Compiled;
use millrace_file::{FileSinkPlugin, FileSourcePlugin};
use millrace_testkit::conformance::sink::{TOPIC, numbered};
use millrace_testkit::conformance::{Device, SinkFixture, SourceFixture};
use millrace_testkit::{Received, yaml};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;
use tempfile::TempDir;

#[global_allocator]
static MEMORY: millrace_testkit::CountingAllocator = millrace_testkit::CountingAllocator;

/// A file that a program appends lines to.
struct Tailed;

struct TailedFile {
    folder: TempDir,
}

#[async_trait]
impl SourceFixture for Tailed {
    async fn device(&self) -> Box<dyn Device> {
        Box::new(TailedFile { folder: tempfile::tempdir().unwrap() })
    }
}

impl TailedFile {
    fn append(&self, text: &str) {
        let path = self.folder.path().join("out.ndjson");
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }
}

#[async_trait]
impl Device for TailedFile {
    fn compile(&self) -> Box<dyn Compiled> {
        // The file is there before the source is: compiling must not care.
        let text = format!("{{path: {}/out.ndjson, every: 5ms}}", self.folder.path().display());
        let compiled = yaml::compile::<FileSourcePlugin>(&text, &yaml::context("file", &[])).unwrap();
        self.append("");
        compiled
    }

    fn untouched(&self) -> bool {
        fs::metadata(self.folder.path().join("out.ndjson")).unwrap().len() == 0
    }

    async fn emit(&mut self, numbers: Range<u64>) {
        self.append(&numbers.map(|n| format!("{{\"number\":{n}}}\n")).collect::<String>());
    }

    fn number(&self, record: &Received) -> Option<u64> {
        match record {
            Received::Document(document) => document.text().strip_prefix("{\"number\":")?.strip_suffix('}')?.parse().ok(),
            _ => None,
        }
    }

    async fn emit_bad(&mut self) -> bool {
        self.append("{\"number\":\n");
        true
    }

    async fn pump(&mut self) -> bool {
        let line = format!("{{\"filling\":\"{}\"}}\n", "x".repeat(10_000));
        self.append(&line.repeat(5_000));
        true
    }

    fn memory_bound_bytes(&self) -> usize {
        24 * 1024 * 1024
    }
}

millrace_testkit::source_conforms!(the_file_source, Tailed);
millrace_testkit::sink_conforms!(a_file_per_topic, Archive::new("{topic}.ndjson", "lines: records"));
millrace_testkit::sink_conforms!(
    a_compressed_file_per_day_and_size,
    Archive::new("{topic}-{date}.ndjson.gz", "lines: records, rotate: {every: 1s, size: 1KiB}")
);
millrace_testkit::sink_conforms!(a_table_per_partition, Archive::new("{topic}/{partition}.csv", "lines: records, rotate: {size: 1KiB}"));
millrace_testkit::sink_conforms!(a_table_of_samples, Archive::new("{topic}.csv", "lines: samples"));

/// A folder that the sink writes to.
struct Archive {
    folder: TempDir,
    name: &'static str,
    rest: &'static str,
    broken: Option<TempDir>,
}

impl Archive {
    fn new(name: &'static str, rest: &'static str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), name, rest, broken: None }
    }
}

/// All lines of all files, the oldest file first.
fn lines(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            match entry.metadata().unwrap() {
                metadata if metadata.is_dir() => folders.push(entry.path()),
                metadata if !hidden && metadata.len() > 0 => {
                    files.push((entry.path().to_string_lossy().contains(".part"), metadata.modified().unwrap(), entry.path()))
                }
                _ => {}
            }
        }
    }
    // Files of one moment, by the number in their names: the first has none.
    files.sort_by_key(|(is_part, modified, path)| (*is_part, *modified, path.as_os_str().len(), path.clone()));
    let mut text = String::new();
    for (_, _, path) in files {
        let mut file = File::open(&path).unwrap();
        if path.to_string_lossy().contains(".gz") {
            flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
        } else {
            file.read_to_string(&mut text).unwrap();
        }
    }
    text.lines().map(str::to_owned).collect()
}

#[async_trait]
impl SinkFixture for Archive {
    fn compile(&self) -> Box<dyn Compiled> {
        let text = format!("{{path: \"{}/{}\", {}}}", self.folder.path().display(), self.name, self.rest);
        yaml::compile::<FileSinkPlugin>(&text, &yaml::context("archive", &[TOPIC])).unwrap()
    }

    fn untouched(&self) -> bool {
        fs::read_dir(self.folder.path()).unwrap().next().is_none()
    }

    async fn read_back(&mut self) -> Vec<(i32, i64)> {
        // Whatever the format around it: the payload stands in the line, in a CSV with its quotes doubled.
        let payload = |line: String| {
            let line = line.replace("\"\"", "\"");
            let start = line.find("{\"partition\":")?;
            let end = start + line[start..].find('}')?;
            numbered(&line[start..=end])
        };
        lines(self.folder.path()).into_iter().filter_map(payload).collect()
    }

    fn refused(&self) -> Option<Vec<u8>> {
        (self.name.ends_with("csv") && self.rest.contains("records")).then(|| vec![0xFF, 0xFE])
    }

    async fn break_target(&mut self) -> bool {
        // The stick is pulled: another folder stands where it was, later it comes back.
        let away = tempfile::tempdir().unwrap();
        fs::rename(self.folder.path(), away.path().join("away")).unwrap();
        self.broken = Some(away);
        true
    }

    async fn mend(&mut self) {
        let away = self.broken.take().unwrap();
        fs::rename(away.path().join("away"), self.folder.path()).unwrap();
    }
}
