//! The drain's thread: its turns, and the books it keeps.

mod commit;
mod connect;
mod owning;

use crate::drain::client::begin;
use crate::drain::client::{Client, Seen, gone};
use crate::drain::lane::{Lane, Room, State};
use crate::drain::options::DrainOptions;
use crate::drain::reports::{Mailbox, Tally};
use crate::drain::shared::{Lease, Shared};
use crate::drain::source::{Right, Source};
use crate::frame::Lane as LaneName;
use crate::source_logs::SourceLogs;
use millrace_kafka::{Class, Connection, KafkaError};
use millrace_schemas::Micros;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Records in flight, all lanes together, and what they may hold of memory: the producer's own limit counts no headers.
const IN_FLIGHT: usize = 50_000;

const BYTES_IN_FLIGHT: usize = 48 << 20;

/// When nothing of what is in flight is answered for this long, Kafka counts as away.
pub(super) const SILENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether the topics are still there.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(20);

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

pub(super) struct Pump {
    pub(super) options: DrainOptions,
    pub(super) shared: Arc<Shared>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) client: Option<Client>,
    pub(super) sources: Vec<Source>,
    pub(super) lanes: BTreeMap<u32, Lane>,
    /// The open transaction's begin.
    pub(super) open: Option<Instant>,
    /// When another client may be tried.
    pub(super) retry_at: Option<Instant>,
    pub(super) failures: u32,
    pub(super) tallies: Vec<Tally>,
    /// When Kafka last answered, or nothing was in flight.
    pub(super) heard: Instant,
    /// It did not answer for too long, and that was said.
    pub(super) is_silent: bool,
    pub(super) seen: Seen,
    pub(super) look_at: Instant,
    pub(super) turn: u64,
    /// The lane last served, by class.
    pub(super) last: [u32; 3],
    pub(super) cursors_at: Instant,
    pub(super) reclaim_at: Instant,
    pub(super) save_at: Instant,
    /// Sources that are to change hands.
    pub(super) leases: Vec<Lease>,
    /// When it is looked again whose sources are.
    pub(super) owners_at: Instant,
    /// A fence did not hold: sources that are shared wait until then.
    pub(super) fenced_until: Option<Instant>,
    /// What is committed of a slot, so that the commit is fenced.
    pub(super) fences: i64,
    /// How often in a row a fence did not hold.
    pub(super) refused: u32,
    /// Runtimes that were taken over from and whose transactions may still be open.
    pub(super) unfenced: BTreeSet<String>,
}

/// Why the client is given up.
pub(super) type Spent = KafkaError;

impl Pump {
    pub(super) fn new(options: DrainOptions, shared: Arc<Shared>) -> Self {
        let mailbox = Arc::new(Mailbox::new(shared.signal.clone()));
        let now = Instant::now();
        let mut pump = Self {
            options,
            shared,
            mailbox,
            client: None,
            sources: Vec::new(),
            lanes: BTreeMap::new(),
            open: None,
            retry_at: None,
            failures: 0,
            tallies: Vec::new(),
            heard: now,
            is_silent: false,
            seen: Seen::default(),
            look_at: now,
            turn: 0,
            last: [0; 3],
            cursors_at: now,
            reclaim_at: now,
            save_at: now,
            leases: Vec::new(),
            owners_at: now,
            fenced_until: None,
            fences: 0,
            refused: 0,
            unfenced: BTreeSet::new(),
        };
        for source_logs in std::mem::take(&mut pump.options.source_logs) {
            pump.take_on(source_logs);
        }
        pump
    }

    pub(super) fn take_on(&mut self, source_logs: Arc<SourceLogs>) {
        let source = self.sources.len();
        for (name, log) in &source_logs.lanes {
            // Zero is nobody's: cursor records have it.
            let id = self.lanes.len() as u32 + 1;
            self.lanes.insert(id, Lane::new(id, *name, log.clone(), source));
        }
        let right = if source_logs.is_shared.load(Relaxed) { Right::Remains } else { Right::All };
        self.sources.push(Source { source_logs, pending: BTreeMap::new(), right });
        self.count(source);
    }

    pub(crate) fn run(mut self) {
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

    /// Does what can be done now; true if it did something.
    pub(super) fn step(&mut self) -> Result<bool, Spent> {
        self.take_orders()?;
        if self.client.is_none() && !self.connect()? {
            self.change_hands_without_kafka();
            return Ok(false);
        }
        self.take_reports()?;
        self.watch()?;
        self.change_hands()?;
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
                if self.open.is_none() && self.next_careful().is_some() {
                    self.careful_transactions(commit)?;
                    busy = true;
                }
                busy |= self.fill(|lane| !lane.is_careful())?;
                Ok(busy)
            }
        }
    }

    pub(super) fn take_reports(&mut self) -> Result<(), Spent> {
        let spent = self.hand_out_reports();
        if let Some(state) = self.mailbox.take_connection() {
            self.connection(&state);
        }
        match spent {
            // Within a transaction a record that was given up says the same as the culprit; the client itself knows whether it can go on.
            Some(error) => Err(self.client.as_ref().and_then(|c| c.producer.fatal()).unwrap_or(error)),
            None => Ok(()),
        }
    }

    /// Gives every report to its lane. Returned is an error that ends the client.
    pub(super) fn hand_out_reports(&mut self) -> Option<Spent> {
        let mut spent = None;
        let mut tallies = std::mem::take(&mut self.tallies);
        self.mailbox.take(&mut tallies);
        if tallies.iter().any(|tally| tally.error.is_none()) {
            self.heard = Instant::now();
            if std::mem::take(&mut self.is_silent) {
                self.connection(&Connection::Up);
            }
        }
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
        spent
    }

    /// Without transactions: cursors follow what was delivered; lanes that failed go back.
    pub(super) fn settle(&mut self) {
        let Some(client) = &mut self.client else { return };
        let mut touched = Vec::new();
        let now = Micros::now();
        for lane in self.lanes.values_mut() {
            let Some(source) = self.sources.get_mut(lane.source) else { continue };
            let mut any = false;
            while let Some(unit) = lane.advance() {
                any = true;
                source.source_logs.pace.delivered(unit.records, unit.read_time, now);
                if let Some(moved) = unit.moved {
                    source.push(moved);
                }
            }
            if lane.has_failed() {
                lane.recover(source).iter().for_each(|topic| client.forget(topic));
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
    pub(super) fn fill(&mut self, may: impl Fn(&Lane) -> bool) -> Result<bool, Spent> {
        let mut busy = false;
        loop {
            let Some(client) = &mut self.client else { return Ok(busy) };
            let waiting = client.producer.waiting();
            if waiting >= IN_FLIGHT || self.lanes.values().map(Lane::bytes_in_flight).sum::<usize>() >= BYTES_IN_FLIGHT {
                return Ok(busy);
            }
            let (sources, is_broken) = (&self.sources, self.fenced_until.is_some());
            let may = |lane: &Lane| may(lane) && sources.get(lane.source).is_some_and(|source| source.may_send(is_broken));
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
            if sent.is_doomed {
                self.abort()?;
                return Ok(true);
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

    /// Sums the lanes' counts into the source's ledger.
    pub(super) fn count(&self, source: usize) {
        let Some(source_logs) = self.sources.get(source).map(|s| &s.source_logs) else { return };
        let mut sums = [0; 5];
        for note in self.lanes.values().filter(|l| l.source == source).map(|l| &l.note) {
            for (sum, count) in sums.iter_mut().zip([note.produced, note.dead, note.dropped, note.timestamp_replaced, note.superseded]) {
                *sum += count;
            }
        }
        source_logs.ledger.outgoing.set(&sums[..4]);
        if sums[2] > 0 {
            let oldest = self.lanes.values().filter(|l| l.source == source).map(|l| l.log.dropped()).sum();
            source_logs.ledger.lost_by_log(sums[2], oldest, sums[4]);
        }
    }

    /// A source that moves again is not blocked any more.
    pub(super) fn unblock(&self, source: usize) {
        if self.lanes.values().any(|l| l.source == source && l.is_blocked()) {
            return;
        }
        let Some(source_logs) = self.sources.get(source).map(|s| &s.source_logs) else { return };
        if source_logs.blocked.lock().take().is_some() {
            tracing::info!(source = &*source_logs.source, "the way to Kafka is free again");
        }
    }

    /// Frees the disk behind the cursors, and saves them now and then.
    pub(super) fn keep_disk(&mut self) {
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
                    (source.source_logs.save)().map_err(|e| e.to_string()).and_then(|()| lane.log.reclaim().map_err(|e| e.to_string()));
                match outcome {
                    Ok(_) => lane.is_unsaved = false,
                    Err(error) => tracing::warn!(log = lane.log.name(), "segments can't be freed, and will be tried again: {error}"),
                }
            } else if is_time {
                save(lane);
            }
        }
        for (index, source) in self.sources.iter().enumerate() {
            let lanes = self.lanes.values_mut().filter(|lane| lane.source == index);
            let oldest = lanes.map(|lane| lane.waiting_since().0).filter(|at| *at != 0).min();
            source.source_logs.pace.waiting_since.store(oldest.unwrap_or(0), Relaxed);
        }
        let mut report = self.shared.report.lock();
        if let Some(client) = &self.client {
            report.in_flight = client.producer.waiting();
        }
        report.registry = self.options.registrar.as_ref().and_then(|registrar| registrar.away());
    }

    /// When to look again, if nobody wakes us.
    pub(super) fn wakes(&self) -> Instant {
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
        by(Some(self.look_at));
        by(self.hands_wake());
        wakes
    }

    /// What waits for a human is not waited for.
    pub(super) fn is_drained(&self) -> bool {
        self.open.is_none()
            && self.lanes.values().all(|l| l.window.is_empty() && (!l.has_more() || l.is_blocked() || self.waits_for_owner(l)))
    }

    pub(super) fn finish(&mut self) {
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
    use crate::drain::source::Moved;
    use crate::drain::source::PENDING;
    use parking_lot::Mutex;

    #[test]
    fn positions_that_wait_are_folded_and_the_newest_of_a_key_wins() {
        let source_logs = SourceLogs {
            source: "acme/plant/a".into(),
            lanes: Vec::new(),
            ledger: Arc::default(),
            blocked: Mutex::default(),
            known_end: Default::default(),
            must_repeat: Default::default(),
            pace: Default::default(),
            from_kafka: tokio::sync::watch::Sender::new(None),
            is_shared: Default::default(),
            reads_again: Default::default(),
            term: Default::default(),
            save: Box::new(|| Ok(())),
        };
        let mut source = Source { source_logs: Arc::new(source_logs), pending: BTreeMap::new(), right: Right::All };
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
