//! The MQTT sink: each record of Kafka becomes one publish, within the broker's window.
//!
//! ```text
//! write   topic rendered ─> refused (a wildcard, an empty level, no key, too long), or PUBLISH on the wire, waiting while the window is full
//! flush   every PUBACK, PUBCOMP (QoS 0: every write) is there ─> durable below the offset after the last record
//! ```
//!
//! At least once: after a failure the engine begins behind the last commit, and the records since then are published again. The broker keeps no
//! session for a sink. A tombstone is published with an empty payload, which with `retain` clears the retained message of its topic.
//!
//! Between the engine's calls a task of the sink's own keeps the connection alive; dropping the sink ends it.

use crate::broker::{Broker, BrokerKeys};
use crate::packet::{self, Ack, AckKind, Message, Packet, Qos, Version, code_name};
use crate::payload::excerpt;
use crate::session::{Inbound, Opening, Session, Step};
use crate::topic::{LONGEST, Template};
use async_trait::async_trait;
use millrace_config::{Period, Problems, Reason, Spanned};
use millrace_contract::plugin;
use millrace_contract::{
    Context, Failure, Flush, Flushed, Guarantee, Input, Model, Offset, Partition, Plan, Plugin, Record, Records, Refused, Role, Sink,
};
use millrace_kit::groups::Beside;
use millrace_schemas::headers;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// An MQTT broker to publish to. It is part of the floor: `floor: {writes: allowed}`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkKeys {
    /// How many publishes may wait for their acknowledgement; never more than the broker allows.
    #[serde(default = "window")]
    pub window: Spanned<u16>,
    /// What to publish.
    pub publish: PublishConfig,
}

pub type SinkConfig = Beside<BrokerKeys, SinkKeys>;

fn window() -> Spanned<u16> {
    1000.into()
}

/// How a record becomes a message.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishConfig {
    /// The MQTT topic, with `{topic}`, `{key}`, `{partition}` and `{header:NAME}` of the record. A `/` in a value is a level.
    pub topic: Spanned<String>,
    /// Quality of service: 0, 1 (default) or 2.
    #[serde(default)]
    pub qos: Option<Spanned<u8>>,
    /// The broker keeps the last message of each topic; a tombstone clears it.
    #[serde(default)]
    pub retain: bool,
    /// The content type of the payload (MQTT 5).
    #[serde(default)]
    pub content_type: Option<Spanned<String>>,
    /// After how long the broker throws an undelivered message away (MQTT 5).
    #[serde(default)]
    pub expires: Option<Spanned<Period>>,
    /// User properties, with the same variables as `topic` (MQTT 5). One whose variable is missing in a record is left out.
    #[serde(default)]
    pub properties: Option<Spanned<BTreeMap<String, Spanned<String>>>>,
}

/// What stands in braces in the templates of `publish`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    Topic,
    Key,
    Partition,
    Header(Box<str>),
}

impl Variable {
    fn parse(name: &str) -> Result<Self, Reason> {
        match name {
            "topic" => Ok(Self::Topic),
            "key" => Ok(Self::Key),
            "partition" => Ok(Self::Partition),
            _ => match name.strip_prefix("header:") {
                Some(header) if !header.is_empty() => Ok(Self::Header(header.into())),
                _ => Err("unknown here; there are `{topic}`, `{key}`, `{partition}` and `{header:NAME}`".into()),
            },
        }
    }
}

/// `type: mqtt` among the sinks.
pub struct MqttSink;

impl Plugin for MqttSink {
    const TYPE: &'static str = "mqtt";
    const ROLE: Role = Role::Sink;
    type Config = SinkConfig;

    fn compile(config: SinkConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn plugin::Compiled>> {
        if !context.writes_allowed {
            problems
                .error(context.place, format!("sink `{}` publishes to the floor, and writes are forbidden", context.name))
                .help("write `floor: {writes: allowed}` at the top of the local file, or remove the sink");
        }
        let Beside { shared: keys, own: config } = config;
        let broker = keys.compile(context, problems);
        if config.window.value == 0 {
            problems.error(config.window.place, "`window` is from 1 to 65535");
        }
        let publish = &config.publish;
        let qos = match &publish.qos {
            None => Qos::AtLeastOnce,
            Some(bits) => Qos::from_bits(bits.value).unwrap_or_else(|| {
                problems.error(bits.place, format!("there is no QoS {}; there are 0, 1 and 2", bits.value));
                Qos::AtLeastOnce
            }),
        };
        let topic = template(&publish.topic, problems);
        if let Some(text) = topic.as_ref().and_then(Template::constant)
            && let Err(error) = check_topic(text)
        {
            problems.error(publish.topic.place, format!("the topic {error}"));
        }
        let is_v4 = broker.as_ref().is_some_and(|broker| broker.version == Version::V4);
        let five = [
            ("content_type", publish.content_type.as_ref().map(|value| value.place)),
            ("expires", publish.expires.as_ref().map(|value| value.place)),
            ("properties", publish.properties.as_ref().map(|value| value.place)),
        ];
        for (key, place) in five.into_iter().filter_map(|(key, place)| Some((key, place?))).filter(|_| is_v4) {
            problems.error(place, format!("`{key}` is part of mqtt 5, and `version` is 4")).help("remove it, or the version");
        }
        let mut properties = Vec::new();
        for (name, text) in publish.properties.iter().flat_map(|properties| &properties.value) {
            properties.push((name.as_str().into(), template(text, problems)?));
        }
        Some(Box::new(Publishing {
            broker: broker?,
            has_own_id: keys.client_id.is_some(),
            window: config.window.value,
            topic_text: publish.topic.value.clone(),
            topic: topic?,
            qos,
            retain: publish.retain,
            content_type: publish.content_type.as_ref().map(|value| value.value.clone()),
            expires_s: publish.expires.as_ref().map(|period| u32::try_from(period.0.as_secs().max(1)).unwrap_or(u32::MAX)),
            properties,
            topics: context.topics.clone(),
            model: Model::default(),
        }))
    }
}

fn template(text: &Spanned<String>, problems: &mut Problems) -> Option<Template<Variable>> {
    match Template::read(text, Variable::parse) {
        Ok(template) => Some(template),
        Err(error) => {
            problems.error(text.place, error);
            None
        }
    }
}

/// Whether a message can be published under this topic. Errors: why not, to stand after `topic`.
fn check_topic(topic: &str) -> Result<(), Reason> {
    let shown = excerpt(topic.as_bytes());
    if topic.is_empty() {
        Err("is empty".into())
    } else if let Some(wildcard) = topic.chars().find(|c| matches!(c, '+' | '#')) {
        Err(format!("`{shown}` holds the wildcard `{wildcard}`: it would be no topic but a filter").into())
    } else if topic.contains('\0') {
        Err(format!("`{shown}` holds a NUL character").into())
    } else if topic.split('/').any(str::is_empty) {
        Err(format!("`{shown}` has an empty level").into())
    } else if topic.starts_with('$') {
        Err(format!("`{shown}` begins with `$`: such topics are the broker's own").into())
    } else if topic.len() > LONGEST {
        Err(format!("`{shown}` has {} bytes, more than {LONGEST}", topic.len()).into())
    } else {
        Ok(())
    }
}

/// An MQTT sink that knows all it will do.
#[derive(Clone, Debug)]
struct Publishing {
    broker: Broker,
    has_own_id: bool,
    window: u16,
    topic_text: String,
    topic: Template<Variable>,
    qos: Qos,
    retain: bool,
    content_type: Option<String>,
    expires_s: Option<u32>,
    properties: Vec<(Box<str>, Template<Variable>)>,
    topics: Vec<String>,
    model: Model,
}

impl plugin::Compiled for Publishing {
    fn model(&self) -> &Model {
        &self.model
    }

    fn sink(&self) -> Option<Box<dyn Sink>> {
        Some(Box::new(Publisher { publishing: Arc::new(self.clone()), link: None, written: HashMap::new() }))
    }

    fn guarantee(&self) -> Guarantee {
        match self.qos {
            Qos::AtMostOnce => Guarantee::AtMostOnce("QoS 0: offsets are committed when the message is written to the socket".into()),
            _ => Guarantee::AtLeastOnce(
                "offsets are committed after the broker's acknowledgement; after a failure some are published again".into(),
            ),
        }
    }

    fn plan(&self) -> Plan {
        let retained = if self.retain { ", retained" } else { "" };
        let line = format!("publish {} as {} at QoS {}{retained}", self.topics.join(", "), self.topic_text, self.qos as u8);
        Plan { endpoint: self.broker.endpoint.to_string(), lines: vec![line], rate: None }
    }
}

/// How long `flush` waits for the broker's acknowledgements.
const ACKS_WITHIN: Duration = Duration::from_secs(30);
/// So many bytes may wait to be written before `write` waits.
const BACKLOG_BYTES: usize = 256 * 1024;

struct Publisher {
    publishing: Arc<Publishing>,
    link: Option<Kept>,
    /// The offset after the last record written, of each partition.
    written: HashMap<Partition, Offset>,
}

/// A connection, and the task that keeps it alive between calls.
struct Kept {
    link: Arc<Mutex<Link>>,
    keeper: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// An open connection and what is on its way.
struct Link {
    session: Session,
    window: usize,
    in_flight: HashMap<u16, InFlight>,
    next_id: u16,
    refused: Vec<Refused>,
    /// Why the connection ended while nobody called.
    failed: Option<Failure>,
}

struct InFlight {
    partition: Partition,
    offset: Offset,
    topic: String,
}

impl Publisher {
    async fn link(&mut self) -> Result<Arc<Mutex<Link>>, Failure> {
        if let Some(kept) = &self.link {
            return Ok(kept.link.clone());
        }
        let publishing = &self.publishing;
        let broker = &publishing.broker;
        let client_id = match publishing.has_own_id {
            true => broker.client_id.clone(),
            false => format!("{}-{:08x}", broker.client_id, fastrand::u32(..)),
        };
        let opening = Opening {
            endpoint: broker.endpoint.clone(),
            tls: broker.tls.clone(),
            version: broker.version,
            client_id,
            login: broker.login.clone(),
            keep_alive: broker.keep_alive,
            clean_start: true,
            session_expiry: Duration::ZERO,
            receive_maximum: u16::MAX,
            max_packet: 0,
            will: None,
            answered: broker.answered.clone(),
        };
        let session = Session::open(&opening).await?;
        let connack = &session.connack;
        if connack.maximum_qos < publishing.qos {
            let (most, wanted) = (connack.maximum_qos as u8, publishing.qos as u8);
            return Err(Failure::Blocked(format!("{} takes at most QoS {most}; set `qos: {most}` instead of {wanted}", broker.endpoint)));
        }
        if publishing.retain && !connack.retain_available {
            return Err(Failure::Blocked(format!("{} keeps no retained messages; remove `retain`", broker.endpoint)));
        }
        let window = publishing.window.min(connack.receive_maximum) as usize;
        let link = Link { session, window, in_flight: HashMap::new(), next_id: 0, refused: Vec::new(), failed: None };
        let link = Arc::new(Mutex::new(link));
        let keeper = tokio::spawn(keep(link.clone(), broker.keep_alive / 8));
        self.link = Some(Kept { link: link.clone(), keeper });
        Ok(link)
    }

    /// The topic and the properties of a record's message. Errors: why it is refused.
    fn render(&self, records: &Records, record: &Record, properties: &mut Vec<u8>) -> Result<String, Reason> {
        let publishing = &self.publishing;
        let value = |variable: &Variable, out: &mut Vec<u8>| value(variable, records, record, out);
        let mut topic = Vec::new();
        publishing.topic.fill(&mut topic, value)?;
        let topic =
            String::from_utf8(topic).map_err(|_| "the topic would be no UTF-8 text: the key or a header holds other bytes".to_owned())?;
        check_topic(&topic).map_err(|error| format!("the topic {error}"))?;
        if let Some(content_type) = &publishing.content_type {
            packet::push_text_property(properties, packet::CONTENT_TYPE, content_type);
        }
        if let Some(seconds) = publishing.expires_s {
            packet::push_message_expiry(properties, seconds);
        }
        let mut text = Vec::new();
        for (name, template) in &publishing.properties {
            text.clear();
            if template.fill(&mut text, value).is_ok()
                && let Ok(text) = std::str::from_utf8(&text)
            {
                packet::push_user_property(properties, name, text);
            }
        }
        Ok(topic)
    }
}

fn value(variable: &Variable, records: &Records, record: &Record, out: &mut Vec<u8>) -> Result<(), Reason> {
    match variable {
        Variable::Topic => out.extend_from_slice(records.partition(record).topic.as_bytes()),
        Variable::Partition => drop(write!(out, "{}", records.partition(record).partition)),
        Variable::Key => match record.key {
            Some(key) => out.extend_from_slice(records.of(key)),
            None => return Err("the record has no key for `{key}`".into()),
        },
        Variable::Header(name) => match headers(records.of(record.headers)).find(|(key, _)| *key == &**name) {
            Some((_, Some(value))) => out.extend_from_slice(value),
            _ => return Err(format!("the record has no header `{name}` for `{{header:{name}}}`").into()),
        },
    }
    Ok(())
}

#[async_trait]
impl Sink for Publisher {
    fn input(&self) -> Input {
        Input::Raw
    }

    fn flush_every(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure> {
        self.link().await?;
        Ok(vec![None; parts.len()])
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        let link = self.link().await?;
        let mut link = link.lock().await;
        link.check()?;
        let publishing = self.publishing.clone();
        let mut properties = Vec::new();
        for record in &records.records {
            let partition = records.partition(record);
            properties.clear();
            let rendered = self.render(records, record, &mut properties);
            match self.written.get_mut(partition) {
                Some(next) => *next = record.offset + 1,
                None => drop(self.written.insert(partition.clone(), record.offset + 1)),
            }
            let payload = record.value.map_or(&[][..], |value| records.of(value));
            let published = match &rendered {
                Err(reason) => Err(reason.clone()),
                Ok(topic) => {
                    let message = Message { topic, payload, qos: publishing.qos, retain: publishing.retain, properties: &properties };
                    link.publish(&message, partition, record.offset).await?
                }
            };
            if let Err(reason) = published {
                link.refused.push(Refused { partition: partition.clone(), offset: record.offset, reason: reason.into() });
            }
        }
        while let Step::Read = link.session.write_or_read().await? {
            link.take_in()?;
        }
        Ok(std::mem::take(&mut link.refused))
    }

    async fn flush(&mut self, why: Flush) -> Result<Flushed, Failure> {
        let Some(kept) = &self.link else { return Ok(Flushed::default()) };
        let shared = kept.link.clone();
        let mut link = shared.lock().await;
        link.check()?;
        match tokio::time::timeout(ACKS_WITHIN, link.all_acknowledged()).await {
            Ok(done) => done?,
            Err(_) => {
                let (count, endpoint) = (link.in_flight.len(), &link.session.line.endpoint);
                return Err(Failure::Reconnect(format!("{endpoint} did not acknowledge {count} messages within {ACKS_WITHIN:?}")));
            }
        }
        let flushed = Flushed { below: self.written.drain().collect(), refused: std::mem::take(&mut link.refused), ..Flushed::default() };
        drop(link);
        if why == Flush::Stop {
            self.link = None;
            // The keeper may hold it for a moment; then the connection ends without a goodbye, which a clean session does not need.
            if let Ok(link) = Arc::try_unwrap(shared) {
                link.into_inner().session.close(0, None).await;
            }
        }
        Ok(flushed)
    }

    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        self.written.retain(|partition, _| !parts.contains(partition));
        Ok(())
    }
}

impl Link {
    fn check(&mut self) -> Result<(), Failure> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Puts a message on its way, waiting for the window. The inner error: why the broker would never take it.
    async fn publish(&mut self, message: &Message<'_>, partition: &Partition, offset: Offset) -> Result<Result<(), Reason>, Failure> {
        let len = packet::publish_len(self.session.version, message);
        let most = self.session.connack.maximum_packet.map_or(packet::LARGEST, |max| max as usize);
        if len.saturating_add(5) > most {
            return Ok(Err(format!("the message would have {len} bytes, and {} takes at most {most}", self.session.line.endpoint).into()));
        }
        while self.in_flight.len() >= self.window || self.session.line.backlog() > BACKLOG_BYTES {
            self.advance().await?;
        }
        let mut id = 0;
        if message.qos != Qos::AtMostOnce {
            id = self.free_id();
            self.in_flight.insert(id, InFlight { partition: partition.clone(), offset, topic: message.topic.to_owned() });
        }
        packet::write_publish(&mut self.session.line.out, self.session.version, message, id);
        Ok(Ok(()))
    }

    fn free_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.contains_key(&self.next_id) {
                return self.next_id;
            }
        }
    }

    /// Waits for the broker: writes what waits, takes in what comes.
    async fn advance(&mut self) -> Result<(), Failure> {
        let step = match self.session.line.is_written() {
            true => self.session.alongside(true, std::future::pending::<()>()).await?,
            false => self.session.write_or_read().await?,
        };
        match step {
            Step::Read => self.take_in(),
            Step::Done(()) => Ok(()),
        }
    }

    async fn all_acknowledged(&mut self) -> Result<(), Failure> {
        while !self.in_flight.is_empty() || !self.session.line.is_written() {
            self.advance().await?;
        }
        Ok(())
    }

    fn take_in(&mut self) -> Result<(), Failure> {
        loop {
            let version = self.session.version;
            let ack = match self.session.inbox.next(version) {
                Ok(None) => return Ok(()),
                Ok(Some(Inbound::Packet(Packet::Ack(ack)))) => ack,
                Ok(Some(Inbound::Packet(Packet::Disconnect(disconnect)))) => {
                    return Err(self.session.disconnected(&disconnect, "of this sink"));
                }
                Ok(Some(_)) => continue,
                Err(error) => return Err(self.session.no_mqtt(error)),
            };
            let Ack { kind, id, code, reason } = ack;
            let reason = reason.map(str::to_owned);
            match kind {
                AckKind::Pubrec if code < 0x80 => packet::write_ack(&mut self.session.line.out, AckKind::Pubrel, id),
                AckKind::Pubrel => {}
                AckKind::Puback | AckKind::Pubrec | AckKind::Pubcomp => {
                    let Some(done) = self.in_flight.remove(&id) else { continue };
                    // 0x92: the broker forgot a PUBREL's identifier, because it has passed the message on.
                    if code >= 0x80 && code != 0x92 {
                        self.refusal(done, code, reason)?;
                    }
                }
            }
        }
    }

    /// What a reason code means: the record is refused, or the whole sink has to wait.
    fn refusal(&mut self, done: InFlight, code: u8, said: Option<String>) -> Result<(), Failure> {
        let endpoint = &self.session.line.endpoint;
        let said = said.map_or_else(String::new, |said| format!(", it says: {said}"));
        if code == 0x97 {
            let cause = format!("{endpoint} takes no more messages: {}{said}", code_name(code));
            return Err(Failure::RetryAfter(Duration::from_secs(10), cause));
        }
        let reason = format!("{endpoint} refuses the message on {}: {}{said}", done.topic, code_name(code));
        self.refused.push(Refused { partition: done.partition, offset: done.offset, reason });
        Ok(())
    }
}

/// Keeps the connection alive while the engine does not call.
async fn keep(link: Arc<Mutex<Link>>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let mut link = link.lock().await;
        if link.failed.is_some() {
            return;
        }
        let moment = tokio::time::sleep(Duration::from_millis(20));
        let result = match link.session.alongside(true, moment).await {
            Ok(Step::Read) => link.take_in(),
            Ok(Step::Done(())) => Ok(()),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = result {
            link.failed = Some(failure);
            return;
        }
    }
}
