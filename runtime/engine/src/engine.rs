//! The engine as a whole: opens the store, starts every source, the drain and the sinks, and stops them in order.
//!
//! ```text
//! start: store ─ intakes ─ drain ─ sources ─ sinks           stop: sources ─ intakes synced ─ sinks ─ drain (bounded) ─ store closed
//! ```

use crate::book::Book;
use crate::commands::{self, CommandParts, CommandSink};
use crate::compile::{SinkSpec, Works};
use crate::drain::{Drain, DrainOptions, DrainReport};
use crate::intake::{Intake, IntakeOptions, source_dir};
use crate::ledger::Snapshot;
use crate::paths::Paths;
use crate::registrar::Registrar;
use crate::sinks::{SinkCounts, SinkOptions, SinkTask};
use crate::source::{Host, Remote, supervise};
use crate::status::{Board, Report};
use crate::taps::Taps;
use crate::topics::Topics;
use millrace_contract::{Guarantee, Model, Status};
use millrace_kafka::Settings;
use millrace_log::{Full, KeepFree, Store, StoreOptions};
use millrace_registry::Client;
use millrace_schemas::Micros;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The name of the engine's own log: audit and answers of commands.
const OWN: &str = "millrace";

/// What the engine is started with, beside the compiled factory.
pub struct EngineOptions {
    pub data_dir: PathBuf,
    pub keep_free: KeepFree,
    /// Group commit without anyone waiting.
    pub sync: Duration,
    pub compress: bool,
    pub settings: Settings,
    pub exactly_once: bool,
    pub commit: Duration,
    /// Warn when a log is this full (0..1), or will be within this time.
    pub alarm: (f64, Duration),
    /// The schema registry; `None`: values go out without ids.
    pub registry: Option<Arc<Client>>,
}

/// A running engine.
pub struct Engine {
    site: Arc<str>,
    store: Store,
    sources: Vec<RunningSource>,
    sinks: Vec<RunningSink>,
    drain: Arc<Drain>,
    stopping: watch::Sender<bool>,
    taps: Arc<Taps>,
    watcher: JoinHandle<()>,
    started: Micros,
}

struct RunningSource {
    name: String,
    type_name: String,
    host: Arc<Host>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    guarantee: Option<Guarantee>,
}

struct RunningSink {
    name: String,
    type_name: String,
    board: Arc<Board>,
    task: SinkTask,
}

/// The engine at one moment, as REST gives it.
#[derive(Clone, Debug, Serialize)]
pub struct EngineReport {
    pub site: Arc<str>,
    /// Microseconds since 1970.
    pub started: i64,
    pub kafka: DrainReport,
    pub sources: BTreeMap<String, SourceReport>,
    pub sinks: BTreeMap<String, SinkReport>,
    pub disk: DiskReport,
}

#[derive(Clone, Debug, Serialize)]
pub struct SourceReport {
    pub r#type: String,
    #[serde(flatten)]
    pub state: Report,
    /// What survives a kill between device and log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<&'static str>,
    pub ledger: Snapshot,
    /// Both equations of the ledger hold.
    pub adds_up: bool,
    pub tags: usize,
    pub log_bytes: u64,
    pub log_limit: u64,
    /// Why the log takes nothing at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_held: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct SinkReport {
    pub r#type: String,
    #[serde(flatten)]
    pub state: Report,
    pub counts: SinkCounts,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DiskReport {
    /// Bytes free beyond `keep_free`.
    pub free: u64,
    /// Appends are refused until there is room again.
    pub low: bool,
}

impl Engine {
    /// Starts everything; what can't connect tries again for ever.
    ///
    /// Errors: the data directory can't be used (another process, another version, no permission).
    pub fn start(works: Works, options: EngineOptions) -> Result<Arc<Self>, String> {
        let store = Store::open(options.data_dir.join("log"), StoreOptions { keep_free: options.keep_free, ..StoreOptions::default() })
            .map_err(|e| e.to_string())?;
        let book = Arc::new(Book::open(&options.data_dir).map_err(|e| format!("cannot make the folder of schemas: {e}"))?);
        for schema in works.topics.iter().filter_map(|topic| topic.schema.as_ref()) {
            book.keep(schema).map_err(|e| format!("cannot keep the schema {} in the data directory: {e}", schema.name))?;
        }
        let topics = works.topics.with_sheets(&options.data_dir, &book).map_err(|e| format!("cannot take up the shapes of topics: {e}"))?;
        let registrar =
            options.registry.clone().map(|client| Registrar::new(client, book.clone(), topics.clone(), tokio::runtime::Handle::current()));
        let taps = Arc::new(Taps::default());
        let paths = Arc::new(Paths::default());
        let stopping = watch::Sender::new(false);
        let open = |name: &str, model: &Model, log_size: u64, full: Full| {
            Intake::open(
                &store,
                IntakeOptions {
                    site: &works.site,
                    name,
                    model,
                    topics: &topics,
                    clock: works.clock,
                    log_size,
                    full,
                    sync: options.sync,
                    compress: options.compress,
                    dir: source_dir(&options.data_dir, name),
                    taps: taps.clone(),
                    paths: paths.clone(),
                },
            )
        };
        let mut prepared = Vec::new();
        let mut remotes: BTreeMap<String, (Remote, Arc<Intake>)> = BTreeMap::new();
        for spec in &works.sources {
            let intake = open(&spec.name, spec.compiled.model(), spec.log_size, spec.full)?;
            let (host, remote) = Host::new(intake.clone(), Arc::new(Board::default()), stopping.subscribe());
            remotes.insert(spec.name.clone(), (remote, intake));
            prepared.push((spec, host));
        }
        let own =
            if works.commands.is_empty() { None } else { Some(open(OWN, &commands::model(&works.commands), 256 << 20, Full::Block)?) };
        let outlets = prepared.iter().map(|(_, host)| host.intake.outlet.clone()).chain(own.iter().map(|i| i.outlet.clone())).collect();
        let drain = Arc::new(Drain::start(DrainOptions {
            settings: options.settings.clone(),
            transactions: options.exactly_once.then(|| (format!("millrace-{}", works.site.replace('/', "-")), options.commit)),
            topics: topics.clone(),
            declared: works.declared,
            outlets,
            linger: Duration::from_millis(5),
            book,
            registrar,
        })?);
        let mut sources = Vec::new();
        for (spec, host) in prepared {
            let guarantee = spec.compiled.guarantee();
            let resumes = matches!(guarantee, Guarantee::ExactlyOnce(_));
            let Some(source) = spec.compiled.source() else { continue };
            let task = tokio::spawn(supervise(source, host.clone(), resumes));
            sources.push(RunningSource {
                name: spec.name.clone(),
                type_name: spec.type_name.clone(),
                host,
                task: tokio::sync::Mutex::new(Some(task)),
                guarantee: Some(guarantee),
            });
        }
        if let Some(own) = &own {
            // Nobody sends on it but the command sinks; its ticks write catalog entries and save positions.
            let (host, _) = Host::new(own.clone(), Arc::new(Board::default()), stopping.subscribe());
            host.board.set(Status::Running, Micros::now());
            let task = tokio::spawn(supervise(Box::new(Idle), host.clone(), false));
            sources.push(RunningSource {
                name: OWN.to_owned(),
                type_name: "engine".to_owned(),
                host,
                task: tokio::sync::Mutex::new(Some(task)),
                guarantee: None,
            });
        }
        let mut sinks = Vec::new();
        for spec in works.sinks {
            sinks.push(start_sink(spec, &works.site, &topics, &options.settings, &options.registry)?);
        }
        for (index, rules) in works.commands.into_iter().enumerate() {
            let Some((own, (remote, target))) = own.clone().zip(remotes.get(&rules.source).cloned()) else { continue };
            let parts = CommandParts { rules: Arc::new(rules), index, remote, target, own };
            sinks.push(start_commands(parts, &works.site, &topics, &options.settings, &options.registry)?);
        }
        let watched: Vec<Arc<Intake>> = sources.iter().map(|s| s.host.intake.clone()).collect();
        let watcher = tokio::spawn(crate::alarm::watch(watched, store.clone(), options.alarm));
        Ok(Arc::new(Self {
            site: works.site.as_str().into(),
            store,
            sources,
            sinks,
            drain,
            stopping,
            taps,
            watcher,
            started: Micros::now(),
        }))
    }

    pub fn taps(&self) -> &Arc<Taps> {
        &self.taps
    }

    pub fn report(&self) -> EngineReport {
        let sources = self.sources.iter().map(|source| {
            let intake = &source.host.intake;
            let ledger = intake.ledger.snapshot();
            let (log_bytes, log_limit) = intake.log_bytes();
            let blocked = intake.outlet.blocked.lock().clone();
            let report = SourceReport {
                r#type: source.type_name.clone(),
                state: source.host.board.report(blocked),
                guarantee: source.guarantee.as_ref().map(Guarantee::words),
                adds_up: ledger.adds_up(),
                ledger,
                tags: intake.tags_len(),
                log_bytes,
                log_limit,
                log_held: intake.held(),
            };
            (source.name.clone(), report)
        });
        let sinks = self.sinks.iter().map(|sink| {
            let report = SinkReport { r#type: sink.type_name.clone(), state: sink.board.report(None), counts: sink.task.counts() };
            (sink.name.clone(), report)
        });
        EngineReport {
            site: self.site.clone(),
            started: self.started.0,
            kafka: self.drain.report(),
            sources: sources.collect(),
            sinks: sinks.collect(),
            disk: DiskReport { free: self.store.free().unwrap_or(0), low: self.store.low_on_space() },
        }
    }

    /// Stops in order: intake, sinks, drain. Everything together takes little more than `bound`.
    pub async fn stop(&self, bound: Duration) {
        let _ = self.stopping.send(true);
        for source in &self.sources {
            if let Some(task) = source.task.lock().await.take() {
                let _ = task.await;
            }
        }
        self.watcher.abort();
        tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                for sink in &self.sinks {
                    scope.spawn(|| sink.task.stop(bound));
                }
            });
            self.drain.stop(bound);
            if let Err(e) = self.store.close() {
                tracing::error!("cannot close the log: {e}; it is checked at the next start");
            }
        });
    }
}

fn start_sink(
    spec: SinkSpec,
    site: &str,
    topics: &Topics,
    settings: &Settings,
    registry: &Option<Arc<Client>>,
) -> Result<RunningSink, String> {
    let board = Arc::new(Board::default());
    let topics = topics.clone();
    let compiled = spec.compiled;
    let task = SinkTask::start(
        SinkOptions {
            name: spec.name.clone(),
            settings: settings.clone(),
            group: spec.group,
            topics: spec.topics,
            from_latest: spec.from_latest,
            connector: format!("{site}/{}", spec.name),
            known: topics.clone(),
            registry: registry.clone(),
            dead_letter: Box::new(move |topic| topics.get(topic).dead_letter.clone()),
            make: Box::new(move || compiled.sink().expect("compiled as a sink")),
            board: board.clone(),
        },
        tokio::runtime::Handle::current(),
    )?;
    Ok(RunningSink { name: spec.name, type_name: spec.type_name, board, task })
}

fn start_commands(
    parts: CommandParts,
    site: &str,
    topics: &Topics,
    settings: &Settings,
    registry: &Option<Arc<Client>>,
) -> Result<RunningSink, String> {
    let board = Arc::new(Board::default());
    let topics = topics.clone();
    let rules = parts.rules.clone();
    tokio::spawn({
        let parts = parts.clone();
        async move { CommandSink::answer_unknown(&parts).await }
    });
    let task = SinkTask::start(
        SinkOptions {
            name: rules.name.clone(),
            settings: settings.clone(),
            group: rules.group.clone(),
            topics: rules.topics.clone(),
            from_latest: true,
            connector: format!("{site}/{}", rules.name),
            known: topics.clone(),
            registry: registry.clone(),
            dead_letter: Box::new(move |topic| topics.get(topic).dead_letter.clone()),
            make: Box::new(move || Box::new(CommandSink::new(parts.clone()))),
            board: board.clone(),
        },
        tokio::runtime::Handle::current(),
    )?;
    Ok(RunningSink { name: rules.name.clone(), type_name: "commands".to_owned(), board, task })
}

/// A source that reads nothing: the engine's own.
struct Idle;

#[async_trait::async_trait]
impl millrace_contract::Source for Idle {
    async fn session(&mut self, io: millrace_contract::SourceIo) -> Result<(), millrace_contract::Failure> {
        io.status("", Status::Running);
        io.stopping().await;
        Ok(())
    }
}

/// Where the log is, below the data directory.
pub fn log_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}
