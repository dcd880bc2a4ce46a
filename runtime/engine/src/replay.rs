//! Samples once more: out of a topic or a lake, back into a topic, with the origin `replay` and the identity they have.
//!
//! ```text
//! topic | lake -> chosen by time, tag, quality -> as the target topic has samples -> Kafka -> where it got to, in a file
//! ```
//!
//! Invariants: never into a topic of commands; at most so many a second; what is in the file was taken by Kafka, so that a replay that broke off goes
//! on there, and sends what was on its way at the most twice, with the same identity.

use crate::dead::prepare::Prepare;
use crate::dead::{DeadLetter, Letters, matches};
use crate::sinks::decode_sample;
use crate::topics::Topics;
use crate::writer_schemas::WriterSchemas;
use millrace_config::Reason;
use millrace_kafka::{Consumer, KafkaError, Settings, TopicPartition};
use millrace_registry::{Client, SchemaId};
use millrace_schemas::{Batch, Micros, Origin, Quality, SampleMeta, json};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// Samples between two notes of where it got to, and the longest time.
const NOTE_EVERY: u64 = 10_000;
const NOTE_AFTER: Duration = Duration::from_secs(2);

/// Which samples.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Microseconds since 1970.
    pub range: Range<i64>,
    /// Whole paths, `*` for any text; none: all tags.
    pub tags: Vec<String>,
    /// None: all of them.
    pub qualities: Vec<Quality>,
}

impl Selection {
    /// Whether a row of decoded samples is meant.
    pub fn takes(&self, batch: &Batch, index: usize) -> bool {
        let Some(columns) = &batch.decoded else { return false };
        let row = &batch.rows[index];
        let tag = batch.text_of(columns.tag_path[index]);
        self.range.contains(&row.time.0)
            && (self.tags.is_empty() || self.tags.iter().any(|pattern| matches(pattern, tag)))
            && (self.qualities.is_empty() || self.qualities.contains(&row.status.quality()))
    }
}

/// Where a replay got to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What it replays, so that another one does not go on here.
    pub what: String,
    /// Of a topic: the next offset of each partition, and where each ends.
    #[serde(default)]
    pub next: BTreeMap<i32, i64>,
    #[serde(default)]
    pub ends: BTreeMap<i32, i64>,
    /// Of a lake: the last sample that was sent: day, folder, tag, time, seq.
    #[serde(default)]
    pub after: Option<(i32, String, String, i64, i64)>,
    pub sent: u64,
    pub done: bool,
}

impl Progress {
    /// Reads where a replay of this got to; a new one where there is no file.
    ///
    /// Errors: the file can't be read, or is that of another replay.
    pub fn open(file: &Path, what: &str) -> Result<Self, Reason> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self { what: what.into(), ..Self::default() }),
            Err(error) => return Err(format!("cannot read {}: {error}", file.display()).into()),
        };
        let progress: Self =
            serde_json::from_str(&text).map_err(|error| format!("{} is no progress of a replay: {error}", file.display()))?;
        if progress.what != what {
            return Err(format!("{} is the progress of another replay ({}); name another file", file.display(), progress.what).into());
        }
        Ok(progress)
    }
}

/// Sends samples again.
pub struct Replay {
    letters: Letters,
    prepare: Prepare,
    to: String,
    pace: Pace,
    /// `None`: it is only counted.
    file: Option<PathBuf>,
    pub progress: Progress,
    batch: Vec<u8>,
    noted: Instant,
    since: u64,
    /// Samples that the target topic does not take, and the first reasons.
    pub refused: u64,
    pub reasons: Vec<String>,
}

impl Replay {
    /// `rate`: samples a second. `file`: where its progress is kept; `None`: nothing is sent.
    pub fn new(settings: &Settings, prepare: Prepare, to: &str, rate: f64, file: Option<PathBuf>, progress: Progress) -> Self {
        Self {
            letters: Letters::new(settings),
            prepare,
            to: to.to_owned(),
            pace: Pace::new(rate),
            file,
            progress,
            batch: Vec::new(),
            noted: Instant::now(),
            since: 0,
            refused: 0,
            reasons: Vec::new(),
        }
    }

    /// Sends one row of decoded samples. `from`: the topic and offset it is from, for its header.
    ///
    /// Errors: Kafka does not take it.
    pub fn send(&mut self, batch: &Batch, index: usize, from: (&str, i32, i64)) -> Result<(), Reason> {
        let Some(columns) = &batch.decoded else { return Ok(()) };
        self.progress.sent += 1;
        if self.file.is_none() {
            return Ok(());
        }
        let tag = batch.text_of(columns.tag_path[index]);
        let device_time = columns.device_time[index];
        let meta = SampleMeta {
            tag,
            def: columns.def[index],
            read_time: columns.read_time[index],
            device_time: Some(device_time).filter(|time| *time != Micros::NONE),
            source: batch.text_of(columns.source[index]),
            seq: columns.seq[index],
        };
        let mut row = batch.rows[index];
        row.flags.origin = Origin::Replay;
        self.batch.clear();
        json::encode(&meta, &row, &batch.heap, &mut self.batch);
        let letter = DeadLetter {
            topic: Arc::from(from.0),
            partition: from.1,
            offset: from.2,
            // Of now: a topic forgets by it, and the sample's own time is in the sample.
            timestamp_ms: 0,
            key: Some(tag.as_bytes().to_vec()),
            value: Some(self.batch.clone()),
            headers: Vec::new(),
        };
        match self.prepare.prepare(&self.to, letter) {
            Ok(records) => {
                for (to, record) in &records {
                    self.letters.send_again(to, record, self.progress.sent).map_err(|error| format!("cannot send to {to}: {error}"))?;
                }
            }
            Err(reason) => {
                self.progress.sent -= 1;
                self.refused += 1;
                if self.reasons.len() < 20 {
                    self.reasons.push(format!("{tag}: {reason}"));
                }
            }
        }
        self.pace.wait();
        self.since += 1;
        Ok(())
    }

    /// Notes where it got to, now and then; `now`: whatever was noted last.
    ///
    /// Errors: Kafka did not take all of it, or the file can't be written.
    pub fn note(&mut self, now: bool) -> Result<(), Reason> {
        let Some(file) = &self.file else { return Ok(()) };
        if !now && self.since < NOTE_EVERY && self.noted.elapsed() < NOTE_AFTER {
            return Ok(());
        }
        self.letters.flush(PATIENCE).map_err(|error| format!("cannot send to {}: {error}", self.to))?;
        let text = serde_json::to_vec(&self.progress).map_err(|error| error.to_string())?;
        let mut new = file.as_os_str().to_owned();
        new.push(".new");
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, file));
        written.map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        (self.noted, self.since) = (Instant::now(), 0);
        Ok(())
    }
}

/// At most so many a second, in steps that a clock can tell.
struct Pace {
    rate: f64,
    began: Instant,
    count: f64,
}

impl Pace {
    fn new(rate: f64) -> Self {
        Self { rate, began: Instant::now(), count: 0.0 }
    }

    fn wait(&mut self) {
        self.count += 1.0;
        let due = Duration::from_secs_f64(self.count / self.rate);
        let ahead = due.saturating_sub(self.began.elapsed());
        if ahead > Duration::from_millis(5) {
            std::thread::sleep(ahead);
        }
        if self.count >= self.rate {
            (self.began, self.count) = (Instant::now(), 0.0);
        }
    }
}

/// How a topic is read.
pub struct From<'a> {
    pub settings: &'a Settings,
    pub topic: &'a str,
    pub known: &'a Topics,
    pub registry: Option<Arc<Client>>,
    pub tokio: tokio::runtime::Handle,
}

/// Replays a topic, as it was when the replay began.
///
/// Errors: Kafka, the registry or the file of the progress can't be used.
pub fn topic(from: &From<'_>, selection: &Selection, replay: &mut Replay) -> Result<(), Reason> {
    let failed = |error: KafkaError| format!("cannot read {}: {error}", from.topic);
    let reader = Consumer::reader(from.settings, true).map_err(failed)?;
    let name: Arc<str> = from.topic.into();
    if replay.progress.ends.is_empty() {
        let count = reader.partitions(from.topic, PATIENCE).map_err(failed)?;
        for partition in 0..count as i32 {
            let (low, high) = reader.watermarks(&TopicPartition::new(name.clone(), partition), PATIENCE).map_err(failed)?;
            replay.progress.next.insert(partition, low);
            replay.progress.ends.insert(partition, high);
        }
    }
    let part = |partition: &i32| TopicPartition::new(name.clone(), *partition);
    let starts: Vec<(TopicPartition, i64)> = replay.progress.next.iter().map(|(partition, next)| (part(partition), *next)).collect();
    let ends: HashMap<TopicPartition, i64> = replay.progress.ends.iter().map(|(partition, end)| (part(partition), *end)).collect();
    let topic = from.known.get(from.topic);
    let mut writers = from.registry.clone().map(|client| WriterSchemas::new(client, from.tokio.clone()));
    let mut batch = Batch::new();
    let mut trouble: Option<Reason> = None;
    let done = reader.read_to(&starts, &ends, PATIENCE, |message| {
        if trouble.is_some() {
            return;
        }
        if let Some(value) = message.value() {
            let prefix = if from.registry.is_some() { topic.prefix_of(value) } else { 0 };
            let writers = writers.as_mut().filter(|_| usize::from(prefix) == SchemaId::PREFIX);
            batch.clear();
            let sent = match decode_sample(topic.format, value, prefix, writers, &mut batch) {
                Ok(Ok(())) if selection.takes(&batch, 0) => replay.send(&batch, 0, (from.topic, message.partition(), message.offset())),
                Ok(Ok(())) => Ok(()),
                Ok(Err(reason)) => {
                    replay.refused += 1;
                    if replay.reasons.len() < 20 {
                        replay.reasons.push(format!("{}-{}@{} {reason}", from.topic, message.partition(), message.offset()));
                    }
                    Ok(())
                }
                Err(failure) => Err(Reason::from(failure.to_string())),
            };
            trouble = sent.err();
        }
        if trouble.is_none() {
            replay.progress.next.insert(message.partition(), message.offset() + 1);
            trouble = replay.note(false).err();
        }
    });
    match trouble {
        Some(trouble) => Err(trouble),
        None => done.map_err(failed).map_err(Reason::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(tag: &str, time: i64, status: u32) -> Batch {
        let mut batch = Batch::new();
        let text = format!(
            r#"{{"tag":"{tag}","value":1,"time":{time},"time_source":"device","read_time":{time},"status":{status},"origin":"change","source":"a/b/s","seq":1}}"#
        );
        json::decode(text.as_bytes(), &mut batch).unwrap();
        batch
    }

    #[test]
    fn a_selection_takes_what_fits_all_of_it() {
        let selection = Selection { range: 10..20, tags: vec!["a/b/*/force".into()], qualities: vec![Quality::Good] };
        let takes = |tag: &str, time: i64, status: u32| selection.takes(&batch(tag, time, status), 0);
        assert!(takes("a/b/press/force", 10, 0) && takes("a/b/x/y/force", 19, 0));
        assert!(!takes("a/b/press/speed", 10, 0), "another tag");
        assert!(!takes("a/b/press/force", 20, 0), "behind the range");
        assert!(!takes("a/b/press/force", 10, 0x8000_0000), "a bad one");
        let all = Selection { range: i64::MIN..i64::MAX, ..Selection::default() };
        assert!(all.takes(&batch("x", 5, 0x8000_0000), 0));
    }

    #[test]
    fn progress_is_that_of_one_replay() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("progress.json");
        let new = Progress::open(&file, "telemetry -> again").unwrap();
        assert_eq!((new.sent, new.done), (0, false));
        std::fs::write(&file, serde_json::to_vec(&Progress { sent: 7, ..new }).unwrap()).unwrap();
        assert_eq!(Progress::open(&file, "telemetry -> again").unwrap().sent, 7);
        assert!(Progress::open(&file, "telemetry -> elsewhere").unwrap_err().contains("another replay"));
    }
}
