//! Changed files, taken while it runs: `millrace reload`, SIGHUP, `POST /reload`, `run --watch`.
//!
//! ```text
//! asked ─▶ the files are read and compiled ─┬─ a mistake: it is told, nothing changes
//!                                           ├─ nothing is different: nothing happens
//!                                           ├─ sources, sinks, new topics: only what changed is stopped and started (`millrace_engine::change`);
//!                                           │  a source whose groups alone change goes on, on its connection (`in_place`)
//!                                           └─ what everything stands on (Kafka, the site, ..): everything starts anew in this very process
//! ```
//!
//! For the last, the process stays (same id, so that a supervisor sees no end), its sockets and locks do not: it replaces itself by the program as it
//! lies on the disk. One reload at a time; whoever comes meanwhile is told so.

use crate::ask::Service;
use crate::files::Files;
use crate::in_place::{self, How};
use crate::kept::{self, ReadFiles};
use crate::say::{self, say, tell, tell_part, visible};
use crate::{alarm, check};
use anyhow::{Context, Result, bail};
use millrace_config::factory::TokenRole;
use millrace_config::{Factory, Load, Node, Problems};
use millrace_console::control::Refusal;
use millrace_engine::Engine;
use millrace_engine::change::{Obstacle, Touched};
use millrace_engine::compile::CompiledFactory;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    files: Files,
    /// Only says what would change.
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    json: bool,
}

/// The configuration that runs, as `check --expanded` prints it, below the data directory.
const RUNNING: &str = "running.yaml";
/// Holds the process id of who has the data directory.
const LOCK: &str = "log/.lock";
/// How often `run --watch` looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps a running service and its files together.
pub struct Reloader {
    paths: Vec<PathBuf>,
    engine: Arc<Engine>,
    running: tokio::sync::Mutex<Running>,
    /// Everything is to start anew.
    again: watch::Sender<bool>,
    alarms: watch::Sender<Arc<alarm::Compiled>>,
}

struct Running {
    factory: Factory,
    files: ReadFiles,
}

/// What changed files change.
struct Judged {
    factory: Factory,
    works: CompiledFactory,
    files: ReadFiles,
    /// For a person: `source press changes`.
    changes: Vec<String>,
    touched: Touched,
    /// What becomes of each source that changes.
    how: BTreeMap<String, How>,
    /// Why everything starts anew; empty: only what changed.
    restarts: Vec<String>,
}

impl Reloader {
    pub fn new(paths: Vec<PathBuf>, engine: Arc<Engine>, factory: Factory, files: ReadFiles) -> Arc<Self> {
        // What is wrong in it was told before.
        let alarms = watch::Sender::new(Arc::new(alarm::Compiled::compile(&factory, &mut Problems::new())));
        let running = tokio::sync::Mutex::new(Running { factory, files });
        Arc::new(Self { paths, engine, running, again: watch::Sender::new(false), alarms })
    }

    /// Notes what runs, so that a later reload, `config history` and a person can be told.
    pub async fn note(&self, changes: &[String]) {
        let running = self.running.lock().await;
        note(&running.factory, &running.files, changes);
    }

    /// Resolves when everything is to start anew.
    pub async fn again(&self) {
        let mut again = self.again.subscribe();
        let _ = again.wait_for(|again| *again).await;
    }

    /// Takes the files as they are now. Errors: why nothing changed.
    pub async fn take(&self, dry_run: bool) -> Result<Value, Refusal> {
        let Ok(mut running) = self.running.try_lock() else {
            return Err(Refusal::conflict("another reload is under way; ask again when it is done"));
        };
        if *self.again.borrow() {
            return Err(Refusal::conflict("everything starts anew already, with the files as they are then"));
        }
        let judged = tokio::task::block_in_place(|| judge(&self.paths, &running.factory, &self.engine))?;
        let Judged { factory, works, files, changes, touched, how, restarts } = judged;
        let taken = match (changes.is_empty(), restarts.is_empty()) {
            (true, _) => "nothing",
            (false, true) => "live",
            (false, false) => "restart",
        };
        let how: BTreeMap<&String, String> = how.iter().map(|(name, how)| (name, how.to_string())).collect();
        let answer =
            json!({ "changes": changes, "sources": how, "restarts_everything_because": restarts, "dry_run": dry_run, "taken": taken });
        if dry_run || taken == "nothing" {
            return Ok(answer);
        }
        if taken == "restart" {
            tracing::info!("taking changed files: {}; everything starts anew: {}", changes.join("; "), restarts.join("; "));
            self.again.send_replace(true);
            return Ok(answer);
        }
        tracing::info!("taking changed files: {}", changes.join("; "));
        let applied = self.engine.apply(works, &touched).await;
        if factory.alarms != running.factory.alarms || factory.floor != running.factory.floor {
            self.alarms.send_replace(Arc::new(alarm::Compiled::compile(&factory, &mut Problems::new())));
        }
        *running = Running { factory, files };
        note(&running.factory, &running.files, &changes);
        applied.map_err(|why| Refusal::failed(format!("the changed files are taken, but not all of them: {why}")))?;
        tracing::info!("the changed files are taken");
        Ok(answer)
    }

    /// Takes the files, and says in the messages what became of it.
    pub async fn take_and_tell(&self) {
        match self.take(false).await {
            Err(refusal) => tracing::error!("the changed files are not taken, what runs goes on\n{}", refusal.error),
            Ok(answer) if answer["taken"] == "nothing" => tracing::info!("told to take changed files: nothing is different"),
            Ok(_) => {}
        }
    }

    /// Takes the files whenever they have changed, and stay as they are for one look: an editor may still be writing.
    pub async fn watch(self: Arc<Self>) {
        let look = || async {
            let files: Vec<PathBuf> = self.running.lock().await.files.paths().map(Path::to_owned).collect();
            seen(&self.paths, &files)
        };
        let mut taken = look().await;
        let mut before = taken.clone();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = look().await;
            if now == before && now != taken {
                self.take_and_tell().await;
                taken = look().await;
            }
            before = now;
        }
    }

    /// What `alarms:` says, now and after each reload.
    pub fn alarms(&self) -> watch::Receiver<Arc<alarm::Compiled>> {
        self.alarms.subscribe()
    }

    /// What was named on the command line.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The factory as it runs.
    pub async fn factory(&self) -> Factory {
        self.running.lock().await.factory.clone()
    }
}

/// When and how long each file is, and what is in the folders named: what shows that something changed.
fn seen(paths: &[PathBuf], files: &[PathBuf]) -> BTreeMap<PathBuf, Option<(SystemTime, u64)>> {
    let mut seen = BTreeMap::new();
    let folders = paths.iter().filter(|path| path.is_dir()).cloned().chain(files.iter().filter_map(|path| Some(path.parent()?.to_owned())));
    let is_config = |path: &PathBuf| path.extension().is_some_and(|e| ["yaml", "yml", "csv"].iter().any(|known| e == *known));
    let folders = folders.map(|folder| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder });
    let listed = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten().map(|entry| entry.path());
    for path in listed.filter(is_config).chain(files.iter().cloned()) {
        let about = fs::metadata(&path).ok().and_then(|about| Some((about.modified().ok()?, about.len())));
        seen.insert(path, about);
    }
    seen
}

fn note(factory: &Factory, files: &ReadFiles, changes: &[String]) {
    let path = factory.data_dir.join(RUNNING);
    let unfinished = path.with_extension("yaml.new");
    let written = fs::write(&unfinished, millrace_config::expanded(factory)).and_then(|()| fs::rename(&unfinished, &path));
    if let Err(error) = written {
        tracing::warn!("cannot write {}: {error}; `millrace reload --dry-run` will not know what runs", path.display());
    }
    kept::keep(factory, files, changes);
}

/// What changed files change; an error where they can't be taken, with every problem.
fn judge(paths: &[PathBuf], running: &Factory, engine: &Engine) -> Result<Judged, Refusal> {
    let mut problems = Problems::new();
    let (factory, works, files) = kept::load(paths, &mut problems);
    let Some((factory, works)) = factory.zip(works) else {
        return Err(Refusal::invalid(problems.render(), problems.to_json()));
    };
    if factory.data_dir != running.data_dir {
        let why = "data_dir can't change while it runs; stop it, move the directory, start it";
        return Err(Refusal::invalid(why.to_owned(), Value::Null));
    }
    let mut changes = differences(&millrace_config::expanded(running), &millrace_config::expanded(&factory));
    let mut touched = Touched::default();
    let both = [
        ("source", &running.sources, &factory.sources, &mut touched.sources),
        ("sink", &running.sinks, &factory.sinks, &mut touched.sinks),
    ];
    for (what, old, new, touched) in both {
        for connector in new.iter().filter(|new| old.iter().any(|old| old.name == new.name && old != *new)) {
            touched.insert(connector.name.clone());
            // A secret is printed as its reference; that its text is another is seen here.
            if !changes.contains(&format!("{what} {} changes", connector.name)) {
                changes.push(format!("{what} {} has another secret", connector.name));
            }
        }
    }
    let mut restarts = foundations(running, &factory);
    for why in &restarts {
        if !changes.iter().any(|change| change.starts_with(why.split(' ').next().unwrap_or(why))) {
            changes.push(why.clone());
        }
    }
    let mut how = BTreeMap::new();
    for new in factory.sources.iter().filter(|new| touched.sources.contains(&new.name)) {
        let Some(old) = running.sources.iter().find(|old| old.name == new.name) else { continue };
        let taken = works.sources.iter().find(|spec| spec.name == new.name).map_or(&[][..], |spec| spec.compiled.in_place());
        let becomes = match in_place::judge(old, new, taken) {
            How::InPlace(_) if !engine.takes_changes(&new.name) => How::Restart("it does not run".to_owned()),
            becomes => becomes,
        };
        if matches!(becomes, How::InPlace(_)) {
            touched.in_place.insert(new.name.clone());
        }
        how.insert(new.name.clone(), becomes);
    }
    let obstacles = engine.obstacles(&works, &touched);
    // A schema's file is none of the factory's own: its change is seen in what was compiled.
    let schemas = obstacles.iter().filter(|why| matches!(why, Obstacle::AnotherSchema(_))).map(Obstacle::to_string);
    changes.extend(schemas);
    restarts.extend(obstacles.iter().map(Obstacle::to_string));
    for (name, topic) in &factory.topics {
        // Sinks that read a topic which was not declared before decode it otherwise from now on.
        if running.topics.get(name).is_some_and(|old| old.value != topic.value) {
            restarts.push(format!("topic {name} changes"));
        } else if !running.topics.contains_key(name) {
            let readers = works.sinks.iter().filter(|sink| sink.topics.iter().any(|pattern| fits(pattern, name)));
            touched.sinks.extend(readers.map(|sink| sink.name.clone()));
        }
    }
    Ok(Judged { factory, works, files, changes, touched, how, restarts })
}

fn fits(pattern: &str, topic: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == topic, |prefix| topic.starts_with(prefix))
}

/// What everything stands on, and is not as it was.
fn foundations(old: &Factory, new: &Factory) -> Vec<String> {
    let said = [
        ("site", old.site != new.site),
        ("levels", old.levels != new.levels),
        ("kafka", old.kafka != new.kafka),
        ("schemas", old.schemas != new.schemas),
        ("http", old.http != new.http),
        ("otlp", old.otlp != new.otlp),
        ("opcua_server", old.opcua_server != new.opcua_server),
        ("runtime", old.runtime != new.runtime),
        ("messages", old.messages != new.messages),
        ("log", old.log != new.log),
        ("clock", old.clock != new.clock),
        ("floor", old.floor != new.floor),
        ("defaults", old.defaults != new.defaults),
    ];
    said.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| format!("{section} changes")).collect()
}

/// What differs between two configurations in their expanded form: sections of the top level, sources, sinks and topics by name.
fn differences(old: &str, new: &str) -> Vec<String> {
    let parsed = |text: &str| Node::from_yaml(text, &mut Problems::new());
    let (Some(old), Some(new)) = (parsed(old), parsed(new)) else { return vec!["everything changes".to_owned()] };
    let mut changes = Vec::new();
    for (word, key) in [("source", "sources"), ("sink", "sinks"), ("topic", "topics")] {
        compare(old.get(key), new.get(key), &mut |name, verb| changes.push(format!("{word} {name} {verb}")));
    }
    let without = |node: &Node| node.take(&["sources", "sinks", "topics"]).1;
    compare(Some(&without(&old)), Some(&without(&new)), &mut |name, verb| changes.push(format!("{name} {verb}")));
    changes
}

fn compare(old: Option<&Node>, new: Option<&Node>, say: &mut impl FnMut(&str, &str)) {
    let entries = |node: Option<&Node>| node.map(|node| node.entries().to_vec()).unwrap_or_default();
    let (old, new) = (entries(old), entries(new));
    for entry in &new {
        match old.iter().find(|old| old.key == entry.key) {
            None => say(&entry.key, "is new"),
            Some(old) if old.value != entry.value => say(&entry.key, "changes"),
            Some(_) => {}
        }
    }
    for entry in old.iter().filter(|old| new.iter().all(|new| new.key != old.key)) {
        say(&entry.key, "goes");
    }
}

/// Exit code 1 where the files have a mistake, or nobody runs.
pub fn reload(options: Options) -> Result<ExitCode> {
    let paths = options.files.paths();
    let mut problems = Problems::new();
    let (factory, works) = check::load(&paths, &Load::to_check(), &mut problems);
    let Some((factory, _)) = factory.zip(works) else {
        if options.json {
            say::json(&json!({ "error": "the configuration is not taken; what runs goes on", "problems": problems.to_json() }));
        }
        tell_part!("{}", problems.render());
        bail!("the configuration is not taken; what runs goes on");
    };
    tell_service(&Service::of(paths), &factory.data_dir, options.dry_run, options.json)
}

/// Lets the running service take its files: over HTTP, else by a signal.
pub fn tell_service(service: &Service, data_dir: &Path, dry_run: bool, json: bool) -> Result<ExitCode> {
    let answer = service.open_as(TokenRole::Operator)?.post("/reload", &[("dry_run", dry_run.to_string())])?;
    let Some((code, answer)) = answer else { return signal(service, data_dir, dry_run, json) };
    if json {
        say::json(&answer);
    }
    if code != 200 {
        let error = answer["error"].as_str().unwrap_or("the service refused it");
        if !json {
            tell!("{}", error.lines().map(visible).collect::<Vec<_>>().join("\n"));
        }
        bail!("the configuration is not taken; what runs goes on");
    }
    if !json {
        let list = |key: &str| answer[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(visible).collect::<Vec<_>>();
        list("changes").iter().for_each(|change| say!("{change}"));
        for (name, how) in answer["sources"].as_object().into_iter().flatten() {
            say!("source {}: {}", visible(name), visible(how.as_str().unwrap_or_default()));
        }
        match (answer["taken"].as_str(), dry_run) {
            (Some("live"), true) => say!("only these would change; everything else would go on"),
            (Some("live"), false) => say!("taken: only these changed"),
            (Some("restart"), true) => say!("everything would start anew: {}", list("restarts_everything_because").join("; ")),
            (Some("restart"), false) => say!("taken: everything starts anew: {}", list("restarts_everything_because").join("; ")),
            _ => say!("nothing is different"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A service whose HTTP does not answer under the new address is told by a signal.
fn signal(service: &Service, data_dir: &Path, dry_run: bool, json: bool) -> Result<ExitCode> {
    let mut problems = Problems::new();
    let factory = millrace_config::load(&service.config, &Load::to_check(), &mut problems).context("the files are gone")?;
    let running = fs::read_to_string(data_dir.join(RUNNING))
        .with_context(|| format!("nothing runs in {}, or it is of an older release", data_dir.display()))?;
    let changes = differences(&running, &millrace_config::expanded(&factory));
    if json {
        say::json(&json!({ "changes": changes, "dry_run": dry_run }));
    } else {
        changes.iter().for_each(|change| say!("{change}"));
    }
    if !dry_run {
        let pid = process(data_dir)?;
        kill_process(pid, Signal::HUP).with_context(|| format!("cannot tell process {}", pid.as_raw_nonzero()))?;
        if !json {
            say!("told process {}; its messages say what becomes of it", pid.as_raw_nonzero());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Who has the data directory.
pub fn process(data_dir: &Path) -> Result<Pid> {
    let path = data_dir.join(LOCK);
    let text = fs::read_to_string(&path).with_context(|| format!("nothing runs in {}", data_dir.display()))?;
    let pid = text.trim().parse::<i32>().ok().and_then(Pid::from_raw);
    let pid = pid.with_context(|| format!("{} names no process", path.display()))?;
    // The file stays when a process ends; another program may have its number now.
    let is_ours = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()))
        .is_ok_and(|exe| exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("millrace")));
    if !is_ours {
        bail!("nothing runs in {}", data_dir.display());
    }
    Ok(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_told_by_name() {
        let old = "site: a/b\nlog: {size: 4GiB}\ntopics: {t: {format: json}}\nsources: {one: {type: x, rate: 1}, two: {type: x}}\n";
        let new = "site: a/b\nlog: {size: 5GiB}\ntopics: {t: {format: json}}\nsources: {one: {type: x, rate: 2}, three: {type: x}}\n";
        assert_eq!(differences(old, new), ["source one changes", "source three is new", "source two goes", "log changes"]);
        assert!(differences(old, old).is_empty());
    }

    #[test]
    fn a_changed_file_is_seen() {
        let dir = std::env::temp_dir().join(format!("millrace-seen-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("factory.yaml");
        fs::write(&file, "a").unwrap();
        let look = || seen(std::slice::from_ref(&dir), std::slice::from_ref(&file));
        let before = look();
        assert_eq!(look(), before);
        fs::write(dir.join("notes.txt"), "not ours").unwrap();
        assert_eq!(look(), before);
        fs::write(&file, "ab").unwrap();
        assert_ne!(look(), before);
        let before = look();
        fs::write(dir.join("more.yaml"), "").unwrap();
        assert_ne!(look(), before);
        fs::remove_dir_all(&dir).unwrap();
    }
}
