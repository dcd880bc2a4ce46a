//! The keys of a file source in the YAML, checked without I/O.

use crate::content::{FieldTypes, KeyPart};
use crate::csv::Dialect;
use crate::records::Cutting;
use crate::samples::{Keys, Samples};
use crate::watch::Pattern;
use millrace_config::{ByteSize, Period, Place, Problems, Short, Spanned};
use millrace_contract::Context;
use millrace_kit::extract::{CellType, Missing, Notation, Nulls, Places, SamplesConfig, StatusConfig};
use millrace_kit::records::polling::max_tags;
use millrace_kit::time::TimeConfig;
use millrace_kit::{AllowedTopics, Encoding, Template};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Reads files: every file of a watched folder once, or tailed files forever.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSourceConfig {
    /// The files: `/var/lib/stand/*.csv` watches a folder, `/var/log/press.ndjson` tails a file. `**` stands for folders of any depth.
    /// Files that end in `.gz` are decompressed. Hidden files are passed over.
    /// What a rotation renamed is looked for in the tailed file's folder: by its inode, else by the bytes that were read of it, under any name and
    /// compressed too. What came between it and the file of today is found by names that differ in their digits only (`press.1`, `press-2026-11-28`).
    pub path: Spanned<String>,
    /// Whether files end. Left out: `folder` for a path with wildcards, `tail` for one without.
    #[serde(default)]
    pub mode: Option<Spanned<Mode>>,
    /// What the files hold. Left out: as the file's name says (`.csv`, `.ndjson`, `.jsonl`; `.json` in a folder is `json`, tailed `ndjson`).
    #[serde(default)]
    pub format: Option<Spanned<Format>>,
    /// The characters of the files: `utf-8` (default), `windows-1252`, `utf-16le`, `iso-8859-2`, `shift_jis`, `gbk` and the web's others. A mark in
    /// front of a file (UTF-8, UTF-16) goes before it. A NUL in a text is a fault: it shows UTF-16 read as something else.
    #[serde(default)]
    pub encoding: Encoding,
    /// How CSV is written.
    #[serde(default)]
    pub csv: Csv,
    /// How often to look at the files.
    #[serde(default = "every")]
    pub every: Spanned<Period>,
    /// A file of a folder that is unchanged for this long is whole, and done. A last line without a newline waits six times as long; if the file
    /// grows after all, that line is read again.
    #[serde(default = "settle")]
    pub settle: Period,
    /// What happens to a file of a folder that is read and durable. A file that cannot be understood, and one that lacks a declared column, stays
    /// where it is.
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
    /// JSON: where the list of readings stands in a record, or an object whose members are the readings; `""` where the record is the list. Several
    /// pointers lead down level by level. `tag` and `value` (or `samples`) point into each reading.
    #[serde(default)]
    pub each: Option<Places>,
    /// The tag that a record or a reading names, below `at`: a text with `{column}`, or in JSON `{/json/pointer}` and `{key}` (the member's name, the
    /// item's number); `{file}` is the file's name up to its first dot.
    #[serde(default)]
    pub tag: Option<Spanned<String>>,
    /// With `tag`: the column or the JSON Pointer of the value; of several pointers the one that is there.
    #[serde(default)]
    pub value: Option<Places>,
    /// With `value`: its type, as `as` of one of the `samples`.
    #[serde(default, rename = "as")]
    pub declared: Option<CellType>,
    /// How many tags records may name.
    #[serde(default = "max_tags")]
    pub max_tags: u32,
    /// The files are what a historian knows: every sample has the time of its record and the origin `backfill`, whatever its age. A record becomes a
    /// dead letter as a whole where its time is not believed (before 1990, or more than a day ahead), or its value or its status cannot be read. A tag
    /// without a declared type may have texts beside numbers.
    #[serde(default)]
    pub history: bool,
    /// Where a record's own time stands. Left out: the time when it is read. A time before 1990 is not believed: the sample has the time when it was
    /// read, the claim is kept in `device_time`, and the status says so.
    #[serde(default)]
    pub time: Option<TimeConfig>,
    /// Where a record's status stands, and how it is written.
    #[serde(default)]
    pub status: Option<Short<StatusConfig>>,
    /// Values that stand for none, as in `["---", "#N/A"]`: null, BadNoData; or each with its status, as in `{"I/O Timeout": 0x80310000}`.
    #[serde(default)]
    pub nulls: Option<Nulls>,
    /// What a record that lacks a sample's column or pointer means. With `skip` a row of CSV may be shorter than the header.
    #[serde(default)]
    pub missing: Missing,
    /// Patterns of the Kafka topics that an envelope may choose (`topic: "{topic}"`), as in `["orders", "machine-*"]`; left out: any. Kafka's and
    /// Millrace's own (`__*`, `millrace.*`) are refused in any case: such a record becomes a dead letter.
    #[serde(default)]
    pub allow_topics: Option<Vec<Spanned<String>>>,
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
    /// Each file is followed forever, through rotation by renaming and by truncating.
    Tail,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON value per line.
    Ndjson,
    /// JSON over any number of lines: the items of a list are the records, or values one after the other.
    Json,
    /// Delimited fields, as RFC 4180 has them.
    Csv,
    /// What a file sink wrote: keys, headers, timestamps and values as they were in Kafka.
    Envelope,
}

/// How a CSV is written. Of columns with the same name the second is called `NAME_2`, the third `NAME_3`; one without a name `column_N`. A row that
/// repeats the header is passed over.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Csv {
    /// Between fields: one character of ASCII; `","` unless said.
    pub delimiter: Option<Spanned<String>>,
    /// Whether several delimiters in a row are one, as in tables aligned with blanks.
    pub merge: bool,
    /// Around fields that hold delimiters or newlines; `'"'` unless said.
    pub quote: Option<Spanned<String>>,
    /// Names of the columns, for files without a header row.
    pub columns: Option<Spanned<Vec<String>>>,
    /// Lines before the header row, to pass over.
    pub skip_lines: u64,
    /// Rows after the header row, to pass over: units, limits.
    pub skip_rows: u64,
    /// What a line begins with that is a comment, as in `"#"`.
    pub comment: Option<String>,
    /// Whether blanks around the fields of documents are cut off. Numbers are read without them anyhow.
    pub trim: bool,
    /// The decimal sign of numbers: `"."` (default) or `","`. A field that is not a number as declared stays as it is.
    pub decimal: Option<Spanned<String>>,
    /// Between groups of three digits, as in `1.234,5`: `"."`, `","`, `" "` or `"'"`. Left out: numbers have none.
    pub grouping: Option<Spanned<String>>,
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

/// A configuration that was checked.
#[derive(Debug)]
pub(crate) struct Setup {
    pub pattern: Pattern,
    pub path: String,
    pub is_tail: bool,
    pub format: Format,
    pub encoding: Encoding,
    pub cutting: Cutting,
    pub columns: Option<Vec<String>>,
    pub skip_lines: u64,
    pub skip_rows: u64,
    pub comment: Option<Box<[u8]>>,
    pub trim: bool,
    pub types: FieldTypes,
    pub every: Duration,
    pub settle: Duration,
    pub when_done: WhenDone,
    pub move_to: Option<PathBuf>,
    pub key: Option<Template<KeyPart>>,
    pub max_record_bytes: usize,
    pub samples: Option<Arc<Samples>>,
    pub topic: Arc<str>,
    /// The route's topic is `{topic}`: the envelope's own, where it is one of these.
    pub takes_topic: Option<AllowedTopics>,
}

impl Setup {
    pub fn check(config: &FileSourceConfig, context: &Context, problems: &mut Problems) -> Option<Self> {
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
        let format = config.format.as_ref().map(|format| **format).or_else(|| format_of(&config.path, is_tail));
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
        if is_tail && (config.encoding.is_wide() || format == Some(Format::Json)) {
            let what = if format == Some(Format::Json) { "JSON over several lines" } else { "a file of two bytes a character" };
            problems.error(config.path.place, format!("{what} cannot be tailed")).help("add `mode: folder`");
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
        let key = config.key.as_ref().and_then(|key| Template::compile(key, key.place, problems, KeyPart::parse));
        let csv = &config.csv;
        let dialect = Dialect {
            delimiter: one_byte(&csv.delimiter, "delimiter", b',', problems),
            quote: one_byte(&csv.quote, "quote", b'"', problems),
            merge: csv.merge,
            ..Dialect::default()
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
        let allowed = AllowedTopics::compile(config.allow_topics.as_ref(), problems);
        if let Some(pattern) = config.allow_topics.iter().flatten().next().filter(|_| !takes_topic) {
            problems.error(pattern.place, "`allow_topics` has no use here: only an envelope chooses its topic, with `topic: \"{topic}\"`");
        }
        let notation = Notation::compile(csv.decimal.as_ref(), csv.grouping.as_ref(), problems);
        let is_csv = format == Some(Format::Csv);
        let is_sampled = config.samples.is_some() || config.tag.is_some() || config.value.is_some() || config.each.is_some();
        let samples = if is_sampled {
            if let Some(key) = &config.key {
                problems.error(key.place, "`key` is for documents: the key of a sample is its tag");
            }
            if format == Some(Format::Envelope) {
                problems.error(config.path.place, "`samples` and `tag` have no place here: an envelope is passed on as it is");
            }
            refuse_half(config, is_csv, problems);
            let keys = Keys {
                samples: config.samples.as_ref(),
                each: config.each.as_ref(),
                tag: config.tag.as_ref(),
                value: config.value.as_ref(),
                declared: config.declared,
                max_tags: config.max_tags as usize,
                is_history: config.history,
                time: config.time.as_ref(),
                status: config.status.as_ref().map(|status| &status.0),
                nulls: config.nulls.as_ref(),
                missing: config.missing,
                notation,
                is_csv,
            };
            Samples::compile(&keys, &topic, context, problems).map(Arc::new)
        } else {
            let alone = [config.time.as_ref().map(|time| time.at.first()), config.status.as_ref().map(|status| status.at.place)];
            for place in alone.into_iter().flatten() {
                problems.error(place, "`time` and `status` are for `samples`: a document is passed on as it is");
            }
            None
        };
        Some(Self {
            pattern: pattern?,
            path: config.path.value.clone(),
            is_tail,
            format: format?,
            encoding: config.encoding,
            cutting: match format {
                Some(Format::Csv) => Cutting::Csv(dialect),
                Some(Format::Json) => Cutting::Json,
                _ => Cutting::Lines { newline: b'\n' },
            },
            columns: csv.columns.as_ref().map(|columns| columns.value.clone()),
            skip_lines: csv.skip_lines,
            skip_rows: csv.skip_rows,
            comment: csv.comment.as_ref().filter(|comment| !comment.is_empty()).map(|comment| comment.as_bytes().into()),
            trim: csv.trim,
            types: FieldTypes { infer: csv.infer, notation, may_be_short: config.missing == Missing::Skip },
            every: config.every.0,
            settle: config.settle.0,
            when_done: config.when_done,
            move_to: config.move_to.as_ref().map(|folder| folder.value.clone()),
            key,
            max_record_bytes: usize::try_from(config.max_record.0).unwrap_or(usize::MAX).clamp(1, u32::MAX as usize / 4),
            samples,
            topic,
            takes_topic: takes_topic.then_some(allowed),
        })
    }
}

/// Keys that want another one beside them.
fn refuse_half(config: &FileSourceConfig, is_csv: bool, problems: &mut Problems) {
    if let Some(samples) = config.samples.as_ref().filter(|samples| samples.is_empty()) {
        problems.error(samples.place, "`samples` is empty").help("name a tag and its column: `torque: torque_nm`");
    }
    if let (Some(each), None) = (&config.each, &config.tag) {
        problems.error(each.first(), "`each` wants `tag`, the name of each reading").help("as in `tag: \"{/id}\"`, or `tag: \"{key}\"`");
    }
    if let (Some(each), true) = (&config.each, is_csv) {
        problems.error(each.first(), "`each` is for JSON: a row of CSV is one reading").help("leave it out");
    }
    if config.history && config.time.is_none() {
        let place = config.samples.as_ref().map(|samples| samples.place).or(config.tag.as_ref().map(|tag| tag.place));
        problems.error(place.unwrap_or(config.path.place), "`history` wants `time`, where each record's own time stands");
    }
    match (&config.tag, &config.value, &config.samples) {
        (Some(tag), None, None) => _ = problems.error(tag.place, "`tag` wants `value`, where the reading's value stands"),
        (None, Some(value), _) => _ = problems.error(value.first(), "`value` wants `tag`, the name of the reading"),
        _ => {}
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
fn format_of(path: &str, is_tail: bool) -> Option<Format> {
    let name = path.strip_suffix(".gz").unwrap_or(path);
    match name.rsplit_once('.')?.1 {
        "csv" | "CSV" => Some(Format::Csv),
        "json" if !is_tail => Some(Format::Json),
        "ndjson" | "jsonl" | "json" => Some(Format::Ndjson),
        _ => None,
    }
}
