//! The top level of a factory: as the file writes it, and as the runtime takes it.

use crate::factory::alarms::Alarms;
use crate::factory::connector::Connector;
use crate::factory::environment::Files;
use crate::factory::files;
use crate::factory::group::Runtime;
use crate::factory::http::{Http, Messages};
use crate::factory::intake::{Clock, Floor, Log};
use crate::factory::kafka::Kafka;
use crate::factory::opcua_server::OpcUaServer;
use crate::factory::otlp::Otlp;
use crate::factory::registry::Schemas;
use crate::factory::topic::Topic;
use crate::tree::node::{Node, Spanned};
use crate::tree::place::Place;
use crate::tree::problem::Problems;
use crate::tree::reason::Reason;
use indexmap::IndexMap;
use schemars::JsonSchema;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where everything lies that must survive, unless the file says otherwise.
pub(crate) const DATA_DIR: &str = "./millrace-data";

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
    pub runtime: Runtime,
    pub messages: Messages,
    pub alarms: Alarms,
    pub otlp: Otlp,
    pub opcua_server: OpcUaServer,
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
    pub fn read_named(&self, value: Place, name: &str, problems: &Problems) -> Result<(PathBuf, String), Reason> {
        let folder = Path::new(problems.places.file_of(value)).parent().unwrap_or(Path::new(""));
        let path = files::tidy(&folder.join(name));
        let bytes =
            self.files.read(&path, NAMED_MAX).map_err(|error| format!("cannot read {}: {}", path.display(), files::cause(&error)))?;
        if bytes.len() > NAMED_MAX {
            return Err(format!("{} is larger than {} MiB", path.display(), NAMED_MAX >> 20).into());
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
    /// Names of the parts of `at`: `[area, line, cell]`. Any depth. They are in the catalog `millrace.tags`, and in the key templates of topics:
    /// `{area}`.
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
    /// More than one runtime with the same file.
    #[schemars(default)]
    runtime: Runtime,
    /// What Millrace says about itself on standard error.
    #[schemars(default)]
    messages: Messages,
    /// Whom Millrace tells, without Kafka, that something is wrong.
    #[schemars(default)]
    alarms: Alarms,
    /// Metrics and messages to an OpenTelemetry collector.
    #[schemars(default)]
    otlp: Otlp,
    /// Millrace's own state as an OPC UA server.
    #[schemars(default)]
    opcua_server: OpcUaServer,
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
    DATA_DIR.into()
}

impl File {
    pub const KEYS: [&'static str; 21] = [
        "site",
        "levels",
        "include",
        "data_dir",
        "kafka",
        "schemas",
        "http",
        "runtime",
        "messages",
        "alarms",
        "otlp",
        "opcua_server",
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
