//! The plugin `s7`, and its session: one connection, the groups in their cycles, one document per event, commands in between.
//!
//! ```text
//! connect -> one byte of M (does the CPU let us read at all?) -> its identity and state
//! loop      cycles due ─> read ─> decode ─> batch ─> events ─> read, settle, record ─> send
//!           acknowledgements ─> write          keep_alive ─> state
//! beside it commands ─> write, before the jobs that wait
//! ```
//!
//! Invariants: a batch is sent whole or not at all; an event of a batch that is not sent comes again; nothing is written but a command's value and a
//! trigger's acknowledgement, and neither while writes are forbidden.

use crate::commands::{self, No};
use crate::compiled::{self, CPU_PART, CompiledSource};
use crate::config::{InStop, SourceConfig};
use crate::connection::{ConnectionError, Driver, Wire};
use crate::cpu::{self, Identity, State};
use crate::frame::{self, Answer, Item};
use crate::reading::{Code, Reader, Refusal, put_get, read_bytes};
use async_trait::async_trait;
use millrace_config::Problems;
use millrace_contract::plugin::BrowseFn;
use millrace_contract::{Compiled, Context, Failure, Guarantee, Model, Plan, Plugin, Role, Source, SourceIo, Status};
use millrace_kit::polled::push_bad;
use millrace_kit::trigger::{self, Before, Fired, Settled};
use millrace_kit::{Cycles, Triggers};
use millrace_schemas::{Batch, Flags, Micros, Origin, Row, StatusCode, TagId, TimeSource, Value};
use std::any::Any;
use std::sync::Arc;
use tokio::time::Instant;

/// `type: s7`.
#[derive(Debug)]
pub struct S7SourcePlugin;

impl Plugin for S7SourcePlugin {
    const TYPE: &'static str = "s7";
    const ROLE: Role = Role::Source;
    type Config = SourceConfig;

    fn compile(config: SourceConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let compiled = compiled::compile(&config, context, problems)?;
        Some(Box::new(Ready(Arc::new(compiled))))
    }

    fn browse() -> Option<BrowseFn> {
        Some(|browse| Box::pin(crate::inspect::browse(browse)))
    }

    fn probe() -> Option<BrowseFn> {
        Some(|browse| Box::pin(crate::inspect::probe(browse)))
    }
}

/// What the engine holds.
struct Ready(Arc<CompiledSource>);

impl Compiled for Ready {
    fn model(&self) -> &Model {
        &self.0.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(S7Source::new(self.0.clone())))
    }

    fn describes(&self) -> bool {
        self.0.polled.describes()
    }

    fn in_place(&self) -> &'static [&'static str] {
        &["groups"]
    }

    fn hand_to(&self, running: &mut dyn Source) -> bool {
        let Some(source) = (running as &mut dyn Any).downcast_mut::<S7Source>() else { return false };
        (source.compiled, source.known) = (self.0.clone(), None);
        true
    }

    fn guarantee(&self) -> Guarantee {
        let groups = &self.0.polled.groups;
        let acknowledged = |trigger: &millrace_kit::polled::Trigger| trigger.ack.is_some();
        if !groups.is_empty() && groups.iter().all(|group| group.trigger.as_ref().is_some_and(acknowledged)) {
            return Guarantee::ExactlyOnce("each event is recorded once, and acknowledged to the PLC when it is synced".into());
        }
        Guarantee::AtMostOnce(
            "a PLC keeps no history: what it had while nobody read it is gone; documents of acknowledged triggers are there once".into(),
        )
    }

    fn reads_conditions(&self) -> bool {
        true
    }

    fn plan(&self) -> Plan {
        let endpoints: Vec<&str> = self.0.dials.iter().map(|dial| dial.endpoint.as_str()).collect();
        Plan { endpoint: endpoints.join(", "), lines: self.0.lines(), rate: Some(self.0.polled.rate()) }
    }
}

/// A running S7 source.
pub struct S7Source {
    compiled: Arc<CompiledSource>,
    /// The way to the CPU that is tried next.
    next: usize,
    /// Connections that were refused in a row.
    refusals: u32,
    known: Option<Known>,
    /// The connection that a session handed over, with who answers there.
    handed: Option<(Wire, Driver, Identity)>,
}

/// What outlives a session.
struct Known {
    ids: Arc<[TagId]>,
    cpu_ids: Vec<TagId>,
    triggers: Triggers,
    reader: Reader,
    identity: Identity,
}

impl S7Source {
    pub fn new(compiled: Arc<CompiledSource>) -> Self {
        Self { compiled, next: 0, refusals: 0, known: None, handed: None }
    }
}

#[async_trait]
impl Source for S7Source {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let compiled = self.compiled.clone();
        let known = self.known.get_or_insert_with(|| Known::declare(&compiled, &io));
        let is_handed = self.handed.is_some();
        let (wire, mut driver) = if let Some((wire, driver, identity)) = self.handed.take() {
            known.identity = identity;
            (wire, driver)
        } else {
            let dial = &compiled.dials[self.next % compiled.dials.len()];
            let dialled = tokio::select! {
                dialled = dial.connect() => dialled,
                () = io.stopping() => return Ok(()),
            };
            match dialled {
                Ok(connected) => connected,
                Err(error) => {
                    self.next += 1;
                    let is_refused = matches!(error, ConnectionError::Refused { .. });
                    self.refusals = if is_refused { self.refusals + 1 } else { 0 };
                    known.say_unread(&io).await;
                    // A wrong slot is refused forever: nothing to be gained by knocking fast.
                    return Err(if self.refusals > 1 {
                        Failure::Blocked(error.to_string())
                    } else {
                        Failure::Reconnect(error.to_string())
                    });
                }
            }
        };
        self.refusals = 0;
        let ended = {
            let session = Session { compiled: &compiled, io: &io, wire: &wire, ids: known.ids.clone(), is_handed };
            tokio::select! {
                error = driver.run() => Failure::Reconnect(error.to_string()),
                failure = session.talk(known) => failure,
                () = io.closing() => Failure::Stopped,
            }
        };
        if ended != Failure::Stopped {
            self.next += 1;
            known.say_unread(&io).await;
            return Err(ended);
        }
        if io.hands_over() {
            self.handed = Some((wire, driver, known.identity.clone()));
        }
        Ok(())
    }
}

impl Known {
    fn declare(compiled: &CompiledSource, io: &SourceIo) -> Self {
        let polled = &compiled.polled;
        let ids: Arc<[TagId]> = polled.declare(io).into();
        let cpu_ids = compiled.cpu_tags.iter().map(|tag| io.declare(tag.clone()).unwrap_or(TagId::NONE)).collect();
        let triggers = Triggers::of(polled, 0..polled.groups.len(), &ids, io);
        let reader = Reader::new(compiled.addresses.clone(), polled.groups.iter().map(|group| group.tags.clone()), compiled.gap_bytes);
        Self { ids, cpu_ids, triggers, reader, identity: Identity::default() }
    }
}

impl Known {
    /// Nothing can be read at the moment: the engine makes one bad sample of each tag, after its `bad_after`.
    async fn say_unread(&self, io: &SourceIo) {
        let mut batch = io.batch().await;
        push_bad(&self.ids, StatusCode::BAD_NOT_CONNECTED, &mut batch);
        io.send(batch, &[]).await;
    }
}

struct Session<'a> {
    compiled: &'a CompiledSource,
    io: &'a SourceIo,
    wire: &'a Wire,
    ids: Arc<[TagId]>,
    /// The session before handed the connection over: who answers is known.
    is_handed: bool,
}

/// What a session learns as it goes.
struct Progress {
    state: Option<State>,
    /// The status that was told.
    told: Option<Status>,
}

impl Session<'_> {
    /// Until it fails, or both what is read and what is commanded is done and the connection can be handed over.
    async fn talk(&self, known: &mut Known) -> Failure {
        let (mut reading, mut obeying) = (std::pin::pin!(self.read(known)), std::pin::pin!(self.obey()));
        tokio::select! {
            failure = &mut reading => {
                if failure == Failure::Stopped {
                    obeying.await;
                }
                failure
            }
            () = &mut obeying => reading.await,
        }
    }

    /// Carries out commands, until the session is to end.
    async fn obey(&self) {
        loop {
            tokio::select! {
                biased;
                () = self.io.stopping() => return,
                command = self.io.command() => commands::carry_out(self.compiled, &self.ids, self.wire, command).await,
            }
        }
    }

    async fn read(&self, known: &mut Known) -> Failure {
        match self.carry_on(known).await {
            Ok(never) => match never {},
            Err(failure) => failure,
        }
    }

    async fn carry_on(&self, known: &mut Known) -> Result<std::convert::Infallible, Failure> {
        let (io, wire, polled) = (self.io, self.wire, &self.compiled.polled);
        known.reader.connected(wire.pdu);
        known.triggers.connected(Before::Unknown);
        if !self.is_handed {
            self.may_read().await?;
            self.identify(known).await?;
        }
        let mut progress = Progress { state: cpu::state(wire).await.map_err(broke)?, told: None };
        self.say_cpu(known, &progress).await;
        self.say_status(known, &mut progress);
        // Triggered groups are read by their events.
        let is_cyclic = |group: &usize| polled.groups[*group].trigger.is_none();
        let cyclic: Vec<usize> = (0..polled.groups.len()).filter(is_cyclic).collect();
        let mut cycles = Cycles::new(cyclic.iter().map(|group| (polled.groups[*group].every, polled.groups[*group].align)));
        let mut alive_at = Instant::now() + self.compiled.keep_alive;
        loop {
            tokio::select! {
                biased;
                () = io.stopping() => return Err(Failure::Stopped),
                write = known.triggers.next_write(io) => self.acknowledge(known, &write).await?,
                () = tokio::time::sleep_until(alive_at) => {
                    let before = progress.state;
                    progress.state = match progress.state {
                        Some(_) => cpu::state(wire).await.map_err(broke)?,
                        None => self.is_there().await.map(|()| None)?,
                    };
                    if before != progress.state {
                        tracing::info!(?before, now = ?progress.state, "the state of the CPU changed");
                    }
                    self.say_cpu(known, &progress).await;
                    self.say_status(known, &mut progress);
                    alive_at = Instant::now() + self.compiled.keep_alive;
                }
                due = cycles.due() => {
                    due.count_skipped(io, |group| polled.groups[cyclic[group]].tags.len());
                    let groups: Vec<usize> = due.groups.iter().map(|group| cyclic[*group]).collect();
                    let mark = known.triggers.mark();
                    match self.cycle(known, &groups, &progress).await {
                        Ok(changed) if changed => self.say_status(known, &mut progress),
                        Ok(_) => {}
                        Err(failure) => {
                            known.triggers.undo(mark);
                            return Err(failure);
                        }
                    }
                }
            }
        }
    }

    /// Asks who answers.
    async fn identify(&self, known: &mut Known) -> Result<(), Failure> {
        let wire = self.wire;
        let identity = cpu::identity(wire).await.map_err(broke)?;
        if !known.identity.order_number.is_empty() && known.identity.order_number != identity.order_number {
            tracing::warn!(
                before = known.identity.order_number,
                now = identity.order_number,
                "another CPU answers: check that the addresses are still right"
            );
        }
        tracing::info!(
            endpoint = wire.endpoint(),
            pdu = wire.pdu,
            jobs = wire.jobs,
            order_number = identity.order_number,
            firmware = identity.firmware,
            "connected"
        );
        known.identity = identity;
        Ok(())
    }

    /// One byte of M tells whether the CPU lets us read at all.
    async fn may_read(&self) -> Result<(), Failure> {
        let pdu = self.wire.ask(frame::read(&[FIRST_FLAG])).await.answer().await;
        let answer = Answer::parse(&pdu).map_err(|error| broke(self.wire.foreign(error)))?;
        match answer.error {
            0x8104 => Err(Failure::Blocked(format!("cannot read from {}: {}", self.wire.endpoint(), put_get()))),
            0xD241 => Err(Failure::Blocked(format!(
                "cannot read from {}: the CPU asks for a password; lower its protection level, or read it by OPC UA",
                self.wire.endpoint()
            ))),
            _ => Ok(()),
        }
    }

    async fn is_there(&self) -> Result<(), Failure> {
        let pdu = self.wire.ask(frame::read(&[FIRST_FLAG])).await.answer().await;
        Answer::parse(&pdu).map(|_| ()).map_err(|error| broke(self.wire.foreign(error)))
    }

    /// Reads groups into a batch, and what their triggers want. Returns whether other tags are refused than before.
    async fn cycle(&self, known: &mut Known, groups: &[usize], progress: &Progress) -> Result<bool, Failure> {
        let (io, polled) = (self.io, &self.compiled.polled);
        let mut batch = io.batch().await;
        let mut changed = known.reader.read(groups, self.wire).await.map_err(broke)?;
        batch.read_time = Micros::now();
        for group in groups {
            self.decode(known, *group, progress, &mut batch);
            io.alive(&polled.groups[*group].part);
        }
        for event in known.triggers.fired(&batch, 0) {
            changed |= self.record(known, event, &mut batch).await?;
        }
        if batch.is_empty() && !known.triggers.has_recorded() {
            return Ok(changed);
        }
        let moved = if known.triggers.has_recorded() { known.triggers.moved() } else { Vec::new() };
        let id = io.send(batch, &moved).await;
        known.triggers.sent(id, io);
        Ok(changed)
    }

    fn decode(&self, known: &Known, group: usize, progress: &Progress, batch: &mut Batch) {
        let stopped = self.compiled.in_stop == InStop::Uncertain && progress.state.is_some_and(|state| !state.is_running());
        let Some(image) = known.reader.image(group) else { return };
        let read_time = batch.read_time;
        let tags = self.compiled.polled.groups[group].tags.clone();
        batch.rows.reserve(tags.len());
        for tag in tags {
            let id = known.ids[tag];
            if id == TagId::NONE {
                continue;
            }
            let address = &self.compiled.addresses[tag];
            let (value, mut status) = match known.reader.refused(tag) {
                Some(code) => (Value::Null, code.status()),
                None => self.compiled.codec.decode(address, image.of(tag, address.size()), batch),
            };
            if stopped && status.is_good() {
                status = StatusCode::UNCERTAIN_LAST_USABLE_VALUE;
            }
            let flags = Flags::new(Origin::Poll, TimeSource::Gateway);
            batch.rows.push(Row { time: read_time, server_time: Micros::NONE, value, tag: id, status, flags });
        }
    }

    /// Reads an event's group, then its trigger again, until both belong together; and writes its document.
    async fn record(&self, known: &mut Known, mut event: Fired, batch: &mut Batch) -> Result<bool, Failure> {
        let polled = &self.compiled.polled;
        let trigger = known.triggers.tag(&event);
        let mut changed = false;
        loop {
            changed |= known.reader.read(&[event.group], self.wire).await.map_err(broke)?;
            let (now, heap) = self.read_one(trigger).await?;
            if known.triggers.settle(&mut event, now, &heap.heap) == Settled::Whole {
                break;
            }
        }
        let Known { triggers, reader, .. } = known;
        let image = reader.image(event.group);
        let mut values = Batch::new();
        triggers.record(&event, batch, |tag, out| {
            let address = &self.compiled.addresses[tag];
            let (value, status) = match (reader.refused(tag), image) {
                (Some(code), _) => (Value::Null, code.status()),
                (None, Some(image)) if polled.groups[event.group].tags.contains(&tag) => {
                    values.clear();
                    self.compiled.codec.decode(address, image.of(tag, address.size()), &mut values)
                }
                _ => (Value::Null, StatusCode::BAD_NO_DATA),
            };
            trigger::write_value(value, status, &values.heap, &polled.tags[tag].def.options, out)
        });
        Ok(changed)
    }

    /// Reads a single tag, fresh.
    async fn read_one(&self, tag: usize) -> Result<(Value, Batch), Failure> {
        let address = &self.compiled.addresses[tag];
        let mut batch = Batch::new();
        let (value, _) = match read_bytes(self.wire, address).await.map_err(broke)? {
            Ok(bytes) => self.compiled.codec.decode(address, &bytes, &mut batch),
            Err(_) => (Value::Null, StatusCode::BAD),
        };
        Ok((value, batch))
    }

    async fn acknowledge(&self, known: &mut Known, write: &trigger::Write) -> Result<(), Failure> {
        let address = &self.compiled.addresses[write.tag];
        let outcome = if self.compiled.writes_allowed {
            commands::write(self.compiled, address, &write.value, &self.compiled.polled.tags[write.tag].def.options, self.wire)
                .await
                .map_err(broke)?
        } else {
            Err(No::Refused("writes are forbidden".into()))
        };
        known.triggers.written(write, outcome.as_ref().copied().map_err(No::why), self.io);
        Ok(())
    }

    /// A sample of each of the CPU's own tags.
    async fn say_cpu(&self, known: &Known, progress: &Progress) {
        if known.cpu_ids.is_empty() {
            return;
        }
        let mut batch = self.io.batch().await;
        let texts = [progress.state.map_or("", State::as_str), &known.identity.order_number, &known.identity.firmware];
        for (id, text) in known.cpu_ids.iter().zip(texts).filter(|(id, _)| **id != TagId::NONE) {
            let (value, status) =
                if text.is_empty() { (Value::Null, StatusCode::BAD_NOT_FOUND) } else { (batch.text(text), StatusCode::GOOD) };
            let flags = Flags::new(Origin::Poll, TimeSource::Gateway);
            batch.rows.push(Row { time: batch.read_time, server_time: Micros::NONE, value, tag: *id, status, flags });
        }
        self.io.alive(CPU_PART);
        self.io.send(batch, &[]).await;
    }

    /// Tells the status, if it is another one, and logs each tag that is refused now.
    fn say_status(&self, known: &Known, progress: &mut Progress) {
        let refusal = |(tag, code): (usize, Code)| Refusal::reading(self.compiled.addresses[tag], self.wire.endpoint(), code);
        let refused: Vec<(usize, Code)> = known.reader.all_refused().collect();
        let status = match (refused.first(), progress.state) {
            (Some(first), _) => Status::Degraded(match refused.len() {
                1 => refusal(*first).to_string(),
                n => format!("{n} of {} tags can't be read; the first: {}", self.compiled.addresses.len(), refusal(*first)),
            }),
            (None, Some(state)) if !state.is_running() => Status::Degraded(format!("the CPU is in {state}: its values are frozen")),
            _ => Status::Running,
        };
        if progress.told.as_ref() != Some(&status) {
            if progress.told.is_none() && status != Status::Running {
                // Connected all the same: the back-off begins anew.
                self.io.status("", Status::Running);
            }
            if let Status::Degraded(why) = &status {
                tracing::warn!(why, "not everything can be read");
            }
            self.io.status("", status.clone());
            progress.told = Some(status);
        }
    }
}

/// A byte that every CPU has.
const FIRST_FLAG: Item = Item { area: crate::address::Area::Flags, db: 0, byte: 0, len: 1, bit: None };

fn broke(error: ConnectionError) -> Failure {
    Failure::Reconnect(error.to_string())
}
