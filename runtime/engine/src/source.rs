//! Runs one source: session after session, for ever, disturbing nobody.

use crate::hold::{Order, Wanted};
use crate::intake::{Intake, is_believed};
use crate::measures::Measures;
use crate::repeats::Repeats;
use crate::status::Board;
use async_trait::async_trait;
use futures_util::FutureExt;
use millrace_contract::source::SchemaIn;
use millrace_contract::{AckId, Clash, Command, Compiled, Failure, Loss, Outcome, Source, SourceHost, SourceIo, Status, TagDef};
use millrace_schemas::contract::SchemaError;
use millrace_schemas::{Batch, Micros, RouteId, TagId};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Notify, mpsc, watch};

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
    pub measures: Measures,
    commands: Mutex<mpsc::Receiver<Waiting>>,
    order: watch::Receiver<Order>,
    /// A changed configuration that the source is to take over before its next session.
    changed: parking_lot::Mutex<Option<Change>>,
    changes_taken: Notify,
    /// What the session began with: it ends when that is no longer what is wanted.
    began_with: parking_lot::Mutex<Order>,
    /// The session said that it runs: the next back-off starts from the beginning.
    ran: AtomicBool,
    /// Since when it does not run, where that was told.
    away_since: parking_lot::Mutex<Option<Instant>>,
    parts_told: parking_lot::Mutex<Repeats>,
}

/// A configuration in place of another.
struct Change {
    before: Arc<dyn Compiled>,
    after: Arc<dyn Compiled>,
}

/// Reaches a running source.
#[derive(Clone)]
pub struct Remote {
    pub commands: mpsc::Sender<Waiting>,
}

/// A command that waits for a session to take it.
pub struct Waiting {
    command: Command,
    is_gone: Arc<AtomicBool>,
}

/// The other end of [`Waiting`].
pub struct Ticket(Arc<AtomicBool>);

impl Waiting {
    pub fn new(command: Command) -> (Self, Ticket) {
        let is_gone = Arc::new(AtomicBool::new(false));
        (Self { command, is_gone: is_gone.clone() }, Ticket(is_gone))
    }

    /// The command; `None`: it was withdrawn.
    fn take(self) -> Option<Command> {
        (!self.is_gone.swap(true, SeqCst)).then_some(self.command)
    }
}

impl Ticket {
    /// Whether nobody has taken it; then nobody will.
    pub fn withdraw(&self) -> bool {
        !self.0.swap(true, SeqCst)
    }
}

impl Host {
    pub fn new(intake: Arc<Intake>, board: Arc<Board>, order: watch::Receiver<Order>) -> (Arc<Self>, Remote) {
        let (tx, rx) = mpsc::channel(64);
        let began_with = parking_lot::Mutex::new(*order.borrow());
        let host = Self {
            intake,
            board,
            measures: Measures::default(),
            commands: Mutex::new(rx),
            order,
            changed: Default::default(),
            changes_taken: Notify::new(),
            began_with,
            ran: AtomicBool::new(false),
            away_since: Default::default(),
            parts_told: Default::default(),
        };
        (Arc::new(host), Remote { commands: tx })
    }

    /// Resolves when the engine stops.
    async fn ended(&self) {
        let mut order = self.order.clone();
        // The engine gone is a stop, too.
        let _ = order.wait_for(|order| order.ends).await;
    }

    fn has_ended(&self) -> bool {
        self.order.borrow().ends
    }

    /// Resolves when the session that began is no longer wanted.
    async fn session_unwanted(&self) {
        let began_with = *self.began_with.lock();
        let mut order = self.order.clone();
        let _ = order.wait_for(|order| *order != began_with).await;
    }

    fn is_session_wanted(&self) -> bool {
        *self.order.borrow() == *self.began_with.lock()
    }

    /// The source is to do `after` instead of `before`; its session must be told.
    pub fn is_to_change(&self, before: Arc<dyn Compiled>, after: Arc<dyn Compiled>) {
        let mut changed = self.changed.lock();
        // One that nobody took yet leads from where it began.
        let before = changed.take().map_or(before, |waiting| waiting.before);
        *changed = Some(Change { before, after });
    }

    /// Resolves when the source has taken its change, or had none.
    pub async fn changed(&self) {
        loop {
            let taken = self.changes_taken.notified();
            if self.changed.lock().is_none() {
                return;
            }
            taken.await;
        }
    }

    /// Takes the change that waits. Returns whether the source that ran goes on, on its connection.
    fn change(&self, source: &mut Box<dyn Source>) -> bool {
        let Some(Change { before, after }) = self.changed.lock().take() else { return false };
        self.board.forget_parts();
        self.intake.change(before.model(), after.model());
        let goes_on = after.hand_to(&mut **source);
        self.changes_taken.notify_waiters();
        goes_on
    }

    /// Waits while it is paused or stopped.
    async fn rest(&self) {
        let mut order = self.order.clone();
        loop {
            let now = *order.borrow_and_update();
            match now.wanted {
                _ if now.ends => return,
                Wanted::Running => return,
                Wanted::Paused => _ = self.board.set(Status::Paused, Micros::now()),
                Wanted::Stopped => _ = self.board.set(Status::Stopped, Micros::now()),
            }
            if order.changed().await.is_err() {
                return;
            }
        }
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

    fn describe(&self, route: RouteId, schema: &SchemaIn<'_>) -> Result<(), SchemaError> {
        self.intake.describe(route, schema)
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

    async fn durable_within(&self, after: AckId, apart: Duration) -> AckId {
        self.intake.durable_within(after, apart).await
    }

    async fn command(&self) -> Command {
        let mut commands = self.commands.lock().await;
        while let Some(waiting) = commands.recv().await {
            let Some(command) = waiting.take() else { continue };
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

    fn dropped(&self, reason: Loss, count: u64) {
        self.intake.ledger.dropped_at_intake(reason.as_str(), count);
    }

    fn alive(&self, part: &str) {
        self.intake.alive(part);
    }

    fn gone(&self, part: &str) {
        self.intake.gone(part);
    }

    fn status(&self, part: &str, status: Status) {
        if part.is_empty() && status == Status::Running && !self.ran.swap(true, Relaxed) {
            self.board.session_opened();
            if let Some(since) = self.away_since.lock().take() {
                tracing::info!(source = %self.intake.source, "runs again after {:.1} s", since.elapsed().as_secs_f64());
            }
        }
        let text = status.reason().map(str::to_owned);
        let word = status.word();
        if self.board.set_part(part, status, Micros::now()) {
            let source = &self.intake.source;
            match text {
                // A thousand devices that come and go are told by what is wrong with them, not one by one.
                Some(reason) => {
                    if let Some(times) = self.parts_told.lock().say(&format!("{word} {reason}")) {
                        tracing::warn!(source = %source, part, repeated = times, "the status is {word} now: {reason}");
                    }
                }
                None => tracing::debug!(source = %source, part, "{word}"),
            }
        }
    }

    fn measure(&self, what: &'static str, took: Duration) {
        self.measures.add(what, took);
    }

    async fn stopping(&self) {
        self.session_unwanted().await;
    }

    fn is_stopping(&self) -> bool {
        !self.is_session_wanted()
    }

    async fn closing(&self) {
        let began_with = *self.began_with.lock();
        let mut order = self.order.clone();
        let _ = order.wait_for(|order| !order.keeps_connection(began_with)).await;
    }

    fn hands_over(&self) -> bool {
        let (order, began_with) = (*self.order.borrow(), *self.began_with.lock());
        order != began_with && order.keeps_connection(began_with)
    }
}

/// Runs a source until the engine stops; `make` makes a new one for each restart that a person asks for. `resumes`: it keeps positions, and must not
/// start before Kafka's are known where ours are lost.
pub async fn supervise(make: impl Fn() -> Box<dyn Source> + Send, host: Arc<Host>, resumes: bool) {
    let name = host.intake.source.clone();
    if host.intake.is_new && resumes {
        adopt(&host).await;
    }
    if host.intake.is_unnumbered {
        find_number(&host).await;
    }
    host.intake.number_above_kafka().await;
    let mut ticker = tokio::spawn(tick(host.clone()));
    let mut backoff = BACKOFF_FIRST;
    let mut repeats = Repeats::default();
    let mut source = make();
    loop {
        host.rest().await;
        let order = *host.order.borrow();
        if order.ends {
            break;
        }
        let before = std::mem::replace(&mut *host.began_with.lock(), order);
        let goes_on = host.change(&mut source) && order.keeps_connection(before);
        if before != order && !goes_on {
            (source, backoff) = (make(), BACKOFF_FIRST);
        }
        if !goes_on || !host.ran.load(Relaxed) {
            host.board.set(Status::Starting, Micros::now());
            host.ran.store(false, Relaxed);
        }
        let began = Instant::now();
        let failure = session(&mut source, &host).await;
        if !host.is_session_wanted() {
            continue;
        }
        if host.ran.load(Relaxed) && began.elapsed() > Duration::from_secs(5) {
            backoff = BACKOFF_FIRST;
        }
        host.board.failed(&failure.to_string(), Micros::now());
        host.away_since.lock().get_or_insert_with(Instant::now);
        let wait = match &failure {
            Failure::Stopped => {
                tracing::info!(source = %name, "the source has nothing more to read");
                ticker.abort();
                host.intake.close().await;
                host.board.set(Status::Stopped, Micros::now());
                host.session_unwanted().await;
                ticker = tokio::spawn(tick(host.clone()));
                continue;
            }
            Failure::Reconnect(cause) => {
                host.board.set(Status::Degraded(cause.clone()), Micros::now());
                if let Some(times) = repeats.say(cause) {
                    tracing::warn!(source = %name, repeated = times, "interrupted: {cause}; trying again");
                }
                let wait = backoff.mul_f64(0.5 + fastrand::f64());
                backoff = (backoff * 2).min(BACKOFF_LAST);
                wait
            }
            Failure::RetryAfter(wait, cause) => {
                host.board.set(Status::Degraded(cause.clone()), Micros::now());
                if let Some(times) = repeats.say(cause) {
                    tracing::warn!(source = %name, repeated = times, "interrupted: {cause}; trying again in {wait:?}");
                }
                *wait
            }
            Failure::Blocked(cause) => {
                host.board.set(Status::Blocked(cause.clone()), Micros::now());
                if let Some(times) = repeats.say(cause) {
                    tracing::error!(source = %name, repeated = times, "blocked until somebody acts: {cause}");
                }
                BLOCKED_RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = source.unblocked(), if matches!(failure, Failure::Blocked(_)) => {}
            () = host.session_unwanted() => {}
        }
    }
    ticker.abort();
    host.changed.lock().take();
    host.changes_taken.notify_waiters();
    host.board.set(Status::Stopping, Micros::now());
    host.intake.close().await;
    host.board.set(Status::Stopped, Micros::now());
}

/// One session; bounded once it was told to stop, and a panic of the plugin ends only the session.
async fn session(source: &mut Box<dyn Source>, host: &Arc<Host>) -> Failure {
    let io = SourceIo::new(host.clone());
    let run = AssertUnwindSafe(source.session(io.clone())).catch_unwind();
    let failure = tokio::select! {
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
        () = bound_of(host) => Failure::Reconnect("the session did not end in time".to_owned()),
    };
    // A task that the session leaves behind must not send behind the back of the next one, which begins where this one ended.
    tokio::select! {
        () = io.end() => {}
        () = bound_of(host) => {}
    }
    failure
}

/// Resolves some time after the session was told to end.
async fn bound_of(host: &Host) {
    host.session_unwanted().await;
    tokio::time::sleep(STOP_BOUND).await;
}

async fn adopt(host: &Arc<Host>) {
    let mut from_kafka = host.intake.source_logs.from_kafka.subscribe();
    let waits = format!("its positions are not known here: waits {ADOPT_BOUND:?} at most for Kafka to say where this source left off");
    host.board.set(Status::Degraded(waits), Micros::now());
    let known = tokio::time::timeout(ADOPT_BOUND, async {
        tokio::select! {
            known = from_kafka.wait_for(Option::is_some) => known.ok().and_then(|k| k.clone()),
            () = host.ended() => None,
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

/// Waits until Kafka has said which identities were used, or the clock can number new ones.
async fn find_number(host: &Arc<Host>) {
    let mut from_kafka = host.intake.source_logs.from_kafka.subscribe();
    while !is_believed(Micros::now()) && from_kafka.borrow().is_none() && !host.has_ended() {
        let waits = "the data directory is new and the clock is older than this program, so records can't be numbered without using an \
                     identity twice: waits for Kafka, or until the clock is set";
        host.board.set(Status::Degraded(waits.to_owned()), Micros::now());
        tokio::select! {
            _ = from_kafka.changed() => {}
            () = host.ended() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
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
