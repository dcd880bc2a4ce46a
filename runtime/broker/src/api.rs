//! Which requests are answered, in which versions, by whom.
//!
//! To add one: a line in the table below (`Key(Request -> Response) versions => handler`) and its shape in [`crate::net::request_bounds`]. The handler is an
//! `async fn(&Call, Request) -> Response`; [`Reply::None`] is for requests that want no answer. Bounds of the versions are those whose
//! meaning is implemented, not those that can be decoded: topic ids in Fetch begin with 13, so 12 is the last.

pub mod admin;
pub mod configs;
pub mod coordinator;
pub mod fetch;
pub mod groups;
pub mod list_offsets;
pub mod metadata;
pub mod produce;
pub mod sasl;
pub mod topics;
pub mod transactions;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::call::{Call, Reply};

/// A request that is answered, and its versions.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    pub key: ApiKey,
    pub min: i16,
    pub max: i16,
}

/// The connection ends: the request cannot be understood, or its answer not be written.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("a {0:?} request of version {1} cannot be read: {2}")]
    Request(ApiKey, i16, String),
    #[error("the answer to a {0:?} request of version {1} cannot be written: {2}")]
    Answer(ApiKey, i16, String),
}

macro_rules! apis {
    ($($key:ident($request:ty => $response:ty) $min:literal..=$max:literal $handler:path;)*) => {
        /// The table.
        pub const APIS: &[Api] = &[$(Api { key: ApiKey::$key, min: $min, max: $max }),*];

        /// Decodes a request, lets its handler work, encodes the answer with its frame's length in front; `None`: no answer is wanted.
        pub async fn answer(call: Call, mut body: Bytes) -> Result<Option<Bytes>, Broken> {
            match call.key {
                $(ApiKey::$key => {
                    let request = <$request>::decode(&mut body, call.version)
                        .map_err(|e| Broken::Request(call.key, call.version, e.to_string()))?;
                    drop(body);
                    let reply: Reply<$response> = $handler(&call, request).await.into();
                    match reply {
                        Reply::Answer(response) => frame(&call, &response).map(Some),
                        Reply::Held(response, taken) => frame(&call, &response).map(|bytes| Some(taken.hold(bytes))),
                        Reply::None => Ok(None),
                    }
                })*
                _ => unreachable!("a request that is not in the table comes no further than find"),
            }
        }

        /// How many bytes a body leaves when its request has been decoded; `None` if it cannot be.
        pub fn decodes(key: ApiKey, version: i16, body: &[u8]) -> Option<usize> {
            let mut body = Bytes::copy_from_slice(body);
            match key {
                $(ApiKey::$key => <$request>::decode(&mut body, version).ok().map(|_| body.len()),)*
                _ => None,
            }
        }

        /// Encodes and decodes every answer in the table at each of its versions; for the round-trip test.
        #[cfg(test)]
        mod round_trips {
            use super::*;

            #[test]
            fn the_default_of_every_answer_comes_back_at_every_version() {
                $(for version in $min..=$max {
                    tests::round_trip(&<$response>::default(), version);
                })*
            }
        }
    };
}

apis! {
    Produce(ProduceRequest => ProduceResponse) 3..=9 produce::produce;
    Fetch(FetchRequest => FetchResponse) 4..=12 fetch::fetch;
    ListOffsets(ListOffsetsRequest => ListOffsetsResponse) 1..=7 list_offsets::list_offsets;
    Metadata(MetadataRequest => MetadataResponse) 0..=12 metadata::metadata;
    OffsetCommit(OffsetCommitRequest => OffsetCommitResponse) 2..=8 groups::offset_commit;
    OffsetFetch(OffsetFetchRequest => OffsetFetchResponse) 1..=8 groups::offset_fetch;
    FindCoordinator(FindCoordinatorRequest => FindCoordinatorResponse) 0..=4 coordinator::find_coordinator;
    JoinGroup(JoinGroupRequest => JoinGroupResponse) 0..=9 groups::join_group;
    Heartbeat(HeartbeatRequest => HeartbeatResponse) 0..=4 groups::heartbeat;
    LeaveGroup(LeaveGroupRequest => LeaveGroupResponse) 0..=5 groups::leave_group;
    SyncGroup(SyncGroupRequest => SyncGroupResponse) 0..=5 groups::sync_group;
    DescribeGroups(DescribeGroupsRequest => DescribeGroupsResponse) 0..=6 groups::describe_groups;
    ListGroups(ListGroupsRequest => ListGroupsResponse) 0..=5 groups::list_groups;
    ApiVersions(ApiVersionsRequest => ApiVersionsResponse) 0..=3 api_versions;
    CreateTopics(CreateTopicsRequest => CreateTopicsResponse) 2..=7 topics::create_topics;
    DeleteTopics(DeleteTopicsRequest => DeleteTopicsResponse) 1..=6 topics::delete_topics;
    DeleteRecords(DeleteRecordsRequest => DeleteRecordsResponse) 0..=2 admin::delete_records;
    OffsetForLeaderEpoch(OffsetForLeaderEpochRequest => OffsetForLeaderEpochResponse) 2..=4 admin::offset_for_leader_epoch;
    DescribeAcls(DescribeAclsRequest => DescribeAclsResponse) 1..=3 admin::describe_acls;
    DescribeConfigs(DescribeConfigsRequest => DescribeConfigsResponse) 1..=4 configs::describe_configs;
    AlterConfigs(AlterConfigsRequest => AlterConfigsResponse) 0..=2 configs::alter_configs;
    DescribeLogDirs(DescribeLogDirsRequest => DescribeLogDirsResponse) 1..=4 admin::describe_log_dirs;
    CreatePartitions(CreatePartitionsRequest => CreatePartitionsResponse) 0..=3 admin::create_partitions;
    DeleteGroups(DeleteGroupsRequest => DeleteGroupsResponse) 0..=2 groups::delete_groups;
    IncrementalAlterConfigs(IncrementalAlterConfigsRequest => IncrementalAlterConfigsResponse) 0..=1 configs::incremental_alter_configs;
    OffsetDelete(OffsetDeleteRequest => OffsetDeleteResponse) 0..=0 groups::offset_delete;
    DescribeCluster(DescribeClusterRequest => DescribeClusterResponse) 0..=1 admin::describe_cluster;
    DescribeProducers(DescribeProducersRequest => DescribeProducersResponse) 0..=0 admin::describe_producers;
    SaslHandshake(SaslHandshakeRequest => SaslHandshakeResponse) 0..=1 sasl::handshake;
    SaslAuthenticate(SaslAuthenticateRequest => SaslAuthenticateResponse) 0..=2 sasl::authenticate;
    InitProducerId(InitProducerIdRequest => InitProducerIdResponse) 0..=4 transactions::init_producer_id;
    AddPartitionsToTxn(AddPartitionsToTxnRequest => AddPartitionsToTxnResponse) 0..=3 transactions::add_partitions;
    AddOffsetsToTxn(AddOffsetsToTxnRequest => AddOffsetsToTxnResponse) 0..=3 transactions::add_offsets;
    EndTxn(EndTxnRequest => EndTxnResponse) 0..=3 transactions::end_transaction;
    TxnOffsetCommit(TxnOffsetCommitRequest => TxnOffsetCommitResponse) 0..=3 groups::txn_offset_commit;
    DescribeTransactions(DescribeTransactionsRequest => DescribeTransactionsResponse) 0..=0 admin::describe_transactions;
    ListTransactions(ListTransactionsRequest => ListTransactionsResponse) 0..=1 admin::list_transactions;
    ListPartitionReassignments(ListPartitionReassignmentsRequest => ListPartitionReassignmentsResponse) 0..=0 admin::list_partition_reassignments;
    DescribeTopicPartitions(DescribeTopicPartitionsRequest => DescribeTopicPartitionsResponse) 0..=0 metadata::describe_topic_partitions;
}

/// The versions of a request that are served, lowest and highest.
pub fn versions_of(key: i16) -> Option<(i16, i16)> {
    APIS.iter().find(|api| api.key as i16 == key).map(|api| (api.min, api.max))
}

/// Whether the size of the answer depends on what there is more than on what was asked.
pub fn lists(key: ApiKey) -> bool {
    matches!(
        key,
        ApiKey::Metadata
            | ApiKey::OffsetFetch
            | ApiKey::DescribeGroups
            | ApiKey::ListGroups
            | ApiKey::DescribeConfigs
            | ApiKey::DescribeLogDirs
            | ApiKey::DescribeProducers
            | ApiKey::DescribeTransactions
            | ApiKey::ListTransactions
            | ApiKey::DescribeTopicPartitions
    )
}

/// The line of the table for a request's key and version.
pub fn find(key: i16, version: i16) -> Result<ApiKey, Option<ApiKey>> {
    let api = APIS.iter().find(|api| api.key as i16 == key).ok_or(None)?;
    if (api.min..=api.max).contains(&version) { Ok(api.key) } else { Err(Some(api.key)) }
}

fn broken(call: &Call, e: impl std::fmt::Display) -> Broken {
    Broken::Answer(call.key, call.version, e.to_string())
}

/// Encodes an answer as a frame.
pub fn frame<T: Encodable>(call: &Call, response: &T) -> Result<Bytes, Broken> {
    let header_version = call.key.response_header_version(call.version);
    let header = ResponseHeader::default().with_correlation_id(call.correlation);
    let size = header.compute_size(header_version).map_err(|e| broken(call, e))?
        + response.compute_size(call.version).map_err(|e| broken(call, e))?;
    let mut out = BytesMut::with_capacity(4 + size);
    out.extend_from_slice(&(size as i32).to_be_bytes());
    header.encode(&mut out, header_version).map_err(|e| broken(call, e))?;
    response.encode(&mut out, call.version).map_err(|e| broken(call, e))?;
    Ok(out.freeze())
}

/// The answer to a client whose ApiVersions is newer than ours: error 35, in the version that every client reads.
pub fn unsupported_version(correlation: i32) -> Bytes {
    let response = versions().with_error_code(kafka_protocol::ResponseError::UnsupportedVersion.code());
    let mut body = BytesMut::new();
    body.extend_from_slice(&correlation.to_be_bytes());
    response.encode(&mut body, 0).expect("the answer has no field that version 0 lacks");
    let mut out = BytesMut::with_capacity(4 + body.len());
    out.extend_from_slice(&(body.len() as i32).to_be_bytes());
    out.extend_from_slice(&body);
    out.freeze()
}

fn versions() -> ApiVersionsResponse {
    let line = |api: &Api| ApiVersion::default().with_api_key(api.key as i16).with_min_version(api.min).with_max_version(api.max);
    ApiVersionsResponse::default().with_api_keys(APIS.iter().map(line).collect())
}

async fn api_versions(_: &Call, _: ApiVersionsRequest) -> ApiVersionsResponse {
    versions()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    pub fn round_trip<T: Encodable + Decodable + PartialEq + Debug>(answer: &T, version: i16) {
        let mut bytes = BytesMut::new();
        answer.encode(&mut bytes, version).unwrap_or_else(|e| panic!("version {version} of {answer:?}: {e}"));
        let mut bytes = bytes.freeze();
        assert_eq!(&T::decode(&mut bytes, version).unwrap(), answer, "version {version}");
        assert!(bytes.is_empty(), "version {version} of {answer:?} leaves {} bytes", bytes.len());
    }

    #[test]
    fn every_line_of_the_table_is_within_what_can_be_decoded() {
        for api in APIS {
            let known = api.key.valid_versions();
            assert!(api.min >= known.min && api.max <= known.max && api.min <= api.max, "{api:?} is not within {known}");
        }
    }

    #[test]
    fn a_client_that_is_too_new_can_read_why() {
        let frame = unsupported_version(77);
        let mut body = frame.slice(8..);
        let answer = ApiVersionsResponse::decode(&mut body, 0).unwrap();
        assert_eq!((answer.error_code, answer.api_keys.len()), (35, APIS.len()));
        assert_eq!(frame[4..8], 77_i32.to_be_bytes());
    }
}
