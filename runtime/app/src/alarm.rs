//! Alarms without Kafka: what is wrong is told to people by webhook, MQTT or mail, again while it lasts, and once more when it is over.
//!
//! ```text
//! every second: the engine's report, certificates, the clock ─▶ conditions ─▶ book (hold, repeat, maintenance) ─▶ a queue per target ─▶ sent, tried again
//! ```
//!
//! - [`book`]: which alarms stand and what is told of them. [`windows`]: maintenance. [`send`]: the ways out. [`smtp`]: mail.
//!
//! What stands is kept in `alarms.json` in the data directory: what is over after a restart is told, and nothing is told twice.

mod book;
mod send;
mod smtp;
mod windows;

use crate::ask;
use crate::say::{self, say, tell, time, visible};
use anyhow::{Result, bail};
use book::{Book, Condition, Event, Message};
use millrace_config::factory::{AlarmLevel, Alarms, Factory};
use millrace_config::{Period, Place, Problems};
use millrace_console::{Certificates, Damage, troubles};
use millrace_engine::{Engine, EngineReport};
use millrace_schemas::Micros;
use send::Target;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use windows::Window;

const EVERY: Duration = Duration::from_secs(1);
/// How often certificates are read.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(600);
/// Over which dead letters and losses are counted.
const RISING_WITHIN: i64 = 300_000_000;
/// Alarms that wait for one target; the oldest goes first.
const QUEUE: usize = 100;
/// How often one is tried, and how long it rests between, at first and at most.
const TRIES: u32 = 8;
const REST: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// What `alarms:` says, ready to run.
pub struct Compiled {
    keys: Alarms,
    targets: Vec<Target>,
    windows: Vec<Window>,
    site: String,
}

impl Compiled {
    /// Every problem is added at its place.
    pub fn compile(factory: &Factory, problems: &mut Problems) -> Self {
        let keys = factory.alarms.clone();
        let targets = keys.to.0.iter().filter_map(|(name, target)| Target::compile(factory, name, target, problems)).collect();
        let windows = keys.maintenance.iter().filter_map(|one| Window::compile(one, problems)).collect();
        for pattern in keys.silent.keys() {
            if !factory.sources.iter().any(|source| is_meant(pattern, &source.name)) {
                problems.warn(Place::NONE, format!("alarms.silent.{pattern} fits no source"));
            }
        }
        Self { keys, targets, windows, site: factory.site.to_string() }
    }

    fn is_quiet(&self) -> bool {
        let now = windows::now();
        self.windows.iter().any(|window| window.holds(&now))
    }
}

/// Whether a name fits a pattern with `*`.
fn is_meant(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((first, rest)) => {
            name.strip_prefix(first).is_some_and(|left| (0..=left.len()).any(|at| left.is_char_boundary(at) && is_meant(rest, &left[at..])))
        }
    }
}

/// The alarms of a running service.
pub struct Watch {
    book: Mutex<Book>,
    sent: Mutex<BTreeMap<String, Sent>>,
    is_quiet: std::sync::atomic::AtomicBool,
}

#[derive(Clone, Debug, Default, serde::Serialize)]
struct Sent {
    sent: u64,
    failed: u64,
    /// Why the last one failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<String>,
}

impl Watch {
    /// Watches until the engine is gone. `rules` may change while it does.
    pub fn start(
        rules: watch::Receiver<Arc<Compiled>>,
        engine: &Arc<Engine>,
        certificates: Certificates,
        damage: Damage,
        data_dir: &Path,
    ) -> Arc<Self> {
        let path = data_dir.join("alarms.json");
        let kept = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let watch = Arc::new(Self { book: Mutex::new(kept.unwrap_or_default()), sent: Mutex::default(), is_quiet: Default::default() });
        tokio::spawn(watch.clone().run(rules, Arc::downgrade(engine), certificates, damage, path));
        watch
    }

    async fn run(
        self: Arc<Self>,
        mut rules: watch::Receiver<Arc<Compiled>>,
        engine: Weak<Engine>,
        certificates: Certificates,
        damage: Damage,
        path: PathBuf,
    ) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut now_rules = rules.borrow_and_update().clone();
        let mut queues = self.queues(&now_rules);
        let mut rising = Rising::default();
        let mut read: Option<(Instant, Vec<Condition>)> = None;
        loop {
            every.tick().await;
            let Some(engine) = engine.upgrade() else { return };
            if rules.has_changed().unwrap_or(false) {
                now_rules = rules.borrow_and_update().clone();
                queues = self.queues(&now_rules);
                read = None;
            }
            if read.as_ref().is_none_or(|(at, _)| at.elapsed() > CERTIFICATES_EVERY) {
                let (certificates, stages) = (certificates.clone(), now_rules.keys.certificate.clone());
                let found = tokio::task::spawn_blocking(move || ending(&certificates(), &stages)).await.unwrap_or_default();
                read = Some((Instant::now(), found));
            }
            let (report, now) = (engine.report(), Micros::now().0);
            let mut found = conditions(&report, &damage, &now_rules.keys, now);
            found.extend(rising.dead_letters(&report, now_rules.keys.dead_letters, now));
            found.extend(rising.losses(&report, now));
            found.extend(read.iter().flat_map(|(_, found)| found.iter().cloned()));
            found.extend(clock());
            let is_quiet = now_rules.is_quiet();
            self.is_quiet.store(is_quiet, std::sync::atomic::Ordering::Relaxed);
            let (told, changed) = {
                let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
                let before = book.0.values().filter(|one| one.told.is_some()).count();
                let told = book.turn(found, now, now_rules.keys.hold.0, now_rules.keys.repeat.0, is_quiet);
                let is_other = !told.is_empty() || before != book.0.values().filter(|one| one.told.is_some()).count();
                (told, is_other.then(|| book.clone()))
            };
            if let Some(book) = changed {
                keep(&path, book).await;
            }
            for message in told {
                for (_, queue) in queues.values().filter(|(level, _)| message.level >= *level) {
                    if queue.try_send(message.clone()).is_err() {
                        tracing::warn!(alarm = message.id, "an alarm is not sent: {QUEUE} wait already, because the target takes none");
                    }
                }
            }
        }
    }

    /// One queue for each target; what is queued for an old one is still sent.
    fn queues(self: &Arc<Self>, rules: &Arc<Compiled>) -> BTreeMap<String, (AlarmLevel, mpsc::Sender<Message>)> {
        let queue = |index: usize| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            tokio::spawn(self.clone().deliver(rules.clone(), index, receiver));
            (rules.targets[index].name.clone(), (rules.targets[index].level, sender))
        };
        (0..rules.targets.len()).map(queue).collect()
    }

    async fn deliver(self: Arc<Self>, rules: Arc<Compiled>, index: usize, mut queue: mpsc::Receiver<Message>) {
        let target = &rules.targets[index];
        while let Some(message) = queue.recv().await {
            let mut rest = REST.0;
            for attempt in 1..=TRIES {
                let Err(why) = target.send(&rules.site, &message).await else {
                    self.note(&target.name, |sent| sent.sent += 1);
                    tracing::info!(target = target.name, alarm = message.id, "alarm sent: {}", message.event.word());
                    break;
                };
                self.note(&target.name, |sent| sent.last_failure = Some(why.clone().into()));
                if attempt == TRIES {
                    self.note(&target.name, |sent| sent.failed += 1);
                    tracing::error!(target = target.name, alarm = message.id, "an alarm is not sent, {TRIES} times tried: {why}");
                    break;
                }
                tracing::warn!(target = target.name, alarm = message.id, "cannot send an alarm: {why}; it is tried again");
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(REST.1);
            }
        }
    }

    fn note(&self, target: &str, change: impl FnOnce(&mut Sent)) {
        change(self.sent.lock().unwrap_or_else(PoisonError::into_inner).entry(target.to_owned()).or_default());
    }

    /// The texts of those that stand.
    #[cfg_attr(not(feature = "opcua-server"), allow(dead_code, reason = "the OPC UA server shows them"))]
    pub fn standing(&self) -> Vec<String> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.0.values().filter(|one| one.gone.is_none()).map(|one| one.text.clone()).collect()
    }

    /// What stands, for REST.
    pub fn report(&self) -> Value {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let stands = book.0.iter().map(|(id, one)| {
            json!({ "id": id, "level": one.level, "text": one.text, "help": one.help, "since": one.since, "told": one.told, "gone": one.gone })
        });
        let is_quiet = self.is_quiet.load(std::sync::atomic::Ordering::Relaxed);
        json!({ "alarms": stands.collect::<Vec<_>>(), "targets": *self.sent.lock().unwrap_or_else(PoisonError::into_inner), "maintenance": is_quiet })
    }
}

async fn keep(path: &Path, book: Book) {
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        let unfinished = path.with_extension("new");
        std::fs::write(&unfinished, serde_json::to_vec_pretty(&book)?)?;
        std::fs::rename(&unfinished, &path)
    });
    if let Ok(Err(error)) = written.await {
        tracing::warn!("cannot keep the alarms that stand: {error}; after a restart they may be told again");
    }
}

/// What the engine's report says.
fn conditions(report: &EngineReport, damage: &Damage, keys: &Alarms, now: i64) -> Vec<Condition> {
    let mut found: Vec<Condition> = troubles(report, &damage())
        .into_iter()
        .filter(|trouble| matches!(trouble.status.as_str(), "Blocked" | "Degraded"))
        .map(|trouble| Condition {
            id: format!("{}/{}", trouble.what.replace(' ', "/"), trouble.status.to_lowercase()),
            level: if trouble.status == "Blocked" { AlarmLevel::Error } else { AlarmLevel::Warning },
            text: format!("{} is {}: {}", trouble.what, trouble.status, trouble.reason),
            help: trouble.help,
        })
        .collect();
    for (name, source) in &report.sources {
        if let Some(why) = &source.log_fills {
            found.push(Condition {
                id: format!("source/{name}/log"),
                level: AlarmLevel::Warning,
                text: format!("the log of source {name} fills: {why}"),
                help: "is Kafka reachable? Nothing is lost before it is full; `log.size` and the disk say when".into(),
            });
        }
        let period = keys.silent.iter().find(|(pattern, _)| is_meant(pattern, name)).map(|(_, period)| period.0);
        let last = source.pace.newest.unwrap_or(report.started).max(source.state.since);
        let quiet_for = Duration::from_micros(u64::try_from(now - last).unwrap_or(0));
        if let Some(period) = period.filter(|period| quiet_for > *period && source.state.status == "Running") {
            found.push(Condition {
                id: format!("source/{name}/silent"),
                level: AlarmLevel::Warning,
                text: format!("source {name} runs and has brought nothing for more than {} s", period.as_secs()),
                help: "is the machine on? `millrace tags --stale` lists what it does not give".into(),
            });
        }
    }
    for (name, sink) in &report.sinks {
        let age = Duration::from_secs_f64(sink.counts.lag_seconds(now / 1_000));
        if keys.lag.is_some_and(|most| age > most.0) {
            let counts = &sink.counts;
            let why = match (counts.lag, counts.catch_up_seconds) {
                (0, _) => "its target does not confirm what was read".to_owned(),
                (records, when) => {
                    let when = when.map_or_else(
                        || "at this rate it never catches up".to_owned(),
                        |seconds| format!("caught up in {}", Period(Duration::from_secs(seconds))),
                    );
                    format!("{records} records, some {} KiB, wait; {when}", counts.lag_bytes.div_ceil(1 << 10))
                }
            };
            found.push(Condition {
                id: format!("sink/{name}/lag"),
                level: AlarmLevel::Warning,
                text: format!("sink {name} is behind by {}: {why}", Period(Duration::from_secs(age.as_secs()))),
                help: "is its target there, and its line wide enough? Topics must keep records for longer than this".into(),
            });
        }
    }
    found
}

/// Counts as they were in the last minutes.
#[derive(Default)]
struct Rising(BTreeMap<String, VecDeque<(i64, u64)>>);

impl Rising {
    /// How much a count has grown in these minutes.
    fn more(&mut self, what: &str, count: u64, now: i64) -> u64 {
        let seen = self.0.entry(what.to_owned()).or_default();
        if seen.back().is_none_or(|(_, last)| *last != count) {
            seen.push_back((now, count));
        }
        // The last one before the window is where it began.
        while seen.len() > 1 && seen[1].0 <= now - RISING_WITHIN {
            seen.pop_front();
        }
        let is_new = seen.back().is_some_and(|(at, _)| *at > now - RISING_WITHIN);
        if is_new { count.saturating_sub(seen.front().map_or(count, |(_, first)| *first)) } else { 0 }
    }

    fn dead_letters(&mut self, report: &EngineReport, most: u64, now: i64) -> Vec<Condition> {
        let sources =
            report.sources.iter().map(|(name, one)| (format!("source/{name}"), one.ledger.dead_at_intake + one.ledger.dead_at_send));
        let sinks = report.sinks.iter().map(|(name, one)| (format!("sink/{name}"), one.counts.dead));
        let counts: Vec<(String, u64)> = sources.chain(sinks).collect();
        let mut found = Vec::new();
        for (what, count) in counts {
            let more = self.more(&format!("{what}/dead"), count, now);
            if most > 0 && more >= most {
                found.push(Condition {
                    id: format!("{what}/dead"),
                    level: AlarmLevel::Warning,
                    text: format!("{} has {more} new dead letters", what.replace('/', " ")),
                    help: "`millrace dead list` says why; mend the cause, then `millrace dead replay`".into(),
                });
            }
        }
        found
    }

    /// Records that Kafka had no more when a sink came to read them; those that were gone when this began, too.
    fn losses(&mut self, report: &EngineReport, now: i64) -> Vec<Condition> {
        let mut found = Vec::new();
        for (name, sink) in &report.sinks {
            let what = format!("sink/{name}/lost");
            self.0.entry(what.clone()).or_insert_with(|| VecDeque::from([(now, 0)]));
            let more = self.more(&what, sink.counts.lost, now);
            if more > 0 {
                found.push(Condition {
                    id: what,
                    level: AlarmLevel::Error,
                    text: format!("sink {name} has lost {more} records: Kafka deleted them before it could read them"),
                    help: "the service's log names the topic, the partition and the range; keep topics longer (`retention`), or let the sink be faster".into(),
                });
            }
        }
        found
    }
}

/// Certificates that end soon, in the last stage they have reached, and those that have.
fn ending(certificates: &[millrace_console::Certificate], stages: &[Period]) -> Vec<Condition> {
    let now = std::time::SystemTime::now();
    let stage = |one: &millrace_console::Certificate| {
        let Ok(left) = one.until.duration_since(now) else { return Some((-1.0, "ended".to_owned())) };
        let reached = stages.iter().filter(|stage| left <= stage.0).min()?;
        Some((left.as_secs_f64() / 86_400.0, reached.to_string()))
    };
    let condition = |one: &millrace_console::Certificate| {
        let (days, stage) = stage(one)?;
        let when = if days < 0.0 { "has ended".to_owned() } else { format!("ends in {days:.1} days") };
        Some(Condition {
            id: format!("certificate/{}/{stage}", &one.thumbprint[..one.thumbprint.len().min(12)]),
            level: if days <= 1.0 { AlarmLevel::Error } else { AlarmLevel::Warning },
            text: format!("the certificate of {} ({}) {when}", one.subject, one.shelf),
            help: "renew it: `millrace pki list` names it; a connection that needs it ends with it".into(),
        })
    };
    certificates.iter().filter_map(condition).collect()
}

/// The kernel knows whether anything sets the clock.
fn clock() -> Option<Condition> {
    (!is_clock_set()).then(|| Condition {
        id: "clock".into(),
        level: AlarmLevel::Warning,
        text: "nothing keeps this machine's clock: the kernel says that it is not synchronised".into(),
        help: "let chrony or timesyncd set it: timestamps that are far off are refused by Kafka and by certificates".into(),
    })
}

/// Whether a time service has set the clock, as the kernel knows it.
pub fn is_clock_set() -> bool {
    // SAFETY: a timex of zeros asks and changes nothing; the kernel writes into it and keeps no pointer.
    unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex) != libc::TIME_ERROR
    }
}

// ---- the command ------------------------------------------------------------------------------------------------------------------

#[derive(clap::Subcommand)]
pub enum Command {
    /// Lists the alarms that stand, and what became of those that were sent.
    List(ListOptions),
    /// Sends a test alarm to every target of the file, or to one; the service need not run. Exit code 1 if one is not taken.
    Test(TestOptions),
}

#[derive(clap::Args)]
pub struct ListOptions {
    #[command(flatten)]
    service: ask::Service,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct TestOptions {
    /// The factory's YAML: a file, several, or a folder.
    #[arg(short, long = "config", required = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Only to this target.
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    #[arg(long)]
    json: bool,
}

pub fn alarm(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(options) => list(&options),
        Command::Test(options) => test(&options),
    }
}

fn list(options: &ListOptions) -> Result<ExitCode> {
    let answer = options.service.open()?.get("/alarms", &[])?;
    if options.json {
        say::json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &Value| visible(value.as_str().unwrap_or_default());
    let all = answer["alarms"].as_array().cloned().unwrap_or_default();
    for one in &all {
        let told = if one["told"].is_null() { "not told yet" } else { "told" };
        say!("{}  {}  since {}  {told}", text(&one["level"]), text(&one["text"]), time(one["since"].as_i64().unwrap_or(0)));
        say!("    {}", text(&one["help"]));
    }
    if all.is_empty() {
        say!("no alarm stands");
    }
    for (name, sent) in answer["targets"].as_object().into_iter().flatten() {
        let failure = sent["last_failure"].as_str().map(|why| format!("; last failure: {}", visible(why))).unwrap_or_default();
        say!("{name}: {} sent, {} given up{failure}", sent["sent"], sent["failed"]);
    }
    Ok(ExitCode::SUCCESS)
}

fn test(options: &TestOptions) -> Result<ExitCode> {
    let factory = ask::factory(&options.config)?;
    let mut problems = Problems::new();
    let compiled = Compiled::compile(&factory, &mut problems);
    if problems.has_errors() {
        bail!("the alarms of the file have mistakes; `millrace check` says which");
    }
    let named = |target: &&Target| options.to.as_ref().is_none_or(|name| *name == target.name);
    let targets: Vec<&Target> = compiled.targets.iter().filter(named).collect();
    if targets.is_empty() {
        let known: Vec<&str> = compiled.targets.iter().map(|target| target.name.as_str()).collect();
        match &options.to {
            Some(name) => bail!("there is no target `{name}` under alarms.to; there are: {}", known.join(", ")),
            None => bail!("the file declares no target under alarms.to"),
        }
    }
    let now = Micros::now().0;
    let message = Message {
        id: "test".into(),
        event: Event::Test,
        level: AlarmLevel::Error,
        text: "this is a test of Millrace's alarms".into(),
        help: "nothing: somebody typed `millrace alarm test`".into(),
        since: now,
        time: now,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut code = ExitCode::SUCCESS;
    let mut said = Vec::new();
    for target in targets {
        let failure = runtime.block_on(target.send(&compiled.site, &message)).err();
        match &failure {
            _ if options.json => {}
            None => say!("{}: sent", target.name),
            Some(why) => tell!("{}: not sent: {}", target.name, visible(why)),
        }
        if failure.is_some() {
            code = ExitCode::FAILURE;
        }
        said.push(json!({ "target": target.name, "sent": failure.is_none(), "failure": failure }));
    }
    if options.json {
        say::json(&said.into());
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_names() {
        for (pattern, name, fits) in
            [("press-*", "press-1", true), ("press-*", "press", false), ("*", "x", true), ("a*c*", "abcd", true), ("x", "xy", false)]
        {
            assert_eq!(is_meant(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_certificate_is_told_of_in_stages() {
        let of = |days: f64| {
            let until = std::time::SystemTime::now() + Duration::from_secs(100 * 86_400);
            let until = until - Duration::from_secs_f64((100.0 - days) * 86_400.0);
            let found = ending(
                &[millrace_console::Certificate { shelf: "own", thumbprint: "abc".into(), subject: "us".into(), until }],
                &Alarms::default().certificate,
            );
            found.into_iter().next().map(|one| (one.id, one.level))
        };
        assert_eq!(of(31.0), None);
        assert_eq!(of(29.0), Some(("certificate/abc/30d".into(), AlarmLevel::Warning)));
        assert_eq!(of(6.5), Some(("certificate/abc/7d".into(), AlarmLevel::Warning)));
        assert_eq!(of(0.5), Some(("certificate/abc/1d".into(), AlarmLevel::Error)));
        assert_eq!(of(-1.0), Some(("certificate/abc/ended".into(), AlarmLevel::Error)));
    }
}
