//! Records that are asked for again and again: requests of a REST endpoint, queries of a database. Their common keys, and the turns they take.
//!
//! A reading that fails by itself is told in the status of its part and tried again at its next turn; the others go on.

use super::{Compile, Making, RecordKeys};
use crate::groups::{Beside, SharedKeys};
use crate::{AllowedTopics, Cycles};
use millrace_config::{Period, Place, Problems, Spanned};
use millrace_contract::{Context, Failure, Guarantee, Model, Route, SourceIo, Status, Tagged};
use millrace_schemas::RouteId;
use schemars::JsonSchema;
use serde::Deserialize;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// One of them in the YAML: tag options, what becomes of its records, when it is asked, and a connector's own keys `O`.
pub type PollingConfig<O> = Tagged<Beside<RecordKeys, Beside<PollingKeys, O>>>;

/// When it is asked, and from where on.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PollingKeys {
    /// Under which name the position is kept. Default: what is asked, as written.
    #[serde(default)]
    pub name: Option<Spanned<String>>,
    /// How often it is asked.
    #[serde(default = "every")]
    pub every: Spanned<Period>,
    /// What grows from record to record, a time of change or a number: a column, or a JSON Pointer into a record. Without it, all is read each time.
    #[serde(default)]
    pub watermark: Option<Spanned<String>>,
    /// Where reading begins the first time: a value of the watermark, as the server reads it. Default: at the beginning.
    #[serde(default)]
    pub start: Option<String>,
}

impl SharedKeys for PollingKeys {
    const KEYS: &'static [&'static str] = &["name", "every", "watermark", "start"];
}

fn every() -> Spanned<Period> {
    Period::from_secs(10).into()
}

/// How many tags may be discovered, where nothing is said.
pub fn max_tags() -> u32 {
    1_000_000
}

/// One of them, compiled, with a connector's own part.
#[derive(Clone, Debug)]
pub struct Polling<T> {
    /// The name of its position, and of its part.
    pub name: String,
    pub every: Duration,
    pub making: Making,
    pub topic: String,
    pub own: T,
}

/// What a connector says of one of its own: what it is called where it has no `name`, for a person (`get /orders`), and what it compiles to.
#[derive(Debug)]
pub struct Own<T> {
    pub name: String,
    pub what: String,
    pub own: T,
}

/// Compiles all, and adds their routes and tags to the model; what is wrong is a problem at its place. `own` compiles a connector's own keys.
pub fn compile<O, T>(
    configs: &[Spanned<PollingConfig<O>>],
    context: &Context,
    model: &mut Model,
    problems: &mut Problems,
    mut own: impl FnMut(&O, &PollingKeys, Place, &mut Problems) -> Option<Own<T>>,
) -> Vec<Polling<T>> {
    let mut all: Vec<Polling<T>> = Vec::new();
    for config in configs {
        let (shared, place) = (&config.own.own.shared, config.place);
        if shared.every.0 < Duration::from_millis(10) {
            problems.error(shared.every.place, "`every` is at least 10ms");
        }
        let Some(Own { name, what, own }) = own(&config.own.own.own, shared, place, problems) else { continue };
        let name = shared.name.as_ref().map_or(name, |name| name.value.clone());
        let route = RouteId(model.routes.len() as u32);
        let allowed = Arc::new(AllowedTopics::default());
        let keys = &config.own.shared;
        let compile = Compile { keys, options: &config.options, place, route, what: &what, given: &[], allowed: &allowed, context };
        let Some(making) = compile.run(problems) else { continue };
        let topic = making.topic_text(&[]);
        model.routes.push(Route { topic: topic.as_str().into(), name: what, samples: making.is_samples() });
        making.known_tags(&mut model.tags, place, problems);
        if all.iter().any(|other| other.name == name) {
            problems.error(place, format!("two are called `{name}`: they would share a position")).help("give one of them a `name`");
        }
        all.push(Polling { name, every: shared.every.0, making, topic, own });
    }
    all
}

impl<T> Polling<T> {
    /// One line of a plan. `how`: what is asked, in a few words.
    pub fn line(&self, how: &str) -> String {
        let kind = if self.making.is_samples() { "samples" } else { "documents" };
        format!("{how} every {:?} -> {kind} in {}", self.every, self.topic)
    }

    /// What is promised of one without a watermark.
    pub fn without_watermark(&self) -> Guarantee {
        Guarantee::AtMostOnce(format!("`{}` has no `watermark`: what is there between two readings is not seen", self.name))
    }
}

/// Why a reading ended early.
#[derive(Clone, PartialEq, Debug)]
pub enum Trouble {
    /// The session is over.
    Session(Failure),
    /// This one alone.
    This(String),
}

/// What reads one of them.
pub trait Reads: Send {
    /// Reads all that is new; returns the status of its part.
    fn read(&mut self, number: usize, io: &SourceIo) -> impl Future<Output = Result<Status, Trouble>> + Send;
}

/// Lets each read when it is its turn, one after the other, until the session is over or the engine stops.
pub async fn run<T: Sync>(all: &[Polling<T>], reads: &mut impl Reads, io: &SourceIo) -> Result<(), Failure> {
    tokio::select! {
        biased;
        () = io.stopping() => Ok(()),
        failure = take_turns(all, reads, io) => Err(failure),
    }
}

async fn take_turns<T: Sync>(all: &[Polling<T>], reads: &mut impl Reads, io: &SourceIo) -> Failure {
    let mut cycles = Cycles::new(all.iter().map(|polling| (polling.every, false)));
    let mut is_running = false;
    loop {
        for number in cycles.due().await.groups {
            let status = match reads.read(number, io).await {
                Ok(status) => status,
                Err(Trouble::This(why)) => Status::Degraded(why),
                Err(Trouble::Session(failure)) => return failure,
            };
            io.status(&all[number].name, status);
            if !std::mem::replace(&mut is_running, true) {
                io.status("", Status::Running);
            }
        }
    }
}
