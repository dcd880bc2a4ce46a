//! `millrace schema`: the schemas of a factory's topics, and what its registry makes of them.

use crate::say::{self, say, tell};
use crate::{check, registry};
use anyhow::{Context, Result, anyhow, bail};
use millrace_config::{Load, Problems, Reason};
use millrace_engine::registrar::{as_registered, register};
use millrace_registry::difference::Reader;
use millrace_registry::{Client, Parsed, RegistryError, Schema as Registered, Verdict, Version};
use millrace_schemas::contract::Schema;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Lists the topics that have a schema, and what the registry holds of each.
    List(Which),
    /// Asks the registry whether it would take the schemas as they are now; registers nothing. Exit code 1 if it would not.
    Check(Which),
    /// Registers the schemas. `run` does so, too, when the first record is sent.
    Register(Which),
    /// Shows what changed since the registry's latest version, and whom it breaks.
    Diff(Which),
}

/// Which schemas.
#[derive(clap::Args)]
pub struct Which {
    /// The factory's YAML: says which topics there are, and where the registry is.
    #[arg(short, long = "config", required = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Only this topic's.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    #[arg(long)]
    json: bool,
}

/// The schema of a topic, and the subject under which it belongs.
struct Declared {
    topic: String,
    subject: String,
    schema: Arc<Schema>,
}

/// What the registry says of one.
struct Said {
    declared: Declared,
    latest: Option<Version>,
    /// Whether exactly this schema is one of the versions.
    registered: Option<i32>,
    verdict: Verdict,
    level: String,
    /// What breaks, for readers of the new schema and for readers of the latest version.
    breaks: Vec<(Reader, Vec<String>)>,
}

pub fn schema(command: Command) -> Result<ExitCode> {
    let (Command::List(which) | Command::Check(which) | Command::Register(which) | Command::Diff(which)) = &command;
    let mut problems = Problems::new();
    let (factory, works) = check::load(&which.config, &Load::to_run(), &mut problems);
    let Some((factory, works)) = factory.zip(works) else { bail!("cannot load the configuration\n{}", problems.render()) };
    let client = registry::client(&factory, factory.schemas.listen.0)?
        .ok_or_else(|| anyhow!("the factory has no schema registry; set `schemas: {{registry: http://..}}` or `embedded`"))?;
    let declared: Vec<Declared> = works
        .topics
        .all()
        .into_iter()
        .filter(|topic| which.topic.as_deref().is_none_or(|name| name == &*topic.name))
        .filter_map(|topic| {
            let schema = topic.schema.clone()?;
            Some(Declared { topic: topic.name.to_string(), subject: topic.subject.of(&topic.name, &schema.name), schema })
        })
        .collect();
    if let (Some(name), true) = (&which.topic, declared.is_empty()) {
        bail!("topic {name} has no schema; give it one under `topics:`");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        if let Command::Register(which) = &command {
            return registers(&client, declared, which.json).await;
        }
        let mut all = Vec::new();
        for one in declared {
            let topic = one.topic.clone();
            all.push(ask(&client, one).await.with_context(|| format!("topic {topic}"))?);
        }
        all.sort_by(|a, b| a.declared.topic.cmp(&b.declared.topic));
        if which.json {
            say::json(&all.iter().map(as_json).collect());
        } else if all.is_empty() {
            say!("no topic has a schema");
        } else {
            for said in &all {
                say!("{}", for_a_person(said, &command));
            }
        }
        let refused = matches!(command, Command::Check(_)) && all.iter().any(|said| !said.verdict.compatible);
        Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    })
}

async fn registers(client: &Client, declared: Vec<Declared>, json: bool) -> Result<ExitCode> {
    let mut refused = 0;
    for Declared { topic, subject, schema } in declared {
        match register(client, &subject, &schema).await {
            Ok(id) if json => say::json_line(&json!({"topic": topic, "subject": subject, "id": id})),
            Ok(id) => say!("{topic}: registered under {subject} with id {id}"),
            Err(error) => {
                refused += 1;
                tell!("{topic}: {error}");
            }
        }
    }
    Ok(if refused > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `None` where the registry does not know it.
fn known<T>(answer: Result<T, RegistryError>) -> Result<Option<T>, RegistryError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(RegistryError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn ask(client: &Client, declared: Declared) -> Result<Said> {
    let subject = &declared.subject;
    let latest = known(client.version(subject, None).await)?;
    let level = client.compatibility(subject).await?;
    // What it refers to may not be there yet; then it is new altogether, and there is nothing to compare.
    let registered_form = known(as_registered(client, &declared.schema).await)?;
    let (mut registered, mut verdict, mut breaks) = (None, Verdict { compatible: true, messages: Vec::new() }, Vec::new());
    if let Some(form) = &registered_form {
        registered = known(client.lookup(subject, form).await)?.map(|version| version.version);
        if registered.is_none() {
            verdict = client.check(subject, form).await?;
        }
        if let Some(latest) = latest.as_ref().filter(|_| registered.is_none()) {
            breaks = compare(client, form, latest).await?;
        }
    }
    Ok(Said { latest, registered, verdict, level, breaks, declared })
}

async fn compare(client: &Client, new: &Registered, latest: &Version) -> Result<Vec<(Reader, Vec<String>)>> {
    let (new_needs, old_needs) = (client.references(new).await?, client.references(&latest.schema).await?);
    let new = Parsed::parse(new, &new_needs).map_err(|why| anyhow!(why))?;
    let old = Parsed::parse(&latest.schema, &old_needs).map_err(|why| anyhow!("version {}: {why}", latest.version))?;
    let words = |reader, outcome: Result<Vec<millrace_registry::difference::Difference>, Reason>| {
        outcome.map_or_else(|why| vec![why.into()], |found| found.iter().map(|one| one.describe(reader)).collect())
    };
    Ok(vec![(Reader::New, words(Reader::New, new.cannot_read(&old))), (Reader::Old, words(Reader::Old, old.cannot_read(&new)))])
}

fn state(said: &Said) -> String {
    match (&said.latest, said.registered) {
        (None, _) => "not registered yet".to_owned(),
        (Some(latest), Some(version)) if version == latest.version => format!("registered, version {version}, id {}", latest.id),
        (Some(latest), Some(version)) => format!("registered as version {version}; the latest is {}", latest.version),
        (Some(latest), None) => format!("differs from version {}, id {}", latest.version, latest.id),
    }
}

fn for_a_person(said: &Said, command: &Command) -> String {
    let Declared { topic, subject, schema } = &said.declared;
    let mut out = format!("{topic}  ({:?}, subject {subject}, {}): {}", schema.kind, said.level, state(said));
    if !said.verdict.compatible {
        out += "\n  the registry refuses it";
    }
    let explains = !said.verdict.compatible || matches!(command, Command::Diff(_));
    if explains && !matches!(command, Command::List(_)) {
        for (reader, words) in &said.breaks {
            let (whom, what) = match reader {
                Reader::New => ("consumers with the new schema", "old records"),
                Reader::Old => ("consumers that still have the latest version", "new records"),
            };
            out += &match words.as_slice() {
                [] => format!("\n  {whom} can read {what}"),
                several => format!("\n  {whom} can't read {what}:\n    {}", several.join("\n    ")),
            };
        }
        if said.breaks.is_empty() {
            for message in &said.verdict.messages {
                out += &format!("\n    {message}");
            }
        }
    }
    out
}

fn as_json(said: &Said) -> Value {
    let breaks =
        |wanted| said.breaks.iter().filter(|(reader, _)| *reader == wanted).flat_map(|(_, words)| words.clone()).collect::<Vec<_>>();
    json!({
        "topic": said.declared.topic, "subject": said.declared.subject, "level": said.level,
        "latest": said.latest.as_ref().map(|latest| json!({"version": latest.version, "id": latest.id})),
        "registered": said.registered, "compatible": said.verdict.compatible, "messages": said.verdict.messages,
        "breaks_readers_of_the_new": breaks(Reader::New), "breaks_readers_of_the_latest": breaks(Reader::Old),
    })
}
