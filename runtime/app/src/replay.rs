//! `millrace replay`: a range of a topic or of the lake, back into a topic, with the origin `replay`.

use crate::lake::{place_of, runtime};
use crate::query::moment;
use crate::say::{say, visible};
use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use jiff::Timestamp;
use millrace_config::factory::{Connector, Topic};
use millrace_config::{Factory, Load, Problems};
use millrace_engine::compile::CompiledFactory;
use millrace_engine::dead::prepare::Prepare;
use millrace_engine::replay::{From, Progress, Replay, Selection, topic};
use millrace_schemas::Quality;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Options {
    /// The factory's YAML: says where Kafka is and which topics are declared.
    #[arg(short, long = "config", required = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Out of this topic of samples.
    #[arg(long, value_name = "TOPIC", conflicts_with = "lake", required_unless_present = "lake")]
    topic: Option<String>,
    /// Out of the table of this sink of type `lake`.
    #[arg(long, value_name = "SINK")]
    lake: Option<String>,
    /// Into this topic of samples. Topics of commands are refused.
    #[arg(long, value_name = "TOPIC")]
    to: String,
    /// Samples from this time on: 2026-11-28T06:00:00Z, a day, or how long ago: `8h`.
    #[arg(long, value_name = "TIME")]
    from: String,
    /// Until this time, likewise.
    #[arg(long, value_name = "TIME")]
    until: String,
    /// Only tags like this, by their whole path; `*` matches. May be given several times.
    #[arg(long = "tag", value_name = "PATTERN")]
    tags: Vec<String>,
    /// Only samples of this quality. May be given several times.
    #[arg(long = "quality", value_enum)]
    qualities: Vec<As>,
    /// At most so many samples per second.
    #[arg(long, default_value_t = 10_000)]
    rate: u32,
    /// Where its progress is kept: a replay that broke off goes on there.
    #[arg(long, value_name = "FILE", default_value = "replay.json")]
    progress: PathBuf,
    /// Without it nothing is sent: it is said how many would be.
    #[arg(long)]
    yes: bool,
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum As {
    Good,
    Uncertain,
    Bad,
}

pub fn replay(options: &Options) -> Result<ExitCode> {
    let now = Timestamp::now().as_microsecond();
    let range = moment(&options.from, now).context("--from")?..moment(&options.until, now).context("--until")?;
    if range.start >= range.end {
        bail!("the range is empty: {} is not before {}", crate::say::time(range.start), crate::say::time(range.end));
    }
    if options.rate == 0 {
        bail!("--rate 0 sends nothing, ever");
    }
    let mut problems = Problems::new();
    let factory = millrace_config::load(&options.config, &Load::to_run(), &mut problems);
    let factory =
        factory.filter(|_| !problems.has_errors()).ok_or_else(|| anyhow!("cannot load the configuration\n{}", problems.render()))?;
    let works = millrace_engine::compile::compile(&factory, crate::catalog::ENTRIES, &mut problems);
    if problems.has_errors() {
        bail!("cannot use the configuration\n{}", problems.render());
    }
    let samples = works.sample_topics();
    refuse(options, &factory)?;
    takes_samples(&options.to, &factory, &works)?;
    let selection = Selection {
        range: range.clone(),
        tags: options.tags.clone(),
        qualities: options
            .qualities
            .iter()
            .map(|quality| match quality {
                As::Good => Quality::Good,
                As::Uncertain => Quality::Uncertain,
                As::Bad => Quality::Bad,
            })
            .collect(),
    };
    let what = format!(
        "{} -> {}, {} to {}, tags {:?}, {:?}",
        options
            .topic
            .as_deref()
            .map_or_else(|| format!("lake {}", options.lake.as_deref().unwrap_or_default()), |topic| format!("topic {topic}")),
        options.to,
        options.from,
        options.until,
        options.tags,
        selection.qualities
    );
    let progress = match options.yes {
        true => Progress::open(&options.progress, &what).map_err(|error| anyhow!(error))?,
        false => Progress { what, ..Progress::default() },
    };
    if progress.done {
        bail!("{} says that this replay is done; delete it to replay once more", options.progress.display());
    }
    let resumed = progress.sent;
    let settings = millrace_engine::cluster::settings(&factory);
    let registry = crate::registry::client(&factory, factory.schemas.listen.0)?;
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let prepare = Prepare::new(works.topics.clone(), samples, registry.clone().filter(|_| options.yes), own);
    let file = options.yes.then(|| options.progress.clone());
    let mut replay = Replay::new(&settings, prepare, &options.to, f64::from(options.rate), file, progress);
    let tokio = runtime()?;
    let done = match (&options.topic, &options.lake) {
        (Some(name), _) => {
            let from = From { settings: &settings, topic: name, known: &works.topics, registry, tokio: tokio.handle().clone() };
            topic(&from, &selection, &mut replay)
        }
        (None, lake) => {
            let (place, _) = place_of(factory, lake.as_deref())?;
            let after = replay.progress.after.clone();
            millrace_lake::walk(&place, &range, after.as_ref(), tokio.handle().clone(), &mut |batch, mark| {
                if selection.takes(batch, 0) {
                    replay.send(batch, 0, ("lake", 0, mark.4))?;
                }
                replay.progress.after = Some(mark);
                replay.note(false)
            })
        }
    };
    if let Err(error) = done {
        bail!("{error}; {} samples were sent, and the same command goes on behind them", replay.progress.sent);
    }
    replay.progress.done = true;
    replay.note(true).map_err(|error| anyhow!(error))?;
    let (sent, refused) = (replay.progress.sent, replay.refused);
    if options.json {
        let facts = serde_json::json!({"dry_run": !options.yes, "sent": sent, "resumed_behind": resumed, "refused": refused, "reasons": replay.reasons});
        crate::say::json(&facts);
    } else if options.yes {
        say!("{sent} samples sent to {} ({} of them before), {refused} refused", visible(&options.to), resumed);
    } else {
        say!("{sent} samples would be sent to {}; add --yes to do it", visible(&options.to));
    }
    if !options.json {
        replay.reasons.iter().for_each(|reason| say!("  {}", visible(reason)));
    }
    Ok(if refused > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Refuses a topic that is not made for samples, and one whose records a device would carry out.
pub fn takes_samples(to: &str, factory: &Factory, works: &CompiledFactory) -> Result<()> {
    for sink in factory.sinks.iter().filter(|sink| sink.type_name.value == millrace_config::factory::COMMANDS) {
        if reads(sink, to) {
            bail!(
                "{to} is a topic of commands, which sink {} carries out: nothing is ever replayed to it, nor imported into it",
                sink.name
            );
        }
    }
    let is_of_samples = |topic: &Topic| topic.schema.as_ref().is_some_and(|schema| schema.value == "telemetry");
    if !works.sample_topics().contains(to) && !factory.topics.get(to).is_some_and(|topic| is_of_samples(&topic.value)) {
        bail!("topic {to} is not declared to carry samples: declare it with `schema: telemetry`");
    }
    Ok(())
}

fn reads(sink: &Connector, topic: &str) -> bool {
    let keys = sink.sink_keys(&mut Problems::new()).0.unwrap_or_default();
    keys.topics.iter().any(|pattern| millrace_engine::dead::matches(&pattern.value, topic))
}

/// Topics that nothing may be replayed to: those it comes from, and what the lake would hold twice.
fn refuse(options: &Options, factory: &Factory) -> Result<()> {
    for sink in &factory.sinks {
        let reads = reads(sink, &options.to);
        if reads && options.lake.as_ref().is_some_and(|lake| *lake == sink.name) {
            bail!("sink {} reads topic {}: the lake would hold what is replayed twice; name another topic", sink.name, options.to);
        }
    }
    if options.topic.as_ref() == Some(&options.to) {
        bail!("a topic can't be replayed to itself: name another one with --to");
    }
    Ok(())
}
