//! DescribeConfigs, IncrementalAlterConfigs, AlterConfigs: what topics are told, and what the broker goes by.
//!
//! A topic's keys are those of [`crate::storage::topic_config`]. The broker's are read-only here: its YAML or its command line says them.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse as AlteredResponse;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use crate::api::topics::{DEFAULT_CONFIG, DYNAMIC_TOPIC_CONFIG};
use crate::broker::{DEFAULT_PARTITIONS, NODE};
use crate::call::Call;
use crate::storage::refused::Refused;
use crate::storage::topic_config::{KEYS, Key, Kind, TopicConfig, key};

/// Kinds of resources, in the protocol's numbers.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Where a value comes from: the file or command line that the broker was started with.
const STATIC_BROKER_CONFIG: i8 = 4;

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

/// A kind of value, in the protocol's numbers.
fn config_type(kind: Kind) -> i8 {
    match kind {
        Kind::Bool => 1,
        Kind::Text => 2,
        Kind::Int => 3,
        Kind::Long => 5,
        Kind::Double => 6,
        Kind::List => 7,
    }
}

pub async fn describe_configs(call: &Call, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = request.resources.iter().map(|resource| {
        let result =
            DescribeConfigsResult::default().with_resource_type(resource.resource_type).with_resource_name(resource.resource_name.clone());
        match describe(call, resource, request.include_synonyms) {
            Ok(configs) => result.with_configs(configs).with_error_message(None),
            Err((error, why)) => result.with_error_code(error.code()).with_error_message(Some(text(why))),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn describe(call: &Call, resource: &DescribeConfigsResource, synonyms: bool) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
    let is_wanted = |name: &str| match &resource.configuration_keys {
        Some(wanted) => wanted.iter().any(|wanted| **wanted == *name),
        None => true,
    };
    match resource.resource_type {
        TOPIC => {
            let topic = topic_config(call, &resource.resource_name)?;
            Ok(KEYS.iter().filter(|key| is_wanted(key.name)).map(|key| describe_key(call, key, &topic, synonyms)).collect())
        }
        BROKER => {
            is_this_node(&resource.resource_name)?;
            let described = broker_values(call).into_iter().filter(|(name, ..)| is_wanted(name));
            Ok(described.map(|(name, kind, value)| describe_value(call, name, kind, value, synonyms)).collect())
        }
        _ => Ok(Vec::new()),
    }
}

fn describe_key(call: &Call, key: &Key, topic: &TopicConfig, synonyms: bool) -> DescribeConfigsResourceResult {
    let given = topic.given.get(key.name);
    let synonym = |value: &str, source: i8| {
        DescribeConfigsSynonym::default().with_name(StrBytes::from_static_str(key.name)).with_value(Some(text(value))).with_source(source)
    };
    let mut result = DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(key.name))
        .with_value(Some(text(given.map_or(key.default, String::as_str))))
        .with_config_source(if given.is_some() { DYNAMIC_TOPIC_CONFIG } else { DEFAULT_CONFIG });
    if synonyms {
        result.synonyms = given.iter().map(|value| synonym(value, DYNAMIC_TOPIC_CONFIG)).collect();
        result.synonyms.push(synonym(key.default, DEFAULT_CONFIG));
    }
    if call.version >= 3 { result.with_config_type(config_type(key.kind)) } else { result }
}

fn describe_value(call: &Call, name: &'static str, kind: Kind, value: String, synonyms: bool) -> DescribeConfigsResourceResult {
    let mut result = DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(name))
        .with_value(Some(text(&*value)))
        .with_read_only(true)
        .with_config_source(STATIC_BROKER_CONFIG);
    if synonyms {
        result.synonyms = vec![
            DescribeConfigsSynonym::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(text(value)))
                .with_source(STATIC_BROKER_CONFIG),
        ];
    }
    if call.version >= 3 { result.with_config_type(config_type(kind)) } else { result }
}

/// What the broker goes by, under the names that Apache Kafka has for it.
fn broker_values(call: &Call) -> Vec<(&'static str, Kind, String)> {
    let groups = call.broker.groups.settings();
    let default = |name: &str| key(name).map_or("", |key| key.default).to_owned();
    let retention_ms = default("retention.ms").parse::<i64>().unwrap_or(-1);
    vec![
        ("advertised.listeners", Kind::Text, format!("PLAINTEXT://{}", call.session.local)),
        ("auto.create.topics.enable", Kind::Bool, "true".into()),
        ("broker.id", Kind::Int, NODE.to_string()),
        ("compression.type", Kind::Text, default("compression.type")),
        ("default.replication.factor", Kind::Int, "1".into()),
        ("delete.topic.enable", Kind::Bool, "true".into()),
        ("group.max.session.timeout.ms", Kind::Int, groups.session_max.as_millis().to_string()),
        ("group.min.session.timeout.ms", Kind::Int, groups.session_min.as_millis().to_string()),
        ("listeners", Kind::Text, format!("PLAINTEXT://{}", call.broker.listening())),
        ("log.cleanup.policy", Kind::List, default("cleanup.policy")),
        ("log.dirs", Kind::Text, call.broker.store.dir().display().to_string()),
        ("log.retention.bytes", Kind::Long, default("retention.bytes")),
        ("log.retention.hours", Kind::Int, (retention_ms / 3_600_000).to_string()),
        ("log.retention.ms", Kind::Long, retention_ms.to_string()),
        ("log.segment.bytes", Kind::Int, default("segment.bytes")),
        ("message.max.bytes", Kind::Int, default("max.message.bytes")),
        ("min.insync.replicas", Kind::Int, default("min.insync.replicas")),
        ("node.id", Kind::Int, NODE.to_string()),
        ("num.partitions", Kind::Int, DEFAULT_PARTITIONS.to_string()),
        ("offset.metadata.max.bytes", Kind::Int, groups.metadata_max.to_string()),
        ("offsets.retention.minutes", Kind::Int, (groups.offsets_retention.as_secs() / 60).to_string()),
        ("offsets.topic.replication.factor", Kind::Int, "1".into()),
        ("process.roles", Kind::List, "broker,controller".into()),
        ("unclean.leader.election.enable", Kind::Bool, default("unclean.leader.election.enable")),
    ]
}

fn is_this_node(name: &str) -> Result<(), Refused> {
    if name.is_empty() || name.parse() == Ok(NODE) {
        return Ok(());
    }
    let why = format!("Unexpected broker id, expected {NODE} or empty string, but received {name}");
    Err((ResponseError::InvalidRequest, why))
}

fn topic_config(call: &Call, name: &str) -> Result<std::sync::Arc<TopicConfig>, Refused> {
    let unknown = || (ResponseError::UnknownTopicOrPartition, format!("The topic '{name}' does not exist."));
    call.broker.topics.get(name).map(|topic| topic.config()).ok_or_else(unknown)
}

/// How a value changes, in the protocol's numbers.
#[derive(Clone, Copy)]
enum Change {
    Set,
    Delete,
    Append,
    Subtract,
}

impl Change {
    fn of(number: i8) -> Result<Self, Refused> {
        match number {
            0 => Ok(Self::Set),
            1 => Ok(Self::Delete),
            2 => Ok(Self::Append),
            3 => Ok(Self::Subtract),
            _ => Err((ResponseError::InvalidRequest, format!("Unknown config operation {number}"))),
        }
    }

    /// Applies one change to what a topic was given.
    fn apply(self, given: &mut BTreeMap<String, String>, name: &str, value: Option<&str>) -> Result<(), Refused> {
        let invalid = |why: String| (ResponseError::InvalidConfig, why);
        let known = key(name).ok_or_else(|| invalid(format!("Unknown topic config name: {name}")))?;
        let value = match (self, value) {
            (Self::Delete, _) => {
                given.remove(name);
                return Ok(());
            }
            (_, Some(value)) => value,
            (_, None) => return Err((ResponseError::InvalidRequest, format!("Null value not supported for {name}"))),
        };
        if let Self::Set = self {
            given.insert(name.to_owned(), value.to_owned());
            return Ok(());
        }
        if known.kind != Kind::List {
            return Err(invalid(format!("Config value append is not allowed for config key: {name}")));
        }
        let now = given.get(name).map_or(known.default, String::as_str).to_owned();
        let mut words: Vec<&str> = now.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
        let changed = value.split(',').map(str::trim);
        match self {
            Self::Append => changed.for_each(|word| {
                if !words.contains(&word) {
                    words.push(word);
                }
            }),
            _ => changed.for_each(|word| words.retain(|kept| *kept != word)),
        }
        given.insert(name.to_owned(), words.join(","));
        Ok(())
    }
}

/// Gives a topic another configuration, or only looks whether it could be given.
async fn give(
    call: &Call,
    kind: i8,
    name: &str,
    given: Result<BTreeMap<String, String>, Refused>,
    validate_only: bool,
) -> Result<(), Refused> {
    let given = given?;
    if kind != TOPIC {
        let why = "Only topics can be configured here; the broker goes by its own file or command line.".to_owned();
        return Err((ResponseError::InvalidRequest, why));
    }
    if validate_only {
        return TopicConfig::new(given).map(drop);
    }
    call.broker.topics.configure(name, given).await
}

pub async fn incremental_alter_configs(call: &Call, request: IncrementalAlterConfigsRequest) -> IncrementalAlterConfigsResponse {
    let mut response = IncrementalAlterConfigsResponse::default();
    for resource in request.resources {
        let changed = || {
            let mut given = match resource.resource_type {
                TOPIC => topic_config(call, &resource.resource_name)?.given.clone(),
                _ => BTreeMap::new(),
            };
            for config in resource.configs.iter().filter(|_| resource.resource_type == TOPIC) {
                Change::of(config.config_operation)?.apply(&mut given, &config.name, config.value.as_deref())?;
            }
            Ok(given)
        };
        let altered = give(call, resource.resource_type, &resource.resource_name, changed(), request.validate_only).await;
        let result = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        response.responses.push(match altered {
            Ok(()) => result.with_error_message(None),
            Err((error, why)) => result.with_error_code(error.code()).with_error_message(Some(text(why))),
        });
    }
    response
}

/// The older way: what is not said is forgotten.
pub async fn alter_configs(call: &Call, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let mut response = AlterConfigsResponse::default();
    for resource in request.resources {
        let given = || {
            if resource.resource_type == TOPIC {
                topic_config(call, &resource.resource_name)?;
            }
            let configs = resource.configs.iter().filter_map(|config| Some((config.name.to_string(), config.value.as_ref()?.to_string())));
            Ok(configs.collect())
        };
        let altered = give(call, resource.resource_type, &resource.resource_name, given(), request.validate_only).await;
        let result =
            AlteredResponse::default().with_resource_type(resource.resource_type).with_resource_name(resource.resource_name.clone());
        response.responses.push(match altered {
            Ok(()) => result.with_error_message(None),
            Err((error, why)) => result.with_error_code(error.code()).with_error_message(Some(text(why))),
        });
    }
    response
}
