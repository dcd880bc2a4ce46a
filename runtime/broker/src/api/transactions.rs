//! InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn and EndTxn.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_response::{AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, EndTxnRequest, EndTxnResponse,
    InitProducerIdRequest, InitProducerIdResponse,
};

use crate::call::Call;
use crate::transaction::state::Identity;

/// Clients before these versions know the fence by another name.
const FENCED_SINCE_INIT: i16 = 4;
const FENCED_SINCE: i16 = 2;

fn code(error: ResponseError, version: i16, since: i16) -> i16 {
    match error {
        ResponseError::ProducerFenced if version < since => ResponseError::InvalidProducerEpoch.code(),
        error => error.code(),
    }
}

pub async fn init_producer_id(call: &Call, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let had = (request.producer_id.0 >= 0).then_some(Identity { producer_id: request.producer_id.0, epoch: request.producer_epoch });
    let given = match &request.transactional_id {
        Some(id) => call.broker.init_producer(id, request.transaction_timeout_ms, had).await,
        None => call.broker.transactions.new_producer().await.map(|producer_id| Identity { producer_id, epoch: 0 }),
    };
    let response = InitProducerIdResponse::default();
    match given {
        Ok(identity) => response.with_producer_id(identity.producer_id.into()).with_producer_epoch(identity.epoch),
        Err(error) => {
            response.with_error_code(code(error, call.version, FENCED_SINCE_INIT)).with_producer_id((-1).into()).with_producer_epoch(-1)
        }
    }
}

pub async fn add_partitions(call: &Call, request: AddPartitionsToTxnRequest) -> AddPartitionsToTxnResponse {
    let who = Identity { producer_id: request.v3_and_below_producer_id.0, epoch: request.v3_and_below_producer_epoch };
    let topics = &request.v3_and_below_topics;
    let exists = |topic: &str, index: i32| {
        let count = call.broker.topics.get(topic).map_or(0, |topic| topic.partition_count());
        usize::try_from(index).is_ok_and(|index| index < count)
    };
    let wanted = || topics.iter().flat_map(|topic| topic.partitions.iter().map(|index| (topic.name.to_string(), *index)));
    let all_known = wanted().all(|(topic, index)| exists(&topic, index));
    let added = if all_known {
        let partitions: Vec<_> = wanted().collect();
        call.broker.transactions.add_partitions(&request.v3_and_below_transactional_id, who, &partitions).await
    } else {
        Ok(())
    };
    let result = |topic: &str, index: i32| {
        let error = match &added {
            Err(error) => code(*error, call.version, FENCED_SINCE),
            Ok(()) if all_known => 0,
            // All or none: what is known is not added either.
            Ok(()) if exists(topic, index) => ResponseError::OperationNotAttempted.code(),
            Ok(()) => ResponseError::UnknownTopicOrPartition.code(),
        };
        AddPartitionsToTxnPartitionResult::default().with_partition_index(index).with_partition_error_code(error)
    };
    let results = topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|index| result(&topic.name, *index)).collect();
        AddPartitionsToTxnTopicResult::default().with_name(topic.name.clone()).with_results_by_partition(partitions)
    });
    AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results.collect())
}

pub async fn add_offsets(call: &Call, request: AddOffsetsToTxnRequest) -> AddOffsetsToTxnResponse {
    let who = Identity { producer_id: request.producer_id.0, epoch: request.producer_epoch };
    let added = call.broker.transactions.add_group(&request.transactional_id, who, &request.group_id).await;
    AddOffsetsToTxnResponse::default().with_error_code(added.map_or_else(|error| code(error, call.version, FENCED_SINCE), |()| 0))
}

pub async fn end_transaction(call: &Call, request: EndTxnRequest) -> EndTxnResponse {
    let who = Identity { producer_id: request.producer_id.0, epoch: request.producer_epoch };
    let ended = call.broker.end_transaction(&request.transactional_id, who, request.committed).await;
    EndTxnResponse::default().with_error_code(ended.map_or_else(|error| code(error, call.version, FENCED_SINCE), |()| 0))
}
