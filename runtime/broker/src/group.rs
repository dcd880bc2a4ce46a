//! One consumer group: who is in it, and who gets what. A state machine without sockets, clock or disk.
//!
//! ```text
//!            first join                     all have joined, or         the leader's
//!   Empty ───────────────> Preparing ──────────────────────────> Completing ───────────> Stable
//!     ^                     ^   │         the deadline passed        │     assignment       │
//!     └─────────────────────┼───┘ nobody is left                     │                      │
//!                           └────────────────────────────────────────┴──────────────────────┘
//!                                         a member joins anew, leaves or dies
//! ```
//!
//! - An answer that has to wait (a join until all have joined, a sync until the leader has spoken) is kept as its [`Reply`] and sent when it is due;
//!   each reply is answered once.
//! - Time is a parameter. [`Group::deadline`] says when [`Group::tick`] has something to do.
//! - A generation number grows with every rebalance; what carries an old one is refused. A static member keeps its place while it is away, and a
//!   second process with its name fences the first.
//! - `dirty` is set when something changed that must survive a restart; a rebalance that a restart interrupts is simply begun again by the members.
//!
//! Source: KIP-62 (rebalance timeout), KIP-345 (static membership), KIP-394 (member id required), KIP-814 (a static leader skips the assignment);
//! where these leave something open, what Apache Kafka 4.1 does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::topics::random_id;

/// Where an answer goes, now or later. Whoever asked may be gone by then.
pub type Reply<T> = oneshot::Sender<T>;

/// More members than this and a join is refused: a group's answers carry all of them.
pub const MEMBERS_MAX: usize = 1_000;

/// How long a member that nobody has heard of before may wait for its first rebalance to end.
const NEW_MEMBER_PATIENCE: Duration = Duration::from_secs(300);

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
    joins: Option<Reply<Joined>>,
    syncs: Option<Reply<Synced>>,
    /// Has not been part of any generation yet.
    is_new: bool,
    /// Was told of this generation and has not asked for its assignment.
    owes_sync: bool,
    expires: Instant,
}

impl Member {
    fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| Some(name.as_str()) == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    fn beat(&mut self, now: Instant) {
        self.expires = now + self.session_timeout;
    }
}

pub struct Group {
    phase: Phase,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    statics: BTreeMap<String, String>,
    /// Members that were told their name and have not come back with it, and until when they may.
    named: BTreeMap<String, Instant>,
    /// Preparing: when the join phase ends. Completing, Stable: when who owes a sync is removed.
    phase_ends: Option<Instant>,
    dirty: bool,
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

impl Default for Group {
    fn default() -> Self {
        Self {
            phase: Phase::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            named: BTreeMap::new(),
            phase_ends: None,
            dirty: false,
        }
    }
}

impl Group {
    /// A group as a restart finds it: its members have a session's time to be heard of again.
    pub fn restore(roster: Roster, now: Instant) -> Self {
        let mut group = Self { generation: roster.generation, protocol_type: roster.protocol_type, ..Self::default() };
        for member in roster.members {
            if let Some(instance) = &member.instance {
                group.statics.insert(instance.clone(), member.id.clone());
            }
            let restored = Member {
                instance: member.instance,
                client_id: member.client_id,
                client_host: member.client_host,
                session_timeout: member.session_timeout,
                rebalance_timeout: member.rebalance_timeout,
                protocols: roster.protocol.iter().map(|name| (name.clone(), member.metadata.clone())).collect(),
                assignment: member.assignment,
                joins: None,
                syncs: None,
                is_new: false,
                owes_sync: false,
                expires: now + member.session_timeout,
            };
            group.members.insert(member.id, restored);
        }
        if !group.members.is_empty() {
            group.phase = Phase::Stable;
            group.protocol = roster.protocol;
            group.leader = roster.leader.filter(|leader| group.members.contains_key(leader));
        }
        group
    }

    /// What a restart needs of it.
    pub fn roster(&self) -> Roster {
        let members = self.members.iter().map(|(id, member)| RosterMember {
            id: id.clone(),
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            session_timeout: member.session_timeout,
            rebalance_timeout: member.rebalance_timeout,
            metadata: member.metadata(self.protocol.as_deref()),
            assignment: member.assignment.clone(),
        });
        Roster {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            members: members.collect(),
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    #[cfg(test)]
    fn generation(&self) -> i32 {
        self.generation
    }

    pub fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }

    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    pub fn members(&self) -> impl Iterator<Item = (&str, &Member, Bytes)> {
        self.members.iter().map(|(id, member)| (id.as_str(), member, member.metadata(self.protocol.as_deref())))
    }

    /// Nobody is in it and nobody was asked in.
    pub fn is_vacant(&self) -> bool {
        self.members.is_empty() && self.named.is_empty()
    }

    /// Whether the roster has changed since this was asked last.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// A member joins, or joins anew; the answer comes when all have.
    pub fn join(&mut self, join: Join, reply: Reply<Joined>, now: Instant) {
        if let Err(error) = self.admit(&join) {
            let _ = reply.send(Joined::refused(error, &join.member));
            return;
        }
        if !join.member.is_empty() {
            return self.join_known(join, reply, now);
        }
        let name = name_for(join.instance.as_deref().unwrap_or(&join.client_id));
        match join.instance.as_ref().and_then(|instance| self.statics.get(instance)).cloned() {
            Some(former) => self.replace(&former, name, join, reply, now),
            None if join.instance.is_none() && join.named_first => {
                self.named.insert(name.clone(), now + join.session_timeout);
                let _ = reply.send(Joined::refused(ResponseError::MemberIdRequired, &name));
            }
            None => self.add(name, join, reply, now),
        }
    }

    fn admit(&self, join: &Join) -> Result<(), ResponseError> {
        let is_here = self.members.contains_key(&join.member) || self.named.contains_key(&join.member);
        let returns = join.member.is_empty() && join.instance.as_ref().is_some_and(|instance| self.statics.contains_key(instance));
        if !join.member.is_empty() && !is_here {
            return Err(match &join.instance {
                Some(instance) if self.statics.contains_key(instance) => ResponseError::FencedInstanceId,
                _ => ResponseError::UnknownMemberId,
            });
        }
        if !is_here && !returns && self.members.len() + self.named.len() >= MEMBERS_MAX {
            return Err(ResponseError::GroupMaxSizeReached);
        }
        let fits = if self.members.is_empty() {
            !join.protocol_type.is_empty() && !join.protocols.is_empty()
        } else {
            self.protocol_type.as_deref() == Some(&join.protocol_type)
                && join.protocols.iter().any(|(name, _)| self.all_support(name, Some(&join.member)))
        };
        if fits { Ok(()) } else { Err(ResponseError::InconsistentGroupProtocol) }
    }

    fn all_support(&self, protocol: &str, except: Option<&str>) -> bool {
        let mut others = self.members.iter().filter(|(id, _)| Some(id.as_str()) != except);
        others.all(|(_, member)| member.protocols.iter().any(|(name, _)| name == protocol))
    }

    fn join_known(&mut self, join: Join, reply: Reply<Joined>, now: Instant) {
        if self.named.remove(&join.member).is_some() {
            return self.add(join.member.clone(), join, reply, now);
        }
        let speaker = Speaker { member: &join.member, instance: join.instance.as_deref(), generation: self.generation };
        if let Err(error) = self.validate(speaker) {
            let _ = reply.send(Joined::refused(error, &join.member));
            return;
        }
        let same = self.members[&join.member].protocols == join.protocols;
        let is_leader = self.leader.as_deref() == Some(&join.member);
        match self.phase {
            // It did not hear the answer to its first join.
            Phase::Completing if same => self.answer_current(&join.member, reply, now),
            Phase::Stable if same && !is_leader => self.answer_current(&join.member, reply, now),
            _ => self.rejoin(join, reply, now),
        }
    }

    fn answer_current(&mut self, id: &str, reply: Reply<Joined>, now: Instant) {
        let _ = reply.send(self.joined(id));
        self.members.get_mut(id).expect("the member was just found").beat(now);
    }

    fn joined(&self, id: &str) -> Joined {
        let leader = self.leader.clone().unwrap_or_default();
        let members = if leader == id && self.phase != Phase::Stable { self.subscriptions() } else { Vec::new() };
        Joined {
            error: 0,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader,
            skip_assignment: false,
            member: id.into(),
            members,
        }
    }

    fn subscriptions(&self) -> Vec<Subscription> {
        let subscription = |(id, member, metadata): (&str, &Member, Bytes)| Subscription {
            member: id.into(),
            instance: member.instance.clone(),
            metadata,
        };
        self.members().map(subscription).collect()
    }

    fn add(&mut self, id: String, join: Join, reply: Reply<Joined>, now: Instant) {
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type);
        }
        if let Some(instance) = &join.instance {
            self.statics.insert(instance.clone(), id.clone());
        }
        let member = Member {
            instance: join.instance,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout: join.session_timeout,
            rebalance_timeout: join.rebalance_timeout,
            protocols: join.protocols,
            assignment: Bytes::new(),
            joins: Some(reply),
            syncs: None,
            is_new: true,
            owes_sync: false,
            expires: now + NEW_MEMBER_PATIENCE,
        };
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(id, member);
        self.rebalance(now);
    }

    fn rejoin(&mut self, join: Join, reply: Reply<Joined>, now: Instant) {
        let member = self.members.get_mut(&join.member).expect("the member was just found");
        (member.client_id, member.client_host) = (join.client_id, join.client_host);
        (member.session_timeout, member.rebalance_timeout) = (join.session_timeout, join.rebalance_timeout);
        member.protocols = join.protocols;
        if let Some(former) = member.joins.replace(reply) {
            let _ = former.send(Joined::refused(ResponseError::UnknownMemberId, &join.member));
        }
        self.rebalance(now);
    }

    /// A static member is back under a new name; whoever has the old one is fenced.
    fn replace(&mut self, former: &str, id: String, join: Join, reply: Reply<Joined>, now: Instant) {
        let led = self.leader.clone();
        let mut member = self.members.remove(former).expect("a static member is a member");
        if let Some(waiting) = member.joins.take() {
            let _ = waiting.send(Joined::refused(ResponseError::FencedInstanceId, former));
        }
        if let Some(waiting) = member.syncs.take() {
            let _ = waiting.send(Synced::refused(ResponseError::FencedInstanceId));
        }
        (member.client_id, member.client_host) = (join.client_id, join.client_host);
        (member.session_timeout, member.rebalance_timeout) = (join.session_timeout, join.rebalance_timeout);
        member.protocols = join.protocols;
        member.beat(now);
        self.statics.insert(member.instance.clone().expect("a static member has an instance"), id.clone());
        self.members.insert(id.clone(), member);
        let is_leader = led.as_deref() == Some(former);
        if is_leader {
            self.leader = Some(id.clone());
        }
        if self.phase == Phase::Stable && self.choose_protocol() == self.protocol {
            self.dirty = true;
            let mut joined = Joined { skip_assignment: is_leader && join.can_skip, ..self.joined(&id) };
            if joined.skip_assignment {
                joined.members = self.subscriptions();
            } else if is_leader {
                // An old client that is told it leads would assign anew: it is told the name that led before.
                joined.leader = former.into();
            }
            let _ = reply.send(joined);
            return;
        }
        self.members.get_mut(&id).expect("the member was just put there").joins = Some(reply);
        self.rebalance(now);
    }

    /// Begins a rebalance, or looks whether the one that runs is complete.
    fn rebalance(&mut self, now: Instant) {
        if self.phase != Phase::Preparing {
            for member in self.members.values_mut() {
                if let Some(waiting) = member.syncs.take() {
                    let _ = waiting.send(Synced::refused(ResponseError::RebalanceInProgress));
                    member.beat(now);
                }
                if self.phase == Phase::Completing {
                    member.assignment = Bytes::new();
                }
                member.owes_sync = false;
            }
            self.phase = Phase::Preparing;
            self.phase_ends = Some(now + self.patience());
        }
        if self.named.is_empty() && self.members.values().all(|member| member.joins.is_some()) {
            self.complete_join(now);
        }
    }

    /// How long the slowest member may take to join or sync.
    fn patience(&self) -> Duration {
        self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or_default()
    }

    /// The join phase is over: who has not come is out, unless static; the others are a generation.
    fn complete_join(&mut self, now: Instant) {
        self.members.retain(|_, member| member.joins.is_some() || member.instance.is_some());
        if !self.members.is_empty() && self.members.values().all(|member| member.joins.is_none()) {
            // Only static members that are away: they have until their sessions end.
            self.phase_ends = Some(now + self.patience());
            return;
        }
        let leads = |group: &Self| group.leader.as_ref().and_then(|id| group.members.get(id)).is_some_and(|member| member.joins.is_some());
        if !leads(self) {
            self.leader = self.members.iter().find(|(_, member)| member.joins.is_some()).map(|(id, _)| id.clone());
        }
        self.generation = self.generation.wrapping_add(1).max(1);
        if self.members.is_empty() {
            (self.phase, self.protocol, self.phase_ends, self.dirty) = (Phase::Empty, None, None, true);
            return;
        }
        self.protocol = self.choose_protocol();
        self.phase = Phase::Completing;
        self.phase_ends = Some(now + self.patience());
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined(&id);
            let member = self.members.get_mut(&id).expect("the member was just listed");
            (member.is_new, member.owes_sync) = (false, true);
            member.beat(now);
            if let Some(waiting) = member.joins.take() {
                let _ = waiting.send(joined);
            }
        }
    }

    /// The protocol that all support and most prefer.
    fn choose_protocol(&self) -> Option<String> {
        let mut votes: Vec<(&str, usize)> = Vec::new();
        for member in self.members.values() {
            let Some((choice, _)) = member.protocols.iter().find(|(name, _)| self.all_support(name, None)) else { continue };
            match votes.iter_mut().find(|(name, _)| name == choice) {
                Some((_, count)) => *count += 1,
                None => votes.push((choice, 1)),
            }
        }
        votes.iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| (*name).to_owned())
    }

    /// A member asks for its share; the leader brings everybody's.
    pub fn sync(
        &mut self,
        speaker: Speaker<'_>,
        expects: (Option<&str>, Option<&str>),
        assignments: Vec<(String, Bytes)>,
        reply: Reply<Synced>,
        now: Instant,
    ) {
        if let Err(error) = self.may_sync(speaker, expects) {
            let _ = reply.send(Synced::refused(error));
            return;
        }
        let member = self.members.get_mut(speaker.member).expect("the member was just validated");
        member.owes_sync = false;
        if self.phase == Phase::Stable {
            member.beat(now);
            let assignment = member.assignment.clone();
            let _ = reply.send(self.synced(assignment));
            return;
        }
        if let Some(former) = member.syncs.replace(reply) {
            let _ = former.send(Synced::refused(ResponseError::UnknownMemberId));
        }
        if self.leader.as_deref() == Some(speaker.member) {
            for (id, assignment) in assignments {
                if let Some(member) = self.members.get_mut(&id) {
                    member.assignment = assignment;
                }
            }
            (self.phase, self.dirty) = (Phase::Stable, true);
            let (protocol_type, protocol) = (self.protocol_type.clone(), self.protocol.clone());
            for member in self.members.values_mut() {
                if let Some(waiting) = member.syncs.take() {
                    let assignment = member.assignment.clone();
                    let _ = waiting.send(Synced { error: 0, protocol_type: protocol_type.clone(), protocol: protocol.clone(), assignment });
                    member.beat(now);
                }
            }
        }
    }

    fn synced(&self, assignment: Bytes) -> Synced {
        Synced { error: 0, protocol_type: self.protocol_type.clone(), protocol: self.protocol.clone(), assignment }
    }

    fn may_sync(&self, speaker: Speaker<'_>, (protocol_type, protocol): (Option<&str>, Option<&str>)) -> Result<(), ResponseError> {
        self.validate(speaker)?;
        let differs = |expected: Option<&str>, is: Option<&str>| expected.is_some() && is.is_some() && expected != is;
        if differs(protocol_type, self.protocol_type()) || differs(protocol, self.protocol()) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        match self.phase {
            Phase::Empty => Err(ResponseError::UnknownMemberId),
            Phase::Preparing => Err(ResponseError::RebalanceInProgress),
            Phase::Completing | Phase::Stable => Ok(()),
        }
    }

    /// Whether this member is one, is not fenced, and lives in this generation.
    fn validate(&self, speaker: Speaker<'_>) -> Result<(), ResponseError> {
        self.identify(speaker)?;
        if speaker.generation == self.generation { Ok(()) } else { Err(ResponseError::IllegalGeneration) }
    }

    fn identify(&self, speaker: Speaker<'_>) -> Result<(), ResponseError> {
        if let Some(instance) = speaker.instance {
            match self.statics.get(instance) {
                None => return Err(ResponseError::UnknownMemberId),
                Some(id) if id != speaker.member => return Err(ResponseError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(speaker.member) { Ok(()) } else { Err(ResponseError::UnknownMemberId) }
    }

    pub fn heartbeat(&mut self, speaker: Speaker<'_>, now: Instant) -> Result<(), ResponseError> {
        self.validate(speaker)?;
        self.members.get_mut(speaker.member).expect("the member was just validated").beat(now);
        match self.phase {
            Phase::Preparing => Err(ResponseError::RebalanceInProgress),
            Phase::Completing | Phase::Stable => Ok(()),
            Phase::Empty => Err(ResponseError::UnknownMemberId),
        }
    }

    /// A member goes, by name or, if static, by its instance.
    pub fn leave(&mut self, member: &str, instance: Option<&str>, now: Instant) -> Result<(), ResponseError> {
        if self.named.remove(member).is_some() {
            if self.phase == Phase::Preparing {
                self.rebalance(now);
            }
            return Ok(());
        }
        let id = match instance {
            Some(instance) if member.is_empty() => self.statics.get(instance).cloned().ok_or(ResponseError::UnknownMemberId)?,
            _ => {
                self.identify(Speaker { member, instance, generation: self.generation })?;
                member.to_owned()
            }
        };
        self.remove(&id, now);
        Ok(())
    }

    fn remove(&mut self, id: &str, now: Instant) {
        let Some(member) = self.members.remove(id) else { return };
        if let Some(instance) = &member.instance {
            self.statics.remove(instance);
        }
        if let Some(waiting) = member.joins {
            let _ = waiting.send(Joined::refused(ResponseError::UnknownMemberId, id));
        }
        if let Some(waiting) = member.syncs {
            let _ = waiting.send(Synced::refused(ResponseError::UnknownMemberId));
        }
        if self.leader.as_deref() == Some(id) {
            let joined = self.members.iter().find(|(_, member)| member.joins.is_some());
            self.leader = joined.or_else(|| self.members.iter().next()).map(|(id, _)| id.clone());
        }
        self.rebalance(now);
    }

    /// Whether offsets may be committed, and by whom. A commit of a member counts as its heartbeat.
    pub fn may_commit(&mut self, speaker: Speaker<'_>, in_transaction: bool, now: Instant) -> Result<(), ResponseError> {
        // An admin client, or a consumer that assigns its partitions itself.
        let is_outsider = speaker.generation < 0 && speaker.member.is_empty() && speaker.instance.is_none();
        if is_outsider || (speaker.generation < 0 && self.phase == Phase::Empty) {
            let is_free = in_transaction || self.phase == Phase::Empty;
            return if is_free { Ok(()) } else { Err(ResponseError::UnknownMemberId) };
        }
        self.validate(speaker)?;
        if self.phase == Phase::Completing && !in_transaction {
            return Err(ResponseError::RebalanceInProgress);
        }
        self.members.get_mut(speaker.member).expect("the member was just validated").beat(now);
        Ok(())
    }

    /// When something happens by itself.
    pub fn deadline(&self) -> Option<Instant> {
        let sessions = self.members.values().filter(|member| member.is_watched()).map(|member| member.expires);
        let phase = self.phase_ends.filter(|_| self.phase == Phase::Preparing || self.members.values().any(|member| member.owes_sync));
        sessions.chain(self.named.values().copied()).chain(phase).min()
    }

    /// Does what is due: sessions that ended, joins and syncs that took too long.
    pub fn tick(&mut self, now: Instant) {
        let named = self.named.len();
        self.named.retain(|_, until| *until > now);
        let dead = self.members.iter().filter(|(_, member)| member.is_watched() && member.expires <= now);
        let dead: Vec<String> = dead.map(|(id, _)| id.clone()).collect();
        for id in dead {
            self.remove(&id, now);
        }
        if self.phase == Phase::Preparing && named != self.named.len() {
            self.rebalance(now);
        }
        if self.phase_ends.is_none_or(|end| end > now) {
            return;
        }
        if self.phase == Phase::Preparing {
            self.complete_join(now);
        } else {
            self.phase_ends = None;
            let mute: Vec<String> = self.members.iter().filter(|(_, member)| member.owes_sync).map(|(id, _)| id.clone()).collect();
            for id in mute {
                self.remove(&id, now);
            }
        }
    }
}

impl Member {
    /// Whether its session can end: not while the group owes it an answer, unless that is its first.
    fn is_watched(&self) -> bool {
        self.is_new || (self.joins.is_none() && self.syncs.is_none())
    }
}

/// A name that nobody has.
fn name_for(client: &str) -> String {
    format!("{client}-{}", Uuid::from_bytes(random_id()))
}

#[cfg(test)]
mod tests;
