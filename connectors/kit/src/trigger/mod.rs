//! One document per event: when a tag has its edge, a group's tags are read once, into one wide record, and the device is told after the sync.
//!
//! ```text
//! device        kit                         connector                               log
//! trigger up -> fired(batch)  ─events────-> reads the group, then the trigger again
//!               settle(event) ─again?────-> reads once more: the data changed under the read
//!               record(event) ─document in the batch that had the edge, position───-> append ─> sync
//!               sent(id)                                                               │
//!               next_write()  <────────────────────────────────────────────────────────┘
//! ack up     <- written()     <─wrote it, or not: then again, forever; never the record
//! trigger down -> fired(batch) ─> next_write(): ack down, where `reset` says so
//! ```
//!
//! Invariants: the document and what triggered it are in one batch, durable together or not at all; nothing is acknowledged that is not synced.
//! After a start or a reconnection nobody knows whether a trigger that is up was taken: its document is compared with the event that was recorded
//! last (by the document's key, the counter, else the whole document); the same is only acknowledged, another is recorded, without an edge.
//!
//! It does not read or write devices, and does not know what a tag's address is.

mod document;

pub use document::{document_key, write_value};

use crate::AfterSync;
use crate::groups::{Edge, Reset};
use crate::polled::{Ack, Polled, Trigger};
use crate::retry::Backoff;
use document::identity;
use millrace_contract::{AckId, CommandValue, Loss, SourceIo};
use millrace_schemas::{Batch, Doc, Micros, RouteId, Span, StatusCode, TagId, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Reads of one event's data before it is recorded as torn.
pub const READS_MOST: u32 = 5;
const ACK_AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// The triggered groups of one connection.
#[derive(Debug, Default)]
pub struct Triggers {
    watches: Vec<Watch>,
    /// Values go on from an earlier process (a subscription that lived): the first one is a change.
    pub goes_on: bool,
    waiting: AfterSync<Waiting>,
    writes: Vec<Pending>,
    writes_made: u64,
}

/// A triggered group.
#[derive(Debug)]
struct Watch {
    group: usize,
    tag: TagId,
    trigger: Trigger,
    /// The names of its fields.
    names: Vec<Arc<str>>,
    /// `None`: no value came since the start, or since the connection was made.
    last: Option<Last>,
    /// What was recorded last.
    recorded: Option<Box<[u8]>>,
    /// An acknowledgement is up, and is to be taken back.
    is_up: bool,
    /// No event was recorded since the start, or since the connection was made: a PLC that started anew lowers its trigger, and hands the part
    /// again that nobody acknowledged to it.
    is_new: bool,
}

/// A value without the batch it came in.
#[derive(Clone, PartialEq, Debug)]
struct Last {
    is_on: bool,
    value: Value,
    /// Of a text, an array, a structure.
    bytes: Box<[u8]>,
}

impl Last {
    fn of(value: Value, heap: &[u8]) -> Self {
        let (own, span) = match value {
            Value::Text(span) => (Value::Text(Span::EMPTY), span),
            Value::Bytes(span) => (Value::Bytes(Span::EMPTY), span),
            Value::Array(kind, span) => (Value::Array(kind, Span::EMPTY), span),
            Value::Struct(span) => (Value::Struct(Span::EMPTY), span),
            scalar => (scalar, Span::EMPTY),
        };
        Self { is_on: is_on(value), value: own, bytes: span.of(heap).into() }
    }

    fn count(&self) -> Option<i64> {
        match self.value {
            Value::Int(count) => Some(count),
            Value::UInt(count) => i64::try_from(count).ok(),
            Value::Double(count) if count.fract() == 0.0 && count.abs() < 9e15 => Some(count as i64),
            _ => None,
        }
    }
}

fn is_on(value: Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => value,
        Value::Int(value) => value != 0,
        Value::UInt(value) => value != 0,
        Value::Double(value) => value != 0.0,
        Value::Text(span) | Value::Bytes(span) | Value::Array(_, span) | Value::Struct(span) => span.len > 0,
    }
}

/// What is known of the triggers when a connection was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    /// Nothing: another session.
    Unknown,
    /// What they were when this session closed its last connection; the device may have started anew.
    Values,
    /// What they did meanwhile, too: values go on where they ended.
    Everything,
}

/// What a watch saw last, what it recorded last, and whether it is new.
type Seen = (Option<Last>, Option<Box<[u8]>>, bool);

/// Where the triggers stood before a message.
#[derive(Debug)]
pub struct Mark {
    watches: Vec<Seen>,
    filling: usize,
}

/// An event: a group is to be read.
#[derive(Clone, PartialEq, Debug)]
pub struct Fired {
    watch: usize,
    /// Index of the group to read.
    pub group: usize,
    /// When the device says it was.
    pub time: Micros,
    /// When it was seen.
    seen: Instant,
    /// It may have been recorded before: nobody saw an edge, or it is the first one of a connection.
    is_at_start: bool,
    count: Option<i64>,
    /// Events that the counter skipped.
    missed: u64,
    reads: u32,
    is_torn: bool,
}

/// What reading the trigger again after the data says of the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// Record it.
    Whole,
    /// Read the group and the trigger once more.
    Again,
}

/// What became of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recorded {
    /// Its document is in the batch.
    New,
    /// It was recorded before a restart: it is only acknowledged again.
    Before,
}

/// An acknowledgement that waits for the log.
#[derive(Clone, Debug)]
struct Waiting {
    watch: usize,
    seen: Instant,
    missed: u64,
    set: Option<CommandValue>,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    watch: usize,
    value: CommandValue,
    is_set: bool,
    due: Instant,
    wait: Option<Duration>,
    seen: Instant,
    is_under_way: bool,
}

/// A tag to be written now. Tell the outcome with [`Triggers::written`].
#[derive(Clone, PartialEq, Debug)]
pub struct Write {
    number: u64,
    /// Index of the tag.
    pub tag: usize,
    pub value: CommandValue,
}

impl Triggers {
    /// The triggers of some of a source's groups, `ids` being the declared tags by index; with what was recorded last, from `io`.
    pub fn of<A, G, D>(polled: &Polled<A, G, D>, groups: impl IntoIterator<Item = usize>, ids: &[TagId], io: &SourceIo) -> Self {
        let mut triggers = Self::default();
        for group in groups {
            if let Some(trigger) = &polled.groups[group].trigger {
                triggers.watch(polled, group, ids[trigger.tag]);
            }
        }
        triggers.resume(io);
        triggers
    }

    /// Watches one more group, which has a trigger; `tag` is the id of the tag that triggers.
    pub fn watch<A, G, D>(&mut self, polled: &Polled<A, G, D>, group: usize, tag: TagId) {
        let Some(trigger) = polled.groups[group].trigger.clone() else { return };
        let names = trigger.fields.iter().map(|index| polled.tags[*index].name.clone()).collect();
        self.watches.push(Watch { group, tag, trigger, names, last: None, recorded: None, is_up: false, is_new: true });
    }

    /// Takes up what was recorded last by an earlier process.
    pub fn resume(&mut self, io: &SourceIo) {
        for watch in &mut self.watches {
            if let Some(recorded) = io.resume(&watch.trigger.position) {
                watch.recorded = Some(recorded.into());
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// A connection was made.
    pub fn connected(&mut self, before: Before) {
        for watch in &mut self.watches {
            watch.is_new |= before != Before::Everything;
            if before == Before::Unknown {
                watch.last = None;
            }
        }
        if before != Before::Values {
            // What was being written when the last connection ended is written again.
            for write in &mut self.writes {
                write.is_under_way = false;
                write.due = write.due.min(Instant::now());
            }
        }
    }

    pub fn mark(&self) -> Mark {
        let watches = self.watches.iter().map(|watch| (watch.last.clone(), watch.recorded.clone(), watch.is_new)).collect();
        Mark { watches, filling: self.waiting.filling() }
    }

    /// A message was not read to its end: it comes again, and its edges with it.
    pub fn undo(&mut self, mark: Mark) {
        for (watch, (last, recorded, is_new)) in self.watches.iter_mut().zip(mark.watches) {
            watch.last = last;
            watch.recorded = recorded;
            watch.is_new = is_new;
        }
        self.waiting.truncate_filling(mark.filling);
    }

    /// The events in a batch's rows from `first` on.
    pub fn fired(&mut self, batch: &Batch, first: usize) -> Vec<Fired> {
        let mut fired = Vec::new();
        if self.watches.is_empty() {
            return fired;
        }
        for row in &batch.rows[first..] {
            for index in 0..self.watches.len() {
                if self.watches[index].tag == row.tag && !row.status.is_bad() {
                    fired.extend(self.see(index, Last::of(row.value, &batch.heap), row.time));
                }
            }
        }
        fired
    }

    /// A value of a watch's tag.
    fn see(&mut self, index: usize, now: Last, time: Micros) -> Option<Fired> {
        let goes_on = self.goes_on;
        let watch = &mut self.watches[index];
        let edge = watch.trigger.edge;
        let before = watch.last.take();
        let is_first = before.is_none() && !goes_on;
        // Only a trigger that somebody answers, or whose events have a name, can be told from one that was taken.
        let is_comparable = watch.trigger.ack.is_some() || watch.trigger.key.is_some();
        let last_count = before.as_ref().and_then(Last::count).or_else(|| watch.recorded_count());
        let fires = match edge {
            Edge::Rising if is_first => now.is_on && is_comparable,
            Edge::Falling if is_first => !now.is_on && is_comparable && watch.recorded.is_some(),
            Edge::Change if is_first => false,
            Edge::Rising => now.is_on && !before.as_ref().is_some_and(|before| before.is_on),
            Edge::Falling => !now.is_on && before.as_ref().is_none_or(|before| before.is_on),
            Edge::Change => before.as_ref() != Some(&now),
            Edge::Counter if is_first => match watch.recorded_count() {
                // Also the same count: its acknowledgement may not have reached the device.
                Some(_) => true,
                None => watch.trigger.ack.is_some() && now.count().is_some_and(|count| count != 0),
            },
            Edge::Counter => now.count().is_some() && now.count() != last_count,
        };
        let missed = match (edge, now.count(), last_count) {
            (Edge::Counter, Some(now), Some(before)) if now > before => now.abs_diff(before) - 1,
            // Behind: it began anew, or rolled over; how many are missing nobody knows.
            _ => 0,
        };
        let is_down = match edge {
            Edge::Rising => !now.is_on,
            Edge::Falling => now.is_on,
            Edge::Change | Edge::Counter => false,
        };
        let count = if edge == Edge::Counter { now.count() } else { None };
        let takes_back = watch.trigger.ack.as_ref().is_some_and(|ack| ack.reset == Reset::OnTriggerDown);
        // What an earlier process put up and did not take back is taken back, too.
        let was_up = watch.is_up || is_first && watch.recorded.is_some();
        // With a name the part can be told from the next one also where an edge was seen.
        let is_at_start = is_first || watch.is_new && watch.trigger.key.is_some();
        watch.last = Some(now);
        if is_down && takes_back && was_up {
            watch.is_up = false;
            self.take_back(index, Instant::now());
        }
        let group = self.watches[index].group;
        fires.then(|| Fired { watch: index, group, time, seen: Instant::now(), is_at_start, count, missed, reads: 1, is_torn: false })
    }

    /// Whether the data that was read belongs to the event, the trigger having been read again after it.
    ///
    /// A counter or a value that went on meanwhile: read again; the event is then the later one. A trigger that is down again: the device did not
    /// wait, and the document says `"_torn":true`.
    pub fn settle(&mut self, event: &mut Fired, now: Value, heap: &[u8]) -> Settled {
        let watch = &mut self.watches[event.watch];
        let now = Last::of(now, heap);
        let is_same = match watch.trigger.edge {
            Edge::Rising => now.is_on,
            Edge::Falling => !now.is_on,
            Edge::Change => watch.last.as_ref() == Some(&now),
            Edge::Counter => now.count() == event.count,
        };
        if is_same {
            return Settled::Whole;
        }
        let goes_on = matches!(watch.trigger.edge, Edge::Change | Edge::Counter);
        if !goes_on || event.reads >= READS_MOST {
            event.is_torn = true;
            return Settled::Whole;
        }
        if let (Some(later), Some(count)) = (now.count(), event.count) {
            event.missed += later.saturating_sub(count).max(0).unsigned_abs();
            event.count = Some(later);
        }
        watch.last = Some(now);
        event.reads += 1;
        Settled::Again
    }

    /// The event's data could not be read: it is an event still, as soon as the trigger is read again.
    pub fn unread(&mut self, event: &Fired) {
        self.watches[event.watch].last = None;
    }

    /// Indices of the tags that make up an event's document.
    pub fn fields(&self, event: &Fired) -> &[usize] {
        &self.watches[event.watch].trigger.fields
    }

    /// Index of the tag that triggers, to be read again after the data.
    pub fn tag(&self, event: &Fired) -> usize {
        self.watches[event.watch].trigger.tag
    }

    /// Writes the event's document into the batch that had its edge.
    ///
    /// `field` appends the value of the tag of that index as JSON (nothing: null) and says its status; see [`write_value`]. Fields that are not
    /// good are named in `_status`, with their status codes.
    pub fn record(&mut self, event: &Fired, batch: &mut Batch, mut field: impl FnMut(usize, &mut Vec<u8>) -> StatusCode) -> Recorded {
        let watch = &mut self.watches[event.watch];
        let start = batch.heap.len();
        let fields = watch.trigger.fields.iter().zip(&watch.names);
        let spans = document::write(fields, event.is_torn, batch, &mut field);
        let payload = batch.span_from(start);
        let key = match &watch.trigger.key {
            None => Span::EMPTY,
            Some(template) => document_key(template, |name| watch.names.iter().position(|n| **n == *name).map(|at| spans[at]), batch),
        };
        let identity = match event.count {
            Some(count) => count.to_string().into_bytes().into_boxed_slice(),
            None if watch.trigger.key.is_some() => identity(batch.bytes_of(key)),
            None => identity(batch.bytes_of(payload)),
        };
        let is_known = event.is_at_start && watch.recorded.as_ref() == Some(&identity);
        watch.is_new = false;
        if is_known {
            batch.heap.truncate(start);
        } else {
            let time = if event.time.is_none() { batch.read_time } else { event.time };
            let route = RouteId(watch.trigger.route as u32);
            batch.docs.push(Doc { route, time, key, headers: Span::EMPTY, payload: Some(payload), topic: Span::EMPTY });
            watch.recorded = Some(identity);
        }
        let set = match &watch.trigger.ack {
            None => None,
            Some(Ack { set: Some(value), .. }) => Some(value.clone()),
            Some(Ack { set: None, .. }) => event.count.map(CommandValue::Int),
        };
        let missed = if is_known { 0 } else { event.missed };
        self.waiting.push(Waiting { watch: event.watch, seen: event.seen, missed, set });
        if is_known { Recorded::Before } else { Recorded::New }
    }

    /// What was recorded last, under the plugin's own keys: to be sent with the batch. All triggers' that ever recorded.
    pub fn moved(&self) -> Vec<(&str, &[u8])> {
        self.watches.iter().filter_map(|watch| Some((&*watch.trigger.position, &**watch.recorded.as_ref()?))).collect()
    }

    /// Whether the batch being filled has events: its [`Self::moved`] goes with it.
    pub fn has_recorded(&self) -> bool {
        self.waiting.filling() > 0
    }

    /// The batch with the events was sent. Counts what a counter skipped.
    pub fn sent(&mut self, id: AckId, io: &SourceIo) {
        let before = self.waiting.len() - self.waiting.filling();
        self.waiting.sent(id);
        let missed: u64 = self.waiting.iter().skip(before).map(|waiting| waiting.missed).sum();
        if missed > 0 {
            io.lost(Loss::Other("trigger_missed"), missed);
        }
    }

    /// What [`SourceIo::durable`] is to be asked for next; `None`: nothing waits for the log.
    pub fn waits_after(&self) -> Option<AckId> {
        self.waiting.waits_after()
    }

    /// The log is synced up to here: what waited for it is to be written.
    pub fn synced(&mut self, durable: AckId) {
        self.waiting.synced(durable);
        while let Some(Waiting { watch, seen, set, .. }) = self.waiting.pop() {
            if let Some(value) = set {
                self.push(watch, value, true, Instant::now(), seen);
            }
        }
    }

    fn take_back(&mut self, watch: usize, due: Instant) {
        if let Some(ack) = &self.watches[watch].trigger.ack {
            let value = ack.back();
            self.push(watch, value, false, due, Instant::now());
        }
    }

    fn push(&mut self, watch: usize, value: CommandValue, is_set: bool, due: Instant, seen: Instant) {
        // A counter's newer value stands for the older one.
        let is_counter = self.watches[watch].trigger.edge == Edge::Counter;
        self.writes.retain(|write| !(is_counter && is_set && write.watch == watch && write.is_set && !write.is_under_way));
        self.writes_made += 1;
        self.writes.push(Pending { number: self.writes_made, watch, value, is_set, due, wait: None, seen, is_under_way: false });
    }

    /// The next write that is due; one at a time for each trigger, in their order. Until [`Self::written`] it is not given out again.
    pub fn due_write(&mut self) -> Option<Write> {
        let now = Instant::now();
        let is_first = |index: usize| !self.writes[..index].iter().any(|write| write.watch == self.writes[index].watch);
        let ready = |index: &usize| !self.writes[*index].is_under_way && self.writes[*index].due <= now && is_first(*index);
        let index = (0..self.writes.len()).find(ready)?;
        let write = &mut self.writes[index];
        write.is_under_way = true;
        let ack = self.watches[write.watch].trigger.ack.as_ref()?;
        Some(Write { number: write.number, tag: ack.tag, value: write.value.clone() })
    }

    /// When [`Self::due_write`] has to be asked again, besides after every other call.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.writes.iter().filter(|write| !write.is_under_way).map(|write| write.due).min()
    }

    /// Waits for the next tag that is to be written. Cancel-safe. Waits forever while there is nothing to acknowledge.
    pub async fn next_write(&mut self, io: &SourceIo) -> Write {
        loop {
            if let Some(write) = self.due_write() {
                return write;
            }
            let (after, at) = (self.waits_after(), self.wakes_at().filter(|at| *at > Instant::now()));
            let synced = async {
                match after {
                    Some(after) => io.durable(after).await,
                    None => std::future::pending().await,
                }
            };
            let woken = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                durable = synced => self.synced(durable),
                () = woken => {}
            }
        }
    }

    /// A write was carried out, or not: then it is due again soon.
    pub fn written(&mut self, write: &Write, outcome: Result<(), &str>, io: &SourceIo) {
        let Some(index) = self.writes.iter().position(|pending| pending.number == write.number) else { return };
        if let Err(why) = outcome {
            let pending = &mut self.writes[index];
            let wait = ACK_AGAIN.after(pending.wait);
            let position = &self.watches[pending.watch].trigger.position;
            tracing::warn!(%position, why, again_in = ?wait, "a trigger was not acknowledged");
            (pending.wait, pending.due, pending.is_under_way) = (Some(wait), Instant::now() + wait, false);
            return;
        }
        let done = self.writes.remove(index);
        if !done.is_set {
            return;
        }
        io.measure("trigger_to_ack", done.seen.elapsed());
        let watch = &mut self.watches[done.watch];
        let is_down = match (watch.trigger.edge, &watch.last) {
            (Edge::Rising, Some(last)) => !last.is_on,
            (Edge::Falling, Some(last)) => last.is_on,
            _ => false,
        };
        match watch.trigger.ack.as_ref().map(|ack| ack.reset) {
            Some(Reset::After(wait)) => self.take_back(done.watch, Instant::now() + wait),
            Some(Reset::OnTriggerDown) if is_down => self.take_back(done.watch, Instant::now()),
            Some(Reset::OnTriggerDown) => watch.is_up = true,
            Some(Reset::Never) | None => {}
        }
    }
}

impl Watch {
    fn recorded_count(&self) -> Option<i64> {
        std::str::from_utf8(self.recorded.as_ref()?).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests;
