//! Metadata: this node, and which topics and partitions there are. A topic that is asked for is created if the client allows it.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{
    BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::broker::{DEFAULT_PARTITIONS, NODE};
use crate::call::Call;
use crate::storage::partition::LEADER_EPOCH;
use crate::storage::topics::{Topic, check_name};

pub async fn metadata(call: &Call, request: MetadataRequest) -> MetadataResponse {
    let mut response = MetadataResponse::default()
        .with_brokers(vec![
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(NODE))
                .with_host(StrBytes::from_string(call.session.local.ip().to_canonical().to_string()))
                .with_port(call.session.local.port().into()),
        ])
        .with_controller_id(BrokerId(NODE));
    if call.version >= 2 {
        response.cluster_id = Some(StrBytes::from_string(call.broker.cluster_id.clone()));
    }
    match request.topics.filter(|topics| call.version >= 1 || !topics.is_empty()) {
        None => response.topics = call.broker.topics.all().iter().map(|topic| describe(call, topic)).collect(),
        Some(wanted) => {
            // Before version 4 a client could not forbid it.
            let may_create = call.version < 4 || request.allow_auto_topic_creation;
            for wanted in wanted {
                // Java's admin client sends an empty name beside an id.
                response.topics.push(match wanted.name.filter(|_| wanted.topic_id.is_nil()) {
                    Some(name) => by_name(call, name, may_create).await,
                    None => match call.broker.topics.by_id(wanted.topic_id) {
                        Some(topic) => describe(call, &topic),
                        None => MetadataResponseTopic::default()
                            .with_name(None)
                            .with_topic_id(wanted.topic_id)
                            .with_error_code(ResponseError::UnknownTopicId.code()),
                    },
                });
            }
        }
    }
    response
}

async fn by_name(call: &Call, name: TopicName, may_create: bool) -> MetadataResponseTopic {
    let topics = &call.broker.topics;
    if let Some(topic) = topics.get(&name) {
        return describe(call, &topic);
    }
    let error = if may_create {
        match topics.create(&name, DEFAULT_PARTITIONS, BTreeMap::new()).await {
            Ok(topic) => return describe(call, &topic),
            Err((ResponseError::TopicAlreadyExists, _)) => ResponseError::LeaderNotAvailable,
            Err((error, _)) => error,
        }
    } else if check_name(&name).is_err() {
        ResponseError::InvalidTopicException
    } else {
        ResponseError::UnknownTopicOrPartition
    };
    MetadataResponseTopic::default().with_name(Some(name)).with_error_code(error.code())
}

fn describe(call: &Call, topic: &Topic) -> MetadataResponseTopic {
    let partition = |index: usize| {
        let partition = MetadataResponsePartition::default()
            .with_partition_index(index as i32)
            .with_leader_id(BrokerId(NODE))
            .with_replica_nodes(vec![BrokerId(NODE)])
            .with_isr_nodes(vec![BrokerId(NODE)]);
        if call.version >= 7 { partition.with_leader_epoch(LEADER_EPOCH) } else { partition }
    };
    let described = MetadataResponseTopic::default()
        .with_name(Some(StrBytes::from_string(topic.name.to_string()).into()))
        .with_partitions((0..topic.partition_count()).map(partition).collect());
    if call.version >= 10 { described.with_topic_id(topic.id) } else { described }
}

/// Partitions in one answer of DescribeTopicPartitions, as Kafka's `max.request.partition.size.limit`.
const MOST_DESCRIBED: usize = 2_000;

/// The same by topics in order of their names, in pages: a cursor says where the next one begins.
pub async fn describe_topic_partitions(call: &Call, request: DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let mut names: Vec<String> = match request.topics.is_empty() {
        true => call.broker.topics.all().iter().map(|topic| topic.name.to_string()).collect(),
        false => request.topics.iter().map(|topic| topic.name.to_string()).collect(),
    };
    names.sort_unstable();
    names.dedup();
    let (from, mut first) = request.cursor.map_or_else(Default::default, |at| (at.topic_name.to_string(), at.partition_index.max(0)));
    let mut room = (request.response_partition_limit.max(1) as usize).min(MOST_DESCRIBED);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names.into_iter().filter(|name| *name >= from) {
        let begin = if name == from { std::mem::take(&mut first) } else { 0 };
        let known = TopicName(StrBytes::from_string(name.clone()));
        if room == 0 {
            response.next_cursor = Some(Cursor::default().with_topic_name(known).with_partition_index(begin));
            break;
        }
        let described = DescribeTopicPartitionsResponseTopic::default().with_name(Some(known.clone()));
        let Some(topic) = call.broker.topics.get(&name) else {
            response.topics.push(described.with_error_code(ResponseError::UnknownTopicOrPartition.code()));
            continue;
        };
        let partition = |index: i32| {
            DescribeTopicPartitionsResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(BrokerId(NODE))
                .with_leader_epoch(LEADER_EPOCH)
                .with_replica_nodes(vec![BrokerId(NODE)])
                .with_isr_nodes(vec![BrokerId(NODE)])
                .with_eligible_leader_replicas(Some(Vec::new()))
                .with_last_known_elr(Some(Vec::new()))
        };
        let count = topic.partition_count() as i32;
        let end = count.min(begin.saturating_add(room as i32));
        let partitions: Vec<_> = (begin..end).map(partition).collect();
        room -= partitions.len();
        response.topics.push(described.with_topic_id(topic.id).with_partitions(partitions));
        if end < count {
            response.next_cursor = Some(Cursor::default().with_topic_name(known).with_partition_index(end));
            break;
        }
    }
    response
}
