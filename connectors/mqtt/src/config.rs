//! The keys of an MQTT source in the YAML.

use crate::broker::BrokerKeys;
use crate::command::CommandConfig;
use crate::payload::Compression;
use crate::sparkplug;
use millrace_config::{ByteSize, Period, Short, Spanned};
use millrace_contract::Tagged;
use millrace_kit::Encoding;
use millrace_kit::extract::{Missing, Nulls, Places, SamplesConfig, StatusConfig, ValueMap};
use millrace_kit::groups::Beside;
use millrace_kit::records::RecordKeys;
use millrace_kit::time::TimeConfig;
use schemars::JsonSchema;
use serde::Deserialize;

/// An MQTT broker to read from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceKeys {
    /// How long the broker keeps what was not acknowledged while this source is away. `0s`: no session is kept, messages may be lost.
    /// With 3.1.1 the broker decides how long.
    #[serde(default = "session_expiry")]
    pub session_expiry: Period,
    /// How many messages the broker may send before the first is acknowledged. The broker may allow fewer, with 3.1.1 it alone
    /// decides: Mosquitto's `max_inflight_messages` is 20 unless raised, and bounds the throughput.
    #[serde(default = "window")]
    pub window: Spanned<u16>,
    /// A longer message becomes a dead letter with its beginning; from 128KiB to 256MiB.
    #[serde(default = "max_packet")]
    pub max_packet: Spanned<ByteSize>,
    /// How many tags may be discovered. Messages that would make more become dead letters.
    #[serde(default = "max_tags")]
    pub max_tags: u32,
    /// How many connections share the messages, from 1 to 64. More than one want `share`.
    #[serde(default = "connections")]
    pub connections: Spanned<u16>,
    /// The name of the shared subscription (`$share/NAME/..`) that divides messages among connections, and among runtimes.
    #[serde(default)]
    pub share: Option<Spanned<String>>,
    /// Patterns of the Kafka topics that messages may choose (`topic: "{1}"`), as in `["machine-*"]`; left out: any. Kafka's and Millrace's own
    /// (`__*`, `millrace.*`) are refused in any case: such a message becomes a dead letter.
    #[serde(default)]
    pub allow_topics: Option<Vec<Spanned<String>>>,
    /// Millrace as a Sparkplug host.
    #[serde(default)]
    pub host: Option<Spanned<sparkplug::HostConfig>>,
    /// What to read, and what to make of it.
    pub subscribe: Vec<Spanned<Tagged<SubscriptionConfig>>>,
}

pub type SourceConfig = Beside<BrokerKeys, SourceKeys>;

fn session_expiry() -> Period {
    Period::from_secs(7 * 86_400)
}

fn window() -> Spanned<u16> {
    5000.into()
}

fn max_packet() -> Spanned<ByteSize> {
    ByteSize(32 << 20).into()
}

fn max_tags() -> u32 {
    1_000_000
}

fn connections() -> Spanned<u16> {
    1.into()
}

/// One topic filter, and what becomes of its messages. Tag options may stand beside these keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionConfig {
    /// The topic filter; what its wildcards match is `{1}`, `{2}`.. in the templates, the whole topic is `{topic}`.
    pub filter: Spanned<String>,
    /// Quality of service: 0, 1 (default) or 2.
    #[serde(default)]
    pub qos: Option<Spanned<u8>>,
    /// What the payload is. Default: `json`.
    #[serde(default)]
    pub payload: Option<Spanned<PayloadConfig>>,
    /// How the payload is packed: `gzip` or `deflate`. Dead letters keep it as it came.
    #[serde(default)]
    pub compression: Option<Compression>,
    /// The characters of a payload that is text: `utf-8` (default), `windows-1252`, `utf-16le`, ... A mark in front goes before it.
    #[serde(default)]
    pub encoding: Option<Encoding>,
    /// Where the tags stand, below the source's own `at`. Of Sparkplug, `{group}`, `{node}` and `{device}` are known here and in `tag`; default
    /// `{group}/{node}/{device}`, of which an empty level is left out.
    #[serde(default)]
    pub at: Option<Spanned<String>>,
    /// The tag of the value (`number`, `text`, `bytes`), of a reading (with `value` or `samples`: `{/id}` is a JSON Pointer into it, `{key}` the
    /// member's name or the item's number), or of a Sparkplug metric: `{metric}` (default) is its name as one level, a `/` in it %2F;
    /// `{metric_path}` keeps its levels.
    #[serde(default)]
    pub tag: Option<Spanned<String>>,
    /// The key of documents; `{/id}` is a JSON Pointer into the payload.
    #[serde(default)]
    pub key: Option<Spanned<String>>,
    /// Where the list of readings stands in a JSON payload, or an object whose members are the readings; `""` where the payload is the list. Several
    /// pointers lead down level by level. `value` or `samples` point into a reading; what `tag`, `at`, `time` and `status` point to is looked for in
    /// the reading, then in what is around it.
    #[serde(default)]
    pub each: Option<Places>,
    /// The value of a reading by its JSON Pointer; of several the one that is there: `[/v, /vs, /vb]`. Goes with `tag`.
    #[serde(default)]
    pub value: Option<Places>,
    /// Tags out of a JSON payload, each by its JSON Pointer: `speed: /v/kmh`; `""` is the whole payload. An object becomes a tag for each field.
    #[serde(default)]
    pub samples: Option<Spanned<SamplesConfig>>,
    /// The time in a JSON payload. Without it, samples have the time they were read.
    #[serde(default)]
    pub time: Option<Spanned<TimeConfig>>,
    /// The status in a JSON payload by its JSON Pointer, and how it is written.
    #[serde(default)]
    pub status: Option<Spanned<Short<StatusConfig>>>,
    /// The decimal sign of numbers that stand as text: `"."` (default) or `","`.
    #[serde(default)]
    pub decimal: Option<Spanned<String>>,
    /// Between groups of three digits of such numbers: `"."`, `","`, `" "` or `"'"`.
    #[serde(default)]
    pub grouping: Option<Spanned<String>>,
    /// Values that stand for none, as in `["---", "-9999"]`: null, BadNoData; or each with its status: `{"---": bad}`.
    #[serde(default)]
    pub nulls: Option<Nulls>,
    /// What words stand for where the payload is one value (`number`, or `text` with `tag`), as in `{ON: true, OFF: false}`. A command sends the word.
    #[serde(default)]
    pub map: Option<Spanned<ValueMap>>,
    /// What a pointer that isn't in a payload means: `bad` (default), a sample without value, status BadNotFound, after `bad_after`; or `skip`.
    #[serde(default)]
    pub missing: Missing,
    /// How commands reach the device: for `number`, `text` with `tag`, and JSON with `samples`. Metrics of Sparkplug can be commanded without it.
    #[serde(default)]
    pub command: Option<Spanned<CommandConfig>>,
}

impl SubscriptionConfig {
    /// Its keys that every record of JSON has.
    pub fn record_keys(&self) -> RecordKeys {
        RecordKeys {
            at: self.at.clone(),
            tag: self.tag.clone(),
            key: self.key.clone(),
            each: self.each.clone(),
            value: self.value.clone(),
            samples: self.samples.clone(),
            time: self.time.clone(),
            status: self.status.clone(),
            decimal: self.decimal.clone(),
            grouping: self.grouping.clone(),
            nulls: self.nulls.clone(),
            missing: self.missing,
        }
    }
}

/// What the payload of a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PayloadConfig {
    /// A JSON document as it is; with `samples` or `tag` and `value`, tags out of it. What small devices write is mended: `nan` and `Infinity` are
    /// null, a last comma and NULs are passed over, several documents in one message are taken one by one.
    Json,
    /// SenML (RFC 8428) in JSON: base names, times and values are resolved; `tag` is `{/name}` unless said, a sum is the tag `sum` below it.
    Senml,
    /// One number as text.
    Number,
    /// A text; with `tag` a sample, else a document.
    Text,
    /// Any bytes; with `tag` a sample, else a document.
    Bytes,
    /// Sparkplug B.
    Sparkplug,
}
