//! The requests about consumer groups, translated for [`crate::group::groups`] and back. What members say and what tools ask.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::txn_offset_commit_response::{TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, StrBytes};

use crate::call::Call;
use crate::group::groups::{Move, Now};
use crate::group::membership::{Group, Join, Phase, Speaker};
use crate::group::offsets::Offsets;
use crate::group::stored::Committed;
use crate::transaction::state::Identity;

/// The only kind of groups there are here: classic ones.
const TYPE: &str = "classic";

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

fn code(outcome: Result<(), ResponseError>) -> i16 {
    outcome.map_or_else(|error| error.code(), |()| 0)
}

/// A copy that does not keep the request's frame alive.
fn kept(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn millis(ms: i32) -> Duration {
    Duration::from_millis(ms.max(0) as u64)
}

/// Bytes that a group keeps of one member's subscription, and of one generation's assignment: assignors need some dozen for each partition.
const SUBSCRIPTION_BYTES: usize = 256 << 10;
const ASSIGNMENT_BYTES: usize = 4 << 20;

pub async fn join_group(call: &Call, request: JoinGroupRequest) -> JoinGroupResponse {
    if request.protocols.iter().map(|protocol| protocol.name.len() + protocol.metadata.len()).sum::<usize>() > SUBSCRIPTION_BYTES {
        return JoinGroupResponse::default().with_error_code(ResponseError::GroupMaxSizeReached.code()).with_member_id(request.member_id);
    }
    let session_timeout = millis(request.session_timeout_ms);
    let join = Join {
        member: request.member_id.to_string(),
        instance: request.group_instance_id.map(|instance| instance.to_string()),
        client_id: call.client_id.as_ref().map(|id| id.to_string()).unwrap_or_default(),
        client_host: format!("/{}", call.session.peer.ip().to_canonical()),
        protocol_type: request.protocol_type.to_string(),
        protocols: request.protocols.iter().map(|protocol| (protocol.name.to_string(), kept(&protocol.metadata))).collect(),
        session_timeout,
        // Version 0 has one timeout for both.
        rebalance_timeout: if call.version == 0 { session_timeout } else { millis(request.rebalance_timeout_ms) },
        named_first: call.version >= 4,
        can_skip: call.version >= 9,
    };
    let group = request.group_id.to_string();
    // Its answer may take minutes: the request's frame is not kept for it.
    drop((request.group_id, request.member_id, request.protocol_type, request.protocols, request.reason));
    let joined = call.broker.groups.join(&group, join, Now::new()).await;
    let member = |member: crate::group::membership::Subscription| {
        JoinGroupResponseMember::default()
            .with_member_id(text(member.member))
            .with_group_instance_id(member.instance.filter(|_| call.version >= 5).map(text))
            .with_metadata(member.metadata)
    };
    let response = JoinGroupResponse::default()
        .with_error_code(joined.error)
        .with_generation_id(joined.generation)
        // Nullable since version 7.
        .with_protocol_name(joined.protocol.map(text).or((call.version < 7).then(StrBytes::default)))
        .with_leader(text(joined.leader))
        .with_skip_assignment(joined.skip_assignment)
        .with_member_id(text(joined.member))
        .with_members(joined.members.into_iter().map(member).collect());
    if call.version >= 7 { response.with_protocol_type(joined.protocol_type.map(text)) } else { response }
}

pub async fn sync_group(call: &Call, request: SyncGroupRequest) -> SyncGroupResponse {
    if request.assignments.iter().map(|one| one.member_id.len() + one.assignment.len()).sum::<usize>() > ASSIGNMENT_BYTES {
        return SyncGroupResponse::default().with_error_code(ResponseError::GroupMaxSizeReached.code());
    }
    let speaker = Speaker { member: &request.member_id, instance: request.group_instance_id.as_deref(), generation: request.generation_id };
    let expects = (request.protocol_type.as_deref(), request.protocol_name.as_deref());
    let assignments = request.assignments.iter().map(|one| (one.member_id.to_string(), kept(&one.assignment))).collect();
    let synced = call.broker.groups.sync(&request.group_id, speaker, expects, assignments, Now::new()).await;
    let response = SyncGroupResponse::default().with_error_code(synced.error).with_assignment(synced.assignment);
    if call.version >= 5 {
        response.with_protocol_type(synced.protocol_type.map(text)).with_protocol_name(synced.protocol.map(text))
    } else {
        response
    }
}

pub async fn heartbeat(call: &Call, request: HeartbeatRequest) -> HeartbeatResponse {
    let speaker = Speaker { member: &request.member_id, instance: request.group_instance_id.as_deref(), generation: request.generation_id };
    HeartbeatResponse::default().with_error_code(code(call.broker.groups.heartbeat(&request.group_id, speaker, Now::new())))
}

pub async fn leave_group(call: &Call, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let groups = &call.broker.groups;
    if call.version < 3 {
        let left = groups.leave(&request.group_id, &request.member_id, None, Now::new());
        return LeaveGroupResponse::default().with_error_code(code(left));
    }
    if request.group_id.is_empty() {
        return LeaveGroupResponse::default().with_error_code(ResponseError::InvalidGroupId.code());
    }
    let leave = |member: MemberIdentity| {
        let left = groups.leave(&request.group_id, &member.member_id, member.group_instance_id.as_deref(), Now::new());
        MemberResponse::default()
            .with_member_id(member.member_id)
            .with_group_instance_id(member.group_instance_id)
            .with_error_code(code(left))
    };
    LeaveGroupResponse::default().with_members(request.members.into_iter().map(leave).collect())
}

/// One offset that is to be committed, in whichever request it came.
struct Wanted<'a> {
    topic: &'a TopicName,
    partition: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: &'a str,
}

/// Checks each offset by itself; the good ones go to `commit`, all or none. Returns a code for each, in order.
fn commit_each(
    call: &Call,
    wanted: &[Wanted<'_>],
    expires_ms: Option<i64>,
    now: Now,
    commit: impl FnOnce(&[Move<'_>]) -> Result<u64, ResponseError>,
) -> (Vec<i16>, Option<u64>) {
    let check = |wanted: &Wanted<'_>| {
        let topic = call.broker.topics.get(wanted.topic).ok_or(ResponseError::UnknownTopicOrPartition)?;
        if usize::try_from(wanted.partition).map_or(true, |partition| partition >= topic.partition_count()) {
            return Err(ResponseError::UnknownTopicOrPartition);
        }
        let is_long = wanted.metadata.len() > call.broker.groups.settings().metadata_max;
        if is_long { Err(ResponseError::OffsetMetadataTooLarge) } else { Ok(()) }
    };
    let mut codes: Vec<i16> = wanted.iter().map(|wanted| code(check(wanted))).collect();
    let good = wanted.iter().zip(&codes).filter(|(_, code)| **code == 0).map(|(wanted, _)| wanted);
    let moves: Vec<Move<'_>> = good
        .map(|wanted| Move {
            topic: wanted.topic,
            partition: wanted.partition,
            committed: Committed {
                offset: wanted.offset,
                leader_epoch: wanted.leader_epoch,
                metadata: wanted.metadata.to_owned(),
                at_ms: now.ms,
                expires_ms,
            },
        })
        .collect();
    match commit(&moves) {
        Ok(reached) => (codes, Some(reached)),
        Err(error) => {
            codes.iter_mut().filter(|code| **code == 0).for_each(|code| *code = error.code());
            (codes, None)
        }
    }
}

pub async fn offset_commit(call: &Call, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let now = Now::new();
    let speaker = Speaker {
        member: &request.member_id,
        instance: request.group_instance_id.as_deref(),
        generation: request.generation_id_or_member_epoch,
    };
    let expires_ms = (request.retention_time_ms >= 0).then(|| now.ms.saturating_add(request.retention_time_ms));
    let offsets = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| Wanted {
            topic: &topic.name,
            partition: partition.partition_index,
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: partition.committed_metadata.as_deref().unwrap_or_default(),
        })
    });
    let offsets: Vec<_> = offsets.collect();
    let groups = &call.broker.groups;
    let (mut codes, reached) =
        commit_each(call, &offsets, expires_ms, now, |moves| groups.commit(&request.group_id, speaker, None, moves, now));
    if let Some(reached) = reached
        && let Err(error) = groups.settled(reached).await
    {
        codes.fill(error.code());
    }
    let mut codes = codes.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().zip(&mut codes).map(|(partition, code)| {
            OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index).with_error_code(code)
        });
        OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

pub async fn txn_offset_commit(call: &Call, request: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse {
    let now = Now::new();
    let speaker = Speaker { member: &request.member_id, instance: request.group_instance_id.as_deref(), generation: request.generation_id };
    let producer = request.producer_id.0;
    let who = Identity { producer_id: producer, epoch: request.producer_epoch };
    let offsets = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| Wanted {
            topic: &topic.name,
            partition: partition.partition_index,
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: partition.committed_metadata.as_deref().unwrap_or_default(),
        })
    });
    let offsets: Vec<_> = offsets.collect();
    let (codes, _) = commit_each(call, &offsets, None, now, |moves| {
        call.broker.transactions.may_commit_offsets(&request.transactional_id, who, &request.group_id)?;
        call.broker.groups.commit(&request.group_id, speaker, Some(producer), moves, now)
    });
    let mut codes = codes.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().zip(&mut codes).map(|(partition, code)| {
            TxnOffsetCommitResponsePartition::default().with_partition_index(partition.partition_index).with_error_code(code)
        });
        TxnOffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

/// A partition's committed offset as OffsetFetch tells it.
struct Told {
    partition: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: StrBytes,
    error: i16,
}

impl Told {
    fn of(offsets: Option<&Offsets>, topic: &str, partition: i32, only_stable: bool) -> Self {
        let nothing = Self { partition, offset: -1, leader_epoch: -1, metadata: StrBytes::default(), error: 0 };
        let Some(offsets) = offsets else { return nothing };
        if only_stable && offsets.is_pending(topic, partition) {
            return Self { error: ResponseError::UnstableOffsetCommit.code(), ..nothing };
        }
        match offsets.get(topic, partition) {
            Some(committed) => {
                Self { offset: committed.offset, leader_epoch: committed.leader_epoch, metadata: text(&*committed.metadata), ..nothing }
            }
            None => nothing,
        }
    }
}

/// Tells offsets of one group; `None`: all it has.
fn tell(call: &Call, group: &str, topics: Option<Vec<(TopicName, Vec<i32>)>>, only_stable: bool) -> Vec<(TopicName, Vec<Told>)> {
    let tell = |offsets: Option<&Offsets>| match topics {
        Some(topics) => topics
            .into_iter()
            .map(|(topic, partitions)| {
                let told = partitions.iter().map(|partition| Told::of(offsets, &topic, *partition, only_stable)).collect();
                (topic, told)
            })
            .collect(),
        None => offsets
            .into_iter()
            .flat_map(Offsets::topics)
            .map(|(topic, partitions)| {
                let told = partitions.keys().map(|partition| Told::of(offsets, topic, *partition, only_stable)).collect();
                (TopicName(text(topic)), told)
            })
            .collect(),
    };
    let mut tell = Some(tell);
    let mut once = |offsets: Option<&Offsets>| tell.take().map(|tell| tell(offsets));
    match call.broker.groups.look(group, |_, offsets| once(Some(offsets))) {
        Some(told) => told,
        None => once(None),
    }
    .unwrap_or_default()
}

pub async fn offset_fetch(call: &Call, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let epoch = |told: &Told| if call.version >= 5 { told.leader_epoch } else { -1 };
    if call.version >= 8 {
        let groups = request.groups.into_iter().map(|group| {
            let topics = group.topics.map(|topics| topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect());
            let topics = tell(call, &group.group_id, topics, request.require_stable).into_iter().map(|(name, partitions)| {
                let partitions = partitions.into_iter().map(|told| {
                    OffsetFetchResponsePartitions::default()
                        .with_partition_index(told.partition)
                        .with_committed_offset(told.offset)
                        .with_committed_leader_epoch(epoch(&told))
                        .with_metadata(Some(told.metadata))
                        .with_error_code(told.error)
                });
                OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions.collect())
            });
            OffsetFetchResponseGroup::default().with_topics(topics.collect()).with_group_id(group.group_id.clone())
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let topics = request.topics.map(|topics| topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect());
    let topics = tell(call, &request.group_id, topics, request.require_stable).into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|told| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(told.partition)
                .with_committed_offset(told.offset)
                .with_committed_leader_epoch(epoch(&told))
                .with_metadata(Some(told.metadata))
                .with_error_code(told.error)
        });
        OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_topics(topics.collect())
}

pub async fn list_groups(call: &Call, request: ListGroupsRequest) -> ListGroupsResponse {
    let mut response = ListGroupsResponse::default();
    let wants = |filter: &[StrBytes], word: &str| filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(word));
    if !wants(&request.types_filter, TYPE) {
        return response;
    }
    call.broker.groups.each(|id, group| {
        if !wants(&request.states_filter, group.phase().name()) {
            return;
        }
        let mut listed =
            ListedGroup::default().with_group_id(GroupId(text(id))).with_protocol_type(text(group.protocol_type().unwrap_or_default()));
        if call.version >= 4 {
            listed.group_state = StrBytes::from_static_str(group.phase().name());
        }
        if call.version >= 5 {
            listed.group_type = StrBytes::from_static_str(TYPE);
        }
        response.groups.push(listed);
    });
    response
}

pub async fn describe_groups(call: &Call, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let describe = |id: GroupId| {
        let described = call.broker.groups.look(&id, |group, _| describe(call, group));
        described.unwrap_or_else(|| dead(call, &id)).with_group_id(id)
    };
    DescribeGroupsResponse::default().with_groups(request.groups.into_iter().map(describe).collect())
}

fn dead(call: &Call, id: &str) -> DescribedGroup {
    let dead = DescribedGroup::default().with_group_state(StrBytes::from_static_str("Dead"));
    if call.version < 6 {
        return dead;
    }
    let (error, why) = match id {
        "" => (ResponseError::InvalidGroupId, "The group id is empty.".to_owned()),
        _ => (ResponseError::GroupIdNotFound, format!("Group {id} not found.")),
    };
    dead.with_error_code(error.code()).with_error_message(Some(text(why)))
}

fn describe(call: &Call, group: &Group) -> DescribedGroup {
    let is_stable = group.phase() == Phase::Stable;
    let members = group.members().map(|(id, member, metadata)| {
        DescribedGroupMember::default()
            .with_member_id(text(id))
            .with_group_instance_id(member.instance.clone().filter(|_| call.version >= 4).map(text))
            .with_client_id(text(&*member.client_id))
            .with_client_host(text(&*member.client_host))
            .with_member_metadata(if is_stable { metadata } else { Bytes::new() })
            .with_member_assignment(if is_stable { member.assignment.clone() } else { Bytes::new() })
    });
    DescribedGroup::default()
        .with_group_state(StrBytes::from_static_str(group.phase().name()))
        .with_protocol_type(text(group.protocol_type().unwrap_or_default()))
        .with_protocol_data(text(group.protocol().filter(|_| is_stable).unwrap_or_default()))
        .with_members(members.collect())
}

pub async fn delete_groups(call: &Call, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let delete = |id: GroupId| {
        let deleted = call.broker.groups.delete(&id);
        DeletableGroupResult::default().with_group_id(id).with_error_code(code(deleted))
    };
    DeleteGroupsResponse::default().with_results(request.groups_names.into_iter().map(delete).collect())
}

pub async fn offset_delete(call: &Call, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let groups = &call.broker.groups;
    let refused = |error: ResponseError| OffsetDeleteResponse::default().with_error_code(error.code());
    let subscribed = match groups.look(&request.group_id, |group, _| subscriptions(group)) {
        None => return refused(ResponseError::GroupIdNotFound),
        Some(None) => return refused(ResponseError::NonEmptyGroup),
        Some(Some(topics)) => topics,
    };
    let check = |topic: &TopicName, partition: i32| match call.broker.topics.get(topic) {
        Some(known) if usize::try_from(partition).is_ok_and(|index| index < known.partition_count()) => {
            if subscribed.iter().any(|subscribed| **subscribed == ***topic) { Err(ResponseError::GroupSubscribedToTopic) } else { Ok(()) }
        }
        _ => Err(ResponseError::UnknownTopicOrPartition),
    };
    let mut partitions = Vec::new();
    let topics = request.topics.iter().map(|topic| {
        let answers = topic.partitions.iter().map(|partition| {
            let checked = check(&topic.name, partition.partition_index);
            if checked.is_ok() {
                partitions.push((&**topic.name, partition.partition_index));
            }
            OffsetDeleteResponsePartition::default().with_partition_index(partition.partition_index).with_error_code(code(checked))
        });
        OffsetDeleteResponseTopic::default().with_name(topic.name.clone()).with_partitions(answers.collect())
    });
    let topics = topics.collect();
    match groups.forget(&request.group_id, &partitions) {
        Ok(()) => OffsetDeleteResponse::default().with_topics(topics),
        Err(error) => refused(error),
    }
}

/// The topics that members of a consumer group read; `None`: the group is not empty and can't say.
fn subscriptions(group: &Group) -> Option<Vec<String>> {
    if group.phase() == Phase::Empty {
        return Some(Vec::new());
    }
    if group.protocol_type() != Some("consumer") {
        return None;
    }
    let mut topics = Vec::new();
    for (_, _, mut metadata) in group.members() {
        let version = i16::from_be_bytes(metadata.first_chunk().copied()?);
        bytes::Buf::advance(&mut metadata, 2);
        let subscription = ConsumerProtocolSubscription::decode(&mut metadata, version.clamp(0, 3)).ok()?;
        topics.extend(subscription.topics.iter().map(ToString::to_string));
    }
    Some(topics)
}
