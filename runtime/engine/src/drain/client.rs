//! The producer with what belongs to it: topics made ready before their first record, and what each of them accepts.

use super::options::DrainOptions;
use super::reports::Mailbox;
use crate::{catalog, cursors, topics};
use millrace_kafka::{Admin, Class, KafkaError, Limits, Producer, Settings, Topic, TopicOutcome, TopicSpec, TransactionError};
use millrace_schemas::Micros;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long Kafka may take to answer a question about topics.
const ASK: Duration = Duration::from_secs(5);
/// As above, where the answer only says whether something is amiss.
const LOOK: Duration = Duration::from_secs(2);
/// How long `init_transactions` may take: another runtime's open transaction under the same id is aborted first.
const INIT: Duration = Duration::from_secs(30);
/// What a topic refused stays refused for, before it is asked again.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// Beyond this a transaction is aborted by Kafka itself.
pub(super) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) struct Client {
    pub producer: Producer,
    settings: Settings,
    /// Made with the first topic that nobody declared, and kept: connecting takes longer than making a topic.
    admin: Option<Admin>,
    declared: HashMap<String, TopicSpec>,
    topics: HashMap<Arc<str>, Ready>,
    seen: Seen,
    /// Topics that had to be made again since this was last asked.
    gone: Vec<String>,
}

/// Topics that were there in this run, whatever the client: one that has to be made again was gone.
pub(super) type Seen = Arc<Mutex<HashSet<String>>>;

/// A topic was there in this run, and had to be made again.
fn say_gone(name: &str) {
    tracing::error!(
        topic = name,
        "the topic was gone from Kafka, and is made again: what it held there is lost, what waits in the logs goes into the new one"
    );
}

/// What is known of a topic.
enum Ready {
    Yes(Gate),
    No(KafkaError, Instant),
}

/// A topic that may be sent to.
#[derive(Clone)]
pub(super) struct Gate {
    pub topic: Topic,
    limits: Limits,
}

impl Gate {
    /// The largest batch the topic takes, and so the largest record.
    pub fn max_message_bytes(&self) -> i64 {
        self.limits.max_message_bytes
    }

    /// Whether the topic takes a timestamp, by the clock of this machine.
    pub fn takes(&self, timestamp_ms: i64, now: Micros) -> bool {
        let now = now.as_millis();
        self.limits.log_append_time
            || (timestamp_ms >= 0
                && timestamp_ms <= now.saturating_add(self.limits.after_max_ms)
                && timestamp_ms >= now.saturating_sub(self.limits.before_max_ms))
    }
}

impl Client {
    /// Connects: declared topics are made, then the producer. Blocks while Kafka is asked. Also says which topics are not as declared.
    pub fn open(options: &DrainOptions, mailbox: Arc<Mailbox>, seen: Seen) -> Result<(Self, Vec<String>), KafkaError> {
        let mut specs = options.declared.clone();
        specs.push(cursors::spec());
        let (outcomes, limits) = {
            let admin = Admin::new(&options.settings, ASK)?;
            let outcomes = admin.ensure(&specs)?;
            let names: Vec<&str> = specs.iter().map(|s| s.name.as_str()).collect();
            (outcomes, admin.limits(&names)?)
        };
        if let Some(TopicOutcome::Refused(error)) = outcomes.last() {
            return Err(error.clone());
        }
        let settings = sized(&options.settings, &limits);
        let producer = match &options.transactions {
            None => Producer::new(&settings, mailbox)?,
            Some((id, _)) => {
                let producer = Producer::transactional(&settings, id, TRANSACTION_TIMEOUT, mailbox)?;
                let deadline = Instant::now() + INIT;
                loop {
                    match producer.init_transactions(ASK) {
                        Ok(()) => break,
                        Err(TransactionError::Retriable(_)) if Instant::now() < deadline => {}
                        Err(error) => return Err(error.error().clone()),
                    }
                }
                producer
            }
        };
        let declared = specs.iter().map(|spec| (spec.name.clone(), spec.clone())).collect();
        let mut client = Self { producer, settings, admin: None, declared, topics: HashMap::new(), seen, gone: Vec::new() };
        let mut contradictions = Vec::new();
        for ((spec, outcome), limits) in specs.iter().zip(outcomes).zip(limits) {
            contradictions.extend(say(spec, &outcome));
            client.note(&spec.name, &outcome);
            let ready = match outcome {
                TopicOutcome::Refused(error) => Ready::No(error, Instant::now()),
                _ => Ready::Yes(client.gate_of(&spec.name, limits)?),
            };
            client.topics.insert(spec.name.as_str().into(), ready);
        }
        Ok((client, contradictions))
    }

    /// Topics that a reload added; they are made at once where that is possible, else before their first record.
    pub fn declare(&mut self, specs: &[TopicSpec]) {
        for spec in specs {
            self.declared.insert(spec.name.clone(), spec.clone());
            if let Err(error) = self.gate(&spec.name) {
                tracing::warn!("cannot make a topic yet: {error}");
            }
        }
    }

    fn gate_of(&self, name: &str, limits: Limits) -> Result<Gate, KafkaError> {
        Ok(Gate { topic: self.producer.topic(name)?, limits })
    }

    /// Remembers that a topic is there; says so where it was gone.
    fn note(&mut self, name: &str, outcome: &TopicOutcome) {
        let is_new = match outcome {
            TopicOutcome::Refused(_) => return,
            TopicOutcome::Created | TopicOutcome::Exists(_) => self.seen.lock().insert(name.to_owned()),
        };
        if !is_new && *outcome == TopicOutcome::Created {
            say_gone(name);
            self.gone.push(name.to_owned());
        }
    }

    /// Topics that had to be made again since this was last asked.
    pub fn take_gone(&mut self) -> Vec<String> {
        std::mem::take(&mut self.gone)
    }

    /// A topic that was ready, and is not in the cluster any more. Blocks while Kafka is asked; one that does not answer says nothing.
    pub fn missing(&self) -> Option<String> {
        let there = self.producer.topics(LOOK).ok()?;
        let mut ready = self.topics.iter().filter(|(_, ready)| matches!(ready, Ready::Yes(_))).map(|(name, _)| name);
        ready.find(|name| !there.contains(&***name)).map(|name| name.to_string())
    }

    /// The way to a topic. One that nobody declared is made with the defaults before its first record.
    ///
    /// Errors: the topic is refused (class `Topic`), or Kafka can't be asked.
    pub fn gate(&mut self, name: &str) -> Result<Gate, KafkaError> {
        match self.topics.get(name) {
            Some(Ready::Yes(gate)) => return Ok(gate.clone()),
            Some(Ready::No(error, since)) if since.elapsed() < REFUSED_FOR => return Err(error.clone()),
            _ => {}
        }
        self.make(&[name])?;
        match &self.topics[name] {
            Ready::Yes(gate) => Ok(gate.clone()),
            Ready::No(error, _) => Err(error.clone()),
        }
    }

    /// Makes topics that are new here in one go: a thousand devices may each have their own. What goes wrong is said by [`Client::gate`].
    pub fn make_new(&mut self, names: &[(&str, u64)]) {
        let mut new: Vec<&str> = names.iter().map(|(name, _)| *name).filter(|name| !self.topics.contains_key(*name)).collect();
        new.sort_unstable();
        new.dedup();
        if new.len() > 1 {
            let _ = self.make(&new);
        }
    }

    fn admin(&mut self) -> Result<&Admin, KafkaError> {
        match &mut self.admin {
            Some(admin) => Ok(admin),
            none => Ok(none.insert(Admin::new(&self.settings, ASK)?)),
        }
    }

    /// Asks Kafka for topics, and notes of each whether it may be sent to.
    fn make(&mut self, names: &[&str]) -> Result<(), KafkaError> {
        let specs: Vec<TopicSpec> =
            names.iter().map(|name| self.declared.get(*name).cloned().unwrap_or_else(|| undeclared(name))).collect();
        let admin = self.admin()?;
        let outcomes = admin.ensure(&specs)?;
        let limits = admin.limits(names)?;
        for ((name, outcome), limits) in names.iter().zip(outcomes).zip(limits) {
            self.note(name, &outcome);
            let ready = match outcome {
                TopicOutcome::Refused(mut error) => {
                    // Whatever it is, it is about this topic: nobody else need wait.
                    if error.class != Class::Retry {
                        error.class = Class::Topic;
                    }
                    Ready::No(error, Instant::now())
                }
                _ => Ready::Yes(self.gate_of(name, limits)?),
            };
            self.topics.insert((*name).into(), ready);
        }
        Ok(())
    }

    /// A topic refused a record or a timestamp: what it accepts is asked again.
    pub fn forget(&mut self, name: &str) {
        self.topics.remove(name);
    }
}

/// A topic that nobody declared: the cluster's defaults.
/// Opens a transaction.
pub(super) fn begin(client: &Client) -> Result<(), KafkaError> {
    client.producer.begin().map_err(|error| error.error().clone())
}

/// Why a client that fails without a word is given up.
pub(super) fn gone(text: &str) -> KafkaError {
    KafkaError { code: 0, class: Class::Fatal, text: text.into() }
}

fn undeclared(name: &str) -> TopicSpec {
    let mut spec = TopicSpec { name: name.to_owned(), ..TopicSpec::default() };
    if name == catalog::TOPIC || name == topics::LATEST {
        spec.configs.insert("cleanup.policy".into(), "compact".into());
    }
    spec
}

/// Says what became of a declared topic; returned is what is not as declared.
fn say(spec: &TopicSpec, outcome: &TopicOutcome) -> Option<String> {
    match outcome {
        TopicOutcome::Created => {
            tracing::info!(topic = spec.name, "created");
            None
        }
        TopicOutcome::Exists(contradictions) if contradictions.is_empty() => None,
        TopicOutcome::Exists(contradictions) => {
            let list: Vec<String> = contradictions.iter().map(ToString::to_string).collect();
            let text = format!("topic {}: {}", spec.name, list.join(", "));
            tracing::warn!("not as declared: {text}; it is used as it is, change one or the other");
            Some(text)
        }
        TopicOutcome::Refused(error) => {
            tracing::error!("Kafka refuses a topic: {error}");
            Some(error.to_string())
        }
    }
}

/// A batch of librdkafka is refused as a whole, and never split: it stays below what the smallest topic takes; a single record may be
/// as large as the largest topic takes.
fn sized(settings: &Settings, limits: &[Limits]) -> Settings {
    // A tenth is left for what surrounds the records.
    let smallest = limits.iter().map(|l| l.max_message_bytes / 10 * 9).min().unwrap_or(1_000_000).clamp(1_000, 1_000_000);
    let largest = limits.iter().map(|l| l.max_message_bytes).max().unwrap_or(1_000_000).clamp(1_000_000, 1_000_000_000);
    let mut settings = settings.clone();
    for (name, value) in [("batch.size", smallest), ("message.max.bytes", largest)] {
        settings.properties.entry(name.into()).or_insert_with(|| value.to_string());
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_fits_the_smallest_topic_and_a_record_the_largest() {
        let limits = [20_000, 1_048_588, 16_000_000].map(|max_message_bytes| Limits { max_message_bytes, ..Limits::default() });
        let sized = sized(&Settings::new("b:1").with("linger.ms", "1"), &limits);
        assert_eq!((sized.properties["batch.size"].as_str(), sized.properties["message.max.bytes"].as_str()), ("18000", "16000000"));
    }
}
