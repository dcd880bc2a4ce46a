//! Joining: members come, a generation begins.

use crate::group::membership::Group;
use crate::group::membership::member::{Join, Joined, Member, Phase, Reply, Speaker, Subscription, Synced};
use crate::random::random_id;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// More members than this and a join is refused: a group's answers carry all of them.
pub const MEMBERS_MAX: usize = 1_000;

/// How long a member that nobody has heard of before may wait for its first rebalance to end.
const NEW_MEMBER_PATIENCE: Duration = Duration::from_secs(300);

impl Group {
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

    pub(super) fn admit(&self, join: &Join) -> Result<(), ResponseError> {
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

    pub(super) fn all_support(&self, protocol: &str, except: Option<&str>) -> bool {
        let mut others = self.members.iter().filter(|(id, _)| Some(id.as_str()) != except);
        others.all(|(_, member)| member.protocols.iter().any(|(name, _)| name == protocol))
    }

    pub(super) fn join_known(&mut self, join: Join, reply: Reply<Joined>, now: Instant) {
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

    pub(super) fn answer_current(&mut self, id: &str, reply: Reply<Joined>, now: Instant) {
        let _ = reply.send(self.joined(id));
        self.members.get_mut(id).expect("the member was just found").beat(now);
    }

    pub(super) fn joined(&self, id: &str) -> Joined {
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

    pub(super) fn subscriptions(&self) -> Vec<Subscription> {
        let subscription = |(id, member, metadata): (&str, &Member, Bytes)| Subscription {
            member: id.into(),
            instance: member.instance.clone(),
            metadata,
        };
        self.members().map(subscription).collect()
    }

    pub(super) fn add(&mut self, id: String, join: Join, reply: Reply<Joined>, now: Instant) {
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

    pub(super) fn rejoin(&mut self, join: Join, reply: Reply<Joined>, now: Instant) {
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
    pub(super) fn replace(&mut self, former: &str, id: String, join: Join, reply: Reply<Joined>, now: Instant) {
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
    pub(super) fn rebalance(&mut self, now: Instant) {
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
    pub(super) fn patience(&self) -> Duration {
        self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or_default()
    }

    /// The join phase is over: who has not come is out, unless static; the others are a generation.
    pub(super) fn complete_join(&mut self, now: Instant) {
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
    pub(super) fn choose_protocol(&self) -> Option<String> {
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
}

/// A name that nobody has.
fn name_for(client: &str) -> String {
    format!("{client}-{}", Uuid::from_bytes(random_id()))
}
