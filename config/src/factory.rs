//! The factory as the runtime takes it: typed where every factory is the same, nodes where the connectors know better.

use crate::files::{self, Files};
use crate::name;
use crate::node::{Node, Spanned};
use crate::place::Place;
use crate::problem::Problems;
use crate::units::{ByteSize, KeepFree, Listen, Percent, Period, Secret};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One factory: everything its YAML says, templates expanded, references resolved.
#[derive(Clone, Debug)]
pub struct Factory {
    /// `enterprise/site`.
    pub site: Spanned<String>,
    /// Names of the parts of `at`.
    pub levels: Vec<String>,
    pub data_dir: PathBuf,
    pub kafka: Kafka,
    pub schemas: Schemas,
    pub http: Http,
    pub messages: Messages,
    pub log: Log,
    pub clock: Clock,
    pub floor: Floor,
    pub topics: IndexMap<String, Spanned<Topic>>,
    /// Tag options for every source, still a node; `None` where the file says nothing.
    pub defaults: Option<Node>,
    pub sources: Vec<Connector>,
    pub sinks: Vec<Connector>,
    /// The tree without sources and sinks, for [`expanded`](crate::expanded).
    pub(crate) head: Node,
    /// Where the files came from, for those that are named in it.
    pub(crate) files: Arc<dyn Files>,
}

/// A schema's file may be this long.
const NAMED_MAX: usize = 16 << 20;

impl Factory {
    /// Reads a text file that a value names, relative to the file the value stands in. `name` may lead on from there: a file beside that one.
    ///
    /// Returns its path and its text. Errors: what the file system says, in a person's words.
    pub fn read_named(&self, value: Place, name: &str, problems: &Problems) -> Result<(PathBuf, String), String> {
        let folder = Path::new(problems.places.file_of(value)).parent().unwrap_or(Path::new(""));
        let path = files::tidy(&folder.join(name));
        let bytes =
            self.files.read(&path, NAMED_MAX).map_err(|error| format!("cannot read {}: {}", path.display(), files::cause(&error)))?;
        if bytes.len() > NAMED_MAX {
            return Err(format!("{} is larger than {} MiB", path.display(), NAMED_MAX >> 20));
        }
        let text = String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8 text", path.display()))?;
        Ok((path, text))
    }
}

/// The top level of a factory's file, for the schema and the reference.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "each key is parsed by itself, so that one wrong section leaves the others standing")]
pub(crate) struct File {
    /// Enterprise and site, `acme/detroit`: the first levels of every tag's path.
    site: String,
    /// Names of the parts of `at`: `[area, line, cell]`. Any depth.
    #[schemars(default)]
    levels: Vec<String>,
    /// More files, relative to this one: `[presses/*.yaml]`. The same name twice is an error that names both lines.
    #[schemars(default)]
    include: Vec<String>,
    /// Where logs, checkpoints and certificates are kept.
    #[schemars(default = "data_dir")]
    data_dir: String,
    /// Kafka: where the records go.
    #[schemars(default)]
    kafka: Kafka,
    /// The schema registry.
    #[schemars(default)]
    schemas: Schemas,
    /// Millrace's own HTTP: console, REST, metrics, health.
    #[schemars(default)]
    http: Http,
    /// What Millrace says about itself on standard error.
    #[schemars(default)]
    messages: Messages,
    /// The durable log between intake and Kafka.
    #[schemars(default)]
    log: Log,
    /// How far a device's clock may be off before its time is not believed.
    #[schemars(default)]
    clock: Clock,
    /// What may be written to devices. Neither the environment nor REST can change it.
    #[schemars(default)]
    floor: Floor,
    /// The contract of each topic: format, schema, what happens to what does not fit. A topic that is not here is JSON without a schema.
    #[schemars(default)]
    topics: BTreeMap<String, Topic>,
    /// Options of every tag, where no template, source, device, group or tag says otherwise.
    #[schemars(default)]
    defaults: Option<Node>,
    /// Pieces of a source or of a device, with parameters: `use` and `with` put them to work.
    #[schemars(default)]
    templates: Option<Node>,
    /// CSV tables of sources; columns: `name`, `use`, `at`, `enabled`, one per parameter of the template, and any key of a source.
    #[schemars(default)]
    sources_from: Option<Node>,
    /// Where data comes from, by name.
    #[schemars(default)]
    sources: Option<Node>,
    /// Where Kafka's topics go, by name.
    #[schemars(default)]
    sinks: Option<Node>,
}

fn data_dir() -> String {
    crate::settings::DATA_DIR.into()
}

impl File {
    pub const KEYS: [&'static str; 17] = [
        "site",
        "levels",
        "include",
        "data_dir",
        "kafka",
        "schemas",
        "http",
        "messages",
        "log",
        "clock",
        "floor",
        "topics",
        "defaults",
        "templates",
        "sources_from",
        "sources",
        "sinks",
    ];
}

/// One source or sink, merged from its templates. Two are equal when they say the same, wherever they stand: what a reload need not touch.
#[derive(Clone, Debug)]
pub struct Connector {
    pub name: String,
    /// Where its name stands.
    pub place: Place,
    /// `type:`; of a sink with `source:`, which has none, [`COMMANDS`].
    pub type_name: Spanned<String>,
    pub enabled: bool,
    /// All its keys, common ones too; `use` and `with` are gone.
    pub node: Node,
}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.node == other.node
    }
}

/// The type name of a sink that sends commands through a source's own connection (`source:` instead of `type:`).
pub const COMMANDS: &str = "commands";

/// Kafka: where the records go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// `host:port,host:port`, or `embedded` for the broker inside Millrace.
    pub brokers: Spanned<String>,
    /// The embedded broker's own settings.
    pub embedded: EmbeddedBroker,
    /// What Kafka's consumers see after a crash: repeats with the same identity, or each record once.
    pub delivery: Delivery,
    /// How often a transaction commits, with `exactly_once`.
    pub commit: Period,
    /// Properties of librdkafka, passed through: TLS, logins, compression.
    pub properties: IndexMap<String, Spanned<String>>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: Spanned::from("localhost:9092".to_owned()),
            embedded: EmbeddedBroker::default(),
            delivery: Delivery::AtLeastOnce,
            commit: Period::from_millis(100),
            properties: IndexMap::new(),
        }
    }
}

/// The embedded broker's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedBroker {
    /// Where its clients connect.
    pub listen: Listen,
    /// What a power cut may take; `0s`: what is acknowledged with `acks=all` is synced before.
    pub sync: Period,
    /// The broker's certificate: wanted when it listens anywhere but on loopback.
    pub tls: Option<BrokerTls>,
    /// Who may log in (PLAIN or SCRAM), and with which password: wanted when it listens anywhere but on loopback.
    pub users: IndexMap<String, Secret>,
}

impl Default for EmbeddedBroker {
    fn default() -> Self {
        Self { listen: Listen(([127, 0, 0, 1], 9092).into()), sync: Period::from_millis(200), tls: None, users: IndexMap::new() }
    }
}

/// The certificate that the embedded broker shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BrokerTls {
    /// PEM file: the certificate, and those it was signed with.
    pub certificate: PathBuf,
    /// PEM file: the certificate's key.
    pub key: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// After a crash a bounded tail is sent again, with the same identity.
    AtLeastOnce,
    /// A `read_committed` consumer sees each log record once.
    ExactlyOnce,
}

/// The schema registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Schemas {
    /// `http(s)://registry:8081` (Confluent-compatible; several addresses of one registry with commas), `embedded`, or `none`.
    pub registry: Spanned<String>,
    /// How to log in to a registry that is not embedded.
    pub login: Option<Spanned<RegistryLogin>>,
    /// Certificates, for a registry at `https://`.
    pub tls: RegistryTls,
    /// Where the embedded one listens.
    pub listen: Listen,
    /// What the registry demands of a new version of a schema.
    pub compatibility: Compatibility,
}

impl Default for Schemas {
    fn default() -> Self {
        Self {
            registry: Spanned::from("none".to_owned()),
            login: None,
            tls: RegistryTls::default(),
            listen: Listen(([127, 0, 0, 1], 8081).into()),
            compatibility: Compatibility::Backward,
        }
    }
}

/// A login of the schema registry: user and password, or a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryLogin {
    /// The user's name, with `password`.
    pub user: Option<String>,
    /// The password, by reference: `${env:NAME}` or `${file:/path}`. Never printed.
    pub password: Option<Secret>,
    /// A bearer token instead, by reference.
    pub token: Option<Secret>,
}

/// Certificates for the schema registry. All files are PEM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryTls {
    /// The authority (or the registry's own certificate) to trust. Left out: the system's authorities.
    pub ca: Option<PathBuf>,
    /// This client's certificate, where the registry asks for one. Wants `key`.
    pub cert: Option<PathBuf>,
    /// The private key of `cert`.
    pub key: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compatibility {
    None,
    Backward,
    BackwardTransitive,
    Forward,
    ForwardTransitive,
    Full,
    FullTransitive,
}

/// Millrace's own HTTP: console, REST, metrics, health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where it listens; loopback by default.
    pub listen: Listen,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: Listen(([127, 0, 0, 1], 8080).into()) }
    }
}

/// What Millrace says about itself on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Messages {
    /// The least important messages to show.
    pub level: Level,
    /// How they are written.
    pub format: MessageFormat,
}

impl Default for Messages {
    fn default() -> Self {
        Self { level: Level::Info, format: MessageFormat::Text }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something is lost, or a human is needed.
    Error,
    /// Something went wrong; nothing is lost.
    Warn,
    /// What a person wants to know: what starts, what stops, where things are.
    Info,
    /// What a developer of a connector wants to know.
    Debug,
    /// Everything.
    Trace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageFormat {
    /// For people.
    Text,
    /// For a log collector: one object per line.
    Json,
}

/// The durable log between intake and Kafka.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Bytes per source, its lanes together. A source may have its own.
    pub size: ByteSize,
    /// Space left free on the disk, for all: percent or a size.
    pub keep_free: KeepFree,
    /// What happens when the log is full and the device can't wait.
    pub full: Full,
    /// What a power cut may take from a source that can't resend; with an acknowledgement waiting it is synced at once.
    pub sync: Period,
    /// When to warn that the log fills.
    pub alarm: Alarm,
    /// How batches are compressed where it pays.
    pub compression: LogCompression,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            size: ByteSize(4 << 30),
            keep_free: KeepFree::Percent(10.0),
            full: Full::Block,
            sync: Period::from_millis(200),
            alarm: Alarm::default(),
            compression: LogCompression::Lz4,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Full {
    /// The source waits: back-pressure to the device where the protocol has it.
    Block,
    /// The oldest records go, counted.
    DropOldest,
    /// The newest records go, counted.
    DropNewest,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogCompression {
    /// Fast; pays for most data.
    Lz4,
    /// Not at all.
    None,
}

/// When the log warns that it fills: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Alarm {
    /// At this share of the size.
    pub at: Percent,
    /// When it will be full within this time.
    pub left: Period,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { at: Percent(70.0), left: Period::from_secs(4 * 3600) }
    }
}

/// How far a device's clock may be off before its time is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Clock {
    /// Behind the time of reading; backfill and history are exempt.
    pub behind: Period,
    /// Ahead of the time of reading.
    pub ahead: Period,
}

impl Default for Clock {
    fn default() -> Self {
        Self { behind: Period::from_secs(86_400), ahead: Period::from_secs(300) }
    }
}

/// What may be written to devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Floor {
    /// Only this file may allow it: neither the environment nor REST can.
    pub writes: Spanned<Writes>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Writes {
    /// Nothing is written to a device.
    #[default]
    Forbidden,
    /// Commands, MQTT sinks and acknowledgements of triggers may write.
    Allowed,
}

/// The contract of a Kafka topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Topic {
    /// How values are encoded.
    pub format: Format,
    /// `telemetry` (that of samples), or a file: `.avsc`, `.schema.json`, `.proto`. Without it: `telemetry` for avro and protobuf, none for json;
    /// wide records have one that is made of their tags.
    pub schema: Option<Spanned<String>>,
    /// The record key: `tag` (the tag's path), `asset` (its `at`), or a template such as `{at}/{tag}`.
    pub key: Option<Spanned<String>>,
    /// One wide record per asset or scan, or one per sample.
    pub shape: Shape,
    /// How long an `asset` record collects.
    pub window: Option<Period>,
    /// Partitions, when Millrace creates the topic.
    pub partitions: Option<u32>,
    /// Replication factor, when Millrace creates the topic; the broker's default otherwise.
    pub replication: Option<u16>,
    /// How long Kafka keeps records, when Millrace creates the topic; the broker's default otherwise.
    pub retention: Option<Period>,
    /// Kafka keeps the last record of each key.
    pub compacted: bool,
    /// Order of sending after an outage.
    pub lane: Lane,
    /// Where records go that break this contract; `{topic}.dead` unless said.
    pub dead_letter: Option<Spanned<String>>,
    /// Also keep the last sample of each tag in the compacted topic `millrace.latest`: in this topic's format, unless that topic is declared,
    /// too. Where the topics that are kept there have two formats, it must be.
    pub latest: bool,
    /// What the Kafka timestamp is.
    pub timestamp: Timestamp,
    /// How the subject in the schema registry is named.
    pub subject: Subject,
    /// Properties of the topic, as Kafka names them.
    pub properties: IndexMap<String, Spanned<String>>,
}

impl Default for Topic {
    fn default() -> Self {
        Self {
            format: Format::Json,
            schema: None,
            key: None,
            shape: Shape::Sample,
            window: None,
            partitions: None,
            replication: None,
            retention: None,
            compacted: false,
            lane: Lane::Normal,
            dead_letter: None,
            latest: false,
            timestamp: Timestamp::Time,
            subject: Subject::TopicName,
            properties: IndexMap::new(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// JSON; with a schema, checked against it.
    Json,
    /// Avro in binary; the most compact.
    Avro,
    /// Protobuf.
    Protobuf,
    /// The bytes as they came.
    Raw,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// One record per sample.
    Sample,
    /// One wide record per asset and `window`.
    Asset,
    /// One wide record per scan of a group.
    Scan,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Before all others: alarms.
    First,
    /// In its turn.
    Normal,
    /// After all others: backfill.
    Bulk,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Timestamp {
    /// The best time believed of the sample or document.
    Time,
    /// When Millrace read it.
    ReadTime,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// `{topic}-value`
    TopicName,
    /// The schema's full name.
    RecordName,
    /// `{topic}-{the schema's full name}`
    TopicRecordName,
}

/// Keys that every source has, whatever its type. Tag options may stand beside them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SourceKeys {
    /// Levels below the site, where its tags live: `body/press-1`.
    pub at: String,
    /// The Kafka topic of its samples and documents, where nothing more specific says otherwise.
    pub topic: Option<Spanned<String>>,
    /// Its own log's limits.
    pub log: Option<SourceLog>,
}

/// Limits of one source's log, where they differ from the factory's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SourceLog {
    /// Bytes, all lanes together.
    pub size: Option<ByteSize>,
    /// What happens when it is full and the device can't wait.
    pub full: Option<Full>,
}

impl SourceKeys {
    /// Of every source; `type` and `enabled` are in [`Connector`] already.
    pub const KEYS: [&'static str; 5] = ["type", "enabled", "at", "topic", "log"];
}

/// Keys that every sink has, whatever its type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SinkKeys {
    /// Topics to read; `machine-*` takes all that begin so.
    pub topics: Vec<Spanned<String>>,
    /// The consumer group; `millrace-{site}-{name}` unless said.
    pub group: Option<Spanned<String>>,
    /// Where a new group starts.
    pub start: Option<Start>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With everything the topic still has.
    Earliest,
    /// With what comes from now on.
    Latest,
}

impl SinkKeys {
    /// Of every sink; `type` and `enabled` are in [`Connector`] already.
    pub const KEYS: [&'static str; 5] = ["type", "enabled", "topics", "group", "start"];
}

impl Connector {
    /// A source's common keys, and its node without them: tag options and the connector's own keys.
    pub fn source_keys(&self, problems: &mut Problems) -> (Option<SourceKeys>, Node) {
        let (mut keys, own) = self.split::<SourceKeys>(&SourceKeys::KEYS, problems);
        // One with `{..}` is a template: its connector knows what may stand in it.
        if let Some(topic) = keys.as_mut().and_then(|keys| keys.topic.as_mut()).filter(|topic| !topic.contains('{')) {
            as_topic(topic, problems);
        }
        (keys, own)
    }

    /// A sink's common keys, and its node without them.
    pub fn sink_keys(&self, problems: &mut Problems) -> (Option<SinkKeys>, Node) {
        let (mut keys, own) = self.split::<SinkKeys>(&SinkKeys::KEYS, problems);
        for topic in keys.iter_mut().flat_map(|keys| &mut keys.topics) {
            as_topic(topic, problems);
        }
        (keys, own)
    }

    fn split<T: DeserializeOwned>(&self, keys: &[&str], problems: &mut Problems) -> (Option<T>, Node) {
        let (common, own) = self.node.take(keys);
        let (_, common) = common.take(&["type", "enabled"]);
        (common.parse(problems), own)
    }
}

/// In a Kafka topic's name `/` is `.`; what Kafka refuses is refused here. In a pattern, `*` stands for anything.
fn as_topic(topic: &mut Spanned<String>, problems: &mut Problems) {
    match name::topic(&topic.replace('*', "x")) {
        Ok(_) => topic.value = topic.replace('/', "."),
        Err(message) => problems.refused(topic.place, &message),
    }
}
