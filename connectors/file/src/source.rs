//! The file source: its configuration, and the session that reads what the watch found.
//!
//! ```text
//! look (every `every`) -> for each file: read records -> batch -> send, the file's position with it
//!                          whole and durable: keep it, delete it, or move it
//! ```

use crate::content::{self, Encoding, FieldTypes, Origin};
use crate::csv::{Dialect, Fields};
use crate::position::{FileId, Position};
use crate::records::{Cut, Records};
use crate::samples::{Declared, Missing, Sampler, Samples, SamplesConfig};
use crate::watch::{Pattern, Scan, Task, Watch, Work};
use async_trait::async_trait;
use millrace_config::{ByteSize, Period, Place, Problems, Severity, Spanned};
use millrace_contract::{AckId, Compiled, Context, Failure, Guarantee, Model, Plan, Plugin, Role, Route, Source, SourceIo, Status};
use millrace_kit::Template;
use millrace_kit::time::TimeConfig;
use millrace_schemas::{Batch, Doc, Micros, Reject, RouteId, Span};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Reads files: every file of a watched folder once, or tailed files for ever.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSourceConfig {
    /// The files: `/var/lib/stand/*.csv` watches a folder, `/var/log/press.ndjson` tails a file. `**` stands for folders of any depth.
    /// Files that end in `.gz` are decompressed. Hidden files are passed over.
    pub path: Spanned<String>,
    /// Whether files end. Left out: `folder` for a path with wildcards, `tail` for one without.
    #[serde(default)]
    pub mode: Option<Spanned<Mode>>,
    /// What the files hold. Left out: as the file's name says (`.csv`, `.ndjson`, `.jsonl`, `.json`).
    #[serde(default)]
    pub format: Option<Spanned<Format>>,
    /// The characters of the files.
    #[serde(default)]
    pub encoding: Encoding,
    /// How CSV is written.
    #[serde(default)]
    pub csv: Csv,
    /// How often to look at the files.
    #[serde(default = "every")]
    pub every: Spanned<Period>,
    /// A file of a folder that is unchanged for this long is whole: its last line counts without a newline, and it is done.
    #[serde(default = "settle")]
    pub settle: Period,
    /// What happens to a file of a folder that is read and durable.
    #[serde(default)]
    pub when_done: WhenDone,
    /// The folder for `when_done: move`, on the same file system.
    #[serde(default)]
    pub move_to: Option<Spanned<PathBuf>>,
    /// The key of a document: a text with `{column}`, `{/json/pointer}` or `{file}` (the file's name up to its first dot).
    #[serde(default)]
    pub key: Option<Spanned<String>>,
    /// Tags out of each record, instead of documents: the tag's name, and the column or the JSON Pointer of its value.
    #[serde(default)]
    pub samples: Option<Spanned<SamplesConfig>>,
    /// Where a record's own time stands. Left out: the time when it is read.
    #[serde(default)]
    pub time: Option<TimeConfig>,
    /// Where a record's status stands, the column or the JSON Pointer: `good`, `uncertain`, `bad`, or an OPC UA status code.
    #[serde(default)]
    pub status: Option<Spanned<String>>,
    /// What a record that lacks a sample's column or pointer means.
    #[serde(default)]
    pub missing: Missing,
    /// The longest record; a longer one becomes a dead letter with its first bytes.
    #[serde(default = "max_record")]
    pub max_record: ByteSize,
}

fn every() -> Spanned<Period> {
    Spanned::from(Period::from_secs(1))
}

fn settle() -> Period {
    Period::from_secs(5)
}

fn max_record() -> ByteSize {
    ByteSize(16 * 1024 * 1024)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Each file is read once to its end.
    Folder,
    /// Each file is followed for ever, through rotation by renaming and by truncating.
    Tail,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON value per line.
    Ndjson,
    /// Delimited fields, as RFC 4180 has them.
    Csv,
    /// What a file sink wrote: keys, headers, timestamps and values as they were in Kafka.
    Envelope,
}

/// How a CSV is written.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Csv {
    /// Between fields: one character of ASCII; `","` unless said.
    pub delimiter: Option<Spanned<String>>,
    /// Around fields that hold delimiters or newlines; `'"'` unless said.
    pub quote: Option<Spanned<String>>,
    /// Names of the columns, for files without a header row.
    pub columns: Option<Spanned<Vec<String>>>,
    /// Lines before the header row, to pass over.
    pub skip_lines: u64,
    /// The decimal sign of numbers; `"."` unless said.
    pub decimal: Option<Spanned<String>>,
    /// Whether fields of documents that look like numbers and booleans become such; otherwise each is a text. Samples always do.
    pub infer: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenDone {
    /// It stays; its position is remembered while it does.
    #[default]
    Keep,
    /// It is deleted.
    Delete,
    /// It is moved to `move_to`.
    Move,
}

/// The plugin `file`, as a source.
pub struct FileSourcePlugin;

impl Plugin for FileSourcePlugin {
    const TYPE: &'static str = "file";
    const ROLE: Role = Role::Source;
    type Config = FileSourceConfig;

    fn compile(config: FileSourceConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let before = problems.iter().count();
        let setup = Setup::check(&config, context, problems);
        if problems.iter().skip(before).any(|problem| problem.severity == Severity::Error) {
            return None;
        }
        Some(Box::new(Reader::new(Arc::new(setup?))))
    }
}

/// A configuration that was checked.
#[derive(Debug)]
struct Setup {
    pattern: Pattern,
    path: String,
    is_tail: bool,
    format: Format,
    encoding: Encoding,
    dialect: Option<Dialect>,
    columns: Option<Vec<String>>,
    skip_lines: u64,
    types: FieldTypes,
    every: Duration,
    settle: Duration,
    when_done: WhenDone,
    move_to: Option<PathBuf>,
    key: Option<Template>,
    max_record_bytes: usize,
    samples: Option<Arc<Samples>>,
    topic: Arc<str>,
    /// The route's topic is `{topic}`: the envelope's own.
    takes_topic: bool,
}

impl Setup {
    fn check(config: &FileSourceConfig, context: &Context, problems: &mut Problems) -> Option<Self> {
        let pattern = match Pattern::parse(&config.path) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                problems.error(config.path.place, format!("`{}` is no pattern of files: {error}", *config.path));
                None
            }
        };
        let mode = config.mode.as_ref().map(|mode| **mode);
        let is_wild = pattern.as_ref().is_some_and(Pattern::is_wild);
        let is_tail = mode.map_or(!is_wild, |mode| mode == Mode::Tail);
        let format = config.format.as_ref().map(|format| **format).or_else(|| format_of(&config.path));
        if format.is_none() {
            problems
                .error(config.path.place, format!("the name of `{}` does not say what it holds", *config.path))
                .help("add `format: ndjson`, `csv` or `envelope`");
        }
        if config.every.0.is_zero() {
            problems.error(config.every.place, "`every` must be more than 0");
        }
        if is_tail && config.when_done != WhenDone::Keep {
            problems
                .error(config.path.place, "`when_done` is for folders: a tailed file is never done")
                .help("add `mode: folder`, or leave `when_done` out");
        }
        if is_tail && config.path.ends_with(".gz") {
            problems.error(config.path.place, "a compressed file cannot be tailed").help("add `mode: folder`");
        }
        match (&config.move_to, config.when_done) {
            (None, WhenDone::Move) => {
                problems.error(config.path.place, "`when_done: move` wants `move_to`, the folder to move to");
            }
            (Some(folder), WhenDone::Move)
                if pattern.as_ref().is_some_and(|p| p.matches(&folder.join("x")) || p.matches(&folder.join("x.csv"))) =>
            {
                problems.error(folder.place, format!("files moved to {} would be read again: `path` matches there too", folder.display()));
            }
            (Some(folder), WhenDone::Keep | WhenDone::Delete) => {
                problems.error(folder.place, "`move_to` is for `when_done: move`");
            }
            _ => {}
        }
        if format == Some(Format::Envelope) && config.key.is_some() {
            problems.error(config.path.place, "`key` has no place here: an envelope brings its own keys");
        }
        let key = config.key.as_ref().and_then(|key| Template::parse(key, key.place, problems, content::is_known_name));
        let csv = &config.csv;
        let dialect = Dialect {
            delimiter: one_byte(&csv.delimiter, "delimiter", b',', problems),
            quote: one_byte(&csv.quote, "quote", b'"', problems),
        };
        if dialect.delimiter == dialect.quote {
            problems.error(config.path.place, "`delimiter` and `quote` are the same character");
        }
        let topic = context.options.topic.as_deref().map(Arc::from).or_else(|| context.topic.clone());
        if topic.is_none() {
            problems
                .error(context.place, format!("source `{}` has no topic", context.name))
                .help("add `topic:`, the Kafka topic of its records");
        }
        let topic = topic.unwrap_or_else(|| Arc::from(""));
        let takes_topic = &*topic == "{topic}";
        if topic.contains(['{', '}']) && !(takes_topic && format == Some(Format::Envelope)) {
            problems
                .error(context.place, format!("topic `{topic}` is no name of a topic"))
                .help("`{topic}` alone, with `format: envelope`, takes each record's own topic");
        }
        let samples = match &config.samples {
            None => {
                let alone = [config.time.as_ref().map(|time| time.at.place), config.status.as_ref().map(|status| status.place)];
                for place in alone.into_iter().flatten() {
                    problems.error(place, "`time` and `status` are for `samples`: a document is passed on as it is");
                }
                None
            }
            Some(samples) if samples.is_empty() => {
                problems.error(samples.place, "`samples` is empty").help("name a tag and its column: `torque: torque_nm`");
                None
            }
            Some(samples) => {
                if let Some(key) = &config.key {
                    problems.error(key.place, "`key` is for documents: the key of a sample is its tag");
                }
                if format == Some(Format::Envelope) {
                    problems.error(samples.place, "`samples` has no place here: an envelope is passed on as it is");
                }
                let how = (&samples.value, config.time.as_ref(), config.status.as_ref(), config.missing);
                Samples::compile(how, format == Some(Format::Csv), &topic, context, problems).map(Arc::new)
            }
        };
        let decimal = one_byte(&csv.decimal, "decimal", b'.', problems);
        Some(Self {
            pattern: pattern?,
            path: config.path.value.clone(),
            is_tail,
            format: format?,
            encoding: config.encoding,
            dialect: (format == Some(Format::Csv)).then_some(dialect),
            columns: csv.columns.as_ref().map(|columns| columns.value.clone()),
            skip_lines: csv.skip_lines,
            types: FieldTypes { infer: csv.infer, decimal },
            every: config.every.0,
            settle: config.settle.0,
            when_done: config.when_done,
            move_to: config.move_to.as_ref().map(|folder| folder.value.clone()),
            key,
            max_record_bytes: usize::try_from(config.max_record.0).unwrap_or(usize::MAX).clamp(1, u32::MAX as usize / 4),
            samples,
            topic,
            takes_topic,
        })
    }
}

pub(crate) fn one_byte(text: &Option<Spanned<String>>, key: &str, default: u8, problems: &mut Problems) -> u8 {
    let Some(text) = text else { return default };
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => *byte,
        _ => {
            let place: Place = text.place;
            problems.error(place, format!("`{key}` is one character of ASCII, not {:?}", text.value)).help("a tab is \"\\t\"");
            default
        }
    }
}

/// What a file holds, as far as its name says.
fn format_of(path: &str) -> Option<Format> {
    let name = path.strip_suffix(".gz").unwrap_or(path);
    match name.rsplit_once('.')?.1 {
        "csv" | "CSV" => Some(Format::Csv),
        "ndjson" | "jsonl" | "json" => Some(Format::Ndjson),
        _ => None,
    }
}

struct Reader {
    setup: Arc<Setup>,
    model: Model,
}

impl Reader {
    fn new(setup: Arc<Setup>) -> Self {
        let route = Route { topic: setup.topic.clone(), name: setup.path.clone(), samples: setup.samples.is_some() };
        let tags = setup.samples.as_ref().map_or_else(Vec::new, |samples| samples.tags().to_vec());
        Self { model: Model { tags, routes: vec![route] }, setup }
    }
}

impl Compiled for Reader {
    fn model(&self) -> &Model {
        &self.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(FileSource { setup: self.setup.clone() }))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce("each file's position is kept with its data".into())
    }

    fn plan(&self) -> Plan {
        let setup = &self.setup;
        let format = match setup.format {
            Format::Ndjson => "ndjson",
            Format::Csv => "csv",
            Format::Envelope => "what a file sink wrote",
        };
        let how = if setup.is_tail { "tails the file through its rotations" } else { "reads each file once" };
        let mut lines = vec![format!("{how}: {format}, looks every {:?}", setup.every)];
        if let Some(samples) = &setup.samples {
            lines.push(format!("{} tags out of each record", samples.tags().len()));
        }
        match (setup.when_done, &setup.move_to) {
            (WhenDone::Delete, _) => lines.push("deletes a file when it is durable".into()),
            (WhenDone::Move, Some(folder)) => lines.push(format!("moves a file to {} when it is durable", folder.display())),
            _ => {}
        }
        Plan { endpoint: setup.path.clone(), lines, rate: None }
    }
}

/// Records and bytes of a batch, at most.
const BATCH_RECORDS: usize = 4096;
const BATCH_BYTES: usize = 4 * 1024 * 1024;

struct FileSource {
    setup: Arc<Setup>,
}

/// One file being read.
struct Reading {
    setup: Arc<Setup>,
    records: Records,
    /// For fingerprints.
    file: File,
    is_whole: bool,
    is_gzip: bool,
    columns: Vec<String>,
    sampler: Option<Sampler>,
    /// A record's fields as text, used again.
    readable: Fields,
    /// A record as text, used again.
    record: Vec<u8>,
    position: Position,
    /// Something in it that a person should look at.
    trouble: Option<String>,
    at_end: bool,
}

impl Reading {
    /// `None`: its header is not whole yet.
    fn open(setup: Arc<Setup>, work: Work) -> io::Result<Option<Self>> {
        let Work { file, position, is_whole, is_gzip, .. } = work;
        let mut start = (position.offset, position.line);
        let records = |dialect, start| Records::open(file.try_clone()?, is_gzip, dialect, setup.max_record_bytes, is_whole, start);
        let mut columns = setup.columns.clone().unwrap_or_default();
        if setup.dialect.is_some() && (setup.skip_lines > 0 || setup.columns.is_none()) {
            let mut top = records(None, (0, 0))?;
            for _ in 0..setup.skip_lines {
                if top.next_record()?.is_none() {
                    return Ok(None);
                }
            }
            let mut top = records(setup.dialect, (top.offset, top.line))?;
            if setup.columns.is_none() {
                if !matches!(top.next_record()?, Some(Cut::Record(_))) {
                    return Ok(None);
                }
                columns = header(&top.fields, setup.encoding).map_err(io::Error::other)?;
            }
            if start.0 < top.offset {
                start = (top.offset, top.line);
            }
        }
        let records = records(setup.dialect, start)?;
        let sampler = setup.samples.as_ref().map(|samples| Sampler::new(samples, &columns)).transpose().map_err(io::Error::other)?;
        let (readable, record, trouble) = (Fields::default(), Vec::new(), None);
        Ok(Some(Self { setup, records, file, is_whole, is_gzip, columns, sampler, readable, record, position, trouble, at_end: false }))
    }

    /// Fills the batch with what comes next. Returns whether the position moved.
    fn fill(&mut self, declared: &mut Declared, batch: &mut Batch) -> bool {
        while batch.len() < BATCH_RECORDS && batch.heap.len() < BATCH_BYTES {
            let line = self.records.line + 1;
            let mut reject = None;
            match self.records.next_record() {
                Ok(None) => {
                    self.at_end = true;
                    break;
                }
                Ok(Some(Cut::Record(record))) => {
                    if record.is_empty() {
                        continue;
                    }
                    let payload = batch.push_bytes(record);
                    if let Err(reason) = self.push(payload, declared, batch) {
                        reject = Some((payload, reason));
                    }
                }
                Ok(Some(Cut::TooLong(shown))) => {
                    let payload = batch.push_bytes(shown);
                    let reason = format!("longer than {} bytes, these are its first; raise `max_record`", self.setup.max_record_bytes);
                    reject = Some((payload, reason));
                }
                Ok(Some(Cut::OpenQuote(record))) => {
                    let payload = batch.push_bytes(record);
                    reject = Some((payload, "a quote is opened and never closed".into()));
                }
                Err(error) => {
                    self.at_end = true;
                    let what = format!("cannot read {} beyond line {}: {error}", self.position.path.display(), self.records.line);
                    // Compressed files arrive in pieces: an end too soon is none while the file may grow.
                    if self.is_whole || error.kind() != io::ErrorKind::UnexpectedEof {
                        if self.is_gzip && self.is_whole {
                            let payload = batch.push_bytes(b"");
                            reject = Some((payload, format!("{what}; what follows is lost, fetch the file again")));
                        }
                        self.trouble = Some(what);
                    }
                }
            }
            if let Some((payload, reason)) = reject {
                self.reject(line, payload, &reason, batch);
            }
            if self.at_end {
                break;
            }
        }
        self.moved()
    }

    /// Takes the position of what is read. Returns whether it is another.
    fn moved(&mut self) -> bool {
        let done = self.at_end && self.is_whole && !self.setup.is_tail;
        if self.records.offset == self.position.offset && done == self.position.done {
            return false;
        }
        self.position.offset = self.records.offset;
        self.position.line = self.records.line;
        self.position.done = done;
        if let Ok(metadata) = self.file.metadata() {
            self.position.changed = metadata.mtime();
            let read = if self.is_gzip { metadata.size() } else { self.records.offset };
            if let Err(error) = self.position.fingerprint(&self.file, read) {
                self.trouble = Some(format!("cannot read {} again: {error}", self.position.path.display()));
            }
        }
        true
    }

    /// One record into the batch. `payload` is the record as it came.
    fn push(&mut self, payload: Span, declared: &mut Declared, batch: &mut Batch) -> Result<(), String> {
        let setup = &self.setup;
        if let Some(sampler) = &mut self.sampler {
            if setup.format == Format::Csv {
                let fields = &self.records.fields;
                if fields.is_blank() {
                    return Ok(());
                }
                content::check_width(&self.columns, fields)?;
                content::readable(fields, setup.encoding, setup.types.decimal, &mut self.readable)?;
                return sampler.row(&self.readable, &self.position.path, declared, batch);
            }
            self.record.clear();
            self.record.extend_from_slice(setup.encoding.decode(batch.bytes_of(payload))?.trim().as_bytes());
            return if self.record.is_empty() { Ok(()) } else { sampler.json(&self.record, declared, batch) };
        }
        match setup.format {
            Format::Envelope => {
                let line = batch.bytes_of(payload).to_vec();
                content::push_envelope(&line, setup.takes_topic, batch)
            }
            Format::Ndjson => {
                let text = setup.encoding.decode(batch.bytes_of(payload))?;
                let trimmed = text.trim();
                if trimmed.is_empty() {
                    return Ok(());
                }
                content::check_json(trimmed)?;
                let json = if let std::borrow::Cow::Borrowed(_) = text {
                    let skipped = (text.len() - text.trim_start().len()) as u32;
                    Span { start: payload.start + skipped, len: trimmed.len() as u32 }
                } else {
                    let decoded = trimmed.to_owned();
                    batch.push_bytes(decoded.as_bytes())
                };
                self.push_document(json, batch)
            }
            Format::Csv => {
                if self.records.fields.is_blank() {
                    return Ok(());
                }
                let start = batch.heap.len();
                content::write_object(&self.columns, &self.records.fields, setup.encoding, setup.types, &mut batch.heap)?;
                let json = batch.span_from(start);
                self.push_document(json, batch)
            }
        }
    }

    fn push_document(&self, json: Span, batch: &mut Batch) -> Result<(), String> {
        let key = match &self.setup.key {
            None => Span::EMPTY,
            Some(template) => {
                let mut key = Vec::new();
                content::write_key(template, batch.bytes_of(json), &Origin { path: &self.position.path }, &mut key)?;
                batch.push_bytes(&key)
            }
        };
        let time = batch.read_time;
        batch.docs.push(Doc { route: RouteId(0), time, key, headers: Span::EMPTY, payload: Some(json), topic: Span::EMPTY });
        Ok(())
    }

    fn reject(&self, line: u64, payload: Span, reason: &str, batch: &mut Batch) {
        let path = self.position.path.to_string_lossy();
        let number = line.to_string();
        let headers = batch.push_headers([("millrace.file", Some(path.as_bytes())), ("millrace.line", Some(number.as_bytes()))]);
        let reason = format!("cannot read line {line} of {path}: {reason}");
        batch.rejects.push(Reject { route: RouteId(0), key: Span::EMPTY, headers, payload, reason });
    }
}

/// The names of the columns: an empty one is called after its number.
fn header(fields: &Fields, encoding: Encoding) -> Result<Vec<String>, String> {
    let name = |(index, field): (usize, &[u8])| {
        let name = encoding.decode(field).map_err(|error| format!("its header row: {error}"))?;
        let name = name.trim();
        Ok(if name.is_empty() { format!("column_{}", index + 1) } else { name.to_owned() })
    };
    fields.iter().enumerate().map(name).collect()
}

/// A file that is whole and read, to be finished when it is durable.
struct Finished {
    ack: AckId,
    id: FileId,
    path: PathBuf,
}

#[async_trait]
impl Source for FileSource {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let setup = self.setup.clone();
        let mut declared = Declared::new(&io, setup.samples.as_deref())?;
        let positions: BTreeMap<_, _> =
            io.positions("").iter().filter_map(|(key, value)| Some((FileId::from_key(key)?, Position::decode(value)?))).collect();
        let mut watch = Watch::new(setup.pattern.clone(), setup.is_tail, setup.settle, positions);
        let finishes = setup.when_done != WhenDone::Keep;
        let mut finished: BTreeMap<FileId, Finished> = BTreeMap::new();
        let mut said = None;
        let mut spare: Option<Batch> = None;
        let stopping = io.stopping();
        tokio::pin!(stopping);
        loop {
            let scan: Scan;
            (watch, scan) = off_the_runtime(move || {
                let scan = watch.scan(finishes);
                (watch, scan)
            })
            .await?;
            let mut trouble = scan.trouble;
            for task in scan.tasks {
                let id = match &task {
                    Task::Read { id, .. } | Task::Finish { id, .. } => *id,
                    Task::Rest(work) => work.id,
                };
                if let Task::Finish { path, .. } = task {
                    finished.entry(id).or_insert(Finished { ack: AckId(0), id, path });
                    continue;
                }
                let opened;
                (watch, opened) = {
                    let setup = setup.clone();
                    off_the_runtime(move || {
                        let opened = open(&mut watch, setup, task);
                        (watch, opened)
                    })
                    .await?
                };
                let mut reading = match opened {
                    Ok(Some(reading)) => reading,
                    // Not whole yet, or another file by now: the next look sees.
                    Ok(None) => continue,
                    Err(error) => {
                        watch.try_again(id);
                        trouble = Some(error);
                        continue;
                    }
                };
                while !reading.at_end {
                    let mut batch = match spare.take() {
                        Some(batch) => batch,
                        None => tokio::select! {
                            biased;
                            () = &mut stopping => return Ok(()),
                            batch = io.batch() => batch,
                        },
                    };
                    let moved;
                    (reading, declared, batch, moved) = off_the_runtime(move || {
                        batch.read_time = Micros::now();
                        let moved = reading.fill(&mut declared, &mut batch);
                        (reading, declared, batch, moved)
                    })
                    .await?;
                    if batch.is_empty() && !moved {
                        spare = Some(batch);
                        continue;
                    }
                    let ack = io.send(batch, &[(&id.key(), &reading.position.encode())]).await;
                    watch.read_up_to(id, reading.position.clone());
                    if reading.position.done && finishes {
                        finished.insert(id, Finished { ack, id, path: reading.position.path.clone() });
                    }
                }
                if reading.trouble.is_some() {
                    trouble = reading.trouble;
                    if !reading.position.done {
                        watch.try_again(id);
                    }
                }
            }
            for id in scan.forgotten {
                watch.forget(id);
                tokio::select! {
                    biased;
                    () = &mut stopping => return Ok(()),
                    () = forget(&io, id) => {}
                }
            }

            let status = trouble.map_or(Status::Running, Status::Degraded);
            if said.as_ref() != Some(&status) {
                io.status("", status.clone());
                said = Some(status);
            }
            let next_look = tokio::time::sleep(setup.every);
            tokio::pin!(next_look);
            loop {
                let safe = async {
                    match finished.values().map(|file| file.ack).min() {
                        Some(AckId(0)) => AckId(0),
                        Some(ack) => io.durable(AckId(ack.0 - 1)).await,
                        None => std::future::pending().await,
                    }
                };
                let durable = tokio::select! {
                    biased;
                    () = &mut stopping => return Ok(()),
                    durable = safe => durable,
                    () = &mut next_look => break,
                };
                let done: Vec<_> = finished.iter().filter(|(_, file)| file.ack <= durable).map(|(id, _)| *id).collect();
                for file in done.iter().filter_map(|id| finished.remove(id)).collect::<Vec<_>>() {
                    if let Err(error) = finish(&setup, &file).await? {
                        let status = Status::Degraded(error);
                        io.status("", status.clone());
                        said = Some(status);
                        continue;
                    }
                    watch.forget(file.id);
                    tokio::select! {
                        biased;
                        () = &mut stopping => return Ok(()),
                        () = forget(&io, file.id) => {}
                    }
                }
            }
        }
    }
}

fn open(watch: &mut Watch, setup: Arc<Setup>, task: Task) -> Result<Option<Reading>, String> {
    let (path, work) = match task {
        Task::Read { id, path, is_whole } => {
            let work = watch.open(id, &path, is_whole);
            (path, work)
        }
        Task::Rest(work) => (work.position.path.clone(), Ok(Some(work))),
        Task::Finish { .. } => return Ok(None),
    };
    let opened = work.and_then(|work| work.map_or(Ok(None), |work| Reading::open(setup, work)));
    opened.map_err(|error| format!("cannot read {}: {error}", path.display()))
}

async fn forget(io: &SourceIo, id: FileId) {
    let batch = io.batch().await;
    io.send(batch, &[(&id.key(), &[])]).await;
}

/// Deletes or moves a file that is safe in the log. Inner error: why it could not be.
async fn finish(setup: &Arc<Setup>, file: &Finished) -> Result<Result<(), String>, Failure> {
    let (setup, path) = (setup.clone(), file.path.clone());
    off_the_runtime(move || match (setup.when_done, &setup.move_to) {
        (WhenDone::Delete, _) => match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("cannot delete {}: {error}", path.display())),
            _ => Ok(()),
        },
        (WhenDone::Move, Some(folder)) => {
            let to = free_name(folder, &path);
            fs::rename(&path, &to).map_err(|error| {
                format!("cannot move {} to {}: {error}; `move_to` is a folder of the same file system", path.display(), folder.display())
            })
        }
        _ => Ok(()),
    })
    .await
}

/// A name in the folder that nothing has: what was moved there before is not overwritten.
fn free_name(folder: &Path, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default();
    let mut to = folder.join(name);
    let mut number = 1;
    while to.exists() {
        let mut numbered = name.to_owned();
        numbered.push(format!(".{number}"));
        to = folder.join(numbered);
        number += 1;
    }
    to
}

/// Disks wait; the runtime's threads don't.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::Reconnect(format!("reading files failed: {error}")))
}
