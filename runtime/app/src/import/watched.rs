//! An import, watched: every batch on its way to the engine is counted, what is refused is said, and the counts are kept with the data.
//!
//! ```text
//! file source ─▶ Watched ─▶ the engine, or for a rehearsal nobody
//!                  └─▶ Tally: rows, refused rows by reason, how far each file is read, whether all were looked at
//! ```
//!
//! Invariant: the counts move with the rows they count, in one batch of the log, so that they are right after a kill, too.

use crate::say::{tell, visible};
use async_trait::async_trait;
use millrace_config::Reason;
use millrace_contract::source::SchemaIn;
use millrace_contract::{
    AckId, Clash, Command, Compiled, Failure, Guarantee, Late, Loss, Model, Plan, Source, SourceHost, SourceIo, Status, TagDef,
};
use millrace_file::ReadUpTo;
use millrace_schemas::contract::SchemaError;
use millrace_schemas::{Batch, Micros, RouteId, TagId, json};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The key of the counts among the positions of the source.
const COUNTS: &str = "import/counts";
/// So many refused rows are said one by one; those behind them are counted.
const LINES: usize = 20;
/// Different reasons that are counted apart.
const REASONS: usize = 50;
const OTHER_REASONS: &str = "other reasons";
/// Rows and paths that a rehearsal shows, and tags whose names it keeps for that.
const SHOWN: usize = 5;
const NAMES: usize = 1000;

/// What was counted, over all runs of an import.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub rows: u64,
    /// Refused rows, by reason.
    pub refused: BTreeMap<String, u64>,
}

impl Counts {
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// An import at one moment.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub counts: Counts,
    /// Counted by earlier runs.
    pub before: Counts,
    pub files: BTreeMap<PathBuf, ReadUpTo>,
    /// Every file was looked at to its end, as far as that was possible.
    pub is_over: bool,
    /// What a person should look at.
    pub trouble: Option<String>,
    /// Why the source can't go on.
    pub failure: Option<String>,
    /// Refused rows, the first of them.
    pub lines: Vec<String>,
    /// A rehearsal's first rows.
    pub shown: Vec<String>,
    names: Vec<String>,
    /// It was said that a slash in a name makes no level.
    has_told_slash: bool,
    has_begun: bool,
}

/// Counts, for whoever watches.
#[derive(Debug, Default)]
pub struct Tally {
    state: Mutex<State>,
    /// Its first rows are kept to be shown.
    shows: bool,
}

impl State {
    /// The paths of a rehearsal's first tags, below the site.
    pub fn paths(&self) -> &[String] {
        &self.names[..self.names.len().min(SHOWN)]
    }
}

impl Tally {
    pub fn new(shows: bool) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), shows })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// A session begins: what is in the log counts.
    fn begin(&self, io: &SourceIo) {
        let mut state = self.lock();
        let kept = io.resume(COUNTS).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        state.counts = kept.unwrap_or_default();
        if !std::mem::replace(&mut state.has_begun, true) {
            state.before = state.counts.clone();
        }
        let files = io.positions("").into_iter().filter_map(|(key, value)| ReadUpTo::of(&key, &value));
        state.files = files.map(|file| (file.path.clone(), file)).collect();
    }

    /// Counts a batch; the counts as they are kept.
    fn take(&self, batch: &Batch, moved: &[(&str, &[u8])]) -> Vec<u8> {
        let mut state = self.lock();
        state.counts.rows += batch.rows.len() as u64;
        for reject in &batch.rejects {
            let kind = kind(&reject.reason);
            let is_known = state.counts.refused.contains_key(&kind) || state.counts.refused.len() < REASONS;
            *state.counts.refused.entry(if is_known { kind } else { OTHER_REASONS.to_owned() }).or_default() += 1;
            if state.lines.len() < LINES {
                tell!("{}", visible(&reject.reason));
                state.lines.push(reject.reason.clone());
                if state.lines.len() == LINES {
                    tell!("rows that are refused from here on are counted, and not said one by one");
                }
            }
        }
        for file in moved.iter().filter_map(|(key, value)| ReadUpTo::of(key, value)) {
            state.files.insert(file.path.clone(), file);
        }
        if self.shows {
            for row in batch.rows.iter().take(SHOWN.saturating_sub(state.shown.len())) {
                let mut value = Vec::new();
                let _ = json::encode_value(row.value, &batch.heap, &mut value);
                let tag = state.names.get(row.tag.0 as usize).map_or("..", String::as_str);
                let line = format!(
                    "{tag} = {} at {}, {}",
                    String::from_utf8_lossy(&value),
                    crate::say::time(row.time.0),
                    row.status.quality().as_str()
                );
                state.shown.push(line);
            }
        }
        serde_json::to_vec(&state.counts).unwrap_or_default()
    }
}

/// A reason without what differs from row to row: its line, its file, and what is quoted.
fn kind(reason: &str) -> String {
    let said = reason.strip_prefix("cannot read line ").and_then(|rest| rest.split_once(": ")).map_or(reason, |(_, said)| said);
    let mut kind = String::new();
    let mut parts = said.split(['`', '"']);
    while let Some(plain) = parts.next() {
        kind.push_str(plain);
        if parts.next().is_some() {
            kind.push_str("`..`");
        }
    }
    let mut text = String::with_capacity(kind.len());
    for char in kind.chars().take(200) {
        match char {
            '0'..='9' if text.ends_with('#') => {}
            '0'..='9' => text.push('#'),
            char => text.push(char),
        }
    }
    text
}

/// A source of files whose batches are watched.
pub struct Importing {
    pub inner: Box<dyn Compiled>,
    pub tally: Arc<Tally>,
}

impl Compiled for Importing {
    fn model(&self) -> &Model {
        self.inner.model()
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(ImportSource { inner: self.inner.source()?, tally: self.tally.clone() }))
    }

    fn guarantee(&self) -> Guarantee {
        self.inner.guarantee()
    }

    fn longest(&self) -> Option<u64> {
        self.inner.longest()
    }

    fn decode_again(&self, late: &Late<'_>, io: &SourceIo, batch: &mut Batch) -> Option<Result<(), Reason>> {
        self.inner.decode_again(late, io, batch)
    }

    fn plan(&self) -> Plan {
        self.inner.plan()
    }
}

struct ImportSource {
    inner: Box<dyn Source>,
    tally: Arc<Tally>,
}

#[async_trait]
impl Source for ImportSource {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        self.tally.begin(&io);
        let watched = SourceIo::new(Arc::new(Watched { io, tally: self.tally.clone() }));
        let ended = self.inner.session(watched.clone()).await;
        watched.end().await;
        if let Err(failure) = &ended {
            self.tally.lock().failure = Some(failure.to_string());
        }
        ended
    }
}

/// Between the source and the engine.
struct Watched {
    io: SourceIo,
    tally: Arc<Tally>,
}

#[async_trait]
impl SourceHost for Watched {
    fn resume(&self, key: &str) -> Option<Vec<u8>> {
        self.io.resume(key)
    }

    fn positions(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        self.io.positions(prefix)
    }

    fn declare(&self, tag: TagDef) -> Result<TagId, Clash> {
        let path = tag.path.clone();
        let id = self.io.declare(tag)?;
        let mut state = self.tally.lock();
        if path.contains("%2F") && !std::mem::replace(&mut state.has_told_slash, true) {
            tell!(
                "a slash in a tag's name makes no level, it becomes %2F: {}; --tag 'press-{{press}}/force' makes levels of columns",
                visible(&path)
            );
        }
        if self.tally.shows && state.names.len() < NAMES && state.names.len() == id.0 as usize {
            state.names.push(path);
        }
        Ok(id)
    }

    fn describe(&self, route: RouteId, schema: &SchemaIn<'_>) -> Result<(), SchemaError> {
        self.io.describe(route, schema)
    }

    fn retire(&self, tag: TagId) {
        self.io.retire(tag);
    }

    async fn batch(&self) -> Batch {
        self.io.batch().await
    }

    async fn send(&self, batch: Batch, moved: &[(&str, &[u8])]) -> AckId {
        let counts = self.tally.take(&batch, moved);
        let mut moved = moved.to_vec();
        moved.push((COUNTS, &counts));
        self.io.send(batch, &moved).await
    }

    async fn durable(&self, after: AckId) -> AckId {
        self.io.durable(after).await
    }

    async fn durable_within(&self, after: AckId, apart: Duration) -> AckId {
        self.io.durable_within(after, apart).await
    }

    async fn command(&self) -> Command {
        self.io.command().await
    }

    fn lost(&self, reason: Loss, count: u64) {
        self.io.lost(reason, count);
    }

    fn dropped(&self, reason: Loss, count: u64) {
        self.io.dropped(reason, count);
    }

    fn alive(&self, part: &str) {
        self.io.alive(part);
    }

    fn gone(&self, part: &str) {
        self.io.gone(part);
    }

    fn status(&self, part: &str, status: Status) {
        // A source of files says how it is once it has looked at all of them.
        if part.is_empty() {
            let mut state = self.tally.lock();
            state.is_over = true;
            state.trouble = status.reason().map(str::to_owned);
        }
        self.io.status(part, status);
    }

    fn measure(&self, what: &'static str, took: Duration) {
        self.io.measure(what, took);
    }

    async fn stopping(&self) {
        self.io.stopping().await;
    }

    fn is_stopping(&self) -> bool {
        self.io.is_stopping()
    }
}

/// For a rehearsal: takes everything, keeps nothing.
#[derive(Default)]
pub struct Nobody {
    tags: AtomicU32,
}

impl Nobody {
    pub fn tags(&self) -> u32 {
        self.tags.load(Relaxed)
    }
}

#[async_trait]
impl SourceHost for Nobody {
    fn resume(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn positions(&self, _: &str) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }

    fn declare(&self, _: TagDef) -> Result<TagId, Clash> {
        Ok(TagId(self.tags.fetch_add(1, Relaxed)))
    }

    fn retire(&self, _: TagId) {}

    async fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.read_time = Micros::now();
        batch
    }

    async fn send(&self, _: Batch, _: &[(&str, &[u8])]) -> AckId {
        AckId(0)
    }

    async fn durable(&self, _: AckId) -> AckId {
        std::future::pending().await
    }

    async fn command(&self) -> Command {
        std::future::pending().await
    }

    fn lost(&self, _: Loss, _: u64) {}
    fn alive(&self, _: &str) {}
    fn gone(&self, _: &str) {}
    fn status(&self, _: &str, _: Status) {}

    async fn stopping(&self) {
        std::future::pending().await
    }

    fn is_stopping(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_by_what_is_wrong_with_them_wherever_they_stand() {
        let first = kind("cannot read line 4711 of /in/a.csv: the time in column `Time` cannot be read: `x` is no time: at 3");
        let other = kind("cannot read line 12 of /in/b.csv: the time in column `Time` cannot be read: `y z` is no time: at 17");
        assert_eq!(first, "the time in column `..` cannot be read: `..` is no time: at #");
        assert_eq!(first, other);
        assert_eq!(kind("cannot read line 1 of a: 2 fields, but the header has 4"), "# fields, but the header has #");
    }
}
