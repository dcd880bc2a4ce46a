//! The drain's thread: its turns, and the books it keeps.

mod commit;

use super::client::Client;
use super::lane::{Lane, Moved, Room, State};
use super::reports::{Mailbox, Tally};
use super::{DrainOptions, Shared};
use crate::cursors;
use crate::frame::Lane as LaneName;
use crate::outlet::Outlet;
use commit::begin;
use millrace_kafka::{Class, Connection, KafkaError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Records in flight, all lanes together; their bytes are bounded by the producer's queue.
const IN_FLIGHT: usize = 50_000;
/// Bytes a lane may send before another gets its turn.
const QUANTUM: usize = 256 << 10;
/// How often cursors are written to Kafka where there are no transactions.
const CURSORS_EVERY: Duration = Duration::from_millis(500);
/// How often cursors are saved on the disk; Kafka knows them better.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// How often segments behind the cursors are looked for.
const RECLAIM_EVERY: Duration = Duration::from_secs(1);
/// After a turn that sent something the drain rests this long, so that a thousand small appends are few turns; the first after a quiet time goes at once.
const REST: Duration = Duration::from_millis(3);
/// Positions of a source that wait for a slow lane, at most; beyond that neighbours are folded.
const PENDING: usize = 256;

/// A source, as the drain keeps it.
pub(super) struct Source {
    pub(super) outlet: Arc<Outlet>,
    /// Positions that moved and are not in Kafka yet, by the offset behind which they count.
    pub(super) pending: BTreeMap<u64, Vec<(String, Vec<u8>)>>,
}

impl Source {
    pub(super) fn push(&mut self, moved: Moved) {
        self.pending.insert(moved.behind, moved.keys);
        if self.pending.len() > PENDING
            && let Some((_, older)) = self.pending.pop_first()
            && let Some(mut next) = self.pending.first_entry()
        {
            let newer = next.get_mut();
            let kept: Vec<_> = older.into_iter().filter(|(key, _)| newer.iter().all(|(k, _)| k != key)).collect();
            newer.splice(0..0, kept);
        }
    }
}

pub(super) struct Pump {
    options: DrainOptions,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    client: Option<Client>,
    sources: Vec<Source>,
    lanes: BTreeMap<u32, Lane>,
    /// The open transaction's begin.
    open: Option<Instant>,
    /// When another client may be tried.
    retry_at: Option<Instant>,
    failures: u32,
    tallies: Vec<Tally>,
    turn: u64,
    /// The lane last served, by class.
    last: [u32; 3],
    cursors_at: Instant,
    reclaim_at: Instant,
    save_at: Instant,
}

/// Why the client is given up.
type Spent = KafkaError;

impl Pump {
    pub(super) fn new(options: DrainOptions, shared: Arc<Shared>) -> Self {
        let mailbox = Arc::new(Mailbox::new(shared.signal.clone()));
        let now = Instant::now();
        let (mut sources, mut lanes) = (Vec::new(), BTreeMap::new());
        for outlet in &options.outlets {
            for (name, log) in &outlet.lanes {
                // Zero is nobody's: cursor records have it.
                let id = lanes.len() as u32 + 1;
                lanes.insert(id, Lane::new(id, *name, log.clone(), sources.len()));
            }
            sources.push(Source { outlet: outlet.clone(), pending: BTreeMap::new() });
        }
        let pump = Self {
            options,
            shared,
            mailbox,
            client: None,
            sources,
            lanes,
            open: None,
            retry_at: None,
            failures: 0,
            tallies: Vec::new(),
            turn: 0,
            last: [0; 3],
            cursors_at: now,
            reclaim_at: now,
            save_at: now,
        };
        (0..pump.sources.len()).for_each(|source| pump.count(source));
        pump
    }

    pub(super) fn run(mut self) {
        loop {
            let stop = *self.shared.stop.lock();
            if stop.is_some_and(|at| Instant::now() >= at || self.is_drained()) {
                break;
            }
            let busy = match self.step() {
                Ok(busy) => busy,
                Err(error) => {
                    self.give_up(&error);
                    false
                }
            };
            self.keep_disk();
            if busy {
                std::thread::sleep(REST);
            } else {
                let wait = self.wakes().saturating_duration_since(Instant::now());
                self.shared.signal.wait(wait);
            }
        }
        self.finish();
    }

    // ---- a step ---------------------------------------------------------------------------------------------------------------

    /// Does what can be done now; true if it did something.
    fn step(&mut self) -> Result<bool, Spent> {
        if self.client.is_none() && !self.connect()? {
            return Ok(false);
        }
        self.take_reports()?;
        match self.options.commit_every() {
            None => {
                self.settle();
                let busy = self.fill(|_| true)?;
                self.write_cursors_behind()?;
                Ok(busy)
            }
            Some(commit) => {
                if self.lanes.values().any(|l| l.state == State::Failing) {
                    self.abort()?;
                }
                let is_due = |open: Option<Instant>| open.is_some_and(|at| at.elapsed() >= commit);
                let mut busy = false;
                if is_due(self.open) {
                    self.commit()?;
                    self.careful_transactions(commit)?;
                    busy = true;
                }
                if self.open.is_none() && self.lanes.values().any(|l| l.is_careful() && l.is_ready(Instant::now())) {
                    self.careful_transactions(commit)?;
                    busy = true;
                }
                busy |= self.fill(|lane| !lane.is_careful())?;
                Ok(busy)
            }
        }
    }

    /// Makes a client and learns from Kafka how far each log is. False: not yet.
    fn connect(&mut self) -> Result<bool, Spent> {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(false);
        }
        let (client, contradictions) = Client::open(&self.options, self.mailbox.clone())?;
        let known = cursors::read(&self.options.settings)?;
        for lane in self.lanes.values_mut() {
            lane.adopt(known.cursors.get(lane.log.name()).copied());
        }
        for source in &self.sources {
            source.outlet.from_kafka.send_if_modified(|from| {
                let is_first = from.is_none();
                if is_first {
                    *from = Some(Arc::new(known.positions.get(&*source.outlet.source).cloned().unwrap_or_default()));
                }
                is_first
            });
        }
        self.client = Some(client);
        self.failures = 0;
        (0..self.sources.len()).for_each(|source| self.count(source));
        self.shared.report.lock().contradictions = contradictions;
        self.connection(&Connection::Up);
        Ok(true)
    }

    /// Says how the connection is, once when it changes.
    fn connection(&self, state: &Connection) {
        let (status, reason) = match state {
            Connection::Up => ("Running", None),
            Connection::Down(why) => ("Degraded", Some(why.clone())),
            Connection::Denied(why) => ("Blocked", Some(why.clone())),
        };
        let mut report = self.shared.report.lock();
        if report.status != status {
            match state {
                Connection::Up => tracing::info!("connected to Kafka at {}", self.options.settings.brokers),
                Connection::Down(why) => tracing::warn!("Kafka can't be reached; the logs keep everything: {why}"),
                Connection::Denied(why) => tracing::error!("Kafka refuses this runtime; the logs keep everything: {why}"),
            }
        }
        report.status = status;
        report.reason = reason;
    }

    /// Drops the client; the next one begins at the cursors.
    fn give_up(&mut self, error: &Spent) {
        self.client = None; // gives up what is in flight and reports it
        let mut tallies = Vec::new();
        self.mailbox.take(&mut tallies);
        self.open = None;
        for lane in self.lanes.values_mut() {
            lane.back_to_cursor();
        }
        self.failures += 1;
        let pause = match error.class {
            Class::Denied | Class::Fenced | Class::Topic => Duration::from_secs(10),
            _ => Duration::from_millis(200 << self.failures.min(5)),
        };
        self.retry_at = Some(Instant::now() + pause);
        self.shared.report.lock().in_flight = 0;
        self.connection(&match error.class {
            Class::Fenced => Connection::Denied(format!("another runtime uses the same transactional id: {error}")),
            Class::Denied | Class::Topic => Connection::Denied(error.to_string()),
            _ => Connection::Down(error.to_string()),
        });
    }

    fn take_reports(&mut self) -> Result<(), Spent> {
        let mut spent = None;
        let mut tallies = std::mem::take(&mut self.tallies);
        self.mailbox.take(&mut tallies);
        for Tally { opaque, count, error } in tallies.drain(..) {
            let (id, serial) = ((opaque >> 32) as u32, opaque as u32);
            if let Some(error) = &error
                && matches!(error.class, Class::Fatal | Class::Fenced | Class::Denied)
            {
                spent = Some((**error).clone());
            }
            match self.lanes.get_mut(&id) {
                Some(lane) => lane.report(serial, count, error),
                None => {
                    if let Some(error) = error {
                        tracing::debug!("a cursor record was not taken, the next one says it again: {error}");
                    }
                }
            }
        }
        self.tallies = tallies;
        if let Some(state) = self.mailbox.take_connection() {
            self.connection(&state);
        }
        match spent {
            // Within a transaction a purged neighbour says the same as the culprit; the client itself knows whether it can go on.
            Some(error) => Err(self.client.as_ref().and_then(|c| c.producer.fatal()).unwrap_or(error)),
            None => Ok(()),
        }
    }

    /// Without transactions: cursors follow what was delivered; lanes that failed go back.
    fn settle(&mut self) {
        let Some(client) = &mut self.client else { return };
        let mut touched = Vec::new();
        for lane in self.lanes.values_mut() {
            let Some(source) = self.sources.get_mut(lane.source) else { continue };
            let mut any = false;
            while let Some(unit) = lane.advance() {
                any = true;
                if let Some(moved) = unit.moved {
                    source.push(moved);
                }
            }
            if lane.has_failed() {
                lane.recover(source, client);
            }
            if any {
                touched.push(lane.source);
            }
        }
        touched.dedup();
        for source in touched {
            self.count(source);
            self.unblock(source);
        }
    }

    /// Sends as long as there is something to send and room in flight.
    fn fill(&mut self, may: impl Fn(&Lane) -> bool) -> Result<bool, Spent> {
        let mut busy = false;
        loop {
            let Some(client) = &mut self.client else { return Ok(busy) };
            let waiting = client.producer.waiting();
            if waiting >= IN_FLIGHT {
                return Ok(busy);
            }
            let Some(id) = pick(&self.lanes, self.turn, &mut self.last, &may) else { return Ok(busy) };
            self.turn += 1;
            if self.options.transactions.is_some() && self.open.is_none() {
                begin(client)?;
                self.open = Some(Instant::now());
            }
            let Some(lane) = self.lanes.get_mut(&id) else { return Ok(busy) };
            let Some(source) = self.sources.get(lane.source) else { return Ok(busy) };
            let sent = lane.send(client, &self.options, source, Room { records: IN_FLIGHT - waiting, bytes: QUANTUM });
            busy |= sent.records > 0;
            if sent.is_spent {
                let fatal = client.producer.fatal();
                return Err(fatal.unwrap_or_else(|| gone("the producer takes no more records")));
            }
            if sent.is_stuck {
                return Ok(busy);
            }
            if let (Some(commit), Some(open)) = (self.options.commit_every(), self.open)
                && open.elapsed() >= commit
            {
                return Ok(true);
            }
        }
    }

    // ---- the books ------------------------------------------------------------------------------------------------------------

    /// Sums the lanes' counts into the source's ledger.
    fn count(&self, source: usize) {
        let Some(outlet) = self.sources.get(source).map(|s| &s.outlet) else { return };
        let mut sums = [0; 4];
        for note in self.lanes.values().filter(|l| l.source == source).map(|l| &l.note) {
            for (sum, count) in sums.iter_mut().zip([note.produced, note.dead, note.dropped, note.timestamp_replaced]) {
                *sum += count;
            }
        }
        outlet.ledger.outgoing.set(&sums);
        if sums[2] > 0 {
            let oldest = self.lanes.values().filter(|l| l.source == source).map(|l| l.log.dropped()).sum();
            outlet.ledger.lost_by_log(sums[2], oldest);
        }
    }

    /// A source that moves again is not blocked any more.
    fn unblock(&self, source: usize) {
        if self.lanes.values().any(|l| l.source == source && l.is_blocked()) {
            return;
        }
        let Some(outlet) = self.sources.get(source).map(|s| &s.outlet) else { return };
        if outlet.blocked.lock().take().is_some() {
            tracing::info!(source = &*outlet.source, "the way to Kafka is free again");
        }
    }

    /// Frees the disk behind the cursors, and saves them now and then.
    fn keep_disk(&mut self) {
        let now = Instant::now();
        if now < self.reclaim_at {
            return;
        }
        self.reclaim_at = now + RECLAIM_EVERY;
        let is_time = now >= self.save_at;
        if is_time {
            self.save_at = now + SAVE_EVERY;
        }
        for lane in self.lanes.values_mut().filter(|l| l.is_unsaved) {
            if lane.log.reclaimable() > 0 {
                let Some(source) = self.sources.get(lane.source) else { continue };
                // Positions first: a segment that goes may be all that holds them.
                let outcome =
                    (source.outlet.save)().map_err(|e| e.to_string()).and_then(|()| lane.log.reclaim().map_err(|e| e.to_string()));
                match outcome {
                    Ok(_) => lane.is_unsaved = false,
                    Err(error) => tracing::warn!(log = lane.log.name(), "segments can't be freed, and will be tried again: {error}"),
                }
            } else if is_time {
                save(lane);
            }
        }
        let mut report = self.shared.report.lock();
        if let Some(client) = &self.client {
            report.in_flight = client.producer.waiting();
        }
        report.registry = self.options.registrar.as_ref().and_then(|registrar| registrar.away());
    }

    /// When to look again, if nobody wakes us.
    fn wakes(&self) -> Instant {
        let now = Instant::now();
        let mut wakes = now + RECLAIM_EVERY;
        let mut by = |at: Option<Instant>| wakes = at.map_or(wakes, |at| wakes.min(at));
        if self.client.is_none() {
            by(self.retry_at);
            return wakes;
        }
        if let (Some(open), Some(commit)) = (self.open, self.options.commit_every()) {
            by(Some(open + commit));
        }
        if self.lanes.values().any(|l| l.is_unwritten) {
            by(Some(self.cursors_at));
        }
        self.lanes.values().for_each(|l| by(l.wakes()));
        wakes
    }

    /// What waits for a human is not waited for.
    fn is_drained(&self) -> bool {
        self.open.is_none() && self.lanes.values().all(|l| l.window.is_empty() && (!l.has_more() || l.is_blocked()))
    }

    fn finish(&mut self) {
        if self.client.is_some() {
            let deadline = self.shared.stop.lock().unwrap_or_else(Instant::now);
            let outcome = match self.options.transactions {
                None => {
                    self.settle();
                    self.cursors_at = Instant::now();
                    self.write_cursors_behind().and_then(|()| {
                        let rest = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(500));
                        self.client.as_ref().map_or(Ok(()), |c| c.producer.flush(rest))
                    })
                }
                Some(_) if self.open.is_some() => self.commit(),
                Some(_) => Ok(()),
            };
            if let Err(error) = outcome {
                tracing::warn!("what was in flight goes again at the next start: {error}");
            }
            if self.take_reports().is_ok() && self.options.transactions.is_none() {
                self.settle();
            }
        }
        for lane in self.lanes.values_mut() {
            save(lane);
        }
        let left: u64 = self.lanes.values().map(|l| l.log.end().saturating_sub(l.cursor)).sum();
        if left > 0 {
            tracing::info!("records are left in the logs; they go at the next start");
        }
        self.client = None;
        self.shared.report.lock().status = "Stopped";
    }
}

fn save(lane: &mut Lane) {
    match lane.log.save_cursors() {
        Ok(()) => lane.is_unsaved = false,
        Err(error) => tracing::warn!(log = lane.log.name(), "the cursor can't be saved, and will be tried again: {error}"),
    }
}

fn gone(text: &str) -> Spent {
    KafkaError { code: 0, class: Class::Fatal, text: text.into() }
}

/// The lane that sends next: `first` before the others, sixteen times of seventeen; `normal` before `bulk`, four times of five;
/// within a class the one after the last.
fn pick(lanes: &BTreeMap<u32, Lane>, turn: u64, last: &mut [u32; 3], may: &impl Fn(&Lane) -> bool) -> Option<u32> {
    let now = Instant::now();
    let order = match turn {
        t if t % 17 == 16 && t % 5 == 4 => [LaneName::Bulk, LaneName::Normal, LaneName::First],
        t if t % 17 == 16 => [LaneName::Normal, LaneName::Bulk, LaneName::First],
        t if t % 5 == 4 => [LaneName::First, LaneName::Bulk, LaneName::Normal],
        _ => [LaneName::First, LaneName::Normal, LaneName::Bulk],
    };
    for class in order {
        let slot = &mut last[class as usize];
        let mut ready = lanes.values().filter(|l| l.name == class && l.is_ready(now) && may(l)).map(|l| l.id);
        let mut first = None;
        let found = ready.find(|id| {
            first.get_or_insert(*id);
            *id > *slot
        });
        if let Some(id) = found.or(first) {
            *slot = id;
            return Some(id);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[test]
    fn positions_that_wait_are_folded_and_the_newest_of_a_key_wins() {
        let outlet = Outlet {
            source: "acme/plant/a".into(),
            lanes: Vec::new(),
            ledger: Arc::default(),
            blocked: Mutex::default(),
            from_kafka: tokio::sync::watch::Sender::new(None),
            save: Box::new(|| Ok(())),
        };
        let mut source = Source { outlet: Arc::new(outlet), pending: BTreeMap::new() };
        for behind in 0..=PENDING as u64 {
            let keys = vec![("same".to_owned(), vec![behind as u8]), (format!("own {behind}"), vec![1])];
            source.push(Moved { behind, keys });
        }
        assert_eq!(source.pending.len(), PENDING);
        let (behind, keys) = source.pending.first_key_value().unwrap();
        assert_eq!(*behind, 1);
        assert_eq!(keys.iter().filter(|(k, _)| k == "same").collect::<Vec<_>>(), [&("same".to_owned(), vec![1])]);
        assert!(keys.iter().any(|(k, _)| k == "own 0") && keys.iter().any(|(k, _)| k == "own 1"));
    }
}
