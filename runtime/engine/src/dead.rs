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
//! millrace.payload.cut                 it was too large for the dead letters, too: this is the beginning of its key and payload
//! millrace.payload.file, .sha256       where the whole of it is kept, on the machine of its source
//! ```
//!
//! - [`prepare`]: what is sent for a letter, in its topic's format; [`again`]: a device's payload, decoded once more by its source.
//! - [`kept`]: records that are too large for the dead letters, in files.
//!
//! A replay sends it to the topic where it belongs, without the headers of its death, and leaves a mark in the dead-letter topic: a record with the
//! header `millrace.replayed` and no other, by which nothing is sent twice. Command topics are refused: a command is never run
//! a second time.

pub mod again;
pub mod kept;
pub mod prepare;

use crate::topics::SCHEMA_HEADER;
use millrace_config::Reason;
use millrace_contract::Reply;
use millrace_kafka::{
    Admin, Class, Consumer, Deliveries, KafkaError, Outgoing, Producer, Report, SendError, Settings, Topic, TopicOutcome, TopicPartition,
    TopicSpec,
};
use millrace_schemas::{headers, push_header};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a dead letter belongs.
pub const TOPIC: &str = "__connect.errors.topic";
/// Why it is one.
pub const REASON: &str = "__connect.errors.exception.message";
/// Who gave it up.
pub const CONNECTOR: &str = "__connect.errors.connector.name";
const PREFIX: &str = "__connect.errors.";
const PAYLOAD: &str = "millrace.payload.";
/// The payload is only a beginning.
pub const CUT: &str = "millrace.payload.cut";
/// The payload is what was to be sent, in the topic's format, not what came in.
pub const ENCODED: &str = "millrace.payload.encoded";
/// Where a replayed record lay among the dead letters.
pub const REPLAYED: &str = "millrace.replayed";
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a header says what only the engine may say: identity, and what became of a record.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.starts_with(PREFIX)
        || name.starts_with(PAYLOAD)
        || matches!(name, "millrace.source" | "millrace.seq" | "millrace.route" | REPLAYED | SCHEMA_HEADER)
}

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

/// What failed since it was last asked for: the first of each number that was given to a message.
#[derive(Default)]
struct Failures(Mutex<BTreeMap<u64, KafkaError>>);

impl Deliveries for Failures {
    fn reports(&self, reports: &[Report]) {
        for report in reports {
            if let Some(error) = &report.error {
                self.0.lock().entry(report.opaque).or_insert_with(|| (**error).clone());
            }
        }
    }
}

impl Letters {
    pub fn new(settings: &Settings) -> Self {
        let mut settings = settings.clone();
        // Whether a record is too large is for Kafka to say, of each topic; and one that is must not take others with it.
        for (name, value) in [("message.max.bytes", "1000000000"), ("batch.size", "900000")] {
            settings.properties.entry(name.into()).or_insert_with(|| value.to_owned());
        }
        Self { settings, producer: None, topics: HashMap::new(), failures: Arc::default(), buffer: Vec::new() }
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

    /// Hands over what a sink's target answered; it is in Kafka after [`Letters::flush`].
    pub fn reply(&mut self, reply: &Reply) -> Result<(), KafkaError> {
        self.buffer.clear();
        let message = Outgoing { partition: None, key: reply.key.as_deref(), value: Some(&reply.value), timestamp_ms: 0, opaque: 0 };
        self.produce(&reply.topic, &message)
    }

    /// Sends a letter to the topic where it belongs, without the headers of its death. `number`: what a failure of it is told under.
    pub(crate) fn send_again(&mut self, topic: &str, letter: &DeadLetter, number: u64) -> Result<(), KafkaError> {
        self.buffer.clear();
        for (name, value) in letter.headers.iter().filter(|(name, _)| !name.starts_with(PREFIX) && !name.starts_with(PAYLOAD)) {
            push_header(&mut self.buffer, name, value.as_deref());
        }
        push_header(&mut self.buffer, REPLAYED, Some(letter.id().as_bytes()));
        let (key, value) = (letter.key.as_deref(), letter.value.as_deref());
        self.produce(topic, &Outgoing { partition: None, key, value, timestamp_ms: letter.timestamp_ms, opaque: number })
    }

    /// Says in the dead-letter topic that a letter was replayed. With a key, which a compacted topic wants.
    fn mark(&mut self, topic: &str, id: &str) -> Result<(), KafkaError> {
        self.buffer.clear();
        push_header(&mut self.buffer, REPLAYED, Some(id.as_bytes()));
        self.produce(topic, &Outgoing { partition: None, key: Some(id.as_bytes()), value: Some(b""), timestamp_ms: 0, opaque: 0 })
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
                Err(SendError::Refused(error) | SendError::Doomed(error)) => return Err(error),
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
        let failed = std::mem::take(&mut *self.failures.0.lock());
        if let Some(error) = failed.into_values().next() {
            self.topics.clear();
            self.producer = None; // whatever else waits in it belongs to the same failed flush
            return Err(error);
        }
        outcome
    }

    /// As [`Letters::flush`]; which messages Kafka did not take, by their numbers. Errors: a timeout.
    fn flush_each(&mut self, timeout: Duration) -> Result<BTreeMap<u64, KafkaError>, KafkaError> {
        let outcome = self.producer.as_ref().map_or(Ok(()), |producer| producer.flush(timeout));
        let failed = std::mem::take(&mut *self.failures.0.lock());
        if failed.is_empty() {
            outcome?;
        }
        Ok(failed)
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

    /// Fetches what is kept in a file: key, headers and payload as they were to be sent.
    ///
    /// Errors: the file is on another machine, or not what was written there.
    fn make_whole(&mut self) -> Result<(), Reason> {
        if self.header(CUT).is_none() {
            return Ok(());
        }
        let (Some(path), Some(digest)) = (self.header(kept::FILE), self.header(kept::DIGEST)) else {
            return Err("holds only the beginning of its payload".into());
        };
        let bytes = kept::read(&path, &digest)?;
        let whole = kept::decode(&bytes).ok_or_else(|| format!("is kept in {path}, which is no record"))?;
        self.key = whole.key.map(<[u8]>::to_vec);
        self.value = whole.value.map(<[u8]>::to_vec);
        let own = whole.headers().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)));
        self.headers.retain(|(name, _)| name != CUT && !matches!(name.as_str(), "millrace.source" | "millrace.seq"));
        self.headers.extend(own);
        Ok(())
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
    /// `enterprise/site`: only those that its connectors gave up. A cluster may be another plant's, too.
    pub site: Option<String>,
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
        let is_of = |site: &String| {
            letter.header(CONNECTOR).is_some_and(|c| c.strip_prefix(site.as_str()).is_some_and(|rest| rest.starts_with('/')))
        };
        self.site.as_ref().is_none_or(is_of)
            && self.belongs_to.as_ref().is_none_or(|t| letter.belongs_to().as_ref() == Some(t))
            && (self.source.is_none() || holds(&self.source, source()))
            && (self.reason.is_none() || holds(&self.reason, letter.reason()))
            && self.since_ms.is_none_or(|at| letter.timestamp_ms >= at)
            && self.until_ms.is_none_or(|at| letter.timestamp_ms < at)
            && (self.ids.is_empty() || self.ids.contains(&letter.id()))
    }
}

/// The dead-letter topics of the cluster: those named `*.dead`, and those of `known` that exist. They may hold another plant's letters, too: see
/// [`Filter::site`].
pub fn topics(settings: &Settings, known: &[String]) -> Result<Vec<String>, KafkaError> {
    let reader = Consumer::reader(settings, true)?;
    let mut there = reader.topics(PATIENCE)?;
    there.retain(|t| t.ends_with(".dead") || known.contains(t));
    there.sort_unstable();
    Ok(there)
}

/// Hands every dead letter of these topics, as of now, to the closure, for as long as it asks for more (true); of one partition in order. Those
/// that were replayed are left out: a record with [`REPLAYED`] and nothing else says so.
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
        let mut replayed = HashSet::new();
        reader.read_to(&from, &ends, PATIENCE, |message| {
            if let Some(id) = mark_of(message.headers()) {
                replayed.insert(id);
            }
        })?;
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
            let is_open = !replayed.contains(&letter.id()) && mark_of(message.headers()).is_none();
            if is_open && filter.takes(&letter) {
                more = each(letter);
            }
        })?;
        if !more {
            break;
        }
    }
    Ok(())
}

/// The letter that a record says was replayed, if it says nothing else.
fn mark_of<'m>(headers: impl Iterator<Item = (&'m str, Option<&'m [u8]>)>) -> Option<String> {
    let mut mark = None;
    for (name, value) in headers {
        if name != REPLAYED {
            return None;
        }
        mark = value.map(|id| String::from_utf8_lossy(id).into_owned());
    }
    mark
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

/// Judges dead letters, and sends those that can go to the topics where they belong. `commands`: the topics of commands, names or patterns with `*`.
/// `prepare` makes of a letter what its topic holds, or several records of several topics. What Kafka does not take is refused with its reason, and
/// stays; what was sent is marked in the dead-letter topic once it is in Kafka, and not read again; between
/// the two a crash may have it sent twice.
///
/// Errors: Kafka can't be read or written; what was sent before stays sent.
pub fn replay(
    settings: &Settings,
    topics: &[String],
    filter: &Filter,
    commands: &[String],
    is_dry: bool,
    mut prepare: impl FnMut(&str, DeadLetter) -> Result<Vec<(String, DeadLetter)>, Reason>,
) -> Result<Replayed, KafkaError> {
    let mut out = Letters::new(settings);
    let mut replayed = Replayed::default();
    let mut failed = None;
    let mut marks: Vec<(Arc<str>, String)> = Vec::new();
    read(settings, topics, filter, |mut letter| {
        let (topic, id) = (letter.topic.clone(), letter.id());
        let ready =
            destination(&letter, commands).and_then(|topic| letter.make_whole().map(|()| topic)).and_then(|topic| prepare(&topic, letter));
        match ready {
            Err(reason) => replayed.refuse(id, reason.into()),
            Ok(_) if is_dry => replayed.sent += 1,
            Ok(records) => {
                let number = marks.len() as u64;
                for (to, record) in &records {
                    match out.send_again(to, record, number) {
                        Ok(()) => {}
                        Err(error) if matches!(error.class, Class::Record(_) | Class::Topic) => {
                            out.failures.0.lock().entry(number).or_insert(error);
                        }
                        Err(error) => {
                            failed = Some(error);
                            return false;
                        }
                    }
                }
                marks.push((topic, id));
            }
        }
        true
    })?;
    // What went before something failed is marked all the same: it is not sent twice.
    let not_taken = out.flush_each(PATIENCE)?;
    for (number, (topic, id)) in marks.into_iter().enumerate() {
        match not_taken.get(&(number as u64)) {
            Some(error) => replayed.refuse(id, format!("Kafka does not take it: {error}")),
            None => {
                out.mark(&topic, &id)?;
                replayed.sent += 1;
            }
        }
    }
    out.flush(PATIENCE)?;
    match failed {
        Some(error) => Err(error),
        None => Ok(replayed),
    }
}

impl Replayed {
    fn refuse(&mut self, id: String, reason: String) {
        self.refused_total += 1;
        if self.refused.len() < 100 {
            self.refused.push((id, reason));
        }
    }
}

/// Where a letter goes, or why it can't.
fn destination(letter: &DeadLetter, commands: &[String]) -> Result<String, Reason> {
    let topic =
        letter.belongs_to().filter(|t| !t.is_empty()).ok_or_else(|| format!("has no header {TOPIC}: it is no dead letter of ours"))?;
    // Whoever may write a letter must not write with our rights what says how far we are.
    if topic.starts_with("__") || topic.starts_with("millrace.") {
        return Err(format!("belongs to the topic {topic}, which only Kafka and Millrace themselves write").into());
    }
    if commands.iter().any(|pattern| matches(pattern, &topic)) {
        return Err(format!("belongs to the command topic {topic}: a command is never run again, send a new one").into());
    }
    Ok(topic)
}

/// Whether a name fits a pattern, in which `*` stands for any text.
pub fn matches(pattern: &str, name: &str) -> bool {
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
        for own in ["millrace.cursors", "__consumer_offsets"] {
            assert!(destination(&letter(&[(TOPIC, own)]), &[]).unwrap_err().contains("themselves write"));
        }
        assert!(destination(&letter(&[]), &[]).unwrap_err().contains(TOPIC));
        assert!(letter(&[(TOPIC, "orders"), (CUT, "true")]).make_whole().unwrap_err().contains("only the beginning"));
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
        assert!(fits(Filter { site: Some("acme/plant".into()), ..Filter::default() }));
        assert!(!fits(Filter { site: Some("acme/plan".into()), ..Filter::default() }), "another plant's");
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
