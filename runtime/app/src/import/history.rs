//! `millrace import history FILE...`: exports of a historian into a topic of samples, each row once, however often it is broken off.
//!
//! ```text
//! head of a file ─▶ millrace_import::history: how it is written ─▶ a source of type `file`, with `history: true`
//!                                                                    │ watched: counts, refused rows
//!                                                                    ▼
//!                                  an engine of its own in DATA_DIR/import/NAME ─▶ log ─▶ Kafka, exactly once
//! ```
//!
//! Invariants: positions go with the rows, and rows into Kafka in transactions, so that a kill neither doubles nor loses one. The engine is the one
//! that `run` has: its log, its memory and its dead letters are bounded and counted as there. The service may run meanwhile.

use super::watched::{Counts, Importing, Nobody, State, Tally};
use crate::say::{self, say, tell, visible};
use crate::service::engine_options;
use crate::{logging, replay};
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use millrace_config::factory::Connector;
use millrace_config::{Factory, Load, Node, Place, Problems, Reason, Spanned};
use millrace_contract::SourceIo;
use millrace_engine::compile::{CompiledFactory, SourceSpec, compile};
use millrace_engine::{Engine, EngineReport};
use millrace_import::history::{Given, Layout, STATES, WORDS, layout};
use millrace_kit::Encoding;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How much of a file says how it is written.
const HEAD: usize = 64 << 10;
/// How often is looked how far it is, and how often that is said.
const LOOK: Duration = Duration::from_millis(100);
const SAY: Duration = Duration::from_secs(5);
/// Nothing moved for so long: it is given up, and goes on when it is begun again.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long what is in the log may take at the end.
const LAST: Duration = Duration::from_secs(30);
/// The import's own log on the disk: what is ahead of Kafka waits there, and the files wait for it.
const LOG: &str = "1GiB";

#[derive(clap::Args)]
pub struct Options {
    /// The exports: CSV, compressed ones (`.gz`) too. All in one folder, all written alike.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The factory's YAML: says where Kafka is and which topics are declared.
    #[arg(short, long = "config", required = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Into this topic of samples.
    #[arg(long, value_name = "TOPIC")]
    to: String,
    /// Levels below the site, where the tags live.
    #[arg(long, value_name = "LEVELS", default_value = "")]
    at: String,
    /// What the import is called: the source of its samples, and where its progress is kept (DATA_DIR/import/NAME). Under another name the same files
    /// come once more.
    #[arg(long, value_name = "NAME", default_value = "history")]
    name: String,
    /// The column of the tag, or a text with columns in braces; `{file}` is the file's name up to its first dot. Left out: found by its name. A slash
    /// written here is a level (`press-{press}/force`); one inside a column's value becomes %2F.
    #[arg(long, value_name = "COLUMN")]
    tag: Option<String>,
    /// The column of the time; given twice, date and time of day. Left out: found by its name.
    #[arg(long, value_name = "COLUMN")]
    time: Vec<String>,
    /// The column of the value. Left out: found by its name.
    #[arg(long, value_name = "COLUMN")]
    value: Option<String>,
    /// The column of the status. Left out: found by its name, where there is one.
    #[arg(long, value_name = "COLUMN")]
    status: Option<String>,
    /// How times are written: '%d.%m.%Y %H:%M:%S'. Left out: found by the first lines.
    #[arg(long, value_name = "FORMAT", conflicts_with = "time_unit")]
    time_format: Option<String>,
    /// What times count that are numbers: s, ms, us, ns, excel, filetime.
    #[arg(long, value_name = "UNIT")]
    time_unit: Option<String>,
    /// The zone of times that carry none: Europe/Berlin. Left out: UTC.
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Between the cells. Left out: found by the header.
    #[arg(long, value_name = "CHARACTER")]
    delimiter: Option<char>,
    /// The decimal sign of numbers: a point or a comma. Left out: found by the first lines.
    #[arg(long, value_name = "CHARACTER")]
    decimal: Option<char>,
    /// Between groups of three digits: a point, a comma, a blank or an apostrophe.
    #[arg(long, value_name = "CHARACTER")]
    grouping: Option<char>,
    /// The characters of the files, where they are not UTF-8 and have no mark: windows-1252.
    #[arg(long, value_name = "NAME")]
    encoding: Option<String>,
    /// Names of the columns, for files without a header: tag,time,value,status.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Lines before the header, to pass over.
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    skip_lines: usize,
    /// What values are. A row whose value is something else is refused.
    #[arg(long = "as", value_enum, default_value_t = As::Number)]
    kind: As,
    /// How statuses are written that are numbers. Left out: they are words.
    #[arg(long, value_enum)]
    status_as: Option<StatusAs>,
    /// What a text in the column of the value or of the status means: 'Intf Down=bad', 'Manual=uncertain', 'OK!=good', 'X=0x80310000'. May be given
    /// several times. The digital states of PI and their like are known.
    #[arg(long = "state", value_name = "TEXT=MEANING", value_parser = state)]
    states: Vec<(String, String)>,
    /// How many tags the files may name.
    #[arg(long, value_name = "TAGS", default_value_t = 1_000_000)]
    max_tags: u32,
    /// Without it nothing is sent: the files are read, and it is said what would be sent and what refused.
    #[arg(long)]
    yes: bool,
    #[arg(long)]
    json: bool,
}

/// What values are.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum As {
    /// Numbers, as they are written.
    Number,
    /// Numbers where they read as such, else texts.
    Mixed,
    Long,
    Double,
    Boolean,
    String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StatusAs {
    /// Status codes: 0 is good.
    Opcua,
    /// 0 is bad, 192 is good.
    Opcda,
}

fn state(text: &str) -> Result<(String, String), Reason> {
    let (text, meaning) = text.rsplit_once('=').ok_or("write it as TEXT=MEANING, as in 'Intf Down=bad'")?;
    Ok((text.to_owned(), meaning.to_owned()))
}

/// The files of an import.
struct Files {
    folder: PathBuf,
    /// Each with its bytes on the disk.
    paths: Vec<(PathBuf, u64)>,
}

impl Files {
    fn of(paths: &[PathBuf]) -> Result<Self> {
        let mut folder: Option<PathBuf> = None;
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for path in paths {
            let about = || format!("cannot read {}", path.display());
            let metadata = std::fs::metadata(path).with_context(about)?;
            ensure!(metadata.is_file(), "{} is no file", path.display());
            let name = path.file_name().ok_or_else(|| anyhow!("{} is no file", path.display()))?;
            ensure!(!name.as_encoded_bytes().starts_with(b"."), "{} is a hidden file, which is not read; rename it", path.display());
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let parent = parent.canonicalize().with_context(about)?;
            match &folder {
                Some(folder) if *folder != parent => {
                    bail!("{} and {} are in different folders; import each folder by itself", folder.display(), path.display());
                }
                _ => {}
            }
            if seen.insert((metadata.dev(), metadata.ino())) {
                found.push((parent.join(name), metadata.len()));
            }
            folder = Some(parent);
        }
        found.sort();
        Ok(Self { folder: folder.unwrap_or_default(), paths: found })
    }

    /// A pattern that matches these and no others.
    fn pattern(&self) -> Result<String> {
        let escape = |path: &Path| {
            let text = path.to_str().ok_or_else(|| anyhow!("the path {} is not UTF-8; rename it", path.display()))?;
            Ok::<_, anyhow::Error>(text.chars().fold(String::new(), |mut out, char| {
                if "*?[]{}!,\\".contains(char) {
                    out.push('\\');
                }
                out.push(char);
                out
            }))
        };
        let names = self.paths.iter().map(|(path, _)| escape(Path::new(path.file_name().unwrap_or_default())));
        let names = names.collect::<Result<Vec<_>>>()?;
        Ok(format!("{}/{{{}}}", escape(&self.folder)?.trim_end_matches('/'), names.join(",")))
    }

    /// How all of them are written.
    fn layout(&self, options: &Options) -> Result<Layout> {
        let encoding = match &options.encoding {
            Some(name) => Encoding::of(name).ok_or_else(|| anyhow!("`{name}` is not an encoding; write it as in windows-1252"))?,
            None => Encoding::default(),
        };
        let given = Given {
            skip_lines: options.skip_lines,
            delimiter: options.delimiter,
            columns: options.columns.clone(),
            tag: options.tag.clone(),
            time: options.time.clone(),
            value: options.value.clone(),
            status: options.status.clone(),
            time_format: options.time_format.clone(),
            time_unit: options.time_unit.clone(),
            decimal: options.decimal,
        };
        let mut first: Option<(&Path, Layout)> = None;
        for (path, _) in &self.paths {
            let head = millrace_file::head(path, encoding, HEAD).with_context(|| format!("cannot read {}", path.display()))?;
            let found = layout(&head, &given).map_err(|why| anyhow!("cannot import {}: {why}", path.display()))?;
            match &first {
                Some((other, layout)) if *layout != found => {
                    bail!(
                        "{} is written otherwise than {} ({} there, {} here): import them apart, or say what is so in both",
                        path.display(),
                        other.display(),
                        describe(layout),
                        describe(&found)
                    );
                }
                Some(_) => {}
                None => first = Some((path, found)),
            }
        }
        Ok(first.ok_or_else(|| anyhow!("no file is named"))?.1)
    }
}

fn describe(layout: &Layout) -> String {
    let Layout { delimiter, tag, time, value, status, time_format, time_unit, has_zone: _, decimal } = layout;
    let written = match (time_format, time_unit) {
        (Some(format), _) => format!("as `{format}`"),
        (None, Some(unit)) => format!("in {unit}"),
        (None, None) => "as ISO 8601".to_owned(),
    };
    let status = status.as_ref().map_or_else(|| "no status".to_owned(), |status| format!("status `{status}`"));
    format!(
        "tag `{tag}`, time `{}` {written}, value `{value}`, {status}, cells between {delimiter:?}, decimal sign {decimal:?}",
        time.join("` and `")
    )
}

/// The import as a source of a factory.
fn source(options: &Options, files: &Files, layout: &Layout) -> Result<Value> {
    let number = |code: u32| Value::from(code);
    let own = |known: &mut Map<String, Value>| {
        for (text, meaning) in &options.states {
            known.insert(text.trim().to_owned(), meaning.as_str().into());
        }
    };
    let mut csv = json!({ "delimiter": layout.delimiter, "decimal": layout.decimal, "skip_lines": options.skip_lines });
    if let Some(grouping) = options.grouping {
        csv["grouping"] = grouping.to_string().into();
    }
    if let Some(columns) = &options.columns {
        csv["columns"] = json!(columns);
    }
    let mut time = json!({ "at": layout.time });
    for (key, value) in [("format", &layout.time_format), ("unit", &layout.time_unit), ("zone", &options.zone)] {
        if let Some(value) = value {
            time[key] = value.as_str().into();
        }
    }
    let mut nulls = Map::new();
    // Of a tag of texts such a text may well be its value.
    if options.kind != As::String {
        nulls.extend(STATES.iter().map(|(text, code)| ((*text).to_owned(), number(*code))));
    }
    own(&mut nulls);
    nulls.retain(|_, meaning| meaning.as_str() != Some("good"));
    let mut source = json!({
        "type": "file",
        "at": options.at,
        "topic": options.to,
        "log": { "size": LOG, "full": "block" },
        "path": files.pattern()?,
        "mode": "folder",
        "format": "csv",
        "every": "1d",
        "settle": "0s",
        "history": true,
        "csv": csv,
        "tag": layout.tag,
        "value": layout.value,
        "time": time,
        "nulls": nulls,
        "max_tags": options.max_tags,
    });
    let kind = match options.kind {
        As::Mixed => None,
        As::Number => Some("number"),
        As::Long => Some("long"),
        As::Double => Some("double"),
        As::Boolean => Some("boolean"),
        As::String => Some("string"),
    };
    if let Some(kind) = kind {
        source["as"] = kind.into();
    }
    if let Some(encoding) = &options.encoding {
        source["encoding"] = encoding.as_str().into();
    }
    if let Some(status) = &layout.status {
        let words = match options.status_as {
            Some(StatusAs::Opcua) => "opcua".into(),
            Some(StatusAs::Opcda) => "opcda".into(),
            None => {
                let mut words: Map<String, Value> =
                    WORDS.iter().chain(STATES).map(|(text, code)| ((*text).to_owned(), number(*code))).collect();
                own(&mut words);
                Value::Object(words)
            }
        };
        source["status"] = json!({ "at": status, "as": words });
    }
    Ok(source)
}

/// What runs: the factory with nothing but the import.
struct Prepared {
    factory: Factory,
    works: CompiledFactory,
    tally: Arc<Tally>,
}

fn prepare(options: &Options, files: &Files, layout: &Layout) -> Result<Prepared> {
    let mut problems = Problems::new();
    let factory = millrace_config::load(&options.config, &Load::to_run(), &mut problems);
    let mut factory =
        factory.filter(|_| !problems.has_errors()).ok_or_else(|| anyhow!("cannot load the configuration\n{}", problems.render()))?;
    let works = compile(&factory, crate::catalog::ENTRIES, &mut problems);
    if problems.has_errors() {
        bail!("cannot use the configuration\n{}", problems.render());
    }
    replay::takes_samples(&options.to, &factory, &works)?;
    if factory.sources.iter().any(|source| source.name == options.name) {
        bail!("the factory has a source called {}; give the import another --name", options.name);
    }
    millrace_config::name::connector("source", &options.name).map_err(|why| anyhow!("--name {}: {why}", options.name))?;
    // Nothing of the live plant is in it: no defaults that report what did not change, and no sinks.
    let mut problems = Problems::new();
    let text = source(options, files, layout)?.to_string();
    let node = Node::from_yaml(&text, &mut problems).ok_or_else(|| anyhow!("{}", problems.render()))?;
    factory.data_dir = factory.data_dir.join("import").join(&options.name);
    factory.defaults = None;
    factory.sinks.clear();
    // A time that the source believes is not doubted again.
    factory.clock.ahead = millrace_config::Period::from_secs(7 * 86_400);
    factory.sources = vec![Connector {
        name: options.name.clone(),
        place: Place::NONE,
        type_name: Spanned::from("file".to_owned()),
        enabled: true,
        node,
    }];
    let mut works = compile(&factory, crate::catalog::ENTRIES, &mut problems);
    if problems.has_errors() {
        let reasons: Vec<String> = problems.iter().map(|problem| problem.message.clone()).collect();
        bail!("cannot import so: {}", reasons.join("; "));
    }
    let tally = Tally::new(!options.yes);
    let watched = |spec: SourceSpec| SourceSpec { compiled: Box::new(Importing { inner: spec.compiled, tally: tally.clone() }), ..spec };
    works.sources = works.sources.into_iter().map(watched).collect();
    Ok(Prepared { factory, works, tally })
}

pub fn history(options: &Options) -> Result<ExitCode> {
    let files = Files::of(&options.files)?;
    let layout = files.layout(options)?;
    let prepared = prepare(options, &files, &layout)?;
    if !options.json {
        tell!("read as: {}", visible(&describe(&layout)));
        if !layout.has_zone && options.zone.is_none() {
            tell!("the times carry no zone: they are taken as UTC; say another with --zone, as in Europe/Berlin");
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match options.yes {
        true => runtime.block_on(run(options, &files, prepared)),
        false => runtime.block_on(rehearse(options, &files, prepared)),
    }
}

/// Reads everything, sends nothing.
async fn rehearse(options: &Options, files: &Files, prepared: Prepared) -> Result<ExitCode> {
    let Prepared { works, tally, .. } = prepared;
    let nobody = Arc::new(Nobody::default());
    let io = SourceIo::new(nobody.clone());
    let mut source = works.sources.first().and_then(|spec| spec.compiled.source()).ok_or_else(|| anyhow!("there is nothing to read"))?;
    let mut session = std::pin::pin!(source.session(io));
    let mut says = Says::new(files);
    let mut looks = tokio::time::interval(LOOK);
    let state = loop {
        tokio::select! {
            ended = &mut session => ended.map_err(|failure| anyhow!("{failure}"))?,
            _ = looks.tick() => {}
        }
        let state = tally.state();
        if state.is_over {
            break state;
        }
        says.now_and_then(&state, None, options.json);
    };
    let unread = says.unread(&state);
    if options.json {
        say::json(&json!({
            "dry_run": true, "rows": state.counts.rows, "tags": nobody.tags(), "refused": state.counts.refused, "lines": state.lines,
            "unread": unread, "first": state.shown, "paths": state.paths(),
        }));
    } else {
        for line in &state.shown {
            say!("  {}", visible(line));
        }
        let more = if nobody.tags() as usize > state.paths().len() { ", .." } else { "" };
        say!("the first tags below the site: {}{more}", visible(&state.paths().join(", ")));
        say!("{} rows of {} tags would be sent to {}; add --yes to do it", state.counts.rows, nobody.tags(), visible(&options.to));
        say_refused(&state.counts, "would be refused");
        unread.iter().for_each(|why| say!("{}", visible(why)));
    }
    Ok(if state.counts.refused_total() > 0 || !unread.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// How it ended.
enum End {
    Done,
    Told,
    /// Why it can't go on.
    Stuck(String),
}

async fn run(options: &Options, files: &Files, prepared: Prepared) -> Result<ExitCode> {
    let Prepared { factory, works, tally } = prepared;
    // Before anything else: a signal at the start is no end without a stop.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&factory.data_dir)
        .with_context(|| format!("cannot make {}", factory.data_dir.display()))?;
    let messages = factory.data_dir.join("messages.log");
    logging::to_file(&factory.messages, &messages).with_context(|| format!("cannot write {}", messages.display()))?;
    let id = format!("{}-import-{}", works.transactional_id(), options.name.replace('/', "-"));
    let engine = Engine::start(works, engine_options(&factory, Some(id), factory.schemas.listen.0)?)
        .with_context(|| format!("cannot use {}; does this import run already?", factory.data_dir.display()))?;
    let mut says = Says::new(files);
    let (mut moved, mut since) = ((0, 0, 0), Instant::now());
    let mut looks = tokio::time::interval(LOOK);
    let end = loop {
        tokio::select! {
            _ = looks.tick() => {}
            _ = terminate.recv() => break End::Told,
            _ = interrupt.recv() => break End::Told,
        }
        let (state, report) = (tally.state(), engine.report());
        if let Some(failure) = &state.failure {
            break End::Stuck(failure.clone());
        }
        if state.is_over && is_sent(&report, &options.name) {
            break End::Done;
        }
        let now = (state.counts.rows, state.counts.refused_total(), sent(&report, &options.name));
        if now != moved {
            (moved, since) = (now, Instant::now());
        } else if since.elapsed() > PATIENCE {
            break End::Stuck(format!("nothing moved for {PATIENCE:?}: {}", why(&report, &options.name)));
        }
        says.now_and_then(&state, Some((&report, &options.name)), options.json);
    };
    engine.stop(if matches!(end, End::Told) { Duration::from_secs(5) } else { LAST }).await;
    let (state, report) = (tally.state(), engine.report());
    let end = match end {
        End::Done if !is_sent(&report, &options.name) => End::Stuck(why(&report, &options.name)),
        end => end,
    };
    let unread = says.unread(&state);
    let sent = sent(&report, &options.name);
    let refused = state.counts.refused_total();
    let dead = millrace_engine::topics::dead_letter_of(&options.to);
    if options.json {
        say::json(&json!({
            "dry_run": false, "rows": state.counts.rows, "sent": sent, "rows_before": state.before.rows, "refused": state.counts.refused,
            "lines": state.lines, "unread": unread, "is_done": matches!(end, End::Done) && unread.is_empty(),
        }));
    } else {
        say!("{} rows read ({} of them before), {sent} sent to {}", state.counts.rows, state.before.rows, visible(&options.to));
        say_refused(&state.counts, "refused");
        if refused > 0 {
            say!(
                "they are dead letters, whole and with their reasons: millrace dead show -c {} --topic {dead}",
                options.config[0].display()
            );
        }
        unread.iter().for_each(|why| say!("{}", visible(why)));
    }
    match end {
        End::Done => Ok(if refused > 0 || !unread.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }),
        End::Told => bail!("it was told to stop; the same command goes on where it was"),
        End::Stuck(why) => bail!("{why}; the same command goes on where it was. Messages are in {}", messages.display()),
    }
}

/// Rows that Kafka has.
fn sent(report: &EngineReport, name: &str) -> u64 {
    report.sources.get(name).map_or(0, |source| source.ledger.produced)
}

/// Kafka has all that is in the log.
fn is_sent(report: &EngineReport, name: &str) -> bool {
    report.sources.get(name).is_some_and(|source| source.ledger.waiting == 0 && source.pace.waiting_since.is_none())
}

/// What hinders.
fn why(report: &EngineReport, name: &str) -> String {
    let source = report.sources.get(name);
    let of_source = source.and_then(|source| source.log_held.clone().or_else(|| source.state.reason.clone()));
    let reasons: Vec<String> = report.kafka.reason.iter().map(|why| format!("Kafka: {why}")).chain(of_source).collect();
    match &reasons[..] {
        [] => format!("the state of Kafka is {}", report.kafka.status),
        reasons => reasons.join("; "),
    }
}

fn say_refused(counts: &Counts, how: &str) {
    if counts.refused_total() > 0 {
        say!("{} rows {how}:", counts.refused_total());
    }
    for (reason, count) in &counts.refused {
        say!("  {count}: {}", visible(reason));
    }
}

/// Says how far it is.
struct Says<'f> {
    files: &'f Files,
    last: Instant,
}

impl<'f> Says<'f> {
    fn new(files: &'f Files) -> Self {
        Self { files, last: Instant::now() }
    }

    fn now_and_then(&mut self, state: &State, report: Option<(&EngineReport, &str)>, is_quiet: bool) {
        if is_quiet || self.last.elapsed() < SAY {
            return;
        }
        self.last = Instant::now();
        let total: u64 = self.files.paths.iter().map(|(_, size)| size).sum();
        let of = |(path, size): &(PathBuf, u64)| {
            state.files.get(path).map_or(0, |file| if file.is_done { *size } else { file.bytes.unwrap_or(0) })
        };
        let read: u64 = self.files.paths.iter().map(of).sum();
        let percent = read.saturating_mul(100).checked_div(total).unwrap_or(100);
        let done = self.files.paths.iter().filter(|(path, _)| state.files.get(path).is_some_and(|file| file.is_done)).count();
        let refused = state.counts.refused_total();
        let rest = report.map_or_else(String::new, |(report, name)| {
            let hindered = report.kafka.reason.as_ref().map_or_else(String::new, |why| format!("; Kafka: {why}"));
            format!(", {} sent{hindered}", sent(report, name))
        });
        tell!(
            "{percent}%, {done} of {} files: {} rows read, {refused} refused{}",
            self.files.paths.len(),
            state.counts.rows,
            visible(&rest)
        );
    }

    /// Files that were not read to their ends, and why.
    fn unread(&self, state: &State) -> Vec<String> {
        let is_unread = |(path, _): &&(PathBuf, u64)| !state.files.get(path).is_some_and(|file| file.is_done);
        let why = state.trouble.as_deref().or(state.failure.as_deref());
        let about = |(path, _): &(PathBuf, u64)| match state.files.get(path) {
            Some(file) => format!("{} is read up to line {}", path.display(), file.lines),
            None => format!("{} is not read", path.display()),
        };
        let unread: Vec<String> = self.files.paths.iter().filter(is_unread).map(about).collect();
        let trouble = why.filter(|_| !unread.is_empty()).map(str::to_owned);
        unread.into_iter().chain(trouble).collect()
    }
}
