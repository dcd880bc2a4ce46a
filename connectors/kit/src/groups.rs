//! The keys that groups, devices and triggers have in every polled protocol.
//!
//! ```text
//! groups:                          GroupConfig<T, G>   tag options + GroupKeys<T> + G, the protocol's own keys
//!   - every: 500ms                                     tags: T, the address and what else the protocol says of a tag
//!     tags: {speed: "holding:100"}
//! devices:                         DeviceConfig<T, D, G>
//!   m01: {unit_id: 1, groups: [..]}                    tag options + DeviceKeys<T, G> + D
//! ```
//!
//! `tags_from`, `devices_from`, `use` and `with` are resolved before a connector sees its keys. What these keys mean is in [`crate::polled`].

use millrace_config::{Node, Period, Short, Shorthand, Spanned, parse_halves};
use millrace_contract::tag::add_keys;
use millrace_contract::{CommandValue, Tagged};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// A group of tags that are read together: tag options, [`GroupKeys`], and the protocol's own keys `G`.
pub type GroupConfig<T, G = NoKeys> = Tagged<Beside<GroupKeys<T>, G>>;

/// A device behind a connection that several share: tag options, [`DeviceKeys`], and the protocol's own keys `D`.
pub type DeviceConfig<T, D, G = NoKeys> = Tagged<Beside<DeviceKeys<T, G>, D>>;

// A protocol without keys of its own. No doc comment: it would become the description of what has shared keys alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoKeys {}

/// A mapping in which keys of the kit stand beside a protocol's own, each with its place.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Beside<K, O> {
    pub shared: K,
    pub own: O,
}

/// Keys that [`Beside`] tells apart from a protocol's own.
pub trait SharedKeys {
    const KEYS: &'static [&'static str];
}

impl<'de, K: SharedKeys + DeserializeOwned, O: DeserializeOwned> Deserialize<'de> for Beside<K, O> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (shared, own) = Node::deserialize(deserializer)?.take(K::KEYS);
        let (own, shared) = parse_halves(&own, &shared, K::KEYS)?;
        Ok(Self { shared, own })
    }
}

impl<K: JsonSchema, O: JsonSchema> JsonSchema for Beside<K, O> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}With{}", K::schema_name(), O::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut shared = K::json_schema(generator);
        let own = O::json_schema(generator);
        add_keys(&mut shared, &own);
        // What it is says the one who has keys of its own.
        if let Some(description) = own.get("description") {
            shared.insert("description".into(), description.clone());
        }
        shared
    }
}

/// Tags that are read together. Tag options may stand beside these keys.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound(deserialize = "T: Shorthand + DeserializeOwned"))]
#[schemars(bound = "T: Shorthand + JsonSchema")]
pub struct GroupKeys<T> {
    /// How often the tags are read, from 1ms to 24h; of subscribed groups the publishing interval. Default 1s.
    #[serde(default)]
    pub every: Option<Spanned<Period>>,
    /// `clock`: reads at full seconds, minutes, hours.
    #[serde(default)]
    pub align: Option<Spanned<Align>>,
    /// The tags, each by its address alone or with options of its own.
    #[serde(default)]
    pub tags: BTreeMap<String, Spanned<Tagged<Short<T>>>>,
    /// Reads the group's tags once per event, into one document.
    #[serde(default)]
    pub trigger: Option<Spanned<TriggerConfig>>,
    /// What the document of a `trigger` is.
    #[serde(default)]
    pub record: Option<Spanned<RecordConfig>>,
}

impl<T> SharedKeys for GroupKeys<T> {
    const KEYS: &'static [&'static str] = &["every", "align", "tags", "trigger", "record"];
}

/// A device of its own on a connection that several share. Tag options may stand beside these keys.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound(deserialize = "T: Shorthand + DeserializeOwned, G: DeserializeOwned"))]
#[schemars(bound = "T: Shorthand + JsonSchema, G: JsonSchema")]
pub struct DeviceKeys<T, G> {
    /// The path of its tags below the site; left out: the source's `at`, then the device's name.
    #[serde(default)]
    pub at: Option<Spanned<String>>,
    /// `false`: the device is not talked to.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What to read, and how.
    #[serde(default)]
    pub groups: Vec<Spanned<GroupConfig<T, G>>>,
}

fn yes() -> bool {
    true
}

impl<T, G> SharedKeys for DeviceKeys<T, G> {
    const KEYS: &'static [&'static str] = &["at", "enabled", "groups"];
}

/// When a cycle begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Align {
    /// At full seconds, minutes, hours of the clock.
    Clock,
}

/// What makes a group be read once.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerConfig {
    /// The tag that triggers: a tag of another group of the same device.
    pub tag: Spanned<String>,
    /// Which change of the tag is an event.
    #[serde(default)]
    pub edge: Edge,
    /// The tag that tells the device that the document is safe on disk. Needs `floor: {writes: allowed}`.
    #[serde(default)]
    pub ack: Option<Spanned<Short<AckConfig>>>,
}

/// Which change of the triggering tag counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Edge {
    /// From false or 0 to anything else.
    #[default]
    Rising,
    /// To false or 0.
    Falling,
    /// Any other value than before.
    Change,
    /// A counter that the device raises with each event; what it skips is counted as lost. The acknowledging tag gets the counter's value.
    Counter,
}

/// How an event is acknowledged to the device, after its document is synced.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AckConfig {
    /// The tag that is written: one of this device's.
    pub tag: Spanned<String>,
    /// What is written: default true (1 for a number), with `edge: counter` the counter's value.
    #[serde(default)]
    pub set: Option<SetValue>,
    /// When it is set back to false or 0: `on_trigger_down` (default of `rising` and `falling`), `never` (default of the others), or `after 500ms`.
    #[serde(default)]
    pub reset: Option<Reset>,
}

impl Shorthand for AckConfig {
    const KEY: &'static str = "tag";
}

/// A value to write, as it stands in the YAML.
#[derive(Clone, PartialEq, Debug)]
pub struct SetValue(pub CommandValue);

impl<'de> Deserialize<'de> for SetValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        let value = if let Some(value) = node.as_bool() {
            CommandValue::Bool(value)
        } else if let Some(value) = node.as_i64() {
            CommandValue::Int(value)
        } else if let Some(value) = node.as_f64() {
            CommandValue::Double(value)
        } else if let Some(text) = node.as_str() {
            CommandValue::Text(text.to_owned())
        } else {
            return Err(D::Error::custom(format!("expected a value to write, found {}", node.describe())));
        };
        Ok(Self(value))
    }
}

impl JsonSchema for SetValue {
    fn schema_name() -> Cow<'static, str> {
        "SetValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["boolean", "number", "string"]})
    }
}

/// When an acknowledgement is taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reset {
    /// As soon as the device has taken its trigger back.
    OnTriggerDown,
    /// The device does it.
    Never,
    /// So long after it was set.
    After(Duration),
}

impl<'de> Deserialize<'de> for Reset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "on_trigger_down" => Ok(Self::OnTriggerDown),
            "never" => Ok(Self::Never),
            _ => match text.strip_prefix("after ").map(str::trim).and_then(|period| period.parse::<Period>().ok()) {
                Some(Period(wait)) => Ok(Self::After(wait)),
                None => Err(D::Error::custom(format!("`{text}` is not one of `on_trigger_down`, `never`, `after 500ms`"))),
            },
        }
    }
}

impl JsonSchema for Reset {
    fn schema_name() -> Cow<'static, str> {
        "Reset".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^(on_trigger_down|never|after .+)$"})
    }
}

/// A document of a group's tags.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordConfig {
    /// Its Kafka topic.
    pub topic: Spanned<String>,
    /// Its key, of the group's tags: `{serial}`. With an `ack` it also tells a part that was recorded from a new one after a restart.
    #[serde(default)]
    pub key: Option<Spanned<String>>,
}
