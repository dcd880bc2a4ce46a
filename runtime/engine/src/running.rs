//! One source as it runs, or stands by: its session's task, its log, what it is told.

use crate::compile::SourceSpec;
use crate::hold::{Order, Wanted};
use crate::intake::Intake;
use crate::reports::{PaceReport, SourceReport};
use crate::source::{Host, Remote, supervise};
use crate::status::Board;
use millrace_contract::{Compiled, Status};
use millrace_log::Full;
use millrace_schemas::Micros;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::Instrument;

/// The name of the engine's own log: audit and answers of commands.
pub(crate) const OWN: &str = "millrace";
pub(crate) const OWN_LIMITS: (u64, Full) = (256 << 20, Full::Block);

/// How long a reload waits for a session to hand its connection over.
const CHANGED_WITHIN: Duration = Duration::from_secs(15);

pub(crate) struct RunningSource {
    pub name: String,
    pub type_name: String,
    pub host: Arc<Host>,
    pub remote: Remote,
    pub limits: (u64, Full),
    /// `None`: the engine's own.
    compiled: Option<Arc<RwLock<Arc<dyn Compiled>>>>,
    order: watch::Sender<Order>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    /// It is not in the configuration any more: what its log holds still goes to Kafka.
    pub is_leaving: AtomicBool,
    /// Another runtime may read it: no session, only what its log holds.
    pub stands_by: bool,
}

/// How a source is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    Running(Wanted),
    StandingBy,
}

impl RunningSource {
    /// `None`: what was compiled is no source.
    pub fn start(spec: SourceSpec, intake: Arc<Intake>, begin: Begin) -> Option<Arc<Self>> {
        Self::of(spec.name, spec.type_name, (spec.log_size, spec.full), spec.compiled.into(), intake, begin)
    }

    /// The same source with another intake. `None`: the engine's own.
    pub fn again(&self, intake: Arc<Intake>, begin: Begin) -> Option<Arc<Self>> {
        Self::of(self.name.clone(), self.type_name.clone(), self.limits, self.compiled()?, intake, begin)
    }

    fn of(
        name: String,
        type_name: String,
        limits: (u64, Full),
        compiled: Arc<dyn Compiled>,
        intake: Arc<Intake>,
        begin: Begin,
    ) -> Option<Arc<Self>> {
        let order = watch::Sender::new(Order::new(if let Begin::Running(wanted) = begin { wanted } else { Wanted::Stopped }));
        intake.source_logs.reads_again.store(compiled.reads_again(), Relaxed);
        let (host, remote) = Host::new(intake, Arc::new(Board::default()), order.subscribe());
        let resumes = compiled.keeps_positions();
        compiled.source()?;
        let compiled = Arc::new(RwLock::new(compiled));
        let task = match begin {
            Begin::StandingBy => {
                host.board.set(Status::Stopped, Micros::now());
                None
            }
            Begin::Running(_) => {
                let made = compiled.clone();
                let make = move || made.read().source().expect("compiled as a source");
                Some(tokio::spawn(supervise(make, host.clone(), resumes).instrument(span(&name, &type_name))))
            }
        };
        Some(Arc::new(Self {
            name,
            type_name,
            host,
            remote,
            limits,
            compiled: Some(compiled),
            order,
            task: tokio::sync::Mutex::new(task),
            is_leaving: AtomicBool::new(false),
            stands_by: begin == Begin::StandingBy,
        }))
    }

    /// The engine's own, which reads nothing: only the command sinks send on it; its ticks write catalog entries and save positions.
    pub fn start_own(intake: Arc<Intake>) -> Arc<Self> {
        let order = watch::Sender::new(Order::default());
        let (host, remote) = Host::new(intake, Arc::new(Board::default()), order.subscribe());
        host.board.set(Status::Running, Micros::now());
        let task = tokio::spawn(supervise(|| Box::new(Idle), host.clone(), false));
        Arc::new(Self {
            name: OWN.to_owned(),
            type_name: "engine".to_owned(),
            host,
            remote,
            limits: OWN_LIMITS,
            compiled: None,
            order,
            task: tokio::sync::Mutex::new(Some(task)),
            is_leaving: AtomicBool::new(false),
            stands_by: false,
        })
    }

    /// Ends the session in order, and waits until everything it sent is synced.
    pub async fn stop(&self) {
        self.tell(|order| order.ends = true);
        if let Some(task) = self.task.lock().await.take() {
            let _ = task.await;
        }
    }

    /// Whether a session runs, or is tried for, that can take over a change.
    pub fn takes_changes(&self) -> bool {
        self.order.borrow().wanted == Wanted::Running && !self.stands_by && !self.is_leaving.load(Relaxed)
    }

    /// Takes over a changed configuration with its connection, its tags and what is known of them. Resolves when it has.
    pub async fn change(&self, after: Arc<dyn Compiled>) {
        let Some(compiled) = &self.compiled else { return };
        self.host.intake.source_logs.reads_again.store(after.reads_again(), Relaxed);
        let before = std::mem::replace(&mut *compiled.write(), after.clone());
        self.host.is_to_change(before, after);
        self.tell(|order| order.changes += 1);
        // One that waits for Kafka before its first session takes it when that begins.
        let _ = tokio::time::timeout(CHANGED_WITHIN, self.host.changed()).await;
    }

    /// What it is compiled to now; `None`: the engine's own.
    pub fn compiled(&self) -> Option<Arc<dyn Compiled>> {
        self.compiled.as_ref().map(|compiled| compiled.read().clone())
    }

    /// Changes what it is to do.
    pub fn tell(&self, change: impl Fn(&mut Order)) {
        self.order.send_modify(change);
    }

    /// It left the configuration, and Kafka has all it read.
    pub fn is_gone(&self) -> bool {
        self.is_leaving.load(Relaxed) && self.host.intake.ledger.snapshot().waiting == 0
    }

    /// `elsewhere`: who reads it, where it stands by.
    pub fn report(&self, filling: &crate::alarm::Filling, elsewhere: impl FnOnce() -> String) -> SourceReport {
        let intake = &self.host.intake;
        let ledger = intake.ledger.snapshot();
        let (log_bytes, log_limit) = intake.log_bytes();
        let blocked = intake.source_logs.blocked.lock().clone();
        let mut state = self.host.board.report(blocked);
        if self.is_leaving.load(Relaxed) && state.reason.is_none() {
            state.reason = Some("it is not in the configuration any more; what its log holds still goes to Kafka".to_owned());
        }
        SourceReport {
            r#type: self.type_name.clone(),
            state,
            guarantee: self.compiled().map(|compiled| compiled.guarantee().words()),
            pace: PaceReport::of(&intake.source_logs.pace),
            measured: self.host.measures.report(),
            adds_up: ledger.adds_up(),
            ledger,
            elsewhere: self.stands_by.then(elsewhere),
            tags: intake.tags_len(),
            log_bytes,
            log_limit,
            log_held: intake.held(),
            log_fills: filling.lock().get(&intake.source).cloned(),
        }
    }
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

/// Around everything a connector does, so that every message names it.
fn span(name: &str, type_name: &str) -> tracing::Span {
    tracing::info_span!("connector", name, r#type = type_name)
}
