//! CreateTopics and DeleteTopics.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::broker::{DEFAULT_PARTITIONS, NODE};
use crate::call::Call;
use crate::storage::refused::Refused;
use crate::storage::topic_config::{KEYS, TopicConfig};

/// Where a configuration's value comes from, in the protocol's numbers.
pub const DYNAMIC_TOPIC_CONFIG: i8 = 1;
pub const DEFAULT_CONFIG: i8 = 5;

pub async fn create_topics(call: &Call, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let (mut response, mut written) = (CreateTopicsResponse::default(), 0);
    for (i, topic) in request.topics.iter().enumerate() {
        let twice = request.topics.iter().enumerate().any(|(j, other)| i != j && other.name == topic.name);
        let created = if twice {
            Err((ResponseError::InvalidRequest, format!("Duplicate topic {} in the request.", &*topic.name)))
        } else {
            create(call, topic, request.validate_only, &mut written)
        };
        let result = CreatableTopicResult::default().with_name(topic.name.clone());
        response.topics.push(match created {
            Ok(created) => describe(call, result, created),
            Err((error, why)) => {
                let result = result.with_error_code(error.code()).with_error_message(Some(StrBytes::from_string(why)));
                if call.version >= 5 { result.with_num_partitions(-1).with_replication_factor(-1) } else { result }
            }
        });
    }
    // All of them with one fdatasync.
    call.broker.topics.reach(written).await;
    response
}

/// What a created topic is like.
struct Created {
    id: uuid::Uuid,
    partitions: usize,
    config: TopicConfig,
}

fn create(call: &Call, topic: &CreatableTopic, validate_only: bool, written: &mut u64) -> Result<Created, Refused> {
    if call.broker.topics.get(&topic.name).is_some() {
        return Err((ResponseError::TopicAlreadyExists, format!("Topic '{}' already exists.", &*topic.name)));
    }
    let partitions = partitions(topic)?;
    let given = topic.configs.iter().filter_map(|config| Some((config.name.to_string(), config.value.as_ref()?.to_string())));
    let given: BTreeMap<_, _> = given.collect();
    if validate_only {
        let config = call.broker.topics.may_create(&topic.name, partitions, given)?;
        return Ok(Created { id: uuid::Uuid::nil(), partitions, config });
    }
    let (topic, until) = call.broker.topics.begin(&topic.name, partitions, given)?;
    *written = (*written).max(until);
    Ok(Created { id: topic.id, partitions, config: (*topic.config()).clone() })
}

/// How many partitions are wanted: counted, or assigned one by one to this node.
fn partitions(topic: &CreatableTopic) -> Result<usize, Refused> {
    let refuse = |error, why: String| Err((error, why));
    if !topic.assignments.is_empty() {
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            return refuse(
                ResponseError::InvalidRequest,
                "Both numPartitions or replicationFactor and replicasAssignments were set.".to_owned(),
            );
        }
        let mut indexes: Vec<i32> = topic.assignments.iter().map(|assignment| assignment.partition_index).collect();
        indexes.sort_unstable();
        let consecutive = indexes.iter().enumerate().all(|(i, index)| i as i32 == *index);
        let here = topic.assignments.iter().all(|assignment| assignment.broker_ids.iter().map(|id| id.0).eq([NODE]));
        if !consecutive || !here {
            return refuse(
                ResponseError::InvalidReplicaAssignment,
                format!("Partitions must be numbered from 0 and each be on node {NODE} alone."),
            );
        }
        return Ok(indexes.len());
    }
    if !matches!(topic.replication_factor, -1 | 1) {
        let why = format!(
            "Unable to replicate the partition {} time(s): The target replication factor of {} cannot be reached because only 1 broker(s) are registered.",
            topic.replication_factor, topic.replication_factor
        );
        return refuse(ResponseError::InvalidReplicationFactor, why);
    }
    match topic.num_partitions {
        -1 => Ok(DEFAULT_PARTITIONS),
        count if count > 0 => Ok(count as usize),
        _ => refuse(ResponseError::InvalidPartitions, "Number of partitions was set to an invalid non-positive value.".to_owned()),
    }
}

fn describe(call: &Call, result: CreatableTopicResult, created: Created) -> CreatableTopicResult {
    if call.version < 5 {
        return result;
    }
    let configs = KEYS.iter().map(|key| {
        let given = created.config.given.get(key.name);
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(key.name))
            .with_value(Some(StrBytes::from_string(given.cloned().unwrap_or_else(|| key.default.to_owned()))))
            .with_config_source(if given.is_some() { DYNAMIC_TOPIC_CONFIG } else { DEFAULT_CONFIG })
    });
    let result = result.with_num_partitions(created.partitions as i32).with_replication_factor(1).with_configs(Some(configs.collect()));
    if call.version >= 7 { result.with_topic_id(created.id) } else { result }
}

pub async fn delete_topics(call: &Call, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let mut response = DeleteTopicsResponse::default();
    // Version 6 names topics by name or id, the older ones by name.
    let named = request.topic_names.into_iter().map(|name| (Some(name), uuid::Uuid::nil()));
    let wanted: Vec<_> = named.chain(request.topics.into_iter().map(|topic| (topic.name, topic.topic_id))).collect();
    for (name, id) in wanted {
        let found = match &name {
            Some(name) => call.broker.topics.get(name).ok_or(ResponseError::UnknownTopicOrPartition),
            None => call.broker.topics.by_id(id).ok_or(ResponseError::UnknownTopicId),
        };
        let deleted = match &found {
            Ok(topic) => delete(call, &topic.name).await,
            Err(error) => Err((*error, "This server does not host this topic-partition.".to_owned())),
        };
        let name = found.as_ref().map_or(name, |topic| Some(StrBytes::from_string(topic.name.to_string()).into()));
        let mut result = DeletableTopicResult::default().with_name(name);
        if call.version >= 6 {
            result.topic_id = found.map_or(id, |topic| topic.id);
        }
        if let Err((error, why)) = deleted {
            result.error_code = error.code();
            if call.version >= 5 {
                result.error_message = Some(StrBytes::from_string(why));
            }
        }
        response.responses.push(result);
    }
    response
}

async fn delete(call: &Call, topic: &str) -> Result<(), Refused> {
    call.broker.topics.delete(topic).await?;
    if call.broker.groups.forget_topic(topic).is_err() {
        // They mean nothing, and go with their groups.
        tracing::warn!(topic, "the offsets that groups have committed in the topic could not be deleted");
    }
    Ok(())
}
