//! Produce: batches are checked, stored as they came, and answered when they are as safe as the client and the policy want.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::PartitionProduceData;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use std::sync::Arc;
use std::time::Duration;

use crate::api::{Call, Reply};
use crate::batch::Header;
use crate::broker::now;
use crate::partition::{Partition, Stored};
use crate::records::{Records, unpack};
use crate::topics::Topic;
use crate::transactions::Identity;

/// The codec that older clients cannot read.
const ZSTD: i16 = 4;
/// First version of Produce that may carry it.
const ZSTD_SINCE: i16 = 7;

/// What became of one partition's batch.
type Outcome = Result<(Arc<Partition>, Stored), ResponseError>;

pub async fn produce(call: &Call, request: ProduceRequest) -> Reply<ProduceResponse> {
    let (acks, wait) = (request.acks, Duration::from_millis(request.timeout_ms.max(0) as u64));
    let valid = matches!(acks, -1..=1);
    let id = request.transactional_id.as_ref().map(|id| id.as_str());
    // All of it is appended before anything is waited for: that keeps the order of a connection's requests.
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for data in request.topic_data {
        let topic = call.broker.topics.get(&data.name);
        let store = |partition: PartitionProduceData| {
            let outcome = match &topic {
                _ if !valid => Err(ResponseError::InvalidRequiredAcks),
                Some(topic) => store(call, topic, id, &partition),
                None => Err(ResponseError::UnknownTopicOrPartition),
            };
            (partition.index, outcome)
        };
        let outcomes: Vec<(i32, Outcome)> = data.partition_data.into_iter().map(store).collect();
        topics.push((data.name, outcomes));
    }
    if acks == 0 {
        return Reply::None;
    }
    let deadline = tokio::time::Instant::now() + wait;
    let mut response = ProduceResponse::default();
    for (name, outcomes) in topics {
        let mut partitions = Vec::with_capacity(outcomes.len());
        for (index, mut outcome) in outcomes {
            if acks == -1 && call.broker.sync.is_zero() {
                outcome = synced(outcome, deadline).await;
            }
            partitions.push(answer(index, outcome));
        }
        response.responses.push(TopicProduceResponse::default().with_name(name).with_partition_responses(partitions));
    }
    Reply::Answer(response)
}

fn store(call: &Call, topic: &Topic, id: Option<&str>, data: &PartitionProduceData) -> Outcome {
    let batch = data.records.as_deref().unwrap_or_default();
    let partition = call.broker.topics.partition_of(topic, data.index)?;
    let config = topic.config();
    if batch.len() > config.max_message_bytes {
        return Err(ResponseError::MessageTooLarge);
    }
    let header = Header::check(batch)?;
    if header.codec() == ZSTD && call.version < ZSTD_SINCE {
        return Err(ResponseError::UnsupportedCompressionType);
    }
    if config.compact && !all_have_keys(&header, batch) {
        return Err(ResponseError::InvalidRecord);
    }
    let now = now();
    if !config.log_append_time {
        let age = now.saturating_sub(header.newest_time);
        if header.newest_time >= 0 && (age > config.before_max_ms || age.saturating_neg() > config.after_max_ms) {
            return Err(ResponseError::InvalidTimestamp);
        }
    }
    let stored = partition.append(&header, batch, &config, now, || {
        let id = id.ok_or(ResponseError::InvalidTxnState)?;
        let who = Identity { producer_id: header.producer_id, epoch: header.producer_epoch };
        // A producer's writes know the fence by this name.
        let fenced = |e| if e == ResponseError::ProducerFenced { ResponseError::InvalidProducerEpoch } else { e };
        call.broker.transactions.may_write(id, who, &topic.name, data.index).map_err(fenced)
    })?;
    Ok((partition, stored))
}

/// A record without a key could not be told from others in a compacted topic.
fn all_have_keys(header: &Header, batch: &[u8]) -> bool {
    unpack(header, batch).is_some_and(|records| Records(&records).filter(|record| record.key.is_some()).count() == header.records as usize)
}

async fn synced(outcome: Outcome, deadline: tokio::time::Instant) -> Outcome {
    let (partition, stored) = outcome?;
    match tokio::time::timeout_at(deadline, partition.reach(stored.next)).await {
        Ok(true) => Ok((partition, stored)),
        Ok(false) => Err(ResponseError::NotLeaderOrFollower),
        Err(_) => Err(ResponseError::RequestTimedOut),
    }
}

fn answer(index: i32, outcome: Outcome) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(index);
    match outcome {
        Ok((partition, stored)) => response
            .with_base_offset(stored.base as i64)
            .with_log_append_time_ms(stored.time)
            .with_log_start_offset(partition.start() as i64),
        Err(e) => response.with_error_code(e.code()).with_base_offset(-1).with_log_append_time_ms(-1).with_log_start_offset(-1),
    }
}
