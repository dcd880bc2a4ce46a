//! `millrace dead`: what became a dead letter, why, and back to where it belongs.

use anyhow::{Result, anyhow, bail};
use millrace_config::{Factory, Load, Period, Problems};
use millrace_engine::dead::prepare::Prepare;
use millrace_engine::dead::{self, DeadLetter, Filter};
use millrace_engine::topics::Topics;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Counts dead letters by topic and reason.
    List(Which),
    /// Shows dead letters with their reason, headers and payload.
    Show {
        #[command(flatten)]
        which: Which,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Sends dead letters to the topics where they belong, once more. Topics of commands are refused.
    Replay {
        #[command(flatten)]
        which: Which,
        /// Without it, what would be sent is only counted.
        #[arg(long)]
        yes: bool,
    },
}

/// Which dead letters.
#[derive(clap::Args)]
pub struct Which {
    /// The factory's YAML: says where Kafka is and which topics are declared.
    #[arg(short, long = "config", required = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Only those that belong to this topic.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only those of a connector whose name contains this.
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// Only those whose reason contains this.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only those not older than this: `30m`, `7d`.
    #[arg(long, value_name = "PERIOD")]
    since: Option<String>,
    /// One letter, as `show` names it: `orders.dead-0@17`. May be given several times.
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
    #[arg(long)]
    json: bool,
}

struct Letters {
    factory: Factory,
    settings: millrace_kafka::Settings,
    topics: Vec<String>,
    filter: Filter,
}

pub fn dead(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(which) => list(&which),
        Command::Show { which, limit } => show(&which, limit),
        Command::Replay { which, yes } => replay(&which, yes),
    }
}

fn open(which: &Which) -> Result<Letters> {
    let mut problems = Problems::new();
    let factory = millrace_config::load(&which.config, &Load::to_run(), &mut problems);
    let factory =
        factory.filter(|_| !problems.has_errors()).ok_or_else(|| anyhow!("cannot load the configuration\n{}", problems.render()))?;
    let settings = crate::service::settings(&factory);
    let known: Vec<String> = factory.topics.values().filter_map(|t| t.value.dead_letter.as_ref().map(|d| d.value.clone())).collect();
    let topics = dead::topics(&settings, &known)?;
    let since_ms = match &which.since {
        None => None,
        Some(text) => {
            let period: Period = text.parse().map_err(|e: String| anyhow!("--since {text}: {e}"))?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            Some(i64::try_from(now.saturating_sub(period.0).as_millis())?)
        }
    };
    let filter = Filter {
        belongs_to: which.topic.clone(),
        source: which.source.clone(),
        reason: which.reason.clone(),
        since_ms,
        until_ms: None,
        ids: which.ids.clone(),
    };
    Ok(Letters { factory, settings, topics, filter })
}

fn list(which: &Which) -> Result<ExitCode> {
    let letters = open(which)?;
    let summary = dead::summary(&letters.settings, &letters.topics, &letters.filter)?;
    if which.json {
        let rows: Vec<Value> = summary
            .iter()
            .map(|((topic, belongs_to, reason), count)| json!({"topic": topic, "belongs_to": belongs_to, "reason": reason, "count": count}))
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(ExitCode::SUCCESS);
    }
    if summary.is_empty() {
        println!("no dead letters in {} topics", letters.topics.len());
    }
    for ((topic, belongs_to, reason), count) in summary {
        println!("{count:>8}  {topic}  (belongs to {belongs_to})  {reason}");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(which: &Which, limit: usize) -> Result<ExitCode> {
    let letters = open(which)?;
    let contracts = Contracts::of(&letters.factory);
    let mut shown = 0;
    dead::read(&letters.settings, &letters.topics, &letters.filter, |letter| {
        println!("{}", if which.json { as_json(&letter, &contracts).to_string() } else { for_a_person(&letter, &contracts) });
        shown += 1;
        shown < limit
    })?;
    if shown == 0 && !which.json {
        println!("no dead letters fit, in {} topics", letters.topics.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn replay(which: &Which, yes: bool) -> Result<ExitCode> {
    let letters = open(which)?;
    if !yes {
        let count: u64 = dead::summary(&letters.settings, &letters.topics, &letters.filter)?.values().sum();
        println!("{count} dead letters would be sent to the topics where they belong; add --yes to do it");
        return Ok(ExitCode::SUCCESS);
    }
    let commands: Vec<String> = letters
        .factory
        .sinks
        .iter()
        .filter(|sink| sink.type_name.value == millrace_config::factory::COMMANDS)
        .flat_map(|sink| sink.sink_keys(&mut Problems::new()).0.map(|k| k.topics).unwrap_or_default())
        .map(|topic| topic.value)
        .collect();
    let contracts = Contracts::of(&letters.factory);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut prepare = Prepare::new(contracts.topics, crate::registry::client(&letters.factory, letters.factory.schemas.listen.0)?, tokio);
    let replayed =
        dead::replay(&letters.settings, &letters.topics, &letters.filter, &commands, |topic, letter| prepare.prepare(topic, letter))?;
    if which.json {
        println!("{}", json!({"sent": replayed.sent, "refused": replayed.refused_total, "reasons": replayed.refused}));
    } else {
        println!("{} sent, {} refused", replayed.sent, replayed.refused_total);
        for (id, reason) in &replayed.refused {
            println!("  {id}: {reason}");
        }
    }
    if replayed.refused_total > 0 {
        bail!("{} dead letters were not sent", replayed.refused_total);
    }
    Ok(ExitCode::SUCCESS)
}

/// What the topics' values are.
struct Contracts {
    topics: Topics,
    is_prefixed: bool,
}

impl Contracts {
    fn of(factory: &Factory) -> Self {
        let works = millrace_engine::compile::compile(factory, crate::catalog::ENTRIES, &mut Problems::new());
        Self { topics: works.topics, is_prefixed: factory.schemas.registry.value != "none" }
    }

    /// A letter's payload as text: as it came, or what its encoded form says.
    fn payload(&self, letter: &DeadLetter) -> Option<String> {
        let bytes = letter.value.as_deref()?;
        if !letter.is_encoded() {
            return Some(String::from_utf8_lossy(bytes).into_owned());
        }
        let topic = self.topics.get(&letter.belongs_to().unwrap_or_default());
        match crate::tap::understood(Some(bytes), &topic, self.is_prefixed) {
            Value::String(text) => Some(text),
            value => Some(value.to_string()),
        }
    }
}

fn as_json(letter: &DeadLetter, contracts: &Contracts) -> Value {
    let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|b| String::from_utf8_lossy(b).into_owned());
    let headers: Map<String, Value> = letter.headers.iter().map(|(name, value)| (name.clone(), json!(text(value)))).collect();
    json!({
        "id": letter.id(), "belongs_to": letter.belongs_to(), "reason": letter.reason(), "timestamp_ms": letter.timestamp_ms,
        "key": text(&letter.key), "headers": headers, "value": contracts.payload(letter),
    })
}

fn for_a_person(letter: &DeadLetter, contracts: &Contracts) -> String {
    let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or("null".to_owned(), |b| cut(&String::from_utf8_lossy(b), 400));
    let belongs_to = letter.belongs_to().unwrap_or_else(|| "?".to_owned());
    let mut out = format!("{}  (belongs to {belongs_to})\n  reason   {}\n  key      {}\n", letter.id(), letter.reason(), text(&letter.key));
    for name in ["millrace.route", "millrace.source", "millrace.seq", "__connect.errors.connector.name"] {
        if let Some(value) = letter.header(name) {
            out += &format!("  {:<8} {value}\n", name.rsplit('.').next().unwrap_or(name));
        }
    }
    let payload = contracts.payload(letter).map_or("null".to_owned(), |payload| cut(&payload, 400));
    out + &format!("  payload  {payload}")
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}... ({} bytes)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}
