//! Fetch: whole batches from the wanted offsets on; waits for them if there are too few.
//!
//! There are no fetch sessions: each request names all its partitions, which Kafka's protocol allows (session id 0).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::call::{Call, Reply};
use crate::storage::partition::{Partition, Unreadable};

/// Bytes of batches in one answer; one batch may be larger.
const MAX_BYTES: usize = 2 << 20;
const READ_COMMITTED: i8 = 1;
/// The longest that anybody waits.
const LONGEST: Duration = Duration::from_secs(60);
const NO_SESSION: i32 = 0;

/// A partition that is asked for.
struct Asked {
    topic: usize,
    wanted: FetchPartition,
    partition: Result<Arc<Partition>, ResponseError>,
}

impl Asked {
    fn limit(&self, partition: &Partition, committed: bool) -> u64 {
        if committed { partition.stable() } else { partition.end() }
    }

    /// Whether there is something to say about it now.
    fn is_ready(&self, committed: bool) -> bool {
        let Ok(partition) = &self.partition else { return true };
        let offset = self.wanted.fetch_offset;
        match u64::try_from(offset) {
            Ok(offset) => offset < partition.start() || offset > partition.end() || offset < self.limit(partition, committed),
            Err(_) => true,
        }
    }
}

pub async fn fetch(call: &Call, request: FetchRequest) -> Reply<FetchResponse> {
    if request.session_id != NO_SESSION {
        return FetchResponse::default().with_error_code(ResponseError::FetchSessionIdNotFound.code()).into();
    }
    let committed = request.isolation_level == READ_COMMITTED;
    let deadline = Instant::now() + Duration::from_millis(request.max_wait_ms.max(0) as u64).min(LONGEST);
    let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0).min(MAX_BYTES);
    let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0).min(max_bytes);
    let mut asked = Vec::new();
    let mut names = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let known = call.broker.topics.get(&topic.topic);
        for wanted in topic.partitions {
            let partition = match &known {
                Some(known) => call.broker.topics.partition_of(known, wanted.partition),
                None => Err(ResponseError::UnknownTopicOrPartition),
            };
            asked.push(Asked { topic: names.len(), wanted, partition });
        }
        names.push(topic.topic);
    }
    let bell = Arc::new(Notify::new());
    loop {
        // The bell is hung up before the look: what comes between rings it.
        asked.iter().filter_map(|asked| asked.partition.as_ref().ok()).for_each(|partition| partition.wait(&bell));
        let late = Instant::now() >= deadline;
        if late || min_bytes == 0 || asked.iter().any(|asked| asked.is_ready(committed)) {
            let mut taken = call.broker.limits.answers.take(max_bytes).await;
            let (mut partitions, mut bytes, mut urgent) = read_all(call, &asked, committed, max_bytes);
            if bytes > max_bytes {
                // One batch that is larger than what was asked for.
                drop((taken, partitions));
                taken = call.broker.limits.answers.take(bytes).await;
                (partitions, bytes, urgent) = read_all(call, &asked, committed, max_bytes);
            }
            if late || urgent || bytes >= min_bytes {
                let mut topics: Vec<_> = names.iter().map(|name| FetchableTopicResponse::default().with_topic(name.clone())).collect();
                for (asked, partition) in asked.iter().zip(partitions) {
                    topics[asked.topic].partitions.push(partition);
                }
                taken.shrink(bytes);
                return Reply::Held(FetchResponse::default().with_responses(topics), taken);
            }
        }
        tokio::select! {
            () = bell.notified() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = call.broker.stopped() => return FetchResponse::default().into(),
        }
    }
}

/// Reads every partition; returns the bytes of batches, and whether some partition has an error to tell.
fn read_all(call: &Call, asked: &[Asked], committed: bool, max_bytes: usize) -> (Vec<PartitionData>, usize, bool) {
    let (mut left, mut bytes, mut urgent) = (max_bytes, 0, false);
    let mut answers = Vec::with_capacity(asked.len());
    for asked in asked {
        let answer = read_one(call, asked, committed, left, bytes == 0);
        let size = answer.records.as_ref().map_or(0, Bytes::len);
        (left, bytes) = (left.saturating_sub(size), bytes + size);
        urgent |= answer.error_code != 0;
        answers.push(answer);
    }
    (answers, bytes, urgent)
}

fn read_one(call: &Call, asked: &Asked, committed: bool, left: usize, at_least_one: bool) -> PartitionData {
    let answer = PartitionData::default().with_partition_index(asked.wanted.partition).with_records(Some(Bytes::new()));
    let failed = |answer: PartitionData, error: ResponseError| {
        answer.with_error_code(error.code()).with_high_watermark(-1).with_last_stable_offset(-1).with_log_start_offset(-1)
    };
    let partition = match &asked.partition {
        Ok(partition) => partition,
        Err(error) => return failed(answer, *error),
    };
    // The end is taken first: what is below it then is read, whatever comes behind.
    let (end, stable) = (partition.end(), partition.stable());
    let limit = if committed { stable.min(end) } else { end };
    let answer = answer
        .with_high_watermark(end as i64)
        .with_last_stable_offset(stable.min(end) as i64)
        .with_log_start_offset(partition.start() as i64);
    let Ok(from) = u64::try_from(asked.wanted.fetch_offset) else { return failed(answer, ResponseError::OffsetOutOfRange) };
    let most = usize::try_from(asked.wanted.partition_max_bytes).unwrap_or(0).min(left);
    let mut records = Vec::new();
    let read = call.broker.with_buffer(|buf| partition.read(from, limit, most, at_least_one, buf, &mut records));
    match read {
        Ok(next) => {
            let aborted = committed.then(|| {
                let aborted = partition.aborted(from, next);
                let line = |aborted: crate::storage::producers::Aborted| {
                    AbortedTransaction::default().with_producer_id(aborted.producer_id.into()).with_first_offset(aborted.first as i64)
                };
                aborted.into_iter().map(line).collect()
            });
            answer.with_records(Some(records.into())).with_aborted_transactions(aborted)
        }
        Err(Unreadable::OutOfRange) => failed(answer, ResponseError::OffsetOutOfRange),
        Err(Unreadable::Disk(e)) => {
            tracing::warn!(topic = %partition.topic, partition = partition.index, "cannot read the partition: {e}");
            failed(answer, ResponseError::KafkaStorageError)
        }
    }
}
