//! The conversation with edge nodes: who is alive, what is missing, what is to be asked.
//!
//! ```text
//!            NBIRTH                              a node's life: Unheard after a (re)connect or before its first birth,
//!   Unheard ────────► Online ◄──┐ NBIRTH                        Online while vouched for, Dead after its death certificate
//!      │  any message  │  ▲     │
//!      │  of a known ──┘  │ reconnect: Unheard, a rebirth is planned
//!      └─ NDEATH ──► Dead ┘
//! ```
//!
//! Invariants: a message is either rows, or a reject with its payload, or both; never nothing. A retained message never changes a node's life
//! or sequence: nobody knows how old it is. An alias is used only while the birth that gave it is the node's last one as far as is known.

use super::address::{Address, NAMESPACE, Verb};
use super::births::{Commanded, Complaints, Context, Part, hash_of};
use super::command::{self, Target};
use super::config::HostConfig;
use super::positions;
use super::rebirth::{Asked, Rebirths, request};
use super::route::{Message, Outgoing, Route};
use super::sequence::{Order, Sequence};
use super::state::HostState;
use super::wire::{Member, Metric, Payload};
use crate::command::{Permission, Publishing};
use millrace_config::Reason;
use millrace_contract::{CommandValue, Loss, SourceIo, Status, TagOptions};
use millrace_schemas::{Batch, Micros, Origin, Reject, Span, TagId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Nodes and devices together, and metrics of all of them together, one with a long name for several: beyond these a message is a dead letter.
const MOST_PARTS: usize = 100_000;
const MOST_METRICS: usize = 4_000_000;
/// Group, node and device together, in bytes.
const LONGEST_PART: usize = 1024;
/// Until when a device must be born after its node, and a node may speak by itself after a connect before it is asked.
const DEVICE_BIRTH: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(2);
const COMPRESSED: &[u8] = b"SPBV1.0_COMPRESSED";

/// A Sparkplug host application: what is known about edge nodes, and what is to be asked of them.
pub struct Host {
    config: HostConfig,
    routes: Vec<(Route, Arc<TagOptions>)>,
    nodes: Vec<Node>,
    parts: Vec<Part>,
    index: HashMap<Arc<str>, usize>,
    rebirths: Rebirths,
    room: usize,
    moved: Vec<(String, Vec<u8>)>,
    resumed: bool,
    state: HostState,
    /// Holds the name of a part while it is looked up.
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Unheard,
    Online,
    Dead,
}

struct Node {
    name: Arc<str>,
    /// Its own part.
    own: usize,
    devices: Vec<usize>,
    life: Life,
    /// bdSeq of its birth.
    session: Option<u64>,
    sequence: Sequence,
    /// Sequence number, timestamp and number of metrics of the last message: the same once more is a redelivery.
    last: (Option<u64>, u64, usize),
    asked: Asked,
}

impl Host {
    pub fn new(config: HostConfig, routes: Vec<Route>) -> Self {
        Self {
            rebirths: Rebirths::new(config.passive, config.rebirth_every.0),
            state: HostState::new(&config),
            config,
            routes: routes
                .into_iter()
                .map(|route| {
                    let options = Arc::new(route.options.clone());
                    (route, options)
                })
                .collect(),
            nodes: Vec::new(),
            parts: Vec::new(),
            index: HashMap::new(),
            room: MOST_METRICS,
            moved: Vec::new(),
            resumed: false,
            name: String::new(),
        }
    }

    /// Filters to subscribe to (QoS 1) beside the routes' own: the host's own STATE.
    pub fn filters(&self) -> Vec<String> {
        self.state.topic().map(str::to_owned).into_iter().collect()
    }

    /// The will of the connection about to be opened; `on_connect` publishes a birth of the same timestamp.
    pub fn will(&mut self) -> Option<Outgoing> {
        self.state.will()
    }

    /// The connection stands and is subscribed.
    ///
    /// Nodes that were known before, in this process or the last, are asked for their births unless they show that nothing was missed.
    pub fn on_connect(&mut self, now: Instant, io: &SourceIo) -> Vec<Outgoing> {
        if !std::mem::replace(&mut self.resumed, true) {
            self.resume(io);
        }
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if node.life != Life::Dead {
                node.life = Life::Unheard;
                self.rebirths.ask(index, &mut node.asked, now + GRACE);
            }
        }
        self.state.birth(now).into_iter().collect()
    }

    /// The connection is gone: until the next one nothing vouches for a node.
    pub fn on_disconnect(&mut self) {
        self.state.is_connected = false;
    }

    /// To publish before a clean DISCONNECT (which discards the will).
    pub fn farewell(&self) -> Vec<Outgoing> {
        self.state.message(false, Micros::now()).into_iter().collect()
    }

    /// Whether the batch filled so far must be sent before this message is handled: it turns tags bad at once.
    pub fn ends_batch(&self, topic: &str) -> bool {
        topic.starts_with(NAMESPACE) && matches!(topic.split('/').nth(2), Some("NDEATH" | "DDEATH"))
    }

    /// Handles one message; `batch.read_time` is when it came.
    pub fn on_message(&mut self, message: Message<'_>, now: Instant, batch: &mut Batch, io: &SourceIo) -> Vec<Outgoing> {
        if self.state.topic() == Some(message.topic) {
            self.state.seen(message);
        } else if message.topic.strip_prefix(NAMESPACE).is_some_and(|topic| topic.starts_with("/STATE/")) {
            // Of another host.
        } else if let Some(reason) = self.handle(message, now, batch, io).unwrap_or_else(|why| Some(why.into())) {
            self.reject(message, reason, batch);
        }
        self.due(now)
    }

    /// Does what is due. Call it once a second while connected, between batches: what it finds gone must not overtake values.
    pub fn tick(&mut self, now: Instant, io: &SourceIo) -> Vec<Outgoing> {
        if !self.state.is_connected {
            return Vec::new();
        }
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            let lost = node.sequence.expire(self.config.reorder.0, now);
            if lost > 0 {
                io.lost(Loss::SequenceGap, u64::from(lost));
                self.rebirths.ask(index, &mut node.asked, now);
            }
            if node.life != Life::Online {
                continue;
            }
            io.alive(&node.name);
            for device in &node.devices {
                let device = &mut self.parts[*device];
                if device.awaited.is_some_and(|until| until <= now) {
                    device.awaited = None;
                    device.online = false;
                    io.gone(&device.name);
                    io.status(&device.name, Status::Degraded("its node was born again without it".into()));
                    self.rebirths.ask(index, &mut node.asked, now);
                } else if device.online && device.awaited.is_none() {
                    io.alive(&device.name);
                }
            }
        }
        self.due(now)
    }

    /// A command to a metric: NCMD or DCMD. `None`: the tag is none of Sparkplug's. Errors: why it can't be sent.
    pub fn publishing(&self, tag: TagId, value: &CommandValue, time: Micros, _: Permission) -> Option<Result<Publishing, Reason>> {
        let (part, metric) = self.parts.iter().find_map(|part| Some((part, part.metric_of(tag)?)))?;
        Some(self.publishing_to(part, &metric, value, time))
    }

    fn publishing_to(&self, part: &Part, metric: &Commanded<'_>, value: &CommandValue, time: Micros) -> Result<Publishing, Reason> {
        let node = &self.nodes[part.node];
        if self.config.passive {
            return Err("this host is passive (`host: {passive: true}`): it publishes nothing".into());
        }
        if node.life == Life::Dead || !part.online {
            return Err(format!("{} is offline: its death certificate came, or no birth yet", part.name).into());
        }
        if !part.trusted {
            return Err(format!("{} was born again, and its new birth is not known yet; try again", part.name).into());
        }
        if metric.is_member {
            return Err(format!("{} is a member of a template, which can't be commanded alone", metric.name).into());
        }
        let address = Address::of_part(&part.name).ok_or_else(|| format!("{} is no node and no device", part.name))?;
        let (route, options) = &self.routes[part.route];
        let Commanded { name, alias, datatype, .. } = *metric;
        command::publishing(&Target { address, name, alias, datatype, options, confirm: route.confirm }, value, time)
    }

    /// Positions that moved since the last call, to go with the batch just filled; an empty value removes the key.
    pub fn take_moved(&mut self) -> Vec<(String, Vec<u8>)> {
        std::mem::take(&mut self.moved)
    }

    /// What may be published now.
    fn due(&mut self, now: Instant) -> Vec<Outgoing> {
        let mut out = Vec::new();
        if !self.state.is_connected {
            return out;
        }
        out.extend(self.state.due(now));
        while let Some(index) = self.rebirths.next(now) {
            let node = &mut self.nodes[index];
            self.rebirths.sent(index, &mut node.asked, now);
            out.push(request(&node.name, Micros::now()));
        }
        out
    }

    /// Decodes a message and takes it in. Returns why its payload is a dead letter, where it is one.
    fn handle(&mut self, message: Message<'_>, now: Instant, batch: &mut Batch, io: &SourceIo) -> Result<Option<String>, Reason> {
        let address = Address::parse(message.topic)?;
        if address.verb == Verb::Command {
            return Ok(None);
        }
        let read =
            |bytes| Payload::read(bytes).map_err(|malformed| format!("{}: the payload is not Sparkplug B: {malformed}", message.topic));
        let outer = read(message.payload)?;
        let inflated;
        let payload = if outer.uuid == COMPRESSED {
            inflated = positions::inflate(outer.body).map_err(|error| format!("{}: {error}", message.topic))?;
            let inner = read(&inflated)?;
            Payload { seq: inner.seq.or(outer.seq), ..inner }
        } else {
            outer
        };
        let (node, part) = match self.find(&address) {
            Some(found) => found,
            // The death of someone unknown: nothing to bury.
            None if address.verb == Verb::Death => return Ok(None),
            None => match self.route_of(message.topic) {
                Some(route) => self.meet(&address, route)?,
                None => return Ok(None),
            },
        };
        let same = (payload.seq, payload.timestamp, payload.metrics.len());
        let repeated = message.dup || payload.seq.is_some() && std::mem::replace(&mut self.nodes[node].last, same) == same;
        let mut incoming = Incoming { message, payload, repeated, now, batch, io, complaints: Complaints::default() };
        match (address.verb, address.device.is_empty()) {
            (Verb::Birth, true) => self.node_birth(node, &mut incoming),
            (Verb::Birth, false) => self.device_birth(node, part, &mut incoming),
            (Verb::Death, true) => self.node_death(node, &mut incoming),
            (Verb::Death, false) => self.device_death(node, part, &mut incoming),
            (_, of_node) => self.data(node, part, of_node, &mut incoming),
        }
        let complaints = incoming.complaints;
        if complaints.clashed > 0 {
            io.lost(Loss::Other("path_clash"), complaints.clashed);
        }
        let text = complaints.text();
        if let (Some(text), true) = (&text, address.verb == Verb::Birth) {
            io.status(&self.parts[part].name, Status::Degraded(text.clone()));
        }
        Ok(text)
    }

    fn route_of(&self, topic: &str) -> Option<usize> {
        self.routes.iter().position(|(route, _)| route.filter.matches(topic))
    }

    fn find(&mut self, address: &Address<'_>) -> Option<(usize, usize)> {
        address.part(&mut self.name);
        let part = *self.index.get(self.name.as_str())?;
        Some((self.parts[part].node, part))
    }

    /// Makes a node or device known by name. Errors: there are too many, or the name is too long.
    fn meet(&mut self, address: &Address<'_>, route: usize) -> Result<(usize, usize), Reason> {
        if self.parts.len() + 2 > MOST_PARTS {
            return Err(
                format!("{} nodes and devices are known already, that is the most; subscribe to fewer groups", self.parts.len()).into()
            );
        }
        let bytes = address.group.len() + address.node.len() + address.device.len();
        if bytes > LONGEST_PART {
            return Err(format!("group, node and device have {bytes} bytes, more than {LONGEST_PART}").into());
        }
        address.node_part(&mut self.name);
        let own = match self.index.get(self.name.as_str()) {
            Some(own) => *own,
            None => {
                let name: Arc<str> = Arc::from(self.name.as_str());
                let (node, own) = (self.nodes.len(), self.parts.len());
                self.parts.push(Part::new(name.clone(), node, route));
                self.index.insert(name.clone(), own);
                self.nodes.push(Node {
                    name,
                    own,
                    devices: Vec::new(),
                    life: Life::Unheard,
                    session: None,
                    sequence: Sequence::default(),
                    last: (None, 0, 0),
                    asked: Asked::default(),
                });
                own
            }
        };
        let node = self.parts[own].node;
        if address.device.is_empty() {
            return Ok((node, own));
        }
        address.part(&mut self.name);
        let name: Arc<str> = Arc::from(self.name.as_str());
        let part = self.parts.len();
        self.parts.push(Part::new(name.clone(), node, route));
        self.index.insert(name, part);
        self.nodes[node].devices.push(part);
        Ok((node, part))
    }

    fn node_birth(&mut self, index: usize, incoming: &mut Incoming<'_>) {
        let own = self.nodes[index].own;
        if !incoming.message.retain {
            let node = &mut self.nodes[index];
            let lost = node.sequence.restart(incoming.payload.seq);
            if lost > 0 {
                incoming.io.lost(Loss::SequenceGap, u64::from(lost));
            }
            self.rebirths.answered(index, &mut node.asked);
            let session = session_of(&incoming.payload.metrics);
            if node.life != Life::Online || node.session != session {
                self.moved.push((positions::node_key(&node.name), positions::node_value(true, session)));
            }
            node.life = Life::Online;
            node.session = session;
            // Every device is born after its node, once more.
            for device in &node.devices {
                let device = &mut self.parts[*device];
                device.trusted = false;
                if device.online {
                    device.awaited = Some(incoming.now + DEVICE_BIRTH);
                }
            }
        }
        self.birth(own, incoming);
    }

    fn device_birth(&mut self, index: usize, part: usize, incoming: &mut Incoming<'_>) {
        self.order(index, incoming);
        if self.nodes[index].life == Life::Dead || !self.parts[self.nodes[index].own].trusted {
            self.ask(index, incoming.now);
        }
        self.birth(part, incoming);
    }

    /// Takes a birth of either over: its tags, its values, its position.
    fn birth(&mut self, index: usize, incoming: &mut Incoming<'_>) {
        let part = &mut self.parts[index];
        let origin = if part.born && !incoming.message.retain { Origin::Change } else { Origin::Initial };
        let (route, options) = &self.routes[part.route];
        let mut context = Context {
            io: incoming.io,
            route,
            options,
            room: &mut self.room,
            complaints: &mut incoming.complaints,
            timestamp: incoming.payload.timestamp,
            origin,
        };
        part.birth(&incoming.payload.metrics, &mut context, Some(incoming.batch));
        part.born = true;
        part.trusted = true;
        if !incoming.message.retain {
            part.online = true;
            part.awaited = None;
            if self.nodes[part.node].life == Life::Online {
                incoming.io.alive(&part.name);
                incoming.io.status(&part.name, Status::Running);
            }
        }
        let stripped = positions::strip(&incoming.payload.metrics);
        let (hash, pieces) = part.kept;
        let new = hash_of(&stripped);
        if pieces == 0 || new != hash {
            let packed = positions::pack(&stripped, new);
            part.kept = (new, packed.len());
            let surplus = packed.len()..pieces;
            self.moved.extend(packed.into_iter().enumerate().map(|(n, piece)| (positions::piece_key(&part.name, n), piece)));
            self.moved.extend(surplus.map(|n| (positions::piece_key(&part.name, n), Vec::new())));
        }
    }

    fn node_death(&mut self, index: usize, incoming: &mut Incoming<'_>) {
        let node = &mut self.nodes[index];
        let session = session_of_death(&incoming.payload.metrics);
        // An older session's will comes late. A newer one's, which encoders send by mistake, still says that this one is over.
        let is_old = match (session, node.session) {
            (Some(death), Some(birth)) => (1..=127).contains(&(birth.wrapping_sub(death) & 0xFF)),
            _ => false,
        };
        if is_old || node.life == Life::Dead || (incoming.message.retain && node.life == Life::Online) {
            return;
        }
        let lost = node.sequence.restart(None);
        if lost > 0 {
            incoming.io.lost(Loss::SequenceGap, u64::from(lost));
        }
        node.life = Life::Dead;
        self.rebirths.answered(index, &mut node.asked);
        self.moved.push((positions::node_key(&node.name), positions::node_value(false, node.session)));
        for part in std::iter::once(&node.own).chain(&node.devices) {
            bury(&mut self.parts[*part], incoming.io);
        }
    }

    fn device_death(&mut self, index: usize, part: usize, incoming: &mut Incoming<'_>) {
        self.order(index, incoming);
        if !incoming.message.retain {
            bury(&mut self.parts[part], incoming.io);
        }
    }

    fn data(&mut self, index: usize, part_index: usize, of_node: bool, incoming: &mut Incoming<'_>) {
        let order = self.order(index, incoming);
        let part = &mut self.parts[part_index];
        let (route, options) = &self.routes[part.route];
        let mut context = Context {
            io: incoming.io,
            route,
            options,
            room: &mut self.room,
            complaints: &mut incoming.complaints,
            timestamp: incoming.payload.timestamp,
            origin: if incoming.message.retain { Origin::Initial } else { Origin::Change },
        };
        let resolved = part.data(&incoming.payload.metrics, &mut context, incoming.batch);
        if incoming.message.retain {
            return;
        }
        let node = &mut self.nodes[index];
        let part = &mut self.parts[part_index];
        let knows = part.trusted && resolved.unknown == 0 && resolved.undeclared == 0;
        if node.life == Life::Unheard && part.trusted {
            // Nothing was missed while the connection was away: no birth is needed.
            if order == Some(Order::Next) && knows {
                self.rebirths.answered(index, &mut node.asked);
            }
            node.life = Life::Online;
            self.parts[node.own].online = true;
        }
        let part = &mut self.parts[part_index];
        if part.trusted && part.awaited.is_none() {
            part.online = true;
        }
        if !knows || node.life == Life::Dead || (!of_node && !self.parts[node.own].trusted) {
            self.ask(index, incoming.now);
        }
    }

    /// Checks the sequence number. `None` where there was nothing to compare it with.
    fn order(&mut self, index: usize, incoming: &mut Incoming<'_>) -> Option<Order> {
        let node = &mut self.nodes[index];
        let seq = incoming.payload.seq.filter(|_| !incoming.message.retain)?;
        let was_known = node.sequence.is_known();
        let (order, lost) = node.sequence.take(seq as u8, incoming.repeated, incoming.now);
        if lost > 0 {
            incoming.io.lost(Loss::SequenceGap, u64::from(lost));
            self.ask(index, incoming.now);
        }
        was_known.then_some(order)
    }

    fn ask(&mut self, index: usize, at: Instant) {
        self.rebirths.ask(index, &mut self.nodes[index].asked, at);
    }

    fn reject(&self, message: Message<'_>, reason: String, batch: &mut Batch) {
        let Some(route) = self.route_of(message.topic) else { return };
        let flags = [("mqtt.retain", message.retain), ("mqtt.dup", message.dup)];
        let flags = flags.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| (name, Some(&b"true"[..])));
        let headers = batch.push_headers([("mqtt.topic", Some(message.topic.as_bytes()))].into_iter().chain(flags));
        let payload = batch.push_bytes(message.payload);
        batch.rejects.push(Reject { route: self.routes[route].0.id, key: Span::EMPTY, headers, payload, reason });
    }

    /// Takes the births of the last process over, from the positions.
    fn resume(&mut self, io: &SourceIo) {
        let mut births: HashMap<String, Vec<(usize, Vec<u8>)>> = HashMap::new();
        let mut sessions = Vec::new();
        for (key, value) in io.positions(positions::PREFIX) {
            let name = &key[positions::PREFIX.len()..];
            match name.rsplit_once('#').and_then(|(part, piece)| Some((part, piece.parse().ok()?))) {
                Some((part, piece)) => births.entry(part.to_owned()).or_default().push((piece, value)),
                None => sessions.push((name.to_owned(), value)),
            }
        }
        for (name, mut pieces) in births {
            pieces.sort_by_key(|(piece, _)| *piece);
            let keys: Vec<usize> = pieces.iter().map(|(piece, _)| *piece).collect();
            let values: Vec<Vec<u8>> = pieces.into_iter().map(|(_, value)| value).collect();
            if self.resume_birth(&name, &values, io).is_none() {
                // Not whole, or of a group that is subscribed to no more.
                self.moved.extend(keys.into_iter().map(|piece| (positions::piece_key(&name, piece), Vec::new())));
            }
        }
        for (name, value) in sessions {
            let node = self.index.get(name.as_str()).map(|part| self.parts[*part].node);
            let (Some(node), Some((online, session))) = (node, positions::read_node(&value)) else { continue };
            self.nodes[node].session = session;
            if !online {
                self.nodes[node].life = Life::Dead;
                let own = self.nodes[node].own;
                for part in std::iter::once(own).chain(self.nodes[node].devices.clone()) {
                    self.parts[part].trusted = false;
                }
            }
        }
    }

    fn resume_birth(&mut self, name: &str, pieces: &[Vec<u8>], io: &SourceIo) -> Option<()> {
        let address = Address::of_part(name)?;
        let route = self.route_of(&address.birth_topic())?;
        let (stripped, hash) = positions::unpack(pieces)?;
        let payload = Payload::read(&stripped).ok()?;
        let (_, part) = self.meet(&address, route).ok()?;
        let part = &mut self.parts[part];
        let mut complaints = Complaints::default();
        let (route, options) = &self.routes[part.route];
        let mut context =
            Context { io, route, options, room: &mut self.room, complaints: &mut complaints, timestamp: 0, origin: Origin::Initial };
        part.birth(&payload.metrics, &mut context, None);
        part.trusted = true;
        part.kept = (hash, pieces.len());
        tracing::debug!(part = name, metrics = part.len(), "birth resumed");
        Some(())
    }
}

/// One message on its way in.
struct Incoming<'a> {
    message: Message<'a>,
    payload: Payload<'a>,
    /// The broker says so, or it is the last one once more.
    repeated: bool,
    now: Instant,
    batch: &'a mut Batch,
    io: &'a SourceIo,
    complaints: Complaints,
}

/// A death certificate came for this part.
fn bury(part: &mut Part, io: &SourceIo) {
    part.online = false;
    part.trusted = false;
    part.awaited = None;
    io.gone(&part.name);
    io.status(&part.name, Status::Degraded("its death certificate came; waiting for its next birth".into()));
}

/// bdSeq of a death: its one metric, which some encoders send by its alias alone.
fn session_of_death(metrics: &[Metric<'_>]) -> Option<u64> {
    let alone = match metrics {
        [Metric { name: None | Some(""), value: Member::Int(value), .. }] => Some(u64::from(*value)),
        [Metric { name: None | Some(""), value: Member::Long(value), .. }] => Some(*value),
        _ => None,
    };
    session_of(metrics).or(alone)
}

/// bdSeq: encoders write it as an int, a long, signed or not, or leave it out.
fn session_of(metrics: &[Metric<'_>]) -> Option<u64> {
    metrics.iter().find(|metric| metric.name == Some("bdSeq")).and_then(|metric| match metric.value {
        Member::Int(value) => Some(u64::from(value)),
        Member::Long(value) => Some(value),
        _ => None,
    })
}
