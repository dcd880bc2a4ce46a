//! `millrace query`: the history of tags out of the lake, without SQL: samples, the last value, averages, interpolated values, plots. `--sql` is
//! in `sql.rs`.

use crate::lake::{Table, Writer, runtime};
use crate::say::{self, say, say_part, tell, visible};
use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use jiff::Timestamp;
use millrace_config::{ByteSize, Factory, Period, Problems};
use millrace_contract::{Offset, Partition, Upstream};
use millrace_engine::tail::{self, Reading};
use millrace_lake::plot::Plot;
use millrace_lake::series::{Bucket, Point, Sample, Value};
use millrace_lake::shown;
use millrace_lake::{Answer, Place, Question, Series, Tail, What};
use millrace_schemas::Batch;
use serde_json::{Map, json};
use std::collections::HashMap;
use std::io::IsTerminal;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Options {
    /// Tags, by their whole path, or without the site.
    #[arg(required_unless_present = "sql", conflicts_with = "sql", value_name = "TAG")]
    tags: Vec<String>,
    /// SQL instead: a SELECT over the table `lake`, or over tables named as their sinks, and over `history('tag', '8h')`,
    /// `resample('tag', '8h', '0s', '1m')` and `interpolate('tag', '8h', '0s', '1m')`. In builds with the feature `lake-sql`.
    #[arg(long, value_name = "SELECT")]
    pub sql: Option<String>,
    #[command(flatten)]
    pub table: Table,
    /// The beginning: a time such as 2026-11-28T06:00:00Z, a day, or how long ago: `8h`.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    from: String,
    /// The end, likewise; now unless said.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// What is wanted.
    #[arg(long = "as", value_enum, default_value_t = As::Samples)]
    what: As,
    /// The step of averages and interpolated values: `1m`.
    #[arg(long, value_name = "PERIOD", default_value = "1m")]
    every: Period,
    /// SQL: memory for what is sorted, joined and summed.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub memory: ByteSize,
    /// SQL: how long it may take.
    #[arg(long, value_name = "PERIOD", default_value = "60s")]
    pub patience: Period,
    /// About so many points, of minmax, triangles and plots.
    #[arg(long, default_value_t = 1000)]
    points: usize,
    /// At most so many samples of a tag, or rows of SQL.
    #[arg(long, default_value_t = 100_000)]
    pub limit: usize,
    /// How long before the range a value is looked for that still holds in it; counted in whole days.
    #[arg(long, value_name = "PERIOD", default_value = "31d")]
    lookback: Period,
    /// Only what is committed to the lake, not what is still in Kafka alone.
    #[arg(long)]
    pub lake_only: bool,
    /// How the answer looks; on a terminal a table, else CSV.
    #[arg(long, value_enum)]
    output: Option<Output>,
    /// The same as `--output json`.
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Where a picture or a file goes; left out, to standard output.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum As {
    /// Each sample as it is.
    Samples,
    /// The last sample before the end.
    Last,
    /// Time-weighted mean, least and greatest value, counter increase and quality of each step.
    Average,
    /// The value that holds at each step.
    Step,
    /// The value at each step, on a line between its neighbours.
    Linear,
    /// Fewer points, which keep every peak.
    Minmax,
    /// Fewer points that look the same (LTTB).
    Triangles,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Csv,
    Json,
    /// In the terminal.
    Plot,
    /// A picture.
    Svg,
    /// A picture, for mails and reports.
    Png,
    /// A file for Python or SQL. In builds with the feature `lake`.
    Parquet,
}

/// What is asked, on the command line or over HTTP.
pub struct Asked {
    pub tags: Vec<String>,
    pub from: String,
    pub to: Option<String>,
    pub what: As,
    pub every: Period,
    pub points: usize,
    pub limit: usize,
    pub lookback: i64,
    pub lake_only: bool,
    /// A picture is made of the answer: few points, which keep every peak.
    pub draws: bool,
    /// At most so many bytes of the table are read.
    pub budget: u64,
}

/// What came of it.
pub struct Answers {
    pub range: Range<i64>,
    pub answers: Vec<(String, Answer)>,
    /// Why only the lake was asked, where Kafka was to be asked, too.
    pub trouble: Option<String>,
}

impl Asked {
    fn question(&self) -> Result<(Range<i64>, What)> {
        let now = Timestamp::now().as_microsecond();
        let range = moment(&self.from, now).context("from")?..self.to.as_deref().map_or(Ok(now), |to| moment(to, now)).context("to")?;
        if range.start >= range.end {
            bail!("the range is empty: {} is not before {}", crate::say::time(range.start), crate::say::time(range.end));
        }
        let every = || -> Result<i64> {
            let micros = i64::try_from(self.every.0.as_micros()).unwrap_or(i64::MAX);
            if micros == 0 { bail!("every {} is no time at all", self.every) } else { Ok(micros) }
        };
        let what = match self.what {
            As::Samples if self.draws => What::Points { count: self.points, triangles: false },
            As::Samples => What::Samples,
            As::Last => What::Last,
            As::Average => What::Buckets { every: every()? },
            As::Step => What::At { every: every()?, linear: false },
            As::Linear => What::At { every: every()?, linear: true },
            As::Minmax => What::Points { count: self.points, triangles: false },
            As::Triangles => What::Points { count: self.points, triangles: true },
        };
        Ok((range, what))
    }

    /// Asks the table, and Kafka for what its sink has not committed yet.
    pub fn ask(&self, place: &Place, writer: Option<&Writer>) -> Result<Answers> {
        let (range, what) = self.question()?;
        let runtime = runtime()?;
        let whole = |tag: &String| match writer.map(|writer| &*writer.factory.site) {
            Some(site) if !tag.starts_with(&format!("{site}/")) => format!("{site}/{}", tag.trim_start_matches('/')),
            _ => tag.clone(),
        };
        let tags: Vec<String> = self.tags.iter().map(whole).collect();
        let mut trouble = None;
        let mut tails = match writer {
            Some(writer) if !self.lake_only => tails(writer, place, &tags, &runtime).unwrap_or_else(|error| {
                trouble = Some(format!("{error:#}"));
                HashMap::new()
            }),
            _ => HashMap::new(),
        };
        let mut answers = Vec::new();
        for tag in tags {
            let tail = tails.remove(&tag).unwrap_or_default();
            let (lookback_days, limit, budget) = (self.lookback.max(0), self.limit, self.budget);
            let question = Question { tag, range: range.clone(), what, lookback_days, limit, budget, tail };
            let answer =
                millrace_lake::ask(place, &question, runtime.handle().clone()).map_err(|error| anyhow!("{}: {error}", question.tag))?;
            answers.push((question.tag, answer));
        }
        Ok(Answers { range, answers, trouble })
    }
}

impl Answers {
    pub fn to_json(&self) -> serde_json::Value {
        let mut whole = in_json(&self.answers, &self.range);
        if let Some(trouble) = &self.trouble {
            whole["lake_only_because"] = json!(trouble);
        }
        whole
    }
}

impl Options {
    /// How the answer is written: as it is asked for, else a table for a terminal, CSV for a pipe.
    pub fn output(&self) -> Output {
        match self.output {
            Some(output) => output,
            None if self.json => Output::Json,
            None if std::io::stdout().is_terminal() => Output::Table,
            None => Output::Csv,
        }
    }
}

pub fn query(options: &Options) -> Result<ExitCode> {
    let output = options.output();
    let draws = matches!(output, Output::Plot | Output::Svg | Output::Png);
    if draws && options.what == As::Last {
        bail!("one value makes no plot; leave `--as last` out");
    }
    let asked = Asked {
        tags: options.tags.clone(),
        from: options.from.clone(),
        to: options.to.clone(),
        what: options.what,
        every: options.every,
        points: options.points,
        limit: options.limit,
        lookback: i64::try_from(options.lookback.0.as_secs().div_ceil(86_400)).unwrap_or(i64::MAX),
        lake_only: options.lake_only,
        draws,
        budget: u64::MAX,
    };
    // A mistake is told before anything is opened.
    asked.question()?;
    let (place, writer) = options.table.find()?;
    let whole = asked.ask(&place, writer.as_ref())?;
    let Answers { range, answers, trouble } = &whole;
    if let Some(trouble) = trouble {
        tell!("only the lake is asked: {trouble}");
    }
    match output {
        Output::Csv => csv(answers),
        Output::Json => say::json(&whole.to_json()),
        Output::Table => table(answers),
        Output::Plot => answers.iter().for_each(|(tag, answer)| {
            let width = terminal_size::terminal_size().map_or(100, |(width, _)| usize::from(width.0));
            say_part!("{}", plot(&visible(tag), answer, range, |plot| plot.terminal(width, 16)));
        }),
        Output::Svg | Output::Png => {
            let [(tag, answer)] = &answers[..] else { bail!("a picture shows one tag; ask for each by itself") };
            let drawn = plot(tag, answer, range, |plot| if output == Output::Svg { plot.svg().into_bytes() } else { plot.png() });
            out(&drawn, options)?;
        }
        Output::Parquet => {
            let until = answers.iter().map(|(_, answer)| answer.complete_until).min().unwrap_or(range.end);
            let file = millrace_lake::export::parquet(answers, &shown::time(until.min(range.end))).map_err(|error| anyhow!(error))?;
            out(&file, options)?;
        }
    }
    if output != Output::Json {
        remarks(answers, options, range.end);
    }
    Ok(ExitCode::SUCCESS)
}

/// What is in Kafka only, of each of the tags.
fn tails(writer: &Writer, place: &Place, tags: &[String], runtime: &tokio::runtime::Runtime) -> Result<HashMap<String, Tail>> {
    let mut tails: HashMap<String, Tail> = tags.iter().map(|tag| (tag.clone(), Tail::default())).collect();
    let held = |upstream: &Upstream, parts: &[Partition]| millrace_lake::positions(place, upstream, parts, runtime.handle().clone());
    let until = tail_of(&writer.factory, &writer.group, &writer.topics, runtime.handle(), held, |batch| {
        let Some(columns) = &batch.decoded else { return };
        if let Some(tail) = tails.get_mut(batch.text_of(columns.tag_path[0])) {
            tail.samples.push(Sample::of(batch, columns, 0));
        }
    })?;
    tails.values_mut().for_each(|tail| tail.read_at = Some(until));
    Ok(tails)
}

/// Hands on what is in Kafka behind the positions that `held` knows; when all of it was read, in microseconds since 1970.
pub fn tail_of(
    factory: &Factory,
    group: &str,
    topics: &[String],
    tokio: &tokio::runtime::Handle,
    held: impl FnOnce(&Upstream, &[Partition]) -> Result<Vec<Option<Offset>>, millrace_config::Reason>,
    each: impl FnMut(&Batch),
) -> Result<i64> {
    if let Some(pattern) = topics.iter().find(|topic| topic.contains('*')) {
        bail!("the sink reads topics like {pattern}");
    }
    let mut problems = Problems::new();
    let works = millrace_engine::compile::compile(factory, crate::catalog::ENTRIES, &mut problems);
    let reading = Reading {
        settings: &millrace_engine::cluster::settings(factory),
        group,
        topics,
        known: &works.topics,
        registry: crate::registry::client(factory, factory.schemas.listen.0)?,
        tokio: tokio.clone(),
    };
    let read = tail::read(&reading, held, each).map_err(|error| anyhow!(error))?;
    Ok(read.until.0)
}

/// How far the answer can be trusted.
fn remarks(answers: &[(String, Answer)], options: &Options, end: i64) {
    let Some((_, first)) = answers.first() else { return };
    let (files, bytes) = answers.iter().fold((0, 0), |(files, bytes), (_, answer)| (files + answer.files, bytes + answer.bytes));
    tell!("{files} files, {bytes} bytes read; version {} of the table", first.version);
    for (tag, answer) in answers.iter().filter(|(_, answer)| answer.is_cut) {
        let _ = answer;
        tell!("{}: cut at {} samples: there are more (--limit)", visible(tag), options.limit);
    }
    if first.complete_until < end {
        tell!("complete up to {}: what reached Kafka later is not in it", crate::say::time(first.complete_until));
    }
}

/// A time, a day, or how long ago.
pub fn moment(text: &str, now: i64) -> Result<i64> {
    millrace_lake::moment(text, now).map_err(|error| anyhow!(error))
}

/// Writes bytes where they are wanted.
pub fn out(bytes: &[u8], options: &Options) -> Result<()> {
    match &options.file {
        Some(file) => std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display())),
        None if options.output != Some(Output::Svg) && std::io::stdout().is_terminal() => {
            bail!("a terminal shows no such file; say where it goes: --file NAME")
        }
        None => {
            say::bytes(bytes);
            Ok(())
        }
    }
}

fn plot<T>(tag: &str, answer: &Answer, range: &Range<i64>, draw: impl Fn(&Plot<'_>) -> T) -> T {
    let mut points: Vec<Point> = answer.before.iter().map(Point::from).collect();
    match &answer.series {
        Series::Points(all) => points.extend(all),
        Series::Samples(samples) => points.extend(samples.iter().map(Point::from)),
        Series::Buckets(buckets) => {
            points.clear();
            points.extend(buckets.iter().map(|bucket| Point { time: bucket.start, value: bucket.mean, quality: bucket.worst }));
        }
    }
    draw(&Plot { title: tag, points: &points, range: range.clone(), known_until: answer.complete_until })
}

// ---- lines ------------------------------------------------------------------------------------------------------------------------

/// The names of an answer's fields.
const fn header(series: &Series) -> &'static [&'static str] {
    match series {
        Series::Samples(_) => &["time", "value", "quality", "status", "origin"],
        Series::Buckets(_) => &["time", "mean", "min", "max", "last", "count", "increase", "covered", "quality"],
        Series::Points(_) => &["time", "value", "quality"],
    }
}

/// An answer's lines, in JSON's types.
fn lines(series: &Series) -> Vec<Vec<serde_json::Value>> {
    let number = |value: Option<f64>| value.map_or(serde_json::Value::Null, shown::number);
    match series {
        Series::Samples(samples) => samples.iter().map(sample).collect(),
        Series::Buckets(buckets) => {
            let line = |bucket: &Bucket| {
                vec![
                    shown::time(bucket.start).into(),
                    number(bucket.mean),
                    number(bucket.min),
                    number(bucket.max),
                    number(bucket.last),
                    bucket.count.into(),
                    shown::number(bucket.increase),
                    shown::number(bucket.covered),
                    bucket.worst.as_str().into(),
                ]
            };
            buckets.iter().map(line).collect()
        }
        Series::Points(points) => {
            points.iter().map(|point| vec![shown::time(point.time).into(), number(point.value), point.quality.as_str().into()]).collect()
        }
    }
}

fn sample(sample: &Sample) -> Vec<serde_json::Value> {
    let value = match &sample.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Long(value) => (*value).into(),
        Value::UInt(value) => (*value).into(),
        Value::Double(value) => shown::number(*value),
        Value::Text(value) => value.as_str().into(),
        Value::Json(value) => serde_json::from_str(value).unwrap_or_else(|_| value.as_str().into()),
    };
    let (quality, status) = (sample.status.quality().as_str(), format!("0x{:08X}", sample.status.0));
    vec![shown::time(sample.time).into(), value, quality.into(), status.into(), sample.origin.as_str().into()]
}

/// A field of CSV or of a table.
fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A field of CSV.
pub fn quoted(text: String) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

/// Lines of CSV, each behind what stands `before` it.
pub fn lines_of_csv(before: &str, lines: &[Vec<serde_json::Value>]) {
    let mut text = String::new();
    for line in lines {
        let fields: Vec<String> = line.iter().map(|field| quoted(plain(field))).collect();
        text.push_str(&format!("{before}{}\n", fields.join(",")));
    }
    say_part!("{text}");
}

fn csv(answers: &[(String, Answer)]) {
    let Some((_, first)) = answers.first() else { return };
    say!("tag,{}", header(&first.series).join(","));
    for (tag, answer) in answers {
        lines_of_csv(&format!("{},", quoted(tag.clone())), &lines(&answer.series));
    }
}

fn table(answers: &[(String, Answer)]) {
    for (tag, answer) in answers {
        say!("{}", visible(tag));
        grid(header(&answer.series), &lines(&answer.series));
    }
}

/// Lines under their header, each column as wide as it must be.
pub fn grid(header: &[&str], lines: &[Vec<serde_json::Value>]) {
    let lines: Vec<Vec<String>> = lines.iter().map(|line| line.iter().map(|field| visible(&plain(field))).collect()).collect();
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, name)| lines.iter().map(|line| line[column].chars().count()).chain([name.len()]).max().unwrap_or(0))
        .collect();
    let show = |fields: &[String]| {
        let padded: Vec<String> = fields.iter().zip(&widths).map(|(field, width)| format!("{field:<width$}")).collect();
        say!("  {}", padded.join("  ").trim_end());
    };
    show(&header.iter().map(ToString::to_string).collect::<Vec<_>>());
    lines.iter().for_each(|line| show(line));
}

fn in_json(answers: &[(String, Answer)], range: &Range<i64>) -> serde_json::Value {
    let tags: Vec<serde_json::Value> = answers
        .iter()
        .map(|(tag, answer)| {
            let header = header(&answer.series);
            let rows: Vec<serde_json::Value> = lines(&answer.series)
                .into_iter()
                .map(|line| header.iter().map(ToString::to_string).zip(line).collect::<Map<_, _>>().into())
                .collect();
            json!({"tag": tag, "rows": rows, "cut": answer.is_cut, "version": answer.version, "complete_until": shown::time(answer.complete_until.min(range.end)), "files": answer.files, "bytes": answer.bytes})
        })
        .collect();
    json!({"from": shown::time(range.start), "to": shown::time(range.end), "tags": tags})
}
