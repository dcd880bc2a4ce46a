//! What tools and user interfaces ask for beside topics and groups: partitions, records to delete, disks, epochs, producers, access rules.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_log_dirs_response::{DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic};
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::*;
use kafka_protocol::messages::{describe_transactions_response, list_transactions_response};
use kafka_protocol::protocol::StrBytes;

use crate::broker::NODE;
use crate::call::Call;
use crate::clock::now;
use crate::storage::partition::LEADER_EPOCH;
use crate::storage::refused::Refused;
use crate::transaction::state::{Phase, Transaction};

/// The only kind of endpoint that is described here; 2 would be controllers.
const BROKERS: i8 = 1;

pub async fn describe_cluster(call: &Call, request: DescribeClusterRequest) -> DescribeClusterResponse {
    let response = DescribeClusterResponse::default();
    if call.version >= 1 && request.endpoint_type != BROKERS {
        return response
            .with_error_code(ResponseError::MismatchedEndpointType.code())
            .with_error_message(Some(StrBytes::from_static_str("The request was sent to an endpoint of the wrong type.")));
    }
    let broker = DescribeClusterBroker::default()
        .with_broker_id(BrokerId(NODE))
        .with_host(StrBytes::from_string(call.session.local.ip().to_canonical().to_string()))
        .with_port(call.session.local.port().into());
    response
        .with_cluster_id(StrBytes::from_string(call.broker.cluster_id.clone()))
        .with_controller_id(BrokerId(NODE))
        .with_brokers(vec![broker])
}

pub async fn create_partitions(call: &Call, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut response = CreatePartitionsResponse::default();
    for (i, topic) in request.topics.iter().enumerate() {
        let is_twice = request.topics.iter().enumerate().any(|(j, other)| i != j && other.name == topic.name);
        let grown = if is_twice {
            Err((ResponseError::InvalidRequest, format!("Duplicate topic {} in the request.", &*topic.name)))
        } else {
            grow(call, topic, request.validate_only).await
        };
        let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        response.results.push(match grown {
            Ok(()) => result.with_error_message(None),
            Err((error, why)) => result.with_error_code(error.code()).with_error_message(Some(StrBytes::from_string(why))),
        });
    }
    response
}

async fn grow(call: &Call, wanted: &CreatePartitionsTopic, validate_only: bool) -> Result<(), Refused> {
    let topics = &call.broker.topics;
    let count = usize::try_from(wanted.count).unwrap_or(0);
    if let Some(assignments) = &wanted.assignments {
        let now = topics.get(&wanted.name).map_or(0, |topic| topic.partition_count());
        let is_here = assignments.iter().all(|assignment| assignment.broker_ids == [BrokerId(NODE)]);
        if !is_here || assignments.len() != count.saturating_sub(now) {
            let why = format!("Each new partition must be on node {NODE} alone.");
            return Err((ResponseError::InvalidReplicaAssignment, why));
        }
    }
    if validate_only { topics.may_grow(&wanted.name, count).map(drop) } else { topics.grow(&wanted.name, count).await }
}

pub async fn delete_records(call: &Call, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let mut response = DeleteRecordsResponse::default();
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in topic.partitions {
            let answer = DeleteRecordsPartitionResult::default().with_partition_index(wanted.partition_index);
            partitions.push(match delete_below(call, &topic.name, wanted.partition_index, wanted.offset).await {
                Ok(low) => answer.with_low_watermark(low as i64),
                Err(error) => answer.with_low_watermark(-1).with_error_code(error.code()),
            });
        }
        response.topics.push(DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions));
    }
    response
}

/// Deletes what lies below an offset (-1: everything); returns the first offset that is left.
async fn delete_below(call: &Call, topic: &str, index: i32, offset: i64) -> Result<u64, ResponseError> {
    let partition = call.broker.topics.partition(topic, index)?;
    let topic = call.broker.topics.get(topic).ok_or(ResponseError::UnknownTopicOrPartition)?;
    if !topic.config().delete {
        // A topic that is only compacted keeps the last of each key.
        return Err(ResponseError::PolicyViolation);
    }
    let offset = match offset {
        -1 => partition.end(),
        offset => u64::try_from(offset).ok().filter(|offset| *offset <= partition.end()).ok_or(ResponseError::OffsetOutOfRange)?,
    };
    // It syncs.
    let deleted = tokio::task::spawn_blocking(move || partition.delete_below(offset).map(|()| partition.start())).await;
    deleted.map_err(|_| ResponseError::KafkaStorageError)?.map_err(|error| {
        tracing::warn!(topic = %topic.name, partition = index, %error, "records could not be deleted");
        ResponseError::KafkaStorageError
    })
}

pub async fn offset_for_leader_epoch(call: &Call, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let end = |topic: &TopicName, wanted: &OffsetForLeaderPartition| {
        let answer = EpochEndOffset::default().with_partition(wanted.partition);
        let partition = match call.broker.topics.partition(topic, wanted.partition) {
            Ok(partition) => partition,
            Err(error) => return answer.with_error_code(error.code()).with_leader_epoch(-1).with_end_offset(-1),
        };
        let refused = match wanted.current_leader_epoch {
            -1 | LEADER_EPOCH => None,
            newer if newer > LEADER_EPOCH => Some(ResponseError::UnknownLeaderEpoch),
            _ => Some(ResponseError::FencedLeaderEpoch),
        };
        match refused {
            Some(error) => answer.with_error_code(error.code()).with_leader_epoch(-1).with_end_offset(-1),
            // There has been one epoch only.
            None if wanted.leader_epoch == LEADER_EPOCH => answer.with_leader_epoch(LEADER_EPOCH).with_end_offset(partition.end() as i64),
            None => answer.with_leader_epoch(-1).with_end_offset(-1),
        }
    };
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| end(&topic.topic, wanted)).collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone()).with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

pub async fn describe_log_dirs(call: &Call, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let topics = &call.broker.topics;
    let wanted: Vec<(TopicName, Vec<i32>)> = match request.topics {
        Some(topics) => topics.into_iter().map(|topic| (topic.topic, topic.partitions)).collect(),
        None => {
            let all = |topic: &crate::storage::topics::Topic| (0..topic.partition_count() as i32).collect();
            let name = |topic: &crate::storage::topics::Topic| TopicName(StrBytes::from_string(topic.name.to_string()));
            topics.all().iter().map(|topic| (name(topic), all(topic))).collect()
        }
    };
    let described = wanted.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().filter_map(|index| {
            let bytes = topics.partition(&name, index).ok()?.bytes();
            Some(DescribeLogDirsPartition::default().with_partition_index(index).with_partition_size(bytes as i64))
        });
        let partitions = partitions.collect();
        DescribeLogDirsTopic::default().with_name(name).with_partitions(partitions)
    });
    let mut result = DescribeLogDirsResult::default()
        .with_log_dir(StrBytes::from_string(call.broker.store.dir().display().to_string()))
        .with_topics(described.filter(|topic| !topic.partitions.is_empty()).collect());
    if call.version >= 4
        && let Ok(space) = call.broker.store.space()
    {
        (result.total_bytes, result.usable_bytes) = (space.total as i64, space.free as i64);
    }
    DescribeLogDirsResponse::default().with_results(vec![result])
}

/// There are no access rules here; Apache Kafka without an authorizer says so in the same words.
pub async fn describe_acls(_: &Call, _: DescribeAclsRequest) -> DescribeAclsResponse {
    DescribeAclsResponse::default()
        .with_error_code(ResponseError::SecurityDisabled.code())
        .with_error_message(Some(StrBytes::from_static_str("No Authorizer is configured on the broker")))
}

pub async fn describe_producers(call: &Call, request: DescribeProducersRequest) -> DescribeProducersResponse {
    let describe = |topic: &TopicName, index: i32| {
        let answer = PartitionResponse::default().with_partition_index(index);
        match call.broker.topics.partition(topic, index) {
            Ok(partition) => {
                let state = |seen: crate::storage::producers::Seen| {
                    ProducerState::default()
                        .with_producer_id(ProducerId(seen.producer_id))
                        .with_producer_epoch(seen.epoch.into())
                        .with_last_sequence(seen.last_sequence)
                        .with_last_timestamp(seen.used)
                        .with_coordinator_epoch(0)
                        .with_current_txn_start_offset(seen.open.map_or(-1, |offset| offset as i64))
                };
                answer.with_active_producers(partition.producers().into_iter().map(state).collect())
            }
            Err(error) => answer.with_error_code(error.code()),
        }
    };
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| describe(&topic.name, *index)).collect();
        TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions)
    });
    DescribeProducersResponse::default().with_topics(topics.collect())
}

pub async fn list_transactions(call: &Call, request: ListTransactionsRequest) -> ListTransactionsResponse {
    let is_known = |state: &StrBytes| Phase::ALL.iter().any(|phase| phase.name() == &**state);
    let unknown = request.state_filters.iter().filter(|state| !is_known(state)).cloned().collect();
    let now = now();
    let is_wanted = |transaction: &Transaction| {
        let of_state = request.state_filters.is_empty() || request.state_filters.iter().any(|state| **state == *transaction.phase.name());
        let of_producer =
            request.producer_id_filters.is_empty() || request.producer_id_filters.iter().any(|id| id.0 == transaction.producer_id);
        let is_long = request.duration_filter < 0 || transaction.started >= 0 && now - transaction.started > request.duration_filter;
        of_state && of_producer && is_long
    };
    let listed = call.broker.transactions.all().into_iter().filter(|(_, transaction)| is_wanted(transaction)).map(|(id, transaction)| {
        list_transactions_response::TransactionState::default()
            .with_transactional_id(TransactionalId(StrBytes::from_string(id)))
            .with_producer_id(ProducerId(transaction.producer_id))
            .with_transaction_state(StrBytes::from_static_str(transaction.phase.name()))
    });
    ListTransactionsResponse::default().with_transaction_states(listed.collect()).with_unknown_state_filters(unknown)
}

pub async fn describe_transactions(call: &Call, request: DescribeTransactionsRequest) -> DescribeTransactionsResponse {
    let describe = |id: TransactionalId| {
        let answer = describe_transactions_response::TransactionState::default();
        let described = match call.broker.transactions.get(&id) {
            Some(transaction) => answer
                .with_transaction_state(StrBytes::from_static_str(transaction.phase.name()))
                .with_transaction_timeout_ms(transaction.timeout_ms)
                .with_transaction_start_time_ms(transaction.started)
                .with_producer_id(ProducerId(transaction.producer_id))
                .with_producer_epoch(transaction.epoch)
                .with_topics(topics_of(&transaction)),
            None => answer.with_error_code(ResponseError::TransactionalIdNotFound.code()),
        };
        described.with_transactional_id(id)
    };
    DescribeTransactionsResponse::default().with_transaction_states(request.transactional_ids.into_iter().map(describe).collect())
}

/// The partitions a transaction has touched, by topic; they are in order.
fn topics_of(transaction: &Transaction) -> Vec<describe_transactions_response::TopicData> {
    let mut topics: Vec<describe_transactions_response::TopicData> = Vec::new();
    for (topic, index) in &transaction.partitions {
        match topics.last_mut().filter(|last| **last.topic == **topic) {
            Some(last) => last.partitions.push(*index),
            None => {
                let name = TopicName(StrBytes::from_string(topic.clone()));
                topics.push(describe_transactions_response::TopicData::default().with_topic(name).with_partitions(vec![*index]));
            }
        }
    }
    topics
}

/// A partition has one replica, and nowhere to go.
pub async fn list_partition_reassignments(_: &Call, _: ListPartitionReassignmentsRequest) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default().with_error_message(None)
}
