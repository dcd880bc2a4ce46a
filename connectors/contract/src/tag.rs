//! What a tag is, and the options every tag has, at every level of the YAML.

use millrace_config::{Deadband, Node, Period, parse_halves};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One tag of a source, known at compile time or discovered.
#[derive(Clone, Debug, PartialEq)]
pub struct TagDef {
    /// Path below the site: `at/name`.
    pub path: String,
    /// The protocol's own address, as a person writes it; for the catalog and for clashes.
    pub address: String,
    /// The device's or protocol's name of the type (`i16`, `Int32`, ...), where known.
    pub kind: Option<String>,
    /// The Kafka topic of its samples.
    pub topic: Arc<str>,
    /// Whose keep-alive vouches for it (see `SourceIo::alive`); empty: only its own values do.
    pub part: Arc<str>,
    /// The merged options of all levels.
    pub options: Arc<TagOptions>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// A sample when the value or the status changed (beyond the deadband).
    #[default]
    Change,
    /// Every reading.
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutOfRange {
    /// Stays in its topic, status 0x40940000.
    #[default]
    Uncertain,
    /// Stays in its topic, status BadOutOfRange.
    Bad,
    /// Goes to the dead letters.
    Dead,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Structure {
    /// One sample per leaf: `path/field`.
    #[default]
    Expand,
    /// The whole structure as JSON text.
    Json,
}

/// Options of a tag. Each level (defaults, template, source, device, group, tag) fills in what the level above it left open.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TagOptions {
    /// When a sample is written: on `change` or for `all` readings.
    #[schemars(extend("default" = Report::default()))]
    pub report: Option<Report>,
    /// A change smaller than this is not reported: absolute in engineering units, or percent of min..max (else of the eu range).
    pub deadband: Option<Deadband>,
    /// Repeats the last value after this long without a sample, with its own time and origin `heartbeat`, while it is vouched for.
    pub at_least_every: Option<Period>,
    /// After this long with nothing vouching for it, a tag turns stale: one sample, value null, BadNoCommunication. Where only its own messages vouch
    /// for a tag, as in plain MQTT, it never does unless this is set.
    #[schemars(extend("default" = TagOptions::STALE_AFTER))]
    pub stale_after: Option<Period>,
    /// How long a tag may fail to read before its bad sample is written.
    #[schemars(extend("default" = TagOptions::BAD_AFTER))]
    pub bad_after: Option<Period>,
    /// What happens to a value outside min..max.
    #[schemars(extend("default" = OutOfRange::default()))]
    pub out_of_range: Option<OutOfRange>,
    /// How a structured value is written.
    #[schemars(extend("default" = Structure::default()))]
    pub structure: Option<Structure>,
    /// The lower engineering limit, in engineering units.
    pub min: Option<f64>,
    /// The upper engineering limit, in engineering units.
    pub max: Option<f64>,
    /// Warning limits: for the catalog only.
    pub warn: Option<[f64; 2]>,
    /// The raw range that `eu` maps to, linearly.
    pub raw: Option<[f64; 2]>,
    /// The engineering range that `raw` maps to.
    pub eu: Option<[f64; 2]>,
    /// Factor from raw to engineering units.
    pub scale: Option<f64>,
    /// Added after `scale`.
    pub offset: Option<f64>,
    /// Engineering unit: for the catalog.
    pub unit: Option<String>,
    /// Meaning of values: for the catalog.
    pub values: Option<BTreeMap<String, String>>,
    /// Named bits of a word: each becomes a boolean tag `name/bit`.
    pub bits: Option<BTreeMap<u8, String>>,
    /// `counter`, `gauge`, ...: for the catalog.
    pub kind: Option<String>,
    /// Free labels: for the catalog.
    pub labels: Option<BTreeMap<String, String>>,
    /// What it is, for people: for the catalog.
    pub description: Option<String>,
    /// The Kafka topic, where it differs from the source's.
    pub topic: Option<String>,
    /// Commands may write it (with `floor: {writes: allowed}` and a sink's `allow`).
    pub writable: Option<bool>,
}

macro_rules! merge {
    ($upper:expr, $lower:expr, $($field:ident),*) => {
        TagOptions { $($field: $upper.$field.clone().or_else(|| $lower.$field.clone())),* }
    };
}

impl TagOptions {
    /// What holds where no level says anything of `stale_after`, for tags that somebody vouches for beside their own values.
    pub const STALE_AFTER: Period = Period::from_secs(180);
    /// As [`STALE_AFTER`](Self::STALE_AFTER), of `bad_after`.
    pub const BAD_AFTER: Period = Period::from_secs(5);

    /// The keys of tag options; what else stands beside them belongs to the connector.
    pub const KEYS: [&'static str; 22] = [
        "report",
        "deadband",
        "at_least_every",
        "stale_after",
        "bad_after",
        "out_of_range",
        "structure",
        "min",
        "max",
        "warn",
        "raw",
        "eu",
        "scale",
        "offset",
        "unit",
        "values",
        "bits",
        "kind",
        "labels",
        "description",
        "topic",
        "writable",
    ];

    /// From the device's number to engineering units: factor and offset, of `raw` and `eu`, else of `scale` and `offset`. `None`: they are the same.
    pub fn scaling(&self) -> Option<(f64, f64)> {
        match (self.raw, self.eu, self.scale, self.offset) {
            (Some([raw_low, raw_high]), Some([low, high]), ..) if raw_high != raw_low => {
                let factor = (high - low) / (raw_high - raw_low);
                Some((factor, low - raw_low * factor))
            }
            (_, _, None, None) => None,
            (_, _, scale, offset) => Some((scale.unwrap_or(1.0), offset.unwrap_or(0.0))),
        }
    }

    /// These options, with what they leave open taken from the level above (`defaults` is the outermost).
    pub fn over(&self, outer: &Self) -> Self {
        merge!(
            self,
            outer,
            report,
            deadband,
            at_least_every,
            stale_after,
            bad_after,
            out_of_range,
            structure,
            min,
            max,
            warn,
            raw,
            eu,
            scale,
            offset,
            unit,
            values,
            bits,
            kind,
            labels,
            description,
            topic,
            writable
        )
    }
}

/// A mapping of the YAML that holds tag options beside a connector's own keys, each with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Tagged<T> {
    pub own: T,
    pub options: TagOptions,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Tagged<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        let (options, own) = node.take(&TagOptions::KEYS);
        let (own, options) = parse_halves(&own, &options, &TagOptions::KEYS)?;
        Ok(Self { own, options })
    }
}

impl<T: JsonSchema> JsonSchema for Tagged<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Tagged{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut own = T::json_schema(generator);
        add_keys(&mut own, &TagOptions::json_schema(generator));
        own
    }
}

/// Adds the keys of one mapping's schema to another's, where both stand in one mapping: what `additionalProperties: false` of either alone would
/// refuse. Of a mapping that has a shorthand, to its long form.
pub fn add_keys(to: &mut Schema, more: &Schema) {
    let object = match to.get_mut("anyOf").and_then(|any| any.as_array_mut()) {
        Some(shapes) => shapes.iter_mut().find_map(|shape| shape.as_object_mut().filter(|shape| shape.contains_key("properties"))),
        None => to.as_object_mut(),
    };
    let Some(object) = object else { return };
    if let Some(more) = more.get("properties").and_then(|keys| keys.as_object()) {
        let keys = object.entry("properties").or_insert_with(|| serde_json::Value::Object(Default::default()));
        if let Some(keys) = keys.as_object_mut() {
            keys.extend(more.iter().map(|(key, schema)| (key.clone(), schema.clone())));
        }
    }
    if let Some(more) = more.get("required").and_then(|keys| keys.as_array()) {
        let required = object.entry("required").or_insert_with(|| serde_json::Value::Array(Vec::new()));
        if let Some(required) = required.as_array_mut() {
            required.extend(more.iter().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_config::{Problems, Short, Shorthand};

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Register {
        /// The register.
        address: String,
    }

    impl Shorthand for Register {
        const KEY: &'static str = "address";
    }

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Device {
        tags: BTreeMap<String, Tagged<Short<Register>>>,
    }

    /// Line, message, help.
    type Found = Vec<(u32, String, Option<String>)>;

    fn parse(text: &str) -> (Option<Device>, Found) {
        let mut problems = Problems::new();
        let device = Node::from_yaml(text, &mut problems).expect("is YAML").parse(&mut problems);
        let found = problems.iter().map(|p| (problems.locate(p.place).line, p.message.clone(), p.help.clone())).collect();
        (device, found)
    }

    #[test]
    fn tag_options_stand_beside_a_connectors_own_keys_or_beside_none() {
        let (device, found) = parse("tags:\n  a: holding:1\n  b: {address: holding:2, unit: V, deadband: 1%, values: {0: off}}\n");
        assert_eq!(found, []);
        let tags = device.unwrap().tags;
        assert_eq!(tags["a"].own.0.address, "holding:1");
        assert_eq!(tags["a"].options, TagOptions::default());
        assert_eq!(tags["b"].options.deadband, Some(Deadband::Percent(1.0)));
        assert_eq!(tags["b"].options.values.as_ref().unwrap()["0"], "off");
    }

    #[test]
    fn problems_with_options_and_with_own_keys_come_at_once_with_their_places() {
        let (_, found) = parse("tags:\n  a: {adress: x,\n    stale_after: 5,\n    dedband: 1}\n  b: {address: y,\n    report: never}\n");
        let mut told: Vec<_> = found.iter().map(|(line, message, help)| (*line, message.as_str(), help.as_deref().unwrap_or(""))).collect();
        told.sort();
        assert_eq!(
            told,
            [
                (2, "unknown key `adress`", "did you mean `address`?"),
                (3, "`5` has no unit", "write `5s` for seconds or `5ms` for milliseconds"),
                (4, "unknown key `dedband`", "did you mean `deadband`?"),
                (6, "`never` is not one of `change`, `all`", ""),
            ]
        );
    }

    #[test]
    fn the_schema_has_both_parts_keys() {
        let schema = schemars::schema_for!(Device).to_value().to_string();
        assert!(schema.contains("\"address\"") && schema.contains("\"deadband\"") && schema.contains("anyOf"), "{schema}");
        assert_eq!(TagOptions::KEYS.len(), schemars::schema_for!(TagOptions).get("properties").unwrap().as_object().unwrap().len());
    }
}
