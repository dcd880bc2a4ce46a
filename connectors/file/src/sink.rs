//! The file sink: records of Kafka as lines of files, for archives, sticks and data diodes.

use crate::archive::{Archive, Layout};
use crate::config::one_byte;
use crate::csv::Dialect;
use crate::envelope;
use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use millrace_config::{ByteSize, Period, Problems, Reason, Severity, Spanned};
use millrace_contract::{
    Carries, Compiled, Context, Failure, Flush, Flushed, Guarantee, Input, Model, Offset, Partition, Plan, Plugin, Record, Records,
    Refused, Role, Sink,
};
use millrace_kit::Template;
use millrace_schemas::record::Array;
use millrace_schemas::{Batch, Columns, Kind, Micros, Row, SampleMeta, Span, Value, json};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Writes topics to files.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSinkConfig {
    /// The files: a path with `{topic}`, `{partition}`, `{date}` (2026-11-21) and `{hour}` (2026-11-21T13); times are UTC, when a line is
    /// written. The folder before the first brace must exist. A name that ends in `.gz` is compressed.
    pub path: Spanned<String>,
    /// What the files hold. Left out: as the file's name says.
    #[serde(default)]
    pub format: Option<Spanned<FileFormat>>,
    /// What a line is. Left out: `samples` where every topic is declared with `schema: telemetry`, else `records`.
    #[serde(default)]
    pub lines: Option<Lines>,
    /// When a file is finished and the next one begins. A file under its own name is finished; until then it ends in `.part`.
    #[serde(default)]
    pub rotate: Rotate,
    /// How often what was written is made durable, and its offsets committed.
    #[serde(default = "flush_every")]
    pub flush_every: Spanned<Period>,
    /// Between the fields of a CSV: one character of ASCII; `","` unless said.
    #[serde(default)]
    pub delimiter: Option<Spanned<String>>,
}

fn flush_every() -> Spanned<Period> {
    Spanned::from(Period::from_secs(5))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    Ndjson,
    Csv,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lines {
    /// Each record as it is in Kafka: key, headers, timestamp, value. A file source with `format: envelope` reads it back.
    Records,
    /// Each sample, decoded: its tag, time, value, status.
    Samples,
}

/// When a file is finished.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rotate {
    /// After this long, aligned to the clock in UTC: `1h` begins a file at every full hour.
    pub every: Option<Spanned<Period>>,
    /// When it has this size.
    pub size: Option<Spanned<ByteSize>>,
}

/// The plugin `file`, as a sink.
pub struct FileSinkPlugin;

impl Plugin for FileSinkPlugin {
    const TYPE: &'static str = "file";
    const ROLE: Role = Role::Sink;
    type Config = FileSinkConfig;

    fn compile(config: FileSinkConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let before = problems.iter().count();
        let writer = Writer::check(&config, context, problems);
        if problems.iter().skip(before).any(|problem| problem.severity == Severity::Error) {
            return None;
        }
        Some(Box::new(Writing { writer: Arc::new(writer?), model: Model::default(), topics: context.topics.clone() }))
    }
}

/// A configuration that was checked.
#[derive(Debug)]
struct Writer {
    path: String,
    template: Template,
    layout: Layout,
    format: FileFormat,
    lines: Lines,
    every: Option<Duration>,
    flush_every: Duration,
    csv: Dialect,
}

const NAMES: [&str; 4] = ["topic", "partition", "date", "hour"];
const SAMPLE_COLUMNS: [&str; 10] = ["tag", "time", "value", "status", "quality", "origin", "time_source", "read_time", "source", "seq"];
const RECORD_COLUMNS: [&str; 7] = ["topic", "partition", "offset", "timestamp", "key", "headers", "value"];

impl Writer {
    fn check(config: &FileSinkConfig, context: &Context, problems: &mut Problems) -> Option<Self> {
        let is_known = |name: &str| {
            if NAMES.contains(&name) { Ok(()) } else { Err(format!("unknown; there are `{{{}}}`", NAMES.join("}`, `{")).into()) }
        };
        let place = config.path.place;
        // Split at the first brace: what stands before its folder must exist, what follows is made as needed.
        let fixed = config.path.find('{').unwrap_or(config.path.len());
        let (folder, name) = match config.path[..fixed].rfind('/') {
            Some(0) => ("/", &config.path[1..]),
            Some(at) => (&config.path[..at], &config.path[at + 1..]),
            None => (".", config.path.as_str()),
        };
        if name.is_empty() || name.ends_with('/') {
            problems.error(place, format!("`{}` is a folder; add a name such as `{{topic}}-{{date}}.ndjson`", *config.path));
        }
        if name.split('/').any(|part| part == "..") {
            problems.error(place, format!("`{}` has `..` beyond its folder", *config.path));
        }
        let template = Template::parse(name, place, problems, is_known);
        let gzip = name.ends_with(".gz");
        let by_name = name.strip_suffix(".gz").unwrap_or(name).rsplit_once('.').and_then(|(_, extension)| match extension {
            "csv" => Some(FileFormat::Csv),
            "ndjson" | "jsonl" | "json" => Some(FileFormat::Ndjson),
            _ => None,
        });
        let format = config.format.as_ref().map(|format| **format).or(by_name);
        if format.is_none() {
            problems
                .error(place, format!("the name of `{}` does not say what it holds", *config.path))
                .help("add `format: ndjson` or `csv`");
        }
        if let Some(every) = &config.rotate.every
            && every.0 < Duration::from_secs(1)
        {
            problems.error(every.place, "`every` is at least 1s");
        }
        if let Some(size) = &config.rotate.size
            && size.0 < 1024
        {
            problems.error(size.place, "`size` is at least 1KiB");
        }
        if config.flush_every.0.is_zero() {
            problems.error(config.flush_every.place, "`flush_every` must be more than 0");
        }
        let csv = Dialect { delimiter: one_byte(&config.delimiter, "delimiter", b',', problems), quote: b'"', ..Dialect::default() };
        if csv.delimiter == csv.quote {
            problems.error(place, "`delimiter` is the quote");
        }
        let (template, format) = (template?, format?);
        let lines = config.lines.unwrap_or(if context.carries == Carries::Samples { Lines::Samples } else { Lines::Records });
        let mut header = Vec::new();
        if format == FileFormat::Csv {
            let columns: &[&str] = if lines == Lines::Samples { &SAMPLE_COLUMNS } else { &RECORD_COLUMNS };
            let mut row = CsvRow::new(csv, &mut header);
            columns.iter().for_each(|column| row.field(column.as_bytes()));
            row.end();
        }
        let follows_time = template.names().any(|name| name == "date" || name == "hour");
        let layout = Layout {
            folder: folder.into(),
            name: context.name.clone(),
            gzip,
            rotates: follows_time || config.rotate.every.is_some() || config.rotate.size.is_some(),
            max_bytes: config.rotate.size.as_ref().map_or(u64::MAX, |size| size.0),
            header,
        };
        let every = config.rotate.every.as_ref().map(|every| every.0);
        Some(Self { path: config.path.value.clone(), template, layout, format, lines, every, flush_every: config.flush_every.0, csv })
    }

    /// The file of a partition at a time.
    fn stem(&self, topic: &str, partition: i32, now: Timestamp) -> PathBuf {
        let mut path = Vec::new();
        let _ = self.template.render(&mut path, |name, out| -> io::Result<()> {
            match name {
                "topic" => out.extend_from_slice(topic.as_bytes()),
                "partition" => write!(out, "{partition}")?,
                "date" => write!(out, "{}", now.strftime("%Y-%m-%d"))?,
                _ => write!(out, "{}", now.strftime("%Y-%m-%dT%H"))?,
            }
            Ok(())
        });
        String::from_utf8_lossy(&path).into_owned().into()
    }

    fn window(&self, now: Timestamp) -> i64 {
        self.every.map_or(0, |every| now.as_second().div_euclid(every.as_secs().max(1) as i64))
    }

    /// Whether the file of this stem is written now. Any partition may have made the stem: its times are compared.
    fn is_current(&self, stem: &Path, window: i64, now: Timestamp) -> bool {
        let stem = stem.to_string_lossy();
        let shows = |name: &str, time: &str| !self.template.names().any(|n| n == name) || stem.contains(time);
        window == self.window(now)
            && shows("date", &now.strftime("%Y-%m-%d").to_string())
            && shows("hour", &now.strftime("%Y-%m-%dT%H").to_string())
    }

    /// Appends a record's line. Inner error: why the files can never hold it.
    fn line(&self, records: &Records, index: usize, out: &mut Vec<u8>) -> Result<(), Reason> {
        let record = &records.records[index];
        match (self.lines, self.format) {
            (Lines::Records, FileFormat::Ndjson) => envelope::write(records, record, out),
            (Lines::Records, FileFormat::Csv) => self.record_row(records, record, out)?,
            (Lines::Samples, format) => {
                let batch = records.batch.as_ref().ok_or("the samples were not decoded")?;
                let columns = batch.decoded.as_ref().ok_or("the samples' own columns are missing")?;
                let row = batch.rows.get(index).ok_or("the sample is missing")?;
                match format {
                    FileFormat::Ndjson => {
                        json::encode(&meta(batch, columns, index), row, &batch.heap, out);
                        out.push(b'\n');
                    }
                    FileFormat::Csv => self.sample_row(&meta(batch, columns, index), row, &batch.heap, out),
                }
            }
        }
        Ok(())
    }

    fn record_row(&self, records: &Records, record: &Record, out: &mut Vec<u8>) -> Result<(), Reason> {
        let start = out.len();
        let text = |what: &str, span: Option<Span>| {
            let bytes = span.map_or(&b""[..], |span| records.of(span));
            std::str::from_utf8(bytes).map_err(|_| format!("the {what} is not text, which a CSV cannot hold; use ndjson"))
        };
        let mut headers = Vec::new();
        for (name, value) in millrace_schemas::headers(records.of(record.headers)) {
            headers.push((name, value.map(|value| String::from_utf8_lossy(value).into_owned())));
        }
        let headers = if headers.is_empty() { String::new() } else { serde_json::to_string(&headers).unwrap_or_default() };
        let part = records.partition(record);
        let fields = [
            part.topic.to_string(),
            part.partition.to_string(),
            record.offset.to_string(),
            time_text(Micros(record.timestamp_ms.saturating_mul(1000))),
            text("key", record.key)?.to_owned(),
            headers,
        ];
        let value = text("value", record.value)?;
        out.truncate(start);
        let mut row = CsvRow::new(self.csv, out);
        fields.iter().for_each(|field| row.field(field.as_bytes()));
        row.field(value.as_bytes());
        row.end();
        Ok(())
    }

    fn sample_row(&self, meta: &SampleMeta<'_>, sample: &Row, heap: &[u8], out: &mut Vec<u8>) {
        let mut value = Vec::new();
        // Writing to memory can't fail.
        let _ = write_plain(sample.value, heap, &mut value);
        let mut row = CsvRow::new(self.csv, out);
        row.field(meta.tag.as_bytes());
        row.field(time_text(sample.time).as_bytes());
        row.field(&value);
        row.field(format!("0x{:08X}", sample.status.0).as_bytes());
        row.field(sample.status.quality().as_str().as_bytes());
        row.field(sample.flags.origin.as_str().as_bytes());
        row.field(sample.flags.time_source.as_str().as_bytes());
        row.field(time_text(meta.read_time).as_bytes());
        row.field(meta.source.as_bytes());
        row.field(meta.seq.to_string().as_bytes());
        row.end();
    }
}

fn meta<'a>(batch: &'a Batch, columns: &Columns, index: usize) -> SampleMeta<'a> {
    let time = |times: &[Micros]| times.get(index).copied().unwrap_or(Micros::NONE);
    let text = |spans: &[Span]| spans.get(index).map_or("", |span| batch.text_of(*span));
    SampleMeta {
        tag: text(&columns.tag_path),
        def: columns.def.get(index).copied().unwrap_or(0),
        read_time: time(&columns.read_time),
        device_time: Some(time(&columns.device_time)).filter(|time| !time.is_none()),
        source: text(&columns.source),
        seq: columns.seq.get(index).copied().unwrap_or(0),
    }
}

/// One row of a CSV being written.
struct CsvRow<'a> {
    dialect: Dialect,
    out: &'a mut Vec<u8>,
    is_first: bool,
}

impl<'a> CsvRow<'a> {
    fn new(dialect: Dialect, out: &'a mut Vec<u8>) -> Self {
        Self { dialect, out, is_first: true }
    }

    fn field(&mut self, field: &[u8]) {
        if !self.is_first {
            self.out.push(self.dialect.delimiter);
        }
        self.is_first = false;
        self.dialect.write_field(field, self.out);
    }

    fn end(self) {
        self.out.push(b'\n');
    }
}

fn time_text(time: Micros) -> String {
    Timestamp::from_microsecond(time.0).map_or_else(|_| time.0.to_string(), |time| time.to_string())
}

/// A value as a person reads it: nothing for null, text as it is, bytes in base64, arrays in brackets, a structure as its JSON.
fn write_plain(value: Value, heap: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    match value {
        Value::Null => Ok(()),
        Value::Bool(value) => write!(out, "{value}"),
        Value::Int(value) => write!(out, "{value}"),
        Value::UInt(value) => write!(out, "{value}"),
        Value::Double(value) => write!(out, "{value}"),
        Value::Text(span) | Value::Struct(span) => out.write_all(span.of(heap)),
        Value::Bytes(span) => out.write_all(BASE64_STANDARD.encode(span.of(heap)).as_bytes()),
        Value::Array(kind, span) => {
            let Some(array) = Array::read(kind, span, heap) else { return Ok(()) };
            let items: Vec<String> = match kind {
                Kind::Bool => array.bools().map(|item| item.to_string()).collect(),
                Kind::Int => array.words().map(|item| i64::from_le_bytes(item).to_string()).collect(),
                Kind::UInt => array.words().map(|item| u64::from_le_bytes(item).to_string()).collect(),
                Kind::Double => array.words().map(|item| f64::from_le_bytes(item).to_string()).collect(),
                Kind::Text => array.blobs().map(|item| format!("{:?}", String::from_utf8_lossy(item))).collect(),
                Kind::Bytes => array.blobs().map(|item| BASE64_STANDARD.encode(item)).collect(),
            };
            write!(out, "[{}]", items.join(", "))
        }
    }
}

/// A compiled file sink.
struct Writing {
    writer: Arc<Writer>,
    model: Model,
    topics: Vec<String>,
}

impl Compiled for Writing {
    fn model(&self) -> &Model {
        &self.model
    }

    fn sink(&self) -> Option<Box<dyn Sink>> {
        Some(Box::new(FileSink { writer: self.writer.clone(), archive: None, assigned: HashSet::new() }))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce("the files' offsets are kept beside them, in one step with their length".into())
    }

    fn plan(&self) -> Plan {
        let writer = &self.writer;
        let what = match (writer.lines, writer.format) {
            (Lines::Records, FileFormat::Ndjson) => "records with key, headers and timestamp, as ndjson",
            (Lines::Records, FileFormat::Csv) => "records as csv",
            (Lines::Samples, FileFormat::Ndjson) => "samples as ndjson",
            (Lines::Samples, FileFormat::Csv) => "samples as csv",
        };
        let mut lines = vec![format!("writes {}: {what}, durable every {:?}", self.topics.join(", "), writer.flush_every)];
        if let Some(every) = writer.every {
            lines.push(format!("begins a file every {every:?}"));
        }
        if writer.layout.max_bytes < u64::MAX {
            lines.push(format!("begins a file after {} bytes", writer.layout.max_bytes));
        }
        Plan { endpoint: writer.path.clone(), lines, rate: None }
    }
}

struct FileSink {
    writer: Arc<Writer>,
    /// From `assign` on.
    archive: Option<Archive>,
    /// The ledger may know partitions that another has now.
    assigned: HashSet<Partition>,
}

impl FileSink {
    /// Runs work on the archive where it may wait for the disk. After an error the archive is gone: the engine makes a new instance.
    async fn on_disk<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Archive, &Writer) -> Result<T, Reason> + Send + 'static,
    ) -> Result<T, Failure> {
        let writer = self.writer.clone();
        let archive = self.archive.take();
        let done = tokio::task::spawn_blocking(move || {
            let mut archive = match archive {
                Some(archive) => archive,
                None => Archive::open(writer.layout.clone())?,
            };
            let result = work(&mut archive, &writer)?;
            Ok((archive, result))
        });
        match done.await {
            Ok(Ok((archive, result))) => {
                self.archive = Some(archive);
                Ok(result)
            }
            Ok(Err(error)) => Err(Failure::Reconnect(error)),
            Err(error) => Err(Failure::Reconnect(format!("writing {} failed: {error}", self.writer.path))),
        }
    }
}

fn disk(writer: &Writer, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there",
        io::ErrorKind::PermissionDenied => "; let the user millrace runs as write there",
        io::ErrorKind::ReadOnlyFilesystem => "; the file system is read-only, perhaps after a fault",
        _ => "",
    };
    format!("cannot write {}: {error}{advice}", writer.path)
}

#[async_trait]
impl Sink for FileSink {
    fn input(&self) -> Input {
        match self.writer.lines {
            Lines::Records => Input::Raw,
            Lines::Samples => Input::Samples,
        }
    }

    fn flush_every(&self) -> Duration {
        self.writer.flush_every
    }

    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure> {
        self.assigned.extend(parts.iter().cloned());
        let parts = parts.to_vec();
        self.on_disk(move |archive, _| Ok(parts.iter().map(|part| archive.offset(&part.topic, part.partition)).collect())).await
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        let now = Timestamp::now();
        let window = self.writer.window(now);
        let mut refused = Vec::new();
        // One piece of text per file; partitions of a batch are few.
        let mut texts: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        let mut next = Vec::new();
        for (index, part) in records.parts.iter().enumerate() {
            let stem = self.writer.stem(&part.topic, part.partition, now);
            let text = match texts.iter().position(|(path, _)| *path == stem) {
                Some(at) => at,
                None => {
                    texts.push((stem, Vec::new()));
                    texts.len() - 1
                }
            };
            let mut last = None;
            for (row, record) in records.records.iter().enumerate().filter(|(_, record)| record.part as usize == index) {
                if let Err(reason) = self.writer.line(records, row, &mut texts[text].1) {
                    refused.push(Refused { partition: part.clone(), offset: record.offset, reason: reason.into() });
                }
                last = Some(record.offset);
            }
            next.extend(last.map(|last| (part.clone(), last + 1)));
        }
        self.on_disk(move |archive, writer| {
            for (stem, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
                archive.write(stem, window, text).map_err(|error| disk(writer, &error))?;
            }
            for (part, next) in next {
                archive.advance(&part.topic, part.partition, next);
            }
            Ok(())
        })
        .await?;
        Ok(refused)
    }

    async fn flush(&mut self, _why: Flush) -> Result<Flushed, Failure> {
        let now = Timestamp::now();
        let assigned = self.assigned.clone();
        self.on_disk(move |archive, writer| {
            archive.flush(|stem, window| writer.is_current(stem, window, now)).map_err(|error| disk(writer, &error))?;
            let written = |part: &Partition| archive.written().get(&*part.topic)?.get(&part.partition).copied();
            let below = assigned.into_iter().filter_map(|part| written(&part).map(|next| (part, next))).collect();
            Ok(Flushed { below, ..Flushed::default() })
        })
        .await
    }

    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        for part in parts {
            self.assigned.remove(part);
        }
        let parts = parts.to_vec();
        self.on_disk(move |archive, writer| {
            let parts: Vec<_> = parts.iter().map(|part| (&*part.topic, part.partition)).collect();
            archive.forget(&parts).map_err(|error| disk(writer, &error).into())
        })
        .await
    }
}
