//! Dead letters: what could not be delivered, with its bytes, its reason and the way it came; listed, shown and sent again.
//!
//! A dead letter is an ordinary record of the topic's dead-letter topic. Its headers are named as Kafka Connect names them:
//!
//! ```text
//! __connect.errors.topic               where it belongs
//! __connect.errors.partition, .offset  where it lay, if a sink refused it
//! __connect.errors.connector.name      who gave it up
//! __connect.errors.exception.message   why
//! millrace.route, .source, .seq        which way it came in, and its identity
//! millrace.payload.encoded             the payload is in the topic's format, a registry's prefix in front; else it is as it came
//! millrace.payload.cut                 the payload was too large for the dead letters, too: this is its beginning
//! ```
//!
//! - [`prepare`]: what is sent for a letter, in its topic's format.
//!
//! A replay sends it to the topic where it belongs, without the headers of its death. Command topics are refused: a command is never run
//! a second time.

pub mod prepare;

use millrace_kafka::{
    Admin, Consumer, Deliveries, KafkaError, Outgoing, Producer, Report, SendError, Settings, Topic, TopicOutcome, TopicPartition,
    TopicSpec,
};
use millrace_schemas::{headers, push_header};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a dead letter belongs.
pub const TOPIC: &str = "__connect.errors.topic";
/// Why it is one.
pub const REASON: &str = "__connect.errors.exception.message";
/// Who gave it up.
pub const CONNECTOR: &str = "__connect.errors.connector.name";
const PREFIX: &str = "__connect.errors.";
/// The payload is only a beginning.
pub const CUT: &str = "millrace.payload.cut";
/// The payload is what was to be sent, in the topic's format, not what came in.
pub const ENCODED: &str = "millrace.payload.encoded";
/// Where a replayed record lay among the dead letters.
pub const REPLAYED: &str = "millrace.replayed";
const PATIENCE: Duration = Duration::from_secs(30);

// ---- writing ------------------------------------------------------------------------------------------------------------------

/// A record that a sink refused.
pub struct Letter<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub connector: &'a str,
    pub reason: &'a str,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// In the layout of `millrace_schemas::headers`.
    pub headers: &'a [u8],
}

/// A producer for dead letters, made with the first one.
pub struct Letters {
    settings: Settings,
    producer: Option<Producer>,
    /// By name; each was there, or was made, before its first letter.
    topics: HashMap<String, Topic>,
    failures: Arc<Failures>,
    buffer: Vec<u8>,
}

/// The first failure since it was last asked for.
#[derive(Default)]
struct Failures(Mutex<Option<KafkaError>>);

impl Deliveries for Failures {
    fn reports(&self, reports: &[Report]) {
        if let Some(error) = reports.iter().find_map(|r| r.error.as_ref()) {
            self.0.lock().get_or_insert_with(|| (**error).clone());
        }
    }
}

impl Letters {
    pub fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), producer: None, topics: HashMap::new(), failures: Arc::default(), buffer: Vec::new() }
    }

    /// Hands a letter over; it is in Kafka after [`Letters::flush`].
    pub fn send(&mut self, dead_letter_topic: &str, letter: &Letter<'_>) -> Result<(), KafkaError> {
        self.buffer.clear();
        self.buffer.extend_from_slice(letter.headers);
        push_header(&mut self.buffer, TOPIC, Some(letter.topic.as_bytes()));
        push_header(&mut self.buffer, "__connect.errors.partition", Some(letter.partition.to_string().as_bytes()));
        push_header(&mut self.buffer, "__connect.errors.offset", Some(letter.offset.to_string().as_bytes()));
        push_header(&mut self.buffer, CONNECTOR, Some(letter.connector.as_bytes()));
        push_header(&mut self.buffer, REASON, Some(letter.reason.as_bytes()));
        let message = Outgoing { partition: None, key: letter.key, value: letter.value, timestamp_ms: 0, opaque: 0 };
        self.produce(dead_letter_topic, &message)
    }

    /// Sends the message with the headers in the buffer.
    fn produce(&mut self, topic: &str, message: &Outgoing<'_>) -> Result<(), KafkaError> {
        let producer = match &mut self.producer {
            Some(producer) => producer,
            none => none.insert(Producer::new(&self.settings, self.failures.clone())?),
        };
        let topic = match self.topics.get(topic) {
            Some(known) => known.clone(),
            None => {
                let spec = TopicSpec { name: topic.to_owned(), ..TopicSpec::default() };
                if let Some(TopicOutcome::Refused(error)) = Admin::new(&self.settings, PATIENCE)?.ensure(&[spec])?.pop() {
                    return Err(error);
                }
                let handle = producer.topic(topic)?;
                self.topics.insert(topic.to_owned(), handle.clone());
                handle
            }
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match producer.send(&topic, message, headers(&self.buffer)) {
                Ok(()) => return Ok(()),
                Err(SendError::Refused(error)) => return Err(error),
                Err(SendError::QueueFull) => producer.flush(deadline.saturating_duration_since(Instant::now()))?,
            }
        }
    }

    /// Waits until everything handed over is in Kafka.
    ///
    /// Errors: the first letter that Kafka did not take, or a timeout.
    pub fn flush(&mut self, timeout: Duration) -> Result<(), KafkaError> {
        let Some(producer) = &self.producer else { return Ok(()) };
        let outcome = producer.flush(timeout);
        if let Some(error) = self.failures.0.lock().take() {
            self.topics.clear();
            self.producer = None; // whatever else waits in it belongs to the same failed flush
            return Err(error);
        }
        outcome
    }
}

// ---- reading ------------------------------------------------------------------------------------------------------------------

/// A dead letter as it lies in Kafka.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The dead-letter topic, and where in it.
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl DeadLetter {
    /// The text of a header; the last one of that name counts.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().rev().find(|(n, _)| n == name)?;
        Some(String::from_utf8_lossy(value.as_deref()?).into_owned())
    }

    /// Its payload is what lay in its topic, or was on its way there; else it is as it came in.
    pub fn is_encoded(&self) -> bool {
        self.header("__connect.errors.partition").is_some() || self.header(ENCODED).is_some()
    }

    /// The topic where it belongs.
    pub fn belongs_to(&self) -> Option<String> {
        self.header(TOPIC)
    }

    pub fn reason(&self) -> String {
        self.header(REASON).unwrap_or_default()
    }

    /// `topic-partition@offset`: how `show` and `replay` name it.
    pub fn id(&self) -> String {
        format!("{}-{}@{}", self.topic, self.partition, self.offset)
    }
}

/// Which dead letters; what is `None` or empty does not matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// The topic where it belongs.
    pub belongs_to: Option<String>,
    /// A part of the connector's or source's name.
    pub source: Option<String>,
    /// A part of the reason.
    pub reason: Option<String>,
    /// Milliseconds since 1970.
    pub since_ms: Option<i64>,
    pub until_ms: Option<i64>,
    /// As [`DeadLetter::id`] gives them.
    pub ids: Vec<String>,
}

impl Filter {
    fn takes(&self, letter: &DeadLetter) -> bool {
        let holds = |part: &Option<String>, text: String| part.as_ref().is_none_or(|p| text.contains(p.as_str()));
        let source = || [CONNECTOR, "millrace.source"].map(|h| letter.header(h).unwrap_or_default()).join(" ");
        self.belongs_to.as_ref().is_none_or(|t| letter.belongs_to().as_ref() == Some(t))
            && (self.source.is_none() || holds(&self.source, source()))
            && (self.reason.is_none() || holds(&self.reason, letter.reason()))
            && self.since_ms.is_none_or(|at| letter.timestamp_ms >= at)
            && self.until_ms.is_none_or(|at| letter.timestamp_ms < at)
            && (self.ids.is_empty() || self.ids.contains(&letter.id()))
    }
}

/// The dead-letter topics of the cluster: those named `*.dead`, and those of `known` that exist.
pub fn topics(settings: &Settings, known: &[String]) -> Result<Vec<String>, KafkaError> {
    let reader = Consumer::reader(settings, true)?;
    let mut there = reader.topics(PATIENCE)?;
    there.retain(|t| t.ends_with(".dead") || known.contains(t));
    there.sort_unstable();
    Ok(there)
}

/// Hands every dead letter of these topics, as of now, to the closure, for as long as it asks for more (true); of one partition in order.
pub fn read(settings: &Settings, topics: &[String], filter: &Filter, mut each: impl FnMut(DeadLetter) -> bool) -> Result<(), KafkaError> {
    let reader = Consumer::reader(settings, true)?;
    for topic in topics {
        let count = reader.partitions(topic, PATIENCE)?;
        let (mut from, mut ends) = (Vec::new(), HashMap::new());
        for partition in 0..count as i32 {
            let part = TopicPartition::new(topic.as_str(), partition);
            let (low, high) = reader.watermarks(&part, PATIENCE)?;
            from.push((part.clone(), low));
            ends.insert(part, high);
        }
        let name: Arc<str> = topic.as_str().into();
        let mut more = true;
        reader.read_to(&from, &ends, PATIENCE, |message| {
            if !more {
                return;
            }
            let letter = DeadLetter {
                topic: name.clone(),
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp_ms(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.value().map(<[u8]>::to_vec),
                headers: message.headers().map(|(n, v)| (n.to_owned(), v.map(<[u8]>::to_vec))).collect(),
            };
            if filter.takes(&letter) {
                more = each(letter);
            }
        })?;
        if !more {
            break;
        }
    }
    Ok(())
}

/// Dead letters by dead-letter topic, where they belong and reason.
pub fn summary(settings: &Settings, topics: &[String], filter: &Filter) -> Result<BTreeMap<(String, String, String), u64>, KafkaError> {
    let mut counts = BTreeMap::new();
    read(settings, topics, filter, |letter| {
        let key = (letter.topic.to_string(), letter.belongs_to().unwrap_or_default(), letter.reason());
        *counts.entry(key).or_default() += 1;
        true
    })?;
    Ok(counts)
}

// ---- replay -------------------------------------------------------------------------------------------------------------------

/// What a replay did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    pub sent: u64,
    /// What was not sent, with the reason; the first hundred.
    pub refused: Vec<(String, String)>,
    pub refused_total: u64,
}

/// Sends dead letters to the topics where they belong. `commands`: the topics of commands, names or patterns with `*`.
/// `prepare` makes of a letter what its topic holds.
///
/// Errors: Kafka can't be read or written; what was sent before stays sent.
pub fn replay(
    settings: &Settings,
    topics: &[String],
    filter: &Filter,
    commands: &[String],
    mut prepare: impl FnMut(&str, &mut DeadLetter) -> Result<(), String>,
) -> Result<Replayed, KafkaError> {
    let mut out = Letters::new(settings);
    let mut replayed = Replayed::default();
    let mut failed = None;
    read(settings, topics, filter, |mut letter| {
        let ready = destination(&letter, commands).and_then(|topic| prepare(&topic, &mut letter).map(|()| topic));
        match ready {
            Err(reason) => {
                replayed.refused_total += 1;
                if replayed.refused.len() < 100 {
                    replayed.refused.push((letter.id(), reason));
                }
            }
            Ok(topic) => {
                out.buffer.clear();
                for (name, value) in letter.headers.iter().filter(|(name, _)| !name.starts_with(PREFIX) && name != ENCODED) {
                    push_header(&mut out.buffer, name, value.as_deref());
                }
                push_header(&mut out.buffer, REPLAYED, Some(letter.id().as_bytes()));
                let message = Outgoing {
                    partition: None,
                    key: letter.key.as_deref(),
                    value: letter.value.as_deref(),
                    timestamp_ms: letter.timestamp_ms,
                    opaque: 0,
                };
                if let Err(error) = out.produce(&topic, &message) {
                    failed = Some(error);
                    return false;
                }
                replayed.sent += 1;
            }
        }
        true
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    out.flush(PATIENCE)?;
    Ok(replayed)
}

/// Where a letter goes, or why it can't.
fn destination(letter: &DeadLetter, commands: &[String]) -> Result<String, String> {
    let topic =
        letter.belongs_to().filter(|t| !t.is_empty()).ok_or_else(|| format!("has no header {TOPIC}: it is no dead letter of ours"))?;
    if commands.iter().any(|pattern| matches(pattern, &topic)) {
        return Err(format!("belongs to the command topic {topic}: a command is never run again, send a new one"));
    }
    if letter.header(CUT).is_some() {
        return Err("holds only the beginning of its payload".to_owned());
    }
    Ok(topic)
}

/// Whether a name fits a pattern, in which `*` stands for any text.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(pieces.next().unwrap_or("")) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(headers: &[(&str, &str)]) -> DeadLetter {
        DeadLetter {
            topic: "orders.dead".into(),
            partition: 2,
            offset: 7,
            timestamp_ms: 1000,
            key: None,
            value: Some(b"{".to_vec()),
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), Some(v.as_bytes().to_vec()))).collect(),
        }
    }

    #[test]
    fn a_letter_goes_where_it_belongs_and_a_command_never_goes_again() {
        let orders = letter(&[(TOPIC, "orders"), (REASON, "not JSON")]);
        assert_eq!(destination(&orders, &["oven-commands".into()]), Ok("orders".into()));
        let command = letter(&[(TOPIC, "oven-commands")]);
        assert!(destination(&command, &["oven-commands".into()]).unwrap_err().contains("never run again"));
        assert!(destination(&command, &["oven-*".into()]).is_err());
        assert!(destination(&letter(&[]), &[]).unwrap_err().contains(TOPIC));
        assert!(destination(&letter(&[(TOPIC, "orders"), (CUT, "true")]), &[]).is_err());
    }

    #[test]
    fn a_filter_takes_what_fits_all_of_it() {
        let orders = letter(&[(TOPIC, "orders"), (REASON, "not JSON at byte 3"), (CONNECTOR, "acme/plant/mes")]);
        let fits = |filter: Filter| filter.takes(&orders);
        assert!(fits(Filter::default()));
        assert!(fits(Filter {
            belongs_to: Some("orders".into()),
            source: Some("mes".into()),
            reason: Some("JSON".into()),
            ..Filter::default()
        }));
        assert!(!fits(Filter { reason: Some("schema".into()), ..Filter::default() }));
        assert!(!fits(Filter { since_ms: Some(1001), ..Filter::default() }));
        assert!(!fits(Filter { until_ms: Some(1000), ..Filter::default() }));
        assert!(fits(Filter { ids: vec!["orders.dead-2@7".into()], ..Filter::default() }));
        assert!(!fits(Filter { ids: vec!["orders.dead-2@8".into()], ..Filter::default() }));
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, fits) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "abd", false),
            ("a*b*c", "a-b-c", true),
            ("a*aa", "aa", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
