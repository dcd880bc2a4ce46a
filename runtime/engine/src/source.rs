//! Runs one source: session after session, for ever, disturbing nobody.

use crate::intake::Intake;
use crate::repeats::Repeats;
use crate::status::Board;
use async_trait::async_trait;
use futures_util::FutureExt;
use millrace_contract::{AckId, Clash, Command, Failure, Loss, Outcome, Source, SourceHost, SourceIo, Status, TagDef};
use millrace_schemas::{Batch, Micros, TagId};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc, watch};

/// Back-off between sessions: doubles from the first to the last, with jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_LAST: Duration = Duration::from_secs(30);
/// A source that needs a human is tried again this often: the human may have been there.
const BLOCKED_RETRY: Duration = Duration::from_secs(60);
/// How often the engine looks for stale tags and heartbeats.
const TICK: Duration = Duration::from_millis(250);
/// How long a session may take to end after it was told to.
const STOP_BOUND: Duration = Duration::from_secs(10);
/// How long a source with a durable position waits for Kafka to say what it knows, where the data directory is new: as long as a Kafka that is there
/// takes to answer. A first start without Kafka reads then, and what a lost data directory had sent already comes again.
const ADOPT_BOUND: Duration = Duration::from_secs(10);

/// The engine's side of a session.
pub struct Host {
    pub intake: Arc<Intake>,
    pub board: Arc<Board>,
    commands: Mutex<mpsc::Receiver<Command>>,
    stopping: watch::Receiver<bool>,
    /// The session said that it runs: the next back-off starts from the beginning.
    ran: AtomicBool,
}

/// Reaches a running source.
#[derive(Clone)]
pub struct Remote {
    pub commands: mpsc::Sender<Command>,
}

impl Host {
    pub fn new(intake: Arc<Intake>, board: Arc<Board>, stopping: watch::Receiver<bool>) -> (Arc<Self>, Remote) {
        let (tx, rx) = mpsc::channel(64);
        let host = Self { intake, board, commands: Mutex::new(rx), stopping, ran: AtomicBool::new(false) };
        (Arc::new(host), Remote { commands: tx })
    }

    async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // The engine gone is a stop, too.
        let _ = stopping.wait_for(|s| *s).await;
    }
}

#[async_trait]
impl SourceHost for Host {
    fn resume(&self, key: &str) -> Option<Vec<u8>> {
        self.intake.resume(key)
    }

    fn positions(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        self.intake.positions(prefix)
    }

    fn declare(&self, tag: TagDef) -> Result<TagId, Clash> {
        self.intake.declare(tag)
    }

    fn retire(&self, tag: TagId) {
        self.intake.retire(tag);
    }

    async fn batch(&self) -> Batch {
        self.intake.batch().await
    }

    async fn send(&self, batch: Batch, moved: &[(&str, &[u8])]) -> AckId {
        self.intake.send(batch, moved).await
    }

    async fn durable(&self, after: AckId) -> AckId {
        self.intake.durable(after).await
    }

    async fn command(&self) -> Command {
        let mut commands = self.commands.lock().await;
        while let Some(command) = commands.recv().await {
            if command.expires > Micros::now() {
                return command;
            }
            command.answer.send(Outcome::Expired);
        }
        std::future::pending().await
    }

    fn lost(&self, reason: Loss, count: u64) {
        self.intake.ledger.lost(reason.as_str(), count);
    }

    fn alive(&self, part: &str) {
        self.intake.alive(part);
    }

    fn gone(&self, part: &str) {
        self.intake.gone(part);
    }

    fn status(&self, part: &str, status: Status) {
        if part.is_empty() && status == Status::Running {
            self.ran.store(true, Relaxed);
        }
        let text = status.reason().map(str::to_owned);
        let word = status.word();
        if self.board.set_part(part, status, Micros::now()) {
            let source = &self.intake.source;
            match text {
                Some(reason) => tracing::warn!(source = %source, part, "{word}: {reason}"),
                None => tracing::debug!(source = %source, part, "{word}"),
            }
        }
    }

    async fn stopping(&self) {
        self.stopped().await;
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }
}

/// Runs the source until the engine stops. `resumes`: it keeps positions, and must not start before Kafka's are known where ours are lost.
pub async fn supervise(mut source: Box<dyn Source>, host: Arc<Host>, resumes: bool) {
    let name = host.intake.source.clone();
    if host.intake.is_new && resumes {
        adopt(&host).await;
    }
    let ticker = tokio::spawn(tick(host.clone()));
    let mut backoff = BACKOFF_FIRST;
    let mut repeats = Repeats::default();
    while !host.is_stopping() {
        host.board.session_opened();
        host.board.set(Status::Starting, Micros::now());
        host.ran.store(false, Relaxed);
        let began = Instant::now();
        let failure = session(&mut source, &host).await;
        if host.is_stopping() {
            break;
        }
        if host.ran.load(Relaxed) && began.elapsed() > Duration::from_secs(5) {
            backoff = BACKOFF_FIRST;
        }
        host.board.failed(&failure.to_string(), Micros::now());
        let wait = match &failure {
            Failure::Stopped => {
                tracing::info!(source = %name, "the source has nothing more to read");
                break;
            }
            Failure::Reconnect(cause) => {
                host.board.set(Status::Degraded(cause.clone()), Micros::now());
                if let Some(times) = repeats.say(cause) {
                    tracing::warn!(source = %name, repeated = times, "{cause}; trying again");
                }
                let wait = backoff.mul_f64(0.5 + fastrand::f64());
                backoff = (backoff * 2).min(BACKOFF_LAST);
                wait
            }
            Failure::RetryAfter(wait, cause) => {
                host.board.set(Status::Degraded(cause.clone()), Micros::now());
                if let Some(times) = repeats.say(cause) {
                    tracing::warn!(source = %name, repeated = times, "{cause}; trying again in {wait:?}");
                }
                *wait
            }
            Failure::Blocked(cause) => {
                host.board.set(Status::Blocked(cause.clone()), Micros::now());
                if let Some(times) = repeats.say(cause) {
                    tracing::error!(source = %name, repeated = times, "blocked: {cause}");
                }
                BLOCKED_RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = source.unblocked(), if matches!(failure, Failure::Blocked(_)) => {}
            () = host.stopped() => {}
        }
    }
    ticker.abort();
    host.board.set(Status::Stopping, Micros::now());
    host.intake.close().await;
    host.board.set(Status::Stopped, Micros::now());
}

/// One session; bounded once it was told to stop, and a panic of the plugin ends only the session.
async fn session(source: &mut Box<dyn Source>, host: &Arc<Host>) -> Failure {
    let io = SourceIo::new(host.clone());
    let run = AssertUnwindSafe(source.session(io)).catch_unwind();
    let bound = async {
        host.stopped().await;
        tokio::time::sleep(STOP_BOUND).await;
    };
    tokio::select! {
        outcome = run => match outcome {
            Ok(Ok(())) if host.is_stopping() => Failure::Stopped,
            Ok(Ok(())) => Failure::Reconnect("the session ended".to_owned()),
            Ok(Err(failure)) => failure,
            Err(panic) => {
                let what = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
                let what = what.unwrap_or_else(|| "no message".to_owned());
                tracing::error!(source = %host.intake.source, "the connector panicked: {what}; this is a bug, please report it");
                Failure::Reconnect(format!("the connector panicked: {what}"))
            }
        },
        () = bound => Failure::Reconnect("the session did not end in time".to_owned()),
    }
}

async fn adopt(host: &Arc<Host>) {
    let mut from_kafka = host.intake.outlet.from_kafka.subscribe();
    let waits = format!("the data directory is new: waits {ADOPT_BOUND:?} at most for Kafka to say where this source left off");
    host.board.set(Status::Degraded(waits), Micros::now());
    let known = tokio::time::timeout(ADOPT_BOUND, async {
        tokio::select! {
            known = from_kafka.wait_for(Option::is_some) => known.ok().and_then(|k| k.clone()),
            () = host.stopped() => None,
        }
    });
    match known.await {
        Ok(Some(positions)) => host.intake.adopt(&positions),
        Ok(None) => {}
        Err(_) => tracing::warn!(
            source = %host.intake.source,
            "kafka did not say in {ADOPT_BOUND:?} where this source left off; it starts from the beginning, data may come twice"
        ),
    }
}

async fn tick(host: Arc<Host>) {
    let mut every = tokio::time::interval(TICK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = host.intake.work() => {}
        }
        host.intake.tick().await;
    }
}
