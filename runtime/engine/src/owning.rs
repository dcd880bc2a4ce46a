//! Sources that this runtime shares with others: taken over and given back while everything else runs.
//!
//! ```text
//! take     drain: this runtime is the owner now, and what Kafka has of the source is final ─ positions and numbers ─ started, as a reload would
//! release  stopped, as by a reload ─ synced ─ drain: what its log holds is sent, given back ─ stands by: its log stays open
//! ```
//!
//! Invariants: a source whose lease is not held has no session, unless `on_isolation: keep` lets it go on. Commands reach the owner only: the command
//! sinks of a source that stands by are not in their group.

use crate::compile::SourceSpec;
use crate::engine::{Begin, Engine, Ground, OWN, RunningSource, stop_sinks};
use crate::error::EngineError;
use crate::intake::{Intake, source_dir};
use crate::lease::Group;
use crate::lease::keeper::Sources;
use crate::lease::member::GroupOptions;
use crate::lease::plan::Names;
use crate::lease::seat::Seat;
use crate::positions;
use async_trait::async_trait;
use millrace_contract::Role;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long an owner may take to let a source go that was given to this runtime, before its transactions are ended: longer than a session takes to stop.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the log of a source that is given back is sent at most: the group waits meanwhile, and not longer than 15 s with the stop before.
const SEND_BOUND: Duration = Duration::from_secs(4);
/// How long a command sink may take to leave its group.
const SINK_BOUND: Duration = Duration::from_secs(3);
/// The file of the term, beside the positions.
const TERM: &str = "term";

#[async_trait]
impl Sources for Engine {
    async fn take(&self, names: &Names, patient: &Names) -> Names {
        let mut taken = Names::new();
        let mut found = HashMap::new();
        for source in self.sources.read().iter().filter(|source| names.contains(&source.name) && !source.is_leaving.load(Relaxed)) {
            found.insert(source.host.intake.source.clone(), source.clone());
        }
        // One that went on without its lease begins anew at the owner's positions: what it reads until then would be read twice.
        let rereads = |source: &&Arc<RunningSource>| !source.stands_by && source.host.intake.source_logs.reads_again.load(Relaxed);
        self.stand_by(&found.values().filter(rereads).map(|source| source.name.clone()).collect()).await;
        let of = |wanted: &Names| found.iter().filter(|(_, source)| wanted.contains(&source.name)).map(|(name, _)| name.clone()).collect();
        let answer = self.drain.take(of(names), of(patient), Instant::now() + PATIENCE);
        for one in answer.await.unwrap_or_default() {
            let Some(name) = found.get(&one.source).map(|source| source.name.clone()) else { continue };
            if one.was_others {
                self.stand_by(&[name.clone()].into()).await;
            }
            let _one = self.changing.lock().await;
            let Some(source) = self.shared(&name) else { continue };
            let intake = &source.host.intake;
            if !one.was_others && intake.is_new {
                intake.adopt(&one.positions);
            } else if one.was_others
                && let Err(error) = intake.take_over(&one.positions, one.end).await
            {
                tracing::error!(source = %intake.source, "cannot keep the positions of a source that is taken over: {error}; it is tried again");
                continue;
            }
            if let Err(error) = self.keep_term(&name, one.term) {
                tracing::warn!(source = %intake.source, "cannot note that this runtime reads a source: {error}; after a restart it begins at what Kafka has");
            }
            intake.source_logs.term.store(one.term, Relaxed);
            if source.stands_by {
                self.start_shared(&source);
                tracing::info!(source = %intake.source, term = one.term, from_another = one.was_others, "this runtime reads it now");
            }
            taken.insert(name);
        }
        taken
    }

    async fn release(&self, names: &Names, gives: bool) {
        if names.is_empty() {
            return;
        }
        self.stand_by(names).await;
        let sources = self.of_names(names);
        let done = if gives { self.drain.give(sources, Instant::now() + SEND_BOUND) } else { self.drain.lose(sources) };
        let _ = done.await;
        tracing::info!(sources = ?names, "this runtime does not read them any more");
    }

    async fn lose(&self, names: &Names) {
        if !names.is_empty() {
            let _ = self.drain.lose(self.of_names(names)).await;
            tracing::warn!(sources = ?names, "cut off from the group: goes on reading into the log, until it is known who reads them");
        }
    }
}

impl Engine {
    fn of_names(&self, names: &Names) -> Vec<Arc<str>> {
        let sources = self.sources.read();
        sources.iter().filter(|source| names.contains(&source.name)).map(|source| source.host.intake.source.clone()).collect()
    }

    fn shared(&self, name: &str) -> Option<Arc<RunningSource>> {
        self.sources.read().iter().find(|source| source.name == name && !source.is_leaving.load(Relaxed)).cloned()
    }

    fn keep_term(&self, name: &str, term: u64) -> io::Result<()> {
        positions::replace(&source_dir(&self.ground.data_dir, name).join(TERM), term.to_string().as_bytes())
    }

    /// Stops sources, with their command sinks, and lets them stand by.
    async fn stand_by(&self, names: &Names) {
        let _one = self.changing.lock().await;
        let (going, staying): (Vec<_>, Vec<_>) = self
            .sources
            .read()
            .iter()
            .cloned()
            .partition(|source| names.contains(&source.name) && !source.stands_by && !source.is_leaving.load(Relaxed));
        if going.is_empty() {
            return;
        }
        let is_of = |target: &Option<String>| target.as_ref().is_some_and(|target| going.iter().any(|source| source.name == *target));
        let (sinks, other): (Vec<_>, Vec<_>) = self.sinks.read().iter().cloned().partition(|sink| is_of(&sink.target));
        *self.sinks.write() = other;
        let _ = tokio::task::spawn_blocking(move || stop_sinks(&sinks, SINK_BOUND)).await;
        futures_util::future::join_all(going.iter().map(|source| source.stop())).await;
        let mut now = staying;
        now.extend(going.iter().map(|source| self.ground.successor(source, Begin::StandingBy)));
        *self.sources.write() = now;
    }

    /// Starts a source that stands by, and its command sinks.
    fn start_shared(&self, source: &Arc<RunningSource>) {
        let started = self.ground.successor(source, Begin::Running(self.ground.held.wanted(Role::Source, &source.name)));
        let mut sources = self.sources.write();
        sources.retain(|one| !Arc::ptr_eq(one, source));
        sources.push(started.clone());
        let own = sources.iter().find(|source| source.name == OWN).cloned();
        drop(sources);
        // All of them: their places in the file are their routes in the engine's own log; only those of this source are started.
        let rules = self.rules.lock().clone();
        match self.ground.start_commands(rules, &own.into_iter().chain([started]).collect::<Vec<_>>()) {
            Ok(sinks) => self.sinks.write().extend(sinks),
            Err(error) => tracing::error!(source = source.name, "cannot start the command sinks of a source that is taken over: {error}"),
        }
    }

    /// Whether a source runs here, as far as the group decides it.
    pub(crate) fn begins(&self, name: &str) -> Begin {
        match self.group.get() {
            Some(group) if !group.reads(name) => Begin::StandingBy,
            _ => Begin::Running(self.ground.held.wanted(Role::Source, name)),
        }
    }

    /// Joins the runtimes that share the sources. Errors: no thread can be had.
    pub(crate) fn join(self: &Arc<Self>, options: GroupOptions, seat: Arc<Seat>, keeps: bool) -> Result<(), EngineError> {
        let sources = self.sources.clone();
        let words = move || {
            let word = |source: &Arc<RunningSource>| (source.name.clone(), source.host.board.report(None).status.to_owned());
            sources.read().iter().filter(|source| !source.stands_by && source.name != OWN).map(word).collect()
        };
        let weak: Weak<Self> = Arc::downgrade(self);
        let group = Group::join(options, seat, keeps, weak, Box::new(words));
        let group = group.map_err(|error| EngineError::Thread { what: "the group of runtimes".to_owned(), error })?;
        let _ = self.group.set(group);
        Ok(())
    }
}

impl Ground {
    /// Notes of a source that is shared what the drain must know.
    pub fn note_shared(&self, spec: &SourceSpec, intake: &Intake) {
        if self.seat.is_none() {
            return;
        }
        let logs = &intake.source_logs;
        logs.is_shared.store(true, Relaxed);
        logs.reads_again.store(spec.compiled.reads_again(), Relaxed);
        let kept = std::fs::read_to_string(source_dir(&self.data_dir, &spec.name).join(TERM));
        logs.term.store(kept.ok().and_then(|text| text.parse().ok()).unwrap_or(0), Relaxed);
    }

    /// The same source, which runs or stands by.
    fn successor(&self, source: &Arc<RunningSource>, begin: Begin) -> Arc<RunningSource> {
        let Some(compiled) = source.compiled() else { return source.clone() };
        self.paths.release_all(&source.host.intake.source);
        let intake = source.host.intake.succeed(self.intake_options(&source.name, compiled.model(), source.limits));
        source.again(intake, begin).unwrap_or_else(|| source.clone())
    }
}
