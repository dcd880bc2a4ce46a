//! Cases as folders: what goes in, and what must come out, as lines that a person can read.
//!
//! ```text
//! tests/cases/NAME/config.yaml      the connector's own keys
//!                  ...              what it reads
//!                  expected.txt     a line for each record; MILLRACE_WRITE_CASES=1 writes them, to be read before they are kept
//! ```
//!
//! ```text
//! lab/speed = 22.5 @2025-11-21T12:08:00Z     a sample with the device's time
//! lab/speed = 22.5                           a sample with the time of reading
//! lab/speed = null bad 0x809B0000            and with its status, where it is not good
//! doc KEY -> TOPIC {"a":1}
//! dead {"a": REASON
//! ```

use crate::{Owned, Received};
use millrace_schemas::TimeSource;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders of cases, by name.
pub fn cases(folder: &str) -> Vec<PathBuf> {
    let mut cases: Vec<_> = fs::read_dir(folder).expect("the folder of cases").filter_map(Result::ok).map(|entry| entry.path()).collect();
    cases.retain(|case| case.join("config.yaml").exists());
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {folder}");
    cases
}

/// How many records a case must give.
pub fn expected(case: &Path) -> Vec<String> {
    fs::read_to_string(case.join("expected.txt")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Compares what came out with what must.
pub fn compare(case: &Path, lines: &[String]) {
    if std::env::var_os("MILLRACE_WRITE_CASES").is_some() {
        fs::write(case.join("expected.txt"), lines.iter().map(|line| format!("{line}\n")).collect::<String>())
            .expect("the case is written");
        return;
    }
    assert_eq!(lines, expected(case), "{}", case.display());
}

/// Whether the cases are being written: nothing is known of how much comes.
pub fn is_writing() -> bool {
    std::env::var_os("MILLRACE_WRITE_CASES").is_some()
}

/// A record as a line. `hidden`: what differs from run to run, such as a temporary folder.
pub fn line(record: &Received, hidden: &str) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(['\n', '\r'], " ");
    let line = match record {
        Received::Sample(sample) => {
            let status = if sample.status.is_good() { String::new() } else { format!(" {:?}", sample.status) };
            let time = if sample.time_source == TimeSource::Device {
                let time = jiff::Timestamp::from_microsecond(sample.time.0).map_or_else(|_| "?".into(), |time| time.to_string());
                format!(" @{time}")
            } else {
                String::new()
            };
            format!("{} = {}{status}{time}", sample.tag, value(&sample.value))
        }
        Received::Document(doc) => {
            let payload = doc.payload.as_deref().map_or_else(|| "tombstone".into(), text);
            format!("doc {} -> {} {payload}", text(&doc.key), doc.topic)
        }
        Received::Rejected(reject) => format!("dead {}: {}", text(&reject.payload), reject.reason),
    };
    if hidden.is_empty() { line } else { line.replace(hidden, "..") }
}

fn value(value: &Owned) -> String {
    match value {
        Owned::Null => "null".into(),
        Owned::Bool(flag) => flag.to_string(),
        Owned::Int(int) => int.to_string(),
        Owned::UInt(uint) => format!("{uint}u"),
        Owned::Double(double) => format!("{double:?}"),
        Owned::Text(text) => format!("{text:?}"),
        other => format!("{other:?}"),
    }
}
