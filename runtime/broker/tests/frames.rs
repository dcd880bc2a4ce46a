//! Frames written by hand: every request in every version that is advertised, and what no client would send.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use millrace_broker::{Broker, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(60);

async fn broker(dir: &tempfile::TempDir) -> std::sync::Arc<Broker> {
    let options = Options {
        dir: dir.path().to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        sync: Duration::from_millis(200),
        keep_free: millrace_log::KeepFree::Bytes(0),
        security: None,
    };
    Broker::start(options).await.unwrap()
}

/// A client that writes and reads frames.
struct Wire {
    stream: TcpStream,
    correlation: i32,
}

impl Wire {
    async fn to(broker: &Broker) -> Self {
        Self { stream: TcpStream::connect(broker.listening()).await.unwrap(), correlation: 0 }
    }

    fn frame(&mut self, key: ApiKey, version: i16, request: &RequestKind) -> BytesMut {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(text("wire")));
        let mut body = BytesMut::new();
        header.encode(&mut body, key.request_header_version(version)).unwrap();
        request.encode(&mut body, version).unwrap_or_else(|error| panic!("{key:?} version {version}: {error}"));
        let mut frame = BytesMut::from(&(body.len() as i32).to_be_bytes()[..]);
        frame.extend_from_slice(&body);
        frame
    }

    async fn ask(&mut self, key: ApiKey, version: i16, request: RequestKind) -> ResponseKind {
        let frame = self.frame(key, version, &request);
        self.stream.write_all(&frame).await.unwrap();
        let mut body = self.answer().await.unwrap_or_else(|| panic!("{key:?} version {version} ended the connection"));
        let header = ResponseHeader::decode(&mut body, key.response_header_version(version)).unwrap();
        assert_eq!(header.correlation_id, self.correlation, "{key:?} version {version}");
        let response = ResponseKind::decode(key, &mut body, version).unwrap_or_else(|error| panic!("{key:?} version {version}: {error}"));
        assert!(body.is_empty(), "{key:?} version {version} leaves {} bytes", body.len());
        response
    }

    /// The next frame; `None`: the broker has hung up.
    async fn answer(&mut self) -> Option<Bytes> {
        let read = async {
            let size = self.stream.read_i32().await.ok()?;
            let mut body = vec![0; size as usize];
            self.stream.read_exact(&mut body).await.ok()?;
            Some(Bytes::from(body))
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the broker answers or hangs up")
    }

    async fn is_served(&mut self) -> bool {
        matches!(self.ask(ApiKey::Metadata, 1, RequestKind::Metadata(MetadataRequest::default())).await, ResponseKind::Metadata(_))
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

fn group(name: &str) -> GroupId {
    GroupId(text(name))
}

fn batch(values: &[&str]) -> Bytes {
    batch_of((-1, -1), values)
}

/// A batch of a producer's transaction, if there is a producer.
fn batch_of((producer_id, producer_epoch): (i64, i16), values: &[&str]) -> Bytes {
    let record = |(i, value): (usize, &&str)| Record {
        transactional: producer_id >= 0,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 0,
        producer_id,
        producer_epoch,
        timestamp_type: TimestampType::Creation,
        offset: i as i64,
        sequence: i as i32,
        timestamp: 1_700_000_000_000,
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: IndexMap::new(),
    };
    let records: Vec<Record> = values.iter().enumerate().map(record).collect();
    let mut out = BytesMut::new();
    RecordBatchEncoder::encode(&mut out, &records, &RecordEncodeOptions { version: 2, compression: Compression::None }).unwrap();
    out.freeze()
}

fn produce(name: &str, records: Bytes) -> RequestKind {
    let partition = PartitionProduceData::default().with_index(0).with_records(Some(records));
    let data = TopicProduceData::default().with_name(topic(name)).with_partition_data(vec![partition]);
    RequestKind::Produce(ProduceRequest::default().with_acks(-1).with_timeout_ms(10_000).with_topic_data(vec![data]))
}

async fn create(wire: &mut Wire, name: &str) {
    let new = CreatableTopic::default().with_name(topic(name)).with_num_partitions(2).with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(10_000);
    match wire.ask(ApiKey::CreateTopics, 5, RequestKind::CreateTopics(request)).await {
        ResponseKind::CreateTopics(answer) => assert_eq!(answer.topics[0].error_code, 0, "{answer:?}"),
        other => panic!("{other:?}"),
    }
}

/// A request that means something at this version, against a topic `there` and a group `g`.
fn request(key: ApiKey, version: i16) -> Option<RequestKind> {
    let there = || topic("there");
    Some(match key {
        ApiKey::Produce => produce("there", batch(&["one", "two"])),
        ApiKey::Fetch => {
            let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
            let wanted = FetchTopic::default().with_topic(there()).with_partitions(vec![partition]);
            RequestKind::Fetch(FetchRequest::default().with_max_wait_ms(100).with_max_bytes(1 << 20).with_topics(vec![wanted]))
        }
        ApiKey::ListOffsets => {
            let wanted =
                ListOffsetsTopic::default().with_name(there()).with_partitions(vec![ListOffsetsPartition::default().with_timestamp(-1)]);
            RequestKind::ListOffsets(ListOffsetsRequest::default().with_topics(vec![wanted]))
        }
        ApiKey::Metadata => {
            let wanted = MetadataRequestTopic::default().with_name(Some(there()));
            RequestKind::Metadata(MetadataRequest::default().with_topics(Some(vec![wanted])))
        }
        ApiKey::OffsetCommit => {
            let offset = OffsetCommitRequestPartition::default().with_committed_offset(3).with_committed_metadata(Some(text("three")));
            let wanted = OffsetCommitRequestTopic::default().with_name(there()).with_partitions(vec![offset]);
            RequestKind::OffsetCommit(
                OffsetCommitRequest::default().with_group_id(group("g")).with_generation_id_or_member_epoch(-1).with_topics(vec![wanted]),
            )
        }
        ApiKey::OffsetFetch if version < 8 => {
            let wanted = OffsetFetchRequestTopic::default().with_name(there()).with_partition_indexes(vec![0, 1]);
            RequestKind::OffsetFetch(OffsetFetchRequest::default().with_group_id(group("g")).with_topics(Some(vec![wanted])))
        }
        ApiKey::OffsetFetch => {
            let wanted = OffsetFetchRequestTopics::default().with_name(there()).with_partition_indexes(vec![0, 1]);
            let of = OffsetFetchRequestGroup::default().with_group_id(group("g")).with_topics(Some(vec![wanted]));
            RequestKind::OffsetFetch(OffsetFetchRequest::default().with_groups(vec![of]))
        }
        ApiKey::FindCoordinator if version < 4 => RequestKind::FindCoordinator(FindCoordinatorRequest::default().with_key(text("g"))),
        ApiKey::FindCoordinator => RequestKind::FindCoordinator(FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")])),
        ApiKey::JoinGroup => {
            let range = JoinGroupRequestProtocol::default().with_name(text("range"));
            let request = JoinGroupRequest::default()
                .with_group_id(group(&format!("joined-{version}")))
                .with_session_timeout_ms(10_000)
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![range]);
            RequestKind::JoinGroup(if version >= 1 { request.with_rebalance_timeout_ms(10_000) } else { request })
        }
        ApiKey::SyncGroup => {
            let share = SyncGroupRequestAssignment::default().with_member_id(text("m")).with_assignment(Bytes::from_static(b"all"));
            RequestKind::SyncGroup(
                SyncGroupRequest::default().with_group_id(group("g")).with_member_id(text("m")).with_assignments(vec![share]),
            )
        }
        ApiKey::Heartbeat => RequestKind::Heartbeat(HeartbeatRequest::default().with_group_id(group("g")).with_member_id(text("m"))),
        ApiKey::LeaveGroup if version < 3 => {
            RequestKind::LeaveGroup(LeaveGroupRequest::default().with_group_id(group("g")).with_member_id(text("m")))
        }
        ApiKey::LeaveGroup => {
            let member = MemberIdentity::default().with_member_id(text("m"));
            RequestKind::LeaveGroup(LeaveGroupRequest::default().with_group_id(group("g")).with_members(vec![member]))
        }
        ApiKey::DescribeGroups => {
            RequestKind::DescribeGroups(DescribeGroupsRequest::default().with_groups(vec![group("g"), group("none")]))
        }
        ApiKey::ListGroups => RequestKind::ListGroups(ListGroupsRequest::default()),
        ApiKey::DeleteGroups => RequestKind::DeleteGroups(DeleteGroupsRequest::default().with_groups_names(vec![group("none")])),
        ApiKey::OffsetDelete => {
            let wanted =
                OffsetDeleteRequestTopic::default().with_name(there()).with_partitions(vec![OffsetDeleteRequestPartition::default()]);
            RequestKind::OffsetDelete(OffsetDeleteRequest::default().with_group_id(group("none")).with_topics(vec![wanted]))
        }
        ApiKey::ApiVersions if version >= 3 => RequestKind::ApiVersions(
            ApiVersionsRequest::default().with_client_software_name(text("wire")).with_client_software_version(text("1")),
        ),
        ApiKey::ApiVersions => RequestKind::ApiVersions(ApiVersionsRequest::default()),
        ApiKey::CreateTopics => {
            let config = CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(Some(text("1000000")));
            let new = CreatableTopic::default()
                .with_name(topic(&format!("created-{version}")))
                .with_num_partitions(1)
                .with_replication_factor(1)
                .with_configs(vec![config]);
            RequestKind::CreateTopics(CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(10_000))
        }
        ApiKey::DeleteTopics if version < 6 => {
            RequestKind::DeleteTopics(DeleteTopicsRequest::default().with_topic_names(vec![topic("none")]).with_timeout_ms(10_000))
        }
        ApiKey::DeleteTopics => {
            let state = DeleteTopicState::default().with_name(Some(topic("none")));
            RequestKind::DeleteTopics(DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(10_000))
        }
        ApiKey::DeleteRecords => {
            let wanted = DeleteRecordsTopic::default().with_name(there()).with_partitions(vec![DeleteRecordsPartition::default()]);
            RequestKind::DeleteRecords(DeleteRecordsRequest::default().with_topics(vec![wanted]))
        }
        ApiKey::OffsetForLeaderEpoch => {
            let wanted = OffsetForLeaderTopic::default().with_topic(there()).with_partitions(vec![OffsetForLeaderPartition::default()]);
            let request = OffsetForLeaderEpochRequest::default().with_topics(vec![wanted]);
            RequestKind::OffsetForLeaderEpoch(if version >= 3 { request.with_replica_id(BrokerId(-1)) } else { request })
        }
        ApiKey::DescribeAcls => RequestKind::DescribeAcls(
            DescribeAclsRequest::default()
                .with_resource_type_filter(1)
                .with_pattern_type_filter(1)
                .with_operation(1)
                .with_permission_type(1),
        ),
        ApiKey::DescribeConfigs => {
            let resources = [(2, "there"), (4, "1"), (4, "77"), (2, "none")];
            let resource = |(kind, name): (i8, &str)| {
                DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(name)).with_configuration_keys(None)
            };
            RequestKind::DescribeConfigs(
                DescribeConfigsRequest::default().with_resources(resources.map(resource).into()).with_include_synonyms(true),
            )
        }
        ApiKey::AlterConfigs => {
            let config = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("2000000")));
            let resource =
                AlterConfigsResource::default().with_resource_type(2).with_resource_name(text("there")).with_configs(vec![config]);
            RequestKind::AlterConfigs(AlterConfigsRequest::default().with_resources(vec![resource]))
        }
        ApiKey::IncrementalAlterConfigs => {
            use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
            let config = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("3000000")));
            let resource =
                AlterConfigsResource::default().with_resource_type(2).with_resource_name(text("there")).with_configs(vec![config]);
            RequestKind::IncrementalAlterConfigs(IncrementalAlterConfigsRequest::default().with_resources(vec![resource]))
        }
        ApiKey::CreatePartitions => {
            let more = CreatePartitionsTopic::default().with_name(there()).with_count(3).with_assignments(None);
            RequestKind::CreatePartitions(CreatePartitionsRequest::default().with_topics(vec![more]).with_validate_only(true))
        }
        ApiKey::DescribeLogDirs => RequestKind::DescribeLogDirs(DescribeLogDirsRequest::default().with_topics(None)),
        ApiKey::DescribeCluster => RequestKind::DescribeCluster(DescribeClusterRequest::default()),
        ApiKey::DescribeProducers => {
            let wanted = describe_producers_request::TopicRequest::default().with_name(there()).with_partition_indexes(vec![0, 9]);
            RequestKind::DescribeProducers(DescribeProducersRequest::default().with_topics(vec![wanted]))
        }
        ApiKey::InitProducerId => RequestKind::InitProducerId(
            InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("t")))).with_transaction_timeout_ms(10_000),
        ),
        ApiKey::AddPartitionsToTxn => {
            let wanted = add_partitions_to_txn_request::AddPartitionsToTxnTopic::default().with_name(there()).with_partitions(vec![0]);
            RequestKind::AddPartitionsToTxn(
                AddPartitionsToTxnRequest::default()
                    .with_v3_and_below_transactional_id(TransactionalId(text("none")))
                    .with_v3_and_below_topics(vec![wanted]),
            )
        }
        ApiKey::AddOffsetsToTxn => RequestKind::AddOffsetsToTxn(AddOffsetsToTxnRequest::default().with_group_id(group("g"))),
        ApiKey::EndTxn => RequestKind::EndTxn(EndTxnRequest::default()),
        ApiKey::TxnOffsetCommit => {
            let wanted =
                TxnOffsetCommitRequestTopic::default().with_name(there()).with_partitions(vec![TxnOffsetCommitRequestPartition::default()]);
            RequestKind::TxnOffsetCommit(TxnOffsetCommitRequest::default().with_group_id(group("g")).with_topics(vec![wanted]))
        }
        ApiKey::ListTransactions => RequestKind::ListTransactions(ListTransactionsRequest::default()),
        ApiKey::DescribeTransactions => RequestKind::DescribeTransactions(
            DescribeTransactionsRequest::default().with_transactional_ids(["t", "none"].map(|id| TransactionalId(text(id))).into()),
        ),
        ApiKey::ListPartitionReassignments => RequestKind::ListPartitionReassignments(ListPartitionReassignmentsRequest::default()),
        ApiKey::DescribeTopicPartitions => RequestKind::DescribeTopicPartitions(
            DescribeTopicPartitionsRequest::default().with_response_partition_limit(1).with_cursor(None),
        ),
        ApiKey::SaslHandshake => RequestKind::SaslHandshake(SaslHandshakeRequest::default().with_mechanism(text("PLAIN"))),
        // On a listener without logins it ends the connection, as in Apache Kafka.
        ApiKey::SaslAuthenticate => return None,
        _ => panic!("{key:?} is advertised, and this test knows no request of it"),
    })
}

async fn advertised(wire: &mut Wire) -> Vec<(ApiKey, i16)> {
    let answer = wire.ask(ApiKey::ApiVersions, 0, RequestKind::ApiVersions(ApiVersionsRequest::default())).await;
    let ResponseKind::ApiVersions(versions) = answer else { panic!("{answer:?}") };
    let known = |key: i16| ApiKey::try_from(key).unwrap_or_else(|()| panic!("key {key} is unknown"));
    versions.api_keys.iter().flat_map(|api| (api.min_version..=api.max_version).map(move |version| (known(api.api_key), version))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_answered_in_every_version_that_is_advertised() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(&dir).await;
    let mut wire = Wire::to(&broker).await;
    create(&mut wire, "there").await;
    let all = advertised(&mut wire).await;
    let mut asked = BTreeMap::new();
    for (key, version) in all {
        let Some(request) = request(key, version) else { continue };
        let answer = wire.ask(key, version, request).await;
        *asked.entry(key as i16).or_insert(0) += 1;
        let wrong = |what: &str| panic!("{key:?} version {version}: {what}: {answer:?}");
        match &answer {
            ResponseKind::Produce(a) if a.responses[0].partition_responses[0].error_code != 0 => wrong("stored nothing"),
            ResponseKind::Fetch(a) if a.responses[0].partitions[0].records.as_ref().is_none_or(Bytes::is_empty) => wrong("no records"),
            ResponseKind::ListOffsets(a) if a.topics[0].partitions[0].offset <= 0 => wrong("no end"),
            ResponseKind::Metadata(a) if a.topics[0].partitions.len() != 2 => wrong("not its partitions"),
            ResponseKind::OffsetCommit(a) if a.topics[0].partitions[0].error_code != 0 => wrong("not committed"),
            ResponseKind::OffsetFetch(a) => {
                let old = a.topics.iter().flat_map(|t| &t.partitions).map(|p| (p.committed_offset, p.metadata.clone()));
                let new =
                    a.groups.iter().flat_map(|g| &g.topics).flat_map(|t| &t.partitions).map(|p| (p.committed_offset, p.metadata.clone()));
                assert_eq!(old.chain(new).collect::<Vec<_>>(), [(3, Some(text("three"))), (-1, Some(text("")))], "version {version}");
            }
            ResponseKind::JoinGroup(a) => {
                let told_its_name = version >= 4 && a.error_code == 79;
                assert!(
                    !a.member_id.is_empty() && (told_its_name || a.error_code == 0 && a.members.len() == 1),
                    "version {version}: {a:?}"
                );
            }
            ResponseKind::CreateTopics(a) if a.topics[0].error_code != 0 => wrong("not created"),
            ResponseKind::DescribeConfigs(a) => assert_eq!(a.results.iter().map(|r| r.error_code).collect::<Vec<_>>(), [0, 0, 42, 3]),
            ResponseKind::DescribeCluster(a) if a.brokers.len() != 1 => wrong("no node"),
            ResponseKind::DescribeTopicPartitions(a) if a.topics.len() != 1 || a.next_cursor.is_none() => wrong("not one page"),
            ResponseKind::InitProducerId(a) if a.error_code != 0 => wrong("no producer id"),
            _ => {}
        }
    }
    assert!(asked.len() >= 30, "{asked:?}");
    broker.stop().await.unwrap();
}

/// Asks the same of every version from `versions`, and looks at each answer.
async fn in_all(
    wire: &mut Wire,
    key: ApiKey,
    versions: std::ops::RangeInclusive<i16>,
    request: impl Fn(i16) -> RequestKind,
    look: impl Fn(&ResponseKind) -> bool,
) {
    for version in versions {
        let answer = wire.ask(key, version, request(version)).await;
        assert!(look(&answer), "{key:?} version {version}: {answer:?}");
    }
}

/// Begins a transaction of `id` with a record in `there`; returns its producer.
async fn begin(wire: &mut Wire, id: &str) -> (i64, i16) {
    let id = TransactionalId(text(id));
    let init = InitProducerIdRequest::default().with_transactional_id(Some(id.clone())).with_transaction_timeout_ms(60_000);
    let producer = match wire.ask(ApiKey::InitProducerId, 4, RequestKind::InitProducerId(init)).await {
        ResponseKind::InitProducerId(answer) => (answer.producer_id, answer.producer_epoch),
        other => panic!("{other:?}"),
    };
    let wanted = add_partitions_to_txn_request::AddPartitionsToTxnTopic::default().with_name(topic("there")).with_partitions(vec![0]);
    let add = AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(id.clone())
        .with_v3_and_below_producer_id(producer.0)
        .with_v3_and_below_producer_epoch(producer.1)
        .with_v3_and_below_topics(vec![wanted]);
    wire.ask(ApiKey::AddPartitionsToTxn, 3, RequestKind::AddPartitionsToTxn(add)).await;
    let RequestKind::Produce(write) = produce("there", batch_of((producer.0.0, producer.1), &["x"])) else { unreachable!() };
    match wire.ask(ApiKey::Produce, 9, RequestKind::Produce(write.with_transactional_id(Some(id)))).await {
        ResponseKind::Produce(answer) => assert_eq!(answer.responses[0].partition_responses[0].error_code, 0, "{answer:?}"),
        other => panic!("{other:?}"),
    }
    (producer.0.0, producer.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_full_of_things_come_back_in_every_version() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(&dir).await;
    let mut wire = Wire::to(&broker).await;
    create(&mut wire, "there").await;
    let aborted = begin(&mut wire, "aborts").await;
    let end = EndTxnRequest::default()
        .with_transactional_id(TransactionalId(text("aborts")))
        .with_producer_id(aborted.0.into())
        .with_producer_epoch(aborted.1);
    wire.ask(ApiKey::EndTxn, 3, RequestKind::EndTxn(end)).await;
    begin(&mut wire, "goes-on").await;

    let fetch = |_| {
        let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
        let wanted = FetchTopic::default().with_topic(topic("there")).with_partitions(vec![partition]);
        let request = FetchRequest::default().with_max_bytes(1 << 20).with_isolation_level(1).with_topics(vec![wanted]);
        RequestKind::Fetch(request)
    };
    let holds_back = |answer: &ResponseKind| {
        let ResponseKind::Fetch(answer) = answer else { return false };
        let partition = &answer.responses[0].partitions[0];
        let aborts = partition.aborted_transactions.iter().flatten().map(|one| (one.producer_id.0, one.first_offset));
        aborts.eq([(aborted.0, 0)]) && (partition.last_stable_offset, partition.high_watermark) == (2, 3)
    };
    in_all(&mut wire, ApiKey::Fetch, 4..=12, fetch, holds_back).await;
    let nowhere = |_| {
        let partitions = [(0, 99), (7, 0)];
        let partition = |(index, offset)| FetchPartition::default().with_partition(index).with_fetch_offset(offset);
        let of = |name, partitions| FetchTopic::default().with_topic(topic(name)).with_partitions(partitions);
        let all = partitions.map(partition).to_vec();
        RequestKind::Fetch(FetchRequest::default().with_max_bytes(1 << 20).with_topics(vec![of("there", all.clone()), of("none", all)]))
    };
    let refuses = |answer: &ResponseKind| {
        let ResponseKind::Fetch(answer) = answer else { return false };
        answer.responses.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code).eq([1, 3, 3, 3])
    };
    in_all(&mut wire, ApiKey::Fetch, 4..=12, nowhere, refuses).await;

    let unknown = |_| produce("none", batch(&["x"]));
    let is_unknown =
        |answer: &ResponseKind| matches!(answer, ResponseKind::Produce(a) if a.responses[0].partition_responses[0].error_code == 3);
    in_all(&mut wire, ApiKey::Produce, 3..=9, unknown, is_unknown).await;

    // A static member alone in its group, as tools and the group itself see it.
    let join = |version: i16| {
        let range = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from_static(b"topics"));
        let request = JoinGroupRequest::default()
            .with_group_id(group("full"))
            .with_session_timeout_ms(60_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![range])
            .with_rebalance_timeout_ms(60_000);
        RequestKind::JoinGroup(if version >= 5 { request.with_group_instance_id(Some(text("press"))) } else { request })
    };
    let leads =
        |answer: &ResponseKind| matches!(answer, ResponseKind::JoinGroup(a) if a.error_code == 0 && a.members[0].metadata == "topics");
    in_all(&mut wire, ApiKey::JoinGroup, 5..=9, join, leads).await;
    let describe = |_| RequestKind::DescribeGroups(DescribeGroupsRequest::default().with_groups(vec![group("full")]));
    let has_a_member = |answer: &ResponseKind| matches!(answer, ResponseKind::DescribeGroups(a) if a.groups[0].members.len() == 1);
    in_all(&mut wire, ApiKey::DescribeGroups, 0..=6, describe, has_a_member).await;
    let list = |_| RequestKind::ListGroups(ListGroupsRequest::default());
    let is_listed =
        |answer: &ResponseKind| matches!(answer, ResponseKind::ListGroups(a) if a.groups.iter().any(|one| &*one.group_id.0 == "full"));
    in_all(&mut wire, ApiKey::ListGroups, 0..=5, list, is_listed).await;
    let leave = |version: i16| {
        let strangers = vec![MemberIdentity::default().with_member_id(text("m")).with_group_instance_id(Some(text("i")))];
        let request = LeaveGroupRequest::default().with_group_id(group("full"));
        RequestKind::LeaveGroup(if version < 3 { request.with_member_id(text("m")) } else { request.with_members(strangers) })
    };
    let refuses = |answer: &ResponseKind| matches!(answer, ResponseKind::LeaveGroup(a) if a.error_code + a.members.iter().map(|one| one.error_code).sum::<i16>() == 25);
    in_all(&mut wire, ApiKey::LeaveGroup, 0..=5, leave, refuses).await;

    let all_topics =
        |version: i16| RequestKind::Metadata(MetadataRequest::default().with_topics(if version == 0 { Some(vec![]) } else { None }));
    let knows = |answer: &ResponseKind| matches!(answer, ResponseKind::Metadata(a) if a.topics.len() == 1 && a.brokers.len() == 1);
    in_all(&mut wire, ApiKey::Metadata, 0..=12, all_topics, knows).await;
    let share = |version: i16| {
        let request = FindCoordinatorRequest::default().with_key_type(if version >= 1 { 2 } else { 0 });
        RequestKind::FindCoordinator(if version < 4 { request.with_key(text("s")) } else { request.with_coordinator_keys(vec![text("s")]) })
    };
    let refuses =
        |answer: &ResponseKind| matches!(answer, ResponseKind::FindCoordinator(a) if a.coordinators.iter().all(|one| one.error_code != 0));
    in_all(&mut wire, ApiKey::FindCoordinator, 0..=4, share, refuses).await;

    let producers = |_| {
        let wanted = describe_producers_request::TopicRequest::default().with_name(topic("there")).with_partition_indexes(vec![0]);
        RequestKind::DescribeProducers(DescribeProducersRequest::default().with_topics(vec![wanted]))
    };
    let has_both = |answer: &ResponseKind| matches!(answer, ResponseKind::DescribeProducers(a) if a.topics[0].partitions[0].active_producers.len() == 2);
    in_all(&mut wire, ApiKey::DescribeProducers, 0..=0, producers, has_both).await;
    let describe = |_| {
        let ids = ["aborts", "goes-on"].map(|id| TransactionalId(text(id)));
        RequestKind::DescribeTransactions(DescribeTransactionsRequest::default().with_transactional_ids(ids.into()))
    };
    let goes_on =
        |answer: &ResponseKind| matches!(answer, ResponseKind::DescribeTransactions(a) if a.transaction_states[1].topics.len() == 1);
    in_all(&mut wire, ApiKey::DescribeTransactions, 0..=0, describe, goes_on).await;
    let list = |_| RequestKind::ListTransactions(ListTransactionsRequest::default());
    let has_both = |answer: &ResponseKind| matches!(answer, ResponseKind::ListTransactions(a) if a.transaction_states.len() == 2);
    in_all(&mut wire, ApiKey::ListTransactions, 0..=1, list, has_both).await;
    let topics = |version: i16| {
        let wrong = CreatableTopic::default().with_name(topic("a b")).with_num_partitions(1).with_replication_factor(1);
        let there = CreatableTopic::default().with_name(topic("there")).with_num_partitions(1).with_replication_factor(3);
        let request = CreateTopicsRequest::default().with_topics(vec![wrong, there]).with_timeout_ms(10_000);
        RequestKind::CreateTopics(request.with_validate_only(version % 2 == 0))
    };
    let refuses = |answer: &ResponseKind| matches!(answer, ResponseKind::CreateTopics(a) if a.topics.iter().all(|one| one.error_code != 0));
    in_all(&mut wire, ApiKey::CreateTopics, 2..=7, topics, refuses).await;
    broker.stop().await.unwrap();
}

/// Most bytes of memory that this process has had.
fn high_water() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_clients_send_and_leave_unread_has_one_bound() {
    const CLAIMED: usize = 20 << 20;
    const CLIENTS: usize = 32;
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(&dir).await;
    let mut good = Wire::to(&broker).await;
    create(&mut good, "there").await;
    let before = high_water();

    // Each sends most of a large request, and then no more. The later ones have room when earlier ones have hung up.
    let most: Bytes = vec![0; CLAIMED - (1 << 20)].into();
    let mut halves = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (mut wire, most) = (Wire::to(&broker).await, most.clone());
        halves.spawn(async move {
            wire.stream.write_all(&(CLAIMED as i32).to_be_bytes()).await.unwrap();
            wire.stream.write_all(&most).await.unwrap();
        });
    }
    while let Some(half) = halves.join_next().await {
        half.unwrap();
        assert!(good.is_served().await, "a small request waits for large ones");
    }

    // Each asks for much more than it reads, until all have asked.
    let value = "x".repeat(900_000);
    for _ in 0..4 {
        good.ask(ApiKey::Produce, 7, produce("there", batch(&[&value]))).await;
    }
    let partition = FetchPartition::default().with_partition_max_bytes(2 << 20);
    let wanted = FetchTopic::default().with_topic(topic("there")).with_partitions(vec![partition]);
    let fetch = RequestKind::Fetch(FetchRequest::default().with_max_bytes(2 << 20).with_topics(vec![wanted]));
    let mut readers = Vec::new();
    for _ in 0..CLIENTS {
        let mut reader = Wire::to(&broker).await;
        for _ in 0..8 {
            let frame = reader.frame(ApiKey::Fetch, 7, &fetch);
            reader.stream.write_all(&frame).await.unwrap();
        }
        readers.push(reader);
    }
    assert!(good.is_served().await, "a small request waits for answers that are not read");
    let mut reading = tokio::task::JoinSet::new();
    for mut reader in readers {
        reading.spawn(async move {
            for _ in 0..8 {
                assert!(reader.answer().await.expect("it is answered when it reads").len() > 1_800_000);
            }
        });
    }
    while let Some(read) = reading.join_next().await {
        read.unwrap();
    }
    let grown = (high_water() - before) >> 20;
    assert!(grown < 250, "{grown} MiB more for 640 MiB of half requests and 460 MiB of answers");
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_is_joined_synced_and_left_in_every_version() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(&dir).await;
    let mut wire = Wire::to(&broker).await;
    for version in 0..=9 {
        let id = group(&format!("g{version}"));
        let join = |member: StrBytes| {
            let range = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from_static(b"topics"));
            let request = JoinGroupRequest::default()
                .with_group_id(id.clone())
                .with_member_id(member)
                .with_session_timeout_ms(10_000)
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![range]);
            RequestKind::JoinGroup(if version >= 1 { request.with_rebalance_timeout_ms(10_000) } else { request })
        };
        let mut member = StrBytes::default();
        let joined = loop {
            match wire.ask(ApiKey::JoinGroup, version, join(member.clone())).await {
                ResponseKind::JoinGroup(answer) if answer.error_code == 79 => member = answer.member_id,
                ResponseKind::JoinGroup(answer) => break answer,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((joined.error_code, joined.generation_id, &joined.leader), (0, 1, &joined.member_id), "version {version}");
        assert_eq!(joined.members[0].metadata, "topics");
        let sync_version = version.min(5);
        let share =
            SyncGroupRequestAssignment::default().with_member_id(joined.member_id.clone()).with_assignment(Bytes::from_static(b"all"));
        let sync = SyncGroupRequest::default()
            .with_group_id(id.clone())
            .with_generation_id(1)
            .with_member_id(joined.member_id.clone())
            .with_assignments(vec![share]);
        let sync =
            if sync_version >= 5 { sync.with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range"))) } else { sync };
        match wire.ask(ApiKey::SyncGroup, sync_version, RequestKind::SyncGroup(sync)).await {
            ResponseKind::SyncGroup(answer) => {
                assert_eq!((answer.error_code, &answer.assignment[..]), (0, &b"all"[..]), "version {version}")
            }
            other => panic!("{other:?}"),
        }
        for (generation, expected) in [(1, 0), (0, 22)] {
            let beat = HeartbeatRequest::default()
                .with_group_id(id.clone())
                .with_generation_id(generation)
                .with_member_id(joined.member_id.clone());
            match wire.ask(ApiKey::Heartbeat, version.min(4), RequestKind::Heartbeat(beat)).await {
                ResponseKind::Heartbeat(answer) => assert_eq!(answer.error_code, expected),
                other => panic!("{other:?}"),
            }
        }
        let leave_version = version.min(5);
        let leave = LeaveGroupRequest::default().with_group_id(id.clone());
        let leave = if leave_version < 3 {
            leave.with_member_id(joined.member_id.clone())
        } else {
            leave.with_members(vec![MemberIdentity::default().with_member_id(joined.member_id.clone())])
        };
        match wire.ask(ApiKey::LeaveGroup, leave_version, RequestKind::LeaveGroup(leave)).await {
            ResponseKind::LeaveGroup(answer) => {
                assert_eq!(answer.error_code, 0);
                assert!(answer.members.iter().all(|member| member.error_code == 0));
            }
            other => panic!("{other:?}"),
        }
    }
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_client_would_send_ends_its_own_connection_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(&dir).await;
    let mut good = Wire::to(&broker).await;
    create(&mut good, "there").await;
    let mut frames: Vec<Vec<u8>> = Vec::new();
    // Lengths that lie, and headers that are none.
    for length in [-1, i32::MIN, i32::MAX, 2_000_000_000, 100 << 20] {
        frames.push(length.to_be_bytes().to_vec());
    }
    frames.push(vec![0, 0, 0, 0]);
    frames.push(vec![0, 0, 0, 3, 1, 2, 3]);
    frames.push(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec());
    frames.push(vec![0, 0, 0, 8, 0x7f, 0xff, 0, 0, 0, 0, 0, 1]);
    frames.push(vec![0, 0, 0, 8, 0, 3, 0x7f, 0xff, 0, 0, 0, 1]);
    for frame in &frames {
        let mut bad = Wire::to(&broker).await;
        bad.stream.write_all(frame).await.unwrap();
        assert!(bad.answer().await.is_none(), "{frame:?} is answered");
        assert!(good.is_served().await);
    }
    frames.clear();
    // Every request in its last version, cut short and shaken.
    let mut latest: BTreeMap<i16, (ApiKey, i16)> = BTreeMap::new();
    for (key, version) in advertised(&mut good).await {
        latest.insert(key as i16, (key, version));
    }
    for (key, version) in latest.into_values() {
        let Some(request) = request(key, version) else { continue };
        let whole = good.frame(key, version, &request);
        for cut in [whole.len() - 1, whole.len() / 2, 12] {
            let mut frame = whole[..cut].to_vec();
            frame[..4].copy_from_slice(&((cut - 4) as i32).to_be_bytes());
            frames.push(frame);
        }
        // The same numbers at every run: a failure can be looked at again.
        let mut seed = 0x2545_f491_4f6c_dd1d_u64 ^ key as u64;
        for _ in 0..8 {
            let mut frame = whole.to_vec();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = 12 + (seed >> 33) as usize % (frame.len() - 12);
                frame[at] = (seed >> 24) as u8;
            }
            frames.push(frame);
        }
    }
    for (i, frame) in frames.iter().enumerate() {
        let mut bad = Wire::to(&broker).await;
        bad.stream.write_all(frame).await.unwrap();
        bad.stream.shutdown().await.unwrap();
        // It is answered or hung up on; or it waits, for it asked for records and gave them time.
        if frame[4..6] != (ApiKey::Fetch as i16).to_be_bytes() {
            bad.answer().await;
        }
        assert!(good.is_served().await, "frame {i}: {frame:?}");
    }
    // A batch whose checksum does not hold is not stored, and says so.
    let end = async |wire: &mut Wire| match wire.ask(ApiKey::ListOffsets, 1, request(ApiKey::ListOffsets, 1).unwrap()).await {
        ResponseKind::ListOffsets(answer) => answer.topics[0].partitions[0].offset,
        other => panic!("{other:?}"),
    };
    let before = end(&mut good).await;
    let mut torn = batch(&["x"]).to_vec();
    *torn.last_mut().unwrap() ^= 1;
    match good.ask(ApiKey::Produce, 7, produce("there", torn.into())).await {
        ResponseKind::Produce(answer) => assert_eq!(answer.responses[0].partition_responses[0].error_code, 2),
        other => panic!("{other:?}"),
    }
    assert_eq!(end(&mut good).await, before);
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(&dir).await;
    let mut good = Wire::to(&broker).await;
    create(&mut good, "there").await;
    let mut slow = Wire::to(&broker).await;
    let frame = slow.frame(ApiKey::Metadata, 1, &RequestKind::Metadata(MetadataRequest::default()));
    let (first, rest) = frame.split_at(9);
    slow.stream.write_all(first).await.unwrap();
    assert!(good.is_served().await);
    slow.stream.write_all(rest).await.unwrap();
    let mut answer = slow.answer().await.expect("the whole request is answered");
    assert_eq!(answer.get_i32(), slow.correlation);
    // Ten at once are answered in their order.
    let mut all = BytesMut::new();
    for _ in 0..10 {
        all.extend_from_slice(&slow.frame(ApiKey::Metadata, 1, &RequestKind::Metadata(MetadataRequest::default())));
    }
    slow.stream.write_all(&all).await.unwrap();
    for expected in 2..=11 {
        assert_eq!(slow.answer().await.unwrap().get_i32(), expected);
    }
    broker.stop().await.unwrap();
}

/// As Apache Kafka does: librdkafka never leaves the abort of a transaction otherwise, after a broker that lost its disk.
#[tokio::test]
async fn an_identity_of_a_transactional_id_that_nobody_knows_is_replaced_by_a_fresh_one() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(&dir).await;
    let mut wire = Wire::to(&broker).await;
    let request = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(text("millrace-acme"))))
        .with_transaction_timeout_ms(15_000)
        .with_producer_id(4711.into())
        .with_producer_epoch(3);
    let ResponseKind::InitProducerId(answer) = wire.ask(ApiKey::InitProducerId, 4, RequestKind::InitProducerId(request)).await else {
        panic!("another answer");
    };
    assert_eq!((answer.error_code, answer.producer_epoch), (0, 0), "{answer:?}");
    assert!(answer.producer_id.0 >= 0, "{answer:?}");
}

/// As Java's `describeTopics(ofTopicIds)` asks.
#[tokio::test]
async fn a_topic_is_described_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(&dir).await;
    let mut wire = Wire::to(&broker).await;
    create(&mut wire, "orders").await;
    let named = MetadataRequestTopic::default().with_name(Some(topic("orders")));
    let mut ask = async |asked: MetadataRequestTopic| {
        let request = MetadataRequest::default().with_topics(Some(vec![asked]));
        match wire.ask(ApiKey::Metadata, 12, RequestKind::Metadata(request)).await {
            ResponseKind::Metadata(answer) => answer.topics[0].clone(),
            other => panic!("{other:?}"),
        }
    };
    let by_name = ask(named).await;
    let by_id = ask(MetadataRequestTopic::default().with_name(None).with_topic_id(by_name.topic_id)).await;
    assert_eq!((by_id.error_code, by_id.name), (0, Some(topic("orders"))));
}
