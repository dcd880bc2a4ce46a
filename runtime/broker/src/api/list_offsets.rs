//! ListOffsets: the first offset, the last, and the first record at or after a time.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use crate::call::Call;
use crate::storage::partition::{At, LEADER_EPOCH, Partition};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// The record with the newest time.
const NEWEST_TIME: i64 = -3;
const READ_COMMITTED: i8 = 1;

pub async fn list_offsets(call: &Call, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let committed = request.isolation_level == READ_COMMITTED;
    let mut response = ListOffsetsResponse::default();
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            let found = match call.broker.topics.partition(&topic.name, asked.partition_index) {
                Ok(partition) => find(call, partition, asked.timestamp, committed).await,
                Err(error) => Err(error),
            };
            partitions.push(match found {
                Ok(Some(at)) => answer.with_offset(at.offset as i64).with_timestamp(at.time).with_leader_epoch(epoch(call)),
                Ok(None) => answer.with_offset(-1).with_timestamp(-1),
                Err(error) => answer.with_error_code(error.code()).with_offset(-1).with_timestamp(-1),
            });
        }
        response.topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    response
}

/// Versions before 4 have no field for it.
fn epoch(call: &Call) -> i32 {
    if call.version >= 4 { LEADER_EPOCH } else { -1 }
}

async fn find(call: &Call, partition: Arc<Partition>, time: i64, committed: bool) -> Result<Option<At>, ResponseError> {
    match time {
        LATEST => Ok(Some(At { offset: if committed { partition.stable() } else { partition.end() }, time: -1 })),
        EARLIEST => Ok(Some(At { offset: partition.start(), time: -1 })),
        NEWEST_TIME => match partition.newest_time() {
            Some(newest) => at_time(call, partition, newest).await,
            None => Ok(None),
        },
        time if time < 0 => Err(ResponseError::UnsupportedVersion),
        time => at_time(call, partition, time).await,
    }
}

/// Reads and unpacks batches until it finds the place: not on a thread that serves.
async fn at_time(call: &Call, partition: Arc<Partition>, time: i64) -> Result<Option<At>, ResponseError> {
    let _one = call.broker.limits.unpacking.acquire().await.expect("nobody closes it");
    let (topic, index) = (partition.topic.clone(), partition.index);
    let found = tokio::task::spawn_blocking(move || partition.at_time(time)).await;
    found.map_err(|_| ResponseError::UnknownServerError)?.map_err(|e| {
        tracing::warn!(%topic, partition = index, "cannot read the partition: {e}");
        ResponseError::KafkaStorageError
    })
}
