//! The engine as a whole: opens the store, starts every source, the drain and the sinks, and stops them in order.
//!
//! ```text
//! start: store ─ intakes ─ drain ─ sources ─ sinks           stop: sources ─ intakes synced ─ sinks ─ drain (bounded) ─ store closed
//! ```

use crate::commands::{self, CommandParts, CommandRules, CommandSink};
use crate::compile::{CompiledFactory, SinkSpec, SourceSpec};
use crate::dead::kept::KeptRecords;
use crate::drain::{Drain, DrainOptions};
use crate::error::EngineError;
use crate::frame::Lane;
use crate::hold::{Held, Order};
use crate::identity::Identity;
use crate::intake::{ClockWindow, Intake, IntakeOptions, TagReport, source_dir};
use crate::lease::Group;
use crate::lease::member::{GroupOptions, Stop};
use crate::lease::seat::Seat;
use crate::paths::Paths;
use crate::registrar::Registrar;
pub use crate::reports::{DiskReport, EngineReport, PaceReport, SinkReport, SourceReport};
pub(crate) use crate::running::{Begin, OWN, OWN_LIMITS, RunningSource};
use crate::schema_store::SchemaStore;
use crate::sinks::{SinkOptions, SinkTask};
use crate::source_logs::SourceLogs;
use crate::status::Board;
use crate::tags::Look;
use crate::taps::Taps;
use crate::topics::Topics;
use millrace_contract::{AckId, Model, Role, Status};
use millrace_kafka::{Admin, Settings};
use millrace_log::{Full, KeepFree, Log, Store, StoreOptions};
use millrace_registry::Client;
use millrace_schemas::{Micros, RouteId};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long it may take to give the sources to other runtimes.
const LEAVE_BOUND: Duration = Duration::from_secs(20);
/// How long Kafka may take to say which cluster it is.
const CLUSTER_ID_WITHIN: Duration = Duration::from_secs(5);

/// What the engine is started with, beside the compiled factory.
pub struct EngineOptions {
    pub data_dir: PathBuf,
    pub keep_free: KeepFree,
    /// Group commit without anyone waiting.
    pub sync: Duration,
    pub compress: bool,
    pub settings: Settings,
    /// Kafka is in this process, and its records lie on the disk that the logs are on.
    pub shares_disk: bool,
    /// Exactly once, under this transactional id; `None`: at least once. No two engines that run may have one id.
    pub transactional_id: Option<String>,
    pub commit: Duration,
    /// Warn when a log is this full (0..1), or will be within this time.
    pub alarm: (f64, Duration),
    /// The schema registry; `None`: values go out without ids.
    pub registry: Option<Arc<Client>>,
}

/// A running engine.
pub struct Engine {
    pub(crate) ground: Ground,
    pub(crate) sources: Arc<RwLock<Vec<Arc<RunningSource>>>>,
    pub(crate) sinks: RwLock<Vec<Arc<RunningSink>>>,
    pub(crate) drain: Arc<Drain>,
    /// One change at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// What may be commanded, by the file.
    pub(crate) rules: Mutex<Vec<CommandRules>>,
    /// The runtimes that share the sources; unset: this one has all.
    pub(crate) group: OnceLock<Group>,
    /// It stops to begin again at once, with its sources.
    returns: AtomicBool,
    shares_disk: bool,
    watcher: JoinHandle<()>,
    filling: crate::alarm::Filling,
    started: Micros,
}

/// What every connector stands on; it outlives them all.
pub(crate) struct Ground {
    pub site: Arc<str>,
    pub store: Store,
    pub data_dir: PathBuf,
    pub sync: Duration,
    pub compress: bool,
    pub clock: ClockWindow,
    pub settings: Settings,
    pub registry: Option<Arc<Client>>,
    pub topics: Topics,
    pub schema_store: Arc<SchemaStore>,
    pub taps: Arc<Taps>,
    pub paths: Arc<Paths>,
    pub held: Held,
    /// This runtime's place among those that share the sources.
    pub seat: Option<Arc<Seat>>,
}

impl Ground {
    pub fn intake_options<'a>(&'a self, name: &'a str, model: &'a Model, (log_size, full): (u64, Full)) -> IntakeOptions<'a> {
        IntakeOptions {
            site: &self.site,
            name,
            model,
            topics: &self.topics,
            clock: self.clock,
            log_size,
            full,
            sync: self.sync,
            compress: self.compress,
            dir: source_dir(&self.data_dir, name),
            taps: self.taps.clone(),
            paths: self.paths.clone(),
        }
    }

    pub fn open_intake(&self, name: &str, model: &Model, limits: (u64, Full)) -> Result<Arc<Intake>, EngineError> {
        Intake::open(&self.store, self.intake_options(name, model, limits))
    }

    pub fn open_own(&self, commands: &[CommandRules]) -> Result<Arc<Intake>, EngineError> {
        self.open_intake(&self.own_name(), &commands::model(commands), OWN_LIMITS)
    }

    /// Of the engine's own log: of runtimes that share their sources each has its own.
    pub fn own_name(&self) -> String {
        self.seat.as_ref().map_or_else(|| OWN.to_owned(), |seat| format!("{OWN}@{}", seat.runtime))
    }
}

pub(crate) struct RunningSink {
    pub name: String,
    pub type_name: String,
    /// The source whose device it writes to, of a command sink.
    pub target: Option<String>,
    pub group: String,
    /// Names, or patterns with `*`.
    pub topics: Vec<String>,
    board: Arc<Board>,
    pub task: SinkTask,
}

impl Engine {
    /// Starts everything; what can't connect tries again for ever.
    ///
    /// Errors: the data directory can't be used (another process, another version, no permission).
    pub fn start(works: CompiledFactory, options: EngineOptions) -> Result<Arc<Self>, EngineError> {
        keep_to_ourselves(&options.data_dir);
        let store = Store::open(options.data_dir.join("log"), StoreOptions { keep_free: options.keep_free, ..StoreOptions::default() })?;
        let schema_store = SchemaStore::open(&options.data_dir).map_err(|error| EngineError::files("make the folder of schemas", error))?;
        let schema_store = Arc::new(schema_store);
        for schema in works.topics.all().iter().filter_map(|topic| topic.schema.as_ref()) {
            schema_store.keep(schema).map_err(|error| EngineError::schema(&schema.name, error))?;
        }
        let topics = works
            .topics
            .with_layouts(&options.data_dir, &schema_store)
            .map_err(|error| EngineError::files("take up the shapes of topics", error))?;
        let registrar = options
            .registry
            .clone()
            .map(|client| Registrar::new(client, schema_store.clone(), topics.clone(), tokio::runtime::Handle::current()));
        let ground = Ground {
            site: works.site.as_str().into(),
            store,
            data_dir: options.data_dir.clone(),
            sync: options.sync,
            compress: options.compress,
            clock: works.clock,
            settings: options.settings.clone(),
            registry: options.registry,
            topics: topics.clone(),
            schema_store: schema_store.clone(),
            taps: Arc::default(),
            paths: Arc::default(),
            held: Held::open(&options.data_dir),
            seat: works.sharing.as_ref().map(|sharing| Seat::new(&sharing.id, &sharing.transactional, sharing.session)),
        };
        let mut prepared = Vec::new();
        for spec in works.sources {
            let intake = ground.open_intake(&spec.name, spec.compiled.model(), (spec.log_size, spec.full))?;
            ground.note_shared(&spec, &intake);
            prepared.push((spec, intake));
        }
        // What an earlier run wrote into the audit goes to Kafka, too.
        let has_audit = ground
            .store
            .names()
            .is_ok_and(|names| names.contains(&SourceLogs::log_name(&format!("{}/{}", ground.site, ground.own_name()), Lane::Normal)));
        let own = if works.commands.is_empty() && !has_audit { None } else { Some(ground.open_own(&works.commands)?) };
        let intakes = prepared.iter().map(|(_, intake)| intake).chain(&own);
        let source_logs = intakes.map(|intake| intake.source_logs.clone()).collect();
        let drain = Arc::new(Drain::start(DrainOptions {
            settings: options.settings,
            transactions: options.transactional_id.map(|id| (id, options.commit)),
            topics,
            declared: works.declared,
            source_logs,
            store: ground.store.clone(),
            linger: Duration::from_millis(5),
            schema_store,
            registrar,
            kept: KeptRecords::new(&options.data_dir),
            seat: ground.seat.clone(),
        })?);
        let start = |(spec, intake): (SourceSpec, Arc<Intake>)| {
            // One that is shared is started when the group gives it to this runtime.
            let begin =
                if ground.seat.is_some() { Begin::StandingBy } else { Begin::Running(ground.held.wanted(Role::Source, &spec.name)) };
            RunningSource::start(spec, intake, begin)
        };
        let mut sources: Vec<_> = prepared.into_iter().filter_map(start).collect();
        sources.extend(own.map(RunningSource::start_own));
        let mut sinks = Vec::new();
        for spec in works.sinks {
            sinks.push(ground.start_sink(spec)?);
        }
        sinks.extend(ground.start_commands(works.commands.clone(), &sources)?);
        let sources = Arc::new(RwLock::new(sources));
        let watched = {
            let sources = sources.clone();
            move || sources.read().iter().map(|source: &Arc<RunningSource>| source.host.intake.clone()).collect()
        };
        let filling = crate::alarm::Filling::default();
        let watcher = tokio::spawn(crate::alarm::watch(watched, ground.store.clone(), options.alarm, filling.clone()));
        let site = ground.site.to_string();
        let (settings, seat) = (ground.settings.clone(), ground.seat.clone());
        let engine = Arc::new(Self {
            ground,
            sources,
            rules: Mutex::new(works.commands),
            group: OnceLock::new(),
            returns: AtomicBool::new(false),
            shares_disk: options.shares_disk,
            sinks: RwLock::new(sinks),
            drain,
            changing: tokio::sync::Mutex::default(),
            watcher,
            filling,
            started: Micros::now(),
        });
        if let (Some(sharing), Some(seat)) = (works.sharing, seat) {
            let keeps = sharing.keeps;
            engine.join(GroupOptions::of(settings, site, sharing, works.wishes, &options.data_dir), seat, keeps)?;
        }
        Ok(engine)
    }

    pub fn taps(&self) -> &Arc<Taps> {
        &self.ground.taps
    }

    /// Tags whose path and state are wanted, at most so many, by path; second, how many are wanted in all.
    pub fn tags(&self, path: impl Fn(&str) -> bool, state: impl Fn(&Look<'_>) -> bool, limit: usize) -> (Vec<TagReport>, usize) {
        let (mut found, mut total) = (Vec::new(), 0);
        for source in self.sources.read().iter().filter(|source| !source.is_leaving.load(Relaxed) && !source.stands_by) {
            let (more, of_source) = source.host.intake.look(&path, &state, limit.saturating_sub(found.len()));
            found.extend(more);
            total += of_source;
        }
        found.sort_by(|a, b| a.tag.cmp(&b.tag));
        (found, total)
    }

    /// What a connector tells apart, each with its status: devices, subscriptions, topics that are missing.
    pub fn parts(&self, role: Role, name: &str) -> Vec<(String, Status)> {
        match role {
            Role::Source => self.source(name).map_or_else(Vec::new, |source| source.host.board.parts()),
            Role::Sink => self.sinks.read().iter().find(|sink| sink.name == name).map_or_else(Vec::new, |sink| sink.board.parts()),
        }
    }
    /// What the catalog says of tags whose path is wanted, at most so many of each source.
    pub fn definitions(&self, path: impl Fn(&str) -> bool, limit: usize) -> BTreeMap<Arc<str>, serde_json::Map<String, serde_json::Value>> {
        let sources = self.sources.read();
        let running = sources.iter().filter(|source| !source.is_leaving.load(Relaxed));
        running.flat_map(|source| source.host.intake.definitions(&path, limit)).collect()
    }

    /// The topics that a connector writes to, as far as they are known before it runs, or reads: names, or patterns.
    pub fn topics_of(&self, role: Role, name: &str) -> Vec<String> {
        match role {
            Role::Source => {
                let compiled = self.source(name).and_then(|source| source.compiled());
                compiled.map_or_else(Vec::new, |compiled| topics_of(compiled.model()).into_iter().collect())
            }
            Role::Sink => self.sinks.read().iter().find(|sink| sink.name == name).map_or_else(Vec::new, |sink| sink.topics.clone()),
        }
    }

    /// Where a source left off, under its own keys.
    pub fn source_positions(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        self.source(name).map_or_else(Vec::new, |source| source.host.intake.positions(""))
    }

    fn source(&self, name: &str) -> Option<Arc<RunningSource>> {
        self.sources.read().iter().find(|source| source.name == name && !source.is_leaving.load(Relaxed)).cloned()
    }

    /// The logs of a source, by their lane.
    pub(crate) fn logs(&self, name: &str) -> Vec<(Lane, Log)> {
        self.source(name).map_or_else(Vec::new, |source| source.host.intake.source_logs.lanes.clone())
    }

    /// The id of the Kafka cluster, where that answers. Blocks.
    pub fn cluster_id(&self) -> Option<String> {
        Admin::new(&self.ground.settings, CLUSTER_ID_WITHIN).ok()?.cluster_id()
    }

    /// Writes one entry into the topic `millrace.audit`; it is synced when this returns.
    ///
    /// Errors: the log of the audit can't be opened.
    pub async fn audit(&self, key: &str, entry: &serde_json::Value) -> Result<(), EngineError> {
        let own = self.own().await?;
        let mut batch = own.batch().await;
        commands::sink::document(&mut batch, RouteId(0), key, entry);
        let id = own.send(batch, &[]).await;
        own.durable(AckId(id.0 - 1)).await;
        Ok(())
    }

    /// The engine's own intake; the first audit opens it.
    async fn own(&self) -> Result<Arc<Intake>, EngineError> {
        let known =
            |sources: &[Arc<RunningSource>]| sources.iter().find(|source| source.name == OWN).map(|source| source.host.intake.clone());
        if let Some(own) = known(&self.sources.read()) {
            return Ok(own);
        }
        let _one = self.changing.lock().await;
        if let Some(own) = known(&self.sources.read()) {
            return Ok(own);
        }
        let own = self.ground.open_own(&[])?;
        self.drain.add(vec![own.source_logs.clone()], Vec::new());
        self.sources.write().push(RunningSource::start_own(own.clone()));
        Ok(own)
    }

    pub fn report(&self) -> EngineReport {
        let sources = self.sources.read();
        let elsewhere = |source: &RunningSource| self.group.get().map_or_else(String::new, |group| group.elsewhere(&source.name));
        let report = |source: &Arc<RunningSource>| (source.name.clone(), source.report(&self.filling, || elsewhere(source)));
        let sources = sources.iter().filter(|source| !source.is_gone()).map(report);
        let sinks = self.sinks.read();
        let sinks = sinks.iter().map(|sink| {
            let report = SinkReport { r#type: sink.type_name.clone(), state: sink.board.report(None), counts: sink.task.counts() };
            (sink.name.clone(), report)
        });
        let disk = DiskReport { free: self.ground.store.free().unwrap_or(0), low: self.ground.store.low_on_space() };
        let mut kafka = self.drain.report();
        if self.shares_disk && disk.low && kafka.status == "Degraded" {
            let why = kafka.reason.get_or_insert_default();
            if !why.contains("the disk here is full") {
                why.push_str("; the disk here is full, which the embedded broker shares: make room");
            }
        }
        EngineReport {
            site: self.ground.site.clone(),
            started: self.started.0,
            kafka,
            group: self.group.get().map(Group::report),
            sources: sources.collect(),
            sinks: sinks.collect(),
            disk,
        }
    }

    /// The stop that comes is the beginning of a restart: of sources that are shared none goes to another runtime.
    pub fn will_return(&self) {
        self.returns.store(true, Relaxed);
    }

    /// Stops in order: intake, sinks, drain. Everything together takes little more than `bound`.
    pub async fn stop(&self, bound: Duration) {
        let returns = self.returns.load(Relaxed);
        if let Some(group) = self.group.get().filter(|_| !returns) {
            tokio::task::block_in_place(|| group.stop(Stop::Leave, LEAVE_BOUND));
        }
        let _one = self.changing.lock().await;
        let (sources, sinks) = (self.sources.read().clone(), self.sinks.read().clone());
        futures_util::future::join_all(sources.iter().map(|source| source.stop())).await;
        self.watcher.abort();
        tokio::task::block_in_place(|| {
            stop_sinks(&sinks, bound);
            self.drain.stop(bound);
            if let Some(group) = self.group.get() {
                group.stop(Stop::Return, LEAVE_BOUND);
            }
            if let Err(e) = self.ground.store.close() {
                tracing::error!("cannot close the log: {e}; it is checked at the next start");
            }
        });
    }
}

/// Stops sinks side by side. Blocks.
pub(crate) fn stop_sinks(sinks: &[Arc<RunningSink>], bound: Duration) {
    std::thread::scope(|scope| {
        for sink in sinks {
            scope.spawn(|| sink.task.stop(bound));
        }
    });
}

impl Ground {
    pub fn start_sink(&self, spec: SinkSpec) -> Result<Arc<RunningSink>, EngineError> {
        let (compiled, topics) = (spec.compiled, spec.topics);
        let make = Box::new(move || compiled.sink().expect("compiled as a sink"));
        let about = SinkAbout { name: spec.name, type_name: spec.type_name, group: spec.group, topics, from_latest: spec.from_latest };
        self.run_sink(about, None, make)
    }

    /// Starts every command sink whose source runs.
    pub fn start_commands(
        &self,
        commands: Vec<CommandRules>,
        sources: &[Arc<RunningSource>],
    ) -> Result<Vec<Arc<RunningSink>>, EngineError> {
        let named = |name: &str| sources.iter().find(|source| source.name == name && !source.is_leaving.load(Relaxed) && !source.stands_by);
        let mut started = Vec::new();
        for (index, rules) in commands.into_iter().enumerate() {
            let Some((own, target)) = named(OWN).zip(named(&rules.source)) else { continue };
            let parts = CommandParts {
                rules: Arc::new(rules),
                index,
                remote: target.remote.clone(),
                target: target.host.intake.clone(),
                own: own.host.intake.clone(),
                seen: Default::default(),
            };
            let rules = parts.rules.clone();
            let open = CommandSink::remember(&parts);
            tokio::spawn({
                let parts = parts.clone();
                async move { CommandSink::answer_unknown(&parts, open).await }
            });
            let make = Box::new(move || -> Box<dyn millrace_contract::Sink> { Box::new(CommandSink::new(parts.clone())) });
            let about = SinkAbout {
                name: rules.name.clone(),
                type_name: "commands".to_owned(),
                group: rules.group.clone(),
                topics: rules.topics.clone(),
                from_latest: true,
            };
            started.push(self.run_sink(about, Some(rules.source.clone()), make)?);
        }
        Ok(started)
    }

    fn run_sink(&self, about: SinkAbout, target: Option<String>, make: MakeSink) -> Result<Arc<RunningSink>, EngineError> {
        let board = Arc::new(Board::default());
        let topics = self.topics.clone();
        let options = SinkOptions {
            name: about.name.clone(),
            settings: self.settings.clone(),
            group: about.group.clone(),
            member: Identity::of(&self.data_dir).member(&about.name),
            session: self.seat.as_ref().map(|seat| seat.session()),
            topics: about.topics.clone(),
            from_latest: about.from_latest,
            connector: format!("{}/{}", self.site, about.name),
            known: topics.clone(),
            registry: self.registry.clone(),
            dead_letter: Box::new(move |topic| topics.get(topic).dead_letter.clone()),
            make,
            board: board.clone(),
            order: Order::new(self.held.wanted(Role::Sink, &about.name)),
        };
        let task = SinkTask::start(options, tokio::runtime::Handle::current())?;
        let SinkAbout { name, type_name, group, topics, .. } = about;
        Ok(Arc::new(RunningSink { name, type_name, target, group, topics, board, task }))
    }
}

/// The topics of a model's tags and documents.
fn topics_of(model: &Model) -> BTreeSet<String> {
    let tags = model.tags.iter().map(|tag| tag.options.topic.as_deref().unwrap_or(&tag.topic));
    tags.chain(model.routes.iter().map(|route| &*route.topic)).map(str::to_owned).collect()
}

type MakeSink = Box<dyn Fn() -> Box<dyn millrace_contract::Sink> + Send + Sync>;

struct SinkAbout {
    name: String,
    type_name: String,
    group: String,
    topics: Vec<String>,
    from_latest: bool,
}

/// Makes the data directory, for nobody else: logs hold what the plant makes, positions what it is asked for. What fails here fails where it is used.
fn keep_to_ourselves(data_dir: &Path) {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    let Ok(mode) = std::fs::metadata(data_dir).map(|m| m.permissions().mode()) else { return };
    if mode & 0o007 != 0 && std::fs::set_permissions(data_dir, PermissionsExt::from_mode(mode & 0o770)).is_ok() {
        tracing::info!(data_dir = %data_dir.display(), "closed to other users");
    }
}

/// Where the log is, below the data directory.
pub fn log_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}
