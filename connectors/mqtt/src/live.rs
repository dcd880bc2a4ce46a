//! One connection of the source: messages into batches, acknowledgements when they are durable, commands when they come.
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

use crate::command::{On, Pending, Permission};
use crate::connection::{Connection, qos};
use crate::kept::{self, FILTERS, Filters, RECEIVED, Unreleased};
use crate::packet::{self, AckKind, Message, Packet, Qos, Version, code_name};
use crate::session::{Inbound, Session, Step};
use crate::sparkplug::Host;
use millrace_contract::{AckId, Command, Failure, Outcome, SourceIo, Status};
use millrace_kit::AfterSync;
use millrace_kit::connections::{self, Others};
use millrace_schemas::{Batch, Micros};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How long the last acknowledgements may take when the engine stops.
const LAST_ACKS_WITHIN: Duration = Duration::from_millis(1500);
/// As that, where the connection is handed over: what is not acknowledged then would never be on it.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(8);
/// A refused filter is asked for again this often.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// A filter that matched nothing for so long may be mistyped.
const UNMATCHED: Duration = Duration::from_secs(60);
/// A batch is sent when its heap or its records reach this, even if more is there.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_RECORDS: usize = 10_000;
/// While messages come densely, the socket rests for so long per message of the last read: each read, sync and write then carries many. A broker that
/// sends few before it waits for acknowledgements is read again soon, whatever its window.
const PACE_EACH: Duration = Duration::from_micros(125);
const PACE_MOST: Duration = Duration::from_millis(20);
/// So many messages in one read are dense.
const DENSE: u32 = 4;

impl connections::Connection for Connection {
    async fn run(&mut self, io: &SourceIo, others: Others) -> Failure {
        self.intake.begin(io);
        let handed = self.handed.take();
        let is_handed = handed.is_some();
        let (session, next_id) = match handed {
            Some(handed) => handed,
            None => {
                let will = self.intake.host.as_mut().and_then(Host::will);
                let opening = self.opening(will);
                let opened = tokio::select! {
                    biased;
                    () = ending(io, others.clone()) => return Failure::Stopped,
                    opened = Session::open(&opening) => opened,
                };
                match opened {
                    Ok(session) => (session, 0),
                    Err(failure) => return failure,
                }
            }
        };
        let begun = Instant::now();
        let mut live = Live::new(self, session, io);
        (live.next_id, live.is_handed) = (next_id, is_handed);
        let ended = live.run(others).await;
        live.roll_back();
        live.commands.close();
        let Live { mut session, next_id, is_clean, .. } = live;
        if let Some(host) = &mut self.intake.host {
            host.on_disconnect();
        }
        match ended {
            Ok(()) if is_clean && io.hands_over() => {
                // It is the broker's session of before to whoever goes on with it.
                session.connack.session_present = true;
                self.handed = Some((session, next_id));
                Failure::Stopped
            }
            Ok(()) => {
                session.close(0, None).await;
                Failure::Stopped
            }
            Err(failure) => self.hint(failure, begun),
        }
    }
}

/// The engine wants the source to stop, or another connection has failed.
async fn ending(io: &SourceIo, mut others: Others) {
    tokio::select! {
        () = io.stopping() => {}
        () = others.ended() => {}
    }
}

/// An open connection.
struct Live<'a> {
    connection: &'a mut Connection,
    session: Session,
    io: &'a SourceIo,
    client_id: String,
    batch: Option<Batch>,
    /// Acknowledgements that wait for their batches to be durable, in order of receipt.
    acks: AfterSync<(AckKind, u16)>,
    commands: Pending,
    /// Identifiers that came into and went from `Connection::unreleased` with the batch being filled.
    added: Vec<u16>,
    removed: Vec<u16>,
    /// Positions to go with the next batch, besides `unreleased`.
    moved: Vec<(String, Vec<u8>)>,
    /// Filters asked for, by packet identifier; `None`: given up.
    asked: BTreeMap<u16, (String, Option<Qos>)>,
    ask_again: Instant,
    /// When to say which filters no message has matched; `None`: said.
    look_for_unmatched: Option<Instant>,
    is_subscribed: bool,
    next_id: u16,
    /// The session before handed the connection over: what it subscribed to is held.
    is_handed: bool,
    /// All that came is recorded and acknowledged.
    is_clean: bool,
    /// The socket is not read before.
    paced: Option<Instant>,
}

#[allow(clippy::large_enum_variant)] // it lives on the stack, for a moment
enum Event {
    Ending,
    Durable(AckId),
    Batch(Batch),
    Command(Command),
    Look,
    Tick,
    Paced,
}

impl<'a> Live<'a> {
    fn new(connection: &'a mut Connection, session: Session, io: &'a SourceIo) -> Self {
        let client_id = connection.compiled.client_ids[connection.index].clone();
        Self {
            connection,
            session,
            io,
            client_id,
            batch: None,
            acks: AfterSync::default(),
            commands: Pending::default(),
            added: Vec::new(),
            removed: Vec::new(),
            moved: Vec::new(),
            asked: BTreeMap::new(),
            ask_again: Instant::now() + ASK_AGAIN,
            look_for_unmatched: Some(Instant::now() + UNMATCHED),
            is_subscribed: false,
            next_id: 0,
            is_handed: false,
            is_clean: false,
            paced: None,
        }
    }

    /// Runs until the engine stops it.
    async fn run(&mut self, others: Others) -> Result<(), Failure> {
        let io = self.io;
        let begun = async {
            self.take_over().await?;
            self.subscribe().await
        };
        tokio::select! {
            biased;
            () = ending(io, others.clone()) => return Ok(()),
            begun = begun => begun?,
        }
        let window = self.connection.compiled.window as usize;
        let ending = ending(io, others);
        tokio::pin!(ending);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (waits, has_batch, paced) = (self.acks.waits_after(), self.batch.is_some(), self.paced);
            let takes_command = self.takes_command();
            let look = self.commands.due(Instant::now());
            let event = async {
                tokio::select! {
                    biased;
                    () = &mut ending => Event::Ending,
                    head = io.durable(waits.unwrap_or_default()), if waits.is_some() => Event::Durable(head),
                    command = io.command(), if takes_command => Event::Command(command),
                    () = tokio::time::sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => Event::Look,
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
                Step::Done(Event::Command(command)) => self.command(command),
                Step::Done(Event::Look) => self.look(),
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
            let head = self.session.meanwhile(io.durable(AckId(id.0.saturating_sub(1)))).await?;
            self.acks.synced(head);
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
            let asks_anyhow = self.session.version == Version::V5 && !self.is_handed;
            if asks_anyhow || held.get(filter) != Some(&Some(*qos)) {
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
        if self.connection.up.fetch_add(1, Ordering::SeqCst) + 1 == self.connection.compiled.client_ids.len() {
            self.io.status("", Status::Running);
        }
        Ok(())
    }

    fn durable(&mut self, head: AckId) {
        self.acks.synced(head);
        self.acknowledge();
    }

    /// Writes what is durable.
    fn acknowledge(&mut self) {
        while let Some((kind, id)) = self.acks.pop() {
            packet::write_ack(&mut self.session.line.out, kind, id);
        }
    }

    /// Commands go over the first connection alone, one after the other.
    fn takes_command(&self) -> bool {
        self.is_subscribed && self.connection.index == 0 && self.commands.has_room(self.session.connack.receive_maximum)
    }

    /// Publishes a command, once what was written before is on its way: nothing waits here beyond its expiry.
    fn command(&mut self, command: Command) {
        if command.expires <= Micros::now() {
            return command.answer.send(Outcome::Expired);
        }
        if !self.session.line.is_written() {
            return self.commands.hold(command);
        }
        let Some(permission) = Permission::of(self.connection.compiled.writes_allowed) else {
            let why = "writes are forbidden: the local file has no `floor: {writes: allowed}`";
            return command.answer.send(Outcome::Refused(why.into()));
        };
        match self.connection.intake.publishing(command.tag, &command.value, permission) {
            Err(why) => command.answer.send(Outcome::Refused(why.into())),
            Ok(publishing) => {
                let Session { line, connack, version, .. } = &mut self.session;
                let id = next_id(&mut self.next_id);
                let (maximum_qos, maximum_packet) = (connack.maximum_qos, connack.maximum_packet);
                self.commands.publish(command, publishing, On { out: &mut line.out, version: *version, id, maximum_qos, maximum_packet });
            }
        }
    }

    /// Looks after commands that wait.
    fn look(&mut self) {
        let is_written = self.session.line.is_written();
        self.commands.look(Instant::now(), is_written);
        if let Some(command) = self.commands.take_held() {
            self.command(command);
        }
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
        let mut pubacks = Vec::new();
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
                        self.acks.push((AckKind::Pubcomp, ack.id));
                    } else if ack.kind == AckKind::Puback {
                        pubacks.push((ack.id, ack.code, ack.reason.map(str::to_owned)));
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
                Qos::AtLeastOnce => self.acks.push((AckKind::Puback, publish.id)),
                Qos::ExactlyOnce => {
                    self.acks.push((AckKind::Pubrec, publish.id));
                    if publish.dup && unreleased.contains(publish.id) {
                        continue;
                    }
                    unreleased.insert(publish.id);
                    self.added.push(publish.id);
                }
            }
            let before = batch.rows.len();
            intake.take(&publish, oversized, batch, self.io);
            if self.commands.is_confirmed_by_readings() {
                self.commands.seen(&batch.rows[before..], &batch.heap);
            }
            if batch.heap.len() >= BATCH_BYTES || batch.len() >= BATCH_RECORDS {
                break true;
            }
        };
        for (id, code, said) in pubacks {
            self.commands.acked(id, code, said.as_deref());
        }
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
            self.acks.nothing_to_send();
            self.acknowledge();
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
        if self.look_for_unmatched.is_some_and(|at| Instant::now() >= at) {
            self.look_for_unmatched = None;
            // Of several connections each gets a part of the messages only.
            if self.connection.compiled.client_ids.len() == 1 {
                for filter in self.connection.intake.unmatched() {
                    tracing::warn!(endpoint = %self.session.line.endpoint, %filter, "no message has matched the filter for a minute; is it written as the topics are?");
                }
            }
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
        let until = Instant::now() + if io.hands_over() { HANDED_OVER_WITHIN } else { LAST_ACKS_WITHIN };
        self.commands.close();
        while let Some(after) = self.acks.waits_after() {
            let durable = tokio::time::timeout_at(until, io.durable(after));
            match self.session.meanwhile(durable).await? {
                Ok(head) => self.durable(head),
                Err(_) => break,
            }
        }
        if let Some(host) = &self.connection.intake.host {
            self.connection.intake.outgoing.extend(host.farewell());
            self.publish();
        }
        self.is_clean = self.acks.is_empty() && self.asked.is_empty();
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
