//! `millrace lake`: looks after the tables of sinks of type `lake`. [`Table`] says which table a command means.

use crate::say::{self, say, visible};
use anyhow::{Result, anyhow, bail};
use millrace_config::{Factory, Load, Period, Problems};
use millrace_contract::Plugin;
use millrace_lake::{LakeConfig, LakeSink, Place, Upkeep};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// A writer may hold a file so long before it commits it.
const LEAST_KEEP: Duration = Duration::from_secs(3600);

#[derive(clap::Subcommand)]
pub enum Command {
    /// Holds the table's log, or its newest snapshot, against its files; exit code 1 if one is missing.
    Check(Which),
    /// Makes large files of small ones, of each day that is over. Rows stay as they are; a sink may write meanwhile.
    Compact {
        #[command(flatten)]
        which: Which,
        /// The files of today, too.
        #[arg(long)]
        all: bool,
    },
    /// Deletes files that no version names any more: leftovers, and what compaction replaced. Of an Iceberg table, old snapshots first.
    Vacuum {
        #[command(flatten)]
        which: Which,
        /// Only what is older than this; readers of older versions need it until then.
        #[arg(long, value_name = "PERIOD", default_value = "7d")]
        keep: Period,
        /// Without it nothing is deleted: it is said what would be.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(clap::Args)]
pub struct Which {
    #[command(flatten)]
    table: Table,
    #[arg(long)]
    json: bool,
}

/// Which table.
#[derive(clap::Args)]
pub struct Table {
    /// The factory's YAML: its sink of type `lake` names the table.
    #[arg(short, long = "config", value_name = "FILE", required_unless_present = "table")]
    config: Vec<PathBuf>,
    /// The sink, where the factory has several of type `lake`.
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// A table of no factory: a folder, or `s3://bucket/folder` as the environment says.
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    table: Option<String>,
}

impl Table {
    /// The table, and the factory whose sink writes it.
    pub fn find(&self) -> Result<(Place, Option<Writer>)> {
        match &self.table {
            Some(table) => Ok((Place::bare(table), None)),
            None => place_of(self.factory()?, self.sink.as_deref()).map(|(place, writer)| (place, Some(writer))),
        }
    }

    /// All tables that are meant, and the factory whose sinks write them.
    pub fn all(&self) -> Result<(Vec<Lake>, Option<Factory>)> {
        if let Some(table) = &self.table {
            let lake = Lake { name: "lake".into(), place: Place::bare(table), group: String::new(), topics: Vec::new() };
            return Ok((vec![lake], None));
        }
        let factory = self.factory()?;
        Ok((places_of(&factory, self.sink.as_deref())?, Some(factory)))
    }

    fn factory(&self) -> Result<Factory> {
        let mut problems = Problems::new();
        let factory = millrace_config::load(&self.config, &Load::to_run(), &mut problems);
        factory.filter(|_| !problems.has_errors()).ok_or_else(|| anyhow!("cannot load the configuration\n{}", problems.render()))
    }
}

/// The table of a factory's sink of type `lake`, and who writes it. `name`: which, where there are several.
pub fn place_of(factory: Factory, name: Option<&str>) -> Result<(Place, Writer)> {
    let mut found = places_of(&factory, name)?;
    if found.len() > 1 {
        let names: Vec<&str> = found.iter().map(|sink| sink.name.as_str()).collect();
        bail!("the factory has several sinks of type lake: name one with --sink: {}", names.join(", "));
    }
    let Some(sink) = found.pop() else { bail!("the factory has no sink of type lake; name a table with --table") };
    Ok((sink.place, Writer { group: sink.group, topics: sink.topics, factory }))
}

/// A sink of type `lake`: its table, and what it reads.
pub struct Lake {
    pub name: String,
    pub place: Place,
    pub group: String,
    pub topics: Vec<String>,
}

/// The factory's sinks of type `lake`; `name`: that one alone.
pub fn places_of(factory: &Factory, name: Option<&str>) -> Result<Vec<Lake>> {
    let is_meant =
        |sink: &&millrace_config::factory::Connector| sink.type_name.value == LakeSink::TYPE && name.is_none_or(|name| *name == sink.name);
    let mut found = Vec::new();
    for sink in factory.sinks.iter().filter(is_meant) {
        let mut problems = Problems::new();
        let (keys, own) = sink.sink_keys(&mut problems);
        let keys = keys.unwrap_or_default();
        let group = millrace_engine::compile::group(factory, sink, &keys);
        let topics = keys.topics.into_iter().map(|topic| topic.value).collect();
        let config: Option<LakeConfig> = own.parse(&mut problems);
        let place = config.map(|config| config.place(&factory.levels, &mut problems));
        let place =
            place.filter(|_| !problems.has_errors()).ok_or_else(|| anyhow!("cannot use sink {}\n{}", sink.name, problems.render()))?;
        found.push(Lake { name: sink.name.to_string(), place, group, topics });
    }
    match (name, found.is_empty()) {
        (Some(name), true) => bail!("the factory has no sink {name} of type lake"),
        (None, true) => bail!("the factory has no sink of type lake; name a table with --table"),
        _ => Ok(found),
    }
}

/// Who writes a table.
pub struct Writer {
    pub factory: Factory,
    pub group: String,
    pub topics: Vec<String>,
}

/// What blocks runs here: the table's own threads are elsewhere.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

pub fn lake(command: Command) -> Result<ExitCode> {
    let (which, what) = match command {
        Command::Check(which) => (which, Upkeep::Check),
        Command::Compact { which, all } => (which, Upkeep::Compact { all }),
        Command::Vacuum { which, keep, yes } => {
            if keep.0 < LEAST_KEEP {
                bail!("--keep {keep} is less than 1h: a writer may not have committed its files yet");
            }
            (which, Upkeep::Vacuum { keep: keep.0, dry: !yes })
        }
    };
    let (place, _) = which.table.find()?;
    let runtime = runtime()?;
    let report = millrace_lake::tend(&place, what, runtime.handle().clone()).map_err(|error| anyhow!(error))?;
    if which.json {
        say::json(&report.facts);
    } else {
        say!("{}", place.table);
        for (name, value) in report.facts.as_object().into_iter().flatten() {
            match value.as_array() {
                Some(list) => list.iter().for_each(|one| say!("  {name}: {}", visible(one.as_str().unwrap_or_default()))),
                None => say!("  {:<14} {value}", name.replace('_', " ")),
            }
        }
        if let Upkeep::Vacuum { dry: true, .. } = what {
            say!("nothing was deleted; add --yes");
        }
    }
    Ok(if report.is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
