//! Takes a changed factory while it runs: only what changed is stopped and started, everything else goes on as if nothing were.
//!
//! ```text
//! changed in place: its session hands its connection over to the next ─ the tags that stay keep what is known of them
//! changed, gone: stop ─ sync ─┐                    ┌─ gone: its tags retire; its log is sent to its end by the drain, which goes on
//!                             ├─ paths given back ─┤
//! new topics ─────────────────┘                    └─ changed, new: started; a new log joins the drain between two transactions
//! ```
//!
//! Invariants: a source that is not named keeps its session, its log and its numbers. A changed one keeps its log, its ledger and its positions
//! ([`Intake::succeed`]). What can't be changed so is said by [`Engine::obstacles`], before anything is touched.

use crate::commands::{self, CommandRules};
use crate::compile::CompiledFactory;
use crate::engine::{Begin, Engine, OWN, OWN_LIMITS, RunningSink, RunningSource, stop_sinks};
use crate::error::EngineError;
use crate::intake::Intake;
use crate::lease::member::File;
use crate::topics::{LATEST, Topic};
use millrace_contract::{Compiled, Model};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How long a sink that changes may take to commit.
const SINK_BOUND: Duration = Duration::from_secs(10);

/// Which connectors say something else than before, by name. Those that are new or gone need not be named.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    pub sources: BTreeSet<String>,
    /// Those of `sources` that can take the change over with their connections: only what [`Compiled::in_place`] names is another.
    pub in_place: BTreeSet<String>,
    pub sinks: BTreeSet<String>,
}

/// Why a changed factory can only be taken by starting everything anew.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Obstacle {
    #[error("topic {0} is the first of its lane, and every source's log has one more")]
    FirstOfItsLane(Arc<str>),
    #[error("{LATEST} is new, and every source writes to it")]
    LatestIsNew,
    #[error("topic {0} has another schema")]
    AnotherSchema(Arc<str>),
    #[error("topic {topic} is not declared any more, and source {writer} may write to it")]
    StillWritten { topic: Arc<str>, writer: String },
    #[error("source {0} has another limit of its log")]
    AnotherLimit(String),
    #[error("source {writer} writes to topic {topic}, which was not declared before")]
    WritesToNew { writer: String, topic: Arc<str> },
}

impl Engine {
    /// Why a changed factory can only be taken by starting everything anew; empty: [`Engine::apply`] can take it.
    pub fn obstacles(&self, works: &CompiledFactory, touched: &Touched) -> Vec<Obstacle> {
        let mut why = Vec::new();
        let topics = &self.ground.topics;
        let added: Vec<Arc<Topic>> = works.topics.all().into_iter().filter(|topic| topics.declared(&topic.name).is_none()).collect();
        let lanes: BTreeSet<_> = topics.all().iter().map(|topic| topic.lane).collect();
        for topic in &added {
            if !lanes.contains(&topic.lane) && !matches!(topic.lane, crate::frame::Lane::Normal | crate::frame::Lane::Bulk) {
                why.push(Obstacle::FirstOfItsLane(topic.name.clone()));
            }
            if &*topic.name == LATEST {
                why.push(Obstacle::LatestIsNew);
            }
        }
        for topic in works.topics.all() {
            if topics.declared(&topic.name).is_some_and(|running| running.mark != topic.mark && running.shape.is_none()) {
                why.push(Obstacle::AnotherSchema(topic.name.clone()));
            }
        }
        for topic in topics.all().iter().filter(|topic| works.topics.declared(&topic.name).is_none()) {
            if let Some(source) = works.sources.iter().find(|spec| may_write(spec.compiled.as_ref(), &topic.name)) {
                why.push(Obstacle::StillWritten { topic: topic.name.clone(), writer: source.name.clone() });
            }
        }
        let running = self.sources.read();
        for spec in &works.sources {
            let Some(source) = running.iter().find(|source| source.name == spec.name) else { continue };
            if source.limits != (spec.log_size, spec.full) {
                why.push(Obstacle::AnotherLimit(spec.name.clone()));
            }
            let is_touched = touched.sources.contains(&spec.name) || source.is_leaving.load(Relaxed);
            if let Some(topic) = added.iter().find(|topic| !is_touched && may_write(spec.compiled.as_ref(), &topic.name)) {
                why.push(Obstacle::WritesToNew { writer: spec.name.clone(), topic: topic.name.clone() });
            }
        }
        why
    }

    /// Whether a source is in a state in which it can take a change over: it runs, or tries to.
    pub fn takes_changes(&self, name: &str) -> bool {
        self.sources.read().iter().any(|source| source.name == name && source.takes_changes())
    }

    /// Takes a changed factory that has no [`Engine::obstacles`].
    ///
    /// Errors: what could not be started (a log that can't be opened); everything else runs.
    pub async fn apply(&self, works: CompiledFactory, touched: &Touched) -> Result<(), EngineError> {
        let _one = self.changing.lock().await;
        let ground = &self.ground;
        let mut failed = Vec::new();
        let added: Vec<Arc<Topic>> = works.topics.all().into_iter().filter(|topic| ground.topics.declared(&topic.name).is_none()).collect();
        for schema in added.iter().filter_map(|topic| topic.schema.as_ref()) {
            ground.schema_store.keep(schema).map_err(|error| EngineError::schema(&schema.name, error))?;
        }
        let added_names: BTreeSet<Arc<str>> = added.iter().map(|topic| topic.name.clone()).collect();
        ground
            .topics
            .add(added, &ground.data_dir, &ground.schema_store)
            .map_err(|error| EngineError::files("take up the shapes of topics", error))?;
        let declared: Vec<_> = works.declared.iter().filter(|spec| added_names.contains(spec.name.as_str())).cloned().collect();

        let wanted: BTreeSet<&str> = works.sources.iter().map(|spec| spec.name.as_str()).collect();
        let (mut kept, mut stopped): (Vec<_>, Vec<_>) = {
            let stays = |source: &RunningSource| {
                let is_leaving = source.is_leaving.load(Relaxed);
                match wanted.contains(source.name.as_str()) {
                    true if touched.in_place.contains(&source.name) => source.takes_changes(),
                    true => !is_leaving && !touched.sources.contains(&source.name),
                    // The engine's own is no source of the file; one that left before stays as it is.
                    false => is_leaving || source.name == OWN,
                }
            };
            self.sources.read().iter().cloned().partition(|source| stays(source))
        };
        let changes_commands = self.changes_commands(&works.commands, touched, &stopped);
        let sinks = self.stop_touched_sinks(&works, touched, changes_commands).await;
        futures_util::future::join_all(stopped.iter().map(|source| source.stop())).await;
        stopped.iter().for_each(|source| ground.paths.release_all(&source.host.intake.source));

        let (staying, starting): (Vec<_>, Vec<_>) =
            works.sources.into_iter().partition(|spec| kept.iter().any(|source| source.name == spec.name));
        let changing = staying.into_iter().filter(|spec| touched.in_place.contains(&spec.name)).filter_map(|spec| {
            let source = kept.iter().find(|source| source.name == spec.name)?.clone();
            Some(async move { source.change(spec.compiled.into()).await })
        });
        futures_util::future::join_all(changing).await;

        let mut fresh = Vec::new();
        for spec in starting {
            let limits = (spec.log_size, spec.full);
            let before = stopped.iter().position(|source| source.name == spec.name).map(|at| stopped.swap_remove(at));
            let intake = match before {
                Some(source) => Ok(source.host.intake.succeed(ground.intake_options(&spec.name, spec.compiled.model(), limits))),
                None => {
                    ground.open_intake(&spec.name, spec.compiled.model(), limits).inspect(|intake| fresh.push(intake.source_logs.clone()))
                }
            };
            match intake {
                Ok(intake) => {
                    ground.note_shared(&spec, &intake);
                    let begin = self.begins(&spec.name);
                    kept.extend(RunningSource::start(spec, intake, begin));
                }
                Err(error) => failed.push(error),
            }
        }
        for source in stopped {
            source.is_leaving.store(true, Relaxed);
            if source.stands_by {
                kept.push(source);
                continue;
            }
            retire(&source.host.intake.succeed(ground.intake_options(&source.name, &Model::default(), source.limits))).await;
            kept.push(source);
        }
        if changes_commands {
            let own = kept.iter().position(|source| source.name == OWN).map(|at| kept.swap_remove(at));
            match own {
                Some(own) => {
                    own.stop().await;
                    let (model, own_name) = (commands::model(&works.commands), ground.own_name());
                    let options = ground.intake_options(&own_name, &model, OWN_LIMITS);
                    kept.push(RunningSource::start_own(own.host.intake.succeed(options)));
                }
                None if works.commands.is_empty() => {}
                None => match ground.open_own(&works.commands) {
                    Ok(intake) => {
                        fresh.push(intake.source_logs.clone());
                        kept.push(RunningSource::start_own(intake));
                    }
                    Err(error) => failed.push(error),
                },
            }
        }
        if !fresh.is_empty() || !declared.is_empty() {
            self.drain.add(fresh, declared);
        }
        *self.sources.write() = kept.clone();

        let mut running = sinks;
        for spec in works.sinks {
            if running.iter().any(|sink| sink.name == spec.name) {
                continue;
            }
            match ground.start_sink(spec) {
                Ok(sink) => running.push(sink),
                Err(error) => failed.push(error),
            }
        }
        *self.rules.lock() = works.commands.clone();
        if changes_commands {
            match ground.start_commands(works.commands, &kept) {
                Ok(started) => running.extend(started),
                Err(error) => failed.push(error),
            }
        }
        *self.sinks.write() = running;
        if let (Some(group), Some(sharing)) = (self.group.get(), works.sharing) {
            group.changed(File { wishes: works.wishes, config: sharing.config });
        }
        if failed.is_empty() { Ok(()) } else { Err(EngineError::Several(failed)) }
    }

    /// Whether the command sinks must be started anew: one of them, or a source that one writes to, changes.
    fn changes_commands(&self, commands: &[CommandRules], touched: &Touched, stopped: &[Arc<RunningSource>]) -> bool {
        let sinks = self.sinks.read();
        let running: Vec<(&str, &str)> = sinks.iter().filter_map(|sink| Some((sink.name.as_str(), sink.target.as_deref()?))).collect();
        let wanted: Vec<(&str, &str)> = commands
            .iter()
            .filter(|rules| self.begins(&rules.source) != Begin::StandingBy)
            .map(|rules| (rules.name.as_str(), rules.source.as_str()))
            .collect();
        let is_other = running.len() != wanted.len() || wanted.iter().any(|one| !running.contains(one));
        let is_hit = |(name, source): &(&str, &str)| {
            touched.sinks.contains(*name) || touched.in_place.contains(*source) || stopped.iter().any(|stopped| stopped.name == *source)
        };
        is_other || wanted.iter().any(is_hit)
    }

    /// Stops the sinks that change or go; returns those that stay.
    async fn stop_touched_sinks(&self, works: &CompiledFactory, touched: &Touched, commands: bool) -> Vec<Arc<RunningSink>> {
        let stays = |sink: &RunningSink| match sink.target {
            Some(_) => !commands,
            None => !touched.sinks.contains(&sink.name) && works.sinks.iter().any(|spec| spec.name == sink.name),
        };
        let (staying, going): (Vec<_>, Vec<_>) = self.sinks.read().iter().cloned().partition(|sink| stays(sink));
        let _ = tokio::task::spawn_blocking(move || stop_sinks(&going, SINK_BOUND)).await;
        staying
    }
}

/// Says in the catalog that the tags of a source are no more.
async fn retire(intake: &Intake) {
    intake.tick().await;
    intake.close().await;
}

/// Whether a source may write to a topic, as far as that is known before connecting.
fn may_write(compiled: &dyn Compiled, topic: &str) -> bool {
    let model = compiled.model();
    let tags = model.tags.iter().any(|tag| tag.options.topic.as_deref().unwrap_or(&tag.topic) == topic);
    tags || model.routes.iter().any(|route| &*route.topic == topic || route.topic.contains('{'))
}
