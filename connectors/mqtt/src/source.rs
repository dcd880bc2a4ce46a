//! The MQTT source: messages into batches, acknowledgements when they are durable.
//!
//! ```text
//! read 64 KiB ─> every message in it ─> one batch ─> io.send ─> ack id ──┐
//!      ^                                                                 v   in order of receipt
//!      └──── not while the window is full        one write <── acks <── io.durable
//!
//! QoS 1   PUBLISH ─> recorded, durable ─> PUBACK
//! QoS 2   PUBLISH ─> recorded and its identifier in the position, durable ─> PUBREC
//!         PUBREL  ─> identifier out of the position, durable ─> PUBCOMP
//! ```
//!
//! Invariants: an acknowledgement belongs to a connection and dies with it. What waits in memory is one batch and one packet: when the log is
//! full, the window unacknowledged or the machine slow, the socket is simply not read.

use crate::config::{Compiled, SourceConfig};
use crate::kept::{self, FILTERS, Filters, RECEIVED, Unreleased};
use crate::packet::{self, AckKind, Message, Packet, Qos, Version, Will, code_name};
use crate::payload::Decode;
use crate::routes::Intake;
use crate::session::{Inbound, Opening, Session, Step};
use crate::sparkplug::{Host, Outgoing};
use async_trait::async_trait;
use millrace_config::Problems;
use millrace_contract::plugin::{self, BrowseFn};
use millrace_contract::{AckId, Context, Failure, Guarantee, Model, Plan, Plugin, Role, Source, SourceIo, Status};
use millrace_schemas::{Batch, Micros};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// `type: mqtt` among the sources.
pub struct MqttSource;

impl Plugin for MqttSource {
    const TYPE: &'static str = "mqtt";
    const ROLE: Role = Role::Source;
    type Config = SourceConfig;

    fn compile(config: SourceConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn plugin::Compiled>> {
        let compiled = config.compile(context, problems)?;
        Some(Box::new(CompiledSource(Arc::new(compiled))))
    }

    fn browse() -> Option<BrowseFn> {
        Some(crate::browse::browse)
    }
}

struct CompiledSource(Arc<Compiled>);

impl plugin::Compiled for CompiledSource {
    fn model(&self) -> &Model {
        &self.0.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(Mqtt { compiled: self.0.clone(), connections: Vec::new(), has_looked_back: false }))
    }

    fn guarantee(&self) -> Guarantee {
        let weakest = self.0.routes.iter().map(|route| route.qos).min().unwrap_or(Qos::AtMostOnce);
        if self.0.session_expiry.is_zero() {
            return Guarantee::AtMostOnce(
                "no session is kept (`session_expiry: 0s`): what is published while this source is away is gone".into(),
            );
        }
        match weakest {
            Qos::AtMostOnce => Guarantee::AtMostOnce("QoS 0: the broker sends once and forgets".into()),
            Qos::AtLeastOnce => Guarantee::AtLeastOnce("QoS 1: the broker sends again what was not acknowledged".into()),
            Qos::ExactlyOnce => {
                Guarantee::ExactlyOnce("QoS 2 with a kept session: what is recorded and not released is part of the position".into())
            }
        }
    }

    fn plan(&self) -> Plan {
        let compiled = &self.0;
        let version = match compiled.broker.version {
            Version::V4 => "3.1.1",
            Version::V5 => "5",
        };
        let mut lines = vec![format!("mqtt {version}, client id {}", compiled.client_ids.join(", "))];
        for (route, model) in compiled.routes.iter().zip(&compiled.model.routes) {
            let share = compiled.share.as_ref().map_or_else(String::new, |share| format!("$share/{share}/"));
            let what = match &route.decode {
                Decode::Document(_) => "documents".to_owned(),
                Decode::Samples(samples) => format!("{} tags of each topic", samples.items.len()),
                Decode::Value(_) => "a tag of each topic".to_owned(),
                Decode::Sparkplug => "Sparkplug metrics".to_owned(),
            };
            lines.push(format!("subscribe {share}{} at QoS {}: {what} to {}", route.filter, route.qos as u8, model.topic));
        }
        if let Some(host) = &compiled.host {
            lines.push(match (host.passive, host.primary) {
                (true, _) => "Sparkplug host, passive: publishes nothing".into(),
                (false, true) => {
                    format!("Sparkplug primary host {}: publishes STATE and rebirth requests", host.id.as_deref().unwrap_or(""))
                }
                (false, false) => "Sparkplug host: publishes rebirth requests".into(),
            });
        }
        Plan { endpoint: compiled.broker.endpoint.to_string(), lines, rate: None }
    }
}

struct Mqtt {
    compiled: Arc<Compiled>,
    /// What each connection keeps from session to session; `None` while its task has it.
    connections: Vec<Option<Connection>>,
    has_looked_back: bool,
}

impl Mqtt {
    /// Says once which sessions of earlier configurations the broker may still keep: with a changed `client_id` or fewer `connections`.
    fn look_back(&mut self, io: &SourceIo) {
        if std::mem::replace(&mut self.has_looked_back, true) {
            return;
        }
        for (key, _) in io.positions(FILTERS) {
            let client_id = &key[FILTERS.len()..];
            if !self.compiled.client_ids.iter().any(|id| id == client_id) {
                tracing::warn!(
                    endpoint = %self.compiled.broker.endpoint,
                    client_id,
                    "the broker may still keep the session of an earlier client id, and the messages that came for it; to take them in, start once \
                     with `client_id: {client_id}`; to give them up, start so once more with `session_expiry: 0s`, or remove the session at the broker"
                );
            }
        }
    }
}

#[async_trait]
impl Source for Mqtt {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        self.look_back(&io);
        let count = self.compiled.client_ids.len();
        self.connections.resize_with(count, || None);
        let up = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = watch::channel(false);
        let mut running = JoinSet::new();
        for (index, slot) in self.connections.iter_mut().enumerate() {
            let mut connection = slot.take().unwrap_or_else(|| Connection::new(self.compiled.clone(), index));
            let (io, up, stopped) = (io.clone(), up.clone(), stopped.clone());
            running.spawn(async move {
                let ended = connection.run(&io, &up, stopped).await;
                (connection, ended)
            });
        }
        drop(stopped);
        // The first to fail ends the session; the others send their last acknowledgements.
        let mut first = None;
        while let Some(joined) = running.join_next().await {
            match joined {
                Ok((connection, ended)) => {
                    let index = connection.index;
                    self.connections[index] = Some(connection);
                    first.get_or_insert(ended);
                }
                Err(error) => {
                    first.get_or_insert(Failure::Reconnect(format!("a connection's task ended: {error}")));
                }
            }
            let _ = stop.send(true);
        }
        Err(first.unwrap_or(Failure::Stopped))
    }
}

/// How long the last acknowledgements may take when the engine stops.
const LAST_ACKS_WITHIN: Duration = Duration::from_secs(2);
/// A connection that ends sooner is young.
const YOUNG: Duration = Duration::from_secs(60);
/// A refused filter is asked for again this often.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// A batch is sent when its heap or its records reach this, even if more is there.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_RECORDS: usize = 10_000;
/// While messages come densely, the socket rests for so long per message of the last read: each read, sync and write then carries many. A broker that
/// sends few before it waits for acknowledgements is read again soon, whatever its window.
const PACE_EACH: Duration = Duration::from_micros(125);
const PACE_MOST: Duration = Duration::from_millis(20);
/// So many messages in one read are dense.
const DENSE: u32 = 4;

/// One connection, and what it keeps from one session to the next.
struct Connection {
    compiled: Arc<Compiled>,
    index: usize,
    intake: Intake,
    /// `None` until the position was asked.
    unreleased: Option<Unreleased>,
    filters: Option<Filters>,
    /// Filters the broker does not grant.
    refused: BTreeSet<String>,
    /// How often in a row the broker closed a young connection without a word.
    closed_young: u32,
}

impl Connection {
    fn new(compiled: Arc<Compiled>, index: usize) -> Self {
        let host = compiled.host.as_ref().map(|config| Host::new(config.clone(), compiled.sparkplug_routes.clone()));
        let intake = Intake::new(compiled.routes.clone(), compiled.max_tags, host);
        Self { compiled, index, intake, unreleased: None, filters: None, refused: BTreeSet::new(), closed_young: 0 }
    }

    /// The filters to hold, as the broker sees them.
    fn wanted(&self) -> BTreeMap<String, (Qos, u32)> {
        let compiled = &self.compiled;
        let mut wanted: BTreeMap<_, _> = compiled
            .routes
            .iter()
            .map(|route| {
                let filter = match &compiled.share {
                    Some(share) => format!("$share/{share}/{}", route.filter),
                    None => route.filter.to_string(),
                };
                (filter, (route.qos, route.subscription_id))
            })
            .collect();
        for filter in self.intake.host.iter().flat_map(Host::filters) {
            wanted.entry(filter).or_insert((Qos::AtLeastOnce, 0));
        }
        wanted
    }

    async fn run(&mut self, io: &SourceIo, up: &AtomicUsize, stop: watch::Receiver<bool>) -> Failure {
        let will = self.intake.host.as_mut().and_then(Host::will);
        let opening = self.opening(will);
        let opened = tokio::select! {
            biased;
            () = ending(io, stop.clone()) => return Failure::Stopped,
            opened = Session::open(&opening) => opened,
        };
        let session = match opened {
            Ok(session) => session,
            Err(failure) => return failure,
        };
        let begun = Instant::now();
        let mut live = Live::new(self, session, io, up);
        let ended = live.run(stop).await;
        live.roll_back();
        let session = live.session;
        if let Some(host) = &mut self.intake.host {
            host.on_disconnect();
        }
        match ended {
            Ok(()) => {
                session.close(0, None).await;
                Failure::Stopped
            }
            Err(failure) => self.hint(failure, begun),
        }
    }

    /// Not every broker says that another client took a session over: two of one id then throw each other out again and again.
    fn hint(&mut self, failure: Failure, begun: Instant) -> Failure {
        let Failure::Reconnect(cause) = failure else { return failure };
        let is_young = begun.elapsed() < YOUNG && cause.ends_with("closed the connection");
        self.closed_young = if is_young { self.closed_young + 1 } else { 0 };
        if self.closed_young < 3 {
            return Failure::Reconnect(cause);
        }
        let client_id = &self.compiled.client_ids[self.index];
        Failure::Reconnect(format!(
            "{cause}, {} times soon after it was opened; does another client use the id `{client_id}`?",
            self.closed_young
        ))
    }

    fn opening(&self, will: Option<Outgoing>) -> Opening {
        let compiled = &self.compiled;
        Opening {
            endpoint: compiled.broker.endpoint.clone(),
            tls: compiled.broker.tls.clone(),
            version: compiled.broker.version,
            client_id: compiled.client_ids[self.index].clone(),
            login: compiled.broker.login.clone(),
            keep_alive: compiled.broker.keep_alive,
            clean_start: compiled.session_expiry.is_zero(),
            session_expiry: compiled.session_expiry,
            receive_maximum: compiled.window,
            max_packet: compiled.max_packet,
            answered: compiled.broker.answered.clone(),
            will: will.map(|will| Will { qos: qos(&will), topic: will.topic, payload: will.payload, retain: will.retain }),
        }
    }
}

fn qos(outgoing: &Outgoing) -> Qos {
    Qos::from_bits(outgoing.qos).unwrap_or(Qos::AtLeastOnce)
}

/// The engine wants the source to stop, or another connection has failed.
async fn ending(io: &SourceIo, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = io.stopping() => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Acknowledgements that wait for their batches to be durable, in order of receipt.
#[derive(Default)]
struct Acks {
    /// Of messages in the batch being filled.
    filling: Vec<(AckKind, u16)>,
    waiting: VecDeque<(AckKind, u16)>,
    /// So many of `waiting` go when this batch is durable.
    marks: VecDeque<(AckId, usize)>,
    last_sent: AckId,
    durable: AckId,
}

impl Acks {
    fn len(&self) -> usize {
        self.filling.len() + self.waiting.len()
    }

    /// The batch being filled was sent.
    fn sent(&mut self, id: AckId) {
        self.last_sent = id;
        self.mark();
    }

    /// What was filled needs no batch of its own: it waits for the last one sent.
    fn mark(&mut self) {
        if !self.filling.is_empty() {
            self.marks.push_back((self.last_sent, self.filling.len()));
            self.waiting.extend(self.filling.drain(..));
        }
    }

    /// Writes what is durable.
    fn release(&mut self, out: &mut Vec<u8>) {
        while let Some((id, count)) = self.marks.front().copied() {
            if id > self.durable {
                return;
            }
            self.marks.pop_front();
            for (kind, id) in self.waiting.drain(..count) {
                packet::write_ack(out, kind, id);
            }
        }
    }
}

/// An open connection.
struct Live<'a> {
    connection: &'a mut Connection,
    session: Session,
    io: &'a SourceIo,
    up: &'a AtomicUsize,
    client_id: String,
    batch: Option<Batch>,
    acks: Acks,
    /// Identifiers that came into and went from `Connection::unreleased` with the batch being filled.
    added: Vec<u16>,
    removed: Vec<u16>,
    /// Positions to go with the next batch, besides `unreleased`.
    moved: Vec<(String, Vec<u8>)>,
    /// Filters asked for, by packet identifier; `None`: given up.
    asked: BTreeMap<u16, (String, Option<Qos>)>,
    ask_again: Instant,
    is_subscribed: bool,
    next_id: u16,
    /// The socket is not read before.
    paced: Option<Instant>,
}

#[allow(clippy::large_enum_variant)] // it lives on the stack, for a moment
enum Event {
    Ending,
    Durable(AckId),
    Batch(Batch),
    Tick,
    Paced,
}

impl<'a> Live<'a> {
    fn new(connection: &'a mut Connection, session: Session, io: &'a SourceIo, up: &'a AtomicUsize) -> Self {
        let client_id = connection.compiled.client_ids[connection.index].clone();
        Self {
            connection,
            session,
            io,
            up,
            client_id,
            batch: None,
            acks: Acks::default(),
            added: Vec::new(),
            removed: Vec::new(),
            moved: Vec::new(),
            asked: BTreeMap::new(),
            ask_again: Instant::now() + ASK_AGAIN,
            is_subscribed: false,
            next_id: 0,
            paced: None,
        }
    }

    /// Runs until the engine stops it.
    async fn run(&mut self, stop: watch::Receiver<bool>) -> Result<(), Failure> {
        let io = self.io;
        let begun = async {
            self.take_over().await?;
            self.subscribe().await
        };
        tokio::select! {
            biased;
            () = ending(io, stop.clone()) => return Ok(()),
            begun = begun => begun?,
        }
        let window = self.connection.compiled.window as usize;
        let ending = ending(io, stop);
        tokio::pin!(ending);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (durable, waits, has_batch, paced) = (self.acks.durable, !self.acks.marks.is_empty(), self.batch.is_some(), self.paced);
            let event = async {
                tokio::select! {
                    biased;
                    () = &mut ending => Event::Ending,
                    head = io.durable(durable), if waits => Event::Durable(head),
                    batch = io.batch(), if !has_batch => Event::Batch(batch),
                    _ = tick.tick() => Event::Tick,
                    () = tokio::time::sleep_until(paced.unwrap_or_else(Instant::now)), if paced.is_some() => Event::Paced,
                }
            };
            let read = has_batch && paced.is_none() && self.acks.len() < window;
            self.session.line.rest(paced.is_some());
            match self.session.alongside(read, event).await? {
                Step::Read => self.take_in().await?,
                Step::Done(Event::Durable(head)) => self.durable(head),
                Step::Done(Event::Batch(batch)) => {
                    self.batch = Some(batch);
                    // What was read before may be more than the last batch took.
                    self.take_in().await?;
                }
                Step::Done(Event::Tick) => self.tick().await?,
                Step::Done(Event::Paced) => self.paced = None,
                Step::Done(Event::Ending) => return self.end().await,
            }
        }
    }

    /// Takes over what is known of the broker's session, or forgets it with the session.
    async fn take_over(&mut self) -> Result<(), Failure> {
        let key = format!("{RECEIVED}{}", self.client_id);
        let known = self.connection.unreleased.take();
        let unreleased = known.unwrap_or_else(|| self.io.resume(&key).map(|bytes| Unreleased::read(&bytes)).unwrap_or_default());
        self.connection.unreleased = Some(Unreleased::default());
        if self.session.connack.session_present {
            self.connection.unreleased = Some(unreleased);
        } else if !unreleased.is_empty() {
            // Durably, before the new session uses an identifier of the old one again.
            let id = self.send_with(Batch::new(), vec![(key, Vec::new())]).await?;
            let io = self.io;
            self.acks.durable = self.session.meanwhile(io.durable(AckId(id.0.saturating_sub(1)))).await?;
        }
        Ok(())
    }

    /// Subscribes to what is wanted and not held, gives up what is held and not wanted.
    ///
    /// The position says beforehand which filters the broker may hold afterwards, so that none is ever forgotten there.
    async fn subscribe(&mut self) -> Result<(), Failure> {
        let wanted = self.connection.wanted();
        let stored = self.stored_filters();
        let held = if self.session.connack.session_present { stored.clone() } else { Filters::new() };
        let mut perhaps = held.clone();
        for (filter, (qos, _)) in &wanted {
            if held.get(filter) != Some(&Some(*qos)) {
                perhaps.insert(filter.clone(), None);
            }
        }
        self.store_filters(&stored, &perhaps).await?;
        for filter in held.keys().filter(|filter| !wanted.contains_key(*filter)) {
            let id = next_id(&mut self.next_id);
            packet::write_unsubscribe(&mut self.session.line.out, self.session.version, id, filter);
            self.asked.insert(id, (filter.clone(), None));
        }
        for (filter, (qos, subscription_id)) in &wanted {
            // With 5 asking again is harmless, and mends what somebody removed; with 3.1.1 every retained message would come again.
            if self.session.version == Version::V5 || held.get(filter) != Some(&Some(*qos)) {
                self.ask(filter, *qos, *subscription_id);
            }
        }
        self.answered().await
    }

    fn ask(&mut self, filter: &str, qos: Qos, subscription_id: u32) {
        let id = next_id(&mut self.next_id);
        let subscription_id = if self.session.connack.subscription_ids_available { subscription_id } else { 0 };
        packet::write_subscribe(&mut self.session.line.out, self.session.version, id, filter, qos, subscription_id);
        self.asked.insert(id, (filter.to_owned(), Some(qos)));
    }

    fn stored_filters(&self) -> Filters {
        let key = format!("{FILTERS}{}", self.client_id);
        let known = self.connection.filters.clone();
        known.unwrap_or_else(|| self.io.resume(&key).map(|bytes| kept::read_filters(&bytes)).unwrap_or_default())
    }

    async fn store_filters(&mut self, stored: &Filters, filters: &Filters) -> Result<(), Failure> {
        if stored != filters && !self.connection.compiled.session_expiry.is_zero() {
            let key = format!("{FILTERS}{}", self.client_id);
            self.send_with(Batch::new(), vec![(key, kept::write_filters(filters))]).await?;
        }
        self.connection.filters = Some(filters.clone());
        Ok(())
    }

    /// When the broker has answered everything that was asked, the connection is up.
    async fn answered(&mut self) -> Result<(), Failure> {
        if !self.asked.is_empty() {
            return Ok(());
        }
        let wanted = self.connection.wanted();
        let refused = &self.connection.refused;
        let held: Filters =
            wanted.iter().filter(|(filter, _)| !refused.contains(*filter)).map(|(filter, (qos, _))| (filter.clone(), Some(*qos))).collect();
        let stored = self.stored_filters();
        self.store_filters(&stored, &held).await?;
        if self.is_subscribed {
            return Ok(());
        }
        self.is_subscribed = true;
        if let Some(host) = &mut self.connection.intake.host {
            let outgoing = host.on_connect(std::time::Instant::now(), self.io);
            self.connection.intake.outgoing.extend(outgoing);
            self.publish();
        }
        if self.up.fetch_add(1, Ordering::SeqCst) + 1 == self.connection.compiled.client_ids.len() {
            self.io.status("", Status::Running);
        }
        Ok(())
    }

    fn durable(&mut self, head: AckId) {
        self.acks.durable = head;
        self.acks.release(&mut self.session.line.out);
    }

    /// Takes in what lies in the inbox, and sends it.
    async fn take_in(&mut self) -> Result<(), Failure> {
        let Some(batch) = &mut self.batch else { return Ok(()) };
        batch.read_time = Micros::now();
        let Session { inbox, connack: _, version, .. } = &mut self.session;
        let version = *version;
        let Connection { intake, unreleased, .. } = &mut *self.connection;
        let unreleased = unreleased.get_or_insert_default();
        let mut messages = 0_u32;
        let mut answers = Vec::new();
        let mut ended = None;
        let is_full = loop {
            let (publish, oversized) = match inbox.next(version) {
                Ok(None) => break false,
                Ok(Some(Inbound::Packet(Packet::Publish(publish)))) => (publish, None),
                Ok(Some(Inbound::Oversized { publish, len })) => (publish, Some(len)),
                Ok(Some(Inbound::Packet(Packet::Ack(ack)))) => {
                    if ack.kind == AckKind::Pubrel {
                        if unreleased.remove(ack.id) {
                            self.removed.push(ack.id);
                        }
                        self.acks.filling.push((AckKind::Pubcomp, ack.id));
                    }
                    continue;
                }
                Ok(Some(Inbound::Packet(Packet::Suback(suback)))) => {
                    answers.push((suback.id, suback.codes.first().copied().unwrap_or(0x80), suback.reason.map(str::to_owned)));
                    continue;
                }
                Ok(Some(Inbound::Packet(Packet::Unsuback { id }))) => {
                    answers.push((id, 0, None));
                    continue;
                }
                Ok(Some(Inbound::Packet(Packet::Pingresp))) => continue,
                Ok(Some(Inbound::Packet(Packet::Disconnect(disconnect)))) => {
                    ended = Some(Err(disconnect));
                    break false;
                }
                Ok(Some(Inbound::Packet(Packet::Connack(_) | Packet::Auth { .. }))) => {
                    ended = Some(Ok(packet::Malformed { packet: "packet", what: "CONNACK or AUTH in an open session" }));
                    break false;
                }
                Err(error) => {
                    ended = Some(Ok(error));
                    break false;
                }
            };
            if !batch.is_empty() && intake.ends_batch(&publish) {
                inbox.put_back();
                break true;
            }
            messages += 1;
            match publish.qos {
                Qos::AtMostOnce => {}
                Qos::AtLeastOnce => self.acks.filling.push((AckKind::Puback, publish.id)),
                Qos::ExactlyOnce => {
                    self.acks.filling.push((AckKind::Pubrec, publish.id));
                    if publish.dup && unreleased.contains(publish.id) {
                        continue;
                    }
                    unreleased.insert(publish.id);
                    self.added.push(publish.id);
                }
            }
            intake.take(&publish, oversized, batch, self.io);
            if batch.heap.len() >= BATCH_BYTES || batch.len() >= BATCH_RECORDS {
                break true;
            }
        };
        if messages >= DENSE && !is_full && !self.session.inbox.is_brimming() {
            self.paced = Some(Instant::now() + PACE_MOST.min(PACE_EACH * messages));
        }
        self.publish();
        self.send().await?;
        for (id, code, reason) in answers {
            self.answer(id, code, reason).await?;
        }
        match ended {
            None => Ok(()),
            Some(Ok(malformed)) => Err(self.session.no_mqtt(malformed)),
            Some(Err(disconnect)) => Err(self.session.disconnected(&disconnect, &self.client_id)),
        }
    }

    /// The broker's answer to a SUBSCRIBE or an UNSUBSCRIBE.
    async fn answer(&mut self, id: u16, code: u8, said: Option<String>) -> Result<(), Failure> {
        let Some((filter, Some(wanted))) = self.asked.remove(&id) else { return self.answered().await };
        let said = said.map_or_else(String::new, |said| format!(", it says: {said}"));
        let endpoint = &self.session.line.endpoint;
        if code >= 0x80 {
            let what = match self.session.version {
                Version::V4 => "it may not be allowed".to_owned(),
                Version::V5 => code_name(code).to_string(),
            };
            let reason = format!("{endpoint} refuses the filter `{filter}`: {what}{said}; check what the broker allows this user");
            self.io.status(&filter, Status::Degraded(reason));
            self.connection.refused.insert(filter);
            self.ask_again = Instant::now() + ASK_AGAIN;
        } else {
            let was_refused = self.connection.refused.remove(&filter);
            if code < wanted as u8 {
                let reason = format!("{endpoint} grants only QoS {code} for `{filter}`, not {}: messages may be lost", wanted as u8);
                self.io.status(&filter, Status::Degraded(reason));
            } else if was_refused {
                self.io.status(&filter, Status::Running);
            }
        }
        self.answered().await
    }

    /// Sends the batch with its positions. Nothing to send: acknowledgements wait for what was sent before.
    async fn send(&mut self) -> Result<(), Failure> {
        let mut moved = std::mem::take(&mut self.moved);
        if let Some(host) = &mut self.connection.intake.host {
            moved.extend(host.take_moved());
        }
        if let (Some(unreleased), false) = (&self.connection.unreleased, self.added.is_empty() && self.removed.is_empty()) {
            moved.push((format!("{RECEIVED}{}", self.client_id), unreleased.write()));
        }
        let is_empty = self.batch.as_ref().is_none_or(Batch::is_empty);
        if is_empty && moved.is_empty() {
            self.acks.mark();
            self.acks.release(&mut self.session.line.out);
            return Ok(());
        }
        let batch = self.batch.take().unwrap_or_default();
        self.send_with(batch, moved).await.map(drop)
    }

    /// Sends to the end, even if the connection fails meanwhile: whether it was sent is never in doubt.
    async fn send_with(&mut self, batch: Batch, moved: Vec<(String, Vec<u8>)>) -> Result<AckId, Failure> {
        let moved: Vec<_> = moved.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        let io = self.io;
        let mut sending = std::pin::pin!(io.send(batch, &moved));
        let (id, alive) = match self.session.meanwhile(&mut sending).await {
            Ok(id) => (id, Ok(())),
            Err(failure) => (sending.await, Err(failure)),
        };
        self.added.clear();
        self.removed.clear();
        self.acks.sent(id);
        alive.map(|()| id)
    }

    /// Puts what Sparkplug wants published on its way.
    fn publish(&mut self) {
        for outgoing in std::mem::take(&mut self.connection.intake.outgoing) {
            let qos = qos(&outgoing).min(Qos::AtLeastOnce);
            let id = next_id(&mut self.next_id);
            let message = Message { topic: &outgoing.topic, payload: &outgoing.payload, qos, retain: outgoing.retain, properties: &[] };
            packet::write_publish(&mut self.session.line.out, self.session.version, &message, id);
        }
    }

    async fn tick(&mut self) -> Result<(), Failure> {
        if self.connection.intake.host.is_some() {
            // What a host finds gone must not overtake its values.
            self.send().await?;
        }
        if let Some(host) = self.connection.intake.host.as_mut().filter(|_| self.is_subscribed) {
            let outgoing = host.tick(std::time::Instant::now(), self.io);
            self.connection.intake.outgoing.extend(outgoing);
            self.publish();
            self.send().await?;
        }
        if !self.connection.refused.is_empty() && Instant::now() >= self.ask_again {
            self.ask_again = Instant::now() + ASK_AGAIN;
            for (filter, (qos, subscription_id)) in self.connection.wanted() {
                if self.connection.refused.contains(&filter) {
                    self.ask(&filter, qos, subscription_id);
                }
            }
        }
        Ok(())
    }

    /// Waits, within its bound, until what was sent is durable, and acknowledges it.
    async fn end(&mut self) -> Result<(), Failure> {
        let io = self.io;
        let until = Instant::now() + LAST_ACKS_WITHIN;
        while !self.acks.marks.is_empty() {
            let durable = tokio::time::timeout_at(until, io.durable(self.acks.durable));
            match self.session.meanwhile(durable).await? {
                Ok(head) => self.durable(head),
                Err(_) => break,
            }
        }
        if let Some(host) = &self.connection.intake.host {
            self.connection.intake.outgoing.extend(host.farewell());
            self.publish();
        }
        Ok(())
    }

    /// A batch that was never sent never happened.
    fn roll_back(&mut self) {
        if let Some(unreleased) = &mut self.connection.unreleased {
            for id in self.added.drain(..) {
                unreleased.remove(id);
            }
            for id in self.removed.drain(..) {
                unreleased.insert(id);
            }
        }
    }
}

/// The next packet identifier: never zero.
fn next_id(last: &mut u16) -> u16 {
    *last = last.checked_add(1).unwrap_or(1);
    *last
}
