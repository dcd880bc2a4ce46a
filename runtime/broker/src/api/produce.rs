//! Produce: batches are checked, stored as they came, and answered when they are as safe as the client and the policy want.

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::PartitionProduceData;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use millrace_batches::BatchFault;
use std::sync::Arc;
use std::time::Duration;

use crate::call::{Call, Reply};
use crate::clock::now;
use crate::storage::batch::Header;
use crate::storage::partition::{Partition, Stored};
use crate::storage::records::all_have_keys;
use crate::storage::topics::Topic;
use crate::transaction::state::Identity;

/// The codec that older clients cannot read.
const ZSTD: i16 = 4;
/// First version of Produce that may carry it.
const ZSTD_SINCE: i16 = 7;

/// What became of one partition's batch.
type Outcome = Result<(Arc<Partition>, Stored), ResponseError>;

/// What a client is told of a batch that cannot be stored.
pub fn refusal(fault: BatchFault) -> ResponseError {
    match fault {
        BatchFault::Corrupt => ResponseError::CorruptMessage,
        BatchFault::Invalid => ResponseError::InvalidRecord,
    }
}

pub async fn produce(call: &Call, request: ProduceRequest) -> Reply<ProduceResponse> {
    let (acks, wait) = (request.acks, Duration::from_millis(request.timeout_ms.max(0) as u64));
    let valid = matches!(acks, -1..=1);
    let id = request.transactional_id.as_ref().map(|id| id.as_str());
    // All of it is appended before anything is waited for: that keeps the order of a connection's requests. Where a batch must be unpacked before, the
    // connection's next ones wait for it.
    let turn = call.session.produces.lock().await;
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for data in request.topic_data {
        let topic = call.broker.topics.get(&data.name);
        let mut outcomes: Vec<(i32, Outcome)> = Vec::with_capacity(data.partition_data.len());
        for partition in data.partition_data {
            let outcome = match &topic {
                _ if !valid => Err(ResponseError::InvalidRequiredAcks),
                Some(topic) => store(call, topic, id, &partition).await,
                None => Err(ResponseError::UnknownTopicOrPartition),
            };
            outcomes.push((partition.index, outcome));
        }
        topics.push((data.name, outcomes));
    }
    drop(turn);
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

async fn store(call: &Call, topic: &Topic, id: Option<&str>, data: &PartitionProduceData) -> Outcome {
    let records = data.records.clone().unwrap_or_default();
    let batch = &records[..];
    let partition = call.broker.topics.partition_of(topic, data.index)?;
    let config = topic.config();
    if batch.len() > config.max_message_bytes {
        return Err(ResponseError::MessageTooLarge);
    }
    let header = Header::check(batch).map_err(refusal)?;
    if header.codec() == ZSTD && call.version < ZSTD_SINCE {
        return Err(ResponseError::UnsupportedCompressionType);
    }
    if config.compact && !has_keys(call, header, &records).await {
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

/// A record without a key could not be told from others in a compacted topic. What is compressed is unpacked beside the threads that serve.
async fn has_keys(call: &Call, header: Header, batch: &Bytes) -> bool {
    if header.codec() == 0 {
        return all_have_keys(&header, batch);
    }
    let _one = call.broker.limits.unpacking.acquire().await.expect("nobody closes it");
    let batch = batch.clone();
    tokio::task::spawn_blocking(move || all_have_keys(&header, &batch)).await.unwrap_or(false)
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
