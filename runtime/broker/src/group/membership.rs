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

mod join;
mod member;
#[cfg(test)]
mod tests;

pub use member::{Join, Joined, Phase, Reply, Roster, RosterMember, Speaker, Subscription, Synced};

use crate::group::membership::member::Member;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use std::collections::BTreeMap;
use std::time::Instant;

/// A member, beside what it brings.
const MEMBER_BYTES: usize = 400;

pub struct Group {
    pub(super) phase: Phase,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) members: BTreeMap<String, Member>,
    pub(super) statics: BTreeMap<String, String>,
    /// Members that were told their name and have not come back with it, and until when they may.
    pub(super) named: BTreeMap<String, Instant>,
    /// Preparing: when the join phase ends. Completing, Stable: when who owes a sync is removed.
    pub(super) phase_ends: Option<Instant>,
    pub(super) dirty: bool,
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
    pub(super) fn generation(&self) -> i32 {
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

    /// What is kept of its members, in bytes, about.
    pub fn bytes(&self) -> usize {
        let of = |member: &Member| {
            let protocols: usize = member.protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum();
            member.client_id.len() + protocols + member.assignment.len()
        };
        let names = self.members.keys().chain(self.named.keys()).map(|name| name.len() + MEMBER_BYTES).sum::<usize>();
        names + self.members.values().map(of).sum::<usize>()
    }

    /// Nobody is in it and nobody was asked in.
    pub fn is_vacant(&self) -> bool {
        self.members.is_empty() && self.named.is_empty()
    }

    /// Whether the roster has changed since this was asked last.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
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

    pub(super) fn synced(&self, assignment: Bytes) -> Synced {
        Synced { error: 0, protocol_type: self.protocol_type.clone(), protocol: self.protocol.clone(), assignment }
    }

    pub(super) fn may_sync(
        &self,
        speaker: Speaker<'_>,
        (protocol_type, protocol): (Option<&str>, Option<&str>),
    ) -> Result<(), ResponseError> {
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
    pub(super) fn validate(&self, speaker: Speaker<'_>) -> Result<(), ResponseError> {
        self.identify(speaker)?;
        if speaker.generation == self.generation { Ok(()) } else { Err(ResponseError::IllegalGeneration) }
    }

    pub(super) fn identify(&self, speaker: Speaker<'_>) -> Result<(), ResponseError> {
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

    pub(super) fn remove(&mut self, id: &str, now: Instant) {
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
