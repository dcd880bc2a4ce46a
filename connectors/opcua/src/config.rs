//! The keys of an OPC UA source in the YAML.

use crate::security::{Accept, Mode as SecurityMode, Policy};
use millrace_config::{Period, Rate, Secret, Shorthand, Spanned};
use millrace_kit::Endpoints;
use millrace_kit::groups::GroupConfig;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// An OPC UA server to read from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// The server, `opc.tcp://host:4840`; a list names the servers of a redundant set, the first that answers is read.
    pub endpoint: Spanned<Endpoints>,
    /// Prefixes for namespace URIs: `{p: "http://acme.example/press"}` lets a node be written `p:s=Temp`.
    #[serde(default)]
    pub namespaces: BTreeMap<String, Spanned<String>>,
    /// How the connection is secured. Left out: not at all.
    #[serde(default)]
    pub security: Option<Spanned<SecurityConfig>>,
    /// Who Millrace is to the server; left out: anonymous.
    #[serde(default)]
    pub login: Option<Spanned<LoginConfig>>,
    /// How many sessions share the groups. Each session decodes on a core of its own.
    #[serde(default = "sessions")]
    pub sessions: Spanned<u16>,
    /// How soon a dead connection is noticed.
    #[serde(default = "keep_alive")]
    pub keep_alive: Spanned<Period>,
    /// How long the server keeps a session and its subscriptions while this source is away. Servers may say less.
    #[serde(default = "lifetime")]
    pub lifetime: Spanned<Period>,
    /// What becomes of the session when Millrace stops: `keep` (default), for its `lifetime`, so that the next start misses nothing; or `close`,
    /// where a PLC has few sessions.
    #[serde(default)]
    pub on_stop: OnStop,
    /// What to read, and how.
    #[serde(default)]
    pub groups: Vec<Spanned<GroupConfig<TagConfig, ReadConfig>>>,
    /// Reads back what was missed, from servers that keep a history.
    #[serde(default)]
    pub history: Option<Spanned<HistoryConfig>>,
    /// Events and alarms, as documents.
    #[serde(default)]
    pub events: Vec<Spanned<EventsConfig>>,
}

fn sessions() -> Spanned<u16> {
    1.into()
}

fn keep_alive() -> Spanned<Period> {
    Period::from_secs(10).into()
}

fn lifetime() -> Spanned<Period> {
    Period::from_secs(3600).into()
}

/// What becomes of sessions at a stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnStop {
    /// The server keeps it, with its subscriptions, for whoever starts next.
    #[default]
    Keep,
    /// It is closed; what is published until the next start is missed, unless `history` reads it back.
    Close,
}

/// How a connection is secured: what is asked for, or nothing; never less.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityConfig {
    /// The security policy.
    pub policy: Policy,
    /// `Sign` or `SignAndEncrypt` (default).
    #[serde(default)]
    pub mode: Option<SecurityMode>,
    /// What may be wrong with the server's certificate: `expired`, `short_key`, `no_uri`, `other_uri`, `other_host`, `old_revocation_list`. Each is
    /// warned of by `check`, in `plan`, and whenever it is put up with.
    #[serde(default)]
    pub accept: Vec<Accept>,
}

/// A user with a password, or with a certificate.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoginConfig {
    /// The user's name.
    pub user: Option<String>,
    /// The password, by reference: `${env:NAME}` or `${file:/path}`. Never printed.
    pub password: Option<Secret>,
    /// The user's certificate, DER or PEM.
    pub certificate: Option<String>,
    /// The private key of that certificate, PEM.
    pub key: Option<String>,
}

/// What a group of this protocol has besides the keys of every group.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadConfig {
    /// How often the server looks at the values; default `every`. `0s`: as often as it can.
    #[serde(default)]
    pub sampling: Option<Spanned<Period>>,
    /// How many values of a tag the server keeps while none can be sent. Default: those of ten seconds, from 2 to 1000.
    #[serde(default)]
    pub queue: Option<Spanned<u32>>,
    /// `subscribe` (default) or `poll`.
    #[serde(default)]
    pub mode: ReadMode,
    /// Who applies an absolute `deadband`: `server`, which spares the network, or Millrace itself (`here`, default).
    #[serde(default)]
    pub deadband_at: DeadbandAt,
    /// Finds the tags in the server's address space.
    #[serde(default)]
    pub browse: Option<Spanned<BrowseConfig>>,
}

/// How a group is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadMode {
    /// The server says what changes.
    #[default]
    Subscribe,
    /// Millrace reads every value in turn.
    Poll,
}

/// Who applies a deadband.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadbandAt {
    /// The server; where it can't, Millrace.
    Server,
    /// Millrace.
    #[default]
    Here,
}

/// One tag.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TagConfig {
    /// The node: `ns=2;s=Temp`, `nsu=URI;i=42`, `p:s=Temp` with a declared prefix, or a browse path, `Objects/Press/p:Temp`.
    pub node: Spanned<String>,
    /// How often the server looks at the value, where it differs from the group's.
    #[serde(default)]
    pub sampling: Option<Spanned<Period>>,
    /// The server's queue, where it differs from the group's.
    #[serde(default)]
    pub queue: Option<Spanned<u32>>,
    /// A part of an array: `3`, `0:9`, of a matrix `1,0:2`.
    #[serde(default)]
    pub range: Option<Spanned<String>>,
    /// The object of which `node` is a method. The tag is then never read: a command calls the method, its value the arguments, `[]` for none.
    #[serde(default)]
    pub object: Option<Spanned<String>>,
    /// A command is done only when the server, asked again, shows the value.
    #[serde(default)]
    pub read_back: bool,
}

impl Shorthand for TagConfig {
    const KEY: &'static str = "node";
}

/// Variables found by their browse paths.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BrowseConfig {
    /// Where to begin: a node or a browse path. Default: `Objects`.
    #[serde(default)]
    pub from: Option<Spanned<String>>,
    /// Which browse paths below `from` are taken: `*` within a level, `**` over levels. Default: all variables.
    #[serde(default, rename = "match")]
    pub pattern: Option<Spanned<String>>,
    /// The tag's name: `{path}` (default) the browse path with its levels, `{name}` the last of them, `{display}` its display name.
    #[serde(default)]
    pub name: Option<Spanned<String>>,
    /// `server`: unit and limits come from the server's EngineeringUnits and EURange, where the YAML names none.
    #[serde(default)]
    pub units: Option<Units>,
    /// How many levels deep.
    #[serde(default = "depth")]
    pub depth: Spanned<u16>,
    /// How many tags at most. Beyond it none is read, and the status says so.
    #[serde(default = "limit")]
    pub limit: Spanned<u32>,
    /// How often to look again for nodes that came or went, besides when the server says that its model changed; `0s`: never.
    #[serde(default = "again")]
    pub again: Spanned<Period>,
}

fn depth() -> Spanned<u16> {
    10.into()
}

fn limit() -> Spanned<u32> {
    10_000.into()
}

fn again() -> Spanned<Period> {
    Period::from_secs(900).into()
}

/// Where units come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Units {
    /// The server's own.
    Server,
}

/// Reading back what was missed.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// `last`: from the last value that came.
    pub from: Option<HistoryFrom>,
    /// How many values a second at most.
    pub rate: Spanned<Rate>,
    /// How far back at most.
    pub at_most: Spanned<Period>,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { from: None, rate: Rate(5_000.0).into(), at_most: Period::from_secs(7 * 86_400).into() }
    }
}

/// Where reading back begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HistoryFrom {
    /// The last value that came.
    Last,
}

/// Events of a node, as documents.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsConfig {
    /// The notifier: `Server` (default), a node or a browse path.
    #[serde(default)]
    pub from: Option<Spanned<String>>,
    /// Which events: `severity >= 500`, several joined by `and`; `type = ns=2;i=1001` takes a type with its subtypes.
    #[serde(default, rename = "where")]
    pub condition: Option<Spanned<String>>,
    /// The fields of the document, each a browse path below the event's type: `Time`, `ActiveState/Id`, `p:BatchId`.
    pub fields: Vec<Spanned<String>>,
    /// The Kafka topic; default the source's.
    #[serde(default)]
    pub topic: Option<Spanned<String>>,
    /// The document's key, of its fields: `{SourceName}`.
    #[serde(default)]
    pub key: Option<Spanned<String>>,
}
