//! `millrace dead`: what became a dead letter, why, and back to where it belongs.

use crate::say::{self, json_bytes, say, time, visible, visible_bytes};
use anyhow::{Result, anyhow, bail};
use millrace_config::{Factory, Load, Period, Problems};
use millrace_engine::dead::again::Sources;
use millrace_engine::dead::prepare::Prepare;
use millrace_engine::dead::{self, DeadLetter, Filter};
use millrace_engine::topics::Topics;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
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
    /// Sends this plant's dead letters to the topics where they belong, each once. Topics of commands are refused.
    Replay {
        #[command(flatten)]
        which: Which,
        /// Without it nothing is sent: it is said what would be, and what would be refused.
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
    since: Option<Period>,
    /// One letter, as `show` names it: `orders.dead-0@17`. May be given several times.
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
    #[arg(long)]
    json: bool,
}

/// How many, and one reason as an example: by dead-letter topic, where they belong, and kind of reason.
type Kinds = BTreeMap<(String, String, String), (u64, String)>;

/// Dead letters that are looked for.
pub struct Letters {
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
    let since_ms = match &which.since {
        None => None,
        Some(period) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            Some(i64::try_from(now.saturating_sub(period.0).as_millis())?)
        }
    };
    let filter = Filter {
        site: Some(factory.site.to_string()),
        belongs_to: which.topic.clone(),
        source: which.source.clone(),
        reason: which.reason.clone(),
        since_ms,
        until_ms: None,
        ids: which.ids.clone(),
    };
    Letters::of(factory, filter)
}

impl Letters {
    /// Asks Kafka which dead-letter topics there are.
    pub fn of(factory: Factory, filter: Filter) -> Result<Self> {
        let settings = millrace_engine::cluster::settings(&factory);
        let known: Vec<String> = factory.topics.values().filter_map(|t| t.value.dead_letter.as_ref().map(|d| d.value.clone())).collect();
        let topics = dead::topics(&settings, &known)?;
        Ok(Self { factory, settings, topics, filter })
    }

    /// How many there are of each kind, and one of them as an example.
    pub fn kinds(&self) -> Result<Vec<Value>> {
        let rows = self.count()?.into_iter().map(|((topic, belongs_to, kind), (count, example))| {
            json!({"topic": topic, "belongs_to": belongs_to, "reason": kind, "example": example, "count": count})
        });
        Ok(rows.collect())
    }

    /// By topic, where they belong, and kind of reason.
    fn count(&self) -> Result<Kinds> {
        let mut kinds = Kinds::new();
        for ((topic, belongs_to, reason), count) in dead::summary(&self.settings, &self.topics, &self.filter)? {
            let row = kinds.entry((topic, belongs_to, kind_of(&reason))).or_insert_with(|| (0, reason));
            row.0 += count;
        }
        Ok(kinds)
    }

    /// The first ones, as JSON.
    pub fn shown(&self, limit: usize) -> Result<Vec<Value>> {
        let contracts = Contracts::of(&self.factory);
        let mut shown = Vec::new();
        dead::read(&self.settings, &self.topics, &self.filter, |letter| {
            shown.push(as_json(&letter, &contracts));
            shown.len() < limit
        })?;
        Ok(shown)
    }

    /// Sends them to where they belong; without `yes` it only says what would be sent.
    pub fn replay(&self, yes: bool) -> Result<dead::Replayed> {
        let sinks = self.factory.sinks.iter().filter(|sink| sink.type_name.value == millrace_config::factory::COMMANDS);
        let commands: Vec<String> = sinks
            .flat_map(|sink| sink.sink_keys(&mut Problems::new()).0.map(|k| k.topics).unwrap_or_default())
            .map(|topic| topic.value)
            .collect();
        let contracts = Contracts::of(&self.factory);
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // A dry run registers nothing.
        let registry = if yes { crate::registry::client(&self.factory, self.factory.schemas.listen.0)? } else { None };
        let mut prepare = Prepare::new(contracts.topics, contracts.samples, registry, tokio).with_sources(contracts.sources);
        let replayed =
            dead::replay(&self.settings, &self.topics, &self.filter, &commands, !yes, |topic, letter| prepare.prepare(topic, letter))?;
        Ok(replayed)
    }
}

fn list(which: &Which) -> Result<ExitCode> {
    let letters = open(which)?;
    if which.json {
        say::json(&letters.kinds()?.into());
        return Ok(ExitCode::SUCCESS);
    }
    let kinds = letters.count()?;
    if kinds.is_empty() {
        say!("no dead letters in {} topics", letters.topics.len());
    }
    for ((topic, belongs_to, kind), (count, example)) in kinds {
        say!("{count:>8}  {}  (belongs to {})  {}", visible(&topic), visible(&belongs_to), visible(&kind));
        if example != kind {
            say!("{:>8}  for example: {}", "", visible(&cut(&example, 200)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(which: &Which, limit: usize) -> Result<ExitCode> {
    let letters = open(which)?;
    let contracts = Contracts::of(&letters.factory);
    let mut shown = 0;
    dead::read(&letters.settings, &letters.topics, &letters.filter, |letter| {
        match which.json {
            true => say::json_line(&as_json(&letter, &contracts)),
            false => say!("{}", for_a_person(&letter, &contracts)),
        }
        shown += 1;
        shown < limit
    })?;
    if shown == 0 && !which.json {
        say!("no dead letters fit, in {} topics", letters.topics.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn replay(which: &Which, yes: bool) -> Result<ExitCode> {
    let letters = open(which)?;
    let replayed = letters.replay(yes)?;
    if !yes && !which.json {
        say!(
            "{} dead letters would be sent to the topics where they belong, {} refused; add --yes to do it",
            replayed.sent,
            replayed.refused_total
        );
        for (id, reason) in &replayed.refused {
            say!("  {id}: {}", visible(reason));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if which.json {
        say::json(&json!({"dry_run": !yes, "sent": replayed.sent, "refused": replayed.refused_total, "reasons": replayed.refused}));
    } else {
        say!("{} sent, {} refused", replayed.sent, replayed.refused_total);
        for (id, reason) in &replayed.refused {
            say!("  {id}: {}", visible(reason));
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
    /// Topics that hold samples.
    samples: HashSet<Arc<str>>,
    /// What decodes again what a device sent.
    sources: Sources,
    is_prefixed: bool,
}

impl Contracts {
    fn of(factory: &Factory) -> Self {
        let mut works = millrace_engine::compile::compile(factory, crate::catalog::ENTRIES, &mut Problems::new());
        let samples = works.sample_topics();
        let sources = Sources::of(&mut works);
        Self { samples, sources, topics: works.topics, is_prefixed: factory.schemas.registry.value != "none" }
    }

    /// A letter's payload: as it came, or what its encoded form says.
    fn payload(&self, letter: &DeadLetter) -> Option<Value> {
        let bytes = letter.value.as_deref()?;
        if !letter.is_encoded() {
            return Some(json_bytes(bytes));
        }
        let topic = self.topics.get(&letter.belongs_to().unwrap_or_default());
        Some(crate::tap::understood(Some(bytes), &topic, self.is_prefixed))
    }
}

fn as_json(letter: &DeadLetter, contracts: &Contracts) -> Value {
    let bytes = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(json_bytes);
    let headers: Map<String, Value> = letter.headers.iter().map(|(name, value)| (name.clone(), json!(bytes(value)))).collect();
    json!({
        "id": letter.id(), "belongs_to": letter.belongs_to(), "reason": letter.reason(), "timestamp_ms": letter.timestamp_ms,
        "time": time(letter.timestamp_ms.saturating_mul(1000)), "mqtt_topic": letter.header("mqtt.topic"),
        "key": bytes(&letter.key), "headers": headers, "value": contracts.payload(letter),
    })
}

fn for_a_person(letter: &DeadLetter, contracts: &Contracts) -> String {
    let text = |bytes: &Option<Vec<u8>>| bytes.as_deref().map_or("null".to_owned(), |bytes| cut(&visible_bytes(bytes), 400));
    let belongs_to = letter.belongs_to().unwrap_or_else(|| "?".to_owned());
    let mut out = format!(
        "{}  (belongs to {})\n  time     {}\n  reason   {}\n  key      {}\n",
        letter.id(),
        visible(&belongs_to),
        time(letter.timestamp_ms.saturating_mul(1000)),
        visible(&letter.reason()),
        text(&letter.key)
    );
    for name in ["mqtt.topic", "millrace.route", "millrace.source", "millrace.seq", "__connect.errors.connector.name"] {
        if let Some(value) = letter.header(name) {
            out += &format!("  {:<8} {}\n", name.rsplit('.').next().unwrap_or(name), visible(&value));
        }
    }
    let payload = match contracts.payload(letter) {
        None => "null".to_owned(),
        Some(Value::String(text)) => visible(&text),
        // Bytes that are not text.
        Some(value) if value.get("base64").is_some() && !letter.is_encoded() => {
            letter.value.as_deref().map_or_else(String::new, visible_bytes)
        }
        Some(value) => visible(&value.to_string()),
    };
    out + &format!("  payload  {}", cut(&payload, 400))
}

/// A reason without the values in it, so that one kind is counted once: quoted texts and numbers are left out.
fn kind_of(reason: &str) -> String {
    let mut kind = String::new();
    let mut rest = reason;
    while let Some(c) = rest.chars().next() {
        let quoted = matches!(c, '`' | '"').then(|| rest[1..].find(c)).flatten();
        if let Some(end) = quoted {
            kind.push(c);
            kind.push_str("..");
            kind.push(c);
            rest = &rest[end + 2..];
        } else if c.is_ascii_digit() && !kind.ends_with(|before: char| before.is_alphanumeric()) {
            kind.push('#');
            rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c == ',');
        } else {
            kind.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    kind
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}... ({} bytes)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_their_values_only_are_one_kind() {
        let kinds =
            ["value 17.5 is outside 0..10, and out_of_range is dead", "value 9000 is outside 0..10, and out_of_range is dead"].map(kind_of);
        assert_eq!(kinds[0], kinds[1]);
        assert_eq!(kind_of("`abc` is not a number"), "`..` is not a number");
        assert_eq!(kind_of("a ` alone, and é"), "a ` alone, and é");
        assert_eq!(kind_of("is not UTF-8"), "is not UTF-#");
    }
}
