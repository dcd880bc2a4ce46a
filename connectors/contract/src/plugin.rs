//! How a type of connector compiles its YAML, without I/O, into a model that `plan` prints and the engine runs.

use crate::found::Findings;
use crate::sink::Sink;
use crate::source::{Source, SourceIo};
use crate::tag::{TagDef, TagOptions};
use millrace_config::{Node, Place, Problems, Reason, Secret};
use millrace_schemas::contract::Schema;
use millrace_schemas::{Batch, RouteId};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A type of connector, in one role.
pub trait Plugin: 'static {
    /// `type:` in the YAML.
    const TYPE: &'static str;
    const ROLE: Role;
    /// The connector's own keys; the common ones (`type`, `at`, `topic`, `enabled`, `log`, tag options; for sinks `topics`, `group`, `start`) are
    /// taken away before. Doc comments on its fields become the reference and the editor's help.
    type Config: DeserializeOwned + schemars::JsonSchema;

    /// Checks everything that can be checked without I/O and adds every problem with its place. `None` when it can't go on.
    fn compile(config: Self::Config, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>>;

    /// `millrace browse TYPE URL`, where the protocol has something to browse.
    fn browse() -> Option<BrowseFn> {
        None
    }

    /// `millrace probe TYPE URL`: what a device says of itself, its limits and its security.
    fn probe() -> Option<BrowseFn> {
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    Source,
    Sink,
}

/// What is known around a connector when it is compiled.
#[derive(Clone, Debug)]
pub struct Context {
    /// The connector's name in the YAML, and where it stands.
    pub name: String,
    pub place: Place,
    /// `enterprise/site`.
    pub site: String,
    /// `levels`: what the parts of `at` are called, from the top.
    pub levels: Vec<String>,
    /// `at:` of the source, or empty.
    pub at: String,
    /// The default topic of its samples and documents.
    pub topic: Option<Arc<str>>,
    /// Tag options of the source level, over the factory's defaults.
    pub options: TagOptions,
    /// Topics a sink reads (patterns with `*` allowed); empty for a source.
    pub topics: Vec<String>,
    /// What the topics a sink reads are declared to carry; with samples alone, `Input::Samples` can decode them.
    pub carries: Carries,
    /// The schemas of the documents in the topics a sink reads, where they have some.
    pub schemas: Vec<Arc<Schema>>,
    /// The schemas of all topics that the factory declares and that have one, samples' too; for a sink.
    pub declared: Vec<(Arc<str>, Arc<Schema>)>,
    /// `floor: {writes: allowed}`, and where it stands (or would).
    pub writes_allowed: bool,
    /// Where connectors keep files of their own, certificates; compiling touches none.
    pub data_dir: PathBuf,
    /// The names of every source that the YAML enables: whoever keeps something for a source knows whether it will come back for it.
    pub sources: Arc<[String]>,
    /// The factory's own Kafka cluster, for the sink that copies topics with their settings. Nothing else asks.
    pub cluster: Cluster,
}

/// What topics carry, as they are declared; one that is not carries documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Carries {
    /// One sample per record.
    Samples,
    #[default]
    Documents,
    /// Some the one, some the other; or nobody can say, of a pattern.
    Both,
}

/// How to reach a Kafka cluster.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    /// `host:port,host:port`.
    pub brokers: String,
    /// librdkafka's own, secrets resolved.
    pub properties: BTreeMap<String, String>,
    /// Where the schemas of its values are registered.
    pub registry: Option<Registry>,
    /// This runtime's own name, where several with the same file write to it.
    pub runtime: Option<String>,
}

/// How to reach a schema registry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Registry {
    /// One or several addresses of one registry, with commas.
    pub urls: String,
    pub user: Option<(String, Secret)>,
    pub token: Option<Secret>,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be passwords: names only.
        f.debug_struct("Cluster").field("brokers", &self.brokers).field("properties", &self.properties.keys().collect::<Vec<_>>()).finish()
    }
}

impl Context {
    /// The path of a tag of this source, below the site: `at/name`.
    pub fn tag_path(&self, name: &str) -> String {
        tag_path(&self.at, name)
    }

    /// The topic of what has these options (all levels merged): their own, else the source's.
    pub fn topic_of(&self, options: &TagOptions) -> Option<Arc<str>> {
        options.topic.as_deref().map(Arc::from).or_else(|| self.topic.clone())
    }
}

/// The path of a tag below `at`, which may be empty.
pub fn tag_path(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") }
}

/// A compiled connector: knows all it will do, has done nothing yet.
pub trait Compiled: Send + Sync {
    fn model(&self) -> &Model;
    /// A new source, for the engine to run; `None` for a sink.
    fn source(&self) -> Option<Box<dyn Source>> {
        None
    }
    /// A new sink instance; `None` for a source.
    fn sink(&self) -> Option<Box<dyn Sink>> {
        None
    }
    fn guarantee(&self) -> Guarantee;
    /// Whether its source takes up where it left off, by positions: with a new data directory it starts once Kafka has said what it knows of them.
    fn keeps_positions(&self) -> bool {
        matches!(self.guarantee(), Guarantee::ExactlyOnce(_))
    }
    /// Whether a source that begins at an older position reads again all that came after it, as often as that is done: so that what a runtime that
    /// died had read and not sent need not be sent from there.
    fn reads_again(&self) -> bool {
        false
    }
    /// Bytes of the longest message or record that its source takes in whole; of a longer one the dead letter has the beginning.
    fn longest(&self) -> Option<u64> {
        None
    }
    /// Decodes a payload that became a dead letter once more, as a message of its route, into a batch whose tags `io` declares. `None`: what this
    /// connector rejects is not a payload of its own. Errors: why it still can't be decoded, or not alone.
    fn decode_again(&self, _late: &Late<'_>, _io: &SourceIo, _batch: &mut Batch) -> Option<Result<(), Reason>> {
        None
    }
    /// Whether its source says what its documents are (`SourceIo::describe`), so that a topic needs no schema of its own for them.
    fn describes(&self) -> bool {
        false
    }
    /// Whether its source reads a command's [conditions](crate::Condition) from the device right before it writes. Of another the engine judges
    /// them by the last values that came.
    fn reads_conditions(&self) -> bool {
        false
    }
    /// The keys, tag options and `at` aside, that a running source takes over where nothing else changes, with its connection kept. Empty: whatever
    /// changes, it starts anew.
    fn in_place(&self) -> &'static [&'static str] {
        &[]
    }
    /// Gives this configuration to a source that ran another, which differs in what [`in_place`](Self::in_place) names, between two of its sessions.
    /// `false`: it can't take it; a new source is made, with a connection of its own.
    fn hand_to(&self, _running: &mut dyn Source) -> bool {
        false
    }
    /// What will be done, for a person.
    fn plan(&self) -> Plan;
}

/// A payload that became a dead letter, as it came, with the headers that its source gave it.
#[derive(Clone, Copy, Debug)]
pub struct Late<'a> {
    pub route: RouteId,
    pub payload: &'a [u8],
    pub headers: &'a [(String, Option<Vec<u8>>)],
}

impl Late<'_> {
    /// On a payload some of whose values went their way, so that decoding it again would double them.
    pub const PARTLY: &'static str = "millrace.partly";

    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }
}

/// What a source will produce, as far as it is known before connecting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub tags: Vec<TagDef>,
    /// Where documents and rejects go; `RouteId` is the index.
    pub routes: Vec<Route>,
}

/// A destination of documents and rejects.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The Kafka topic; of a template, its text (`Doc::topic` then carries the outcome).
    pub topic: Arc<str>,
    /// What came in this way, for a person and for the header `millrace.route`: an MQTT filter, an entity set, a file.
    pub name: String,
    /// Whether the documents are samples' siblings (rejects of a sample route) rather than documents of their own.
    pub samples: bool,
}

/// What survives a kill -9 between device and log.
#[derive(Clone, Debug, PartialEq)]
pub enum Guarantee {
    /// The source replays from a position kept with the data: each record once.
    ExactlyOnce(String),
    /// The source resends what was not acknowledged: nothing missing, repeats possible.
    AtLeastOnce(String),
    /// The device can't resend; what it says while nobody listens is gone.
    AtMostOnce(String),
}

impl Guarantee {
    /// In a person's words.
    pub const fn words(&self) -> &'static str {
        match self {
            Self::ExactlyOnce(_) => "exactly once into the log",
            Self::AtLeastOnce(_) => "at least once into the log",
            Self::AtMostOnce(_) => "at most once into the log",
        }
    }

    /// Why it is so.
    pub fn because(&self) -> &str {
        match self {
            Self::ExactlyOnce(why) | Self::AtLeastOnce(why) | Self::AtMostOnce(why) => why,
        }
    }
}

/// What a connector will do, for `millrace plan`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The address it talks to.
    pub endpoint: String,
    /// One line each: subscriptions, requests, cycles.
    pub lines: Vec<String>,
    /// Values per second, where it can be told.
    pub rate: Option<f64>,
}

/// What `browse` and `probe` may do.
#[derive(Clone, Debug, Default)]
pub struct Browse {
    pub url: String,
    pub user: Option<String>,
    pub password: Option<String>,
    pub ca: Option<String>,
    /// How long to watch.
    pub watch: Duration,
    pub limit: usize,
    /// Where to begin, where the protocol has a tree.
    pub below: Option<String>,
    /// How the connection is secured, in the protocol's own words; left out: not at all.
    pub security: Option<String>,
    /// Where connectors keep certificates.
    pub data_dir: PathBuf,
}

/// Looks, and says what was found; the program shows it.
pub type BrowseFn = fn(Browse) -> Looking;
pub type Looking = Pin<Box<dyn Future<Output = Result<Findings, Reason>> + Send>>;

/// A plugin with its types erased: one line of the catalog.
#[derive(Clone, Copy)]
pub struct Entry {
    pub type_name: &'static str,
    pub role: Role,
    pub compile: fn(&Node, &Context, &mut Problems) -> Option<Box<dyn Compiled>>,
    pub schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
    pub browse: fn() -> Option<BrowseFn>,
    pub probe: fn() -> Option<BrowseFn>,
}

impl Entry {
    pub const fn of<P: Plugin>() -> Self {
        Self {
            type_name: P::TYPE,
            role: P::ROLE,
            compile: |node, context, problems| {
                let config = node.parse::<P::Config>(problems)?;
                P::compile(config, context, problems)
            },
            schema: |generator| generator.subschema_for::<P::Config>(),
            browse: P::browse,
            probe: P::probe,
        }
    }
}
