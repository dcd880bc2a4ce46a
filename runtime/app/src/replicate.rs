//! `millrace replicate`: a sink of type `kafka`, looked at from outside; the runtime may run meanwhile, or not.

use crate::files::Files;
use crate::say::{self, say, visible};
use anyhow::{Result, anyhow, bail};
use millrace_config::{Load, Period, Problems};
use millrace_contract::Plugin;
use millrace_kafka_sink::compare::Verdict;
use millrace_kafka_sink::{KafkaSink, KafkaSinkConfig, Replicator};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Says for each partition how far it is copied, what waits, and when it will have caught up.
    Status {
        #[command(flatten)]
        which: Which,
        /// How long rates are watched.
        #[arg(long, value_name = "PERIOD", default_value = "3s")]
        over: Period,
    },
    /// Compares both clusters by count and checksum, for each partition and range of time, on what `fields` lets out; exit code 1 if a range differs.
    Verify {
        #[command(flatten)]
        which: Which,
        /// How much time is in a range, by the records' timestamps.
        #[arg(long, value_name = "PERIOD", default_value = "1h")]
        range: Period,
        /// The equal ranges, too.
        #[arg(long)]
        all: bool,
    },
}

#[derive(clap::Args)]
pub struct Which {
    #[command(flatten)]
    files: Files,
    /// The sink, where the factory has several of type `kafka`.
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    #[arg(long)]
    json: bool,
}

impl Which {
    /// The sink's name, and its copy.
    fn find(&self) -> Result<(String, Replicator)> {
        let mut problems = Problems::new();
        let (factory, works) = crate::check::load(&self.files.clone().paths(), &Load::to_run(), &mut problems);
        let Some((factory, works)) = factory.zip(works) else { bail!("cannot load the configuration\n{}", problems.render()) };
        let is_meant = |name: &str| self.sink.as_deref().is_none_or(|wanted| wanted == name);
        let sinks: Vec<_> = factory.sinks.iter().filter(|sink| sink.type_name.value == KafkaSink::TYPE && is_meant(&sink.name)).collect();
        let sink = match &sinks[..] {
            [sink] => *sink,
            [] => bail!("the factory has no sink {}of type kafka", self.sink.as_deref().map(|name| format!("{name} ")).unwrap_or_default()),
            many => {
                let names: Vec<&str> = many.iter().map(|sink| sink.name.as_str()).collect();
                bail!("the factory has several sinks of type kafka: name one with --sink: {}", names.join(", "));
            }
        };
        let (keys, own) = sink.sink_keys(&mut problems);
        let context = millrace_engine::compile::sink_context(&factory, sink, &keys.unwrap_or_default(), &works.topics);
        let config: Option<KafkaSinkConfig> = own.parse(&mut problems);
        let replicator = config.and_then(|config| Replicator::new(&config, &context, &mut problems));
        let replicator = replicator.ok_or_else(|| anyhow!("cannot use sink {}\n{}", sink.name, problems.render()))?;
        Ok((sink.name.clone(), replicator))
    }
}

pub fn replicate(command: Command) -> Result<ExitCode> {
    match command {
        Command::Status { which, over } => status(&which, over.0),
        Command::Verify { which, range, all } => verify(&which, range.0, all),
    }
}

fn status(which: &Which, over: Duration) -> Result<ExitCode> {
    let (name, replicator) = which.find()?;
    let standing = replicator.compare().status(over).map_err(|failure| anyhow!("{failure}"))?;
    let (origin, target) = replicator.ends();
    if which.json {
        let mut answer = serde_json::to_value(&standing)?;
        if let Some(answer) = answer.as_object_mut() {
            answer.extend([("sink".to_owned(), json!(name)), ("origin".to_owned(), json!(origin)), ("target".to_owned(), json!(target))]);
        }
        say::json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    say!("{name}: {origin} -> {target}");
    let catch_up = match standing.catch_up_seconds {
        Some(0.0) => "nothing waits".to_owned(),
        Some(seconds) => format!("caught up in {}", time(seconds)),
        None => "at this rate it never catches up".to_owned(),
    };
    say!(
        "{} records wait, some {} KiB, the oldest for {}; {:.0}/s copied, {:.0}/s written: {catch_up}",
        standing.lag_records,
        standing.lag_bytes.div_ceil(1 << 10),
        time(standing.lag_seconds),
        standing.copied_per_s,
        standing.written_per_s,
    );
    for part in &standing.partitions {
        let position = part.position.map_or_else(|| "nothing yet".to_owned(), |position| format!("up to {position}"));
        let lost = if part.lost > 0 { format!("; {} were deleted before they could be copied", part.lost) } else { String::new() };
        say!(
            "  {}/{} -> {}: {position} of {}, {} wait{lost}",
            visible(&part.topic),
            part.partition,
            visible(&part.at_target),
            part.end,
            part.lag_records
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(which: &Which, range: Duration, all: bool) -> Result<ExitCode> {
    let (name, replicator) = which.find()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let compared = replicator.compare().verify(range, runtime.handle()).map_err(|failure| anyhow!("{failure}"))?;
    let count = |verdict| compared.iter().filter(|one| one.verdict == verdict).count();
    let (equal, differ, open) = (count(Verdict::Equal), count(Verdict::Differs), count(Verdict::NotJudged));
    let shown: Vec<_> = compared.iter().filter(|one| all || one.verdict != Verdict::Equal).collect();
    if which.json {
        say::json(&json!({"sink": name, "equal": equal, "differ": differ, "not_judged": open, "ranges": shown}));
    } else {
        say!("{name}: {equal} ranges are equal, {differ} differ, {open} are not judged: retention took some of them on one side");
        for one in shown {
            let from = one.from_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|from| format!(" from {from}"));
            let verdict = match one.verdict {
                Verdict::Equal => "equal",
                Verdict::Differs => "differs",
                Verdict::NotJudged => "not judged",
            };
            say!(
                "  {}/{}{}: {verdict}: {} at home ({:016x}), {} at the target ({:016x})",
                visible(&one.topic),
                one.partition,
                from.unwrap_or_default(),
                one.at_home.count,
                one.at_home.checksum,
                one.at_target.count,
                one.at_target.checksum
            );
        }
    }
    Ok(if differ == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// So many seconds, for a person.
fn time(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3_600.0),
    }
}
