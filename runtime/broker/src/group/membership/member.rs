//! Who is in a group, what they say and what they are told.

use bytes::Bytes;
use kafka_protocol::ResponseError;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Where an answer goes, now or later. Whoever asked may be gone by then.
pub type Reply<T> = oneshot::Sender<T>;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    Empty,
    Preparing,
    Completing,
    Stable,
}

impl Phase {
    /// The name that ListGroups and DescribeGroups use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Preparing => "PreparingRebalance",
            Self::Completing => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// A request to join.
#[derive(Clone, Debug)]
pub struct Join {
    /// Empty: the member is new and wants a name.
    pub member: String,
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub protocol_type: String,
    /// What the member can do, best first, each with its subscription.
    pub protocols: Vec<(String, Bytes)>,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    /// A new member is told its name first and has to come back with it (version 4 and later).
    pub named_first: bool,
    /// A static leader may be told to skip the assignment (version 9).
    pub can_skip: bool,
}

/// The answer to a join.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Joined {
    pub error: i16,
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub leader: String,
    pub skip_assignment: bool,
    pub member: String,
    /// Everybody with his subscription, for the leader; nobody for the others.
    pub members: Vec<Subscription>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subscription {
    pub member: String,
    pub instance: Option<String>,
    pub metadata: Bytes,
}

impl Joined {
    pub fn refused(error: ResponseError, member: &str) -> Self {
        Self { error: error.code(), generation: -1, member: member.into(), ..Self::default() }
    }
}

/// Who speaks: what heartbeat, sync and commit carry.
#[derive(Clone, Copy, Debug)]
pub struct Speaker<'a> {
    pub member: &'a str,
    pub instance: Option<&'a str>,
    pub generation: i32,
}

/// The answer to a sync.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Synced {
    pub error: i16,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub assignment: Bytes,
}

impl Synced {
    pub fn refused(error: ResponseError) -> Self {
        Self { error: error.code(), ..Self::default() }
    }
}

pub struct Member {
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    pub protocols: Vec<(String, Bytes)>,
    pub assignment: Bytes,
    pub(super) joins: Option<Reply<Joined>>,
    pub(super) syncs: Option<Reply<Synced>>,
    /// Has not been part of any generation yet.
    pub(super) is_new: bool,
    /// Was told of this generation and has not asked for its assignment.
    pub(super) owes_sync: bool,
    pub(super) expires: Instant,
}

impl Member {
    pub(super) fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| Some(name.as_str()) == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    pub(super) fn beat(&mut self, now: Instant) {
        self.expires = now + self.session_timeout;
    }
}

/// A group as it is written down.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Roster {
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    pub members: Vec<RosterMember>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RosterMember {
    pub id: String,
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    pub metadata: Bytes,
    pub assignment: Bytes,
}

impl Member {
    /// Whether its session can end: not while the group owes it an answer, unless that is its first.
    pub(super) fn is_watched(&self) -> bool {
        self.is_new || (self.joins.is_none() && self.syncs.is_none())
    }
}
